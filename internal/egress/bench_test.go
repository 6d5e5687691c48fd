package egress

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// answerAll answers every request at once, reading only its id.
func answerAll(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	m, err := mcpwire.Parse(b, strictjson.Request)
	if err != nil {
		http.Error(w, "", 400)
		return
	}
	if m.Method == mcpwire.MethodDiscover {
		reply(w, m, `{"supportedVersions":["2026-07-28"]}`)
		return
	}
	reply(w, m, `{"resultType":"complete","content":[{"type":"text","text":"ok"}]}`)
}

// BenchmarkForward compares one forwarded call with one request through a
// bare reverse proxy to the same server, of which the client's half is no
// part of what Forward does: read the ratio with that in mind.
func BenchmarkForward(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(answerAll))
	defer srv.Close()
	_, key, err := ed25519.GenerateKey(rand.Reader) // what the gateway uses: it signs faster than P-256
	if err != nil {
		b.Fatal(err)
	}
	for _, signed := range []bool{false, true} {
		name := "unsigned"
		o := Options{Servers: []Server{local(srv.URL)}, Logger: slog.New(slog.DiscardHandler)}
		if signed {
			name, o.Signer, o.KeyID = "signed", key, "k"
		}
		b.Run(name, func(b *testing.B) {
			e := newEgress(b, o)
			call := toolCall(b, "srv", "pay", `{"to":"someone","amount":12}`)
			clearances := make([]*gate.Clearance, b.N)
			for i := range clearances {
				clearances[i] = gatetest.Clear(call)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i == len(clearances) {
					b.StopTimer()
					for range 1000 {
						clearances = append(clearances, gatetest.Clear(call))
					}
					b.StartTimer()
				}
				s, err := e.Forward(b.Context(), clearances[i])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Next(b.Context()); err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
	b.Run("bare client", func(b *testing.B) {
		t := http.DefaultTransport.(*http.Transport).Clone()
		body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"to":"someone","amount":12}}}`)
		b.ReportAllocs()
		for b.Loop() {
			r, _ := http.NewRequestWithContext(b.Context(), "POST", srv.URL, bytes.NewReader(body))
			resp, err := t.RoundTrip(r)
			if err != nil {
				b.Fatal(err)
			}
			io.ReadAll(resp.Body)
			resp.Body.Close()
		}
	})
	b.Run("reverse proxy", func(b *testing.B) {
		to, _ := url.Parse(srv.URL)
		p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
		body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"to":"someone","amount":12}}}`)
		b.ReportAllocs()
		for b.Loop() {
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/mcp", bytes.NewReader(body)))
		}
	})
}
