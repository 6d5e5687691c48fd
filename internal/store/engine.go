package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

// dialect is all that engines spell differently.
type dialect struct {
	begin    string                  // begins a transaction that may write
	bind     func(q string) string   // turns ? into the engine's own placeholders
	schema   func(ddl string) string // turns our column types into the engine's
	classify func(error) fault

	// What only an engine behind a wire needs; empty for one in a file.
	alone string        // takes the place of the only writer, first in each transaction
	ask   string        // waits until a transaction whose answer was lost is over
	most  time.Duration // a batch, and a read, may take: a wire can be dead
}

// bounded returns a context that ends when the engine's patience does.
func (d dialect) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.most == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d.most)
}

// fault is what an engine's error means for us.
type fault uint8

const (
	transient fault = iota // this write failed; others may succeed
	failing                // what was flushed may not be on disk: no further write
	damaged                // the file does not verify: no further write
)

const (
	maxQueued = 1024 // writes waiting for the writer: beyond it callers wait in their own time
	maxBatch  = 128  // writes that share one flush: more only adds to their delay
)

// engine runs every write through one connection and one goroutine: writes
// that wait together are committed together, each in a savepoint of its own,
// with its own revision. Reads have their own connections.
type engine struct {
	dialect dialect
	conn    *sql.Conn // the writer's; only its goroutine uses it; nil while there is none
	reads   *sql.DB
	commit  func(ctx context.Context, c *sql.Conn) error // tests let it fail
	connect func(ctx context.Context) (*sql.Conn, error) // replaces conn after a failure; nil if there is no other

	queue   chan *op
	quit    chan struct{}
	stopped chan struct{}
	once    sync.Once
	broken  error // owned by the writer: set once, refuses all that follows
}

// op is one write on its way.
type op struct {
	ctx     context.Context // of its caller, read before it starts and never after
	run     func(*txn) (any, error)
	request string
	changed bool
	value   any
	err     error
	done    chan struct{}
}

// newEngine starts a writer. commit ends a transaction; connect is nil for an
// engine that has one connection for life.
func newEngine(conn *sql.Conn, reads *sql.DB, d dialect, commit func(context.Context, *sql.Conn) error, connect func(context.Context) (*sql.Conn, error)) *engine {
	e := &engine{
		dialect: d, conn: conn, reads: reads, commit: commit, connect: connect,
		queue: make(chan *op, maxQueued), quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	go e.writer() // Close waits for it
	return e
}

func commit(ctx context.Context, c *sql.Conn) error {
	_, err := c.ExecContext(ctx, "COMMIT")
	return err
}

// write runs f in a transaction and returns when it is durable. f may run
// again only if nothing of it happened. If the caller leaves early, the write
// goes on and nobody can say here what became of it.
func write[T any](ctx context.Context, e *engine, f func(*txn) (T, error)) (T, error) {
	return writeAs(ctx, e, NewRequest(), f)
}

func writeAs[T any](ctx context.Context, e *engine, request string, f func(*txn) (T, error)) (T, error) {
	var zero T
	o := &op{ctx: ctx, request: request, done: make(chan struct{}), run: func(t *txn) (any, error) { return f(t) }}
	select {
	case <-e.quit:
		return zero, errClosed()
	default:
	}
	select {
	case e.queue <- o:
	case <-e.quit:
		return zero, errClosed()
	case <-ctx.Done():
		return zero, errNotStored(ctx.Err())
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		return zero, errNotKnown(ctx.Err())
	case <-e.stopped:
		select {
		case <-o.done:
		default:
			return zero, errClosed()
		}
	}
	if o.err != nil {
		return zero, o.err
	}
	return o.value.(T), nil
}

// writer is the only goroutine that writes.
func (e *engine) writer() {
	defer close(e.stopped)
	for {
		select {
		case first := <-e.queue:
			e.batch(first)
		case <-e.quit:
			return // what still waits is told so by stopped
		}
	}
}

// batch commits what waits, together.
func (e *engine) batch(first *op) {
	ops := []*op{first}
	for len(ops) < maxBatch {
		select {
		case o := <-e.queue:
			ops = append(ops, o)
			continue
		default:
		}
		break
	}
	ctx := context.Background() // a caller who leaves must not break the others' transaction
	err := e.broken
	if err == nil {
		bound, cancel := e.dialect.bounded(ctx)
		err = e.transact(bound, ops)
		cancel()
	}
	if err != nil {
		bound, cancel := e.dialect.bounded(ctx)
		e.settle(bound, ops, err)
		cancel()
	}
	for _, o := range ops {
		close(o.done)
	}
}

// transact runs all writes of a batch. Its error means that the commit did
// not report success.
func (e *engine) transact(ctx context.Context, ops []*op) error {
	if err := e.begin(ctx); err != nil {
		return err
	}
	if e.dialect.alone != "" {
		if _, err := e.conn.ExecContext(ctx, e.dialect.alone); err != nil {
			e.conn.ExecContext(ctx, "ROLLBACK")
			return err
		}
	}
	for _, o := range ops {
		if o.err = o.ctx.Err(); o.err != nil {
			o.err = errNotStored(o.err)
			continue
		}
		if err := e.savepoint(ctx, o); err != nil {
			e.conn.ExecContext(ctx, "ROLLBACK") // the engine may have done it already
			return err
		}
	}
	return e.commit(ctx, e.conn)
}

// savepoint runs one write. Its own failure is undone and stays its own; the
// error returned is one that takes the whole batch with it.
func (e *engine) savepoint(ctx context.Context, o *op) error {
	t := &txn{ctx: ctx, e: e, op: o}
	if err := t.plain("SAVEPOINT one"); err != nil {
		return err
	}
	o.value, o.err = t.call(o.run)
	if o.err == nil {
		return t.plain("RELEASE SAVEPOINT one")
	}
	o.changed = false
	if !ours(o.err) && e.dialect.classify(o.err) != transient {
		return o.err
	}
	if err := t.plain("ROLLBACK TO SAVEPOINT one"); err != nil {
		return errors.Join(o.err, err) // the engine gave up the whole transaction
	}
	if !ours(o.err) {
		o.err = errNotStored(o.err)
	}
	return t.plain("RELEASE SAVEPOINT one")
}

// settle finds out what became of a batch whose commit did not report
// success: each change is asked for by its request id. What nobody can find
// out is said to be not known. Answers that depended on others of the batch
// are withdrawn.
func (e *engine) settle(ctx context.Context, ops []*op, cause error) {
	if e.broken == nil {
		e.abandon(ctx)
		if e.dialect.classify(cause) != transient {
			e.broken = cause
		}
	}
	fates := e.fates(ctx, ops)
	for _, o := range ops {
		switch {
		case !o.changed:
			o.value, o.err = nil, errNotStored(cause)
		case fates[o] == happened: // its value stands
		case fates[o] == didNot:
			o.value, o.err = nil, errNotStored(cause)
		default:
			o.value, o.err = nil, errNotKnown(cause)
		}
	}
}

// fate is what became of a change; the zero fate is not known.
type fate uint8

const (
	notKnown fate = iota
	happened
	didNot
)

// fates asks for each change by its request id. If the engine has a question
// that waits for lost transactions, it comes first, and no answer counts
// unless all of the asking is committed as durably as any write.
func (e *engine) fates(ctx context.Context, ops []*op) map[*op]fate {
	if e.broken != nil || !slices.ContainsFunc(ops, func(o *op) bool { return o.changed }) || e.connected(ctx) != nil {
		return nil
	}
	for _, q := range e.asking() {
		if _, err := e.conn.ExecContext(ctx, q); err != nil {
			e.abandon(ctx)
			return nil
		}
	}
	found := map[*op]fate{}
	for _, o := range ops {
		if !o.changed {
			continue
		}
		var rev int64
		err := e.conn.QueryRowContext(ctx, e.dialect.bind("SELECT rev FROM change WHERE request_id = ?"), o.request).Scan(&rev)
		switch {
		case err == nil:
			found[o] = happened
		case errors.Is(err, sql.ErrNoRows):
			found[o] = didNot
		}
	}
	if e.dialect.ask != "" {
		if err := e.commit(ctx, e.conn); err != nil {
			e.abandon(ctx)
			return nil
		}
	}
	return found
}

func (e *engine) asking() []string {
	if e.dialect.ask == "" {
		return nil
	}
	return []string{e.dialect.begin, e.dialect.ask}
}

// begin opens a transaction, on a new connection if the one at hand ended
// since the last: nothing of the batch has happened yet.
func (e *engine) begin(ctx context.Context) error {
	for again := e.conn != nil && e.connect != nil; ; again = false {
		if err := e.connected(ctx); err != nil {
			return err
		}
		_, err := e.conn.ExecContext(ctx, e.dialect.begin)
		if err == nil || !again {
			return err
		}
		e.abandon(ctx)
	}
}

// connected makes sure that the writer has a connection.
func (e *engine) connected(ctx context.Context) (err error) {
	if e.conn == nil {
		e.conn, err = e.connect(ctx)
	}
	return err
}

// abandon ends a transaction that failed: an engine behind a wire loses the
// connection with it, since nobody knows what state it is in.
func (e *engine) abandon(ctx context.Context) {
	if e.connect == nil {
		e.conn.ExecContext(ctx, "ROLLBACK") // fails if there is none, which is what we want
		return
	}
	if e.conn != nil {
		e.conn.Raw(func(any) error { return driver.ErrBadConn }) // the pool throws it away
		e.conn.Close()
		e.conn = nil
	}
}

// close stops the writer, waits for it, and closes the connections and what
// is behind them. Writes that still wait are refused.
func (e *engine) close(release func() error) (err error) {
	e.once.Do(func() {
		close(e.quit)
		<-e.stopped
		if e.conn != nil {
			err = e.conn.Close()
		}
		err = errors.Join(err, e.reads.Close(), release())
	})
	return err
}

// txn is a write's view of its transaction.
type txn struct {
	ctx context.Context // of the batch; a txn lives no longer than one call
	e   *engine
	op  *op
}

func (t *txn) plain(q string) error {
	_, err := t.e.conn.ExecContext(t.ctx, q)
	return err
}

// call runs the write and turns its panic into an error: it must not stop the
// writer.
func (t *txn) call(run func(*txn) (any, error)) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, ostiary.Errorf(ostiary.Internal, "panic", "internal error").Because(fmt.Errorf("in a write: %w", ostiary.Panicked(p)))
		}
	}()
	return run(t)
}

// exec runs a statement and returns how many rows it touched.
func (t *txn) exec(q string, args ...any) (int64, error) {
	r, err := t.e.conn.ExecContext(t.ctx, t.e.dialect.bind(q), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// get reads one row and reports whether there was one.
func (t *txn) get(q string, args, dest []any) (bool, error) {
	err := t.e.conn.QueryRowContext(t.ctx, t.e.dialect.bind(q), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// change gives the write its revision and its row, and returns the revision.
// A write calls it at most once, last: the head's row is locked from here to
// the commit, so that the order of revisions is the order of commits.
func (t *txn) change(kind, key string, content any) (uint64, error) {
	var rev, epoch int64
	if _, err := t.get("UPDATE head SET rev = rev + 1 WHERE id = 1 RETURNING rev, epoch", nil, []any{&rev, &epoch}); err != nil {
		return 0, err
	}
	_, err := t.exec("INSERT INTO change (rev, epoch, request_id, kind, item, body) VALUES (?, ?, ?, ?, ?, ?)",
		rev, epoch, t.op.request, kind, key, body(content))
	if err != nil {
		return 0, err
	}
	t.op.changed = true
	return uint64(rev), nil
}

// rows reads a list.
func rows[T any](ctx context.Context, e *engine, scan func(*sql.Rows) (T, error), q string, args ...any) ([]T, error) {
	ctx, cancel := e.dialect.bounded(ctx)
	defer cancel()
	rs, err := e.reads.QueryContext(ctx, e.dialect.bind(q), args...)
	if err != nil {
		return nil, e.unreadable(err)
	}
	defer rs.Close()
	var out []T
	for rs.Next() {
		if len(out) == maxListed {
			return nil, ostiary.Errorf(ostiary.Unavailable, "too_many", "a list of control state has more than %d rows", maxListed)
		}
		v, err := scan(rs)
		if err != nil {
			return nil, e.unreadable(err)
		}
		out = append(out, v)
	}
	if err := rs.Err(); err != nil {
		return nil, e.unreadable(err)
	}
	return out, nil
}

// row reads one row and reports whether there was one.
func (e *engine) row(ctx context.Context, q string, args, dest []any) (bool, error) {
	ctx, cancel := e.dialect.bounded(ctx)
	defer cancel()
	err := e.reads.QueryRowContext(ctx, e.dialect.bind(q), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, e.unreadable(err)
	}
	return true, nil
}

func (e *engine) unreadable(err error) error { return unreadable(err, e.dialect.classify) }

func unreadable(err error, classify func(error) fault) error {
	if ours(err) {
		return err
	}
	if classify(err) == damaged {
		return ostiary.Errorf(ostiary.Corrupt, "store", "the store is damaged").Because(err)
	}
	return ostiary.Errorf(ostiary.Unavailable, "store", "the store cannot answer").Because(err)
}
