package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

func itoa(i int) string { return strconv.Itoa(i) }

// detail is what an entry's payload says for people.
type detail struct {
	Kind, Code, Field, Text, By, Digest, Serial, Pin string

	Reasons  []ostiary.Reason
	Remedies []ostiary.Remedy
	Findings []ostiary.Finding
}

func detailOf(text string) (d detail) {
	if text != "" && json.Unmarshal([]byte(text), &d) != nil {
		d = detail{Text: text}
	}
	return d
}

// inputs is what policy knew of a call, as the gate recorded it.
type inputs struct {
	Method, Tool, URI, Protocol, Via, Zone, Posture, Containment string

	Bound     bool
	Chain     []string
	Roles     []string
	Taint     []string
	Satisfied []string
	Risk      *struct {
		Score int64
		Level string
	}
	Mandate *struct {
		Kind, By, Purpose, Expires string
		Links                      []string
		Actions, Resources         []string
	}
	Digest string `json:"action_digest"`
}

// storyPage is one action whole, or one change.
type storyPage struct {
	Changes   bool
	First     line
	ID        string
	Log       string
	Sealed    bool
	Arguments arguments
	Server    string
	Why       []reason
	Text      Foreign // the refusal, or what a change was
	Field     Foreign
	Remedies  []ostiary.Remedy
	Findings  []ostiary.Finding
	Near      []control.NearMiss
	Shadow    *control.Shadow
	Words     string // the explanation, in the words of the command line
	Facts     []pair // what policy knew, and what was recorded
	Digests   []pair
	Chain     []Foreign
	Mandate   string
	Session   string
	Tainted   []Foreign
	Steps     []step
	Running   bool
	Snapshot  uint64
	Checked   *checked
	Command   string
	Decision  string // "permit", "deny", "" if nothing was decided
	Base      string // address of the page
	Reads     bool
}

type reason struct{ Policy, Text, Where string }

type pair struct {
	Name  string
	Value Foreign
	Ours  bool // the value is a word of ours
}

// step is one entry of an action's story.
type step struct {
	Ref, Link, Kind string
	State           string
	After           string
	Result          string
	Bytes           int64
	Action          Foreign // of a call inside this one
}

// checked is what verifying the inclusion proof said.
type checked struct {
	control.Proved
	At time.Time
	OK bool
}

func (c *Console) story(x *exchange) error  { return c.oneEntry(x, false) }
func (c *Console) change(x *exchange) error { return c.oneEntry(x, true) }

func (c *Console) oneEntry(x *exchange, changes bool) error {
	ctx := x.r.Context()
	ref, base := x.ref(), "log"
	q := url.Values{"entry": {ref}}
	if changes {
		q.Set("log", "deployment")
		base = "changes"
	}
	s, err := c.o.Desk.Story(ctx, q)
	if err != nil {
		return noEntry(err)
	}
	p := tell(s, base)
	if first := s.Entries[0]; !changes && first.Snapshot > 0 {
		if e, err := c.o.Desk.Explain(ctx, first.Ref); err == nil {
			p.Near, p.Shadow, p.Words = e.Near, e.Shadow, e.Text
		}
	}
	if x.r.URL.Query().Get("verify") == "now" {
		if p.Checked, err = c.check(ctx, changes, s.Entries[0].Ref); err != nil {
			return err
		}
	}
	return c.show(x, http.StatusOK, "story", "Entry "+s.Entries[0].Ref, frame{Page: "log", Content: p})
}

// ref is the entry an address names.
func (x *exchange) ref() string { return x.r.PathValue("month") + "/" + x.r.PathValue("index") }

// noEntry says one thing of every entry that is not there.
func noEntry(err error) error {
	if k := ostiary.KindOf(err); k == ostiary.NotFound || k == ostiary.Malformed {
		return ostiary.Errorf(ostiary.NotFound, "no_entry", "there is no such entry in the log")
	}
	return err
}

// check is done on a GET, since it changes nothing.
func (c *Console) check(ctx context.Context, changes bool, ref string) (*checked, error) {
	p, err := c.o.Desk.Check(ctx, changes, ref)
	if err != nil {
		return nil, err
	}
	return &checked{p, c.o.Clock(), p.Fault == ""}, nil
}

func (c *Console) proof(x *exchange) error       { return c.proofFile(x, false) }
func (c *Console) changeProof(x *exchange) error { return c.proofFile(x, true) }

// proofFile is the proof as a file, for whoever verifies it elsewhere.
func (c *Console) proofFile(x *exchange, changes bool) error {
	p, err := c.o.Desk.Check(x.r.Context(), changes, x.ref())
	if err != nil {
		return noEntry(err)
	}
	x.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.w.Header().Set("Content-Disposition", `attachment; filename="`+strings.ReplaceAll(x.r.PathValue("month"), `"`, "")+"-"+itoa(int(p.Index))+`.tlog-proof"`)
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(p.Proof)
	return nil
}

// tell turns an action's entries into its story.
func tell(s control.Story, base string) storyPage {
	first := &s.Entries[0]
	last := first
	for i := range s.Entries {
		if e := &s.Entries[i]; e.Kind == "outcome" && (e.Answers == first.ID || e.ID == first.ID) {
			last = e
		}
	}
	p := storyPage{
		Changes: base == "changes", First: lineOf(first, base), ID: first.ID, Log: first.Log, Sealed: first.Sealed, Arguments: readArguments([]byte(first.Arguments)), Server: first.Server,
		Mandate: first.Mandate, Session: first.Session, Snapshot: first.Snapshot, Running: first.Kind == "intent" && last == first, Decision: first.Decision,
		Base: "/" + base + "/" + first.Ref, Command: "ostiary log show " + first.Ref,
	}
	if p.Changes {
		p.Command += " --changes"
	}
	p.First.State = fate(last)
	if last.Code != "permit" && last.Code != "ok" {
		p.First.Code = last.Code
	}
	d := detailOf(last.Detail)
	p.Text, p.Field, p.Remedies, p.Findings = NewForeign(d.Text), NewForeign(d.Field), d.Remedies, d.Findings
	told := map[string]bool{}
	for _, r := range d.Reasons {
		told[r.Policy] = true
		p.Why = append(p.Why, reason(r))
	}
	for _, id := range first.Policies {
		if !told[id] {
			p.Why = append(p.Why, reason{Policy: id})
		}
	}
	if d.By != "" {
		p.Facts = append(p.Facts, pair{"By", NewForeign(d.By), false})
	}
	p.digest("Digest", d.Digest)
	p.digest("Pin", d.Pin)
	p.digest("Serial number", d.Serial)
	p.know(first)
	for i := range s.Entries {
		p.Steps = append(p.Steps, stepOf(first, &s.Entries[i], base))
	}
	return p
}

// know adds what policy knew.
func (p *storyPage) know(e *control.Entry) {
	var in inputs
	if e.Inputs == "" || json.Unmarshal([]byte(e.Inputs), &in) != nil {
		return
	}
	if len(in.Chain) > 1 {
		for _, a := range append([]string{e.Principal}, in.Chain...) {
			p.Chain = append(p.Chain, NewForeign(shortName(a)))
		}
	}
	for _, t := range in.Taint {
		p.Tainted = append(p.Tainted, NewForeign(t))
	}
	add := func(name, text string) {
		if text != "" {
			p.Facts = append(p.Facts, pair{name, NewForeign(text), name != "URI" && name != "Purpose" && name != "Method" && name != "Protocol"})
		}
	}
	add("Method", in.Method)
	add("URI", in.URI)
	add("Protocol", in.Protocol)
	add("Credential", via(in.Via, in.Bound))
	add("Zone", in.Zone)
	add("Roles", strings.Join(in.Roles, ", "))
	add("Posture", in.Posture)
	add("Containment", in.Containment)
	if in.Risk != nil {
		add("Risk", strconv.FormatInt(in.Risk.Score, 10)+", "+in.Risk.Level)
	}
	if m := in.Mandate; m != nil {
		add("Mandate", strings.ReplaceAll(m.Kind, "_", "-")+", given by "+m.By)
		add("Purpose", m.Purpose)
	}
	add("Consent", strings.Join(in.Satisfied, ", "))
	p.digest("Definition", e.Pin)
	p.digest("Action", in.Digest)
}

func (p *storyPage) digest(name, text string) {
	if text != "" {
		p.Digests = append(p.Digests, pair{name, NewForeign(text), true})
	}
}

func via(word string, bound bool) string {
	how := map[string]string{"svid": "a certificate of its own", "token": "a bearer token", "self": "the gateway itself", "held": "held, and confirmed again"}[word]
	switch {
	case how == "":
		return ""
	case bound || word == "self":
		return how
	}
	return how + ", bound to no key"
}

// shortName is an agent's last segment, or a principal as it is.
func shortName(id string) string {
	if strings.HasPrefix(id, "spiffe://") {
		return ostiary.AgentID(id).Name()
	}
	return id
}

func stepOf(first, e *control.Entry, base string) step {
	out := step{Ref: e.Ref, Link: "/" + base + "/" + e.Ref, Kind: e.Kind, State: fate(e), Bytes: e.ResultLen, Result: e.Result}
	if e.Kind == "intent" {
		out.State = e.Kind
	}
	if e != first {
		out.After = span(e.Time.Sub(first.Time)) + " later"
		if e.Kind == "intent" || e.Answers == "" {
			out.Action = NewForeign(e.Action)
		}
	}
	return out
}
