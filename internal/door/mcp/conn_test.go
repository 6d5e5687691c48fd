package mcp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"testing"
)

func TestCredentials(t *testing.T) {
	w := newWorld(t)
	leaf := &x509.Certificate{}
	chained := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	for _, c := range []struct {
		name           string
		request        *tls.ConnectionState
		loopback       bool
		authorization  string
		peer, verified bool
		bearer         string
	}{
		{name: "nothing proves nothing"},
		{name: "a verified certificate", request: chained, peer: true, verified: true},
		{name: "a certificate nobody verified", request: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, peer: true},
		{name: "TLS without a certificate", request: &tls.ConnectionState{}},
		{name: "a token over loopback", loopback: true, authorization: "Bearer abc", bearer: "abc"},
		{name: "the scheme in any case", authorization: "bEARER abc", bearer: "abc"},
		{name: "another scheme", authorization: "Basic abc"},
		{name: "no token", authorization: "Bearer "},
		{name: "two spaces", authorization: "Bearer  abc"},
		{name: "two tokens", authorization: "Bearer a,b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/mcp/bank", nil)
			r.TLS = c.request
			near := addressed{nil, "127.0.0.1", "192.0.2.1"}
			if c.loopback {
				near.remote = "127.0.0.1"
			}
			r = r.WithContext(noteConn(context.Background(), near))
			if c.authorization != "" {
				r.Header.Set("Authorization", c.authorization)
			}
			got := w.door.credentials(r, "/mcp/bank")
			if (got.Peer != nil) != c.peer || got.Verified != c.verified || got.Loopback != c.loopback || got.Encrypted != (c.request != nil) || string(got.Bearer.Reveal()) != c.bearer || got.Audience != "http://gate.test:8700/mcp/bank" || got.Remote != "192.0.2.1" {
				t.Errorf("%+v", got)
			}
		})
	}
	t.Run("a request that says nothing of its connection is not from loopback", func(t *testing.T) {
		if w.door.credentials(httptest.NewRequest("POST", "/mcp", nil), "/mcp").Loopback {
			t.Error("it is")
		}
	})
}

func TestLoopback(t *testing.T) {
	noted := func(c net.Conn) bool { return noteConn(context.Background(), c).Value(loopbackKey{}).(bool) }
	for _, c := range []struct {
		local, remote string
		want          bool
	}{{"127.0.0.1", "127.0.0.1", true}, {"::1", "::1", true}, {"127.0.0.1", "10.0.0.1", false}, {"10.0.0.1", "127.0.0.1", false}} {
		if got := noted(addressed{nil, c.local, c.remote}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if a, b := net.Pipe(); noted(a) || noted(b) {
		t.Error("a pipe is loopback")
	}
}

type addressed struct {
	net.Conn
	local, remote string
}

func (a addressed) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.ParseIP(a.local)} }
func (a addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.remote)} }
