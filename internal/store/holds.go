package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
)

const holdColumns = "id, gateway, agent, principal, session, action, state, created, expires, until, intent, body, votes, rev"

func errHoldMoved() error {
	return ostiary.Errorf(ostiary.Conflict, "record_moved", "this hold was changed meanwhile")
}

func checkHold(r *approval.Row) error {
	if err := r.Check(); err != nil {
		return err
	}
	return checkText("hold", string(r.ID), r.Gateway, string(r.Agent), string(r.Principal), string(r.Session), r.Action)
}

// holdBody is what a change of a hold says: where it stands, and nothing of
// what is asked.
func holdBody(r *approval.Row) any {
	return map[string]any{"state": r.State.String(), "gateway": r.Gateway, "agent": r.Agent}
}

func scanHold(more ...any) func(*sql.Rows) (approval.Row, error) {
	return func(rs *sql.Rows) (r approval.Row, err error) {
		var state, intent string
		var created, expires, until int64
		if err := rs.Scan(append([]any{&r.ID, &r.Gateway, &r.Agent, &r.Principal, &r.Session, &r.Action, &state, &created, &expires, &until, &intent, &r.Body, &r.Votes, &r.Revision}, more...)...); err != nil {
			return r, err
		}
		return r, readHold(&r, state, intent, created, expires, until)
	}
}

func readHold(r *approval.Row, state, intent string, created, expires, until int64) (err error) {
	r.Created, r.Expires, r.Until = instant(created), instant(expires), instant(until)
	if r.State, err = ostiary.ParseHoldState(state); err == nil && intent != "" {
		var b []byte
		if b, err = hex.DecodeString(intent); err == nil && copy(r.Intent[:], b) != len(r.Intent) {
			err = hex.ErrLength
		}
	}
	if err != nil {
		return ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored hold cannot be read").Because(err)
	}
	return nil
}

func (s *SQL) CreateHold(ctx context.Context, r approval.Row, most int, at time.Time) (uint64, error) {
	if err := checkHold(&r); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		var n int64
		if _, err := x.get("SELECT COUNT(*) FROM hold WHERE agent = ? AND state = ? AND expires > ?", []any{string(r.Agent), ostiary.HoldPending.String(), stamp(at)}, []any{&n}); err != nil {
			return 0, err
		}
		if n >= int64(most) {
			return 0, approval.ErrTooMany(r.Agent, most)
		}
		rev, err := x.change("hold", string(r.ID), holdBody(&r))
		if err != nil {
			return 0, err
		}
		n, err = x.exec("INSERT INTO hold ("+holdColumns+", result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
			string(r.ID), r.Gateway, string(r.Agent), string(r.Principal), string(r.Session), r.Action, r.State.String(), stamp(r.Created), stamp(r.Expires),
			stamp(r.Until), r.Intent.String(), r.Body, r.Votes, int64(rev), r.Result)
		if err == nil && n == 0 {
			err = errTaken("hold")
		}
		return rev, err
	})
}

func (s *SQL) ReplaceHold(ctx context.Context, r approval.Row) (uint64, error) {
	if err := checkHold(&r); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		rev, err := x.change("hold", string(r.ID), holdBody(&r))
		if err != nil {
			return 0, err
		}
		n, err := x.exec("UPDATE hold SET state = ?, expires = ?, until = ?, intent = ?, body = ?, votes = ?, result = ?, rev = ? WHERE id = ? AND rev = ?",
			r.State.String(), stamp(r.Expires), stamp(r.Until), r.Intent.String(), r.Body, r.Votes, r.Result, int64(rev), string(r.ID), int64(r.Revision))
		if err != nil || n == 1 {
			return rev, err
		}
		var one int64
		found, err := x.get("SELECT 1 FROM hold WHERE id = ?", []any{string(r.ID)}, []any{&one})
		switch {
		case err != nil:
			return 0, err
		case !found:
			return 0, errNone("hold")
		}
		return 0, errHoldMoved()
	})
}

func (s *SQL) Hold(ctx context.Context, id ostiary.HoldID) (approval.Row, error) {
	var result []byte
	all, err := rows(ctx, s.engine, scanHold(&result), "SELECT "+holdColumns+", result FROM hold WHERE id = ?", string(id))
	if err != nil {
		return approval.Row{}, err
	}
	if len(all) != 1 {
		return approval.Row{}, errNone("hold")
	}
	all[0].Result = result
	return all[0], nil
}

func (s *SQL) Holds(ctx context.Context, f approval.Filter) ([]approval.Row, error) {
	where, args := []string{"1 = 1"}, []any{}
	add := func(cond string, a ...any) { where, args = append(where, cond), append(args, a...) }
	among := func(column string, n int, value func(int) any) {
		if n > 0 {
			add(column + " IN (?" + strings.Repeat(", ?", n-1) + ")")
			for i := range n {
				args = append(args, value(i))
			}
		}
	}
	among("state", len(f.States), func(i int) any { return f.States[i].String() })
	among("id", len(f.IDs), func(i int) any { return string(f.IDs[i]) })
	if f.Gateway != "" {
		add("gateway = ?", f.Gateway)
	}
	if f.Agent != "" {
		add("agent = ?", string(f.Agent))
	}
	if f.Since > 0 {
		add("rev > ?", int64(min(f.Since, 1<<62)))
	}
	if !f.Before.IsZero() {
		add("expires <= ?", stamp(f.Before))
	}
	if f.After.ID != "" {
		add("(created > ? OR created = ? AND id > ?)", stamp(f.After.Created), stamp(f.After.Created), string(f.After.ID))
	}
	columns, order := holdColumns, "created, id"
	if f.Bare {
		columns = strings.Replace(columns, "intent, body, votes", "'', NULL, NULL", 1)
	}
	if f.Changed {
		order = "rev"
	}
	return rows(ctx, s.engine, scanHold(), "SELECT "+columns+" FROM hold WHERE "+strings.Join(where, " AND ")+" ORDER BY "+order+" LIMIT ?", append(args, f.Most())...)
}

func (s *SQL) CountHolds(ctx context.Context) (map[ostiary.HoldState]int, error) {
	type count struct {
		state ostiary.HoldState
		n     int
	}
	all, err := rows(ctx, s.engine, func(rs *sql.Rows) (c count, err error) {
		var state string
		if err = rs.Scan(&state, &c.n); err == nil {
			c.state, err = ostiary.ParseHoldState(state)
		}
		return c, err
	}, "SELECT state, COUNT(*) FROM hold GROUP BY state")
	out := map[ostiary.HoldState]int{}
	for _, c := range all {
		out[c.state] = c.n
	}
	return out, err
}

// holdsOpen are the states of what has not ended, as they are stored.
var holdsOpen = []any{ostiary.HoldPending.String(), ostiary.HoldGranted.String(), ostiary.HoldSpent.String()}

func (s *SQL) SweepHolds(ctx context.Context, at time.Time) (int, error) {
	const over = "state NOT IN (?, ?, ?) AND until <= ?"
	args := append(slices.Clone(holdsOpen), stamp(at))
	var one int64
	found, err := s.row(ctx, "SELECT 1 FROM hold WHERE "+over+" LIMIT 1", args, []any{&one})
	if err != nil || !found {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (int, error) {
		n, err := x.exec("DELETE FROM hold WHERE id IN (SELECT id FROM hold WHERE "+over+" ORDER BY until LIMIT ?)", append(slices.Clone(args), approval.MaxList)...)
		if err != nil || n == 0 {
			return 0, err
		}
		_, err = x.change("hold", "", map[string]int64{"swept": n})
		return int(n), err
	})
}

func (m *Memory) CreateHold(ctx context.Context, r approval.Row, most int, at time.Time) (uint64, error) {
	if err := checkHold(&r); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	n := 0
	for _, o := range m.holds {
		if o.Agent == r.Agent && o.State == ostiary.HoldPending && stamp(o.Expires) > stamp(at) {
			n++
		}
	}
	if n >= most {
		return 0, approval.ErrTooMany(r.Agent, most)
	}
	if _, taken := m.holds[r.ID]; taken {
		return 0, errTaken("hold")
	}
	return m.putHold(r)
}

func (m *Memory) putHold(r approval.Row) (uint64, error) {
	r.Created, r.Expires, r.Until = instant(stamp(r.Created)), instant(stamp(r.Expires)), instant(stamp(r.Until))
	r.Body, r.Votes, r.Result, r.Revision = bytes.Clone(r.Body), bytes.Clone(r.Votes), bytes.Clone(r.Result), m.rev+1
	if err := m.commit(NewRequest(), "hold", string(r.ID), holdBody(&r), func() { m.holds[r.ID] = r }); err != nil {
		return 0, err
	}
	return r.Revision, nil
}

func (m *Memory) ReplaceHold(ctx context.Context, r approval.Row) (uint64, error) {
	if err := checkHold(&r); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	next, ok := m.holds[r.ID]
	if !ok {
		return 0, errNone("hold")
	}
	if next.Revision != r.Revision {
		return 0, errHoldMoved()
	}
	next.State, next.Expires, next.Until, next.Intent, next.Body, next.Votes, next.Result = r.State, r.Expires, r.Until, r.Intent, r.Body, r.Votes, r.Result
	return m.putHold(next)
}

func (m *Memory) Hold(ctx context.Context, id ostiary.HoldID) (approval.Row, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return approval.Row{}, err
	}
	defer leave()
	r, ok := m.holds[id]
	if !ok {
		return approval.Row{}, errNone("hold")
	}
	return r, nil
}

func (m *Memory) Holds(ctx context.Context, f approval.Filter) ([]approval.Row, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	f.Before, f.After.Created = instant(stamp(f.Before)), instant(stamp(f.After.Created))
	var out []approval.Row
	for _, r := range m.holds {
		if f.Matches(&r) {
			out = append(out, r)
		}
	}
	return f.Page(out), nil
}

func (m *Memory) CountHolds(ctx context.Context) (map[ostiary.HoldState]int, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := map[ostiary.HoldState]int{}
	for _, r := range m.holds {
		out[r.State]++
	}
	return out, nil
}

func (m *Memory) SweepHolds(ctx context.Context, at time.Time) (int, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	var over []ostiary.HoldID
	for id, r := range m.holds {
		if r.State.Ended() && stamp(r.Until) <= stamp(at) && len(over) < approval.MaxList {
			over = append(over, id)
		}
	}
	if len(over) == 0 {
		return 0, nil
	}
	return len(over), m.commit(NewRequest(), "hold", "", map[string]int{"swept": len(over)}, func() {
		for _, id := range over {
			delete(m.holds, id)
		}
	})
}
