package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

type logCmd struct {
	List   logListCmd   `cmd:"" default:"withargs" help:"List entries, newest last; filter and follow."`
	Show   logShowCmd   `cmd:"" help:"Tell the whole story of one action, with why."`
	Verify logVerifyCmd `cmd:"" help:"Verify a log offline, against a copy."`
}

// followEvery is how often a followed log is asked for more.
const followEvery = 500 * time.Millisecond

type logListCmd struct {
	Agent       string `help:"Only this agent: SPIFFE ID or last path segment."`
	Principal   string `help:"Only on this principal's authority."`
	Tool        string `help:"Only this tool or action."`
	Server      string `help:"Only this server."`
	Decision    string `enum:",permit,deny" default:"" help:"Only permit or deny."`
	Disposition string `help:"Only this fate: refused, held, delivered, withheld, failed, unknown."`
	Code        string `help:"Only this reason code."`
	Session     string `help:"Only this session."`
	Since       string `help:"Not before: a time (2026-11-20T10:00:00Z) or how long ago (15m)."`
	Until       string `help:"Before: a time or how long ago."`
	Limit       int    `short:"n" default:"50" help:"At most this many (${default})."`
	Follow      bool   `short:"f" help:"Keep printing what comes."`
	All         bool   `short:"a" help:"Also entries that are no agent's action: openings, heartbeats, readings of definitions."`
	Changes     bool   `help:"The deployment's log instead: joins, tokens, acceptances, snapshots, revocations."`
	Entries     bool   `help:"Print every entry, not one line per action."`
}

func (c *logListCmd) query() (url.Values, error) {
	q := url.Values{"newest": {"true"}, "limit": {strconv.Itoa(c.Limit)}}
	for key, v := range map[string]string{"agent": c.Agent, "principal": c.Principal, "action": c.Tool, "server": c.Server, "decision": c.Decision, "disposition": c.Disposition, "code": c.Code, "session": c.Session} {
		if v != "" {
			q.Set(key, v)
		}
	}
	for key, v := range map[string]string{"since": c.Since, "until": c.Until} {
		if v == "" {
			continue
		}
		t, err := moment(v)
		if err != nil {
			return nil, ostiary.Errorf(ostiary.Malformed, key, "--%s: %v", key, err)
		}
		q.Set(key, t.UTC().Format(time.RFC3339Nano))
	}
	switch {
	case c.Changes:
		q.Set("log", "deployment")
		if !c.All {
			q.Set("kind", "change")
		}
	case !c.All:
		q.Set("kind", "intent,outcome")
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
	var page control.Listing
	if err := e.ask(http.MethodGet, "/v1/log", q, nil, &page); err != nil {
		return err
	}
	seen := map[string]bool{}
	if err := c.print(e, page, seen, true); err != nil || !c.Follow {
		return err
	}
	for {
		select {
		case <-e.ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
		if err := e.ask(http.MethodGet, "/v1/log", q, nil, &page); err != nil {
			if e.ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := c.print(e, page, seen, false); err != nil {
			return err
		}
	}
}

// print writes what was not printed before, oldest first. Without --entries
// an action is one line: its Outcome, or its Intent while it runs.
func (c *logListCmd) print(e *env, page control.Listing, seen map[string]bool, head bool) error {
	answered := map[string]bool{}
	for _, x := range page.Entries {
		if x.Kind == "outcome" && x.Answers != "" {
			answered[x.Answers] = true
		}
	}
	var fresh []control.Entry
	for i := len(page.Entries) - 1; i >= 0; i-- {
		x := page.Entries[i]
		hidden := !c.Entries && x.Kind == "intent" && answered[x.ID]
		if seen[x.Ref] || hidden || (!c.All && x.Action == "discover_server") {
			continue
		}
		seen[x.Ref] = true
		fresh = append(fresh, x)
	}
	if e.cli.JSON {
		for _, x := range fresh {
			b, err := json.Marshal(x)
			if err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, string(b))
		}
		return nil
	}
	if len(fresh) == 0 && head && !c.Follow {
		fmt.Fprintln(e.stdout, "Nothing matches. Readings of definitions and the log's own entries are shown with --all.")
		return nil
	}
	var rows [][]string
	for _, x := range fresh {
		fate := x.Disposition
		if x.Kind == "intent" {
			fate = "running"
		} else if x.Kind != "outcome" {
			fate = x.Kind
		}
		why := x.Code
		if len(x.Policies) > 0 {
			why += " by " + strings.Join(x.Policies, ",")
		}
		rows = append(rows, []string{x.Ref, x.Time.Local().Format("01-02 15:04:05.000"), lastSegment(x.Agent), dash(x.Action), dash(x.Decision), fate, dash(why)})
	}
	if len(rows) == 0 {
		return nil
	}
	headings := []string{"ENTRY", "TIME", "AGENT", "ACTION", "DECISION", "FATE", "WHY"}
	if !head {
		headings = []string{"", "", "", "", "", "", ""}
	}
	if err := e.table(headings, rows); err != nil {
		return err
	}
	if page.Indexed < page.Size && head {
		fmt.Fprintf(e.stderr, "indexed up to %d of %d entries\n", page.Indexed, page.Size)
	}
	return nil
}

func lastSegment(id string) string {
	return dash(ostiary.AgentID(id).Name())
}

type logShowCmd struct {
	Entry   string `arg:"" help:"The entry: 2026-11/1234, or 1234 in the newest log."`
	Proof   bool   `help:"Print the entry's inclusion proof (C2SP tlog-proof) instead."`
	Changes bool   `help:"Of the deployment's log."`
}

func (c *logShowCmd) Run(e *env) error {
	if _, err := ostiary.ParseEntryRef(c.Entry); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "entry", "%v", err)
	}
	var s control.Story
	q := url.Values{"entry": {c.Entry}}
	if c.Changes {
		q.Set("log", "deployment")
	}
	if err := e.ask(http.MethodGet, "/v1/log/entry", q, nil, &s); err != nil {
		return err
	}
	if c.Proof {
		fmt.Fprint(e.stdout, s.Proof)
		return nil
	}
	if e.cli.JSON {
		return e.printJSON(s)
	}
	tell(e, s)
	return nil
}

// tell writes one action as a story for people.
func tell(e *env, s control.Story) {
	first := s.Entries[0]
	p := func(name, format string, a ...any) {
		fmt.Fprintf(e.stdout, "%-12s%s\n", name, show(fmt.Sprintf(format, a...)))
	}
	last := first
	for _, x := range s.Entries {
		if x.Kind == "outcome" && (x.Answers == first.ID || x.ID == first.ID) {
			last = x
		}
	}
	p("entry", "%s in log %s", first.Ref, first.Log)
	p("when", "%s", first.Time.Local().Format(time.RFC3339Nano))
	if first.Agent != "" {
		p("who", "%s, for %s, under mandate %s", first.Agent, dash(first.Principal), dash(first.Mandate))
	}
	if first.Action != "" {
		p("what", "%s on %s", first.Action, dash(first.Server))
	}
	if first.Arguments != "" {
		p("arguments", "%s", first.Arguments)
	}
	if first.Kind == "intent" || first.Kind == "outcome" {
		p("decision", "%s (%s), snapshot %d", first.Decision, dash(last.Code), first.Snapshot)
	}
	for _, id := range first.Policies {
		p("policy", "%s", id)
	}
	tellDetail(p, last.Detail)
	if first.Inputs != "" {
		p("facts", "%s", first.Inputs)
	}
	for _, x := range s.Entries[1:] {
		text := fmt.Sprintf("%s %s %s", x.Ref, x.Kind, x.Disposition)
		if x.ResultLen > 0 {
			text += fmt.Sprintf(", %d bytes of result, sha-256 %s", x.ResultLen, x.Result[:min(12, len(x.Result))])
		}
		if x.Kind == "intent" {
			text += " " + x.Action + " (inside this one)"
		}
		p("then", "%s (%s later)", text, x.Time.Sub(first.Time).Round(time.Microsecond))
	}
	if first.Kind == "intent" && len(s.Entries) == 1 {
		p("then", "no outcome yet: it is running, or the gateway stopped before it ended")
	}
	if first.Sealed {
		p("sealed", "the payload's key is gone; the proof still holds")
	}
	p("proof", "ostiary log show %s --proof", first.Ref)
}

// tellDetail prints the refusal as it was explained to the caller.
func tellDetail(p func(string, string, ...any), detail string) {
	var d struct {
		Kind, Code, Field, Text string
		Reasons                 []ostiary.Reason
		Remedies                []ostiary.Remedy
		Findings                []ostiary.Finding
	}
	if detail == "" || json.Unmarshal([]byte(detail), &d) != nil {
		return
	}
	if d.Text != "" {
		text := d.Text
		if d.Field != "" {
			text += " (at " + d.Field + ")"
		}
		p("why", "%s", text)
	}
	for _, r := range d.Reasons {
		p("because", "%s: %s %s", r.Policy, r.Text, r.Where)
	}
	for _, r := range d.Remedies {
		p("remedy", "%s would discharge %s", r.Fact, r.Policy)
	}
	for _, f := range d.Findings {
		p("finding", "%s at %s", f.Kind, f.Field)
	}
}
