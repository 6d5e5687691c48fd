package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
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

type doctorCmd struct{}

func (doctorCmd) Help() string {
	return `Looks at configuration, environment, files, keys, store, log, clock, disk, certificates, servers, accepted
definitions and policies, and says what to do about what is wrong. With a running gateway it asks that too; of a
stopped one it verifies store and log. Exits with 1 if anything fails.`
}

func (doctorCmd) Run(e *env) error {
	checks := examine(e)
	failed := 0
	for _, c := range checks {
		if c.State == control.CheckFail {
			failed++
		}
	}
	if e.cli.JSON {
		if err := e.printJSON(checks); err != nil {
			return err
		}
	} else {
		printChecks(e.stdout, checks)
	}
	if failed > 0 {
		return ostiary.Errorf(ostiary.Unavailable, "unwell", "%s of %d failed", plural(failed, "check"), len(checks))
	}
	return nil
}

func examine(e *env) []control.Check {
	cfg, err := daemon.ReadConfig(e.cli.Config)
	if err != nil {
		return []control.Check{{Name: "configuration", State: control.CheckFail, Detail: ostiary.AsError(err).Detail, Do: "correct it, then: ostiary serve --check"}}
	}
	checks := append([]control.Check{{Name: "configuration", State: control.CheckOK, Detail: e.cli.Config}}, daemon.Surroundings(cfg)...)
	var inside []control.Check
	switch err := e.ask(http.MethodGet, "/v1/doctor", nil, nil, &inside); {
	case err == nil:
		return append(checks, inside...)
	case ostiary.AsError(err).Code == "not_running":
		return append(checks, daemon.Examine(e.ctx, cfg)...)
	default:
		return append(checks, control.Check{Name: "gateway", State: control.CheckFail, Detail: err.Error(), Do: "run this as the user the gateway runs as"})
	}
}

func printChecks(w io.Writer, checks []control.Check) {
	wide := 0
	for _, c := range checks {
		wide = max(wide, len(c.Name))
	}
	for _, c := range checks {
		fmt.Fprintf(w, "%-5s %-*s  %s\n", c.State, wide, show(c.Name), show(c.Detail))
		if c.Do != "" {
			fmt.Fprintf(w, "      %*s  -> %s\n", wide, "", show(c.Do))
		}
	}
}
