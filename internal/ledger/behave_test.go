package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/proof"
)

func wantKind(t *testing.T, what string, err error, k ostiary.Kind, code string) {
	t.Helper()
	if err == nil || ostiary.KindOf(err) != k || code != "" && ostiary.AsError(err).Code != code {
		t.Errorf("%s: %v, want %s (%s)", what, err, k, code)
	}
}

func TestSecondOpener(t *testing.T) {
	w := newWorld(t.TempDir())
	w.open(t)
	_, err := ledger.Open(t.Context(), w.Options)
	wantKind(t, "second opener", err, ostiary.Conflict, "ledger_locked")
	if !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("%v does not name the holder", err)
	}
}

func TestRollBack(t *testing.T) {
	old := func(t *testing.T) (*world, *ledgertest.FS, *ledgertest.FS) {
		w := newWorld("/log")
		fs := ledgertest.NewFS()
		w.FS, w.SegmentSize, w.Reserve = fs, ledger.MinSegment, ledger.MinSegment
		l := w.open(t)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		early := fs.Restart()
		l = w.open(t)
		if _, err := l.Append(t.Context(), intent("a", 1)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return w, early, fs
	}
	t.Run("M05 the log's directory was restored", func(t *testing.T) {
		w, early, _ := old(t)
		w.FS = early
		_, err := ledger.Open(t.Context(), w.Options)
		wantKind(t, "old copy", err, ostiary.Corrupt, "")
	})
	t.Run("S08 the control state was restored", func(t *testing.T) {
		w, _, fs := old(t)
		w.FS, w.Control = fs, ledgertest.NewControl()
		_, err := ledger.Open(t.Context(), w.Options)
		wantKind(t, "old control state", err, ostiary.Corrupt, "control_behind")
	})
	t.Run("S08 the control state's revision fell", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, _ := memoryWorld()
			w.control.SetRevision(7)
			l := w.open(t)
			if _, err := l.Append(t.Context(), intent("a", 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			w.control.SetRevision(6)
			_, err := ledger.Open(t.Context(), w.Options)
			wantKind(t, "older revision", err, ostiary.Corrupt, "control_behind")
		})
	})
	t.Run("M05 an anchor with another root", func(t *testing.T) {
		w, _, fs := old(t)
		control := ledgertest.NewControl()
		for range 2 { // as many openings as the log had
			e, _ := control.OpenLog(t.Context(), "test/gw1/"+time.Now().UTC().Format("2006-01"), keyOf(t, w))
			if _, err := control.Fence(t.Context(), "test/gw1/"+time.Now().UTC().Format("2006-01"), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := control.Anchor(t.Context(), "test/gw1/"+time.Now().UTC().Format("2006-01"), 2, ostiary.Digest{1}); err != nil {
			t.Fatal(err)
		}
		w.FS, w.Control = fs, control
		_, err := ledger.Open(t.Context(), w.Options)
		wantKind(t, "forked", err, ostiary.Corrupt, "")
	})
	t.Run("an anchor ahead while running stops the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _, _ := memoryWorld()
			l := w.open(t)
			if err := w.control.Anchor(t.Context(), l.Origin(), 1000, ostiary.Digest{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(t.Context(), intent("a", 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			<-l.Failed()
			_, err := l.Append(t.Context(), intent("a", 2))
			wantKind(t, "after the anchor disagreed", err, ostiary.Corrupt, "")
		})
	})
}

func keyOf(t *testing.T, w *world) string {
	s, err := proof.NewSigner("test/gw1/"+time.Now().UTC().Format("2006-01"), w.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return s.VerifierKey()
}

// M03: a flush that fails once stops everything; a restart recovers.
func TestM03FailedFlushSeals(t *testing.T) {
	w := newWorld("/log")
	fs := ledgertest.NewFS()
	w.FS, w.SegmentSize, w.Reserve = fs, ledger.MinSegment, ledger.MinSegment
	told := make(chan error, 1)
	w.OnFail = func(err error) { told <- err }
	l := w.open(t)
	for fs.FailAt = fs.Ops() + 2; ; { // the flush after the next write
		if _, err := l.Append(t.Context(), intent("a", 1)); err != nil {
			wantKind(t, "M03 the append whose flush failed", err, ostiary.Unavailable, "ledger_failed")
			break
		}
	}
	<-told
	<-l.Failed()
	for range 3 {
		_, err := l.Append(t.Context(), intent("a", 2))
		wantKind(t, "M03 later appends", err, ostiary.Unavailable, "ledger_failed")
	}
	if s := l.Status(); s.Failed == "" {
		t.Error("status does not say that it failed")
	}
	if err := l.Close(); err == nil {
		t.Error("closing a failed log is no success")
	}
	w.FS = fs.Restart()
	l = w.open(t)
	if _, err := l.Append(t.Context(), intent("a", 3)); err != nil {
		t.Error(err)
	}
}

// M02: the disk fills; Intents are refused ahead of time, Outcomes of those
// that were let through still fit, and it heals without a restart.
func TestM02DiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, _ := memoryWorld()
		l := w.open(t)
		fs.SetCapacity(fs.Used() + 64<<10)
		var open []ostiary.Receipt
		var full error
		for i := 0; full == nil && i < 100000; i++ {
			e := intent("a", i)
			e.Payload.Inputs = make([]byte, 8<<10)
			r, err := l.Append(t.Context(), e)
			if err != nil {
				full = err
				break
			}
			if i%8 == 0 {
				open = append(open, r)
			} else if _, err := l.Append(t.Context(), outcome(r)); err != nil {
				t.Fatal("an Outcome was refused:", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		wantKind(t, "M02 full", full, ostiary.Unavailable, "ledger_full")
		if !l.Status().Full || len(open) == 0 {
			t.Error("status does not say that the disk is full")
		}
		for _, r := range open {
			o := outcome(r)
			o.Payload.Detail = make([]byte, 12<<10)
			if _, err := l.Append(t.Context(), o); err != nil {
				t.Fatalf("M02 an Outcome that was owed found no room (%d owed): %v", len(open), err)
			}
		}
		fs.SetCapacity(0)
		time.Sleep(5 * time.Second)
		r, err := l.Append(t.Context(), intent("a", 1))
		if err != nil {
			t.Fatal("M02 not healed within 5 s:", err)
		}
		if _, err := l.Append(t.Context(), outcome(r)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{}); err != nil {
			t.Error(err)
		}
	})
}

// A flush that stalls: callers leave, the queue stays bounded, nobody is
// answered, and work goes on when it returns.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, _ := memoryWorld()
		l := w.open(t)
		release := fs.Stall()
		first, cancelFirst := context.WithTimeout(t.Context(), time.Second)
		defer cancelFirst()
		type answer struct {
			r   ostiary.Receipt
			err error
		}
		a, b := make(chan answer, 1), make(chan answer, 1)
		go func() { r, err := l.Append(first, intent("a", 1)); a <- answer{r, err} }()
		synctest.Wait() // it is being flushed
		second, cancelSecond := context.WithTimeout(t.Context(), time.Second)
		defer cancelSecond()
		go func() { r, err := l.Append(second, intent("b", 2)); b <- answer{r, err} }()
		x, y := <-a, <-b
		wantKind(t, "taken", x.err, ostiary.Unavailable, "abandoned")
		wantKind(t, "still queued", y.err, ostiary.Unavailable, "withdrawn")
		if x.r.ID.IsZero() || !y.r.ID.IsZero() {
			t.Error("only an abandoned entry has an id to answer")
		}
		release()
		if _, err := l.Append(t.Context(), outcome(x.r)); err != nil {
			t.Error("the abandoned Intent stands and takes its Outcome:", err)
		}
		n := 0
		if err := l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
			if r.Entry.Kind == ostiary.KindIntent {
				n++
			}
			return nil
		}); err != nil || n != 1 {
			t.Errorf("%d Intents stand, %v", n, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestConflicts(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	ctx := t.Context()
	e := intent("a", 1)
	e.ID = ostiary.EntryID{1}
	r, err := l.Append(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Append(ctx, e)
	wantKind(t, "the same Intent again", err, ostiary.Conflict, "entry_conflict")
	if _, err := l.Append(ctx, outcome(r)); err != nil {
		t.Fatal(err)
	}
	_, err = l.Append(ctx, outcome(r))
	wantKind(t, "a second Outcome", err, ostiary.Conflict, "entry_conflict")
	_, err = l.Append(ctx, outcome(ostiary.Receipt{ID: ostiary.EntryID{9}}))
	wantKind(t, "an Outcome of nothing", err, ostiary.Conflict, "entry_conflict")
	_, err = l.Append(ctx, &ostiary.Entry{Kind: ostiary.KindClose})
	wantKind(t, "an entry only the ledger writes", err, ostiary.Malformed, "entry_kind")
	if _, err := l.Append(ctx, &ostiary.Entry{Kind: ostiary.KindOutcome, Code: "forbid"}); err != nil {
		t.Error("a refusal stands alone:", err)
	}
}

// M07: whatever an agent puts into a text, a refusal is recorded; an Intent
// that would have to be cut is refused.
func TestM07Texts(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	for name, s := range map[string]string{
		"control characters": "a\r\n\x1b[31m\u2028", "1 MiB": strings.Repeat("x", 1<<20), "invalid UTF-8": "a\xff\xfe",
		"cut within a rune": strings.Repeat("é", 300),
	} {
		refusal := &ostiary.Entry{Kind: ostiary.KindOutcome, Action: s, Server: s, Agent: ostiary.AgentID(s), Code: s, Session: ostiary.SessionID(s),
			Reasons: slices.Repeat([]string{s}, 50), Obligations: []string{s}}
		r, err := l.Append(t.Context(), refusal)
		if err != nil {
			t.Errorf("M07 %s: %v", name, err)
			continue
		}
		rec, err := l.Entry(t.Context(), r.Ref)
		if err != nil || (name != "control characters" && !rec.Full.Clipped) {
			t.Errorf("M07 %s: %+v, %v", name, rec, err)
		}
		if name == "control characters" {
			continue
		}
		in := intent("a", 1)
		in.Action = s
		_, err = l.Append(t.Context(), in)
		wantKind(t, "M07 Intent, "+name, err, ostiary.Malformed, "entry_text")
	}
}

func TestUnknownCountsHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := memoryWorld()
		w.Longest = time.Minute
		l := w.open(t)
		in, err := l.Append(t.Context(), intent("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			l.Count(fmt.Sprintf("10.0.0.%d", i%3), "unauthenticated")
		}
		l.Count("10.0.0.9", "bad_certificate")
		time.Sleep(70 * time.Second)
		_, err = l.Append(t.Context(), outcome(in))
		wantKind(t, "an Outcome after it became Unknown", err, ostiary.Conflict, "")
		kinds := map[ostiary.EntryKind]int{}
		err = l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
			kinds[r.Entry.Kind]++
			switch r.Entry.Kind {
			case ostiary.KindCount:
				if r.Full.Fact("unauthenticated") != "1000" || r.Full.Fact("bad_certificate") != "1" {
					t.Errorf("M06 counted %+v", r.Full.Facts)
				}
				if err := l.Unseal(t.Context(), r); err != nil || !bytes.Contains(r.Entry.Payload.Detail, []byte(`{"source":"10.0.0.1","code":"unauthenticated","count":333}`)) {
					t.Errorf("M06 %s %v", r.Entry.Payload.Detail, err)
				}
			case ostiary.KindOutcome:
				if r.Entry.Answers != in.ID || r.Entry.Disposition != ostiary.Unknown {
					t.Errorf("%+v", r.Entry)
				}
			}
			return nil
		})
		if err != nil || kinds[ostiary.KindCount] != 1 || kinds[ostiary.KindOutcome] != 1 || kinds[ostiary.KindHeartbeat] < 1 || kinds[ostiary.KindHeartbeat] > 3 {
			t.Errorf("%v, %v", kinds, err)
		}
		if s := l.Status(); s.Anchored != s.Size || s.Published != s.Size {
			t.Errorf("not anchored and published: %+v", s)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Erasure: with its key gone a payload cannot be opened, and every proof
// still holds.
func TestErasedKey(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	r, err := l.Append(t.Context(), intent("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	w.control.DestroyKeys()
	rec, err := l.Entry(t.Context(), r.Ref)
	wantKind(t, "an erased payload", err, ostiary.NotFound, "key_destroyed")
	if rec == nil || rec.Entry.Action != "bank___pay" {
		t.Error("the entry itself is still shown")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyDir(w.Dir, proof.Options{}); err != nil {
		t.Error(err)
	}
}

// A payload moved under another entry, or opened under another key, fails.
func TestPayloadIsBound(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	var recs []*ledger.Record
	for i := range 2 {
		r, err := l.Append(t.Context(), intent("a", i))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Entry(t.Context(), r.Ref)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	recs[0].Sealed = recs[1].Sealed
	wantKind(t, "swapped", l.Unseal(t.Context(), recs[0]), ostiary.Corrupt, "")
	recs[0].Full.Sealed = ostiary.DigestOf(recs[1].Sealed)
	wantKind(t, "swapped with its digest", l.Unseal(t.Context(), recs[0]), ostiary.Corrupt, "")
}

func TestDeploymentLog(t *testing.T) {
	dir := t.TempDir()
	control := ledgertest.NewControl()
	w := newWorld(filepath.Join(dir, "deployment"))
	w.Gateway, w.Control = proof.DeploymentLog, control
	parent := w.open(t)
	g := newWorld(filepath.Join(dir, "gw1"))
	g.Control, g.Parent, g.Reserve = control, parent, 8<<20
	l := g.open(t)
	if _, err := parent.Append(t.Context(), &ostiary.Entry{Kind: ostiary.KindChange, Code: "policy_published", Payload: ostiary.Payload{Detail: []byte(`{"snapshot":1}`)}}); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := l.Append(t.Context(), intent("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Close(), parent.Close()); err != nil {
		t.Fatal(err)
	}
	rep, err := proof.VerifyDir(dir, proof.Options{})
	if err != nil || !rep.Complete || len(rep.Logs) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	// The whole gateway log disappears: the deployment log knows it.
	if err := os.RemoveAll(filepath.Join(dir, "gw1")); err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyDir(dir, proof.Options{}); err == nil || !strings.Contains(err.Error(), "test/gw1/") {
		t.Errorf("a missing log was not noticed: %v", err)
	}
}

func TestReadAndIndex(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	for i := range 20 {
		if _, err := l.Append(t.Context(), intent("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	ix := &memoryIndex{}
	x := ledger.NewIndexer(l, ix)
	if err := x.Catchup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, n, m := x.Progress(); n != m || n != 21 || len(ix.rows) != 21 {
		t.Errorf("indexed up to %d of %d, %d rows", n, m, len(ix.rows))
	}
	if err := x.Rebuild(t.Context()); err != nil || len(ix.rows) != 21 {
		t.Errorf("rebuilt: %d rows, %v", len(ix.rows), err)
	}
	// An index that is ahead was built from a log that is no more.
	ix.rows, ix.pos = append(ix.rows, ledger.Row{}), 500
	if err := x.Catchup(t.Context()); err != nil || len(ix.rows) != 21 || ix.pos != 21 {
		t.Errorf("an index ahead of its log: %d rows, position %d, %v", len(ix.rows), ix.pos, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err := l.Follow(ctx, ostiary.EntryRef{}, func(r *ledger.Record) error {
		if seen++; seen == 21 {
			go l.Append(context.Background(), intent("a", 100))
		}
		if seen == 22 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen != 22 {
		t.Errorf("followed %d, %v", seen, err)
	}
	rec, err := l.Entry(t.Context(), ostiary.EntryRef{Index: 5})
	if err != nil || string(rec.Entry.Payload.Arguments) != `{"amount":4}` {
		t.Errorf("%+v, %v", rec, err)
	}
	_, err = l.Entry(t.Context(), ostiary.EntryRef{Index: 5000})
	wantKind(t, "beyond the end", err, ostiary.NotFound, "")
}

type memoryIndex struct {
	rows []ledger.Row
	pos  uint64
}

func (m *memoryIndex) Position(context.Context, string) (uint64, error) { return m.pos, nil }
func (m *memoryIndex) Put(_ context.Context, _ string, from uint64, rows []ledger.Row) error {
	if from != m.pos {
		return ostiary.Errorf(ostiary.Conflict, "position", "")
	}
	m.rows, m.pos = append(m.rows, rows...), m.pos+uint64(len(rows))
	return nil
}
func (m *memoryIndex) Query(context.Context, ledger.Filter) ([]ledger.Row, error) { return m.rows, nil }
func (m *memoryIndex) Reset(context.Context) error                                { m.rows, m.pos = nil, 0; return nil }
func (m *memoryIndex) Close() error                                               { return nil }

// M01: kill -9 under load. The child prints each acknowledged entry; after
// each kill all of them must be there, at their place.
func TestM01Kill(t *testing.T) {
	if dir := os.Getenv("LEDGER_TEST_KILL_DIR"); dir != "" {
		killChild(dir)
		return
	}
	cycles := 4
	if n, err := strconv.Atoi(os.Getenv("LEDGER_TEST_KILLS")); err == nil {
		cycles = n
	}
	dir := t.TempDir()
	acked := map[string]string{}
	for c := range cycles {
		cmd := exec.Command(os.Args[0], "-test.run=^TestM01Kill$")
		cmd.Env = append(os.Environ(), "LEDGER_TEST_KILL_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		kill := rand.IntN(400) + 100
		for n := 0; lines.Scan(); n++ {
			if id, ref, ok := strings.Cut(lines.Text(), " "); ok && len(id) == 32 {
				acked[id] = ref
			} else {
				t.Fatalf("cycle %d: %s", c, lines.Text())
			}
			if n == kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	rep, err := proof.VerifyDir(dir, proof.Options{Visit: func(_ string, i uint64, e *proof.Entry) error {
		if ref, ok := acked[e.ID.String()]; ok && strings.HasSuffix(ref, "/"+strconv.FormatUint(i, 10)) {
			delete(acked, e.ID.String())
		}
		return nil
	}})
	if err != nil || len(acked) != 0 {
		t.Fatalf("M01 %d acknowledged entries lost, %v", len(acked), err)
	}
	t.Logf("%d entries over %d kills", rep.Entries, cycles)
}

func killChild(dir string) {
	// The control state does not survive: every start is the first to it, so
	// it is told how often the log was opened.
	w := newWorld(dir)
	origin := "test/gw1/" + time.Now().UTC().Format("2006-01")
	s, err := proof.NewSigner(origin, w.Signer)
	if err == nil {
		_, err = w.control.OpenLog(context.Background(), origin, s.VerifierKey())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	starts := filepath.Join(dir, "starts")
	b, _ := os.ReadFile(starts)
	for e := range uint64(len(b)) {
		_, _ = w.control.Fence(context.Background(), origin, e)
	}
	_ = os.WriteFile(starts, append(b, '.'), 0o600)
	l, err := ledger.Open(context.Background(), w.Options)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for i := range 8 {
		go func() {
			for k := 0; ; k++ {
				in, err := l.Append(context.Background(), intent(fmt.Sprint(i), k))
				if err != nil {
					continue
				}
				mu.Lock()
				fmt.Println(in.ID, in.Ref)
				mu.Unlock()
				if out, err := l.Append(context.Background(), outcome(in)); err == nil {
					mu.Lock()
					fmt.Println(out.ID, out.Ref)
					mu.Unlock()
				}
			}
		}()
	}
	select {}
}

// Damage in an older segment is found in the background and stops the log.
func TestOlderSegmentDamaged(t *testing.T) {
	w, fs, _, _ := tamperWorld(t)
	first := slices.IndexFunc(fs.Files(), func(p string) bool { return strings.HasSuffix(p, "00000001.seg") })
	p := fs.Files()[first]
	l := w.open(t)
	for late := time.Now().Add(time.Minute); !l.Status().Verified; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("older segments were not looked at")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b := fs.Read(p)
	b[len(bytes.TrimRight(b, "\x00"))/2] ^= 1
	fs.Write(p, b)
	l, err := ledger.Open(t.Context(), w.Options)
	if err == nil {
		select {
		case <-l.Failed():
		case <-time.After(time.Minute):
			t.Error("the damage was not found")
		}
		err = l.Close()
	}
	wantKind(t, "M04 damage in an older segment", err, ostiary.Corrupt, "")
}

// The published tiles are C2SP's: another reader finds every entry and the
// root from them alone.
func TestTilesStandAlone(t *testing.T) {
	w := newWorld(t.TempDir())
	w.Reserve = 16 << 20
	l := w.open(t)
	for i := range 600 {
		if _, err := l.Append(t.Context(), &ostiary.Entry{Kind: ostiary.KindOutcome, Code: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	key := l.Key()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.Dir, proof.Month(rep0(key)), "tiles")
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := proof.OpenCheckpoint(signed, key)
	if err != nil {
		t.Fatal(err)
	}
	tree := tlog.Tree{N: int64(c.Size), Hash: c.Root}
	r := tlog.TileHashReader(tree, tileDir(dir))
	for n := range c.Size {
		width := min(proof.TileWidth, int(c.Size-n/proof.TileWidth*proof.TileWidth))
		b, err := os.ReadFile(filepath.Join(dir, proof.TilePath(-1, n/proof.TileWidth, width)))
		if err != nil {
			t.Fatal(err)
		}
		entries, err := proof.ParseBundle(b)
		if err != nil || len(entries) != width {
			t.Fatal(len(entries), err)
		}
		h, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(n))})
		if err != nil || h[0] != tlog.RecordHash(entries[n%proof.TileWidth]) {
			t.Fatalf("entry %d: %v", n, err)
		}
	}
}

// tileDir reads tiles for tlog, which checks them against the root.
type tileDir string

func (tileDir) Height() int { return 8 }
func (d tileDir) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, x := range tiles {
		b, err := os.ReadFile(filepath.Join(string(d), proof.TilePath(x.L, uint64(x.N), x.W)))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}
func (tileDir) SaveTiles([]tlog.Tile, [][]byte) {}

// BAR-05: a million entries in a minute. Here as many as a test may write.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b.TempDir())
	w.SegmentSize, w.Reserve = 64<<20, 32<<20
	l := w.open(b)
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for i := range 200 {
				if _, err := l.Append(context.Background(), &ostiary.Entry{Kind: ostiary.KindOutcome, Code: fmt.Sprint(i), Agent: "spiffe://test/a",
					Payload: ostiary.Payload{Arguments: make([]byte, 500)}}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	var entries uint64
	for b.Loop() {
		rep, err := proof.VerifyDir(w.Dir, proof.Options{})
		if err != nil {
			b.Fatal(err)
		}
		entries = rep.Entries
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(entries), "ns/entry")
}

// A payload larger than a segment gets a segment of its own.
func TestLargePayload(t *testing.T) {
	w := newWorld(t.TempDir())
	w.SegmentSize, w.Reserve = ledger.MinSegment, ledger.MinSegment
	l := w.open(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			e := intent("a", i)
			e.Payload.Arguments = bytes.Repeat([]byte{byte(i)}, 4<<20)
			r, err := l.Append(context.Background(), e)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := l.Append(context.Background(), outcome(r)); err != nil {
				t.Error(err)
			}
			rec, err := l.Entry(context.Background(), r.Ref)
			if err != nil || len(rec.Entry.Payload.Arguments) != 4<<20 || rec.Entry.Payload.Arguments[77] != byte(i) {
				t.Error("read back", err)
			}
		})
	}
	wg.Wait()
	e := intent("a", 1)
	e.Payload.Arguments = make([]byte, proof.MaxPayload)
	_, err := l.Append(t.Context(), e)
	wantKind(t, "a payload over the limit", err, ostiary.Malformed, "payload_too_long")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyDir(w.Dir, proof.Options{}); err != nil {
		t.Error(err)
	}
	l = w.open(t) // and it is found again
	if _, err := l.Append(t.Context(), intent("a", 2)); err != nil {
		t.Error(err)
	}
}

// M06: one agent's flood takes no place from another's entry.
func TestM06FloodLeavesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, _ := memoryWorld()
		w.Reserve = 16 << 20
		l := w.open(t)
		release := fs.Stall()
		refusal := func(agent string) *ostiary.Entry {
			return &ostiary.Entry{Kind: ostiary.KindOutcome, Agent: ostiary.AgentID(agent), Code: "forbid"}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 10000 {
			wg.Go(func() {
				if _, err := l.Append(context.Background(), refusal("flood")); err != nil {
					mu.Lock()
					refused++
					mu.Unlock()
					wantKind(t, "M06 the flood", err, ostiary.Unavailable, "ledger_busy")
				}
			})
		}
		synctest.Wait()
		if q := l.Status().Queued; q > ledger.QueueLimit/2+1 {
			t.Errorf("M06 the flood holds %d places of %d", q, ledger.QueueLimit)
		}
		quiet := make(chan error, 1)
		go func() { _, err := l.Append(context.Background(), refusal("quiet")); quiet <- err }()
		synctest.Wait()
		release()
		if err := <-quiet; err != nil {
			t.Error("M06 the other agent:", err)
		}
		wg.Wait()
		if refused == 0 {
			t.Error("nothing was refused")
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A log of several months reads and proves across them, also after a restart.
func TestMonths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, month := memoryWorld()
		l := w.open(t)
		first, err := l.Append(t.Context(), intent("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			month.Add(int64(2 * time.Minute))
			time.Sleep(2 * time.Second)
			month.Add(int64(31 * 24 * time.Hour))
			time.Sleep(2 * time.Second)
		}
		last, err := l.Append(t.Context(), intent("a", 2))
		if err != nil {
			t.Fatal(err)
		}
		if first.Ref.Month != "2000-01" || last.Ref.Month != "2000-04" {
			t.Errorf("months %s and %s", first.Ref.Month, last.Ref.Month)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = w.open(t)
		for _, r := range []ostiary.Receipt{first, last} {
			rec, err := l.Entry(t.Context(), r.Ref)
			if err != nil {
				t.Fatal(err)
			}
			text, err := l.Prove(r.Ref)
			if err != nil {
				t.Fatal(err)
			}
			p, err := proof.ParseInclusion(text)
			if err != nil {
				t.Fatal(err)
			}
			s, err := proof.NewSigner(rec.Origin, w.Signer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Verify(rec.Raw, s.VerifierKey()); err != nil {
				t.Errorf("%s: %v", r.Ref, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		rep, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{})
		if err != nil || len(rep.Logs) < 3 {
			t.Fatalf("%+v, %v", rep, err)
		}
		for _, r := range rep.Logs {
			if r.Signed != r.Size {
				t.Errorf("log %s: %d of %d entries are covered by a signature", r.Origin, r.Signed, r.Size)
			}
		}
		// A month in the middle disappears.
		cp := fs.Restart()
		for _, p := range cp.Files() {
			if strings.Contains(p, rep.Logs[1].Dir+"/") {
				if err := cp.Remove(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		rep, err = proof.VerifyFS(cp.Copy("/log"), proof.Options{})
		if err == nil && (rep.Complete || !slices.ContainsFunc(rep.Notes, func(s string) bool { return strings.Contains(s, "is named and not in this copy") })) {
			t.Errorf("a missing month was not said: %+v", rep)
		}
	})
}

// A log whose key is changed names the next one under the old key's signature:
// whoever knows only the old key follows, and believes no other successor.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, month := memoryWorld()
		l := w.open(t)
		first, err := l.Append(t.Context(), intent("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		old := l.Key()
		stop, done := make(chan bool), make(chan int)
		go func() { // traffic
			n := 0
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				if _, err := l.Append(context.Background(), &ostiary.Entry{Kind: ostiary.KindOutcome, Agent: "b", Code: "forbid"}); err != nil {
					t.Error("during the change:", err)
				}
				n++
				time.Sleep(time.Millisecond)
			}
		}()
		time.Sleep(1500 * time.Millisecond)
		for range 2 { // the second time nothing happens
			if err := l.Rotate(t.Context(), nextKey); err != nil {
				t.Fatal(err)
			}
		}
		second, err := l.Append(t.Context(), intent("a", 2))
		if err != nil {
			t.Fatal(err)
		}
		month.Add(int64(2 * time.Minute)) // the next month is under the new key too
		time.Sleep(2500 * time.Millisecond)
		stop <- true
		if n := <-done; n < 1000 {
			t.Errorf("only %d entries of traffic", n)
		}
		third, err := l.Append(t.Context(), intent("a", 3))
		if err != nil {
			t.Fatal(err)
		}
		if first.Ref.Month != "2000-01" || second.Ref.Month != "2000-01.02" || third.Ref.Month != "2000-02" {
			t.Errorf("logs %s, %s and %s", first.Ref, second.Ref, third.Ref)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}

		o := w.Options
		o.Signer = nextKey
		if l, err = ledger.Open(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		_, err = l.Prove(first.Ref)
		wantKind(t, "a proof without the old key", err, ostiary.Conflict, "ledger_key")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		o.Older = []crypto.Signer{w.Signer}
		if l, err = ledger.Open(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		for _, r := range []ostiary.Receipt{first, second, third} {
			if _, err := l.Prove(r.Ref); err != nil {
				t.Error(r.Ref, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}

		rep, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{Keys: map[string]string{first.Origin: old}})
		if err != nil || len(rep.Logs) != 3 {
			t.Fatalf("%+v, %v", rep, err)
		}
		for _, r := range rep.Logs {
			if !r.KeyKnown || r.Signed != r.Size {
				t.Errorf("log %s: known %v, %d of %d entries are covered by a signature", r.Origin, r.KeyKnown, r.Signed, r.Size)
			}
		}
		// Another key in the successor's name.
		forged := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
		s, err := proof.NewSigner(second.Origin, forged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proof.VerifyFS(fs.Copy("/log"), proof.Options{Keys: map[string]string{second.Origin: s.VerifierKey()}}); err == nil {
			t.Error("a successor under another key than it is known by verified")
		}
	})
}

// Keys are changed by people: a log that is handed on without end is refused.
func TestRotateTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := memoryWorld()
		l := w.open(t)
		keys := []crypto.Signer{nextKey, w.Signer}
		var err error
		for n := 0; err == nil && n < 200; n++ {
			err = l.Rotate(t.Context(), keys[n%2])
		}
		wantKind(t, "too often", err, ostiary.Exhausted, "ledger_rotations")
		if _, err := l.Append(t.Context(), intent("a", 1)); err != nil {
			t.Error("the log goes on:", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
