package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/budget"
)

// Accounts are counters: what a call holds and spends is no change of control
// state and has no revision. That a person resolves a hold is one.

func errSettled() error {
	return ostiary.Errorf(ostiary.Conflict, "budget_settled", "this call holds nothing any more")
}
func errRunning() error {
	return ostiary.Errorf(ostiary.Conflict, "budget_running", "the call is still running, and settles what it holds itself")
}

// part is the stored form of a part.
type part struct {
	Budget string `json:"b"`
	Holder string `json:"h,omitempty"`
	Unit   string `json:"u"`
	Window int64  `json:"w"`
	Amount int64  `json:"n"`
}

func writeParts(parts []budget.Part) string {
	out := make([]part, len(parts))
	for i, p := range parts {
		out[i] = part{p.Budget, p.Holder, p.Unit, stamp(p.Window), p.Amount}
	}
	return body(out)
}

func readParts(s string) ([]budget.Part, error) {
	var in []part
	if err := json.Unmarshal([]byte(s), &in); err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored hold of a budget cannot be read").Because(err)
	}
	out := make([]budget.Part, len(in))
	for i, p := range in {
		out[i] = budget.Part{Account: budget.Account{Budget: p.Budget, Holder: p.Holder, Unit: p.Unit}, Window: instant(p.Window), Amount: p.Amount}
	}
	return out, nil
}

// addPart adds to the part of the same window, or appends one.
func addPart(parts []budget.Part, p budget.Part) []budget.Part {
	i := slices.IndexFunc(parts, func(o budget.Part) bool { return o.Account == p.Account && o.Window.Equal(p.Window) })
	if i < 0 {
		return append(parts, p)
	}
	parts[i].Amount += p.Amount
	return parts
}

func checkCharges(id ostiary.EntryID, charges []budget.Charge) error {
	if id.IsZero() || len(charges) == 0 {
		return ostiary.Errorf(ostiary.Internal, "budget_charge", "a hold has an id and a charge")
	}
	for _, c := range charges {
		if c.Budget == "" || c.Unit == "" || c.Least < 0 || c.Most < c.Least || c.Limit < 0 || c.Limit > budget.MaxLimit || c.Most > budget.MaxLimit+1<<40 {
			return ostiary.Errorf(ostiary.Internal, "budget_charge", "a charge names a budget and a unit, and is between nothing and %d", int64(budget.MaxLimit))
		}
		if err := checkText("budget", c.Budget, c.Holder, c.Unit); err != nil {
			return err
		}
	}
	return nil
}

const budgetKey = "budget = ? AND holder = ? AND unit = ?"

// chargeAll charges every account, or the write fails and all of it with it.
func chargeAll(x *txn, charges []budget.Charge, parts []budget.Part) ([]int64, []budget.Part, error) {
	got := make([]int64, len(charges))
	for i, c := range charges {
		p, err := charge(x, c)
		if err != nil {
			return nil, nil, err
		}
		got[i], parts = p.Amount, addPart(parts, p)
	}
	return got, parts, nil
}

// charge takes what it would like, or what is left if that is enough.
func charge(x *txn, c budget.Charge) (budget.Part, error) {
	p := budget.Part{Account: c.Account, Amount: min(c.Most, c.Limit)}
	if p.Amount < c.Least {
		return p, short(x, c)
	}
	for {
		var began int64
		found, err := x.get(`INSERT INTO budget_account (budget, holder, unit, began, ends, bound, spent, held) VALUES (?, ?, ?, ?, ?, ?, 0, ?)
			ON CONFLICT (budget, holder, unit) DO UPDATE SET
				spent = CASE WHEN budget_account.began < excluded.began THEN 0 ELSE budget_account.spent END,
				held = CASE WHEN budget_account.began < excluded.began THEN 0 ELSE budget_account.held END + excluded.held,
				ends = CASE WHEN budget_account.began > excluded.began THEN budget_account.ends ELSE excluded.ends END,
				began = CASE WHEN budget_account.began < excluded.began THEN excluded.began ELSE budget_account.began END,
				bound = excluded.bound
			WHERE CASE WHEN budget_account.began < excluded.began THEN 0 ELSE budget_account.spent + budget_account.held END + excluded.held <= excluded.bound
			RETURNING began`,
			[]any{c.Budget, c.Holder, c.Unit, stamp(c.Window), stamp(c.Ends), c.Limit, p.Amount}, []any{&began})
		if err != nil || found {
			p.Window = instant(began)
			return p, err
		}
		spent, held, _, err := account(x, c)
		left := c.Limit - spent - held
		if err != nil || left < c.Least || left >= p.Amount {
			return p, cmp.Or(err, short(x, c))
		}
		p.Amount = left
	}
}

// account reads what is gone of an account in the window a charge is for.
func account(x *txn, c budget.Charge) (spent, held int64, ends time.Time, err error) {
	var began, end int64
	found, err := x.get("SELECT began, ends, spent, held FROM budget_account WHERE "+budgetKey, []any{c.Budget, c.Holder, c.Unit}, []any{&began, &end, &spent, &held})
	if !found || began < stamp(c.Window) {
		return 0, 0, c.Ends, err
	}
	return spent, held, instant(end), nil
}

func short(x *txn, c budget.Charge) error {
	spent, held, ends, err := account(x, c)
	if err != nil {
		return err
	}
	return budget.Exhausted(c, c.Limit-spent-held, ends)
}

func (s *SQL) ReserveBudget(ctx context.Context, r budget.Record, charges []budget.Charge) ([]int64, error) {
	if err := cmp.Or(checkCharges(r.ID, charges), checkText("hold", r.Gateway, string(r.Agent), string(r.Mandate), r.Action)); err != nil {
		return nil, err
	}
	return write(ctx, s.engine, func(x *txn) ([]int64, error) {
		got, parts, err := chargeAll(x, charges, nil)
		if err != nil {
			return nil, err
		}
		n, err := x.exec("INSERT INTO budget_hold (id, gateway, agent, mandate, action, made, in_doubt, parts) VALUES (?, ?, ?, ?, ?, ?, 0, ?) ON CONFLICT (id) DO NOTHING",
			r.ID.String(), r.Gateway, string(r.Agent), string(r.Mandate), r.Action, stamp(r.Made), writeParts(parts))
		if err == nil && n == 0 {
			err = errTaken("hold of a budget")
		}
		return got, err
	})
}

func (s *SQL) ExtendBudget(ctx context.Context, id ostiary.EntryID, charges []budget.Charge) ([]int64, error) {
	if err := checkCharges(id, charges); err != nil {
		return nil, err
	}
	return write(ctx, s.engine, func(x *txn) ([]int64, error) {
		var text string
		if found, err := x.get("SELECT parts FROM budget_hold WHERE id = ? AND in_doubt = 0", []any{id.String()}, []any{&text}); err != nil || !found {
			return nil, cmp.Or(err, errSettled())
		}
		parts, err := readParts(text)
		if err != nil {
			return nil, err
		}
		got, parts, err := chargeAll(x, charges, parts)
		if err == nil {
			_, err = x.exec("UPDATE budget_hold SET parts = ? WHERE id = ?", writeParts(parts), id.String())
		}
		return got, err
	})
}

func (s *SQL) SettleBudget(ctx context.Context, id ostiary.EntryID, u budget.Use) error {
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		if u.Unknown {
			_, err := x.exec("UPDATE budget_hold SET in_doubt = 1 WHERE id = ?", id.String())
			return none{}, err
		}
		var text string
		if found, err := x.get("DELETE FROM budget_hold WHERE id = ? RETURNING parts", []any{id.String()}, []any{&text}); err != nil || !found {
			return none{}, err
		}
		parts, err := readParts(text)
		if err != nil {
			return none{}, err
		}
		return none{}, settleParts(x, parts, u.Spread(parts))
	})
	return err
}

// settleParts turns what was held into what is spent. What was held in a
// window that is over went with it.
func settleParts(x *txn, parts []budget.Part, spent []int64) error {
	for i, p := range parts {
		if _, err := x.exec("UPDATE budget_account SET held = held - ?, spent = spent + ? WHERE "+budgetKey+" AND began = ?",
			p.Amount, spent[i], p.Budget, p.Holder, p.Unit, stamp(p.Window)); err != nil {
			return err
		}
	}
	return nil
}

func (s *SQL) DoubtBudgets(ctx context.Context, gateway string) (int, error) {
	return write(ctx, s.engine, func(x *txn) (int, error) {
		n, err := x.exec("UPDATE budget_hold SET in_doubt = 1 WHERE gateway = ? AND in_doubt = 0", gateway)
		return int(n), err
	})
}

const budgetColumns = "id, gateway, agent, mandate, action, made, in_doubt, parts"

func scanBudget(scan func(...any) error) (r budget.Record, err error) {
	var id, text string
	var made, doubt int64
	if err = scan(&id, &r.Gateway, &r.Agent, &r.Mandate, &r.Action, &made, &doubt, &text); err != nil {
		return r, err
	}
	if n, err := hex.Decode(r.ID[:], []byte(id)); err != nil || n != len(r.ID) {
		return r, ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored hold of a budget cannot be read").Because(err)
	}
	r.Made, r.Unknown = instant(made), doubt != 0
	r.Parts, err = readParts(text)
	return r, err
}

func (s *SQL) ResolveBudget(ctx context.Context, id ostiary.EntryID, spent bool, by string) (budget.Record, error) {
	if err := checkText("name", by); err != nil {
		return budget.Record{}, err
	}
	return write(ctx, s.engine, func(x *txn) (r budget.Record, err error) {
		found := true
		r, err = scanBudget(func(dest ...any) (err error) {
			found, err = x.get("SELECT "+budgetColumns+" FROM budget_hold WHERE id = ?", []any{id.String()}, dest)
			return err
		})
		switch {
		case !found:
			return r, errNone("hold of a budget")
		case err != nil:
			return r, err
		case !r.Unknown:
			return r, errRunning()
		}
		if _, err := x.exec("DELETE FROM budget_hold WHERE id = ?", id.String()); err != nil {
			return r, err
		}
		if err := settleParts(x, r.Parts, amounts(r.Parts, spent)); err != nil {
			return r, err
		}
		_, err = x.change("budget", id.String(), map[string]any{"spent": spent, "by": by})
		return r, err
	})
}

// amounts is everything that was held, or nothing of it.
func amounts(parts []budget.Part, spent bool) []int64 {
	out := make([]int64, len(parts))
	for i, p := range parts {
		if spent {
			out[i] = p.Amount
		}
	}
	return out
}

func (s *SQL) BudgetAccounts(ctx context.Context) ([]budget.State, error) {
	return rows(ctx, s.engine, func(rs *sql.Rows) (a budget.State, err error) {
		var began, ends int64
		err = rs.Scan(&a.Budget, &a.Holder, &a.Unit, &began, &ends, &a.Limit, &a.Spent, &a.Held)
		a.Window, a.Ends = instant(began), instant(ends)
		return a, err
	}, "SELECT budget, holder, unit, began, ends, bound, spent, held FROM budget_account ORDER BY budget, holder, unit")
}

func (s *SQL) BudgetHolds(ctx context.Context) ([]budget.Record, error) {
	return rows(ctx, s.engine, func(rs *sql.Rows) (budget.Record, error) { return scanBudget(rs.Scan) },
		"SELECT "+budgetColumns+" FROM budget_hold ORDER BY made, id")
}

func (s *SQL) SweepBudgets(ctx context.Context, before time.Time) (int, error) {
	const over = " FROM budget_account WHERE ends < ? AND held = 0"
	var one int64
	if found, err := s.row(ctx, "SELECT 1"+over+" LIMIT 1", []any{stamp(before)}, []any{&one}); err != nil || !found {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (int, error) {
		n, err := x.exec("DELETE"+over, stamp(before))
		return int(n), err
	})
}

func (m *Memory) ReserveBudget(ctx context.Context, r budget.Record, charges []budget.Charge) ([]int64, error) {
	if err := cmp.Or(checkCharges(r.ID, charges), checkText("hold", r.Gateway, string(r.Agent), string(r.Mandate), r.Action)); err != nil {
		return nil, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, ok := m.budgeted[r.ID]; ok {
		return nil, errTaken("hold of a budget")
	}
	next, got, parts, err := m.charge(charges, nil)
	if err != nil {
		return nil, err
	}
	r.Made, r.Unknown, r.Parts = instant(stamp(r.Made)), false, parts
	return got, m.commit("", "", "", nil, func() { m.accounts, m.budgeted[r.ID] = next, r })
}

// charge charges a copy of the accounts.
func (m *Memory) charge(charges []budget.Charge, parts []budget.Part) (next map[budget.Account]budget.State, got []int64, _ []budget.Part, err error) {
	next = maps.Clone(m.accounts)
	for _, c := range charges {
		a, ok := next[c.Account]
		began := instant(stamp(c.Window))
		if !ok || a.Window.Before(began) {
			a = budget.State{Account: c.Account, Window: began}
		}
		if !a.Window.After(began) {
			a.Ends = instant(stamp(c.Ends))
		}
		take := min(c.Most, c.Limit-a.Spent-a.Held)
		if take < c.Least {
			return nil, nil, nil, budget.Exhausted(c, c.Limit-a.Spent-a.Held, a.Ends)
		}
		a.Limit, a.Held = c.Limit, a.Held+take
		next[c.Account] = a
		got, parts = append(got, take), addPart(parts, budget.Part{Account: c.Account, Window: a.Window, Amount: take})
	}
	return next, got, parts, nil
}

func (m *Memory) ExtendBudget(ctx context.Context, id ostiary.EntryID, charges []budget.Charge) ([]int64, error) {
	if err := checkCharges(id, charges); err != nil {
		return nil, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	r, ok := m.budgeted[id]
	if !ok || r.Unknown {
		return nil, errSettled()
	}
	next, got, parts, err := m.charge(charges, slices.Clone(r.Parts))
	if err != nil {
		return nil, err
	}
	r.Parts = parts
	return got, m.commit("", "", "", nil, func() { m.accounts, m.budgeted[id] = next, r })
}

func (m *Memory) SettleBudget(ctx context.Context, id ostiary.EntryID, u budget.Use) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r, ok := m.budgeted[id]
	if !ok {
		return nil
	}
	return m.commit("", "", "", nil, func() {
		if u.Unknown {
			r.Unknown = true
			m.budgeted[id] = r
			return
		}
		m.settle(r, u.Spread(r.Parts))
	})
}

func (m *Memory) settle(r budget.Record, spent []int64) {
	delete(m.budgeted, r.ID)
	for i, p := range r.Parts {
		if a, ok := m.accounts[p.Account]; ok && a.Window.Equal(p.Window) {
			a.Held, a.Spent = a.Held-p.Amount, a.Spent+spent[i]
			m.accounts[p.Account] = a
		}
	}
}

func (m *Memory) DoubtBudgets(ctx context.Context, gateway string) (n int, err error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	err = m.commit("", "", "", nil, func() {
		for id, r := range m.budgeted {
			if r.Gateway == gateway && !r.Unknown {
				r.Unknown, n = true, n+1
				m.budgeted[id] = r
			}
		}
	})
	return n, err
}

func (m *Memory) ResolveBudget(ctx context.Context, id ostiary.EntryID, spent bool, by string) (budget.Record, error) {
	if err := checkText("name", by); err != nil {
		return budget.Record{}, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return budget.Record{}, err
	}
	defer leave()
	r, ok := m.budgeted[id]
	switch {
	case !ok:
		return r, errNone("hold of a budget")
	case !r.Unknown:
		return r, errRunning()
	}
	return r, m.commit(NewRequest(), "budget", id.String(), map[string]any{"spent": spent, "by": by}, func() { m.settle(r, amounts(r.Parts, spent)) })
}

func (m *Memory) BudgetAccounts(ctx context.Context) ([]budget.State, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return slices.SortedFunc(maps.Values(m.accounts), func(a, b budget.State) int {
		return cmp.Or(strings.Compare(a.Budget, b.Budget), strings.Compare(a.Holder, b.Holder), strings.Compare(a.Unit, b.Unit))
	}), nil
}

func (m *Memory) BudgetHolds(ctx context.Context) ([]budget.Record, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return slices.SortedFunc(maps.Values(m.budgeted), func(a, b budget.Record) int {
		return cmp.Or(a.Made.Compare(b.Made), strings.Compare(a.ID.String(), b.ID.String()))
	}), nil
}

func (m *Memory) SweepBudgets(ctx context.Context, before time.Time) (n int, err error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	err = m.commit("", "", "", nil, func() {
		for k, a := range m.accounts {
			if a.Ends.Before(before) && a.Held == 0 {
				delete(m.accounts, k)
				n++
			}
		}
	})
	return n, err
}
