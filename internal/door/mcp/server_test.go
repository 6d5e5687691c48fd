package mcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// serve serves the door as the gateway does, on a strict listener, and
// returns the address.
func (w *world) serve() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := NewServer(w.door, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- s.Serve(stricthttp.NewListener(l, stricthttp.Standard())) }()
	w.t.Cleanup(func() {
		s.Close()
		<-served
	})
	w.door.hosts[l.Addr().String()] = true
	return l.Addr().String()
}

// pipes is a listener of connections in memory, in a bubble's time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// TestStrangersHoldNothing: who proved nothing makes nobody keep a body, and
// no connection for longer than a body may take, on any path.
func TestStrangersHoldNothing(t *testing.T) {
	t.Run("a body is not read", func(t *testing.T) {
		w := newWorld(t)
		r := raw("/mcp", "", "Authorization", "Bearer foreign")
		r.Body = io.NopCloser(iotest.ErrReader(errors.New("somebody read it")))
		r.ContentLength = maxBody
		if rec := w.do(r); rec.Code != 401 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
	for _, path := range []string{"/mcp", "/nothing"} {
		t.Run("R01 a stalled body on "+path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				s := NewServer(w.door, slog.New(slog.DiscardHandler))
				served := make(chan error, 1)
				go func() { served <- s.Serve(stricthttp.NewListener(l, stricthttp.Standard())) }()
				near, far := net.Pipe()
				l.conns <- far
				w.door.hosts["gate.test"] = true
				io.WriteString(near, "POST "+path+" HTTP/1.1\r\nHost: gate.test\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n")
				began := time.Now()
				near.SetDeadline(began.Add(time.Hour))
				if _, err := io.Copy(io.Discard, near); err != nil {
					t.Error("the connection was never given up:", err)
				}
				if took := time.Since(began); took > bodyTimeout+idleTimeout {
					t.Error("the connection was held for", took)
				}
				s.Close()
				<-served
			})
		})
	}
}

// TestSlowClients: who drips a body, or does not read an answer, holds nothing
// for longer than a body or a write may take, and a call whose answer nobody
// reads is settled.
func TestSlowClients(t *testing.T) {
	speak := func(t *testing.T, w *world, f func(near net.Conn)) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := NewServer(w.door, slog.New(slog.DiscardHandler))
		served := make(chan error, 1)
		go func() { served <- s.Serve(stricthttp.NewListener(l, stricthttp.Standard())) }()
		near, far := net.Pipe()
		l.conns <- far
		w.door.hosts["gate.test"] = true
		near.SetDeadline(time.Now().Add(time.Hour))
		f(near)
		near.Close()
		s.Close()
		<-served
	}
	t.Run("R01 a body that drips", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			speak(t, w, func(near net.Conn) {
				go io.Copy(io.Discard, near)
				io.WriteString(near, head("gate.test", "Content-Length: 100000"))
				began := time.Now()
				for {
					if _, err := io.WriteString(near, " "); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				if took := time.Since(began); took > bodyTimeout+idleTimeout {
					t.Error("it dripped for", took)
				}
			})
			if w.forwarded() != 0 {
				t.Error("half a body was forwarded")
			}
		})
	})
	t.Run("R01 an answer that nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
				return result(`{"content":[],"x":"` + strings.Repeat("x", 4<<20) + `"}`), nil
			}
			speak(t, w, func(near net.Conn) {
				call := callBody("1", "")
				io.WriteString(near, head("gate.test", fmt.Sprintf("Content-Length: %d", len(call)))+call)
				one := make([]byte, 1)
				if _, err := near.Read(one); err != nil {
					t.Fatal(err)
				}
				time.Sleep(writeTimeout + time.Second)
				synctest.Wait()
				if n, err := io.Copy(io.Discard, near); err != nil || n > 1<<20 {
					t.Errorf("after %v of silence %d bytes came, %v", writeTimeout, n, err)
				}
			})
			if last := w.entries[len(w.entries)-1]; last.Kind != ostiary.KindOutcome {
				t.Errorf("not settled: %+v", last)
			}
		})
	})
}

func head(host string, more ...string) string {
	return "POST /mcp HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/json\r\nAuthorization: Bearer alice\r\nMcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: bank___send\r\n" + strings.Join(append(more, ""), "\r\n") + "\r\n"
}

// TestBytes holds the cases of group D that only bytes can tell.
func TestBytes(t *testing.T) {
	call := callBody("1", "")
	whole := fmt.Sprintf("Content-Length: %d", len(call))
	for _, c := range []struct {
		name, text string
		close      bool // the client closes its side after sending
		status     int
		sent       int
	}{
		{"a plain call", head("$H", whole) + call, false, 200, 1},
		{"a chunked call", head("$H", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(call), call), false, 200, 1},
		{"D01 both framings", head("$H", "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + head("$H", whole) + call, false, 400, 0},
		{"D02 two lengths", head("$H", whole, whole) + call, false, 400, 0},
		{"D03 folded header", head("$H", "X: a\r\n b", whole) + call, false, 400, 0},
		{"D04 body cut", head("$H", whole) + call[:40], true, 400, 0},
		{"D04 cut mid-chunk", head("$H", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s", len(call), call[:40]), true, 400, 0},
		{"D07 two authorizations", head("$H", "Authorization: Bearer bob", whole) + call, false, 400, 0},
		{"D09 CONNECT", strings.Replace(head("$H", whole), "POST /mcp", "CONNECT evil:443", 1), false, 400, 0},
		{"D10 absolute target", strings.Replace(head("$H", whole), "POST /mcp", "POST http://internal/mcp", 1) + call, false, 400, 0},
		{"D12 encoded path", strings.Replace(head("$H", whole), "POST /mcp", "POST /mcp/%2e%2e/mcp", 1) + call, false, 400, 0},
		{"D17 foreign host", head("evil.example", whole) + call, false, 403, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			address := w.serve()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(conn, strings.ReplaceAll(c.text, "$H", address))
			if c.close {
				conn.(*net.TCPConn).CloseWrite()
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			if status := res.StatusCode; status != c.status && !(c.status == 400 && (status == 405 || status == 421 || status == 404)) || w.forwarded() != c.sent {
				t.Errorf("%d, sent %d: %s", status, w.forwarded(), b)
			}
		})
	}
}
