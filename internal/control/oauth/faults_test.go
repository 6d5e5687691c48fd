package oauth

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// faulty is a keeper whose n-th write fails: before it happens, or after.
type faulty struct {
	record.Keeper
	left  atomic.Int64
	after bool
}

func (k *faulty) write(do func() error) error {
	if k.left.Add(-1) != 0 {
		return do()
	}
	if k.after {
		do()
	}
	return ostiary.Errorf(ostiary.Unavailable, "not_known", "the answer was lost")
}

func (k *faulty) CreateRecord(ctx context.Context, r record.Record, at time.Time) (rev uint64, err error) {
	return rev, k.write(func() error { rev, err = k.Keeper.CreateRecord(ctx, r, at); return err })
}

func (k *faulty) ReplaceRecord(ctx context.Context, r record.Record) (rev uint64, err error) {
	err = k.write(func() error { var err error; rev, err = k.Keeper.ReplaceRecord(ctx, r); return err })
	return rev, err
}

func (k *faulty) TakeRecord(ctx context.Context, kind, id string, at time.Time) (r record.Record, err error) {
	err = k.write(func() error { var err error; r, err = k.Keeper.TakeRecord(ctx, kind, id, at); return err })
	return r, err
}

// TestFaults: each write of a sign-in fails, before it happens or after it
// has. Whoever tries the same again gets one answer at most, and two never
// both hold a token that is good.
func TestFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := int64(1); n <= 4; n++ {
			w := newWorld(t)
			f := code4("code", w.consented())
			k := &faulty{Keeper: w.records, after: after}
			k.left.Store(n)
			w.o.Records = k
			answers, good := 0, 0
			for range 3 {
				status, out, _ := w.post("/token", caller{}, f)
				if status == 200 {
					answers++
					if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
						good++
					}
				} else if status != 400 && status != 503 {
					t.Errorf("write %d, after %v: %d %s", n, after, status, out.Bytes())
				}
			}
			if answers > 1 || good > 1 {
				t.Errorf("write %d, after %v: %d answers, %d good tokens", n, after, answers, good)
			}
		}
		for n := int64(1); n <= 2; n++ { // the question is taken, the code is written
			w := newWorld(t)
			id := w.asked()
			ask, _ := w.Pending(t.Context(), id)
			k := &faulty{Keeper: w.records, after: after}
			k.left.Store(n)
			w.o.Records = k
			decided := 0
			for range 3 {
				m := ask.Wants
				if _, err := w.Decide(t.Context(), id, dana, &m); err == nil {
					decided++
				}
			}
			if decided > 1 || n == 2 && decided != 0 {
				t.Errorf("decision, write %d, after %v: decided %d times", n, after, decided)
			}
		}
	}
}

// TestRestart: what one process wrote another knows.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	c := w.consented()
	o := w.o
	again, err := New(o) // another process on the same store, or this one later
	if err != nil {
		t.Fatal(err)
	}
	first := w.Server
	w.Server = again
	_, out, _ := w.post("/token", caller{}, code4("code", c))
	if out.Get("access_token").Text() == "" {
		t.Fatalf("%s", out.Bytes())
	}
	w.Server = first
	if status, _, _ := w.post("/token", caller{}, code4("code", c)); status != 400 {
		t.Error("the code was good twice")
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("what the other process gave is still good")
	}
}
