package ledger

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Revisions is what a [Control] may also offer: the newest control state, for
// heartbeats. A control state older than one already recorded is refused.
type Revisions interface {
	Revision(ctx context.Context) (epoch, revision uint64, err error)
}

// found is what recovery found, for the Open entry.
type found struct {
	size    uint64
	root    tlog.Hash
	orderly bool
	trimmed int64
	pred    *volume // the closed log before a new one
}

// Open opens the log in o.Dir for writing, recovering what is there. It is
// refused while another process holds the directory, when what is there is
// damaged or was rolled back (kind Corrupt), and when the control state cannot
// be asked.
func Open(ctx context.Context, o Options) (_ *Log, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	l := &Log{opt: o, signer: o.Signer, log: o.Logger.With("log", o.Deployment+"/"+o.Gateway), failed: make(chan struct{})}
	l.queue.init(l.opt.whole().holds())
	l.grew.init()
	l.room.wake, l.room.ready = make(chan struct{}, 1), make(chan struct{}, 1)
	l.frames.collect = l.frames.add
	defer func() {
		if err != nil {
			err = errors.Join(err, l.letGo())
		}
	}()
	// 1. Lock.
	if err := l.lockDir(); err != nil {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	// The end of those before the last may not be published or anchored yet.
	l.finished = len(l.volumes) - 1
	for l.finished > 0 {
		prev := l.volumes[l.finished-1]
		known, _, err := o.Control.Head(ctx, prev.origin)
		if err != nil {
			return nil, err
		}
		if err := l.revive(prev); err != nil {
			return nil, err
		}
		prev.anchored.Store(known)
		l.finished--
		if size := prev.head.Load().Size; prev.published.Load() == size && known == size {
			break
		}
	}
	v := l.volumes[len(l.volumes)-1]
	f, err := l.recover(ctx, v)
	if err != nil {
		return nil, err
	}
	if n := len(l.volumes); f.size == 0 && n > 1 {
		f.pred = l.volumes[n-2]
	}
	if v.chain.Closed != nil { // its month is over: go on in the next log
		if v, f, err = l.succeed(ctx, v); err != nil {
			return nil, err
		}
	}
	if err := l.admitCalls(ctx, v, f); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) lockDir() error {
	if err := l.opt.FS.MkdirAll(l.opt.Dir); err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "ledger_dir", "the ledger's directory cannot be made").Because(err)
	}
	lock, err := l.opt.FS.Lock(l.path("LOCK"))
	if h := (*Held)(nil); errors.As(err, &h) {
		return ostiary.Errorf(ostiary.Conflict, "ledger_locked", "the ledger is open in process %d", h.PID).Because(err)
	}
	if err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "ledger_lock", "the ledger cannot be locked").Because(err)
	}
	l.lock = lock
	return nil
}

// load finds the months there are. A month whose first segment was never
// begun does not count.
func (l *Log) load() error {
	names, err := l.opt.FS.ReadDir(l.opt.Dir)
	if err != nil {
		return err
	}
	for _, month := range names {
		if !monthSyntax.MatchString(month) {
			continue
		}
		v := l.volume(month)
		segs, err := v.list()
		if err != nil {
			return err
		}
		begun, err := v.anyBegun(segs)
		if err != nil {
			return err
		}
		if begun {
			l.volumes = append(l.volumes, v)
		}
	}
	if len(l.volumes) == 0 {
		l.volumes = append(l.volumes, l.volume(l.opt.Clock().UTC().Format("2006-01")))
	}
	for _, v := range l.volumes[:len(l.volumes)-1] {
		if err := v.openClosed(); err != nil {
			return err
		}
		if v.chain.Closed == nil {
			return &proof.Fault{Log: v.origin, What: "is not closed, although a later log follows"}
		}
	}
	return nil
}

func (l *Log) volume(month string) *volume {
	origin := l.opt.Deployment + "/" + l.opt.Gateway + "/" + month
	return newVolume(l.opt.FS, l.path(month), origin)
}

// anyBegun reports whether any segment was ever written to.
func (v *volume) anyBegun(segs []*segment) (bool, error) {
	for _, s := range segs {
		err := v.with(s, func(f File, size int64) error {
			_, _, _, err := proof.ReadOpening(f, size, s.number)
			if fault := (*proof.Fault)(nil); errors.As(err, &fault) {
				// Damage, or an opening that was torn while it was written.
				if any, herr := proof.HasBatch(f, size, v.id, s.number); herr != nil || !any {
					return errors.Join(herr, proof.ErrSpare)
				}
				return nil
			}
			return err
		})
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, proof.ErrSpare) {
			return false, err
		}
	}
	return false, nil
}

// openClosed opens the volume of a month that is over, to read.
func (v *volume) openClosed() error {
	segs, err := v.list()
	if err != nil {
		return err
	}
	for _, s := range segs {
		if err := v.addOld(s); errors.Is(err, proof.ErrSpare) {
			break
		} else if err != nil {
			return err
		}
	}
	if len(v.segs) == 0 {
		return &proof.Fault{Log: v.origin, What: "has no segment"}
	}
	last := v.segs[len(v.segs)-1]
	c := proof.NewChain(v.origin, nil)
	err = v.with(last, func(f File, size int64) error {
		_, err := proof.ScanSegment(f, size, c, proof.ScanOptions{Number: last.number, Resume: true, Last: true})
		return err
	})
	if err != nil {
		return err
	}
	v.head.Store(&head{Checkpoint: c.Checkpoint()})
	v.chain = c
	return nil
}

// revive makes a closed volume able to prove and to publish, once.
func (l *Log) revive(v *volume) error {
	v.reviving.Lock()
	defer v.reviving.Unlock()
	if v.signer != nil {
		return nil
	}
	signer, err := l.signerOf(v)
	if err != nil {
		return err
	}
	h := &head{Checkpoint: v.chain.Checkpoint()}
	if _, err := h.signature(signer); err != nil {
		return err
	}
	v.signer = signer
	published, err := v.publishedCheckpoint()
	if err == nil {
		err = v.loadTree(published.Size)
	}
	if err != nil {
		v.signer = nil
		return err
	}
	v.published.Store(published.Size)
	v.head.Store(h)
	return nil
}

// signerOf returns the signer of the key a volume was begun with; of one that
// was never begun, that of the log that is begun next.
func (l *Log) signerOf(v *volume) (*proof.Signer, error) {
	segs, err := v.list()
	if err != nil {
		return nil, err
	}
	for _, s := range segs {
		key := ""
		err := v.with(s, func(f File, size int64) error {
			about, _, _, err := proof.ReadOpening(f, size, s.number)
			key = about.Key
			return err
		})
		if err == nil {
			return l.named(v.origin, key)
		}
	}
	return proof.NewSigner(v.origin, l.opt.Signer) // scanning says what is wrong with it, if anything is
}

// announced gives a log that was never begun the key it was announced under:
// the one that is begun next may have another one by now.
func (l *Log) announced(ctx context.Context, v *volume) error {
	_, err := l.opt.Control.OpenLog(ctx, v.origin, v.signer.VerifierKey())
	for _, k := range l.opt.Older {
		if err == nil || ostiary.AsError(err).Code != "log_key" {
			break
		}
		if v.signer, err = proof.NewSigner(v.origin, k); err != nil {
			return err
		}
		v.chain = proof.NewChain(v.origin, v.chainKey())
		_, err = l.opt.Control.OpenLog(ctx, v.origin, v.signer.VerifierKey())
	}
	return err
}

// named returns the signer of the verifier key. A key that is not at hand is
// Conflict: the log was written with another one.
func (l *Log) named(origin, key string) (*proof.Signer, error) {
	for _, k := range append([]crypto.Signer{l.opt.Signer}, l.opt.Older...) {
		if s, err := proof.NewSigner(origin, k); err != nil || s.VerifierKey() == key {
			return s, err
		}
	}
	return nil, ostiary.Errorf(ostiary.Conflict, "ledger_key", "log %s was written with another key", origin)
}

// addOld adds a segment that is not written to any more.
func (v *volume) addOld(s *segment) error {
	return v.with(s, func(f File, size int64) error {
		about, st, _, err := proof.ReadOpening(f, size, s.number)
		if err != nil {
			return err
		}
		if about.Origin != v.origin {
			return &proof.Fault{Log: v.origin, Segment: s.number, What: "it belongs to log " + about.Origin}
		}
		s.first, s.size = st.Size, size
		v.segs = append(v.segs, s)
		return nil
	})
}

// recover brings one volume from its files to where the committer can go on.
func (l *Log) recover(ctx context.Context, v *volume) (found, error) {
	var err error
	if v.signer, err = l.signerOf(v); err != nil {
		return found{}, err
	}
	v.chain = proof.NewChain(v.origin, v.chainKey())
	segs, err := v.list()
	if err != nil {
		return found{}, err
	}
	// 2. Scan the live segment. 3. Look at its tail.
	scan, spares, f, err := l.scanLive(v, segs)
	if err != nil {
		return f, err
	}
	if scan == nil {
		if err := l.announced(ctx, v); err != nil {
			return f, err
		}
	}
	// 4. Compare with the anchor and what was published.
	if err := l.compare(ctx, v, scan); err != nil {
		return f, err
	}
	// 5. Fence out older writers.
	if err := l.fence(ctx, v); err != nil {
		return f, err
	}
	// 6. Make sure of the last batch.
	if err := l.clearSpares(v, spares); err != nil {
		return f, err
	}
	if scan == nil {
		return f, l.first(v)
	}
	return f, l.makeSure(v, scan)
}

// scanLive reads the newest segment that was written to. Later ones are
// spares, or one whose opening was torn: they are prepared again.
func (l *Log) scanLive(v *volume, segs []*segment) (*proof.Scan, []*segment, found, error) {
	var f found
	var spares []*segment
	for i, s := range slices.Backward(segs) {
		var scan *proof.Scan
		err := v.with(s, func(file File, size int64) error {
			s.size = size
			var err error
			orderly := false
			scan, err = proof.ScanSegment(file, size, v.chain, proof.ScanOptions{
				Number: s.number, Resume: true, Last: true,
				Visit: func(_ uint64, e *proof.Entry, _ proof.Record) error {
					orderly = e.Kind == ostiary.KindHeartbeat && e.Fact("stop") != ""
					return nil
				},
				Whole: nil,
			})
			f.orderly = orderly
			if fault := (*proof.Fault)(nil); errors.As(err, &fault) && scan.Used == 0 {
				if any, herr := proof.HasBatch(file, size, v.id, s.number); herr == nil && !any {
					return proof.ErrSpare
				}
			}
			return err
		})
		if errors.Is(err, proof.ErrSpare) {
			spares = append(spares, s)
			v.chain = proof.NewChain(v.origin, v.chain.Key)
			continue
		}
		if err != nil {
			return nil, nil, f, err
		}
		for _, old := range segs[:i] {
			if err := v.addOld(old); err != nil {
				return nil, nil, f, err
			}
		}
		if scan.Segment.Key != v.signer.VerifierKey() {
			return nil, nil, f, ostiary.Errorf(ostiary.Conflict, "ledger_key", "log %s was written with another key", v.origin)
		}
		f.size, f.root = v.chain.Edge.Size(), v.chain.Edge.Root()
		if scan.Tail == proof.TailTorn {
			f.trimmed, f.orderly = scan.Torn[1]-scan.Torn[0], false
		}
		s.first, s.used, s.places = scan.First, scan.Used, append([]proof.Place{}, scan.Batches...)
		v.segs = append(v.segs, s)
		return scan, spares, f, nil
	}
	f.root = proof.EmptyRoot
	return nil, spares, f, nil
}

// compare refuses a log that does not extend what others know of it.
func (l *Log) compare(ctx context.Context, v *volume, scan *proof.Scan) error {
	size, root, err := l.opt.Control.Head(ctx, v.origin)
	if err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "control", "the control state cannot say what it knows of log %s", v.origin).Because(err)
	}
	mine := v.chain.Edge.Size()
	behind := func(whose string, size uint64) error {
		what := fmt.Sprintf("%s knows %d entries of it, here are %d: it was rolled back or lost entries", whose, size, mine)
		if scan != nil && scan.Suspect != nil {
			what += " (" + scan.Suspect.Error() + ")"
		}
		return &proof.Fault{Log: v.origin, What: what}
	}
	if size > mine {
		return behind("the control state", size)
	}
	published, err := v.publishedCheckpoint()
	if err != nil {
		return err
	}
	if published.Size > mine {
		return behind("its own published checkpoint", published.Size)
	}
	v.published.Store(published.Size)
	v.anchored.Store(size)
	v.head.Store(&head{Checkpoint: v.chain.Checkpoint()})
	if err := v.loadTree(published.Size); err != nil {
		return err
	}
	for _, c := range []proof.Checkpoint{{Size: size, Root: tlog.Hash(root)}, published} {
		if c.Size == 0 {
			continue
		}
		have, err := v.tree.rootAt(c.Size)
		if err != nil {
			return err
		}
		if have != c.Root {
			return &proof.Fault{Log: v.origin, What: fmt.Sprintf("at %d entries its root is not the one known elsewhere: it is another log of the same name", c.Size)}
		}
	}
	return nil
}

// fence makes this process the log's only writer.
func (l *Log) fence(ctx context.Context, v *volume) error {
	epoch, err := l.opt.Control.OpenLog(ctx, v.origin, v.signer.VerifierKey())
	if err != nil {
		return err
	}
	if epoch < v.chain.Writer {
		return ostiary.Errorf(ostiary.Corrupt, "control_behind", "the control state knows writer epoch %d of log %s, the log has %d: the control state was rolled back", epoch, v.origin, v.chain.Writer)
	}
	if r, ok := l.opt.Control.(Revisions); ok {
		e, rev, err := r.Revision(ctx)
		if err != nil {
			return err
		}
		if e < v.chain.Epoch || e == v.chain.Epoch && rev < v.chain.Revision {
			return ostiary.Errorf(ostiary.Corrupt, "control_behind", "the control state stands at %d/%d, the log has seen %d/%d: it was rolled back", e, rev, v.chain.Epoch, v.chain.Revision)
		}
	}
	if v.writer, err = l.opt.Control.Fence(ctx, v.origin, epoch); err != nil {
		return err
	}
	if v.writer <= v.chain.Writer {
		return ostiary.Errorf(ostiary.Internal, "fence", "the writer epoch did not rise")
	}
	return nil
}

// clearSpares removes segments that were prepared and not used: stock
// prepares new ones, and nothing has to be believed about old zeros.
func (l *Log) clearSpares(v *volume, spares []*segment) error {
	if err := l.opt.FS.MkdirAll(v.dir); err != nil {
		return err
	}
	var err error
	for _, s := range spares {
		err = errors.Join(err, l.opt.FS.Remove(s.path))
	}
	return errors.Join(err, l.opt.FS.SyncDir(v.dir), l.opt.FS.SyncDir(l.opt.Dir))
}

// first prepares the first segment of a new log.
func (l *Log) first(v *volume) error {
	s := &segment{number: 1, size: l.opt.SegmentSize, path: filepath.Join(v.dir, segmentName(1))}
	f, err := prepare(l.opt.FS, s.path, s.size)
	if err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "ledger_full", "the first segment of log %s cannot be prepared", v.origin).Because(err)
	}
	s.file = f
	l.room.turn(v, 1)
	return l.begin(v, s)
}

// turn makes the room that of another volume. Spares of the one before are
// closed; their files are the caller's to remove.
func (r *room) turn(v *volume, last uint64) (old []*segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, r.spares = r.spares, nil
	r.volume, r.last = v, last
	return old
}

// makeSure keeps torn bytes aside, zeroes them, and writes the last whole
// batch again, byte for byte: after a failed flush the page cache shows what
// the disk may lack, and only that batch can be in doubt.
func (l *Log) makeSure(v *volume, scan *proof.Scan) error {
	s := v.segs[len(v.segs)-1]
	f, err := l.opt.FS.Open(s.path, false)
	if err != nil {
		return err
	}
	s.file = f
	l.room.turn(v, s.number)
	if scan.Tail == proof.TailTorn {
		torn := make([]byte, scan.Torn[1]-scan.Torn[0])
		if _, err := f.ReadAt(torn, scan.Torn[0]); err != nil {
			return err
		}
		name := fmt.Sprintf("torn-%08d-%d-%d", s.number, scan.Torn[0], l.opt.Clock().UnixNano())
		if err := writeFile(l.opt.FS, filepath.Join(v.dir, name), torn); err != nil {
			return err
		}
		if err := zero(f, scan.Torn[0], scan.Torn[1]); err != nil {
			return err
		}
		l.log.Warn("trimmed what was never acknowledged", "bytes", len(torn), "kept", name)
	}
	from, n := int64(0), scan.Used
	if k := len(scan.Batches); k > 0 {
		from, n = scan.Batches[k-1].Offset, scan.Batches[k-1].Length
	}
	last := make([]byte, n)
	if _, err := f.ReadAt(last, from); err != nil {
		return err
	}
	if _, err := f.WriteAt(last, from); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if v.chain.Edge.Size() > 0 {
		h := &head{Checkpoint: v.chain.Checkpoint()}
		if _, err := h.signature(v.signer); err != nil {
			return err
		}
		v.head.Store(h)
	}
	v.setLive(s)
	return nil
}

// admitCalls is step 7: the Open entry, an Unknown for each open Intent, and
// the goroutines that keep the log.
func (l *Log) admitCalls(ctx context.Context, v *volume, f found) error {
	l.queue.volume = v
	l.floor.Store(max(0, v.chain.LastTime.UnixNano()))
	if v.chain.LastTime.IsZero() {
		l.floor.Store(0)
	}
	for { // a full disk refuses calls, not the start
		if did, err := l.replenish(); !did || err != nil {
			break
		}
	}
	l.updateRoom()
	entries := []proof.Entry{openEntry(v, f)}
	for _, o := range v.chain.State().Open {
		entries = append(entries, unknownEntry(o, "recovery"))
	}
	if err := l.tellParent(ctx, v); err != nil {
		return err
	}
	if err := l.write(ctx, v, entries); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.workers.Add(5)
	go l.verifyOlder(run, v)
	go l.commits()
	go l.stock(run)
	go l.keep(run)
	go l.publishes(run)
	return nil
}

// verifyOlder checks the segments before the one that recovery read. Damage
// there stops the log: what it acknowledged is not what it holds.
func (l *Log) verifyOlder(ctx context.Context, v *volume) {
	defer l.workers.Done()
	v.mu.RLock()
	segs := v.segs[:len(v.segs):len(v.segs)]
	v.mu.RUnlock()
	c := proof.NewChain(v.origin, v.chainKey())
	for i, s := range segs {
		if ctx.Err() != nil {
			return
		}
		err := v.with(s, func(f File, size int64) error {
			if i < len(segs)-1 {
				_, err := proof.ScanSegment(f, size, c, proof.ScanOptions{Number: s.number, Resume: i == 0})
				return err
			}
			// The live one was read by recovery; it must start where these end.
			_, st, _, err := proof.ReadOpening(f, size, s.number)
			if err == nil && i > 0 && !reflect.DeepEqual(st, c.State()) {
				err = &proof.Fault{Log: v.origin, Segment: s.number, What: "its state frame differs from what stands before it"}
			}
			return err
		})
		if err != nil {
			_ = l.fail(err)
			return
		}
	}
	v.verified.Store(true)
}

// chainKey is the key the volume's signatures verify under.
func (v *volume) chainKey() ed25519.PublicKey {
	_, pub, err := proof.ParseVerifierKey(v.signer.VerifierKey())
	if err != nil {
		return nil // it signs, so it has one
	}
	return pub
}

// openEntry says what recovery found.
func openEntry(v *volume, f found) proof.Entry {
	facts := []proof.Fact{
		{Name: "found_root", Value: f.root.String()},
		{Name: "found_size", Value: strconv.FormatUint(f.size, 10)},
		{Name: "orderly", Value: strconv.FormatBool(f.orderly || f.size == 0)},
	}
	if f.pred != nil {
		h := f.pred.head.Load()
		facts = append(facts,
			proof.Fact{Name: "predecessor", Value: f.pred.origin},
			proof.Fact{Name: "predecessor_root", Value: h.Root.String()},
			proof.Fact{Name: "predecessor_size", Value: strconv.FormatUint(h.Size, 10)})
	}
	facts = append(facts,
		proof.Fact{Name: "trimmed", Value: strconv.FormatInt(f.trimmed, 10)},
		proof.Fact{Name: "writer", Value: strconv.FormatUint(v.writer, 10)})
	return proof.Entry{Kind: ostiary.KindOpen, Facts: facts}
}

// unknownEntry is the Outcome of an Intent nobody can tell about.
func unknownEntry(o proof.OpenIntent, why string) proof.Entry {
	return proof.Entry{Kind: ostiary.KindOutcome, Answers: o.ID, Code: "unknown", Disposition: ostiary.Unknown,
		Facts: []proof.Fact{{Name: "reason", Value: why}}}
}

// write commits entries of the ledger's own, outside the queue. Only for the
// committer, and for Open and Close, when there is none.
func (l *Log) write(ctx context.Context, v *volume, entries []proof.Entry) error {
	for chunk := range slices.Chunk(entries, 256) {
		var batch []*pending
		for _, e := range chunk {
			p, err := l.own(ctx, v, e, nil)
			if err != nil {
				return err
			}
			batch = append(batch, p)
		}
		if err := l.commit(v, slices.Clone(batch)); err != nil {
			return err
		}
		for _, p := range batch {
			<-p.done
			if p.err != nil {
				return p.err
			}
		}
	}
	return nil
}

// own makes a pending entry of the ledger's own.
func (l *Log) own(ctx context.Context, v *volume, e proof.Entry, payload *ostiary.Payload) (*pending, error) {
	p := &pending{done: make(chan struct{}, 1)}
	p.entry = e
	p.entry.Log = v.origin
	if payload == nil {
		payload = &ostiary.Payload{}
	}
	return p, l.finish(ctx, p, v, payload)
}

// letGo closes everything that is open.
func (l *Log) letGo() error {
	var err error
	for _, v := range l.volumes {
		err = errors.Join(err, v.close())
	}
	for _, s := range l.room.turn(nil, 0) {
		err = errors.Join(err, s.file.Close())
	}
	if l.room.reserve != nil {
		err = errors.Join(err, l.room.reserve.Close())
		l.room.reserve = nil
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
		l.lock = nil
	}
	return err
}

// sayLast records what an orderly end leaves behind.
func (l *Log) sayLast(ctx context.Context, v *volume) error {
	var batch []*pending
	for _, e := range l.lastWords(ctx) {
		p, err := l.own(ctx, v, e.Entry, &e.payload)
		if err != nil {
			return err
		}
		batch = append(batch, p)
	}
	return l.commit(v, batch)
}

// shutdown is Close.
func (l *Log) shutdown() error {
	deadline, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l.queue.close()
	l.stop()
	l.workers.Wait()
	var err error
	if l.Err() == nil {
		if err = l.sayLast(deadline, l.current()); err == nil {
			for _, v := range l.unfinished() {
				err = errors.Join(err, l.publish(v, 1<<40), l.anchor(deadline, v))
			}
		}
	} else {
		err = l.Err()
	}
	return errors.Join(err, l.letGo())
}
