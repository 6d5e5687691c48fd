package store

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

const mandateColumns = "id, kind, agent, parent, principal, author, jws, issued, expires, ended, how, ender, why, reviewed, reviewer"

// maxSignedMandate bounds a signed mandate, as its format does.
const maxSignedMandate = 64 << 10

func checkMandate(m *identity.MandateRecord) error {
	if m.ID == "" || m.Kind == ostiary.NoMandateKind {
		return ostiary.Errorf(ostiary.Malformed, "mandate", "a mandate needs a name and a kind")
	}
	if err := checkText("mandate", string(m.ID), string(m.Agent), string(m.Parent), string(m.Principal), string(m.By)); err != nil {
		return err
	}
	return checkSize("signed mandate", []byte(m.JWS), maxSignedMandate)
}

func addMandate(x *txn, m identity.MandateRecord) error {
	n, err := x.exec("INSERT INTO mandate (id, kind, agent, parent, principal, author, jws, issued, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
		string(m.ID), m.Kind.String(), string(m.Agent), string(m.Parent), string(m.Principal), string(m.By), m.JWS, stamp(m.Issued), stamp(m.Expires))
	if err == nil && n == 0 {
		err = errTaken("mandate")
	}
	return err
}

func scanMandate(r *sql.Rows) (m identity.MandateRecord, err error) {
	var kind string
	var issued, expires, ended, reviewed int64
	if err = r.Scan(&m.ID, &kind, &m.Agent, &m.Parent, &m.Principal, &m.By, &m.JWS, &issued, &expires, &ended, &m.How, &m.EndedBy, &m.Why, &reviewed, &m.Reviewer); err != nil {
		return m, err
	}
	m.Issued, m.Expires, m.Ended, m.Reviewed = instant(issued), instant(expires), instant(ended), instant(reviewed)
	if m.Kind, err = ostiary.ParseMandateKind(kind); err != nil {
		err = ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored mandate cannot be read").Because(err)
	}
	return m, err
}

func (s *SQL) Mandates(ctx context.Context, at time.Time) ([]identity.MandateRecord, error) {
	return rows(ctx, s.engine, scanMandate, "SELECT "+mandateColumns+" FROM mandate WHERE kind = 'standing' OR ended = 0 AND expires > ? ORDER BY id", stamp(at))
}

func (s *SQL) MandateHistory(ctx context.Context, f identity.MandateFilter) ([]identity.MandateRecord, error) {
	where, args := []string{"1 = 1"}, []any{}
	for _, c := range []struct{ column, value string }{{"id", string(f.ID)}, {"agent", string(f.Agent)}, {"parent", string(f.Parent)}} {
		if c.value != "" {
			where, args = append(where, c.column+" = ?"), append(args, c.value)
		}
	}
	if f.Principal != "" {
		where, args = append(where, "(principal = ? OR author = ?)"), append(args, string(f.Principal), string(f.Principal))
	}
	if f.First {
		where = append(where, "parent = ''")
	}
	if f.Review {
		where = append(where, "kind = 'break_glass' AND parent = '' AND reviewed = 0")
	}
	return rows(ctx, s.engine, scanMandate, "SELECT "+mandateColumns+" FROM mandate WHERE "+strings.Join(where, " AND ")+" ORDER BY issued DESC, id LIMIT ?", append(args, f.Most())...)
}

func (s *SQL) CreateMandate(ctx context.Context, m identity.MandateRecord) error {
	if err := checkMandate(&m); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		if m.Kind == ostiary.StandingMandate {
			n, err := x.exec("UPDATE agent SET mandate = ? WHERE id = ?", string(m.ID), string(m.Agent))
			if err == nil && n == 0 {
				err = errNone("agent")
			}
			if err != nil {
				return none{}, err
			}
		}
		if err := addMandate(x, m); err != nil {
			return none{}, err
		}
		_, err := x.change("mandate", string(m.ID), mandateBody(&m))
		return none{}, err
	})
	return err
}

func mandateBody(m *identity.MandateRecord) any {
	return map[string]any{"kind": m.Kind.String(), "agent": m.Agent, "parent": m.Parent, "principal": m.Principal, "by": m.By, "expires": m.Expires}
}

func (s *SQL) EndMandate(ctx context.Context, e identity.MandateEnd) (uint64, error) {
	if err := checkText("end of the mandate", string(e.ID), string(e.How), e.By, e.Why); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		n, err := x.exec("UPDATE mandate SET ended = ?, how = ?, ender = ?, why = ? WHERE id = ? AND ended = 0", stamp(e.At), string(e.How), e.By, e.Why, string(e.ID))
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, isMandate(x, e.ID)
		}
		var epoch int64
		if _, err := x.get("UPDATE head SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch", nil, []any{&epoch}); err != nil {
			return 0, err
		}
		_, err = x.change("mandate_end", string(e.ID), endBody(&e, uint64(epoch)))
		return uint64(epoch), err
	})
}

func endBody(e *identity.MandateEnd, epoch uint64) any {
	return map[string]any{"how": e.How, "by": e.By, "why": e.Why, "at": e.At, "epoch": epoch}
}

func isMandate(x *txn, id ostiary.MandateID) error {
	var one int64
	found, err := x.get("SELECT 1 FROM mandate WHERE id = ?", []any{string(id)}, []any{&one})
	if err == nil && !found {
		err = errNone("mandate")
	}
	return err
}

func (s *SQL) ReviewMandate(ctx context.Context, id ostiary.MandateID, by string, at time.Time) error {
	if err := checkText("review", string(id), by); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec("UPDATE mandate SET reviewed = ?, reviewer = ? WHERE id = ? AND reviewed = 0", stamp(at), by, string(id))
		if err != nil {
			return none{}, err
		}
		if n == 0 {
			return none{}, isMandate(x, id)
		}
		_, err = x.change("mandate_review", string(id), map[string]any{"by": by, "at": at})
		return none{}, err
	})
	return err
}

func (m *Memory) Mandates(ctx context.Context, at time.Time) ([]identity.MandateRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []identity.MandateRecord
	for _, r := range m.mandates {
		if r.Kind == ostiary.StandingMandate || r.Ended.IsZero() && stamp(r.Expires) > stamp(at) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b identity.MandateRecord) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out, nil
}

func (m *Memory) MandateHistory(ctx context.Context, f identity.MandateFilter) ([]identity.MandateRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	all := slices.SortedFunc(maps.Values(m.mandates), func(a, b identity.MandateRecord) int {
		return cmp.Or(b.Issued.Compare(a.Issued), strings.Compare(string(a.ID), string(b.ID)))
	})
	all = slices.DeleteFunc(all, func(r identity.MandateRecord) bool { return !f.Matches(&r) })
	return all[:min(len(all), f.Most())], nil
}

func (m *Memory) CreateMandate(ctx context.Context, r identity.MandateRecord) error {
	if err := checkMandate(&r); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a, known := m.agents[r.Agent]
	if r.Kind == ostiary.StandingMandate && !known {
		return errNone("agent")
	}
	if _, taken := m.mandates[r.ID]; taken {
		return errTaken("mandate")
	}
	r.Issued, r.Expires = instant(stamp(r.Issued)), instant(stamp(r.Expires))
	return m.commit(NewRequest(), "mandate", string(r.ID), mandateBody(&r), func() {
		if m.mandates[r.ID] = r; r.Kind == ostiary.StandingMandate {
			a.Mandate = r.ID
			m.agents[r.Agent] = a
		}
	})
}

func (m *Memory) EndMandate(ctx context.Context, e identity.MandateEnd) (uint64, error) {
	if err := checkText("end of the mandate", string(e.ID), string(e.How), e.By, e.Why); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	r, known := m.mandates[e.ID]
	if !known {
		return 0, errNone("mandate")
	}
	if !r.Ended.IsZero() {
		return 0, nil
	}
	r.Ended, r.How, r.EndedBy, r.Why = instant(stamp(e.At)), e.How, e.By, e.Why
	epoch := m.epoch + 1
	err = m.commit(NewRequest(), "mandate_end", string(e.ID), endBody(&e, epoch), func() { m.epoch, m.mandates[e.ID] = epoch, r })
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

func (m *Memory) ReviewMandate(ctx context.Context, id ostiary.MandateID, by string, at time.Time) error {
	if err := checkText("review", string(id), by); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r, known := m.mandates[id]
	if !known {
		return errNone("mandate")
	}
	if !r.Reviewed.IsZero() {
		return nil
	}
	r.Reviewed, r.Reviewer = instant(stamp(at)), by
	return m.commit(NewRequest(), "mandate_review", string(id), map[string]any{"by": by, "at": at}, func() { m.mandates[id] = r })
}
