package story

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ostiary/ostiary/proof"
)

// What goes on beside a story: programs in the background, and load.

// background runs a program whose output grows in a file.
func background(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: background FILE PROGRAM ARG...")
	}
	st := ts.Value(stateKey{}).(*state)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	st.others = append(st.others, startTo(ts, f, args[1], args[2:]...))
}

// signalOthers sends a signal to every background program.
func signalOthers(ts *testscript.TestScript, s syscall.Signal) {
	for _, p := range ts.Value(stateKey{}).(*state).others {
		ts.Check(p.cmd.Process.Signal(s))
	}
}

// halt stops every background program as Ctrl-C would.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	for _, p := range st.others {
		p.cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-p.done:
			if err != nil {
				ts.Fatalf("%v ended badly: %v", p.cmd.Args, err)
			}
		case <-time.After(patience):
			ts.Fatalf("%v does not stop", p.cmd.Args)
		}
	}
	st.others = nil
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: await TEXT FILE")
	}
	st := ts.Value(stateKey{}).(*state)
	eventually(ts, args[1]+" to hold "+args[0], nil, func() bool {
		if args[1] == "gateway" {
			return strings.Contains(st.gateway.out.String(), args[0])
		}
		b, err := os.ReadFile(ts.MkAbs(args[1]))
		return err == nil && strings.Contains(string(b), args[0])
	})
}

// pidIn reads "pid N" from a file's first line.
func pidIn(ts *testscript.TestScript, args []string) int {
	if len(args) != 1 {
		ts.Fatalf("usage: kill-pid|alive FILE")
	}
	first, _, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	pid, err := strconv.Atoi(strings.TrimPrefix(first, "pid "))
	ts.Check(err)
	return pid
}

func killPID(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(syscall.Kill(pidIn(ts, args), syscall.SIGKILL))
}

// alive reports on a process; gone means that it is, or soon will be.
func alive(ts *testscript.TestScript, neg bool, args []string) {
	pid := pidIn(ts, args)
	running := func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && !bytes.Contains(b, []byte(") Z "))
	}
	if neg {
		eventually(ts, "process "+strconv.Itoa(pid)+" to be gone", nil, func() bool { return !running() })
	} else if !running() {
		ts.Fatalf("process %d is gone", pid)
	}
}

// load is calls without a pause.
type load struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	strict bool // every call must be answered as it should be
	calls  atomic.Int64
	failed atomic.Pointer[string] // the first that was not
}

func (l *load) stop() {
	if l != nil {
		l.cancel()
		l.wait.Wait()
	}
}

func hammer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 && len(args) != 5 {
		ts.Fatalf("usage: hammer TOKENFILE URL TOOL ARGUMENTS [ANSWER]; with an answer, hammer-stop fails if a call was not answered so")
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	ts.Value(stateKey{}).(*state).calls = l
	file := ts.MkAbs(args[0])
	body, own := compose([]string{"call", args[2], args[3]})
	for range 2 {
		l.wait.Go(func() {
			client := &http.Client{Timeout: 5 * time.Second}
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, "POST", args[1], bytes.NewReader(body))
				if err != nil {
					return
				}
				for k, v := range own {
					req.Header.Set(k, v)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Accept", "application/json, text/event-stream")
				token, err := os.ReadFile(file) // a long story makes a new one
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
				resp, err := client.Do(req)
				if err != nil { // the gateway is down just now
					if ctx.Err() == nil {
						l.failed.CompareAndSwap(nil, &[]string{err.Error()}[0])
					}
					select {
					case <-ctx.Done():
					case <-time.After(5 * time.Millisecond):
					}
					continue
				}
				answer, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if ctx.Err() != nil {
					return
				}
				l.calls.Add(1)
				if len(args) == 5 && (err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), args[4])) {
					text := fmt.Sprintf("%d %s %v", resp.StatusCode, answer, err)
					l.failed.CompareAndSwap(nil, &text)
				}
			}
		})
	}
	l.strict = len(args) == 5
}

func hammerStop(ts *testscript.TestScript, neg bool, args []string) {
	l := ts.Value(stateKey{}).(*state).calls
	l.stop()
	if !l.strict {
		return
	}
	if why := l.failed.Load(); why != nil {
		ts.Fatalf("of %d calls one was answered: %s", l.calls.Load(), *why)
	}
	if l.calls.Load() == 0 {
		ts.Fatalf("no call was made")
	}
	ts.Logf("%d calls, all of them answered as they should be", l.calls.Load())
}

// executed compares what the recorder received with what the log says was
// going to be sent.
func executed(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: executed FILE")
	}
	intents, late := permitted(ts), time.Now().Add(20*time.Second)
	sc := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[0])))
	sc.Buffer(nil, 16<<20)
	n := 0
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), "tools/call entry=")
		if !ok {
			continue
		}
		entry, _, _ := strings.Cut(rest, " ")
		n++
		for !intents[entry] && time.Now().Before(late) {
			intents = permitted(ts) // its index lags behind the log
		}
		if !intents[entry] {
			ts.Fatalf("the tool server received a call under entry %q, which is no intent of the log", entry)
		}
	}
	if n == 0 {
		ts.Fatalf("nothing was executed")
	}
	ts.Logf("%d calls, %d intents", n, len(intents))
}

// permitted returns the permitted entries of the log by number, true for
// intents. It pages backwards, as one listing has its limit.
func permitted(ts *testscript.TestScript) map[string]bool {
	const page = 10000
	intents := map[string]bool{}
	until := time.Now().Add(time.Hour)
	for {
		ts.Check(ts.Exec("ostiary", "log", "--entries", "--json", "--decision", "permit", "-n", strconv.Itoa(page), "--until", until.Format(time.RFC3339Nano)))
		had, lines := len(intents), strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
		for _, line := range lines {
			var x struct {
				Entry, Kind string
				Time        time.Time
			}
			ts.Check(json.Unmarshal([]byte(line), &x))
			intents[x.Entry] = intents[x.Entry] || x.Kind == "intent"
			if x.Time.Before(until) {
				until = x.Time.Add(1) // the next page ends with this moment's
			}
		}
		if len(lines) < page || len(intents) == had {
			return intents
		}
	}
}

func now(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: now NAME")
	}
	ts.Setenv(args[0], time.Now().UTC().Format(time.RFC3339Nano))
}

// permitSlack is for a call that read its clock, and was then set aside by the
// machine's scheduler, before it found out that it may not leave: half of what
// is promised for all gateways together.
const permitSlack = 500 * time.Millisecond

// unpermitted looks for calls that went out, or whose reply came in, after
// what should have ended them. There must be refusals, or nobody called.
func unpermitted(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: unpermitted TIME")
	}
	from, err := time.Parse(time.RFC3339Nano, args[0])
	ts.Check(err)
	ts.Check(ts.Exec("ostiary", "log", "--entries", "--json", "--since", args[0], "-n", "10000"))
	refused := 0
	last := time.Duration(0)
	for _, line := range strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n") {
		var x struct {
			Entry, Kind, Disposition string
			Time                     time.Time
		}
		ts.Check(json.Unmarshal([]byte(line), &x))
		after := x.Time.Sub(from)
		switch {
		case x.Kind == "intent" || x.Disposition == "delivered":
			if last = max(last, after); after > permitSlack {
				ts.Fatalf("%s is a permit %v later: %s", x.Entry, after, line)
			}
		case x.Disposition == "refused":
			refused++
		}
	}
	if refused == 0 {
		ts.Fatalf("nobody called")
	}
	ts.Logf("%d calls refused; the last permit %v after", refused, last)
}

// proven verifies a tlog-proof with the public package, as an auditor would,
// against the entries that the log published.
func proven(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: proven PROOF LOGDIR KEYS")
	}
	p, err := proof.ParseInclusion([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	keys := strings.Fields(ts.ReadFile(args[2]))
	shown := func() (found bool) {
		ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.Contains(path, "/tile/entries/") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			entries, err := proof.ParseBundle(b)
			if err != nil {
				return err
			}
			for _, e := range entries {
				for _, key := range keys {
					if _, err := p.Verify(e, key); err == nil {
						found = true
						return fs.SkipAll
					}
				}
			}
			return nil
		}))
		return found
	}
	if !neg { // bundles are published a little after their entries are durable
		eventually(ts, "the proof to show an entry of "+args[1], nil, shown)
	} else if shown() {
		ts.Fatalf("the proof shows an entry of %s", args[1])
	}
}
