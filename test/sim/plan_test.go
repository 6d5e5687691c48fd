package sim

import (
	"math/rand/v2"
	"time"

	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
)

// plan is what a seed decides before anything happens.
type plan struct {
	shift   time.Duration // of the gateway's clock at start
	endings []ending      // of processes; after them comes one that ends in order
	windows []window
	seed    uint64 // of the agents', the operator's and the servers' own choices
}

// ending is how a process ends. The zero ending is an orderly one.
type ending struct {
	after   time.Duration   // its time, if positive
	receipt int             // or right after the tool servers received this many calls in all
	op      int             // or from this operation on its disk on, which fails
	mode    ledgertest.Mode // in this way,
	off     bool            // and so do all that follow
	power   bool            // what was not flushed is lost, too
	seed    uint64          // which part of it
}

// window is a time in which one dependency fails in one way.
type window struct {
	dependency, how string
	from, to        time.Duration
}

// faults are the dependencies with the ways they can fail.
var faults = map[string][]string{
	"identity":    {"error", "panic", "garbage", "hang"},
	"registry":    {"error", "panic", "garbage"},
	"containment": {"error", "panic", "garbage"},
	"catalog":     {"error", "panic"},
	"schemas":     {"error", "panic"},
	"policy":      {"error", "panic", "garbage"},
	"sessions":    {"error", "panic", "garbage"},
	"taint":       {"error", "panic", "done"},
	"intent":      {"error", "panic", "done", "garbage"},
	"outcome":     {"error", "panic", "done", "garbage"},
	"pins":        {"error", "done"},
	"snapshots":   {"error", "done"},
	"anchors":     {"error", "done"},
	"egress":      {"error", "panic", "garbage", "refuse"},
}

var dependencyNames = []string{"identity", "registry", "containment", "catalog", "schemas", "policy", "sessions", "taint", "intent", "outcome", "pins", "snapshots", "anchors", "egress"}

// wholeTime is about how long a world lives.
const wholeTime = 25 * time.Second

func newPlan(rng *rand.Rand) plan {
	p := plan{seed: rng.Uint64()}
	switch rng.IntN(4) {
	case 0: // the month turns while it lives; the world begins with 2000
		p.shift = 31*24*time.Hour - time.Duration(rng.Int64N(int64(wholeTime)))
	case 1:
		p.shift = time.Duration(rng.Int64N(int64(1000 * time.Hour)))
	}
	for range rng.IntN(4) {
		e := ending{power: rng.IntN(2) == 0, seed: rng.Uint64()}
		switch rng.IntN(4) {
		case 0:
			e.after = odd(rng, wholeTime/2)
		case 1:
			e.receipt = 1 + rng.IntN(20)
		default:
			e.op, e.mode, e.off = 1+rng.IntN(120), ledgertest.Mode(rng.IntN(3)), rng.IntN(2) == 0
			if rng.IntN(4) == 0 { // while it starts
				e.op = 1 + rng.IntN(12)
			}
		}
		p.endings = append(p.endings, e)
	}
	for range rng.IntN(5) {
		d := dependencyNames[rng.IntN(len(dependencyNames))]
		from := odd(rng, wholeTime)
		p.windows = append(p.windows, window{d, faults[d][rng.IntN(len(faults[d]))], from, from + odd(rng, 6*time.Second)})
	}
	return p
}

// odd returns a time that nobody else has: to the nanosecond.
func odd(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(1 + rng.Int64N(int64(most)))
}

// fault says how a dependency fails just now, "" if it does not.
func (w *world) fault(dependency string) string {
	now := time.Since(w.began)
	for _, x := range w.plan.windows {
		if x.dependency == dependency && now >= x.from && now < x.to {
			return x.how
		}
	}
	return ""
}
