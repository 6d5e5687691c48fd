package identity

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// footing is what an agent stands on: a verified mandate, with what its whole
// chain allows, worked out once and not on each request. Immutable once its
// directory is in place.
type footing struct {
	*agent                        // who acts under it
	Principal ostiary.PrincipalID // on whose authority
	chain     []ostiary.AgentID   // the agents of the chain, the first delegate first; shared, so nobody appends to it
	effective ostiary.Mandate     // what the chain allows
	link      ostiary.Mandate     // this mandate alone, as it was signed
	under     ostiary.Digest      // of the mandate it was derived from
	digest    ostiary.Digest      // of its own signed form
	jws       string              // what it was verified from
	links     []ostiary.Mandate   // the chain as signed
	record    MandateRecord       // what became of it
	parent    *footing            // what it was derived from, nil if from nothing
	over      string              // why it could not be in force when it was read, for our log; "" if it may be: see [directory.over]
	held      atomic.Uint64       // the version of the directory in which its whole chain was last found in force
	state     settling            // of settle
}

type settling uint8

const (
	unsettled settling = iota
	settlingNow
	settled
)

// readMandates verifies each stored mandate, once: its signed form is the
// truth, the columns beside it must agree. One that does not verify is left
// out, so that whoever stands on it is refused and nobody else is.
func (a *Authority) readMandates(d *directory, records []MandateRecord) {
	old := a.dir.Load()
	for _, r := range records {
		f := &footing{record: r, jws: r.JWS}
		// In another stage the key it was verified with may be refused.
		if o := old.mandate(r.ID); o != nil && old.stage == d.stage && o.jws == r.JWS && o.link.Agent == r.Agent {
			f.link, f.under, f.digest = o.link, o.under, o.digest
		} else if err := a.readMandate(f); err != nil {
			a.log.Error("a stored mandate does not verify and is not used", "mandate", string(r.ID), "agent", string(r.Agent), "error", err)
			continue
		}
		d.mandates[r.ID] = f
	}
}

func (d *directory) mandate(id ostiary.MandateID) *footing {
	if d == nil {
		return nil
	}
	return d.mandates[id]
}

func (a *Authority) readMandate(f *footing) (err error) {
	r := &f.record
	if f.link, f.under, err = a.mandates.Verify(r.JWS); err != nil {
		return err
	}
	m := &f.link
	if m.ID != r.ID || m.Agent != r.Agent || m.Kind != r.Kind || m.Parent != r.Parent || m.ID == GatewayMandate {
		return errors.New("the row and the signed mandate differ")
	}
	f.digest = ostiary.DigestOf([]byte(r.JWS))
	return nil
}

// settle works out what each mandate's chain allows and whether a link of it
// has ended. What did not change since old is taken over from it.
func (d *directory) settle(old *directory) {
	for _, f := range d.mandates {
		d.settleOne(f, old)
	}
}

// settleOne goes up the chain. A chain is as long as its depths allow, and
// no mandate can hold the digest of one that holds its own; a row that says
// otherwise ends at settlingNow.
func (d *directory) settleOne(f *footing, old *directory) {
	switch f.state {
	case settled:
		return
	case settlingNow:
		f.over = "its chain is a circle"
		return
	}
	f.state = settlingNow
	defer func() { f.state = settled }()
	f.agent, f.Principal = d.agents[f.link.Agent], f.link.Principal
	parent := d.mandates[f.link.Parent]
	if f.link.Parent != "" && parent != nil {
		d.settleOne(parent, old)
	}
	switch {
	case f.agent == nil:
		f.over = "its agent is not enrolled"
	case f.link.Parent != "" && parent == nil:
		f.over = "the mandate it was derived from is not in force"
	case parent != nil && parent.over != "":
		f.over = "above it: " + parent.over
	case parent != nil && f.under != parent.digest:
		f.over = "it was derived from another mandate than the one it names"
	case parent != nil && parent.Disabled:
		f.over = "the agent above it is disabled"
	default:
		f.parent = parent
		d.intersect(f, parent, old)
		f.end()
	}
}

// intersect works out the chain, if its parent's is not the one it was worked
// out from before.
func (d *directory) intersect(f, parent *footing, old *directory) {
	if o := old.mandate(f.link.ID); o != nil && o.jws == f.jws && o.chain != nil && sameChain(o, parent) {
		f.links, f.effective, f.chain = o.links, o.effective, o.chain
		return
	}
	if parent != nil {
		f.links = append(append(f.links, parent.links...), f.link)
		f.chain = append(append(f.chain, parent.chain...), f.link.Agent)
	} else {
		f.links, f.chain = []ostiary.Mandate{f.link}, []ostiary.AgentID{f.link.Agent}
	}
	var err error
	if f.effective, err = ostiary.Effective(f.links); err != nil {
		f.over = err.Error()
	}
}

// sameChain reports whether a mandate's chain was worked out from this parent:
// the digest it holds is of the parent's signed form, and that holds its own.
func sameChain(o, parent *footing) bool {
	return parent == nil && len(o.links) == 1 || parent != nil && o.under == parent.digest && len(o.links) == len(parent.links)+1
}

// end notes whether the mandate had ended by itself when it was read.
func (f *footing) end() {
	switch {
	case !f.record.Ended.IsZero():
		f.over = "it was " + string(f.record.How)
	case f.link.Kind == ostiary.StandingMandate && f.parent != nil:
		f.over = "a standing mandate is derived from none"
	}
}

// stands returns what the agent stands on if it may act now: enrolled, not
// disabled, and the mandate in force, with its whole chain. "" is its present
// standing mandate. A standing one is in force only while it is on the
// authority of the agent's own principal.
func (d *directory) stands(now time.Time, id ostiary.AgentID, m ostiary.MandateID) (*footing, error) {
	g, ok := d.agents[id]
	if !ok {
		_, err := refuse(errors.New("the agent is not enrolled"))
		return nil, err
	}
	if g.Disabled {
		return nil, ostiary.Errorf(ostiary.Denied, "agent_disabled", "this agent is disabled")
	}
	if m == "" {
		m = g.Mandate
	}
	f, ok := d.mandates[m]
	if !ok || f.link.Agent != id || d.over(f) != "" {
		return nil, ostiary.Errorf(ostiary.Denied, "mandate_ended", "the mandate this agent acts under is revoked, completed or unknown")
	}
	if d.ends.sessions.has(m) {
		return nil, ostiary.Errorf(ostiary.Denied, "session_ended", "the session of this agent under this mandate was revoked, for good")
	}
	if now.Before(f.effective.NotBefore) || !now.Before(f.effective.Expires) {
		return nil, ostiary.Errorf(ostiary.Denied, "mandate_ended", "the mandate this agent acts under is not in force now: a person must renew it, or enrol the agent again")
	}
	if f.link.Kind == ostiary.StandingMandate && g.AgentRecord.Principal != f.Principal {
		_, err := refuse(errors.New("the agent's principal has changed since"))
		return nil, err
	}
	return f, nil
}
