package console

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

const (
	// slot is the grain of what the page Now draws, and slots how many of
	// them it remembers: a quarter of an hour.
	slot  = 15 * time.Second
	slots = 60
	// maxCodes bounds how many reasons are told apart in one slot; they are
	// our own words, and few.
	maxCodes = 64
	// otherCodes stands for those beyond.
	otherCodes = "others"
	// octave is how many classes of duration lie between one and its double:
	// what is shown is at most a fifth too high.
	octave  = 4
	classes = 28 * octave // up to four minutes, from a microsecond
)

// Watch counts what the gate did in the last quarter of an hour, for the page
// Now. It implements [gate.Observer], keeps no word that an agent chose, and
// is of this process alone. Safe for concurrent use.
type Watch struct {
	clock func() time.Time

	mu   sync.Mutex
	ring [slots]tally
	seen uint64 // exchanges that are in the log, since the start
}

// tally is one slot.
type tally struct {
	start     time.Time
	permitted int
	refused   int
	held      int
	failed    int // permitted, and then withheld, failed or unknown
	strangers int
	own, far  [classes]uint32 // by duration: here, and at the server
	codes     map[string]int  // of refusals
}

// NewWatch returns a Watch that has seen nothing.
func NewWatch(clock func() time.Time) *Watch { return &Watch{clock: clock} }

// Ended implements [gate.Observer].
func (w *Watch) Ended(e *gate.Ending) {
	if e.Call != nil && e.Call.Credentials.Self != nil {
		return // the gateway reads what servers offer
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.at(e.At)
	if e.Subject == nil || e.Subject.IsZero() {
		t.strangers++
		return
	}
	w.seen++
	switch e.Disposition {
	case ostiary.Delivered:
		t.permitted++
	case ostiary.Held:
		t.held++
	case ostiary.Refused:
		t.refused++
		why := ostiary.Refused.String()
		if e.Err != nil {
			why = cmp.Or(ostiary.AsError(e.Err).Code, ostiary.KindOf(e.Err).String())
		}
		if t.codes == nil {
			t.codes = map[string]int{}
		}
		if _, ok := t.codes[why]; !ok && len(t.codes) >= maxCodes {
			why = otherCodes
		}
		t.codes[why]++
	default:
		t.permitted++
		t.failed++
	}
	began, sent, settled := e.Began[gate.StepAuthenticate], e.Began[gate.StepForward], e.Began[gate.StepSettle]
	if began.IsZero() || settled.IsZero() {
		return
	}
	own := e.At.Sub(began)
	if !sent.IsZero() {
		far := settled.Sub(sent)
		own -= far
		t.far[class(far)]++
	}
	t.own[class(own)]++
}

// at is the slot of a time; w.mu must be held.
func (w *Watch) at(now time.Time) *tally {
	start := now.Truncate(slot)
	t := &w.ring[(start.Unix()/int64(slot/time.Second))%slots]
	if !t.start.Equal(start) {
		*t = tally{start: start}
	}
	return t
}

// class is the class of a duration: those of a microsecond and less are the
// first.
func class(d time.Duration) int {
	us := float64(d) / float64(time.Microsecond)
	if us <= 1 {
		return 0
	}
	return min(int(math.Ceil(math.Log2(us)*octave)), classes-1)
}

// top is the longest duration of a class.
func top(c int) time.Duration {
	return time.Duration(math.Exp2(float64(c)/octave) * float64(time.Microsecond))
}

// Seen is how many exchanges were recorded since the start.
func (w *Watch) Seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// numbers is what a Watch shows: sums over the whole window, and a series
// with a value for each slot, the oldest first.
type numbers struct {
	At, Since                          time.Time
	Permitted, Refused, Held, Failed   int
	Strangers                          int
	PermittedBy, RefusedBy, FailedBy   []int
	Own50, Own95, Far50, Far95         time.Duration // 0: nothing was measured
	OwnBy                              []int         // 95th percentile in microseconds
	Codes                              []codeCount   // most frequent first
	Seen                               uint64
	Measured, MeasuredFar, AllInWindow int
}

type codeCount struct {
	Code  string
	Count int
}

func (w *Watch) numbers() numbers {
	now := w.clock()
	w.mu.Lock()
	defer w.mu.Unlock()
	first := now.Truncate(slot).Add(-(slots - 1) * slot)
	n := numbers{At: now, Since: first, Seen: w.seen}
	var own, far [classes]uint32
	codes := map[string]int{}
	for i := range slots {
		start := first.Add(time.Duration(i) * slot)
		t := w.ring[(start.Unix()/int64(slot/time.Second))%slots]
		if !t.start.Equal(start) {
			t = tally{}
		}
		n.Permitted, n.Refused, n.Held, n.Failed, n.Strangers = n.Permitted+t.permitted, n.Refused+t.refused, n.Held+t.held, n.Failed+t.failed, n.Strangers+t.strangers
		n.PermittedBy, n.RefusedBy, n.FailedBy = append(n.PermittedBy, t.permitted), append(n.RefusedBy, t.refused), append(n.FailedBy, t.failed+t.held)
		p95, _ := quantile(&t.own, 0.95)
		n.OwnBy = append(n.OwnBy, int(p95/time.Microsecond))
		for c := range classes {
			own[c] += t.own[c]
			far[c] += t.far[c]
		}
		for code, count := range t.codes {
			codes[code] += count
		}
	}
	n.Own50, n.Measured = quantile(&own, 0.5)
	n.Own95, _ = quantile(&own, 0.95)
	n.Far50, n.MeasuredFar = quantile(&far, 0.5)
	n.Far95, _ = quantile(&far, 0.95)
	n.AllInWindow = n.Permitted + n.Refused + n.Held
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		n.Codes = append(n.Codes, codeCount{code, codes[code]})
	}
	slices.SortStableFunc(n.Codes, func(a, b codeCount) int { return b.Count - a.Count })
	return n
}

// quantile is the duration that a share of what was measured did not exceed,
// and how much was measured.
func quantile(by *[classes]uint32, share float64) (time.Duration, int) {
	all := 0
	for _, n := range by {
		all += int(n)
	}
	rest := int(math.Ceil(share * float64(all)))
	for c, n := range by {
		if rest -= int(n); n > 0 && rest <= 0 {
			return top(c), all
		}
	}
	return 0, all
}
