package story

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// canary searches files and folders for a secret, as it stands and as it looks
// in hex, in base64 at each of the three offsets, and in a URL:
//
//	canary WORD PATH...
//
// It fails if it finds any, or (with "!") if it finds none, so that a story
// can show that the search works.
func canary(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: canary WORD PATH...")
	}
	found, read := "", 0
	for _, root := range args[1:] {
		err := filepath.WalkDir(ts.MkAbs(root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			read++
			for name, form := range forms(args[0]) {
				if bytes.Contains(b, []byte(form)) {
					found = path + " (" + name + ")"
				}
			}
			return nil
		})
		ts.Check(err)
	}
	switch {
	case read == 0:
		ts.Fatalf("nothing was searched")
	case !neg && found != "":
		ts.Fatalf("the secret stands in %s", found)
	case neg && found == "":
		ts.Fatalf("the secret was not found where it must be")
	}
}

// forms are the ways a secret may have been written down.
func forms(word string) map[string]string {
	all := map[string]string{"as it is": word, "hex": hex.EncodeToString([]byte(word)), "URL": url.QueryEscape(word)}
	for pad := range 3 {
		b := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", pad) + word))
		all["base64"+strings.Repeat("'", pad)] = b[(pad*8+5)/6 : len(b)-2] // without the characters it shares with its neighbours
	}
	return all
}
