package ledger_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/proof"
)

// story runs a log through everything that touches files: opening, appends
// over several segments, the second's work, the turn of a month, a change of
// key, closing. It returns what was acknowledged, and stops at the first refusal.
func story(w *world, month *atomic.Int64) (acked map[ostiary.EntryID]ostiary.Receipt, err error) {
	acked = map[ostiary.EntryID]ostiary.Receipt{}
	ctx := context.Background()
	l, err := ledger.Open(ctx, w.Options)
	if err != nil {
		return acked, err
	}
	add := func(e *ostiary.Entry) (ostiary.Receipt, error) {
		r, err := l.Append(ctx, e)
		if err == nil {
			acked[r.ID] = r
		}
		return r, err
	}
	run := func() error {
		for i := range 8 {
			e := intent("a", i)
			e.Payload.Inputs = make([]byte, 50<<10) // five entries fill a segment
			in, err := add(e)
			if err != nil {
				return err
			}
			if i == 3 {
				l.Count("10.0.0.1", "unauthenticated")
				time.Sleep(1500 * time.Millisecond) // counts, heartbeat, anchor, tiles
			}
			if i == 5 {
				month.Add(int64(2 * time.Minute))
				time.Sleep(1500 * time.Millisecond) // the month turns
			}
			if i == 6 {
				if err := l.Rotate(ctx, nextKey); err != nil {
					return err
				}
			}
			if _, err := add(outcome(in)); err != nil {
				return err
			}
		}
		_, err := add(intent("a", 99)) // left open
		return err
	}
	err = run()
	return acked, errors.Join(err, l.Close())
}

// nextKey is the one the story goes on with.
var nextKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))

func memoryWorld() (*world, *ledgertest.FS, *atomic.Int64) {
	w := newWorld("/log")
	fs := ledgertest.NewFS()
	month := new(atomic.Int64)
	month.Store(int64(31*24*time.Hour - time.Minute))
	w.FS, w.SegmentSize, w.Reserve = fs, ledger.MinSegment, ledger.MinSegment
	w.Clock = func() time.Time { return time.Now().Add(time.Duration(month.Load())) }
	return w, fs, month
}

// check reopens a log after whatever happened and looks for every
// acknowledged entry and an Outcome for every Intent.
func check(w *world, acked map[ostiary.EntryID]ostiary.Receipt) error {
	o := w.Options
	o.Signer, o.Older = nextKey, []crypto.Signer{w.Signer}
	l, err := ledger.Open(context.Background(), o)
	if err != nil {
		return fmt.Errorf("opening again: %w", err)
	}
	if err := l.Rotate(context.Background(), nextKey); err != nil {
		return errors.Join(fmt.Errorf("changing the key again: %w", err), l.Close())
	}
	have := map[ostiary.EntryID]ostiary.EntryRef{}
	open := map[ostiary.EntryID]bool{}
	err = l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
		have[r.Entry.ID] = r.Ref
		switch r.Entry.Kind {
		case ostiary.KindIntent:
			open[r.Entry.ID] = true
		case ostiary.KindOutcome:
			if !open[r.Entry.Answers] {
				return fmt.Errorf("entry %s answers no open Intent", r.Ref)
			}
			delete(open, r.Entry.Answers)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	for id, r := range acked {
		if have[id] != r.Ref {
			return errors.Join(fmt.Errorf("acknowledged entry %s is at %s", r.Ref, have[id]), l.Close())
		}
		if _, err := l.Entry(context.Background(), r.Ref); err != nil {
			return errors.Join(fmt.Errorf("entry %s: %w", r.Ref, err), l.Close())
		}
	}
	if len(open) != 0 {
		return errors.Join(fmt.Errorf("%d Intents have no Outcome", len(open)), l.Close())
	}
	if err := l.Close(); err != nil {
		return err
	}
	rep, err := proof.VerifyFS(w.FS.(*ledgertest.FS).Copy(w.Dir), proof.Options{})
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	if n := uint64(len(have)); rep.Entries < n {
		return fmt.Errorf("verified %d entries of %d", rep.Entries, n)
	}
	return nil
}

// TestEveryFault makes every operation on files fail, in each way, then cuts
// the power, or only ends the process, and opens again.
func TestEveryFault(t *testing.T) {
	var total int
	synctest.Test(t, func(t *testing.T) {
		w, fs, month := memoryWorld()
		acked, err := story(w, month)
		if err != nil || len(acked) != 17 {
			t.Fatalf("without faults: %d acknowledged, %v", len(acked), err)
		}
		total = fs.Ops()
		if err := check(w, acked); err != nil {
			t.Fatal(err)
		}
		for n := range total {
			if s := fs.Did(n + 1); testing.Verbose() {
				t.Log(n+1, s)
			}
		}
	})
	if total < 60 {
		t.Fatalf("the story has only %d operations", total)
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 1; n <= total; n += step {
		for _, mode := range []ledgertest.Mode{ledgertest.NotDone, ledgertest.Done, ledgertest.Half} {
			synctest.Test(t, func(t *testing.T) { faultOnce(t, n, mode) })
		}
	}
}

func faultOnce(t *testing.T, n int, mode ledgertest.Mode) {
	w, fs, month := memoryWorld()
	fs.FailAt, fs.Mode = n, mode
	acked, err := story(w, month)
	again := func(what string, after *ledgertest.FS, control *ledgertest.Control) *world {
		w2 := *w
		w2.control, w2.FS, w2.Control = control, after, control
		if cerr := check(&w2, acked); cerr != nil {
			t.Errorf("operation %d (%s), mode %d, %s, %d acknowledged (story: %v): %v", n, fs.Did(n), mode, what, len(acked), err, cerr)
		}
		return &w2
	}
	for seed := range uint64(2) {
		again("power cut", fs.Crash(seed), w.control.Clone())
	}
	// The process ends, starts, ends well, and then the power goes: what the
	// page cache showed in between must have been made sure.
	restarted := fs.Restart()
	w2 := again("restart", restarted, w.control.Clone())
	again("power cut after restart", restarted.Crash(9), w2.control)
}

// TestCrashAnywhere cuts the power before every operation.
func TestCrashAnywhere(t *testing.T) {
	for n := 1; n < 200; n += 3 {
		synctest.Test(t, func(t *testing.T) {
			w, fs, month := memoryWorld()
			// Whatever comes from operation n on fails: the power is off.
			fs.FailAt, fs.Off = n, true
			acked, _ := story(w, month)
			for seed := range uint64(4) {
				w2 := *w
				w2.control = w.control.Clone()
				w2.FS, w2.Control = fs.Crash(seed+10), w2.control
				if err := check(&w2, acked); err != nil {
					t.Errorf("power cut at %d (%s), seed %d: %v", n, fs.Did(n), seed, err)
				}
			}
		})
	}
}
