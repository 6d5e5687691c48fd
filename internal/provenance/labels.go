package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
)

// LabelsFile is the name of the file of labels in a policy folder: it is
// published, signed and followed with the policies beside it.
const LabelsFile = "labels.yaml"

// maxLabels bounds the file.
const maxLabels = 1 << 20

// Labels is what an operator says of tools: what their arguments decide, and
// how far their results are to be trusted. It is immutable.
type Labels struct {
	servers map[string]map[string]*toolLabels
}

// toolLabels is one tool's entry. Everything that is absent is as guessed from
// the definition, except that no guess is trusted.
type toolLabels struct {
	Effect    *bool             `yaml:"effect,omitempty"`
	Outgoing  *bool             `yaml:"outgoing,omitempty"`
	Results   string            `yaml:"results,omitempty"`
	Classes   []string          `yaml:"classes,flow,omitempty"`
	Arguments map[string]string `yaml:"arguments,omitempty"`
	Fields    map[string]string `yaml:"fields,omitempty"`
	Own       []string          `yaml:"own,flow,omitempty"`
}

// ParseLabels reads a file of labels. Its errors name the line and what to
// write instead.
func ParseLabels(text []byte) (*Labels, error) {
	if len(text) > maxLabels {
		return nil, badLabels("the file is larger than %d bytes", maxLabels)
	}
	l := &Labels{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&l.servers); err != nil && !errors.Is(err, io.EOF) {
		return nil, badLabels("%v", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, badLabels("it holds more than one document")
	}
	for _, server := range slices.Sorted(maps.Keys(l.servers)) {
		for _, tool := range slices.Sorted(maps.Keys(l.servers[server])) {
			if err := l.servers[server][tool].check(server + "." + tool); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

func badLabels(format string, args ...any) error {
	return ostiary.Errorf(ostiary.Malformed, "labels", LabelsFile+": "+format, args...).At(LabelsFile)
}

func (t *toolLabels) check(at string) error {
	if t == nil {
		return badLabels("%s is empty: leave it out", at)
	}
	if !slices.Contains([]string{"", "untrusted", "own", "trusted"}, t.Results) {
		return badLabels("%s.results is %q: write untrusted, own or trusted", at, t.Results)
	}
	for arg, role := range t.Arguments {
		if _, ok := ParseRole(role); !ok {
			return badLabels("%s.arguments.%s is %q: write one of %s", at, arg, role, strings.Join(roleNames[:], ", "))
		}
	}
	for name, integrity := range t.Fields {
		if integrity != "own" && integrity != "untrusted" {
			return badLabels("%s.fields.%s is %q: write own or untrusted", at, name, integrity)
		}
	}
	for _, v := range t.Own {
		var s scan
		s.read(v)
		if _, _, ok := s.sole(); !ok {
			return badLabels("%s.own: %q is no address, link or account", at, v)
		}
	}
	for _, c := range t.Classes {
		if c == "" || strings.ContainsAny(c, " \t\n:") || len(c) > 64 {
			return badLabels("%s.classes: %q is no name of a data class", at, c)
		}
	}
	return nil
}

// Apply returns the profile of a tool with what the operator says of it.
// Without their word no result is trusted, whatever was guessed.
func (l *Labels) Apply(guessed *Profile) *Profile {
	p := *guessed
	p.Own, p.Trusted, p.Sheltered, p.Classes, p.ownValues = false, false, nil, nil, nil
	var t *toolLabels
	if l != nil {
		t = l.servers[p.Server][p.Tool]
	}
	if t == nil {
		return &p
	}
	p.Own, p.Trusted, p.Classes = t.Results == "own", t.Results == "trusted", t.Classes
	if t.Effect != nil {
		p.Effect = *t.Effect
	}
	if t.Outgoing != nil {
		p.Outgoing = *t.Outgoing
	}
	if len(t.Arguments) > 0 {
		p.Args = maps.Clone(p.Args)
		for arg, word := range t.Arguments {
			p.Args[arg], _ = ParseRole(word)
		}
	}
	for _, v := range t.Own {
		var s scan
		s.read(v)
		if h, _, ok := s.sole(); ok {
			p.ownValues = append(p.ownValues, h)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Fields)) {
		if t.Fields[name] == "own" {
			p.Sheltered = append(p.Sheltered, name)
		}
	}
	return &p
}

// Propose writes a file of labels from definitions alone, for a person to read
// and correct.
func Propose(tools []*ostiary.Tool) []byte {
	var b strings.Builder
	b.WriteString(`# What the arguments of tools decide, and how far their results are to be
# trusted. Proposed from their definitions: read each line, and correct it.
#
# arguments: destination (where something goes, or whom it reaches), credential
#   (a secret that is set), permission, amount, object (what is acted on),
#   location (what is fetched), content (text that is passed on: what is inside
#   it is looked at), plain (a time, a count: nothing by itself)
# results: untrusted, own (about the account itself: nobody outside writes it)
#   or trusted; without it untrusted
# fields: names of fields in results, each own or untrusted
# own: addresses, links and accounts that are the account's own, which every
#   call of the tool may name
# classes: data classes that the results belong to
# effect: whether the tool changes something or reaches out
`)
	sorted := slices.Clone(tools)
	slices.SortFunc(sorted, func(a, b *ostiary.Tool) int { return strings.Compare(a.Action(), b.Action()) })
	server := ""
	for _, t := range sorted {
		if t.Kind != "" && t.Kind != "tool" {
			continue
		}
		if server != t.Server || server == "" {
			server = t.Server
			fmt.Fprintf(&b, "\n%s:\n", scalar(server))
		}
		p := Guess(t)
		fmt.Fprintf(&b, "  %s:\n    effect: %v\n", scalar(t.Name), p.Effect)
		if p.Own {
			b.WriteString("    results: own\n")
		}
		if len(p.Args) > 0 {
			b.WriteString("    arguments:\n")
		}
		for _, arg := range slices.Sorted(maps.Keys(p.Args)) {
			fmt.Fprintf(&b, "      %s: %s\n", scalar(arg), p.Args[arg])
		}
	}
	return []byte(b.String())
}

// scalar writes a name that a server chose so that it can be nothing but a
// name.
func scalar(s string) string {
	plain := s != ""
	for i := range len(s) {
		c := s[i] | 0x20
		plain = plain && (c >= 'a' && c <= 'z' || s[i] == '_' || i > 0 && (isDigit(s[i]) || s[i] == '-'))
	}
	if plain && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	return fmt.Sprintf("%q", s)
}
