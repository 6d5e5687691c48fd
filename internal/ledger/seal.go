package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Where a pending entry is on its way.
const (
	queued uint32 = iota
	taken         // step 3: it stands, or nobody knows
	withdrawn
)

// pending is one entry between its caller and the committer. The caller owns
// it up to admission and after done; the committer in between. A caller that
// gave up leaves it behind.
type pending struct {
	id      ostiary.EntryID
	volume  *volume
	entry   proof.Entry
	encoded []byte
	sealed  []byte
	scratch []byte
	leaf    tlog.Hash
	stamp   int64 // entry.Time in Unix nanoseconds
	lane    string
	state   atomic.Uint32
	done    chan struct{}

	index uint64
	err   error
}

// pending takes one from the pool. The pool is the log's own: a channel that
// outlives its log is nobody else's.
func (l *Log) pending() *pending {
	if p, ok := l.pool.Get().(*pending); ok {
		return p
	}
	return &pending{done: make(chan struct{}, 1)}
}

// keepBuffer is the largest buffer that goes back to the pool: what usual
// entries need, so that one large request does not keep its memory.
const keepBuffer = 64 << 10

func (l *Log) release(p *pending) {
	if cap(p.sealed) > keepBuffer || cap(p.scratch) > keepBuffer {
		p.sealed, p.scratch = nil, nil
	}
	clear(p.scratch[:cap(p.scratch)]) // it held the plain payload
	p.entry = proof.Entry{}
	p.volume, p.err, p.lane = nil, nil, ""
	p.state.Store(queued)
	l.pool.Put(p)
}

// size is what the entry takes in a frame.
func (p *pending) size() int64 { return int64(proof.RecordHead + len(p.encoded) + len(p.sealed)) }

func (p *pending) receipt() (ostiary.Receipt, error) {
	if p.err != nil {
		return ostiary.Receipt{}, p.err
	}
	return ostiary.Receipt{ID: p.id, Ref: p.volume.ref(p.index), Origin: p.volume.origin, Time: p.entry.Time}, nil
}

// seal is step 1: the entry's id, its payload sealed under the Subject's data
// key, its encoding and leaf hash. It runs in the caller.
func (l *Log) seal(ctx context.Context, p *pending, e *ostiary.Entry) error {
	v := l.current()
	x := &p.entry
	*x = proof.Entry{
		Kind: e.Kind, ID: e.ID, Log: v.origin, Answers: e.Answers, Parent: e.Parent,
		Session: string(e.Session), Mandate: string(e.Mandate), Agent: string(e.Agent), Principal: string(e.Principal),
		Approval: string(e.Approval), Facts: factsOf(e.Facts), Action: e.Action, Server: e.Server, Pin: e.Pin, Asked: e.Asked, Permit: e.Permit, Code: e.Code,
		Reasons: e.Reasons, Obligations: e.Obligations, Disposition: e.Disposition,
		Snapshot: e.Snapshot, Policy: e.Policy, Class: e.Class,
	}
	if x.Class == "standard" {
		x.Class = ""
	}
	if err := fit(x); err != nil {
		return err
	}
	return l.finish(ctx, p, v, &e.Payload)
}

// finish seals a pending entry whose fields are filled in.
func (l *Log) finish(ctx context.Context, p *pending, v *volume, payload *ostiary.Payload) error {
	x := &p.entry
	p.volume, p.lane = v, x.Agent
	if x.ID.IsZero() {
		if _, err := rand.Read(x.ID[:]); err != nil {
			return ostiary.Errorf(ostiary.Unavailable, "random", "no randomness").Because(err)
		}
	}
	p.id = x.ID
	p.sealed = p.sealed[:0]
	if proof.HasPayload(payload) {
		k, err := v.keys.get(ctx, l, v.month, subject{x.Agent, x.Principal, x.Class})
		if err != nil {
			return err
		}
		x.Key = k.id
		if p.sealed, p.scratch, err = k.key.SealPayload(p.sealed, p.scratch, l.opt.Deployment, x, payload); err != nil {
			return err
		}
	}
	x.Time = l.now() // as late as possible, so that few entries overtake each other
	p.stamp = x.Time.UnixNano()
	var err error
	if p.encoded, err = proof.AppendEntry(p.encoded[:0], x); err != nil {
		return err
	}
	p.leaf = proof.LeafHash(p.encoded)
	return nil
}

// factsOf is the published form of an entry's public statements.
func factsOf(m map[string]string) []proof.Fact {
	if len(m) == 0 {
		return nil
	}
	out := make([]proof.Fact, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, proof.Fact{Name: name, Value: m[name]})
	}
	return out
}

// now is the wall clock, but never before a time already recorded.
func (l *Log) now() time.Time {
	t := l.opt.Clock()
	if floor := l.floor.Load(); t.UnixNano() < floor {
		return time.Unix(0, floor).UTC()
	}
	return t.Round(0).UTC()
}

// fit makes the texts of an entry fit. What an agent can make long is cut in
// entries that only report; an Intent says exactly what is about to happen or
// is refused.
func fit(x *proof.Entry) error {
	if x.Kind == ostiary.KindNone {
		return ostiary.Errorf(ostiary.Malformed, "entry_kind", "an entry has a kind")
	}
	for _, f := range [...]struct {
		name  string
		s     *string
		limit int
	}{
		{"session", &x.Session, 128}, {"mandate", &x.Mandate, 128}, {"agent", &x.Agent, 1024},
		{"principal", &x.Principal, 256}, {"action", &x.Action, 256}, {"server", &x.Server, 128},
		{"approval", &x.Approval, 64}, {"code", &x.Code, 64}, {"class", &x.Class, 32},
	} {
		cut := clip(*f.s, f.limit)
		if cut == *f.s {
			continue
		}
		if x.Kind == ostiary.KindIntent {
			return ostiary.Errorf(ostiary.Malformed, "entry_text", "longer than %d bytes, or not UTF-8", f.limit).At(f.name)
		}
		*f.s, x.Clipped = cut, true
	}
	x.Reasons = fitList(x, x.Reasons, 1024)
	x.Obligations = fitList(x, x.Obligations, 512)
	return nil
}

// fitList keeps as many of the texts as fit. The rest is in the payload's
// inputs.
func fitList(x *proof.Entry, l []string, room int) []string {
	n := 0
	for i, s := range l {
		if n += 2 + len(s); n > room || clip(s, room) != s {
			x.Clipped = true
			return l[:i:i]
		}
	}
	return l
}

// clip cuts s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for i := 0; i < 4 && len(s) > 0 && s[len(s)-1] >= 0x80; i++ {
			if s[len(s)-1] >= 0xc0 {
				s = s[:len(s)-1]
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// subject is whom a data key serves, with the month of the volume.
type subject struct{ agent, principal, class string }

type dataKey struct {
	id  proof.KeyID
	key *proof.DataKey
}

// keys holds the data keys of one volume open. Wrapped, they are durable in
// the control state before their first use.
type keys struct {
	mu   sync.RWMutex
	open map[subject]*dataKey
	make sync.Mutex // one key is made at a time
}

func (k *keys) get(ctx context.Context, l *Log, month string, s subject) (*dataKey, error) {
	k.mu.RLock()
	d := k.open[s]
	k.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	k.make.Lock()
	defer k.make.Unlock()
	k.mu.RLock()
	d = k.open[s]
	k.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	d, err := l.dataKey(ctx, s, month)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "no_data_key", "no key to seal the entry with").Because(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil || len(k.open) >= maxKeys {
		k.open = map[subject]*dataKey{}
	}
	k.open[s] = d
	return d, nil
}

// dataKey makes the data key of a subject, or loads the one there is.
func (l *Log) dataKey(ctx context.Context, s subject, month string) (*dataKey, error) {
	id := keyID(l.opt.Deployment, s, month)
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	defer clear(secret)
	name := keyName(id)
	wrapped, err := l.opt.Wrap.Seal(secret, []byte(name))
	if err != nil {
		return nil, err
	}
	if wrapped, err = l.opt.Control.PutDataKey(ctx, name, wrapped); err != nil {
		return nil, err
	}
	key, err := unwrap(l.opt.Wrap, name, wrapped)
	if err != nil {
		return nil, err
	}
	return &dataKey{id, key}, nil
}

func unwrap(wrap AEAD, name string, wrapped []byte) (*proof.DataKey, error) {
	secret, err := wrap.Open(wrapped, []byte(name))
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return proof.NewDataKey(secret)
}

// keyID names a data key without a secret: the agent stands in the entry
// beside it.
func keyID(deployment string, s subject, month string) (id proof.KeyID) {
	h := sha256.New()
	for _, t := range [...]string{"ostiary/data-key/v1", deployment, s.agent, s.principal, s.class, month} {
		h.Write([]byte{byte(len(t) >> 8), byte(len(t))})
		h.Write([]byte(t))
	}
	copy(id[:], h.Sum(nil))
	return id
}

// keyName is the name a wrapped data key has in the control state.
func keyName(id proof.KeyID) string { return "payload/" + hex.EncodeToString(id[:]) }
