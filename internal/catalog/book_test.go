package catalog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// fakePins keeps pins in memory. Its next write can fail, before or after it
// happened.
type fakePins struct {
	mu           sync.Mutex
	all          map[[3]string]PinRecord
	before, late error
}

func (f *fakePins) Pins(context.Context) (out []PinRecord, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.all {
		out = append(out, r)
	}
	return out, nil
}

func (f *fakePins) SavePins(_ context.Context, rs []PinRecord) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != nil {
		return f.before
	}
	for _, r := range rs {
		f.all[[3]string{r.Server, r.Kind, r.Name}] = r
	}
	return f.late
}

func (f *fakePins) DropPin(_ context.Context, server, kind, name string) error {
	delete(f.all, [3]string{server, kind, name})
	return nil
}

func newBook() (*Book, *fakePins) {
	p := &fakePins{all: map[[3]string]PinRecord{}}
	return New(p, func() time.Time { return time.Unix(1e9, 0) }), p
}

func on(t testing.TB, server, def string) ostiary.Tool {
	return ParseDefinition(server, KindTool, value(t, def))
}

func state(b *Book, server, name string) ostiary.ToolState {
	tl, ok := b.Tool(server, KindTool, name)
	if !ok {
		return 99
	}
	return tl.State
}

func call(t testing.TB, b *Book, name, args string) error {
	a := &ostiary.Action{Method: "tools/call", Server: "bank", Tool: name}
	if tl, ok := b.Tool("bank", KindTool, name); ok {
		a.Pin = tl.Pin
	}
	if args != "" {
		a.Arguments = value(t, args)
	}
	return b.Validate(a)
}

func code(err error) string {
	var e *ostiary.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestLifeOfADefinition(t *testing.T) {
	ctx := context.Background()
	b, pins := newBook()
	if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "unknown_tool" {
		t.Fatalf("an empty book says %q", got)
	}
	first := on(t, "bank", pay)
	cs := b.Observe("bank", KindTool, []ostiary.Tool{first})
	if len(cs) != 1 || !cs[0].New || state(b, "bank", "pay") != ostiary.ToolUnpinned {
		t.Fatalf("changes %+v", cs)
	}
	if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "tool_unpinned" {
		t.Fatalf("an unpinned tool says %q", got)
	}
	if ts, err := b.Accept(ctx, "bank", "", "dana"); err != nil || len(ts) != 1 || ts[0].State != ostiary.ToolPinned {
		t.Fatal(ts, err)
	}
	if err := call(t, b, "pay", `{"to":"x"}`); err != nil {
		t.Fatal(err)
	}
	if cs := b.Observe("bank", KindTool, []ostiary.Tool{on(t, "bank", strings.ReplaceAll(pay, ",", ", "))}); len(cs) != 0 {
		t.Fatalf("C02: only white space changed, yet %+v", cs)
	}

	t.Run("C01 rug pull", func(t *testing.T) {
		changed := on(t, "bank", strings.Replace(pay, "Pays a bill.", "Pays a bill!\u200b", 1))
		cs := b.Observe("bank", KindTool, []ostiary.Tool{changed})
		if len(cs) != 1 || cs[0].Tool.State != ostiary.ToolChanged || cs[0].Was != ostiary.ToolPinned || cs[0].Offered != changed.Pin {
			t.Fatalf("changes %+v", cs)
		}
		if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "tool_changed" {
			t.Fatalf("a changed tool says %q", got)
		}
		d, _, err := b.Diff("bank", KindTool, "pay")
		if err != nil || !strings.Contains(d, `-   "description": "Pays a bill.",`) || !strings.Contains(d, `+   "description": "Pays a bill!<U+200B>",`) {
			t.Fatalf("%v\n%s", err, d)
		}
		tl, _ := b.Tool("bank", KindTool, "pay")
		if tl.Pin != first.Pin || tl.Definition.Get("description").Text() != "Pays a bill." {
			t.Error("law 11: the listed definition is not the accepted one")
		}
	})
	t.Run("C04 accepted only with force and only as read", func(t *testing.T) {
		if _, err := b.Accept(ctx, "bank", "pay", "dana"); code(err) != "tool_quarantined" {
			t.Fatal(err)
		}
		if _, err := b.AcceptOne(ctx, Acceptance{Server: "bank", Kind: KindTool, Name: "pay", Pin: first.Pin, Force: true}); code(err) != "pin_moved" {
			t.Fatal(err)
		}
		now, _ := b.Offered("bank", KindTool, "pay")
		if _, err := b.AcceptOne(ctx, Acceptance{Server: "bank", Kind: KindTool, Name: "pay", Pin: now.Pin, By: "dana", Force: true}); err != nil {
			t.Fatal(err)
		}
		if err := call(t, b, "pay", `{"to":"x"}`); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("accepted again changes nothing", func(t *testing.T) {
		if ts, err := b.Accept(ctx, "bank", "pay", "eve"); err != nil || len(ts) != 0 {
			t.Fatal(ts, err)
		}
		if by := pins.all[[3]string{"bank", KindTool, "pay"}].By; by != "dana" {
			t.Fatal(by)
		}
	})
	t.Run("gone and back", func(t *testing.T) {
		now, _ := b.Offered("bank", KindTool, "pay")
		b.Observe("bank", KindTool, nil)
		if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "tool_gone" {
			t.Fatal(got)
		}
		b.Observe("bank", KindTool, []ostiary.Tool{now})
		if err := call(t, b, "pay", `{"to":"x"}`); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("stands after a restart", func(t *testing.T) {
		c := New(pins, time.Now)
		if err := c.Load(ctx); err != nil {
			t.Fatal(err)
		}
		if err := call(t, c, "pay", `{"to":"x"}`); err != nil {
			t.Fatal(err)
		}
		if d, _, err := c.Diff("bank", KindTool, "pay"); d != "" || err != nil {
			t.Error(d, err)
		}
	})
	t.Run("a stored definition that moved is corrupt", func(t *testing.T) {
		k := [3]string{"bank", KindTool, "pay"}
		good := pins.all[k]
		bad := good
		bad.Definition = []byte(strings.Replace(string(good.Definition), "whom", "who", 1))
		pins.all[k] = bad
		defer func() { pins.all[k] = good }()
		if err := New(pins, time.Now).Load(ctx); code(err) != "pin_record" {
			t.Fatal(err)
		}
	})
	t.Run("dropped", func(t *testing.T) {
		if err := b.Drop(ctx, "bank", KindTool, "pay"); err != nil {
			t.Fatal(err)
		}
		if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "tool_quarantined" {
			t.Fatal(got)
		}
	})
}

func TestFaultsOfAcceptance(t *testing.T) {
	ctx := context.Background()
	b, pins := newBook()
	b.Observe("bank", KindTool, []ostiary.Tool{on(t, "bank", pay)})
	pins.before = errors.New("did not happen")
	if _, err := b.Accept(ctx, "bank", "pay", "dana"); err == nil || state(b, "bank", "pay") != ostiary.ToolUnpinned {
		t.Fatal("a failed write accepted")
	}
	pins.before, pins.late = nil, errors.New("happened, reported failed")
	if _, err := b.Accept(ctx, "bank", "pay", "dana"); err == nil || state(b, "bank", "pay") != ostiary.ToolUnpinned {
		t.Fatal("an unsure write accepted")
	}
	if err := b.Load(ctx); err != nil || state(b, "bank", "pay") != ostiary.ToolPinned {
		t.Fatal("asking again did not find what was written", err)
	}
}

func TestNamesThatClash(t *testing.T) {
	named := func(server, name string) ostiary.Tool {
		return on(t, server, `{"name":"`+name+`","inputSchema":{"type":"object"}}`)
	}
	ctx := context.Background()
	t.Run("C03 the same name on two servers stands", func(t *testing.T) {
		b, _ := newBook()
		b.Observe("a", KindTool, []ostiary.Tool{named("a", "send_email")})
		b.Observe("b", KindTool, []ostiary.Tool{named("b", "send_email")})
		if state(b, "a", "send_email") != ostiary.ToolUnpinned || state(b, "b", "send_email") != ostiary.ToolUnpinned {
			t.Error("refused")
		}
	})
	for name, c := range map[string]struct{ a, b string }{
		"C03 all-Cyrillic twin":  {"cop", "сор"},
		"C03 digit for letter":   {"pay_all", "pay_a1l"},
		"C03 two for one letter": {"modem", "modern"},
		"C03 dash for dash":      {"get-user", "get‐user"},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newBook()
			b.Observe("a", KindTool, []ostiary.Tool{named("a", c.a)})
			if _, err := b.Accept(ctx, "a", "", "dana"); err != nil {
				t.Fatal(err)
			}
			b.Observe("b", KindTool, []ostiary.Tool{named("b", c.b)})
			if state(b, "a", c.a) != ostiary.ToolPinned || state(b, "b", c.b) != ostiary.ToolQuarantined {
				t.Fatal(state(b, "a", c.a), state(b, "b", c.b))
			}
			if _, err := b.AcceptOne(ctx, Acceptance{Server: "b", Kind: KindTool, Name: c.b, Force: true}); code(err) != "tool_quarantined" {
				t.Error("accepted by force", err)
			}
			b.Observe("a", KindTool, []ostiary.Tool{named("a", c.a), named("a", c.b)})
			if state(b, "a", c.b) != ostiary.ToolQuarantined {
				t.Error("not refused within one server")
			}
		})
	}
	t.Run("C03 a name nobody could accept displaces none", func(t *testing.T) {
		b, _ := newBook()
		b.Observe("b", KindTool, []ostiary.Tool{named("b", "send_emаil"), named("b", "send_email")})
		if state(b, "b", "send_email") != ostiary.ToolUnpinned || state(b, "b", "send_emаil") != ostiary.ToolQuarantined {
			t.Error("wrong one refused")
		}
	})
	t.Run("C03 case within a server", func(t *testing.T) {
		b, _ := newBook()
		b.Observe("a", KindTool, []ostiary.Tool{named("a", "Search"), named("a", "search")})
		b.Observe("b", KindTool, []ostiary.Tool{named("b", "Find")})
		b.Observe("c", KindTool, []ostiary.Tool{named("c", "find")})
		if state(b, "a", "search") != ostiary.ToolQuarantined || state(b, "b", "Find") != ostiary.ToolUnpinned {
			t.Error("wrong")
		}
	})
	t.Run("one action, two tools", func(t *testing.T) {
		b, _ := newBook()
		b.Observe("a", KindTool, []ostiary.Tool{named("a", "b___c")})
		b.Observe("a___b", KindTool, []ostiary.Tool{named("a___b", "c")})
		if state(b, "a", "b___c") != ostiary.ToolQuarantined || state(b, "a___b", "c") != ostiary.ToolQuarantined {
			t.Error("both stand")
		}
	})
	t.Run("twice in one list", func(t *testing.T) {
		b, _ := newBook()
		b.Observe("a", KindTool, []ostiary.Tool{named("a", "x")})
		if _, err := b.Accept(ctx, "a", "", "dana"); err != nil {
			t.Fatal(err)
		}
		b.Observe("a", KindTool, []ostiary.Tool{named("a", "x"), named("a", "x")})
		if state(b, "a", "x") != ostiary.ToolChanged {
			t.Error("stands", state(b, "a", "x"))
		}
	})
}

func TestArguments(t *testing.T) {
	const deep = `{"type":"object","properties":{"o":{"type":"object","properties":{"a":{"type":"string"}}},"free":{"type":"object"},"list":{"type":"array","items":{"type":"object","properties":{"k":{}}}},
	 "m":{"type":"string","pattern":"^[a-z]+$","maxLength":100000},"e":{"enum":["red","green"]},"n":{"type":"number","maximum":10},"u":{"type":"string","format":"uri"},"i":{"type":"integer"}}}`
	for _, c := range []struct{ name, schema, args, field, word string }{
		{"absent arguments", `{"type":"object"}`, ``, "-", ""},
		{"absent arguments that are required", `{"type":"object","properties":{"a":{}},"required":["a"]}`, ``, "/a", "required"},
		{"none declared, none given", `{"type":"object"}`, `{}`, "-", ""},
		{"none declared, one given", `{"type":"object"}`, `{"a":1}`, "/a", "declares no argument"},
		{"none declared, all allowed", `{"type":"object","additionalProperties":true}`, `{"a":1}`, "-", ""},
		{"declared empty", `{"type":"object","properties":{}}`, `{"a":1}`, "/a", "declares no"},
		{"undeclared", deep, `{"zz":1}`, "/zz", "declares no"},
		{"undeclared, nested", deep, `{"o":{"a":"x","b":1}}`, "/o/b", "declares no"},
		{"undeclared, in a list", deep, `{"list":[{"k":1},{"q":2}]}`, "/list/1/q", "declares no"},
		{"free-form", deep, `{"free":{"anything":[1,{"x":2}]}}`, "-", ""},
		{"pattern", deep, `{"m":"SECRET"}`, "/m", "pattern"},
		{"too long to match", deep, `{"m":"` + strings.Repeat("a", maxMatched) + `"}`, "/m", "too long"},
		{"enum", deep, `{"e":"blue"}`, "/e", `"red", "green"`},
		{"type", deep, `{"i":"7"}`, "/i", "must be integer, not string"},
		{"integer that is not", deep, `{"i":7.5}`, "/i", "integer"},
		{"maximum, exactly", deep, `{"n":10.000000000000000000000001}`, "/n", "at most 10"},
		{"exponent", deep, `{"n":1e-300}`, "-", ""},
		{"format", deep, `{"u":"::"}`, "/u", "valid uri"},
		{"by reference", `{"type":"object","$ref":"#/$defs/x","$defs":{"x":{"properties":{"a":{}}}}}`, `{"a":1,"b":2}`, "/b", "declares no"},
		{"by combination", `{"type":"object","properties":{"a":{}},"anyOf":[{"properties":{"b":{}},"required":["b"]},{"required":["a"]}]}`, `{"b":2}`, "-", ""},
		{"by combination, none fits", `{"type":"object","properties":{"a":{}},"anyOf":[{"properties":{"b":{}},"required":["b"]},{"required":["a"]}]}`, `{}`, "", "anyOf"},
		{"by pattern", `{"type":"object","patternProperties":{"^x-":{"type":"string"}}}`, `{"x-a":"1","y":2}`, "/y", "declares no"},
		{"schema says no", `{"type":"object","properties":{"a":{}},"additionalProperties":false}`, `{"b":1}`, "", "additionalProperties"},
		{"unevaluated", `{"type":"object","properties":{"a":{}},"unevaluatedProperties":false}`, `{"b":1}`, "/b", ""},
		{"not an object", deep, `[1]`, "", "not an object"},
		{"pointer escapes", `{"type":"object","properties":{"a/b~":{"type":"string"}}}`, `{"a/b~":1}`, "/a~1b~0", "string"},
		{"draft-07", `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"a":{"type":"string"}},"dependencies":{"a":["b"]}}`, `{"a":"x"}`, "", "dependency"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := newBook()
			tl := on(t, "bank", schema(c.schema))
			if tl.State != ostiary.ToolUnpinned {
				t.Fatal(tl.Why)
			}
			b.Observe("bank", KindTool, []ostiary.Tool{tl})
			if _, err := b.Accept(t.Context(), "bank", "", "dana"); err != nil {
				t.Fatal(err)
			}
			err := call(t, b, "x", c.args)
			if c.field == "-" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *ostiary.Error
			if !errors.As(err, &e) || e.Kind != ostiary.Malformed || e.Code != "schema" || e.Field != c.field || !strings.Contains(e.Detail, c.word) {
				t.Fatalf("got %#v", err)
			}
			if strings.Contains(e.Detail, "SECRET") || strings.Contains(e.Detail, "blue") {
				t.Error("the answer echoes the value")
			}
		})
	}
}

func TestPromptsAndOthers(t *testing.T) {
	b, _ := newBook()
	p := ParseDefinition("bank", KindPrompt, value(t, `{"name":"p","arguments":[{"name":"a","required":true},{"name":"b"}]}`))
	r := ParseDefinition("bank", KindResource, value(t, `{"uri":"file:///a","name":"A"}`))
	b.Observe("bank", KindPrompt, []ostiary.Tool{p})
	b.Observe("bank", KindResource, []ostiary.Tool{r})
	read := &ostiary.Action{Method: "resources/read", Server: "bank", URI: "file:///a", Pin: r.Pin}
	if got := code(b.Validate(read)); got != "unpinned" {
		t.Error(got)
	}
	if _, err := b.Accept(t.Context(), "bank", "", "dana"); err != nil {
		t.Fatal(err)
	}
	if err := b.Validate(read); err != nil {
		t.Error(err)
	}
	if err := b.Validate(&ostiary.Action{Method: "tools/list"}); err != nil {
		t.Error(err)
	}
	if err := b.Validate(&ostiary.Action{Method: "tools/call", Server: "bank"}); code(err) != "unknown_tool" {
		t.Error(err)
	}
	get := func(args string) error {
		return b.Validate(&ostiary.Action{Method: "prompts/get", Server: "bank", Tool: "p", Pin: p.Pin, Arguments: value(t, args)})
	}
	for args, want := range map[string]string{`{"a":"x"}`: "", `{}`: "schema", `{"a":1}`: "schema", `{"a":"x","c":"y"}`: "schema", `[]`: "schema"} {
		if got := code(get(args)); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
	moved := &ostiary.Action{Method: "prompts/get", Server: "bank", Tool: "p", Pin: r.Pin}
	if got := code(b.Validate(moved)); got != "pin_moved" {
		t.Error(got)
	}
}

func TestManyAtOnce(t *testing.T) {
	b, _ := newBook()
	one, two := on(t, "bank", pay), on(t, "bank", strings.Replace(pay, "whom", "who", 1))
	b.Observe("bank", KindTool, []ostiary.Tool{one})
	if _, err := b.Accept(t.Context(), "bank", "", "dana"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				b.Observe("bank", KindTool, []ostiary.Tool{[]ostiary.Tool{one, two}[i%2]})
			}
		})
		wg.Go(func() {
			for range 200 {
				if got := code(call(t, b, "pay", `{"to":"x"}`)); got != "" && got != "tool_changed" {
					t.Error(got)
				}
				b.Tools()
			}
		})
	}
	wg.Wait()
}

// TestRealLists reads recorded lists of tools: nothing may panic, and most
// honest definitions must be acceptable without force.
func TestRealLists(t *testing.T) {
	dir := os.Getenv("OSTIARY_EVALSETS")
	files, _ := filepath.Glob(filepath.Join(dir, "mcp-attacks", "*-tool-descriptors.jsonl"))
	if dir == "" || len(files) == 0 {
		t.Log("NOT MEASURED: no recorded tool lists; set OSTIARY_EVALSETS to the folder that holds mcp-attacks")
		return
	}
	seen, quarantined, hard := map[string]int{}, map[string]int{}, 0
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 4<<20)
		for sc.Scan() {
			line := value(t, sc.Text())
			label := line.Get("label").Text()
			if label == "" {
				label = "msb " + map[bool]string{true: "benign", false: "attack"}[line.Get("variant").Is("benign")]
			}
			for _, def := range line.Get("tools").Elements() {
				tl, h := parse("s", KindTool, def)
				seen[label]++
				if tl.State == ostiary.ToolQuarantined {
					quarantined[label]++
					if strings.Contains(label, "benign") {
						t.Logf("%s: %s: %s", label, tl.Name, tl.Why)
					}
				}
				if h {
					hard++
				}
			}
		}
	}
	out, _ := json.Marshal(map[string]any{"seen": seen, "quarantined": quarantined, "hard": hard})
	t.Log(string(out))
	if honest := seen["safe"] + seen["benign"] + seen["msb benign"]; (quarantined["safe"]+quarantined["benign"]+quarantined["msb benign"])*20 > honest {
		t.Errorf("more than 5 %% of honest definitions are quarantined")
	}
}

func BenchmarkValidate(b *testing.B) {
	book, _ := newBook()
	book.Observe("bank", KindTool, []ostiary.Tool{on(b, "bank", pay)})
	if _, err := book.Accept(b.Context(), "bank", "", "dana"); err != nil {
		b.Fatal(err)
	}
	tl, _ := book.Tool("bank", KindTool, "pay")
	a := &ostiary.Action{Method: "tools/call", Server: "bank", Tool: "pay", Pin: tl.Pin, Arguments: value(b, `{"to":"CH12 3456","amount":120}`)}
	b.ReportAllocs()
	for b.Loop() {
		if err := book.Validate(a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseDefinition(b *testing.B) {
	v := value(b, pay)
	for b.Loop() {
		ParseDefinition("bank", KindTool, v)
	}
}
