package budget_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/strictjson"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// faulty is a keeper whose next write fails: before it happens, or after.
type faulty struct {
	budget.Keeper
	mu   sync.Mutex // guards fail while many call
	fail string     // "", "before", "after"
}

var errInjected = errors.New("injected")

func (f *faulty) does(do func() error) error {
	f.mu.Lock()
	how := f.fail
	f.fail = ""
	f.mu.Unlock()
	if how == "before" {
		return errInjected
	}
	if err := do(); err != nil {
		return err
	}
	if how == "after" {
		return errInjected
	}
	return nil
}

func (f *faulty) ReserveBudget(ctx context.Context, r budget.Record, c []budget.Charge) (got []int64, err error) {
	err = f.does(func() error { got, err = f.Keeper.ReserveBudget(ctx, r, c); return err })
	return got, err
}

func (f *faulty) ExtendBudget(ctx context.Context, id ostiary.EntryID, c []budget.Charge) (got []int64, err error) {
	err = f.does(func() error { got, err = f.Keeper.ExtendBudget(ctx, id, c); return err })
	return got, err
}

func (f *faulty) SettleBudget(ctx context.Context, id ostiary.EntryID, u budget.Use) error {
	return f.does(func() error { return f.Keeper.SettleBudget(ctx, id, u) })
}

type bench struct {
	*budget.Budgets
	t      *testing.T
	keeper *faulty
	now    time.Time
}

func open(t *testing.T, book budget.Book) *bench {
	b := &bench{t: t, keeper: &faulty{Keeper: store.NewMemory()}, now: noon}
	b.Budgets = b.restart()
	b.Set(book)
	return b
}

// restart is another process on the same store.
func (b *bench) restart() *budget.Budgets {
	return budget.New(budget.Options{Keeper: b.keeper, Gateway: "gw1", Clock: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler)})
}

func id() (x ostiary.EntryID) { rand.Read(x[:]); return x }

func call(action, arguments string) *ostiary.Request {
	d, err := strictjson.Parse([]byte(arguments), strictjson.Request)
	if err != nil {
		panic(err)
	}
	const agent = "spiffe://td/agent/a"
	server, _, _ := strings.Cut(action, "___")
	return &ostiary.Request{
		Subject: ostiary.Subject{Agent: agent, Principal: "person:dana", Chain: []ostiary.AgentID{agent}},
		Action:  ostiary.Action{Name: action, Server: server, Arguments: d.Root(), Groups: []string{"payments"}},
		Context: ostiary.Context{Principal: "person:dana", Roles: []string{"payer"}},
	}
}

func answer(s string) ostiary.Value {
	d, err := strictjson.Parse([]byte(s), strictjson.Request)
	if err != nil {
		panic(err)
	}
	return d.Root()
}

// stands writes every account as "budget/holder/unit spent+held".
func (b *bench) stands() string {
	b.t.Helper()
	all, _, err := b.Accounts(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		out = append(out, fmt.Sprintf("%s/%s/%s %d+%d", a.Budget, a.Holder, a.Unit, a.Spent, a.Held))
	}
	return strings.Join(out, ", ")
}

func (b *bench) stand(want string) {
	b.t.Helper()
	if got := b.stands(); got != want {
		b.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return ostiary.AsError(err).Code
}

var euros = budget.Cost{Money: budget.MoneyCost{Amount: "/amount", Currency: "EUR", Decimals: 2}}

func limited(rules ...budget.Rule) budget.Book {
	for i := range rules {
		if rules[i].Name == "" {
			rules[i].Name = "r"
		}
		if rules[i].For == "" {
			rules[i].For = budget.ForEveryone
		}
		if rules[i].Window == "" {
			rules[i].Window = budget.Day
		}
	}
	return budget.Book{Rules: rules, Costs: map[string]budget.Cost{"bank___pay": euros}}
}

func calls(n int64) ostiary.Budget { return ostiary.Budget{Calls: n} }

// TestWhoIsCharged: which accounts a call is charged to.
func TestWhoIsCharged(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   budget.Rule
		change func(*ostiary.Request)
		want   string
	}{
		{"everyone", budget.Rule{Limit: calls(9)}, nil, "r//calls 0+1"},
		{"each agent", budget.Rule{For: budget.ForEachAgent, Limit: calls(9)}, nil, "r/spiffe://td/agent/a/calls 0+1"},
		{"each person", budget.Rule{For: budget.ForEachPerson, Limit: calls(9)}, nil, "r/person:dana/calls 0+1"},
		{"a role", budget.Rule{For: "role:payer", Limit: calls(9)}, nil, "r/role:payer/calls 0+1"},
		{"another role", budget.Rule{For: "role:reader", Limit: calls(9)}, nil, ""},
		{"this agent", budget.Rule{For: "agent:spiffe://td/agent/a", Limit: calls(9)}, nil, "r/spiffe://td/agent/a/calls 0+1"},
		{"another agent", budget.Rule{For: "agent:spiffe://td/agent/b", Limit: calls(9)}, nil, ""},
		{"who delegated", budget.Rule{For: "agent:spiffe://td/agent/above", Limit: calls(9)}, func(r *ostiary.Request) {
			r.Subject.Chain = []ostiary.AgentID{"spiffe://td/agent/above", r.Subject.Agent}
		}, "r/spiffe://td/agent/above/calls 0+1"},
		{"each of a chain", budget.Rule{For: budget.ForEachAgent, Limit: calls(9)}, func(r *ostiary.Request) {
			r.Subject.Chain = []ostiary.AgentID{"spiffe://td/agent/above", r.Subject.Agent}
		}, "r/spiffe://td/agent/a/calls 0+1, r/spiffe://td/agent/above/calls 0+1"},
		{"a tool", budget.Rule{Actions: []string{"bank___pay"}, Limit: calls(9)}, nil, "r//calls 0+1"},
		{"a group", budget.Rule{Actions: []string{"payments"}, Limit: calls(9)}, nil, "r//calls 0+1"},
		{"another tool", budget.Rule{Actions: []string{"bank___read"}, Limit: calls(9)}, nil, ""},
		{"another server", budget.Rule{Servers: []string{"mail"}, Limit: calls(9)}, nil, ""},
		{"money", budget.Rule{Limit: ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 5000}}}}, nil, "r//EUR 0+1250"},
		{"money of a tool that spends none", budget.Rule{Limit: ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 5000}}}}, func(r *ostiary.Request) { r.Action.Name = "bank___read" }, ""},
		{"a chain of mandates", budget.Rule{For: "role:nobody"}, func(r *ostiary.Request) {
			r.Context.Mandate = ostiary.Mandate{ID: "c", Budgets: []ostiary.LinkBudget{{ID: "a", Expires: noon.Add(time.Hour), Budget: calls(9)}, {ID: "c", Budget: ostiary.Budget{Calls: 2, Bytes: 10_000}}}}
		}, "mandate:a//calls 0+1, mandate:c//bytes 0+10000, mandate:c//calls 0+1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, limited(c.rule))
			r := call("bank___pay", `{"amount": 12.5}`)
			if c.change != nil {
				c.change(r)
			}
			h, err := b.Reserve(t.Context(), id(), r)
			if err != nil || (h == nil) != (c.want == "") {
				t.Fatal(h, err)
			}
			b.stand(c.want)
		})
	}
}

// TestAmounts: what a call spends is read exactly, or the call is refused.
func TestAmounts(t *testing.T) {
	budgetOf := ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 5000}, {Currency: "JPY", Minor: 300}}}
	named := budget.Cost{Money: budget.MoneyCost{Amount: "/pay/0/sum", CurrencyAt: "/pay/0/currency"}}
	for _, c := range []struct{ action, arguments, code, want string }{
		{"bank___pay", `{"amount": 50}`, "", "r//EUR 0+5000"},
		{"bank___pay", `{"amount": "12.05"}`, "", "r//EUR 0+1205"},
		{"bank___pay", `{"amount": 1e1}`, "", "r//EUR 0+1000"},
		{"bank___pay", `{"amount": 50.01}`, "budget_exhausted", ""},
		{"bank___pay", `{"amount": 1e300}`, "budget_amount", ""},
		{"bank___pay", `{"amount": -1}`, "budget_amount", ""},
		{"bank___pay", `{"amount": 0.001}`, "budget_amount", ""},
		{"bank___pay", `{"amount": "12,05"}`, "budget_amount", ""},
		{"bank___pay", `{"amount": null}`, "budget_amount", ""},
		{"bank___pay", `{}`, "budget_amount", ""},
		{"bank___wire", `{"pay": [{"sum": 200, "currency": "JPY"}]}`, "", "r//JPY 0+200"},
		{"bank___wire", `{"pay": [{"sum": 200, "currency": "USD"}]}`, "budget_currency", ""},
		{"bank___wire", `{"pay": [{"sum": 200, "currency": "jpy"}]}`, "budget_amount", ""},
		{"bank___wire", `{"pay": [{"sum": 200}]}`, "budget_amount", ""},
		{"llm___ask", `{"max": 10}`, "", "r//tokens 0+10"},
		{"llm___ask", `{}`, "", "r//tokens 0+77"},
		{"llm___ask", `{"max": 1.5}`, "budget_amount", ""},
		{"llm___ask", `{"max": 101}`, "budget_exhausted", ""},
	} {
		t.Run(c.action+c.arguments, func(t *testing.T) {
			budgetOf.Tokens = 100
			book := limited(budget.Rule{Limit: budgetOf})
			book.Costs["bank___wire"], book.Costs["llm___ask"] = named, budget.Cost{Tokens: budget.TokenCost{Argument: "/max", Most: 77, Result: "/usage"}}
			b := open(t, book)
			_, err := b.Reserve(t.Context(), id(), call(c.action, c.arguments))
			if code(err) != c.code {
				t.Fatal(err)
			}
			b.stand(c.want)
		})
	}
}

// TestExhausted: the refusal says which budget, what is left, and until when.
func TestExhausted(t *testing.T) {
	b := open(t, limited(budget.Rule{Name: "pay", For: "role:payer", Limit: ostiary.Budget{Money: []ostiary.Money{{Currency: "EUR", Minor: 5000}}}}))
	if _, err := b.Reserve(t.Context(), id(), call("bank___pay", `{"amount": 30}`)); err != nil {
		t.Fatal(err)
	}
	_, err := b.Reserve(t.Context(), id(), call("bank___pay", `{"amount": 20.01}`))
	const want = "budget pay of role:payer has 20.00 EUR left of 50.00 EUR, until 2026-11-21T00:00:00Z; this needs 20.01 EUR"
	if e := ostiary.AsError(err); e.Kind != ostiary.Exhausted || e.Detail != want || e.Field != "pay" {
		t.Fatalf("%+v", e)
	}
}

// TestSettled: what becomes of a hold, by what became of its call.
func TestSettled(t *testing.T) {
	for d, want := range map[ostiary.Disposition]string{
		ostiary.Refused:   "r//EUR 0+0, r//bytes 0+0, r//calls 0+0, r//tokens 0+0",
		ostiary.Failed:    "r//EUR 0+0, r//bytes 0+0, r//calls 0+0, r//tokens 0+0",
		ostiary.Delivered: "r//EUR 100+0, r//bytes 28+0, r//calls 1+0, r//tokens 3+0",
		ostiary.Withheld:  "r//EUR 100+0, r//bytes 28+0, r//calls 1+0, r//tokens 3+0",
		ostiary.Unknown:   "r//EUR 0+100, r//bytes 0+65551, r//calls 0+1, r//tokens 0+50",
	} {
		t.Run(d.String(), func(t *testing.T) {
			book := limited(budget.Rule{Limit: ostiary.Budget{Calls: 5, Tokens: 100, Bytes: 1 << 20, Money: []ostiary.Money{{Currency: "EUR", Minor: 5000}}}})
			cost := euros
			cost.Tokens = budget.TokenCost{Most: 50, Result: "/usage"}
			book.Costs["bank___pay"] = cost
			b := open(t, book)
			h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{"amount": 1  }`))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Take(t.Context(), answer(`{"usage": 3 }`), true); err != nil {
				t.Fatal(err)
			}
			h.Settle(t.Context(), d)
			b.stand(want)
			h.Settle(t.Context(), ostiary.Refused) // once more gives nothing back, unless it was open what happened
			if d != ostiary.Unknown {
				b.stand(want)
			}
		})
	}
}

// TestK04ReplyCut: a reply that goes on is held for as it goes, and what is
// beyond the budget is not released.
func TestK04ReplyCut(t *testing.T) {
	b := open(t, limited(budget.Rule{Limit: ostiary.Budget{Bytes: 200_000}}))
	h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{"amount":1}`))
	if err != nil {
		t.Fatal(err)
	}
	b.stand("r//bytes 0+65548")
	block := answer(`"` + strings.Repeat("x", 49_998) + `"`)
	for range 3 {
		if err := h.Take(t.Context(), block, false); err != nil {
			t.Fatal(err)
		}
	}
	b.stand("r//bytes 0+165548")
	if err := h.Take(t.Context(), block, false); code(err) != "budget_exhausted" {
		t.Fatal(err)
	}
	h.Settle(t.Context(), ostiary.Withheld)
	b.stand("r//bytes 150012+0")
	if _, err := b.Reserve(t.Context(), id(), call("bank___pay", `{"amount":"`+strings.Repeat("1", 50_000)+`"}`)); code(err) != "budget_exhausted" {
		t.Fatal(err)
	}
}

// TestK01K02Parallel: of a thousand who want the last unit one gets it, also
// the first time anybody is charged.
func TestK01K02Parallel(t *testing.T) {
	for _, used := range []int64{0, 4} {
		b := open(t, limited(budget.Rule{For: budget.ForEachAgent, Limit: calls(used + 1)}))
		gateways := []*budget.Budgets{b.Budgets, b.restart()}
		gateways[1].Set(limited(budget.Rule{For: budget.ForEachAgent, Limit: calls(used + 1)}))
		for range used {
			if _, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`)); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		var won atomic.Int64
		for i := range 1000 {
			all.Go(func() {
				if _, err := gateways[i%2].Reserve(t.Context(), id(), call("bank___pay", `{}`)); err == nil {
					won.Add(1)
				} else if code(err) != "budget_exhausted" {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d got the last unit", won.Load())
		}
	}
}

// TestK03Killed: what was held when a process ended stays held; settling it
// late changes nothing twice, and a person ends it.
func TestK03Killed(t *testing.T) {
	b := open(t, limited(budget.Rule{Limit: calls(2)}))
	intent := id()
	if _, err := b.Reserve(t.Context(), intent, call("bank___pay", `{}`)); err != nil {
		t.Fatal(err)
	}
	next := b.restart()
	next.Set(limited(budget.Rule{Limit: calls(2)}))
	if n, err := next.Recover(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.stand("r//calls 0+1")
	if _, err := next.Resolve(t.Context(), intent, false, "olga"); err != nil {
		t.Fatal(err)
	}
	b.stand("r//calls 0+0")
	if _, err := next.Resolve(t.Context(), intent, false, "olga"); ostiary.AsError(err).Kind != ostiary.NotFound {
		t.Fatal(err)
	}
	b.stand("r//calls 0+0")
}

// TestEveryFault: every write fails, once so that it did not happen, once so
// that it did. Nothing is spent that was not, nothing given back twice.
func TestEveryFault(t *testing.T) {
	for _, how := range []string{"before", "after"} {
		t.Run(how, func(t *testing.T) {
			b := open(t, limited(budget.Rule{Limit: ostiary.Budget{Calls: 3, Bytes: 100_000}}))
			b.keeper.fail = how
			if h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`)); h != nil || err == nil {
				t.Fatal("it was let through")
			}
			if left := b.Retry(t.Context()); left != 0 {
				t.Fatal(left)
			}
			want := ""
			if how == "after" {
				want = "r//bytes 0+0, r//calls 0+0"
			}
			b.stand(want)

			h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`))
			if err != nil {
				t.Fatal(err)
			}
			b.keeper.fail = how
			block := answer(`"` + strings.Repeat("x", 69_998) + `"`)
			if err := h.Take(t.Context(), block, false); err == nil {
				t.Fatal("it was released")
			}
			b.keeper.fail = how
			h.Settle(t.Context(), ostiary.Withheld)
			if left := b.Retry(t.Context()); left != 0 {
				t.Fatal(left)
			}
			b.Retry(t.Context())
			b.stand("r//bytes 2+0, r//calls 1+0")
		})
	}
	t.Run("down for long", func(t *testing.T) {
		b := open(t, limited(budget.Rule{Limit: calls(3)}))
		h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`))
		if err != nil {
			t.Fatal(err)
		}
		b.keeper.fail = "before"
		h.Settle(t.Context(), ostiary.Delivered)
		b.stand("r//calls 0+1") // held until it is settled: never free in between
		b.keeper.fail = "before"
		if left := b.Retry(t.Context()); left != 1 {
			t.Fatal(left)
		}
		if left := b.Retry(t.Context()); left != 0 {
			t.Fatal(left)
		}
		b.stand("r//calls 1+0")
	})
}

// TestK05Windows: which window a moment is in, whatever zone it is told in.
func TestK05Windows(t *testing.T) {
	tokyo := time.FixedZone("", 9*3600)
	for _, c := range []struct {
		window     budget.Window
		at         string
		start, end string
	}{
		{budget.Minute, "2026-11-20T12:34:59.999Z", "2026-11-20T12:34:00Z", "2026-11-20T12:35:00Z"},
		{budget.Hour, "2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z"},
		{budget.Day, "2026-11-20T23:59:59.999999999Z", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"},
		{budget.Day, "2026-11-21T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"},
		{budget.Week, "2026-11-22T23:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"}, // a Sunday
		{budget.Week, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		{budget.Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{budget.Month, "2028-02-29T00:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339Nano, c.at)
		if err != nil {
			t.Fatal(err)
		}
		for _, told := range []time.Time{at, at.In(tokyo), at.In(time.FixedZone("", -11*3600))} {
			start, end := c.window.At(told)
			if start.Format(time.RFC3339) != c.start || end.Format(time.RFC3339) != c.end {
				t.Errorf("%s at %s: %v to %v", c.window, c.at, start, end)
			}
		}
	}
}

// TestK05ClockStepsBack: a clock that is set back, or a zone that changes,
// gives nobody a second window.
func TestK05ClockStepsBack(t *testing.T) {
	b := open(t, limited(budget.Rule{Limit: calls(2)}))
	spend := func(at time.Time) string {
		b.now = at
		h, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`))
		if err == nil {
			h.Settle(t.Context(), ostiary.Delivered)
		}
		return code(err)
	}
	midnight := noon.Add(12 * time.Hour)
	for i, c := range []struct {
		at   time.Time
		code string
	}{
		{midnight.Add(-time.Second), ""}, {midnight.Add(time.Second), ""}, // one in each
		{midnight.Add(-time.Second), ""}, // back: charged to the newer
		{midnight.Add(-time.Second), "budget_exhausted"},
		{noon.AddDate(-1, 0, 0), "budget_exhausted"},
		{midnight.Add(time.Hour).In(time.FixedZone("", -11*3600)), "budget_exhausted"},
		{midnight.AddDate(0, 0, 1), ""},
	} {
		if got := spend(c.at); got != c.code {
			t.Fatalf("step %d: %q", i, got)
		}
	}
}

// TestK06Down: with the store down nothing passes that has a budget, and
// everything that has none.
func TestK06Down(t *testing.T) {
	b := open(t, limited(budget.Rule{Servers: []string{"bank"}, Limit: calls(2)}))
	b.keeper.Keeper.(*store.Memory).Close()
	if _, err := b.Reserve(t.Context(), id(), call("bank___pay", `{}`)); ostiary.AsError(err).Kind != ostiary.Unavailable {
		t.Fatal(err)
	}
	if h, err := b.Reserve(t.Context(), id(), call("mail___send", `{}`)); h != nil || err != nil {
		t.Fatal(h, err)
	}
}

// TestNothingForNothing: a call that no budget covers costs no allocation.
func TestNothingForNothing(t *testing.T) {
	b := open(t, limited(budget.Rule{Servers: []string{"bank"}, Limit: calls(2)}, budget.Rule{For: "role:none", Limit: calls(1)}))
	r, intent := call("mail___send", `{}`), id()
	if n := testing.AllocsPerRun(100, func() {
		if h, err := b.Reserve(t.Context(), intent, r); h != nil || err != nil {
			t.Fatal(h, err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// TestProbe: what nothing allows is refused, with rules and without.
func TestProbe(t *testing.T) {
	b := open(t, budget.Book{})
	r := &ostiary.Request{Action: ostiary.Action{Name: budget.Probe}}
	if _, err := b.Reserve(t.Context(), id(), r); code(err) != "budget_exhausted" {
		t.Fatal(err)
	}
	b.stand("")
}

func TestAmountWords(t *testing.T) {
	for want, n := range map[string]struct {
		unit string
		n    int64
	}{
		"12.05 EUR": {"EUR", 1205}, "0.05 EUR": {"EUR", 5}, "300 JPY": {"JPY", 300}, "1.500 KWD": {"KWD", 1500}, "1 call": {"calls", 1}, "0 bytes": {"bytes", 0}, "2 tokens": {"tokens", 2},
	} {
		if got := budget.Amount(n.unit, n.n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
