package oauth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
)

const (
	issuerURL = "http://localhost:8090"
	agentsURL = "https://gw.example:8443"
	clientID  = "https://client.example/oauth.json"
	redirect  = "http://127.0.0.1:7777/callback"
	doorURL   = agentsURL + "/mcp"
	dana      = ostiary.PrincipalID("person:dana")
)

// world is an authorization server with everything around it in memory.
type world struct {
	t testing.TB
	*Server
	identity *identity.Authority
	records  record.Keeper
	now      atomic.Int64
	mu       sync.Mutex
	pages    map[string]string // documents by address
	fetched  map[string]int
	idp      *ecdsa.PrivateKey
	n        atomic.Int64
}

func (w *world) Resource(uri string) (Resource, bool) {
	all := []string{"bank", "inbox"}
	switch uri {
	case doorURL, agentsURL, "http://127.0.0.1:8701/mcp":
		return Resource{Audience: doorURL, Servers: all}, true
	case doorURL + "/bank":
		return Resource{Audience: doorURL + "/bank", Server: "bank", Servers: []string{"bank"}}, true
	}
	return Resource{}, false
}

func (w *world) Fetch(_ context.Context, address string, most int64) ([]byte, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetched[address]++
	page, ok := w.pages[address]
	if !ok || int64(len(page)) > most {
		return nil, "", errors.New("no such document")
	}
	return []byte(page), "application/json", nil
}

func (w *world) PersonAt(_ context.Context, issuer, subject string) (ostiary.PrincipalID, error) {
	if issuer == "https://idp.example" && subject == "u-dana" {
		return dana, nil
	}
	return "", ostiary.Errorf(ostiary.NotFound, "person", "nobody")
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB, with ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, records: store.NewMemory(), pages: map[string]string{}, fetched: map[string]int{}, idp: newKey(t)}
	w.now.Store(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC).UnixNano())
	o := identitytest.Options(t)
	o.Issuer, o.Clock = issuerURL, w.clock
	var err error
	if w.identity, err = identity.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.pages[clientID] = document("")
	idpKey, err := jwt.Export(&w.idp.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	w.pages["https://idp.example/keys"] = `{"keys":[` + string(idpKey) + `]}`
	opts := Options{
		URL: issuerURL, Agents: agentsURL, Authority: w.identity, Records: w.records, Resources: w, Fetch: w, Persons: w, Register: true, Clock: w.clock, Logger: slog.New(slog.DiscardHandler),
		Issuers: []Issuer{{URL: "https://idp.example", Keys: "https://idp.example/keys", Scopes: []string{"server:bank"}}},
	}
	for _, f := range with {
		f(&opts)
	}
	if w.Server, err = New(opts); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) clock() time.Time     { return time.Unix(0, w.now.Load()).UTC() }
func (w *world) pass(d time.Duration) { w.now.Add(int64(d)) }

// document is the client's, with members added.
func document(extra string) string {
	return `{"client_id":"` + clientID + `","client_name":"Test client","redirect_uris":["http://127.0.0.1/callback","https://client.example/cb","http://localhost:3000/cb"],"grant_types":["authorization_code","refresh_token"]` + extra + `}`
}

const verifier = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG-._~"

func s256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// request is a good authorization request, with changes; "" takes one away.
func request(changes ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirect}, "state": {"s&t"}, "code_challenge": {s256(verifier)},
		"code_challenge_method": {"S256"}, "resource": {doorURL}, "scope": {"mcp server:bank"},
	}
	for i := 0; i+1 < len(changes); i += 2 {
		if q.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			q.Del(changes[i])
		}
	}
	return q
}

func (w *world) get(q string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest("GET", issuerURL+"/authorize?"+q, nil))
	return rec
}

// asked sends an authorization request and returns the question's id.
func (w *world) asked(changes ...string) string {
	w.t.Helper()
	rec := w.get(request(changes...).Encode())
	id, ok := strings.CutPrefix(rec.Header().Get("Location"), "/consent/")
	if rec.Code != 302 || !ok {
		w.t.Fatalf("%d %s %s", rec.Code, rec.Header().Get("Location"), rec.Body)
	}
	return id
}

// consented sends a request, lets dana consent to all of it, and returns the
// code.
func (w *world) consented(changes ...string) string {
	w.t.Helper()
	id := w.asked(changes...)
	ask, err := w.Pending(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	to, err := w.Decide(w.t.Context(), id, dana, &ask.Wants)
	if err != nil {
		w.t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil || u.Query().Get("code") == "" || u.Query().Get("iss") != issuerURL {
		w.t.Fatal(to, err)
	}
	return u.Query().Get("code")
}

// caller is how somebody asks for a token.
type caller struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // of DPoP
}

func (w *world) post(path string, c caller, f url.Values, headers ...string) (int, ostiary.Value, http.Header) {
	w.t.Helper()
	r := httptest.NewRequest("POST", issuerURL+path, strings.NewReader(f.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	base := issuerURL
	if c.cert != nil {
		base = agentsURL
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.cert}, VerifiedChains: [][]*x509.Certificate{{c.cert}}}
	}
	if c.key != nil {
		r.Header.Set("DPoP", w.proof(c.key, base+path))
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	if rec.Body.Len() == 0 {
		return rec.Code, ostiary.Value{}, rec.Header()
	}
	return rec.Code, parsed(w.t, rec.Body.Bytes()), rec.Header()
}

func code4(changes ...string) url.Values {
	f := url.Values{"grant_type": {grantCode}, "client_id": {clientID}, "redirect_uri": {redirect}, "code_verifier": {verifier}, "resource": {doorURL}}
	for i := 0; i+1 < len(changes); i += 2 {
		if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			f.Del(changes[i])
		}
	}
	return f
}

func (w *world) proof(key *ecdsa.PrivateKey, address string) string {
	claims := map[string]any{"jti": fmt.Sprint(w.n.Add(1)), "htm": "POST", "htu": address, "iat": w.clock().Unix(), "nonce": w.identity.ProofNonce()}
	return sign(w.t, key, `{"typ":"dpop+jwt","alg":"ES256","jwk":`+jwkOf(key)+`}`, claims)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jwkOf(key *ecdsa.PrivateKey) string {
	p, _ := key.PublicKey.Bytes()
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, b64(p[1:33]), b64(p[33:]))
}

func thumbOf(key *ecdsa.PrivateKey) string { return s256(jwkOf(key)) }

func sign(t testing.TB, key *ecdsa.PrivateKey, header string, claims any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64([]byte(header)) + "." + b64(body)
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

// enrol returns an agent's certificate.
func (w *world) enrol(name string, p ostiary.PrincipalID) *x509.Certificate {
	w.t.Helper()
	secret, _, err := w.identity.MintJoinToken(w.t.Context(), identity.JoinToken{
		Agent: ostiary.AgentID("spiffe://test.example/agent/" + name), Principal: p, Terms: []byte(`{"actions":["*"],"servers":["*"],"classes":["*"],"approvers":["*"],"purpose":"work","depth":3}`),
	}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	chain, _, err := w.identity.Enrol(w.t.Context(), string(secret.Reveal()), csr)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// opens reports who a token is at the door.
func (w *world) opens(token, audience string) (ostiary.Subject, error) {
	return w.identity.Authenticate(w.t.Context(), ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(token)), Audience: audience, Encrypted: true})
}

func TestMetadata(t *testing.T) {
	w := newWorld(t)
	var texts []string
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest("GET", issuerURL+path, nil))
		texts = append(texts, rec.Body.String())
		m := parsed(t, rec.Body.Bytes())
		if !m.Get("issuer").Is(issuerURL) || string(m.Get("code_challenge_methods_supported").Bytes()) != `["S256"]` ||
			string(m.Get("authorization_response_iss_parameter_supported").Bytes()) != "true" || string(m.Get("client_id_metadata_document_supported").Bytes()) != "true" ||
			!m.Get("registration_endpoint").Exists() || strings.Contains(rec.Body.String(), "offline_access") {
			t.Error(rec.Body)
		}
	}
	if texts[0] != texts[1] {
		t.Error("the two documents differ")
	}
	if closed := newWorld(t, func(o *Options) { o.Register = false }); slices.Contains(paths(closed), "/register") {
		t.Error("registration is open")
	} else {
		rec := httptest.NewRecorder()
		if closed.ServeHTTP(rec, httptest.NewRequest("POST", issuerURL+"/register", strings.NewReader("{}"))); rec.Code != 404 {
			t.Errorf("registration answers %d", rec.Code)
		}
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest("GET", issuerURL+"/jwks", nil))
	if _, err := jwt.ParseSet(rec.Body.Bytes()); err != nil {
		t.Error(err)
	}
}

func paths(w *world) []string { p, _ := w.Paths(); return p }

func TestCode(t *testing.T) {
	w := newWorld(t)
	c := w.consented()
	status, out, h := w.post("/token", caller{}, code4("code", c))
	if status != 200 || !out.Get("token_type").Is("Bearer") || !out.Get("scope").Is("mcp server:bank") || h.Get("Cache-Control") != "no-store" || out.Get("refresh_token").Text() == "" {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	s, err := w.opens(out.Get("access_token").Text(), doorURL)
	if err != nil || s.Principal != dana || s.Client != clientID || s.Bound || !slices.Equal(s.Scopes, []string{"mcp", "server:bank"}) || !strings.HasPrefix(string(s.Agent), "spiffe://test.example/client/") {
		t.Fatalf("%+v %v", s, err)
	}
	if n, _ := out.Get("expires_in").Int(); n < 1 || n > 600 {
		t.Errorf("expires in %d", n)
	}
	m, ok := w.identity.Mandate(s.Mandate)
	if !ok || m.By != dana || m.Kind != ostiary.TaskMandate || !slices.Equal(m.Resources, []string{"bank"}) {
		t.Errorf("%+v", m)
	}
	t.Run("F01 for no other endpoint", func(t *testing.T) {
		_, err := w.opens(out.Get("access_token").Text(), doorURL+"/bank")
		if ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Error(err)
		}
	})
	t.Run("F06 used again", func(t *testing.T) {
		if status, out, _ := w.post("/token", caller{}, code4("code", c)); status != 400 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%d %s", status, out.Bytes())
		}
		if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
			t.Error("the token of the first use is still good")
		}
		if status, _, _ := w.post("/token", caller{}, url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {out.Get("refresh_token").Text()}}); status != 400 {
			t.Error("the refresh token of the first use is still good")
		}
	})
	t.Run("expired", func(t *testing.T) {
		c := w.consented()
		w.pass(CodeLife)
		if status, out, _ := w.post("/token", caller{}, code4("code", c)); status != 400 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
	for name, c := range map[string]struct {
		changes []string
		code    string
	}{
		"F05 no verifier":           {[]string{"code_verifier", ""}, "invalid_grant"},
		"F05 another verifier":      {[]string{"code_verifier", verifier + "x"}, "invalid_grant"},
		"F05 the challenge":         {[]string{"code_verifier", s256(verifier)}, "invalid_grant"},
		"F05 a short verifier":      {[]string{"code_verifier", "short"}, "invalid_grant"},
		"F04 another redirect":      {[]string{"redirect_uri", "https://client.example/cb"}, "invalid_grant"},
		"no resource":               {[]string{"resource", ""}, "invalid_target"},
		"another resource":          {[]string{"resource", doorURL + "/bank"}, "invalid_target"},
		"a foreign resource":        {[]string{"resource", "https://elsewhere.example/mcp"}, "invalid_target"},
		"an audience of its own":    {[]string{"audience", "https://elsewhere.example/mcp"}, "invalid_target"},
		"another client":            {[]string{"client_id", "https://other.example/oauth.json"}, "invalid_grant"},
		"no client":                 {[]string{"client_id", ""}, "invalid_client"},
		"an unknown client":         {[]string{"client_id", "https://nobody.example/x"}, "invalid_client"},
		"a client secret":           {[]string{"client_secret", "x"}, "invalid_client"},
		"another code":              {[]string{"code", "x"}, "invalid_grant"},
		"no code":                   {[]string{"code", ""}, "invalid_grant"},
		"an unknown grant":          {[]string{"grant_type", "password"}, "unsupported_grant_type"},
		"no grant":                  {[]string{"grant_type", ""}, "unsupported_grant_type"},
		"an assertion of no client": {[]string{"client_assertion", "a.b.c", "client_assertion_type", assertionType}, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pages["https://other.example/oauth.json"] = strings.Replace(document(""), clientID, "https://other.example/oauth.json", 1)
			f := code4("code", w.consented())
			for i := 0; i+1 < len(c.changes); i += 2 {
				if f.Set(c.changes[i], c.changes[i+1]); c.changes[i+1] == "" {
					f.Del(c.changes[i])
				}
			}
			status, out, _ := w.post("/token", caller{}, f)
			if status == 200 || !out.Get("error").Is(c.code) {
				t.Errorf("%d %s", status, out.Bytes())
			}
		})
	}
	t.Run("E14 Basic is no way in, and spends nothing", func(t *testing.T) {
		w := newWorld(t)
		f := code4("code", w.consented())
		for _, v := range []string{"Basic Og==", "Basic ' OR '1'='1", "Bearer x"} {
			if status, out, _ := w.post("/token", caller{}, f, "Authorization", v); status != 401 || !out.Get("error").Is("invalid_client") {
				t.Errorf("%d %s", status, out.Bytes())
			}
		}
		if status, out, _ := w.post("/token", caller{}, f); status != 200 {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
	t.Run("a parameter twice", func(t *testing.T) {
		w := newWorld(t)
		f := code4("code", w.consented())
		f.Add("code", "x")
		if status, out, _ := w.post("/token", caller{}, f); status != 400 || !out.Get("error").Is("invalid_request") {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
}

// TestOneCode: of a thousand requests with one code one has an answer, and
// since it was shown twice nobody has the use of it.
func TestOneCode(t *testing.T) {
	w := newWorld(t)
	f := code4("code", w.consented())
	var won atomic.Int64
	var token atomic.Value
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if status, out, _ := w.post("/token", caller{}, f); status == 200 {
				won.Add(1)
				token.Store(out.Get("access_token").Text())
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d requests had an answer", won.Load())
	}
	if _, err := w.opens(token.Load().(string), doorURL); err == nil {
		t.Error("its token is good")
	}
}

func TestAuthorizeRefuses(t *testing.T) {
	details := func(terms string) string { return `[{"type":"ostiary_mandate","terms":` + terms + `}]` }
	for name, c := range map[string]struct {
		changes []string
		code    string // in the redirect
	}{
		"no response_type":           {[]string{"response_type", ""}, "unsupported_response_type"},
		"a token":                    {[]string{"response_type", "token"}, "unsupported_response_type"},
		"a fragment":                 {[]string{"response_mode", "fragment"}, "invalid_request"},
		"a request object":           {[]string{"request", "a.b.c"}, "invalid_request"},
		"F05 no challenge":           {[]string{"code_challenge", ""}, "invalid_request"},
		"F05 plain":                  {[]string{"code_challenge_method", "plain"}, "invalid_request"},
		"F05 no method":              {[]string{"code_challenge_method", ""}, "invalid_request"},
		"F05 a challenge of no form": {[]string{"code_challenge", verifier}, "invalid_request"},
		"no resource":                {[]string{"resource", ""}, "invalid_target"},
		"a foreign resource":         {[]string{"resource", "https://elsewhere.example/mcp"}, "invalid_target"},
		"a resource with a slash":    {[]string{"resource", doorURL + "/"}, "invalid_target"},
		"a scope twice":              {[]string{"scope", "mcp mcp"}, "invalid_scope"},
		"dpop_jkt of no form":        {[]string{"dpop_jkt", "x"}, "invalid_request"},
		"an unknown type":            {[]string{"authorization_details", `[{"type":"payment","terms":{}}]`}, "invalid_authorization_details"},
		"an unknown member":          {[]string{"authorization_details", `[{"type":"ostiary_mandate","terms":{},"x":1}]`}, "invalid_authorization_details"},
		"an unknown term":            {[]string{"authorization_details", details(`{"admin":true}`)}, "invalid_authorization_details"},
		"a term twice":               {[]string{"authorization_details", details(`{"task":"a","task":"b"}`)}, "invalid_authorization_details"},
		"two details":                {[]string{"authorization_details", `[{"type":"ostiary_mandate","terms":{}},{"type":"ostiary_mandate","terms":{}}]`}, "invalid_authorization_details"},
		"another's authority":        {[]string{"authorization_details", details(`{"principal":"person:erin"}`)}, "invalid_authorization_details"},
		"an agent of its choice":     {[]string{"authorization_details", details(`{"agent":"spiffe://test.example/agent/planner"}`)}, "invalid_authorization_details"},
		"a server beyond its scopes": {[]string{"authorization_details", details(`{"servers":["inbox"]}`)}, "invalid_authorization_details"},
		"a mandate that has ended":   {[]string{"authorization_details", details(`{"until":"2020-01-01T00:00:00Z"}`)}, "invalid_authorization_details"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(c.changes...).Encode())
			u, err := url.Parse(rec.Header().Get("Location"))
			if err != nil || rec.Code != 302 || u.Query().Get("error") != c.code || u.Query().Get("iss") != issuerURL || u.Query().Get("state") != "s&t" || u.Scheme+"://"+u.Host+u.Path != redirect {
				t.Errorf("%d %s %s", rec.Code, rec.Header().Get("Location"), rec.Body)
			}
		})
	}
	// Nothing goes back to an address that is not the client's own.
	for name, changes := range map[string][]string{
		"F04 another path":      {"redirect_uri", "http://127.0.0.1:7777/callback/x"},
		"F04 a query":           {"redirect_uri", redirect + "?x=1"},
		"F04 a fragment":        {"redirect_uri", redirect + "#x"},
		"F04 userinfo":          {"redirect_uri", "http://127.0.0.1:80@evil.example/callback"},
		"F04 user":              {"redirect_uri", "http://x@127.0.0.1:7777/callback"},
		"F04 case":              {"redirect_uri", "http://127.0.0.1:7777/Callback"},
		"F04 another loopback":  {"redirect_uri", "http://127.0.0.2:7777/callback"},
		"F04 a port of https":   {"redirect_uri", "https://client.example:444/cb"},
		"F04 another host":      {"redirect_uri", "https://client.example.evil.example/cb"},
		"F04 IDN":               {"redirect_uri", "https://clíent.example/cb"},
		"F04 a port of words":   {"redirect_uri", "http://127.0.0.1:x/callback"},
		"F04 no port":           {"redirect_uri", "http://127.0.0.1:/callback"},
		"F04 none":              {"redirect_uri", ""},
		"F08 javascript":        {"redirect_uri", "javascript:alert(1)"},
		"no client":             {"client_id", ""},
		"an http client":        {"client_id", "http://client.example/oauth.json"},
		"a client without path": {"client_id", "https://client.example/"},
		"a client with query":   {"client_id", clientID + "?x=1"},
		"a client in case":      {"client_id", strings.Replace(clientID, "client.example", "CLIENT.example", 1)},
		"a client up the path":  {"client_id", "https://client.example/x/../oauth.json"},
		"a client nobody has":   {"client_id", "https://nobody.example/x"},
		"an agent":              {"client_id", "spiffe://test.example/agent/planner"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(changes...).Encode())
			if rec.Code < 400 || rec.Header().Get("Location") != "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%d %s", rec.Code, rec.Header().Get("Location"))
			}
		})
	}
	// Anybody can be a client. A link to this server that is no proper request
	// leads to no site of theirs before a person decided something.
	for name, changes := range map[string][]string{
		"O10 no challenge": {"redirect_uri", "https://client.example/cb", "code_challenge", ""},
		"O10 a scope":      {"redirect_uri", "https://client.example/cb", "scope", "mcp mcp"},
		"O10 a resource":   {"redirect_uri", "https://client.example/cb", "resource", "https://elsewhere.example/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(changes...).Encode())
			if rec.Code != 400 || rec.Header().Get("Location") != "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%d %s", rec.Code, rec.Header().Get("Location"))
			}
		})
	}
	t.Run("F10 markup is not repeated", func(t *testing.T) {
		w := newWorld(t)
		rec := w.get(request("redirect_uri", "https://x/<script>alert(1)</script>", "client_id", clientID, "state", "<script>").Encode())
		if strings.Contains(rec.Body.String(), "<") {
			t.Error(rec.Body)
		}
	})
	t.Run("a parameter twice", func(t *testing.T) {
		w := newWorld(t)
		if rec := w.get(request().Encode() + "&resource=" + url.QueryEscape(doorURL)); rec.Code != 400 || rec.Header().Get("Location") != "" {
			t.Errorf("%d", rec.Code)
		}
	})
	t.Run("what looks like a host in a private scheme", func(t *testing.T) {
		for _, to := range []string{"com.example.app:/cb", "com.example.app://accounts.example/cb", "com.example.app://accounts.example"} {
			if host, here := redirectHost(to); host != "com.example.app: (a program on this computer)" || !here {
				t.Errorf("%s goes to %q, %v", to, host, here)
			}
		}
	})
	t.Run("F04 the loopback's port is the program's", func(t *testing.T) {
		w := newWorld(t)
		for _, to := range []string{"http://127.0.0.1:1/callback", "http://127.0.0.1/callback", "http://localhost:4000/cb", "https://client.example/cb"} {
			w.asked("redirect_uri", to)
		}
	})
}

func TestDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		fine bool
	}{
		"as it should be":        {document(""), true},
		"with what we ignore":    {document(`,"logo_uri":"https://client.example/logo","contacts":["a@client.example"]`), true},
		"another's id":           {strings.Replace(document(""), clientID, "https://evil.example/x", 1), false},
		"no id":                  {strings.Replace(document(""), "client_id", "other_id", 1), false},
		"no name":                {strings.Replace(document(""), "client_name", "x", 1), false},
		"a secret":               {document(`,"client_secret":"x"`), false},
		"a shared-secret method": {document(`,"token_endpoint_auth_method":"client_secret_post"`), false},
		"a key without keys":     {document(`,"token_endpoint_auth_method":"private_key_jwt"`), false},
		"keys at http":           {document(`,"token_endpoint_auth_method":"private_key_jwt","jwks_uri":"http://client.example/keys"`), false},
		"F08 javascript":         {strings.Replace(document(""), "https://client.example/cb", "javascript:alert(1)", 1), false},
		"F08 file":               {strings.Replace(document(""), "https://client.example/cb", "file:///etc/passwd", 1), false},
		"F08 data":               {strings.Replace(document(""), "https://client.example/cb", "data:text/html,x", 1), false},
		"F08 http elsewhere":     {strings.Replace(document(""), "https://client.example/cb", "http://client.example/cb", 1), false},
		"a private scheme":       {strings.Replace(document(""), "https://client.example/cb", "example.client:/cb", 1), true},
		"a fragment":             {strings.Replace(document(""), "/cb", "/cb#x", 1), false},
		"our parameter in it":    {strings.Replace(document(""), "/cb", "/cb?iss=x", 1), false},
		"no redirects":           {`{"client_id":"` + clientID + `","client_name":"x","redirect_uris":[]}`, false},
		"a name twice":           {document(`,"client_name":"y"`), false},
		"no JSON":                {"<html>", false},
		"too long":               {document(`,"x":"` + strings.Repeat("x", maxDocument) + `"`), false},
		"too deep":               {document(`,"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20)), false},
	} {
		if _, err := parseDocument(clientID, []byte(c.text)); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConsent(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	details := `[{"type":"ostiary_mandate","terms":{"task":"pay the rent","actions":["bank___transfer"],"servers":["bank"],"ceilings":[{"action":"*","pointer":"/amount","max":"2000","unit":"EUR"}],"for":"2h","depth":1,"budget":{"calls":10}}}]`
	id := w.asked("authorization_details", details)
	ask, err := w.Pending(ctx, id)
	if err != nil || ask.Client != "Test client" || ask.ClientID != clientID || !ask.Known || ask.Redirect != "127.0.0.1:7777" || !ask.Loopback || ask.Wants.Task != "pay the rent" || ask.Wants.Expires.Sub(w.clock()) != 2*time.Hour {
		t.Fatalf("%+v %v", ask, err)
	}
	for name, widen := range map[string]func(*ostiary.Mandate){
		"an action": func(m *ostiary.Mandate) { m.Actions = append(slices.Clone(m.Actions), "bank___close") }, "every action": func(m *ostiary.Mandate) { m.Actions = []string{"*"} },
		"a server": func(m *ostiary.Mandate) { m.Resources = []string{"inbox"} }, "a ceiling": func(m *ostiary.Mandate) {
			m.Ceilings = []ostiary.Ceiling{{Action: "*", Pointer: "/amount", Max: "2001", Unit: "EUR"}}
		},
		"the time": func(m *ostiary.Mandate) { m.Expires = m.Expires.Add(time.Second) }, "the depth": func(m *ostiary.Mandate) { m.Depth = 2 },
		"the budget": func(m *ostiary.Mandate) { m.Budget.Calls = 11 },
	} {
		t.Run("wider in "+name, func(t *testing.T) {
			id := w.asked("authorization_details", details)
			m := ask.Wants
			widen(&m)
			if to, err := w.Decide(ctx, id, dana, &m); err == nil {
				t.Error(to)
			}
			if _, err := w.Pending(ctx, id); ostiary.KindOf(err) != ostiary.NotFound {
				t.Error("the question is still open")
			}
		})
	}
	t.Run("narrower", func(t *testing.T) {
		m := ask.Wants
		m.Ceilings, m.Budget, m.Depth, m.Expires = nil, ostiary.Budget{}, 0, w.clock().Add(time.Hour)
		m.Principal, m.By, m.Agent, m.Kind = "person:erin", "person:erin", "spiffe://test.example/agent/planner", ostiary.BreakGlassMandate // not the page's to say
		to, err := w.Decide(ctx, id, dana, &m)
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(to)
		status, out, _ := w.post("/token", caller{}, code4("code", u.Query().Get("code")))
		if status != 200 {
			t.Fatalf("%d %s", status, out.Bytes())
		}
		s, err := w.opens(out.Get("access_token").Text(), doorURL)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := w.identity.Mandate(s.Mandate)
		if got.Principal != dana || got.By != dana || got.Kind != ostiary.TaskMandate || len(got.Ceilings) != 1 || got.Budget.Calls != 10 || got.Depth != 0 || got.Expires.After(w.clock().Add(time.Hour)) {
			t.Errorf("%+v", got)
		}
		if !strings.Contains(string(out.Get("authorization_details").Bytes()), `"bank___transfer"`) {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("refused", func(t *testing.T) {
		to, err := w.Decide(ctx, w.asked(), dana, nil)
		u, _ := url.Parse(to)
		if err != nil || u.Query().Get("error") != "access_denied" || u.Query().Get("iss") != issuerURL || u.Query().Get("state") != "s&t" {
			t.Error(to, err)
		}
	})
	t.Run("F03 once", func(t *testing.T) {
		id := w.asked()
		ask, _ := w.Pending(ctx, id)
		var won atomic.Int64
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				m := ask.Wants
				if _, err := w.Decide(ctx, id, dana, &m); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d decided", won.Load())
		}
	})
	t.Run("F11 all scopes asked for", func(t *testing.T) {
		id := w.asked("scope", "mcp server:bank server:inbox server:vault admin offline_access openid", "resource", doorURL+"/bank")
		if ask, err := w.Pending(ctx, id); err != nil || !slices.Equal(ask.Scopes, []string{"mcp", "server:bank"}) || !slices.Equal(ask.Wants.Resources, []string{"bank"}) {
			t.Errorf("%+v %v", ask, err)
		}
		id = w.asked("scope", "")
		if ask, err := w.Pending(ctx, id); err != nil || !slices.Equal(ask.Scopes, []string{"mcp"}) || !slices.Equal(ask.Wants.Resources, []string{nothing}) {
			t.Errorf("%+v %v", ask, err)
		}
		// The person leaves one of two servers away, and the token's scope follows.
		id = w.asked("scope", "mcp server:bank server:inbox")
		ask, _ := w.Pending(ctx, id)
		ask.Wants.Resources = []string{"inbox"}
		to, err := w.Decide(ctx, id, dana, &ask.Wants)
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(to)
		if _, out, _ := w.post("/token", caller{}, code4("code", u.Query().Get("code"))); !out.Get("scope").Is("mcp server:inbox") {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("expires", func(t *testing.T) {
		id := w.asked()
		w.pass(PendingLife)
		if _, err := w.Pending(ctx, id); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
		if _, err := w.Decide(ctx, id, dana, nil); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
	})
}

func TestBoundToKey(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	status, out, h := w.post("/token", caller{key: key}, code4("code", w.consented("dpop_jkt", thumbOf(key))))
	if status != 200 || !out.Get("token_type").Is("DPoP") || h.Get("DPoP-Nonce") == "" {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("E12 it is a bearer token")
	}
	if status, out, _ := w.post("/token", caller{key: newKey(t)}, code4("code", w.consented("dpop_jkt", thumbOf(key)))); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("another key: %d %s", status, out.Bytes())
	}
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented("dpop_jkt", thumbOf(key)))); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("no key: %d %s", status, out.Bytes())
	}
	old := w.proof(key, issuerURL+"/token")
	w.pass(2 * time.Minute)
	if status, out, h := w.post("/token", caller{}, code4("code", w.consented()), "DPoP", old); status != 400 || !out.Get("error").Is("use_dpop_nonce") || h.Get("DPoP-Nonce") == "" {
		t.Errorf("an old nonce: %d %s", status, out.Bytes())
	}
	elsewhere := w.proof(key, issuerURL+"/revoke")
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented()), "DPoP", elsewhere); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("a proof for elsewhere: %d %s", status, out.Bytes())
	}
	refresh := func(c caller, token string) (int, ostiary.Value) {
		status, out, _ := w.post("/token", c, url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {token}, "resource": {doorURL}})
		return status, out
	}
	if status, out := refresh(caller{key: newKey(t)}, out.Get("refresh_token").Text()); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("refreshed with another key: %d %s", status, out.Bytes())
	}
	if status, out := refresh(caller{key: key}, out.Get("refresh_token").Text()); status != 200 || !out.Get("token_type").Is("DPoP") {
		t.Errorf("%d %s", status, out.Bytes())
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	_, first, _ := w.post("/token", caller{}, code4("code", w.consented()))
	refresh := func(token string, changes ...string) (int, ostiary.Value) {
		f := url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {token}}
		for i := 0; i+1 < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		status, out, _ := w.post("/token", caller{}, f)
		return status, out
	}
	token := first.Get("refresh_token").Text()
	for name, changes := range map[string][]string{
		"a wider scope": {"scope", "mcp server:bank server:inbox"}, "another resource": {"resource", doorURL + "/bank"}, "another client": {"client_id", "https://other.example/x"},
	} {
		if status, _ := refresh(token, changes...); status == 200 {
			t.Error(name)
		}
	}
	w.pass(11 * time.Minute)
	status, second := refresh(token, "scope", "mcp")
	if status != 200 || !second.Get("scope").Is("mcp") || second.Get("refresh_token").Text() == token {
		t.Fatalf("%d %s", status, second.Bytes())
	}
	next := second.Get("refresh_token").Text()
	if status, out := refresh(next); status != 200 || !out.Get("scope").Is("mcp server:bank") {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	if status, _ := refresh(next); status != 400 {
		t.Error("used twice")
	}
	if _, err := w.opens(second.Get("access_token").Text(), doorURL); err == nil {
		t.Error("the family's tokens are still good")
	}
	for _, bad := range []string{"", "x", refreshPrefix, refreshPrefix + "a.b", strings.Replace(next, ".", "", 1), strings.Repeat("x", maxValue+1)} {
		if status, _ := refresh(bad); status == 200 {
			t.Error(bad)
		}
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	_, out, _ := w.post("/token", caller{}, code4("code", w.consented()))
	token := out.Get("access_token").Text()
	w.pages["https://other.example/x"] = strings.Replace(document(""), clientID, "https://other.example/x", 1)
	give := func(token, client string) int {
		status, _, _ := w.post("/revoke", caller{}, url.Values{"token": {token}, "client_id": {client}})
		return status
	}
	if give(token, "https://other.example/x") != 200 || give("x", clientID) != 200 {
		t.Error("it tells what is a token")
	}
	if _, err := w.opens(token, doorURL); err != nil {
		t.Fatal("another client gave it back:", err)
	}
	w.pass(time.Second)
	if give(token, clientID) != 200 {
		t.Error("not taken")
	}
	if _, err := w.opens(token, doorURL); err == nil {
		t.Error("it is still good")
	}
	_, out, _ = w.post("/token", caller{}, code4("code", w.consented()))
	if give(out.Get("refresh_token").Text(), clientID) != 200 {
		t.Error("not taken")
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("what came of the same consent is still good")
	}
}

func TestPrivateKey(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	own, _ := jwt.Export(&key.PublicKey)
	w.pages[clientID] = document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[` + string(own) + `]}`)
	kid, _ := jwt.KID(key.Public())
	header := `{"alg":"ES256","typ":"JWT","kid":"` + kid + `"}`
	n := 0
	claims := func(changes map[string]any) map[string]any {
		n++
		c := map[string]any{"iss": clientID, "sub": clientID, "aud": issuerURL, "jti": fmt.Sprint(n), "iat": w.clock().Unix(), "exp": w.clock().Add(time.Minute).Unix()}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	ask := func(assertion string) (int, ostiary.Value) {
		f := code4("code", w.consented(), "client_assertion_type", assertionType, "client_assertion", assertion)
		status, out, _ := w.post("/token", caller{}, f)
		return status, out
	}
	once := sign(t, key, header, claims(nil))
	if status, out := ask(once); status != 200 {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	for name, text := range map[string]string{
		"shown again":      once,
		"another key":      sign(t, newKey(t), header, claims(nil)),
		"another audience": sign(t, key, header, claims(map[string]any{"aud": "https://elsewhere.example"})),
		"another client":   sign(t, key, header, claims(map[string]any{"sub": "https://other.example/x"})),
		"another issuer":   sign(t, key, header, claims(map[string]any{"iss": "https://other.example/x"})),
		"expired":          sign(t, key, header, claims(map[string]any{"iat": w.clock().Unix() - 120, "exp": w.clock().Unix()})),
		"of the future":    sign(t, key, header, claims(map[string]any{"iat": w.clock().Unix() + 100, "exp": w.clock().Unix() + 200})),
		"without an end":   sign(t, key, header, claims(map[string]any{"exp": nil})),
		"too long":         sign(t, key, header, claims(map[string]any{"exp": w.clock().Unix() + 301})),
		"another kind":     sign(t, key, strings.Replace(header, "JWT", "oauth-id-jag+jwt", 1), claims(nil)),
		"none":             b64([]byte(`{"alg":"none"}`)) + ".e30.",
	} {
		if status, out := ask(text); status != 401 || !out.Get("error").Is("invalid_client") {
			t.Errorf("%s: %d %s", name, status, out.Bytes())
		}
	}
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented())); status != 401 {
		t.Errorf("without its key: %d %s", status, out.Bytes())
	}
}

func TestExchange(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	parent, child := w.enrol("planner", dana), w.enrol("buyer", dana)
	own := func(cert *x509.Certificate, resource string) string {
		status, out, _ := w.post("/token", caller{cert: cert}, url.Values{"grant_type": {grantClient}, "resource": {resource}})
		if status != 200 || !out.Get("token_type").Is("Bearer") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
		return out.Get("access_token").Text()
	}
	mine, childs := own(parent, doorURL), own(child, doorURL)
	form := func(changes ...string) url.Values {
		f := url.Values{
			"grant_type": {grantExchange}, "resource": {doorURL}, "subject_token": {mine}, "subject_token_type": {accessType}, "actor_token": {childs}, "actor_token_type": {accessType},
			"authorization_details": {`[{"type":"ostiary_mandate","terms":{"actions":["bank___balance"],"servers":["bank"],"task":"look"}}]`},
		}
		for i := 0; i+1 < len(changes); i += 2 {
			if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
				f.Del(changes[i])
			}
		}
		return f
	}
	status, out, _ := w.post("/token", caller{cert: parent}, form())
	if status != 200 || !out.Get("issued_token_type").Is(accessType) {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	text := out.Get("access_token").Text()
	body, _ := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	v := parsed(t, body)
	act := v.Get("act")
	if !v.Get("sub").Is(string(dana)) || !act.Get("sub").Is("spiffe://test.example/agent/buyer") || !act.Get("act").Get("sub").Is("spiffe://test.example/agent/planner") {
		t.Errorf("%s", body)
	}
	c := ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(text)), Audience: doorURL, Encrypted: true, Peer: child, Verified: true}
	s, err := w.identity.Authenticate(ctx, c)
	if err != nil || s.Agent.Name() != "buyer" || s.Principal != dana || !s.Bound || len(s.Chain) != 2 || s.Chain[0].Name() != "planner" {
		t.Fatalf("%+v %v", s, err)
	}
	m, _ := w.identity.Mandate(s.Mandate)
	if !slices.Equal(m.Actions, []string{"bank___balance"}) || !slices.Equal(m.Resources, []string{"bank"}) || len(m.Links) != 2 {
		t.Errorf("%+v", m)
	}
	c.Peer = parent
	if _, err := w.identity.Authenticate(ctx, c); err == nil {
		t.Error("E13 the parent can use it")
	}
	t.Run("by the mandate's name", func(t *testing.T) {
		sub, err := w.identity.Authenticate(ctx, ostiary.Credentials{Peer: parent, Verified: true, Encrypted: true})
		if err != nil {
			t.Fatal(err)
		}
		if status, out, _ := w.post("/token", caller{cert: parent}, form("subject_token", string(sub.Mandate), "subject_token_type", MandateType)); status != 200 {
			t.Errorf("%d %s", status, out.Bytes())
		}
		if status, _, _ := w.post("/token", caller{cert: child}, form("subject_token", string(sub.Mandate), "subject_token_type", MandateType)); status == 200 {
			t.Error("another's mandate")
		}
	})
	t.Run("J01 wider than the parent", func(t *testing.T) {
		derived := text
		who := caller{cert: child}
		for name, terms := range map[string]string{
			"an action": `{"actions":["bank___transfer"],"servers":["bank"]}`, "a server": `{"actions":["bank___balance"],"servers":["inbox"]}`, "a life": `{"until":"2030-01-01T00:00:00Z"}`, "a depth": `{"depth":9}`,
		} {
			status, out, _ := w.post("/token", who, form("subject_token", derived, "actor_token", mine, "authorization_details", `[{"type":"ostiary_mandate","terms":`+terms+`}]`))
			if status != 400 || !out.Get("error").Is("invalid_authorization_details") {
				t.Errorf("%s: %d %s", name, status, out.Bytes())
			}
		}
	})
	t.Run("J03 a cycle", func(t *testing.T) {
		if status, out, _ := w.post("/token", caller{cert: child}, form("subject_token", text, "actor_token", mine, "authorization_details", "")); status == 200 {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("J04 the parent's end is the child's", func(t *testing.T) {
		if err := w.identity.EndMandate(ctx, "person:dana", m.Links[0], identity.EndRevoked, "test"); err != nil {
			t.Fatal(err)
		}
		c.Peer = child
		if _, err := w.identity.Authenticate(ctx, c); err == nil {
			t.Error("it is still good")
		}
	})
	w = newWorld(t)
	parent, child = w.enrol("planner", dana), w.enrol("buyer", dana)
	foreign, ours := w.enrol("stranger", "organisation:other"), w.enrol("ours", "organisation:acme")
	mine, childs = own(parent, doorURL), own(child, doorURL)
	theirs, oursToken := own(foreign, doorURL), own(ours, doorURL)
	for name, x := range map[string]struct {
		who     caller
		changes []string
		code    string
	}{
		"J06 other organisations":      {caller{cert: ours}, []string{"subject_token", oursToken, "actor_token", theirs}, "invalid_target"},
		"another's token":              {caller{cert: child}, nil, "invalid_grant"},
		"nobody's":                     {caller{}, nil, "invalid_client"},
		"no subject":                   {caller{cert: parent}, []string{"subject_token", ""}, "invalid_request"},
		"no actor":                     {caller{cert: parent}, []string{"actor_token", ""}, "invalid_request"},
		"no actor's type":              {caller{cert: parent}, []string{"actor_token_type", ""}, "invalid_request"},
		"an id token":                  {caller{cert: parent}, []string{"subject_token_type", "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"},
		"a refresh token wanted":       {caller{cert: parent}, []string{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		"no resource":                  {caller{cert: parent}, []string{"resource", ""}, "invalid_target"},
		"a foreign resource":           {caller{cert: parent}, []string{"resource", "https://elsewhere.example"}, "invalid_target"},
		"a token of nobody":            {caller{cert: parent}, []string{"subject_token", "a.b.c"}, "invalid_grant"},
		"an actor of nobody":           {caller{cert: parent}, []string{"actor_token", "a.b.c"}, "invalid_grant"},
		"details for another":          {caller{cert: parent}, []string{"authorization_details", `[{"type":"ostiary_mandate","terms":{"agent":"spiffe://test.example/agent/stranger"}}]`}, "invalid_authorization_details"},
		"J05 on behalf of another":     {caller{cert: parent}, []string{"authorization_details", `[{"type":"ostiary_mandate","terms":{"principal":"person:erin"}}]`}, "invalid_authorization_details"},
		"oneself":                      {caller{cert: parent}, []string{"actor_token", mine}, "invalid_authorization_details"},
		"an actor's type that is none": {caller{cert: parent}, []string{"actor_token_type", "x"}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			f := form(x.changes...)
			status, out, _ := w.post("/token", x.who, f)
			if status == 200 || !out.Get("error").Is(x.code) {
				t.Errorf("%d %s", status, out.Bytes())
			}
		})
	}
	t.Run("F01 a bearer token lives minutes, and nothing longer comes of it", func(t *testing.T) {
		sub := newKey(t)
		details := `[{"type":"ostiary_mandate","terms":{"servers":["bank"],"depth":1}}]`
		_, out, _ := w.post("/token", caller{}, code4("code", w.consented("authorization_details", details)))
		actor, err := w.identity.MintToken(ctx, identity.TokenRequest{Agent: "spiffe://test.example/agent/buyer", Audience: doorURL, Thumbprint: thumbOf(sub)})
		if err != nil {
			t.Fatal(err)
		}
		f := form("client_id", clientID, "subject_token", out.Get("access_token").Text(), "actor_token", string(actor.Text.Reveal()))
		for name, who := range map[string]caller{"as it is": {}, "with the finder's key": {key: sub}} {
			if status, out, _ := w.post("/token", who, f); status != 400 || !out.Get("error").Is("invalid_grant") {
				t.Errorf("%s, whoever finds it delegates for as long as the mandate: %d %s", name, status, out.Bytes())
			}
		}
	})
	t.Run("a person's client delegates, bound to keys", func(t *testing.T) {
		key, sub := newKey(t), newKey(t)
		details := `[{"type":"ostiary_mandate","terms":{"servers":["bank"],"depth":1}}]`
		_, out, _ := w.post("/token", caller{key: key}, code4("code", w.consented("authorization_details", details)))
		actor, err := w.identity.MintToken(ctx, identity.TokenRequest{Agent: "spiffe://test.example/agent/buyer", Audience: doorURL, Thumbprint: thumbOf(sub)})
		if err != nil {
			t.Fatal(err)
		}
		f := form("client_id", clientID, "subject_token", out.Get("access_token").Text(), "actor_token", string(actor.Text.Reveal()))
		if status, out, _ := w.post("/token", caller{}, f); status == 200 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("without the key: %d %s", status, out.Bytes())
		}
		if status, out, _ := w.post("/token", caller{key: key}, f); status != 200 || !out.Get("token_type").Is("DPoP") || !out.Get("scope").Is("mcp server:bank") {
			t.Errorf("%d %s", status, out.Bytes())
		}
		f.Set("scope", "mcp server:bank server:inbox")
		if status, out, _ := w.post("/token", caller{key: key}, f); status == 200 || !out.Get("error").Is("invalid_scope") {
			t.Errorf("a wider scope: %d %s", status, out.Bytes())
		}
	})
}

func TestAssertion(t *testing.T) {
	key := newKey(t)
	w := newWorld(t)
	claims := func(w *world, changes map[string]any) map[string]any {
		c := map[string]any{"iss": "https://idp.example", "sub": "u-dana", "aud": issuerURL, "client_id": clientID, "jti": "1", "iat": w.clock().Unix(), "exp": w.clock().Add(5 * time.Minute).Unix(),
			"email": "dana@acme.example", "cnf": map[string]string{"jkt": thumbOf(key)}}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	header := func(typ string) string {
		k, _ := jwt.KID(w.idp.Public())
		return `{"alg":"ES256","typ":"` + typ + `","kid":"` + k + `"}`
	}
	ask := func(w *world, who caller, text string, changes ...string) (int, ostiary.Value) {
		f := url.Values{"grant_type": {grantAssert}, "client_id": {clientID}, "assertion": {text}, "resource": {doorURL}, "scope": {"mcp server:bank server:inbox"}}
		for i := 0; i+1 < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		status, out, _ := w.post("/token", who, f)
		return status, out
	}
	good := sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, nil))
	for range 2 { // a client may show one again
		status, out := ask(w, caller{key: key}, good)
		if status != 200 || !out.Get("scope").Is("mcp server:bank") || out.Get("refresh_token").Exists() || !out.Get("token_type").Is("DPoP") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
	}
	for name, text := range map[string]string{
		"another kind":        sign(t, w.idp, header("JWT"), claims(w, nil)),
		"another issuer":      sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"iss": "https://idp.example/"})),
		"another key":         sign(t, newKey(t), header("oauth-id-jag+jwt"), claims(w, nil)),
		"another audience":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"aud": issuerURL + "/"})),
		"two audiences":       sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"aud": []string{issuerURL, "x"}})),
		"another client":      sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"client_id": "https://other.example/x"})),
		"expired":             sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"iat": w.clock().Unix() - 60, "exp": w.clock().Unix()})),
		"bound to another":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"cnf": map[string]string{"jkt": thumbOf(newKey(t))}})),
		"bound to nothing":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"cnf": nil})),
		"somebody else there": sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"sub": "u-erin"})),
		"by e-mail alone":     sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"sub": "dana@acme.example"})),
		"nothing":             "",
	} {
		if status, out := ask(w, caller{key: key}, text); status == 200 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%s: %d %s", name, status, out.Bytes())
		}
	}
	if status, out := ask(w, caller{key: newKey(t)}, good); status == 200 {
		t.Errorf("shown with another key: %s", out.Bytes())
	}
	if status, out := ask(w, caller{key: key}, sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"resource": doorURL + "/bank"}))); !out.Get("error").Is("invalid_target") {
		t.Errorf("another resource: %d %s", status, out.Bytes())
	}
	if n := w.fetched["https://idp.example/keys"]; n != 1 {
		t.Errorf("E10 the issuer's keys were read %d times", n)
	}
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	reg := func(text string) (int, ostiary.Value) {
		r := httptest.NewRequest("POST", issuerURL+"/register", strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		return rec.Code, parsed(t, rec.Body.Bytes())
	}
	status, out := reg(`{"client_name":"old","redirect_uris":["http://localhost:1/cb"],"grant_types":["authorization_code"],"scope":"x"}`)
	if status != 201 || out.Get("client_secret").Exists() {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	id := out.Get("client_id").Text()
	ask, err := w.Pending(t.Context(), w.asked("client_id", id, "redirect_uri", "http://localhost:9/cb"))
	if err != nil || ask.Known {
		t.Errorf("%+v %v", ask, err)
	}
	for _, bad := range []string{`{}`, `{"client_name":"x","redirect_uris":["javascript:x"]}`, `{"client_name":"x","redirect_uris":["https://a/b"],"token_endpoint_auth_method":"client_secret_basic"}`, `[]`, ``} {
		if status, out := reg(bad); status != 400 {
			t.Errorf("%s: %d %s", bad, status, out.Bytes())
		}
	}
}

// faulty is a keeper whose n-th write fails: before it happens, or after.
type faulty struct {
	record.Keeper
	left  atomic.Int64
	after bool
}

func (k *faulty) write(do func() error) error {
	if k.left.Add(-1) != 0 {
		return do()
	}
	if k.after {
		do()
	}
	return ostiary.Errorf(ostiary.Unavailable, "not_known", "the answer was lost")
}

func (k *faulty) CreateRecord(ctx context.Context, r record.Record, at time.Time) (rev uint64, err error) {
	return rev, k.write(func() error { rev, err = k.Keeper.CreateRecord(ctx, r, at); return err })
}

func (k *faulty) ReplaceRecord(ctx context.Context, r record.Record) (rev uint64, err error) {
	err = k.write(func() error { var err error; rev, err = k.Keeper.ReplaceRecord(ctx, r); return err })
	return rev, err
}

func (k *faulty) TakeRecord(ctx context.Context, kind, id string, at time.Time) (r record.Record, err error) {
	err = k.write(func() error { var err error; r, err = k.Keeper.TakeRecord(ctx, kind, id, at); return err })
	return r, err
}

// TestFaults: each write of a sign-in fails, before it happens or after it
// has. Whoever tries the same again gets one answer at most, and two never
// both hold a token that is good.
func TestFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := int64(1); n <= 4; n++ {
			w := newWorld(t)
			f := code4("code", w.consented())
			k := &faulty{Keeper: w.records, after: after}
			k.left.Store(n)
			w.o.Records = k
			answers, good := 0, 0
			for range 3 {
				status, out, _ := w.post("/token", caller{}, f)
				if status == 200 {
					answers++
					if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
						good++
					}
				} else if status != 400 && status != 503 {
					t.Errorf("write %d, after %v: %d %s", n, after, status, out.Bytes())
				}
			}
			if answers > 1 || good > 1 {
				t.Errorf("write %d, after %v: %d answers, %d good tokens", n, after, answers, good)
			}
		}
		for n := int64(1); n <= 2; n++ { // the question is taken, the code is written
			w := newWorld(t)
			id := w.asked()
			ask, _ := w.Pending(t.Context(), id)
			k := &faulty{Keeper: w.records, after: after}
			k.left.Store(n)
			w.o.Records = k
			decided := 0
			for range 3 {
				m := ask.Wants
				if _, err := w.Decide(t.Context(), id, dana, &m); err == nil {
					decided++
				}
			}
			if decided > 1 || n == 2 && decided != 0 {
				t.Errorf("decision, write %d, after %v: decided %d times", n, after, decided)
			}
		}
	}
}

// TestRestart: what one process wrote another knows.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	c := w.consented()
	o := w.o
	again, err := New(o) // another process on the same store, or this one later
	if err != nil {
		t.Fatal(err)
	}
	first := w.Server
	w.Server = again
	_, out, _ := w.post("/token", caller{}, code4("code", c))
	if out.Get("access_token").Text() == "" {
		t.Fatalf("%s", out.Bytes())
	}
	w.Server = first
	if status, _, _ := w.post("/token", caller{}, code4("code", c)); status != 400 {
		t.Error("the code was good twice")
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("what the other process gave is still good")
	}
}

func FuzzForm(f *testing.F) {
	f.Add("a=b&c=%20")
	f.Add("a=b&a=c")
	f.Add(`authorization_details=[{"type":"ostiary_mandate","terms":{}}]&scope=mcp`)
	f.Fuzz(func(t *testing.T, text string) {
		got, ref := parseForm(text)
		if ref != nil {
			return
		}
		q, err := url.ParseQuery(text)
		if err != nil && !strings.Contains(text, ";") {
			t.Fatalf("accepted what others refuse: %v", err)
		}
		for name, v := range got {
			if err == nil && (len(q[name]) != 1 || q[name][0] != v) {
				t.Fatalf("%s is %q, and %q to others", name, v, q[name])
			}
		}
		got.scopes()
		got.details()
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(document("")))
	f.Add([]byte(document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[]}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseDocument(clientID, text); err == nil {
			if c.name == "" || len(c.redirects) == 0 || c.method == "private_key_jwt" && c.keys == nil && c.keysURL == "" {
				t.Fatalf("%+v", c)
			}
			for _, r := range c.redirects {
				if !c.sends(r) {
					t.Fatalf("%q is its own and is not sent to", r)
				}
			}
		}
	})
}

func FuzzRedirect(f *testing.F) {
	for _, s := range []string{redirect, "https://client.example/cb", "http://localhost:1/cb", "http://[::1]:1/cb", "javascript:alert(1)"} {
		f.Add(s)
	}
	c := &client{redirects: []string{"http://127.0.0.1/callback", "https://client.example/cb"}}
	f.Fuzz(func(t *testing.T, s string) {
		if !c.sends(s) || slices.Contains(c.redirects, s) {
			return
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" || u.Path != "/callback" || u.RawQuery != "" || u.User != nil || strings.Contains(s, "#") {
			t.Fatalf("a code would go to %q", s)
		}
	})
}

// TestPace: anybody can be a client with a key, and each assertion is a durable
// row. One client makes no more of them than one needs, and others go on.
func TestPace(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	own, _ := jwt.Export(&key.PublicKey)
	const other = "https://other.example/oauth.json"
	w.pages[clientID] = document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[` + string(own) + `]}`)
	w.pages[other] = strings.ReplaceAll(w.pages[clientID], clientID, other)
	kid, _ := jwt.KID(key.Public())
	n := 0
	ask := func(id string) (int, ostiary.Value) {
		n++
		text := sign(t, key, `{"alg":"ES256","typ":"JWT","kid":"`+kid+`"}`, map[string]any{"iss": id, "sub": id, "aud": issuerURL, "jti": fmt.Sprint(n), "iat": w.clock().Unix(), "exp": w.clock().Add(time.Minute).Unix()})
		status, out, _ := w.post("/token", caller{}, url.Values{"grant_type": {grantRefresh}, "refresh_token": {"x"}, "client_id": {id}, "client_assertion_type": {assertionType}, "client_assertion": {text}})
		return status, out
	}
	refused := 0
	for range 300 {
		if status, out := ask(clientID); status == 503 && out.Get("error").Is("temporarily_unavailable") {
			refused++
		}
	}
	rows, err := w.records.Records(t.Context(), kindAssertion, "", 1000, w.clock())
	if err != nil || len(rows) > paceBurst || refused != 300-len(rows) {
		t.Errorf("%d rows of 300 assertions, %d refused, %v", len(rows), refused, err)
	}
	if status, out := ask(other); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("another client: %d %s", status, out.Bytes())
	}
	w.now.Add(int64(time.Second))
	if status, out := ask(clientID); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("a second later: %d %s", status, out.Bytes())
	}
}

// TestRefreshAnswerLost: who proves the family's key may spend the last secret
// again for a moment; who does not, or comes later, ends it.
func TestRefreshAnswerLost(t *testing.T) {
	begin := func(t *testing.T) (w *world, key *ecdsa.PrivateKey, secret string, refresh func(caller, string) (int, ostiary.Value)) {
		w, key = newWorld(t), newKey(t)
		_, out, _ := w.post("/token", caller{key: key}, code4("code", w.consented()))
		return w, key, out.Get("refresh_token").Text(), func(c caller, token string) (int, ostiary.Value) {
			status, out, _ := w.post("/token", c, url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {token}})
			return status, out
		}
	}
	good := func(t *testing.T, status int, out ostiary.Value) string {
		t.Helper()
		if status != 200 || !out.Get("token_type").Is("DPoP") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
		return out.Get("refresh_token").Text()
	}
	ended := func(t *testing.T, status int, out ostiary.Value) {
		t.Helper()
		if status != 400 || !out.Get("error").Is("invalid_grant") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
	}
	t.Run("asked again at once", func(t *testing.T) {
		w, key, first, refresh := begin(t)
		status, out := refresh(caller{key: key}, first)
		lost := good(t, status, out)
		w.pass(20 * time.Second)
		status, out = refresh(caller{key: key}, first)
		second := good(t, status, out)
		status, out = refresh(caller{key: key}, second)
		third := good(t, status, out)
		status, out = refresh(caller{key: key}, lost) // it did arrive after all
		good(t, status, out)
		status, out = refresh(caller{key: key}, third)
		good(t, status, out)
		w.pass(time.Hour)
		status, out = refresh(caller{key: key}, lost)
		ended(t, status, out)
		status, out = refresh(caller{key: key}, third)
		ended(t, status, out)
	})
	t.Run("too late", func(t *testing.T) {
		w, key, first, refresh := begin(t)
		status, out := refresh(caller{key: key}, first)
		next := good(t, status, out)
		w.pass(retryGrace + time.Second)
		status, out = refresh(caller{key: key}, first)
		ended(t, status, out)
		status, out = refresh(caller{key: key}, next)
		ended(t, status, out)
	})
	t.Run("too often", func(t *testing.T) {
		_, key, first, refresh := begin(t)
		for range 1 + maxRetries {
			status, out := refresh(caller{key: key}, first)
			good(t, status, out)
		}
		status, out := refresh(caller{key: key}, first)
		ended(t, status, out)
	})
	for name, thief := range map[string]func(t *testing.T) caller{
		"a thief without the key":  func(t *testing.T) caller { return caller{} },
		"a thief with another key": func(t *testing.T) caller { return caller{key: newKey(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			_, key, first, refresh := begin(t)
			status, out := refresh(caller{key: key}, first)
			next := good(t, status, out)
			status, out = refresh(thief(t), first)
			ended(t, status, out)
			status, out = refresh(caller{key: key}, next)
			ended(t, status, out)
		})
	}
}

// TestConnectThenCall: what a client only connected under is completed when it
// has something else, and another client's is not.
func TestConnectThenCall(t *testing.T) {
	w := newWorld(t)
	other := "https://other.example/x"
	w.pages[other] = strings.Replace(document(""), clientID, other, 1)
	mandate := func(changes ...string) ostiary.MandateID {
		t.Helper()
		f := code4("code", w.consented(changes...))
		if len(changes) > 2 {
			f.Set("client_id", other)
		}
		status, out, _ := w.post("/token", caller{}, f)
		s, err := w.opens(out.Get("access_token").Text(), doorURL)
		if status != 200 || err != nil {
			t.Fatalf("%d %s %v", status, out.Bytes(), err)
		}
		return s.Mandate
	}
	theirs := mandate("scope", "mcp", "client_id", other)
	connected := mandate("scope", "mcp")
	called := mandate("scope", "mcp server:bank")
	for id, state := range map[ostiary.MandateID]string{theirs: "in_force", connected: "completed", called: "in_force"} {
		if v, err := w.identity.MandateView(t.Context(), id); err != nil || v.State != state {
			t.Errorf("%s is %s, %v; want %s", id, v.State, err, state)
		}
	}
}
