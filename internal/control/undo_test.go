package control

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
)

// undoing is a gate that counts what it lets through, and ends as it is told.
type undoing struct {
	Gate
	sent        atomic.Int32
	disposition ostiary.Disposition
	err         error
}

func (g *undoing) Settle(context.Context, gate.Call) (gate.Settled, ostiary.Disposition, error) {
	g.sent.Add(1)
	return gate.Settled{}, g.disposition, g.err
}

// quiet is a log of changes.
type quiet struct{ fail error }

func (q *quiet) Append(context.Context, *ostiary.Entry) (ostiary.Receipt, error) {
	return ostiary.Receipt{}, q.fail
}

// lossy keeps records, and fails at one kind of write: before or after it.
type lossy struct {
	record.Keeper
	create, replace error
	after           bool
}

func (l *lossy) CreateRecord(ctx context.Context, r record.Record, at time.Time) (n uint64, err error) {
	if l.create == nil || l.after {
		n, err = l.Keeper.CreateRecord(ctx, r, at)
	}
	return n, errors.Join(err, l.create)
}

func (l *lossy) ReplaceRecord(ctx context.Context, r record.Record) (n uint64, err error) {
	if l.replace == nil || l.after {
		n, err = l.Keeper.ReplaceRecord(ctx, r)
	}
	return n, errors.Join(err, l.replace)
}

func undoer(t *testing.T, g *undoing, changes Changes, records record.Keeper) func() (any, error) {
	c := &Control{o: Options{Authority: opened(t), Gate: g, Changes: changes, Records: records, Clock: time.Now}}
	return func() (any, error) {
		u := undo{intent: ostiary.EntryID{7}, out: Undone{Entry: "2026-11/7", Action: "bank___cancel"}}
		claim, err := c.claimUndo(t.Context(), &u, "why")
		if err != nil {
			return nil, err
		}
		return c.runUndo(t.Context(), &u, claim, "why")
	}
}

// Of many who take one call back at once, one does; and of those who try again
// together after nothing was sent, one again.
func TestUndoOnce(t *testing.T) {
	g := &undoing{disposition: ostiary.Failed, err: ostiary.Errorf(ostiary.Upstream, "refused", "nobody listens")}
	records := store.NewMemory()
	run := undoer(t, g, &quiet{}, records)
	if _, err := run(); err == nil || g.sent.Load() != 1 {
		t.Fatal(err)
	}
	g.disposition, g.err = ostiary.Delivered, nil
	var done atomic.Int32
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			switch _, err := run(); {
			case err == nil:
				done.Add(1)
			case ostiary.AsError(err).Code != "undone":
				t.Error(err)
			}
		})
	}
	all.Wait()
	if done.Load() != 1 || g.sent.Load() != 2 {
		t.Errorf("%d did it, %d were sent", done.Load(), g.sent.Load())
	}
}

// What may have happened is not tried again, what certainly did not may be.
func TestUndoAgain(t *testing.T) {
	broken := errors.New("injected")
	for _, tc := range []struct {
		name    string
		ended   ostiary.Disposition
		err     error
		changes quiet
		records lossy
		first   int32 // calls made by the first attempt
		again   bool  // a second is made
	}{
		{name: "done", ended: ostiary.Delivered, first: 1},
		{name: "nothing was sent", ended: ostiary.Failed, err: ostiary.Errorf(ostiary.Upstream, "refused", "nobody listens"), first: 1, again: true},
		{name: "policy said no", ended: ostiary.Refused, err: ostiary.Errorf(ostiary.Denied, "forbid", "no"), first: 1, again: true},
		{name: "nobody knows", ended: ostiary.Unknown, err: ostiary.Errorf(ostiary.Upstream, "reply_cut", "cut"), first: 1},
		{name: "withheld", ended: ostiary.Withheld, err: ostiary.Errorf(ostiary.Denied, "finding", "no"), first: 1},
		{name: "a panic on the way", ended: ostiary.Refused, err: ostiary.Errorf(ostiary.Internal, "panic", "no"), first: 1},
		{name: "people are asked, and cannot be found", ended: ostiary.Refused, err: ostiary.Errorf(ostiary.Denied, "held", "wait").At("hold"), first: 1},
		{name: "not recorded", changes: quiet{broken}, again: true},
		{name: "not claimed", records: lossy{create: broken}, again: true},
		{name: "claimed, and reported failed", records: lossy{create: broken, after: true}},
		{name: "the end is not written", ended: ostiary.Failed, err: ostiary.Errorf(ostiary.Upstream, "refused", "nobody listens"), records: lossy{replace: broken}, first: 1},
		{name: "the end is written, and reported failed", ended: ostiary.Failed, err: ostiary.Errorf(ostiary.Upstream, "refused", "nobody listens"), records: lossy{replace: broken, after: true}, first: 1, again: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &undoing{disposition: tc.ended, err: tc.err}
			changes, records := tc.changes, tc.records
			records.Keeper = store.NewMemory()
			run := undoer(t, g, &changes, &records)
			run()
			if g.sent.Load() != tc.first {
				t.Fatalf("%d calls at first", g.sent.Load())
			}
			changes.fail, records.create, records.replace = nil, nil, nil
			g.disposition, g.err = ostiary.Delivered, nil
			_, err := run()
			if (g.sent.Load() > tc.first) != tc.again || (err == nil) != tc.again {
				t.Errorf("%d calls, %v", g.sent.Load(), err)
			}
			if err != nil && ostiary.AsError(err).Code != "undone" {
				t.Error(err)
			}
		})
	}
}

// What was kept of an attempt and cannot be read stands in the way.
func TestUndoClaimCorrupt(t *testing.T) {
	g, records := &undoing{disposition: ostiary.Delivered}, store.NewMemory()
	if _, err := records.CreateRecord(t.Context(), record.Record{Kind: undoKind, ID: ostiary.EntryID{7}.String(), Data: []byte("x")}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := undoer(t, g, &quiet{}, records)(); ostiary.KindOf(err) != ostiary.Corrupt || g.sent.Load() != 0 {
		t.Error(err)
	}
}

func opened(t *testing.T) *identity.Authority {
	a, err := identity.Open(t.Context(), identitytest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
