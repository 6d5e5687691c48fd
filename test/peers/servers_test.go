package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The reference servers that npm distributes, by their configured names. They
// run on stdio and speak the revisions before 2026-07-28.
const (
	files      = "files"
	memory     = "memory"
	everyThing = "everything"
)

// referencePolicy opens what the conversation uses, by path where that
// matters.
const referencePolicy = `
@id("protocol") @reason("Everybody may connect and see what they may use.")
permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);

@id("reads") @reason("Reading the shared folder is open.")
permit (principal, action in [
  Ostiary::Action::"files___read_text_file", Ostiary::Action::"files___list_directory"
], resource == Ostiary::Server::"files");

@id("no-drafts") @reason("Drafts are not for agents.")
forbid (principal, action == Ostiary::Action::"files___read_text_file", resource)
when { context.input.path like "*/drafts/*" };

@id("graph") @reason("The knowledge graph grows, it does not shrink.")
permit (principal, action in [
  Ostiary::Action::"memory___create_entities", Ostiary::Action::"memory___search_nodes", Ostiary::Action::"memory___read_graph"
], resource == Ostiary::Server::"memory");

@id("graph-read") @reason("So does its resource.")
permit (principal, action == Ostiary::Action::"read_resource", resource == Ostiary::Server::"memory");

@id("everything") @reason("The reference server's harmless tools.")
permit (principal, action in [
  Ostiary::Action::"everything___echo", Ostiary::Action::"everything___get-sum", Ostiary::Action::"everything___get-structured-content",
  Ostiary::Action::"everything___trigger-long-running-operation", Ostiary::Action::"everything___trigger-sampling-request",
  Ostiary::Action::"everything___trigger-elicitation-request", Ostiary::Action::"everything___trigger-url-elicitation",
  Ostiary::Action::"everything___get-roots-list",
  Ostiary::Action::"get_prompt", Ostiary::Action::"read_resource", Ostiary::Action::"complete"
], resource == Ostiary::Server::"everything");

@id("everything-asks") @reason("It may ask back.")
permit (principal, action in Ostiary::Action::"from_server", resource == Ostiary::Server::"everything");
`

// TestReferenceServers puts the reference servers behind the gateway and
// holds a conversation with all of them through the bridge.
func TestReferenceServers(t *testing.T) {
	node := nodeBinary(t)
	g, folder := referenceGateway(t, node)
	own := map[string]bool{"go-sdk": true, "go-sdk-legacy": true, "typescript-sdk-1": true}
	for _, p := range peers(t) {
		if own[p.name] {
			t.Run(p.name, func(t *testing.T) { hold(t, p, g.bridge(t), referenceSteps(folder, p.era)) })
		}
	}
	t.Run("elicitation", func(t *testing.T) { elicitByURL(t, g.bridge(t)) })
	if _, err := os.Stat(filepath.Join(folder, "new.txt")); err == nil {
		t.Error("a refused call wrote a file")
	}
	wantRefused(t, g, "files___read_text_file forbid", "files___read_text_file schema", "elicit elicitation_secret", "elicit elicitation_origin")
}

// wantRefused waits until the log's index, which lags, has refusals with these
// actions and codes.
func wantRefused(t *testing.T, g *gateway, want ...string) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(20 * time.Second); ; {
		refused := map[string]bool{}
		for line := range strings.Lines(g.ostiary(t, "--json", "log", "--decision", "deny")) {
			var x struct{ Action, Code string }
			if err := json.Unmarshal([]byte(line), &x); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			refused[x.Action+" "+x.Code] = true
		}
		if !slices.ContainsFunc(want, func(s string) bool { return !refused[s] }) {
			return
		}
		select {
		case <-late:
			t.Errorf("of %q the log has %v", want, refused)
			return
		case <-tick.C:
		}
	}
}

// referenceGateway is a gateway before the three servers, with a folder that
// one of them shares.
func referenceGateway(t *testing.T, node string) (g *gateway, folder string) {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "notes.txt"), "the meeting is on Tuesday\n")
	write(t, filepath.Join(folder, "drafts", "letter.txt"), "not yet\n")
	script := func(name string) string {
		path, err := filepath.Abs(filepath.Join("node_modules", "@modelcontextprotocol", "server-"+name, "dist", "index.js"))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	g = newGateway(t, fmt.Sprintf(`
  files: {command: [%q, %q, %q]}
  memory: {command: [%q, %q], env: {MEMORY_FILE_PATH: %q}}
  everything: {command: [%q, %q], origins: ["https://example.com"]}`,
		node, script("filesystem"), folder,
		node, script("memory"), filepath.Join(t.TempDir(), "memory.jsonl"),
		node, script("everything")), referencePolicy, files, memory, everyThing)
	return g, folder
}

func referenceSteps(folder, era string) []step {
	name := func(server, tool string) string { return server + "___" + tool }
	const features = "demo://resource/static/document/features.md"
	steps := []step{
		{Op: "list", names: []string{name(files, "read_text_file"), name(memory, "create_entities"), name(everyThing, "echo")},
			hidden: []string{name(files, "write_file"), name(memory, "delete_entities"), name(everyThing, "get-env")}},
		{Op: "call", Name: name(files, "read_text_file"), Arguments: map[string]any{"path": filepath.Join(folder, "notes.txt")}, text: "on Tuesday"},
		{Op: "call", Name: name(files, "list_directory"), Arguments: map[string]any{"path": folder}, text: "[FILE] notes.txt"},
		{Op: "call", Name: name(files, "read_text_file"), Arguments: map[string]any{"path": "/etc/passwd"}, text: "Access denied", isError: true},
		{Op: "call", Name: name(files, "read_text_file"), Arguments: map[string]any{"path": filepath.Join(folder, "drafts", "letter.txt")}, text: "Drafts are not for agents", isError: true, entry: true},
		{Op: "call", Name: name(files, "read_text_file"), Arguments: map[string]any{"path": 5}, text: "Refused: ", isError: true, entry: true},
		{Op: "call", Name: name(files, "write_file"), Arguments: map[string]any{"path": filepath.Join(folder, "new.txt"), "content": "x"}, fails: true},

		{Op: "call", Name: name(memory, "create_entities"), Arguments: map[string]any{"entities": []any{map[string]any{"name": "Dana", "entityType": "person", "observations": []any{"keeps the door"}}}}},
		{Op: "call", Name: name(memory, "search_nodes"), Arguments: map[string]any{"query": "door"}, text: "Dana"},
		{Op: "resource", Name: "memory://knowledge-graph", text: "keeps the door"},
		{Op: "call", Name: name(memory, "delete_entities"), Arguments: map[string]any{"entityNames": []any{"Dana"}}, fails: true},
		{Op: "call", Name: name(memory, "read_graph"), text: "Dana"},

		{Op: "call", Name: name(everyThing, "echo"), Arguments: map[string]any{"message": "hello"}, text: "Echo: hello"},
		{Op: "call", Name: name(everyThing, "get-sum"), Arguments: map[string]any{"a": 19, "b": 23}, text: "42"},
		{Op: "call", Name: name(everyThing, "get-structured-content"), Arguments: map[string]any{"location": "Chicago"}, text: "conditions"},
		{Op: "call", Name: name(everyThing, "trigger-long-running-operation"), Arguments: map[string]any{"duration": 0.2, "steps": 2}, Progress: true, text: "completed"},
		{Op: "call", Name: name(everyThing, "get-env"), fails: true},
		{Op: "resources", names: []string{features, "memory://knowledge-graph"}},
		{Op: "resource", Name: features, text: "Everything Server"},
		{Op: "prompts", names: []string{name(everyThing, "completable-prompt")}},
		{Op: "prompt", Name: name(everyThing, "completable-prompt"), Arguments: map[string]any{"department": "Sales", "name": "Eve"}, text: "promote Eve to the head of the Sales team"},
		{Op: "complete", Name: name(everyThing, "completable-prompt"), Argument: map[string]string{"name": "department", "value": "Eng"}, names: []string{"Engineering"}},
	}
	sampling := step{Op: "call", Name: name(everyThing, "trigger-sampling-request"), Arguments: map[string]any{"prompt": "six times seven?", "maxTokens": 10}, text: "forty-two"}
	if era == modern {
		sampling.text, sampling.isError = "cannot be asked", true // in that revision nobody is asked inside a call
	}
	// Its form says not to give it a pin. That is a word we do not look behind.
	form := step{Op: "call", Name: name(everyThing, "trigger-elicitation-request"), Arguments: map[string]any{}, text: "did not pass this request", isError: true}
	return append(steps, sampling, form)
}

// elicitByURL has the everything-server send a person to a page: of the origin
// it is configured for, and of another.
func elicitByURL(t *testing.T, to target) {
	ctx, cancel := context.WithTimeout(t.Context(), peerTime)
	defer cancel()
	var asked []string
	c := mcp.NewClient(&mcp.Implementation{Name: "ostiary-peer", Version: "1"}, &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{URL: &mcp.URLElicitationCapabilities{}}},
		ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			asked = append(asked, r.Params.URL)
			return &mcp.ElicitResult{Action: "accept"}, nil
		},
	})
	session, err := c.Connect(ctx, &mcp.CommandTransport{Command: command(t, to.Command, to.Args...)}, &mcp.ClientSessionOptions{ProtocolVersion: legacy})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for url, accepted := range map[string]bool{"https://example.com/consent": true, "https://example.net/consent": false} {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "everything___trigger-url-elicitation", Arguments: map[string]any{"url": url, "message": "Please look."}})
		if err != nil {
			t.Fatal(err)
		}
		if text := content(res.Content...); res.IsError == accepted || accepted && !strings.Contains(text, "completed the URL elicitation") {
			t.Errorf("%s: isError is %t: %s", url, res.IsError, text)
		}
	}
	if len(asked) != 1 || asked[0] != "https://example.com/consent" {
		t.Errorf("the person was sent to %q", asked)
	}
}
