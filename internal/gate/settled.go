package gate

import (
	"context"
	"errors"

	"github.com/ostiary/ostiary"
)

// Settled is what a call that was made for somebody who waits, or comes back,
// ended with: the last frame of its reply.
type Settled struct {
	Intent ostiary.Receipt
	Frame  Frame
}

// nobodyHere answers a server that asks something back during a call that
// nobody is connected to.
const nobodyHere = `{"code":-32601,"message":"nobody is connected who could be asked"}`

// Settle makes a call and reads its reply to the end, for a call that nobody
// is connected to. What a server asks back is answered with an error, and its
// notifications reach nobody. The disposition says how sure it is what
// happened; beside an error of Handle it is Refused, or what egress left open.
func (g *Gate) Settle(ctx context.Context, call Call) (Settled, ostiary.Disposition, error) {
	reply, err := g.Handle(ctx, call)
	if err != nil {
		switch {
		case errors.Is(err, ErrNotSent):
			return Settled{}, ostiary.Failed, err
		case ostiary.KindOf(err) == ostiary.Upstream:
			return Settled{}, ostiary.Unknown, err
		}
		return Settled{}, ostiary.Refused, err
	}
	defer reply.Close()
	for {
		f, err := reply.Next(ctx)
		switch {
		case err != nil && ostiary.KindOf(err) == ostiary.Upstream:
			return Settled{Intent: reply.Intent}, ostiary.Unknown, err
		case err != nil:
			return Settled{Intent: reply.Intent}, ostiary.Withheld, err
		case f.Kind.Final():
			return Settled{reply.Intent, f}, ostiary.Delivered, nil
		case f.Kind == FrameRequest:
			if err := reply.Answer(ctx, f.ID, FrameError, []byte(nobodyHere)); err != nil {
				return Settled{Intent: reply.Intent}, ostiary.Unknown, err
			}
		}
	}
}
