package attack

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// catalogue is how many threats each group has.
var catalogue = map[string]int{
	"A": 19, "B": 15, "C": 11, "D": 18, "E": 16, "F": 11, "G": 10, "H": 10, "I": 10, "J": 8,
	"K": 7, "L": 6, "M": 12, "N": 7, "O": 11, "P": 7, "Q": 7, "R": 10, "S": 9,
}

// growing are the groups whose engines come piece by piece: who shows another of
// their threats need not shorten the list at the same moment.
const growing = "EFIJKLNOS"

// TestEveryThreatIsShown demands of each threat of the catalogue that a test
// is named for it, or that the list of those that do not apply yet says why.
// What names a test is the file of a story here, a test function, a subtest,
// or the name of a table's entry; a comment or a message does not. A threat
// in both places is an error too, outside the groups that grow, so that the
// list tells the truth.
func TestEveryThreatIsShown(t *testing.T) {
	shown, err := named("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range slices.Sorted(maps.Keys(catalogue)) {
		for n := range catalogue[group] {
			id := fmt.Sprintf("%s%02d", group, n+1)
			why, absent := notYet[id]
			switch {
			case len(shown[id]) == 0 && !absent:
				t.Errorf("no test is named for %s", id)
			case len(shown[id]) > 0 && absent && strings.Contains(growing, group):
				t.Logf("%s is shown and can leave the list", id)
			case len(shown[id]) > 0 && absent:
				t.Errorf("%s does not apply yet (%s), but is shown by %v", id, why, shown[id])
			case absent && strings.TrimSpace(why) == "":
				t.Errorf("%s is not shown, without a reason", id)
			}
			delete(shown, id)
		}
	}
	for id, where := range shown {
		t.Errorf("there is no threat %s, which %v shows", id, where)
	}
	for id := range notYet {
		if n, err := strconv.Atoi(id[1:]); err != nil || n < 1 || n > catalogue[id[:1]] {
			t.Errorf("there is no threat %s", id)
		}
	}
}

// TestAMentionShowsNothing: what counts as a test's name, and what does not.
func TestAMentionShowsNothing(t *testing.T) {
	const source = `package p
// A01 is mentioned.
func TestA02Function(t *testing.T) { t.Errorf("A03 went wrong"); x := "A04"; _ = x }
func TestTable(t *testing.T) {
	for _, c := range []struct{ name, in string }{{"A05 first member", "A06"}, {name: "A07 by key", in: "A08"}} {}
	for name := range map[string]int{"A09 A10 two at once": 1} { _ = name }
	for _, name := range []string{"A11 in a list"} { t.Run(name, nil) }
	t.Run("A12 "+name, nil)
	t.Run(fmt.Sprintf("A13 %s", name), nil)
	t.Log("A14 logged")
}`
	got := map[string][]string{}
	if err := namesIn("x_test.go", source, got); err != nil {
		t.Fatal(err)
	}
	if all := slices.Sorted(maps.Keys(got)); !slices.Equal(all, []string{"A02", "A05", "A07", "A09", "A10", "A12", "A13"}) {
		t.Errorf("found %v", all)
	}
}

var (
	// leading are the ids a name begins with.
	leading = regexp.MustCompile(`^([A-S]\d{2})(?:\b[ ,-]*|_)`)
	// inFunction is an id in the name of a test function.
	inFunction = regexp.MustCompile(`[A-S]\d{2}`)
)

// named finds every threat that a test below root is named for, and where.
func named(root string) (map[string][]string, error) {
	shown := map[string][]string{}
	files := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return fs.SkipDir
		case d.IsDir() || d.Name() == "coverage_test.go" || d.Name() == "notyet_test.go":
			return nil
		case strings.HasSuffix(p, ".txtar") && strings.HasSuffix(filepath.Dir(p), filepath.Join("attack", "testdata")):
			for _, id := range idsOf(d.Name()) {
				shown[id] = append(shown[id], p)
			}
		case strings.HasSuffix(p, "_test.go"):
			files++
			return namesIn(p, nil, shown)
		}
		return nil
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("no tests below %s", root)
	}
	return shown, err
}

// idsOf returns the ids that a name begins with.
func idsOf(name string) (ids []string) {
	for {
		m := leading.FindStringSubmatch(name)
		if m == nil {
			return ids
		}
		ids, name = append(ids, m[1]), name[len(m[0]):]
	}
}

// namesIn adds what tests of one file are named for.
func namesIn(path string, source any, shown map[string][]string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	add := func(e ast.Expr) {
		for _, id := range idsOf(beginning(e)) {
			shown[id] = append(shown[id], fset.Position(e.Pos()).String())
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if strings.HasPrefix(n.Name.Name, "Test") {
				for _, id := range inFunction.FindAllString(n.Name.Name, -1) {
					shown[id] = append(shown[id], fset.Position(n.Pos()).String())
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Run" && len(n.Args) == 2 {
				add(n.Args[0])
			}
		case *ast.KeyValueExpr: // of a map, or a field called name
			if k, ok := n.Key.(*ast.Ident); ok && k.Name == "name" {
				add(n.Value)
			} else if !ok {
				add(n.Key)
			}
		case *ast.CompositeLit: // a struct without keys, whose name comes first
			if _, list := n.Type.(*ast.ArrayType); !list && len(n.Elts) > 1 {
				add(n.Elts[0])
			}
		}
		return true
	})
	return nil
}

// beginning is what is known of the text of an expression: its literal, or the
// literal it begins with.
func beginning(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		return beginning(e.X)
	case *ast.CallExpr: // fmt.Sprintf
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" && len(e.Args) > 0 {
			return beginning(e.Args[0])
		}
	}
	return ""
}
