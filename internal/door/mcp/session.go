package mcp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	// maxSessions bounds legacy sessions of all agents: each costs about a
	// kilobyte.
	maxSessions = 10000
	// maxSessionsPerAgent keeps one agent from crowding out the others; its
	// oldest session makes room.
	maxSessionsPerAgent = 256
	// sessionIdle ends a session nobody uses.
	sessionIdle = time.Hour
	// maxPending bounds requests a client has not answered.
	maxPending = 32
	// maxInflight bounds a session's requests under way.
	maxInflight = 256
)

// owner is whose a session or a sealed state is: the agent, on whose
// authority, under which mandate, with the key it proved. Another agent,
// another person behind it, another mandate or another key is somebody else.
type owner struct {
	agent     ostiary.AgentID
	principal ostiary.PrincipalID
	mandate   ostiary.MandateID
	key       ostiary.Digest
}

func ownerOf(s *ostiary.Subject) owner { return owner{s.Agent, s.Principal, s.Mandate, s.Key} }

// session is what the older revisions remember between requests. It carries
// no right: every request proves its subject anew.
type session struct {
	id      string
	owner   owner
	server  string // the endpoint it was opened on
	version string
	caps    capabilities
	ended   chan struct{} // closed when it is over

	mu        sync.Mutex // guards all below
	used      time.Time
	level     int
	listening bool
	inflight  map[string]context.CancelCauseFunc // by the request id's bytes
	pending   map[string]chan mcpwire.Message    // by our request id; each takes one answer
}

// sessions is the table of legacy sessions, in memory: who reconnects after a
// restart starts anew, as the protocol allows.
type sessions struct {
	clock func() time.Time

	mu   sync.Mutex // guards byID
	byID map[string]*session
}

func newSessions(clock func() time.Time) *sessions {
	return &sessions{clock: clock, byID: map[string]*session{}}
}

// open adds a session, ending idle ones and the owner's oldest if need be.
func (t *sessions) open(o owner, server, version string, caps capabilities) (*session, error) {
	var id [16]byte
	rand.Read(id[:])
	now := t.clock()
	s := &session{
		id: hex.EncodeToString(id[:]), owner: o, server: server, version: version, caps: caps, level: everything, ended: make(chan struct{}),
		used: now, inflight: map[string]context.CancelCauseFunc{}, pending: map[string]chan mcpwire.Message{},
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) >= maxSessions {
		t.expire(now)
	}
	var mine []*session
	for _, other := range t.byID {
		if other.owner.agent == o.agent {
			mine = append(mine, other)
		}
	}
	if len(mine) >= maxSessionsPerAgent {
		t.end(slices.MinFunc(mine, func(a, b *session) int { return a.lastUsed().Compare(b.lastUsed()) }))
	}
	if len(t.byID) >= maxSessions {
		return nil, ostiary.Errorf(ostiary.Exhausted, "sessions", "too many sessions are open; try again later").Because(gate.ErrNotSent)
	}
	t.byID[s.id] = s
	return s, nil
}

// find returns the session if it is o's, opened on that endpoint and alive.
// Whatever is wrong, the answer is the same.
func (t *sessions) find(id string, o owner, server string) (*session, bool) {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byID[id]
	if !ok || s.owner != o || s.server != server {
		return nil, false
	}
	if s.idle(now) {
		t.end(s)
		return nil, false
	}
	s.touch(now)
	return s, true
}

// count returns how many are held.
func (t *sessions) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// drop ends a session.
func (t *sessions) drop(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(s)
}

// end removes a session and stops what runs in it. The caller holds mu.
func (t *sessions) end(s *session) {
	if t.byID[s.id] != s {
		return
	}
	delete(t.byID, s.id)
	close(s.ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.inflight {
		cancel(errCancelled)
	}
}

// expire ends every idle session. The caller holds mu.
func (t *sessions) expire(now time.Time) {
	for _, s := range t.byID {
		if s.idle(now) {
			t.end(s)
		}
	}
}

func (s *session) lastUsed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// idle reports whether nobody used the session for too long. One with a
// stream or a request open is in use.
func (s *session) idle(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.listening && len(s.inflight) == 0 && now.Sub(s.used) > sessionIdle
}

func (s *session) touch(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = now
}

func (s *session) logLevel() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level
}

func (s *session) setLogLevel(level int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.level = level
}

// claimSession finds the session a request names, for the subject that sent
// it. Somebody else's session and none at all look alike (B06).
func (d *Door) claimSession(x *visit) *ostiary.Error {
	id, sent := first(x.r.Header, mcpwire.HeaderSessionID)
	if !sent {
		return malformed("session_required", "Mcp-Session-Id", "send initialize first, then the session id it returned; revision 2026-07-28 needs no session")
	}
	subject, err := d.identity.Authenticate(x.r.Context(), x.creds)
	if err != nil {
		return ostiary.AsError(err)
	}
	s, ok := d.sessions.find(id, ownerOf(&subject), x.server)
	if !ok {
		return ostiary.Errorf(ostiary.NotFound, "session_not_found", "there is no such session; send initialize again").At("Mcp-Session-Id")
	}
	x.session = s
	return nil
}

// initialize opens a legacy session, bound to the subject the gate proved.
func (d *Door) initialize(x *visit, _ method) {
	if _, sent := first(x.r.Header, mcpwire.HeaderSessionID); sent {
		x.fault(malformed("initialized_again", "Mcp-Session-Id", "a session is initialized once"))
		return
	}
	p := x.params()
	asked := p.Get("protocolVersion")
	if asked.Kind() != ostiary.String || p.Get("capabilities").Kind() != ostiary.Object {
		x.fault(malformed("params", "/params", "initialize needs protocolVersion and capabilities"))
		return
	}
	version := mcpwire.Version20251125 // what we offer instead of a revision we lack
	if v := asked.Text(); v != mcpwire.Version20260728 && slices.Contains(mcpwire.Versions(), v) {
		version = v
	}
	x.version = version
	x.local(x.action, func(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
		s, err := d.sessions.open(ownerOf(&q.Request.Subject), x.server, version, capabilitiesOf(p.Get("capabilities")))
		if err != nil {
			return nil, err
		}
		x.out.header().Set(mcpwire.HeaderSessionID, s.id)
		b := append([]byte(`{"protocolVersion":`), mcpwire.AppendString(nil, version)...)
		b = append(b, `,"capabilities":`...)
		b = d.appendCapabilities(b, x)
		b = append(b, `,"serverInfo":`...)
		b = appendInfo(b)
		b = append(b, `,"instructions":`...)
		b = mcpwire.AppendString(b, instructions)
		return ourResult(append(b, '}'))
	})
}

// endSession takes DELETE.
func (d *Door) endSession(x *visit) {
	if e := d.sessionOnly(x); e != nil {
		x.fault(e)
		return
	}
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		d.sessions.drop(x.session)
		return ourResult([]byte(`{}`))
	})
}

// sessionOnly checks what GET and DELETE need: a legacy session of the
// caller. In 2026-07-28 they do not exist.
func (d *Door) sessionOnly(x *visit) *ostiary.Error {
	version, sent := first(x.r.Header, mcpwire.HeaderProtocolVersion)
	_, session := first(x.r.Header, mcpwire.HeaderSessionID)
	if version == mcpwire.Version20260728 || !session {
		x.out.header().Set("Allow", http.MethodPost)
		return malformed("method_not_allowed", "method", "only sessions of older revisions use this method")
	}
	if e := d.claimSession(x); e != nil {
		return e
	}
	if sent && version != x.session.version {
		return mismatch("MCP-Protocol-Version", "the session was opened with another revision")
	}
	x.version = x.session.version
	x.action = sessionAction(x)
	return nil
}

// errCancelled is the cause of a context whose request a client cancelled.
var errCancelled = errors.New("cancelled by the client")

// cancellable returns the context of a request that leaves, which in a legacy
// session a notification can cancel. The caller calls done at the end.
func (x *visit) cancellable() (ctx context.Context, done func(), e *ostiary.Error) {
	s := x.session
	if s == nil {
		return x.r.Context(), func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(x.r.Context())
	id := string(x.msg.ID.Bytes())
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.inflight[id]; taken {
		cancel(nil)
		return nil, nil, malformed("id_in_use", "/id", "a request with this id is still under way")
	}
	if len(s.inflight) >= maxInflight {
		cancel(nil)
		return nil, nil, ostiary.Errorf(ostiary.Exhausted, "inflight", "too many requests of this session are under way")
	}
	s.inflight[id] = cancel
	return ctx, func() {
		s.mu.Lock()
		delete(s.inflight, id)
		s.mu.Unlock()
		cancel(nil)
	}, nil
}

// cancelled takes notifications/cancelled. In 2026-07-28 closing the response
// is the way to cancel, and the notification changes nothing.
func (d *Door) cancelled(x *visit, _ method) {
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		if s := x.session; s != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if cancel, ok := s.inflight[string(x.params().Get("requestId").Bytes())]; ok {
				cancel(errCancelled)
			}
		}
		return ourResult([]byte(`{}`))
	})
}

// answered takes a client's response to a request of ours. It is the end of a
// call that the gate let through to this client, so it makes none of its own;
// one that answers nothing is refused and recorded.
func (d *Door) answered(x *visit) {
	if x.msg.ID.Kind() == ostiary.String && x.session.deliver(x.msg.ID.Text(), x.msg) {
		x.out.empty(http.StatusAccepted)
		return
	}
	x.fault(malformed("response", "/id", "this answers no request of this session"))
}

// expect registers a request to the client and returns its id, where its
// answer will come, and how to stop waiting.
func (s *session) expect() (id string, answer <-chan mcpwire.Message, forget func(), err error) {
	var raw [12]byte
	rand.Read(raw[:])
	id = "ostiary-" + hex.EncodeToString(raw[:])
	c := make(chan mcpwire.Message, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) >= maxPending {
		return "", nil, nil, ostiary.Errorf(ostiary.Exhausted, "pending", "the client has too many unanswered requests").Because(gate.ErrNotSent)
	}
	s.pending[id] = c
	return id, c, func() {
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
	}, nil
}

// deliver hands an answer to whoever waits for it, once.
func (s *session) deliver(id string, m mcpwire.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.pending[id]
	if ok {
		delete(s.pending, id)
		c <- m // has room: one answer per id
	}
	return ok
}
