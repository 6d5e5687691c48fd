package provenance

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// corpus is text taken apart and found again: an index of words and marks of
// everything added, so that a value is found in time that does not depend on
// how much was read.
type corpus struct {
	words []spoken
	heads map[hash]head
	marks []posted
	kinds map[hash]head
	spans []span
	nums  map[hash]int64 // what words that are numbers are worth, in hundredths
}

// spoken is one occurrence of a word.
type spoken struct {
	hash hash
	prev uint32 // the occurrence before it of the same, from 1; 0 if none
	span uint32 // with innerBit if it is a part of an address, a link or a date, and digitBit
}

const (
	innerBit uint32 = 1 << 31
	digitBit uint32 = 1 << 30 // it holds a digit
)

func (w *spoken) in() uint32   { return w.span &^ (innerBit | digitBit) }
func (w *spoken) inner() bool  { return w.span&innerBit != 0 }
func (w *spoken) digits() bool { return w.span&digitBit != 0 }

// posted is one occurrence of a mark; at and to are the words it covers.
type posted struct {
	hash   hash
	prev   uint32
	span   uint32
	at, to uint32
	kind   byte
}

type head struct{ last, count uint32 }

// span is one field as it stands in the corpus.
type span struct {
	result, record uint32
	kind           fieldKind
	within         within
	path           string
	from, to       uint32 // its words
	mark, markTo   uint32 // its marks
	only           hash   // of all of it, to count equal ones
	name           hash   // of the last part of the path that is no index
}

// hit is where a value was found.
type hit struct {
	span  uint32
	at    uint32 // its first word
	to    uint32 // its last word
	whole bool   // it is all that stands there
	inner bool   // it is a part of an address, a link or a date
	how   string // "exact", "inside", "base64", "hex", "url", "reversed", "cut", "combined"
}

func newCorpus() *corpus {
	return &corpus{heads: map[hash]head{}, kinds: map[hash]head{}, nums: map[hash]int64{}}
}

// markCut is the kind under which the ends of long values are posted.
const markCut byte = '~'

// cutLen is how much of a long value's beginning or end is enough to know it.
const cutLen = 8

// add posts a field. The scan is the caller's, used again for the next.
func (c *corpus) add(s *scan, result uint32, f field) {
	s.read(f.text)
	n := uint32(len(c.spans))
	base := uint32(len(c.words))
	x := span{result: result, record: f.record, kind: f.kind, within: f.within, path: f.path, from: base, mark: uint32(len(c.marks)), name: hashOf('n', lastName(f.path))}
	c.words, c.marks = roomFor(c.words, len(s.words)), roomFor(c.marks, len(s.marks))
	for i := range s.words {
		w := &s.words[i]
		h := c.heads[w.hash]
		in := n
		if w.inner {
			in |= innerBit
		}
		if w.digits {
			in |= digitBit
		}
		c.words = append(c.words, spoken{w.hash, h.last, in})
		c.heads[w.hash] = head{uint32(len(c.words)), h.count + 1}
		x.only = x.only*31 + w.hash
		if w.digits && h.count == 0 {
			if v, ok := cents(strings.ReplaceAll(s.text[w.start:w.end], ",", "")); ok {
				c.nums[w.hash] = v
			}
		}
	}
	for i := range s.marks {
		m := &s.marks[i]
		c.mark(m.hash, m.kind, n, base+m.first, base+m.last)
		if m.kind != markCompact || i+1 < len(s.marks) && s.marks[i+1].kind == markCompact && s.marks[i+1].first == m.first {
			continue
		}
		if t := compact(s.text[m.start:m.end]); len(t) >= cutLen+2 {
			c.mark(hashOf(markCut, "<"+t[:cutLen]), markCut, n, base+m.first, base+m.last)
			c.mark(hashOf(markCut, ">"+t[len(t)-cutLen:]), markCut, n, base+m.first, base+m.last)
		}
	}
	x.to, x.markTo = uint32(len(c.words)), uint32(len(c.marks))
	c.spans = append(c.spans, x)
}

// roomFor doubles a slice that is about to grow.
func roomFor[T any](list []T, n int) []T {
	if len(list)+n <= cap(list) {
		return list
	}
	return slices.Grow(list, max(n, len(list)))
}

// compact is an account without the separators of its groups.
func compact(t string) string {
	if strings.IndexFunc(t, func(r rune) bool { return r < 0x80 && !isWordByte(byte(r)) }) < 0 {
		return t
	}
	return strings.Map(func(r rune) rune {
		if r < 0x80 && isWordByte(byte(r)) {
			return r
		}
		return -1
	}, t)
}

func (c *corpus) mark(h hash, kind byte, span, at, to uint32) {
	k := c.kinds[h]
	c.marks = append(c.marks, posted{hash: h, prev: k.last, span: span, at: at, to: to, kind: kind})
	c.kinds[h] = head{uint32(len(c.marks)), k.count + 1}
}

// maxHits bounds how many places of one value are looked at. What stands in
// more of them counts as found in all kinds of places.
const maxHits = 2048

// find returns where a value stands, oldest first.
func (c *corpus) find(s *scan) (hits []hit, many bool) {
	n := len(s.words)
	if n == 0 || len(c.words) == 0 {
		return nil, false
	}
	for i := range s.marks {
		if m := &s.marks[i]; m.first == 0 && int(m.last) == n-1 && m.kind != markHost {
			hits, many = c.findMark(hits, m.hash, "exact")
			if many {
				return hits, true
			}
		}
	}
	hits, many = c.sequence(hits, s.words)
	slices.SortStableFunc(hits, func(a, b hit) int { return int(a.at) - int(b.at) })
	hits = slices.CompactFunc(hits, func(a, b hit) bool { return a.at == b.at && a.span == b.span && a.whole == b.whole })
	return hits, many
}

func (c *corpus) findMark(hits []hit, h hash, how string) ([]hit, bool) {
	for p, n := c.kinds[h].last, 0; p > 0; n++ {
		if n >= maxHits {
			return hits, true
		}
		m := &c.marks[p-1]
		x := &c.spans[m.span]
		whole := m.at == x.from && m.to+1 == x.to
		found := hit{m.span, m.at, m.to, whole, false, how}
		if !whole && how == "exact" {
			found.how = "inside"
		}
		hits = append(hits, found)
		p = m.prev
	}
	return hits, false
}

// sequence finds words that stand one after another.
func (c *corpus) sequence(hits []hit, words []word) ([]hit, bool) {
	rare := 0
	best := uint32(1<<32 - 1)
	for i := range words {
		h, ok := c.heads[words[i].hash]
		if !ok {
			return hits, false
		}
		if h.count < best {
			best, rare = h.count, i
		}
	}
	n := uint32(len(words))
	for p, seen := c.heads[words[rare].hash].last, 0; p > 0; seen++ {
		if seen >= maxHits {
			return hits, true
		}
		w := &c.words[p-1]
		at := p - 1
		p = w.prev
		x := &c.spans[w.in()]
		if at < x.from+uint32(rare) || at-uint32(rare)+n > x.to {
			continue
		}
		at -= uint32(rare)
		if !c.same(at, words) {
			continue
		}
		whole := at == x.from && at+n == x.to
		how := "exact"
		if !whole {
			how = "inside"
		}
		hits = append(hits, hit{w.in(), at, at + n - 1, whole, n == 1 && w.inner() && !whole, how})
	}
	return hits, false
}

func (c *corpus) same(at uint32, words []word) bool {
	for i := range words {
		if c.words[at+uint32(i)].hash != words[i].hash {
			return false
		}
	}
	return true
}

// wholly reports whether what stands at a hit is the value, and no part of an
// address, a link, a host or an account that is another: ann@acme.example is
// not in ann@acme.example.au.
func (c *corpus) wholly(s *scan, h hit) bool {
	host := hostLike(s.text)
	if len(s.marks) == 0 && !host {
		return true
	}
	sole, soleKind, particular := s.sole()
	larger := false
	x := &c.spans[h.span]
	for i := x.mark; i < x.markTo; i++ {
		m := &c.marks[i]
		switch m.kind {
		case markEmail, markLink, markHost, markCompact:
		default:
			continue
		}
		if m.at > h.to || m.to < h.at {
			continue
		}
		same := m.at == h.at && m.to == h.to
		if m.kind == markCompact {
			larger = larger || particular && h.at < h.to && (m.at == h.at && m.to > h.to || m.at < h.at && m.to >= h.to && c.words[h.at-1].digits())
			continue
		}
		switch {
		case same && (particular && m.hash == sole || host && m.hash == hashOf(markHost, s.text)),
			host && m.to == h.to && m.kind == markLink && m.hash == hashOf(markLink, normalLink(s.text)):
			return true
		case m.at < h.at || m.to > h.to:
			larger = true
		}
	}
	return !larger && (!particular || soleKind == markCompact) // an address or a link has its mark there
}

// hostLike reports whether a text may be the name of a host, with or without a
// path.
func hostLike(t string) bool {
	if i := strings.IndexAny(t, "/?:"); i >= 0 {
		t = t[:i]
	}
	dot := strings.LastIndexByte(t, '.')
	if dot <= 0 || len(t)-dot < 3 {
		return false
	}
	for i := range len(t) {
		if !isHost(t[i]) || i > dot && isDigit(t[i]) {
			return false
		}
	}
	return true
}

// edited finds a value that was changed on its way: encoded, reversed, cut, or
// put together from parts.
func (c *corpus) edited(s *scan, text string) []hit {
	if len(c.words) == 0 {
		return nil
	}
	var other scan
	for how, form := range decodings(text) {
		other.read(form)
		if hits, _ := c.find(&other); len(hits) > 0 {
			return named(hits, how)
		}
	}
	if len(text) >= minCompact {
		other.read(reverse(text))
		if hits, _ := c.find(&other); len(hits) > 0 && len(other.words) > 0 {
			return named(hits, "reversed")
		}
	}
	for i := range s.marks {
		m := &s.marks[i]
		if t := compact(s.text[m.start:m.end]); m.kind == markCompact && len(t) >= cutLen {
			for _, end := range [...]string{"<" + t[:cutLen], ">" + t[len(t)-cutLen:]} {
				if hits, _ := c.findMark(nil, hashOf(markCut, end), "cut"); len(hits) > 0 {
					return named(hits, "cut")
				}
			}
		}
	}
	return c.combined(s)
}

func named(hits []hit, how string) []hit {
	for i := range hits {
		hits[i].how, hits[i].whole = how, false
	}
	return hits
}

// combined finds a value most of whose letters come from the corpus, in
// pieces.
func (c *corpus) combined(s *scan) []hit {
	particular := func(m mark) bool { return m.kind != markDate && m.kind != markTime }
	if len(s.words) < 2 || strings.ContainsAny(s.text, " \n\t") && !slices.ContainsFunc(s.marks, particular) {
		return nil
	}
	total, found := 0, 0
	var first []hit
	for i := range s.words {
		w := &s.words[i]
		n := int(w.end - w.start)
		total += n
		h, ok := c.heads[w.hash]
		if !ok || n < 4 && !w.digits {
			continue
		}
		found += n
		if p := &c.words[h.last-1]; first == nil {
			first = []hit{{p.in(), h.last - 1, h.last - 1, false, p.inner(), "combined"}}
		}
	}
	if found*10 < total*6 {
		return nil
	}
	return first
}

// decodings yields what a value says in the encodings agents use.
func decodings(text string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		t := strings.TrimSpace(text)
		if strings.Contains(t, "%") {
			if u, err := url.QueryUnescape(t); err == nil && u != t && !yield("url", u) {
				return
			}
		}
		if d, ok := decoded(t); ok {
			yield("encoded", d)
		}
	}
}

// minEncoded is the least length of text that is tried as an encoding.
const minEncoded = 12

// decoded reads base64 or hexadecimal that says something readable.
func decoded(t string) (string, bool) {
	if len(t) < minEncoded || len(t) > 1<<16 || strings.ContainsAny(t, " \n\t@:.") {
		return "", false
	}
	if b, err := hex.DecodeString(t); err == nil && readable(b) {
		return string(b), true
	}
	trimmed := strings.TrimRight(t, "=")
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := e.DecodeString(trimmed); err == nil && readable(b) {
			return string(b), true
		}
	}
	return "", false
}

func readable(b []byte) bool {
	if len(b) < 6 || !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			return false
		}
	}
	return true
}

func reverse(s string) string {
	r := []rune(s)
	slices.Reverse(r)
	return string(r)
}

// size is how much memory the corpus takes, in postings.
func (c *corpus) size() int { return len(c.words) + len(c.marks) + 2*len(c.spans) }
