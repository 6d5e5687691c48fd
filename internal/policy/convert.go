package policy

import (
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// refusal says why a request cannot be put to policy. It becomes a denial
// with its own code; text is about the caller's own input and safe to show.
type refusal struct{ code, text string }

func refuse(code, text string) *refusal { return &refusal{code, text} }

func refuseAt(code, field, text string) *refusal {
	if field == "" {
		return refuse(code, "the arguments: "+text)
	}
	return refuse(code, "argument "+field+": "+text)
}

// converter turns one call's arguments into Cedar values by the tool's shape,
// from the bytes as they arrived. It never uses Cedar's own JSON decoder,
// which would let an argument pose as an entity.
type converter struct {
	left int
	top  cedar.RecordMap // empty, to gather the arguments in; nil makes one
}

// input converts the arguments of a tool call. absent reports for each
// declared argument, in the shape's order, whether it is missing.
func (c *converter) input(s *shape, v ostiary.Value) (cedar.Record, *refusal) {
	if s.Open {
		return cedar.Record{}, nil // nothing of it is visible
	}
	if !v.Exists() {
		for _, f := range s.Fields {
			if !f.Optional {
				return cedar.Record{}, refuseAt("unvalidated_request", "/"+escape(f.Name), "it is required")
			}
		}
		return cedar.Record{}, nil
	}
	return c.record(s, v, pointer{}, 0)
}

// pointer is a JSON Pointer that costs nothing until somebody needs its text.
type pointer struct {
	up   *pointer
	name string
	elem int // of an array, from 1; then name is empty
}

func (p *pointer) String() string {
	if p == nil || p.up == nil {
		return ""
	}
	if p.elem > 0 {
		return p.up.String() + "/" + strconv.Itoa(p.elem-1)
	}
	return p.up.String() + "/" + escape(p.name)
}

func escape(s string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(s) }

func (c *converter) record(s *shape, v ostiary.Value, at pointer, depth int) (cedar.Record, *refusal) {
	if v.Kind() != ostiary.Object {
		return cedar.Record{}, refuseAt("unvalidated_request", at.String(), "it must be an object")
	}
	if depth > maxDepth {
		return cedar.Record{}, refuseAt("over_budget", at.String(), "it is nested too deep")
	}
	m := c.top
	if c.top = nil; m == nil {
		m = make(cedar.RecordMap, v.Len())
	}
	seen := 0
	for name, val := range v.Pairs() {
		f := s.named(name)
		if f == nil {
			here := pointer{up: &at, name: name.Text()}
			return cedar.Record{}, refuseAt("unvalidated_request", here.String(), "the tool declares no such argument")
		}
		if f.Nullable && val.Kind() == ostiary.Null {
			continue
		}
		if !f.Optional {
			seen++
		}
		if f.Shape.Kind == kHidden {
			continue
		}
		x, r := c.value(f.Shape, val, pointer{up: &at, name: f.Name}, depth+1)
		if r != nil {
			return cedar.Record{}, r
		}
		m[cedar.String(f.Name)] = x
	}
	for _, f := range s.Fields {
		if f.Optional {
			continue
		}
		if seen--; seen < 0 {
			return cedar.Record{}, c.missing(s, v, at)
		}
	}
	return cedar.NewRecord(m), nil
}

// missing names the first required field that v lacks.
func (c *converter) missing(s *shape, v ostiary.Value, at pointer) *refusal {
	for _, f := range s.Fields {
		if !f.Optional && !v.Get(f.Name).Exists() {
			here := pointer{up: &at, name: f.Name}
			return refuseAt("unvalidated_request", here.String(), "it is required")
		}
	}
	return refuseAt("unvalidated_request", at.String(), "a required argument is missing")
}

func (c *converter) value(s *shape, v ostiary.Value, at pointer, depth int) (cedar.Value, *refusal) {
	if c.left--; c.left < 0 {
		return nil, refuseAt("over_budget", at.String(), "the arguments hold too many values for policy to read")
	}
	k := v.Kind()
	switch s.Kind {
	case kString:
		if k == ostiary.String {
			return cedar.String(v.Text()), nil
		}
		return nil, refuseAt("unvalidated_request", at.String(), "it must be a string")
	case kBool:
		if k == ostiary.True || k == ostiary.False {
			return cedar.Boolean(k == ostiary.True), nil
		}
		return nil, refuseAt("unvalidated_request", at.String(), "it must be true or false")
	case kLong, kDecimal:
		if k == ostiary.Number {
			return number(s.Kind, v.Literal(), at)
		}
		return nil, refuseAt("unvalidated_request", at.String(), "it must be a number")
	case kSet:
		return c.set(s, v, at, depth)
	case kRecord:
		return c.record(s, v, at, depth)
	}
	return nil, refuseAt("internal", at.String(), "policy has no reading of it")
}

func (c *converter) set(s *shape, v ostiary.Value, at pointer, depth int) (cedar.Value, *refusal) {
	if v.Kind() != ostiary.Array {
		return nil, refuseAt("unvalidated_request", at.String(), "it must be an array")
	}
	most := maxElements
	if s.Elem.Kind == kSet || s.Elem.Kind == kRecord {
		most = maxComposite
	}
	if v.Len() > most || depth > maxDepth {
		return nil, refuseAt("over_budget", at.String(), "the array is too long or too deep for policy to read")
	}
	vals := make([]cedar.Value, 0, v.Len())
	for i, e := range v.Elements() {
		x, r := c.value(s.Elem, e, pointer{up: &at, elem: i + 1}, depth+1)
		if r != nil {
			return nil, r
		}
		vals = append(vals, x)
	}
	return cedar.NewSet(vals...), nil
}

// number converts a literal exactly or refuses: nothing is rounded, and
// nothing goes through a float.
func number(k kind, lit string, at pointer) (cedar.Value, *refusal) {
	scale := 0
	if k == kDecimal {
		scale = 4
	}
	i, ok := scaled(lit, scale)
	if !ok {
		what := "policy needs a whole number within 64 bits"
		if k == kDecimal {
			what = "policy compares at most four digits after the point, up to 922337203685477"
		}
		return nil, refuseAt("inexact_number", at.String(), what)
	}
	if k == kLong {
		return cedar.Long(i), nil
	}
	d, err := cedar.NewDecimal(i, -4)
	if err != nil {
		return nil, refuseAt("inexact_number", at.String(), "the number is too large for policy")
	}
	return d, nil
}

// scaled returns the literal times ten to the scale, if that is exactly an
// integer within 64 bits. Minus zero is refused: other readers of the same
// bytes may tell it from zero.
func scaled(lit string, scale int) (int64, bool) {
	digits, neg := strings.CutPrefix(lit, "-")
	mantissa, exp := digits, 0
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		e := strings.TrimPrefix(digits[i+1:], "+")
		sign := 1
		if rest, ok := strings.CutPrefix(e, "-"); ok {
			sign, e = -1, rest
		}
		if len(e) == 0 || len(e) > 4 {
			return 0, false
		}
		for _, ch := range []byte(e) {
			exp = exp*10 + int(ch-'0')
		}
		mantissa, exp = digits[:i], exp*sign
	}
	whole, frac, _ := strings.Cut(mantissa, ".")
	all := strings.TrimLeft(whole+frac, "0")
	exp += scale - len(frac)
	if all == "" {
		return 0, !neg
	}
	trimmed := strings.TrimRight(all, "0")
	exp += len(all) - len(trimmed)
	if exp < 0 || len(trimmed)+exp > 19 {
		return 0, false
	}
	var u uint64
	for _, ch := range []byte(trimmed) {
		u = u*10 + uint64(ch-'0')
	}
	for range exp {
		u *= 10
	}
	switch {
	case neg && u <= 1<<63:
		return -int64(u), true
	case !neg && u < 1<<63:
		return int64(u), true
	}
	return 0, false
}
