package main

import (
	"fmt"
	"net/http"

	"github.com/ostiary/ostiary/internal/control"
)

type undoCmd struct {
	Entry  string `arg:"" help:"The call, as the log shows it: 2026-11/42 or 42."`
	Reason string `placeholder:"TEXT" help:"Why; it stays in the log. Required unless --plan."`
	Plan   bool   `help:"Only say what would be done."`
}

func (c *undoCmd) Run(e *env) error {
	var out control.Undone
	if err := e.ask(http.MethodPost, "/v1/undo", nil, control.UndoRequest{Entry: c.Entry, Reason: c.Reason, Plan: c.Plan}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	call := show(out.Action + " " + out.Arguments)
	switch out.State {
	case "planned":
		fmt.Fprintf(e.stdout, "%s would be taken back by %s\n", out.Entry, call)
	case "held":
		fmt.Fprintf(e.stdout, "%s waits for people's consent to %s: see ostiary approvals (%s)\n", out.Entry, call, show(out.Hold))
	case "failed":
		fmt.Fprintf(e.stdout, "%s is not taken back: the tool said %s to %s, entry %s\n", out.Entry, show(out.Result), call, out.By)
	default:
		fmt.Fprintf(e.stdout, "%s is taken back by %s, entry %s\n", out.Entry, call, out.By)
	}
	return nil
}
