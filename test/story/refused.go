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
		got = Counts(ts)[args[1]]
		return got >= want
	})
	if (got == want) == neg {
		ts.Fatalf("%d strangers were counted as %s, want %d", got, args[1], want)
	}
}

// Listing is the log's entries, the newest ten thousand, one JSON document a
// line.
func Listing(ts *testscript.TestScript) string {
	list, err := quietly(ts, "ostiary", "log", "--all", "--entries", "--json", "-n", "10000")
	ts.Check(err)
	return list
}

var countOf = regexp.MustCompile(`\\"code\\":\\"([^"\\]*)\\",\\"count\\":(\d+)`)

// Counts adds up, by code, what the log's counting entries say.
func Counts(ts *testscript.TestScript) map[string]int {
	sum := map[string]int{}
	for line := range strings.Lines(Listing(ts)) {
		var e struct{ Entry, Kind string }
		ts.Check(json.Unmarshal([]byte(line), &e))
		if e.Kind != "count" {
			continue
		}
		text, err := quietly(ts, "ostiary", "log", "show", e.Entry, "--json")
		ts.Check(err)
		for _, m := range countOf.FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(m[2])
			ts.Check(err)
			sum[m[1]] += n
		}
	}
	return sum
}

var actionDigest = regexp.MustCompile(`\\"action_digest\\":\\"([0-9a-f]{64})\\"`)

// digests fails unless the log holds N different actions of a tool: digests N
// TOOL.
func digests(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "digests N TOOL")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	all := map[string]bool{}
	eventually(ts, args[0]+" actions of "+args[1]+" in the log", nil, func() bool {
		for line := range strings.Lines(Listing(ts)) {
			var e struct{ Entry, Kind, Action string }
			ts.Check(json.Unmarshal([]byte(line), &e))
			if e.Kind != "intent" || !strings.HasSuffix(e.Action, "___"+args[1]) {
				continue
			}
			text, err := quietly(ts, "ostiary", "log", "show", e.Entry, "--json")
			ts.Check(err)
			for _, m := range actionDigest.FindAllStringSubmatch(text, -1) {
				all[m[1]] = true
			}
		}
		return len(all) >= want
	})
	if (len(all) == want) == neg {
		ts.Fatalf("the log holds %d actions, want %d", len(all), want)
	}
}
