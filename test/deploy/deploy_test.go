// Package deploy tests what deploy/ promises: that the build is reproducible
// and the unit hardened.
package deploy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestS02TwoPlaces is S02: it builds the same source in two places, differently deep and
// differently named, and expects the same bytes. With OSTIARY_REBUILD set, the
// second build compiles everything anew; else they share compiled packages.
func TestS02TwoPlaces(t *testing.T) {
	var sums [][32]byte
	for _, place := range []string{"a", "another/deeper place"} {
		dir := filepath.Join(t.TempDir(), place)
		if err := copySource(dir); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out "+filepath.Base(place))
		build := exec.Command(filepath.Join(dir, "deploy", "build.sh"), out)
		build.Dir = t.TempDir()
		build.Env = append(os.Environ(), "VERSION=1.2.3", "REVISION=abc", "GOFLAGS=-tags=other", "PWD="+build.Dir)
		if len(sums) > 0 && os.Getenv("OSTIARY_REBUILD") != "" {
			build.Env = append(build.Env, "GOCACHE="+t.TempDir())
		}
		if said, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(dir)) {
			t.Errorf("the program knows where it was built: %s", dir)
		}
		sums = append(sums, sha256.Sum256(b))
		if len(sums) == 1 {
			tells(t, out)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("two places, two programs: %x and %x", sums[0], sums[1])
	}
}

// tells checks what the built program says of itself.
func tells(t *testing.T, program string) {
	said, err := exec.Command(program, "version", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Version, Revision, Go string
		Modules               []struct{ Path, Version, Sum string }
	}
	if err := json.Unmarshal(said, &v); err != nil {
		t.Fatal(err)
	}
	if v.Version != "1.2.3" || v.Revision != "abc" || !strings.HasPrefix(v.Go, "go1.") || len(v.Modules) < 5 {
		t.Errorf("%s", said)
	}
	for _, m := range v.Modules {
		if m.Path == "" || m.Version == "" || !strings.HasPrefix(m.Sum, "h1:") {
			t.Errorf("module %+v", m)
		}
	}
}

// copySource copies what a build needs of this module.
func copySource(to string) error {
	const from = "../.."
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if strings.HasPrefix(e.Name(), ".") && rel != "." || rel == "test" || rel == "docs" || rel == "tools" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, st.Mode())
	})
}

// The unit keeps what an attacker inside the process would want away from it.
func TestUnitIsHardened(t *testing.T) {
	b, err := os.ReadFile("../../deploy/ostiary.service")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		has[strings.TrimSpace(line)] = true
	}
	for _, want := range []string{
		"NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "CapabilityBoundingSet=",
		"RestrictNamespaces=yes", "MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
		"UMask=0077", "LimitCORE=0", "User=ostiary",
	} {
		if !has[want] {
			t.Errorf("%s is missing", want)
		}
	}
}
