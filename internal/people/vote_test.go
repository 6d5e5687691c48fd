package people_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/proof"
)

// A passkey's word on a vote is verified by whoever has it and its key, and
// works once, in the browser and for the person that were asked.
func TestVote(t *testing.T) {
	h := newHouse(t)
	dana, _ := h.enrol(t, h.invite(t, "dana", people.Approver), "dana")
	h.enrol(t, h.invite(t, "erin", people.Approver), "erin")
	v := ostiary.Vote{Hold: "abcd", Question: ostiary.Digest{1}, Consent: true, Approver: "person:dana", Cast: h.clock().UTC(), Expires: h.clock().UTC()}
	ask := func(visit, name string) []byte {
		t.Helper()
		options, err := h.AskVote(t.Context(), visit, name, v.Statement(), []byte("carried"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := dana.Get(options)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	answer := ask("browser", "dana")
	a, err := h.Voted(t.Context(), "browser", "dana", answer)
	if err != nil || string(a.Carried) != "carried" {
		t.Fatal(a, err)
	}
	s := &ostiary.Signed{Vote: v, Key: a.Key, Credential: a.Credential, Authenticator: a.Authenticator, Client: a.Client, Signature: a.Signature}
	if err := proof.VerifyVote(s); err != nil {
		t.Error(err)
	}
	s.Consent = false
	if proof.VerifyVote(s) == nil {
		t.Error("the opposite vote verifies too")
	}
	_, err = h.Voted(t.Context(), "browser", "dana", answer)
	kind(t, err, ostiary.Unauthenticated, "the same answer again")
	_, err = h.Voted(t.Context(), "another", "dana", ask("browser", "dana"))
	kind(t, err, ostiary.Unauthenticated, "another browser")
	_, err = h.Voted(t.Context(), "browser", "erin", ask("browser", "dana"))
	kind(t, err, ostiary.Unauthenticated, "another person")
	_, _, err = h.SignIn(t.Context(), "browser", ask("browser", "dana"))
	kind(t, err, ostiary.Unauthenticated, "a vote signs nobody in")
	ask("browser", "dana") // begun twice in a second: the dialogue was closed
	if _, err = h.Voted(t.Context(), "browser", "dana", ask("browser", "dana")); err != nil {
		t.Errorf("asked again: %v", err)
	}
	answer = ask("browser", "dana")
	if _, err := h.Revoke(t.Context(), "dana", "left", "ops"); err != nil {
		t.Fatal(err)
	}
	_, err = h.Voted(t.Context(), "browser", "dana", answer)
	kind(t, err, ostiary.Unauthenticated, "a revoked person")
	_, err = h.AskVote(t.Context(), "browser", "dana", v.Statement(), nil)
	kind(t, err, ostiary.Denied, "a revoked person asks")
	if ostiary.AsError(err).Code != "no_passkey" {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	h := newHouse(t)
	h.enrol(t, h.invite(t, "dana", people.Approver), "dana")
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, _ := x509.MarshalPKIXPublicKey(pub)
	k, err := h.AddKey(t.Context(), "dana", spki, "ops")
	if err != nil || k.By != "ops" {
		t.Fatal(k, err)
	}
	_, err = h.AddKey(t.Context(), "dana", spki, "ops")
	kind(t, err, ostiary.Conflict, "the same key")
	h.enrol(t, h.invite(t, "erin", people.Approver), "erin")
	_, err = h.AddKey(t.Context(), "erin", spki, "ops")
	kind(t, err, ostiary.Conflict, "somebody else's key")
	erin, err := h.Person(t.Context(), "erin")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.AddKey(t.Context(), "dana", erin.Passkey[0].Key, "ops")
	kind(t, err, ostiary.Conflict, "somebody else's passkey")
	if _, err := h.Revoke(t.Context(), "erin", "left", "ops"); err != nil {
		t.Fatal(err)
	}
	_, err = h.AddKey(t.Context(), "dana", erin.Passkey[0].Key, "ops")
	kind(t, err, ostiary.Conflict, "a revoked person's passkey")
	_, err = h.AddKey(t.Context(), "nobody", spki, "ops")
	kind(t, err, ostiary.NotFound, "nobody's key")
	weak, _ := rsa.GenerateKey(rand.Reader, 2048)
	other, _ := x509.MarshalPKIXPublicKey(weak.Public())
	for _, bad := range [][]byte{nil, []byte("x"), other} {
		_, err = h.AddKey(t.Context(), "dana", bad, "ops")
		kind(t, err, ostiary.Malformed, "another kind of key")
	}
	p, err := h.Person(t.Context(), "dana")
	if err != nil || len(p.Keys) != 1 || string(p.Keys[0].Key) != string(spki) {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := h.DropKey(t.Context(), "dana", k.ID, "ops"); err != nil {
		t.Fatal(err)
	}
	kind(t, h.DropKey(t.Context(), "dana", k.ID, "ops"), ostiary.NotFound, "a key that is gone")
	for i := range 9 {
		pub, _, _ := ed25519.GenerateKey(rand.Reader)
		spki, _ := x509.MarshalPKIXPublicKey(pub)
		if _, err = h.AddKey(t.Context(), "dana", spki, "ops"); i < 8 && err != nil {
			t.Fatal(err)
		}
	}
	kind(t, err, ostiary.Exhausted, "a ninth key")
	if ostiary.AsError(err).Code != "person_keys" {
		t.Error(err)
	}
}

func TestAdd(t *testing.T) {
	h := newHouse(t)
	p, err := h.Add(t.Context(), "kim", []people.Role{people.Approver}, "ops")
	if err != nil || p.ID != "person:kim" || !p.Has(people.Approver) || len(p.Passkey) != 0 {
		t.Fatal(p, err)
	}
	_, err = h.Add(t.Context(), "kim", nil, "ops")
	kind(t, err, ostiary.Conflict, "the name again")
	_, err = h.Add(t.Context(), "oidc-kim", nil, "ops")
	kind(t, err, ostiary.Malformed, "a provider's name")
	_, err = h.AskVote(t.Context(), "browser", "kim", []byte("x"), nil)
	kind(t, err, ostiary.Denied, "without a passkey")
	a, _ := h.enrol(t, h.invite(t, "kim"), "kim") // later they get one
	if _, err := h.signIn(t, a); err != nil {
		t.Error(err)
	}
}
