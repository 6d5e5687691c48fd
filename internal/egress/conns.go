package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ostiary/ostiary/internal/mcpwire"
)

// conns are the connections to one tool server. Each carries one request at a
// time, in the goroutine of its call: net/http's Transport keeps two goroutines
// beside each connection, and a call pays for waking both. Replies are read by
// net/http's parser.
//
// No request is sent twice and nothing is added to one. A connection that may
// hold anything but the whole reply to its request is closed. Safe for
// concurrent use.
type conns struct {
	dial  func(ctx context.Context, network, address string) (net.Conn, error) // makes *meteredConn
	url   *url.URL
	tls   *tls.Config   // nil: plain
	calls chan struct{} // a place for each call under way

	mu     sync.Mutex
	idle   []*conn     // since longest first
	closed bool        // until the next call, what becomes idle is closed
	timer  *time.Timer // runs while any is idle
}

// conn is one of them. Its call owns it until its reply has ended.
type conn struct {
	net.Conn // TLS or metered
	metered  *meteredConn
	r        *bufio.Reader
	w        *bufio.Writer
	head     int64     // bytes that may still be read; a head has a limit, a body has others
	since    time.Time // when it became idle
}

const (
	connBuffer = 16 << 10
	// writeFirst is how large a request may be to be written before its reply is
	// looked for: what every socket takes without being read.
	writeFirst = 32 << 10
	// idleLook is how often idle connections are looked at, so that the
	// descriptors of those the far side closed are not kept.
	idleLook = 5 * time.Second
	// maxInformational bounds the answers that announce another (HTTP 1xx).
	maxInformational = 5
)

var (
	errHeader        = errors.New("a header of the request cannot be sent")
	errHead          = errors.New("the head of the server's answer is too long")
	errInformational = errors.New("the server only announces its answer")
)

func newConns(d *dialer, within *room, u *url.URL, t *tls.Config) *conns {
	c := &conns{dial: within.within(d.dial), url: u, calls: make(chan struct{}, callsPerServer)}
	if u.Scheme == "https" {
		if c.tls = strictTLS(t); c.tls.ServerName == "" {
			c.tls.ServerName = u.Hostname()
		}
	}
	return c
}

func (k *conn) Read(b []byte) (int, error) {
	if k.head <= 0 {
		return 0, errHead
	}
	n, err := k.Conn.Read(b[:min(int64(len(b)), k.head)])
	k.head -= int64(n)
	return n, err
}

// Close closes the connection at once, and waits for nobody to take a last
// word of TLS.
func (k *conn) Close() error { return k.metered.Close() }

// post sends one request with our headers and returns the head of its reply,
// whose body must be read to its end or closed. The call ends with ctx. What
// it says of a failure, sent does too.
func (c *conns) post(ctx context.Context, h http.Header, body []byte) (*http.Response, *connProbe, error) {
	p := &connProbe{}
	for name, values := range h {
		if !mcpwire.IsToken(name) || len(values) != 1 || !headerValue(values[0]) {
			return nil, p, errHeader
		}
	}
	if err := acquire(ctx, c.calls); err != nil {
		return nil, p, err
	}
	k, reused, err := c.take(ctx)
	if err != nil {
		release(c.calls)
		return nil, p, err
	}
	p.conn, p.before, p.reused = k.metered, k.metered.written.Load(), reused
	x := &transfer{conns: c, conn: k, leave: context.AfterFunc(ctx, func() { k.Close() })}
	resp, err := x.exchange(h, body)
	if err != nil {
		x.end(false)
		return nil, p, err
	}
	return resp, p, nil
}

// take returns a connection that nobody uses.
func (c *conns) take(ctx context.Context) (k *conn, reused bool, err error) {
	for k := c.newest(); k != nil; k = c.newest() {
		if time.Since(k.since) < idleTimeout && quiet(k.metered.Conn) {
			return k, true, nil
		}
		k.Close()
	}
	k, err = c.open(ctx)
	return k, false, err
}

func (c *conns) newest() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = false
	n := len(c.idle) - 1
	if n < 0 {
		return nil
	}
	k := c.idle[n]
	c.idle[n] = nil
	c.idle = c.idle[:n]
	return k
}

// open connects. Every error means that nothing of a request was sent.
func (c *conns) open(ctx context.Context) (*conn, error) {
	port := c.url.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[c.tls != nil]
	}
	raw, err := c.dial(ctx, "tcp", net.JoinHostPort(c.url.Hostname(), port))
	if err != nil {
		return nil, err
	}
	k := &conn{Conn: raw, metered: raw.(*meteredConn)}
	if c.tls != nil {
		t := tls.Client(raw, c.tls)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			k.Close()
			return nil, err
		}
		k.Conn = t
	}
	k.r, k.w = bufio.NewReaderSize(k, connBuffer), bufio.NewWriterSize(k.Conn, connBuffer)
	return k, nil
}

// keep makes a connection idle.
func (c *conns) keep(k *conn) {
	k.since = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= idlePerServer {
		k.Close()
		return
	}
	c.idle = append(c.idle, k)
	if c.timer == nil {
		c.timer = time.AfterFunc(idleLook, c.expire)
	}
}

// expire closes what has been idle for too long, and what the far side closed.
func (c *conns) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = slices.DeleteFunc(c.idle, func(k *conn) bool {
		over := time.Since(k.since) >= idleTimeout || !quiet(k.metered.Conn)
		if over {
			k.Close()
		}
		return over
	})
	if len(c.idle) == 0 {
		c.timer = nil
		return
	}
	c.timer.Reset(idleLook)
}

// closeIdle closes every connection that no call uses, and those that calls
// use now when they end.
func (c *conns) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.idle {
		k.Close()
	}
	c.idle, c.closed = nil, true
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// transfer is one request and its reply, which it is the body of.
type transfer struct {
	conns *conns
	conn  *conn
	leave func() bool // lets go of the call's context
	wrote chan error  // of a request that is written while its reply is read
	body  io.Reader
	close bool // the server ends the connection after the reply
	ended atomic.Bool
}

// exchange writes the request and reads the head of its reply. A server may
// answer before it has read all.
func (x *transfer) exchange(h http.Header, body []byte) (*http.Response, error) {
	var werr error
	if len(body) <= writeFirst {
		werr = x.conn.request(x.conns.url, h, body)
	} else {
		x.wrote = make(chan error, 1)
		go func() { x.wrote <- x.conn.request(x.conns.url, h, body) }() // ends with the connection at the latest
	}
	x.conn.head = maxResponseHeader
	resp, err := x.conn.response()
	if err != nil {
		return nil, errors.Join(werr, err)
	}
	x.conn.head = math.MaxInt64
	x.body, x.close = resp.Body, resp.Close || resp.StatusCode == http.StatusSwitchingProtocols || werr != nil
	if resp.Body == http.NoBody {
		x.end(true)
	} else {
		resp.Body = x
	}
	return resp, nil
}

// request writes a request. The headers were checked: none can end early.
func (k *conn) request(u *url.URL, h http.Header, body []byte) error {
	w := k.w // keeps its first error for Flush
	for _, s := range [...]string{"POST ", u.RequestURI(), " HTTP/1.1\r\nHost: ", u.Host, "\r\n"} {
		w.WriteString(s)
	}
	for name, values := range h {
		for _, s := range [...]string{name, ": ", values[0], "\r\n"} {
			w.WriteString(s)
		}
	}
	w.WriteString("Content-Length: ")
	w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(len(body)), 10))
	w.WriteString("\r\n\r\n")
	w.Write(body)
	return w.Flush()
}

// posted is what a reply answers, as far as its parser must know.
var posted = &http.Request{Method: http.MethodPost}

// response reads the head of the reply, after those that announce it.
func (k *conn) response() (*http.Response, error) {
	for range maxInformational {
		resp, err := http.ReadResponse(k.r, posted)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
	return nil, errInformational
}

func (x *transfer) Read(b []byte) (int, error) {
	n, err := x.body.Read(b)
	if err != nil {
		x.end(err == io.EOF)
	}
	return n, err
}

// Close gives up what was not read, and the connection with it.
func (x *transfer) Close() error {
	x.end(false)
	return nil
}

// end lets go of the connection. It is kept if it is known to hold nothing
// more of this call.
func (x *transfer) end(whole bool) {
	if x.ended.Swap(true) {
		return
	}
	defer release(x.conns.calls)
	mine := x.leave() // if not, it is being closed
	if x.wrote != nil {
		select {
		case err := <-x.wrote:
			whole = whole && err == nil
		default:
			whole = false
		}
	}
	if !whole || !mine || x.close || x.conn.r.Buffered() > 0 {
		x.conn.Close()
		return
	}
	x.conns.keep(x.conn)
}

// quiet reports whether an idle connection can be used: the far side has
// neither closed it nor said anything.
func quiet(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var one [1]byte
	nothing := false
	err = raw.Read(func(fd uintptr) bool {
		_, err := syscall.Read(int(fd), one[:])
		nothing = err == syscall.EAGAIN
		return true
	})
	return err == nil && nothing
}
