package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// Visible says for each tool whether some call of it might be permitted to
// the caller in r, which is the request of the list itself. It decides
// nothing: a tool it shows may still be refused, and a tool it hides would
// be. Arguments are unknown, so conditions on them count as fulfilled in a
// permit and as not in a forbid; everything else known about the caller
// counts as it is. Servers other than r's own have zones Visible does not
// know: use [Engine.VisibleOn] where they are known.
func (e *Engine) Visible(r *ostiary.Request, tools []*ostiary.Tool) []bool {
	return e.VisibleOn(r, tools, nil)
}

// VisibleOn is Visible with the resources of the tools' servers by name.
func (e *Engine) VisibleOn(r *ostiary.Request, tools []*ostiary.Tool, servers map[string]ostiary.Resource) (out []bool) {
	out = make([]bool, len(tools))
	s := e.active.Load()
	if s == nil || r == nil {
		return out
	}
	defer func() {
		if recover() != nil {
			out = make([]bool, len(tools)) // a fault shows nothing
		}
	}()
	v := viewer{set: s.set, req: r, servers: servers}
	if !v.prepare() {
		return out
	}
	for i, t := range tools {
		out[i] = t != nil && v.tool(t)
	}
	return out
}

// Groups returns the groups an action is in, direct and indirect, by the active
// snapshot: none of an action it does not know. The caller must not change
// them.
func (e *Engine) Groups(name string) []string {
	if s := e.active.Load(); s != nil {
		if a, ok := s.set.world.actions[name]; ok {
			return a.groups
		}
	}
	return nil
}

// IsGroup reports whether the active snapshot has an action group of this name,
// its operator's or one of ours.
func (e *Engine) IsGroup(name string) bool {
	if _, ours := groupParents()[name]; ours {
		return true
	}
	s := e.active.Load()
	return s != nil && slices.ContainsFunc(s.set.world.groups, func(g groupDecl) bool { return g.Name == name })
}

// viewer answers for many tools about one caller.
type viewer struct {
	set     *Set
	req     *ostiary.Request
	servers map[string]ostiary.Resource
	q       question // the caller, without action, resource or arguments
	context cedar.Record
	mine    int // entities that belong to the caller
}

func (v *viewer) prepare() bool {
	if v.req.Subject.Via == ostiary.ViaSelf {
		return false
	}
	w := v.set.world
	v.q = newQuestion()
	v.q.act = &action{}
	if w.who(&v.q, v.req) != nil {
		return false
	}
	w.facts(&v.q, v.req)
	v.q.context["input"], v.q.context["labels"], v.q.context["tool"] = w.emptyRecord, w.emptyRecord, w.emptyRecord // not known of all tools at once
	v.context = cedar.NewRecord(v.q.context)
	v.mine = len(v.q.entities.own)
	return true
}

// ActionOf is the action that uses what a definition defines: a tool has one of
// its own, prompts and resources share theirs.
func ActionOf(t *ostiary.Tool) string {
	switch t.Kind {
	case "tool":
		return t.Action()
	case "prompt":
		return ActionGetPrompt
	case "resource", "template":
		return ActionReadResource
	}
	return "" // no action has this name, so it is not shown
}

func (v *viewer) tool(t *ostiary.Tool) bool {
	act, ok := v.set.world.actions[ActionOf(t)]
	if !ok || t.Kind == "tool" && (act.tool == nil || ostiary.Digest(act.tool.Pin) != t.Pin) {
		return false
	}
	res, known := v.servers[t.Server]
	if !known && v.req.Resource.Server == t.Server {
		res, known = v.req.Resource, true
	}
	known = known && res.Zone != ""
	res.Server = t.Server
	q := &v.q
	q.act = act
	q.entities.own = q.entities.own[:v.mine]
	q.entities.missed = false
	q.resource = v.set.world.servers.add(&q.entities, res)
	return v.possible(known)
}

// possible weighs the policies whose scope may match.
func (v *viewer) possible(resourceKnown bool) bool {
	q, x := &v.q, v.set.authorize
	req := cedar.Request{Principal: q.principal, Action: q.act.uid, Resource: q.resource, Context: v.context}
	permitted := false
	for _, i := range v.candidates(resourceKnown) {
		p := &x.policies[i]
		if otherServer(p.rule.resource, q.resource) {
			continue
		}
		exact := p.meta.argsFree && (resourceKnown || p.meta.resFree && p.rule.resource.kind == scopeAny)
		holds := true
		if exact {
			_, diag := cedar.Authorize(&selection{x, []int32{i}}, &q.entities, req)
			if len(diag.Errors) > 0 || q.entities.missed {
				return false // such a call would be refused
			}
			holds = len(diag.Reasons) > 0
		}
		switch {
		case p.rule.permit:
			permitted = permitted || holds
		case exact && holds && p.meta.remedy == "":
			return false
		}
	}
	return permitted
}

// otherServer reports whether a scope names a server that is not this one.
func otherServer(s scope, server cedar.EntityUID) bool {
	return len(s.entities) == 1 && s.entities[0].Type == server.Type && s.entities[0] != server
}

// candidates are the policies for this action; with the resource's zone
// unknown, all that match the rest.
func (v *viewer) candidates(resourceKnown bool) []int32 {
	q, x := &v.q, v.set.authorize
	if resourceKnown {
		return x.candidates(&q.entities, q.principal, q.act.uid, q.resource).at
	}
	return x.anyResource(&q.entities, q.principal, q.act.uid)
}
