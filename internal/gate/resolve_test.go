package gate_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// known is what a Resolver asks, with what it has to say.
type known struct {
	tools   map[string]*ostiary.Tool // by kind and name
	unsure  error
	contain ostiary.Containment
}

func (k known) Tool(server, kind, name string) (*ostiary.Tool, bool) {
	t, ok := k.tools[kind+" "+name]
	return t, ok && server == "bank"
}

func (k known) AgentFacts(s *ostiary.Subject) (gate.AgentFacts, error) {
	return gate.AgentFacts{Zone: "office", Roles: []string{"clerk"}, Posture: ostiary.Posture{OK: true}, Mandate: ostiary.Mandate{ID: s.Mandate}}, k.unsure
}

func (k known) Session(_ context.Context, _ *ostiary.Subject, m ostiary.MandateID) (gate.SessionFacts, error) {
	return gate.SessionFacts{Session: ostiary.Session{ID: "of " + ostiary.SessionID(m)}, Taint: []string{"server:inbox"}, Reads: 2}, nil
}

func (k known) Groups(name string) []string { return []string{"group of " + name} }

func (k known) Level(*ostiary.Subject, *ostiary.Action) ostiary.Containment { return k.contain }

func (k known) resolve(a ostiary.Action) (*ostiary.Request, error) {
	f := &gate.Resolver{
		Tools: k, Groups: k, Registry: k, Sessions: k, Containments: k,
		Servers: map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "core", Trusted: true}}, Own: ostiary.Resource{Zone: "default"},
		Clock: func() time.Time { return time.Unix(1e9, 0) },
	}
	return f.Resolve(context.Background(), ostiary.Subject{Agent: "spiffe://td/a", Principal: "person:dana", Mandate: "m"}, &gate.Call{Action: a})
}

func TestResolve(t *testing.T) {
	pin := ostiary.DigestOf([]byte("pay"))
	k := known{contain: ostiary.Throttled, tools: map[string]*ostiary.Tool{
		"tool pay":     {State: ostiary.ToolPinned, Pin: pin},
		"tool changed": {State: ostiary.ToolChanged, Pin: pin},
		"tool odd":     {State: ostiary.ToolQuarantined, Pin: pin},
		"tool new":     {State: ostiary.ToolUnpinned, Pin: pin},
		"tool gone":    {State: ostiary.ToolGone, Pin: pin},
		"prompt greet": {State: ostiary.ToolPinned, Pin: pin},
	}}
	for name, c := range map[string]struct {
		action ostiary.Action
		code   string
		pinned bool
	}{
		"an accepted tool":        {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "pay"}, "", true},
		"an accepted prompt":      {ostiary.Action{Method: "prompts/get", Server: "bank", Tool: "greet"}, "", true},
		"a tool asked as prompt":  {ostiary.Action{Method: "prompts/get", Server: "bank", Tool: "pay"}, "unknown_prompt", false},
		"C01 a changed tool":      {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "changed"}, "tool_changed", false},
		"a quarantined tool":      {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "odd"}, "tool_quarantined", false},
		"a tool nobody accepted":  {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "new"}, "unknown_tool", false},
		"a tool that is gone":     {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "gone"}, "unknown_tool", false},
		"a tool that never was":   {ostiary.Action{Method: "tools/call", Server: "bank", Tool: "x"}, "unknown_tool", false},
		"a server that never was": {ostiary.Action{Method: "tools/call", Server: "x", Tool: "pay"}, "unknown_server", false},
		"the gateway's own list":  {ostiary.Action{Method: "tools/list"}, "", false},
		"a method without a pin":  {ostiary.Action{Method: "resources/read", Server: "bank", Tool: "pay"}, "", false},
	} {
		r, err := k.resolve(c.action)
		if c.code != "" {
			if e := ostiary.AsError(err); r != nil || e == nil || e.Code != c.code {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
			continue
		}
		if err != nil || (r.Action.Pin == pin) != c.pinned {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}

	r, err := k.resolve(ostiary.Action{Method: "tools/call", Server: "bank", Tool: "pay"})
	if err != nil {
		t.Fatal(err)
	}
	x := r.Context
	if !r.Resource.Trusted || r.Resource.Zone != "core" || x.Containment != ostiary.Throttled || x.Mandate.ID != "m" || x.Session.ID != "of m" ||
		x.Zone != "office" || len(x.Roles) != 1 || !x.Posture.OK || x.ReadsTainted != 2 || len(x.Taint) != 1 || x.Principal != "person:dana" || x.Now.IsZero() || !slices.Equal(r.Action.Groups, []string{"group of "}) {
		t.Errorf("something known was left out: %+v of %+v", x, r.Resource)
	}
	k.unsure = errInjected
	if _, err := k.resolve(ostiary.Action{Method: "tools/list"}); err == nil {
		t.Error("what is not known is an error, never a gap")
	}
}

// book is what is registered, by kind and name.
type book map[string]ostiary.Registered

func (b book) Registered(kind ostiary.EntityKind, name string) ostiary.Registered {
	return b[string(kind)+" "+name]
}

// TestRegistered: policy is told what is registered of agent, server and tool,
// compared with what they are now, and what is retired or is something else is
// refused, except to the gateway itself.
func TestRegistered(t *testing.T) {
	pin, program, work := ostiary.DigestOf([]byte("pay")), ostiary.DigestOf([]byte("bank")), ostiary.DigestOf([]byte("a"))
	k := known{contain: ostiary.None, tools: map[string]*ostiary.Tool{"tool pay": {State: ostiary.ToolPinned, Pin: pin}}}
	entity := func(kind ostiary.EntityKind, name string, baseline ostiary.Digest) ostiary.Registered {
		return ostiary.Registered{Owned: true, Entity: &ostiary.Entity{Kind: kind, Name: name, Baseline: baseline, Zone: "inner"}}
	}
	resolve := func(b book, via ostiary.Via) (*ostiary.Request, error) {
		f := &gate.Resolver{
			Tools: k, Groups: k, Registry: k, Sessions: k, Containments: k, Entities: b,
			Servers: map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "core", Program: program}},
			Clock:   func() time.Time { return time.Unix(1e9, 0) },
		}
		return f.Resolve(t.Context(), ostiary.Subject{Agent: "spiffe://td/a", Via: via, Mandate: "m"},
			&gate.Call{Action: ostiary.Action{Name: "bank___pay", Method: "tools/call", Server: "bank", Tool: "pay"}})
	}
	all := func() book {
		return book{"agent spiffe://td/a": entity("agent", "spiffe://td/a", work), "service bank": entity("service", "bank", program), "tool bank___pay": entity("tool", "bank___pay", pin)}
	}
	r, err := resolve(all(), ostiary.ViaSVID)
	if err != nil {
		t.Fatal(err)
	}
	if a, s, tool := r.Context.Registered, r.Resource.Registered, r.Action.Registered; a.Baseline != ostiary.UncheckedBaseline || s.Baseline != ostiary.SameBaseline || tool.Baseline != ostiary.SameBaseline || !a.Owned || tool.Entity == nil {
		t.Errorf("%+v, %+v, %+v", a, s, tool)
	}
	if r.Context.Zone != "inner" || r.Resource.Zone != "inner" {
		t.Errorf("the registry's zone stands above %s and %s", r.Context.Zone, r.Resource.Zone)
	}
	if r, err := resolve(nil, ostiary.ViaSVID); err != nil || r.Context.Registered != (ostiary.Registered{}) || r.Context.Zone != "office" || r.Resource.Zone != "core" {
		t.Errorf("nothing is registered: %+v, %v", r, err)
	}
	for name, c := range map[string]struct {
		change func(b book)
		code   string
	}{
		"a tool that is another":         {func(b book) { b["tool bank___pay"] = entity("tool", "bank___pay", work) }, "other_baseline"},
		"a server that is another":       {func(b book) { b["service bank"] = entity("service", "bank", work) }, "other_baseline"},
		"a retired agent":                {func(b book) { b["agent spiffe://td/a"].Entity.Retired = true }, "retired"},
		"a retired server":               {func(b book) { b["service bank"].Entity.Retired = true }, "retired"},
		"a retired tool":                 {func(b book) { b["tool bank___pay"].Entity.Retired = true }, "retired"},
		"one of these and all unchecked": {func(b book) { b["tool bank___pay"].Entity.Baseline = work }, "other_baseline"},
	} {
		b := all()
		c.change(b)
		if r, err := resolve(b, ostiary.ViaToken); r != nil || ostiary.KindOf(err) != ostiary.Denied || ostiary.AsError(err).Code != c.code {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if _, err := resolve(b, ostiary.ViaSelf); err != nil {
			t.Errorf("%s: the gateway must be able to look at it: %v", name, err)
		}
	}
}

// tracing notes how it was asked.
type tracing struct{ asked []string }

func (x *tracing) Trace(*ostiary.Request) gate.Traced {
	x.asked = append(x.asked, "trace")
	return gate.Traced{}
}

func (x *tracing) Look(*ostiary.Request) gate.Traced {
	x.asked = append(x.asked, "look")
	return gate.Traced{}
}

// Who weighs a call does not make its arguments the agent's words.
func TestWeighLooks(t *testing.T) {
	w, x := newWorld(), &tracing{}
	g := w.gate(func(o *gate.Options) {
		k := known{contain: ostiary.None}
		o.Facts = &gate.Resolver{
			Tools: k, Groups: k, Registry: k, Sessions: k, Containments: k, Tracer: x,
			Servers: map[string]ostiary.Resource{"bank": {Server: "bank"}}, Clock: func() time.Time { return time.Unix(1e9, 0) },
		}
	})
	c := call()
	c.Action.Method = "resources/read" // has no pin
	g.Weigh(t.Context(), c)
	g.Handle(t.Context(), c)
	if len(x.asked) != 2 || x.asked[0] != "look" || x.asked[1] != "trace" {
		t.Errorf("asked %q", x.asked)
	}
}
