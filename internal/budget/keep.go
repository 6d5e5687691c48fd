package budget

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// Account names what is counted: one unit of one budget, for one holder.
type Account struct {
	Budget, Holder, Unit string
}

// Charge is what a call takes from an account. Least is what it needs and Most
// what it would like; it gets what is left between the two, or nothing.
type Charge struct {
	Account
	Window      time.Time // start of the window; zero: the account lives as long as its mandate
	Ends        time.Time // of the window, or of the mandate
	Limit       int64
	Least, Most int64
}

// State is an account as it stands.
type State struct {
	Account
	Window, Ends       time.Time
	Limit, Spent, Held int64 // Limit as it was when the account was last charged
}

// Left is what can still be held.
func (s State) Left() int64 { return max(0, s.Limit-s.Spent-s.Held) }

// Part is what a hold takes from one window of an account.
type Part struct {
	Account
	Window time.Time
	Amount int64
}

// Record is a stored hold. Its id is that of the Intent of its call.
type Record struct {
	ID      ostiary.EntryID
	Gateway string
	Agent   ostiary.AgentID
	Mandate ostiary.MandateID
	Action  string
	Made    time.Time
	Unknown bool // nobody knows what became of the call
	Parts   []Part
}

// Use is what became of a hold.
type Use struct {
	Units   map[string]int64 // by unit, what was spent; what is not there was not
	Unknown bool             // nobody knows: it stays held
}

// Spread returns what a hold's parts come to: what is spent of each. Of several
// parts of one account, which lie in different windows, the first are used up
// first, and the last takes what goes beyond what was held.
func (u Use) Spread(parts []Part) []int64 {
	out := make([]int64, len(parts))
	rest := map[Account]int64{}
	last := map[Account]int{}
	for i, p := range parts {
		rest[p.Account], last[p.Account] = u.Units[p.Unit], i
	}
	for i, p := range parts {
		out[i] = min(rest[p.Account], p.Amount)
		if last[p.Account] == i {
			out[i] = rest[p.Account]
		}
		rest[p.Account] -= out[i]
	}
	return out
}

// Keeper keeps accounts and holds. A write that returned is durable, and seen
// by every later one of every process of the same store. The keeper reads no
// clock. Of an account whose window is later than the one a charge names, the
// later one is charged: windows never go back. An error of a write other than
// Exhausted, Conflict or NotFound means that it did not happen, or that nobody
// can say. Safe for concurrent use, also from several processes.
type Keeper interface {
	// ReserveBudget makes a hold of every charge and returns what it got of
	// each; or of none, Exhausted as [Exhausted] words it. Conflict if there
	// is a hold of this id.
	ReserveBudget(ctx context.Context, r Record, charges []Charge) (got []int64, err error)
	// ExtendBudget adds to a hold, all or nothing like ReserveBudget.
	// Conflict if there is no such hold any more.
	ExtendBudget(ctx context.Context, id ostiary.EntryID, charges []Charge) (got []int64, err error)
	// SettleBudget ends a hold, or marks it unknown. One that is not there
	// was settled before: nothing changes.
	SettleBudget(ctx context.Context, id ostiary.EntryID, u Use) error
	// DoubtBudgets marks all holds of a gateway unknown, and returns how
	// many were not.
	DoubtBudgets(ctx context.Context, gateway string) (int, error)
	// ResolveBudget ends an unknown hold: all of it is spent, or nothing. It
	// is a change of control state. NotFound if there is none, Conflict for
	// one that is not unknown.
	ResolveBudget(ctx context.Context, id ostiary.EntryID, spent bool, by string) (Record, error)
	// BudgetAccounts lists all accounts, sorted.
	BudgetAccounts(ctx context.Context) ([]State, error)
	// BudgetHolds lists all holds, oldest first.
	BudgetHolds(ctx context.Context) ([]Record, error)
	// SweepBudgets removes accounts that ended before a moment and of which
	// nothing is held.
	SweepBudgets(ctx context.Context, before time.Time) (int, error)
}

// Exhausted is the refusal of a charge that an account does not have.
func Exhausted(c Charge, left int64, ends time.Time) *ostiary.Error {
	for_ := ""
	if !ends.IsZero() {
		for_ = ", until " + ends.UTC().Format(time.RFC3339)
	}
	e := ostiary.Errorf(ostiary.Exhausted, "budget_exhausted", "%s has %s left of %s%s; this needs %s", c.words(), Amount(c.Unit, max(0, left)), Amount(c.Unit, c.Limit), for_, Amount(c.Unit, c.Least))
	return e.At(c.Budget)
}
