package gate

import (
	"context"
	"errors"

	"github.com/ostiary/ostiary"
)

// Identity proves who is asking.
//
// Authenticate is called once per call, never cached by the gate: it checks
// the credential and the revocation epoch as they are now. It never blocks on
// the network. Safe for concurrent use.
type Identity interface {
	Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error)
}

// Facts is the only read: everything known now about a call, from memory.
// Resolve fills the action's Pin and every field of the context; what is not
// known is an error, never a gap. Safe for concurrent use.
type Facts interface {
	Resolve(ctx context.Context, s ostiary.Subject, call *Call) (*ostiary.Request, error)
}

// Validator checks an action's arguments against the definition pinned under
// Action.Pin: schema and limits. Safe for concurrent use.
type Validator interface {
	Validate(a *ostiary.Action) error
}

// Policy decides. Decide is a pure function of the request and the snapshot
// that is active when it is called; it returns a denial for everything it
// cannot decide, and never panics outward. Safe for concurrent use.
type Policy interface {
	Decide(r *ostiary.Request) ostiary.Decision
}

// Ledger is the only write. Append returns when the entry is on disk by a
// flush that succeeded. After an error it does not stand, unless the Receipt
// returned beside the error carries its id: then it may. A full queue is
// Unavailable. Safe for concurrent use.
type Ledger interface {
	Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error)
	// Count folds a refusal of a caller who never authenticated into the
	// next counting entry, exactly, by source and reason.
	Count(source, code string)
}

// Budgets bounds what is spent. Reserve holds what a permitted call may cost,
// durably, of every budget that covers it or of none, under the id of the
// Intent that is about to be written; nil if no budget covers it. It refuses
// what a budget does not have, and what it cannot count. After an error nothing
// is held, or is released behind our back. Safe for concurrent use. A Gate
// without Budgets spends without bounds.
type Budgets interface {
	Reserve(ctx context.Context, intent ostiary.EntryID, r *ostiary.Request) (Hold, error)
}

// Hold is what one call holds of its budgets. The exchange's goroutine uses it.
type Hold interface {
	// Spends lists what is held, for the Intent.
	Spends() []ostiary.Spend
	// Take is told of each message of a server before it is released, and
	// refuses one that is beyond a budget.
	Take(ctx context.Context, body ostiary.Value, final bool) error
	// Settle ends the hold, once: nothing is spent of what was refused or
	// not sent, and what may have happened stays held.
	Settle(ctx context.Context, d ostiary.Disposition)
}

// Egress is the only network. Forward redeems the clearance and sends exactly
// what it covers; it never sends twice. Safe for concurrent use.
type Egress interface {
	Forward(ctx context.Context, c *Clearance) (Stream, error)
}

// Inspector looks at each frame of a reply before it is released. It may
// report findings, or return an error to withhold the reply. Inspectors hold
// nothing back themselves: the gate holds the frame while they look.
type Inspector interface {
	Inspect(ctx context.Context, r *ostiary.Request, f Frame) ([]ostiary.Finding, error)
}

// Obliger carries out one type of obligation before the call leaves. It may
// return a rewritten action (redaction, tokens put back, a narrowed approval),
// which is validated and decided again and recorded in place of what was
// asked; nil means the action stands as it is.
type Obliger interface {
	Oblige(ctx context.Context, r *ostiary.Request, o ostiary.Obligation) (*ostiary.Action, error)
}

// Tainter learns that content from a resource entered a session, before the
// first byte of that content is released. Labels only rise: there is no way
// to take a taint back here. After an error the taint may not stand, and
// nothing of the content is released. Safe for concurrent use.
type Tainter interface {
	Taint(s ostiary.SessionID, r ostiary.Resource) error
}

// Holder keeps a requestable denial until somebody consents: the exact bytes,
// the subject, and what would discharge it. Hold returns when the hold is
// durable. ErrNotHeld says that nobody here could consent: then it is a refusal
// like any other, and so is every requestable denial of a Gate without a
// Holder. Both say what would change them.
type Holder interface {
	Hold(ctx context.Context, r *ostiary.Request, d *ostiary.Decision) (id ostiary.HoldID, err error)
}

// ErrNotHeld is what a Holder says, perhaps wrapped, of a denial that nobody
// here could change by consent.
var ErrNotHeld = errors.New("nobody could consent")

// Consents knows what people consented to. Satisfied is part of resolve, Spend
// of record; between the two policy decides again. Safe for concurrent use.
type Consents interface {
	// Satisfied returns the facts that a consent makes hold for exactly this
	// request: its bytes, pin, agent, principal, mandate and session. Every
	// other request, and a consent that was used, is an error.
	Satisfied(ctx context.Context, id ostiary.HoldID, r *ostiary.Request) ([]string, error)
	// Spend uses a consent up for the Intent of this id. Of any number of
	// callers on any number of gateways exactly one succeeds. It returns when
	// that is durable; a consent that was spent stays so whatever follows.
	Spend(ctx context.Context, id ostiary.HoldID, intent ostiary.EntryID, r *ostiary.Request, d *ostiary.Decision) error
}

// Observer is told of each exchange once, when it has ended: for traces and
// metrics. It watches and cannot change anything: nothing it does, a panic
// included, reaches the call. The end of the reply waits for Ended, so it must
// neither block nor do I/O. Safe for concurrent use. A Gate without an
// Observer takes no times.
type Observer interface {
	Ended(e *Ending)
}
