package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/registry"
)

type registryCmd struct {
	Apply  registryApplyCmd  `cmd:"" help:"Make the registry what files say: all of it or nothing."`
	Export registryExportCmd `cmd:"" help:"Print the registry as YAML that apply reads."`
	List   registryListCmd   `cmd:"" help:"List what is registered."`
	Show   registryShowCmd   `cmd:"" help:"Show one entity."`
	Set    registrySetCmd    `cmd:"" help:"Register an entity, or change what is said."`
	Remove registryRemoveCmd `cmd:"" help:"Take an entity out of the registry. It is only forgotten; to refuse it, set its state to retired."`
}

type registryApplyCmd struct {
	Dir    string `short:"f" required:"" placeholder:"PATH" help:"A file, or a folder with all its .yaml and .yml files; - is stdin."`
	DryRun bool   `help:"Show what would change, and change nothing."`
	Prune  bool   `help:"Also remove whatever the files do not name."`
}

func (c *registryApplyCmd) Run(e *env) error {
	stated, err := readRegistry(e, c.Dir)
	if err != nil {
		return err
	}
	if len(stated) == 0 && c.Prune {
		return ostiary.Errorf(ostiary.Malformed, "entity", "%s names no entity, and with --prune that would remove all there are", c.Dir)
	}
	in := control.RegistryRequest{Prune: c.Prune, DryRun: true, Entities: []control.EntityTerms{}}
	places := map[string]string{}
	for i := range stated {
		x := &stated[i]
		key := string(x.Kind) + " " + x.Name
		place := fmt.Sprintf("%s:%d", x.File, x.Line)
		if before, ok := places[key]; ok {
			return ostiary.Errorf(ostiary.Malformed, "entity", "%s: %s is named in %s already", place, key, before)
		}
		places[key] = place
		in.Entities = append(in.Entities, termsOfEntity(&x.Entity))
	}
	var plan control.RegistryChanges
	if err := e.ask(http.MethodPost, "/v1/registry", nil, in, &plan); err != nil {
		return err
	}
	if !e.cli.JSON {
		printChanges(e.stdout, plan.Changes)
	}
	if !c.DryRun && len(plan.Changes) > 0 {
		in.DryRun = false
		if err := e.ask(http.MethodPost, "/v1/registry", nil, in, &plan); err != nil {
			return err
		}
	}
	if e.cli.JSON {
		return e.printJSON(plan)
	}
	switch {
	case len(plan.Changes) == 0:
		fmt.Fprintf(e.stdout, "Nothing to change: the registry says of %s what the files say.\n", plural(len(stated), "thing"))
	case c.DryRun:
		fmt.Fprintf(e.stdout, "%s to make; nothing was changed.\n", plural(len(plan.Changes), "change"))
	default:
		fmt.Fprintf(e.stdout, "%s made.\n", plural(len(plan.Changes), "change"))
	}
	return nil
}

// maxRegistryFiles bounds how many files one application reads.
const maxRegistryFiles = 10_000

// readRegistry reads a file or a folder. Every problem is printed with its
// place before the error.
func readRegistry(e *env, path string) ([]registry.Stated, error) {
	if path == "-" {
		b, err := io.ReadAll(io.LimitReader(e.stdin, registry.MaxFile+1))
		if err != nil {
			return nil, err
		}
		return parsed(e, registryFile{"stdin", b})
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return parsed(e, registryFile{path, b})
	}
	var files []registryFile
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != path && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.Type().IsRegular() || filepath.Ext(p) != ".yaml" && filepath.Ext(p) != ".yml":
			return nil
		case len(files) == maxRegistryFiles:
			return fmt.Errorf("%s: it holds more than %d files", path, maxRegistryFiles)
		}
		b, err := os.ReadFile(p)
		files = append(files, registryFile{p, b})
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: it holds no .yaml or .yml file", path)
	}
	if err != nil {
		return nil, err
	}
	return parsed(e, files...)
}

type registryFile struct {
	name string
	text []byte
}

func parsed(e *env, files ...registryFile) (all []registry.Stated, err error) {
	bad := 0
	for _, f := range files {
		stated, problems := registry.Parse(f.name, f.text)
		for _, p := range problems {
			fmt.Fprintln(e.stderr, show(p.String()))
		}
		all, bad = append(all, stated...), bad+len(problems)
	}
	if bad > 0 {
		return nil, ostiary.Errorf(ostiary.Malformed, "entity", "%s in the files; nothing was changed", plural(bad, "problem"))
	}
	return all, nil
}

func termsOfEntity(x *ostiary.Entity) control.EntityTerms {
	t := control.EntityTerms{
		Kind: string(x.Kind), Name: x.Name, Owner: string(x.Owner), Purpose: x.Purpose, Classes: x.Classes,
		Version: x.Version, Baseline: x.Baseline.String(), Zone: x.Zone,
	}
	if x.Retired {
		t.State = "retired"
	}
	registry.EachLimit(x.Limits, func(name string, v int64) {
		if t.Limits == nil {
			t.Limits = map[string]int64{}
		}
		t.Limits[name] = v
	})
	return t
}

// printChanges prints differences as people read them in Git.
func printChanges(w io.Writer, changes []control.EntityChange) {
	marks := map[string]string{registry.Add: "+", registry.Modify: "~", registry.Remove: "-"}
	for _, c := range changes {
		fmt.Fprintf(w, "%s %s %s\n", marks[c.Op], c.Kind, show(c.Name))
		if c.Op == registry.Remove {
			continue
		}
		for _, f := range c.Fields {
			switch {
			case f.From == "":
				fmt.Fprintf(w, "    %s: %s\n", f.Name, show(f.To))
			case f.To == "":
				fmt.Fprintf(w, "    %s: no more %s\n", f.Name, show(f.From))
			default:
				fmt.Fprintf(w, "    %s: %s -> %s\n", f.Name, show(f.From), show(f.To))
			}
		}
	}
}

// entitiesOf asks for what is registered of a kind, and of a name.
func (e *env) entitiesOf(kind, name string) (all []control.Entity, err error) {
	err = e.ask(http.MethodGet, "/v1/registry", map[string][]string{"kind": {kind}, "name": {name}}, nil, &all)
	return all, err
}

type registryExportCmd struct{}

func (registryExportCmd) Run(e *env) error {
	all, err := e.entitiesOf("", "")
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	var list []*ostiary.Entity
	for _, x := range all {
		v, err := entityOf(&x)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	return registry.Write(e.stdout, list)
}

func entityOf(x *control.Entity) (*ostiary.Entity, error) {
	baseline, err := ostiary.ParseDigest(x.Baseline)
	if err != nil {
		return nil, about(x.Kind+" "+x.Name, err)
	}
	v := &ostiary.Entity{
		Kind: ostiary.EntityKind(x.Kind), Name: x.Name, Owner: ostiary.PrincipalID(x.Owner), Purpose: x.Purpose, Classes: x.Classes,
		Version: x.Version, Baseline: baseline, Zone: x.Zone, Retired: x.State == "retired",
	}
	for name, n := range x.Limits {
		registry.SetLimit(&v.Limits, name, n)
	}
	return v, nil
}

type registryListCmd struct {
	Kind string `arg:"" optional:"" help:"Only this kind: agent, person, service, host, tool, model, dataset or workflow."`
}

func (c *registryListCmd) Run(e *env) error {
	all, err := e.entitiesOf(c.Kind, "")
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(e.stdout, "Nothing is registered. Start with: ostiary registry set KIND NAME --owner person:NAME --purpose TEXT")
		return nil
	}
	var rows [][]string
	for _, x := range all {
		rows = append(rows, []string{x.Kind, x.Name, ownerOf(&x), dash(x.Version), dash(strings.Join(x.Classes, ",")), x.State, x.Purpose})
	}
	return e.table([]string{"KIND", "NAME", "OWNER", "VERSION", "CLASSES", "STATE", "PURPOSE"}, rows)
}

func ownerOf(x *control.Entity) string {
	if !x.Owned {
		return x.Owner + " (gone)"
	}
	return x.Owner
}

type registryShowCmd struct {
	Kind string `arg:"" help:"The kind: agent, person, service, host, tool, model, dataset or workflow."`
	Name string `arg:"" help:"The name; of a tool SERVER___TOOL."`
}

func (c *registryShowCmd) Run(e *env) error {
	all, err := e.entitiesOf(c.Kind, c.Name)
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return errors.New("the gateway did not answer with one entity")
	}
	if e.cli.JSON {
		return e.printJSON(all[0])
	}
	return e.showEntity(&all[0])
}

func (e *env) showEntity(x *control.Entity) error {
	v, err := entityOf(x)
	if err != nil {
		return err
	}
	line := func(name, text string) { fmt.Fprintf(e.stdout, "%-16s%s\n", name, show(text)) }
	line(x.Kind, x.Name)
	for _, f := range registry.Fields(v) {
		switch {
		case f[0] == "owner":
			line(f[0], ownerOf(x))
		case f[1] != "":
			line(f[0], f[1])
		}
	}
	line("edition", fmt.Sprintf("%d, by %s at %s", x.Edition, x.ChangedBy, when(x.Changed)))
	if x.Edition > 1 {
		line("registered", fmt.Sprintf("by %s at %s", x.CreatedBy, when(x.Created)))
	}
	return nil
}

type registrySetCmd struct {
	Kind     string           `arg:"" help:"The kind: agent, person, service, host, tool, model, dataset or workflow."`
	Name     string           `arg:"" help:"The name; of a tool SERVER___TOOL, of an agent as for agent join."`
	Owner    string           `placeholder:"KIND:NAME" help:"Who answers for it: person:NAME or organisation:NAME."`
	Purpose  string           `placeholder:"TEXT" help:"What it is for."`
	Class    []string         `placeholder:"NAME" help:"A data class it may have to do with, in place of those there are; may be repeated."`
	Limit    map[string]int64 `placeholder:"NAME=N" help:"A bound for policy: amount, calls, tokens, bytes or depth; may be repeated. 0 takes it away."`
	Version  string           `placeholder:"TEXT" help:"Its version."`
	Baseline string           `placeholder:"SHA256" help:"What its program, or a tool's definition, is to be: a digest; none takes it away."`
	Zone     string           `placeholder:"NAME" help:"Its zone, in place of where it was set up."`
	State    string           `placeholder:"STATE" enum:",active,retired" default:"" help:"active, or retired: refused."`
	Confirm  bool             `help:"Say again what is registered, with the same owner: who answers for it was asked."`
}

func (c *registrySetCmd) Run(e *env) error {
	t := control.EntityTerms{Kind: c.Kind, Name: c.Name}
	all, err := e.entitiesOf(c.Kind, c.Name)
	if ostiary.KindOf(err) == ostiary.NotFound {
		all, err = nil, nil
	}
	if err != nil {
		return err
	}
	if len(all) == 1 {
		x := all[0]
		t = control.EntityTerms{
			Kind: x.Kind, Name: x.Name, Owner: x.Owner, Purpose: x.Purpose, Classes: x.Classes, Limits: x.Limits, Version: x.Version,
			Baseline: x.Baseline, Zone: x.Zone, State: x.State, Edition: x.Edition,
		}
	}
	for _, f := range []struct{ to, from *string }{
		{&t.Owner, &c.Owner}, {&t.Purpose, &c.Purpose}, {&t.Version, &c.Version}, {&t.Baseline, &c.Baseline}, {&t.Zone, &c.Zone}, {&t.State, &c.State},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if c.Baseline == "none" {
		t.Baseline = ""
	}
	if len(c.Class) > 0 {
		t.Classes = c.Class
	}
	for name, n := range c.Limit {
		if t.Limits == nil {
			t.Limits = map[string]int64{}
		}
		t.Limits[name] = n
	}
	in := control.RegistryRequest{Entities: []control.EntityTerms{t}, Confirm: c.Confirm}
	var done control.RegistryChanges
	if err := e.ask(http.MethodPost, "/v1/registry", nil, in, &done); err != nil {
		return err
	}
	return e.changed(done)
}

// changed says what became of a change.
func (e *env) changed(done control.RegistryChanges) error {
	if e.cli.JSON {
		return e.printJSON(done)
	}
	printChanges(e.stdout, done.Changes)
	if len(done.Changes) == 0 {
		fmt.Fprintln(e.stdout, "Nothing to change: that is what is registered.")
	}
	return nil
}

type registryRemoveCmd struct {
	Kind string `arg:"" help:"The kind: agent, person, service, host, tool, model, dataset or workflow."`
	Name string `arg:"" help:"The name."`
}

func (c *registryRemoveCmd) Run(e *env) error {
	var done control.RegistryChanges
	if err := e.ask(http.MethodPost, "/v1/registry", nil, control.RegistryRequest{Gone: []control.EntityTerms{{Kind: c.Kind, Name: c.Name}}}, &done); err != nil {
		return err
	}
	return e.changed(done)
}
