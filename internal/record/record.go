// Package record is the form of small control state that has no table of its
// own: a sign-in that waits for consent, a code that is spent once, a browser
// session.
//
// It holds values and one interface, and does nothing. Who keeps records
// guarantees what [Keeper] says; who writes them says what their Data is,
// stores a secret as a hash only, and seals what is personal.
package record

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// Limits of one record and of one list, so that neither grows without bound.
const (
	MaxKind = 64       // bytes of a kind: a word
	MaxID   = 512      // bytes of an id: a digest, a SPIFFE ID, a short URL's hash
	MaxData = 64 << 10 // bytes of data: a form, a set of keys, a request
	MaxList = 1000     // records of one list, and removed by one sweep
)

// Record is one item. A kind and an id name it.
type Record struct {
	Kind, ID string
	Data     []byte    // at most MaxData; not empty
	Expires  time.Time // from this moment on the record is as good as absent; zero: never
	Revision uint64    // of the change that wrote it; set by the keeper
}

// Ended reports whether the record has expired at a moment.
func (r Record) Ended(at time.Time) bool { return !r.Expires.IsZero() && !r.Expires.After(at) }

// Check says what is wrong with a record that is to be kept.
func (r Record) Check() error {
	if err := CheckName(r.Kind, r.ID); err != nil {
		return err
	}
	if len(r.Data) == 0 || len(r.Data) > MaxData {
		return ostiary.Errorf(ostiary.Malformed, "record_data", "a record holds at least one byte and at most %d", MaxData)
	}
	return nil
}

// CheckBatch says what is wrong with records that are to be written as one: at
// most MaxList of one kind, each named once.
func CheckBatch(batch []Record) error {
	if len(batch) == 0 || len(batch) > MaxList {
		return ostiary.Errorf(ostiary.Malformed, "record_limit", "a batch has at least one record and at most %d", MaxList)
	}
	seen := make(map[string]bool, len(batch))
	for _, r := range batch {
		check := r.Check
		if len(r.Data) == 0 && r.Revision > 0 { // it is removed
			check = func() error { return CheckName(r.Kind, r.ID) }
		}
		if err := check(); err != nil {
			return err
		}
		if r.Kind != batch[0].Kind || seen[r.ID] {
			return ostiary.Errorf(ostiary.Malformed, "record_id", "the records of a batch are of one kind, and each is named once")
		}
		seen[r.ID] = true
	}
	return nil
}

// CheckName says what is wrong with a record's name. Names are printable ASCII:
// they are compared byte for byte and may be shown.
func CheckName(kind, id string) error {
	if !name(kind, MaxKind) {
		return ostiary.Errorf(ostiary.Malformed, "record_kind", "a record's kind is a word of at most %d bytes", MaxKind)
	}
	if !name(id, MaxID) {
		return ostiary.Errorf(ostiary.Malformed, "record_id", "a record's id is printable ASCII without spaces, at most %d bytes", MaxID)
	}
	return nil
}

func name(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Keeper keeps records. A write that returned is durable, seen by every later
// read of every process of the same store, and one revision of control state.
// An error means that it did not happen, or that nobody can say. Times are
// kept to the microsecond; the keeper reads no clock, so whoever asks says
// what time it is. Safe for concurrent use, also from several processes.
type Keeper interface {
	// CreateRecord writes a new record and returns its revision: Conflict
	// if there is one of this name that has not expired at that time.
	CreateRecord(ctx context.Context, r Record, at time.Time) (revision uint64, err error)
	// ReplaceRecord writes data and expiry over a record whose revision is
	// still r.Revision, and returns the new one: Conflict if it moved,
	// NotFound if there is none.
	ReplaceRecord(ctx context.Context, r Record) (revision uint64, err error)
	// WriteRecords writes all of a batch in one revision, which it returns,
	// or nothing. A record with Revision 0 is new; any other takes the place
	// of the one that still has that revision, or removes it if Data is
	// empty. Conflict if one is there already, is gone, or moved.
	WriteRecords(ctx context.Context, batch []Record, at time.Time) (revision uint64, err error)
	// Record returns a record: NotFound if there is none, or none that has
	// not expired.
	Record(ctx context.Context, kind, id string, at time.Time) (Record, error)
	// Records lists those of a kind that have not expired, sorted by id,
	// after an id ("" is before the first), at most limit, which is at most
	// MaxList.
	Records(ctx context.Context, kind, after string, limit int, at time.Time) ([]Record, error)
	// TakeRecord removes a record and returns it. Of any number of callers
	// on any number of processes exactly one succeeds; the others get
	// NotFound, as for one that is absent or has expired.
	TakeRecord(ctx context.Context, kind, id string, at time.Time) (Record, error)
	// DeleteRecord removes a record: NotFound if there is none.
	DeleteRecord(ctx context.Context, kind, id string) error
	// SweepRecords removes what has expired, at most MaxList, and returns
	// how many it removed. Nothing to remove is no change.
	SweepRecords(ctx context.Context, at time.Time) (int, error)
}
