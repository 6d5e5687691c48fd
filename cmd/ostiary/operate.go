package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary/internal/control"
)

type reloadCmd struct{}

func (reloadCmd) Help() string {
	return `Reads the configuration file and the policy folder again, without ending a call. Servers, lifetimes,
tools.recheck and listen.origins can change; everything else needs a restart, and is refused by name. All of
it takes effect or nothing does. SIGHUP does the same.`
}

func (reloadCmd) Run(e *env) error {
	var r control.Reloaded
	if err := e.ask(http.MethodPost, "/v1/reload", nil, nil, &r); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(r)
	}
	printProblems(e.stderr, r.Problems)
	what := "nothing changed in the configuration"
	if len(r.Changed) > 0 {
		what = "changed: " + strings.Join(r.Changed, ", ")
	}
	fmt.Fprintf(e.stdout, "reloaded; %s; snapshot %d\n", what, r.Snapshot)
	return nil
}
