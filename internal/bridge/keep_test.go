package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
)

// inside returns a dial whose clients call the authority's handler directly,
// so that it can run where there is no network, only time.
func inside(a *identity.Authority, calls *atomic.Int32, down *atomic.Bool) func(string, *tls.Config) (*http.Client, error) {
	h := a.Handler()
	return func(_ string, c *tls.Config) (*http.Client, error) {
		return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if down.Load() {
				return nil, errors.New("down")
			}
			calls.Add(1)
			in := r.Clone(r.Context())
			in.TLS = &tls.ConnectionState{}
			for _, cert := range c.Certificates {
				leaf, err := x509.ParseCertificate(cert.Certificate[0])
				if err != nil {
					return nil, err
				}
				in.TLS.PeerCertificates = append(in.TLS.PeerCertificates, leaf)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, in)
			return w.Result(), nil
		})}, nil
	}
}

func TestKeep(t *testing.T) {
	opts := identitytest.Options(t)
	dir := filepath.Join(t.TempDir(), "agent")
	synctest.Test(t, func(t *testing.T) {
		a, err := identity.Open(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		secret, _, err := a.MintJoinToken(t.Context(), identity.JoinToken{Agent: "spiffe://test.example/agent/x", Principal: "person:dana"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int32
		var down atomic.Bool
		b, err := Open(t.Context(), Options{Gateway: "https://gw", Dir: dir, Join: string(secret.Reveal()), Dial: inside(a, &calls, &down)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.keep(ctx); close(done) }()
		calls.Store(0)
		left := func() time.Duration { return time.Until(b.Expires()) }
		for range 60 {
			time.Sleep(time.Minute)
			if left() < 5*time.Minute {
				t.Fatalf("only %s left", left())
			}
		}
		if n := calls.Load(); n < 6 || n > 9 {
			t.Errorf("renewed %d times in an hour of SVIDs of 15 minutes", n)
		}
		// The gateway is down for an hour: the bridge tries on, not too
		// often, and comes back by itself.
		down.Store(true)
		time.Sleep(time.Hour)
		if left() > 0 {
			t.Error("renewed without a gateway")
		}
		down.Store(false)
		time.Sleep(3 * time.Minute)
		if left() < 10*time.Minute {
			t.Errorf("%s left after the gateway came back", left())
		}
		cancel()
		<-done
	})
}

// The client that the product builds reaches the gateway, and plain HTTP is
// not a way to it.
func TestEgressClient(t *testing.T) {
	w := newWorld(t, nothing)
	o := w.options(t)
	o.Dial, o.Join = egress.NewClient, w.join(t, "planner")
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !b.reaches(t) {
		t.Fatal("the gateway was not reached")
	}
	w.pass(14 * time.Hour)
	if !b.reaches(t) {
		t.Fatal("the bridge did not come back")
	}
}
