package approval

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// Row is a hold as it is stored. What is personal is sealed in Body, Votes and
// Result; the rest is what lists are made by.
type Row struct {
	ID        ostiary.HoldID
	Gateway   string // whose call it is, and who carries it out
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Session   ostiary.SessionID
	Action    string // its name
	State     ostiary.HoldState
	Created   time.Time
	Expires   time.Time
	Until     time.Time // when the row may be swept
	Intent    ostiary.EntryID
	Body      []byte // sealed; not empty, but in a bare list
	Votes     []byte // sealed; nil for none
	Result    []byte // sealed; nil for none
	Revision  uint64 // of the change that wrote it; set by the store
}

// Limits of one row and one list.
const (
	MaxBody = 8 << 20 // bytes of each sealed part: arguments have at most 4 MiB
	MaxList = 1000    // rows of one list
)

// Filter selects rows. Zero fields select everything.
type Filter struct {
	States  []ostiary.HoldState
	IDs     []ostiary.HoldID // at most MaxList
	Gateway string
	Agent   ostiary.AgentID
	Since   uint64    // rows whose revision is above it
	Before  time.Time // that expire at or before it
	After   Cursor    // the last row of the page before
	Limit   int       // at most MaxList; 0 is 100
	Changed bool      // in the order of their revisions, for who follows them with Since
	Bare    bool      // without what spent them and the sealed parts, so that one that cannot be read is listed like any other
}

// Cursor is a place in a list whose rows come in the order they were created.
type Cursor struct {
	Created time.Time
	ID      ostiary.HoldID
}

// Store keeps holds. A write that returned is durable, seen by every later
// read of every process of the same store, and one revision of control state.
// An error means that it did not happen, or that nobody can say. Times are
// kept to the microsecond. Safe for concurrent use, also from several
// processes.
type Store interface {
	// CreateHold writes a new row and returns its revision: Conflict if the
	// id is taken; Exhausted if the agent already has most rows that are
	// pending and have not expired at that time, counted in the same
	// transaction.
	CreateHold(ctx context.Context, r Row, most int, at time.Time) (revision uint64, err error)
	// ReplaceHold writes state, expiry, until, intent and the sealed parts
	// over the row whose revision is still r.Revision, and returns the new
	// one: Conflict if it moved, NotFound if there is none. Of any number of
	// callers with one revision exactly one succeeds.
	ReplaceHold(ctx context.Context, r Row) (revision uint64, err error)
	// Hold returns a row: NotFound if there is none.
	Hold(ctx context.Context, id ostiary.HoldID) (Row, error)
	// Holds lists rows in the order they were created, or last changed if the
	// filter says so, without their results.
	Holds(ctx context.Context, f Filter) ([]Row, error)
	// CountHolds counts rows by state.
	CountHolds(ctx context.Context) (map[ostiary.HoldState]int, error)
	// SweepHolds removes rows that ended and whose time is over, at most
	// MaxList, and returns how many. Nothing to remove is no change.
	SweepHolds(ctx context.Context, at time.Time) (int, error)
}

// Check says what is wrong with a row that is to be stored.
func (r *Row) Check() error {
	if r.ID == "" || len(r.ID) > 64 || r.Agent == "" || r.State == ostiary.NoHold || r.State > ostiary.HoldUnknown {
		return ostiary.Errorf(ostiary.Malformed, "hold", "a hold needs an id, an agent and a state")
	}
	if len(r.Body) == 0 || len(r.Body) > MaxBody || len(r.Votes) > MaxBody || len(r.Result) > MaxBody {
		return ostiary.Errorf(ostiary.Malformed, "hold_size", "a part of a hold is empty or longer than %d bytes", MaxBody)
	}
	return nil
}

// Most is how many rows the filter asks for.
func (f *Filter) Most() int {
	if f.Limit == 0 {
		return 100
	}
	return min(f.Limit, MaxList)
}

// Matches reports whether a row is one of those the filter selects.
func (f *Filter) Matches(r *Row) bool {
	ok := len(f.States) == 0
	for _, s := range f.States {
		ok = ok || s == r.State
	}
	return ok && (len(f.IDs) == 0 || slices.Contains(f.IDs, r.ID)) && (f.Gateway == "" || r.Gateway == f.Gateway) && (f.Agent == "" || r.Agent == f.Agent) && r.Revision > f.Since &&
		(f.Before.IsZero() || !r.Expires.After(f.Before)) && f.After.before(r)
}

// Page puts the rows that match in the filter's order, and returns as many of
// them, and as much of each, as it asks for.
func (f *Filter) Page(rows []Row) []Row {
	slices.SortFunc(rows, func(a, b Row) int {
		if f.Changed {
			return cmp.Compare(a.Revision, b.Revision)
		}
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(string(a.ID), string(b.ID)))
	})
	rows = rows[:min(len(rows), f.Most())]
	for i := range rows {
		rows[i].Result = nil
		if f.Bare {
			rows[i].Intent, rows[i].Body, rows[i].Votes = ostiary.EntryID{}, nil, nil
		}
	}
	return rows
}

func (c Cursor) before(r *Row) bool {
	return c.ID == "" || r.Created.After(c.Created) || r.Created.Equal(c.Created) && r.ID > c.ID
}
