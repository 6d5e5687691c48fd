package egress

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/internal/mcpwire"
)

// A modern server is told what this call's own caller can be asked, and which
// log messages it wants.
func TestAskedAndLogs(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	e := newEgress(t, Options{Servers: []Server{local(rec.URL)}, Capabilities: `{"roots":{}}`})
	for _, c := range []struct{ asked, logs, want string }{
		{"", "", `Capabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo"`},
		{`{}`, "", `Capabilities":{},"io.modelcontextprotocol/clientInfo"`},
		{`{"sampling":{}}`, "warning", `Capabilities":{"sampling":{}},"io.modelcontextprotocol/logLevel":"warning","io.modelcontextprotocol/clientInfo"`},
		{"", "debug", `Capabilities":{"roots":{}},"io.modelcontextprotocol/logLevel":"debug",`},
	} {
		call := toolCall(t, "srv", "x", `{}`)
		call.Asked, call.Logs = c.asked, c.logs
		if _, err := result(t, e, call); err != nil {
			t.Fatal(err)
		}
		calls := rec.all("tools/call")
		if got := calls[len(calls)-1].body; !strings.Contains(got, c.want) {
			t.Errorf("%+v: sent %s", c, got)
		}
	}
}

// A legacy server is told a level once, and again only when somebody wants
// more than was wanted before. One that refuses is called all the same.
func TestLogLevelOfASession(t *testing.T) {
	for name, c := range map[string]struct {
		capabilities string
		refuses      bool
		want         int
	}{
		"a server with log messages":    {`{"logging":{}}`, false, 2},
		"one that refuses":              {`{"logging":{}}`, true, 2},
		"a server without log messages": {`{"tools":{}}`, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder(t, func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
				switch {
				case m.Method == mcpwire.MethodInitialize:
					w.Header().Set("Mcp-Session-Id", "s")
					reply(w, m, `{"protocolVersion":"2025-11-25","capabilities":`+c.capabilities+`,"serverInfo":{"name":"x","version":"1"}}`)
				case m.Kind == mcpwire.Notification, r.Header.Get("Mcp-Session-Id") == "":
					w.WriteHeader(http.StatusAccepted)
				case m.Method == mcpwire.MethodSetLevel && c.refuses:
					rpcError(w, http.StatusOK, string(m.ID.Bytes()), mcpwire.CodeInternal)
				default:
					reply(w, m, `{}`)
				}
			})
			e := newEgress(t, Options{Servers: []Server{local(rec.URL)}})
			for _, level := range []string{"", "warning", "error", "warning", "info", "error", "no such level"} {
				call := toolCall(t, "srv", "x", `{}`)
				call.Logs = level
				if _, err := result(t, e, call); err != nil {
					t.Fatal(level, err)
				}
			}
			told := rec.all("logging/setLevel")
			if len(told) != c.want {
				t.Fatalf("told %d times: %+v", len(told), told)
			}
			if c.want > 0 && (!strings.Contains(told[0].body, `"params":{"level":"warning"}`) || !strings.Contains(told[1].body, `"params":{"level":"info"}`)) {
				t.Errorf("told %s and %s", told[0].body, told[1].body)
			}
			if n := len(rec.all("tools/call")); n != 7 {
				t.Errorf("%d calls", n)
			}
		})
	}
}
