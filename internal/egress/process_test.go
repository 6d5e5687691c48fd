package egress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

// selfServer is this test binary as a server of the given kind.
func selfServer(t testing.TB, kind string) Server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Server{Name: "srv", Command: []string{self}, Env: map[string]string{childVariable: kind}}
}

func TestStdioSDK(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "sdk")}})
	if h := e.Health()[0]; h.State != "unused" || h.Starts != 0 {
		t.Errorf("started before it was called: %+v", h)
	}
	call := toolCall(t, "srv", "echo", `{"text":"hi"}`)
	call.Progress = true
	f, err := result(t, e, call)
	if err != nil || !strings.Contains(string(f.Body.Bytes()), "echo hi") {
		t.Fatalf("%s %v", f.Body.Bytes(), err)
	}
	list := gate.Call{Action: ostiary.Action{Name: "discover_server", Method: "tools/list", Server: "srv"}}
	if f, err := result(t, e, list); err != nil || f.Body.Get("tools").Len() != 2 {
		t.Errorf("%s %v", f.Body.Bytes(), err)
	}
	if h := e.Health()[0]; h.State != "ready" || h.Protocol != "2026-07-28" || h.Starts != 1 {
		t.Errorf("%+v", h)
	}
}

// P03, C11: exactly the configured environment, arguments, directory and
// three descriptors, in a process group of its own.
func TestP03StdioConfinement(t *testing.T) {
	t.Setenv("CANARY", "c4n4ry")
	s := selfServer(t, "legacy")
	s.Dir = t.TempDir()
	s.Command = append(s.Command, "--config=$HOME", "a b; rm -rf /")
	e := newEgress(t, Options{Servers: []Server{s}})
	f, err := result(t, e, toolCall(t, "srv", "env", `{}`))
	want := fmt.Sprintf(`env [%q] fds [0 1 2] dir %s leader true args ["--config=$HOME" "a b; rm -rf /"]`, childVariable+"=legacy", s.Dir)
	if got := f.Body.Get("text").Text(); err != nil || got != want {
		t.Errorf("got  %s %v\nwant %s", got, err, want)
	}
}

func TestStdioEras(t *testing.T) {
	for kind, want := range map[string]string{"modern": `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"`, "legacy": `"arguments":{ "a" : 1 }}}`, "dies": `"arguments":{ "a" : 1 }}}`, "silent": `"arguments":{ "a" : 1 }}}`} {
		t.Run(kind, func(t *testing.T) {
			e := newEgress(t, Options{Servers: []Server{selfServer(t, kind)}, Limits: Limits{Start: time.Second}})
			f, err := result(t, e, toolCall(t, "srv", "line", `{ "a" : 1 }`))
			line := f.Body.Get("text").Text()
			if err != nil || !strings.Contains(line, `"params":{"name":"line","arguments":{ "a" : 1 }`) || !strings.Contains(line, want) {
				t.Errorf("got %s %v", line, err)
			}
		})
	}
}

// Line breaks between tokens are refused, never compacted.
func TestStdioNewline(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}})
	for _, args := range []string{"{\n\"a\":1}", "{\"a\":\r1}"} {
		_, err := result(t, e, toolCall(t, "srv", "line", args))
		if code, unsent := codeOf(err); code != "newline_in_arguments" || !unsent || ostiary.KindOf(err) != ostiary.Malformed || ostiary.AsError(err).Field != "/params/arguments" {
			t.Errorf("%q: %v", args, err)
		}
	}
	if f, err := result(t, e, toolCall(t, "srv", "line", `{"a":"x\ny"}`)); err != nil || !strings.Contains(f.Body.Get("text").Text(), `{"a":"x\ny"}`) {
		t.Errorf("%s %v", f.Body.Bytes(), err)
	}
	if h := e.Health()[0]; h.Starts != 1 {
		t.Errorf("%+v", h)
	}
}

func TestStdioConcurrent(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "sdk")}})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			text := "caller-" + strconv.Itoa(i)
			f, err := result(t, e, toolCall(t, "srv", "echo", `{"text":"`+text+`"}`))
			if err != nil || !strings.Contains(string(f.Body.Bytes()), `"echo `+text+`"`) {
				t.Errorf("A17 %s got %s %v", text, f.Body.Bytes(), err)
			}
		})
	}
	wg.Wait()
	if h := e.Health()[0]; h.Starts != 1 || h.Calls != 200 {
		t.Errorf("%+v", h)
	}
}

func TestStdioMisbehaviour(t *testing.T) {
	limits := Limits{Line: 256 << 10, Stop: 200 * time.Millisecond}
	for _, c := range []struct {
		tool    string
		code    string // of the call
		next    string // of the call after it
		dropped uint64
	}{
		{"crash", "lost", "server_restarting", 0},
		{"foreign", "lost", "server_quarantined", 1},
		{"foreign string", "lost", "server_quarantined", 1},
		{"twice", "", "", 1},
		{"duplicate", "lost", "server_restarting", 0},
		{"long", "lost", "server_restarting", 0},
		{"junk", "", "", 2},
		{"tells all", "", "", 1},
		{"hang", "timeout", "", 0},
		{"flood", "bad_reply", "", 0},
	} {
		t.Run("B15 "+c.tool, func(t *testing.T) {
			l := limits
			switch c.tool {
			case "flood":
				l.Frames = 100
			case "hang":
				l.Head = 300 * time.Millisecond
			}
			e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}, Limits: l})
			call := toolCall(t, "srv", c.tool, `{}`)
			call.Progress = true
			_, err := result(t, e, call)
			if code, unsent := codeOf(err); code != c.code || unsent {
				t.Fatalf("got %q unsent %v: %v", code, unsent, err)
			}
			_, err = result(t, e, toolCall(t, "srv", "line", `{}`))
			if code, unsent := codeOf(err); code != c.next || unsent != (c.next != "") {
				t.Errorf("then %q unsent %v: %v", code, unsent, err)
			}
			e.Close()
			if h := e.Health()[0]; c.tool != "flood" && h.Dropped != c.dropped {
				t.Errorf("health %+v", h)
			}
			if want := "quarantined"; c.next == "server_quarantined" && (e.Health()[0].State != want || !strings.Contains(e.Health()[0].Why, "never sent")) {
				t.Errorf("B15 health %+v", e.Health()[0])
			}
		})
	}
}

// After a crash the server starts again, but not before its pause is over.
func TestStdioRestart(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1_790_000_000, 0)
	advance := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}, Clock: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	for i, pause := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause} {
		if _, err := result(t, e, toolCall(t, "srv", "crash", `{}`)); err == nil {
			t.Fatal("no error")
		}
		if code, _ := codeOf(errOf(result(t, e, toolCall(t, "srv", "x", `{}`)))); code != "server_restarting" {
			t.Fatalf("crash %d: %s", i, code)
		}
		advance(pause - time.Millisecond)
		if code, _ := codeOf(errOf(result(t, e, toolCall(t, "srv", "x", `{}`)))); code != "server_restarting" {
			t.Fatalf("crash %d, just before: %s", i, code)
		}
		advance(time.Millisecond)
		if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
			t.Fatalf("crash %d, after: %v", i, err)
		}
	}
}

func errOf(_ gate.Frame, err error) error { return err }

// What a server says on standard error is one escaped, bounded line each.
func TestStdioStderr(t *testing.T) {
	var out lockedBuffer
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if _, err := result(t, e, toolCall(t, "srv", "stderr", `{}`)); err != nil {
		t.Fatal(err)
	}
	e.Close()
	log := out.String()
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "time=") || len(line) > 4*stderrLine {
			t.Errorf("M07 forged or overlong line %.100q", line)
		}
	}
	if strings.ContainsAny(log, "\x1b\u202e") || !strings.Contains(log, `\x1b[2Jforged\u202e`) {
		t.Errorf("M07 %.300q", log)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// A process that ignores every request to stop is killed, with whatever it
// started.
func TestStdioStop(t *testing.T) {
	for _, kind := range []string{"legacy", "stubborn"} {
		t.Run(kind, func(t *testing.T) {
			e := newEgress(t, Options{Servers: []Server{selfServer(t, kind)}, Limits: Limits{Stop: 200 * time.Millisecond}})
			f, err := result(t, e, toolCall(t, "srv", "grandchild", `{}`))
			pid, convErr := strconv.Atoi(f.Body.Get("text").Text())
			if err != nil || convErr != nil {
				t.Fatal(err, convErr)
			}
			parent := (*e.table.Load())["srv"].upstream.(*process).pipe.pid
			begun := time.Now()
			e.Close()
			if d := time.Since(begun); d > 5*time.Second {
				t.Errorf("stopping took %v", d)
			}
			for _, p := range []int{parent, pid} {
				if !gone(t, p) {
					t.Errorf("process %d is still there", p)
				}
			}
		})
	}
}

// gone waits for a process that was killed to be gone.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	return n == 1 && err == nil
}

// C09: an executable that is not the pinned one is not started, neither at
// configuration time nor later.
func TestC09Digest(t *testing.T) {
	s := selfServer(t, "legacy")
	b, err := os.ReadFile(s.Command[0])
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/server"
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Command[0], s.Digest = path, ostiary.Digest(sha256.Sum256(b))
	e := newEgress(t, Options{Servers: []Server{s}, Clock: func() time.Time { return time.Now() }})
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Fatal(err)
	}
	e.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	e = newEgress(t, Options{})
	if _, err := newProcess(e, s, &shared{}); ostiary.AsError(err).Code != "executable" && ostiary.AsError(err).Code != "command" {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, append(b, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Servers: []Server{s}}); ostiary.AsError(err).Code != "executable_changed" {
		t.Errorf("C09 at configuration: %v", err)
	}
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	e = newEgress(t, Options{Servers: []Server{s}})
	if err := os.WriteFile(path, append(b, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "executable_changed" || !unsent || e.Health()[0].Starts != 0 {
		t.Errorf("C09 at start: %v", err)
	}
}

// A server on a pipe asks back without saying for whom.
func TestStdioAsking(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}, Capabilities: `{"sampling":{},"elicitation":{}}`})
	ask := func(method string) gate.Stream {
		s, err := e.Forward(t.Context(), gatetest.Clear(toolCall(t, "srv", "ask", `{"method":"`+method+`"}`)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := ask("sampling/createMessage")
	f, err := s.Next(t.Context())
	if err != nil || f.Kind != gate.FrameRequest || f.Method != "sampling/createMessage" {
		t.Fatalf("%+v %v", f, err)
	}
	if err := s.Answer(t.Context(), f.ID, gate.FrameResult, []byte("{\n}")); ostiary.KindOf(err) != ostiary.Malformed {
		t.Errorf("newline in an answer: %v", err)
	}
	// A second call opens: now nobody can tell whom a request is for.
	other := ask("elicitation/create")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if f, err := other.Next(ctx); err == nil || f.Kind == gate.FrameRequest {
		t.Errorf("B15 a request reached a call it may not be part of: %+v", f)
	}
	other.Close()
	if err := s.Answer(t.Context(), f.ID, gate.FrameError, []byte(`{"code":-1,"message":"no"}`)); err != nil {
		t.Error(err)
	}
	if got, err := s.Next(t.Context()); err != nil || !strings.Contains(string(got.Body.Bytes()), "answered") {
		t.Errorf("%s %v", got.Body.Bytes(), err)
	}
	if err := s.Answer(t.Context(), f.ID, gate.FrameResult, []byte(`{}`)); ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("second answer: %v", err)
	}
	s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after close: %v", err)
	}
}

// A server that asks without listening costs a bounded number of answers
// that wait for it.
func TestStdioDeaf(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}})
	before := runtime.NumGoroutine()
	if _, err := result(t, e, toolCall(t, "srv", "pings", `{}`)); err != nil {
		t.Fatal(err)
	}
	if more := runtime.NumGoroutine() - before; more > maxBehind+50 {
		t.Errorf("%d goroutines wait for a server that does not listen", more)
	}
}

func TestStdioBusy(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "legacy")}, Limits: Limits{Pending: 2}})
	var open []gate.Stream
	for range 2 {
		s, err := e.Forward(t.Context(), gatetest.Clear(toolCall(t, "srv", "hang", `{}`)))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	_, err := result(t, e, toolCall(t, "srv", "x", `{}`))
	if code, unsent := codeOf(err); code != "server_busy" || !unsent || ostiary.KindOf(err) != ostiary.Exhausted {
		t.Errorf("%v", err)
	}
	for _, s := range open {
		s.Close()
	}
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Error(err)
	}
}

func TestCheckCommand(t *testing.T) {
	for name, c := range map[string]struct {
		argv []string
		code string
	}{
		"program":                 {[]string{"/usr/bin/server", "-c", "config.yaml"}, ""},
		"node":                    {[]string{"node", "server.js"}, ""},
		"python":                  {[]string{"python3", "-m", "server"}, ""},
		"script":                  {[]string{"bash", "start.sh"}, ""},
		"script, stop on errors":  {[]string{"bash", "-eu", "start.sh"}, ""},
		"C09 npx pinned":          {[]string{"npx", "-y", "@scope/server@1.2.3", "--flag"}, ""},
		"C09 npx pinned, package": {[]string{"npx", "--package=@scope/server@1.2.3", "server"}, ""},
		"C09 uvx pinned":          {[]string{"uvx", "server==1.2.3"}, ""},
		"C09 uvx pinned by at":    {[]string{"/home/x/.local/bin/uvx", "server@1.2"}, ""},
		"go run a folder":         {[]string{"go", "run", "./cmd/server"}, ""},
		"npm start":               {[]string{"npm", "start"}, ""},
		"C09 npx latest":          {[]string{"npx", "-y", "server@latest"}, "unpinned"},
		"C09 npx bare":            {[]string{"npx", "server"}, "unpinned"},
		"C09 npx scope":           {[]string{"npx", "-y", "@scope/server"}, "unpinned"},
		"C09 npx range":           {[]string{"npx", "server@^1.2.3"}, "unpinned"},
		"C09 npx major":           {[]string{"npx", "server@1"}, "unpinned"},
		"C09 npx x-range":         {[]string{"npx", "server@1.x"}, "unpinned"},
		"C09 npx nothing":         {[]string{"npx"}, "unpinned"},
		"C09 npx git":             {[]string{"npx", "github:owner/repo"}, "unpinned"},
		"C09 uvx bare":            {[]string{"uvx", "server"}, "unpinned"},
		"C09 uvx from":            {[]string{"uvx", "--from", "git+https://x/y", "server"}, "unpinned"},
		"C09 uvx range":           {[]string{"uvx", "server>=1.0"}, "unpinned"},
		"C09 pipx run":            {[]string{"pipx", "run", "server"}, "unpinned"},
		"C09 npm exec":            {[]string{"npm", "exec", "server"}, "unpinned"},
		"C09 pnpm dlx":            {[]string{"pnpm", "dlx", "server"}, "unpinned"},
		"C09 bunx":                {[]string{"bunx", "server"}, "unpinned"},
		"C09 go run latest":       {[]string{"go", "run", "example.com/x@latest"}, "unpinned"},
		"C09 through env":         {[]string{"env", "A=b", "npx", "server"}, "unpinned"},
		"C11 sh -c":               {[]string{"sh", "-c", "server"}, "shell"},
		"C11 bash -lc":            {[]string{"/bin/bash", "-lc", "server"}, "shell"},
		"C11 busybox sh -c":       {[]string{"busybox", "sh", "-c", "server"}, "shell"},
		"C11 pwsh":                {[]string{"pwsh", "-EncodedCommand", "x"}, "shell"},
		"C11 cmd":                 {[]string{"cmd", "/c", "server"}, "shell"},
		"C11 fish":                {[]string{"fish", "--command=x"}, "shell"},
		"C11 env -S":              {[]string{"env", "-S", "sh -c x"}, "command"},
		"C11 env sh -c":           {[]string{"env", "sh", "-c", "x"}, "shell"},
		"C11 env env":             {[]string{"env", "env", "-i", "x"}, "command"},
		"empty":                   {nil, "command"},
		"empty name":              {[]string{""}, "command"},
		"NUL":                     {[]string{"x", "a\x00b"}, "command"},
	} {
		err := CheckCommand(c.argv)
		code := ""
		if err != nil {
			code = ostiary.AsError(err).Code
		}
		if code != c.code {
			t.Errorf("%s: %q (%v), want %q", name, code, err, c.code)
		}
	}
}
