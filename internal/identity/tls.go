package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

// gateway is the gateway's own SVID, signed anew when half its life is over,
// by whichever handshake comes first: signing takes less time than the
// handshake itself, so no goroutine is needed for it.
type gateway struct {
	authority *Authority
	key       *ecdsa.PrivateKey
	names     []string
	ips       []net.IP

	mu    sync.Mutex // guards what follows
	cert  *tls.Certificate
	by    *stage // that signed it
	renew time.Time
}

func openGateway(a *Authority, keys Keys, hosts []string) (*gateway, error) {
	key, err := keys.ECDSA("gateway")
	if err != nil {
		return nil, fmt.Errorf("key gateway: %w", err)
	}
	g := &gateway{authority: a, key: key, names: []string{"localhost"}, ips: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			g.ips = append(g.ips, ip)
			continue
		}
		if !hostName(h) {
			return nil, ostiary.Errorf(ostiary.Malformed, "gateway_host", "%q is no DNS name or IP address", h).At("hosts")
		}
		if !slices.Contains(g.names, h) {
			g.names = append(g.names, h)
		}
	}
	return g, nil
}

// hostName accepts a lower-case DNS name without wildcards.
func hostName(h string) bool {
	if len(h) == 0 || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

func (g *gateway) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := g.authority.clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.authority
	st := a.stage(now)
	if g.cert != nil && g.by == st && now.Before(g.renew) {
		return g.cert, nil
	}
	chain, err := st.sign(a.domain, grant{
		id: a.self.Agent, names: g.names, ips: g.ips, serial: newSerial(now, a.dir.Load().ends.epoch), now: now, life: a.lives.Load().SVID,
	}, g.key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	g.cert = &tls.Certificate{Certificate: chain, PrivateKey: crypto.PrivateKey(g.key), Leaf: leaf}
	g.by, g.renew = st, now.Add(leaf.NotAfter.Sub(now)/2)
	return g.cert, nil
}

// ServerTLS returns the configuration of a listener for agents: TLS 1.3 with
// the gateway's SVID. A client certificate is asked for and not demanded, as
// a bearer token may come over TLS too; one that is sent must be a good SVID
// or there is no connection. HTTP/1.1 only, and no session tickets: each
// connection proves itself anew.
func (a *Authority) ServerTLS() *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		GetCertificate:         a.gate.certificate,
		ClientAuth:             tls.VerifyClientCertIfGiven, // the chain; what it says, and revocation, are VerifyConnection's
		ClientCAs:              a.stage(a.clock.Now()).anchors,
		VerifyConnection:       func(s tls.ConnectionState) error { return a.verifyConnection(s, nil) },
		SessionTicketsDisabled: true,
		Time:                   a.clock.Now,
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = a.stage(a.clock.Now()).anchors
		c.VerifyConnection = func(s tls.ConnectionState) error { return a.verifyConnection(s, hello.Conn.RemoteAddr()) }
		return c, nil
	}
	return outer
}

func keyDigest(pub crypto.PublicKey) (ostiary.Digest, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ostiary.Digest{}, err
	}
	return ostiary.DigestOf(spki), nil
}
