// Package egress is the only way out. It redeems a clearance and sends what
// that clearance covers, once, to the configured server: over streamable HTTP
// or to a process on the other end of two pipes.
//
// It guarantees: nothing is sent without a redeemed clearance under a recorded
// intent; the argument bytes that leave are the cleared bytes, copied by
// offset into an envelope written here; nothing is sent twice; connections go
// only to addresses allowed for that server; what comes back is scanned
// strictly, bounded in size, number and time, and belongs to the call that
// caused it; a server that keeps failing is left alone for a while, and costs
// the others nothing. An error that wraps [gate.ErrNotSent] promises that no byte of
// the call left; after any other error it may have happened.
//
// It trusts the configuration, the name service not at all, and servers
// neither to be honest nor to be well. It does not decide, record, inspect or
// label, and does not confine processes beyond their environment,
// descriptors and process group.
//
// It follows the Model Context Protocol, revisions 2026-07-28, 2025-11-25,
// 2025-06-18 and 2025-03-26, and signs by RFC 9421 and RFC 9530.
package egress

import (
	"context"
	"crypto"
	"crypto/tls"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Tools looks up pinned definitions. Egress needs them for headers that
// repeat arguments; a nil Tools means that no tool asks for any. Safe for
// concurrent use.
type Tools interface {
	Tool(server, kind, name string) (*ostiary.Tool, bool)
}

// Options is everything an Egress needs. Zero limits take their defaults.
type Options struct {
	Servers []Server
	Tools   Tools
	Signer  crypto.Signer // signs outgoing HTTP; nil leaves it unsigned
	KeyID   string        // names Signer's key to the far side
	// Signing says which key signs now, and its id; it is asked for each
	// request, from memory. nil: Signer, for good. All are of one algorithm.
	Signing func() (key crypto.Signer, id string)
	Clock   func() time.Time
	Logger  *slog.Logger
	Version string // of this product, for clientInfo and User-Agent

	// Capabilities is the JSON object of client capabilities declared to
	// servers, "{}" when empty, in a legacy handshake and wherever a call
	// does not say what its own caller can be asked. A server asking back for
	// anything not in it is refused here.
	Capabilities string
	Limits       Limits
}

// Server is one configured server: a remote one with a URL, or a local one
// with a Command.
type Server struct {
	Name    string
	Zone    string
	Trusted bool // its results are labelled trusted; egress treats it like any other

	// URL is the streamable HTTP endpoint, in the form [ParseURL] accepts.
	URL string
	// AllowPrivate opens loopback or private space for this server alone:
	// addresses, CIDR prefixes, or the host of URL. Whoever controls the
	// server's name can then make the gateway connect anywhere in what is
	// opened, so be exact.
	AllowPrivate []string
	// TLS adds roots or a client certificate for this server; nil is the
	// system's roots.
	TLS *tls.Config
	// Headers are added to each request, beside the arguments, never logged.
	Headers map[string]ostiary.Secret
	// BearerFile holds a token for the Authorization header. It is read
	// again when it changes.
	BearerFile string

	// Command is the program and its arguments, exactly as they are started,
	// without a shell. See [CheckCommand].
	Command []string
	Env     map[string]string // the whole environment; nothing is inherited
	Dir     string            // working directory, "/" when empty
	Digest  ostiary.Digest    // of the executable; if set, another one is not started

	Breaker Breaker
}

// Limits bound what one call or one server may cost.
type Limits struct {
	Reply    strictjson.Limits // one message from a server
	Stream   int64             // bytes of all messages of one reply
	Frames   int               // messages of one reply
	Conns    int               // connections open at one time to all servers together
	Asked    int               // requests of a server, open at one time in one reply
	Head     time.Duration     // from the request to the start of the answer
	Idle     time.Duration     // silence inside an answer
	Total    time.Duration     // one call
	Sessions int               // legacy sessions kept for one server
	Pending  int               // calls open at one time on one process
	Line     int               // bytes of one line of a process
	Start    time.Duration     // from starting a process to its handshake done
	Stop     time.Duration     // patience at each step of stopping a process
}

// withDefaults fills what was left out. Each number is what an honest server
// stays far below and a hostile one cannot hurt us with.
func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	if l.Reply == (strictjson.Limits{}) {
		l.Reply = strictjson.Reply
	}
	if l.Stream == 0 {
		l.Stream = 64 << 20
	}
	num(&l.Frames, 10_000)
	num(&l.Conns, 4096)
	num(&l.Asked, 32)
	set(&l.Head, 5*time.Minute) // tools think; the caller may give up sooner
	set(&l.Idle, 5*time.Minute)
	set(&l.Total, 30*time.Minute)
	num(&l.Sessions, 1024)
	num(&l.Pending, 512)
	num(&l.Line, l.Reply.Bytes)
	set(&l.Start, 30*time.Second) // interpreters compile on first start
	set(&l.Stop, 3*time.Second)
	return l
}

// Health is the state of one server, for status.
type Health struct {
	Server   string
	Protocol string // revision spoken, "" while unknown
	State    string // "unused", "ready", "failing", "quarantined"
	Why      string // the last failure, safe to show to operators
	Calls    uint64 // calls sent
	Failures uint64 // calls that ended without a final message
	Dropped  uint64 // messages nobody had asked for
	Starts   uint64 // times a process was started

	Breaker string    // "closed", "open", "half-open"
	Left    string    // why an open one leaves the server alone
	Until   time.Time // when it may be tried again
}

// Egress implements [gate.Egress].
type Egress struct {
	table  atomic.Pointer[map[string]*placed] // by name; a table is never changed, only replaced
	shared *shared
	room   *room
	log    *slog.Logger
	ctx    context.Context // ends with Close; for what outlives a call
	cancel context.CancelFunc
	work   sync.WaitGroup // drains and answers under way
	mu     sync.Mutex     // guards closed and the start of work
	closed bool
}

// upstream is one server, however it is reached.
type upstream interface {
	forward(ctx context.Context, d *gate.Dispatch) (gate.Stream, error)
	health() Health
	close()
}

// New checks the configuration and returns an Egress. Nothing is dialled or
// started before the first call.
func New(o Options) (*Egress, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &shared{tools: o.Tools, clock: o.Clock, limits: o.Limits.withDefaults()}
	if err := s.introduce(o.Capabilities, o.Version); err != nil {
		return nil, err
	}
	if o.Signer != nil {
		var err error
		if s.signer, err = newSigner(o.Signer, o.KeyID, o.Signing, o.Clock); err != nil {
			return nil, err
		}
	}
	e := &Egress{shared: s, log: o.Logger}
	e.room = &room{most: s.limits.Conns, free: e.closeIdle}
	e.table.Store(&map[string]*placed{})
	e.ctx, e.cancel = context.WithCancel(context.Background())
	commit, err := e.Prepare(o.Servers)
	if err != nil {
		e.cancel()
		return nil, err
	}
	commit()
	return e, nil
}

// add makes a server and puts it into a table that is not in place yet.
func (e *Egress) add(table map[string]*placed, srv Server) error {
	named := func(err error) error {
		if err == nil {
			return nil
		}
		x := *ostiary.AsError(err)
		x.Field = "servers." + srv.Name + "." + x.Field
		return &x
	}
	if _, dup := table[srv.Name]; dup || srv.Name == "" {
		return ostiary.Errorf(ostiary.Malformed, "server_name", "server %q is empty or named twice", srv.Name).At("servers")
	}
	if (srv.URL == "") == (len(srv.Command) == 0) {
		return named(ostiary.Errorf(ostiary.Malformed, "server", "server %q needs either a url or a command", srv.Name).At("url"))
	}
	var u upstream
	var err error
	if srv.URL != "" {
		u, err = newRemote(e, srv, e.shared)
	} else {
		u, err = newProcess(e, srv, e.shared)
	}
	if err != nil {
		return named(err)
	}
	table[srv.Name] = place(u, srv, newBreaker(srv.Breaker, e.shared.clock))
	return nil
}

// Forward redeems the clearance and sends what it covers.
func (e *Egress) Forward(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
	d, err := c.Redeem()
	if err != nil {
		return nil, notSent(err)
	}
	if d.Intent.Ref.IsZero() {
		return nil, notSent(ostiary.Errorf(ostiary.Internal, "no_intent", "the clearance names no recorded intent"))
	}
	if d.Target.Kind != gate.ToServer {
		if d.Target.Respond == nil {
			return nil, notSent(ostiary.Errorf(ostiary.Internal, "no_target", "the clearance names nobody to answer it"))
		}
		return d.Target.Respond(ctx, d)
	}
	if !e.begin() {
		return nil, notSent(ostiary.Errorf(ostiary.Unavailable, "closing", "the gateway is shutting down"))
	}
	defer e.work.Done()
	return e.send(ctx, d)
}

// begin counts one more piece of work that Close waits for, unless Close has
// begun.
func (e *Egress) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.work.Add(1)
	return true
}

// behind runs f on a goroutine of its own that Close waits for, or reports
// that Close has begun. f must end soon after its context does.
func (e *Egress) behind(f func(ctx context.Context)) bool {
	if !e.begin() {
		return false
	}
	go func() {
		defer e.work.Done()
		f(e.ctx)
	}()
	return true
}

// maxBehind bounds the answers of ours that wait to be sent on one pipe or in
// one reply. A server that asks without listening costs these and no more.
const maxBehind = 64

// few lets so many in and turns away the rest. The zero few is empty.
type few struct{ n atomic.Int32 }

// behind is [Egress.behind] for one of few.
func (w *few) behind(e *Egress, f func(ctx context.Context)) bool {
	if w.n.Add(1) > maxBehind || !e.behind(func(ctx context.Context) { defer w.n.Add(-1); f(ctx) }) {
		w.n.Add(-1)
		return false
	}
	return true
}

// Health returns the state of every server, sorted by name.
func (e *Egress) Health() []Health {
	var all []Health
	table := *e.table.Load()
	for _, name := range slices.Sorted(maps.Keys(table)) {
		p := table[name]
		h := p.health()
		h.Breaker, h.Left, h.Until = p.breaker.standing()
		all = append(all, h)
	}
	return all
}

// Close refuses new calls, ends open ones, stops every process, and returns
// when no goroutine or process of this package is left.
func (e *Egress) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	var stopping sync.WaitGroup
	for _, u := range *e.table.Load() {
		stopping.Go(u.close)
	}
	stopping.Wait()
	e.work.Wait()
	return nil
}

// shared is what all servers have in common. It is immutable.
type shared struct {
	tools        Tools
	signer       *signer // nil: unsigned
	clock        func() time.Time
	limits       Limits
	agent        string // User-Agent
	capabilities ostiary.Value
	identity     []byte // clientInfo object
	modernMeta   []byte // members of _meta in a modern request of our own
}

// introduce prepares what every request says about us.
func (s *shared) introduce(capabilities, version string) error {
	if capabilities == "" {
		capabilities = "{}"
	}
	doc, err := strictjson.Parse([]byte(capabilities), strictjson.Request)
	if err != nil || doc.Root().Kind() != ostiary.Object {
		return ostiary.Errorf(ostiary.Malformed, "capabilities", "the client capabilities are not a JSON object").Because(err)
	}
	if version == "" {
		version = "dev"
	}
	s.capabilities = doc.Root()
	s.agent = "ostiary/" + version
	s.identity = append(s.identity, `{"name":"ostiary","version":`...)
	s.identity = append(mcpwire.AppendString(s.identity, version), '}')
	s.modernMeta = s.appendMeta(nil, capabilities, "")
	return nil
}

// meta returns the members of a modern request's _meta: who we are, what the
// caller can be asked and which log messages it wants.
func (s *shared) meta(asked, logs string) []byte {
	if asked == "" && logs == "" {
		return s.modernMeta
	}
	if asked == "" {
		asked = string(s.capabilities.Bytes())
	}
	return s.appendMeta(make([]byte, 0, len(s.modernMeta)+len(asked)+64), asked, logs)
}

func (s *shared) appendMeta(m []byte, capabilities, logs string) []byte {
	m = mcpwire.AppendString(m, mcpwire.MetaProtocolVersion)
	m = mcpwire.AppendString(append(m, ':'), mcpwire.Version20260728)
	m = mcpwire.AppendString(append(m, ','), mcpwire.MetaClientCapabilities)
	m = append(append(m, ':'), capabilities...)
	if logs != "" {
		m = mcpwire.AppendString(append(m, ','), mcpwire.MetaLogLevel)
		m = mcpwire.AppendString(append(m, ':'), logs)
	}
	m = mcpwire.AppendString(append(m, ','), mcpwire.MetaClientInfo)
	return append(append(m, ':'), s.identity...)
}
