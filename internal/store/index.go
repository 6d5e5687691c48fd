package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// Index finds entries of a log. It holds no entry: it knows which may fit a
// filter, and reads these in the log, so that its answers are the log's own
// words. It lives in a file of its own, can be thrown away and made again, and
// is never read for a decision. What it has in memory, and in a crash of the
// machine what it wrote last, is lost together with its position, so that it
// is put again. Safe for concurrent use.
type Index struct {
	entries Entries
	most    int // entries of a run; tests have smaller ones
	writer  *sql.DB
	reads   *sql.DB

	writing sync.Mutex // held by whoever changes something; guards conn
	conn    *sql.Conn

	mu      sync.RWMutex // guards what follows; written with writing held
	logs    []*indexedLog
	closed  bool
	damaged bool // a part did not verify: Position says so until Reset
}

var _ ledger.Index = (*Index)(nil)

// Entries reads the log that an index is made from.
type Entries interface {
	// Rows visits the entries of one log at these places, which ascend.
	// NotFound if there is no such log or place.
	Rows(ctx context.Context, origin string, places []uint64, visit func(ledger.Row) error) error
}

// indexedLog is what the index has of one log: runs that follow one another,
// and the block that grows after them.
type indexedLog struct {
	id     int64
	origin string
	month  string
	runs   []run
	tail   *block
}

// run is a stored block.
type run struct {
	id    int64
	first uint64
	n     int
	since int64
	until int64
	last  ostiary.EntryID
}

func (l *indexedLog) position() uint64 { return l.tail.first + uint64(l.tail.n) }

const (
	defaultRows = 100    // rows of a query that names no limit
	maxRows     = 10_000 // rows of any query: an answer is held in memory
	maxKinds    = 32     // kinds in one filter: there are fewer
	maxPut      = 50_000 // rows of one Put, held in memory by its caller
)

// indexSteps are the versions of the file. The first had a row for each entry;
// such a file is not brought up but made again.
func indexSteps() []string { return []string{"SELECT 1", indexSchema} }

const indexSchema = `
CREATE TABLE log (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL UNIQUE,
  month TEXT NOT NULL
);
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  log BIGINT NOT NULL,
  first BIGINT NOT NULL,
  n BIGINT NOT NULL,
  since BIGINT NOT NULL,
  until BIGINT NOT NULL,
  last BLOB NOT NULL
);
CREATE TABLE part (
  id INTEGER PRIMARY KEY,
  data BLOB NOT NULL
);
`

// OpenIndex opens the index of a log in a file, made if it is not there. A
// file that is damaged, of another version, or made from a log that is no
// more, is thrown away and said so to logger: the log holds the truth.
func OpenIndex(path string, entries Entries, logger *slog.Logger) (*Index, error) {
	return openIndex(path, entries, logger, blockEntries)
}

func openIndex(path string, entries Entries, logger *slog.Logger, most int) (*Index, error) {
	ctx := context.Background() // opening is short and local
	x := &Index{entries: entries, most: most}
	why, err := x.open(ctx, path)
	if err == nil && why != "" {
		logger.Warn("the log's index is made again from the log", "file", filepath.Base(path), "why", why)
		if err = discard(path); err == nil {
			why, err = x.open(ctx, path)
		}
		if err == nil && why != "" {
			err = ostiary.Errorf(ostiary.Unavailable, "store", "the log's index cannot be made: %s", why)
		}
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// open opens the file, or says why it is of no use.
func (x *Index) open(ctx context.Context, path string) (why string, err error) {
	if err := private(path); err != nil {
		return "", err
	}
	if outdated(ctx, path) {
		return "its format is older than this program", nil
	}
	f, err := openSQLite(ctx, path, "NORMAL", indexSteps())
	var e *ostiary.Error
	switch {
	case errors.As(err, &e) && e.Kind == ostiary.Corrupt:
		return "it is damaged", nil
	case errors.As(err, &e) && e.Code == "schema_newer":
		return "it was made by a newer program", nil
	case err != nil:
		return "", err
	}
	x.writer, x.reads, x.conn = f.writer, f.reads, f.conn
	if why, err = x.load(ctx); err != nil || why != "" {
		err = errors.Join(err, x.conn.Close(), x.writer.Close(), x.reads.Close())
	}
	return why, err
}

func discard(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("throwing away an index: %w", err)
		}
	}
	return nil
}

// outdated recognizes a file of an earlier version. One that cannot be read is
// for the next step to judge.
func outdated(ctx context.Context, path string) bool {
	db, err := sql.Open("sqlite", sqliteDSN(path, "NORMAL"))
	if err != nil {
		return false
	}
	defer db.Close()
	var version int
	err = db.QueryRowContext(ctx, "SELECT MAX(version) FROM schema_version").Scan(&version)
	return err == nil && version < len(indexSteps())
}

// load reads which runs there are, and says why they are of no use if they do
// not fit the log.
func (x *Index) load(ctx context.Context) (why string, err error) {
	x.logs = nil
	rs, err := x.reads.QueryContext(ctx, "SELECT log.id, origin, month, run.id, first, n, since, until, last FROM run JOIN log ON log.id = run.log ORDER BY month, origin, first")
	if err != nil {
		return "", unreadable(err, sqliteFault)
	}
	defer rs.Close()
	for rs.Next() {
		var l indexedLog
		var r run
		var last []byte
		if err := rs.Scan(&l.id, &l.origin, &l.month, &r.id, &r.first, &r.n, &r.since, &r.until, &last); err != nil {
			return "", unreadable(err, sqliteFault)
		}
		if len(x.logs) == 0 || x.logs[len(x.logs)-1].id != l.id {
			l.tail = newBlock(0)
			x.logs = append(x.logs, &l)
		}
		of := x.logs[len(x.logs)-1]
		if r.first != of.position() || r.n < 1 || r.n > blockEntries || len(last) != len(r.last) {
			return "its runs do not follow one another", nil
		}
		copy(r.last[:], last)
		of.runs, of.tail = append(of.runs, r), newBlock(r.first+uint64(r.n))
	}
	if err := rs.Err(); err != nil {
		return "", unreadable(err, sqliteFault)
	}
	if !x.fits(ctx) {
		return "it was made from another log", nil
	}
	return "", nil
}

// fits reports whether the log still holds what was indexed: its months, and
// the newest entry of the newest run. What was cut off or put in its place
// took that entry away.
func (x *Index) fits(ctx context.Context) bool {
	for i, l := range x.logs {
		var at []uint64
		newest := l.runs[len(l.runs)-1]
		if i == len(x.logs)-1 {
			at = append(at, l.position()-1)
		}
		same := true
		err := x.entries.Rows(ctx, l.origin, at, func(r ledger.Row) error {
			same = r.Entry.ID == newest.last
			return nil
		})
		if err != nil && ostiary.KindOf(err) == ostiary.NotFound || !same {
			return false
		}
	}
	return true
}

// Position returns the next index of a log that is not in it yet. Corrupt if
// the index was found damaged and waits to be made again.
func (x *Index) Position(_ context.Context, origin string) (uint64, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.damaged {
		return 0, errPart()
	}
	for _, l := range x.logs {
		if l.origin == origin {
			return l.position(), nil
		}
	}
	return 0, nil
}

// Put adds rows of one log, first at position from, and moves the position
// past them. Conflict if from is not the position; Malformed if the rows do
// not follow one another. What a Put that failed took in nonetheless, Position
// says.
func (x *Index) Put(ctx context.Context, origin string, from uint64, rows []ledger.Row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := inSequence(origin, from, rows); err != nil {
		return err
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return errClosed()
	}
	l, err := x.logAt(origin, rows[0].Ref.Month, from)
	if err != nil {
		return err
	}
	entries, err := x.completed(ctx, rows)
	if err != nil {
		return err
	}
	for _, older := range x.logs { // their months are over
		if older.month < l.month && older.tail.n > 0 {
			if err := x.seal(ctx, older); err != nil {
				return err
			}
		}
	}
	for len(entries) > 0 {
		if l.tail.n >= x.most {
			if err := x.seal(ctx, l); err != nil {
				return err
			}
		}
		n := min(len(entries), x.most-l.tail.n)
		x.mu.Lock()
		for _, e := range entries[:n] {
			l.tail.add(e)
		}
		x.mu.Unlock()
		entries = entries[n:]
	}
	return nil
}

func inSequence(origin string, from uint64, rows []ledger.Row) error {
	if len(rows) > maxPut {
		return ostiary.Errorf(ostiary.Malformed, "too_large", "more than %d rows at once", maxPut)
	}
	for i := range rows {
		r := &rows[i]
		if r.Origin != origin || r.Ref.Index != from+uint64(i) || r.Ref.Month != rows[0].Ref.Month {
			return ostiary.Errorf(ostiary.Malformed, "sequence", "row %d is not the next of its log", i)
		}
		if r.Entry.Kind >= markKinds || r.Entry.Disposition >= markDispositions {
			return ostiary.Errorf(ostiary.Malformed, "index_row", "row %d is of no known kind", i)
		}
	}
	return nil
}

// logAt returns a log that is at a position, a new one at 0. Only who knows
// the position may move it. The caller holds writing.
func (x *Index) logAt(origin, month string, from uint64) (*indexedLog, error) {
	for _, l := range x.logs {
		if l.origin == origin {
			if l.position() != from || l.month != month {
				return nil, errPosition(from)
			}
			return l, nil
		}
	}
	if from != 0 {
		return nil, errPosition(from)
	}
	l := &indexedLog{origin: origin, month: month, tail: newBlock(0)}
	x.mu.Lock()
	defer x.mu.Unlock()
	logs := append(slices.Clone(x.logs), l)
	slices.SortFunc(logs, func(a, b *indexedLog) int {
		return cmp.Or(cmp.Compare(a.month, b.month), cmp.Compare(a.origin, b.origin))
	})
	x.logs = logs
	return l, nil
}

func errPosition(from uint64) error {
	return ostiary.Errorf(ostiary.Conflict, "index_position", "the index is not at entry %d of this log", from)
}

// seal stores the block that grew as a run and begins another. The caller
// holds writing.
func (x *Index) seal(ctx context.Context, l *indexedLog) error {
	b := l.tail
	r := run{first: b.first, n: b.n, since: b.since, until: b.until, last: b.last}
	id := l.id
	err := x.transact(ctx, func(c *sql.Conn) (err error) {
		if id == 0 {
			if err = c.QueryRowContext(ctx, "INSERT INTO log (origin, month) VALUES (?, ?) RETURNING id", l.origin, l.month).Scan(&id); err != nil {
				return err
			}
		}
		err = c.QueryRowContext(ctx, "INSERT INTO run (log, first, n, since, until, last) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
			id, int64(r.first), r.n, r.since, r.until, r.last[:]).Scan(&r.id)
		if err != nil {
			return err
		}
		st, err := c.PrepareContext(ctx, "INSERT INTO part (id, data) VALUES (?, ?)")
		if err != nil {
			return err
		}
		defer st.Close()
		for number, data := range b.encode() {
			at := partID(number, r.id)
			if _, err := st.ExecContext(ctx, at, sealPart(at, data)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	l.id, l.runs, l.tail = id, append(l.runs, r), newBlock(r.first+uint64(r.n))
	return nil
}

// partID names a part of a run so that equal parts of all runs lie together.
func partID(number int, run int64) int64 { return int64(number)<<40 | run }

// transact runs f in a transaction on the only connection that writes. The
// caller holds writing.
func (x *Index) transact(ctx context.Context, f func(*sql.Conn) error) (err error) {
	defer func() {
		if err != nil {
			x.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // fails if there is nothing to undo
			err = unreadable(err, sqliteFault)
		}
	}()
	if _, err = x.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err = f(x.conn); err != nil {
		return err
	}
	_, err = x.conn.ExecContext(ctx, "COMMIT")
	return err
}

// Reset empties the index, for a rebuild.
func (x *Index) Reset(ctx context.Context) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return errClosed()
	}
	x.mu.Lock() // no query begins between the file and what is known of it
	defer x.mu.Unlock()
	err := x.transact(ctx, func(c *sql.Conn) error {
		for _, q := range []string{"DELETE FROM part", "DELETE FROM run", "DELETE FROM log"} {
			if _, err := c.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		x.logs, x.damaged = nil, false
	}
	return err
}

// Close waits for the write under way and closes the file. What was not stored
// yet is put again after the next start. Closing again does nothing.
func (x *Index) Close() error {
	x.writing.Lock()
	defer x.writing.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	return errors.Join(x.conn.Close(), x.writer.Close(), x.reads.Close())
}

// toolOf is what an action is called without its server.
func toolOf(e *ostiary.Entry) string {
	if t, ok := strings.CutPrefix(e.Action, e.Server+"___"); ok {
		return t
	}
	return e.Action
}

// nanos and fromNanos keep an entry's time exactly; 0 is no time. Entries
// are written by our clock, far inside the 292 years that fit.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
