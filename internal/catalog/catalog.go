// Package catalog keeps pinned copies of what servers offer: tools, prompts,
// resources and resource templates (law 11).
//
// It guarantees that a definition is called only as a person accepted it. A
// definition's pin is a digest of its whole meaning: any change of it is
// another definition, and member order, white space and the spelling of
// escapes are not a change. Definitions that could deceive a reader, open a
// connection or cost unbounded time are quarantined; names that look like
// another name are refused. Arguments are checked against the accepted schema,
// on the values as they arrived, and arguments nobody declared are refused.
//
// It trusts the strict scanner that made the values, the stored pins, and the
// person who accepts. It does not trust servers. It cannot recognise every
// manipulating sentence, and does not claim to: what an accepted tool returns
// is untrusted all the same.
//
// It does not fetch definitions, list them to agents, or decide anything about
// a call but whether it fits its definition.
//
// See JSON Schema 2020-12, the Model Context Protocol's tools, prompts and
// resources, and Unicode Technical Standard 39 for confusable names.
package catalog

import (
	"strings"

	"github.com/ostiary/ostiary"
)

// The kinds of definition.
const (
	KindTool     = "tool"
	KindPrompt   = "prompt"
	KindResource = "resource"
	KindTemplate = "template"
)

// Limits on a definition. They are generous against real servers and small
// against what compiling, comparing and reading one costs.
const (
	maxDefinition = 256 << 10 // bytes of one definition: a person must be able to read it
	maxNesting    = 32        // levels of a definition: recursion here and in the compiler
	maxName       = 128       // characters of a tool's or prompt's name, as the protocol recommends
	maxURI        = 2048      // characters of a resource's address
	maxReasons    = 4         // problems named in Tool.Why; the first are enough to act
	maxShown      = 80        // characters of foreign text quoted in one problem
)

// ParseDefinition reads one definition of a server's list and returns it as a
// Tool that nobody has accepted: ToolUnpinned, or ToolQuarantined with Why.
// It never fails; what cannot be read is quarantined. A name that is refused
// stands in Name with its invisible characters written as code points, so it
// can be shown and never called. Resources are named by their uri, templates
// by their uriTemplate. Safe for concurrent use.
func ParseDefinition(server, kind string, def ostiary.Value) ostiary.Tool {
	t, _ := parse(server, kind, def)
	return t
}

// parse also tells whether the problems are of the kind that a person may
// accept after reading them.
func parse(server, kind string, def ostiary.Value) (t ostiary.Tool, hard bool) {
	t = ostiary.Tool{Server: server, Kind: kind, Definition: def}
	ps := examine(kind, def)
	t.Name = def.Get(nameMember(kind)).Text()
	for _, p := range ps {
		if p.name {
			t.Name = clip(t.Name)
		}
		hard = hard || p.hard
	}
	if def.Kind() == ostiary.Object && len(def.Bytes()) <= maxDefinition && nesting(def, maxNesting) {
		t.Pin = pin(kind, def)
	}
	t.ReadOnly, t.Destructive, t.OpenWorld = hints(kind, def)
	if len(ps) > 0 {
		t.State = ostiary.ToolQuarantined
		t.Why = why(ps)
	}
	return t, hard
}

// problem is one thing wrong with a definition. A hard one cannot be accepted
// by anybody; the others can, by somebody who has read them.
type problem struct {
	hard bool
	name bool   // it is about the definition's own name
	at   string // JSON Pointer into the definition
	text string
}

func why(ps []problem) string {
	var b strings.Builder
	for i, p := range ps {
		if i == maxReasons {
			b.WriteString("; and more")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		if p.at != "" {
			b.WriteString(clip(p.at) + " ")
		}
		b.WriteString(p.text)
	}
	return b.String()
}

func nameMember(kind string) string {
	switch kind {
	case KindResource:
		return "uri"
	case KindTemplate:
		return "uriTemplate"
	}
	return "name"
}

// examine lists everything wrong with a definition, worst first.
func examine(kind string, def ostiary.Value) []problem {
	switch {
	case kind != KindTool && kind != KindPrompt && kind != KindResource && kind != KindTemplate:
		return []problem{{hard: true, text: "is of no known kind"}}
	case def.Kind() != ostiary.Object:
		return []problem{{hard: true, text: "is not a JSON object"}}
	case len(def.Bytes()) > maxDefinition:
		return []problem{{hard: true, text: "is larger than 256 KiB"}}
	case !nesting(def, maxNesting):
		return []problem{{hard: true, text: "is nested deeper than 32 levels"}}
	}
	ps := checkName(kind, def)
	ps = append(ps, checkMembers(kind, def)...)
	if kind == KindTool {
		_, p := compile(def.Get("inputSchema"), "/inputSchema")
		ps = append(ps, p...)
		if out := def.Get("outputSchema"); out.Exists() {
			_, p := compile(out, "/outputSchema")
			ps = append(ps, p...)
		}
		if len(ps) == 0 {
			_, p := headers(def.Get("inputSchema"))
			ps = append(ps, p...)
		}
	}
	return append(ps, checkText(def)...)
}

// checkMembers checks the members whose type the protocol fixes. Members it
// does not know are allowed: the pin covers them.
func checkMembers(kind string, def ostiary.Value) (ps []problem) {
	want := func(v ostiary.Value, at, what string, kinds ...ostiary.ValueKind) {
		for _, k := range kinds {
			if v.Kind() == k {
				return
			}
		}
		ps = append(ps, problem{hard: true, at: at, text: what})
	}
	text := func(v ostiary.Value, name, at string) {
		want(v.Get(name), ostiary.Pointer(at, name), "is not a string", ostiary.Absent, ostiary.String)
	}
	text(def, "title", "")
	text(def, "description", "")
	switch kind {
	case KindTool:
		in := def.Get("inputSchema")
		want(in, "/inputSchema", "is missing or not an object", ostiary.Object)
		if in.Kind() == ostiary.Object && !in.Get("type").Is("object") {
			ps = append(ps, problem{hard: true, at: "/inputSchema/type", text: `is not "object"`})
		}
		want(def.Get("outputSchema"), "/outputSchema", "is not an object", ostiary.Absent, ostiary.Object)
		ann := def.Get("annotations")
		want(ann, "/annotations", "is not an object", ostiary.Absent, ostiary.Object)
		text(ann, "title", "/annotations")
		for _, h := range []string{"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} {
			want(ann.Get(h), "/annotations/"+h, "is not true or false", ostiary.Absent, ostiary.True, ostiary.False)
		}
	case KindPrompt:
		ps = append(ps, checkPrompt(def)...)
	case KindResource, KindTemplate:
		want(def.Get("name"), "/name", "is missing or not a string", ostiary.String)
		text(def, "mimeType", "")
	}
	return ps
}

// checkPrompt checks a prompt's declared arguments.
func checkPrompt(def ostiary.Value) (ps []problem) {
	args := def.Get("arguments")
	if k := args.Kind(); k != ostiary.Absent && k != ostiary.Array {
		return []problem{{hard: true, at: "/arguments", text: "is not an array"}}
	}
	seen := map[string]bool{}
	for i, a := range args.Elements() {
		at := ostiary.Pointer("/arguments", itoa(i))
		name := a.Get("name")
		switch req := a.Get("required").Kind(); {
		case name.Kind() != ostiary.String || name.Text() == "":
			ps = append(ps, problem{hard: true, at: at, text: "has no name"})
		case seen[name.Text()]:
			ps = append(ps, problem{hard: true, at: at, text: "is declared twice"})
		case req != ostiary.Absent && req != ostiary.True && req != ostiary.False:
			ps = append(ps, problem{hard: true, at: at + "/required", text: "is not true or false"})
		}
		if bad := badName(name.Text(), maxName); name.Text() != "" && bad != "" {
			ps = append(ps, problem{hard: true, at: at + "/name", text: bad})
		}
		seen[name.Text()] = true
	}
	return ps
}

// hints reads a tool's annotations so that they only raise caution: what is
// absent is taken as the protocol's default, and a tool that claims to be
// both read-only and destructive is destructive.
func hints(kind string, def ostiary.Value) (readOnly, destructive, openWorld bool) {
	if kind != KindTool {
		return false, false, false
	}
	ann := def.Get("annotations")
	readOnly = ann.Get("readOnlyHint").Kind() == ostiary.True
	switch d := ann.Get("destructiveHint").Kind(); {
	case d == ostiary.True:
		readOnly, destructive = false, true
	case d != ostiary.False:
		destructive = !readOnly
	}
	return readOnly, destructive, ann.Get("openWorldHint").Kind() != ostiary.False
}

// Findings reports what in a definition reads like an instruction to a model
// rather than a description. Scanning text cannot be complete: no finding is
// no proof of innocence. Safe for concurrent use.
func Findings(t *ostiary.Tool) []ostiary.Finding {
	if t.Definition.Kind() != ostiary.Object || len(t.Definition.Bytes()) > maxDefinition {
		return nil
	}
	var fs []ostiary.Finding
	for _, p := range scanPhrases(t.Definition) {
		fs = append(fs, ostiary.Finding{Inspector: "catalog", Kind: "instruction", Field: p.at, Confidence: 70})
	}
	return fs
}
