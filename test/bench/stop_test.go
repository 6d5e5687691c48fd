package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var stops = flag.Int("stops", 3, "how often TestStopBound contains an agent, and how often it revokes one")

const (
	// stopBound is the law's: what was contained or revoked does nothing more a
	// second later.
	stopBound = time.Second
	// stopCallers is how many calls of the stopped agent are under way.
	stopCallers = 4
	// stopStreams is how many event streams it has open.
	stopStreams = 10
)

// TestStopBound contains and revokes agents while they call as fast as they
// can and hold streams, with as much load of others beside them. It measures
// how long after the acknowledgement the tool server still receives a call of
// theirs, a reply still reaches them, and a stream of theirs is still open.
//
//	go test ./test/bench -run TestStopBound -v -stops 200 -timeout 30m
func TestStopBound(t *testing.T) {
	t.Parallel()
	s := newStops(t)
	others, cancel := context.WithCancel(t.Context())
	defer cancel()
	var people sync.WaitGroup
	defer people.Wait()
	defer cancel()
	for range stopCallers {
		people.Go(func() { s.callOn(others, s.enrolled("other"), 1) })
	}
	contained, revoked := &stopped{what: "contained"}, &stopped{what: "revoked"}
	victim := s.enrolled("victim")
	for range *stops {
		s.round(victim, contained, "/v1/containments", map[string]string{"scope": "agent", "name": "victim", "level": "quarantined", "reason": "bench"})
		s.ask("/v1/containments", map[string]string{"scope": "agent", "name": "victim", "level": "none", "reason": "bench"})
	}
	for i := range *stops {
		name := fmt.Sprintf("victim-%d", i)
		s.round(s.enrolled(name), revoked, "/v1/revocations", map[string]string{"kind": "agent", "subject": name, "reason": "bench"})
	}
	cancel()
	people.Wait()
	for _, x := range []*stopped{contained, revoked} {
		x.report(t)
	}
	s.stop()
}

// stops is a gateway whose agents are stopped.
type stopping struct {
	*rig
	control *http.Client

	mu      sync.Mutex // guards what follows
	arrived time.Time  // when the tool server last received a call of the victim
	joined  map[string]*agent
}

// victims is the number of every call of a victim.
const victims = 7

func newStops(t *testing.T) *stopping {
	s := &stopping{rig: newRig(t), joined: map[string]*agent{}}
	s.control = &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.path("control.sock"))
	}}}
	bank := newBank(t, &record{calls: map[string]uint32{}}, func(n uint32) {
		if n == victims {
			s.mu.Lock()
			s.arrived = time.Now()
			s.mu.Unlock()
		}
	})
	s.write("policy/main.cedar", strings.Replace(soakPolicy, `, Ostiary::Action::"files___do"`, "", 1))
	s.write("ostiary.yaml", fmt.Sprintf(`trust_domain: example.org
data: data
listen: {agents: %q, control: control.sock}
telemetry: {listen: %q}
ledger: {segment_size: 16MiB}
servers:
  bank: {url: "http://%s/mcp", allow_addresses: [127.0.0.1/32]}
`, s.agents, s.metrics, bank.addr))
	s.start()
	s.run("tools", "pin", "bank")
	return s
}

// enrolled joins an agent the first time it is asked for.
func (s *stopping) enrolled(name string) *agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joined[name] == nil {
		s.joined[name] = s.enrol(name)
	}
	return s.joined[name]
}

// ask asks the control side and returns when it has acknowledged.
func (s *stopping) ask(path string, body map[string]string) time.Time {
	s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.control.Post("http://ostiary"+path, "application/json", bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	at := time.Now()
	if err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%s: status %d, %s, %v", path, resp.StatusCode, answer, err)
	}
	return at
}

// callOn calls until ctx ends, and returns when the last reply came that was
// no refusal.
func (s *stopping) callOn(ctx context.Context, a *agent, n uint32) (last time.Time) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: a.tls}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		status, body, err := post(ctx, client, "https://"+s.agents+"/mcp", "", "bank___do", fmt.Sprintf(`{"n":%d}`, n))
		if err == nil && status == 200 && strings.Contains(body, fmt.Sprintf("did %d ", n)) {
			last = time.Now()
		}
	}
	return last
}

// round lets a victim call and listen, stops it, and waits until nothing of it
// is left.
func (s *stopping) round(victim *agent, x *stopped, path string, body map[string]string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.mu.Lock()
	s.arrived = time.Time{}
	s.mu.Unlock()
	var calls, open sync.WaitGroup
	replies, streams := make([]time.Time, stopCallers), make([]time.Time, stopStreams)
	for i := range stopCallers {
		calls.Go(func() { replies[i] = s.callOn(ctx, victim, victims) })
	}
	for i := range stopStreams {
		st, err := victim.listen(ctx, s.agents, "127.0.0.1")
		if err != nil {
			s.t.Fatal(err)
		}
		open.Go(func() { defer st.Close(); streams[i] = s.untilOver(st) })
	}
	s.until("the victim's calls", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.arrived.IsZero()
	})
	at := s.ask(path, body)
	open.Wait() // a stream is the last that goes: meanwhile calls are tried
	cancel()
	calls.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	x.calls = append(x.calls, max(0, s.arrived.Sub(at)))
	x.replies = append(x.replies, max(0, slices.MaxFunc(replies, time.Time.Compare).Sub(at)))
	x.streams = append(x.streams, max(0, slices.MaxFunc(streams, time.Time.Compare).Sub(at)))
}

// untilOver returns when a stream had ended.
func (s *stopping) untilOver(st *stream) time.Time {
	st.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := st.in.ReadString('\n')
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			s.t.Error("a stream stays open")
		}
		if err != nil || strings.Contains(line, `"resultType":"complete"`) {
			return time.Now()
		}
	}
}

// stopped is how long after the acknowledgement something still happened.
type stopped struct {
	what                    string
	calls, replies, streams []time.Duration
}

func (x *stopped) report(t *testing.T) {
	show := func(d []time.Duration) string {
		return fmt.Sprintf("p50 %v, p99 %v, longest %v", percentile(d, 0.5).Round(time.Microsecond), percentile(d, 0.99).Round(time.Microsecond), percentile(d, 1).Round(time.Microsecond))
	}
	t.Logf("%s %d times; the last call a tool server received: %s after the acknowledgement; the last reply: %s; the last of %d streams ended: %s",
		x.what, len(x.calls), show(x.calls), show(x.replies), stopStreams, show(x.streams))
	for what, d := range map[string][]time.Duration{"called": x.calls, "was answered": x.replies, "listened": x.streams} {
		if p := percentile(d, 0.5); p > stopBound {
			t.Errorf("an agent that was %s still %s %v later", x.what, what, p)
		}
	}
}
