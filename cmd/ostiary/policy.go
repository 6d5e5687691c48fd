package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/policy"
	origins "github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/strictjson"
)

type policyCmd struct {
	Init  policyInitCmd  `cmd:"" help:"Write a starter policy that denies everything that changes state."`
	Check policyCheckCmd `cmd:"" help:"Check the policy folder; every problem with file, line and suggestion."`
	Load  policyLoadCmd  `cmd:"" help:"Publish the policy folder as the next snapshot."`

	Autonomy policyAutonomyCmd `cmd:"" help:"Show the policies that autonomy.yaml becomes, each with its line."`

	Explain policyExplainCmd `cmd:"" help:"Say why a call was decided as it was, and what nearly permitted it."`
	Shadow  policyShadowCmd  `cmd:"" help:"Sum up what the candidates in shadow/ would have changed."`
}

// policyDir returns the folder of the argument or the configuration.
func (e *env) policyDir(arg string) (string, error) {
	if arg != "" {
		return arg, nil
	}
	c, err := daemon.ReadConfig(e.cli.Config)
	if err != nil {
		return "", err
	}
	return c.Policy, nil
}

// acceptedTools asks the gateway for the accepted definitions, which policies
// are checked against.
func (e *env) acceptedTools() ([]*ostiary.Tool, error) {
	var all []control.Tool
	if err := e.ask(http.MethodGet, "/v1/tools", map[string][]string{"definitions": {"true"}}, nil, &all); err != nil {
		return nil, err
	}
	var out []*ostiary.Tool
	for _, t := range all {
		if t.State == ostiary.ToolUnpinned.String() || t.State == ostiary.ToolQuarantined.String() {
			continue // nobody accepted it: no policy can be about it
		}
		doc, err := strictjson.Parse([]byte(t.Definition), strictjson.Request)
		if err != nil {
			continue
		}
		tool := catalog.ParseDefinition(t.Server, t.Kind, doc.Root())
		tool.State = ostiary.ToolPinned
		out = append(out, &tool)
	}
	return out, nil
}

type policyInitCmd struct {
	Dir string `arg:"" optional:"" help:"The folder to write; the configured one if absent."`
}

func (c *policyInitCmd) Run(e *env) error {
	dir, err := e.policyDir(c.Dir)
	if err != nil {
		return err
	}
	tools, err := e.acceptedTools()
	if err != nil {
		fmt.Fprintf(e.stderr, "Writing a policy that knows no tools: %s\nRun it again when the gateway runs and its tools are accepted, to have them named.\n", ostiary.AsError(err).Detail)
		tools = nil
	}
	wrote, err := writeStarter(dir, policy.Starter(tools), policy.Starter(nil))
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(map[string][]string{"wrote": wrote})
	}
	for _, path := range wrote {
		fmt.Fprintln(e.stdout, "wrote", path)
	}
	fmt.Fprintln(e.stdout, "It permits listing and what tools say is read-only, and nothing that changes state. Each file explains how to open more.\nPublish it with: ostiary policy load")
	return nil
}

// writeStarter writes the files of a starter. One that stands there already is
// replaced only if nobody has touched it since a starter that knew no tools
// was written; otherwise nothing is written at all.
func writeStarter(dir string, src, empty policy.Source) ([]string, error) {
	names := slices.Sorted(maps.Keys(src.Files))
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		b, err := os.ReadFile(path)
		switch {
		case os.IsNotExist(err):
		case err != nil:
			return nil, err
		case !bytes.Equal(b, empty.Files[name]) && !bytes.Equal(b, src.Files[name]):
			return nil, ostiary.Errorf(ostiary.Conflict, "exists", "%s exists and holds something else; name another folder, or remove it", path)
		}
	}
	for i, name := range names {
		names[i] = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(names[i]), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(names[i], src.Files[name], 0o644); err != nil {
			return nil, err
		}
	}
	return names, nil
}

type policyCheckCmd struct {
	Dir string `arg:"" optional:"" help:"The folder; the configured one if absent."`
}

func (c *policyCheckCmd) Run(e *env) error {
	dir, src, err := e.policyFolder(c.Dir)
	if err != nil {
		return err
	}
	tools, without := e.acceptedTools()
	if without != nil {
		fmt.Fprintf(e.stderr, "Checking without tools, and without the folder's tests: %s\n", ostiary.AsError(without).Detail)
	}
	set, found := policy.Compile(src, tools)
	if problem, ok := control.LabelsProblem(string(src.Files[origins.LabelsFile])); !ok {
		set, found = nil, append(found, problem)
	}
	asked, wrong := 0, []policy.Problem(nil)
	if set != nil && without == nil { // a test is about tools
		asked, wrong = policy.Test(src, set)
	}
	problems := control.PolicyProblems(append(found, wrong...))
	if e.cli.JSON {
		if err := e.printJSON(problems); err != nil {
			return err
		}
	} else {
		printProblems(e.stdout, problems)
	}
	if set == nil {
		return ostiary.Errorf(ostiary.Malformed, "policy", "the policy folder %s does not compile", dir)
	}
	if len(wrong) > 0 {
		return ostiary.Errorf(ostiary.Malformed, "policy_tests", "the policy folder %s does not do what its tests expect", dir)
	}
	if !e.cli.JSON {
		fmt.Fprintf(e.stdout, "%s is good, checked against %d accepted definitions and %d tests of its own\n", dir, len(tools), asked)
	}
	return nil
}

// policyFolder reads the folder of the argument or the configuration.
func (e *env) policyFolder(arg string) (string, policy.Source, error) {
	dir, err := e.policyDir(arg)
	if err != nil {
		return "", policy.Source{}, err
	}
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return "", policy.Source{}, ostiary.Errorf(ostiary.NotFound, "no_folder", "there is no folder %s; write one with \"ostiary policy init\"", dir)
	}
	src, err := policy.ReadDir(dir)
	return dir, src, err
}

type policyAutonomyCmd struct {
	Dir string `arg:"" optional:"" help:"The folder; the configured one if absent."`
}

func (c *policyAutonomyCmd) Run(e *env) error {
	dir, src, err := e.policyFolder(c.Dir)
	if err != nil {
		return err
	}
	tools, err := e.acceptedTools()
	if err != nil {
		return err
	}
	set, problems := policy.Compile(src, tools)
	if set == nil {
		printProblems(e.stderr, control.PolicyProblems(problems))
		return ostiary.Errorf(ostiary.Malformed, "policy", "the policy folder %s does not compile", dir)
	}
	if e.cli.JSON {
		return e.printJSON(map[string]string{"cedar": set.Autonomy()})
	}
	if set.Autonomy() == "" {
		fmt.Fprintf(e.stdout, "%s has no autonomy.yaml, or it lets agents act alone\n", dir)
		return nil
	}
	fmt.Fprint(e.stdout, set.Autonomy())
	return nil
}

type policyLoadCmd struct{}

func (policyLoadCmd) Run(e *env) error {
	var p control.Published
	if err := e.ask(http.MethodPost, "/v1/policy/load", nil, nil, &p); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(p)
	}
	printProblems(e.stderr, p.Problems)
	if !p.Changed {
		fmt.Fprintf(e.stdout, "nothing changed; snapshot %d stays active\n", p.Snapshot)
		return nil
	}
	fmt.Fprintf(e.stdout, "snapshot %d is active\n", p.Snapshot)
	return nil
}
