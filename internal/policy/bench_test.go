package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// many is a deployment of n policies: one permit and one forbid for each
// tool, and three forbids for all.
func many(t testing.TB, n int) ([]*ostiary.Tool, *Set) {
	var tools []*ostiary.Tool
	var b strings.Builder
	for i := range max(1, (n-3)/2) {
		tl := tool(t, "bank", fmt.Sprintf("tool%d", i), `{"type":"object","properties":{"recipient":{"type":"string"},"amount":{"type":"integer"},"note":{"type":"string"}},"required":["recipient","amount"]}`)
		tools = append(tools, tl)
		fmt.Fprintf(&b, "@id(\"p%d\") permit (principal in Ostiary::Role::\"clerk\", action == Ostiary::Action::%q, resource) when { context.input.amount <= 5000 };\n", i, tl.Action())
		fmt.Fprintf(&b, "@id(\"f%d\") @remedy(\"approval:x\") forbid (principal, action == Ostiary::Action::%q, resource) when { context.input.amount > 1000 } unless { context.satisfied.contains(\"approval:x\") };\n", i, tl.Action())
	}
	for i, cond := range []string{`unless { context.posture.ok }`, `when { context.risk.score > 80 }`, `unless { ["none","throttled"].contains(context.containment) }`} {
		fmt.Fprintf(&b, "@id(\"g%d\") forbid (principal, action in Ostiary::Action::\"CallTool\", resource) %s;\n", i, cond)
	}
	return tools, compile(t, source("p.cedar", b.String(), "obligate/o.cedar", `@id("o") @obligation("notify") permit (principal, action in Ostiary::Action::"CallTool", resource) when { context.input.amount > 900 };`), tools)
}

// BenchmarkDecide is the full decision: conversion, request validation,
// index, Cedar, counterfactual, obligations. It must not grow with the
// number of policies.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tools, set := many(b, n)
			s := snapshot(b, set)
			for name, amount := range map[string]int{"allow": 950, "requestable": 2000, "deny": 9000} {
				r := request(b, tools, tools[len(tools)/2].Action(), fmt.Sprintf(`{"recipient":"DE00","amount":%d,"note":"hello"}`, amount))
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						r.Context.Now = r.Context.Now.Add(time.Millisecond) // no call is at the time of another,
						r.Context.ReadsTainted++                            // and each has read what the one before brought
						if d := s.Decide(r); d.Permit != (name == "allow") || d.Requestable() != (name == "requestable") {
							b.Fatal(d)
						}
					}
				})
			}
		})
	}
}

// A decision costs the same however many policies there are: it looks at as
// many, and allocates as often.
func TestFlat(t *testing.T) {
	cost := func(n int) (evaluated int, allocs float64) {
		tools, set := many(t, n)
		s := snapshot(t, set)
		r := request(t, tools, tools[len(tools)/2].Action(), `{"recipient":"DE00","amount":950,"note":"hello"}`)
		d := s.Decide(r)
		if !d.Permit || d.Total < n-1 {
			t.Fatalf("%+v", d)
		}
		return d.Evaluated, testing.AllocsPerRun(100, func() { s.Decide(r) })
	}
	few, fewAllocs := cost(11)
	lots, lotsAllocs := cost(2001)
	if few != lots || lots != 6 || !raced && (lotsAllocs > fewAllocs+5 || lotsAllocs > 70) {
		t.Errorf("11 policies: %d evaluated, %.0f allocations; 2001: %d, %.0f", few, fewAllocs, lots, lotsAllocs)
	}
}

// A caller's next call, later and after it has read another result, costs no
// more than the same one again.
func TestNextCallCost(t *testing.T) {
	tools, set := many(t, 10)
	s := snapshot(t, set)
	r := request(t, tools, tools[0].Action(), `{"recipient":"DE00","amount":950,"note":"hello"}`)
	r.Context.Taint = []string{"inbox"}
	next := func() {
		r.Context.Now = r.Context.Now.Add(time.Millisecond)
		r.Context.ReadsTainted++
		if d := s.Decide(r); !d.Permit {
			t.Fatal(d)
		}
	}
	if n := testing.AllocsPerRun(100, next); !raced && n > 80 {
		t.Errorf("%.0f allocations", n)
	}
}

// BenchmarkFlat compares a decision among 10,000 policies, after 100,000
// agents were seen, with one among 10: for an agent that calls again
// ("ratio"), and for one after another of the hundred thousand
// ("crowd-ratio"). Batches take turns, and the fastest of each counts, so that
// a busy machine disturbs both alike.
func BenchmarkFlat(b *testing.B) {
	const agents, batch = 100_000, 200
	fewTools, few := many(b, 10)
	lotsTools, lots := many(b, 10_000)
	one := func(tools []*ostiary.Tool) *ostiary.Request {
		return request(b, tools, tools[len(tools)/2].Action(), `{"recipient":"DE00","amount":950,"note":"hello"}`)
	}
	names := make([]ostiary.AgentID, agents)
	for i := range names {
		names[i] = ostiary.AgentID(fmt.Sprintf("spiffe://example.org/agent/%d", i))
	}
	const few10, few10k, many10k, own10k = 0, 1, 2, 3 // of 10 policies one agent; of 10,000 one, one of many, one of many under its own mandate
	best := [4]time.Duration{time.Hour, time.Hour, time.Hour, time.Hour}
	at := 0
	run := func(i int, s *Snapshot, r *ostiary.Request) {
		begun := time.Now()
		for range batch {
			r.Context.Now = r.Context.Now.Add(time.Millisecond)
			if i >= many10k {
				at = (at + 1) % agents
				r.Subject.Agent, r.Context.Session.ID = names[at], ostiary.SessionID(names[at])
			}
			if i == own10k {
				r.Context.Mandate.ID = ostiary.MandateID(names[at])
			}
			if !s.Decide(r).Permit {
				b.Fatal("denied")
			}
		}
		best[i] = min(best[i], time.Since(begun)/batch)
	}
	s10, s10k := snapshot(b, few), snapshot(b, lots)
	r10, r10k, crowd, own := one(fewTools), one(lotsTools), one(lotsTools), one(lotsTools)
	for range agents / batch {
		run(many10k, s10k, crowd)
	}
	for b.Loop() {
		run(few10, s10, r10)
		run(few10k, s10k, r10k)
		run(many10k, s10k, crowd)
		run(own10k, s10k, own)
	}
	b.ReportMetric(float64(best[0].Nanoseconds()), "ns/decision")
	b.ReportMetric(float64(best[1])/float64(best[0]), "ratio")
	b.ReportMetric(float64(best[2])/float64(best[0]), "crowd-ratio")
	b.ReportMetric(float64(best[3])/float64(best[0]), "own-mandate-ratio")
}

// BenchmarkVisible filters a list of 200 tools.
func BenchmarkVisible(b *testing.B) {
	for _, n := range []int{403, 10_000} {
		tools, set := many(b, n)
		e := New()
		if err := e.Activate(snapshot(b, set)); err != nil {
			b.Fatal(err)
		}
		r := request(b, tools, ActionListTools, "")
		zones := map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "default"}}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.VisibleOn(r, tools[:200], zones)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				many(b, n)
			}
		})
	}
}
