package outside

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/ostiary/ostiary/verify"
)

// The revisions spoken, on either side.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// calculatorServer is mcp-go's server with tools that policy allows, allows
// for small numbers, and does not mention.
func calculatorServer() *server.MCPServer {
	s := server.NewMCPServer("calculator", "1.0.0", server.WithToolCapabilities(false))
	numbers := []mcp.ToolOption{mcp.WithInteger("a", mcp.Required()), mcp.WithInteger("b", mcp.Required())}
	tool := func(name string, of func(a, b int) string) {
		s.AddTool(mcp.NewTool(name, append(numbers, mcp.WithDescription("Computes with two numbers."))...),
			func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return mcp.NewToolResultText(of(r.GetInt("a", 0), r.GetInt("b", 0))), nil
			})
	}
	tool("add", func(a, b int) string { return fmt.Sprintf("the sum is %d", a+b) })
	tool("power", func(a, b int) string { return "a very large number" })
	return s
}

func calculator(o ...server.StreamableHTTPOption) *server.StreamableHTTPServer {
	return server.NewStreamableHTTPServer(calculatorServer(), o...)
}

func serveStdio() error { return server.ServeStdio(calculatorServer()) }

const policy = `
@id("connect") @reason("Everybody may connect and look.")
permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);

@id("small-sums") @reason("Small sums are for everybody.")
permit (principal, action in [
  Ostiary::Action::"new___add", Ostiary::Action::"old___add", Ostiary::Action::"stdio___add"
], resource)
when { context.input.a < 100 };
`

// guarded is mcp-go's HTTP server behind our package verify. It notes which
// revisions it was addressed in.
type guarded struct {
	verify atomic.Pointer[verify.Verifier] // nil until the gateway told its key
	tools  http.Handler

	mu    sync.Mutex
	spoke []string
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := g.verify.Load()
	if v == nil {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	g.mu.Lock()
	g.spoke = append(g.spoke, r.Header.Get("Mcp-Protocol-Version"))
	g.mu.Unlock()
	v.Middleware(g.tools).ServeHTTP(w, r)
}

// TestMCP: mcp-go's client, in two revisions, speaks through the gateway to
// mcp-go's server, over HTTP in two revisions and on stdio. What the gateway
// logged of it is verified by the others.
func TestMCP(t *testing.T) {
	behind := map[string]*guarded{
		"new": {tools: calculator()},
		"old": {tools: calculator(server.WithStreamableHTTPProtocolVersions(legacy))},
	}
	urls := map[string]string{}
	for name, s := range behind {
		srv := httptest.NewServer(s)
		t.Cleanup(srv.Close)
		urls[name] = srv.URL
	}
	g := startGateway(t, policy, fmt.Sprintf(`
  new: {url: %q, allow_addresses: [127.0.0.1/32]}
  old: {url: %q, allow_addresses: [127.0.0.1/32]}
  stdio: {command: [%q, %q]}
`, urls["new"]+"/mcp", urls["old"]+"/mcp", executable(t), serverCommand))
	for _, s := range behind {
		s.verify.Store(g.verifier(t))
	}
	for _, name := range []string{"new", "old", "stdio"} {
		g.ostiary(t, "tools", "pin", name)
	}
	g.ostiary(t, "agent", "add", "agent/outside", "--principal", "person:dana")
	token := g.ostiary(t, "token", "agent/outside")

	var refusals []string
	for _, revision := range []string{modern, legacy} {
		t.Run(revision, func(t *testing.T) { refusals = append(refusals, converse(t, g.endpoint, token, revision)...) })
	}
	for name, revision := range map[string]string{"new": modern, "old": legacy} {
		if spoke := behind[name].spoke; !slices.Contains(spoke, revision) {
			t.Errorf("server %s was addressed in %q, never in %s", name, spoke, revision)
		}
	}
	t.Run("log", func(t *testing.T) { checkLogs(t, g, refusals) })
}

// converse holds one conversation and returns the entries of what was
// refused.
func converse(t *testing.T, endpoint, token, revision string) (refusals []string) {
	t.Helper()
	c, err := client.NewStreamableHttpClient(endpoint, transport.WithHTTPHeaders(map[string]string{"Authorization": "Bearer " + token}))
	if err != nil {
		t.Fatal(err)
	}
	client.WithProtocolVersion(revision)(c)
	defer c.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var hello mcp.InitializeRequest
	hello.Params.ProtocolVersion = revision
	hello.Params.ClientInfo = mcp.Implementation{Name: "outside", Version: "1"}
	if _, err := c.Initialize(t.Context(), hello); err != nil {
		t.Fatal(err)
	}
	if got := c.ProtocolVersion(); got != revision {
		t.Errorf("the client speaks %s", got)
	}
	list, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	if want := []string{"new___add", "old___add", "stdio___add"}; !slices.Equal(names, want) {
		t.Errorf("the client sees %q, want %q", names, want)
	}
	for _, name := range names {
		if text, r := call(t, c, name, 40); r.IsError || text != "the sum is 42" {
			t.Errorf("%s: %q", name, text)
		}
		text, r := call(t, c, name, 100)
		if !r.IsError || strings.Contains(text, "sum is") {
			t.Errorf("%s of a large number: %q", name, text)
			continue
		}
		entry, _ := r.Meta.AdditionalFields["dev.ostiary/entry"].(string)
		refusals = append(refusals, entry)
	}
	var r mcp.CallToolRequest
	r.Params.Name, r.Params.Arguments = "new___power", map[string]any{"a": 1, "b": 2}
	if got, err := c.CallTool(t.Context(), r); err == nil && !got.IsError {
		t.Errorf("a hidden tool answered %+v", got)
	}
	return refusals
}

func call(t *testing.T, c *client.Client, name string, a int) (string, *mcp.CallToolResult) {
	t.Helper()
	var r mcp.CallToolRequest
	r.Params.Name, r.Params.Arguments = name, map[string]any{"a": a, "b": 2}
	got, err := c.CallTool(t.Context(), r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	text := ""
	for _, part := range got.Content {
		if p, ok := part.(mcp.TextContent); ok {
			text += p.Text
		}
	}
	return text, got
}

// checkLogs proves the refusals by what the program prints, then has both
// logs checked as published.
func checkLogs(t *testing.T, g *gateway, refusals []string) {
	if len(refusals) != 6 {
		t.Fatalf("%d refusals: %q", len(refusals), refusals)
	}
	proofs := map[string]tlogproof.TLogProof{}
	for _, entry := range refusals {
		var p tlogproof.TLogProof
		if err := p.Unmarshal([]byte(g.ostiary(t, "log", "show", entry, "--proof") + "\n")); err != nil {
			t.Fatalf("entry %q: %v", entry, err)
		}
		proofs[entry] = p
	}
	logs := g.logs(t)
	g.stop(t)
	for _, l := range logs {
		if err := l.fsck(t); err != nil {
			t.Errorf("%s: %v", l.origin, err)
		}
	}
	own := logs["gw1"]
	for entry, p := range proofs {
		c := own.checkpoint(t, p.Checkpoint)
		var way [][]byte
		for _, h := range p.Hashes {
			way = append(way, h[:])
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(own.entry(t, p.Index))
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, c.Size, leaf, way, c.Hash); err != nil {
			t.Errorf("entry %s: %v", entry, err)
		}
		if !strings.HasSuffix(entry, fmt.Sprintf("/%d", p.Index)) {
			t.Errorf("entry %s: the proof is of %d", entry, p.Index)
		}
	}
}
