package registry

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// Limits of one entity.
const (
	maxName    = 256 // bytes of a name, an owner or a zone
	maxPurpose = 500 // characters: two sentences
	maxVersion = 64
	maxClasses = 64
)

// Check says what is wrong with an entity that is to be registered, with the
// field. Classes are to be sorted and named once.
func Check(e *ostiary.Entity) error {
	bad := func(field, format string, a ...any) error {
		return ostiary.Errorf(ostiary.Malformed, "entity", format, a...).At(field)
	}
	if !slices.Contains(ostiary.EntityKinds(), e.Kind) {
		return bad("kind", "%q is no kind of entity: write %s", e.Kind, kindWords())
	}
	if why := checkName(e.Kind, e.Name); why != "" {
		return bad("name", "%s", why)
	}
	if kind, name, _ := strings.Cut(string(e.Owner), ":"); kind != "person" && kind != "organisation" || !word(name) {
		return bad("owner", "the owner is a person or an organisation in lower case, for example person:dana or organisation:acme")
	}
	if n := utf8.RuneCountInString(e.Purpose); strings.TrimSpace(e.Purpose) == "" || n > maxPurpose || !readable(e.Purpose) {
		return bad("purpose", "say what it is for, in one line of at most %d characters that can all be seen", maxPurpose)
	}
	if len(e.Classes) > maxClasses || slices.ContainsFunc(e.Classes, func(c string) bool { return !word(c) }) {
		return bad("classes", "data classes are at most %d words in lower case", maxClasses)
	}
	if len(e.Version) > maxVersion || !printable(e.Version) {
		return bad("version", "a version is at most %d printable characters without spaces", maxVersion)
	}
	if e.Zone != "" && !word(e.Zone) {
		return bad("zone", "a zone is a word in lower case")
	}
	for _, l := range limits(&e.Limits) {
		if *l.value < 0 {
			return bad("limits."+l.name, "a limit is 0 or more")
		}
	}
	if e.Edition < 0 {
		return bad("edition", "an edition is 1 or more; 0 takes the place of any")
	}
	return nil
}

func kindWords() string {
	var all []string
	for _, k := range ostiary.EntityKinds() {
		all = append(all, string(k))
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// checkName says what is wrong with a name.
func checkName(kind ostiary.EntityKind, name string) string {
	switch {
	case name == "" || len(name) > maxName || !printable(name):
		return "a name has at most 256 printable characters without spaces"
	case kind == ostiary.AgentEntity:
		if _, err := ostiary.ParseAgentID(name); err != nil {
			return ostiary.AsError(err).Detail
		}
	case kind == ostiary.ToolEntity:
		server, tool, ok := strings.Cut(name, "___")
		if !ok || server == "" || tool == "" {
			return "a tool is named by its action, SERVER___TOOL"
		}
	case name != strings.ToLower(name):
		return "names are in lower case, so that no two differ in case alone"
	}
	return ""
}

// word reports whether s is a short name in lower case.
func word(s string) bool {
	return s != "" && len(s) <= maxName && printable(s) && s == strings.ToLower(s)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// readable reports whether people see all of a text.
func readable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r != ' ' && !unicode.IsPrint(r) || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
	})
}

// limit is one limit by its name.
type limit struct {
	name  string
	value *int64
}

// limits lists all limits, by name.
func limits(l *ostiary.Limits) []limit {
	return []limit{{"amount", &l.Amount}, {"bytes", &l.Bytes}, {"calls", &l.Calls}, {"depth", &l.Depth}, {"tokens", &l.Tokens}}
}

// SetLimit sets a limit by its name, and reports whether there is one.
func SetLimit(l *ostiary.Limits, name string, value int64) bool {
	for _, x := range limits(l) {
		if x.name == name {
			*x.value = value
			return true
		}
	}
	return false
}

// EachLimit calls f for each limit that is set, by name.
func EachLimit(l ostiary.Limits, f func(name string, value int64)) {
	for _, x := range limits(&l) {
		if *x.value != 0 {
			f(x.name, *x.value)
		}
	}
}

// LimitNames lists the names of limits.
func LimitNames() (names []string) {
	for _, x := range limits(new(ostiary.Limits)) {
		names = append(names, x.name)
	}
	return names
}
