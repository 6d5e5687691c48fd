package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Test asks a Set the questions in the folder's tests/*.json, and returns how
// many there were. Each file is a list of {name, request, decision, ...} in the
// form of Cedar's own command line, with our facts beside it; see
// docs/reference/policy.md. An answer that was not expected is a Problem, and
// so is a file that cannot be read: never a success.
func Test(src Source, set *Set) (asked int, problems []Problem) {
	for _, name := range slices.Sorted(maps.Keys(src.Files)) {
		if !strings.HasPrefix(name, dirTests) {
			continue
		}
		doc, err := strictjson.Parse(slices.Clone(src.Files[name]), strictjson.Schema)
		if err != nil || doc.Root().Kind() != ostiary.Array {
			msg := "this is not a list of tests"
			if err != nil {
				msg = err.Error()
			}
			problems = append(problems, Problem{File: name, Code: "test", Message: msg})
			continue
		}
		for i, v := range doc.Root().Elements() {
			e := expectation{set: set}
			e.read(v)
			if e.err != "" {
				problems = append(problems, Problem{File: name, Code: "test", Message: fmt.Sprintf("test %d: %s", i+1, e.err)})
				continue
			}
			asked++
			if want, got := e.run(); want != got {
				problems = append(problems, Problem{File: name, Code: "test", Message: fmt.Sprintf("%q: expected %s; it is %s", e.name, want, got)})
			}
		}
	}
	return asked, problems
}

// expectation is one test: a complete request of a typical agent, with the
// facts the test gives in place of the typical ones.
type expectation struct {
	set  *Set
	name string
	req  ostiary.Request
	want []string // "decision allow", "reason a b", ... as given
	err  string
}

func (e *expectation) fail(format string, args ...any) {
	if e.err == "" {
		e.err = fmt.Sprintf(format, args...)
	}
}

// object calls a reader for each member; a member without one is a mistake.
func (e *expectation) object(at string, v ostiary.Value, readers map[string]func(ostiary.Value)) {
	if v.Kind() != ostiary.Object {
		e.fail("%s must be an object", at)
		return
	}
	for name, val := range v.Members() {
		read, ok := readers[name]
		if !ok {
			e.fail("%s has no %q; %s", at, name, didYouMean(nearest(name, slices.Sorted(maps.Keys(readers)))))
			return
		}
		read(val)
	}
}

func (e *expectation) text(at string, dst *string) func(ostiary.Value) {
	return func(v ostiary.Value) {
		if *dst = v.Text(); v.Kind() != ostiary.String {
			e.fail("%s must be a string", at)
		}
	}
}

func (e *expectation) texts(at string, dst *[]string) func(ostiary.Value) {
	return func(v ostiary.Value) {
		if v.Kind() != ostiary.Array {
			e.fail("%s must be a list", at)
		}
		*dst = []string{}
		for _, x := range v.Elements() {
			if x.Kind() != ostiary.String {
				e.fail("%s must be a list of strings", at)
			}
			*dst = append(*dst, x.Text())
		}
	}
}

func (e *expectation) number(at string, dst *int64) func(ostiary.Value) {
	return func(v ostiary.Value) {
		n, ok := v.Int()
		if *dst = n; !ok {
			e.fail("%s must be a whole number", at)
		}
	}
}

func (e *expectation) flag(at string, dst *bool) func(ostiary.Value) {
	return func(v ostiary.Value) {
		if *dst = v.Kind() == ostiary.True; !*dst && v.Kind() != ostiary.False {
			e.fail("%s must be true or false", at)
		}
	}
}

// entity reads Ostiary::Type::"id" into its id.
func (e *expectation) entity(typ string, dst *string) func(ostiary.Value) {
	return func(v ostiary.Value) {
		var u cedar.EntityUID
		if err := u.UnmarshalCedar([]byte(v.Text())); err != nil || u.Type != qualified(typ) {
			e.fail("it must be written %s::%s::\"...\", not %q", Namespace, typ, v.Text())
		}
		*dst = string(u.ID)
	}
}

func (e *expectation) read(v ostiary.Value) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	e.req = ostiary.Request{
		Subject: ostiary.Subject{Agent: "spiffe://test/agent", Via: ostiary.ViaSVID, Bound: true},
		Context: ostiary.Context{
			Now: now, Principal: "person:test", Zone: "default",
			Mandate:     ostiary.Mandate{ID: "test", Kind: ostiary.StandingMandate, Classes: []string{"*"}, By: "organisation:self"},
			Session:     ostiary.Session{ID: "test", Started: now},
			Posture:     ostiary.Posture{OK: true, Method: "join_token", Appraised: now},
			Risk:        ostiary.Risk{Level: "low"},
			Containment: ostiary.None, Labels: map[string]ostiary.Label{},
		},
	}
	e.req.Resource.Zone = "default"
	decision, code := "", ""
	var reason, remedies, obligations []string
	e.object("a test", v, map[string]func(ostiary.Value){
		"name": e.text("name", &e.name), "request": e.request, "decision": e.text("decision", &decision), "code": e.text("code", &code),
		"reason": e.texts("reason", &reason), "remedies": e.texts("remedies", &remedies), "obligations": e.texts("obligations", &obligations),
	})
	if !slices.Contains([]string{"allow", "deny", "requestable"}, decision) {
		e.fail("decision must be allow, deny or requestable")
	}
	e.want = append(e.want, "decision "+decision)
	if code != "" {
		e.want = append(e.want, "code "+code)
	}
	for _, l := range []struct {
		word string
		list []string
	}{{"reason", reason}, {"remedies", remedies}, {"obligations", obligations}} {
		if l.list != nil {
			slices.Sort(l.list)
			e.want = append(e.want, l.word+" "+strings.Join(l.list, " "))
		}
	}
}

func (e *expectation) request(v ostiary.Value) {
	var agent, act, server string
	r := &e.req
	e.object("request", v, map[string]func(ostiary.Value){
		"principal": e.entity(typeAgent, &agent), "action": e.entity("Action", &act), "resource": e.entity(typeServer, &server),
		"roles": e.texts("roles", &r.Context.Roles), "trusted": e.flag("trusted", &r.Resource.Trusted), "zone": e.text("zone", &r.Resource.Zone),
		"uri": e.text("uri", &r.Action.URI), "name": e.text("name", &r.Action.Tool), "context": e.context,
		"registered": func(v ostiary.Value) {
			e.object("registered", v, map[string]func(ostiary.Value){
				"agent": e.registered("agent", &r.Context.Registered), "server": e.registered("server", &r.Resource.Registered), "tool": e.registered("tool", &r.Action.Registered),
			})
		},
	})
	if agent != "" {
		r.Subject.Agent = ostiary.AgentID(agent)
	}
	r.Subject.Principal = r.Context.Principal
	if server == GatewayServer {
		server = ""
	}
	r.Action.Name, r.Action.Server, r.Resource.Server = act, server, server
	if a := e.set.world.actions[act]; a != nil && a.tool != nil {
		r.Action.Method, r.Action.Tool, r.Action.Pin = "tools/call", a.tool.Name, ostiary.Digest(a.tool.Pin)
	}
	for name := range r.Action.Arguments.Members() {
		if _, ok := r.Context.Labels[name]; !ok {
			r.Context.Labels[name] = ostiary.Label{Sources: []string{"unknown"}}
		}
	}
}

func (e *expectation) context(v ostiary.Value) {
	x := &e.req.Context
	var mandate, kind, giver, by, session, principal, containment, now string
	var links int64
	standing := x.Mandate.Kind == ostiary.StandingMandate
	sub := func(at string, readers map[string]func(ostiary.Value)) func(ostiary.Value) {
		return func(v ostiary.Value) { e.object(at, v, readers) }
	}
	e.object("context", v, map[string]func(ostiary.Value){
		"input":  func(v ostiary.Value) { e.req.Action.Arguments = v },
		"labels": e.labels,
		"taint":  e.texts("taint", &x.Taint), "chosen": e.texts("chosen", &x.Provenance.Chosen), "satisfied": e.texts("satisfied", &x.Satisfied),
		"user": e.entity(typePerson, &principal), "zone": e.entity(typeZone, &x.Zone),
		"mandate": sub("mandate", map[string]func(ostiary.Value){
			"id": e.text("id", &mandate), "purpose": e.text("purpose", &x.Mandate.Purpose),
			"depth": e.number("depth", &x.Mandate.Depth), "standing": e.flag("standing", &standing), "kind": e.text("kind", &kind), "classes": e.texts("classes", &x.Mandate.Classes),
			"principal": e.text("principal", &giver), "by": e.text("by", &by), "links": e.number("links", &links)}),
		"task": sub("task", map[string]func(ostiary.Value){"given": e.flag("given", &x.Provenance.Given), "asked": e.flag("asked", &x.Provenance.Asked)}),
		"session": sub("session", map[string]func(ostiary.Value){
			"id": e.text("id", &session), "bound": e.flag("bound", &e.req.Subject.Bound), "classes": e.texts("classes", &x.Classes),
			"tainted": func(v ostiary.Value) { // a word of its own for a taint that is not empty
				if v.Kind() == ostiary.True && len(x.Taint) == 0 {
					x.Taint = []string{"server:untrusted"}
				}
			}}),
		"risk":        sub("risk", map[string]func(ostiary.Value){"score": e.number("score", &x.Risk.Score), "level": e.text("level", &x.Risk.Level)}),
		"posture":     sub("posture", map[string]func(ostiary.Value){"ok": e.flag("ok", &x.Posture.OK), "method": e.text("method", &x.Posture.Method)}),
		"history":     sub("history", map[string]func(ostiary.Value){"reads_untrusted": e.number("reads_untrusted", &x.ReadsTainted)}),
		"system":      sub("system", map[string]func(ostiary.Value){"now": e.text("now", &now)}),
		"containment": e.text("containment", &containment),
	})
	if mandate != "" {
		x.Mandate.ID = ostiary.MandateID(mandate)
	}
	if session != "" {
		x.Session.ID = ostiary.SessionID(session)
	}
	if principal != "" {
		x.Principal = ostiary.PrincipalID(principal)
	}
	e.mandate(kind, standing, giver, by, links)
	if now != "" {
		var err error
		if x.Now, err = time.Parse(time.RFC3339, now); err != nil {
			e.fail("now must be a time like 2026-01-31T12:00:00Z")
		}
	}
	if containment != "" {
		for x.Containment = ostiary.None; x.Containment.String() != containment; x.Containment++ {
			if x.Containment == ostiary.Suspended {
				e.fail("containment %q is no level", containment)
				return
			}
		}
	}
}

// mandate fills in what policy sees of the mandate, which a test may say in one
// of two ways: its kind, or whether it is a standing one.
func (e *expectation) mandate(kind string, standing bool, giver, by string, links int64) {
	m := &e.req.Context.Mandate
	switch {
	case kind != "":
		var err error
		if m.Kind, err = ostiary.ParseMandateKind(kind); err != nil {
			e.fail("mandate.kind must be standing, task, grant or break_glass")
		}
	case !standing:
		m.Kind = ostiary.TaskMandate
	}
	if by != "" {
		m.By = ostiary.PrincipalID(by)
	}
	if m.Principal = e.req.Context.Principal; giver != "" {
		m.Principal = ostiary.PrincipalID(giver)
	}
	if links < 0 || links > ostiary.MaxChain {
		e.fail("mandate.links must be 1 to %d", ostiary.MaxChain)
		return
	}
	m.Links = make([]ostiary.MandateID, links)
}

// labels reads sets of words as policy sees them back into labels.
func (e *expectation) labels(v ostiary.Value) {
	for name, set := range v.Members() {
		var words []string
		e.texts("labels."+name, &words)(set)
		var l ostiary.Label
		for _, w := range words {
			switch reader, isReader := strings.CutPrefix(w, "reader:"); {
			case w == "untrusted":
			case w == "agent":
				l.Integrity = ostiary.FromAgent
			case w == "trusted":
				l.Integrity = ostiary.Trusted
			case w == "delegated":
				l.Integrity = ostiary.Delegated
			case isReader:
				l.Readers = append(l.Readers, reader)
			default:
				l.Sources = append(l.Sources, w)
			}
		}
		e.req.Context.Labels[name] = l
	}
}

// run decides, and returns what the test expects and what it is, as far as the
// test says something about it.
func (e *expectation) run() (want, got string) {
	d := e.set.decide(&e.req, true)
	decision := "deny"
	if d.Permit {
		decision = "allow"
	} else if d.Requestable() {
		decision = "requestable"
	}
	lists := map[string][]string{"reason": {}, "remedies": {}, "obligations": {}}
	for _, r := range d.Reasons {
		if !strings.HasPrefix(r.Policy, "ostiary-") {
			lists["reason"] = append(lists["reason"], r.Policy)
		}
	}
	for _, r := range d.Remedies {
		lists["remedies"] = append(lists["remedies"], r.Fact)
	}
	for _, o := range d.Obligations {
		lists["obligations"] = append(lists["obligations"], o.Type)
	}
	var answer []string
	for _, w := range e.want {
		switch word, _, _ := strings.Cut(w, " "); word {
		case "decision":
			answer = append(answer, "decision "+decision)
		case "code":
			answer = append(answer, "code "+d.Code)
		default:
			slices.Sort(lists[word])
			answer = append(answer, word+" "+strings.Join(lists[word], " "))
		}
	}
	want, got = strings.Join(e.want, ", "), strings.Join(answer, ", ")
	if want != got && len(d.Reasons) > 0 && d.Reasons[0].Text != "" {
		got += " (" + d.Reasons[0].Text + ")"
	}
	return want, got
}
