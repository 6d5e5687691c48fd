package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// question is a request in Cedar's words: the entities it names and the
// context, both complete, so that nothing is looked up while policy decides.
type question struct {
	act       *action
	principal cedar.EntityUID
	resource  cedar.EntityUID
	entities  entities
	context   cedar.RecordMap
}

func (q *question) cedar() cedar.Request {
	return cedar.Request{Principal: q.principal, Action: q.act.uid, Resource: q.resource, Context: cedar.NewRecord(q.context)}
}

// entities is the getter of one decision: the request's own entities over the
// immutable actions. It remembers whether anything else was asked for, since
// to Cedar an absent entity is merely in no group.
type entities struct {
	own    []cedar.Entity
	base   cedar.EntityMap
	missed bool
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(u cedar.EntityUID) (cedar.Entity, bool) {
	for i := range e.own {
		if e.own[i].UID == u {
			return e.own[i], true
		}
	}
	if x, ok := e.base[u]; ok {
		return x, true
	}
	e.missed = true
	return cedar.Entity{}, false
}

func (e *entities) add(u cedar.EntityUID, parents ...cedar.EntityUID) {
	x := cedar.Entity{UID: u}
	if len(parents) > 0 {
		x.Parents = cedar.NewEntityUIDSet(parents...)
	}
	e.own = append(e.own, x)
}

// maxRoles bounds an agent's roles: each is an entity and a key to look up.
const maxRoles = 64

// ask puts a request into Cedar's words, or says why that cannot be done.
func (w *world) ask(r *ostiary.Request) (*question, *refusal) {
	act, ok := w.actions[r.Action.Name]
	if !ok {
		return nil, refuse("unknown_action", "no such action is known to policy: "+r.Action.Name)
	}
	if ref := checkAction(act, r); ref != nil {
		return nil, ref
	}
	q := &question{act: act}
	q.entities.base = w.base
	if ref := q.who(r); ref != nil {
		return nil, ref
	}
	if ref := q.resourceOf(r); ref != nil {
		return nil, ref
	}
	q.facts(r)
	return q, q.arguments(r)
}

// checkAction compares the action with what policy was compiled for.
func checkAction(act *action, r *ostiary.Request) *refusal {
	if r.Action.Server != r.Resource.Server {
		return refuse("unvalidated_request", "the action and the resource name different servers")
	}
	if act.tool == nil {
		return nil
	}
	if act.tool.Server != r.Action.Server || act.tool.Name != r.Action.Tool {
		return refuse("unvalidated_request", "the action's name is not that of its tool")
	}
	if ostiary.Digest(act.tool.Pin) != r.Action.Pin {
		return refuse("pin_mismatch", "policy was compiled for another definition of this tool")
	}
	return nil
}

// who adds the principal, its roles, its zone and the person behind it.
func (q *question) who(r *ostiary.Request) *refusal {
	s, x := &r.Subject, &r.Context
	self := s.Via == ostiary.ViaSelf
	if s.IsZero() {
		return refuse("missing_entity", "nobody is asking")
	}
	if self != (q.act.method != nil && q.act.method.Self) {
		return refuse("no_permit", "this action is not for this kind of caller")
	}
	if x.Containment == ostiary.NotEstablished || x.Now.IsZero() {
		return refuse("missing_fact", "the containment or the time is not established")
	}
	zone, person := x.Zone, string(x.Principal)
	if self {
		q.principal = uid(typeGateway, string(s.Agent))
		q.entities.add(q.principal)
		if zone == "" {
			zone = "gateway"
		}
		if person == "" {
			person = "service:ostiary"
		}
	} else {
		q.principal = uid(typeAgent, string(s.Agent))
		if len(x.Roles) > maxRoles {
			return refuse("over_budget", "the agent has too many roles")
		}
		roles := make([]cedar.EntityUID, 0, len(x.Roles))
		for _, name := range x.Roles {
			roles = append(roles, uid(typeRole, name))
		}
		q.entities.own = make([]cedar.Entity, 0, 6+len(roles))
		q.entities.add(q.principal, roles...)
		for _, u := range roles {
			q.entities.add(u)
		}
		if zone == "" || person == "" || x.Mandate.ID == "" || x.Session.ID == "" {
			return refuse("missing_fact", "the agent's zone, principal, mandate or session is not established")
		}
	}
	zoneUID, user := uid(typeZone, zone), uid(typePerson, person)
	q.entities.add(zoneUID)
	q.entities.own = append(q.entities.own, cedar.Entity{UID: user, Attributes: cedar.NewRecord(cedar.RecordMap{"kind": cedar.String(personKind(person))})})
	q.context = make(cedar.RecordMap, 14)
	q.context["zone"], q.context["user"] = zoneUID, user
	return nil
}

func personKind(id string) string {
	k, _, ok := strings.Cut(id, ":")
	if !ok {
		return "person"
	}
	return k
}

// resourceOf adds the server and its zone. The gateway itself lies in no zone
// unless the request names one.
func (q *question) resourceOf(r *ostiary.Request) *refusal {
	name := r.Resource.Server
	if name == GatewayServer || (q.act.tool != nil && name == "") {
		return refuse("unvalidated_request", "no server has this name")
	}
	if name == "" {
		name = GatewayServer
	} else if r.Resource.Zone == "" {
		return refuse("missing_fact", "the server's zone is not established")
	}
	q.resource = uid(typeServer, name)
	e := cedar.Entity{UID: q.resource, Attributes: trustedAttrs(r.Resource.Trusted)}
	if r.Resource.Zone != "" {
		z := uid(typeZone, r.Resource.Zone)
		e.Parents = cedar.NewEntityUIDSet(z)
		if _, have := q.entities.Get(z); !have {
			q.entities.add(z)
		}
		q.entities.missed = false
	}
	q.entities.own = append(q.entities.own, e)
	return nil
}

func trustedAttrs(t bool) cedar.Record {
	return cedar.NewRecord(cedar.RecordMap{"trusted": cedar.Boolean(t)})
}

// facts fills the context, except for input and labels.
func (q *question) facts(r *ostiary.Request) {
	x, c := &r.Context, q.context
	c["taint"] = stringSet(x.Taint)
	c["satisfied"] = stringSet(x.Satisfied)
	c["findings"] = findingSet(x.Findings)
	c["mandate"] = cedar.NewRecord(cedar.RecordMap{
		"id": cedar.String(x.Mandate.ID), "purpose": cedar.String(x.Mandate.Purpose),
		"depth": cedar.Long(x.Mandate.Depth), "standing": cedar.Boolean(x.Mandate.Standing),
	})
	bound := r.Subject.Bound || r.Subject.Via == ostiary.ViaSelf
	c["session"] = cedar.NewRecord(cedar.RecordMap{"id": cedar.String(x.Session.ID), "bound": cedar.Boolean(bound)})
	risk := x.Risk
	if risk.Level == "" {
		risk = ostiary.Risk{Score: 100, Level: "unknown"} // what nobody weighed counts as the highest
	}
	c["risk"] = cedar.NewRecord(cedar.RecordMap{"score": cedar.Long(risk.Score), "level": cedar.String(risk.Level)})
	c["posture"] = cedar.NewRecord(cedar.RecordMap{
		"appraised": cedar.NewDatetime(x.Posture.Appraised), "ok": cedar.Boolean(x.Posture.OK), "method": cedar.String(x.Posture.Method),
	})
	c["containment"] = cedar.String(x.Containment.String())
	c["history"] = cedar.NewRecord(cedar.RecordMap{"reads_untrusted": cedar.Long(x.ReadsTainted)})
	c["system"] = cedar.NewRecord(cedar.RecordMap{"now": cedar.NewDatetime(x.Now)})
}

func stringSet(list []string) cedar.Set {
	if len(list) == 0 {
		return cedar.Set{}
	}
	vals := make([]cedar.Value, len(list))
	for i, s := range list {
		vals[i] = cedar.String(s)
	}
	return cedar.NewSet(vals...)
}

func findingSet(list []ostiary.Finding) cedar.Set {
	if len(list) == 0 {
		return cedar.Set{}
	}
	kinds := make([]string, 0, len(list))
	for _, f := range list {
		kinds = append(kinds, f.Kind)
	}
	slices.Sort(kinds)
	return stringSet(slices.Compact(kinds))
}

// arguments fills input and labels.
func (q *question) arguments(r *ostiary.Request) *refusal {
	if q.act.tool == nil {
		in, ref := methodInput(q.act.method, &r.Action)
		q.context["input"], q.context["labels"] = in, cedar.Record{}
		return ref
	}
	c := converter{left: maxNodes}
	in, ref := c.input(q.act.input, r.Action.Arguments)
	if ref != nil {
		return ref
	}
	labels, ref := labelSets(q.act.input, r)
	q.context["input"], q.context["labels"] = in, labels
	return ref
}

// methodInput reads the few fields of an action that is no tool call.
func methodInput(m *Method, a *ostiary.Action) (cedar.Record, *refusal) {
	if len(m.fields) == 0 {
		return cedar.Record{}, nil
	}
	out := cedar.RecordMap{}
	for _, f := range m.fields {
		s := f.fallback
		switch v := a.Arguments.Get(f.name); {
		case f.from == fromTool:
			s = a.Tool
		case f.from == fromURI:
			s = a.URI
		case v.Kind() == ostiary.String:
			s = v.Text()
		case v.Exists():
			return cedar.Record{}, refuseAt("unvalidated_request", "/"+escape(f.name), "it must be a string")
		}
		out[cedar.String(f.name)] = cedar.String(s)
	}
	return cedar.NewRecord(out), nil
}

// labelSets builds one set per declared argument: its sources, its integrity
// ("trusted", "agent", "untrusted") and "reader:<class>" for each class that
// may read it; empty if the argument is absent. An argument that is present
// and has no label is a missing fact.
func labelSets(s *shape, r *ostiary.Request) (cedar.Record, *refusal) {
	if len(s.Fields) == 0 {
		return cedar.Record{}, nil
	}
	out := make(cedar.RecordMap, len(s.Fields))
	var last *ostiary.Label
	var lastSet cedar.Value
	for _, f := range s.Fields {
		if !r.Action.Arguments.Get(f.Name).Exists() {
			out[cedar.String(f.Name)] = cedar.Set{}
			continue
		}
		l, ok := r.Context.Labels[f.Name]
		if !ok {
			return cedar.Record{}, refuse("missing_fact", "nobody says where argument /"+escape(f.Name)+" came from")
		}
		if last == nil || !sameLabel(last, &l) { // most arguments of a call share one label
			last, lastSet = &l, labelSet(&l)
		}
		out[cedar.String(f.Name)] = lastSet
	}
	return cedar.NewRecord(out), nil
}

func sameLabel(a, b *ostiary.Label) bool {
	return a.Integrity == b.Integrity && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Readers, b.Readers)
}

func labelSet(l *ostiary.Label) cedar.Set {
	vals := make([]cedar.Value, 0, 1+len(l.Sources)+len(l.Readers))
	integrity := "untrusted"
	switch l.Integrity {
	case ostiary.Trusted:
		integrity = "trusted"
	case ostiary.FromAgent:
		integrity = "agent"
	}
	vals = append(vals, cedar.String(integrity))
	for _, s := range l.Sources {
		vals = append(vals, cedar.String(s))
	}
	for _, s := range l.Readers {
		vals = append(vals, cedar.String("reader:"+s))
	}
	return cedar.NewSet(vals...)
}
