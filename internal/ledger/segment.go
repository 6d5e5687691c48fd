package ledger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/proof"
)

// segment is one file of a volume.
type segment struct {
	number  uint64
	first   uint64 // index of its first entry
	path    string
	size    int64
	used    int64       // live segment: where the next frame goes; owned by the committer
	reserve bool        // it was the reserve: only entries marked spare go into it
	file    File        // open while it is live or spare; else opened to read
	named   atomic.Bool // its name is durable

	readers sync.WaitGroup // of file, counted under the volume's mutex
	retired File           // while its last readers are waited for

	places []proof.Place // its batches; nil until somebody reads. Guarded by the volume's mutex
}

// left is how many bytes the live segment still takes.
func (s *segment) left() int64 { return s.size - s.used }

const segmentSuffix = ".seg"

func segmentName(number uint64) string { return fmt.Sprintf("%08d%s", number, segmentSuffix) }

// segmentNumber reads a segment's file name, 0 if it is none.
func segmentNumber(name string) uint64 {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || segmentName(n) != name {
		return 0
	}
	return n
}

// Zeroing goes on beside the append path: zeroChunk is written at once, and
// after zeroFlush it is flushed, so that no flush of a batch waits behind a
// whole segment.
const (
	zeroChunk = 1 << 20
	zeroFlush = 4 << 20
)

// prepare makes a segment file: zeros from end to end, flushed, its name too.
// A file that grows, or was only allocated, pays for metadata at each flush.
func prepare(fsys FS, path string, size int64) (f File, err error) {
	if f, err = fsys.Create(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), fsys.Remove(path))
			f = nil
		}
	}()
	if err = zero(f, 0, size); err != nil {
		return f, err
	}
	if err = f.Sync(); err != nil {
		return f, err
	}
	return f, fsys.SyncDir(filepath.Dir(path))
}

func zero(f File, from, to int64) error {
	zeros := make([]byte, min(zeroChunk, to-from))
	for off := from; off < to; {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-off)], off); err != nil {
			return err
		}
		if off += int64(len(zeros)); (off-from)%zeroFlush == 0 {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

// spareSegments is how many prepared segments stand ready.
const spareSegments = 2

// retryPrepare is how soon room is looked for again on a full disk: the log
// must heal within 5 s.
const retryPrepare = 500 * time.Millisecond

// room is what a log has ready to write into beyond its live segment.
type room struct {
	mu      sync.Mutex
	volume  *volume       // whose segments the spares are
	last    uint64        // highest number given to a segment of it
	spares  []*segment    // by number
	reserve File          // zeroed; nil while it is used up or could not be made
	why     error         // why there is less than there should be
	wake    chan struct{} // the stock is needed
	ready   chan struct{} // the stock did something
}

const (
	reserveName = "reserve"
	sparePrefix = ".spare-"
)

// openingRoom is what the segment and state frames may take in a segment of
// this size, with as many open Intents as the room for their Outcomes allows:
// those of three segments, at 34 bytes each.
func openingRoom(size int64) int64 { return max(64<<10, size/128) }

func (r *room) state() (spares int, short bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spares), r.why != nil
}

func (r *room) poke() { poke(r.wake) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// await waits until the stock did something, at most until a full disk must
// refuse. It reports false at once if the disk is full or nothing is missing.
func (r *room) await() bool {
	r.mu.Lock()
	idle := r.why != nil || len(r.spares) >= spareSegments && r.reserve != nil
	r.mu.Unlock()
	if idle {
		return false
	}
	t := time.NewTimer(fullWithin)
	defer t.Stop()
	select {
	case <-r.ready:
		return true
	case <-t.C:
		return false
	}
}

// replenish prepares a spare segment or the reserve, whichever is missing. It
// reports whether it did something.
func (l *Log) replenish() (did bool, err error) {
	r := &l.room
	r.mu.Lock()
	v, lack, lackReserve := r.volume, len(r.spares) < spareSegments, r.reserve == nil
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.why = err
		r.mu.Unlock()
	}()
	switch {
	case lack:
		if err := l.affords(l.opt.SegmentSize); err != nil {
			return false, err
		}
		return true, l.addSpare(v)
	case lackReserve:
		if err := l.affords(l.opt.Reserve); err != nil {
			return false, err
		}
		f, err := prepare(l.opt.FS, l.path(reserveName), l.opt.Reserve)
		if err != nil {
			return false, err
		}
		r.mu.Lock()
		r.reserve = f
		r.mu.Unlock()
		return true, nil
	}
	return false, nil
}

// addSpare prepares a segment of v under a name of its own, then gives it the
// next number.
func (l *Log) addSpare(v *volume) error {
	r := &l.room
	path := filepath.Join(v.dir, sparePrefix+"next")
	f, err := prepare(l.opt.FS, path, l.opt.SegmentSize)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.volume != v { // the month turned meanwhile
		r.mu.Unlock()
		return errors.Join(f.Close(), l.opt.FS.Remove(path))
	}
	s := &segment{number: r.last + 1, size: l.opt.SegmentSize, file: f}
	s.path = filepath.Join(v.dir, segmentName(s.number))
	if err := l.opt.FS.Rename(path, s.path); err != nil {
		r.mu.Unlock()
		return errors.Join(err, f.Close())
	}
	r.last = s.number
	r.spares = append(r.spares, s)
	r.mu.Unlock()
	if err := l.opt.FS.SyncDir(v.dir); err != nil {
		return err
	}
	s.named.Store(true)
	return nil
}

// nextSegment makes another segment live, for a batch of need bytes. It
// returns errNoRoom if there is none; other errors are failures of the log.
func (l *Log) nextSegment(v *volume, where place, need int64) error {
	s, err := l.pick(v, where, need)
	if err != nil {
		return err
	}
	if !s.named.Load() {
		if err := l.opt.FS.SyncDir(v.dir); err != nil {
			return err
		}
	}
	return l.begin(v, s)
}

// pick takes the segment from where it stands ready.
func (l *Log) pick(v *volume, where place, need int64) (*segment, error) {
	r := &l.room
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.poke()
	switch where {
	case inSpare:
		s := r.spares[0]
		r.spares = r.spares[1:]
		return s, nil
	case inSpecial:
		return l.special(v, need+openingRoom(l.opt.SegmentSize))
	}
	s := &segment{number: r.last + 1, size: l.opt.Reserve, file: r.reserve, reserve: true}
	s.path = filepath.Join(v.dir, segmentName(s.number))
	if err := l.opt.FS.Rename(l.path(reserveName), s.path); err != nil {
		return nil, err
	}
	r.reserve, r.last = nil, s.number
	return s, nil
}

// special makes a segment for one batch that is larger than segments are,
// which only happens where they were configured small. It is on the path of
// that batch. The caller holds the room's mutex.
func (l *Log) special(v *volume, need int64) (*segment, error) {
	r := &l.room
	s := &segment{number: r.last + 1, size: proof.Padded(int(need))}
	if err := l.affords(s.size); err != nil {
		return nil, errNoRoom
	}
	tmp := filepath.Join(v.dir, sparePrefix+"special")
	f, err := prepare(l.opt.FS, tmp, s.size)
	if err != nil {
		l.log.Warn("preparing a large ledger segment", "err", err)
		return nil, errNoRoom
	}
	if len(r.spares) > 0 { // it takes the place of the spare that would be next
		s.number = r.spares[0].number
		if err := r.spares[0].file.Close(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		r.spares = r.spares[1:]
	} else {
		r.last = s.number
	}
	s.file, s.path = f, filepath.Join(v.dir, segmentName(s.number))
	return s, l.opt.FS.Rename(tmp, s.path)
}

// begin writes a segment's opening, flushes it and makes the segment live.
// The flush of its own keeps the opening out of the doubt about the first
// batch.
func (l *Log) begin(v *volume, s *segment) error {
	st := v.chain.State()
	about := proof.Segment{Size: s.size, Created: l.now(), Origin: v.origin, Key: v.signer.VerifierKey()}
	opening := proof.FinishFrame(about.AppendBody(make([]byte, proof.FrameHead)), proof.FrameSegment, s.number, st.Size, v.id)
	second := proof.FinishFrame(st.AppendBody(make([]byte, proof.FrameHead)), proof.FrameState, s.number, st.Size, v.id)
	all := append(append([]byte(nil), opening...), second...)
	if _, err := s.file.WriteAt(all, 0); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	v.chain.Framed(opening)
	v.chain.Framed(second)
	s.first, s.used, s.places = st.Size, int64(len(all)), []proof.Place{}
	v.mu.Lock()
	v.segs = append(v.segs, s)
	v.mu.Unlock()
	v.setLive(s)
	return nil
}

// affords refuses to take the disk's last room for ourselves: the control
// state lives there too.
func (l *Log) affords(size int64) error {
	s, err := l.opt.FS.Free(l.opt.Dir)
	if err != nil {
		return err
	}
	if s.Free < uint64(2*size) {
		return fmt.Errorf("disk nearly full: %d bytes free, want %d", s.Free, 2*size)
	}
	return nil
}

// stock keeps spares and reserve ready, off the append path.
func (l *Log) stock(ctx context.Context) {
	defer l.workers.Done()
	t := time.NewTicker(retryPrepare)
	defer t.Stop()
	short := false
	for ctx.Err() == nil {
		if err := l.current().retire(); err != nil {
			l.log.Warn("closing a ledger segment", "err", err)
		}
		did, err := l.replenish()
		l.updateRoom()
		poke(l.room.ready)
		if (err != nil) != short {
			short = err != nil
			l.log.Warn("ledger segments ahead", "short", short, "err", err)
		}
		if did && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.room.wake:
		case <-t.C:
		}
	}
}
