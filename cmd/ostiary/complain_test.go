package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// What went wrong is said once, whether an error was classified by us or says
// it in its own words.
func TestComplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("plain"), "ostiary: plain\n"},
		{fmt.Errorf("opening: %w", ostiary.Errorf(ostiary.Malformed, "config", "no such key").Because(fmt.Errorf("line 3"))), "ostiary: opening: no such key: line 3\n"},
		{fmt.Errorf("the log does not verify: %w", &proof.Fault{Log: "a/b/2026-11", What: "is there twice"}), "ostiary: the log does not verify: log a/b/2026-11: is there twice\n"},
	} {
		var b strings.Builder
		if complain(&b, c.err); b.String() != c.want {
			t.Errorf("got %q, want %q", b.String(), c.want)
		}
	}
}
