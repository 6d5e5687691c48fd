package store_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/internal/store"
)

// openLog opens a real log, with control state in memory.
func openLog(t testing.TB, dir string, control *ledgertest.Control, clock func() time.Time, segment int64) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), ledger.Options{
		Dir: dir, Deployment: "test", Gateway: "gw1", Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)),
		Wrap: ledgertest.Wrap(), Control: control, SegmentSize: segment, Reserve: 1 << 20, Clock: clock, Longest: 365 * 24 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// act appends an action, with the payload of a small call.
func act(t testing.TB, l *ledger.Log, caller, n int) {
	e := ostiary.Entry{
		Kind: ostiary.KindIntent, Session: ostiary.SessionID(fmt.Sprint("session-of-", caller)), Mandate: "01JD7Y3V0M4Q8Z",
		Agent: ostiary.AgentID(fmt.Sprintf("spiffe://a.example/agent/agent-%d", caller)), Principal: "person:dana",
		Action: fmt.Sprintf("bank___tool%d", n%30), Server: "bank", Pin: ostiary.DigestOf([]byte{byte(n % 30)}),
		Permit: true, Code: "permit", Reasons: []string{"open"}, Snapshot: 3, Policy: ostiary.DigestOf([]byte("p")),
		Payload: ostiary.Payload{Arguments: bytes.Repeat([]byte("a"), 100), Inputs: bytes.Repeat([]byte("i"), 300)},
	}
	r, err := l.Append(t.Context(), &e)
	if err == nil {
		e.Kind, e.ID, e.Answers, e.Disposition, e.Payload = ostiary.KindOutcome, ostiary.EntryID{}, r.ID, ostiary.Delivered, ostiary.Payload{Result: ostiary.DigestOf([]byte("r")), ResultLen: 1}
		_, err = l.Append(t.Context(), &e)
	}
	if err != nil {
		t.Error(err)
	}
}

// scanned is what the log itself says, as the index should.
func scanned(t *testing.T, l *ledger.Log) (rows []ledger.Row) {
	t.Helper()
	intents := map[ostiary.EntryID]ostiary.Entry{}
	err := l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
		e := r.Entry
		e.Payload = ostiary.Payload{}
		if e.Kind == ostiary.KindIntent {
			intents[e.ID] = e
		}
		if i, ok := intents[e.Answers]; ok && e.Disposition == ostiary.Unknown {
			i.Kind, i.ID, i.Time, i.Answers, i.Code, i.Disposition = e.Kind, e.ID, e.Time, e.Answers, e.Code, e.Disposition
			e = i
		}
		rows = append(rows, ledger.Row{Origin: r.Origin, Ref: r.Ref, Entry: e})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// same checks that an index that has caught up answers as its log does.
func same(t *testing.T, l *ledger.Log, x *store.Index) {
	t.Helper()
	want := scanned(t, l)
	got, err := x.Query(t.Context(), ledger.Filter{Limit: 10_000})
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Fatal(d, err)
	}
	var agents []ledger.Row
	for _, r := range want {
		if r.Entry.Agent.Name() == "agent-1" && r.Entry.Kind == ostiary.KindOutcome {
			agents = append(agents, r)
		}
	}
	got, err = x.Query(t.Context(), ledger.Filter{Agent: "agent-1", Kinds: []ostiary.EntryKind{ostiary.KindOutcome}, Limit: 10_000})
	if d := cmp.Diff(agents, got); d != "" || err != nil {
		t.Fatal(d, err)
	}
	for _, r := range want {
		rows, err := x.Query(t.Context(), ledger.Filter{ID: r.Entry.ID})
		if err != nil || len(rows) != 1 || rows[0].Ref != r.Ref {
			t.Fatalf("%s is not found by its id: %v, %v", r.Ref, rows, err)
		}
	}
}

func catchup(t *testing.T, l *ledger.Log, x *store.Index) {
	t.Helper()
	if err := ledger.NewIndexer(l, x).Catchup(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// small opens an index of a log with runs of 50 entries, and what was logged
// about it.
func small(t *testing.T, path string, l *ledger.Log) (*store.Index, *bytes.Buffer) {
	t.Helper()
	said := new(bytes.Buffer)
	x, err := store.OpenSmallIndex(path, l, slog.New(slog.NewTextHandler(said, nil)), 50)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x, said
}

// The index file as a crash may leave it: at any moment while the log went on.
func TestIndexCrash(t *testing.T) {
	l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
	dir := t.TempDir()
	x, _ := small(t, filepath.Join(dir, "index.db"), l)
	for n := range 6 {
		for i := range 30 {
			act(t, l, i%3, i)
		}
		if n != 4 { // the log is ahead of it
			catchup(t, l, x)
		}
		crashed := filepath.Join(t.TempDir(), "index.db")
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, "index.db"+suffix))
			if err == nil {
				err = os.WriteFile(crashed+suffix, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		y, said := small(t, crashed, l)
		if said.Len() > 0 {
			t.Fatalf("what a crash left was thrown away: %s", said)
		}
		at, err := y.Position(t.Context(), l.Origin())
		if _, size, _ := ledger.NewIndexer(l, y).Progress(); err != nil || size > 0 && at == 0 {
			t.Fatal(at, err)
		}
		catchup(t, l, y)
		same(t, l, y)
		y.Close()
	}
	if at, _ := x.Position(t.Context(), l.Origin()); at == 0 {
		t.Error("nothing was indexed")
	}
}

// An Intent that was open when the gateway died has its Unknown outcome in the
// next month, and is found there by what only its Intent says.
func TestIndexMonths(t *testing.T) {
	now := time.Date(2026, 9, 30, 23, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Microsecond)
		return now
	}
	dir, control, path := t.TempDir(), ledgertest.NewControl(), filepath.Join(t.TempDir(), "index.db")
	for month := range 3 {
		l := openLog(t, dir, control, clock, 1<<20)
		x, said := small(t, path, l)
		catchup(t, l, x)
		unknown := ostiary.Unknown
		rows, err := x.Query(t.Context(), ledger.Filter{Agent: "dies", Action: "pay", Disposition: &unknown, Newest: true})
		if err != nil || len(rows) != month {
			t.Fatalf("month %d: %d unknown outcomes, %v", month, len(rows), err)
		}
		if month > 0 {
			intents, err := x.Query(t.Context(), ledger.Filter{ID: rows[0].Entry.Answers})
			if err != nil || len(intents) != 1 || intents[0].Ref.Month >= rows[0].Ref.Month {
				t.Fatalf("month %d: the intent of %s is %v, %v", month, rows[0].Ref, intents, err)
			}
		}
		for i := range 20 + 60*month {
			act(t, l, i%3, i)
		}
		if _, err := l.Append(t.Context(), &ostiary.Entry{Kind: ostiary.KindIntent, Agent: "spiffe://a.example/agent/dies", Action: "bank___pay", Server: "bank", Permit: true, Code: "permit"}); err != nil {
			t.Fatal(err)
		}
		catchup(t, l, x)
		same(t, l, x)
		running, err := x.Query(t.Context(), ledger.Filter{Agent: "dies", Latest: true, Kinds: []ostiary.EntryKind{ostiary.KindIntent}})
		if err != nil || len(running) != 1 {
			t.Fatalf("month %d: %d of the dying agent's actions run, %v", month, len(running), err)
		}
		if said.Len() > 0 {
			t.Errorf("month %d: %s", month, said)
		}
		before := l.Newest().Month
		mu.Lock()
		now = now.Add(31 * 24 * time.Hour)
		mu.Unlock()
		for begin := time.Now(); l.Newest().Month == before; time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > time.Minute {
				t.Fatal("the month did not turn")
			}
		}
		if month == 1 { // at another time the index sees the turn only after a restart
			catchup(t, l, x)
		}
		if err := errors.Join(x.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// An index that does not fit the log is thrown away, with a word about it.
func TestIndexOfAnotherLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.db")
	for n, why := range []string{"", "it was made from another log"} {
		l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
		for i := range 60 {
			act(t, l, i%3, i)
		}
		x, said := small(t, path, l)
		if !strings.Contains(said.String(), why) || (why == "") != (said.Len() == 0) {
			t.Errorf("log %d: said %q", n, said)
		}
		catchup(t, l, x)
		same(t, l, x)
		x.Close()
	}
	t.Run("of the first format", func(t *testing.T) {
		l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
		act(t, l, 1, 1)
		path := filepath.Join(t.TempDir(), "index.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Exec("CREATE TABLE schema_version (version BIGINT PRIMARY KEY); INSERT INTO schema_version VALUES (1); CREATE TABLE log (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, month TEXT NOT NULL, next BIGINT NOT NULL); CREATE TABLE entry (log BIGINT)")
		if err := errors.Join(err, db.Close(), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		for n, why := range []string{"its format is older", ""} {
			x, said := small(t, path, l)
			if !strings.Contains(said.String(), why) || (why == "") != (said.Len() == 0) {
				t.Errorf("opened %d times: said %q", n+1, said)
			}
			catchup(t, l, x)
			same(t, l, x)
			x.Close()
		}
	})
}

// A part that does not verify is noticed, never an answer, and the follower
// makes the index again.
func TestIndexDamaged(t *testing.T) {
	l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
	for i := range 120 {
		act(t, l, i%3, i)
	}
	for _, harm := range []string{
		"UPDATE part SET data = substr(data, 1, length(data) - 1)",
		"UPDATE part SET data = zeroblob(length(data)) WHERE length(data) > 4",
		"DELETE FROM part",
		"UPDATE part SET data = IFNULL((SELECT data FROM part p WHERE p.id <> part.id AND length(p.data) = length(part.data) LIMIT 1), data)",
	} {
		path := filepath.Join(t.TempDir(), "index.db")
		x, _ := small(t, path, l)
		catchup(t, l, x)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Exec(harm)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		var e *ostiary.Error
		if rows, err := x.Query(t.Context(), ledger.Filter{Agent: "agent-1"}); !errors.As(err, &e) || e.Code != "index_damaged" {
			t.Fatalf("%s: %d rows, %v", harm, len(rows), err)
		}
		catchup(t, l, x)
		same(t, l, x)
	}
}

// Many who find the damage at once wait for each other's connections and
// locks, and all get their answer.
func TestIndexDamagedForMany(t *testing.T) {
	l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
	for i := range 60 {
		act(t, l, i%3, i)
	}
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := store.OpenSmallIndex(path, l, slog.New(slog.DiscardHandler), 50) // one that hangs cannot be closed at the end
	if err != nil {
		t.Fatal(err)
	}
	catchup(t, l, x)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("UPDATE part SET data = zeroblob(9)")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 20 {
					if _, err := x.Query(context.Background(), ledger.Filter{Agent: "agent-1"}); ostiary.KindOf(err) != ostiary.Corrupt {
						t.Errorf("got %v", err)
					}
				}
			})
		}
		wg.Wait()
	}()
	select {
	case <-done:
		x.Close()
	case <-time.After(time.Minute):
		t.Fatal("they wait for each other for ever")
	}
}

// Answers while the index grows are those of some moment: nothing that was
// there is missing, nothing is there twice.
func TestIndexWhileItGrows(t *testing.T) {
	l := openLog(t, t.TempDir(), ledgertest.NewControl(), time.Now, 1<<20)
	x, _ := small(t, filepath.Join(t.TempDir(), "index.db"), l)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { ledger.NewIndexer(l, x).Run(ctx) })
	looked := make(chan struct{}, 1)
	wg.Go(func() {
		defer stop()
		for i := range 300 {
			act(t, l, 0, i)
			if i == 150 { // the rest is written when somebody has looked, and will look again
				select {
				case <-looked:
				case <-ctx.Done():
				}
			}
		}
		written := l.Status().Size
		for begin := time.Now(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
			at, err := x.Position(ctx, l.Origin())
			if err != nil || time.Since(begin) > time.Minute {
				t.Errorf("indexed up to %d, %v", at, err)
				return
			}
			if at >= written {
				return
			}
		}
	})
	before := 0
	for more := true; more; {
		more = ctx.Err() == nil // one look more when all is there
		rows, err := x.Query(t.Context(), ledger.Filter{Agent: "agent-0", Latest: true, Limit: 10_000})
		if err != nil {
			t.Error(err)
			break
		}
		if len(rows) < before {
			t.Errorf("%d actions after %d", len(rows), before)
		}
		seen := map[ostiary.EntryID]bool{}
		for _, r := range rows {
			id := r.Entry.Answers
			if id.IsZero() {
				id = r.Entry.ID
			}
			if seen[id] {
				t.Errorf("action %s is there twice", id)
			}
			seen[id] = true
		}
		before = len(rows)
		select {
		case looked <- struct{}{}:
		default:
		}
	}
	stop()
	wg.Wait()
	if before != 300 {
		t.Errorf("%d actions at the end, want 300", before)
	}
}

func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIndexer reports what it costs to index a real log whose entries
// came from so many callers at once, reading and parsing them included.
func BenchmarkIndexer(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := openLog(b, b.TempDir(), ledgertest.NewControl(), time.Now, 64<<20)
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for n := range 10_000 / callers {
						act(b, l, c, n)
					}
				})
			}
			wg.Wait()
			var entries uint64
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				x := ledger.NewIndexer(l, openIndex(b, filepath.Join(b.TempDir(), "index.db"), l))
				before := processor()
				b.StartTimer()
				if err := x.Catchup(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				used += processor() - before
				_, n, _ := x.Progress()
				entries += n
				b.StartTimer()
			}
			b.ReportMetric(float64(used.Nanoseconds())/float64(entries), "cpu-ns/entry")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
		})
	}
}

// BenchmarkMillion asks an index of a million entries of a real log, as after
// a restart: frequent and rare values, and what is looked up by its id. Making
// the log takes minutes and 1.5 GB.
func BenchmarkMillion(b *testing.B) {
	dir, control := b.TempDir(), ledgertest.NewControl()
	l := openLog(b, dir, control, time.Now, 64<<20)
	const callers, each = 128, 500_000 / 128
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				who := 0 // every second action is this agent's
				if n%2 == 1 {
					who = 1 + c%50
				}
				if n%1000 == 500 && c == 7 {
					who = 999
				}
				act(b, l, who, n)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "index.db")
	begin := time.Now()
	l = openLog(b, dir, control, time.Now, 64<<20)
	x := openIndex(b, path, l)
	if err := ledger.NewIndexer(l, x).Rebuild(b.Context()); err != nil {
		b.Fatal(err)
	}
	built := time.Since(begin)
	if err := errors.Join(x.Close(), l.Close()); err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(path + suffix); err == nil {
			size += info.Size()
		}
	}
	l = openLog(b, dir, control, time.Now, 64<<20)
	begin = time.Now()
	x = openIndex(b, path, l)
	indexer := ledger.NewIndexer(l, x)
	if err := indexer.Catchup(b.Context()); err != nil {
		b.Fatal(err)
	}
	_, n, _ := indexer.Progress()
	b.Logf("%d entries: rebuilt in %v, opened again in %v, %d bytes an entry", n, built, time.Since(begin), size/int64(n))
	no, refused := false, ostiary.Refused
	first, err := l.Entry(b.Context(), ostiary.EntryRef{Index: 1000})
	if err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]ledger.Filter{
		"frequent":      {Agent: "agent-0", Newest: true, Limit: 50},
		"one in 100":    {Agent: "agent-7", Newest: true, Limit: 50},
		"rare":          {Agent: "agent-999", Newest: true, Limit: 50},
		"none":          {Agent: "nobody", Newest: true, Limit: 50},
		"rare and tool": {Agent: "agent-999", Action: "tool20", Latest: true, Newest: true, Limit: 50},
		"newest":        {Newest: true, Limit: 50, Latest: true, Except: "discover_server"},
		"denied":        {Permit: &no, Disposition: &refused, Kinds: []ostiary.EntryKind{ostiary.KindOutcome}, Newest: true, Limit: 50},
		"answers":       {Answers: first.Entry.ID, Limit: 50},
		"id":            {ID: first.Entry.ID, Limit: 1},
		"many":          {Agent: "agent-0", Newest: true, Limit: 10_000},
		"the last hour": {Agent: "agent-7", Since: time.Now().Add(-time.Hour), Newest: true, Limit: 50},
	} {
		b.Run(name, func(b *testing.B) {
			once := time.Now()
			rows, err := x.Query(b.Context(), f)
			if err != nil {
				b.Fatal(err)
			}
			first := time.Since(once)
			for b.Loop() {
				if _, err := x.Query(b.Context(), f); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
			b.ReportMetric(float64(len(rows)), "rows")
		})
	}
}
