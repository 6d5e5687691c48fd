package demo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ostiary/ostiary/internal/catalog"
)

// width is how wide the story may be; a terminal is at least that wide where
// people read.
const width = 100

// printer tells the story. Everything foreign goes through catalog.Show, so
// that no server can move the cursor or hide letters. After a failed write it
// writes no more and keeps the error.
type printer struct {
	out    io.Writer
	colour bool
	err    error
}

const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	faint = "\x1b[2m"
)

func (p *printer) paint(colour, s string) string {
	if !p.colour {
		return s
	}
	return colour + s + "\x1b[0m"
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

func (p *printer) opening() {
	p.line("")
	p.line("%s", p.paint(bold, "  Ostiary: one agent, one gate, one action at a time, on disk before it happens"))
	p.line("")
	for _, l := range strings.Split(strings.Trim(picture, "\n"), "\n") {
		p.line("  %s", l)
	}
	p.line("")
}

const picture = `
             MCP           +-----------------------------+       signed
  agent  ------------->    |  who asks?  may it?  write  |    ----------->   bank       (HTTP)
         <-------------    |  it down, then let it pass  |    ----------->   inbox      (HTTP)
          or a reason      +--------------+--------------+    ----------->   documents  (stdio)
                                          |
                                          v
                                 the log, verifiable
`

func (p *printer) scene(n int, title string) {
	p.line("%s", p.paint(bold, fmt.Sprintf("%d. %s", n, title)))
}

// column is where the text of a line begins.
const column = 14

// say prints one named line, wrapped to the width.
func (p *printer) say(name, format string, args ...any) {
	text := catalog.Show(fmt.Sprintf(format, args...))
	for i, l := range wrap(text, width-column) {
		if i > 0 {
			name = ""
		}
		p.line("   %-*s%s", column-3, name, p.tint(name, l))
	}
}

// tint colours the word that tells what happened.
func (p *printer) tint(name, l string) string {
	if name != "happened" {
		return l
	}
	for word, colour := range map[string]string{"allowed": green, "verified": green, "refused": red} {
		if rest, ok := strings.CutPrefix(l, word); ok {
			return p.paint(colour, word) + rest
		}
	}
	return l
}

// wrap breaks text at spaces into lines of at most n characters. A longer
// word is cut.
func wrap(text string, n int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		for r := []rune(word); len(r) > 0; {
			last := &lines[len(lines)-1]
			room := n - len([]rune(*last)) - 1
			switch {
			case *last == "":
				cut := min(len(r), n)
				*last, r = string(r[:cut]), r[cut:]
			case len(r) <= room:
				*last, r = *last+" "+string(r), nil
			default:
				lines = append(lines, "")
			}
		}
	}
	return lines
}

func fate(a answer) string {
	if a.Refused {
		return "refused"
	}
	return "allowed"
}

// permitted prints the reason and number of a permitted action's Intent.
func (p *printer) permitted(e entry) {
	p.say("reason", "policy %s permits it (snapshot %d)", strings.Join(e.Policies, ", "), e.Snapshot)
	p.say("entry", "%s, written before the call left", e.Ref)
}

// refused prints a refusal with its reason, remedy and entry, and checks that
// the log has it.
func (p *printer) refused(ctx context.Context, s *Story, a answer) error {
	if !a.Refused {
		p.say("happened", "allowed: %s", a.Text)
		return fmt.Errorf("it was not refused")
	}
	words, _, _ := strings.Cut(strings.TrimPrefix(a.Text, "Refused: "), " Reason: ")
	words, _, _ = strings.Cut(words, " Entry ")
	p.say("happened", "refused: %s", words)
	for _, r := range a.Reasons {
		p.say("reason", "policy %s", r)
	}
	if len(a.Reasons) == 0 {
		p.say("reason", "%s", strings.TrimSuffix(a.Code+" at "+a.Field, " at "))
	}
	if len(a.Remedies) > 0 {
		p.say("remedy", "%s would change it", strings.Join(a.Remedies, ", "))
	}
	if a.Entry == "" {
		return fmt.Errorf("the refusal names no entry")
	}
	e, err := s.read(ctx, a.Entry)
	if err != nil {
		return err
	}
	p.say("entry", "%s, %s", a.Entry, e.Disposition)
	if e.Kind != "outcome" || e.Disposition != "refused" {
		return fmt.Errorf("entry %s is an %s: %s", a.Entry, e.Kind, e.Disposition)
	}
	return nil
}

// maxDiff is how many lines of a difference the story shows.
const maxDiff = 6

// diff prints the changed lines of a definition, cut to the width.
func (p *printer) diff(text string) {
	name, shown := "difference", 0
	for l := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(l, "+") && !strings.HasPrefix(l, "-") {
			continue
		}
		if shown++; shown > maxDiff {
			p.say("", "(ostiary tools diff inbox read_message shows all of it)")
			return
		}
		r := []rune(catalog.Show(l[:1] + " " + strings.TrimLeft(l[1:], " ")))
		if len(r) > width-column {
			r = append(r[:width-column-1], '…')
		}
		p.line("   %-*s%s", column-3, name, string(r))
		name = ""
	}
}

func (p *printer) ended(d time.Duration, err error) {
	if err != nil {
		p.say("NOT AS TOLD", "%v", err)
	}
	p.line("   %s", p.paint(faint, fmt.Sprintf("%*s", width-4, d.Round(100*time.Microsecond))))
}

func (p *printer) closing(scenes, failed int, _ error) {
	if failed == 0 {
		p.line("%s", p.paint(bold, fmt.Sprintf("All %d steps came out as told.", scenes)))
	} else {
		p.line("%s", p.paint(red, fmt.Sprintf("%d of %d steps did not come out as told.", failed, scenes)))
	}
	p.line("")
}

// Invitation is what a person needs to use the running demo.
type Invitation struct {
	Endpoint string   // "http://127.0.0.1:8080/mcp"
	Console  string   // one-time link of the console's first operator; "" if there is none
	Token    string   // a bearer token; "" if none was minted
	Expires  string   // when the token ends, for people
	Bridge   []string // the command that bridges a client which can send no credentials; nil if there is none
	Config   string   // path of the configuration, for the other commands
	Program  string   // how to start this program: its path, or "go run ./cmd/ostiary"; "" is "ostiary"
}

// Invite prints how to point one's own MCP client at the running demo.
func Invite(w io.Writer, i Invitation) error {
	p := &printer{out: w}
	p.line("The demo stays up until you press Ctrl-C, and the agent goes on with its day.")
	if i.Console != "" {
		p.line("Watch it in the console. The link works once; your device makes a passkey:")
		p.line("")
		p.line("   %s", i.Console)
		p.line("")
	}
	p.line("Point your own MCP client at it:")
	p.line("")
	p.line("   endpoint    %s", i.Endpoint)
	if i.Token != "" {
		p.line("   header      Authorization: Bearer %s", i.Token)
		p.line("   valid       until %s; whoever holds it is the demo's agent", i.Expires)
	}
	if len(i.Bridge) > 0 {
		p.line("")
		p.line("A client that starts its servers by a command, and sends no credentials, uses the bridge:")
		p.line("")
		p.line("   %s", strings.Join(i.Bridge, " "))
	}
	if i.Config != "" {
		p.line("")
		p.line("And look at what happened:")
		p.line("")
		p.line("   %s --config %s log", cmp.Or(i.Program, "ostiary"), i.Config)
		p.line("   %s --config %s tools list", cmp.Or(i.Program, "ostiary"), i.Config)
	}
	p.line("")
	return p.err
}
