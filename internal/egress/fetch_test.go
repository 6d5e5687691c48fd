package egress

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// TestFetch: F07, an address that a stranger chose.
func TestFetch(t *testing.T) {
	var asked atomic.Int64
	release, arrived := make(chan struct{}), make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/good":
			if r.Header.Get("Accept-Encoding") != "" && r.Header.Get("Accept-Encoding") != "identity" {
				t.Error("it asks for an encoding")
			}
			w.Write([]byte(`{}`))
		case "/redirect":
			http.Redirect(w, r, "/good", http.StatusFound)
		case "/huge":
			for range 2000 {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		case "/packed":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("x"))
		case "/missing":
			w.WriteHeader(404)
		case "/slow":
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			close(arrived)
			<-release
		}
	}))
	defer s.Close()
	defer close(release)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	open, err := NewFetcher([]string{"127.0.0.0/8"}, roots)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if body, media, err := open.Fetch(ctx, s.URL+"/good", 100); err != nil || string(body) != "{}" || media != "application/json" {
		t.Fatal(string(body), media, err)
	}
	for _, path := range []string{"/redirect", "/huge", "/packed", "/missing", "/good?x=1", "/good#x"} {
		if body, _, err := open.Fetch(ctx, s.URL+path, 1000); err == nil || body != nil {
			t.Errorf("%s was read", path)
		}
	}
	t.Run("slow", func(t *testing.T) {
		soon, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		go func() { <-arrived; cancel() }()
		if _, _, err := open.Fetch(soon, s.URL+"/slow", 1000); err == nil {
			t.Error("it was read")
		}
	})
	t.Run("F07 F09 private addresses are not asked", func(t *testing.T) {
		closed, err := NewFetcher(nil, roots)
		if err != nil {
			t.Fatal(err)
		}
		before := asked.Load()
		for _, address := range []string{
			s.URL + "/good", strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/good", "https://169.254.169.254/latest", "https://[fd00:ec2::254]/x", "https://10.0.0.1/x",
			"http://example.org/x", "file:///etc/passwd", "https://2130706433/x", "https://user@example.org/x", "https://[::ffff:127.0.0.1]/x", "https://0x7f000001/x", "",
		} {
			soon, cancel := context.WithTimeout(ctx, 5*time.Second)
			if _, _, err := closed.Fetch(soon, address, 1000); err == nil {
				t.Errorf("%s was read", address)
			}
			cancel()
		}
		if asked.Load() != before {
			t.Error("something was asked")
		}
	})
	for _, bad := range []string{"8.8.8.0/24", "169.254.0.0/16", "0.0.0.0/0", "localhost", "127.0.0.1/8"} {
		if _, err := NewFetcher([]string{bad}, nil); ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%s was opened", bad)
		}
	}
}
