package gate

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// exchange is one call on its way through the flow. One goroutine owns it
// until Handle returns; then its stream does. The settled flag alone is shared.
type exchange struct {
	call     *Call
	subject  ostiary.Subject
	request  *ostiary.Request
	decision ostiary.Decision
	held     ostiary.HoldID // where it waits for people, if it does
	asked    ostiary.Digest // digest of the action that was asked, if another took its place
	intentID ostiary.EntryID
	intended ostiary.Receipt
	hold     Hold // what it holds of its budgets; nil if none covers it
	bound    bool // a clearance exists: from here on something may have left
	upstream Stream
	result   ostiary.Digest
	length   int64
	findings []ostiary.Finding
	clock    func() time.Time // nil if nobody observes
	began    [Steps]time.Time // when each step was entered

	settled atomic.Bool
	mu      sync.Mutex // guards what settle leaves behind
	final   ostiary.Receipt
	ended   ostiary.Disposition
}

// errSettled says that somebody else settled the exchange, with a
// disposition of their own.
var errSettled = ostiary.Errorf(ostiary.Conflict, "settled", "the exchange is already settled")

func (g *Gate) begin(call *Call) *exchange {
	g.flying.Add(1)
	x := &exchange{call: call, asked: call.Narrowed}
	if g.observer != nil {
		x.clock = g.clock
	}
	return x
}

func (x *exchange) finish(r ostiary.Receipt) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.final = r
}

// end notes what settle is about to record.
func (x *exchange) end(d ostiary.Disposition) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = d
}

// lose notes that it could not be recorded: then nobody got the reply.
func (x *exchange) lose() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended == ostiary.Delivered {
		x.ended = ostiary.Withheld
	}
}

// fate is what became of the exchange, whether it could be recorded or not. Of
// one that nobody settled it is what is safe to say: Unknown, once a clearance
// existed.
func (x *exchange) fate() ostiary.Disposition {
	switch {
	case x.settled.Load():
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.ended
	case x.bound:
		return ostiary.Unknown
	}
	return ostiary.Refused
}

// ref returns the entry people look up: the Intent if there is one, else the
// lone Outcome.
func (x *exchange) ref() ostiary.EntryRef {
	if !x.intended.ID.IsZero() {
		return x.intended.Ref
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.final.Ref
}

// entry fills in what Intent and Outcome share.
func (x *exchange) entry(kind ostiary.EntryKind, now time.Time) *ostiary.Entry {
	e := &ostiary.Entry{
		Kind: kind, Time: now, Parent: x.call.Parent,
		Agent: x.subject.Agent, Principal: x.subject.Principal, Mandate: x.subject.Mandate,
		Action: x.call.Action.Name, Server: x.call.Action.Server,
		Asked: x.asked, Permit: x.decision.Permit, Code: x.decision.Code,
		Snapshot: x.decision.Snapshot, Policy: x.decision.Policy,
	}
	if e.Approval = x.held; e.Approval == "" {
		e.Approval = x.call.Approval
	}
	if r := x.request; r != nil {
		e.Session, e.Mandate, e.Pin = r.Context.Session.ID, r.Context.Mandate.ID, r.Action.Pin
	}
	for _, r := range x.decision.Reasons {
		e.Reasons = append(e.Reasons, r.Policy)
	}
	for _, o := range x.decision.Obligations {
		e.Obligations = append(e.Obligations, o.Type)
	}
	return e
}

func (x *exchange) intent(now time.Time) *ostiary.Entry {
	e := x.entry(ostiary.KindIntent, now)
	e.ID = x.intentID
	e.Payload = ostiary.Payload{Arguments: x.arguments(), Inputs: x.inputs()}
	return e
}

func (x *exchange) outcome(d ostiary.Disposition, cause error, now time.Time) *ostiary.Entry {
	e := x.entry(ostiary.KindOutcome, now)
	e.Answers, e.Disposition = x.intentID, d
	e.Payload = ostiary.Payload{Result: x.result, ResultLen: x.length, Detail: x.detail(cause)}
	if x.intentID.IsZero() { // alone, it tells the whole story
		e.Payload.Arguments, e.Payload.Inputs = x.arguments(), x.inputs()
	}
	if cause != nil {
		err := ostiary.AsError(cause)
		if e.Code = err.Code; e.Code == "" {
			e.Code = err.Kind.String()
		}
		e.Permit = e.Permit && x.bound
	}
	return e
}

// arguments returns every byte of the action that the caller chose: the
// arguments as they arrived, and what a retry adds.
func (x *exchange) arguments() []byte {
	a := &x.call.Action
	if x.request != nil {
		a = &x.request.Action
	}
	if !a.Responses.Exists() && a.State == nil {
		return a.Arguments.Bytes()
	}
	return append(append(append([]byte{}, a.Arguments.Bytes()...), a.Responses.Bytes()...), a.State...)
}

// recorded is the JSON form of a decision's inputs in a payload. It is ours,
// written and read by this product alone.
type recorded struct {
	Method    string            `json:"method"`
	Tool      string            `json:"tool,omitempty"`
	URI       string            `json:"uri,omitempty"`
	Protocol  string            `json:"protocol,omitempty"`
	Via       string            `json:"via"`
	Bound     bool              `json:"bound"`
	Chain     []ostiary.AgentID `json:"chain,omitempty"`
	Mandate   *mandateFact      `json:"mandate,omitempty"`
	Epoch     uint64            `json:"epoch"`
	Signers   []string          `json:"signers,omitempty"` // of the credential: what is run again later stands only with them
	Zone      string            `json:"zone,omitempty"`
	Roles     []string          `json:"roles,omitempty"`
	Resource  *resourceFact     `json:"resource,omitempty"`
	Posture   string            `json:"posture,omitempty"`
	Risk      *riskFact         `json:"risk,omitempty"`
	Contained string            `json:"containment,omitempty"`
	Taint     []string          `json:"taint,omitempty"`
	Chosen    []string          `json:"chosen,omitempty"`
	Origins   []originFact      `json:"origins,omitempty"`
	Task      *taskFact         `json:"task,omitempty"`
	Satisfied []string          `json:"satisfied,omitempty"`
	Spends    []spendFact       `json:"spends,omitempty"`
	Remedies  []remedyFact      `json:"remedies,omitempty"`
	Evaluated int               `json:"policies_evaluated"`
	Total     int               `json:"policies_total"`
	Rewritten bool              `json:"rewritten,omitempty"`
	Digest    string            `json:"action_digest"`
	Findings  []findingFact     `json:"findings,omitempty"`
	Near      []nearFact        `json:"near,omitempty"`
	Shadow    *shadowFact       `json:"shadow,omitempty"`
	Entities  []entityFact      `json:"registered,omitempty"` // of agent, server and tool those that are
}

// The recorded forms of the vocabulary, whose own types promise no JSON.
type (
	resourceFact struct {
		Server  string `json:"server"`
		Zone    string `json:"zone"`
		Trusted bool   `json:"trusted"`
	}
	riskFact struct {
		Score int64  `json:"score"`
		Level string `json:"level"`
	}
	reasonFact struct {
		Policy string `json:"policy"`
		Text   string `json:"text,omitempty"`
		Where  string `json:"where,omitempty"`
	}
	spendFact struct {
		Budget string `json:"budget"`
		Holder string `json:"holder,omitempty"`
		Unit   string `json:"unit"`
		Amount int64  `json:"amount"`
	}
	remedyFact struct {
		Fact   string `json:"fact"`
		Policy string `json:"policy"`
	}
	nearFact struct {
		Policy string `json:"policy"`
		Where  string `json:"where"`
		Failed string `json:"failed"`
	}
	shadowFact struct {
		Outcome  string   `json:"outcome"`
		Policies []string `json:"policies"`
	}
	taskFact struct {
		Asked bool `json:"asked"` // its words call for the tool
	}
	originFact struct {
		Argument string `json:"argument"`
		Role     string `json:"role"`
		State    string `json:"state"`
		Server   string `json:"server,omitempty"`
		Tool     string `json:"tool,omitempty"`
		Step     int    `json:"step,omitempty"`
		Field    string `json:"field,omitempty"`
		How      string `json:"how,omitempty"`
	}
	findingFact struct {
		Inspector  string `json:"inspector,omitempty"`
		Kind       string `json:"kind"`
		Field      string `json:"field,omitempty"`
		Confidence int    `json:"confidence"`
	}
)

// entityFact is what the registry said of an entity.
type entityFact struct {
	Kind     ostiary.EntityKind  `json:"kind"`
	Name     string              `json:"name"`
	Edition  int64               `json:"edition"`
	Owner    ostiary.PrincipalID `json:"owner"`
	Owned    bool                `json:"owned"`
	Purpose  string              `json:"purpose"`
	Version  string              `json:"version,omitempty"`
	Baseline string              `json:"baseline"`
	Classes  []string            `json:"classes,omitempty"`
	Limits   *limitsFact         `json:"limits,omitempty"`
}

type limitsFact struct {
	Amount int64 `json:"amount,omitempty"`
	Calls  int64 `json:"calls,omitempty"`
	Tokens int64 `json:"tokens,omitempty"`
	Bytes  int64 `json:"bytes,omitempty"`
	Depth  int64 `json:"depth,omitempty"`
}

// entitiesOf lists what of a request is registered.
func entitiesOf(r *ostiary.Request) (out []entityFact) {
	for _, x := range [...]ostiary.Registered{r.Context.Registered, r.Resource.Registered, r.Action.Registered} {
		e := x.Entity
		if e == nil {
			continue
		}
		f := entityFact{e.Kind, e.Name, e.Edition, e.Owner, x.Owned, e.Purpose, e.Version, x.Baseline.String(), e.Classes, nil}
		if e.Limits != (ostiary.Limits{}) {
			l := limitsFact(e.Limits)
			f.Limits = &l
		}
		out = append(out, f)
	}
	return out
}

// factsOf turns a list into its recorded form; the types differ in tags alone.
func factsOf[F, V any](list []V, form func(V) F) (out []F) {
	for _, v := range list {
		out = append(out, form(v))
	}
	return out
}

// mandateFact is the effective right a call was made under. Of long lists it
// holds the beginning: the signed mandates are in the deployment's log.
type mandateFact struct {
	Kind      string              `json:"kind"`
	By        ostiary.PrincipalID `json:"by,omitempty"`
	Purpose   string              `json:"purpose,omitempty"`
	Links     []ostiary.MandateID `json:"links,omitempty"` // if there are several, from the first
	Actions   []string            `json:"actions,omitempty"`
	Within    [][]string          `json:"within,omitempty"`
	Resources []string            `json:"resources,omitempty"`
	Ceilings  []ceilingFact       `json:"ceilings,omitempty"`
	Depth     int64               `json:"depth,omitempty"`
	Expires   time.Time           `json:"expires"`
	More      bool                `json:"more,omitempty"` // a list goes on
}

type ceilingFact struct {
	Action  string `json:"action"`
	Pointer string `json:"pointer"`
	Max     string `json:"max"`
	Unit    string `json:"unit,omitempty"`
}

// maxRight bounds how much of each list of a right stands in an entry.
const maxRight = 16

// mandateOf leaves out a right that limits nothing but time: most calls of an
// agent without a task are under one, and the entry names it.
func mandateOf(m *ostiary.Mandate) *mandateFact {
	if m.Kind == ostiary.NoMandateKind || m.Kind == ostiary.StandingMandate && len(m.Ceilings) == 0 && slices.Equal(m.Actions, all) && slices.Equal(m.Resources, all) {
		return nil
	}
	f := &mandateFact{Kind: m.Kind.String(), By: m.By, Purpose: m.Purpose, Depth: m.Depth, Expires: m.Expires.UTC()}
	if len(m.Links) > 1 {
		f.Links = m.Links
	}
	f.Actions, f.Resources = f.first(m.Actions), f.first(m.Resources)
	for _, list := range m.Within {
		f.Within = append(f.Within, f.first(list))
	}
	for _, c := range m.Ceilings[:min(len(m.Ceilings), maxRight)] {
		f.Ceilings = append(f.Ceilings, ceilingFact(c))
	}
	f.More = f.More || len(m.Ceilings) > maxRight
	return f
}

var all = []string{"*"}

func (f *mandateFact) first(list []string) []string {
	f.More = f.More || len(list) > maxRight
	return list[:min(len(list), maxRight)]
}

func spendOf(s ostiary.Spend) spendFact       { return spendFact(s) }
func remedyOf(r ostiary.Remedy) remedyFact    { return remedyFact(r) }
func reasonOf(r ostiary.Reason) reasonFact    { return reasonFact(r) }
func nearOf(n ostiary.NearMiss) nearFact      { return nearFact(n) }
func originOf(o ostiary.Origin) originFact    { return originFact(o) }
func findingOf(f ostiary.Finding) findingFact { return findingFact(f) }

func (x *exchange) inputs() []byte {
	a := &x.call.Action
	in := recorded{Via: x.subject.Via.String(), Bound: x.subject.Bound, Epoch: x.subject.Epoch, Signers: x.subject.Signers, Protocol: x.call.Protocol}
	if len(x.subject.Chain) > 1 {
		in.Chain = x.subject.Chain
	}
	if r := x.request; r != nil {
		a = &r.Action
		c := &r.Context
		resource, risk := resourceFact{r.Resource.Server, r.Resource.Zone, r.Resource.Trusted}, riskFact(c.Risk)
		in.Mandate, in.Entities = mandateOf(&c.Mandate), entitiesOf(r)
		in.Zone, in.Roles, in.Resource, in.Posture = c.Zone, c.Roles, &resource, c.Posture.Method
		in.Chosen, in.Origins = c.Provenance.Chosen, factsOf(c.Provenance.Origins, originOf)
		if c.Provenance.Given {
			in.Task = &taskFact{c.Provenance.Asked}
		}
		in.Risk, in.Contained, in.Taint, in.Satisfied, in.Findings = &risk, c.Containment.String(), c.Taint, c.Satisfied, factsOf(c.Findings, findingOf)
	}
	in.Method, in.Tool, in.URI, in.Rewritten, in.Digest = a.Method, a.Tool, a.URI, a.Rewritten, a.Digest().String()
	in.Remedies, in.Evaluated, in.Total = factsOf(x.decision.Remedies, remedyOf), x.decision.Evaluated, x.decision.Total
	in.Near = factsOf(x.decision.Near, nearOf)
	if x.hold != nil {
		in.Spends = factsOf(x.hold.Spends(), spendOf)
	}
	if s := x.decision.Shadow; s != nil {
		in.Shadow = &shadowFact{s.Outcome, s.Policies}
	}
	b, err := json.Marshal(&in)
	if err != nil { // no field can fail to marshal
		panic(err)
	}
	return b
}

// detail is the JSON form of how an exchange ended, for people.
func (x *exchange) detail(cause error) []byte {
	if cause == nil && len(x.findings) == 0 {
		return nil
	}
	var out struct {
		Kind     string        `json:"kind,omitempty"`
		Code     string        `json:"code,omitempty"`
		Field    string        `json:"field,omitempty"`
		Text     string        `json:"text,omitempty"`
		Reasons  []reasonFact  `json:"reasons,omitempty"`
		Remedies []remedyFact  `json:"remedies,omitempty"`
		Findings []findingFact `json:"findings,omitempty"`
	}
	if cause != nil {
		e := ostiary.AsError(cause)
		out.Kind, out.Code, out.Field, out.Text, out.Reasons, out.Remedies = e.Kind.String(), e.Code, e.Field, e.Detail, factsOf(e.Reasons, reasonOf), factsOf(e.Remedies, remedyOf)
	}
	out.Findings = factsOf(x.findings, findingOf)
	b, err := json.Marshal(&out)
	if err != nil {
		panic(err)
	}
	return b
}
