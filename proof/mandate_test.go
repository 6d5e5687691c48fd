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
	Key, JWS, ID, Agent, Principal, Purpose, Task, Parent string
	Actions, Resources                                    []string
	NBF, Exp, Depth                                       int64
}

func readMandateVector(t testing.TB) (mandateVector, *ecdsa.PublicKey) {
	t.Helper()
	b, err := os.ReadFile("testdata/mandate.json")
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
	m, err := proof.VerifyMandate(v.JWS, key)
	if err != nil {
		t.Fatal(err)
	}
	if string(m.ID) != v.ID || string(m.Agent) != v.Agent || string(m.Principal) != v.Principal || m.Purpose != v.Purpose || m.Task != v.Task ||
		m.Parent.String() != v.Parent || m.Depth != v.Depth || m.NotBefore.Unix() != v.NBF || m.Expires.Unix() != v.Exp ||
		!slices.Equal(m.Actions, v.Actions) || !slices.Equal(m.Resources, v.Resources) || !m.Standing || m.Issuer != "spiffe://acme.example" {
		t.Fatalf("read %+v", m)
	}
	// No single changed byte verifies.
	for i := range len(v.JWS) {
		b := []byte(v.JWS)
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
		if _, err := proof.VerifyMandate(v.JWS, k); err == nil {
			t.Fatal("it verifies by a key that did not sign it")
		}
	}
	if _, err := proof.VerifyMandate(v.JWS+strings.Repeat("A", 1<<17), key); err == nil {
		t.Fatal("it verifies at any length")
	}
}

func FuzzVerifyMandate(f *testing.F) {
	v, key := readMandateVector(f)
	f.Add(v.JWS)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := proof.VerifyMandate(text, key); err == nil && text != v.JWS {
			t.Fatalf("forged: %+v", m)
		}
	})
}
