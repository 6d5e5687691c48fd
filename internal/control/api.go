package control

import (
	"encoding/json"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/policy"
)

// The JSON forms of the administrative API, shared by the handler and its
// clients. Times are RFC 3339 in UTC, durations Go's, digests lower-case hex.

// Problem is an error as the API returns it, with the HTTP status of its kind.
type Problem struct {
	Kind     string          `json:"kind"`
	Code     string          `json:"code"`
	Field    string          `json:"field,omitempty"`
	Detail   string          `json:"detail"`
	Cause    string          `json:"cause,omitempty"` // of a server that failed: what the network or the process said
	Problems []PolicyProblem `json:"problems,omitempty"`
}

// PolicyProblem is something wrong with the policy folder.
type PolicyProblem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`   // from 1; absent if the problem has no place
	Column     int    `json:"column,omitempty"` // from 1, in characters
	Severity   string `json:"severity"`         // "error", "warning"
	Code       string `json:"code"`
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"`
}

// PolicyProblems turns a compiler's problems into their JSON form.
func PolicyProblems(list []policy.Problem) []PolicyProblem {
	out := make([]PolicyProblem, len(list))
	for i, p := range list {
		out[i] = PolicyProblem{File: p.File, Line: p.Line, Column: p.Column, Severity: p.Severity.String(), Code: p.Code, Message: p.Message, Suggestion: p.Suggestion}
	}
	return out
}

// Status is the answer of GET /v1/status.
type Status struct {
	Version     string         `json:"version"`
	Deployment  string         `json:"deployment"`
	Gateway     string         `json:"gateway"`
	TrustDomain string         `json:"trust_domain"`
	Agents      string         `json:"agents_address"`
	Loopback    string         `json:"loopback_address,omitempty"`
	Fingerprint string         `json:"bundle_fingerprint"`
	Endpoint    string         `json:"endpoint"`
	Keys        []Key          `json:"keys"`
	Snapshot    uint64         `json:"snapshot"`
	Epoch       uint64         `json:"revocation_epoch"`
	Indexed     uint64         `json:"log_indexed"`
	LogSize     uint64         `json:"log_size"`
	Servers     []ServerStatus `json:"servers"`
	Holds       Holds          `json:"holds"`
}

// Holds is what the process holds just now. What only ever rises is a leak.
type Holds struct {
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"` // open files and connections; 0 where the system does not tell
	Heap        uint64 `json:"heap"`        // bytes of live objects when memory was last collected
}

// Key is a public key of this installation, for those who verify.
type Key struct {
	Use string `json:"use"` // "requests to tool servers", "policy snapshots", "mandates", "log"
	ID  string `json:"id"`  // of a log its origin
	Key string `json:"key"` // PEM, or a signed-note verifier key for logs
	// "next", "current" or "retiring"; absent of a log's.
	State string `json:"state,omitempty"`
}

// ServerStatus is one tool server as last seen.
type ServerStatus struct {
	Name    string    `json:"name"`
	ReadAt  time.Time `json:"read_at,omitzero"`
	Error   string    `json:"error,omitempty"`
	Changed int       `json:"changed"` // definitions that are not as they were accepted
	Waiting int       `json:"waiting"` // definitions that nobody accepted
	Breaker Breaker   `json:"breaker"` // whether calls to it are refused just now because it fails
	Conduct Conduct   `json:"conduct"`
}

// Conduct is how calls to a server went since the gateway knows it.
type Conduct struct {
	State    string `json:"state"`              // unused, ready, failing, or quarantined: it broke the rules and is not asked again
	Why      string `json:"why,omitempty"`      // the last failure
	Protocol string `json:"protocol,omitempty"` // the revision it speaks, once known
	Calls    uint64 `json:"calls"`
	Failures uint64 `json:"failures"` // calls without a final message
	Dropped  uint64 `json:"dropped"`  // messages that nobody had asked for
	Starts   uint64 `json:"starts"`   // times a stdio server was started
}

// AgentRequest asks for a join token, or to enrol an agent for bearer tokens.
// Of an agent that is enrolled already, what is left out stays as it is; else
// the principal is organisation:self and the zone is default.
type AgentRequest struct {
	Name      string   `json:"name"` // a path below the trust domain, or a whole SPIFFE ID
	Principal string   `json:"principal"`
	Owner     string   `json:"owner"`
	Zone      string   `json:"zone"`
	Roles     []string `json:"roles"`
	Life      string   `json:"life"`

	// What the agent's standing mandate covers, see identity.Terms; without
	// it, whatever policy allows.
	Mandate json.RawMessage `json:"mandate,omitempty"`
}

// Join is a join token, shown once.
type Join struct {
	Agent   string    `json:"agent"`
	Secret  string    `json:"join"`
	Expires time.Time `json:"expires"`
	Gateway string    `json:"gateway"`
	Wide    bool      `json:"wide,omitempty"` // nobody said what its standing mandate covers: whatever policy allows
}

// Agent is an enrolled agent.
type Agent struct {
	ID        string    `json:"id"`
	Principal string    `json:"principal"`
	Owner     string    `json:"owner,omitempty"`
	Zone      string    `json:"zone"`
	Roles     []string  `json:"roles"`
	Mandate   string    `json:"mandate"`
	Expires   time.Time `json:"mandate_expires,omitzero"`
	Enrolled  time.Time `json:"enrolled"`
	Method    string    `json:"method"`
	State     string    `json:"state"`          // "enrolled", "revoked", "disabled", "ended"
	Wide      bool      `json:"wide,omitempty"` // when it is enrolled: nobody said what its standing mandate covers

	Registered *Entity `json:"registered,omitempty"` // what the registry says of it; owner and zone stand above the enrolment's
}

// RevokeRequest ends an agent, a person's mandates, a mandate, a session, a
// key or one credential.
type RevokeRequest struct {
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
}

// Revoked is the answer to a revocation.
type Revoked struct {
	Epoch uint64 `json:"epoch"`
	Known bool   `json:"known"` // false: no such agent is enrolled; what was prepared for it has ended all the same
}

// TokenRequest asks for a bearer token.
type TokenRequest struct {
	Agent  string `json:"agent"`
	Life   string `json:"life"`
	Server string `json:"server"` // for this server's own endpoint; "" for the aggregated one
}

// Token is a bearer token, shown once.
type Token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Tool is a definition as seen and as accepted.
type Tool struct {
	Server      string   `json:"server"`
	Kind        string   `json:"kind"`
	Name        string   `json:"name"`
	Action      string   `json:"action"`
	State       string   `json:"state"`
	Why         string   `json:"why,omitempty"`
	Pin         string   `json:"pin"`
	ReadOnly    bool     `json:"read_only"`
	Destructive bool     `json:"destructive"`
	Findings    []string `json:"findings,omitempty"`
	Definition  string   `json:"definition,omitempty"` // the accepted bytes, on request
}

// Difference is how what is offered differs from what was accepted.
type Difference struct {
	Diff string `json:"diff"`          // line by line, empty if they mean the same
	Pin  string `json:"pin,omitempty"` // of the offer it shows: what to accept
}

// ToolRequest names definitions of a server; an empty name means all.
type ToolRequest struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	Kind   string `json:"kind"`  // of a named one; "" is tool
	Pin    string `json:"pin"`   // of the definition a person looked at; "" takes what this operator was last shown
	Force  bool   `json:"force"` // also a named one that is quarantined for its text
}

// Accepted is what became of an acceptance.
type Accepted struct {
	Tools    []Tool          `json:"tools"`
	Snapshot uint64          `json:"snapshot"`
	Problems []PolicyProblem `json:"problems,omitempty"`
	Refused  string          `json:"policy_refused,omitempty"` // why the new snapshot was not published
}

// Published is what became of loading the policy folder.
type Published struct {
	Snapshot uint64          `json:"snapshot"`
	Changed  bool            `json:"changed"`
	Problems []PolicyProblem `json:"problems,omitempty"`
}

// Explanation is why policy answered as it did, for operators: it names
// conditions of policies.
type Explanation struct {
	Entry    string     `json:"entry"`
	Decision string     `json:"decision"`
	Code     string     `json:"code"`
	Snapshot uint64     `json:"snapshot"` // that decided, and that explains
	Policies []string   `json:"policies,omitempty"`
	Near     []NearMiss `json:"near,omitempty"` // of a denial for want of a permit
	Shadow   *Shadow    `json:"shadow,omitempty"`
	Text     string     `json:"text"` // all of it in words
}

// NearMiss is a permit that nearly held.
type NearMiss struct {
	Policy string `json:"policy"`
	Where  string `json:"where"`
	Failed string `json:"failed"` // the first part of its conditions that did not hold, in Cedar
}

// Shadow is what the candidates in shadow/ would have made of a decision.
type Shadow struct {
	Outcome  string   `json:"outcome"` // "permit", "requestable", "deny", "error"
	Policies []string `json:"policies"`
}

// ShadowSummary is the answer of GET /v1/policy/shadow.
type ShadowSummary struct {
	Candidates  int                `json:"candidates"` // in the active snapshot
	Looked      int                `json:"looked"`     // actions looked at, newest first
	Oldest      time.Time          `json:"oldest,omitzero"`
	Differences []ShadowDifference `json:"differences"`
}

// ShadowDifference is how often one candidate would have changed one answer
// into another.
type ShadowDifference struct {
	Policy   string   `json:"policy"`
	Enforced string   `json:"enforced"` // the answer: "permit", "requestable", "deny"
	Outcome  string   `json:"outcome"`  // what it would have been
	Count    int      `json:"count"`
	Agents   []string `json:"agents"` // some of them
	Newest   string   `json:"newest"` // the newest such entry
}

// Entry is a ledger entry for people and programs.
type Entry struct {
	Ref         string    `json:"entry"`
	Log         string    `json:"log"`
	ID          string    `json:"id"`
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"`
	Agent       string    `json:"agent,omitempty"`
	Principal   string    `json:"principal,omitempty"`
	Mandate     string    `json:"mandate,omitempty"`
	Session     string    `json:"session,omitempty"`
	Approval    string    `json:"approval,omitempty"` // the held action it became, spends, or is a vote on
	Action      string    `json:"action,omitempty"`
	Server      string    `json:"server,omitempty"`
	Decision    string    `json:"decision,omitempty"` // "permit", "deny"
	Code        string    `json:"code,omitempty"`
	Policies    []string  `json:"policies,omitempty"`
	Obligations []string  `json:"obligations,omitempty"`
	Disposition string    `json:"disposition,omitempty"`
	Answers     string    `json:"answers,omitempty"`
	Parent      string    `json:"parent,omitempty"`
	Snapshot    uint64    `json:"snapshot,omitempty"`
	Pin         string    `json:"pin,omitempty"`
	Asked       string    `json:"asked,omitempty"`

	// Of a story, and of a listing with details=true, where the payload can
	// be opened.
	Arguments string `json:"arguments,omitempty"`
	Inputs    string `json:"inputs,omitempty"`
	Detail    string `json:"detail,omitempty"`
	Result    string `json:"result_digest,omitempty"`
	ResultLen int64  `json:"result_bytes,omitempty"`
	Sealed    bool   `json:"sealed,omitempty"` // the payload's key is gone
}

// Listing is the answer of GET /v1/log.
type Listing struct {
	Entries []Entry `json:"entries"`
	Indexed uint64  `json:"indexed"`
	Size    uint64  `json:"size"`
}

// Story is one action whole: its entry and every entry that answers it or
// happened inside it.
type Story struct {
	Entries []Entry `json:"entries"`
	Proof   string  `json:"proof"` // C2SP tlog-proof of the first entry
}

// entryOf turns a ledger entry into its JSON form.
func entryOf(origin string, ref ostiary.EntryRef, e *ostiary.Entry) Entry {
	out := Entry{
		Ref: ref.String(), Log: origin, ID: e.ID.String(), Time: e.Time.UTC(), Kind: e.Kind.String(),
		Agent: string(e.Agent), Principal: string(e.Principal), Mandate: string(e.Mandate), Session: string(e.Session), Approval: string(e.Approval),
		Action: e.Action, Server: e.Server, Code: e.Code, Policies: e.Reasons, Obligations: e.Obligations,
		Answers: e.Answers.String(), Parent: e.Parent.String(), Snapshot: e.Snapshot, Pin: e.Pin.String(), Asked: e.Asked.String(),
	}
	switch e.Kind {
	case ostiary.KindIntent, ostiary.KindOutcome:
		out.Decision = "deny"
		if e.Permit {
			out.Decision = "permit"
		}
	}
	if e.Kind == ostiary.KindOutcome {
		out.Disposition = e.Disposition.String()
	}
	return out
}

// withPayload adds what the sealed part says.
func (e Entry) withPayload(p *ostiary.Payload, opened bool) Entry {
	e.Sealed = !opened
	e.Arguments, e.Inputs, e.Detail = string(p.Arguments), string(p.Inputs), string(p.Detail)
	e.Result, e.ResultLen = p.Result.String(), p.ResultLen
	return e
}
