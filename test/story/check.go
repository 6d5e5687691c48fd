package story

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
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

func pinOf(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 3, "pin-of NAME TOOL FILE")
	var tools []struct{ Name, Pin string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[2])), &tools))
	for _, t := range tools {
		if t.Name == args[1] {
			ts.Setenv(args[0], t.Pin)
			return
		}
	}
	ts.Fatalf("no tool %s in %s", args[1], args[2])
}

func numberOf(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "number-of NAME ENTRY")
	ts.Setenv(args[0], path.Base(args[1]))
}

// aligned looks at the first six columns: words that two spaces part.
func aligned(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, "aligned FILE")
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	if len(lines) < 3 {
		ts.Fatalf("%s has %d lines", args[0], len(lines))
	}
	for _, column := range []string{"TIME", "AGENT", "ACTION", "DECISION", "FATE"} {
		at := strings.Index(lines[0], column)
		for _, l := range lines {
			if at < 2 || len(l) <= at || l[at] == ' ' || l[at-2:at] != "  " {
				ts.Fatalf("column %s of %q does not begin where the head's does", column, l)
			}
		}
	}
}

func copyAll(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "cp-r FROM TO")
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
}

// below lists the files with a name below a folder, oldest change first.
func below(ts *testscript.TestScript, dir, pattern string) (found []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(dir), func(p string, d fs.DirEntry, err error) error {
		if ok, _ := path.Match(pattern, d.Name()); err == nil && ok && d.Type().IsRegular() {
			found = append(found, p)
		}
		return err
	}))
	if len(found) == 0 {
		ts.Fatalf("no %s in %s", pattern, dir)
	}
	return found
}

func checkpoint(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "checkpoint FILE DIR")
	b, err := os.ReadFile(below(ts, args[1], "checkpoint")[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func spoil(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, "spoil DIR TEXT")
	for _, f := range below(ts, args[0], "*.seg") {
		b, err := os.ReadFile(f)
		ts.Check(err)
		if i := bytes.Index(b, []byte(args[1])); i >= 0 {
			b[i] ^= 1
			ts.Check(os.WriteFile(f, b, 0o600))
			return
		}
	}
	ts.Fatalf("%q stands nowhere in %s", args[1], args[0])
}
