package daemon

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/console"
)

// TestO06Given: a person sees and ends what they gave, and nobody else's; with
// the person everything they gave ends.
func TestO06Given(t *testing.T) {
	r := start(t)
	a := r.d.authority
	id := a.Agents()[0].ID
	give := func(by ostiary.PrincipalID) ostiary.Mandate {
		t.Helper()
		m, err := a.IssueMandate(t.Context(), by, ostiary.Mandate{Kind: ostiary.TaskMandate, Agent: id, Task: "x", Purpose: "x", Actions: []string{"*"}, Resources: []string{"*"}, Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	wide, err := a.IssueMandate(t.Context(), "person:max", ostiary.Mandate{Kind: ostiary.TaskMandate, Agent: id, Task: "x", Purpose: "x", Actions: []string{"*"}, Resources: []string{"*"}, Depth: 1, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.AdmitClient(t.Context(), "https://client.example/x", "person:max"); err != nil {
		t.Fatal(err)
	}
	for _, below := range a.Agents() {
		if below.ID == id {
			continue
		}
		for range 3 {
			if _, err := a.DeriveMandate(t.Context(), ostiary.Subject{Agent: id, Principal: "person:max", Mandate: wide.ID, Via: ostiary.ViaSVID, Issued: time.Now(), Epoch: a.Epoch()}, ostiary.Mandate{Agent: below.ID}); err != nil {
				t.Fatal(err)
			}
		}
		break
	}
	if all, err := (given{a, r.d.control}).Given(t.Context(), "person:max"); err != nil || len(all) != 1 || all[0].ID != wide.ID || all[0].Below != 3 {
		t.Errorf("what an agent derived is on its giver's page: %+v, %v", all, err)
	}
	mine, second, other := give("person:dana"), give("person:dana"), give("person:kim")
	g := given{a, r.d.control}
	states := func(by ostiary.PrincipalID) map[ostiary.MandateID]string {
		t.Helper()
		all, err := g.Given(t.Context(), by)
		if err != nil {
			t.Fatal(err)
		}
		out := map[ostiary.MandateID]string{}
		for _, x := range all {
			out[x.ID] = x.State
		}
		return out
	}
	if s := states("person:dana"); s[mine.ID] != console.InForce || s[second.ID] != console.InForce || s[other.ID] != "" {
		t.Errorf("%v", s)
	}
	named, err := a.IssueMandate(t.Context(), "person:root", ostiary.Mandate{Kind: ostiary.TaskMandate, Principal: "person:dana", Agent: id, Task: "x", Purpose: "x", Actions: []string{"*"}, Resources: []string{"*"}, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if s := states("person:dana"); s[named.ID] != console.InForce {
		t.Errorf("what an operator gave in a person's name is not on their page: %v", s)
	}
	if err := g.End(t.Context(), "person:dana", named.ID, false, "not in my name"); err != nil || states("person:dana")[named.ID] != "revoked" {
		t.Errorf("a person ends what acts in their name: %v", err)
	}
	if err := g.End(t.Context(), "person:dana", other.ID, false, "x"); ostiary.KindOf(err) != ostiary.NotFound || err == nil {
		t.Errorf("O06: somebody else's mandate ends: %v", err)
	}
	if err := g.End(t.Context(), "person:dana", mine.ID, true, "done"); err != nil {
		t.Fatal(err)
	}
	if s := states("person:dana"); s[mine.ID] != "completed" || s[second.ID] != console.InForce {
		t.Errorf("%v", s)
	}
	if err := endGiven(a, time.Now)(t.Context(), "person:dana", "root"); err != nil {
		t.Fatal(err)
	}
	if s := states("person:dana"); s[second.ID] != "revoked" {
		t.Errorf("after the person was revoked: %v", s)
	}
	if s := states("person:kim"); s[other.ID] != console.InForce {
		t.Errorf("somebody else's: %v", s)
	}
}
