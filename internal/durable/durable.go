// Package durable puts small files in place so that no crash is seen in them.
//
// It guarantees that after Replace returned nil the file holds what was
// written, on disk, and that at every earlier moment a reader, also one after
// a power loss, finds the old file or the new one, whole. After an error the
// file may be either.
//
// It trusts the file system to rename in one step and to keep what it has
// flushed. It does not order two writers: the last one wins. The ledger
// writes through an interface of its own instead, in which faults can be
// planned; the keyring never replaces.
package durable

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Replace writes b to path with the given mode, in place of what is there.
func Replace(path string, b []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // nobody else can read it from the start
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
