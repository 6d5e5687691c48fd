package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// prover has a key and a token that is bound to it.
type prover struct {
	b     *bench
	key   *ecdsa.PrivateKey
	token string
	n     atomic.Int64
}

const door = "https://gw.example:8443/mcp"

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk and thumbprint are of a key of somebody else's making.
func jwkOf(key *ecdsa.PrivateKey) string {
	p, _ := key.PublicKey.Bytes()
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, b64(p[1:33]), b64(p[33:]))
}

func thumbprintOf(key *ecdsa.PrivateKey) string {
	sum := sha256.Sum256([]byte(jwkOf(key)))
	return b64(sum[:])
}

// signES256 signs any header and claims.
func signES256(t testing.TB, key *ecdsa.PrivateKey, header, claims string) string {
	text := b64([]byte(header)) + "." + b64([]byte(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig)
}

func (b *bench) prover(t testing.TB, agent string) *prover {
	t.Helper()
	h := &prover{b: b, key: newKey(t)}
	token, err := b.MintToken(t.Context(), identity.TokenRequest{Agent: ostiary.AgentID("spiffe://test.example/agent/" + agent), Audience: door, Thumbprint: thumbprintOf(h.key)})
	if err != nil {
		t.Fatal(err)
	}
	h.token = string(token.Text.Reveal())
	return h
}

// claims are those of a good proof, with changes; nil takes a claim away.
func (h *prover) claims(changes map[string]any) string {
	sum := sha256.Sum256([]byte(h.token))
	c := map[string]any{"jti": fmt.Sprint("id-", h.n.Add(1)), "htm": "POST", "htu": door, "iat": h.b.opts.Clock().Unix(), "ath": b64(sum[:]), "nonce": h.b.ProofNonce()}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	out, _ := json.Marshal(c)
	return string(out)
}

func (h *prover) header() string {
	return `{"typ":"dpop+jwt","alg":"ES256","jwk":` + jwkOf(h.key) + `}`
}

func (h *prover) show(proof string) ostiary.Credentials {
	return ostiary.Credentials{
		Bearer: ostiary.NewSecret([]byte(h.token)), Audience: door, Encrypted: true,
		Possession: &ostiary.Possession{Proof: proof, Method: "POST", URL: door},
	}
}

func (h *prover) prove(t testing.TB, changes map[string]any) ostiary.Credentials {
	return h.show(signES256(t, h.key, h.header(), h.claims(changes)))
}

func TestPossession(t *testing.T) {
	b := open(t)
	b.enrol(t, "planner")
	h, ctx := b.prover(t, "planner"), t.Context()
	refused := func(t *testing.T, c ostiary.Credentials, code string) {
		t.Helper()
		s, err := b.Authenticate(ctx, c)
		refusedAs(t, err, ostiary.Unauthenticated)
		if got := ostiary.AsError(err).Code; got != code || !s.IsZero() {
			t.Fatalf("code %q, want %q; %+v; %v", got, code, s, err)
		}
	}

	good := h.prove(t, nil)
	first, err := b.Authenticate(ctx, good)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Bound || first.Key.IsZero() || first.Via != ostiary.ViaToken || first.Agent.Name() != "planner" {
		t.Fatalf("%+v", first)
	}
	for range 3 { // on its way one request is looked at again
		if _, err := b.Authenticate(ctx, good); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("E12 replayed", func(t *testing.T) {
		again := h.show(good.Possession.Proof)
		refused(t, again, "dpop_proof")
	})
	t.Run("E12 replayed with the signature's other spelling", func(t *testing.T) {
		part := strings.Split(good.Possession.Proof, ".")
		sig, _ := base64.RawURLEncoding.DecodeString(part[2])
		n, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
		s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:]))
		s.FillBytes(sig[32:])
		refused(t, h.show(part[0]+"."+part[1]+"."+b64(sig)), "dpop_proof")
	})
	t.Run("E12 as a bearer token", func(t *testing.T) {
		c := h.prove(t, nil)
		c.Possession = nil
		refused(t, c, "credentials")
	})
	t.Run("a bearer token with a proof", func(t *testing.T) {
		token, _, err := b.mint(ctx, first.Agent, door, 0)
		if err != nil {
			t.Fatal(err)
		}
		other := &prover{b: b, key: h.key, token: string(token.Reveal())}
		refused(t, other.prove(t, nil), "credentials")
	})
	t.Run("a proof alone", func(t *testing.T) {
		c := h.prove(t, nil)
		c.Bearer = ostiary.Secret{}
		refused(t, c, "no_credentials")
	})
	t.Run("E12 another key", func(t *testing.T) {
		other := &prover{b: b, key: newKey(t), token: h.token}
		refused(t, other.prove(t, nil), "dpop_proof")
	})
	t.Run("E12 the thief's key in the header", func(t *testing.T) {
		thief := newKey(t)
		refused(t, h.show(signES256(t, thief, h.header(), h.claims(nil))), "dpop_proof")
	})
	t.Run("E12 over plain HTTP", func(t *testing.T) {
		c := h.prove(t, nil)
		c.Encrypted = false
		refused(t, c, "credentials")
	})
	now := b.opts.Clock().Unix()
	for name, changes := range map[string]map[string]any{
		"E12 another method":            {"htm": "GET"},
		"E12 a method in lower case":    {"htm": "post"},
		"E12 another host":              {"htu": "https://evil.example:8443/mcp"},
		"E12 another port":              {"htu": "https://gw.example/mcp"},
		"E12 another scheme":            {"htu": "http://gw.example:8443/mcp"},
		"E12 another path":              {"htu": door + "/bank"},
		"E12 a path beside it":          {"htu": door + "/"},
		"E12 a query":                   {"htu": door + "?x=1"},
		"E12 a fragment":                {"htu": door + "#x"},
		"E12 another token's hash":      {"ath": b64(make([]byte, 32))},
		"E12 no token's hash":           {"ath": nil},
		"E12 an empty token's hash":     {"ath": ""},
		"E12 stale":                     {"iat": now - 301},
		"E12 from the future":           {"iat": now + 61},
		"no iat":                        {"iat": nil},
		"iat as a text":                 {"iat": fmt.Sprint(now)},
		"iat with a fraction":           {"iat": json.RawMessage(fmt.Sprintf("%d.5", now))},
		"no jti":                        {"jti": nil},
		"an empty jti":                  {"jti": ""},
		"a jti without end":             {"jti": strings.Repeat("x", 257)},
		"no htm":                        {"htm": nil},
		"no htu":                        {"htu": nil},
		"htu as a list":                 {"htu": []string{door}},
		"claims in another case beside": {"Htu": door},
	} {
		t.Run(name, func(t *testing.T) { refused(t, h.prove(t, changes), "dpop_proof") })
	}
	for name, header := range map[string]string{
		"another typ":          strings.Replace(h.header(), "dpop+jwt", "jwt", 1),
		"an access token":      strings.Replace(h.header(), "dpop+jwt", "at+jwt", 1),
		"E08 alg none":         strings.Replace(h.header(), "ES256", "none", 1),
		"E08 HS256":            strings.Replace(h.header(), "ES256", "HS256", 1),
		"E08 another alg":      strings.Replace(h.header(), "ES256", "ES384", 1),
		"no key":               `{"typ":"dpop+jwt","alg":"ES256"}`,
		"a kid in its place":   `{"typ":"dpop+jwt","alg":"ES256","kid":"x"}`,
		"a kid beside it":      strings.Replace(h.header(), `{`, `{"kid":"x",`, 1),
		"jku":                  strings.Replace(h.header(), `{`, `{"jku":"https://evil.example",`, 1),
		"x5u":                  strings.Replace(h.header(), `{`, `{"x5u":"https://evil.example",`, 1),
		"unknown crit":         strings.Replace(h.header(), `{`, `{"crit":["x"],"x":1,`, 1),
		"a private key":        strings.Replace(h.header(), `"crv"`, `"d":"AA","crv"`, 1),
		"a key twice":          strings.Replace(h.header(), `{`, `{"jwk":{},`, 1),
		"a point off the line": strings.Replace(h.header(), `"y":"`, `"y":"AAAA`, 1),
		"another curve":        strings.Replace(h.header(), "P-256", "P-384", 1),
		"a key to encrypt":     strings.Replace(h.header(), `"crv"`, `"use":"enc","crv"`, 1),
		"a key of another alg": strings.Replace(h.header(), `"crv"`, `"alg":"PS256","crv"`, 1),
	} {
		t.Run(name, func(t *testing.T) { refused(t, h.show(signES256(t, h.key, header, h.claims(nil))), "dpop_proof") })
	}
	t.Run("nonce", func(t *testing.T) {
		elsewhere := open(t) // another process, or this one before it was started again
		for name, nonce := range map[string]any{
			"none": nil, "of no form": "x", "of another gateway": elsewhere.ProofNonce(),
			"a moved slot": func() string {
				n, _ := base64.RawURLEncoding.DecodeString(b.ProofNonce())
				n[7]++
				return b64(n)
			}(),
		} {
			t.Run(name, func(t *testing.T) { refused(t, h.prove(t, map[string]any{"nonce": nonce}), "use_dpop_nonce") })
		}
		old := b.ProofNonce()
		b.pass(30 * time.Second)
		if _, err := b.Authenticate(ctx, h.prove(t, map[string]any{"nonce": old})); err != nil {
			t.Fatal("a nonce of the slot before:", err)
		}
		refused(t, h.show(good.Possession.Proof), "dpop_proof") // still remembered
		b.pass(30 * time.Second)
		refused(t, h.prove(t, map[string]any{"nonce": old}), "use_dpop_nonce")
		refused(t, h.show(good.Possession.Proof), "use_dpop_nonce") // forgotten, and too old
	})
	t.Run("the key is revoked", func(t *testing.T) {
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeKey, Subject: first.Key.String()}); err != nil {
			t.Fatal(err)
		}
		refused(t, h.prove(t, nil), "credentials")
	})
}

// TestProofOnce: of a thousand requests that show one proof one succeeds.
func TestProofOnce(t *testing.T) {
	b := open(t)
	b.enrol(t, "planner")
	h := b.prover(t, "planner")
	for range 3 {
		proof := h.prove(t, nil).Possession.Proof
		var won atomic.Int64
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := b.Authenticate(context.Background(), h.show(proof)); err == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d succeeded", won.Load())
		}
	}
}

// TestCertificateBound: a token bound to a certificate opens what it opens on
// that certificate's connections alone. E13.
func TestCertificateBound(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	mine, other := b.enrol(t, "planner"), b.enrol(t, "other")
	renewed := b.enrol(t, "planner")
	sum := sha256.Sum256(mine.Raw)
	r := identity.TokenRequest{Agent: "spiffe://test.example/agent/planner", Audience: door, Certificate: b64(sum[:]), Until: mine.NotAfter}
	token, err := b.MintToken(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	show := func(c ostiary.Credentials) ostiary.Credentials {
		c.Bearer, c.Audience = token.Text, door
		return c
	}
	s, err := b.Authenticate(ctx, show(svid(mine)))
	if err != nil || !s.Bound || s.Via != ostiary.ViaToken || s.Key != ostiary.DigestOf(mine.RawSubjectPublicKeyInfo) {
		t.Fatalf("%+v %v", s, err)
	}
	if bare, err := b.Authenticate(ctx, svid(mine)); err != nil || len(s.Signers) != 2 || s.Signers[1] != bare.Signers[0] {
		t.Fatalf("signed by %v, the certificate by %v: %v", s.Signers, bare.Signers, err)
	}
	unverified := show(svid(mine))
	unverified.Verified = false
	proven := show(svid(mine))
	proven.Possession = &ostiary.Possession{Proof: "x", Method: "POST", URL: door}
	for name, c := range map[string]ostiary.Credentials{
		"E13 another agent's certificate": show(svid(other)), "E13 another certificate of the agent": show(svid(renewed)),
		"E13 no certificate": show(ostiary.Credentials{Encrypted: true}), "a certificate nobody verified": unverified, "a proof beside it": proven,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Authenticate(ctx, c)
			refusedAs(t, err, ostiary.Unauthenticated)
		})
	}
	t.Run("another agent's token on one's own certificate", func(t *testing.T) {
		sum := sha256.Sum256(other.Raw)
		r := r
		r.Certificate = b64(sum[:])
		stolen, err := b.MintToken(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		c := svid(other)
		c.Bearer, c.Audience = stolen.Text, door
		_, err = b.Authenticate(ctx, c)
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("no token outlives its certificate", func(t *testing.T) {
		r := r
		r.Until = b.opts.Clock().Add(90 * time.Second)
		short, err := b.MintToken(ctx, r)
		if err != nil || short.Expires.After(r.Until) {
			t.Fatal(short.Expires, err)
		}
	})
	t.Run("requests that cannot be meant", func(t *testing.T) {
		for name, f := range map[string]func(*identity.TokenRequest){
			"two bindings":       func(r *identity.TokenRequest) { r.Thumbprint = r.Certificate },
			"no end":             func(r *identity.TokenRequest) { r.Until = time.Time{} },
			"no digest":          func(r *identity.TokenRequest) { r.Certificate = "x" },
			"a scope with quote": func(r *identity.TokenRequest) { r.Scope = `a "b"` },
		} {
			r := r
			f(&r)
			if _, err := b.MintToken(ctx, r); ostiary.KindOf(err) != ostiary.Malformed {
				t.Error(name, err)
			}
		}
	})
	t.Run("the certificate's serial is revoked", func(t *testing.T) {
		s, err := b.Authenticate(ctx, svid(mine))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: s.Serial}); err != nil {
			t.Fatal(err)
		}
		_, err = b.Authenticate(ctx, show(svid(mine)))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
}

// Any proof at all: only the holder's own passes, and only once.
func FuzzProof(f *testing.F) {
	b := open(f)
	b.enrol(f, "planner")
	h := b.prover(f, "planner")
	f.Add(h.header(), h.claims(nil), false)
	f.Add(h.header(), `{"jti":"a","htm":"POST"}`, false)
	f.Add("a.b.c", "", true)
	f.Fuzz(func(t *testing.T, header, claims string, raw bool) {
		text := header
		if !raw {
			text = signES256(t, h.key, header, claims)
		}
		c := h.show(text)
		if s, err := b.Authenticate(t.Context(), c); err == nil {
			if !s.Bound || raw {
				t.Fatalf("%+v", s)
			}
			if _, err := b.Authenticate(t.Context(), h.show(text)); err == nil {
				t.Fatal("accepted twice")
			}
		} else if !s.IsZero() {
			t.Fatalf("%+v", s)
		}
	})
}

// spent reports the processor time of an iteration from here on: other than
// the clock it says little of what else the machine does.
func spent(b *testing.B) (report func()) {
	now := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begun := now()
	return func() { b.ReportMetric(float64(now()-begun)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkPossession shows what a proof on each call costs beside the
// primitive in it.
func BenchmarkPossession(b *testing.B) {
	a := open(b)
	cert := a.enrol(b, "planner")
	h := a.prover(b, "planner")
	b.Run("primitive ECDSA verify", func(b *testing.B) {
		sum := sha256.Sum256([]byte("x"))
		sig, err := ecdsa.SignASN1(rand.Reader, h.key, sum[:])
		if err != nil {
			b.Fatal(err)
		}
		defer spent(b)()
		for b.Loop() {
			if !ecdsa.VerifyASN1(&h.key.PublicKey, sum[:], sig) {
				b.Fatal("not verified")
			}
		}
	})
	b.Run("mTLS session", func(b *testing.B) {
		c := svid(cert)
		defer spent(b)()
		for b.Loop() {
			if _, err := a.Authenticate(context.Background(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("DPoP proof on each call", func(b *testing.B) {
		b.ReportAllocs()
		proofs := make([]string, b.N)
		for i := range proofs {
			proofs[i] = signES256(b, h.key, h.header(), h.claims(nil))
		}
		b.ResetTimer()
		defer spent(b)()
		for _, p := range proofs {
			c := h.show(p)
			for range 2 { // by the door, and by the gate
				if _, err := a.Authenticate(context.Background(), c); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// TestAdmitClient: a person's client is an agent of its own, has nothing but
// what people give it, and is not brought back by asking.
func TestAdmitClient(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	id, err := b.AdmitClient(ctx, "https://client.example/x", "person:dana")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.AdmitClient(ctx, "https://client.example/x", "person:dana")
	other, err2 := b.AdmitClient(ctx, "https://client.example/x", "person:erin")
	if err != nil || err2 != nil || again != id || other == id {
		t.Fatal(id, again, other, err, err2)
	}
	if r, ok := b.Agent(id); !ok || r.Principal != "person:dana" || r.Method != "oauth" || r.Mandate != "" {
		t.Errorf("%+v", r)
	}
	if _, err := b.MintToken(ctx, identity.TokenRequest{Agent: id, Audience: door}); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("a token without a mandate: %v", err)
	}
	m, err := b.IssueMandate(ctx, "person:dana", ostiary.Mandate{Kind: ostiary.TaskMandate, Agent: id, Purpose: "sign-in", Actions: []string{"*"}, Resources: []string{"bank"}, Expires: b.opts.Clock().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	token, err := b.MintToken(ctx, identity.TokenRequest{Agent: id, Mandate: m.ID, Audience: door, Client: "https://client.example/x", Scope: "mcp server:bank"})
	if err != nil {
		t.Fatal(err)
	}
	read, err := b.ReadToken(string(token.Text.Reveal()))
	if err != nil || read.Audience != door || read.Subject.Client != "https://client.example/x" || read.Subject.Mandate != m.ID || read.Subject.Serial != token.ID || read.Subject.Bound {
		t.Fatalf("%+v %v", read, err)
	}
	b.pass(time.Second)
	if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: string(id)}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadToken(string(token.Text.Reveal())); err == nil {
		t.Error("a token of a revoked client is read")
	}
	if _, err := b.AdmitClient(ctx, "https://client.example/x", "person:dana"); err != nil {
		t.Error(err)
	}
	if _, err := b.IssueMandate(ctx, "person:dana", ostiary.Mandate{Kind: ostiary.TaskMandate, Agent: id, Purpose: "sign-in", Actions: []string{"*"}, Resources: []string{"bank"}, Expires: b.opts.Clock().Add(time.Hour)}); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("a revoked client came back: %v", err)
	}
	for i, when := range []*func(string) error{&b.registry.Fail, &b.registry.Lost} { // it did not happen; it happened and was reported failed
		client, boom := fmt.Sprint("https://client.example/", i), errors.New("boom")
		*when = func(op string) error {
			if op == "add_agent" {
				return boom
			}
			return nil
		}
		id, err := b.AdmitClient(ctx, client, "person:dana")
		if !errors.Is(err, boom) || id != "" {
			t.Errorf("%q %v", id, err)
		}
		*when = nil
		if id, err = b.AdmitClient(ctx, client, "person:dana"); err != nil || b.State(id) == "" {
			t.Errorf("again: %q %v", id, err)
		}
	}
	if _, err := b.AdmitClient(ctx, "", "person:dana"); ostiary.KindOf(err) != ostiary.Malformed {
		t.Error(err)
	}
	if _, err := b.AdmitClient(ctx, "x", "dana"); ostiary.KindOf(err) != ostiary.Malformed {
		t.Error(err)
	}
	for _, text := range []string{"", "a.b.c", strings.Repeat("x", 9000)} {
		if _, err := b.ReadToken(text); ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Error(err)
		}
	}
}
