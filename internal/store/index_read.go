package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// Query returns the entries that a filter selects, in the order of the log,
// or the newest first. Recorded time never falls, so that is their order in
// time too.
func (x *Index) Query(ctx context.Context, f ledger.Filter) ([]ledger.Row, error) {
	q, err := ask(&f)
	if err != nil {
		return nil, err
	}
	out, err := x.query(ctx, q)
	var e *ostiary.Error
	if errors.As(err, &e) && e.Kind == ostiary.Corrupt && (e.Code == "index_damaged" || e.Code == "store") { // else it is the log's
		x.mu.Lock()
		x.damaged = true
		x.mu.Unlock()
	}
	return out, err
}

func (x *Index) query(ctx context.Context, q *question) ([]ledger.Row, error) {
	r, err := x.view(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close() // before Query takes a lock: others wait for its connection with that lock held
	return r.answer(ctx, q)
}

// reading is the index as it was at one moment. It is not changed by what
// happens to the index afterwards.
type reading struct {
	entries Entries
	blocks  []held // oldest first
	tx      *sql.Tx
	get     *sql.Stmt
}

// held is a block, in the file or in memory.
type held struct {
	origin string
	run
	tail *block // nil for a run
}

func (x *Index) view(ctx context.Context) (*reading, error) {
	r := &reading{entries: x.entries}
	x.mu.RLock()
	defer x.mu.RUnlock() // until the file's state is held too: Reset changes both
	if x.closed {
		return nil, errClosed()
	}
	stored := false
	for _, l := range x.logs {
		for _, run := range l.runs {
			r.blocks = append(r.blocks, held{l.origin, run, nil})
			stored = true
		}
		if b := l.tail; b.n > 0 {
			clone := *b // what is added later is beyond what these slices hold
			r.blocks = append(r.blocks, held{l.origin, run{first: b.first, n: b.n, since: b.since, until: b.until}, &clone})
		}
	}
	if !stored {
		return r, nil
	}
	if err := r.begin(ctx, x.reads); err != nil {
		r.close()
		return nil, unreadable(err, sqliteFault)
	}
	return r, nil
}

// begin holds the file's state by reading something of it.
func (r *reading) begin(ctx context.Context, db *sql.DB) (err error) {
	if r.tx, err = db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); err != nil {
		return err
	}
	if r.get, err = r.tx.PrepareContext(ctx, "SELECT data FROM part WHERE id = ?"); err != nil {
		return err
	}
	var one int
	return r.tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM run)").Scan(&one)
}

func (r *reading) close() {
	if r.get != nil {
		r.get.Close()
	}
	if r.tx != nil {
		r.tx.Rollback() // it only read
	}
}

// readAtOnce bounds the entries in memory before it is known whether they fit.
const readAtOnce = 1024

func (r *reading) answer(ctx context.Context, q *question) ([]ledger.Row, error) {
	var out []ledger.Row
	for i := range r.blocks {
		k := i
		if q.f.Newest {
			k = len(r.blocks) - 1 - i
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		set, err := r.candidates(ctx, q, k)
		if err != nil {
			return nil, err
		}
		for len(out) < q.limit {
			n := q.limit - len(out)
			if q.f.Except != "" {
				n = max(n, 64) // what is left out is known only once it was read
			}
			at := set.take(min(n, readAtOnce), q.f.Newest)
			if len(at) == 0 {
				break
			}
			rows, err := r.read(ctx, k, at)
			if err != nil {
				return nil, err
			}
			if q.f.Newest {
				slices.Reverse(rows)
			}
			for _, row := range rows {
				if len(out) == q.limit {
					break
				}
				fits, err := r.fits(ctx, q, k, &row)
				if err != nil {
					return nil, err
				}
				if fits {
					out = append(out, row)
				}
			}
		}
		if len(out) == q.limit {
			break
		}
	}
	return out, nil
}

// candidates returns the entries of a block that may fit.
func (r *reading) candidates(ctx context.Context, q *question, k int) (set places, err error) {
	b := &r.blocks[k]
	if !q.f.Since.IsZero() && b.until < nanos(q.f.Since) || !q.f.Until.IsZero() && b.since >= nanos(q.f.Until) {
		return set, nil
	}
	p := r.parted(ctx, k)
	if q.links == nil {
		for i := range set {
			set[i] = ^uint64(0)
		}
		set.keep(0, b.n)
	} else {
		at, err := p.linked(q.id, q.links...)
		if err != nil || len(at) == 0 {
			return set, err
		}
		for _, i := range at {
			set.add(i)
		}
	}
	return set, q.choose(p, b.n, &set)
}

// fits decides about one entry, completed.
func (r *reading) fits(ctx context.Context, q *question, k int, row *ledger.Row) (bool, error) {
	if unfinished(&row.Entry) {
		intent, err := r.find(ctx, row.Entry.Answers, linkID, k, -1, func(e *ostiary.Entry) bool { return e.Kind == ostiary.KindIntent && e.ID == row.Entry.Answers })
		if err != nil {
			return false, err
		}
		inherit(&row.Entry, intent)
	}
	if !q.admits(&row.Entry) {
		return false, nil
	}
	if !q.f.Latest || row.Entry.Kind != ostiary.KindIntent {
		return true, nil
	}
	// An Outcome in the same run was seen already.
	outcome, err := r.find(ctx, row.Entry.ID, linkOutcome, k, 1, func(e *ostiary.Entry) bool { return e.Kind == ostiary.KindOutcome && e.Answers == row.Entry.ID })
	return outcome == nil, err
}

// find returns the nearest entry from a block on, in one direction, that an
// id leads to, nil if there is none.
func (r *reading) find(ctx context.Context, id ostiary.EntryID, link, k, step int, fits func(*ostiary.Entry) bool) (*ostiary.Entry, error) {
	for ; k >= 0 && k < len(r.blocks); k += step {
		at, err := r.parted(ctx, k).linked(id, link)
		if err != nil || len(at) == 0 {
			if err != nil {
				return nil, err
			}
			continue
		}
		rows, err := r.read(ctx, k, at)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if fits(&rows[i].Entry) {
				return &rows[i].Entry, nil
			}
		}
	}
	return nil, nil
}

// read returns entries of a block, which ascend.
func (r *reading) read(ctx context.Context, k int, at []int) ([]ledger.Row, error) {
	b := &r.blocks[k]
	where := make([]uint64, len(at))
	for i, p := range at {
		if p >= b.n {
			return nil, errPart()
		}
		where[i] = b.first + uint64(p)
	}
	rows := make([]ledger.Row, 0, len(at))
	err := r.entries.Rows(ctx, b.origin, where, func(row ledger.Row) error {
		rows = append(rows, row)
		return nil
	})
	if err == nil && len(rows) != len(at) {
		err = ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "the log gave %d of %d entries", len(rows), len(at))
	}
	return rows, err
}

func (r *reading) parted(ctx context.Context, k int) parted {
	if t := r.blocks[k].tail; t != nil {
		return t
	}
	return &stored{ctx, r.get, r.blocks[k].id}
}

// stored reads a run, for one call.
type stored struct {
	ctx context.Context
	get *sql.Stmt
	run int64
}

func (s *stored) part(number int) ([]byte, error) {
	id := partID(number, s.run)
	var b []byte
	err := s.get.QueryRowContext(s.ctx, id).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errPart()
	}
	if err != nil {
		return nil, unreadable(err, sqliteFault)
	}
	b, ok := openPart(id, b)
	if !ok {
		return nil, errPart()
	}
	return b, nil
}

func (s *stored) linked(id ostiary.EntryID, kinds ...int) ([]int, error) {
	print := fingerprint(id[:])
	b, err := s.part(partLinks + bucketOf(print))
	if err != nil {
		return nil, err
	}
	if len(b)%linkBytes != 0 {
		return nil, errPart()
	}
	var out []int
	for ; len(b) > 0; b = b[linkBytes:] {
		at := binary.LittleEndian.Uint16(b[4:])
		if binary.LittleEndian.Uint32(b) == print && slices.Contains(kinds, int(at>>placeBits)) {
			out = append(out, int(at&(blockEntries-1)))
		}
	}
	return out, nil
}

// unfinished recognizes an Unknown outcome, which recovery writes from the
// Intent's id alone.
func unfinished(e *ostiary.Entry) bool {
	return e.Kind == ostiary.KindOutcome && !e.Answers.IsZero() && e.Action == "" && e.Agent == ""
}

// inherit gives it who, what and under which policy, so that it is found by
// agent, tool and server. One whose Intent is not here stands as it is.
func inherit(e, intent *ostiary.Entry) {
	if intent == nil {
		return
	}
	e.Session, e.Mandate, e.Agent, e.Principal = intent.Session, intent.Mandate, intent.Agent, intent.Principal
	e.Action, e.Server, e.Pin, e.Asked = intent.Action, intent.Server, intent.Pin, intent.Asked
	e.Permit, e.Reasons, e.Snapshot, e.Policy, e.Class = intent.Permit, intent.Reasons, intent.Snapshot, intent.Policy, intent.Class
}

// completed returns the entries of rows, with what unfinished ones inherit.
func (x *Index) completed(ctx context.Context, rows []ledger.Row) ([]*ostiary.Entry, error) {
	out := make([]*ostiary.Entry, len(rows))
	var r *reading
	defer func() {
		if r != nil {
			r.close()
		}
	}()
	for i := range rows {
		out[i] = &rows[i].Entry
		if !unfinished(out[i]) {
			continue
		}
		e := *out[i]
		is := func(o *ostiary.Entry) bool { return o.Kind == ostiary.KindIntent && o.ID == e.Answers }
		if j := slices.IndexFunc(out[:i], is); j >= 0 {
			inherit(&e, out[j])
			out[i] = &e
			continue
		}
		if r == nil {
			var err error
			if r, err = x.view(ctx); err != nil {
				return nil, err
			}
		}
		intent, err := r.find(ctx, e.Answers, linkID, len(r.blocks)-1, -1, is)
		if err != nil {
			return nil, fmt.Errorf("looking for the intent of %s: %w", rows[i].Ref, err)
		}
		inherit(&e, intent)
		out[i] = &e
	}
	return out, nil
}
