package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/bridge"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/identity"
)

type mandateCmd struct {
	Issue      mandateIssueCmd    `cmd:"" help:"Give an agent a mandate for a task, or its standing one."`
	Derive     mandateDeriveCmd   `cmd:"" help:"As an agent, give another agent a part of what this one may do."`
	Grant      mandateGrantCmd    `cmd:"" help:"Give a right just in time, for minutes, with a reason."`
	BreakGlass mandateBreakCmd    `cmd:"" help:"Give a right in an emergency: loud in the log, and listed for review."`
	Show       mandateShowCmd     `cmd:"" help:"Show a mandate, its chain, and what it allows in plain words."`
	List       mandateListCmd     `cmd:"" help:"List mandates, also those that ended."`
	Renew      mandateRenewCmd    `cmd:"" help:"Write an agent's standing mandate anew, for its whole life."`
	Complete   mandateCompleteCmd `cmd:"" help:"End a mandate because its task is done, with everything derived from it."`
	Revoke     mandateRevokeCmd   `cmd:"" help:"End a mandate, with everything derived from it."`
	Reviewed   mandateReviewedCmd `cmd:"" help:"Say that somebody looked at a break-glass mandate."`
}

// termFlags say what a mandate covers. What they say takes the place of what
// the file says.
type termFlags struct {
	File     string    `placeholder:"FILE" help:"YAML or JSON with what the mandate says; - is stdin. Flags take the place of what it says."`
	Task     string    `placeholder:"TEXT" help:"What is to be done."`
	Purpose  string    `placeholder:"WORD" help:"What for."`
	Action   []string  `placeholder:"NAME" help:"An action, SERVER___TOOL, or a group of policy; may be repeated. * is whatever policy allows."`
	Server   []string  `placeholder:"NAME" help:"A server; may be repeated. * is every server. Without it those of the actions, if all are SERVER___TOOL."`
	Class    []string  `placeholder:"NAME" help:"A data class; may be repeated. Without it every class."`
	Ceiling  []string  `sep:"none" placeholder:"ACTION:POINTER=MAX" help:"A bound of an argument, for example bank___pay:/amount=500; may be repeated."`
	Money    []string  `placeholder:"CURRENCY=MINOR" help:"A budget in whole minor units; may be repeated."`
	Calls    int64     `placeholder:"N" help:"A budget of calls."`
	Tokens   int64     `placeholder:"N" help:"A budget of model tokens."`
	Approver []string  `placeholder:"NAME" help:"Who may approve more; may be repeated. Without it whoever policy names."`
	Depth    int64     `placeholder:"N" help:"Through how many further agents it may be handed on (0)."`
	For      string    `placeholder:"DURATION" help:"How long from now: 15m, 36h, 30d."`
	Until    time.Time `placeholder:"TIME" help:"Until when, instead of --for: 2026-11-20T18:00:00Z."`
}

// maxTermsFile bounds a file of terms.
const maxTermsFile = 64 << 10

// terms reads the file and puts the flags over it.
func (f *termFlags) terms(e *env, agent, principal string) (identity.Terms, error) {
	var t identity.Terms
	if f.File != "" {
		b, err := f.read(e)
		if err != nil {
			return t, err
		}
		if t, err = parseTerms(b); err != nil {
			return t, about(f.File, err)
		}
	}
	for _, x := range []struct{ to, from *string }{{&t.Agent, &agent}, {&t.Principal, &principal}, {&t.Task, &f.Task}, {&t.Purpose, &f.Purpose}} {
		if *x.from != "" {
			*x.to = *x.from
		}
	}
	for _, x := range []struct{ to, from *[]string }{{&t.Actions, &f.Action}, {&t.Servers, &f.Server}, {&t.Classes, &f.Class}, {&t.Approvers, &f.Approver}} {
		if len(*x.from) > 0 {
			*x.to = *x.from
		}
	}
	for _, x := range []struct{ to, from *int64 }{{&t.Budget.Calls, &f.Calls}, {&t.Budget.Tokens, &f.Tokens}, {&t.Depth, &f.Depth}} {
		if *x.from != 0 {
			*x.to = *x.from
		}
	}
	if f.For != "" || !f.Until.IsZero() {
		t.For, t.Until = f.For, f.Until
	}
	if len(t.Servers) == 0 {
		t.Servers = serversOf(f.Action)
	}
	return t, f.amounts(&t)
}

// serversOf is where actions are that all name their server, and nothing if
// one does not: a group may be on any.
func serversOf(actions []string) (out []string) {
	for _, a := range actions {
		server, _, ok := strings.Cut(a, "___")
		if !ok {
			return nil
		}
		if !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out
}

func (f *termFlags) read(e *env) ([]byte, error) {
	from := e.stdin
	if f.File != "-" {
		file, err := os.Open(f.File)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	b, err := io.ReadAll(io.LimitReader(from, maxTermsFile+1))
	if err == nil && len(b) > maxTermsFile {
		err = fmt.Errorf("%s: it is longer than %d bytes", f.File, maxTermsFile)
	}
	return b, err
}

// amounts reads ceilings and money.
func (f *termFlags) amounts(t *identity.Terms) error {
	if len(f.Ceiling) > 0 {
		t.Ceilings = nil
	}
	for _, s := range f.Ceiling {
		where, most, ok := strings.Cut(s, "=")
		action, pointer, ok2 := strings.Cut(where, ":")
		if !ok || !ok2 {
			return ostiary.Errorf(ostiary.Malformed, "terms", "--ceiling %s: write ACTION:POINTER=MAX, for example bank___pay:/amount=500", show(s))
		}
		t.Ceilings = append(t.Ceilings, identity.TermCeiling{Action: action, Pointer: pointer, Max: most})
	}
	if len(f.Money) > 0 {
		t.Budget.Money = nil
	}
	for _, s := range f.Money {
		currency, minor, _ := strings.Cut(s, "=")
		n, err := strconv.ParseInt(minor, 10, 64)
		if err != nil {
			return ostiary.Errorf(ostiary.Malformed, "terms", "--money %s: write CURRENCY=MINOR, for example EUR=50000", show(s))
		}
		t.Budget.Money = append(t.Budget.Money, identity.TermMoney{Currency: currency, Minor: n})
	}
	return nil
}

// parseTerms reads YAML, of which JSON is a part. Numbers keep their text: no
// amount is rounded on its way.
func parseTerms(b []byte) (identity.Terms, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil {
		return identity.Terms{}, ostiary.Errorf(ostiary.Malformed, "terms", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return identity.Terms{}, ostiary.Errorf(ostiary.Malformed, "terms", "it holds more than one document")
	}
	text, err := asJSON(nil, &doc, 0)
	if err != nil {
		return identity.Terms{}, err
	}
	return identity.ParseTerms(text)
}

// maxYAMLDepth is more than terms are deep.
const maxYAMLDepth = 8

// asJSON writes a YAML document as JSON. What JSON does not have is refused.
func asJSON(out []byte, n *yaml.Node, depth int) ([]byte, error) {
	bad := func(why string) ([]byte, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "terms", "line %d: %s", n.Line, why)
	}
	if depth > maxYAMLDepth {
		return bad("it is nested too deep")
	}
	var err error
	list := func(open, end byte) ([]byte, error) {
		out = append(out, open)
		for i, c := range n.Content {
			if i > 0 {
				sep := byte(',')
				if n.Kind == yaml.MappingNode && i%2 == 1 {
					sep = ':'
				}
				out = append(out, sep)
			}
			if n.Kind == yaml.MappingNode && i%2 == 0 && c.ShortTag() != "!!str" {
				return bad("a name is a text")
			}
			if out, err = asJSON(out, c, depth+1); err != nil {
				return nil, err
			}
		}
		return append(out, end), nil
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return asJSON(out, n.Content[0], depth+1)
	case yaml.MappingNode:
		return list('{', '}')
	case yaml.SequenceNode:
		return list('[', ']')
	case yaml.ScalarNode:
		if tag := n.ShortTag(); (tag == "!!int" || tag == "!!float") && json.Valid([]byte(n.Value)) {
			return append(out, n.Value...), nil
		}
		text, err := json.Marshal(n.Value)
		return append(out, text...), err
	}
	return bad("anchors and aliases are not taken here")
}

// give asks for a mandate and shows it.
func (e *env) give(kind string, t identity.Terms) error {
	var m control.Mandate
	if err := e.ask(http.MethodPost, "/v1/mandates", nil, control.MandateRequest{Kind: kind, Terms: t.JSON()}, &m); err != nil {
		return err
	}
	for _, w := range m.Warnings {
		fmt.Fprintf(e.stderr, "Warning: %s\n", show(w))
	}
	return e.showMandate(m)
}

type mandateIssueCmd struct {
	Agent     string `arg:"" optional:"" help:"The agent it is for; else the file says it."`
	Standing  bool   `help:"Its standing mandate, in place of the present one, which ends."`
	Principal string `placeholder:"KIND:NAME" help:"On whose authority; else the agent's own principal."`
	termFlags
}

func (c *mandateIssueCmd) Run(e *env) error {
	t, err := c.terms(e, c.Agent, c.Principal)
	if err != nil {
		return err
	}
	kind := ostiary.TaskMandate
	if c.Standing {
		kind = ostiary.StandingMandate
	}
	return e.give(kind.String(), t)
}

type mandateGrantCmd struct {
	Agent  string `arg:"" optional:"" help:"The agent it is for; else the file says it."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
	termFlags
}

func (c *mandateGrantCmd) Run(e *env) error {
	return exception(e, ostiary.GrantMandate, &c.termFlags, c.Agent, c.Reason)
}

type mandateBreakCmd struct {
	Agent  string `arg:"" optional:"" help:"The agent it is for; else the file says it."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log and is reviewed."`
	termFlags
}

func (c *mandateBreakCmd) Run(e *env) error {
	return exception(e, ostiary.BreakGlassMandate, &c.termFlags, c.Agent, c.Reason)
}

func exception(e *env, kind ostiary.MandateKind, f *termFlags, agent, reason string) error {
	t, err := f.terms(e, agent, "")
	if err != nil {
		return err
	}
	t.Reason = reason
	return e.give(kind.String(), t)
}

// asAgent are the flags of what an agent does with its own SVID.
type asAgent struct {
	State string `placeholder:"DIR" help:"Where ostiary connect keeps the agent's key and certificate (~/.ostiary/connect)."`
}

func (a asAgent) ask(e *env, path string, in, out any) error {
	dir := a.State
	if dir == "" {
		var err error
		if dir, err = defaultState(); err != nil {
			return err
		}
	}
	b, err := bridge.Open(e.ctx, bridge.Options{Dir: absolute(dir), Dial: egress.NewClient})
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := b.Ask(e.ctx, path, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, out)
}

type mandateDeriveCmd struct {
	Agent string `arg:"" optional:"" help:"The agent it is for; else the file says it."`
	Under string `placeholder:"ID" help:"The mandate it is a part of; else the agent's standing one."`
	asAgent
	termFlags
}

func (c *mandateDeriveCmd) Run(e *env) error {
	t, err := c.terms(e, c.Agent, "")
	if err != nil {
		return err
	}
	var out identity.Derived
	if err := c.ask(e, identity.DerivePath, map[string]any{"under": c.Under, "terms": t}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "%s\n", out.Mandate)
	fmt.Fprintf(e.stderr, "For %s, until %s, derived from %s. It acts under it with: ostiary connect --mandate %s\n", out.Agent, when(out.Expires), out.Parent, out.Mandate)
	return nil
}

type mandateShowCmd struct {
	ID     string `arg:"" help:"The mandate."`
	Signed bool   `help:"Print the chain in its signed form, a link a line from the first, and nothing else."`
}

func (c *mandateShowCmd) Run(e *env) error {
	var m control.Mandate
	if err := e.ask(http.MethodGet, "/v1/mandates/one", map[string][]string{"id": {c.ID}}, nil, &m); err != nil {
		return err
	}
	if c.Signed {
		_, err := fmt.Fprintln(e.stdout, strings.Join(m.Signed, "\n"))
		return err
	}
	return e.showMandate(m)
}

func (e *env) showMandate(m control.Mandate) error {
	if e.cli.JSON {
		return e.printJSON(m)
	}
	line := func(name, format string, a ...any) {
		fmt.Fprintf(e.stdout, "%-10s%s\n", name, show(fmt.Sprintf(format, a...)))
	}
	line("mandate", "%s, %s", m.ID, strings.ReplaceAll(m.Kind, "_", "-"))
	state := strings.ReplaceAll(m.State, "_", " ")
	if m.With != "" {
		state += ", with " + m.With + " above it"
	}
	if m.EndedBy != "" {
		state += " by " + m.EndedBy + " at " + when(m.Ended)
	}
	if m.Why != "" {
		state += ": " + m.Why
	}
	line("state", "%s", state)
	line("given", "by %s at %s", m.By, when(m.Issued))
	if !m.Reviewed.IsZero() {
		line("reviewed", "by %s at %s", m.Reviewer, when(m.Reviewed))
	} else if m.Kind == ostiary.BreakGlassMandate.String() && len(m.Links) < 2 {
		line("reviewed", "by nobody yet; see: ostiary mandate list --review")
	}
	for i, id := range m.Links {
		name := ""
		if i == 0 {
			name = "chain"
		}
		agent := ""
		if i < len(m.Agents) {
			agent = m.Agents[i]
		}
		line(name, "%s%s  %s", strings.Repeat("  ", i), id, agent)
	}
	for i, w := range m.Words {
		name := ""
		if i == 0 {
			name = "allows"
		}
		line(name, "%s", w)
	}
	return nil
}

type mandateListCmd struct {
	Agent     string `placeholder:"NAME" help:"Only this agent's."`
	Principal string `placeholder:"KIND:NAME" help:"Only those on this authority, or that this person gave."`
	Parent    string `placeholder:"ID" help:"Only those derived from this one."`
	Review    bool   `help:"Only break-glass mandates that nobody reviewed."`
	Limit     int    `placeholder:"N" default:"100" help:"At most so many, the newest first (${default})."`
}

func (c *mandateListCmd) Run(e *env) error {
	q := map[string][]string{"agent": {c.Agent}, "principal": {c.Principal}, "parent": {c.Parent}, "limit": {strconv.Itoa(c.Limit)}}
	if c.Review {
		q["review"] = []string{"true"}
	}
	var all []control.Mandate
	if err := e.ask(http.MethodGet, "/v1/mandates", q, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "There are none.")
		return nil
	}
	var rows [][]string
	for _, m := range all {
		what := m.Says.Task
		if what == "" {
			what = m.Says.Purpose
		}
		if m.Says.Reason != "" {
			what = m.Says.Reason
		}
		rows = append(rows, []string{m.ID, strings.ReplaceAll(m.Kind, "_", "-"), strings.ReplaceAll(m.State, "_", " "), m.Says.Agent, m.By, when(m.Allows.Until), dash(what)})
	}
	return e.table([]string{"MANDATE", "KIND", "STATE", "AGENT", "BY", "UNTIL", "WHAT"}, rows)
}

type mandateRenewCmd struct {
	Agent string `arg:"" help:"The agent."`
}

func (c *mandateRenewCmd) Run(e *env) error {
	var m control.Mandate
	if err := e.ask(http.MethodPost, "/v1/mandates/renew", nil, control.MandateNameRequest{Agent: c.Agent}, &m); err != nil {
		return err
	}
	return e.showMandate(m)
}

type mandateCompleteCmd struct {
	ID     string `arg:"" help:"The mandate."`
	Reason string `placeholder:"TEXT" help:"What came of it; it stays in the log."`
	Own    bool   `help:"As the agent that holds it, or that derived it, with the agent's own SVID."`
	asAgent
}

func (c *mandateCompleteCmd) Run(e *env) error {
	if c.Own || c.State != "" {
		var out map[string]string
		if err := c.ask(e, identity.CompletePath, map[string]string{"mandate": c.ID, "reason": c.Reason}, &out); err != nil {
			return err
		}
		if e.cli.JSON {
			return e.printJSON(out)
		}
		fmt.Fprintf(e.stdout, "%s is completed, with everything derived from it\n", c.ID)
		return nil
	}
	return e.endMandate(c.ID, string(identity.EndCompleted), c.Reason)
}

type mandateRevokeCmd struct {
	ID     string `arg:"" help:"The mandate."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

func (c *mandateRevokeCmd) Run(e *env) error {
	return e.endMandate(c.ID, string(identity.EndRevoked), c.Reason)
}

func (e *env) endMandate(id, how, reason string) error {
	var m control.Mandate
	if err := e.ask(http.MethodPost, "/v1/mandates/end", nil, control.MandateEndRequest{Mandate: id, How: how, Reason: reason}, &m); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(m)
	}
	fmt.Fprintf(e.stdout, "%s is %s, with everything derived from it\n", m.ID, m.State)
	return nil
}

type mandateReviewedCmd struct {
	ID string `arg:"" help:"The mandate."`
}

func (c *mandateReviewedCmd) Run(e *env) error {
	var m control.Mandate
	if err := e.ask(http.MethodPost, "/v1/mandates/review", nil, control.MandateNameRequest{Mandate: c.ID}, &m); err != nil {
		return err
	}
	return e.showMandate(m)
}
