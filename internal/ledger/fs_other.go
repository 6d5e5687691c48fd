//go:build !linux

package ledger

import (
	"errors"
	"os"
)

// Elsewhere than on Linux the log flushes with what os.File.Sync does, and
// does not open: a lock and a flush that keep their promise are not there yet.
func (f osFile) Links() (uint64, error) { return 1, nil }

func (OS) Free(string) (Space, error) { return Space{}, errors.ErrUnsupported }

func lockFile(*os.File) error { return errors.ErrUnsupported }
