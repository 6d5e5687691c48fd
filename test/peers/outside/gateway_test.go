package outside

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/verify"
)

// gateway is a running "ostiary serve", built from this tree.
type gateway struct {
	binary   string
	config   string
	data     string
	endpoint string // plain HTTP on loopback
	server   *exec.Cmd
	ended    chan error
	log      bytes.Buffer
}

func startGateway(t *testing.T, policy, servers string) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{binary: filepath.Join(dir, "ostiary"), config: filepath.Join(dir, "ostiary.yaml"), data: filepath.Join(dir, "data")}
	build := exec.Command("go", "build", "-o", g.binary, "./cmd/ostiary")
	build.Dir = "../../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plain := freePort(t)
	g.endpoint = "http://" + plain + "/mcp"
	write(t, filepath.Join(dir, "policy", "outside.cedar"), policy)
	write(t, g.config, fmt.Sprintf(`
trust_domain: outside.ostiary.test
deployment: outside
gateway: gw1
data: data
policy: policy
listen: {agents: "127.0.0.1:0", loopback: %q}
ledger: {segment_size: 1MiB}
servers:%s`, plain, servers))
	g.serve(t)
	return g
}

func (g *gateway) serve(t *testing.T) {
	t.Helper()
	g.server = exec.Command(g.binary, "--config", g.config, "serve")
	g.server.Env = []string{}
	g.server.Stderr = &g.log
	if err := g.server.Start(); err != nil {
		t.Fatal(err)
	}
	g.ended = make(chan error, 1)
	go func() { g.ended <- g.server.Wait() }()
	t.Cleanup(func() { g.stop(t) })
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		if exec.Command(g.binary, "--config", g.config, "status").Run() == nil {
			return
		}
		select {
		case <-late:
			t.Fatal("the gateway does not answer")
		case <-tick.C:
		}
	}
}

// stop ends the gateway as an operator would; a second time it does nothing.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	if g.server == nil {
		return
	}
	g.server.Process.Signal(os.Interrupt) // it may have ended, which Wait says
	select {
	case err := <-g.ended:
		if err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		g.server.Process.Kill()
		t.Errorf("the gateway did not end: %v", <-g.ended)
	}
	g.server = nil
	if t.Failed() {
		t.Logf("the gateway's own log:\n%s", &g.log)
	}
}

// ostiary runs a command of the program and returns what it prints.
func (g *gateway) ostiary(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), g.binary, append([]string{"--config", g.config}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ostiary %s: %v\n%s%s", strings.Join(args, " "), err, out, &complaint)
	}
	return strings.TrimSpace(string(out))
}

// keys are the gateway's public keys.
func (g *gateway) keys(t *testing.T) (keys []struct{ Use, ID, Key string }) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.ostiary(t, "--json", "keys")), &keys); err != nil {
		t.Fatal(err)
	}
	return keys
}

// verifier takes the requests this gateway signs.
func (g *gateway) verifier(t *testing.T) *verify.Verifier {
	t.Helper()
	for _, k := range g.keys(t) {
		if !strings.HasPrefix(k.Use, "requests") {
			continue
		}
		keys, err := verify.ParseKeys([]byte(k.Key))
		if err != nil {
			t.Fatal(err)
		}
		v, err := verify.New(verify.Options{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Fatal("the gateway names no key for requests")
	return nil
}

// logs are the newest logs in the data folder, with the keys the gateway
// names, by the gateway they are of.
func (g *gateway) logs(t *testing.T) map[string]published {
	t.Helper()
	logs := map[string]published{}
	for _, k := range g.keys(t) {
		if k.Use != "log" {
			continue
		}
		gw := path.Base(path.Dir(k.ID))
		logs[gw] = published{origin: k.ID, key: k.Key, dir: filepath.Join(g.data, "log", gw, path.Base(k.ID), "tiles")}
	}
	if len(logs) != 2 {
		t.Fatalf("%d logs, want the gateway's and the deployment's", len(logs))
	}
	return logs
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
