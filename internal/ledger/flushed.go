package ledger

import (
	"context"

	"github.com/ostiary/ostiary"
)

// Extent is a segment file, and how much of it a copy may hold.
type Extent struct {
	Month  string
	Name   string // of the file in the month's directory
	Length int64  // bytes that hold flushed entries; what follows may never have happened
	Size   int64  // of the file; the rest of a copy is zeros
}

// Flushed lists what a copy of this log may hold while it is written to: all
// that was durable at one moment of each month, and nothing that was only
// written. A recovery of such a copy finds an orderly log that ends there.
func (l *Log) Flushed(ctx context.Context) ([]Extent, error) {
	var all []Extent
	for _, v := range l.all() {
		size := v.head.Load().Size
		if size == 0 {
			continue // nobody was told of anything in it
		}
		last, places, err := v.segmentOf(size - 1)
		if err != nil {
			return nil, err
		}
		var end int64
		for _, p := range places {
			if p.First < size {
				end = p.Offset + p.Length
			}
		}
		if end == 0 {
			return nil, ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s has no place", v.ref(size-1))
		}
		v.mu.RLock()
		for _, s := range v.segs {
			x := Extent{Month: v.month, Name: segmentName(s.number), Length: s.size, Size: s.size}
			switch {
			case s.number > last.number:
				continue
			case s.number == last.number:
				x.Length = end
			}
			all = append(all, x)
		}
		v.mu.RUnlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
