package approval

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// personPrefix begins the principal of every person.
const personPrefix = "person:"

// electorate is everybody who may ever consent for a group: its members, and
// those it escalates to.
func (r *Rules) electorate(group string) []ostiary.PrincipalID {
	return r.electors(group, -1)
}

// electors is who may consent for a group after so long a wait; a negative
// wait is for ever.
func (r *Rules) electors(group string, waited time.Duration) []ostiary.PrincipalID {
	g, ok := r.Groups[group]
	if !ok {
		return nil
	}
	out := slices.Clone(g.People)
	if g.To != "" && (waited < 0 || waited >= g.After) {
		out = append(out, r.Groups[g.To].People...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// standsAside says why a person may not consent to this for a need, whoever
// they are: it was asked on their authority, or by an agent of theirs, or the
// mandate names others.
func (a *Approvals) standsAside(h *Hold, p ostiary.PrincipalID, n ostiary.Need) error {
	s := &h.Call.Subject
	if n.Kind != ostiary.NeedApproval {
		if !a.same(p, s.Principal) {
			return errVote("approver_not_principal", "%s asks for the person the agent acts for", n.Fact)
		}
		return nil
	}
	switch {
	case a.same(p, s.Principal) || a.same(p, h.By):
		return errVote("approver_requester", "it is asked on your own authority, so somebody else must decide")
	case !a.mayOwn(n.Group, p) && a.owns(h, p):
		return errVote("approver_owner", "the agent is yours, so somebody else must decide")
	case !named(h.May, p, n.Group):
		return errVote("approver_mandate", "the agent's mandate names others who may approve")
	}
	return nil
}

func errVote(code, format string, args ...any) *ostiary.Error {
	return ostiary.Errorf(ostiary.Denied, code, format, args...)
}

// same reports whether two principals are one human as far as an operator
// said so.
func (a *Approvals) same(p, q ostiary.PrincipalID) bool {
	if p == q {
		return p != ""
	}
	for _, all := range a.o.Rules.Same {
		if slices.Contains(all, p) && slices.Contains(all, q) {
			return true
		}
	}
	return false
}

// mayOwn reports whether a group lets a person consent for their own agent.
func (a *Approvals) mayOwn(group string, p ostiary.PrincipalID) bool {
	g := a.o.Rules.Groups[group]
	if slices.Contains(g.People, p) {
		return g.Owner
	}
	return a.o.Rules.Groups[g.To].Owner
}

// owns reports whether a person is responsible for an agent of the chain.
func (a *Approvals) owns(h *Hold, p ostiary.PrincipalID) bool {
	return slices.ContainsFunc(a.owners(h), func(o ostiary.PrincipalID) bool { return a.same(p, o) })
}

// owners are who is responsible for the agents of the chain. A name alone may
// be a person's.
func (a *Approvals) owners(h *Hold) (out []ostiary.PrincipalID) {
	chain := h.Call.Subject.Chain
	if !slices.Contains(chain, h.Call.Subject.Agent) {
		chain = append(slices.Clone(chain), h.Call.Subject.Agent)
	}
	for _, agent := range chain {
		for _, o := range a.o.Owners(agent) {
			if o == "" {
				continue
			}
			out = append(out, ostiary.PrincipalID(o))
			if !strings.HasPrefix(o, personPrefix) {
				out = append(out, ostiary.PrincipalID(personPrefix+o))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// parties are the names of the humans who have a part in what a hold asks.
type parties struct {
	requesters, owners []string
}

// parties says who has a part in a hold, as people are now.
func (a *Approvals) parties(ctx context.Context, h *Hold) (x parties, err error) {
	if x.requesters, err = a.known(ctx, h.Call.Subject.Principal, h.By); err != nil {
		return x, err
	}
	x.owners, err = a.known(ctx, a.owners(h)...)
	return x, err
}

// known is every name of some humans: what they are called, the other accounts
// that an operator joined, and the links and keys of each.
func (a *Approvals) known(ctx context.Context, ids ...ostiary.PrincipalID) (out []string, err error) {
	looked := map[ostiary.PrincipalID]bool{"": true}
	for len(ids) > 0 {
		id := ids[0]
		if ids = ids[1:]; looked[id] {
			continue
		}
		looked[id] = true
		p, err := a.o.People.Approver(ctx, id)
		switch kind := ostiary.KindOf(err); {
		case err != nil && kind != ostiary.NotFound && kind != ostiary.Malformed:
			return nil, err
		case err != nil: // nobody here, or no name of a person
			p = Approver{Person: id}
		}
		out = append(out, a.humans(&p)...)
		for _, all := range a.o.Rules.Same {
			if slices.Contains(all, id) {
				ids = append(ids, all...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// named reports whether a mandate's list of approvers has a person or the
// group they consent for. What it does not say, it does not allow.
func named(list []string, p ostiary.PrincipalID, group string) bool {
	for _, x := range list {
		if x == "*" || x == string(p) || personPrefix+x == string(p) || x == group {
			return true
		}
	}
	return false
}

// eligible says why a person, by all their names, may not vote for a need now.
func (a *Approvals) eligible(h *Hold, p *Approver, who []string, x *parties, n ostiary.Need, at time.Time) error {
	if n.Kind == ostiary.NeedApproval && !p.Active {
		return errVote("approver_role", "you do not have the role of an approver")
	}
	if n.Kind == ostiary.NeedApproval && !slices.Contains(a.o.Rules.electors(n.Group, at.Sub(h.Created)), p.Person) {
		return errVote("approver_group", "you are not in the group %s", n.Group)
	}
	if err := a.standsAside(h, p.Person, n); err != nil || n.Kind != ostiary.NeedApproval {
		return err
	}
	switch {
	case overlap(who, x.requesters):
		return errVote("approver_requester", "it is asked on the authority of somebody who shares a key or an account with you, so somebody else must decide")
	case !a.mayOwn(n.Group, p.Person) && overlap(who, x.owners):
		return errVote("approver_owner", "the agent belongs to somebody who shares a key or an account with you, so somebody else must decide")
	}
	return nil
}

// roles lists the needs a person may vote for now, or why for none. An error
// of another kind than Denied says that nobody can tell.
func (a *Approvals) roles(ctx context.Context, h *Hold, p *Approver, at time.Time) (out []int, err error) {
	x, err := a.parties(ctx, h)
	if err != nil {
		return nil, err
	}
	who, err := a.known(ctx, p.Person)
	if err != nil {
		return nil, err
	}
	who = append(who, a.humans(p)...)
	for i, n := range h.Needs {
		if e := a.eligible(h, p, who, &x, n, at); e == nil {
			out = append(out, i)
		} else if err == nil {
			err = e
		}
	}
	if len(out) > 0 {
		err = nil
	}
	return out, err
}

// humans are the names under which a person might vote a second time.
func (a *Approvals) humans(p *Approver) []string {
	out := append([]string{string(p.Person)}, p.Verified...)
	for _, all := range a.o.Rules.Same {
		if slices.Contains(all, p.Person) {
			for _, q := range all {
				out = append(out, string(q))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// quorum reports whether the votes on a hold are enough: each need has its
// number of persons, each person counts for one approval only, and each could
// still vote now. A step-up and a statement are counted beside that: they are
// asked of the one person who may not approve.
func (a *Approvals) quorum(ctx context.Context, h *Hold, at time.Time) (enough bool, err error) {
	want := h.Question.Digest()
	var able [][]int // by counted vote: the needs it may serve
	var seen [][]string
	met := make([]bool, len(h.Needs))
	for i := range h.Votes {
		b := &h.Votes[i]
		if !b.Vote.Consent {
			return false, nil
		}
		if b.Vote.Question != want { // cast before the action was narrowed
			continue
		}
		p, err := a.o.People.Approver(ctx, b.Vote.Approver)
		if ostiary.KindOf(err) == ostiary.NotFound {
			continue
		}
		if err != nil {
			return false, err
		}
		if !holdsKey(&p, b.Vote.Key) {
			continue // the key was taken from them since
		}
		who := a.humans(&p)
		if slices.ContainsFunc(seen, func(o []string) bool { return overlap(o, who) }) {
			continue
		}
		serves, err := a.roles(ctx, h, &p, at)
		if err != nil && ostiary.KindOf(err) != ostiary.Denied {
			return false, err
		}
		var approvals []int
		for _, n := range serves {
			switch h.Needs[n].Kind {
			case ostiary.NeedApproval:
				approvals = append(approvals, n)
			case ostiary.NeedStepUp:
				met[n] = met[n] || b.Vote.ByPasskey()
			case ostiary.NeedStatement:
				met[n] = met[n] || strings.TrimSpace(b.Reason) != ""
			}
		}
		seen = append(seen, who)
		able = append(able, approvals)
	}
	for i, n := range h.Needs {
		if n.Kind != ostiary.NeedApproval && !met[i] {
			return false, nil
		}
	}
	return assign(h.Needs, able), nil
}

func holdsKey(p *Approver, key []byte) bool {
	return slices.ContainsFunc(p.Keys, func(k []byte) bool { return len(k) > 0 && string(k) == string(key) })
}

// assign reports whether every approval can have its persons, no person
// counted twice: a matching of places to votes, by augmenting paths. There are
// a few of each.
func assign(needs []ostiary.Need, able [][]int) bool {
	place := map[int]int{} // vote -> seat
	var seats []int        // seat -> need
	for i, n := range needs {
		if n.Kind == ostiary.NeedApproval {
			for range n.People {
				seats = append(seats, i)
			}
		}
	}
	var sit func(seat int, tried map[int]bool) bool
	sit = func(seat int, tried map[int]bool) bool {
		for v, serves := range able {
			if tried[v] || !slices.Contains(serves, seats[seat]) {
				continue
			}
			tried[v] = true
			if old, taken := place[v]; !taken || sit(old, tried) {
				place[v] = seat
				return true
			}
		}
		return false
	}
	for s := range seats {
		if !sit(s, map[int]bool{}) {
			return false
		}
	}
	return true
}

// Waiting says, need by need, who may still decide now: for people who look at
// a hold.
func (a *Approvals) Waiting(h *Hold, at time.Time) map[string][]ostiary.PrincipalID {
	out := map[string][]ostiary.PrincipalID{}
	for _, n := range h.Needs {
		if n.Kind != ostiary.NeedApproval {
			out[n.Fact] = []ostiary.PrincipalID{h.Call.Subject.Principal}
			continue
		}
		out[n.Fact] = []ostiary.PrincipalID{}
		for _, p := range a.o.Rules.electors(n.Group, at.Sub(h.Created)) {
			if a.standsAside(h, p, n) == nil && !slices.ContainsFunc(h.Votes, func(b Ballot) bool { return b.Vote.Approver == p }) {
				out[n.Fact] = append(out[n.Fact], p)
			}
		}
	}
	return out
}
