package egress

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// Whatever goes wrong in a legacy handshake, the call is not sent.
func TestHandshakeFaults(t *testing.T) {
	const good = `{"protocolVersion":"2025-03-26","capabilities":{}}`
	for name, c := range map[string]struct {
		result, session string
		status, told    int
		code            string
	}{
		"fine":                  {result: good, session: "s"},
		"no session":            {result: good},
		"unknown revision":      {result: `{"protocolVersion":"2024-11-05"}`, session: "s", code: "handshake"},
		"modern revision":       {result: `{"protocolVersion":"2026-07-28"}`, session: "s", code: "handshake"},
		"no revision":           {result: `{}`, session: "s", code: "handshake"},
		"session with a space":  {result: good, session: "a b", code: "handshake"},
		"overlong session":      {result: good, session: strings.Repeat("s", 1025), code: "handshake"},
		"refused":               {status: 503, code: "status"},
		"error":                 {status: 200, code: "handshake"},
		"initialized refused":   {result: good, session: "s", told: 500, code: "status"},
		"initialized with 200":  {result: good, session: "s", told: 200},
		"duplicate in a result": {result: `{"protocolVersion":"2025-03-26","protocolVersion":"2025-06-18"}`, session: "s", code: "bad_reply"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) {
				switch {
				case m.Method == mcpwire.MethodDiscover:
					http.NotFound(w, nil)
				case m.Method == mcpwire.MethodInitialize && c.status == 503:
					w.WriteHeader(503)
				case m.Method == mcpwire.MethodInitialize && c.status == 200:
					rpcError(w, 200, string(m.ID.Bytes()), -32600)
				case m.Method == mcpwire.MethodInitialize:
					if c.session != "" {
						w.Header().Set("Mcp-Session-Id", c.session)
					}
					reply(w, m, c.result)
				case m.Kind == mcpwire.Notification:
					w.WriteHeader(max(c.told, 200))
				default:
					reply(w, m, `{}`)
				}
			})
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
			f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
			code, unsent := codeOf(err)
			if code != c.code || unsent != (c.code != "") || c.code == "" && f.Kind != gate.FrameResult {
				t.Fatalf("%q unsent %v %v", code, unsent, err)
			}
			if n := len(rec.all("tools/call")); (n == 1) != (c.code == "") {
				t.Errorf("%d calls received", n)
			}
			if c.code != "" {
				return
			}
			if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil || len(rec.all("initialize")) != 1 {
				t.Errorf("%v, %d handshakes", err, len(rec.all("initialize")))
			}
			if v := rec.all("tools/call")[0].header.Get("Mcp-Protocol-Version"); v != "2025-03-26" {
				t.Errorf("revision %q", v)
			}
		})
	}
}

func TestNewSigner(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, c := range map[string]struct {
		key crypto.Signer
		id  string
		ok  bool
	}{
		"P-256": {p256, "k", true}, "Ed25519": {ed, "k", true}, "P-384": {p384, "k", false}, "RSA": {rsaKey, "k", false},
		"no id": {ed, "", false}, "quote in id": {ed, `a"b`, false}, "line break in id": {ed, "a\nb", false}, "not ASCII": {ed, "ü", false},
	} {
		if _, err := New(Options{Signer: c.key, KeyID: c.id}); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, caps := range []string{"[]", "{", `{"a":1,"a":2}`, "null"} {
		if _, err := New(Options{Capabilities: caps}); err == nil {
			t.Errorf("capabilities %s accepted", caps)
		}
	}
}

// A name is resolved and checked on the way, as an operator would write it.
func TestByName(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	url := strings.Replace(rec.URL, "127.0.0.1", "localhost", 1)
	e := newEgress(t, Options{Servers: []Server{{Name: "srv", URL: url, AllowPrivate: []string{"localhost"}}, {Name: "strict", URL: url, AllowPrivate: []string{"10.0.0.0/8"}}}})
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Error(err)
	}
	_, err := result(t, e, toolCall(t, "strict", "x", `{}`))
	if code, unsent := codeOf(err); code != "address_refused" || !unsent || !strings.Contains(err.Error(), "neither public") {
		t.Errorf("%q %v", code, err)
	}
	if strings.Contains(e.Health()[1].Why, "127.") {
		t.Errorf("%+v", e.Health()[1])
	}
}
