package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

func refuse(at, format string, args ...any) error {
	if len(at) > 512 { // a pointer made of the caller's own names: enough to find the place
		at = at[:512]
	}
	return ostiary.Errorf(ostiary.Malformed, "schema", format, args...).At(Show(at))
}

// check checks a call's arguments. Absent arguments are an empty object.
func (c *compiled) check(args ostiary.Value) error {
	var doc any = map[string]any{}
	switch args.Kind() {
	case ostiary.Object:
		if at, bad := c.shape.stray(args, ""); bad {
			return refuse(at, "the definition declares no argument of this name")
		}
		if c.patterns {
			if at, bad := tooLong(args, ""); bad {
				return refuse(at, "is longer than %d bytes, too long to match against a pattern", maxMatched)
			}
		}
		var err error
		if doc, err = toAny(args); err != nil {
			return refuse(badNumber(args, ""), "%s", err.Error())
		}
	case ostiary.Absent:
	default:
		return refuse("", "the arguments are not an object")
	}
	err := c.schema.Validate(doc)
	if err == nil {
		return nil
	}
	ve, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return refuse("", "the arguments do not fit the definition")
	}
	l := leaf(ve)
	at := pointer(l.InstanceLocation)
	if r, ok := l.ErrorKind.(*kind.Required); ok && len(r.Missing) > 0 {
		at = ostiary.Pointer(at, slices.Min(r.Missing))
	}
	return refuse(at, "%s", sentence(l))
}

// tooLong finds a string that is not to be matched against expressions.
func tooLong(v ostiary.Value, at string) (string, bool) {
	if len(v.Bytes()) <= maxMatched {
		return "", false // nothing inside can be longer
	}
	if v.Kind() == ostiary.String {
		return at, true
	}
	for name, m := range v.Members() {
		if len(name) > maxMatched {
			return at, true
		}
		if p, bad := tooLong(m, ostiary.Pointer(at, name)); bad {
			return p, true
		}
	}
	for i, e := range v.Elements() {
		if p, bad := tooLong(e, ostiary.Pointer(at, itoa(i))); bad {
			return p, true
		}
	}
	return "", false
}

// badNumber finds the number that toAny refused.
func badNumber(v ostiary.Value, at string) string {
	if v.Kind() == ostiary.Number && !numberOK(v.Literal()) {
		return at
	}
	for name, m := range v.Members() {
		if p := badNumber(m, ostiary.Pointer(at, name)); p != "" {
			return p
		}
	}
	for i, e := range v.Elements() {
		if p := badNumber(e, ostiary.Pointer(at, itoa(i))); p != "" {
			return p
		}
	}
	return ""
}

func pointer(path []string) string {
	at := ""
	for _, p := range path {
		at = ostiary.Pointer(at, p)
	}
	return at
}

// leaf picks the one thing to report out of a tree of failures: the first by
// place and keyword, so that the same arguments get the same answer. Choices
// between forms are reported as a whole: which form was meant is not known.
func leaf(e *jsonschema.ValidationError) *jsonschema.ValidationError {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf, *kind.Not, *kind.Contains, *kind.PropertyNames:
		return e
	}
	var best *jsonschema.ValidationError
	for _, c := range e.Causes {
		l := leaf(c)
		if best == nil || order(l) < order(best) {
			best = l
		}
	}
	if best == nil {
		return e
	}
	return best
}

func order(e *jsonschema.ValidationError) string {
	return pointer(e.InstanceLocation) + "\x00" + strings.Join(e.ErrorKind.KeywordPath(), "/")
}

// sentence says what a schema's keyword expected. It quotes the accepted
// definition at most, never the value.
func sentence(e *jsonschema.ValidationError) string {
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return "type: must be " + strings.Join(k.Want, " or ") + ", not " + k.Got
	case *kind.Required:
		return "required: is missing"
	case *kind.AdditionalProperties:
		return "additionalProperties: holds a member that the definition does not allow"
	case *kind.FalseSchema:
		return "the definition allows nothing here"
	case *kind.Enum:
		return "enum: must be one of " + choices(k.Want)
	case *kind.Const:
		return "const: must be " + choices([]any{k.Want})
	case *kind.Format:
		return "format: must be a valid " + clip(k.Want)
	case *kind.Pattern:
		return "pattern: must match " + clip(k.Want)
	case *kind.MinLength:
		return fmt.Sprintf("minLength: must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("maxLength: must have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("minItems: must have at least %d elements", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("maxItems: must have at most %d elements", k.Want)
	case *kind.MinProperties:
		return fmt.Sprintf("minProperties: must have at least %d members", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("maxProperties: must have at most %d members", k.Want)
	case *kind.UniqueItems:
		return "uniqueItems: must not hold the same element twice"
	case *kind.Minimum:
		return "minimum: must be at least " + k.Want.RatString()
	case *kind.Maximum:
		return "maximum: must be at most " + k.Want.RatString()
	case *kind.ExclusiveMinimum:
		return "exclusiveMinimum: must be more than " + k.Want.RatString()
	case *kind.ExclusiveMaximum:
		return "exclusiveMaximum: must be less than " + k.Want.RatString()
	case *kind.MultipleOf:
		return "multipleOf: must be a multiple of " + k.Want.RatString()
	case *kind.AnyOf:
		return "anyOf: fits none of the permitted forms"
	case *kind.OneOf:
		return "oneOf: must fit exactly one of the permitted forms"
	case *kind.Not:
		return "not: has a form that is excluded"
	}
	kw := strings.Join(e.ErrorKind.KeywordPath(), "/")
	if kw == "" {
		return "does not fit the definition"
	}
	return clip(kw) + ": does not fit the definition"
}

// maxChoices bounds how many permitted values a refusal lists.
const maxChoices = 12

func choices(want []any) string {
	var b strings.Builder
	for i, w := range want {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == maxChoices {
			b.WriteString("…")
			break
		}
		switch w := w.(type) {
		case string:
			b.WriteString(string(appendQuoted(nil, clip(w))))
		case map[string]any:
			b.WriteString("an object")
		case []any:
			b.WriteString("an array")
		case nil:
			b.WriteString("null")
		default:
			b.WriteString(clip(fmt.Sprint(w)))
		}
	}
	return b.String()
}

// prompt is a prompt's declared arguments, ready to check.
type prompt struct{ required map[string]bool }

func promptOf(def ostiary.Value) *prompt {
	p := &prompt{map[string]bool{}}
	for _, a := range def.Get("arguments").Elements() {
		p.required[a.Get("name").Text()] = a.Get("required").Kind() == ostiary.True
	}
	return p
}

// check checks a prompt's arguments: declared names, texts only.
func (p *prompt) check(args ostiary.Value) error {
	if k := args.Kind(); k != ostiary.Object && k != ostiary.Absent {
		return refuse("", "the arguments are not an object")
	}
	for name, v := range args.Members() {
		if _, ok := p.required[name]; !ok {
			return refuse(ostiary.Pointer("", name), "the definition declares no argument of this name")
		}
		if v.Kind() != ostiary.String {
			return refuse(ostiary.Pointer("", name), "type: must be string")
		}
	}
	var missing []string
	for name, required := range p.required {
		if required && !args.Get(name).Exists() {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return refuse(ostiary.Pointer("", slices.Min(missing)), "required: is missing")
	}
	return nil
}
