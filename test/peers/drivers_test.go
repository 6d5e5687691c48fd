//lint:file-ignore SA1019 sampling is deprecated and still served: it must be exercised

package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// target is where a peer connects to: a URL, with a bearer token if there is
// one, or a command that speaks MCP on stdio.
type target struct {
	URL     string
	Token   string
	Command string
	Args    []string
	Env     []string // the command's whole environment
}

// peer is one client in one revision.
type peer struct {
	name string
	era  string
	can  func(step) bool
	run  func(t *testing.T, to target, era string, steps []step) []line
}

func everything(step) bool { return true }

// peers returns all of them, or skips the test if they are not installed and
// need not be.
func peers(t *testing.T) []peer {
	t.Helper()
	node := nodeBinary(t)
	return []peer{
		{"go-sdk", modern, everything, runGo},
		{"go-sdk-legacy", legacy, everything, runGo},
		{"typescript-client-2", modern, everything, runDriver(node, "client2.mjs")},
		{"typescript-client-2-legacy", legacy, everything, runDriver(node, "client2.mjs")},
		{"typescript-sdk-1", legacy, everything, runDriver(node, "sdk1.mjs")},
		{"inspector", modern, inspectorCan, runInspector(node, "modern")},
		{"inspector-legacy", legacy, inspectorCan, runInspector(node, "legacy")},
	}
}

// nodeBinary finds the pinned Node that npm installed beside the clients. On
// a system it has no package for, the one in PATH must do.
func nodeBinary(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("node_modules/@modelcontextprotocol"); err != nil {
		if os.Getenv("OSTIARY_PEERS") == "required" {
			t.Fatal("the clients are not installed: run npm ci in test/peers")
		}
		t.Skip("the clients are not installed: run npm ci in test/peers")
	}
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	node, err := filepath.Abs(filepath.Join("node_modules", "node-"+runtime.GOOS+"-"+arch, "bin", "node"))
	if err == nil {
		_, err = os.Stat(node)
	}
	if err != nil {
		if node, err = exec.LookPath("node"); err != nil {
			t.Fatal(err)
		}
	}
	return node
}

func signalContext() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// command is exec.CommandContext with the test's time, an empty environment
// and stderr in the test's log.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), peerTime)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{}
	cmd.Stderr = &logWriter{t: t}
	return cmd
}

// logWriter passes whole writes to the test's log.
type logWriter struct{ t *testing.T }

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// task is what a TypeScript driver is told.
type task struct {
	URL     string            `json:"url,omitempty"`
	Token   string            `json:"token,omitempty"`
	Command string            `json:"command,omitempty"`
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env"`
	Era     string            `json:"era"`
	Steps   []step            `json:"steps"`
}

func runDriver(node, driver string) func(*testing.T, target, string, []step) []line {
	return func(t *testing.T, to target, era string, steps []step) []line {
		t.Helper()
		job := task{to.URL, to.Token, to.Command, to.Args, map[string]string{}, era, steps}
		if job.Args == nil {
			job.Args = []string{}
		}
		for _, v := range to.Env {
			name, value, _ := strings.Cut(v, "=")
			job.Env[name] = value
		}
		b, err := json.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		out, err := command(t, node, driver, string(b)).Output()
		if err != nil {
			t.Errorf("%s: %v", driver, err)
		}
		var lines []line
		for text := range bytes.Lines(out) {
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatalf("%s said %.300q: %v", driver, text, err)
			}
			lines = append(lines, l)
		}
		return lines
	}
}

// inspectorCan says which steps the Inspector's command line has a method
// for: it has no completion and nobody to answer questions, and each step is
// a client of its own.
func inspectorCan(s step) bool {
	return s.Op != "complete" && s.Op != "cancel" && !s.Progress && !strings.Contains(s.Name, "ask_")
}

func runInspector(node, era string) func(*testing.T, target, string, []step) []line {
	return func(t *testing.T, to target, _ string, steps []step) []line {
		t.Helper()
		lines := []line{{Op: "connect"}}
		for _, s := range steps {
			lines = append(lines, inspect(t, node, era, to, s))
		}
		return lines
	}
}

// inspect runs the Inspector for one step and reads its result.
func inspect(t *testing.T, node, era string, to target, s step) line {
	t.Helper()
	args := []string{"node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli", "--format", "json", "--quiet", "--protocol-era", era}
	if to.URL != "" {
		args = append(args, "--transport", "http", "--server-url", to.URL, "--stored-auth-only")
	}
	if to.Token != "" {
		args = append(args, "--header", "Authorization: Bearer "+to.Token)
	}
	encoded, err := json.Marshal(s.Arguments)
	if err != nil {
		t.Fatal(err)
	}
	switch s.Op {
	case "list":
		args = append(args, "--method", "tools/list")
	case "call":
		args = append(args, "--method", "tools/call", "--tool-name", s.Name)
		if s.Arguments != nil {
			args = append(args, "--tool-args-json", string(encoded))
		}
	case "resources":
		args = append(args, "--method", "resources/list")
	case "resource":
		args = append(args, "--method", "resources/read", "--uri", s.Name)
	case "prompts":
		args = append(args, "--method", "prompts/list")
	case "prompt":
		args = append(args, "--method", "prompts/get", "--prompt-name", s.Name, "--prompt-args", "name="+s.Arguments["name"].(string))
	}
	if to.Command != "" {
		args = append(args, "--transport", "stdio")
		for _, v := range to.Env {
			args = append(args, "-e", v)
		}
		args = append(append(args, "--", to.Command), to.Args...)
	}
	cmd := command(t, node, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	return inspected(t, s, out, complaint.String(), err)
}

// inspected turns the Inspector's words into a line.
func inspected(t *testing.T, s step, out []byte, complaint string, err error) line {
	t.Helper()
	l := line{Op: s.Op, Name: s.Name}
	if len(out) == 0 {
		l.Error = strings.TrimSpace(complaint)
		if err != nil && l.Error == "" {
			l.Error = err.Error()
		}
		return l
	}
	type named struct {
		Name string `json:"name"`
		URI  string `json:"uri"`
		Text string `json:"text"`
	}
	var said struct {
		Result struct {
			Meta      map[string]any            `json:"_meta"`
			IsError   bool                      `json:"isError"`
			Content   []named                   `json:"content"`
			Contents  []named                   `json:"contents"`
			Messages  []struct{ Content named } `json:"messages"`
			Tools     []named                   `json:"tools"`
			Prompts   []named                   `json:"prompts"`
			Resources []struct {
				URI string `json:"uri"`
			} `json:"resources"`
		} `json:"result"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("the Inspector said %q: %v", out, err)
	}
	r := said.Result
	l.Meta, l.IsError = r.Meta, r.IsError
	for _, c := range append(r.Content, r.Contents...) {
		l.Text += c.Text
	}
	for _, m := range r.Messages {
		l.Text += m.Content.Text
	}
	for _, n := range append(r.Tools, r.Prompts...) {
		l.Names = append(l.Names, n.Name)
	}
	for _, n := range r.Resources {
		l.Names = append(l.Names, n.URI)
	}
	return l
}

// bearer adds a token to each request.
type bearer struct{ token string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// runGo is the official Go client.
func runGo(t *testing.T, to target, era string, steps []step) []line {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peerTime)
	defer cancel()
	g := &goPeer{}
	c := mcp.NewClient(&mcp.Implementation{Name: "ostiary-peer", Version: "1"}, &mcp.ClientOptions{
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Model: "peer", Role: "assistant", Content: &mcp.TextContent{Text: "forty-two"}}, nil
		},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"answer": "blue"}}, nil
		},
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) {
			select {
			case g.progress <- struct{}{}:
			default:
			}
		},
	})
	g.progress = make(chan struct{}, 1000)
	var transport mcp.Transport = &mcp.StreamableClientTransport{Endpoint: to.URL, HTTPClient: &http.Client{Transport: bearer{to.Token}}}
	if to.URL == "" {
		cmd := command(t, to.Command, to.Args...)
		cmd.Env = to.Env
		transport = &mcp.CommandTransport{Command: cmd}
	}
	session, err := c.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: era})
	if err != nil {
		return []line{{Op: "connect", Error: err.Error()}}
	}
	defer session.Close()
	g.session = session
	lines := []line{{Op: "connect", Version: session.InitializeResult().ProtocolVersion}}
	for _, s := range steps {
		l, err := g.take(ctx, s)
		l.Op, l.Name = s.Op, s.Name
		if err != nil {
			l.Error = err.Error()
			var rpc *jsonrpc.Error
			if errors.As(err, &rpc) {
				l.Code, l.Data = int(rpc.Code), rpc.Data
			}
		}
		lines = append(lines, l)
	}
	return lines
}

type goPeer struct {
	session  *mcp.ClientSession
	progress chan struct{}
}

func (g *goPeer) take(ctx context.Context, s step) (line, error) {
	switch s.Op {
	case "list":
		return names(g.session.Tools(ctx, nil), func(t *mcp.Tool) string { return t.Name })
	case "resources":
		return names(g.session.Resources(ctx, nil), func(r *mcp.Resource) string { return r.URI })
	case "prompts":
		return names(g.session.Prompts(ctx, nil), func(p *mcp.Prompt) string { return p.Name })
	case "call":
		return g.call(ctx, s)
	case "cancel":
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-g.progress:
				cancel()
			case <-ctx.Done():
			}
		}()
		s.Progress = true
		return g.call(ctx, s)
	case "resource":
		res, err := g.session.ReadResource(ctx, &mcp.ReadResourceParams{URI: s.Name})
		if err != nil {
			return line{}, err
		}
		return line{Text: res.Contents[0].Text}, nil
	case "prompt":
		res, err := g.session.GetPrompt(ctx, &mcp.GetPromptParams{Name: s.Name, Arguments: texts(s.Arguments)})
		if err != nil {
			return line{}, err
		}
		return line{Text: content(res.Messages[0].Content)}, nil
	case "complete":
		res, err := g.session.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: s.Name},
			Argument: mcp.CompleteParamsArgument{Name: s.Argument["name"], Value: s.Argument["value"]}})
		if err != nil {
			return line{}, err
		}
		return line{Names: res.Completion.Values}, nil
	}
	return line{}, errors.New("this step is unknown")
}

// texts are the arguments of a prompt, which are strings.
func texts(arguments map[string]any) map[string]string {
	all := map[string]string{}
	for name, v := range arguments {
		all[name], _ = v.(string)
	}
	return all
}

func names[T any](all func(func(T, error) bool), name func(T) string) (l line, err error) {
	for x, err := range all {
		if err != nil {
			return l, err
		}
		l.Names = append(l.Names, name(x))
	}
	return l, nil
}

func (g *goPeer) call(ctx context.Context, s step) (line, error) {
	p := &mcp.CallToolParams{Name: s.Name, Arguments: s.Arguments}
	if s.Arguments == nil {
		p.Arguments = map[string]any{}
	}
	if s.Progress {
		p.SetProgressToken("peer")
	}
	res, err := g.session.CallTool(ctx, p)
	if err != nil {
		return line{}, err
	}
	return line{Text: content(res.Content...), IsError: res.IsError, Meta: res.Meta, Progress: len(g.progress)}, nil
}

func content(all ...mcp.Content) string {
	var b strings.Builder
	for _, c := range all {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	return b.String()
}
