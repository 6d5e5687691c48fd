package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
)

// Limits of the files of a registry.
const (
	MaxFile = 4 << 20 // bytes of one
)

// Stated is an entity as a file says it, and where.
type Stated struct {
	ostiary.Entity
	File string
	Line int // of the entity's first field, from 1
}

// Problem is something wrong with a file, with the place.
type Problem struct {
	File  string
	Line  int
	Field string // "" if it is about no one field
	Text  string
}

func (p Problem) String() string {
	where := fmt.Sprintf("%s:%d", p.File, p.Line)
	if p.Field != "" {
		where += ": " + p.Field
	}
	return where + ": " + p.Text
}

// Parse reads entities from YAML, of which JSON is a part: a document for each,
// or lists of them. Every problem is returned; with any, the entities are of
// no use. Names of agents may be paths below the trust domain, which is not
// known here.
func Parse(file string, text []byte) (all []Stated, problems []Problem) {
	if len(text) > MaxFile {
		return nil, []Problem{{file, 1, "", fmt.Sprintf("it is longer than %d bytes", MaxFile)}}
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, append(problems, syntaxProblem(file, err))
		}
		r := reader{file: file}
		r.entities(doc.Content[0])
		all, problems = append(all, r.all...), append(problems, r.problems...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return all, nil
}

// syntaxProblem takes the line out of the library's words.
func syntaxProblem(file string, err error) Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, words, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, text = n, words
		}
	}
	return Problem{file, line, "", text}
}

// reader collects entities and what is wrong with them.
type reader struct {
	file     string
	all      []Stated
	problems []Problem
}

func (r *reader) bad(n *yaml.Node, field, format string, a ...any) {
	r.problems = append(r.problems, Problem{r.file, n.Line, field, fmt.Sprintf(format, a...)})
}

// entities reads a document: an entity, a list of them, or nothing.
func (r *reader) entities(n *yaml.Node) {
	switch {
	case n.Kind == yaml.SequenceNode:
		for _, x := range n.Content {
			r.entity(x)
		}
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
	default:
		r.entity(n)
	}
}

func (r *reader) entity(n *yaml.Node) {
	x := Stated{File: r.file, Line: n.Line}
	lines := r.fields(n, "", map[string]func(field string, n *yaml.Node){
		"kind":     func(f string, n *yaml.Node) { x.Kind = ostiary.EntityKind(r.text(f, n)) },
		"name":     func(f string, n *yaml.Node) { x.Name = r.text(f, n) },
		"owner":    func(f string, n *yaml.Node) { x.Owner = ostiary.PrincipalID(r.text(f, n)) },
		"purpose":  func(f string, n *yaml.Node) { x.Purpose = r.text(f, n) },
		"classes":  func(f string, n *yaml.Node) { x.Classes = r.texts(f, n) },
		"version":  func(f string, n *yaml.Node) { x.Version = r.text(f, n) },
		"zone":     func(f string, n *yaml.Node) { x.Zone = r.text(f, n) },
		"baseline": func(f string, n *yaml.Node) { x.Baseline = r.digest(f, n) },
		"state":    func(f string, n *yaml.Node) { x.Retired = r.state(f, n) },
		"limits":   func(f string, n *yaml.Node) { r.limits(f, n, &x.Limits) },
	})
	if lines == nil {
		return
	}
	e := settled(x.Entity)
	if e.Kind == ostiary.AgentEntity && !strings.Contains(e.Name, ":") {
		e.Name = "spiffe://trust-domain/agent/" + e.Name // as the gateway will complete it
	}
	if err := Check(&e); err != nil {
		at := ostiary.AsError(err)
		line := lines[at.Field]
		if line == 0 {
			line = n.Line
		}
		r.problems = append(r.problems, Problem{r.file, line, at.Field, at.Detail})
		return
	}
	r.all = append(r.all, x)
}

// fields calls a reader for each member of a mapping and returns the line of
// each; nil if it is none.
func (r *reader) fields(n *yaml.Node, prefix string, read map[string]func(string, *yaml.Node)) map[string]int {
	if n.Kind != yaml.MappingNode {
		r.bad(n, strings.TrimSuffix(prefix, "."), "write fields and their values here, without anchors or aliases")
		return nil
	}
	lines := map[string]int{}
	before := len(r.problems)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		field := prefix + name.Value
		do, ok := read[name.Value]
		switch {
		case name.Kind != yaml.ScalarNode || !ok:
			known := make([]string, 0, len(read))
			for k := range read {
				known = append(known, k)
			}
			slices.Sort(known)
			r.bad(name, clip(field), "there is no such field; there are: %s", strings.Join(known, ", "))
		case lines[field] > 0:
			r.bad(name, field, "it is said twice, before in line %d", lines[field])
		default:
			lines[field] = name.Line
			do(field, value)
		}
	}
	if len(r.problems) > before {
		return nil
	}
	return lines
}

// clip bounds a name that a file chose, for a message.
func clip(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// text reads a text. What YAML would take for a number or a truth is refused:
// the version 1.10 would lose its zero in the next program that reads it.
func (r *reader) text(field string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		r.bad(n, field, "this must be a text; put it in quotes if it looks like a number")
		return ""
	}
	return n.Value
}

func (r *reader) texts(field string, n *yaml.Node) (out []string) {
	if n.Kind != yaml.SequenceNode {
		r.bad(n, field, "this must be a list, for example [payments, personal]")
		return nil
	}
	for _, x := range n.Content {
		out = append(out, r.text(field, x))
	}
	return out
}

func (r *reader) digest(field string, n *yaml.Node) ostiary.Digest {
	if n.Kind == yaml.ScalarNode { // sixty-four digits may look like a number, and are none
		if d, err := ostiary.ParseDigest(n.Value); err == nil {
			return d
		}
	}
	r.bad(n, field, "a baseline is a SHA-256, 64 lower-case hex digits")
	return ostiary.Digest{}
}

func (r *reader) state(field string, n *yaml.Node) (retired bool) {
	if s := r.text(field, n); s != "active" && s != "retired" {
		r.bad(n, field, "the state is active or retired")
	} else {
		retired = s == "retired"
	}
	return retired
}

func (r *reader) limits(field string, n *yaml.Node, l *ostiary.Limits) {
	read := map[string]func(string, *yaml.Node){}
	for _, name := range LimitNames() {
		read[name] = func(f string, n *yaml.Node) {
			v, err := strconv.ParseInt(n.Value, 10, 64)
			if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || v < 0 {
				r.bad(n, f, "a limit is a whole number, 0 or more")
			}
			SetLimit(l, name, v)
		}
	}
	r.fields(n, field+".", read)
}

// Write writes entities as YAML that Parse reads, a document each.
func Write(w io.Writer, all []*ostiary.Entity) error {
	for i, e := range all {
		if i > 0 {
			if _, err := io.WriteString(w, "---\n"); err != nil {
				return err
			}
		}
		if _, err := w.Write(document(e)); err != nil {
			return err
		}
	}
	return nil
}

// document writes one entity. Texts are in double quotes where YAML could take
// them for anything else.
func document(e *ostiary.Entity) []byte {
	doc := yaml.Node{Kind: yaml.MappingNode}
	add := func(name string, v *yaml.Node) {
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, v)
	}
	text := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }
	add("kind", text(string(e.Kind)))
	add("name", text(e.Name))
	for _, f := range []struct{ name, value string }{
		{"owner", string(e.Owner)}, {"purpose", e.Purpose}, {"version", e.Version}, {"baseline", e.Baseline.String()}, {"zone", e.Zone},
	} {
		if f.value != "" {
			add(f.name, text(f.value))
		}
	}
	if len(e.Classes) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, c := range e.Classes {
			list.Content = append(list.Content, text(c))
		}
		add("classes", list)
	}
	limits := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	EachLimit(e.Limits, func(name string, v int64) {
		limits.Content = append(limits.Content, text(name), &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v, 10)})
	})
	if len(limits.Content) > 0 {
		add("limits", limits)
	}
	if e.Retired {
		add("state", text("retired"))
	}
	b, err := yaml.Marshal(&doc)
	if err != nil { // scalars always marshal
		panic(err)
	}
	return b
}
