package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/store/pgtest"
)

// The fail-closed matrix of the whole gateway: everything is real, each thing
// it stands on breaks in each way it can, alone. With what a decision needs
// broken nothing reaches the tool server, the refusal has that dependency's
// own code and is in the log, the process lives, and when the fault ends
// calls pass again without a restart. A log that failed to write or to flush
// is the exception: it stops the gateway until a restart has verified it.
// What no decision needs may break as it likes.
//
// Inside the gate, with its neighbours faked, gate's own matrix goes through
// panics and answers that make no sense, which no real neighbour can be made
// to give on demand.

// cell is one dependency broken in one way.
type cell struct {
	dependency, way string
	// breaks breaks it and returns what mends it.
	breaks func(s *stand) (mend func())
	// codes are the reasons a call may be refused with; none: it must pass.
	codes []string
	// fresh: the call is of an agent that never called before, whose session
	// must be made.
	fresh bool
	// left: the client leaves before there is an answer.
	left bool
	// fills: calls pass until room runs out.
	fills bool
	// reached: the fault is behind the decision, so the server may have been
	// reached, by as many calls as have an intent.
	reached bool
	// unrecorded: the log is what is broken.
	unrecorded bool
	// counted: the caller was not authenticated, so there is a count.
	counted bool
	// ends: the gateway stops, and a restart verifies.
	ends bool
	// after looks further when calls pass again.
	after func(s *stand)
}

// stance is what a stand is built with.
type stance struct {
	postgres, stdio, bearer, collector bool

	keys string // a folder of keys that others share
}

func ledgerCells() (all []cell) {
	for _, how := range []string{"eio", "eio-done", "short", "fsync", "fsync-done", "readonly"} {
		all = append(all, cell{dependency: "ledger disk", way: how, codes: []string{"not_recorded", "ledger_failed"}, unrecorded: true, ends: true,
			breaks: func(s *stand) func() { return s.disk.breaks(how) }})
	}
	return append(all,
		cell{dependency: "ledger disk", way: "full", codes: []string{"ledger_full"}, fills: true, breaks: func(s *stand) func() { return s.disk.breaks("full") }},
		cell{dependency: "ledger disk", way: "stall", codes: []string{"abandoned", "withdrawn"}, left: true, breaks: func(s *stand) func() { return s.disk.breaks("stall") }},
		cell{dependency: "ledger disk", way: "slow", breaks: func(s *stand) func() { return s.disk.breaks("slow") }},
	)
}

func embeddedCells() []cell {
	return []cell{
		{dependency: "store, embedded", way: "locked", codes: []string{"sessions", "not_recorded"}, fresh: true, unrecorded: true, breaks: func(s *stand) func() { return s.lockFile("state.db") }},
		{dependency: "store, embedded", way: "slow", fresh: true, breaks: func(s *stand) func() {
			unlock := sync.OnceFunc(s.lockFile("state.db"))
			late := time.AfterFunc(500*time.Millisecond, unlock)
			return func() { late.Stop(); unlock() }
		}},
		{dependency: "containment feed, embedded", way: "garbage", codes: []string{"not_established"}, breaks: func(s *stand) func() {
			mend := s.sql("INSERT INTO containment VALUES ('all', '', 77, 'r', 'a', 0, 0)", "UPDATE head SET rev = rev + 1")
			s.clock.leasesPass(s)
			return func() { mend(); s.sql("DELETE FROM containment", "UPDATE head SET rev = rev + 1") }
		}},
		{dependency: "containment feed, embedded", way: "error", codes: []string{"not_established"}, breaks: func(s *stand) func() {
			s.sql("ALTER TABLE head RENAME TO lost")
			s.clock.leasesPass(s)
			return func() { s.sql("ALTER TABLE lost RENAME TO head") }
		}},
	}
}

func sharedCells() []cell {
	return []cell{
		{dependency: "session store, shared", way: "refused", codes: []string{"sessions"}, breaks: func(s *stand) func() { return s.wire.breaks("refuse") }},
		{dependency: "session store, shared", way: "garbage", codes: []string{"sessions"}, breaks: func(s *stand) func() { return s.wire.breaks("garbage") }},
		{dependency: "session store, shared", way: "silent", codes: []string{"sessions"}, left: true, breaks: func(s *stand) func() { return s.wire.breaks("silent") }},
		{dependency: "session store, shared", way: "half", codes: []string{"sessions"}, breaks: func(s *stand) func() { return s.wire.breaks("half") }},
		{dependency: "session store, shared", way: "killed", codes: []string{"sessions"}, breaks: func(s *stand) func() {
			s.cluster.Kill()
			return func() {
				if err := s.cluster.Restart(); err != nil {
					s.Error(err)
				}
			}
		}},
		{dependency: "enrolments, shared", way: "gone for a lease", codes: []string{"registry_stale"}, counted: true, breaks: func(s *stand) func() {
			mend := s.wire.breaks("refuse")
			s.clock.leasesPass(s)
			return mend
		}},
		{dependency: "enrolments, shared", way: "silent for a lease", codes: []string{"registry_stale"}, counted: true, breaks: func(s *stand) func() {
			mend := s.wire.breaks("silent")
			s.clock.leasesPass(s)
			return mend
		}},
		{dependency: "revocation feed, shared", way: "error", codes: []string{"registry_stale"}, counted: true, breaks: func(s *stand) func() {
			s.ask("ALTER TABLE agent RENAME TO lost", s.changed("agent"))
			s.unheard()
			return func() { s.ask("ALTER TABLE lost RENAME TO agent") }
		}},
		{dependency: "revocation feed, shared", way: "garbage", codes: []string{"registry_stale"}, counted: true, breaks: func(s *stand) func() {
			s.ask("UPDATE mandate SET jws = 'x' || jws", s.changed("agent"))
			s.unheard()
			return func() { s.ask("UPDATE mandate SET jws = substr(jws, 2)", s.changed("agent")) }
		}},
		{dependency: "containment feed, shared", way: "garbage", codes: []string{"not_established"}, breaks: func(s *stand) func() {
			s.ask("INSERT INTO containment VALUES ('all', '', 77, 'r', 'a', 0, 0)", s.changed("containment"))
			s.clock.leasesPass(s)
			return func() { s.ask("DELETE FROM containment", s.changed("containment")) }
		}},
		{dependency: "containment feed, shared", way: "error", codes: []string{"not_established"}, breaks: func(s *stand) func() {
			s.ask("ALTER TABLE containment RENAME TO lost", s.changed("containment"))
			s.clock.leasesPass(s)
			return func() { s.ask("ALTER TABLE lost RENAME TO containment") }
		}},
		{dependency: "snapshots, shared", way: "garbage", codes: []string{"registry_stale"}, counted: true, breaks: func(s *stand) func() {
			s.ask("INSERT INTO snapshot SELECT number + 1, decode('00', 'hex') || signed FROM snapshot ORDER BY number DESC LIMIT 1", s.changed("snapshot"))
			s.unheard()
			return func() {
				s.ask("DELETE FROM snapshot WHERE number = (SELECT max(number) FROM snapshot)", s.changed("snapshot"))
			}
		}},
	}
}

func upstreamCells() (all []cell) {
	for how, codes := range map[string][]string{
		"refuse":  {"unreachable", "lost"},
		"silent":  {"timeout"},
		"garbage": {"lost", "bad_reply", "unreachable"},
		"half":    {"lost", "reply_cut", "bad_reply"},
	} {
		all = append(all, cell{dependency: "tool server, HTTP", way: how, codes: codes, reached: how == "half", breaks: func(s *stand) func() { return s.wire.breaks(how) }})
	}
	for how, code := range map[string]string{"500": "status", "redirect": "redirect", "401": "upstream_auth", "html": "bad_reply"} {
		all = append(all, cell{dependency: "tool server, HTTP", way: how, codes: []string{code}, breaks: func(s *stand) func() { s.say.Store(how); return func() { s.say.Store("") } }})
	}
	return all
}

func bearerCells() []cell {
	path := func(s *stand) string { return filepath.Join(s.dir, "bearer") }
	again := func(s *stand) func() { return func() { s.file("bearer", "a-token-of-the-bank\n") } }
	return []cell{
		{dependency: "credential file", way: "gone", codes: []string{"credential"}, breaks: func(s *stand) func() { s.check(os.Remove(path(s))); return again(s) }},
		{dependency: "credential file", way: "garbage", codes: []string{"credential"}, breaks: func(s *stand) func() { s.file("bearer", "\x00\x01 two words"); return again(s) }},
		{dependency: "credential file", way: "empty", codes: []string{"credential"}, breaks: func(s *stand) func() { s.file("bearer", ""); return again(s) }},
		{dependency: "credential file", way: "a folder", codes: []string{"credential"}, breaks: func(s *stand) func() {
			s.check(os.Remove(path(s)))
			s.check(os.Mkdir(path(s), 0o700))
			return func() { s.check(os.Remove(path(s))); again(s)() }
		}},
	}
}

func stdioCells() (all []cell) {
	for how, codes := range map[string][]string{
		"panic":   {"lost", "reply_cut"},
		"exit":    {"lost", "reply_cut"},
		"garbage": {"lost", "bad_reply", "timeout"},
		"silent":  {"timeout"},
	} {
		all = append(all, cell{dependency: "tool server, stdio", way: how, codes: codes, reached: true, breaks: func(s *stand) func() {
			s.file("mode", how)
			return func() { s.file("mode", "") }
		}})
	}
	return all
}

// harmless are the cells of what no decision needs.
func harmlessCells() []cell {
	return []cell{
		{dependency: "index", way: "locked", after: (*stand).indexed, breaks: func(s *stand) func() {
			unlock := s.lockFile("index-gw1.db")
			return func() { time.Sleep(6 * time.Second); unlock() } // longer than the index waits for a lock: it has failed
		}},
		{dependency: "index", way: "garbage", breaks: func(s *stand) func() {
			return scribble(s.T, filepath.Join(s.dir, "ostiary-data/index-gw1.db"), filepath.Join(s.dir, "ostiary-data/index-gw1.db-wal"))
		}},
		{dependency: "policy folder", way: "gone", breaks: func(s *stand) func() {
			s.check(os.Rename(filepath.Join(s.dir, "policy"), filepath.Join(s.dir, "away")))
			s.refusesReload()
			return func() { s.check(os.Rename(filepath.Join(s.dir, "away"), filepath.Join(s.dir, "policy"))) }
		}},
		{dependency: "policy folder", way: "garbage", breaks: func(s *stand) func() {
			s.file("policy/more.cedar", "permit (principal, action, resource) when { \x00")
			s.refusesReload()
			return func() { s.check(os.Remove(filepath.Join(s.dir, "policy/more.cedar"))) }
		}},
		{dependency: "policy folder", way: "error", breaks: func(s *stand) func() {
			s.file("policy/more.cedar", `permit (principal, action in [Ostiary::Action::"bank___balance"], resource) when { context.input.nothing > 1 };`)
			s.refusesReload()
			return func() { s.check(os.Remove(filepath.Join(s.dir, "policy/more.cedar"))) }
		}},
		{dependency: "configuration file", way: "garbage", breaks: func(s *stand) func() {
			s.file("ostiary.yaml", "trust_domain: [")
			s.refusesReload()
			return func() { s.file("ostiary.yaml", s.text) }
		}},
		{dependency: "key files", way: "gone", breaks: func(s *stand) func() {
			s.check(os.Rename(filepath.Join(s.dir, "ostiary-data/keys"), filepath.Join(s.dir, "away")))
			return func() {
				s.check(os.RemoveAll(filepath.Join(s.dir, "ostiary-data/keys")))
				s.check(os.Rename(filepath.Join(s.dir, "away"), filepath.Join(s.dir, "ostiary-data/keys")))
			}
		}},
		{dependency: "control socket", way: "garbage", breaks: func(s *stand) func() { return s.onSocket(64, "\x00\xff\x01 / HTTP/9\r\n\r\n") }},
		{dependency: "control socket", way: "slow", breaks: func(s *stand) func() {
			return s.onSocket(64, "POST /v1/tools/accept HTTP/1.1\r\nHost: ostiary\r\nContent-Length: 100\r\n\r\n{")
		}},
		{dependency: "control socket", way: "gone", breaks: func(s *stand) func() {
			s.check(os.Rename(s.d.cfg.Listen.Control, s.d.cfg.Listen.Control+".away"))
			return func() { s.check(os.Rename(s.d.cfg.Listen.Control+".away", s.d.cfg.Listen.Control)) }
		}},
		{dependency: "clock", way: "forward", codes: []string{"credentials"}, counted: true, breaks: func(s *stand) func() {
			was := time.Duration(s.clock.by.Load())
			s.clock.move(time.Hour) // no token lives so long
			return func() {
				s.clock.restore(was) // what was read looks newer than now; and no credential that has expired comes back to life
				if code := s.call("known", patience); code == "" {
					s.Error("an expired token is good again because the clock went back")
				}
				if !within(s.Context(), patience, func() bool { return s.mint("known") == nil }) {
					s.Error("after the clock went back no token can be had")
				}
			}
		}},
	}
}

func collectorCells() (all []cell) {
	for _, how := range []string{"refuse", "silent", "garbage", "half"} {
		all = append(all, cell{dependency: "telemetry collector", way: how, breaks: func(s *stand) func() { return s.collector.breaks(how) }})
	}
	return all
}

// TestMatrix goes through all of it.
func TestMatrix(t *testing.T) {
	n, reasons := 0, map[string]string{}
	run := func(name string, with stance, cells []cell) {
		t.Run(name, func(t *testing.T) {
			for _, c := range cells {
				t.Run(c.dependency+"/"+c.way, func(t *testing.T) { newStand(t, with).goThrough(&c) })
			}
		})
		n += len(cells)
		for _, c := range cells {
			for _, code := range c.codes {
				kind := strings.SplitN(c.dependency, ",", 2)[0]
				if was, ok := reasons[code]; ok && was != kind && !sameSource(was, kind) {
					t.Errorf("the reason %q is of %q and of %q", code, was, kind)
				}
				reasons[code] = kind
			}
		}
	}
	run("log", stance{}, ledgerCells())
	run("embedded store", stance{}, embeddedCells())
	run("shared store", stance{postgres: true}, sharedCells())
	run("tool server", stance{}, upstreamCells())
	run("stdio", stance{stdio: true}, stdioCells())
	run("credential", stance{bearer: true}, bearerCells())
	run("not needed", stance{}, harmlessCells())
	run("collector", stance{collector: true}, collectorCells())
	if n < 45 {
		t.Errorf("only %d cells", n)
	}
}

// sameSource: what is one thing to whoever reads the log. The registry is
// stale whichever of the feeds it follows fails, since one reader follows all
// of them in order, and stops at the first it cannot read.
func sameSource(a, b string) bool {
	one := func(s string) string {
		switch s {
		case "enrolments", "revocation feed", "snapshots":
			return "control state"
		case "store", "session store", "ledger disk": // the log's keys are in the store
			return "sessions"
		}
		return s
	}
	return one(a) == one(b)
}

// goThrough breaks, looks, mends and looks again.
func (s *stand) goThrough(c *cell) {
	if code := s.call("known", patience); code != "" {
		s.Fatalf("before anything: %q", code)
	}
	reached, intents := s.reached.Load(), s.entries(ostiary.KindIntent, "")
	mend := sync.OnceFunc(c.breaks(s))
	defer mend()
	agent := "known"
	if c.fresh {
		agent = "fresh"
	}
	code := s.broken(c, agent)
	passed := len(c.codes) == 0
	switch {
	case passed && code != "":
		s.Errorf("refused with %q, and it does not need this", code)
	case !passed && !c.left && !slices.Contains(c.codes, code):
		s.Errorf("refused with %q, want one of %q", code, c.codes)
	}
	if passed || c.fills { // it got there
		reached = s.reached.Load()
	}
	if !c.ends {
		s.alive()
	}
	if !c.unrecorded && !c.counted && !passed && !c.left {
		s.recorded(c, code)
	}
	if n := s.reached.Load(); n != reached && !c.reached {
		s.Errorf("law 3: the tool server was reached %d times", n-reached)
	} else if now := s.entries(ostiary.KindIntent, ""); c.reached && !c.unrecorded && n-reached > int64(now-intents) {
		s.Errorf("law 1: reached %d times with %d intents", n-reached, now-intents)
	}
	if c.ends {
		s.stopped()
		mend()
		s.restart()
	}
	mend()
	s.recovers(c, reached)
	if c.after != nil {
		c.after(s)
	}
	if c.counted { // counts are sealed with a key from the control state, so they wait for it
		s.recorded(c, code)
	}
}

// patience bounds each wait of the matrix; a busy machine is slow.
const patience = 30 * time.Second

// broken makes the call that meets the fault.
func (s *stand) broken(c *cell, agent string) string {
	if c.left {
		return s.call(agent, time.Second)
	}
	var code string
	within(s.Context(), patience, func() bool {
		code = s.call(agent, patience)
		switch {
		case c.fills:
			return code != ""
		case code == "registry_stale": // the lease passed for every feed, and the others are heard again soon
			return slices.Contains(c.codes, code)
		}
		return true
	})
	return code
}

// recovers asks until calls pass, and for what the fault left behind: a call
// whose client left is in the log by then, and it did not get through.
func (s *stand) recovers(c *cell, reached int64) {
	if c.left {
		ok := within(s.Context(), patience, func() bool {
			return slices.ContainsFunc(c.codes, func(code string) bool { return s.entries(ostiary.KindOutcome, code) > 0 })
		})
		if !ok {
			s.Errorf("the call whose client left is not in the log with one of %q", c.codes)
		}
		if n := s.reached.Load(); n != reached {
			s.Errorf("law 3: after the client left the tool server was reached")
		}
	}
	var code string
	if !within(s.Context(), patience, func() bool { code = s.call("known", patience); return code == "" }) {
		s.Errorf("it does not recover: %q", code)
	}
	s.alive()
}

// stand is a running gateway with all that it stands on.
type stand struct {
	*testing.T
	d       *Daemon
	dir     string
	text    string // of the configuration
	ended   chan error
	cancel  context.CancelFunc
	client  *http.Client
	tokens  map[string]string
	reached atomic.Int64 // tool calls that a server was told of
	say     atomic.Value // what the tool server answers instead

	clock     skewed
	disk      disk
	wire      *wire // to the tool server, or to the database
	collector *wire
	cluster   *pgtest.Cluster
	database  string
}

var shared struct {
	once    sync.Once
	cluster *pgtest.Cluster
	err     error
}

// TestMain is also the stdio tool server of the matrix.
func TestMain(m *testing.M) {
	if mode := os.Getenv("OSTIARY_TEST_TOOLS"); mode != "" {
		serveStdio(mode)
		return
	}
	code := m.Run()
	if shared.cluster != nil {
		shared.cluster.Stop()
	}
	os.Exit(code)
}

func newStand(t *testing.T, with stance) *stand {
	t.Helper()
	dir, err := os.MkdirTemp("", "stand")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &stand{T: t, dir: dir, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, tokens: map[string]string{}}
	s.say.Store("")
	s.file("policy/main.cedar", `@id("look") permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);
@id("tools") permit (principal, action in [Ostiary::Action::"bank___balance"], resource);
`)
	s.text = `trust_domain: example.org
listen: {agents: "127.0.0.1:0", loopback: "127.0.0.1:0"}
ledger: {segment_size: 1MiB, max_action_time: 5s}
tools: {recheck: 24h}
` + s.servers(with)
	if with.postgres {
		s.text += s.sharedStore()
	}
	if with.keys != "" {
		s.text += fmt.Sprintf("keys: %q\n", with.keys)
	}
	if with.collector {
		h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(h.Close)
		var at string
		s.collector, at = tcpWire(t, h.Listener.Addr().String())
		s.text += fmt.Sprintf("telemetry: {otlp: 'http://%s/v1/traces'}\n", at)
	}
	s.file("ostiary.yaml", s.text)
	s.run()
	t.Cleanup(s.end)
	s.accept()
	s.enrol("known")
	s.enrol("fresh")
	return s
}

// servers configures the tool server.
func (s *stand) servers(with stance) string {
	if with.stdio {
		self, err := os.Executable()
		s.check(err)
		s.file("mode", "")
		return fmt.Sprintf("servers:\n  bank: {command: [%q, '-test.run=^$'], env: {OSTIARY_TEST_TOOLS: %q}, breaker: {failures: 100, window: 1000}}\n", self, filepath.Join(s.dir, "mode"))
	}
	bank := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return bank("") }, &mcp.StreamableHTTPOptions{Stateless: true})
	count := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		called := bytes.Contains(body, []byte(`"tools/call"`))
		if called {
			if s.say.Load() == "" {
				s.reached.Add(1)
			}
		}
		switch say := s.say.Load(); {
		case !called || say == "":
			r.Body = io.NopCloser(bytes.NewReader(body))
			bank.ServeHTTP(w, r)
		case say == "500":
			w.WriteHeader(http.StatusInternalServerError)
		case say == "401":
			w.WriteHeader(http.StatusUnauthorized)
		case say == "redirect":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		case say == "html":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<p>7</p>")
		}
	}))
	s.Cleanup(count.Close)
	w, at := tcpWire(s.T, count.Listener.Addr().String())
	s.wire = w
	bearer := ""
	if with.bearer {
		s.file("bearer", "a-token-of-the-bank\n")
		bearer = ", bearer_file: bearer"
	}
	return fmt.Sprintf("servers:\n  bank: {url: 'http://%s/mcp', allow_addresses: [127.0.0.1/32], breaker: {failures: 100, window: 1000}%s}\n", at, bearer)
}

// sharedStore puts a wire before a database of the tests' cluster.
func (s *stand) sharedStore() string {
	shared.once.Do(func() { shared.cluster, shared.err = pgtest.Start() })
	if shared.err != nil {
		s.Fatal(shared.err)
	}
	s.cluster = shared.cluster
	address, err := s.cluster.NewDatabase()
	s.check(err)
	host := regexp.MustCompile(`host=([^&]+)`).FindStringSubmatch(address)[1]
	dir, err := os.MkdirTemp("", "pgwire")
	s.check(err)
	s.Cleanup(func() { os.RemoveAll(dir) })
	s.database = regexp.MustCompile(`///(\w+)`).FindStringSubmatch(address)[1]
	s.wire = socketWire(s.T, dir, filepath.Join(unescaped(host), ".s.PGSQL.5432"))
	return fmt.Sprintf("store: {postgres: 'postgres:///%s?host=%s&user=ostiary'}\n", s.database, dir)
}

func unescaped(s string) string { return strings.ReplaceAll(s, "%2F", "/") }

// run opens the gateway and lets it serve.
func (s *stand) run() {
	s.Helper()
	cfg, err := ReadConfig(filepath.Join(s.dir, "ostiary.yaml"))
	s.check(err)
	s.d, err = open(s.Context(), cfg, slog.New(slog.NewTextHandler(testLog{s.T}, nil)), machine{&s.disk, s.clock.now})
	s.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	d, ended := s.d, s.ended
	go func() { ended <- d.Run(ctx) }()
	if !within(s.Context(), patience, d.health.serving.Load) {
		s.Fatal("it does not serve")
	}
}

// testLog writes the gateway's log into the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s", bytes.TrimSpace(b))
	}
	return len(b), nil
}

func (s *stand) end() {
	s.cancel()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.Error("it does not stop")
	}
}

// alive fails unless the gateway runs.
func (s *stand) alive() {
	s.Helper()
	select {
	case err := <-s.ended:
		s.ended <- err
		s.Fatalf("the gateway ended: %v", err)
	default:
	}
}

// stopped waits until the gateway ended by itself, with an error.
func (s *stand) stopped() {
	s.Helper()
	select {
	case err := <-s.ended:
		if s.ended <- nil; err == nil {
			s.Error("it ended in an orderly way")
		}
	case <-time.After(patience):
		s.Fatal("it goes on with a log that failed")
	}
}

// restart opens what a stopped gateway left.
func (s *stand) restart() {
	s.Helper()
	s.cancel()
	s.run()
	s.check(s.mint("known")) // its token was for another port
}

func (s *stand) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stand) file(name, text string) {
	s.Helper()
	path := filepath.Join(s.dir, name)
	s.check(os.MkdirAll(filepath.Dir(path), 0o700))
	s.check(os.WriteFile(path, []byte(text), 0o600))
}

func (s *stand) accept() {
	s.Helper()
	_, err := s.d.control.Discover(s.Context(), "bank")
	s.check(err)
	_, _, err = s.d.control.Accept(s.Context(), "bank", "", "test")
	s.check(err)
}

// enrol makes an agent.
func (s *stand) enrol(name string) {
	s.Helper()
	ctx := s.Context()
	id, err := s.d.authority.AgentID(name)
	s.check(err)
	secret, _, err := s.d.authority.MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:dana", Owner: "dana", Zone: "default"}, 0)
	s.check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.check(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	s.check(err)
	_, _, err = s.d.authority.Enrol(ctx, string(secret.Reveal()), csr)
	s.check(err)
	s.check(s.mint(name))
}

// mint gives an agent a new token.
func (s *stand) mint(name string) error {
	id, err := s.d.authority.AgentID(name)
	if err != nil {
		return err
	}
	token, err := s.d.authority.MintToken(s.Context(), identity.TokenRequest{Agent: id, Audience: s.d.Endpoint()})
	if err == nil {
		s.tokens[name] = string(token.Text.Reveal())
	}
	return err
}

var codeIn = regexp.MustCompile(`"(?:dev\.ostiary/)?code":"([a-z_]+)"`)

// call calls the tool and returns why it was refused, "" if it went through.
func (s *stand) call(agent string, wait time.Duration) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), wait)
	defer cancel()
	r := &running{d: s.d, url: "http://" + s.d.loopback.Addr().String() + "/mcp"}
	note := strings.Repeat("x", 8<<10) // a full disk is full soon
	status, body, err := r.post(ctx, s.client, s.tokens[agent], "tools/call", "bank___balance",
		fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___balance","arguments":{"note":%q},%s}}`, note, meta))
	switch m := codeIn.FindStringSubmatch(body); {
	case err != nil:
		return "no answer: " + err.Error()
	case m != nil:
		return m[1]
	case status == http.StatusUnauthorized: // which never says why
		return "credentials"
	case status == http.StatusOK && strings.Contains(body, `"7"`):
		return ""
	}
	return fmt.Sprint(status, " ", body)
}

// entries counts the entries of a kind in the gateway's log, with a code
// unless it is "", as they stand in the log itself.
func (s *stand) entries(kind ostiary.EntryKind, code string) (n int) {
	s.each(func(r *ledger.Record) {
		if r.Entry.Kind == kind && (code == "" || r.Entry.Code == code) {
			n++
		}
	})
	return n
}

// counts reports whether a count in the log names a reason.
func (s *stand) counts(code string) (found bool) {
	s.each(func(r *ledger.Record) {
		found = found || r.Entry.Kind == ostiary.KindCount && strings.Contains(string(r.Entry.Payload.Detail), code)
	})
	return found
}

// each visits what is durable, without the keys of payloads, which are in the
// control state.
func (s *stand) each(visit func(*ledger.Record)) {
	s.Helper()
	s.check(s.d.journal.gateway.Each(ostiary.EntryRef{}, func(r *ledger.Record) error { visit(r); return nil }))
}

func (s *stand) recorded(c *cell, code string) {
	s.Helper()
	ok := within(s.Context(), patience, func() bool {
		if c.counted {
			return s.counts(":" + code)
		}
		return s.entries(ostiary.KindOutcome, code) > 0
	})
	if !ok {
		s.Errorf("the refusal %q is not in the log", code)
	}
}

// indexed waits until the index holds all of the log.
func (s *stand) indexed() {
	s.Helper()
	var n, m uint64
	if !within(s.Context(), patience, func() bool {
		_, n, m, _ = s.d.journal.view(s.d.journal.gateway).Query(s.Context(), ledger.Filter{Limit: 1})
		return n == m
	}) {
		s.Errorf("%d of %d entries are indexed", n, m)
	}
}

// lockFile holds a database's write lock as another process would.
func (s *stand) lockFile(name string) (unlock func()) {
	s.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "ostiary-data", name)+"?_pragma=busy_timeout(30000)")
	s.check(err)
	conn, err := db.Conn(s.Context())
	s.check(err)
	_, err = conn.ExecContext(s.Context(), "BEGIN IMMEDIATE")
	s.check(err)
	return func() { conn.ExecContext(context.Background(), "ROLLBACK"); conn.Close(); db.Close() }
}

// sql changes the embedded store behind the gateway's back.
func (s *stand) sql(statements ...string) (nothing func()) {
	s.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "ostiary-data/state.db")+"?_pragma=busy_timeout(30000)")
	s.check(err)
	defer db.Close()
	for _, q := range statements {
		_, err := db.ExecContext(s.Context(), q)
		s.check(err)
	}
	return func() {}
}

// ask runs statements in the shared store, past the wire.
func (s *stand) ask(statements ...string) {
	s.Helper()
	for _, q := range statements {
		s.check(s.cluster.Exec(s.database, q))
	}
}

// changed announces a change of a kind to who follows the shared store.
func (s *stand) changed(kind string) string {
	return fmt.Sprintf("WITH h AS (UPDATE head SET rev = rev + 1 RETURNING rev, epoch) INSERT INTO change SELECT rev, epoch, 'test-' || rev, '%s', 'x', '{}' FROM h", kind)
}

// unheard lets the leases pass once the follower has met what it cannot read.
func (s *stand) unheard() {
	s.Helper()
	time.Sleep(4 * refreshEvery) // it is the fault that it hears nothing: there is nothing to wait on
	s.clock.leasesPass(s)
}

// refusesReload reloads what is broken, which must change nothing.
func (s *stand) refusesReload() {
	s.Helper()
	if _, err := s.d.Reload(s.Context()); err == nil {
		s.Error("what is broken was applied")
	}
}

// onSocket holds connections to the control socket that said something.
func (s *stand) onSocket(n int, text string) (end func()) {
	s.Helper()
	var all []net.Conn
	for range n {
		c, err := net.Dial("unix", s.d.cfg.Listen.Control)
		s.check(err)
		io.WriteString(c, text)
		all = append(all, c)
	}
	return func() {
		for _, c := range all {
			c.Close()
		}
	}
}

// serveStdio is a tool server on standard input and output. What the file
// says decides what becomes of a call.
func serveStdio(mode string) {
	if err := bank(mode).Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		os.Exit(1)
	}
}

type noted struct {
	Note string `json:"note"`
}

// bank is the tool server itself.
func bank(mode string) *mcp.Server {
	t := mcp.NewServer(&mcp.Implementation{Name: "bank", Version: "1"}, nil)
	mcp.AddTool(t, &mcp.Tool{Name: "balance"}, func(ctx context.Context, _ *mcp.CallToolRequest, _ noted) (*mcp.CallToolResult, any, error) {
		b, _ := os.ReadFile(mode)
		switch string(b) {
		case "panic":
			go panic("the tool server panics")
			select {}
		case "exit":
			os.Exit(3)
		case "garbage":
			os.Stdout.WriteString("\x00\xff{\"jsonrpc\":\"2.0\",\"id\":9999,\"result\":{}}\n\x01\n")
			select {}
		case "silent":
			<-ctx.Done()
			return nil, nil, ctx.Err()
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "7"}}}, nil, nil
	})
	return t
}
