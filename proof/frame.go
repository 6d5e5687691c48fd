package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// The layout of segments. A segment is a file, zeroed before use, that opens
// with a segment frame and a state frame; batch frames follow. Every frame
// starts at a multiple of Align, so that a torn write never shares a sector
// with an acknowledged one. See docs/reference/entry-format.md.
const (
	FrameVersion = 1
	FrameHead    = 64       // fixed head of a frame
	Align        = 512      // frames start at multiples of a sector
	MaxFrame     = 24 << 20 // longest frame: a batch of 8 MiB, and room for one entry of the largest payload
	MaxBatch     = 4096     // entries in one batch
	RecordHead   = 38       // leaf hash, entry length, sealed length
	BatchHead    = 8 + 4 + 8 + 32 + ed25519.SignatureSize
	MaxSegment   = 1 << 30 // a segment file longer than this is refused
	MaxOpen      = 1 << 16 // open Intents a state frame may hold
)

// FrameType says what a frame holds.
type FrameType uint8

const (
	FrameNone    FrameType = iota
	FrameSegment           // what this file is
	FrameState             // what is known before its first batch
	FrameBatch             // entries, flushed together
)

var frameMagic = [4]byte{'O', 'S', 'T', 'L'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// What ReadFrame finds instead of a frame.
var (
	ErrZeros   = errors.New("zeros: nothing was written here")
	ErrNoFrame = errors.New("no frame starts here")
	ErrDamaged = errors.New("the frame's bytes do not match their checksum")
)

// Frame is one frame as it was read. Body is a view of the read buffer.
type Frame struct {
	Type    FrameType
	Segment uint64
	First   uint64 // index of the first entry
	Log     ostiary.Digest
	Offset  int64
	Head    [FrameHead]byte
	Body    []byte
}

// Length is what the frame takes in the file, padding included.
func (f *Frame) Length() int64 { return Padded(FrameHead + len(f.Body)) }

// Padded rounds n up to the next multiple of Align.
func Padded(n int) int64 { return (int64(n) + Align - 1) / Align * Align }

// FinishFrame turns buf, whose first FrameHead bytes are free and are
// followed by the body, into a whole frame, padded with zeros.
func FinishFrame(buf []byte, t FrameType, segment, first uint64, log ostiary.Digest) []byte {
	n := len(buf)
	h := buf[:FrameHead]
	copy(h, frameMagic[:])
	h[4], h[5], h[6], h[7] = byte(t), FrameVersion, 0, 0
	binary.BigEndian.PutUint32(h[8:], uint32(n-FrameHead))
	binary.BigEndian.PutUint64(h[16:], segment)
	binary.BigEndian.PutUint64(h[24:], first)
	copy(h[32:], log[:])
	binary.BigEndian.PutUint32(h[12:], frameSum(h, buf[FrameHead:]))
	var zeros [Align]byte
	return append(buf, zeros[:Padded(n)-int64(n)]...)
}

// frameSum is the CRC-32C of a frame without the field that holds it.
func frameSum(head, body []byte) uint32 {
	c := crc32.Update(0, castagnoli, head[:12])
	c = crc32.Update(c, castagnoli, head[16:FrameHead])
	return crc32.Update(c, castagnoli, body)
}

// ReadHead reads the head of the frame at off of a file that ends at end, and
// returns the length of its body. The length is checked against the file;
// whether the bytes match their checksum only ReadFrame can say.
func ReadHead(r io.ReaderAt, off, end int64) (f *Frame, body int64, err error) {
	f = &Frame{Offset: off}
	if end-off < FrameHead {
		return nil, 0, ErrZeros
	}
	if _, err := r.ReadAt(f.Head[:], off); err != nil {
		return nil, 0, err
	}
	h := f.Head[:]
	if f.Head == [FrameHead]byte{} {
		return nil, 0, ErrZeros
	}
	n := int64(binary.BigEndian.Uint32(h[8:]))
	if !bytes.Equal(h[:4], frameMagic[:]) || h[5] != FrameVersion || h[6]|h[7] != 0 || n > MaxFrame || FrameHead+n > end-off {
		return nil, 0, ErrNoFrame
	}
	f.Type = FrameType(h[4])
	f.Segment = binary.BigEndian.Uint64(h[16:])
	f.First = binary.BigEndian.Uint64(h[24:])
	copy(f.Log[:], h[32:])
	return f, n, nil
}

// ReadFrame reads the frame at off of a file that ends at end, into *buf,
// which it grows as needed. The length is checked against the file before
// memory is taken. With ErrDamaged the frame is returned for diagnosis.
func ReadFrame(r io.ReaderAt, off, end int64, buf *[]byte) (*Frame, error) {
	f, n, err := ReadHead(r, off, end)
	if err != nil {
		return nil, err
	}
	total := min(Padded(int(FrameHead+n)), end-off) - FrameHead
	if int64(cap(*buf)) < total {
		*buf = make([]byte, total)
	}
	b := (*buf)[:total]
	if _, err := r.ReadAt(b, off+FrameHead); err != nil {
		return nil, err
	}
	f.Body = b[:n:n]
	if frameSum(f.Head[:], f.Body) != binary.BigEndian.Uint32(f.Head[12:]) || !allZero(b[n:]) {
		return f, ErrDamaged
	}
	return f, nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Segment is the body of a segment frame.
type Segment struct {
	Size    int64 // of the whole file
	Created time.Time
	Origin  string
	Key     string // the log's verifier key
}

// AppendBody appends the frame body.
func (s *Segment) AppendBody(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Size))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Created.UnixNano()))
	w := fieldWriter{dst}
	w.sized(s.Origin)
	w.sized(s.Key)
	return w.b
}

func parseSegment(b []byte) (s Segment, ok bool) {
	r := reader{b: b}
	s.Size = int64(r.u64())
	s.Created = time.Unix(0, int64(r.u64())).UTC()
	s.Origin, s.Key = r.text(), r.text()
	return s, r.done() && ValidOrigin(s.Origin) && s.Size > 0 && s.Size <= MaxSegment
}

// OpenIntent is an Intent without an Outcome so far.
type OpenIntent struct {
	ID    ostiary.EntryID
	Index uint64
	Time  time.Time
	Log   string // where it stands: this log, or one before it
}

// State is the body of a state frame: all that start-up needs from what was
// written before.
type State struct {
	Size     uint64
	Edge     []tlog.Hash
	LastTime time.Time      // newest recorded time
	Writer   uint64         // newest writer epoch
	Epoch    uint64         // newest control epoch seen
	Revision uint64         // newest control revision seen
	Frames   ostiary.Digest // chain over all frame heads before
	Open     []OpenIntent   // by index
}

// AppendBody appends the frame body.
func (s *State) AppendBody(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, s.Size)
	dst = append(dst, byte(len(s.Edge)))
	for _, h := range s.Edge {
		dst = append(dst, h[:]...)
	}
	for _, n := range [...]uint64{unixNano(s.LastTime), s.Writer, s.Epoch, s.Revision} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	dst = append(dst, s.Frames[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.Open)))
	w := fieldWriter{dst}
	for _, o := range s.Open {
		w.b = append(w.b, o.ID[:]...)
		w.b = binary.BigEndian.AppendUint64(w.b, o.Index)
		w.b = binary.BigEndian.AppendUint64(w.b, unixNano(o.Time))
		w.sized(o.Log)
	}
	return w.b
}

func unixNano(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func timeOf(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns)).UTC()
}

func parseState(b []byte) (s State, ok bool) {
	r := reader{b: b}
	s.Size = r.u64()
	for range r.u8() {
		s.Edge = append(s.Edge, tlog.Hash(r.digest()))
	}
	s.LastTime = timeOf(r.u64())
	s.Writer, s.Epoch, s.Revision = r.u64(), r.u64(), r.u64()
	s.Frames = r.digest()
	n := r.u32()
	if n > MaxOpen || uint64(n)*34 > uint64(len(r.b)) {
		return s, false
	}
	for range n {
		var o OpenIntent
		copy(o.ID[:], r.take(len(o.ID)))
		o.Index, o.Time = r.u64(), timeOf(r.u64())
		o.Log = r.text()
		s.Open = append(s.Open, o)
	}
	return s, r.done()
}

// reader takes values off the front of a frame body. A short body makes it
// fail, and everything it returns after that is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() int {
	if v := r.take(1); v != nil {
		return int(v[0])
	}
	return 0
}

func (r *reader) u16() int {
	if v := r.take(2); v != nil {
		return int(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) digest() (d ostiary.Digest) {
	copy(d[:], r.take(len(d)))
	return d
}

func (r *reader) text() string { return string(r.take(r.u16())) }

func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

// Record is one entry of a batch as it is stored: views of the frame.
type Record struct {
	Leaf   tlog.Hash
	Entry  []byte
	Sealed []byte // the sealed payload, empty if there is none
}

// AppendRecord appends a record to a batch body.
func AppendRecord(dst []byte, r Record) []byte {
	dst = append(dst, r.Leaf[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Entry)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(r.Sealed)))
	dst = append(dst, r.Entry...)
	return append(dst, r.Sealed...)
}

// PutBatchHead fills in the first BatchHead bytes of a batch body: the
// writer's epoch, the number of entries, the size and root of the tree that
// holds them, and the signature of the checkpoint before.
func PutBatchHead(b []byte, writer uint64, count int, size uint64, root tlog.Hash, prev []byte) {
	binary.BigEndian.PutUint64(b, writer)
	binary.BigEndian.PutUint32(b[8:], uint32(count))
	binary.BigEndian.PutUint64(b[12:], size)
	copy(b[20:], root[:])
	clear(b[52:BatchHead])
	copy(b[52:BatchHead], prev)
}

// batch is the head of a batch body and the records after it.
type batch struct {
	writer   uint64
	count    int
	size     uint64
	root     tlog.Hash
	previous []byte
	rest     reader
}

func parseBatch(body []byte) (b batch, ok bool) {
	r := reader{b: body}
	b.writer, b.count, b.size = r.u64(), int(r.u32()), r.u64()
	b.root = tlog.Hash(r.digest())
	b.previous = r.take(ed25519.SignatureSize)
	b.rest = r
	return b, !r.bad && b.count > 0 && b.count <= MaxBatch
}

func (b *batch) next() (rec Record, ok bool) {
	rec.Leaf = tlog.Hash(b.rest.digest())
	n, m := b.rest.u16(), b.rest.u32()
	if n > MaxEntry || m > MaxPayload+SealOverhead {
		return rec, false
	}
	rec.Entry = b.rest.take(n)
	rec.Sealed = b.rest.take(int(m))
	return rec, !b.rest.bad
}

// Record finds the record of an index in a batch frame.
func (f *Frame) Record(index uint64) (Record, bool) {
	b, ok := parseBatch(f.Body)
	if !ok || f.Type != FrameBatch || index < f.First || index-f.First >= uint64(b.count) {
		return Record{}, false
	}
	var rec Record
	for range index - f.First + 1 {
		if rec, ok = b.next(); !ok {
			return Record{}, false
		}
	}
	return rec, true
}

// Records ranges over a batch frame's records with their indexes. It ends
// early at one that cannot be read.
func (f *Frame) Records() iter.Seq2[uint64, Record] {
	return func(yield func(uint64, Record) bool) {
		b, ok := parseBatch(f.Body)
		if !ok || f.Type != FrameBatch {
			return
		}
		for i := range uint64(b.count) {
			rec, ok := b.next()
			if !ok || !yield(f.First+i, rec) {
				return
			}
		}
	}
}

// nextFrames extends the chain over frame heads. A head holds the body's
// length and checksum; what the entries say is bound by the tree, sealed
// payloads by their digests.
func nextFrames(prev ostiary.Digest, head *[FrameHead]byte) ostiary.Digest {
	var b [32 + FrameHead]byte
	copy(b[:], prev[:])
	copy(b[32:], head[:])
	return sha256.Sum256(b[:])
}
