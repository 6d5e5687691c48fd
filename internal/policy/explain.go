package policy

import (
	"fmt"
	"strings"

	"github.com/ostiary/ostiary"
)

// Explain says in plain words why d is the answer to r: for operators, as it
// names files and lines.
func (s *Snapshot) Explain(r *ostiary.Request, d ostiary.Decision) string {
	var b strings.Builder
	who, what := string(r.Subject.Agent), r.Action.Name
	switch d.Code {
	case CodePermit:
		fmt.Fprintf(&b, "Permitted: %s may %s.\n", who, what)
		list(&b, "because of", d.Reasons)
	case CodeForbid:
		fmt.Fprintf(&b, "Denied: %s may not %s.\n", who, what)
		list(&b, "forbidden by", d.Reasons)
	case CodeNoPermit:
		fmt.Fprintf(&b, "Denied: no policy permits %s for %s.\n", what, who)
		s.whatPermits(&b, what)
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

// whatPermits names what a permit would have to cover, and the permits that
// cover the action but did not hold for this request.
func (s *Snapshot) whatPermits(b *strings.Builder, name string) {
	act, ok := s.set.world.actions[name]
	if !ok {
		return
	}
	fmt.Fprintf(b, "  a permit for %s::Action::%q is needed", Namespace, name)
	if len(act.groups) > 0 {
		fmt.Fprintf(b, ", or for one of its groups: %s", strings.Join(act.groups, ", "))
	}
	b.WriteByte('\n')
	for i := range s.set.authorize.policies {
		p := &s.set.authorize.policies[i]
		if p.rule.permit && s.set.world.covers(p.rule.action, act) {
			fmt.Fprintf(b, "  %s (%s) covers it, but not for this request\n", p.id, p.meta.where)
		}
	}
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
