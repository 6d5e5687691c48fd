package bench

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/demo"
)

const (
	// mostIdle is what a gateway may occupy with the demo's servers, policies
	// and a handful of agents, after they have called its tools.
	mostIdle = 60e6
	// mostPerStream is what an idle event stream over mutual TLS may add.
	mostPerStream = 64 << 10
	// mostStacks of these are its two goroutines' stacks: one of 16 KiB, which
	// it needs when it asks whether it may still read, and one of 8, and the
	// share of a few hundred in what the runtime holds beside them.
	mostStacks = 26 << 10
	// settled is how long the runtime may take to give back what it does not
	// need, with the gateway's help.
	settled = 40 * time.Second
	// mostPerStranger is what a connection may add on which nobody has proven
	// anything, in the middle of its handshake.
	mostPerStranger = 64 << 10
)

var (
	streams = flag.Int("streams", 300, "how many idle event streams TestIdle opens")
	rest    = flag.Duration("rest", 2*time.Second, "how long TestIdle leaves everything alone before it measures")
)

// TestIdle measures what the gateway occupies when nothing happens: after
// start and a few calls, per idle event stream, and per connection of
// strangers. Memory is the system's word (smaps_rollup) for the real program.
//
//	go test ./test/bench -run TestIdle -v -streams 10000 -rest 1m -timeout 30m
func TestIdle(t *testing.T) {
	t.Parallel()
	r := demoRig(t)
	r.start()
	for _, server := range []string{"bank", "inbox", "documents"} {
		r.run("tools", "pin", server)
	}
	started, err := r.holds()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after start and acceptance: %v", started)
	var agents []*agent
	for i := range 8 {
		a := r.enrol(fmt.Sprintf("worker-%d", i))
		agents = append(agents, a)
		for _, call := range [][2]string{{"bank___list_accounts", "{}"}, {"inbox___list_messages", "{}"}, {"documents___list_documents", "{}"}} {
			if err := a.once(r.agents, call[0], call[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(*rest)
	r.measured("after 24 calls of 8 agents")
	idle := int64(mostIdle)
	if *rest < settled { // pages of the program that were read once are still there
		idle += idle / 4
	}
	r.until(fmt.Sprintf("the idle gateway to occupy less than %.0f MB", mb(idle)), func() bool {
		h, err := r.holds()
		return err == nil && h.resident < idle
	})
	base := r.measured("idle, 8 agents enrolled, 24 calls made")

	r.strangers(min(*streams, 1000), base)
	n := r.room(*streams)
	open := r.open(agents, n)
	time.Sleep(*rest)
	r.gateway.Process.Signal(syscall.SIGUSR1)
	time.Sleep(3 * time.Second)
	full := r.measured(fmt.Sprintf("%d idle event streams", n))
	per := (full.resident - base.resident) / int64(n)
	t.Logf("%d idle event streams: %.1f KiB each, of which heap %.1f, stacks %.1f; %.1f goroutines each",
		n, float64(per)/1024, float64(full.heap-base.heap)/float64(n)/1024, float64(full.stacks-base.stacks)/float64(n)/1024, float64(full.goroutines-base.goroutines)/float64(n))
	if stacks := (full.stacks - base.stacks) / int64(n); stacks > mostStacks || full.goroutines-base.goroutines > 2*n+16 {
		t.Errorf("an idle event stream has stacks of %d bytes, and should stay below %d with two goroutines", stacks, mostStacks)
	}
	most := int64(mostPerStream)
	if *rest < settled { // what handshakes left behind is still there
		most *= 2
	}
	if per > most {
		t.Errorf("an idle event stream occupies %d bytes, and should stay below %d", per, most)
	}
	if _, err := r.try("status"); err != nil {
		t.Error(err)
	}
	for _, s := range open {
		s.Close()
	}
	r.until("the streams to end", func() bool {
		h, err := r.holds()
		return err == nil && h.descriptors <= base.descriptors+8 && h.goroutines <= base.goroutines+8
	})
	r.measured("after they left")
	r.stop()
}

// strangers measures connections that begin a handshake and never end it, from
// as many addresses as the gateway's bound for one asks for.
func (r *rig) strangers(n int, base held) {
	r.t.Helper()
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for i := range n {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/200))}, Timeout: patience}
		c, err := d.Dial("tcp", r.agents)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, c)
		c.Write([]byte{0x16, 3, 1, 2, 0, 1}) // a record that announces 512 bytes
	}
	var now held
	r.until("the strangers to be let in", func() (ok bool) {
		h, err := r.holds()
		if h.descriptors >= base.descriptors+n*9/10 {
			now = h
		}
		return err == nil && now.descriptors > 0
	})
	per := (now.resident - base.resident) / int64(now.descriptors-base.descriptors)
	r.t.Logf("%d strangers who began a handshake: %v, %.1f KiB each", now.descriptors-base.descriptors, now, float64(per)/1024)
	if per > mostPerStranger {
		r.t.Errorf("a stranger's connection occupies %d bytes, and should stay below %d", per, mostPerStranger)
	}
	for _, c := range all {
		c.Close()
	}
	r.until("the strangers to be gone", func() bool {
		h, err := r.holds()
		return err == nil && h.descriptors <= base.descriptors+8 && h.goroutines <= base.goroutines+8
	})
}

// demoRig is the gateway of "ostiary demo", with the demo's tool servers as
// processes beside it.
func demoRig(t *testing.T) *rig {
	r := newRig(t)
	for name, text := range demo.Policy() {
		r.write("policy/"+name, string(text))
	}
	serve := demo.ServerCommand{HTTP: "127.0.0.1:0", Family: []string{demo.Bank, demo.Inbox}, Unguarded: true}
	tools, err := demo.Start(context.Background(), os.Stderr, r.program, append([]string{"demo-server"}, serve.Args()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tools.Stop() })
	config := string(demo.Config(demo.Setting{
		Data: r.path("data"), Policy: r.path("policy"), Agents: r.agents, Loopback: r.plain, Tools: tools.URL,
		Executable: r.program, Command: "demo-server", Journal: r.path("journal"),
	}))
	// The demo's small segments hold the outcomes of a thousand open streams; the usual size is for more.
	config = strings.Replace(config, "segment_size: 1MiB", "segment_size: 64MiB", 1)
	r.write("ostiary.yaml", config+"\ntelemetry: {listen: \""+r.metrics+"\"}\n")
	return r
}

func (r *rig) measured(when string) held {
	r.t.Helper()
	h, err := r.holds()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("%s: %v", when, h)
	return h
}

// room is how many streams this machine lets the gateway hold: half of its
// descriptors, less those it keeps for itself.
func (r *rig) room(n int) int {
	r.t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		r.t.Fatal(err)
	}
	if most := int(min(lim.Max, 1<<20)-512)/2 - 64; n > most {
		r.t.Logf("THIS MACHINE FORBIDS %d STREAMS: its hard limit of %d descriptors lets one gateway hold %d connections; measuring %d", n, lim.Max, most+64, most)
		n = most
	}
	return n
}

// open opens n event streams, spread over agents and source addresses.
func (r *rig) open(agents []*agent, n int) []*stream {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*50*time.Millisecond+patience)
	defer cancel()
	all := make([]*stream, n)
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var wait sync.WaitGroup
	for range 16 { // few at a time: handshakes are work, and no stream is idle before its own
		wait.Go(func() {
			for i := range next {
				s, err := agents[i%len(agents)].listen(ctx, r.agents, fmt.Sprintf("127.0.0.%d", 1+i%8))
				if err != nil {
					r.t.Errorf("stream %d: %v", i, err)
					cancel()
					return
				}
				all[i] = s
			}
		})
	}
	wait.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
	r.t.Cleanup(func() {
		for _, s := range all {
			s.Close()
		}
	})
	return all
}

// once makes one call on a connection of its own, and fails unless it was done.
func (a *agent) once(host, tool, arguments string) error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: a.tls, DisableKeepAlives: true}}
	status, body, err := post(context.Background(), client, "https://"+host+"/mcp", "", tool, arguments)
	if err != nil || status != 200 || strings.Contains(body, `"isError":true`) || strings.Contains(body, `"error":`) {
		return fmt.Errorf("%s: status %d, %s, %v", tool, status, body, err)
	}
	return nil
}
