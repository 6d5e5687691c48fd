package ledger

import (
	"errors"
	"os"
	"syscall"
)

// Sync is fdatasync: data, and of the metadata only what is needed to read it
// back. A signal repeats it; any other error stands.
func (f osFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

func (f osFile) Links() (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return uint64(st.Nlink), nil
}

func (OS) Free(dir string) (Space, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return Space{}, err
	}
	unit := uint64(st.Bsize)
	return Space{Free: st.Bavail * unit, Total: st.Blocks * unit, FreeInodes: st.Ffree, AllInodes: st.Files}, nil
}

func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
