// Package policy decides: Cedar in process, with a scope index, a strict
// wrapper, a schema generated from pinned tools and an outcome layer around
// it.
//
// It guarantees that the same request under the same Snapshot gets the same
// Decision on any gateway; that whatever cannot be decided cleanly is a
// denial with a code of its own; that a policy which errors denies, whatever
// the rest says; that annotations never change what permits and forbids mean.
//
// It trusts the pinned tools and policy files it is handed, and the request's
// facts. It does not validate arguments against a tool's JSON Schema (catalog
// does), does not fetch anything, keeps no history, and performs no I/O
// except in [ReadDir].
//
// The language is Cedar (docs.cedarpolicy.com), evaluated by cedar-go; what
// cedar-go calls experimental is used in one file, adapter.go.
package policy

// Source is a policy folder's files, by slash-separated path.
type Source struct{ Files map[string][]byte }

// Severity says whether a Problem keeps a set from loading.
type Severity uint8

const (
	Error   Severity = iota // the set is refused
	Warning                 // it loads; somebody should look
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Problem is something wrong with a policy folder.
type Problem struct {
	File       string
	Line       int // from 1; 0 if the problem has no place
	Column     int // from 1, in characters
	Severity   Severity
	Code       string // stable word for programs
	Message    string // what is wrong, with the offending text
	Suggestion string // what would be right, "" if nobody can say
}
