package bridge

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// client is the local end of a bridge on stdio.
type client struct {
	t    *testing.T
	in   *io.PipeWriter
	out  *bufio.Reader
	done chan error
}

func (w *world) stdio(t *testing.T, endpoint string) *client {
	t.Helper()
	b := w.open(t)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &client{t, inW, bufio.NewReader(outR), make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		err := b.Stdio(ctx, endpoint, inR, outW)
		outW.Close()
		c.done <- err
	}()
	t.Cleanup(func() { inW.Close(); outR.Close(); cancel() })
	return c
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hear() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatal("the bridge said nothing: ", err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := c.hear(); got != want {
		c.t.Fatalf("heard %s\n want %s", got, want)
	}
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func reply(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, text)
}

func TestBytesGoUntouched(t *testing.T) {
	type seen struct {
		body string
		h    http.Header
	}
	got := make(chan seen, 1)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{string(b), r.Header.Clone()}
		reply(rw, "{\"jsonrpc\":\"2.0\",\r\n \"id\":\"a\",\n\"result\":{\"x\":\"1\\n2\"}}\n")
	})
	c := w.stdio(t, "/mcp/bank")
	line := `{"jsonrpc":"2.0" , "id":"a","method":"tools/call","params":{"arguments":{ "n":1e2,"ü":"\u00fc"},"name":"pay é",` + modernMeta + `}}`
	c.say(line)
	c.expect(`{"jsonrpc":"2.0",   "id":"a", "result":{"x":"1\n2"}} `)
	s := <-got
	if s.body != line {
		t.Fatalf("sent %s", s.body)
	}
	for name, want := range map[string]string{
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "=?base64?cGF5IMOp?=",
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Session-Id": "", "Authorization": "",
	} {
		if s.h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, s.h.Get(name), want)
		}
	}

	t.Run("what is not a message is refused by the gateway, not here", func(t *testing.T) {
		bad := `{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}`
		c.say(bad)
		if s := <-got; s.body != bad {
			t.Fatalf("sent %s", s.body)
		}
		c.hear()
	})
	t.Run("names", func(t *testing.T) {
		for method, params := range map[string]string{"prompts/get": `"name":"n"`, "resources/read": `"uri":"n"`, "tasks/get": `"taskId":"n"`, "tools/list": `"cursor":"c"`} {
			c.say(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `,` + modernMeta + `}}`)
			want := "n"
			if method == "tools/list" {
				want = ""
			}
			if s := <-got; s.h.Get("Mcp-Name") != want || s.h.Get("Mcp-Method") != method {
				t.Errorf("%s: %q %q", method, s.h.Get("Mcp-Name"), s.h.Get("Mcp-Method"))
			}
			c.hear()
		}
	})
}

func TestMarkedArguments(t *testing.T) {
	var lists atomic.Int32
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
			Params struct{ Cursor string }
		}
		json.NewDecoder(r.Body).Decode(&m)
		if m.Method == "tools/list" {
			lists.Add(1)
			if m.Params.Cursor == "" {
				reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"tools":[],"nextCursor":"2"}}`)
				return
			}
			reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"tools":[{"name":"pay","inputSchema":{"type":"object","properties":{
				"to":{"type":"string","x-mcp-header":"To"},"cents":{"type":"integer","x-mcp-header":"Cents"},"o":{"type":"object","properties":{"dry":{"type":"boolean","x-mcp-header":"Dry"}}}}}}]}}`)
			return
		}
		if r.Header.Get("Mcp-Param-Cents") == "" {
			rw.WriteHeader(400)
			reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32020,"message":"missing"}}`)
			return
		}
		reply(rw, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"h":"%s %s %s"}}`, m.ID, r.Header.Get("Mcp-Param-To"), r.Header.Get("Mcp-Param-Cents"), r.Header.Get("Mcp-Param-Dry")))
	})
	c := w.stdio(t, "/mcp")
	for range 2 {
		c.say(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay","arguments":{"to":" x","cents":100,"o":{"dry":true}},` + modernMeta + `}}`)
		c.expect(`{"jsonrpc":"2.0","id":7,"result":{"h":"=?base64?IHg=?= 100 true"}}`)
	}
	if lists.Load() != 2 {
		t.Errorf("listed %d pages", lists.Load())
	}
	// A mismatch that a list does not cure is the client's to see.
	c.say(`{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"other","arguments":{},` + modernMeta + `}}`)
	c.expect(`{"jsonrpc":"2.0","id":8,"error":{"code":-32020,"message":"missing"}}`)
}

func TestStreamsAndRefusals(t *testing.T) {
	began, gone := make(chan struct{}, 8), make(chan struct{}, 8)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		var m struct{ Method string }
		json.NewDecoder(r.Body).Decode(&m)
		switch m.Method {
		case "stream":
			rw.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(rw, ": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n")
			rw.(http.Flusher).Flush()
			io.WriteString(rw, "data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n")
		case "cut":
			rw.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(rw, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
		case "slow":
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.(http.Flusher).Flush()
			began <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
		case "noise":
			reply(rw, "{}\n{}")
		case "two":
			reply(rw, `{"jsonrpc":"2.0","id":1,"result":{}} {"jsonrpc":"2.0","id":1,"result":{}}`)
		case "plain":
			http.Error(rw, "no", http.StatusServiceUnavailable)
		case "nullid":
			rw.WriteHeader(http.StatusForbidden)
			reply(rw, `{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"no","data":{"entry":"2026-11/3"}}}`)
		case "redirect":
			http.Redirect(rw, r, "/mcp/bank", http.StatusTemporaryRedirect)
		}
	})
	c := w.stdio(t, "/mcp")
	say := func(method string) {
		c.say(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + modernMeta + `}}`)
	}
	say("stream")
	c.expect(`{"jsonrpc":"2.0","method":"notifications/progress","params":{}}`)
	c.expect(`{"jsonrpc":"2.0", "id":1,"result":{}}`)
	say("nullid")
	c.expect(`{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no","data":{"entry":"2026-11/3"}}}`)
	for _, method := range []string{"noise", "two", "plain", "cut"} {
		say(method)
		if method == "cut" {
			c.hear()
		}
		if got := c.hear(); !strings.Contains(got, `"id":1,"error":{"code":-32603`) {
			t.Errorf("%s: %s", method, got)
		}
	}
	t.Run("cancelled by closing the response", func(t *testing.T) {
		say("slow")
		<-began
		before := strings.Count(w.asked(), "POST /mcp")
		c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
		<-gone
		say("stream") // and no answer to the cancelled one comes in between
		c.hear()
		c.expect(`{"jsonrpc":"2.0", "id":1,"result":{}}`)
		if after := strings.Count(w.asked(), "POST /mcp"); after != before+1 {
			t.Errorf("%d posts, not 1: the notification was sent on", after-before)
		}
	})
	t.Run("too long a line", func(t *testing.T) {
		c.say(`{"jsonrpc":"2.0","id":1,"method":"x","params":{"x":"` + strings.Repeat("a", maxLine) + `"}}`)
		if got := c.hear(); !strings.Contains(got, `"id":null,"error":{"code":-32600`) {
			t.Error(got)
		}
		say("stream")
		c.hear()
		c.hear()
	})
	t.Run("stdin closes", func(t *testing.T) {
		say("slow")
		<-began
		c.in.Close()
		<-gone
		if err := <-c.done; err != nil {
			t.Fatal(err)
		}
	})
}

// A script writes its requests and closes: the answers still come.
func TestScript(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		reply(rw, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	})
	b := w.open(t)
	var out strings.Builder
	in := strings.NewReader("\n\r\n" + `{"jsonrpc":"2.0","id":1,"method":"ping"}`) // blank lines, and no end of line
	if err := b.Stdio(t.Context(), "/mcp", in, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != `{"jsonrpc":"2.0","id":1,"result":{}}`+"\n" {
		t.Fatal(out.String())
	}
	if err := b.Stdio(t.Context(), "/admin", in, &out); err == nil {
		t.Fatal("another endpoint")
	}
}

// legacy is a gateway that keeps sessions and can forget them.
type legacy struct {
	mu     sync.Mutex
	id     string
	opened int
	log    []string
}

func (l *legacy) serve(rw http.ResponseWriter, r *http.Request) {
	var m struct {
		ID     json.RawMessage
		Method string
	}
	json.NewDecoder(r.Body).Decode(&m)
	l.mu.Lock()
	l.log = append(l.log, r.Method+" "+m.Method+" "+r.Header.Get("Mcp-Session-Id")+" "+r.Header.Get("Mcp-Protocol-Version"))
	if m.Method == "initialize" {
		l.opened++
		l.id = fmt.Sprintf("s%d", l.opened)
		rw.Header().Set("Mcp-Session-Id", l.id)
	}
	known := r.Header.Get("Mcp-Session-Id") == l.id || m.Method == "initialize"
	l.mu.Unlock()
	switch {
	case !known:
		rw.WriteHeader(http.StatusNotFound)
		reply(rw, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no session"}}`)
	case r.Method == "GET":
		rw.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(rw, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n")
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.Method == "DELETE":
		l.mu.Lock()
		l.id = ""
		l.mu.Unlock()
	case m.Method == "initialize":
		reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}`)
	case m.Method == "unknown":
		rw.WriteHeader(http.StatusNotFound)
		reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32601,"message":"no method"}}`)
	case m.ID == nil || m.Method == "":
		rw.WriteHeader(http.StatusAccepted)
	default:
		reply(rw, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{}}`)
	}
}

func TestLegacySession(t *testing.T) {
	l := &legacy{}
	w := newWorld(t, l.serve)
	c := w.stdio(t, "/mcp")
	c.say(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
	c.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	c.expect(`{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}`)
	c.expect(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`) // on the stream
	c.say(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	c.expect(`{"jsonrpc":"2.0","id":1,"result":{}}`)
	c.say(`{"jsonrpc":"2.0","id":"s","result":{}}`) // an answer to something the server asked
	c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	c.say(`{"jsonrpc":"2.0","id":2,"method":"unknown"}`)
	c.expect(`{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"no method"}}`)

	l.mu.Lock()
	l.id = "" // the gateway starts again
	l.mu.Unlock()
	c.say(`{"jsonrpc":"2.0","id":3,"method":"ping"}`)
	c.expect(`{"jsonrpc":"2.0","id":3,"result":{}}`)
	c.in.Close()
	if err := <-c.done; err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var posts []string
	for _, s := range l.log {
		if !strings.HasPrefix(s, "GET") {
			posts = append(posts, s)
		}
	}
	want := []string{
		"POST initialize  ", "POST notifications/initialized s1 2025-11-25", "POST ping s1 2025-11-25", "POST  s1 2025-11-25",
		"POST notifications/cancelled s1 2025-11-25", "POST unknown s1 2025-11-25",
		"POST ping s1 2025-11-25", "POST initialize  ", "POST notifications/initialized s2 2025-11-25", "POST ping s2 2025-11-25",
		"DELETE  s2 2025-11-25",
	}
	if strings.Join(posts, "\n") != strings.Join(want, "\n") {
		t.Fatalf("sent\n%s\nwant\n%s", strings.Join(posts, "\n"), strings.Join(want, "\n"))
	}
	if l.id != "" {
		t.Error("the session was not given up")
	}
}

// A stream that is refused for good is asked for once.
func TestRefusedStream(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusMethodNotAllowed} {
		var asked atomic.Int32
		w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			rw.WriteHeader(status)
		})
		p := &pipe{b: w.open(t), ready: make(chan struct{}, 1), out: io.Discard}
		p.url = p.b.gateway + "/mcp"
		p.session = session{id: "s"}
		p.initialized([]byte("{}"))
		p.listen(t.Context()) // returns by itself
		if asked.Load() != 1 {
			t.Errorf("%d: asked %d times", status, asked.Load())
		}
	}
}

// A client learns that its agent was revoked, and that nothing happened.
func TestRevokedAgent(t *testing.T) {
	w := newWorld(t, nothing)
	b := w.open(t)
	if _, err := w.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokeAgent, Subject: string(b.Agent())}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := b.Stdio(t.Context(), "/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "was not carried out: enrol the agent again") {
		t.Fatal(out.String())
	}
}

// An unmodified client of the official SDK, through a bridge on stdio and on
// loopback, to a server of the official SDK behind mutual TLS.
func TestSDK(t *testing.T) {
	server := sdk.NewServer(&sdk.Implementation{Name: "bank", Version: "1"}, nil)
	type in struct {
		To string `json:"to"`
	}
	sdk.AddTool(server, &sdk.Tool{Name: "greet"}, func(ctx context.Context, r *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
		if r.Session.InitializeParams() != nil && r.Session.InitializeParams().ProtocolVersion != "2026-07-28" {
			e, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Mode: "form", Message: "sure?", RequestedSchema: map[string]any{"type": "object"}})
			if err != nil {
				return nil, nil, err
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "hello " + a.To + " " + e.Action}}}, nil, nil
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "hello " + a.To + " accept"}}}, nil, nil
	})
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		for _, way := range []string{"stdio", "loopback"} {
			t.Run(version+" "+way, func(t *testing.T) {
				handler := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: version == "2026-07-28"})
				w := newWorld(t, handler.ServeHTTP)
				var transport sdk.Transport
				if way == "stdio" {
					c := w.stdio(t, "/mcp")
					transport = &sdk.IOTransport{Reader: io.NopCloser(c.out), Writer: c.in}
				} else {
					transport = &sdk.StreamableClientTransport{Endpoint: "http://" + w.loopback(t) + "/mcp"}
				}
				client := sdk.NewClient(&sdk.Implementation{Name: "agent", Version: "1"}, &sdk.ClientOptions{
					ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
						return &sdk.ElicitResult{Action: "accept", Content: map[string]any{}}, nil
					},
				})
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				s, err := client.Connect(ctx, transport, &sdk.ClientSessionOptions{ProtocolVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if got := s.InitializeResult().ProtocolVersion; got != version {
					t.Errorf("speaks %s", got)
				}
				if tools, err := s.ListTools(ctx, nil); err != nil || len(tools.Tools) != 1 {
					t.Fatal(tools, err)
				}
				r, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "greet", Arguments: map[string]any{"to": "dana"}})
				if err != nil {
					t.Fatal(err)
				}
				if text := r.Content[0].(*sdk.TextContent).Text; text != "hello dana accept" {
					t.Fatal(text)
				}
			})
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("a\nb\r\n\n c")
	f.Fuzz(func(t *testing.T, text string) {
		var got []string
		if err := readLines(strings.NewReader(text), func(line []byte) bool {
			got = append(got, string(line))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.SplitSeq(text, "\n") {
			if line = strings.TrimSuffix(line, "\r"); strings.TrimSpace(line) != "" {
				want = append(want, line)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%q: %q, want %q", text, got, want)
			}
		}
	})
}

// An id that was used again at once, as the answer was still being put away,
// names the new request too; another id, or the same digits as text, does not.
func TestCancelledIDs(t *testing.T) {
	doc, err := strictjson.Parse([]byte(`1`), strictjson.Request)
	if err != nil {
		t.Fatal(err)
	}
	stopped := map[string]int{}
	p := &pipe{version: mcpwire.Version20260728, inflight: map[*flight]struct{}{}}
	for _, k := range []string{`1`, `1`, `2`, `"1`, ``} {
		p.inflight[&flight{k, func() { stopped[k]++ }}] = struct{}{}
	}
	if id := doc.Root(); !p.cancelled(id) || stopped[`1`] != 2 || len(stopped) != 1 {
		t.Errorf("%v", stopped)
	}
}
