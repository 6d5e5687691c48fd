package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

type policyExplainCmd struct {
	Entry string `arg:"" help:"The entry: 2026-11/1234, or 1234 in the newest log."`
}

func (c *policyExplainCmd) Run(e *env) error {
	if _, err := ostiary.ParseEntryRef(c.Entry); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "entry", "%v", err)
	}
	var x control.Explanation
	if err := e.ask(http.MethodGet, "/v1/policy/explain", url.Values{"entry": {c.Entry}}, nil, &x); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(x)
	}
	for line := range strings.Lines(x.Text) {
		fmt.Fprintln(e.stdout, show(strings.TrimSuffix(line, "\n")))
	}
	return nil
}

type policyShadowCmd struct {
	Agent string `placeholder:"AGENT" help:"Only this agent: SPIFFE ID or last path segment."`
	Tool  string `placeholder:"NAME" help:"Only this tool or action."`
	Since string `placeholder:"TIME" help:"Not before: a time (2026-11-20T10:00:00Z) or how long ago (15m)."`
	Until string `placeholder:"TIME" help:"Before: a time or how long ago."`
}

func (c *policyShadowCmd) Run(e *env) error {
	q := url.Values{}
	for key, v := range map[string]string{"agent": c.Agent, "action": c.Tool} {
		if v != "" {
			q.Set(key, v)
		}
	}
	if err := setTimes(q, c.Since, c.Until); err != nil {
		return err
	}
	var s control.ShadowSummary
	if err := e.ask(http.MethodGet, "/v1/policy/shadow", q, nil, &s); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(s)
	}
	if s.Looked > 0 {
		fmt.Fprintf(e.stderr, "%d actions since %s; %d candidates in shadow/ now\n", s.Looked, s.Oldest.Local().Format("2006-01-02 15:04:05"), s.Candidates)
	}
	if len(s.Differences) == 0 {
		fmt.Fprintln(e.stdout, "No candidate would have changed an answer.")
		return nil
	}
	var rows [][]string
	for _, d := range s.Differences {
		rows = append(rows, []string{d.Policy, d.Enforced, d.Outcome, strconv.Itoa(d.Count), d.Newest, agentNames(d.Agents)})
	}
	g := grid{w: e.stdout}
	return g.print([]string{"CANDIDATE", "WAS", "WOULD BE", "TIMES", "NEWEST", "AGENTS"}, rows)
}

func agentNames(ids []string) string {
	var out []string
	for _, id := range ids {
		out = append(out, lastSegment(id))
	}
	return strings.Join(out, ",")
}

// setTimes puts the times of a command into a query.
func setTimes(q url.Values, since, until string) error {
	for key, v := range map[string]string{"since": since, "until": until} {
		if v == "" {
			continue
		}
		t, err := moment(v)
		if err != nil {
			return ostiary.Errorf(ostiary.Malformed, key, "--%s: %v", key, err)
		}
		q.Set(key, t.UTC().Format(time.RFC3339Nano))
	}
	return nil
}
