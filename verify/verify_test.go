package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var epoch = time.Unix(1_790_000_000, 0)

// request is what a test signs, with every part replaceable.
type request struct {
	method, url, body, contentType, entry, auth, session string
	covered                                              []string
	params                                               string
	nonce                                                string
	created, life                                        int64
	label, tag, keyID, alg                               string
	digest                                               string
}

func plain(keyID, alg string) request {
	return request{
		method: "POST", url: "http://tools.test/mcp", body: `{"jsonrpc":"2.0"}`, contentType: "application/json", entry: "2026-11/7",
		covered: []string{"@method", "@target-uri", "content-digest", "content-type", "ostiary-entry"},
		nonce:   rand.Text(), created: epoch.Unix(), life: 60, label: "ostiary", tag: "ostiary", keyID: keyID, alg: alg,
	}
}

func (q request) signed(t testing.TB, key crypto.Signer) *http.Request {
	t.Helper()
	if q.digest == "" {
		sum := sha256.Sum256([]byte(q.body))
		q.digest = "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	}
	r := httptest.NewRequest(q.method, q.url, strings.NewReader(q.body))
	r.Header.Set("Content-Type", q.contentType)
	r.Header.Set("Ostiary-Entry", q.entry)
	r.Header.Set("Content-Digest", q.digest)
	if q.auth != "" {
		r.Header.Set("Authorization", q.auth)
	}
	if q.session != "" {
		r.Header.Set("Mcp-Session-Id", q.session)
	}
	params := q.params
	if params == "" {
		params = fmt.Sprintf(`("%s");created=%d;expires=%d;nonce="%s";keyid="%s";alg="%s";tag="%s"`, strings.Join(q.covered, `" "`), q.created, q.created+q.life, q.nonce, q.keyID, q.alg, q.tag)
	}
	var base strings.Builder
	for _, c := range q.covered {
		v := r.Header.Get(c)
		switch c {
		case "@method":
			v = q.method
		case "@target-uri":
			v = q.url
		}
		fmt.Fprintf(&base, "\"%s\": %s\n", c, v)
	}
	base.WriteString(`"@signature-params": ` + params)
	r.Header.Set("Signature-Input", q.label+"="+params)
	r.Header.Set("Signature", q.label+"=:"+base64.StdEncoding.EncodeToString(rawSign(t, key, base.String()))+":")
	return r
}

func rawSign(t testing.TB, key crypto.Signer, base string) []byte {
	t.Helper()
	if k, ok := key.(ed25519.PrivateKey); ok {
		return ed25519.Sign(k, []byte(base))
	}
	sum := sha256.Sum256([]byte(base))
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

func newKeys(t testing.TB) (*ecdsa.PrivateKey, ed25519.PrivateKey) {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ec, ed
}

func newVerifier(t testing.TB, o Options) *Verifier {
	t.Helper()
	if o.Clock == nil {
		o.Clock = func() time.Time { return epoch }
	}
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMiddleware(t *testing.T) {
	ec, ed := newKeys(t)
	keys := map[string]crypto.PublicKey{"ec": &ec.PublicKey, "ed": ed.Public()}
	ok := func() request { return plain("ec", "ecdsa-p256-sha256") }
	inSession := func() request {
		q := ok()
		q.session = "s-1"
		q.covered = append(q.covered, "mcp-session-id")
		return q
	}
	for name, c := range map[string]struct {
		key   crypto.Signer
		make  func() request
		after func(r *http.Request)
		field string // "" is accepted
	}{
		"ECDSA":   {key: ec, make: ok},
		"Ed25519": {key: ed, make: func() request { return plain("ed", "ed25519") }},
		"authorization covered": {key: ec, make: func() request {
			q := ok()
			q.auth = "Bearer x"
			q.covered = append(q.covered, "authorization")
			return q
		}},
		"session added":            {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Mcp-Session-Id", "somebody else's") }, field: "mcp-session-id"},
		"session swapped":          {key: ec, make: inSession, after: func(r *http.Request) { r.Header.Set("Mcp-Session-Id", "somebody else's") }, field: "Signature"},
		"session removed":          {key: ec, make: inSession, after: func(r *http.Request) { r.Header.Del("Mcp-Session-Id") }, field: "Signature-Input"},
		"session covered":          {key: ec, make: inSession},
		"another order":            {key: ec, make: func() request { q := ok(); q.covered[0], q.covered[4] = q.covered[4], q.covered[0]; return q }},
		"another signature beside": {key: ec, make: ok, after: func(r *http.Request) { addSignature(r, "other", "else") }},
		"direct call":              {key: ec, make: ok, after: func(r *http.Request) { r.Header.Del("Signature-Input"); r.Header.Del("Signature") }, field: "Signature-Input"},
		"no signature value":       {key: ec, make: ok, after: func(r *http.Request) { r.Header.Del("Signature") }, field: "Signature"},
		"other tag":                {key: ec, make: func() request { q := ok(); q.tag = "wimse"; return q }, field: "Signature-Input"},
		"two with our tag":         {key: ec, make: ok, after: func(r *http.Request) { addSignature(r, "second", "ostiary") }, field: "Signature-Input"},
		"same label twice":         {key: ec, make: ok, after: func(r *http.Request) { addSignature(r, "ostiary", "ostiary") }, field: "Signature-Input"},
		"two header lines":         {key: ec, make: ok, after: func(r *http.Request) { r.Header.Add("Signature-Input", `x=("@method");tag="x"`) }, field: "Signature-Input"},
		"body changed":             {key: ec, make: ok, after: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"jsonrpc":"2.1"}`)) }, field: "Content-Digest"},
		"method changed":           {key: ec, make: ok, after: func(r *http.Request) { r.Method = "PUT" }, field: "Signature"},
		"target changed":           {key: ec, make: ok, after: func(r *http.Request) { r.RequestURI = "/admin" }, field: "Signature"},
		"host changed":             {key: ec, make: ok, after: func(r *http.Request) { r.Host = "other.test" }, field: "Signature"},
		"entry changed":            {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Ostiary-Entry", "2026-11/8") }, field: "Signature"},
		"entry twice":              {key: ec, make: ok, after: func(r *http.Request) { r.Header.Add("Ostiary-Entry", "2026-11/8") }, field: "ostiary-entry"},
		"content type changed":     {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, field: "Signature"},
		"authorization added":      {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Authorization", "Bearer y") }, field: "authorization"},
		"authorization removed": {key: ec, make: func() request {
			q := ok()
			q.auth = "Bearer x"
			q.covered = append(q.covered, "authorization")
			return q
		}, after: func(r *http.Request) { r.Header.Del("Authorization") }, field: "Signature-Input"},
		"digest not covered": {key: ec, make: func() request {
			q := ok()
			q.covered = []string{"@method", "@target-uri", "content-type", "ostiary-entry"}
			return q
		}, field: "content-digest"},
		"entry not covered":       {key: ec, make: func() request { q := ok(); q.covered = q.covered[:4]; return q }, field: "ostiary-entry"},
		"component twice":         {key: ec, make: func() request { q := ok(); q.covered = append(q.covered, "@method"); return q }, field: "Signature-Input"},
		"component of no profile": {key: ec, make: func() request { q := ok(); q.covered = append(q.covered, "@path"); return q }, field: "Signature-Input"},
		"component with parameter": {key: ec, make: func() request {
			q := ok()
			q.params = `("@method";req "@target-uri" "content-digest" "content-type" "ostiary-entry");created=1790000000;expires=1790000060;nonce="0123456789abcdef";keyid="ec";alg="ecdsa-p256-sha256";tag="ostiary"`
			return q
		}, field: "Signature-Input"},
		"no nonce": {key: ec, make: func() request {
			q := ok()
			q.params = `("@method" "@target-uri" "content-digest" "content-type" "ostiary-entry");created=1790000000;expires=1790000060;keyid="ec";alg="ecdsa-p256-sha256";tag="ostiary"`
			return q
		}, field: "Signature-Input"},
		"parameter of wrong type": {key: ec, make: func() request {
			q := ok()
			q.params = `("@method" "@target-uri" "content-digest" "content-type" "ostiary-entry");created="1";expires=1790000060;nonce="0123456789abcdef";keyid="ec";alg="ecdsa-p256-sha256";tag="ostiary"`
			return q
		}, field: "Signature-Input"},
		"parameter twice": {key: ec, make: func() request {
			q := ok()
			q.params = `("@method" "@target-uri" "content-digest" "content-type" "ostiary-entry");created=1790000000;created=1790000000;expires=1790000060;nonce="0123456789abcdef";keyid="ec";alg="ecdsa-p256-sha256";tag="ostiary"`
			return q
		}, field: "Signature-Input"},
		"short nonce":          {key: ec, make: func() request { q := ok(); q.nonce = "short"; return q }, field: "nonce"},
		"long nonce":           {key: ec, make: func() request { q := ok(); q.nonce = strings.Repeat("n", 129); return q }, field: "nonce"},
		"expired":              {key: ec, make: func() request { q := ok(); q.life = 1; q.created = epoch.Unix(); return q }, field: ""},
		"unknown key":          {key: ec, make: func() request { return plain("other", "ecdsa-p256-sha256") }, field: "keyid"},
		"wrong key":            {key: ec, make: func() request { return plain("ed", "ed25519") }, field: "Signature"},
		"wrong algorithm":      {key: ec, make: func() request { return plain("ec", "ed25519") }, field: "alg"},
		"no algorithm":         {key: ec, make: func() request { return plain("ec", "") }, field: "alg"},
		"future":               {key: ec, make: func() request { q := ok(); q.created += 6; return q }, field: "created"},
		"a little future":      {key: ec, make: func() request { q := ok(); q.created += 4; return q }},
		"before this verifier": {key: ec, make: func() request { q := ok(); q.created--; return q }, field: "created"},
		"long window":          {key: ec, make: func() request { q := ok(); q.life = 61; return q }, field: "expires"},
		"empty window":         {key: ec, make: func() request { q := ok(); q.life = 0; return q }, field: "expires"},
		"md5 digest":           {key: ec, make: func() request { q := ok(); q.digest = "md5=:AAAA:"; return q }, field: "Content-Digest"},
		"weak digest beside":   {key: ec, make: func() request { q := ok(); q.digest = digestOf(q.body) + ", md5=:AAAA:"; return q }, field: "Content-Digest"},
		"wrong digest beside":  {key: ec, make: func() request { q := ok(); q.digest = digestOf(q.body) + ", sha-512=:AAAA:"; return q }, field: "Content-Digest"},
		"digest twice in one":  {key: ec, make: func() request { q := ok(); q.digest = "sha-256=:AAAA:, " + digestOf(q.body); return q }, field: "Content-Digest"},
		"DER signature": {key: ec, make: ok, after: func(r *http.Request) {
			sum := sha256.Sum256(nil)
			der, _ := ec.Sign(rand.Reader, sum[:], crypto.SHA256)
			r.Header.Set("Signature", "ostiary=:"+base64.StdEncoding.EncodeToString(der)+":")
		}, field: "Signature"},
		"garbage input": {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Signature-Input", "((((") }, field: "Signature-Input"},
		"huge input":    {key: ec, make: ok, after: func(r *http.Request) { r.Header.Set("Signature-Input", "a="+strings.Repeat("1", 5000)) }, field: "Signature-Input"},
		"label names another value": {key: ec, make: ok, after: func(r *http.Request) {
			r.Header.Set("Signature", strings.Replace(r.Header.Get("Signature"), "ostiary=", "else=", 1))
		}, field: "Signature"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Options{Keys: keys})
			var got string
			h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got = Entry(r.Context()) + " " + string(b)
			}))
			r := c.make().signed(t, c.key)
			if c.after != nil {
				c.after(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if c.field == "" {
				if w.Code != 200 || got != `2026-11/7 {"jsonrpc":"2.0"}` {
					t.Fatalf("refused: %d %s (handler saw %q)", w.Code, w.Body, got)
				}
				return
			}
			var e struct{ Error, Field string }
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
				t.Fatalf("%d %q: %v", w.Code, w.Body, err)
			}
			if w.Code != 401 || e.Field != c.field || e.Error == "" || got != "" {
				t.Errorf("got %d %+v, handler saw %q; want 401 at %q", w.Code, e, got, c.field)
			}
		})
	}
}

func digestOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func addSignature(r *http.Request, label, tag string) {
	r.Header.Set("Signature-Input", r.Header.Get("Signature-Input")+`, `+label+`=("@method");created=1;tag="`+tag+`"`)
	r.Header.Set("Signature", r.Header.Get("Signature")+", "+label+"=:AAAA:")
}

// A request works once, whatever races for it.
func TestReplay(t *testing.T) {
	ec, _ := newKeys(t)
	v := newVerifier(t, Options{Keys: map[string]crypto.PublicKey{"ec": &ec.PublicKey}})
	q := plain("ec", "ecdsa-p256-sha256")
	r := q.signed(t, ec)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := v.Verify(r, []byte(q.body)); err == nil {
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n != 1 {
		t.Errorf("admitted %d times", n)
	}
}

func TestWindowAndMemory(t *testing.T) {
	ec, _ := newKeys(t)
	now := epoch
	v := newVerifier(t, Options{Keys: map[string]crypto.PublicKey{"ec": &ec.PublicKey}, Nonces: 2, Clock: func() time.Time { return now }})
	send := func(q request) error {
		_, err := v.Verify(q.signed(t, ec), []byte(q.body))
		return err
	}
	first := plain("ec", "ecdsa-p256-sha256")
	late := plain("ec", "ecdsa-p256-sha256")
	if err := send(first); err != nil {
		t.Fatal(err)
	}
	if err := send(plain("ec", "ecdsa-p256-sha256")); err != nil {
		t.Fatal(err)
	}
	// Full: refuse, rather than forget one that could be replayed.
	if err := send(late); err == nil || err.(*Error).Status != http.StatusServiceUnavailable {
		t.Fatalf("a full memory answered %v", err)
	}
	// The window is open to its last moment, and so is the memory of it.
	now = epoch.Add(64 * time.Second)
	if err := send(first); err == nil || err.(*Error).Field != "nonce" {
		t.Fatalf("replay at the window's end: %v", err)
	}
	now = epoch.Add(65 * time.Second)
	if err := send(first); err == nil || err.(*Error).Field != "expires" {
		t.Fatalf("replay after the window: %v", err)
	}
	next := plain("ec", "ecdsa-p256-sha256")
	next.created = now.Unix()
	if err := send(next); err != nil {
		t.Fatalf("the memory did not forget: %v", err)
	}
	if len(v.seen.seen) != 1 || len(v.seen.byEnd) != 1 {
		t.Errorf("remembers %d nonces in %d seconds, want 1", len(v.seen.seen), len(v.seen.byEnd))
	}
	// A clock that runs ahead and comes back revives nothing either.
	ahead := plain("ec", "ecdsa-p256-sha256")
	ahead.created = now.Unix()
	if err := send(ahead); err != nil {
		t.Fatal(err)
	}
	now = epoch.Add(time.Hour)
	fresh := plain("ec", "ecdsa-p256-sha256")
	fresh.created = now.Unix()
	if err := send(fresh); err != nil {
		t.Fatal(err)
	}
	now = epoch.Add(66 * time.Second)
	if err := send(ahead); err == nil || err.(*Error).Field != "expires" {
		t.Errorf("L05 a clock that came back let a replay in: %v", err)
	}
	// Stepping the clock back revives nothing.
	now = epoch
	if err := send(next); err == nil {
		t.Error("a clock that stepped back let a replay in")
	}
}

func TestTargetBehindProxy(t *testing.T) {
	ec, _ := newKeys(t)
	keys := map[string]crypto.PublicKey{"ec": &ec.PublicKey}
	q := plain("ec", "ecdsa-p256-sha256")
	q.url = "https://tools.example/mcp"
	r := q.signed(t, ec)
	r.Host, r.TLS = "10.0.0.7:8080", nil
	if _, err := newVerifier(t, Options{Keys: keys, Origin: "https://tools.example"}).Verify(r, []byte(q.body)); err != nil {
		t.Error(err)
	}
	if _, err := newVerifier(t, Options{Keys: keys}).Verify(r, []byte(q.body)); err == nil {
		t.Error("accepted for another origin")
	}
}

func TestBodyLimit(t *testing.T) {
	ec, _ := newKeys(t)
	v := newVerifier(t, Options{Keys: map[string]crypto.PublicKey{"ec": &ec.PublicKey}, MaxBody: 16})
	w := httptest.NewRecorder()
	v.Middleware(nil).ServeHTTP(w, plain("ec", "ecdsa-p256-sha256").signed(t, ec))
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d", w.Code)
	}
}

func TestOptions(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	ec, _ := newKeys(t)
	good := map[string]crypto.PublicKey{"ec": &ec.PublicKey}
	for name, o := range map[string]Options{
		"B11 no keys":  {},
		"P-384":        {Keys: map[string]crypto.PublicKey{"k": &p384.PublicKey}},
		"nil key":      {Keys: map[string]crypto.PublicKey{"k": nil}},
		"origin path":  {Keys: good, Origin: "https://x/y"},
		"origin bare":  {Keys: good, Origin: "x"},
		"origin other": {Keys: good, Origin: "ftp://x"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseKeys(t *testing.T) {
	ec, ed := newKeys(t)
	var text []byte
	for _, pub := range []crypto.PublicKey{&ec.PublicKey, ed.Public()} {
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	keys, err := ParseKeys(text)
	if err != nil || len(keys) != 2 || keys[KeyID(&ec.PublicKey)] == nil || keys[KeyID(ed.Public())] == nil {
		t.Errorf("%v %v", keys, err)
	}
	if KeyID(&rsa.PublicKey{}) != "" {
		t.Error("a key that no gateway signs with has a name")
	}
	der, _ := x509.MarshalPKIXPublicKey(ed.Public())
	other := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	for _, bad := range []string{"", "no pem", other, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParseKeys([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

// Whatever the headers are, nothing is admitted that was not signed.
func FuzzHeaders(f *testing.F) {
	ec, _ := newKeys(f)
	r := plain("ec", "ecdsa-p256-sha256").signed(f, ec)
	f.Add(r.Header.Get("Signature-Input"), r.Header.Get("Signature"), r.Header.Get("Content-Digest"))
	f.Add(`ostiary=();tag="ostiary"`, `ostiary=:AA==:`, `sha-256=:AA==:`)
	f.Add(`ostiary=("@method" "@method");created=1;expires=2;nonce="0123456789abcdef";keyid="ec";alg="x";tag="ostiary"`, "", "")
	other, _ := newKeys(f)
	f.Fuzz(func(t *testing.T, input, sig, digest string) {
		v := newVerifier(t, Options{Keys: map[string]crypto.PublicKey{"ec": &other.PublicKey}})
		r := httptest.NewRequest("POST", "http://tools.test/mcp", nil)
		r.Header["Signature-Input"] = []string{input}
		r.Header["Signature"] = []string{sig}
		r.Header["Content-Digest"] = []string{digest}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Ostiary-Entry", "2026-11/7")
		if c, err := v.Verify(r, nil); err == nil {
			t.Errorf("admitted as %+v", c)
		}
	})
}
