package ostiary_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

// sourceCodes finds every code that the source can give an error or a
// decision: literals where a code is wanted, by the name of the field or of
// the parameter, and what is put together from the names of steps.
func sourceCodes(t *testing.T) (found map[string][]string, kinds map[pair]string) {
	t.Helper()
	found, kinds = map[string][]string{}, map[pair]string{}
	packages := map[string][]*ast.File{}
	set := token.NewFileSet()
	for _, f := range goFiles(t) {
		if f.test || strings.HasSuffix(f.pkg, "test") || strings.HasPrefix(f.pkg, "test/") || f.pkg == "internal/demo" {
			continue // what tests and the demo's own tool server say is no gateway's word
		}
		file, err := parser.ParseFile(set, f.name, f.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		packages[f.pkg] = append(packages[f.pkg], file)
	}
	for _, files := range packages {
		c := collector{set: set, at: map[string]int{}, found: found, kinds: kinds}
		for _, f := range files {
			c.parameters(f)
		}
		for _, f := range files {
			ast.Inspect(f, c.visit)
		}
	}
	for code := range found {
		if !codeSyntax.MatchString(code) { // another function of that name takes a sentence there
			delete(found, code)
		}
	}
	return found, kinds
}

type collector struct {
	set   *token.FileSet
	at    map[string]int // by function of the package: which argument is a code
	found map[string][]string
	kinds map[pair]string
}

// pair is a code with the kind it is used with.
type pair struct {
	code string
	kind ostiary.Kind
}

// parameters notes the functions that are handed a code.
func (c *collector) parameters(f *ast.File) {
	note := func(name string, typ *ast.FuncType) {
		i := 0
		for _, p := range typ.Params.List {
			for _, n := range p.Names {
				if n.Name == "code" || name == "named" && n.Name == "step" {
					c.at[name] = i
				}
				i++
			}
		}
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			note(fn.Name.Name, fn.Type)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool { // functions in variables
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == 1 && len(a.Rhs) == 1 {
			if id, ok := a.Lhs[0].(*ast.Ident); ok {
				if fn, ok := a.Rhs[0].(*ast.FuncLit); ok {
					note(id.Name, fn.Type)
				}
			}
		}
		return true
	})
}

func (c *collector) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
		}
		i, ok := c.at[name]
		if name == "Errorf" && !isPackage(n.Fun, "fmt") {
			i, ok = 1, true
			c.pair(n.Args)
		}
		if ok && i < len(n.Args) {
			c.take(n.Args[i], name == "named")
		}
	case *ast.ValueSpec: // const CodeForbid = "forbid"
		for i, name := range n.Names {
			if strings.HasPrefix(name.Name, "Code") && i < len(n.Values) {
				c.take(n.Values[i], false)
			}
		}
	case *ast.KeyValueExpr:
		if id, ok := n.Key.(*ast.Ident); ok && id.Name == "Code" {
			c.take(n.Value, false)
		}
	case *ast.AssignStmt: // e.Code = "held", code = "x", step := "record"
		for i, l := range n.Lhs {
			if len(n.Lhs) != len(n.Rhs) {
				break
			}
			switch l := l.(type) {
			case *ast.SelectorExpr:
				if l.Sel.Name == "Code" {
					c.take(n.Rhs[i], false)
				}
			case *ast.Ident:
				if l.Name == "code" || l.Name == "step" {
					c.take(n.Rhs[i], l.Name == "step")
				}
			}
		}
	}
	return true
}

// what a guarded step can be refused with beside its neighbour's own words;
// see internal/gate, wary.
var ofSteps = []string{"_panic", "_timeout", "_failed"}

// take notes a literal. A step's name stands for the codes that are made of it.
func (c *collector) take(e ast.Expr, step bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		if e.Kind != token.STRING || err != nil || s == "" {
			return
		}
		at := c.set.Position(e.Pos())
		where := fmt.Sprintf("%s:%d", at.Filename, at.Line)
		if !step {
			c.found[s] = append(c.found[s], where)
			return
		}
		for _, end := range ofSteps {
			c.found[s+end] = append(c.found[s+end], where)
		}
	case *ast.BinaryExpr: // step + "_nobody": steps that do it are few, and named here
		if lit, ok := e.Y.(*ast.BasicLit); ok {
			end, _ := strconv.Unquote(lit.Value)
			for _, s := range map[string][]string{"_nobody": {"authenticate", "confirm"}, "_unproven": {"record", "settle"}}[end] {
				c.found[s+end] = append(c.found[s+end], c.set.Position(lit.Pos()).String())
			}
		}
		if lit, ok := e.X.(*ast.BasicLit); ok && lit.Value == `"unknown_"` {
			for _, kind := range []string{"tool", "prompt"} {
				c.found["unknown_"+kind] = append(c.found["unknown_"+kind], c.set.Position(lit.Pos()).String())
			}
		}
	}
}

// pair notes the kind that is written beside a code.
func (c *collector) pair(args []ast.Expr) {
	if len(args) < 2 {
		return
	}
	name := ""
	switch k := args[0].(type) {
	case *ast.Ident:
		name = k.Name
	case *ast.SelectorExpr:
		name = k.Sel.Name
	}
	lit, ok := args[1].(*ast.BasicLit)
	if !ok {
		return
	}
	code, err := strconv.Unquote(lit.Value)
	for _, k := range ostiary.Kinds {
		if err == nil && strings.EqualFold(k.String(), name) {
			c.kinds[pair{code, k}] = c.set.Position(lit.Pos()).String()
		}
	}
}

func isPackage(f ast.Expr, name string) bool {
	s, ok := f.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == name
}

// made are codes that no literal spells where a code is wanted, each with
// where it comes from.
var made = map[string]string{
	"quarantined": "the name of a level of containment; internal/gate, passes",
	"suspended":   "the name of a level of containment; internal/gate, passes",
}

var codeSyntax = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// TestCodes: the table holds every code of the source, with its kind, and
// nothing else.
func TestCodes(t *testing.T) {
	found, kinds := sourceCodes(t)
	if len(found) < 300 {
		t.Fatalf("found %d codes: looked in the wrong place", len(found))
	}
	listed := map[string][]ostiary.Kind{}
	for _, c := range ostiary.Codes() {
		if slices.Contains(listed[c.Name], c.Kind) {
			t.Errorf("%s stands twice as %s", c.Name, c.Kind)
		}
		listed[c.Name] = append(listed[c.Name], c.Kind)
		if c.Meaning == "" || c.Remedy == "" || !codeSyntax.MatchString(c.Name) {
			t.Errorf("%q: it needs a name of letters, a meaning and a remedy", c.Name)
		}
		if found[c.Name] == nil && made[c.Name] == "" {
			t.Errorf("%s is listed, and nothing uses it", c.Name)
		}
	}
	for code, at := range found {
		if listed[code] == nil {
			t.Errorf("%s is used at %s and not listed in codes.go", code, at[0])
		}
	}
	for pair, at := range kinds {
		if !slices.Contains(listed[pair.code], pair.kind) {
			t.Errorf("%s is used as %s at %s and not listed so", pair.code, pair.kind, at)
		}
	}
}

var update = flag.Bool("update", false, "write the reference of codes")

// TestCodesReference: the page says what the table says.
func TestCodesReference(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Codes

Why something was refused or failed, in one stable word: in refusals to agents (` + "`dev.ostiary/code`" + ` or the data of a JSON-RPC error), in
entries of the log, in errors of commands and of the control API, and in the gateway's log. Of a credential that was not accepted and of a bug
of ours callers read the kind alone. This page is made from the table in ` + "`codes.go`" + `.

| code | kind | what it means | what to do |
|---|---|---|---|
`)
	for _, c := range ostiary.Codes() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c.Name, c.Kind, c.Meaning, c.Remedy)
	}
	const page = "docs/reference/codes.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(page); err != nil || string(have) != b.String() {
		t.Errorf("%s is not what codes.go says; go test . -run TestCodesReference -update", page)
	}
}

// unshown are reasons to refuse that no test produces, each with why not.
var unshown = map[string]string{
	"no_mandate":       "needs a revocation between two steps of one call that read the same directory in memory",
	"unknown_agent":    "needs a revocation between two steps of one call that read the same directory in memory",
	"renew_needs_svid": "the handler hands over certificates only; it is a second lock",
	"no_svid":          "its story, connect, goes by the sentence that people read",

	// The tests of people who sign in, and of what is derived and proven, go
	// by kind or field: these are not told apart yet.
	"derive_needs_proof": "by kind", "derive_rate": "by kind", "derive_many": "it takes a thousand mandates", "mandate_other": "by kind", "not_admitted": "by kind", "not_signed_in": "by kind", "oidc_host": "by kind", "oidc_refused": "by kind",
	"oidc_sign_in": "by kind", "passkeys": "by kind", "person_revoked": "by kind", "proof_rate": "by kind", "too_many": "it takes a thousand persons",
}

// TestReasonsAreShown: what refuses somebody is produced by a test, which
// names it, in a table or a story.
func TestReasonsAreShown(t *testing.T) {
	shown := map[string]bool{}
	constants := map[string]string{} // CodeForbid: forbid
	for _, f := range goFiles(t) {
		for _, m := range regexp.MustCompile(`\b(Code[A-Z]\w*)\s+=\s+"(\w+)"`).FindAllStringSubmatch(f.source, -1) {
			constants[m[1]] = m[2]
		}
	}
	named := regexp.MustCompile(`\bCode[A-Z]\w*`)
	word := regexp.MustCompile(`[a-z][a-z0-9]*(?:_[a-z0-9]+)*`)
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && (d.Name() == ".git" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			return err
		}
		if p == "codes_test.go" || !strings.HasSuffix(p, "_test.go") && !strings.HasSuffix(p, ".txtar") {
			return nil
		}
		text, err := os.ReadFile(p)
		for _, w := range word.FindAllString(string(text), -1) {
			shown[w] = true
		}
		for _, w := range named.FindAllString(string(text), -1) {
			shown[constants[w]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range ostiary.Codes() {
		switch c.Kind {
		case ostiary.Denied, ostiary.Contained, ostiary.Exhausted, ostiary.Unauthenticated:
		default:
			continue
		}
		n++
		switch why, excused := unshown[c.Name]; {
		case !shown[c.Name] && !excused:
			t.Errorf("no test names %s (%s)", c.Name, c.Kind)
		case shown[c.Name] && excused:
			t.Errorf("%s is excused (%s), and a test names it", c.Name, why)
		}
	}
	if n < 50 {
		t.Errorf("only %d reasons", n)
	}
}
