package mcp

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

type (
	loopbackKey struct{}
	knownKey    struct{}
)

// noteConn notes whether both ends of an accepted connection are loopback
// addresses, which net/http does not tell of a request, for
// http.Server.ConnContext. A request without the note is not from loopback.
// It notes the connection too if it wants to hear that somebody proved who
// they are on it.
func noteConn(ctx context.Context, c net.Conn) context.Context {
	if k, ok := c.(interface{ Known() }); ok {
		ctx = context.WithValue(ctx, knownKey{}, k)
	}
	return context.WithValue(ctx, loopbackKey{}, loopback(c.LocalAddr()) && loopback(c.RemoteAddr()))
}

// known tells a request's connection that its far end is no stranger.
func known(r *http.Request) {
	if k, ok := r.Context().Value(knownKey{}).(interface{ Known() }); ok {
		k.Known()
	}
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// credentials gathers what the connection and the request prove. Nothing in
// them is judged here.
func (d *Door) credentials(r *http.Request, path string) ostiary.Credentials {
	local, _ := r.Context().Value(loopbackKey{}).(bool)
	c := ostiary.Credentials{Audience: d.audience + path, Loopback: local, Encrypted: r.TLS != nil, Remote: stricthttp.Source(r)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		c.Peer, c.Verified = r.TLS.PeerCertificates[0], len(r.TLS.VerifiedChains) > 0
	}
	if h := r.Header.Values("Authorization"); len(h) == 1 {
		scheme, token, ok := bearer(h[0])
		if ok {
			c.Bearer = ostiary.NewSecret([]byte(token))
		}
		if ok && scheme == "DPoP" {
			c.Possession = &ostiary.Possession{Method: r.Method, URL: baseOf(r) + path}
			if proof := r.Header.Values("Dpop"); len(proof) == 1 {
				c.Possession.Proof = proof[0]
			}
		}
	}
	if h := r.Header.Values(mcpwire.HeaderMandate); len(h) == 1 {
		c.Mandate = ostiary.MandateID(h[0])
	}
	return c
}

// maxMandateName bounds the name of a mandate: ours have 34 bytes.
const maxMandateName = 128

// mandateName reports whether a header could name a mandate. One that is
// there and empty names none, and is not the same as its absence.
func mandateName(s string) bool {
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] > 0x7e || s[i] == ',' {
			return false
		}
	}
	return s != "" && len(s) <= maxMandateName
}

// maxToken bounds a bearer token: ours are a few hundred bytes.
const maxToken = 8 << 10

// bearer returns scheme and token of an Authorization value: Bearer or DPoP,
// one space, and the token68 alphabet of RFC 9110, section 11.2. A
// comma-joined second value therefore never passes.
func bearer(h string) (scheme, token string, ok bool) {
	scheme, token, ok = strings.Cut(h, " ")
	switch {
	case !ok || token == "" || len(token) > maxToken:
		return "", "", false
	case strings.EqualFold(scheme, "Bearer"):
		scheme = "Bearer"
	case strings.EqualFold(scheme, "DPoP"):
		scheme = "DPoP"
	default:
		return "", "", false
	}
	for i := range len(token) {
		if c := token[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return "", "", false
		}
	}
	return scheme, token, true
}
