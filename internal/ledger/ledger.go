// Package ledger is the log: the only write of the gate. It keeps, for one
// gateway, a Merkle log per month in segments of its own, which it alone
// writes.
//
// Guarantees. Append returns only when the entry, its sealed payload and the
// root of the tree that holds them were flushed to the device by a flush that
// succeeded. After a failed write or flush nothing is answered any more: the
// log is failed, and only a restart, which is recovery, opens it again. An
// Intent without Outcome becomes Unknown. A second opener, an older writer
// and a log that was rolled back are refused. A full disk refuses ahead of
// time and heals by itself; room for Outcomes is kept.
//
// Trusts. The file system and device to honour a flush; the control state for
// what it anchors; the signer and the wrapping key it is handed.
//
// Does not do. It does not decide, does not speak to any network, has no
// mirror and no outside witness yet: its status says "not independently
// witnessed". One machine alone cannot see its whole image rolled back.
//
// The commit path numbers its steps: 1 seal, 2 admit, 3 assemble, 4 write,
// 5 flush, 6 sign, 7 answer, 10 publish (8 and 9 are the mirror's and the
// gate's). The formats are those of package proof, C2SP tlog-checkpoint,
// tlog-tiles and tlog-proof.
package ledger

import (
	"context"
	"crypto"
	"io"
	"log/slog"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// The limits of a log, with their reasons.
const (
	// DefaultSegment makes a segment change rare at 100,000 entries/s and
	// start-up, which reads one segment, short.
	DefaultSegment = 64 << 20
	// MinSegment holds a state frame and some batches.
	MinSegment = 256 << 10
	// DefaultReserve keeps room for a thousand Outcomes on a full disk.
	DefaultReserve = 16 << 20
	// QueueLimit bounds the entries that wait for a flush: 8,192 of usual
	// size are 12 MiB, and two batches.
	QueueLimit = 8192
	// queueBytes bounds their bytes, for entries with large payloads.
	queueBytes = 64 << 20
	// BatchBytes bounds one write, so that a flush stays short.
	BatchBytes = 8 << 20
	// OutcomeRoom is kept for the Outcome of each Intent, its frame included.
	OutcomeRoom = 16 << 10
	// DefaultLongest is how long an action may take before its Intent
	// counts as Unknown.
	DefaultLongest = 15 * time.Minute
	// tick is how often counts, heartbeats, anchors and tiles are due.
	tick = time.Second
	// maxKeys bounds the data keys held open; beyond, they are loaded again.
	maxKeys = 10000
)

// AEAD wraps data keys. It is the key-encryption key of the keyring.
type AEAD interface {
	Seal(plain, ad []byte) ([]byte, error)
	Open(sealed, ad []byte) ([]byte, error)
}

// Options are what a log needs. Dir, Deployment, Gateway, Signer, Wrap and
// Control are required.
type Options struct {
	Dir        string          // one directory for all months of this log; 0700
	Deployment string          // first part of the log's origin
	Gateway    string          // second part; "deployment" for the deployment's own log
	Signer     crypto.Signer   // Ed25519, the key of the log that is begun next; see [Log.Rotate]
	Older      []crypto.Signer // of logs before it, which are finished with the keys they were begun with
	Wrap       AEAD
	Control    Control
	Parent     *Log // the deployment log, which records this log's opening and heads; nil for itself

	SegmentSize int64         // 0 is DefaultSegment
	Reserve     int64         // zeroed room that only Outcomes and the like may use; 0 is DefaultReserve
	Longest     time.Duration // longest time an action may take; 0 is DefaultLongest
	FS          FS            // nil is OS{}
	Clock       func() time.Time
	Logger      *slog.Logger
	OnFail      func(error) // called once, from its own goroutine, when the log failed: the daemon should exit
}

var nameSyntax = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (o *Options) complete() error {
	bad := func(field, why string) error {
		return ostiary.Errorf(ostiary.Malformed, "ledger_options", "%s", why).At(field)
	}
	switch {
	case o.Dir == "":
		return bad("dir", "no directory")
	case !nameSyntax.MatchString(o.Deployment):
		return bad("deployment", "want 1 to 63 of a-z, 0-9, dot, dash, underscore")
	case !nameSyntax.MatchString(o.Gateway):
		return bad("gateway", "want 1 to 63 of a-z, 0-9, dot, dash, underscore")
	case o.Signer == nil || o.Wrap == nil || o.Control == nil:
		return bad("signer", "a log needs a signer, a wrapping key and control state")
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegment
	}
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.SegmentSize < MinSegment || o.SegmentSize > proof.MaxSegment || o.SegmentSize%proof.Align != 0 {
		return bad("segment_size", "want a multiple of 512 from 256 KiB to 1 GiB")
	}
	if o.Reserve < MinSegment || o.Reserve > proof.MaxSegment || o.Reserve%proof.Align != 0 {
		return bad("reserve", "want a multiple of 512 from 256 KiB to 1 GiB")
	}
	if o.Longest == 0 {
		o.Longest = DefaultLongest
	}
	if o.FS == nil {
		o.FS = OS{}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Log is the log of one gateway, open for writing. Safe for concurrent use.
type Log struct {
	opt  Options
	lock io.Closer
	log  *slog.Logger

	queue  queue
	pool   sync.Pool    // of *pending
	floor  atomic.Int64 // newest recorded time, Unix nanoseconds: no later entry is stamped before it
	frames frames       // owned by the committer
	room   room         // spare segments and the reserve

	turning sync.Mutex    // held while one log is closed and the next begun
	signer  crypto.Signer // of the log that is begun next; guarded by turning

	mu      sync.RWMutex // guards what follows
	volumes []*volume    // oldest first; the last is written to
	// finished is how many of them need nothing any more; all after are open
	// to be published.
	finished int

	counts counts

	failure  atomic.Pointer[ostiary.Error]
	failed   chan struct{} // closed when failure is set
	grew     signal        // a batch was flushed
	stop     context.CancelFunc
	workers  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// Append records e and returns when it is durable. An error of code
// "abandoned" means that the caller's time ended while the entry was being
// written: it may stand, under the id in the returned Receipt. Any other
// error of kind Unavailable means that nobody was told it stands. Entries of
// one agent wait in turn with those of others.
func (l *Log) Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	switch e.Kind {
	case ostiary.KindIntent, ostiary.KindOutcome, ostiary.KindResult, ostiary.KindChange:
	default:
		return ostiary.Receipt{}, ostiary.Errorf(ostiary.Malformed, "entry_kind", "only the ledger itself writes entries of kind %s", e.Kind)
	}
	for {
		p := l.pending()
		if err := l.seal(ctx, p, e); err != nil { // step 1
			l.release(p)
			return ostiary.Receipt{}, err
		}
		err := l.queue.admit(p) // step 2
		if err == errMoved {
			l.release(p)
			continue // the month turned since it was sealed
		}
		if err != nil {
			l.release(p)
			if ostiary.AsError(err).Code == "ledger_full" {
				l.Count("", "ledger_full")
			}
			return ostiary.Receipt{}, err
		}
		return l.await(ctx, p)
	}
}

// await waits for the answer of step 7.
func (l *Log) await(ctx context.Context, p *pending) (ostiary.Receipt, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		if p.state.CompareAndSwap(queued, withdrawn) {
			return ostiary.Receipt{}, ostiary.Errorf(ostiary.Unavailable, "withdrawn", "the ledger did not answer in time; nothing was recorded").Because(ctx.Err())
		}
		// From step 3 on it stands, or nobody knows: p belongs to the committer.
		return ostiary.Receipt{ID: p.id}, ostiary.Errorf(ostiary.Unavailable, "abandoned", "the ledger did not answer in time").Because(ctx.Err())
	}
	r, err := p.receipt()
	l.release(p)
	return r, err
}

// Failed returns a channel that is closed when the log has failed. Nothing
// is recorded any more, and the process should exit: its next start recovers.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err returns why the log failed, nil if it did not.
func (l *Log) Err() error {
	if e := l.failure.Load(); e != nil {
		return e
	}
	return nil
}

// fail seals the log: no batch in flight is answered as done, and everything
// after it is refused.
func (l *Log) fail(err error) error {
	e := ostiary.Errorf(ostiary.Unavailable, "ledger_failed", "the ledger stopped").Because(err)
	if ostiary.KindOf(err) == ostiary.Corrupt {
		e.Kind = ostiary.Corrupt
	}
	if !l.failure.CompareAndSwap(nil, e) {
		return l.failure.Load()
	}
	l.log.Error("ledger failed; restart to recover", "err", err)
	close(l.failed)
	l.queue.fail(e)
	if l.opt.OnFail != nil {
		go l.opt.OnFail(e) // the owner is the daemon, which exits
	}
	return e
}

// Origin returns the origin of the log that is written to now.
func (l *Log) Origin() string { return l.current().origin }

// Key returns the verifier key of the log that is written to now.
func (l *Log) Key() string { return l.current().signer.VerifierKey() }

func (l *Log) current() *volume {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.volumes[len(l.volumes)-1]
}

// Status is what an operator wants to know of a log.
type Status struct {
	Origin    string
	Key       string
	Size      uint64 // entries that are durable
	Root      ostiary.Digest
	Published uint64 // size of the published checkpoint
	Anchored  uint64 // size the control state holds
	Queued    int
	Open      int // Intents without Outcome
	Spares    int // segments ready
	Full      bool
	Verified  bool // older segments were verified since start
	Failed    string
	Witnessed string
}

// Status returns the log's state now.
func (l *Log) Status() Status {
	v := l.current()
	h := v.head.Load()
	s := Status{
		Origin: v.origin, Key: v.signer.VerifierKey(), Size: h.Size, Root: ostiary.Digest(h.Root),
		Published: v.published.Load(), Anchored: v.anchored.Load(), Verified: v.verified.Load(),
		Witnessed: "not independently witnessed",
	}
	s.Queued, s.Open = l.queue.load()
	s.Spares, s.Full = l.room.state()
	if e := l.failure.Load(); e != nil {
		s.Failed = e.Error()
	}
	return s
}

// Close records what was counted, marks an orderly end, publishes, anchors
// and lets go of the directory. Appends that wait are finished first; later
// ones are refused.
func (l *Log) Close() error {
	l.closing.Do(func() { l.closeErr = l.shutdown() })
	return l.closeErr
}

func (l *Log) path(name string) string { return filepath.Join(l.opt.Dir, name) }
