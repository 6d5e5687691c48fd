package mcp

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// A body is read whole, or not at all, whatever was announced of its length
// and however it arrives.
func TestReadWhole(t *testing.T) {
	for _, c := range []struct {
		name   string
		sent   int
		length int64
		ok     bool
	}{
		{"announced", 300, 300, true},
		{"empty", 0, 0, true},
		{"in chunks", 300, -1, true},
		{"large", atOnce + 1, atOnce + 1, true},
		{"cut", 299, 300, false},
		{"nothing", 0, 300, false},
		{"longer", 301, 300, false},
	} {
		body := strings.Repeat("x", c.sent)
		for name, r := range map[string]io.Reader{
			"at once": strings.NewReader(body), "byte by byte": iotest.OneByteReader(strings.NewReader(body)),
			"with its end": iotest.DataErrReader(strings.NewReader(body)),
		} {
			got, err := readWhole(r, c.length)
			if (err == nil) != c.ok || c.ok && string(got) != body {
				t.Errorf("%s, %s: %d bytes, %v", c.name, name, len(got), err)
			}
		}
	}
	r := bytes.NewReader(make([]byte, 400))
	if n := testing.AllocsPerRun(100, func() {
		r.Seek(0, io.SeekStart)
		if _, err := readWhole(r, 400); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%.0f allocations", n)
	}
}
