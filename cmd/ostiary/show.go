package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

type logShowCmd struct {
	Entry   string `arg:"" help:"The entry: 2026-11/1234, or 1234 in the newest log."`
	Proof   bool   `help:"Print the entry's inclusion proof (C2SP tlog-proof) instead."`
	Changes bool   `help:"Of the deployment's log."`
}

func (c *logShowCmd) Run(e *env) error {
	if _, err := ostiary.ParseEntryRef(c.Entry); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "entry", "%v", err)
	}
	var s control.Story
	q := url.Values{"entry": {c.Entry}}
	if c.Changes {
		q.Set("log", "deployment")
	}
	if err := e.ask(http.MethodGet, "/v1/log/entry", q, nil, &s); err != nil {
		return err
	}
	switch {
	case c.Proof && e.cli.JSON:
		return e.printJSON(map[string]string{"entry": s.Entries[0].Ref, "proof": s.Proof})
	case c.Proof:
		fmt.Fprint(e.stdout, s.Proof)
		return nil
	case e.cli.JSON:
		return e.printJSON(s)
	}
	tell(e, s, c.Changes)
	return nil
}

// The widest parts of a story on a terminal; --json has all of them.
const (
	maxShownArguments = 4 << 10 // bytes of arguments
	factsWidth        = 100     // characters of a line of facts
)

// teller writes the lines of a story, each under a name.
type teller struct{ w io.Writer }

func (t teller) line(name, format string, a ...any) {
	fmt.Fprintf(t.w, "%-12s%s\n", name, show(strings.TrimSpace(fmt.Sprintf(format, a...))))
}

// tell writes one action as a story for people.
func tell(e *env, s control.Story, change bool) {
	t := teller{e.stdout}
	first := s.Entries[0]
	last := first
	for _, x := range s.Entries {
		if x.Kind == "outcome" && (x.Answers == first.ID || x.ID == first.ID) {
			last = x
		}
	}
	t.line("entry", "%s of %s, %s", first.Ref, first.Log, first.Kind)
	t.line("when", "%s", first.Time.Local().Format(time.RFC3339Nano))
	t.who(&first)
	if first.Action != "" && first.Server != "" {
		t.line("what", "%s on %s", first.Action, first.Server)
	} else if first.Action != "" {
		t.line("what", "%s", first.Action)
	}
	if n := len(first.Arguments); n > maxShownArguments {
		t.line("arguments", "%s… (%d bytes; --json has all)", strings.ToValidUTF8(first.Arguments[:maxShownArguments], ""), n)
	} else if n > 0 {
		t.line("arguments", "%s", first.Arguments)
	}
	if first.Kind == "intent" || first.Kind == "outcome" {
		code := ""
		if last.Code != first.Decision && last.Code != "" {
			code = " (" + last.Code + ")"
		}
		t.line("decision", "%s%s, snapshot %d", first.Decision, code, first.Snapshot)
	}
	t.detail(last.Detail, first.Policies)
	t.right(&first)
	t.facts(first.Inputs)
	t.then(s.Entries)
	if first.Sealed {
		t.line("sealed", "the payload's key is gone; the proof still holds")
	}
	flag := ""
	if change {
		flag = " --changes"
	}
	t.line("proof", "ostiary log show %s%s --proof", first.Ref, flag)
}

func (t teller) who(x *control.Entry) {
	if x.Agent == "" {
		return
	}
	text := x.Agent
	if x.Principal != "" {
		text += ", for " + x.Principal
	}
	if x.Mandate != "" {
		text += ", under mandate " + x.Mandate
	}
	t.line("who", "%s", text)
}

// then tells what followed the first entry.
func (t teller) then(entries []control.Entry) {
	first := entries[0]
	for _, x := range entries[1:] {
		text := fmt.Sprintf("%s %s %s", x.Ref, x.Kind, x.Disposition)
		if x.ResultLen > 0 {
			text += fmt.Sprintf(", %d bytes of result, sha-256 %s", x.ResultLen, x.Result[:min(12, len(x.Result))])
		}
		if x.Kind == "intent" {
			text += x.Action + " (inside this one)"
		}
		t.line("then", "%s (%s later)", text, x.Time.Sub(first.Time).Round(time.Microsecond))
	}
	if first.Kind == "intent" && len(entries) == 1 {
		t.line("then", "no outcome yet: it is running, or the gateway stopped before it ended")
	}
}

// detail prints the refusal as it was explained to the caller, or what a
// change was. Policies that gave no reason are named alone.
func (t teller) detail(detail string, policies []string) {
	var d struct {
		Kind, Code, Field, Text, By, Digest, Serial, Pin string

		Reasons  []ostiary.Reason
		Remedies []ostiary.Remedy
		Findings []ostiary.Finding
	}
	if detail != "" && json.Unmarshal([]byte(detail), &d) != nil {
		t.line("detail", "%s", detail)
	}
	for _, x := range []struct{ name, text string }{{"by", d.By}, {"digest", d.Digest}, {"pin", d.Pin}, {"serial", d.Serial}} {
		if x.text != "" {
			t.line(x.name, "%s", x.text)
		}
	}
	if d.Text != "" && d.Field != "" {
		d.Text += " (at " + d.Field + ")"
	}
	if d.Text != "" {
		t.line("why", "%s", d.Text)
	}
	told := map[string]bool{}
	for _, r := range d.Reasons {
		told[r.Policy] = true
		text := r.Policy
		if r.Text != "" {
			text += ": " + r.Text
		}
		if r.Where != "" {
			text += " (" + r.Where + ")"
		}
		t.line("policy", "%s", text)
	}
	for _, id := range policies {
		if !told[id] {
			t.line("policy", "%s", id)
		}
	}
	for _, r := range d.Remedies {
		t.line("remedy", "%s would discharge %s", r.Fact, r.Policy)
	}
	for _, f := range d.Findings {
		t.line("finding", "%s at %s", f.Kind, f.Field)
	}
}

// facts prints what policy knew as name=value, several to a line.
func (t teller) facts(inputs string) {
	var m map[string]any
	if inputs == "" || json.Unmarshal([]byte(inputs), &m) != nil {
		return
	}
	t.near(inputs)
	delete(m, "near")
	delete(m, "mandate")
	delete(m, "chain")
	delete(m, "shadow")
	flat := map[string]string{}
	flatten(flat, "", m)
	name, line := "facts", ""
	for _, k := range slices.Sorted(maps.Keys(flat)) {
		word := k + "=" + flat[k]
		if line != "" && len(line)+1+len(word) > factsWidth {
			t.line(name, "%s", line)
			name, line = "", ""
		}
		line += " " + word
	}
	t.line(name, "%s", line)
}

// right prints the chain a call was made under, and what it allowed in all.
func (t teller) right(x *control.Entry) {
	var in struct {
		Chain   []string
		Mandate *struct {
			Kind, By, Purpose  string
			Links              []string
			Actions, Resources []string
			Within             [][]string
			Ceilings           []struct{ Action, Pointer, Max, Unit string }
			Expires            string
			More               bool
		}
	}
	if json.Unmarshal([]byte(x.Inputs), &in) != nil {
		return
	}
	if len(in.Chain) > 1 {
		t.line("chain", "%s", strings.Join(append([]string{x.Principal}, in.Chain...), " > "))
	}
	m := in.Mandate
	if m == nil {
		return
	}
	if len(m.Links) > 0 {
		t.line("mandates", "%s", strings.Join(m.Links, " > "))
	}
	text := fmt.Sprintf("%s given by %s: %s on %s", strings.ReplaceAll(m.Kind, "_", "-"), m.By, strings.Join(m.Actions, ", "), strings.Join(m.Resources, ", "))
	for _, l := range m.Within {
		text += ", each also in " + strings.Join(l, ", ")
	}
	for _, c := range m.Ceilings {
		text += fmt.Sprintf("; %s %s at most %s", c.Action, c.Pointer, strings.TrimSpace(c.Max+" "+c.Unit))
	}
	if m.More {
		text += "; and more, see: ostiary mandate show " + x.Mandate
	}
	t.line("right", "%s; until %s", text, m.Expires)
}

// near prints the permits that nearly held, and what the candidates in shadow/
// would have done.
func (t teller) near(inputs string) {
	var in struct {
		Near   []control.NearMiss
		Shadow *control.Shadow
	}
	if json.Unmarshal([]byte(inputs), &in) != nil {
		return
	}
	for _, n := range in.Near {
		t.line("near", "%s would permit it but for: %s (%s)", n.Policy, n.Failed, n.Where)
	}
	if s := in.Shadow; s != nil {
		t.line("shadow", "%s by %s, had the candidates been enforced", s.Outcome, strings.Join(s.Policies, ", "))
	}
}

// whole keeps a name that an agent may have chosen from passing for several
// columns or facts.
func whole(v string) string {
	if strings.ContainsFunc(v, unicode.IsSpace) || strings.ContainsAny(v, `="`) {
		return strconv.Quote(v)
	}
	return v
}

// flatten writes nested members under dotted names.
func flatten(out map[string]string, prefix string, v any) {
	if m, ok := v.(map[string]any); ok {
		for k, x := range m {
			flatten(out, strings.TrimPrefix(prefix+"."+k, "."), x)
		}
		return
	}
	if s, ok := v.(string); ok {
		out[prefix] = whole(s)
		return
	}
	b, err := json.Marshal(v)
	if err != nil { // it came from JSON
		return
	}
	out[prefix] = string(b)
}
