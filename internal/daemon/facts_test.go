package daemon

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/policy"
)

func facts(t *testing.T) agentFacts {
	t.Helper()
	o := identitytest.Options(t)
	a, err := identity.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return agentFacts{a, time.Now}
}

// The gateway may ask servers what they offer, for a moment, and nothing else.
func TestOwnMandate(t *testing.T) {
	r := facts(t)
	f, err := r.AgentFacts(&ostiary.Subject{Agent: r.authority.Self().Agent, Via: ostiary.ViaSelf})
	if err != nil {
		t.Fatal(err)
	}
	bank := &ostiary.Resource{Server: "bank"}
	for name, want := range map[string]bool{policy.ActionDiscoverServer: true, "bank___pay": false, "read_resource": false, "*": false} {
		if f.Mandate.Covers(&ostiary.Action{Name: name}, bank, time.Now()) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	if f.Mandate.Covers(&ostiary.Action{Name: policy.ActionDiscoverServer}, bank, time.Now().Add(time.Hour)) {
		t.Error("it does not end")
	}
}

// An agent of whom nothing is known has no facts, whoever authenticated it.
func TestUnknownAgent(t *testing.T) {
	r := facts(t)
	nobody, err := r.authority.AgentID("nobody")
	if err != nil {
		t.Fatal(err)
	}
	for _, via := range []ostiary.Via{ostiary.ViaNothing, ostiary.ViaSVID, ostiary.ViaToken, ostiary.ViaHeld} {
		f, err := r.AgentFacts(&ostiary.Subject{Agent: nobody, Mandate: "m", Via: via})
		if ostiary.KindOf(err) != ostiary.Denied || f.Mandate.ID != "" {
			t.Errorf("%s: %+v, %v", via, f, err)
		}
	}
}
