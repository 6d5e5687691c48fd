package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// Cedar's validator says that some type is not the expected one, and not
// where. The search here finds the place: it runs when the validator has
// refused a policy, and so decides nothing; what it does not find is shown at
// the policy's beginning, in the validator's words.

// The types an expression can have, in the words of problems.
const (
	isText     = "text"
	isNumber   = "a whole number"
	isBool     = "true or false"
	isDecimal  = "a decimal"
	isTime     = "a time"
	isDuration = "a duration"
	isAddress  = "an address"
	isSet      = "a set"
	isRecord   = "a record"
	isEntity   = "an entity"
)

var wordOf = map[kind]string{
	kString: isText, kLong: isNumber, kBool: isBool, kDecimal: isDecimal, kDatetime: isTime, kSet: isSet, kRecord: isRecord, kEntity: isEntity,
}

// callType is what a function or method of an extension type returns.
var callType = map[string]string{
	"decimal": isDecimal, "datetime": isTime, "duration": isDuration, "ip": isAddress,
	"lessThan": isBool, "lessThanOrEqual": isBool, "greaterThan": isBool, "greaterThanOrEqual": isBool,
	"isIpv4": isBool, "isIpv6": isBool, "isLoopback": isBool, "isMulticast": isBool, "isInRange": isBool,
	"offset": isTime, "toDate": isTime, "durationSince": isDuration, "toTime": isDuration,
	"toMilliseconds": isNumber, "toSeconds": isNumber, "toMinutes": isNumber, "toHours": isNumber, "toDays": isNumber,
}

// wordFor returns the type of an expression in a request for the action, ""
// if it is not known.
func wordFor(e *expr, a *action) string {
	switch e.op {
	case opHas, opLike, opIs, opIn, opAnd, opOr, opNot, opCompare, opContains:
		return isBool
	case opArith:
		return isNumber
	case opSet:
		return isSet
	case opRecord:
		return isRecord
	case opIf:
		return wordFor(e.args[1], a)
	case opCall:
		return callType[e.name]
	case opLit:
		return wordForValue(e.lit)
	}
	if s := typeOf(e, a); s != nil {
		return wordOf[s.Kind]
	}
	return ""
}

func wordForValue(v cedar.Value) string {
	switch v.(type) {
	case cedar.String:
		return isText
	case cedar.Long:
		return isNumber
	case cedar.Boolean:
		return isBool
	case cedar.EntityUID:
		return isEntity
	case cedar.Set:
		return isSet
	case cedar.Record:
		return isRecord
	}
	return ""
}

// elements is the type of a set's elements, "" if it is not known.
func elements(e *expr, a *action) string {
	if e.op == opSet && len(e.args) > 0 {
		return wordFor(e.args[0], a)
	}
	if e.op == opLit {
		if set, ok := e.lit.(cedar.Set); ok {
			for v := range set.All() {
				return wordForValue(v)
			}
		}
	}
	if s := typeOf(e, a); s != nil && s.Kind == kSet {
		return wordOf[s.Elem.Kind]
	}
	return ""
}

// mistype is one operand of the wrong type.
type mistype struct {
	of         *expr
	by         string // the operator, as it stands in the text
	why        string // what that takes
	suggestion string
}

// mistypes searches an expression for operands whose type is known and wrong.
func mistypes(e *expr, a *action) (out []mistype) {
	for _, x := range e.args {
		out = append(out, mistypes(x, a)...)
	}
	want := func(x *expr, why string, good ...string) {
		if w := wordFor(x, a); w != "" && !slices.Contains(good, w) {
			out = append(out, mistype{x, e.name, w + "; " + why, remedyFor(w, e)})
		}
	}
	switch {
	case e.op == opAnd || e.op == opOr || e.op == opNot:
		for _, x := range e.args {
			want(x, fmt.Sprintf("%q is for conditions", e.name), isBool)
		}
	case e.op == opIf:
		want(e.args[0], `"if" is for conditions`, isBool)
	case e.op == opArith:
		for _, x := range e.args {
			want(x, fmt.Sprintf("%q computes with whole numbers", e.name), isNumber)
		}
	case e.op == opLike:
		want(e.args[0], `"like" is for text`, isText)
	case e.op == opIn || e.op == opIs:
		want(e.args[0], "only an entity has a type and lies in others", isEntity)
		if len(e.args) == 2 {
			want(e.args[1], `"in" takes an entity, or a set of them`, isEntity, isSet)
			if w := elements(e.args[1], a); differ(w, isEntity) {
				out = append(out, mistype{e.args[1], e.name, "a set of " + plural(w) + `; "in" takes an entity, or a set of them`, "write [...].contains(x)"})
			}
		}
	case e.op == opAccess || e.op == opHas:
		want(e.args[0], "it has no attribute "+e.name, isRecord, isEntity)
	case e.op == opContains:
		want(e.args[0], e.name+" asks a set", isSet)
		if l, r := elements(e.args[0], a), wordFor(e.args[1], a); e.name == "contains" && differ(l, r) {
			out = append(out, mistype{e.args[1], e.name, r + "; the set holds " + plural(l), ""})
		} else if e.name != "contains" {
			want(e.args[1], e.name+" takes a set", isSet)
		}
	case e.op == opCompare && (e.name == "==" || e.name == "!="):
		if l, r := wordFor(e.args[0], a), wordFor(e.args[1], a); differ(l, r) {
			out = append(out, mistype{e.args[0], e.name, l + ", and it is compared with " + r + ": they are never equal", inQuotes(l, e.args[1])})
		}
	case e.op == opCompare:
		for _, x := range e.args {
			want(x, fmt.Sprintf("%q compares whole numbers, times and durations", e.name), ordered...)
		}
	}
	return out
}

// ordered are the types that < and its like compare, each with itself.
var ordered = []string{isNumber, isTime, isDuration}

// unordered reports a comparison of two ordered types that are not the same:
// the validator lets it pass, and evaluating it is an error.
func (k *check) unordered(e *expr) {
	if e.name == "==" || e.name == "!=" {
		return
	}
	for _, a := range k.actions {
		l, r := wordFor(e.args[0], a), wordFor(e.args[1], a)
		if l != r && slices.Contains(ordered, l) && slices.Contains(ordered, r) {
			k.report(Error, k.near(e.args[0], e.name), "type", "", "%s: %s is %s, and it is compared with %s", k.id, named(e.args[0]), l, r)
			return
		}
	}
}

func differ(l, r string) bool { return l != "" && r != "" && l != r }

func plural(word string) string {
	_, rest, ok := strings.Cut(word, " ")
	if !ok || word == isBool {
		return word
	}
	if rest == "entity" {
		return "entities"
	}
	return strings.TrimSuffix(rest, "s") + "s"
}

func inQuotes(l string, r *expr) string {
	if n, ok := r.lit.(cedar.Long); ok && l == isText {
		return fmt.Sprintf("text stands in quotes: \"%d\"", n)
	}
	return ""
}

// remedyFor suggests what is written instead.
func remedyFor(w string, e *expr) string {
	method := map[string]string{"<": "lessThan", "<=": "lessThanOrEqual", ">": "greaterThan", ">=": "greaterThanOrEqual"}[e.name]
	switch {
	case e.op == opCompare && w == isDecimal && method != "":
		return fmt.Sprintf(`decimals are compared with .%s(decimal("10.0"))`, method)
	case e.op == opLike && w == isSet:
		return "ask a set with .contains(...)"
	}
	return ""
}

// mistyped reports every operand of a wrong type, and whether there is one.
// The actions of a scope mostly agree; the first that shows something will do.
func (k *check) mistyped() bool {
	for _, a := range k.actions {
		found := 0
		for _, c := range k.rule.conditions {
			list := mistypes(c.body, a)
			if w := wordFor(c.body, a); w != "" && w != isBool {
				list = append(list, mistype{c.body, "{", w + "; a condition is true or false", ""})
			}
			for _, m := range list {
				k.report(Error, k.near(m.of, m.by), "type", m.suggestion, "%s: %s is %s", k.id, named(m.of), m.why)
				found++
			}
		}
		if found > 0 {
			return true
		}
	}
	return false
}

// named is how an operand is called in a message.
func named(e *expr) string {
	if p := path(e); p != nil {
		return strings.Join(p, ".")
	}
	if e.op == opLit {
		return string(e.lit.MarshalCedar())
	}
	return "what stands here"
}

// near is where an operand of an operator stands: of several places where
// the same is written, the one beside the operator.
func (k *check) near(e *expr, operator string) int {
	words := path(e)
	switch {
	case words != nil:
	case e.op == opLit:
		words = []string{strings.Trim(string(e.lit.MarshalCedar()), `"`)}
	case len(e.args) > 0:
		return k.near(e.args[0], e.name)
	default:
		return k.seg.start
	}
	if at, ok := k.seg.findBeside(words, operator); ok {
		return at
	}
	return k.at(words...)
}

var literalMessage = regexp.MustCompile("failed to parse as an? ([A-Za-z]+)[^:]*: `(.*)`$")

// plainly puts what else the validator says about types into our words, with
// the place; text is "" for what it does not know.
func (k *check) plainly(msg string) (at int, text, suggestion string) {
	if m := literalMessage.FindStringSubmatch(msg); m != nil {
		like := map[string]string{"decimal": `like "10.0", with one to four digits after the point`, "datetime": `like "2026-01-31T12:00:00Z"`, "duration": `like "1h30m"`, "IP": `like "10.0.0.0/8"`}[m[1]]
		return k.at(strings.Trim(m[2], `"`)), fmt.Sprintf("%s is no %s", m[2], m[1]), "write it " + like
	}
	switch {
	case strings.Contains(msg, "non-literal expressions"):
		return k.call(), "decimal, datetime, duration and ip take text in quotes, nothing that is computed", ""
	case strings.Contains(msg, "wrong number of arguments"):
		return k.call(), "a function here has more arguments than it takes, or fewer", ""
	case strings.Contains(msg, "empty set literals"):
		at := k.seg.start
		for i := 1; i < len(k.seg.tokens); i++ {
			if k.seg.tokens[i-1].text == "[" && k.seg.tokens[i].text == "]" {
				at = k.seg.tokens[i-1].at
				break
			}
		}
		return at, "an empty set [] holds nothing of any type", "ask .isEmpty()"
	case strings.Contains(msg, "unable to find an applicable action"):
		return k.seg.start, "no action in its scope is for this kind of principal and resource, so it can never apply", ""
	}
	return 0, "", ""
}

// call is where the first extension function stands.
func (k *check) call() int {
	for _, t := range k.seg.tokens {
		if callType[t.text] != "" {
			return t.at
		}
	}
	return k.seg.start
}
