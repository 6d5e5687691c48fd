package egress

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	// firstPause and longestPause bound how soon a server that keeps dying is
	// started again.
	firstPause   = 500 * time.Millisecond
	longestPause = 30 * time.Second
	// settled is how long a process must live for its death not to count as
	// a failed start.
	settled = 30 * time.Second
	// stderrLine and stderrTotal bound what one process may put in our log.
	stderrLine  = 4 << 10
	stderrTotal = 256 << 10
	// junkLines is how many lines that are no messages one process may print
	// on its standard output, where only messages belong.
	junkLines = 1000
	// probePatience is how long a server may take to answer the probe for
	// the modern revision before it is taken for a legacy one. Legacy servers
	// that ignore what comes before initialize answer nothing.
	probePatience = 5 * time.Second
	// writePatience is how long a process may leave its standard input full.
	writePatience = 10 * time.Second
)

// process is one server that runs on this machine: started by the first call
// that needs it, and again by the first call after it died.
type process struct {
	*shared
	stats
	owner *Egress
	log   *slog.Logger
	name  string
	argv  []string
	env   []string
	dir   string
	pin   ostiary.Digest

	slot   chan struct{} // one start at a time
	legacy atomic.Bool   // the server died of the probe: it is not asked again

	runs sync.WaitGroup // goroutines of every run of the program

	mu          sync.Mutex // guards what follows
	pipe        *pipe      // nil or dead: not running
	pause       time.Duration
	notBefore   time.Time
	quarantined string // why, "" if it is not
	closed      bool
}

func newProcess(e *Egress, srv Server, s *shared) (*process, error) {
	argv, err := resolveCommand(srv.Command)
	if err != nil {
		return nil, err
	}
	p := &process{shared: s, owner: e, log: e.log.With("server", srv.Name), name: srv.Name, argv: argv, dir: srv.Dir, pin: srv.Digest, slot: make(chan struct{}, 1)}
	if p.dir == "" {
		p.dir = "/"
	}
	for k, v := range srv.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, ostiary.Errorf(ostiary.Malformed, "env", "environment variable %q has an impossible name or value", k).At("env." + k)
		}
		p.env = append(p.env, k+"="+v)
	}
	slices.Sort(p.env)
	return p, checkDigest(p.argv[0], p.pin)
}

// forward sends one cleared action to the process, starting it if need be.
func (p *process) forward(ctx context.Context, d *gate.Dispatch) (gate.Stream, error) {
	a := d.Action
	if !mcpwire.OneLine(a.Arguments.Bytes()) || !mcpwire.OneLine(a.Responses.Bytes()) {
		return nil, notSent(ostiary.Errorf(ostiary.Malformed, "newline_in_arguments", "this server is spoken to in lines, so the arguments may not hold line breaks between their tokens").At("/params/arguments"))
	}
	w := newWatch(ctx, p.owner.ctx, p.limits.Head, p.limits.Total)
	s, err := p.call(w, d)
	if err != nil {
		w.stop()
		p.fail(err)
		return nil, err
	}
	p.calls.Add(1)
	return s, nil
}

func (p *process) call(w *watch, d *gate.Dispatch) (gate.Stream, error) {
	c, err := p.running(w)
	if err != nil {
		return nil, notSent(err)
	}
	var meta []byte
	if c.modern.Load() {
		meta = p.meta(d.Asked, "") // on a pipe a log message belongs to no call
	}
	s, err := c.register(w, d)
	if err != nil {
		return nil, notSent(err)
	}
	line, err := appendCall(make([]byte, 0, sizeHint(d.Action, meta)), s.id, d, meta)
	if err != nil {
		c.unregister(s.id)
		return nil, notSent(err)
	}
	if err := c.write(line); err != nil {
		c.unregister(s.id)
		return nil, err
	}
	return s, nil
}

// running returns the pipe to a live process.
func (p *process) running(w *watch) (*pipe, error) {
	if c, err := p.current(); c != nil || err != nil {
		return c, err
	}
	if err := acquire(w.ctx, p.slot); err != nil {
		return nil, err
	}
	defer release(p.slot)
	if c, err := p.current(); c != nil || err != nil {
		return c, err
	}
	c, err := p.start(w.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.delay()
		return nil, err
	}
	if p.closed {
		c.stop(p.limits.Stop)
		return nil, ostiary.Errorf(ostiary.Unavailable, "closing", "the gateway is shutting down")
	}
	p.pipe = c
	return c, nil
}

// current returns the pipe if it is alive, and an error if it must not be
// opened now.
func (p *process) current() (*pipe, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pipe != nil {
		select {
		case <-p.pipe.dead:
			if p.quarantined == "" && p.pipe.foreign != "" {
				p.quarantined = p.pipe.foreign
			}
			if p.clock().Sub(p.pipe.born) < settled {
				p.delay()
			} else {
				p.pause = 0
			}
			p.pipe = nil
		default:
			return p.pipe, nil
		}
	}
	switch {
	case p.closed:
		return nil, ostiary.Errorf(ostiary.Unavailable, "closing", "the gateway is shutting down")
	case p.quarantined != "":
		return nil, ostiary.Errorf(ostiary.Upstream, "server_quarantined", "the server is quarantined: %s", p.quarantined)
	case p.clock().Before(p.notBefore):
		return nil, ostiary.Errorf(ostiary.Upstream, "server_restarting", "the server stopped; it is started again in %v at the latest", p.pause)
	}
	return nil, nil
}

// delay makes the next start wait, longer each time. The caller holds p.mu.
func (p *process) delay() {
	p.pause = min(max(2*p.pause, firstPause), longestPause)
	p.notBefore = p.clock().Add(p.pause)
}

// start runs the program and shakes hands with it. The handshake is bounded
// by its own limit, not by the caller's patience, so that a caller who leaves
// does not waste a start for all others.
func (p *process) start(caller context.Context) (*pipe, error) {
	if caller.Err() != nil {
		return nil, ostiary.Errorf(ostiary.Upstream, "timeout", "the call ended before the server was ready").Because(context.Cause(caller))
	}
	ctx, cancel := context.WithTimeout(p.owner.ctx, p.limits.Start)
	defer cancel()
	c, err := p.spawn()
	if err != nil {
		return nil, err
	}
	err = c.handshake(ctx, p.legacy.Load())
	if errors.Is(err, errDied) && !p.legacy.Swap(true) {
		c.stop(p.limits.Stop)
		if c, err = p.spawn(); err != nil {
			return nil, err
		}
		err = c.handshake(ctx, true)
	}
	if err != nil {
		c.stop(p.limits.Stop)
		return nil, err
	}
	return c, nil
}

// spawn starts the program: exact argv, exact environment, no descriptors but
// its three, a process group of its own, and death when ours comes.
func (p *process) spawn() (*pipe, error) {
	if err := checkDigest(p.argv[0], p.pin); err != nil {
		return nil, err
	}
	cannot := func(err error) error {
		return ostiary.Errorf(ostiary.Upstream, "not_started", "the server's program could not be started").Because(err)
	}
	var files [6]*os.File // read and write ends of stdin, stdout, stderr
	for i := 0; i < len(files); i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(files[:])
			return nil, cannot(err)
		}
		files[i], files[i+1] = r, w
	}
	cmd := &exec.Cmd{
		Path: p.argv[0], Args: p.argv, Env: p.env, Dir: p.dir,
		Stdin: files[0], Stdout: files[3], Stderr: files[5],
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean ours
	}
	c := &pipe{
		p: p, in: files[1], out: files[2], err: files[4], born: p.clock(),
		open: map[int64]*lineReply{}, dead: make(chan struct{}), exited: make(chan struct{}),
	}
	// Whatever this process inherited from its own parent stays here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		closeAll(files[:])
		return nil, cannot(err)
	}
	started := make(chan error)
	c.run(func() { c.live(cmd, started) })
	if err := <-started; err != nil {
		closeAll(files[:])
		close(c.dead)
		return nil, cannot(err)
	}
	closeAll([]*os.File{files[0], files[3], files[5]})
	p.starts.Add(1)
	c.run(c.read)
	c.run(c.complain)
	return c, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (p *process) health() Health {
	h := p.stats.health(p.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pipe != nil {
		h.Protocol = "legacy"
		if p.pipe.modern.Load() {
			h.Protocol = mcpwire.Version20260728
		}
		select {
		case <-p.pipe.dead:
			h.State = "failing"
			if p.pipe.foreign != "" {
				h.State, h.Why = "quarantined", p.pipe.foreign
			}
		default:
		}
	}
	if p.quarantined != "" {
		h.State, h.Why = "quarantined", p.quarantined
	}
	return h
}

func (p *process) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.slot <- struct{}{} // a start under way ends with the owner's context; none begins after it
	p.mu.Lock()
	c := p.pipe
	p.mu.Unlock()
	if c != nil {
		c.stop(p.limits.Stop)
	}
	p.runs.Wait()
	release(p.slot)
}
