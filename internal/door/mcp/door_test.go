package mcp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// world is a door before a gate that agrees to everything, with upstream
// servers played by the test. Each bearer token is an agent of that name.
type world struct {
	t      *testing.T
	door   *Door
	server *httptest.Server

	mu        sync.Mutex
	calls     []gate.Call                                                // whatever reached the gate, in order
	entries   []*ostiary.Entry                                           // whatever it recorded
	counted   []string                                                   // whatever it only counted
	sent      []*ostiary.Action                                          // whatever was forwarded to a server
	forward   func(context.Context, *gate.Dispatch) (gate.Stream, error) // plays the servers
	decide    func(*ostiary.Request) ostiary.Decision                    // plays policy; nil permits
	hide      map[string]bool                                            // tools not visible
	tools     []*ostiary.Tool                                            // the catalog
	contained map[ostiary.AgentID]ostiary.Containment
	refuse    error // resolve fails with it
	now       func() time.Time
	holder    gate.Holder
	listens   chan bool // if not nil, closed when a stream is open
}

// Level says None of everybody of whom the test says nothing else.
func (w *world) Level(s *ostiary.Subject, _ *ostiary.Action) ostiary.Containment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(ostiary.None, w.contained[s.Agent])
}

func (w *world) Tools() []*ostiary.Tool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tools
}

func (w *world) Tool(server, kind, name string) (*ostiary.Tool, bool) {
	for _, t := range w.Tools() {
		if t.Server == server && t.Kind == kind && t.Name == name {
			return t, true
		}
	}
	return nil, false
}

func (w *world) Visible(_ *ostiary.Request, tools []*ostiary.Tool) []bool {
	show := make([]bool, len(tools))
	for i, t := range tools {
		show[i] = !w.hide[t.Action()]
	}
	return show
}

func (w *world) Authenticate(_ context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	if c.Held != nil {
		return *c.Held, nil
	}
	name := string(c.Bearer.Reveal())
	if name == "" || strings.HasPrefix(name, "foreign") {
		code := map[string]string{"foreign-proof": "dpop_proof", "foreign-nonce": "use_dpop_nonce"}[name]
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, cmp.Or(code, "no_credential"), "why is secret")
	}
	var scopes []string
	if name == "scoped" {
		scopes = []string{"mcp", "server:docs"}
	}
	agent := ostiary.AgentID("spiffe://test/agent/" + name)
	return ostiary.Subject{Agent: agent, Principal: "person:" + ostiary.PrincipalID(name), Key: ostiary.DigestOf([]byte(name)), Mandate: "m1", Chain: []ostiary.AgentID{agent}, Via: ostiary.ViaToken, Scopes: scopes}, nil
}

func (w *world) ProofNonce() string { return "fresh-nonce" }

// Handle notes the call on its way to the gate.
func (w *world) Handle(ctx context.Context, call gate.Call) (*gate.Reply, error) {
	w.mu.Lock()
	w.calls = append(w.calls, call)
	w.mu.Unlock()
	return w.gate().Handle(ctx, call)
}

func (w *world) Count(_, code string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counted = append(w.counted, code)
}

func (w *world) Append(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, e)
	return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: 7}, Time: e.Time}, nil
}

type brokenFacts struct {
	gate.Facts
	w *world
}

func (f brokenFacts) Resolve(ctx context.Context, s ostiary.Subject, call *gate.Call) (*ostiary.Request, error) {
	f.w.mu.Lock()
	err := f.w.refuse
	f.w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Facts.Resolve(ctx, s, call)
}

func (w *world) gate() *gate.Gate {
	return gatetest.New(gatetest.Neighbours{
		Forward: func(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
			q, err := c.Redeem()
			if err != nil {
				return nil, err
			}
			if q.Target.Respond != nil {
				s, err := q.Target.Respond(ctx, q)
				if q.Action.Name == "subscribe" && w.listens != nil {
					close(w.listens)
				}
				return s, err
			}
			w.mu.Lock()
			w.sent = append(w.sent, q.Action)
			forward := w.forward
			w.mu.Unlock()
			return forward(ctx, q)
		},
		Decide: func(r *ostiary.Request) ostiary.Decision {
			w.mu.Lock()
			decide := w.decide
			w.mu.Unlock()
			if decide != nil {
				return decide(r)
			}
			return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1}
		},
		Options: func(o *gate.Options) {
			o.Identity, o.Ledger, o.Facts, o.Holder = w, w, brokenFacts{o.Facts, w}, w.holder
		},
	})
}

// seals is AES-GCM, standing in for the keyring's.
type seals struct{ aead cipher.AEAD }

func (s seals) Seal(plain, ad []byte) ([]byte, error) {
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, plain, ad), nil
}

func (s seals) Open(sealed, ad []byte) ([]byte, error) {
	if len(sealed) < s.aead.NonceSize() {
		return nil, errors.New("short")
	}
	return s.aead.Open(nil, sealed[:s.aead.NonceSize()], sealed[s.aead.NonceSize():], ad)
}

func newWorld(t *testing.T, defs ...*ostiary.Tool) *world {
	t.Helper()
	block, _ := aes.NewCipher(make([]byte, 32))
	aead, _ := cipher.NewGCM(block)
	w := &world{t: t, tools: defs, hide: map[string]bool{}, now: time.Now}
	w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		return result(`{"content":[{"type":"text","text":"done"}]}`), nil
	}
	if defs == nil {
		w.tools = standardTools(t)
	}
	var err error
	w.door, err = New(Options{
		Gate: w, Identity: w, Catalog: w, Visible: w, Containments: w, Sealer: seals{aead},
		Servers:   []Server{{Name: "bank", Origins: []string{"https://login.bank.example"}}, {Name: "docs"}},
		PublicURL: "http://gate.test:8700", Hosts: []string{"localhost:8700"}, Origins: []string{"http://console.test"},
		Longest: 15 * time.Minute, Clock: func() time.Time { return w.now() }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func def(t testing.TB, server, kind, text string) *ostiary.Tool {
	t.Helper()
	doc, err := strictjson.Parse([]byte(text), strictjson.Schema)
	if err != nil {
		t.Fatal(err)
	}
	_, _, key := listed(map[string]string{"tool": "tools/list", "prompt": "prompts/list", "resource": "resources/list"}[kind])
	return &ostiary.Tool{Server: server, Kind: kind, Name: doc.Root().Get(key).Text(), Definition: doc.Root(), Pin: ostiary.DigestOf([]byte(text)), State: ostiary.ToolPinned}
}

func standardTools(t testing.TB) []*ostiary.Tool {
	changed := def(t, "bank", "tool", `{"name":"changed","inputSchema":{"type":"object"}}`)
	changed.State = ostiary.ToolChanged
	return []*ostiary.Tool{
		changed,
		def(t, "bank", "tool", "{ \"description\":\"Sends \\u006doney\",\n \"name\" : \"send\", \"inputSchema\":{\"type\":\"object\",\"properties\":{\"to\":{\"type\":\"string\"},\"n\":{\"type\":\"number\"}}} }"),
		def(t, "bank", "tool", `{"name":"transfer","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"cents":{"type":"integer","x-mcp-header":"Cents"},"deep":{"type":"object","properties":{"dry":{"type":"boolean","x-mcp-header":"Dry"}}}}}}`),
		def(t, "docs", "tool", `{"name":"send","inputSchema":{"type":"object"}}`),
		def(t, "docs", "prompt", `{"name":"sum","arguments":[{"name":"style"}]}`),
		def(t, "docs", "resource", `{"uri":"file:///a","name":"a"}`),
		def(t, "docs", "resource", `{"uri":"file:///both","name":"b"}`),
		def(t, "bank", "resource", `{"uri":"file:///both","name":"b"}`),
		def(t, "docs", "template", `{"uriTemplate":"file:///{path}","name":"files"}`),
	}
}

func value(text string) ostiary.Value {
	doc, err := strictjson.Parse([]byte(text), strictjson.Reply)
	if err != nil {
		panic(err)
	}
	return doc.Root()
}

func result(text string) gate.Stream {
	return gatetest.Frames(gate.Frame{Kind: gate.FrameResult, Body: value(text)})
}

// request builds a POST of the current revision by "alice", with the headers
// that mirror the body.
func request(path, method, params string, headers ...string) *http.Request {
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	if params != "" {
		meta = params + "," + meta
	}
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + meta + `}}`
	r := raw(path, body, "Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", method)
	p := value("{" + meta + "}")
	for _, m := range []string{"name", "uri", "taskId"} {
		if v := p.Get(m); v.Exists() && methods()[method].mirrored == m {
			r.Header.Set("Mcp-Name", v.Text())
		}
	}
	set(r, headers)
	return r
}

func set(r *http.Request, headers []string) {
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Del(headers[i])
		for v := range strings.SplitSeq(headers[i+1], "|") {
			if v != "" {
				r.Header.Add(headers[i], v)
			}
		}
	}
}

func raw(path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Host = "gate.test:8700"
	r.RequestURI = path
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer alice")
	set(r, headers)
	return r
}

// do serves one request.
func (w *world) do(r *http.Request) *httptest.ResponseRecorder {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.door.ServeHTTP(rec, r)
	return rec
}

func (w *world) forwarded() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// body parses a response strictly.
func body(t *testing.T, rec *httptest.ResponseRecorder) ostiary.Value {
	t.Helper()
	doc, err := strictjson.Parse(bytes.Clone(rec.Body.Bytes()), strictjson.Reply)
	if err != nil {
		t.Fatalf("response is no strict JSON: %v\n%s", err, rec.Body)
	}
	return doc.Root()
}

// opened starts a legacy session and returns its id.
func (w *world) opened(agent, version, capabilities string) string {
	w.t.Helper()
	rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"`+version+`","capabilities":`+capabilities+`,"clientInfo":{"name":"t","version":"1"}}}`, "Authorization", "Bearer "+agent))
	id := rec.Header().Get("Mcp-Session-Id")
	if rec.Code != 200 || len(id) != 32 {
		w.t.Fatalf("initialize: %d %q %s", rec.Code, id, rec.Body)
	}
	return id
}

func events(b string) (all []string) {
	for block := range strings.SplitSeq(b, "\n\n") {
		var data []string
		for line := range strings.SplitSeq(block, "\n") {
			if d, ok := strings.CutPrefix(line, "data:"); ok {
				data = append(data, strings.TrimPrefix(d, " "))
			}
		}
		if data != nil {
			all = append(all, strings.Join(data, "\n"))
		}
	}
	return all
}

func TestListAndCallInBothEras(t *testing.T) {
	w := newWorld(t)
	rec := w.do(request("/mcp", "tools/list", ""))
	if rec.Code != 200 {
		t.Fatal(rec.Code, rec.Body)
	}
	res := body(t, rec).Get("result")
	var names []string
	for _, tool := range res.Get("tools").Elements() {
		names = append(names, tool.Get("name").Text())
	}
	if want := []string{"bank___send", "bank___transfer", "docs___send"}; !slices.Equal(names, want) {
		t.Errorf("listed %q, want %q", names, want)
	}
	if !res.Get("resultType").Is("complete") || !res.Get("cacheScope").Is("private") || res.Get("ttlMs").Literal() != "0" {
		t.Errorf("list lacks its envelope: %s", res.Bytes())
	}
	rec = w.do(request("/mcp", "tools/call", `"name":"bank___send","arguments":{ "to":"x", "n":1e2}`))
	if rec.Code != 200 || body(t, rec).Get("result").Get("resultType").Text() != "complete" {
		t.Fatal(rec.Code, rec.Body)
	}
	if a := w.sent[0]; a.Server != "bank" || a.Tool != "send" || a.Name != "bank___send" || string(a.Arguments.Bytes()) != `{ "to":"x", "n":1e2}` {
		t.Errorf("forwarded %+v %s", a, a.Arguments.Bytes())
	}

	id := w.opened("alice", "2025-11-25", "{}")
	rec = w.do(raw("/mcp", `{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"bank___send","arguments":{ "to":"x", "n":1e2}}}`, "Mcp-Session-Id", id, "Mcp-Protocol-Version", "2025-11-25"))
	if rec.Code != 200 || body(t, rec).Get("id").Text() != "q" {
		t.Fatal(rec.Code, rec.Body)
	}
	if a, b := w.sent[0].Digest(), w.sent[1].Digest(); a != b {
		t.Error("the same call has another digest in another revision (B05)")
	}
}

func TestListIsSplicedByOffset(t *testing.T) {
	w := newWorld(t)
	rec := w.do(request("/mcp", "tools/list", ""))
	for _, tool := range w.tools {
		if tool.Kind != "tool" || tool.State != ostiary.ToolPinned {
			continue
		}
		want := strings.Replace(string(tool.Definition.Bytes()), `"`+tool.Name+`"`, `"`+tool.Action()+`"`, 1)
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("law 11: %s is not the pinned bytes with the name replaced:\n%s", tool.Action(), rec.Body)
		}
	}
	rec = w.do(request("/mcp/bank", "tools/list", ""))
	for _, tool := range w.tools {
		shown := tool.Kind == "tool" && tool.Server == "bank" && tool.State == ostiary.ToolPinned
		if strings.Contains(rec.Body.String(), string(tool.Definition.Bytes())) != shown {
			t.Errorf("law 11: %s is shown: want %v\n%s", tool.Action(), shown, rec.Body)
		}
	}
	w.hide["bank___send"] = true
	if rec = w.do(request("/mcp", "tools/list", "")); strings.Contains(rec.Body.String(), "bank___send") {
		t.Error("B09 a hidden tool is listed")
	}
}
