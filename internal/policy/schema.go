package policy

import (
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// inputShape reads a tool definition's inputSchema into a shape. What has no
// exact reading in Cedar is hidden, with the reason; nothing is guessed. The
// full JSON Schema is enforced by catalog before policy; this reading decides
// only what policy can see and in which type.
func inputShape(definition ostiary.Value) *shape {
	root := definition.Get("inputSchema")
	g := generator{root: root, left: maxFields}
	s := g.read(root, 0)
	if s.Kind != kRecord {
		return &shape{Kind: kRecord, Open: true, Why: s.Why}
	}
	return s
}

type generator struct {
	root ostiary.Value
	left int // fields that may still be read
}

// read returns the shape of one schema.
func (g *generator) read(v ostiary.Value, depth int) *shape {
	v, nullable := g.unwrap(v)
	s := g.bare(v, depth)
	if nullable && s.Kind != kHidden {
		return hidden("it may be null where policy needs a value")
	}
	return s
}

// unwrap follows local references and takes "T or null" apart.
func (g *generator) unwrap(v ostiary.Value) (_ ostiary.Value, nullable bool) {
	for range maxDepth {
		if ref := v.Get("$ref"); ref.Exists() {
			v = g.resolve(ref.Text())
			continue
		}
		inner, ok := orNull(v)
		if !ok {
			return v, nullable
		}
		v, nullable = inner, true
	}
	return ostiary.Value{}, nullable // a chain this long is a cycle
}

// orNull recognises anyOf or oneOf of exactly one schema and null, the form
// generators write for an optional value.
func orNull(v ostiary.Value) (ostiary.Value, bool) {
	for _, word := range []string{"anyOf", "oneOf"} {
		alt := v.Get(word)
		if alt.Kind() != ostiary.Array || alt.Len() != 2 {
			continue
		}
		var inner ostiary.Value
		nulls := 0
		for _, e := range alt.Elements() {
			if e.Get("type").Is("null") {
				nulls++
			} else {
				inner = e
			}
		}
		if nulls == 1 && inner.Kind() == ostiary.Object {
			return inner, true
		}
	}
	return v, false
}

// resolve follows a reference inside the document, "#/$defs/Name".
func (g *generator) resolve(ref string) ostiary.Value {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return ostiary.Value{}
	}
	v := g.root
	for part := range strings.SplitSeq(rest, "/") {
		v = v.Get(strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
	}
	return v
}

// bare returns the shape of a schema that is no reference.
func (g *generator) bare(v ostiary.Value, depth int) *shape {
	if v.Kind() != ostiary.Object {
		return hidden("its schema says nothing about its type")
	}
	for _, word := range []string{"anyOf", "oneOf", "allOf", "not", "if"} {
		if v.Get(word).Exists() && depth > 0 {
			return hidden("it is a union (" + word + ")")
		}
	}
	return g.typed(v, g.typeOf(v), depth)
}

// typeOf returns the one JSON type of a schema, from type, enum or const.
func (g *generator) typeOf(v ostiary.Value) string {
	t := v.Get("type")
	switch t.Kind() {
	case ostiary.String:
		return t.Text()
	case ostiary.Array:
		return "union"
	}
	if c := v.Get("const"); c.Exists() {
		return jsonType(c)
	}
	common := ""
	for _, e := range v.Get("enum").Elements() {
		if et := jsonType(e); common == "" {
			common = et
		} else if common != et {
			return "union"
		}
	}
	if common == "" && v.Get("properties").Exists() {
		return "object"
	}
	return common
}

func jsonType(v ostiary.Value) string {
	switch v.Kind() {
	case ostiary.String:
		return "string"
	case ostiary.True, ostiary.False:
		return "boolean"
	case ostiary.Number:
		if _, ok := v.Int(); ok {
			return "integer"
		}
		return "number"
	}
	return "union"
}

func (g *generator) array(v ostiary.Value, depth int) *shape {
	items := v.Get("items")
	if items.Kind() != ostiary.Object || v.Get("prefixItems").Exists() {
		return hidden("its elements have no one type")
	}
	elem := g.read(items, depth+1)
	if elem.Kind == kHidden {
		return hidden("its elements are hidden: " + elem.Why)
	}
	return setOf(elem)
}

func (g *generator) object(v ostiary.Value, depth int) *shape {
	props := v.Get("properties")
	if extra := v.Get("additionalProperties"); !props.Exists() && extra.Kind() != ostiary.False {
		return hidden("it is a free-form object")
	}
	required := map[string]bool{}
	for _, r := range v.Get("required").Elements() {
		required[r.Text()] = true
	}
	out := &shape{Kind: kRecord}
	for name, p := range props.Members() {
		if g.left--; g.left < 0 {
			return hidden("its schema declares too many properties")
		}
		inner, nullable := g.unwrap(p)
		if ts := inner.Get("type"); ts.Kind() == ostiary.Array && ts.Len() == 2 {
			if single := nullOr(ts); single != "" {
				nullable = true
				out.Fields = append(out.Fields, field{name, g.typed(inner, single, depth+1), true, true})
				continue
			}
		}
		out.Fields = append(out.Fields, field{name, g.bare(inner, depth+1), !required[name] || nullable, nullable})
	}
	g.combined(v, out)
	slices.SortFunc(out.Fields, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// nullOr returns the one type beside "null" in a list of two.
func nullOr(list ostiary.Value) string {
	found, nulls := "", 0
	for _, t := range list.Elements() {
		if t.Is("null") {
			nulls++
		} else {
			found = t.Text()
		}
	}
	if nulls != 1 {
		return ""
	}
	return found
}

// typed reads a schema of one type.
func (g *generator) typed(v ostiary.Value, typ string, depth int) *shape {
	if depth >= maxDepth {
		return hidden("it is nested too deep")
	}
	switch typ {
	case "string":
		return plain(kString)
	case "boolean":
		return plain(kBool)
	case "integer":
		return plain(kLong)
	case "number":
		return plain(kDecimal)
	case "array":
		return g.array(v, depth)
	case "object":
		return g.object(v, depth)
	case "":
		return hidden("its schema names no type")
	}
	return hidden("it is a union of types")
}

// combined adds properties that only a combinator beside properties declares:
// they are arguments, but policy cannot see them.
func (g *generator) combined(v ostiary.Value, out *shape) {
	known := map[string]bool{}
	for _, f := range out.Fields {
		known[f.Name] = true
	}
	add := func(sub ostiary.Value) {
		for name := range sub.Get("properties").Members() {
			if g.left--; g.left < 0 || known[name] {
				continue
			}
			known[name] = true
			out.Fields = append(out.Fields, field{name, hidden("only a part of a union declares it"), true, true})
		}
	}
	for _, word := range []string{"anyOf", "oneOf", "allOf"} {
		for _, e := range v.Get(word).Elements() {
			if ref := e.Get("$ref"); ref.Exists() {
				e = g.resolve(ref.Text())
			}
			add(e)
		}
	}
	for _, word := range []string{"then", "else"} {
		add(v.Get(word))
	}
}
