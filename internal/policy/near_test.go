package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

func TestNearMisses(t *testing.T) {
	tools := bank(t)
	const pay = `(principal, action == Ostiary::Action::"bank___send_money", resource)`
	for _, tc := range []struct{ name, policies, want string }{
		{"one condition", `@id("p") permit ` + pay + ` when { context.input.amount <= 100 };`, "p: context.input.amount <= 100"},
		{"the first that fails", `@id("p") permit ` + pay + ` when { context.input.recipient == "x" && context.posture.ok && context.input.amount <= 100 && context.risk.score > 3 };`, "p: context.input.amount <= 100"},
		{"a later condition", `@id("p") permit ` + pay + ` when { context.posture.ok } when { context.session.bound && context.mandate.depth > 1 };`, "p: context.mandate.depth > 1"},
		{"an unless", `@id("p") permit ` + pay + ` unless { context.risk.score > 90 || context.input.amount > 100 };`, "p: !(context.input.amount > 100)"},
		{"guarded", `@id("p") permit ` + pay + ` when { context.input has note && context.input.note like "a*" };`, "p: context.input has note"},
		{"or is one part", `@id("p") permit ` + pay + ` when { context.input.amount < 3 || context.input.recipient == "y" };`, `p: context.input.amount < 3 || context.input.recipient == "y"`},
		{"several, sorted", `@id("q") permit ` + pay + ` when { context.input.amount < 3 }; @id("p") permit ` + pay + ` unless { context.posture.ok };`, "p: !(context.posture.ok) q: context.input.amount < 3"},
		{"not its scope", `@id("p") permit (principal in Ostiary::Role::"boss", action == Ostiary::Action::"bank___send_money", resource);`, ""},
		{"a forbid decides", `@id("p") permit ` + pay + ` when { context.input.amount < 3 }; @id("f") forbid ` + pay + `;`, ""},
		{"permitted", `@id("p") permit ` + pay + ` when { context.input.amount < 3 }; @id("q") permit ` + pay + `;`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := snapshot(t, compile(t, source("p.cedar", tc.policies), tools)).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":500}`))
			var got []string
			for _, n := range d.Near {
				got = append(got, n.Policy+": "+n.Failed)
				if n.Where != "p.cedar:1" {
					t.Errorf("it is at %q", n.Where)
				}
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			for _, r := range d.Reasons {
				if strings.Contains(r.Text, "context.") {
					t.Errorf("an agent would be shown %q", r.Text)
				}
			}
		})
	}
}

func TestNearMissesAreBounded(t *testing.T) {
	tools := bank(t)
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "@id(\"p%03d\") permit (principal, action == Ostiary::Action::\"bank___send_money\", resource) when { context.input.recipient == %q };\n", i, strings.Repeat("é", 2000))
	}
	d := snapshot(t, compile(t, source("p.cedar", b.String()), tools)).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":500}`))
	if len(d.Near) != maxNear || d.Near[0].Policy != "p000" || len(d.Near[0].Failed) > maxConjunct+len("…") || !strings.HasSuffix(d.Near[0].Failed, "…") {
		t.Errorf("%d, the first %+v", len(d.Near), d.Near[0])
	}
}

func TestExplainNamesScopes(t *testing.T) {
	tools := bank(t)
	s := snapshot(t, compile(t, source("p.cedar", `
@id("boss") permit (principal in Ostiary::Role::"boss", action in Ostiary::Action::"CallTool", resource);
@id("mail") permit (principal, action == Ostiary::Action::"bank___send_money", resource in Ostiary::Zone::"core");
@id("small") permit (principal in Ostiary::Role::"clerk", action == Ostiary::Action::"bank___send_money", resource == Ostiary::Server::"bank") when { context.input.amount < 3 };
@id("other") permit (principal, action == Ostiary::Action::"bank___get_balance", resource);`), tools))
	r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":500}`)
	text := s.Explain(r, s.Decide(r))
	for _, want := range []string{
		`small (p.cedar:4) would permit it but for: context.input.amount < 3`,
		`boss (p.cedar:2) would permit it but for: principal in Ostiary::Role::"boss"`,
		`mail (p.cedar:3) would permit it but for: resource in Ostiary::Zone::"core"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "other") || strings.Contains(text, "is needed") {
		t.Error(text)
	}
	r = request(t, tools, "bank___get_balance", `{"account":"1"}`)
	if text := s.Explain(r, ostiary.Decision{Permit: true, Code: CodePermit, Reasons: []ostiary.Reason{{Policy: "other"}}}); !strings.Contains(text, "because of other (p.cedar:5)") {
		t.Error(text)
	}
}
