package egress

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/internal/gate"
)

func TestNewClient(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("the other server was reached") }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		io.WriteString(w, "hello")
	}))
	defer srv.Close()
	c, err := NewClient(srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	resp, err := c.Get(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "hello" {
		t.Errorf("%q", b)
	}
	if resp, err := c.Get(srv.URL + "/away"); err != nil || resp.StatusCode != 307 {
		t.Errorf("a redirect: %v %v", resp, err)
	}
	if _, err := c.Get(other.URL); err == nil {
		t.Error("another host was reached")
	}
	for _, base := range []string{"http://10.0.0.1/", "http://192.168.0.1/"} {
		c, err := NewClient(base, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(base); !errors.Is(err, gate.ErrNotSent) {
			t.Errorf("%s: plain http off this machine: %v", base, err)
		}
	}
	if _, err := NewClient("http://0x7f000001/", nil); err == nil {
		t.Error("an odd spelling was accepted")
	}
}

func TestNewClientTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	defer srv.Close()
	tlsConfig := srv.Client().Transport.(*http.Transport).TLSClientConfig
	c, err := NewClient(srv.URL, tlsConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	resp, err := c.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "HTTP/1.1" || resp.TLS.Version < 0x0303 {
		t.Errorf("%q %x", b, resp.TLS.Version)
	}
	plain, _ := NewClient(srv.URL, nil)
	if _, err := plain.Get(srv.URL); err == nil {
		t.Error("an unknown authority was accepted")
	}
}

func TestUnixClient(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host+r.URL.Path) })}
	go srv.Serve(l)
	defer srv.Close()
	c := UnixClient(path)
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://ostiary/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "ostiary/v1/status" {
		t.Errorf("%q", b)
	}
	if _, err := c.Get("http://elsewhere/"); err == nil {
		t.Error("another host was accepted")
	}
}

// A connection the server closed while it was idle: not one byte of the next
// call was accepted there, so the call may go to a fresh connection, once.
// When even one byte was, it may not.
func TestMeteredConnection(t *testing.T) {
	a, b := net.Pipe()
	m := &meteredConn{Conn: a, closed: func() {}}
	p := &connProbe{}
	go b.Read(make([]byte, 4))
	if n, err := m.Write([]byte("four")); n != 4 || err != nil || m.written.Load() != 4 {
		t.Fatal(n, err, m.written.Load())
	}
	p.conn, p.before = m, m.written.Load()
	b.Close()
	if _, err := m.Write([]byte("x")); err == nil {
		t.Fatal("no error")
	}
	if !p.unsent() {
		t.Error("a write of nothing counts as sent")
	}
	p.before = 0
	if p.unsent() {
		t.Error("a write of something counts as not sent")
	}
	if !(&connProbe{}).unsent() {
		t.Error("no connection, yet something was sent")
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 10)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = min(max(limit, 1), 64)
		r := newLineReader(strings.NewReader(string(b)))
		for {
			line, err := readLine(r, limit)
			if err != nil {
				return
			}
			if len(line) > limit+2 || strings.ContainsRune(string(line), '\n') {
				t.Fatalf("%q", line)
			}
		}
	})
}
