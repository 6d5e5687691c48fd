// Package store keeps control state: who is enrolled and revoked, what is
// accepted, which policy is active, which sessions are tainted, which logs
// exist, who is contained, what waits for people, what is spent, and small records
// of a sign-in under way.
//
// It guarantees that a write which returned is durable, and that every change
// has a revision: revisions count commits, in order, without gaps. A write
// whose answer was lost is asked again by its own request id before an error
// is returned, so an error means that it did not happen, or that nobody can
// say (the detail tells which). Reads see every write that returned. Guards
// are in the statements, so two callers never both win.
//
// It trusts the file system, or the database server, to flush when told, and
// the one who may read the file, or the database. It does not decide, does not
// cache, does not read the clock for a guard, and does not keep entries: those
// are the ledger's.
//
// Three engines pass one suite, storetest: SQLite, which serves one process,
// PostgreSQL, which serves many, and a memory twin. SQL is plain, with ? for
// parameters, and what engines spell differently is in dialect. The index of
// the ledger (OpenIndex) is a separate file that knows where entries are, not
// what they say, and can be thrown away.
package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/record"
)

// Store is the whole control state. Times are kept to the microsecond, in
// UTC. Safe for concurrent use.
type Store interface {
	identity.Registry
	catalog.Pins
	policy.Snapshots
	provenance.SharedSessions
	ledger.Control
	budget.Keeper
	Containments
	record.Keeper
	approval.Store
	Wraps
	Revisions
	Close() error
}

// DataKey is a wrapped data key with its name.
type DataKey struct {
	Name    string
	Wrapped []byte
}

// Rewrap puts another wrap in the place of one that was read.
type Rewrap struct {
	Name     string
	Old, New []byte
}

// MaxWraps bounds how many wrapped keys are listed, or replaced, at once: each
// is below 200 bytes, and a transaction of so many is short.
const MaxWraps = 500

// Wraps lets the key under which data keys are wrapped be changed. Writes are
// durable before they return. Safe for concurrent use, also from several
// processes.
type Wraps interface {
	// DataKeys lists wrapped keys by name, after a name ("" is before the
	// first), at most limit, which is at most MaxWraps.
	DataKeys(ctx context.Context, after string, limit int) ([]DataKey, error)
	// RewrapDataKeys replaces each wrap that is still the old one, at most
	// MaxWraps, in one transaction, and returns how many it replaced. A key
	// that is gone, or was wrapped anew by somebody else, stays as it is.
	RewrapDataKeys(ctx context.Context, all []Rewrap) (int, error)
}

// Containment is how far something is cut off, and why. Beside the scopes that
// can be set today the store keeps any other.
type Containment = containment.Record

// Containments keeps containment levels. Writes are durable before they
// return. Safe for concurrent use, also from several processes.
type Containments interface {
	// SetContainment sets the level of one name and returns the revision.
	// None lifts it. Malformed for NotEstablished: nobody can decide that
	// nothing is known. A request that is not empty makes asking again
	// safe: the same request changes nothing and returns its revision.
	SetContainment(ctx context.Context, request string, c Containment) (rev uint64, err error)
	// Containments lists every level ever set, also None, sorted by scope
	// and name.
	Containments(ctx context.Context) ([]Containment, error)
}

// Change is one committed change of control state.
type Change struct {
	Rev     uint64
	Epoch   uint64 // the revocation epoch after it
	Request string // the request that made it
	Kind    string // "join_token", "agent", "revocation", "pins", "pin_drop", "snapshot", "session", "taint", "log", "fence", "data_key", "containment", "mandate", "mandate_end", "mandate_review", "record", "hold", "budget"
	Key     string // what changed
	Body    []byte // JSON: what it is now, without secrets
}

// Revisions lets replicas follow. Safe for concurrent use.
type Revisions interface {
	// Revision returns the newest revision, 0 for a fresh store.
	Revision(ctx context.Context) (uint64, error)
	// Changes returns changes after a revision, oldest first, at most
	// 1,000. A gap in them is a fault.
	Changes(ctx context.Context, after uint64) ([]Change, error)
	// Applied returns the revision of a request, 0 if it never happened.
	Applied(ctx context.Context, request string) (uint64, error)
}

const (
	maxChanges = 1000     // changes per read: a follower asks again, memory stays bounded
	maxListed  = 100_000  // rows of one list: beyond it the list is a fault, not a bigger list
	maxText    = 4096     // bytes of a name or reason a caller chose
	maxSigned  = 64 << 20 // bytes of one snapshot
	maxPins    = 20_000   // definitions accepted at once
	maxWrapped = 64 << 10 // bytes of one wrapped key
)

// NewRequest returns a fresh request id.
func NewRequest() string { return rand.Text() }

// stamp and instant keep times as microseconds since 1970; 0 is no time.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func list(items []string) string {
	b, _ := json.Marshal(append([]string{}, items...)) // strings always encode
	return string(b)
}

func unlist(s string) ([]string, error) {
	var out []string
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored list cannot be read").Because(err)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func sorted(items []string) []string {
	out := slices.Clone(items)
	slices.Sort(out)
	return slices.Compact(out)
}

// body is what a change row says: our own words, written and never parsed by
// a guard.
func body(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}

func checkText(what string, texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return ostiary.Errorf(ostiary.Malformed, "utf8", "the %s is not valid UTF-8", what)
		}
		if len(s) > maxText {
			return ostiary.Errorf(ostiary.Malformed, "too_large", "the %s is longer than %d bytes", what, maxText)
		}
		for i := range len(s) {
			if s[i] == 0 {
				return ostiary.Errorf(ostiary.Malformed, "nul", "the %s holds a NUL byte", what)
			}
		}
	}
	return nil
}

// The refusals both engines give, in one place so that they stay the same.
func errTokenUsed() error {
	return ostiary.Errorf(ostiary.Conflict, "join_token_spent", "this join token was used already")
}
func errTokenUnknown() error {
	return ostiary.Errorf(ostiary.NotFound, "join_token", "there is no such join token")
}
func errTokenExpired() error {
	return ostiary.Errorf(ostiary.Denied, "join_token_expired", "this join token has expired")
}
func errTaken(what string) error {
	return ostiary.Errorf(ostiary.Conflict, "taken", "there is a %s of this name already", what)
}
func errNone(what string) error {
	return ostiary.Errorf(ostiary.NotFound, "absent", "there is no such %s", what)
}
func errSnapshot(newest uint64) error {
	return ostiary.Errorf(ostiary.Conflict, "snapshot_moved", "the newest snapshot is %d", newest)
}
func errKey() error {
	return ostiary.Errorf(ostiary.Conflict, "log_key", "this log is known under another key")
}
func errFence() error {
	return ostiary.Errorf(ostiary.Conflict, "log_fenced", "another writer has this log")
}
func errShrinks() error {
	return ostiary.Errorf(ostiary.Conflict, "anchor", "the anchored head is larger, or has the same size and another root")
}
func errLevel() error {
	return ostiary.Errorf(ostiary.Malformed, "containment", "this is no level that can be set")
}
func errClosed() error {
	return ostiary.Errorf(ostiary.Unavailable, "store_closed", "the store is closed")
}
func errNotStored(cause error) error {
	return ostiary.Errorf(ostiary.Unavailable, "not_stored", "the change was not stored").Because(cause)
}
func errNotKnown(cause error) error {
	return ostiary.Errorf(ostiary.Unavailable, "not_known", "it is not known whether the change was stored").Because(cause)
}

func checkContainment(request string, c Containment) error {
	if c.Level <= ostiary.NotEstablished || c.Level > ostiary.Suspended {
		return errLevel()
	}
	if c.Scope == "" {
		return ostiary.Errorf(ostiary.Malformed, "containment", "a containment needs a scope")
	}
	return checkText("containment", request, c.Scope, c.Name, c.Reason, c.By)
}

// granted returns the agent that a join token enrols: what make says about
// the proof, what the token says about the agent.
func granted(t identity.JoinToken, made identity.AgentRecord, m identity.MandateRecord) (identity.AgentRecord, identity.MandateRecord, error) {
	made.ID, made.Principal, made.Owner, made.Zone = t.Agent, t.Principal, t.Owner, t.Zone
	made.Roles, made.Disabled = sorted(t.Roles), false
	made.Enrolled = instant(stamp(made.Enrolled))
	m.Expires, m.Issued = instant(stamp(m.Expires)), instant(stamp(m.Issued))
	if m.ID == "" || m.JWS == "" {
		return made, m, ostiary.Errorf(ostiary.Internal, "no_mandate", "an enrolment without a mandate")
	}
	made.Mandate, m.Agent = m.ID, t.Agent
	return made, m, nil
}

// ours reports whether err has its meaning already.
func ours(err error) bool {
	var e *ostiary.Error
	return errors.As(err, &e)
}
