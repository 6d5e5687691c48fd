package proof

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// EntryVersion is the only version of the entry format there is. Another one
// is refused.
const EntryVersion = 1

// MaxEntry is the longest encoded entry. C2SP bundles allow 65,535; an entry
// commits to what is longer instead of holding it.
const MaxEntry = 4096

// entryHead is the fixed part: version, kind, time.
const entryHead = 10

// KeyID names the data key that sealed a payload.
type KeyID [16]byte

// Fact is one public statement of an entry that has no secret to keep: what
// recovery found, the successor of a log, a count. Names are of the entry's
// kind; see the format's specification.
type Fact struct{ Name, Value string }

// Entry is one leaf of a log, decoded. Fields that do not apply are zero, and
// a zero field is not encoded.
type Entry struct {
	Kind ostiary.EntryKind
	Time time.Time // UTC, nanoseconds; never falls within a log
	ID   ostiary.EntryID
	Log  string // origin of the log it was written to

	Answers ostiary.EntryID // the Intent it answers
	Parent  ostiary.EntryID

	Session   string
	Task      string
	Mandate   string
	Agent     string
	Principal string
	Approval  string
	Lease     string // budget lease the amount is reserved from
	Amount    uint64

	Action      string
	Server      string
	Pin         ostiary.Digest
	Asked       ostiary.Digest
	Permit      bool
	Code        string
	Reasons     []string
	Obligations []string
	Disposition ostiary.Disposition
	Snapshot    uint64
	Policy      ostiary.Digest

	Class      string // retention class, "" is standard
	Key        KeyID
	PayloadLen uint32         // of the plain payload; 0 means there is none
	Commitment ostiary.Digest // of the salted plain payload
	Sealed     ostiary.Digest // of the sealed payload as it is stored

	Clipped bool   // a text was too long for the entry and was cut
	Facts   []Fact // sorted by name, names unique
}

// The tags of the fields. They stand in ascending order and never change.
const (
	tagID = iota + 1
	tagLog
	tagAnswers
	tagParent
	tagSession
	tagTask
	tagMandate
	tagAgent
	tagPrincipal
	tagApproval
	tagLease
	tagAmount
	tagAction
	tagServer
	tagPin
	tagAsked
	tagPermit
	tagCode
	tagReasons
	tagObligations
	tagDisposition
	tagSnapshot
	tagPolicy
	tagClass
	tagKey
	tagPayloadLen
	tagCommitment
	tagSealed
	tagClipped
	tagFacts
)

// Fact returns the value of the named fact, "" if there is none.
func (e *Entry) Fact(name string) string {
	for _, f := range e.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// AppendEntry appends the one encoding of e to dst. It refuses an entry that
// a reader would refuse.
func AppendEntry(dst []byte, e *Entry) ([]byte, error) {
	start := len(dst)
	if err := e.check(); err != nil {
		return dst, err
	}
	dst = append(dst, EntryVersion, byte(e.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.Time.UnixNano()))
	w := fieldWriter{dst}
	w.fixed(tagID, e.ID[:])
	w.text(tagLog, e.Log)
	w.fixed(tagAnswers, e.Answers[:])
	w.fixed(tagParent, e.Parent[:])
	w.text(tagSession, e.Session)
	w.text(tagTask, e.Task)
	w.text(tagMandate, e.Mandate)
	w.text(tagAgent, e.Agent)
	w.text(tagPrincipal, e.Principal)
	w.text(tagApproval, e.Approval)
	w.text(tagLease, e.Lease)
	w.number(tagAmount, e.Amount)
	w.text(tagAction, e.Action)
	w.text(tagServer, e.Server)
	w.fixed(tagPin, e.Pin[:])
	w.fixed(tagAsked, e.Asked[:])
	w.flag(tagPermit, e.Permit)
	w.text(tagCode, e.Code)
	w.list(tagReasons, e.Reasons)
	w.list(tagObligations, e.Obligations)
	w.octet(tagDisposition, byte(e.Disposition))
	w.number(tagSnapshot, e.Snapshot)
	w.fixed(tagPolicy, e.Policy[:])
	w.text(tagClass, e.Class)
	w.fixed(tagKey, e.Key[:])
	w.number(tagPayloadLen, uint64(e.PayloadLen))
	w.fixed(tagCommitment, e.Commitment[:])
	w.fixed(tagSealed, e.Sealed[:])
	w.flag(tagClipped, e.Clipped)
	w.facts(tagFacts, e.Facts)
	if n := len(w.b) - start; n > MaxEntry {
		return dst[:start], ostiary.Errorf(ostiary.Malformed, "entry_too_long", "an entry has at most %d bytes, this one %d", MaxEntry, n)
	}
	return w.b, nil
}

// check refuses what has no encoding.
func (e *Entry) check() error {
	switch {
	case e.Kind == ostiary.KindNone || e.Kind > ostiary.KindErasure:
		return badEntry("kind", "unknown kind")
	case e.ID.IsZero():
		return badEntry("id", "no entry id")
	case e.Log == "":
		return badEntry("log", "no log")
	case e.Time.Unix() <= 0 || e.Time.Year() > 2250:
		return badEntry("time", "out of range")
	case e.Disposition > ostiary.Unknown:
		return badEntry("disposition", "unknown disposition")
	}
	if none := e.PayloadLen == 0; none != (e.Key == KeyID{}) || none != e.Commitment.IsZero() || none != e.Sealed.IsZero() {
		return badEntry("payload", "payload length, key, commitment and sealed digest stand together")
	}
	for i, f := range e.Facts {
		if f.Name == "" || i > 0 && e.Facts[i-1].Name >= f.Name {
			return badEntry("facts", "names must be unique and sorted")
		}
		if !utf8.ValidString(f.Name) || !utf8.ValidString(f.Value) {
			return badEntry("facts", "text is not UTF-8")
		}
	}
	for _, s := range [...]string{e.Log, e.Session, e.Task, e.Mandate, e.Agent, e.Principal, e.Approval, e.Lease, e.Action, e.Server, e.Code, e.Class} {
		if !utf8.ValidString(s) {
			return badEntry("text", "text is not UTF-8")
		}
	}
	for _, l := range [...][]string{e.Reasons, e.Obligations} {
		for _, s := range l {
			if !utf8.ValidString(s) {
				return badEntry("text", "text is not UTF-8")
			}
		}
	}
	return nil
}

func badEntry(field, why string) error {
	return ostiary.Errorf(ostiary.Malformed, "entry", "%s", why).At(field)
}

// fieldWriter writes tag, length (two bytes) and value. Lengths beyond two
// bytes cannot survive the limit on the whole, so they saturate.
type fieldWriter struct{ b []byte }

func (w *fieldWriter) head(tag byte, n int) {
	if n > 0xffff {
		n = 0xffff // the whole is over MaxEntry and refused
	}
	w.b = append(w.b, tag, byte(n>>8), byte(n))
}

func (w *fieldWriter) text(tag byte, s string) {
	if s != "" {
		w.head(tag, len(s))
		w.b = append(w.b, s...)
	}
}

func (w *fieldWriter) fixed(tag byte, v []byte) {
	for _, c := range v {
		if c != 0 {
			w.head(tag, len(v))
			w.b = append(w.b, v...)
			return
		}
	}
}

func (w *fieldWriter) number(tag byte, v uint64) {
	if v != 0 {
		w.head(tag, 8)
		w.b = binary.BigEndian.AppendUint64(w.b, v)
	}
}

func (w *fieldWriter) octet(tag, v byte) {
	if v != 0 {
		w.head(tag, 1)
		w.b = append(w.b, v)
	}
}

func (w *fieldWriter) flag(tag byte, v bool) {
	if v {
		w.octet(tag, 1)
	}
}

func (w *fieldWriter) sized(s string) {
	w.b = append(w.b, byte(len(s)>>8), byte(len(s)))
	w.b = append(w.b, s...)
}

func (w *fieldWriter) list(tag byte, l []string) {
	if len(l) == 0 {
		return
	}
	n := 0
	for _, s := range l {
		n += 2 + len(s)
	}
	w.head(tag, n)
	for _, s := range l {
		w.sized(s)
	}
}

func (w *fieldWriter) facts(tag byte, l []Fact) {
	if len(l) == 0 {
		return
	}
	n := 0
	for _, f := range l {
		n += 4 + len(f.Name) + len(f.Value)
	}
	w.head(tag, n)
	for _, f := range l {
		w.sized(f.Name)
		w.sized(f.Value)
	}
}

// ParseEntry reads an encoded entry, strictly: what it accepts encodes to the
// same bytes again. The entry keeps no reference to b.
func ParseEntry(b []byte) (*Entry, error) {
	e := new(Entry)
	if err := e.parse(b); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Entry) parse(b []byte) error {
	if len(b) > MaxEntry {
		return badEntry("", "longer than an entry may be")
	}
	if len(b) < entryHead {
		return badEntry("", "shorter than an entry can be")
	}
	if b[0] != EntryVersion {
		return badEntry("version", "unknown format version")
	}
	e.Kind = ostiary.EntryKind(b[1])
	ns := binary.BigEndian.Uint64(b[2:])
	if ns > 1<<63-1 {
		return badEntry("time", "out of range")
	}
	e.Time = time.Unix(0, int64(ns)).UTC()
	last := byte(0)
	for rest := b[entryHead:]; len(rest) > 0; {
		if len(rest) < 3 {
			return badEntry("", "a field is cut short")
		}
		tag, n := rest[0], int(rest[1])<<8|int(rest[2])
		if len(rest) < 3+n {
			return badEntry("", "a field is cut short")
		}
		if tag <= last {
			return badEntry("", "fields are not in ascending order")
		}
		if err := e.field(tag, rest[3:3+n]); err != nil {
			return err
		}
		last, rest = tag, rest[3+n:]
	}
	return e.check()
}

// field reads one value. A value that the writer would have left out, because
// it is zero, is refused: there is one encoding.
func (e *Entry) field(tag byte, v []byte) (err error) {
	switch tag {
	case tagID:
		return fixed(e.ID[:], v)
	case tagLog:
		return text(&e.Log, v)
	case tagAnswers:
		return fixed(e.Answers[:], v)
	case tagParent:
		return fixed(e.Parent[:], v)
	case tagSession:
		return text(&e.Session, v)
	case tagTask:
		return text(&e.Task, v)
	case tagMandate:
		return text(&e.Mandate, v)
	case tagAgent:
		return text(&e.Agent, v)
	case tagPrincipal:
		return text(&e.Principal, v)
	case tagApproval:
		return text(&e.Approval, v)
	case tagLease:
		return text(&e.Lease, v)
	case tagAmount:
		return number(&e.Amount, v)
	case tagAction:
		return text(&e.Action, v)
	case tagServer:
		return text(&e.Server, v)
	case tagPin:
		return fixed(e.Pin[:], v)
	case tagAsked:
		return fixed(e.Asked[:], v)
	case tagPermit:
		return flag(&e.Permit, v)
	case tagCode:
		return text(&e.Code, v)
	case tagReasons:
		e.Reasons, err = list(v)
		return err
	case tagObligations:
		e.Obligations, err = list(v)
		return err
	case tagDisposition:
		if len(v) != 1 || v[0] == 0 {
			return badEntry("disposition", "want one byte that is not zero")
		}
		e.Disposition = ostiary.Disposition(v[0])
		return nil
	case tagSnapshot:
		return number(&e.Snapshot, v)
	case tagPolicy:
		return fixed(e.Policy[:], v)
	case tagClass:
		return text(&e.Class, v)
	case tagKey:
		return fixed(e.Key[:], v)
	case tagPayloadLen:
		var n uint64
		if err := number(&n, v); err != nil {
			return err
		}
		if n > 1<<32-1 {
			return badEntry("payload", "length out of range")
		}
		e.PayloadLen = uint32(n)
		return nil
	case tagCommitment:
		return fixed(e.Commitment[:], v)
	case tagSealed:
		return fixed(e.Sealed[:], v)
	case tagClipped:
		return flag(&e.Clipped, v)
	case tagFacts:
		l, err := list(v)
		if err != nil {
			return err
		}
		if len(l)%2 != 0 {
			return badEntry("facts", "a name without a value")
		}
		for pair := range slices.Chunk(l, 2) {
			e.Facts = append(e.Facts, Fact{pair[0], pair[1]})
		}
		return nil
	}
	return badEntry("", "unknown field")
}

func text(dst *string, v []byte) error {
	if len(v) == 0 {
		return badEntry("", "an empty field")
	}
	*dst = string(v)
	return nil
}

func fixed(dst, v []byte) error {
	if len(v) != len(dst) {
		return badEntry("", "a field of the wrong length")
	}
	zero := true
	for _, c := range v {
		zero = zero && c == 0
	}
	if zero {
		return badEntry("", "a zero field")
	}
	copy(dst, v)
	return nil
}

func number(dst *uint64, v []byte) error {
	if len(v) != 8 {
		return badEntry("", "a number of the wrong length")
	}
	if *dst = binary.BigEndian.Uint64(v); *dst == 0 {
		return badEntry("", "a zero field")
	}
	return nil
}

func flag(dst *bool, v []byte) error {
	if len(v) != 1 || v[0] != 1 {
		return badEntry("", "a flag is the byte 1 or absent")
	}
	*dst = true
	return nil
}

func list(v []byte) ([]string, error) {
	var l []string
	for len(v) > 0 {
		if len(v) < 2 {
			return nil, badEntry("", "a list is cut short")
		}
		n := int(v[0])<<8 | int(v[1])
		if len(v) < 2+n {
			return nil, badEntry("", "a list is cut short")
		}
		l = append(l, string(v[2:2+n]))
		v = v[2+n:]
	}
	if l == nil {
		return nil, badEntry("", "an empty list")
	}
	return l, nil
}

// SetTime replaces the recorded time of an encoded entry. The leaf hash must
// be computed again.
func SetTime(entry []byte, t time.Time) {
	binary.BigEndian.PutUint64(entry[2:], uint64(t.UnixNano()))
}

// LeafHash is the RFC 6962 leaf hash of an encoded entry. Entries of usual
// length are hashed on the stack: this is on the path of every append.
func LeafHash(entry []byte) tlog.Hash {
	var b [1024]byte // b[0] is RFC 6962's mark of a leaf, 0
	if len(entry) >= len(b) {
		return tlog.RecordHash(entry)
	}
	return sha256.Sum256(b[:1+copy(b[1:], entry)])
}
