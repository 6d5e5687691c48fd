package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// Explain says in plain words why d is the answer to r: for operators, as it
// names files, lines and conditions. Of the request it needs who asked, in
// which roles, for what action of what server in what zone; of the decision,
// policies by their ids are enough.
func (s *Snapshot) Explain(r *ostiary.Request, d ostiary.Decision) string {
	var b strings.Builder
	who, what := string(r.Subject.Agent), r.Action.Name
	switch d.Code {
	case CodePermit:
		fmt.Fprintf(&b, "Permitted: %s may %s.\n", who, what)
		list(&b, "because of", s.reasons(d.Reasons))
	case CodeForbid:
		fmt.Fprintf(&b, "Denied: %s may not %s.\n", who, what)
		list(&b, "forbidden by", s.reasons(d.Reasons))
	case CodeNoPermit:
		fmt.Fprintf(&b, "Denied: no policy permits %s for %s.\n", what, who)
		s.whatPermits(&b, r, d.Near)
	default:
		fmt.Fprintf(&b, "Denied: policy could not decide on %s for %s (%s).\n", what, who, d.Code)
		list(&b, "because of", d.Reasons)
	}
	for _, x := range d.Remedies {
		fmt.Fprintf(&b, "  would be permitted with %s (discharges %s)\n", x.Fact, x.Policy)
	}
	for _, o := range d.Obligations {
		fmt.Fprintf(&b, "  obliges to %s %s (%s)\n", o.Type, o.Properties, o.Policy)
	}
	if x := d.Shadow; x != nil {
		fmt.Fprintf(&b, "  with the candidates in shadow/ it would have been: %s%s\n", x.Outcome, by(x.Policies))
	}
	fmt.Fprintf(&b, "  snapshot %d, policy %s, %d of %d policies evaluated\n", d.Snapshot, d.Policy.Short(), d.Evaluated, d.Total)
	return b.String()
}

func list(b *strings.Builder, word string, reasons []ostiary.Reason) {
	for _, r := range reasons {
		fmt.Fprintf(b, "  %s %s", word, r.Policy)
		if r.Where != "" {
			fmt.Fprintf(b, " (%s)", r.Where)
		}
		if r.Text != "" {
			fmt.Fprintf(b, ": %s", r.Text)
		}
		b.WriteByte('\n')
	}
}

func by(policies []string) string {
	if len(policies) == 0 {
		return ""
	}
	return ", by " + strings.Join(policies, ", ")
}

// reasons fills in what the policies say of themselves.
func (s *Snapshot) reasons(list []ostiary.Reason) []ostiary.Reason {
	out := slices.Clone(list)
	for i := range out {
		if c := s.set.authorize.find(cedar.PolicyID(out[i].Policy)); c != nil && out[i].Where == "" {
			out[i].Text, out[i].Where = c.meta.reason, c.meta.where
		}
	}
	return out
}

// whatPermits names the permits that nearly held and what they lack, and what
// a new one would have to cover.
func (s *Snapshot) whatPermits(b *strings.Builder, r *ostiary.Request, near []ostiary.NearMiss) {
	act, ok := s.set.world.actions[r.Action.Name]
	if !ok {
		return
	}
	scopes, more := s.set.outOfScope(act, r)
	for _, n := range append(slices.Clone(near), scopes...) {
		fmt.Fprintf(b, "  %s (%s) would permit it but for: %s\n", n.Policy, n.Where, n.Failed)
	}
	if more > 0 {
		fmt.Fprintf(b, "  and %d more permits of it, for other agents or servers\n", more)
	}
	if len(near)+len(scopes) > 0 {
		return
	}
	fmt.Fprintf(b, "  a permit for %s::Action::%q is needed", Namespace, r.Action.Name)
	if len(act.groups) > 0 {
		fmt.Fprintf(b, ", or for one of its groups: %s", strings.Join(act.groups, ", "))
	}
	b.WriteByte('\n')
}

// covers reports whether a scope covers an action.
func (w *world) covers(s scope, a *action) bool {
	if s.kind == scopeAny {
		return true
	}
	for _, e := range s.entities {
		if e == a.uid {
			return true
		}
		for _, g := range a.groups {
			if s.kind == scopeIn && e == uid("Action", g) {
				return true
			}
		}
	}
	return false
}
