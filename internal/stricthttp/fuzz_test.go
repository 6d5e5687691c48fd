package stricthttp

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"
)

// passed drives a connection to its end and returns what came through, and
// where in it each head begins.
func passed(t *testing.T, in []byte, piece, read int) (out []byte, heads []int, err error) {
	t.Helper()
	far := &script{}
	for len(in) > 0 {
		n := min(piece, len(in))
		far.reads = append(far.reads, string(in[:n]))
		in = in[n:]
	}
	limits := Limits{Head: 2048, Target: 256, Fields: 20, Body: 1000, Arrival: 1 << 40}
	c := &conn{Conn: far, limits: limits, buffers: &buffers{}}
	p := make([]byte, read)
	for idle := 0; ; {
		fresh := c.ready == 0 && c.direct == 0 && c.state == atHead
		n, err := c.Read(p)
		if fresh && n > 0 {
			heads = append(heads, len(out))
		}
		out = append(out, p[:n]...)
		if err != nil {
			if (c.refusal != nil) != (far.written.Len() > 0) {
				t.Fatalf("refusal %+v, answered %q", c.refusal, far.written.String())
			}
			return out, heads, err
		}
		if n > 0 {
			idle = 0
		} else if idle++; idle > 1 {
			t.Fatal("nothing was read, twice")
		}
	}
}

// counter knows how far a reader above it has read.
type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// agrees reads what came through with net/http, which must find the same
// requests ending at the same bytes.
func agrees(t *testing.T, out []byte, heads []int) {
	t.Helper()
	src := &counter{r: bytes.NewReader(out)}
	br := bufio.NewReader(src)
	for i, at := range heads {
		if got := src.n - br.Buffered(); got != at {
			t.Fatalf("%q: request %d begins at %d, for net/http at %d", out, i, at, got)
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: request %d: %v", out, i, err)
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			if i != len(heads)-1 {
				t.Fatalf("%q: body %d: %v", out, i, err)
			}
			return // cut or broken in the last body: an error for net/http too
		}
		for name, values := range req.Header {
			if len(values) != 1 && !repeatable([]byte(strings.ToLower(name))) {
				t.Fatalf("%q: %s: %q", out, name, values)
			}
		}
		if req.Host == "" || req.URL.Host != "" || req.ProtoMinor != 1 || len(req.TransferEncoding) > 0 && req.ContentLength >= 0 {
			t.Fatalf("%q: %+v", out, req)
		}
		clean := path.Clean(req.URL.Path)
		if p := req.URL.Path; p != clean && p != clean+"/" || strings.ContainsAny(p, "\\;%?#\x00") {
			t.Fatalf("%q: path %q", out, p)
		}
	}
	if got := src.n - br.Buffered(); got != len(out) {
		t.Fatalf("%q: net/http reads %d of %d bytes", out, got, len(out))
	}
}

func FuzzConn(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a/b%20c?d=e HTTP/1.1\r\nHost: x:80\r\nContent-Length: 3\r\nAccept: a\r\nAccept: b\r\n\r\nabcGET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /../a HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n",
		"GET http://a/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /* HTTP/1.1\r\nHost: x\r\nCookie: a=b; c=d\r\nPragma: no-cache\r\nReferer: \r\n\r\n",
	} {
		f.Add([]byte(s), uint8(1), uint8(3))
		f.Add([]byte(s), uint8(200), uint8(200))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece, read uint8) {
		out, heads, err := passed(t, in, 1+int(piece), 1+int(read))
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("%q: %q came through", in, out)
		}
		agrees(t, out, heads)
		// However the bytes come and however they are asked for, the same
		// ones pass.
		again, heads2, err2 := passed(t, in, len(in)+1, 4096)
		if !bytes.Equal(out, again) || len(heads) != len(heads2) || (err == io.EOF) != (err2 == io.EOF) {
			t.Fatalf("%q: pieces matter: %q, %v; %q, %v", in, out, err, again, err2)
		}
	})
}
