package attack

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is a user without rights, as which gateway and attacker run when the
// tests run as root, from whom nothing can be hidden.
const nobody = 65534

// TestQ02OtherProcessesOfTheUser: whoever runs as the gateway's own user can
// neither read its memory, its environment or its descriptors, nor trace it.
// The same attacker reads all of them of a process that does not hide.
func TestQ02OtherProcessesOfTheUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "ostiary-q02-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		as.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	gateway, spy := filepath.Join(dir, "ostiary"), filepath.Join(dir, "spy")
	program, err := exec.LookPath("ostiary")
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, program, gateway)
	copyFile(t, os.Args[0], spy)
	config := filepath.Join(dir, "ostiary.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("trust_domain: example.org\nlisten: {agents: \"127.0.0.1:0\"}\ndata: %s/data\npolicy: %s/policy\nledger: {segment_size: 1MiB}\n", dir, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy", "main.cedar"), []byte("// Nothing.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if as.Credential != nil {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	start := func(w io.Writer, name string, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.SysProcAttr, cmd.Dir, cmd.Env = as, dir, []string{"PATH=/usr/bin:/bin", "CANARY=c4n4ry"}
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	victim := start(&out, gateway, "serve", "-c", config)
	open := start(io.Discard, "/bin/sleep", "600")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(dir, "data", "control.sock")); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			victim.Process.Kill()
			victim.Wait()
			t.Fatalf("the gateway does not start\n%s", &out)
		}
	}
	look := func(pid int) string {
		t.Helper()
		cmd := exec.Command(spy, strconv.Itoa(pid))
		cmd.SysProcAttr, cmd.Dir = as, dir
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("the spy failed: %v %s", err, b)
		}
		return string(b)
	}
	// Some kernels keep memory and tracing from everybody but a parent.
	if got := look(open.Process.Pid); !strings.Contains(got, "environment descriptors") {
		t.Errorf("of a process that does not hide, the spy reads %q", got)
	}
	if got := look(victim.Process.Pid); got != "\n" {
		t.Errorf("the spy reads of the gateway: %q", got)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", victim.Process.Pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
		t.Errorf("core files are on: %s %v", limits, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
}

// spyMain is the "spy" program: it says what it can get from a process.
func spyMain() {
	pid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var got []string
	proc := func(name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }
	if f, err := os.Open(proc("mem")); err == nil {
		f.Close()
		got = append(got, "memory")
	}
	if b, err := os.ReadFile(proc("environ")); err == nil && strings.Contains(string(b), "c4n4ry") {
		got = append(got, "environment")
	}
	if all, err := os.ReadDir(proc("fd")); err == nil && len(all) > 0 {
		got = append(got, "descriptors")
	}
	if err := unix.PtraceSeize(pid); err == nil {
		got = append(got, "trace")
	}
	fmt.Println(strings.Join(got, " "))
}
