// Package strictjson reads foreign JSON once, strictly, and says where each
// value lies in the bytes that arrived. It encodes nothing and changes
// nothing, so what was checked is what can be forwarded.
//
// It guarantees of every document it returns: exactly one JSON value
// (RFC 8259) and nothing after it but white space; valid UTF-8 without
// overlong, truncated or surrogate sequences; no lone surrogate escapes; no
// NUL in member names, and none in string values unless the limits allow it;
// no two names in one object that are equal after unescaping, and none that
// are equal under Unicode simple case folding; no number that another reader
// could take for infinity or for zero; and the given [Limits]. Where two
// readers of the same bytes could disagree, the document is refused, never
// repaired.
//
// It trusts nobody: time is linear in the input (with the names of an object
// sorted by a hash with a fresh random seed), and memory is bounded by the
// limits, which are checked while scanning. It does not look at meaning:
// envelopes and schemas are for its callers. Numbers keep their text; nothing
// here rounds them.
package strictjson

import (
	"bytes"
	"hash/maphash"
	"math"
	"strconv"

	"github.com/ostiary/ostiary"
)

// Limits bounds one document. Whatever is zero allows nothing, so the zero
// Limits refuses every document.
type Limits struct {
	Bytes    int  // length of the whole text
	Depth    int  // arrays and objects inside one another; never more than 512
	Nodes    int  // values and member names together; each costs 20 bytes of memory
	Elements int  // elements of one array, members of one object
	Literal  int  // bytes of one number
	Key      int  // bytes of one member name as written, without its quotes
	NUL      bool // string values, never names, may hold an escaped U+0000
}

// Request is for what a caller sends. 4 MiB is the largest body a door takes.
// Depth 64 is far beyond real arguments and far below what costs other
// readers quadratic time or their stack. 32,768 nodes cost 640 KiB, less than
// the bytes they came from. Policy turns arrays into sets whose hashes are
// not keyed, so no array may have more than 1,024 elements. 64 bytes hold any
// 64-bit number and any shortest float with room to spare; names of 512 bytes
// hold paths and URLs. NUL is refused everywhere: a tool written in C would
// read a different, shorter argument than policy did.
var Request = Limits{Bytes: 4 << 20, Depth: 64, Nodes: 32 << 10, Elements: 1024, Literal: 64, Key: 512}

// Schema is for one tool's JSON Schemas and other definitions, which are
// compiled: smaller than a request, but with room for long enumerations.
var Schema = Limits{Bytes: 1 << 20, Depth: 64, Nodes: 32 << 10, Elements: 4096, Literal: 64, Key: 512}

// Reply is for what a server answers: lists of tools and results, which are
// data for the caller and never become policy's sets. Text read from a file
// may hold NUL.
var Reply = Limits{Bytes: 16 << 20, Depth: 64, Nodes: 512 << 10, Elements: 64 << 10, Literal: 64, Key: 512, NUL: true}

// maxDepth bounds the scanner's own recursion whatever the limits say.
const maxDepth = 512

// Parse scans one document. It takes ownership of b: the document points into
// it, and the caller must not change it afterwards. Errors are *ostiary.Error
// of kind Malformed. Their Field is a JSON Pointer to the value in question,
// "" for the document, and their Code is one of
//
//	too_large, depth, nodes, elements, literal, key   over a limit
//	empty, syntax, trailing_data, utf8, surrogate     not one JSON document
//	duplicate_key, case_folded_key, nul, number, fold  readable in two ways
//
// Parse keeps no state; it is safe for concurrent use.
func Parse(b []byte, l Limits) (*ostiary.Document, error) {
	if len(b) > l.Bytes || uint64(len(b)) > math.MaxUint32 {
		return nil, ostiary.Errorf(ostiary.Malformed, "too_large", "the document is longer than %d bytes", max(l.Bytes, 0))
	}
	s := &scanner{
		b:      b,
		limits: l,
		nodes:  make([]ostiary.Node, 0, estimate(b, l.Nodes)),
		seed:   maphash.MakeSeed(),
	}
	s.limits.Depth = min(l.Depth, maxDepth)
	s.names = s.firstNames[:0]
	s.fold.buf = s.firstFolded[:0]
	if err := s.document(); err != nil {
		return nil, err
	}
	return ostiary.NewDocument(b, s.nodes), nil
}

// estimate returns how many nodes the text can have at most, so that the tape
// is allocated once: every value but the first follows one of , : [ {, and
// every name precedes a colon. Strings full of these characters make it too
// high, so it is capped by what the bytes and the limit could hold.
func estimate(b []byte, limit int) int {
	colons := bytes.Count(b, []byte{':'})
	n := 1 + 2*colons + bytes.Count(b, []byte{','}) + bytes.Count(b, []byte{'['})
	return max(0, min(n, len(b)/2+1, limit))
}

// scanner is the state of one Parse: one allocation, whose arrays hold what
// most documents need.
type scanner struct {
	b      []byte
	at     int
	limits Limits
	nodes  []ostiary.Node
	names  []name // of all objects still open, the innermost last
	fold   folder
	seed   maphash.Seed

	firstNames  [24]name
	firstFolded [64]byte
}

func (s *scanner) document() error {
	s.space()
	if s.at == len(s.b) {
		return ostiary.Errorf(ostiary.Malformed, "empty", "there is no document")
	}
	if err := s.value(0); err != nil {
		return err
	}
	s.space()
	if s.at != len(s.b) {
		return ostiary.Errorf(ostiary.Malformed, "trailing_data", "something follows the document at byte %d", s.at)
	}
	return nil
}

// refuse makes the error of the value at hand. The containers around it put
// their pointers in front while it travels up.
func (s *scanner) refuse(code, format string, args ...any) *ostiary.Error {
	return ostiary.Errorf(ostiary.Malformed, code, format, args...)
}

func (s *scanner) unexpected(want string) *ostiary.Error {
	if s.at >= len(s.b) {
		return s.refuse("syntax", "the document ends where %s should be", want)
	}
	return s.refuse("syntax", "byte %d is not %s", s.at, want)
}

func (s *scanner) space() {
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.at == len(s.b) {
		return 0
	}
	return s.b[s.at]
}

// open appends a node that starts here.
func (s *scanner) open(kind ostiary.ValueKind) (int, *ostiary.Error) {
	i := len(s.nodes)
	if i >= s.limits.Nodes {
		return 0, s.refuse("nodes", "the document has more than %d values and names", s.limits.Nodes)
	}
	s.nodes = append(s.nodes, ostiary.Node{Kind: kind, Start: uint32(s.at)})
	return i, nil
}

// close ends node i here, after all nodes appended since.
func (s *scanner) close(i int) {
	s.nodes[i].End = uint32(s.at)
	s.nodes[i].Next = uint32(len(s.nodes))
}

// value scans the value that starts here, inside depth containers.
func (s *scanner) value(depth int) *ostiary.Error {
	switch c := s.peek(); c {
	case '{':
		return s.object(depth + 1)
	case '[':
		return s.array(depth + 1)
	case '"':
		_, err := s.text(s.limits.Bytes, s.limits.NUL)
		return err
	case 't':
		return s.word("true", ostiary.True)
	case 'f':
		return s.word("false", ostiary.False)
	case 'n':
		return s.word("null", ostiary.Null)
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return s.number()
		}
		return s.unexpected("a JSON value")
	}
}

func (s *scanner) word(w string, kind ostiary.ValueKind) *ostiary.Error {
	if len(s.b)-s.at < len(w) || string(s.b[s.at:s.at+len(w)]) != w {
		return s.unexpected("a JSON value")
	}
	i, err := s.open(kind)
	if err != nil {
		return err
	}
	s.at += len(w)
	s.close(i)
	return nil
}

func (s *scanner) array(depth int) *ostiary.Error {
	if depth > s.limits.Depth {
		return s.refuse("depth", "more than %d arrays and objects inside one another", s.limits.Depth)
	}
	i, err := s.open(ostiary.Array)
	if err != nil {
		return err
	}
	s.at++
	if s.peek() == ']' {
		s.at++
		s.close(i)
		return nil
	}
	for n := 0; ; n++ {
		if n >= s.limits.Elements {
			return s.refuse("elements", "an array has more than %d elements", s.limits.Elements)
		}
		if err := s.value(depth); err != nil {
			return err.At("/" + strconv.Itoa(n) + err.Field)
		}
		switch s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			s.nodes[i].Count = uint32(n + 1)
			s.close(i)
			return nil
		default:
			return s.unexpected("a comma or the end of the array")
		}
	}
}

func (s *scanner) object(depth int) *ostiary.Error {
	if depth > s.limits.Depth {
		return s.refuse("depth", "more than %d arrays and objects inside one another", s.limits.Depth)
	}
	i, err := s.open(ostiary.Object)
	if err != nil {
		return err
	}
	s.at++
	if s.peek() == '}' {
		s.at++
		s.close(i)
		return nil
	}
	first := len(s.names)
	for n := 0; ; n++ {
		if n >= s.limits.Elements {
			return s.refuse("elements", "an object has more than %d members", s.limits.Elements)
		}
		if err := s.member(depth); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			s.nodes[i].Count = uint32(n + 1)
			s.close(i)
			err := s.distinct(s.names[first:])
			s.names = s.names[:first]
			return err
		default:
			return s.unexpected("a comma or the end of the object")
		}
	}
}

func (s *scanner) member(depth int) *ostiary.Error {
	if s.peek() != '"' {
		return s.unexpected("a member name")
	}
	i, err := s.text(s.limits.Key, false)
	if err != nil {
		if err.Code == "literal" {
			return s.refuse("key", "a member name is longer than %d bytes", s.limits.Key)
		}
		return err
	}
	if err := s.remember(i); err != nil {
		return err
	}
	if s.peek() != ':' {
		return s.unexpected("a colon").At(s.pointer(i))
	}
	s.at++
	if err := s.value(depth); err != nil {
		return err.At(s.pointer(i) + err.Field)
	}
	return nil
}
