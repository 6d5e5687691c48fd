//lint:file-ignore SA1019 sampling is deprecated, and served for as long as clients ask for it

package mcp

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

// bearerTransport adds the token of an agent, as a client would be configured
// to.
type bearerTransport struct{ token string }

func (b bearerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.RoundTrip(r)
}

// listen serves the door over real HTTP and returns its address.
func (w *world) listen() string {
	w.server = httptest.NewUnstartedServer(w.door)
	w.server.Config = NewServer(w.door, slog.New(slog.DiscardHandler))
	w.server.Start()
	w.t.Cleanup(w.server.Close)
	u, _ := url.Parse(w.server.URL)
	w.door.hosts[u.Host] = true
	return w.server.URL
}

func connect(t *testing.T, address, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, o)
	s, err := c.Connect(context.Background(), &sdk.StreamableClientTransport{
		Endpoint: address, HTTPClient: &http.Client{Transport: bearerTransport{"alice"}},
	}, &sdk.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatalf("connect in %s: %v", version, err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func eachEra(t *testing.T, f func(t *testing.T, version string)) {
	for _, v := range []string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"} {
		t.Run(v, func(t *testing.T) { f(t, v) })
	}
}

func TestSDKClient(t *testing.T) {
	eachEra(t, func(t *testing.T, version string) {
		w := newWorld(t)
		address := w.listen()
		ctx := context.Background()
		s := connect(t, address+"/mcp", version, nil)
		if got := s.InitializeResult().ProtocolVersion; got != version {
			t.Errorf("speaks %s", got)
		}
		tools, err := s.ListTools(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range tools.Tools {
			names = append(names, tool.Name)
		}
		if want := []string{"bank___send", "bank___transfer", "docs___send"}; !slices.Equal(names, want) {
			t.Errorf("sees %q", names)
		}
		got, err := s.CallTool(ctx, &sdk.CallToolParams{Name: "bank___transfer", Arguments: map[string]any{"region": "späce ", "cents": 42, "deep": map[string]any{"dry": true}}})
		if err != nil || got.IsError {
			t.Fatal(got, err)
		}
		if string(w.sent[0].Arguments.Bytes()) == "" || w.sent[0].Tool != "transfer" {
			t.Errorf("forwarded %+v", w.sent[0])
		}
		if p, err := s.ListPrompts(ctx, nil); err != nil || len(p.Prompts) != 1 || p.Prompts[0].Name != "docs___sum" {
			t.Error(p, err)
		}
		w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
			return result(`{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}]}`), nil
		}
		if p, err := s.GetPrompt(ctx, &sdk.GetPromptParams{Name: "docs___sum"}); err != nil || len(p.Messages) != 1 {
			t.Error(p, err)
		}
		if r, err := s.ListResources(ctx, nil); err != nil || len(r.Resources) != 3 {
			t.Error(r, err)
		}
		if r, err := s.ListResourceTemplates(ctx, nil); err != nil || len(r.ResourceTemplates) != 1 || r.ResourceTemplates[0].URITemplate != "ostiary://docs/file:///{path}" {
			t.Error(r, err)
		}
		w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
			return result(`{"contents":[{"uri":"file:///x","text":"hi"}],"cacheScope":"public","ttlMs":5}`), nil
		}
		if r, err := s.ReadResource(ctx, &sdk.ReadResourceParams{URI: "ostiary://docs/file:///x"}); err != nil || len(r.Contents) != 1 {
			t.Error(r, err)
		}
		if a := w.sent[len(w.sent)-1]; a.URI != "file:///x" || !a.Arguments.Get("uri").Is("file:///x") {
			t.Errorf("read %+v %s", a, a.Arguments.Bytes())
		}
		w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
			return result(`{"completion":{"values":["a"]}}`), nil
		}
		c, err := s.Complete(ctx, &sdk.CompleteParams{Ref: &sdk.CompleteReference{Type: "ref/prompt", Name: "docs___sum"}, Argument: sdk.CompleteParamsArgument{Name: "style", Value: "x"}})
		if err != nil || len(c.Completion.Values) != 1 {
			t.Error(c, err)
		}
		if a := w.sent[len(w.sent)-1]; a.Tool != "sum" || a.Server != "docs" {
			t.Errorf("completed %+v", a)
		}
		if version != "2026-07-28" {
			if err := s.Ping(ctx, nil); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestSDKClientIsRefusedInWords(t *testing.T) {
	eachEra(t, func(t *testing.T, version string) {
		w := newWorld(t)
		s := connect(t, w.listen()+"/mcp", version, nil)
		w.mu.Lock()
		w.decide = func(*ostiary.Request) ostiary.Decision {
			return ostiary.Decision{Code: "forbid", Reasons: []ostiary.Reason{{Policy: "limits", Text: "Over the limit."}}, Remedies: []ostiary.Remedy{{Fact: "approval:finance"}}}
		}
		w.mu.Unlock()
		got, err := s.CallTool(context.Background(), &sdk.CallToolParams{Name: "bank___send", Arguments: map[string]any{"to": "x"}})
		if err != nil || !got.IsError {
			t.Fatal(got, err)
		}
		text := got.Content[0].(*sdk.TextContent).Text
		for _, want := range []string{"Refused:", "Over the limit.", "(policy limits)", "approval:finance", "Entry 2026-11/7"} {
			if !strings.Contains(text, want) {
				t.Errorf("the model does not read %q in %q", want, text)
			}
		}
		if got.Meta["dev.ostiary/kind"] != "denied" || got.Meta["dev.ostiary/entry"] != "2026-11/7" {
			t.Errorf("meta %v", got.Meta)
		}
		if _, err := s.ListTools(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "policy does not permit") {
			t.Errorf("a denied list: %v", err)
		}
	})
}

func TestSDKProgress(t *testing.T) {
	eachEra(t, func(t *testing.T, version string) {
		w := newWorld(t)
		told := make(chan *sdk.ProgressNotificationParams, 4)
		s := connect(t, w.listen()+"/mcp", version, &sdk.ClientOptions{
			ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) { told <- r.Params },
		})
		w.forward = func(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
			if !q.Progress {
				t.Error("the wish for progress was lost")
			}
			return gatetest.Frames(
				gate.Frame{Kind: gate.FrameNotification, Method: "notifications/progress", Body: value(`{"progressToken":99,"progress":1,"total":2}`)},
				gate.Frame{Kind: gate.FrameResult, Body: value(`{"content":[]}`)},
			), nil
		}
		p := &sdk.CallToolParams{Name: "bank___send", Arguments: map[string]any{}}
		p.SetProgressToken("mine")
		if _, err := s.CallTool(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		select {
		case n := <-told:
			if n.ProgressToken != "mine" || n.Progress != 1 {
				t.Errorf("told %+v", n)
			}
		case <-time.After(5 * time.Second):
			t.Error("no progress")
		}
	})
}

// TestSDKSampling has a server ask the client in the way of each era.
func TestSDKSampling(t *testing.T) {
	ask := `{"messages":[{"role":"user","content":{"type":"text","text":"?"}}],"maxTokens":5}`
	eachEra(t, func(t *testing.T, version string) {
		w := newWorld(t)
		s := connect(t, w.listen()+"/mcp", version, &sdk.ClientOptions{
			CreateMessageHandler: func(context.Context, *sdk.CreateMessageRequest) (*sdk.CreateMessageResult, error) {
				return &sdk.CreateMessageResult{Model: "m", Role: "assistant", Content: &sdk.TextContent{Text: "42"}}, nil
			},
		})
		answered := make(chan string, 2)
		w.forward = func(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
			if version != "2026-07-28" {
				return &asking{params: value(ask), answered: answered}, nil
			}
			if q.Action.Responses.Exists() {
				answered <- string(q.Action.Responses.Get("s").Bytes())
				if string(q.Action.State) != "their \"state\"" {
					t.Errorf("state %q", q.Action.State)
				}
				return result(`{"content":[]}`), nil
			}
			return result(`{"resultType":"input_required","inputRequests":{"s":{"method":"sampling/createMessage","params":` + ask + `}},"requestState":"their \"state\""}`), nil
		}
		got, err := s.CallTool(context.Background(), &sdk.CallToolParams{Name: "bank___send", Arguments: map[string]any{}})
		if err != nil || got.IsError {
			t.Fatal(got, err)
		}
		if a := <-answered; !strings.Contains(a, "42") {
			t.Errorf("the server was answered %q", a)
		}
		var nested *gate.Call
		for i := range w.calls {
			if w.calls[i].Action.Name == "sample" {
				nested = &w.calls[i]
			}
		}
		if nested == nil || nested.Parent.IsZero() || nested.Action.Server != "bank" || nested.Target.Kind != gate.ToClient {
			t.Errorf("sampling did not pass the gate inside its call: %+v", nested)
		}
	})
}

// asking is a legacy server's reply that asks the client first.
type asking struct {
	params   ostiary.Value
	method   string
	answered chan string
	step     int
}

func (a *asking) Next(context.Context) (gate.Frame, error) {
	a.step++
	if a.step == 1 {
		m := a.method
		if m == "" {
			m = "sampling/createMessage"
		}
		return gate.Frame{Kind: gate.FrameRequest, Method: m, ID: "h1", Body: a.params}, nil
	}
	return gate.Frame{Kind: gate.FrameResult, Body: value(`{"content":[]}`)}, nil
}

func (a *asking) Answer(_ context.Context, id string, kind gate.FrameKind, body []byte) error {
	if id != "h1" {
		return ostiary.Errorf(ostiary.Internal, "id", "wrong handle")
	}
	a.answered <- map[gate.FrameKind]string{gate.FrameResult: "result ", gate.FrameError: "error "}[kind] + string(body)
	return nil
}

func (a *asking) Close() error { return nil }

func TestSDKListChanged(t *testing.T) {
	eachEra(t, func(t *testing.T, version string) {
		w := newWorld(t)
		t.Parallel()
		told := make(chan bool, 8)
		w.listens = make(chan bool)
		connect(t, w.listen()+"/mcp", version, &sdk.ClientOptions{
			ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { told <- true },
		})
		<-w.listens // the stream opens behind Connect
		w.mu.Lock()
		w.tools = append(slices.Clone(w.tools), def(t, "docs", "tool", `{"name":"new","inputSchema":{"type":"object"}}`))
		w.mu.Unlock()
		select {
		case <-told:
		case <-time.After(3 * listenPoll):
			t.Error("no word of the changed list")
		}
		w.door.Close()
	})
}
