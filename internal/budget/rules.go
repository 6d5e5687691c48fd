package budget

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// Whose account of a budget is charged. A budget for an agent is also charged
// with what those do whom the agent delegated to: handing on work does not
// hand on more to spend.
const (
	ForEveryone   = "everyone"    // one account for all
	ForEachAgent  = "each-agent"  // an account for each agent
	ForEachPerson = "each-person" // an account for each principal
	ForAgent      = "agent:"      // and a SPIFFE ID: one account, of that agent
	ForRole       = "role:"       // and a role: one account, that all agents in the role share
)

// Window is how long a budget lasts before it is whole again.
type Window string

// The windows. Each begins at a round moment in UTC, a week on Monday.
const (
	Minute Window = "minute"
	Hour   Window = "hour"
	Day    Window = "day"
	Week   Window = "week"
	Month  Window = "month"
)

// Windows lists them, from the shortest.
var Windows = []Window{Minute, Hour, Day, Week, Month}

// At returns the window that a moment is in.
func (w Window) At(t time.Time) (start, end time.Time) {
	t = t.UTC()
	year, month, day := t.Date()
	switch w {
	case Minute:
		start = t.Truncate(time.Minute)
		return start, start.Add(time.Minute)
	case Hour:
		start = t.Truncate(time.Hour)
		return start, start.Add(time.Hour)
	case Day:
		start = time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
		return start, start.AddDate(0, 0, 1)
	case Week:
		start = time.Date(year, month, day-(int(t.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
		return start, start.AddDate(0, 0, 7)
	default:
		start = time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
		return start, start.AddDate(0, 1, 0)
	}
}

// Rule is one configured budget.
type Rule struct {
	Name    string
	For     string   // one of the words above
	Actions []string // actions and policy's groups of them; empty is all
	Servers []string // empty is all
	Window  Window
	Limit   ostiary.Budget
}

// covers reports whether a call counts, whoever makes it.
func (r *Rule) covers(q *ostiary.Request) bool {
	if len(r.Servers) > 0 && !slices.Contains(r.Servers, q.Action.Server) {
		return false
	}
	return len(r.Actions) == 0 || slices.ContainsFunc(r.Actions, func(a string) bool {
		return a == "*" || a == q.Action.Name || slices.Contains(q.Action.Groups, a)
	})
}

// Cost is what a call of one tool costs beside being a call and its bytes. The
// zero Cost is nothing.
type Cost struct {
	Money  MoneyCost
	Tokens TokenCost
}

// MoneyCost says where in the arguments an amount of money stands.
type MoneyCost struct {
	Amount     string // JSON Pointer to a number; "" for a tool that spends no money
	Currency   string // what it is in
	CurrencyAt string // JSON Pointer to the currency, if Currency is ""
	Decimals   int    // digits of the amount behind the point that are minor units: 2 for 12.50 EUR, 0 for 1250 cents
}

// TokenCost says how many tokens a call may use, and used.
type TokenCost struct {
	Argument string // JSON Pointer to the most it may use, in the arguments; "" if there is none
	Most     int64  // what it may use if the argument is not there
	Result   string // JSON Pointer to what it used, in the result; "": what it may use counts
}

// used reads what a result says was used.
func (c *TokenCost) used(result ostiary.Value) (int64, bool) {
	if c.Result == "" {
		return 0, false
	}
	n, ok := result.Find(c.Result).Int()
	return min(n, MaxLimit), ok && n >= 0
}

// Book is the configuration: rules, sorted by name, and what tools cost, by
// action.
type Book struct {
	Rules []Rule
	Costs map[string]Cost
}

// argumentBytes counts what a call sends.
func argumentBytes(r *ostiary.Request) int64 {
	a := &r.Action
	return int64(len(a.Arguments.Bytes()) + len(a.Responses.Bytes()) + len(a.State))
}

// charges lists what a call takes from every budget that covers it, nil if none
// does.
func (b *Book) charges(r *ostiary.Request, now time.Time) (all []Charge, err error) {
	if r.Action.Name == Probe {
		start, end := Day.At(now)
		return []Charge{{Account: Account{Budget: "probe", Unit: ostiary.UnitCalls}, Window: start, Ends: end, Least: 1, Most: 1}}, nil
	}
	m := &r.Context.Mandate
	for i := range m.Budgets {
		l := &m.Budgets[i]
		if all, err = b.add(all, r, &l.Budget, Charge{Account: Account{Budget: "mandate:" + string(l.ID)}, Ends: l.Expires}); err != nil {
			return nil, err
		}
	}
	for i := range b.Rules {
		rule := &b.Rules[i]
		if !rule.covers(r) {
			continue
		}
		if all, err = b.addRule(all, r, rule, now); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// addRule charges each account of a rule that the call counts for.
func (b *Book) addRule(all []Charge, r *ostiary.Request, rule *Rule, now time.Time) (_ []Charge, err error) {
	c := Charge{Account: Account{Budget: rule.Name}}
	c.Window, c.Ends = rule.Window.At(now)
	id, one := strings.CutPrefix(rule.For, ForAgent)
	role, shared := strings.CutPrefix(rule.For, ForRole)
	switch {
	case rule.For == ForEveryone:
		return b.add(all, r, &rule.Limit, c)
	case rule.For == ForEachPerson:
		c.Holder = string(r.Context.Principal)
		return b.add(all, r, &rule.Limit, c)
	case shared && slices.Contains(r.Context.Roles, role):
		c.Holder = rule.For
		return b.add(all, r, &rule.Limit, c)
	case rule.For == ForEachAgent || one:
		for i, agent := range r.Subject.Chain {
			if one && string(agent) != id || slices.Contains(r.Subject.Chain[:i], agent) {
				continue
			}
			c.Holder = string(agent)
			if all, err = b.add(all, r, &rule.Limit, c); err != nil {
				return nil, err
			}
		}
		if len(r.Subject.Chain) == 0 && (!one || string(r.Subject.Agent) == id) {
			c.Holder = string(r.Subject.Agent)
			return b.add(all, r, &rule.Limit, c)
		}
	}
	return all, nil
}

// add charges one account with each unit that its limit bounds.
func (b *Book) add(all []Charge, r *ostiary.Request, limit *ostiary.Budget, c Charge) ([]Charge, error) {
	of := func(unit string, bound, least, most int64) {
		c.Unit, c.Limit, c.Least, c.Most = unit, bound, least, most
		all = append(all, c)
	}
	if limit.Calls > 0 {
		of(ostiary.UnitCalls, limit.Calls, 1, 1)
	}
	if limit.Bytes > 0 {
		n := argumentBytes(r)
		of(ostiary.UnitBytes, limit.Bytes, n+1, n+slice)
	}
	cost, known := b.Costs[r.Action.Name]
	if !known {
		return all, nil
	}
	if limit.Tokens > 0 && cost.Tokens != (TokenCost{}) {
		n, err := cost.Tokens.may(r)
		if err != nil {
			return nil, err
		}
		of(ostiary.UnitTokens, limit.Tokens, n, n)
	}
	if len(limit.Money) > 0 && cost.Money.Amount != "" {
		m, err := cost.Money.of(r)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(limit.Money, func(x ostiary.Money) bool { return x.Currency == m.Currency })
		if i < 0 {
			return nil, ostiary.Errorf(ostiary.Denied, "budget_currency", "%s has no money in %s", c.words(), m.Currency)
		}
		of(m.Currency, limit.Money[i].Minor, m.Minor, m.Minor)
	}
	return all, nil
}

// may reads how many tokens a call may use.
func (c *TokenCost) may(r *ostiary.Request) (int64, error) {
	v := r.Action.Arguments.Find(c.Argument)
	if c.Argument == "" || !v.Exists() {
		return c.Most, nil
	}
	n, ok := v.Int()
	if !ok || n < 0 || n > MaxLimit {
		return 0, ostiary.Errorf(ostiary.Denied, "budget_amount", "%s says how many tokens %s may use, so it must be a whole number", c.Argument, r.Action.Name).At(c.Argument)
	}
	return n, nil
}

// of reads how much money a call spends, exactly.
func (c *MoneyCost) of(r *ostiary.Request) (m ostiary.Money, err error) {
	args := r.Action.Arguments
	m.Currency = c.Currency
	if m.Currency == "" {
		if m.Currency = args.Find(c.CurrencyAt).Text(); !IsCurrency(m.Currency) {
			return m, ostiary.Errorf(ostiary.Denied, "budget_amount", "%s is the currency of what %s spends, so it must be one, as ISO 4217 writes it: EUR", c.CurrencyAt, r.Action.Name).At(c.CurrencyAt)
		}
	}
	v, ok := args.Find(c.Amount), false
	literal := v.Literal()
	if v.Kind() == ostiary.String {
		literal = v.Text()
	}
	if m.Minor, ok = ostiary.Scale(literal, c.Decimals); !ok || m.Minor > MaxLimit {
		return m, ostiary.Errorf(ostiary.Denied, "budget_amount", "%s is what %s spends, so it must be an amount that is not negative and has at most %d decimals", c.Amount, r.Action.Name, c.Decimals).At(c.Amount)
	}
	return m, nil
}

// IsCurrency reports whether s looks like a code of ISO 4217.
func IsCurrency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// words name an account for people.
func (a *Account) words() string {
	if a.Holder == "" {
		return "budget " + a.Budget
	}
	return fmt.Sprintf("budget %s of %s", a.Budget, a.Holder)
}
