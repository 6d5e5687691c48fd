package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// post is a request of the current revision with any body.
func post(body string, headers ...string) *http.Request {
	return raw("/mcp", body, append([]string{"Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "bank___send"}, headers...)...)
}

func callBody(id, more string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"bank___send",` + modernMeta + more + `}}`
}

// TestMalformed holds what never becomes an action. INV-3: nothing was sent,
// and one entry records it.
func TestMalformed(t *testing.T) {
	deep := strings.Repeat(`[`, 70) + strings.Repeat(`]`, 70)
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		code   int
		data   string
	}{
		{"A01 duplicate method", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{}}`), 400, -32600, "duplicate_key"},
		{"A02 duplicate by escape", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","\u006dethod":"tools/call"}`), 400, -32600, "duplicate_key"},
		{"A03 duplicate argument", post(callBody("1", `,"arguments":{"to":"safe","to":"evil"}`)), 400, -32600, "duplicate_key"},
		{"A04 case-folded key", post(`{"jsonrpc":"2.0","id":1,"METHOD":"tools/call"}`), 400, -32600, ""},
		{"A04 long s", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{},"paramſ":{}}`), 400, -32600, ""},
		{"A05 second document", post(callBody("1", "") + callBody("2", "")), 400, -32700, "trailing_data"},
		{"A05 junk behind", post(callBody("1", "") + " junk"), 400, -32700, "trailing_data"},
		{"A06 bad byte", post(callBody("1", ",\"arguments\":{\"to\":\"\xff\"}")), 400, -32700, "utf8"},
		{"A07 lone surrogate", post(callBody("1", `,"arguments":{"to":"\ud800"}`)), 400, -32700, "surrogate"},
		{"A08 NaN", post(callBody("1", `,"arguments":{"n":NaN}`)), 400, -32700, "syntax"},
		{"A11 depth", post(callBody("1", `,"arguments":{"n":`+deep+`}`)), 400, -32600, "depth"},
		{"A13 batch of nothing", post(`[]`), 400, -32600, "batch"},
		{"A13 batch of two", post(`[` + callBody("1", "") + `,` + callBody("2", "") + `]`), 400, -32600, "batch"},
		{"A14 null id", post(callBody("null", "")), 400, -32600, "id"},
		{"A14 fractional id", post(callBody("1.5", "")), 400, -32600, "id"},
		{"A14 id 1.0", post(callBody("1.0", "")), 400, -32600, "id"},
		{"A14 object id", post(callBody("{}", "")), 400, -32600, "id"},
		{"A14 unsafe id", post(callBody("9007199254740993", "")), 400, -32600, "id"},
		{"A14 long id", post(callBody(`"`+strings.Repeat("x", 1<<20)+`"`, "")), 400, -32600, "id"},
		{"A15 response", post(`{"jsonrpc":"2.0","id":1,"result":{}}`), 400, -32600, "response"},
		{"A15 error", post(`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`), 400, -32600, "response"},
		{"A16 case", post(`{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{`+modernMeta+`}}`, "Mcp-Method", "Tools/Call"), 404, -32601, "method_not_found"},
		{"A16 space", post(`{"jsonrpc":"2.0","id":1,"method":"tools/call ","params":{` + modernMeta + `}}`), 404, -32601, "method_not_found"},
		{"A16 look-alike", post(`{"jsonrpc":"2.0","id":1,"method":"tооls/call","params":{` + modernMeta + `}}`), 404, -32601, "method_not_found"},
		{"A16 slashes", post(`{"jsonrpc":"2.0","id":1,"method":"tools//call","params":{` + modernMeta + `}}`), 404, -32601, "method_not_found"},
		{"A16 tasks", post(`{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t",`+modernMeta+`}}`, "Mcp-Method", "tasks/get", "Mcp-Name", "t"), 404, -32601, "method_not_found"},
		{"A16 handshake in a revision without", post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{` + modernMeta + `}}`), 404, -32601, "method_not_found"},
		{"A19 text/plain", post(callBody("1", ""), "Content-Type", "text/plain"), 415, -32600, "content_type"},
		{"A19 none", post(callBody("1", ""), "Content-Type", ""), 415, -32600, "content_type"},
		{"A19 two", post(callBody("1", ""), "Content-Type", "application/json|text/plain"), 400, -32600, "repeated_header"},
		{"A19 encoded", post(callBody("1", ""), "Content-Encoding", "gzip"), 415, -32600, "content_encoding"},
		{"call without id", post(`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"bank___send",` + modernMeta + `}}`), 400, -32600, "id_missing"},
		{"id on a notification", post(`{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled","params":{`+modernMeta+`}}`, "Mcp-Method", "notifications/cancelled"), 400, -32600, "id_unexpected"},
		{"arguments no object", post(callBody("1", `,"arguments":[1]`)), 400, -32602, "params"},
		{"empty body", post(""), 400, -32700, "empty"},

		{"B01 method header lies", post(callBody("1", ""), "Mcp-Method", "tools/list"), 400, -32020, "header_mismatch"},
		{"B01 name header lies", post(callBody("1", ""), "Mcp-Name", "bank___safe"), 400, -32020, "header_mismatch"},
		{"B01 method header missing", post(callBody("1", ""), "Mcp-Method", ""), 400, -32020, "header_mismatch"},
		{"B01 name header missing", post(callBody("1", ""), "Mcp-Name", ""), 400, -32020, "header_mismatch"},
		{"B02 two methods", post(callBody("1", ""), "Mcp-Method", "tools/call|tools/call"), 400, -32020, "header_mismatch"},
		{"B02 two names", post(callBody("1", ""), "Mcp-Name", "bank___send|bank___send"), 400, -32020, "header_mismatch"},
		{"B03 sentinel case", post(callBody("1", ""), "Mcp-Name", "=?BASE64?YmFua19fX3NlbmQ=?="), 400, -32020, "header_mismatch"},
		{"B03 bad base64", post(callBody("1", ""), "Mcp-Name", "=?base64?!!!?="), 400, -32020, "header_mismatch"},
		{"B03 stray bits", post(callBody("1", ""), "Mcp-Name", "=?base64?YmFua19fX3NlbmR=?="), 400, -32020, "header_mismatch"},
		{"B03 other value", post(callBody("1", ""), "Mcp-Name", "=?base64?c2FmZQ==?="), 400, -32020, "header_mismatch"},
		{"B05 header and meta differ", post(callBody("1", ""), "Mcp-Protocol-Version", "2025-11-25"), 400, -32020, "header_mismatch"},
		{"B05 header missing", post(callBody("1", ""), "Mcp-Protocol-Version", ""), 400, -32020, "header_mismatch"},
		{"B05 meta missing", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`), 400, -32602, "meta"},
		{"B05 capabilities missing", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`), 400, -32602, "meta"},
		{"B05 old revision without its session", post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Protocol-Version", "2025-03-26"), 400, -32600, "session_required"},
		{"B05 no revision at all", post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Protocol-Version", ""), 400, -32600, "session_required"},
		{"B05 unknown revision", post(strings.ReplaceAll(callBody("1", ""), "2026-07-28", "1900-01-01"), "Mcp-Protocol-Version", "1900-01-01"), 400, -32022, "unsupported_version"},
		{"B05 unknown revision in the header alone", post(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Mcp-Protocol-Version", "2027-01-01"), 400, -32022, "unsupported_version"},

		{"D07 two Authorization", post(callBody("1", ""), "Authorization", "Bearer alice|Bearer bob"), 400, -32600, ""},
		{"D07 joined Authorization", post(callBody("1", ""), "Authorization", "Bearer alice, Bearer bob"), 400, -32600, ""},
		{"D13 query", at0("/mcp?a=1;b=2"), 400, -32600, "query"},
		{"D13 token in the query", at0("/mcp?access_token=alice"), 400, -32600, "query"},
		{"D10 absolute target", absolute(), 400, -32600, "absolute_target"},
		{"D06 underscore", post(callBody("1", ""), "X_Agent_Id", "bob"), 400, -32600, "header_name"},
		{"D08 h2c", post(callBody("1", ""), "Upgrade", "h2c", "Http2-Settings", "AAA"), 400, -32600, "upgrade"},
		{"D08 websocket", post(callBody("1", ""), "Upgrade", "websocket"), 400, -32600, "upgrade"},
		{"D09 CONNECT", method0("CONNECT", "/mcp"), 405, -32600, "method_not_allowed"},
		{"D09 PUT", method0("PUT", "/mcp"), 405, -32600, "method_not_allowed"},
		{"D11 query in host", hosted("gate.test:8700?x"), 400, -32600, "host_syntax"},
		{"D11 user in host", hosted("a@gate.test:8700"), 400, -32600, "host_syntax"},
		{"D11 list", hosted("gate.test:8700, evil"), 400, -32600, "host_syntax"},
		{"D11 dot", hosted("gate.test.:8700"), 400, -32600, "host_syntax"},
		{"D11 two ports", hosted("gate.test:1:8700"), 400, -32600, "host_syntax"},
		{"D11 no port value", hosted("gate.test:"), 400, -32600, "host_syntax"},
		{"D12 double slash", at0("//mcp"), 404, -32600, "no_such_path"},
		{"D12 dots", at0("/mcp/%2e%2e/mcp"), 404, -32600, "no_such_path"},
		{"D12 plain dots", at0("/mcp/.."), 404, -32600, "no_such_path"},
		{"D12 slash", at0("/mcp/"), 404, -32600, "no_such_path"},
		{"D12 parameter", at0("/mcp;x"), 404, -32600, "no_such_path"},
		{"D12 escaped", at0("/mc%70"), 404, -32600, "no_such_path"},
		{"D12 case", at0("/MCP"), 404, -32600, "no_such_path"},
		{"D17 foreign host", hosted("evil.example"), 403, -32600, "host"},
		{"D17 other port", hosted("gate.test:1"), 403, -32600, "host"},
		{"D17 foreign origin", post(callBody("1", ""), "Origin", "https://evil.example"), 403, -32600, "origin"},
		{"D17 null origin", post(callBody("1", ""), "Origin", "null"), 403, -32600, "origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.do(c.r)
			e := body(t, rec).Get("error")
			if code, _ := e.Get("code").Int(); rec.Code != c.status || int(code) != c.code || c.data != "" && !e.Get("data").Get("code").Is(c.data) {
				t.Errorf("got %d %s, want %d %d %s", rec.Code, rec.Body, c.status, c.code, c.data)
			}
			if w.forwarded() != 0 {
				t.Error("INV-3: something was forwarded")
			}
			if strings.HasPrefix(c.name, "D07") {
				// Two credentials prove nothing: the caller is nobody, and is counted.
				if len(w.counted) != 1 || len(w.entries) != 0 {
					t.Errorf("counted %q", w.counted)
				}
				return
			}
			if len(w.entries) != 1 || w.entries[0].Kind != ostiary.KindOutcome || w.entries[0].Disposition != ostiary.Refused {
				t.Errorf("INV-3: not recorded as one refusal: %+v", w.entries)
			}
			if !e.Get("data").Get("entry").Is("2026-11/7") {
				t.Errorf("the refusal does not name its entry: %s", rec.Body)
			}
		})
	}
}

func at0(path string) *http.Request {
	r := post(callBody("1", ""))
	u := httptest.NewRequest("POST", path, nil).URL
	if strings.HasPrefix(path, "//") {
		u.Host, u.Path = "", path
	}
	r.URL, r.RequestURI = u, path
	return r
}

func absolute() *http.Request {
	r := post(callBody("1", ""))
	r.URL.Scheme, r.URL.Host, r.RequestURI = "http", "internal", "http://internal/mcp"
	return r
}

func method0(method, path string) *http.Request {
	r := post(callBody("1", ""))
	r.Method, r.URL.Path, r.RequestURI = method, path, path
	return r
}

func hosted(host string) *http.Request {
	r := post(callBody("1", ""))
	r.Host = host
	return r
}

func TestMalformedOutsideHTTP(t *testing.T) {
	t.Run("D04 body cut", func(t *testing.T) {
		w := newWorld(t)
		r := post("")
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(callBody("1", "")), cut{}))
		rec := w.do(r)
		if rec.Code != 400 || !body(t, rec).Get("error").Get("data").Get("code").Is("body_cut") || w.forwarded() != 0 || rec.Header().Get("Connection") != "close" {
			t.Error(rec.Code, rec.Body)
		}
	})
	t.Run("body too large", func(t *testing.T) {
		w := newWorld(t)
		r := post("")
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(spaces{}, maxBody+1)), -1
		if rec := w.do(r); rec.Code != 413 || w.forwarded() != 0 {
			t.Error(rec.Code, rec.Body)
		}
	})
	t.Run("D07 an unauthenticated caller learns the fault of HTTP and is counted", func(t *testing.T) {
		w := newWorld(t)
		r := hosted("evil.example")
		r.Header.Del("Authorization")
		if rec := w.do(r); rec.Code != 403 || len(w.counted) != 1 || len(w.entries) != 0 {
			t.Error(rec.Code, w.counted, w.entries)
		}
	})
}

type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestIDsAreEchoedAsTheyCame(t *testing.T) {
	for _, id := range []string{`0`, `-7`, `9007199254740991`, `"x"`, `"\u0041\/"`, `""`} {
		t.Run("A14 "+id, func(t *testing.T) {
			w := newWorld(t)
			if rec := w.do(post(callBody(id, ""))); !strings.Contains(rec.Body.String(), `"id":`+id+`,`) {
				t.Errorf("%s", rec.Body)
			}
			w.decide = func(*ostiary.Request) ostiary.Decision { return ostiary.Decision{} }
			if rec := w.do(post(callBody(id, ""))); !strings.Contains(rec.Body.String(), `"id":`+id+`,`) {
				t.Errorf("%s", rec.Body)
			}
		})
	}
}

// TestRepliesReachTheirCaller is A17 and INV-6 on our side: many clients, one
// id, and every reply its own.
func TestRepliesReachTheirCaller(t *testing.T) {
	w := newWorld(t)
	w.forward = func(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
		return result(`{"content":[],"structuredContent":` + string(q.Action.Arguments.Bytes()) + `}`), nil
	}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			for id := range 5 {
				want := fmt.Sprintf(`{"to":"%d-%d"}`, i, id)
				rec := w.do(post(callBody(fmt.Sprint(id), `,"arguments":`+want)))
				if !strings.Contains(rec.Body.String(), want) || !strings.Contains(rec.Body.String(), fmt.Sprintf(`"id":%d,`, id)) {
					t.Errorf("A17 a reply went astray: %s", rec.Body)
				}
			}
		})
	}
	all.Wait()
}

func TestParamHeaders(t *testing.T) {
	for _, c := range []struct {
		name, args string
		headers    []string
		ok         bool
	}{
		{"all mirrored", `{"region":"eu","cents":42,"deep":{"dry":true}}`, []string{"Mcp-Param-Region", "eu", "Mcp-Param-Cents", "42", "Mcp-Param-Dry", "true"}, true},
		{"encoded", `{"region":" é"}`, []string{"Mcp-Param-Region", "=?base64?IMOp?="}, true},
		{"nothing to mirror", `{}`, nil, true},
		{"null is not mirrored", `{"region":null}`, nil, true},
		{"case of the name", `{"region":"eu"}`, []string{"mcp-param-REGION", "eu"}, true},
		{"integers compare as numbers", `{"cents":42}`, []string{"Mcp-Param-Cents", "42.0"}, true},
		{"unknown header", `{}`, []string{"Mcp-Param-Other", "x"}, true},
		{"header without argument", `{}`, []string{"Mcp-Param-Region", "eu"}, false},
		{"header with null", `{"region":null}`, []string{"Mcp-Param-Region", "eu"}, false},
		{"argument without header", `{"region":"eu"}`, nil, false},
		{"another value", `{"region":"eu"}`, []string{"Mcp-Param-Region", "us"}, false},
		{"two headers", `{"region":"eu"}`, []string{"Mcp-Param-Region", "eu|eu"}, false},
		{"beyond 2^53", `{"cents":9007199254740993}`, []string{"Mcp-Param-Cents", "9007199254740992"}, false},
		{"no number", `{"cents":42}`, []string{"Mcp-Param-Cents", "0x2a"}, false},
		{"not encoded", `{"region":"é"}`, []string{"Mcp-Param-Region", "é"}, false},
		{"bool in words", `{"deep":{"dry":true}}`, []string{"Mcp-Param-Dry", "True"}, false},
	} {
		t.Run("B04 "+c.name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.do(request("/mcp", "tools/call", `"name":"bank___transfer","arguments":`+c.args, c.headers...))
			if ok := rec.Code == 200 && w.forwarded() == 1; ok != c.ok {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	t.Run("B04 an older revision relaxes nothing that is sent", func(t *testing.T) {
		w := newWorld(t)
		id := w.opened("alice", "2025-06-18", "{}")
		lie := raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___transfer","arguments":{"region":"eu"}}}`, "Mcp-Session-Id", id, "Mcp-Param-Region", "us")
		if rec := w.do(lie); rec.Code != 400 || w.forwarded() != 0 {
			t.Error(rec.Code, rec.Body)
		}
		lie = raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Session-Id", id, "Mcp-Method", "tools/list")
		if rec := w.do(lie); rec.Code != 400 || w.forwarded() != 0 {
			t.Error(rec.Code, rec.Body)
		}
	})
}

func TestLegacySessionsAreTheirOwners(t *testing.T) {
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send"}}`
	w := newWorld(t)
	id := w.opened("alice", "2025-11-25", "{}")
	for _, c := range []struct {
		name string
		r    *http.Request
	}{
		{"B06 another agent calls", raw("/mcp", list, "Mcp-Session-Id", id, "Authorization", "Bearer bob")},
		{"B06 another agent listens", method0b("GET", id, "bob")},
		{"B06 another agent resumes", method0b("GET", id, "bob", "Last-Event-Id", "1")},
		{"B06 another agent ends it", method0b("DELETE", id, "bob")},
		{"B06 another agent answers", raw("/mcp", `{"jsonrpc":"2.0","id":"x","result":{}}`, "Mcp-Session-Id", id, "Authorization", "Bearer bob")},
		{"B06 on another endpoint", raw("/mcp/bank", list, "Mcp-Session-Id", id)},
		{"B06 made up", raw("/mcp", list, "Mcp-Session-Id", "1234")},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := len(w.entries)
			if rec := w.do(c.r); rec.Code != 404 && rec.Code != 200 || !bytes.Contains(rec.Body.Bytes(), []byte("session_not_found")) {
				t.Error(rec.Code, rec.Body)
			}
			if w.forwarded() != 0 || len(w.entries) != n+1 {
				t.Error("INV-3", w.entries)
			}
		})
	}
	if rec := w.do(raw("/mcp", list, "Mcp-Session-Id", id)); rec.Code != 200 || w.forwarded() != 1 {
		t.Error("the owner lost it", rec.Code, rec.Body)
	}
	if rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":"x","result":{}}`, "Mcp-Session-Id", id)); rec.Code != 400 {
		t.Error("A15 an answer to nothing", rec.Code, rec.Body)
	}
	if rec := w.do(method0b("DELETE", id, "alice")); rec.Code != 200 && rec.Code != 202 && rec.Code != 204 {
		t.Error(rec.Code, rec.Body)
	}
	if rec := w.do(raw("/mcp", list, "Mcp-Session-Id", id)); rec.Code != 404 {
		t.Error("an ended session answers", rec.Code, rec.Body)
	}
}

func method0b(method, session, agent string, headers ...string) *http.Request {
	r := raw("/mcp", "", "Mcp-Session-Id", session, "Authorization", "Bearer "+agent)
	r.Method = method
	set(r, headers)
	return r
}

// TestServerAsksTheClient is B07: what no server may ask is refused and
// recorded, in both eras.
func TestServerAsksTheClient(t *testing.T) {
	all := `{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{}}`
	form := func(name string) string {
		return `{"message":"Please","requestedSchema":{"type":"object","properties":{` + string(must(json.Marshal(name))) + `:{"type":"string"}}}}`
	}
	for _, c := range []struct {
		name, caps, method, params string
		ok                         bool
	}{
		{"a form", all, "elicitation/create", form("colour"), true},
		{"a password", all, "elicitation/create", form("password"), false},
		{"a key in camel case", all, "elicitation/create", form("yourApiKey"), false},
		{"a card", all, "elicitation/create", form("card_number"), false},
		{"a token in the message", all, "elicitation/create", `{"message":"Paste your access token","requestedSchema":{"type":"object","properties":{"x":{"type":"string"}}}}`, false},
		{"a url of its own origin", all, "elicitation/create", `{"mode":"url","message":"m","elicitationId":"1","url":"https://login.bank.example/x"}`, true},
		{"a url of another origin", all, "elicitation/create", `{"mode":"url","message":"m","elicitationId":"1","url":"https://evil.example/x"}`, false},
		{"a url without tls", all, "elicitation/create", `{"mode":"url","message":"m","elicitationId":"1","url":"http://login.bank.example/x"}`, false},
		{"a url with a user", all, "elicitation/create", `{"mode":"url","message":"m","elicitationId":"1","url":"https://login.bank.example@evil.example/x"}`, false},
		{"an unknown mode", all, "elicitation/create", `{"mode":"voice","message":"m"}`, false},
		{"sampling", all, "sampling/createMessage", `{"messages":[],"maxTokens":1}`, true},
		{"sampling undeclared", `{}`, "sampling/createMessage", `{"messages":[],"maxTokens":1}`, false},
		{"sampling with tools undeclared", all, "sampling/createMessage", `{"messages":[],"maxTokens":1,"tools":[]}`, false},
		{"elicitation undeclared", `{"sampling":{}}`, "elicitation/create", form("colour"), false},
		{"url undeclared", `{"elicitation":{}}`, "elicitation/create", `{"mode":"url","message":"m","elicitationId":"1","url":"https://login.bank.example/x"}`, false},
		{"roots", all, "roots/list", `{}`, true},
		{"roots undeclared", `{}`, "roots/list", `{}`, false},
		{"something else", all, "tools/call", `{"name":"x"}`, false},
	} {
		t.Run("B07 2026 "+c.name, func(t *testing.T) {
			w := newWorld(t)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
				return result(`{"resultType":"input_required","inputRequests":{"q":{"method":"` + c.method + `","params":` + c.params + `}}}`), nil
			}
			rec := w.do(post(strings.ReplaceAll(callBody("1", ""), `clientCapabilities":{}`, `clientCapabilities":`+c.caps)))
			res := body(t, rec).Get("result")
			if ok := res.Get("resultType").Is("input_required") && res.Get("requestState").Kind() == ostiary.String; ok != c.ok {
				t.Errorf("%s", rec.Body)
			}
			if strings.Contains(c.name, "undeclared") {
				e := body(t, rec).Get("error")
				if code, _ := e.Get("code").Int(); code != -32021 || rec.Code != 400 || e.Get("data").Get("requiredCapabilities").Len() != 1 {
					t.Errorf("%d %s", rec.Code, rec.Body)
				}
			}
			checkNested(t, w, c.ok)
		})
		t.Run("B07 2025 "+c.name, func(t *testing.T) {
			w := newWorld(t)
			answered := make(chan string, 1)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
				return &asking{method: c.method, params: value(c.params), answered: answered}, nil
			}
			id := w.opened("alice", "2025-11-25", c.caps)
			rec := &watched{ResponseRecorder: httptest.NewRecorder(), wrote: make(chan string, 8)}
			done := make(chan bool)
			go func() {
				w.door.ServeHTTP(rec, raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Session-Id", id))
				close(done)
			}()
			if c.ok {
				asked := value(events(<-rec.wrote)[0])
				if !asked.Get("method").Is(c.method) || string(asked.Get("params").Bytes()) != c.params {
					t.Errorf("the client was asked %s", asked.Bytes())
				}
				answer := `{"jsonrpc":"2.0","id":` + string(asked.Get("id").Bytes()) + `,"result":{"a":1}}`
				if r := w.do(raw("/mcp", answer, "Mcp-Session-Id", id)); r.Code != 202 {
					t.Error(r.Code, r.Body)
				}
				if r := w.do(raw("/mcp", answer, "Mcp-Session-Id", id)); r.Code != 400 {
					t.Error("answered twice", r.Code, r.Body)
				}
			}
			<-done
			if a := <-answered; strings.HasPrefix(a, `result {"a":1}`) != c.ok {
				t.Errorf("the server was answered %q", a)
			}
			n := len(w.entries)
			if c.ok {
				w.entries = w.entries[:n-1] // the second answer
			}
			checkNested(t, w, c.ok)
		})
	}
	t.Run("B07 a legacy server asks a client of 2026", func(t *testing.T) {
		w := newWorld(t)
		answered := make(chan string, 1)
		w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
			return &asking{params: value(`{"messages":[],"maxTokens":1}`), answered: answered}, nil
		}
		rec := w.do(post(strings.ReplaceAll(callBody("1", ""), `clientCapabilities":{}`, `clientCapabilities":`+all)))
		if a := <-answered; !strings.HasPrefix(a, `error {"code":-32601`) {
			t.Errorf("the server was answered %q", a)
		}
		if bytes.Contains(rec.Body.Bytes(), []byte("createMessage")) {
			t.Errorf("the client was asked: %s", rec.Body)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// watched tells of every event as it is written.
type watched struct {
	*httptest.ResponseRecorder
	wrote chan string
}

func (w *watched) Write(b []byte) (int, error) {
	w.wrote <- string(b)
	return w.ResponseRecorder.Write(b)
}

// checkNested checks that the question is in the record, inside its call.
func checkNested(t *testing.T, w *world, ok bool) {
	t.Helper()
	var intent ostiary.EntryID
	for _, e := range w.entries {
		if e.Kind == ostiary.KindIntent && e.Action == "bank___send" {
			intent = e.ID
		}
	}
	n := 0
	for _, e := range w.entries {
		if e.Kind == ostiary.KindOutcome && e.Parent == intent {
			n++
			if reasons := []string{"capability", "elicitation_secret", "elicitation_origin", "elicitation_url", "asks_unknown"}; !ok && !slices.Contains(reasons, e.Code) {
				t.Errorf("refused with %q, want one of %q", e.Code, reasons)
			}
			if want := map[bool]ostiary.Disposition{true: ostiary.Delivered, false: ostiary.Refused}[ok]; e.Disposition != want {
				t.Errorf("recorded as %s, want %s", e.Disposition, want)
			}
		}
	}
	if n != 1 || intent.IsZero() {
		t.Errorf("%d questions recorded, want 1", n)
	}
}

// flipped is a state with another first letter.
func flipped(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

func TestRequestState(t *testing.T) {
	w := newWorld(t)
	ask := func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		return result(`{"resultType":"input_required","requestState":"th\u0065irs","inputRequests":{}}`), nil
	}
	finish := w.forward
	state := func() string {
		w.forward = ask
		s := body(t, w.do(post(callBody("1", `,"arguments":{"to":"x"}`)))).Get("result").Get("requestState").Text()
		if s == "" || strings.Contains(s, "theirs") {
			t.Fatalf("state %q", s)
		}
		w.forward, w.sent = finish, nil
		return s
	}
	retry := func(s, args string) *http.Request {
		return post(callBody("2", `,"arguments":`+args+`,"inputResponses":{"q":{"action":"accept"}},"requestState":"`+s+`"`))
	}
	s := state()
	if rec := w.do(retry(s, `{"to":"x"}`)); rec.Code != 200 || len(w.sent) != 1 || string(w.sent[0].State) != "theirs" || string(w.sent[0].Responses.Bytes()) != `{"q":{"action":"accept"}}` {
		t.Fatal(rec.Code, rec.Body, w.sent)
	}
	if rec := w.do(retry(s, `{"to":"x"}`)); len(w.sent) != 1 || !bytes.Contains(rec.Body.Bytes(), []byte("state_spent")) {
		t.Error("used twice", rec.Body)
	}
	for name, r := range map[string]*http.Request{
		"other arguments": retry(state(), `{"to":"y"}`),
		"other spelling":  retry(state(), `{ "to":"x"}`),
		"made up":         retry("AAAA", `{"to":"x"}`),
		"flipped":         retry(flipped(state()), `{"to":"x"}`),
		"no state":        post(callBody("2", `,"inputResponses":{}`)),
		"no string":       post(callBody("2", `,"requestState":5`)),
	} {
		if rec := w.do(r); rec.Code != 400 || len(w.sent) != 0 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	r := retry(state(), `{"to":"x"}`)
	r.Header.Set("Authorization", "Bearer bob")
	if rec := w.do(r); rec.Code != 400 || len(w.sent) != 0 {
		t.Error("somebody else's", rec.Body)
	}
	s = state()
	now := w.now()
	w.now = func() time.Time { return now.Add(stateLife) }
	if rec := w.do(retry(s, `{"to":"x"}`)); rec.Code != 400 || len(w.sent) != 0 {
		t.Error("expired", rec.Body)
	}
}

// TestEveryPrimitivePassesTheGate is B09 and B10: each method is one call of
// the gate, and a denial stops it.
func TestEveryPrimitivePassesTheGate(t *testing.T) {
	params := map[string]string{
		"tools/call": `"name":"bank___send"`, "prompts/get": `"name":"docs___sum"`, "resources/read": `"uri":"file:///a"`,
		"completion/complete":   `"ref":{"type":"ref/prompt","name":"docs___sum"},"argument":{"name":"style","value":"x"}`,
		"subscriptions/listen":  `"notifications":{"toolsListChanged":true}`,
		"initialize":            `"protocolVersion":"2025-11-25","capabilities":{}`,
		"logging/setLevel":      `"level":"error"`,
		"resources/subscribe":   `"uri":"file:///a"`,
		"resources/unsubscribe": `"uri":"file:///a"`,
		"tasks/get":             `"taskId":"t"`, "tasks/update": `"taskId":"t"`, "tasks/cancel": `"taskId":"t"`,
	}
	for name, m := range methods() {
		for _, e := range []era{modernOnly, legacyOnly} {
			if m.eras&e == 0 {
				continue
			}
			w := newWorld(t)
			session := w.opened("alice", "2025-11-25", "{}")
			build := func() *http.Request {
				if e == modernOnly {
					r := request("/mcp", name, params[name])
					if m.note {
						r = raw("/mcp", `{"jsonrpc":"2.0","method":"`+name+`","params":{`+modernMeta+`}}`, "Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", name)
					}
					return r
				}
				id := `"id":1,`
				if m.note {
					id = ""
				}
				r := raw("/mcp", `{"jsonrpc":"2.0",`+id+`"method":"`+name+`","params":{`+params[name]+`}}`, "Mcp-Session-Id", session)
				if name == "initialize" {
					r.Header.Del("Mcp-Session-Id")
				}
				return r
			}
			t.Run(fmt.Sprintf("B09 B10 M12 %s era %d", name, e), func(t *testing.T) {
				w.decide = func(*ostiary.Request) ostiary.Decision {
					return ostiary.Decision{Code: "forbid", Reasons: []ostiary.Reason{{Policy: "none"}}}
				}
				w.calls, w.entries = nil, nil
				rec := w.do(build())
				if len(w.calls) != 1 || len(w.entries) != 1 || w.entries[0].Disposition != ostiary.Refused || w.forwarded() != 0 {
					t.Fatalf("calls %d, entries %+v", len(w.calls), w.entries)
				}
				if !bytes.Contains(rec.Body.Bytes(), []byte("2026-11/7")) {
					t.Errorf("a denial without its entry: %s", rec.Body)
				}
				if strings.Contains(rec.Body.String(), `"result":{`) && !strings.Contains(rec.Body.String(), `"isError":true`) {
					t.Errorf("a denial with a result: %s", rec.Body)
				}
				r := build()
				r.Header.Del("Authorization")
				if rec := w.do(r); rec.Code != 401 || rec.Header().Get("WWW-Authenticate") != "Bearer" || bytes.Contains(rec.Body.Bytes(), []byte("secret")) {
					t.Errorf("B10 without credentials: %d %s", rec.Code, rec.Body)
				}
			})
		}
	}
}

// TestRoutes walks the table (B10): whatever route there is refuses a caller
// without credentials and one of another trust domain.
func TestRoutes(t *testing.T) {
	if len(routes()) == 0 {
		t.Fatal("found no route")
	}
	for _, rt := range routes() {
		path := "/mcp"
		if rt.perServer {
			path = "/mcp/bank"
		}
		for _, token := range []string{"", "Bearer foreign"} {
			t.Run("B10 "+rt.method+" "+path+" "+token, func(t *testing.T) {
				w := newWorld(t)
				r := request(path, "tools/list", "", "Authorization", token, "Mcp-Session-Id", "x")
				if r.Method = rt.method; rt.body == 0 {
					r.Body, r.ContentLength = http.NoBody, 0
					r.Header.Del("Mcp-Protocol-Version")
				}
				rec := w.do(r)
				if rec.Code != 401 || len(w.entries) != 0 || w.forwarded() != 0 || len(w.counted) != 1 {
					t.Errorf("%d %s %v", rec.Code, rec.Body, w.counted)
				}
			})
		}
		t.Run("B10 "+rt.method+" "+path+" unknown server", func(t *testing.T) {
			w := newWorld(t)
			if rec := w.do(request("/mcp/nobody", "tools/list", "")); !bytes.Contains(rec.Body.Bytes(), []byte("unknown_server")) {
				t.Error(rec.Body)
			}
		})
	}
	w := newWorld(t)
	for _, method := range []string{"GET", "DELETE"} {
		r := raw("/mcp", "", "Mcp-Protocol-Version", "2026-07-28")
		if r.Method = method; w.do(r).Code != 405 {
			t.Errorf("%s in 2026-07-28 is not refused", method)
		}
	}
	for _, path := range []string{"/", "/.well-known/oauth-protected-resource", "/v1/anything", "/debug/pprof/"} {
		r := raw(path, "")
		if r.Method = "GET"; w.do(r).Code != 404 {
			t.Errorf("%s is served", path)
		}
	}
}

func TestEmptyOptionsAllowNothing(t *testing.T) {
	t.Run("B11 no servers", func(t *testing.T) {
		w := newWorld(t)
		w.door.settings.Store(&settings{})
		if rec := w.do(request("/mcp", "tools/list", "")); bytes.Contains(rec.Body.Bytes(), []byte("send")) {
			t.Error(rec.Body)
		}
		if rec := w.do(request("/mcp", "tools/call", `"name":"bank___send"`)); w.forwarded() != 0 {
			t.Error(rec.Body)
		}
	})
	t.Run("B11 visibility shorter than the list hides", func(t *testing.T) {
		w := newWorld(t)
		w.door.visible = blind{}
		if rec := w.do(request("/mcp", "tools/list", "")); bytes.Contains(rec.Body.Bytes(), []byte("send")) {
			t.Error(rec.Body)
		}
	})
	t.Run("B11 no options", func(t *testing.T) {
		if _, err := New(Options{}); err == nil {
			t.Error("a door without a gate")
		}
	})
}

type blind struct{}

func (blind) Visible(*ostiary.Request, []*ostiary.Tool) []bool { return nil }

// TestForeignHeadersChangeNothing is B12, D05 and D06: no header but the
// compared ones reaches the call.
func TestForeignHeadersChangeNothing(t *testing.T) {
	w := newWorld(t)
	w.do(post(callBody("1", "")))
	w.do(post(callBody("1", ""),
		"X-Agent-Id", "bob", "Forwarded", "for=1.2.3.4", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil", "X-Real-Ip", "1.2.3.4", "X-Envoy-Peer", "x",
		"Connection", "X-Agent-Id", "Mcp-Init-Host", "evil", "Router-Key", "k", "X-Mcp-Authorized", "yes", "X-Ostiary-Agent", "bob", "Idempotency-Key", "k", "Cookie", "a=b", "Mcp-Session-Id", "x", "Last-Event-Id", "9"))
	if len(w.calls) != 2 {
		t.Fatal(w.calls)
	}
	a, b := w.calls[0], w.calls[1]
	if a.Action.Digest() != b.Action.Digest() || a.Credentials.Audience != b.Credentials.Audience || a.Credentials.Remote != b.Credentials.Remote || a.Credentials.Loopback != b.Credentials.Loopback || len(w.sent) != 2 {
		t.Errorf("a header changed the call: %+v %+v", a, b)
	}
	if b.Credentials.Audience != "http://gate.test:8700/mcp" || b.Credentials.Peer != nil || b.Credentials.Self != nil || b.Credentials.Held != nil {
		t.Errorf("%+v", b.Credentials)
	}
}

// TestResultsFromServers: what a server says in a result's envelope is ours
// to judge.
func TestResultsFromServers(t *testing.T) {
	for _, c := range []struct{ name, frame, want string }{
		{"legacy result", `{"content":[ {"type":"text" ,"text":"\u0041"}]}`, `"result":{"resultType":"complete","content":[ {"type":"text" ,"text":"\u0041"}]}`},
		{"our prefix forged", `{"content":[],"_meta":{"dev.ostiary/entry":"1","Dev.Ostiary/x":1,"a/b":1}}`, `"_meta":{"a/b":1}}`},
		{"reserved prefix", `{"content":[],"_meta":{"io.modelcontextprotocol/x":1,"com.mcp.y/z":2}}`, `"_meta":{}}`},
		{"a task", `{"resultType":"task","taskId":"t"}`, `"isError":true`},
		{"an unknown type", `{"resultType":"maybe"}`, `"isError":true`},
		{"no object", `[]`, `"isError":true`},
		{"input without a question", `{"resultType":"input_required"}`, `"isError":true`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) { return result(c.frame), nil }
			if rec := w.do(post(callBody("1", ""))); !strings.Contains(rec.Body.String(), c.want) || strings.Contains(rec.Body.String(), `dev.ostiary/entry":"1"`) {
				t.Errorf("got %s", rec.Body)
			}
		})
	}
	for _, c := range []struct {
		name, frame string
		code        int64
	}{
		{"its own", `{"code":-32602,"message":"no","data":{"x":1}}`, -32602},
		{"header mismatch", `{"code":-32020,"message":"no"}`, -32603},
		{"url elicitation of older drafts", `{"code":-32042,"message":"no"}`, -32603},
		{"resource not found of older revisions", `{"code":-32002,"message":"no"}`, -32602},
	} {
		t.Run("error "+c.name, func(t *testing.T) {
			w := newWorld(t)
			w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
				return gatetest.Frames(gate.Frame{Kind: gate.FrameError, Body: value(c.frame)}), nil
			}
			rec := w.do(post(callBody("1", "")))
			if code, _ := body(t, rec).Get("error").Get("code").Int(); code != c.code || rec.Code != 200 {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	t.Run("D15 line ends inside a stream", func(t *testing.T) {
		w := newWorld(t)
		w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
			return gatetest.Frames(
				gate.Frame{Kind: gate.FrameNotification, Method: "notifications/progress", Body: value("{\"progress\":1,\r\n\r\n\"message\":\"\\n\\nevent: x\\ndata: {}\\u2028\"}")},
				gate.Frame{Kind: gate.FrameNotification, Method: "notifications/evil\n\ndata: {}", Body: value(`{}`)},
				gate.Frame{Kind: gate.FrameResult, Body: value("{\"content\":[]\r,\n\n\"x\":1}")},
			), nil
		}
		rec := w.do(post(strings.ReplaceAll(callBody("1", ""), `"_meta":{`, `"_meta":{"progressToken":"t",`)))
		all := events(rec.Body.String())
		if len(all) != 2 || rec.Header().Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%d events: %q", len(all), rec.Body)
		}
		if !value(all[0]).Get("params").Get("progressToken").Is("t") || !value(all[1]).Get("result").Exists() {
			t.Errorf("%q", all)
		}
	})
}

// TestClientLeaves: closing the response cancels the call, and the gate
// settles it.
func TestClientLeaves(t *testing.T) {
	w := newWorld(t)
	waiting := make(chan bool)
	w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) { return &stuck{waiting: waiting}, nil }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-waiting; cancel() }()
	w.do(post(callBody("1", "")).WithContext(ctx))
	last := w.entries[len(w.entries)-1]
	if last.Kind != ostiary.KindOutcome || last.Disposition != ostiary.Unknown {
		t.Errorf("settled as %+v", last)
	}
}

func TestLegacyCancel(t *testing.T) {
	w := newWorld(t)
	waiting := make(chan bool)
	w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) { return &stuck{waiting: waiting}, nil }
	id, other := w.opened("alice", "2025-11-25", "{}"), w.opened("bob", "2025-11-25", "{}")
	cancel := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"r"}}`
	done := make(chan *httptest.ResponseRecorder)
	go func() {
		done <- w.do(raw("/mcp", `{"jsonrpc":"2.0","id":"r","method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Session-Id", id))
	}()
	<-waiting
	if rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":"r","method":"tools/call","params":{"name":"bank___send"}}`, "Mcp-Session-Id", id)); rec.Code != 400 {
		t.Error("an id in use was taken", rec.Code)
	}
	if rec := w.do(raw("/mcp", cancel, "Mcp-Session-Id", other, "Authorization", "Bearer bob")); rec.Code != 202 {
		t.Error(rec.Code, rec.Body)
	}
	select {
	case <-done:
		t.Fatal("somebody else's session cancelled it")
	default:
	}
	if rec := w.do(raw("/mcp", cancel, "Mcp-Session-Id", id)); rec.Code != 202 {
		t.Error(rec.Code, rec.Body)
	}
	if rec := <-done; rec.Code != 202 || rec.Body.Len() != 0 {
		t.Error("a cancelled request was answered", rec.Code, rec.Body)
	}
}

// stuck is a reply that never comes.
type stuck struct {
	waiting chan bool
	once    sync.Once
}

func (s *stuck) Next(ctx context.Context) (gate.Frame, error) {
	s.once.Do(func() { close(s.waiting) })
	<-ctx.Done()
	return gate.Frame{}, ctx.Err()
}
func (s *stuck) Answer(context.Context, string, gate.FrameKind, []byte) error { return nil }
func (s *stuck) Close() error                                                 { return nil }
