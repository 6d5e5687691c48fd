package store_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/store"
)

func TestCopySQLite(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	path, to := filepath.Join(dir, "a?#%.db"), filepath.Join(dir, "b?#%.db")
	s := openFile(t, path)
	if _, err := s.PutDataKey(ctx, "before", []byte("k")); err != nil {
		t.Fatal(err)
	}
	if err := store.CopySQLite(ctx, path, to); err != nil { // while it is open
		t.Fatal(err)
	}
	if err := store.CopySQLite(ctx, path, to); err == nil {
		t.Error("a file that stands there was overwritten")
	}
	if _, err := s.PutDataKey(ctx, "after", []byte("k")); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(to)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st.Mode(), err)
	}
	c := openFile(t, to)
	if _, err := c.DataKey(ctx, "before"); err != nil {
		t.Error(err)
	}
	if _, err := c.DataKey(ctx, "after"); ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("the copy knows what came after it: %v", err)
	}
	was, _ := s.Revision(ctx)
	if rev, err := c.Revision(ctx); err != nil || rev+1 != was {
		t.Errorf("revision %d of %d: %v", rev, was, err)
	}
}

func TestCheckSQLite(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := store.CheckSQLite(ctx, path); err == nil {
		t.Error("a file that is not there is sound")
	}
	s := openFile(t, path)
	if err := store.CheckSQLite(ctx, path); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i += 512 {
		b[i] ^= 0xff
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.CheckSQLite(ctx, path); ostiary.KindOf(err) != ostiary.Corrupt {
		t.Errorf("damage is not found: %v", err)
	}
	if err := os.WriteFile(path, []byte("no database at all, and long enough to be looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.CheckSQLite(ctx, path); ostiary.KindOf(err) != ostiary.Corrupt {
		t.Errorf("what is no database: %v", err)
	}
}
