package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (w *world) loopback(t *testing.T) string {
	t.Helper()
	b := w.open(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Loopback(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestLoopback(t *testing.T) {
	got := make(chan *http.Request, 1)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		select {
		case got <- r.Clone(context.Background()):
		default:
		}
		rw.Header().Set("Set-Cookie", "a=b")
		rw.Header().Set("Location", "http://169.254.169.254/")
		rw.Header().Set("Mcp-Session-Id", "s")
		if r.Method == "GET" {
			rw.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(rw, "data: 1\n\n")
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		reply(rw, "{}")
	})
	address := w.loopback(t)
	_, port, _ := net.SplitHostPort(address)
	send := func(method, path string, change func(*http.Request)) *http.Response {
		t.Helper()
		var body io.Reader
		if method == "POST" {
			body = strings.NewReader(`{"jsonrpc":"2.0"}`)
		}
		r, err := http.NewRequest(method, "http://"+address+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if change != nil {
			change(r)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	t.Run("F02 D06 nothing the client adds goes on", func(t *testing.T) {
		resp := send("POST", "/mcp", func(r *http.Request) {
			for name, v := range map[string]string{
				"Authorization": "Bearer x", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Idempotency-Key": "k", "Forwarded": "for=x",
				"X-Agent-Id": "root", "Proxy-Authorization": "x", "Mcp-Param-To": "dana", "Mcp-Method": "ping", "Connection": "Mcp-Method",
			} {
				r.Header.Set(name, v)
			}
			r.Host = "localhost:" + port
		})
		if resp.StatusCode != 200 || resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Location") != "" || resp.Header.Get("X-Agent") != "" || resp.Header.Get("Mcp-Session-Id") != "s" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		r := <-got
		if r.Host != strings.TrimPrefix(w.server.URL, "https://") || r.Header.Get("Mcp-Param-To") != "dana" {
			t.Fatalf("%s %v", r.Host, r.Header)
		}
		for name := range r.Header {
			switch name {
			case "Content-Type", "Content-Length", "User-Agent", "Accept-Encoding", "Mcp-Param-To", "Mcp-Method":
			default:
				t.Errorf("%s went on", name)
			}
		}
	})
	for name, c := range map[string]struct {
		method, path string
		change       func(*http.Request)
		status       int
	}{
		"D17 rebinding":          {"POST", "/mcp", func(r *http.Request) { r.Host = "evil.example" }, 421},
		"D17 another port":       {"POST", "/mcp", func(r *http.Request) { r.Host = "127.0.0.1:1" }, 421},
		"D17 no port":            {"POST", "/mcp", func(r *http.Request) { r.Host = "127.0.0.1" }, 421},
		"D17 a web origin":       {"POST", "/mcp", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"D17 a null origin":      {"POST", "/mcp", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		"D17 its own origin":     {"POST", "/mcp", func(r *http.Request) { r.Header.Set("Origin", "http://"+r.Host) }, 403},
		"a browser's navigation": {"GET", "/mcp", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"the identity endpoints": {"POST", "/v1/renew", nil, 404},
		"D12 another spelling":   {"POST", "/mcp/%62ank", nil, 404},
		"D12 dots":               {"POST", "/mcp/../v1/renew", nil, 404},
		"a query":                {"POST", "/mcp?x=1", nil, 404},
		"another method":         {"PUT", "/mcp", nil, 405},
		"D08 an upgrade":         {"GET", "/mcp", func(r *http.Request) { r.Header.Set("Upgrade", "h2c"); r.Header.Set("Connection", "Upgrade") }, 400},
		"D07 a header twice":     {"POST", "/mcp", func(r *http.Request) { r.Header["Mcp-Method"] = []string{"a", "b"} }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			if resp := send(c.method, c.path, c.change); resp.StatusCode != c.status {
				t.Fatalf("%d", resp.StatusCode)
			}
			select {
			case r := <-got:
				t.Fatalf("%s %s went on", r.Method, r.URL)
			default:
			}
		})
	}
	t.Run("a stream, as it comes", func(t *testing.T) {
		resp := send("GET", "/mcp/bank", nil)
		b := make([]byte, 9)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "data: 1\n\n" {
			t.Fatalf("%q %v", b, err)
		}
		<-got
	})
	t.Run("after a night", func(t *testing.T) {
		w.pass(14 * time.Hour)
		if resp := send("POST", "/mcp", nil); resp.StatusCode != 200 {
			t.Fatal(resp.StatusCode)
		}
	})
}

func TestLoopbackOnly(t *testing.T) {
	w := newWorld(t, nothing)
	b := w.open(t)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := b.Loopback(t.Context(), l); err == nil || errors.Is(err, context.Canceled) {
		t.Fatal("it serves everybody")
	}
}
