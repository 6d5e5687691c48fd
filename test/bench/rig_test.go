package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The long measurements stand outside: the program as users build it, in a
// process of its own, and what the system and its metrics say of that process.

// patience bounds every wait for something that must happen, on a machine that
// may be busy with other things.
const patience = time.Minute

// TestMain also makes this binary a stdio tool server that a gateway started,
// and the other processes of the benchmarks.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == stdioTool {
		os.Exit(serveStdio(os.Args[2], os.Args[3]))
	}
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role, os.Getenv(upstreamEnv)); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	os.RemoveAll(built.dir)
	os.Exit(code)
}

// built is the program, made once for all that need it.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "ostiary-bench-"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(built.dir, "ostiary"), "github.com/ostiary/ostiary/cmd/ostiary")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building the program: %v\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "ostiary")
}

// rig is a folder with a gateway that runs from it.
type rig struct {
	t       testing.TB
	dir     string
	program string

	agents, plain, metrics string // host:port

	gateway *exec.Cmd
	said    *lines
	ended   chan error // holds the end of the gateway, once
}

// newRig makes a folder with a short name, as a Unix socket lies in it.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, program: program(t)}
	var err error
	if r.dir, err = os.MkdirTemp("", "rig"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	r.agents, r.plain, r.metrics = freeAddr(t), freeAddr(t), freeAddr(t)
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Ports below those that systems hand out by themselves, so that no connection
// takes one before its listener does.
const (
	firstPort = 22000
	ports     = 8000
)

var portsTaken struct {
	sync.Mutex
	n int
}

func freeAddr(t testing.TB) string {
	t.Helper()
	portsTaken.Lock()
	defer portsTaken.Unlock()
	for range ports {
		portsTaken.n++
		addr := "127.0.0.1:" + strconv.Itoa(firstPort+(os.Getpid()*97+portsTaken.n)%ports)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// lines is what a process wrote, the newest of it.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// keptOutput bounds what is kept of a process's output.
const keptOutput = 1 << 20

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > keptOutput {
		l.b.Next(keptOutput / 2)
	}
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (r *rig) env() []string {
	return []string{"HOME=" + r.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.Getenv("TMPDIR"), "OSTIARY_CONFIG=" + r.path("ostiary.yaml")}
}

// start runs the gateway and waits until it answers.
func (r *rig) start() {
	r.t.Helper()
	r.said, r.ended = &lines{}, make(chan error, 1)
	r.gateway = exec.Command(r.program, "serve")
	r.gateway.Env, r.gateway.Dir = r.env(), r.dir
	r.gateway.Stdout, r.gateway.Stderr = r.said, r.said
	if err := r.gateway.Start(); err != nil {
		r.t.Fatal(err)
	}
	gateway, ended := r.gateway, r.ended
	go func() { ended <- gateway.Wait(); close(ended) }()
	r.t.Cleanup(func() { gateway.Process.Kill(); <-ended })
	r.until("the gateway to answer", func() bool { _, err := r.try("status"); return err == nil })
}

// stop ends the gateway in an orderly way.
func (r *rig) stop() {
	r.t.Helper()
	r.gateway.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Fatalf("the gateway ended with %v\n%s", err, r.said)
		}
	case <-time.After(patience):
		r.t.Fatalf("the gateway does not stop\n%s", r.said)
	}
}

// until asks until f says yes.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case err := <-r.ended:
			r.t.Fatalf("waiting for %s, the gateway ended: %v\n%s", what, err, r.said)
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %v for %s\n%s", patience, what, r.said)
		}
	}
}

// try runs a command of the program and returns its standard output.
func (r *rig) try(args ...string) (string, error) { return r.tryFor(patience, args...) }

func (r *rig) tryFor(most time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	c := exec.CommandContext(ctx, r.program, args...)
	c.Env, c.Dir = r.env(), r.dir
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("ostiary %s: %w: %s", strings.Join(args, " "), err, complaint.Bytes())
	}
	return string(out), nil
}

func (r *rig) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// held is what the system and its own metrics say the gateway holds.
type held struct {
	resident, anonymous int64 // bytes
	descriptors         int
	goroutines          int
	heap, stacks        int64 // bytes; of the heap, what lived at the last collection
}

func (h held) String() string {
	return fmt.Sprintf("%.1f MB resident (%.1f of them anonymous), heap %.1f MB, stacks %.1f MB, %d goroutines, %d descriptors",
		mb(h.resident), mb(h.anonymous), mb(h.heap), mb(h.stacks), h.goroutines, h.descriptors)
}

func mb(n int64) float64 { return float64(n) / 1e6 }

func (r *rig) holds() (h held, err error) {
	pid := r.gateway.Process.Pid
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return h, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		words := strings.Fields(sc.Text())
		if len(words) == 3 && words[2] == "kB" {
			n, _ := strconv.ParseInt(words[1], 10, 64)
			switch words[0] {
			case "Rss:":
				h.resident = n << 10
			case "Anonymous:":
				h.anonymous = n << 10
			}
		}
	}
	if h.resident == 0 {
		return h, fmt.Errorf("/proc/%d/smaps_rollup says nothing", pid)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return h, err
	}
	h.descriptors = len(fds)
	m, err := r.metric()
	h.goroutines, h.heap, h.stacks = int(m["go_goroutines"]), int64(m["go_memstats_heap_alloc_bytes"]), int64(m["go_memstats_stack_inuse_bytes"])
	return h, err
}

// metric reads the gateway's metrics, those without labels by name alone.
func (r *rig) metric() (map[string]float64, error) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		if name, value, ok := strings.Cut(sc.Text(), " "); ok && name != "#" {
			if all[name], err = strconv.ParseFloat(value, 64); err != nil {
				return nil, err
			}
		}
	}
	if resp.StatusCode != 200 || len(all) == 0 {
		return nil, fmt.Errorf("metrics answered %d with %d values", resp.StatusCode, len(all))
	}
	return all, sc.Err()
}
