package policy

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// Set is a compiled policy folder: checked, indexed, immutable.
type Set struct {
	files     map[string]string // the policy files, as they were read
	world     *world
	authorize *index
	obligate  *index
	shadow    *index // candidates: checked and kept, never enforced
	autonomy  []autonomyRule
	digest    ostiary.Digest
}

// Digest covers the policies, groups and pinned tools.
func (s *Set) Digest() ostiary.Digest { return s.digest }

// Files returns the names of the folder's files, sorted.
func (s *Set) Files() []string { return slices.Sorted(maps.Keys(s.files)) }

// Text returns a file as it was compiled, "" for one that is not among Files.
func (s *Set) Text(name string) string { return s.files[name] }

// Policies returns how many policies decide, built-in ones included.
func (s *Set) Policies() int { return s.total() }

// Candidates returns how many policies are in shadow/.
func (s *Set) Candidates() int { return len(s.shadow.policies) }

// Schema returns the generated Cedar schema as text, for review beside the
// policies. The same tools and groups give the same text.
func (s *Set) Schema() []byte { return slices.Clone(s.world.schema.text) }

// ruleset is the part of a folder a file belongs to.
type ruleset uint8

const (
	setAuthorize ruleset = iota
	setObligate
	setShadow
)

// The files of a policy folder.
const (
	dirObligate = "obligate/"
	dirShadow   = "shadow/"
	dirTests    = "tests/"
	fileGroups  = "groups.yaml"
	fileLabels  = "labels.yaml" // read by others; published and signed with the policies
)

// builtin policies are in every set and come first: only the gateway reads
// servers' definitions on its own behalf, and it does nothing else. That
// nobody else may is the schema's doing; an operator's forbid can still stop
// it.
const builtin = `@id("ostiary-discover")
@reason("the gateway reads the definitions of the servers it guards")
permit (principal is Ostiary::Gateway, action == Ostiary::Action::"discover_server", resource is Ostiary::Server);
`

const builtinFile = "(built in)"

// Compile checks a folder against the pinned tools and makes it ready to
// decide. Problems come sorted by place; if one of them is an error there is
// no Set. Only tools that were accepted have actions.
func Compile(src Source, tools []*ostiary.Tool) (*Set, []Problem) {
	c := &compiler{ids: map[string]string{}, files: map[string]string{}}
	decls, problems := declare(tools)
	c.problems = problems
	set := c.run(src, decls)
	return set, c.finish()
}

type compiler struct {
	world    *world
	files    map[string]string
	lists    [3][]compiled
	ids      map[string]string // case-folded id to the place it was first used
	rules    []autonomyRule
	problems []Problem
}

func (c *compiler) finish() []Problem {
	slices.SortFunc(c.problems, func(a, b Problem) int {
		if x := strings.Compare(a.File, b.File); x != 0 {
			return x
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Code+a.Message, b.Code+b.Message)
	})
	return slices.Compact(c.problems)
}

func (c *compiler) errors() bool {
	return slices.ContainsFunc(c.problems, func(p Problem) bool { return p.Severity == Error })
}

func (c *compiler) run(src Source, tools []toolDecl) *Set {
	total := 0
	for _, name := range slices.Sorted(maps.Keys(src.Files)) {
		body := src.Files[name]
		if total += len(body); len(body) > maxFile || total > maxSource {
			c.problems = append(c.problems, Problem{File: name, Code: "too_large", Message: "the policy folder is larger than policy will read"})
			return nil
		}
		if isPolicyFile(name) || name == fileGroups || name == fileLabels || name == fileAutonomy || name == fileUndo {
			c.files[name] = string(body)
		}
	}
	groups := c.groups(c.files[fileGroups], tools)
	undos := c.undos(c.files[fileUndo], tools)
	if c.errors() {
		return nil
	}
	var err error
	if c.world, err = newWorld(tools, groups, undos); err != nil {
		c.problems = append(c.problems, Problem{Code: "schema", Message: err.Error()})
		return nil
	}
	c.file(builtinFile, builtin, setAuthorize)
	if text := c.table(c.files[fileAutonomy]); !c.errors() {
		c.file(fileAutonomy, text, setAuthorize)
	}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		if isPolicyFile(name) {
			c.policyFile(name)
		}
	}
	if c.errors() {
		return nil
	}
	set := newSet(c.files, c.world, c.lists)
	set.autonomy = c.rules
	return set
}

func isPolicyFile(name string) bool { return strings.HasSuffix(name, ".cedar") }

func (c *compiler) policyFile(name string) {
	switch {
	case strings.HasPrefix(name, dirObligate):
		c.file(name, c.files[name], setObligate)
	case strings.HasPrefix(name, dirShadow):
		c.file(name, c.files[name], setShadow)
	case strings.HasPrefix(name, dirTests):
		c.problems = append(c.problems, Problem{File: name, Code: "folder", Message: "policies in tests/ would not be enforced; move this file"})
	default:
		c.file(name, c.files[name], setAuthorize)
	}
}

func newSet(files map[string]string, w *world, lists [3][]compiled) *Set {
	s := &Set{files: files, world: w}
	s.authorize, s.obligate, s.shadow = newIndex(lists[0]).know(w.base), newIndex(lists[1]).know(w.base), newIndex(lists[2]).know(w.base)
	s.digest = sha256.Sum256(content{Files: files, Tools: w.tools}.encode())
	return s
}

// content is what a Set is made from: encoded, it is what the digest covers
// and what a snapshot carries.
type content struct {
	Files map[string]string `json:"files"`
	Tools []toolDecl        `json:"tools"`
}

// encode is deterministic: maps are written in the order of their keys.
func (c content) encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic("policy: strings and numbers always encode: " + err.Error())
	}
	return b
}

// place reports problems of one file.
type place struct {
	c    *compiler
	file string
	lines
}

func (p place) report(sev Severity, at int, code, suggestion, format string, args ...any) {
	line, col := p.position(at)
	p.c.problems = append(p.c.problems, Problem{p.file, line, col, sev, code, fmt.Sprintf(format, args...), suggestion})
}

// file compiles one file's policies into a set.
func (c *compiler) file(name, src string, set ruleset) {
	p := place{c, name, newLines(src)}
	if e := odd(src); e != nil {
		p.report(Error, e.at, e.code, "type it again in plain letters", "%s", e.msg)
	}
	segments, e := split(src)
	if e != nil {
		p.report(Error, e.at, e.code, "", "%s", e.msg)
		return
	}
	if len(c.lists[set])+len(segments) > maxPolicies {
		p.report(Error, 0, "too_many_policies", "", "there are more than %d policies", maxPolicies)
		return
	}
	for i := range segments {
		c.policy(p, &segments[i], set)
	}
}

// policy parses and checks one policy.
func (c *compiler) policy(p place, seg *segment, set ruleset) {
	defer func() {
		if x := recover(); x != nil {
			p.report(Error, seg.start, "internal", "", "this policy cannot be read: %v", x)
		}
	}()
	parsed, err := cedar.NewPolicyListFromBytes(p.file, []byte(p.src[seg.start:seg.end]))
	if err != nil {
		at, msg := syntaxError(p, seg, err)
		p.report(Error, at, "syntax", "", "%s", msg)
		return
	}
	if len(parsed) != 1 {
		p.report(Error, seg.start, "syntax", "", "this text is not exactly one policy")
		return
	}
	k := &check{place: p, seg: seg, set: set, policy: parsed[0], rule: ruleOf(parsed[0]), world: c.world}
	k.id = c.identify(k)
	k.run()
	if k.dormant() {
		return
	}
	line, _ := p.position(seg.start)
	k.meta.where = fmt.Sprintf("%s:%d", p.file, line)
	c.lists[set] = append(c.lists[set], compiled{id: cedar.PolicyID(k.id), policy: parsed[0], rule: k.rule, meta: k.meta})
}

var (
	cedarPosition = regexp.MustCompile(`<input>:(\d+):(\d+)`)
	idPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// syntaxError moves a parser's error from the segment to the file.
func syntaxError(p place, seg *segment, err error) (at int, msg string) {
	msg = strings.TrimPrefix(err.Error(), "parser error: ")
	m := cedarPosition.FindStringSubmatchIndex(msg)
	if m == nil {
		return seg.start, msg
	}
	var line, col int
	fmt.Sscan(msg[m[2]:m[3]], &line)
	fmt.Sscan(msg[m[4]:m[5]], &col)
	at = seg.start
	for ; line > 1; line-- {
		n := strings.IndexByte(p.src[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	for range col - 1 {
		if at < seg.end {
			at++
		}
	}
	msg = strings.TrimPrefix(msg, "parse error at ")
	msg = strings.TrimSpace(cedarPosition.ReplaceAllString(msg, ""))
	return at, "this is not Cedar, near " + msg
}

// identify checks @id: present, plain, and used once, also when case is
// ignored.
func (c *compiler) identify(k *check) string {
	id := string(k.policy.Annotations()["id"])
	builtIn := k.file == builtinFile
	switch {
	case id == "":
		k.report(Error, k.seg.start, "no_id", `begin it with @id("a-name")`, "this policy has no @id")
	case !idPattern.MatchString(id):
		k.report(Error, k.annotationAt("id"), "bad_id", "", "@id(%q) may hold only letters, digits, dot, dash and underscore, at most 64", id)
	case strings.HasPrefix(strings.ToLower(id), "ostiary-") && !builtIn:
		k.report(Error, k.annotationAt("id"), "reserved_id", "", "@id(%q): names beginning with ostiary- are the gateway's own", id)
	}
	folded := strings.ToLower(id)
	if first, ok := c.ids[folded]; ok && id != "" {
		k.report(Error, k.annotationAt("id"), "id_twice", "", "@id(%q) is already used at %s", id, first)
	} else if id != "" {
		line, _ := k.position(k.seg.start)
		c.ids[folded] = fmt.Sprintf("%s:%d", k.file, line)
	}
	return id
}
