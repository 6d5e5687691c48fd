package console

import (
	"context"
	"net/url"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// What the pages of operators, approvers and auditors stand on, in the forms
// of the administrative API: the console shows what the command line shows.
// Everything is safe for concurrent use. Who asks for a change is in the
// context, see [control.WithOperator]; whoever implements these records it
// before it happens.

// Log says what happened.
type Log interface {
	// Find lists entries by the filters of GET /v1/log. The index may lag
	// behind the log, and the listing says by how much.
	Find(ctx context.Context, q url.Values) (control.Listing, error)
	// Story returns one action whole, with its payload opened.
	Story(ctx context.Context, q url.Values) (control.Story, error)
	// Explain says why policy answered as it did. It names conditions of
	// policies. Malformed or NotFound if policy was not asked.
	Explain(ctx context.Context, entry string) (control.Explanation, error)
	// Check proves an entry's inclusion and verifies that proof.
	Check(ctx context.Context, changes bool, entry string) (control.Proved, error)
	// State says what the process is, and how its log and servers are.
	State(ctx context.Context) (control.Status, error)
}

// Agents are who acts, and how far each is cut off.
type Agents interface {
	Agents() []control.Agent
	MandatesOf(ctx context.Context, id ostiary.AgentID) ([]control.Mandate, error)
	Posture(id ostiary.AgentID) ostiary.Posture
	// Containments is an error while nobody knows what is contained.
	Containments() ([]control.Containment, error)
	// Contain is enforced on this gateway when it returns.
	Contain(ctx context.Context, in control.ContainRequest) (control.Contained, error)
}

// Catalog is what servers offer and what was accepted of it.
type Catalog interface {
	Tools(server, kind string) []control.Tool
	// Difference notes that whoever asks was shown it: nothing else can they
	// accept.
	Difference(ctx context.Context, server, kind, name string) (control.Difference, error)
	AcceptOffer(ctx context.Context, in control.ToolRequest) (control.Accepted, error)
}

// Policies are the rules in force, and those that might be.
type Policies interface {
	Policy() control.PolicyState
	Shadow(ctx context.Context, q url.Values) (control.ShadowSummary, error)
	Publish(ctx context.Context) (control.Publication, error)
}

// Desk is all of it; [control.Control] is one.
type Desk interface {
	Log
	Agents
	Catalog
	Policies
}
