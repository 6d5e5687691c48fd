package gate

import (
	"context"
	"io"

	"github.com/ostiary/ostiary"
)

// inspect wraps what egress returned in the stream the door will read.
func (g *Gate) inspect(x *exchange) *Reply {
	return &Reply{Stream: &inspected{g: g, x: x, inner: x.upstream}, Intent: x.intended, Request: x.request}
}

// inspected is a reply on its way to the caller. Each frame is looked at
// before it is released, the session is tainted before the first one, and
// the final one waits for its Outcome.
type inspected struct {
	g       *Gate
	x       *exchange
	inner   Stream
	tainted bool
	ended   bool
}

func (s *inspected) Next(ctx context.Context) (f Frame, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = Frame{}, s.fail(ctx, ostiary.Unknown, s.g.bug(p))
		}
	}()
	if s.ended {
		return Frame{}, io.EOF
	}
	if f, err = s.next(ctx); err != nil {
		return Frame{}, s.fail(ctx, ostiary.Unknown, err)
	}
	if err := s.mayRead(ctx); err != nil {
		return Frame{}, s.fail(ctx, ostiary.Withheld, err)
	}
	if err := s.look(ctx, f); err != nil {
		return Frame{}, s.fail(ctx, ostiary.Withheld, err)
	}
	if err := s.take(ctx, f); err != nil {
		return Frame{}, s.fail(ctx, ostiary.Withheld, err)
	}
	if !f.Kind.Final() {
		return f, nil
	}
	s.ended = true
	body := f.Body.Bytes()
	s.x.result, s.x.length = ostiary.DigestOf(body), int64(len(body))
	if err := s.g.keep(ctx, s.x, f); err != nil {
		return Frame{}, s.fail(ctx, ostiary.Withheld, err)
	}
	if err := s.g.settle(ctx, s.x, ostiary.Delivered, nil); err != nil {
		return Frame{}, ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the outcome could not be recorded, so the reply is withheld").Because(err)
	}
	return f, nil
}

// mayRead is asked before each frame of a server reaches the caller: whoever
// was revoked or contained while the call ran hears nothing more, and content
// of unknown integrity taints the session first. What a contained agent's
// client says reaches no server either.
func (s *inspected) mayRead(ctx context.Context) error {
	x := s.x
	if x.call.Target.Kind == ToLocal { // its responder ends by itself
		return nil
	}
	if err := s.g.standing(x); err != nil {
		return err
	}
	if x.call.Target.Kind != ToServer {
		return nil
	}
	if x.subject.Via != ostiary.ViaSelf { // the credential itself may have ended meanwhile, as calls take their time
		if _, err := s.g.identity.Authenticate(ctx, ostiary.Credentials{Held: &x.subject, Remote: x.call.Credentials.Remote}); err != nil {
			return err
		}
	}
	if s.tainted || x.request.Resource.Trusted {
		return nil
	}
	s.tainted = true
	return s.g.tainter.Taint(x.request.Context.Session.ID, x.request.Resource)
}

func (s *inspected) look(ctx context.Context, f Frame) error {
	if f.Kind == FrameNone {
		return ostiary.Errorf(ostiary.Upstream, "frame_none", "the reply holds something that is no message")
	}
	for _, i := range s.g.inspectors {
		findings, err := s.inspect(ctx, i, f)
		s.x.findings = append(s.x.findings, findings...)
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil && s.x.call.Target.Kind == ToServer { // it took too long to look, or to arrive
		return ostiary.Errorf(ostiary.Unavailable, "caller_left", "the caller's time ended before the reply could be released").Because(ctx.Err())
	}
	return nil
}

func (s *inspected) next(ctx context.Context) (f Frame, err error) {
	defer (&wary{log: s.g.log}).named("reply", &err)
	f, err = s.inner.Next(ctx)
	if err == io.EOF { // a reply without its final frame is no reply
		err = ostiary.Errorf(ostiary.Upstream, "reply_cut", "the reply ended before its result")
	}
	return f, err
}

func (s *inspected) inspect(ctx context.Context, i Inspector, f Frame) (found []ostiary.Finding, err error) {
	defer (&wary{log: s.g.log}).named("inspect", &err)
	return i.Inspect(ctx, s.x.request, f)
}

// fail ends the exchange, closes the far side and names the entry.
func (s *inspected) fail(ctx context.Context, d ostiary.Disposition, cause error) error {
	s.ended = true
	s.inner.Close()
	e := *ostiary.AsError(cause)
	e.Entry = s.x.ref()
	if err := s.g.settle(ctx, s.x, d, &e); err != nil && err != error(errSettled) {
		return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the ledger cannot record this call").Because(err)
	}
	return &e
}

func (s *inspected) Answer(ctx context.Context, id string, kind FrameKind, body []byte) error {
	return s.inner.Answer(ctx, id, kind, body)
}

// Close ends a reply early. What was sent may have happened, so an exchange
// that is not settled yet ends Unknown.
func (s *inspected) Close() error {
	err := s.inner.Close()
	if !s.x.settled.Load() {
		s.g.settle(context.Background(), s.x, ostiary.Unknown, ostiary.Errorf(ostiary.Upstream, "abandoned", "the caller left before the reply ended"))
	}
	return err
}

// maxKept bounds a result that is kept, in bytes: an entry's payload holds no
// more. What is longer cannot be taken back with something that stands in it.
const maxKept = 1 << 20

// keep writes down the result of an action that can be taken back with it.
func (g *Gate) keep(ctx context.Context, x *exchange, f Frame) error {
	if g.keeps == nil || f.Kind != FrameResult || x.call.Target.Kind != ToServer || len(f.Body.Bytes()) > maxKept || !g.keeps(x.request.Action.Name) {
		return nil
	}
	e := x.entry(ostiary.KindResult, g.clock())
	e.Answers = x.intentID
	e.Payload = ostiary.Payload{Arguments: f.Body.Bytes(), Result: x.result, ResultLen: x.length}
	_, err := g.ledger.Append(ctx, e)
	return err
}
