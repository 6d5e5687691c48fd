package ledger

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// published is what of a volume is in files. The publisher owns it.
type published struct {
	full []uint64 // full tiles in files, by tile level
	dirs map[string]bool
}

// publishes brings tiles and checkpoint into files, and the head to whoever
// anchors it, each second in which the log grew.
func (l *Log) publishes(ctx context.Context) {
	defer l.workers.Done()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.failed:
			return
		case <-t.C:
		}
		for _, v := range l.unfinished() {
			if err := l.anchor(ctx, v); err != nil && ctx.Err() == nil {
				l.log.Warn("anchoring", "log", v.origin, "err", err)
			}
			if err := l.publish(v, publishTiles); err != nil {
				l.log.Warn("publishing", "log", v.origin, "err", err)
			}
		}
	}
}

// unfinished returns the log that is written to and those before it whose end
// is still to be published or anchored: a month may turn, and a key be
// changed, within one second.
func (l *Log) unfinished() []*volume {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.finished < len(l.volumes)-1 {
		v := l.volumes[l.finished]
		if size := v.head.Load().Size; v.published.Load() != size || v.anchored.Load() != size {
			break
		}
		l.finished++
	}
	return l.volumes[l.finished:len(l.volumes):len(l.volumes)]
}

// anchor stores the head in the control state and in the deployment log. The
// control state knowing more, or another root, means that this log was rolled
// back: stop.
func (l *Log) anchor(ctx context.Context, v *volume) error {
	h := v.head.Load()
	if h.Size == v.anchored.Load() {
		return nil
	}
	err := l.opt.Control.Anchor(ctx, v.origin, h.Size, ostiary.Digest(h.Root))
	if err != nil {
		if ostiary.KindOf(err) == ostiary.Conflict {
			return l.fail(ostiary.Errorf(ostiary.Corrupt, "rolled_back", "the control state knows another head of log %s", v.origin).Because(err))
		}
		return err
	}
	if l.opt.Parent != nil {
		var e ownEntry
		e.Kind = ostiary.KindAnchor
		e.Facts = []proof.Fact{{Name: v.origin, Value: strconv.FormatUint(h.Size, 10) + " " + h.Root.String()}}
		if err := l.opt.Parent.submit(ctx, e); err != nil {
			return err
		}
	}
	v.anchored.Store(h.Size)
	return nil
}

// tellParent records in the deployment log that this log exists.
func (l *Log) tellParent(ctx context.Context, v *volume) error {
	if l.opt.Parent == nil {
		return nil
	}
	var e ownEntry
	e.Kind, e.Code = ostiary.KindChange, "log_opened"
	e.Facts = []proof.Fact{{Name: "log_key", Value: v.signer.VerifierKey()}, {Name: "log_origin", Value: v.origin}}
	return l.opt.Parent.submit(ctx, e)
}

// publishTiles bounds the full tiles published in a second, that is 16,384
// entries. Making a file costs the file system more than a thousand appends,
// and appends go first: what a burst leaves over follows in the next seconds,
// each with a checkpoint over what is there.
const publishTiles = 64

// due returns the checkpoint to publish now: the newest, or one as far ahead
// as limit full tiles allow.
func (v *volume) due(limit uint64) (*head, error) {
	h := v.head.Load()
	size := (v.tree.base(0)/proof.TileWidth + limit) * proof.TileWidth
	if h.Size < size+proof.TileWidth {
		return h, nil
	}
	root, err := v.tree.rootAt(size)
	if err != nil {
		return nil, err
	}
	return &head{Checkpoint: proof.Checkpoint{Origin: v.origin, Size: size, Root: root}}, nil
}

// publish is step 10: tiles and bundles flushed into files, the partial ones
// too, then the checkpoint. All of it can be remade from segments, so
// a failure only waits for the next second.
func (l *Log) publish(v *volume, limit uint64) error {
	h, err := v.due(limit)
	if err != nil {
		return err
	}
	if h.Size == 0 || h.Size == v.published.Load() && v.tiles.dirs != nil {
		return nil
	}
	t := &v.tiles
	if t.dirs == nil {
		t.dirs = map[string]bool{}
	}
	dirty := map[string]bool{}
	for level := 0; h.Size>>(8*level) > 0; level++ {
		if len(t.full) == level {
			t.full = append(t.full, v.tree.base(level)/proof.TileWidth)
		}
		full := h.Size >> (8 * (level + 1))
		if level == 0 {
			if err := v.putBundles(t.full[0]*proof.TileWidth, full*proof.TileWidth, dirty); err != nil {
				return err
			}
		}
		for n := t.full[level]; n < full; n++ {
			if err := v.putTile(level, n, proof.TileWidth, dirty); err != nil {
				return err
			}
		}
		if err := v.syncDirs(dirty); err != nil {
			return err
		}
		last := t.full[level]
		t.full[level] = max(last, full)
		v.tree.published(level, t.full[level])
		if last < full {
			if err := v.removePartial(level, last); err != nil {
				return err
			}
		}
	}
	return l.publishEdge(v, h, dirty)
}

// publishEdge writes the partial tiles a checkpoint needs, then the
// checkpoint itself. Those of earlier checkpoints stay, for readers who have
// such a checkpoint in hand, until the full tile is there (C2SP tlog-tiles,
// "Partial Tiles"): at most 255 of each.
func (l *Log) publishEdge(v *volume, h *head, dirty map[string]bool) error {
	for level := 0; h.Size>>(8*level) > 0; level++ {
		have := h.Size >> (8 * level)
		n, width := have/proof.TileWidth, int(have%proof.TileWidth)
		if width == 0 {
			continue
		}
		if level == 0 {
			if err := v.putBundles(n*proof.TileWidth, have, dirty); err != nil {
				return err
			}
		}
		if err := v.putTile(level, n, width, dirty); err != nil {
			return err
		}
	}
	if err := v.syncDirs(dirty); err != nil {
		return err
	}
	sig, err := h.signature(v.signer)
	if err != nil {
		return err
	}
	text := v.signer.Note(h.Checkpoint, sig)
	if err := writeFile(v.fs, filepath.Join(v.tilesDir(), "checkpoint"), text); err != nil {
		return err
	}
	dirty[v.tilesDir()] = true
	if err := v.syncDirs(dirty); err != nil {
		return err
	}
	v.published.Store(h.Size)
	return nil
}

// removePartial removes the partial tiles of a tile that is published in
// full, and of its bundle. What a failure leaves behind is superfluous, not
// wrong.
func (v *volume) removePartial(level int, n uint64) error {
	dirs := []string{path.Dir(proof.TilePath(level, n, 1))}
	if level == 0 {
		dirs = append(dirs, path.Dir(proof.TilePath(-1, n, 1)))
	}
	for _, dir := range dirs {
		dir = filepath.Join(v.tilesDir(), filepath.FromSlash(dir))
		names, err := v.fs.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := v.fs.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// putBundles writes the bundles of entries from a tile's first on, the last of
// them partial if the range ends within one.
func (v *volume) putBundles(from, to uint64, dirty map[string]bool) error {
	var b []byte
	return v.each(from, to, func(i uint64, r proof.Record) error {
		b = proof.AppendBundleEntry(b, r.Entry)
		width := int(i%proof.TileWidth) + 1
		if width < proof.TileWidth && i+1 < to {
			return nil
		}
		err := v.putFile(proof.TilePath(-1, i/proof.TileWidth, width), b, dirty)
		b = b[:0]
		return err
	})
}

// putTile writes the hashes of a tile.
func (v *volume) putTile(level int, n uint64, width int, dirty map[string]bool) error {
	hashes, err := v.tree.run(level, n*proof.TileWidth, width)
	if err != nil {
		return err
	}
	b := make([]byte, 0, width*tlog.HashSize)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return v.putFile(proof.TilePath(level, n, width), b, dirty)
}

// putFile puts a published file in place; the directories to flush are added
// to dirty.
func (v *volume) putFile(name string, b []byte, dirty map[string]bool) error {
	file := filepath.Join(v.tilesDir(), filepath.FromSlash(name))
	dir := filepath.Dir(file)
	if !v.tiles.dirs[dir] {
		if err := v.fs.MkdirAll(dir); err != nil {
			return err
		}
		// The names of new directories must last too.
		for d := dir; strings.HasPrefix(d, v.tilesDir()) && !v.tiles.dirs[d]; d = filepath.Dir(d) {
			v.tiles.dirs[d] = true
			dirty[filepath.Dir(d)] = true
		}
	}
	dirty[dir] = true
	return writeFile(v.fs, file, b)
}

func (v *volume) syncDirs(dirty map[string]bool) error {
	for d := range dirty {
		if err := v.fs.SyncDir(d); err != nil {
			return err
		}
		delete(dirty, d)
	}
	return nil
}

// publishedCheckpoint reads the volume's own published checkpoint. One that
// is not there, or does not verify, is only made again.
func (v *volume) publishedCheckpoint() (proof.Checkpoint, error) {
	b, err := readFile(v.fs, filepath.Join(v.tilesDir(), "checkpoint"), proof.MaxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return proof.Checkpoint{}, nil
	}
	if err != nil {
		return proof.Checkpoint{}, err
	}
	c, err := proof.OpenCheckpoint(b, v.signer.VerifierKey())
	if err != nil {
		return proof.Checkpoint{}, nil
	}
	return c, nil
}

// loadTree puts the tree together at start: from published tiles as far as
// they go, from the segments for the rest, from segments alone if the tiles do
// not fit the root.
func (v *volume) loadTree(publishedSize uint64) error {
	size := v.chain.Edge.Size()
	err := v.loadFrom(publishedSize, size)
	if err == nil {
		var root tlog.Hash
		if root, err = v.tree.rootAt(size); err == nil && root == v.chain.Edge.Root() {
			return nil
		}
	}
	if err := v.loadFrom(0, size); err != nil {
		return err
	}
	root, err := v.tree.rootAt(size)
	if err != nil {
		return err
	}
	if root != v.chain.Edge.Root() {
		return &proof.Fault{Log: v.origin, What: "its entries do not give the root its newest segment starts from"}
	}
	return nil
}

func (v *volume) loadFrom(publishedSize, size uint64) error {
	v.tree.mu.Lock()
	v.tree.levels = nil
	v.tree.mu.Unlock()
	for level := 0; size>>(8*level) > 0; level++ {
		base := publishedSize >> (8 * (level + 1)) * proof.TileWidth
		v.tree.mu.Lock()
		v.tree.levels = append(v.tree.levels, tileLevel{base: base})
		v.tree.mu.Unlock()
		var nodes []node
		if level == 0 {
			err := v.each(base, size, func(_ uint64, r proof.Record) error {
				nodes = append(nodes, node{0, r.Leaf})
				return nil
			})
			if err != nil {
				return err
			}
		} else {
			for n := base; n < size>>(8*level); n++ {
				h, err := v.tree.run(level-1, n*proof.TileWidth, proof.TileWidth)
				if err != nil {
					return err
				}
				nodes = append(nodes, node{level, proof.SubtreeHash(h)})
			}
		}
		v.tree.add(nodes)
	}
	return nil
}

// base returns how many hashes of a level are in published tiles.
func (t *tree) base(level int) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if level >= len(t.levels) {
		return 0
	}
	return t.levels[level].base
}
