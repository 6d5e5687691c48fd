package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

const plainReply = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

// serveConns returns connections to a server that does this with each.
func serveConns(t testing.TB, serve func(n int, c net.Conn, r *bufio.Reader)) *conns {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(n, c, bufio.NewReader(c))
			}()
		}
	}()
	return connsTo(t, "http://"+l.Addr().String(), nil)
}

func connsTo(t testing.TB, address string, config *tls.Config) *conns {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	allow, err := newAddresses(u, []string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	c := newConns(newDialer(allow), &room{most: 100, free: func() {}}, u, config)
	t.Cleanup(c.closeIdle)
	return c
}

// request reads one request, and reports false when there is none.
func request(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// ask makes one call and reads its reply to the end.
func ask(c *conns, body []byte) (status int, reply string, p *connProbe, err error) {
	resp, p, err := c.post(context.Background(), http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return 0, "", p, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), p, err
}

func (c *conns) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle)
}

func TestConnsReuse(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		kept   bool
	}{
		"a whole reply":             {plainReply, true},
		"a chunked one":             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", true},
		"one without a body":        {"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true},
		"one that was announced":    {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plainReply, true},
		"one that says close":       {strings.Replace(plainReply, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1), false},
		"one of HTTP/1.0":           {strings.Replace(plainReply, "1.1", "1.0", 1), false},
		"one followed by another":   {plainReply + plainReply, false},
		"one followed by one byte":  {plainReply + "x", false},
		"one that switches":         {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", false},
		"one whose end is the end":  {"HTTP/1.1 200 OK\r\n\r\n{}", false},
		"one cut short":             {strings.Replace(plainReply, "Content-Length: 2", "Content-Length: 9", 1), false},
		"a chunk without its end":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", false},
		"announced and never there": {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInformational+1) + plainReply, false},
		"a head without end":        {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeader) + "\r\n\r\n{}", false},
		"lengths that disagree":     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", false},
		"no HTTP":                   {"hello\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			over := make(chan bool)
			conns := serveConns(t, func(_ int, conn net.Conn, r *bufio.Reader) {
				if request(r) {
					io.WriteString(conn, c.answer)
				}
				if c.kept {
					<-over
				} // else the end of the connection
			})
			defer close(over)
			_, _, _, err := ask(conns, []byte("{}"))
			if c.kept != (conns.waiting() == 1) || c.kept && err != nil {
				t.Errorf("%d connections wait for the next call, %v", conns.waiting(), err)
			}
			if len(conns.calls) != 0 {
				t.Error("the call still counts")
			}
		})
	}
}

// A connection that the server closed, or on which it said something that
// nobody asked for, is not used again: the next call goes elsewhere, at once.
func TestConnsStale(t *testing.T) {
	for name, last := range map[string]string{"closed": "", "unasked": plainReply} {
		t.Run(name, func(t *testing.T) {
			said := make(chan bool)
			c := serveConns(t, func(n int, conn net.Conn, r *bufio.Reader) {
				for request(r) {
					io.WriteString(conn, plainReply)
					if n == 0 {
						<-said
						io.WriteString(conn, last)
						break
					}
				}
			})
			if _, _, _, err := ask(c, nil); err != nil || c.waiting() != 1 {
				t.Fatal(err)
			}
			old := c.idle[0]
			said <- true
			for quiet(old.metered.Conn) { // until it has arrived here
				time.Sleep(time.Millisecond)
			}
			status, reply, p, err := ask(c, nil)
			if err != nil || status != 200 || reply != "{}" || p.reused {
				t.Errorf("%d %s, reused %v, %v", status, reply, p.reused, err)
			}
		})
	}
}

func TestConnsIdle(t *testing.T) {
	c := serveConns(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		for request(r) {
			io.WriteString(conn, plainReply)
		}
	})
	for i := range 3 {
		if _, _, p, err := ask(c, nil); err != nil || p.reused != (i > 0) {
			t.Fatalf("call %d: reused %v, %v", i, p.reused, err)
		}
	}
	old := c.idle[0]
	old.since = time.Now().Add(-idleTimeout)
	c.expire()
	if c.waiting() != 0 || c.timer != nil || quiet(old.metered.Conn) {
		t.Error("a connection outlived its time")
	}
	resp, _, err := c.post(context.Background(), http.Header{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.closeIdle() // while it is in use
	if io.Copy(io.Discard, resp.Body); c.waiting() != 0 {
		t.Error("a connection was kept although nobody wants any")
	}
	if _, _, p, err := ask(c, nil); err != nil || p.reused || c.waiting() != 1 {
		t.Errorf("the next call: reused %v, %v", p.reused, err)
	}
}

// A call that ends closes its connection, whatever it waits for.
func TestConnsLeave(t *testing.T) {
	hang := make(chan bool)
	defer close(hang)
	for name, first := range map[string]string{"before the head": "", "in the body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"} {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan bool, 1)
			c := serveConns(t, func(_ int, conn net.Conn, r *bufio.Reader) {
				request(r)
				io.WriteString(conn, first)
				arrived <- true
				<-hang
			})
			ctx, cancel := context.WithCancel(context.Background())
			go func() { <-arrived; cancel() }()
			resp, p, err := c.post(ctx, http.Header{}, []byte("{}"))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil || c.waiting() != 0 || len(c.calls) != 0 {
				t.Errorf("%d wait, %v", c.waiting(), err)
			}
			if p.unsent() {
				t.Error("what was sent counts as not sent")
			}
		})
	}
	t.Run("closed early", func(t *testing.T) {
		c := serveConns(t, func(_ int, conn net.Conn, r *bufio.Reader) { request(r); io.WriteString(conn, plainReply); <-hang })
		resp, _, err := c.post(context.Background(), http.Header{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); c.waiting() != 0 || len(c.calls) != 0 {
			t.Error("a connection was kept whose reply nobody read")
		}
	})
}

// A server may answer a large request before it has read all of it, or read
// all while it answers.
func TestConnsLarge(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 8<<20)
	t.Run("answered early", func(t *testing.T) {
		over := make(chan bool)
		defer close(over)
		c := serveConns(t, func(_ int, conn net.Conn, r *bufio.Reader) {
			r.ReadString('\n')
			io.WriteString(conn, strings.Replace(plainReply, "200 OK", "413 Too Large", 1))
			<-over
		})
		if status, _, _, err := ask(c, body); status != 413 || err != nil || c.waiting() != 0 {
			t.Errorf("%d, %d wait, %v", status, c.waiting(), err)
		}
	})
	t.Run("echoed", func(t *testing.T) {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err == nil {
				w.Write(b)
			}
		}))
		defer srv.Close()
		pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		c := connsTo(t, srv.URL, &tls.Config{RootCAs: pool})
		for i := range 2 {
			status, reply, p, err := ask(c, body)
			if status != 200 || reply != string(body) || err != nil || p.reused != (i > 0) {
				t.Errorf("%d, %d bytes, reused %v, %v", status, len(reply), p.reused, err)
			}
		}
	})
}

func TestConnsHeaders(t *testing.T) {
	c := serveConns(t, func(int, net.Conn, *bufio.Reader) { t.Error("it connected") })
	for name, h := range map[string]http.Header{
		"a value of two lines": {"X": {"a\r\nY: b"}}, "a name of two": {"X: a\r\nY": {"b"}}, "two values": {"X": {"a", "b"}}, "a zero byte": {"X": {"a\x00"}},
	} {
		if _, p, err := c.post(context.Background(), h, nil); err == nil || !p.unsent() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConns: whatever a server answers, a call ends, and its connection is
// kept only if everything that had arrived was read as one whole reply. What
// arrives later makes it unquiet.
func FuzzConns(f *testing.F) {
	f.Add([]byte(plainReply))
	f.Add([]byte("HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte(plainReply + "x"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		c := &conns{url: &url.URL{Scheme: "http", Host: "server"}, calls: make(chan struct{}, 1)}
		far := make(chan net.Conn, 1)
		c.dial = func(context.Context, string, string) (net.Conn, error) {
			near, there := net.Pipe()
			far <- there
			return &meteredConn{Conn: near, closed: func() {}}, nil
		}
		left := make(chan int, 1)
		go func() {
			conn := <-far
			defer conn.Close()
			if request(bufio.NewReader(conn)) {
				n, _ := conn.Write(answer)
				left <- len(answer) - n
			} else {
				left <- len(answer)
			}
		}()
		_, _, _, err := ask(c, []byte("{}"))
		kept := c.waiting() == 1
		c.closeIdle()
		if n := <-left; kept && (err != nil || n > 0 && len(answer) <= connBuffer) {
			t.Fatalf("kept after %q, of which %d bytes were not read: %v", answer, n, err)
		}
		if len(c.calls) != 0 {
			t.Fatal("the call still counts")
		}
	})
}
