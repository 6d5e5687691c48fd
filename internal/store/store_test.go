package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval/approvaltest"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/store/storetest"
)

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if path := os.Getenv("OSTIARY_STORE_VICTIM"); path != "" {
		victim(path)
		return
	}
	code := m.Run()
	if started {
		if c, err := shared(); err == nil {
			c.Stop()
		}
	}
	os.Exit(code)
}

func openFile(t testing.TB, path string) *store.SQL {
	t.Helper()
	s, err := store.OpenSQLite(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSQLite(t *testing.T) {
	paths := map[store.Store]string{}
	storetest.Run(t, storetest.Engine{
		Open: func(t *testing.T) store.Store {
			path := filepath.Join(t.TempDir(), "control state?#%.db") // a path is a path, never a query
			s := openFile(t, path)
			paths[s] = path
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openFile(t, paths[s])
		},
		Fail: store.FailNext,
	})
}

func TestMemory(t *testing.T) {
	storetest.Run(t, storetest.Engine{
		Open: func(t *testing.T) store.Store { return store.NewMemory() },
		Fail: store.FailNext,
	})
}

func code(err error) string {
	var e *ostiary.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestFile(t *testing.T) {
	ctx := t.Context()
	t.Run("is private", func(t *testing.T) {
		dir := t.TempDir()
		s := openFile(t, filepath.Join(dir, "x.db"))
		if err := s.SaveSnapshot(ctx, 1, []byte("x")); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(files) < 2 {
			t.Fatal("no files found to look at")
		}
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, %v", filepath.Base(f), info.Mode(), err)
			}
		}
	})
	t.Run("refused if others can read it", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenSQLite(ctx, path); code(err) != "store_mode" {
			t.Error(err)
		}
	})
	t.Run("refused while open", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		s := openFile(t, path)
		if _, err := store.OpenSQLite(ctx, path); code(err) != "store_locked" {
			t.Fatal(err)
		}
		s.Close()
		openFile(t, path)
	})
	t.Run("refused if it is no database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		var e *ostiary.Error
		if _, err := store.OpenSQLite(ctx, path); !errors.As(err, &e) || e.Kind != ostiary.Corrupt {
			t.Error(err)
		}
	})
	t.Run("refused if its schema is newer", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		openFile(t, path).Close()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec("INSERT INTO schema_version (version) VALUES (1000)"); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if _, err := store.OpenSQLite(ctx, path); code(err) != "schema_newer" {
			t.Error(err)
		}
	})
}

// TestDiskFull fills the file to its limit: writes are refused, nothing is
// half there, and it heals when there is room again.
func TestDiskFull(t *testing.T) {
	ctx := t.Context()
	s := openFile(t, filepath.Join(t.TempDir(), "x.db"))
	if err := store.Pragma(s, "max_page_count = 60"); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20)
	if err := s.SaveSnapshot(ctx, 1, big); code(err) != "not_stored" {
		t.Fatal(err)
	}
	if n, _, err := s.NewestSnapshot(ctx); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := store.Pragma(s, "max_page_count = 100000"); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveSnapshot(ctx, 1, big); err != nil {
		t.Fatal(err)
	}
	if rev, err := s.Revision(ctx); rev != 1 || err != nil {
		t.Fatal(rev, err)
	}
}

// TestFlushFails: after a flush that failed nothing is flushed again, and
// nobody is told that a write happened.
func TestFlushFails(t *testing.T) {
	ctx := t.Context()
	s := openFile(t, filepath.Join(t.TempDir(), "x.db"))
	if err := s.SaveSnapshot(ctx, 1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	tried := store.FailFlush(s)
	if err := s.SaveSnapshot(ctx, 2, []byte("x")); code(err) != "not_known" {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.SaveSnapshot(ctx, 2, []byte("x")); code(err) != "not_stored" {
			t.Fatal(err)
		}
	}
	if *tried != 1 {
		t.Fatalf("%d flushes after one that failed", *tried-1)
	}
	if n, _, err := s.NewestSnapshot(ctx); n == 0 || err != nil {
		t.Fatal("reads ended too", n, err)
	}
}

// victim writes until it is killed, and says what was acknowledged.
func victim(path string) {
	ctx := context.Background()
	open := store.OpenSQLite
	if strings.HasPrefix(path, "postgres:") {
		open = store.OpenPostgres
	}
	s, err := open(ctx, path)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	acked := make(chan uint64)
	for range 4 {
		go func() {
			for {
				epoch, err := s.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: "x", At: time.Now()})
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				acked <- epoch
			}
		}()
	}
	for epoch := range acked {
		fmt.Println(epoch)
	}
}

// TestKilled kills a process in the middle of its writes, again and again:
// what it acknowledged is there, and revisions have no gap.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.db")
	var highest uint64
	for round := range 3 {
		cmd := exec.Command(self, "-test.run=^$")
		cmd.Env = append(os.Environ(), "OSTIARY_STORE_VICTIM="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			epoch, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			highest = max(highest, epoch)
			if n == 40+17*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		s := openFile(t, path)
		epoch, all, err := s.Revocations(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		rev, err := s.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if highest == 0 || epoch < highest || uint64(len(all)) != epoch || rev != epoch {
			t.Fatalf("acknowledged up to %d; found epoch %d, %d revocations, revision %d", highest, epoch, len(all), rev)
		}
		s.Close()
	}
}

func BenchmarkRevoke(b *testing.B) {
	s := openFile(b, filepath.Join(b.TempDir(), "x.db"))
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Revoke(context.Background(), identity.Revocation{Subject: "x"}); err != nil {
				b.Error(err)
			}
		}
	})
}

// The fake of the engine's own tests passes the suite of the real ones.
func TestHoldsFake(t *testing.T) { storetest.Holds(t, &approvaltest.Store{}) }
