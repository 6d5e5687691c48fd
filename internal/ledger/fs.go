package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FS is the file layer under a log, injected so that tests can make every
// operation fail. What an operation returned as done is durable only after
// the Sync or SyncDir that covers it.
type FS interface {
	MkdirAll(dir string) error
	// Create makes an empty file, replacing one of that name.
	Create(path string) (File, error)
	// Open opens an existing file, for writing too unless readOnly.
	Open(path string, readOnly bool) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
	// ReadDir returns the names in a directory, sorted; none if it does not
	// exist.
	ReadDir(dir string) ([]string, error)
	// Free says how much room is left.
	Free(dir string) (Space, error)
	// Lock takes an exclusive lock or fails at once with a *Held.
	Lock(path string) (io.Closer, error)
}

// File is an open file. WriteAt writes everything or fails. Sync returns when
// the data is on the device.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() (int64, error)
	// Links returns the number of names the file has; 0 means it was
	// unlinked and will be lost.
	Links() (uint64, error)
	Close() error
}

// Space is the room of a file system, in bytes and inodes.
type Space struct {
	Free, Total           uint64
	FreeInodes, AllInodes uint64 // 0 total: not counted
}

// Held is the error of a lock that another process holds.
type Held struct{ PID int }

func (h *Held) Error() string { return fmt.Sprintf("held by process %d", h.PID) }

// OS is the file system of the machine.
type OS struct{}

func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (OS) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (OS) Open(path string, readOnly bool) (File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (OS) Rename(from, to string) error { return os.Rename(from, to) }
func (OS) Remove(path string) error     { return os.Remove(path) }

func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (OS) ReadDir(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, err
}

// Lock writes the process id into the file it locks, for whoever is refused.
func (OS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		b, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return nil, &Held{pid}
	}
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(pid, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	i, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return i.Size(), nil
}

// writeFile puts a whole file in place: temporary name, flush, rename. The
// directory is for the caller to flush. It is not package durable's, because
// each step must be one at which a test can plan a fault.
func writeFile(fsys FS, path string, b []byte) error {
	tmp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fsys.Rename(tmp, path)
}

// readFile reads a whole small file.
func readFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d expected", path, n, limit)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return nil, err
	}
	return b, nil
}
