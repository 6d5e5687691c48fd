package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// head is a durable state of a log: a checkpoint, and its signature as soon as
// somebody needs it. Only what is durable becomes a head, so nothing
// inconsistent is ever signed; Ed25519 gives the same bytes whenever it is.
type head struct {
	proof.Checkpoint
	mu  sync.Mutex // guards sig
	sig []byte
}

// signature signs the checkpoint, once. That of the empty log is empty.
func (h *head) signature(s *proof.Signer) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sig != nil || h.Size == 0 {
		return h.sig, nil
	}
	sig, err := s.Sign(h.AppendText(nil))
	if err == nil {
		h.sig = sig
	}
	return sig, err
}

// volume is the log of one month, or of one key within it: one origin, one directory. Reading is safe
// for concurrent use; the committer alone writes.
type volume struct {
	origin string
	month  string
	dir    string
	id     ostiary.Digest
	fs     FS
	signer *proof.Signer // nil in a closed volume until it is revived

	reviving sync.Mutex // held while a closed volume gets its signer

	mu   sync.RWMutex
	segs []*segment // by number; the last is live

	remembered []*segment // whose places were found by reading, oldest first

	head      atomic.Pointer[head] // up to what is flushed
	tree      tree
	keys      keys
	published atomic.Uint64 // size of the published checkpoint
	anchored  atomic.Uint64 // size the control state holds
	verified  atomic.Bool   // older segments were verified
	left      atomic.Int64  // bytes the live segment still takes
	onReserve atomic.Bool   // the live segment is the reserve
	open      atomic.Int64  // Intents without Outcome
	traffic   atomic.Int64  // entries other than the ledger's own since the last heartbeat

	// Owned by the committer.
	chain  *proof.Chain
	writer uint64 // writer epoch
	live   *segment

	tiles published // owned by the publisher
}

// monthSyntax is what a log is called: its month, and a number if its key was
// changed within it.
var monthSyntax = regexp.MustCompile(`^[0-9]{4}-(0[1-9]|1[0-2])(\.(0[2-9]|[1-9][0-9]))?$`)

// lastOfMonth is how many logs a month may have: keys are changed by people.
const lastOfMonth = 99

// after returns the name of the log that follows within the same month.
func after(month string) (string, error) {
	month, number, _ := strings.Cut(month, ".")
	n := 1
	if number != "" {
		var err error
		if n, err = strconv.Atoi(number); err != nil {
			return "", err
		}
	}
	if n >= lastOfMonth {
		return "", ostiary.Errorf(ostiary.Exhausted, "ledger_rotations", "the log's key was changed %d times this month: no further change before the next", lastOfMonth-1)
	}
	return fmt.Sprintf("%s.%02d", month, n+1), nil
}

func newVolume(fsys FS, dir, origin string) *volume {
	v := &volume{origin: origin, month: proof.Month(origin), dir: dir, id: ostiary.DigestOf([]byte(origin)), fs: fsys}
	v.tree.tile = v.readTile
	v.head.Store(&head{Checkpoint: proof.Checkpoint{Origin: origin, Root: proof.EmptyRoot}})
	return v
}

func (v *volume) ref(index uint64) ostiary.EntryRef {
	return ostiary.EntryRef{Month: v.month, Index: index}
}

// list finds the volume's segment files, by number.
func (v *volume) list() ([]*segment, error) {
	names, err := v.fs.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, name := range names {
		if n := segmentNumber(name); n > 0 {
			segs = append(segs, &segment{number: n, path: filepath.Join(v.dir, name)})
		}
	}
	sort.Slice(segs, func(i, j int) bool { return segs[i].number < segs[j].number })
	return segs, nil
}

// with runs f on the segment's open file, or on one opened for the purpose.
func (v *volume) with(s *segment, f func(File, int64) error) error {
	v.mu.RLock()
	file, size := s.file, s.size
	if file != nil {
		s.readers.Add(1)
	}
	v.mu.RUnlock()
	if file != nil {
		defer s.readers.Done()
		return f(file, size)
	}
	file, err := v.fs.Open(s.path, true)
	if err != nil {
		return err
	}
	if size, err = file.Size(); err == nil {
		err = f(file, size)
	}
	return errors.Join(err, file.Close())
}

// segmentOf returns the segment that holds an index, and where its batches
// are. It believes their heads; who reads a batch checks it.
func (v *volume) segmentOf(index uint64) (*segment, []proof.Place, error) {
	v.mu.RLock()
	i := sort.Search(len(v.segs), func(i int) bool { return v.segs[i].first > index }) - 1
	if i < 0 {
		v.mu.RUnlock()
		return nil, nil, v.absent(index)
	}
	s, places := v.segs[i], v.segs[i].places
	v.mu.RUnlock()
	if places != nil {
		return s, places, nil
	}
	err := v.with(s, func(f File, size int64) error {
		w := window{r: f, end: size}
		_, _, off, err := proof.ReadOpening(&w, size, s.number)
		for err == nil {
			var fr *proof.Frame
			var n int64
			if fr, n, err = proof.ReadHead(&w, off, size); err == nil {
				at := proof.Place{First: fr.First, Offset: off, Length: proof.Padded(proof.FrameHead + int(n))}
				places = append(places, at)
				off += at.Length
			}
		}
		if errors.Is(err, proof.ErrZeros) {
			err = nil
		}
		return err
	})
	if errors.Is(err, proof.ErrNoFrame) {
		err = &proof.Fault{Log: v.origin, Segment: s.number, What: err.Error()}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading segment %d: %w", s.number, err)
	}
	v.remember(s, places)
	return s, places, nil
}

func (v *volume) absent(index uint64) error {
	return ostiary.Errorf(ostiary.NotFound, "no_entry", "there is no entry %s", v.ref(index))
}

// frameOf reads the batch frame that holds an index.
func (v *volume) frameOf(index uint64, buf *[]byte) (*proof.Frame, error) {
	if index >= v.head.Load().Size {
		return nil, v.absent(index)
	}
	s, places, err := v.segmentOf(index)
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(places), func(i int) bool { return places[i].First > index }) - 1
	if i < 0 {
		return nil, v.absent(index)
	}
	var fr *proof.Frame
	err = v.with(s, func(f File, size int64) error {
		fr, err = proof.ReadFrame(f, places[i].Offset, size, buf)
		return err
	})
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s cannot be read", v.ref(index)).Because(err)
	}
	return fr, nil
}

// record reads one stored entry. It is a copy.
func (v *volume) record(index uint64) (proof.Record, error) {
	var buf []byte
	fr, err := v.frameOf(index, &buf)
	if err != nil {
		return proof.Record{}, err
	}
	rec, ok := fr.Record(index)
	if !ok || proof.LeafHash(rec.Entry) != rec.Leaf {
		return proof.Record{}, ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s is damaged", v.ref(index))
	}
	return rec, nil
}

// each visits the records of [from, to) in order. Records are views that are
// valid until visit returns.
func (v *volume) each(from, to uint64, visit func(index uint64, r proof.Record) error) error {
	var buf []byte
	for again := false; from < to; {
		closed := false
		if from >= v.head.Load().Size {
			return v.absent(from)
		}
		s, places, err := v.segmentOf(from)
		if err != nil {
			return err
		}
		i := sort.Search(len(places), func(i int) bool { return places[i].First > from }) - 1
		if i < 0 {
			return v.absent(from)
		}
		start := from
		err = v.with(s, func(f File, size int64) error {
			w := window{r: f, end: size}
			for _, p := range places[i:] {
				if from >= to {
					break
				}
				fr, err := proof.ReadFrame(&w, p.Offset, size, &buf)
				if errors.Is(err, fs.ErrClosed) && !again { // its month ended: what is left is read from a file of our own
					again, closed = true, true
					return nil
				}
				if err != nil {
					return ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s cannot be read", v.ref(from)).Because(err)
				}
				if from, err = frameRecords(fr, from, to, visit); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if from == start && !closed {
			return ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s is damaged", v.ref(from))
		}
	}
	return nil
}

// frameRecords visits the records of one frame that are in [from, to) and
// returns the index after them.
func frameRecords(fr *proof.Frame, from, to uint64, visit func(index uint64, r proof.Record) error) (uint64, error) {
	for i, r := range fr.Records() {
		if i != from || i >= to {
			continue
		}
		if err := visit(i, r); err != nil {
			return from, err
		}
		from++
	}
	return from, nil
}

func (v *volume) tilesDir() string { return filepath.Join(v.dir, "tiles") }

// readTile reads a full published tile.
func (v *volume) readTile(level int, n uint64) ([]tlog.Hash, error) {
	b, err := readFile(v.fs, filepath.Join(v.tilesDir(), filepath.FromSlash(proof.TilePath(level, n, proof.TileWidth))), proof.TileWidth*tlog.HashSize)
	if err != nil {
		return nil, err
	}
	if len(b) != proof.TileWidth*tlog.HashSize {
		return nil, fmt.Errorf("tile %d of level %d has %d bytes", n, level, len(b))
	}
	h := make([]tlog.Hash, proof.TileWidth)
	for i := range h {
		copy(h[i][:], b[i*tlog.HashSize:])
	}
	return h, nil
}

// setLive is for the committer.
func (v *volume) setLive(s *segment) {
	v.live = s
	v.measure()
}

// measure publishes how far the live segment is filled.
func (v *volume) measure() {
	v.left.Store(v.live.left())
	v.onReserve.Store(v.live.reserve)
	v.open.Store(int64(len(v.chain.Open)))
}

// close lets go of the volume's files.
func (v *volume) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	for _, s := range v.segs {
		if s.file != nil {
			err = errors.Join(err, s.file.Close())
			s.file = nil
		}
	}
	return err
}
