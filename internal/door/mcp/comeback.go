package mcp

import (
	"context"
	"errors"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/policy"
)

// resultTool is the one tool of our own: with the id that a held call was
// answered with, an agent learns what became of it. A server's tool of that
// name cannot stand in its place; on the aggregated endpoint it has another
// name anyway, and on its server's own endpoint it is not there.
const resultTool = "ostiary_result"

// resultDefinition is what agents read of it.
const resultDefinition = `{"name":"` + resultTool + `","title":"Result of a held call",` +
	`"description":"What became of a call that was held for people's consent: its result, why it was refused, or that it still waits. Takes the id that the held call was answered with. It changes nothing and may be asked again.",` +
	`"inputSchema":{"type":"object","properties":{"id":{"type":"string","minLength":1,"maxLength":64,"description":"the id of the held call"}},"required":["id"],"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}`

// maxHoldID bounds what may pose as the id of a held call.
const maxHoldID = 64

// comesBack reports whether a name is that of our own tool. Where no call is
// ever held there is no such tool.
func (d *Door) comesBack(name string) bool { return d.holds != nil && name == resultTool }

// comeBack answers a call of our own tool. It is a call like any other, of the
// gateway itself: decided on and recorded before anything is looked up.
func (d *Door) comeBack(x *visit) {
	args := x.params().Get("arguments")
	a := ostiary.Action{Name: policy.ActionGetResult, Method: resultTool, Arguments: args}
	x.action = a
	id := args.Get("id")
	if text := id.Text(); id.Kind() != ostiary.String || text == "" || len(text) > maxHoldID || args.Len() != 1 {
		x.fault(ostiary.Errorf(ostiary.Malformed, "schema", "give id, the id that the held call was answered with, and nothing else").At("/params/arguments/id"))
		return
	}
	ctx, done, e := x.cancellable()
	if e != nil {
		x.fault(e)
		return
	}
	defer done()
	x.do(ctx, a, gate.Target{Kind: gate.ToLocal, Respond: func(ctx context.Context, q *gate.Dispatch) (gate.Stream, error) {
		return x.became(ctx, ostiary.HoldID(id.Text()), q)
	}})
}

// became says what became of a held call, and waits for it as a held call
// itself does. What is no answer is an error after which it is certain that
// nothing was sent.
func (x *visit) became(ctx context.Context, id ostiary.HoldID, q *gate.Dispatch) (gate.Stream, error) {
	subject := q.Request.Subject
	s, err := x.settled(ctx, id, &subject)
	if err := x.mayHear(ctx, &subject, q.Action); err != nil {
		return nil, untold(err)
	}
	switch e := ostiary.AsError(err); {
	case err == nil:
	case e.Kind == ostiary.NotFound && e.Code == "hold":
		return nil, untold(ostiary.Errorf(ostiary.NotFound, "hold", "there is no held call of yours with that id").At("/params/arguments/id"))
	case e.Kind == ostiary.Internal || e.Kind == ostiary.Corrupt:
		return nil, untold(err)
	case e.Code == "held":
		return ourResult(x.pending(id))
	default:
		return ourResult(refusal(e, x))
	}
	switch {
	case s.Frame.Kind == gate.FrameError:
		return gate.Whole(gate.FrameError, s.Frame.Body), nil
	case s.Frame.Kind != gate.FrameResult:
		return nil, untold(ostiary.Errorf(ostiary.Internal, "frame", "internal error"))
	}
	b, err := x.kept(ctx, s.Frame.Body)
	if err != nil {
		return ourResult(refusal(ostiary.AsError(err), x))
	}
	return ourResult(b)
}

// settled waits for what becomes of a held call, if an operator lets calls
// wait, and only looks if not.
func (x *visit) settled(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject) (gate.Settled, error) {
	if x.door.holdFor <= 0 {
		return x.door.holds.Result(ctx, id, s, x.server)
	}
	if x.acceptsStream() {
		x.out.startStream()
	}
	return x.wait(ctx, id, s)
}

// mayHear refuses whoever was revoked or contained while people thought. A
// token may have run out meanwhile, as people take their time.
func (x *visit) mayHear(ctx context.Context, s *ostiary.Subject, a *ostiary.Action) error {
	if _, err := x.door.identity.Authenticate(ctx, ostiary.Credentials{Held: s, Remote: x.creds.Remote}); err != nil {
		return err
	}
	if level := x.door.standing.Level(s, a); !level.Passes() {
		return ostiary.Errorf(ostiary.Contained, level.String(), "%s is contained; ask an operator to release it", s.Agent)
	}
	return nil
}

// kept is a held call's result as the result of ours: a tool's as it is, that
// of another method as text.
func (x *visit) kept(ctx context.Context, body ostiary.Value) ([]byte, error) {
	if body.Get("resultType").Is("input_required") { // nobody could have been asked
		return nil, ostiary.Errorf(ostiary.Upstream, "bad_reply", "the server asked for something while people's consent was carried out")
	}
	b, err := x.result(ctx, nil, body)
	if err != nil || body.Get("content").Kind() == ostiary.Array {
		return b, err
	}
	text := mcpwire.AppendString([]byte(`{"content":[{"type":"text","text":`), string(body.Bytes()))
	return x.enveloped(append(text, `}]`...)), nil
}

// pending is the answer while people have not decided. It is no error: the
// call of ours did what it says.
func (x *visit) pending(id ostiary.HoldID) []byte {
	b := mcpwire.AppendString([]byte(`{"content":[{"type":"text","text":`),
		"Still waiting for people's consent, held as "+string(id)+". Do not send the held call again: it is carried out when they consent. Ask here again later.")
	b = append(b, `}],"_meta":{"`+metaPrefix+`state":"pending","`+metaPrefix+`field":`...)
	return x.enveloped(append(mcpwire.AppendString(b, string(id)), '}'))
}

// enveloped ends an object of ours that is a result.
func (x *visit) enveloped(b []byte) []byte {
	if t := x.resultType(); t != "" {
		b = mcpwire.AppendString(append(b, `,"resultType":`...), t)
	}
	return append(b, '}')
}

// untold is a failure of which it is certain that nothing was sent.
func untold(err error) error {
	e := *ostiary.AsError(err)
	return e.Because(errors.Join(e.Err, gate.ErrNotSent))
}
