package store

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"

	"github.com/ostiary/ostiary"
)

// CheckSQLite reads the whole file of a control state and finds damage. It
// may be open in another process, or in this one.
func CheckSQLite(ctx context.Context, path string) error {
	return beside(ctx, path, func(db *sql.DB) error {
		var said string
		if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
			return notADatabase(fmt.Errorf("checking the store: %w", err))
		}
		if said != "ok" {
			return ostiary.Errorf(ostiary.Corrupt, "store", "the store is damaged: %s", said)
		}
		return nil
	})
}

// CopySQLite writes the control state, as of one moment between two writes,
// into a file that must not exist. The store may be open in another process,
// or in this one, and goes on meanwhile. The copy is flushed, and checked.
func CopySQLite(ctx context.Context, path, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // ours alone from the start; an empty file may be copied into
	if err != nil {
		return fmt.Errorf("copying the store: %w", err)
	}
	defer f.Close()
	err = beside(ctx, path, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", to)
		return err
	})
	if err != nil {
		return fmt.Errorf("copying the store: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("copying the store: %w", err)
	}
	return CheckSQLite(ctx, to)
}

// beside runs f on a connection of its own to a file that exists.
func beside(ctx context.Context, path string, f func(*sql.DB) error) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=rw&_pragma=busy_timeout(5000)&_pragma=trusted_schema(OFF)&_pragma=cell_size_check(ON)&_pragma=mmap_size(0)")
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return f(db)
}
