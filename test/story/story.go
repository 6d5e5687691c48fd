// Package story runs txtar stories against the real program: the binary as
// users build it, a tool server written here by hand, and an agent that can
// send any bytes at all. It shares no code with the gateway beyond the
// standard library, so that what it observes is not the gateway's own word.
//
// A story's commands, beside those of testscript:
//
//	gateway            start "ostiary serve" in the background and wait until it answers
//	gateway-stop       stop it in an orderly way; gateway-kill: with SIGKILL; hangup: send it SIGHUP
//	gateway-quit       make it die with the traces of all goroutines, as its runtime does on SIGQUIT
//	toolserver         start the recording tool server in the background (flags below)
//	agent              send a request and print status and body
//	stage [flags]      all of it: the usual files, tool server (with flags), gateway, accepted
//	                   definitions, and a bearer token for payments in the file "token";
//	                   sets $MCP, $BANK, $AGENTS, $PLAIN and $TOOLS
//	sent N FILE        fail unless the recorder received N tool calls
//	flip FILE OFFSET   change one byte of a file
//	ports NAME...      set $NAME to a free loopback port each
//	background FILE PROGRAM ARG...  run a program meanwhile, its output in the file; halt stops all of them in an orderly way
//	await TEXT FILE    wait until the file holds the text; "gateway" is the running gateway's own log
//	freeze, thaw       stop and continue every background program, as a machine that is suspended
//	kill-pid FILE      SIGKILL the process whose id is in the file's first line; alive FILE: fail unless it runs
//	hammer TOKEN URL TOOL ARGUMENTS  call without a pause until hammer-stop, whatever the answers are
//	killings FILE TOKEN AGENT  kill and start the gateway again and again while calls go on arriving in FILE, OSTIARY_KILLS times
//	limit-files N      the gateway may open N files from its next start on
//	crowd ADDR FROM N KEPT  open N silent connections from a loopback address; fail unless KEPT stay open; crowd-leaves closes them, crowd-cut waits until the gateway has
//	now NAME           set $NAME to the time; unpermitted TIME: fail if the log holds a permit from 100 ms after it on
//	counted N CODE     fail unless the log counts N strangers who were sent away with the code
//	digests N TOOL     fail unless the log holds N different actions of a tool
//	executed FILE      fail unless each call that the recorder received has an intent in the log
//	proven PROOF DIR KEYS  fail unless the proof shows an entry that is published in DIR, under one of the keys in a file
//	again TEXT PROGRAM ARG...  run a program until its output holds the text
//	smaller FILE N     fail unless the file has fewer bytes; mode OCTAL FILE: unless it has this mode
//	is-json FILE       fail unless the file is JSON; field NAME KEY FILE: set $NAME to a member of its first line
//	status N PROGRAM ARG...  run a program and fail unless it exits with N
//	pin-of NAME TOOL FILE    set $NAME to a tool's pin in the output of "tools list --json"; number-of NAME ENTRY: to an entry's number
//	aligned FILE       fail unless each line's columns begin where the first line's do
//	cp-r FROM TO       copy a folder; checkpoint FILE DIR: copy the newest checkpoint below a folder
//	spoil DIR TEXT     change one byte of the text where it first stands in a log segment below a folder
//	postgres NAME      set $NAME to the address of an empty database on a server of the story's own; -kill ends it, -again starts it
//	within DURATION TEXT PROGRAM ARG...  run a program until its output holds the text, which must be so after the duration
//	owner FILE         make a file readable by its owner alone
//	forge-join OUT IN  change the gateway's fingerprint in a join token
package story

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ostiary/ostiary/internal/store/pgtest"
)

// Main builds the program and runs the tests of a package of stories. It is
// their TestMain. The test binary is each of the programs when it is called
// by its name.
func Main(m *testing.M, programs map[string]func()) {
	all := map[string]func(){"agent": agentMain, "toolserver": toolserverMain}
	maps.Copy(all, programs)
	testscript.Main(runner{m}, all)
}

// runner builds the program before the first test. Inside a story the test
// binary is only a command, and testscript never comes here.
type runner struct{ m *testing.M }

func (r runner) Run() int {
	dir, err := os.MkdirTemp("", "ostiary-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "ostiary"), "github.com/ostiary/ostiary/cmd/ostiary")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return r.m.Run()
}

// Run runs every story in a folder, with further commands. A folder without
// stories fails.
func Run(t *testing.T, dir string, more map[string]func(*testscript.TestScript, bool, []string)) {
	found, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no stories in %s", dir)
	}
	testscript.Run(t, testscript.Params{
		Files: found,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("OSTIARY_CONFIG", filepath.Join(e.WorkDir, "ostiary.yaml"))
			for name, program := range map[string]string{"OSTIARY": "ostiary", "TOOLSERVER": "toolserver"} {
				e.Setenv(name, findIn(e.Getenv("PATH"), program)) // for commands in configurations, which nothing searches for
			}
			e.Values[stateKey{}] = &state{}
			e.Defer(func() { e.Values[stateKey{}].(*state).end(e.T()) })
			return nil
		},
		Cmds: with(more, map[string]func(*testscript.TestScript, bool, []string){
			"gateway":      gatewayStart,
			"gateway-stop": gatewayStop,
			"gateway-kill": gatewayKill,
			"gateway-quit": gatewayQuit,
			"hangup":       gatewayHangup,
			"start-tools":  toolsStart,
			"sent":         sent,
			"flip":         flip,
			"ports":        ports,
			"envsubst":     envsubst,
			"stage":        stage,
			"save":         save,
			"waitlog":      waitlog,
			"canary":       canary,
			"background":   background,
			"halt":         halt,
			"freeze":       func(ts *testscript.TestScript, _ bool, _ []string) { signalOthers(ts, syscall.SIGSTOP) },
			"thaw":         func(ts *testscript.TestScript, _ bool, _ []string) { signalOthers(ts, syscall.SIGCONT) },
			"await":        await,
			"kill-pid":     killPID,
			"alive":        alive,
			"hammer":       hammer,
			"hammer-stop":  hammerStop,
			"now":          now,
			"unpermitted":  unpermitted,
			"executed":     executed,
			"proven":       proven,
			"again":        again,
			"smaller":      smaller,
			"crowd":        crowd,
			"crowd-cut":    crowdCut,
			"limit-files":  limitFiles,
			"counted":      counted,
			"digests":      digests,
			"crowd-leaves": crowdLeaves,
			"killings":     killings,
			"forge-join":   forgeJoin,
			"is-json":      isJSON,
			"mode":         mode,
			"field":        field,
			"status":       status,
			"pin-of":       pinOf,
			"number-of":    numberOf,
			"aligned":      aligned,
			"cp-r":         copyAll,
			"checkpoint":   checkpoint,
			"spoil":        spoil,
			"postgres":     postgres,
			"within":       within,
			"owner":        owner,
			"held":         held,
			"people":       people,
		}),
		RequireExplicitExec: false,
	})
}

func with[K comparable, V any](more, all map[K]V) map[K]V {
	maps.Copy(all, more)
	return all
}

type stateKey struct{}

// state is what a story has running.
type state struct {
	gateway *process
	tools   []*process
	others  []*process // by background
	calls   *load      // by hammer
	server  *pgtest.Cluster
	crowd   []net.Conn // by crowd
	base    holds      // of the gateway, when it had just started
	files   string     // by limit-files
}

type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan error
}

// output is what a process wrote so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (s *state) kill() {
	s.killOthers()
	for _, p := range []*process{s.gateway} {
		if p != nil {
			p.cmd.Process.Kill()
			<-p.done
		}
	}
}

// killOthers ends everything but the gateway.
func (s *state) killOthers() {
	s.calls.stop()
	for _, c := range s.crowd {
		c.Close()
	}
	for _, p := range slices.Concat(s.tools, s.others) {
		if p != nil {
			p.cmd.Process.Kill()
			<-p.done
		}
	}
}

func start(ts *testscript.TestScript, name string, args ...string) *process {
	out := &output{}
	p := startTo(ts, out, name, args...)
	p.out = out
	return p
}

// startTo is start with another place for the output.
func startTo(ts *testscript.TestScript, w io.Writer, name string, args ...string) *process {
	path, err := exec.LookPath(name)
	if err != nil {
		path = findIn(ts.Getenv("PATH"), name)
	}
	p := &process{cmd: exec.Command(path, args...), out: &output{}, done: make(chan error, 1)}
	p.cmd.Dir = ts.Getenv("WORK")
	p.cmd.Env = []string{"HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH"), "OSTIARY_CONFIG=" + ts.Getenv("OSTIARY_CONFIG"), "TMPDIR=" + ts.Getenv("TMPDIR")}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	ts.Check(p.cmd.Start())
	go func() { p.done <- p.cmd.Wait(); close(p.done) }()
	return p
}

func findIn(path, name string) string {
	for _, d := range filepath.SplitList(path) {
		if f := filepath.Join(d, name); isFile(f) {
			return f
		}
	}
	return name
}

func isFile(f string) bool { st, err := os.Stat(f); return err == nil && st.Mode().IsRegular() }

// patience bounds every wait of a story for something that must happen.
const patience = 30 * time.Second

// eventually asks again until f says yes.
func eventually(ts *testscript.TestScript, what string, p *process, f func() bool) {
	deadline := time.Now().Add(patience)
	for !f() {
		if p != nil {
			select {
			case err := <-p.done:
				ts.Fatalf("%s ended: %v\n%s", what, err, p.out)
			default:
			}
		}
		if time.Now().After(deadline) {
			text := ""
			if p != nil {
				p.cmd.Process.Signal(syscall.SIGQUIT)
				<-p.done
				text = p.out.String()
			}
			ts.Fatalf("%s: not within %v\n%s", what, patience, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func serve(ts *testscript.TestScript, st *state, args []string) *process {
	if st.files == "" {
		return start(ts, "ostiary", append([]string{"serve"}, args...)...)
	}
	return start(ts, "/bin/sh", append([]string{"-c", `ulimit -n "$0"; exec ostiary serve "$@"`, st.files}, args...)...)
}

func gatewayStart(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	p := serve(ts, st, args)
	if neg { // it must refuse to start, and say why on stderr
		select {
		case err := <-p.done:
			if err == nil {
				ts.Fatalf("the gateway ended without an error")
			}
			ts.Check(os.WriteFile(ts.MkAbs("gateway.out"), []byte(p.out.String()), 0o644))
		case <-time.After(patience):
			p.cmd.Process.Kill()
			ts.Fatalf("the gateway started")
		}
		return
	}
	st.gateway = p
	// It answers a little before everything it always holds has begun; it says
	// so when it has.
	eventually(ts, "the gateway", p, func() bool { return strings.Contains(p.out.String(), "msg=serving") })
	eventually(ts, "the gateway", p, func() (up bool) { st.base, up = p.holds(); return up })
}

func gatewayStop(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	ts.Check(st.gateway.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-st.gateway.done:
		ts.Logf("%s", st.gateway.out)
		ts.Check(err)
	case <-time.After(patience):
		ts.Fatalf("the gateway does not stop\n%s", st.gateway.out)
	}
	ts.Check(os.WriteFile(ts.MkAbs("gateway.out"), []byte(st.gateway.out.String()), 0o644))
	st.gateway = nil
}

func gatewayHangup(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Value(stateKey{}).(*state).gateway.cmd.Process.Signal(syscall.SIGHUP))
}

func gatewayKill(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	st.gateway.cmd.Process.Kill()
	<-st.gateway.done
	st.gateway = nil
}

// gatewayQuit fails if the kernel dumped the process's memory.
func gatewayQuit(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	ts.Check(st.gateway.cmd.Process.Signal(syscall.SIGQUIT))
	select {
	case err := <-st.gateway.done:
		if err == nil {
			ts.Fatalf("it ended without an error")
		}
	case <-time.After(patience):
		ts.Fatalf("the gateway does not die\n%s", st.gateway.out)
	}
	if status, ok := st.gateway.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.CoreDump() {
		ts.Fatalf("its memory was dumped: %v", st.gateway.cmd.ProcessState)
	}
	ts.Check(os.WriteFile(ts.MkAbs("gateway.out"), []byte(st.gateway.out.String()), 0o644))
	st.gateway = nil
}

// toolsStart starts the tool server on a port and waits until it listens.
func toolsStart(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: start-tools PORT [flags]")
	}
	st := ts.Value(stateKey{}).(*state)
	p := start(ts, "toolserver", append([]string{"-addr", "127.0.0.1:" + args[0]}, args[1:]...)...)
	st.tools = append(st.tools, p)
	eventually(ts, "the tool server", p, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+args[0])
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// sent counts tool calls in the recorder's file.
func sent(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sent N FILE")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	f, err := os.Open(ts.MkAbs(args[1]))
	if os.IsNotExist(err) && want == 0 {
		return
	}
	ts.Check(err)
	defer f.Close()
	got := 0
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "tools/call ") {
			got++
		}
	}
	if (got == want) == neg {
		ts.Fatalf("the tool server received %d calls, want %d", got, want)
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	off, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[off] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

func ports(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, strconv.Itoa(freePort(ts)))
	}
}

// Ports of stories lie below those that systems hand out by themselves, so
// that no connection of anybody takes one before its story listens on it.
const (
	firstPort = 12000
	lastPort  = 21999
)

// taken counts the ports this test binary has handed out: no two of its
// stories get the same one. Where it begins differs between binaries that run
// at one time.
var taken atomic.Int64

func freePort(ts *testscript.TestScript) int {
	for range 1000 {
		port := firstPort + (os.Getpid()*97+int(taken.Add(1)))%(lastPort-firstPort+1)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	ts.Fatalf("no free port")
	return 0
}

// The usual files of a story. One that the story brings itself is kept.
var usual = map[string]string{
	"ostiary.yaml": `trust_domain: example.org
listen:
  agents: 127.0.0.1:${AGENTS}
  loopback: 127.0.0.1:${PLAIN}
ledger: {segment_size: 1MiB}
tools: {recheck: 1s}
servers:
  bank:
    url: http://127.0.0.1:${TOOLS}/mcp
    allow_addresses: [127.0.0.1/32]
`,
	"tools.json": `[
 {"name":"get_balance","description":"The balance of an account.","annotations":{"readOnlyHint":true},
  "inputSchema":{"type":"object","properties":{"account":{"type":"string"}},"required":["account"]}},
 {"name":"send_payment","description":"Send money. Amounts are cents.",
  "inputSchema":{"type":"object","properties":{"to":{"type":"string"},"amount":{"type":"integer"},"note":{"type":"string"}},"required":["to","amount"]}},
 {"name":"close_account","description":"Close an account for good.","annotations":{"destructiveHint":true},
  "inputSchema":{"type":"object","properties":{"account":{"type":"string"}},"required":["account"]}}
]
`,
	"policy/main.cedar": `@id("session")
permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);

@id("read")
permit (principal, action == Ostiary::Action::"bank___get_balance", resource);

@id("pay")
permit (principal, action == Ostiary::Action::"bank___send_payment", resource)
when { context.input.amount > 0 && context.input.amount <= 9007199254740992 };

@id("pay-large") @remedy("approval:finance") @reason("Payments over 1000.00 need a person")
forbid (principal, action == Ostiary::Action::"bank___send_payment", resource)
when { context.input.amount > 100000 && context.input.amount < 9007199254740000 }
unless { context.satisfied.contains("approval:finance") };
`,
}

// stage sets up what most stories start from.
func stage(ts *testscript.TestScript, neg bool, args []string) {
	ports(ts, false, []string{"AGENTS", "PLAIN", "TOOLS"})
	for name, text := range usual {
		path := ts.MkAbs(name)
		if isFile(path) {
			continue
		}
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, []byte(text), 0o644))
	}
	envsubst(ts, false, []string{"ostiary.yaml"})
	base := "http://127.0.0.1:" + ts.Getenv("PLAIN")
	ts.Setenv("BASE", base)
	ts.Setenv("MCP", base+"/mcp")
	ts.Setenv("BANK", base+"/mcp/bank")
	toolsStart(ts, false, append([]string{ts.Getenv("TOOLS")}, args...))
	gatewayStart(ts, false, nil)
	ts.Check(ts.Exec("ostiary", "tools", "pin", "bank"))
	ts.Check(ts.Exec("ostiary", "agent", "add", "payments", "--principal", "person:dana"))
	save(ts, false, []string{"token", "ostiary", "token", "payments"})
}

// envsubst replaces ${NAME} in files of the story.
func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		path := ts.MkAbs(name)
		b, err := os.ReadFile(path)
		ts.Check(err)
		ts.Check(os.WriteFile(path, []byte(os.Expand(string(b), ts.Getenv)), 0o644))
	}
}

// save runs a command and keeps its standard output, trimmed, in a file:
// save FILE PROGRAM ARG...
func save(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: save FILE PROGRAM ARG...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.TrimSpace(ts.ReadFile("stdout"))), 0o600))
}

// waitlog waits until "ostiary log" with the given arguments prints what fits the
// expression: waitlog REGEXP ARG...
func waitlog(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: waitlog REGEXP [ARG...]")
	}
	say := regexp.MustCompile(args[0])
	eventually(ts, "the log to say "+args[0], nil, func() bool {
		out, err := quietly(ts, "ostiary", append([]string{"log"}, args[1:]...)...)
		return err == nil && say.MatchString(out)
	})
}

// quietly runs a program whose output is no part of the story's record.
func quietly(ts *testscript.TestScript, name string, args ...string) (string, error) {
	var out output
	p := startTo(ts, &out, name, args...)
	err := <-p.done
	return out.String(), err
}
