package ostiary_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ostiary/ostiary"

// floors is the table of DESIGN: a package imports lower floors only, and
// packages on one floor are strangers. The longest matching prefix counts.
var floors = map[string]int{
	"":                     0,
	"proof":                1,
	"verify":               1,
	"internal/strictjson":  1,
	"internal/mcpwire":     1,
	"internal/stricthttp":  1,
	"internal/keyring":     1,
	"internal/durable":     1,
	"internal/record":      1,
	"internal/deferred":    1,
	"internal/rotation":    1,
	"internal/identity":    2,
	"internal/mandate":     2,
	"internal/budget":      2,
	"internal/policy":      2,
	"internal/catalog":     2,
	"internal/containment": 2,
	"internal/provenance":  2,
	"internal/ledger":      2,
	"internal/people":      2,
	"internal/approval":    2,
	"internal/registry":    2,
	"internal/gate":        3,
	"internal/store":       3,
	"internal/door":        4,
	"internal/egress":      4,
	"internal/control":     4,
	"internal/telemetry":   4, // it observes the gate, and is a door of its own for who counts
	"internal/bridge":      5,
	"internal/console":     5,
	"internal/daemon":      6,
	"internal/demo":        7,
	"cmd":                  7,
	"test":                 7,
}

// neighbours are the imports along one floor that the table allows, each with
// its reason.
var neighbours = map[[2]string]string{
	{"internal/mcpwire", "internal/strictjson"}:  "MCP's envelope is read by the strict scanner",
	{"internal/deferred", "internal/strictjson"}: "a stored argument is read like one that arrived",
	{"verify", "internal/strictjson"}:            "nothing else reads foreign JSON",
	{"internal/rotation", "internal/record"}:     "the schedule is one record, which every process of a store follows",
}

// onlyFrom lists packages that only the named floors' packages may import.
var onlyFrom = map[string][]string{
	"internal/store": {"internal/daemon", "test"},
}

// dialers are the packages that may open connections; see law 4. The store
// dials its database, through the library that TestAdapters keeps there.
var dialers = []string{"internal/egress"}

// floorOf returns the entry of the table a package belongs to.
func floorOf(pkg string) (string, int, bool) {
	for p := pkg; ; p = path.Dir(p) {
		if p == "." || p == "/" {
			p = ""
		}
		if f, ok := floors[p]; ok && (p != "" || pkg == "") {
			return p, f, true
		}
		if p == "" {
			return "", 0, false
		}
	}
}

type file struct {
	pkg, name string
	test      bool
	imports   []string
	doc       bool
	source    string
}

func goFiles(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			n := d.Name()
			_, err := os.Stat(filepath.Join(p, "go.mod")) // a module of its own
			if p != "." && (strings.HasPrefix(n, ".") || n == "testdata" || n == "node_modules" || err == nil) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, src, parser.ParseComments)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(p))
		if pkg == "." {
			pkg = ""
		}
		out := file{pkg: pkg, name: p, test: strings.HasSuffix(p, "_test.go"), doc: f.Doc != nil, source: string(src)}
		for _, i := range f.Imports {
			s, _ := strconv.Unquote(i.Path.Value)
			out.imports = append(out.imports, s)
		}
		files = append(files, out)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d Go files: looked in the wrong place", len(files))
	}
	return files
}

func TestFloors(t *testing.T) {
	for _, f := range goFiles(t) {
		self, floor, ok := floorOf(f.pkg)
		if !ok {
			t.Errorf("%s: package %q has no floor; add it to the table with the reason it exists", f.name, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			rel, ours := strings.CutPrefix(imp, module)
			if !ours {
				if f.pkg == "" && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") && !f.test {
					t.Errorf("%s: imports %s; the vocabulary imports the standard library only", f.name, imp)
				}
				continue
			}
			rel = strings.TrimPrefix(rel, "/")
			other, of, ok := floorOf(rel)
			switch {
			case !ok:
				t.Errorf("%s: imports %s, which has no floor", f.name, rel)
			case f.test || self == other || floor == 7:
				// Tests may look up; a package may use its own parts; the roof sees everyone.
			case of > floor:
				t.Errorf("%s: %s (floor %d) imports %s (floor %d): imports point down", f.name, f.pkg, floor, rel, of)
			case of == floor && neighbours[[2]string{self, other}] == "":
				t.Errorf("%s: %s and %s stand on one floor and are strangers: exchange values of the ground floor", f.name, f.pkg, rel)
			}
			if allowed, limited := onlyFrom[other]; limited && self != other && !f.test {
				fine := false
				for _, a := range allowed {
					fine = fine || self == a
				}
				if !fine {
					t.Errorf("%s: only %v may import %s", f.name, allowed, other)
				}
			}
		}
	}
}

// TestG09Dialers: nobody dials out but egress. Tests, the demo and the roof talk
// to what they started themselves.
func TestG09Dialers(t *testing.T) {
	words := []string{"net.Dial", "net.Dialer{", "http.DefaultClient", "http.DefaultTransport", "http.Get(", "http.Post(", "http.Client{", "http.Transport{", "tls.Dial"}
	for _, f := range goFiles(t) {
		self, floor, _ := floorOf(f.pkg)
		if f.test || floor == 7 || strings.HasSuffix(f.pkg, "test") {
			continue
		}
		allowed := false
		for _, d := range dialers {
			allowed = allowed || self == d
		}
		for _, w := range words {
			if strings.Contains(f.source, w) && !allowed {
				t.Errorf("%s: %s: only %v may open connections (law 4); take a client from there", f.name, w, dialers)
			}
		}
	}
}

// TestAdapters: libraries that may break, or that read foreign bytes loosely,
// stay where they are allowed.
func TestAdapters(t *testing.T) {
	only := map[string][]string{
		"github.com/cedar-policy/cedar-go":       {"internal/policy"},
		"github.com/go-json-experiment":          {"internal/strictjson", "proof"},
		"github.com/santhosh-tekuri/jsonschema":  {"internal/catalog"},
		"modernc.org/sqlite":                     {"internal/store"},
		"github.com/jackc/pgx":                   {"internal/store"},
		"github.com/go-jose/go-jose":             {"internal/identity", "internal/mandate"},
		"github.com/modelcontextprotocol/go-sdk": {"internal/demo"},
		"github.com/go-webauthn":                 {"internal/people"},
		"github.com/coreos/go-oidc":              {"internal/people"},
		"golang.org/x/oauth2":                    {"internal/people"},
		"go.opentelemetry.io":                    {"internal/telemetry"},
		"github.com/prometheus":                  {"internal/telemetry"},
		"github.com/golang-jwt":                  {},
		"github.com/tidwall/gjson":               {},
	}
	for _, f := range goFiles(t) {
		self, floor, _ := floorOf(f.pkg)
		if f.test || (floor == 7 && self == "test") {
			continue
		}
		for _, imp := range f.imports {
			for lib, homes := range only {
				if !strings.HasPrefix(imp, lib) {
					continue
				}
				fine := false
				for _, h := range homes {
					fine = fine || self == h
				}
				if !fine {
					t.Errorf("%s: imports %s, which belongs to %v", f.name, imp, homes)
				}
			}
		}
		if strings.Contains(strings.Join(f.imports, " ")+" ", "github.com/cedar-policy/cedar-go/x/exp") && path.Base(f.name) != "adapter.go" {
			t.Errorf("%s: cedar's experimental packages belong in adapter.go", f.name)
		}
	}
}

func TestPackageComments(t *testing.T) {
	has := map[string]bool{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		has[f.pkg] = has[f.pkg] || f.doc
	}
	for pkg, ok := range has {
		if !ok {
			t.Errorf("package %q has no package comment: say what it guarantees, trusts and does not do", pkg)
		}
	}
}
