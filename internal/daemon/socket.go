package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/egress"
)

// maxSocketPath is what every system takes as the path of a Unix socket.
const maxSocketPath = 100

// folderTimeout bounds how long another gateway may look at sockets in the
// same folder: longer than one dial.
const folderTimeout = 15 * time.Second

// listenUnix makes the control socket, for this user alone. A dead socket of
// this user, left by a process that was killed, is replaced; one that somebody
// answers, or that is another user's, is not touched: gateways on different
// data folders do not exclude each other by the lock of the data.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of a Unix socket may have at most %d bytes, this one has %d; set listen.control to a shorter one", maxSocketPath, len(path))
	}
	release, err := alone(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer release()
	if err := removeDead(path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	return &peerListener{l.(*net.UnixListener)}, nil
}

// alone keeps every other gateway from looking at sockets in a folder, so that
// of two that find the same one dead, the second finds the first's alive.
func alone(dir string) (release func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(folderTimeout)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f.Close, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline):
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeDead removes a socket that is this user's and that nobody answers.
func removeDead(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&os.ModeSocket == 0:
		return ostiary.Errorf(ostiary.Conflict, "socket_path", "%s is there and is no socket; it is not touched", path)
	case st.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()):
		return ostiary.Errorf(ostiary.Conflict, "socket_path", "the socket %s belongs to another user; it is not touched", path)
	}
	if err := egress.Dead(path); err != nil {
		return ostiary.Errorf(ostiary.Conflict, "socket_in_use", "another process answers on %s; give each gateway a listen.control of its own", path).Because(err)
	}
	return os.Remove(path)
}
