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
	Started   time.Time
	Taint     []string // sorted; only ever grows
}

// SharedSessions is a SessionStore that several processes write.
type SharedSessions interface {
	SessionStore
	// SessionTaint returns the session's taint, sorted: every source whose
	// TaintSession returned before, in any process. None for a session that
	// does not exist.
	SessionTaint(ctx context.Context, id ostiary.SessionID) ([]string, error)
}

// SessionStore keeps sessions and what tainted them. Writes are durable
// before they return. Safe for concurrent use, also from several processes.
type SessionStore interface {
	// OpenSession returns the session of (agent, principal, mandate), and
	// stores fresh as a new one only if there is none.
	OpenSession(ctx context.Context, fresh SessionRecord) (SessionRecord, error)
	// TaintSession adds a source to a session's taint; adding it again
	// changes nothing.
	TaintSession(ctx context.Context, id ostiary.SessionID, source string) error
}
