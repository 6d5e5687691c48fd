package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"github.com/ostiary/ostiary"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings a database to the newest schema: forward only, each step in
// a transaction of its own, numbered by the order of the files. A database
// with a newer schema is refused: this program would not know its guards.
func migrate(ctx context.Context, c *sql.Conn, d dialect, steps []string) error {
	if _, err := c.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)"); err != nil {
		return fmt.Errorf("preparing the schema: %w", err)
	}
	var at int
	if err := c.QueryRowContext(ctx, "SELECT COALESCE(MAX(version), 0) FROM schema_version").Scan(&at); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if at > len(steps) {
		return ostiary.Errorf(ostiary.Unavailable, "schema_newer", "the database has schema %d and this program knows only up to %d; use the newer program", at, len(steps))
	}
	for n := at + 1; n <= len(steps); n++ {
		if err := step(ctx, c, d, n, steps[n-1]); err != nil {
			return fmt.Errorf("moving the schema to %d: %w", n, err)
		}
	}
	return nil
}

func step(ctx context.Context, c *sql.Conn, d dialect, n int, ddl string) (err error) {
	if _, err = c.ExecContext(ctx, d.begin); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.ExecContext(ctx, "ROLLBACK")
		}
	}()
	if _, err = c.ExecContext(ctx, d.schema(ddl)); err != nil {
		return err
	}
	if _, err = c.ExecContext(ctx, d.bind("INSERT INTO schema_version (version) VALUES (?)"), n); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, "COMMIT")
	return err
}

// controlSchema returns the steps of the control state's schema, in order.
func controlSchema() ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var steps []string
	for i, name := range names {
		if want := fmt.Sprintf("migrations/%04d_", i+1); len(name) < len(want) || name[:len(want)] != want {
			return nil, fmt.Errorf("migration %s: want %s", name, want)
		}
		b, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, string(b))
	}
	return steps, nil
}
