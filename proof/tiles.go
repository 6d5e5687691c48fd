package proof

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// tileCheck compares the published tiles of a log with what its entries give,
// while they are scanned. Tiles that are not there are no fault: they can be
// made again.
type tileCheck struct {
	fsys   fs.FS
	dir    string
	log    string
	size   uint64 // of the published checkpoint: up to there partial tiles stand
	bundle []byte
	levels [][]tlog.Hash // of each tile level, the hashes of the unfinished tile
	counts []uint64
	fault  *Fault
}

// whole takes the subtrees that an entry completes.
func (t *tileCheck) whole(level int, h tlog.Hash) {
	if level%8 != 0 {
		return
	}
	l := level / 8
	if l == len(t.levels) {
		t.levels, t.counts = append(t.levels, nil), append(t.counts, 0)
	}
	t.levels[l] = append(t.levels[l], h)
	t.counts[l]++
	if n := t.counts[l]; n%TileWidth == 0 || n == t.size>>(8*l) {
		t.hashes(l, n)
	}
	if t.counts[l]%TileWidth == 0 {
		t.levels[l] = t.levels[l][:0]
	}
}

func (t *tileCheck) hashes(level int, count uint64) {
	var want []byte
	for i := range t.levels[level] {
		want = append(want, t.levels[level][i][:]...)
	}
	t.compare(level, (count-1)/TileWidth, len(t.levels[level]), want)
}

// entry takes the next entry.
func (t *tileCheck) entry(index uint64, e []byte) {
	t.bundle = AppendBundleEntry(t.bundle, e)
	width := int(index%TileWidth) + 1
	if width == TileWidth || index+1 == t.size {
		t.compare(-1, index/TileWidth, width, t.bundle)
	}
	if width == TileWidth {
		t.bundle = t.bundle[:0]
	}
}

// compare reads at most one byte more than there should be.
func (t *tileCheck) compare(level int, n uint64, width int, want []byte) {
	name := path.Join(t.dir, "tiles", TilePath(level, n, width))
	f, err := t.fsys.Open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.fail(level, n, fmt.Sprintf("published tile %s cannot be read", name))
		}
		return
	}
	defer f.Close()
	have, err := io.ReadAll(io.LimitReader(f, int64(len(want))+1))
	if err != nil || !bytes.Equal(have, want) {
		t.fail(level, n, fmt.Sprintf("published tile %s differs from the entries", name))
	}
}

// fail names the first entry that the tile is about.
func (t *tileCheck) fail(level int, n uint64, what string) {
	if t.fault == nil {
		first := n * TileWidth << (8 * max(level, 0))
		t.fault = &Fault{Log: t.log, Ref: ostiary.EntryRef{Month: Month(t.log), Index: first}, What: what}
	}
}
