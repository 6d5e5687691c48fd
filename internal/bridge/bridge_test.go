package bridge

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
)

// world is a gateway as far as a bridge can tell: a real authority behind
// real TLS, and an MCP endpoint that a test writes.
type world struct {
	*identity.Authority
	opts   identity.Options
	server *httptest.Server
	skew   atomic.Int64 // how far the clocks of both sides are ahead
	mcp    http.HandlerFunc

	mu    sync.Mutex
	paths []string // of the requests that came, in order
}

func newWorld(t *testing.T, mcp http.HandlerFunc) *world {
	t.Helper()
	w := &world{opts: identitytest.Options(t), mcp: mcp}
	w.opts.Clock = w.now
	var err error
	if w.Authority, err = identity.Open(t.Context(), w.opts); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", w.Handler())
	mux.HandleFunc("/mcp", w.endpoint)
	mux.HandleFunc("/mcp/bank", w.endpoint)
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.paths = append(w.paths, r.Method+" "+r.URL.Path)
		w.mu.Unlock()
		mux.ServeHTTP(rw, r)
	}))
	secure(t, w.server, w.ServerTLS())
	return w
}

// secure starts the server with this configuration and no certificate of the
// test library's own.
func secure(t *testing.T, s *httptest.Server, c *tls.Config) {
	s.Listener = tls.NewListener(s.Listener, c)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	s.URL = "https" + strings.TrimPrefix(s.URL, "http")
	t.Cleanup(s.Close)
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

func (w *world) pass(d time.Duration) { w.skew.Add(int64(d)) }

func (w *world) asked() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.paths, ", ")
}

// endpoint lets an authenticated agent through to the test's own handler.
func (w *world) endpoint(rw http.ResponseWriter, r *http.Request) {
	c := ostiary.Credentials{Encrypted: true}
	if len(r.TLS.PeerCertificates) > 0 {
		c.Peer, c.Verified = r.TLS.PeerCertificates[0], len(r.TLS.VerifiedChains) > 0
	}
	s, err := w.Authenticate(r.Context(), c)
	if err != nil {
		http.Error(rw, "no", http.StatusUnauthorized)
		return
	}
	rw.Header().Set("X-Agent", string(s.Agent))
	w.mcp(rw, r)
}

func (w *world) join(t *testing.T, name string) string {
	t.Helper()
	id, err := w.AgentID(name)
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := w.MintJoinToken(t.Context(), identity.JoinToken{Agent: id, Principal: "person:dana"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(secret.Reveal())
}

func dial(_ string, c *tls.Config) (*http.Client, error) {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c}}, nil
}

func (w *world) options(t *testing.T) Options {
	return Options{Gateway: w.server.URL, Dir: filepath.Join(t.TempDir(), "agent"), Dial: dial, Clock: w.now}
}

func (w *world) open(t *testing.T) *Bridge {
	t.Helper()
	o := w.options(t)
	o.Join = w.join(t, "planner")
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func nothing(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }

// reaches reports whether the bridge's SVID opens the gateway's door.
func (b *Bridge) reaches(t *testing.T) bool {
	t.Helper()
	c, err := b.client(t.Context())
	if err != nil {
		return false
	}
	r, err := c.Post(b.gateway+"/mcp", "application/json", strings.NewReader("{}"))
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusAccepted
}

func TestEnrol(t *testing.T) {
	w := newWorld(t, nothing)
	o := w.options(t)
	o.Join = w.join(t, "planner")
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if b.Agent() != "spiffe://test.example/agent/planner" || !b.reaches(t) {
		t.Fatalf("enrolled as %s", b.Agent())
	}
	for path, mode := range map[string]os.FileMode{o.Dir: 0o700, filepath.Join(o.Dir, svidFile): 0o600} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, i.Mode(), err)
		}
	}
	t.Run("again, without a token, without an address", func(t *testing.T) {
		o := o
		o.Join, o.Gateway = "", ""
		again, err := Open(t.Context(), o)
		if err != nil || again.Agent() != b.Agent() || !again.reaches(t) || again.Gateway() != w.server.URL {
			t.Fatal(err)
		}
	})
	t.Run("another gateway's directory", func(t *testing.T) {
		o := o
		o.Gateway = "https://other.example"
		if _, err := Open(t.Context(), o); ostiary.KindOf(err) != ostiary.Conflict {
			t.Fatal(err)
		}
	})
	t.Run("a file that others can read", func(t *testing.T) {
		path := filepath.Join(o.Dir, svidFile)
		os.Chmod(path, 0o640)
		defer os.Chmod(path, 0o600)
		if _, err := Open(t.Context(), o); ostiary.KindOf(err) != ostiary.Corrupt {
			t.Fatal(err)
		}
	})
	t.Run("two clients started at once with one token", func(t *testing.T) {
		o := w.options(t)
		o.Join = w.join(t, "twins")
		var wg sync.WaitGroup
		var good atomic.Int32
		for range 2 {
			wg.Go(func() {
				if b, err := Open(t.Context(), o); err == nil && b.reaches(t) {
					good.Add(1)
				}
			})
		}
		wg.Wait()
		if good.Load() == 0 {
			t.Fatal("neither enrolled")
		}
		if b, err := Open(t.Context(), o); err != nil || !b.reaches(t) {
			t.Fatal(err)
		}
	})
}

func TestEnrolRefuses(t *testing.T) {
	w := newWorld(t, nothing)
	other := newWorld(t, nothing)
	good := w.join(t, "planner")
	secret, _, _ := strings.Cut(good, ".")
	for name, c := range map[string]struct {
		join, gateway string
		kind          ostiary.Kind
	}{
		"no token":               {"", w.server.URL, ostiary.Unauthenticated},
		"no fingerprint":         {secret, w.server.URL, ostiary.Malformed},
		"no token at all":        {"hello", w.server.URL, ostiary.Malformed},
		"an unknown token":       {"ostjoin_" + strings.Repeat("A", 43) + "." + w.Fingerprint().String(), w.server.URL, ostiary.Unauthenticated},
		"plain HTTP":             {good, strings.Replace(w.server.URL, "https", "http", 1), ostiary.Malformed},
		"an address with more":   {good, w.server.URL + "/mcp", ostiary.Malformed},
		"an address with a user": {good, "https://u:p@127.0.0.1", ostiary.Malformed},
		"nobody there":           {good, "https://127.0.0.1:1", ostiary.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := w.options(t)
			o.Join, o.Gateway = c.join, c.gateway
			if _, err := Open(t.Context(), o); ostiary.KindOf(err) != c.kind {
				t.Fatalf("%v; want %s", err, c.kind)
			}
		})
	}
	t.Run("an impostor learns nothing", func(t *testing.T) {
		o := w.options(t)
		o.Join, o.Gateway = good, other.server.URL
		_, err := Open(t.Context(), o)
		if e := ostiary.AsError(err); e == nil || e.Code != "fingerprint" {
			t.Fatal(err)
		}
		if other.asked() != "GET /v1/bundle" {
			t.Fatalf("it was asked %s", other.asked())
		}
	})
	t.Run("an impostor that repeats the bundle", func(t *testing.T) {
		other.mu.Lock()
		other.paths = nil
		other.mu.Unlock()
		fake := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			other.mu.Lock()
			other.paths = append(other.paths, r.URL.Path)
			other.mu.Unlock()
			rw.Write(w.Bundle())
		}))
		secure(t, fake, other.ServerTLS())
		o := w.options(t)
		o.Join, o.Gateway = good, fake.URL
		if _, err := Open(t.Context(), o); err == nil {
			t.Fatal("enrolled with an impostor")
		}
		if other.asked() != "/v1/bundle" {
			t.Fatalf("it was asked %s", other.asked())
		}
	})
	t.Run("an agent that plays the gateway", func(t *testing.T) {
		agent := w.open(t)
		h := agent.now.Load()
		fake := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked something") }))
		secure(t, fake, &tls.Config{Certificates: h.svid.tls(w.now).Certificates})
		if r, err := h.client.Get(fake.URL); err == nil {
			r.Body.Close()
			t.Fatal("an agent's SVID passed for the gateway's")
		}
	})
}

func TestRenewal(t *testing.T) {
	w := newWorld(t, nothing)
	o := w.options(t)
	o.Join = w.join(t, "planner")
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	first := b.now.Load().svid
	w.pass(8 * time.Minute)
	if err := b.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := b.now.Load().svid
	if second.key.Equal(first.key) || !second.leaf().NotAfter.After(first.leaf().NotAfter) || !b.reaches(t) {
		t.Fatal("not renewed with a new key")
	}
	if kept, err := load(o.Dir); err != nil || !kept.key.Equal(second.key) {
		t.Fatal(err)
	}
	t.Run("another process was quicker", func(t *testing.T) {
		o := o
		o.Join = ""
		w.pass(8 * time.Minute)
		other, err := Open(t.Context(), o) // renews, as it is due
		if err != nil {
			t.Fatal(err)
		}
		if err := b.renew(t.Context()); err != nil || !b.now.Load().svid.key.Equal(other.now.Load().svid.key) {
			t.Fatal("renewed beside it:", err)
		}
	})
	t.Run("after a night", func(t *testing.T) {
		w.pass(14 * time.Hour)
		if !b.reaches(t) {
			t.Fatal("the bridge did not come back")
		}
	})
	t.Run("after too long, and with a new token", func(t *testing.T) {
		w.pass(30 * 24 * time.Hour)
		if b.reaches(t) {
			t.Fatal("it came back after a month")
		}
		o := o
		if _, err := Open(t.Context(), o); ostiary.KindOf(err) != ostiary.Conflict { // the old token is spent
			t.Fatal(err)
		}
		o.Join = w.join(t, "planner")
		again, err := Open(t.Context(), o)
		if err != nil || !again.reaches(t) {
			t.Fatal(err)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		o := w.options(t)
		o.Join = w.join(t, "gone")
		b, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: string(b.Agent())}); err != nil {
			t.Fatal(err)
		}
		if b.reaches(t) {
			t.Fatal("a revoked agent")
		}
		w.pass(20 * time.Minute)
		if err := b.renew(t.Context()); ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Fatal(err)
		}
	})
}

// Renewal fails for a while, before and after it happened at the gateway: the
// SVID held stays in use, and the next attempt succeeds.
func TestRenewalFaults(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t, nothing)
			var down atomic.Bool
			boom := errors.New("boom")
			o := w.options(t)
			o.Join = w.join(t, "planner")
			o.Dial = func(g string, c *tls.Config) (*http.Client, error) {
				client, err := dial(g, c)
				inner := client.Transport
				client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					if !down.Load() || !strings.HasPrefix(r.URL.Path, "/v1/") {
						return inner.RoundTrip(r)
					}
					if when == "after" {
						if resp, err := inner.RoundTrip(r); err == nil {
							resp.Body.Close()
						}
					}
					return nil, boom
				})
				return client, err
			}
			b, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			w.pass(8 * time.Minute)
			down.Store(true)
			if err := b.renew(t.Context()); ostiary.KindOf(err) != ostiary.Unavailable {
				t.Fatal(err)
			}
			if !b.reaches(t) {
				t.Fatal("the SVID held is lost")
			}
			down.Store(false)
			if err := b.renew(t.Context()); err != nil || !b.reaches(t) {
				t.Fatal(err)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSnippets(t *testing.T) {
	if got := string(StdioSnippet("/usr/bin/ostiary", "connect", "--dir", "/x")); !strings.Contains(got, `"mcpServers"`) || !strings.Contains(got, `"command": "/usr/bin/ostiary"`) || !strings.Contains(got, `"connect"`) {
		t.Error(got)
	}
	if got := string(HTTPSnippet("127.0.0.1:7000", "/mcp")); !strings.Contains(got, `"url": "http://127.0.0.1:7000/mcp"`) {
		t.Error(got)
	}
}

func FuzzStateFile(f *testing.F) {
	f.Add([]byte(gatewayLine + "https://x\n-----BEGIN PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseFile(b); err == nil && s.agent == "" {
			t.Fatal("an SVID of nobody")
		}
	})
}
