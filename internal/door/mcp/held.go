package mcp

import (
	"context"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// Holds is where a held call waits for people. Wait returns when it has ended,
// or when ctx has: then with an error of the code "held", as Result does at
// once. They answer only who asked for the call, of a call to that server
// ("" is any) that the subject's token is for; to others it does not exist,
// which is NotFound with the code "hold". What they return was recorded like
// any reply. Safe for concurrent use.
type Holds interface {
	Wait(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error)
	Result(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error)
}

// progressEvery is how often a client that asked for progress hears that its
// call still waits for people: clients give up on a call that is silent for a
// minute.
const progressEvery = 10 * time.Second

// waitsAt returns where a call waits for people, "" if it does not.
func (x *visit) waitsAt(err error) ostiary.HoldID {
	e := ostiary.AsError(err)
	if e.Kind != ostiary.Denied || e.Code != "held" || x.door.holds == nil || !x.request() || x.door.holdFor <= 0 {
		return ""
	}
	return ostiary.HoldID(e.Field)
}

// await keeps a held call open while people decide, for as long as an operator
// said, and answers with what became of it: its result, why it was refused, or
// where it waits. The client sees a slow call.
func (x *visit) await(ctx context.Context, id ostiary.HoldID, held error) {
	if x.acceptsStream() {
		x.out.startStream() // quiet streams say now and then that they live
	}
	subject, err := x.door.identity.Authenticate(ctx, x.creds)
	if err != nil {
		x.fail(ctx, err)
		return
	}
	s, err := x.wait(ctx, id, &subject)
	if err := x.mayHear(ctx, &subject, &x.action); err != nil {
		x.fail(ctx, err)
		return
	}
	switch e := ostiary.AsError(err); {
	case err == nil:
	case e.Code == "held":
		x.fail(ctx, held) // with its entry, and what it waits for
		return
	default:
		x.fail(ctx, err)
		return
	}
	switch s.Frame.Kind {
	case gate.FrameResult:
		if s.Frame.Body.Get("resultType").Is("input_required") { // nobody could have been asked
			x.fail(ctx, ostiary.Errorf(ostiary.Upstream, "bad_reply", "the server asked for something while people's consent was carried out"))
			return
		}
		x.target = gate.ToServer
		x.final(ctx, &gate.Reply{Intent: s.Intent}, s.Frame.Body)
	case gate.FrameError:
		x.farError(s.Frame.Body)
	default:
		x.fail(ctx, ostiary.Errorf(ostiary.Internal, "frame", "internal error"))
	}
}

// wait waits, and says so to a client that wants to know.
func (x *visit) wait(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject) (gate.Settled, error) {
	ctx, stop := context.WithTimeout(ctx, x.door.holdFor)
	defer stop()
	type answer struct {
		gate.Settled
		err error
	}
	done := make(chan answer, 1)
	go func() { // ends with ctx, which ends with this function; done has room
		settled, err := x.door.holds.Wait(ctx, id, s, x.server)
		done <- answer{settled, err}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case a := <-done:
			return a.Settled, a.err
		case <-x.door.closed:
			stop()
			a := <-done
			return a.Settled, a.err
		case <-tick.C:
			if err := x.progress(n, id); err != nil {
				stop() // the client left; the call is carried out all the same
			}
		}
	}
}

// progress tells a client that asked for it that its call waits.
func (x *visit) progress(n int, id ostiary.HoldID) error {
	if !x.token.Exists() || !x.out.streaming() {
		return nil
	}
	params := append([]byte(`{"progressToken":`), x.token.Bytes()...)
	params = append(params, `,"progress":`+strconv.Itoa(n)+`,"message":`...)
	params = mcpwire.AppendString(params, "waiting for people to decide on "+string(id))
	return x.out.event(mcpwire.AppendNotification(nil, "notifications/progress", append(params, '}')))
}
