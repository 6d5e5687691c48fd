package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
	"github.com/ostiary/ostiary/proof"
)

// fakeGate is a gateway by hand: enough of one for the story to be told
// before it, and a switch for each way in which it may not keep its word.
type fakeGate struct {
	t      *testing.T
	tools  running
	bank   *mcp.ClientSession
	log    string // folder
	faults map[string]bool

	mu      sync.Mutex
	entries []entry
}

const fakeKey = "let me through"

// guard stands in for package verify.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Fake-Signature") != fakeKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// signing adds the fake signature and the entry's number.
type signing struct{ g *fakeGate }

func (s signing) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Fake-Signature", fakeKey)
	s.g.mu.Lock()
	r.Header.Set(EntryHeader, fmt.Sprintf("2026-11/%d", len(s.g.entries)-1))
	s.g.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

// record writes an entry to the log's file and the index.
func (g *fakeGate) record(kind, action, disposition string, policies ...string) entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := sha256.Sum256(fmt.Append(nil, len(g.entries)))
	e := entry{Ref: fmt.Sprintf("2026-11/%d", len(g.entries)), ID: hex.EncodeToString(id[:16]), Kind: kind,
		Policies: policies, Disposition: disposition, Snapshot: 1}
	g.entries = append(g.entries, e)
	f, err := os.OpenFile(filepath.Join(g.log, "segment"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s%s;", id[:16], action)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		g.t.Error(err)
	}
	return e
}

// refusal is how a gateway tells one.
func (g *fakeGate) refusal(e entry, code string, reasons, remedies []any) *mcp.CallToolResult {
	res := text("Refused: because. Reason: x (policy y). Entry %s.", e.Ref)
	res.IsError = true
	res.Meta = mcp.Meta{nameCode: code, nameEntry: e.Ref, nameWhy: reasons, nameRemedy: remedies}
	return res
}

func (g *fakeGate) call(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	server, name, _ := strings.Cut(r.Params.Name, "___")
	_, err := os.Stat(g.tools.trigger)
	changed := err == nil && !g.faults["no pins"]
	switch {
	case r.Extra != nil && r.Extra.Header.Get("Ostiary-Mandate") == "m-sub" && name != "get_balance" && !g.faults["wide mandates"]:
		return g.refusal(g.record("outcome", r.Params.Name, "refused"), "mandate", nil, nil), nil
	case server == Inbox && changed:
		return g.refusal(g.record("outcome", r.Params.Name, "refused"), "tool_changed", nil, nil), nil
	case strings.Contains(string(r.Params.Arguments), "250000") && !g.faults["no limit"]:
		e := g.record("outcome", r.Params.Name, "refused", "pay-over-limit")
		if g.faults["no entry"] {
			e.Ref = ""
		}
		return g.refusal(e, "forbid", []any{map[string]any{"policy": "pay-over-limit", "text": "too much"}}, []any{"approval:finance"}), nil
	}
	g.record("intent", r.Params.Name, "", "a-policy")
	if server != Bank {
		return text("read"), nil
	}
	if g.faults["calls twice"] && name == "send_payment" {
		if _, err := g.bank.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: r.Params.Arguments}); err != nil {
			return nil, err
		}
	}
	return g.bank.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: r.Params.Arguments})
}

// handler is the gateway's own endpoint.
func (g *fakeGate) handler() http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "fake", Version: "1"}, nil)
	for _, name := range []string{tool(Bank, "get_balance"), tool(Bank, "send_payment"), tool(Inbox, "read_message")} {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, g.call)
	}
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			g.t.Error(err)
		}
		var e *ostiary.Error
		if _, err := strictjson.Parse(bytes.Clone(body), strictjson.Request); errors.As(err, &e) && !g.faults["last key wins"] {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"the key is there twice","data":{"kind":"malformed","code":%q,"entry":%q}}}`,
				e.Code, g.record("outcome", "", "refused").Ref)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(w, r)
	})
}

// ask is the administrative API.
func (g *fakeGate) ask(_ context.Context, method, path string, q url.Values, _, out any) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch method + " " + path {
	case "GET /v1/log":
		page := out.(*listing)
		text, err := os.ReadFile(filepath.Join(g.log, "segment"))
		if err != nil {
			return err
		}
		for i := len(g.entries) - 1; i >= 0; i-- {
			e := g.entries[i]
			raw, err := hex.DecodeString(e.ID)
			if err != nil {
				return err
			}
			if e.Kind == q.Get("kind") && bytes.Contains(text, append(raw, q.Get("action")+";"...)) {
				page.Entries = append(page.Entries, e)
			}
		}
	case "GET /v1/log/entry":
		out.(*listing).Entries = g.entries
	case "POST /v1/tools/read":
		state := "pinned"
		if _, err := os.Stat(g.tools.trigger); err == nil {
			state = "changed"
		}
		*out.(*[]definition) = []definition{{"tool", "read_message", state}}
	case "GET /v1/tools/diff":
		*out.(*map[string]string) = map[string]string{"diff": " same\n-old \x1b[31m\n+new"}
	default:
		return fmt.Errorf("no %s %s", method, path)
	}
	return nil
}

// derive gives the agent's mandate in part.
func (g *fakeGate) derive(_ context.Context, terms string) (string, error) {
	if strings.Contains(terms, Documents) && !g.faults["anything derived"] {
		return "", errors.New("mandate m-1 does not have it")
	}
	return "m-sub", nil
}

// helping names the mandate the helper acts under.
type helping struct{ mandate string }

func (h helping) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Ostiary-Mandate", h.mandate)
	return http.DefaultTransport.RoundTrip(r)
}

// verify finds the first entry whose action no longer is what was written.
func (g *fakeGate) verify(_ context.Context, folder string) (Verified, error) {
	want, err := os.ReadFile(filepath.Join(g.log, "segment"))
	if err != nil {
		return Verified{}, err
	}
	got, err := os.ReadFile(filepath.Join(folder, "segment"))
	if err != nil {
		return Verified{}, err
	}
	if bytes.Equal(want, got) || g.faults["blind verifier"] {
		return Verified{"demo/gw1/2026-11", uint64(len(g.entries))}, nil
	}
	at := 0
	for want[at] == got[at] {
		at++
	}
	n := bytes.Count(got[:at], []byte(";"))
	if g.faults["vague verifier"] {
		n++
	}
	return Verified{}, &proof.Fault{Ref: ostiary.EntryRef{Month: "2026-11", Index: uint64(n)}, What: "the entry does not match its hash"}
}

// stage sets the story up before a fake gateway.
func stage(t *testing.T, faults ...string) (*Story, *strings.Builder) {
	t.Helper()
	g := &fakeGate{t: t, log: t.TempDir(), faults: map[string]bool{}}
	for _, f := range faults {
		g.faults[f] = true
	}
	o := ServerOptions{Guard: guard}
	if g.faults["no guard"] {
		o = ServerOptions{Unguarded: true}
	}
	g.tools = start(t, o)
	g.record("open", "", "")
	g.bank = connect(t, &mcp.StreamableClientTransport{Endpoint: g.tools.url + "/" + Bank, HTTPClient: &http.Client{Transport: signing{g}}}, "2026-07-28", nil)
	gateway := httptest.NewServer(g.handler())
	t.Cleanup(gateway.Close)
	var out strings.Builder
	return &Story{
		Endpoint: gateway.URL, Agent: gateway.Client(), AgentName: "assistant", Derive: g.derive, Helper: func(m string) *http.Client { return &http.Client{Transport: helping{m}} }, Plain: http.DefaultClient,
		Tools: g.tools.url, Journals: []string{g.tools.journal}, Trigger: g.tools.trigger,
		Ask: g.ask, Log: g.log, Verify: g.verify, Out: &out,
	}, &out
}

func TestStory(t *testing.T) {
	s, out := stage(t)
	began := time.Now()
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %s", d)
	}
	for i, l := range strings.Split(out.String(), "\n") {
		if n := len([]rune(l)); n > width {
			t.Errorf("line %d has %d characters: %s", i+1, n, l)
		}
		if strings.ContainsAny(l, "\x1b\r\t") {
			t.Errorf("line %d has control characters: %q", i+1, l)
		}
	}
	for _, want := range []string{"All 8 steps came out as told", "pay-over-limit: too much", "approval:finance would change it", "received 0 bytes", "HTTP status 401",
		`"bank___send_payment" became "bank___send_qayment"`, "entry 2026-11/2: the entry does not match its hash"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story does not say %q", want)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Log(out)
	}
	if _, err := os.Stat(s.Trigger); err == nil {
		t.Error("the trigger file is still there")
	}
}

// Each way of not keeping one's word fails the story at its step.
func TestStoryNotAsTold(t *testing.T) {
	for fault, step := range map[string]string{
		"no limit":         "step 3",
		"no entry":         "step 3",
		"no pins":          "step 4",
		"last key wins":    "step 5",
		"no guard":         "step 6",
		"wide mandates":    "step 7",
		"anything derived": "step 7",
		"blind verifier":   "step 8",
		"vague verifier":   "step 8",
		"calls twice":      "step 2",
	} {
		t.Run(fault, func(t *testing.T) {
			s, out := stage(t, fault)
			err := s.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), step) || !strings.Contains(out.String(), "did not come out as told") {
				t.Errorf("%v\n%s", err, out)
			}
			if n := strings.Count(fmt.Sprint(err), "step "); n != 1 {
				t.Errorf("%d steps failed: %v", n, err)
			}
		})
	}
}

func TestInvite(t *testing.T) {
	var out strings.Builder
	err := Invite(&out, Invitation{Endpoint: "http://127.0.0.1:8080/mcp", Token: "t", Expires: "12:00", Bridge: []string{"ostiary", "connect"}, Config: "/c.yaml"})
	if err != nil || !strings.Contains(out.String(), "Authorization: Bearer t") || !strings.Contains(out.String(), "ostiary connect") {
		t.Errorf("%v %s", err, &out)
	}
	if err := Invite(full{}, Invitation{}); err == nil {
		t.Error("a failed write went unnoticed")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{
		{"", 5, ""},
		{"a b", 5, "a b"},
		{"aaa bbb", 5, "aaa|bbb"},
		{"aaaaaaaa b", 5, "aaaaa|aaa b"},
		{"x ääääää", 4, "x|ääää|ää"},
	} {
		if got := strings.Join(wrap(tc.text, tc.n), "|"); got != tc.want {
			t.Errorf("wrap(%q, %d) = %q, want %q", tc.text, tc.n, got, tc.want)
		}
	}
}
