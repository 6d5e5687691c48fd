package control

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/proof"
)

// Held is a held action with everything an approver must see. Arguments and
// the texts of fields are an agent's: whoever shows them shows them as such.
type Held struct {
	ID        string        `json:"id"`
	State     string        `json:"state"` // "pending", "granted", "spent", "done", "refused", "expired", "void", "unknown"
	Gateway   string        `json:"gateway"`
	Created   time.Time     `json:"created"`
	Expires   time.Time     `json:"expires"`
	Agent     string        `json:"agent"`
	Principal string        `json:"principal"`
	Chain     []string      `json:"chain"` // the agents from the first delegate to the one who asks
	Mandate   string        `json:"mandate"`
	Purpose   string        `json:"purpose,omitempty"` // of the mandate
	Task      string        `json:"task,omitempty"`    // of the mandate
	By        string        `json:"by,omitempty"`      // who gave the mandate
	Session   string        `json:"session"`
	Action    string        `json:"action"`
	Server    string        `json:"server"`
	Zone      string        `json:"zone"`
	Trusted   bool          `json:"trusted_server"`
	Tool      string        `json:"tool,omitempty"`
	URI       string        `json:"uri,omitempty"`
	Pin       string        `json:"pin,omitempty"`
	Arguments string        `json:"arguments"`       // exactly the bytes that would be sent
	Asked     string        `json:"asked,omitempty"` // exactly what the agent asked for, if people narrowed it
	Fields    []HeldField   `json:"fields"`
	Origins   []HeldOrigin  `json:"origins"`
	Needs     []HeldNeed    `json:"needs"`
	Reasons   []HeldReason  `json:"reasons"`
	Votes     []HeldVote    `json:"votes"`
	Taint     []string      `json:"taint"` // what the session has read
	Findings  []HeldFinding `json:"findings"`
	Risk      HeldRisk      `json:"risk"`
	Policy    string        `json:"policy"`
	Snapshot  uint64        `json:"snapshot"`
	Question  string        `json:"question"` // what votes are over: the digest of ostiary.Question, which the next three complete
	Salt      string        `json:"salt"`
	Method    string        `json:"method"`
	Original  string        `json:"asked_digest"`        // of the action the agent asked for
	Responses string        `json:"responses,omitempty"` // what a retry adds, exactly
	FarState  []byte        `json:"far_state,omitempty"` // what a retry returns to the server
	Stateful  bool          `json:"has_far_state,omitempty"`
	Intent    string        `json:"intent,omitempty"`
	Ended     *HeldEnding   `json:"ended,omitempty"`
}

// HeldField is one leaf of the arguments, or an empty list or object.
type HeldField struct {
	Pointer string   `json:"pointer"`
	Kind    string   `json:"kind"`  // "string", "number", "true", "false", "null", "array", "object"
	Text    string   `json:"text"`  // a string decoded, everything else as it is written
	Lower   bool     `json:"lower"` // a narrowing may lower it
	Sources []string `json:"sources"`
}

// HeldOrigin is where a value came from that is neither the task's nor the
// agent's own.
type HeldOrigin struct {
	Pointer string `json:"pointer"`
	Role    string `json:"role"`  // what it decides: "destination", "amount"
	State   string `json:"state"` // "untrusted", "unclear", "field", "delegated", "own"
	Text    string `json:"text"`  // the path, in words
}

// HeldNeed is one thing that is needed, and who may supply it now.
type HeldNeed struct {
	Fact   string   `json:"fact"`
	Kind   string   `json:"kind"` // "approval", "acr", "justification"
	Group  string   `json:"group,omitempty"`
	People int      `json:"people"`
	May    []string `json:"may"` // who may still vote for it now
}

// HeldReason is a policy that asks for consent, and why.
type HeldReason struct {
	Policy string `json:"policy"`
	Text   string `json:"text,omitempty"`
}

// HeldVote is one vote.
type HeldVote struct {
	Approver string          `json:"approver"`
	Consent  bool            `json:"consent"`
	Counts   bool            `json:"counts"` // it is on the action as it stands now
	At       time.Time       `json:"at"`
	Reason   string          `json:"reason,omitempty"`
	Edits    []approval.Edit `json:"edits,omitempty"`
	Passkey  bool            `json:"passkey"`
}

// HeldFinding is what an inspector saw in the arguments.
type HeldFinding struct {
	Inspector  string `json:"inspector"`
	Kind       string `json:"kind"`
	Field      string `json:"field,omitempty"`
	Confidence int    `json:"confidence"`
}

// HeldRisk is the agent's, when it asked.
type HeldRisk struct {
	Score int64  `json:"score"`
	Level string `json:"level"`
}

// HeldEnding is how it ended.
type HeldEnding struct {
	At          time.Time `json:"at"`
	By          string    `json:"by,omitempty"`
	Why         string    `json:"why,omitempty"`
	Code        string    `json:"code,omitempty"`
	Disposition string    `json:"disposition,omitempty"`
	Entry       string    `json:"entry,omitempty"`
}

// HeldPreview is a narrowing before anybody votes for it, with what policy
// says of it.
type HeldPreview struct {
	Held     Held     `json:"held"`
	Outcome  string   `json:"outcome"` // "permit", "requestable"
	Remedies []string `json:"remedies"`
}

// ChoiceRequest is what a person wants to say about a held action.
type ChoiceRequest struct {
	ID      string          `json:"id"`
	Person  string          `json:"person"` // their name
	Consent bool            `json:"consent"`
	Reason  string          `json:"reason"`
	Edits   []approval.Edit `json:"edits"`
}

// VoteAsked is a vote to be signed: with the digest of Statement as the
// challenge of a passkey, or Statement itself by a key of the command line.
type VoteAsked struct {
	Statement string `json:"statement"`
	Held      Held   `json:"held"` // as it would be consented to
}

// VoteRequest is a vote that was signed with a key of the command line.
type VoteRequest struct {
	Statement string          `json:"statement"`
	Key       []byte          `json:"key"` // SubjectPublicKeyInfo, DER
	Signature []byte          `json:"signature"`
	Reason    string          `json:"reason"`
	Edits     []approval.Edit `json:"edits"`
}

// PersonKeyRequest registers or drops a command-line key of a person.
type PersonKeyRequest struct {
	Name string `json:"name"`
	Key  []byte `json:"key,omitempty"` // SubjectPublicKeyInfo, DER
	ID   string `json:"id,omitempty"`
}

// PersonKey is a command-line key of a person.
type PersonKey struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"`
}

// Desk is where people decide about held actions: behind the API, and behind
// pages. Who is asking is for whoever calls it to know. Safe for concurrent
// use.
type Desk struct {
	Approvals *approval.Approvals
	People    *people.People
	Clock     func() time.Time
}

// List returns held actions in the order they were asked for.
func (d *Desk) List(ctx context.Context, f approval.Filter) ([]Held, error) {
	all, err := d.Approvals.List(ctx, f)
	if err != nil {
		return nil, err
	}
	out := []Held{}
	for _, h := range all {
		out = append(out, d.held(h))
	}
	return out, nil
}

// Count says how many held actions there are in each state.
func (d *Desk) Count(ctx context.Context) (map[ostiary.HoldState]int, error) {
	return d.Approvals.Count(ctx)
}

// One returns a held action, by its id or the beginning of one.
func (d *Desk) One(ctx context.Context, id ostiary.HoldID) (Held, error) {
	h, err := d.Approvals.One(ctx, id)
	if err != nil {
		return Held{}, err
	}
	return d.held(h), nil
}

// Preview shows a narrowing, validated and decided, and changes nothing.
func (d *Desk) Preview(ctx context.Context, id ostiary.HoldID, edits []approval.Edit) (HeldPreview, error) {
	h, err := d.Approvals.One(ctx, id)
	if err != nil {
		return HeldPreview{}, err
	}
	p, err := d.Approvals.Preview(ctx, h.ID, edits)
	if err != nil {
		return HeldPreview{}, err
	}
	out := HeldPreview{Held: d.held(p.Hold), Outcome: "requestable", Remedies: []string{}}
	if p.Decision.Permit {
		out.Outcome = "permit"
	}
	for _, r := range p.Decision.Remedies {
		out.Remedies = append(out.Remedies, r.Fact)
	}
	return out, nil
}

// ballot is what is carried from a question to a passkey to its answer.
type ballot struct {
	Statement string          `json:"statement"`
	Reason    string          `json:"reason,omitempty"`
	Edits     []approval.Edit `json:"edits,omitempty"`
}

// AskPasskey begins a vote of a signed-in person, in the browser that holds
// visit: it returns the options for navigator.credentials.get, and the action
// as they would consent to it. Whoever may not vote is refused here already.
func (d *Desk) AskPasskey(ctx context.Context, visit, person string, id ostiary.HoldID, c approval.Choice) (options []byte, _ Held, err error) {
	h, err := d.Approvals.One(ctx, id)
	if err != nil {
		return nil, Held{}, err
	}
	v, h, err := d.Approvals.Ask(ctx, h.ID, people.Principal(person), c)
	if err != nil {
		return nil, Held{}, err
	}
	carried, err := json.Marshal(ballot{string(v.Statement()), c.Reason, c.Edits})
	if err != nil {
		return nil, Held{}, err
	}
	options, err = d.People.AskVote(ctx, visit, person, v.Statement(), carried)
	return options, d.held(h), err
}

// CastPasskey ends a vote with the browser's answer, and returns the action as
// it stands then.
func (d *Desk) CastPasskey(ctx context.Context, visit, person string, answer []byte) (Held, error) {
	a, err := d.People.Voted(ctx, visit, person, answer)
	if err != nil {
		return Held{}, err
	}
	var b ballot
	if err := json.Unmarshal(a.Carried, &b); err != nil { // our own words, sealed by us
		return Held{}, ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored record cannot be read").Because(err)
	}
	return d.cast(ctx, b, ostiary.Signed{Key: a.Key, Credential: a.Credential, Authenticator: a.Authenticator, Client: a.Client, Signature: a.Signature})
}

// AskKey prepares a vote that is signed with a key of the command line.
func (d *Desk) AskKey(ctx context.Context, person string, id ostiary.HoldID, c approval.Choice) (VoteAsked, error) {
	h, err := d.Approvals.One(ctx, id)
	if err != nil {
		return VoteAsked{}, err
	}
	v, h, err := d.Approvals.Ask(ctx, h.ID, people.Principal(person), c)
	if err != nil {
		return VoteAsked{}, err
	}
	return VoteAsked{string(v.Statement()), d.held(h)}, nil
}

// CastKey counts such a vote.
func (d *Desk) CastKey(ctx context.Context, in VoteRequest) (Held, error) {
	return d.cast(ctx, ballot{in.Statement, in.Reason, in.Edits}, ostiary.Signed{Key: in.Key, Signature: in.Signature})
}

func (d *Desk) cast(ctx context.Context, b ballot, s ostiary.Signed) (Held, error) {
	var err error
	if s.Vote, err = ostiary.ParseVote(b.Statement); err != nil {
		return Held{}, err
	}
	h, err := d.Approvals.Cast(ctx, approval.Ballot{Vote: s, Reason: b.Reason, Edits: b.Edits})
	if err != nil {
		return Held{}, err
	}
	return d.held(h), nil
}

func texts[T ~string](list []T) []string {
	out := []string{}
	for _, x := range list {
		out = append(out, string(x))
	}
	return out
}

func (d *Desk) held(h *approval.Hold) Held {
	now := d.Clock()
	s, act := &h.Call.Subject, &h.Call.Action
	out := Held{
		ID: string(h.ID), State: h.State.String(), Gateway: h.Gateway, Created: h.Created, Expires: h.Expires, Agent: string(s.Agent), Principal: string(s.Principal),
		Chain: texts(s.Chain), Mandate: string(s.Mandate), Purpose: h.Purpose, Task: h.Task, By: string(h.By), Session: string(h.Question.Session),
		Action: act.Name, Server: act.Server, Zone: h.Resource.Zone, Trusted: h.Resource.Trusted, Tool: act.Tool, URI: act.URI, Pin: act.Pin.String(),
		Arguments: string(act.Arguments.Bytes()), Asked: string(h.Original), Fields: []HeldField{}, Origins: []HeldOrigin{}, Needs: []HeldNeed{}, Reasons: []HeldReason{}, Votes: []HeldVote{},
		Taint: texts(h.Taint), Findings: []HeldFinding{}, Risk: HeldRisk(h.Risk), Policy: h.Question.Policy.String(), Snapshot: h.Snapshot,
		Question: h.Question.Digest().String(), Salt: hex.EncodeToString(h.Question.Salt[:]), Method: act.Method, Original: h.Question.Asked.String(),
		Responses: string(act.Responses.Bytes()), FarState: act.State, Stateful: act.State != nil, Intent: h.Intent.String(),
	}
	if h.Overdue(now) {
		out.State = ostiary.HoldExpired.String()
	}
	out.Fields = fieldsOf(out.Fields, "", act.Arguments, h.Labels, nil)
	for i := range h.Origins {
		o := &h.Origins[i]
		out.Origins = append(out.Origins, HeldOrigin{o.Argument, o.Role, o.State, o.String()})
	}
	waiting := d.Approvals.Waiting(h, now)
	for _, n := range h.Needs {
		out.Needs = append(out.Needs, HeldNeed{n.Fact, n.Kind.String(), n.Group, n.People, texts(waiting[n.Fact])})
	}
	for _, r := range h.Reasons {
		out.Reasons = append(out.Reasons, HeldReason{r.Policy, r.Text})
	}
	for i := range h.Votes {
		b := &h.Votes[i]
		out.Votes = append(out.Votes, HeldVote{string(b.Vote.Approver), b.Vote.Consent, b.Vote.Question == h.Question.Digest(), b.Vote.Cast, b.Reason, b.Edits, b.Vote.ByPasskey()})
	}
	for _, f := range h.Findings {
		out.Findings = append(out.Findings, HeldFinding(f))
	}
	if h.State.Ended() {
		out.Ended = &HeldEnding{At: h.Ended.At, By: string(h.Ended.By), Why: h.Ended.Why, Code: h.Ended.Code, Entry: h.Ended.Entry}
		if h.State == ostiary.HoldDone || h.State == ostiary.HoldUnknown || h.State == ostiary.HoldVoid {
			out.Ended.Disposition = h.Ended.Disposition.String()
		}
	}
	return out
}

// maxFields bounds how many leaves are listed: the whole text stands beside
// them.
const maxFields = 2000

var valueKinds = map[ostiary.ValueKind]string{
	ostiary.Null: "null", ostiary.False: "false", ostiary.True: "true", ostiary.Number: "number", ostiary.String: "string", ostiary.Array: "array", ostiary.Object: "object",
}

// fieldsOf lists the leaves of a value, each with where it came from.
func fieldsOf(out []HeldField, at string, v ostiary.Value, labels map[string]ostiary.Label, sources []string) []HeldField {
	if len(out) >= maxFields || !v.Exists() {
		return out
	}
	switch kind := v.Kind(); {
	case kind == ostiary.Object && v.Len() > 0:
		for name, x := range v.Members() {
			if at == "" {
				sources = labels[name].Sources
			}
			out = fieldsOf(out, ostiary.Pointer(at, name), x, labels, sources)
		}
	case kind == ostiary.Array && v.Len() > 0:
		for i, x := range v.Elements() {
			out = fieldsOf(out, at+"/"+strconv.Itoa(i), x, labels, sources)
		}
	default:
		f := HeldField{Pointer: at, Kind: valueKinds[kind], Text: string(v.Bytes()), Lower: kind == ostiary.Number, Sources: append([]string{}, sources...)}
		if kind == ostiary.String {
			f.Text = v.Text()
		}
		out = append(out, f)
	}
	return out
}

// desk is where people decide; without a console there are no people.
func (c *Control) desk() (*Desk, error) {
	if c.o.Approvals == nil || c.o.People == nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "console_off", "nobody can consent to anything: people come with the console; set listen.console and restart the gateway")
	}
	return &Desk{c.o.Approvals, c.o.People, c.o.Clock}, nil
}

func (c *Control) getApprovals(r *http.Request) (any, error) {
	d, err := c.desk()
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	f := approval.Filter{States: []ostiary.HoldState{ostiary.HoldPending, ostiary.HoldGranted, ostiary.HoldSpent}}
	if s := q.Get("state"); s == "all" {
		f.States = nil
	} else if s != "" {
		f.States = nil
		for word := range strings.SplitSeq(s, ",") {
			state, err := ostiary.ParseHoldState(word)
			if err != nil {
				return nil, err
			}
			f.States = append(f.States, state)
		}
	}
	if name := q.Get("agent"); name != "" {
		if f.Agent, err = c.agentID(name); err != nil {
			return nil, err
		}
	}
	if s := q.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 1 || f.Limit > approval.MaxList {
			return nil, ostiary.Errorf(ostiary.Malformed, "limit", "write a number from 1 to %d", approval.MaxList).At("limit")
		}
	}
	if after := q.Get("after"); after != "" {
		h, err := d.Approvals.One(r.Context(), ostiary.HoldID(after))
		if err != nil {
			return nil, err
		}
		f.After = approval.Cursor{Created: h.Created, ID: h.ID}
	}
	return d.List(r.Context(), f)
}

func (c *Control) getApproval(r *http.Request) (any, error) {
	d, err := c.desk()
	if err != nil {
		return nil, err
	}
	return d.One(r.Context(), ostiary.HoldID(r.URL.Query().Get("id")))
}

func (c *Control) postNarrowing(ctx context.Context, in ChoiceRequest) (any, error) {
	d, err := c.desk()
	if err != nil {
		return nil, err
	}
	return d.Preview(ctx, ostiary.HoldID(in.ID), in.Edits)
}

func (c *Control) postVoteAsked(ctx context.Context, in ChoiceRequest) (any, error) {
	d, err := c.desk()
	if err != nil {
		return nil, err
	}
	return d.AskKey(ctx, in.Person, ostiary.HoldID(in.ID), approval.Choice{Consent: in.Consent, Reason: in.Reason, Edits: in.Edits})
}

func (c *Control) postVote(ctx context.Context, in VoteRequest) (any, error) {
	d, err := c.desk()
	if err != nil {
		return nil, err
	}
	return d.CastKey(ctx, in)
}

func (c *Control) postPersonKey(ctx context.Context, in PersonKeyRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	k, err := p.AddKey(ctx, in.Name, in.Key, operator(ctx))
	return PersonKey{in.Name, k.ID, k.Created, k.By}, err
}

func (c *Control) postPersonKeyDrop(ctx context.Context, in PersonKeyRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	return PersonKey{Name: in.Name, ID: in.ID}, p.DropKey(ctx, in.Name, in.ID, operator(ctx))
}

// RecordApproval puts votes, and what became of held actions, into the
// deployment's log: it is the Record of approvals. A vote stands there for
// everybody to verify.
func RecordApproval(changes Changes, clock func() time.Time) func(context.Context, approval.Event) error {
	return func(ctx context.Context, e approval.Event) error {
		entry := &ostiary.Entry{
			Kind: ostiary.KindChange, Time: clock(), Action: e.What, Code: "ok", Permit: true, Agent: e.Agent, Principal: e.Person, Approval: e.Hold,
			Payload: ostiary.Payload{Detail: []byte(detailJSON(map[string]string{"text": e.Detail, "by": string(e.Person)}))},
		}
		if e.Vote != nil {
			text, err := proof.MarshalVote(e.Vote)
			if err != nil {
				return err
			}
			entry.Facts = map[string]string{proof.VoteFact: text}
			entry.Permit = e.Vote.Consent
		}
		if _, err := changes.Append(ctx, entry); err != nil {
			return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the change could not be recorded").Because(err)
		}
		return nil
	}
}

// Approver says who a person is to approvals, as things stand now.
func Approver(p *people.Person) approval.Approver {
	out := approval.Approver{Person: p.ID, Active: p.Revoked.IsZero() && p.Has(people.Approver)}
	same := map[string]bool{}
	for _, l := range p.Links {
		same[l.Issuer+"#"+l.Subject] = true
	}
	for _, k := range p.Passkey {
		out.Keys = append(out.Keys, k.Key)
	}
	for _, k := range p.Keys {
		out.Keys = append(out.Keys, k.Key)
	}
	for _, k := range out.Keys {
		same["key:"+ostiary.DigestOf(k).String()] = true
	}
	out.Verified = slices.Sorted(maps.Keys(same))
	if !p.Revoked.IsZero() { // the same human still, who signs nothing
		out.Keys = nil
	}
	return out
}
