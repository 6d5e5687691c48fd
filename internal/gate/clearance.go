package gate

import (
	"sync/atomic"

	"github.com/ostiary/ostiary"
)

// Clearance is the one-use right of one recorded action to leave. Only bind
// makes one, only from a recorded permit; the zero Clearance opens nothing.
type Clearance struct {
	dispatch *Dispatch
	redeemed atomic.Bool
}

// Dispatch is what a redeemed clearance lets out: exactly these bytes, to
// exactly this target, under this receipt.
type Dispatch struct {
	Request     *ostiary.Request
	Action      *ostiary.Action // the action that was decided and recorded
	Digest      ostiary.Digest  // Action.Digest at bind time
	Target      Target
	Intent      ostiary.Receipt
	Obligations []ostiary.Obligation
	Progress    bool
	Logs        string // see [Call]
	Asked       string // see [Call]
}

// Redeem returns what may leave, the first time. Every later or concurrent
// call is a conflict. Only egress calls it.
func (c *Clearance) Redeem() (*Dispatch, error) {
	if c == nil || c.dispatch == nil {
		return nil, ostiary.Errorf(ostiary.Denied, "no_clearance", "nothing was cleared")
	}
	if c.redeemed.Swap(true) {
		return nil, ostiary.Errorf(ostiary.Conflict, "clearance_spent", "this clearance was already used")
	}
	if c.dispatch.Action.Digest() != c.dispatch.Digest {
		return nil, ostiary.Errorf(ostiary.Internal, "bytes_moved", "the cleared bytes changed")
	}
	return c.dispatch, nil
}
