package approval

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/deferred"
)

// Hold is a held action with everything an approver must see. It is a copy:
// whoever has one may not change what it points to.
type Hold struct {
	ID       ostiary.HoldID
	State    ostiary.HoldState
	Gateway  string
	Epoch    uint64        // of its gateway when it was asked; see Options.Epoch
	Call     deferred.Call // who asked, and the bytes that will be executed
	Original []byte        // the arguments as they were asked for; nil unless they were narrowed
	Question ostiary.Question
	Needs    []ostiary.Need
	Reasons  []ostiary.Reason // why policy asks, for people
	Resource ostiary.Resource
	Purpose  string              // of the mandate
	Task     string              // of the mandate
	By       ostiary.PrincipalID // who gave the mandate
	May      []string            // the mandate's approvers
	Labels   map[string]ostiary.Label
	Origins  []ostiary.Origin // of what came neither from the task nor from the agent
	Taint    []string
	Findings []ostiary.Finding
	Risk     ostiary.Risk
	Snapshot uint64
	Created  time.Time
	Expires  time.Time
	Votes    []Ballot
	Intent   ostiary.EntryID // that spent it
	Ended    Ending
	Revision uint64
}

// Ending is how a hold ended, for people and for its caller.
type Ending struct {
	At          time.Time           `json:"at,omitzero"`
	By          ostiary.PrincipalID `json:"by,omitempty"` // who refused it
	Why         string              `json:"why,omitempty"`
	Code        string              `json:"code,omitempty"`
	Disposition ostiary.Disposition `json:"disposition,omitempty"` // of one that was carried out
	Entry       string              `json:"entry,omitempty"`       // of what it became in the log
}

// Ballot is a vote with the words and changes that came with it. What Vote
// binds of them are their digests.
type Ballot struct {
	Vote   ostiary.Signed `json:"vote"`
	Reason string         `json:"reason,omitempty"`
	Edits  []Edit         `json:"edits,omitempty"` // a narrowing, which this vote consented to
	Humans []string       `json:"humans,omitempty"`
}

// body is what is sealed of a hold.
type body struct {
	Call     json.RawMessage          `json:"call"`
	Epoch    uint64                   `json:"epoch,omitempty"`
	Original []byte                   `json:"original,omitempty"`
	Salt     []byte                   `json:"salt"`
	Asked    string                   `json:"asked"`
	Session  ostiary.SessionID        `json:"session"`
	Policy   string                   `json:"policy"`
	Facts    []string                 `json:"facts"`
	Reasons  []ostiary.Reason         `json:"reasons,omitempty"`
	Resource ostiary.Resource         `json:"resource"`
	Purpose  string                   `json:"purpose,omitempty"`
	Task     string                   `json:"task,omitempty"`
	By       ostiary.PrincipalID      `json:"by,omitempty"`
	May      []string                 `json:"may,omitempty"`
	Labels   map[string]ostiary.Label `json:"labels,omitempty"`
	Origins  []ostiary.Origin         `json:"origins,omitempty"`
	Taint    []string                 `json:"taint,omitempty"`
	Findings []ostiary.Finding        `json:"findings,omitempty"`
	Risk     ostiary.Risk             `json:"risk"`
	Snapshot uint64                   `json:"snapshot"`
	Ended    Ending                   `json:"ended,omitzero"`
}

func newHoldID() ostiary.HoldID {
	var b [15]byte
	rand.Read(b[:])
	return ostiary.HoldID(strings.ToLower(base32.StdEncoding.EncodeToString(b[:])))
}

// Hold keeps a requestable denial until people decide. It returns when the
// hold is durable. Denied with the code "not_holdable" if nobody here could
// supply what policy asks for: then it is a refusal like any other. Exhausted
// if the agent, or all of them, ask too much.
func (a *Approvals) Hold(ctx context.Context, r *ostiary.Request, d *ostiary.Decision) (ostiary.HoldID, error) {
	h, err := a.newHold(r, d)
	if err != nil {
		return "", err
	}
	if err := a.pace(h); err != nil {
		return "", err
	}
	row, err := a.row(h)
	if err != nil {
		return "", err
	}
	if _, err := a.o.Store.CreateHold(ctx, row, a.o.Rules.Most, h.Created); err != nil {
		return "", err
	}
	return h.ID, nil
}

func (a *Approvals) newHold(r *ostiary.Request, d *ostiary.Decision) (*Hold, error) {
	now := a.o.Clock().UTC().Truncate(time.Microsecond)
	h := &Hold{
		ID: newHoldID(), State: ostiary.HoldPending, Gateway: a.o.Gateway, Epoch: a.o.Epoch, Call: deferred.Call{Subject: r.Subject, Action: r.Action},
		Reasons: d.Reasons, Resource: r.Resource, Purpose: r.Context.Mandate.Purpose, Task: r.Context.Mandate.Task, By: r.Context.Mandate.By,
		May: r.Context.Mandate.Approvers, Labels: r.Context.Labels, Origins: r.Context.Provenance.Origins, Taint: r.Context.Taint, Findings: r.Context.Findings, Risk: r.Context.Risk,
		Snapshot: d.Snapshot, Created: now, Expires: now.Add(a.o.Rules.Life),
	}
	if end := r.Context.Mandate.Expires; h.Expires.After(end) { // what is consented to later could not be carried out
		h.Expires = end.UTC().Truncate(time.Microsecond)
	}
	seen := map[string]bool{}
	for _, x := range d.Remedies {
		if seen[x.Fact] {
			continue
		}
		seen[x.Fact] = true
		n, err := ostiary.ParseNeed(x.Fact)
		if err == nil {
			err = a.suppliable(h, n)
		}
		if err != nil {
			return nil, ErrNotHoldable(ostiary.AsError(err).Detail)
		}
		h.Needs = append(h.Needs, n)
	}
	digest := r.Action.Digest()
	h.Question = ostiary.Question{
		Hold: h.ID, Action: digest, Asked: digest, Agent: r.Subject.Agent, Principal: r.Subject.Principal, Mandate: r.Subject.Mandate,
		Session: r.Context.Session.ID, Policy: d.Policy, Expires: h.Expires,
	}
	rand.Read(h.Question.Salt[:])
	return h, nil
}

// ErrNotHoldable says that nobody here could supply what policy asks for.
func ErrNotHoldable(why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Denied, "not_holdable", "nobody could consent to this here: %s", why)
}

// ErrTooMany is a store's answer to an agent that asks too much.
func ErrTooMany(agent ostiary.AgentID, most int) *ostiary.Error {
	return ostiary.Errorf(ostiary.Exhausted, "holds", "%s has %d actions waiting for people already; wait until they are decided", agent, most)
}

// suppliable says why nobody could ever supply what is needed.
func (a *Approvals) suppliable(h *Hold, n ostiary.Need) error {
	no := func(format string, args ...any) error {
		return ostiary.Errorf(ostiary.Denied, "not_holdable", format, args...)
	}
	if n.Kind != ostiary.NeedApproval {
		if !strings.HasPrefix(string(h.Call.Subject.Principal), personPrefix) {
			return no("%s asks for the person the agent acts for, and %s is none", n.Fact, h.Call.Subject.Principal)
		}
		return nil
	}
	able := 0
	for _, p := range a.o.Rules.electorate(n.Group) {
		if a.standsAside(h, p, n) == nil {
			able++
		}
	}
	switch {
	case len(a.o.Rules.electorate(n.Group)) == 0:
		return no("there is no group %s of approvers", n.Group)
	case able < n.People:
		return no("%s needs %d persons, and only %d of them may consent to this", n.Fact, n.People, able)
	}
	return nil
}

// pace refuses an agent, or all agents together, that would drown the people
// of a group in questions.
func (a *Approvals) pace(h *Hold) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.o.Clock()
	if !limiter(a.agents, h.Call.Subject.Agent, askRate, askBurst).AllowN(now, 1) {
		a.o.Log.Warn("an agent asks people more than they could answer; it is refused", "agent", string(h.Call.Subject.Agent))
		return ostiary.Errorf(ostiary.Exhausted, "ask_rate", "%s asks for consent too often; wait a minute", h.Call.Subject.Agent)
	}
	for _, n := range h.Needs {
		if n.Kind == ostiary.NeedApproval && !limiter(a.groups, n.Group, groupRate, groupBurst).AllowN(now, 1) {
			a.o.Log.Warn("a group of approvers is asked more than it could answer; further questions are refused", "group", n.Group, "agent", string(h.Call.Subject.Agent))
			return ostiary.Errorf(ostiary.Exhausted, "ask_rate", "the people of %s are asked too often; wait a minute", n.Group)
		}
	}
	return nil
}

// maxPaced bounds how many agents are paced at once; who is forgotten starts
// afresh.
const maxPaced = 10_000

func limiter[K comparable](m map[K]*rate.Limiter, k K, every rate.Limit, burst int) *rate.Limiter {
	l := m[k]
	if l == nil {
		if len(m) >= maxPaced {
			clear(m)
		}
		l = rate.NewLimiter(every, burst)
		m[k] = l
	}
	return l
}

// row seals a hold for the store.
func (a *Approvals) row(h *Hold) (Row, error) {
	call, err := deferred.Marshal(&h.Call)
	if err != nil {
		return Row{}, err
	}
	facts := []string{}
	for _, n := range h.Needs {
		facts = append(facts, n.Fact)
	}
	plain, err := json.Marshal(body{
		Call: call, Epoch: h.Epoch, Original: h.Original, Salt: h.Question.Salt[:], Asked: h.Question.Asked.String(), Session: h.Question.Session, Policy: h.Question.Policy.String(), Facts: facts,
		Reasons: h.Reasons, Resource: h.Resource, Purpose: h.Purpose, Task: h.Task, By: h.By, May: h.May, Labels: h.Labels, Origins: h.Origins, Taint: h.Taint,
		Findings: h.Findings, Risk: h.Risk, Snapshot: h.Snapshot, Ended: h.Ended,
	})
	if err != nil {
		return Row{}, err
	}
	r := Row{
		ID: h.ID, Gateway: h.Gateway, Agent: h.Question.Agent, Principal: h.Question.Principal, Session: h.Question.Session, Action: h.Call.Action.Name,
		State: h.State, Created: h.Created, Expires: h.Expires, Until: h.Expires.Add(Keep), Intent: h.Intent, Revision: h.Revision,
	}
	if r.Body, err = a.o.Seal.Seal(plain, []byte("hold/"+string(h.ID))); err != nil {
		return Row{}, err
	}
	if len(h.Votes) > 0 {
		plain, err := json.Marshal(h.Votes)
		if err != nil {
			return Row{}, err
		}
		if r.Votes, err = a.o.Seal.Seal(plain, []byte("votes/"+string(h.ID))); err != nil {
			return Row{}, err
		}
	}
	return r, r.Check()
}

// open reads a stored hold.
func (a *Approvals) open(r *Row) (*Hold, error) {
	plain, err := a.o.Seal.Open(r.Body, []byte("hold/"+string(r.ID)))
	if err != nil {
		return nil, corrupt(r.ID, err)
	}
	var b body
	if err := json.Unmarshal(plain, &b); err != nil { // our own words, sealed by us
		return nil, corrupt(r.ID, err)
	}
	h := &Hold{
		ID: r.ID, State: r.State, Gateway: r.Gateway, Epoch: b.Epoch, Original: b.Original, Reasons: b.Reasons, Resource: b.Resource, Purpose: b.Purpose, Task: b.Task,
		By: b.By, May: b.May, Labels: b.Labels, Origins: b.Origins, Taint: b.Taint, Findings: b.Findings, Risk: b.Risk, Snapshot: b.Snapshot, Created: r.Created,
		Expires: r.Expires, Intent: r.Intent, Ended: b.Ended, Revision: r.Revision,
	}
	if h.Call, err = deferred.Unmarshal(b.Call); err != nil {
		return nil, corrupt(r.ID, err)
	}
	for _, f := range b.Facts {
		n, err := ostiary.ParseNeed(f)
		if err != nil {
			return nil, corrupt(r.ID, err)
		}
		h.Needs = append(h.Needs, n)
	}
	s := &h.Call.Subject
	h.Question = ostiary.Question{Hold: r.ID, Action: h.Call.Action.Digest(), Agent: s.Agent, Principal: s.Principal, Mandate: s.Mandate, Session: b.Session, Expires: r.Expires}
	copy(h.Question.Salt[:], b.Salt)
	if h.Question.Asked, err = ostiary.ParseDigest(b.Asked); err != nil {
		return nil, corrupt(r.ID, err)
	}
	if h.Question.Policy, err = ostiary.ParseDigest(b.Policy); err != nil {
		return nil, corrupt(r.ID, err)
	}
	if s.Agent != r.Agent || s.Principal != r.Principal || b.Session != r.Session || len(b.Salt) != len(h.Question.Salt) {
		return nil, corrupt(r.ID, nil)
	}
	if len(r.Votes) == 0 {
		return h, nil
	}
	if plain, err = a.o.Seal.Open(r.Votes, []byte("votes/"+string(r.ID))); err != nil {
		return nil, corrupt(r.ID, err)
	}
	if err := json.Unmarshal(plain, &h.Votes); err != nil {
		return nil, corrupt(r.ID, err)
	}
	return h, nil
}

func corrupt(id ostiary.HoldID, err error) error {
	return ostiary.Errorf(ostiary.Corrupt, "stored_hold", "the stored hold %s cannot be read", id).Because(err)
}

// get reads one hold.
func (a *Approvals) get(ctx context.Context, id ostiary.HoldID) (*Hold, error) {
	r, err := a.o.Store.Hold(ctx, id)
	if err != nil {
		if ostiary.KindOf(err) == ostiary.NotFound {
			return nil, errNoHold(id)
		}
		return nil, err
	}
	return a.open(&r)
}

func errNoHold(id ostiary.HoldID) error {
	return ostiary.Errorf(ostiary.NotFound, "hold", "there is no held action %.64q", string(id)).At("hold")
}

// change reads a hold, lets do change it, and writes it back. One that moved
// meanwhile is read again.
func (a *Approvals) change(ctx context.Context, id ostiary.HoldID, do func(*Hold) error) (*Hold, error) {
	for range maxMoves {
		h, err := a.get(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := do(h); err != nil {
			return nil, err
		}
		row, err := a.row(h)
		if err != nil {
			return nil, err
		}
		switch rev, err := a.o.Store.ReplaceHold(ctx, row); {
		case err == nil:
			h.Revision = rev
			a.nudge()
			return h, nil
		case ostiary.KindOf(err) != ostiary.Conflict:
			return nil, err
		}
	}
	return nil, ostiary.Errorf(ostiary.Conflict, "hold_moved", "this held action is being decided by others; look at it again")
}

// maxMoves is how often a change is tried: each try that fails means that
// another vote was counted.
const maxMoves = MaxVotes + 4

// One returns a held action by its id, or by the beginning of the id of one
// that has not ended: at least four characters that only one has.
func (a *Approvals) One(ctx context.Context, id ostiary.HoldID) (*Hold, error) {
	h, err := a.get(ctx, id)
	if ostiary.KindOf(err) != ostiary.NotFound || len(id) < 4 {
		return h, err
	}
	var found []ostiary.HoldID
	f := Filter{States: open, Limit: MaxList, Bare: true}
	for {
		rows, lerr := a.o.Store.Holds(ctx, f)
		if lerr != nil {
			return nil, lerr
		}
		for i := range rows {
			if strings.HasPrefix(string(rows[i].ID), string(id)) {
				found = append(found, rows[i].ID)
			}
		}
		if len(rows) < MaxList {
			break
		}
		f.After = Cursor{rows[len(rows)-1].Created, rows[len(rows)-1].ID}
	}
	switch len(found) {
	case 0:
		return nil, err
	case 1:
		return a.get(ctx, found[0])
	}
	return nil, ostiary.Errorf(ostiary.Conflict, "hold_ambiguous", "%d held actions begin with %s; write more of the id", len(found), id).At("hold")
}

// open are the states of what has not ended.
var open = []ostiary.HoldState{ostiary.HoldPending, ostiary.HoldGranted, ostiary.HoldSpent}

// List returns held actions in the order they were created, without results.
func (a *Approvals) List(ctx context.Context, f Filter) ([]*Hold, error) {
	rows, err := a.o.Store.Holds(ctx, f)
	if err != nil {
		return nil, err
	}
	out := make([]*Hold, 0, len(rows))
	for i := range rows {
		h, err := a.open(&rows[i])
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// Count says how many holds there are in each state.
func (a *Approvals) Count(ctx context.Context) (map[ostiary.HoldState]int, error) {
	return a.o.Store.CountHolds(ctx)
}

// Overdue reports whether a pending hold's time is over at a moment.
func (h *Hold) Overdue(at time.Time) bool {
	return h.State == ostiary.HoldPending && !h.Expires.After(at)
}

// Facts lists the facts that consent would make hold.
func (h *Hold) Facts() []string {
	var out []string
	for _, n := range h.Needs {
		out = append(out, n.Fact)
	}
	slices.Sort(out)
	return out
}
