package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/policy"
)

type logCmd struct {
	List   logListCmd   `cmd:"" default:"withargs" help:"List entries, newest last; filter and follow."`
	Show   logShowCmd   `cmd:"" help:"Tell the whole story of one action, with why."`
	Verify logVerifyCmd `cmd:"" help:"Verify a log offline, against a copy."`
}

const (
	// followEvery is how often a followed log is asked for more.
	followEvery = 500 * time.Millisecond
	// followPage is how many entries one such question brings at most; when
	// it is full the next one is asked at once.
	followPage = 1000
	// followOverlap is how far back each question reaches: entries carry the
	// time when they were made and enter the index a little later.
	followOverlap = 5 * time.Second
)

type logListCmd struct {
	Agent       string `placeholder:"AGENT" help:"Only this agent: SPIFFE ID or last path segment."`
	Principal   string `placeholder:"PRINCIPAL" help:"Only on this principal's authority."`
	Tool        string `placeholder:"NAME" help:"Only this tool or action."`
	Server      string `placeholder:"NAME" help:"Only this server."`
	Decision    string `placeholder:"DECISION" enum:",permit,deny" default:"" help:"Only permit or deny."`
	Disposition string `placeholder:"FATE" enum:",refused,held,delivered,withheld,failed,unknown" default:"" help:"Only this fate: refused, held, delivered, withheld, failed, unknown."`
	Code        string `placeholder:"CODE" help:"Only this reason code."`
	Session     string `placeholder:"ID" help:"Only this session."`

	ShadowDiffers bool `help:"Only what the candidates in shadow/ would have decided otherwise."`

	Since   string `placeholder:"TIME" help:"Not before: a time (2026-11-20T10:00:00Z) or how long ago (15m)."`
	Until   string `placeholder:"TIME" help:"Before: a time or how long ago."`
	Limit   int    `short:"n" default:"50" placeholder:"N" help:"At most this many (${default})."`
	Follow  bool   `short:"f" help:"Keep printing what comes."`
	All     bool   `short:"a" help:"Also entries that are no agent's action: openings, heartbeats, readings of definitions."`
	Changes bool   `help:"The deployment's log instead: joins, tokens, acceptances, snapshots, revocations."`
	Entries bool   `help:"Print every entry, not one line per action."`
}

func (c *logListCmd) query() (url.Values, error) {
	q := url.Values{"newest": {"true"}, "limit": {strconv.Itoa(c.Limit)}}
	for key, v := range map[string]string{"agent": c.Agent, "principal": c.Principal, "action": c.Tool, "server": c.Server, "decision": c.Decision, "disposition": c.Disposition, "code": c.Code, "session": c.Session} {
		if v != "" {
			q.Set(key, v)
		}
	}
	if err := setTimes(q, c.Since, c.Until); err != nil {
		return nil, err
	}
	if c.ShadowDiffers {
		q.Set("shadow", "differs")
	}
	switch {
	case c.Changes:
		q.Set("log", "deployment")
		q.Set("details", "true")
		if !c.All {
			q.Set("kind", "change")
		}
	case !c.All:
		q.Set("kind", "intent,outcome")
		if c.Tool == "" {
			q.Set("except", policy.ActionDiscoverServer)
		}
	}
	if !c.Entries {
		q.Set("latest", "true")
	}
	return q, nil
}

// moment reads a time, a date, or how long ago.
func moment(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 2026-11-20T10:00:00Z, 2026-11-20 or 15m", s)
}

func (c *logListCmd) Run(e *env) error {
	if c.Limit < 1 || c.Limit > 10000 {
		return ostiary.Errorf(ostiary.Malformed, "limit", "--limit: write a number from 1 to 10000")
	}
	q, err := c.query()
	if err != nil {
		return err
	}
	p := &logPrinter{logListCmd: c, e: e, grid: grid{w: e.stdout}, seen: map[string]time.Time{}}
	if c.Follow {
		p.grid.widths = []int{12, 18, 12, 28, 8, 9} // about what will come, so that columns rarely move
	}
	var page control.Listing
	if err := e.ask(http.MethodGet, "/v1/log", q, nil, &page); err != nil {
		return err
	}
	slices.Reverse(page.Entries)
	if err := p.print(page, true); err != nil {
		return err
	}
	if c.Follow {
		return p.follow(q)
	}
	if len(page.Entries) == c.Limit && !e.cli.JSON {
		fmt.Fprintf(e.stderr, "The newest %d; there may be more: -n %d\n", c.Limit, min(10*c.Limit, 10000))
	}
	return nil
}

// follow asks for what is new until the command is stopped.
func (p *logPrinter) follow(q url.Values) error {
	q.Set("newest", "false")
	q.Set("limit", strconv.Itoa(followPage))
	started := time.Now()
	if !p.newest.IsZero() {
		started = p.newest
	}
	from := started
	for {
		q.Set("since", from.UTC().Format(time.RFC3339Nano))
		var page control.Listing
		if err := p.e.ask(http.MethodGet, "/v1/log", q, nil, &page); err != nil {
			if p.e.ctx.Err() != nil {
				return nil // stopped while asking
			}
			return err
		}
		if err := p.print(page, false); err != nil {
			return err
		}
		if n := len(page.Entries); n == followPage && page.Entries[n-1].Time.After(from) {
			from = page.Entries[n-1].Time
			continue
		}
		from = later(started, p.newest.Add(-followOverlap))
		p.forget(from)
		select {
		case <-p.e.ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// logPrinter prints entries once each, in columns that stay.
type logPrinter struct {
	*logListCmd
	e      *env
	grid   grid
	seen   map[string]time.Time // by entry, not older than a question reaches back
	newest time.Time            // of any entry seen
}

// forget drops what no further question can bring.
func (p *logPrinter) forget(before time.Time) {
	maps.DeleteFunc(p.seen, func(_ string, t time.Time) bool { return t.Before(before) })
}

// print writes what was not printed before. The page is oldest first.
func (p *logPrinter) print(page control.Listing, head bool) error {
	var fresh []control.Entry
	for _, x := range page.Entries {
		p.newest = later(p.newest, x.Time)
		opening := p.Changes && !p.All && x.Action == "" // of a log
		if _, ok := p.seen[x.Ref]; ok || opening {
			continue
		}
		p.seen[x.Ref] = x.Time
		fresh = append(fresh, x)
	}
	if p.e.cli.JSON {
		for _, x := range fresh {
			b, err := json.Marshal(x)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(p.e.stdout, string(b)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(fresh) == 0 && head && !p.Follow {
		fmt.Fprintln(p.e.stdout, "Nothing matches. Readings of definitions and the log's own entries are shown with --all.")
		return nil
	}
	var rows [][]string
	for i := range fresh {
		rows = append(rows, p.row(&fresh[i]))
	}
	var headings []string
	switch {
	case !head && len(rows) == 0:
		return nil
	case head && p.Changes:
		headings = []string{"ENTRY", "TIME", "AGENT", "CHANGE", "BY", "WHAT"}
	case head:
		headings = []string{"ENTRY", "TIME", "AGENT", "ACTION", "DECISION", "FATE", "WHY"}
	}
	if err := p.grid.print(headings, rows); err != nil {
		return err
	}
	if page.Indexed < page.Size && head && !p.Follow { // followers get the rest in a moment
		fmt.Fprintf(p.e.stderr, "indexed up to %d of %d entries\n", page.Indexed, page.Size)
	}
	return nil
}

func (p *logPrinter) row(x *control.Entry) []string {
	row := []string{x.Ref, x.Time.Local().Format("01-02 15:04:05.000"), lastSegment(x.Agent), dash(whole(x.Action))}
	if p.Changes {
		var d struct{ Text, By string }
		if json.Unmarshal([]byte(x.Detail), &d) != nil || d.Text == "" {
			d.Text = x.Code
		}
		return append(row, dash(d.By), dash(d.Text))
	}
	fate := x.Disposition
	if x.Kind == "intent" {
		fate = "running"
	} else if x.Kind != "outcome" {
		fate = x.Kind
	}
	return append(row, dash(x.Decision), fate, dash(why(x)))
}

// why is the policies that decided, after the reason's code where that says
// more than the decision.
func why(x *control.Entry) string {
	by := strings.Join(x.Policies, ",")
	switch {
	case x.Code == x.Decision || x.Code == "":
		return by
	case by == "":
		return x.Code
	}
	return x.Code + " by " + by
}

func lastSegment(id string) string {
	return dash(ostiary.AgentID(id).Name())
}
