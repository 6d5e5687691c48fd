package keyring

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ostiary/ostiary"
)

func open(t *testing.T, dir string) *Ring {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	a, b := open(t, dir), open(t, dir)
	e1, err1 := a.ECDSA("ca")
	e2, err2 := b.ECDSA("ca")
	if err1 != nil || err2 != nil || !e1.Equal(e2) {
		t.Fatal("the second ring has another ECDSA key", err1, err2)
	}
	d1, err1 := a.Ed25519("log")
	d2, err2 := b.Ed25519("log")
	if err1 != nil || err2 != nil || !d1.Equal(d2) {
		t.Fatal("the second ring has another Ed25519 key", err1, err2)
	}
	s1, err1 := a.AEAD("state")
	s2, err2 := b.AEAD("state")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	sealed, err := s1.Seal([]byte("plain"), []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := s2.Open(sealed, []byte("ad"))
	if err != nil || string(plain) != "plain" {
		t.Fatalf("%q, %v", plain, err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatal("want three files and no temporary one:", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(f.Name(), info.Mode(), err)
		}
	}
}

func TestSealedValuesAreBound(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "keys"))
	one, _ := r.AEAD("one")
	two, _ := r.AEAD("two")
	sealed, _ := one.Seal([]byte("plain"), []byte("row 1"))
	again, _ := one.Seal([]byte("plain"), []byte("row 1"))
	if bytes.Equal(sealed, again) {
		t.Error("sealing twice gave the same bytes")
	}
	refused := func(what string, a AEAD, b []byte, ad string) {
		t.Helper()
		if plain, err := a.Open(b, []byte(ad)); err == nil || plain != nil || ostiary.KindOf(err) != ostiary.Corrupt {
			t.Errorf("%s: %q, %v", what, plain, err)
		}
	}
	refused("another row", one, sealed, "row 2")
	refused("another key", two, sealed, "row 1")
	refused("nothing", one, nil, "row 1")
	for i := range sealed {
		refused("cut", one, sealed[:i], "row 1")
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 1
		refused("flipped", one, flipped, "row 1")
	}
}

func TestRefused(t *testing.T) {
	use := func(dir string) error {
		r, err := Open(dir)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.ECDSA("ca")
		return err
	}
	file := func(dir string) string { return filepath.Join(dir, "ca.pem") }
	tests := []struct {
		name  string
		spoil func(dir string) error
		kind  ostiary.Kind
	}{
		{"directory readable by the group", func(d string) error { return os.Chmod(d, 0o750) }, ostiary.Corrupt},
		{"directory open to others", func(d string) error { return os.Chmod(d, 0o701) }, ostiary.Corrupt},
		{"file readable by the group", func(d string) error { return os.Chmod(file(d), 0o640) }, ostiary.Corrupt},
		{"file readable by others", func(d string) error { return os.Chmod(file(d), 0o604) }, ostiary.Corrupt},
		{"file empty", func(d string) error { return os.Truncate(file(d), 0) }, ostiary.Corrupt},
		{"file cut", func(d string) error { return os.Truncate(file(d), 60) }, ostiary.Corrupt},
		{"file huge", func(d string) error { return os.Truncate(file(d), maxFile+1) }, ostiary.Corrupt},
		{"file with more behind", func(d string) error {
			b, err := os.ReadFile(file(d))
			if err != nil {
				return err
			}
			return os.WriteFile(file(d), append(b, b...), 0o600)
		}, ostiary.Corrupt},
		{"another kind of key", func(d string) error {
			r, err := Open(d)
			if err != nil {
				return err
			}
			defer r.Close()
			if _, err := r.Ed25519("other"); err != nil {
				return err
			}
			return os.Rename(filepath.Join(d, "other.pem"), file(d))
		}, ostiary.Corrupt},
		{"link to a key elsewhere", func(d string) error {
			if err := os.Rename(file(d), filepath.Join(d, "real.pem")); err != nil {
				return err
			}
			return os.Symlink("real.pem", file(d))
		}, ostiary.Corrupt},
		{"pipe", func(d string) error {
			if err := os.Remove(file(d)); err != nil {
				return err
			}
			return syscall.Mkfifo(file(d), 0o600)
		}, ostiary.Corrupt},
		{"directory in its place", func(d string) error {
			if err := os.Remove(file(d)); err != nil {
				return err
			}
			return os.Mkdir(file(d), 0o700)
		}, ostiary.Corrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			if err := use(dir); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			err := use(dir)
			if err == nil || ostiary.KindOf(err) != tt.kind {
				t.Fatalf("%v, want %v", err, tt.kind)
			}
			t.Log(err)
		})
	}
	if err := use(filepath.Join(t.TempDir(), "a", "b")); ostiary.KindOf(err) != ostiary.Unavailable {
		t.Error("missing parent:", err)
	}
	r := open(t, filepath.Join(t.TempDir(), "keys"))
	for _, name := range []string{"", "..", "a/b", "A", "a.b", "-a", "a\x00", strings.Repeat("a", 65)} {
		if _, err := r.ECDSA(name); ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// A failure to make the key leaves nothing behind that a later start could
// take for one.
func TestFailureLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	r := open(t, dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ECDSA("ca"); ostiary.KindOf(err) != ostiary.Unavailable {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// A maker that died between writing and naming its file is no obstacle, and
// its leftovers are no key.
func TestLeftoversAreIgnored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	r := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, ".ca-0011223344556677.tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ECDSA("ca"); err != nil {
		t.Fatal(err)
	}
}

func TestManyRingsAgree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	keys := make([]string, 32)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			r, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			k, err := r.Ed25519("log")
			if err != nil {
				t.Error(err)
			}
			keys[i] = string(k)
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] {
			t.Fatal("two rings have different keys")
		}
	}
}

// Two processes that start at once agree on one key.
func TestProcessesAgree(t *testing.T) {
	if dir := os.Getenv("KEYRING_TEST_DIR"); dir != "" {
		k, err := open(t, dir).ECDSA("ca")
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("key " + k.X.String() + "\n")
		return
	}
	for range 5 {
		dir := filepath.Join(t.TempDir(), "keys")
		outs := make([]string, 4)
		var wg sync.WaitGroup
		for i := range outs {
			wg.Go(func() {
				cmd := exec.Command(os.Args[0], "-test.run=^TestProcessesAgree$")
				cmd.Env = append(os.Environ(), "KEYRING_TEST_DIR="+dir)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%v: %s", err, out)
				}
				outs[i], _, _ = strings.Cut(string(out), "\n")
			})
		}
		wg.Wait()
		for _, o := range outs {
			if o != outs[0] || !strings.HasPrefix(o, "key ") {
				t.Fatalf("different keys: %q", outs)
			}
		}
	}
}
