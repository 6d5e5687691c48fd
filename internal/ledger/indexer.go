package ledger

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Indexer brings a log into an [Index]. It lags, it never holds up an
// append, and the index can be thrown away: Rebuild makes it again.
type Indexer struct {
	log   *Log
	index Index
	at    atomic.Pointer[ostiary.EntryRef] // next entry to index
}

// indexRows is how many rows are put at once, and so held in memory.
const indexRows = 512

// indexPause is how long the indexer rests between two rounds, so that it does
// not wake for every batch of a busy log. It is the greater part of how far
// the index lags.
const indexPause = 100 * time.Millisecond

// NewIndexer returns an indexer; Run does the work.
func NewIndexer(l *Log, i Index) *Indexer { return &Indexer{log: l, index: i} }

// Run follows the log until ctx ends, the log or the index fails. An index
// that was found damaged, or is ahead of the log, is made again.
func (x *Indexer) Run(ctx context.Context) error {
	for {
		grew := x.log.grew.wait()
		if err := x.Catchup(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.log.failed:
			return x.log.Err()
		case <-grew:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(indexPause):
		}
	}
}

// Catchup indexes what is durable now.
func (x *Indexer) Catchup(ctx context.Context) error {
	for _, v := range x.log.all() {
		for {
			from, err := x.index.Position(ctx, v.origin)
			if ostiary.KindOf(err) == ostiary.Corrupt {
				return x.Rebuild(ctx)
			}
			if err != nil {
				return err
			}
			size := v.head.Load().Size
			if from > size { // it was built from another log, now gone: the log is the truth
				return x.Rebuild(ctx)
			}
			at := v.ref(from)
			x.at.Store(&at)
			if from >= size {
				break
			}
			if err := x.put(ctx, v, from, min(size, from+indexRows)); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (x *Indexer) put(ctx context.Context, v *volume, from, to uint64) error {
	rows := make([]Row, 0, to-from)
	err := v.each(from, to, func(i uint64, raw proof.Record) error {
		row, err := v.row(i, raw)
		rows = append(rows, row)
		return err
	})
	if err != nil {
		return err
	}
	return x.index.Put(ctx, v.origin, from, rows)
}

// Progress says how far the index is in the log it works on: indexed up to n
// of m entries.
func (x *Indexer) Progress() (origin string, n, m uint64) {
	at := x.at.Load()
	for _, v := range x.log.all() {
		if at != nil && v.month == at.Month {
			origin, n, m = v.origin, at.Index, v.head.Load().Size
		}
	}
	if at == nil {
		v := x.log.current()
		return v.origin, 0, v.head.Load().Size
	}
	return origin, n, m
}

// Rebuild empties the index and indexes everything again. Do not run it
// beside Run.
func (x *Indexer) Rebuild(ctx context.Context) error {
	if err := x.index.Reset(ctx); err != nil {
		return err
	}
	return x.Catchup(ctx)
}
