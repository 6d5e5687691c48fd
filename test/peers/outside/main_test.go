package outside

import (
	"fmt"
	"os"
	"testing"
)

// Commands that make this test binary be somebody else.
const (
	fsckCommand   = "be-fsck"          // DIR ORIGIN KEY
	serverCommand = "be-a-tool-server" // on stdin and stdout
)

func TestMain(m *testing.M) {
	var run func() error
	switch {
	case len(os.Args) == 5 && os.Args[1] == fsckCommand:
		run = func() error { return runFsck(os.Args[2], os.Args[3], os.Args[4]) }
	case len(os.Args) == 2 && os.Args[1] == serverCommand:
		run = serveStdio
	default:
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func executable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}
