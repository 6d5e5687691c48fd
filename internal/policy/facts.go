package policy

import (
	"slices"

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

	// What one decision needs for a moment, kept for the next: cedar's records
	// are copies of the maps they are made from, with all the room these have.
	scratch, small cedar.RecordMap
	chosen         [3]selection // from authorize, obligate and shadow
}

const (
	// contextRoom is how many attributes a context has.
	contextRoom = 17
	// smallRoom is how many a map may have that is copied most cheaply.
	smallRoom = 8
)

func newQuestion() question {
	return question{context: make(cedar.RecordMap, contextRoom), scratch: make(cedar.RecordMap, contextRoom), small: make(cedar.RecordMap, smallRoom)}
}

// question returns one to fill in, used before if possible: it is large, and
// nothing keeps it beyond its decision.
func (w *world) question(act *action) *question {
	q, ok := w.pool.Get().(*question)
	if !ok {
		fresh := newQuestion()
		q = &fresh
	}
	q.act = act
	return q
}

// release gives a question back, emptied.
func (w *world) release(q *question) {
	clear(q.context)
	clear(q.scratch)
	clear(q.small)
	clear(q.entities.own)
	*q = question{context: q.context, scratch: q.scratch, small: q.small, entities: entities{own: q.entities.own[:0]}, chosen: q.chosen}
	w.pool.Put(q)
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

// maxRoles bounds an agent's roles: each is an entity and a key to look up.
const maxRoles = 64

// ask puts a request into Cedar's words, or says why that cannot be done.
func (w *world) ask(r *ostiary.Request) (*question, *refusal) {
	act, ok := w.actions[r.Action.Name]
	if !ok {
		return nil, refuse(CodeUnknownAction, "no such action is known to policy: "+r.Action.Name)
	}
	if ref := checkAction(act, r); ref != nil {
		return nil, ref
	}
	q := w.question(act)
	if ref := w.who(q, r); ref != nil {
		return nil, ref
	}
	if ref := w.resourceOf(q, r); ref != nil {
		return nil, ref
	}
	w.facts(q, r)
	return q, w.arguments(q, r)
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
func (w *world) who(q *question, r *ostiary.Request) *refusal {
	s, x := &r.Subject, &r.Context
	self := s.Via == ostiary.ViaSelf
	switch {
	case s.IsZero():
		return refuse(CodeMissingEntity, "nobody is asking")
	case self != (q.act.method != nil && q.act.method.Self):
		return refuse(CodeNoPermit, "this action is not for this kind of caller")
	case x.Containment == ostiary.NotEstablished || x.Now.IsZero():
		return refuse(CodeMissingFact, "the containment or the time is not established")
	case !self && (x.Zone == "" || x.Principal == "" || x.Mandate.ID == "" || x.Session.ID == ""):
		return refuse(CodeMissingFact, "the agent's zone, principal, mandate or session is not established")
	case len(x.Roles) > maxRoles:
		return refuse(CodeOverBudget, "the agent has too many roles")
	}
	c := w.callers.get(r, q.small, q.scratch)
	q.principal = c.principal
	q.entities = entities{base: w.base, own: append(q.entities.own[:0], c.entities...)}
	m := q.context
	m["zone"], m["user"] = c.zone, c.user
	m["mandate"], m["session"], m["risk"], m["posture"] = c.mandate.record, c.session, c.risk, c.posture
	m["containment"], m["taint"] = c.containment, c.tainted
	m["history"] = w.histories.get(x.ReadsTainted, x.ReadsTainted, q.small, fillHistory)
	return nil
}

// resourceOf adds the server and its zone. The gateway itself lies in no zone
// unless the request names one.
func (w *world) resourceOf(q *question, r *ostiary.Request) *refusal {
	res := r.Resource
	if res.Server == GatewayServer || (q.act.tool != nil && res.Server == "") {
		return refuse(CodeUnvalidated, "no server has this name")
	}
	if res.Server != "" && res.Zone == "" {
		return refuse(CodeMissingFact, "the server's zone is not established")
	}
	if res.Server == "" {
		res.Server = GatewayServer
	}
	q.resource = w.servers.add(&q.entities, res)
	return nil
}

// facts fills what is left of the context, except for input and labels.
func (w *world) facts(q *question, r *ostiary.Request) {
	x, m := &r.Context, q.context
	m["tool"] = w.registeredTool(q.act, r.Action.Registered)
	m["satisfied"] = stringSet(x.Satisfied)
	m["findings"] = findingSet(x.Findings)
	m["chosen"] = w.choices.get(x.Provenance.Chosen)
	m["task"] = taskFacts[x.Provenance.Given][x.Provenance.Asked]
	now := x.Now.UnixMilli()
	m["system"] = w.moments.get(now, now, q.small, fillSystem)
}

// taskFacts are the four things that may be known of a task.
var taskFacts = func() map[bool]map[bool]cedar.Value {
	all := map[bool]map[bool]cedar.Value{}
	for _, given := range []bool{false, true} {
		all[given] = map[bool]cedar.Value{}
		for _, asked := range []bool{false, true} {
			all[given][asked] = cedar.NewRecord(cedar.RecordMap{"given": cedar.Boolean(given), "asked": cedar.Boolean(asked)})
		}
	}
	return all
}()

func stringSet(list []string) cedar.Value {
	if len(list) == 0 {
		return cedar.Set{}
	}
	return texts(list)
}

func findingSet(list []ostiary.Finding) cedar.Value {
	kinds := make([]string, 0, len(list))
	for _, f := range list {
		kinds = append(kinds, f.Kind)
	}
	slices.Sort(kinds)
	return stringSet(slices.Compact(kinds))
}

// arguments fills input and labels.
func (w *world) arguments(q *question, r *ostiary.Request) *refusal {
	if q.act.tool == nil {
		in, ref := methodInput(q.act.method, &r.Action)
		q.context["input"], q.context["labels"] = in, w.emptyRecord
		return ref
	}
	c := converter{left: maxNodes}
	if len(q.act.input.Fields) <= smallRoom {
		c.top = q.small
	}
	in, ref := c.input(q.act.input, r.Action.Arguments)
	if ref != nil {
		return ref
	}
	q.context["input"] = in
	q.context["labels"], ref = w.labels(q.act, r)
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

// labels builds one set per declared argument: its sources, its integrity
// ("trusted", "agent", "untrusted") and "reader:<class>" for each class that
// may read it; empty if the argument is absent. An argument that is present
// and has no label is a missing fact.
func (w *world) labels(act *action, r *ostiary.Request) (cedar.Value, *refusal) {
	fields := act.input.Fields
	if len(fields) == 0 {
		return w.emptyRecord, nil
	}
	var present [maxFields]bool
	var one ostiary.Label // the label all of them share
	seen, shared := false, true
	for i := range fields {
		name := fields[i].Name
		if !r.Action.Arguments.Get(name).Exists() {
			continue
		}
		l, ok := r.Context.Labels[name]
		if !ok {
			return nil, refuse(CodeMissingFact, "nobody says where argument /"+escape(name)+" came from")
		}
		if present[i] = true; !seen {
			one, seen = l, true
		}
		shared = shared && sameLabel(one, l)
	}
	if shared && seen {
		return w.sharedLabels(act, present[:len(fields)], one), nil
	}
	out := make(cedar.RecordMap, len(fields))
	for i := range fields {
		out[cedar.String(fields[i].Name)] = w.emptySet
		if present[i] {
			out[cedar.String(fields[i].Name)] = labelSet(r.Context.Labels[fields[i].Name])
		}
	}
	return cedar.NewRecord(out), nil
}

func sameLabel(a, b ostiary.Label) bool {
	return a.Integrity == b.Integrity && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Readers, b.Readers)
}

func labelSet(l ostiary.Label) cedar.Set {
	vals := make([]cedar.Value, 0, 1+len(l.Sources)+len(l.Readers))
	integrity := "untrusted"
	switch l.Integrity {
	case ostiary.Trusted:
		integrity = "trusted"
	case ostiary.FromAgent:
		integrity = "agent"
	case ostiary.Delegated:
		integrity = "delegated"
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
