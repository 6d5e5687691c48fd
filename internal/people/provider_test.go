package people_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/people"
)

// issuer is an OpenID provider that a test can make lie.
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey

	discovery func(map[string]any)              // changes the discovery document
	claims    func(map[string]any)              // changes the ID token
	raw       func(map[string]any) string       // replaces its payload
	sign      func(payload string) (jws string) // replaces its signature
	token     func(w http.ResponseWriter) bool  // replaces the token endpoint's answer
	asked     atomic.Int64

	mu    sync.Mutex
	codes map[string]url.Values // of the authorization request
}

func newIssuer(t *testing.T) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	say := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		doc := map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256"}, "code_challenge_methods_supported": []string{"S256"},
			"authorization_response_iss_parameter_supported": true,
		}
		if i.discovery != nil {
			i.discovery(doc)
		}
		say(w, doc)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		say(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if i.token != nil && i.token(w) {
			return
		}
		r.ParseForm()
		i.mu.Lock()
		asked, ok := i.codes[r.Form.Get("code")]
		delete(i.codes, r.Form.Get("code"))
		i.mu.Unlock()
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		id, secret, _ := r.BasicAuth()
		if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || id != "ostiary" || secret != "hush" || r.Form.Get("redirect_uri") != asked.Get("redirect_uri") {
			w.WriteHeader(http.StatusBadRequest)
			say(w, map[string]any{"error": "invalid_grant"})
			return
		}
		say(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": i.idToken(asked.Get("nonce"))})
	})
	return i
}

func (i *issuer) idToken(nonce string) string {
	c := map[string]any{
		"iss": i.URL, "sub": "1234", "aud": "ostiary", "exp": start.Add(5 * time.Minute).Unix(), "iat": start.Unix(), "nonce": nonce,
		"name": "Dana <b>Example</b>", "email": "dana@example.org", "email_verified": true, "groups": []string{"staff"},
	}
	if i.claims != nil {
		i.claims(c)
	}
	b, _ := json.Marshal(c)
	text := string(b)
	if i.raw != nil {
		text = i.raw(c)
	}
	if i.sign != nil {
		return i.sign(text)
	}
	return i.signed(text, jose.SigningKey{Algorithm: jose.ES256, Key: i.key})
}

func (i *issuer) signed(text string, key jose.SigningKey) string {
	s, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		panic(err)
	}
	jws, err := s.Sign([]byte(text))
	if err != nil {
		panic(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return out
}

// authorize is the person at the provider: it returns what their browser
// comes back with.
func (i *issuer) authorize(t *testing.T, to string) url.Values {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for k, want := range map[string]string{"response_type": "code", "client_id": "ostiary", "code_challenge_method": "S256", "redirect_uri": origin + people.CallbackPath} {
		if q.Get(k) != want {
			t.Errorf("asked with %s=%q, want %q", k, q.Get(k), want)
		}
	}
	if q.Get("state") == "" || q.Get("nonce") == "" || q.Get("state") == q.Get("nonce") || len(q.Get("code_challenge")) != 43 {
		t.Errorf("asked with %v", q)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	code := fmt.Sprint("code", len(i.codes), q.Get("state")[:8])
	i.codes[code] = q
	return url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {i.URL}}
}

func withProvider(t *testing.T, i *issuer, more ...func(*people.ProviderOptions)) *house {
	t.Helper()
	var h *house
	o := people.ProviderOptions{
		Issuer: i.URL, ClientID: "ostiary", Secret: ostiary.NewSecret([]byte("hush")),
		Domains: map[string][]people.Role{"example.org": {people.Auditor}},
		Groups:  map[string][]people.Role{"security": {people.Operator}},
		Client:  func(base string) (*http.Client, error) { return egress.NewClient(base, nil) },
		Clock:   func() time.Time { return h.clock() },
	}
	for _, f := range more {
		f(&o)
	}
	p, err := people.NewProvider(o)
	if err != nil {
		t.Fatal(err)
	}
	h = newHouse(t, func(o *people.Options) { o.Provider = p })
	return h
}

// through signs in at the provider.
func (h *house) through(t *testing.T, i *issuer) (people.Session, error) {
	t.Helper()
	to, err := h.AskProvider(t.Context(), "visit", "/mandates")
	if err != nil {
		return people.Session{}, err
	}
	token, next, err := h.FromProvider(t.Context(), "visit", i.authorize(t, to))
	if err != nil {
		return people.Session{}, err
	}
	if next != "/mandates" {
		t.Errorf("goes on to %q", next)
	}
	return h.Session(t.Context(), string(token.Reveal()))
}

func TestProvider(t *testing.T) {
	i := newIssuer(t)
	h := withProvider(t, i)
	s, err := h.through(t, i)
	if err != nil {
		t.Fatal(err, ostiary.AsError(err).Err)
	}
	p := s.Person
	if !strings.HasPrefix(p.Name, "oidc-") || p.Label != "Dana <b>Example</b>" || !p.Has(people.Auditor) || len(p.Roles) != 1 || p.Links[0] != (people.Link{Issuer: i.URL, Subject: "1234"}) {
		t.Errorf("%+v", p)
	}
	if at, err := h.PersonAt(t.Context(), p.Links[0]); err != nil || at.Name != p.Name {
		t.Errorf("by issuer and subject: %+v, %v", at, err)
	}
	_, err = h.PersonAt(t.Context(), people.Link{Issuer: i.URL + "/", Subject: "1234"})
	kind(t, err, ostiary.NotFound, "the same subject of another issuer")
	if again, err := h.through(t, i); err != nil || again.Person.Name != p.Name {
		t.Errorf("the second time %+v, %v", again.Person, err)
	}
	// The same address under another subject is somebody else, and the same
	// subject with another address is not.
	i.claims = func(c map[string]any) { c["sub"] = "5678" }
	if other, err := h.through(t, i); err != nil || other.Person.Name == p.Name {
		t.Errorf("another subject is %+v, %v", other.Person, err)
	}
	i.claims = func(c map[string]any) { c["email"] = "new@example.org" }
	if same, err := h.through(t, i); err != nil || same.Person.Name != p.Name {
		t.Errorf("the same subject is %+v, %v", same.Person, err)
	}
	// Roles are what the provider says now, and other roles end sessions.
	i.claims = func(c map[string]any) { c["groups"] = []string{"staff", "security"} }
	if more, err := h.through(t, i); err != nil || !more.Person.Has(people.Operator) {
		t.Errorf("with a group: %+v, %v", more.Person, err)
	}
	if _, err := h.Session(t.Context(), "x"); err == nil {
		t.Error("a session of nobody")
	}
	i.claims = func(c map[string]any) { c["email"] = "dana@elsewhere.example" }
	_, err = h.through(t, i)
	kind(t, err, ostiary.Denied, "not among those who may come in")
	if now, err := h.Person(t.Context(), p.Name); err != nil || len(now.Roles) != 0 {
		t.Errorf("whoever may not come in any more keeps %v, %v", now.Roles, err)
	}
	if _, err := h.Revoke(t.Context(), p.Name, "left", "root"); err != nil {
		t.Fatal(err)
	}
	_, err = h.PersonAt(t.Context(), p.Links[0])
	kind(t, err, ostiary.NotFound, "a person who was revoked")
}

// TestProviderLies: what a provider, or somebody in its place, can say.
func TestProviderLies(t *testing.T) {
	set := func(k string, v any) func(*issuer) {
		return func(i *issuer) { i.claims = func(c map[string]any) { c[k] = v } }
	}
	drop := func(k string) func(*issuer) {
		return func(i *issuer) { i.claims = func(c map[string]any) { delete(c, k) } }
	}
	found := func(k string, v any) func(*issuer) {
		return func(i *issuer) { i.discovery = func(c map[string]any) { c[k] = v } }
	}
	for _, tc := range []struct {
		name string
		lie  func(*issuer)
		want ostiary.Kind
	}{
		{"E09: no exp", drop("exp"), ostiary.Unauthenticated},
		{"E09: exp passed", set("exp", start.Add(-time.Second).Unix()), ostiary.Unauthenticated},
		{"E09: exp is text", set("exp", "4102444800"), ostiary.Unauthenticated},
		{"E09: exp is 1e300", func(i *issuer) {
			i.raw = func(c map[string]any) string {
				b, _ := json.Marshal(c)
				return strings.Replace(string(b), fmt.Sprint(c["exp"]), "1e300", 1)
			}
		}, ostiary.Unauthenticated},
		{"E09: no aud", drop("aud"), ostiary.Unauthenticated},
		{"E09: another aud", set("aud", "ostiary-test"), ostiary.Unauthenticated},
		{"E09: two audiences", set("aud", []string{"ostiary", "other"}), ostiary.Unauthenticated},
		{"E09: another azp", set("azp", "other"), ostiary.Unauthenticated},
		{"E09: issuer with a slash", func(i *issuer) { i.claims = func(c map[string]any) { c["iss"] = i.URL + "/" } }, ostiary.Unauthenticated},
		{"no iat", drop("iat"), ostiary.Unauthenticated},
		{"iat in the future", set("iat", start.Add(time.Hour).Unix()), ostiary.Unauthenticated},
		{"nbf in the future", set("nbf", start.Add(time.Hour).Unix()), ostiary.Unauthenticated},
		{"no nonce", drop("nonce"), ostiary.Unauthenticated},
		{"another nonce", set("nonce", "x"), ostiary.Unauthenticated},
		{"no subject", set("sub", ""), ostiary.Unauthenticated},
		{"another access token's hash", set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), ostiary.Unauthenticated},
		{"E11: two subjects", func(i *issuer) {
			i.raw = func(c map[string]any) string {
				b, _ := json.Marshal(c)
				return strings.Replace(string(b), `"sub":"1234"`, `"sub":"root","sub":"1234"`, 1)
			}
		}, ostiary.Unauthenticated},
		{"E11: subjects in two cases", func(i *issuer) {
			i.raw = func(c map[string]any) string {
				b, _ := json.Marshal(c)
				return strings.Replace(string(b), `"sub":"1234"`, `"Sub":"root","sub":"1234"`, 1)
			}
		}, ostiary.Unauthenticated},
		{"E08: alg none", func(i *issuer) {
			i.sign = func(p string) string {
				e := base64.RawURLEncoding.EncodeToString
				return e([]byte(`{"alg":"none"}`)) + "." + e([]byte(p)) + "."
			}
		}, ostiary.Unauthenticated},
		{"E08: HS256 with the client's secret", func(i *issuer) {
			i.sign = func(p string) string {
				return i.signed(p, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("hush", 8))})
			}
		}, ostiary.Unauthenticated},
		{"another key", func(i *issuer) {
			k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			i.sign = func(p string) string { return i.signed(p, jose.SigningKey{Algorithm: jose.ES256, Key: k}) }
		}, ostiary.Unauthenticated},
		{"an address nobody verified", set("email_verified", false), ostiary.Denied},
		{"verified is text", set("email_verified", "true"), ostiary.Denied},
		{"a domain within a domain", set("email", "dana@example.org@evil.example"), ostiary.Denied},
		{"a domain's end", set("email", "dana@notexample.org"), ostiary.Denied},
		{"groups is text", func(i *issuer) {
			i.claims = func(c map[string]any) { c["groups"], c["email"] = "security", "x@y.example" }
		}, ostiary.Denied},
		{"no ID token", func(i *issuer) {
			i.token = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"a","token_type":"Bearer"}`)
				return true
			}
		}, ostiary.Unauthenticated},
		{"a token answer with two ID tokens", func(i *issuer) {
			i.token = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"a","token_type":"Bearer","id_token":"x","id_token":"y"}`)
				return true
			}
		}, ostiary.Unauthenticated},
		{"another issuer's discovery", found("issuer", "https://evil.example"), ostiary.Unavailable},
		{"F08: a script as address", found("authorization_endpoint", "javascript:alert(1)"), ostiary.Unavailable},
		{"F08: a file as address", found("authorization_endpoint", "file:///etc/passwd"), ostiary.Unavailable},
		{"F08: a flag as address", found("authorization_endpoint", "--flag"), ostiary.Unavailable},
		{"plain http far away", found("token_endpoint", "http://login.example/token"), ostiary.Unavailable},
		{"no S256", found("code_challenge_methods_supported", []string{"plain"}), ostiary.Unavailable},
		{"F09: keys from the metadata address", found("jwks_uri", "http://169.254.169.254/keys"), ostiary.Unavailable},
		{"keys from a host nobody listed", found("jwks_uri", "https://keys.example/keys"), ostiary.Unauthenticated},
		{"a discovery of 1 MiB", found("more", strings.Repeat("x", 1<<20)), ostiary.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := newIssuer(t)
			tc.lie(i)
			h := withProvider(t, i)
			_, err := h.through(t, i)
			kind(t, err, tc.want, "signed in")
			if list, _ := h.List(t.Context()); len(list) != 0 {
				t.Errorf("%d persons", len(list))
			}
		})
	}
}

// TestCallback: what a browser can come back with.
func TestCallback(t *testing.T) {
	i := newIssuer(t)
	h := withProvider(t, i)
	come := func(visit string, change func(url.Values)) error {
		to, err := h.AskProvider(t.Context(), "visit", "/")
		if err != nil {
			t.Fatal(err)
		}
		back := i.authorize(t, to)
		change(back)
		_, _, err = h.FromProvider(t.Context(), visit, back)
		return err
	}
	kind(t, come("another", func(url.Values) {}), ostiary.Unauthenticated, "another browser")
	kind(t, come("visit", func(v url.Values) { v.Set("state", "x") }), ostiary.Unauthenticated, "another state")
	kind(t, come("visit", func(v url.Values) { v.Del("state") }), ostiary.Unauthenticated, "no state")
	kind(t, come("visit", func(v url.Values) { v.Add("state", "x") }), ostiary.Malformed, "two states")
	kind(t, come("visit", func(v url.Values) { v.Set("iss", "https://evil.example") }), ostiary.Unauthenticated, "another issuer")
	kind(t, come("visit", func(v url.Values) { v.Del("iss") }), ostiary.Unauthenticated, "no issuer, though it says who it is")
	kind(t, come("visit", func(v url.Values) { v.Set("code", "x") }), ostiary.Unauthenticated, "another code")
	err := come("visit", func(v url.Values) {
		v.Set("error", "access_denied")
		v.Set("error_description", "<script>alert(1)</script>")
	})
	kind(t, err, ostiary.Denied, "refused there")
	if strings.Contains(ostiary.AsError(err).Detail, "script") {
		t.Error("F10: the provider's words are in ours")
	}
	kind(t, come("visit", func(url.Values) { h.pass(people.LoginLife) }), ostiary.Unauthenticated, "too late")
	h.now.Store(0)

	to, err := h.AskProvider(t.Context(), "visit", "/")
	if err != nil {
		t.Fatal(err)
	}
	back := i.authorize(t, to)
	var won atomic.Int64
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if _, _, err := h.FromProvider(t.Context(), "visit", maps.Clone(back)); err == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("one answer signed in %d times", won.Load())
	}
}

func TestProviderDown(t *testing.T) {
	i := newIssuer(t)
	h := withProvider(t, i)
	i.discovery = func(d map[string]any) { d["issuer"] = "x" }
	for range 50 {
		_, err := h.AskProvider(t.Context(), "visit", "/")
		kind(t, err, ostiary.Unavailable, "a provider that cannot be used")
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	i.discovery = nil
	h.pass(10 * time.Second)
	if _, err := h.through(t, i); err != nil {
		t.Error("it can be used again:", err)
	}
}

func FuzzIDToken(f *testing.F) {
	f.Add(`eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln`)
	f.Add(`..`)
	f.Fuzz(func(t *testing.T, text string) { people.ScanIDToken(text) })
}

func FuzzAnswer(f *testing.F) {
	a := newAnswer()
	f.Add(a)
	f.Add([]byte(`{"response":{"clientDataJSON":"e30"}}`))
	f.Fuzz(func(t *testing.T, answer []byte) { people.ScanAnswer(answer) })
}

// TestNotAdmittedAnyMore: when the provider says that somebody is not among
// those who may come in, the browsers they came with are out too.
func TestNotAdmittedAnyMore(t *testing.T) {
	i := newIssuer(t)
	h := withProvider(t, i, func(o *people.ProviderOptions) { o.Domains = map[string][]people.Role{"example.org": {}} })
	to, err := h.AskProvider(t.Context(), "visit", "/me")
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := h.FromProvider(t.Context(), "visit", i.authorize(t, to))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.through(t, i); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Session(t.Context(), string(token.Reveal())); err != nil {
		t.Errorf("another browser ended this one's session: %v", err)
	}
	i.claims = func(c map[string]any) { c["email"] = "dana@elsewhere.example" }
	for range 2 {
		_, err = h.through(t, i)
		kind(t, err, ostiary.Denied, "not among those who may come in")
	}
	_, err = h.Session(t.Context(), string(token.Reveal()))
	kind(t, err, ostiary.Unauthenticated, "a session from before")
	if said := h.said(); said[len(said)-1] != "change_roles" {
		t.Errorf("the log says %v", said)
	}
}
