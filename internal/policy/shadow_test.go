package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"pgregory.net/rapid"
)

func told(s *ostiary.Shadow) string {
	if s == nil {
		return ""
	}
	return s.Outcome + " by " + strings.Join(s.Policies, ",")
}

func TestShadow(t *testing.T) {
	tools := bank(t)
	const pay = `(principal, action == Ostiary::Action::"bank___send_money", resource)`
	for _, tc := range []struct{ name, shadow, args, want string }{
		{"nothing there", ``, `{"recipient":"x","amount":500}`, ""},
		{"a forbid that would stop a permit", `@id("tight") forbid ` + pay + ` when { context.input.amount > 100 };`, `{"recipient":"x","amount":500}`, "deny by tight"},
		{"and does not match", `@id("tight") forbid ` + pay + ` when { context.input.amount > 100 };`, `{"recipient":"x","amount":50}`, ""},
		{"a forbid with a remedy", `@id("tight") @remedy("approval:x") forbid ` + pay + ` unless { context.satisfied.contains("approval:x") };`, `{"recipient":"x","amount":500}`, "requestable by tight"},
		{"a permit of what is permitted", `@id("wide") permit ` + pay + `;`, `{"recipient":"x","amount":500}`, ""},
		{"a permit cannot lift a forbid", `@id("wide") permit ` + pay + `;`, `{"recipient":"x","amount":2000}`, ""},
		{"a permit that consent would make useful", `@id("wide") permit ` + pay + `;`, `{"recipient":"x","amount":20000}`, "requestable by wide"},
		{"a forbid that no consent lifts", `@id("tight") forbid ` + pay + `;`, `{"recipient":"x","amount":2000}`, "deny by tight"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := payFolder()
			live := snapshot(t, compile(t, payFolder(), tools)).Decide(request(t, tools, "bank___send_money", tc.args))
			src.Files["shadow/next.cedar"] = []byte(tc.shadow)
			d := snapshot(t, compile(t, src, tools)).Decide(request(t, tools, "bank___send_money", tc.args))
			if got := told(d.Shadow); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if d.Permit != live.Permit || d.Code != live.Code || d.Requestable() != live.Requestable() || len(d.Obligations) != len(live.Obligations) || d.Total != live.Total {
				t.Errorf("a candidate changed the decision: %+v, without it %+v", d, live)
			}
		})
	}
	t.Run("a permit of what is denied by default", func(t *testing.T) {
		src := payFolder()
		src.Files["shadow/next.cedar"] = []byte(`@id("read") permit (principal, action in Ostiary::Action::"read_only", resource);`)
		d := snapshot(t, compile(t, src, tools)).Decide(request(t, tools, "bank___get_balance", `{"account":"1"}`))
		if d.Permit || d.Code != CodeNoPermit || told(d.Shadow) != "permit by read" {
			t.Errorf("%+v, %s", d, told(d.Shadow))
		}
	})
	t.Run("a candidate that errs", func(t *testing.T) {
		set := *compile(t, payFolder(), tools)
		set.shadow = newIndex([]compiled{mustRule(t, "bad", `forbid `+pay+` when { context.nothing };`)})
		d := snapshot(t, &set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":500}`))
		if !d.Permit || told(d.Shadow) != "error by bad" {
			t.Errorf("%+v, %s", d, told(d.Shadow))
		}
	})
	t.Run("a candidate that panics", func(t *testing.T) {
		set := *compile(t, payFolder(), tools)
		set.shadow = newIndex([]compiled{{id: "none", rule: &rule{}}}) // no policy in it
		d := snapshot(t, &set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":500}`))
		if !d.Permit || d.Shadow == nil || d.Shadow.Outcome != ShadowError {
			t.Errorf("%+v, %s", d, told(d.Shadow))
		}
	})
}

// What is recorded of random candidates is what policy answers when they are
// enforced; and the decision is what it is without them.
func TestShadowIsWhatEnforcingWouldDo(t *testing.T) {
	tools := bank(t)
	base := compile(t, source("groups.yaml", "payments: [bank___send_money]"), tools)
	scopes := []string{
		`(principal, action == Ostiary::Action::"bank___send_money", resource)`,
		`(principal in Ostiary::Role::"clerk", action in Ostiary::Action::"payments", resource)`,
		`(principal in Ostiary::Role::"boss", action in Ostiary::Action::"CallTool", resource)`,
	}
	conds := []string{``, `when { context.input.amount > 10 }`, `unless { context.satisfied.contains("approval:a") }`,
		`when { context.input.amount > 5 } unless { context.satisfied.contains("approval:b") }`, `when { context.input.amount < 20 && !(context.findings.contains("secret")) }`}
	facts := map[string]string{conds[2]: "approval:a", conds[3]: "approval:b"}
	draw := func(t *rapid.T, n int, prefix string) (list []compiled) {
		for i := range n {
			cond, effect := rapid.SampledFrom(conds).Draw(t, "condition"), rapid.SampledFrom([]string{"permit", "forbid"}).Draw(t, "effect")
			c := mustRule(t, fmt.Sprintf("%s%d", prefix, i), effect+rapid.SampledFrom(scopes).Draw(t, "scope")+cond+";")
			if effect == "forbid" && rapid.Bool().Draw(t, "with remedy") {
				c.meta.remedy = facts[cond]
			}
			list = append(list, c)
		}
		return list
	}
	outcome := func(d ostiary.Decision) string {
		switch {
		case d.Permit:
			return ShadowPermit
		case d.Requestable():
			return ShadowRequestable
		}
		return ShadowDeny
	}
	rapid.Check(t, func(t *rapid.T) {
		live, candidates := draw(t, rapid.IntRange(0, 4).Draw(t, "live"), "p"), draw(t, rapid.IntRange(1, 3).Draw(t, "candidates"), "s")
		r := request(t, tools, "bank___send_money", fmt.Sprintf(`{"recipient":"x","amount":%d}`, rapid.IntRange(0, 30).Draw(t, "amount")))
		alone, both, shadowed := *base, *base, *base
		alone.authorize = newIndex(slices.Clone(live))
		both.authorize = newIndex(append(slices.Clone(live), candidates...))
		shadowed.authorize, shadowed.shadow = newIndex(slices.Clone(live)), newIndex(slices.Clone(candidates))
		is, would, d := alone.decide(r, true), both.decide(r, true), shadowed.decide(r, true)
		if d.Permit != is.Permit || d.Code != is.Code || d.Requestable() != is.Requestable() {
			t.Fatalf("candidates changed %+v to %+v", is, d)
		}
		want := ""
		if outcome(is) != outcome(would) {
			want = outcome(would)
		}
		got := ""
		if d.Shadow != nil {
			got = d.Shadow.Outcome
		}
		if got != want {
			t.Fatalf("recorded %q, enforcing it does %q: %+v", got, want, would)
		}
	})
}
