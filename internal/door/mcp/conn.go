package mcp

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary"
)

// Conn is what is known about a connection besides what net/http tells.
type Conn struct {
	TLS      *tls.ConnectionState // nil if the request itself carries it, or for plain HTTP
	Loopback bool                 // both ends are loopback addresses
}

type connKey struct{}

// WithConn attaches what is known about a connection, for
// http.Server.ConnContext. A request without it is not from loopback.
func WithConn(ctx context.Context, c Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ConnOf describes an accepted connection for [WithConn].
func ConnOf(c net.Conn) Conn {
	return Conn{Loopback: loopback(c.LocalAddr()) && loopback(c.RemoteAddr())}
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// credentials gathers what the connection and the request prove. Nothing in
// them is judged here.
func (d *Door) credentials(r *http.Request, path string) ostiary.Credentials {
	conn, _ := r.Context().Value(connKey{}).(Conn)
	c := ostiary.Credentials{Audience: d.audience + path, Loopback: conn.Loopback, Remote: remote(r)}
	state := r.TLS
	if state == nil {
		state = conn.TLS
	}
	c.Encrypted = state != nil
	if state != nil && len(state.PeerCertificates) > 0 {
		c.Peer, c.Verified = state.PeerCertificates[0], len(state.VerifiedChains) > 0
	}
	if h := r.Header.Values("Authorization"); len(h) == 1 {
		if token, ok := bearer(h[0]); ok {
			c.Bearer = ostiary.NewSecret([]byte(token))
		}
	}
	return c
}

func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// maxToken bounds a bearer token: ours are a few hundred bytes.
const maxToken = 8 << 10

// bearer returns the token of an Authorization value: the scheme, one space,
// and the token68 alphabet of RFC 9110, section 11.2. A comma-joined second
// value therefore never passes.
func bearer(h string) (string, bool) {
	scheme, token, ok := strings.Cut(h, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", false
	}
	for i := range len(token) {
		if c := token[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return "", false
		}
	}
	return token, true
}
