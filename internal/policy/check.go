package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// check examines one parsed policy. Cedar's validator gives no positions and
// accepts a has-guard on an attribute that does not exist, which would switch
// a forbid off without a word; so our own checks come first, and its verdict
// is asked for only when they find nothing.
type check struct {
	place
	seg    *segment
	set    ruleset
	id     string
	policy *cedar.Policy
	rule   *rule
	world  *world
	meta   meta

	actions  []*action         // the scope covers
	awaiting []cedar.EntityUID // named by the scope, of servers nothing is accepted of
	all      bool              // the scope leaves the action open
	bad      bool              // something of ours was an error
}

func (k *check) report(sev Severity, at int, code, suggestion, format string, args ...any) {
	k.bad = k.bad || sev == Error
	k.place.report(sev, at, code, suggestion, format, args...)
}

func (k *check) run() {
	k.annotations()
	k.scopes()
	if k.bad || k.dormant() {
		return
	}
	k.meta.argsFree, k.meta.resFree = true, true
	for i := range k.rule.conditions {
		c := &k.rule.conditions[i]
		if c.body.op == opLit {
			k.report(Warning, k.seg.start, "constant", "", "a condition of %s is always the same", k.id)
		}
		k.walk(c.body, !c.when)
		k.reads(c.body)
	}
	k.outcome()
	if !k.bad {
		k.validate()
	}
}

// annotationAt is where @name stands.
func (k *check) annotationAt(name string) int {
	for i := 1; i < len(k.seg.tokens); i++ {
		if k.seg.tokens[i-1].text == "@" && k.seg.tokens[i].text == name {
			return k.seg.tokens[i-1].at
		}
	}
	return k.seg.start
}

// at finds a path in the policy's text, its beginning otherwise.
func (k *check) at(path ...string) int {
	if at, ok := k.seg.find(path); ok {
		return at
	}
	return k.seg.start
}

var annotationNames = []string{"id", "reason", "remedy", "obligation", "properties"}

// factPattern is the form of a fact a remedy names: "approval:finance".
var factPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*(:[A-Za-z0-9._-]+)*$`)

// maxReason bounds what a reason says to an agent.
const maxReason = 500

func (k *check) annotations() {
	for name, val := range k.policy.Annotations() {
		switch n := string(name); {
		case n == "expires":
			k.report(Error, k.annotationAt(n), "annotation", `write when { context.system.now < datetime("2027-01-01") }`, "@expires is not enforced; an annotation never changes what a policy means")
		case !slices.Contains(annotationNames, n):
			k.report(Warning, k.annotationAt(n), "annotation", didYouMean(nearest(n, annotationNames)), "@%s means nothing here", n)
		case n == "reason" && len(val) > maxReason:
			k.report(Error, k.annotationAt(n), "annotation", "", "@reason is longer than %d bytes", maxReason)
		}
	}
	a := k.policy.Annotations()
	k.meta.reason, k.meta.remedy = string(a["reason"]), string(a["remedy"])
	k.meta.obligation, k.meta.properties = string(a["obligation"]), string(a["properties"])
}

func (k *check) scopes() {
	k.scopeTypes("principal", k.rule.principal, typeAgent, typeGateway, typeRole)
	k.scopeTypes("resource", k.rule.resource, typeServer, typeZone)
	var unknown []cedar.EntityUID
	k.actions, k.all, unknown = k.world.covered(k.rule.action)
	for _, u := range unknown {
		if !k.awaited(u) {
			k.unknownAction(u)
			continue
		}
		k.awaiting = append(k.awaiting, u)
		suggestion := "see ostiary tools list"
		if n := nearest(string(u.ID), k.world.names()); n != "" {
			suggestion = didYouMean(n)
		}
		k.report(Warning, k.at(string(u.ID)), "not_accepted", suggestion, "no tool of %q is accepted yet, so %s says nothing about %q", serverOf(string(u.ID)), k.id, string(u.ID))
	}
	if k.dormant() {
		return
	}
	if k.rule.action.kind == scopeEq && len(unknown) == 0 && len(k.actions) == 0 {
		k.report(Error, k.seg.start, "dead_scope", "name a group with in, a tool with ==", "no action is in the scope of %s, so it can never apply", k.id)
	}
	if !k.all || k.file == builtinFile || k.set == setObligate {
		return
	}
	open := k.rule.principal.kind == scopeAny && k.rule.resource.kind == scopeAny
	switch {
	case k.rule.permit && open:
		k.report(Error, k.seg.start, "unscoped_permit", `name what it permits: action == Ostiary::Action::"..."`, "%s permits everything to everybody", k.id)
	default:
		k.report(Warning, k.seg.start, "open_action", "name the actions, or a group", "%s leaves the action open, so it is evaluated on every call", k.id)
	}
}

// scopeTypes checks the entity types of a principal or resource scope.
func (k *check) scopeTypes(part string, s scope, good ...string) {
	types := []string{string(s.typ)}
	for _, e := range s.entities {
		types = append(types, string(e.Type))
	}
	for _, t := range types {
		short, ours := strings.CutPrefix(t, Namespace+"::")
		if t == "" || ours && slices.Contains(good, short) {
			continue
		}
		k.report(Error, k.at(short), "unknown_type", didYouMeanType(short, good), "%s: %s is no type a %s can have or be in", part, t, part)
	}
}

func didYouMeanType(short string, good []string) string {
	if i := strings.LastIndex(short, "::"); i >= 0 {
		short = short[i+2:]
	}
	if n := nearest(short, good); n != "" {
		return "did you mean " + Namespace + "::" + n + "?"
	}
	full := make([]string, len(good))
	for i, g := range good {
		full[i] = Namespace + "::" + g
	}
	return "it can be " + strings.Join(full, ", ")
}

// dormant says that the policy speaks of nothing that can happen yet. It has
// no part in the set until a tool it names, or one of its groups, is accepted,
// and is checked then.
func (k *check) dormant() bool {
	return len(k.actions) == 0 && (len(k.awaiting) > 0 || k.rule.action.kind == scopeIn)
}

// serverOf is the server in a tool action's name.
func serverOf(action string) string {
	server, _, _ := strings.Cut(action, "___")
	return server
}

// awaited reports whether an unknown name may be a tool of a server nobody
// has accepted anything of. A folder may speak of it before it can be called:
// refusing the folder would keep the gateway from starting, and so from
// reading what there is to accept. A tool that a known server does not offer
// is a mistake.
func awaited(name string, tools []toolDecl) bool {
	server := serverOf(name)
	if server == "" || len(name) <= len(server)+len("___") {
		return false // no server, or no tool, has an empty name
	}
	return server != name && !slices.ContainsFunc(tools, func(t toolDecl) bool { return t.Server == server })
}

// awaited is stricter with a forbid: one whose name is nearly that of a known
// tool is taken for a misspelling, since it would protect nothing.
func (k *check) awaited(u cedar.EntityUID) bool {
	if u.Type != Namespace+"::Action" || !awaited(string(u.ID), k.world.tools) {
		return false
	}
	return k.rule.permit || nearest(string(u.ID), k.world.names()) == ""
}

func (k *check) unknownAction(u cedar.EntityUID) {
	suggestion := ""
	if u.Type != Namespace+"::Action" {
		suggestion = fmt.Sprintf("actions are written %s::Action::%q", Namespace, string(u.ID))
	} else if n := nearest(string(u.ID), k.world.names()); n != "" {
		suggestion = didYouMean(n)
	} else if strings.Contains(string(u.ID), "___") {
		suggestion = "only accepted tools have an action; see ostiary tools list"
	}
	k.report(Error, k.at(string(u.ID)), "unknown_action", suggestion, "there is no action or group %q", string(u.ID))
}

// walk applies the rules on expressions. negated says whether e lies in an
// unless or under a negation.
func (k *check) walk(e *expr, negated bool) {
	switch e.op {
	case opVar:
		if e.name == "action" {
			k.report(Error, k.lastAt("action"), "action_in_when", "", "the action belongs in the scope, where the index and the reader find it")
		}
	case opAccess:
		k.access(e)
	case opHas:
		k.has(e, negated)
	case opCompare:
		k.unordered(e)
	case opArith:
		if p := rooted(e, "input"); p != nil && !k.rule.permit {
			k.report(Error, k.at(p...), "arithmetic", "compare the argument itself", "%s in a forbid: arithmetic on what an agent chose can overflow, and a rule that errs decides nothing", strings.Join(p, "."))
		}
	case opIn:
		if r := e.args[1]; r.op == opSet && len(r.args) > 0 && !entityLit(r.args[0]) || r.op == opLit && !entityLit(r) {
			k.report(Error, k.lastAt("in"), "in_values", "write [...].contains(x)", "\"in\" is for entities; it does not look into a set of values")
		}
	case opLike:
		if m := hostPattern.FindStringSubmatch(e.name); m != nil {
			k.report(Error, k.lastAt("like"), "host_pattern", fmt.Sprintf("write \"*.%s\" and == %q", m[1], m[1]), "like %s also matches names that merely end so, for example evil%s", e.name, m[1])
		}
	case opIs:
		k.typeName(e.name)
	case opLit:
		if u, ok := e.lit.(cedar.EntityUID); ok {
			k.literal(u)
		}
	}
	for _, a := range e.args {
		k.walk(a, negated != (e.op == opNot))
	}
}

var hostPattern = regexp.MustCompile(`^"\*([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)"$`)

func (k *check) lastAt(word string) int {
	at := k.seg.start
	for _, t := range k.seg.tokens {
		if t.text == word {
			at = t.at
		}
	}
	return at
}

func entityLit(e *expr) bool {
	if e.op != opLit {
		return e.op == opVar || e.op == opAccess || e.op == opIf
	}
	switch v := e.lit.(type) {
	case cedar.EntityUID:
		return true
	case cedar.Set:
		for x := range v.All() {
			if _, ok := x.(cedar.EntityUID); !ok {
				return false
			}
		}
		return true
	}
	return false
}

func (k *check) literal(u cedar.EntityUID) {
	if u.Type == Namespace+"::Action" {
		if _, ok := k.world.base[u]; !ok {
			k.unknownAction(u)
		}
		return
	}
	k.typeName(string(u.Type))
}

func (k *check) typeName(t string) {
	var good []string
	for _, d := range entityDecls() {
		good = append(good, d.name)
	}
	if short, ours := strings.CutPrefix(t, Namespace+"::"); !ours || !slices.Contains(good, short) {
		k.report(Error, k.at(short), "unknown_type", didYouMeanType(short, good), "there is no entity type %s", t)
	}
}

// path returns the words of context.input.amount, nil for anything else.
func path(e *expr) []string {
	switch e.op {
	case opVar:
		return []string{e.name}
	case opAccess:
		if p := path(e.args[0]); p != nil {
			return append(p, e.name)
		}
	}
	return nil
}

// rooted returns the first path under context.<attr> inside e.
func rooted(e *expr, attr string) []string {
	if p := path(e); len(p) >= 2 && p[0] == "context" && p[1] == attr {
		return p
	}
	for _, a := range e.args {
		if p := rooted(a, attr); p != nil {
			return p
		}
	}
	return nil
}

// typeOf returns the type of an expression in a request for the action, nil
// if our checks need not know it.
func typeOf(e *expr, a *action) *shape {
	switch e.op {
	case opVar:
		switch e.name {
		case "context":
			return a.context
		case "resource":
			return entityOf(typeServer)
		case "principal":
			if a.method != nil && a.method.Self {
				return entityOf(typeGateway)
			}
			return entityOf(typeAgent)
		}
	case opAccess:
		if f := attributes(typeOf(e.args[0], a)).get(e.name); f != nil {
			return f.Shape
		}
	case opLit:
		if u, ok := e.lit.(cedar.EntityUID); ok {
			return entityOf(strings.TrimPrefix(string(u.Type), Namespace+"::"))
		}
	case opIf:
		return typeOf(e.args[1], a)
	}
	return nil
}

// attributes returns the record behind a record or an entity.
func attributes(s *shape) *shape {
	if s == nil || s.Kind == kRecord {
		return s
	}
	if s.Kind == kEntity {
		for _, d := range entityDecls() {
			if d.name == s.Entity {
				return d.attrs
			}
		}
	}
	return nil
}

// declared counts in how many of the policy's actions the attribute exists,
// and in how many the expression's type is known at all.
func (k *check) declared(e *expr) (have, known int) {
	for _, a := range k.actions {
		rec := attributes(typeOf(e.args[0], a))
		if rec == nil {
			continue
		}
		known++
		if rec.get(e.name) != nil {
			have++
		}
	}
	return have, known
}

func (k *check) access(e *expr) {
	if have, known := k.declared(e); known > 0 && have == 0 {
		k.noAttribute(e)
	}
}

// has checks a guard. One on an attribute that exists nowhere makes what it
// guards vanish.
func (k *check) has(e *expr, negated bool) {
	have, known := k.declared(e)
	switch {
	case known == 0:
		if p := path(e.args[0]); p == nil {
			k.report(Error, k.at(e.name), "has", "guard a plain path, context.input has ...", "has %s: what it looks at is not a plain path", e.name)
		} // otherwise an inner part of the path is already reported
	case have == 0:
		k.noAttribute(e)
	case !k.rule.permit && !negated:
		k.report(Warning, k.at(append(path(e.args[0]), e.name)...), "has_in_forbid", "write forbid ... unless { the good case }", "this forbid does nothing when %s is absent", strings.Join(append(path(e.args[0]), e.name), "."))
	}
}

// noAttribute reports an attribute no action of the policy has.
func (k *check) noAttribute(e *expr) {
	p := append(path(e.args[0]), e.name)
	text := strings.Join(p, ".")
	var names []string
	for _, a := range k.actions {
		names = append(names, attributes(typeOf(e.args[0], a)).names()...)
		if f := a.input.get(e.name); f != nil && f.Shape.Kind == kHidden && len(p) == 3 && p[1] == "input" {
			k.report(Error, k.at(p...), "hidden_argument", "look at context.labels."+e.name+", or forbid the call as a whole", "%s: policy cannot see this argument of %s: %s", text, a.name, f.Shape.Why)
			return
		}
	}
	slices.Sort(names)
	what := "there is no such attribute"
	if len(p) == 3 && (p[1] == "input" || p[1] == "labels") {
		what = "no such argument of " + k.actionList()
	}
	suggestion := didYouMean(nearest(e.name, slices.Compact(names)))
	if suggestion == "" && len(names) > 0 && len(slices.Compact(names)) <= 12 {
		suggestion = "it has " + strings.Join(slices.Compact(names), ", ")
	}
	k.report(Error, k.at(p...), "unknown_attribute", suggestion, "%s: %s", text, what)
}

func (k *check) actionList() string {
	switch n := len(k.actions); {
	case n == 1:
		return k.actions[0].name
	case n <= 3:
		var out []string
		for _, a := range k.actions {
			out = append(out, a.name)
		}
		return strings.Join(out, ", ")
	default:
		return fmt.Sprintf("any of the %d actions in its scope", n)
	}
}

// reads notes whether a condition looks at the arguments or the resource, for
// the filtering of lists, when both are unknown.
func (k *check) reads(e *expr) {
	switch {
	case e.op == opAccess && e.args[0].op == opVar && e.args[0].name == "context":
		if e.name == "input" || e.name == "labels" || e.name == "chosen" || e.name == "task" || e.name == "tool" {
			k.meta.argsFree = false
		}
		return
	case e.op == opVar && e.name == "context":
		k.meta.argsFree = false
	case e.op == opVar && e.name == "resource":
		k.meta.resFree = false
	}
	for _, a := range e.args {
		k.reads(a)
	}
}

// ObligationTypes are the obligations a policy may name. The gate denies one
// it has no means to carry out.
func ObligationTypes() []string {
	return []string{"limit", "notify", "redact", "sandbox", "tokenize"}
}

// outcome checks what the annotations promise against what the policy says.
func (k *check) outcome() {
	m := &k.meta
	if k.set == setObligate {
		k.obligation()
	} else if m.obligation != "" || m.properties != "" {
		k.report(Error, k.annotationAt("obligation"), "obligation", "move it to a file in obligate/", "an obligation is no permit: it stands in its own set")
	}
	if m.remedy == "" {
		return
	}
	switch at := k.annotationAt("remedy"); {
	case k.rule.permit:
		k.report(Error, at, "remedy", "", "@remedy stands on a forbid; a permit has nothing to discharge")
	case !factPattern.MatchString(m.remedy):
		k.report(Error, at, "remedy", `write it like "approval:finance"`, "@remedy(%q) is not the name of a fact", m.remedy)
	case !k.tested(m.remedy):
		k.report(Error, at, "remedy", fmt.Sprintf("add unless { context.satisfied.contains(%q) }", m.remedy), "@remedy(%q) would change nothing: no unless of this forbid tests it", m.remedy)
	default:
		if _, err := ostiary.ParseNeed(m.remedy); err != nil {
			k.report(Warning, at, "remedy", "write approval:GROUP, approval:GROUP:2, acr:mfa, acr:phr or justification", "@remedy(%q) is no fact that people can supply: the denial stays final", m.remedy)
		}
	}
}

func (k *check) obligation() {
	m := &k.meta
	at := k.annotationAt("obligation")
	switch {
	case !k.rule.permit:
		k.report(Error, k.seg.start, "obligation", "", "obligate/ holds permits only: each says when its obligation applies")
	case m.obligation == "":
		k.report(Error, k.seg.start, "obligation", `add @obligation("notify")`, "this policy names no obligation")
	case !slices.Contains(ObligationTypes(), m.obligation):
		k.report(Error, at, "obligation", didYouMean(nearest(m.obligation, ObligationTypes())), "@obligation(%q) is not known; it can be %s", m.obligation, strings.Join(ObligationTypes(), ", "))
	}
	if m.properties == "" {
		return
	}
	limits := strictjson.Request
	limits.Bytes = 4 << 10 // one policy holds no more
	if doc, err := strictjson.Parse([]byte(m.properties), limits); err != nil || doc.Bytes()[0] != '{' {
		k.report(Error, k.annotationAt("properties"), "obligation", "", "@properties is not a JSON object")
	}
}

// tested reports whether an unless of the forbid asks for the fact.
func (k *check) tested(fact string) bool {
	var asks func(e *expr) bool
	asks = func(e *expr) bool {
		if e.op == opContains && e.name == "contains" && slices.Equal(path(e.args[0]), []string{"context", "satisfied"}) && e.args[1].op == opLit {
			return e.args[1].lit == cedar.String(fact)
		}
		return slices.ContainsFunc(e.args, asks)
	}
	return slices.ContainsFunc(k.rule.conditions, func(c condition) bool { return !c.when && asks(c.body) })
}

// mistypeMessage is how the validator says that an operand has another type
// than its operator takes.
var mistypeMessage = regexp.MustCompile(`unexpected type: |types? .*compatible`)

var messageAttr = regexp.MustCompile("attribute `([^`]+)`")

// validate asks Cedar's strict validator, against no more of the schema than
// the policy can be about.
func (k *check) validate() {
	var cut []cedar.EntityUID
	if !k.all {
		cut = make([]cedar.EntityUID, 0, len(k.actions))
		for _, a := range k.actions {
			cut = append(cut, a.uid)
		}
	}
	searched, found := false, false
	for _, msg := range k.world.schema.policy(k.id, k.policy, cut, k.awaiting) {
		if strings.Contains(msg, "type") && !searched {
			searched, found = true, k.mistyped()
		}
		if found && mistypeMessage.MatchString(msg) {
			continue // it is told where it stands
		}
		if at, text, suggestion := k.plainly(msg); text != "" {
			k.report(Error, at, "type", suggestion, "%s: %s", k.id, text)
			continue
		}
		at, suggestion := k.seg.start, ""
		guard := "context.input has x"
		if m := messageAttr.FindStringSubmatch(msg); m != nil {
			p := strings.Split(m[1], ".")
			if strings.Contains(msg, "in context for") {
				p = append([]string{"context"}, p...)
			}
			at = k.at(p...)
			guard = strings.Join(p[:len(p)-1], ".") + " has " + p[len(p)-1]
		}
		switch {
		case strings.Contains(msg, "optional attribute"):
			suggestion = "it may be absent: write " + guard + " && ...; in a forbid put the good case into unless { }"
		case strings.Contains(msg, "decimal"):
			suggestion = `decimals are compared with .lessThan(decimal("10.0")), .greaterThan(...)`
		case strings.Contains(msg, "not found"):
			suggestion = "not every action in its scope has it: narrow the scope"
		}
		k.report(Error, at, "type", suggestion, "%s: %s", k.id, msg)
	}
}
