package identity_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/internal/identity"
)

// A root that is there and cannot be used is never replaced by a new one: that
// would be another trust domain, in which every agent is a stranger.
func TestRootIsNotReplaced(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, b *bench, path string){
		"cut": func(t *testing.T, _ *bench, path string) { write(t, path, read(t, path)[:100]) },
		"not a certificate": func(t *testing.T, _ *bench, path string) {
			write(t, path, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		},
		"two":                  func(t *testing.T, _ *bench, path string) { write(t, path, append(read(t, path), read(t, path)...)) },
		"another trust domain": func(_ *testing.T, b *bench, _ string) { b.opts.TrustDomain = "other.example" },
		"another root": func(t *testing.T, _ *bench, path string) {
			write(t, path, read(t, filepath.Join(open(t).opts.Dir, "root.pem")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			path := filepath.Join(b.opts.Dir, "root.pem")
			damage(t, b, path)
			before := read(t, path)
			if _, err := identity.Open(t.Context(), b.opts); err == nil || !strings.Contains(err.Error(), ".pem") {
				t.Errorf("it opened, or does not name the file: %v", err)
			}
			if string(read(t, path)) != string(before) {
				t.Error("the root was written over")
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
