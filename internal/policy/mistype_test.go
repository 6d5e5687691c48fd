package policy

import (
	"fmt"
	"strings"
	"testing"
)

// Each type error names the operand, where it stands, and what would be right.
func TestMistypes(t *testing.T) {
	tools := bank(t)
	for _, tc := range []struct {
		cond string
		at   string // the text at the column
		says string
	}{
		{`context.input.recipient < 5`, "recipient <", `context.input.recipient is text; "<" compares whole numbers, times and durations`},
		{`context.input.amount < "5"`, `"5"`, `"5" is text; "<" compares`},
		{`context.input.recipient == "x" && context.input.recipient >= 5`, "recipient >=", `context.input.recipient is text; ">=" compares`},
		{`context.input.recipient == 5`, "recipient ==", `it is compared with a whole number: they are never equal; text stands in quotes: "5"`},
		{`context.input has rate && context.input.rate > 3`, "rate >", `context.input.rate is a decimal; ">" compares whole numbers, times and durations; decimals are compared with .greaterThan(decimal("10.0"))`},
		{`context.input.amount && context.posture.ok`, "amount &&", `context.input.amount is a whole number; "&&" is for conditions`},
		{`!context.input.recipient`, "recipient", `"!" is for conditions`},
		{`context.input.amount + context.input.recipient > 3`, "recipient >", `"+" computes with whole numbers`},
		{`context.input.amount like "5*"`, "amount like", `"like" is for text`},
		{`context.input.recipient.contains("x")`, "recipient.contains", "contains asks a set"},
		{`context.taint.contains(5)`, "5", "5 is a whole number; the set holds text"},
		{`context.taint.containsAny("x")`, `"x"`, `"x" is text; containsAny takes a set`},
		{`context.input.recipient in Ostiary::Role::"x"`, "recipient in", "only an entity"},
		{`context.input.amount.currency == "x"`, "amount.currency", "it has no attribute currency"},
		{`context.input.recipient`, "recipient }", "a condition is true or false"},
		{`if context.input.amount then true else false`, "amount then", `"if" is for conditions`},
		{`context.system.now > 5`, "now", "context.system.now is a time, and it is compared with a whole number"},
		{`decimal("3") == context.input.rate`, `"3"`, `"3" is no decimal; write it like "10.0"`},
		{`datetime(context.input.recipient) < context.system.now`, "datetime(", "take text in quotes"},
		{`decimal("1.0", "2.0").lessThan(decimal("3.0"))`, "decimal(", "more arguments than it takes"},
		{`context.taint == []`, "[]", "an empty set [] holds nothing"},
		{`context.posture.ok == "yes"`, "ok", "true or false, and it is compared with text"},
	} {
		t.Run(tc.cond, func(t *testing.T) {
			line := fmt.Sprintf("when { %s };", tc.cond)
			set, problems := Compile(source("p.cedar", "@id(\"p\")\npermit (principal, action == Ostiary::Action::\"bank___send_money\", resource)\n"+line), tools)
			if set != nil {
				t.Fatal("it compiles")
			}
			for _, p := range problems {
				if p.Line == 3 && strings.HasPrefix(line[p.Column-1:], tc.at) && strings.Contains(p.Message+"; "+p.Suggestion, tc.says) {
					return
				}
			}
			for _, p := range problems {
				t.Errorf("%s", p)
			}
		})
	}
}

// Wherever the validator refuses a type, no message of its own is left.
func TestNoRawTypeMessages(t *testing.T) {
	tools := bank(t)
	operands := []string{`context.input.recipient`, `context.input.amount`, `context.taint`, `context.posture.ok`, `context.system.now`, `context.mandate`,
		`resource`, `"x"`, `5`, `true`, `["x"]`, `decimal("1.0")`, `datetime("2026-01-01")`}
	forms := []string{`%s < %s`, `%s == %s`, `%s && %s`, `%s in %s`, `%s.contains(%s)`, `%s.containsAll(%s)`, `%s + 1 > %s`, `(if %s then 1 else 2) == %s`, `!%s || %s`}
	var b strings.Builder
	n := 0
	for _, f := range forms {
		for _, l := range operands {
			for _, r := range operands {
				n++
				fmt.Fprintf(&b, "@id(\"p%d\") permit (principal, action == Ostiary::Action::\"bank___send_money\", resource) when { %s };\n", n, fmt.Sprintf(f, l, r))
			}
		}
	}
	lines := strings.Split(b.String(), "\n")
	_, problems := Compile(source("p.cedar", b.String()), tools)
	for _, p := range problems {
		if strings.Contains(p.Message, "__cedar") || strings.Contains(p.Message, "unexpected type") || strings.Contains(p.Message, "for policy `") || p.Code == "type" && p.Column == 1 {
			t.Errorf("%s\n%s", p, lines[p.Line-1])
		}
	}
	if len(problems) < n/2 {
		t.Errorf("only %d problems", len(problems))
	}
}
