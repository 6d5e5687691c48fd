package stricthttp

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// Crowd bounds how many connections are open at one time, over all listeners
// that share it, so that whoever connects cannot use up the descriptors of
// those inside. Whatever is zero allows nothing. A connection beyond a bound
// is closed at once, before a byte is read from it.
//
// A source is an IPv4 address, or the /64 network of an IPv6 address, all of
// which one host may use.
type Crowd struct {
	Total     int // connections of all sources
	Source    int // of one source
	Strangers int // of one source, on which nobody has proven who they are yet

	// Refused, if not nil, is told of each connection that was closed: the
	// address it came from, without port, and the bound's name. It is called
	// by the accepting goroutine and must not block.
	Refused func(source, code string)

	mu      sync.Mutex // guards what follows
	total   int
	sources map[netip.Prefix]*source
}

// source counts the connections of one source. It is forgotten with the last.
type source struct{ all, strangers int }

// Listen returns a listener whose connections belong to the crowd. A
// connection of [NewListener] above it is no stranger any more once its Known
// was called, or it showed a verified client certificate.
func (c *Crowd) Listen(l net.Listener) net.Listener { return &bounded{l, c} }

type bounded struct {
	net.Listener
	crowd *Crowd
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		inner, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, text := sourceOf(inner.RemoteAddr())
		code := b.crowd.enter(from)
		if code == "" {
			return &member{Conn: inner, crowd: b.crowd, from: from}, nil
		}
		inner.Close()
		if b.crowd.Refused != nil {
			b.crowd.Refused(text, code)
		}
	}
}

// enter counts a stranger in, or names the bound that is reached.
func (c *Crowd) enter(from netip.Prefix) (code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sources[from]
	if s == nil {
		s = &source{}
	}
	switch {
	case c.total >= c.Total:
		return "connections"
	case s.all >= c.Source:
		return "connections_of_source"
	case s.strangers >= c.Strangers:
		return "connections_of_strangers"
	}
	if c.sources == nil {
		c.sources = map[netip.Prefix]*source{}
	}
	c.sources[from] = s
	c.total++
	s.all++
	s.strangers++
	return ""
}

// change counts a stranger who is known now, or one connection out.
func (c *Crowd) change(from netip.Prefix, all, strangers int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sources[from]
	c.total += all
	s.all += all
	s.strangers += strangers
	if s.all == 0 {
		delete(c.sources, from)
	}
}

// member is a connection in a crowd. It counts until it is closed.
type member struct {
	net.Conn
	crowd *Crowd
	from  netip.Prefix
	mu    sync.Mutex // guards what follows
	known bool
	gone  bool
}

// Known says that whoever is at the far end has proven who they are.
func (m *member) Known() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known || m.gone {
		return
	}
	m.known = true
	m.crowd.change(m.from, 0, -1)
}

func (m *member) Close() error {
	m.mu.Lock()
	if !m.gone {
		m.gone = true
		strangers := -1
		if m.known {
			strangers = 0
		}
		m.crowd.change(m.from, -1, strangers)
	}
	m.mu.Unlock()
	return m.Conn.Close()
}

// sourceOf returns what a connection counts for, and its address in words. An
// address that is none is a source of its own kind, the zero one.
func sourceOf(a net.Addr) (netip.Prefix, string) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, ""
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, ""
	}
	return p, ip.String()
}

// Source returns the address a request came from, as its connection says and
// no header: without its port.
func Source(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Known says that somebody has proven who they are on this connection. It may
// be called any number of times, by any goroutine.
func (c *conn) Known() {
	inner := c.Conn
	if t, ok := inner.(interface{ NetConn() net.Conn }); ok { // TLS
		inner = t.NetConn()
	}
	if m, ok := inner.(*member); ok && !c.known.Swap(true) {
		m.Known()
	}
}
