package keyring

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HideMemory makes the memory of this process its own business, for as long as
// it lives: when it crashes, no core file is written and none is handed to a
// program of the system's; other processes of the same user can neither trace
// it nor read its memory, environment or descriptors below /proc. Root still
// can. A program that holds keys or tokens calls it before it reads any.
//
// Programs it starts may write no core files either, but can be traced: what
// they are is decided anew when they are executed.
func HideMemory() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turning core files off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding this process's memory: %w", err)
	}
	return nil
}
