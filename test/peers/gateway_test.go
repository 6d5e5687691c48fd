package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/demo"
)

// TestGateway holds the conversation through the gateway: with a bearer
// token over loopback HTTP, and through the bridge on stdio. Behind it stand
// servers over HTTP and on stdio, of both eras.
func TestGateway(t *testing.T) {
	all := peers(t)
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			g := startGateway(t)
			t.Run("bearer token", func(t *testing.T) { hold(t, p, g.bearer(t), g.conversation(p.era)) })
			t.Run("bridge", func(t *testing.T) { hold(t, p, g.bridge(t), g.conversation(p.era)) })
			g.checkBooks(t)
		})
	}
}

// The servers of the older revisions, by their configured names. The others
// are named like the family they serve.
const (
	oldBank  = "oldbank"  // HTTP
	oldLab   = "oldlab"   // HTTP
	oldInbox = "oldinbox" // stdio
)

// gateway is a running "ostiary serve" with its tool servers.
type gateway struct {
	binary   string
	config   string
	endpoint string // of the plain-HTTP listener
	secure   string // of the TLS listener, without a path
	journals []string
	bridged  int
}

// conversation is the one every peer can hold with the tools directly, by the
// aggregated names, and what the gateway adds: tools it hides, calls it
// refuses, and servers that speak an older revision than the client.
func (g *gateway) conversation(era string) []step {
	name := func(server, tool string) string { return server + "___" + tool }
	steps := conversation(name)
	for i, s := range steps {
		if s.Op == "list" {
			steps[i].hidden = []string{name(demo.Documents, "write_document"), "get_balance"}
		}
		if era == legacy && strings.Contains(s.Name, "ask_") {
			// A server asks by the means of its own era: what it asks of a client of the other one is refused, and told.
			steps[i].text, steps[i].isError = "revision 2026-07-28 can", true
		}
		if strings.Contains(s.text, `"balance":1284050`) {
			steps[i].text = `"currency":"EUR"` // several conversations share one book
		}
	}
	if era == legacy {
		steps = append(steps,
			step{Op: "call", Name: name(oldLab, "ask_model"), Arguments: map[string]any{"question": "six times seven?"}, text: "The model said: forty-two"},
			step{Op: "call", Name: name(oldLab, "ask_person"), Arguments: map[string]any{"question": "favourite colour?"}, text: "The person said: blue"})
	}
	return append(steps,
		step{Op: "call", Name: name(demo.Bank, "send_payment"), Arguments: payment(250_000), text: "pay-over-limit", isError: true, entry: true},
		step{Op: "call", Name: name(demo.Documents, "write_document"), Arguments: map[string]any{"name": "payees.md", "text": "me"}, fails: true},
		step{Op: "call", Name: name(demo.Bank, "send_payment"), Arguments: map[string]any{"from": "household", "amount": 1}, fails: true},
		step{Op: "call", Name: name(oldBank, "get_balance"), Arguments: map[string]any{"account": "travel"}, text: `"currency":"USD"`},
		step{Op: "call", Name: name(oldInbox, "read_message"), Arguments: map[string]any{"id": "m3"}, text: "books"},
	)
}

// policyFiles is the demo's policy, and what the peers need beyond it.
func policyFiles() map[string][]byte {
	files := demo.Policy()
	files["peers.cedar"] = []byte(`
@id("lab") @reason("The lab is open.")
permit (principal, action in [
  Ostiary::Action::"lab___echo", Ostiary::Action::"lab___big_result", Ostiary::Action::"lab___slow_count",
  Ostiary::Action::"lab___ask_model", Ostiary::Action::"lab___ask_person"
], resource == Ostiary::Server::"lab");

@id("lab-asks-back") @reason("The lab may ask the client's model and person.")
permit (principal, action in Ostiary::Action::"from_server", resource == Ostiary::Server::"lab");

@id("old-lab-asks-back") @reason("So may the older one.")
permit (principal, action in Ostiary::Action::"from_server", resource == Ostiary::Server::"oldlab");

@id("old-servers") @reason("What is asked of servers of the older revisions.")
permit (principal, action in [
  Ostiary::Action::"oldbank___get_balance", Ostiary::Action::"oldinbox___read_message",
  Ostiary::Action::"oldlab___ask_model", Ostiary::Action::"oldlab___ask_person"
], resource);
`)
	return files
}

// startGateway builds the program, once, and runs it as its users do: a
// configuration, a policy folder, the tool servers with the gateway's key,
// their definitions accepted. Everything ends with the test.
func startGateway(t *testing.T) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{binary: build(t), config: filepath.Join(dir, "ostiary.yaml")}
	tls, plain, tools, old := freePort(t), freePort(t), freePort(t), freePort(t)
	g.endpoint, g.secure = "http://"+plain+"/mcp", "https://"+tls
	journal := func(name string) string {
		path := filepath.Join(dir, name+".journal")
		g.journals = append(g.journals, path)
		return path
	}
	stdio := func(family string, legacy bool) string {
		args := demo.ServerCommand{Stdio: true, Family: []string{family}, Legacy: legacy, Journal: journal(family)}.Args()
		b, err := json.Marshal(append([]string{g.binary, "demo-server"}, args...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write(t, g.config, fmt.Sprintf(`
trust_domain: peers.ostiary.test
data: data
policy: policy
listen: {agents: %q, loopback: %q}
ledger: {segment_size: 1MiB}
servers:
  bank: {url: "http://%s/bank", allow_addresses: [127.0.0.1/32]}
  lab: {url: "http://%s/lab", allow_addresses: [127.0.0.1/32]}
  oldbank: {url: "http://%s/bank", allow_addresses: [127.0.0.1/32]}
  oldlab: {url: "http://%s/lab", allow_addresses: [127.0.0.1/32]}
  documents: {command: %s}
  oldinbox: {command: %s}
`, tls, plain, tools, tools, old, old, stdio(demo.Documents, false), stdio(demo.Inbox, true)))
	for name, text := range policyFiles() {
		write(t, filepath.Join(dir, "policy", name), string(text))
	}

	g.serve(t)
	keys := filepath.Join(dir, "gateway.pem")
	write(t, keys, g.requestKey(t))
	for _, c := range []demo.ServerCommand{
		{HTTP: tools, Family: []string{demo.Bank, demo.Lab}, GatewayKey: keys},
		{HTTP: old, Family: []string{demo.Bank, demo.Lab}, GatewayKey: keys, Legacy: true},
	} {
		_, path := startServer(t, c)
		g.journals = append(g.journals, path)
	}
	for _, server := range []string{demo.Bank, demo.Lab, oldBank, oldLab, demo.Documents, oldInbox} {
		g.ostiary(t, "tools", "pin", server)
	}
	g.ostiary(t, "agent", "add", "peer", "--principal", "person:dana")
	return g
}

// serve starts the gateway and waits until it answers its control socket.
func (g *gateway) serve(t *testing.T) {
	t.Helper()
	cmd := exec.Command(g.binary, "--config", g.config, "serve")
	cmd.Env = []string{}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the gateway ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			t.Errorf("the gateway did not end: %v", <-ended)
		}
		if t.Failed() {
			t.Logf("the gateway's own log:\n%s", &log)
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		if exec.Command(g.binary, "--config", g.config, "status").Run() == nil {
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the gateway did not start: %v\n%s", err, &log)
		case <-late:
			t.Fatalf("the gateway does not answer")
		case <-tick.C:
		}
	}
}

// ostiary runs a command of the program and returns what it prints.
func (g *gateway) ostiary(t *testing.T, args ...string) string {
	t.Helper()
	cmd := command(t, g.binary, append([]string{"--config", g.config}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ostiary %s: %v\n%s%s", strings.Join(args, " "), err, out, &complaint)
	}
	return strings.TrimSpace(string(out))
}

// requestKey is the PEM of the key the gateway signs requests with.
func (g *gateway) requestKey(t *testing.T) string {
	t.Helper()
	var keys []struct {
		Use string `json:"use"`
		Key string `json:"key"`
	}
	if err := json.Unmarshal([]byte(g.ostiary(t, "--json", "keys")), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Use, "requests") {
			return k.Key
		}
	}
	t.Fatalf("the gateway names no key for requests: %v", keys)
	return ""
}

// bearer is the gateway's plain-HTTP endpoint with a token for one agent.
func (g *gateway) bearer(t *testing.T) target {
	t.Helper()
	return target{URL: g.endpoint, Token: g.ostiary(t, "token", "peer")}
}

// bridge is the bridge on stdio: it joins as an agent of its own, the first
// time it starts, and holds the key for clients that can send no credentials.
func (g *gateway) bridge(t *testing.T) target {
	t.Helper()
	g.bridged++
	join := g.ostiary(t, "agent", "join", fmt.Sprintf("bridged-%d", g.bridged), "--principal", "person:dana")
	file := filepath.Join(t.TempDir(), "join")
	if err := os.WriteFile(file, []byte(join), 0o600); err != nil {
		t.Fatal(err)
	}
	return target{Command: g.binary, Args: []string{"connect", "--gateway", g.secure, "--join", "@" + file, "--state", t.TempDir()}}
}

// checkBooks compares what the tools did with what the log says of it: every
// payment ran under an entry of its own, and none was over the limit.
func (g *gateway) checkBooks(t *testing.T) {
	t.Helper()
	seen := map[string]bool{}
	for _, path := range g.journals {
		events, err := demo.ReadJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Payment == nil {
				continue
			}
			if e.Payment.Amount > demo.Limit || e.Entry == "" || seen[e.Entry] {
				t.Errorf("payment %+v under entry %q", *e.Payment, e.Entry)
			}
			seen[e.Entry] = true
		}
	}
	if len(seen) == 0 {
		t.Error("no payment was made")
	}
}

// built is the program under test, made once for all of them. TestMain
// removes it.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func build(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "ostiary-peers-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir, "../../cmd/ostiary")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building the program: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "ostiary")
}

// freePort returns an address nobody listens on, below the ports that systems
// give out by themselves: one of those may be gone by the time it is used.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
