package policy

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"go.yaml.in/yaml/v3"
)

// fileAutonomy says what agents may do alone, with one person, with two, or
// never. It becomes forbids and nothing else, so it can only restrict: what it
// lets through is still for the policies to permit.
const fileAutonomy = "autonomy.yaml"

const (
	maxAutonomy = 256 << 10 // bytes: a table that people read
	maxLines    = 500       // entries of it
	maxBands    = 16        // thresholds of one entry
)

// level is how far agents act on their own. Higher is stricter.
type level int

const (
	levelAlone level = iota
	levelOne
	levelTwo
	levelNever
)

var levelNames = []string{"alone", "one", "two", "never"}

// autonomy is one entry of the table.
type autonomy struct {
	name    string // an action or a group
	line    int
	level   level
	by      string // whom to ask
	reason  string
	amount  string // JSON Pointer
	pointer *yaml.Node
	above   []band
	data    []band
}

// band is a level from a threshold on, or for what a label holds.
type band struct {
	word  string
	level level
	line  int
}

// autonomyRule is a policy that the table became, and the line it comes from.
type autonomyRule struct {
	line int
	text string
}

// Autonomy returns the policies that the table of autonomy became, as text,
// each with the line it comes from. Empty if there is no table.
func (s *Set) Autonomy() string {
	var b strings.Builder
	for _, r := range s.autonomy {
		fmt.Fprintf(&b, "// %s:%d\n%s\n\n", fileAutonomy, r.line, pretty.Replace(r.text))
	}
	return b.String()
}

// pretty breaks a policy of ours into lines.
var pretty = strings.NewReplacer(") forbid (", ")\nforbid (", ") unless {", ")\nunless {", "} unless {", "}\nunless {")

// table reads autonomy.yaml into rules, and returns them as one text in which
// each stands in the line of the entry it comes from: so whatever names its
// place names that line.
func (c *compiler) table(text string) string {
	if strings.TrimSpace(text) == "" {
		return ""
	}
	root := c.autonomyRoot(text)
	if root == nil {
		return ""
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, val := root.Content[i], root.Content[i+1]
		if first, ok := seen[key.Value]; ok {
			c.autonomyProblem(key, Error, "autonomy", "", "%s stands already in line %d", key.Value, first)
			continue
		}
		seen[key.Value] = key.Line
		if a, ok := c.autonomyEntry(key, val); ok {
			c.autonomyPolicies(a)
		}
	}
	out := make([]string, strings.Count(text, "\n")+2)
	for _, r := range c.rules {
		out[r.line-1] += r.text + " "
	}
	return strings.Join(out, "\n")
}

func (c *compiler) autonomyProblem(n *yaml.Node, severity Severity, code, suggestion, format string, args ...any) {
	p := Problem{File: fileAutonomy, Severity: severity, Code: code, Message: fmt.Sprintf(format, args...), Suggestion: suggestion}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	c.problems = append(c.problems, p)
}

// autonomyRoot returns the mapping of the one document, nil if there is none.
func (c *compiler) autonomyRoot(text string) *yaml.Node {
	var doc yaml.Node
	if len(text) > maxAutonomy {
		c.autonomyProblem(nil, Error, "too_large", "", "the file is too large")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	if err := dec.Decode(&doc); err == io.EOF {
		return nil // only comments
	} else if err != nil || dec.Decode(new(yaml.Node)) != io.EOF {
		c.autonomyProblem(nil, Error, "autonomy", "", "this is not one YAML document")
		return nil
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil
	case root.Kind != yaml.MappingNode:
		c.autonomyProblem(root, Error, "autonomy", "payments: {level: one, by: finance}", "each line must be an action or a group, and how far agents may go with it")
		return nil
	case len(root.Content)/2 > maxLines:
		c.autonomyProblem(root, Error, "autonomy", "", "there are more than %d entries", maxLines)
		return nil
	}
	return root
}

// autonomyEntry reads one entry; false if something of it is wrong, or it is
// about a tool that nobody accepted yet.
func (c *compiler) autonomyEntry(key, val *yaml.Node) (a autonomy, ok bool) {
	a = autonomy{name: key.Value, line: key.Line}
	ok = c.autonomyName(key)
	if val.Kind == yaml.ScalarNode {
		a.level, ok = c.autonomyLevel(val, ok)
		return a, c.autonomyAsks(key, &a, nil, ok)
	}
	if val.Kind != yaml.MappingNode {
		c.autonomyProblem(val, Error, "autonomy", "write for example {level: one, by: finance}", "%s needs a level", key.Value)
		return a, false
	}
	have := map[string]bool{}
	for i := 0; i+1 < len(val.Content); i += 2 {
		k, v := val.Content[i], val.Content[i+1]
		if have[k.Value] {
			c.autonomyProblem(k, Error, "autonomy", "", "%s stands twice", k.Value)
			ok = false
		}
		have[k.Value] = true
		switch k.Value {
		case "level":
			a.level, ok = c.autonomyLevel(v, ok)
		case "by":
			if a.by = v.Value; v.Kind != yaml.ScalarNode || !approverPattern.MatchString(a.by) {
				c.autonomyProblem(v, Error, "autonomy", "", "by names a group of people, with letters, digits, dot, dash and underscore")
				ok = false
			}
		case "reason":
			if a.reason = v.Value; v.Kind != yaml.ScalarNode || len(a.reason) > maxReason || !plainName(a.reason) {
				c.autonomyProblem(v, Error, "autonomy", "", "a reason is plain text of at most %d bytes, without quotes and backslashes", maxReason)
				ok = false
			}
		case "amount":
			if a.amount, a.pointer = v.Value, v; v.Kind != yaml.ScalarNode || !ostiary.IsPointer(a.amount) {
				c.autonomyProblem(v, Error, "autonomy", "write a JSON Pointer into the arguments, for example /amount", "amount points to a number in the arguments")
				ok = false
			}
		case "above":
			a.above, ok = c.bands(v, ok)
		case "data":
			a.data, ok = c.bands(v, ok)
		default:
			c.autonomyProblem(k, Error, "autonomy", didYouMean(nearest(k.Value, autonomyKeys)), "an entry has no %q", k.Value)
			ok = false
		}
	}
	if ok && (a.amount == "") != (len(a.above) == 0) {
		c.autonomyProblem(key, Error, "autonomy", `amount: /amount, above: {"1000": one}`, "amount and above belong together")
		ok = false
	}
	return a, c.autonomyAsks(key, &a, have, ok)
}

var (
	autonomyKeys    = []string{"level", "by", "reason", "amount", "above", "data"}
	approverPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// autonomyName checks that the entry is about something.
func (c *compiler) autonomyName(key *yaml.Node) bool {
	name := key.Value
	if c.world.actions[name] != nil || c.world.isGroup(name) {
		return true
	}
	known := c.world.names()
	near := nearest(name, known)
	if key.Kind == yaml.ScalarNode && awaited(name, c.world.tools) && near == "" {
		c.autonomyProblem(key, Warning, "not_accepted", "see ostiary tools list", "no tool of %s is accepted yet, so nothing is said about %s", serverOf(name), name)
		return false
	}
	c.autonomyProblem(key, Error, "unknown_action", didYouMean(near), "there is no action and no group %s", name)
	return false
}

func (c *compiler) autonomyLevel(n *yaml.Node, ok bool) (level, bool) {
	if i := slices.Index(levelNames, n.Value); i >= 0 && n.Kind == yaml.ScalarNode {
		return level(i), ok
	}
	c.autonomyProblem(n, Error, "autonomy", didYouMean(nearest(n.Value, levelNames)), "a level is alone, one, two or never")
	return levelNever, false
}

func (c *compiler) bands(n *yaml.Node, ok bool) (out []band, _ bool) {
	if n.Kind != yaml.MappingNode || len(n.Content)/2 > maxBands {
		c.autonomyProblem(n, Error, "autonomy", `write for example {"1000": one, "50000": two}`, "here stand at most %d levels", maxBands)
		return nil, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		b := band{word: n.Content[i].Value, line: n.Content[i].Line}
		if n.Content[i].Kind != yaml.ScalarNode || b.word == "" || !plainName(b.word) || slices.ContainsFunc(out, func(o band) bool { return o.word == b.word }) {
			c.autonomyProblem(n.Content[i], Error, "autonomy", "", "each level stands once, after a plain word or number")
			ok = false
		}
		b.level, ok = c.autonomyLevel(n.Content[i+1], ok)
		out = append(out, b)
	}
	return out, ok
}

// autonomyAsks checks that whoever is to be asked is named.
func (c *compiler) autonomyAsks(key *yaml.Node, a *autonomy, have map[string]bool, ok bool) bool {
	asks := a.level == levelOne || a.level == levelTwo
	for _, b := range append(slices.Clone(a.above), a.data...) {
		asks = asks || b.level == levelOne || b.level == levelTwo
	}
	if ok && asks && !have["by"] {
		c.autonomyProblem(key, Error, "autonomy", "by: finance", "%s asks people and does not say whom", a.name)
		return false
	}
	return ok
}

// autonomyPolicies adds an entry's rules.
func (c *compiler) autonomyPolicies(a autonomy) {
	put := func(line int, id string, scope string, lvl level, conditions string) {
		if lvl != levelAlone {
			c.rules = append(c.rules, autonomyRule{line, a.forbid("autonomy-"+id, scope, lvl, conditions)})
		}
	}
	scope := "action == " + actionText(a.name)
	if c.world.isGroup(a.name) {
		scope = "action in " + actionText(a.name)
	}
	if len(a.above) == 0 {
		put(a.line, idOf(a.name), scope, a.level, "")
	}
	if len(a.above) == 0 && len(a.data) == 0 {
		return
	}
	actions := c.world.members[a.name]
	if x := c.world.actions[a.name]; x != nil {
		actions = []*action{x}
	}
	for _, x := range actions {
		each := "action == " + actionText(x.name)
		if !plainName(x.name) {
			c.autonomyProblem(&yaml.Node{Line: a.line, Column: 1}, Error, "autonomy", "take it out of the group", "%q has a name that policy text cannot hold", x.name)
			continue
		}
		if len(a.above) > 0 {
			c.amounts(a, x, func(line int, n int, lvl level, conditions string) {
				put(line, fmt.Sprintf("%s-%s-%d", idOf(a.name), idOf(x.name), n), each, lvl, conditions)
			})
		}
		for n, b := range a.data {
			if held := labelled(x, b.word); held != "" {
				put(b.line, fmt.Sprintf("%s-%s-data-%d", idOf(a.name), idOf(x.name), n), each, b.level, "unless { !("+held+") }")
			}
		}
	}
}

// labelled asks whether the label of any argument holds a word.
func labelled(x *action, word string) string {
	var parts []string
	for _, f := range x.input.Fields {
		if plainName(f.Name) {
			parts = append(parts, attribute("context.labels", f.Name)+".contains("+quoted(word)+")")
		}
	}
	if x.tool == nil {
		return ""
	}
	return strings.Join(parts, " || ")
}

// amounts cuts an action's amounts into bands. An amount that is not there is
// as the highest.
func (c *compiler) amounts(a autonomy, x *action, put func(line, n int, lvl level, conditions string)) {
	path, guard, k, why := numberAt(x.input, a.amount)
	if why != "" {
		c.autonomyProblem(a.pointer, Error, "autonomy", "see ostiary tools list, or name the action alone", "%s of %s %s", a.amount, x.name, why)
		return
	}
	steps := append([]band{{level: a.level, line: a.line}}, a.above...)
	for i := 1; i < len(steps); i++ {
		text, ok := threshold(steps[i].word, k)
		if !ok {
			c.autonomyProblem(&yaml.Node{Line: steps[i].line, Column: 1}, Error, "autonomy", `write "1000", or "1000.50" for an amount with decimals`, "%q is no amount of %s", steps[i].word, x.name)
			return
		}
		steps[i].word = text
		if i > 1 && !lessNumber(steps[i-1].word, text) || steps[i].level < steps[i-1].level {
			c.autonomyProblem(&yaml.Node{Line: steps[i].line, Column: 1}, Error, "autonomy", "", "amounts and levels must rise from line to line")
			return
		}
	}
	for i, s := range steps {
		var low, high string // the band is above low and not above high
		if i > 0 {
			low = noMore(path, s.word, k)
		}
		if i+1 < len(steps) {
			high = moreThan(path, steps[i+1].word, k)
		}
		put(s.line, i, s.level, outside(guard, low, high))
	}
}

// outside is when a forbid of a band does not hold: at most its low end, or
// above its high end. Where an amount may be missing, that counts as the
// highest: no low end excuses it, and each high end does.
func outside(guard []string, low, high string) string {
	there := strings.Join(guard, " && ")
	switch {
	case low == "" && high == "":
		return ""
	case high == "": // the highest
		return "unless { " + strings.Join(append(slices.Clone(guard), low), " && ") + " }"
	}
	in := high
	if low != "" {
		in = low + " || " + high
	}
	if there == "" {
		return "unless { " + in + " }"
	}
	return "unless { if " + there + " then (" + in + ") else true }"
}

// forbid writes one policy.
func (a *autonomy) forbid(id, scope string, lvl level, conditions string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@id(%s)", quoted(clip(id)))
	reason := a.reason
	fact := "approval:" + a.by
	if lvl == levelTwo {
		fact += ":2"
	}
	switch {
	case reason != "":
	case lvl == levelNever:
		reason = "no agent may do this"
	case lvl == levelOne:
		reason = "this needs the consent of one person of " + a.by
	case lvl == levelTwo:
		reason = "this needs the consent of two persons of " + a.by
	}
	fmt.Fprintf(&b, " @reason(%s)", quoted(reason))
	if lvl != levelNever {
		fmt.Fprintf(&b, " @remedy(%s)", quoted(fact))
	}
	fmt.Fprintf(&b, " forbid (principal is Ostiary::Agent, %s, resource)", scope)
	if conditions != "" {
		b.WriteString(" " + conditions)
	}
	switch lvl {
	case levelOne: // the consent of two is that of one
		fmt.Fprintf(&b, " unless { context.satisfied.contains(%s) || context.satisfied.contains(%s) }", quoted(fact), quoted(fact+":2"))
	case levelTwo:
		fmt.Fprintf(&b, " unless { context.satisfied.contains(%s) }", quoted(fact))
	}
	return b.String() + ";"
}

func actionText(name string) string { return `Ostiary::Action::` + quoted(name) }

// idOf makes a part of an id from a name.
func idOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r < 128 && (isWord(byte(r)) || r == '-' || r == '.') {
			return r
		}
		return '-'
	}, name)
}

// clip shortens an id to what one may be; of what is cut off a digest stays.
func clip(id string) string {
	if len(id) <= 64 {
		return id
	}
	sum := ostiary.DigestOf([]byte(id)).String()
	return id[:51] + "-" + sum[:12]
}

// numberAt finds a number in the arguments: the path policy writes, what must
// be asked first because it may be absent, and its kind; or why it cannot be
// used.
func numberAt(input *shape, pointer string) (path string, guard []string, k kind, why string) {
	s, path := input, "context.input"
	for _, part := range strings.Split(pointer, "/")[1:] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		f := s.get(part)
		switch {
		case s.Kind != kRecord || f == nil:
			return "", nil, "", "is no declared argument"
		case !plainName(part):
			return "", nil, "", "has a name that policy text cannot hold"
		}
		if f.Optional || f.Nullable {
			guard = append(guard, path+" has "+attributeName(part))
		}
		path, s = attribute(path, part), f.Shape
	}
	switch s.Kind {
	case kLong, kDecimal:
		return path, guard, s.Kind, ""
	case kHidden:
		return "", nil, "", "cannot be seen by policy: " + s.Why
	}
	return "", nil, "", "is no number"
}

var plainAttribute = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func attributeName(name string) string {
	if plainAttribute.MatchString(name) {
		return name
	}
	return quoted(name)
}

func attribute(path, name string) string {
	if plainAttribute.MatchString(name) {
		return path + "." + name
	}
	return path + "[" + quoted(name) + "]"
}

var (
	longPattern    = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})$`)
	decimalPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,12})(\.[0-9]{1,4})?$`)
)

// threshold writes an amount as policy does.
func threshold(s string, k kind) (string, bool) {
	if k == kLong {
		return s, longPattern.MatchString(s)
	}
	if !strings.Contains(s, ".") {
		return s + ".0", decimalPattern.MatchString(s)
	}
	return s, decimalPattern.MatchString(s)
}

// lessNumber compares two amounts as threshold writes them.
func lessNumber(a, b string) bool {
	x, _ := ostiary.Scale(a, 4)
	y, _ := ostiary.Scale(b, 4)
	return x < y
}

func noMore(path, n string, k kind) string {
	if k == kLong {
		return path + " <= " + n
	}
	return path + ".lessThanOrEqual(decimal(" + quoted(n) + "))"
}

func moreThan(path, n string, k kind) string {
	if k == kLong {
		return path + " > " + n
	}
	return path + ".greaterThan(decimal(" + quoted(n) + "))"
}
