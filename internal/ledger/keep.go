package ledger

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// signal wakes whoever waits for the log to grow.
type signal struct {
	mu      sync.Mutex
	ch      chan struct{}
	waiting atomic.Bool
}

func (s *signal) init() { s.ch = make(chan struct{}) }

// wait returns a channel that the next raise closes. Look at the log after
// calling it, not before.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting.Store(true)
	return s.ch
}

func (s *signal) raise() {
	if !s.waiting.Load() {
		return
	}
	s.mu.Lock()
	s.waiting.Store(false)
	close(s.ch)
	s.ch = make(chan struct{})
	s.mu.Unlock()
}

// counts are refusals of callers who never authenticated, not yet in an
// entry.
type counts struct {
	mu sync.Mutex
	by map[counted]uint64
}

type counted struct{ source, code string }

// maxCounted bounds the sources counted apart within a second; beyond, a
// refusal counts under its reason and the source "others".
const maxCounted = 4096

// Count folds a refusal of a caller who never authenticated into the next
// counting entry, exactly. It never blocks and never fails.
func (l *Log) Count(source, code string) {
	l.counts.add(counted{clip(source, 64), clip(code, 64)}, 1)
}

func (c *counts) add(k counted, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[counted]uint64{}
	}
	if _, ok := c.by[k]; !ok && len(c.by) >= maxCounted {
		k.source = "others"
	}
	c.by[k] += n
}

func (c *counts) take() map[counted]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := c.by
	c.by = nil
	return by
}

// maxCodes bounds the reasons in one counting entry; the rest go into the
// next.
const maxCodes = 24

// countEntries turns counts into entries: totals by reason for everyone,
// sources sealed.
func countEntries(by map[counted]uint64) []ownEntry {
	type row struct {
		Source string `json:"source"`
		Code   string `json:"code"`
		Count  uint64 `json:"count"`
	}
	totals := map[string]uint64{}
	rows := map[string][]row{}
	for k, n := range by {
		if k.code == "" {
			k.code = "refused"
		}
		totals[k.code] += n
		rows[k.code] = append(rows[k.code], row{k.source, k.code, n})
	}
	var codes []string
	for code := range totals {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	var out []ownEntry
	for chunk := range slices.Chunk(codes, maxCodes) {
		var e ownEntry
		var detail []row
		e.Kind, e.Code = ostiary.KindCount, "counted"
		for _, code := range chunk {
			e.Facts = append(e.Facts, proof.Fact{Name: code, Value: strconv.FormatUint(totals[code], 10)})
			detail = append(detail, rows[code]...)
		}
		slices.SortFunc(detail, func(a, b row) int {
			return cmp.Or(strings.Compare(a.Code, b.Code), strings.Compare(a.Source, b.Source))
		})
		e.payload.Detail, _ = json.Marshal(detail) // our own strings and numbers
		out = append(out, e)
	}
	return out
}

// ownEntry is an entry the ledger writes by itself.
type ownEntry struct {
	proof.Entry
	payload ostiary.Payload
}

// submit sends an entry of the ledger's own through the queue.
func (l *Log) submit(ctx context.Context, e ownEntry) error {
	for {
		p, err := l.own(ctx, l.current(), e.Entry, &e.payload)
		if err != nil {
			return err
		}
		if err = l.queue.admit(p); err == errMoved {
			continue
		}
		if err != nil {
			return err
		}
		<-p.done
		return p.err
	}
}

// keep does each second what is due: counts, heartbeat, Unknowns, the turn of
// the month, and a look at file and clock.
func (l *Log) keep(ctx context.Context) {
	defer l.workers.Done()
	t := time.NewTicker(tick)
	defer t.Stop()
	clock := l.opt.Clock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.failed:
			return
		case <-t.C:
		}
		was := clock
		clock = l.opt.Clock()
		if err := l.beat(ctx, stepped(was, clock)); err != nil && ctx.Err() == nil && l.Err() == nil {
			l.log.Warn("keeping the ledger", "err", err)
		}
	}
}

// stepped says by how much the wall clock went apart from the monotonic one,
// zero for less than a second.
func stepped(was, now time.Time) time.Duration {
	d := now.Round(0).Sub(was.Round(0)) - now.Sub(was)
	if d > -time.Second && d < time.Second {
		return 0
	}
	return d
}

func (l *Log) beat(ctx context.Context, step time.Duration) error {
	v := l.current()
	if err := l.linked(v); err != nil {
		return l.fail(err)
	}
	if by := l.counts.take(); len(by) > 0 {
		for _, e := range countEntries(by) {
			if err := l.submit(ctx, e); err != nil {
				l.countsBack(by, e)
				return err
			}
		}
	}
	if v.traffic.Load() > 0 || step != 0 {
		if err := l.heartbeat(ctx, v, step); err != nil {
			return err
		}
	}
	l.queue.operate(func() { l.sweep(ctx) })
	if month := l.opt.Clock().UTC().Format("2006-01"); month > v.month {
		return l.turnMonth(ctx, month)
	}
	return nil
}

// countsBack keeps what could not be recorded for the next entry. Entries are
// submitted by reason, so the ones after e, and e, count again.
func (l *Log) countsBack(by map[counted]uint64, e ownEntry) {
	from := e.Facts[0].Name
	for k, n := range by {
		if code := k.code; code >= from || code == "" && "refused" >= from {
			l.counts.add(k, n)
		}
	}
}

// linked stops the log when its live segment was unlinked: what is written
// to it will be lost.
func (l *Log) linked(v *volume) error {
	v.mu.RLock()
	if len(v.segs) == 0 { // it is begun this moment, under another key
		v.mu.RUnlock()
		return nil
	}
	s := v.segs[len(v.segs)-1]
	f := s.file
	v.mu.RUnlock()
	if f == nil {
		return nil
	}
	n, err := f.Links()
	if err != nil || n > 0 {
		return err
	}
	return &proof.Fault{Log: v.origin, Segment: s.number, What: "the file was removed while it is written to"}
}

// heartbeat puts the events since the last one between two known states of
// the control plane.
func (l *Log) heartbeat(ctx context.Context, v *volume, step time.Duration) error {
	var e ownEntry
	e.Kind = ostiary.KindHeartbeat
	if step != 0 {
		e.Facts = append(e.Facts, proof.Fact{Name: "clock_step_ms", Value: strconv.FormatInt(step.Milliseconds(), 10)})
	}
	facts, err := l.controlFacts(ctx)
	if err != nil {
		return err
	}
	e.Facts = append(e.Facts, facts...)
	v.traffic.Store(0)
	return l.submit(ctx, e)
}

func (l *Log) controlFacts(ctx context.Context) ([]proof.Fact, error) {
	r, ok := l.opt.Control.(Revisions)
	if !ok {
		return nil, nil
	}
	epoch, rev, err := r.Revision(ctx)
	return []proof.Fact{
		{Name: "epoch", Value: strconv.FormatUint(epoch, 10)},
		{Name: "revision", Value: strconv.FormatUint(rev, 10)},
	}, err
}

// sweep records Unknown for Intents that wait longer than an action may
// take. It runs in the committer.
func (l *Log) sweep(ctx context.Context) {
	v := l.current()
	late := l.opt.Clock().Add(-l.opt.Longest)
	var entries []proof.Entry
	for _, o := range v.chain.Open {
		if o.Time.Before(late) {
			entries = append(entries, unknownEntry(o, "too_long"))
		}
	}
	if len(entries) > 0 {
		if err := l.write(ctx, v, entries); err != nil && l.Err() == nil {
			l.log.Warn("recording unknown outcomes", "err", err)
		}
	}
}

// lastWords are the entries of an orderly end.
func (l *Log) lastWords(ctx context.Context) []ownEntry {
	entries := countEntries(l.counts.take())
	facts, err := l.controlFacts(ctx)
	if err != nil {
		facts = nil // the heartbeat states no control state; it may be away
	}
	var e ownEntry
	e.Kind = ostiary.KindHeartbeat
	e.Facts = append(facts, proof.Fact{Name: "stop", Value: "orderly"})
	return append(entries, e)
}

// turnMonth goes on in the log of another month.
func (l *Log) turnMonth(ctx context.Context, month string) error {
	l.turning.Lock()
	defer l.turning.Unlock()
	v := l.current()
	if month <= v.month {
		return nil
	}
	return l.goOn(ctx, v, month, l.signer)
}

// Rotate closes the log and goes on in another one under this key; if it is
// under it already, nothing happens. The last entry of the one that is closed
// names the next and its key, under the old key's signature, so whoever
// trusts the old key can follow without asking anybody. Appends go on
// meanwhile. After an error, or the end of the process, the log goes on under
// one key or the other, and Rotate may be asked again.
func (l *Log) Rotate(ctx context.Context, signer crypto.Signer) error {
	l.turning.Lock()
	defer l.turning.Unlock()
	l.signer = signer
	v := l.current()
	if own, err := proof.NewSigner(v.origin, signer); err != nil || own.VerifierKey() == v.signer.VerifierKey() {
		return err
	}
	for month := v.month; ; {
		var err error
		if month, err = after(month); err != nil {
			return err
		}
		// A log that was announced under a key which has been given up since,
		// and never begun, is left behind.
		if err := l.goOn(ctx, v, month, signer); err == nil || ostiary.AsError(err).Code != "log_key" {
			return err
		}
	}
}

// goOn closes the log that is written to and opens the next. What needs the
// control state or the disk is done before anything stops.
func (l *Log) goOn(ctx context.Context, v *volume, month string, signer crypto.Signer) error {
	next := l.volume(month)
	var err error
	if next.signer, err = proof.NewSigner(next.origin, signer); err != nil {
		return err
	}
	next.chain = proof.NewChain(next.origin, next.chainKey())
	if err := l.fence(ctx, next); err != nil {
		return err
	}
	if err := l.tellParent(ctx, next); err != nil {
		return err
	}
	if err := l.clearSpares(next, nil); err != nil {
		return err
	}
	s := &segment{number: 1, size: l.opt.SegmentSize, path: filepath.Join(next.dir, segmentName(1))}
	if s.file, err = prepare(l.opt.FS, s.path, s.size); err != nil {
		return err
	}
	done := make(chan error, 1)
	if !l.queue.operate(func() { done <- l.turn(ctx, v, next, s) }) {
		return s.file.Close()
	}
	select {
	case err = <-done:
		return err
	case <-l.failed:
		return l.Err()
	}
}

// turn runs in the committer.
func (l *Log) turn(ctx context.Context, v, next *volume, s *segment) error {
	next.left.Store(s.size - openingRoom(s.size))
	l.mu.Lock()
	l.volumes = append(l.volumes, next)
	l.mu.Unlock()
	for waiting := l.queue.turn(next); len(waiting) > 0; {
		n := fitting(waiting, l.batchLimit(v))
		if err := l.commit(v, waiting[:n]); err != nil {
			return err
		}
		waiting = waiting[n:]
	}
	last := proof.Entry{Kind: ostiary.KindClose, Facts: []proof.Fact{
		{Name: "successor", Value: next.origin}, {Name: "successor_key", Value: next.signer.VerifierKey()}}}
	if err := l.write(ctx, v, []proof.Entry{last}); err != nil {
		return l.fail(err) // nothing can follow in a log that may be closed
	}
	next.chain.Inherit(v.chain)
	for _, old := range l.room.turn(next, 1) {
		if err := old.file.Close(); err == nil {
			err = l.opt.FS.Remove(old.path)
			if err != nil {
				l.log.Warn("removing a spare segment", "err", err)
			}
		}
	}
	if err := l.begin(next, s); err != nil {
		return l.fail(err)
	}
	return l.write(ctx, next, []proof.Entry{openEntry(next, found{root: proof.EmptyRoot, orderly: true, pred: v})})
}

// succeed opens the log that a closed one named, at start.
func (l *Log) succeed(ctx context.Context, v *volume) (*volume, found, error) {
	next := l.volume(proof.Month(v.chain.Closed.Fact("successor")))
	f := found{root: proof.EmptyRoot, orderly: true, pred: v}
	if next.origin != v.chain.Closed.Fact("successor") {
		return nil, f, &proof.Fault{Log: v.origin, What: "names a successor that is not of this gateway"}
	}
	var err error
	if next.signer, err = l.named(next.origin, v.chain.Closed.Fact("successor_key")); err != nil {
		return nil, f, err
	}
	next.chain = proof.NewChain(next.origin, next.chainKey())
	if err := l.compareNew(ctx, next); err != nil {
		return nil, f, err
	}
	if err := l.fence(ctx, next); err != nil {
		return nil, f, err
	}
	segs, err := next.list()
	if err != nil {
		return nil, f, err
	}
	if err := l.clearSpares(next, segs); err != nil {
		return nil, f, err
	}
	next.chain.Inherit(v.chain)
	l.volumes = append(l.volumes, next)
	return next, f, l.first(next)
}

// compareNew refuses to begin a log that others know entries of.
func (l *Log) compareNew(ctx context.Context, v *volume) error {
	size, _, err := l.opt.Control.Head(ctx, v.origin)
	if err != nil {
		return err
	}
	if size > 0 {
		return &proof.Fault{Log: v.origin, What: "the control state knows " + strconv.FormatUint(size, 10) + " entries of it, here it has none"}
	}
	return nil
}
