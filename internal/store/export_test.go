package store

import (
	"context"
	"database/sql"
	"errors"
)

// FailNext makes the next commit of either engine report failure.
func FailNext(s Store, happened bool) {
	lost := errors.New("the answer was lost")
	switch s := s.(type) {
	case *Memory:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fail = func() (before, after error) {
			s.fail = nil
			if happened {
				return nil, lost
			}
			return lost, nil
		}
	case *SQL:
		calls := 0 // of the writer's goroutine: the first ends this very batch, the second is to fail
		s.engine.onWriter(func() {
			s.engine.commit = func(ctx context.Context, c *sql.Conn) error {
				if calls++; calls != 2 {
					return commit(ctx, c)
				}
				if happened {
					if err := commit(ctx, c); err != nil {
						return err
					}
				}
				return lost
			}
		})
	}
}

// onWriter runs f on the writer's goroutine, which owns what f changes.
func (e *engine) onWriter(f func()) {
	write(context.Background(), e, func(*txn) (none, error) { f(); return none{}, errors.New("nothing to write") })
}
