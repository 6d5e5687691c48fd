package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/gate"
)

// BudgetConfig bounds what is spent in each window of time, whatever mandates
// allow. At least one of Money, Calls, Tokens and Bytes is set.
type BudgetConfig struct {
	// For says whose spending is counted together: everyone, each-agent, each-person, agent:NAME or role:NAME. What
	// an agent's own delegates spend counts for it too. Default everyone.
	For string `yaml:"for"`
	// Actions and policy's groups that count. Default: every call to a server.
	Actions []string `yaml:"actions"`
	// Servers whose calls count. Default: all.
	Servers []string `yaml:"servers"`
	// Window after which the budget is whole again: minute, hour, day, week (from Monday) or month, in UTC. Required.
	Window string `yaml:"window"`
	// Money by currency, in whole minor units: {EUR: 50000} is 500.00 EUR. It counts what servers.NAME.tools say a call
	// spends; a tool that says nothing spends none.
	Money map[string]int64 `yaml:"money"`
	// Calls to servers.
	Calls int64 `yaml:"calls"`
	// Tokens, as servers.NAME.tools say where they stand.
	Tokens int64 `yaml:"tokens"`
	// Bytes of arguments and replies.
	Bytes int64 `yaml:"bytes"`
}

// ToolConfig says what the gateway cannot know of a tool.
type ToolConfig struct {
	// Amount is a JSON Pointer to the money a call spends, in its arguments: /amount. A call where there is none, or
	// not exactly, is refused. Whoever leaves it out of a tool that pays lets agents pay without a budget.
	Amount string `yaml:"amount"`
	// Decimals of the amount that are minor units of its currency: 2 if 12.50 EUR stands there, 0 if 1250. Default 0.
	Decimals int `yaml:"decimals"`
	// Currency of the amount, as ISO 4217 writes it.
	Currency string `yaml:"currency"`
	// CurrencyAt is a JSON Pointer to the currency, if it stands in the arguments.
	CurrencyAt string `yaml:"currency_at"`
	// Tokens is a JSON Pointer to the most tokens a call may use, in its arguments.
	Tokens string `yaml:"tokens"`
	// TokensMost is what a call may use that does not say.
	TokensMost int64 `yaml:"tokens_most"`
	// TokensUsed is a JSON Pointer to what was used, in the result. Default: what it may use counts.
	TokensUsed string `yaml:"tokens_used"`
}

// maxBudgets bounds the configured budgets: each is looked at in each call.
const maxBudgets = 200

func (c *Config) checkBudgets() error {
	if len(c.Budgets) > maxBudgets {
		return c.bad("budgets", fmt.Sprintf("at most %d", maxBudgets))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Budgets)) {
		if err := c.checkBudget(name, c.Budgets[name]); err != nil {
			return err
		}
	}
	for _, server := range c.serverNames() {
		for _, tool := range slices.Sorted(maps.Keys(c.Servers[server].Tools)) {
			t := c.Servers[server].Tools[tool]
			if at, why := t.check(); at != "" {
				return c.bad("servers."+server+".tools."+tool+"."+at, why)
			}
		}
	}
	return nil
}

func (c *Config) checkBudget(name string, b BudgetConfig) error {
	key := "budgets." + name
	if !nameRule.MatchString(name) || name == "probe" || name == "mandate" {
		return c.bad(key, "name budgets with lower-case letters, digits and dashes, at most 63; probe and mandate are taken")
	}
	what, whom, of := strings.Cut(b.For, ":")
	plain := b.For == "" || b.For == budget.ForEveryone || b.For == budget.ForEachAgent || b.For == budget.ForEachPerson
	if !plain && (!of || whom == "" || what != "agent" && what != "role") {
		return c.bad(key+".for", "write everyone, each-agent, each-person, agent:NAME or role:NAME")
	}
	if what == "agent" && of {
		if _, err := ostiary.ParseAgentID(c.agentNamed(whom)); err != nil {
			return c.bad(key+".for", ostiary.AsError(err).Detail)
		}
	}
	if !slices.Contains(budget.Windows, budget.Window(b.Window)) {
		return c.bad(key+".window", "write minute, hour, day, week or month")
	}
	for _, s := range b.Servers {
		if _, ok := c.Servers[s]; !ok {
			return c.bad(key+".servers", fmt.Sprintf("there is no server %q", s))
		}
	}
	for _, n := range []struct {
		key string
		v   int64
	}{{"calls", b.Calls}, {"tokens", b.Tokens}, {"bytes", b.Bytes}} {
		if n.v < 0 || n.v > budget.MaxLimit {
			return c.bad(key+"."+n.key, fmt.Sprintf("use 1 to %d", int64(budget.MaxLimit)))
		}
	}
	for currency, n := range b.Money {
		if !budget.IsCurrency(currency) || n < 0 || n > budget.MaxLimit {
			return c.bad(key+".money", "write currencies as ISO 4217 does, and whole minor units: {EUR: 50000}")
		}
	}
	if len(b.Money) == 0 && b.Calls == 0 && b.Tokens == 0 && b.Bytes == 0 {
		return c.bad(key, "it bounds nothing; give money, calls, tokens or bytes")
	}
	return nil
}

// check returns the key that is wrong, and how.
func (t *ToolConfig) check() (key, why string) {
	for _, p := range []struct{ key, v string }{{"amount", t.Amount}, {"currency_at", t.CurrencyAt}, {"tokens", t.Tokens}, {"tokens_used", t.TokensUsed}} {
		if p.v != "" && !ostiary.IsPointer(p.v) {
			return p.key, "write a JSON Pointer into the arguments or the result, for example /amount"
		}
	}
	switch {
	case t.Amount == "" && (t.Currency != "" || t.CurrencyAt != "" || t.Decimals != 0):
		return "amount", "say where the amount stands, for example /amount"
	case t.Amount != "" && (t.Currency == "") == (t.CurrencyAt == ""):
		return "currency", "give either currency, for example EUR, or currency_at, for example /currency"
	case t.Currency != "" && !budget.IsCurrency(t.Currency):
		return "currency", "write it as ISO 4217 does, for example EUR"
	case t.Decimals < 0 || t.Decimals > 6:
		return "decimals", "use 0 to 6"
	case t.TokensMost < 0 || t.TokensMost > budget.MaxLimit:
		return "tokens_most", "use a whole number of tokens"
	case (t.Tokens != "" || t.TokensUsed != "") && t.TokensMost == 0:
		return "tokens_most", "say what a call may use that does not say"
	}
	return "", ""
}

// agentNamed is the SPIFFE ID of an agent that a configuration names.
func (c *Config) agentNamed(name string) string {
	if strings.HasPrefix(name, "spiffe://") {
		return name
	}
	return "spiffe://" + c.TrustDomain + "/agent/" + name
}

// spending is what the configuration says of budgets.
func (c *Config) spending() budget.Book {
	book := budget.Book{Costs: map[string]budget.Cost{}}
	for _, name := range slices.Sorted(maps.Keys(c.Budgets)) {
		b := c.Budgets[name]
		r := budget.Rule{
			Name: name, For: b.For, Actions: b.Actions, Servers: b.Servers, Window: budget.Window(b.Window),
			Limit: ostiary.Budget{Calls: b.Calls, Tokens: b.Tokens, Bytes: b.Bytes},
		}
		if r.For == "" {
			r.For = budget.ForEveryone
		} else if agent, ok := strings.CutPrefix(r.For, budget.ForAgent); ok {
			r.For = budget.ForAgent + c.agentNamed(agent)
		}
		for _, currency := range slices.Sorted(maps.Keys(b.Money)) {
			r.Limit.Money = append(r.Limit.Money, ostiary.Money{Currency: currency, Minor: b.Money[currency]})
		}
		book.Rules = append(book.Rules, r)
	}
	for server, s := range c.Servers {
		for tool, t := range s.Tools {
			book.Costs[(&ostiary.Tool{Server: server, Name: tool}).Action()] = budget.Cost{
				Money:  budget.MoneyCost{Amount: t.Amount, Currency: t.Currency, CurrencyAt: t.CurrencyAt, Decimals: t.Decimals},
				Tokens: budget.TokenCost{Argument: t.Tokens, Most: t.TokensMost, Result: t.TokensUsed},
			}
		}
	}
	return book
}

// openBudgets builds the budgets. What this gateway held when it last ended,
// nobody knows the end of.
func (d *Daemon) openBudgets(ctx context.Context) error {
	d.budgets = budget.New(budget.Options{Keeper: d.store, Gateway: d.cfg.Gateway, Clock: d.clock, Logger: d.log})
	d.budgets.Set(d.cfg.spending())
	n, err := d.budgets.Recover(ctx)
	if n > 0 {
		d.log.Warn("calls were under way when the gateway ended; what they held of budgets stays held until it is resolved: ostiary budget list", "calls", n)
	}
	return err
}

// probeBudgets shows, before any door opens, that the gate asks the budgets.
func (d *Daemon) probeBudgets(ctx context.Context) error {
	return d.gate.ProbeBudgets(ctx, budget.Probe)
}

// settleEvery is how often what could not be settled is tried again.
const settleEvery = time.Second

// settleLate settles what calls cost when the store would not take it, until
// ctx ends.
func (d *Daemon) settleLate(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.budgets.Retry(ctx)
		}
	}
}

// keptAccounts is how long the account of a window that is over stays, so that
// a clock that is set back finds it.
const keptAccounts = 400 * 24 * time.Hour

// spends adapts the budgets to the gate's words.
type spends struct{ budgets *budget.Budgets }

func (s spends) Reserve(ctx context.Context, id ostiary.EntryID, r *ostiary.Request) (gate.Hold, error) {
	h, err := s.budgets.Reserve(ctx, id, r)
	if h == nil {
		return nil, err
	}
	return h, err
}

// keeps reports whether a call is taken back with something of its result.
func (d *Daemon) keeps(action string) bool {
	u, ok := d.engine.Undo(action)
	return ok && u.Keeps()
}
