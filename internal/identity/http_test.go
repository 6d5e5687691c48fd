package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// serve runs the authority's endpoints, and one that tells who is asking, on
// a TLS listener with the authority's own configuration.
func (b *bench) serve(t testing.TB) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/v1/", b.Handler())
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		c := ostiary.Credentials{Encrypted: true, Audience: "aud"}
		if len(r.TLS.PeerCertificates) > 0 {
			c.Peer, c.Verified = r.TLS.PeerCertificates[0], true
		}
		s, err := b.Authenticate(r.Context(), c)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, string(s.Agent))
	})
	s := httptest.NewUnstartedServer(mux)
	s.TLS = b.ServerTLS()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// client trusts the bundle and shows the certificates given.
func (b *bench) client(t testing.TB, certs ...tls.Certificate) (*http.Client, *tls.Config) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.Bundle())
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: certs, Time: b.opts.Clock, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	tr := &http.Transport{TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, c
}

func (b *bench) holder(t testing.TB, name string) (tls.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	chain, _, err := b.Enrol(t.Context(), b.join(t, name), csr(t, key, nil))
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key}, key
}

func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestMutualTLS(t *testing.T) {
	var counted atomic.Int32
	b := open(t, func(o *identity.Options) {
		o.Refused = func(source, code string) {
			if source != "127.0.0.1" || code != "tls:certificate" {
				t.Errorf("counted %q %q", source, code)
			}
			counted.Add(1)
		}
	})
	s := b.serve(t)
	svid, _ := b.holder(t, "planner")
	c, _ := b.client(t, svid)
	if status, body := get(t, c, s.URL+"/who"); body != "spiffe://test.example/agent/planner" {
		t.Fatalf("%d %s", status, body)
	}
	bare, _ := b.client(t)
	if status, _ := get(t, bare, s.URL+"/who"); status != http.StatusUnauthorized {
		t.Fatalf("without a certificate: %d", status)
	}
	t.Run("only TLS 1.3, only HTTP/1.1, no session tickets", func(t *testing.T) {
		c, config := b.client(t)
		config.NextProtos = []string{"h2", "http/1.1"}
		r, err := c.Get(s.URL + "/v1/bundle")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.TLS.Version != tls.VersionTLS13 || r.TLS.NegotiatedProtocol != "http/1.1" || r.TLS.PeerCertificates[0].URIs[0].Path != "/ostiary/gateway" {
			t.Fatalf("%+v", r.TLS)
		}
		_, old := b.client(t)
		old.MaxVersion = tls.VersionTLS12
		if conn, err := tls.Dial("tcp", s.Listener.Addr().String(), old); err == nil {
			conn.Close()
			t.Fatal("TLS 1.2")
		}
	})
	t.Run("E01 revoked, then back with a session ticket", func(t *testing.T) {
		svid, _ := b.holder(t, "gone")
		c, config := b.client(t, svid)
		if status, _ := get(t, c, s.URL+"/who"); status != http.StatusOK {
			t.Fatal(status)
		}
		if _, err := b.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/gone"}); err != nil {
			t.Fatal(err)
		}
		// E03: the open connection is refused, and so is a new one.
		if status, _ := get(t, c, s.URL+"/who"); status != http.StatusUnauthorized {
			t.Fatalf("the open connection: %d", status)
		}
		again := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		if status, _ := get(t, again, s.URL+"/who"); status == http.StatusOK {
			t.Fatal("a new connection")
		}
		if counted.Load() == 0 {
			t.Fatal("the refused connection was not counted")
		}
	})
	t.Run("another authority's SVID gets no connection", func(t *testing.T) {
		foreign, _ := open(t).holder(t, "planner")
		c, config := b.client(t)
		// Offered although the server did not ask for its issuer.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }
		if status, body := get(t, c, s.URL+"/v1/bundle"); status != 0 {
			t.Fatalf("%d %s", status, body)
		}
	})
	t.Run("E16 a chain of noise", func(t *testing.T) {
		c, config := b.client(t)
		bad := tls.Certificate{Certificate: [][]byte{svid.Certificate[0], {1, 2, 3}}, PrivateKey: svid.PrivateKey}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &bad, nil }
		if status, body := get(t, c, s.URL+"/v1/bundle"); status != 0 {
			t.Fatalf("%d %s", status, body)
		}
	})
}

// The gateway's own certificate is signed anew by the first handshake after
// half its life.
func TestGatewayRenewsItself(t *testing.T) {
	b := open(t, func(o *identity.Options) { o.Hosts = []string{"gw.example", "10.1.2.3"} })
	take := func() *x509.Certificate {
		c, err := b.ServerTLS().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	first := take()
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "gw.example", "10.1.2.3"} {
		if err := first.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if take() != first {
		t.Fatal("signed anew at once")
	}
	b.pass(identity.DefaultSVIDLife/2 + time.Second)
	if second := take(); second == first || !second.NotAfter.After(first.NotAfter) {
		t.Fatal("not signed anew")
	}
	for _, host := range []string{"*.example", "GW", "a b", "", "-a", "http://x"} {
		o := b.opts
		o.Hosts = []string{host}
		if _, err := identity.Open(t.Context(), o); ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%q: %v", host, err)
		}
	}
}

type answer struct {
	Agent, Mandate, Chain, Bundle string
	Expires                       time.Time
	Error                         struct{ Kind, Code, Field, Detail string }
}

func post(t testing.TB, c *http.Client, url, body string, header ...string) (int, answer) {
	t.Helper()
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var a answer
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, a
}

func TestEndpoints(t *testing.T) {
	var counted atomic.Int32
	b := open(t, func(o *identity.Options) { o.Refused = func(string, string) { counted.Add(1) } })
	s := b.serve(t)
	c, _ := b.client(t)
	if _, text := get(t, c, s.URL+"/v1/bundle"); text != string(b.Bundle()) {
		t.Fatal(text)
	}
	key := newKey(t)
	der := base64.StdEncoding.EncodeToString(csr(t, key, nil))
	join := b.join(t, "planner")
	enrol := func(token string) string { return `{"token":"` + token + `","csr":"` + der + `"}` }

	for name, x := range map[string]struct {
		body   string
		header []string
		status int
	}{
		"no body":               {"", nil, 400},
		"an array":              {"[]", nil, 400},
		"A a member twice":      {`{"token":"a","token":"b","csr":""}`, nil, 400},
		"an unknown member":     {`{"token":"` + join + `","csr":"` + der + `","x":1}`, nil, 400},
		"csr of another type":   {`{"token":"` + join + `","csr":1}`, nil, 400},
		"csr not in base64":     {`{"token":"` + join + `","csr":"%%"}`, nil, 400},
		"too long":              {`{"token":"` + strings.Repeat("a", 20<<10) + `","csr":""}`, nil, 400},
		"another content type":  {enrol(join), []string{"Content-Type", "text/plain"}, 400},
		"a content encoding":    {enrol(join), []string{"Content-Encoding", "gzip"}, 400},
		"D17 from a web page":   {enrol(join), []string{"Origin", "https://evil.example"}, 403},
		"an unknown join token": {enrol("ostjoin_" + strings.Repeat("A", 43)), nil, 401},
	} {
		t.Run(name, func(t *testing.T) {
			before := counted.Load()
			status, a := post(t, c, s.URL+"/v1/enrol", x.body, x.header...)
			if counted.Load() != before+1 {
				t.Error("it was not counted")
			}
			if status != x.status || a.Error.Kind == "" || a.Chain != "" {
				t.Fatalf("%d %+v", status, a)
			}
		})
	}
	status, a := post(t, c, s.URL+"/v1/enrol", enrol(join))
	if status != 200 || a.Agent != "spiffe://test.example/agent/planner" || a.Bundle != string(b.Bundle()) {
		t.Fatalf("%d %+v", status, a)
	}
	if status, a := post(t, c, s.URL+"/v1/enrol", enrol(join)); status != 409 || a.Error.Code != "join_token_spent" {
		t.Fatalf("the second use: %d %+v", status, a)
	}
	chain, err := identity.ReadBundle([]byte(a.Chain))
	if err != nil || len(chain) != 2 || !key.PublicKey.Equal(chain[0].PublicKey) {
		t.Fatalf("%v %v", chain, err)
	}

	t.Run("renewal", func(t *testing.T) {
		svid := tls.Certificate{Certificate: [][]byte{chain[0].Raw, chain[1].Raw}, PrivateKey: key}
		mine, _ := b.client(t, svid)
		b.pass(time.Minute)
		next := base64.StdEncoding.EncodeToString(csr(t, newKey(t), nil))
		status, a := post(t, mine, s.URL+"/v1/renew", `{"csr":"`+next+`"}`)
		if status != 200 || a.Agent != "spiffe://test.example/agent/planner" || !a.Expires.After(chain[0].NotAfter) {
			t.Fatalf("%d %+v", status, a)
		}
		if status, a := post(t, c, s.URL+"/v1/renew", `{"csr":"`+next+`"}`); status != 401 || a.Chain != "" {
			t.Fatalf("without an SVID: %d %+v", status, a)
		}
		if status, _ := post(t, mine, s.URL+"/v1/renew", `{"csr":"`+next+`","agent":"spiffe://test.example/agent/other"}`); status != 400 {
			t.Fatalf("for another: %d", status)
		}
		if _, err := b.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: a.Agent}); err != nil {
			t.Fatal(err)
		}
		if status, a := post(t, mine, s.URL+"/v1/renew", `{"csr":"`+next+`"}`); status != 401 || a.Chain != "" {
			t.Fatalf("revoked: %d %+v", status, a)
		}
	})
	t.Run("back after a weekend", func(t *testing.T) {
		b := open(t)
		s := b.serve(t)
		svid, key := b.holder(t, "laptop")
		old := base64.StdEncoding.EncodeToString(svid.Certificate[0])
		b.pass(60 * time.Hour)
		c, _ := b.client(t)
		back := func(old string, key *ecdsa.PrivateKey) (int, answer) {
			return post(t, c, s.URL+"/v1/return", `{"svid":"`+old+`","csr":"`+base64.StdEncoding.EncodeToString(csr(t, key, nil))+`"}`)
		}
		if status, a := back(old, key); status != 200 || a.Agent != "spiffe://test.example/agent/laptop" {
			t.Fatalf("%d %+v", status, a)
		}
		if status, a := back(old, newKey(t)); status != 401 || a.Chain != "" {
			t.Fatalf("by another key: %d %+v", status, a)
		}
		foreign, foreignKey := open(t).holder(t, "laptop")
		if status, _ := back(base64.StdEncoding.EncodeToString(foreign.Certificate[0]), foreignKey); status != 401 {
			t.Fatalf("of another authority: %d", status)
		}
		if status, _ := back("AAAA", key); status != 401 {
			t.Fatalf("with noise: %d", status)
		}
		// The SVID that has ended opens nothing but this.
		mine, _ := b.client(t, svid)
		if status, _ := get(t, mine, s.URL+"/who"); status == 200 {
			t.Fatal("an expired SVID was accepted")
		}
		b.pass(13 * time.Hour)
		if status, a := back(old, key); status != 401 || a.Chain != "" {
			t.Fatalf("after too long: %d %+v", status, a)
		}
		b.pass(-13 * time.Hour)
		if status, _ := back(old, key); status != 401 {
			t.Fatal("L05 the clock was set back and it revived")
		}
	})
	t.Run("revoked while away", func(t *testing.T) {
		b := open(t)
		svid, key := b.holder(t, "laptop")
		b.pass(time.Hour)
		if _, err := b.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/laptop"}); err != nil {
			t.Fatal(err)
		}
		_, _, err := b.Return(t.Context(), svid.Certificate[0], csr(t, key, nil))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("never", func(t *testing.T) {
		b := open(t, func(o *identity.Options) { o.Grace = -1 })
		svid, key := b.holder(t, "laptop")
		b.pass(identity.DefaultSVIDLife + time.Second)
		_, _, err := b.Return(t.Context(), svid.Certificate[0], csr(t, key, nil))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("in plain text from elsewhere", func(t *testing.T) {
		r := httptest.NewRequest("POST", "/v1/enrol", bytes.NewReader([]byte(enrol(join))))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		b.Handler().ServeHTTP(w, r)
		if w.Code != 403 || !strings.Contains(w.Body.String(), "tls_required") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
	t.Run("a flood", func(t *testing.T) {
		h := b.Handler()
		limited := 0
		for range 200 {
			r := httptest.NewRequest("POST", "/v1/enrol", strings.NewReader("{}"))
			r.TLS = &tls.ConnectionState{}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code == 429 && strings.Contains(w.Body.String(), "enrol_rate") {
				limited++
			}
		}
		if limited < 100 {
			t.Fatalf("%d of 200 refused", limited)
		}
	})
}

// TestStrangersDoNotFillTheLog: who proves nothing is counted, and writes a
// bounded number of lines.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	var lines bytes.Buffer
	var counted atomic.Int64
	b := open(t, func(o *identity.Options) {
		o.Log = slog.New(slog.NewTextHandler(&lines, nil))
		o.Refused = func(string, string) { counted.Add(1) }
	})
	h := b.Handler()
	for range 1000 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, identity.RenewPath, strings.NewReader("{}")))
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n > 100 || counted.Load() != 1000 {
		t.Errorf("%d lines, %d counted", n, counted.Load())
	}
}
