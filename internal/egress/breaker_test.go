package egress

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// tried is a breaker with a clock that the test moves.
type tried struct {
	*breaker
	t   *testing.T
	now time.Time
}

func newTried(t *testing.T, b Breaker) *tried {
	x := &tried{t: t, now: time.Unix(1e9, 0)}
	x.breaker = newBreaker(b, func() time.Time { return x.now })
	return x
}

var errFar = ostiary.Errorf(ostiary.Upstream, "status", "the server answered HTTP 500")

// call lets a call through and ends it: with an error, or well.
func (x *tried) call(err error) {
	x.t.Helper()
	a, refused := x.admit()
	if refused != nil {
		x.t.Fatal("refused:", refused)
	}
	a.saw(context.Background(), gate.Frame{Kind: gate.FrameResult}, err)
}

func (x *tried) is(state string) {
	x.t.Helper()
	if got, why, until := x.standing(); got != state || (state == "closed") != (why == "" && until.IsZero()) {
		x.t.Fatalf("it is %s (%q, %v), want %s", got, why, until, state)
	}
}

// refuses checks a refusal: certain that nothing was sent, and when to come.
func (x *tried) refuses(says string) {
	x.t.Helper()
	_, err := x.admit()
	e := ostiary.AsError(err)
	if err == nil || e.Kind != ostiary.Unavailable || e.Code != "breaker_open" || !errors.Is(err, gate.ErrNotSent) || !strings.Contains(e.Detail, says) {
		x.t.Fatalf("got %v, want %q", err, says)
	}
}

func TestBreaker(t *testing.T) {
	t.Run("failures in a row open it, one success begins anew", func(t *testing.T) {
		x := newTried(t, Breaker{})
		for range 4 {
			x.call(errFar)
		}
		x.call(nil)
		for range 4 {
			x.call(errFar)
		}
		x.is("closed")
		x.call(errFar)
		x.is("open")
		x.refuses("because its last call failed: the server answered HTTP 500; try again in 10s")
		x.now = x.now.Add(9 * time.Second)
		x.refuses("try again in 1s")
	})
	t.Run("half of a window opens it", func(t *testing.T) {
		x := newTried(t, Breaker{Window: 6})
		for range 3 {
			x.call(nil)
		}
		x.call(errFar)
		x.call(errFar)
		x.is("closed")
		x.call(nil)
		x.is("closed") // two of six
		x.call(errFar) // of the last six three
		x.is("open")
	})
	t.Run("what is long ago does not count", func(t *testing.T) {
		x := newTried(t, Breaker{Window: 6})
		for range 100 {
			x.call(errFar)
			x.call(errFar)
			for range 4 {
				x.call(nil)
			}
		}
		x.is("closed")
	})
	t.Run("one call tries it", func(t *testing.T) {
		x := newTried(t, Breaker{Failures: 1})
		x.call(errFar)
		x.now = x.now.Add(10 * time.Second)
		probe, err := x.admit()
		if err != nil {
			t.Fatal(err)
		}
		x.is("half-open")
		x.refuses("one call is trying it now")
		probe.saw(context.Background(), gate.Frame{}, errFar)
		x.is("open")
		x.refuses("try again in 10s")
		x.now = x.now.Add(10 * time.Second)
		x.call(nil)
		x.is("closed")
		x.call(nil)
	})
	t.Run("who tries it and leaves gives the place to another", func(t *testing.T) {
		x := newTried(t, Breaker{Failures: 1})
		x.call(errFar)
		x.now = x.now.Add(10 * time.Second)
		probe, err := x.admit()
		if err != nil {
			t.Fatal(err)
		}
		probe.left()
		x.call(nil)
		x.is("closed")
	})
	t.Run("calls of before say nothing of after", func(t *testing.T) {
		x := newTried(t, Breaker{Failures: 1})
		early, _ := x.admit()
		late, _ := x.admit()
		x.call(errFar)
		early.saw(context.Background(), gate.Frame{Kind: gate.FrameResult}, nil)
		x.is("open")
		x.now = x.now.Add(10 * time.Second)
		x.call(nil)
		late.saw(context.Background(), gate.Frame{}, errFar)
		x.is("closed")
	})
	t.Run("R06 calls that hang open it while they hang", func(t *testing.T) {
		x := newTried(t, Breaker{})
		var hanging []*attempt
		for range 5 {
			a, err := x.admit()
			if err != nil {
				t.Fatal(err)
			}
			hanging = append(hanging, a)
			x.now = x.now.Add(time.Second)
		}
		x.now = x.now.Add(28 * time.Second)
		x.is("closed") // four are too slow
		x.now = x.now.Add(time.Second)
		x.refuses("because it did not answer in time; try again in 10s")
		x.now = x.now.Add(10 * time.Second)
		probe, err := x.admit()
		if err != nil {
			t.Fatal(err)
		}
		x.now = x.now.Add(30 * time.Second)
		x.refuses("did not answer in time") // the probe hangs like the others
		for _, a := range append(hanging, probe) {
			a.saw(context.Background(), gate.Frame{Kind: gate.FrameResult}, nil)
		}
		x.is("open")
		if x.oldest != nil || x.newest != nil {
			t.Error("calls that ended are still waited for")
		}
	})
	t.Run("what has answered may take its time", func(t *testing.T) {
		x := newTried(t, Breaker{Failures: 1})
		a, _ := x.admit()
		x.now = x.now.Add(29 * time.Second)
		a.saw(context.Background(), gate.Frame{Kind: gate.FrameNotification}, nil)
		x.now = x.now.Add(time.Hour)
		x.is("closed")
		a.saw(context.Background(), gate.Frame{Kind: gate.FrameResult}, nil)
		x.is("closed")
	})
	t.Run("whose fault it is not", func(t *testing.T) {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		x := newTried(t, Breaker{Failures: 1, Window: 2})
		for _, err := range []error{
			ostiary.Errorf(ostiary.Malformed, "newline_in_arguments", "x"), ostiary.Errorf(ostiary.Unavailable, "closing", "x"),
			ostiary.Errorf(ostiary.Upstream, "server_restarting", "x"), ostiary.Errorf(ostiary.Upstream, "lost", "x").Because(errClosing),
			ostiary.Errorf(ostiary.Upstream, "lost", "x").Because(context.Canceled), notSent(ostiary.Errorf(ostiary.Internal, "x", "x")),
		} {
			x.call(err)
			x.is("closed")
		}
		a, _ := x.admit()
		a.saw(gone, gate.Frame{}, errFar) // the caller had left
		a, _ = x.admit()
		a.left()
		a, _ = x.admit()
		a.saw(context.Background(), gate.Frame{Kind: gate.FrameError}, nil) // an error of the tool is an answer
		x.is("closed")
	})
}

// Whatever happens, what is counted adds up, and an open breaker is tried
// again in the end.
func TestBreakerAddsUp(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		x := newTried(t, Breaker{Failures: 1 + r.IntN(5), Window: 2 + r.IntN(8), Slow: time.Second, OpenFor: time.Second})
		var open []*attempt
		for range 300 {
			x.now = x.now.Add(time.Duration(r.IntN(400)) * time.Millisecond)
			if a, err := x.admit(); err == nil {
				open = append(open, a)
			} else if x.state == breakerClosed {
				t.Fatalf("seed %d: a closed one refuses", seed)
			}
			if len(open) == 0 || r.IntN(3) == 0 {
				continue
			}
			i := r.IntN(len(open))
			a := open[i]
			switch r.IntN(4) {
			case 0:
				a.saw(context.Background(), gate.Frame{}, errFar)
			case 1:
				a.saw(context.Background(), gate.Frame{Kind: gate.FrameNotification}, nil)
				continue
			case 2:
				a.left()
			default:
				a.saw(context.Background(), gate.Frame{Kind: gate.FrameResult}, nil)
			}
			open = append(open[:i], open[i+1:]...)
		}
		failed := 0
		for _, f := range x.results {
			if f {
				failed++
			}
		}
		if failed != x.failed || len(x.results) > x.Window {
			t.Fatalf("seed %d: %d of %d failed, it says %d", seed, failed, len(x.results), x.failed)
		}
		for _, a := range open {
			a.left()
		}
		if x.oldest != nil || x.newest != nil {
			t.Fatalf("seed %d: somebody is waited for", seed)
		}
		x.now = x.now.Add(time.Second)
		x.call(nil)
		if x.state == breakerHalfOpen {
			t.Fatalf("seed %d: a success leaves it half open", seed)
		}
	}
}

// The whole way: nothing is sent while it is open, and other servers go on.
func TestBreakerLeavesAlone(t *testing.T) {
	ill := newRecorder(t, nil)
	ill.Close() // nobody listens there any more
	well := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	now := time.Unix(1e9, 0)
	e := newEgress(t, Options{Clock: func() time.Time { return now }, Servers: []Server{
		{Name: "ill", URL: ill.URL, AllowPrivate: []string{"127.0.0.1/32"}, Breaker: Breaker{Failures: 2}},
		{Name: "well", URL: well.URL, AllowPrivate: []string{"127.0.0.1/32"}},
	}})
	codes := ""
	for range 4 {
		_, err := result(t, e, toolCall(t, "ill", "x", "{}"))
		codes += ostiary.AsError(err).Code + " "
	}
	if codes != "unreachable unreachable breaker_open breaker_open " {
		t.Error(codes)
	}
	if _, err := result(t, e, toolCall(t, "well", "x", "{}")); err != nil {
		t.Error("the other server:", err)
	}
	if h := e.Health(); h[0].Breaker != "open" || h[0].Left == "" || !h[0].Until.Equal(now.Add(10*time.Second)) || h[1].Breaker != "closed" {
		t.Errorf("%+v", h)
	}
	now = now.Add(10 * time.Second)
	if _, err := result(t, e, toolCall(t, "ill", "x", "{}")); ostiary.AsError(err).Code != "unreachable" {
		t.Error("it is not tried again:", err)
	}
}
