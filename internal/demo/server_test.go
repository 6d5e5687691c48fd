//lint:file-ignore SA1019 sampling is deprecated and still served: it must be exercised

package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// running is a tool server inside the test, over HTTP.
type running struct {
	url     string // without a path
	journal string
	trigger string
}

func (r running) events(t *testing.T) []Event {
	t.Helper()
	events, err := ReadJournal(r.journal)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// start runs a tool server until the test ends.
func start(t *testing.T, o ServerOptions) running {
	t.Helper()
	dir := t.TempDir()
	o.HTTP = "127.0.0.1:0"
	o.Journal, o.Trigger = filepath.Join(dir, "journal"), filepath.Join(dir, "trigger")
	stdin, hold := io.Pipe()
	announced, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- RunServer(t.Context(), o, stdin, stdout) }()
	t.Cleanup(func() {
		hold.Close() // the end of stdin is the end of the server
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(announced).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a Announcement
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	return running{a.Listening, o.Journal, o.Trigger}
}

// answers are the client's handlers for what a server asks back.
func answers() *mcp.ClientOptions {
	return &mcp.ClientOptions{
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Model: "test", Role: "assistant", Content: &mcp.TextContent{Text: "forty-two"}}, nil
		},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"answer": "blue"}}, nil
		},
	}
}

func connect(t *testing.T, tr mcp.Transport, version string, o *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, o)
	s, err := c.Connect(t.Context(), tr, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if got := s.InitializeResult().ProtocolVersion; got != version {
		t.Fatalf("negotiated %s, want %s", got, version)
	}
	return s
}

func call(t *testing.T, s *mcp.ClientSession, tool string, args any) *mcp.CallToolResult {
	t.Helper()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	return res
}

// eras are the revisions every conversation is held in.
var eras = []string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"}

func TestToolServerOverHTTP(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			r := start(t, ServerOptions{Unguarded: true})
			s := connect(t, &mcp.StreamableClientTransport{Endpoint: r.url + "/mcp"}, era, answers())
			converse(t, s)
			if got := Payments(r.events(t)); len(got) != 1 || got[0].Amount != 4500 {
				t.Errorf("journal has payments %v", got)
			}
			if n := Arrived(r.events(t), "for the journal"); n != 1 {
				t.Errorf("the payment arrived %d times", n)
			}
		})
	}
}

func TestToolServerOverStdio(t *testing.T) {
	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			journal := filepath.Join(t.TempDir(), "journal")
			theirs, ours := io.Pipe()
			back, out := io.Pipe()
			done := make(chan error, 1)
			go func() { done <- RunServer(t.Context(), ServerOptions{Stdio: true, Journal: journal}, theirs, out) }()
			s := connect(t, &mcp.IOTransport{Reader: back, Writer: ours}, era, answers())
			converse(t, s)
			s.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
			events, err := ReadJournal(journal)
			if err != nil {
				t.Fatal(err)
			}
			if n := Arrived(events, "for the journal"); n != 1 || len(Payments(events)) != 1 {
				t.Errorf("the payment arrived %d times, was made %d times", n, len(Payments(events)))
			}
		})
	}
}

// converse uses each thing the server offers once.
func converse(t *testing.T, s *mcp.ClientSession) {
	t.Helper()
	ctx := t.Context()
	tools, err := s.ListTools(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(tools.Tools) != 13 {
		t.Errorf("%d tools", len(tools.Tools))
	}
	for _, tc := range []struct {
		tool string
		args any
		want string
	}{
		{"list_accounts", map[string]any{}, `"household"`},
		{"get_balance", map[string]any{"account": "household"}, `"balance":1284050`},
		{"send_payment", map[string]any{"from": "household", "to": "landlord", "amount": 4500, "currency": "EUR", "note": "for the journal"}, "Payment 1: 45.00 EUR"},
		{"get_balance", map[string]any{"account": "household"}, `"balance":1279550`},
		{"list_messages", map[string]any{}, "Your parcel is waiting"},
		{"read_message", map[string]any{"id": "m2"}, "NOTE TO THE ASSISTANT"},
		{"list_documents", map[string]any{}, "payees.md"},
		{"write_document", map[string]any{"name": "new.md", "text": "hello"}, "Wrote 5 bytes"},
		{"read_document", map[string]any{"name": "new.md"}, "hello"},
		{"ask_model", map[string]any{"question": "?"}, "The model said: forty-two"},
		{"ask_person", map[string]any{"question": "?"}, "The person said: blue"},
		{"slow_count", map[string]any{"to": 3}, "Counted to 3."},
		{"echo", json.RawMessage(`{"value":1e2,"text":"a\u0062"}`), `{"value":1e2,"text":"a\u0062"}`},
	} {
		if res := call(t, s, tc.tool, tc.args); !strings.Contains(contentText(res.Content...), tc.want) || res.IsError {
			t.Errorf("%s: %q (error %t), want %q in it", tc.tool, contentText(res.Content...), res.IsError, tc.want)
		}
	}
	if res := call(t, s, "big_result", map[string]any{"bytes": 1 << 20}); len(contentText(res.Content...)) != 1<<20 {
		t.Errorf("big_result has %d bytes", len(contentText(res.Content...)))
	}
	if res := call(t, s, "send_payment", map[string]any{"from": "household", "to": "x", "amount": 9_999_999, "currency": "EUR"}); !res.IsError {
		t.Error("an overdrawn payment was made")
	}

	rr, err := s.ReadResource(ctx, &mcp.ReadResourceParams{URI: DocumentURI("new.md")})
	if err != nil || rr.Contents[0].Text != "hello" {
		t.Errorf("resource: %v, %v", rr, err)
	}
	if _, err := s.ReadResource(ctx, &mcp.ReadResourceParams{URI: DocumentURI("none")}); err == nil {
		t.Error("a resource that is not there was read")
	}
	pr, err := s.GetPrompt(ctx, &mcp.GetPromptParams{Name: "summarise_document", Arguments: map[string]string{"name": "payees.md"}})
	if err != nil || !strings.Contains(contentText(pr.Messages[0].Content), "landlord") {
		t.Errorf("prompt: %v, %v", pr, err)
	}
	cr, err := s.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "summarise_document"},
		Argument: mcp.CompleteParamsArgument{Name: "name", Value: "p"}})
	if err != nil || !slices.Equal(cr.Completion.Values, []string{"payees.md"}) {
		t.Errorf("completion: %v, %v", cr, err)
	}
}

func TestLegacyToolServer(t *testing.T) {
	r := start(t, ServerOptions{Unguarded: true, Legacy: true})
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	s, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: r.url + "/mcp"}, nil) // asks for the newest
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if v := s.InitializeResult().ProtocolVersion; v != "2025-11-25" {
		t.Errorf("negotiated %s", v)
	}
	if res := call(t, s, "list_accounts", map[string]any{}); res.IsError {
		t.Error(res.Content)
	}
}

func TestProgressAndCancellation(t *testing.T) {
	for _, era := range []string{"2026-07-28", "2025-11-25"} {
		t.Run(era, func(t *testing.T) {
			r := start(t, ServerOptions{Unguarded: true, Families: []string{Lab}})
			ctx, cancel := context.WithCancel(t.Context())
			var heard atomic.Int64
			s := connect(t, &mcp.StreamableClientTransport{Endpoint: r.url + "/lab"}, era, &mcp.ClientOptions{
				ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) {
					if heard.Add(1) == 2 {
						cancel()
					}
				}})
			p := &mcp.CallToolParams{Name: "slow_count", Arguments: map[string]any{"to": 600, "pause_ms": 100}}
			p.SetProgressToken("count")
			if _, err := s.CallTool(ctx, p); !errors.Is(err, context.Canceled) {
				t.Fatalf("the call ended with %v", err)
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
				if slices.ContainsFunc(r.events(t), func(e Event) bool { return e.What == Cancelled }) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatal("the server was never told")
				}
			}
		})
	}
}

func TestDefinitionChanges(t *testing.T) {
	r := start(t, ServerOptions{Unguarded: true, Families: []string{Inbox}})
	read := func() *mcp.Tool {
		s := connect(t, &mcp.StreamableClientTransport{Endpoint: r.url + "/inbox"}, "2026-07-28", nil)
		for tool, err := range s.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			if tool.Name == "read_message" {
				return tool
			}
		}
		t.Fatal("no read_message")
		return nil
	}
	before := read()
	if err := os.WriteFile(r.trigger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if after := read(); after.Description == before.Description || !strings.Contains(jsonOf(t, after.InputSchema), "context") {
		t.Error("the definition did not change")
	}
	if err := os.Remove(r.trigger); err != nil {
		t.Fatal(err)
	}
	if again := read(); jsonOf(t, again) != jsonOf(t, before) {
		t.Error("the definition did not change back")
	}
}

func TestGuard(t *testing.T) {
	t.Run("refused requests are journaled and have no effect", func(t *testing.T) {
		r := start(t, ServerOptions{Guard: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		}})
		resp, err := http.Post(r.url+"/bank", "application/json", strings.NewReader(`{"marker":"direct"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d", resp.StatusCode)
		}
		events := r.events(t)
		if len(events) != 2 || events[0].What != Received || events[1].What != Refused || events[1].Status != 401 || Arrived(events, "direct") != 1 {
			t.Errorf("journal %+v", events)
		}
	})
	for name, o := range map[string]ServerOptions{
		"none":            {HTTP: "127.0.0.1:0"},
		"not loopback":    {HTTP: "0.0.0.0:0", Unguarded: true},
		"a name":          {HTTP: "localhost:0", Unguarded: true},
		"nothing":         {},
		"both":            {HTTP: "127.0.0.1:0", Stdio: true, Unguarded: true},
		"unknown family":  {Stdio: true, Families: []string{"bonk"}},
		"no journal file": {Stdio: true, Journal: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			if err := RunServer(t.Context(), o, strings.NewReader(""), io.Discard); err == nil {
				t.Error("it started")
			}
		})
	}
}

func TestMoney(t *testing.T) {
	for minor, want := range map[int64]string{0: "0.00 EUR", 5: "0.05 EUR", 100000: "1,000.00 EUR", 123456789: "1,234,567.89 EUR", -250: "-2.50 EUR"} {
		if got := Money(minor, "EUR"); got != want {
			t.Errorf("Money(%d) = %q, want %q", minor, got, want)
		}
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
