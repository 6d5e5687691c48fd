package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
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

// Pragma changes a setting of the writer's connection.
func Pragma(s *SQL, pragma string) (err error) {
	s.engine.onWriter(func() { _, err = s.engine.conn.ExecContext(context.Background(), "PRAGMA "+pragma) })
	return err
}

// FailFlush makes every commit fail like a flush that failed, and counts how
// many were tried.
func FailFlush(s *SQL) (tried *int) {
	lost := errors.New("the flush failed")
	tried = new(int)
	s.engine.onWriter(func() {
		s.engine.dialect.classify = func(err error) fault {
			if errors.Is(err, lost) {
				return failing
			}
			return sqliteFault(err)
		}
		first := true
		s.engine.commit = func(ctx context.Context, c *sql.Conn) error {
			if first { // the end of this very batch
				first = false
				return commit(ctx, c)
			}
			*tried++
			return lost
		}
	})
	return tried
}

// onWriter runs f on the writer's goroutine, which owns what f changes.
func (e *engine) onWriter(f func()) {
	write(context.Background(), e, func(*txn) (none, error) { f(); return none{}, errors.New("nothing to write") })
}

// OpenSmallIndex opens an index whose runs have few entries.
func OpenSmallIndex(path string, entries Entries, logger *slog.Logger, most int) (*Index, error) {
	return openIndex(path, entries, logger, most)
}

// Fingerprint is what stands for a value in the index.
func Fingerprint(s string) uint32 { return fingerprint(s) }

// MigrateTo brings a database to one of the schema's steps.
func MigrateTo(ctx context.Context, db *sql.DB, postgres bool, n int) error {
	steps, err := controlSchema()
	if err != nil {
		return err
	}
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	d := sqliteDialect()
	if postgres {
		d = postgresDialect()
	}
	return migrate(ctx, c, d, steps[:n])
}
