package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestE02AuthorityRemoved: the root that signed an agent's SVID is replaced
// while the agent keeps what it learned of earlier connections. No connection
// is ever resumed, so its next one meets the new root and ends.
func TestE02AuthorityRemoved(t *testing.T) {
	before, after := open(t), open(t)
	var now atomic.Pointer[tls.Config]
	now.Store(before.ServerTLS())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			t.Error("a connection was resumed")
		}
		io.WriteString(w, "in")
	}))
	s.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := now.Load()
		if c.GetConfigForClient != nil {
			return c.GetConfigForClient(hello)
		}
		return c, nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()

	held, _ := before.holder(t, "planner")
	_, config := before.client(t, held)
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AppendCertsFromPEM(before.Bundle())
	config.RootCAs.AppendCertsFromPEM(after.Bundle())
	try := func() (int, string) {
		tr := &http.Transport{TLSClientConfig: config} // a new connection, with the cache of the old ones
		defer tr.CloseIdleConnections()
		return get(t, &http.Client{Transport: tr}, s.URL)
	}
	for range 2 {
		if status, body := try(); status != http.StatusOK || body != "in" {
			t.Fatalf("before: %d %s", status, body)
		}
	}
	now.Store(after.ServerTLS())
	if status, body := try(); status != 0 {
		t.Errorf("with an SVID of the removed root: %d %s", status, body)
	}
	// And its certificate proves nothing to the new authority either.
	leaf := parse(t, held.Certificate[0])
	if _, err := after.Authenticate(t.Context(), svid(leaf)); err == nil {
		t.Error("it was authenticated")
	}
}
