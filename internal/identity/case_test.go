package identity_test

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// TestNamesInLowerCase: no two names differ in case, spaces or form alone,
// because none but those of lower-case ASCII is made. What is older stays.
func TestNamesInLowerCase(t *testing.T) {
	b := open(t)
	good := identity.JoinToken{Agent: "spiffe://test.example/agent/planner", Principal: "person:dana", Owner: "team:pay", Zone: "core", Roles: []string{"teller"}}
	for name, c := range map[string]struct {
		change func(*identity.JoinToken)
		field  string
	}{
		"H05 an agent":                {func(t *identity.JoinToken) { t.Agent = "spiffe://test.example/agent/Planner" }, "agent"},
		"H05 a principal":             {func(t *identity.JoinToken) { t.Principal = "person:Dana" }, "principal"},
		"H05 a kind of principal":     {func(t *identity.JoinToken) { t.Principal = "Person:dana" }, "principal"},
		"H05 an owner":                {func(t *identity.JoinToken) { t.Owner = "team:Pay" }, "owner"},
		"H05 a zone":                  {func(t *identity.JoinToken) { t.Zone = "Core" }, "zone"},
		"H05 a role":                  {func(t *identity.JoinToken) { t.Roles = []string{"teller", "Boss"} }, "roles"},
		"H05 a role with a space":     {func(t *identity.JoinToken) { t.Roles = []string{"teller "} }, "roles"},
		"H05 a principal, decomposed": {func(t *identity.JoinToken) { t.Principal = "person:jose\u0301" }, "principal"},
		"H05 a zone in full width":    {func(t *identity.JoinToken) { t.Zone = "ｃore" }, "owner"},
		"H05 a look-alike role":       {func(t *identity.JoinToken) { t.Roles = []string{"tеller"} }, "roles"},
	} {
		t.Run(name, func(t *testing.T) {
			j := good
			c.change(&j)
			_, _, err := b.MintJoinToken(t.Context(), j, 0)
			if ostiary.KindOf(err) != ostiary.Malformed || ostiary.AsError(err).Field != c.field {
				t.Errorf("%v, want a refusal of %s", err, c.field)
			}
		})
	}
	t.Run("what is older stays", func(t *testing.T) {
		var secret [32]byte
		old := identity.JoinToken{Agent: "spiffe://test.example/agent/Old", Principal: "person:Dana", Owner: "person:Dana", Zone: "Core", Roles: []string{"Teller"}, Created: b.opts.Clock(), Expires: b.opts.Clock().Add(time.Hour)}
		old.Hash = ostiary.DigestOf(secret[:])
		if err := b.opts.Registry.CreateJoinToken(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Enrol(t.Context(), "ostjoin_"+base64.RawURLEncoding.EncodeToString(secret[:]), csr(t, newKey(t), nil)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.MintJoinToken(t.Context(), old, 0); err != nil {
			t.Errorf("it may not join again: %v", err)
		}
		old.Roles = []string{"Teller", "Boss"}
		if _, _, err := b.MintJoinToken(t.Context(), old, 0); ostiary.KindOf(err) != ostiary.Malformed || ostiary.AsError(err).Code != "name_case" {
			t.Errorf("it gets a new name of the kind: %v", err)
		}
	})
}
