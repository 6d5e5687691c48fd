package console

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// arguments is what an action was called with, as people can check it: each
// value by its place, what can do harm first, and the bytes as they arrived.
type arguments struct {
	Values []argument
	Raw    Foreign
	Bytes  int
	Cut    int  // values that are not listed for their number; Raw has them
	Opaque bool // it is no JSON object: Raw alone tells
}

// argument is one value: a text, a number, true, false, null, or something
// empty.
type argument struct {
	Name  Foreign // its place, "/to", without the slash of the first level
	Value Foreign
	Kind  string // "text", "number", "other"
	Risky bool
	From  []origin // where it came from; nil if nobody can say
	raw   string   // its JSON Pointer
}

// origin is where a value came from.
type origin struct {
	Name      Foreign
	Untrusted bool // anybody may have written there
}

// maxArguments is how many values a page lists.
const maxArguments = 200

// risky are words in a name that choose who gets something, how much, where
// to, or what is run.
var risky = []string{
	"amount", "to", "recipient", "payee", "beneficiary", "iban", "account", "bic", "currency", "price", "total", "url", "uri", "host", "address", "email", "phone",
	"cc", "bcc", "webhook", "endpoint", "command", "cmd", "script", "query", "sql", "code", "path", "file", "role", "permission", "scope", "grant", "password", "secret", "token", "key", "domain",
}

// isRisky reports whether a name has one of these words: to, send_to, toEmail,
// and not "total_pages" for "to".
func isRisky(name string) bool {
	for _, w := range words(name) {
		if slices.Contains(risky, w) || slices.Contains(risky, strings.TrimSuffix(w, "s")) {
			return true
		}
	}
	return false
}

// words splits a name at what is no letter, and where small letters become
// great ones.
func words(name string) (out []string) {
	word, small := "", false
	for _, r := range name + " " {
		letter, great := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z', r >= 'A' && r <= 'Z'
		if !letter || great && small {
			if word != "" {
				out = append(out, word)
			}
			word = ""
		}
		if letter {
			word += strings.ToLower(string(r))
		}
		small = letter && !great
	}
	return out
}

// readArguments takes the bytes of an action's arguments apart.
func readArguments(b []byte) arguments {
	out := arguments{Raw: NewForeign(string(b)), Bytes: len(b)}
	if len(b) == 0 {
		return out
	}
	doc, err := strictjson.Parse(slices.Clone(b), strictjson.Request)
	if err != nil || doc.Root().Kind() != ostiary.Object {
		out.Opaque = true
		return out
	}
	out.walk("", doc.Root())
	slices.SortStableFunc(out.Values, func(a, b argument) int {
		return -cmp.Compare(score(a), score(b))
	})
	return out
}

func score(a argument) int {
	if a.Risky {
		return 1
	}
	return 0
}

func (a *arguments) walk(at string, v ostiary.Value) {
	switch {
	case v.Kind() == ostiary.Object && v.Len() > 0:
		for name, m := range v.Members() {
			a.walk(at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), m)
		}
		return
	case v.Kind() == ostiary.Array && v.Len() > 0:
		for i, e := range v.Elements() {
			a.walk(at+"/"+itoa(i), e)
		}
		return
	}
	if len(a.Values) >= maxArguments {
		a.Cut++
		return
	}
	arg := argument{Name: NewForeign(strings.TrimPrefix(at, "/")), Kind: "other", Value: NewForeign(string(v.Bytes())), Risky: isRisky(at), raw: at}
	switch v.Kind() {
	case ostiary.String:
		arg.Kind, arg.Value = "text", NewForeign(v.Text())
	case ostiary.Number:
		arg.Kind = "number"
	}
	a.Values = append(a.Values, arg)
}

// Empty reports whether a text is empty: an empty text is shown as such.
func (a argument) Empty() bool { return a.Kind == "text" && a.Value.Empty() }

// Length is a text's length, for those that are long.
func (a argument) Length() int { return utf8.RuneCountInString(a.Value.s) }
