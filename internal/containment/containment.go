// Package containment knows how far agents, tools and servers are cut off: by
// hand, on the levels of [ostiary.Containment].
//
// It guarantees that the level of a call is the highest of every scope that
// matches it, the agents of its chain included; that a change is recorded
// before it is stored, and enforced here before [Levels.Set] returns; and that
// what it has not read, or has not confirmed for longer than its lease, is not
// established, which refuses (law 9). Reading a level touches memory only.
//
// It trusts its register to be durable and the clock to be monotonic. It
// decides nothing: the gate refuses by level, and policy sees it as a fact.
package containment

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// Record is how far something is cut off, and why.
type Record struct {
	Scope  string // what Name names; see the Scope constants
	Name   string // "" for ScopeAll
	Level  ostiary.Containment
	Reason string
	By     string // who decided
	At     time.Time
	Rev    uint64 // the revision that set it
}

// The scopes that can be contained.
const (
	ScopeAgent  = "agent"  // Name is a SPIFFE ID; what acts for it in a chain is included
	ScopeTool   = "tool"   // Name is an action: bank___send_payment, read_resource
	ScopeServer = "server" // Name is a configured name
	ScopeAll    = "all"    // everything behind this deployment
)

// Scopes lists them.
func Scopes() []string { return []string{ScopeAgent, ScopeTool, ScopeServer, ScopeAll} }

// Register keeps containment levels. Writes are durable before they return.
// Safe for concurrent use, also from several processes.
type Register interface {
	// SetContainment sets the level of one name; None lifts it. A request
	// that is not empty makes asking again safe.
	SetContainment(ctx context.Context, request string, r Record) (rev uint64, err error)
	// Containments lists every level ever set, also None.
	Containments(ctx context.Context) ([]Record, error)
	// Revision returns the newest revision. It rises with every change.
	Revision(ctx context.Context) (uint64, error)
}

// Lease is how long levels hold that nobody could confirm.
const Lease = 5 * time.Second

// Options are what New needs; all are required.
type Options struct {
	Register Register
	// Record writes a change down. It returns when that is durable.
	Record func(ctx context.Context, r Record) error
	Clock  func() time.Time // its times must be comparable by the monotonic clock
}

// Levels is what is contained now. Safe for concurrent use.
type Levels struct {
	o       Options
	setting sync.Mutex // one change or reading at a time, so that none overtakes another
	view    atomic.Pointer[view]
	read    atomic.Pointer[time.Time] // when the view was last known to be whole
}

// view is one state of the register. It is immutable.
type view struct {
	rev     uint64
	all     ostiary.Containment
	agents  map[ostiary.AgentID]ostiary.Containment
	tools   map[string]ostiary.Containment
	servers map[string]ostiary.Containment
	records []Record
}

// New returns Levels that establish nothing until Refresh succeeded once.
func New(o Options) *Levels {
	if o.Register == nil || o.Record == nil || o.Clock == nil {
		panic("containment: a required option is missing")
	}
	return &Levels{o: o}
}

// Level is the highest level of what matches: everything, the agent and those
// it acts for, the action, its server. It is NotEstablished if nothing was
// read within the lease.
func (l *Levels) Level(s *ostiary.Subject, a *ostiary.Action) ostiary.Containment {
	v := l.current()
	if v == nil {
		return ostiary.NotEstablished
	}
	level := max(ostiary.None, v.all, v.agents[s.Agent], v.tools[a.Name], v.servers[a.Server])
	for _, id := range s.Chain {
		level = max(level, v.agents[id])
	}
	return level
}

// current returns the view while its lease holds, else nil.
func (l *Levels) current() *view {
	v, read := l.view.Load(), l.read.Load()
	if v == nil || read == nil {
		return nil
	}
	if age := l.o.Clock().Sub(*read); age < 0 || age > Lease {
		return nil
	}
	return v
}

// List returns what is contained now, by scope and name. It is an error if
// that is not established.
func (l *Levels) List() ([]Record, error) {
	v := l.current()
	if v == nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "not_established", "containment is not established: the store was not read for %v", Lease)
	}
	return v.records, nil
}

// Refresh makes the view what the register says, or confirms that it still
// says the same.
func (l *Levels) Refresh(ctx context.Context) error {
	l.setting.Lock()
	defer l.setting.Unlock()
	return l.refresh(ctx)
}

// refresh is Refresh with the lock held.
func (l *Levels) refresh(ctx context.Context) error {
	now := l.o.Clock() // before reading: what is read is at least as new
	rev, err := l.o.Register.Revision(ctx)
	if err != nil {
		return err
	}
	if v := l.view.Load(); v == nil || v.rev != rev {
		records, err := l.o.Register.Containments(ctx)
		if err != nil {
			return err
		}
		v, err := newView(rev, records)
		if err != nil {
			return err
		}
		l.view.Store(v)
	}
	l.read.Store(&now)
	return nil
}

func newView(rev uint64, records []Record) (*view, error) {
	v := &view{rev: rev, agents: map[ostiary.AgentID]ostiary.Containment{}, tools: map[string]ostiary.Containment{}, servers: map[string]ostiary.Containment{}}
	for _, r := range records {
		if r.Level < ostiary.None || r.Level > ostiary.Suspended {
			return nil, ostiary.Errorf(ostiary.Corrupt, "containment", "the store holds no level for %s %q", r.Scope, r.Name)
		}
		if r.Level == ostiary.None {
			continue
		}
		switch r.Scope {
		case ScopeAgent:
			v.agents[ostiary.AgentID(r.Name)] = r.Level
		case ScopeTool:
			v.tools[r.Name] = r.Level
		case ScopeServer:
			v.servers[r.Name] = r.Level
		default: // everything; and a newer version's scope, which nobody here can tell from it
			v.all = max(v.all, r.Level)
		}
		v.records = append(v.records, r)
	}
	slices.SortFunc(v.records, func(a, b Record) int {
		return strings.Compare(a.Scope+"\x00"+a.Name, b.Scope+"\x00"+b.Name)
	})
	return v, nil
}

// Set records a level, stores it, and enforces it: calls that resolve after it
// returned meet it. The same level again is set again, with its reason. After
// an error the level may stand or not; the next Refresh shows which.
func (l *Levels) Set(ctx context.Context, r Record) error {
	if err := check(r); err != nil {
		return err
	}
	l.setting.Lock()
	defer l.setting.Unlock()
	r.At = l.o.Clock()
	if err := l.o.Record(ctx, r); err != nil {
		return err
	}
	if _, err := l.o.Register.SetContainment(ctx, "", r); err != nil {
		l.refresh(ctx) // it may stand all the same
		return err
	}
	return l.refresh(ctx)
}

func check(r Record) error {
	switch {
	case !slices.Contains(Scopes(), r.Scope):
		return ostiary.Errorf(ostiary.Malformed, "scope", "write agent, tool, server or all").At("scope")
	case r.Level < ostiary.None || r.Level > ostiary.Suspended:
		return ostiary.Errorf(ostiary.Malformed, "level", "write throttled, restricted, quarantined or suspended").At("level")
	case (r.Scope == ScopeAll) != (r.Name == ""):
		return ostiary.Errorf(ostiary.Malformed, "name", "an agent, tool or server has a name, everything has none").At("name")
	case r.Reason == "" && r.Level != ostiary.None:
		return ostiary.Errorf(ostiary.Malformed, "reason", "say why; it stays in the log").At("reason")
	}
	return nil
}

// ParseLevel reads the word of a level that can be set, none included.
func ParseLevel(word string) (ostiary.Containment, error) {
	for c := ostiary.None; c <= ostiary.Suspended; c++ {
		if c.String() == word {
			return c, nil
		}
	}
	return ostiary.NotEstablished, ostiary.Errorf(ostiary.Malformed, "level", "%q is no level; write throttled, restricted, quarantined or suspended", word).At("level")
}

// Follow refreshes every so often until ctx ends, and tells failed about each
// change from well to ill and back (nil).
func (l *Levels) Follow(ctx context.Context, every time.Duration, failed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	ill := false
	for {
		err := l.Refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != ill {
			ill = err != nil
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
