package story

import (
	"encoding/json"

	"github.com/rogpeppe/go-internal/testscript"
)

// held waits for a held action that is pending and sets a variable to the id
// of the newest: held NAME.
func held(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, "held NAME")
	var all []struct {
		ID string `json:"id"`
	}
	eventually(ts, "something to be held", nil, func() bool {
		out, err := quietly(ts, "ostiary", "approvals", "--state", "pending", "--json")
		return err == nil && json.Unmarshal([]byte(out), &all) == nil && len(all) > 0
	})
	ts.Setenv(args[0], all[len(all)-1].ID)
}

// people makes persons who may approve, each with a key in NAME.key: people
// NAME...
func people(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ts.Check(ts.Exec("ostiary", "person", "add", name, "--role", "approver"))
		ts.Check(ts.Exec("ostiary", "person", "key", name, "--out", ts.MkAbs(name+".key")))
	}
}
