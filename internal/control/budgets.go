package control

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/budget"
)

// Budgets is what is spent and held, of every account that was ever charged.
type Budgets struct {
	Rules    []BudgetRule `json:"rules"`
	Accounts []Account    `json:"accounts"`
	Holds    []BudgetHold `json:"holds"`
}

// BudgetRule is a configured budget.
type BudgetRule struct {
	Name    string           `json:"name"`
	For     string           `json:"for"`
	Actions []string         `json:"actions,omitempty"` // none: all
	Servers []string         `json:"servers,omitempty"` // none: all
	Window  string           `json:"window"`
	Limits  map[string]int64 `json:"limits"` // by unit
}

// Account is one unit of one budget, for one holder, in its newest window.
// Amounts of money are in minor units.
type Account struct {
	Budget string    `json:"budget"` // a configured name, or "mandate:" and its id
	Holder string    `json:"holder,omitempty"`
	Unit   string    `json:"unit"` // "calls", "tokens", "bytes", or a currency
	Limit  int64     `json:"limit"`
	Spent  int64     `json:"spent"`
	Held   int64     `json:"held"` // by calls under way, and by those of which nobody knows what became
	Left   int64     `json:"left"`
	Window time.Time `json:"window,omitzero"` // its start; none: it lasts as long as the mandate
	Ends   time.Time `json:"ends"`
	Over   bool      `json:"over,omitempty"` // the window is over: the next call finds the budget whole again
	Words  string    `json:"words"`
}

// BudgetHold is what one call holds.
type BudgetHold struct {
	Intent  string    `json:"intent"` // the id of its Intent
	Gateway string    `json:"gateway"`
	Agent   string    `json:"agent"`
	Mandate string    `json:"mandate"`
	Action  string    `json:"action"`
	Made    time.Time `json:"made"`
	Unknown bool      `json:"unknown"` // nobody knows what became of the call: see ResolveRequest
	Words   []string  `json:"words"`
}

// ResolveRequest ends a hold of which nobody knows what became of its call.
type ResolveRequest struct {
	Intent string `json:"intent"` // its id, or a beginning of it that no other hold has, or its place in the log
	Spent  bool   `json:"spent"`  // false: it is given back
	Reason string `json:"reason"`
}

func (c *Control) getBudgets(r *http.Request) (any, error) { return c.Budgets(r.Context()) }

// Budgets reads what is spent and held.
func (c *Control) Budgets(ctx context.Context) (Budgets, error) {
	out := Budgets{Rules: []BudgetRule{}, Accounts: []Account{}, Holds: []BudgetHold{}}
	accounts, rules, err := c.o.Budgets.Accounts(ctx)
	if err != nil {
		return out, err
	}
	holds, err := c.o.Budgets.Holds(ctx)
	if err != nil {
		return out, err
	}
	for _, r := range rules {
		out.Rules = append(out.Rules, BudgetRule{r.Name, r.For, r.Actions, r.Servers, string(r.Window), limits(&r.Limit)})
	}
	for _, a := range accounts {
		out.Accounts = append(out.Accounts, accountOf(a, c.o.Clock()))
	}
	for _, h := range holds {
		out.Holds = append(out.Holds, holdOf(h))
	}
	return out, nil
}

func limits(b *ostiary.Budget) map[string]int64 {
	out := map[string]int64{}
	for _, m := range b.Money {
		out[m.Currency] = m.Minor
	}
	for unit, n := range map[string]int64{ostiary.UnitCalls: b.Calls, ostiary.UnitTokens: b.Tokens, ostiary.UnitBytes: b.Bytes} {
		if n > 0 {
			out[unit] = n
		}
	}
	return out
}

func accountOf(s budget.State, now time.Time) Account {
	a := Account{
		Budget: s.Budget, Holder: s.Holder, Unit: s.Unit, Limit: s.Limit, Spent: s.Spent, Held: s.Held, Left: s.Left(),
		Window: s.Window, Ends: s.Ends, Over: !s.Ends.After(now),
	}
	a.Words = fmt.Sprintf("%s left of %s", budget.Amount(s.Unit, a.Left), budget.Amount(s.Unit, s.Limit))
	if s.Held > 0 {
		a.Words += ", " + budget.Amount(s.Unit, s.Held) + " held"
	}
	return a
}

func holdOf(r budget.Record) BudgetHold {
	h := BudgetHold{
		Intent: r.ID.String(), Gateway: r.Gateway, Agent: string(r.Agent), Mandate: string(r.Mandate), Action: r.Action, Made: r.Made, Unknown: r.Unknown, Words: []string{},
	}
	for _, p := range r.Parts {
		h.Words = append(h.Words, budget.Amount(p.Unit, p.Amount)+" of "+strings.TrimSuffix(p.Budget+" "+p.Holder, " "))
	}
	return h
}

// postResolve records that a person decided, and then ends the hold.
func (c *Control) postResolve(ctx context.Context, in ResolveRequest) (any, error) {
	if strings.TrimSpace(in.Reason) == "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "reason", "say why; it stays in the log").At("reason")
	}
	r, err := c.heldBy(ctx, in.Intent)
	if err != nil {
		return nil, err
	}
	what := "given back"
	if in.Spent {
		what = "spent"
	}
	h := holdOf(r)
	detail := detailJSON(map[string]string{
		"text": fmt.Sprintf("what %s held is %s: %s: %s", h.Intent, what, strings.Join(h.Words, ", "), in.Reason), "intent": h.Intent, "reason": in.Reason, "by": operator(ctx),
	})
	if _, err := c.change(ctx, "budget_resolve", "ok", detail); err != nil {
		return nil, err
	}
	if r, err = c.o.Budgets.Resolve(ctx, r.ID, in.Spent, operator(ctx)); err != nil {
		return nil, err
	}
	return holdOf(r), nil
}

// leastPrefix is the shortest beginning of an id that names a hold.
const leastPrefix = 6

// heldBy finds the one unknown hold that an id, or its beginning, names.
func (c *Control) heldBy(ctx context.Context, name string) (found budget.Record, err error) {
	if strings.Contains(name, "/") {
		if name, err = c.intentAt(ctx, name); err != nil {
			return found, err
		}
	}
	if len(name) < leastPrefix {
		return found, ostiary.Errorf(ostiary.Malformed, "intent", "write the id of the call's intent, or its first %d digits or more; see: ostiary budget list", leastPrefix).At("intent")
	}
	holds, err := c.o.Budgets.Holds(ctx)
	if err != nil {
		return found, err
	}
	n := 0
	for _, h := range holds {
		if strings.HasPrefix(h.ID.String(), name) {
			found, n = h, n+1
		}
	}
	switch {
	case n == 0:
		return found, ostiary.Errorf(ostiary.NotFound, "no_held_budget", "nothing is held by %s; see: ostiary budget list", name).At("intent")
	case n > 1:
		return found, ostiary.Errorf(ostiary.Malformed, "intent", "%d holds begin with %s; write more of it", n, name).At("intent")
	case !found.Unknown:
		return found, ostiary.Errorf(ostiary.Conflict, "budget_running", "the call of %s is still running, and settles what it holds itself", name).At("intent")
	}
	return found, nil
}

// intentAt returns the id of the Intent that an entry is, or answers.
func (c *Control) intentAt(ctx context.Context, place string) (string, error) {
	ref, err := ostiary.ParseEntryRef(place)
	if err != nil {
		return "", ostiary.Errorf(ostiary.Malformed, "entry", "%v", err).At("intent")
	}
	e, err := c.o.Log.Entry(ctx, ref)
	if err != nil {
		return "", err
	}
	if e.Entry.Kind == ostiary.KindOutcome {
		return e.Entry.Answers.String(), nil
	}
	return e.Entry.ID.String(), nil
}
