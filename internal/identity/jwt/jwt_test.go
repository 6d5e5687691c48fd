package jwt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
)

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issuer is somebody else with a library of their own.
type issuer struct {
	ec  *ecdsa.PrivateKey
	rsa *rsa.PrivateKey
	set *Set
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{ec: ecKey(t)}
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.ec.Public(), KeyID: "e", Use: "sig"}, {Key: i.rsa.Public(), KeyID: "r"}}})
	if err != nil {
		t.Fatal(err)
	}
	if i.set, err = ParseSet(text); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *issuer) sign(t testing.TB, alg jose.SignatureAlgorithm, headers map[string]any, claims any) string {
	t.Helper()
	var key any = i.rsa
	if alg == jose.ES256 {
		key = i.ec
	}
	o := &jose.SignerOptions{}
	for k, v := range headers {
		o = o.WithHeader(jose.HeaderKey(k), v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func idjag(changes map[string]any) map[string]any {
	c := map[string]any{"iss": "https://idp.example", "sub": "u1", "aud": "https://as.example", "client_id": "c", "jti": "1", "exp": 300, "iat": 0, "email": "dana@acme.example"}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func TestForeignKinds(t *testing.T) {
	i := newIssuer(t)
	head := func(kid string) map[string]any { return map[string]any{"typ": "oauth-id-jag+jwt", "kid": kid} }
	for alg, kid := range map[jose.SignatureAlgorithm]string{jose.ES256: "e", jose.PS256: "r", jose.RS256: "r"} {
		got, err := IDJAG.Read(i.sign(t, alg, head(kid), idjag(map[string]any{"aud": []string{"https://as.example"}})), i.set)
		if err != nil || got.Text("sub") != "u1" || got.Audience() != "https://as.example" {
			t.Errorf("%s: %v", alg, err)
		}
	}
	for name, text := range map[string]string{
		"a client assertion":       i.sign(t, jose.ES256, map[string]any{"typ": "JWT", "kid": "e"}, idjag(nil)),
		"no typ":                   i.sign(t, jose.ES256, map[string]any{"kid": "e"}, idjag(nil)),
		"E10 another's kid":        i.sign(t, jose.ES256, head("x"), idjag(nil)),
		"no kid, of two keys":      i.sign(t, jose.ES256, map[string]any{"typ": "oauth-id-jag+jwt"}, idjag(nil)),
		"the other key's kid":      i.sign(t, jose.ES256, head("r"), idjag(nil)),
		"an alg of no row":         i.sign(t, jose.RS512, head("r"), idjag(nil)),
		"jku":                      i.sign(t, jose.ES256, map[string]any{"typ": "oauth-id-jag+jwt", "kid": "e", "jku": "https://evil.example"}, idjag(nil)),
		"E09 two audiences":        i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"aud": []string{"https://as.example", "x"}})),
		"E09 no exp":               i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"exp": nil})),
		"E09 exp as text":          i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"exp": "300"})),
		"E09 exp 1e300":            i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"exp": 1e300})),
		"lives too long":           i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"exp": 3601})),
		"ends before it begins":    i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"exp": 10, "iat": 20})),
		"E11 sub in another case":  i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"Sub": "u2"})),
		"scope as a list":          i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"scope": []string{"a"}})),
		"no client":                i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"client_id": nil})),
		"claims that are a text":   i.sign(t, jose.ES256, head("e"), "sub"),
		"longer than any":          i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"x": strings.Repeat("x", MaxText)})),
		"deeper than any":          i.sign(t, jose.ES256, head("e"), idjag(map[string]any{"x": json.RawMessage(strings.Repeat("[", 20) + strings.Repeat("]", 20))})),
		"nothing":                  "",
		"three dots with nothing":  "..",
		"a token in JSON's clothe": `{"protected":"","payload":"","signature":""}`,
	} {
		if _, err := IDJAG.Read(text, i.set); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := IDJAG.Read(i.sign(t, jose.ES256, head("e"), idjag(nil)), nil); err == nil {
		t.Error("accepted without keys")
	}
	if _, err := IDJAG.Sign(i.ec, "e", idjag(nil)); err == nil {
		t.Error("we signed another's kind")
	}
}

func TestKeySets(t *testing.T) {
	good := func() string { b, _ := Export(&ecKey(t).PublicKey); return string(b) }
	set := func(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }
	a := good()
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	small := fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB","kid":"s"}`, base64.RawURLEncoding.EncodeToString(weak.N.Bytes()))
	for name, c := range map[string]struct {
		text []byte
		fine bool
	}{
		"one":                        {set(a), true},
		"two":                        {set(a, good()), true},
		"one beside foreign ones":    {set(`{"kty":"OKP","crv":"X25519","x":"AA"}`, `{"kty":"EC","crv":"P-521","x":"","y":""}`, `{"kty":"RSA","use":"enc"}`, a), true},
		"foreign ones only":          {set(`{"kty":"OKP"}`), false},
		"none":                       {set(), false},
		"one name twice":             {set(a, a), false},
		"a private key":              {set(strings.Replace(a, `{`, `{"d":"AA",`, 1)), false},
		"a symmetric key beside":     {set(a, `{"kty":"oct","k":"AA"}`), false},
		"a short RSA key":            {set(a, small), false},
		"another exponent":           {set(strings.Replace(small, "AQAB", "Aw", 1)), false},
		"a point that is none":       {set(strings.Replace(a, `"x":"`, `"x":"A`, 1)), false},
		"keys of another form":       {[]byte(`{"keys":{}}`), false},
		"no object":                  {[]byte(`[]`), false},
		"keys twice":                 {[]byte(`{"keys":[` + a + `],"keys":[]}`), false},
		"trailing data":              {append(set(a), '{'), false},
		"larger than any":            {append(set(a), []byte(strings.Repeat(" ", MaxSet))...), false},
		"more keys than an issuer's": {set(strings.Split(strings.Repeat(`{"kty":"OKP"} `, maxKeys+1), " ")[:maxKeys+1]...), false},
	} {
		if _, err := ParseSet(c.text); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestThumbprint: the vector of RFC 7638, section 3.1, and our spelling of a
// key against the library's.
func TestThumbprint(t *testing.T) {
	key := ecKey(t)
	text, err := Export(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseSet([]byte(`{"keys":[` + string(text) + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	want, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(5) // crypto.SHA256
	if err != nil {
		t.Fatal(err)
	}
	if got := set.keys[0].Thumbprint(); got != base64.RawURLEncoding.EncodeToString(want) {
		t.Errorf("%s is not the library's", got)
	}
	const vector = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	if set, err = ParseSet([]byte(`{"keys":[` + vector + `]}`)); err != nil {
		t.Fatal(err)
	}
	if got := set.keys[0].Thumbprint(); got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Error(got)
	}
}

func FuzzRead(f *testing.F) {
	i := newIssuer(f)
	f.Add(i.sign(f, jose.ES256, map[string]any{"typ": "oauth-id-jag+jwt", "kid": "e"}, idjag(nil)))
	f.Add(i.sign(f, jose.PS256, map[string]any{"typ": "JWT", "kid": "r"}, idjag(nil)))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		read := 0
		for _, k := range []*Kind{AccessToken, IDJAG, ClientAssertion} {
			if got, err := k.Read(text, i.set); err == nil {
				read++
				if got.Claims.Kind() != ostiary.Object || got.Text("iss") == "" {
					t.Fatal("a token without claims")
				}
			}
		}
		if read > 1 {
			t.Fatalf("%q is of %d kinds", text, read)
		}
	})
}

func FuzzSet(f *testing.F) {
	b, _ := Export(&ecKey(f).PublicKey)
	f.Add([]byte(`{"keys":[` + string(b) + `]}`))
	f.Add([]byte(`{"keys":[` + string(b[:len(b)-1]) + `,"alg":"6"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := ParseSet(text); err == nil {
			for _, k := range s.keys {
				if k.Public == nil || k.Digest.IsZero() || !k.fits("ES256") && !k.fits("PS256") && !k.fits("RS256") {
					t.Fatalf("%+v", k)
				}
			}
		}
	})
}
