package bench

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// window is a time in which something is wrong on purpose, and which errors
// come of it. Without a server or an agent it concerns all.
type window struct {
	name          string
	kinds         []string // of errors, or their codes
	server, agent string
	from, to      time.Time // to is zero while it lasts
}

// faults are all windows there were.
type faults struct {
	mu  sync.Mutex
	all []window
}

func (f *faults) begin(w window) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.from = time.Now()
	f.all = append(f.all, w)
	return len(f.all) - 1
}

func (f *faults) end(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[i].to = time.Now()
}

// explain says whether a fault that lasted until shortly before a call was
// sent, or began before it ended, is the reason for its error.
func (f *faults) explain(sent time.Time, agent, server, kind, code string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range slices.Backward(f.all) {
		over := !w.to.IsZero() && sent.After(w.to.Add(grace))
		if !over && (w.server == "" || w.server == server || kind == "stream") && (w.agent == "" || w.agent == agent) &&
			(slices.Contains(w.kinds, kind) || slices.Contains(w.kinds, code)) {
			return true
		}
	}
	return false
}

func (f *faults) report(t testing.TB) {
	count := map[string]int{}
	for _, w := range f.all {
		count[w.name]++
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(count)) {
		all = append(all, fmt.Sprintf("%s (%d)", name, count[name]))
	}
	t.Logf("faults: %s", strings.Join(all, ", "))
}

// fault is one thing that goes wrong, and is put right again.
type fault struct {
	window
	do func(lasts time.Duration)
}

// kinds of errors that a failing server explains.
var ofServer = []string{"upstream", "breaker_open"}

func (s *soak) possible() []fault {
	some := s.agents[s.rng.IntN(len(s.agents))]
	all := []fault{
		{window{name: "tool server killed", server: "bank", kinds: ofServer}, func(d time.Duration) { s.bank.kill(); time.Sleep(d); s.bank.revive() }},
		{window{name: "tool server hangs", server: "bank", kinds: ofServer}, func(d time.Duration) { s.bank.behave("hang"); time.Sleep(d); s.bank.behave("") }},
		{window{name: "tool server says garbage", server: "bank", kinds: ofServer}, func(d time.Duration) { s.bank.behave("garbage"); time.Sleep(d); s.bank.behave("") }},
		{window{name: "process killed", server: "files", kinds: ofServer}, func(time.Duration) { s.signal(syscall.SIGKILL) }},
		{window{name: "process hangs", server: "files", kinds: ofServer}, func(d time.Duration) { s.signal(syscall.SIGSTOP); time.Sleep(d); s.signal(syscall.SIGCONT) }},
		{window{name: "process says garbage", server: "files", kinds: ofServer}, s.quarantine},
		{window{name: "connections cut", agent: some.name, kinds: []string{"transport", "stream"}}, func(time.Duration) { some.hangUp() }},
		{window{name: "reload"}, func(time.Duration) { s.configure(); s.again("reload") }}, // explains nothing
		{window{name: "policy reload"}, s.policyReload}, // explains nothing either
		{window{name: "agent contained", agent: some.name, kinds: []string{"contained", "stream"}}, func(d time.Duration) { s.contain(d, "agent", some.name) }},
		{window{name: "tool contained", kinds: []string{"contained"}, server: "bank"}, func(d time.Duration) { s.contain(d, "tool", "bank___do") }},
		{window{name: "server contained", kinds: []string{"contained"}, server: "files"}, func(d time.Duration) { s.contain(d, "server", "files") }},
		{window{name: "slow reader"}, s.slowReader},
		{window{name: "callers give up"}, s.impatient},
		{window{name: "strangers"}, s.strangersCome},
		{window{name: "agent revoked"}, s.revoke},
	}
	if s.roomy {
		all = append(all, fault{window{name: "disk full", kinds: []string{"unavailable"}}, s.fillDisk})
	}
	return all
}

// trouble lets one thing after another go wrong for as long as it is told. In a
// short time each comes once.
func (s *soak) trouble(lasts time.Duration, long bool) {
	end := time.Now().Add(lasts)
	for round := 0; time.Now().Before(end) || round == 0; round++ {
		order := s.rng.Perm(len(s.possible()))
		for i, k := range order {
			if long && time.Now().After(end) {
				return
			}
			d, pause := 500*time.Millisecond, time.Until(end)/time.Duration(2*(len(order)-i))
			if long {
				d, pause = time.Duration(500+s.rng.IntN(2500))*time.Millisecond, time.Duration(500+s.rng.IntN(3000))*time.Millisecond
			}
			f := s.possible()[k]
			w := s.faults.begin(f.window)
			f.do(d)
			s.faults.end(w)
			time.Sleep(max(0, pause))
		}
	}
}

// again runs a command that must succeed, sooner or later: other faults may
// not be over for it yet.
func (s *soak) again(args ...string) {
	var err error
	for range 20 {
		if _, err = s.try(args...); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.t.Error(err)
}

func (s *soak) signal(sig syscall.Signal) {
	text, err := os.ReadFile(s.path("files.control.pid"))
	pid, perr := strconv.Atoi(string(text))
	if err != nil || perr != nil {
		s.t.Errorf("no process of the stdio server: %v %v", err, perr)
		return
	}
	syscall.Kill(pid, sig) // it may have ended by itself meanwhile
}

// quarantine makes the stdio server say what is no message. It is left alone
// until the configuration changes.
func (s *soak) quarantine(time.Duration) {
	s.write("files.control", "")
	gone := func() bool { _, err := os.Stat(s.path("files.control")); return err != nil }
	for deadline := time.Now().Add(patience); !gone() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if !gone() {
		s.t.Error("nobody called the stdio server")
	}
	s.configure()
	s.again("reload")
}

func (s *soak) policyReload(time.Duration) {
	s.reload++
	s.write("policy/main.cedar", fmt.Sprintf("%s// generation %d\n", soakPolicy, s.reload))
	s.gateway.Process.Signal(syscall.SIGHUP)
}

func (s *soak) contain(d time.Duration, what ...string) {
	s.again(append(append([]string{"contain"}, what...), "--reason", "soak")...)
	time.Sleep(d)
	s.again(append(append([]string{"release"}, what...), "--reason", "soak")...)
}

// guest is a caller with a connection of its own.
func (s *soak) guest() (*caller, *http.Client, string) {
	c := s.agents[s.rng.IntN(len(s.agents))]
	config, token, _ := c.proof()
	own := &caller{agent: c.agent, url: c.url}
	return own, own.client(config), token
}

// slowReader takes a long answer a little at a time, and then no more.
func (s *soak) slowReader(d time.Duration) {
	c, client, token := s.guest()
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := c.dial(ctx, network, addr)
		if err == nil {
			conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			conn = &slow{conn, time.Now().Add(d)}
		}
		return conn, err
	}
	late := time.AfterFunc(d+time.Second, cancel)
	defer late.Stop()
	s.call(ctx, c, client, token, "bank", 2<<20)
}

// slow reads a kilobyte at a time until its end.
type slow struct {
	net.Conn
	until time.Time
}

func (c *slow) Read(p []byte) (int, error) {
	if time.Now().Before(c.until) {
		time.Sleep(5 * time.Millisecond)
		p = p[:min(len(p), 1024)]
	}
	return c.Conn.Read(p)
}

// impatient makes callers leave before they are answered.
func (s *soak) impatient(time.Duration) {
	var all sync.WaitGroup
	for range 20 {
		c, client, token := s.guest()
		after := time.Duration(s.rng.IntN(20)) * time.Millisecond
		all.Go(func() {
			defer client.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(context.Background(), after)
			defer cancel()
			s.call(ctx, c, client, token, "bank", 0)
		})
	}
	all.Wait()
}

// strangersCome from an address of their own, so that they take nobody's place.
func (s *soak) strangersCome(d time.Duration) {
	var conns []net.Conn
	for i := range 100 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, 1)}, Timeout: patience}
		c, err := dialer.Dial("tcp", []string{s.rig.agents, s.plain}[i%2])
		if err != nil {
			s.t.Error(err)
			return
		}
		conns = append(conns, c)
		fmt.Fprint(c, []string{"", "GET / HTTP/1.1\r\n", "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{", "\x16\x03\x01\x02\x00"}[i%4])
	}
	time.Sleep(d)
	for _, c := range conns {
		c.Close()
	}
}

// revoke enrols an agent, lets it call and listen, and revokes it: it must
// lose its stream, and be refused.
func (s *soak) revoke(time.Duration) {
	s.reload++
	c := &caller{agent: s.enrol(fmt.Sprintf("guest-%d", s.reload)), url: "https://" + s.rig.agents + "/mcp"}
	if err := c.once(s.rig.agents, "bank___do", `{"n":0}`); err != nil && !strings.Contains(err.Error(), "breaker_open") && !strings.Contains(err.Error(), "upstream") {
		s.t.Errorf("before it is revoked: %v", err)
	}
	st, err := c.listen(context.Background(), s.rig.agents, "127.0.0.1")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer st.Close()
	s.again("agent", "revoke", c.name, "--reason", "soak")
	if err := c.once(s.rig.agents, "bank___do", `{"n":0}`); err == nil {
		s.t.Errorf("%s was revoked and called", c.name)
	}
	st.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := st.in.ReadString('\n')
		if err != nil || strings.Contains(line, `"resultType":"complete"`) {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				s.t.Errorf("%s was revoked and keeps its stream", c.name)
			}
			return
		}
	}
}

// fillDisk takes what is free on the data folder's disk, and gives it back.
func (s *soak) fillDisk(d time.Duration) {
	path := filepath.Join(s.dir, "data", "ballast")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer os.Remove(path)
	defer f.Close()
	var st syscall.Statfs_t
	size := int64(0)
	for range 50 { // the last of it goes away bit by bit
		if err := syscall.Statfs(path, &st); err != nil {
			s.t.Error(err)
			return
		}
		free := int64(st.Bfree) * st.Bsize
		if free < 64<<10 {
			break
		}
		if err := syscall.Fallocate(int(f.Fd()), 0, size, free/2+4096); err == nil {
			size += free/2 + 4096
		}
	}
	time.Sleep(d + 3*time.Second) // prepared segments are used up first
}
