package attack

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryThreatIsShown looks for each threat that touches what exists: it
// must have a story here or a table case that carries its id, somewhere in
// the tests. A threat that nobody shows is not defended.
func TestEveryThreatIsShown(t *testing.T) {
	want := map[string]bool{}
	for group, numbers := range map[string][]int{
		"A": upTo(19), "B": upTo(15), "C": {1, 2, 3, 4, 5, 9, 11}, "D": upTo(18),
		"E": {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, "F": {1, 2}, "G": {1, 2, 3}, "H": {1, 2, 3, 4, 7, 8, 9, 10}, "M": {1, 2, 3, 4}, "S": {2, 6, 8},
	} {
		for _, n := range numbers {
			want[fmt.Sprintf("%s%02d", group, n)] = false
		}
	}
	id := regexp.MustCompile(`\b([A-S]\d{2})\b`)
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && (d.Name() == "node_modules" || d.Name() == ".git") {
				return fs.SkipDir
			}
			return err
		}
		base := filepath.Base(p)
		if base == "coverage_test.go" || !strings.HasSuffix(base, "_test.go") && !strings.HasSuffix(base, ".txtar") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range id.FindAllString(base+"\n"+string(b), -1) {
			if _, ok := want[m]; ok {
				want[m] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, shown := range want {
		if !shown {
			t.Errorf("no story and no table case carries %s", id)
		}
	}
}

func upTo(n int) (all []int) {
	for i := 1; i <= n; i++ {
		all = append(all, i)
	}
	return all
}
