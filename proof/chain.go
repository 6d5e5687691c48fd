package proof

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// Fault says what is wrong with a log and where: at an entry, or at a place
// in a segment when no entry can be named.
type Fault struct {
	Log     string
	Ref     ostiary.EntryRef // the entry at fault; zero if it is none
	Segment uint64           // 0 if it is not in a segment
	Offset  int64
	What    string
}

func (f *Fault) Error() string {
	switch {
	case !f.Ref.IsZero():
		return "entry " + f.Ref.String() + ": " + f.What
	case f.Segment != 0:
		return fmt.Sprintf("log %s, segment %d, byte %d: %s", f.Log, f.Segment, f.Offset, f.What)
	}
	return "log " + f.Log + ": " + f.What
}

// Unwrap classifies every fault as corrupt.
func (f *Fault) Unwrap() error {
	return &ostiary.Error{Kind: ostiary.Corrupt, Code: "log_corrupt", Detail: f.What}
}

// Month returns the month of an origin, its last segment.
func Month(origin string) string { return origin[strings.LastIndexByte(origin, '/')+1:] }

// Chain is what is known of a log up to a place in it, and the one function
// that checks the next batch: recovery and verification both go through it.
// Not safe for concurrent use.
type Chain struct {
	Origin   string
	ID       ostiary.Digest    // digest of the origin, as frames carry it
	Key      ed25519.PublicKey // nil: signatures are not checked
	Edge     Edge
	LastTime time.Time
	Writer   uint64
	Epoch    uint64
	Revision uint64
	Frames   ostiary.Digest
	Open     map[ostiary.EntryID]OpenIntent
	Closed   *Entry // the Close entry, once there is one
	// CheckSignature, if set, is called in place of verifying a signature at
	// once, so that a verifier can spread the work.
	CheckSignature func(c Checkpoint, sig []byte) error
}

// NewChain returns the chain of an empty log.
func NewChain(origin string, key ed25519.PublicKey) *Chain {
	return &Chain{Origin: origin, ID: ostiary.DigestOf([]byte(origin)), Key: key, Open: map[ostiary.EntryID]OpenIntent{}}
}

// State returns what a state frame says at this place.
func (c *Chain) State() State {
	s := State{Size: c.Edge.Size(), Edge: c.Edge.Hashes(), LastTime: c.LastTime, Writer: c.Writer,
		Epoch: c.Epoch, Revision: c.Revision, Frames: c.Frames}
	for _, o := range c.Open {
		s.Open = append(s.Open, o)
	}
	slices.SortFunc(s.Open, func(a, b OpenIntent) int {
		return cmp.Or(strings.Compare(a.Log, b.Log), cmp.Compare(a.Index, b.Index))
	})
	return s
}

// resume takes a state as the truth, to start in the middle of a log.
func (c *Chain) resume(s State) error {
	edge, err := EdgeOf(s.Size, s.Edge)
	if err != nil {
		return err
	}
	c.Edge, c.LastTime, c.Writer, c.Epoch, c.Revision, c.Frames = edge, s.LastTime, s.Writer, s.Epoch, s.Revision, s.Frames
	clear(c.Open)
	for _, o := range s.Open {
		c.Open[o.ID] = o
	}
	return nil
}

// Checkpoint returns the log's checkpoint at this place.
func (c *Chain) Checkpoint() Checkpoint { return Checkpoint{c.Origin, c.Edge.Size(), c.Edge.Root()} }

// Ref returns the reference of an index of this log.
func (c *Chain) Ref(index uint64) ostiary.EntryRef {
	return ostiary.EntryRef{Month: Month(c.Origin), Index: index}
}

func (c *Chain) fault(f *Frame, index uint64, what string, args ...any) *Fault {
	return &Fault{Log: c.Origin, Ref: c.Ref(index), Segment: f.Segment, Offset: f.Offset, What: fmt.Sprintf(what, args...)}
}

// Visit is called for each entry that verified. Record and Entry are valid
// until it returns.
type Visit func(index uint64, e *Entry, r Record) error

// Batch checks a batch frame against everything before it: origin, segment
// order (by the caller), continuity, each entry, leaf hash and sealed digest,
// the root, and the signature of the checkpoint before it. On success the
// chain stands after the batch.
func (c *Chain) Batch(f *Frame, visit Visit, whole func(level int, h tlog.Hash)) error {
	first := c.Edge.Size()
	b, ok := parseBatch(f.Body)
	switch {
	case f.Type != FrameBatch || f.Log != c.ID:
		return c.fault(f, first, "what stands in its place is not of this log")
	case f.First != first:
		return c.fault(f, first, "missing: the next frame starts at entry %d", f.First)
	case !ok:
		return c.fault(f, first, "the batch that holds it cannot be read")
	case b.writer < c.Writer:
		return c.fault(f, first, "written under writer epoch %d after epoch %d", b.writer, c.Writer)
	case c.Closed != nil:
		return c.fault(f, first, "stands after the log's last entry")
	}
	if err := c.previous(f, b.previous); err != nil {
		return err
	}
	for i := range b.count {
		index := first + uint64(i)
		rec, ok := b.next()
		if !ok {
			return c.fault(f, index, "its record is cut short")
		}
		e, what := checkRecord(c.Origin, rec)
		if what == "" {
			what = c.admit(index, e)
		}
		if what != "" {
			return c.fault(f, index, "%s", what)
		}
		c.Edge.Append(rec.Leaf, whole)
		if visit != nil {
			if err := visit(index, e, rec); err != nil {
				return err
			}
		}
	}
	if len(b.rest.b) != 0 {
		return c.fault(f, first, "bytes that belong to no entry follow its batch")
	}
	if b.size != c.Edge.Size() || b.root != c.Edge.Root() {
		return c.fault(f, first, "the tree's root after its batch differs from the one recorded")
	}
	c.Writer = b.writer
	c.Frames = nextFrames(c.Frames, &f.Head)
	return nil
}

// previous checks the signature of the checkpoint before a batch.
func (c *Chain) previous(f *Frame, sig []byte) error {
	if c.Edge.Size() == 0 {
		if !allZero(sig) {
			return c.fault(f, 0, "a signature stands before the first batch")
		}
		return nil
	}
	cp := c.Checkpoint()
	check := c.CheckSignature
	if check == nil && c.Key != nil {
		check = func(cp Checkpoint, sig []byte) error {
			if !ed25519.Verify(c.Key, cp.AppendText(nil), sig) {
				return c.fault(f, cp.Size-1, "the signature of the checkpoint over it does not verify")
			}
			return nil
		}
	}
	if check == nil {
		return nil
	}
	return check(cp, sig)
}

// checkRecord checks one record by itself. It returns the entry, or what is
// wrong.
func checkRecord(origin string, rec Record) (*Entry, string) {
	if LeafHash(rec.Entry) != rec.Leaf {
		return nil, "leaf hash differs from the entry's bytes"
	}
	e, err := ParseEntry(rec.Entry)
	if err != nil {
		return nil, "not a valid entry: " + ostiary.AsError(err).Detail
	}
	switch {
	case e.Log != origin:
		return nil, "it belongs to log " + strconv.Quote(e.Log)
	case e.PayloadLen == 0 && len(rec.Sealed) != 0:
		return nil, "a payload is stored that the entry does not know"
	case e.PayloadLen != 0 && len(rec.Sealed) != int(e.PayloadLen)+SealOverhead:
		return nil, "its sealed payload has another length than was logged"
	case e.PayloadLen != 0 && ostiary.DigestOf(rec.Sealed) != e.Sealed:
		return nil, "its sealed payload differs from the one that was logged"
	}
	return e, ""
}

// admit checks an entry against what came before and takes it in.
func (c *Chain) admit(index uint64, e *Entry) string {
	if e.Time.Before(c.LastTime) {
		return "its time is before that of the entry before it"
	}
	switch e.Kind {
	case ostiary.KindIntent:
		if _, ok := c.Open[e.ID]; ok {
			return "an Intent of the same id is open"
		}
		if len(c.Open) >= MaxOpen {
			return "too many Intents are open"
		}
		c.Open[e.ID] = OpenIntent{e.ID, index, e.Time, c.Origin}
	case ostiary.KindOutcome:
		if !e.Answers.IsZero() {
			if _, ok := c.Open[e.Answers]; !ok {
				return "it answers no open Intent"
			}
			delete(c.Open, e.Answers)
		}
	case ostiary.KindHeartbeat:
		epoch, revision, ok := ControlFacts(e)
		if !ok || epoch < c.Epoch || epoch == c.Epoch && revision < c.Revision {
			return "the control state it saw is older than one seen before"
		}
		c.Epoch, c.Revision = epoch, revision
	case ostiary.KindOpen:
		if index == 0 && e.Fact("predecessor") == "" && len(c.Open) != 0 {
			return "a log without predecessor starts with open Intents"
		}
	case ostiary.KindClose:
		c.Closed = e
	}
	c.LastTime = e.Time
	return ""
}

// ControlFacts returns the control epoch and revision an entry states, zero
// if it states none.
func ControlFacts(e *Entry) (epoch, revision uint64, ok bool) {
	ok = true
	for _, f := range [...]struct {
		name string
		dst  *uint64
	}{{"epoch", &epoch}, {"revision", &revision}} {
		if s := e.Fact(f.name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			*f.dst, ok = n, ok && err == nil
		}
	}
	return epoch, revision, ok
}

// Extend is Batch's counterpart for the writer: it admits an entry of its own
// making as the next leaf. On an error, which is a Conflict, nothing changed.
func (c *Chain) Extend(e *Entry, leaf tlog.Hash, whole func(level int, h tlog.Hash)) error {
	if what := c.admit(c.Edge.Size(), e); what != "" {
		return ostiary.Errorf(ostiary.Conflict, "entry_conflict", "the entry cannot stand here: %s", what)
	}
	c.Edge.Append(leaf, whole)
	return nil
}

// Framed tells a writer's chain that a frame was added to the segment.
func (c *Chain) Framed(frame []byte) { c.Frames = nextFrames(c.Frames, (*[FrameHead]byte)(frame)) }

// Committed tells a writer's chain which epoch its batches carry.
func (c *Chain) Committed(writer uint64) { c.Writer = writer }

// Inherit starts an empty log's chain from its closed predecessor: Intents
// that are still open, recorded time and control state go on.
func (c *Chain) Inherit(prev *Chain) {
	c.LastTime, c.Epoch, c.Revision = prev.LastTime, prev.Epoch, prev.Revision
	c.Open = maps.Clone(prev.Open)
}

// diagnose names the entry at fault in a frame whose checksum does not match.
func (c *Chain) diagnose(f *Frame) *Fault {
	first := c.Edge.Size()
	if f == nil {
		return &Fault{Log: c.Origin, Ref: c.Ref(first), What: "the frame that should hold it is damaged"}
	}
	b, ok := parseBatch(f.Body)
	if !ok || f.Type != FrameBatch {
		return c.fault(f, first, "the frame that should hold it is damaged")
	}
	for i := range b.count {
		rec, ok := b.next()
		if !ok {
			return c.fault(f, first+uint64(i), "its record is damaged")
		}
		if _, what := checkRecord(c.Origin, rec); what != "" {
			return c.fault(f, first+uint64(i), "%s", what)
		}
	}
	if b.count == 1 {
		return c.fault(f, first, "the frame that holds it is damaged")
	}
	return c.fault(f, first, "the frame that holds it and the %d entries after it is damaged", b.count-1)
}
