package stricthttp

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// arriving is a listener whose connections come from chosen addresses.
type arriving struct{ from chan string }

type arrived struct {
	net.Conn
	from   net.Addr
	closed bool
}

func (a *arrived) RemoteAddr() net.Addr { return a.from }
func (a *arrived) Close() error         { a.closed = true; return nil }

func (a arriving) Accept() (net.Conn, error) {
	s, ok := <-a.from
	if !ok {
		return nil, io.EOF
	}
	return &arrived{from: &net.TCPAddr{IP: net.ParseIP(s), Port: 7}}, nil
}
func (a arriving) Close() error   { return nil }
func (a arriving) Addr() net.Addr { return nil }

// arrive sends one connection from each address and returns those let in.
func arrive(c *Crowd, from ...string) (in []*conn) {
	a := arriving{make(chan string, len(from))}
	for _, s := range from {
		a.from <- s
	}
	close(a.from)
	l := NewListener(c.Listen(a), Standard())
	for {
		got, err := l.Accept()
		if err != nil {
			return in
		}
		in = append(in, got.(*conn))
	}
}

func TestCrowd(t *testing.T) {
	var refused []string
	c := &Crowd{Total: 7, Source: 4, Strangers: 2, Refused: func(source, code string) { refused = append(refused, source+" "+code) }}
	expect := func(in []*conn, n int, want ...string) {
		t.Helper()
		if len(in) != n || !slices.Equal(refused, want) {
			t.Errorf("%d let in, want %d; refused %q, want %q", len(in), n, refused, want)
		}
		refused = nil
	}
	// R05: strangers of one source are few, of whichever form its address is.
	a := arrive(c, "10.0.0.1", "10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1")
	expect(a, 2, "10.0.0.1 connections_of_strangers", "10.0.0.1 connections_of_strangers")
	v6 := arrive(c, "2001:db8::1", "2001:db8::2", "2001:db8::ffff:3")
	expect(v6, 2, "2001:db8::ffff:3 connections_of_strangers")
	// Whoever proved who they are makes room, once, up to the source's bound.
	a[0].Known()
	a[0].Known()
	b := arrive(c, "10.0.0.1", "10.0.0.1")
	expect(b, 1, "10.0.0.1 connections_of_strangers")
	a[1].Known()
	b[0].Known()
	d := arrive(c, "10.0.0.1", "10.0.0.1")
	expect(d, 1, "10.0.0.1 connections_of_source")
	// All together are bounded, whoever they are.
	e := arrive(c, "192.0.2.1", "192.0.2.2")
	expect(e, 1, "192.0.2.2 connections")
	// Each leaves once, however often it is closed, and is known no more.
	d[0].Close()
	d[0].Close()
	d[0].Known()
	f := arrive(c, "192.0.2.1", "192.0.2.2")
	expect(f, 1, "192.0.2.2 connections")
	for _, x := range slices.Concat(a, b, e, f, v6) {
		x.Close()
	}
	if c.total != 0 || len(c.sources) != 0 {
		t.Errorf("%d connections of %d sources are still counted", c.total, len(c.sources))
	}
	if len(arrive(&Crowd{}, "10.0.0.1")) != 0 {
		t.Error("the zero Crowd lets somebody in")
	}
}

// Proving, leaving and arriving at once lose no count.
func TestCrowdAtOnce(t *testing.T) {
	c := &Crowd{Total: 1000, Source: 1000, Strangers: 1000}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 100 {
				for _, x := range arrive(c, fmt.Sprintf("10.0.0.%d", i%3)) {
					all.Go(x.Known)
					all.Go(func() { x.Close() })
				}
			}
		})
	}
	all.Wait()
	if c.total != 0 || len(c.sources) != 0 {
		t.Errorf("%d connections of %d sources are still counted", c.total, len(c.sources))
	}
}
