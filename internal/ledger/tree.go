package ledger

import (
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary/proof"
)

// tree holds the hashes of one log that are not in full published tiles, and
// reads the others from those. It is a tlog.HashReader. Safe for concurrent
// use.
type tree struct {
	mu     sync.RWMutex
	levels []tileLevel
	tile   func(level int, n uint64) ([]tlog.Hash, error) // a full published tile
}

// tileLevel is one level of tiles, that is every eighth level of the tree.
type tileLevel struct {
	base   uint64 // how many hashes are in published tiles; a multiple of TileWidth
	hashes []tlog.Hash
}

// node is a hash on its way into the tree once it is durable.
type node struct {
	level int // of tiles
	hash  tlog.Hash
}

// add appends nodes in the order in which the tree grew.
func (t *tree) add(nodes []node) {
	t.mu.Lock()
	for i := range nodes {
		t.put(nodes[i].level, nodes[i].hash)
	}
	t.mu.Unlock()
}

func (t *tree) put(level int, h tlog.Hash) {
	for len(t.levels) <= level {
		t.levels = append(t.levels, tileLevel{})
	}
	t.levels[level].hashes = append(t.levels[level].hashes, h)
}

// run returns a copy of width hashes of a level, from the one at start.
func (t *tree) run(level int, start uint64, width int) ([]tlog.Hash, error) {
	t.mu.RLock()
	if level < len(t.levels) && start >= t.levels[level].base {
		l := &t.levels[level]
		from := start - l.base
		if from+uint64(width) > uint64(len(l.hashes)) {
			t.mu.RUnlock()
			return nil, fmt.Errorf("the tree has no hash %d on tile level %d", start, level)
		}
		out := append([]tlog.Hash(nil), l.hashes[from:from+uint64(width)]...)
		t.mu.RUnlock()
		return out, nil
	}
	t.mu.RUnlock()
	h, err := t.tile(level, start/proof.TileWidth)
	if err != nil {
		return nil, err
	}
	from := int(start % proof.TileWidth)
	if from+width > len(h) {
		return nil, fmt.Errorf("tile %d of level %d is short", start/proof.TileWidth, level)
	}
	return h[from : from+width], nil
}

// published forgets hashes of a level that are in full tiles on disk.
func (t *tree) published(level int, tiles uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if level >= len(t.levels) {
		return
	}
	l := &t.levels[level]
	if n := tiles * proof.TileWidth; n > l.base {
		l.hashes = append([]tlog.Hash(nil), l.hashes[n-l.base:]...)
		l.base = n
	}
}

// ReadHashes reads stored hashes by tlog's numbering.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		sub := level % 8
		run, err := t.run(level/8, uint64(n)<<sub, 1<<sub)
		if err != nil {
			return nil, err
		}
		out[i] = proof.SubtreeHash(run)
	}
	return out, nil
}

// rootAt returns the root the tree had at a smaller or equal size.
func (t *tree) rootAt(size uint64) (tlog.Hash, error) {
	if size == 0 {
		return proof.EmptyRoot, nil
	}
	return tlog.TreeHash(int64(size), t)
}
