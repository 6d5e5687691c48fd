package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/control"
)

// show makes foreign text safe for a terminal: invisible and control
// characters become code points. What only looks like such a mark, as in a
// text that the gateway made safe already, stays as it is.
func show(s string) string {
	if plain := strings.ReplaceAll(s, "<", ""); catalog.Show(plain) == plain {
		return s
	}
	return catalog.Show(s)
}

type statusCmd struct {
	Check bool `help:"Say only whether calls are taken; exit with 1 if not."`
}

func (c statusCmd) Run(e *env) error {
	if c.Check {
		return checkHealth(e)
	}
	var s control.Status
	if err := e.ask(http.MethodGet, "/v1/status", nil, nil, &s); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(s)
	}
	line := func(name, format string, a ...any) {
		fmt.Fprintf(e.stdout, "%-10s%s\n", name, fmt.Sprintf(format, a...))
	}
	line("gateway", "%s/%s, trust domain %s, version %s", s.Deployment, s.Gateway, s.TrustDomain, s.Version)
	line("agents", "https://%s/mcp", s.Agents)
	if s.Loopback != "" {
		line("", "http://%s/mcp for bearer tokens, this machine only", s.Loopback)
	}
	if s.Snapshot == 0 {
		line("policy", "none is loaded: everything is refused")
	} else {
		line("policy", "snapshot %d", s.Snapshot)
	}
	line("revoked", "epoch %d", s.Epoch)
	indexed := "all indexed"
	if s.Indexed < s.LogSize {
		indexed = fmt.Sprintf("%d indexed", s.Indexed)
	}
	line("log", "%d entries, %s; not independently witnessed", s.LogSize, indexed)
	if len(s.Servers) == 0 {
		line("servers", "none are configured")
		return nil
	}
	fmt.Fprintln(e.stdout)
	var rows [][]string
	for _, srv := range s.Servers {
		rows = append(rows, []string{srv.Name, when(srv.ReadAt), serverState(srv)})
	}
	return e.table([]string{"SERVER", "LAST READ", "STATE"}, rows)
}

func serverState(s control.ServerStatus) string {
	var parts []string
	if s.Changed > 0 {
		parts = append(parts, plural(s.Changed, "definition")+" not as accepted")
	}
	if s.Waiting > 0 {
		parts = append(parts, plural(s.Waiting, "definition")+" not accepted")
	}
	switch {
	case s.Breaker.State == "open":
		return "left alone until " + when(s.Breaker.Until) + ", because " + s.Breaker.Why
	case s.Breaker.State == "half-open":
		return "one call tries it, because " + s.Breaker.Why
	case s.Conduct.State == "quarantined":
		return "quarantined, because " + s.Conduct.Why
	case s.Error != "":
		return s.Error
	case s.ReadAt.IsZero():
		return "not read yet"
	case len(parts) == 0:
		return "as accepted"
	}
	return strings.Join(parts, ", ") + "; see: ostiary tools list " + s.Name
}

type agentCmd struct {
	Join   agentJoinCmd   `cmd:"" help:"Print a one-time join token for a new agent."`
	Add    agentAddCmd    `cmd:"" help:"Enrol an agent that will only ever use bearer tokens."`
	List   agentListCmd   `cmd:"" help:"List enrolled agents."`
	Revoke agentRevokeCmd `cmd:"" help:"The same as revoke agent; with --kind, as another of the revoke commands."`
}

// agentFlags describe a new agent.
type agentFlags struct {
	Name      string   `arg:"" help:"Its name, in lower case, for example payments for spiffe://example.org/agent/payments, or a whole SPIFFE ID."`
	Principal string   `placeholder:"KIND:NAME" help:"On whose authority it acts: person:NAME, organisation:NAME or service:NAME. Of a new agent organisation:self; an enrolled one keeps its own."`
	Owner     string   `placeholder:"NAME" help:"Who answers for it; else its principal."`
	Zone      string   `placeholder:"NAME" help:"Its zone; else default."`
	Role      []string `placeholder:"NAME" help:"A role it holds; may be repeated."`
	Mandate   string   `placeholder:"FILE" help:"YAML with what its standing mandate covers, as for mandate issue; else a new agent's covers whatever policy allows."`
}

// request reads what the standing mandate is to cover, if a file says it.
func (f *agentFlags) request(e *env, life string) (control.AgentRequest, error) {
	r := control.AgentRequest{Name: f.Name, Principal: f.Principal, Owner: f.Owner, Zone: f.Zone, Roles: f.Role, Life: life}
	if f.Mandate == "" {
		return r, nil
	}
	t, err := (&termFlags{File: f.Mandate}).terms(e, "", "")
	r.Mandate = t.JSON()
	return r, err
}

type agentJoinCmd struct {
	agentFlags
	Life string `placeholder:"DURATION" help:"How long the join token may be used (1h)."`
}

func (c *agentJoinCmd) Run(e *env) error {
	in, err := c.request(e, c.Life)
	if err != nil {
		return err
	}
	var j control.Join
	if err := e.ask(http.MethodPost, "/v1/agents/join", nil, in, &j); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(j)
	}
	fmt.Fprintln(e.stdout, j.Secret)
	e.warnWide(j.Wide, c.Name)
	fmt.Fprintf(e.stderr, "One use, until %s, for %s. On the agent's machine:\n", when(j.Expires), j.Agent)
	fmt.Fprintf(e.stderr, "  ostiary connect --gateway https://%s --join @FILE --print-config\n(FILE holds the line above; or put it into OSTIARY_JOIN.)\n", j.Gateway)
	return nil
}

// warnWide says that nobody narrowed what a new agent may do.
func (e *env) warnWide(wide bool, name string) {
	if wide {
		fmt.Fprintf(e.stderr, "Warning: nobody said what %s may do, so its standing mandate covers whatever policy allows; say it with --mandate FILE.\n", show(name))
	}
}

type agentAddCmd struct{ agentFlags }

func (c *agentAddCmd) Run(e *env) error {
	in, err := c.request(e, "")
	if err != nil {
		return err
	}
	var a control.Agent
	if err := e.ask(http.MethodPost, "/v1/agents/add", nil, in, &a); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(a)
	}
	e.warnWide(a.Wide, c.Name)
	fmt.Fprintf(e.stdout, "%s is enrolled for %s until %s. Mint it a token with: ostiary token %s\n", a.ID, a.Principal, when(a.Expires), c.Name)
	return nil
}

type agentListCmd struct{}

func (agentListCmd) Run(e *env) error {
	var all []control.Agent
	if err := e.ask(http.MethodGet, "/v1/agents", nil, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "No agents are enrolled. Start with: ostiary agent join NAME")
		return nil
	}
	var rows [][]string
	for _, a := range all {
		owner, version, state := a.Owner, "", a.State
		if r := a.Registered; r != nil {
			owner, version = ownerOf(r), r.Version
			if r.State == "retired" {
				state = "retired"
			}
		}
		rows = append(rows, []string{a.ID, a.Principal, owner, dash(version), a.Zone, dash(strings.Join(a.Roles, ",")), state, when(a.Expires)})
	}
	return e.table([]string{"AGENT", "PRINCIPAL", "OWNER", "VERSION", "ZONE", "ROLES", "STATE", "MANDATE UNTIL"}, rows)
}

type agentRevokeCmd struct {
	Subject string `arg:"" help:"The agent's name; or, with --kind, a person, mandate id, session id, key digest or serial."`
	Kind    string `placeholder:"KIND" enum:"agent,person,mandate,session,key,serial" default:"agent" help:"What is revoked: agent, person, mandate, session, key or serial (${default})."`
	Reason  string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

func (c *agentRevokeCmd) Run(e *env) error { return e.revoke(c.Kind, c.Subject, c.Reason) }

// revokeCmd names what is revoked by a command each.
type revokeCmd struct {
	Agent      revokeAgentCmd      `cmd:"" help:"End an agent: every credential it has, and every mandate it holds or derived."`
	Person     revokePersonCmd     `cmd:"" help:"End every mandate a person gave, or that is on their authority."`
	Mandate    revokeMandateCmd    `cmd:"" help:"End a mandate, with everything derived from it."`
	Session    revokeSessionCmd    `cmd:"" help:"End what an agent does in one session, under one mandate. The mandate stands, and what was derived from it."`
	Key        revokeKeyCmd        `cmd:"" help:"Refuse a public key wherever it comes."`
	Credential revokeCredentialCmd `cmd:"" help:"End one certificate or token."`
}

// revokeFlags say why.
type revokeFlags struct {
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

type revokeAgentCmd struct {
	Name string `arg:"" help:"The agent's name, or its whole SPIFFE ID."`
	revokeFlags
}

type revokePersonCmd struct {
	Name string `arg:"" help:"The person, or another principal such as organisation:acme."`
	revokeFlags
}

type revokeMandateCmd struct {
	ID string `arg:"" help:"The mandate."`
	revokeFlags
}

type revokeSessionCmd struct {
	ID string `arg:"" help:"The session, as the log names it."`
	revokeFlags
}

type revokeKeyCmd struct {
	Digest string `arg:"" help:"SHA-256 of the public key (SubjectPublicKeyInfo), 64 lower-case hex digits."`
	revokeFlags
}

type revokeCredentialCmd struct {
	Serial string `arg:"" help:"The certificate's serial number, or the token's id, as the log names it."`
	revokeFlags
}

func (c *revokeAgentCmd) Run(e *env) error  { return e.revoke("agent", c.Name, c.Reason) }
func (c *revokePersonCmd) Run(e *env) error { return e.revoke("person", principalOf(c.Name), c.Reason) }

// principalOf is a principal as it is written elsewhere, of a name alone a
// person.
func principalOf(name string) string {
	if strings.Contains(name, ":") {
		return name
	}
	return "person:" + name
}
func (c *revokeMandateCmd) Run(e *env) error    { return e.revoke("mandate", c.ID, c.Reason) }
func (c *revokeSessionCmd) Run(e *env) error    { return e.revoke("session", c.ID, c.Reason) }
func (c *revokeKeyCmd) Run(e *env) error        { return e.revoke("key", c.Digest, c.Reason) }
func (c *revokeCredentialCmd) Run(e *env) error { return e.revoke("serial", c.Serial, c.Reason) }

func (e *env) revoke(kind, subject, reason string) error {
	var out control.Revoked
	if err := e.ask(http.MethodPost, "/v1/revocations", nil, control.RevokeRequest{Kind: kind, Subject: subject, Reason: reason}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "%s %s is revoked; the revocation epoch is now %d\n", kind, subject, out.Epoch)
	if !out.Known && kind == "agent" {
		fmt.Fprintf(e.stderr, "No agent of this name is enrolled. Join tokens made for it so far are of no use any more; see: ostiary agent list\n")
	}
	return nil
}

type tokenCmd struct {
	Agent  string `arg:"" help:"The enrolled agent."`
	Life   string `placeholder:"DURATION" help:"How long it lives, at most 10m."`
	Server string `placeholder:"NAME" help:"For this server's own endpoint instead of the aggregated one."`
}

func (c *tokenCmd) Run(e *env) error {
	var t control.Token
	if err := e.ask(http.MethodPost, "/v1/tokens", nil, control.TokenRequest{Agent: c.Agent, Life: c.Life, Server: c.Server}, &t); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(t)
	}
	fmt.Fprintln(e.stdout, t.Token)
	fmt.Fprintf(e.stderr, "Until %s. Anyone who holds it is the agent: send it as \"Authorization: Bearer …\", to this gateway only.\n", when(t.Expires))
	return nil
}

type toolsCmd struct {
	List   toolsListCmd   `cmd:"" help:"List what servers offer and what was accepted."`
	Diff   toolsDiffCmd   `cmd:"" help:"Show what changed in a definition since it was accepted."`
	Pin    toolsAcceptCmd `cmd:"" help:"Accept all definitions of a server, or one, as they are now."`
	Accept toolsAcceptCmd `cmd:"" help:"The same as pin: accept a changed definition."`
	Read   toolsReadCmd   `cmd:"" help:"Read a server's definitions now."`
	Label  toolsLabelCmd  `cmd:"" help:"Propose what arguments decide and how far results are to be trusted, for labels.yaml in the policy folder."`
}

type toolsListCmd struct {
	Server string `arg:"" optional:"" help:"Only this server's."`
	Kind   string `placeholder:"KIND" help:"Only this kind: tool, prompt, resource or template."`
}

func (c *toolsListCmd) Run(e *env) error {
	var all []control.Tool
	if err := e.ask(http.MethodGet, "/v1/tools", map[string][]string{"server": {c.Server}, "kind": {c.Kind}}, nil, &all); err != nil {
		return err
	}
	return e.printTools(all)
}

func (e *env) printTools(all []control.Tool) error {
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "Nothing of this was read from any server. See: ostiary status")
		return nil
	}
	var rows [][]string
	for _, t := range all {
		hint := "changes state"
		switch {
		case t.Kind != catalog.KindTool:
			hint = "-"
		case t.ReadOnly:
			hint = "says read-only"
		case t.Destructive:
			hint = "destructive"
		}
		note := t.Why
		if note == "" && len(t.Findings) > 0 {
			note = strings.Join(t.Findings, "; ")
		}
		rows = append(rows, []string{t.Server, t.Kind, t.Name, t.State, hint, t.Pin[:min(12, len(t.Pin))], dash(note)})
	}
	return e.table([]string{"SERVER", "KIND", "NAME", "STATE", "HINT", "PIN", "NOTE"}, rows)
}

type toolsDiffCmd struct {
	Server string `arg:"" help:"The configured server."`
	Name   string `arg:"" optional:"" help:"The definition: a tool's or prompt's name, a resource's URI; all that are not as accepted if absent."`
	Kind   string `default:"tool" placeholder:"KIND" enum:"tool,prompt,resource,template" help:"Its kind: tool, prompt, resource or template (${default})."`
}

func (c *toolsDiffCmd) Run(e *env) error {
	names := []string{c.Name}
	if c.Name == "" {
		var all []control.Tool
		if err := e.ask(http.MethodGet, "/v1/tools", map[string][]string{"server": {c.Server}, "kind": {c.Kind}}, nil, &all); err != nil {
			return about(c.Server, err)
		}
		names = nil
		for _, t := range all {
			if t.State == "changed" {
				names = append(names, t.Name)
			}
		}
		if len(names) == 0 && !e.cli.JSON {
			fmt.Fprintln(e.stdout, "No difference: nothing of this kind is other than accepted.")
		}
	}
	for _, name := range names {
		if err := c.show(e, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *toolsDiffCmd) show(e *env, name string) error {
	var out control.Difference
	if err := e.ask(http.MethodGet, "/v1/tools/diff", map[string][]string{"server": {c.Server}, "name": {name}, "kind": {c.Kind}}, nil, &out); err != nil {
		return about(c.Server+" "+name, err)
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	if out.Diff == "" {
		fmt.Fprintln(e.stdout, "No difference: the server says what was accepted.")
		return nil
	}
	fmt.Fprintln(e.stdout, out.Diff)
	if out.Pin != "" {
		fmt.Fprintf(e.stdout, "This offer of %s has the pin %s\n", show(name), out.Pin)
	}
	return nil
}

type toolsReadCmd struct {
	Server string `arg:"" help:"The configured server."`
}

// about puts what was asked for before what is wrong with it.
func about(what string, err error) error {
	return fmt.Errorf("%s: %w", show(strings.TrimSpace(what)), err)
}

func (c *toolsReadCmd) Run(e *env) error {
	var all []control.Tool
	if err := e.ask(http.MethodPost, "/v1/tools/read", nil, control.ToolRequest{Server: c.Server}, &all); err != nil {
		return about(c.Server, err)
	}
	return e.printTools(all)
}

type toolsAcceptCmd struct {
	Server string `arg:"" help:"The configured server."`
	Name   string `arg:"" optional:"" help:"One definition; all that are not quarantined if absent."`
	Kind   string `placeholder:"KIND" help:"Of a named one: tool, prompt, resource or template."`
	Pin    string `placeholder:"PIN" help:"Accept exactly the definition with this pin (64 hex digits, from diff or list --json); else what you were last shown by diff, if it takes the place of an accepted one."`
	Force  bool   `help:"Also a named one that is quarantined for what its text says, after reading it."`
}

func (c *toolsAcceptCmd) Run(e *env) error {
	var a control.Accepted
	if err := e.ask(http.MethodPost, "/v1/tools/accept", nil, control.ToolRequest{Server: c.Server, Name: c.Name, Kind: c.Kind, Pin: c.Pin, Force: c.Force}, &a); err != nil {
		return about(c.Server+" "+c.Name, err)
	}
	if e.cli.JSON {
		return e.printJSON(a)
	}
	for _, t := range a.Tools {
		fmt.Fprintf(e.stdout, "accepted %s %s of %s, pin %s\n", t.Kind, show(t.Name), t.Server, t.Pin[:min(12, len(t.Pin))])
	}
	printProblems(e.stderr, a.Problems)
	if a.Refused != "" {
		return fmt.Errorf("accepted, but the policy folder does not fit the new definitions: %s", a.Refused)
	}
	fmt.Fprintf(e.stdout, "%d accepted; policy snapshot %d is active. What agents may do with them is policy: ostiary policy init\n", len(a.Tools), a.Snapshot)
	return nil
}

func absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}
