package ledger_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// Rows are the entries as Each delivers them, from any segment, also after a
// restart, when nobody has read the older ones yet.
func TestRows(t *testing.T) {
	w := newWorld(t.TempDir())
	w.SegmentSize = ledger.MinSegment
	l := w.open(t)
	for i := range 400 {
		r, err := l.Append(t.Context(), intent("a", i))
		if err == nil {
			_, err = l.Append(t.Context(), outcome(r))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = w.open(t)
	var all []ledger.Row
	err := l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
		e := r.Entry
		e.Payload = ostiary.Payload{}
		all = append(all, ledger.Row{Origin: r.Origin, Ref: r.Ref, Entry: e})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = w.open(t)
	size := uint64(len(all))
	if extents, err := l.Flushed(t.Context()); err != nil || len(extents) < 3 {
		t.Fatalf("%d segments, %v", len(extents), err)
	}
	for _, places := range [][]uint64{nil, {0}, {size - 1}, {3, 4, 5, size / 2, size - 2}, {size / 2}} {
		var got, want []ledger.Row
		for _, p := range places {
			want = append(want, all[p])
		}
		err := l.Rows(t.Context(), l.Origin(), places, func(r ledger.Row) error {
			got = append(got, r)
			return nil
		})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%v: %s, %v", places, d, err)
		}
	}
	var every []uint64
	for p := range size {
		every = append(every, p)
	}
	var got []ledger.Row
	if err := l.Rows(t.Context(), l.Origin(), every, func(r ledger.Row) error { got = append(got, r); return nil }); err != nil || !slices.EqualFunc(got, all, func(a, b ledger.Row) bool { return a.Ref == b.Ref && a.Entry.ID == b.Entry.ID }) {
		t.Errorf("%d of %d, %v", len(got), len(all), err)
	}
	none := func(ledger.Row) error { return nil }
	wantKind(t, "another log", l.Rows(t.Context(), "test/gw2/2026-01", nil, none), ostiary.NotFound, "no_log")
	wantKind(t, "beyond the end", l.Rows(t.Context(), l.Origin(), []uint64{5, size + 1000}, none), ostiary.NotFound, "no_entry")
	stop := errors.New("stop")
	if err := l.Rows(t.Context(), l.Origin(), []uint64{1, 2}, func(ledger.Row) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Rows(ctx, l.Origin(), []uint64{1}, none); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
