package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/proof"
)

const (
	logDir = "/log"
	agents = 4 // a0 to a3
	perLot = 8 // calls of each agent
	// longest is how long a call may take before the ledger calls it Unknown.
	longest = 2 * time.Minute
	// bound is how long after a revocation a permit may still be seen: none.
	bound = 0
)

var logKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

// world is everything that outlives a process: the disk, the store, the tool
// servers, the agents, what the operator did, and what everybody saw.
type world struct {
	seed  uint64
	plan  plan
	began time.Time
	shift atomic.Int64 // the gateway's clock is this far off

	disk  *ledgertest.FS
	store *store.Memory
	up    *upstream
	now   atomic.Pointer[life] // nil while no process runs

	mu          sync.Mutex // guards what follows
	problems    []string
	story       []string
	n           struct{ calls, delivered, refused, crashes, recovered, unknown, replayed, proven, published, changed, contained int }
	revoked     map[ostiary.AgentID]time.Time // when Revoke had returned
	contained   map[ostiary.AgentID]time.Time // until it is released
	limits      []limit                       // what each snapshot permits, in order
	accepted    map[string][]string           // tool: definitions an operator accepted or tried to
	suspect     map[string]*span              // tool: while it is known to differ from what was accepted
	read        map[ostiary.AgentID]time.Time // when it first read something untrusted
	receipts    []ostiary.Receipt
	checkpoints [][]byte
	decided     []decided
	ended       map[ostiary.EntryID]string // intents whose end was released to the agent
}

// limit is a snapshot as the model knows it.
type limit struct {
	number uint64
	pay    int64
	from   time.Time // when activating it began
	until  time.Time // when the next one had been activated; zero if it is the last
}

// span is a time; open while to is zero.
type span struct{ from, to time.Time }

type decided struct {
	request  ostiary.Request
	decision ostiary.Decision
}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{
		seed: seed, began: time.Now(), disk: ledgertest.NewFS(), store: store.NewMemory(),
		revoked: map[ostiary.AgentID]time.Time{}, contained: map[ostiary.AgentID]time.Time{}, accepted: map[string][]string{}, suspect: map[string]*span{}, read: map[ostiary.AgentID]time.Time{}, ended: map[ostiary.EntryID]string{},
	}
	w.up = newUpstream(w)
	w.plan = newPlan(rng)
	w.shift.Store(int64(w.plan.shift))
	return w
}

func (w *world) clock() time.Time { return time.Now().Add(time.Duration(w.shift.Load())) }

// problem notes that a law does not hold.
func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// tell notes a line for whoever reads one seed's story.
func (w *world) tell(format string, args ...any) {
	if *oneSeed == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, fmt.Sprintf("%12v  ", time.Since(w.began))+fmt.Sprintf(format, args...))
}

// life is one process: from its start to its end, orderly or not.
type life struct {
	w     *world
	ends  ending
	disk  *ledgertest.FS // the world's, until it ends
	ctx   context.Context
	kill  context.CancelFunc
	dead  atomic.Bool
	died  chan struct{}
	once  sync.Once
	calls sync.WaitGroup // of agents, and of the operator

	log      *ledger.Log
	book     *catalog.Book
	engine   *policy.Engine
	sessions *provenance.Sessions
	gate     *gate.Gate
}

// live lets the world happen: one process after another until every agent is
// done.
func (w *world) live() {
	var people sync.WaitGroup
	stop := make(chan struct{})
	for i := range agents {
		people.Go(func() { w.agent(i) })
	}
	var operator sync.WaitGroup
	operator.Go(func() { w.operator(stop) })
	done := make(chan struct{})
	go func() { people.Wait(); close(stop); operator.Wait(); close(done) }()
	for i := 0; ; i++ {
		ends := ending{}
		if i < len(w.plan.endings) {
			ends = w.plan.endings[i]
		}
		if !w.process(ends, done) {
			return
		}
	}
}

// process runs one life, and reports whether another must follow.
func (w *world) process(ends ending, done <-chan struct{}) (again bool) {
	if ends.op > 0 {
		w.disk.FailAt, w.disk.Mode, w.disk.Off = ends.op, ends.mode, ends.off
	}
	l := &life{w: w, ends: ends, disk: w.disk, died: make(chan struct{})}
	l.ctx, l.kill = context.WithCancel(context.Background())
	defer l.kill()
	if err := l.open(); err != nil {
		w.tell("start fails: %v", err)
		if ends.op == 0 {
			w.problem("an undisturbed start fails: %v", err)
			return false
		}
		l.die("start failed")
		l.teardown()
		return true
	}
	w.tell("started with %d entries", l.log.Status().Size)
	w.now.Store(l)
	var crash <-chan time.Time
	if ends.after > 0 {
		t := time.NewTimer(ends.after)
		defer t.Stop()
		crash = t.C
	}
	select {
	case <-done:
		w.now.Store(nil)
		l.kill()
		l.calls.Wait()
		if err := l.gate.Drain(context.Background()); err != nil {
			w.problem("an exchange never settles")
		}
		if err := l.log.Close(); err != nil && ends.op == 0 && w.fault("anchors") == "" {
			w.problem("an undisturbed end fails: %v", err)
		}
		l.once.Do(func() { w.disk = l.disk.Restart() }) // a failure that is told only now has no disk to take away any more
		return false
	case <-crash:
		l.die("crash")
	case <-l.died:
	}
	w.now.Store(nil)
	l.teardown()
	return true
}

// die ends the process now: what it had not written is lost.
func (l *life) die(why string) {
	l.once.Do(func() {
		l.dead.Store(true)
		w := l.w
		if l.ends.power {
			w.disk = l.disk.Crash(l.ends.seed)
		} else {
			w.disk = l.disk.Restart()
		}
		l.disk.Cut()
		w.mu.Lock()
		w.n.crashes++
		w.mu.Unlock()
		w.tell("dies: %s, power %v", why, l.ends.power)
		close(l.died)
	})
}

// teardown waits for what was left of the process.
func (l *life) teardown() {
	l.kill()
	l.calls.Wait()
	if l.gate != nil {
		l.gate.Drain(context.Background())
	}
	if l.log != nil {
		l.log.Close()
	}
}

// open starts the process: recovery is part of every start.
func (l *life) open() (err error) {
	w := l.w
	deps := &dependencies{l: l}
	l.log, err = ledger.Open(l.ctx, ledger.Options{
		Dir: logDir, Deployment: "sim", Gateway: "gw", Signer: logKey, Wrap: ledgertest.Wrap(), Control: controlStore{l},
		SegmentSize: ledger.MinSegment, Reserve: ledger.MinSegment, Longest: longest, FS: w.disk, Clock: w.clock, Logger: slog.New(slog.DiscardHandler),
		OnFail: func(err error) { l.die("the log failed: " + err.Error()) },
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.n.recovered++
	w.mu.Unlock()
	l.book = catalog.New(pinStore{l}, w.clock)
	if err := l.book.Load(l.ctx); err != nil {
		return err
	}
	l.engine = policy.New()
	l.sessions = provenance.NewSessions(sessionStore{l}, w.clock)
	l.gate = gate.New(gate.Options{
		Identity: deps, Validator: deps, Policy: deps, Ledger: deps, Egress: deps, Tainter: deps, Containments: deps, Clock: w.clock, Logger: slog.New(slog.DiscardHandler),
		Facts: &gate.Resolver{
			Tools: deps, Groups: l.engine, Registry: deps, Sessions: deps, Containments: deps, Clock: w.clock, Own: ostiary.Resource{Zone: "default", Trusted: true},
			Servers: map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "default", Trusted: true}, "mail": {Server: "mail", Zone: "default"}},
		},
	})
	return l.begin()
}

// begin reads what the servers offer, accepts it the first time, and restores
// the newest snapshot or publishes the first.
func (l *life) begin() error {
	w := l.w
	for _, server := range []string{"bank", "mail"} {
		l.observe(server)
	}
	number, signed, err := w.store.NewestSnapshot(l.ctx)
	if err != nil {
		return err
	}
	if number == 0 {
		for _, server := range []string{"bank", "mail"} {
			if err := l.accept(server); err != nil {
				return err
			}
		}
		return l.publish(1000)
	}
	s, err := policy.Open(signed, snapshotKey.Public())
	if err != nil {
		return err
	}
	return l.engine.Activate(s)
}

// keep notes what the process proved to somebody while it lived.
func (l *life) keep(r ostiary.Receipt) {
	if l.dead.Load() {
		return
	}
	l.w.mu.Lock()
	l.w.receipts = append(l.w.receipts, r)
	l.w.mu.Unlock()
}

func (l *life) keepCheckpoint() {
	c := l.log.Checkpoint()
	if c == nil || l.dead.Load() {
		return
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if n := len(l.w.checkpoints); n == 0 || !bytes.Equal(l.w.checkpoints[n-1], c) {
		l.w.checkpoints = append(l.w.checkpoints, c)
	}
}

// verified is the offline verifier's word on the disk as it is now.
func (w *world) verified() (proof.Report, error) {
	return proof.VerifyFS(w.disk.Copy(logDir), proof.Options{Held: w.checkpoints})
}
