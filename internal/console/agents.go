package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// agentRow is one agent in the list.
type agentRow struct {
	Name      Foreign
	Link      string
	ID        string
	Principal Foreign
	Owner     Foreign
	Zone      string
	State     string
	Level     string // of containment; "" if nobody knows, "none" if it is free
	Expires   time.Time
}

// agentsPage is who may act here.
type agentsPage struct {
	Rows    []agentRow
	All     string // the level of everything, if it is contained
	Unknown bool   // what is contained cannot be read
	Free    int
	Wanted  string
	Changes bool // whoever looks may contain
}

func (c *Console) agents(x *exchange) error {
	p := agentsPage{Wanted: strings.TrimSpace(x.r.URL.Query().Get("name")), Changes: working.admits(x.who())}
	levels, err := c.levels()
	p.Unknown = err != nil
	p.All = levels[levelKey{"all", ""}].Level
	for _, a := range c.o.Desk.Agents() {
		if p.Wanted != "" && !strings.Contains(a.ID, p.Wanted) {
			continue
		}
		row := agentRow{
			Name: NewForeign(ostiary.AgentID(a.ID).Name()), Link: agentLink(a.ID), ID: a.ID, Principal: NewForeign(a.Principal), Owner: NewForeign(a.Owner),
			Zone: a.Zone, State: a.State, Expires: a.Expires, Level: levels[levelKey{"agent", a.ID}].Level,
		}
		if row.Level == "" && !p.Unknown {
			row.Level = ostiary.None.String()
			p.Free++
		}
		p.Rows = append(p.Rows, row)
	}
	return c.show(x, http.StatusOK, "agents", "Agents", frame{Page: "agents", Content: p})
}

type levelKey struct{ scope, name string }

// levels are what is contained, by scope and name.
func (c *Console) levels() (map[levelKey]control.Containment, error) {
	list, err := c.o.Desk.Containments()
	out := map[levelKey]control.Containment{}
	for _, r := range list {
		out[levelKey{r.Scope, r.Name}] = r
	}
	return out, err
}

// rungs is the ladder of containment, from free to cut off.
var rungs = []rung{
	{"none", "free", "Policy decides, and nothing else."},
	{"throttled", "throttled", "It is slowed down."},
	{"restricted", "restricted", "It may read; whatever changes something is refused."},
	{"quarantined", "quarantined", "It keeps its identity, and nothing passes."},
	{"suspended", "suspended", "Nothing passes, and it gets no new credentials."},
}

type rung struct{ Level, Word, Means string }

// agentPage is one agent: who it is, what it may do, and what it did today.
type agentPage struct {
	control.Agent
	Set       string // address that containment is set at
	Name      Foreign
	Principal Foreign
	Owner     Foreign
	Posture   ostiary.Posture
	Rungs     []rungShown
	Contained *control.Containment
	By        Foreign
	Why       Foreign
	All       string
	Unknown   bool
	Changes   bool
	Mandates  []mandateRow
	Day       today
	Rows      []line
	Reads     bool
	Known     bool // it is enrolled; else somebody only spoke of it
}

type rungShown struct {
	rung
	Here bool
	Y    int
}

type mandateRow struct {
	ID      string
	Kind    string
	State   string
	By      Foreign
	Words   []Foreign
	Expires time.Time
}

// today is an agent's day so far, by hour.
type today struct {
	Since               time.Time
	Permitted, Refused  chart
	All                 int
	Cut                 bool // there were more than are counted
	Tools               []toolCount
	PermittedN, Refuses int
}

type toolCount struct {
	Name  Foreign
	Count int
	Link  string
}

// dayMost is how many actions of a day are counted for one page.
const dayMost = 5000

func (c *Console) oneAgent(x *exchange) error {
	ctx, id := x.r.Context(), spiffe+x.r.PathValue("id")
	if _, err := ostiary.ParseAgentID(id); err != nil {
		return ostiary.Errorf(ostiary.NotFound, "no_agent", "there is no agent of this name")
	}
	p := agentPage{Changes: working.admits(x.who()), Reads: reading.admits(x.who()), Posture: c.o.Desk.Posture(ostiary.AgentID(id))}
	all := c.o.Desk.Agents()
	if i := slices.IndexFunc(all, func(a control.Agent) bool { return a.ID == id }); i >= 0 {
		p.Agent, p.Known = all[i], true
	}
	p.Set = "/contain/" + x.r.PathValue("id")
	p.Agent.ID, p.Name = id, NewForeign(ostiary.AgentID(id).Name())
	p.Principal, p.Owner = NewForeign(p.Agent.Principal), NewForeign(p.Agent.Owner)
	if err := p.standing(c); err != nil {
		p.Unknown = true
	}
	list, err := c.o.Desk.MandatesOf(ctx, ostiary.AgentID(id))
	if err != nil {
		return err
	}
	for _, m := range list {
		p.Mandates = append(p.Mandates, mandateRowOf(m))
	}
	if p.Day, p.Rows, err = c.dayOf(ctx, id); err != nil {
		return err
	}
	if !p.Known && len(p.Rows) == 0 && p.Contained == nil {
		return ostiary.Errorf(ostiary.NotFound, "no_agent", "there is no agent of this name")
	}
	return c.show(x, http.StatusOK, "agent", p.Name.String(), frame{Page: "agents", Content: p})
}

// standing fills in how far the agent is cut off.
func (p *agentPage) standing(c *Console) error {
	levels, err := c.levels()
	p.All = levels[levelKey{"all", ""}].Level
	level := ostiary.None.String()
	if r, ok := levels[levelKey{"agent", p.Agent.ID}]; ok {
		p.Contained, level, p.By, p.Why = &r, r.Level, NewForeign(r.By), NewForeign(r.Reason)
	}
	for i, r := range rungs {
		p.Rungs = append(p.Rungs, rungShown{r, r.Level == level && err == nil, i * 32})
	}
	return err
}

func mandateRowOf(m control.Mandate) mandateRow {
	out := mandateRow{ID: m.ID, Kind: strings.ReplaceAll(m.Kind, "_", "-"), State: strings.ReplaceAll(m.State, "_", " "), By: NewForeign(m.By)}
	if m.State == "not_yet" {
		out.State = NotYet
	}
	for _, w := range m.Words {
		out.Words = append(out.Words, NewForeign(w))
	}
	return out
}

// dayOf is what an agent did since midnight.
func (c *Console) dayOf(ctx context.Context, id string) (today, []line, error) {
	now := c.o.Clock().Local()
	since := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.Local)
	d := today{Since: since}
	found, err := c.o.Desk.Find(ctx, url.Values{
		"newest": {"true"}, "latest": {"true"}, "kind": {"intent,outcome"}, "agent": {id}, "since": {since.UTC().Format(time.RFC3339Nano)}, "limit": {strconv.Itoa(dayMost)},
	})
	if err != nil {
		return d, nil, err
	}
	permitted, refused, tools := make([]int, 24), make([]int, 24), map[string]int{}
	for i := range found.Entries {
		e := &found.Entries[i]
		h := e.Time.Local().Hour()
		if fate(e) == "refused" {
			refused[h]++
			d.Refuses++
		} else {
			permitted[h]++
			d.PermittedN++
		}
		tools[e.Action]++
	}
	d.All, d.Cut = len(found.Entries), len(found.Entries) == dayMost
	d.Permitted, d.Refused = bars("Permitted or held", "per hour, from midnight", permitted, "ok", false), bars("Refused", "per hour, from midnight", refused, "refused", false)
	for name, n := range tools {
		d.Tools = append(d.Tools, toolCount{NewForeign(name), n, "/log?" + url.Values{"agent": {id}, "action": {name}}.Encode()})
	}
	slices.SortFunc(d.Tools, func(a, b toolCount) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Name.s, b.Name.s)
	})
	d.Tools = d.Tools[:min(len(d.Tools), 8)]
	entries := found.Entries[:min(len(found.Entries), nowRowsShown)]
	return d, lines(entries, "log"), nil
}

// contain cuts an agent off, or releases it.
func (c *Console) contain(x *exchange) error {
	id := spiffe + x.r.PathValue("id")
	if _, err := ostiary.ParseAgentID(id); err != nil {
		return ostiary.Errorf(ostiary.NotFound, "no_agent", "there is no agent of this name")
	}
	reason := strings.TrimSpace(x.form.Get("reason"))
	if reason == "" {
		return ostiary.Errorf(ostiary.Malformed, "reason", "say why; it stays in the log").At("reason")
	}
	if _, err := c.o.Desk.Contain(x.r.Context(), control.ContainRequest{Scope: "agent", Name: id, Level: x.form.Get("level"), Reason: reason}); err != nil {
		return err
	}
	return x.redirect(agentLink(id))
}
