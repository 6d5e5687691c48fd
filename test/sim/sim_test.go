// Package sim runs the core of the gateway against a world that one seed
// decides: the real gate, ledger, catalog, policy engine and sessions over a
// disk that forgets, tears and fails, a store whose answers get lost, tool
// servers that refuse, hang and answer twice, agents, and an operator who
// publishes, accepts and revokes, while power and processes end at any
// moment. Afterwards checkers, numbered like the laws of the design, look at
// what everybody saw and at the log.
//
// Everything runs under testing/synctest: its clock is the world's, and who
// acts when is a matter of the seed. Two who act in the same nanosecond may
// do so in either order; the plan gives each a nanosecond of their own.
//
// What a checker missed does not hold: the model that says what may be
// delivered is a few lines of this package, written against the design and
// not against the code.
package sim

import (
	"flag"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var oneSeed = flag.Uint64("seed", 0, "run this seed alone, and tell its story")

// TestSeed runs many worlds, or the one that -seed names. It stops at the first
// that breaks a law.
func TestSeed(t *testing.T) {
	if *oneSeed != 0 {
		var total sum
		run(t, *oneSeed, &total)
		t.Log(total.String())
		return
	}
	c := newCampaign(t)
	c.run(t)
	t.Log(c.total.String())
	if !t.Failed() {
		c.total.enough(t, c.tried())
	}
}

// run builds one world, lets it happen, and checks it. It reports whether every
// law held.
func run(t *testing.T, seed uint64, total *sum) (held bool) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed)
		w.live()
		w.check()
		held = len(w.problems) == 0
		total.add(w)
		for i, p := range w.problems {
			if i == 10 {
				t.Errorf("seed %d: and %d more", seed, len(w.problems)-i)
				break
			}
			t.Errorf("seed %d: %s", seed, p)
		}
		if len(w.problems) > 0 {
			t.Errorf("seed %d: see it again with: go test ./test/sim -run TestSeed -seed %d", seed, seed)
		}
		if *oneSeed != 0 {
			for _, line := range w.story {
				t.Log(line)
			}
		}
	})
	return held
}

// sum counts what happened over all worlds, so that a simulator in which
// nothing happens fails.
type sum struct {
	calls, sent, delivered, refused, crashes, recovered, unknown, replayed, proven, revoked, published, changed, contained atomic.Int64
}

func (s *sum) add(w *world) {
	for _, x := range []struct {
		to *atomic.Int64
		n  int
	}{
		{&s.calls, w.n.calls}, {&s.sent, len(w.up.received)}, {&s.delivered, w.n.delivered}, {&s.refused, w.n.refused}, {&s.crashes, w.n.crashes},
		{&s.recovered, w.n.recovered}, {&s.unknown, w.n.unknown}, {&s.replayed, w.n.replayed}, {&s.proven, w.n.proven},
		{&s.revoked, len(w.revoked)}, {&s.published, w.n.published}, {&s.changed, w.n.changed}, {&s.contained, w.n.contained},
	} {
		x.to.Add(int64(x.n))
	}
}

func (s *sum) String() string {
	return fmt.Sprintf("%d calls: %d sent, %d delivered, %d refused or failed; %d crashes, %d recoveries, %d Unknown; %d decisions replayed, %d receipts proven; %d revocations, %d snapshots, %d changed definitions, %d containments",
		s.calls.Load(), s.sent.Load(), s.delivered.Load(), s.refused.Load(), s.crashes.Load(), s.recovered.Load(), s.unknown.Load(),
		s.replayed.Load(), s.proven.Load(), s.revoked.Load(), s.published.Load(), s.changed.Load(), s.contained.Load())
}

// enough fails if n worlds were too quiet to mean anything.
func (s *sum) enough(t *testing.T, n uint64) {
	for name, x := range map[string]*atomic.Int64{"sent": &s.sent, "delivered": &s.delivered, "refused": &s.refused, "crashes": &s.crashes, "recoveries": &s.recovered, "Unknown": &s.unknown,
		"replayed": &s.replayed, "proven": &s.proven, "revocations": &s.revoked, "snapshots": &s.published, "changed": &s.changed, "containments": &s.contained} {
		if n >= 50 && x.Load() < int64(n)/10 {
			t.Errorf("%d worlds, and %s only %d times", n, name, x.Load())
		}
	}
}
