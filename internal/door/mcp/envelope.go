package mcp

import (
	"context"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Envelope is the gate's inspector of MCP results: one whose form no client
// could be given is withheld, and recorded so, before the door sees it.
type Envelope struct{}

// Inspect implements gate.Inspector.
func (Envelope) Inspect(_ context.Context, _ *ostiary.Request, f gate.Frame) ([]ostiary.Finding, error) {
	if f.Kind != gate.FrameResult {
		return nil, nil
	}
	return nil, checkResult(f.Body)
}

// checkResult refuses a result that is no object, or says that it is of a kind
// we do not know. A server of an older revision says nothing, which means
// complete.
func checkResult(body ostiary.Value) error {
	if body.Kind() != ostiary.Object {
		return ostiary.Errorf(ostiary.Upstream, "result", "the server's result is not an object")
	}
	if kind := body.Get("resultType"); kind.Exists() && !kind.Is("complete") && !kind.Is("input_required") {
		return ostiary.Errorf(ostiary.Upstream, "result_type", "the server answered in a form this gateway does not pass on")
	}
	return nil
}
