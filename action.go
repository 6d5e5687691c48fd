package ostiary

import (
	"slices"
	"strconv"
	"time"
)

// Action is one operation with its argument bytes. Arguments is a view into
// the buffer that arrived: what is validated, decided, recorded and forwarded
// are these bytes (law 2).
type Action struct {
	Name      string   // policy's name for it: "<server>___<tool>" for a tool, else the method's own action, e.g. "read_resource"
	Method    string   // the protocol's word, e.g. "tools/call"
	Server    string   // the configured server it is for; "" for the gateway itself
	Tool      string   // the server's own name of the tool or prompt; "" if none
	URI       string   // the resource addressed by resources/* methods, else ""
	Groups    []string // policy's groups of it, as resolved; nobody may change them
	Pin       Digest   // the tool definition it is checked against; zero if the action has none
	Arguments Value    // the arguments as they arrived; Absent if the call has none
	Responses Value    // answers of a multi-round retry (MCP inputResponses) as they arrived, else Absent
	State     []byte   // the far side's own state that a retry returns to it byte for byte, else nil
	Rewritten bool     // it replaces an action the caller asked for (redaction, tokens, a narrowed approval)

	Registered Registered // what the registry says of the tool; zero for a method
}

// Digest identifies the exact bytes: it covers the action's name, server,
// tool, URI, pin, argument bytes and what a retry adds, each length-prefixed, never a canonical
// form of them.
func (a *Action) Digest() Digest {
	const domain = "ostiary/action/v1"
	texts := [...]string{domain, a.Name, a.Method, a.Server, a.Tool, a.URI}
	n := (len(texts)+4)*4 + len(a.Pin) + len(a.Arguments.Bytes()) + len(a.Responses.Bytes()) + len(a.State)
	for _, s := range texts {
		n += len(s)
	}
	b := make([]byte, 0, n) // in one piece: this is on the path of every call, three times
	for _, s := range texts {
		b = appendSized(b, s)
	}
	b = appendSized(b, a.Pin[:])
	b = appendSized(b, a.Arguments.Bytes())
	b = appendSized(b, a.Responses.Bytes())
	b = appendSized(b, a.State)
	return DigestOf(b)
}

func appendSized[T string | []byte](b []byte, s T) []byte {
	n := len(s)
	b = append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return append(b, s...)
}

// Resource is what is acted on: a server in its zone.
type Resource struct {
	Server     string
	Zone       string
	Trusted    bool       // the operator labelled this server's results trusted
	Program    Digest     // of the executable that is started for it, as configured; zero if none is, or any may be
	Registered Registered // what the registry says of it
}

// Context is everything else policy may see. Every field has a value in every
// request; a fact whose engine does not exist yet has its honest neutral
// value, never a missing one.
type Context struct {
	Now          time.Time
	Principal    PrincipalID
	Mandate      Mandate
	Session      Session
	Posture      Posture
	Zone         string // the agent's
	Roles        []string
	Risk         Risk
	Containment  Containment
	Labels       map[string]Label // by top-level argument name; every declared argument is present
	Provenance   Provenance       // where the arguments came from, in detail
	Taint        []string         // the session's, sorted
	Classes      []string         // data classes the session has read, sorted
	Satisfied    []string         // discharged remedies, sorted
	Approval     HoldID           // the consent they come from; "" if nobody was asked
	Findings     []Finding        // of inspectors, about the outgoing arguments
	ReadsTainted int64            // results of untrusted servers read in this session
	Registered   Registered       // what the registry says of the agent
}

// Request is the whole question.
type Request struct {
	Subject  Subject
	Action   Action
	Resource Resource
	Context  Context
}

// SessionID is issued by the gateway; agents cannot choose it.
type SessionID string

// Session is the gateway's own thread of history for one (agent, principal,
// mandate): reconnecting rejoins it and only the gateway ends it, so taint
// and history cannot be shed by reconnecting.
type Session struct {
	ID      SessionID
	Started time.Time
}

// Risk is the decayed score of an agent and its level. Risk only tightens
// (law 7). The zero Risk is "unknown", which policy treats as the highest.
type Risk struct {
	Score int64 // 0 to 100
	Level string
}

// Containment is the ordered ladder of how far an agent is cut off. The zero
// value means "not established" and refuses; None is a named level.
type Containment uint8

const (
	NotEstablished Containment = iota
	None
	Throttled
	Restricted
	Quarantined
	Suspended
)

// String returns the level's word, the zero level's for one that has none.
func (c Containment) String() string {
	if int(c) >= len(containmentNames) {
		return containmentNames[0]
	}
	return containmentNames[c]
}

// Passes reports whether anything may pass at this level: at the levels below
// Quarantined policy decides, from there on and while nothing is established
// everything is refused.
func (c Containment) Passes() bool { return c == None || c == Throttled || c == Restricted }

var containmentNames = [...]string{"not-established", "none", "throttled", "restricted", "quarantined", "suspended"}

// Finding is what an inspector saw, with confidence.
type Finding struct {
	Inspector  string
	Kind       string
	Field      string // JSON Pointer
	Confidence int    // 0 to 100
}

// Integrity says how far content may steer an agent. The zero value is
// Untrusted.
type Integrity uint8

const (
	Untrusted Integrity = iota
	FromAgent           // the agent's own words: matches no source
	Trusted
	Delegated // content of unknown integrity, in a place that the task's own words pick out
)

// Label says where data came from, how far to trust it, and who may read it.
// Labels only rise: [Label.Join] is the only way to combine two. The zero
// Label is untrusted and readable by nobody.
type Label struct {
	Integrity Integrity
	Readers   []string // data classes that may read it; empty means nobody
	Sources   []string // where it came from, e.g. "server:inbox"; "unknown" when nobody can say
}

// rising orders integrity from what may steer most to what may steer least.
var rising = [...]uint8{Trusted: 0, FromAgent: 1, Delegated: 2, Untrusted: 3}

// Join is the label of a value made of two: no more trusted than either, from
// all their sources, and readable by those alone who may read both.
func (l Label) Join(o Label) Label {
	out := Label{Integrity: l.Integrity, Sources: union(l.Sources, o.Sources)}
	if int(l.Integrity) >= len(rising) || int(o.Integrity) >= len(rising) {
		out.Integrity = Untrusted
	} else if rising[o.Integrity] > rising[l.Integrity] {
		out.Integrity = o.Integrity
	}
	for _, r := range l.Readers {
		if slices.Contains(o.Readers, r) {
			out.Readers = append(out.Readers, r)
		}
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// Origin is the path by which a value came into an argument: which result
// showed it, in which field, and what follows. Its words are safe to show to
// whoever may see the arguments.
type Origin struct {
	Argument string // JSON Pointer into the arguments
	Role     string // what the argument decides: "destination", "amount"; or what was found inside a text: "link"
	State    string // "untrusted", "unclear", "field", "delegated", "own"
	Server   string // whose result showed it; "" if none did
	Tool     string
	Step     int    // which result of the session, from 1
	Field    string // where in the result
	How      string // "exact", "inside", "base64", "reversed", "cut", "combined", "computed"
}

// Provenance is what is known of where the arguments of a call came from.
type Provenance struct {
	Chosen  []string // "role:state" of what the arguments decide, sorted
	Origins []Origin // of what came neither from the task nor from the agent
	Given   bool     // the mandate carries a task to compare with
	Asked   bool     // the task's words call for this tool
}

// Decides reports whether the value decides something: content and what is
// harmless by itself do not.
func (o *Origin) Decides() bool { return o.Role != "content" && o.Role != "plain" }

// String says the path in words.
func (o *Origin) String() string {
	where := "appeared in nothing that was read"
	if o.Tool != "" {
		where = "appeared in " + o.Tool + " result #" + strconv.Itoa(o.Step)
		if o.Field != "" {
			where += ", " + o.Field
		}
		if o.How != "" && o.How != "exact" {
			where += " (" + o.How + ")"
		}
	}
	return o.Argument + " (" + o.Role + "): " + where + ": " + o.State
}
