package durable

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "epoch")
	for _, c := range []struct {
		text string
		mode fs.FileMode
	}{{"1", 0o600}, {"22", 0o644}, {"", 0o600}} {
		if err := Replace(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != c.text {
			t.Errorf("%q, %v, want %q", b, err, c.text)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != c.mode {
			t.Errorf("%v, %v, want mode %v", info.Mode(), err, c.mode)
		}
	}
	alone(t, dir, "epoch")
}

// What cannot be put in place leaves nothing behind, and the old file as it was.
func TestReplaceFails(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(taken, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if err := Replace(filepath.Join(dir, "absent", "file"), []byte("x"), 0o600); err == nil {
		t.Error("there is no such folder")
	}
	alone(t, dir, "taken")
}

func alone(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
