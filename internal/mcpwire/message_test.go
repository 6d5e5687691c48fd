package mcpwire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in, id, method string
		kind           Kind
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, `1`, "tools/list", Request},
		{`{"method":"tools/call","params":{"a":[1]},"id":"x-1","jsonrpc":"2.0"}`, `"x-1"`, "tools/call", Request},
		{`{"jsonrpc":"\u0032.0","id":-9007199254740991,"method":"ping","params":{}}`, `-9007199254740991`, "ping", Request},
		{`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, ``, "notifications/cancelled", Notification},
		{`{"jsonrpc":"2.0","id":"","result":{}}`, `""`, "", Result},
		{`{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no","data":[1]}}`, `0`, "", Error},
		{`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}`, ``, "", Error},
		{`{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}`, ``, "", Error},
	}
	for _, tt := range tests {
		m, err := Parse([]byte(tt.in), strictjson.Request)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if m.Kind != tt.kind || string(m.ID.Bytes()) != tt.id || m.Method != tt.method || string(m.Doc.Bytes()) != tt.in {
			t.Errorf("%s: %v, id %s, method %q", tt.in, m.Kind, m.ID.Bytes(), m.Method)
		}
	}
	m, _ := Parse([]byte(tests[1].in), strictjson.Request)
	if string(m.Params.Bytes()) != `{"a":[1]}` {
		t.Errorf("params %s", m.Params.Bytes())
	}
}

func TestThreats(t *testing.T) {
	req := func(members string) string { return `{"jsonrpc":"2.0",` + members + `}` }
	tests := []struct {
		name, in, code, field, id string
	}{
		{"A01 duplicate key", req(`"id":1,"method":"tools/list","method":"tools/call"`), "duplicate_key", "/method", ""},
		{"A04 METHOD instead", req(`"id":1,"METHOD":"tools/call"`), "unknown_member", "/METHOD", "1"},
		{"A04 Params instead", req(`"id":1,"method":"a","Params":{}`), "unknown_member", "/Params", "1"},
		{"A04 paramſ instead", req(`"id":1,"method":"a","paramſ":{}`), "unknown_member", "/paramſ", "1"},
		{"A04 paramſ beside", req(`"id":1,"method":"a","params":{},"paramſ":{}`), "case_folded_key", "/paramſ", ""},
		{"A04 unknown member", req(`"id":1,"method":"a","_meta":{}`), "unknown_member", "/_meta", "1"},
		{"A05 second document", req(`"id":1,"method":"a"`) + `{}`, "trailing_data", "", ""},
		{"A06 invalid UTF-8", req("\"id\":1,\"method\":\"\xff\""), "utf8", "/method", ""},
		{"A07 NUL in the method", req(`"id":1,"method":"tools/call\u0000x"`), "nul", "/method", ""},
		{"A13 empty batch", `[]`, "batch", "", ""},
		{"A13 batch of a number", `[1]`, "batch", "", ""},
		{"A13 batch of two calls", `[` + req(`"id":1,"method":"a"`) + `,` + req(`"id":2,"method":"b"`) + `]`, "batch", "", ""},
		{"A14 id null", req(`"id":null,"method":"a"`), "id", "/id", ""},
		{"A14 id 1.5", req(`"id":1.5,"method":"a"`), "id", "/id", ""},
		{"A14 id 1.0", req(`"id":1.0,"method":"a"`), "id", "/id", ""},
		{"A14 id 1e0", req(`"id":1e0,"method":"a"`), "id", "/id", ""},
		{"A14 id -0", req(`"id":-0,"method":"a"`), "id", "/id", ""},
		{"A14 id {}", req(`"id":{},"method":"a"`), "id", "/id", ""},
		{"A14 id true", req(`"id":true,"method":"a"`), "id", "/id", ""},
		{"A14 id beyond 2^53", req(`"id":9007199254740993,"method":"a"`), "id", "/id", ""},
		{"A14 id below -2^53", req(`"id":-9007199254740992,"method":"a"`), "id", "/id", ""},
		{"A14 id of 1 MiB", req(`"id":"` + strings.Repeat("x", 1<<20) + `","method":"a"`), "id", "/id", ""},
		{"A14 id null on a result", req(`"id":null,"result":{}`), "id", "/id", ""},
		{"A14 no id on a result", req(`"result":{}`), "id", "/id", ""},
		{"A14 id 1.0 on an error", req(`"id":1.0,"error":{"code":1,"message":""}`), "id", "/id", ""},
		{"method beside result", req(`"id":1,"method":"a","result":{}`), "both", "/result", "1"},
		{"method beside error", req(`"id":1,"method":"a","error":{"code":1,"message":""}`), "both", "/error", "1"},
		{"result beside error", req(`"id":1,"result":{},"error":{"code":1,"message":""}`), "both", "/error", "1"},
		{"params beside result", req(`"id":1,"params":{},"result":{}`), "method", "/method", "1"},
		{"params null", req(`"id":1,"method":"a","params":null`), "params", "/params", "1"},
		{"params an array", req(`"id":1,"method":"a","params":[]`), "params", "/params", "1"},
		{"result a string", req(`"id":1,"result":"x"`), "result", "/result", "1"},
		{"result null", req(`"id":1,"result":null`), "result", "/result", "1"},
		{"error a string", req(`"id":1,"error":"x"`), "error", "/error", "1"},
		{"error null", req(`"id":1,"error":null`), "error", "/error", "1"},
		{"error code 1.0", req(`"id":1,"error":{"code":1.0,"message":""}`), "error", "/error", "1"},
		{"error without a message", req(`"id":1,"error":{"code":1}`), "error", "/error", "1"},
		{"method a number", req(`"id":1,"method":1`), "method", "/method", "1"},
		{"method null", req(`"id":1,"method":null`), "method", "/method", "1"},
		{"method empty", req(`"id":1,"method":""`), "method", "/method", "1"},
		{"method endless", req(`"id":1,"method":"` + strings.Repeat("a", 129) + `"`), "method", "/method", "1"},
		{"no jsonrpc", `{"id":1,"method":"a"}`, "version", "/jsonrpc", "1"},
		{"jsonrpc 1.0", `{"jsonrpc":"1.0","id":1,"method":"a"}`, "version", "/jsonrpc", "1"},
		{"jsonrpc a number", `{"jsonrpc":2.0,"id":1,"method":"a"}`, "version", "/jsonrpc", "1"},
		{"only an id", req(`"id":1`), "envelope", "", "1"},
		{"empty object", `{}`, "version", "/jsonrpc", ""},
		{"a string", `"x"`, "envelope", "", ""},
		{"null", `null`, "envelope", "", ""},
		{"nothing", ``, "empty", "", ""},
		{"cut", `{"jsonrpc":"2.0"`, "syntax", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.in), strictjson.Request)
			var e *ostiary.Error
			if !errors.As(err, &e) || e.Kind != ostiary.Malformed {
				t.Fatalf("%+v, %v", m, err)
			}
			if e.Code != tt.code || e.Field != tt.field {
				t.Errorf("code %q at %q, want %q at %q", e.Code, e.Field, tt.code, tt.field)
			}
			if id := string(m.ID.Bytes()); id != tt.id {
				t.Errorf("id %q, want %q", id, tt.id)
			}
			m.ID = ostiary.Value{}
			if m != (Message{}) {
				t.Errorf("a refused message has content: %+v", m)
			}
		})
	}
}

func TestSameID(t *testing.T) {
	ids := []string{`1`, `"1"`, `"\u0031"`, `0`, `""`, `-1`, `null`, `1.0`}
	same := map[[2]int]bool{{1, 2}: true}
	for i := range ids {
		for j := range ids {
			parse := func(s string) ostiary.Value {
				d, err := strictjson.Parse([]byte(s), strictjson.Request)
				if err != nil {
					t.Fatal(err)
				}
				return d.Root()
			}
			a, b := parse(ids[i]), parse(ids[j])
			want := same[[2]int{min(i, j), max(i, j)}] || i == j && ValidID(a)
			if got := SameID(a, b); got != want {
				t.Errorf("%s, %s: %v", ids[i], ids[j], got)
			}
		}
	}
}

// What is written can be read, and comes back as it was.
func TestWritten(t *testing.T) {
	texts := []string{"", "a", "\"\\/\b\f\n\r\t", "\x00\x1f\x7f", "é😀\u2028\u2029\ufffd", "\xff\xc3", "</script>", `\u0041`, strings.Repeat("x", 100)}
	for _, s := range texts {
		lit := AppendString([]byte("x"), s)[1:]
		var back string
		if err := json.Unmarshal(lit, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(s, "\xff") {
			t.Errorf("%q: %s, %q, %v", s, lit, back, err)
		}
		if !OneLine(lit) {
			t.Errorf("%q: more than one line", s)
		}
	}
	id, body := []byte(`"\u0061"`), []byte(` {"a" : 1.0} `)
	read := func(b []byte) Message {
		t.Helper()
		m, err := Parse(b, strictjson.Reply)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		return m
	}
	m := read(AppendRequest(nil, id, "a\"b", body))
	if m.Kind != Request || m.Method != "a\"b" || string(m.ID.Bytes()) != string(id) || string(m.Params.Bytes()) != `{"a" : 1.0}` {
		t.Errorf("%+v", m)
	}
	if m := read(AppendRequest(nil, id, "a", nil)); m.Params.Exists() {
		t.Errorf("%+v", m)
	}
	if m := read(AppendNotification(nil, "n", body)); m.Kind != Notification || !m.Params.Exists() {
		t.Errorf("%+v", m)
	}
	if m := read(AppendResult(nil, id, body)); m.Kind != Result || string(m.Result.Bytes()) != `{"a" : 1.0}` {
		t.Errorf("%+v", m)
	}
	m = read(AppendError(nil, nil, CodeDenied, "no \"x\"\n", []byte(`{"k":1}`)))
	if m.Kind != Error || m.ID.Exists() || string(m.Error.Bytes()) != `{"code":-32001,"message":"no \"x\"\n","data":{"k":1}}` {
		t.Errorf("%+v", m)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}`, `{"jsonrpc":"2.0","id":"x","result":{}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`, `[]`, `{"jsonrpc":"2.0","method":"n"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse([]byte(string(b)), strictjson.Request)
		if err != nil {
			if ostiary.KindOf(err) != ostiary.Malformed || m.Kind != None || m.ID.Exists() && !ValidID(m.ID) {
				t.Fatalf("%q: %+v, %v", b, m, err)
			}
			return
		}
		var want struct {
			JSONRPC               *string
			ID                    any
			Method                *string
			Params, Result, Error map[string]any
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%q: another reader: %v", b, err)
		}
		kind := None
		switch {
		case want.Method != nil && want.ID != nil:
			kind = Request
		case want.Method != nil:
			kind = Notification
		case want.Result != nil:
			kind = Result
		case want.Error != nil:
			kind = Error
		}
		if kind != m.Kind || want.Method != nil && *want.Method != m.Method || (want.Params != nil) != m.Params.Exists() {
			t.Fatalf("%q: %v %q, another reader: %v", b, m.Kind, m.Method, kind)
		}
		switch id := want.ID.(type) {
		case string:
			if id != m.ID.Text() {
				t.Fatalf("%q: id", b)
			}
		case float64:
			if fmt.Sprintf("%.0f", id) != m.ID.Literal() {
				t.Fatalf("%q: id %v", b, id)
			}
		case nil:
			if m.ID.Exists() {
				t.Fatalf("%q: id", b)
			}
		default:
			t.Fatalf("%q: id %v", b, id)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\u2028\xff\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		lit := AppendString(nil, s)
		l := strictjson.Reply
		d, err := strictjson.Parse(lit, l)
		if err != nil {
			t.Fatalf("%q: %s: %v", s, lit, err)
		}
		if diff := cmp.Diff([]rune(s), []rune(d.Root().Text())); diff != "" {
			t.Fatal(diff)
		}
		if !OneLine(lit) {
			t.Fatalf("%q", lit)
		}
	})
}
