package story

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// What a story checks of files and outputs.

func usage(ts *testscript.TestScript, args []string, n int, text string) {
	if len(args) < n {
		ts.Fatalf("usage: %s", text)
	}
}

// again is for what comes true a moment later, such as a server that is
// restarted after a pause.
func again(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "again TEXT PROGRAM ARG...")
	eventually(ts, strings.Join(args[1:], " ")+" to say "+args[0], nil, func() bool {
		out, err := quietly(ts, args[1], args[2:]...)
		return err == nil && strings.Contains(out, args[0])
	})
}

func smaller(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "smaller FILE N")
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	if (st.Size() < n) == neg {
		ts.Fatalf("%s has %d bytes", args[0], st.Size())
	}
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "mode OCTAL FILE")
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", st.Mode().Perm()); (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, "is-json FILE")
	if json.Valid([]byte(ts.ReadFile(args[0]))) == neg {
		ts.Fatalf("%s: JSON is %v", args[0], neg)
	}
}

func field(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 3, "field NAME KEY FILE")
	var m map[string]any
	ts.Check(json.NewDecoder(strings.NewReader(ts.ReadFile(args[2]))).Decode(&m))
	v, ok := m[args[1]]
	if !ok {
		ts.Fatalf("%s has no member %q", args[2], args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// forgeJoin changes the last digit of a join token, which is the fingerprint's.
func forgeJoin(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "forge-join OUT IN")
	s := strings.TrimSpace(ts.ReadFile(args[1]))
	last := "0"
	if strings.HasSuffix(s, "0") {
		last = "1"
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(s[:len(s)-1]+last), 0o600))
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "status N PROGRAM ARG...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if (got == want) == neg {
		ts.Fatalf("exit status %d", got)
	}
}
