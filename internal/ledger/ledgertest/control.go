// Package ledgertest has fakes of what a log needs: control state and a
// wrapping key in memory, and a file layer that fails, forgets and tears as
// it is told.
//
// They promise what the real ones promise, so that what holds here holds
// there; they are for tests only.
package ledgertest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// Control is a ledger.Control in memory. Fail, if set, is asked before each
// operation; an error it returns is the operation's.
type Control struct {
	Fail func(op string) error

	mu    sync.Mutex
	logs  []ledger.LogRecord
	epoch map[string]uint64
	size  map[string]uint64
	root  map[string]ostiary.Digest
	keys  map[string][]byte
	rev   uint64
}

// NewControl returns an empty control state.
func NewControl() *Control {
	return &Control{epoch: map[string]uint64{}, size: map[string]uint64{}, root: map[string]ostiary.Digest{}, keys: map[string][]byte{}}
}

func (c *Control) begin(op string) error {
	c.mu.Lock()
	if c.Fail == nil {
		return nil
	}
	return c.Fail(op)
}

// OpenLog stores a log's opening.
func (c *Control) OpenLog(_ context.Context, origin, key string) (uint64, error) {
	defer c.mu.Unlock()
	if err := c.begin("OpenLog"); err != nil {
		return 0, err
	}
	for _, l := range c.logs {
		if l.Origin == origin {
			if l.Key != key {
				return 0, ostiary.Errorf(ostiary.Conflict, "log_key", "log %s has another key", origin)
			}
			return c.epoch[origin], nil
		}
	}
	c.logs = append(c.logs, ledger.LogRecord{Origin: origin, Key: key, Opened: time.Now()})
	return 0, nil
}

// Fence raises a log's writer epoch.
func (c *Control) Fence(_ context.Context, origin string, from uint64) (uint64, error) {
	defer c.mu.Unlock()
	if err := c.begin("Fence"); err != nil {
		return 0, err
	}
	if c.epoch[origin] != from {
		return 0, ostiary.Errorf(ostiary.Conflict, "fenced", "another writer was faster")
	}
	c.epoch[origin]++
	return c.epoch[origin], nil
}

// Anchor stores a log's newest head.
func (c *Control) Anchor(_ context.Context, origin string, size uint64, root ostiary.Digest) error {
	defer c.mu.Unlock()
	if err := c.begin("Anchor"); err != nil {
		return err
	}
	if have := c.size[origin]; size < have || size == have && have > 0 && root != c.root[origin] {
		return ostiary.Errorf(ostiary.Conflict, "anchor", "log %s would shrink or change", origin)
	}
	c.size[origin], c.root[origin] = size, root
	return nil
}

// Head returns the stored anchor.
func (c *Control) Head(_ context.Context, origin string) (uint64, ostiary.Digest, error) {
	defer c.mu.Unlock()
	if err := c.begin("Head"); err != nil {
		return 0, ostiary.Digest{}, err
	}
	return c.size[origin], c.root[origin], nil
}

// Logs lists all logs.
func (c *Control) Logs(context.Context) ([]ledger.LogRecord, error) {
	defer c.mu.Unlock()
	if err := c.begin("Logs"); err != nil {
		return nil, err
	}
	return append([]ledger.LogRecord(nil), c.logs...), nil
}

// PutDataKey stores a wrapped key, unless there is one.
func (c *Control) PutDataKey(_ context.Context, name string, wrapped []byte) ([]byte, error) {
	defer c.mu.Unlock()
	if err := c.begin("PutDataKey"); err != nil {
		return nil, err
	}
	if have, ok := c.keys[name]; ok {
		return append([]byte(nil), have...), nil
	}
	c.keys[name] = append([]byte(nil), wrapped...)
	return append([]byte(nil), wrapped...), nil
}

// DataKey returns a wrapped key.
func (c *Control) DataKey(_ context.Context, name string) ([]byte, error) {
	defer c.mu.Unlock()
	if err := c.begin("DataKey"); err != nil {
		return nil, err
	}
	have, ok := c.keys[name]
	if !ok {
		return nil, ostiary.Errorf(ostiary.NotFound, "no_key", "no such key")
	}
	return append([]byte(nil), have...), nil
}

// Revision makes Control a ledger.Revisions.
func (c *Control) Revision(context.Context) (uint64, uint64, error) {
	defer c.mu.Unlock()
	if err := c.begin("Revision"); err != nil {
		return 0, 0, err
	}
	return 1, c.rev, nil
}

// SetRevision sets what Revision returns.
func (c *Control) SetRevision(rev uint64) {
	c.mu.Lock()
	c.rev = rev
	c.mu.Unlock()
}

// DestroyKeys destroys every data key, as an erasure does.
func (c *Control) DestroyKeys() {
	c.mu.Lock()
	clear(c.keys)
	c.mu.Unlock()
}

// Clone returns a copy of the control state as it is now, for restores of old
// backups.
func (c *Control) Clone() *Control {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := NewControl()
	n.logs = append(n.logs, c.logs...)
	for k, v := range c.epoch {
		n.epoch[k] = v
	}
	for k, v := range c.size {
		n.size[k], n.root[k] = v, c.root[k]
	}
	for k, v := range c.keys {
		n.keys[k] = v
	}
	n.rev = c.rev
	return n
}

// Wrap returns a wrapping key of fixed bytes.
func Wrap() ledger.AEAD {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return wrap{gcm}
}

type wrap struct{ gcm cipher.AEAD }

func (w wrap) Seal(plain, ad []byte) ([]byte, error)  { return w.gcm.Seal(nil, nil, plain, ad), nil }
func (w wrap) Open(sealed, ad []byte) ([]byte, error) { return w.gcm.Open(nil, nil, sealed, ad) }
