package ledger

import (
	"cmp"
	"runtime"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// frames is the committer's working room.
type frames struct {
	buf     []byte
	nodes   []node
	collect func(level int, h tlog.Hash) // adds to nodes
	stood   []*pending                   // entries of the batch that found their place
}

// commits is the committer: the one goroutine that writes. A panic here stops
// the process, and the next start recovers.
func (l *Log) commits() {
	defer l.workers.Done()
	var batch []*pending
	limit := func() int64 { return l.batchLimit(l.current()) }
	for {
		b, op, ok := l.queue.take(batch[:0], proof.MaxBatch, limit)
		switch {
		case !ok:
			return
		case op != nil:
			op()
		default:
			v := l.current()
			_ = l.commit(v, b) // a failure has been told to everyone
			clear(b)
			batch = b
			// Those just answered run first, and what they append at once
			// joins the next batch.
			runtime.Gosched()
			// 6. Sign, while nobody waits for it: the next frame carries it.
			if _, err := v.head.Load().signature(v.signer); err != nil {
				_ = l.fail(err)
			}
		}
	}
}

// batchLimit is how many bytes the next batch may have: what the live segment
// still takes, or if that may be less than an Outcome needs, what any other
// takes.
func (l *Log) batchLimit(v *volume) int64 {
	most := min(BatchBytes, l.opt.SegmentSize/2, l.opt.Reserve/2)
	if left := v.live.left(); left >= OutcomeRoom {
		return min(left-framed(0), most)
	}
	return most
}

// commit takes a batch through steps 3 to 7, save that the signature of step 6
// is left to whoever needs it first: the next batch's frame, a proof, or the
// committer when it has answered. An error means that the log has failed.
func (l *Log) commit(v *volume, batch []*pending) error {
	// 3. Assemble.
	batch = claim(batch)
	if len(batch) == 0 {
		return nil
	}
	if err := l.Err(); err != nil { // nothing is written after a failure
		answerAll(batch, err)
		return err
	}
	batch, err := l.makeRoom(v, batch)
	if err != nil {
		answerAll(batch, l.fail(err))
		return err
	}
	previous, err := v.head.Load().signature(v.signer)
	if err != nil {
		answerAll(batch, l.fail(err))
		return err
	}
	frame, stood := l.assemble(v, batch, previous)
	if len(stood) == 0 {
		return nil
	}
	// 4. Write, 5. flush. A second flush after a failed one proves nothing:
	// there is none.
	if err := l.flush(v, frame, stood[0].index); err != nil {
		answerAll(stood, l.fail(err))
		return err
	}
	v.tree.add(l.frames.nodes)
	v.head.Store(&head{Checkpoint: v.chain.Checkpoint()}) // it is durable: from here on it may be signed
	v.measure()
	l.updateRoom()
	// 7. Answer, in index order, unless the log was stopped meanwhile.
	if err := l.Err(); err != nil {
		answerAll(stood, err)
		return err
	}
	for _, p := range stood {
		p.answer(p.index, nil)
	}
	l.grew.raise()
	return nil
}

func answerAll(batch []*pending, err error) {
	for _, p := range batch {
		p.answer(0, err)
	}
}

// claim takes what was not withdrawn, in the order of recorded time.
func claim(batch []*pending) []*pending {
	n := 0
	for _, p := range batch {
		if p.state.CompareAndSwap(queued, taken) {
			batch[n] = p
			n++
		}
	}
	batch = batch[:n]
	slices.SortFunc(batch, func(a, b *pending) int { return cmp.Compare(a.stamp, b.stamp) })
	return batch
}

// assemble puts the batch into a frame: conflicts are answered, the others
// get their index. Recorded time never falls: the few entries that were
// overtaken between sealing and here are stamped and hashed again.
func (l *Log) assemble(v *volume, batch []*pending, previous []byte) (frame []byte, stood []*pending) {
	const front = proof.FrameHead + proof.BatchHead
	w := &l.frames
	w.nodes, stood = w.nodes[:0], w.stood[:0]
	if cap(w.buf) < front {
		w.buf = make([]byte, front, 64<<10)
	}
	buf := w.buf[:front]
	first := v.chain.Edge.Size()
	for _, p := range batch {
		if p.entry.Time.Before(v.chain.LastTime) {
			p.entry.Time = v.chain.LastTime
			proof.SetTime(p.encoded, p.entry.Time)
			p.leaf = proof.LeafHash(p.encoded)
		}
		if err := v.chain.Extend(&p.entry, p.leaf, w.collect); err != nil {
			p.answer(0, err)
			continue
		}
		p.index = first + uint64(len(stood))
		stood = append(stood, p)
		buf = proof.AppendRecord(buf, proof.Record{Leaf: p.leaf, Entry: p.encoded, Sealed: p.sealed})
		if p.entry.Kind <= ostiary.KindCount || p.entry.Kind == ostiary.KindChange {
			v.traffic.Add(1)
		}
	}
	w.buf, w.stood = buf, stood
	if len(stood) == 0 {
		return nil, nil
	}
	proof.PutBatchHead(buf[proof.FrameHead:], v.writer, len(stood), v.chain.Edge.Size(), v.chain.Edge.Root(), previous)
	frame = proof.FinishFrame(buf, proof.FrameBatch, v.live.number, first, v.id)
	w.buf = frame[:front]
	if cap(w.buf) > 2*BatchBytes {
		w.buf = nil
	}
	v.chain.Framed(frame)
	v.chain.Committed(v.writer)
	l.floor.Store(v.chain.LastTime.UnixNano())
	return frame, stood
}

// add collects the hashes that tiles are made of: every eighth level.
func (w *frames) add(level int, h tlog.Hash) {
	if level%8 == 0 {
		w.nodes = append(w.nodes, node{level / 8, h})
	}
}

// flush is one positioned write and one flush.
func (l *Log) flush(v *volume, frame []byte, first uint64) error {
	s := v.live
	if _, err := s.file.WriteAt(frame, s.used); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	v.mu.Lock()
	s.places = append(s.places, proof.Place{First: first, Offset: s.used, Length: int64(len(frame))})
	v.mu.Unlock()
	s.used += int64(len(frame))
	return nil
}
