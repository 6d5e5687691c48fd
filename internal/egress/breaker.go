package egress

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Breaker says when a server that fails is left alone for a while, so that
// calls which cannot succeed are refused at once and before anything is sent.
// Zero fields take their defaults.
type Breaker struct {
	Failures int           // this many calls in a row failed: 5
	Window   int           // or half of this many: 20
	Slow     time.Duration // a call without any answer for this long has failed: 30s
	OpenFor  time.Duration // how long it is left alone before one call tries it: 10s
}

func (b Breaker) withDefaults() Breaker {
	for p, v := range map[*int]int{&b.Failures: 5, &b.Window: 20} {
		if *p == 0 {
			*p = v
		}
	}
	for p, v := range map[*time.Duration]time.Duration{&b.Slow: 30 * time.Second, &b.OpenFor: 10 * time.Second} {
		if *p == 0 {
			*p = v
		}
	}
	return b
}

// breakerState is what a breaker does with the next call.
type breakerState uint8

const (
	breakerClosed   breakerState = iota // lets it through
	breakerOpen                         // refuses it
	breakerHalfOpen                     // lets one through, to see
)

var breakerNames = [...]string{"closed", "open", "half-open"}

// breaker watches the calls of one server. It is a function of what it is
// told and of the clock it was given: it starts no timer and no goroutine.
type breaker struct {
	Breaker
	clock func() time.Time

	mu      sync.Mutex // guards what follows
	state   breakerState
	until   time.Time // of an open one: when it may be tried again
	why     string
	probe   *attempt // of a half-open one: the call that tries
	era     uint64   // rises with the state; calls of an earlier one count no more
	row     int      // failures since the last success
	results []bool   // the last calls, a ring: true failed
	next    int      // where the next result goes
	failed  int      // how many of results are true
	oldest  *attempt // calls without an answer, a list
	newest  *attempt
}

func newBreaker(b Breaker, clock func() time.Time) *breaker {
	return &breaker{Breaker: b.withDefaults(), clock: clock}
}

// attempt is one call that was let through.
type attempt struct {
	b     *breaker
	began time.Time
	era   uint64

	over         bool // judged, or left; guarded by b.mu, as are the links
	waiting      bool // in the list of calls without an answer
	older, newer *attempt
}

// admit lets a call through or refuses it. Nothing has been sent then.
func (b *breaker) admit() (*attempt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	b.overdue(now)
	if b.state == breakerOpen && !now.Before(b.until) {
		b.state = breakerHalfOpen
	}
	switch {
	case b.state == breakerOpen:
		return nil, notSent(ostiary.Errorf(ostiary.Unavailable, "breaker_open", "the server is left alone, because %s; try again in %v", b.why, b.until.Sub(now).Round(time.Millisecond)))
	case b.state == breakerHalfOpen && b.probe != nil:
		return nil, notSent(ostiary.Errorf(ostiary.Unavailable, "breaker_open", "the server was left alone, because %s; one call is trying it now, try again in a moment", b.why))
	}
	a := &attempt{b: b, began: now, era: b.era}
	if b.state == breakerHalfOpen {
		b.probe = a
	}
	b.wait(a)
	return a, nil
}

// overdue fails calls that have waited too long for any answer, also while
// nobody has given up on them. The caller holds b.mu.
func (b *breaker) overdue(now time.Time) {
	for a := b.oldest; a != nil && now.Sub(a.began) >= b.Slow; a = b.oldest {
		b.judge(a, now, "it did not answer in time")
	}
}

// judge counts a call, once: why it failed, or "" if it did not. The caller
// holds b.mu.
func (b *breaker) judge(a *attempt, now time.Time, why string) {
	if a.over {
		return
	}
	a.over = true
	b.answered(a)
	switch {
	case a.era != b.era:
	case b.state == breakerHalfOpen && why == "":
		b.turn(breakerClosed)
	case b.state == breakerHalfOpen:
		b.open(now, why)
	default:
		b.count(why != "")
		if b.row >= b.Failures || len(b.results) == b.Window && 2*b.failed >= b.Window {
			b.open(now, why)
		}
	}
}

// count puts one result into the ring. The caller holds b.mu.
func (b *breaker) count(failed bool) {
	if b.row++; !failed {
		b.row = 0
	}
	if len(b.results) < b.Window {
		b.results = append(b.results, failed)
	} else {
		if b.results[b.next] {
			b.failed--
		}
		b.results[b.next] = failed
		b.next = (b.next + 1) % b.Window
	}
	if failed {
		b.failed++
	}
}

func (b *breaker) open(now time.Time, why string) {
	b.turn(breakerOpen)
	b.until, b.why = now.Add(b.OpenFor), why
}

// turn begins another state with nothing counted. The caller holds b.mu.
func (b *breaker) turn(s breakerState) {
	b.state, b.probe, b.row, b.next, b.failed, b.results = s, nil, 0, 0, 0, b.results[:0]
	b.era++
}

// wait and answered keep the list of calls without an answer, oldest first.
func (b *breaker) wait(a *attempt) {
	a.waiting, a.older = true, b.newest
	if b.newest != nil {
		b.newest.newer = a
	} else {
		b.oldest = a
	}
	b.newest = a
}

func (b *breaker) answered(a *attempt) {
	if !a.waiting {
		return
	}
	a.waiting = false
	if a.older != nil {
		a.older.newer = a.newer
	} else {
		b.oldest = a.newer
	}
	if a.newer != nil {
		a.newer.older = a.older
	} else {
		b.newest = a.older
	}
	a.older, a.newer = nil, nil
}

// saw tells of one step of a reply. An error frame is an answer like any
// other: the server is well enough to give it.
func (a *attempt) saw(ctx context.Context, f gate.Frame, err error) {
	switch {
	case err == io.EOF:
	case err != nil && ctx.Err() == nil && blamed(err):
		a.ended("its last call failed: " + ostiary.AsError(err).Detail)
	case err != nil:
		a.left()
	case f.Kind.Final():
		a.ended("")
	default:
		a.b.mu.Lock()
		defer a.b.mu.Unlock()
		a.b.overdue(a.b.clock())
		a.b.answered(a)
	}
}

// ended judges a call by its end.
func (a *attempt) ended(why string) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	now := a.b.clock()
	a.b.overdue(now) // it may have been too slow itself
	a.b.judge(a, now, why)
}

// left forgets a call that nobody waits for any more: that is not the server's
// fault, and nobody may shut it to others by hanging up.
func (a *attempt) left() {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.over = true
	a.b.answered(a)
	if a.b.probe == a {
		a.b.probe = nil // the next call tries
	}
}

// blamed reports whether an error is the server's: not the caller's, not
// ours, and not the pause before a process is started again.
func blamed(err error) bool {
	e := ostiary.AsError(err)
	return e.Kind == ostiary.Upstream && e.Code != "server_restarting" && e.Code != "server_quarantined" &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, errClosing)
}

// standing returns the state now, and for an open one why and until when.
func (b *breaker) standing() (state, why string, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.overdue(b.clock())
	if b.state == breakerClosed {
		return breakerNames[b.state], "", time.Time{}
	}
	return breakerNames[b.state], b.why, b.until
}
