package proof

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// TileWidth is how many hashes or entries a full C2SP tile or bundle holds.
const TileWidth = 256

// TilePath is the C2SP tlog-tiles path of a tile of hashes; level -1 is the
// bundle of entries. Width is TileWidth for a full tile, 1 to 255 for a
// partial one. (tlog's own paths carry the height and are another format.)
func TilePath(level int, n uint64, width int) string {
	var b strings.Builder
	b.WriteString("tile/")
	if level < 0 {
		b.WriteString("entries/")
	} else {
		b.WriteString(strconv.Itoa(level) + "/")
	}
	var parts []string
	for ; n >= 1000; n /= 1000 {
		parts = append(parts, fmt.Sprintf("%03d", n%1000))
	}
	parts = append(parts, fmt.Sprintf("%03d", n))
	for i := len(parts) - 1; i >= 0; i-- {
		if i > 0 {
			b.WriteString("x" + parts[i] + "/")
		} else {
			b.WriteString(parts[0])
		}
	}
	if width != TileWidth {
		b.WriteString(".p/" + strconv.Itoa(width))
	}
	return b.String()
}

// AppendBundleEntry appends an entry to a bundle: two bytes of length, then
// the entry.
func AppendBundleEntry(dst, entry []byte) []byte {
	dst = append(dst, byte(len(entry)>>8), byte(len(entry)))
	return append(dst, entry...)
}

// ParseBundle splits a bundle into its entries, at most TileWidth.
func ParseBundle(b []byte) ([][]byte, error) {
	var l [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) || len(l) == TileWidth {
			return nil, ostiary.Errorf(ostiary.Malformed, "bundle", "a bundle of entries is cut short or too long")
		}
		n := int(b[0])<<8 | int(b[1])
		l = append(l, b[2:2+n:2+n])
		b = b[2+n:]
	}
	return l, nil
}

// SubtreeHash folds a power of two of neighbouring hashes to the root of
// their subtree. It overwrites them.
func SubtreeHash(h []tlog.Hash) tlog.Hash {
	for len(h) > 1 {
		for i := range len(h) / 2 {
			h[i] = tlog.NodeHash(h[2*i], h[2*i+1])
		}
		h = h[:len(h)/2]
	}
	return h[0]
}
