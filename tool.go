package ostiary

// Tool is a pinned copy of one definition: what the agent reads and what is
// enforced (law 11). Prompts and resource templates are pinned as tools of
// another Kind.
type Tool struct {
	Server      string
	Name        string // the server's own name
	Kind        string // "tool", "prompt", "resource", "template"
	Definition  Value  // the object as the server sent it, strictly scanned
	Pin         Digest // digest of its meaning: member order and white space do not count
	ReadOnly    bool   // the server's hint; it may raise caution, never lower it
	Destructive bool
	OpenWorld   bool
	State       ToolState
	Why         string // for ToolChanged and Quarantined: what is wrong, in a sentence
}

// Action returns policy's name for a call of the tool.
func (t *Tool) Action() string { return t.Server + "___" + t.Name }

// ToolState says whether a tool may be listed and called. The zero value may
// not.
type ToolState uint8

const (
	ToolUnpinned    ToolState = iota // seen, never accepted
	ToolPinned                       // accepted, and the server still says the same
	ToolChanged                      // accepted, and the server says something else now
	ToolQuarantined                  // its definition is not acceptable as it stands
	ToolGone                         // accepted, and the server no longer offers it
)

// String returns the state's word, the zero state's for one that has none.
func (s ToolState) String() string {
	if int(s) >= len(toolStateNames) {
		return toolStateNames[0]
	}
	return toolStateNames[s]
}

var toolStateNames = [...]string{"unpinned", "pinned", "changed", "quarantined", "gone"}
