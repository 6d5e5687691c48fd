package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// differencesFile lists what may come out differently behind the gateway, and
// why.
const differencesFile = "conformance-differences.txt"

// TestConformance runs the MCP conformance suite twice against the Go SDK's
// everything-server, for each requirement set: by itself, and through the
// bridge and the gateway. Whatever passes alone must pass behind us, save for
// what differencesFile justifies.
func TestConformance(t *testing.T) {
	node := nodeBinary(t)
	server := buildEverything(t)
	justified := differences(t)
	bridge := conformanceGateway(t, server)
	for _, c := range []struct {
		revision string
		stateful bool
		least    int // checks that pass directly: fewer mean that the suite did not run
	}{
		{legacy, true, 75},
		{modern, false, 155},
	} {
		t.Run(c.revision, func(t *testing.T) {
			t.Parallel()
			alone := runSuite(t, node, c.revision, startEverything(t, server, c.stateful)+"/")
			behind := runSuite(t, node, c.revision, bridge+"/mcp/"+everythingName(c.stateful))
			if n := alone.passed(); n < c.least {
				t.Fatalf("only %d checks pass without the gateway, want at least %d", n, c.least)
			}
			t.Logf("%d checks pass alone, %d behind the gateway", alone.passed(), behind.passed())
			compare(t, c.revision, alone, behind, justified)
		})
	}
}

// compare fails for what passes alone and not behind, and for what is said to
// and does.
func compare(t *testing.T, revision string, alone, behind outcomes, justified map[string]string) {
	t.Helper()
	found := map[string]bool{}
	for _, name := range alone.names() {
		if alone[name].passed <= behind[name].passed {
			continue
		}
		found[name] = true
		if justified[revision+" "+name] == "" {
			t.Errorf("%s passes %d times alone and %d times behind the gateway:\n%s", name, alone[name].passed, behind[name].passed, strings.Join(behind[name].complaints, "\n"))
		}
	}
	for line := range justified {
		name, here := strings.CutPrefix(line, revision+" ")
		if here && !found[name] {
			t.Errorf("%s: %s is no difference any more; strike the line", differencesFile, line)
		}
	}
}

// outcomes are what became of each check, by scenario and check.
type outcomes map[string]outcome

type outcome struct {
	passed     int // a check may be made several times
	complaints []string
}

func (o outcomes) passed() (n int) {
	for _, x := range o {
		n += x.passed
	}
	return n
}

func (o outcomes) names() (all []string) {
	for name := range o {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// runSuite runs one requirement set against a server and reads its results.
func runSuite(t *testing.T, node, revision, url string) outcomes {
	t.Helper()
	dir := t.TempDir()
	cmd := command(t, node, "node_modules/@modelcontextprotocol/conformance/dist/index.js", "server", "--url", url, "--requirements", revision, "-o", dir)
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Run() // its status says whether all passed: we look ourselves
	results, err := filepath.Glob(filepath.Join(dir, "*", "checks.json"))
	if err != nil || len(results) == 0 {
		t.Fatalf("the suite left no results: %v\n%s", err, &said)
	}
	all := outcomes{}
	for _, path := range results {
		scenario := strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "server-")
		scenario = scenario[:max(0, len(scenario)-len("-2006-01-02T15-04-05-000Z"))]
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct {
			ID           string `json:"id"`
			Status       string `json:"status"`
			ErrorMessage string `json:"errorMessage"`
		}
		if err := json.Unmarshal(b, &checks); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, c := range checks {
			x := all[scenario+" "+c.ID]
			if c.Status == "SUCCESS" {
				x.passed++
			} else {
				x.complaints = append(x.complaints, c.Status+": "+c.ErrorMessage)
			}
			all[scenario+" "+c.ID] = x
		}
	}
	return all
}

// differences reads the justified differences, by revision, scenario and
// check.
func differences(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(differencesFile)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		what, why, ok := strings.Cut(line, ": ")
		if !ok || len(strings.Fields(what)) != 3 || why == "" || all[what] != "" {
			t.Errorf("%s: not a difference with its reason: %s", differencesFile, line)
		}
		all[what] = why
	}
	return all
}

// buildEverything builds the SDK's server for this suite, from the SDK that
// go.mod names.
func buildEverything(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "everything-server")
	cmd := exec.Command("go", "build", "-o", path, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the everything-server: %v\n%s", err, out)
	}
	return path
}

func everythingName(stateful bool) string {
	if stateful {
		return "stateful"
	}
	return "stateless"
}

// startEverything runs the server and returns its URL. Without sessions it
// speaks 2026-07-28 too, with them only the revisions before it.
func startEverything(t *testing.T, binary string, stateful bool) string {
	t.Helper()
	address := freePort(t)
	background(t, exec.Command(binary, "-http", address, fmt.Sprintf("-stateless=%t", !stateful)))
	listening(t, address)
	return "http://" + address
}

// conformanceGateway is a gateway before one server of each kind, with all of
// it accepted and open to one agent, and the bridge that acts for this agent,
// as the suite sends no credentials.
func conformanceGateway(t *testing.T, server string) (url string) {
	t.Helper()
	g := newGateway(t, fmt.Sprintf(`
  stateful: {url: "%s/", allow_addresses: [127.0.0.1/32]}
  stateless: {url: "%s/", allow_addresses: [127.0.0.1/32]}`, startEverything(t, server, true), startEverything(t, server, false)),
		`@id("all") @reason("Everything is open to the suite.")
permit (principal == Ostiary::Agent::"spiffe://peers.ostiary.test/agent/bridged-1", action, resource);
`, "stateful", "stateless")
	to := g.bridge(t)
	address := freePort(t)
	background(t, exec.Command(to.Command, append(to.Args, "--listen", address)...))
	listening(t, address)
	return "http://" + address
}

// newGateway runs a gateway with the servers, given as YAML under "servers:",
// and a policy of one file, and accepts what the named servers offer.
func newGateway(t *testing.T, servers, policy string, accept ...string) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{binary: build(t), config: filepath.Join(dir, "ostiary.yaml")}
	tls := freePort(t)
	g.secure = "https://" + tls
	write(t, g.config, fmt.Sprintf("trust_domain: peers.ostiary.test\ndata: data\npolicy: policy\nlisten: {agents: %q}\nledger: {segment_size: 1MiB}\nservers:%s\n", tls, servers))
	write(t, filepath.Join(dir, "policy", "peers.cedar"), policy)
	g.serve(t)
	for _, name := range accept {
		g.ostiary(t, "tools", "pin", name)
	}
	return g
}

// background starts a program and ends it with the test.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{}, &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		late := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait() // an interrupted program may say so
		late.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), &said)
		}
	})
}

// listening waits until somebody accepts connections.
func listening(t *testing.T, address string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(20 * time.Second); ; {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		select {
		case <-late:
			t.Fatalf("nobody listens at %s", address)
		case <-tick.C:
		}
	}
}
