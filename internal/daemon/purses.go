package daemon

import (
	"context"

	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/console"
	"github.com/ostiary/ostiary/internal/control"
)

// purses are the budgets as the console shows them.
type purses struct{ control *control.Control }

// Budgets implements [console.Budgets].
func (p purses) Budgets(ctx context.Context) ([]console.Purse, []console.SpendingHold, error) {
	all, err := p.control.Budgets(ctx)
	if err != nil {
		return nil, nil, err
	}
	var accounts []console.Purse
	for _, a := range all.Accounts {
		accounts = append(accounts, console.Purse{
			Budget: a.Budget, Holder: a.Holder, Unit: a.Unit, Limit: budget.Amount(a.Unit, a.Limit), Spent: budget.Amount(a.Unit, a.Spent), Held: budget.Amount(a.Unit, a.Held), Left: budget.Amount(a.Unit, a.Left),
			SpentShare: share(a.Spent, a.Limit), HeldShare: share(a.Held, a.Limit), Window: a.Window, Ends: a.Ends, Over: a.Over,
		})
	}
	var holds []console.SpendingHold
	for _, h := range all.Holds {
		holds = append(holds, console.SpendingHold{Intent: h.Intent, Gateway: h.Gateway, Agent: h.Agent, Action: h.Action, Made: h.Made, Unknown: h.Unknown, Words: h.Words})
	}
	return accounts, holds, nil
}

// share is n of a whole, of a thousand: for a picture alone.
func share(n, whole int64) int {
	if whole <= 0 || n >= whole {
		return 1000
	}
	return int(float64(max(n, 0)) / float64(whole) * 1000)
}
