package store

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"slices"

	"github.com/ostiary/ostiary"
)

// A block is what the index knows of entries of one log that follow one
// another: nothing that is written in them, only fingerprints by which a
// filter finds the few that may fit. Whether they do is read in the log. Two
// values with one fingerprint cost a look at an entry, so a fingerprint may
// include an entry and never leave one out.
//
// The newest block grows in memory. Once full it is stored as a run, in parts
// that are read one by one.

// blockEntries is how many entries a run has: a place and the link it is for
// share 16 bits, and no more than these are read again at start.
const (
	placeBits    = 14
	blockEntries = 1 << placeBits
)

// timesEach is how far apart the times are that a block keeps.
const timesEach = 64

// The columns of a block, and the values that each keeps of an entry. Values
// that come together share a column.
const (
	columnAgent   = iota // the id, and its last segment
	columnAction         // the full name, the name without its server, the server
	columnPerson         // the principal
	columnSession        //
	columnCode           //
	columns
)

const columnWords = 3

// value is what a column has for one entry.
type value [columnWords]uint32

// The links of a block: by which ids an entry is looked up.
const (
	linkID      = iota // its own
	linkOutcome        // that of the Intent whose Outcome it is
	linkAnswers        // that of the Intent it answers as anything else
	linkParent         // that of the call it was made inside
)

// buckets is how many parts the links of a run are stored in, by the first
// bits of their fingerprints: a look-up reads one.
const (
	bucketBits = 6
	buckets    = 1 << bucketBits
	linkBytes  = 6
)

// The parts of a run, in their order.
const (
	partMarks    = iota // kind, permit and disposition of each entry
	partAnswered        // which Intents have their Outcome in the same run
	partTimes           // time of every 64th entry
	partWords           // of each column, the values there are
	partCodes    = partWords + columns
	partLinks    = partCodes + columns
	parts        = partLinks + buckets
)

// places is a set of entries of a block.
type places [blockEntries / 64]uint64

func (p *places) add(i int) { p[i/64] |= 1 << (i % 64) }

// keep leaves what is in [from, to).
func (p *places) keep(from, to int) {
	for i := range p {
		low, high := max(from-64*i, 0), min(to-64*i, 64)
		switch {
		case low >= high:
			p[i] = 0
		default:
			p[i] &= ^uint64(0) >> (64 - (high - low)) << low
		}
	}
}

// take moves up to n members out of the set, the greatest or the least, and
// returns them in ascending order.
func (p *places) take(n int, greatest bool) []int {
	var out []int
	for k := range p {
		i := k
		if greatest {
			i = len(p) - 1 - k
		}
		for p[i] != 0 && len(out) < n {
			b := bits.TrailingZeros64(p[i])
			if greatest {
				b = 63 - bits.LeadingZeros64(p[i])
			}
			p[i] &^= 1 << b
			out = append(out, 64*i+b)
		}
	}
	if greatest {
		slices.Reverse(out)
	}
	return out
}

type block struct {
	first uint64 // index of its first entry
	n     int
	since int64 // time of the first entry
	until int64 // and of the last
	last  ostiary.EntryID

	marks    []byte
	answered places
	times    []int64
	columns  [columns]column
	links    []link
	running  map[ostiary.EntryID]uint16 // Intents of this block without Outcome yet
}

type column struct {
	words []byte // the values, by code
	codes []byte // one for each entry
	known map[value]uint16
}

type link struct {
	print uint32
	at    uint16 // what it links in the upper two bits, the place below
}

func newBlock(first uint64) *block {
	b := &block{first: first, running: map[ostiary.EntryID]uint16{}}
	for c := range b.columns {
		b.columns[c].known = map[value]uint16{}
	}
	return b
}

// fingerprint is FNV-1a, folded. Whoever makes values collide makes queries
// slower and nothing else.
func fingerprint[T string | []byte](s T) uint32 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return uint32(h ^ h>>32)
}

// add takes in the next entry.
func (b *block) add(e *ostiary.Entry) {
	i, t := b.n, nanos(e.Time)
	if i == 0 {
		b.since = t
	}
	if i%timesEach == 0 {
		b.times = append(b.times, t)
	}
	b.until, b.last = t, e.ID
	b.n++
	b.marks = append(b.marks, markOf(e))
	b.columns[columnAgent].add(value{fingerprint(string(e.Agent)), fingerprint(e.Agent.Name())})
	b.columns[columnAction].add(value{fingerprint(e.Action), fingerprint(toolOf(e)), fingerprint(e.Server)})
	b.columns[columnPerson].add(value{fingerprint(string(e.Principal))})
	b.columns[columnSession].add(value{fingerprint(string(e.Session))})
	b.columns[columnCode].add(value{fingerprint(e.Code)})
	b.link(linkID, e.ID, i)
	b.link(linkParent, e.Parent, i)
	switch {
	case e.Kind == ostiary.KindOutcome:
		b.link(linkOutcome, e.Answers, i)
		if at, ok := b.running[e.Answers]; ok {
			b.answered.add(int(at))
			delete(b.running, e.Answers)
		}
	default:
		b.link(linkAnswers, e.Answers, i)
	}
	if e.Kind == ostiary.KindIntent {
		b.running[e.ID] = uint16(i)
	}
}

func (b *block) link(kind int, id ostiary.EntryID, i int) {
	if !id.IsZero() {
		b.links = append(b.links, link{fingerprint(id[:]), uint16(kind<<placeBits | i)})
	}
}

func (c *column) add(v value) {
	code, ok := c.known[v]
	if !ok {
		code = uint16(len(c.known))
		c.known[v] = code
		for _, w := range v {
			c.words = binary.LittleEndian.AppendUint32(c.words, w)
		}
	}
	c.codes = binary.LittleEndian.AppendUint16(c.codes, code)
}

// markOf puts kind, permit and disposition into one byte.
func markOf(e *ostiary.Entry) byte {
	return byte(e.Kind)<<4 | byte(e.Disposition)<<1 | byte(flag(e.Permit))
}

// A mark has four bits for the kind and three for the disposition.
const (
	markKinds        = 1 << 4
	markDispositions = 1 << 3
)

// encode returns the parts of a run.
func (b *block) encode() [][]byte {
	out := make([][]byte, parts)
	for i := range partLinks {
		out[i], _ = b.part(i) // memory does not fail
	}
	for _, l := range b.links {
		p := &out[partLinks+bucketOf(l.print)]
		*p = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(*p, l.print), l.at)
	}
	return out
}

func bucketOf(print uint32) int { return int(print >> (32 - bucketBits)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealPart adds the sum by which a damaged part is noticed: SQLite does not
// check its pages.
func sealPart(id int64, b []byte) []byte {
	return binary.LittleEndian.AppendUint32(append(make([]byte, 0, len(b)+4), b...), partSum(id, b))
}

func openPart(id int64, b []byte) ([]byte, bool) {
	n := len(b) - 4
	if n < 0 || binary.LittleEndian.Uint32(b[n:]) != partSum(id, b[:n]) {
		return nil, false
	}
	return b[:n], true
}

func partSum(id int64, b []byte) uint32 {
	var head [8]byte
	binary.LittleEndian.PutUint64(head[:], uint64(id))
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, b)
}

func errPart() error {
	return ostiary.Errorf(ostiary.Corrupt, "index_damaged", "a part of the log's index does not verify; it is made again")
}

// part returns one part of a block in memory, all but its links.
func (b *block) part(number int) ([]byte, error) {
	switch {
	case number == partMarks:
		return b.marks, nil
	case number == partAnswered:
		return packed(b.answered[:]), nil
	case number == partTimes:
		return packed(b.times), nil
	case number < partCodes:
		return b.columns[number-partWords].words, nil
	default:
		return b.columns[number-partCodes].codes, nil
	}
}

func packed[T int64 | uint64](list []T) []byte {
	out := make([]byte, 0, 8*len(list))
	for _, v := range list {
		out = binary.LittleEndian.AppendUint64(out, uint64(v))
	}
	return out
}

// linked implements parted.
func (b *block) linked(id ostiary.EntryID, kinds ...int) ([]int, error) {
	var out []int
	print := fingerprint(id[:])
	for _, l := range b.links {
		if l.print == print && slices.Contains(kinds, int(l.at>>placeBits)) {
			out = append(out, int(l.at&(blockEntries-1)))
		}
	}
	return out, nil
}
