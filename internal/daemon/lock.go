package daemon

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
)

// inUse reports whether a process holds the data folder, and which. It changes
// nothing.
func inUse(dir string) (pid string, held bool) {
	f, err := os.Open(filepath.Join(dir, "gateway.lock"))
	if err != nil {
		return "", false
	}
	defer f.Close() // gives up the lock, if it was to be had
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return "", false
	}
	b, _ := io.ReadAll(io.LimitReader(f, 20)) // a longer one is no process id
	return string(b), true
}

// lockData makes this process the only gateway on a data folder until the
// file is closed or the process ends, however it ends. The file holds the
// process id, for whoever is refused.
func lockData(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "gateway.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20)) // a longer one is no process id
		return nil, ostiary.Errorf(ostiary.Conflict, "data_in_use", "the data folder %s is in use by another gateway, process %s", dir, pid)
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
