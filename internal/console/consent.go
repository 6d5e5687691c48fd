package console

import (
	"fmt"
	"html/template"
	"maps"
	"math"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
)

// safeURL is an address that leave has looked at, for a link.
func safeURL(s string) template.URL { return template.URL(s) } //nolint:gosec // its scheme was checked

type leaving struct {
	Host Foreign
	URL  template.URL
}

// maxLife bounds what a page offers as a mandate's life, whatever was asked.
const maxLife = 90 * 24 * time.Hour

// consentPage is a mandate in plain words, before it exists.
type consentPage struct {
	Ask
	ID       string
	Client   Foreign
	ClientID Foreign
	Purpose  Foreign
	Task     Foreign
	Redirect Foreign
	All      bool      // it wants everything that policy allows
	Connects bool      // it wants to connect, and to call nothing
	What     string    // it wants, in a few words
	On       []Foreign // the servers, where they are named
	Sets     []choice  // groups of policy's: each is every action in it
	Groups   []group   // what it can be narrowed to
	Lives    []life
	Longest  string
	Loud     bool // in an emergency, with a review afterwards
	Reason   Foreign
	Ceilings []limit
	Classes  []Foreign
	Approver []Foreign // who may approve more, as the client wants it; nil: whoever policy names
	Depth    int64
}

// group is what can be chosen of one server.
type group struct {
	Server string
	Tools  []choice
}

type choice struct {
	Action   Foreign
	Value    string
	ReadOnly bool
	Known    bool // there is such a tool now
}

// life is one answer to "until when".
type life struct {
	Minutes int
	Until   time.Time
	Words   string
	Default bool
}

// limit is a ceiling on one argument, which a person may lower.
type limit struct {
	Field   string // of the form
	Action  Foreign
	Pointer Foreign
	Max     string
	Unit    Foreign
	Idle    bool // it names a tool that the mandate is not for: it limits nothing
	Group   bool // it names a group: whether there is such a one only policy can tell
}

func (c *Console) consent(x *exchange) error {
	id := x.r.PathValue("id")
	ask, err := c.o.Consents.Pending(x.r.Context(), id)
	if err != nil {
		return errQuestion(err)
	}
	return c.show(x, http.StatusOK, "consent", "A program asks to act for you", frame{Page: "consent", Content: c.consentPage(id, ask)})
}

// errQuestion says one thing of every question that is not open.
func errQuestion(err error) error {
	if k := ostiary.KindOf(err); k != ostiary.NotFound && k != ostiary.Malformed {
		return err
	}
	return ostiary.Errorf(ostiary.NotFound, "no_question", "this question was answered, has expired, or was never asked; begin again in the program that sent you here")
}

func (c *Console) consentPage(id string, a Ask) consentPage {
	w := &a.Wants
	p := consentPage{
		Ask: a, ID: id, Client: NewForeign(a.Client), ClientID: NewForeign(a.ClientID), Purpose: NewForeign(w.Purpose), Task: NewForeign(w.Task),
		Redirect: NewForeign(a.Redirect), All: slices.Contains(w.Actions, "*"), Depth: w.Depth, Lives: c.lives(w.Expires),
	}
	p.Groups, p.Sets = c.groups(w)
	p.What = inNumber(w.Actions)
	p.Connects = len(a.Scopes) > 0 && !slices.ContainsFunc(a.Scopes, func(s string) bool { return strings.HasPrefix(s, ostiary.ScopeOf("")) })
	p.On = named(w.Resources)
	if w.Purpose == signInPurpose {
		p.Purpose = Foreign{} // nobody said one
	}
	p.Loud, p.Reason = w.Kind == ostiary.BreakGlassMandate, NewForeign(w.Reason)
	for i, l := range w.Ceilings {
		p.Ceilings = append(p.Ceilings, limit{ceilingField(i), NewForeign(l.Action), NewForeign(l.Pointer), l.Max, NewForeign(l.Unit), p.idle(l.Action), l.Action != "*" && !ostiary.IsToolAction(l.Action)})
	}
	if !slices.Contains(w.Classes, "*") {
		p.Classes = named(w.Classes)
	}
	if !slices.Contains(w.Approvers, "*") {
		p.Approver = named(w.Approvers)
	}
	p.Longest = p.Lives[len(p.Lives)-1].Words
	return p
}

// idle reports whether a ceiling on this action cannot apply to what is asked
// for, as far as its name says: a client may reassure with limits of nothing.
func (p *consentPage) idle(action string) bool {
	if !ostiary.IsToolAction(action) || len(p.Sets) > 0 {
		return false
	}
	for _, g := range p.Groups {
		if slices.ContainsFunc(g.Tools, func(t choice) bool { return t.Value == action && t.Known }) {
			return false
		}
	}
	return true
}

// signInPurpose is the purpose of a mandate for which a client named none.
const signInPurpose = "sign-in"

// named is what a list names, without what stands for everything and nothing.
func named(list []string) (out []Foreign) {
	for _, name := range list {
		if name != "*" && name != ostiary.NoServer {
			out = append(out, NewForeign(name))
		}
	}
	return out
}

func ceilingField(i int) string { return "ceiling-" + strconv.Itoa(i) }

// inNumber says how much a list of actions is, in a few words.
func inNumber(list []string) string {
	if slices.Contains(list, "*") {
		return "everything that policy allows"
	}
	actions, sets := 0, 0
	for _, a := range list {
		if ostiary.IsToolAction(a) {
			actions++
		} else {
			sets++
		}
	}
	count := func(n int, one string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %ss", n, one)
	}
	switch {
	case sets == 0:
		return count(actions, "action")
	case actions == 0:
		return "all actions of " + count(sets, "group")
	}
	return count(actions, "action") + ", and all of " + count(sets, "group")
}

// groups is what a mandate names, by server: of everything, what there is. What
// is no tool's name is a set: a group of policy's, and all that is in it.
func (c *Console) groups(m *ostiary.Mandate) (out []group, sets []choice) {
	server, known := map[string]string{}, map[string]Tool{}
	for _, t := range c.o.Tools() {
		known[t.Action] = t
		if slices.Contains(m.Resources, "*") || slices.Contains(m.Resources, t.Server) {
			server[t.Action] = t.Server
		}
	}
	names := slices.Clone(m.Actions)
	if slices.Contains(names, "*") {
		names = slices.Collect(maps.Keys(server))
	}
	by := map[string][]choice{}
	for _, a := range slices.Compact(slices.Sorted(slices.Values(names))) {
		t, ok := known[a]
		this := choice{NewForeign(a), a, t.ReadOnly, ok}
		if !ostiary.IsToolAction(a) {
			sets = append(sets, this)
			continue
		}
		by[server[a]] = append(by[server[a]], this)
	}
	for _, s := range slices.Sorted(maps.Keys(by)) {
		out = append(out, group{s, by[s]})
	}
	return out, sets
}

// lives offers shorter lives than what is asked for.
func (c *Console) lives(most time.Time) (all []life) {
	now := c.o.Clock()
	longest := min(most.Sub(now), maxLife)
	for _, m := range []int{15, 60, 8 * 60, 24 * 60, 7 * 24 * 60, 30 * 24 * 60} {
		if d := time.Duration(m) * time.Minute; d < longest {
			all = append(all, life{m, now.Add(d), inWords(now, now.Add(d)), false})
		}
	}
	whole := int(math.Ceil(longest.Minutes()))
	return append(all, life{whole, now.Add(longest), inWords(now, now.Add(longest)), true})
}

func (c *Console) decide(x *exchange) error {
	id := x.r.PathValue("id")
	ask, err := c.o.Consents.Pending(x.r.Context(), id)
	if err != nil {
		return errQuestion(err)
	}
	var grant *ostiary.Mandate
	switch x.form.Get("answer") {
	case "refuse":
	case "accept":
		if grant, err = c.narrowed(ask.Wants, x.form); err != nil {
			return err
		}
	default:
		return ostiary.Errorf(ostiary.Malformed, "answer", "accept or refuse").At("answer")
	}
	to, err := c.o.Consents.Decide(x.r.Context(), id, x.who().ID, grant)
	if err != nil {
		return errQuestion(err)
	}
	// Whoever was revoked just now may have decided after all they gave had
	// ended. Then the client gets no answer, so nobody can use what was given;
	// a revocation from here on ends it.
	if _, err := c.o.People.Session(x.r.Context(), x.token); err != nil {
		x.session = nil
		return err
	}
	title := "Accepted"
	if grant == nil {
		title = "Refused"
	}
	return c.leave(x, title, to)
}

// narrowed is what a person left of what was asked for. It is never more,
// whatever the form says.
func (c *Console) narrowed(m ostiary.Mandate, form url.Values) (*ostiary.Mandate, error) {
	bad := func(field, format string, a ...any) error {
		return ostiary.Errorf(ostiary.Malformed, "consent", "%s", fmt.Sprintf(format, a...)).At(field)
	}
	// Whoever ticks something means that, whatever else is marked.
	if form.Get("scope") != "all" || len(form["action"]) > 0 {
		chosen := slices.Compact(slices.Sorted(slices.Values(form["action"])))
		offered := map[string]bool{}
		groups, sets := c.groups(&m)
		for _, g := range append(groups, group{Tools: sets}) {
			for _, t := range g.Tools {
				offered[t.Value] = true
			}
		}
		for _, a := range chosen {
			if !offered[a] {
				return nil, bad("action", "that was not among what was asked for")
			}
		}
		if len(chosen) == 0 {
			return nil, bad("action", "nothing is chosen: choose something, or refuse")
		}
		m.Actions = chosen
	}
	minutes, err := strconv.Atoi(form.Get("life"))
	if err != nil || minutes < 1 {
		return nil, bad("life", "choose until when")
	}
	if until := c.o.Clock().Add(time.Duration(min(minutes, int(maxLife/time.Minute))) * time.Minute); until.Before(m.Expires) {
		m.Expires = until
	}
	if form.Get("depth") != "on" {
		m.Depth = 0
	}
	m.Ceilings = slices.Clone(m.Ceilings)
	for i := range m.Ceilings {
		text := strings.TrimSpace(form.Get(ceilingField(i)))
		lower := m.Ceilings[i]
		if lower.Max = text; text == "" || !lower.Valid() || exceeds(text, m.Ceilings[i].Max) {
			return nil, bad(ceilingField(i), "write a number up to %s, with a point before its decimals", m.Ceilings[i].Max)
		}
		m.Ceilings[i] = lower
	}
	return &m, nil
}

// exceeds compares two decimals exactly; whatever is none exceeds.
func exceeds(a, b string) bool {
	x, okx := new(big.Rat).SetString(a)
	y, oky := new(big.Rat).SetString(b)
	return !okx || !oky || x.Cmp(y) > 0
}

// given is one mandate on a page.
type given struct {
	Given
	Agent    Foreign
	Task     Foreign
	Purpose  Foreign
	Why      Foreign
	Actions  []Foreign
	All      bool      // everything that policy allows
	What     string    // Actions in a few words
	Connects bool      // it reaches no server
	On       []Foreign // the servers, where they are named
	Ended    bool
	Giver    string // who gave it in the person's name, "" if they did
}

// givenTo is a mandate as the person sees it on whose authority it is, or who
// gave it.
func givenTo(g Given, me ostiary.PrincipalID) given {
	out := givenOf(g)
	if g.By != me {
		out.Giver = string(g.By)
	}
	return out
}

func givenOf(g Given) given {
	out := given{Given: g, Agent: NewForeign(g.Mandate.Agent.Name()), Task: NewForeign(g.Mandate.Task), Purpose: NewForeign(g.Mandate.Purpose), Why: NewForeign(g.Mandate.Reason), Ended: g.State != InForce && g.State != NotYet, All: slices.Contains(g.Mandate.Actions, "*"), What: inNumber(g.Mandate.Actions)}
	out.Actions, out.On = named(g.Mandate.Actions), named(g.Mandate.Resources)
	if _, digest, ok := strings.Cut(string(g.Mandate.Agent), "/client/"); ok && len(digest) > 8 {
		out.Agent = NewForeign("client " + digest[:8]) // a digest that nobody reads: the page of the mandate has all of it
	}
	out.Connects = slices.Equal(g.Mandate.Resources, []string{ostiary.NoServer})
	if g.Mandate.Purpose == signInPurpose {
		out.Purpose = Foreign{}
	}
	return out
}

type mandatesPage struct {
	InForce, Ended []given
	Review         []given // of an operator: break-glass that nobody looked at
}

func (c *Console) mandates(x *exchange) error {
	all, err := c.o.Mandates.Given(x.r.Context(), x.who().ID)
	if err != nil {
		return err
	}
	var p mandatesPage
	for _, g := range all {
		if v := givenTo(g, x.who().ID); v.Ended {
			p.Ended = append(p.Ended, v)
		} else {
			p.InForce = append(p.InForce, v)
		}
	}
	if x.who().Has(people.Operator) {
		waiting, err := c.o.Mandates.Unreviewed(x.r.Context())
		if err != nil {
			return err
		}
		for _, g := range waiting {
			v := givenTo(g, "")
			p.Review = append(p.Review, v)
		}
	}
	return c.show(x, http.StatusOK, "mandates", "Mandates", frame{Page: "mandates", Content: p})
}

func (c *Console) reviewMandate(x *exchange) error {
	if err := c.o.Mandates.Review(x.r.Context(), x.who().ID, ostiary.MandateID(x.r.PathValue("id"))); err != nil {
		return err
	}
	return x.redirect("/mandates")
}

// mine finds one of a person's own mandates; anybody else's is not there (O06).
func (c *Console) mine(x *exchange) (given, error) {
	all, err := c.o.Mandates.Given(x.r.Context(), x.who().ID)
	if err != nil {
		return given{}, err
	}
	for _, g := range all {
		if string(g.ID) == x.r.PathValue("id") {
			return givenTo(g, x.who().ID), nil
		}
	}
	return given{}, ostiary.Errorf(ostiary.NotFound, "no_mandate", "you gave no such mandate")
}

func (c *Console) oneMandate(x *exchange) error {
	g, err := c.mine(x)
	if err != nil {
		return err
	}
	return c.show(x, http.StatusOK, "mandate", "Mandate", frame{Page: "mandates", Content: g})
}

func (c *Console) endMandate(x *exchange) error {
	g, err := c.mine(x)
	if err != nil {
		return err
	}
	completed := x.form.Get("how") == "completed"
	reason := strings.TrimSpace(x.form.Get("reason"))
	if !completed && x.form.Get("how") != "revoked" {
		return ostiary.Errorf(ostiary.Malformed, "how", "completed or revoked").At("how")
	}
	if reason == "" {
		reason = "by the person who gave it, on the console"
	}
	if err := c.o.Mandates.End(x.r.Context(), x.who().ID, g.ID, completed, reason); err != nil {
		return err
	}
	return x.redirect("/mandates/" + url.PathEscape(string(g.ID)))
}
