package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ostiary/ostiary"
)

func TestCopySparse(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	text := make([]byte, 4*copyStep)
	copy(text, "the beginning")
	copy(text[2*copyStep+5:], "the middle")
	copy(text[3*copyStep:], "what was never flushed")
	if err := os.WriteFile(from, text, 0o600); err != nil {
		t.Fatal(err)
	}
	length := int64(2*copyStep + 100)
	n, err := copySparse(ctx, to, from, length, int64(len(text)))
	if err != nil || n != copyStep+100 {
		t.Errorf("wrote %d: %v", n, err)
	}
	clear(text[length:])
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("the copy differs: %v", err)
	}
	if _, err := copySparse(ctx, to, from, 1, 1); err == nil {
		t.Error("a file was overwritten")
	}
	if _, err := copySparse(ctx, to+"2", from, int64(len(text))+1, int64(len(text))+1); err == nil {
		t.Error("a file that is shorter than it should be was copied")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := copySparse(ended, to+"3", from, 1, 1); err == nil {
		t.Error("copied for nobody")
	}
}

func TestEpochFile(t *testing.T) {
	for text, want := range map[string]uint64{"1": 1, "7\n": 7, "1795178661": 1795178661, "0": 0, "": 0, "x": 0, "-1": 0, "1 2": 0} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, epochName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readEpoch(dir); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if got, err := readEpoch(t.TempDir()); got != 1 || err != nil {
		t.Errorf("no file: %d, %v", got, err)
	}
}

// S08: an unfinished restore, and a backup itself, start nothing.
func TestFenced(t *testing.T) {
	for _, name := range []string{fencedName, manifestName} {
		dir := t.TempDir()
		if err := notFenced(dir); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil { // whatever it holds
			t.Fatal(err)
		}
		if err := notFenced(dir); ostiary.AsError(err).Code != "fenced" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readManifest(filepath.Join(t.TempDir(), manifestName)); err == nil {
		t.Error("no manifest is a manifest")
	}
	dir := t.TempDir()
	for _, text := range []string{"", "{}", `{"format":2}`, "[]"} {
		if err := os.WriteFile(filepath.Join(dir, manifestName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readManifest(filepath.Join(dir, manifestName)); ostiary.AsError(err).Code != "manifest" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// An interrupted restore cannot be confirmed.
func TestHalfRestored(t *testing.T) {
	c, err := ParseConfig(filepath.Join(t.TempDir(), "o.yaml"), []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ConfirmEpoch(context.Background(), c, "me", nil); ostiary.AsError(err).Code != "not_fenced" {
		t.Error(err)
	}
	if err := (manifest{Format: 1}).write(filepath.Join(c.Data, fencedName)); err != nil {
		t.Fatal(err)
	}
	if _, err := ConfirmEpoch(context.Background(), c, "me", nil); ostiary.AsError(err).Code != "half_restored" {
		t.Error(err)
	}
}

// What has a part of itself elsewhere is not backed up by half.
func TestBackupAlone(t *testing.T) {
	for text, key := range map[string]string{"": "", "keys: k\n": "keys", "store: {postgres: 'postgres://localhost/x?sslmode=verify-full'}\nkeys: k\n": "store"} {
		c, err := ParseConfig("/etc/ostiary/ostiary.yaml", []byte(good+text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.alone(); (err == nil) != (key == "") || err != nil && ostiary.AsError(err).Field != key {
			t.Errorf("%q: %v", text, err)
		}
	}
}
