package ledger_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/proof"
)

// refusal is a lone Outcome: nothing was about to happen.
func refusal(agent string, size int) *ostiary.Entry {
	e := outcome(ostiary.Receipt{})
	e.Agent, e.Disposition, e.Code = ostiary.AgentID("spiffe://test/agent/"+agent), ostiary.Refused, "forbid"
	e.Payload.Detail = make([]byte, size)
	return e
}

// M02: refusals may use the reserve of a full disk, but not what is kept for
// the Outcomes of Intents that were let through.
func TestM02RefusalsLeaveOutcomesTheirRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, _ := memoryWorld()
		l := w.open(t)
		fs.SetCapacity(fs.Used())
		var open []ostiary.Receipt
		for i := range 8 {
			r, err := l.Append(t.Context(), intent("a", i))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, r)
		}
		refused := 0
		for ; ; refused++ {
			if _, err := l.Append(t.Context(), refusal("b", 1<<10)); err != nil {
				wantKind(t, "M02 a refusal without room", err, ostiary.Unavailable, "ledger_full")
				break
			}
		}
		if refused < 100 {
			t.Errorf("only %d refusals were recorded; there was room for more", refused)
		}
		settleAll(t, l, open)
		fs.SetCapacity(0) // tiles need room too
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{}); err != nil {
			t.Error(err)
		}
	})
}

// settleAll records the largest Outcome that room is kept for, for each.
func settleAll(t *testing.T, l *ledger.Log, open []ostiary.Receipt) {
	t.Helper()
	for i, r := range open {
		if _, err := l.Append(t.Context(), largest(r)); err != nil {
			t.Fatalf("M02 Outcome %d of %d that were owed found no room: %v", i+1, len(open), err)
		}
	}
}

// largest is an Outcome that fills the room kept for it.
func largest(r ostiary.Receipt) *ostiary.Entry {
	o := outcome(r)
	o.Payload.Detail = make([]byte, ledger.OutcomeRoom-2<<10)
	return o
}

// Whatever is written in whatever order and sizes while the disk fills, heals
// and fills again: each Intent that was let through finds room for its
// Outcome, also for one as large as the room that is kept.
func TestEveryIntentKeepsRoomForItsOutcome(t *testing.T) {
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) { fillAtRandom(t, seed) })
	}
}

func fillAtRandom(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w, fs, _ := memoryWorld()
	w.SegmentSize = ledger.MinSegment << rnd.IntN(3)
	w.Reserve = ledger.MinSegment << rnd.IntN(3)
	l := w.open(t)
	var open []ostiary.Receipt
	for range 60 + rnd.IntN(60) {
		switch rnd.IntN(8) {
		case 0:
			fs.SetCapacity(fs.Used() + rnd.Int64N(2*w.SegmentSize))
		case 1:
			fs.SetCapacity(fs.Used() + 3*w.SegmentSize + rnd.Int64N(4*w.SegmentSize))
		}
		if rnd.IntN(4) == 0 {
			time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		}
		asked := askAtRandom(rnd, &open)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, e := range asked {
			wg.Go(func() {
				r, err := l.Append(t.Context(), e)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil && !e.Answers.IsZero():
					t.Errorf("seed %d: an Outcome that was owed found no room: %v", seed, err)
				case err != nil:
					wantKind(t, "what found no room", err, ostiary.Unavailable, "ledger_full")
				case e.Kind == ostiary.KindIntent:
					open = append(open, r)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			break
		}
	}
	settleAll(t, l, open)
	fs.SetCapacity(0) // tiles need room too
	if err := l.Close(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if _, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{}); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// askAtRandom is what many callers ask for at once, so that batches mix. The
// Intents it answers leave open.
func askAtRandom(rnd *rand.Rand, open *[]ostiary.Receipt) (asked []*ostiary.Entry) {
	answers := rnd.IntN(10)
	for i := range 1 + rnd.IntN(40) {
		size := 1 << rnd.IntN(15)
		if n := len(*open); n > 0 && rnd.IntN(10) < answers {
			k := rnd.IntN(n)
			e := largest((*open)[k])
			e.Payload.Detail = e.Payload.Detail[:1+rnd.IntN(len(e.Payload.Detail))]
			(*open)[k] = (*open)[n-1]
			*open = (*open)[:n-1]
			asked = append(asked, e)
			continue
		}
		e := intent("a", i)
		switch {
		case rnd.IntN(3) == 0:
			e = refusal("b", size)
		case rnd.IntN(20) == 0:
			e.Payload.Inputs = make([]byte, 200<<10)
		default:
			e.Payload.Inputs = make([]byte, size)
		}
		asked = append(asked, e)
	}
	return asked
}
