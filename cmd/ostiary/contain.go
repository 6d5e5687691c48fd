package main

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/ostiary/ostiary/internal/control"
)

type containCmd struct {
	Agent      containAgentCmd  `cmd:"" help:"Contain an agent, and what acts for it."`
	Tool       containToolCmd   `cmd:"" help:"Contain a tool, or another action, for everybody."`
	Server     containServerCmd `cmd:"" help:"Contain everything of a server, for everybody."`
	Everything containAllCmd    `cmd:"" help:"Contain everybody and everything."`
	List       containListCmd   `cmd:"" help:"List what is contained now."`
}

// containFlags say how far, and why.
type containFlags struct {
	Level  string `placeholder:"LEVEL" enum:"throttled,restricted,quarantined,suspended" default:"quarantined" help:"How far (${default}): throttled (one call a second), restricted (as policy says), quarantined (nothing passes), or suspended (and no credential is handed out)."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

type containAgentCmd struct {
	Name string `arg:"" help:"The agent's name, or its whole SPIFFE ID."`
	containFlags
}

type containToolCmd struct {
	Name string `arg:"" help:"The action, as in the log: server___tool, or for example read_resource."`
	containFlags
}

type containServerCmd struct {
	Name string `arg:"" help:"The server's configured name."`
	containFlags
}

type containAllCmd struct{ containFlags }

func (c *containAgentCmd) Run(e *env) error  { return e.contain("agent", c.Name, c.Level, c.Reason) }
func (c *containToolCmd) Run(e *env) error   { return e.contain("tool", c.Name, c.Level, c.Reason) }
func (c *containServerCmd) Run(e *env) error { return e.contain("server", c.Name, c.Level, c.Reason) }
func (c *containAllCmd) Run(e *env) error    { return e.contain("all", "", c.Level, c.Reason) }

type releaseCmd struct {
	Agent      releaseAgentCmd  `cmd:"" help:"Release an agent."`
	Tool       releaseToolCmd   `cmd:"" help:"Release a tool, or another action."`
	Server     releaseServerCmd `cmd:"" help:"Release a server."`
	Everything releaseAllCmd    `cmd:"" help:"Release everything that was contained as a whole; what was contained by name stays so."`
}

// releaseFlags say why.
type releaseFlags struct {
	Reason string `placeholder:"TEXT" help:"Why; it stays in the log."`
}

type releaseAgentCmd struct {
	Name string `arg:"" help:"The agent's name, or its whole SPIFFE ID."`
	releaseFlags
}

type releaseToolCmd struct {
	Name string `arg:"" help:"The action."`
	releaseFlags
}

type releaseServerCmd struct {
	Name string `arg:"" help:"The server's configured name."`
	releaseFlags
}

type releaseAllCmd struct{ releaseFlags }

func (c *releaseAgentCmd) Run(e *env) error  { return e.contain("agent", c.Name, "none", c.Reason) }
func (c *releaseToolCmd) Run(e *env) error   { return e.contain("tool", c.Name, "none", c.Reason) }
func (c *releaseServerCmd) Run(e *env) error { return e.contain("server", c.Name, "none", c.Reason) }
func (c *releaseAllCmd) Run(e *env) error    { return e.contain("all", "", "none", c.Reason) }

// contain sets one level and says what holds now.
func (e *env) contain(scope, name, level, reason string) error {
	var out control.Contained
	if err := e.ask(http.MethodPost, "/v1/containments", nil, control.ContainRequest{Scope: scope, Name: name, Level: level, Reason: reason}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	what := scope + " " + out.Name
	if scope == "all" {
		what = "everything"
	}
	if level == "none" {
		fmt.Fprintf(e.stdout, "%s is released\n", show(what))
	} else {
		fmt.Fprintf(e.stdout, "%s is %s\n", show(what), out.Level)
	}
	if !out.Known {
		fmt.Fprintf(e.stderr, "Nobody has heard of this %s yet. It holds for one that comes; see: ostiary agent list, ostiary tools list\n", scope)
	}
	return nil
}

type containListCmd struct{}

func (containListCmd) Run(e *env) error {
	var all []control.Containment
	if err := e.ask(http.MethodGet, "/v1/containments", nil, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "Nothing is contained.")
		return nil
	}
	var rows [][]string
	for _, c := range all {
		rows = append(rows, []string{c.Level, c.Scope, cmp.Or(c.Name, "everything"), when(c.At), c.By, c.Reason})
	}
	return e.table([]string{"LEVEL", "SCOPE", "NAME", "SINCE", "BY", "REASON"}, rows)
}
