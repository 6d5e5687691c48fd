package keyring

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHideMemory asks the kernel, in a process of its own: hiding cannot be
// undone for the core limit.
func TestHideMemory(t *testing.T) {
	if os.Getenv("KEYRING_TEST_HIDE") != "" {
		if err := HideMemory(); err != nil {
			t.Fatal(err)
		}
		var cores unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &cores); err != nil || cores != (unix.Rlimit{}) {
			t.Errorf("core files may have %+v bytes, %v", cores, err)
		}
		if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || n != 0 {
			t.Errorf("dumpable is %d, %v", n, err)
		}
		if err := HideMemory(); err != nil {
			t.Errorf("a second time: %v", err)
		}
		if _, err := os.ReadDir("/proc/self/fd"); err != nil {
			t.Errorf("it is hidden from itself: %v", err)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHideMemory$", "-test.v")
	cmd.Env = append(os.Environ(), "KEYRING_TEST_HIDE=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHideMemory") {
		t.Errorf("%v\n%s", err, out)
	}
}
