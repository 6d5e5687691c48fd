package stricthttp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// served is what a handler behind the listener saw.
type served struct {
	method, target, host, body string
	err                        error
}

// world is a real server behind the listener, and what happened.
type world struct {
	addr    string
	mu      sync.Mutex
	served  []served
	refused []string
}

func newWorld(t *testing.T, limits Limits) *world {
	t.Helper()
	w := &world{}
	limits.Refused = func(source, code string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if source != "127.0.0.1" {
			t.Errorf("refused source %q", source)
		}
		w.refused = append(w.refused, code)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	srv := &http.Server{
		ReadHeaderTimeout: 2 * time.Second,
		IdleTimeout:       2 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.mu.Lock()
			w.served = append(w.served, served{r.Method, r.RequestURI, r.Host, string(body), err})
			w.mu.Unlock()
			fmt.Fprintf(rw, "served %s", body)
		}),
	}
	done := make(chan error)
	go func() { done <- srv.Serve(NewListener(l, limits)) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return w
}

func (w *world) seen() ([]served, []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]served(nil), w.served...), append([]string(nil), w.refused...)
}

// send writes raw bytes and returns everything that comes back until the
// other side closes or, if it keeps the connection, until n answers are read.
func send(t *testing.T, addr, raw string, n int) (answers []*http.Response, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for len(answers) < n {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return answers, true
			}
			t.Fatalf("after %d answers: %v", len(answers), err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		answers = append(answers, res)
	}
	if answers[len(answers)-1].Close {
		_, err := br.ReadByte()
		return answers, err != nil
	}
	return answers, false
}

// post is a valid request with other bytes for some of its parts.
func post(line, headers, body string) string {
	if line == "" {
		line = "POST /mcp HTTP/1.1"
	}
	return line + "\r\nHost: gate.example:8443\r\n" + headers + "\r\n" + body
}

func TestRefused(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	line := func(target string) string { return "GET " + target + " HTTP/1.1" }
	tests := []struct {
		name, raw, code, status string
	}{
		{"D01 CL and TE", post("", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), "framing", "400"},
		{"D01 TE and CL", post("", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+hidden), "framing", "400"},
		{"D01 CL 0 and TE", post("", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", hidden), "framing", "400"},
		{"D01 TE chunked, identity", post("", "Transfer-Encoding: chunked, identity\r\n", hidden), "transfer_encoding", "501"},
		{"D01 TE xchunked", post("", "Transfer-Encoding: xchunked\r\n", hidden), "transfer_encoding", "501"},
		{"D01 TE empty", post("", "Transfer-Encoding:\r\n", hidden), "transfer_encoding", "501"},
		{"D01 TE twice", post("", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", hidden), "repeated_header", "400"},
		{"D01 TE with vertical tab", post("", "Transfer-Encoding: \vchunked\r\n", hidden), "header_value", "400"},
		{"D02 two lengths, equal", post("", "Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), "repeated_header", "400"},
		{"D02 two lengths, different", post("", "Content-Length: 2\r\ncontent-length: 4\r\n", "{}"), "repeated_header", "400"},
		{"D02 +3", post("", "Content-Length: +3\r\n", "abc"), "content_length", "400"},
		{"D02 -1", post("", "Content-Length: -1\r\n", ""), "content_length", "400"},
		{"D02 3, 3", post("", "Content-Length: 3, 3\r\n", "abc"), "content_length", "400"},
		{"D02 003", post("", "Content-Length: 003\r\n", "abc"), "content_length", "400"},
		{"D02 0x3", post("", "Content-Length: 0x3\r\n", "abc"), "content_length", "400"},
		{"D02 empty", post("", "Content-Length:\r\n", ""), "content_length", "400"},
		{"D02 beyond 64 bits", post("", "Content-Length: 18446744073709551618\r\n", "abc"), "body_length", "413"},
		{"D02 over the limit", post("", "Content-Length: 16777217\r\n", ""), "body_length", "413"},
		{"D03 obs-fold", post("", "X-A: b\r\n c\r\n", ""), "folded_header", "400"},
		{"D03 obs-fold by tab", post("", "X-A: b\r\n\tc\r\n", ""), "folded_header", "400"},
		{"D03 space before the first header", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", "folded_header", "400"},
		{"D03 bare LF", "GET / HTTP/1.1\nHost: x\n\n", "line_end", "400"},
		{"D03 one bare LF", "GET / HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", "line_end", "400"},
		{"D03 bare LF at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", "line_end", "400"},
		{"D03 space before the colon", post("", "X-A : b\r\n", ""), "header_name", "400"},
		{"D03 no colon", post("", "X-A\r\n", ""), "header_name", "400"},
		{"D03 no name", post("", ": b\r\n", ""), "header_name", "400"},
		{"D03 NUL in a value", post("", "X-A: b\x00c\r\n", ""), "header_value", "400"},
		{"D03 NUL in a name", post("", "X-\x00A: b\r\n", ""), "header_name", "400"},
		{"D03 bare CR in a value", post("", "X-A: b\rTransfer-Encoding: chunked\r\n", ""), "header_value", "400"},
		{"D03 CR CR LF", post("", "X-A: b\r\r\n", ""), "header_value", "400"},
		{"D03 ESC in a value", post("", "X-A: \x1b[2J\r\n", ""), "header_value", "400"},
		{"D03 non-ASCII in a value", post("", "X-A: é\r\n", ""), "header_value", "400"},
		{"D03 two spaces in the line", post("GET  / HTTP/1.1", "", ""), "request_line", "400"},
		{"D03 space behind the version", post("GET / HTTP/1.1 ", "", ""), "request_line", "400"},
		{"D03 tab in the line", post("GET\t/ HTTP/1.1", "", ""), "request_line", "400"},
		{"D03 no version", "GET /\r\n\r\n", "request_line", "400"},
		{"D03 HTTP/1.0", post("GET / HTTP/1.0", "", ""), "version", "505"},
		{"D03 HTTP/1.10", post("GET / HTTP/1.10", "", ""), "version", "505"},
		{"D03 http/1.1", post("GET / http/1.1", "", ""), "request_line", "400"},
		{"D03 empty line first", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "request_line", "400"},
		{"D03 lower-case method", post("get / HTTP/1.1", "", ""), "request_line", "400"},
		{"D03 method with a colon", post("GE:T / HTTP/1.1", "", ""), "request_line", "400"},
		{"D03 endless method", strings.Repeat("A", 40<<10), "target_length", "414"},
		{"D06 X_Agent_Id", post("", "X_Agent_Id: root\r\n", ""), "header_name", "400"},
		{"D06 dot in a name", post("", "X.Agent.Id: root\r\n", ""), "header_name", "400"},
		{"D05 Connection names a header", post("", "Connection: X-Agent-Id\r\nX-Agent-Id: a\r\n", ""), "connection_header", "400"},
		{"D05 Connection close and a header", post("", "Connection: close, X-Agent-Id\r\n", ""), "connection_header", "400"},
		{"D07 two Authorization", post("", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", ""), "repeated_header", "400"},
		{"D07 two Authorization in other case", post("", "Authorization: Bearer a\r\naUTHORIZATION: Bearer b\r\n", ""), "repeated_header", "400"},
		{"D07 joined Authorization", post("", "Authorization: Bearer a, Bearer b\r\n", ""), "header_list", "400"},
		{"D07 two Origin", post("", "Origin: https://a\r\nOrigin: https://b\r\n", ""), "repeated_header", "400"},
		{"D07 joined Origin", post("", "Origin: https://a, https://b\r\n", ""), "header_list", "400"},
		{"D07 two Content-Type", post("", "Content-Type: a/b\r\nContent-Type: c/d\r\n", ""), "repeated_header", "400"},
		{"D07 two Host", post("", "Host: other\r\n", ""), "repeated_header", "400"},
		{"D07 two of an unknown header", post("", "X-Anything: a\r\nX-Anything: a\r\n", ""), "repeated_header", "400"},
		{"B02 two Mcp-Method", post("", "Mcp-Method: tools/list\r\nMcp-Method: tools/call\r\n", ""), "repeated_header", "400"},
		{"B02 two Mcp-Name", post("", "Mcp-Name: a\r\nMcp-Name: b\r\n", ""), "repeated_header", "400"},
		{"B04 two Mcp-Param differing in case", post("", "Mcp-Param-X: a\r\nMcp-Param-x: a\r\n", ""), "repeated_header", "400"},
		{"B05 two versions", post("", "MCP-Protocol-Version: 2026-07-28, 2025-03-26\r\n", ""), "header_list", "400"},
		{"D08 h2c", post("", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""), "upgrade", "400"},
		{"D08 h2c without Connection", post("", "Upgrade: h2c\r\n", ""), "upgrade", "400"},
		{"D08 websocket", post("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""), "upgrade", "400"},
		{"D08 HTTP2-Settings alone", post("", "HTTP2-Settings: AAMAAABk\r\n", ""), "upgrade", "400"},
		{"D08 HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version", "505"},
		{"D09 CONNECT authority", post("CONNECT evil:443 HTTP/1.1", "", ""), "method", "405"},
		{"D09 CONNECT path", post("CONNECT /x/../admin HTTP/1.1", "", ""), "method", "405"},
		{"D09 TRACE", post("TRACE / HTTP/1.1", "", ""), "method", "405"},
		{"D10 absolute form", post(line("http://internal/"), "", ""), "absolute_target", "400"},
		{"D10 absolute form, same host", post(line("http://gate.example:8443/"), "", ""), "absolute_target", "400"},
		{"D10 asterisk", post("OPTIONS * HTTP/1.1", "", ""), "absolute_target", "400"},
		{"D10 no slash", post(line("mcp"), "", ""), "absolute_target", "400"},
		{"D11 no Host", "GET / HTTP/1.1\r\n\r\n", "host", "400"},
		{"D12 //admin", post(line("//admin"), "", ""), "path", "400"},
		{"D12 empty segment", post(line("/a//b"), "", ""), "path", "400"},
		{"D12 dot", post(line("/a/./b"), "", ""), "path", "400"},
		{"D12 dot dot", post(line("/a/../admin"), "", ""), "path", "400"},
		{"D12 dot dot at the end", post(line("/a/.."), "", ""), "path", "400"},
		{"D12 %2e%2e", post(line("/a/%2e%2e/admin"), "", ""), "path", "400"},
		{"D12 %2E", post(line("/a/%2E/admin"), "", ""), "path", "400"},
		{"D12 half escaped dots", post(line("/a/.%2e/admin"), "", ""), "path", "400"},
		{"D12 %2f", post(line("/a%2fadmin"), "", ""), "path", "400"},
		{"D12 %5c", post(line("/a%5cadmin"), "", ""), "path", "400"},
		{"D12 backslash", post(line(`/a\admin`), "", ""), "path", "400"},
		{"D12 ;x", post(line("/admin;x"), "", ""), "path", "400"},
		{"D12 %3b", post(line("/admin%3bx"), "", ""), "path", "400"},
		{"D12 %00", post(line("/a%00"), "", ""), "path", "400"},
		{"D12 double encoding", post(line("/a%252fadmin"), "", ""), "path", "400"},
		{"D12 escaped letter", post(line("/%61dmin"), "", ""), "path", "400"},
		{"D12 overlong slash", post(line("/a%c0%afadmin"), "", ""), "path", "400"},
		{"D12 half an escape", post(line("/a%2"), "", ""), "path", "400"},
		{"D12 bad escape", post(line("/a%zz"), "", ""), "path", "400"},
		{"D12 non-ASCII", post(line("/é"), "", ""), "path", "400"},
		{"D12 fragment", post(line("/a#b"), "", ""), "path", "400"},
		{"D12 fragment in the query", post(line("/a?b#c"), "", ""), "query", "400"},
		{"D12 NUL in the target", post(line("/a\x00"), "", ""), "path", "400"},
		{"D13 semicolon in the query", post(line("/a?a=1;b=2"), "", ""), "query", "400"},
		{"D13 bad escape in the query", post(line("/a?a=%zz"), "", ""), "query", "400"},
		{"D13 NUL in the query", post(line("/a?a=%00"), "", ""), "query", "400"},
		{"limits: target", post(line("/"+strings.Repeat("a", 8<<10)), "", ""), "target_length", "414"},
		{"limits: endless target", "GET /" + strings.Repeat("a", 9<<10), "target_length", "414"},
		{"limits: head", post("", "X-A: "+strings.Repeat("a", 33<<10)+"\r\n", ""), "head_length", "431"},
		{"limits: endless head", "GET / HTTP/1.1\r\nX-A: " + strings.Repeat("a", 40<<10), "head_length", "431"},
		{"limits: fields", post("", manyFields(100), ""), "header_count", "431"},
		{"limits: name", post("", strings.Repeat("a", 129)+": b\r\n", ""), "header_name", "400"},
		{"framing: Trailer", post("", "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n", "0\r\n\r\n"), "trailer", "400"},
		{"framing: Expect", post("", "Expect: 200-ok\r\nContent-Length: 2\r\n", "{}"), "expect", "417"},
		{"TLS hello on a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "request_line", "400"},
	}
	w := newWorld(t, Standard())
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answers, closed := send(t, w.addr, tt.raw, 2)
			if len(answers) != 1 || !closed {
				t.Fatalf("%d answers, closed %v", len(answers), closed)
			}
			if !strings.HasPrefix(answers[0].Status, tt.status+" ") {
				t.Errorf("status %q, want %s", answers[0].Status, tt.status)
			}
			body, _ := io.ReadAll(answers[0].Body)
			if !strings.HasPrefix(string(body), "ostiary: "+tt.code+": ") {
				t.Errorf("body %q, want the code %s", body, tt.code)
			}
			served, refused := w.seen()
			if len(served) != 0 {
				t.Fatalf("the handler was reached: %+v", served)
			}
			if len(refused) != i+1 || refused[i] != tt.code {
				t.Errorf("reported %q", refused[min(i, len(refused)):])
			}
		})
	}
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: a\r\n", i)
	}
	return b.String()
}

// D11: what may stand in Host.
func TestD11Host(t *testing.T) {
	for h, want := range map[string]bool{
		"x": true, "gate.example": true, "gate.example:8443": true, "127.0.0.1:80": true, "[::1]": true, "[::1]:8080": true,
		"a_b.internal:1": true, "[::ffff:10.0.0.1]": true,
		"": false, ".": false, "x.": false, ".x": false, "a..b": false, "x?y": false, "x#y": false, "x/y": false, "u@x": false,
		"a b": false, "a,b": false, "x:": false, "x:0": false, "x:080": false, "x:65536": false, "x:-1": false, "x:1:2": false,
		"::1": false, "[::1": false, "[x]": false, "[]": false, "[1]": false, "x%2e": false, "[fe80::1%25eth0]": false,
		"[::1]x": false, "[::1]:": false, "*": false, "é": false, strings.Repeat("a", 254): false,
	} {
		if got := validHost([]byte(h)); got != want {
			t.Errorf("%q: %v", h, got)
		}
	}
}

func TestServed(t *testing.T) {
	tests := []struct {
		name, raw, target, body string
	}{
		{"plain", post("GET /mcp/inbox HTTP/1.1", "Accept: application/json, text/event-stream\r\nAccept: */*\r\n", ""), "/mcp/inbox", ""},
		{"root and query", post("GET /?code=a%20b&state=x/y?z HTTP/1.1", "", ""), "/?code=a%20b&state=x/y?z", ""},
		{"needed escapes", post("GET /a%20b/c%5B1%5D HTTP/1.1", "", ""), "/a%20b/c%5B1%5D", ""},
		{"slash at the end, dots in names", post("GET /a/.b/..c/d../ HTTP/1.1", "", ""), "/a/.b/..c/d../", ""},
		{"length", post("", "Content-Length: 2\r\nMcp-Name: a,b\r\n", "{}"), "/mcp", "{}"},
		{"keep-alive", post("", "Connection: keep-alive\r\nContent-Length: 2\r\n", "{}"), "/mcp", "{}"},
		{"empty body", post("", "Content-Length: 0\r\n", ""), "/mcp", ""},
		{"chunked", post("", "Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0A\r\n0123456789\r\n0\r\n\r\n"), "/mcp", "{}0123456789"},
		{"chunked, empty", post("", "Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"), "/mcp", ""},
		{"continue", post("", "Expect: 100-continue\r\nContent-Length: 2\r\n", "{}"), "/mcp", "{}"},
		{"99 fields", post("", manyFields(99), ""), "/mcp", ""},
		{"large head", post("", "X-A: "+strings.Repeat("a", 30<<10)+"\r\nContent-Length: 1\r\n", "x"), "/mcp", "x"},
		{"large body", post("", "Content-Length: 100000\r\n", strings.Repeat("x", 100000)), "/mcp", strings.Repeat("x", 100000)},
	}
	check := func(t *testing.T, s served, target, body string) {
		t.Helper()
		if s.target != target || s.body != body || s.err != nil || s.host != "gate.example:8443" {
			t.Errorf("served %q, body of %d bytes, host %q, %v", s.target, len(s.body), s.host, s.err)
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, Standard())
			n := 1
			if tt.name == "continue" {
				n = 2 // http.ReadResponse shows the interim answer too
			}
			answers, closed := send(t, w.addr, tt.raw, n)
			if len(answers) != n || closed || answers[n-1].StatusCode != 200 {
				t.Fatalf("%+v, closed %v", answers, closed)
			}
			served, refused := w.seen()
			if len(served) != 1 || len(refused) != 0 {
				t.Fatalf("%+v, %q", served, refused)
			}
			check(t, served[0], tt.target, tt.body)
		})
	}
	t.Run("all pipelined", func(t *testing.T) {
		w := newWorld(t, Standard())
		var raw strings.Builder
		for _, tt := range tests {
			if tt.name != "continue" {
				raw.WriteString(tt.raw)
			}
		}
		answers, closed := send(t, w.addr, raw.String(), len(tests)-1)
		served, refused := w.seen()
		if len(answers) != len(tests)-1 || closed || len(served) != len(tests)-1 || len(refused) != 0 {
			t.Fatalf("%d answers, %d served, closed %v, %q", len(answers), len(served), closed, refused)
		}
		i := 0
		for _, tt := range tests {
			if tt.name != "continue" {
				check(t, served[i], tt.target, tt.body)
				i++
			}
		}
	})
	t.Run("byte by byte", func(t *testing.T) {
		w := newWorld(t, Standard())
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw := tests[7].raw + tests[4].raw
		for i := range len(raw) {
			if _, err := io.WriteString(c, raw[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		br := bufio.NewReader(c)
		for range 2 {
			res, err := http.ReadResponse(br, nil)
			if err != nil || res.StatusCode != 200 {
				t.Fatal(res, err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
		}
		served, _ := w.seen()
		check(t, served[0], tests[7].target, tests[7].body)
		check(t, served[1], tests[4].target, tests[4].body)
	})
}

// A refused head behind a good one: the good one is answered, whole and
// first, and its handler is not disturbed.
func TestRefusedAfterServed(t *testing.T) {
	limits := Standard()
	refused := make(chan string, 1)
	limits.Refused = func(_, code string) { refused <- code }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// net/http reads ahead while this waits, and meets the bad head.
		if code := <-refused; code != "upgrade" {
			t.Errorf("refused %q", code)
		}
		for range 100 {
			if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
				t.Error(err)
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
		if err := r.Context().Err(); err != nil {
			t.Error("the call in progress was cancelled:", err)
		}
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(NewListener(l, limits)) }()
	answers, closed := send(t, l.Addr().String(), post("GET / HTTP/1.1", "", "")+post("", "Upgrade: h2c\r\n", ""), 3)
	if len(answers) != 2 || !closed {
		t.Fatalf("%d answers, closed %v", len(answers), closed)
	}
	body, _ := io.ReadAll(answers[0].Body)
	if answers[0].StatusCode != 200 || len(body) != 100000 || answers[1].StatusCode != 400 {
		t.Errorf("%s with %d bytes, then %s", answers[0].Status, len(body), answers[1].Status)
	}
	_ = srv.Close()
	<-done
}

// D04: a body that does not arrive whole, or is framed badly, never ends as
// if it had.
func TestD04Bodies(t *testing.T) {
	const te = "Transfer-Encoding: chunked\r\n"
	tests := []struct{ name, raw string }{
		{"D04 cut in a length", post("", "Content-Length: 10\r\n", "12345")},
		{"D04 cut in a chunk", post("", te, "5\r\n123")},
		{"D04 cut after a chunk's data", post("", te, "5\r\n12345")},
		{"D04 cut after a chunk", post("", te, "5\r\n12345\r\n")},
		{"D04 cut in a size", post("", te, "5")},
		{"D04 cut before the end", post("", te, "5\r\n12345\r\n0\r\n")},
		{"D04 cut after CR", post("", te, "5\r\n12345\r\n0\r\n\r")},
		{"D04 chunk extension", post("", te, "5;a=b\r\n12345\r\n0\r\n\r\n")},
		{"D04 chunk extension with bare LF", post("", te, "5;a\n12345\r\n0\r\n\r\n")},
		{"D04 size with bare LF", post("", te, "5\n12345\r\n0\r\n\r\n")},
		{"D04 space behind the size", post("", te, "5 \r\n12345\r\n0\r\n\r\n")},
		{"D04 0x5", post("", te, "0x5\r\n12345\r\n0\r\n\r\n")},
		{"D04 -5", post("", te, "-5\r\n12345\r\n0\r\n\r\n")},
		{"D04 no size", post("", te, "\r\n12345\r\n0\r\n\r\n")},
		{"D04 size too long", post("", te, "00000005\r\n12345\r\n0\r\n\r\n")},
		{"D04 size over the limit", post("", te, "fffffff\r\n12345\r\n0\r\n\r\n")},
		{"D04 data longer than its size", post("", te, "5\r\n123456\r\n0\r\n\r\n")},
		{"D04 bare LF after data", post("", te, "5\r\n12345\n0\r\n\r\n")},
		{"D04 trailer", post("", te, "5\r\n12345\r\n0\r\nX-Agent-Id: root\r\n\r\n")},
		{"D04 bare LF at the end", post("", te, "5\r\n12345\r\n0\r\n\n")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, Standard())
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.WriteString(c, tt.raw); err != nil {
				t.Fatal(err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, c)
			served, _ := w.seen()
			if len(served) != 1 || served[0].err == nil {
				t.Fatalf("the body ended well: %+v", served)
			}
		})
	}
}

func TestD04StalledUpload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	srv := &http.Server{ReadTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		got <- err
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(NewListener(l, Standard())) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, post("", "Content-Length: 10\r\n", "12345")); err != nil {
		t.Fatal(err)
	}
	var ne net.Error
	if err := <-got; !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %v, want a time-out", err)
	}
	_ = srv.Close()
	<-done
}

// A head that stalls meets the server's deadline, one that drips meets ours.
func TestR01SlowHeads(t *testing.T) {
	t.Run("stalled", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{ReadHeaderTimeout: 50 * time.Millisecond, Handler: http.NotFoundHandler()}
		done := make(chan error)
		go func() { done <- srv.Serve(NewListener(l, Standard())) }()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "GET / HT"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		_ = srv.Close()
		<-done
	})
	t.Run("dripping", func(t *testing.T) {
		limits := Standard()
		limits.Arrival = time.Nanosecond
		far := &script{reads: []string{"GET / HTTP/1.1\r\n", "Host: x", "\r\n", "\r\n"}}
		c := &conn{Conn: far, limits: limits, buffers: &buffers{}}
		b, err := io.ReadAll(c)
		if len(b) != 0 || err != nil || !strings.HasPrefix(far.written.String(), "HTTP/1.1 408 ") {
			t.Errorf("%q, %v, %q", b, err, far.written.String())
		}
	})
}

// A deadline in the middle of a head loses nothing: the server interrupts its
// reading ahead that way.
func TestInterruptedHead(t *testing.T) {
	far := &script{reads: []string{"GET / HTTP/1.1\r\nHo", "", "st: x\r\n\r", "", "\n"}}
	c := &conn{Conn: far, limits: Standard(), buffers: &buffers{}}
	var got bytes.Buffer
	p := make([]byte, 7)
	for range 100 {
		n, err := c.Read(p)
		got.Write(p[:n])
		if err == io.EOF {
			break
		}
	}
	if got.String() != "GET / HTTP/1.1\r\nHost: x\r\n\r\n" || far.written.Len() != 0 {
		t.Errorf("%q, %q", got.String(), far.written.String())
	}
}

func TestZeroLimitsRefuse(t *testing.T) {
	w := newWorld(t, Limits{})
	answers, closed := send(t, w.addr, post("GET / HTTP/1.1", "", ""), 2)
	served, _ := w.seen()
	if len(answers) != 1 || answers[0].StatusCode < 400 || !closed || len(served) != 0 {
		t.Errorf("%v, closed %v, %+v", answers, closed, served)
	}
}

// The answer arrives even if the far side is still sending.
func TestAnswerSurvivesAnUpload(t *testing.T) {
	w := newWorld(t, Standard())
	for range 20 {
		answers, _ := send(t, w.addr, post("", "Content-Length: 3, 3\r\n", strings.Repeat("x", 60<<10)), 1)
		if len(answers) != 1 || answers[0].StatusCode != 400 {
			t.Fatal(answers)
		}
	}
}

func TestShutdownClosesIdleConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	done := make(chan error)
	go func() { done <- srv.Serve(NewListener(l, Standard())) }()
	if answers, closed := send(t, l.Addr().String(), post("GET / HTTP/1.1", "", ""), 1); len(answers) != 1 || closed {
		t.Fatal(answers, closed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	<-done
}

// script is a far side that sends what it is told, one piece per Read; an
// empty piece is a time-out.
type script struct {
	net.Conn
	reads   []string
	written bytes.Buffer
}

type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func (s *script) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.reads[0])
	if s.reads[0] == "" {
		s.reads = s.reads[1:]
		return 0, timeout{errors.New("time-out")}
	}
	if s.reads[0] = s.reads[0][n:]; s.reads[0] == "" {
		s.reads = s.reads[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)     { return s.written.Write(p) }
func (s *script) SetDeadline(time.Time) error     { return nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }
func (s *script) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
