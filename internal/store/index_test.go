package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/store"
)

const logName = "a.example/gw/2026-11"

var start = time.Date(2026, 11, 20, 10, 0, 0, 1, time.UTC)

func entryID(n uint64) (id ostiary.EntryID) {
	binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15) // spread, as random ids are
	binary.BigEndian.PutUint64(id[8:], n+1)
	return id
}

// row makes a plausible entry: intents and outcomes of a few agents and tools.
func row(n uint64) ledger.Row {
	e := ostiary.Entry{
		Kind: ostiary.KindIntent, ID: entryID(n), Time: start.Add(time.Duration(n) * time.Millisecond),
		Session: ostiary.SessionID(fmt.Sprint("s", n/2%50)), Mandate: "m1",
		Agent: ostiary.AgentID(fmt.Sprintf("spiffe://a.example/ns/agent%d", n/2%100)), Principal: "person:dana",
		Action: fmt.Sprintf("bank___tool%d", n/2%30), Server: "bank", Pin: ostiary.DigestOf([]byte{byte(n / 2 % 30)}),
		Permit: true, Code: "permit", Reasons: []string{"open"}, Snapshot: 3, Policy: ostiary.DigestOf([]byte("p")),
	}
	if n%2 == 1 {
		e.Kind, e.Answers, e.Disposition = ostiary.KindOutcome, entryID(n-1), ostiary.Delivered
	}
	return ledger.Row{Origin: logName, Ref: ostiary.EntryRef{Month: "2026-11", Index: n}, Entry: e}
}

func batch(from, n uint64) []ledger.Row {
	out := make([]ledger.Row, n)
	for i := range out {
		out[i] = row(from + uint64(i))
	}
	return out
}

// shelf is a log in memory, of one origin.
type shelf struct {
	mu   sync.Mutex
	rows []ledger.Row
}

func shelve(rows ...ledger.Row) *shelf { return &shelf{rows: rows} }

func (s *shelf) Rows(ctx context.Context, origin string, places []uint64, visit func(ledger.Row) error) error {
	s.mu.Lock()
	rows := s.rows
	s.mu.Unlock()
	rows = slices.DeleteFunc(slices.Clone(rows), func(r ledger.Row) bool { return r.Origin != origin })
	if len(rows) == 0 {
		return ostiary.Errorf(ostiary.NotFound, "no_log", "none")
	}
	if !slices.IsSorted(places) {
		return errors.New("places do not ascend")
	}
	for _, p := range places {
		if p >= uint64(len(rows)) {
			return ostiary.Errorf(ostiary.NotFound, "no_entry", "none")
		}
		if err := visit(rows[p]); err != nil {
			return err
		}
	}
	return nil
}

func openIndex(t testing.TB, path string, log store.Entries) *store.Index {
	t.Helper()
	x, err := store.OpenIndex(path, log, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func TestIndex(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "index.db")
	rows := batch(0, 450)
	log := shelve(rows...)
	x := openIndex(t, path, log)
	rows = rows[:400]
	inner := &rows[10].Entry
	inner.Parent = entryID(4)
	refused := &rows[7].Entry
	refused.Permit, refused.Disposition, refused.Code, refused.Answers = false, ostiary.Refused, "forbid", ostiary.EntryID{}
	refused.Reasons, refused.Obligations, refused.Class, refused.Asked = []string{"a", "b,c\""}, []string{"redact"}, "long", ostiary.DigestOf([]byte("q"))
	rows[20].Entry.Action, rows[20].Entry.Server = "bank___odd___name", "bank"
	rows[22].Entry.Action, rows[22].Entry.Server = "tools/list", ""
	rows[24].Entry = ostiary.Entry{Kind: ostiary.KindOpen, Time: rows[24].Entry.Time, ID: entryID(24)}
	copy(log.rows, rows)

	if err := x.Put(ctx, logName, 0, rows[:300]); err != nil {
		t.Fatal(err)
	}
	if err := x.Put(ctx, logName, 300, rows[300:]); err != nil {
		t.Fatal(err)
	}

	t.Run("position", func(t *testing.T) {
		for _, from := range []uint64{0, 300, 399, 401} {
			var e *ostiary.Error
			r := batch(from, 1)
			if err := x.Put(ctx, logName, from, r); !errors.As(err, &e) || e.Kind != ostiary.Conflict {
				t.Errorf("%d: %v", from, err)
			}
		}
		if n, err := x.Position(ctx, logName); n != 400 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := x.Position(ctx, "none"); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		var e *ostiary.Error
		if err := x.Put(ctx, "other", 0, batch(0, 2)); !errors.As(err, &e) || e.Kind != ostiary.Malformed {
			t.Error("rows of another log", err)
		}
		if err := x.Put(ctx, logName, 400, []ledger.Row{row(401)}); !errors.As(err, &e) || e.Kind != ostiary.Malformed {
			t.Error("a gap", err)
		}
		odd := row(400)
		odd.Entry.Kind = 200
		if err := x.Put(ctx, logName, 400, []ledger.Row{odd}); !errors.As(err, &e) || e.Code != "index_row" {
			t.Error("a kind that no mark has", err)
		}
		if n, err := x.Position(ctx, logName); n != 400 || err != nil {
			t.Fatal(n, err)
		}
	})
	t.Run("whole rows come back", func(t *testing.T) {
		got, err := x.Query(ctx, ledger.Filter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(rows, got); d != "" {
			t.Fatal(d)
		}
	})
	yes, no, refusedD := true, false, ostiary.Refused
	for name, c := range map[string]struct {
		f    ledger.Filter
		want func(r ledger.Row) bool
	}{
		"agent":            {ledger.Filter{Agent: "spiffe://a.example/ns/agent3"}, func(r ledger.Row) bool { return r.Entry.Agent == "spiffe://a.example/ns/agent3" }},
		"agent by name":    {ledger.Filter{Agent: "agent3"}, func(r ledger.Row) bool { return r.Entry.Agent.Name() == "agent3" }},
		"agent of another": {ledger.Filter{Agent: "spiffe://b.example/ns/agent3"}, func(r ledger.Row) bool { return false }},
		"action":           {ledger.Filter{Action: "bank___tool5"}, func(r ledger.Row) bool { return r.Entry.Action == "bank___tool5" }},
		"tool":             {ledger.Filter{Action: "tool5"}, func(r ledger.Row) bool { return r.Entry.Action == "bank___tool5" }},
		"action elsewhere": {ledger.Filter{Action: "shop___tool5"}, func(r ledger.Row) bool { return false }},
		"odd action":       {ledger.Filter{Action: "bank___odd___name"}, func(r ledger.Row) bool { return r.Entry.Action == "bank___odd___name" }},
		"odd tool":         {ledger.Filter{Action: "odd___name"}, func(r ledger.Row) bool { return r.Entry.Action == "bank___odd___name" }},
		"other action":     {ledger.Filter{Action: "tools/list"}, func(r ledger.Row) bool { return r.Entry.Action == "tools/list" }},
		"session":          {ledger.Filter{Session: "s7"}, func(r ledger.Row) bool { return r.Entry.Session == "s7" }},
		"principal":        {ledger.Filter{Principal: "person:dana", Code: "forbid"}, func(r ledger.Row) bool { return r.Entry.Code == "forbid" }},
		"server":           {ledger.Filter{Server: "bank", Kinds: []ostiary.EntryKind{ostiary.KindOutcome}}, func(r ledger.Row) bool { return r.Entry.Kind == ostiary.KindOutcome }},
		"kinds":            {ledger.Filter{Kinds: []ostiary.EntryKind{ostiary.KindOpen, ostiary.KindClose}}, func(r ledger.Row) bool { return r.Entry.Kind == ostiary.KindOpen }},
		"permitted":        {ledger.Filter{Permit: &yes}, func(r ledger.Row) bool { return r.Entry.Permit }},
		"denied":           {ledger.Filter{Permit: &no}, func(r ledger.Row) bool { return !r.Entry.Permit }},
		"disposition":      {ledger.Filter{Disposition: &refusedD, Kinds: []ostiary.EntryKind{ostiary.KindOutcome}}, func(r ledger.Row) bool { return r.Ref.Index == 7 }},
		"time": {ledger.Filter{Since: row(10).Entry.Time, Until: row(20).Entry.Time}, func(r ledger.Row) bool {
			return r.Ref.Index >= 10 && r.Ref.Index < 20
		}},
		"answers": {ledger.Filter{Answers: entryID(4)}, func(r ledger.Row) bool { return r.Ref.Index == 5 || r.Ref.Index == 10 }},
		"id":      {ledger.Filter{ID: entryID(33)}, func(r ledger.Row) bool { return r.Ref.Index == 33 }},
		"all of it": {ledger.Filter{Agent: "agent3", Action: "tool3", Session: "s3", Server: "bank", Permit: &yes, Since: start}, func(r ledger.Row) bool {
			return r.Entry.Agent.Name() == "agent3" && r.Entry.Action == "bank___tool3" && r.Entry.Session == "s3" && r.Entry.Permit
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var want []ledger.Row
			for _, r := range rows {
				if c.want(r) {
					want = append(want, r)
				}
			}
			c.f.Limit = 1000
			got, err := x.Query(ctx, c.f)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
			c.f.Newest, c.f.Limit = true, 2
			got, err = x.Query(ctx, c.f)
			if err != nil || len(got) != min(2, len(want)) || len(got) > 0 && got[0].Ref != want[len(want)-1].Ref {
				t.Fatalf("newest: %v, %v", got, err)
			}
		})
	}
	t.Run("limits", func(t *testing.T) {
		if got, err := x.Query(ctx, ledger.Filter{}); len(got) != 100 || err != nil {
			t.Error(len(got), err)
		}
		for _, n := range []int{-1, 10_001} {
			if _, err := x.Query(ctx, ledger.Filter{Limit: n}); err == nil {
				t.Error(n)
			}
		}
		if got, err := x.Query(ctx, ledger.Filter{Agent: `x' OR 1=1 --`}); len(got) != 0 || err != nil {
			t.Error(len(got), err)
		}
	})
	t.Run("one of many writers", func(t *testing.T) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 8 {
			wg.Go(func() {
				if x.Put(ctx, logName, 400, batch(400, 50)) == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n, _ := x.Position(ctx, logName); won != 1 || n != 450 {
			t.Fatal(won, n)
		}
	})
	t.Run("opened again, then emptied", func(t *testing.T) {
		x.Close()
		x = openIndex(t, path, log)
		// What was not stored as a run is put again.
		n, err := x.Position(ctx, logName)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Put(ctx, logName, n, log.rows[n:450]); err != nil {
			t.Fatal(err)
		}
		got, err := x.Query(ctx, ledger.Filter{Limit: 1000})
		if d := cmp.Diff(log.rows, got); d != "" || err != nil {
			t.Fatal(d, err)
		}
		if err := x.Reset(ctx); err != nil {
			t.Fatal(err)
		}
		got, err = x.Query(ctx, ledger.Filter{})
		if n, _ := x.Position(ctx, logName); n != 0 || len(got) != 0 || err != nil {
			t.Fatal(n, got, err)
		}
	})
	t.Run("damaged, so thrown away", func(t *testing.T) {
		x.Close()
		if err := os.WriteFile(path, []byte(strings.Repeat("damage", 5000)), 0o600); err != nil {
			t.Fatal(err)
		}
		x = openIndex(t, path, log)
		if err := x.Put(ctx, logName, 0, batch(0, 5)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		x.Close()
		if err := x.Put(ctx, logName, 5, batch(5, 5)); ostiary.KindOf(err) != ostiary.Unavailable {
			t.Error(err)
		}
		if _, err := x.Query(ctx, ledger.Filter{}); ostiary.KindOf(err) != ostiary.Unavailable {
			t.Error(err)
		}
	})
}

func BenchmarkIndexPut(b *testing.B) {
	x := openIndex(b, filepath.Join(b.TempDir(), "index.db"), shelve(row(0)))
	const each = 1000
	at := uint64(0)
	for b.Loop() {
		b.StopTimer()
		rows := batch(at, each)
		b.StartTimer()
		if err := x.Put(b.Context(), logName, at, rows); err != nil {
			b.Fatal(err)
		}
		at += each
	}
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "rows/s")
}

func TestIndexUnknown(t *testing.T) {
	ctx := t.Context()
	intent := row(0)
	unknown := ledger.Row{Origin: logName, Ref: ostiary.EntryRef{Month: "2026-11", Index: 1}, Entry: ostiary.Entry{
		Kind: ostiary.KindOutcome, ID: entryID(1), Time: start.Add(time.Minute), Answers: intent.Entry.ID, Code: "unknown", Disposition: ostiary.Unknown,
	}}
	orphan := unknown
	orphan.Ref.Index, orphan.Entry.ID, orphan.Entry.Answers = 2, entryID(2), entryID(99)
	x := openIndex(t, filepath.Join(t.TempDir(), "index.db"), shelve(intent, unknown, orphan))
	if err := x.Put(ctx, logName, 0, []ledger.Row{intent, unknown, orphan}); err != nil {
		t.Fatal(err)
	}
	d := ostiary.Unknown
	rows, err := x.Query(ctx, ledger.Filter{Disposition: &d, Agent: "agent0", Action: "tool0", Server: "bank"})
	if err != nil || len(rows) != 1 {
		t.Fatalf("an unknown outcome is not found by its agent and tool: %d rows, %v", len(rows), err)
	}
	got, want := rows[0].Entry, intent.Entry
	if got.Principal != want.Principal || got.Session != want.Session || !got.Permit || got.Snapshot != want.Snapshot || got.Code != "unknown" || got.ID != unknown.Entry.ID {
		t.Errorf("got %+v", got)
	}
	if rows, err = x.Query(ctx, ledger.Filter{Disposition: &d}); err != nil || len(rows) != 2 {
		t.Errorf("one whose intent is not here stands as it is: %d rows, %v", len(rows), err)
	}
}

func TestIndexLatest(t *testing.T) {
	ctx := t.Context()
	rows := batch(0, 5) // two actions with their outcomes, and one that runs
	rows[2].Entry.Action, rows[3].Entry.Action = "discover_server", "discover_server"
	x := openIndex(t, filepath.Join(t.TempDir(), "index.db"), shelve(rows...))
	if err := x.Put(ctx, logName, 0, rows); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		f    ledger.Filter
		want []uint64
	}{
		{ledger.Filter{}, []uint64{0, 1, 2, 3, 4}},
		{ledger.Filter{Latest: true}, []uint64{1, 3, 4}},
		{ledger.Filter{Except: "discover_server"}, []uint64{0, 1, 4}},
		{ledger.Filter{Latest: true, Except: "discover_server", Newest: true, Limit: 1}, []uint64{4}},
		{ledger.Filter{Latest: true, Except: "discover_server", Newest: true, Limit: 2}, []uint64{4, 1}},
	} {
		got, err := x.Query(ctx, tc.f)
		var refs []uint64
		for _, r := range got {
			refs = append(refs, r.Ref.Index)
		}
		if err != nil || !slices.Equal(refs, tc.want) {
			t.Errorf("%+v: got %v, want %v, %v", tc.f, refs, tc.want, err)
		}
	}
}
