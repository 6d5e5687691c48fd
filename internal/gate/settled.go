package gate

import (
	"context"

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
// notifications reach nobody. The disposition is the exchange's own, also when
// it could not be recorded: only before the clearance is it Refused, and
// whatever may have happened is Unknown, whatever the error says.
func (g *Gate) Settle(ctx context.Context, call Call) (Settled, ostiary.Disposition, error) {
	x := g.begin(&call)
	reply, err := g.handle(ctx, x)
	if err != nil {
		return Settled{Intent: x.intended}, x.fate(), err
	}
	f, err := last(ctx, reply)
	reply.Close()
	return Settled{reply.Intent, f}, x.fate(), err
}

// last reads a reply to its final frame.
func last(ctx context.Context, reply *Reply) (Frame, error) {
	for {
		f, err := reply.Next(ctx)
		if err != nil {
			return Frame{}, err
		}
		if f.Kind.Final() {
			return f, nil
		}
		if f.Kind == FrameRequest {
			if err := reply.Answer(ctx, f.ID, FrameError, []byte(nobodyHere)); err != nil {
				return Frame{}, err
			}
		}
	}
}
