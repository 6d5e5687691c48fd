package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/ostiary/ostiary"
)

// agrees reads the next value with another reader and compares all of it.
func agrees(d *jsontext.Decoder, v ostiary.Value) error {
	tok, err := d.ReadToken()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case ostiary.Null, ostiary.True, ostiary.False:
		if tok.String() != string(v.Bytes()) {
			return fmt.Errorf("%s, want %s", v.Bytes(), tok)
		}
	case ostiary.Number:
		if tok.Kind() != '0' || tok.String() != v.Literal() {
			return fmt.Errorf("number %s, want %s", v.Literal(), tok)
		}
	case ostiary.String:
		if tok.Kind() != '"' || tok.String() != v.Text() || !v.Is(v.Text()) {
			return fmt.Errorf("string %q, want %q", v.Text(), tok.String())
		}
	case ostiary.Array:
		if tok.Kind() != '[' {
			return fmt.Errorf("an array, want %s", tok)
		}
		n := 0
		for i, e := range v.Elements() {
			if i != n {
				return fmt.Errorf("element %d, want %d", i, n)
			}
			n++
			if err := agrees(d, e); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		if tok, err := d.ReadToken(); err != nil || tok.Kind() != ']' || v.Len() != n {
			return fmt.Errorf("the array ends after %d of %d: %v %v", n, v.Len(), tok, err)
		}
	case ostiary.Object:
		if tok.Kind() != '{' {
			return fmt.Errorf("an object, want %s", tok)
		}
		n := 0
		for name, m := range v.Members() {
			n++
			tok, err := d.ReadToken()
			if err != nil || tok.String() != name {
				return fmt.Errorf("name %q, want %q, %v", name, tok, err)
			}
			if got := v.Get(name); got != m {
				return fmt.Errorf("Get(%q) is another member", name)
			}
			if err := agrees(d, m); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		if tok, err := d.ReadToken(); err != nil || tok.Kind() != '}' || v.Len() != n {
			return fmt.Errorf("the object ends after %d of %d: %v %v", n, v.Len(), tok, err)
		}
	default:
		return fmt.Errorf("kind %d", v.Kind())
	}
	return nil
}

// check holds Parse against the other reader, in both directions.
func check(t interface{ Fatalf(string, ...any) }, b []byte, l Limits) {
	doc, err := Parse(bytes.Clone(b), l)
	d := jsontext.NewDecoder(bytes.NewReader(b))
	if err == nil {
		if err := agrees(d, doc.Root()); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
			t.Fatalf("%q: something follows: %v", b, err)
		}
		if !bytes.Equal(doc.Bytes(), b) {
			t.Fatalf("%q: the bytes changed", b)
		}
		return
	}
	switch code(err) {
	case "syntax", "utf8", "surrogate", "trailing_data", "duplicate_key", "empty":
		_, err1 := d.ReadValue()
		_, err2 := d.ReadToken()
		if err1 == nil && errors.Is(err2, io.EOF) {
			t.Fatalf("%q: refused (%v), the other reader accepts it", b, err)
		}
	case "too_large", "depth", "nodes", "elements", "literal", "key", "case_folded_key", "nul", "number", "fold":
	default:
		t.Fatalf("%q: unknown code: %v", b, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		call, `[1,2.5e3,-0,"é😀\u00e9\ud83d\ude00\n\"\\"]`, `{"a":{"b":[{},[],null,true,false]}}`, `{"k":1,"\u212a":2}`,
		`{"a":1,"a":2}`, `"\ud800"`, "\"\xff\"", `1e400`, `[[[[`, `{"":{"":{"":0}}}`, ` 1 `, `"` + "\u2028" + `"`, "{}\n{}",
		`{"aaaaaaaa":"\\\\\\\\\"\\\\\\\\","bbbbbbb":"\t"}`, "\"aaaaaaa\x1f\"", "\"aaaaaaaaaaaaaaa\x00\"",
	} {
		f.Add([]byte(s))
	}
	small := Limits{Bytes: 1 << 16, Depth: 5, Nodes: 200, Elements: 20, Literal: 20, Key: 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b, Request)
		check(t, b, Reply)
		check(t, b, small)
	})
}

// Documents made of parts that are mostly right reach further than random
// bytes.
func TestAgreesWithAnotherReader(t *testing.T) {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n", "\r\n\t"})
	char := rapid.SampledFrom([]string{
		"a", "A", "k", "\u212a", "ſ", "s", "é", "É", "σ", "ς", "Σ", "😀", "\ufffd", "\u2028", "aaaaaaaaaaaaaaaaa", `\n`, `\"`, `\\`, `\/`,
		`\u0041`, `\u00e9`, `\u212A`, `\ud83d\ude00`, `\ud83d`, `\ude00`, `\u0000`, `\x`, "\x1f", "\x7f", "\x80", "\xc3", "\xed\xa0\x80",
	})
	good := char.Filter(func(s string) bool {
		_, err := Parse([]byte(`"`+s+`"`), Request)
		return err == nil
	})
	literal := func(c *rapid.Generator[string]) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			return `"` + strings.Join(rapid.SliceOfN(c, 0, 6).Draw(t, "chars"), "") + `"`
		})
	}
	str := rapid.OneOf(literal(good), literal(good), literal(good), literal(char))
	num := rapid.OneOf(
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?`),
		rapid.SampledFrom([]string{"01", "+1", "1.", ".5", "1e", "NaN", "-", "0x1", "9007199254740993", "1e400", "1e-400"}))
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		leaf := rapid.OneOf(str, num, rapid.SampledFrom([]string{"null", "true", "false", "nul", "True", "{}", "[]"}))
		if depth == 0 {
			return leaf
		}
		list := func(item func(*rapid.T) string, open, end string) *rapid.Generator[string] {
			return rapid.Custom(func(t *rapid.T) string {
				var b strings.Builder
				b.WriteString(open)
				n := rapid.SampledFrom([]int{0, 1, 2, 3, 5, 30}).Draw(t, "n")
				if depth < 3 {
					n = min(n, 4)
				}
				for i := range n {
					if i > 0 {
						b.WriteString(",")
					}
					b.WriteString(space.Draw(t, "space") + item(t) + space.Draw(t, "space"))
				}
				b.WriteString(end)
				return b.String()
			})
		}
		element := func(t *rapid.T) string { return value(depth-1).Draw(t, "element") }
		member := func(t *rapid.T) string {
			return str.Draw(t, "name") + space.Draw(t, "space") + ":" + space.Draw(t, "space") + value(depth-1).Draw(t, "member")
		}
		return rapid.OneOf(leaf, list(element, "[", "]"), list(member, "{", "}"), list(member, "{", "}"))
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, []byte(space.Draw(t, "space")+value(3).Draw(t, "document")+space.Draw(t, "space")), Request)
	})
}

// Names that fold together are refused in objects of every size, wherever
// they stand.
func TestFoldingInLargeObjects(t *testing.T) {
	for _, n := range []int{2, few, few + 1, 25, 1000} {
		for _, pair := range [][2]string{{"Straſe", "strase"}, {"KELVIN", "\u212aelvin"}, {"ÀÉÎ", "àéî"}, {"ᏸx", "Ᏸx"}} {
			var b strings.Builder
			for i := range n - 2 {
				fmt.Fprintf(&b, `"name%d":%d,`, i, i)
			}
			with := fmt.Sprintf(`{"%s":1,%s"%s":2}`, pair[0], b.String(), pair[1])
			if _, err := Parse([]byte(with), Request); code(err) != "case_folded_key" || ostiary.AsError(err).Field != "/"+pair[1] {
				t.Errorf("%d members, %q: %v", n, pair, err)
			}
			without := fmt.Sprintf(`{"%s":1,%s"%s-":2}`, pair[0], b.String(), pair[1])
			if _, err := Parse([]byte(without), Request); err != nil {
				t.Errorf("%d members, %q: %v", n, pair, err)
			}
		}
	}
}
