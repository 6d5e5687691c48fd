package policy

import (
	"fmt"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// permitPay wraps a condition in a permit for the payment tool.
func permitPay(cond string) string {
	return "@id(\"p\")\npermit (principal, action == Ostiary::Action::\"bank___send_money\", resource)\nwhen { " + cond + " };"
}

func forbidPay(cond string) string {
	return "@id(\"f\")\nforbid (principal, action == Ostiary::Action::\"bank___send_money\", resource)\n" + cond + ";"
}

func TestProblems(t *testing.T) {
	tools := bank(t)
	groups := "payments: [bank___send_money]\nmoney: [bank___send_money, bank___get_balance]\n"
	for _, tc := range []struct {
		name, text string
		want       string // of the first problem, file left out: line:col: severity code
		suggest    string // part of its suggestion or message
	}{
		{"fine", permitPay("context.input.amount < 5"), "", ""},
		{"misspelt argument", permitPay("context.input.amont < 5"), "3:22: error unknown_attribute", "did you mean amount?"},
		{"misspelt argument names the tool", permitPay("context.input.amont < 5"), "3:22: error unknown_attribute", "context.input.amont: no such argument of bank___send_money"},
		{"misspelt context", permitPay("context.rsik.score < 5"), "3:16: error unknown_attribute", "did you mean risk?"},
		{"misspelt label", permitPay(`context.labels.recipiant.contains("x")`), "3:23: error unknown_attribute", "did you mean recipient?"},
		{"misspelt resource attribute", permitPay("resource.trustd"), "3:17: error unknown_attribute", "trusted"},
		{"misspelt entity attribute", permitPay(`context.user.knd == "x"`), "3:21: error unknown_attribute", "kind"},
		{"trap 3, H03 misspelt guard", forbidPay("when { context.input has amont && context.input.amont > 1 }"), "3:26: error unknown_attribute", "did you mean amount?"},
		{"trap 3, guard on the context", forbidPay(`when { context has risks && context.risks.score > 1 }`), "3:20: error unknown_attribute", "risk"},
		{"H03 optional without has", permitPay(`context.input.note == "x"`), "3:22: error type", "context.input has note"},
		{"guarded forbid", forbidPay(`when { context.input has note && context.input.note == "x" }`), "3:26: warning has_in_forbid", "unless"},
		{"guarded unless is the good style", forbidPay(`unless { context.input has note && context.input.note == "x" }`), "", ""},
		{"trap 1 arithmetic in a forbid", forbidPay("when { context.input.amount * 100 > 5000 }"), "3:22: error arithmetic", "overflow"},
		{"trap 1 in with values", permitPay(`context.input.recipient in ["a","b"]`), "3:32: error in_values", ".contains"},
		{"trap 1 decimal with >", permitPay(`context.input has rate && context.input.rate > 1`), "3:48: error type", "greaterThan"},
		{"type mismatch", permitPay(`context.input.amount == "x"`), "3:22: error type", "p:"},
		{"hidden argument", permitPay(`context.input.either == "x"`), "3:22: error hidden_argument", "union"},
		{"untyped argument", permitPay(`context.input has blob`), "3:26: error hidden_argument", "names no type"},
		{"unknown action", `@id("p") permit (principal, action == Ostiary::Action::"bank___send_mony", resource);`, "1:56: error unknown_action", "bank___send_money"},
		{"unknown tool of a known server", `@id("p") permit (principal, action == Ostiary::Action::"bank___delete_everything", resource);`, "1:56: error unknown_action", "only accepted tools"},
		{"tool of a server nothing is accepted of", `@id("p") permit (principal, action == Ostiary::Action::"crm___delete", resource) when { context.input.amount > 1 };`, "1:56: warning not_accepted", "tools list"},
		{"misspelt server in a permit", `@id("p") permit (principal, action == Ostiary::Action::"bnak___send_money", resource);`, "1:56: warning not_accepted", "bank___send_money"},
		{"misspelt server in a forbid", `@id("p") forbid (principal, action == Ostiary::Action::"bnak___send_money", resource);`, "1:56: error unknown_action", "bank___send_money"},
		{"an accepted tool beside one that is not", `@id("p") permit (principal, action in [Ostiary::Action::"bank___send_money", Ostiary::Action::"crm___delete"], resource) when { context.input.amount > 1 };`, "1:95: warning not_accepted", "tools list"},
		{"action of another namespace", `@id("p") permit (principal, action == Action::"bank___send_money", resource);`, "1:47: error unknown_action", "Ostiary::Action"},
		{"unknown group", `@id("p") permit (principal, action in Ostiary::Action::"paiments", resource);`, "1:56: error unknown_action", "payments"},
		{"operator group", `@id("p") permit (principal, action in Ostiary::Action::"payments", resource) when { context.input.amount < 5 };`, "", ""},
		{"attribute of part of a group", `@id("p") permit (principal, action in Ostiary::Action::"money", resource) when { context.input.amount < 5 };`, "1:96: error type", "narrow the scope"},
		{"== a group", `@id("p") permit (principal, action == Ostiary::Action::"payments", resource);`, "1:1: error dead_scope", "group"},
		{"unknown principal type", `@id("p") permit (principal == Ostiary::Agnt::"x", action in Ostiary::Action::"payments", resource);`, "1:40: error unknown_type", "Ostiary::Agent"},
		{"a type no engine fills", `@id("p") permit (principal, action in Ostiary::Action::"payments", resource) when { context.user in Ostiary::Group::"x" };`, "1:110: error unknown_type", "there is no entity type"},
		{"unscoped permit", `@id("p") permit (principal, action, resource);`, "1:1: error unscoped_permit", "everything to everybody"},
		{"B11 unscoped permit with a condition", `@id("p") permit (principal, action, resource) when { context.risk.score < 5 };`, "1:1: error unscoped_permit", ""},
		{"open action", `@id("p") forbid (principal, action, resource) when { context.risk.score > 5 };`, "1:1: warning open_action", ""},
		{"action in when", permitPay(`action == Ostiary::Action::"bank___send_money"`), "3:8: error action_in_when", "scope"},
		{"no id", `permit (principal, action in Ostiary::Action::"payments", resource);`, "1:1: error no_id", "@id"},
		{"odd id", `@id("a b") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:1: error bad_id", ""},
		{"reserved id", `@id("Ostiary-x") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:1: error reserved_id", ""},
		{"H05 same id in another case", permitPay("context.risk.score < 5") + "\n" + strings.Replace(permitPay("context.session.bound"), `"p"`, `"P"`, 1), "4:1: error id_twice", "pay.cedar:1"},
		{"id twice in a policy", `@id("a") @id("b") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:13: error syntax", "duplicate annotation"},
		{"remedy on a permit", `@id("p") @remedy("approval:x") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:10: error remedy", ""},
		{"remedy never tested", strings.Replace(forbidPay("when { context.input.amount > 5 }"), "forbid", `@remedy("approval:x") forbid`, 1), "2:1: error remedy", `unless { context.satisfied.contains("approval:x") }`},
		{"remedy tested in when", strings.Replace(forbidPay(`when { context.satisfied.contains("approval:x") }`), "forbid", `@remedy("approval:x") forbid`, 1), "2:1: error remedy", ""},
		{"remedy of another name tested", strings.Replace(forbidPay(`unless { context.satisfied.contains("approval:y") }`), "forbid", `@remedy("approval:x") forbid`, 1), "2:1: error remedy", ""},
		{"remedy misspelt", strings.Replace(forbidPay(`unless { context.satisfied.contains("approval:x") }`), "forbid", `@remdy("approval:x") forbid`, 1), "2:1: warning annotation", "remedy"},
		{"obligation among permits", `@id("p") @obligation("notify") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:10: error obligation", "obligate/"},
		{"expires", `@id("p") @expires("2026-01-01") permit (principal, action in Ostiary::Action::"payments", resource);`, "1:10: error annotation", "context.system.now"},
		{"host pattern", permitPay(`context.input.recipient like "*example.com"`), "3:32: error host_pattern", "*.example.com"},
		{"host pattern with the dot", permitPay(`context.input.recipient like "*.example.com"`), "", ""},
		{"constant", permitPay(`true`), "1:1: warning constant", ""},
		{"bidi", permitPay("context.input.recipient == \"a\u202eb\""), "3:37: error hidden_character", "U+202E"},
		{"zero width", permitPay("context.input.recipient == \"a\u200bb\""), "3:37: error hidden_character", ""},
		{"mixed script", permitPay("context.input.recipient == \"p\u0430ypal\""), "3:36: error mixed_script", ""},
		{"other scripts alone are fine", permitPay("context.input.recipient == \"Зарплата\""), "", ""},
		{"syntax", "@id(\"p\")\npermit (principal, action\n  resource);", "3:11: error syntax", "resource"},
		{"not closed", `@id("p") permit (principal, action, resource`, "1:1: error syntax", "semicolon"},
		{"text between policies", permitPay("context.session.bound") + " trailing", "3:33: error syntax", "semicolon"},
		{"block comment", "/* x */" + permitPay("true"), "1:1: error syntax", "//"},
		{"NUL", "\x00", "1:1: error text", ""},
		{"not UTF-8", "// \xff", "1:4: error text", "UTF-8"},
		{"template slot", `@id("p") permit (principal == ?principal, action in Ostiary::Action::"payments", resource);`, "1:32: error syntax", ""},
		{"trap 6, H08 nesting", permitPay(strings.Repeat("(", 65) + "true" + strings.Repeat(")", 65)), "3:71: error nesting", "64"},
		{"trap 6, H08 a policy of 10 MB", permitPay(strings.Repeat("!", 7<<20) + "true"), "1:1: error policy_size", "10240"},
		{"a set of values mixes no entities", permitPay(`context.user in [Ostiary::Person::"a", Ostiary::Person::"b"]`), "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			begun := time.Now()
			set, problems := Compile(source("pay.cedar", tc.text, "groups.yaml", groups), tools)
			if took := time.Since(begun); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
			got, text := "", ""
			if len(problems) > 0 {
				p := problems[0]
				got = fmt.Sprintf("%d:%d: %s %s", p.Line, p.Column, p.Severity, p.Code)
				text = p.String()
			}
			if got != tc.want || !strings.Contains(text, tc.suggest) {
				t.Errorf("got %q, want %q with %q\n%v", got, tc.want, tc.suggest, problems)
			}
			if (set == nil) != strings.Contains(tc.want, "error") {
				t.Errorf("set is %v", set)
			}
		})
	}
}

func TestObligationProblems(t *testing.T) {
	tools := bank(t)
	for name, tc := range map[string]struct{ text, want string }{
		"forbid":        {`@id("o") @obligation("notify") forbid (principal, action in Ostiary::Action::"CallTool", resource);`, "permits only"},
		"none named":    {`@id("o") permit (principal, action in Ostiary::Action::"CallTool", resource);`, "names no obligation"},
		"unknown":       {`@id("o") @obligation("notfy") permit (principal, action in Ostiary::Action::"CallTool", resource);`, "did you mean notify?"},
		"bad JSON":      {`@id("o") @obligation("notify") @properties("{") permit (principal, action in Ostiary::Action::"CallTool", resource);`, "not a JSON object"},
		"not an object": {`@id("o") @obligation("notify") @properties("[1]") permit (principal, action in Ostiary::Action::"CallTool", resource);`, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			set, problems := Compile(source("obligate/o.cedar", tc.text), tools)
			if set != nil || len(problems) == 0 || !strings.Contains(problems[0].String(), tc.want) {
				t.Errorf("got %v", problems)
			}
		})
	}
	set, problems := Compile(source("tests/p.cedar", permitPay("true")), tools)
	if set != nil || problems[0].Code != "folder" {
		t.Errorf("a policy in tests/: %v", problems)
	}
}

func TestGroupProblems(t *testing.T) {
	tools := bank(t)
	for name, tc := range map[string]struct{ text, want string }{
		"unknown action":    {"payments: [bank___send_mony]", "groups.yaml:1:12: error: there is no action bank___send_mony; only accepted tools have one; did you mean bank___send_money?"},
		"not a list":        {"payments: bank___send_money", "needs a list"},
		"fixed group":       {"mcp: [bank___send_money]", "gateway's own"},
		"H05 case":          {"pay: [bank___send_money]\nPay: [bank___send_money]", "already there"},
		"same key":          {"pay: [bank___send_money]\npay: [bank___send_money]", "already there"},
		"an action's name":  {"ping: [bank___send_money]", "is an action"},
		"three underscores": {"a___b: [bank___send_money]", "group's name"},
		"two documents":     {"a: []\n---\nb: []", "one YAML document"},
		"the gateway's own": {"a: [discover_server]", "no action discover_server"},
		"alias":             {"a: &x [bank___send_money]\nb: *x", "needs a list"},
	} {
		t.Run(name, func(t *testing.T) {
			set, problems := Compile(source("groups.yaml", tc.text), tools)
			if set != nil || len(problems) == 0 || !strings.Contains(problems[0].String(), tc.want) {
				t.Errorf("got %v", problems)
			}
		})
	}
}

func TestToolProblems(t *testing.T) {
	good := bank(t)[0]
	for name, bad := range map[string]func(*ostiary.Tool){
		"the gateway's name": func(x *ostiary.Tool) { x.Server = GatewayServer },
		"no server":          func(x *ostiary.Tool) { x.Server = "" },
		"ambiguous":          func(x *ostiary.Tool) { x.Server = "a___b" },
		"no pin":             func(x *ostiary.Tool) { x.Pin = ostiary.Digest{} },
	} {
		x := *good
		bad(&x)
		if set, problems := Compile(Source{}, []*ostiary.Tool{&x}); set != nil || len(problems) == 0 {
			t.Errorf("%s: compiled", name)
		}
	}
	if set, _ := Compile(Source{}, []*ostiary.Tool{good, good}); set != nil {
		t.Error("one action stands for two tools")
	}
	twin := *good
	twin.Name = strings.ToUpper(twin.Name)
	if set, problems := Compile(Source{}, []*ostiary.Tool{good, &twin}); set == nil || len(problems) != 1 || problems[0].Code != "similar_names" {
		t.Errorf("H05 names that differ in case: %v", problems)
	}
	x := *good
	x.State = ostiary.ToolQuarantined
	if set, _ := Compile(Source{}, []*ostiary.Tool{&x}); set == nil || set.world.actions[x.Action()] != nil {
		t.Error("a quarantined tool has an action")
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"a.cedar", "sub/b.cedar", "obligate/c.cedar", "groups.yaml", "tests/t.json", "README.md", ".git/x.cedar", "tests/readme"} {
		write(n, "x")
	}
	src, err := ReadDir(dir)
	if err != nil || len(src.Files) != 5 {
		t.Errorf("got %v, %v", src.Files, err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDir(dir); err == nil {
		t.Error("policies behind a link would silently not count")
	}
	if _, err := ReadDir(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there")
	}
}

// A policy about tools nobody has accepted has no part in the set until one
// of them is; groups may name them, too.
func TestDormantPolicy(t *testing.T) {
	tools := bank(t)
	src := source("crm.cedar", `@id("d") permit (principal, action == Ostiary::Action::"crm___delete", resource);
@id("g") forbid (principal, action in Ostiary::Action::"records", resource) unless { context.session.bound };`,
		"groups.yaml", "records: [crm___delete, bank___get_balance]")
	set, problems := Compile(src, tools)
	if set == nil || set.Policies() != 2 || len(problems) != 2 {
		t.Fatalf("%v", problems)
	}
	crm := tool(t, "crm", "delete", `{"type":"object"}`)
	if d := snapshot(t, set).Decide(request(t, append(tools, crm), "crm___delete", "")); d.Permit || d.Code != CodeUnknownAction {
		t.Errorf("%+v", d)
	}
	tools = append(tools, crm)
	s := snapshot(t, compile(t, src, tools))
	r := request(t, tools, "crm___delete", "")
	if d := s.Decide(r); !d.Permit {
		t.Errorf("%+v", d)
	}
	r.Subject.Bound = false
	if d := s.Decide(r); d.Permit || d.Reasons[0].Policy != "g" {
		t.Errorf("%+v", d)
	}
}

// The schema is an artefact people review: same tools, same text.
func TestSchemaText(t *testing.T) {
	first := compile(t, payFolder(), bank(t)).Schema()
	for range 5 {
		if again := compile(t, payFolder(), bank(t)).Schema(); string(again) != string(first) {
			t.Fatal("the schema's text is not deterministic")
		}
	}
	for _, want := range []string{`action "bank___send_money" in`, `"rate"?`, "CallTool", "@pin"} {
		if !strings.Contains(string(first), want) && !strings.Contains(string(first), strings.ReplaceAll(want, `"`, "")) {
			t.Errorf("no %s in\n%s", want, first)
		}
	}
}

// What cedar-go calls experimental stays in one file.
func TestOneAdapter(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if strings.Contains(imp.Path.Value, "cedar-go/x/exp") {
				if found++; name != "adapter.go" {
					t.Errorf("%s imports %s", name, imp.Path.Value)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no import was found: this test looks at nothing")
	}
}
