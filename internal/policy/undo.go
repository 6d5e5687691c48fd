package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"go.yaml.in/yaml/v3"
)

// fileUndo says of tools which other tool takes back what a call did, and with
// what. A tool that is not read-only and stands not there is in the group
// irreversible. What undoes is a call like any other: policy decides on it.
const fileUndo = "undo.yaml"

const (
	maxUndoFile = 256 << 10 // bytes
	maxUndos    = 1000      // tools
	maxMapped   = 64        // arguments of one
)

// Undo is the call that takes another one back.
type Undo struct {
	Action, Server, Tool string
	Arguments            []Mapped // sorted by name
}

// Mapped is one of its arguments.
type Mapped struct {
	Name string
	From string // "arguments", "result": of the call that is taken back; "text"
	At   string // JSON Pointer there, or the text
}

// Keeps reports whether the result of the call must be known.
func (u *Undo) Keeps() bool {
	return slices.ContainsFunc(u.Arguments, func(m Mapped) bool { return m.From == "result" })
}

// Compose writes the arguments of the call that takes another one back. Values
// are the bytes that stood there. Conflict if one does not.
func (u *Undo) Compose(arguments, result ostiary.Value) ([]byte, error) {
	b := []byte{'{'}
	for i, m := range u.Arguments {
		if i > 0 {
			b = append(b, ',')
		}
		name, _ := json.Marshal(m.Name) // strings always encode
		b = append(append(b, name...), ':')
		if m.From == "text" {
			text, _ := json.Marshal(m.At)
			b = append(b, text...)
			continue
		}
		v := arguments
		if m.From == "result" {
			v = result
		}
		if v = v.Find(m.At); !v.Exists() {
			return nil, ostiary.Errorf(ostiary.Conflict, "undo_source", "there is nothing at %s of the %s, which %s needs as its %s", m.At, m.From, u.Action, m.Name).At(m.Name)
		}
		b = append(b, v.Bytes()...)
	}
	return append(b, '}'), nil
}

// Undo returns what takes back a call of an action, false if nothing does.
func (s *Set) Undo(action string) (Undo, bool) {
	u, ok := s.world.undos[action]
	return u, ok
}

// Undo is that of the active snapshot.
func (e *Engine) Undo(action string) (Undo, bool) {
	s := e.Active()
	if s == nil {
		return Undo{}, false
	}
	return s.Set().Undo(action)
}

// undos reads undo.yaml.
func (c *compiler) undos(text string, tools []toolDecl) map[string]Undo {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	if len(text) > maxUndoFile {
		c.undoProblem(nil, Error, "too_large", "", "the file is too large")
		return nil
	}
	if err := dec.Decode(&doc); err == io.EOF {
		return nil
	} else if err != nil || dec.Decode(new(yaml.Node)) != io.EOF {
		c.undoProblem(nil, Error, "undo", "", "this is not one YAML document")
		return nil
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil
	case root.Kind != yaml.MappingNode || len(root.Content)/2 > maxUndos:
		c.undoProblem(root, Error, "undo", "bank___send_payment: {with: bank___cancel_payment, arguments: {id: \"result:/structuredContent/id\"}}", "each line must be a tool, and what takes back what it did")
		return nil
	}
	find := func(n *yaml.Node) *toolDecl {
		i := slices.IndexFunc(tools, func(t toolDecl) bool { return t.action() == n.Value })
		if i >= 0 && n.Kind == yaml.ScalarNode {
			return &tools[i]
		}
		near := nearest(n.Value, actionNames(tools))
		if n.Kind == yaml.ScalarNode && awaited(n.Value, tools) && near == "" {
			c.undoProblem(n, Warning, "not_accepted", "see ostiary tools list", "no tool of %s is accepted yet, so nothing is said about %s", serverOf(n.Value), n.Value)
		} else {
			c.undoProblem(n, Error, "unknown_action", didYouMean(near), "there is no tool %s; only accepted tools have an action", n.Value)
		}
		return nil
	}
	out := map[string]Undo{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, val := root.Content[i], root.Content[i+1]
		if _, twice := out[key.Value]; twice {
			c.undoProblem(key, Error, "undo", "", "%s stands twice", key.Value)
			continue
		}
		done := find(key)
		var with, arguments *yaml.Node
		for j := 0; val.Kind == yaml.MappingNode && j+1 < len(val.Content); j += 2 {
			switch k := val.Content[j]; k.Value {
			case "with":
				with = val.Content[j+1]
			case "arguments":
				arguments = val.Content[j+1]
			default:
				c.undoProblem(k, Error, "undo", didYouMean(nearest(k.Value, []string{"with", "arguments"})), "an undo has no %q", k.Value)
			}
		}
		if with == nil || arguments == nil || arguments.Kind != yaml.MappingNode || len(arguments.Content)/2 > maxMapped {
			c.undoProblem(key, Error, "undo", "{with: bank___cancel_payment, arguments: {id: \"result:/structuredContent/id\"}}", "%s needs the tool that undoes it, and its arguments", key.Value)
			continue
		}
		undoes := find(with)
		if done == nil || undoes == nil {
			continue
		}
		if done.Server != undoes.Server { // what a token may reach is said by server
			c.undoProblem(with, Error, "undo", "", "%s is of another server than %s", undoes.action(), done.action())
			continue
		}
		u := Undo{Action: undoes.action(), Server: undoes.Server, Tool: undoes.Name}
		given := map[string]bool{}
		for j := 0; j+1 < len(arguments.Content); j += 2 {
			n, v := arguments.Content[j], arguments.Content[j+1]
			m := Mapped{Name: n.Value}
			var ok bool
			m.From, m.At, ok = strings.Cut(v.Value, ":")
			switch {
			case v.Kind != yaml.ScalarNode || !ok || !slices.Contains([]string{"arguments", "result", "text"}, m.From) || m.From != "text" && !ostiary.IsPointer(m.At):
				c.undoProblem(v, Error, "undo", "arguments:/amount, result:/structuredContent/id, or text:undone", "where %s comes from must be the arguments or the result with a JSON Pointer, or a text", n.Value)
			case given[n.Value]:
				c.undoProblem(n, Error, "undo", "", "%s stands twice", n.Value)
			case undoes.Input.get(n.Value) == nil && !undoes.Input.Open:
				c.undoProblem(n, Error, "undo", didYouMean(nearest(n.Value, undoes.Input.names())), "%s has no argument %s", u.Action, n.Value)
			case m.From == "arguments" && !declares(done.Input, m.At):
				c.undoProblem(v, Error, "undo", didYouMean(nearest(strings.TrimPrefix(m.At, "/"), done.Input.names())), "%s has no argument at %s", key.Value, m.At)
			}
			given[n.Value] = true
			u.Arguments = append(u.Arguments, m)
		}
		for _, f := range undoes.Input.Fields {
			if !f.Optional && !f.Nullable && !given[f.Name] {
				c.undoProblem(arguments, Error, "undo", f.Name+": result:/...", "%s needs its argument %s", u.Action, f.Name)
			}
		}
		slices.SortFunc(u.Arguments, func(a, b Mapped) int { return strings.Compare(a.Name, b.Name) })
		out[key.Value] = u
	}
	return out
}

func (c *compiler) undoProblem(n *yaml.Node, severity Severity, code, suggestion, format string, args ...any) {
	p := Problem{File: fileUndo, Severity: severity, Code: code, Message: fmt.Sprintf(format, args...), Suggestion: suggestion}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	c.problems = append(c.problems, p)
}

// declares reports whether a pointer may lead to something in the arguments:
// of its first part the definition must say so.
func declares(input *shape, pointer string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	return input.Open || input.get(strings.NewReplacer("~1", "/", "~0", "~").Replace(first)) != nil
}
