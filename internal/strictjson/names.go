package strictjson

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// name is a member name of an object that is still open. Names that are equal
// under case folding have equal hashes; the seed is fresh for each document,
// so nobody can choose names whose hashes meet.
type name struct {
	hash uint64
	node uint32
}

// few is how many names are compared pairwise; more are sorted first.
const few = 16

// remember adds the name at node i to the open object's.
func (s *scanner) remember(i int) *ostiary.Error {
	folded, ok := s.folded(i)
	if !ok {
		return s.refuse("fold", "the document has too many names whose case must be looked up")
	}
	s.names = append(s.names, name{maphash.Bytes(s.seed, folded), uint32(i)})
	return nil
}

// folded returns the case-folded text of a name, good until the next call.
func (s *scanner) folded(i int) ([]byte, bool) {
	n := &s.nodes[i]
	raw := s.b[n.Start+1 : n.End-1]
	if n.Escaped {
		raw = []byte(s.unescaped(i))
	}
	return s.fold.text(raw)
}

func (s *scanner) unescaped(i int) string {
	n := s.nodes[i]
	raw := bytes.Clone(s.b[n.Start:n.End])
	n.Start, n.End = 0, uint32(len(raw))
	return ostiary.NewDocument(raw, []ostiary.Node{n}).Root().Text()
}

// distinct refuses names that are equal or differ only in case. Of several
// culprits it names the earliest, whatever the seed.
func (s *scanner) distinct(names []name) *ostiary.Error {
	if len(names) > few {
		slices.SortFunc(names, func(a, b name) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.node, b.node))
		})
	}
	first, second := uint32(0), uint32(math.MaxUint32)
	for i := range names {
		for j := i + 1; j < len(names); j++ {
			if names[i].hash != names[j].hash {
				if len(names) > few {
					break
				}
				continue
			}
			if names[j].node < second && s.same(names[i], names[j]) {
				first, second = names[i].node, names[j].node
			}
			if len(names) > few {
				break // the next in order is compared with its neighbour
			}
		}
	}
	if second == math.MaxUint32 {
		return nil
	}
	if s.unescaped(int(first)) == s.unescaped(int(second)) {
		return s.refuse("duplicate_key", "the object has this member twice").At(s.pointer(int(second)))
	}
	return s.refuse("case_folded_key", "the object has two members whose names differ only in case").At(s.pointer(int(second)))
}

func (s *scanner) same(a, b name) bool {
	fa, ok := s.folded(int(a.node))
	if !ok {
		return true
	}
	fa = bytes.Clone(fa)
	fb, ok := s.folded(int(b.node))
	return !ok || bytes.Equal(fa, fb)
}

// pointer returns the JSON Pointer segment of the name at node i, shortened
// if it is long, since it is shown in errors.
func (s *scanner) pointer(i int) string {
	const shown = 64
	t := s.unescaped(i)
	if len(t) > shown {
		cut := shown
		for !utf8.RuneStart(t[cut]) {
			cut--
		}
		t = t[:cut] + "…"
	}
	return ostiary.Pointer("", t)
}

// maxLookups bounds the look-ups in Unicode's tables for one document, about
// 100 ns each. The memory of recent runes keeps honest text, in which few
// letters repeat, far below it.
const maxLookups = 128 << 10

// folder maps text to a form in which all strings that are equal under
// Unicode simple case folding are equal.
type folder struct {
	buf     []byte
	recent  *[256]foldedRune // by the rune's low bits; nil until the first rune that needs it
	lookups int
}

type foldedRune struct{ from, to rune }

func (f *folder) text(raw []byte) ([]byte, bool) {
	out := f.buf[:0]
	for i := 0; i < len(raw); {
		c := raw[i]
		if c < utf8.RuneSelf {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			out = append(out, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(raw[i:])
		i += n
		out = utf8.AppendRune(out, f.rune(r))
	}
	f.buf = out
	return out, f.lookups <= maxLookups
}

func (f *folder) rune(r rune) rune {
	if r >= 0x2E80 && r < 0xA640 || r >= 0xAC00 && r < 0xFB00 {
		return r // Han, Kana, Hangul, surrogates and private use have no case
	}
	if f.recent == nil {
		f.recent = new([256]foldedRune)
	}
	slot := &f.recent[byte(r)]
	if slot.from != r {
		f.lookups++
		if f.lookups > maxLookups {
			return r
		}
		*slot = foldedRune{r, smallest(r)}
	}
	return slot.to
}

// smallest returns the least rune of those that fold together, in lower case
// if that is a letter of ASCII.
func smallest(r rune) rune {
	least := r
	for x := unicode.SimpleFold(r); x != r; x = unicode.SimpleFold(x) {
		least = min(least, x)
	}
	if least >= 'A' && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}
