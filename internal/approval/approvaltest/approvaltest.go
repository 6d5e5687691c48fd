// Package approvaltest has a store of holds in memory: a fake that passes the
// suite of the real ones.
package approvaltest

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
)

// Store keeps holds in memory. Fail, if set, is asked before each write and
// after it: an error before means that it did not happen, one after that it
// happened and was reported failed. Safe for concurrent use.
type Store struct {
	Fail func(op string, after bool) error

	mu   sync.Mutex
	rows map[ostiary.HoldID]approval.Row
	rev  uint64
}

var _ approval.Store = (*Store)(nil)

func (m *Store) write(op string, do func() error) error {
	if m.Fail != nil {
		if err := m.Fail(op, false); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := do()
	m.mu.Unlock()
	if err == nil && m.Fail != nil {
		err = m.Fail(op, true)
	}
	return err
}

func (m *Store) put(r approval.Row) uint64 {
	if m.rows == nil {
		m.rows = map[ostiary.HoldID]approval.Row{}
	}
	m.rev++
	r.Revision = m.rev
	r.Created, r.Expires, r.Until = r.Created.UTC().Truncate(time.Microsecond), r.Expires.UTC().Truncate(time.Microsecond), r.Until.UTC().Truncate(time.Microsecond)
	r.Body, r.Votes, r.Result = bytes.Clone(r.Body), bytes.Clone(r.Votes), bytes.Clone(r.Result)
	m.rows[r.ID] = r
	return m.rev
}

func (m *Store) CreateHold(_ context.Context, r approval.Row, most int, at time.Time) (rev uint64, err error) {
	err = m.write("create", func() error {
		if err := r.Check(); err != nil {
			return err
		}
		if _, taken := m.rows[r.ID]; taken {
			return ostiary.Errorf(ostiary.Conflict, "taken", "there is a hold of this name already")
		}
		n := 0
		for _, o := range m.rows {
			if o.Agent == r.Agent && o.State == ostiary.HoldPending && o.Expires.After(at) {
				n++
			}
		}
		if n >= most {
			return approval.ErrTooMany(r.Agent, most)
		}
		rev = m.put(r)
		return nil
	})
	return rev, err
}

func (m *Store) ReplaceHold(_ context.Context, r approval.Row) (rev uint64, err error) {
	err = m.write("replace", func() error {
		if err := r.Check(); err != nil {
			return err
		}
		old, ok := m.rows[r.ID]
		switch {
		case !ok:
			return ostiary.Errorf(ostiary.NotFound, "absent", "there is no such hold")
		case old.Revision != r.Revision:
			return ostiary.Errorf(ostiary.Conflict, "record_moved", "this hold was changed meanwhile")
		}
		old.State, old.Expires, old.Until, old.Intent, old.Body, old.Votes, old.Result = r.State, r.Expires, r.Until, r.Intent, r.Body, r.Votes, r.Result
		rev = m.put(old)
		return nil
	})
	return rev, err
}

func (m *Store) Hold(_ context.Context, id ostiary.HoldID) (approval.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rows[id]
	if !ok {
		return approval.Row{}, ostiary.Errorf(ostiary.NotFound, "absent", "there is no such hold")
	}
	return r, nil
}

func (m *Store) Holds(_ context.Context, f approval.Filter) ([]approval.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []approval.Row{}
	for _, r := range m.rows {
		if f.Matches(&r) {
			out = append(out, r)
		}
	}
	return f.Page(out), nil
}

func (m *Store) CountHolds(context.Context) (map[ostiary.HoldState]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[ostiary.HoldState]int{}
	for _, r := range m.rows {
		out[r.State]++
	}
	return out, nil
}

func (m *Store) SweepHolds(_ context.Context, at time.Time) (n int, err error) {
	err = m.write("sweep", func() error {
		for id, r := range m.rows {
			if r.State.Ended() && !r.Until.After(at) && n < approval.MaxList {
				delete(m.rows, id)
				n++
			}
		}
		if n > 0 {
			m.rev++
		}
		return nil
	})
	return n, err
}
