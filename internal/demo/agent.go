package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// agent is the scripted agent: a real MCP client.
type agent struct {
	session *mcp.ClientSession
	story   *Story
}

// answer is what came back of one attempt.
type answer struct {
	Refused  bool
	Text     string   // the result's text, or the refusal's words
	Code     string   // of a refusal
	Field    string   // of a refusal: what in the call it is about
	Entry    string   // of a refusal
	Reasons  []string // of a refusal: "policy: text"
	Remedies []string // of a refusal
	Status   int      // HTTP status of a raw request
}

// tool is the name of a server's tool on the aggregated endpoint.
func tool(server, name string) string {
	t := ostiary.Tool{Server: server, Name: name}
	return t.Action()
}

// call calls a tool. Both ways in which MCP tells a refusal, a result with
// isError and a JSON-RPC error, are answers here; an error is something that
// did not work.
func (a *agent) call(ctx context.Context, name string, args any) (answer, error) {
	res, err := a.session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: args})
	var rpc *jsonrpc.Error
	switch {
	case errors.As(err, &rpc):
		return errorAnswer(rpc.Message, rpc.Data)
	case err != nil:
		return answer{}, err
	}
	out := answer{Refused: res.IsError, Text: contentText(res.Content...)}
	out.Code, _ = res.Meta[nameCode].(string)
	out.Field, _ = res.Meta[nameField].(string)
	out.Entry, _ = res.Meta[nameEntry].(string)
	out.Remedies = texts(res.Meta[nameRemedy])
	for _, r := range list(res.Meta[nameWhy]) {
		if m, ok := r.(map[string]any); ok {
			out.Reasons = append(out.Reasons, fmt.Sprintf("%v: %v", m["policy"], m["text"]))
		}
	}
	return out, nil
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func texts(v any) []string {
	var out []string
	for _, x := range list(v) {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// errorAnswer reads a JSON-RPC error of the gateway.
func errorAnswer(message string, data []byte) (answer, error) {
	out := answer{Refused: true, Text: message}
	if len(data) == 0 {
		return out, nil
	}
	doc, err := strictjson.Parse(data, strictjson.Reply)
	if err != nil {
		return out, fmt.Errorf("reading the data of an error: %w", err)
	}
	out.take(doc.Root())
	return out, nil
}

// take reads the members the gateway puts beside an error's words.
func (a *answer) take(data ostiary.Value) {
	a.Code, a.Field, a.Entry = data.Get("code").Text(), data.Get("field").Text(), data.Get("entry").Text()
	for _, r := range data.Get("reasons").Elements() {
		a.Reasons = append(a.Reasons, r.Get("policy").Text()+": "+r.Get("text").Text())
	}
	for _, r := range data.Get("remedies").Elements() {
		a.Remedies = append(a.Remedies, r.Text())
	}
}

// post sends exactly these bytes as a 2026-07-28 call of a tool and reads the
// reply, one JSON message.
func post(ctx context.Context, c *http.Client, endpoint, name, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": mcpwire.Version20260728, "Mcp-Method": "tools/call", "Mcp-Name": name,
	} {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return answer{}, err
	}
	out := answer{Status: resp.StatusCode, Refused: resp.StatusCode >= 400}
	if m, err := mcpwire.Parse(b, strictjson.Reply); err == nil && m.Kind == mcpwire.Error {
		out.Refused, out.Text = true, m.Error.Get("message").Text()
		out.take(m.Error.Get("data"))
	}
	return out, nil
}

// rawCall is a whole 2026-07-28 call of a tool, with arguments as given: they
// may be anything, also what no encoder would write.
func rawCall(name, arguments string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `","arguments":` + arguments +
		`,"_meta":{"` + mcpwire.MetaProtocolVersion + `":"` + mcpwire.Version20260728 + `","` + mcpwire.MetaClientInfo +
		`":{"name":"ostiary-demo-agent","version":"1"},"` + mcpwire.MetaClientCapabilities + `":{}}}}`
}
