package daemon

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
)

// agentFacts answers the gate's questions about agents from the authority.
type agentFacts struct {
	authority *identity.Authority
	clock     func() time.Time
}

func (r agentFacts) AgentFacts(s *ostiary.Subject) (gate.AgentFacts, error) {
	if s.Via == ostiary.ViaSelf {
		return r.self(s)
	}
	rec, ok := r.authority.Agent(s.Agent)
	if !ok {
		return gate.AgentFacts{}, ostiary.Errorf(ostiary.Denied, "unknown_agent", "the agent is no longer enrolled")
	}
	m, ok := r.authority.Mandate(s.Mandate)
	if !ok {
		return gate.AgentFacts{}, ostiary.Errorf(ostiary.Denied, "no_mandate", "the agent's mandate has ended")
	}
	return gate.AgentFacts{Zone: rec.Zone, Roles: rec.Roles, Posture: r.authority.Posture(s.Agent), Mandate: m}, nil
}

// self is what holds for the gateway's own calls: they may read what servers
// offer and nothing else.
func (r agentFacts) self(s *ostiary.Subject) (gate.AgentFacts, error) {
	now := r.clock()
	return gate.AgentFacts{
		Zone: "default", Posture: ostiary.Posture{OK: true, Method: "self", Appraised: now},
		Mandate: ostiary.Mandate{
			ID: identity.GatewayMandate, Kind: ostiary.StandingMandate, Principal: s.Principal, Agent: s.Agent, Purpose: "read what servers offer",
			Actions: []string{policy.ActionDiscoverServer}, Resources: []string{"*"}, NotBefore: now, Expires: now.Add(time.Minute),
		},
	}, nil
}

// visibility filters lists, by policy and by the mandate: an aggregated list holds tools of several servers,
// each in its own zone.
type visibility struct {
	engine   *policy.Engine
	live     *live
	entities *entities
}

func (v visibility) Visible(r *ostiary.Request, tools []*ostiary.Tool) []bool {
	servers := v.entities.servers(v.live.facts.Load().Servers)
	out := v.engine.VisibleOn(r, tools, servers)
	for i, t := range tools {
		out[i] = out[i] && v.covered(&r.Context.Mandate, t) && v.entities.usable(t, servers[t.Server])
	}
	return out
}

// covered reports whether the mandate names what uses a definition.
func (v visibility) covered(m *ostiary.Mandate, t *ostiary.Tool) bool {
	name := policy.ActionOf(t)
	return m.CoversResource(&ostiary.Resource{Server: t.Server}) && m.CoversAction(&ostiary.Action{Name: name, Groups: v.engine.Groups(name)})
}

// sessionFacts adapts the sessions to the gate's words.
type sessionFacts struct {
	sessions  *provenance.Sessions
	authority *identity.Authority
}

func (f sessionFacts) Session(ctx context.Context, s *ostiary.Subject, id ostiary.MandateID) (gate.SessionFacts, error) {
	o := provenance.Owner{Agent: s.Agent, Principal: s.Principal, Mandate: id, Root: id}
	if s.Via != ostiary.ViaSelf {
		m, ok := f.authority.Mandate(id)
		if !ok {
			return gate.SessionFacts{}, ostiary.Errorf(ostiary.Denied, "no_mandate", "the agent's mandate has ended")
		}
		o.Root = m.Links[0]
	}
	st, err := f.sessions.Open(ctx, o)
	return gate.SessionFacts{Session: st.Session, Taint: st.Taint, Classes: st.Classes, Reads: st.Reads}, err
}

// tainter names what entered a session after the server it came from.
type tainter struct{ sessions *provenance.Sessions }

func (t tainter) Taint(id ostiary.SessionID, r ostiary.Resource) error {
	return t.sessions.Taint(id, "server:"+r.Server)
}
