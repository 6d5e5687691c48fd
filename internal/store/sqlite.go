package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteDialect needs no translation but the kind of transaction: a write
// takes its lock at the beginning, never in the middle.
func sqliteDialect() dialect {
	same := func(s string) string { return s }
	return dialect{begin: "BEGIN IMMEDIATE", bind: same, schema: same, classify: sqliteFault}
}

// sqliteFault tells errors after which the file cannot be trusted from those
// that pass. After a failed flush the kernel may report the next one as
// successful although pages are lost, so there is no second try.
func sqliteFault(err error) fault {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return transient
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_IOERR:
		return failing
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return damaged
	}
	return transient
}

// sqliteReaders are the connections of the read pool: queries are short, and
// few are ever under way at once.
const sqliteReaders = 4

// sqliteCache is how many KiB of pages a connection keeps: no call waits for a
// page, and the system has them too. The usual 2 MiB, in the ten connections of
// two files, is memory that fills within half an hour and is never given back.
const sqliteCache = 512

// OpenSQLite opens the control state in a file, made with mode 0600 if it is
// not there. One process may have it open: the next is refused, as
// Unavailable with the code "store_locked". A file that others may read, an
// engine with known faults and a newer schema are refused too.
func OpenSQLite(ctx context.Context, path string) (*SQL, error) {
	steps, err := controlSchema()
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	release, err := claim(path)
	if err != nil {
		return nil, err
	}
	db, err := openSQLite(ctx, path, "FULL", steps)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	closing := func() error { return errors.Join(db.writer.Close(), release()) }
	return &SQL{engine: newEngine(db.conn, db.reads, sqliteDialect(), commit, nil), now: time.Now, release: closing}, nil
}

// claim makes the file private and takes its lock. The lock is a file of its
// own, which nobody removes: removing it would let two processes hold one
// each.
func claim(path string) (func() error, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, ostiary.Errorf(ostiary.Unavailable, "store_locked", "another process has the store %s open", filepath.Base(path)).Because(err)
	}
	return f.Close, nil // closing gives up the lock
}

// private makes the database file if it is not there, and refuses one that
// others may read. SQLite gives its side files the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return ostiary.Errorf(ostiary.Unavailable, "store_mode", "the store %s must be a file that only its owner may read: chmod 600", filepath.Base(path))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the store's directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("flushing the store's directory: %w", err)
	}
	return nil
}

// sqliteFiles are the connections to one file.
type sqliteFiles struct {
	writer *sql.DB // holds conn and nothing else
	conn   *sql.Conn
	reads  *sql.DB
}

// openSQLite opens a file, checks the engine, and brings the schema up.
func openSQLite(ctx context.Context, path, synchronous string, steps []string) (f sqliteFiles, err error) {
	if f.writer, err = sql.Open("sqlite", sqliteDSN(path, synchronous)); err != nil {
		return f, fmt.Errorf("opening the store: %w", err)
	}
	f.writer.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			f.writer.Close()
		}
	}()
	if f.conn, err = f.writer.Conn(ctx); err != nil {
		return f, notADatabase(err)
	}
	defer func() {
		if err != nil {
			f.conn.Close()
		}
	}()
	if err = soundEngine(ctx, f.conn); err != nil {
		return f, err
	}
	var mode string
	if err = f.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		return f, ostiary.Errorf(ostiary.Unavailable, "store", "the store cannot keep a write-ahead log here").Because(err)
	}
	if err = migrate(ctx, f.conn, sqliteDialect(), steps); err != nil {
		return f, notADatabase(err)
	}
	if f.reads, err = sql.Open("sqlite", sqliteDSN(path, synchronous)+"&_pragma=query_only(1)"); err != nil {
		return f, fmt.Errorf("opening the store: %w", err)
	}
	f.reads.SetMaxOpenConns(sqliteReaders)
	f.reads.SetMaxIdleConns(sqliteReaders)
	return f, nil
}

func notADatabase(err error) error {
	if !ours(err) && sqliteFault(err) == damaged {
		return ostiary.Errorf(ostiary.Corrupt, "store", "the store is damaged or is no database").Because(err)
	}
	return err
}

// sqliteDSN names the file and what every connection starts with.
func sqliteDSN(path, synchronous string) string {
	q := url.Values{"_pragma": {
		"busy_timeout(5000)", // a reader may hold up a checkpoint; it never waits for another process
		"journal_mode(WAL)",
		"synchronous(" + synchronous + ")",
		"secure_delete(ON)", // what is deleted is overwritten: keys do not linger in free pages
		"foreign_keys(ON)",
		"trusted_schema(OFF)",
		"cell_size_check(ON)",
		"mmap_size(0)",
		"cache_size(" + strconv.Itoa(-sqliteCache) + ")", // negative is KiB
	}}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// soundEngine refuses engines in which a writer can race a checkpoint and
// corrupt the file: before 3.51.3, and 3.52.
func soundEngine(ctx context.Context, c *sql.Conn) error {
	var v string
	if err := c.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&v); err != nil {
		return fmt.Errorf("asking the engine's version: %w", err)
	}
	if !sound(v) {
		return ostiary.Errorf(ostiary.Unavailable, "store_engine", "SQLite %s has a known fault; 3.51.3 or later is needed, not 3.52", v)
	}
	return nil
}

func sound(version string) bool {
	var n [3]int
	parts := strings.Split(version, ".")
	if len(parts) < 3 {
		return false
	}
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(parts[i]); err != nil {
			return false
		}
	}
	v := n[0]*1_000_000 + n[1]*1000 + n[2]
	return v >= 3_051_003 && v/1000 != 3_052
}
