package peers

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/demo"
)

// The revisions the peers are asked to speak.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// serverVariable holds a demo.ServerCommand as JSON and makes this test
// binary be the tool server, so that clients can start one on stdio.
const serverVariable = "OSTIARY_PEERS_SERVER"

func TestMain(m *testing.M) {
	if text := os.Getenv(serverVariable); text != "" {
		os.Exit(serve(text))
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func serve(text string) int {
	var c demo.ServerCommand
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		ctx, stop := signalContext()
		defer stop()
		err = c.Run(ctx, os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestDirect holds the conversation with the tool server itself.
func TestDirect(t *testing.T) {
	for _, p := range peers(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Run("http", func(t *testing.T) {
				url, journal := startServer(t, demo.ServerCommand{HTTP: "127.0.0.1:0", Unguarded: true})
				hold(t, p, target{URL: url + "/mcp"}, direct())
				checkEra(t, journal, p)
			})
			t.Run("stdio", func(t *testing.T) {
				journal := filepath.Join(t.TempDir(), "journal")
				hold(t, p, target{Command: executable(t), Env: serverEnv(t, demo.ServerCommand{Stdio: true, Journal: journal})}, direct())
				checkEra(t, journal, p)
			})
		})
	}
}

// checkEra sees in the server's journal that the client spoke the revision it
// was asked to.
func checkEra(t *testing.T, journal string, p peer) {
	t.Helper()
	events, err := demo.ReadJournal(journal)
	if err != nil {
		t.Fatal(err)
	}
	opening := "initialize"
	if p.era == modern {
		opening = "io.modelcontextprotocol/protocolVersion"
	}
	if demo.Arrived(events, opening) == 0 || demo.Arrived(events, p.era) == 0 {
		t.Errorf("the server received no %s of %s", opening, p.era)
	}
	if p.era == legacy && demo.Arrived(events, "io.modelcontextprotocol/protocolVersion") > 0 {
		t.Error("the client spoke 2026-07-28 too")
	}
}

// step is one thing to do, and what must come of it. The exported fields are
// the drivers' input.
type step struct {
	Op        string            `json:"op"`
	Name      string            `json:"name,omitempty"`
	Arguments map[string]any    `json:"arguments,omitempty"`
	Argument  map[string]string `json:"argument,omitempty"`
	Progress  bool              `json:"progress,omitempty"`

	text    string   // must be in the text
	names   []string // must be among the names
	hidden  []string // must not be
	isError bool     // the result says so
	fails   bool     // the client gets an error instead of a result
	entry   bool     // a refusal that names its entry in _meta
	size    int      // length of the text, if not zero
}

// line is what a driver says of one step, and of connecting.
type line struct {
	Op       string          `json:"op"`
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	Names    []string        `json:"names"`
	Text     string          `json:"text"`
	IsError  bool            `json:"isError"`
	Meta     map[string]any  `json:"meta"`
	Progress int             `json:"progress"`
	Error    string          `json:"error"`
	Code     int             `json:"code"`
	Data     json.RawMessage `json:"data"`
}

// direct is the conversation with the tool server itself.
func direct() []step {
	own := func(_, name string) string { return name }
	return append(conversation(own),
		step{Op: "list", names: []string{"send_payment", "read_message", "read_document", "echo"}},
		step{Op: "call", Name: "send_payment", Arguments: payment(250_000), text: "2,500.00 EUR from household"},
	)
}

// conversation uses each primitive of MCP once, with names as the endpoint
// has them. Every step of it is allowed.
func conversation(named func(server, name string) string) []step {
	const uri = "documents:///payees.md"
	bank := func(n string) string { return named(demo.Bank, n) }
	docs := func(n string) string { return named(demo.Documents, n) }
	lab := func(n string) string { return named(demo.Lab, n) }
	return []step{
		{Op: "list", names: []string{bank("get_balance"), docs("read_document"), lab("echo")}},
		{Op: "call", Name: bank("get_balance"), Arguments: map[string]any{"account": "household"}, text: `"balance":1284050`},
		{Op: "call", Name: bank("send_payment"), Arguments: payment(4500), text: "45.00 EUR from household"},
		{Op: "call", Name: bank("get_balance"), Arguments: map[string]any{"account": "none"}, text: "there is no account", isError: true},
		{Op: "call", Name: docs("read_document"), Arguments: map[string]any{"name": "payees.md"}, text: "landlord"},
		{Op: "resources", names: []string{uri}},
		{Op: "resource", Name: uri, text: "landlord"},
		{Op: "prompts", names: []string{docs("summarise_document")}},
		{Op: "prompt", Name: docs("summarise_document"), Arguments: map[string]any{"name": "payees.md"}, text: "Summarise"},
		{Op: "complete", Name: docs("summarise_document"), Argument: map[string]string{"name": "name", "value": "pay"}, names: []string{"payees.md"}},
		{Op: "call", Name: lab("echo"), Arguments: map[string]any{"text": "é \"quoted\"", "value": []any{1, nil, true}}, text: "quoted"},
		{Op: "call", Name: lab("ask_model"), Arguments: map[string]any{"question": "six times seven?"}, text: "The model said: forty-two"},
		{Op: "call", Name: lab("ask_person"), Arguments: map[string]any{"question": "favourite colour?"}, text: "The person said: blue"},
		{Op: "call", Name: lab("big_result"), Arguments: map[string]any{"bytes": 1 << 20}, size: 1 << 20},
		{Op: "call", Name: lab("slow_count"), Arguments: map[string]any{"to": 3, "pause_ms": 5}, Progress: true, text: "Counted to 3"},
		{Op: "cancel", Name: lab("slow_count"), Arguments: map[string]any{"to": 600, "pause_ms": 20}, fails: true},
		{Op: "call", Name: bank("no_such_tool"), fails: true},
	}
}

func payment(amount int) map[string]any {
	return map[string]any{"from": "household", "to": "landlord", "amount": amount, "currency": "EUR"}
}

// hold lets a peer take the steps it can and judges what came of them.
func hold(t *testing.T, p peer, to target, steps []step) {
	t.Helper()
	steps = slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return !p.can(s) })
	lines := p.run(t, to, p.era, steps)
	if len(lines) == 0 || lines[0].Op != "connect" || lines[0].Error != "" {
		t.Fatalf("it did not connect: %+v", lines)
	}
	if v := lines[0].Version; v != "" && v != p.era {
		t.Errorf("it speaks %s, not %s", v, p.era)
	}
	if len(lines)-1 != len(steps) {
		t.Fatalf("%d of %d steps were taken", len(lines)-1, len(steps))
	}
	for i, s := range steps {
		judge(t, s, lines[i+1])
	}
}

func judge(t *testing.T, s step, l line) {
	t.Helper()
	bad := func(format string, args ...any) {
		t.Helper()
		l.Text = l.Text[:min(len(l.Text), 300)]
		t.Errorf("%s %s: %s: %+v", s.Op, s.Name, fmt.Sprintf(format, args...), l)
	}
	if s.fails {
		// A tool that is not there is an error in MCP and isError in some servers: both tell the client.
		if l.Error == "" && !l.IsError {
			bad("it worked")
		}
		return
	}
	if l.Error != "" || l.IsError != s.isError {
		bad("isError is %t, want %t", l.IsError, s.isError)
		return
	}
	if !strings.Contains(l.Text, s.text) || s.size != 0 && len(l.Text) != s.size {
		bad("the text is another")
	}
	for _, n := range s.names {
		if !slices.Contains(l.Names, n) {
			bad("%s is missing", n)
		}
	}
	for _, n := range s.hidden {
		if slices.Contains(l.Names, n) {
			bad("%s is shown", n)
		}
	}
	if s.Progress && l.Progress == 0 {
		bad("no progress was told")
	}
	if e, _ := l.Meta["dev.ostiary/entry"].(string); s.entry && e == "" {
		bad("the refusal names no entry")
	}
}

// startServer runs the tool server in a process of its own and returns its
// URL and journal.
func startServer(t *testing.T, c demo.ServerCommand) (url, journal string) {
	t.Helper()
	c.Journal = filepath.Join(t.TempDir(), "journal")
	cmd := command(t, executable(t))
	cmd.Env = serverEnv(t, c)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // the server ends with its stdin
		if err := cmd.Wait(); err != nil {
			t.Errorf("the tool server: %v", err)
		}
	})
	text, err := bufio.NewReader(io.LimitReader(out, 4096)).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a demo.Announcement
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatal(err)
	}
	return a.Listening, c.Journal
}

func serverEnv(t *testing.T, c demo.ServerCommand) []string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return []string{serverVariable + "=" + string(b)}
}

func executable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// peerTime is how long one peer may take for one conversation.
const peerTime = 90 * time.Second
