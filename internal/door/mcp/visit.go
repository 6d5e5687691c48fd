package mcp

import (
	"context"
	"net/http"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// visit is one HTTP request on its way through the door. It belongs to the
// goroutine that serves the request.
type visit struct {
	door   *Door
	r      *http.Request
	out    *answer
	server string // of a per-server endpoint, "" on the aggregated one
	creds  ostiary.Credentials

	msg       mcpwire.Message
	version   string   // the revision in force; "http" while there is none
	requested string   // the revision a client asked for that is not served
	session   *session // of a legacy client that has one
	caps      capabilities
	token     ostiary.Value // the client's progress token, Absent if none
	level     int           // least log level to pass on; silent or everything
	action    ostiary.Action
	target    gate.TargetKind

	streamOnly bool // the answer is an event stream without a response: GET

	// What ends with the request.
	holder  ostiary.AgentID // whose body it is,
	held    int64           // and how many bytes of it are counted
	long    *gate.Reply     // of a stream that may stay open for hours
	listens bool            // the session's one stream is this one
}

// end gives back what the request took.
func (x *visit) end() {
	if x.long != nil {
		x.long.Close()
	}
	if x.listens {
		x.session.stopListening()
	}
	if x.holder != "" {
		x.door.bodies.release(x.holder, x.held)
	}
}

// request reports whether the client expects a JSON-RPC response.
func (x *visit) request() bool { return x.msg.Kind == mcpwire.Request }

func (x *visit) legacy() bool { return x.version != mcpwire.Version20260728 && x.version != "http" }

// resultType is the member every result of 2026-07-28 carries.
func (x *visit) resultType() string {
	if x.legacy() {
		return ""
	}
	return mcpwire.ResultComplete
}

func (x *visit) params() ostiary.Value { return x.msg.Params }

// call is the gate's view of what x asks for.
func (x *visit) call(a ostiary.Action, target gate.Target) gate.Call {
	c := gate.Call{Credentials: x.creds, Action: a, Target: target, Progress: x.token.Exists(), Protocol: "mcp/" + x.version, Trace: x.trace()}
	if target.Kind == gate.ToServer {
		c.Logs, c.Asked = levelName(x.level), x.askable()
	}
	return c
}

// trace returns the caller's traceparent, from the message if it has one there
// and from the one header otherwise. Whoever reads it parses it strictly.
func (x *visit) trace() string {
	if v := x.params().Get("_meta").Get(mcpwire.MetaTraceparent); v.Exists() {
		if len(v.Bytes()) > maxName {
			return ""
		}
		return v.Text()
	}
	if h := x.r.Header.Values("Traceparent"); len(h) == 1 {
		return bounded(h[0])
	}
	return ""
}

// fault hands the gate a message that could not be translated and answers
// with what the gate makes of it: it knows by now who sent it, and has
// recorded it.
func (x *visit) fault(e *ostiary.Error) {
	x.out.refuse(x, x.blame(e))
}

// plainFault is a fault of HTTP itself, found before anything was read. The
// answer names it even to a caller who proved nothing: protocols fix its
// status, and it says nothing about this gateway's contents.
func (x *visit) plainFault(e *ostiary.Error) {
	told := x.blame(e)
	if told.Kind == ostiary.Unauthenticated {
		told = e
	}
	x.out.refuse(x, told)
}

func (x *visit) blame(e *ostiary.Error) *ostiary.Error {
	a := x.action
	if a.Name == "" {
		a = ostiary.Action{Name: actionUntranslated, Server: x.known(x.server), Method: bounded(x.msg.Method), Arguments: x.msg.Params}
	}
	call := x.call(a, gate.Target{Kind: gate.ToLocal, Respond: nowhere})
	call.Fault = e
	reply, err := x.door.gate.Handle(x.r.Context(), call)
	if err == nil {
		reply.Close()
		return ostiary.Errorf(ostiary.Internal, "fault_passed", "internal error")
	}
	return ostiary.AsError(err)
}

// known returns a server's name if it is configured: what a client made up
// does not become the name of anything.
func (x *visit) known(server string) string {
	if _, ok := x.door.server(server); ok {
		return server
	}
	return ""
}

// maxName bounds what a client sends as a method or a name: it goes into log
// entries.
const maxName = 256

func bounded(s string) string {
	if len(s) > maxName {
		return s[:maxName]
	}
	return s
}

// nowhere is the target of a call that must not be let through.
func nowhere(context.Context, *gate.Dispatch) (gate.Stream, error) {
	return nil, ostiary.Errorf(ostiary.Internal, "fault_passed", "internal error").Because(gate.ErrNotSent)
}

// local makes the call of an answer from this process and relays its reply.
func (x *visit) local(a ostiary.Action, respond func(context.Context, *gate.Dispatch) (gate.Stream, error)) {
	x.do(x.r.Context(), a, gate.Target{Kind: gate.ToLocal, Respond: respond})
}

// stream makes the call of a stream that may stay open for hours. ServeHTTP
// relays its reply, from where the stack is not deep: whoever waits keeps the
// stack they wait on, and there may be very many.
func (x *visit) stream(respond func(context.Context, *gate.Dispatch) (gate.Stream, error)) {
	x.target = gate.ToLocal
	reply, err := x.door.gate.Handle(x.r.Context(), x.call(x.action, gate.Target{Kind: gate.ToLocal, Respond: respond}))
	if err != nil {
		x.fail(x.r.Context(), err)
		return
	}
	known(x.r)
	x.long = reply
}

// do makes the call and relays its reply.
func (x *visit) do(ctx context.Context, a ostiary.Action, target gate.Target) {
	reply, err := x.enter(ctx, a, target)
	if err != nil {
		if id := x.waitsAt(err); id != "" {
			known(x.r)
			x.await(ctx, id, err)
			return
		}
		x.fail(ctx, err)
		return
	}
	defer reply.Close()
	known(x.r)
	x.relay(ctx, reply)
}

// enter hands the call to the gate. It is a function of its own so that the
// call, which is large, is not on the stack of a stream that stays open.
//
//go:noinline
func (x *visit) enter(ctx context.Context, a ostiary.Action, target gate.Target) (*gate.Reply, error) {
	x.action, x.target = a, target.Kind
	return x.door.gate.Handle(ctx, x.call(a, target))
}

// fail answers with an error of the gate. A legacy client that cancelled is
// not answered.
func (x *visit) fail(ctx context.Context, err error) {
	if context.Cause(ctx) == errCancelled {
		x.out.empty(http.StatusAccepted)
		return
	}
	if x.streamOnly && x.out.streaming() {
		return // nobody asked anything on this stream that could be answered
	}
	e := ostiary.AsError(err)
	if m := x.door.methods[x.msg.Method]; e.Kind == ostiary.NotFound && e.Field == "" && m.mirrored != "" {
		absent := *e // the gate finds what is not there where the client named it
		e = absent.At("/params/" + m.mirrored)
	}
	if e.Kind == ostiary.Internal {
		x.door.log.Error("call failed", "method", bounded(x.msg.Method), "error", e)
	}
	x.out.refuse(x, e)
}
