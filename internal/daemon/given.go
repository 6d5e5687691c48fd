package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/console"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/identity"
)

// given is what persons gave, or others on their authority, for their pages:
// the first mandates of chains.
type given struct {
	authority *identity.Authority
	control   *control.Control
}

// maxGiven bounds what a page lists of one person; the registry's own bound.
const maxGiven = 1000

// stateWords are the authority's states as a page says them.
var stateWords = map[string]string{"in_force": console.InForce, "not_yet": console.NotYet}

func stateWord(state string) string {
	if w, ok := stateWords[state]; ok {
		return w
	}
	return state
}

// Unreviewed implements [console.Mandates].
func (g given) Unreviewed(ctx context.Context) (out []console.Given, err error) {
	all, err := g.authority.Mandates(ctx, identity.MandateFilter{Review: true, Limit: maxGiven})
	for _, v := range all {
		out = append(out, console.Given{Mandate: v.Mandate, State: stateWord(v.State)})
	}
	return out, err
}

// Review implements [console.Mandates].
func (g given) Review(ctx context.Context, by ostiary.PrincipalID, id ostiary.MandateID) error {
	return g.control.Review(ctx, by, string(by), id)
}

// Given implements [console.Mandates].
func (g given) Given(ctx context.Context, by ostiary.PrincipalID) ([]console.Given, error) {
	// Apart: what agents derived must not push what a person gave off the page
	// where they can end it.
	all, err := g.authority.Mandates(ctx, identity.MandateFilter{Principal: by, First: true, Limit: maxGiven})
	if err != nil {
		return nil, err
	}
	derived, err := g.authority.Mandates(ctx, identity.MandateFilter{Principal: by, Limit: maxGiven})
	if err != nil {
		return nil, err
	}
	below := map[ostiary.MandateID]int{}
	for _, v := range derived {
		if v.State == "in_force" && len(v.Effective.Links) > 1 {
			below[v.Effective.Links[0]]++
		}
	}
	var out []console.Given
	for _, v := range all {
		if v.Mandate.Parent != "" || v.Mandate.By != by && v.Mandate.Principal != by {
			continue
		}
		out = append(out, console.Given{Mandate: v.Mandate, State: stateWord(v.State), Below: below[v.Mandate.ID]})
	}
	slices.SortStableFunc(out, func(a, b console.Given) int { return b.Issued.Compare(a.Issued) })
	return out, nil
}

// End implements [console.Mandates].
func (g given) End(ctx context.Context, by ostiary.PrincipalID, id ostiary.MandateID, completed bool, reason string) error {
	v, err := g.authority.MandateView(ctx, id)
	if err != nil {
		return err
	}
	if v.Mandate.By != by && v.Mandate.Principal != by || v.Mandate.Parent != "" {
		return ostiary.Errorf(ostiary.NotFound, "no_mandate", "you gave no such mandate")
	}
	how := identity.EndRevoked
	if completed {
		how = identity.EndCompleted
	}
	return g.authority.EndMandate(ctx, string(by), id, how, reason)
}

// endGiven ends everything a person gave, with all that was derived from it:
// the revocation of a person.
func endGiven(a *identity.Authority, clock func() time.Time) func(context.Context, ostiary.PrincipalID, string) error {
	return func(ctx context.Context, person ostiary.PrincipalID, by string) error {
		_, err := a.Revoke(ctx, identity.Revocation{Kind: identity.RevokePerson, Subject: string(person), Reason: "the person was revoked by " + by, At: clock()})
		return err
	}
}
