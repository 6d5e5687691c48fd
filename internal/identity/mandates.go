package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
)

// How long mandates may live, by kind; a standing one lives as long as
// [Lives.Mandate] says.
const (
	MaxTaskLife       = 30 * 24 * time.Hour
	MaxGrantLife      = 8 * time.Hour // a shift: what is needed longer is no exception
	DefaultGrantLife  = 15 * time.Minute
	MaxBreakGlassLife = time.Hour // an emergency that lasts needs a person to say so again

	// deriveRate and deriveBurst bound how fast one agent makes mandates for
	// others, and maxChildren how many of them are in force at a time: each
	// is memory on every gateway.
	deriveRate  = 5
	deriveBurst = 50
	maxChildren = 1000
)

// MandateView is a mandate as people are shown it.
type MandateView struct {
	Mandate   ostiary.Mandate   // as it was signed
	Effective ostiary.Mandate   // what its whole chain allows; zero if the chain does not hold
	Agents    []ostiary.AgentID // of the chain, the first delegate first
	Signed    []string          // the chain in its signed form, the first link first
	Record    MandateRecord
	State     string            // "in_force", "not_yet", "completed", "revoked", "expired"
	With      ostiary.MandateID // the link above that ended it, "" if none did
}

// IssueMandate gives an agent a mandate that is derived from none, on behalf
// of by, who must have the right to: that is for the caller to establish. The
// name, the issuer's times and the epoch are filled in; the principal is by
// unless m says another. A standing one takes the place of the agent's present
// one, which ends. The mandate is recorded, durable, and in force here when
// IssueMandate returns.
func (a *Authority) IssueMandate(ctx context.Context, by ostiary.PrincipalID, m ostiary.Mandate) (ostiary.Mandate, error) {
	d, now := a.dir.Load(), a.clock.Now()
	m.By = by
	if m.Principal == "" {
		m.Principal = by
	}
	if !isPrincipal(by) || !isPrincipal(m.Principal) {
		return ostiary.Mandate{}, badMandate("principal", "a principal is a kind, a colon and a name, for example person:dana")
	}
	if m.Parent != "" {
		return ostiary.Mandate{}, badMandate("parent", "what is derived from a mandate is derived by the agent that holds it")
	}
	g, err := d.mayHold(m.Agent)
	if err != nil {
		return ostiary.Mandate{}, err
	}
	if m.Kind == ostiary.StandingMandate && m.Principal != g.Principal {
		return ostiary.Mandate{}, badMandate("principal", "the standing mandate of this agent is on the authority of %s; enrol it again for another", g.Principal)
	}
	if err := a.live(&m, now); err != nil {
		return ostiary.Mandate{}, err
	}
	m, err = a.give(ctx, givenAs(m.Kind), string(by), m, nil)
	if err == nil && m.Kind == ostiary.StandingMandate && g.Mandate != m.ID {
		err = a.EndMandate(ctx, string(by), g.Mandate, EndRevoked, "replaced by "+string(m.ID))
	}
	return m, err
}

func badMandate(field, format string, args ...any) error {
	return ostiary.Errorf(ostiary.Malformed, "mandate", format, args...).At(field)
}

// givenAs is what the log calls it: an exception is named as one.
func givenAs(k ostiary.MandateKind) string {
	if k == ostiary.GrantMandate || k == ostiary.BreakGlassMandate {
		return strings.ReplaceAll(k.String(), "-", "_")
	}
	return "mandate"
}

// mayHold returns an agent that a mandate can be for.
func (d *directory) mayHold(id ostiary.AgentID) (*agent, error) {
	g, ok := d.agents[id]
	switch {
	case !ok:
		return nil, ostiary.Errorf(ostiary.NotFound, "agent", "no agent %s is enrolled", id).At("agent")
	case g.Disabled:
		return nil, ostiary.Errorf(ostiary.Denied, "agent_disabled", "the agent is disabled").At("agent")
	}
	if e, ended := d.ends.agents.get(id); ended && !g.Enrolled.After(e.at) {
		return nil, ostiary.Errorf(ostiary.Denied, "agent_revoked", "the agent was revoked: enrol it again").At("agent")
	}
	return g, nil
}

// live fills in the times of a mandate that somebody gives, and holds its life
// against the limit of its kind.
func (a *Authority) live(m *ostiary.Mandate, now time.Time) error {
	longest := map[ostiary.MandateKind]time.Duration{
		ostiary.StandingMandate: a.lives.Load().Mandate, ostiary.TaskMandate: MaxTaskLife, ostiary.GrantMandate: MaxGrantLife, ostiary.BreakGlassMandate: MaxBreakGlassLife,
	}[m.Kind]
	if longest == 0 {
		return badMandate("kind", "a mandate is of kind standing, task, grant or break_glass")
	}
	if m.Expires.IsZero() {
		switch m.Kind {
		case ostiary.StandingMandate:
			m.Expires = now.Add(longest)
		case ostiary.TaskMandate:
			return badMandate("until", "a task mandate says until when")
		default:
			m.Expires = now.Add(DefaultGrantLife)
		}
	}
	if m.NotBefore.IsZero() {
		m.NotBefore = now.Add(-backdate)
	}
	begins := m.NotBefore
	if begins.Before(now) {
		begins = now
	}
	if !m.Expires.After(begins) || m.Expires.Sub(begins) > longest {
		return badMandate("until", "a mandate of kind %s ends after it begins, and lives at most %s", m.Kind, longest)
	}
	return nil
}

// DeriveMandate gives another agent a part of what s has: m.Agent may do at
// most what s may do under its own mandate, for at most as long, and one
// delegation less deep. What m leaves out (lists, purpose, ceilings, times) is
// as in the parent; whatever it says must be within it, and within the scopes
// of the token s came with. s must have been authenticated just now.
func (a *Authority) DeriveMandate(ctx context.Context, s ostiary.Subject, m ostiary.Mandate) (ostiary.Mandate, error) {
	none := ostiary.Mandate{}
	if s.Via != ostiary.ViaSVID && s.Via != ostiary.ViaToken {
		return none, ostiary.Errorf(ostiary.Denied, "derive_needs_proof", "only an agent that proves itself can derive a mandate")
	}
	d, now := a.dir.Load(), a.clock.Now()
	if why := d.revoked(s.Agent, s.Key, s.Serial, s.Issued, s.Epoch); why != "" {
		_, err := refuse(errors.New(why))
		return none, err
	}
	parent, err := d.stands(now, s.Agent, s.Mandate)
	if err != nil {
		return none, err
	}
	if !a.derived.allow(s.Agent) {
		return none, ostiary.Errorf(ostiary.Exhausted, "derive_rate", "an agent derives at most %d mandates a second", deriveRate)
	}
	made, err := a.derive(ctx, d, now, parent, m, s)
	if k := ostiary.KindOf(err); k == ostiary.Denied || k == ostiary.NotFound { // who asks for more than it has is worth knowing
		e := Event{What: "derive", Agent: s.Agent, Principal: s.Principal, Mandate: parent.link.ID, By: string(s.Agent), Refused: ostiary.AsError(err).Code, Detail: ostiary.AsError(err).Detail}
		if failed := a.record(ctx, e); failed != nil {
			return none, fmt.Errorf("recording the refusal: %w", failed)
		}
	}
	return made, err
}

func (a *Authority) derive(ctx context.Context, d *directory, now time.Time, parent *footing, m ostiary.Mandate, s ostiary.Subject) (ostiary.Mandate, error) {
	none := ostiary.Mandate{}
	if n := d.children(parent.link.Agent); n >= maxChildren {
		return none, ostiary.Errorf(ostiary.Exhausted, "derive_many", "%d mandates derived by this agent are in force: complete some", n)
	}
	if _, err := d.mayHold(m.Agent); err != nil {
		return none, err
	}
	if slices.Contains(parent.chain, m.Agent) {
		return none, ostiary.Errorf(ostiary.Denied, "mandate_wider", "%s is in the chain already", m.Agent).At("agent")
	}
	if err := scoped(&m, &parent.effective, s); err != nil {
		return none, err
	}
	inherit(&m, &parent.effective, now)
	if err := a.narrower(&m, &parent.effective); err != nil {
		return none, err
	}
	return a.give(ctx, "derive", string(parent.link.Agent), m, parent)
}

// scoped keeps a derived mandate within the scopes of the token it is derived
// by: whoever gets it shows a credential of its own, which they do not limit.
func scoped(m, parent *ostiary.Mandate, s ostiary.Subject) error {
	if len(s.Scopes) == 0 {
		return nil
	}
	if len(m.Resources) == 0 {
		for _, scope := range s.Scopes {
			server, ok := strings.CutPrefix(scope, ostiary.ScopeOf(""))
			if ok && server != "" && server != "*" && parent.CoversResource(&ostiary.Resource{Server: server}) {
				m.Resources = append(m.Resources, server)
			}
		}
		if len(m.Resources) == 0 {
			return ostiary.Errorf(ostiary.Denied, "mandate_wider", "the token's scopes name no server that could be handed on").At("resources")
		}
	}
	for _, server := range m.Resources {
		if server == "" || server == "*" || s.CheckScope(server) != nil {
			return ostiary.Errorf(ostiary.Denied, "mandate_wider", "the token's scopes do not name %q", server).At("resources")
		}
	}
	return nil
}

// children counts the mandates in force that an agent derived.
func (d *directory) children(id ostiary.AgentID) (n int) {
	for _, f := range d.mandates {
		if p := d.mandates[f.link.Parent]; p != nil && p.link.Agent == id && d.over(f) == "" {
			n++
		}
	}
	return n
}

// inherit fills in what a derived mandate leaves out.
func inherit(m, parent *ostiary.Mandate, now time.Time) {
	m.Parent, m.Principal, m.By = parent.ID, parent.Principal, parent.By
	if m.Kind == ostiary.NoMandateKind {
		if m.Kind = parent.Kind; m.Kind == ostiary.StandingMandate {
			m.Kind = ostiary.TaskMandate
		}
	}
	for _, l := range []struct{ mine, theirs *[]string }{
		{&m.Actions, &parent.Actions}, {&m.Resources, &parent.Resources}, {&m.Classes, &parent.Classes}, {&m.Approvers, &parent.Approvers},
	} {
		if len(*l.mine) == 0 {
			*l.mine = *l.theirs
		}
	}
	for _, s := range []struct{ mine, theirs *string }{{&m.Purpose, &parent.Purpose}, {&m.Task, &parent.Task}, {&m.Reason, &parent.Reason}} {
		if *s.mine == "" {
			*s.mine = *s.theirs
		}
	}
	if m.NotBefore.IsZero() {
		if m.NotBefore = now.Add(-backdate).Truncate(time.Second); m.NotBefore.Before(parent.NotBefore) {
			m.NotBefore = parent.NotBefore
		}
	}
	if m.Expires.IsZero() {
		m.Expires = parent.Expires
	}
}

// narrower refuses what is wider than the parent, also where only policy's
// groups can tell, as they are now; each use is held against them again.
func (a *Authority) narrower(m, parent *ostiary.Mandate) error {
	m.Epoch = max(m.Epoch, parent.Epoch)
	if err := m.NarrowerThan(parent); err != nil {
		return err
	}
	for _, name := range m.Actions {
		action := &ostiary.Action{Name: name}
		if ostiary.IsToolAction(name) {
			action.Groups = a.groups(name)
		}
		if !parent.CoversAction(action) {
			return ostiary.Errorf(ostiary.Denied, "mandate_wider", "mandate %s does not have %q", parent.ID, name).At("actions")
		}
	}
	return nil
}

// give signs, records and stores a mandate, in this order, and returns when it
// is in force here.
func (a *Authority) give(ctx context.Context, what, by string, m ostiary.Mandate, parent *footing) (ostiary.Mandate, error) {
	none := ostiary.Mandate{}
	d, now := a.dir.Load(), a.clock.Now()
	m.ID, m.Epoch, m.Links, m.Within = newMandateID(), d.ends.epoch, nil, nil
	m.Issued, m.NotBefore, m.Expires = now.Truncate(time.Second), m.NotBefore.UTC().Truncate(time.Second), m.Expires.UTC().Truncate(time.Second)
	under := ostiary.Digest{}
	if parent != nil {
		under = parent.digest
	}
	jws, err := a.mandates.IssueUnder(m, under)
	if err != nil {
		return none, err
	}
	e := Event{What: what, Agent: m.Agent, Principal: m.Principal, Mandate: m.ID, By: by, JWS: jws, Detail: sentence(&m)}
	if err := a.record(ctx, e); err != nil {
		return none, fmt.Errorf("recording the mandate: %w", err)
	}
	if m.Kind == ostiary.BreakGlassMandate {
		a.log.Warn("break-glass", "mandate", string(m.ID), "agent", string(m.Agent), "by", by, "reason", m.Reason, "until", m.Expires)
	}
	if err := a.registry.CreateMandate(ctx, recordOf(&m, jws, now)); err != nil {
		return none, fmt.Errorf("storing the mandate: %w", err)
	}
	if err := a.Refresh(ctx); err != nil {
		return none, fmt.Errorf("reading the registry after a mandate was given: %w", err)
	}
	if d := a.dir.Load(); d.mandate(m.ID) == nil || d.over(d.mandate(m.ID)) != "" { // its right to be ended meanwhile
		return none, ostiary.Errorf(ostiary.Denied, "mandate_ended", "the right to give this mandate ended meanwhile")
	}
	return m, nil
}

// sentence says what a mandate is, for the log.
func sentence(m *ostiary.Mandate) string {
	s := fmt.Sprintf("a %s mandate until %s", strings.ReplaceAll(m.Kind.String(), "_", "-"), m.Expires.Format(time.RFC3339))
	if m.Parent != "" {
		s += ", derived from " + string(m.Parent)
	}
	if m.Reason != "" {
		s += ": " + m.Reason
	}
	return s
}

// EndMandate ends a mandate and everything derived from it, from now on, here
// at once and elsewhere as soon as others refresh. Ending one that has ended
// changes nothing. NotFound if there is none.
func (a *Authority) EndMandate(ctx context.Context, by string, id ostiary.MandateID, how EndHow, reason string) error {
	what := map[EndHow]string{EndCompleted: "complete", EndRevoked: "revoke_mandate"}[how]
	if what == "" {
		return badMandate("how", "a mandate is completed or revoked")
	}
	if err := checkReason(reason); err != nil {
		return err
	}
	r, err := a.stored(ctx, id)
	if err != nil || !r.Ended.IsZero() {
		return err
	}
	e := Event{What: what, Agent: r.Agent, Principal: r.Principal, Mandate: id, By: by, Detail: reason}
	if err := a.record(ctx, e); err != nil {
		return fmt.Errorf("recording the end of the mandate: %w", err)
	}
	if _, err := a.registry.EndMandate(ctx, MandateEnd{ID: id, How: how, By: by, Why: reason, At: a.clock.Now()}); err != nil {
		return fmt.Errorf("storing the end of the mandate: %w", err)
	}
	return a.CatchUp(ctx, id)
}

// maxReason bounds why something ended, in bytes: a few sentences.
const maxReason = 4096

// checkReason is asked before an end is recorded: one that then could not be
// stored would stand in the log and not be so.
func checkReason(s string) error {
	if len(s) > maxReason || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return ostiary.Errorf(ostiary.Malformed, "reason", "a reason is a text of at most %d bytes", maxReason).At("reason")
	}
	return nil
}

// EndOwnMandate lets an agent give up a mandate it holds, or one it derived.
func (a *Authority) EndOwnMandate(ctx context.Context, s ostiary.Subject, id ostiary.MandateID, reason string) error {
	d := a.dir.Load()
	f := d.mandate(id)
	own := f != nil && f.link.Agent == s.Agent && f.link.Kind != ostiary.StandingMandate
	derived := f != nil && d.mandate(f.link.Parent) != nil && d.mandate(f.link.Parent).link.Agent == s.Agent
	if !own && !derived {
		return errNoMandate(id)
	}
	return a.EndMandate(ctx, string(s.Agent), id, EndCompleted, reason)
}

func errNoMandate(id ostiary.MandateID) error {
	return ostiary.Errorf(ostiary.NotFound, "mandate", "there is no mandate %s", id).At("mandate")
}

// RenewMandate writes an agent's present standing mandate anew, for as long as
// mandates live here: the same content, given by whoever renews it. The one it
// takes the place of runs to its own end.
func (a *Authority) RenewMandate(ctx context.Context, by ostiary.PrincipalID, id ostiary.AgentID) (ostiary.Mandate, error) {
	d, now := a.dir.Load(), a.clock.Now()
	g, err := d.mayHold(id)
	if err != nil {
		return ostiary.Mandate{}, err
	}
	f := d.mandate(g.Mandate)
	if f == nil || d.over(f) != "" { // also with the person it is from: a new one is somebody's decision
		return ostiary.Mandate{}, ostiary.Errorf(ostiary.Denied, "mandate_ended", "the agent's standing mandate was ended, or the person it is from was revoked: give it another")
	}
	if !isPrincipal(by) {
		return ostiary.Mandate{}, badMandate("by", "a mandate is renewed by a person")
	}
	m := f.link
	m.By, m.NotBefore, m.Expires = by, time.Time{}, time.Time{}
	if err := a.live(&m, now); err != nil {
		return ostiary.Mandate{}, err
	}
	return a.give(ctx, "renew_mandate", string(by), m, nil)
}

// ReviewMandate notes that a person looked at a break-glass mandate.
func (a *Authority) ReviewMandate(ctx context.Context, by string, id ostiary.MandateID) error {
	r, err := a.stored(ctx, id)
	if err != nil || !r.Reviewed.IsZero() {
		return err
	}
	if err := a.record(ctx, Event{What: "review", Agent: r.Agent, Principal: r.Principal, Mandate: id, By: by, Detail: "reviewed"}); err != nil {
		return fmt.Errorf("recording the review: %w", err)
	}
	return a.registry.ReviewMandate(ctx, id, by, a.clock.Now())
}

// stored reads a mandate in whatever state.
func (a *Authority) stored(ctx context.Context, id ostiary.MandateID) (MandateRecord, error) {
	all, err := a.registry.MandateHistory(ctx, MandateFilter{ID: id, Limit: 1})
	if err != nil {
		return MandateRecord{}, fmt.Errorf("reading the mandate: %w", err)
	}
	if id == "" || len(all) != 1 {
		return MandateRecord{}, errNoMandate(id)
	}
	return all[0], nil
}

// Mandates lists mandates in any state, the newest first.
func (a *Authority) Mandates(ctx context.Context, f MandateFilter) ([]MandateView, error) {
	records, err := a.registry.MandateHistory(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("reading the mandates: %w", err)
	}
	out := make([]MandateView, 0, len(records))
	for _, r := range records {
		v, err := a.view(ctx, r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// MandateView returns one mandate in any state, with its chain.
func (a *Authority) MandateView(ctx context.Context, id ostiary.MandateID) (MandateView, error) {
	r, err := a.stored(ctx, id)
	if err != nil {
		return MandateView{}, err
	}
	return a.view(ctx, r)
}

// view gathers the chain above a mandate, from memory if it may be in force,
// else from the registry, and says what became of it.
func (a *Authority) view(ctx context.Context, r MandateRecord) (MandateView, error) {
	d, now := a.dir.Load(), a.clock.Now()
	v := MandateView{Record: r}
	chain, err := a.chainOf(ctx, d, r)
	if err != nil {
		return v, err
	}
	var links []ostiary.Mandate
	for _, f := range chain {
		links = append(links, f.link)
		v.Agents, v.Signed = append(v.Agents, f.link.Agent), append(v.Signed, f.jws)
	}
	v.Mandate = links[len(links)-1]
	v.Effective, _ = ostiary.Effective(links) // zero shows that it does not hold
	v.State, v.With = d.stateOf(chain, now)
	return v, nil
}

func (a *Authority) chainOf(ctx context.Context, d *directory, r MandateRecord) ([]*footing, error) {
	var chain []*footing
	for {
		f := &footing{record: r, jws: r.JWS}
		if err := a.readMandate(f); err != nil {
			return nil, ostiary.Errorf(ostiary.Corrupt, "mandate", "mandate %s does not verify", r.ID).Because(err)
		}
		chain = append([]*footing{f}, chain...)
		if f.link.Parent == "" || len(chain) == ostiary.MaxChain {
			return chain, nil
		}
		var err error
		if p := d.mandate(f.link.Parent); p != nil && !d.gone.has(f.link.Parent) {
			r = p.record
		} else if r, err = a.stored(ctx, f.link.Parent); err != nil {
			return nil, err
		}
	}
}

// stateOf says what became of the last mandate of a chain: what ended the
// first of its links that has ended.
func (d *directory) stateOf(chain []*footing, now time.Time) (state string, with ostiary.MandateID) {
	last := chain[len(chain)-1]
	for _, f := range chain {
		if state = d.linkState(f, now, f == last); state != "in_force" && state != "not_yet" {
			if f != last {
				with = f.link.ID
			}
			return state, with
		}
	}
	if known := d.mandate(last.link.ID); known != nil && d.over(known) != "" {
		return "revoked", ""
	}
	return state, ""
}

func (d *directory) linkState(f *footing, now time.Time, last bool) string {
	m := &f.link
	e, agentEnded := d.ends.agents.get(m.Agent)
	switch {
	case !f.record.Ended.IsZero():
		return string(f.record.How)
	case d.ends.mandates.has(m.ID) || m.Epoch < d.leftAt(m.By) || m.Epoch < d.leftAt(m.Principal) || agentEnded && m.Epoch < e.epoch && (!last || m.Kind != ostiary.StandingMandate || d.agents[m.Agent] == nil || !d.agents[m.Agent].Enrolled.After(e.at)):
		return "revoked"
	case !now.Before(m.Expires):
		return "expired"
	case now.Before(m.NotBefore):
		return "not_yet"
	}
	return "in_force"
}

// pacer bounds how often each agent does something. The zero pacer is ready.
type pacer struct {
	mu  sync.Mutex                        // guards all
	all map[ostiary.AgentID]*rate.Limiter // agents that are enrolled or were
}

func (p *pacer) allow(id ostiary.AgentID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.all[id]
	if l == nil {
		if p.all == nil {
			p.all = map[ostiary.AgentID]*rate.Limiter{}
		}
		l = rate.NewLimiter(deriveRate, deriveBurst)
		p.all[id] = l
	}
	return l.Allow()
}
