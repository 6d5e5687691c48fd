package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

func code(err error) string {
	var e *ostiary.Error
	if err == nil {
		return ""
	}
	if !errors.As(err, &e) || e.Kind != ostiary.Malformed {
		return "not a malformed: " + err.Error()
	}
	return e.Code
}

func TestThreats(t *testing.T) {
	rep := strings.Repeat
	tests := []struct {
		name, in, code, field string
	}{
		{"A01 duplicate key", `{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}`, "duplicate_key", "/method"},
		{"A02 duplicate key, escaped", `{"method":"tools/list","\u006dethod":"tools/call"}`, "duplicate_key", "/method"},
		{"A03 duplicate in params", `{"params":{"name":"safe","name":"evil"}}`, "duplicate_key", "/params/name"},
		{"A03 duplicate in arguments", `{"params":{"arguments":{"rows":[1,{"to":"a","x":0,"to":"b"}]}}}`, "duplicate_key", "/params/arguments/rows/1/to"},
		{"A03 duplicate of the empty name", `{"":1,"":2}`, "duplicate_key", "/"},
		{"A04 case", `{"method":"a","METHOD":"b"}`, "case_folded_key", "/METHOD"},
		{"A04 U+017F", `{"params":1,"paramſ":2}`, "case_folded_key", "/paramſ"},
		{"A04 U+017F escaped", `{"params":1,"param\u017f":2}`, "case_folded_key", "/paramſ"},
		{"A04 U+212A", `{"k":1,"\u212a":2}`, "case_folded_key", "/\u212a"},
		{"A04 Greek sigma, three forms", `{"σ":1,"x":2,"ς":3}`, "case_folded_key", "/ς"},
		{"A04 Deseret, beyond the BMP", `{"𐐀":1,"𐐨":2}`, "case_folded_key", "/𐐨"},
		{"A05 second document", `{"a":1}{"b":2}`, "trailing_data", ""},
		{"A05 junk", `{"a":1} junk`, "trailing_data", ""},
		{"A05 trailing NUL", "{}\x00", "trailing_data", ""},
		{"A06 0xFF", "{\"a\":\"\xff\"}", "utf8", "/a"},
		{"A06 0xFF in a name", "{\"\xff\":1}", "utf8", ""},
		{"A06 overlong slash", "\"\xc0\xaf\"", "utf8", ""},
		{"A06 truncated", "\"\xe2\x82\"", "utf8", ""},
		{"A06 encoded surrogate", "\"\xed\xa0\x80\"", "utf8", ""},
		{"A06 above U+10FFFF", "\"\xf4\x90\x80\x80\"", "utf8", ""},
		{"A06 byte order mark", "\ufeff{}", "syntax", ""},
		{"A06 UTF-16", "{\x00}\x00", "syntax", ""},
		{"A07 lone high surrogate", `"\ud800"`, "surrogate", ""},
		{"A07 lone low surrogate", `"\udc00"`, "surrogate", ""},
		{"A07 high and high", `"\ud800\ud800"`, "surrogate", ""},
		{"A07 high and letter", `"\ud800\u0041"`, "surrogate", ""},
		{"A07 high and half an escape", `"\ud800\udc0"`, "surrogate", ""},
		{"A07 NUL in a value", `{"method":"tools/call\u0000x"}`, "nul", "/method"},
		{"A07 NUL in a name", `{"a\u0000b":1}`, "nul", ""},
		{"A07 bare NUL", "\"a\x00b\"", "syntax", ""},
		{"A08 NaN", `[NaN]`, "syntax", "/0"},
		{"A08 Infinity", `[Infinity]`, "syntax", "/0"},
		{"A08 -Infinity", `[-Infinity]`, "syntax", "/0"},
		{"A08 1e400", `[0,1e400]`, "number", "/1"},
		{"A08 -1E+400", `-1E+400`, "number", ""},
		{"A08 1e-400", `1e-400`, "number", ""},
		{"A08 exponent beyond int", `1e99999999999999999999`, "number", ""},
		{"A08 hex", `0x10`, "trailing_data", ""},
		{"A08 leading zero", `01`, "syntax", ""},
		{"A08 leading plus", `+1`, "syntax", ""},
		{"A08 bare point", `.5`, "syntax", ""},
		{"A08 trailing point", `5.`, "syntax", ""},
		{"A08 empty exponent", `5e`, "syntax", ""},
		{"A08 minus alone", `-`, "syntax", ""},
		{"A08 comment", `{} // x`, "trailing_data", ""},
		{"A08 comment inside", `[/* x */1]`, "syntax", "/0"},
		{"A08 trailing comma in an array", `[1,]`, "syntax", "/1"},
		{"A08 trailing comma in an object", `{"a":1,}`, "syntax", ""},
		{"A08 single quotes", `{'a':1}`, "syntax", ""},
		{"A08 unquoted name", `{a:1}`, "syntax", ""},
		{"A08 case of a literal", `[True]`, "syntax", "/0"},
		{"A08 bare newline in a string", "\"a\nb\"", "syntax", ""},
		{"A08 unknown escape", `"\x41"`, "syntax", ""},
		{"A08 vertical tab as space", "\v1", "syntax", ""},
		{"A08 no-break space", "\u00a01", "syntax", ""},
		{"A11 nesting 65", rep("[", 65) + rep("]", 65), "depth", rep("/0", 64)},
		{"A11 nesting 1,001", rep(`{"a":`, 1001), "depth", rep("/a", 64)},
		{"A11 nesting 10,001", rep("[", 10001), "depth", rep("/0", 64)},
		{"A11 nesting in an id", `{"id":` + rep("[", 5000) + `}`, "depth", "/id" + rep("/0", 63)},
		{"A11 nesting 2,000,000", rep("[", 2000000), "depth", rep("/0", 64)},
		{"A12 key of 1 MiB", `{"` + rep("k", 1<<20) + `":1}`, "key", ""},
		{"A12 array of 100,000", "[" + rep("1,", 100000) + "1]", "elements", ""},
		{"A12 number of 1 MiB", rep("1", 1<<20), "literal", ""},
		{"A12 number of 1 MiB, fraction", "0." + rep("0", 1<<20), "literal", ""},
		{"A12 array of arrays", "[" + rep("["+rep("1,", 1000)+"1],", 40) + "1]", "nodes", "/32/702"},
		{"nothing", "", "empty", ""},
		{"only space", " \n", "empty", ""},
		{"cut in a string", `{"a":"b`, "syntax", "/a"},
		{"cut in an escape", `"\`, "syntax", ""},
		{"cut in a unicode escape", `"\u12`, "syntax", ""},
		{"cut after a name", `{"a"`, "syntax", "/a"},
		{"cut in an object", `{"a":1`, "syntax", ""},
		{"cut in an array", `[1`, "syntax", ""},
		{"cut in a word", `tru`, "syntax", ""},
		{"pointer is escaped", `{"a/b~":{"c":1,"c":2}}`, "duplicate_key", "/a~1b~0/c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in), Request)
			if got := code(err); got != tt.code {
				t.Fatalf("code %q, want %q (%v)", got, tt.code, err)
			}
			if got := err.(*ostiary.Error).Field; got != tt.field {
				t.Errorf("field %q, want %q", got, tt.field)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	rep := strings.Repeat
	for _, in := range []string{
		`{}`, ` [ ] `, `0`, `-0`, `"x"`, `null`, "\t\r\n true ", `1e308`, `1E-300`, `0e999`, `0.0e-999`, `5e-324`,
		`9007199254740993`, `{"a":{"A":{"a":1}},"b":[{"a":1},{"A":2}]}`, `"\u0041\ud83d\ude00\/\b"`,
		`{"id":1,"ID2":2}`, `{"ı":1,"i":2}`, `{"ß":1,"ss":2}`, "\"\u2028\ufffd\U0010ffff\"",
		rep("[", 64) + rep("]", 64), "[" + rep("1,", 1023) + "1]", `"` + rep("x", 1<<20) + `"`, rep("1", 64),
		`{"` + rep("k", 512) + `":1}`,
	} {
		if _, err := Parse([]byte(in), Request); err != nil {
			t.Errorf("%.60q: %v", in, err)
		}
	}
}

// A10: numbers that other readers hold equal stay different texts here.
func TestNumbersKeepTheirText(t *testing.T) {
	for _, n := range []string{"1.0", "1", "-0", "0", "0.1", "0.10000000000000001", "9007199254740993"} {
		d, err := Parse([]byte("["+n+"]"), Request)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range d.Root().Elements() {
			if v.Literal() != n {
				t.Errorf("literal %q, want %q", v.Literal(), n)
			}
		}
	}
}

func TestZeroLimitsRefuse(t *testing.T) {
	for _, in := range []string{"", "1", "{}"} {
		if _, err := Parse([]byte(in), Limits{}); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
}

func TestNULWhereAllowed(t *testing.T) {
	l := Reply
	if _, err := Parse([]byte(`{"a":"\u0000"}`), l); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte(`{"\u0000":1}`), l); code(err) != "nul" {
		t.Error(err)
	}
}

// The culprit named does not depend on the seed.
func TestSameCulpritEveryTime(t *testing.T) {
	var b strings.Builder
	b.WriteString("{")
	for i := range 200 {
		fmt.Fprintf(&b, `"k%d":%d,`, i%90, i)
	}
	b.WriteString(`"z":1}`)
	for range 20 {
		_, err := Parse([]byte(b.String()), Request)
		if e := ostiary.AsError(err); e.Code != "duplicate_key" || e.Field != "/k0" {
			t.Fatal(err)
		}
	}
}

func hostile() map[string][]byte {
	rep := strings.Repeat
	keys := func(n int, f string) []byte {
		var b bytes.Buffer
		b.WriteByte('{')
		for i := range n {
			fmt.Fprintf(&b, f, i)
		}
		b.WriteString(`"":0}`)
		return b.Bytes()
	}
	var letters strings.Builder
	letters.WriteString("{")
	for r, n := rune(0x100), 0; letters.Len() < 4<<20-2000; n++ {
		letters.WriteString(`"`)
		for range 60 {
			letters.WriteRune(r)
			if r += 257; r > 0x1F000 {
				r = 0x100 + r%257
			}
			if r >= 0xD800 && r < 0xE000 {
				r = 0xE000
			}
		}
		fmt.Fprintf(&letters, "%d\":0,", n)
	}
	letters.WriteString(`"":0}`)
	return map[string][]byte{
		"A11 nesting":              []byte(rep("[", 4<<20)),
		"A12 1,000,000 keys":       keys(1000000, `"%x":0,`)[:4<<20],
		"A12 same key 100,000":     keys(100000, `"k":%d,`),
		"A12 100,000 elements":     []byte("[" + rep("1,", 100000) + "1]"),
		"A12 commas in a string":   []byte(`"` + rep(",", 4<<20-2) + `"`),
		"A12 escapes":              []byte(`"` + rep(`\u0041`, 600000) + `"`),
		"A12 long non-ASCII":       []byte(`"` + rep("é", 2<<20-1) + `"`),
		"A12 folding":              []byte(letters.String()),
		"A12 small objects":        []byte("[" + rep(`{"a":1,"b":2},`, 1000) + "1]"),
		"A12 number, one megabyte": []byte(rep("9", 1<<20)),
	}
}

// The bar of THREATS: hostile input costs less than 50 ms. Tests run on slow
// and shared machines, so the best of a few runs counts.
func TestHostileInputIsCheap(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes timing meaningless")
	}
	wide := Request
	wide.Nodes, wide.Elements = 1<<20, 1<<20
	for name, in := range hostile() {
		for lname, l := range map[string]Limits{"request": Request, "wide": wide} {
			t.Run(name+"/"+lname, func(t *testing.T) {
				best := time.Hour
				for range 5 {
					start := time.Now()
					_, _ = Parse(in, l)
					best = min(best, time.Since(start))
				}
				t.Logf("%d bytes: %v", len(in), best)
				if lname == "request" && best > 50*time.Millisecond {
					t.Errorf("took %v", best)
				}
			})
		}
	}
}

// Refusing hostile input takes less memory than the input itself, and less
// than 1 MiB.
func TestHostileInputTakesLittleMemory(t *testing.T) {
	for name, in := range hostile() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Parse(in, Request)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 || got > 10*uint64(len(in)) {
			t.Errorf("%s: %d bytes for %d", name, got, len(in))
		}
	}
}

func TestAllocations(t *testing.T) {
	in := []byte(call)
	n := testing.AllocsPerRun(100, func() {
		if _, err := Parse(in, Request); err != nil {
			t.Fatal(err)
		}
	})
	if n > 3 && !raceEnabled {
		t.Errorf("%v allocations, want the document, its tape and the scanner only", n)
	}
}

const call = `{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"send_money","arguments":{"recipient":"DE89370400440532013000","amount":98.70,"currency":"EUR","subject":"Rent for November, as agreed","tags":["rent","monthly"],"notify":true},"_meta":{"progressToken":17,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`

func BenchmarkParse(b *testing.B) {
	inputs := hostile()
	inputs["call"] = []byte(call)
	for name, in := range inputs {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse(in, Request)
			}
		})
	}
}
