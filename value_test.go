package ostiary_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

func scan(t *testing.T, text string) ostiary.Value {
	t.Helper()
	d, err := strictjson.Parse([]byte(text), strictjson.Reply)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d.Root()
}

func TestTheZeroValueIsAbsent(t *testing.T) {
	var doc *ostiary.Document
	for _, v := range []ostiary.Value{{}, doc.Root(), ostiary.NewDocument(nil, nil).Root(), scan(t, `{"a":1}`).Get("b"), scan(t, `[1]`).Get("a")} {
		start, end := v.Span()
		_, ok := v.Int()
		if v.Kind() != ostiary.Absent || v.Exists() || v.Bytes() != nil || v.Len() != 0 || v.Text() != "" || v.Is("") ||
			v.Literal() != "" || ok || start != 0 || end != 0 || v.Get("").Exists() ||
			len(maps.Collect(v.Members())) != 0 || len(maps.Collect(v.Elements())) != 0 {
			t.Errorf("%+v is something", v)
		}
	}
}

func TestValuesAreViews(t *testing.T) {
	const text = ` { "a" : [ 1.0 , "x" ] , "b\n" : { "c" : null } , "d" : true } `
	root := scan(t, text)
	if start, end := root.Span(); start != 1 || end != len(text)-1 {
		t.Error(start, end)
	}
	for name, want := range map[string]string{"a": `[ 1.0 , "x" ]`, "b\n": `{ "c" : null }`, "d": `true`} {
		v := root.Get(name)
		if string(v.Bytes()) != want {
			t.Errorf("%q: %s", name, v.Bytes())
		}
		if start, end := v.Span(); text[start:end] != want {
			t.Errorf("%q: [%d:%d]", name, start, end)
		}
		if b := v.Bytes(); cap(b) != len(b) {
			t.Errorf("%q: appending to its bytes would write into the document", name)
		}
	}
	if root.Len() != 3 || root.Get("a").Len() != 2 || root.Get("d").Len() != 0 {
		t.Error("lengths")
	}
	var names []string
	for name := range root.Members() {
		names = append(names, name)
	}
	if !slices.Equal(names, []string{"a", "b\n", "d"}) {
		t.Errorf("%q", names)
	}
	for i, v := range root.Get("a").Elements() {
		if i == 1 {
			t.Error("the loop went on after break")
		}
		if v.Literal() != "1.0" {
			t.Error(v.Literal())
		}
		break
	}
	for range root.Members() {
		break
	}
}

func TestText(t *testing.T) {
	for lit, want := range map[string]string{
		`""`: "", `"a"`: "a", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u0041\u00e9\u20AC"`: "Aé€", `"\ud83d\ude00"`: "😀",
		`"\uD83D\uDE00x"`: "😀x", `"x\ud83d\ude00"`: "x😀", `"\ud83d\ude00\ud83d\ude01"`: "😀😁", `"é😀\n"`: "é😀\n", `"\u0000"`: "\x00",
		`"\\u0041"`: `\u0041`, `"\\\\"`: `\\`, `"\ufffd"`: "\ufffd", `"\udbff\udfff"`: "\U0010ffff",
	} {
		v := scan(t, lit)
		var std string
		if err := json.Unmarshal([]byte(lit), &std); err != nil || std != want {
			t.Fatalf("%s: the test itself is wrong: %q, %v", lit, std, err)
		}
		if v.Text() != want || !v.Is(want) || v.Is(want+"x") || v.Is(lit) {
			t.Errorf("%s: %q", lit, v.Text())
		}
		if lit == `"\u0000"` {
			continue // no name may hold it
		}
		if got := scan(t, `{"x":1,`+lit+`:2}`).Get(want); got.Literal() != "2" {
			t.Errorf("%s as a name: %s", lit, got.Bytes())
		}
	}
}

func TestInt(t *testing.T) {
	for lit, want := range map[string]int64{"0": 0, "-1": -1, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63} {
		if got, ok := scan(t, lit).Int(); !ok || got != want {
			t.Errorf("%s: %d, %v", lit, got, ok)
		}
	}
	for _, lit := range []string{"-0", "1.0", "1e0", "1E2", "9223372036854775808", "-9223372036854775809", `"1"`, "true", "null"} {
		if got, ok := scan(t, lit).Int(); ok || got != 0 {
			t.Errorf("%s: %d", lit, got)
		}
	}
}

func TestPointer(t *testing.T) {
	for name, want := range map[string]string{"a": "/x/a", "": "/x/", "a/b": "/x/a~1b", "~1": "/x/~01", "/~": "/x/~1~0"} {
		if got := ostiary.Pointer("/x", name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}
