package egress

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	eraUnknown int32 = iota
	eraModern        // 2026-07-28: no session, everything in each request
	eraLegacy        // a handshake, and a session if the server wants one
)

// remote is one server over streamable HTTP.
type remote struct {
	*shared
	stats
	owner  *Egress
	log    *slog.Logger
	name   string
	url    *url.URL
	target string // @target-uri, as the far side will see it
	conns  *conns
	fixed  http.Header // what every request carries
	echoes echoes      // of the values in fixed that no reply may repeat
	bearer *credential // nil: none
	nextID atomic.Int64

	era      atomic.Int32
	probing  chan struct{} // a slot: one probe at a time
	wasFresh atomic.Bool   // the server has spoken the modern revision

	mu          sync.Mutex // guards what follows
	sessions    map[ostiary.SessionID]*session
	sessionless *session // set once the server opened a session without naming it
}

func newRemote(e *Egress, srv Server, s *shared) (*remote, error) {
	u, err := ParseURL(srv.URL)
	if err != nil {
		return nil, err
	}
	allow, err := newAddresses(u, srv.AllowPrivate)
	if err != nil {
		return nil, err
	}
	fixed, err := fixedHeaders(srv.Headers, s.agent)
	if err != nil {
		return nil, err
	}
	bearer, err := newCredential(srv.BearerFile)
	if err != nil {
		return nil, err
	}
	if bearer != nil && fixed["Authorization"] != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "headers", "both bearer_file and an Authorization header are set").At("headers.Authorization")
	}
	var secrets []string
	for _, v := range srv.Headers {
		secrets = append(secrets, credentialsIn(string(v.Reveal()))...)
	}
	return &remote{
		shared: s, echoes: echoesOf(secrets...), owner: e, name: srv.Name, log: e.log.With("server", srv.Name),
		url: u, target: u.String(), conns: newConns(newDialer(allow), e.room, u, srv.TLS),
		fixed: fixed, bearer: bearer,
		probing: make(chan struct{}, 1), sessions: map[ostiary.SessionID]*session{},
	}, nil
}

// forward sends one cleared action.
func (r *remote) forward(ctx context.Context, d *gate.Dispatch) (gate.Stream, error) {
	w := newWatch(ctx, r.owner.ctx, r.limits.Head, r.limits.Total)
	s, err := r.open(w, d)
	if err != nil {
		w.stop()
		if !errors.Is(err, gate.ErrNotSent) {
			r.calls.Add(1)
		}
		r.fail(err)
		return nil, err
	}
	r.calls.Add(1)
	return s, nil
}

// open brings the server to the point where it can be called, then calls it.
func (r *remote) open(w *watch, d *gate.Dispatch) (gate.Stream, error) {
	era, err := r.known(w, d)
	if err != nil {
		return nil, unready(err)
	}
	if era == eraModern {
		return r.call(w, d, nil, r.meta(d.Asked, d.Logs))
	}
	s, err := r.session(w, d)
	if err != nil {
		return nil, unready(err)
	}
	if err := r.wanted(w, d, s); err != nil {
		return nil, unready(err)
	}
	return r.call(w, d, s, nil)
}

// unready describes a failure before the call itself: whatever became of the
// handshake, the call was not sent.
func unready(err error) error {
	if e := ostiary.AsError(err); e.Code == "lost" || e.Code == "timeout" {
		err = ostiary.Errorf(ostiary.Upstream, "unreachable", "the server did not get ready for the call").Because(e)
	}
	return notSent(err)
}

// known returns the era the server speaks, asking it the first time. Asking
// is a request of its own, before the call and without effect, so the call
// itself never has to be sent again to find out.
func (r *remote) known(w *watch, d *gate.Dispatch) (int32, error) {
	if era := r.era.Load(); era != eraUnknown {
		return era, nil
	}
	if err := acquire(w.ctx, r.probing); err != nil {
		return 0, err
	}
	defer release(r.probing)
	if era := r.era.Load(); era != eraUnknown {
		return era, nil
	}
	modern, err := r.probe(w, d)
	if err != nil {
		return 0, err
	}
	era := eraLegacy
	if modern {
		era = eraModern
		r.wasFresh.Store(true)
	} else if r.wasFresh.Load() {
		r.log.Warn("a server that spoke the current revision now speaks a legacy one")
	}
	r.era.Store(era)
	return era, nil
}

func (r *remote) probe(w *watch, d *gate.Dispatch) (modern bool, err error) {
	id := r.nextID.Add(1)
	h := r.headers(d, nil)
	r.modernHeaders(h, mcpwire.MethodDiscover, "")
	resp, err := r.post(w, h, appendDiscover(nil, id, r.modernMeta))
	if err != nil {
		return false, err
	}
	m, err := r.one(w, resp, id)
	switch {
	case err == nil:
		return discovered(m)
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden,
		resp.StatusCode == http.StatusProxyAuthRequired, resp.StatusCode == http.StatusTooManyRequests,
		resp.StatusCode >= 300 && resp.StatusCode < 400:
		return false, err
	case w.ctx.Err() != nil:
		return false, err
	}
	return false, nil // whatever it said, it was not the modern revision
}

// call sends the action and returns the stream of what comes back.
func (r *remote) call(w *watch, d *gate.Dispatch, s *session, meta []byte) (gate.Stream, error) {
	id := r.nextID.Add(1)
	body, err := appendCall(make([]byte, 0, sizeHint(d.Action, meta)), id, d, meta)
	if err != nil {
		return nil, notSent(err)
	}
	h := r.headers(d, s)
	if s == nil {
		r.modernHeaders(h, d.Action.Method, wireName(d.Action))
		if err := r.paramHeaders(h, d.Action); err != nil {
			return nil, notSent(err)
		}
	}
	resp, err := r.post(w, h, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return r.refused(w, resp, id, s)
	}
	return r.reply(w, d, resp, id, s)
}

// wireName is what Mcp-Name repeats from the body.
func wireName(a *ostiary.Action) string {
	switch a.Method {
	case mcpwire.MethodToolsCall, mcpwire.MethodPromptsGet:
		return a.Tool
	case mcpwire.MethodResourcesRead:
		return a.URI
	case mcpwire.MethodTasksGet, mcpwire.MethodTasksUpdate, mcpwire.MethodTasksCancel:
		return a.Arguments.Get("taskId").Text()
	}
	return ""
}

// refused turns an answer that is not 200 into the server's own error, if it
// is one, and into ours otherwise.
func (r *remote) refused(w *watch, resp *http.Response, id int64, s *session) (gate.Stream, error) {
	status := resp.StatusCode
	m, err := r.one(w, resp, id)
	if r.wrongEra(status, m, err, s) {
		r.era.Store(eraUnknown) // ask again before the next call
	}
	if s != nil && (err != nil && status == http.StatusBadRequest || status == http.StatusNotFound) && s.forget() && status == http.StatusNotFound {
		return nil, ostiary.Errorf(ostiary.Upstream, "session_ended", "the server ended its session; a new one opens with the next call")
	}
	if err != nil {
		return nil, err
	}
	if m.Kind != mcpwire.Error {
		return nil, ostiary.Errorf(ostiary.Upstream, "status", "the server answered HTTP %d with a result", status)
	}
	if err := r.leaks(m); err != nil {
		return nil, err
	}
	w.stop()
	return gate.Whole(gate.FrameError, m.Error), nil
}

// wrongEra reports whether a refusal may mean that the server speaks the other
// era now: a modern one that is not understood, a legacy one answered with an
// error that only the modern revision has.
func (r *remote) wrongEra(status int, m mcpwire.Message, err error, s *session) bool {
	code, _ := m.Error.Get("code").Int()
	switch {
	case s == nil && err != nil:
		return status == http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotAcceptable
	case s == nil:
		return code == mcpwire.CodeUnsupportedVersion
	case code == mcpwire.CodeHeaderMismatch, code == mcpwire.CodeMissingCapability, code == mcpwire.CodeUnsupportedVersion:
		return true
	}
	return false
}

// headers returns a request's headers, all of them ours.
func (r *remote) headers(d *gate.Dispatch, s *session) http.Header {
	h := make(http.Header, len(r.fixed)+10)
	maps.Copy(h, r.fixed)
	h[HeaderEntry] = []string{d.Intent.Ref.String()}
	if s != nil {
		id, version := s.identity()
		if version != "" {
			h[mcpwire.HeaderProtocolVersion] = []string{version}
		}
		if id != "" {
			h[mcpwire.HeaderSessionID] = []string{id}
		}
	}
	return h
}

func (r *remote) modernHeaders(h http.Header, method, name string) {
	h[mcpwire.HeaderProtocolVersion] = []string{mcpwire.Version20260728}
	h[mcpwire.HeaderMethod] = []string{method}
	if name != "" {
		h[mcpwire.HeaderName] = []string{mcpwire.EncodeHeader(name)}
	}
}

// post signs and sends one message. It is sent once: only a request of which
// not one byte was accepted by its connection goes to another connection.
func (r *remote) post(w *watch, h http.Header, body []byte) (*http.Response, error) {
	if r.bearer != nil {
		auth, err := r.bearer.header()
		if err != nil {
			return nil, notSent(err)
		}
		h["Authorization"] = []string{auth}
	}
	if r.signer != nil {
		if err := r.signer.sign(h, r.target, body); err != nil {
			return nil, notSent(err)
		}
	}
	resp, probe, err := r.conns.post(w.ctx, h, body)
	if err != nil && probe.reused && probe.unsent() && w.ctx.Err() == nil {
		resp, probe, err = r.conns.post(w.ctx, h, body)
	}
	switch {
	case err == nil:
		w.touch(r.limits.Idle)
		return resp, nil
	case errors.Is(err, gate.ErrNotSent):
		return nil, err
	case probe.unsent():
		return nil, unreachable(w.cause(err))
	}
	return nil, lost(w.cause(err))
}

// lost says that a request left and nobody knows what became of it.
func lost(cause error) error {
	if errors.Is(cause, errSilent) {
		return ostiary.Errorf(ostiary.Upstream, "timeout", "the server did not answer in time; the call may have happened").Because(cause)
	}
	return ostiary.Errorf(ostiary.Upstream, "lost", "the connection to the server failed after the call was sent; it may have happened").Because(cause)
}

// connProbe tells whether anything was written for one request.
type connProbe struct {
	conn   *meteredConn // nil: it never had a connection
	before int64
	reused bool
}

// unsent reports that no byte of a failed request was or will be written. It
// closes the connection first, so that the count is final.
func (p *connProbe) unsent() bool {
	if p.conn == nil {
		return true
	}
	p.conn.Close()
	return p.conn.written.Load() == p.before
}

func (r *remote) health() Health {
	h := r.stats.health(r.name)
	switch r.era.Load() {
	case eraModern:
		h.Protocol = mcpwire.Version20260728
	case eraLegacy:
		h.Protocol = "legacy"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if _, v := s.identity(); v != "" {
			h.Protocol = v
		}
	}
	return h
}

func (r *remote) close() { r.conns.closeIdle() }

// acquire takes a slot, or gives up with the context.
func acquire(ctx context.Context, slot chan struct{}) error {
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ostiary.Errorf(ostiary.Upstream, "timeout", "the call ended before the server was ready").Because(context.Cause(ctx))
	}
}

func release(slot chan struct{}) { <-slot }

// watch ends a call that takes too long, is silent too long, or whose caller
// or gateway leaves.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	end    time.Time
	left   <-chan struct{} // closed when the caller leaves
	caller func() bool     // lets go of the caller's context
	owner  func() bool
}

func newWatch(ctx, owner context.Context, first, total time.Duration) *watch {
	w := &watch{end: time.Now().Add(total), left: ctx.Done()}
	w.ctx, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	w.caller = context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	w.owner = context.AfterFunc(owner, func() { w.cancel(errClosing) })
	w.timer = time.AfterFunc(min(first, total), func() { w.cancel(errSilent) })
	return w
}

// follow ends the call when ctx ends, until the function it returns is called.
// The caller's own context is followed already.
func (w *watch) follow(ctx context.Context) (unfollow func() bool) {
	if ctx.Done() == w.left {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
}

// touch says that something arrived: patience starts again.
func (w *watch) touch(d time.Duration) { w.timer.Reset(min(d, time.Until(w.end))) }

// outlive lets the rest of a finished call take d, whether its caller stays
// or not.
func (w *watch) outlive(d time.Duration) {
	w.caller()
	w.timer.Reset(d)
}

// stop frees everything. It may be called more than once.
func (w *watch) stop() {
	w.timer.Stop()
	w.caller()
	w.owner()
	w.cancel(nil)
}

// cause prefers our own reason over the transport's.
func (w *watch) cause(err error) error {
	if c := context.Cause(w.ctx); c != nil {
		return c
	}
	return err
}

var (
	errSilent  = errors.New("the server took longer than its time limit")
	errClosing = errors.New("the gateway is shutting down")
)
