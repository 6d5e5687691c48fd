package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// toolsPage is what servers offer, what of it was accepted, and what changed.
type toolsPage struct {
	Servers []serverTools
	Attend  int // definitions that somebody should look at
	Wanted  string
	Only    string // one server's name
	Changes bool
}

type serverTools struct {
	control.ServerStatus
	Trouble Foreign
	Tools   []toolRow
	Waiting int
}

type toolRow struct {
	Name     Foreign
	Raw      string // the name, for what a form brings back
	Kind     string
	Action   Foreign
	State    string
	Why      Foreign
	Pin      string
	Says     string // what it says of itself
	Findings []string
	Link     string
	Level    string // of containment, "" for none
}

// attends reports whether somebody should look at a definition.
func attends(state string) bool { return state != ostiary.ToolPinned.String() }

func toolLink(server, kind, name string) string {
	return "/tools/one?" + url.Values{"server": {server}, "kind": {kind}, "name": {name}}.Encode()
}

func (c *Console) tools(x *exchange) error {
	q := x.r.URL.Query()
	p := toolsPage{Wanted: strings.TrimSpace(q.Get("name")), Only: q.Get("server"), Changes: working.admits(x.who())}
	state, err := c.o.Desk.State(x.r.Context())
	if err != nil {
		return err
	}
	levels, _ := c.levels() // the page Now says when nobody knows
	all := c.o.Desk.Tools("", "")
	for _, s := range state.Servers {
		if p.Only != "" && s.Name != p.Only {
			continue
		}
		st := serverTools{ServerStatus: s, Trouble: NewForeign(strings.TrimSpace(s.Error + " " + s.Conduct.Why))}
		for _, t := range all {
			if t.Server != s.Name || p.Wanted != "" && !strings.Contains(t.Name, p.Wanted) {
				continue
			}
			row := rowOf(&t)
			row.Level = levels[levelKey{"tool", t.Action}].Level
			if attends(t.State) {
				p.Attend++
				st.Waiting++
			}
			st.Tools = append(st.Tools, row)
		}
		slices.SortStableFunc(st.Tools, func(a, b toolRow) int { return order(a.State) - order(b.State) })
		if len(st.Tools) > 0 || p.Wanted == "" {
			p.Servers = append(p.Servers, st)
		}
	}
	slices.SortStableFunc(p.Servers, func(a, b serverTools) int { return min(b.Waiting, 1) - min(a.Waiting, 1) })
	return c.show(x, http.StatusOK, "tools", "Tools", frame{Page: "tools", Content: p})
}

// order puts first what somebody should look at.
func order(state string) int {
	return slices.Index([]string{"quarantined", "changed", "gone", "unpinned", "pinned"}, state)
}

func rowOf(t *control.Tool) toolRow {
	row := toolRow{
		Name: NewForeign(t.Name), Raw: t.Name, Kind: t.Kind, Action: NewForeign(t.Action), State: t.State, Why: NewForeign(t.Why), Pin: t.Pin, Findings: t.Findings, Link: toolLink(t.Server, t.Kind, t.Name),
	}
	switch {
	case t.Destructive:
		row.Says = "can destroy"
	case t.ReadOnly:
		row.Says = "says it only reads"
	case t.Kind == "tool":
		row.Says = "can change things"
	}
	return row
}

// toolPage is one definition: as it was accepted, and as it is offered now.
type toolPage struct {
	toolRow
	Server     string
	Definition Foreign
	Diff       []diffLine
	Same       bool
	Gone       bool
	OfferPin   string // of what accepting takes
	Changes    bool
	Force      bool // accepting needs to be said twice
	Calls      string
	Reads      bool // whoever looks may open the log
}

// diffLine is one line of a difference; its text is the server's.
type diffLine struct {
	Mark string // "+", "-", " "
	Text Foreign
}

func (c *Console) oneTool(x *exchange) error {
	q := x.r.URL.Query()
	server, kind, name := q.Get("server"), q.Get("kind"), q.Get("name")
	all := c.o.Desk.Tools(server, kind)
	i := slices.IndexFunc(all, func(t control.Tool) bool { return t.Server == server && t.Kind == kind && t.Name == name })
	if i < 0 || server == "" || kind == "" {
		return ostiary.Errorf(ostiary.NotFound, "no_tool", "no server offers a definition of this name")
	}
	t := &all[i]
	p := toolPage{
		toolRow: rowOf(t), Server: t.Server, Definition: NewForeign(t.Definition), Changes: working.admits(x.who()), Reads: reading.admits(x.who()), Force: t.State == "quarantined",
		Calls: "/log?" + url.Values{"action": {t.Action}}.Encode(),
	}
	d, err := c.o.Desk.Difference(x.r.Context(), server, kind, name)
	switch {
	case err == nil:
		p.OfferPin, p.Diff = d.Pin, diffLines(d.Diff)
		p.Same, p.Gone = d.Diff == "" && d.Pin != "", d.Pin == ""
	case ostiary.KindOf(err) == ostiary.NotFound:
		p.Gone = true
	default:
		return err
	}
	return c.show(x, http.StatusOK, "tool", p.Name.String(), frame{Page: "tools", Content: p})
}

// maxDiff bounds how many lines of a difference a page has.
const maxDiff = 2000

// diffLines takes a difference apart: each line begins with its mark.
func diffLines(text string) (out []diffLine) {
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\n")
		if len(out) >= maxDiff {
			return append(out, diffLine{" ", NewForeign("… the rest is told by: ostiary tools diff")})
		}
		mark := " "
		if l != "" && (l[0] == '+' || l[0] == '-') {
			mark = l[:1]
		}
		if l != "" {
			l = l[1:]
		}
		out = append(out, diffLine{mark, NewForeign(l)})
	}
	return out
}

// accept takes exactly what the page showed.
func (c *Console) accept(x *exchange) error {
	in := control.ToolRequest{Server: x.form.Get("server"), Kind: x.form.Get("kind"), Name: x.form.Get("name"), Pin: x.form.Get("pin"), Force: x.form.Get("force") == "yes"}
	if in.Name == "" || in.Kind == "" || in.Pin == "" {
		return ostiary.Errorf(ostiary.Malformed, "not_shown", "look at the definition first, and accept it there").At("pin")
	}
	if _, err := c.o.Desk.AcceptOffer(x.r.Context(), in); err != nil {
		return err
	}
	return x.redirect(toolLink(in.Server, in.Kind, in.Name))
}
