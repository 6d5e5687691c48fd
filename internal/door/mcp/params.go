package mcp

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// checkParams compares the Mcp-Param-* headers with the arguments, by the
// x-mcp-header marks of the pinned schema. In 2026-07-28 every marked
// argument that is there must be mirrored; in every revision a mirror must be
// true.
func (d *Door) checkParams(x *visit, server, tool string, args ostiary.Value) *ostiary.Error {
	t, ok := d.catalog.Tool(server, "tool", tool)
	if !ok {
		return nil // the gate says that there is no such tool
	}
	if def := t.Definition.Bytes(); !bytes.Contains(def, []byte("x-mcp-header")) && !bytes.Contains(def, []byte(`\u`)) {
		return nil // no mark, in either spelling of a name
	}
	for _, m := range catalog.Headers(t) {
		name := mcpwire.HeaderParamPrefix + m.Name
		h, sent := first(x.r.Header, name)
		arg := at(args, m.Path)
		switch {
		case arg.Kind() == ostiary.Absent || arg.Kind() == ostiary.Null:
			if sent {
				return mismatch(name, "the header mirrors an argument that is not there")
			}
		case !sent:
			if !x.legacy() {
				return mismatch(name, "the argument "+strings.Join(m.Path, ".")+" must be mirrored in this header")
			}
		default:
			if v, err := mcpwire.DecodeHeader(h); err != nil || !mirrors(v, arg) {
				return mismatch(name, "the header must equal the argument "+strings.Join(m.Path, "."))
			}
		}
	}
	return nil
}

func at(v ostiary.Value, path []string) ostiary.Value {
	for _, name := range path {
		v = v.Get(name)
	}
	return v
}

// mirrors reports whether a header's decoded value is the argument's.
func mirrors(h string, arg ostiary.Value) bool {
	switch arg.Kind() {
	case ostiary.String:
		return arg.Text() == h
	case ostiary.True:
		return h == "true"
	case ostiary.False:
		return h == "false"
	case ostiary.Number:
		return sameNumber(h, arg.Literal())
	}
	return false
}

// sameNumber compares two decimal literals as numbers, on their exact text:
// 42.0 is 42, and 9007199254740993 is not 9007199254740992.
func sameNumber(a, b string) bool {
	an, adigits, aexp, ok := decimal(a)
	if !ok {
		return false
	}
	bn, bdigits, bexp, ok := decimal(b)
	return ok && adigits == bdigits && (adigits == "" || an == bn && aexp == bexp)
}

// maxLiteral bounds a number in a header, as strictjson bounds one in a body.
const maxLiteral = 64

// decimal reads a JSON number as digits × 10^exp, without leading or trailing
// zeros in digits; zero has no digits.
func decimal(s string) (negative bool, digits string, exp int, ok bool) {
	if len(s) > maxLiteral {
		return false, "", 0, false
	}
	s, negative = strings.CutPrefix(s, "-")
	mantissa, e, has := strings.Cut(strings.ToLower(s), "e")
	if has {
		n, err := strconv.Atoi(e)
		if err != nil {
			return false, "", 0, false
		}
		exp = n
	}
	whole, fraction, has := strings.Cut(mantissa, ".")
	if whole == "" || has && fraction == "" || len(whole) > 1 && whole[0] == '0' || !only(whole+fraction, "0123456789") {
		return false, "", 0, false
	}
	digits = strings.TrimLeft(whole+fraction, "0")
	exp -= len(fraction)
	for strings.HasSuffix(digits, "0") {
		digits = digits[:len(digits)-1]
		exp++
	}
	return negative, digits, exp, true
}
