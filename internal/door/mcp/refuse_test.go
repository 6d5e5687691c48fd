package mcp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

func TestShapesAreComplete(t *testing.T) {
	if len(shapes()) != len(ostiary.Kinds) {
		t.Errorf("the table has %d rows for %d kinds", len(shapes()), len(ostiary.Kinds))
	}
	for _, k := range ostiary.Kinds {
		s, ok := shapes()[k]
		if !ok || s.status < 400 || s.code >= 0 || s.call != 200 && s.call < 400 {
			t.Errorf("%s has no usable row: %+v", k, s)
		}
	}
	if shapeOf(&ostiary.Error{Kind: 200}) != shapes()[ostiary.Internal] {
		t.Error("an unknown kind is not internal")
	}
	if shapeOf(&ostiary.Error{Kind: ostiary.Denied, Code: "batch"}) != shapes()[ostiary.Denied] {
		t.Error("a code of policy's took over a kind's row")
	}
}

// TestEveryRefusalOfEveryMethod has each kind of error answer each method in
// each era, and checks that it is said in the protocol's words and that
// nothing it must not say is in it.
func TestEveryRefusalOfEveryMethod(t *testing.T) {
	params := map[string]string{
		"tools/call": `"name":"bank___send"`, "prompts/get": `"name":"docs___sum"`, "resources/read": `"uri":"file:///a"`,
		"completion/complete":  `"ref":{"type":"ref/prompt","name":"docs___sum"},"argument":{"name":"style","value":"x"}`,
		"subscriptions/listen": `"notifications":{}`, "initialize": `"protocolVersion":"2025-11-25","capabilities":{}`,
		"logging/setLevel": `"level":"error"`,
	}
	n := 0
	for _, kind := range ostiary.Kinds {
		for name, m := range methods() {
			if m.refused != "" {
				continue
			}
			for _, e := range []era{modernOnly, legacyOnly} {
				if m.eras&e == 0 || m.note {
					continue
				}
				n++
				t.Run(fmt.Sprintf("%s %s %d", kind, name, e), func(t *testing.T) {
					w := newWorld(t)
					session := w.opened("alice", "2025-06-18", "{}")
					w.refuse = &ostiary.Error{
						Kind: kind, Code: "the_code", Field: "/the/field", Detail: "The detail",
						Reasons:  []ostiary.Reason{{Policy: "p1", Text: "A text.", Where: "secret.cedar:5"}},
						Remedies: []ostiary.Remedy{{Fact: "approval:x", Policy: "p1"}},
						Err:      fmt.Errorf("canary"),
					}
					r := request("/mcp", name, params[name])
					if e == legacyOnly {
						r = raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"`+name+`","params":{`+params[name]+`}}`, "Mcp-Session-Id", session)
						if name == "initialize" {
							r.Header.Del("Mcp-Session-Id")
						}
					}
					rec := w.do(r)
					s := shapes()[kind]
					b := body(t, rec)
					text := rec.Body.String()
					if strings.Contains(text, "canary") || strings.Contains(text, "secret.cedar") || rec.Header().Get("Mcp-Session-Id") != "" {
						t.Errorf("it says too much: %s", text)
					}
					if w.forwarded() != 0 {
						t.Error("something was forwarded")
					}
					if !strings.Contains(text, "2026-11/7") {
						t.Errorf("it does not name its entry: %s", text)
					}
					if name == "tools/call" && s.tool {
						res := b.Get("result")
						if rec.Code != 200 || res.Get("isError").Kind() != ostiary.True || !res.Get("_meta").Get("dev.ostiary/kind").Is(kind.String()) || res.Get("structuredContent").Exists() {
							t.Errorf("%d %s", rec.Code, text)
						}
						return
					}
					code, _ := b.Get("error").Get("code").Int()
					if rec.Code != s.call || int(code) != s.code || !b.Get("error").Get("data").Get("kind").Is(kind.String()) || b.Get("id").Literal() != "1" {
						t.Errorf("%d %s, want %+v", rec.Code, text, s)
					}
					quiet := kind == ostiary.Internal || kind == ostiary.Corrupt || kind == ostiary.Unauthenticated || kind == ostiary.Unavailable
					if strings.Contains(text, "The detail") == quiet {
						t.Errorf("detail: %s", text)
					}
				})
			}
		}
	}
	if n == 0 {
		t.Fatal("checked nothing")
	}
}

// Arguments that do not fit are told to the model, which can mend them, and
// of other methods to the program.
func TestArgumentsThatDoNotFit(t *testing.T) {
	w := newWorld(t)
	w.refuse = ostiary.Errorf(ostiary.Malformed, "schema", "missing property 'to'").At("/params/arguments/x")
	rec := w.do(request("/mcp", "tools/call", `"name":"bank___send","arguments":{}`))
	res := body(t, rec).Get("result")
	if rec.Code != 200 || res.Get("isError").Kind() != ostiary.True || !strings.Contains(rec.Body.String(), "Refused: /params/arguments/x: missing property 'to'. Entry ") || !res.Get("_meta").Get("dev.ostiary/field").Is("/params/arguments/x") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	rec = w.do(request("/mcp", "prompts/get", `"name":"docs___sum"`))
	if code, _ := body(t, rec).Get("error").Get("code").Int(); rec.Code != 200 || code != -32602 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if w.forwarded() != 0 {
		t.Error("something was forwarded")
	}
}

func TestSecretive(t *testing.T) {
	for text, want := range map[string]bool{
		"password": true, "Your Passwords": true, "api_key": true, "apiKey": true, "OPENAI_API_KEY": true, "accessToken": true, "card number": true,
		"credit-card": true, "cvv": true, "one-time code": true, "seedPhrase": true, "PIN": true, "IBAN": true, "private key": true, "verificationCode": true,
		"colour": false, "not please": false, "keyboard": false, "spinner": false, "secretary": false, "tokenizer": false, "card": false, "number": false, "key": false, "": false,
	} {
		if got := secretive(text); got != want {
			t.Errorf("secretive(%q) = %v", text, got)
		}
	}
}

func TestSameNumber(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"42", "42", true}, {"42.0", "42", true}, {"4.2e1", "42", true}, {"420e-1", "42", true}, {"0", "-0", true}, {"0.0", "0", true},
		{"-42", "42", false}, {"9007199254740992", "9007199254740993", false}, {"", "0", false}, {"0x2a", "42", false}, {"042", "42", false}, {"+42", "42", false},
		{"4_2", "42", false}, {"1e999999999999999999999", "1", false}, {"42.", "42", false}, {".5", "0.5", false}, {" 42", "42", false}, {"NaN", "NaN", false},
	} {
		if got := sameNumber(c.a, c.b); got != c.want {
			t.Errorf("sameNumber(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func TestHostSyntax(t *testing.T) {
	for h, want := range map[string]bool{
		"localhost:8700": true, "gate.example": true, "127.0.0.1:1": true, "[::1]:8700": true, "[::1]": true,
		"": false, "a b": false, "a/b": false, "a?b": false, "a#b": false, "u@a": false, "a,b": false, "a.": false, "a:": false, "a:b": false, "a:1:2": false,
		"[::1": false, "[x]": false, ":80": false, "a:123456": false, "a\\b": false, "аpple": false, "a%2f": false,
	} {
		if got := hostSyntax(h); got != want {
			t.Errorf("hostSyntax(%q) = %v", h, got)
		}
	}
}
