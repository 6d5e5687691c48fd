package ledger

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// Control is the control state a log needs. Writes are durable before they
// return. Safe for concurrent use, also from several processes on one
// database.
type Control interface {
	// OpenLog stores a log's opening (origin, verifier key) and returns its
	// writer epoch, 0 if it never had a writer. Conflict if the origin is
	// known under another key.
	OpenLog(ctx context.Context, origin, key string) (epoch uint64, err error)
	// Fence raises a log's writer epoch from exactly the given one by one;
	// Conflict if another writer was faster.
	Fence(ctx context.Context, origin string, from uint64) (uint64, error)
	// Anchor stores a log's newest head; Conflict if it would shrink, or
	// has the same size and another root.
	Anchor(ctx context.Context, origin string, size uint64, root ostiary.Digest) error
	// Head returns the stored anchor, size 0 if there is none.
	Head(ctx context.Context, origin string) (size uint64, root ostiary.Digest, err error)
	// Logs lists all logs ever opened, oldest first.
	Logs(ctx context.Context) ([]LogRecord, error)
	// PutDataKey stores a wrapped data key under a name; if the name is
	// taken it returns the wrapped key already there.
	PutDataKey(ctx context.Context, name string, wrapped []byte) ([]byte, error)
	// DataKey returns a wrapped key, NotFound if absent or destroyed.
	DataKey(ctx context.Context, name string) ([]byte, error)
}

// LogRecord is one log of the deployment.
type LogRecord struct {
	Origin string // <deployment>/<gateway>/<month>
	Key    string // verifier key in signed-note form
	Opened time.Time
}

// Row is one entry as the index knows it: the entry without its payload.
type Row struct {
	Origin string
	Ref    ostiary.EntryRef
	Entry  ostiary.Entry
}

// Filter selects rows. Zero fields select everything. Since is inclusive,
// Until exclusive.
type Filter struct {
	Agent       string // AgentID, or its last path segment
	Principal   string
	Session     string
	Action      string // action name, or a tool's own name
	Server      string
	Code        string
	Kinds       []ostiary.EntryKind
	Permit      *bool
	Disposition *ostiary.Disposition
	Since       time.Time
	Until       time.Time
	Answers     ostiary.EntryID // Outcomes and Results of this Intent, and calls inside it
	ID          ostiary.EntryID
	Except      string // leaves out this action, by its full name
	Latest      bool   // leaves out an Intent whose Outcome is here: each action once, as it stands
	Newest      bool   // newest first
	Limit       int    // 0 means 100; at most 10,000
}

// Index answers queries about entries. It may lag, can be thrown away, and is
// never read for a decision. Safe for concurrent use.
type Index interface {
	// Position returns the next index of a log that is not in it yet. It
	// may be less after a restart. Corrupt if the index must be made again.
	Position(ctx context.Context, origin string) (uint64, error)
	// Put adds rows of one log, first at position from, and moves the
	// position past them; Conflict if from is not the position.
	Put(ctx context.Context, origin string, from uint64, rows []Row) error
	Query(ctx context.Context, f Filter) ([]Row, error)
	// Reset empties it, for a rebuild.
	Reset(ctx context.Context) error
	Close() error
}
