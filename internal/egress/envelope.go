package egress

import (
	"strconv"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// appendCall writes the request that carries a cleared action. The envelope
// is ours: id, method, the tool's own name, _meta. Everything the caller
// chose is copied by offset from the bytes that were cleared.
func appendCall(dst []byte, id int64, d *gate.Dispatch, meta []byte) ([]byte, error) {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = strconv.AppendInt(dst, id, 10)
	dst = append(dst, `,"method":`...)
	dst = mcpwire.AppendString(dst, d.Action.Method)
	dst = append(dst, `,"params":{`...)
	o := object{dst: dst}
	if err := o.params(d.Action); err != nil {
		return nil, err
	}
	o.retry(d.Action)
	o.meta(id, d.Progress, meta)
	return append(o.dst, "}}"...), nil
}

// sizeHint is enough room for the call, so that it is written in one piece.
func sizeHint(a *ostiary.Action, meta []byte) int {
	return len(a.Arguments.Bytes()) + len(a.Responses.Bytes()) + 2*len(a.State) + len(meta) + len(a.Tool) + 256
}

// object appends members to an object that the caller opened.
type object struct {
	dst  []byte
	some bool
}

func (o *object) name(name string) {
	if o.some {
		o.dst = append(o.dst, ',')
	}
	o.some = true
	o.dst = append(mcpwire.AppendString(o.dst, name), ':')
}

func (o *object) copy(name string, v ostiary.Value) {
	o.name(name)
	o.dst = append(o.dst, v.Bytes()...)
}

// params writes what the caller asked for.
func (o *object) params(a *ostiary.Action) error {
	switch a.Method {
	case mcpwire.MethodToolsCall, mcpwire.MethodPromptsGet:
		if a.Tool == "" {
			return ostiary.Errorf(ostiary.Internal, "no_tool", "the cleared action names no tool")
		}
		o.name("name")
		o.dst = mcpwire.AppendString(o.dst, a.Tool)
		if a.Arguments.Exists() {
			o.copy("arguments", a.Arguments)
		}
		return nil
	}
	if k := a.Arguments.Kind(); k != ostiary.Absent && k != ostiary.Object {
		return ostiary.Errorf(ostiary.Malformed, "params", "params must be an object").At("/params")
	}
	if a.URI != "" && a.Method != mcpwire.MethodCompletion && !a.Arguments.Get("uri").Is(a.URI) {
		return ostiary.Errorf(ostiary.Internal, "uri_moved", "the cleared bytes address another resource")
	}
	for name, v := range a.Arguments.Members() {
		switch {
		case name == "_meta" || name == "inputResponses" || name == "requestState":
			// the hop's own, written below
		case name == "ref" && a.Method == mcpwire.MethodCompletion && a.Tool != "":
			o.ref(v, a.Tool)
		default:
			o.copy(name, v)
		}
	}
	return nil
}

// ref copies a completion's reference, with the prompt's own name in place of
// the one under which we list it.
func (o *object) ref(v ostiary.Value, tool string) {
	o.name("ref")
	in := object{dst: append(o.dst, '{')}
	for name, m := range v.Members() {
		if name == "name" {
			in.name(name)
			in.dst = mcpwire.AppendString(in.dst, tool)
			continue
		}
		in.copy(name, m)
	}
	o.dst = append(in.dst, '}')
}

// retry adds what a multi-round retry carries: the answers as they arrived,
// and the server's own state, byte for byte.
func (o *object) retry(a *ostiary.Action) {
	if a.Responses.Exists() {
		o.copy("inputResponses", a.Responses)
	}
	if a.State != nil {
		o.name("requestState")
		o.dst = mcpwire.AppendString(o.dst, string(a.State))
	}
}

func (o *object) meta(id int64, progress bool, members []byte) {
	if len(members) == 0 && !progress {
		return
	}
	o.name("_meta")
	o.dst = append(o.dst, '{')
	if progress {
		o.dst = append(o.dst, `"progressToken":`...)
		o.dst = strconv.AppendInt(o.dst, id, 10)
		if len(members) > 0 {
			o.dst = append(o.dst, ',')
		}
	}
	o.dst = append(append(o.dst, members...), '}')
}

// appendDiscover writes the probe for the modern era.
func appendDiscover(dst []byte, id int64, meta []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = strconv.AppendInt(dst, id, 10)
	dst = append(dst, `,"method":"server/discover","params":{"_meta":{`...)
	return append(append(dst, meta...), "}}}"...)
}

// appendInitialize writes the legacy handshake.
func appendInitialize(dst []byte, id int64, s *shared) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = strconv.AppendInt(dst, id, 10)
	dst = append(dst, `,"method":"initialize","params":{"protocolVersion":"`+mcpwire.Version20251125+`","capabilities":`...)
	dst = append(append(dst, s.capabilities.Bytes()...), `,"clientInfo":`...)
	return append(append(dst, s.identity...), "}}"...)
}

// appendSetLevel writes what a legacy server is told about its log messages.
func appendSetLevel(dst []byte, id int64, level string) []byte {
	return mcpwire.AppendRequest(dst, strconv.AppendInt(nil, id, 10), mcpwire.MethodSetLevel, append(mcpwire.AppendString([]byte(`{"level":`), level), '}'))
}

const initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`

// appendCancelled tells a server that nobody waits for a reply any more.
func appendCancelled(dst []byte, id int64) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`...)
	return append(strconv.AppendInt(dst, id, 10), "}}"...)
}

// appendAnswer writes our answer to a request of the server, with the id as
// the server wrote it.
func appendAnswer(dst, id []byte, kind gate.FrameKind, body []byte) []byte {
	if kind == gate.FrameResult {
		return mcpwire.AppendResult(dst, id, body)
	}
	dst = append(append(dst, `{"jsonrpc":"2.0","id":`...), id...)
	return append(append(append(dst, `,"error":`...), body...), '}')
}

// appendRefusal answers a request that may not reach the caller.
func appendRefusal(dst, id []byte) []byte {
	return mcpwire.AppendError(dst, id, mcpwire.CodeMethodNotFound, "this client does not offer that", nil)
}

// discovered reads the answer to a probe: modern, or not. Only an error that
// the modern revision defines, other than "that version is not supported",
// is an error; everything else means the legacy era.
func discovered(m mcpwire.Message) (modern bool, err error) {
	if m.Kind == mcpwire.Result {
		for _, v := range m.Result.Get("supportedVersions").Elements() {
			if v.Is(mcpwire.Version20260728) {
				return true, nil
			}
		}
		return false, nil
	}
	code, _ := m.Error.Get("code").Int()
	if code == mcpwire.CodeHeaderMismatch || code == mcpwire.CodeMissingCapability {
		return false, ostiary.Errorf(ostiary.Upstream, "handshake", "the server refused the handshake with error %d", code)
	}
	return false, nil
}

// asks reports whether a request of a server may reach the caller: one of the
// three that exist, under a capability that was declared.
func (s *shared) asks(method string) bool {
	switch method {
	case mcpwire.MethodSampling:
		return s.capabilities.Get("sampling").Exists()
	case mcpwire.MethodElicitation:
		return s.capabilities.Get("elicitation").Exists()
	case mcpwire.MethodRootsList:
		return s.capabilities.Get("roots").Exists()
	}
	return false
}

// isOurs reports whether a reply's id is the one we gave. Ids are compared as
// written: we write plain integers.
func isOurs(id ostiary.Value, ours int64) bool {
	n, ok := id.Int()
	return ok && n == ours
}
