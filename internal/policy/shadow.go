package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// The outcomes of a Shadow.
const (
	ShadowPermit      = "permit"
	ShadowRequestable = "requestable"
	ShadowDeny        = "deny"
	ShadowError       = "error" // the live decision stands, as always
)

// shadowed says how policy would have answered had the candidates in shadow/
// been enforced beside what is, nil if as it did. It runs when the decision
// stands and cannot change it: an error or a panic of a candidate is part of
// what is recorded.
//
// Candidates add permits and forbids. What is enforced was evaluated already,
// so they alone are evaluated; the whole is asked again only where a remedy
// could make a difference.
func (s *Set) shadowed(d *ostiary.Decision, q *question, creq cedar.Request, sel *selection, live cedar.Diagnostic) (out *ostiary.Shadow) {
	defer func() {
		if recover() != nil {
			out = &ostiary.Shadow{Outcome: ShadowError}
		}
	}()
	q.entities.missed = false
	candidates := q.choose(2, s.shadow)
	if len(candidates.at) == 0 {
		return nil
	}
	allow, diag := s.evaluate(candidates, q, creq)
	if e := shadowError(q, diag); e != nil {
		return e
	}
	was := ShadowDeny
	switch {
	case d.Permit:
		was = ShadowPermit
	case d.Requestable():
		was = ShadowRequestable
	}
	outcome, by := ShadowDeny, ids(diag)
	switch forbids := !allow && len(diag.Reasons) > 0; {
	case !forbids && d.Code != CodeForbid:
		if d.Permit || allow {
			outcome = ShadowPermit
		}
	default:
		facts, ok := s.discharge(d, live, forbids, diag)
		if !ok {
			break
		}
		consented, last := s.consented(q, creq, facts, sel, candidates)
		if e := shadowError(q, last); e != nil {
			return e
		}
		if consented {
			outcome = ShadowRequestable
		}
		if len(by) == 0 {
			by = ids(last)
		}
	}
	if outcome == was || len(by) == 0 {
		return nil
	}
	return &ostiary.Shadow{Outcome: outcome, Policies: by}
}

// discharge returns the facts that would discharge every forbid that matched,
// enforced or not; false if one of them cannot be.
func (s *Set) discharge(d *ostiary.Decision, live cedar.Diagnostic, forbids bool, diag cedar.Diagnostic) (facts []cedar.Value, ok bool) {
	if d.Code == CodeForbid {
		if _, facts = s.authorize.remedies(live); facts == nil {
			return nil, false
		}
	}
	if forbids {
		_, more := s.shadow.remedies(diag)
		if more == nil {
			return nil, false
		}
		facts = append(facts, more...)
	}
	return facts, true
}

func shadowError(q *question, diag cedar.Diagnostic) *ostiary.Shadow {
	if len(diag.Errors) == 0 && !q.entities.missed {
		return nil
	}
	out := &ostiary.Shadow{Outcome: ShadowError}
	for _, e := range diag.Errors {
		out.Policies = append(out.Policies, string(e.PolicyID))
	}
	slices.Sort(out.Policies)
	return out
}

// ids are the policies that decided; they come sorted, as they were chosen.
func ids(diag cedar.Diagnostic) []string {
	var out []string
	for _, r := range diag.Reasons {
		out = append(out, string(r.PolicyID))
	}
	return out
}
