package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	origins "github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/strictjson"
)

type toolsLabelCmd struct {
	FromSchema string `name:"from-schema" placeholder:"FILE" help:"A list of tools as a server offers it, instead of the accepted ones: {\"tools\": [...]} or [...]. No gateway is needed."`
	Server     string `placeholder:"NAME" help:"Only this server's tools; with --from-schema, the name of the server they are of."`
	Out        string `placeholder:"FILE" help:"Write the proposal to a file that does not exist yet. Without it, to stdout."`
}

// maxToolList bounds a file of definitions.
const maxToolList = 16 << 20

func (c *toolsLabelCmd) Run(e *env) error {
	tools, err := c.tools(e)
	if err != nil {
		return err
	}
	if len(tools) == 0 {
		return ostiary.Errorf(ostiary.NotFound, "no_tools", "there are no tools to label; accept some with \"ostiary tools pin\", or name a file with --from-schema")
	}
	text := origins.Propose(tools)
	switch {
	case c.Out != "":
		f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return ostiary.Errorf(ostiary.Conflict, "exists", "cannot write %s: %v", c.Out, err)
		}
		if _, err := f.Write(text); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if e.cli.JSON {
			return e.printJSON(map[string]string{"wrote": c.Out})
		}
		fmt.Fprintf(e.stdout, "wrote %s, a proposal for %d tools. Read it, correct it, put it into the policy folder as %s, and publish it with: ostiary policy load\n", c.Out, len(tools), origins.LabelsFile)
		return nil
	case e.cli.JSON:
		return e.printJSON(map[string]string{"labels": string(text)})
	}
	_, err = e.stdout.Write(text)
	return err
}

func (c *toolsLabelCmd) tools(e *env) ([]*ostiary.Tool, error) {
	if c.FromSchema != "" {
		return c.fromSchema()
	}
	all, err := e.acceptedTools()
	if err != nil {
		return nil, err
	}
	var out []*ostiary.Tool
	for _, t := range all {
		if t.Kind == catalog.KindTool && (c.Server == "" || t.Server == c.Server) {
			out = append(out, t)
		}
	}
	return out, nil
}

func (c *toolsLabelCmd) fromSchema() ([]*ostiary.Tool, error) {
	f, err := os.Open(c.FromSchema)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "from_schema", "cannot read %s: %v", c.FromSchema, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToolList+1))
	if err != nil || len(b) > maxToolList {
		return nil, ostiary.Errorf(ostiary.Malformed, "from_schema", "%s cannot be read, or is larger than %d MiB", c.FromSchema, maxToolList>>20).Because(err)
	}
	doc, err := strictjson.Parse(b, strictjson.Reply)
	if err != nil {
		return nil, about(c.FromSchema, err)
	}
	list, server := doc.Root(), c.Server
	if list.Kind() == ostiary.Object {
		if s := list.Get("suite").Text(); server == "" && s != "" {
			server = s
		}
		list = list.Get("tools")
	}
	if list.Kind() != ostiary.Array {
		return nil, ostiary.Errorf(ostiary.Malformed, "from_schema", "%s holds no list of tools: write {\"tools\": [...]} or [...]", c.FromSchema)
	}
	if server == "" || strings.Contains(server, "___") {
		return nil, ostiary.Errorf(ostiary.Malformed, "server", "say of which server these tools are, by its name in the configuration: --server NAME")
	}
	var out []*ostiary.Tool
	for _, d := range list.Elements() {
		t := catalog.ParseDefinition(server, catalog.KindTool, d)
		out = append(out, &t)
	}
	return out, nil
}
