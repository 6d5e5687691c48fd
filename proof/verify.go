package proof

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// Options are what a verifier knows from elsewhere. All may be empty; the
// report says what could not be shown then.
type Options struct {
	// Keys are verifier keys in signed-note form, by origin. A log whose key
	// is not here is checked against the key it states itself, which shows
	// only that the copy agrees with itself.
	Keys map[string]string
	// Held are signed checkpoints kept elsewhere. The logs must extend them.
	Held [][]byte
	// Logs are all origins there must be. Those that a deployment log in the
	// directory names are added.
	Logs []string
	// Visit, if set, is called for each verified entry, in order.
	Visit func(origin string, index uint64, e *Entry) error
}

// Report is what verification showed.
type Report struct {
	Logs    []LogReport
	Entries uint64
	Votes   uint64 // people's votes, each with a signature that verified
	// Complete says that every log named by Options.Logs, a deployment log
	// or a predecessor is there, and that at least one list of logs was
	// known.
	Complete bool
	// Notes are what could not be shown, for people.
	Notes []string
}

// LogReport is what verification showed of one log.
type LogReport struct {
	Dir      string
	Origin   string
	Key      string
	KeyKnown bool // the key was given, not taken from the directory
	Size     uint64
	Root     ostiary.Digest
	Segments int
	Closed   bool   // its last entry names its successor
	Signed   uint64 // up to here a verified checkpoint signature covers it
	Open     int    // Intents without Outcome
	Torn     int64  // bytes of a write at the end that never completed, 0 if none
	Tail     string // what the torn bytes look like, "" if there are none
	First    time.Time
	Last     time.Time
}

// maxDirs bounds how many directories are looked into: a deployment of a
// hundred gateways keeps eight years of months.
const maxDirs = 10000

// VerifyDir verifies a copied log directory offline: one log, the months of a
// gateway, or several gateways side by side. The error is nil only if every
// log verified; it is a *Fault that names the entry at fault, or why the copy
// could not be read. The report holds what was verified up to there.
func VerifyDir(dir string, o Options) (Report, error) {
	if i, err := os.Stat(dir); err != nil || !i.IsDir() {
		return Report{}, ostiary.Errorf(ostiary.Malformed, "log_dir", "%s is no directory", dir).Because(err)
	}
	return VerifyFS(os.DirFS(dir), o)
}

// VerifyFS is VerifyDir on any file system whose files are io.ReaderAt.
func VerifyFS(fsys fs.FS, o Options) (Report, error) {
	v := &verifier{fsys: fsys, o: o, chains: map[string]*Chain{}, named: map[string]string{}, anchors: map[string][]anchorFact{}}
	err := v.run()
	return v.report, err
}

type anchorFact struct {
	at  ostiary.EntryRef
	log string // the deployment log
	Checkpoint
}

// verifier is one run.
type verifier struct {
	fsys    fs.FS
	o       Options
	report  Report
	chains  map[string]*Chain // verified, by origin
	named   map[string]string // logs that must be there, with their keys as far as known
	list    bool              // a list of logs was known
	anchors map[string][]anchorFact
}

// logDir is a directory that holds segments.
type logDir struct {
	dir      string
	origin   string
	key      string
	segments []uint64
}

func (v *verifier) run() error {
	dirs, err := v.find()
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		return ostiary.Errorf(ostiary.NotFound, "no_log", "there are no log segments in the directory")
	}
	for _, origin := range v.o.Logs {
		v.named[origin] = ""
		v.list = true
	}
	// Deployment logs first: they say which logs there must be, under which
	// keys and with which heads.
	slices.SortStableFunc(dirs, func(a, b logDir) int {
		ga, gb := !ofDeployment(a.origin), !ofDeployment(b.origin)
		switch {
		case ga != gb && gb:
			return -1
		case ga != gb:
			return 1
		}
		return strings.Compare(a.origin, b.origin)
	})
	for _, signed := range v.o.Held {
		if c, err := PeekCheckpoint(signed); err != nil {
			return err
		} else if !slices.ContainsFunc(dirs, func(d logDir) bool { return d.origin == c.Origin }) {
			return &Fault{Log: c.Origin, What: fmt.Sprintf("is missing: a checkpoint over %d entries of it is held elsewhere", c.Size)}
		}
	}
	for _, d := range dirs {
		if err := v.log(d); err != nil {
			return err
		}
	}
	return v.complete()
}

// DeploymentLog is the gateway name of the deployment's own log. Where
// several processes administer a deployment each has its own, as each log has
// one writer: the name, a dot, and the name of the process's gateway.
const DeploymentLog = "deployment"

// ofDeployment tells logs of control changes from those of gateways, whose
// names have no dot.
func ofDeployment(origin string) bool {
	name, _, _ := strings.Cut(gateway(origin), ".")
	return name == DeploymentLog
}

// gateway is the second part of an origin.
func gateway(origin string) string {
	parts := strings.Split(origin, "/")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

// find looks for directories that hold segments.
func (v *verifier) find() ([]logDir, error) {
	var dirs []logDir
	seen := 0
	err := fs.WalkDir(v.fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if seen++; seen > maxDirs {
			return ostiary.Errorf(ostiary.Malformed, "log_dir", "more than %d directories", maxDirs)
		}
		if d.Name() == "tiles" || strings.Count(p, "/") > 6 {
			return fs.SkipDir
		}
		l := logDir{dir: p}
		names, err := fs.ReadDir(v.fsys, p)
		if err != nil {
			return err
		}
		for _, n := range names {
			if num, ok := strings.CutSuffix(n.Name(), ".seg"); ok && len(num) >= 8 {
				if k, err := strconv.ParseUint(num, 10, 63); err == nil && k > 0 {
					l.segments = append(l.segments, k)
				}
			}
		}
		if len(l.segments) == 0 {
			return nil
		}
		slices.Sort(l.segments)
		begun, err := v.peek(&l)
		if begun {
			dirs = append(dirs, l)
		}
		return err
	})
	return dirs, err
}

// peek reads a log's name and key from its first segment that can be read. A
// directory in which nothing was ever written does not count.
func (v *verifier) peek(l *logDir) (begun bool, err error) {
	for _, n := range l.segments {
		err := v.open(l.dir, n, func(r io.ReaderAt, size int64) error {
			var buf []byte
			f, err := ReadFrame(r, 0, size, &buf)
			switch {
			case errors.Is(err, ErrZeros):
				return ErrSpare
			case errors.Is(err, ErrNoFrame) || errors.Is(err, ErrDamaged):
				return &Fault{}
			case err != nil:
				return err
			}
			seg, ok := parseSegment(f.Body)
			if !ok || f.Type != FrameSegment {
				return &Fault{}
			}
			l.origin, l.key = seg.Origin, seg.Key
			return nil
		})
		if err == nil {
			return true, nil
		}
		if fault := (*Fault)(nil); errors.As(err, &fault) {
			begun = true
			continue
		}
		if !errors.Is(err, ErrSpare) {
			return false, err
		}
	}
	if begun {
		return true, &Fault{Log: l.dir, Segment: l.segments[0], What: "no segment in this directory opens with what a segment opens with"}
	}
	return false, nil
}

func segmentFile(dir string, n uint64) string { return path.Join(dir, fmt.Sprintf("%08d.seg", n)) }

func (v *verifier) open(dir string, n uint64, f func(io.ReaderAt, int64) error) error {
	file, err := v.fsys.Open(segmentFile(dir, n))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("%s: the file system cannot read at an offset", segmentFile(dir, n))
	}
	return f(r, info.Size())
}

// log verifies one log from its first entry to its last.
func (v *verifier) log(d logDir) error {
	rep := LogReport{Dir: d.dir, Origin: d.origin, Key: d.key}
	defer func() { v.report.Logs = append(v.report.Logs, rep) }()
	if v.chains[d.origin] != nil {
		return &Fault{Log: d.origin, What: "is there twice"}
	}
	rep.KeyKnown = v.o.Keys[d.origin] != ""
	for _, known := range [...]string{v.o.Keys[d.origin], v.named[d.origin]} {
		if known != "" && known != d.key {
			return &Fault{Log: d.origin, What: "states another key than the one it is known under"}
		}
	}
	name, pub, err := ParseVerifierKey(d.key)
	if err != nil || name != d.origin {
		return &Fault{Log: d.origin, What: "states a key that is none, or another log's"}
	}
	c := NewChain(d.origin, pub)
	var sigs signatures
	sigs.start(c)
	want, err := v.known(d, c)
	if err == nil {
		err = v.segments(d, c, &rep, want)
	}
	if serr := sigs.wait(); serr != nil && (err == nil || earlier(serr, err)) {
		err = serr
	}
	rep.Size, rep.Root, rep.Open, rep.Closed, rep.Last = c.Edge.Size(), ostiary.Digest(c.Edge.Root()), len(c.Open), c.Closed != nil, c.LastTime
	v.report.Entries += rep.Size
	if err != nil {
		return err
	}
	rep.Signed = sigs.covered
	for _, w := range want {
		if w.signed {
			rep.Signed = max(rep.Signed, w.Size)
		}
	}
	v.chains[d.origin] = c
	return nil
}

// earlier reports whether fault a is at an earlier entry than b.
func earlier(a, b error) bool {
	var fa, fb *Fault
	if !errors.As(a, &fa) {
		return false
	}
	return !errors.As(b, &fb) || fb.Ref.IsZero() || fa.Ref.Index < fb.Ref.Index
}

// expectation is a checkpoint the log must pass through.
type expectation struct {
	Checkpoint
	whose     string
	signed    bool
	published bool // it stands beside the tiles of this copy
}

const publishedName = "its published checkpoint"

// known collects the checkpoints a log must extend, by size.
func (v *verifier) known(d logDir, c *Chain) ([]expectation, error) {
	var want []expectation
	add := func(signed []byte, whose string) error {
		cp, err := OpenCheckpoint(signed, d.key)
		if err != nil {
			return &Fault{Log: d.origin, What: whose + ": " + ostiary.AsError(err).Detail}
		}
		if cp.Origin != d.origin {
			return &Fault{Log: d.origin, What: whose + " is of log " + cp.Origin}
		}
		want = append(want, expectation{cp, whose, true, whose == publishedName})
		return nil
	}
	b, err := readSmall(v.fsys, path.Join(d.dir, "tiles", "checkpoint"))
	if err == nil {
		err = add(b, publishedName)
	} else if errors.Is(err, fs.ErrNotExist) {
		v.note("log %s has no published checkpoint: its newest entries could have been cut off", d.origin)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	for _, h := range v.o.Held {
		if cp, err := PeekCheckpoint(h); err == nil && cp.Origin == d.origin {
			if err := add(h, "a checkpoint held elsewhere"); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range v.anchors[d.origin] {
		want = append(want, expectation{a.Checkpoint, "the anchor in entry " + a.at.String() + " of log " + a.log, false, false})
	}
	slices.SortStableFunc(want, func(a, b expectation) int {
		switch {
		case a.Size < b.Size:
			return -1
		case a.Size > b.Size:
			return 1
		}
		return 0
	})
	return want, nil
}

func readSmall(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxNote+1))
}

func (v *verifier) note(format string, args ...any) {
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
}

// segments goes through a log's files in order.
func (v *verifier) segments(d logDir, c *Chain, rep *LogReport, want []expectation) error {
	met := 0
	meet := func() error {
		for met < len(want) && want[met].Size <= c.Edge.Size() {
			w := want[met]
			if w.Size == c.Edge.Size() && w.Root != c.Edge.Root() {
				return &Fault{Log: d.origin, Ref: c.Ref(max(w.Size, 1) - 1), What: fmt.Sprintf("with it the log's root is not the one that %s states", w.whose)}
			}
			met++
		}
		return nil
	}
	tiles := tileCheck{fsys: v.fsys, dir: d.dir, log: d.origin}
	for _, w := range want {
		if w.published {
			tiles.size = w.Size
		}
	}
	visit := func(index uint64, e *Entry, r Record) error {
		if tiles.entry(index, r.Entry); tiles.fault != nil {
			return tiles.fault
		}
		if rep.First.IsZero() {
			rep.First = e.Time
		}
		if err := meet(); err != nil {
			return err
		}
		if err := v.learn(c, index, e); err != nil {
			return err
		}
		if v.o.Visit != nil {
			return v.o.Visit(d.origin, index, e)
		}
		return nil
	}
	if err := meet(); err != nil { // checkpoints over the empty log
		return err
	}
	if err := v.inherit(d, c, rep); err != nil {
		return err
	}
	spare := false
	var suspect *Fault
	for i, n := range d.segments {
		if n != uint64(i)+1 && !(i > 0 && v.lastBegun(d, i-1)) { // spares may be left with a gap
			return &Fault{Log: d.origin, Ref: c.Ref(c.Edge.Size()), Segment: uint64(i) + 1, What: fmt.Sprintf("missing: segment %d is not there", i+1)}
		}
		last := v.lastBegun(d, i)
		err := v.open(d.dir, n, func(r io.ReaderAt, size int64) error {
			s, err := ScanSegment(r, size, c, ScanOptions{Number: n, Last: last, Visit: visit, Whole: tiles.whole})
			if s != nil && s.Tail == TailTorn {
				rep.Torn, rep.Tail, suspect = s.Torn[1]-s.Torn[0], s.Suspect.Error(), s.Suspect
			}
			if fault := (*Fault)(nil); errors.As(err, &fault) && s.Used == 0 && last && i > 0 {
				if any, herr := HasBatch(r, size, c.ID, n); herr == nil && !any {
					rep.Torn, rep.Tail, suspect = size, "the opening of a segment that was never used: "+fault.What, fault
					return nil
				}
			}
			return err
		})
		switch {
		case errors.Is(err, ErrSpare):
			spare = true
		case err != nil:
			return nameFault(err, c)
		case spare:
			return &Fault{Log: d.origin, Ref: c.Ref(c.Edge.Size()), Segment: n - 1, What: "missing: a segment before the last holds nothing"}
		default:
			rep.Segments++
		}
	}
	if met < len(want) {
		w := want[len(want)-1]
		if suspect != nil {
			suspect.What += fmt.Sprintf("; %s covers %d entries, so it was acknowledged", w.whose, w.Size)
			return nameFault(suspect, c)
		}
		return &Fault{Log: d.origin, Ref: c.Ref(c.Edge.Size()), What: fmt.Sprintf("missing: the log ends before it, but %s covers %d entries", w.whose, w.Size)}
	}
	return nil
}

// nameFault gives a fault that is at no entry the next one in line: that is
// the first that cannot be trusted.
func nameFault(err error, c *Chain) error {
	if f := (*Fault)(nil); errors.As(err, &f) && f.Ref.IsZero() {
		named := *f
		named.Ref = c.Ref(c.Edge.Size())
		named.What = fmt.Sprintf("cannot be reached: segment %d, byte %d: %s", f.Segment, f.Offset, f.What)
		return &named
	}
	return err
}

// lastBegun reports whether only spares follow the i-th segment.
func (v *verifier) lastBegun(d logDir, i int) bool {
	for _, n := range d.segments[i+1:] {
		err := v.open(d.dir, n, func(r io.ReaderAt, size int64) error {
			var head [FrameHead]byte
			if size < FrameHead {
				return nil
			}
			if _, err := r.ReadAt(head[:], 0); err != nil {
				return err
			}
			if head == [FrameHead]byte{} {
				return ErrSpare
			}
			return nil
		})
		if !errors.Is(err, ErrSpare) {
			return false
		}
	}
	return true
}

// inherit starts the chain of a log that follows a closed one.
func (v *verifier) inherit(d logDir, c *Chain, rep *LogReport) error {
	var prev *Chain
	for _, p := range v.chains {
		if p.Closed != nil && p.Closed.Fact("successor") == d.origin {
			prev = p
		}
	}
	if prev != nil {
		if prev.Closed.Fact("successor_key") != d.key {
			return &Fault{Log: d.origin, What: "has another key than its predecessor named"}
		}
		c.Inherit(prev)
		rep.KeyKnown = rep.KeyKnown || v.handedOver(prev)
		return nil
	}
	// Its predecessor, if any, is not here: what it carried over is believed.
	return v.open(d.dir, d.segments[0], func(r io.ReaderAt, size int64) error {
		_, st, _, err := ReadOpening(r, size, d.segments[0])
		if err != nil || st.Size != 0 || len(st.Edge) != 0 {
			return nil // scanning says what is wrong
		}
		c.LastTime, c.Epoch, c.Revision = st.LastTime, st.Epoch, st.Revision
		for _, o := range st.Open {
			c.Open[o.ID] = o
		}
		return nil
	})
}

// handedOver reports whether the end of a closed log, which names the next one
// and its key, is signed by a key that is known.
func (v *verifier) handedOver(prev *Chain) bool {
	return slices.ContainsFunc(v.report.Logs, func(r LogReport) bool {
		return r.Origin == prev.Origin && r.KeyKnown && r.Signed == r.Size
	})
}

// learn takes from an entry what it says about other logs, and checks what it
// says about the log before.
func (v *verifier) learn(c *Chain, index uint64, e *Entry) error {
	switch e.Kind {
	case ostiary.KindClose:
		if s := e.Fact("successor"); s != "" && v.named[s] == "" {
			v.named[s] = e.Fact("successor_key")
		}
	case ostiary.KindOpen:
		return v.predecessor(c, index, e)
	case ostiary.KindChange:
		if e.Fact(VoteFact) != "" {
			if err := checkVote(e); err != nil {
				return &Fault{Log: c.Origin, Ref: c.Ref(index), What: "a vote that does not verify: " + ostiary.AsError(err).Detail}
			}
			v.report.Votes++
		}
		if o := e.Fact("log_origin"); o != "" && ofDeployment(c.Origin) {
			v.named[o], v.list = e.Fact("log_key"), true
		}
	case ostiary.KindAnchor:
		if !ofDeployment(c.Origin) {
			return nil
		}
		for _, f := range e.Facts {
			size, root, _ := strings.Cut(f.Value, " ")
			n, err := strconv.ParseUint(size, 10, 62)
			h, herr := tlog.ParseHash(root)
			if err != nil || herr != nil {
				return &Fault{Log: c.Origin, Ref: c.Ref(index), What: "an anchor that cannot be read"}
			}
			v.expect(anchorFact{c.Ref(index), c.Origin, Checkpoint{f.Name, n, h}})
		}
	}
	return nil
}

// predecessor checks what a log's first entry says about the log before it.
func (v *verifier) predecessor(c *Chain, index uint64, e *Entry) error {
	p := e.Fact("predecessor")
	if p == "" {
		return nil
	}
	prev := v.chains[p]
	if prev == nil {
		v.named[p] += ""
		return nil
	}
	if e.Fact("predecessor_size") != strconv.FormatUint(prev.Edge.Size(), 10) || e.Fact("predecessor_root") != prev.Edge.Root().String() {
		return &Fault{Log: c.Origin, Ref: c.Ref(index), What: fmt.Sprintf("it states %s entries for log %s, which has %d, or another root", e.Fact("predecessor_size"), p, prev.Edge.Size())}
	}
	return nil
}

// maxAnchors bounds how many anchors of one log are kept to compare; each
// second of a month has one. Of more, the newest are.
const maxAnchors = 3 << 20

func (v *verifier) expect(a anchorFact) {
	l := v.anchors[a.Origin]
	if len(l) >= maxAnchors {
		l = slices.Delete(l, 0, maxAnchors/2)
	}
	v.anchors[a.Origin] = append(l, a)
}

// complete checks that all logs are there that others name, and what a log
// said of its predecessor.
func (v *verifier) complete() error {
	var missing []string
	for origin := range v.named {
		if v.chains[origin] == nil {
			missing = append(missing, origin)
		}
	}
	slices.Sort(missing)
	for _, origin := range missing {
		if len(v.anchors[origin]) > 0 || slices.Contains(v.o.Logs, origin) {
			return &Fault{Log: origin, What: "is missing: it is on the list of logs"}
		}
		v.note("log %s is named and not in this copy", origin)
	}
	if !v.list {
		v.note("no list of logs was given or found: that no log is missing cannot be shown")
	}
	if slices.ContainsFunc(v.report.Logs, func(l LogReport) bool { return !l.KeyKnown }) {
		v.note("keys were taken from the copy itself: give keys held elsewhere to show who signed")
	}
	if len(v.o.Held) == 0 {
		v.note("no checkpoint held elsewhere was given: a copy that was rolled back as a whole cannot be told")
	}
	v.report.Complete = v.list && len(missing) == 0
	return nil
}

// signatures verifies checkpoint signatures beside the scan: they are most
// of the work of a log whose batches are small.
type signatures struct {
	work    chan signature
	wg      sync.WaitGroup
	mu      sync.Mutex
	fault   *Fault
	covered uint64
}

type signature struct {
	c   Checkpoint
	sig [ed25519.SignatureSize]byte
}

func (s *signatures) start(c *Chain) {
	s.work = make(chan signature, 256)
	key := c.Key
	for range runtime.GOMAXPROCS(0) {
		s.wg.Go(func() {
			for w := range s.work {
				if !ed25519.Verify(key, w.c.AppendText(nil), w.sig[:]) {
					s.failed(w.c)
				}
			}
		})
	}
	c.CheckSignature = func(cp Checkpoint, sig []byte) error {
		s.covered = cp.Size
		s.work <- signature{cp, [ed25519.SignatureSize]byte(sig)}
		return nil
	}
}

func (s *signatures) failed(c Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ref := (ostiary.EntryRef{Month: Month(c.Origin), Index: c.Size - 1}); s.fault == nil || ref.Index < s.fault.Ref.Index {
		s.fault = &Fault{Log: c.Origin, Ref: ref, What: "the signature of the checkpoint over it does not verify"}
	}
}

func (s *signatures) wait() error {
	close(s.work)
	s.wg.Wait()
	if s.fault != nil {
		return s.fault
	}
	return nil
}
