package console

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// policyPage is which rules hold, and what would change if the folder were
// published.
type policyPage struct {
	control.PolicyState
	Files    []policyFile
	Trouble  []policyTrouble
	Changed  int // files that the folder has otherwise
	Shadow   *control.ShadowSummary
	Changes  bool
	Ready    bool // the folder can be published
	Errors   int
	Warnings int
}

// policyTrouble is a problem of the folder; its words quote what stands there.
type policyTrouble struct {
	control.PolicyProblem
	Says, Try Foreign
}

type policyFile struct {
	Name   string
	Shown  []policyLine // as it is enforced
	Diff   []policyLine // how the folder differs, nil if it does not
	New    bool         // only the folder has it
	Gone   bool         // only the snapshot has it
	Test   bool
	Shadow bool
	Link   string
}

// policyLine is a line of a file. Policies are written by operators.
type policyLine struct {
	N    int // 0 for a line of the folder
	Mark string
	Text Foreign
	ID   string // of the policy that begins here
}

// shadowLooked is how far back the page asks what the candidates would have
// changed.
const shadowLooked = 24 * time.Hour

func (c *Console) policy(x *exchange) error {
	p := policyPage{PolicyState: c.o.Desk.Policy(), Changes: working.admits(x.who())}
	for _, f := range p.PolicyState.Files {
		out := policyFile{Name: f.Name, New: f.Active == "", Gone: f.Folder == "" && p.Failed != "there is no policy folder", Test: strings.HasPrefix(f.Name, "tests/"), Shadow: strings.HasPrefix(f.Name, "shadow/")}
		if out.Test && f.Active == "" {
			continue // tests are never part of a snapshot
		}
		out.Shown = policyLines(f.Active)
		if f.Active != f.Folder {
			p.Changed++
			for _, l := range difference(f.Active, f.Folder) {
				out.Diff = append(out.Diff, policyLine{Mark: l.Mark, Text: l.Text})
			}
		}
		p.Files = append(p.Files, out)
	}
	for _, problem := range p.Problems {
		p.Trouble = append(p.Trouble, policyTrouble{problem, NewForeign(problem.Message), NewForeign(problem.Suggestion)})
		if problem.Severity == "error" {
			p.Errors++
		} else {
			p.Warnings++
		}
	}
	p.Ready = p.Failed == "" && p.Changed > 0
	if p.Candidates > 0 {
		s, err := c.o.Desk.Shadow(x.r.Context(), url.Values{"since": {c.o.Clock().Add(-shadowLooked).UTC().Format(time.RFC3339)}})
		if err != nil {
			return err
		}
		p.Shadow = &s
	}
	return c.show(x, http.StatusOK, "policy", "Policy", frame{Page: "policy", Content: p})
}

var policyID = regexp.MustCompile(`@id\("([A-Za-z0-9._-]+)"\)`)

func policyLines(text string) (out []policyLine) {
	n := 0
	for l := range strings.Lines(text) {
		n++
		line := policyLine{N: n, Text: NewForeign(strings.TrimRight(l, "\r\n"))}
		if m := policyID.FindStringSubmatch(l); m != nil {
			line.ID = m[1]
		}
		out = append(out, line)
	}
	return out
}

// publish makes the folder the next snapshot.
func (c *Console) publish(x *exchange) error {
	p, err := c.o.Desk.Publish(x.r.Context())
	if err != nil {
		return err
	}
	if !p.Changed {
		return ostiary.Errorf(ostiary.Conflict, "policy_same", "the folder says what is in force already; snapshot %d stays", p.Number)
	}
	return x.redirect("/policy")
}
