package store_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/store"
)

// The index against a plain scan: histories of several months are drawn, put
// in drawn portions with restarts in between, and asked drawn questions.

// twins returns two values that the index cannot tell apart.
var twins = sync.OnceValue(func() [2]string {
	seen := map[uint32]string{}
	for i := 0; ; i++ {
		s := fmt.Sprint("twin", i)
		if other, ok := seen[store.Fingerprint(s)]; ok {
			return [2]string{other, s}
		}
		seen[store.Fingerprint(s)] = s
	}
})

type history struct {
	*rand.Rand
	logs   []string // origins, oldest first
	rows   map[string][]ledger.Row
	all    []ledger.Row // in the order of the log, completed
	now    time.Time
	nextID uint64

	agents, actions, servers, principals, sessions, codes []string
	open                                                  []ostiary.EntryID
}

func draw(seed uint64) *history {
	h := &history{Rand: rand.New(rand.NewPCG(seed, 7)), rows: map[string][]ledger.Row{}, now: start}
	t := twins()
	h.agents = []string{"spiffe://a.example/ns/one", "spiffe://b.example/ns/one", "spiffe://a.example/ns/two", "plain", "spiffe://a.example/", "spiffe://a.example/" + t[0], "spiffe://a.example/" + t[1], t[0], t[1], ""}
	h.actions = []string{"bank___pay", "bank___odd___name", "shop___pay", "pay", "bank___", "tools/list", "discover_server", t[0], t[1], "bank___" + t[0], ""}
	h.servers, h.principals = []string{"bank", "shop", t[0], t[1], ""}, []string{"person:dana", "person:eli", t[0], t[1], ""}
	h.codes = []string{"permit", "forbid", "delivered", t[0], t[1], ""}
	for i := range 40 {
		h.sessions = append(h.sessions, fmt.Sprint("s", i))
	}
	h.sessions = append(h.sessions, t[0], t[1], "")
	for m := range 1 + h.IntN(3) {
		h.month(fmt.Sprintf("2026-%02d", 9+m))
	}
	return h
}

func (h *history) pick(list []string) string { return list[h.IntN(len(list))] }

func (h *history) month(month string) {
	origin := "a.example/gw/" + month
	h.logs = append(h.logs, origin)
	for i := range h.IntN(400) {
		h.nextID++
		h.now = h.now.Add(time.Duration(h.IntN(3)) * time.Millisecond) // often the same
		e := ostiary.Entry{
			Kind: ostiary.KindIntent, ID: entryID(h.nextID), Time: h.now, Session: ostiary.SessionID(h.pick(h.sessions)), Mandate: "m",
			Agent: ostiary.AgentID(h.pick(h.agents)), Principal: ostiary.PrincipalID(h.pick(h.principals)),
			Action: h.pick(h.actions), Server: h.pick(h.servers), Permit: h.IntN(3) > 0, Code: h.pick(h.codes),
			Reasons: []string{"open"}, Snapshot: 3, Policy: ostiary.DigestOf([]byte("p")),
		}
		if h.IntN(9) == 0 {
			e.Parent = entryID(1 + h.Uint64N(h.nextID))
		}
		last := ostiary.EntryID{}
		if n := len(h.open); n > 0 {
			last = h.open[h.IntN(n)]
		}
		switch k := h.IntN(10); {
		case k < 4:
			h.open = append(h.open, e.ID)
		case k < 7 && !last.IsZero():
			e.Kind, e.Answers, e.Disposition = ostiary.KindOutcome, last, ostiary.Disposition(h.IntN(6))
			h.open = slices.DeleteFunc(h.open, func(id ostiary.EntryID) bool { return id == last })
		case k == 7 && !last.IsZero(): // what recovery writes
			e = ostiary.Entry{Kind: ostiary.KindOutcome, ID: e.ID, Time: e.Time, Answers: last, Code: "unknown", Disposition: ostiary.Unknown}
			h.open = slices.DeleteFunc(h.open, func(id ostiary.EntryID) bool { return id == last })
		case k == 8 && !last.IsZero():
			e.Kind, e.Answers = ostiary.KindResult, last
		case k == 8: // whose Intent is nowhere
			e = ostiary.Entry{Kind: ostiary.KindOutcome, ID: e.ID, Time: e.Time, Answers: entryID(1 << 40), Code: "unknown", Disposition: ostiary.Unknown}
		case k == 9 && h.IntN(2) == 0:
			e = ostiary.Entry{Kind: ostiary.KindHeartbeat, ID: e.ID, Time: e.Time}
		default:
			e.Kind, e.Permit = ostiary.KindOutcome, false
		}
		row := ledger.Row{Origin: origin, Ref: ostiary.EntryRef{Month: month, Index: uint64(i)}, Entry: e}
		h.rows[origin] = append(h.rows[origin], row)
		h.all = append(h.all, h.complete(row))
	}
}

func (h *history) complete(row ledger.Row) ledger.Row {
	e := &row.Entry
	if e.Kind != ostiary.KindOutcome || e.Action != "" || e.Agent != "" {
		return row
	}
	for _, r := range h.all {
		if i := r.Entry; i.Kind == ostiary.KindIntent && i.ID == e.Answers {
			i.ID, i.Kind, i.Time, i.Answers, i.Parent, i.Code, i.Disposition = e.ID, e.Kind, e.Time, e.Answers, e.Parent, e.Code, e.Disposition
			i.Obligations = e.Obligations
			row.Entry = i
		}
	}
	return row
}

func (h *history) Rows(ctx context.Context, origin string, places []uint64, visit func(ledger.Row) error) error {
	return shelve(h.rows[origin]...).Rows(ctx, origin, places, visit)
}

// scan is the answer as it follows from the words of ledger.Filter.
func (h *history) scan(put map[string]uint64, f ledger.Filter) (out []ledger.Row) {
	rows := slices.DeleteFunc(slices.Clone(h.all), func(r ledger.Row) bool { return r.Ref.Index >= put[r.Origin] })
	settled := map[ostiary.EntryID]bool{}
	for _, r := range rows {
		if r.Entry.Kind == ostiary.KindOutcome {
			settled[r.Entry.Answers] = true
		}
	}
	for _, r := range rows {
		e := &r.Entry
		name := string(e.Agent)[strings.LastIndex(string(e.Agent), "/")+1:]
		tool := strings.TrimPrefix(e.Action, e.Server+"___")
		switch {
		case f.Agent != "" && name == "",
			f.Agent != "" && strings.Contains(f.Agent, "://") && f.Agent != string(e.Agent),
			f.Agent != "" && !strings.Contains(f.Agent, "://") && f.Agent != name,
			f.Action != "" && (tool == "" || f.Action != tool && f.Action != e.Action),
			f.Principal != "" && f.Principal != string(e.Principal),
			f.Session != "" && f.Session != string(e.Session),
			f.Server != "" && f.Server != e.Server,
			f.Code != "" && f.Code != e.Code,
			f.Except != "" && f.Except == e.Action,
			f.Kinds != nil && !slices.Contains(f.Kinds, e.Kind),
			f.Permit != nil && *f.Permit != e.Permit,
			f.Disposition != nil && *f.Disposition != e.Disposition,
			!f.Since.IsZero() && e.Time.Before(f.Since),
			!f.Until.IsZero() && !e.Time.Before(f.Until),
			!f.ID.IsZero() && f.ID != e.ID,
			!f.Answers.IsZero() && f.Answers != e.Answers && f.Answers != e.Parent,
			f.Latest && e.Kind == ostiary.KindIntent && settled[e.ID]:
		default:
			out = append(out, r)
		}
	}
	if f.Newest {
		slices.Reverse(out)
	}
	return out[:min(len(out), cmp.Or(f.Limit, 100))]
}

// ask draws a filter: mostly of few fields, so that something is found.
func (h *history) ask() (f ledger.Filter) {
	sometimes := func(list []string) string {
		if h.IntN(6) > 0 {
			return ""
		}
		return h.pick(list)
	}
	f.Agent, f.Action, f.Server = sometimes(append([]string{"one", "two", "three"}, h.agents...)), sometimes(append([]string{"odd___name", "name"}, h.actions...)), sometimes(h.servers)
	f.Principal, f.Session, f.Code = sometimes(h.principals), sometimes(h.sessions), sometimes(append([]string{"unknown"}, h.codes...))
	f.Except = sometimes(h.actions)
	f.Latest, f.Newest = h.IntN(3) == 0, h.IntN(2) == 0
	f.Limit = []int{0, 1, 3, 10, 10_000}[h.IntN(5)]
	if h.IntN(6) == 0 {
		for range 1 + h.IntN(3) {
			f.Kinds = append(f.Kinds, ostiary.EntryKind(1+h.IntN(10)))
		}
	}
	if h.IntN(6) == 0 {
		v := h.IntN(2) == 0
		f.Permit = &v
	}
	if h.IntN(8) == 0 {
		d := ostiary.Disposition(h.IntN(6))
		f.Disposition = &d
	}
	moment := func() time.Time {
		return start.Add(time.Duration(h.Int64N(int64(h.now.Sub(start)) + int64(2*time.Millisecond))))
	}
	if h.IntN(5) == 0 {
		f.Since = moment()
	}
	if h.IntN(5) == 0 {
		f.Until = moment()
	}
	id := entryID(h.Uint64N(h.nextID + 2))
	if h.IntN(9) == 0 {
		f.ID = id
	}
	if h.IntN(9) == 0 {
		f.Answers = id
	}
	return f
}

func TestIndexIsAScan(t *testing.T) {
	found, asked := 0, 0
	for seed := range uint64(24) {
		h := draw(seed)
		path := filepath.Join(t.TempDir(), "index.db")
		open := func() *store.Index {
			x, err := store.OpenSmallIndex(path, h, slog.New(slog.DiscardHandler), 1+h.IntN(130))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { x.Close() })
			return x
		}
		x := open()
		put := map[string]uint64{}
		check := func() {
			t.Helper()
			for range 12 {
				f := h.ask()
				want := h.scan(put, f)
				got, err := x.Query(t.Context(), f)
				if err != nil || len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, %v put, %+v: %v\ngot  %v\nwant %v\n%s", seed, put, f, err, brief(got), brief(want), gocmp.Diff(want, got))
				}
				asked++
				found += len(want)
			}
		}
		for done := false; !done; {
			done = true
			for _, origin := range h.logs {
				all := h.rows[origin]
				for put[origin] < uint64(len(all)) {
					n := min(uint64(1+h.IntN(150)), uint64(len(all))-put[origin])
					if err := x.Put(t.Context(), origin, put[origin], all[put[origin]:put[origin]+n]); err != nil {
						t.Fatal(err)
					}
					put[origin] += n
					check()
					if h.IntN(7) > 0 {
						continue
					}
					if h.IntN(4) == 0 {
						if err := x.Reset(t.Context()); err != nil {
							t.Fatal(err)
						}
					} else {
						x.Close()
						x = open()
					}
					for _, o := range h.logs { // what was in memory alone is put again, the oldest first
						n, err := x.Position(t.Context(), o)
						if err != nil || n > put[o] {
							t.Fatal(n, put[o], err)
						}
						put[o], done = n, done && n == put[o]
					}
					check()
					break
				}
				if !done {
					break
				}
			}
		}
		check()
		x.Close()
	}
	if asked < 1000 || found < 5*asked {
		t.Errorf("%d questions found %d entries: too little to tell", asked, found)
	}
}

func brief(rows []ledger.Row) (out []string) {
	for _, r := range rows {
		out = append(out, fmt.Sprint(r.Ref, " ", r.Entry.Kind))
	}
	return out
}
