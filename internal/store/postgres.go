package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/ostiary/ostiary"
)

const (
	postgresReaders = 8                // connections for reads of one process: queries are short
	postgresPrime   = 5 * time.Minute  // life of a reader's connection: a server that changed its settings is found out by then
	connectTimeout  = 5 * time.Second  // to a server that does not answer, if the address says nothing else
	batchTimeout    = 20 * time.Second // above all that the server itself ends, below
)

// postgresLimits end on the server what this process cannot end when it is cut
// off: its transaction holds up every other writer.
var postgresLimits = map[string]string{
	"application_name":                    "ostiary",
	"statement_timeout":                   "15s",
	"lock_timeout":                        "10s",
	"idle_in_transaction_session_timeout": "5s",
	"client_encoding":                     "UTF8",
	"timezone":                            "UTC",
}

// migrationLock is the advisory lock under which the schema is moved, by one
// process at a time.
const migrationLock = 0x6f737469617279 // "ostiary"

// postgresDialect serialises the writers of all processes by the row of the
// head, taken before anything else, so that no two can wait for each other.
// To ask for a lost answer is to write that row: it waits until the lost
// transaction is over, and its own commit is not reported before everything
// committed earlier is as durable.
func postgresDialect() dialect {
	return dialect{
		begin: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", bind: numbered, schema: postgresSchema, classify: postgresFault,
		alone: "SELECT rev FROM head WHERE id = 1 FOR UPDATE", ask: "UPDATE head SET rev = rev WHERE id = 1", most: batchTimeout,
	}
}

// numbered turns each ? into $1, $2 and so on. No statement of ours has one
// inside a literal.
func numbered(q string) string {
	var b strings.Builder
	n := 0
	for i := range len(q) {
		if q[i] != '?' {
			b.WriteByte(q[i])
			continue
		}
		n++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
	}
	return b.String()
}

// postgresSchema gives bytes their type, and text the order of its bytes,
// whatever the database's language is.
func postgresSchema(ddl string) string {
	return strings.NewReplacer(" BLOB", " BYTEA", " TEXT", ` TEXT COLLATE "C"`).Replace(ddl)
}

// postgresFault tells a damaged database from errors that pass. After a
// failed flush the server ends by itself, so there is nothing to do here.
func postgresFault(err error) fault {
	var e *pgconn.PgError
	if errors.As(err, &e) && (e.Code == "XX001" || e.Code == "XX002") { // data_corrupted, index_corrupted
		return damaged
	}
	return transient
}

// OpenPostgres opens the control state in a database of its own, which may
// have many processes: postgres://user@host/database, with the options of
// libpq. Every connection is to the primary. Refused, as Unavailable, are:
// servers before version 15, in recovery, with fsync or full_page_writes off,
// with synchronous_commit below on or another encoding than UTF8; a remote
// server without a verified certificate; and a newer schema. No error holds
// the password.
func OpenPostgres(ctx context.Context, address string) (_ *SQL, err error) {
	steps, err := controlSchema()
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	noticed := new(atomic.Int64)
	cfg, err := postgresConfig(address, noticed)
	if err != nil {
		return nil, err
	}
	writer, reads := stdlib.OpenDB(*cfg), stdlib.OpenDB(*cfg)
	writer.SetMaxOpenConns(1)
	reads.SetMaxOpenConns(postgresReaders)
	reads.SetMaxIdleConns(postgresReaders)
	reads.SetConnMaxLifetime(postgresPrime)
	defer func() {
		if err != nil {
			writer.Close()
			reads.Close()
		}
	}()
	d := postgresDialect()
	bound, cancel := d.bounded(ctx)
	defer cancel()
	conn, err := writer.Conn(bound)
	if err != nil {
		return nil, unconnected(err)
	}
	if err := migrateShared(bound, conn, d, steps); err != nil {
		conn.Close()
		return nil, d.opening(err)
	}
	e := newEngine(conn, reads, d, commitNoticed(noticed), writer.Conn)
	return &SQL{engine: e, now: time.Now, release: writer.Close}, nil
}

// postgresConfig reads the address. What the library says of it is not passed
// on: it may repeat parts of it.
func postgresConfig(address string, noticed *atomic.Int64) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "store_address", "the address of the store cannot be read; write postgres://user@host:5432/database?sslmode=verify-full")
	}
	if err := verified(cfg); err != nil {
		return nil, err
	}
	for k, v := range postgresLimits {
		cfg.RuntimeParams[k] = v
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.ValidateConnect = soundServer
	cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { noticed.Add(1) }
	return cfg, nil
}

// verified refuses an address under which the library would talk to another
// machine in the clear, or to whoever answers.
func verified(cfg *pgx.ConnConfig) error {
	ways := append([]*pgconn.FallbackConfig{{Host: cfg.Host, TLSConfig: cfg.TLSConfig}}, cfg.Fallbacks...)
	for _, w := range ways {
		a, err := netip.ParseAddr(w.Host)
		if strings.HasPrefix(w.Host, "/") || strings.HasPrefix(w.Host, "@") || w.Host == "localhost" || err == nil && a.Unmap().IsLoopback() {
			continue
		}
		if w.TLSConfig == nil || w.TLSConfig.InsecureSkipVerify && w.TLSConfig.VerifyPeerCertificate == nil {
			return ostiary.Errorf(ostiary.Malformed, "store_tls", "the store is on another machine, so its certificate must be verified; add sslmode=verify-full (and sslrootcert) to the address")
		}
	}
	return nil
}

// soundServer refuses a server on which a commit would not be what we take it
// for. It is asked on each new connection: after a fail-over it is another.
func soundServer(ctx context.Context, c *pgconn.PgConn) error {
	const q = `SELECT current_setting('server_version_num'), current_setting('fsync'), current_setting('full_page_writes'),
		current_setting('synchronous_commit'), pg_is_in_recovery()::text, current_setting('server_encoding')`
	all, err := c.Exec(ctx, q).ReadAll()
	if err != nil {
		return err
	}
	if len(all) != 1 || len(all[0].Rows) != 1 || len(all[0].Rows[0]) != 6 {
		return errors.New("the server's settings cannot be read")
	}
	var s [6]string
	for i, v := range all[0].Rows[0] {
		s[i] = string(v)
	}
	return soundSettings(s[0], s[1], s[2], s[3], s[4], s[5])
}

func soundSettings(version, fsync, fullPages, synchronous, recovery, encoding string) error {
	refuse := func(format string, args ...any) error {
		return ostiary.Errorf(ostiary.Unavailable, "store_engine", format, args...)
	}
	if v, err := strconv.Atoi(version); err != nil || v < 15_00_00 {
		return refuse("the store needs PostgreSQL 15 or later; the server says version %s", version)
	}
	if recovery != "false" {
		return refuse("the server is in recovery: the store needs the primary")
	}
	for _, x := range []struct{ name, value string }{{"fsync", fsync}, {"full_page_writes", fullPages}} {
		if x.value != "on" {
			return refuse("the server has %s=%s: what it acknowledges can be lost; set it on", x.name, x.value)
		}
	}
	if synchronous != "on" && synchronous != "remote_apply" {
		return refuse("the server has synchronous_commit=%s for this user and database: what it acknowledges can be lost; set it on", synchronous)
	}
	if encoding != "UTF8" {
		return refuse("the database has the encoding %s; make one with UTF8", encoding)
	}
	return nil
}

// commitNoticed ends a transaction. A notice instead of silence means that the
// commit is not known: the server reports a cancelled wait for its standby as
// a commit with a warning. So does an answer other than COMMIT.
func commitNoticed(noticed *atomic.Int64) func(context.Context, *sql.Conn) error {
	return func(ctx context.Context, c *sql.Conn) error {
		before := noticed.Load()
		return c.Raw(func(dc any) error {
			tag, err := dc.(*stdlib.Conn).Conn().Exec(ctx, "COMMIT")
			switch {
			case err != nil:
				return err
			case tag.String() != "COMMIT":
				return fmt.Errorf("the server answered a commit with %q", tag.String())
			case noticed.Load() != before:
				return errors.New("the server gave a notice at a commit")
			}
			return nil
		})
	}
}

// migrateShared moves the schema while nobody else does.
func migrateShared(ctx context.Context, c *sql.Conn, d dialect, steps []string) error {
	if _, err := c.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return fmt.Errorf("waiting for another process to move the schema: %w", err)
	}
	if err := migrate(ctx, c, d, steps); err != nil {
		return err // the connection ends, and the lock with it
	}
	_, err := c.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrationLock))
	return err
}

// opening gives an error at the start its kind.
func (d dialect) opening(err error) error {
	if ours(err) {
		return err
	}
	return unreadable(err, d.classify)
}

// unconnected keeps our own refusal of a server, which the library wraps.
func unconnected(err error) error {
	var e *ostiary.Error
	if errors.As(err, &e) {
		return e
	}
	return ostiary.Errorf(ostiary.Unavailable, "store_connect", "the database server of the store cannot be reached, or does not let this user in").Because(err)
}
