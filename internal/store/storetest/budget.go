package storetest

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/budget"
)

func hold() budget.Record {
	r := budget.Record{Gateway: "gw1", Agent: "spiffe://td/agent/a", Mandate: "m1", Action: "bank___pay", Made: day}
	rand.Read(r.ID[:])
	return r
}

// daily is a charge of a budget for a day.
func daily(name, unit string, limit, least, most int64) budget.Charge {
	start := day.Truncate(24 * time.Hour)
	return budget.Charge{Account: budget.Account{Budget: name, Holder: "role:r", Unit: unit}, Window: start, Ends: start.AddDate(0, 0, 1), Limit: limit, Least: least, Most: most}
}

// gone checks what is spent and held of an account.
func gone(t *testing.T, s budget.Keeper, name string, spent, held int64) {
	t.Helper()
	for _, a := range get[[]budget.State](t)(s.BudgetAccounts(t.Context())) {
		if a.Budget == name {
			if a.Spent != spent || a.Held != held {
				t.Fatalf("of %s are spent %d and held %d, want %d and %d", name, a.Spent, a.Held, spent, held)
			}
			return
		}
	}
	if spent != 0 || held != 0 {
		t.Fatalf("there is no account of %s", name)
	}
}

func budgets(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	got := get[[]int64](t)

	a := hold()
	same(t, got(s.ReserveBudget(ctx, a, []budget.Charge{daily("x", "EUR", 100, 60, 60), daily("y", "calls", 3, 1, 1)})), []int64{60, 1})
	gone(t, s, "x", 0, 60)
	_, err := s.ReserveBudget(ctx, a, []budget.Charge{daily("y", "calls", 3, 1, 1)}) // of this id there is one
	want(t, err, ostiary.Conflict)
	gone(t, s, "y", 0, 1)

	t.Run("all or nothing", func(t *testing.T) {
		_, err := s.ReserveBudget(ctx, hold(), []budget.Charge{daily("y", "calls", 3, 1, 1), daily("x", "EUR", 100, 41, 41)})
		want(t, err, ostiary.Exhausted)
		for _, part := range []string{"budget x of role:r", "0.40 EUR left of 1.00 EUR", "2026-11-21T00:00:00Z", "needs 0.41 EUR"} {
			if !strings.Contains(err.Error(), part) {
				t.Fatalf("%v says nothing of %q", err, part)
			}
		}
		gone(t, s, "y", 0, 1)
		_, err = s.ReserveBudget(ctx, hold(), []budget.Charge{daily("new", "EUR", 10, 11, 11)})
		want(t, err, ostiary.Exhausted)
		_, err = s.ReserveBudget(ctx, hold(), []budget.Charge{daily("new", "EUR", 10, 10, 10), daily("new", "EUR", 10, 1, 1)})
		want(t, err, ostiary.Exhausted) // twice the same account, in one call
		gone(t, s, "new", 0, 0)
	})
	t.Run("what is left", func(t *testing.T) {
		b := hold()
		same(t, got(s.ReserveBudget(ctx, b, []budget.Charge{daily("z", "bytes", 100, 10, 30)})), []int64{30})
		same(t, got(s.ExtendBudget(ctx, b.ID, []budget.Charge{daily("z", "bytes", 100, 5, 1000)})), []int64{70})
		_, err := s.ExtendBudget(ctx, b.ID, []budget.Charge{daily("z", "bytes", 100, 1, 10)})
		want(t, err, ostiary.Exhausted)
		gone(t, s, "z", 0, 100)
		must(t, s.SettleBudget(ctx, b.ID, budget.Use{Units: map[string]int64{"bytes": 42}}))
		gone(t, s, "z", 42, 0)
		must(t, s.SettleBudget(ctx, b.ID, budget.Use{Units: map[string]int64{"bytes": 42}})) // again: nothing
		gone(t, s, "z", 42, 0)
		_, err = s.ExtendBudget(ctx, b.ID, []budget.Charge{daily("z", "bytes", 100, 1, 10)})
		want(t, err, ostiary.Conflict)
		over := hold()
		got(s.ReserveBudget(ctx, over, []budget.Charge{daily("z", "bytes", 100, 1, 1)}))
		must(t, s.SettleBudget(ctx, over.ID, budget.Use{Units: map[string]int64{"bytes": 60}})) // it took more than it held
		_, err = s.ReserveBudget(ctx, hold(), []budget.Charge{daily("z", "bytes", 100, 0, 1)})
		want(t, err, ostiary.Exhausted)
	})
	t.Run("released", func(t *testing.T) {
		must(t, s.SettleBudget(ctx, a.ID, budget.Use{}))
		gone(t, s, "x", 0, 0)
		must(t, s.SettleBudget(ctx, hold().ID, budget.Use{})) // of what was never held
	})
	t.Run("doubted and resolved", func(t *testing.T) {
		b, c, other := hold(), hold(), hold()
		other.Gateway = "gw2"
		c.Made = day.Add(time.Second)
		for _, r := range []budget.Record{c, b, other} {
			got(s.ReserveBudget(ctx, r, []budget.Charge{daily("d", "calls", 3, 1, 1)}))
		}
		_, err := s.ResolveBudget(ctx, b.ID, true, "olga")
		want(t, err, ostiary.Conflict)
		if n := get[int](t)(s.DoubtBudgets(ctx, "gw1")); n != 2 {
			t.Fatalf("%d became unknown", n)
		}
		if n := get[int](t)(s.DoubtBudgets(ctx, "gw1")); n != 0 {
			t.Fatalf("%d became unknown again", n)
		}
		all := get[[]budget.Record](t)(s.BudgetHolds(ctx))
		if len(all) != 3 || all[2].ID != c.ID || !all[2].Unknown || all[0].Unknown == (all[0].Gateway == "gw2") {
			t.Fatalf("%+v", all)
		}
		_, err = s.ReserveBudget(ctx, hold(), []budget.Charge{daily("d", "calls", 3, 1, 1)})
		want(t, err, ostiary.Exhausted)
		before := get[uint64](t)(s.Revision(ctx))
		r := get[budget.Record](t)(s.ResolveBudget(ctx, b.ID, true, "olga"))
		if r.Agent != b.Agent || len(r.Parts) != 1 || r.Parts[0].Amount != 1 {
			t.Fatalf("%+v", r)
		}
		if after := get[uint64](t)(s.Revision(ctx)); after != before+1 {
			t.Fatalf("revision %d became %d", before, after)
		}
		get[budget.Record](t)(s.ResolveBudget(ctx, c.ID, false, "olga"))
		_, err = s.ResolveBudget(ctx, c.ID, false, "olga")
		want(t, err, ostiary.NotFound)
		gone(t, s, "d", 1, 1)
		must(t, s.SettleBudget(ctx, other.ID, budget.Use{Unknown: true}))
		get[budget.Record](t)(s.ResolveBudget(ctx, other.ID, false, "olga"))
		gone(t, s, "d", 1, 0)
	})
	t.Run("refused", func(t *testing.T) {
		for _, c := range [][]budget.Charge{nil, {{}}, {daily("", "EUR", 1, 1, 1)}, {daily("x", "", 1, 1, 1)}, {daily("x", "EUR", 1, -1, 1)}, {daily("x", "EUR", 1, 2, 1)}, {daily("x", "EUR", -1, 0, 0)}, {daily("x\x00", "EUR", 1, 1, 1)}} {
			_, err := s.ReserveBudget(ctx, hold(), c)
			if e := ostiary.AsError(err); e.Kind != ostiary.Internal && e.Code != "nul" {
				t.Fatal(err)
			}
		}
		none := hold()
		none.ID = ostiary.EntryID{}
		_, err := s.ReserveBudget(ctx, none, []budget.Charge{daily("x", "EUR", 1, 1, 1)})
		want(t, err, ostiary.Internal)
	})
	if e.Reopen == nil {
		return
	}
	t.Run("kept", func(t *testing.T) {
		b := hold()
		got(s.ReserveBudget(ctx, b, []budget.Charge{daily("k", "EUR", 10, 7, 7)}))
		s = e.Reopen(t, s)
		gone(t, s, "k", 0, 7)
		must(t, s.SettleBudget(ctx, b.ID, budget.Use{Units: map[string]int64{"EUR": 7}}))
		gone(t, s, "k", 7, 0)
	})
}

// budgetWindows: an account moves on to later windows and never back.
func budgetWindows(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	today := daily("w", "calls", 2, 1, 1)
	tomorrow := today
	tomorrow.Window, tomorrow.Ends = today.Ends, today.Ends.AddDate(0, 0, 1)
	reserve := func(c budget.Charge) (budget.Record, error) {
		r := hold()
		_, err := s.ReserveBudget(ctx, r, []budget.Charge{c})
		return r, err
	}
	late, err := reserve(today) // it will end tomorrow
	must(t, err)
	first, err := reserve(tomorrow)
	must(t, err)
	must(t, s.SettleBudget(ctx, first.ID, budget.Use{Units: map[string]int64{"calls": 1}}))
	gone(t, s, "w", 1, 0)
	must(t, s.SettleBudget(ctx, late.ID, budget.Use{Units: map[string]int64{"calls": 1}}))
	gone(t, s, "w", 1, 0) // what was held yesterday is spent of yesterday
	_, err = reserve(today)
	must(t, err) // the clock was set back: this is of tomorrow's window
	_, err = reserve(today)
	want(t, err, ostiary.Exhausted)
	if !strings.Contains(err.Error(), "2026-11-22T00:00:00Z") {
		t.Fatal(err)
	}
	_, err = reserve(tomorrow)
	want(t, err, ostiary.Exhausted)
	gone(t, s, "w", 1, 1)

	t.Run("extended over the edge", func(t *testing.T) {
		b := today
		b.Budget, b.Unit, b.Limit, b.Least, b.Most = "e", ostiary.UnitBytes, 100, 80, 80
		r, err := reserve(b)
		must(t, err)
		b.Window, b.Ends = tomorrow.Window, tomorrow.Ends
		_, err = s.ExtendBudget(ctx, r.ID, []budget.Charge{b})
		must(t, err)
		gone(t, s, "e", 0, 80)
		must(t, s.SettleBudget(ctx, r.ID, budget.Use{Units: map[string]int64{"bytes": 130}}))
		gone(t, s, "e", 50, 0)
	})
	t.Run("swept", func(t *testing.T) {
		if n := get[int](t)(s.SweepBudgets(ctx, tomorrow.Ends.Add(time.Hour))); n != 1 { // of w something is held
			t.Fatalf("%d were swept", n)
		}
		gone(t, s, "w", 1, 1)
		if n := get[int](t)(s.SweepBudgets(ctx, day)); n != 0 {
			t.Fatalf("%d were swept", n)
		}
	})
}

// lastUnit: of a thousand who want the last unit, one gets it.
func lastUnit(t *testing.T, e Engine) {
	s := e.Open(t)
	// The very first charge of an account, and the last unit of one.
	for _, c := range []struct {
		name  string
		limit int64
	}{{"first", 1}, {"last", 7}} {
		for range c.limit - 1 {
			get[[]int64](t)(s.ReserveBudget(t.Context(), hold(), []budget.Charge{daily(c.name, "calls", c.limit, 1, 1)}))
		}
		n := 1000
		if won := race(n, func(int) error {
			_, err := s.ReserveBudget(t.Context(), hold(), []budget.Charge{daily(c.name, "calls", c.limit, 1, 1), daily("other", "EUR", budget.MaxLimit, 1, 1)})
			return err
		}); won != 1 {
			t.Fatalf("%s: %d of %d got the last unit", c.name, won, n)
		}
		gone(t, s, c.name, 0, c.limit)
	}
	gone(t, s, "other", 0, 2)
}

// budgetFaults: whatever is reported of a write that failed, settling what it
// may have held leaves nothing held, and nothing is given back twice.
func budgetFaults(t *testing.T, e Engine) {
	for _, happened := range []bool{false, true} {
		s, ctx := e.Open(t), t.Context()
		r, c := hold(), []budget.Charge{daily("f", "calls", 10, 2, 2)}
		e.Fail(s, happened)
		if _, err := s.ReserveBudget(ctx, r, c); err == nil {
			t.Fatal("a commit that failed held something")
		}
		must(t, s.SettleBudget(ctx, r.ID, budget.Use{}))
		gone(t, s, "f", 0, 0)

		other := hold()
		get[[]int64](t)(s.ReserveBudget(ctx, other, c))
		r = hold()
		get[[]int64](t)(s.ReserveBudget(ctx, r, c))
		e.Fail(s, happened)
		if err := s.SettleBudget(ctx, r.ID, budget.Use{Units: map[string]int64{"calls": 2}}); err == nil {
			t.Fatal("a commit that failed settled something")
		}
		must(t, s.SettleBudget(ctx, r.ID, budget.Use{Units: map[string]int64{"calls": 2}}))
		gone(t, s, "f", 2, 2)

		get[int](t)(s.DoubtBudgets(ctx, "gw1"))
		e.Fail(s, happened)
		_, err := s.ResolveBudget(ctx, other.ID, false, "olga")
		if !happened {
			want(t, err, ostiary.Unavailable)
			_, err = s.ResolveBudget(ctx, other.ID, false, "olga")
		}
		must(t, err)
		gone(t, s, "f", 2, 0)
	}
}
