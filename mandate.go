package ostiary

import (
	"slices"
	"time"
)

// MandateID names a mandate.
type MandateID string

// MandateKind says what a mandate is for. The zero kind is none, and no
// mandate has it.
type MandateKind uint8

const (
	NoMandateKind     MandateKind = iota
	StandingMandate               // for an agent without a task of its own: from enrolment, renewed by a person
	TaskMandate                   // for one task
	GrantMandate                  // just in time: with a reason and a short life
	BreakGlassMandate             // in an emergency: with a reason, a short life, and a review afterwards
)

// String returns the word of k, the zero kind's for one that has none.
func (k MandateKind) String() string {
	if int(k) >= len(mandateKinds) {
		return mandateKinds[0]
	}
	return mandateKinds[k]
}

var mandateKinds = [...]string{"none", "standing", "task", "grant", "break_glass"}

// ParseMandateKind reads what String wrote, except none.
func ParseMandateKind(s string) (MandateKind, error) {
	if i := slices.Index(mandateKinds[1:], s); i >= 0 {
		return MandateKind(i + 1), nil
	}
	return NoMandateKind, Errorf(Malformed, "mandate", "%q is no kind of mandate: standing, task, grant or break_glass", s).At("kind")
}

// Mandate is a signed, expiring delegation, as far as the gate and policy see
// it. Its signed form is a compact JWS. The zero Mandate allows nothing.
//
// It is one link of a chain, or what a whole chain allows: see [Effective].
type Mandate struct {
	ID        MandateID
	Kind      MandateKind
	Parent    MandateID // the mandate it was derived from; "" for the first of a chain
	Principal PrincipalID
	By        PrincipalID // the person who gave the first of the chain
	Agent     AgentID
	Purpose   string
	Task      string
	Reason    string   // why it was given; a grant and a break-glass have one
	Actions   []string // names of actions, and groups as policy knows them; "*" covers all that policy allows
	Resources []string // servers; "*" covers all
	Classes   []string // data classes; "*" covers all
	Ceilings  []Ceiling
	Budget    Budget
	Approvers []string // who may approve what is done under it, as far as policy lets them; "*" is whoever policy names
	Depth     int64    // how many further delegations it allows
	Epoch     uint64   // the revocation epoch it was issued in: a person's or an agent's later revocation ends it
	Issued    time.Time
	NotBefore time.Time
	Expires   time.Time

	// Of an effective mandate alone.
	Links  []MandateID // the chain, from the first to this one
	Within [][]string  // lists like Actions that an action must be in too: of links above, where Actions does not say it already
	// Budgets are those of every link that has one, from the first: each is
	// charged with what is done under this mandate, within its own bounds.
	Budgets []LinkBudget
}

// Ceiling bounds one argument of the actions it names: the argument must be
// there, be a number, and be no further from zero than Max.
type Ceiling struct {
	Action  string // an action, a group, or "*"
	Pointer string // JSON Pointer (RFC 6901) into the arguments
	Max     string // a decimal without sign and exponent: "2000", "0.5"
	Unit    string // for people: "EUR", "minor units"
}

// Budget bounds what may be spent under a mandate and everything derived from
// it. A zero sets no bound.
type Budget struct {
	Money  []Money // one for each currency
	Calls  int64
	Tokens int64
	Bytes  int64
}

// Money is an amount in whole minor units of a currency.
type Money struct {
	Currency string // ISO 4217: "EUR"
	Minor    int64
}

// What keeps a connection working, and asking what there is, is part of every
// mandate in force: the lists show what it covers and nothing else. They are
// policy's groups of these names, and policy decides on them as on anything.
const (
	groupSession = "session"
	groupLists   = "lists"
)

// Covers reports whether the mandate allows the action at t. Whatever it does
// not say, it does not allow. Ceilings are for [Mandate.CheckCeilings].
func (m *Mandate) Covers(a *Action, r *Resource, t time.Time) bool {
	if m.ID == "" || t.Before(m.NotBefore) || !t.Before(m.Expires) {
		return false
	}
	return m.CoversResource(r) && m.CoversAction(a)
}

// CoversAction reports whether every link names the action, or a group it is
// in, whatever it is done to and when.
func (m *Mandate) CoversAction(a *Action) bool {
	if m.ID == "" || !names(m.Actions, a) && !keeping(a) {
		return false
	}
	for _, list := range m.Within {
		if !names(list, a) && !keeping(a) {
			return false
		}
	}
	return true
}

// CoversResource reports whether the mandate names the server. The gateway
// itself, where agents ask what there is, is no server and always covered.
func (m *Mandate) CoversResource(r *Resource) bool {
	return r.Server == "" && m.ID != "" || covers(m.Resources, r.Server)
}

func keeping(a *Action) bool {
	return slices.Contains(a.Groups, groupSession) || slices.Contains(a.Groups, groupLists)
}

// names reports whether a list names an action, a group it is in, or all.
func names(list []string, a *Action) bool {
	for _, x := range list {
		if x == "*" || x == a.Name || slices.Contains(a.Groups, x) {
			return true
		}
	}
	return false
}

func covers(list []string, s string) bool {
	for _, x := range list {
		if x == "*" || x == s {
			return true
		}
	}
	return false
}

// CheckCeilings holds the arguments of an action against every ceiling that
// names it. Numbers are compared as they are written, exactly.
func (m *Mandate) CheckCeilings(a *Action) error {
	for i := range m.Ceilings {
		c := &m.Ceilings[i]
		if c.Action != "*" && c.Action != a.Name && !slices.Contains(a.Groups, c.Action) {
			continue
		}
		v := a.Arguments.Find(c.Pointer)
		if v.Kind() != Number {
			return Errorf(Denied, "ceiling", "mandate %s bounds %s, so it must be there and be a number", m.ID, c.Pointer).At(c.Pointer)
		}
		if compareMagnitude(v.Literal(), c.Max) > 0 {
			return Errorf(Denied, "ceiling", "mandate %s allows at most %s in %s", m.ID, c.most(), c.Pointer).At(c.Pointer)
		}
	}
	return nil
}

// Valid reports whether the ceiling is one: it names an action, points into
// the arguments, and its bound is a decimal.
func (c *Ceiling) Valid() bool {
	return c.Action != "" && IsPointer(c.Pointer) && isDecimal(c.Max)
}

// most is the bound in words.
func (c *Ceiling) most() string {
	if c.Unit == "" {
		return c.Max
	}
	return c.Max + " " + c.Unit
}
