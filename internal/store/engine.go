package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/ostiary/ostiary"
)

// dialect is all that engines spell differently.
type dialect struct {
	begin    string                  // begins a transaction that may write
	bind     func(q string) string   // turns ? into the engine's own placeholders
	schema   func(ddl string) string // turns our column types into the engine's
	classify func(error) fault
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
	conn    *sql.Conn // the writer's; only its goroutine uses it
	reads   *sql.DB
	commit  func(ctx context.Context, c *sql.Conn) error // tests let it fail

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

func newEngine(conn *sql.Conn, reads *sql.DB, d dialect) *engine {
	e := &engine{
		dialect: d, conn: conn, reads: reads, commit: commit,
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
		err = e.transact(ctx, ops)
	}
	if err != nil {
		e.settle(ctx, ops, err)
	}
	for _, o := range ops {
		close(o.done)
	}
}

// transact runs all writes of a batch. Its error means that the commit did
// not report success.
func (e *engine) transact(ctx context.Context, ops []*op) error {
	if _, err := e.conn.ExecContext(ctx, e.dialect.begin); err != nil {
		return err
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
		e.conn.ExecContext(ctx, "ROLLBACK") // fails if there is none, which is what we want
		if e.dialect.classify(cause) != transient {
			e.broken = cause
		}
	}
	for _, o := range ops {
		if !o.changed || e.broken != nil {
			o.value, o.err = nil, errNotKnown(cause)
			if !o.changed {
				o.err = errNotStored(cause)
			}
			continue
		}
		var rev int64
		err := e.conn.QueryRowContext(ctx, e.dialect.bind("SELECT rev FROM change WHERE request_id = ?"), o.request).Scan(&rev)
		switch {
		case err == nil: // it happened: its value stands
		case errors.Is(err, sql.ErrNoRows):
			o.value, o.err = nil, errNotStored(cause)
		default:
			o.value, o.err = nil, errNotKnown(cause)
		}
	}
}

// close stops the writer, waits for it, and closes the connections and what
// is behind them. Writes that still wait are refused.
func (e *engine) close(release func() error) (err error) {
	e.once.Do(func() {
		close(e.quit)
		<-e.stopped
		err = errors.Join(e.conn.Close(), e.reads.Close(), release())
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
			v, err = nil, ostiary.Errorf(ostiary.Internal, "panic", "internal error").Because(fmt.Errorf("panic in a write: %v", p))
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
