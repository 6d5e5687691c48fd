package mandate

import (
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// check holds for what is signed and for what is read.
func (p *payload) check() error {
	if err := p.checkNames(); err != nil {
		return err
	}
	for _, l := range []struct {
		field string
		list  []string
		least int
	}{{"actions", p.Actions, 1}, {"resources", p.Resources, 1}, {"classes", p.Classes, 0}, {"approvers", p.Approvers, 0}} {
		if len(l.list) < l.least || len(l.list) > MaxNames {
			return refused(l.field, "a mandate names %d to %d %s", l.least, MaxNames, l.field)
		}
		for _, s := range l.list {
			if !prose(s) || s == "" || len(s) > maxName {
				return refused(l.field, "each of the %s is a text of 1 to %d bytes", l.field, maxName)
			}
		}
	}
	if err := p.checkAmounts(); err != nil {
		return err
	}
	return p.checkTimes()
}

func (p *payload) checkNames() error {
	kind, err := ostiary.ParseMandateKind(p.Kind)
	switch {
	case p.Version != 1:
		return refused("v", "version %d is not known here", p.Version)
	case err != nil:
		return err
	case !named(p.ID):
		return refused("id", "a mandate has a name of visible ASCII, at most %d bytes", maxName)
	case !named(p.Principal):
		return refused("principal", "a mandate names a principal")
	case !named(p.By):
		return refused("by", "a mandate names who gave it")
	case !prose(p.Purpose) || !prose(p.Task):
		return refused("purpose", "purpose and task are texts of at most %d bytes", MaxText)
	case !prose(p.Reason) || p.Reason == "" && (kind == ostiary.GrantMandate || kind == ostiary.BreakGlassMandate):
		return refused("reason", "a grant and a break-glass have a reason, a text of at most %d bytes", MaxText)
	}
	id, err := ostiary.ParseAgentID(p.Agent)
	if err != nil {
		return err
	}
	if "spiffe://"+id.TrustDomain() != p.Issuer {
		return refused("agent", "%s is not of the issuer's trust domain", id)
	}
	under, err := ostiary.ParseDigest(p.Under)
	switch {
	case err != nil:
		return refused("parent_digest", "%v", err)
	case (p.Parent == "") != under.IsZero() || p.Parent != "" && !named(p.Parent):
		return refused("parent", "a derived mandate has a parent's name and digest, another has neither")
	}
	return nil
}

func (p *payload) checkAmounts() error {
	if len(p.Ceilings) > MaxCeilings {
		return refused("ceilings", "a mandate has at most %d ceilings", MaxCeilings)
	}
	for _, c := range p.Ceilings {
		if v := ostiary.Ceiling(c); !v.Valid() || !prose(c.Action+c.Pointer+c.Unit) || len(c.Action+c.Pointer) > maxName {
			return refused("ceilings", "a ceiling has an action, a JSON Pointer into its arguments, and a decimal without sign and exponent")
		}
	}
	b := &p.Budget
	if len(b.Money) > MaxMoney {
		return refused("budget", "a budget has at most %d currencies", MaxMoney)
	}
	seen := map[string]bool{}
	for _, m := range b.Money {
		if !named(m.Currency) || len(m.Currency) > 16 || seen[m.Currency] || m.Minor < 0 || m.Minor > maxAmount {
			return refused("budget", "a budget names each currency once, with whole minor units from 0 to 2^53")
		}
		seen[m.Currency] = true
	}
	for _, n := range []int64{b.Calls, b.Tokens, b.Bytes} {
		if n < 0 || n > maxAmount {
			return refused("budget", "calls, tokens and bytes are from 0, which is no bound, to 2^53")
		}
	}
	return nil
}

func (p *payload) checkTimes() error {
	switch {
	case p.Depth < 0 || p.Depth > MaxDepth:
		return refused("depth", "a mandate allows at most %d delegations", MaxDepth)
	case p.Epoch < 0 || p.Epoch > maxAmount:
		return refused("epoch", "an epoch is a number from 0")
	case p.Issued < 0 || p.Issued > 1<<40 || p.NotBefore < 0 || p.Expires <= p.NotBefore || p.Expires > 1<<40:
		return refused("expires", "a mandate ends after it begins")
	}
	return nil
}

func refused(field, format string, args ...any) error {
	return ostiary.Errorf(ostiary.Malformed, "mandate", format, args...).At(field)
}

func named(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func prose(s string) bool { return len(s) <= MaxText && utf8.ValidString(s) }

func (p *payload) signed() (Signed, error) {
	under, err := ostiary.ParseDigest(p.Under)
	if err != nil {
		return Signed{}, err
	}
	kind, err := ostiary.ParseMandateKind(p.Kind)
	m := ostiary.Mandate{
		ID: ostiary.MandateID(p.ID), Kind: kind, Parent: ostiary.MandateID(p.Parent), Principal: ostiary.PrincipalID(p.Principal), By: ostiary.PrincipalID(p.By),
		Agent: ostiary.AgentID(p.Agent), Purpose: p.Purpose, Task: p.Task, Reason: p.Reason,
		Actions: p.Actions, Resources: p.Resources, Classes: p.Classes, Approvers: p.Approvers,
		Budget: ostiary.Budget{Calls: p.Budget.Calls, Tokens: p.Budget.Tokens, Bytes: p.Budget.Bytes},
		Depth:  p.Depth, Epoch: uint64(p.Epoch), Issued: at(p.Issued), NotBefore: at(p.NotBefore), Expires: at(p.Expires),
	}
	for _, c := range p.Ceilings {
		m.Ceilings = append(m.Ceilings, ostiary.Ceiling(c))
	}
	for _, x := range p.Budget.Money {
		m.Budget.Money = append(m.Budget.Money, ostiary.Money(x))
	}
	return Signed{Mandate: m, Issuer: p.Issuer, Under: under}, err
}

func at(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
