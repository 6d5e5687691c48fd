package mcp

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// relay passes a reply on: as one JSON body, or as an event stream as soon as
// something other than the result is to be said.
func (x *visit) relay(ctx context.Context, reply *gate.Reply) {
	if x.streamOnly || x.token.Exists() && x.request() && x.acceptsStream() {
		x.out.startStream()
	}
	for {
		f, err := reply.Next(ctx)
		if err != nil {
			if err == io.EOF {
				err = ostiary.Errorf(ostiary.Upstream, "reply_cut", "the reply ended before its result")
			}
			x.fail(ctx, err)
			return
		}
		switch f.Kind {
		case gate.FrameNotification:
			err = x.notification(f)
		case gate.FrameRequest:
			err = x.asked(ctx, reply, f)
		case gate.FrameResult:
			x.final(ctx, reply, f.Body)
			return
		case gate.FrameError:
			x.farError(f.Body)
			return
		default:
			err = ostiary.Errorf(ostiary.Internal, "frame", "internal error")
		}
		if err != nil { // the client left, or we have a bug: closing the reply settles it
			x.fail(ctx, err)
			return
		}
	}
}

// acceptsStream reports whether the client can read an event stream. A client
// that says nothing, or says everything, can: the specification demands it.
func (x *visit) acceptsStream() bool {
	accept := strings.Join(x.r.Header.Values("Accept"), ",")
	if accept == "" {
		return true
	}
	for part := range strings.SplitSeq(strings.ToLower(accept), ",") {
		media, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(media) {
		case "text/event-stream", "text/*", "*/*":
			return true
		}
	}
	return false
}

// notification passes on what belongs to this request: progress under the
// client's own token, and log messages at the level it asked for. Everything
// else a server may say belongs to somebody else or to nobody.
func (x *visit) notification(f gate.Frame) error {
	if !x.acceptsStream() || !x.request() && !x.streamOnly {
		return nil
	}
	params := []byte(nil)
	switch f.Method {
	case "notifications/progress":
		if !x.token.Exists() {
			return nil
		}
		params = rewrite(f.Body, func(name string) bool { return name == "progressToken" }, `"progressToken":`+string(x.token.Bytes()))
	case "notifications/message":
		level, ok := logLevel(f.Body.Get("level").Text())
		if !ok || level < x.level {
			return nil
		}
		params = rewrite(f.Body, nil, "")
	case "notifications/subscriptions/acknowledged", "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed":
		if x.target != gate.ToLocal {
			return nil
		}
		params = f.Body.Bytes() // our own
	default:
		return nil
	}
	return x.out.event(mcpwire.AppendNotification(nil, f.Method, params))
}

// final sends the result of the call.
func (x *visit) final(ctx context.Context, reply *gate.Reply, body ostiary.Value) {
	switch {
	case x.request():
	case x.r.Method == http.MethodDelete:
		x.out.empty(http.StatusNoContent)
		return
	default:
		x.out.empty(http.StatusAccepted)
		return
	}
	if x.target != gate.ToServer {
		x.out.result(x, body.Bytes()) // our own
		return
	}
	result, err := x.result(ctx, reply, body)
	if err != nil {
		e := *ostiary.AsError(err)
		if e.Entry.IsZero() {
			e.Entry = reply.Intent.Ref // the call was made, and this is its story
		}
		x.out.refuse(x, &e)
		return
	}
	x.out.result(x, result)
}

// result makes the result a client of this revision may see out of what a
// server answered: its values are copied byte for byte, envelope members are
// ours to write.
func (x *visit) result(ctx context.Context, reply *gate.Reply, body ostiary.Value) ([]byte, error) {
	if err := checkResult(body); err != nil {
		return nil, err
	}
	if body.Get("resultType").Is("input_required") {
		return x.inputRequired(ctx, reply, body)
	}
	if x.legacy() {
		return rewrite(body, func(name string) bool { return name == "resultType" }, ""), nil
	}
	drop := func(name string) bool { return name == "resultType" }
	add := `"resultType":"complete"`
	if x.msg.Method == "resources/read" {
		// What one subject read is never another's to find in a cache.
		drop = func(name string) bool { return name == "resultType" || name == "ttlMs" || name == "cacheScope" }
		ttl, ok := body.Get("ttlMs").Int()
		if !ok || ttl < 0 {
			ttl = 0
		}
		add += `,"ttlMs":` + strconv.FormatInt(ttl, 10) + `,"cacheScope":"private"`
	}
	return rewrite(body, drop, add), nil
}

// farError passes on the far side's own error. Codes by which a client would
// blame itself, its revision or its headers, or which this revision forbids,
// are not the far side's to send, save for a capability that it needs and
// that the client in fact did not declare.
func (x *visit) farError(body ostiary.Value) {
	code, ok := body.Get("code").Int()
	message := body.Get("message")
	status := http.StatusOK
	switch {
	case !ok || code < -1<<31 || code > 1<<31 || message.Kind() != ostiary.String:
		x.out.refuse(x, ostiary.Errorf(ostiary.Upstream, "error_object", "the server answered with an error that is none"))
		return
	case code == mcpwire.CodeMissingCapability && !x.legacy() && x.caps.lacks(body.Get("data").Get("requiredCapabilities")):
		status = http.StatusBadRequest // true, and only the client can mend it
	case code == mcpwire.CodeHeaderMismatch, code == mcpwire.CodeMissingCapability, code == mcpwire.CodeUnsupportedVersion, code == -32042:
		code = mcpwire.CodeInternal
	case code == -32002 && !x.legacy(): // what older servers say for "no such resource"
		code = mcpwire.CodeInvalidParams
	}
	x.out.message(status, mcpwire.AppendError(nil, x.msg.ID.Bytes(), int(code), message.Text(), body.Get("data").Bytes()))
}

// rewrite copies an object with some members dropped and others, given as
// text, put first. Values are copied as they are, except that in _meta what
// is reserved to the protocol or to us is left out.
func rewrite(v ostiary.Value, drop func(string) bool, add string) []byte {
	b := append(make([]byte, 0, len(v.Bytes())+len(add)+2), '{')
	b = append(b, add...)
	for name, member := range v.Members() {
		if drop != nil && drop(name) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = mcpwire.AppendString(b, name)
		b = append(b, ':')
		if name == "_meta" && member.Kind() == ostiary.Object {
			b = appendMeta(b, member)
		} else {
			b = append(b, member.Bytes()...)
		}
	}
	return append(b, '}')
}

func appendMeta(b []byte, meta ostiary.Value) []byte {
	b = append(b, '{')
	n := 0
	for name, v := range meta.Members() {
		if reservedMeta(name) {
			continue
		}
		if n++; n > 1 {
			b = append(b, ',')
		}
		b = mcpwire.AppendString(b, name)
		b = append(b, ':')
		b = append(b, v.Bytes()...)
	}
	return append(b, '}')
}

// reservedMeta reports whether a server may not speak under this name: our
// own prefix, and those whose second label is the protocol's.
func reservedMeta(name string) bool {
	prefix, _, ok := strings.Cut(name, "/")
	if !ok {
		return false
	}
	if strings.EqualFold(prefix+"/", metaPrefix) {
		return true
	}
	labels := strings.Split(strings.ToLower(prefix), ".")
	return len(labels) > 1 && (labels[1] == "modelcontextprotocol" || labels[1] == "mcp")
}
