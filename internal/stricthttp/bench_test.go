package stricthttp

import (
	"io"
	"net"
	"testing"
)

const ordinary = "POST /mcp/inbox HTTP/1.1\r\nHost: gate.example:8443\r\nUser-Agent: agent/1.2 (linux)\r\nAccept: application/json, text/event-stream\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\nContent-Type: application/json\r\nAuthorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.c2ln\r\n" +
	"Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: send_money\r\nConnection: keep-alive\r\nContent-Length: 64\r\n\r\n" +
	"0123456789012345678901234567890123456789012345678901234567890123"

// loop is a far side that sends the same request for ever.
type loop struct {
	net.Conn
	n int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, ordinary[l.n:])
	l.n = (l.n + n) % len(ordinary)
	return n, nil
}

func one(t testing.TB, c *conn, p []byte) {
	if _, err := io.ReadFull(c, p); err != nil {
		t.Fatal(err)
	}
}

func TestNoAllocations(t *testing.T) {
	c := &conn{Conn: &loop{}, limits: Standard(), buffers: &buffers{}}
	p := make([]byte, len(ordinary))
	one(t, c, p)
	if n := testing.AllocsPerRun(100, func() { one(t, c, p) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
	if string(p) != ordinary {
		t.Error("the bytes changed")
	}
}

func BenchmarkConn(b *testing.B) {
	c := &conn{Conn: &loop{}, limits: Standard(), buffers: &buffers{}}
	p := make([]byte, len(ordinary))
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		one(b, c, p)
	}
}
