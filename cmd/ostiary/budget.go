package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/control"
)

type budgetCmd struct {
	List    budgetListCmd    `cmd:"" help:"List what is spent, held and left, and the calls of which nobody knows what became."`
	Show    budgetShowCmd    `cmd:"" help:"Show one budget: its rule, its accounts, and who holds what."`
	Resolve budgetResolveCmd `cmd:"" help:"Say what became of a call that nobody knows the end of, so that what it held is spent or given back."`
}

func (e *env) budgets() (out control.Budgets, err error) {
	return out, e.ask(http.MethodGet, "/v1/budgets", nil, nil, &out)
}

type budgetListCmd struct{}

func (budgetListCmd) Run(e *env) error {
	all, err := e.budgets()
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	return e.printBudgets(all)
}

type budgetShowCmd struct {
	Name string `arg:"" help:"The budget's configured name, or mandate: and the id of a mandate."`
}

func (c *budgetShowCmd) Run(e *env) error {
	all, err := e.budgets()
	if err != nil {
		return err
	}
	one := control.Budgets{Rules: []control.BudgetRule{}, Accounts: []control.Account{}, Holds: []control.BudgetHold{}}
	for _, r := range all.Rules {
		if r.Name == c.Name {
			one.Rules = append(one.Rules, r)
		}
	}
	for _, a := range all.Accounts {
		if a.Budget == c.Name {
			one.Accounts = append(one.Accounts, a)
		}
	}
	for _, h := range all.Holds {
		if slices.ContainsFunc(h.Words, func(w string) bool { return strings.Contains(w+" ", " of "+c.Name+" ") }) {
			one.Holds = append(one.Holds, h)
		}
	}
	if len(one.Rules)+len(one.Accounts) == 0 {
		return fmt.Errorf("there is no budget %s, or nothing was ever spent of it; see: ostiary budget list", c.Name)
	}
	if e.cli.JSON {
		return e.printJSON(one)
	}
	return e.printBudgets(one)
}

func (e *env) printBudgets(all control.Budgets) error {
	if len(all.Rules)+len(all.Accounts) == 0 {
		fmt.Fprintln(e.stdout, "No budget is configured, and nothing was spent under a mandate that has one.")
		return nil
	}
	var rows [][]string
	for _, r := range all.Rules {
		var limits []string
		for _, unit := range slices.Sorted(maps.Keys(r.Limits)) {
			limits = append(limits, budget.Amount(unit, r.Limits[unit]))
		}
		rows = append(rows, []string{r.Name, r.For, r.Window, strings.Join(limits, ", "), listOr(r.Actions, "every call"), listOr(r.Servers, "every server")})
	}
	if err := e.section([]string{"BUDGET", "FOR", "EACH", "LIMIT", "ACTIONS", "SERVERS"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, a := range all.Accounts {
		state := "until " + when(a.Ends)
		if a.Over {
			state = "over since " + when(a.Ends)
		}
		rows = append(rows, []string{a.Budget, cmp.Or(a.Holder, "everyone"), budget.Amount(a.Unit, a.Spent), budget.Amount(a.Unit, a.Held), budget.Amount(a.Unit, a.Left), state})
	}
	if err := e.section([]string{"BUDGET", "OF", "SPENT", "HELD", "LEFT", "WINDOW"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, h := range all.Holds {
		state := "running"
		if h.Unknown {
			state = "unknown"
		}
		rows = append(rows, []string{h.Intent, state, h.Agent, h.Action, when(h.Made), strings.Join(h.Words, ", ")})
	}
	return e.section([]string{"INTENT", "STATE", "AGENT", "ACTION", "SINCE", "HOLDS"}, rows)
}

// section prints a table if it has rows, and a line before it if something
// stands there.
func (e *env) section(head []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	if err := e.table(head, rows); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout)
	return nil
}

func listOr(list []string, none string) string { return cmp.Or(strings.Join(list, ", "), none) }

type budgetResolveCmd struct {
	Intent string `arg:"" help:"The call: the id of its intent as the list shows it, or its beginning, or its entry in the log."`
	Spent  bool   `xor:"how" required:"" help:"The call happened: what it held is spent."`
	Back   bool   `xor:"how" required:"" help:"The call did not happen: what it held is given back."`
	Reason string `required:"" placeholder:"TEXT" help:"How you know; it stays in the log."`
}

func (c *budgetResolveCmd) Run(e *env) error {
	var out control.BudgetHold
	if err := e.ask(http.MethodPost, "/v1/budgets/resolve", nil, control.ResolveRequest{Intent: c.Intent, Spent: c.Spent, Reason: c.Reason}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	what := "given back"
	if c.Spent {
		what = "spent"
	}
	fmt.Fprintf(e.stdout, "%s: %s\n", what, show(strings.Join(out.Words, ", ")))
	return nil
}
