package ledger

import (
	"errors"
	"math"
	"sync"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// errMoved tells a caller to seal again: the log it sealed for was closed.
var errMoved = errors.New("the log moved on")

// queue holds what was admitted and not yet taken, a lane for each agent,
// emptied in turn. An agent may take at most as many places as are still
// free, so one that floods always leaves room for another.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	lanes  map[string]*lane
	active []*lane // lanes that are not empty, in turn
	count  int
	bytes  int64
	ops    []func() // for the committer, between batches

	volume  *volume        // what entries must be sealed for
	err     *ostiary.Error // why nothing is admitted
	closed  bool
	intents int   // Intents among what waits
	open    int   // open Intents, as of the last batch
	most    int   // Intents that may be open; set once
	space   space // what is left, as of the last batch
	short   bool  // no more room can be made: the disk is full
}

type lane struct {
	items []*pending
	next  int
}

// maxLanes bounds the lanes kept although empty.
const maxLanes = 4096

func (q *queue) init(most int) {
	q.filled.L, q.most = &q.mu, most
	q.lanes = map[string]*lane{}
}

// admit is step 2.
func (q *queue) admit(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.err != nil:
		return q.err
	case q.closed:
		return ostiary.Errorf(ostiary.Unavailable, "ledger_closed", "the ledger is closing")
	case q.volume != p.volume:
		return errMoved
	}
	owed := p.owed() // its Intent was admitted for it: there is room, and there are no more of them
	if !owed && !q.fits(p) {
		return errFull()
	}
	ln := q.lanes[p.lane]
	if ln == nil {
		if len(q.lanes) >= maxLanes {
			q.dropLanes()
		}
		ln = &lane{}
		q.lanes[p.lane] = ln
	}
	waiting := len(ln.items) - ln.next
	if !owed && (q.count >= QueueLimit || waiting >= QueueLimit-q.count || q.bytes+p.size() > queueBytes) {
		return ostiary.Errorf(ostiary.Unavailable, "ledger_busy", "too many entries wait for the ledger")
	}
	if waiting == 0 {
		ln.items, ln.next = ln.items[:0], 0
		q.active = append(q.active, ln)
	}
	ln.items = append(ln.items, p)
	if p.entry.Kind == ostiary.KindIntent {
		q.intents++
	}
	q.bytes += p.size()
	if q.count++; q.count == 1 {
		q.filled.Signal()
	}
	return nil
}

// fits looks ahead whether there will be room for the entry, and for each
// Outcome that is or will be owed. The committer has the last word.
func (q *queue) fits(p *pending) bool {
	open, where, left := q.open+q.intents, inLive, q.space
	if p.entry.Kind == ostiary.KindIntent {
		if open++; open > q.most {
			return false
		}
	}
	if q.short {
		where, left = q.space.after(q.bytes+p.size(), p.spare())
	}
	return where != nowhere && left.holds() >= open
}

func (q *queue) dropLanes() {
	for name, ln := range q.lanes {
		if len(ln.items) == ln.next {
			delete(q.lanes, name)
		}
	}
}

// take waits for work and takes the next batch in turn: up to n entries and
// limit bytes, at least one. It returns an operation instead if one waits,
// and false when the queue is closed and empty.
func (q *queue) take(dst []*pending, n int, limit func() int64) (batch []*pending, op func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count == 0 && len(q.ops) == 0 {
		if q.closed || q.err != nil {
			return nil, nil, false
		}
		q.filled.Wait()
	}
	if q.err != nil {
		return nil, nil, false
	}
	if len(q.ops) > 0 {
		op = q.ops[0]
		q.ops = q.ops[1:]
		return nil, op, true
	}
	return q.batch(dst, n, limit()), nil, true
}

func (q *queue) batch(dst []*pending, n int, limit int64) []*pending {
	if q.count <= n && q.bytes <= limit { // everything fits: turns do not matter
		for _, ln := range q.active {
			dst = append(dst, ln.items[ln.next:]...)
			clear(ln.items)
			ln.items, ln.next = ln.items[:0], 0
		}
		q.active, q.count, q.bytes, q.intents = q.active[:0], 0, 0, 0
		return dst
	}
	room := limit
	for len(q.active) > 0 && len(dst) < n {
		ln := q.active[0]
		p := ln.items[ln.next]
		if room -= p.size(); room < 0 && len(dst) > 0 {
			break
		}
		dst = append(dst, p)
		ln.items[ln.next] = nil
		ln.next++
		q.count--
		q.bytes -= p.size()
		if p.entry.Kind == ostiary.KindIntent {
			q.intents--
		}
		q.active = q.active[1:]
		if ln.next < len(ln.items) {
			q.active = append(q.active, ln)
		}
	}
	return dst
}

// fitting returns how many of the first entries make one batch of limit bytes,
// at least one.
func fitting(entries []*pending, limit int64) int {
	for i, p := range entries {
		if limit -= p.size(); i == proof.MaxBatch || limit < 0 && i > 0 {
			return i
		}
	}
	return len(entries)
}

// operate lets the committer run op between two batches. It reports false if
// the committer takes nothing any more.
func (q *queue) operate(op func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.closed {
		return false
	}
	q.ops = append(q.ops, op)
	q.filled.Signal()
	return true
}

// turn makes new entries seal for v, and returns all that wait for the log
// before it.
func (q *queue) turn(v *volume) []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.volume = v
	return q.batch(nil, q.count, math.MaxInt64)
}

// close ends admission; what waits is still taken.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.filled.Broadcast()
	q.mu.Unlock()
}

// fail refuses everything, what waits included.
func (q *queue) fail(e *ostiary.Error) {
	q.mu.Lock()
	q.err = e
	waiting := q.batch(nil, q.count, math.MaxInt64)
	q.filled.Broadcast()
	q.mu.Unlock()
	for _, p := range waiting {
		p.answer(0, e)
	}
}

// answer is step 7 for one entry. A withdrawn one is nobody's any more.
func (p *pending) answer(index uint64, err error) {
	p.index, p.err = index, err
	p.done <- struct{}{}
}

func (q *queue) setRoom(open int, s space, short bool) {
	q.mu.Lock()
	q.open, q.space, q.short = open, s, short
	q.mu.Unlock()
}

func (q *queue) load() (count, open int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count, q.open
}
