package mcp

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// FuzzPost feeds bodies and headers to the door. Whatever comes, there is an
// answer of ours, it is strict, and what is forwarded was in the body.
func FuzzPost(f *testing.F) {
	f.Add([]byte(callBody("1", `,"arguments":{"to":"x"}`)), "2026-07-28", "tools/call", "bank___send", "")
	f.Add([]byte(callBody("1", `,"requestState":"AAAA","inputResponses":{}`)), "2026-07-28", "tools/call", "bank___send", "")
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"ostiary://docs/x",`+modernMeta+`}}`), "2026-07-28", "resources/read", "ostiary://docs/x", "")
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"ostiary://docs/x"},"argument":{},`+modernMeta+`}}`), "2026-07-28", "completion/complete", "", "")
	f.Add([]byte(`{"jsonrpc":"2.0","id":"a","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}}}}`), "", "", "", "")
	f.Add([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`), "2025-11-25", "", "", "x")
	f.Add([]byte(`[{}]`), "2025-03-26", "x", "=?base64?!?=", "x")
	f.Fuzz(func(t *testing.T, b []byte, version, method, name, session string) {
		w := newWorld(t)
		r := raw("/mcp", string(b))
		for h, v := range map[string]string{mcpwire.HeaderProtocolVersion: version, mcpwire.HeaderMethod: method, mcpwire.HeaderName: name, mcpwire.HeaderSessionID: session} {
			if v != "" {
				r.Header.Set(h, v)
			}
		}
		if strings.Contains(string(b), "subscriptions/listen") {
			w.door.Close() // else it would stay
		}
		rec := httptest.NewRecorder()
		w.door.ServeHTTP(rec, r)
		if rec.Code < 200 || rec.Code >= 500 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		if len(w.calls) == 0 {
			t.Fatal("the gate was not asked")
		}
		if rec.Body.Len() > 0 && rec.Header().Get("Content-Type") == "application/json" {
			doc, err := strictjson.Parse(rec.Body.Bytes(), strictjson.Reply)
			if err != nil {
				t.Fatalf("no strict answer: %v\n%s", err, rec.Body)
			}
			if v := doc.Root(); !v.Get("jsonrpc").Is("2.0") || v.Get("result").Exists() == v.Get("error").Exists() {
				t.Fatalf("no answer: %s", rec.Body)
			}
		}
		for _, a := range w.sent {
			if a.Method == "tools/call" && a.Arguments.Kind() != ostiary.Absent && !strings.Contains(string(b), string(a.Arguments.Bytes())) {
				t.Fatalf("law 2: forwarded %s", a.Arguments.Bytes())
			}
		}
	})
}
