package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

// Each way to declare an argument is read in one way, or hidden with a reason.
func TestInputShape(t *testing.T) {
	for _, c := range []struct{ schema, want string }{
		{`{"type":"string"}`, "string"},
		{`{"type":"boolean"}`, "bool"},
		{`{"type":"integer"}`, "long"},
		{`{"type":"number"}`, "decimal"},
		{`{"type":"array","items":{"type":"boolean"}}`, "set of bool"},
		{`{"type":"object","properties":{"b":{"type":"boolean"}}}`, "record"},
		{`{"enum":["a","b"]}`, "string"},
		{`{"enum":[true,false]}`, "bool"},
		{`{"const":3}`, "long"},
		{`{"enum":["a",1]}`, "hidden: it is a union of types"},
		{`{"type":["string","null"]}`, "string, nullable"},
		{`{"type":["object","null"],"properties":{}}`, "record, nullable"},
		{`{"anyOf":[{"type":"integer"},{"type":"null"}]}`, "long, nullable"},
		{`{"$ref":"#/$defs/Money"}`, "long"},
		{`{"$ref":"#/$defs/Absent"}`, "hidden: its schema says nothing about its type"},
		{`{"$ref":"#/$defs/Loop"}`, "hidden"},
		{`{"type":["string","integer"]}`, "hidden: it is a union of types"},
		{`{"oneOf":[{"type":"string"},{"type":"integer"}]}`, "hidden: it is a union (oneOf)"},
		{`{"type":"string","not":{"const":"a"}}`, "hidden: it is a union (not)"},
		{`{}`, "hidden: its schema names no type"},
		{`true`, "hidden: its schema says nothing about its type"},
		{`{"type":"object"}`, "hidden: it is a free-form object"},
		{`{"type":"array"}`, "hidden: its elements have no one type"},
		{`{"type":"array","prefixItems":[{"type":"string"}],"items":{"type":"string"}}`, "hidden: its elements have no one type"},
		{`{"type":"array","items":{}}`, "hidden: its elements are hidden: its schema names no type"},
		{`{"type":"file"}`, "hidden: it is a union of types"},
	} {
		def := value(t, `{"inputSchema":{"type":"object","properties":{"x":`+c.schema+`},"required":["x"],
			"$defs":{"Money":{"type":"integer"},"Loop":{"$ref":"#/$defs/Loop"}}}}`)
		f := inputShape(def).get("x")
		if f == nil {
			t.Errorf("%s: not read at all", c.schema)
			continue
		}
		got := string(f.Shape.Kind)
		if f.Shape.Kind == kSet {
			got += " of " + string(f.Shape.Elem.Kind)
		}
		if f.Shape.Why != "" && c.want != "hidden" {
			got += ": " + f.Shape.Why
		}
		if f.Nullable {
			got += ", nullable"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.schema, got, c.want)
		}
	}
}

// However a schema nests, its reading ends at the same depth.
func TestInputShapeIsBounded(t *testing.T) {
	for name, form := range map[string]string{
		"objects":          `{"type":"object","properties":{"x":%s}}`,
		"nullable objects": `{"type":["object","null"],"properties":{"x":%s}}`,
	} {
		schema := `{"type":"string"}`
		for range 2 * maxDepth {
			schema = fmt.Sprintf(form, schema)
		}
		depth := 0
		s := inputShape(value(t, `{"inputSchema":`+fmt.Sprintf(`{"type":"object","properties":{"x":%s}}`, schema)+`}`))
		for ; s.Kind == kRecord; depth++ {
			s = s.get("x").Shape
		}
		if depth != maxDepth || s.Kind != kHidden || !strings.Contains(s.Why, "too deep") {
			t.Errorf("%s: %d deep, then %s %s", name, depth, s.Kind, s.Why)
		}
	}
	loop := value(t, `{"inputSchema":{"type":"object","properties":{"x":{"$ref":"#"}}}}`)
	depth := 0
	for s := inputShape(loop); s.Kind == kRecord; depth++ {
		s = s.get("x").Shape
	}
	if depth > maxDepth {
		t.Errorf("a schema that holds itself is read %d deep", depth)
	}
}

// A policy sees a boolean as what it is.
func TestBooleanArgument(t *testing.T) {
	tools := []*ostiary.Tool{tool(t, "bank", "close", `{"type":"object","properties":{"force":{"type":"boolean"}},"required":["force"]}`)}
	set := compile(t, source("a.cedar", `@id("gently") permit (principal, action == Ostiary::Action::"bank___close", resource) when { !context.input.force };`), tools)
	for args, want := range map[string]bool{`{"force":false}`: true, `{"force":true}`: false, `{"force":"false"}`: false, `{"force":0}`: false} {
		if d := set.decide(request(t, tools, "bank___close", args), true); d.Permit != want {
			t.Errorf("%s: %+v", args, d)
		}
	}
}
