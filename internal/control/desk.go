package control

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/proof"
)

// The same questions and changes for callers in this process, which the
// console's pages are. Who asks for a change is in the context; see
// [WithOperator].

// Proved is what checking an entry's inclusion proof said.
type Proved struct {
	Origin     string // of the log
	Index      uint64
	Size       uint64 // of the tree
	Root       ostiary.Digest
	Leaf       ostiary.Digest
	Path       int    // hashes between leaf and root
	Key        string // verifier key
	Proof      []byte // the tlog-proof that was checked
	Checkpoint string
	Fault      string // what does not hold, "" if all does
}

// Check proves an entry and verifies the proof as an outsider would: from the
// published bytes, the proof and the verifier key alone. A proof that does not
// hold is an answer, no error.
func (c *Control) Check(ctx context.Context, changes bool, entry string) (Proved, error) {
	log := c.o.Log
	if changes {
		log = c.o.Changelog
	}
	ref, err := ostiary.ParseEntryRef(entry)
	if err != nil {
		return Proved{}, ostiary.Errorf(ostiary.Malformed, "entry", "%v", err).At("entry")
	}
	e, err := log.Entry(ctx, ref)
	if err != nil {
		return Proved{}, err
	}
	text, err := log.Prove(ctx, e.Ref)
	if err != nil {
		return Proved{}, err
	}
	key, err := log.Key(ctx, e.Origin)
	if err != nil {
		return Proved{}, err
	}
	out := Proved{Origin: e.Origin, Index: e.Ref.Index, Key: key, Proof: text, Leaf: ostiary.Digest(proof.LeafHash(e.Raw))}
	p, err := proof.ParseInclusion(text)
	if err != nil {
		out.Fault = ostiary.AsError(err).Detail
		return out, nil
	}
	head, err := p.Verify(e.Raw, key)
	if err != nil {
		out.Fault = ostiary.AsError(err).Detail
	}
	out.Size, out.Root, out.Path, out.Checkpoint = head.Size, ostiary.Digest(head.Root), len(p.Path), string(p.Checkpoint)
	return out, nil
}

// Agents lists every agent that was ever enrolled, by id.
func (c *Control) Agents() []Agent {
	out := []Agent{}
	for _, a := range c.o.Authority.Agents() {
		out = append(out, c.agent(a))
	}
	return out
}

// MandatesOf lists the mandates of an agent, newest first, also what ended.
func (c *Control) MandatesOf(ctx context.Context, id ostiary.AgentID) ([]Mandate, error) {
	views, err := c.o.Authority.Mandates(ctx, identity.MandateFilter{Agent: id, Limit: maxAgentMandates})
	if err != nil {
		return nil, err
	}
	out := []Mandate{}
	for i := range views {
		out = append(out, mandateOf(&views[i], false))
	}
	slices.SortStableFunc(out, func(a, b Mandate) int { return b.Issued.Compare(a.Issued) })
	return out, nil
}

// maxAgentMandates bounds what is listed of one agent.
const maxAgentMandates = 100

// Posture is what was concluded of an agent when it enrolled.
func (c *Control) Posture(id ostiary.AgentID) ostiary.Posture { return c.o.Authority.Posture(id) }

// Containments lists what is contained now.
func (c *Control) Containments() ([]Containment, error) {
	records, err := c.o.Containments.List()
	if err != nil {
		return nil, err
	}
	out := []Containment{}
	for _, r := range records {
		out = append(out, containmentOf(r))
	}
	return out, nil
}

// Contain sets a level; it is enforced on this gateway when it returns.
func (c *Control) Contain(ctx context.Context, in ContainRequest) (Contained, error) {
	out, err := c.postContainment(ctx, in)
	if err != nil {
		return Contained{}, err
	}
	return out.(Contained), nil
}

// Tools lists definitions of a server and kind, "" for any, with their
// accepted bytes.
func (c *Control) Tools(server, kind string) []Tool { return c.tools(server, kind, true) }

// Difference says how what a server offers differs from what was accepted, and
// notes that whoever asks was shown it.
func (c *Control) Difference(ctx context.Context, server, kind, name string) (Difference, error) {
	if err := c.known(server); err != nil {
		return Difference{}, err
	}
	text, pin, err := c.o.Book.Diff(server, kind, name)
	if err != nil || pin.IsZero() { // it is gone: nothing that could be accepted
		return Difference{Diff: text}, err
	}
	c.looked.note(operator(ctx), server, catalog.Named{Kind: kind, Name: name}, pin)
	return Difference{Diff: text, Pin: pin.String()}, nil
}

// AcceptOffer accepts definitions as [Control.Difference] showed them.
func (c *Control) AcceptOffer(ctx context.Context, in ToolRequest) (Accepted, error) {
	out, err := c.postAccept(ctx, in)
	if err != nil {
		return Accepted{}, err
	}
	return out.(Accepted), nil
}

// PolicyState is the active snapshot and how the folder differs from it.
type PolicyState struct {
	Number     uint64 // 0: no snapshot was ever published
	Created    time.Time
	Digest     ostiary.Digest
	Policies   int
	Candidates int
	Files      []PolicyFile // of the snapshot, and of the folder where it has others
	Folder     string
	Problems   []PolicyProblem // of the folder, its tests included
	Tests      int             // that were asked of the folder
	Failed     string          // why the folder cannot be published, "" if it can
}

// PolicyFile is a file of the policy folder: as it is enforced, and as it
// stands in the folder now. Either is "" where it is not.
type PolicyFile struct{ Name, Active, Folder string }

// Policy tells which policy is in force, and what publishing the folder would
// change. It reads, compiles and tests the folder; it changes nothing.
func (c *Control) Policy() PolicyState {
	out := PolicyState{Folder: c.o.PolicyDir}
	active := map[string]string{}
	s := c.o.Engine.Active()
	if s != nil {
		out.Number, out.Created, out.Digest = s.Number(), s.Created(), s.Digest()
		out.Policies, out.Candidates = s.Set().Policies(), s.Set().Candidates()
		for _, name := range s.Set().Files() {
			active[name] = s.Set().Text(name)
		}
	}
	src, err := policy.ReadDir(c.o.PolicyDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.Failed = "there is no policy folder"
	case err != nil:
		out.Failed = ostiary.AsError(err).Detail
	default:
		set, problems := policy.Compile(src, c.o.Book.Tools())
		if set == nil {
			out.Failed = "the folder does not compile"
		} else {
			asked, wrong := policy.Test(src, set)
			out.Tests, problems = asked, append(problems, wrong...)
		}
		out.Problems = PolicyProblems(problems)
	}
	names := map[string]bool{}
	for name := range active {
		names[name] = true
	}
	for name := range src.Files {
		names[name] = true
	}
	for name := range names {
		out.Files = append(out.Files, PolicyFile{name, active[name], string(src.Files[name])})
	}
	slices.SortFunc(out.Files, func(a, b PolicyFile) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// State says what the process is and how far its log and servers are.
func (c *Control) State(ctx context.Context) (Status, error) { return c.status(ctx) }
