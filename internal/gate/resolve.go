package gate

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// Tools looks up pinned definitions. Answers come from memory and name the
// state of the tool as it is now. Safe for concurrent use.
type Tools interface {
	Tool(server, kind, name string) (*ostiary.Tool, bool)
}

// Groups knows which of policy's groups an action is in now, by its name. The
// answer comes from memory; the caller must not change it. Safe for concurrent
// use.
type Groups interface {
	Groups(action string) []string
}

// AgentFacts is what the registry knows about an agent.
type AgentFacts struct {
	Zone    string
	Roles   []string
	Posture ostiary.Posture
	Mandate ostiary.Mandate // the effective one the subject acts under
}

// Registry knows agents and their mandates. Answers come from memory, as
// fresh as the revocation epoch the subject was checked against. Safe for
// concurrent use.
type Registry interface {
	AgentFacts(s *ostiary.Subject) (AgentFacts, error)
}

// SessionFacts is a session with its history.
type SessionFacts struct {
	Session ostiary.Session
	Taint   []string // sorted; the caller must not change it
	Classes []string // data classes read, likewise
	Reads   int64    // results of untrusted servers read
}

// Sessions issues and finds sessions. Answers come from memory, except the
// first for a (agent, principal, mandate). Safe for concurrent use.
type Sessions interface {
	Session(ctx context.Context, s *ostiary.Subject, m ostiary.MandateID) (SessionFacts, error)
}

// Containments knows how far agents, tools and servers are cut off. It
// answers NotEstablished while it is not certain. Safe for concurrent use.
type Containments interface {
	Level(s *ostiary.Subject, a *ostiary.Action) ostiary.Containment
}

// Traced is what is known of where the arguments of a call came from.
type Traced struct {
	Labels     map[string]ostiary.Label // one for each top-level argument that is there
	Provenance ostiary.Provenance
}

// Tracer knows where values came from. Trace looks the arguments up among
// everything the session has read, and remembers them as the agent's words;
// Look says the same of a call that nobody makes now, and remembers nothing.
// Both answer from memory. Safe for concurrent use.
type Tracer interface {
	Trace(r *ostiary.Request) Traced
	Look(r *ostiary.Request) Traced
}

// Entities knows what is registered. Answers come from memory and are not yet
// compared with any baseline. Safe for concurrent use.
type Entities interface {
	Registered(kind ostiary.EntityKind, name string) ostiary.Registered
}

// Resolver is the gate's Facts: it gathers everything known now about a call
// from memory. Engines that do not exist yet have honest neutral answers
// here: risk 0 at level low.
type Resolver struct {
	Tools        Tools
	Groups       Groups
	Registry     Registry
	Sessions     Sessions
	Containments Containments
	Tracer       Tracer                      // nil: every argument is of unknown origin
	Consents     Consents                    // nil: nobody can consent to anything
	Entities     Entities                    // nil: nothing is registered
	Servers      map[string]ostiary.Resource // by configured name; fixed for the resolver's life
	Own          ostiary.Resource            // the gateway itself, for calls that name no server
	Clock        func() time.Time
}

// unknown labels an argument whose origin nobody can tell.
var unknown = ostiary.Label{Sources: []string{"unknown"}}

// Resolve implements Facts.
func (f *Resolver) Resolve(ctx context.Context, s ostiary.Subject, call *Call) (*ostiary.Request, error) {
	r := &ostiary.Request{Subject: s, Action: call.Action}
	if err := f.resource(r); err != nil {
		return nil, err
	}
	if err := f.pin(&r.Action); err != nil {
		return nil, err
	}
	r.Action.Groups = f.Groups.Groups(r.Action.Name)
	agent, err := f.Registry.AgentFacts(&s)
	if err != nil {
		return nil, err
	}
	known := f.registered(ostiary.AgentEntity, string(s.Agent)).Against(agent.Posture.Workload)
	if known.Entity != nil && known.Entity.Zone != "" {
		agent.Zone = known.Entity.Zone
	}
	if s.Via != ostiary.ViaSelf { // the gateway must be able to look at what it refuses to others
		for _, x := range [...]*ostiary.Registered{&known, &r.Resource.Registered, &r.Action.Registered} {
			if err := x.Check(); err != nil {
				return nil, err
			}
		}
	}
	session, err := f.Sessions.Session(ctx, &s, agent.Mandate.ID)
	if err != nil {
		return nil, err
	}
	r.Context = ostiary.Context{
		Now: f.Clock(), Principal: s.Principal, Mandate: agent.Mandate, Session: session.Session,
		Posture: agent.Posture, Zone: agent.Zone, Roles: agent.Roles,
		Risk:        ostiary.Risk{Score: 0, Level: "low"},
		Containment: f.Containments.Level(&s, &r.Action),
		Labels:      labels(r.Action.Arguments), Taint: session.Taint, Classes: session.Classes, ReadsTainted: session.Reads, Registered: known,
	}
	if f.Tracer != nil {
		trace := f.Tracer.Trace
		if call.weighed {
			trace = f.Tracer.Look
		}
		t := trace(r)
		r.Context.Labels, r.Context.Provenance = t.Labels, t.Provenance
	}
	return r, f.consented(ctx, r, call)
}

// consented adds the facts that people's consent makes hold, for a call that
// is made with one.
func (f *Resolver) consented(ctx context.Context, r *ostiary.Request, call *Call) (err error) {
	switch {
	case call.Approval == "":
		return nil
	case f.Consents == nil:
		return ostiary.Errorf(ostiary.Denied, "not_holdable", "nobody can consent to anything here")
	}
	r.Context.Approval = call.Approval
	r.Context.Satisfied, err = f.Consents.Satisfied(ctx, call.Approval, r)
	return err
}

func (f *Resolver) resource(r *ostiary.Request) error {
	if r.Action.Server == "" {
		r.Resource = f.Own
		return nil
	}
	res, ok := f.Servers[r.Action.Server]
	if !ok {
		return ostiary.Errorf(ostiary.NotFound, "unknown_server", "there is no server of that name")
	}
	res.Registered = f.registered(ostiary.ServiceEntity, res.Server).Against(res.Program)
	if e := res.Registered.Entity; e != nil && e.Zone != "" {
		res.Zone = e.Zone
	}
	r.Resource = res
	return nil
}

func (f *Resolver) registered(kind ostiary.EntityKind, name string) ostiary.Registered {
	if f.Entities == nil {
		return ostiary.Registered{}
	}
	return f.Entities.Registered(kind, name)
}

// pinned lists the methods that call a pinned definition by name.
var pinned = map[string]string{"tools/call": "tool", "prompts/get": "prompt"}

// pin finds the accepted definition of a tool or prompt. One that is not
// pinned does not exist for the caller; one that changed is another tool
// until a person accepts it.
func (f *Resolver) pin(a *ostiary.Action) error {
	kind, ok := pinned[a.Method]
	if !ok {
		return nil
	}
	t, ok := f.Tools.Tool(a.Server, kind, a.Tool)
	if !ok {
		return ostiary.Errorf(ostiary.NotFound, "unknown_"+kind, "there is no such %s", kind)
	}
	switch t.State {
	case ostiary.ToolPinned:
		a.Pin = t.Pin
		if kind == "tool" {
			a.Registered = f.registered(ostiary.ToolEntity, a.Name).Against(t.Pin)
		}
		return nil
	case ostiary.ToolChanged:
		return ostiary.Errorf(ostiary.Denied, "tool_changed", "the definition of %s changed after it was accepted; an operator must accept it again", a.Name)
	case ostiary.ToolQuarantined:
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "the definition of %s is quarantined; an operator must review it", a.Name)
	default:
		return ostiary.Errorf(ostiary.NotFound, "unknown_"+kind, "there is no such %s", kind)
	}
}

func labels(args ostiary.Value) map[string]ostiary.Label {
	if args.Len() == 0 {
		return nil
	}
	m := make(map[string]ostiary.Label, args.Len())
	for name := range args.Members() {
		m[name] = unknown
	}
	return m
}
