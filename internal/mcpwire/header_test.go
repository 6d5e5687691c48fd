package mcpwire

import (
	"testing"

	"github.com/ostiary/ostiary"
)

func TestHeaderForms(t *testing.T) {
	for s, want := range map[string]string{
		"":                       "",
		"send_money":             "send_money",
		"a b, c;d":               "a b, c;d",
		" us-west1":              "=?base64?IHVzLXdlc3Qx?=",
		"us-west1 ":              "=?base64?dXMtd2VzdDEg?=",
		"日本語":                    "=?base64?5pel5pys6Kqe?=",
		"line1\nline2":           "=?base64?bGluZTEKbGluZTI=?=",
		"\tx":                    "=?base64?CXg=?=",
		"a\tb":                   "=?base64?YQli?=",
		"\x7f":                   "=?base64?fw==?=",
		"=?base64?literal?=":     "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=",
		"=?BASE64?x":             "=?base64?PT9CQVNFNjQ/eA==?=",
		"=?utf-8?q?x?=":          "=?utf-8?q?x?=",
		"\u00e9":                 "=?base64?w6k=?=",
		"db://notes/1?q=a%20b#c": "db://notes/1?q=a%20b#c",
	} {
		if got := EncodeHeader(s); got != want {
			t.Errorf("encode %q: %q, want %q", s, got, want)
		}
		if got, err := DecodeHeader(want); got != s || err != nil {
			t.Errorf("decode %q: %q, %v", want, got, err)
		}
	}
	// What has only half of the form is what it says; we encode it all the same.
	for _, s := range []string{"=?base64?c2FmZQ==", "=?base64?c2FmZQ==?=x", "=?BASE64?c2FmZQ==", "=?base64?"} {
		if got, err := DecodeHeader(s); got != s || err != nil {
			t.Errorf("decode %q: %q, %v", s, got, err)
		}
		if got := EncodeHeader(s); got == s {
			t.Errorf("encode %q: it was left plain", s)
		}
	}
	// A value that needs no encoding may have been encoded all the same.
	if got, err := DecodeHeader("=?base64?c2FmZQ==?="); got != "safe" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := DecodeHeader("=?base64??="); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHeadersRefused(t *testing.T) {
	for name, s := range map[string]string{
		"B03 other case":            "=?BASE64?c2FmZQ==?=",
		"B03 mixed case":            "=?Base64?c2FmZQ==?=",
		"B03 bad base64":            "=?base64?c2Fm*Q==?=",
		"B03 no padding":            "=?base64?c2FmZQ?=",
		"B03 stray bits":            "=?base64?c2FmZR==?=",
		"B03 line feed inside":      "=?base64?c2Fm\nZQ==?=",
		"B03 URL alphabet":          "=?base64?_-8=?=",
		"B03 overlapping marks":     "=?base64?=",
		"B03 not UTF-8":             "=?base64?/w==?=",
		"B03 twice the form":        "=?base64?YQ==?==?base64?YQ==?=",
		"plain with a control":      "a\x00b",
		"plain with a tab":          "a\tb",
		"plain with non-ASCII":      "é",
		"plain with space in front": " a",
		"plain with space behind":   "a ",
	} {
		if got, err := DecodeHeader(s); err == nil || got != "" || ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzDecodeHeader(f *testing.F) {
	for _, s := range []string{"", "a", "=?base64?c2FmZQ==?=", "=?BASE64?c2FmZQ==?=", "=?base64?c2FmZR==?=", "=?base64?c2FmZQ==", "é", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value, err := DecodeHeader(s)
		if err == nil {
			// Two spellings at most: the plain one and the encoded one.
			if value != s && sentinel+encoded(value)+sentinelEnd != s {
				t.Fatalf("%q is a third spelling of %q", s, value)
			}
		} else if value != "" {
			t.Fatal("a value beside an error")
		}
		wire := EncodeHeader(s)
		for i := range len(wire) {
			if wire[i] < 0x20 || wire[i] > 0x7e {
				t.Fatalf("%q: unsafe on the wire: %q", s, wire)
			}
		}
		if back, err := DecodeHeader(wire); valid(s) && (err != nil || back != s) {
			t.Fatalf("%q: %q, %q, %v", s, wire, back, err)
		}
	})
}

func TestIsToken(t *testing.T) {
	for s, want := range map[string]bool{
		"Amount": true, "x-1": true, "!#$%&'*+-.^_`|~": true,
		"": false, "a b": false, "a:b": false, "a\r\nb": false, "a\x00": false, "é": false, `a"b`: false, "a/b": false, "a\x7f": false,
	} {
		if IsToken(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
