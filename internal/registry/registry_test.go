package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/registry"
	"github.com/ostiary/ostiary/internal/store"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// journal is a log that can fail.
type journal struct {
	events []string
	fail   bool
}

func (j *journal) record(_ context.Context, e registry.Event) error {
	if j.fail {
		return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "no")
	}
	j.events = append(j.events, strings.TrimSpace(fmt.Sprintf("%s %s by %s %s", e.What, e.Detail, e.By, e.Failed)))
	return nil
}

// flaky is a keeper whose writes fail: before they happen, or after.
type flaky struct {
	registry.Keeper
	before, after error
}

func (f *flaky) WriteRecords(ctx context.Context, batch []record.Record, at time.Time) (uint64, error) {
	if f.before != nil {
		return 0, f.before
	}
	rev, err := f.Keeper.WriteRecords(ctx, batch, at)
	if err == nil && f.after != nil {
		return 0, f.after
	}
	return rev, err
}

func open(t *testing.T, k registry.Keeper, j *journal) *registry.Registry {
	t.Helper()
	r, err := registry.Open(t.Context(), registry.Options{Records: k, Record: j.record, Clock: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func entity(kind ostiary.EntityKind, name string) ostiary.Entity {
	return ostiary.Entity{Kind: kind, Name: name, Owner: "person:dana", Purpose: "tests"}
}

func apply(t *testing.T, r *registry.Registry, w registry.Want) []string {
	t.Helper()
	plan, err := r.Plan(w)
	if err != nil {
		t.Fatal(err)
	}
	done, err := r.Apply(t.Context(), "max", w)
	if err != nil {
		t.Fatal(err)
	}
	var a, b []string
	for i := range plan {
		a = append(a, plan[i].String())
	}
	for i := range done {
		b = append(b, done[i].String())
	}
	if !slices.Equal(a, b) {
		t.Fatalf("planned %q, did %q", a, b)
	}
	return b
}

func TestApply(t *testing.T) {
	keeper, j := store.NewMemory(), &journal{}
	r := open(t, keeper, j)
	bank, pay := entity("service", "bank"), entity("tool", "bank___pay")
	bank.Classes, bank.Limits.Amount = []string{"personal", "financial", "personal"}, 2000
	if got := apply(t, r, registry.Want{Entities: []ostiary.Entity{pay, bank}}); !slices.Equal(got, []string{
		"add service bank: owner person:dana; purpose tests; classes financial, personal; state active; limits.amount 2000",
		"add tool bank___pay: owner person:dana; purpose tests; state active",
	}) {
		t.Errorf("%q", got)
	}
	e := r.Entity("service", "bank")
	if e == nil || e.Edition != 1 || e.CreatedBy != "max" || !e.Created.Equal(noon) || !slices.Equal(e.Classes, []string{"financial", "personal"}) || r.Entity("agent", "bank") != nil {
		t.Fatalf("%+v", e)
	}
	rev, _ := keeper.Revision(t.Context())
	if got := apply(t, r, registry.Want{Entities: []ostiary.Entity{bank, pay}, Prune: true}); got != nil {
		t.Errorf("the same again: %q", got)
	}
	if after, _ := keeper.Revision(t.Context()); after != rev || rev != 1 {
		t.Errorf("revision %d after %d: one application is one revision, and nothing is none", after, rev)
	}
	tool := r.Entity("tool", "bank___pay")

	bank.Version, bank.Limits, bank.Retired, bank.Edition = "2.1", ostiary.Limits{}, true, 1
	if got := apply(t, r, registry.Want{Entities: []ostiary.Entity{bank}}); !slices.Equal(got, []string{
		"change service bank: version 2.1; state retired, was active; limits.amount no more 2000",
	}) {
		t.Errorf("%q", got)
	}
	if e := r.Entity("service", "bank"); e.Edition != 2 || r.Entity("tool", "bank___pay") != tool {
		t.Error("a change makes another edition, and leaves the others as they are")
	}
	if _, err := r.Apply(t.Context(), "max", registry.Want{Entities: []ostiary.Entity{bank}}); ostiary.KindOf(err) != ostiary.Conflict {
		t.Errorf("for the edition before: %v", err)
	}

	other := open(t, keeper, j) // another process
	if got := apply(t, other, registry.Want{Entities: []ostiary.Entity{entity("host", "a1")}, Prune: true, Gone: []ostiary.Entity{{Kind: "tool", Name: "bank___pay"}}}); len(got) != 3 {
		t.Errorf("%q", got)
	}
	_, err := r.Apply(t.Context(), "max", registry.Want{Gone: []ostiary.Entity{{Kind: "tool", Name: "bank___pay"}}})
	if e := ostiary.AsError(err); e.Kind != ostiary.Conflict || e.Code != "entity_moved" {
		t.Errorf("what went meanwhile: %v", err)
	}
	if last := j.events[len(j.events)-1]; !strings.HasSuffix(last, "by max record_moved") {
		t.Errorf("what was recorded and did not happen is recorded too: %q", last)
	}
	if err := r.Refresh(t.Context()); err != nil || len(r.Entities("")) != 1 || r.Entities("host")[0].Name != "a1" || r.Entities("tool") != nil {
		t.Errorf("%v, %v", r.Entities(""), err)
	}
	_, err = r.Plan(registry.Want{Gone: []ostiary.Entity{{Kind: "tool", Name: "bank___pay"}}})
	if ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("what is not there cannot go: %v", err)
	}
}

// TestFaults: a change happens whole or not at all, and is written down first.
func TestFaults(t *testing.T) {
	boom := ostiary.Errorf(ostiary.Unavailable, "store", "boom").Because(errors.New("boom"))
	want := registry.Want{Entities: []ostiary.Entity{entity("host", "a1"), entity("host", "a2")}}
	t.Run("the log is down", func(t *testing.T) {
		k, j := store.NewMemory(), &journal{}
		r := open(t, k, j)
		j.fail = true
		if _, err := r.Apply(t.Context(), "max", want); ostiary.KindOf(err) != ostiary.Unavailable || r.Entities("") != nil {
			t.Errorf("%v, %v", err, r.Entities(""))
		}
		if rev, _ := k.Revision(t.Context()); rev != 0 {
			t.Errorf("revision %d", rev)
		}
	})
	t.Run("the store did not", func(t *testing.T) {
		k, j := &flaky{Keeper: store.NewMemory(), before: boom}, &journal{}
		r := open(t, k, j)
		if _, err := r.Apply(t.Context(), "max", want); ostiary.KindOf(err) != ostiary.Unavailable || r.Entities("") != nil || len(j.events) != 4 {
			t.Errorf("%v, %v, %q", err, r.Entities(""), j.events)
		}
		k.before = nil
		if _, err := r.Apply(t.Context(), "max", want); err != nil || len(r.Entities("")) != 2 {
			t.Errorf("%v", err)
		}
	})
	t.Run("the store did, and said it did not", func(t *testing.T) {
		k, j := &flaky{Keeper: store.NewMemory(), after: boom}, &journal{}
		r := open(t, k, j)
		if _, err := r.Apply(t.Context(), "max", want); ostiary.KindOf(err) != ostiary.Unavailable {
			t.Error(err)
		}
		k.after = nil
		if err := r.Refresh(t.Context()); err != nil || len(r.Entities("")) != 2 {
			t.Errorf("the next reading finds it: %v", err)
		}
		if got := apply(t, r, want); got != nil {
			t.Errorf("asking again changes nothing: %q", got)
		}
	})
}

func TestCheck(t *testing.T) {
	good := entity("agent", "spiffe://td.example/agent/payments")
	if err := registry.Check(&good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(e *ostiary.Entity)
		field  string
	}{
		"no kind":               {func(e *ostiary.Entity) { e.Kind = "" }, "kind"},
		"another kind":          {func(e *ostiary.Entity) { e.Kind = "robot" }, "kind"},
		"an agent of no domain": {func(e *ostiary.Entity) { e.Name = "payments" }, "name"},
		"a tool of no server":   {func(e *ostiary.Entity) { e.Kind, e.Name = "tool", "pay" }, "name"},
		"a name with a capital": {func(e *ostiary.Entity) { e.Kind, e.Name = "host", "A1" }, "name"},
		"a name with a space":   {func(e *ostiary.Entity) { e.Kind, e.Name = "host", "a 1" }, "name"},
		"no name":               {func(e *ostiary.Entity) { e.Kind, e.Name = "host", "" }, "name"},
		"no owner":              {func(e *ostiary.Entity) { e.Owner = "" }, "owner"},
		"a service as owner":    {func(e *ostiary.Entity) { e.Owner = "service:bank" }, "owner"},
		"an owner of no kind":   {func(e *ostiary.Entity) { e.Owner = "dana" }, "owner"},
		"no purpose":            {func(e *ostiary.Entity) { e.Purpose = " " }, "purpose"},
		"a hidden purpose":      {func(e *ostiary.Entity) { e.Purpose = "pay\u202eyap" }, "purpose"},
		"a purpose of lines":    {func(e *ostiary.Entity) { e.Purpose = "a\nb" }, "purpose"},
		"no UTF-8":              {func(e *ostiary.Entity) { e.Purpose = "a\xff" }, "purpose"},
		"a class with a space":  {func(e *ostiary.Entity) { e.Classes = []string{"a b"} }, "classes"},
		"a version of words":    {func(e *ostiary.Entity) { e.Version = "1 2" }, "version"},
		"a zone with a capital": {func(e *ostiary.Entity) { e.Zone = "Core" }, "zone"},
		"a negative limit":      {func(e *ostiary.Entity) { e.Limits.Calls = -1 }, "limits.calls"},
		"a negative edition":    {func(e *ostiary.Entity) { e.Edition = -1 }, "edition"},
	} {
		e := good
		c.change(&e)
		if got := ostiary.AsError(registry.Check(&e)); got == nil || got.Kind != ostiary.Malformed || got.Field != c.field {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestParse(t *testing.T) {
	const text = `kind: agent
name: payments
owner: person:dana
purpose: pays invoices
classes: [financial]
limits: {amount: 2000, calls: 100}
version: "1.10"
baseline: ` + digest + `
zone: core
---
- {kind: host, name: a1, owner: organisation:acme, purpose: "runs it", state: retired}
- kind: tool
  name: bank___pay
  owner: person:dana
  purpose: moves money
---
`
	all, problems := registry.Parse("a.yaml", []byte(text))
	if len(problems) > 0 || len(all) != 3 {
		t.Fatalf("%v, %v", all, problems)
	}
	a := all[0]
	if a.Version != "1.10" || a.Limits.Amount != 2000 || a.Baseline.String() != digest || a.Zone != "core" || all[1].Line != 11 || !all[1].Retired || all[2].Line != 12 {
		t.Errorf("%+v", all)
	}
	for name, c := range map[string]struct{ text, want string }{
		"a field that is none":    {"kind: host\nnmae: a1\n", "a.yaml:2: nmae: there is no such field"},
		"a limit that is none":    {base + "limits: {pay: 1}\n", "a.yaml:5: limits.pay: there is no such field; there are: amount"},
		"a limit of half":         {base + "limits:\n  calls: 0.5\n", "a.yaml:6: limits.calls: a limit is a whole number"},
		"a number as version":     {base + "version: 1.10\n", "a.yaml:5: version: this must be a text; put it in quotes"},
		"an owner of no kind":     {"kind: host\nname: a1\nowner: dana\npurpose: x\n", "a.yaml:3: owner: the owner is a person or an organisation"},
		"no purpose":              {"kind: host\nname: a1\nowner: person:dana\n", "a.yaml:1: purpose: say what it is for"},
		"the second of a list":    {"- kind: host\n  name: a1\n  owner: person:d\n  purpose: x\n- kind: hots\n  name: a2\n", "a.yaml:5: kind: \"hots\" is no kind of entity"},
		"said twice":              {base + "name: a2\n", "a.yaml:5: name: it is said twice, before in line 2"},
		"an alias":                {base + "classes: &x [a]\n---\n*x\n", "a.yaml:"},
		"a text":                  {"hello\n", "a.yaml:1: write fields and their values here"},
		"no YAML":                 {"kind: [\n", "a.yaml:"},
		"a digest of capitals":    {base + "baseline: " + strings.ToUpper(digest) + "\n", "a.yaml:5: baseline: a baseline is a SHA-256"},
		"another state":           {base + "state: gone\n", "a.yaml:5: state: the state is active or retired"},
		"classes that are a text": {base + "classes: financial\n", "a.yaml:5: classes: this must be a list"},
	} {
		all, problems := registry.Parse("a.yaml", []byte(c.text))
		if all != nil || len(problems) == 0 || !strings.HasPrefix(problems[0].String(), c.want) {
			t.Errorf("%s: %v, %v", name, all, problems)
		}
	}
}

const (
	digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	base   = "kind: host\nname: a1\nowner: person:dana\npurpose: x\n"
)

// FuzzParse: whatever is read is fit to be registered, and what is written is
// read as the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(base + "classes: [a, b]\nlimits: {amount: 3}\nversion: \"007\"\nbaseline: " + digest))
	f.Add([]byte("- {kind: tool, name: a___B, owner: organisation:x, purpose: 'yes: no # x', state: retired}"))
	f.Add([]byte("kind: model\nname: 0x1f\nowner: person:null\npurpose: \"~\"\nzone: \"true\"\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, problems := registry.Parse("x", text)
		if len(problems) > 0 && all != nil {
			t.Fatal("entities beside problems")
		}
		var list []*ostiary.Entity
		for i := range all {
			list = append(list, &all[i].Entity)
		}
		var b bytes.Buffer
		if err := registry.Write(&b, list); err != nil {
			t.Fatal(err)
		}
		again, problems := registry.Parse("x", b.Bytes())
		if len(problems) > 0 || len(again) != len(all) {
			t.Fatalf("%v of\n%s", problems, b.String())
		}
		for i := range all {
			if x, y := registry.Fields(&all[i].Entity), registry.Fields(&again[i].Entity); !slices.Equal(x, y) || all[i].Name != again[i].Name {
				t.Fatalf("%v became %v", x, y)
			}
		}
	})
}
