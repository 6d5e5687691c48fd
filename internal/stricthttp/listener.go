// Package stricthttp stands between a listener and net/http's server and lets
// only unambiguous HTTP/1.1 requests through.
//
// net/http accepts things that its handlers cannot see afterwards and that a
// second reader may take for something else: both Content-Length and
// Transfer-Encoding, repeated lengths, folded lines, bare line feeds, a host
// in the target. So every request head is inspected here, as the bytes that
// arrived, before net/http sees the first of them. A head that could be read
// in two ways is answered with a status and a reason, and the connection is
// closed; net/http never sees it. What passes is passed on unchanged.
//
// It guarantees that net/http and this package agree where each request ends,
// that a request has exactly one Host, at most one of every header but the
// few in [repeatable], no header that asks for another protocol, and a target
// in origin form without anything that two path cleaners clean differently;
// and the given [Limits].
//
// It trusts that the reader above is net/http's server speaking HTTP/1.1 only
// and that deadlines are set on the connection, as net/http does with its
// ReadHeaderTimeout and IdleTimeout: they pass through. (net/http waits for a
// kept-alive connection's next bytes under IdleTimeout, and here they come
// only once the head is whole, so that is what a stalled later head meets.)
// A [Crowd] below bounds how many connections there are.
// It does not limit bodies of a route, check an Origin, strip forwarding
// headers, or know any credential. A TLS listener must not
// negotiate h2, whose preface is refused here.
//
// See RFC 9110, RFC 9112 (sections 2.2, 3, 5, 6, 7.1) and RFC 3986.
package stricthttp

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Limits bounds one request. Whatever is zero allows nothing, so the zero
// Limits refuses every request.
type Limits struct {
	Head    int           // bytes of request line and header fields together, line ends included
	Target  int           // bytes of the request target
	Fields  int           // header fields
	Body    int64         // bytes of a body
	Arrival time.Duration // from a head's first byte to its last; also the TLS handshake

	// Refused, if not nil, is told of each refusal: the address it came
	// from, without port, and the reason's code, one of a closed list. It
	// is called by many goroutines at once and must not block.
	Refused func(source, code string)
}

// Standard returns the limits for a port that agents or people talk to. 32
// KiB hold any honest head: credentials are below 8 KiB, mirrored arguments
// are few. Targets are short, but sign-in puts state in the query. 100 fields
// are several times what browsers send. 16 MiB is above every route's own
// limit, so a route can still answer in its own words.
func Standard() Limits {
	return Limits{Head: 32 << 10, Target: 8 << 10, Fields: 100, Body: 16 << 20, Arrival: 10 * time.Second}
}

// NewListener returns a listener whose connections let only strict requests
// through. l may be a TLS listener: then a server above sees the state of TLS
// in each request, as it does without this package.
func NewListener(l net.Listener, limits Limits) net.Listener {
	return &listener{Listener: l, limits: limits}
}

type listener struct {
	net.Listener
	limits  Limits
	buffers buffers
}

func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, limits: l.limits, buffers: &l.buffers}
	if t, ok := inner.(*tls.Conn); ok {
		return &tlsConn{c, t}, nil
	}
	return c, nil
}

// tlsConn is a conn over TLS. net/http asks for the state before it reads the
// first request and puts it into every request.
type tlsConn struct {
	*conn
	tls *tls.Conn
}

// ConnectionState does the handshake first, for which it waits as long as for
// a head. A handshake that failed shows in the state and in every Read.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.Arrival)
	defer cancel()
	_ = c.tls.HandshakeContext(ctx)
	state := c.tls.ConnectionState()
	if len(state.VerifiedChains) > 0 {
		c.Known()
	}
	return state
}
