package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// Budgets are what calls may spend, and what they did. Safe for concurrent
// use.
type Budgets interface {
	// Budgets returns every account that was charged, and every hold.
	Budgets(ctx context.Context) ([]Purse, []SpendingHold, error)
}

// Purse is one unit of one budget, for one holder, in its newest window.
// Amounts are shown exactly, money in its currency.
type Purse struct {
	Budget                   string // a configured name, or "mandate:" and its id
	Holder                   string // whose; "" for everybody's
	Unit                     string
	Limit, Spent, Held, Left string
	SpentShare, HeldShare    int       // of a thousand
	Window                   time.Time // its start; zero: it lasts as long as the mandate
	Ends                     time.Time
	Over                     bool // the window is over: the next call finds it whole again
}

// SpendingHold is what one call holds until it has settled.
type SpendingHold struct {
	Intent, Gateway string
	Agent, Action   string
	Made            time.Time
	Unknown         bool // nobody knows what became of the call
	Words           []string
}

// budgetsPage is what is spent, held and left.
type budgetsPage struct {
	Rows    []purseRow
	Holds   []spendingRow
	Unknown int // holds of calls of which nobody knows
	Tight   int // budgets of which less than a tenth is left
}

type purseRow struct {
	Purse
	Name   Foreign
	Whose  Foreign
	Link   string // of the agent whose it is
	Tight  bool
	HeldAt int // where the held part begins, of a thousand
}

type spendingRow struct {
	SpendingHold
	Agent  Foreign
	Link   string
	Action Foreign
	Says   []Foreign
}

func (c *Console) budgets(x *exchange) error {
	purses, holds, err := c.o.Budgets.Budgets(x.r.Context())
	if err != nil {
		return err
	}
	var p budgetsPage
	for _, a := range purses {
		row := purseRow{Purse: a, Name: NewForeign(a.Budget), Whose: NewForeign(shortName(a.Holder)), HeldAt: a.SpentShare, Tight: !a.Over && a.SpentShare+a.HeldShare > 900}
		if strings.HasPrefix(a.Holder, spiffe) {
			row.Link = agentLink(a.Holder)
		}
		if row.Tight {
			p.Tight++
		}
		p.Rows = append(p.Rows, row)
	}
	slices.SortStableFunc(p.Rows, func(a, b purseRow) int { return b.SpentShare + b.HeldShare - a.SpentShare - a.HeldShare })
	for _, h := range holds {
		row := spendingRow{SpendingHold: h, Agent: NewForeign(ostiary.AgentID(h.Agent).Name()), Link: agentLink(h.Agent), Action: NewForeign(h.Action)}
		for _, w := range h.Words {
			row.Says = append(row.Says, NewForeign(w))
		}
		if h.Unknown {
			p.Unknown++
		}
		p.Holds = append(p.Holds, row)
	}
	return c.show(x, http.StatusOK, "budgets", "Budgets", frame{Page: "budgets", Content: p})
}

// left is what is left of the budgets that a held action would draw on, as far
// as their names say.
func (c *Console) left(ctx context.Context, h *control.Held) ([]Purse, error) {
	if c.o.Budgets == nil {
		return nil, nil
	}
	purses, _, err := c.o.Budgets.Budgets(ctx)
	return slices.DeleteFunc(purses, func(p Purse) bool {
		return p.Budget != "mandate:"+h.Mandate && p.Holder != h.Agent && p.Holder != h.Principal && p.Holder != h.Mandate
	}), err
}
