package bench

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	soaking = flag.Duration("soak", 8*time.Second, "how long TestSoak lasts after its warm-up")
	seed    = flag.Uint64("soak-seed", 1, "the order of TestSoak's faults")
)

const (
	soakAgents  = 4 // over mutual TLS; two more have bearer tokens
	soakCallers = 2 // of each agent
	// grace is how long after a fault its consequences may still be seen: a
	// breaker opens for a second and tries once, processes are started again
	// after a pause that grows.
	grace = 15 * time.Second
	// renewEvery is how often certificates and tokens are renewed: they live
	// fifteen and ten minutes.
	renewEvery = 4 * time.Minute
)

const soakPolicy = `@id("session")
permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists", Ostiary::Action::"subscribe"], resource);
@id("do")
permit (principal, action in [Ostiary::Action::"bank___do", Ostiary::Action::"files___do"], resource);
`

// soak is a gateway under half its load, with faults, and what everybody saw.
type soak struct {
	*rig
	rec    *record
	bank   *bank
	rng    *rand.Rand
	roomy  bool // the data folder lies on a disk of its own, which may be filled
	agents []*caller
	pace   chan struct{}
	seen   *seen
	faults *faults
	paused atomic.Bool
	reload int
}

// TestSoak lets several agents call tools over HTTP and stdio at half the speed
// that is possible, over mutual TLS and with tokens, while something fails
// every few seconds. Nobody may see an error that no fault explains; in the
// end the tool servers' records and the log agree in both directions, the log
// verifies, and goroutines, descriptors and heap are where they were.
//
//	go test ./test/bench -run TestSoak -v -soak 30m -timeout 45m
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	long := *soaking > time.Minute
	warm := 3 * time.Second
	if long {
		warm = time.Minute
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var people sync.WaitGroup
	s.begin(ctx, &people)
	rate := s.calibrate(warm)
	t.Logf("warm-up: %.0f calls/s as fast as possible; from now on %.0f", rate, rate/2)
	base := s.quiet()
	t.Logf("at rest after the warm-up: %v", base)

	steady, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { s.paceAt(steady, rate/2) })
	var grown growth
	beside.Go(func() { grown.watch(steady, s.rig, *soaking/100) })
	s.trouble(*soaking, long)
	stop()
	beside.Wait()

	after := s.quiet()
	t.Logf("at rest after %v: %v", *soaking, after)
	if after.goroutines > base.goroutines+8 || after.descriptors > base.descriptors+8 {
		t.Errorf("something was not given back: before %v, after %v", base, after)
	}
	grown.check(t, long)
	cancel()
	people.Wait()
	s.until("the index to have everything", func() bool {
		out, err := s.try("status")
		return err == nil && strings.Contains(out, "all indexed")
	})
	s.stop()
	s.settle()
}

func newSoak(t *testing.T) *soak {
	s := &soak{rig: newRig(t), rec: &record{calls: map[string]uint32{}, piped: map[uint32]bool{}}, rng: rand.New(rand.NewPCG(*seed, 1)), pace: make(chan struct{}), seen: newSeen(), faults: &faults{}}
	s.bank = newBank(t, s.rec, nil)
	s.roomy = s.ownDisk()
	s.write("policy/main.cedar", soakPolicy)
	s.configure()
	s.start()
	for _, server := range []string{"bank", "files"} {
		s.run("tools", "pin", server)
	}
	for i := range soakAgents {
		s.agents = append(s.agents, &caller{agent: s.enrol(fmt.Sprintf("worker-%d", i)), url: "https://" + s.rig.agents + "/mcp"})
	}
	for i := range 2 {
		name := fmt.Sprintf("simple-%d", i)
		s.run("agent", "add", name, "--principal", "person:dana")
		s.agents = append(s.agents, &caller{agent: &agent{name: name}, url: "http://" + s.plain + "/mcp"})
	}
	for _, c := range s.agents {
		if err := s.renew(c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// configure writes the configuration; each time it says something else.
func (s *soak) configure() {
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.reload++
	s.write("ostiary.yaml", fmt.Sprintf(`trust_domain: example.org
data: data
listen: {agents: %q, loopback: %q, control: control.sock}
telemetry: {listen: %q}
ledger: {segment_size: 1MiB}
tools: {recheck: 5s}
servers:
  bank:
    url: "http://%s/mcp"
    allow_addresses: [127.0.0.1/32]
    trusted: true
    breaker: {slow: 1s, open_for: 1s}
  files:
    command: [%q, %s, %q, %q]
    env: {GENERATION: "%d"}
    trusted: true
    breaker: {slow: 1s, open_for: 1s}
`, s.rig.agents, s.plain, s.metrics, s.bank.addr, self, stdioTool, s.path("files.record"), s.path("files.control"), s.reload))
}

// diskSize is what the data folder's own disk holds, as a sparse file.
const (
	diskSize     = 600 << 20
	longDiskSize = 12 << 30
)

// ownDisk puts a small file system under the data folder, if this machine
// allows it, so that it can be filled.
func (s *soak) ownDisk() bool {
	image, data := s.path("disk"), s.path("data")
	size := int64(diskSize)
	if *soaking > time.Minute {
		size = longDiskSize
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		s.t.Fatal(err)
	}
	err := os.WriteFile(image, nil, 0o600)
	if err == nil {
		err = os.Truncate(image, size)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, data}} {
		if err == nil {
			if out, fail := exec.Command(c[0], c[1:]...).CombinedOutput(); fail != nil {
				err = fmt.Errorf("%s: %w: %s", c[0], fail, out)
			}
		}
	}
	if err != nil {
		os.Remove(image)
		s.t.Logf("NO DISK WILL BE FULL: the data folder cannot get a disk of its own here: %v", err)
		return false
	}
	s.t.Cleanup(func() {
		if out, err := exec.Command("umount", data).CombinedOutput(); err != nil {
			s.t.Errorf("umount: %v: %s", err, out)
		}
	})
	return true
}

// begin lets everybody call and listen until ctx ends.
func (s *soak) begin(ctx context.Context, people *sync.WaitGroup) {
	for _, c := range s.agents {
		for range soakCallers {
			people.Go(func() { s.calling(ctx, c) })
		}
		if c.tls != nil {
			for range 4 {
				people.Go(func() { s.listening(ctx, c) })
			}
		}
		people.Go(func() { s.renewing(ctx, c) })
	}
}

// calibrate lets everybody call as fast as they can, and returns the calls per
// second of the second half.
func (s *soak) calibrate(warm time.Duration) float64 {
	half, end := time.Now().Add(warm/2), time.Now().Add(warm)
	at, from := time.Now(), int64(0)
	for time.Now().Before(end) {
		s.pace <- struct{}{}
		if !half.IsZero() && time.Now().After(half) {
			at, from, half = time.Now(), s.seen.ended.Load(), time.Time{}
		}
	}
	return max(20, float64(s.seen.ended.Load()-from)/time.Since(at).Seconds())
}

// paceAt starts calls evenly; those nobody is free for are left out.
func (s *soak) paceAt(ctx context.Context, rate float64) {
	t := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			select {
			case s.pace <- struct{}{}:
			default:
			}
		}
	}
}

// quiet lets every connection go and measures what the gateway holds when
// nobody wants anything.
func (s *soak) quiet() held {
	s.t.Helper()
	s.paused.Store(true)
	defer s.paused.Store(false)
	w := s.faults.begin(window{name: "rest", kinds: []string{"upstream", "stream"}})
	defer s.faults.end(w)
	s.until("calls to end", func() bool { return s.seen.running.Load() == 0 })
	for _, c := range s.agents {
		c.hangUp()
	}
	s.until("streams to end", func() bool { return s.seen.streams.Load() == 0 })
	s.bank.kill() // and with it what the gateway keeps open to it
	s.bank.revive()
	var now held
	lowest := 1 << 30
	for range 40 { // until it falls no more
		time.Sleep(100 * time.Millisecond)
		h, err := s.holds()
		if err != nil {
			s.t.Fatal(err)
		}
		if sum := h.goroutines + h.descriptors; sum < lowest {
			lowest, now = sum, h
		}
	}
	return now
}

// growth is what the heap did over time.
type growth struct{ heaps []float64 }

// watch looks every so often at the heap at which the next collection is due:
// twice what lived at the last one, give or take stacks.
func (g *growth) watch(ctx context.Context, r *rig, every time.Duration) {
	t := time.NewTicker(max(every, 100*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if m, err := r.metric(); err == nil {
				g.heaps = append(g.heaps, m["go_memstats_next_gc_bytes"])
			}
		}
	}
}

// check compares the second third of the time with the last.
func (g *growth) check(t *testing.T, long bool) {
	n := len(g.heaps) / 3
	if n < 5 {
		t.Errorf("the heap was seen %d times", len(g.heaps))
		return
	}
	middle, last := median(g.heaps[n:2*n]), median(g.heaps[2*n:])
	t.Logf("heap at which a collection is due, median: %.1f MB in the second third, %.1f MB in the last", middle/1e6, last/1e6)
	if long && last > middle*1.1+2e6 {
		t.Errorf("the heap grows: %.1f MB, then %.1f MB", middle/1e6, last/1e6)
	}
}

// settle compares what was seen with the log. The gateway has stopped.
func (s *soak) settle() {
	s.seen.report(s.t)
	s.faults.report(s.t)
	if err := s.rec.read(s.path("files.record")); err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "data", "log")
	s.compare(dir)
	out, err := s.tryFor(patience+*soaking, "log", "verify", dir) // there is as much to read as was written
	if err != nil || !strings.Contains(out, "verified") || strings.Contains(out, "without an outcome") {
		s.t.Errorf("the log does not verify, or an intent has no outcome: %s, %v", out, err)
	}
}
