package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// deskRoutes are the pages of those who look after agents.
func (c *Console) deskRoutes() []route {
	return []route{
		{"GET /now", watching, nothing, (*Console).now},
		{"GET /now/live", watching, nothing, (*Console).nowLive},
		{"GET /now/rows", watching, nothing, (*Console).nowRows},
		{"GET /log", reading, nothing, (*Console).log},
		{"GET /log/{month}/{index}", reading, nothing, (*Console).story},
		{"GET /log/{month}/{index}/proof", reading, nothing, (*Console).proof},
		{"GET /changes/{month}/{index}", reading, nothing, (*Console).change},
		{"GET /changes/{month}/{index}/proof", reading, nothing, (*Console).changeProof},
		{"GET /agents", watching, nothing, (*Console).agents},
		{"GET /agents/{id...}", watching, nothing, (*Console).oneAgent},
		{"POST /contain/{id...}", working, aForm, (*Console).contain},
		{"GET /tools", watching, nothing, (*Console).tools},
		{"GET /tools/one", watching, nothing, (*Console).oneTool},
		{"POST /tools/accept", working, aForm, (*Console).accept},
		{"GET /policy", reading, nothing, (*Console).policy},
		{"POST /policy/publish", working, aForm, (*Console).publish},
	}
}

// nowRowsShown is how many actions the page Now lists.
const nowRowsShown = 25

// nowPage is whether anything is wrong, and what waits for a person.
type nowPage struct {
	Numbers nowNumbers
	Rows    nowTable
	Reads   bool // whoever looks may open entries
}

// nowNumbers is the part that changes while one looks.
type nowNumbers struct {
	numbers
	Gateway  string
	Attend   []attention // what is wrong or waits, the worst first
	Window   string
	Charts   []chart
	Unknown  string // why part of it is not known, "" if all is
	Reads    bool   // whoever looks may open the log
	NotAsked bool   // nothing happened in the window
}

type nowTable struct {
	Entries []line
	Seen    uint64 // exchanges when it was drawn
	Reads   bool
	At      time.Time
}

// attention is one thing that somebody should look at.
type attention struct {
	State string // "contained", "refused", "held": its colour, shape and word
	Text  string
	Name  Foreign
	Then  string // what follows the name
	Link  string
	More  string
}

func (c *Console) now(x *exchange) error {
	rows, err := c.rows(x.r.Context(), reading.admits(x.who()))
	if err != nil {
		return err
	}
	return c.show(x, http.StatusOK, "now", "Now", frame{Page: "now", Live: true, Content: nowPage{c.numbersNow(x.r.Context(), rows.Reads), rows, rows.Reads}})
}

// nowRows is the table alone, for the page that asks for what is new.
func (c *Console) nowRows(x *exchange) error {
	rows, err := c.rows(x.r.Context(), reading.admits(x.who()))
	if err != nil {
		return err
	}
	return c.fragment(x, "now", "rows", rows)
}

// nowLive keeps the numbers up to date, and counts what is new since the
// page's rows were drawn; it moves nothing under a reader.
func (c *Console) nowLive(x *exchange) error {
	seen, _ := strconv.ParseUint(x.r.URL.Query().Get("seen"), 10, 64)
	reads := reading.admits(x.who()) // other roles end the session, and the stream with it
	return c.stream(x, watching, func(ctx context.Context, e *events) error {
		for _, part := range []struct {
			name string
			data any
		}{{"numbers", c.numbersNow(ctx, reads)}, {"news", news(seen, c.o.Watch.Seen())}} {
			b, err := c.looks.part("now", part.name, part.data)
			if err != nil {
				return err
			}
			e.send(part.name, b)
		}
		return nil
	})
}

// news is how many exchanges came since.
func news(seen, now uint64) uint64 {
	if now < seen { // the gateway was started anew
		return now
	}
	return now - seen
}

func (c *Console) rows(ctx context.Context, reads bool) (nowTable, error) {
	out := nowTable{Seen: c.o.Watch.Seen(), Reads: reads, At: c.o.Clock()}
	found, err := c.o.Desk.Find(ctx, url.Values{"newest": {"true"}, "latest": {"true"}, "kind": {"intent,outcome"}, "except": {ownReading}, "limit": {strconv.Itoa(nowRowsShown)}})
	if err != nil {
		return out, err
	}
	out.Entries = lines(found.Entries, "log")
	return out, nil
}

// ownReading is the gateway's own look at what servers offer; nobody did it.
const ownReading = "discover_server"

func (c *Console) numbersNow(ctx context.Context, reads bool) nowNumbers {
	n := nowNumbers{numbers: c.o.Watch.numbers(), Window: "last 15 minutes", Reads: reads}
	n.NotAsked = n.AllInWindow == 0
	n.Charts = []chart{
		bars("Permitted", "per 15 s", n.PermittedBy, "ok", false),
		bars("Refused", "per 15 s", n.RefusedBy, "refused", false),
		bars("Held or failed", "per 15 s", n.FailedBy, "held", false),
		bars("Time in the gate", "95 % of each 15 s", n.OwnBy, "plain", true),
	}
	state, err := c.o.Desk.State(ctx)
	if err != nil {
		n.Unknown = "the log's index cannot be read"
	}
	n.Gateway = state.Gateway
	n.Attend, err = c.attend(state)
	if c.o.Approvals != nil {
		counts, err := c.o.Approvals.Count(ctx)
		if err != nil {
			n.Unknown = "what waits for people cannot be read"
		}
		if held := counts[ostiary.HoldPending]; held > 0 {
			n.Attend = append([]attention{{State: "held", Text: plural(held, "action", "actions") + " " + waits(held) + " for people to decide", Link: "/approvals"}}, n.Attend...)
		}
	}
	if err != nil {
		n.Unknown = "what is contained cannot be read"
	}
	return n
}

// attend lists what is wrong, and then what waits.
func (c *Console) attend(s control.Status) (out []attention, err error) {
	contained, err := c.o.Desk.Containments()
	for _, r := range contained {
		link := containedLink(r)
		if r.Scope == "agent" {
			r.Name = shortName(r.Name)
		}
		out = append(out, attention{State: "contained", Text: containedWhat(r), Name: NewForeign(r.Name), Then: "is " + r.Level, Link: link, More: "by " + r.By + sinceText(r.At)})
	}
	for _, server := range s.Servers {
		at := attention{State: "refused", Name: NewForeign(server.Name), Link: "/tools?server=" + url.QueryEscape(server.Name)}
		switch {
		case server.Conduct.State == "quarantined":
			at.Text, at.More = "server broke the rules and is not asked again", server.Conduct.Why
		case server.Breaker.State == "open":
			at.Text, at.More = "server fails; calls to it are refused for now", server.Breaker.Why
		case server.Error != "":
			at.Text, at.More = "server does not say what it offers", server.Error
		default:
			at.Text = ""
		}
		if at.Text != "" {
			at.More = NewForeign(at.More).String()
			out = append(out, at)
		}
		if server.Changed > 0 {
			out = append(out, attention{State: "held", Text: fmt.Sprintf("%s changed since %s accepted, and %s refused until somebody looks, on", plural(server.Changed, "definition", "definitions"), wasWere(server.Changed), isAre(server.Changed)), Name: at.Name, Link: at.Link})
		}
		if server.Waiting > 0 {
			out = append(out, attention{State: "held", Text: fmt.Sprintf("%s %s to be looked at, on", plural(server.Waiting, "definition", "definitions"), waits(server.Waiting)), Name: at.Name, Link: at.Link})
		}
	}
	if s.Snapshot == 0 {
		out = append(out, attention{State: "refused", Text: "no policy was ever published, so everything is denied", Link: "/policy"})
	}
	if lag := s.LogSize - min(s.Indexed, s.LogSize); lag > 1000 {
		out = append(out, attention{State: "held", Text: fmt.Sprintf("the log's index is %d entries behind: what is listed here is older", lag), Link: "/log"})
	}
	return out, err
}

func sinceText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", " + t.Local().Format("2 Jan 15:04")
}

func containedWhat(r control.Containment) string {
	if r.Scope == "all" {
		return "everything"
	}
	return r.Scope
}

func containedLink(r control.Containment) string {
	switch r.Scope {
	case "agent":
		return agentLink(r.Name)
	case "tool", "server":
		return "/tools"
	}
	return "/agents"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func wasWere(n int) string { return either(n, "it was", "they were") }
func isAre(n int) string   { return either(n, "is", "are") }
func waits(n int) string   { return either(n, "waits", "wait") }

func either(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// fragment draws a part of a page, for a page that is open.
func (c *Console) fragment(x *exchange, page, part string, data any) error {
	b, err := c.looks.part(page, part, data)
	if err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(b)
	return nil
}

// part draws one named template of a page.
func (l *looks) part(page, part string, data any) ([]byte, error) {
	t := l.pages[page]
	if t == nil {
		return nil, fmt.Errorf("there is no page %s", page)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, part, data); err != nil {
		return nil, fmt.Errorf("drawing %s of %s: %w", part, page, err)
	}
	return b.Bytes(), nil
}
