package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md anew")

const reference = "../../docs/reference/cli.md"

// TestReference keeps the reference what the program is.
func TestReference(t *testing.T) {
	var c cli
	parser, err := newParser(&c, &bytes.Buffer{}, &bytes.Buffer{}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	got := describe(parser.Model)
	if *update {
		if err := os.WriteFile(reference, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/reference/cli.md is not what the program says of itself; write it with: go test ./cmd/ostiary -run TestReference -update")
	}
	if n := strings.Count(got, "\n## "); n < 15 {
		t.Errorf("only %d commands", n)
	}
}

// describe writes the whole command line as Markdown.
func describe(app *kong.Application) string {
	var b strings.Builder
	b.WriteString(`# Commands

<!-- Written by: go test ./cmd/ostiary -run TestReference -update -->

` + "`ostiary serve`" + ` is the gateway. The other commands are clients of its control socket ([api.md](api.md)), or work on files
alone: ` + "`serve --check`, `log verify`, `version`, `connect`" + `, and ` + "`policy init` and `policy check`" + ` as far as they can without it.

Exit status 0 means done, 1 refused or failed, 2 used wrongly. Results go to standard output, everything else to standard error. With
` + "`--json`" + ` the output is JSON with lower-case names that stay as they are: one value, or for lists of the log one object a line.

Flags of every command:

`)
	flags(&b, app.Node.Flags)
	for _, n := range app.Leaves(true) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", n.FullPath(), n.Help)
		var usage []string
		for _, p := range n.Positional {
			usage = append(usage, p.Summary())
		}
		fmt.Fprintf(&b, "\n    %s\n", strings.Join(append([]string{n.FullPath()}, append(usage, "[flags]")...), " "))
		if len(n.Positional)+len(n.Flags) > 0 {
			b.WriteByte('\n')
		}
		for _, p := range n.Positional {
			fmt.Fprintf(&b, "- `%s`: %s\n", p.Summary(), help(p))
		}
		flags(&b, n.Flags)
	}
	return b.String()
}

func flags(b *strings.Builder, list []*kong.Flag) {
	for _, f := range list {
		if f.Hidden {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += "=" + f.FormatPlaceHolder()
		}
		required := ""
		if f.Required {
			required = "Required. "
		}
		fmt.Fprintf(b, "- `%s`: %s%s\n", name, required, help(f.Value))
	}
}

func help(v *kong.Value) string {
	text := strings.ReplaceAll(v.Help, "${default}", v.Default)
	if env := v.Tag.Envs; len(env) > 0 {
		text += " Also from the environment: `" + strings.Join(env, "`, `") + "`."
	}
	return text
}

// TestExit checks how the program ends without a gateway.
func TestExit(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tc := range []struct {
		args string
		want int
		says string
	}{
		{"", 0, "Usage: ostiary"},
		{"--help", 0, "Usage: ostiary"},
		{"version", 0, "ostiary "},
		{"statsu", 2, `did you mean "status"`},
		{"log --decision maybe", 2, `must be one of "permit","deny"`},
		{"agent revoke x", 2, "ostiary agent revoke --help"},
		{"status", 1, "cannot read the configuration"},
		{"--socket /nowhere/control.sock status", 1, "start one with"},
	} {
		var out, errs bytes.Buffer
		got := run(t.Context(), strings.Fields(tc.args), strings.NewReader(""), &out, &errs)
		if got != tc.want || !strings.Contains(out.String()+errs.String(), tc.says) {
			t.Errorf("ostiary %s: %d\n%s%s", tc.args, got, &out, &errs)
		}
	}
}

func TestGrid(t *testing.T) {
	var b bytes.Buffer
	g := grid{w: &b, widths: []int{5}}
	g.print([]string{"A", "B", "C"}, [][]string{{"1", "héé", "x\x1b[2J"}})
	g.print(nil, [][]string{{"1", "2", "3"}})
	want := "A      B    C\n1      héé  x<U+001B>[2J\n1      2    3\n"
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

// A text that the gateway made safe already is not marked again.
func TestShow(t *testing.T) {
	for in, want := range map[string]string{
		"plain <b>":          "plain <b>",
		"holds <U+200B> now": "holds <U+200B> now",
		"<U+200B>\u200b":     "<U+003C>U+200B><U+200B>",
		"a\nb":               "a<U+000A>b",
	} {
		if got := show(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
