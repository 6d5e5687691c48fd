package approval

import (
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/deferred"
)

func action(t testing.TB, args string) *ostiary.Action {
	t.Helper()
	v, err := deferred.Arguments([]byte(args))
	if err != nil {
		t.Fatal(err)
	}
	return &ostiary.Action{Name: "bank___send", Method: "tools/call", Server: "bank", Tool: "send", Arguments: v}
}

func TestNarrow(t *testing.T) {
	drop := func(p string) Edit { return Edit{Pointer: p, Drop: true} }
	to := func(p, n string) Edit { return Edit{Pointer: p, To: n} }
	for _, x := range []struct {
		name, args string
		edits      []Edit
		want       string // "" is a refusal
	}{
		{"a number", `{ "to":"x", "amount" : 200.50 }`, []Edit{to("/amount", "100")}, `{ "to":"x", "amount" : 100 }`},
		{"the first element", `{"to":["a", "b" ,"c"]}`, []Edit{drop("/to/0")}, `{"to":["b" ,"c"]}`},
		{"the middle element", `{"to":["a", "b" ,"c"]}`, []Edit{drop("/to/1")}, `{"to":["a" ,"c"]}`},
		{"the last element", `{"to":["a", "b" ]}`, []Edit{drop("/to/1")}, `{"to":["a" ]}`},
		{"the only element", `{"to":[ "a" ]}`, []Edit{drop("/to/0")}, `{"to":[  ]}`},
		{"several elements", `{"to":["a","b","c","d"]}`, []Edit{drop("/to/0"), drop("/to/2"), drop("/to/1")}, `{"to":["d"]}`},
		{"all elements", `{"to":["a","b"]}`, []Edit{drop("/to/0"), drop("/to/1")}, `{"to":[]}`},
		{"a member", `{"a":1,"b":2,"c":3}`, []Edit{drop("/b")}, `{"a":1,"c":3}`},
		{"the first member", `{"a":1, "b":2}`, []Edit{drop("/a")}, `{"b":2}`},
		{"a member and a number", `{"a":{"n":10,"x":"y"},"b":2}`, []Edit{to("/a/n", "9"), drop("/b")}, `{"a":{"n":9,"x":"y"}}`},
		{"beyond every float", `{"amount":9007199254740993}`, []Edit{to("/amount", "9007199254740992")}, `{"amount":9007199254740992}`},
		{"a name with escapes", `{"a/b":{"c~d":[1,2]}}`, []Edit{drop("/a~1b/c~0d/0")}, `{"a/b":{"c~d":[2]}}`},

		{"a number raised", `{"amount":200}`, []Edit{to("/amount", "201")}, ""},
		{"the same number", `{"amount":200}`, []Edit{to("/amount", "200")}, ""},
		{"across zero", `{"amount":200}`, []Edit{to("/amount", "-1")}, ""},
		{"an exponent", `{"amount":200}`, []Edit{to("/amount", "1e9")}, ""},
		{"a text for a number", `{"amount":200}`, []Edit{to("/amount", `"x"`)}, ""},
		{"a text changed", `{"to":"x"}`, []Edit{to("/to", "1")}, ""},
		{"a whole number broken", `{"amount":200}`, []Edit{to("/amount", "1.5")}, ""},
		{"nothing there", `{"amount":200}`, []Edit{drop("/other")}, ""},
		{"everything", `{"amount":200}`, []Edit{{Pointer: "", Drop: true}}, ""},
		{"twice the same", `{"amount":200}`, []Edit{to("/amount", "1"), drop("/amount")}, ""},
		{"one inside the other", `{"a":[{"n":2}]}`, []Edit{to("/a/0/n", "1"), drop("/a/0")}, ""},
		{"neither", `{"amount":200}`, []Edit{{Pointer: "/amount"}}, ""},
		{"both", `{"amount":200}`, []Edit{{Pointer: "/amount", To: "1", Drop: true}}, ""},
		{"no edits", `{"amount":200}`, nil, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			a := action(t, x.args)
			before := a.Digest()
			got, err := Narrow(a, x.edits)
			switch {
			case x.want == "" && ostiary.KindOf(err) != ostiary.Malformed:
				t.Errorf("%s, %v; that is no narrowing", got.Arguments.Bytes(), err)
			case x.want != "" && (err != nil || string(got.Arguments.Bytes()) != x.want || !got.Rewritten):
				t.Errorf("got %s, %v; want %s", got.Arguments.Bytes(), err, x.want)
			case x.want != "" && got.Digest() == before:
				t.Error("the narrowed action is the same")
			}
			if a.Digest() != before || string(a.Arguments.Bytes()) != x.args {
				t.Error("what was asked changed under it")
			}
		})
	}
}

// Whatever is edited, what comes out is one strict document that holds no
// value that was not there, but for lower numbers.
func FuzzNarrow(f *testing.F) {
	f.Add(`{"to":["a","b"],"amount":200}`, "/to/0", "", "/amount", "7")
	f.Add(`[[1,2],[3]]`, "/0/1", "", "/1", "")
	f.Fuzz(func(t *testing.T, args, p1, to1, p2, to2 string) {
		v, err := deferred.Arguments([]byte(args))
		if err != nil || !v.Exists() {
			return
		}
		a := &ostiary.Action{Name: "x", Arguments: v}
		got, err := Narrow(a, []Edit{{p1, to1, to1 == ""}, {p2, to2, to2 == ""}})
		if err != nil {
			return
		}
		var within func(now, was ostiary.Value) bool
		within = func(now, was ostiary.Value) bool {
			if now.Kind() != was.Kind() {
				return false
			}
			switch now.Kind() {
			case ostiary.Object:
				for name, x := range now.Members() {
					if !within(x, was.Get(name)) {
						return false
					}
				}
				return true
			case ostiary.Array:
				old := []ostiary.Value{}
				for _, x := range was.Elements() {
					old = append(old, x)
				}
				for _, x := range now.Elements() { // a subsequence
					for len(old) > 0 && !within(x, old[0]) {
						old = old[1:]
					}
					if len(old) == 0 {
						return false
					}
					old = old[1:]
				}
				return true
			case ostiary.Number:
				return now.Literal() == was.Literal() || ostiary.LowerNumber(now.Literal(), was.Literal())
			}
			return string(now.Bytes()) == string(was.Bytes())
		}
		if !within(got.Arguments, v) {
			t.Errorf("%s became %s", args, got.Arguments.Bytes())
		}
	})
}
