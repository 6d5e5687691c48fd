package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

func errMoved() error {
	return ostiary.Errorf(ostiary.Conflict, "record_moved", "this record was changed meanwhile")
}

func checkList(kind string, limit int) error {
	if limit < 1 || limit > record.MaxList {
		return ostiary.Errorf(ostiary.Malformed, "record_limit", "a list has at least one record and at most %d", record.MaxList)
	}
	return record.CheckName(kind, "any")
}

// A change of a record says which one, and never what is in it.

func (s *SQL) CreateRecord(ctx context.Context, r record.Record, at time.Time) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		rev, err := x.change("record", r.Kind+" "+r.ID, none{})
		if err != nil {
			return 0, err
		}
		n, err := x.exec(`INSERT INTO record (kind, id, data, expires, rev) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (kind, id) DO UPDATE SET data = excluded.data, expires = excluded.expires, rev = excluded.rev
			WHERE record.expires <> 0 AND record.expires <= ?`,
			r.Kind, r.ID, r.Data, stamp(r.Expires), int64(rev), stamp(at))
		if err == nil && n == 0 {
			err = errTaken("record")
		}
		return rev, err
	})
}

func (s *SQL) ReplaceRecord(ctx context.Context, r record.Record) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		rev, err := x.change("record", r.Kind+" "+r.ID, none{})
		if err != nil {
			return 0, err
		}
		n, err := x.exec("UPDATE record SET data = ?, expires = ?, rev = ? WHERE kind = ? AND id = ? AND rev = ?",
			r.Data, stamp(r.Expires), int64(rev), r.Kind, r.ID, int64(r.Revision))
		if err != nil || n == 1 {
			return rev, err
		}
		var one int64
		found, err := x.get("SELECT 1 FROM record WHERE kind = ? AND id = ?", []any{r.Kind, r.ID}, []any{&one})
		switch {
		case err != nil:
			return 0, err
		case !found:
			return 0, errNone("record")
		}
		return 0, errMoved()
	})
}

func (s *SQL) WriteRecords(ctx context.Context, batch []record.Record, at time.Time) (uint64, error) {
	if err := record.CheckBatch(batch); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		rev, err := x.change("record", batch[0].Kind, map[string]int{"written": len(batch)})
		if err != nil {
			return 0, err
		}
		for _, r := range batch {
			n := int64(0)
			switch {
			case r.Revision == 0:
				n, err = x.exec(`INSERT INTO record (kind, id, data, expires, rev) VALUES (?, ?, ?, ?, ?)
					ON CONFLICT (kind, id) DO UPDATE SET data = excluded.data, expires = excluded.expires, rev = excluded.rev
					WHERE record.expires <> 0 AND record.expires <= ?`,
					r.Kind, r.ID, r.Data, stamp(r.Expires), int64(rev), stamp(at))
			case len(r.Data) == 0:
				n, err = x.exec("DELETE FROM record WHERE kind = ? AND id = ? AND rev = ?", r.Kind, r.ID, int64(r.Revision))
			default:
				n, err = x.exec("UPDATE record SET data = ?, expires = ?, rev = ? WHERE kind = ? AND id = ? AND rev = ?",
					r.Data, stamp(r.Expires), int64(rev), r.Kind, r.ID, int64(r.Revision))
			}
			if err == nil && n == 0 {
				err = errMoved()
			}
			if err != nil {
				return 0, err
			}
		}
		return rev, nil
	})
}

func (s *SQL) Record(ctx context.Context, kind, id string, at time.Time) (record.Record, error) {
	r := record.Record{Kind: kind, ID: id}
	if err := record.CheckName(kind, id); err != nil {
		return r, err
	}
	var expires int64
	found, err := s.row(ctx, "SELECT data, expires, rev FROM record WHERE kind = ? AND id = ? AND (expires = 0 OR expires > ?)",
		[]any{kind, id, stamp(at)}, []any{&r.Data, &expires, &r.Revision})
	if err == nil && !found {
		err = errNone("record")
	}
	r.Expires = instant(expires)
	return r, err
}

func (s *SQL) Records(ctx context.Context, kind, after string, limit int, at time.Time) ([]record.Record, error) {
	if err := checkList(kind, limit); err != nil {
		return nil, err
	}
	return rows(ctx, s.engine, func(rs *sql.Rows) (r record.Record, err error) {
		var expires int64
		r.Kind = kind
		err = rs.Scan(&r.ID, &r.Data, &expires, &r.Revision)
		r.Expires = instant(expires)
		return r, err
	}, "SELECT id, data, expires, rev FROM record WHERE kind = ? AND id > ? AND (expires = 0 OR expires > ?) ORDER BY id LIMIT ?",
		kind, after, stamp(at), limit)
}

func (s *SQL) TakeRecord(ctx context.Context, kind, id string, at time.Time) (record.Record, error) {
	if err := record.CheckName(kind, id); err != nil {
		return record.Record{}, err
	}
	return write(ctx, s.engine, func(x *txn) (record.Record, error) {
		r := record.Record{Kind: kind, ID: id}
		var expires int64
		found, err := x.get("DELETE FROM record WHERE kind = ? AND id = ? AND (expires = 0 OR expires > ?) RETURNING data, expires, rev",
			[]any{kind, id, stamp(at)}, []any{&r.Data, &expires, &r.Revision})
		if err == nil && !found {
			err = errNone("record")
		}
		if err != nil {
			return r, err
		}
		r.Expires = instant(expires)
		_, err = x.change("record", kind+" "+id, none{})
		return r, err
	})
}

func (s *SQL) DeleteRecord(ctx context.Context, kind, id string) error {
	if err := record.CheckName(kind, id); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec("DELETE FROM record WHERE kind = ? AND id = ?", kind, id)
		if err == nil && n == 0 {
			err = errNone("record")
		}
		if err != nil {
			return none{}, err
		}
		_, err = x.change("record", kind+" "+id, none{})
		return none{}, err
	})
	return err
}

func (s *SQL) SweepRecords(ctx context.Context, at time.Time) (int, error) {
	var one int64
	found, err := s.row(ctx, "SELECT 1 FROM record WHERE expires <> 0 AND expires <= ? LIMIT 1", []any{stamp(at)}, []any{&one})
	if err != nil || !found {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (int, error) {
		n, err := x.exec(`DELETE FROM record WHERE (kind, id) IN
			(SELECT kind, id FROM record WHERE expires <> 0 AND expires <= ? ORDER BY expires LIMIT ?)`, stamp(at), record.MaxList)
		if err != nil || n == 0 {
			return 0, err
		}
		_, err = x.change("record", "", map[string]int64{"swept": n})
		return int(n), err
	})
}

func (m *Memory) CreateRecord(ctx context.Context, r record.Record, at time.Time) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if old, ok := m.records[[2]string{r.Kind, r.ID}]; ok && !old.Ended(instant(stamp(at))) {
		return 0, errTaken("record")
	}
	return m.putRecord(r)
}

func (m *Memory) ReplaceRecord(ctx context.Context, r record.Record) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	old, ok := m.records[[2]string{r.Kind, r.ID}]
	if !ok {
		return 0, errNone("record")
	}
	if old.Revision != r.Revision {
		return 0, errMoved()
	}
	return m.putRecord(r)
}

func (m *Memory) WriteRecords(ctx context.Context, batch []record.Record, at time.Time) (uint64, error) {
	if err := record.CheckBatch(batch); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	for _, r := range batch {
		old, ok := m.records[[2]string{r.Kind, r.ID}]
		if r.Revision == 0 && ok && !old.Ended(instant(stamp(at))) || r.Revision > 0 && (!ok || old.Revision != r.Revision) {
			return 0, errMoved()
		}
	}
	rev := m.rev + 1
	return rev, m.commit(NewRequest(), "record", batch[0].Kind, map[string]int{"written": len(batch)}, func() {
		for _, r := range batch {
			if len(r.Data) == 0 {
				delete(m.records, [2]string{r.Kind, r.ID})
				continue
			}
			r.Data, r.Expires, r.Revision = slices.Clone(r.Data), instant(stamp(r.Expires)), rev
			m.records[[2]string{r.Kind, r.ID}] = r
		}
	})
}

func (m *Memory) putRecord(r record.Record) (uint64, error) {
	r.Data, r.Expires, r.Revision = slices.Clone(r.Data), instant(stamp(r.Expires)), m.rev+1
	err := m.commit(NewRequest(), "record", r.Kind+" "+r.ID, none{}, func() { m.records[[2]string{r.Kind, r.ID}] = r })
	if err != nil {
		return 0, err
	}
	return r.Revision, nil
}

func (m *Memory) Record(ctx context.Context, kind, id string, at time.Time) (record.Record, error) {
	r := record.Record{Kind: kind, ID: id}
	if err := record.CheckName(kind, id); err != nil {
		return r, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return r, err
	}
	defer leave()
	there, ok := m.records[[2]string{kind, id}]
	if !ok || there.Ended(instant(stamp(at))) {
		return r, errNone("record")
	}
	there.Data = slices.Clone(there.Data)
	return there, nil
}

func (m *Memory) Records(ctx context.Context, kind, after string, limit int, at time.Time) ([]record.Record, error) {
	if err := checkList(kind, limit); err != nil {
		return nil, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []record.Record
	for _, r := range m.records {
		if r.Kind == kind && r.ID > after && !r.Ended(instant(stamp(at))) {
			r.Data = slices.Clone(r.Data)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b record.Record) int { return strings.Compare(a.ID, b.ID) })
	return out[:min(len(out), limit)], nil
}

func (m *Memory) TakeRecord(ctx context.Context, kind, id string, at time.Time) (record.Record, error) {
	if err := record.CheckName(kind, id); err != nil {
		return record.Record{}, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return record.Record{}, err
	}
	defer leave()
	r, ok := m.records[[2]string{kind, id}]
	if !ok || r.Ended(instant(stamp(at))) {
		return record.Record{}, errNone("record")
	}
	return r, m.commit(NewRequest(), "record", kind+" "+id, none{}, func() { delete(m.records, [2]string{kind, id}) })
}

func (m *Memory) DeleteRecord(ctx context.Context, kind, id string) error {
	if err := record.CheckName(kind, id); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if _, ok := m.records[[2]string{kind, id}]; !ok {
		return errNone("record")
	}
	return m.commit(NewRequest(), "record", kind+" "+id, none{}, func() { delete(m.records, [2]string{kind, id}) })
}

func (m *Memory) SweepRecords(ctx context.Context, at time.Time) (int, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	var ended []record.Record
	for _, r := range m.records {
		if r.Ended(instant(stamp(at))) {
			ended = append(ended, r)
		}
	}
	slices.SortFunc(ended, func(a, b record.Record) int { return a.Expires.Compare(b.Expires) })
	ended = ended[:min(len(ended), record.MaxList)]
	if len(ended) == 0 {
		return 0, nil
	}
	return len(ended), m.commit(NewRequest(), "record", "", map[string]int{"swept": len(ended)}, func() {
		for _, r := range ended {
			delete(m.records, [2]string{r.Kind, r.ID})
		}
	})
}
