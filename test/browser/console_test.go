package browser_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/test/browser"
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ostiary-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "ostiary")
	build := exec.Command("go", "build", "-o", program, "github.com/ostiary/ostiary/cmd/ostiary")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// gateway is a running program with a console.
type gateway struct {
	t    *testing.T
	dir  string
	url  string
	cmd  *exec.Cmd
	done chan error
	link chan string

	mu  sync.Mutex
	log bytes.Buffer
}

func (g *gateway) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(b)
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

const patience = 90 * time.Second

// connecting is a policy that lets agents connect and nothing else.
const connecting = "@id(\"connect\")\n@reason(\"connect\")\npermit (principal, action in [Ostiary::Action::\"session\"], resource);\n"

// start runs a gateway with an empty data folder, or the one it had.
func start(t *testing.T, dir, port string) *gateway {
	t.Helper()
	return startWith(t, dir, port, "", "", connecting)
}

// startWith runs one that listens on more addresses, with more configuration
// and another policy.
func startWith(t *testing.T, dir, port, listen, more, policy string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: dir, url: "http://localhost:" + port, done: make(chan error, 1), link: make(chan string, 1)}
	config := fmt.Sprintf("trust_domain: example.org\nlisten:\n  agents: 127.0.0.1:%s\n  console: 127.0.0.1:%s\n  control: %s\n%sledger: {segment_size: 1MiB}\n%s", free(t), port, filepath.Join(dir, "s"), listen, more)
	for name, text := range map[string]string{"ostiary.yaml": config, "policy/a.cedar": policy} {
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.cmd = exec.Command(program, "-c", filepath.Join(dir, "ostiary.yaml"), "serve")
	g.cmd.Stderr = g
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.link)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if m := regexp.MustCompile(`http://localhost:\S+/join#\S+`).FindString(lines.Text()); m != "" {
				g.link <- m
			}
		}
	}()
	go func() { g.done <- g.cmd.Wait() }()
	t.Cleanup(g.stop)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := g.try("status", "--check"); err == nil {
			return g
		}
		if time.Now().After(deadline) {
			g.mu.Lock()
			defer g.mu.Unlock()
			t.Fatalf("the gateway does not answer\n%s", g.log.String())
		}
	}
}

func (g *gateway) stop() {
	if g.cmd == nil {
		return
	}
	g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-g.done:
		if err != nil {
			g.t.Errorf("the gateway ended: %v\n%s", err, g.log.String())
		}
	case <-time.After(patience):
		g.cmd.Process.Kill()
		g.t.Error("the gateway does not stop")
	}
	g.cmd = nil
}

func (g *gateway) try(args ...string) (string, error) {
	out, err := exec.Command(program, append([]string{"-c", filepath.Join(g.dir, "ostiary.yaml")}, args...)...).CombinedOutput()
	return string(out), err
}

func (g *gateway) run(args ...string) string {
	g.t.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("ostiary %v: %v\n%s", args, err, out)
	}
	return out
}

func (g *gateway) firstLink() string {
	g.t.Helper()
	select {
	case l := <-g.link:
		if l == "" {
			g.t.Fatal("no link was printed")
		}
		return l
	case <-time.After(patience):
		g.t.Fatal("no link was printed")
		return ""
	}
}

// TestFirstOperator: whoever starts the gateway signs in with nothing else
// installed, and lets others in.
func TestFirstOperator(t *testing.T) {
	tab := browser.Open(t)
	dir, port := t.TempDir(), free(t)
	g := start(t, dir, port)
	stale := g.firstLink()
	g.stop()
	g = start(t, dir, port)
	link := g.firstLink()

	tab.Go(g.url + "/mandates")
	tab.Go(g.url + "/me")
	tab.At("/sign-in")
	tab.Shots("sign-in")
	tab.Go(stale)
	tab.See("This link cannot be used")
	tab.Go("about:blank")
	tab.Go(link)
	tab.See("You are the first operator here")
	if at := tab.Value("location.href"); strings.Contains(at, "#") {
		t.Error("the secret stays in the address bar:", at)
	}
	tab.Shots("join")
	tab.Type("#name", "Not A Name")
	tab.Click("#go")
	tab.At("/join")
	tab.Value("document.getElementById('name').value = ''")
	tab.Type("#name", "dana\r")
	tab.At("/now") // where an operator begins
	tab.Go(g.url + "/mandates")
	tab.See("None is in force")
	tab.Go(g.url + "/me")
	tab.See("person:dana")
	tab.Shots("me")

	// Out and in again.
	tab.Click("header form button[type=submit]")
	tab.At("/signed-out")
	tab.Shots("signed-out")
	tab.Go(g.url + "/people")
	tab.At("/sign-in")
	tab.Click("#go")
	tab.At("/people")
	tab.See("Nobody is invited just now")

	// The link was used; a session outlives a restart, and no link is printed.
	tab.Go("about:blank")
	tab.Go(link)
	tab.See("This link cannot be used")
	g.stop()
	g = start(t, dir, port)
	tab.Go(g.url + "/me")
	tab.At("/me")

	// Somebody else, by an invitation, on another device.
	out := g.run("person", "invite", "kim", "--role", "auditor")
	second := browser.Open(t)
	second.Go(strings.Fields(out)[0])
	second.See("with the role auditor")
	second.Click("#go")
	second.At("/now")
	second.Go(g.url + "/people")
	second.See("dana")
	g.run("person", "roles", "kim", "--role", "auditor", "--role", "approver")
	second.Go(g.url + "/me")
	second.At("/sign-in") // other roles end a session
	second.Click("#go")
	second.At("/me")
	second.See("approver")
	second.Go(g.url + "/people/dana")
	if n := second.Value("document.querySelectorAll('button.danger').length"); n != "0" {
		t.Error("an auditor is offered to revoke")
	}
	g.run("person", "invite", "lee", "--role", "approver", "--role", "auditor")
	tab.Go(g.url + "/people")
	tab.See("lee")
	tab.Shots("people")
	tab.Go(g.url + "/people/kim")
	tab.Shots("person")
	tab.Type("#reason", "left the team")
	tab.Click("button.danger")
	tab.See("They were revoked")
	second.Go(g.url + "/me")
	second.At("/sign-in")
	second.Click("#go")
	second.See("This passkey was not accepted")
	second.Shots("refused")

	// The last operator stays, wherever it is tried.
	tab.Go(g.url + "/people/dana")
	tab.Type("#reason", "x")
	tab.Click("button.danger")
	tab.See("last operator")
	tab.Shots("error")
	if out, err := g.try("person", "revoke", "dana", "--reason", "x"); err == nil || !strings.Contains(out, "last operator") {
		t.Errorf("the command revokes the last operator: %v\n%s", err, out)
	}
	log := g.run("log", "--changes", "--json")
	for _, want := range []string{"invite_person", "enrol_person", "sign_in", "sign_out", "change_roles", "revoke_person", "person:kim"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s", want)
		}
	}
	secret := link[strings.Index(link, "#")+1:]
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.Contains(g.log.String(), secret) || strings.Contains(log, secret) {
		t.Error("an invitation's secret is in a log")
	}
}

// TestWithoutScripts: the pages say what they need, and work without it.
func TestWithoutScripts(t *testing.T) {
	tab := browser.Open(t)
	g := start(t, t.TempDir(), free(t))
	tab.Go(g.firstLink())
	tab.See("first operator")
	tab.Type("#name", "dana\r")
	tab.At("/now")
	g.run("person", "invite", "kim", "--role", "operator")
	tab.Scripts(false)
	tab.Go(g.url + "/people/dana")
	tab.Type("#reason", "x\r")
	tab.See("last operator")
	tab.Click("header form button[type=submit]")
	tab.See("Signed out")
	tab.Go(g.url + "/sign-in")
	tab.See("needs JavaScript")
	tab.Go(g.url + "/join")
	tab.See("needs JavaScript")
}
