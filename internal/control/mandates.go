package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/people"
)

// MandateRequest gives an agent a mandate that is derived from none.
type MandateRequest struct {
	Kind  string          `json:"kind"`  // "standing", "task", "grant", "break_glass"
	Terms json.RawMessage `json:"terms"` // see identity.Terms
}

// MandateEndRequest ends a mandate and everything derived from it.
type MandateEndRequest struct {
	Mandate string `json:"mandate"`
	How     string `json:"how"` // "completed", "revoked"
	Reason  string `json:"reason"`
}

// MandateNameRequest names a mandate; or, to renew its standing one, an agent.
type MandateNameRequest struct {
	Mandate string `json:"mandate,omitempty"`
	Agent   string `json:"agent,omitempty"`
}

// Mandate is a mandate as people and programs are shown it.
type Mandate struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	State    string    `json:"state"`          // "in_force", "not_yet", "completed", "revoked", "expired"
	With     string    `json:"with,omitempty"` // the mandate above it that ended it
	Links    []string  `json:"links"`          // the chain, from the first mandate to this one
	Agents   []string  `json:"agents"`         // of the chain
	By       string    `json:"by"`             // who gave it, or the first of its chain
	Issued   time.Time `json:"issued"`
	Ended    time.Time `json:"ended,omitzero"`
	EndedBy  string    `json:"ended_by,omitempty"`
	Why      string    `json:"why,omitempty"` // it ended
	Reviewed time.Time `json:"reviewed,omitzero"`
	Reviewer string    `json:"reviewer,omitempty"`

	Says   identity.Terms `json:"says"`             // as it was signed
	Allows identity.Terms `json:"allows"`           // with all links above it: the effective right
	Within [][]string     `json:"within,omitempty"` // lists an action must be in beside Allows
	Words  []string       `json:"words"`            // the effective right in plain words, a line each
	Signed []string       `json:"signed,omitempty"` // the chain in its signed form, when one mandate is asked for

	Warnings []string `json:"warnings,omitempty"` // when it is given: what it names and nobody has heard of
}

func (c *Control) getMandates(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := identity.MandateFilter{Principal: ostiary.PrincipalID(q.Get("principal")), Parent: ostiary.MandateID(q.Get("parent")), Review: q.Get("review") == "true"}
	var err error
	if name := q.Get("agent"); name != "" {
		if f.Agent, err = c.agentID(name); err != nil {
			return nil, err
		}
	}
	if s := q.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 1 || f.Limit > 1000 {
			return nil, ostiary.Errorf(ostiary.Malformed, "limit", "write a number from 1 to 1000").At("limit")
		}
	}
	views, err := c.o.Authority.Mandates(r.Context(), f)
	if err != nil {
		return nil, err
	}
	out := []Mandate{}
	for i := range views {
		out = append(out, mandateOf(&views[i], false))
	}
	return out, nil
}

func (c *Control) getMandate(r *http.Request) (any, error) {
	return c.mandate(r.Context(), ostiary.MandateID(r.URL.Query().Get("id")))
}

func (c *Control) mandate(ctx context.Context, id ostiary.MandateID) (any, error) {
	v, err := c.o.Authority.MandateView(ctx, id)
	if err != nil {
		return nil, err
	}
	return mandateOf(&v, true), nil
}

func mandateOf(v *identity.MandateView, signed bool) Mandate {
	r, e := &v.Record, &v.Effective
	out := Mandate{
		ID: string(r.ID), Kind: r.Kind.String(), State: v.State, With: string(v.With), By: string(r.By), Issued: r.Issued.UTC(),
		Ended: r.Ended, EndedBy: r.EndedBy, Why: r.Why, Reviewed: r.Reviewed, Reviewer: r.Reviewer, Links: []string{}, Agents: []string{},
		Says: identity.TermsOf(&v.Mandate), Allows: identity.TermsOf(e), Within: e.Within, Words: Words(e),
	}
	for _, id := range e.Links {
		out.Links = append(out.Links, string(id))
	}
	for _, a := range v.Agents {
		out.Agents = append(out.Agents, string(a))
	}
	if signed {
		out.Signed = v.Signed
	}
	return out
}

// Words says in plain words what a mandate allows, a line each: for people who
// give one or look at one. Texts in it are as they were given.
func Words(m *ostiary.Mandate) []string {
	if m.ID == "" && len(m.Actions) == 0 {
		return []string{"Nothing: its chain does not hold."}
	}
	var out []string
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	say("%s may act for %s.", m.Agent, m.Principal)
	if m.Task != "" {
		say("The task: %s", m.Task)
	}
	if m.Purpose != "" {
		say("The purpose: %s", m.Purpose)
	}
	say("It may do %s on %s.", listed(m.Actions, "whatever policy allows"), listed(m.Resources, "every server"))
	for _, l := range m.Within {
		say("Each action must also be among %s.", listed(l, "whatever policy allows"))
	}
	say("It may use %s.", listed(m.Classes, "data of every class"))
	for _, c := range m.Ceilings {
		say("In %s, %s is at most %s.", listed([]string{c.Action}, "every action"), strings.TrimPrefix(c.Pointer, "/"), strings.TrimSpace(c.Max+" "+c.Unit))
	}
	out = append(out, spending(&m.Budget)...)
	say("Who may approve more: %s.", listed(m.Approvers, "whoever policy names"))
	switch {
	case m.Depth == 1:
		say("It may hand parts of this to other agents, and they to nobody.")
	case m.Depth > 1:
		say("It may hand parts of this to other agents, through %d of them at most.", m.Depth)
	default:
		say("It may hand on none of this.")
	}
	say("From %s until %s.", m.NotBefore.UTC().Format(time.RFC3339), m.Expires.UTC().Format(time.RFC3339))
	if m.Reason != "" {
		say("The reason: %s", m.Reason)
	}
	return out
}

func spending(b *ostiary.Budget) (out []string) {
	var parts []string
	for _, m := range b.Money {
		parts = append(parts, fmt.Sprintf("%d minor units of %s", m.Minor, m.Currency))
	}
	for _, n := range []struct {
		n    int64
		what string
	}{{b.Calls, "calls"}, {b.Tokens, "tokens"}, {b.Bytes, "bytes"}} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return []string{"Its budget: " + strings.Join(parts, ", ") + "."}
}

// maxListed bounds how many names a line of words holds.
const maxListed = 20

func listed(list []string, every string) string {
	switch {
	case slices.Contains(list, "*"):
		return every
	case len(list) == 0:
		return "nothing"
	case len(list) > maxListed:
		return fmt.Sprintf("%s and %d more", strings.Join(list[:maxListed], ", "), len(list)-maxListed)
	}
	return strings.Join(list, ", ")
}

// giver is the principal that an operator is.
func giver(ctx context.Context) ostiary.PrincipalID {
	name := strings.ReplaceAll(operator(ctx), " ", "-")
	if strings.Contains(name, ":") {
		return ostiary.PrincipalID(name)
	}
	return ostiary.PrincipalID("person:" + name)
}

// terms reads what a mandate is to say. An operator gives it on the authority
// the agent acts on, unless the terms say another's; lists that only narrow
// are open if they are left out.
func (c *Control) terms(raw json.RawMessage) (ostiary.Mandate, error) {
	t, err := identity.ParseTerms(raw)
	if err != nil {
		return ostiary.Mandate{}, err
	}
	id, err := c.agentID(t.Agent)
	if err != nil {
		return ostiary.Mandate{}, err
	}
	m := t.Mandate(c.o.Clock())
	if m.Agent = id; m.Principal == "" {
		if a, ok := c.o.Authority.Agent(id); ok {
			m.Principal = a.Principal
		}
	}
	openLists(&m)
	return m, nil
}

func openLists(m *ostiary.Mandate) {
	for _, l := range []*[]string{&m.Classes, &m.Approvers} {
		if *l == nil {
			*l = []string{"*"}
		}
	}
}

func (c *Control) postMandate(ctx context.Context, in MandateRequest) (any, error) {
	kind, err := ostiary.ParseMandateKind(in.Kind)
	if err != nil {
		return nil, err
	}
	m, err := c.terms(in.Terms)
	if err != nil {
		return nil, err
	}
	m.Kind = kind
	warnings := c.unheard(&m)
	if m, err = c.o.Authority.IssueMandate(ctx, giver(ctx), m); err != nil {
		return nil, err
	}
	v, err := c.o.Authority.MandateView(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	out := mandateOf(&v, true)
	out.Warnings = warnings
	return out, nil
}

// unheard lists what a mandate names and nothing here has: it may come, and is
// more often a slip.
func (c *Control) unheard(m *ostiary.Mandate) (out []string) {
	names := append([]string{}, m.Actions...)
	for _, x := range m.Ceilings {
		names = append(names, x.Action)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name != "*" && !c.isAction(name) && !c.o.Engine.IsGroup(name) {
			out = append(out, fmt.Sprintf("no server offers the action %s, and it is no group of policy; see: ostiary tools list", name))
		}
	}
	for _, server := range m.Resources {
		if server != "*" && server != ostiary.NoServer && c.known(server) != nil {
			out = append(out, fmt.Sprintf("no server %s is configured", server))
		}
	}
	return out
}

func (c *Control) postMandateEnd(ctx context.Context, in MandateEndRequest) (any, error) {
	id := ostiary.MandateID(in.Mandate)
	if err := c.o.Authority.EndMandate(ctx, operator(ctx), id, identity.EndHow(in.How), in.Reason); err != nil {
		return nil, err
	}
	return c.mandate(ctx, id)
}

// postMandateRenew renews an agent's standing mandate, named itself or by its
// agent.
func (c *Control) postMandateRenew(ctx context.Context, in MandateNameRequest) (any, error) {
	id, err := c.renewed(ctx, in)
	if err != nil {
		return nil, err
	}
	m, err := c.o.Authority.RenewMandate(ctx, giver(ctx), id)
	if err != nil {
		return nil, err
	}
	return c.mandate(ctx, m.ID)
}

func (c *Control) renewed(ctx context.Context, in MandateNameRequest) (ostiary.AgentID, error) {
	switch {
	case (in.Mandate == "") == (in.Agent == ""):
		return "", ostiary.Errorf(ostiary.Malformed, "agent", "name the agent whose standing mandate is renewed, or that mandate").At("agent")
	case in.Agent != "":
		return c.agentID(in.Agent)
	}
	v, err := c.o.Authority.MandateView(ctx, ostiary.MandateID(in.Mandate))
	if err != nil {
		return "", err
	}
	if a, ok := c.o.Authority.Agent(v.Mandate.Agent); !ok || string(a.Mandate) != in.Mandate {
		return "", ostiary.Errorf(ostiary.Malformed, "mandate", "only an agent's present standing mandate is renewed; any other is given again").At("mandate")
	}
	return v.Mandate.Agent, nil
}

func (c *Control) postMandateReview(ctx context.Context, in MandateNameRequest) (any, error) {
	if in.Mandate == "" || in.Agent != "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "mandate", "name the mandate that was reviewed").At("mandate")
	}
	if err := c.Review(ctx, giver(ctx), operator(ctx), ostiary.MandateID(in.Mandate)); err != nil {
		return nil, err
	}
	return c.mandate(ctx, ostiary.MandateID(in.Mandate))
}

// Review notes that an operator looked at a break-glass mandate: who they are,
// and what the log calls them.
func (c *Control) Review(ctx context.Context, me ostiary.PrincipalID, by string, id ostiary.MandateID) error {
	v, err := c.o.Authority.MandateView(ctx, id)
	if err == nil {
		err = c.notOwn(ctx, me, &v)
	}
	if err != nil {
		return err
	}
	return c.o.Authority.ReviewMandate(ctx, by, id)
}

// notOwn refuses a review by whoever gave the mandate, if there is somebody
// else: it is there for a second pair of eyes.
func (c *Control) notOwn(ctx context.Context, me ostiary.PrincipalID, v *identity.MandateView) error {
	if v.Mandate.By != me || c.o.People == nil {
		return nil
	}
	all, err := c.o.People.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.ID != me && p.Revoked.IsZero() && p.Has(people.Operator) {
			return ostiary.Errorf(ostiary.Denied, "own_review", "who gave a mandate does not review it: %s can", p.Name).At("mandate")
		}
	}
	return nil
}

// standingTerms checks the terms of a new agent's standing mandate, whose agent
// and principal are said beside it, and gives them their settled form.
func standingTerms(raw json.RawMessage) ([]byte, error) {
	t, err := identity.ParseTerms(raw)
	if err != nil {
		return nil, err
	}
	if t.Agent != "" || t.Principal != "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "terms", "the agent and its principal are said beside its standing mandate, not in it").At("/agent")
	}
	for _, l := range []*[]string{&t.Classes, &t.Approvers} {
		if *l == nil {
			*l = []string{"*"}
		}
	}
	return t.JSON(), nil
}

// revokeMandate ends a mandate, also one that nobody knows: then whatever
// comes by that name is refused.
func (c *Control) revokeMandate(ctx context.Context, in RevokeRequest) (any, error) {
	err := c.o.Authority.EndMandate(ctx, operator(ctx), ostiary.MandateID(in.Subject), identity.EndRevoked, in.Reason)
	if ostiary.KindOf(err) == ostiary.NotFound {
		epoch, err := c.o.Authority.Revoke(ctx, identity.Revocation{Kind: identity.RevokeMandate, Subject: in.Subject, Reason: in.Reason, At: c.o.Clock()})
		return Revoked{Epoch: epoch}, err
	}
	return Revoked{Epoch: c.o.Authority.Epoch(), Known: true}, err
}

// revokeSession ends what an agent does in one session: the next request of
// each of its connections and streams under that mandate is refused, and no
// other session ever takes its place. The mandate stands, and what others
// derived from it.
func (c *Control) revokeSession(ctx context.Context, in RevokeRequest) (any, error) {
	o, err := c.o.Sessions.Owner(ctx, ostiary.SessionID(in.Subject))
	if ostiary.KindOf(err) == ostiary.NotFound {
		return nil, ostiary.Errorf(ostiary.NotFound, "session", "there is no session %q; the log names them: ostiary log --json", in.Subject).At("subject")
	}
	if err != nil {
		return nil, err
	}
	epoch, err := c.o.Authority.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSession, Subject: in.Subject, Mandate: o.Mandate, Reason: in.Reason, At: c.o.Clock()})
	return Revoked{Epoch: epoch, Known: true}, err
}

// keptTerms are those of the standing mandate an agent has, so that joining
// again does not widen what it may do unless somebody says so.
func (c *Control) keptTerms(ctx context.Context, id ostiary.MandateID) ([]byte, error) {
	v, err := c.o.Authority.MandateView(ctx, id)
	if k := ostiary.KindOf(err); err != nil && (k == ostiary.NotFound || k == ostiary.Corrupt) {
		return nil, ostiary.Errorf(ostiary.Conflict, "mandate_unread", "what the agent's standing mandate %s covers cannot be read: say what the new one covers", id).Because(err)
	}
	if err != nil {
		return nil, err
	}
	t := identity.TermsOf(&v.Mandate)
	t.Agent, t.Principal, t.Until, t.NotBefore = "", "", time.Time{}, time.Time{}
	return t.JSON(), nil
}
