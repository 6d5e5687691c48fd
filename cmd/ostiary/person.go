package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary/internal/control"
)

type personCmd struct {
	List   personListCmd   `cmd:"" help:"List who may sign in, and who is invited."`
	Add    personAddCmd    `cmd:"" help:"Add a person without a passkey, who votes from the command line and signs in nowhere."`
	Invite personInviteCmd `cmd:"" help:"Print a one-time link for a new person, or for another passkey of one who is known."`
	Roles  personRolesCmd  `cmd:"" help:"Give a person exactly these roles. Their sessions end."`
	Key    personKeyCmd    `cmd:"" help:"Give a person a key with which they approve and refuse from the command line, or take one away."`
	Revoke personRevokeCmd `cmd:"" help:"End a person: sessions, passkeys, and every mandate they gave, at once. Takes back links that are open for the name."`
}

type personListCmd struct{}

func (personListCmd) Run(e *env) error {
	var all control.People
	if err := e.ask(http.MethodGet, "/v1/people", nil, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all.People)+len(all.Invitations) == 0 {
		fmt.Fprintln(e.stdout, "Nobody may sign in yet. Start with: ostiary person invite NAME --role operator")
		return nil
	}
	var rows [][]string
	for _, p := range all.People {
		by := plural(p.Passkeys, "passkey")
		if p.Provider != "" {
			by = p.Provider
		}
		rows = append(rows, []string{p.Name, dash(p.Label), dash(strings.Join(p.Roles, ",")), by, p.State, when(p.Seen)})
	}
	for _, in := range all.Invitations {
		name := in.Name
		if name == "" {
			name = "(whoever comes first)"
		}
		rows = append(rows, []string{name, "-", dash(strings.Join(in.Roles, ",")), "-", "invited until " + when(in.Expires), "-"})
	}
	return e.table([]string{"NAME", "LABEL", "ROLES", "SIGNS IN BY", "STATE", "LAST SEEN"}, rows)
}

type personAddCmd struct {
	Name string   `arg:"" help:"The person's name: lower-case letters and digits, with dots, dashes and underscores between them."`
	Role []string `placeholder:"ROLE" help:"A role: operator, approver or auditor; may be repeated."`
}

func (c *personAddCmd) Run(e *env) error {
	var p control.Person
	if err := e.ask(http.MethodPost, "/v1/people/add", nil, control.PersonRequest{Name: c.Name, Roles: c.Role}, &p); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(p)
	}
	fmt.Fprintf(e.stdout, "%s is known, with %s. They vote with: ostiary person key %s --out FILE\n", p.Name, roles(p.Roles), p.Name)
	return nil
}

type personInviteCmd struct {
	Name string   `arg:"" help:"The person's name: lower-case letters and digits, with dots, dashes and underscores between them."`
	Role []string `placeholder:"ROLE" help:"A role of a new person: operator, approver or auditor; may be repeated."`
	Life string   `placeholder:"DURATION" help:"How long the link works, at most 168h (24h)."`
}

func (c *personInviteCmd) Run(e *env) error {
	var in control.PersonInvitation
	if err := e.ask(http.MethodPost, "/v1/people/invite", nil, control.PersonRequest{Name: c.Name, Roles: c.Role, Life: c.Life}, &in); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(in)
	}
	fmt.Fprintln(e.stdout, in.Link)
	what := "a new person, with " + roles(in.Roles)
	if in.Known {
		what = "another passkey of " + in.Name
	}
	fmt.Fprintf(e.stderr, "One use, until %s, for %s. Hand it over where nobody else reads: whoever opens it is %s.\n", when(in.Expires), what, in.Name)
	return nil
}

func roles(words []string) string {
	switch len(words) {
	case 0:
		return "no role"
	case 1:
		return "the role " + words[0]
	}
	return "the roles " + strings.Join(words, ", ")
}

type personRolesCmd struct {
	Name string   `arg:"" help:"The person's name."`
	Role []string `placeholder:"ROLE" help:"A role they have from now on; none if absent."`
}

func (c *personRolesCmd) Run(e *env) error {
	var p control.Person
	if err := e.ask(http.MethodPost, "/v1/people/roles", nil, control.PersonRequest{Name: c.Name, Roles: c.Role}, &p); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(p)
	}
	fmt.Fprintf(e.stdout, "%s has %s now; their sessions have ended\n", p.Name, roles(p.Roles))
	return nil
}

type personRevokeCmd struct {
	Name   string `arg:"" help:"The person's name."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

func (c *personRevokeCmd) Run(e *env) error {
	var p control.Person
	if err := e.ask(http.MethodPost, "/v1/people/revoke", nil, control.PersonRequest{Name: c.Name, Reason: c.Reason}, &p); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(p)
	}
	fmt.Fprintf(e.stdout, "%s is revoked: sessions, passkeys and the mandates they gave have ended\n", p.Name)
	return nil
}
