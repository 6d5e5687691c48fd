package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/rotation"
)

// keeper keeps one record. With fail set, writes do not happen; with lost set,
// they happen and are reported failed.
type keeper struct {
	record.Keeper
	mu         sync.Mutex
	r          *record.Record
	fail, lost bool
}

func (k *keeper) Record(_ context.Context, kind, id string, _ time.Time) (record.Record, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.r == nil {
		return record.Record{}, ostiary.Errorf(ostiary.NotFound, "record", "none")
	}
	return *k.r, nil
}

func (k *keeper) write(r record.Record) (uint64, error) {
	if k.fail {
		return 0, ostiary.Errorf(ostiary.Unavailable, "store", "it did not happen")
	}
	r.Revision++
	k.r = &r
	if k.lost {
		return 0, ostiary.Errorf(ostiary.Unavailable, "store", "nobody knows")
	}
	return r.Revision, nil
}

func (k *keeper) CreateRecord(_ context.Context, r record.Record, _ time.Time) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.r != nil {
		return 0, ostiary.Errorf(ostiary.Conflict, "record", "there is one")
	}
	return k.write(r)
}

func (k *keeper) ReplaceRecord(_ context.Context, r record.Record) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.r == nil || k.r.Revision != r.Revision {
		return 0, ostiary.Errorf(ostiary.Conflict, "record", "it moved")
	}
	return k.write(r)
}

// world is a store with any number of processes.
type world struct {
	keeper keeper
	now    time.Time
	made   map[string]int // private keys by name, and how often they were asked for
	events []rotation.Event
	deaf   bool // nothing can be recorded
	mu     sync.Mutex
}

func newWorld() *world {
	return &world{now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), made: map[string]int{}}
}

func (w *world) book(t *testing.T) *rotation.Book {
	t.Helper()
	rules := map[rotation.Purpose]rotation.Rule{}
	for _, p := range rotation.Purposes() {
		rules[p] = rotation.Rule{
			Lead: time.Minute, Window: time.Hour,
			First: func() (rotation.Key, error) {
				return rotation.Key{Name: string(p), ID: "first-" + string(p)}, nil
			},
			Make: func(name string, _ *rotation.Schedule, _ time.Time) (rotation.Key, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.made[name]++
				return rotation.Key{ID: "id-" + name}, nil
			},
		}
	}
	r := rules[rotation.Token]
	r.Shortest = func() (time.Duration, string) { return 10 * time.Minute, "tokens live 10m" }
	rules[rotation.Token] = r
	b, err := rotation.Open(t.Context(), rotation.Options{
		Keeper: &w.keeper, Rules: rules, Clock: func() time.Time { return w.now },
		Record: func(_ context.Context, e rotation.Event) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.deaf {
				return errors.New("the log is full")
			}
			w.events = append(w.events, e)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func span(d time.Duration) *time.Duration { return &d }

// states writes a line as a drawing: "1 retiring, 2 current".
func (w *world) states(b *rotation.Book, p rotation.Purpose) string {
	var all []string
	for _, k := range b.Schedule().Keys(p) {
		all = append(all, fmt.Sprint(k.Generation, " ", b.Schedule().State(k, w.now)))
	}
	return strings.Join(all, ", ")
}

func TestStates(t *testing.T) {
	w := newWorld()
	b := w.book(t)
	if _, err := b.Rotate(t.Context(), rotation.Request{Purposes: []rotation.Purpose{rotation.Token}}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		pass time.Duration
		want string
	}{
		{0, "1 current, 2 next"},
		{time.Minute - time.Millisecond, "1 current, 2 next"},
		{time.Millisecond, "1 retiring, 2 current"},
		{time.Hour - time.Millisecond, "1 retiring, 2 current"},
		{time.Millisecond, "1 refused, 2 current"},
		{1000 * time.Hour, "1 refused, 2 current"},
	} {
		w.now = w.now.Add(step.pass)
		if got := w.states(b, rotation.Token); got != step.want {
			t.Errorf("at %s: %s, want %s", w.now.Format(time.TimeOnly), got, step.want)
		}
	}
	if got := w.states(b, rotation.Root); got != "1 current" {
		t.Errorf("the root, which nobody rotated: %s", got)
	}
}

// What is asked for wrongly, or at the wrong time, changes nothing.
func TestRefused(t *testing.T) {
	w := newWorld()
	b := w.book(t)
	token := []rotation.Purpose{rotation.Token}
	rotate := func(r rotation.Request) error { _, err := b.Rotate(t.Context(), r); return err }
	revoke := func(key, why string) error { _, _, err := b.Revoke(t.Context(), key, why); return err }
	for name, c := range map[string]struct {
		err  error
		code string
	}{
		"nothing":           {rotate(rotation.Request{}), "rotation_purpose"},
		"a purpose unknown": {rotate(rotation.Request{Purposes: []rotation.Purpose{"../token"}}), "rotation_purpose"},
		"a lead too long":   {rotate(rotation.Request{Purposes: token, Lead: span(rotation.MaxTime + 1)}), "rotation_lead"},
		"a negative lead":   {rotate(rotation.Request{Purposes: token, Lead: span(-1)}), "rotation_lead"},
		"a negative window": {rotate(rotation.Request{Purposes: token, Window: span(-1)}), "rotation_window"},
		"a short window":    {rotate(rotation.Request{Purposes: token, Window: span(time.Minute)}), "window_short"},
		"a key unknown":     {revoke("token-9", "why"), "key"},
		"a path":            {revoke("../../token", "why"), "key"},
		"no reason":         {revoke("token-1", " "), "revocation_reason"},
		"a reason too long": {revoke("token-1", strings.Repeat("x", 501)), "revocation_reason"},
		"an empty name":     {revoke("", "why"), "key"},
	} {
		if c.err == nil || ostiary.AsError(c.err).Code != c.code {
			t.Errorf("%s: %v, want %s", name, c.err, c.code)
		}
	}
	if w.keeper.r != nil || len(w.events) > 0 {
		t.Fatal("something was changed")
	}
	if err := rotate(rotation.Request{Purposes: token, Window: span(time.Minute), Force: true}); err != nil {
		t.Error(err)
	}
	if err := rotate(rotation.Request{Purposes: token}); err == nil || ostiary.AsError(err).Code != "rotation_running" {
		t.Errorf("while one is next: %v", err)
	}
	for range 10 {
		w.now = w.now.Add(2 * time.Minute)
		if err := rotate(rotation.Request{Purposes: []rotation.Purpose{rotation.Storage}, Window: span(100 * time.Hour)}); err != nil {
			if ostiary.AsError(err).Code != "rotation_many" {
				t.Error(err)
			}
			return
		}
	}
	t.Error("any number of keys is believed at once")
}

func TestRevoke(t *testing.T) {
	for name, c := range map[string]struct {
		rotated bool
		pass    time.Duration
		key     string
		want    string
	}{
		"the only key":   {false, 0, "token-1", "1 refused, 2 current"},
		"by its id":      {false, 0, "first-token", "1 refused, 2 current"},
		"one with next":  {true, 0, "token-1", "1 refused, 2 current"},
		"one retiring":   {true, 2 * time.Minute, "token-1", "1 refused, 2 current"},
		"the next":       {true, 0, "token-2", "1 retiring, 2 refused, 3 current"},
		"one over":       {true, 400 * 24 * time.Hour, "token-1", "1 refused, 2 current"},
		"the second one": {true, 2 * time.Minute, "token-2", "1 retiring, 2 refused, 3 current"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			b := w.book(t)
			if c.rotated {
				if _, err := b.Rotate(t.Context(), rotation.Request{Purposes: []rotation.Purpose{rotation.Token}}); err != nil {
					t.Fatal(err)
				}
			}
			w.now = w.now.Add(c.pass)
			gone, next, err := b.Revoke(t.Context(), c.key, "a disk was lost")
			if err != nil {
				t.Fatal(err)
			}
			if got := w.states(b, rotation.Token); got != c.want || gone.Revoked == "" || b.Schedule().State(next, w.now) != rotation.Current {
				t.Errorf("%s, want %s; %s signs", got, c.want, next)
			}
			if !b.Schedule().Distrusts(gone.ID) || b.Schedule().Distrusts(next.ID) {
				t.Error("what was begun under it goes on, or what was not does not")
			}
			if _, _, err := b.Revoke(t.Context(), c.key, "again"); err == nil || ostiary.AsError(err).Code != "key_refused" {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// A rotation happened wholly or not at all: whatever fails, and if it happened
// and was reported failed, another process sees all of it or none, and can go on.
func TestEveryFaultTwice(t *testing.T) {
	for name, c := range map[string]struct {
		breaks, mends func(w *world)
		happened      bool
	}{
		"the log":            {func(w *world) { w.deaf = true }, func(w *world) { w.deaf = false }, false},
		"the store":          {func(w *world) { w.keeper.fail = true }, func(w *world) { w.keeper.fail = false }, false},
		"the store's answer": {func(w *world) { w.keeper.lost = true }, func(w *world) { w.keeper.lost = false }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			b := w.book(t)
			all := rotation.Request{Purposes: rotation.Purposes()}
			c.breaks(w)
			if _, err := b.Rotate(t.Context(), all); err == nil {
				t.Fatal("it succeeded")
			}
			c.mends(w)
			next := w.book(t) // as after a kill
			want := "1 current"
			if c.happened {
				want = "1 current, 2 next"
			}
			for _, p := range rotation.Purposes() {
				if got := w.states(next, p); got != want {
					t.Errorf("%s: %s, want %s", p, got, want)
				}
			}
			if _, err := next.Rotate(t.Context(), all); c.happened != (err != nil) {
				t.Errorf("asked again: %v", err)
			}
			for _, p := range rotation.Purposes() { // no second key was made beside the one that was there
				if got := w.states(next, p); got != "1 current, 2 next" {
					t.Errorf("%s in the end: %s", p, got)
				}
			}
			for name := range w.made {
				if !strings.HasPrefix(name, "g2-") {
					t.Errorf("a key %s was made", name)
				}
			}
		})
	}
}

// Of processes that rotate at once each sees the same keys in the end, and no
// line goes without one that signs.
func TestProcessesAtOnce(t *testing.T) {
	w := newWorld()
	var books []*rotation.Book
	for range 4 {
		books = append(books, w.book(t))
	}
	var wg sync.WaitGroup
	for i, b := range books {
		for range 3 {
			wg.Go(func() {
				_, err := b.Rotate(t.Context(), rotation.Request{Purposes: []rotation.Purpose{rotation.Purposes()[i], rotation.Snapshot}})
				if err != nil && ostiary.KindOf(err) != ostiary.Conflict {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, b := range books {
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.states(b, rotation.Snapshot); got != "1 current, 2 next" {
			t.Errorf("snapshot: %s", got)
		}
	}
}

// A stored schedule that does not add up is no schedule.
func TestCorrupt(t *testing.T) {
	w := newWorld()
	b := w.book(t)
	if _, err := b.Rotate(t.Context(), rotation.Request{Purposes: rotation.Purposes()}); err != nil {
		t.Fatal(err)
	}
	good := string(w.keeper.r.Data)
	for name, change := range map[string]func(string) string{
		"cut":             func(s string) string { return s[:len(s)/2] },
		"another version": func(s string) string { return strings.Replace(s, `"v":1`, `"v":2`, 1) },
		"a line is gone":  func(s string) string { return strings.ReplaceAll(s, `"purpose":"root"`, `"purpose":"tree"`) },
		"no name":         func(s string) string { return strings.Replace(s, `"name":"g2-root"`, `"name":""`, 1) },
		"out of order":    func(s string) string { return strings.Replace(s, `"generation":2`, `"generation":1`, 1) },
		"one id twice":    func(s string) string { return strings.Replace(s, `"id":"id-g2-root"`, `"id":"first-root"`, 1) },
		"nothing in force": func(s string) string {
			return strings.Replace(s, `"name":"g2-root"`, `"ends":"2026-01-01T00:00:00Z","name":"g2-root"`, 1)
		},
	} {
		w.keeper.r.Data = []byte(change(good))
		if string(w.keeper.r.Data) == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := b.Load(t.Context()); ostiary.KindOf(err) != ostiary.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := w.states(b, rotation.Root); got != "1 current, 2 next" {
		t.Errorf("what was known is gone: %s", got)
	}
}

// What is refused is forgotten in time, and its number is not used again.
func TestForgetting(t *testing.T) {
	w := newWorld()
	b := w.book(t)
	for range 40 {
		if _, err := b.Rotate(t.Context(), rotation.Request{Purposes: rotation.Purposes()}); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(2 * time.Hour)
	}
	line := b.Schedule().Keys(rotation.Token)
	if n := line[len(line)-1].Generation; n != 41 || len(line) > 10 {
		t.Errorf("the last of %d keys is number %d", len(line), n)
	}
	if name := line[len(line)-1].Name; name != "g41-token" {
		t.Errorf("it is called %s", name)
	}
}
