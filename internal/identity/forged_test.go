package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// issuer returns what only the authority should have, so that tests can sign
// what it never would.
func (b *bench) issuer(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.opts.Dir, "intermediate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := b.opts.Keys.ECDSA("ca-intermediate")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, block.Bytes), key
}

func uri(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestForgedCertificates(t *testing.T) {
	b := open(t)
	good := b.enrol(t, "planner")
	ca, caKey := b.issuer(t)
	now := b.opts.Clock()
	key := newKey(t)
	cases := map[string]func(*x509.Certificate){
		"E04 expired":       func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) },
		"E04 not yet valid": func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) },
		"E04 client only":   func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
		"E04 no EKU":        func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"E04 a third EKU":   func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) },
		"E04 CA bit":        func(c *x509.Certificate) { c.IsCA = true },
		"E04 may sign":      func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"E04 no key usage":  func(c *x509.Certificate) { c.KeyUsage = 0 },
		"E04 no URI name":   func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"planner"} },
		"E04 two URI names": func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(t, "spiffe://test.example/agent/x")) },
		"E04 CN only": func(c *x509.Certificate) {
			c.URIs = nil
			c.Subject = pkix.Name{CommonName: "spiffe://test.example/agent/planner"}
		},
		"E05 dot dot":        func(c *x509.Certificate) { c.URIs[0].Path = "/agent/x/../planner" },
		"E05 percent":        func(c *x509.Certificate) { c.URIs[0] = uri(t, "spiffe://test.example/agent/%2e%2e/planner") },
		"E05 upper case":     func(c *x509.Certificate) { c.URIs[0].Host = "TEST.example" },
		"E05 trailing slash": func(c *x509.Certificate) { c.URIs[0].Path = "/agent/planner/" },
		"E05 empty segment":  func(c *x509.Certificate) { c.URIs[0].Path = "/agent//planner" },
		"E05 port":           func(c *x509.Certificate) { c.URIs[0].Host = "test.example:443" },
		"E05 query":          func(c *x509.Certificate) { c.URIs[0].RawQuery = "a=b" },
		"E05 another domain": func(c *x509.Certificate) { c.URIs[0].Host = "other.example" },
		"E05 no path":        func(c *x509.Certificate) { c.URIs[0].Path = "" },
		"the gateway's name": func(c *x509.Certificate) { c.URIs[0].Path = "/ostiary/gateway" },
		"nobody's name":      func(c *x509.Certificate) { c.URIs[0].Path = "/agent/nobody" },
		"a foreign serial":   func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, // issued in 1970
		"an unknown critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		},
		"key usage not critical": func(c *x509.Certificate) {
			bits, _ := asn1.Marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 15}, Value: bits}}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			c := &x509.Certificate{
				SerialNumber: good.SerialNumber, URIs: []*url.URL{uri(t, "spiffe://test.example/agent/planner")},
				NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute), KeyUsage: x509.KeyUsageDigitalSignature,
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
			}
			change(c)
			der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return // not even a certificate
			}
			if name == "a foreign serial" { // signed by us and well formed: it ends with the agent's first revocation
				if _, err := b.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/planner", At: time.Unix(1, 0)}); err != nil {
					t.Fatal(err)
				}
			}
			_, err = b.Authenticate(t.Context(), svid(cert))
			refusedAs(t, err, ostiary.Unauthenticated)
		})
	}
	t.Run("the authority's own certificates", func(t *testing.T) {
		roots, err := identity.ReadBundle(b.Bundle())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*x509.Certificate{ca, roots[0]} {
			_, err := b.Authenticate(t.Context(), svid(c))
			refusedAs(t, err, ostiary.Unauthenticated)
		}
	})
}

func TestSigningRequests(t *testing.T) {
	b := open(t)
	t.Run("E06 only the key is taken", func(t *testing.T) {
		ca, _ := asn1.Marshal(struct{ IsCA bool }{true})
		key := newKey(t)
		chain, _, err := b.Enrol(t.Context(), b.join(t, "planner"), csr(t, key, &x509.CertificateRequest{
			Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"evil.example"}, EmailAddresses: []string{"a@b.example"},
			IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, URIs: []*url.URL{uri(t, "spiffe://test.example/agent/other")},
			ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: ca}, {Id: []int{2, 5, 29, 15}, Value: []byte{3, 2, 2, 4}}},
		}))
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, chain[0])
		if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://test.example/agent/planner" || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 ||
			c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || c.Subject.String() != "" || c.NotAfter.Sub(b.opts.Clock()) > identity.DefaultSVIDLife {
			t.Fatalf("issued %+v", c)
		}
		if !key.PublicKey.Equal(c.PublicKey) {
			t.Fatal("not even the key")
		}
		for _, e := range c.Extensions { // X509-SVID: critical, as the subject is empty
			if e.Id.Equal([]int{2, 5, 29, 17}) && !e.Critical {
				t.Fatal("the name is not critical")
			}
		}
	})
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	fair, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	good := csr(t, newKey(t), nil)
	broken := append([]byte{}, good...)
	broken[len(broken)-1] ^= 1
	for name, der := range map[string][]byte{
		"E06 P-224": csr(t, p224, nil), "E06 P-521": csr(t, p521, nil), "E06 RSA 1024": csr(t, small, nil),
		"empty": nil, "noise": []byte("noise"), "a signature of another key": broken, "trailing data": append(append([]byte{}, good...), 0),
		"too long": make([]byte, identity.MaxCSR+1), "cut short": good[:10],
	} {
		t.Run(name, func(t *testing.T) {
			join := b.join(t, "x")
			_, _, err := b.Enrol(t.Context(), join, der)
			refusedAs(t, err, ostiary.Malformed)
			// And the token is still good.
			if _, _, err := b.Enrol(t.Context(), join, good); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, key := range map[string]crypto.Signer{"P-384": p384, "RSA 2048": fair, "Ed25519": ed} {
		t.Run(name, func(t *testing.T) {
			chain, _, err := b.Enrol(t.Context(), b.join(t, "y"), csr(t, key, nil))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Authenticate(t.Context(), svid(parse(t, chain[0]))); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestJoinTokens(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	good := csr(t, newKey(t), nil)
	t.Run("E07 a hundred at once", func(t *testing.T) {
		join := b.join(t, "planner")
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 100 {
			wg.Go(func() {
				_, _, err := b.Enrol(ctx, join, good)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if ostiary.KindOf(err) != ostiary.Conflict {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("%d enrolled", won)
		}
	})
	t.Run("expired", func(t *testing.T) {
		b := open(t)
		join := b.join(t, "planner")
		b.pass(identity.DefaultJoinLife)
		_, _, err := b.Enrol(ctx, join, good)
		refusedAs(t, err, ostiary.Denied, "join_token_expired")
	})
	join := b.join(t, "second")
	bare, print, _ := strings.Cut(join, ".")
	for name, c := range map[string]struct {
		secret string
		kind   ostiary.Kind
	}{
		"unknown":            {bare[:len(bare)-2] + "AA", ostiary.Unauthenticated},
		"another deployment": {bare + "." + strings.Repeat("ab", 32), ostiary.Unauthenticated},
		"empty":              {"", ostiary.Malformed},
		"no prefix":          {bare[8:], ostiary.Malformed},
		"short":              {bare[:len(bare)-1], ostiary.Malformed},
		"long":               {bare + "A", ostiary.Malformed},
		"padded":             {bare + "=", ostiary.Malformed},
		"not canonical":      {bare[:len(bare)-1] + "B", ostiary.Malformed},
		"empty print":        {bare + ".", ostiary.Malformed},
		"upper case print":   {bare + "." + strings.ToUpper(print), ostiary.Malformed},
		"a line end":         {bare + "\n", ostiary.Malformed},
		"E14 quotes":         {"ostjoin_' OR '1'='1", ostiary.Malformed},
		"E14 1 MiB":          {"ostjoin_" + strings.Repeat("A", 1<<20), ostiary.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := b.Enrol(ctx, c.secret, good)
			if err == nil || ostiary.KindOf(err) != c.kind {
				t.Fatalf("%v; want %s", err, c.kind)
			}
		})
	}
	if _, _, err := b.Enrol(ctx, bare, good); err != nil {
		t.Fatalf("without the fingerprint: %v", err)
	}
	t.Run("what a token may say", func(t *testing.T) {
		ok := identity.JoinToken{Agent: "spiffe://test.example/agent/x", Principal: "person:x"}
		for name, change := range map[string]func(*identity.JoinToken){
			"another domain":     func(j *identity.JoinToken) { j.Agent = "spiffe://other.example/agent/x" },
			"the gateway's name": func(j *identity.JoinToken) { j.Agent = "spiffe://test.example/ostiary/gateway" },
			"no name":            func(j *identity.JoinToken) { j.Agent = "x" },
			"no principal":       func(j *identity.JoinToken) { j.Principal = "" },
			"no kind":            func(j *identity.JoinToken) { j.Principal = "dana" },
			"control characters": func(j *identity.JoinToken) { j.Owner = "a\x1b[2J" },
			"a long role":        func(j *identity.JoinToken) { j.Roles = []string{strings.Repeat("x", 300)} },
			"many roles":         func(j *identity.JoinToken) { j.Roles = make([]string, 65) },
		} {
			j := ok
			change(&j)
			if _, _, err := b.MintJoinToken(ctx, j, 0); ostiary.KindOf(err) != ostiary.Malformed {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, _, err := b.MintJoinToken(ctx, ok, identity.MaxJoinLife+1); ostiary.KindOf(err) != ostiary.Malformed {
			t.Error(err)
		}
	})
}

// forge signs any header and claims with the authority's token key.
func (b *bench) forge(t testing.TB, header, claims string) string {
	t.Helper()
	key, err := b.opts.Keys.ECDSA("token")
	if err != nil {
		t.Fatal(err)
	}
	e := base64.RawURLEncoding.EncodeToString
	text := e([]byte(header)) + "." + e([]byte(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + e(sig)
}

func TestForgedTokens(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	b.enrol(t, "planner")
	const audience = "https://gw.example/mcp"
	token, ends, err := b.mint(ctx, "spiffe://test.example/agent/planner", audience, 0)
	if err != nil {
		t.Fatal(err)
	}
	if life := ends.Sub(b.opts.Clock()); life > identity.MaxTokenLife || life < identity.MaxTokenLife-time.Second {
		t.Fatalf("it lives %s", life)
	}
	real := string(token.Reveal())
	part := strings.Split(real, ".")
	decode := func(s string) string { x, _ := base64.RawURLEncoding.DecodeString(s); return string(x) }
	header, claims := decode(part[0]), decode(part[1])
	show := func(text string) ostiary.Credentials {
		return ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(text)), Audience: audience, Encrypted: true}
	}
	loop := show(real)
	loop.Encrypted, loop.Loopback = false, true
	if _, err := b.Authenticate(ctx, loop); err != nil {
		t.Fatal(err)
	}

	swap := func(s, old, new string) string {
		if !strings.Contains(s, old) {
			t.Fatalf("%s is not in %s", old, s)
		}
		return strings.Replace(s, old, new, 1)
	}
	var c map[string]any
	if err := json.Unmarshal([]byte(claims), &c); err != nil {
		t.Fatal(err)
	}
	with := func(name string, v any) string {
		d := map[string]any{}
		for k, x := range c {
			d[k] = x
		}
		if d[name] = v; v == nil {
			delete(d, name)
		}
		out, _ := json.Marshal(d)
		return string(out)
	}
	now := b.opts.Clock().Unix()
	thumb := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	// What the forger makes is refused for what it says, not for how it was made.
	for _, text := range []string{real, b.forge(t, header, claims), b.forge(t, header, with("nbf", now-1))} {
		s, err := b.Authenticate(ctx, show(text))
		if err != nil {
			t.Fatal(err)
		}
		if s.Bound || !s.Key.IsZero() || s.Via != ostiary.ViaToken || s.Agent.Name() != "planner" || s.Mandate == "" || s.Principal != "person:dana" {
			t.Fatalf("subject %+v", s)
		}
	}
	hmacToken := func() string {
		key, _ := b.opts.Keys.ECDSA("token")
		spki, _ := x509.MarshalPKIXPublicKey(key.Public())
		e := base64.RawURLEncoding.EncodeToString
		text := e([]byte(swap(header, "ES256", "HS256"))) + "." + part[1]
		m := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		m.Write([]byte(text))
		return text + "." + e(m.Sum(nil))
	}
	enc := base64.RawURLEncoding.EncodeToString
	cases := map[string]string{
		"E08 alg none":                    enc([]byte(swap(header, "ES256", "none"))) + "." + part[1] + ".",
		"E08 HS256 with the public key":   hmacToken(),
		"E08 alg of another case":         b.forge(t, swap(header, "ES256", "es256"), claims),
		"another typ":                     b.forge(t, swap(header, "at+jwt", "JWT"), claims),
		"a mandate's typ":                 b.forge(t, swap(header, "at+jwt", "ostiary-mandate+jwt"), claims),
		"typ with application/":           b.forge(t, swap(header, "at+jwt", "application/at+jwt"), claims),
		"unknown crit":                    b.forge(t, swap(header, `{`, `{"crit":["x"],"x":1,`), claims),
		"jku":                             b.forge(t, swap(header, `{`, `{"jku":"https://evil.example/k",`), claims),
		"x5u":                             b.forge(t, swap(header, `{`, `{"x5u":"https://evil.example/k",`), claims),
		"jwk":                             b.forge(t, swap(header, `{`, `{"jwk":{},`), claims),
		"another kid":                     b.forge(t, swap(header, `"kid":"`, `"kid":"x`), claims),
		"alg twice":                       b.forge(t, swap(header, `{`, `{"alg":"none",`), claims),
		"b64 false":                       b.forge(t, swap(header, `{`, `{"b64":false,`), claims),
		"E09 no exp":                      b.forge(t, header, with("exp", nil)),
		"E09 no aud":                      b.forge(t, header, with("aud", nil)),
		"E09 empty aud":                   b.forge(t, header, with("aud", "")),
		"E09 E15 two audiences":           b.forge(t, header, with("aud", []string{audience, "https://other.example"})),
		"E09 one audience in a list":      b.forge(t, header, with("aud", []string{audience})),
		"E09 audience prefix":             b.forge(t, header, with("aud", audience+"/x")),
		"E09 audience of the prefix":      b.forge(t, header, with("aud", audience[:len(audience)-1])),
		"E09 audience in another case":    b.forge(t, header, with("aud", strings.ToUpper(audience))),
		"E09 no client":                   b.forge(t, header, with("client_id", "")),
		"E09 azp beside it":               b.forge(t, header, with("azp", "x")),
		"E09 iss with trailing slash":     b.forge(t, header, with("iss", "https://test.example/ostiary/")),
		"E09 no iss":                      b.forge(t, header, with("iss", nil)),
		"E09 nbf in the future":           b.forge(t, header, with("nbf", now+1)),
		"E09 iat in the future":           b.forge(t, header, with("iat", now+60)),
		"E09 exp as string":               b.forge(t, header, with("exp", fmt.Sprint(now+60))),
		"E09 exp 1e300":                   b.forge(t, header, with("exp", json.RawMessage("1e300"))),
		"E09 exp beyond 64 bits":          b.forge(t, header, with("exp", json.RawMessage("99999999999999999999"))),
		"E09 exp with a fraction":         b.forge(t, header, with("exp", json.RawMessage(fmt.Sprintf("%d.5", now+60)))),
		"E09 exp negative":                b.forge(t, header, with("exp", -1)),
		"E09 exp null":                    b.forge(t, header, with("exp", json.RawMessage("null"))),
		"E09 expired":                     b.forge(t, header, with("exp", now)),
		"E09 lives too long":              b.forge(t, header, with("exp", now+601)),
		"E11 sub twice":                   b.forge(t, header, swap(claims, `{`, `{"sub":"person:eve",`)),
		"E11 sub in another case":         b.forge(t, header, swap(claims, `{`, `{"Sub":"person:eve",`)),
		"E11 sub escaped":                 b.forge(t, header, swap(claims, `{`, `{"s\u0075b":"person:eve",`)),
		"E11 act twice":                   b.forge(t, header, swap(claims, `{`, `{"act":{"sub":"spiffe://test.example/agent/other"},`)),
		"no act":                          b.forge(t, header, with("act", nil)),
		"act as a text":                   b.forge(t, header, with("act", "spiffe://test.example/agent/planner")),
		"act with something beside":       b.forge(t, header, with("act", map[string]string{"sub": "spiffe://test.example/agent/planner", "iss": "x"})),
		"J05 act of a foreign chain":      b.forge(t, header, with("act", json.RawMessage(`{"sub":"spiffe://test.example/agent/planner","act":{"sub":"spiffe://other.example/agent/x"}}`))),
		"cnf of no form":                  b.forge(t, header, with("cnf", map[string]string{"jkt": "x"})),
		"cnf empty":                       b.forge(t, header, with("cnf", map[string]string{})),
		"cnf twice":                       b.forge(t, header, with("cnf", map[string]string{"jkt": thumb, "x5t#S256": thumb})),
		"cnf of another method":           b.forge(t, header, with("cnf", map[string]string{"kid": thumb})),
		"E12 cnf without its proof":       b.forge(t, header, with("cnf", map[string]string{"jkt": thumb})),
		"E13 cnf without its certificate": b.forge(t, header, with("cnf", map[string]string{"x5t#S256": thumb})),
		"scope empty":                     b.forge(t, header, with("scope", "")),
		"scope with a word twice":         b.forge(t, header, with("scope", "a a")),
		"scope as a list":                 b.forge(t, header, with("scope", []string{"a"})),
		"nobody":                          b.forge(t, header, strings.ReplaceAll(claims, "agent/planner", "agent/nobody")),
		"the gateway":                     b.forge(t, header, strings.ReplaceAll(claims, "agent/planner", "ostiary/gateway")),
		"another domain":                  b.forge(t, header, strings.ReplaceAll(claims, "spiffe://test.example", "spiffe://other.example")),
		"another principal":               b.forge(t, header, with("sub", "person:eve")),
		"a foreign id":                    b.forge(t, header, with("jti", "00")),
		"another id":                      b.forge(t, header, with("jti", strings.Repeat("0", 40))),
		"padding":                         real + "=",
		"a line end":                      real + "\n",
		"a space":                         " " + real,
		"two parts":                       part[0] + "." + part[1],
		"four parts":                      real + ".x",
		"another spelling of the bits":    real[:len(real)-1] + string(rune(real[len(real)-1])+1),
		"JSON serialization":              `{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`,
		"claims that are no object":       b.forge(t, header, `["sub"]`),
		"trailing data after the claims":  b.forge(t, header, claims+"{}"),
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := b.Authenticate(ctx, show(text))
			refusedAs(t, err, ostiary.Unauthenticated)
			if !s.IsZero() {
				t.Fatalf("and yet a subject: %+v", s)
			}
		})
	}
	t.Run("a mandate that is not the agent's", func(t *testing.T) {
		_, err := b.Authenticate(ctx, show(b.forge(t, header, with("mandate", string(identity.GatewayMandate)))))
		refusedAs(t, err, ostiary.Denied)
	})
	t.Run("F01 what was accepted once is for its audience still", func(t *testing.T) {
		c := show(real)
		c.Audience = "https://gw.example/mcp/bank"
		_, err := b.Authenticate(ctx, c)
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("expiry to the second", func(t *testing.T) {
		b.now.Store(ends.UnixNano() - 1)
		if _, err := b.Authenticate(ctx, show(real)); err != nil {
			t.Fatal(err)
		}
		b.now.Store(ends.UnixNano())
		_, err := b.Authenticate(ctx, show(real))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("limits of minting", func(t *testing.T) {
		for name, f := range map[string]func() error{
			"too long": func() error {
				_, _, err := b.mint(ctx, "spiffe://test.example/agent/planner", "a", time.Hour)
				return err
			},
			"negative": func() error {
				_, _, err := b.mint(ctx, "spiffe://test.example/agent/planner", "a", -1)
				return err
			},
			"no audience": func() error { _, _, err := b.mint(ctx, "spiffe://test.example/agent/planner", "", 0); return err },
		} {
			if ostiary.KindOf(f()) != ostiary.Malformed {
				t.Error(name)
			}
		}
		if _, _, err := b.mint(ctx, "spiffe://test.example/agent/nobody", "a", 0); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
	})
}

func FuzzBearer(f *testing.F) {
	b := open(f)
	b.enrol(f, "planner")
	token, _, err := b.mint(f.Context(), "spiffe://test.example/agent/planner", "aud", 0)
	if err != nil {
		f.Fatal(err)
	}
	real := string(token.Reveal())
	f.Add(real)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := b.Authenticate(t.Context(), ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(text)), Audience: "aud", Encrypted: true})
		if (err == nil) != (text == real) || err != nil && !s.IsZero() {
			t.Fatalf("%q: %+v %v", text, s, err)
		}
	})
}

// Any claims at all under a good signature: only what is ours to say passes.
func FuzzClaims(f *testing.F) {
	b := open(f)
	b.enrol(f, "planner")
	token, _, err := b.mint(f.Context(), "spiffe://test.example/agent/planner", "aud", 0)
	if err != nil {
		f.Fatal(err)
	}
	part := strings.Split(string(token.Reveal()), ".")
	header, _ := base64.RawURLEncoding.DecodeString(part[0])
	claims, _ := base64.RawURLEncoding.DecodeString(part[1])
	f.Add(string(header), string(claims))
	f.Add(string(header), `{"sub":"spiffe://test.example/agent/planner"}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		s, err := b.Authenticate(t.Context(), ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(b.forge(t, header, claims))), Audience: "aud", Encrypted: true})
		if err == nil && (s.Agent != "spiffe://test.example/agent/planner" || s.Bound || s.Expires.Sub(s.Issued) > identity.MaxTokenLife) {
			t.Fatalf("%s: %+v", claims, s)
		}
	})
}

func FuzzCSR(f *testing.F) {
	b := open(f)
	f.Add(csr(f, newKey(f), nil))
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, _, err := b.Enrol(t.Context(), b.join(t, "planner"), der)
		if err != nil {
			if k := ostiary.KindOf(err); k != ostiary.Malformed {
				t.Fatal(err)
			}
			return
		}
		c := parse(t, chain[0])
		if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://test.example/agent/planner" || c.IsCA || len(c.DNSNames)+len(c.IPAddresses) > 0 {
			t.Fatalf("issued %+v", c)
		}
	})
}

func FuzzJoinSecret(f *testing.F) {
	f.Add("ostjoin_" + strings.Repeat("A", 43))
	f.Add("ostjoin_" + strings.Repeat("A", 43) + "." + strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, text string) {
		secret, print, err := identity.ParseJoinSecret(text)
		if err != nil {
			return
		}
		again := "ostjoin_" + base64.RawURLEncoding.EncodeToString(secret[:])
		if !print.IsZero() {
			again += "." + print.String()
		}
		if again != text {
			t.Fatalf("%q is read as %q", text, again)
		}
	})
}

func FuzzBundle(f *testing.F) {
	b := open(f)
	f.Add(b.Bundle())
	f.Add(append(b.Bundle(), b.Bundle()...))
	f.Fuzz(func(t *testing.T, text []byte) {
		if certs, err := identity.ReadBundle(text); err == nil && len(certs) == 0 {
			t.Fatal("read nothing")
		}
	})
}
