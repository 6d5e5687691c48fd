package policy

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
	"pgregory.net/rapid"
)

// mustRule compiles text behind the back of our checks.
func mustRule(t rapid.TB, id, text string) compiled {
	list, err := cedar.NewPolicyListFromBytes("x", []byte(text))
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %v", text, err)
	}
	return compiled{id: cedar.PolicyID(id), policy: list[0], rule: ruleOf(list[0])}
}

// compare evaluates with and without the index.
func compare(t rapid.TB, x *index, g cedar.EntityGetter, r cedar.Request) (cedar.Decision, cedar.Diagnostic) {
	t.Helper()
	full, fullDiag := cedar.Authorize(x.all(), g, r)
	sel := x.candidates(g, r.Principal, r.Action, r.Resource)
	got, gotDiag := cedar.Authorize(sel, g, r)
	if got != full || !sameDiagnostic(gotDiag, fullDiag) {
		t.Fatalf("the index changes the answer to %v\nfull:    %v %v\nindexed: %v %v (%d of %d)", r, full, fullDiag, got, gotDiag, len(sel.at), len(x.policies))
	}
	return got, gotDiag
}

// H10: random policies of every scope shape, groups three deep, unknown
// principals, conditions that err: the index changes nothing.
func TestH10IndexEqualsFullEvaluation(t *testing.T) {
	uids := func(typ string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%s::%q", typ, fmt.Sprint(i)))
		}
		return out
	}
	people, things, acts := append(uids("A", 8), uids("B", 4)...), uids("R", 8), uids("Action", 8)
	conds := []string{"", "when { true }", "when { false }", "when { context.n > 3 }", "unless { context.n > 3 }",
		"when { context.missing }", "when { context.n + 9223372036854775807 > 0 }", `when { principal in A::"7" }`, "unless { context has missing && context.missing }",
		`when { resource has x && resource.x }`, `when { principal.x }`, `when { context.s in ["a"] }`}
	scopeOf := func(t *rapid.T, name, typ string, pool []string, isAction bool) string {
		e := rapid.SampledFrom(pool).Draw(t, name+" entity")
		shapes := []string{"", " == " + e, " in " + e}
		if isAction {
			shapes = append(shapes, " in ["+e+", "+rapid.SampledFrom(pool).Draw(t, "second")+"]")
		} else {
			shapes = append(shapes, " is "+typ, " is "+typ+" in "+e)
		}
		return name + rapid.SampledFrom(shapes).Draw(t, name+" shape")
	}
	parse := func(s string) (u cedar.EntityUID) {
		if err := u.UnmarshalCedar([]byte(s)); err != nil {
			panic(err)
		}
		return u
	}
	rapid.Check(t, func(t *rapid.T) {
		g := cedar.EntityMap{}
		for _, pool := range [][]string{people, things, acts} {
			for i, s := range pool {
				if rapid.IntRange(0, 9).Draw(t, "absent") == 0 {
					continue
				}
				var parents []cedar.EntityUID
				for range rapid.IntRange(0, 2).Draw(t, "parents") {
					if i+1 < len(pool) {
						parents = append(parents, parse(rapid.SampledFrom(pool[i+1:]).Draw(t, "parent")))
					}
				}
				u := parse(s)
				g[u] = cedar.Entity{UID: u, Parents: cedar.NewEntityUIDSet(parents...)}
			}
		}
		var list []compiled
		for i := range rapid.IntRange(0, 12).Draw(t, "policies") {
			text := fmt.Sprintf("%s (%s, %s, %s) %s;", rapid.SampledFrom([]string{"permit", "forbid"}).Draw(t, "effect"),
				scopeOf(t, "principal", rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "type"), people, false),
				scopeOf(t, "action", "", acts, true),
				scopeOf(t, "resource", rapid.SampledFrom([]string{"R", "A"}).Draw(t, "type"), things, false),
				rapid.SampledFrom(conds).Draw(t, "condition"))
			list = append(list, mustRule(t, fmt.Sprintf("p%02d", 99-i), text))
		}
		x := newIndex(list)
		for range 6 {
			r := cedar.Request{
				Principal: parse(rapid.SampledFrom(append(people, `A::"unknown"`, `Z::"z"`)).Draw(t, "principal")),
				Action:    parse(rapid.SampledFrom(acts).Draw(t, "action")),
				Resource:  parse(rapid.SampledFrom(things).Draw(t, "resource")),
				Context:   cedar.NewRecord(cedar.RecordMap{"n": cedar.Long(rapid.IntRange(0, 6).Draw(t, "n")), "s": cedar.String("a")}),
			}
			compare(t, x, g, r)
		}
	})
}

// Properties of the outcome layer over random sets of sound policies, and of
// the strict wrapper when one of them is made to err (H02).
func TestH02OutcomeProperties(t *testing.T) {
	tools := bank(t)
	base := compile(t, source("groups.yaml", "payments: [bank___send_money]"), tools)
	scopes := []string{
		`(principal, action == Ostiary::Action::"bank___send_money", resource)`,
		`(principal in Ostiary::Role::"clerk", action in Ostiary::Action::"payments", resource)`,
		`(principal in Ostiary::Role::"boss", action in Ostiary::Action::"CallTool", resource)`,
		`(principal is Ostiary::Agent, action in Ostiary::Action::"destructive", resource in Ostiary::Zone::"default")`,
		`(principal, action in Ostiary::Action::"Mcp", resource == Ostiary::Server::"mail")`,
	}
	conds := []string{"", `when { context.input.amount > 10 }`, `unless { context.satisfied.contains("approval:a") }`,
		`when { context.input.amount > 5 } unless { context.satisfied.contains("approval:b") }`, `unless { context.risk.score < 50 }`, `when { context.input.amount < 20 }`}
	facts := map[string]string{conds[2]: "approval:a", conds[3]: "approval:b"}
	draw := func(t *rapid.T, i int, effect string) compiled {
		cond := rapid.SampledFrom(conds).Draw(t, "condition")
		c := mustRule(t, fmt.Sprintf("p%d", i), effect+rapid.SampledFrom(scopes).Draw(t, "scope")+cond+";")
		if effect == "forbid" && rapid.Bool().Draw(t, "with remedy") {
			c.meta.remedy = facts[cond]
		}
		return c
	}
	with := func(list ...compiled) *Snapshot {
		s := *base
		s.authorize = newIndex(slices.Clone(list))
		return &Snapshot{1, testTime, &s}
	}
	rapid.Check(t, func(t *rapid.T) {
		var list []compiled
		for i := range rapid.IntRange(1, 6).Draw(t, "policies") {
			list = append(list, draw(t, i, rapid.SampledFrom([]string{"permit", "forbid"}).Draw(t, "effect")))
		}
		r := request(t, tools, "bank___send_money", fmt.Sprintf(`{"recipient":"x","amount":%d}`, rapid.IntRange(0, 30).Draw(t, "amount")))
		r.Context.Risk.Score = int64(rapid.SampledFrom([]int{0, 60}).Draw(t, "risk"))
		s := with(list...)
		d := s.Decide(r)

		if full := s.set.decide(r, true); full.Code != d.Code {
			t.Fatalf("verified: %+v, not: %+v", full, d)
		}
		if d.Permit && len(d.Remedies) > 0 || !d.Permit && len(d.Obligations) > 0 {
			t.Fatalf("%+v", d)
		}
		if d.Requestable() { // consent to all of it must help
			again := *r
			for _, m := range d.Remedies {
				again.Context.Satisfied = append(slices.Clone(again.Context.Satisfied), m.Fact)
			}
			if !s.Decide(&again).Permit {
				t.Fatalf("asked for what could not help: %+v", d)
			}
		}
		// A list never hides what a call would be let through, now or with consent.
		e := New()
		if err := e.Activate(s); err != nil {
			t.Fatal(err)
		}
		for _, servers := range []map[string]ostiary.Resource{nil, {"bank": r.Resource}} {
			if seen := e.VisibleOn(request(t, tools, ActionListTools, ""), tools, servers)[2]; !seen && r.Context.Risk.Score == 0 && (d.Permit || d.Requestable()) {
				t.Fatalf("hidden, yet %+v", d)
			}
			if !e.VisibleOn(r, tools, servers)[2] && (d.Permit || d.Requestable()) {
				t.Fatalf("hidden, yet %+v", d)
			}
		}
		bare := slices.Clone(list)
		for i := range bare {
			bare[i].meta = meta{}
		}
		if b := with(bare...).Decide(r); b.Permit != d.Permit || b.Code != d.Code {
			t.Fatalf("annotations changed %+v to %+v", b, d)
		}
		if more := with(append(slices.Clone(list), draw(t, 90, "forbid"))...).Decide(r); more.Permit && !d.Permit {
			t.Fatalf("a forbid widened")
		}
		if more := with(append(slices.Clone(list), draw(t, 91, "permit"))...).Decide(r); !more.Permit && d.Permit {
			t.Fatalf("a permit narrowed")
		}
		// One policy errs instead of deciding: never more permissive.
		i := rapid.IntRange(0, len(list)-1).Draw(t, "mutated")
		broken := slices.Clone(list)
		text := strings.TrimSuffix(string(list[i].policy.MarshalCedar()), ";")
		broken[i] = mustRule(t, string(list[i].id), text+` when { context.missing };`)
		broken[i].meta = list[i].meta
		if b := with(broken...).Decide(r); b.Permit && !d.Permit {
			t.Fatalf("H02 erring widened: %s", broken[i].policy.MarshalCedar())
		}
	})
}

// Cedar's own corpus, as it lies in the module, through our index and our
// splitter: 7,750 tests, every 25th with -short.
func TestH10CedarCorpus(t *testing.T) {
	step, least := 1, 7000
	if testing.Short() {
		step, least = 25, 300
	}
	files := corpus(t)
	var names []string
	for n := range files {
		if strings.HasSuffix(n, ".json") && !strings.HasSuffix(n, ".entities.json") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	tests, requests := 0, 0
	for i := 0; i < len(names); i += step {
		tests++
		requests += corpusTest(t, files, names[i])
	}
	if tests < least || requests < 7*least {
		t.Errorf("only %d tests with %d requests were found", tests, requests)
	}
	t.Logf("%d tests, %d requests", tests, requests)
}

func corpusTest(t *testing.T, files map[string][]byte, name string) int {
	var tc struct {
		Policies, Entities string
		Requests           []struct {
			Principal, Action, Resource cedar.EntityUID
			Context                     cedar.Record
			Decision                    string
			Reason, Errors              []cedar.PolicyID
		}
	}
	if err := json.Unmarshal(files[name], &tc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var g cedar.EntityMap
	if err := json.Unmarshal(files[tc.Entities], &g); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	text := files[tc.Policies]
	list, err := cedar.NewPolicyListFromBytes("x", text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if segs, e := split(string(text)); e == nil && len(segs) != len(list) {
		t.Errorf("%s: we cut %d policies, Cedar %d", name, len(segs), len(list))
	} else if e != nil && e.code != "policy_size" && e.code != "nesting" && e.code != "text" {
		t.Errorf("%s: %+v", name, e)
	}
	var rules []compiled
	for i, p := range list {
		rules = append(rules, compiled{id: cedar.PolicyID(fmt.Sprintf("policy%d", i)), policy: p, rule: ruleOf(p)})
	}
	x := newIndex(rules)
	for i, r := range tc.Requests {
		dec, diag := compare(t, x, g, cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context})
		if got := map[cedar.Decision]string{cedar.Allow: "allow", cedar.Deny: "deny"}[dec]; got != r.Decision || len(diag.Reasons) != len(r.Reason) || len(diag.Errors) != len(r.Errors) {
			t.Errorf("%s request %d: %s %v, want %s %v %v", name, i, got, diag, r.Decision, r.Reason, r.Errors)
		}
	}
	return len(tc.Requests)
}

func corpus(t *testing.T) map[string][]byte {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		t.Fatal("cannot find the module:", err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if out[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Policies number 2 to the corpus's one: combination is where indexes break.
func TestIndexKeepsOrder(t *testing.T) {
	var list []compiled
	for _, id := range []string{"c", "a", "b"} {
		list = append(list, mustRule(t, id, `permit (principal, action in [Action::"x", Action::"y", Action::"x"], resource);`))
	}
	x := newIndex(list)
	sel := x.candidates(cedar.EntityMap{}, cedar.NewEntityUID("A", "1"), cedar.NewEntityUID("Action", "x"), cedar.NewEntityUID("R", "1"))
	var got []string
	for id := range sel.All() {
		got = append(got, string(id))
	}
	if strings.Join(got, "") != "abc" {
		t.Errorf("got %v", got)
	}
}
