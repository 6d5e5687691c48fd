package egress

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
	"github.com/ostiary/ostiary/verify"
)

// childVariable makes the test binary be a server on stdio. See child_test.go.
const childVariable = "EGRESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childVariable); kind != "" {
		child(kind)
		return
	}
	code := m.Run()
	if left := leftBehind(); left != "" && code == 0 {
		os.Stderr.WriteString("a goroutine outlived its Egress:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// leftBehind returns the stack of a goroutine of this package that is still
// there after every Egress was closed.
func leftBehind() string {
	buf := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "internal/egress.(*") {
			return g
		}
	}
	return ""
}

// arg scans a text as an argument value.
func arg(t testing.TB, s string) ostiary.Value {
	t.Helper()
	if s == "" {
		return ostiary.Value{}
	}
	// The value stands inside a message, as it does in life.
	d, err := strictjson.Parse([]byte(`{"params":`+s+`}`), strictjson.Request)
	if err != nil {
		t.Fatal(err)
	}
	return d.Root().Get("params")
}

func toolCall(t testing.TB, server, tool, args string) gate.Call {
	return gate.Call{Action: ostiary.Action{Name: server + "___" + tool, Method: "tools/call", Server: server, Tool: tool, Arguments: arg(t, args)}}
}

func newEgress(t testing.TB, o Options) *Egress {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if !testing.Verbose() {
		return len(b), nil
	}
	os.Stderr.Write(b)
	return len(b), nil
}

// result forwards a call and returns its final frame.
func result(t testing.TB, e *Egress, c gate.Call) (gate.Frame, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := e.Forward(ctx, gatetest.Clear(c))
	if err != nil {
		return gate.Frame{}, err
	}
	defer s.Close()
	for {
		f, err := s.Next(ctx)
		if err != nil || f.Kind.Final() {
			return f, err
		}
	}
}

// seen is one request as a server received it.
type seen struct {
	header http.Header
	body   string
	method string
	uri    string
}

// recorder is a server that stores what it receives and answers by script.
type recorder struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request, m mcpwire.Message)

	mu   sync.Mutex
	seen []seen
}

func newRecorder(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, m mcpwire.Message)) *recorder {
	t.Helper()
	rec := &recorder{answer: answer}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rec.mu.Lock()
		rec.seen = append(rec.seen, seen{r.Header.Clone(), string(b), r.Method, r.RequestURI})
		rec.mu.Unlock()
		m, err := mcpwire.Parse(b, strictjson.Request)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		rec.answer(w, r, m)
	}))
	t.Cleanup(rec.Close)
	return rec
}

func (r *recorder) all(method string) []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []seen
	for _, s := range r.seen {
		if method == "" || strings.Contains(s.body, `"method":"`+method+`"`) {
			out = append(out, s)
		}
	}
	return out
}

func reply(w http.ResponseWriter, m mcpwire.Message, result string) {
	w.Header().Set("Content-Type", "application/json")
	w.Write(mcpwire.AppendResult(nil, m.ID.Bytes(), []byte(result)))
}

// modern answers the probe and leaves the rest to next.
func modern(next func(w http.ResponseWriter, r *http.Request, m mcpwire.Message)) func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
	return func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		if m.Method == mcpwire.MethodDiscover {
			reply(w, m, `{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{}}`)
			return
		}
		next(w, r, m)
	}
}

// legacy does the handshake with a named session, refuses what comes without
// it, and leaves the rest to next.
func legacy(session func() string, next func(w http.ResponseWriter, r *http.Request, m mcpwire.Message)) func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
	return func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		switch {
		case m.Method == mcpwire.MethodInitialize:
			w.Header().Set("Mcp-Session-Id", session())
			reply(w, m, `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}`)
		case r.Header.Get("Mcp-Session-Id") == "":
			http.Error(w, "Bad Request: no session", 400)
		case r.Header.Get("Mcp-Session-Id") != session():
			http.Error(w, "no such session", 404)
		case m.Kind == mcpwire.Notification:
			w.WriteHeader(202)
		default:
			next(w, r, m)
		}
	}
}

func local(url string) Server {
	return Server{Name: "srv", URL: url + "/mcp", AllowPrivate: []string{"127.0.0.1"}}
}

// Law 2: the argument bytes arrive as they were cleared, whatever they look
// like, and the envelope around them is ours.
func TestArgumentBytes(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) {
		reply(w, m, `{"resultType":"complete","content":[]}`)
	}))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}, Version: "1.2.3"})
	for _, args := range []string{
		`{}`, `{ "b" : 1.0 ,` + "\n\t" + `"a":[ 1e2, -0.0 ]}`, `{"account":9007199254740993}`, `{"s":"\u0041\/\ud83d\ude00 ü"}`, `{"_meta":{"x":1},"name":"evil","params":{}}`,
	} {
		f, err := result(t, e, toolCall(t, "srv", "pay", args))
		if err != nil || f.Kind != gate.FrameResult || string(f.Body.Bytes()) != `{"resultType":"complete","content":[]}` {
			t.Fatalf("%s: %+v %v", args, f, err)
		}
		calls := rec.all("tools/call")
		got := calls[len(calls)-1]
		if !strings.Contains(got.body, `"params":{"name":"pay","arguments":`+args+`,"_meta":{`) {
			t.Errorf("sent %s", got.body)
		}
	}
	got := rec.all("tools/call")[0]
	for name, want := range map[string]string{
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "pay", "Ostiary-Entry": "2026-11/7",
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "User-Agent": "ostiary/1.2.3",
		"Mcp-Session-Id": "", "Idempotency-Key": "", "Accept-Encoding": "", "Connection": "",
	} {
		if v := strings.Join(got.header.Values(name), "|"); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if n := len(rec.all("server/discover")); n != 1 {
		t.Errorf("probed %d times", n)
	}
	if !strings.Contains(got.body, `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"ostiary","version":"1.2.3"}`) {
		t.Errorf("meta: %s", got.body)
	}
}

func TestEnvelope(t *testing.T) {
	for name, c := range map[string]struct {
		action   ostiary.Action
		progress bool
		meta     string
		want     string
		code     string
	}{
		"tool without arguments": {action: ostiary.Action{Method: "tools/call", Tool: "t"}, want: `{"name":"t"}`},
		"progress":               {action: ostiary.Action{Method: "tools/call", Tool: "t"}, progress: true, want: `{"name":"t","_meta":{"progressToken":5}}`},
		"progress and meta":      {action: ostiary.Action{Method: "tools/call", Tool: "t"}, progress: true, meta: `"a":1`, want: `{"name":"t","_meta":{"progressToken":5,"a":1}}`},
		"prompt":                 {action: ostiary.Action{Method: "prompts/get", Tool: "p", Arguments: arg(t, `{"a":"b"}`)}, want: `{"name":"p","arguments":{"a":"b"}}`},
		"retry":                  {action: ostiary.Action{Method: "tools/call", Tool: "t", Arguments: arg(t, `{}`), Responses: arg(t, `{"q": {"action":"accept"}}`), State: []byte("st\"ate\n")}, want: `{"name":"t","arguments":{},"inputResponses":{"q": {"action":"accept"}},"requestState":"st\"ate\n"}`},
		"list":                   {action: ostiary.Action{Method: "tools/list"}, want: `{}`},
		"list page":              {action: ostiary.Action{Method: "tools/list", Arguments: arg(t, `{"cursor" : "x"}`)}, want: `{"cursor":"x"}`},
		"read": {action: ostiary.Action{Method: "resources/read", URI: "file:///a", Arguments: arg(t, `{"uri":"file:///a","_meta":{"x":1},"requestState":"ours","inputResponses":{},"other":[1, 2]}`)},
			meta: `"a":1`, want: `{"uri":"file:///a","other":[1, 2],"_meta":{"a":1}}`},
		"read of another":   {action: ostiary.Action{Method: "resources/read", URI: "file:///a", Arguments: arg(t, `{"uri":"file:///b"}`)}, code: "uri_moved"},
		"completion":        {action: ostiary.Action{Method: "completion/complete", Tool: "p", Arguments: arg(t, `{"ref":{"type":"ref/prompt","name":"srv___p"},"argument":{"name":"a","value":"b"}}`)}, want: `{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"b"}}`},
		"tool without name": {action: ostiary.Action{Method: "tools/call"}, code: "no_tool"},
		"params no object":  {action: ostiary.Action{Method: "x/y", Arguments: arg(t, `[1]`)}, code: "params"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := appendCall(nil, 5, &gate.Dispatch{Action: &c.action, Progress: c.progress}, []byte(c.meta))
			if c.code != "" {
				if ostiary.AsError(err) == nil || ostiary.AsError(err).Code != c.code {
					t.Errorf("got %v, want %s", err, c.code)
				}
				return
			}
			want := `{"jsonrpc":"2.0","id":5,"method":"` + c.action.Method + `","params":` + c.want + `}`
			if err != nil || string(b) != want {
				t.Errorf("got  %s %v\nwant %s", b, err, want)
			}
			if _, err := mcpwire.Parse(b, strictjson.Request); err != nil {
				t.Error(err)
			}
		})
	}
}

// Law 4: a clearance opens the way out once, and nothing opens it without.
func TestClearance(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
	c := gatetest.Clear(toolCall(t, "srv", "x", `{}`))
	var ok, spent int
	for range 5 {
		if s, err := e.Forward(context.Background(), c); err == nil {
			s.Close()
			ok++
		} else if ostiary.KindOf(err) == ostiary.Conflict && errors.Is(err, gate.ErrNotSent) {
			spent++
		}
	}
	if ok != 1 || spent != 4 || len(rec.all("tools/call")) != 1 {
		t.Errorf("%d accepted, %d spent, %d received", ok, spent, len(rec.all("tools/call")))
	}
	for name, c := range map[string]*gate.Clearance{"nil": nil, "zero": {}, "no such server": gatetest.Clear(toolCall(t, "other", "x", `{}`))} {
		if _, err := e.Forward(context.Background(), c); !errors.Is(err, gate.ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Law 1: nor does one whose Intent has no place in a log.
	gatetest.New(gatetest.Neighbours{
		Append: func(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
			return ostiary.Receipt{ID: e.ID}, nil
		},
		Forward: func(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
			_, err := e.Forward(ctx, c)
			if !errors.Is(err, gate.ErrNotSent) {
				t.Errorf("unrecorded: %v", err)
			}
			return nil, err
		},
	}).Handle(context.Background(), toolCall(t, "srv", "x", `{}`))
	if n := len(rec.all("tools/call")); n != 1 {
		t.Errorf("%d received", n)
	}
	// A local target is answered by its responder, with the cleared dispatch.
	var got *gate.Dispatch
	call := toolCall(t, "srv", "x", `{"a":1}`)
	call.Target = gate.Target{Kind: gate.ToLocal, Respond: func(_ context.Context, d *gate.Dispatch) (gate.Stream, error) {
		got = d
		return gatetest.Result(nil), nil
	}}
	if _, err := e.Forward(context.Background(), gatetest.Clear(call)); err != nil || got == nil || string(got.Action.Arguments.Bytes()) != `{"a":1}` {
		t.Errorf("%v %+v", err, got)
	}
	call.Target.Respond = nil
	call.Target.Kind = gate.ToClient
	if _, err := e.Forward(context.Background(), gatetest.Clear(call)); !errors.Is(err, gate.ErrNotSent) {
		t.Errorf("no responder: %v", err)
	}
}

// What a tool server behind package verify accepts is exactly what Forward
// sends.
func TestSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := verify.KeyID(&key.PublicKey)
	v, err := verify.New(verify.Options{Keys: map[string]crypto.PublicKey{id: &key.PublicKey}})
	if err != nil {
		t.Fatal(err)
	}
	token := t.TempDir() + "/token"
	if err := os.WriteFile(token, []byte("s3cret-canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var entries []string
	handler := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m, err := mcpwire.Parse(b, strictjson.Request)
		if err != nil {
			t.Error(err)
		}
		entries = append(entries, verify.Entry(r.Context())+" "+r.Header.Get("Authorization"))
		modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) })(w, r, m)
	}))
	srv := httptest.NewServer(handler)
	defer srv.Close()
	var logs bytes.Buffer
	for _, withToken := range []bool{false, true} {
		entries = nil
		s := local(srv.URL)
		if withToken {
			s.BearerFile = token
		}
		e := newEgress(t, Options{Servers: []Server{s}, Signer: key, KeyID: id, Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if f, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil || f.Kind != gate.FrameResult {
			t.Fatalf("with token %v: %+v %v", withToken, f, err)
		}
		want := "2026-11/7 "
		if withToken {
			want += "Bearer s3cret-canary"
		}
		if len(entries) != 2 || entries[1] != want {
			t.Errorf("got %q, want %q", entries, want)
		}
		if strings.Contains(fmt.Sprintf("%+v %+v", e.Health(), s), "canary") || strings.Contains(logs.String(), "canary") {
			t.Error("Q03 the credential is in health or logs")
		}
	}
	// So is what goes into a session of an older revision, and nobody on the
	// way can move a call into another one.
	session := "ours"
	inSession := legacy(func() string { return session }, func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) })
	checked := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m, _ := mcpwire.Parse(b, strictjson.Request)
		inSession(w, r, m)
	}))
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if session != "ours" {
			r.Header.Set("Mcp-Session-Id", session)
		}
		checked.ServeHTTP(w, r)
	}))
	defer old.Close()
	e := newEgress(t, Options{Servers: []Server{local(old.URL)}, Signer: key, KeyID: id})
	if f, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil || f.Kind != gate.FrameResult {
		t.Fatalf("in a session: %+v %v", f, err)
	}
	session = "somebody else's"
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err == nil {
		t.Error("a call was moved into another session")
	}
	// A direct call fails.
	resp, err := http.Post(srv.URL+"/mcp", "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`))
	if err != nil || resp.StatusCode != 401 {
		t.Errorf("direct call: %v %v", resp, err)
	}
}

func TestCredentialRotates(t *testing.T) {
	path := t.TempDir() + "/token"
	os.WriteFile(path, []byte("one"), 0o600)
	c, err := newCredential(path)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path, []byte("second"), 0o600)
	if h, err := c.header(); err != nil || h != "Bearer second" {
		t.Errorf("%q %v", h, err)
	}
	os.WriteFile(path, []byte("bad token\x00"), 0o600)
	if h, err := c.header(); err == nil {
		t.Errorf("accepted %q", h)
	}
	os.Remove(path)
	if h, err := c.header(); err == nil {
		t.Errorf("accepted %q", h)
	}
}

// Q01: a reply that repeats the injected credential does not reach the agent.
func TestQ01CredentialEchoed(t *testing.T) {
	token := t.TempDir() + "/token"
	if err := os.WriteFile(token, []byte("s3cret-canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]func(w http.ResponseWriter, m mcpwire.Message, echo string){
		"body": func(w http.ResponseWriter, m mcpwire.Message, echo string) { reply(w, m, `{"text":"`+echo+`"}`) },
		"error": func(w http.ResponseWriter, m mcpwire.Message, echo string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(400)
			w.Write(mcpwire.AppendError(nil, m.ID.Bytes(), -32602, "bad "+echo, nil))
		},
		"event": func(w http.ResponseWriter, m mcpwire.Message, echo string) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Write(mcpwire.AppendEvent(nil, "", mcpwire.AppendResult(nil, m.ID.Bytes(), []byte(`{"text":"`+echo+`"}`))))
		},
	} {
		for header, value := range map[string]string{"Authorization": "s3cret-canary", "X-Api-Key": "k3y-canary"} {
			rec := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
				answer(w, m, strings.TrimPrefix(r.Header.Get(header), "Bearer "))
			}))
			s := local(rec.URL)
			s.BearerFile = token
			s.Headers = map[string]ostiary.Secret{"X-Api-Key": ostiary.NewSecret([]byte("k3y-canary"))}
			e := newEgress(t, Options{Servers: []Server{s}})
			f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
			if code, unsent := codeOf(err); code != "credential_echoed" || unsent || strings.Contains(err.Error(), value) {
				t.Errorf("Q01 %s %s: %s %v", name, header, f.Body.Bytes(), err)
			}
		}
	}
}
