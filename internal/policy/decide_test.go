package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

const everyTool = `@id("all") permit (principal is Ostiary::Agent, action in Ostiary::Action::"CallTool", resource);`

func TestStrictRequest(t *testing.T) {
	tools := bank(t)
	s := snapshot(t, compile(t, source("all.cedar", everyTool), tools))
	long := func(n int, elem string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(elem+",", n), ",") + "]"
	}
	pay := func(more string) string { return `{"recipient":"x","amount":1` + more + `}` }
	for _, tc := range []struct{ name, args, code, says string }{
		{"plain", pay(``), "permit", ""},
		{"optional", pay(`,"note":"n"`), "permit", ""},
		{"null where null is declared", pay(`,"memo":null`), "permit", ""},
		{"null elsewhere", pay(`,"note":null`), CodeUnvalidated, "/note"},
		{"hidden arguments pass unread", pay(`,"blob":{"a":[1,2]},"either":3`), "permit", ""},
		{"unexpected", pay(`,"extra":1`), CodeUnvalidated, "/extra"},
		{"unexpected, nested", pay(`,"to":{"iban":"x","a/b":1}`), CodeUnvalidated, "/to/a~1b"},
		{"required", `{"amount":1}`, CodeUnvalidated, "/recipient"},
		{"required, nested", pay(`,"to":{"bic":"x"}`), CodeUnvalidated, "/to/iban"},
		{"no arguments at all", ``, CodeUnvalidated, "/amount"},
		{"not an object", `[1]`, CodeUnvalidated, "object"},
		{"string for a number", `{"recipient":"x","amount":"1"}`, CodeUnvalidated, "/amount"},
		{"number for a string", `{"recipient":1,"amount":1}`, CodeUnvalidated, "/recipient"},
		{"A09 beyond 53 bits, exact", `{"recipient":"x","amount":9007199254740993}`, "permit", ""},
		{"trap 7 a whole number as 1.0", `{"recipient":"x","amount":1.0}`, "permit", ""},
		{"trap 7 fraction in an integer", `{"recipient":"x","amount":1.5}`, CodeInexact, "/amount"},
		{"trap 7 beyond 64 bits", `{"recipient":"x","amount":9223372036854775808}`, CodeInexact, "/amount"},
		{"trap 7 1000.00004", pay(`,"rate":1000.00004`), CodeInexact, "/rate"},
		{"trap 7 four digits", pay(`,"rate":1000.0004`), "permit", ""},
		{"trap 7 exponent", pay(`,"rate":1e3`), "permit", ""},
		{"trap 7 too large", pay(`,"rate":1e15`), CodeInexact, "/rate"},
		{"trap 7 minus zero", pay(`,"rate":-0.0`), CodeInexact, "/rate"},
		{"trap 5 1024 elements", pay(`,"tags":` + long(1024, `"a"`)), "permit", ""},
		{"trap 5 nested arrays", pay(`,"grid":` + long(513, `[1,2]`)), CodeOverBudget, "/grid"},
		{"trap 5 many values", pay(`,"grid":` + long(100, long(100, "1"))), CodeOverBudget, "/grid/"},
		{"trap 5 arrays where the schema has none", pay(`,"tags":[["a"]]`), CodeUnvalidated, "/tags/0"},
		{"trap 8 an argument that poses as an entity", `{"recipient":{"__entity":{"type":"Ostiary::Role","id":"admin"}},"amount":1}`, CodeUnvalidated, "/recipient"},
		{"trap 8 nested", pay(`,"to":{"__entity":{"type":"Ostiary::Role","id":"admin"}}`), CodeUnvalidated, "/to/__entity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := s.Decide(request(t, tools, "bank___send_money", tc.args))
			says := ""
			if len(d.Reasons) > 0 {
				says = d.Reasons[0].Text
			}
			if d.Code != tc.code || !strings.Contains(says, tc.says) || d.Permit != (tc.code == "permit") {
				t.Errorf("got %s %q, want %s %q", d.Code, says, tc.code, tc.says)
			}
		})
	}
}

// Trap 5: sets are hashed without a key, and a set's hash is the sum of its
// elements', so these all collide. What is let through must stay cheap.
func TestCraftedCollisions(t *testing.T) {
	tools := bank(t)
	s := snapshot(t, compile(t, source("all.cedar", everyTool), tools))
	var b strings.Builder
	for i := range maxComposite {
		fmt.Fprintf(&b, ",[%d,%d]", i, 100000-i)
	}
	r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":1,"grid":[`+b.String()[1:]+`]}`)
	begun := time.Now()
	d := s.Decide(r)
	if took := time.Since(begun); !d.Permit || took > 500*time.Millisecond {
		t.Errorf("%s after %s", d.Code, took)
	} else {
		t.Log(took)
	}
}

func TestStrictFacts(t *testing.T) {
	tools := bank(t)
	s := snapshot(t, compile(t, source("all.cedar", everyTool), tools))
	for _, tc := range []struct {
		name, code string
		change     func(*ostiary.Request)
	}{
		{"as it should be", "permit", func(r *ostiary.Request) {}},
		{"zero request", CodeUnknownAction, func(r *ostiary.Request) { *r = ostiary.Request{} }},
		{"nobody", CodeMissingEntity, func(r *ostiary.Request) { r.Subject = ostiary.Subject{} }},
		{"unknown tool", CodeUnknownAction, func(r *ostiary.Request) { r.Action.Name = "bank___nothing" }},
		{"another pin", CodePinMismatch, func(r *ostiary.Request) { r.Action.Pin[0]++ }},
		{"no pin", CodePinMismatch, func(r *ostiary.Request) { r.Action.Pin = ostiary.Digest{} }},
		{"another tool under the name", CodeUnvalidated, func(r *ostiary.Request) { r.Action.Tool = "send_money" }},
		{"resource of another server", CodeUnvalidated, func(r *ostiary.Request) { r.Resource.Server = "mail" }},
		{"trap 2, H09 no zone of the server", CodeMissingFact, func(r *ostiary.Request) { r.Resource.Zone = "" }},
		{"trap 2, H09 no zone of the agent", CodeMissingFact, func(r *ostiary.Request) { r.Context.Zone = "" }},
		{"no principal", CodeMissingFact, func(r *ostiary.Request) { r.Context.Principal = "" }},
		{"no mandate", CodeMissingFact, func(r *ostiary.Request) { r.Context.Mandate = ostiary.Mandate{} }},
		{"no session", CodeMissingFact, func(r *ostiary.Request) { r.Context.Session.ID = "" }},
		{"containment not established", CodeMissingFact, func(r *ostiary.Request) { r.Context.Containment = ostiary.NotEstablished }},
		{"no time", CodeMissingFact, func(r *ostiary.Request) { r.Context.Now = time.Time{} }},
		{"an argument without a label", CodeMissingFact, func(r *ostiary.Request) { delete(r.Context.Labels, "account") }},
		{"too many roles", CodeOverBudget, func(r *ostiary.Request) { r.Context.Roles = make([]string, 65) }},
		{"a tool call by the gateway", CodeNoPermit, func(r *ostiary.Request) { r.Subject.Via = ostiary.ViaSelf }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := request(t, tools, "bank___get_balance", `{"account":"1"}`)
			tc.change(r)
			if d := s.Decide(r); d.Code != tc.code {
				t.Errorf("got %+v", d)
			}
		})
	}
	if d := s.Decide(nil); d.Permit || d.Code != CodeUnvalidated {
		t.Errorf("nil: %+v", d)
	}
}

// The facts reach policy as documented, each under its own name.
func TestContext(t *testing.T) {
	tools := bank(t)
	full := func(r *ostiary.Request) {
		x := &r.Context
		x.Risk = ostiary.Risk{Score: 7, Level: "elevated"}
		x.Taint, x.Satisfied = []string{"server:inbox"}, []string{"acr:mfa"}
		x.Findings = []ostiary.Finding{{Kind: "secret"}, {Kind: "secret"}}
		x.Mandate.Depth, x.ReadsTainted = 2, 3
		x.Mandate.Classes, x.Mandate.By, x.Mandate.Principal, x.Mandate.Links = []string{"invoices"}, "person:eve", "person:dana", make([]ostiary.MandateID, 2)
		x.Labels["account"] = ostiary.Label{Integrity: ostiary.FromAgent, Sources: []string{"server:inbox"}, Readers: []string{"finance"}}
		r.Resource.Trusted, r.Resource.Zone = true, "core"
	}
	for _, cond := range []string{
		`context.input.account == "1"`,
		`context.labels.account.containsAll(["agent","server:inbox","reader:finance"])`,
		`context.taint == ["server:inbox"]`, `context.satisfied.contains("acr:mfa")`, `context.findings == ["secret"]`,
		`context.user == Ostiary::Person::"person:dana" && context.user.kind == "person"`,
		`context.mandate.id == "m1" && context.mandate.purpose == "pay bills" && context.mandate.depth == 2 && context.mandate.standing`,
		`context.mandate.kind == "standing" && context.mandate.classes == ["invoices"] && context.mandate.by == "person:eve" && context.mandate.principal == "person:dana" && context.mandate.links == 2`,
		`context.session.id == "s1" && context.session.bound`,
		`context.zone == Ostiary::Zone::"default"`, `resource in Ostiary::Zone::"core" && resource.trusted`,
		`context.risk.score == 7 && context.risk.level == "elevated"`,
		`context.posture.ok && context.posture.method == "join_token" && context.posture.appraised == context.system.now`,
		`context.containment == "none"`, `context.history.reads_untrusted == 3`,
		`context.system.now == datetime("2026-11-20T12:00:00Z")`,
		`principal == Ostiary::Agent::"spiffe://example.org/a" && principal in Ostiary::Role::"clerk"`,
	} {
		t.Run(cond, func(t *testing.T) {
			text := `@id("p") permit (principal, action == Ostiary::Action::"bank___get_balance", resource) when { ` + cond + ` };`
			s := snapshot(t, compile(t, source("p.cedar", text), tools))
			r := request(t, tools, "bank___get_balance", `{"account":"1"}`)
			full(r)
			if d := s.Decide(r); !d.Permit {
				t.Errorf("got %+v", d)
			}
		})
	}
	t.Run("absent arguments have empty labels", func(t *testing.T) {
		s := snapshot(t, compile(t, source("p.cedar", permitPay(`context.labels.note.isEmpty() && context.labels.amount.contains("unknown")`)), tools))
		if d := s.Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`)); !d.Permit {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("unknown risk is the highest", func(t *testing.T) {
		s := snapshot(t, compile(t, source("p.cedar", permitPay(`context.risk.score < 100`)), tools))
		r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`)
		r.Context.Risk = ostiary.Risk{}
		if d := s.Decide(r); d.Permit {
			t.Errorf("got %+v", d)
		}
	})
}

func TestMethods(t *testing.T) {
	tools := bank(t)
	text := `
@id("mcp") permit (principal, action in Ostiary::Action::"Mcp", resource);
@id("uri") forbid (principal, action in [Ostiary::Action::"read_resource", Ostiary::Action::"subscribe"], resource) unless { context.input.uri like "file:///public/*" };
@id("form") forbid (principal, action == Ostiary::Action::"elicit", resource) unless { context.input.mode == "form" };
@id("name") forbid (principal, action == Ostiary::Action::"get_prompt", resource) unless { context.input.name == "hello" };
`
	s := snapshot(t, compile(t, source("m.cedar", text), tools))
	for _, tc := range []struct {
		action ostiary.Action
		want   bool
	}{
		{ostiary.Action{Name: ActionListTools}, true},
		{ostiary.Action{Name: ActionReadResource, Server: "bank", URI: "file:///public/x"}, true},
		{ostiary.Action{Name: ActionReadResource, Server: "bank", URI: "file:///etc/passwd"}, false},
		{ostiary.Action{Name: ActionElicit, Server: "bank"}, true},
		{ostiary.Action{Name: ActionElicit, Server: "bank", Arguments: value(t, `{"mode":"url"}`)}, false},
		{ostiary.Action{Name: ActionElicit, Server: "bank", Arguments: value(t, `{"mode":1}`)}, false},
		{ostiary.Action{Name: ActionGetPrompt, Server: "bank", Tool: "hello"}, true},
		{ostiary.Action{Name: ActionGetPrompt, Server: "bank", Tool: "Hello"}, false},
		{ostiary.Action{Name: ActionDiscoverServer, Server: "bank"}, false},
		{ostiary.Action{Name: ActionListTools, Server: GatewayServer}, false},
	} {
		r := request(t, tools, tc.action.Name, "")
		r.Action, r.Resource = tc.action, ostiary.Resource{Server: tc.action.Server, Zone: "default"}
		if d := s.Decide(r); d.Permit != tc.want {
			t.Errorf("%+v: got %+v", tc.action, d)
		}
	}
	t.Run("the gateway reads definitions, and nothing else", func(t *testing.T) {
		for _, m := range Methods() {
			r := request(t, tools, m.Name, "")
			r.Subject = ostiary.Subject{Agent: "spiffe://example.org/ostiary/gateway", Via: ostiary.ViaSelf}
			r.Action.Server, r.Resource.Server, r.Resource.Zone = "bank", "bank", "default"
			if d := s.Decide(r); d.Permit != (m.Name == ActionDiscoverServer) {
				t.Errorf("%s: %+v", m.Name, d)
			}
			r.Subject.Via = ostiary.ViaSVID // the same name, proven as an agent
			if d := s.Decide(r); m.Name == ActionDiscoverServer && d.Permit {
				t.Errorf("%s: %+v", m.Name, d)
			}
		}
	})
}

// An erring policy cannot pass our checks; these are put in behind their
// back, as a bug in them would.
func TestErroringPolicyDenies(t *testing.T) {
	tools := bank(t)
	for name, cond := range map[string]string{
		"H01 absent attribute":    `context.risk.nothing > 50`,
		"H01 string for a number": `context.risk.level > 50`,
		"H01 overflow":            `context.input.amount * 100 > 5000`,
		"H01 unparsable ip":       `ip(context.input.recipient).isLoopback()`,
		"H01 unparsable decimal":  `decimal(context.input.recipient).lessThan(decimal("1.0"))`,
		"in with values":          `context.input.recipient in ["rm", "dd"]`,
		"decimal with >":          `decimal("1.0") > 1`,
		"H09 absent entity":       `Ostiary::Server::"nowhere".trusted`,
		"trap 2 absent entity in": `Ostiary::Server::"nowhere" in Ostiary::Zone::"x"`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, effect := range []string{"permit", "forbid"} {
				set := compile(t, source("all.cedar", everyTool), tools)
				list, err := cedar.NewPolicyListFromBytes("x", []byte(effect+` (principal, action, resource) when { `+cond+` };`))
				if err != nil {
					t.Fatal(err)
				}
				set.authorize = newIndex(append(set.authorize.policies, compiled{id: "bad", policy: list[0], rule: ruleOf(list[0])}))
				d := snapshot(t, set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":9000000000000000000}`))
				if d.Permit || (d.Code != CodePolicyError && d.Code != CodeMissingEntity) {
					t.Errorf("%s: %+v", effect, d)
				}
				if len(d.Remedies)+len(d.Obligations) > 0 {
					t.Errorf("%s: %+v", effect, d)
				}
			}
		})
	}
	t.Run("an obligation that errs", func(t *testing.T) {
		set := compile(t, source("all.cedar", everyTool), tools)
		list, _ := cedar.NewPolicyListFromBytes("x", []byte(`permit (principal, action, resource) when { context.nothing };`))
		set.obligate = newIndex([]compiled{{id: "bad", policy: list[0], rule: ruleOf(list[0])}})
		if d := snapshot(t, set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`)); d.Permit || d.Code != CodeObligation {
			t.Errorf("%+v", d)
		}
	})
	t.Run("H08 a panic", func(t *testing.T) {
		set := compile(t, source("all.cedar", everyTool), tools)
		set.authorize.policies[0].policy = nil
		set.authorize.policies[1].policy = nil
		if d := snapshot(t, set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`)); d.Permit || d.Code != CodeInternal {
			t.Errorf("%+v", d)
		}
	})
	t.Run("an index that lost a forbid", func(t *testing.T) {
		set := compile(t, source("all.cedar", everyTool+forbidPay("when { context.input.amount > 0 }")), tools)
		r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`)
		if d := set.decide(r, true); d.Code != CodeForbid {
			t.Errorf("%+v", d)
		}
		clear(set.authorize.buckets[set.authorize.entity[uid("Action", "bank___send_money")]])
		if d := set.decide(r, true); d.Permit || d.Code != CodeIndex {
			t.Errorf("%+v", d)
		}
	})
}

func TestH07Engine(t *testing.T) {
	tools := bank(t)
	e := New()
	r := request(t, tools, "bank___get_balance", `{"account":"1"}`)
	if d := e.Decide(r); d.Permit || d.Code != CodeNoSnapshot {
		t.Errorf("%+v", d)
	}
	if e.Activate(nil) == nil || e.Activate(&Snapshot{}) == nil || e.Active() != nil {
		t.Error("nothing was activated")
	}
	set := compile(t, source("all.cedar", everyTool), tools)
	other := compile(t, source("none.cedar", ""), tools)
	if err := e.Activate(&Snapshot{5, testTime, set}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Snapshot{{4, testTime, set}, {5, testTime, other}} {
		if err := e.Activate(s); err == nil {
			t.Errorf("H04 snapshot %d activated over 5", s.number)
		}
	}
	if err := e.Activate(&Snapshot{5, testTime, set}); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if d := e.Decide(r); !d.Permit || d.Snapshot != 5 || d.Policy != set.digest {
		t.Errorf("H07 %+v", d)
	}
	if err := e.Activate(&Snapshot{6, testTime, other}); err != nil {
		t.Fatal(err)
	}
	if d := e.Decide(r); d.Permit || d.Snapshot != 6 {
		t.Errorf("%+v", d)
	}
}

func TestVisible(t *testing.T) {
	tools := bank(t)
	quiet := tool(t, "bank", "closed", `{"type":"object"}`)
	tools = append(tools, quiet)
	text := payPolicies + `
@id("read") permit (principal in Ostiary::Role::"clerk", action == Ostiary::Action::"bank___get_balance", resource in Ostiary::Zone::"core");
@id("inbox") permit (principal, action == Ostiary::Action::"mail___read-inbox", resource);
@id("inbox-risk") forbid (principal, action == Ostiary::Action::"mail___read-inbox", resource) when { context.risk.score > 50 };
`
	e := New()
	set := compile(t, source("v.cedar", text), tools)
	if got := e.Visible(request(t, tools, ActionListTools, ""), tools); fmt.Sprint(got) != "[false false false false]" {
		t.Errorf("without a snapshot: %v", got)
	}
	if err := e.Activate(snapshot(t, set)); err != nil {
		t.Fatal(err)
	}
	zones := map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "core"}, "mail": {Server: "mail", Zone: "default"}}
	for _, tc := range []struct {
		name    string
		servers map[string]ostiary.Resource
		change  func(*ostiary.Request)
		want    string // balance, inbox, pay, closed
	}{
		{"all", zones, func(r *ostiary.Request) {}, "[true true true false]"},
		{"zones unknown", nil, func(r *ostiary.Request) {}, "[true true true false]"},
		{"other zone", map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "x"}}, func(r *ostiary.Request) {}, "[false true true false]"},
		{"H06 no role", zones, func(r *ostiary.Request) { r.Context.Roles = nil }, "[false true false false]"},
		{"H06 risk", zones, func(r *ostiary.Request) { r.Context.Risk.Score = 60 }, "[true false true false]"},
		{"nobody", zones, func(r *ostiary.Request) { r.Subject = ostiary.Subject{} }, "[false false false false]"},
	} {
		r := request(t, tools, ActionListTools, "")
		tc.change(r)
		if got := fmt.Sprint(e.VisibleOn(r, tools, tc.servers)); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
	changed := *tools[0]
	changed.Pin[0]++
	if e.Visible(request(t, tools, ActionListTools, ""), []*ostiary.Tool{&changed, nil})[0] {
		t.Error("a tool of another pin is shown")
	}
}

// One session's calls share what was built for it; no other session's may.
// Run with -race: this is also the test that decisions share nothing mutable.
func TestConcurrentSessions(t *testing.T) {
	tools := bank(t)
	text := `@id("p") permit (principal, action == Ostiary::Action::"bank___get_balance", resource in Ostiary::Zone::"default")
when { context.session.id == context.input.account && context.mandate.purpose == context.input.account && context.labels.account.contains(context.input.account) };`
	e := New()
	set := compile(t, source("p.cedar", text), tools)
	if err := e.Activate(snapshot(t, set)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				id := fmt.Sprint((g + i) % 40)
				r := request(t, tools, "bank___get_balance", `{"account":"`+id+`"}`)
				r.Context.Session.ID, r.Context.Mandate.Purpose = ostiary.SessionID(id), id
				r.Context.Labels["account"] = ostiary.Label{Sources: []string{id}}
				if d := e.Decide(r); !d.Permit {
					t.Errorf("%s: %+v", id, d)
				}
				r.Context.Mandate.Purpose = "other"
				if d := e.Decide(r); d.Permit {
					t.Errorf("%s: %+v", id, d)
				}
				e.Visible(r, tools)
			}
		})
	}
	wg.Wait()
}

// Prompts and resources are used by actions they share; lists show them to
// whom such an action may be permitted.
func TestVisibleOtherKinds(t *testing.T) {
	tools := bank(t)
	set := compile(t, source("v.cedar", `@id("prompts") permit (principal, action == Ostiary::Action::"get_prompt", resource == Ostiary::Server::"bank");
@id("files") permit (principal, action == Ostiary::Action::"read_resource", resource == Ostiary::Server::"bank") when { context.input.uri like "file:///public/*" };
`), tools)
	e := New()
	if err := e.Activate(snapshot(t, set)); err != nil {
		t.Fatal(err)
	}
	var offered []*ostiary.Tool
	for _, at := range [][2]string{{"bank", "prompt"}, {"bank", "resource"}, {"bank", "template"}, {"mail", "prompt"}, {"bank", "nonsense"}} {
		offered = append(offered, &ostiary.Tool{Server: at[0], Kind: at[1], Name: "x"})
	}
	zones := map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "core"}, "mail": {Server: "mail", Zone: "core"}}
	got := e.VisibleOn(request(t, tools, ActionListPrompts, ""), offered, zones)
	if fmt.Sprint(got) != "[true true true false false]" {
		t.Errorf("visible %v", got)
	}
}
