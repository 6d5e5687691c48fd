package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
)

const (
	// maxResponseHeader bounds what a server may send before its body; ours
	// need well under 1 KiB, gateways in between add some.
	maxResponseHeader = 32 << 10
	// idlePerServer keeps enough connections for a loaded gateway not to
	// connect again for each call.
	idlePerServer = 512
	// connsPerServer and callsPerServer bound what one server can cost in
	// descriptors; calls beyond it wait, and only that server's calls do.
	connsPerServer = 2048
	callsPerServer = connsPerServer - idlePerServer
	// idleTimeout is shorter than the common keep-alive time-outs of servers,
	// so that we seldom write into a connection that is being closed.
	idleTimeout = 45 * time.Second
	// handshakeTimeout bounds TLS with a server that accepted the connection.
	handshakeTimeout = 10 * time.Second
)

// newTransport returns a transport that goes nowhere but through d, and that
// adds nothing of its own: no proxy from the environment, no compression, no
// HTTP/2 coalescing.
func newTransport(d *dialer, t *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            d.dial,
		TLSClientConfig:        strictTLS(t),
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		MaxIdleConns:           idlePerServer,
		MaxIdleConnsPerHost:    idlePerServer,
		MaxConnsPerHost:        connsPerServer,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		Protocols:              protocols,
	}
}

// strictTLS returns a configuration of our own with what t leaves open.
func strictTLS(t *tls.Config) *tls.Config {
	if t == nil {
		t = &tls.Config{}
	}
	t = t.Clone()
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	if t.CipherSuites == nil {
		t.CipherSuites = []uint16{ // for 1.2: forward secrecy and authenticated encryption only
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
	return t
}

// meteredConn counts the bytes written, so that after a failure it is known
// whether any of the call can have left.
type meteredConn struct {
	net.Conn
	closed  func() // may be called more than once
	written atomic.Int64
}

func (c *meteredConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// Write counts before it writes, so that bytes under way count as written,
// and takes the count back only when nothing at all was accepted.
func (c *meteredConn) Write(b []byte) (int, error) {
	c.written.Add(int64(len(b)))
	n, err := c.Conn.Write(b)
	if err != nil && n == 0 {
		c.written.Add(-int64(len(b)))
	}
	return n, err
}

// NewClient returns a client for others in this product that must speak to
// one address an operator named: the bridge to its gateway, the command line
// to the control API. It reaches that host and port only, follows no
// redirect, and speaks plain HTTP to loopback addresses only.
func NewClient(base string, t *tls.Config) (*http.Client, error) {
	u, err := ParseURL(base)
	if err != nil {
		return nil, err
	}
	allow := addresses{never: neverOpened(), exceptions: exceptionSpace(), public: publicSpace()}
	if u.Scheme == "http" {
		allow.public, allow.exceptions = nil, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	return oneHost(u, newTransport(newDialer(allow), t)), nil
}

// oneHost makes a client of a transport that refuses every other host, so a
// caller's mistake cannot become a request to somewhere else.
func oneHost(u *url.URL, t *http.Transport) *http.Client {
	return &http.Client{
		Transport:     hostTransport{u.Scheme, u.Host, t},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type hostTransport struct {
	scheme, host string
	next         *http.Transport
}

func (t hostTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != t.scheme || r.URL.Host != t.host {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, ostiary.Errorf(ostiary.Internal, "other_host", "this client reaches %s only", t.host)
	}
	return t.next.RoundTrip(r)
}

func (t hostTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

// UnixClient returns a client for the HTTP server on a Unix socket. Its
// requests go to "http://ostiary/…".
func UnixClient(path string) *http.Client {
	t := newTransport(newDialer(addresses{}), nil)
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", path)
	}
	return oneHost(&url.URL{Scheme: "http", Host: "ostiary"}, t)
}

// errAnswers says that a socket is in use.
var errAnswers = errors.New("somebody answers")

// Dead returns nil only if the kernel says that nobody listens on a Unix
// socket. Every other answer, also one that stays out, is a reason to leave
// the socket alone.
func Dead(path string) error {
	c, err := (&net.Dialer{Timeout: dialTimeout}).Dial("unix", path)
	if err == nil {
		c.Close()
		return errAnswers
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}
