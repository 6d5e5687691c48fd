package mandate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

func signer(t testing.TB) *Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New("acme.example", key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func standing() ostiary.Mandate {
	return ostiary.Mandate{
		ID: "m-1", Kind: ostiary.StandingMandate, Principal: "organisation:acme", By: "person:dana", Agent: "spiffe://acme.example/agent/planner",
		Purpose: "standing <&>", Task: "line\nend \u2028 é", Actions: []string{"*"}, Resources: []string{"bank", "inbox"}, Classes: []string{"*"}, Approvers: []string{},
		Ceilings: []ostiary.Ceiling{{Action: "payments", Pointer: "/amount", Max: "2000.5", Unit: "EUR"}},
		Budget:   ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 500_000}}, Calls: 100}, Depth: 2, Epoch: 7, Issued: time.Unix(999, 0).UTC(),
		NotBefore: time.Unix(1000, 0).UTC(), Expires: time.Unix(2000, 0).UTC(),
	}
}

func TestRoundTrip(t *testing.T) {
	s := signer(t)
	parent := ostiary.DigestOf([]byte("x"))
	given := standing()
	given.Parent = "m-0"
	jws, err := s.IssueUnder(given, parent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(jws, "spiffe://acme.example", &s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Mandate, given) || got.Under != parent {
		t.Fatalf("got %+v", got)
	}
	// The auditor's reader agrees.
	other, err := proof.VerifyMandate(jws, &s.key.PublicKey)
	if err != nil || !reflect.DeepEqual(other.Mandate, got.Mandate) || other.Under != parent || other.Issuer != got.Issuer || other.Key != s.kid {
		t.Fatalf("%+v %v", other, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	s := signer(t)
	for name, change := range map[string]func(*ostiary.Mandate){
		"no id":                          func(m *ostiary.Mandate) { m.ID = "" },
		"no principal":                   func(m *ostiary.Mandate) { m.Principal = "" },
		"another domain":                 func(m *ostiary.Mandate) { m.Agent = "spiffe://other.example/a" },
		"no agent":                       func(m *ostiary.Mandate) { m.Agent = "" },
		"no kind":                        func(m *ostiary.Mandate) { m.Kind = ostiary.NoMandateKind },
		"no giver":                       func(m *ostiary.Mandate) { m.By = "" },
		"a grant for no reason":          func(m *ostiary.Mandate) { m.Kind = ostiary.GrantMandate },
		"a break-glass for no reason":    func(m *ostiary.Mandate) { m.Kind = ostiary.BreakGlassMandate },
		"a ceiling of a negative number": func(m *ostiary.Mandate) { m.Ceilings[0].Max = "-1" },
		"a ceiling of nothing":           func(m *ostiary.Mandate) { m.Ceilings = []ostiary.Ceiling{{}} },
		"too many ceilings": func(m *ostiary.Mandate) {
			for range MaxCeilings {
				m.Ceilings = append(m.Ceilings, m.Ceilings[0])
			}
		},
		"a negative budget":           func(m *ostiary.Mandate) { m.Budget.Calls = -1 },
		"negative money":              func(m *ostiary.Mandate) { m.Budget.Money[0].Minor = -1 },
		"a currency twice":            func(m *ostiary.Mandate) { m.Budget.Money = append(m.Budget.Money, m.Budget.Money[0]) },
		"a parent without its digest": func(m *ostiary.Mandate) { m.Parent = "m-0" },
		"no actions":                  func(m *ostiary.Mandate) { m.Actions = nil },
		"too many actions":            func(m *ostiary.Mandate) { m.Actions = make([]string, MaxNames+1) },
		"an empty action":             func(m *ostiary.Mandate) { m.Actions = []string{""} },
		"text that is no text":        func(m *ostiary.Mandate) { m.Task = "\xff" },
		"too long a purpose":          func(m *ostiary.Mandate) { m.Purpose = strings.Repeat("x", MaxText+1) },
		"negative depth":              func(m *ostiary.Mandate) { m.Depth = -1 },
		"too deep":                    func(m *ostiary.Mandate) { m.Depth = MaxDepth + 1 },
		"ends before":                 func(m *ostiary.Mandate) { m.Expires = m.NotBefore },
		"no times":                    func(m *ostiary.Mandate) { m.NotBefore, m.Expires = time.Time{}, time.Time{} },
	} {
		m := standing()
		change(&m)
		if _, err := s.Issue(m); ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New("acme.example", nil); err == nil {
		t.Error("a signer without a key")
	}
}

// forge signs any payload under any header with the real key.
func forge(t testing.TB, s *Signer, body string, header map[jose.HeaderKey]any) string {
	t.Helper()
	opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"typ": Type, "kid": s.kid}}
	for k, v := range header {
		opts.ExtraHeaders[k] = v
		if v == nil {
			delete(opts.ExtraHeaders, k)
		}
	}
	j, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	o, err := j.Sign([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestVerifyRefuses(t *testing.T) {
	s := signer(t)
	jws, err := s.Issue(standing())
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Split(jws, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(part[1])
	body := string(raw)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + s.kid + `","typ":"` + Type + `"}`))
	cases := map[string]string{
		"empty":                      "",
		"another key":                forge(t, signer(t), body, nil),
		"E08 alg none":               none + "." + part[1] + ".",
		"alg none with a signature":  none + "." + part[1] + "." + part[2],
		"an access token":            forge(t, s, body, map[jose.HeaderKey]any{"typ": "at+jwt"}),
		"no typ":                     forge(t, s, body, map[jose.HeaderKey]any{"typ": nil}),
		"jku":                        forge(t, s, body, map[jose.HeaderKey]any{"jku": "https://evil.example"}),
		"padding":                    jws + "=",
		"a line end":                 jws + "\n",
		"a fourth part":              jws + ".",
		"a changed byte":             part[0] + "." + part[1] + "." + "A" + part[2][1:],
		"E11 a member twice":         forge(t, s, strings.Replace(body, `"v":1,`, `"v":1,"v":1,`, 1), nil),
		"E11 a member in other case": forge(t, s, strings.Replace(body, `"v":1,`, `"v":1,"V":1,`, 1), nil),
		"an unknown member":          forge(t, s, strings.Replace(body, `"v":1,`, `"v":1,"w":1,`, 1), nil),
		"a member missing":           forge(t, s, strings.Replace(body, `"kind":"standing",`, ``, 1), nil),
		"exp as text":                forge(t, s, strings.Replace(body, `"exp":2000`, `"exp":"2000"`, 1), nil),
		"exp 1e300":                  forge(t, s, strings.Replace(body, `"exp":2000`, `"exp":1e300`, 1), nil),
		"another version":            forge(t, s, strings.Replace(body, `"v":1`, `"v":2`, 1), nil),
		"an action that is none":     forge(t, s, strings.Replace(body, `["*"]`, `[1]`, 1), nil),
		"null actions":               forge(t, s, strings.Replace(body, `["*"]`, `null`, 1), nil),
		"null classes":               forge(t, s, strings.Replace(body, `"classes":["*"]`, `"classes":null`, 1), nil),
		"a kind that is none":        forge(t, s, strings.Replace(body, `"kind":"standing"`, `"kind":"none"`, 1), nil),
		"a ceiling with more":        forge(t, s, strings.Replace(body, `"unit":"EUR"`, `"unit":"EUR","x":1`, 1), nil),
		"a ceiling with less":        forge(t, s, strings.Replace(body, `,"unit":"EUR"`, ``, 1), nil),
		"a ceiling in floats":        forge(t, s, strings.Replace(body, `"2000.5"`, `2000.5`, 1), nil),
		"a negative amount":          forge(t, s, strings.Replace(body, `"minor":500000`, `"minor":-1`, 1), nil),
		"a budget that is none":      forge(t, s, strings.Replace(body, `"calls":100`, `"calls":1.5`, 1), nil),
		"a parent without digest":    forge(t, s, strings.Replace(body, `"parent":""`, `"parent":"m-0"`, 1), nil),
		"trailing data":              forge(t, s, body+" {}", nil),
		"an array":                   forge(t, s, "["+body+"]", nil),
		"parent that is no digest":   forge(t, s, strings.Replace(body, `"parent_digest":""`, `"parent_digest":"AB"`, 1), nil),
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			if m, _, err := s.Verify(text); ostiary.KindOf(err) != ostiary.Corrupt || m.ID != "" {
				t.Errorf("read: %+v, %v", m, err)
			}
			if m, err := proof.VerifyMandate(text, &s.key.PublicKey); err == nil {
				t.Errorf("the auditor's reader read: %+v", m)
			}
		})
	}
	if _, err := Verify(jws, "spiffe://other.example", &s.key.PublicKey); err == nil {
		t.Error("another trust domain's mandate was read")
	}
}

// Whatever bytes the key has signed, the two readers never differ on what an
// accepted mandate says, and neither panics.
func FuzzVerify(f *testing.F) {
	s := signer(f)
	jws, err := s.Issue(standing())
	if err != nil {
		f.Fatal(err)
	}
	body, _ := base64.RawURLEncoding.DecodeString(strings.Split(jws, ".")[1])
	f.Add(string(body))
	f.Add(`{"v":1}`)
	f.Fuzz(func(t *testing.T, body string) {
		text := forge(t, s, body, nil)
		a, errA := Verify(text, "spiffe://acme.example", &s.key.PublicKey)
		b, errB := proof.VerifyMandate(text, &s.key.PublicKey)
		if errA == nil && errB == nil && (!reflect.DeepEqual(a.Mandate, b.Mandate) || a.Under != b.Under) {
			t.Fatalf("readers differ: %+v %+v", a, b)
		}
	})
}
