// Package control is the administrative side: enrolling agents, minting
// tokens, reading and accepting tool definitions, publishing policy,
// containing what goes wrong, and asking the log. The commands of the ostiary program are clients of it.
//
// It guarantees that every change of control state is an entry of the
// deployment's log, and that what it asks of tool servers goes through the
// gate like any other call: control has no way out of its own.
//
// It trusts whoever reaches its handler; the daemon serves it on a Unix socket
// that only the gateway's own user and root can open, and checks the peer's
// user id. It holds no keys.
package control

import (
	"cmp"
	"context"
	"crypto"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/registry"
)

// Gate is the flow, for control's own calls.
type Gate interface {
	Handle(ctx context.Context, call gate.Call) (*gate.Reply, error)
	// Settle makes a call that nobody is connected to, and reads its reply.
	Settle(ctx context.Context, call gate.Call) (gate.Settled, ostiary.Disposition, error)
}

// Changes is the deployment's log of control changes. Append returns when the
// entry is durable.
type Changes interface {
	Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error)
}

// Log answers questions about what happened. Query may lag behind the log and
// says so; Entry reads the log itself.
type Log interface {
	// Query returns rows, and how much of the log the index covers.
	Query(ctx context.Context, f ledger.Filter) (rows []ledger.Row, indexed, size uint64, err error)
	// Entry returns one entry with its payload opened. A ref without a
	// month means the newest log. Opened is false if the payload's key is
	// gone.
	Entry(ctx context.Context, ref ostiary.EntryRef) (e LogEntry, err error)
	// Prove returns the entry's inclusion proof as a C2SP tlog-proof.
	Prove(ctx context.Context, ref ostiary.EntryRef) ([]byte, error)
	// Key returns the verifier key of one of its months, by origin.
	Key(ctx context.Context, origin string) (string, error)
}

// Sessions finds whose a session is; NotFound if there is none.
type Sessions interface {
	Owner(ctx context.Context, id ostiary.SessionID) (provenance.Owner, error)
}

// LogEntry is one entry read back.
type LogEntry struct {
	Origin string
	Ref    ostiary.EntryRef
	Entry  ostiary.Entry
	Raw    []byte // as it was published: the leaf
	Opened bool
}

// Options are control's neighbours; all are required, except that Policy may
// be an empty folder.
type Options struct {
	Authority *identity.Authority
	People    *people.People      // nil: there is no console
	Approvals *approval.Approvals // nil: nobody can consent to anything
	Sessions  Sessions
	Book      *catalog.Book
	Engine    *policy.Engine
	Snapshots policy.Snapshots
	Signer    crypto.Signer // of snapshots
	// Signing says which keys snapshots have now, from memory. nil: Signer,
	// for good.
	Signing   func() SnapshotKeys
	PolicyDir string
	Gate      Gate
	Changes   Changes
	Log       Log // the gateway's own: every action
	Changelog Log // the deployment's: every change of control state
	Settings
	Containments *containment.Levels
	Budgets      *budget.Budgets
	Records      record.Keeper                   // what was taken back, once
	Conducts     func() map[string]ServerConduct // by server; from memory

	Registry *registry.Registry
	Owned    func(e *ostiary.Entity) bool // whoever answers for it is still there

	Process  Process     // the gateway itself; nil for one that lives inside another program
	Describe Description // what Status says of the process
	Clock    func() time.Time
	Logger   *slog.Logger
}

// SnapshotKeys are the keys of snapshots at a moment.
type SnapshotKeys struct {
	Signs    crypto.Signer
	Believed []crypto.PublicKey // a snapshot signed by one of them may be put in force
	Over     []crypto.PublicKey // one signed by these was good in its time: it explains what was decided then
}

// ServerConduct is what the way out knows of a server.
type ServerConduct struct {
	Breaker Breaker
	Conduct Conduct
}

// Description is the fixed part of a status.
type Description struct {
	Deployment, Gateway, TrustDomain string
	Agents, Loopback                 string // addresses
	Endpoint                         string // URL of the aggregated MCP endpoint; also the audience of tokens
	Keys                             func() []Key
}

// Control administers one gateway. Safe for concurrent use.
type Control struct {
	o Options

	publishing sync.Mutex // one snapshot at a time

	settings atomic.Pointer[Settings]
	changed  chan struct{} // full when the settings changed since Watch looked

	mu   sync.Mutex
	last map[string]Reading // by server

	looked looked
}

// Reading is the latest attempt to read a server's definitions.
type Reading struct {
	At  time.Time
	Err string // "" if it went well
}

// New returns a Control that is ready to serve.
func New(o Options) *Control {
	c := &Control{o: o, last: map[string]Reading{}, changed: make(chan struct{}, 1)}
	c.settings.Store(&o.Settings)
	if o.Signing == nil {
		c.o.Signing = func() SnapshotKeys {
			return SnapshotKeys{Signs: o.Signer, Believed: []crypto.PublicKey{o.Signer.Public()}}
		}
	}
	return c
}

// change records a change of control state in the deployment's log.
func (c *Control) change(ctx context.Context, action, code, detail string) (ostiary.Receipt, error) {
	return recordChange(ctx, c.o.Changes, c.o.Authority.Self().Agent, c.o.Clock(), action, code, detail)
}

func recordChange(ctx context.Context, changes Changes, self ostiary.AgentID, now time.Time, action, code, detail string) (ostiary.Receipt, error) {
	r, err := changes.Append(ctx, &ostiary.Entry{
		Kind: ostiary.KindChange, Time: now, Action: action, Code: code,
		Agent: self, Permit: true, Payload: ostiary.Payload{Detail: []byte(detail)},
	})
	if err != nil {
		return r, ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the change could not be recorded").Because(err)
	}
	return r, nil
}

// by is the operator who asked for a change, "" if an agent or the gateway
// itself did.
func by(ctx context.Context) string {
	s, _ := ctx.Value(operatorKey{}).(string)
	return s
}

// RecordEvent puts an event of the authority into the deployment's log: it is
// the authority's Record.
func RecordEvent(changes Changes, clock func() time.Time) func(context.Context, identity.Event) error {
	return func(ctx context.Context, e identity.Event) error {
		_, err := changes.Append(ctx, &ostiary.Entry{
			Kind: ostiary.KindChange, Time: clock(), Action: e.What, Code: cmp.Or(e.Refused, "ok"), Permit: e.Refused == "",
			Agent: e.Agent, Principal: e.Principal, Mandate: e.Mandate,
			Payload: ostiary.Payload{Detail: []byte(detailJSON(map[string]string{"text": e.Detail, "serial": e.Serial, "by": cmp.Or(e.By, by(ctx)), "mandate": e.JWS}))},
		})
		return err
	}
}
