package gate_test

import (
	"context"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// watcher keeps what it is told, and may panic.
type watcher struct {
	told  []gate.Ending
	panic bool
}

func (w *watcher) Ended(e *gate.Ending) {
	w.told = append(w.told, *e)
	if w.panic {
		panic("injected")
	}
}

// steps returns the names of those that were entered, in order of time.
func steps(t *testing.T, e *gate.Ending) string {
	t.Helper()
	var names []string
	last := e.Began[gate.StepAuthenticate]
	for i := 1; i < gate.Steps; i++ {
		if at := e.Began[i]; !at.IsZero() {
			if at.Before(last) {
				t.Errorf("%s began before the step before it", gate.Step(i))
			}
			last = at
			names = append(names, gate.Step(i).String())
		}
	}
	if e.At.Before(last) {
		t.Error("it ended before its last step began")
	}
	return strings.Join(names, " ")
}

const allSteps = "authenticate resolve validate decide record bind forward inspect settle"

// TestObserverSeesEachExchangeOnce: whatever fails, and whatever the observer
// does, there is one ending for each exchange, and the call does not notice.
func TestObserverSeesEachExchangeOnce(t *testing.T) {
	for _, tc := range []struct{ fail, how, steps, disposition string }{
		{"", "", allSteps, "delivered"},
		{"authenticate", "error", "authenticate", "refused"},
		{"resolve", "error", "authenticate resolve settle", "refused"},
		{"validate", "panic", "authenticate resolve validate settle", "refused"},
		{"decide", "error", "authenticate resolve validate decide record bind settle", "refused"},
		{"append intent", "error", "authenticate resolve validate decide record settle", "refused"},
		{"forward", "error", "authenticate resolve validate decide record bind forward settle", "failed"},
		{"forward", "done", "authenticate resolve validate decide record bind forward settle", "unknown"},
		{"next", "error", allSteps, "unknown"},
		{"taint", "error", allSteps, "withheld"},
		{"append outcome", "error", allSteps, "delivered"},
	} {
		for _, breaks := range []bool{false, true} {
			t.Run(tc.fail+"/"+tc.how, func(t *testing.T) {
				w, o := newWorld(), &watcher{panic: breaks}
				w.failAt, w.how = tc.fail, tc.how
				g := w.gate(func(opt *gate.Options) { opt.Observer = o })
				r, err := g.Handle(context.Background(), call())
				if err == nil {
					_, err = read(r)
					r.Close()
				}
				if (err == nil) != (tc.fail == "") {
					t.Fatalf("the call ended with %v", err)
				}
				if err := g.Drain(t.Context()); err != nil || len(o.told) != 1 {
					t.Fatalf("told of %d exchanges, drained: %v", len(o.told), err)
				}
				e := &o.told[0]
				if got := steps(t, e); got != tc.steps {
					t.Errorf("steps\n got %s\nwant %s", got, tc.steps)
				}
				if got := e.Disposition.String(); got != tc.disposition {
					t.Errorf("disposition %s, want %s", got, tc.disposition)
				}
				if lost := tc.fail == "append outcome"; e.Lost != lost || (e.Err == nil) != (lost || tc.fail == "") {
					t.Errorf("lost %v, error %v", e.Lost, e.Err)
				}
				if stranger := tc.fail == "authenticate"; e.Subject.IsZero() != stranger || stranger != e.Entry.IsZero() {
					t.Errorf("subject %q, entry %s", e.Subject.Agent, e.Entry)
				}
			})
		}
	}
}

// TestObserverSeesWhoLeft: an exchange that its caller left is told of too.
func TestObserverSeesWhoLeft(t *testing.T) {
	w, o := newWorld(), &watcher{}
	r, err := w.gate(func(opt *gate.Options) { opt.Observer = o }).Handle(context.Background(), call())
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
	if len(o.told) != 1 || o.told[0].Disposition != ostiary.Unknown || ostiary.AsError(o.told[0].Err).Code != "abandoned" {
		t.Errorf("told %+v", o.told)
	}
}

func TestStepNames(t *testing.T) {
	var all []string
	for i := 1; i < gate.Steps; i++ {
		all = append(all, gate.Step(i).String())
	}
	if got := strings.Join(all, " "); got != allSteps || gate.Step(99).String() != "step99" {
		t.Errorf("steps are %s", got)
	}
}
