package gate

import (
	"context"
	"errors"
	"io"

	"github.com/ostiary/ostiary"
)

// Call is one thing an agent (or a server, or the gateway itself) wants done,
// translated from a door's protocol. A door fills it in and hands it to
// [Gate.Handle]; it decides nothing itself.
type Call struct {
	Credentials ostiary.Credentials
	Action      ostiary.Action  // Pin is filled in by resolve from the pinned tool
	Target      Target          // where a permitted call goes; the zero Target is the server named by Action.Server
	Parent      ostiary.EntryID // the Intent of the exchange this call happens inside, for calls a server makes back
	Progress    bool            // the caller wants progress notifications
	Logs        string          // least level of the log messages the caller wants, as MCP names it; "" for none
	Asked       string          // JSON object, composed by the door, of the client capabilities under which a server may ask this caller inside this call; "" leaves it to what egress declares for all
	Approval    ostiary.HoldID  // the consent under which a held call is made again; "" for every other
	Narrowed    ostiary.Digest  // of the action that was asked for, when people consented to a narrower one
	Fault       error           // the door could not translate the message (malformed, header mismatch, unknown method): it ends after authenticate, refused and recorded like any other call
	Protocol    string          // protocol and revision the caller speaks, for the record: "mcp/2026-07-28"
	Trace       string          // the caller's own traceparent as it was sent, "" if none: observers may link to it, nothing follows it

	weighed bool // people look at it, nobody makes it; see Gate.Weigh
}

// TargetKind says what a clearance opens the way to.
type TargetKind uint8

const (
	ToServer TargetKind = iota // the configured server, remote or a process; egress knows which
	ToLocal                    // a responder inside this process
	ToClient                   // the calling client's own stream
)

// Target is where a permitted call goes.
type Target struct {
	Kind TargetKind
	// Respond answers a ToLocal call, or carries a ToClient call to the
	// client's stream and returns its answer. It runs only once the intent
	// is durable, called by egress with the cleared dispatch.
	Respond func(ctx context.Context, d *Dispatch) (Stream, error)
}

// FrameKind is the kind of one message of a reply.
type FrameKind uint8

const (
	FrameNone         FrameKind = iota
	FrameNotification           // more follows
	FrameRequest                // the far side asks something back; answer with Stream.Answer; more follows
	FrameResult                 // final
	FrameError                  // final: the far side's own error object
)

// Final reports whether no frame follows.
func (k FrameKind) Final() bool { return k == FrameResult || k == FrameError }

// Frame is one message of a reply, whole and strictly scanned.
type Frame struct {
	Kind   FrameKind
	Method string        // of a notification or request
	ID     string        // of a request: egress's own handle, for Answer
	Body   ostiary.Value // result, error object, or params
}

// Stream is a reply: zero or more frames and then exactly one final one. The
// stream a door gets from [Gate.Handle] releases its final frame only when the
// Outcome is durable. A Stream is used by one goroutine, except that Close
// may be called at any time and more than once; closing early settles the
// exchange.
type Stream interface {
	// Next returns the next frame, io.EOF after the final one.
	Next(ctx context.Context) (Frame, error)
	// Answer replies to a FrameRequest with a FrameResult or FrameError body.
	Answer(ctx context.Context, id string, kind FrameKind, body []byte) error
	Close() error
}

// Whole returns a reply that is already there: one final frame, and nothing
// asked.
func Whole(kind FrameKind, body ostiary.Value) Stream {
	return &whole{frame: Frame{Kind: kind, Body: body}}
}

type whole struct {
	frame Frame
	read  bool
}

func (w *whole) Next(context.Context) (Frame, error) {
	if w.read {
		return Frame{}, io.EOF
	}
	w.read = true
	return w.frame, nil
}

func (w *whole) Answer(context.Context, string, FrameKind, []byte) error {
	return ostiary.Errorf(ostiary.Conflict, "nothing_asked", "nothing was asked")
}

func (w *whole) Close() error { return nil }

// Reply is what Handle returns for a call that was let through.
type Reply struct {
	Stream
	Intent  ostiary.Receipt // of the Intent
	Request *ostiary.Request
}

// ErrNotSent marks an egress error after which it is certain that no byte of
// the call left. Whatever else fails after a clearance was redeemed may have
// happened, and its outcome is Unknown.
var ErrNotSent = errors.New("nothing was sent")
