package ledger_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
)

// lossy is a control state one operation of which fails once: it did not
// happen, or it happened and its answer was lost.
type lossy struct {
	*ledgertest.Control
	op   string
	nth  int // which of these operations fails, from 1
	done bool

	mu   sync.Mutex
	seen int
}

var errLost = errors.New("the answer was lost")

// lose runs an operation, or loses it. The log asks from several goroutines,
// and which of them meets the fault does not matter.
func lose[T any](c *lossy, op string, do func() (T, error)) (v T, err error) {
	c.mu.Lock()
	if op == c.op {
		c.seen++
	}
	hit := op == c.op && c.seen == c.nth
	c.mu.Unlock()
	if !hit {
		return do()
	}
	if c.done {
		do()
	}
	return v, errLost
}

type none struct{}

func (c *lossy) OpenLog(ctx context.Context, origin, key string) (uint64, error) {
	return lose(c, "OpenLog", func() (uint64, error) { return c.Control.OpenLog(ctx, origin, key) })
}

func (c *lossy) Fence(ctx context.Context, origin string, from uint64) (uint64, error) {
	return lose(c, "Fence", func() (uint64, error) { return c.Control.Fence(ctx, origin, from) })
}

func (c *lossy) Anchor(ctx context.Context, origin string, size uint64, root ostiary.Digest) error {
	_, err := lose(c, "Anchor", func() (none, error) { return none{}, c.Control.Anchor(ctx, origin, size, root) })
	return err
}

func (c *lossy) PutDataKey(ctx context.Context, name string, wrapped []byte) ([]byte, error) {
	return lose(c, "PutDataKey", func() ([]byte, error) { return c.Control.PutDataKey(ctx, name, wrapped) })
}

func (c *lossy) DataKey(ctx context.Context, name string) ([]byte, error) {
	return lose(c, "DataKey", func() ([]byte, error) { return c.Control.DataKey(ctx, name) })
}

// TestEveryFaultOfControl: the control state fails at each of its operations,
// in both ways, while the log lives through everything. What was acknowledged
// stands, every Intent gets its Outcome, and the log opens again.
func TestEveryFaultOfControl(t *testing.T) {
	met := map[string]bool{}
	for _, op := range []string{"OpenLog", "Fence", "Anchor", "PutDataKey", "DataKey"} {
		for nth := 1; nth <= 4; nth++ {
			for _, done := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					w, fs, month := memoryWorld()
					c := &lossy{Control: w.control, op: op, nth: nth, done: done}
					w.Control = c
					acked, err := story(w, month)
					if c.seen >= nth {
						met[op] = true
					}
					after := *w
					after.Control, after.FS = w.control, fs.Restart()
					if cerr := check(&after, acked); cerr != nil {
						t.Errorf("%s number %d, happened %v, %d acknowledged (story: %v): %v", op, nth, done, len(acked), err, cerr)
					}
				})
			}
		}
	}
	for _, op := range []string{"OpenLog", "Fence", "Anchor", "PutDataKey"} {
		if !met[op] {
			t.Errorf("the story never came to %s", op)
		}
	}
}

// lossyIndex is an index in memory whose n-th write fails.
type lossyIndex struct {
	memoryIndex
	nth  int
	done bool
	seen int
}

func (x *lossyIndex) Put(ctx context.Context, origin string, from uint64, rows []ledger.Row) error {
	x.seen++
	if x.seen != x.nth {
		return x.memoryIndex.Put(ctx, origin, from, rows)
	}
	if x.done {
		if err := x.memoryIndex.Put(ctx, origin, from, rows); err != nil {
			return err
		}
	}
	return errLost
}

// TestIndexLostAnswer: an index that failed to write goes on where it is, so
// that each entry is in it once.
func TestIndexLostAnswer(t *testing.T) {
	for _, done := range []bool{false, true} {
		w, _, _ := memoryWorld()
		l, err := ledger.Open(t.Context(), w.Options)
		if err != nil {
			t.Fatal(err)
		}
		x := &lossyIndex{nth: 2, done: done}
		indexer := ledger.NewIndexer(l, x)
		for i := range 3 {
			if _, err := l.Append(t.Context(), intent("a", i)); err != nil {
				t.Fatal(err)
			}
			if err := indexer.Catchup(t.Context()); (err != nil) != (i == 1) {
				t.Errorf("happened %v, round %d: %v", done, i, err)
			}
		}
		refs := map[ostiary.EntryRef]bool{}
		for _, r := range x.rows {
			if refs[r.Ref] {
				t.Errorf("happened %v: %s is indexed twice", done, r.Ref)
			}
			refs[r.Ref] = true
		}
		if _, n, m := indexer.Progress(); n != m || uint64(len(refs)) != m {
			t.Errorf("happened %v: %d rows, %d of %d indexed", done, len(refs), n, m)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
