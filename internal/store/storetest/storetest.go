// Package storetest is the suite that every engine of control state passes,
// so that what is proven with one holds with all. It trusts nothing but the
// Store interface and an engine's own way to make a commit fail.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
)

// Engine is one way to keep control state.
type Engine struct {
	// Open returns an empty store, closed by the test.
	Open func(t *testing.T) store.Store
	// Reopen closes a store and opens what it kept; nil if it keeps nothing.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Fail makes the next commit report failure: before it happens, or
	// after it has happened.
	Fail func(s store.Store, happened bool)
}

// Run runs the whole suite.
func Run(t *testing.T, e Engine) {
	for name, f := range map[string]func(*testing.T, Engine){
		"Budgets": budgets, "BudgetFaults": budgetFaults, "BudgetWindows": budgetWindows, "LastUnit": lastUnit,
		"JoinTokens": joinTokens, "OneRedeems": oneRedeems, "Revocations": revocations, "Pins": pins,
		"Snapshots": snapshots, "Sessions": sessions, "Logs": logs, "DataKeys": dataKeys, "Rewraps": rewraps,
		"Containments": containments, "Revisions": revisions, "Writers": writers, "Faults": faults,
		"AddAgents": addAgents, "Records": records, "RecordsTaken": recordsTaken, "RecordsSwept": recordsSwept,
		"Holds": holds, "RecordBatches": recordBatches, "Mandates": mandates, "MandateEnds": mandateEnds,
		"Refusals": refusals, "Leaving": leaving, "Durable": durable,
	} {
		t.Run(name, func(t *testing.T) { f(t, e) })
	}
}

var day = time.Date(2026, 11, 20, 12, 0, 0, 123456000, time.UTC)

func want(t *testing.T, err error, kind ostiary.Kind) {
	t.Helper()
	var e *ostiary.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v, want %v", err, kind)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
}

func Token(name string) identity.JoinToken {
	return identity.JoinToken{
		Hash: ostiary.DigestOf([]byte(name)), Agent: ostiary.AgentID("spiffe://a.example/" + name), Principal: "person:dana", Owner: "dana", Zone: "default",
		Roles: []string{"payer", "reader"}, Created: day, Expires: day.Add(time.Hour),
	}
}

// Enrolment makes what an enrolment writes, under a mandate of that name; what
// it claims beyond the token must not be believed.
func Enrolment(id string) func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error) {
	return func(t identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error) {
		return identity.AgentRecord{ID: "spiffe://evil/x", Zone: "evil", Roles: []string{"admin"}, Disabled: true, Enrolled: day, Method: "join_token"},
			identity.MandateRecord{ID: ostiary.MandateID(id), Kind: ostiary.StandingMandate, Agent: "spiffe://evil/x", JWS: "a.b.c", Expires: day.Add(24 * time.Hour)}, nil
	}
}

func joinTokens(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	tok := Token("pay")
	must(t, s.CreateJoinToken(ctx, tok))
	want(t, s.CreateJoinToken(ctx, tok), ostiary.Conflict)

	_, err := s.RedeemJoinToken(ctx, ostiary.DigestOf([]byte("other")), day, Enrolment("m1"))
	want(t, err, ostiary.NotFound)
	_, err = s.RedeemJoinToken(ctx, tok.Hash, tok.Expires, Enrolment("m1"))
	want(t, err, ostiary.Denied)
	boom := errors.New("boom")
	_, err = s.RedeemJoinToken(ctx, tok.Hash, day, func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error) {
		return identity.AgentRecord{}, identity.MandateRecord{}, ostiary.Errorf(ostiary.Internal, "x", "x").Because(boom)
	})
	if !errors.Is(err, boom) {
		t.Fatalf("the maker's error became %v", err)
	}

	var given identity.JoinToken
	a, err := s.RedeemJoinToken(ctx, tok.Hash, day, func(x identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error) {
		given = x
		return Enrolment("m1")(x)
	})
	must(t, err)
	same(t, given, tok)
	expected := identity.AgentRecord{ID: tok.Agent, Principal: tok.Principal, Owner: tok.Owner, Zone: tok.Zone, Roles: tok.Roles, Mandate: "m1", Enrolled: day, Method: "join_token"}
	same(t, a, expected)
	same(t, get[[]identity.AgentRecord](t)(s.Agents(ctx)), []identity.AgentRecord{expected})
	same(t, get[[]identity.MandateRecord](t)(s.Mandates(ctx, day)), []identity.MandateRecord{{ID: "m1", Kind: ostiary.StandingMandate, Agent: tok.Agent, JWS: "a.b.c", Expires: day.Add(24 * time.Hour)}})

	_, err = s.RedeemJoinToken(ctx, tok.Hash, day, Enrolment("m2"))
	want(t, err, ostiary.Conflict)
	_, err = s.RedeemJoinToken(ctx, tok.Hash, day.Add(48*time.Hour), Enrolment("m2"))
	want(t, err, ostiary.Conflict)

	t.Run("enrolled again", func(t *testing.T) {
		again := Token("pay")
		again.Hash, again.Zone = ostiary.DigestOf([]byte("again")), "inner"
		must(t, s.CreateJoinToken(ctx, again))
		_, err = s.RedeemJoinToken(ctx, again.Hash, day, Enrolment("m1"))
		want(t, err, ostiary.Conflict) // the mandate's name is taken, and the token is not spent for it
		a = get[identity.AgentRecord](t)(s.RedeemJoinToken(ctx, again.Hash, day, Enrolment("m2")))
		if all := get[[]identity.AgentRecord](t)(s.Agents(ctx)); len(all) != 1 || all[0].Zone != "inner" || all[0].Mandate != "m2" {
			t.Fatalf("%+v", all)
		}
	})
	t.Run("a maker that panics", func(t *testing.T) {
		if _, ok := s.(*store.Memory); ok {
			t.Skip("the gate recovers; a goroutine of an engine's own must survive")
		}
		other := Token("panics")
		must(t, s.CreateJoinToken(ctx, other))
		_, err := s.RedeemJoinToken(ctx, other.Hash, day, func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error) { panic("bug") })
		want(t, err, ostiary.Internal)
		_, err = s.RedeemJoinToken(ctx, other.Hash, day, Enrolment("m9"))
		must(t, err)
	})
}

func oneRedeems(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	tok := Token("once")
	must(t, s.CreateJoinToken(ctx, tok))
	before := get[uint64](t)(s.Revision(ctx))
	const callers = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	won, others := 0, 0
	for i := range callers {
		wg.Go(func() {
			_, err := s.RedeemJoinToken(ctx, tok.Hash, day, Enrolment(fmt.Sprint("m", i)))
			var oe *ostiary.Error
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.As(err, &oe) && oe.Kind == ostiary.Conflict:
			default:
				others++
			}
		})
	}
	wg.Wait()
	if won != 1 || others != 0 {
		t.Fatalf("%d won, %d got another answer than a conflict", won, others)
	}
	if n := len(get[[]identity.MandateRecord](t)(s.Mandates(ctx, day))); n != 1 {
		t.Fatalf("%d mandates", n)
	}
	if after := get[uint64](t)(s.Revision(ctx)); after != before+1 {
		t.Fatalf("revision %d after %d", after, before)
	}
}

func revocations(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	epoch, all, err := s.Revocations(ctx, 0)
	must(t, err)
	if epoch != 0 || len(all) != 0 {
		t.Fatal(epoch, all)
	}
	for i := range 3 {
		if got := get[uint64](t)(s.Revoke(ctx, identity.Revocation{Epoch: 99, Kind: identity.RevokeAgent, Subject: "spiffe://a/b", At: day, Reason: "lost"})); got != uint64(i+1) {
			t.Fatalf("epoch %d", got)
		}
	}
	epoch, all, err = s.Revocations(ctx, 0)
	must(t, err)
	if epoch != 3 {
		t.Fatal(epoch)
	}
	same(t, all[1], identity.Revocation{Epoch: 2, Kind: identity.RevokeAgent, Subject: "spiffe://a/b", At: day, Reason: "lost"})
	for after, want := range map[uint64]int{1: 2, 3: 0, 9: 0} {
		epoch, next, err := s.Revocations(ctx, after)
		must(t, err)
		if epoch != 3 || len(next) != want || want > 0 && next[0].Epoch != after+1 {
			t.Fatalf("after %d: epoch %d, %+v", after, epoch, next)
		}
	}
	if cs := get[[]store.Change](t)(s.Changes(ctx, 2)); len(cs) != 1 || cs[0].Epoch != 3 || cs[0].Kind != "revocation" {
		t.Fatalf("%+v", cs)
	}
	ended := identity.Revocation{Epoch: 4, Kind: identity.RevokeSession, Subject: "s", Mandate: "m", At: day, Reason: "enough"}
	get[uint64](t)(s.Revoke(ctx, ended))
	_, all, err = s.Revocations(ctx, 3)
	must(t, err)
	same(t, all, []identity.Revocation{ended})
	const more = identity.RevocationsRead
	if won := race(100, func(int) error {
		for range more / 100 {
			if _, err := s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeKey, Subject: "k", At: day}); err != nil {
				return err
			}
		}
		return nil
	}); won != 100 {
		t.Fatal(won)
	}
	for after, want := range map[uint64]int{0: more, 2: more, more: 4} { // a page, and the rest
		epoch, next, err := s.Revocations(ctx, after)
		must(t, err)
		if epoch != 4+more || len(next) != want || next[0].Epoch != after+1 || next[want-1].Epoch != after+uint64(want) {
			t.Fatalf("after %d: epoch %d, %d revocations", after, epoch, len(next))
		}
	}
}

func pin(name, def string) catalog.PinRecord {
	return catalog.PinRecord{Server: "bank", Kind: "tool", Name: name, Pin: ostiary.DigestOf([]byte(def)), Definition: []byte(def), Accepted: day, By: "dana"}
}

func pins(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	a, b := pin("a", `{"x": 1}`), pin("b", `{"x":"é"}`)
	must(t, s.SavePins(ctx, []catalog.PinRecord{b, a}))
	same(t, get[[]catalog.PinRecord](t)(s.Pins(ctx)), []catalog.PinRecord{a, b})
	a2 := pin("a", `{"x":2}`)
	must(t, s.SavePins(ctx, []catalog.PinRecord{a2}))
	same(t, get[[]catalog.PinRecord](t)(s.Pins(ctx)), []catalog.PinRecord{a2, b})
	must(t, s.SavePins(ctx, nil))
	must(t, s.DropPin(ctx, "bank", "tool", "a"))
	want(t, s.DropPin(ctx, "bank", "tool", "a"), ostiary.NotFound)
	same(t, get[[]catalog.PinRecord](t)(s.Pins(ctx)), []catalog.PinRecord{b})
	if rev := get[uint64](t)(s.Revision(ctx)); rev != 3 {
		t.Fatalf("revision %d: one for each write that changed something", rev)
	}
}

func snapshots(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	n, b, err := s.NewestSnapshot(ctx)
	if n != 0 || b != nil || err != nil {
		t.Fatal(n, b, err)
	}
	for _, wrong := range []uint64{0, 2, 1 << 62} {
		want(t, s.SaveSnapshot(ctx, wrong, []byte("x")), ostiary.Conflict)
	}
	must(t, s.SaveSnapshot(ctx, 1, []byte("one")))
	want(t, s.SaveSnapshot(ctx, 1, []byte("other")), ostiary.Conflict)
	want(t, s.SaveSnapshot(ctx, 3, []byte("three")), ostiary.Conflict)
	must(t, s.SaveSnapshot(ctx, 2, []byte("two")))
	n, b, err = s.NewestSnapshot(ctx)
	if n != 2 || string(b) != "two" || err != nil {
		t.Fatal(n, b, err)
	}
	if b := get[[]byte](t)(s.Snapshot(ctx, 1)); string(b) != "one" {
		t.Fatal(b)
	}
	_, err = s.Snapshot(ctx, 3)
	want(t, err, ostiary.NotFound)
	won := race(8, func(int) error { return s.SaveSnapshot(ctx, 3, []byte("x")) })
	if won != 1 {
		t.Fatalf("%d saved one number", won)
	}
}

// race runs f at once n times and counts how often it succeeds.
func race(n int, f func(int) error) (won int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range n {
		wg.Go(func() {
			if f(i) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return won
}

func session(id string) provenance.SessionRecord {
	return provenance.SessionRecord{ID: ostiary.SessionID(id), Agent: "spiffe://a/b", Principal: "person:dana", Mandate: "m", Root: "m", Started: day}
}

func sessions(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	var mu sync.Mutex
	ids := map[ostiary.SessionID]bool{}
	if won := race(50, func(i int) error {
		r, err := s.OpenSession(ctx, session(fmt.Sprint("s", i)))
		mu.Lock()
		defer mu.Unlock()
		ids[r.ID] = true
		return err
	}); won != 50 || len(ids) != 1 {
		t.Fatalf("%d opened, %d sessions", won, len(ids))
	}
	mine := get[provenance.SessionRecord](t)(s.OpenSession(ctx, session("other")))
	race(20, func(i int) error { return s.TaintSession(ctx, mine.ID, fmt.Sprint("server:", 9-i%10)) })
	rev := get[uint64](t)(s.Revision(ctx))
	must(t, s.TaintSession(ctx, mine.ID, "server:3"))
	if again := get[uint64](t)(s.Revision(ctx)); again != rev || rev != 11 {
		t.Fatalf("revision %d, then %d: a taint that is there changes nothing", rev, again)
	}
	fresh := session("another")
	fresh.Taint = []string{"z", "y"}
	got := get[provenance.SessionRecord](t)(s.OpenSession(ctx, fresh))
	if len(got.Taint) != 10 || !slices.IsSorted(got.Taint) || got.ID != mine.ID || !got.Started.Equal(day) {
		t.Fatalf("%+v", got)
	}
	fresh.Mandate, fresh.Root = "m2", "m2"
	got = get[provenance.SessionRecord](t)(s.OpenSession(ctx, fresh))
	fresh.Taint = []string{"y", "z"}
	same(t, got, fresh)
	fresh.Mandate = "m3"
	_, err := s.OpenSession(ctx, fresh)
	want(t, err, ostiary.Conflict)
	want(t, s.TaintSession(ctx, "nobody", "x"), ostiary.NotFound)
	same(t, get[[]string](t)(s.SessionTaint(ctx, got.ID)), []string{"y", "z"})
	same(t, get[[]string](t)(s.SessionTaint(ctx, "nobody")), []string(nil))
	same(t, get[provenance.SessionRecord](t)(s.Session(ctx, got.ID)), got)
	_, err = s.Session(ctx, "nobody")
	want(t, err, ostiary.NotFound)

	// Kin share what they read, before and after they were opened; others do not.
	child, grandchild := session("child"), session("grandchild")
	child.Agent, child.Mandate, child.Root = "spiffe://a/c", "m2/1", "m2"
	grandchild.Agent, grandchild.Mandate, grandchild.Root = "spiffe://a/d", "m2/1/1", "m2"
	same(t, get[provenance.SessionRecord](t)(s.OpenSession(ctx, child)).Taint, []string{"y", "z"})
	same(t, get[provenance.SessionRecord](t)(s.OpenSession(ctx, grandchild)).Root, ostiary.MandateID("m2"))
	must(t, s.TaintSession(ctx, grandchild.ID, "x"))
	must(t, s.TaintSession(ctx, child.ID, "x"))
	for _, id := range []ostiary.SessionID{got.ID, child.ID, grandchild.ID} {
		same(t, get[[]string](t)(s.SessionTaint(ctx, id)), []string{"x", "y", "z"})
	}
	same(t, len(get[[]string](t)(s.SessionTaint(ctx, mine.ID))), 10)
	child.Mandate, child.Root = "m4", ""
	_, err = s.OpenSession(ctx, child)
	want(t, err, ostiary.Malformed)
}

func logs(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	const log = "a/g/2026-11"
	if epoch := get[uint64](t)(s.OpenLog(ctx, log, "key")); epoch != 0 {
		t.Fatal(epoch)
	}
	_, err := s.OpenLog(ctx, log, "other")
	want(t, err, ostiary.Conflict)
	if won := race(16, func(int) error { _, err := s.Fence(ctx, log, 0); return err }); won != 1 {
		t.Fatalf("%d writers", won)
	}
	_, err = s.Fence(ctx, log, 0)
	want(t, err, ostiary.Conflict)
	_, err = s.Fence(ctx, log, 2)
	want(t, err, ostiary.Conflict)
	_, err = s.Fence(ctx, "none", 0)
	want(t, err, ostiary.NotFound)
	if n := get[uint64](t)(s.Fence(ctx, log, 1)); n != 2 {
		t.Fatal(n)
	}
	if epoch := get[uint64](t)(s.OpenLog(ctx, log, "key")); epoch != 2 {
		t.Fatal(epoch)
	}

	one, two := ostiary.DigestOf([]byte("1")), ostiary.DigestOf([]byte("2"))
	size, root, err := s.Head(ctx, log)
	if size != 0 || !root.IsZero() || err != nil {
		t.Fatal(size, root, err)
	}
	must(t, s.Anchor(ctx, log, 5, one))
	must(t, s.Anchor(ctx, log, 5, one))
	want(t, s.Anchor(ctx, log, 5, two), ostiary.Conflict)
	want(t, s.Anchor(ctx, log, 4, one), ostiary.Conflict)
	want(t, s.Anchor(ctx, "none", 1, one), ostiary.NotFound)
	race(30, func(i int) error { return s.Anchor(ctx, log, uint64(6+i), two) })
	size, root, err = s.Head(ctx, log)
	if size != 35 || root != two || err != nil {
		t.Fatal(size, root, err)
	}
	if size, _, err = s.Head(ctx, "none"); size != 0 || err != nil {
		t.Fatal(size, err)
	}
	must2 := get[uint64](t)
	must2(s.OpenLog(ctx, "a/g/2026-12", "key2"))
	must2(s.OpenLog(ctx, "a/deployment/2026-11", "key3"))
	var names []string
	for _, l := range get[[]ledger.LogRecord](t)(s.Logs(ctx)) {
		names = append(names, l.Origin+" "+l.Key)
	}
	same(t, names, []string{log + " key", "a/g/2026-12 key2", "a/deployment/2026-11 key3"})
	if rev := must2(s.Revision(ctx)); rev != 5 {
		t.Fatalf("revision %d: anchors have none", rev)
	}
}

func dataKeys(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	_, err := s.DataKey(ctx, "k")
	want(t, err, ostiary.NotFound)
	var mu sync.Mutex
	seen := map[string]bool{}
	race(20, func(i int) error {
		b, err := s.PutDataKey(ctx, "k", []byte(fmt.Sprint("wrapped", i)))
		mu.Lock()
		defer mu.Unlock()
		seen[string(b)] = true
		return err
	})
	if len(seen) != 1 {
		t.Fatalf("%d keys under one name", len(seen))
	}
	if b := get[[]byte](t)(s.DataKey(ctx, "k")); !seen[string(b)] {
		t.Fatal("another key was stored")
	}
}

// rewraps: a wrap is replaced only where it is still the one that was read.
func rewraps(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	for i := range 7 {
		get[[]byte](t)(s.PutDataKey(ctx, fmt.Sprint("k", i), []byte("old")))
	}
	if all := get[[]store.DataKey](t)(s.DataKeys(ctx, "", 0)); len(all) != 7 || all[0].Name != "k0" || string(all[6].Wrapped) != "old" {
		t.Fatalf("listed %v", all)
	}
	if some := get[[]store.DataKey](t)(s.DataKeys(ctx, "k2", 2)); len(some) != 2 || some[0].Name != "k3" || some[1].Name != "k4" {
		t.Fatalf("after k2: %v", some)
	}
	rev := get[uint64](t)(s.Revision(ctx))
	change := []store.Rewrap{
		{Name: "k1", Old: []byte("old"), New: []byte("new")}, {Name: "k2", Old: []byte("other"), New: []byte("new")},
		{Name: "absent", Old: []byte("old"), New: []byte("new")}, {Name: "k3", Old: []byte("old"), New: []byte("new")},
	}
	if n := get[int](t)(s.RewrapDataKeys(ctx, change)); n != 2 {
		t.Errorf("%d wraps replaced, not 2", n)
	}
	if n := get[int](t)(s.RewrapDataKeys(ctx, change)); n != 0 {
		t.Errorf("asked again, %d were replaced", n)
	}
	if now := get[uint64](t)(s.Revision(ctx)); now != rev+1 {
		t.Errorf("revision %d after %d and one change", now, rev)
	}
	for name, want := range map[string]string{"k0": "old", "k1": "new", "k2": "old", "k3": "new"} {
		if b := get[[]byte](t)(s.DataKey(ctx, name)); string(b) != want {
			t.Errorf("%s is %q", name, b)
		}
	}
	_, err := s.DataKey(ctx, "absent")
	want(t, err, ostiary.NotFound)
	_, err = s.RewrapDataKeys(ctx, []store.Rewrap{{Name: "k0", Old: []byte("old")}})
	want(t, err, ostiary.Malformed)
	_, err = s.RewrapDataKeys(ctx, make([]store.Rewrap, store.MaxWraps+1))
	want(t, err, ostiary.Malformed)

	// Of many who replace the same wrap one does.
	var done atomic.Int64
	race(10, func(i int) error {
		n, err := s.RewrapDataKeys(ctx, []store.Rewrap{{Name: "k0", Old: []byte("old"), New: []byte(fmt.Sprint("by", i))}})
		done.Add(int64(n))
		return err
	})
	if done.Load() != 1 {
		t.Errorf("%d of 10 replaced it", done.Load())
	}
}

func containments(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	c := store.Containment{Scope: "agent", Name: "spiffe://a/b", Level: ostiary.Suspended, Reason: "stolen", By: "dana", At: day}
	rev := get[uint64](t)(s.SetContainment(ctx, "r1", c))
	if again := get[uint64](t)(s.SetContainment(ctx, "r1", c)); again != rev || rev != 1 {
		t.Fatalf("revision %d, then %d", rev, again)
	}
	if at := get[uint64](t)(s.Applied(ctx, "r1")); at != rev {
		t.Fatal(at)
	}
	if at := get[uint64](t)(s.Applied(ctx, "r2")); at != 0 {
		t.Fatal(at)
	}
	c.Rev = rev
	same(t, get[[]store.Containment](t)(s.Containments(ctx)), []store.Containment{c})
	lifted := store.Containment{Scope: "agent", Name: "spiffe://a/b", Level: ostiary.None, By: "dana", At: day.Add(time.Hour)}
	lifted.Rev = get[uint64](t)(s.SetContainment(ctx, "", lifted))
	same(t, get[[]store.Containment](t)(s.Containments(ctx)), []store.Containment{lifted})
	for _, bad := range []ostiary.Containment{ostiary.NotEstablished, ostiary.Suspended + 1} {
		lifted.Level = bad
		_, err := s.SetContainment(ctx, "", lifted)
		want(t, err, ostiary.Malformed)
	}
}

func revisions(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	if rev := get[uint64](t)(s.Revision(ctx)); rev != 0 {
		t.Fatal(rev)
	}
	must(t, s.CreateJoinToken(ctx, Token("a")))
	want(t, s.CreateJoinToken(ctx, Token("a")), ostiary.Conflict)
	want(t, s.DropPin(ctx, "a", "b", "c"), ostiary.NotFound)
	must(t, s.SaveSnapshot(ctx, 1, []byte("x")))
	cs := get[[]store.Change](t)(s.Changes(ctx, 0))
	if len(cs) != 2 || cs[0].Rev != 1 || cs[1].Rev != 2 || cs[0].Kind != "join_token" || cs[1].Kind != "snapshot" {
		t.Fatalf("%+v", cs)
	}
	if rev := get[uint64](t)(s.Applied(ctx, cs[1].Request)); rev != 2 {
		t.Fatal(rev)
	}
	if cs := get[[]store.Change](t)(s.Changes(ctx, 2)); len(cs) != 0 {
		t.Fatalf("%+v", cs)
	}
	if cs := get[[]store.Change](t)(s.Changes(ctx, 1<<63)); len(cs) != 0 {
		t.Fatalf("%+v", cs)
	}
}

// writers lets many write at once while one follows: what it sees has no gap
// and never turns back.
func writers(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	const each, many = 25, 8
	stop := make(chan struct{})
	var follower sync.WaitGroup
	var seen uint64
	follow := func() error {
		cs, err := s.Changes(ctx, seen)
		for _, c := range cs {
			if c.Rev != seen+1 {
				return fmt.Errorf("revision %d after %d", c.Rev, seen)
			}
			seen = c.Rev
		}
		return err
	}
	follower.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := follow(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	race(many, func(w int) error {
		for i := range each {
			switch i % 3 {
			case 0:
				s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: fmt.Sprint(w, i), At: day})
			case 1:
				s.SavePins(ctx, []catalog.PinRecord{pin(fmt.Sprint(w, i), "{}")})
			case 2:
				s.DropPin(ctx, "none", "none", "none") // fails, and takes no number
			}
		}
		return nil
	})
	close(stop)
	follower.Wait()
	must(t, follow())
	if rev := get[uint64](t)(s.Revision(ctx)); rev != seen || rev != many*17 {
		t.Fatalf("revision %d, seen %d", rev, seen)
	}
}

// faults lets each write fail twice: it did not happen, and it happened but
// was reported failed.
func faults(t *testing.T, e Engine) {
	for name, c := range map[string]struct {
		do      func(ctx context.Context, s store.Store) error
		done    func(ctx context.Context, s store.Store) bool
		unknown bool // without a revision its fate cannot be asked for
	}{
		"join token": {
			do:   func(ctx context.Context, s store.Store) error { return s.CreateJoinToken(ctx, Token("new")) },
			done: func(ctx context.Context, s store.Store) bool { return s.CreateJoinToken(ctx, Token("new")) != nil },
		},
		"enrolment": {
			do: func(ctx context.Context, s store.Store) error {
				_, err := s.RedeemJoinToken(ctx, Token("old").Hash, day, Enrolment("m"))
				return err
			},
			done: func(ctx context.Context, s store.Store) bool { as, _ := s.Agents(ctx); return len(as) == 1 },
		},
		"revocation": {
			do: func(ctx context.Context, s store.Store) error {
				epoch, err := s.Revoke(ctx, identity.Revocation{Subject: "x"})
				if err == nil && epoch != 1 {
					return fmt.Errorf("epoch %d", epoch)
				}
				return err
			},
			done: func(ctx context.Context, s store.Store) bool { epoch, _, _ := s.Revocations(ctx, 0); return epoch == 1 },
		},
		"pins": {
			do: func(ctx context.Context, s store.Store) error {
				return s.SavePins(ctx, []catalog.PinRecord{pin("x", "{}")})
			},
			done: func(ctx context.Context, s store.Store) bool { ps, _ := s.Pins(ctx); return len(ps) == 1 },
		},
		"snapshot": {
			do:   func(ctx context.Context, s store.Store) error { return s.SaveSnapshot(ctx, 1, []byte("x")) },
			done: func(ctx context.Context, s store.Store) bool { n, _, _ := s.NewestSnapshot(ctx); return n == 1 },
		},
		"session": {
			do: func(ctx context.Context, s store.Store) error { _, err := s.OpenSession(ctx, session("s")); return err },
			done: func(ctx context.Context, s store.Store) bool {
				r, _ := s.OpenSession(ctx, session("t"))
				return r.ID == "s"
			},
		},
		"fence": {
			do: func(ctx context.Context, s store.Store) error { _, err := s.Fence(ctx, "log", 0); return err },
			done: func(ctx context.Context, s store.Store) bool {
				n, _ := s.OpenLog(ctx, "log", "key")
				return n == 1
			},
		},
		"anchor": {
			do: func(ctx context.Context, s store.Store) error {
				return s.Anchor(ctx, "log", 7, ostiary.DigestOf([]byte("7")))
			},
			done:    func(ctx context.Context, s store.Store) bool { n, _, _ := s.Head(ctx, "log"); return n == 7 },
			unknown: true,
		},
		"containment": {
			do: func(ctx context.Context, s store.Store) error {
				_, err := s.SetContainment(ctx, "", store.Containment{Scope: "all", Level: ostiary.Suspended})
				return err
			},
			done: func(ctx context.Context, s store.Store) bool { cs, _ := s.Containments(ctx); return len(cs) == 1 },
		},
		"records": {
			do: func(ctx context.Context, s store.Store) error {
				a, b := item("x", "1"), item("y", "2")
				_, err := s.WriteRecords(ctx, []record.Record{a, b}, day)
				return err
			},
			done: func(ctx context.Context, s store.Store) bool {
				_, one := s.Record(ctx, "code", "x", day)
				_, other := s.Record(ctx, "code", "y", day)
				return one == nil && other == nil
			},
		},
		"record": {
			do: func(ctx context.Context, s store.Store) error {
				_, err := s.CreateRecord(ctx, item("x", "1"), day)
				return err
			},
			done: func(ctx context.Context, s store.Store) bool {
				_, err := s.Record(ctx, "code", "x", day)
				return err == nil
			},
		},
		"record taken": {
			do: func(ctx context.Context, s store.Store) error {
				r, err := s.TakeRecord(ctx, "code", "there", day)
				if err == nil && string(r.Data) != "1" {
					return fmt.Errorf("took %q", r.Data)
				}
				return err
			},
			done: func(ctx context.Context, s store.Store) bool {
				_, err := s.Record(ctx, "code", "there", day)
				return err != nil
			},
		},
	} {
		for _, happened := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s happened=%v", name, happened), func(t *testing.T) {
				s, ctx := e.Open(t), t.Context()
				must(t, s.CreateJoinToken(ctx, Token("old")))
				get[uint64](t)(s.OpenLog(ctx, "log", "key"))
				get[uint64](t)(s.CreateRecord(ctx, item("there", "1"), day))
				rev := get[uint64](t)(s.Revision(ctx))
				e.Fail(s, happened)
				err := c.do(ctx, s)
				if happened && !c.unknown {
					must(t, err) // asked again by its request, and found
				} else {
					want(t, err, ostiary.Unavailable)
				}
				after := get[uint64](t)(s.Revision(ctx))
				if got := c.done(ctx, s); got != happened {
					t.Fatalf("done: %v", got)
				}
				if happened && !c.unknown != (after == rev+1) {
					t.Fatalf("revision %d after %d", after, rev)
				}
				if !happened && name != "join token" && name != "session" {
					must(t, c.do(ctx, s)) // and the number was given back
					if c.unknown {
						return
					}
					if n := get[uint64](t)(s.Revision(ctx)); n != rev+1 {
						t.Fatalf("revision %d after %d", n, rev)
					}
				}
			})
		}
	}
}

func refusals(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	long := string(make([]byte, 5000))
	want(t, s.CreateJoinToken(ctx, identity.JoinToken{Owner: long}), ostiary.Malformed)
	want(t, s.TaintSession(ctx, "a", "b\x00c"), ostiary.Malformed)
	want(t, s.SaveSnapshot(ctx, 1, nil), ostiary.Malformed)
	want(t, s.SavePins(ctx, []catalog.PinRecord{{Server: long}}), ostiary.Malformed)
	_, err := s.OpenSession(ctx, provenance.SessionRecord{})
	want(t, err, ostiary.Malformed)
	_, err = s.PutDataKey(ctx, "", []byte("x"))
	want(t, err, ostiary.Malformed)
	_, err = s.Revoke(ctx, identity.Revocation{Reason: long})
	want(t, err, ostiary.Malformed)
	if rev := get[uint64](t)(s.Revision(ctx)); rev != 0 {
		t.Fatal(rev)
	}
	must(t, s.Close())
	must(t, s.Close())
	want(t, s.SaveSnapshot(ctx, 1, []byte("x")), ostiary.Unavailable)
	_, err = s.Agents(ctx)
	want(t, err, ostiary.Unavailable)
}

// leaving: a caller who has left does not get half a write, and does not
// break the writes of others.
func leaving(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	race(20, func(i int) error {
		if i%2 == 0 {
			return s.SavePins(gone, []catalog.PinRecord{pin(fmt.Sprint(i), "{}")})
		}
		err := s.SavePins(ctx, []catalog.PinRecord{pin(fmt.Sprint(i), "{}")})
		if err != nil {
			t.Error(err)
		}
		return err
	})
	want(t, s.SaveSnapshot(gone, 1, []byte("x")), ostiary.Unavailable)
	ps := get[[]catalog.PinRecord](t)(s.Pins(ctx))
	if rev := get[uint64](t)(s.Revision(ctx)); rev < 10 || int(rev) < len(ps) {
		t.Fatalf("revision %d, %d pins", rev, len(ps))
	}
}

func durable(t *testing.T, e Engine) {
	if e.Reopen == nil {
		t.Skip("this engine keeps nothing, by design")
	}
	s, ctx := e.Open(t), t.Context()
	must(t, s.CreateJoinToken(ctx, Token("a")))
	get[identity.AgentRecord](t)(s.RedeemJoinToken(ctx, Token("a").Hash, day, Enrolment("m")))
	must(t, s.SavePins(ctx, []catalog.PinRecord{pin("a", "{}")}))
	get[uint64](t)(s.Revoke(ctx, identity.Revocation{Subject: "x", At: day}))
	sess := get[provenance.SessionRecord](t)(s.OpenSession(ctx, session("s")))
	must(t, s.TaintSession(ctx, sess.ID, "server:inbox"))
	get[uint64](t)(s.OpenLog(ctx, "log", "key"))
	get[uint64](t)(s.Fence(ctx, "log", 0))
	must(t, s.Anchor(ctx, "log", 3, ostiary.DigestOf([]byte("3"))))
	get[[]byte](t)(s.PutDataKey(ctx, "k", []byte("w")))
	must(t, s.SaveSnapshot(ctx, 1, []byte("x")))
	get[uint64](t)(s.SetContainment(ctx, "r", store.Containment{Scope: "all", Level: ostiary.None, At: day}))
	get[uint64](t)(s.CreateRecord(ctx, item("kept", "1"), day))
	before := everything(t, s)
	s = e.Reopen(t, s)
	same(t, everything(t, s), before)
	_, err := s.RedeemJoinToken(ctx, Token("a").Hash, day, Enrolment("m2"))
	want(t, err, ostiary.Conflict)
	want(t, s.Anchor(ctx, "log", 2, ostiary.Digest{}), ostiary.Conflict)
	if n := get[uint64](t)(s.Revoke(ctx, identity.Revocation{Subject: "y"})); n != 2 {
		t.Fatalf("epoch %d", n)
	}
}

// everything reads all there is.
func everything(t *testing.T, s store.Store) []any {
	ctx := t.Context()
	agents := get[[]identity.AgentRecord](t)(s.Agents(ctx))
	mandates := get[[]identity.MandateRecord](t)(s.Mandates(ctx, day))
	ps := get[[]catalog.PinRecord](t)(s.Pins(ctx))
	epoch, revoked, err := s.Revocations(ctx, 0)
	must(t, err)
	sess := get[provenance.SessionRecord](t)(s.OpenSession(ctx, session("none")))
	writer := get[uint64](t)(s.OpenLog(ctx, "log", "key"))
	size, root, err := s.Head(ctx, "log")
	must(t, err)
	key := get[[]byte](t)(s.DataKey(ctx, "k"))
	number, signed, err := s.NewestSnapshot(ctx)
	must(t, err)
	contained := get[[]store.Containment](t)(s.Containments(ctx))
	kept := get[[]record.Record](t)(s.Records(ctx, "code", "", 10, day))
	rev := get[uint64](t)(s.Revision(ctx))
	changes := get[[]store.Change](t)(s.Changes(ctx, 0))
	ls, err := s.Logs(ctx)
	must(t, err)
	return []any{agents, mandates, ps, epoch, revoked, sess, writer, size, root, key, number, signed, contained, kept, rev, changes, ls}
}
