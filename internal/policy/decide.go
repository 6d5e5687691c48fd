package policy

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// The codes of a Decision. Each refusal of the strict wrapper has its own, so
// that it can be counted apart from ordinary denials.
const (
	CodePermit        = "permit"
	CodeForbid        = "forbid"
	CodeNoPermit      = "no_permit"
	CodeNoSnapshot    = "no_snapshot"         // nothing is active
	CodeUnknownAction = "unknown_action"      // the snapshot knows no such tool or method
	CodeUnvalidated   = "unvalidated_request" // the request does not fit the schema
	CodeInexact       = "inexact_number"      // a number has no exact reading
	CodePinMismatch   = "pin_mismatch"        // the tool is not the one policy was compiled for
	CodeMissingEntity = "missing_entity"      // an entity was asked for that the request does not hold
	CodeMissingFact   = "missing_fact"        // a fact has no value
	CodeOverBudget    = "over_budget"         // more than policy will read
	CodePolicyError   = "policy_error"        // a policy could not be evaluated: a bug in it, or an attack
	CodeObligation    = "obligation_error"    // a permit whose obligations could not be determined
	CodeIndex         = "index_mismatch"      // the index and full evaluation disagree: a bug of ours
	CodeInternal      = "internal"            // a fault was recovered
)

// verifyEvery is how many decisions pass between two that are also evaluated
// without the index. A wrong index would be a way around policy; one check in
// this many finds it in traffic and costs little.
const verifyEvery = 4096

// Engine decides with the active Snapshot. Safe for concurrent use; a
// decision uses the one Snapshot it began with.
type Engine struct {
	active atomic.Pointer[Snapshot]
	count  atomic.Uint64
}

// New returns an Engine without a Snapshot: it denies everything.
func New() *Engine { return &Engine{} }

// Activate makes a Snapshot the active one, at once and for every decision
// that begins afterwards. A number that is not above the active one's is a
// Conflict, and what was active stays; the very same Snapshot is accepted
// again.
func (e *Engine) Activate(s *Snapshot) error {
	if s == nil || s.set == nil || s.number == 0 {
		return ostiary.Errorf(ostiary.Corrupt, "no_snapshot", "there is no policy snapshot to activate")
	}
	for {
		old := e.active.Load()
		if old != nil && s.number <= old.number {
			if s.number == old.number && s.set.digest == old.set.digest {
				return nil
			}
			return ostiary.Errorf(ostiary.Conflict, "snapshot_number", "snapshot %d is active; %d is not newer", old.number, s.number)
		}
		if e.active.CompareAndSwap(old, s) {
			return nil
		}
	}
}

// Active returns the active Snapshot, nil if there is none.
func (e *Engine) Active() *Snapshot { return e.active.Load() }

// Decide answers one request. It implements gate.Policy: a pure function of
// the request and the active Snapshot, it never panics outward, and whatever
// it cannot decide is a denial.
func (e *Engine) Decide(r *ostiary.Request) ostiary.Decision {
	s := e.active.Load()
	if s == nil {
		return ostiary.Decision{Code: CodeNoSnapshot}
	}
	return s.decide(r, e.count.Add(1)%verifyEvery == 0)
}

// Decide answers one request with this Snapshot, for replay and tests.
func (s *Snapshot) Decide(r *ostiary.Request) ostiary.Decision { return s.decide(r, false) }

func (s *Snapshot) decide(r *ostiary.Request, verify bool) (d ostiary.Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = ostiary.Decision{Code: CodeInternal}
		}
		if !d.Permit {
			d.Obligations = nil
		}
		d.Policy, d.Snapshot = s.set.digest, s.number
	}()
	if r == nil {
		return ostiary.Decision{Code: CodeUnvalidated}
	}
	return s.set.decide(r, verify)
}

// decide is the strict wrapper and the outcome layer.
func (s *Set) decide(r *ostiary.Request, verify bool) ostiary.Decision {
	q, ref := s.world.ask(r)
	if ref != nil {
		return ostiary.Decision{Code: ref.code, Reasons: []ostiary.Reason{{Policy: "ostiary-request", Text: ref.text}}, Total: s.total()}
	}
	defer s.world.release(q)
	creq := q.cedar()
	if s.world.schema.request(creq) != nil { // its message would print the whole context
		return ostiary.Decision{Code: CodeUnvalidated, Total: s.total()}
	}
	sel := q.choose(0, s.authorize)
	d := ostiary.Decision{Evaluated: len(sel.at), Total: s.total()}
	allow, diag := s.evaluate(sel, q, creq)
	if verify && !s.verified(q, creq, allow, diag) {
		d.Code = CodeIndex
		return d
	}
	if !s.clean(&d, s.authorize, q, diag, CodePolicyError) {
		return d
	}
	d.Reasons = s.authorize.reasons(diag)
	if !allow {
		s.deny(&d, q, creq, sel, diag)
		if verify && !s.sameConsent(&d, q, creq, diag) {
			return ostiary.Decision{Code: CodeIndex, Evaluated: d.Evaluated, Total: d.Total}
		}
	} else if !s.oblige(&d, q, creq) {
		return d
	} else {
		d.Permit, d.Code = true, CodePermit
	}
	if len(s.shadow.policies) > 0 {
		d.Shadow = s.shadowed(&d, q, creq, sel, diag)
	}
	return d
}

// choose fills one of the question's selections from an index.
func (q *question) choose(place int, x *index) *selection {
	sel := &q.chosen[place]
	x.choose(sel, &q.entities, q.principal, q.act.uid, q.resource)
	return sel
}

// verified evaluates every policy of the deciding sets without the index and
// reports whether the answer is the same.
func (s *Set) verified(q *question, creq cedar.Request, allow bool, diag cedar.Diagnostic) bool {
	fullAllow, full := s.evaluate(s.authorize.all(), q, creq)
	sel := q.choose(1, s.obligate)
	_, some := s.evaluate(sel, q, creq)
	_, all := s.evaluate(s.obligate.all(), q, creq)
	return allow == fullAllow && sameDiagnostic(diag, full) && sameDiagnostic(some, all)
}

func (s *Set) total() int { return len(s.authorize.policies) + len(s.obligate.policies) }

// evaluate is the only caller of cedar.Authorize on whole policies.
func (s *Set) evaluate(sel *selection, q *question, creq cedar.Request) (bool, cedar.Diagnostic) {
	dec, diag := cedar.Authorize(sel, &q.entities, creq)
	return dec == cedar.Allow, diag
}

// clean reports whether an evaluation can be relied on. Cedar skips a policy
// that errs, a forbid too, so any error denies, whatever the decision says.
func (s *Set) clean(d *ostiary.Decision, x *index, q *question, diag cedar.Diagnostic, code string) bool {
	switch {
	case len(diag.Errors) > 0:
		d.Code = code
		for _, e := range diag.Errors {
			c := x.find(e.PolicyID)
			d.Reasons = append(d.Reasons, ostiary.Reason{Policy: string(e.PolicyID), Text: "this policy could not be evaluated", Where: c.meta.where})
		}
		return false
	case q.entities.missed:
		d.Code = CodeMissingEntity
		return false
	}
	return true
}

// deny finishes a denial: by forbids, or for want of a permit. It is
// requestable only if every forbid names a remedy and policy would permit
// with all of them: nobody is asked for consent that could not help.
func (s *Set) deny(d *ostiary.Decision, q *question, creq cedar.Request, sel *selection, diag cedar.Diagnostic) {
	if len(diag.Reasons) == 0 {
		d.Code = CodeNoPermit
		d.Reasons = []ostiary.Reason{{Policy: "ostiary-default", Text: "no policy permits " + q.act.name + " for this agent"}}
		d.Near = s.near(q, creq, sel)
		return
	}
	d.Code = CodeForbid
	remedies, facts := s.authorize.remedies(diag)
	if facts == nil {
		return
	}
	if allow, _ := s.consented(q, creq, facts, sel); allow {
		d.Remedies = remedies
	}
}

// remedies returns what would discharge every forbid that decided, and the
// facts alone; nothing if one of them cannot be discharged.
func (x *index) remedies(diag cedar.Diagnostic) ([]ostiary.Remedy, []cedar.Value) {
	remedies := make([]ostiary.Remedy, 0, len(diag.Reasons))
	facts := make([]cedar.Value, 0, len(diag.Reasons))
	for _, why := range diag.Reasons {
		c := x.find(why.PolicyID)
		if c.meta.remedy == "" {
			return nil, nil
		}
		remedies = append(remedies, ostiary.Remedy{Fact: c.meta.remedy, Policy: string(c.id)})
		facts = append(facts, cedar.String(c.meta.remedy))
	}
	return remedies, facts
}

// consented asks policies again as if facts were satisfied: the
// counterfactual. It returns whether they permit together, and what the last
// selection says.
func (s *Set) consented(q *question, creq cedar.Request, facts []cedar.Value, sels ...*selection) (permit bool, last cedar.Diagnostic) {
	creq.Context = q.satisfiedWith(facts, sels)
	forbidden := false
	for _, sel := range sels {
		var allow bool
		allow, last = s.evaluate(sel, q, creq)
		if len(last.Errors) > 0 || q.entities.missed {
			return false, last
		}
		permit = permit || allow
		forbidden = forbidden || !allow && len(last.Reasons) > 0
	}
	return permit && !forbidden, last
}

// satisfiedWith is the context with facts added to context.satisfied, for
// these policies: it holds no attribute that none of them looks at, since
// building the others again costs more than evaluating. A condition that does
// not look at an attribute has the same value without it.
func (q *question) satisfiedWith(facts []cedar.Value, sels []*selection) cedar.Record {
	clear(q.scratch)
	for _, sel := range sels {
		for _, i := range sel.at {
			l := &sel.index.policies[i].looks
			for _, name := range l.at {
				if v, ok := q.context[name]; ok {
					q.scratch[name] = v
				}
			}
			if l.whole {
				maps.Copy(q.scratch, q.context)
			}
		}
	}
	vals := facts
	for v := range q.context["satisfied"].(cedar.Set).All() {
		vals = append(vals, v)
	}
	q.scratch["satisfied"] = cedar.NewSet(vals...)
	return cedar.NewRecord(q.scratch) // a copy of its own
}

// sameConsent repeats the counterfactual with every policy and the whole
// context, and reports whether it came to the same.
func (s *Set) sameConsent(d *ostiary.Decision, q *question, creq cedar.Request, diag cedar.Diagnostic) bool {
	_, facts := s.authorize.remedies(diag)
	if facts == nil || d.Code != CodeForbid {
		return true
	}
	full := maps.Clone(q.context)
	for v := range q.context["satisfied"].(cedar.Set).All() {
		facts = append(facts, v)
	}
	full["satisfied"] = cedar.NewSet(facts...)
	creq.Context = cedar.NewRecord(full)
	allow, again := s.evaluate(s.authorize.all(), q, creq)
	return (allow && len(again.Errors) == 0) == d.Requestable()
}

// oblige asks the obligate set what a permit demands. Any error denies.
func (s *Set) oblige(d *ostiary.Decision, q *question, creq cedar.Request) bool {
	if len(s.obligate.policies) == 0 {
		return true
	}
	sel := q.choose(1, s.obligate)
	d.Evaluated += len(sel.at)
	if len(sel.at) == 0 {
		return true
	}
	allow, diag := s.evaluate(sel, q, creq)
	if !s.clean(d, s.obligate, q, diag, CodeObligation) {
		return false
	}
	if !allow {
		return true
	}
	for _, why := range diag.Reasons {
		c := s.obligate.find(why.PolicyID)
		d.Obligations = append(d.Obligations, ostiary.Obligation{Type: c.meta.obligation, Properties: c.meta.properties, Policy: string(c.id)})
	}
	return true
}

// reasons returns the determining policies, sorted by id.
func (x *index) reasons(diag cedar.Diagnostic) []ostiary.Reason {
	if len(diag.Reasons) == 0 {
		return nil
	}
	out := make([]ostiary.Reason, 0, len(diag.Reasons))
	for _, r := range diag.Reasons {
		c := x.find(r.PolicyID)
		out = append(out, ostiary.Reason{Policy: string(c.id), Text: c.meta.reason, Where: c.meta.where})
	}
	return out
}

// sameDiagnostic compares two evaluations whose policies came in the same
// order.
func sameDiagnostic(a, b cedar.Diagnostic) bool {
	return slices.EqualFunc(a.Reasons, b.Reasons, func(x, y cedar.DiagnosticReason) bool { return x.PolicyID == y.PolicyID }) &&
		slices.EqualFunc(a.Errors, b.Errors, func(x, y cedar.DiagnosticError) bool { return x.PolicyID == y.PolicyID })
}
