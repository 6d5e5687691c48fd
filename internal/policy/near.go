package policy

import (
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

const (
	// maxNear is how many permits that nearly held a denial names: who asks why
	// is helped by the first few.
	maxNear = 5
	// maxTried bounds the parts of conditions evaluated for one denial, since
	// an agent can ask to be denied as often as it likes.
	maxTried = 64
)

// near returns the permits among the candidates of a default denial, each
// with the first part of its conditions that does not hold. The denial stands
// by then: what fails here leaves something out, and nothing more.
func (s *Set) near(q *question, creq cedar.Request, sel *selection) (out []ostiary.NearMiss) {
	defer func() {
		if recover() != nil {
			out = nil
		}
	}()
	tried := 0
	for _, i := range sel.at {
		c := &sel.index.policies[i]
		if !c.rule.permit {
			continue
		}
		for _, part := range c.parts() {
			if tried++; tried > maxTried {
				return out
			}
			if s.holds(part, q, creq) {
				continue
			}
			out = append(out, ostiary.NearMiss{Policy: string(c.id), Where: c.meta.where, Failed: part.text})
			break
		}
		if len(out) == maxNear {
			break
		}
	}
	return out
}

// lone is one policy by itself.
type lone struct{ policy *cedar.Policy }

func (l lone) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) { yield("part", l.policy) }
}

// holds evaluates one part of a condition. It decides nothing.
func (s *Set) holds(part conjunct, q *question, creq cedar.Request) bool {
	dec, diag := cedar.Authorize(lone{part.policy}, &q.entities, creq)
	return dec == cedar.Allow && len(diag.Errors) == 0
}

// outOfScope returns the permits that cover the action but not this agent or
// this server, each with the part of its scope that does not match, and how
// many more there are. The request need not be complete: who, in which roles,
// on what server in what zone is enough.
func (s *Set) outOfScope(act *action, r *ostiary.Request) (out []ostiary.NearMiss, more int) {
	typ := typeAgent
	if r.Subject.Via == ostiary.ViaSelf {
		typ = typeGateway
	}
	server := r.Resource.Server
	if server == "" {
		server = GatewayServer
	}
	var roles []cedar.EntityUID
	for _, name := range r.Context.Roles {
		roles = append(roles, uid(typeRole, name))
	}
	for i := range s.authorize.policies {
		p := &s.authorize.policies[i]
		if !p.rule.permit || p.meta.where == "" || strings.HasPrefix(string(p.id), "ostiary-") || !s.world.covers(p.rule.action, act) {
			continue
		}
		failed := ""
		switch {
		case !p.rule.principal.matches(uid(typ, string(r.Subject.Agent)), roles):
			failed = p.rule.principal.text("principal")
		case !p.rule.resource.matches(uid(typeServer, server), []cedar.EntityUID{uid(typeZone, r.Resource.Zone)}):
			failed = p.rule.resource.text("resource")
		default:
			continue
		}
		if len(out) == maxNear {
			more++
			continue
		}
		out = append(out, ostiary.NearMiss{Policy: string(p.id), Where: p.meta.where, Failed: failed})
	}
	return out, more
}

// matches reports whether a scope covers an entity that lies in these others
// and in nothing else.
func (s scope) matches(u cedar.EntityUID, in []cedar.EntityUID) bool {
	if s.kind == scopeAny {
		return true
	}
	typed := s.kind != scopeIs && s.kind != scopeIsIn || s.typ == u.Type
	if s.kind == scopeIs {
		return typed
	}
	return typed && slices.ContainsFunc(s.entities, func(e cedar.EntityUID) bool {
		return e == u || s.kind != scopeEq && slices.Contains(in, e)
	})
}

// text writes a part of a scope in Cedar.
func (s scope) text(name string) string {
	switch s.kind {
	case scopeAny:
		return name
	case scopeIs:
		return name + " is " + string(s.typ)
	case scopeIsIn:
		return name + " is " + string(s.typ) + " in " + string(s.entities[0].MarshalCedar())
	case scopeEq:
		return name + " == " + string(s.entities[0].MarshalCedar())
	}
	return name + " in " + string(s.entities[0].MarshalCedar())
}
