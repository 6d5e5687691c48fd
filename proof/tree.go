package proof

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// EmptyRoot is the root of a tree without leaves: the hash of nothing. tlog
// leaves this case to its caller.
var EmptyRoot = tlog.Hash(sha256.Sum256(nil))

// Edge is the right edge of a growing tree: the roots of its complete
// subtrees, all that is needed to append and to know the root. The zero Edge
// is the empty tree. Not safe for concurrent use.
type Edge struct {
	size   uint64
	hashes [64]tlog.Hash // by level; valid where size has the bit
}

// Size returns the number of leaves.
func (e *Edge) Size() uint64 { return e.size }

// Append adds a leaf. For each subtree it completes, whole is called with the
// level and hash, the leaf itself first (level 0); whole may be nil.
func (e *Edge) Append(leaf tlog.Hash, whole func(level int, h tlog.Hash)) {
	h, level := leaf, 0
	for {
		if whole != nil {
			whole(level, h)
		}
		if e.size>>level&1 == 0 {
			break
		}
		h = tlog.NodeHash(e.hashes[level], h)
		level++
	}
	e.hashes[level] = h
	e.size++
}

// Root returns the tree's root.
func (e *Edge) Root() tlog.Hash {
	if e.size == 0 {
		return EmptyRoot
	}
	level := bits.TrailingZeros64(e.size)
	root := e.hashes[level]
	for level++; level < 64; level++ {
		if e.size>>level&1 == 1 {
			root = tlog.NodeHash(e.hashes[level], root)
		}
	}
	return root
}

// Hashes returns the roots of the complete subtrees, largest first.
func (e *Edge) Hashes() []tlog.Hash {
	var l []tlog.Hash
	for level := 63; level >= 0; level-- {
		if e.size>>level&1 == 1 {
			l = append(l, e.hashes[level])
		}
	}
	return l
}

// EdgeOf puts an edge together from what Size and Hashes returned.
func EdgeOf(size uint64, hashes []tlog.Hash) (Edge, error) {
	e := Edge{size: size}
	if size > 1<<62 || len(hashes) != bits.OnesCount64(size) {
		return Edge{}, fmt.Errorf("a tree of %d leaves has not %d complete subtrees", size, len(hashes))
	}
	for level, i := 63, 0; level >= 0; level-- {
		if size>>level&1 == 1 {
			e.hashes[level] = hashes[i]
			i++
		}
	}
	return e, nil
}

// CheckInclusion verifies that the encoded entry stands at index in the tree
// of the checkpoint. The leaf is computed from the entry in hand.
func CheckInclusion(c Checkpoint, index uint64, entry []byte, path []tlog.Hash) error {
	if index >= c.Size || c.Size > 1<<62 || len(path) > 64 {
		return ostiary.Errorf(ostiary.Corrupt, "inclusion", "entry %d is not within a log of %d entries", index, c.Size)
	}
	if err := tlog.CheckRecord(path, int64(c.Size), c.Root, int64(index), LeafHash(entry)); err != nil {
		return ostiary.Errorf(ostiary.Corrupt, "inclusion", "entry %d is not in the log of %d entries with this root", index, c.Size).Because(err)
	}
	return nil
}

// CheckConsistency verifies that the newer checkpoint's tree extends the
// older one's. Everything extends the empty tree.
func CheckConsistency(older, newer Checkpoint, path []tlog.Hash) error {
	bad := func(why string) error {
		return ostiary.Errorf(ostiary.Corrupt, "consistency", "log of %d entries does not extend log of %d: %s", newer.Size, older.Size, why)
	}
	switch {
	case older.Size > newer.Size:
		return bad("it is shorter")
	case newer.Size > 1<<62 || len(path) > 130:
		return bad("it is too long")
	case older.Size == 0:
		if older.Root != EmptyRoot {
			return bad("the older root is not that of an empty log")
		}
		if len(path) != 0 {
			return bad("a proof for the empty log is empty")
		}
		return nil
	case older.Size == newer.Size:
		if older.Root != newer.Root || len(path) != 0 {
			return bad("same size, other root")
		}
		return nil
	}
	if err := tlog.CheckTree(path, int64(newer.Size), newer.Root, int64(older.Size), older.Root); err != nil {
		return bad("the proof does not hold")
	}
	return nil
}
