package story

import (
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ostiary/ostiary/internal/store/pgtest"
)

// postgres starts a throw-away server for the story and names an empty
// database: postgres NAME. "postgres -kill" ends it as a crash would,
// "postgres -again" starts it on what it kept.
func postgres(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, "postgres NAME | -kill | -again")
	st := ts.Value(stateKey{}).(*state)
	switch {
	case args[0] == "-kill":
		st.server.Kill()
	case args[0] == "-again":
		ts.Check(st.server.Restart())
	default:
		if st.server == nil {
			var err error
			st.server, err = pgtest.Start()
			ts.Check(err)
			ts.Defer(func() { st.kill(); st.server.Stop() })
		}
		address, err := st.server.NewDatabase()
		ts.Check(err)
		ts.Setenv(args[0], address)
	}
}

// within runs a program until its output holds the text, and fails if a run
// that began after the duration does not show it: within DURATION TEXT PROGRAM
// ARG...
func within(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 3, "within DURATION TEXT PROGRAM ARG...")
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	for begin := time.Now(); ; {
		late := time.Since(begin) > most
		out, _ := quietly(ts, args[2], args[3:]...)
		if strings.Contains(out, args[1]) {
			return
		}
		if late {
			ts.Fatalf("not within %v:\n%s", most, out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// owner makes a file readable by its owner alone: owner FILE.
func owner(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, "owner FILE")
	ts.Check(os.Chmod(ts.MkAbs(args[0]), 0o600))
}
