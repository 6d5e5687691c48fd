// Package budget counts what is spent: calls, money, tokens and bytes, of the
// mandates an agent acts under, of agents, roles and persons, of tools and
// servers.
//
// It guarantees that nothing is spent above a bound, on any number of
// gateways: what a call may cost is held in the store, of every budget that
// covers it or of none, before the call is written down as about to happen.
// When the call has ended, what it did cost is spent and the rest is free
// again; what nobody knows the end of stays held until a person says. Each
// hold ends once: after a crash it is still there, and nothing is ever given
// back twice. A store that does not answer refuses. A call that no budget
// covers costs no allocation and no question.
//
// It trusts the store to be what [Keeper] says, the operator to name where in
// a tool's arguments the amount stands, and the tool not to spend more than it
// was told. A server that uses more tokens than it was allowed has used them:
// that is counted, and the next call is refused.
//
// Windows are fixed, in UTC, and named by their start. An account moves to a
// later window and never back, whatever a clock says.
package budget

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// MaxLimit is the highest bound of a budget, so that no sum of two amounts
// overflows.
const MaxLimit = 1 << 53

// slice is how many bytes of replies a call holds beyond those it has read, so
// that a stream of small messages does not ask the store for each.
const slice = 64 << 10

// settleTimeout bounds how long the end of a reply waits for the store to take
// what the call cost; after that it is tried again behind its back, and stays
// held until then.
const settleTimeout = 2 * time.Second

// maxLate bounds the settlements that wait for a store that does not answer.
// Beyond it what a call held stays held, until a person resolves it.
const maxLate = 10_000

// Options are what New needs; all are required.
type Options struct {
	Keeper  Keeper
	Gateway string // whose holds these are: after a restart nobody else settles them
	Clock   func() time.Time
	Logger  *slog.Logger
}

// Budgets holds and settles. Safe for concurrent use.
type Budgets struct {
	o    Options
	book atomic.Pointer[Book]

	mu   sync.Mutex
	late map[ostiary.EntryID]Use // what could not be settled yet
}

// New returns Budgets without rules; those of mandates are counted all the
// same.
func New(o Options) *Budgets {
	b := &Budgets{o: o, late: map[ostiary.EntryID]Use{}}
	b.book.Store(&Book{})
	return b
}

// Set replaces the rules and what tools cost. Calls under way finish on what
// they hold.
func (b *Budgets) Set(book Book) { b.book.Store(&book) }

// Probe is the action that no budget allows, for the start-up test that budgets
// are asked at all.
const Probe = "ostiary:budget_probe"

// Reserve holds what a call may cost, durably, of every budget that covers it,
// or nothing; nil if none does. The id is that of the Intent to come. It
// refuses with Exhausted and the code budget_exhausted, naming the budget, what
// is left of it and until when; with Denied if an amount cannot be read; and
// with Unavailable if the store does not answer.
func (b *Budgets) Reserve(ctx context.Context, id ostiary.EntryID, r *ostiary.Request) (*Hold, error) {
	charges, err := b.book.Load().charges(r, b.o.Clock())
	if err != nil || len(charges) == 0 {
		return nil, err
	}
	h := &Hold{b: b, id: id, cost: b.book.Load().Costs[r.Action.Name], charges: charges, used: map[string]int64{}}
	h.used[ostiary.UnitBytes] = argumentBytes(r)
	for _, c := range charges {
		if c.Unit != ostiary.UnitBytes {
			h.used[c.Unit] = c.Least
		}
	}
	h.got, err = b.o.Keeper.ReserveBudget(ctx, Record{ID: id, Gateway: b.o.Gateway, Agent: r.Subject.Agent, Mandate: r.Context.Mandate.ID, Action: r.Action.Name, Made: b.o.Clock()}, charges)
	if err == nil {
		return h, nil
	}
	switch ostiary.AsError(err).Kind {
	case ostiary.Exhausted, ostiary.Conflict, ostiary.Malformed: // nothing is held
	default:
		b.end(ctx, id, Use{}) // it may be held all the same, and no Intent follows
	}
	return nil, err
}

// Hold is what one call holds. One goroutine uses it at a time.
type Hold struct {
	b       *Budgets
	id      ostiary.EntryID
	cost    Cost
	charges []Charge
	got     []int64          // of each charge, what is held
	used    map[string]int64 // by unit, as far as it is known
}

// Spends lists what is held, for the record.
func (h *Hold) Spends() []ostiary.Spend {
	out := make([]ostiary.Spend, len(h.charges))
	for i, c := range h.charges {
		out[i] = ostiary.Spend{Budget: c.Budget, Holder: c.Holder, Unit: c.Unit, Amount: h.got[i]}
	}
	return out
}

// Take counts a message of the reply before it is released, and holds more
// bytes if they are needed. After an error the message must not be released.
// final says that it is the result.
func (h *Hold) Take(ctx context.Context, body ostiary.Value, final bool) error {
	if n, ok := h.cost.Tokens.used(body); final && ok {
		h.used[ostiary.UnitTokens] = n
	}
	size := int64(len(body.Bytes()))
	used := h.used[ostiary.UnitBytes] + size
	var more []Charge
	var which []int
	for i, c := range h.charges {
		if need := used - h.got[i]; c.Unit == ostiary.UnitBytes && need > 0 {
			c.Least, c.Most = need, need
			if !final {
				c.Most = need + slice
			}
			more, which = append(more, c), append(which, i)
		}
	}
	if len(more) > 0 {
		got, err := h.b.o.Keeper.ExtendBudget(ctx, h.id, more)
		if err != nil {
			return err
		}
		for j, i := range which {
			h.got[i] += got[j]
		}
	}
	h.used[ostiary.UnitBytes] = used
	return nil
}

// Settle ends the hold. Of what was refused, or certainly not sent, nothing is
// spent; of what was delivered or withheld, what it cost; and what may have
// happened stays held until a person resolves it. It does not fail: what the
// store does not take now it is told again.
func (h *Hold) Settle(ctx context.Context, d ostiary.Disposition) {
	switch d {
	case ostiary.Refused, ostiary.Held, ostiary.Failed:
		h.b.end(ctx, h.id, Use{})
	case ostiary.Delivered, ostiary.Withheld:
		if slices.ContainsFunc(h.charges, func(c Charge) bool { return c.Unit == ostiary.UnitCalls }) {
			h.used[ostiary.UnitCalls] = 1
		}
		h.b.end(ctx, h.id, Use{Units: h.used})
	default:
		h.b.end(ctx, h.id, Use{Unknown: true})
	}
}

// end settles now, or puts it off.
func (b *Budgets) end(ctx context.Context, id ostiary.EntryID, u Use) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err := b.o.Keeper.SettleBudget(ctx, id, u)
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.late) >= maxLate {
		b.o.Logger.Error("what a call cost could not be settled; it stays held until it is resolved", "intent", id.String(), "error", err)
		return
	}
	b.late[id] = u
	b.o.Logger.Warn("what a call cost could not be settled yet; it stays held until then", "intent", id.String(), "error", err)
}

// Retry settles what could not be settled before, and returns how much still
// waits. Settling twice changes nothing.
func (b *Budgets) Retry(ctx context.Context) int {
	b.mu.Lock()
	waiting := make(map[ostiary.EntryID]Use, len(b.late))
	for id, u := range b.late {
		waiting[id] = u
	}
	b.mu.Unlock()
	for id, u := range waiting {
		if b.o.Keeper.SettleBudget(ctx, id, u) != nil {
			break // it will not take the others either
		}
		b.mu.Lock()
		delete(b.late, id)
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.late)
}

// Recover says of everything this gateway held when it ended that nobody knows
// what became of it, and returns how much that is. It runs before the first
// call.
func (b *Budgets) Recover(ctx context.Context) (int, error) {
	return b.o.Keeper.DoubtBudgets(ctx, b.o.Gateway)
}

// Accounts lists every account that was ever charged, and the rules.
func (b *Budgets) Accounts(ctx context.Context) ([]State, []Rule, error) {
	all, err := b.o.Keeper.BudgetAccounts(ctx)
	return all, b.book.Load().Rules, err
}

// Holds lists what is held, oldest first.
func (b *Budgets) Holds(ctx context.Context) ([]Record, error) { return b.o.Keeper.BudgetHolds(ctx) }

// Resolve ends a hold of which nobody knows what became of its call: all of it
// is spent, or none. NotFound if there is none, Conflict for one whose call is
// still running.
func (b *Budgets) Resolve(ctx context.Context, id ostiary.EntryID, spent bool, by string) (Record, error) {
	return b.o.Keeper.ResolveBudget(ctx, id, spent, by)
}
