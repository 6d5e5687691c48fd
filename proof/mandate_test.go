package proof_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/proof"
)

// mandateVector is the example of docs/reference/mandate-format.md.
type mandateVector struct {
	TrustDomain            string `json:"trust_domain"`
	Key                    string
	Chain, Links           []string
	Agent, Principal, By   string
	Actions, Resources     []string
	Ceilings               []string
	Calls, Depth, NBF, Exp int64
}

func readMandateVector(t testing.TB) (mandateVector, *ecdsa.PublicKey) {
	t.Helper()
	b, err := os.ReadFile("testdata/mandate-chain.json")
	if err != nil {
		t.Fatal(err)
	}
	var v mandateVector
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(v.Key))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return v, key.(*ecdsa.PublicKey)
}

func TestVerifyMandate(t *testing.T) {
	v, key := readMandateVector(t)
	kid, err := proof.MandateKeyID(key)
	if err != nil {
		t.Fatal(err)
	}
	links, e, err := proof.VerifyMandateChain(v.Chain, v.TrustDomain, proof.MandateKeys{kid: key})
	if err != nil {
		t.Fatal(err)
	}
	var ids, ceilings []string
	for _, l := range links {
		ids = append(ids, string(l.ID))
	}
	for _, c := range e.Ceilings {
		ceilings = append(ceilings, strings.Join([]string{c.Action, c.Pointer, c.Max, c.Unit}, " "))
	}
	if string(e.Agent) != v.Agent || string(e.Principal) != v.Principal || string(e.By) != v.By || !slices.Equal(ids, v.Links) || e.Depth != v.Depth ||
		e.NotBefore.Unix() != v.NBF || e.Expires.Unix() != v.Exp || !slices.Equal(e.Actions, v.Actions) || !slices.Equal(e.Resources, v.Resources) ||
		!slices.Equal(ceilings, v.Ceilings) || e.Budget.Calls != v.Calls || links[0].Issuer != "spiffe://"+v.TrustDomain || links[1].Key != kid {
		t.Fatalf("read %+v", e)
	}
	// No single changed byte verifies.
	one := v.Chain[0]
	for i := range len(one) {
		b := []byte(one)
		b[i] ^= 1
		if _, err := proof.VerifyMandate(string(b), key); err == nil {
			t.Fatalf("byte %d changed and it verifies", i)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*ecdsa.PublicKey{nil, &other.PublicKey, &wrong.PublicKey} {
		if _, err := proof.VerifyMandate(one, k); err == nil {
			t.Fatal("it verifies by a key that did not sign it")
		}
		if _, _, err := proof.VerifyMandateChain(v.Chain, v.TrustDomain, proof.MandateKeys{kid: k}); err == nil {
			t.Fatal("the chain verifies by a key that did not sign it")
		}
	}
	if _, err := proof.VerifyMandate(one+strings.Repeat("A", 1<<17), key); err == nil {
		t.Fatal("it verifies at any length")
	}
}

func FuzzVerifyMandate(f *testing.F) {
	v, key := readMandateVector(f)
	f.Add(v.Chain[0])
	f.Add(v.Chain[1])
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := proof.VerifyMandate(text, key); err == nil && !slices.Contains(v.Chain, text) {
			t.Fatalf("forged: %+v", m)
		}
	})
}
