package egress

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
	"github.com/ostiary/ostiary/verify"
)

// codeOf returns the code of an error, and whether nothing was sent.
func codeOf(err error) (string, bool) {
	if err == nil {
		return "", false
	}
	return ostiary.AsError(err).Code, errors.Is(err, gate.ErrNotSent)
}

// sdkServer is the official SDK's server with an echo tool that reports
// progress, and one that asks back.
func sdkServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "sdk", Version: "1"}, nil)
	type in struct {
		Text string `json:"text"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(ctx context.Context, r *mcp.CallToolRequest, a in) (*mcp.CallToolResult, any, error) {
		if tok := r.Params.GetProgressToken(); tok != nil {
			r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: tok, Progress: 1})
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "echo " + a.Text}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "ask"}, func(ctx context.Context, r *mcp.CallToolRequest, _ in) (*mcp.CallToolResult, any, error) {
		if err := r.Session.Ping(ctx, nil); err != nil {
			return nil, nil, err
		}
		res, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "sure?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{}}})
		if err != nil {
			return nil, nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "answered " + res.Action}}}, nil, nil
	})
	s.AddResource(&mcp.Resource{URI: "mem://a", Name: "a"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: "mem://a", Text: "hello"}}}, nil
	})
	return s
}

func sdkHTTP(t testing.TB, o *mcp.StreamableHTTPOptions) *httptest.Server {
	s := sdkServer()
	srv := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, o))
	t.Cleanup(srv.Close)
	return srv
}

// The official SDK's server, in both eras and both forms of reply.
func TestSDK(t *testing.T) {
	for name, c := range map[string]struct {
		options  mcp.StreamableHTTPOptions
		protocol string
	}{
		"2026-07-28 stream": {mcp.StreamableHTTPOptions{Stateless: true}, "2026-07-28"},
		"2026-07-28 JSON":   {mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}, "2026-07-28"},
		"legacy stream":     {mcp.StreamableHTTPOptions{}, "2025-11-25"},
		"legacy JSON":       {mcp.StreamableHTTPOptions{JSONResponse: true}, "2025-11-25"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := sdkHTTP(t, &c.options)
			e := newEgress(t, Options{Servers: []Server{local(srv.URL)}})
			for i := range 3 {
				f, err := result(t, e, toolCall(t, "srv", "echo", fmt.Sprintf(`{"text":"%d"}`, i)))
				if err != nil || f.Kind != gate.FrameResult || !f.Body.Get("content").Exists() || !strings.Contains(string(f.Body.Bytes()), fmt.Sprintf("echo %d", i)) {
					t.Fatalf("%+v %s %v", f.Kind, f.Body.Bytes(), err)
				}
			}
			list := gate.Call{Action: ostiary.Action{Name: "discover_server", Method: "tools/list", Server: "srv"}}
			if f, err := result(t, e, list); err != nil || f.Body.Get("tools").Len() != 2 {
				t.Errorf("tools/list: %s %v", f.Body.Bytes(), err)
			}
			read := gate.Call{Action: ostiary.Action{Name: "read_resource", Method: "resources/read", Server: "srv", URI: "mem://a", Arguments: arg(t, `{"uri":"mem://a","_meta":{"progressToken":"theirs"}}`)}}
			if f, err := result(t, e, read); err != nil || !strings.Contains(string(f.Body.Bytes()), "hello") {
				t.Errorf("resources/read: %s %v", f.Body.Bytes(), err)
			}
			if f, err := result(t, e, toolCall(t, "srv", "nothing", `{}`)); err != nil || f.Kind != gate.FrameError {
				t.Errorf("unknown tool: %v %v", f.Kind, err)
			}
			h := e.Health()[0]
			if h.Protocol != c.protocol || h.State != "ready" || h.Calls != 6 || h.Dropped != 0 {
				t.Errorf("health: %+v", h)
			}
		})
	}
}

func TestSDKProgressAndAsking(t *testing.T) {
	srv := sdkHTTP(t, &mcp.StreamableHTTPOptions{})
	e := newEgress(t, Options{Servers: []Server{local(srv.URL)}, Capabilities: `{"elicitation":{}}`})
	progress := toolCall(t, "srv", "echo", `{"text":"x"}`)
	progress.Progress = true
	var kinds []gate.FrameKind
	s, err := e.Forward(t.Context(), gatetest.Clear(progress))
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := s.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, f.Kind)
	}
	if fmt.Sprint(kinds) != fmt.Sprint([]gate.FrameKind{gate.FrameNotification, gate.FrameResult}) {
		t.Errorf("frames: %v", kinds)
	}

	s, err = e.Forward(t.Context(), gatetest.Clear(toolCall(t, "srv", "ask", `{"text":""}`)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Next(t.Context())
	if err != nil || f.Kind != gate.FrameRequest || f.Method != "elicitation/create" {
		t.Fatalf("%+v %v", f, err)
	}
	if err := s.Answer(t.Context(), "999", gate.FrameResult, []byte(`{}`)); ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("answer to nothing: %v", err)
	}
	if err := s.Answer(t.Context(), f.ID, gate.FrameResult, []byte(`{"action":"decline"}`)); err != nil {
		t.Fatal(err)
	}
	if err := s.Answer(t.Context(), f.ID, gate.FrameResult, []byte(`{"action":"accept"}`)); ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("second answer: %v", err)
	}
	if f, err = s.Next(t.Context()); err != nil || !strings.Contains(string(f.Body.Bytes()), "answered decline") {
		t.Errorf("%s %v", f.Body.Bytes(), err)
	}
	s.Close()

	// B07: what was not declared never reaches the caller.
	e = newEgress(t, Options{Servers: []Server{local(srv.URL)}})
	if f, err := result(t, e, toolCall(t, "srv", "ask", `{"text":""}`)); err != nil || !strings.Contains(string(f.Body.Bytes()), `"isError":true`) {
		t.Errorf("B07: %s %v", f.Body.Bytes(), err)
	}
}

// A17: callers choose equal ids and share connections; each gets its own
// reply. Our ids are all that goes upstream.
func TestA17CollidingCallers(t *testing.T) {
	for name, o := range map[string]mcp.StreamableHTTPOptions{"modern": {Stateless: true}, "legacy": {}} {
		t.Run("A17 "+name, func(t *testing.T) {
			srv := sdkHTTP(t, &o)
			e := newEgress(t, Options{Servers: []Server{local(srv.URL)}})
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() {
					text := "caller-" + strconv.Itoa(i)
					f, err := result(t, e, toolCall(t, "srv", "echo", `{"text":"`+text+`"}`))
					if err != nil || !strings.Contains(string(f.Body.Bytes()), `"echo `+text+`"`) {
						t.Errorf("%s got %s %v", text, f.Body.Bytes(), err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// Sessions of a legacy server: one for each of ours, renewed with the next
// call, never by sending the same call again.
func TestLegacySessions(t *testing.T) {
	var generation atomic.Int64
	name := func() string { return "session-" + strconv.FormatInt(generation.Load(), 10) }
	rec := newRecorder(t, legacy(name, func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	call := func() error { _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); return err }
	for range 3 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(rec.all("initialize")); n != 1 {
		t.Errorf("%d handshakes", n)
	}
	got := rec.all("tools/call")[0]
	if got.header.Get("Mcp-Protocol-Version") != "2025-11-25" || got.header.Get("Mcp-Session-Id") != "session-0" || got.header.Get("Mcp-Method") != "" || strings.Contains(got.body, "_meta") {
		t.Errorf("%+v", got)
	}
	generation.Add(1) // the server restarts
	if code, unsent := codeOf(call()); code != "session_ended" || unsent {
		t.Errorf("got %s %v", code, unsent)
	}
	if n := len(rec.all("tools/call")); n != 4 {
		t.Errorf("%d calls received, want 4: none is sent twice", n)
	}
	if err := call(); err != nil {
		t.Error(err)
	}
	if n := len(rec.all("initialize")); n != 2 {
		t.Errorf("%d handshakes", n)
	}
	for id, s := range (*e.table.Load())["srv"].upstream.(*remote).sessions {
		if got, _ := s.identity(); id != "s1" || got != "session-1" {
			t.Errorf("session %q is %q", id, got)
		}
	}
}

func TestSessionLimit(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	r := &remote{shared: &shared{clock: func() time.Time { now = now.Add(time.Second); return now }, limits: Limits{Sessions: 3}.withDefaults()}, sessions: map[ostiary.SessionID]*session{}}
	first := r.find("0")
	for i := 1; i < 3; i++ {
		r.find(ostiary.SessionID(strconv.Itoa(i)))
	}
	first.touch(r.clock())
	r.find("new")
	if len(r.sessions) != 3 || r.sessions["1"] != nil || r.sessions["0"] != first {
		t.Errorf("kept %v", r.sessions)
	}
}

// The era is found out once, read from what the server says, and asked again
// when the server has changed.
func TestEra(t *testing.T) {
	ok := func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }
	named := func() string { return "s" }
	for name, c := range map[string]struct {
		probe  func(w http.ResponseWriter, m mcpwire.Message)
		legacy bool
		fails  string
	}{
		"modern":                {probe: func(w http.ResponseWriter, m mcpwire.Message) { reply(w, m, `{"supportedVersions":["2026-07-28"]}`) }},
		"discover, legacy only": {probe: func(w http.ResponseWriter, m mcpwire.Message) { reply(w, m, `{"supportedVersions":["2025-11-25"]}`) }, legacy: true},
		"400 with text":         {probe: func(w http.ResponseWriter, m mcpwire.Message) { http.Error(w, "no session", 400) }, legacy: true},
		"400 with -32000":       {probe: func(w http.ResponseWriter, m mcpwire.Message) { rpcError(w, 400, "null", -32000) }, legacy: true},
		"400 with -32022":       {probe: func(w http.ResponseWriter, m mcpwire.Message) { rpcError(w, 400, string(m.ID.Bytes()), -32022) }, legacy: true},
		"200 with -32601":       {probe: func(w http.ResponseWriter, m mcpwire.Message) { rpcError(w, 200, string(m.ID.Bytes()), -32601) }, legacy: true},
		"404":                   {probe: func(w http.ResponseWriter, m mcpwire.Message) { http.NotFound(w, nil) }, legacy: true},
		"500":                   {probe: func(w http.ResponseWriter, m mcpwire.Message) { http.Error(w, "oops", 500) }, legacy: true},
		"garbage":               {probe: func(w http.ResponseWriter, m mcpwire.Message) { io.WriteString(w, "<html>") }, legacy: true},
		"400 with -32020":       {probe: func(w http.ResponseWriter, m mcpwire.Message) { rpcError(w, 400, string(m.ID.Bytes()), -32020) }, fails: "handshake"},
		"401":                   {probe: func(w http.ResponseWriter, m mcpwire.Message) { http.Error(w, "who?", http.StatusUnauthorized) }, fails: "upstream_auth"},
		"302":                   {probe: func(w http.ResponseWriter, m mcpwire.Message) { w.Header().Set("Location", "/x"); w.WriteHeader(302) }, fails: "redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
				switch {
				case m.Method == mcpwire.MethodDiscover:
					c.probe(w, m)
				case c.legacy:
					legacy(named, ok)(w, r, m)
				default:
					ok(w, r, m)
				}
			})
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
			for range 2 {
				_, err := result(t, e, toolCall(t, "srv", "x", `{}`))
				if code, unsent := codeOf(err); code != c.fails || unsent != (c.fails != "") {
					t.Fatalf("got %q (unsent %v) %v, want %q", code, unsent, err, c.fails)
				}
			}
			probes, calls := len(rec.all("server/discover")), len(rec.all("tools/call"))
			if c.fails == "" && (probes != 1 || calls != 2) || c.fails != "" && calls != 0 {
				t.Errorf("%d probes, %d calls", probes, calls)
			}
			if c.legacy != (len(rec.all("initialize")) == 1) {
				t.Errorf("%d handshakes", len(rec.all("initialize")))
			}
		})
	}
}

func rpcError(w http.ResponseWriter, status int, id string, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"m","data":{"supported":["2025-11-25"]}}}`, id, code)
}

// A modern server that becomes a legacy one, and back: one call fails each
// time, none is sent twice.
func TestEraChanges(t *testing.T) {
	var old atomic.Bool
	ok := func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }
	rec := newRecorder(t, func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		if old.Load() {
			legacy(func() string { return "s" }, ok)(w, r, m)
			return
		}
		if m.Method == mcpwire.MethodInitialize || r.Header.Get("Mcp-Method") == "" {
			rpcError(w, 400, string(m.ID.Bytes()), -32020)
			return
		}
		modern(ok)(w, r, m)
	})
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	want := 0
	for i, step := range []struct {
		old bool
		ok  bool
	}{{false, true}, {true, false}, {true, true}, {true, true}, {false, false}, {false, true}} {
		old.Store(step.old)
		f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
		if (err == nil && f.Kind == gate.FrameResult) != step.ok {
			t.Errorf("step %d: %v %v", i, f.Kind, err)
		}
		if want++; len(rec.all("tools/call")) != want {
			t.Errorf("step %d: %d calls received, want %d", i, len(rec.all("tools/call")), want)
		}
	}
}

// Answers that are none.
func TestBadReplies(t *testing.T) {
	id := func(m mcpwire.Message) string { return string(m.ID.Bytes()) }
	js := func(body string) func(http.ResponseWriter, *http.Request, mcpwire.Message) {
		return func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			io.WriteString(w, strings.ReplaceAll(body, "ID", id(m)))
		}
	}
	sse := func(body string) func(http.ResponseWriter, *http.Request, mcpwire.Message) {
		return func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, strings.ReplaceAll(body, "ID", id(m)))
		}
	}
	status := func(code int, body string) func(http.ResponseWriter, *http.Request, mcpwire.Message) {
		return func(w http.ResponseWriter, _ *http.Request, _ mcpwire.Message) {
			w.Header().Set("Location", "http://169.254.169.254/latest")
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="http://169.254.169.254/"`)
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, mcpwire.Message)
		code   string
	}{
		"A01 duplicate key":             {js(`{"jsonrpc":"2.0","id":ID,"result":{},"result":{"x":1}}`), "bad_reply"},
		"A01 duplicate key in a stream": {sse("data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{\"a\":1,\"a\":2}}\n\n"), "bad_reply"},
		"A05 second document":           {js(`{"jsonrpc":"2.0","id":ID,"result":{}}{}`), "bad_reply"},
		"A13 batch":                     {js(`[{"jsonrpc":"2.0","id":ID,"result":{}}]`), "bad_reply"},
		"A14 id as a string":            {js(`{"jsonrpc":"2.0","id":"ID","result":{}}`), "bad_reply"},
		"A14 id as a fraction":          {js(`{"jsonrpc":"2.0","id":ID.0,"result":{}}`), "bad_reply"},
		"A18 another id":                {js(`{"jsonrpc":"2.0","id":999999,"result":{}}`), "bad_reply"},
		"A18 another id in a stream":    {sse("data: {\"jsonrpc\":\"2.0\",\"id\":999999,\"result\":{}}\n\n"), "reply_cut"},
		"result in a 202":               {status(202, ""), "status"},
		"both":                          {js(`{"jsonrpc":"2.0","id":ID,"result":{},"error":{"code":1,"message":""}}`), "bad_reply"},
		"text":                          {func(w http.ResponseWriter, _ *http.Request, _ mcpwire.Message) { io.WriteString(w, "hello") }, "bad_reply"},
		"empty stream":                  {sse(""), "reply_cut"},
		"cut event":                     {sse("data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{}}"), "reply_cut"},
		"D14 G04 301":                   {status(301, "x"), "redirect"},
		"D14 G04 302":                   {status(302, "x"), "redirect"},
		"D14 G04 307":                   {status(307, "x"), "redirect"},
		"D14 G04 308":                   {status(308, "x"), "redirect"},
		"F09 401":                       {status(401, ""), "upstream_auth"},
		"500":                           {status(500, "stack trace"), "status"},
		"R02 endless headers": {func(w http.ResponseWriter, _ *http.Request, _ mcpwire.Message) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
		}, "lost"},
		"R03 gzip bomb": {func(w http.ResponseWriter, _ *http.Request, _ mcpwire.Message) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 100 {
				z.Write(make([]byte, 1<<16))
			}
			z.Close()
		}, "bad_reply"},
		"R04 large body": {js(`{"jsonrpc":"2.0","id":ID,"result":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`), "too_large"},
		"R04 large body chunked": {func(w http.ResponseWriter, _ *http.Request, _ mcpwire.Message) {
			w.Header().Set("Content-Type", "application/json")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, strings.Repeat("x", 1<<20))
		}, "too_large"},
		"R04 large event":    {sse("data: " + strings.Repeat("x", 1<<20)), "bad_reply"},
		"R04 comment flood":  {sse(strings.Repeat(": x\n", 1<<20)), "too_large"},
		"R04 endless events": {sse(strings.Repeat("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n", 200)), "bad_reply"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, modern(c.answer))
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}, Limits: Limits{
				Reply:  strictjson.Limits{Bytes: 256 << 10, Depth: 64, Nodes: 1 << 16, Elements: 1 << 12, Literal: 64, Key: 512},
				Stream: 2 << 20, Frames: 100,
			}})
			f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
			code, unsent := codeOf(err)
			if code != c.code || unsent || ostiary.KindOf(err) != ostiary.Upstream {
				t.Errorf("got %q (unsent %v) %+v %v, want %q", code, unsent, f, err, c.code)
			}
			if strings.Contains(ostiary.AsError(err).Detail, "169.254") || strings.Contains(ostiary.AsError(err).Detail, "stack") {
				t.Errorf("the detail repeats the server: %v", err)
			}
			if n := len(rec.all("tools/call")); n != 1 {
				t.Errorf("received %d times", n)
			}
			if h := e.Health()[0]; h.State == "ready" || h.Why == "" {
				t.Errorf("health %+v", h)
			}
		})
	}
}

// A18: what belongs to no outstanding call is dropped, counted, and does not
// disturb the call; D15: text that looks like events stays text.
func TestStreamNoise(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) {
		w.Header().Set("Content-Type", "text/event-stream")
		id := string(m.ID.Bytes())
		io.WriteString(w, ": hello\n\nevent: other\ndata: x\n\nid: 1\ndata:\n\n"+
			`data: {"jsonrpc":"2.0","id":424242,"result":{"stolen":true}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":"`+id+`","result":{"stolen":true}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":99,"progress":1}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":`+id+`,"result":{"content":[{"type":"text","text":"\n\nevent: x\ndata: {}\r\n\u2028"}]}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":`+id+`,"result":{"second":true}}`+"\n\n")
	}))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
	if err != nil || string(f.Body.Bytes()) != `{"content":[{"type":"text","text":"\n\nevent: x\ndata: {}\r\n\u2028"}]}` {
		t.Fatalf("%s %v", f.Body.Bytes(), err)
	}
	e.Close() // waits for what comes after the reply
	if h := e.Health()[0]; h.Dropped != 5 {
		t.Errorf("dropped %d, want 5", h.Dropped)
	}
}

// rawServer counts complete requests, then drops the connection.
func rawServer(t *testing.T, serve func(n int64, c net.Conn, r *http.Request)) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var effects atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					b, _ := io.ReadAll(r.Body)
					if m, err := mcpwire.Parse(b, strictjson.Request); err == nil && m.Method == mcpwire.MethodDiscover {
						body := mcpwire.AppendResult(nil, m.ID.Bytes(), []byte(`{"supportedVersions":["2026-07-28"]}`))
						fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
						continue
					}
					serve(effects.Add(1), c, r)
					return
				}
			}()
		}
	}()
	return "http://" + l.Addr().String(), &effects
}

// D18: the upstream executes the call and drops the connection. There is one
// effect, and the outcome is unknown, not retried.
func TestD18NoResend(t *testing.T) {
	url, effects := rawServer(t, func(int64, net.Conn, *http.Request) {})
	s := local(url)
	e := newEgress(t, Options{Servers: []Server{s}})
	for i := range int64(5) {
		_, err := result(t, e, toolCall(t, "srv", "pay", `{}`))
		if code, unsent := codeOf(err); code != "lost" || unsent {
			t.Errorf("got %q unsent %v", code, unsent)
		}
		if effects.Load() != i+1 {
			t.Fatalf("D18: %d effects after %d calls", effects.Load(), i+1)
		}
	}
	s.Headers = map[string]ostiary.Secret{"Idempotency-Key": ostiary.NewSecret([]byte("k"))}
	if _, err := New(Options{Servers: []Server{s}}); err == nil {
		t.Error("D18: the operator may set Idempotency-Key")
	}
}

// The same over TLS, where the connection we count bytes on is inside.
func TestTLS(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := verify.KeyID(key.Public())
	v, err := verify.New(verify.Options{Keys: map[string]crypto.PublicKey{id: key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	srv := httptest.NewTLSServer(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m, _ := mcpwire.Parse(b, strictjson.Request)
		if m.Method == mcpwire.MethodDiscover {
			reply(w, m, `{"supportedVersions":["2026-07-28"]}`)
			return
		}
		if calls.Add(1) == 2 {
			panic(http.ErrAbortHandler) // executed, then the connection drops
		}
		reply(w, m, `{}`)
	})))
	defer srv.Close()
	s := local(srv.URL)
	s.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig
	e := newEgress(t, Options{Servers: []Server{s}, Signer: key, KeyID: id})
	if f, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil || f.Kind != gate.FrameResult {
		t.Fatal(f, err)
	}
	_, err = result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "lost" || unsent || calls.Load() != 2 {
		t.Errorf("D18 over TLS: %q unsent %v, %d effects", code, unsent, calls.Load())
	}
	s.TLS = nil // the system's roots do not know it
	e = newEgress(t, Options{Servers: []Server{s}})
	_, err = result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "unreachable" || !unsent {
		t.Errorf("unknown authority: %q %v", code, err)
	}
}

// A connection that died while idle: nothing was written, so the call goes to
// a fresh one, and arrives once.
func TestStaleConnection(t *testing.T) {
	url, effects := rawServer(t, func(_ int64, c net.Conn, r *http.Request) {
		io.WriteString(c, "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
	})
	s := local(url)
	s.Breaker.Failures, s.Breaker.Window = 1000, 1000
	e := newEgress(t, Options{Servers: []Server{s}})
	for i := range int64(20) {
		_, err := result(t, e, toolCall(t, "srv", "x", `{}`))
		if code, unsent := codeOf(err); unsent || code == "" {
			t.Fatalf("%v", err)
		}
		if n := effects.Load(); n > i+1 {
			t.Fatalf("%d effects after %d calls", n, i+1)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	l.Close()
	e := newEgress(t, Options{Servers: []Server{local("http://" + l.Addr().String())}})
	_, err := result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "unreachable" || !unsent {
		t.Errorf("got %q unsent %v: %v", code, unsent, err)
	}
	if strings.Contains(ostiary.AsError(err).Detail, "127.0.0.1") {
		t.Error("the detail shows an address")
	}
}

// R06, G10: a server that never answers, or stops in the middle, is left.
func TestSlowServers(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	hang := func(w http.ResponseWriter, r *http.Request, _ mcpwire.Message) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, mcpwire.Message)
		code   string
	}{
		"G10 never": {hang, "timeout"},
		"G10 half a way": {func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: x")
			w.(http.Flusher).Flush()
			hang(w, r, m)
		}, "timeout"},
		"G10 JSON": {func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{")
			w.(http.Flusher).Flush()
			hang(w, r, m)
		}, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, modern(c.answer))
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}, Limits: Limits{Head: 200 * time.Millisecond, Idle: 100 * time.Millisecond}})
			_, err := result(t, e, toolCall(t, "srv", "x", `{}`))
			if code, unsent := codeOf(err); code != c.code || unsent {
				t.Errorf("got %q unsent %v: %v", code, unsent, err)
			}
		})
	}
}

// A caller who leaves: the modern server sees its connection close, a legacy
// one is told.
func TestCallerLeaves(t *testing.T) {
	gone := make(chan struct{}, 1)
	hang := func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	}
	told := make(chan string, 1)
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, mcpwire.Message){
		"modern": modern(hang),
		"legacy": func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
			if m.Method == mcpwire.NotifyCancelled {
				told <- string(m.Params.Bytes())
			}
			legacy(func() string { return "s" }, hang)(w, r, m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, answer)
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
			ctx, cancel := context.WithCancel(t.Context())
			s, err := e.Forward(ctx, gatetest.Clear(toolCall(t, "srv", "x", `{}`)))
			if err != nil {
				t.Fatal(err)
			}
			if f, err := s.Next(ctx); err != nil || f.Kind != gate.FrameNotification {
				t.Fatalf("%+v %v", f, err)
			}
			cancel()
			if _, err := s.Next(ctx); err == nil {
				t.Error("a frame after the caller left")
			}
			<-gone
			if name == "legacy" {
				if p := <-told; !strings.Contains(p, `"requestId":`) {
					t.Errorf("told %s", p)
				}
			}
			s.Close()
			s.Close()
		})
	}
}

// Closing ends open streams and refuses new calls.
func TestClose(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	s, err := e.Forward(t.Context(), gatetest.Clear(toolCall(t, "srv", "x", `{}`)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := s.Next(context.Background()); done <- err }()
	e.Close()
	if err := <-done; err == nil {
		t.Error("the stream went on")
	}
	_, err = result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "closing" || !unsent {
		t.Errorf("got %q %v", code, unsent)
	}
}

// tools is a fixed set of pinned definitions.
type tools map[string]*ostiary.Tool

func (x tools) Tool(_, _, name string) (*ostiary.Tool, bool) { t, ok := x[name]; return t, ok }

func TestParamHeaders(t *testing.T) {
	pin := ostiary.DigestOf([]byte("pin"))
	def := arg(t, `{"inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},"deep":{"type":"object","properties":{"flag":{"type":"boolean","x-mcp-header":"Flag"}}},"plain":{"type":"string"}}}}`)
	set := tools{"t": {Name: "t", Pin: pin, Definition: def}}
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}, Tools: set})
	call := toolCall(t, "srv", "t", `{"region":"Zürich","n":42,"deep":{"flag":true},"plain":"x"}`)
	call.Action.Pin = pin
	if _, err := result(t, e, call); err != nil {
		t.Fatal(err)
	}
	h := rec.all("tools/call")[0].header
	if h.Get("Mcp-Param-Region") != "=?base64?WsO8cmljaA==?=" || h.Get("Mcp-Param-N") != "42" || h.Get("Mcp-Param-Flag") != "true" || h.Get("Mcp-Param-Plain") != "" {
		t.Errorf("%v", h)
	}
	for name, c := range map[string]struct {
		args string
		pin  ostiary.Digest
		code string
	}{
		"null":          {`{"region":null}`, pin, ""},
		"absent":        {`{}`, pin, ""},
		"fraction":      {`{"n":4.0}`, pin, "param_header"},
		"beyond 2^53":   {`{"n":9007199254740993}`, pin, "param_header"},
		"object":        {`{"region":{}}`, pin, "param_header"},
		"C01 pin moved": {`{}`, ostiary.DigestOf([]byte("other")), "pin_moved"},
	} {
		call := toolCall(t, "srv", "t", c.args)
		call.Action.Pin = c.pin
		_, err := result(t, e, call)
		if code, unsent := codeOf(err); code != c.code || unsent != (c.code != "") {
			t.Errorf("%s: %q %v", name, code, err)
		}
	}
}

func TestServerConfiguration(t *testing.T) {
	secret := func(s string) map[string]ostiary.Secret {
		return map[string]ostiary.Secret{s: ostiary.NewSecret([]byte("v"))}
	}
	for name, c := range map[string]struct {
		servers []Server
		field   string
	}{
		"no name":              {[]Server{{URL: "https://x/"}}, "servers"},
		"twice":                {[]Server{{Name: "a", URL: "https://x/"}, {Name: "a", URL: "https://y/"}}, "servers"},
		"neither":              {[]Server{{Name: "a"}}, "servers.a.url"},
		"both":                 {[]Server{{Name: "a", URL: "https://x/", Command: []string{"/bin/true"}}}, "servers.a.url"},
		"G05 scheme":           {[]Server{{Name: "a", URL: "file:///x"}}, "servers.a.url"},
		"plain http":           {[]Server{{Name: "a", URL: "http://x/"}}, "servers.a.url"},
		"exception":            {[]Server{{Name: "a", URL: "https://x/", AllowPrivate: []string{"8.8.8.8"}}}, "servers.a.allow_private"},
		"header Host":          {[]Server{{Name: "a", URL: "https://x/", Headers: secret("host")}}, "servers.a.headers.host"},
		"header Mcp":           {[]Server{{Name: "a", URL: "https://x/", Headers: secret("mcp-method")}}, "servers.a.headers.mcp-method"},
		"header underscore":    {[]Server{{Name: "a", URL: "https://x/", Headers: secret("X_Agent")}}, "servers.a.headers.X_Agent"},
		"header Ostiary-Entry": {[]Server{{Name: "a", URL: "https://x/", Headers: secret("ostiary-entry")}}, "servers.a.headers.ostiary-entry"},
		"header value":         {[]Server{{Name: "a", URL: "https://x/", Headers: map[string]ostiary.Secret{"X-A": ostiary.NewSecret([]byte("a\r\nb: c"))}}}, "servers.a.headers.X-A"},
		"bearer file":          {[]Server{{Name: "a", URL: "https://x/", BearerFile: "/nonexistent"}}, "servers.a.bearer_file"},
		"command":              {[]Server{{Name: "a", Command: []string{"/nonexistent/x"}}}, "servers.a.command"},
		"env":                  {[]Server{{Name: "a", Command: []string{"/bin/sh", "x"}, Env: map[string]string{"A=B": "c"}}}, "servers.a.env.A=B"},
	} {
		_, err := New(Options{Servers: c.servers})
		if err == nil || ostiary.AsError(err).Field != c.field {
			t.Errorf("%s: %v, want an error at %s", name, err, c.field)
		}
	}
}

// TestG06NothingFromTheEnvironment: no proxy, no log of session keys.
func TestG06NothingFromTheEnvironment(t *testing.T) {
	keys := t.TempDir() + "/keys"
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("SSLKEYLOGFILE", keys)
	secured := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m, _ := mcpwire.Parse(b, strictjson.Request)
		modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) })(w, r, m)
	}))
	defer secured.Close()
	s := local(secured.URL)
	s.TLS = secured.Client().Transport.(*http.Transport).TLSClientConfig
	if _, err := result(t, newEgress(t, Options{Servers: []Server{s}}), toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(keys); err == nil {
		t.Error("the keys of a session were written to a file")
	}
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Error(err)
	}
}
