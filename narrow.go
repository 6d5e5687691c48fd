package ostiary

import (
	"slices"
	"strings"
	"time"
)

// MaxChain is how many links a chain of mandates has at most.
const MaxChain = 17

// Effective returns what a chain of mandates allows: the intersection of all
// its links, from the first, which a principal gave, to the last, under which
// an agent acts. It is the last link with every field narrowed by those above.
//
// It is a pure function of the links as signed, and refuses (kind Denied, with
// the field) a chain that is none: a link that does not name the one before it
// as its parent, that is wider in any field, or that comes back to an agent.
// It judges neither signatures, nor time, nor revocation.
func Effective(links []Mandate) (Mandate, error) {
	if len(links) == 0 || len(links) > MaxChain {
		return Mandate{}, wider("chain", "a chain has 1 to %d mandates", MaxChain)
	}
	e := links[0]
	if e.Parent != "" {
		return Mandate{}, wider("parent", "mandate %s was derived from %s, which is not here", e.ID, e.Parent)
	}
	e.Links, e.Within, e.Budgets = []MandateID{e.ID}, nil, bounded(nil, &links[0])
	for i := 1; i < len(links); i++ {
		m := &links[i]
		for j := range links[:i] {
			if links[j].Agent == m.Agent {
				return Mandate{}, wider("agent", "%s is in the chain already", m.Agent)
			}
		}
		if m.Parent != e.ID {
			return Mandate{}, wider("parent", "mandate %s was not derived from %s", m.ID, e.ID)
		}
		if err := m.NarrowerThan(&e); err != nil {
			return Mandate{}, err
		}
		e = m.under(&e)
	}
	return e, nil
}

// NarrowerThan says why m, as signed, would allow more than the effective
// mandate it is derived from; nil if it does not. What only policy's groups
// can tell (whether an action is in a group the parent names) is not judged
// here, but on each use: see [Mandate.Within].
func (m *Mandate) NarrowerThan(parent *Mandate) error {
	switch {
	case m.Principal != parent.Principal:
		return wider("principal", "a derived mandate is on the same authority as its parent's, %s", parent.Principal)
	case m.By != parent.By:
		return wider("by", "a derived mandate was given by who gave its parent, %s", parent.By)
	case m.Agent.TrustDomain() != parent.Agent.TrustDomain():
		return wider("agent", "%s is of another trust domain", m.Agent)
	case m.Kind != parent.derivedKind():
		return wider("kind", "what is derived from a mandate of kind %s is of kind %s", parent.Kind, parent.derivedKind())
	case m.Purpose != parent.Purpose:
		return wider("purpose", "a derived mandate has its parent's purpose, %q", parent.Purpose)
	case parent.Depth < 1:
		return wider("depth", "mandate %s allows 0 further delegations: nothing can be derived from it. Whoever gives %s a mandate says how deep, for example: ostiary mandate issue %s --depth 1 ..., and what is derived is derived under that", parent.ID, parent.Agent.Name(), parent.Agent.Name())
	case m.Depth < 0 || m.Depth >= parent.Depth:
		return wider("depth", "mandate %s allows %d further delegations, so what is derived from it allows at most %d", parent.ID, parent.Depth, parent.Depth-1)
	case m.NotBefore.Before(parent.NotBefore):
		return wider("not_before", "a derived mandate does not begin before its parent, %s", parent.NotBefore.UTC().Format(time.RFC3339))
	case m.Expires.After(parent.Expires):
		return wider("expires", "a derived mandate does not outlive its parent, %s", parent.Expires.UTC().Format(time.RFC3339))
	case m.Epoch < parent.Epoch:
		return wider("epoch", "a derived mandate is not older than its parent")
	}
	for _, l := range []struct {
		field        string
		list, within []string
		grouped      bool
	}{
		{"actions", m.Actions, parent.Actions, true},
		{"resources", m.Resources, parent.Resources, false},
		{"classes", m.Classes, parent.Classes, false},
		{"approvers", m.Approvers, parent.Approvers, false},
	} {
		if s, ok := outside(l.list, l.within, l.grouped); ok {
			return wider(l.field, "mandate %s does not have %q", parent.ID, s)
		}
	}
	if err := m.lowerCeilings(parent); err != nil {
		return err
	}
	return m.Budget.narrowerThan(&parent.Budget)
}

func wider(field, format string, args ...any) *Error {
	return Errorf(Denied, "mandate_wider", format, args...).At(field)
}

// derivedKind is the kind of what is derived from m: what is loud stays loud.
func (m *Mandate) derivedKind() MandateKind {
	if m.Kind == StandingMandate {
		return TaskMandate
	}
	return m.Kind
}

// outside returns the first name that a list surely does not cover. A parent
// that names a group may cover an action by it.
func outside(list, within []string, grouped bool) (string, bool) {
	mayGroup := grouped && slices.ContainsFunc(within, func(s string) bool { return !IsToolAction(s) })
	for _, s := range list {
		if !covers(within, s) && (s == "*" || !mayGroup) {
			return s, true
		}
	}
	return "", false
}

// IsToolAction reports whether a name is that of a tool's action,
// "<server>___<tool>": a group has no such name.
func IsToolAction(name string) bool { return strings.Contains(name, "___") }

// lowerCeilings refuses a ceiling above the parent's for the same argument.
// One the parent has and m does not is inherited.
func (m *Mandate) lowerCeilings(parent *Mandate) error {
	for _, c := range m.Ceilings {
		for _, p := range parent.Ceilings {
			if c.Action == p.Action && c.Pointer == p.Pointer && compareMagnitude(c.Max, p.Max) > 0 {
				return wider("ceilings", "mandate %s allows %s at most %s in %s", parent.ID, c.Action, p.most(), c.Pointer)
			}
		}
	}
	return nil
}

func (b *Budget) narrowerThan(parent *Budget) error {
	for _, n := range []struct {
		field        string
		mine, theirs int64
	}{{"calls", b.Calls, parent.Calls}, {"tokens", b.Tokens, parent.Tokens}, {"bytes", b.Bytes, parent.Bytes}} {
		if n.theirs > 0 && n.mine > n.theirs {
			return wider("budget", "the parent's budget is %d %s", n.theirs, n.field)
		}
	}
	for _, x := range b.Money {
		for _, y := range parent.Money {
			if x.Currency == y.Currency && x.Minor > y.Minor {
				return wider("budget", "the parent's budget is %d minor units of %s", y.Minor, y.Currency)
			}
		}
	}
	return nil
}

// under returns m narrowed by the effective mandate it is derived from.
func (m *Mandate) under(e *Mandate) Mandate {
	out := *m
	out.Links = append(slices.Clip(slices.Clone(e.Links)), m.ID)
	out.Actions, out.Within = e.narrowActions(m.Actions)
	out.Resources = both(m.Resources, e.Resources)
	out.Classes = both(m.Classes, e.Classes)
	out.Approvers = both(m.Approvers, e.Approvers)
	out.Ceilings = allCeilings(m.Ceilings, e.Ceilings)
	out.Budget, out.Budgets = m.Budget.under(&e.Budget), bounded(e.Budgets, m)
	if out.NotBefore.Before(e.NotBefore) {
		out.NotBefore = e.NotBefore
	}
	if out.Expires.After(e.Expires) {
		out.Expires = e.Expires
	}
	out.Depth = max(0, min(m.Depth, e.Depth-1))
	return out
}

// narrowActions returns the names that stand in both lists, and the lists an
// action must be in beside them because a group may say more than its name.
func (e *Mandate) narrowActions(mine []string) (list []string, within [][]string) {
	within = slices.Clip(slices.Clone(e.Within))
	if !covers(e.Actions, "*") && slices.ContainsFunc(mine, func(s string) bool { return !covers(e.Actions, s) }) {
		within = append(within, e.Actions)
	}
	return slices.Clone(mine), within
}

// both returns the names that two lists of plain names share.
func both(mine, theirs []string) []string {
	if covers(mine, "*") {
		return slices.Clone(theirs)
	}
	return slices.DeleteFunc(slices.Clone(mine), func(s string) bool { return !covers(theirs, s) })
}

// allCeilings holds every ceiling of two lists, the lower where they name the
// same argument in the same unit.
func allCeilings(mine, theirs []Ceiling) []Ceiling {
	out := slices.Clone(mine)
	for _, c := range theirs {
		i := slices.IndexFunc(out, func(o Ceiling) bool { return o.Action == c.Action && o.Pointer == c.Pointer && o.Unit == c.Unit })
		switch {
		case i < 0:
			out = append(out, c)
		case compareMagnitude(c.Max, out[i].Max) < 0:
			out[i].Max = c.Max
		}
	}
	return out
}

func (b *Budget) under(e *Budget) Budget {
	out := Budget{Calls: least(b.Calls, e.Calls), Tokens: least(b.Tokens, e.Tokens), Bytes: least(b.Bytes, e.Bytes), Money: slices.Clone(b.Money)}
	for _, m := range e.Money {
		i := slices.IndexFunc(out.Money, func(o Money) bool { return o.Currency == m.Currency })
		if i < 0 {
			out.Money = append(out.Money, m)
		} else {
			out.Money[i].Minor = min(out.Money[i].Minor, m.Minor)
		}
	}
	return out
}

// least is the lower of two bounds, where zero is none.
func least(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
