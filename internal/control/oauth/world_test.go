package oauth

import (
	"bytes"
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
	"github.com/ostiary/ostiary/internal/strictjson"
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

func (w *world) clock() time.Time { return time.Unix(0, w.now.Load()).UTC() }

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

func parsed(t testing.TB, b []byte) ostiary.Value {
	t.Helper()
	doc, err := strictjson.Parse(bytes.Clone(b), strictjson.Reply)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return doc.Root()
}
