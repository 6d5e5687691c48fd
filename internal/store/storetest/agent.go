package storetest

import (
	"slices"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/store"
)

func addAgents(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	a := identity.AgentRecord{ID: "spiffe://a.example/client/1", Principal: "person:dana", Owner: "person:dana", Zone: "default", Roles: []string{"client", "b"}, Mandate: "ignored", Enrolled: day, Method: "oauth", Disabled: true}
	must(t, s.AddAgent(ctx, a))
	kept := a
	kept.Mandate, kept.Disabled, kept.Roles = "", false, []string{"b", "client"}
	same(t, get[[]identity.AgentRecord](t)(s.Agents(ctx)), []identity.AgentRecord{kept})
	if cs := get[[]store.Change](t)(s.Changes(ctx, 0)); len(cs) != 1 || cs[0].Kind != "agent" || cs[0].Key != string(a.ID) {
		t.Fatalf("%+v", cs)
	}
	again := a
	again.Zone, again.Roles = "inner", nil
	must(t, s.AddAgent(ctx, again)) // it stays as it is
	same(t, get[[]identity.AgentRecord](t)(s.Agents(ctx)), []identity.AgentRecord{kept})
	if rev := get[uint64](t)(s.Revision(ctx)); rev != 1 {
		t.Fatalf("revision %d", rev)
	}
	for _, f := range []func(*identity.AgentRecord){
		func(a *identity.AgentRecord) { a.Principal = "person:erin" }, func(a *identity.AgentRecord) { a.Method = "join_token" },
	} {
		other := a
		f(&other)
		want(t, s.AddAgent(ctx, other), ostiary.Conflict)
	}
	b := a
	b.ID = "spiffe://a.example/client/2"
	if won := race(20, func(int) error { return s.AddAgent(ctx, b) }); won != 20 {
		t.Fatalf("%d were told that it is there", won)
	}
	all := get[[]identity.AgentRecord](t)(s.Agents(ctx))
	if !slices.IsSortedFunc(all, func(x, y identity.AgentRecord) int { return len(x.ID) - len(y.ID) }) || len(all) != 2 {
		t.Fatalf("%+v", all)
	}
}
