package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// Index is the queryable index of the ledger in a file of its own. It holds
// entries without their payloads, can be thrown away and rebuilt, and is never
// read for a decision. What Put returned may be lost in a crash of the
// machine, together with its position, so that it is put again. Safe for
// concurrent use.
type Index struct {
	writer *sql.DB
	reads  *sql.DB

	mu     sync.Mutex // guards the writer's connection
	conn   *sql.Conn
	closed bool
}

var _ ledger.Index = (*Index)(nil)

const (
	defaultRows = 100    // rows of a query that names no limit
	maxRows     = 10_000 // rows of any query: an answer is held in memory
	maxKinds    = 32     // kinds in one filter: there are fewer
	maxPut      = 50_000 // rows of one Put: one transaction, held in memory by its caller
)

// OpenIndex opens the index in a file, made if it is not there. A file that is
// damaged or of another version is thrown away: the log holds the truth.
func OpenIndex(path string) (*Index, error) {
	ctx := context.Background() // opening is short and local
	if err := private(path); err != nil {
		return nil, err
	}
	f, err := openSQLite(ctx, path, "NORMAL", []string{indexSchema})
	if err != nil && rebuildable(err) {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("throwing away a damaged index: %w", err)
			}
		}
		if err := private(path); err != nil {
			return nil, err
		}
		f, err = openSQLite(ctx, path, "NORMAL", []string{indexSchema})
	}
	if err != nil {
		return nil, err
	}
	return &Index{writer: f.writer, reads: f.reads, conn: f.conn}, nil
}

func rebuildable(err error) bool {
	var e *ostiary.Error
	return errors.As(err, &e) && (e.Kind == ostiary.Corrupt || e.Code == "schema_newer")
}

// indexSchema numbers logs and spells ids as bytes, because the index is read
// and written by this file alone. Rows lie in the order of their log; the
// B-trees serve one question each. agent_name and tool are what people type:
// the last segment of an agent's id, and the action without its server.
const indexSchema = `
CREATE TABLE log (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL UNIQUE,
  month TEXT NOT NULL,
  next BIGINT NOT NULL
);
CREATE TABLE entry (
  log BIGINT NOT NULL,
  place BIGINT NOT NULL,
  kind BIGINT NOT NULL,
  id BLOB NOT NULL,
  time BIGINT NOT NULL,
  answers BLOB,
  parent BLOB,
  session TEXT NOT NULL,
  mandate TEXT NOT NULL,
  agent TEXT NOT NULL,
  agent_name TEXT NOT NULL,
  principal TEXT NOT NULL,
  action TEXT NOT NULL,
  tool TEXT NOT NULL,
  server TEXT NOT NULL,
  pin BLOB,
  asked BLOB,
  permit BIGINT NOT NULL,
  code TEXT NOT NULL,
  reasons TEXT NOT NULL,
  obligations TEXT NOT NULL,
  disposition BIGINT NOT NULL,
  snapshot BIGINT NOT NULL,
  policy BLOB,
  class TEXT NOT NULL,
  PRIMARY KEY (log, place)
) WITHOUT ROWID;
CREATE INDEX entry_time ON entry (time);
CREATE INDEX entry_id ON entry (id);
CREATE INDEX entry_agent ON entry (agent_name, time) WHERE agent_name <> '';
CREATE INDEX entry_tool ON entry (tool, time) WHERE tool <> '';
CREATE INDEX entry_denied ON entry (tool, time) WHERE tool <> '' AND permit = 0;
CREATE INDEX entry_session ON entry (session, time) WHERE session <> '';
CREATE INDEX entry_answers ON entry (answers) WHERE answers IS NOT NULL;
CREATE INDEX entry_parent ON entry (parent) WHERE parent IS NOT NULL;
`

const entryColumns = `place, kind, id, time, answers, parent, session, mandate, agent, principal, action, server, pin, asked, permit, code, reasons, obligations, disposition, snapshot, policy, class`

const insertEntry = `INSERT INTO entry (log, ` + entryColumns + `, agent_name, tool)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// Position returns the next index of a log that is not in it yet.
func (x *Index) Position(ctx context.Context, origin string) (uint64, error) {
	var next uint64
	err := x.reads.QueryRowContext(ctx, "SELECT next FROM log WHERE origin = ?", origin).Scan(&next)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, unreadable(err, sqliteFault)
	}
	return next, nil
}

// Put adds rows of one log, first at position from, and moves the position
// past them, in one transaction. Conflict if from is not the position;
// Malformed if the rows do not follow one another.
func (x *Index) Put(ctx context.Context, origin string, from uint64, rows []ledger.Row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := inSequence(origin, from, rows); err != nil {
		return err
	}
	return x.transact(ctx, func(c *sql.Conn) error {
		log, err := movePosition(ctx, c, origin, rows[0].Ref.Month, from, from+uint64(len(rows)))
		if err != nil {
			return err
		}
		st, err := c.PrepareContext(ctx, insertEntry)
		if err != nil {
			return err
		}
		defer st.Close()
		var args []any
		for i := range rows {
			args = entryArgs(args[:0], log, &rows[i])
			if _, err := st.ExecContext(ctx, args...); err != nil {
				return err
			}
			if err := inherit(ctx, c, log, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// inherited is what an Outcome that says nothing but what it answers has from
// its Intent: who, what, and under which policy.
const inherited = "session, mandate, agent, principal, action, server, pin, asked, permit, reasons, snapshot, policy, class, agent_name, tool"

// inherit completes the row of an Unknown outcome, which recovery writes from
// the Intent's id alone, so that it is found by agent, tool and server.
func inherit(ctx context.Context, c *sql.Conn, log int64, r *ledger.Row) error {
	e := &r.Entry
	if e.Kind != ostiary.KindOutcome || e.Answers.IsZero() || e.Action != "" || e.Agent != "" {
		return nil
	}
	const from = " FROM entry WHERE id = ? AND kind = ?"
	_, err := c.ExecContext(ctx, "UPDATE entry SET ("+inherited+") = (SELECT "+inherited+from+") WHERE log = ? AND place = ? AND EXISTS (SELECT 1"+from+")",
		e.Answers[:], int64(ostiary.KindIntent), log, int64(r.Ref.Index), e.Answers[:], int64(ostiary.KindIntent))
	return err
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
	}
	return nil
}

// movePosition is the guard: only who knows the position moves it.
func movePosition(ctx context.Context, c *sql.Conn, origin, month string, from, to uint64) (log int64, err error) {
	if from == 0 {
		_, err = c.ExecContext(ctx, "INSERT INTO log (origin, month, next) VALUES (?, ?, 0) ON CONFLICT (origin) DO NOTHING", origin, month)
		if err != nil {
			return 0, err
		}
	}
	err = c.QueryRowContext(ctx, "UPDATE log SET next = ? WHERE origin = ? AND next = ? AND month = ? RETURNING id", int64(to), origin, int64(from), month).Scan(&log)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ostiary.Errorf(ostiary.Conflict, "index_position", "the index is not at entry %d of this log", from)
	}
	return log, err
}

// transact runs f in a transaction on the only connection that writes.
func (x *Index) transact(ctx context.Context, f func(*sql.Conn) error) (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return errClosed()
	}
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

func entryArgs(args []any, log int64, r *ledger.Row) []any {
	e := &r.Entry
	return append(args, log, int64(r.Ref.Index), int64(e.Kind), e.ID[:], nanos(e.Time), idBytes(e.Answers), idBytes(e.Parent),
		string(e.Session), string(e.Mandate), string(e.Agent), string(e.Principal), e.Action, e.Server, digestBytes(e.Pin), digestBytes(e.Asked),
		flag(e.Permit), e.Code, listOrEmpty(e.Reasons), listOrEmpty(e.Obligations), int64(e.Disposition), int64(e.Snapshot), digestBytes(e.Policy), e.Class,
		e.Agent.Name(), toolOf(e))
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

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func idBytes(id ostiary.EntryID) any {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

func digestBytes(d ostiary.Digest) any {
	if d.IsZero() {
		return nil
	}
	return d[:]
}

func listOrEmpty(items []string) string {
	if len(items) == 0 {
		return ""
	}
	return list(items)
}

// Query returns the rows that a filter selects, by time and then by place.
func (x *Index) Query(ctx context.Context, f ledger.Filter) ([]ledger.Row, error) {
	q, args, err := question(f)
	if err != nil {
		return nil, err
	}
	rs, err := x.reads.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, unreadable(err, sqliteFault)
	}
	defer rs.Close()
	var out []ledger.Row
	for rs.Next() {
		r, err := scanRow(rs)
		if err != nil {
			return nil, unreadable(err, sqliteFault)
		}
		out = append(out, r)
	}
	if err := rs.Err(); err != nil {
		return nil, unreadable(err, sqliteFault)
	}
	return out, nil
}

// question writes the statement for a filter. Its text is ours alone: what a
// caller chose travels as parameters.
func question(f ledger.Filter) (string, []any, error) {
	var where []string
	var args []any
	and := func(cond string, vs ...any) {
		where = append(where, cond)
		args = append(args, vs...)
	}
	equal := func(column, v string) {
		if v != "" {
			and(column+" = ?", v)
		}
	}
	switch {
	case strings.Contains(f.Agent, "://"):
		and("agent_name = ? AND agent_name <> '' AND agent = ?", ostiary.AgentID(f.Agent).Name(), f.Agent)
	case f.Agent != "":
		and("agent_name = ? AND agent_name <> ''", f.Agent)
	}
	if f.Action != "" {
		andTool(&where, &args, f.Action)
	}
	if f.Session != "" {
		and("session = ? AND session <> ''", f.Session)
	}
	equal("principal", f.Principal)
	equal("server", f.Server)
	equal("code", f.Code)
	if len(f.Kinds) > maxKinds {
		return "", nil, ostiary.Errorf(ostiary.Malformed, "too_large", "more than %d kinds", maxKinds)
	}
	if len(f.Kinds) > 0 {
		and("kind IN (?" + strings.Repeat(", ?", len(f.Kinds)-1) + ")")
		for _, k := range f.Kinds {
			args = append(args, int64(k))
		}
	}
	if f.Permit != nil {
		and(fmt.Sprintf("permit = %d", flag(*f.Permit))) // written out, so that the B-tree of denials is seen
	}
	if f.Disposition != nil {
		and("disposition = ?", int64(*f.Disposition))
	}
	if f.Except != "" {
		and("action <> ?", f.Except)
	}
	if f.Latest {
		and(fmt.Sprintf("(kind <> %d OR NOT EXISTS (SELECT 1 FROM entry o WHERE o.answers = entry.id AND o.answers IS NOT NULL AND o.kind = %d))", ostiary.KindIntent, ostiary.KindOutcome))
	}
	if !f.Since.IsZero() {
		and("time >= ?", nanos(f.Since))
	}
	if !f.Until.IsZero() {
		and("time < ?", nanos(f.Until))
	}
	if !f.Answers.IsZero() {
		and("(answers = ? OR parent = ?)", f.Answers[:], f.Answers[:])
	}
	if !f.ID.IsZero() {
		and("entry.id = ?", f.ID[:])
	}
	limit := f.Limit
	if limit == 0 {
		limit = defaultRows
	}
	if limit < 0 || limit > maxRows {
		return "", nil, ostiary.Errorf(ostiary.Malformed, "limit", "a limit is between 1 and %d", maxRows).At("limit")
	}
	q := "SELECT origin, month, " + strings.Replace(entryColumns, " id,", " entry.id,", 1) + " FROM entry JOIN log ON log.id = entry.log"
	if len(where) > 0 {
		q += " WHERE " + strings.Join(where, " AND ")
	}
	order := ""
	if f.Newest {
		order = " DESC"
	}
	return q + " ORDER BY time" + order + ", log" + order + ", place" + order + " LIMIT ?", append(args, limit), nil
}

// andTool selects by an action's full name or by its name without the server.
// The index knows only the latter, so every way to split a full name is
// looked up and the name itself decides.
func andTool(where *[]string, args *[]any, name string) {
	const sep = "___"
	names := []any{name}
	for i := 0; i+len(sep) < len(name) && len(names) < maxKinds; i++ {
		if name[i:i+len(sep)] == sep {
			names = append(names, name[i+len(sep):])
		}
	}
	*where = append(*where, "tool IN (?"+strings.Repeat(", ?", len(names)-1)+") AND tool <> '' AND (tool = ? OR action = ?)")
	*args = append(append(*args, names...), name, name)
}

func scanRow(rs *sql.Rows) (r ledger.Row, err error) {
	e := &r.Entry
	var id, answers, parent, pin, asked, policy []byte
	var at int64
	var reasons, obligations string
	err = rs.Scan(&r.Origin, &r.Ref.Month, &r.Ref.Index, &e.Kind, &id, &at, &answers, &parent, &e.Session, &e.Mandate, &e.Agent, &e.Principal,
		&e.Action, &e.Server, &pin, &asked, &e.Permit, &e.Code, &reasons, &obligations, &e.Disposition, &e.Snapshot, &policy, &e.Class)
	if err != nil {
		return r, err
	}
	e.Time = fromNanos(at)
	for _, b := range []struct {
		to   []byte
		from []byte
	}{{e.ID[:], id}, {e.Answers[:], answers}, {e.Parent[:], parent}, {e.Pin[:], pin}, {e.Asked[:], asked}, {e.Policy[:], policy}} {
		if len(b.from) != 0 && len(b.from) != len(b.to) {
			return r, ostiary.Errorf(ostiary.Corrupt, "stored_row", "a row of the index holds %s, which is no id", hex.EncodeToString(b.from))
		}
		copy(b.to, b.from)
	}
	for _, l := range []struct {
		to   *[]string
		from string
	}{{&e.Reasons, reasons}, {&e.Obligations, obligations}} {
		if l.from == "" {
			continue
		}
		if *l.to, err = unlist(l.from); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Reset empties the index, for a rebuild.
func (x *Index) Reset(ctx context.Context) error {
	return x.transact(ctx, func(c *sql.Conn) error {
		for _, q := range []string{"DELETE FROM entry", "DELETE FROM log"} {
			if _, err := c.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close waits for the write under way and closes the file. Closing again does
// nothing.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	return errors.Join(x.conn.Close(), x.writer.Close(), x.reads.Close())
}
