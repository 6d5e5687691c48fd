package catalog

import (
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// Header is an argument that the caller repeats in a header, as the tool's
// schema asks with x-mcp-header.
type Header struct {
	Name string   // the header is "Mcp-Param-" and Name
	Path []string // member names from the arguments down to the value
	Type string   // "string", "integer" or "boolean"
}

// Headers returns the arguments of a tool that travel in headers too, none
// if its marks are not valid. Safe for concurrent use.
func Headers(t *ostiary.Tool) []Header {
	hs, ps := headers(t.Definition.Get("inputSchema"))
	if len(ps) > 0 {
		return nil
	}
	return hs
}

// headers finds every mark and what is wrong with them. A mark stands on a
// property reached through properties alone; its name is a token, used once
// whatever its case; its type is one that has exactly one text.
func headers(schema ostiary.Value) (hs []Header, ps []problem) {
	const mark = "x-mcp-header"
	valid := map[int]bool{} // marks that stand in a right place, by offset
	seen := map[string]bool{}
	var walk func(v ostiary.Value, at string, path []string)
	walk = func(v ostiary.Value, at string, path []string) {
		for name, p := range v.Get("properties").Members() {
			at, path := ostiary.Pointer(at+"/properties", name), append(path[:len(path):len(path)], name)
			walk(p, at, path)
			m := p.Get(mark)
			if !m.Exists() {
				continue
			}
			start, _ := m.Span()
			valid[start] = true
			typ, h := p.Get("type").Text(), m.Text()
			switch {
			case !mcpwire.IsToken(h):
				ps = append(ps, problem{hard: true, at: at + "/" + mark, text: "is not a header name"})
			case seen[strings.ToLower(h)]:
				ps = append(ps, problem{hard: true, at: at + "/" + mark, text: "names a header that is named twice"})
			case typ != "string" && typ != "integer" && typ != "boolean":
				ps = append(ps, problem{hard: true, at: at + "/" + mark, text: "stands on something that is not a string, integer or boolean"})
			}
			seen[strings.ToLower(h)] = true
			hs = append(hs, Header{h, path, typ})
		}
	}
	walk(schema, "/inputSchema", nil)
	strayMarks(schema, "/inputSchema", mark, valid, &ps)
	return hs, ps
}

// strayMarks finds marks in any other place: below items, $defs, a
// combinator, or on the root.
func strayMarks(v ostiary.Value, at, mark string, valid map[int]bool, ps *[]problem) {
	for name, m := range v.Members() {
		here := ostiary.Pointer(at, name)
		start, _ := m.Span()
		if name == mark && !valid[start] && !strings.HasSuffix(at, "/properties") {
			*ps = append(*ps, problem{hard: true, at: here, text: "stands where no header can be filled in"})
		}
		data := name == "default" || name == "const" || name == "enum" || name == "examples" // not schemas
		if !data || strings.HasSuffix(at, "/properties") {
			strayMarks(m, here, mark, valid, ps)
		}
	}
	for i, e := range v.Elements() {
		strayMarks(e, ostiary.Pointer(at, itoa(i)), mark, valid, ps)
	}
}
