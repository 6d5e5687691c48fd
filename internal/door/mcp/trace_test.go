package mcp

import (
	"strings"
	"testing"
)

// TestTraceparentIsHandedOn: the caller's own, from the message or else from
// the one header, as it was sent; nothing the caller says is answered or sent
// on because of it.
func TestTraceparentIsHandedOn(t *testing.T) {
	const a, b = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	meta := func(v string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, `"_meta":{`, `"_meta":{"traceparent":`+v+`,`) }
	}
	same := func(s string) string { return s }
	for name, c := range map[string]struct {
		body   func(string) string
		header []string
		want   string
	}{
		"nothing":            {same, nil, ""},
		"header":             {same, []string{a}, a},
		"two headers":        {same, []string{a, b}, ""},
		"message":            {meta(`"` + a + `"`), nil, a},
		"message first":      {meta(`"` + a + `"`), []string{b}, a},
		"no text":            {meta(`7`), []string{b}, ""},
		"long":               {meta(`"` + strings.Repeat("x", 300) + `"`), nil, ""},
		"long header is cut": {same, []string{strings.Repeat("x", 300)}, strings.Repeat("x", 256)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, standardTools(t)...)
			r := post(c.body(callBody("1", "")))
			r.Header["Traceparent"] = c.header
			if rec := w.do(r); rec.Code != 200 {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
			if got := w.calls[len(w.calls)-1].Trace; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
