package provenance

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// SessionRecord is a session as stored.
type SessionRecord struct {
	ID        ostiary.SessionID
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Mandate   ostiary.MandateID
	Root      ostiary.MandateID // the first mandate of its chain
	Started   time.Time
	Taint     []string // sorted, of every session with this Root; only ever grows
}

// SharedSessions is a SessionStore that several processes write.
type SharedSessions interface {
	SessionStore
	// SessionTaint returns the taint of a session and its kin, sorted: every
	// source whose TaintSession returned before, in any process, for a session
	// with the same Root. None for a session that does not exist.
	SessionTaint(ctx context.Context, id ostiary.SessionID) ([]string, error)
}

// SessionStore keeps sessions and what tainted them. Writes are durable
// before they return. Safe for concurrent use, also from several processes.
type SessionStore interface {
	// OpenSession returns the session of (agent, principal, mandate), with
	// what tainted any session of the same Root, and stores fresh as a new one
	// only if there is none. It is Malformed without a Root.
	OpenSession(ctx context.Context, fresh SessionRecord) (SessionRecord, error)
	// Session returns a session with what tainted it and its kin; NotFound if
	// there is none.
	Session(ctx context.Context, id ostiary.SessionID) (SessionRecord, error)
	// TaintSession adds a source to a session's taint; adding it again
	// changes nothing.
	TaintSession(ctx context.Context, id ostiary.SessionID, source string) error
}
