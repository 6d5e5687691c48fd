package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Approvals are the actions that wait for people. It refuses whoever may not
// vote; pages explain. Safe for concurrent use. [control.Desk] is one.
type Approvals interface {
	// List returns held actions in the order they were asked for.
	List(ctx context.Context, f approval.Filter) ([]control.Held, error)
	// Count says how many there are in each state.
	Count(ctx context.Context) (map[ostiary.HoldState]int, error)
	One(ctx context.Context, id ostiary.HoldID) (control.Held, error)
	// Preview shows a narrowing, validated and decided, and changes nothing.
	Preview(ctx context.Context, id ostiary.HoldID, edits []approval.Edit) (control.HeldPreview, error)
	// AskPasskey begins a vote in the browser that holds visit, CastPasskey
	// ends it with the browser's answer.
	AskPasskey(ctx context.Context, visit, person string, id ostiary.HoldID, c approval.Choice) (options []byte, _ control.Held, err error)
	CastPasskey(ctx context.Context, visit, person string, answer []byte) (control.Held, error)
}

func (c *Console) approvalRoutes() []route {
	return []route{
		{"GET /approvals", person, nothing, (*Console).approvals},
		{"GET /approvals/{id}", person, nothing, (*Console).oneApproval},
		{"POST /approvals/{id}/ask", person, aMessage, (*Console).askVote},
		{"POST /approvals/{id}/vote", person, aMessage, (*Console).castVote},
	}
}

// approvalsShown is how many held actions a page of the inbox has.
const approvalsShown = 50

// approvalsPage is what waits for people, the oldest first; or what became of
// what did.
type approvalsPage struct {
	Rows    []heldRow
	Ended   bool
	Waiting int    // pending, of everybody's
	Mine    int    // of those shown, those that whoever looks may decide
	More    string // address of the next page
	First   string // of the first, if this is another
	All     bool   // whoever looks sees everybody's
}

type heldRow struct {
	ID, Link  string
	Agent     Foreign
	Principal Foreign
	Action    Foreign
	Server    Foreign
	Key       []pairOf // the first values that can do harm
	State     string
	Left      string
	Soon      bool // less than ten minutes are left
	Created   time.Time
	Mine      bool
	Groups    string
	Narrowed  bool
}

type pairOf struct{ Name, Value Foreign }

// concerns reports whether a person may look at a held action: they have a
// role here, or are asked, or it is asked in their name (O06).
func concerns(h *control.Held, p *people.Person) bool {
	return watching.admits(p) || mayVote(h, p) || h.Principal == string(p.ID) || h.By == string(p.ID)
}

// mayVote reports whether a person is among those who may decide now.
func mayVote(h *control.Held, p *people.Person) bool {
	return h.State == "pending" && slices.ContainsFunc(h.Needs, func(n control.HeldNeed) bool { return slices.Contains(n.May, string(p.ID)) })
}

func (c *Console) approvals(x *exchange) error {
	ctx, q := x.r.Context(), x.r.URL.Query()
	p := approvalsPage{Ended: q.Get("show") == "ended", All: watching.admits(x.who())}
	f := approval.Filter{States: []ostiary.HoldState{ostiary.HoldPending, ostiary.HoldGranted, ostiary.HoldSpent}, Limit: approvalsShown}
	if p.Ended {
		f.States = []ostiary.HoldState{ostiary.HoldDone, ostiary.HoldRefused, ostiary.HoldExpired, ostiary.HoldVoid, ostiary.HoldUnknown}
	}
	if after := q.Get("after"); after != "" {
		at, id, _ := strings.Cut(after, " ")
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			return ostiary.Errorf(ostiary.Malformed, "filter", "this page of the list is none; begin at the first").At("after")
		}
		f.After, p.First = approval.Cursor{Created: t, ID: ostiary.HoldID(id)}, "/approvals"
	}
	counts, err := c.o.Approvals.Count(ctx)
	if err != nil {
		return err
	}
	p.Waiting = counts[ostiary.HoldPending]
	list, err := c.o.Approvals.List(ctx, f)
	if err != nil {
		return err
	}
	for i := range list {
		h := &list[i]
		if concerns(h, x.who()) {
			p.Rows = append(p.Rows, c.heldRow(h, x.who()))
		}
		if mayVote(h, x.who()) {
			p.Mine++
		}
	}
	if len(list) == approvalsShown {
		last := list[len(list)-1]
		next := url.Values{"after": {last.Created.UTC().Format(time.RFC3339Nano) + " " + last.ID}}
		if p.Ended {
			next.Set("show", "ended")
		}
		p.More = "/approvals?" + next.Encode()
	}
	return c.show(x, http.StatusOK, "approvals", "Approvals", frame{Page: "approvals", Content: p})
}

// keyValues is how many values a row shows.
const keyValues = 3

func (c *Console) heldRow(h *control.Held, who *people.Person) heldRow {
	now := c.o.Clock()
	row := heldRow{
		ID: h.ID, Link: "/approvals/" + h.ID, Agent: NewForeign(ostiary.AgentID(h.Agent).Name()), Principal: NewForeign(h.Principal), Action: NewForeign(h.Action), Server: NewForeign(h.Server),
		State: h.State, Created: h.Created, Left: inWords(now, h.Expires), Soon: h.State == "pending" && h.Expires.Sub(now) < 10*time.Minute, Mine: mayVote(h, who), Narrowed: h.Asked != "",
	}
	if h.Tool != "" && h.Server != "" {
		row.Action = NewForeign(h.Tool)
	}
	var groups []string
	for _, n := range h.Needs {
		groups = append(groups, n.Fact)
	}
	row.Groups = strings.Join(groups, ", ")
	for _, risk := range []bool{true, false} {
		for _, f := range h.Fields {
			if isRisky(f.Pointer) == risk && len(row.Key) < keyValues {
				row.Key = append(row.Key, pairOf{NewForeign(strings.TrimPrefix(f.Pointer, "/")), NewForeign(f.Text)})
			}
		}
	}
	return row
}

// approvalPage is one held action with everything an approver must see.
type approvalPage struct {
	control.Held
	Agent1    Foreign
	AgentLink string
	For       Foreign
	GaveIt    Foreign
	Task      Foreign
	Purpose   Foreign
	What      Foreign
	On        Foreign
	URI       Foreign
	Values    arguments
	Chain     []Foreign
	Taint     []Foreign
	Findings  []control.HeldFinding
	Left      string
	Soon      bool
	Mine      bool   // whoever looks may decide
	Why       string // not
	Statement bool   // a reason is part of what is needed
	Policy    string // what policy says to it now
	Refused   Foreign
	Narrowing bool // the page shows a narrowing that nobody voted for yet
	Diff      []diffLine
	Edits     string // of that narrowing, for the script
	Places    []place
	Similar   []line
	Ended     *control.HeldEnding
	EndedWhy  Foreign
	Votes     []voteRow
	Reads     bool
	Budgets   []Purse // that it would draw on
}

// place is where a narrowing can change something.
type place struct {
	Pointer string
	Name    Foreign
	Value   Foreign
	Lower   bool
	Was     string // the number as it stands
	To      string // as the form has it
	Drop    bool
}

type voteRow struct {
	control.HeldVote
	Reason Foreign
}

// similarShown is how many actions like it a page shows.
const similarShown = 5

// held reads the action an address names, for who may look at it.
func (c *Console) held(x *exchange) (control.Held, error) {
	h, err := c.o.Approvals.One(x.r.Context(), ostiary.HoldID(x.r.PathValue("id")))
	if k := ostiary.KindOf(err); err != nil && k != ostiary.NotFound && k != ostiary.Malformed && k != ostiary.Conflict {
		return h, err
	}
	if err != nil || !concerns(&h, x.who()) {
		return h, ostiary.Errorf(ostiary.NotFound, "no_hold", "nothing of this name waits for anybody, or did lately")
	}
	return h, nil
}

func (c *Console) oneApproval(x *exchange) error {
	ctx := x.r.Context()
	h, err := c.held(x)
	if err != nil {
		return err
	}
	edits, err := narrowing(x.r.URL.Query())
	if err != nil {
		return err
	}
	was, p := h.Arguments, approvalPage{}
	if h.State == "pending" {
		var policy string
		pre, err := c.o.Approvals.Preview(ctx, ostiary.HoldID(h.ID), edits)
		switch {
		case err == nil:
			h, policy = pre.Held, pre.Outcome
		case ostiary.KindOf(err) == ostiary.Internal || ostiary.KindOf(err) == ostiary.Unavailable:
			return err
		default:
			policy = "refused"
			p.Refused = NewForeign(ostiary.AsError(err).Detail)
		}
		p.Policy = policy
		p.Narrowing = len(edits) > 0 && err == nil
	}
	c.tellHeld(&p, h, x.who())
	if p.Narrowing {
		b, err := json.Marshal(edits)
		if err != nil {
			return err
		}
		p.Edits, p.Diff = string(b), difference(spread(was), spread(h.Arguments))
	} else if h.Asked != "" {
		p.Diff = difference(spread(h.Asked), spread(h.Arguments))
	}
	p.Places = places(h, x.r.URL.Query())
	if p.Similar, err = c.similar(ctx, h); err != nil {
		return err
	}
	if p.Budgets, err = c.left(ctx, &h); err != nil {
		return err
	}
	p.Reads = reading.admits(x.who())
	return c.show(x, http.StatusOK, "approval", "Should this happen?", frame{Page: "approvals", Script: "vote.js", Content: p})
}

// tellHeld fills in the page.
func (c *Console) tellHeld(p *approvalPage, h control.Held, who *people.Person) {
	now := c.o.Clock()
	p.Held, p.AgentLink, p.Agent1, p.For, p.GaveIt = h, agentLink(h.Agent), NewForeign(ostiary.AgentID(h.Agent).Name()), NewForeign(h.Principal), NewForeign(h.By)
	p.Task, p.Purpose, p.What, p.On, p.URI = NewForeign(h.Task), NewForeign(h.Purpose), NewForeign(h.Action), NewForeign(h.Server), NewForeign(h.URI)
	if h.Tool != "" {
		p.What = NewForeign(h.Tool)
	}
	p.Values = readArguments([]byte(h.Arguments))
	sources := map[string][]string{}
	for _, f := range h.Fields {
		sources[f.Pointer] = f.Sources
	}
	for i := range p.Values.Values {
		v := &p.Values.Values[i]
		for _, s := range sources[v.raw] {
			v.From = append(v.From, origin{NewForeign(s), slices.Contains(h.Taint, s)})
		}
	}
	if len(h.Chain) > 1 {
		for _, a := range append([]string{h.Principal}, h.Chain...) {
			p.Chain = append(p.Chain, NewForeign(shortName(a)))
		}
	}
	for _, t := range h.Taint {
		p.Taint = append(p.Taint, NewForeign(t))
	}
	p.Findings, p.Ended = h.Findings, h.Ended
	if h.Ended != nil {
		p.EndedWhy = NewForeign(h.Ended.Why)
	}
	p.Left, p.Soon = inWords(now, h.Expires), h.Expires.Sub(now) < 10*time.Minute
	for _, n := range h.Needs {
		p.Statement = p.Statement || n.Kind == "justification"
	}
	for _, v := range h.Votes {
		p.Votes = append(p.Votes, voteRow{v, NewForeign(v.Reason)})
	}
	p.Mine = mayVote(&h, who)
	p.Why = whyNot(&h, who)
}

// whyNot explains why somebody may not decide. The engine refuses them
// whatever is said here.
func whyNot(h *control.Held, who *people.Person) string {
	voted := slices.ContainsFunc(h.Votes, func(v control.HeldVote) bool { return v.Approver == string(who.ID) && v.Counts })
	switch {
	case h.State != "pending" || mayVote(h, who):
		return ""
	case voted:
		return "You voted on this already. It waits for somebody else."
	case h.Principal == string(who.ID) || h.By == string(who.ID):
		return "It is asked on your own authority, so somebody else must decide."
	case !who.Has(people.Approver):
		return "You do not have the role of an approver."
	}
	return "You are not among those who may decide this: the groups below may, and never the owner of the agent who asks."
}

// spread is a JSON text with a line for each value, so that a difference shows
// what changed. It is for reading alone.
func spread(text string) string {
	var b strings.Builder
	depth, inText, escaped := 0, false, false
	line := func() { b.WriteString("\n" + strings.Repeat("  ", max(0, depth))) }
	for _, r := range text {
		if inText {
			b.WriteRune(r)
			switch {
			case escaped:
				escaped = false
			case r == '\\':
				escaped = true
			case r == '"':
				inText = false
			}
			continue
		}
		switch r {
		case '"':
			inText = true
			b.WriteRune(r)
		case '{', '[':
			depth++
			b.WriteRune(r)
			line()
		case '}', ']':
			depth--
			line()
			b.WriteRune(r)
		case ',':
			b.WriteRune(r)
			line()
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// The fields of a narrowing: the lower number of a place, and what is left
// out.
const (
	lowerField = "to:"
	dropField  = "drop"
)

// narrowing reads what a form would change.
func narrowing(q url.Values) (edits []approval.Edit, err error) {
	dropped := map[string]bool{}
	for _, at := range q[dropField] {
		if !dropped[at] {
			dropped[at] = true
			edits = append(edits, approval.Edit{Pointer: at, Drop: true})
		}
	}
	for field, values := range q {
		at, ok := strings.CutPrefix(field, lowerField)
		was := q.Get("was:" + at)
		if to := strings.TrimSpace(values[0]); ok && to != "" && to != was && !dropped[at] {
			edits = append(edits, approval.Edit{Pointer: at, To: to})
		}
	}
	if len(edits) > approval.MaxEdits {
		return nil, ostiary.Errorf(ostiary.Malformed, "narrowing", "a narrowing changes at most %d places", approval.MaxEdits)
	}
	slices.SortFunc(edits, func(a, b approval.Edit) int { return strings.Compare(a.Pointer, b.Pointer) })
	return edits, nil
}

// maxPlaces bounds how many places a page offers to narrow.
const maxPlaces = 60

func places(h control.Held, q url.Values) (out []place) {
	for _, f := range h.Fields {
		if f.Pointer == "" || len(out) >= maxPlaces {
			continue
		}
		p := place{Pointer: f.Pointer, Name: NewForeign(strings.TrimPrefix(f.Pointer, "/")), Value: NewForeign(f.Text), Lower: f.Lower, Was: f.Text, To: f.Text}
		if to := q.Get(lowerField + f.Pointer); f.Lower && to != "" {
			p.To, p.Was = to, q.Get("was:"+f.Pointer)
		}
		out = append(out, p)
	}
	for _, at := range q[dropField] {
		if !slices.ContainsFunc(out, func(p place) bool { return p.Pointer == at }) {
			out = append(out, place{Pointer: at, Name: NewForeign(strings.TrimPrefix(at, "/")), Drop: true})
		}
	}
	return out
}

// similar are the latest actions of the same agent with the same tool.
func (c *Console) similar(ctx context.Context, h control.Held) ([]line, error) {
	if c.o.Desk == nil {
		return nil, nil
	}
	found, err := c.o.Desk.Find(ctx, url.Values{"agent": {h.Agent}, "action": {h.Action}, "newest": {"true"}, "latest": {"true"}, "kind": {"intent,outcome"}, "limit": {strconv.Itoa(similarShown)}})
	if err != nil {
		return nil, err
	}
	return lines(found.Entries, "log"), nil
}

// readVote reads a vote that a script sends.
func readVote(x *exchange) (approval.Choice, error) {
	out := approval.Choice{Consent: x.body.Get("consent").Kind() == ostiary.True, Reason: x.body.Get("reason").Text()}
	text := x.body.Get("edits").Text()
	if text == "" {
		return out, nil
	}
	_, err := strictjson.Parse([]byte(text), strictjson.Request)
	if err == nil {
		err = json.Unmarshal([]byte(text), &out.Edits)
	}
	if err != nil {
		return out, ostiary.Errorf(ostiary.Malformed, "narrowing", "the narrowing cannot be read").At("edits")
	}
	return out, nil
}

// askVote begins a vote: the answer is what a passkey is to sign.
func (c *Console) askVote(x *exchange) error {
	h, err := c.held(x)
	if err != nil {
		return err
	}
	v, err := readVote(x)
	if err != nil {
		return err
	}
	options, _, err := c.o.Approvals.AskPasskey(x.r.Context(), x.token, x.who().Name, ostiary.HoldID(h.ID), v)
	if err != nil {
		return err
	}
	return x.answer(options)
}

// castVote counts it.
func (c *Console) castVote(x *exchange) error {
	h, err := c.held(x)
	if err != nil {
		return err
	}
	if _, err := c.o.Approvals.CastPasskey(x.r.Context(), x.token, x.who().Name, x.body.Get("answer").Bytes()); err != nil {
		return err
	}
	b, err := json.Marshal(map[string]string{"next": "/approvals/" + h.ID})
	if err != nil {
		return err
	}
	return x.answer(b)
}
