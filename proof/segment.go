package proof

import (
	"errors"
	"fmt"
	"io"
	"reflect"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// Tail says how the written part of a segment ends.
type Tail uint8

const (
	TailClean Tail = iota // zeros to the end of the file
	TailTorn              // bytes that are no frame, and no frame after them
)

// Place is where a batch frame lies in its segment.
type Place struct {
	First  uint64 // index of its first entry
	Offset int64
	Length int64 // padding included
}

// Scan is what ScanSegment found.
type Scan struct {
	Segment Segment
	Number  uint64
	First   uint64 // index of its first entry
	Used    int64  // up to here frames are whole and verified
	Batches []Place
	Tail    Tail
	Torn    [2]int64 // from where to where bytes are not zero, if torn
	Suspect *Fault   // with TailTorn: the entry the torn bytes look like
}

// ScanOptions are what a scan may assume.
type ScanOptions struct {
	Number uint64 // the segment's number
	Resume bool   // take the state frame as the truth, instead of comparing it
	Last   bool   // the log's last segment: a torn tail is no fault
	Visit  Visit
	Whole  func(level int, h tlog.Hash) // for each complete subtree
}

// ErrSpare is returned for a segment that was prepared and not used: nothing
// but zeros.
var ErrSpare = errors.New("a segment prepared and not used")

// ScanSegment reads a segment from its start, checks each frame through c and
// classifies what follows the last whole one. Faults are of type *Fault;
// other errors are those of r. Memory is bounded by one frame, time by the
// length of the file.
func ScanSegment(r io.ReaderAt, size int64, c *Chain, o ScanOptions) (*Scan, error) {
	s := &Scan{Number: o.Number, First: c.Edge.Size()}
	var buf []byte
	off, err := s.opening(r, size, c, o, &buf)
	if err != nil {
		return s, err
	}
	for {
		s.Used = off
		f, err := ReadFrame(r, off, size, &buf)
		switch {
		case err == nil:
			if f.Segment != o.Number {
				return s, c.fault(f, c.Edge.Size(), "what stands in its place is of segment %d", f.Segment)
			}
			if err := c.Batch(f, o.Visit, o.Whole); err != nil {
				return s, err
			}
			s.Batches = append(s.Batches, Place{f.First, off, f.Length()})
			off += f.Length()
		case errors.Is(err, ErrZeros) || errors.Is(err, ErrNoFrame) || errors.Is(err, ErrDamaged):
			return s, s.tail(r, size, c, o, f, &buf)
		default:
			return s, fmt.Errorf("reading segment %d: %w", o.Number, err)
		}
	}
}

// opening reads the segment frame and the state frame.
func (s *Scan) opening(r io.ReaderAt, size int64, c *Chain, o ScanOptions, buf *[]byte) (int64, error) {
	bad := func(off int64, what string) (int64, error) {
		return 0, &Fault{Log: c.Origin, Segment: o.Number, Offset: off, What: what}
	}
	if size > MaxSegment {
		return bad(0, "the file is longer than a segment may be")
	}
	f, err := ReadFrame(r, 0, size, buf)
	if errors.Is(err, ErrZeros) {
		first, _, err := nonZero(r, 0, size)
		if err != nil {
			return 0, err
		}
		if first < 0 {
			return 0, ErrSpare
		}
	}
	if err != nil || f.Type != FrameSegment {
		return bad(0, "it does not open with what a segment opens with")
	}
	var ok bool
	if s.Segment, ok = parseSegment(f.Body); !ok || f.Segment != o.Number {
		return bad(0, "its opening cannot be read, or is that of another segment")
	}
	if s.Segment.Origin != c.Origin || f.Log != c.ID {
		return bad(0, "it belongs to log "+s.Segment.Origin)
	}
	if s.Segment.Size != size {
		return bad(size, fmt.Sprintf("the file has %d bytes, it was made with %d", size, s.Segment.Size))
	}
	head := f.Head
	off := f.Length()
	if f, err = ReadFrame(r, off, size, buf); err != nil || f.Type != FrameState || f.Segment != o.Number || f.Log != c.ID {
		return bad(off, "its state frame is damaged")
	}
	st, ok := parseState(f.Body)
	if !ok || f.First != st.Size {
		return bad(off, "its state frame cannot be read")
	}
	if o.Resume {
		if err := c.resume(st); err != nil {
			return bad(off, "its state frame contradicts itself")
		}
	} else if !reflect.DeepEqual(st, c.State()) {
		what := "its state frame differs from what stands before it"
		if st.Size != c.Edge.Size() {
			what = fmt.Sprintf("it starts at entry %d, but entry %d is the next", st.Size, c.Edge.Size())
		}
		return bad(off, what)
	}
	s.First = st.Size
	c.Frames = nextFrames(nextFrames(c.Frames, &head), &f.Head)
	return off + f.Length(), nil
}

// ReadOpening reads the segment and state frames that a segment opens with,
// and returns where its first batch stands. It returns ErrSpare for zeros.
func ReadOpening(r io.ReaderAt, size int64, number uint64) (Segment, State, int64, error) {
	var buf []byte
	bad := func(what string) (Segment, State, int64, error) {
		return Segment{}, State{}, 0, &Fault{Segment: number, What: what}
	}
	f, err := ReadFrame(r, 0, size, &buf)
	if errors.Is(err, ErrZeros) {
		return Segment{}, State{}, 0, ErrSpare
	}
	if err != nil || f.Type != FrameSegment || f.Segment != number {
		return bad("it does not open with what a segment opens with")
	}
	seg, ok := parseSegment(f.Body)
	if !ok {
		return bad("its opening cannot be read")
	}
	off := f.Length()
	if f, err = ReadFrame(r, off, size, &buf); err != nil || f.Type != FrameState || f.Segment != number {
		return bad("its state frame is damaged")
	}
	st, ok := parseState(f.Body)
	if !ok {
		return bad("its state frame cannot be read")
	}
	return seg, st, off + f.Length(), nil
}

// HasBatch reports whether a whole batch frame of the log and segment stands
// anywhere in a segment whose opening cannot be read.
func HasBatch(r io.ReaderAt, size int64, log ostiary.Digest, number uint64) (bool, error) {
	var buf []byte
	s := Scan{Number: number}
	return s.frameAfter(r, size, log, &buf)
}

// tail classifies what follows the last whole frame. Bytes before a valid
// frame are damage to what was acknowledged; the last bytes of the last
// segment may be a write that never completed.
func (s *Scan) tail(r io.ReaderAt, size int64, c *Chain, o ScanOptions, f *Frame, buf *[]byte) error {
	first, last, err := nonZero(r, s.Used, size)
	if err != nil {
		return err
	}
	if first < 0 {
		return nil
	}
	suspect := c.diagnose(f) // before f's buffer is read over
	suspect.Segment, suspect.Offset = o.Number, s.Used
	if !o.Last || c.Closed != nil {
		return suspect
	}
	found, err := s.frameAfter(r, size, c.ID, buf)
	if err != nil {
		return err
	}
	if found {
		return suspect
	}
	s.Tail, s.Torn, s.Suspect = TailTorn, [2]int64{first, last + 1}, suspect
	return nil
}

// frameAfter looks for a whole batch frame of this segment beyond the first sector
// of the tail. Heads that look right but are not cost a checksum each, so
// there is a limit on them: a tail full of them was made, not torn.
func (s *Scan) frameAfter(r io.ReaderAt, size int64, log ostiary.Digest, buf *[]byte) (bool, error) {
	budget := 2*size + 4*MaxFrame
	var head [FrameHead]byte
	for off := s.Used + Align; off+FrameHead <= size; off += Align {
		if _, err := r.ReadAt(head[:], off); err != nil {
			return false, err
		}
		if [4]byte(head[:4]) != frameMagic {
			continue
		}
		f, err := ReadFrame(r, off, size, buf)
		if err == nil && f.Type == FrameBatch && f.Segment == s.Number && f.Log == log {
			return true, nil
		}
		if f != nil {
			budget -= int64(len(f.Body))
		}
		if budget -= FrameHead; budget < 0 {
			return true, nil
		}
	}
	return false, nil
}

// nonZero returns the offsets of the first and last byte in [from, to) that is
// not zero, -1 if there is none.
func nonZero(r io.ReaderAt, from, to int64) (first, last int64, err error) {
	first, last = -1, -1
	buf := make([]byte, 64<<10)
	for off := from; off < to; off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), to-off)]
		if _, err := r.ReadAt(b, off); err != nil {
			return -1, -1, err
		}
		if allZero(b) {
			continue
		}
		for i, c := range b {
			if c != 0 {
				if last = off + int64(i); first < 0 {
					first = last
				}
			}
		}
	}
	return first, last, nil
}
