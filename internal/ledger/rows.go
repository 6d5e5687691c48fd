package ledger

import (
	"context"
	"io"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Rows reads entries of one log back, without their payloads, for an index
// that knows where they are. Places ascend; visit is called for each, in that
// order. NotFound if there is no such log or place, Corrupt if what stands
// there cannot be read.
func (l *Log) Rows(ctx context.Context, origin string, places []uint64, visit func(Row) error) error {
	for _, v := range l.all() {
		if v.origin == origin {
			return v.rows(ctx, places, visit)
		}
	}
	return ostiary.Errorf(ostiary.NotFound, "no_log", "there is no log %s", origin)
}

// rows reads every frame that holds one of the places once.
func (v *volume) rows(ctx context.Context, places []uint64, visit func(Row) error) error {
	var buf []byte
	for len(places) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		fr, err := v.frameOf(places[0], &buf)
		if err != nil {
			return err
		}
		found := false
		for i, rec := range fr.Records() {
			if len(places) == 0 || i != places[0] {
				continue
			}
			row, err := v.row(i, rec)
			if err != nil {
				return err
			}
			if err := visit(row); err != nil {
				return err
			}
			found, places = true, places[1:]
		}
		if !found {
			return ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s is damaged", v.ref(places[0]))
		}
	}
	return nil
}

// row is a record as an index knows it.
func (v *volume) row(index uint64, rec proof.Record) (Row, error) {
	e, err := proof.ParseEntry(rec.Entry)
	if err != nil {
		return Row{}, ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s cannot be read", v.ref(index)).Because(err)
	}
	return Row{Origin: v.origin, Ref: v.ref(index), Entry: headOf(e)}, nil
}

// readAhead is how much of a segment is read at once where frames are read one
// after the other: frames of a quiet log are 1 or 2 KiB.
const readAhead = 128 << 10

// window reads ahead of a reader that goes forward through a file. What it
// holds was read after the reader knew that it is there, so it serves one
// pass over what is flushed, and is not kept.
type window struct {
	r   io.ReaderAt
	end int64 // of the file
	off int64
	buf []byte
}

func (w *window) ReadAt(b []byte, off int64) (int, error) {
	if off >= w.off && off+int64(len(b)) <= w.off+int64(len(w.buf)) {
		return copy(b, w.buf[off-w.off:]), nil
	}
	if len(b) >= readAhead/2 || off+int64(len(b)) > w.end {
		return w.r.ReadAt(b, off)
	}
	n := min(readAhead, w.end-off)
	if int64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf, w.off = w.buf[:n], off
	if _, err := w.r.ReadAt(w.buf, off); err != nil {
		w.buf = w.buf[:0]
		return 0, err
	}
	return copy(b, w.buf), nil
}
