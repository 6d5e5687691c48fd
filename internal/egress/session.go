package egress

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// session is a legacy server's session for one session of ours: two agents
// never share what a server keeps about its client. A server that names no
// session keeps nothing, so all share one.
type session struct {
	slot chan struct{} // one handshake at a time

	mu      sync.Mutex // guards what follows
	open    bool
	id      string // the server's name for it, "" if it gave none
	version string
	used    time.Time
	logging bool // the server has log messages, and a level for them
	level   int  // 1 + the rank of the least one it was told to send; 0: told nothing
}

func (s *session) identity() (id, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return "", ""
	}
	return s.id, s.version
}

func (s *session) touch(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = now
	return s.open
}

// forget ends the session on our side; the next call opens another. It
// reports whether the server had named it.
func (s *session) forget() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = false
	return s.id != ""
}

// session returns an open session for the dispatch. Opening one happens under
// the clearance of the first call that needs it. A session dropped for want
// of room is forgotten, not closed: closing it would be a message that nobody
// cleared.
func (r *remote) session(w *watch, d *gate.Dispatch) (*session, error) {
	s := r.find(d.Request.Context.Session.ID)
	if s.touch(r.clock()) {
		return s, nil
	}
	if err := acquire(w.ctx, s.slot); err != nil {
		return nil, err
	}
	defer release(s.slot)
	if s.touch(r.clock()) {
		return s, nil
	}
	if err := r.handshake(w, d, s); err != nil {
		r.era.Store(eraUnknown) // perhaps it is not a legacy server any more
		return nil, err
	}
	return s, nil
}

func (r *remote) find(id ostiary.SessionID) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessionless != nil {
		return r.sessionless
	}
	s := r.sessions[id]
	if s == nil {
		if len(r.sessions) >= r.limits.Sessions {
			r.evict()
		}
		s = &session{slot: make(chan struct{}, 1), used: r.clock()}
		r.sessions[id] = s
	}
	return s
}

// evict drops the session that was idle longest. The caller holds r.mu.
func (r *remote) evict() {
	var oldest ostiary.SessionID
	var at time.Time
	for id, s := range r.sessions {
		s.mu.Lock()
		if at.IsZero() || s.used.Before(at) {
			oldest, at = id, s.used
		}
		s.mu.Unlock()
	}
	delete(r.sessions, oldest)
}

// handshake is initialize and notifications/initialized.
func (r *remote) handshake(w *watch, d *gate.Dispatch, s *session) error {
	id := r.nextID.Add(1)
	resp, err := r.post(w, r.headers(d, nil), appendInitialize(nil, id, r.shared))
	if err != nil {
		return err
	}
	named := resp.Header[mcpwire.HeaderSessionID]
	m, err := r.one(w, resp, id)
	if err != nil {
		return err
	}
	version, logging, err := initializeResult(m)
	if err != nil {
		return err
	}
	if len(named) > 1 || len(named) == 1 && !visible(named[0]) {
		return ostiary.Errorf(ostiary.Upstream, "handshake", "the server's session name is not usable")
	}
	s.mu.Lock()
	s.open, s.id, s.version, s.logging, s.level = true, "", version, logging, 0
	if len(named) == 1 {
		s.id = named[0]
	}
	s.mu.Unlock()
	if err := r.tell(w, d, s, []byte(initialized)); err != nil {
		s.forget()
		return err
	}
	if len(named) == 0 {
		r.mu.Lock()
		r.sessionless = s
		r.mu.Unlock()
	}
	return nil
}

// logLevels are the levels of MCP, least first.
var logLevels = [...]string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// wanted tells the server the level from which on the caller of d wants log
// messages, if it has not been told a lower one in this session: several
// callers may share it, and the door gives each what it asked for. That is
// part of getting ready, without effect, like the handshake. A server that
// will not have it is asked all the same to do the call.
func (r *remote) wanted(w *watch, d *gate.Dispatch, s *session) error {
	rank := slices.Index(logLevels[:], d.Logs)
	if rank < 0 || !s.lower(rank) {
		return nil
	}
	id := r.nextID.Add(1)
	resp, err := r.post(w, r.headers(d, s), appendSetLevel(nil, id, d.Logs))
	if err != nil {
		return err
	}
	if _, err := r.one(w, resp, id); err != nil && w.ctx.Err() != nil {
		return err
	}
	return nil
}

// lower reports whether a level must be told, and takes it for told.
func (s *session) lower(rank int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.logging || s.level != 0 && rank+1 >= s.level {
		return false
	}
	s.level = rank + 1
	return true
}

// initializeResult reads the revision that a legacy server chose, and whether
// it has log messages.
func initializeResult(m mcpwire.Message) (version string, logging bool, err error) {
	if m.Kind != mcpwire.Result {
		code, _ := m.Error.Get("code").Int()
		return "", false, ostiary.Errorf(ostiary.Upstream, "handshake", "the server refused the handshake with error %d", code)
	}
	v := m.Result.Get("protocolVersion").Text()
	if !mcpwire.Legacy(v) {
		return "", false, ostiary.Errorf(ostiary.Upstream, "handshake", "the server speaks none of the protocol revisions this gateway speaks")
	}
	return v, m.Result.Get("capabilities").Get("logging").Kind() == ostiary.Object, nil
}

// tell posts a message that has no reply of its own.
func (r *remote) tell(w *watch, d *gate.Dispatch, s *session, body []byte) error {
	resp, err := r.post(w, r.headers(d, s), body)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return ostiary.Errorf(ostiary.Upstream, "status", "the server answered a notification with HTTP %d", resp.StatusCode)
	}
	return nil
}

// visible accepts a session name: visible ASCII, of a length that fits a
// header with room to spare.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= 1024
}
