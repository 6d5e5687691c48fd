package catalog

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
)

func itoa(i int) string { return strconv.Itoa(i) }

// pin is the digest of a definition's meaning. The domain prefix keeps a
// definition of one kind from having the pin of another.
func pin(kind string, def ostiary.Value) ostiary.Digest {
	b := append(make([]byte, 0, len(def.Bytes())+64), "ostiary/definition/v1\x00"+kind+"\x00"...)
	return ostiary.DigestOf(appendCanonical(b, def))
}

// appendCanonical appends the meaning of a value: members sorted by their
// decoded names, strings decoded and spelled one way, numbers as their text,
// no white space. Numbers are not normalised: 1 and 1.0 are two meanings here,
// which costs a question too many and never one too few.
func appendCanonical(dst []byte, v ostiary.Value) []byte {
	switch v.Kind() {
	case ostiary.Object:
		dst = append(dst, '{')
		for i, m := range sortedMembers(v) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendQuoted(dst, m.name), ':')
			dst = appendCanonical(dst, m.value)
		}
		return append(dst, '}')
	case ostiary.Array:
		dst = append(dst, '[')
		for i, e := range v.Elements() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCanonical(dst, e)
		}
		return append(dst, ']')
	case ostiary.String:
		return appendQuoted(dst, v.Text())
	}
	return append(dst, v.Bytes()...)
}

type member struct {
	name  string
	value ostiary.Value
}

func sortedMembers(v ostiary.Value) []member {
	ms := make([]member, 0, v.Len())
	for name, value := range v.Members() {
		ms = append(ms, member{name, value})
	}
	slices.SortFunc(ms, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return ms
}

const hexDigits = "0123456789abcdef"

// appendQuoted spells a string as JSON in one way.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// nesting reports whether v has at most depth levels.
func nesting(v ostiary.Value, depth int) bool {
	if depth < 0 {
		return false
	}
	for _, m := range v.Members() {
		if !nesting(m, depth-1) {
			return false
		}
	}
	for _, e := range v.Elements() {
		if !nesting(e, depth-1) {
			return false
		}
	}
	return true
}

// pretty prints a definition's meaning for people, a line per member. A text
// of several lines stands below its name, each line marked, so that none can
// pass for a member. Every line has gone through Show.
func pretty(v ostiary.Value) []string {
	var p printer
	p.value("", "", v, "")
	return p.lines
}

type printer struct{ lines []string }

func (p *printer) line(indent, s string) { p.lines = append(p.lines, indent+Show(s)) }

func (p *printer) value(indent, label string, v ostiary.Value, comma string) {
	deeper := indent + "  "
	switch v.Kind() {
	case ostiary.Object:
		p.line(indent, label+"{")
		ms := sortedMembers(v)
		for i, m := range ms {
			p.value(deeper, string(appendQuoted(nil, m.name))+": ", m.value, commaUnless(i == len(ms)-1))
		}
		p.line(indent, "}"+comma)
	case ostiary.Array:
		p.line(indent, label+"[")
		for i, e := range v.Elements() {
			p.value(deeper, "", e, commaUnless(i == v.Len()-1))
		}
		p.line(indent, "]"+comma)
	case ostiary.String:
		s := v.Text()
		if !strings.Contains(s, "\n") {
			p.line(indent, label+string(appendQuoted(nil, s))+comma)
			return
		}
		p.line(indent, label+"text:")
		for l := range strings.SplitSeq(s, "\n") {
			p.line(deeper, "| "+l)
		}
	default:
		p.line(indent, label+string(v.Bytes())+comma)
	}
}

func commaUnless(last bool) string {
	if last {
		return ""
	}
	return ","
}

// maxDiffCells bounds the table of a line difference: 4 million cells are
// 16 MB and some milliseconds. Beyond it everything between the common ends
// counts as replaced.
const maxDiffCells = 4 << 20

// lineDiff returns the lines of both sides, marked "-", "+" or " ".
func lineDiff(a, b []string) []string {
	var out, tail []string
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		out = append(out, "  "+a[0])
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, "  "+a[len(a)-1])
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	slices.Reverse(tail)
	keep := common(a, b)
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(keep) > 0 && len(a) > 0 && len(b) > 0 && a[0] == keep[0] && b[0] == keep[0]:
			out = append(out, "  "+a[0])
			a, b, keep = a[1:], b[1:], keep[1:]
		case len(a) > 0 && (len(keep) == 0 || a[0] != keep[0]):
			out = append(out, "- "+a[0])
			a = a[1:]
		default:
			out = append(out, "+ "+b[0])
			b = b[1:]
		}
	}
	return append(out, tail...)
}

// common returns a longest common subsequence.
func common(a, b []string) []string {
	w := len(b) + 1
	if (len(a)+1)*w > maxDiffCells {
		return nil
	}
	t := make([]int32, (len(a)+1)*w)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				t[i*w+j] = t[(i+1)*w+j+1] + 1
			} else {
				t[i*w+j] = max(t[(i+1)*w+j], t[i*w+j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			out = append(out, a[i])
			i, j = i+1, j+1
		case t[(i+1)*w+j] >= t[i*w+j+1]:
			i++
		default:
			j++
		}
	}
	return out
}
