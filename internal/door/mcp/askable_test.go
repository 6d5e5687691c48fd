package mcp

import (
	"context"
	"testing"

	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

// A server learns of a client what the client declared and this door serves,
// in the door's own words, and nothing of what somebody else can be asked.
func TestWhatAServerMayAskOfThisClient(t *testing.T) {
	for declared, want := range map[string]string{
		`{}`:                         `{}`,
		`{"sampling":{}}`:            `{"sampling":{}}`,
		`{"sampling":{"tools":{}}}`:  `{"sampling":{"tools":{}}}`,
		`{"sampling":true,"x":{}}`:   `{}`,
		`{"elicitation":{}}`:         `{"elicitation":{"form":{}}}`,
		`{"elicitation":{"url":{}}}`: `{"elicitation":{"url":{}}}`,
		`{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}},"sampling":{}}`: `{"elicitation":{"form":{},"url":{}},"roots":{},"sampling":{}}`,
	} {
		x := &visit{version: "2026-07-28", caps: capabilitiesOf(value(declared))}
		if got := x.askable(); got != want {
			t.Errorf("%s: %s, want %s", declared, got, want)
		}
		if x.version = "2025-11-25"; x.askable() != "{}" {
			t.Errorf("%s: a client of an older revision can be asked %s", declared, x.askable())
		}
	}
}

func TestLogLevelOfACall(t *testing.T) {
	w := newWorld(t)
	call := func() gate.Call { return w.calls[len(w.calls)-1] }
	w.do(request("/mcp", "tools/call", `"name":"bank___send","arguments":{}`))
	if c := call(); c.Logs != "" || c.Asked != "{}" {
		t.Errorf("%q %q", c.Logs, c.Asked)
	}
	id := w.opened("alice", "2025-11-25", `{}`)
	post := func(method, params string) {
		t.Helper()
		rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`, "Mcp-Session-Id", id))
		if rec.Code != 200 {
			t.Fatal(rec.Code, rec.Body)
		}
	}
	post("tools/call", `{"name":"bank___send","arguments":{}}`)
	if c := call(); c.Logs != "" {
		t.Errorf("nobody asked for %q", c.Logs)
	}
	post("logging/setLevel", `{"level":"notice"}`)
	if c := call(); c.Logs != "" || c.Asked != "" {
		t.Errorf("a call that stays here carries %q %q", c.Logs, c.Asked)
	}
	post("tools/call", `{"name":"bank___send","arguments":{}}`)
	if c := call(); c.Logs != "notice" {
		t.Errorf("level %q", c.Logs)
	}
}

// A server may say that it needs a capability only of a client that in fact
// did not declare it.
func TestMissingCapabilityOfTheFarSide(t *testing.T) {
	for name, c := range map[string]struct {
		data   string
		status int
		code   int64
	}{
		"not declared":     {`{"requiredCapabilities":{"elicitation":{}}}`, 400, -32021},
		"one of two":       {`{"requiredCapabilities":{"sampling":{},"roots":{}}}`, 400, -32021},
		"a part of it":     {`{"requiredCapabilities":{"sampling":{"tools":{}}}}`, 400, -32021},
		"declared":         {`{"requiredCapabilities":{"sampling":{}}}`, 200, -32603},
		"none":             {`{"requiredCapabilities":{}}`, 200, -32603},
		"one nobody knows": {`{"requiredCapabilities":{"telepathy":{}}}`, 200, -32603},
		"no object":        {`{"requiredCapabilities":["roots"]}`, 200, -32603},
		"nothing":          {`"no"`, 200, -32603},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
				return gatetest.Frames(gate.Frame{Kind: gate.FrameError, Body: value(`{"code":-32021,"message":"no","data":` + c.data + `}`)}), nil
			}
			rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}}}}}`,
				"Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "bank___send"))
			e := body(t, rec).Get("error")
			if code, _ := e.Get("code").Int(); rec.Code != c.status || code != c.code || string(e.Get("data").Bytes()) != c.data {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
}
