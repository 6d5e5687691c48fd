package policy

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"go.yaml.in/yaml/v3"
)

// ReadDir reads a policy folder: every *.cedar file in it and below it,
// groups.yaml, autonomy.yaml, undo.yaml, and tests/*.json. Names that begin with a dot are passed over.
// A link to another folder is refused: policies behind it would silently not
// count.
func ReadDir(dir string) (Source, error) {
	src := Source{Files: map[string][]byte{}}
	total := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != dir && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.Type()&fs.ModeSymlink != 0 {
			if st, err := os.Stat(path); err != nil || st.IsDir() {
				return ostiary.Errorf(ostiary.Malformed, "policy_folder", "%s is a link that leads to no file; policies behind it would not count", rel).Because(err)
			}
		}
		if d.IsDir() || !wanted(rel) {
			return nil
		}
		b, err := readFile(path)
		if err != nil {
			return err
		}
		if total += len(b); len(b) > maxFile || total > maxSource {
			return ostiary.Errorf(ostiary.Malformed, "policy_folder", "%s: the policy folder is larger than %d MiB, or this file than %d MiB", rel, maxSource>>20, maxFile>>20)
		}
		src.Files[rel] = b
		return nil
	})
	if err != nil {
		if e, ok := err.(*ostiary.Error); ok {
			return Source{}, e
		}
		return Source{}, ostiary.Errorf(ostiary.Unavailable, "policy_folder", "cannot read the policy folder").At(dir).Because(err)
	}
	return src, nil
}

func wanted(rel string) bool {
	return isPolicyFile(rel) || rel == fileGroups || rel == fileLabels || rel == fileAutonomy || rel == fileUndo || (strings.HasPrefix(rel, dirTests) && strings.HasSuffix(rel, ".json"))
}

// readFile reads one byte more than is allowed, so that the caller sees an
// oversize file without reading all of it.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// maxGroups is the size of groups.yaml: a list of names has no use for more.
const maxGroups = 256 << 10

var groupPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

// groups reads groups.yaml: each key is a group, its value a list of actions.
func (c *compiler) groups(text string, tools []toolDecl) []groupDecl {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	severity := Error
	report := func(n *yaml.Node, code, suggestion, msg string) {
		p := Problem{File: fileGroups, Severity: severity, Code: code, Message: msg, Suggestion: suggestion}
		if n != nil {
			p.Line, p.Column = n.Line, n.Column
		}
		c.problems = append(c.problems, p)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	if len(text) > maxGroups {
		report(nil, "too_large", "", "the file is too large")
		return nil
	}
	if err := dec.Decode(&doc); err == io.EOF {
		return nil // only comments
	} else if err != nil || dec.Decode(new(yaml.Node)) != io.EOF {
		report(nil, "groups", "", "this is not one YAML document")
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		report(root, "groups", "payments: [bank___send_money]", "each line must be a group and its actions")
		return nil
	}
	known := actionNames(tools)
	var out []groupDecl
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, val := root.Content[i], root.Content[i+1]
		if msg := c.groupName(key, known, out); msg != "" {
			report(key, "group_name", "", msg)
			continue
		}
		g := groupDecl{Name: key.Value}
		if val.Kind != yaml.SequenceNode {
			report(val, "groups", "", "the group "+key.Value+" needs a list of actions")
			continue
		}
		for _, m := range val.Content {
			near := nearest(m.Value, known)
			if m.Kind == yaml.ScalarNode && awaited(m.Value, tools) && near == "" {
				severity = Warning
				report(m, "not_accepted", "see ostiary tools list", "no tool of "+serverOf(m.Value)+" is accepted yet, so "+m.Value+" is in no group")
				severity = Error
				continue
			}
			if m.Kind != yaml.ScalarNode || !slices.Contains(known, m.Value) {
				report(m, "unknown_action", didYouMean(near), "there is no action "+m.Value+"; only accepted tools have one")
				continue
			}
			g.Members = append(g.Members, m.Value)
		}
		slices.Sort(g.Members)
		g.Members = slices.Compact(g.Members)
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b groupDecl) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (c *compiler) groupName(key *yaml.Node, actions []string, have []groupDecl) string {
	name := key.Value
	if key.Kind != yaml.ScalarNode || !groupPattern.MatchString(name) || strings.Contains(name, "___") {
		return "a group's name begins with a letter and holds letters, digits, dash and single underscores"
	}
	for fixed := range groupParents() {
		if strings.EqualFold(fixed, name) {
			return "the group " + fixed + " is the gateway's own"
		}
	}
	for _, a := range actions {
		if strings.EqualFold(a, name) {
			return name + " is an action"
		}
	}
	for _, g := range have {
		if strings.EqualFold(g.Name, name) {
			return "the group " + g.Name + " is already there"
		}
	}
	return ""
}

// actionNames lists the actions a group may hold.
func actionNames(tools []toolDecl) []string {
	var out []string
	for i := range tools {
		out = append(out, tools[i].action())
	}
	for _, m := range Methods() {
		if !m.Self {
			out = append(out, m.Name)
		}
	}
	slices.Sort(out)
	return out
}

func didYouMean(s string) string {
	if s == "" {
		return ""
	}
	return "did you mean " + s + "?"
}
