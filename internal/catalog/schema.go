package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Limits on a schema, so that compiling it and checking against it are
// bounded whatever a server sends (B08).
const (
	maxSubschemas  = 1000     // schemas inside one schema
	maxExpanded    = 5000     // the same with every $ref written out: what one check can cost
	maxPattern     = 1024     // bytes of one regular expression
	maxPatternCost = 2000     // instructions of one regular expression with its repetitions written out
	maxMatched     = 64 << 10 // bytes of a string checked against an expression; both together bound the time
	maxNumber      = 64       // bytes of a number: the checks compute exactly, digit by digit
	maxExponent    = 308      // of a number, either way: as far as any double reaches
)

// dialects are the schema dialects accepted, without their empty fragment.
var dialects = map[string]*jsonschema.Draft{
	"https://json-schema.org/draft/2020-12/schema": jsonschema.Draft2020,
	"https://json-schema.org/draft/2019-09/schema": jsonschema.Draft2019,
	"http://json-schema.org/draft-07/schema":       jsonschema.Draft7,
}

// compiled is a schema ready to check values. It is immutable.
type compiled struct {
	schema   *jsonschema.Schema
	shape    *shape
	patterns bool // some string is matched against an expression
}

// compile checks a schema's limits and compiles it. It opens no reference
// that leads out of the schema.
func compile(v ostiary.Value, at string) (*compiled, []problem) {
	if v.Kind() != ostiary.Object {
		return nil, nil // its absence or type has been reported
	}
	w := &walker{root: v, at: at, cost: map[int]int{}}
	w.schema(v, at)
	if w.bad != nil {
		return nil, []problem{*w.bad}
	}
	doc, err := toAny(v)
	if err != nil {
		return nil, []problem{{hard: true, at: at, text: "holds a number that is too long or out of range"}}
	}
	sch, err := build(doc)
	if err != nil {
		return nil, []problem{{hard: true, at: at, text: "is not a valid JSON Schema: " + clip(firstLine(err))}}
	}
	return &compiled{sch, shapeOf(v), w.patterns}, nil
}

func firstLine(err error) string {
	var se *jsonschema.SchemaValidationError
	if errors.As(err, &se) {
		err = se.Err
	}
	var ve *jsonschema.ValidationError
	if errors.As(err, &ve) {
		l := leaf(ve)
		return pointer(l.InstanceLocation) + ": " + sentence(l)
	}
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func build(doc any) (sch *jsonschema.Schema, err error) {
	defer func() {
		if p := recover(); p != nil { // the compiler meets what servers wrote
			err = errors.New("it cannot be compiled")
		}
	}()
	const name = "ostiary:schema"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(boundedRegexp)
	c.AssertFormat()
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

// noLoader refuses every reference that is not inside the schema.
type noLoader struct{}

func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a reference leads outside the schema")
}

// boundedRegexp compiles expressions within limits. The standard library's
// engine takes time linear in the text, times the expression's size.
func boundedRegexp(s string) (jsonschema.Regexp, error) {
	if bad := badPattern(s); bad != "" {
		return nil, errors.New(bad)
	}
	return regexp.Compile(s)
}

func badPattern(s string) string {
	if len(s) > maxPattern {
		return "a pattern is longer than 1 KiB"
	}
	re, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return "a pattern does not compile"
	}
	if patternCost(re) > maxPatternCost {
		return "a pattern is too costly"
	}
	return ""
}

func patternCost(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n = min(n+patternCost(sub), maxPatternCost+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, maxPatternCost+1)
}

// walker checks a schema's limits before anything compiles it.
type walker struct {
	root     ostiary.Value
	at       string
	count    int
	patterns bool
	cost     map[int]int // by offset of the subschema: 0 while it is being walked
	bad      *problem
}

func (w *walker) fail(at, text string) int {
	if w.bad == nil {
		w.bad = &problem{hard: true, at: at, text: text}
	}
	return 0
}

// schema returns the cost of checking one value against v, references
// followed.
func (w *walker) schema(v ostiary.Value, at string) int {
	if w.bad != nil {
		return 0
	}
	if k := v.Kind(); k == ostiary.True || k == ostiary.False {
		return 1
	} else if k != ostiary.Object {
		return w.fail(at, "is not a schema")
	}
	id, _ := v.Span()
	if c, seen := w.cost[id]; seen {
		if c == 0 {
			return w.fail(at, "refers to itself")
		}
		return c
	}
	w.cost[id] = 0
	if w.count++; w.count > maxSubschemas {
		return w.fail(at, "holds more than 1000 subschemas")
	}
	w.identity(v, at, at == w.at)
	w.pattern(v.Get("pattern"), at+"/pattern")
	cost := 1 + w.ref(v, at) + w.children(v, at)
	if cost > maxExpanded {
		return w.fail(at, "is too large once its references are followed")
	}
	w.cost[id] = cost
	return cost
}

// identity checks the keywords by which schemas name themselves and others.
func (w *walker) identity(v ostiary.Value, at string, root bool) {
	if s := v.Get("$schema"); s.Exists() {
		if _, ok := dialects[strings.TrimSuffix(s.Text(), "#")]; !ok || !root {
			w.fail(at+"/$schema", "names a dialect that is not 2020-12, 2019-09 or draft-07, or not at the root")
		}
	}
	if s := v.Get("$id"); s.Exists() {
		if _, err := url.Parse(s.Text()); !root || s.Text() == "" || err != nil {
			w.fail(at+"/$id", "is not allowed below the root")
		}
	}
	for _, k := range []string{"$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"} {
		if v.Get(k).Exists() {
			w.fail(at+"/"+k, "is not supported")
		}
	}
}

func (w *walker) pattern(v ostiary.Value, at string) {
	if !v.Exists() {
		return
	}
	w.patterns = true
	if bad := badPattern(v.Text()); v.Kind() != ostiary.String || bad != "" {
		w.fail(at, "is not an acceptable expression: "+bad)
	}
}

// ref follows a reference, which must stay inside the schema and may not
// lead back: recursion has no bounded cost.
func (w *walker) ref(v ostiary.Value, at string) int {
	ref := v.Get("$ref")
	if !ref.Exists() {
		return 0
	}
	if !strings.HasPrefix(ref.Text(), "#") {
		return w.fail(at+"/$ref", "leads outside the definition")
	}
	target, path := resolve(w.root, ref.Text())
	if !target.Exists() {
		return w.fail(at+"/$ref", "leads nowhere")
	}
	return w.schema(target, w.at+path)
}

// resolve finds what a local reference points to, Absent if nothing.
func resolve(root ostiary.Value, ref string) (ostiary.Value, string) {
	path, err := url.PathUnescape(strings.TrimPrefix(ref, "#"))
	if err != nil || path != "" && path[0] != '/' {
		return ostiary.Value{}, ""
	}
	v := root
	for seg := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if path == "" {
			break
		}
		seg = strings.NewReplacer("~1", "/", "~0", "~").Replace(seg)
		if v.Kind() == ostiary.Array {
			v = element(v, seg)
		} else {
			v = v.Get(seg)
		}
	}
	return v, path
}

func element(v ostiary.Value, seg string) ostiary.Value {
	for i, e := range v.Elements() {
		if itoa(i) == seg {
			return e
		}
	}
	return ostiary.Value{}
}

// Where schemas hold schemas, in all accepted dialects.
var (
	schemaMembers = []string{"additionalProperties", "unevaluatedProperties", "propertyNames", "contains", "not", "if", "then", "else", "items", "additionalItems", "unevaluatedItems", "contentSchema"}
	schemaLists   = []string{"allOf", "anyOf", "oneOf", "prefixItems", "items"}
	schemaMaps    = []string{"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)

func (w *walker) children(v ostiary.Value, at string) (cost int) {
	for _, k := range schemaMembers {
		if m := v.Get(k); m.Exists() && m.Kind() != ostiary.Array {
			cost += w.schema(m, at+"/"+k)
		}
	}
	for _, k := range schemaLists {
		for i, e := range v.Get(k).Elements() {
			cost += w.schema(e, at+"/"+k+"/"+itoa(i))
		}
	}
	for _, k := range schemaMaps {
		for name, m := range v.Get(k).Members() {
			here := ostiary.Pointer(at+"/"+k, name)
			if k == "patternProperties" {
				w.patterns = true
				if bad := badPattern(name); bad != "" {
					w.fail(here, "is not an acceptable expression: "+bad)
				}
			}
			if k == "dependencies" && m.Kind() == ostiary.Array {
				continue
			}
			if c := w.schema(m, here); k != "$defs" && k != "definitions" {
				cost += c
			}
			if w.bad != nil {
				return 0
			}
		}
	}
	return min(cost, maxExpanded+1)
}

// shape says which members objects may have, where the schema itself does not
// say: what nobody declared is refused, although JSON Schema would let it
// pass. A nil shape lets everything pass.
type shape struct {
	open     bool // members beyond the declared are the schema's business
	patterns []*regexp.Regexp
	members  map[string]*shape // declared members; nil shapes are free
	items    *shape
}

// shapeOf reads the root of a tool's input: arguments that are not declared
// are refused, and a tool that declares none takes none.
func shapeOf(root ostiary.Value) *shape {
	b := shaper{root}
	s := &shape{members: map[string]*shape{}}
	b.collect(s, root)
	return s
}

type shaper struct{ root ostiary.Value }

// below returns the shape of a nested schema. A nested object that declares
// nothing at all is free-form.
func (b shaper) below(v ostiary.Value) *shape {
	s := &shape{members: map[string]*shape{}}
	b.collect(s, v)
	if len(s.members) == 0 && len(s.patterns) == 0 {
		s.open = true
	}
	if s.open && s.items == nil && len(s.members) == 0 {
		return nil
	}
	return s
}

// collect adds what v declares, with all that applies in its place.
func (b shaper) collect(s *shape, v ostiary.Value) {
	if v.Kind() != ostiary.Object {
		return
	}
	if v.Get("additionalProperties").Exists() || v.Get("unevaluatedProperties").Exists() {
		s.open = true
	}
	for name, m := range v.Get("properties").Members() {
		s.members[name] = join(s.members, name, b.below(m))
	}
	for p := range v.Get("patternProperties").Members() {
		if re, err := regexp.Compile(p); err == nil {
			s.patterns = append(s.patterns, re)
		}
	}
	if it := v.Get("items"); it.Kind() == ostiary.Object {
		s.items = b.below(it)
	}
	if ref := v.Get("$ref"); ref.Exists() {
		target, _ := resolve(b.root, ref.Text())
		b.collect(s, target)
	}
	for _, k := range []string{"allOf", "anyOf", "oneOf"} {
		for _, e := range v.Get(k).Elements() {
			b.collect(s, e)
		}
	}
	for _, k := range []string{"if", "then", "else"} {
		b.collect(s, v.Get(k))
	}
	for _, k := range []string{"dependentSchemas", "dependencies"} {
		for _, m := range v.Get(k).Members() {
			b.collect(s, m)
		}
	}
}

// join is the union of two declarations of one member: what either allows.
func join(members map[string]*shape, name string, b *shape) *shape {
	a, declared := members[name]
	if !declared {
		return b
	}
	if a == nil || b == nil {
		return nil
	}
	u := &shape{open: a.open || b.open, members: map[string]*shape{}}
	u.patterns = append(append(u.patterns, a.patterns...), b.patterns...)
	for n, m := range a.members {
		u.members[n] = m
	}
	for n, m := range b.members {
		u.members[n] = join(u.members, n, m)
	}
	if a.items != nil && b.items != nil {
		u.items = join(map[string]*shape{"": a.items}, "", b.items)
	}
	return u
}

// stray returns the pointer of the first member that nobody declared.
func (s *shape) stray(v ostiary.Value, at string) (string, bool) {
	if s == nil {
		return "", false
	}
	for name, m := range v.Members() {
		sub, ok := s.members[name]
		if !ok && !s.open && !s.matches(name) {
			return ostiary.Pointer(at, name), true
		}
		if sub == nil {
			continue
		}
		if p, bad := sub.stray(m, ostiary.Pointer(at, name)); bad {
			return p, true
		}
	}
	if s.items == nil {
		return "", false
	}
	for i, e := range v.Elements() {
		if p, bad := s.items.stray(e, ostiary.Pointer(at, itoa(i))); bad {
			return p, true
		}
	}
	return "", false
}

func (s *shape) matches(name string) bool {
	for _, re := range s.patterns {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

// toAny makes the values the schema library reads. Numbers stay text.
func toAny(v ostiary.Value) (any, error) {
	switch v.Kind() {
	case ostiary.Object:
		m := make(map[string]any, v.Len())
		for name, e := range v.Members() {
			x, err := toAny(e)
			if err != nil {
				return nil, err
			}
			m[name] = x
		}
		return m, nil
	case ostiary.Array:
		a := make([]any, 0, v.Len())
		for _, e := range v.Elements() {
			x, err := toAny(e)
			if err != nil {
				return nil, err
			}
			a = append(a, x)
		}
		return a, nil
	case ostiary.String:
		return v.Text(), nil
	case ostiary.Number:
		if s := v.Literal(); numberOK(s) {
			return json.Number(s), nil
		}
		return nil, fmt.Errorf("a number is longer than %d characters or beyond 1e%d", maxNumber, maxExponent)
	case ostiary.True:
		return true, nil
	case ostiary.False:
		return false, nil
	case ostiary.Null:
		return nil, nil
	}
	return nil, errors.New("there is no value")
}

// numberOK bounds what exact arithmetic on a number costs.
func numberOK(s string) bool {
	if len(s) > maxNumber {
		return false
	}
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return true
	}
	e, err := strconv.Atoi(s[i+1:])
	return err == nil && e <= maxExponent && e >= -maxExponent
}
