package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ostiary/ostiary"
)

// A manifest that two readers could read differently is none.
func TestManifestIsReadStrictly(t *testing.T) {
	for text, good := range map[string]bool{
		`{"format":1}`:             true,
		`{"format":1,"format":1}`:  false,
		`{"format":2,"Format":1}`:  false,
		`{"format":1}{"format":2}`: false,
		`{"format":2}`:             false,
		``:                         false,
	} {
		path := filepath.Join(t.TempDir(), "manifest.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readManifest(path)
		if (err == nil) != good || err != nil && ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%q: %v", text, err)
		}
	}
}
