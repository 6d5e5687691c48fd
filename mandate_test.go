package ostiary_test

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// link is a mandate of a chain: what it says is what each test changes.
func link(i int) ostiary.Mandate {
	m := ostiary.Mandate{
		ID: ostiary.MandateID(fmt.Sprintf("m-%d", i)), Kind: ostiary.TaskMandate, Principal: "person:dana", By: "person:dana",
		Agent: ostiary.AgentID(fmt.Sprintf("spiffe://acme.example/agent/a%d", i)), Purpose: "pay", Task: fmt.Sprint("step ", i),
		Actions: []string{"bank___pay", "bank___balance"}, Resources: []string{"bank"}, Classes: []string{"invoices"}, Approvers: []string{"role:finance"},
		Ceilings:  []ostiary.Ceiling{{Action: "bank___pay", Pointer: "/amount", Max: "1000", Unit: "EUR"}},
		Budget:    ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 100_000}}, Calls: 100, Tokens: 10},
		Depth:     int64(8 - i),
		NotBefore: noon.Add(time.Duration(i) * time.Second), Expires: noon.Add(time.Hour - time.Duration(i)*time.Minute), Issued: noon, Epoch: 3,
	}
	if i > 0 {
		m.Parent = ostiary.MandateID(fmt.Sprintf("m-%d", i-1))
	}
	return m
}

func chain(n int) (links []ostiary.Mandate) {
	for i := range n {
		links = append(links, link(i))
	}
	return links
}

// field returns the field an error is about.
func field(err error) string {
	if err == nil {
		return ""
	}
	return ostiary.AsError(err).Field
}

// J01, J03: what a chain may not be. Each row changes the last of three links,
// or the chain as a whole.
func TestChainRefused(t *testing.T) {
	rows := []struct {
		name, field string
		change      func(l []ostiary.Mandate) []ostiary.Mandate
	}{
		{"none", "chain", func([]ostiary.Mandate) []ostiary.Mandate { return nil }},
		{"too long", "chain", func([]ostiary.Mandate) []ostiary.Mandate { return chain(ostiary.MaxChain + 1) }},
		{"the first dropped", "parent", func(l []ostiary.Mandate) []ostiary.Mandate { return l[1:] }},
		{"one dropped from the middle", "parent", func(l []ostiary.Mandate) []ostiary.Mandate { return []ostiary.Mandate{l[0], l[2]} }},
		{"reordered", "parent", func(l []ostiary.Mandate) []ostiary.Mandate { return []ostiary.Mandate{l[0], l[2], l[1]} }},
		{"replayed", "agent", func(l []ostiary.Mandate) []ostiary.Mandate { return []ostiary.Mandate{l[0], l[1], l[1]} }},
		{"another's link", "parent", func(l []ostiary.Mandate) []ostiary.Mandate { l[1].ID = "m-foreign"; return l }},
		{"another parent", "parent", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Parent = "m-0"; return l }},
		{"a cycle", "agent", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Agent = l[0].Agent; return l }},
		{"an agent below itself", "agent", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Agent = l[1].Agent; return l }},
		{"another trust domain", "agent", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Agent = "spiffe://evil.example/agent/a2"; return l }},
		{"no depth left", "depth", func(l []ostiary.Mandate) []ostiary.Mandate { l[1].Depth, l[2].Depth = 0, 0; return l }},
		{"as deep as its parent", "depth", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Depth = l[1].Depth; return l }},
		{"negative depth", "depth", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Depth = -1; return l }},
		{"wider: everything", "actions", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Actions = []string{"*"}; return l }},
		{"wider: a tool", "actions", func(l []ostiary.Mandate) []ostiary.Mandate {
			l[2].Actions = append(l[2].Actions, "bank___close")
			return l
		}},
		{"wider: a group", "actions", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Actions = []string{"CallTool"}; return l }},
		{"wider: everything where the parent has a group", "actions", func(l []ostiary.Mandate) []ostiary.Mandate {
			l[0].Actions, l[1].Actions, l[2].Actions = []string{"payments"}, []string{"payments"}, []string{"*"}
			return l
		}},
		{"wider: a server", "resources", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Resources = []string{"bank", "inbox"}; return l }},
		{"wider: every server", "resources", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Resources = []string{"*"}; return l }},
		{"wider: a data class", "classes", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Classes = []string{"health"}; return l }},
		{"wider: an approver", "approvers", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Approvers = []string{"role:intern"}; return l }},
		{"wider: a ceiling", "ceilings", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Ceilings[0].Max = "1000.01"; return l }},
		{"wider: calls", "budget", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Budget.Calls = 101; return l }},
		{"wider: tokens", "budget", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Budget.Tokens = 11; return l }},
		{"wider: money", "budget", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Budget.Money[0].Minor = 100_001; return l }},
		{"wider: longer", "expires", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Expires = l[1].Expires.Add(time.Second); return l }},
		{"wider: earlier", "not_before", func(l []ostiary.Mandate) []ostiary.Mandate {
			l[2].NotBefore = l[1].NotBefore.Add(-time.Second)
			return l
		}},
		{"another principal", "principal", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Principal = "organisation:other"; return l }},
		{"another giver", "by", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].By = "person:mallory"; return l }},
		{"another purpose", "purpose", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Purpose = "marketing"; return l }},
		{"a quieter kind", "kind", func(l []ostiary.Mandate) []ostiary.Mandate {
			l[0].Kind, l[1].Kind = ostiary.BreakGlassMandate, ostiary.BreakGlassMandate
			return l
		}},
		{"standing below a task", "kind", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Kind = ostiary.StandingMandate; return l }},
		{"older than its parent", "epoch", func(l []ostiary.Mandate) []ostiary.Mandate { l[2].Epoch = 2; return l }},
	}
	if _, err := ostiary.Effective(chain(3)); err != nil {
		t.Fatalf("the chain the rows change is refused: %v", err)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if e, err := ostiary.Effective(r.change(chain(3))); ostiary.KindOf(err) != ostiary.Denied || ostiary.AsError(err).Code != "mandate_wider" || field(err) != r.field || e.ID != "" {
				t.Fatalf("allowed %v, refused at %q: %v", e, field(err), err)
			}
		})
	}
}

func TestEffective(t *testing.T) {
	l := chain(5)
	l[0].Actions, l[0].Resources, l[0].Classes, l[0].Approvers = []string{"*"}, []string{"*"}, []string{"*"}, []string{"*"}
	l[1].Actions = []string{"payments", "bank___balance"}
	l[2].Actions, l[2].Budget = []string{"bank___pay", "bank___balance"}, ostiary.Budget{Bytes: 9}
	l[2].Ceilings = []ostiary.Ceiling{{Action: "payments", Pointer: "/amount", Max: "700"}}
	l[3].Actions, l[3].Ceilings = []string{"bank___pay"}, nil
	l[4].Actions = []string{"bank___pay"}
	l[4].Ceilings[0].Max = "500"
	l[4].Budget.Money[0].Minor, l[4].Budget.Calls = 5, 0
	e, err := ostiary.Effective(l)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(e.Links, e.Actions, e.Within, e.Resources, e.Classes, e.Approvers, e.Ceilings, e.Budget, e.Depth, " ", e.NotBefore.Format("05"), " ", e.Expires.Format("15:04"), " ", e.By)
	want := "[m-0 m-1 m-2 m-3 m-4] [bank___pay] [[payments bank___balance]] [bank] [invoices] [role:finance]" +
		" [{bank___pay /amount 500 EUR} {payments /amount 700 }] {[{EUR 5}] 100 10 9} 4 04 12:56 person:dana"
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	// What the parent's group stopped holding is refused, whatever the child names.
	bank := &ostiary.Resource{Server: "bank"}
	pay := &ostiary.Action{Name: "bank___pay", Groups: []string{"CallTool", "payments"}}
	if !e.Covers(pay, bank, noon.Add(time.Minute)) {
		t.Error("the group's member is not covered")
	}
	pay.Groups = []string{"CallTool"}
	if e.Covers(pay, bank, noon.Add(time.Minute)) {
		t.Error("covered although it is in the parent's group no more")
	}
	// The links are as they were.
	if l[4].Within != nil || len(l[0].Links) != 0 || l[3].Ceilings != nil {
		t.Error("the links were changed")
	}
}

func TestCovers(t *testing.T) {
	m := link(0)
	at := noon.Add(time.Minute)
	bank := &ostiary.Resource{Server: "bank"}
	for _, r := range []struct {
		name   string
		action ostiary.Action
		on     string
		at     time.Time
		want   bool
	}{
		{"named", ostiary.Action{Name: "bank___pay"}, "bank", at, true},
		{"another tool", ostiary.Action{Name: "bank___close", Groups: []string{"CallTool"}}, "bank", at, false},
		{"another server", ostiary.Action{Name: "bank___pay"}, "inbox", at, false},
		{"before", ostiary.Action{Name: "bank___pay"}, "bank", noon.Add(-1), false},
		{"at its end", ostiary.Action{Name: "bank___pay"}, "bank", m.Expires, false},
		{"asking what there is", ostiary.Action{Name: "list_tools", Groups: []string{"Mcp", "lists"}}, "", at, true},
		{"keeping a session", ostiary.Action{Name: "ping", Groups: []string{"Mcp", "session"}}, "bank", at, true},
		{"keeping a session elsewhere", ostiary.Action{Name: "ping", Groups: []string{"Mcp", "session"}}, "inbox", at, false},
		{"another method", ostiary.Action{Name: "read_resource", Groups: []string{"Mcp"}}, "bank", at, false},
	} {
		if got := m.Covers(&r.action, &ostiary.Resource{Server: r.on}, r.at); got != r.want {
			t.Errorf("%s: %v", r.name, got)
		}
	}
	m.Actions = []string{"payments"}
	if !m.Covers(&ostiary.Action{Name: "bank___pay", Groups: []string{"CallTool", "payments"}}, bank, at) {
		t.Error("an action of a named group is not covered")
	}
	if new(ostiary.Mandate).Covers(&ostiary.Action{Groups: []string{"lists"}}, &ostiary.Resource{}, time.Time{}) {
		t.Error("the zero mandate covers something")
	}
}

func TestCheckCeilings(t *testing.T) {
	m := link(0)
	m.Ceilings = []ostiary.Ceiling{
		{Action: "bank___pay", Pointer: "/amount", Max: "1000"}, {Action: "payments", Pointer: "/parts/1/a~1b", Max: "0.5", Unit: "EUR"}, {Action: "other___x", Pointer: "/none", Max: "1"},
	}
	for args, want := range map[string]bool{
		`{"amount":1000,"parts":[0,{"a/b":0.5}]}`:                               true,
		`{"amount":1e3,"parts":[0,{"a/b":5e-1}]}`:                               true,
		`{"amount":-0,"parts":[0,{"a/b":-0.0}]}`:                                true,
		`{"amount":1000.00,"parts":[0,{"a/b":0.50}]}`:                           true,
		`{"amount":0e99999999999999999999,"parts":[0,{"a/b":1e-300}]}`:          true,
		`{"amount":1000.0000000000000000000000000000001,"parts":[0,{"a/b":0}]}`: false,
		`{"amount":1001,"parts":[0,{"a/b":0}]}`:                                 false,
		`{"amount":-1001,"parts":[0,{"a/b":0}]}`:                                false,
		`{"amount":1e300,"parts":[0,{"a/b":0}]}`:                                false,
		`{"amount":1.1E+3,"parts":[0,{"a/b":0}]}`:                               false,
		`{"amount":100000000000000000000000000000000000,"parts":[0,{"a/b":0}]}`: false,
		`{"amount":1,"parts":[0,{"a/b":0.51}]}`:                                 false,
		`{"amount":"1","parts":[0,{"a/b":0}]}`:                                  false,
		`{"amount":null,"parts":[0,{"a/b":0}]}`:                                 false,
		`{"amount":[1],"parts":[0,{"a/b":0}]}`:                                  false,
		`{"parts":[0,{"a/b":0}]}`:                                               false,
		`{"amount":1,"parts":[0]}`:                                              false,
		`{"amount":1,"parts":{"1":{"a/b":0}}}`:                                  true,
		`{"amount":1,"parts":{"01":{"a/b":0}}}`:                                 false,
		`[]`:                                                                    false,
	} {
		doc, err := strictjson.Parse([]byte(args), strictjson.Request)
		if err != nil {
			t.Fatal(args, err)
		}
		a := &ostiary.Action{Name: "bank___pay", Groups: []string{"payments"}, Arguments: doc.Root()}
		err = m.CheckCeilings(a)
		if (err == nil) != want || err != nil && (ostiary.KindOf(err) != ostiary.Denied || ostiary.AsError(err).Code != "ceiling") {
			t.Errorf("%s: %v", args, err)
		}
	}
	if err := m.CheckCeilings(&ostiary.Action{Name: "bank___pay"}); err == nil {
		t.Error("no arguments at all pass a ceiling")
	}
	if err := m.CheckCeilings(&ostiary.Action{Name: "bank___balance"}); err != nil {
		t.Errorf("an action without a ceiling: %v", err)
	}
	for _, c := range []ostiary.Ceiling{{}, {Action: "a", Pointer: "/x", Max: "-1"}, {Action: "a", Pointer: "/x", Max: "1e3"}, {Action: "a", Pointer: "/x", Max: "01"}, {Action: "a", Pointer: "/x", Max: "1."},
		{Action: "a", Pointer: "/x", Max: ".5"}, {Action: "a", Pointer: "x", Max: "1"}, {Action: "a", Pointer: "/~2", Max: "1"}, {Action: "a", Pointer: "/~", Max: "1"}, {Action: "a", Pointer: "/x", Max: strings.Repeat("9", 65)}} {
		if c.Valid() {
			t.Errorf("%v is a ceiling", c)
		}
	}
}

// Whatever two numbers look like, the comparison is that of exact arithmetic.
func FuzzCeiling(f *testing.F) {
	for _, s := range []string{"0", "-0", "1e3", "1000", "0.001", "12", "119", "1E-400", "999999999999999999999", "-5"} {
		f.Add(s, "1000")
		f.Add(s, "0.5")
	}
	f.Fuzz(func(t *testing.T, arg, most string) {
		c := ostiary.Ceiling{Action: "a", Pointer: "/x", Max: most}
		doc, err := strictjson.Parse([]byte(`{"x":`+arg+`}`), strictjson.Request)
		if err != nil || !c.Valid() || doc.Root().Len() != 1 || doc.Root().Get("x").Kind() != ostiary.Number {
			return
		}
		if i := strings.IndexAny(arg, "eE"); i >= 0 && len(arg)-i > 5 {
			return // the exact arithmetic below would take as many digits
		}
		x, ok := new(big.Rat).SetString(strings.TrimSpace(arg))
		y, ok2 := new(big.Rat).SetString(most)
		if !ok || !ok2 {
			return
		}
		m := ostiary.Mandate{ID: "m", Ceilings: []ostiary.Ceiling{c}}
		if passes := m.CheckCeilings(&ostiary.Action{Name: "a", Arguments: doc.Root()}) == nil; passes != (x.Abs(x).Cmp(y) <= 0) {
			t.Fatalf("%s under %s: %v", arg, most, passes)
		}
	})
}
