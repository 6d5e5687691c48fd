//lint:file-ignore SA1019 sampling is deprecated and still served: it must be exercised

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Limits of the lab, so that a wrong argument cannot hold a test run: a count
// lasts at most a minute, and the largest result is twice what a gateway
// accepts as a request.
const (
	maxCount      = 600
	maxCountPause = 100 // milliseconds
	maxBigResult  = 8 << 20
)

// labState is what the lab's multi-round tools ask the client to bring back.
// It has quotes, an escape and a letter outside ASCII in it: whoever carries
// it must return it byte for byte, or the tool refuses.
const labState = `lab/1 "quoted" \ é`

const (
	schemaCount = `{"type":"object","properties":{
		"to":{"type":"integer","minimum":1,"maximum":600},
		"pause_ms":{"type":"integer","description":"Pause between two counts","minimum":0,"maximum":100}
	},"required":["to"],"additionalProperties":false}`
	schemaQuestion = `{"type":"object","properties":{
		"question":{"type":"string","minLength":1,"maxLength":1000}
	},"required":["question"],"additionalProperties":false}`
	schemaSize = `{"type":"object","properties":{
		"bytes":{"type":"integer","minimum":0,"maximum":8388608}
	},"required":["bytes"],"additionalProperties":false}`
	schemaEcho = `{"type":"object","properties":{
		"text":{"type":"string"},
		"value":{"description":"Any JSON value"}
	},"additionalProperties":false}`
)

// addLab offers the tools that exercise the protocol.
func (w *world) addLab(s *mcp.Server) {
	mcp.AddTool(s, &mcp.Tool{
		Name: "slow_count", Annotations: readOnly(),
		Description: "Count slowly, with a progress notification for each number. Stops when it is cancelled.",
		InputSchema: json.RawMessage(schemaCount),
	}, w.slowCount)

	mcp.AddTool(s, &mcp.Tool{
		Name: "ask_model", Annotations: readOnly(),
		Description: "Ask the client's model a question (sampling) and return its answer.",
		InputSchema: json.RawMessage(schemaQuestion),
	}, askModel)

	mcp.AddTool(s, &mcp.Tool{
		Name: "ask_person", Annotations: readOnly(),
		Description: "Ask the person at the client a question (elicitation) and return the answer.",
		InputSchema: json.RawMessage(schemaQuestion),
	}, askPerson)

	mcp.AddTool(s, &mcp.Tool{
		Name: "big_result", Annotations: readOnly(),
		Description: "Return a text of the given size.",
		InputSchema: json.RawMessage(schemaSize),
	}, func(_ context.Context, _ *mcp.CallToolRequest, in struct {
		Bytes int `json:"bytes"`
	}) (*mcp.CallToolResult, any, error) {
		const line = "0123456789abcdefghijklmnopqrstuvwxyz-ostiary-big-result-63-byte\n"
		n := min(max(in.Bytes, 0), maxBigResult)
		return text("%s", strings.Repeat(line, n/len(line)+1)[:n]), nil, nil
	})

	// Not through the typed helper: the bytes are returned as they arrived.
	s.AddTool(&mcp.Tool{
		Name: "echo", Annotations: readOnly(),
		Description: "Return the arguments exactly as they arrived, byte for byte.",
		InputSchema: json.RawMessage(schemaEcho),
	}, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if err := w.journal.Write(Event{What: Executed, Tool: "echo", Entry: entryOf(r)}); err != nil {
			return nil, err
		}
		return text("%s", r.Params.Arguments), nil
	})
}

func (w *world) slowCount(ctx context.Context, r *mcp.CallToolRequest, in struct {
	To    int `json:"to"`
	Pause int `json:"pause_ms"`
}) (*mcp.CallToolResult, any, error) {
	to, pause := min(in.To, maxCount), time.Duration(min(in.Pause, maxCountPause))*time.Millisecond
	tick := time.NewTimer(pause)
	defer tick.Stop()
	for i := 1; i <= to; i++ {
		select {
		case <-ctx.Done():
			w.journal.Write(Event{What: Cancelled, Tool: "slow_count", Entry: entryOf(r)})
			return nil, nil, ctx.Err()
		case <-tick.C:
			tick.Reset(pause)
		}
		token := r.Params.GetProgressToken()
		if token == nil {
			continue
		}
		err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
			ProgressToken: token, Progress: float64(i), Total: float64(to), Message: "counting"})
		if err != nil {
			return nil, nil, err
		}
	}
	return text("Counted to %d.", to), nil, nil
}

type question struct {
	Question string `json:"question"`
}

// askModel and askPerson are multi-round: they ask by returning an input
// request, and are called again with the response. For clients of the 2025
// revisions the library turns the request into a call to the client.
func askModel(_ context.Context, r *mcp.CallToolRequest, in question) (*mcp.CallToolResult, any, error) {
	answer, asked := r.Params.InputResponses["answer"]
	if !asked {
		return &mcp.CallToolResult{RequestState: labState, InputRequests: mcp.InputRequestMap{
			"answer": &mcp.CreateMessageParams{
				MaxTokens: 100,
				Messages:  []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: in.Question}}},
			}}}, nil, nil
	}
	if r.Params.RequestState != labState {
		return nil, nil, errStateMoved
	}
	switch a := answer.(type) {
	case *mcp.CreateMessageResult:
		return text("The model said: %s", contentText(a.Content)), nil, nil
	case *mcp.CreateMessageWithToolsResult:
		return text("The model said: %s", contentText(a.Content...)), nil, nil
	}
	return nil, nil, errNoAnswer
}

func askPerson(_ context.Context, r *mcp.CallToolRequest, in question) (*mcp.CallToolResult, any, error) {
	answer, asked := r.Params.InputResponses["answer"]
	if !asked {
		return &mcp.CallToolResult{RequestState: labState, InputRequests: mcp.InputRequestMap{
			"answer": &mcp.ElicitParams{
				Mode:            "form",
				Message:         in.Question,
				RequestedSchema: json.RawMessage(`{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"]}`),
			}}}, nil, nil
	}
	if r.Params.RequestState != labState {
		return nil, nil, errStateMoved
	}
	a, ok := answer.(*mcp.ElicitResult)
	if !ok {
		return nil, nil, errNoAnswer
	}
	if a.Action != "accept" {
		return text("The person did not answer: %s.", a.Action), nil, nil
	}
	return text("The person said: %v", a.Content["answer"]), nil, nil
}

var (
	errStateMoved = errors.New("the request state did not come back as it was sent")
	errNoAnswer   = errors.New("the response is not an answer to the question")
)

func contentText(all ...mcp.Content) string {
	var b strings.Builder
	for _, c := range all {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	return b.String()
}
