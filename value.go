package ostiary

import (
	"iter"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ValueKind is the type of one JSON value.
type ValueKind uint8

const (
	Absent ValueKind = iota // the zero Value: nothing is there
	Null
	False
	True
	Number
	String
	Array
	Object
)

// Node is one JSON value, or one member name, in a document: its place in the
// original bytes and the number of nodes below it. A document's nodes stand
// in the order of the text. The members of an object follow it as pairs of a
// name node and a value with all that value's own nodes.
type Node struct {
	Kind    ValueKind
	Escaped bool   // a String that holds a backslash
	Start   uint32 // offset of the first byte, quotes and brackets included
	End     uint32 // offset after the last byte
	Count   uint32 // children: elements of an Array, members of an Object
	Next    uint32 // index of the next node that is not inside this one
}

// Document is a scanned JSON text: the bytes as they arrived and where each
// value lies in them. It is immutable. Only a strict scanner makes one, so
// holding a Document means: one value, valid UTF-8, no duplicate or
// case-folded names, within limits.
type Document struct {
	bytes []byte
	nodes []Node
}

// NewDocument is for scanners. It takes ownership of both slices.
func NewDocument(b []byte, nodes []Node) *Document { return &Document{b, nodes} }

// Root returns the document's one value, Absent if there is none.
func (d *Document) Root() Value {
	if d == nil || len(d.nodes) == 0 {
		return Value{}
	}
	return Value{d, 0}
}

// Bytes returns the whole text. The caller must not change it.
func (d *Document) Bytes() []byte { return d.bytes }

// Value is a view of one JSON value inside a Document: never a copy, so what
// it shows is what arrived. The zero Value is Absent.
type Value struct {
	doc  *Document
	node uint32
}

func (v Value) at() *Node { return &v.doc.nodes[v.node] }

// Kind returns the type of the value, Absent for the zero Value.
func (v Value) Kind() ValueKind {
	if v.doc == nil {
		return Absent
	}
	return v.at().Kind
}

// Exists reports whether there is a value; null exists.
func (v Value) Exists() bool { return v.doc != nil }

// Bytes returns the original text of the value, nil if it is absent. The
// caller must not change it.
func (v Value) Bytes() []byte {
	if v.doc == nil {
		return nil
	}
	n := v.at()
	return v.doc.bytes[n.Start:n.End:n.End]
}

// Span returns where the value lies in its document's bytes.
func (v Value) Span() (start, end int) {
	if v.doc == nil {
		return 0, 0
	}
	n := v.at()
	return int(n.Start), int(n.End)
}

// Len returns the number of elements or members.
func (v Value) Len() int {
	if k := v.Kind(); k != Array && k != Object {
		return 0
	}
	return int(v.at().Count)
}

// Text returns a String decoded, and "" for any other kind.
func (v Value) Text() string {
	if v.Kind() != String {
		return ""
	}
	n := v.at()
	raw := v.doc.bytes[n.Start+1 : n.End-1]
	if !n.Escaped {
		return string(raw)
	}
	return unescape(raw)
}

// Is reports whether the value is the string s.
func (v Value) Is(s string) bool {
	if v.Kind() != String {
		return false
	}
	n := v.at()
	if !n.Escaped {
		return string(v.doc.bytes[n.Start+1:n.End-1]) == s
	}
	return v.Text() == s
}

// Literal returns the text of a Number exactly as it arrived: numbers are
// never rounded through a float here.
func (v Value) Literal() string {
	if v.Kind() != Number {
		return ""
	}
	return string(v.Bytes())
}

// Int returns a Number that is an integer literal within 64 bits: no
// fraction, no exponent, no minus zero.
func (v Value) Int() (int64, bool) {
	if v.Kind() != Number {
		return 0, false
	}
	s := string(v.Bytes())
	if s == "-0" {
		return 0, false
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, false
	}
	return i, true
}

// Get returns the member of an object with that name, Absent if there is none
// or v is no object.
func (v Value) Get(name string) Value {
	if v.Kind() != Object {
		return Value{}
	}
	end := v.at().Next
	for i := v.node + 1; i < end; {
		name0 := Value{v.doc, i}
		val := Value{v.doc, i + 1}
		if name0.Is(name) {
			return val
		}
		i = val.at().Next
	}
	return Value{}
}

// Members ranges over an object's members in the order of the text.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != Object {
			return
		}
		end := v.at().Next
		for i := v.node + 1; i < end; {
			val := Value{v.doc, i + 1}
			if !yield(Value{v.doc, i}.Text(), val) {
				return
			}
			i = val.at().Next
		}
	}
}

// Pairs ranges over an object's members like Members, with each name as the
// value it is in the text: for readers that need no copy of it.
func (v Value) Pairs() iter.Seq2[Value, Value] {
	return func(yield func(Value, Value) bool) {
		if v.Kind() != Object {
			return
		}
		end := v.at().Next
		for i := v.node + 1; i < end; {
			val := Value{v.doc, i + 1}
			if !yield(Value{v.doc, i}, val) {
				return
			}
			i = val.at().Next
		}
	}
}

// Elements ranges over an array's elements.
func (v Value) Elements() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != Array {
			return
		}
		end := v.at().Next
		for i, k := v.node+1, 0; i < end; k++ {
			val := Value{v.doc, i}
			if !yield(k, val) {
				return
			}
			i = val.at().Next
		}
	}
}

// Pointer appends a member name to a JSON Pointer (RFC 6901).
func Pointer(base, name string) string {
	if !strings.ContainsAny(name, "~/") {
		return base + "/" + name
	}
	return base + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// Find returns the value a JSON Pointer (RFC 6901) points to from v: a member
// by its name, an element by its index. Absent if there is none, or if the
// pointer is none.
func (v Value) Find(pointer string) Value {
	if !IsPointer(pointer) {
		return Value{}
	}
	for part := range strings.SplitSeq(pointer[1:], "/") {
		switch v.Kind() {
		case Object:
			v = v.Get(unpointer(part))
		case Array:
			v = v.element(part)
		default:
			return Value{}
		}
	}
	return v
}

func unpointer(part string) string {
	if !strings.Contains(part, "~") {
		return part
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
}

// element returns an element by its index as a pointer writes it.
func (v Value) element(index string) Value {
	i, err := strconv.Atoi(index)
	if err != nil || strconv.Itoa(i) != index {
		return Value{}
	}
	for k, e := range v.Elements() {
		if k == i {
			return e
		}
	}
	return Value{}
}

// IsPointer reports whether s is a JSON Pointer into something: it begins with
// a slash, and each tilde is followed by 0 or 1.
func IsPointer(s string) bool {
	if !strings.HasPrefix(s, "/") {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}

// unescape decodes the inside of a string literal that a scanner has already
// found to be valid.
func unescape(raw []byte) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' {
			out = append(out, c)
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) && i+6 < len(raw) && raw[i+1] == '\\' && raw[i+2] == 'u' {
				if low := utf16.DecodeRune(r, hex4(raw[i+3:])); low != utf8.RuneError {
					r = low
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, raw[i])
		}
	}
	return string(out)
}

func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			r |= rune(c - 'A' + 10)
		}
	}
	return r
}
