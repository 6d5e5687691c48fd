package ostiary

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// EntryID is a ledger entry's own name: 128 random bits, chosen before the
// entry has a place in a log.
type EntryID [16]byte

// IsZero reports whether it names no entry.
func (id EntryID) IsZero() bool { return id == EntryID{} }

// String returns 32 lower-case hex digits, "" for the zero EntryID.
func (id EntryID) String() string {
	if id.IsZero() {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// EntryRef is an entry's place, for people: log month and index,
// "2026-11/1234". The zero EntryRef is "no entry".
type EntryRef struct {
	Month string // "2026-11"; "2026-11.02" for the second log of a month, begun under another key
	Index uint64
}

// IsZero reports whether it refers to no entry.
func (r EntryRef) IsZero() bool { return r.Month == "" }

// String returns the form people use, "2026-11/1234", and "-" for the zero
// EntryRef. [ParseEntryRef] reads it back.
func (r EntryRef) String() string {
	if r.IsZero() {
		return "-"
	}
	return r.Month + "/" + strconv.FormatUint(r.Index, 10)
}

// ParseEntryRef reads "2026-11/1234". A bare number has an empty Month, which
// callers take as the newest log.
func ParseEntryRef(s string) (EntryRef, error) {
	month, num, ok := strings.Cut(s, "/")
	if !ok {
		month, num = "", s
	}
	if ok {
		if !isMonth(month) {
			return EntryRef{}, fmt.Errorf("entry %q: want YEAR-MONTH/NUMBER, for example 2026-11/1234", s)
		}
	}
	i, err := strconv.ParseUint(num, 10, 64)
	if err != nil || (len(num) > 1 && num[0] == '0') {
		return EntryRef{}, fmt.Errorf("entry %q: want YEAR-MONTH/NUMBER or a number", s)
	}
	return EntryRef{month, i}, nil
}

// isMonth accepts a month, and from 02 to 99 the number of a log within it.
func isMonth(s string) bool {
	month, number, numbered := strings.Cut(s, ".")
	if _, err := time.Parse("2006-01", month); err != nil {
		return false
	}
	return !numbered || len(number) == 2 && number >= "02" && number <= "99" && number[1] >= '0' && number[1] <= '9'
}

// EntryKind is the kind of a ledger entry. The numbers are part of the
// published entry format and never change.
type EntryKind uint8

const (
	KindNone      EntryKind = iota
	KindIntent              // what is about to happen; durable before it can
	KindOutcome             // what became of it; alone for a refusal or a hold
	KindResult              // kept result bytes
	KindCount               // exact counts of refusals of callers who never authenticated
	KindOpen                // a log or gateway opened: what recovery found
	KindClose               // a log's last entry, naming its successor
	KindHeartbeat           // newest control state seen, each second with traffic
	KindChange              // a change of control state
	KindAnchor              // heads of gateway logs
	KindTombstone           // retired segments
	KindErasure             // destroyed keys
)

// String returns the kind's word, "kind" and its number for one that has none.
func (k EntryKind) String() string {
	if int(k) >= len(entryKindNames) {
		return "kind" + strconv.Itoa(int(k))
	}
	return entryKindNames[k]
}

var entryKindNames = [...]string{"none", "intent", "outcome", "result", "count", "open", "close", "heartbeat", "change", "anchor", "tombstone", "erasure"}

// Entry is what one ledger entry says. The ledger adds the log's name, the
// payload's commitment and digests, and encodes it; see package proof for the
// published format. The zero EntryID lets the ledger choose one.
type Entry struct {
	Kind        EntryKind
	ID          EntryID
	Time        time.Time // the ledger never lets recorded time fall
	Answers     EntryID   // the Intent an Outcome or Result answers
	Parent      EntryID   // the Intent this call happened inside, for calls a server makes back
	Session     SessionID
	Mandate     MandateID
	Agent       AgentID
	Principal   PrincipalID
	Approval    HoldID // of a held call's Outcome: where it waits; of an Intent: the consent it spends
	Action      string
	Server      string
	Pin         Digest
	Asked       Digest // Action.Digest of what was asked, when a rewritten action is recorded
	Permit      bool
	Code        string   // the decision's or refusal's code
	Reasons     []string // policy ids
	Obligations []string // types
	Disposition Disposition
	Snapshot    uint64
	Policy      Digest
	Class       string            // retention class; "" is "standard"
	Facts       map[string]string // public statements of a Change, without secrets: a vote with its proof
	Payload     Payload           // sealed by the ledger; only its commitment is in the entry
}

// Payload is the sealed part of an entry: what must be kept but not shown.
type Payload struct {
	Arguments []byte // the argument bytes as they arrived; of a Result, the result's
	Inputs    []byte // the decision's inputs as they were, JSON of our own making
	Detail    []byte // for people: refusal text, change description; JSON of our own making
	Result    Digest // digest of the result bytes, once they are known
	ResultLen int64
}

// Receipt says where an entry stands, once it is durable.
type Receipt struct {
	ID     EntryID
	Ref    EntryRef
	Origin string // the log
	Time   time.Time
}
