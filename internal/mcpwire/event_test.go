package mcpwire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ostiary/ostiary"
)

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func valid(s string) bool { return utf8.ValidString(s) }

func readAll(r io.Reader, limit int) ([]Event, error) {
	var all []Event
	er := NewEventReader(r, limit)
	for {
		e, err := er.Next()
		if err != nil {
			if _, again := er.Next(); again != err {
				return all, errors.Join(err, errors.New("the error was not final"))
			}
			return all, err
		}
		all = append(all, e)
	}
}

func TestEventReader(t *testing.T) {
	ev := func(typ, id, data string) Event { return Event{typ, id, []byte(data)} }
	tests := []struct {
		name, in string
		want     []Event
		err      error
	}{
		{"nothing", "", nil, io.EOF},
		{"LF", "data: a\n\ndata: b\n\n", []Event{ev("", "", "a"), ev("", "", "b")}, io.EOF},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []Event{ev("", "", "a"), ev("", "", "b")}, io.EOF},
		{"CR", "data: a\r\rdata: b\r\r", []Event{ev("", "", "a"), ev("", "", "b")}, io.EOF},
		{"mixed", "data: a\r\n\ndata: b\n\rdata: c\r\r\n", []Event{ev("", "", "a"), ev("", "", "b"), ev("", "", "c")}, io.EOF},
		{"mark", "\ufeffdata: a\n\n", []Event{ev("", "", "a")}, io.EOF},
		{"second mark is a field's name", "\ufeff\ufeffdata: a\n\ndata: b\n\n", []Event{ev("", "", "b")}, io.EOF},
		{"all fields", "event: message\nid: 7\nretry: 10\ndata: {\ndata:  1}\n\n", []Event{ev("message", "7", "{\n 1}")}, io.EOF},
		{"no space, no colon", "event:x\ndata:a\ndata\n\n", []Event{ev("x", "", "a\n")}, io.EOF},
		{"id is kept", "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", []Event{ev("", "1", "a"), ev("", "1", "b"), ev("", "", "c")}, io.EOF},
		{"id with NUL is ignored", "id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", []Event{ev("", "1", "a"), ev("", "1", "b")}, io.EOF},
		{"priming event", "id: 9\ndata:\n\ndata: a\n\n", []Event{ev("", "9", "a")}, io.EOF},
		{"type without data is dropped", "event: x\n\ndata: a\n\n", []Event{ev("", "", "a")}, io.EOF},
		{"comments", ": ping\n\n:\ndata: a\n:x\ndata: b\n\n:", []Event{ev("", "", "a\nb")}, io.EOF},
		{"unknown field", "datax: a\ndata : b\n\ndata: c\n\n", []Event{ev("", "", "c")}, io.EOF},
		{"colons in data", "data: a:b: c\n\n", []Event{ev("", "", "a:b: c")}, io.EOF},
		{"invalid UTF-8 is data", "data: \xff\n\n", []Event{ev("", "", "\xff")}, io.EOF},
		{"U+2028 ends no line", "data: a\u2028data: b\n\n", []Event{ev("", "", "a\u2028data: b")}, io.EOF},
		{"cut in a line", "data: a\n\ndata: b", []Event{ev("", "", "a")}, io.ErrUnexpectedEOF},
		{"cut before the empty line", "data: a\n\ndata: b\n", []Event{ev("", "", "a")}, io.ErrUnexpectedEOF},
		{"short", "\xef", nil, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(tt.in), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			"data with EOF": iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			got, err := readAll(r, 100)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != tt.err {
				t.Errorf("%s, %s: %v\n%s", tt.name, how, err, diff)
			}
		}
	}
}

type endless struct {
	piece string
	n     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		p[n] = e.piece[e.n%len(e.piece)]
		e.n++
		n++
	}
	return n, nil
}

func TestEventLimits(t *testing.T) {
	fits := "data: " + strings.Repeat("x", 100) + "\n\n"
	if got, err := readAll(strings.NewReader(fits), 100); len(got) != 1 || err != io.EOF {
		t.Error(len(got), err)
	}
	for name, r := range map[string]io.Reader{
		"one line":        strings.NewReader("data: " + strings.Repeat("x", 101) + "\n\n"),
		"many lines":      strings.NewReader(strings.Repeat("data: x\n", 60) + "\n"),
		"endless line":    &endless{piece: "x"},
		"endless data":    &endless{piece: "data: x\n"},
		"endless nothing": &endless{piece: "data\n"},
		"long id":         strings.NewReader("id: " + strings.Repeat("x", 2000) + "\ndata: a\n\n"),
	} {
		if got, err := readAll(r, 100); len(got) != 0 || ostiary.AsError(err).Code != "too_large" {
			t.Errorf("%s: %d events, %v", name, len(got), err)
		}
	}
	if got, err := readAll(strings.NewReader("id: "+strings.Repeat("x", 2000)+"\ndata: a\n\n"), 10000); len(got) != 0 || ostiary.AsError(err).Code != "too_large" {
		t.Error("long id:", len(got), err)
	}
	for name, piece := range map[string]string{
		"comments": ": ping\n", "one comment": ":", "empty lines": "\n", "fields": "event: x\n", "blank events": "event: x\n\n",
	} {
		var r io.Reader = &endless{piece: piece}
		if name == "one comment" {
			r = io.MultiReader(strings.NewReader(":"), &endless{piece: "x"})
		}
		if got, err := readAll(r, 100); len(got) != 0 || ostiary.AsError(err).Code != "idle" {
			t.Errorf("endless %s: %d events, %v", name, len(got), err)
		}
	}
}

func TestEventReaderKeepsErrors(t *testing.T) {
	broken := errors.New("broken")
	got, err := readAll(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(broken)), 100)
	if len(got) != 1 || !errors.Is(err, broken) {
		t.Error(got, err)
	}
}

// D15: whatever is in the data, a reader sees one event.
func TestD15DataCannotBreakFraming(t *testing.T) {
	for _, data := range []string{
		"{\"a\":1}", "x\n\nevent: x\ndata: {}\n\n", "x\r\rid: 1\r\r", "x\r\n\r\n", "\n", "\r", "", "x\u2028\u0085y", ": c\n", "\ufeffx", "a\r\nb\rc\nd",
	} {
		for _, id := range []string{"", "7", "a\nb", "a\rb", "a\x00b"} {
			wire := AppendEvent(nil, id, []byte(data))
			wire = append(wire, "data: next\n\n"...)
			got, err := readAll(bytes.NewReader(wire), 1000)
			want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
			if want == "" {
				want = "next"
				got = append(got, Event{})
			}
			if err != io.EOF || len(got) != 2 || string(got[0].Data) != want || got[0].Type != "" {
				t.Errorf("%q, %q: %q, %v", id, data, got, err)
				continue
			}
			if id == "7" && got[0].ID != "7" || id != "7" && got[0].ID != "" {
				t.Errorf("%q: id %q", id, got[0].ID)
			}
		}
	}
	wire := AppendEvent([]byte(": x\n\n"), "", []byte("b"))
	if got, err := readAll(bytes.NewReader(wire), 100); err != io.EOF || len(got) != 1 || string(got[0].Data) != "b" {
		t.Error(got, err)
	}
}

func FuzzEventReader(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "\ufeffid: 1\r\nevent: x\rdata: b\n\n", ": c\n\ndata\n\n", "data: a\r\n\r\n\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 64
		whole, err1 := readAll(bytes.NewReader(b), limit)
		split, err2 := readAll(iotest.OneByteReader(bytes.NewReader(b)), limit)
		if diff := cmp.Diff(whole, split); diff != "" || (err1 == io.EOF) != (err2 == io.EOF) {
			t.Fatalf("%q: pieces matter: %v, %v\n%s", b, err1, err2, diff)
		}
		var wire []byte
		for _, e := range whole {
			if len(e.Data) == 0 || len(e.Data) > limit+len("data: ") {
				t.Fatalf("%q: data of %d bytes", b, len(e.Data))
			}
			wire = AppendEvent(wire, "", e.Data)
		}
		again, err := readAll(bytes.NewReader(wire), 2*limit)
		if err != io.EOF || len(again) != len(whole) {
			t.Fatalf("%q: written again: %q, %v", b, wire, err)
		}
		for i := range again {
			if !bytes.Equal(again[i].Data, whole[i].Data) {
				t.Fatalf("%q: %q became %q", b, whole[i].Data, again[i].Data)
			}
		}
		// The whole input as data is one event, whatever it is.
		if got, err := readAll(bytes.NewReader(AppendEvent(nil, "", b)), len(b)+limit); err != io.EOF || len(got) > 1 {
			t.Fatalf("%q: %d events, %v", b, len(got), err)
		}
	})
}
