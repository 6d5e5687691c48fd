package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// task is a task mandate's row.
func task(id, parent string, n int) identity.MandateRecord {
	return identity.MandateRecord{
		ID: ostiary.MandateID(id), Kind: ostiary.TaskMandate, Agent: "spiffe://td/agent/x", Parent: ostiary.MandateID(parent), Principal: "person:dana", By: "person:eve",
		JWS: "signed " + id, Issued: day.Add(time.Duration(n) * time.Second), Expires: day.Add(time.Duration(n) * time.Hour),
	}
}

func ids(list []identity.MandateRecord) string {
	var out []string
	for _, m := range list {
		out = append(out, string(m.ID))
	}
	return strings.Join(out, " ")
}

func mandates(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	listed := func(f identity.MandateFilter) string {
		t.Helper()
		return ids(get[[]identity.MandateRecord](t)(s.MandateHistory(ctx, f)))
	}
	for i, m := range []identity.MandateRecord{task("a", "", 1), task("b", "a", 2), task("c", "b", 3)} {
		if i == 2 {
			m.Kind, m.Agent, m.Principal, m.By = ostiary.BreakGlassMandate, "spiffe://td/agent/y", "organisation:o", "person:fay"
			m.Parent = ""
		}
		must(t, s.CreateMandate(ctx, m))
		want(t, s.CreateMandate(ctx, m), ostiary.Conflict)
	}
	same(t, get[[]identity.MandateRecord](t)(s.MandateHistory(ctx, identity.MandateFilter{ID: "b"})), []identity.MandateRecord{task("b", "a", 2)})
	same(t, ids(get[[]identity.MandateRecord](t)(s.Mandates(ctx, day.Add(2*time.Hour)))), "c")
	for text, f := range map[string]identity.MandateFilter{
		"c b a": {}, "c b": {Limit: 2}, "b a": {Agent: "spiffe://td/agent/x"}, "b": {Parent: "a"}, "c": {Principal: "person:fay"}, "": {ID: "d"},
	} {
		same(t, listed(f), text)
	}
	same(t, listed(identity.MandateFilter{Principal: "person:dana"}), "b a")
	same(t, listed(identity.MandateFilter{Principal: "person:dana", First: true, Limit: 1}), "a") // however much was derived from it since
	same(t, listed(identity.MandateFilter{Review: true}), "c")

	// A standing one is its agent's, or nobody's.
	standing := task("s", "", 4)
	standing.Kind = ostiary.StandingMandate
	want(t, s.CreateMandate(ctx, standing), ostiary.NotFound)
	same(t, listed(identity.MandateFilter{ID: "s"}), "")
	tok := Token("x")
	must(t, s.CreateJoinToken(ctx, tok))
	get[identity.AgentRecord](t)(s.RedeemJoinToken(ctx, tok.Hash, day, Enrolment("first")))
	standing.Agent = tok.Agent
	must(t, s.CreateMandate(ctx, standing))
	if a := get[[]identity.AgentRecord](t)(s.Agents(ctx)); len(a) != 1 || a[0].Mandate != "s" {
		t.Fatalf("the agent's standing mandate is not the new one: %+v", a)
	}
	same(t, ids(get[[]identity.MandateRecord](t)(s.Mandates(ctx, day.AddDate(9, 0, 0)))), "first s")

	// Somebody reviews it once.
	must(t, s.ReviewMandate(ctx, "c", "eve", day))
	must(t, s.ReviewMandate(ctx, "c", "mallory", day.Add(time.Hour)))
	want(t, s.ReviewMandate(ctx, "d", "eve", day), ostiary.NotFound)
	if m := get[[]identity.MandateRecord](t)(s.MandateHistory(ctx, identity.MandateFilter{ID: "c"}))[0]; m.Reviewer != "eve" || !m.Reviewed.Equal(day) {
		t.Fatalf("reviewed by %q at %v", m.Reviewer, m.Reviewed)
	}
	same(t, listed(identity.MandateFilter{Review: true}), "")

	want(t, s.CreateMandate(ctx, identity.MandateRecord{ID: "e", JWS: "x"}), ostiary.Malformed)
	bad := task("e", "", 1)
	bad.JWS = strings.Repeat("x", 1<<17)
	want(t, s.CreateMandate(ctx, bad), ostiary.Malformed)
}

func mandateEnds(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	epochs := func() uint64 {
		t.Helper()
		n, _, err := s.Revocations(ctx, 0)
		must(t, err)
		return n
	}
	for i := range 3 {
		must(t, s.CreateMandate(ctx, task(fmt.Sprint("m", i), "", 5)))
	}
	end := identity.MandateEnd{ID: "m0", How: identity.EndCompleted, By: "eve", Why: "done", At: day}
	// Of many who end it, one does; the epoch is raised once.
	var all sync.WaitGroup
	var mu sync.Mutex
	raised := 0
	for range 16 {
		all.Go(func() {
			n, err := s.EndMandate(ctx, end)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if n != 0 {
				raised++
			}
		})
	}
	all.Wait()
	if raised != 1 || epochs() != 1 {
		t.Fatalf("%d raised the epoch, which is %d", raised, epochs())
	}
	m := get[[]identity.MandateRecord](t)(s.MandateHistory(ctx, identity.MandateFilter{ID: "m0"}))[0]
	if m.How != identity.EndCompleted || m.EndedBy != "eve" || m.Why != "done" || !m.Ended.Equal(day) {
		t.Fatalf("it ended as %+v", m)
	}
	same(t, ids(get[[]identity.MandateRecord](t)(s.Mandates(ctx, day))), "m1 m2")
	_, err := s.EndMandate(ctx, identity.MandateEnd{ID: "none", How: identity.EndRevoked, At: day})
	want(t, err, ostiary.NotFound)

	// The epoch is one, whatever raised it.
	if n := get[uint64](t)(s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://td/agent/x", At: day, Reason: "r"})); n != 2 {
		t.Fatalf("epoch %d", n)
	}
	end.ID = "m1"
	if n := get[uint64](t)(s.EndMandate(ctx, end)); n != 3 || epochs() != 3 {
		t.Fatalf("epoch %d of %d", n, epochs())
	}

	// Every fault twice: it did not happen, and it happened but was reported
	// failed. Asked again, it is ended once.
	for _, happened := range []bool{false, true} {
		before := epochs()
		e.Fail(s, happened)
		end.ID = "m2"
		n, err := s.EndMandate(ctx, end)
		var known *ostiary.Error
		if err != nil && !errors.As(err, &known) {
			t.Fatal(err)
		}
		if err != nil {
			n, err = s.EndMandate(ctx, end)
			must(t, err)
		}
		if now := epochs(); now > before+1 || n != 0 && n != now {
			t.Fatalf("happened %v: epoch %d after %d, said %d", happened, now, before, n)
		}
	}
	if e.Reopen == nil {
		return
	}
	s = e.Reopen(t, s)
	if got := get[[]identity.MandateRecord](t)(s.Mandates(ctx, day)); len(got) != 0 || epochs() < 4 {
		t.Fatalf("after opening again %s is in force, at epoch %d", ids(got), epochs())
	}
}
