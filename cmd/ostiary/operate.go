package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary"
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

// checkHealth is "status --check": for scripts, containers and service
// managers, which look at the exit status.
func checkHealth(e *env) error {
	var h control.Health
	if err := e.ask(http.MethodGet, "/v1/health", nil, nil, &h); err != nil {
		return err
	}
	if e.cli.JSON {
		if err := e.printJSON(h); err != nil {
			return err
		}
	}
	var wrong []string
	for _, c := range h.Checks {
		if !c.OK {
			wrong = append(wrong, c.Name+": "+show(c.Detail))
		}
	}
	if !h.Ready {
		return ostiary.Errorf(ostiary.Unavailable, "not_ready", "the gateway takes no calls: %s", strings.Join(wrong, "; "))
	}
	if !e.cli.JSON {
		fmt.Fprintln(e.stdout, "ready")
	}
	return nil
}
