package story

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// counted asks the log how many strangers were sent away for a reason, over
// all the entries that count them: counted N CODE. It waits for the number, and
// no more of them may have been counted by then.
func counted(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "counted N CODE")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	eventually(ts, args[0]+" strangers to be counted as "+args[1], nil, func() bool {
		got = countOf(ts, args[1])
		return got >= want
	})
	if (got == want) == neg {
		ts.Fatalf("%d strangers were counted as %s, want %d", got, args[1], want)
	}
}

// countOf adds up what the log's counting entries say of one code.
func countOf(ts *testscript.TestScript, code string) (sum int) {
	say := regexp.MustCompile(`"code\\?": ?\\?"` + regexp.QuoteMeta(code) + `\\?", ?\\?"count\\?": ?(\d+)`)
	list, err := quietly(ts, "ostiary", "log", "--all", "--entries", "--json", "-n", "10000")
	ts.Check(err)
	for line := range strings.Lines(list) {
		var e struct{ Entry, Kind string }
		ts.Check(json.Unmarshal([]byte(line), &e))
		if e.Kind != "count" {
			continue
		}
		text, err := quietly(ts, "ostiary", "log", "show", e.Entry, "--json")
		ts.Check(err)
		for _, m := range say.FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(m[1])
			ts.Check(err)
			sum += n
		}
	}
	return sum
}
