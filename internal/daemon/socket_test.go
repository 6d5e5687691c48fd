package daemon

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ostiary/ostiary"
)

// socketFolder is short enough for a socket's path.
func socketFolder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return ostiary.AsError(err).Code
}

// The control socket takes the place of a dead socket of this user and of
// nothing else.
func TestControlSocketTakesDeadOnly(t *testing.T) {
	path := filepath.Join(socketFolder(t), "c.sock")
	first, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); code(err) != "socket_in_use" {
		t.Fatalf("beside one that answers: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Fatalf("the first no longer answers: %v", err)
	} else {
		c.Close()
	}
	first.(*peerListener).SetUnlinkOnClose(false) // as after SIGKILL
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	second, err := listenUnix(path)
	if err != nil {
		t.Fatalf("in place of a dead one: %v", err)
	}
	second.Close()

	if err := os.WriteFile(path, []byte("a person's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); code(err) != "socket_path" {
		t.Errorf("in place of a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "a person's" {
		t.Errorf("the file: %q %v", b, err)
	}
}

// Of many that find one dead socket at once, one gets it.
func TestControlSocketOnce(t *testing.T) {
	path := filepath.Join(socketFolder(t), "c.sock")
	dead, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*peerListener).SetUnlinkOnClose(false)
	dead.Close()
	got := make(chan net.Listener, 8)
	var all sync.WaitGroup
	for range cap(got) {
		all.Go(func() {
			l, err := listenUnix(path)
			if err == nil {
				got <- l
			} else if code(err) != "socket_in_use" {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(got)
	n := 0
	for l := range got {
		n++
		l.Close()
	}
	if n != 1 {
		t.Errorf("%d have it", n)
	}
}
