// Command ostiary is the doorkeeper for autonomous AI agents: a gateway that
// lets one action through at a time, and the commands to run and ask it.
//
// "ostiary serve" is the gateway. The other commands are clients of its
// control socket, or work on files alone. All print tables for people and,
// with --json, JSON for programs. Exit status 0 means done, 1 refused or
// failed, 2 used wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/keyring"
)

// cli is the whole command line; the structs are the help text.
type cli struct {
	Config string `short:"c" default:"ostiary.yaml" env:"OSTIARY_CONFIG" placeholder:"FILE" help:"The configuration file (${default})."`
	Socket string `placeholder:"PATH" help:"Control socket of the gateway; overrides the configuration."`
	JSON   bool   `help:"Print JSON instead of tables."`

	Serve     serveCmd     `cmd:"" help:"Run the gateway."`
	Demo      demoCmd      `cmd:"" help:"Run a gateway with demo tools and a scripted agent: the whole product in a minute."`
	Reload    reloadCmd    `cmd:"" help:"Read the configuration and the policy folder again, without ending a call."`
	Status    statusCmd    `cmd:"" help:"Show what the gateway is doing."`
	Doctor    doctorCmd    `cmd:"" help:"Find out what is wrong, and what to do about it."`
	Agent     agentCmd     `cmd:"" help:"Enrol, list and revoke agents."`
	Mandate   mandateCmd   `cmd:"" help:"Give agents what they may do: for a task, for minutes, or standing."`
	Revoke    revokeCmd    `cmd:"" help:"End an agent, a person's mandates, a mandate, a session, a key or one credential, at once."`
	Token     tokenCmd     `cmd:"" help:"Mint a short-lived bearer token for an agent that cannot hold a key."`
	Person    personCmd    `cmd:"" help:"Invite, list and revoke the people who sign in to the console."`
	Approvals approvalsCmd `cmd:"" help:"Show what waits for people's consent."`
	Approve   approveCmd   `cmd:"" help:"Consent to a held action, or to less of it, with your signature."`
	Refuse    refuseCmd    `cmd:"" help:"Refuse a held action, with a reason that its agent is told."`
	Budget    budgetCmd    `cmd:"" help:"See what is spent and left, and settle what nobody knows the end of."`
	Undo      undoCmd      `cmd:"" help:"Take back what a call did, with the call that the policy folder names for it."`
	Contain   containCmd   `cmd:"" help:"Stop an agent, a tool, a server or everything, at once."`
	Release   releaseCmd   `cmd:"" help:"Let go what was contained."`
	Connect   connectCmd   `cmd:"" help:"Bridge a local MCP client to the gateway, holding its identity for it."`
	Tools     toolsCmd     `cmd:"" help:"Show, compare and accept what servers offer."`
	Policy    policyCmd    `cmd:"" help:"Write, check and load policies."`
	Keys      keysCmd      `cmd:"" help:"Show the deployment's keys, and change them while calls run."`
	Log       logCmd       `cmd:"" help:"See what happened, and verify that the log tells all of it."`
	Backup    backupCmd    `cmd:"" help:"Copy store, log and identity into a new folder, while the gateway runs or not."`
	Restore   restoreCmd   `cmd:"" help:"Bring a backup back into an empty data folder."`
	Version   versionCmd   `cmd:"" help:"Print the version."`

	Registry registryCmd `cmd:"" help:"Who and what there is: owners, purposes, data, limits, versions, baselines."`

	DemoServer demoServerCmd `cmd:"" hidden:"" help:"The demo's tool server."`
}

// env is what a command may use of its surroundings, so that tests can hold
// the whole program.
type env struct {
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	cli    *cli
}

func main() {
	if err := keyring.HideMemory(); err != nil { // every command may come to hold a key or a token
		fmt.Fprintln(os.Stderr, "ostiary:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := newParser(&c, stdout, stderr, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(stderr, "ostiary:", err)
		return 2
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		usage(stderr, k, err)
		return 2
	}
	if err := k.Run(&env{ctx, stdin, stdout, stderr, &c}); err != nil {
		complain(stderr, err)
		return 1
	}
	return 0
}

func newParser(c *cli, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("ostiary"),
		kong.Description("The doorkeeper for autonomous AI agents: proven identity, policy on arguments, on disk before it happens."),
		kong.UsageOnError(), kong.Writers(stdout, stderr), kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
}

// usage says what was wrong with the command line, and where to read on.
func usage(w io.Writer, k *kong.Context, err error) {
	help := "ostiary --help"
	if p := new(kong.ParseError); k == nil && errors.As(err, &p) {
		k = p.Context
	}
	if k != nil && k.Selected() != nil {
		help = k.Selected().FullPath() + " --help"
	}
	text := strings.ReplaceAll(err.Error(), `one of "",`, "one of ") // "" is only what an absent flag is
	fmt.Fprintln(w, "ostiary:", text)
	fmt.Fprintf(w, "See: %s\n", help)
}

// complain prints an error as a sentence with its field and remedy.
func complain(w io.Writer, err error) {
	var e *ostiary.Error
	if !errors.As(err, &e) {
		fmt.Fprintln(w, "ostiary:", err)
		return
	}
	text := e.Detail
	if text == "" {
		text = e.Kind.String()
	}
	if e.Err != nil && !errors.As(e.Err, new(*ostiary.Error)) {
		text += ": " + e.Err.Error() // the operator's own terminal may see the cause
	}
	// What was being done when it happened, without the classification that
	// programs read. An error that is classified and says it in its own words,
	// as a log's fault does, stands as it is.
	doing, _, classified := strings.Cut(err.Error(), e.Error())
	if !classified {
		doing, text = err.Error(), ""
	}
	fmt.Fprintf(w, "ostiary: %s%s\n", doing, text)
}

// revision is the commit the program was built from; the linker sets it for
// releases, and go build in a checkout records it by itself.
var revision string

type versionCmd struct {
	Modules bool `help:"Print the modules it was built from too, with their sums as in go.sum."`
}

// provenance is what a program knows of how it was made.
type provenance struct {
	Version  string   `json:"version"`
	Revision string   `json:"revision"`
	Go       string   `json:"go"`
	Modules  []module `json:"modules"`
}

type module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum"`
}

func made() provenance {
	p := provenance{Version: ostiary.Version, Revision: revision, Go: "unknown", Modules: []module{}}
	info, ok := debug.ReadBuildInfo()
	if ok {
		p.Go = info.GoVersion
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			p.Modules = append(p.Modules, module{m.Path, m.Version, m.Sum})
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && p.Revision == "" {
				p.Revision = s.Value
			}
		}
	}
	if p.Revision == "" {
		p.Revision = "unknown"
	}
	return p
}

func (c versionCmd) Run(e *env) error {
	p := made()
	if e.cli.JSON {
		return e.printJSON(p)
	}
	fmt.Fprintf(e.stdout, "ostiary %s (revision %s, %s)\n", p.Version, p.Revision, p.Go)
	if c.Modules {
		for _, m := range p.Modules {
			fmt.Fprintf(e.stdout, "%s %s %s\n", m.Path, m.Version, m.Sum)
		}
	}
	return nil
}
