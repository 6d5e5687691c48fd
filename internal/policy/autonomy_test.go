package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ostiary/ostiary"
)

// allPay permits every payment: what is left is up to the table.
const allPay = `@id("pay") permit (principal, action in [Ostiary::Action::"bank___send_money", Ostiary::Action::"bank___get_balance"], resource);`

func withTable(text string) Source {
	return source("pay.cedar", allPay, "groups.yaml", "payments: [bank___send_money]\n", "autonomy.yaml", text)
}

const bankTable = `# how far agents may go
payments:
  by: finance
  amount: /amount
  above:
    "1000": one
    "50000": two
    "1000000": never
bank___get_balance: alone
`

func TestAutonomyDecides(t *testing.T) {
	tools := bank(t)
	pay := func(n int) string { return fmt.Sprintf(`{"recipient":"x","amount":%d}`, n) }
	for _, tc := range []struct {
		name, table, args string
		label             string
		satisfied         []string
		code, remedies    string
	}{
		{name: "below", table: bankTable, args: pay(1000), code: "permit"},
		{name: "one", table: bankTable, args: pay(1001), code: "forbid", remedies: "approval:finance"},
		{name: "one, given", table: bankTable, args: pay(1001), satisfied: []string{"approval:finance"}, code: "permit"},
		{name: "one, by two", table: bankTable, args: pay(1001), satisfied: []string{"approval:finance:2"}, code: "permit"},
		{name: "the end of one", table: bankTable, args: pay(50000), code: "forbid", remedies: "approval:finance"},
		{name: "two", table: bankTable, args: pay(50001), code: "forbid", remedies: "approval:finance:2"},
		{name: "two, by one", table: bankTable, args: pay(50001), satisfied: []string{"approval:finance"}, code: "forbid", remedies: "approval:finance:2"},
		{name: "two, by another group", table: bankTable, args: pay(50001), satisfied: []string{"approval:legal:2"}, code: "forbid", remedies: "approval:finance:2"},
		{name: "two, given", table: bankTable, args: pay(50001), satisfied: []string{"approval:finance:2"}, code: "permit"},
		{name: "never", table: bankTable, args: pay(1000001), code: "forbid"},
		{name: "never, whoever consents", table: bankTable, args: pay(1000001), satisfied: []string{"approval:finance", "approval:finance:2"}, code: "forbid"},
		{name: "a level of its own", table: "payments: {level: two, by: finance}", args: pay(1), code: "forbid", remedies: "approval:finance:2"},
		{name: "never in a word", table: "bank___send_money: never", args: pay(1), code: "forbid"},
		{name: "alone says nothing", table: "payments: alone", args: pay(1), code: "permit"},
		{name: "begins with one", table: "payments: {level: one, by: finance, amount: /amount, above: {\"5\": two}}", args: pay(5), code: "forbid", remedies: "approval:finance"},
		{name: "decimals", table: "payments: {by: finance, amount: /rate, above: {\"0.5\": one}}", args: `{"recipient":"x","amount":1,"rate":0.51}`, code: "forbid", remedies: "approval:finance"},
		{name: "decimals below", table: "payments: {by: finance, amount: /rate, above: {\"0.5\": one}}", args: `{"recipient":"x","amount":1,"rate":0.5}`, code: "permit"},
		{name: "an amount that is absent is the highest", table: "payments: {by: finance, amount: /rate, above: {\"1\": one, \"2\": two, \"3\": never}}", args: pay(1), code: "forbid"},
		{name: "what is absent asks for no more than the highest", table: "payments: {by: finance, amount: /rate, above: {\"1\": one, \"2\": two}}", args: pay(1), code: "forbid", remedies: "approval:finance:2"},
		{name: "between", table: "payments: {by: finance, amount: /rate, above: {\"1\": one, \"2\": two}}", args: `{"recipient":"x","amount":1,"rate":1.5}`, code: "forbid", remedies: "approval:finance"},
		{name: "where data came from", table: "payments: {by: finance, data: {untrusted: one}}", args: pay(1), code: "forbid", remedies: "approval:finance"},
		{name: "a class of data", table: "payments: {by: finance, data: {\"reader:health\": two}}", args: pay(1), label: "health", code: "forbid", remedies: "approval:finance:2"},
		{name: "another class of data", table: "payments: {by: finance, data: {\"reader:health\": two}}", args: pay(1), label: "wealth", code: "permit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := snapshot(t, compile(t, withTable(tc.table), tools))
			r := request(t, tools, "bank___send_money", tc.args)
			r.Context.Satisfied = tc.satisfied
			if tc.label != "" {
				for name := range r.Context.Labels {
					r.Context.Labels[name] = ostiary.Label{Readers: []string{tc.label}}
				}
			}
			d := s.Decide(r)
			var remedies []string
			for _, x := range d.Remedies {
				remedies = append(remedies, x.Fact)
			}
			if d.Code != tc.code || strings.Join(remedies, " ") != tc.remedies {
				t.Errorf("%s %q, want %s %q", d.Code, remedies, tc.code, tc.remedies)
			}
			for _, x := range d.Reasons {
				if d.Code == "forbid" && !strings.HasPrefix(x.Where, "autonomy.yaml:") {
					t.Errorf("the reason is at %s", x.Where)
				}
			}
		})
	}
}

// TestAutonomyPlaces: each policy names the line of the table it comes from,
// and the compiled text can be read.
func TestAutonomyPlaces(t *testing.T) {
	tools := bank(t)
	set := compile(t, withTable(bankTable), tools)
	d := snapshot(t, set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":60000}`))
	if len(d.Reasons) != 1 || d.Reasons[0].Where != "autonomy.yaml:7" || d.Reasons[0].Policy != "autonomy-payments-bank___send_money-2" {
		t.Errorf("%+v", d.Reasons)
	}
	const want = `// autonomy.yaml:6
@id("autonomy-payments-bank___send_money-1") @reason("this needs the consent of one person of finance") @remedy("approval:finance")
forbid (principal is Ostiary::Agent, action == Ostiary::Action::"bank___send_money", resource)
unless { context.input.amount <= 1000 || context.input.amount > 50000 }
unless { context.satisfied.contains("approval:finance") || context.satisfied.contains("approval:finance:2") };

// autonomy.yaml:7
@id("autonomy-payments-bank___send_money-2") @reason("this needs the consent of two persons of finance") @remedy("approval:finance:2")
forbid (principal is Ostiary::Agent, action == Ostiary::Action::"bank___send_money", resource)
unless { context.input.amount <= 50000 || context.input.amount > 1000000 }
unless { context.satisfied.contains("approval:finance:2") };

// autonomy.yaml:8
@id("autonomy-payments-bank___send_money-3") @reason("no agent may do this")
forbid (principal is Ostiary::Agent, action == Ostiary::Action::"bank___send_money", resource)
unless { context.input.amount <= 1000000 };

`
	if got := set.Autonomy(); got != want {
		t.Errorf("got\n%s", got)
	}
	// The shown text is Cedar that says the same.
	again := compile(t, source("pay.cedar", allPay, "autonomy.cedar", set.Autonomy()), tools)
	for _, n := range []int{0, 1000, 1001, 50001, 1000001} {
		r := request(t, tools, "bank___send_money", fmt.Sprintf(`{"recipient":"x","amount":%d}`, n))
		a, b := snapshot(t, set).Decide(r), snapshot(t, again).Decide(r)
		if a.Permit != b.Permit || len(a.Remedies) != len(b.Remedies) {
			t.Errorf("%d: %+v and %+v", n, a, b)
		}
	}
	if text := compile(t, source("pay.cedar", allPay), tools).Autonomy(); text != "" {
		t.Error(text)
	}
}

func TestAutonomyProblems(t *testing.T) {
	tools := append(bank(t), tool(t, "bank", "od\"d", `{"type":"object"}`))
	for _, tc := range []struct{ name, table, place, want string }{
		{"misspelt group", "paiments: never", "1:1", "payments"},
		{"misspelt tool", "bank___send_mony: never", "1:1", "bank___send_money"},
		{"not accepted", "crm___delete: never", "1:1", "no tool of crm is accepted yet"},
		{"no level", "payments: {level: most}", "1:19", "alone, one, two or never"},
		{"nobody to ask", "payments: one", "1:1", "by: finance"},
		{"nobody to ask above", "payments:\n  amount: /amount\n  above: {\"5\": one}", "1:1", "by: finance"},
		{"whom", "payments: {level: one, by: \"a b\"}", "1:28", "group of people"},
		{"unknown key", "payments: {levl: one}", "1:12", "did you mean level?"},
		{"a key twice", "payments: {level: one, level: two, by: x}", "", "twice"},
		{"an entry twice", "payments: never\npayments: alone", "", ""},
		{"no pointer", "payments: {by: x, amount: amount, above: {\"5\": one}}", "1:27", "JSON Pointer"},
		{"no such argument", "payments: {by: x, amount: /amont, above: {\"5\": one}}", "1:27", "is no declared argument"},
		{"no number", "payments: {by: x, amount: /recipient, above: {\"5\": one}}", "1:27", "is no number"},
		{"hidden", "payments: {by: x, amount: /either, above: {\"5\": one}}", "1:27", "cannot be seen by policy"},
		{"amount alone", "payments: {by: x, amount: /amount}", "1:1", "belong together"},
		{"above alone", "payments: {by: x, above: {\"5\": one}}", "1:1", "belong together"},
		{"no amount", "payments:\n  by: x\n  amount: /amount\n  above:\n    \"5.5\": one", "5:1", "is no amount"},
		{"falling amounts", "payments:\n  by: x\n  amount: /amount\n  above:\n    \"5\": one\n    \"4\": two", "6:1", "must rise"},
		{"falling levels", "payments:\n  by: x\n  amount: /amount\n  above:\n    \"5\": two\n    \"6\": one", "6:1", "must rise"},
		{"a reason that writes policy", "payments: {level: never, reason: 'x\") permit (principal, action, resource); //'}", "1:34", "plain text"},
		{"data that writes policy", "payments: {by: x, data: {'x\")': one}}", "1:26", "plain word"},
		{"a name that writes policy", "CallTool: {by: x, data: {untrusted: one}}", "1:1", "cannot hold"},
		{"a list", "- payments", "1:1", "each line"},
		{"no yaml", "a: [", "", "not one YAML document"},
		{"two documents", "a: never\n---\nb: never", "", "not one YAML document"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, problems := Compile(withTable(tc.table), tools)
			if len(problems) == 0 {
				t.Fatal("nothing is wrong with it")
			}
			if set != nil && problems[0].Severity == Error {
				t.Error("it compiles all the same")
			}
			p := problems[0].String()
			if !strings.HasPrefix(p, "autonomy.yaml:"+tc.place) || !strings.Contains(p, tc.want) {
				t.Errorf("%s", p)
			}
		})
	}
}

// TestAutonomyRestricts: whatever stands in the table, what is permitted with
// it is permitted without it; and what the table becomes are forbids.
func TestAutonomyRestricts(t *testing.T) {
	tools := bank(t)
	without := snapshot(t, compile(t, payFolder(), tools))
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"payments", "bank___send_money", "bank___get_balance", "CallTool", "Mcp", "read_only", "list_tools"})
		lvl := rapid.SampledFrom(levelNames)
		var table strings.Builder
		for _, n := range rapid.SliceOfNDistinct(name, 1, 4, rapid.ID).Draw(t, "names") {
			fmt.Fprintf(&table, "%s:\n  level: %s\n  by: finance\n", n, lvl.Draw(t, "level"))
			if n == "payments" && rapid.Bool().Draw(t, "amounts") {
				levels := rapid.SliceOfN(rapid.IntRange(0, 3), 2, 2).Draw(t, "levels")
				slices.Sort(levels)
				fmt.Fprintf(&table, "  amount: %s\n  above: {\"10\": %s, \"2000\": %s}\n", rapid.SampledFrom([]string{"/amount", "/rate"}).Draw(t, "pointer"), levelNames[levels[0]], levelNames[levels[1]])
			}
			if rapid.Bool().Draw(t, "data") {
				fmt.Fprintf(&table, "  data: {%s: %s}\n", rapid.SampledFrom([]string{"untrusted", "unknown", "reader:x"}).Draw(t, "word"), lvl.Draw(t, "its level"))
			}
		}
		src := payFolder()
		src.Files["autonomy.yaml"] = []byte(table.String())
		set, problems := Compile(src, tools)
		if set == nil {
			for _, p := range problems {
				if !strings.Contains(p.Message, "must rise") {
					t.Fatalf("%s\n%v", table.String(), p)
				}
			}
			return
		}
		if strings.Contains(set.Autonomy(), "permit (") {
			t.Fatal(set.Autonomy())
		}
		with := snapshot(t, set)
		args := fmt.Sprintf(`{"recipient":"x","amount":%d%s}`, rapid.SampledFrom([]int{1, 10, 11, 999, 1001, 2000, 2001, 5001}).Draw(t, "amount"), rapid.SampledFrom([]string{"", `,"rate":5`, `,"rate":2000.5`}).Draw(t, "rate"))
		r := request(t, tools, "bank___send_money", args)
		r.Context.Satisfied = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"approval:finance", "approval:finance:2"}), rapid.ID).Draw(t, "satisfied")
		slices.Sort(r.Context.Satisfied)
		a, b := with.Decide(r), without.Decide(r)
		if a.Permit && !b.Permit {
			t.Fatalf("%s permits %s\n%s", table.String(), args, set.Autonomy())
		}
		if a.Code != "permit" && a.Code != "forbid" && a.Code != b.Code {
			t.Fatalf("%s: %s for %s", table.String(), a.Code, args)
		}
	})
}

func TestAutonomyInSnapshot(t *testing.T) {
	tools := bank(t)
	set := compile(t, withTable(bankTable), tools)
	again, problems := recompile(content{set.files, set.world.tools})
	if again == nil || again.digest != set.digest || again.Autonomy() != set.Autonomy() {
		t.Fatal(problems)
	}
	other := compile(t, withTable(strings.Replace(bankTable, "50000", "50001", 1)), tools)
	if other.digest == set.digest {
		t.Error("the digest does not cover the table")
	}
}

func FuzzAutonomy(f *testing.F) {
	for _, s := range []string{bankTable, "payments: never", "payments: {level: one, by: x, reason: 'y'}", "a: &a {level: one}\nb: *a", "payments: {by: x, data: {untrusted: one}}"} {
		f.Add(s)
	}
	tools := bank(f)
	f.Fuzz(func(t *testing.T, table string) {
		set, _ := Compile(withTable(table), tools)
		if set == nil {
			return
		}
		for _, p := range set.authorize.policies {
			if strings.HasPrefix(string(p.id), "autonomy-") && p.rule.permit {
				t.Fatalf("%q became a permit", table)
			}
		}
		r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":5}`)
		if d := snapshot(t, set).Decide(r); d.Code != "permit" && d.Code != "forbid" {
			t.Fatalf("%q: %s", table, d.Code)
		}
	})
}
