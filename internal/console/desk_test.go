package console

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/people"
)

// bureau is a Desk by hand: what operators look at.
type bureau struct {
	entries  []control.Entry // newest first
	story    control.Story
	changes  control.Story
	agents   []control.Agent
	levels   []control.Containment
	unknown  error // of what is contained
	tools    []control.Tool
	diff     string
	policy   control.PolicyState
	shadow   control.ShadowSummary
	status   control.Status
	mandates []control.Mandate
	fault    string // of a proof

	asked     []url.Values
	contained []control.ContainRequest
	accepted  []control.ToolRequest
	published int
}

func (b *bureau) Find(_ context.Context, q url.Values) (control.Listing, error) {
	b.asked = append(b.asked, q)
	out := control.Listing{Indexed: uint64(len(b.entries)), Size: uint64(len(b.entries))}
	for _, e := range b.entries {
		if a := q.Get("agent"); a == "" || a == e.Agent || a == ostiary.AgentID(e.Agent).Name() {
			out.Entries = append(out.Entries, e)
		}
	}
	return out, nil
}

func (b *bureau) Story(_ context.Context, q url.Values) (control.Story, error) {
	s := b.story
	if q.Get("log") == "deployment" {
		s = b.changes
	}
	if len(s.Entries) == 0 || s.Entries[0].Ref != q.Get("entry") {
		return control.Story{}, ostiary.Errorf(ostiary.NotFound, "no_entry", "no")
	}
	return s, nil
}

func (b *bureau) Explain(context.Context, string) (control.Explanation, error) {
	return control.Explanation{Text: strings.Join(hostile, "\n"), Near: []control.NearMiss{{Policy: "p", Where: "a.cedar:1", Failed: hostile[0]}}}, nil
}

func (b *bureau) Check(_ context.Context, _ bool, entry string) (control.Proved, error) {
	if entry != "2026-11/7" {
		return control.Proved{}, ostiary.Errorf(ostiary.NotFound, "no_entry", "no")
	}
	return control.Proved{Origin: "demo/gw1/2026-11", Index: 7, Size: 9, Path: 4, Key: "demo+1+x", Proof: []byte("c2sp.org/tlog-proof@v1\n"), Fault: b.fault}, nil
}

func (b *bureau) State(context.Context) (control.Status, error) { return b.status, nil }
func (b *bureau) Agents() []control.Agent                       { return b.agents }
func (b *bureau) MandatesOf(context.Context, ostiary.AgentID) ([]control.Mandate, error) {
	return b.mandates, nil
}
func (b *bureau) Posture(ostiary.AgentID) ostiary.Posture {
	return ostiary.Posture{OK: true, Method: "join_token", Appraised: start}
}
func (b *bureau) Containments() ([]control.Containment, error) { return b.levels, b.unknown }
func (b *bureau) Contain(_ context.Context, in control.ContainRequest) (control.Contained, error) {
	b.contained = append(b.contained, in)
	return control.Contained{Known: true}, nil
}
func (b *bureau) Tools(server, kind string) (out []control.Tool) {
	for _, t := range b.tools {
		if (server == "" || server == t.Server) && (kind == "" || kind == t.Kind) {
			out = append(out, t)
		}
	}
	return out
}
func (b *bureau) Difference(context.Context, string, string, string) (control.Difference, error) {
	return control.Difference{Diff: b.diff, Pin: strings.Repeat("ab", 32)}, nil
}
func (b *bureau) AcceptOffer(_ context.Context, in control.ToolRequest) (control.Accepted, error) {
	b.accepted = append(b.accepted, in)
	return control.Accepted{}, nil
}
func (b *bureau) Policy() control.PolicyState { return b.policy }
func (b *bureau) Shadow(context.Context, url.Values) (control.ShadowSummary, error) {
	return b.shadow, nil
}
func (b *bureau) Publish(context.Context) (control.Publication, error) {
	b.published++
	return control.Publication{Number: 2, Changed: true}, nil
}

// all is every hostile text in one.
var all = strings.ReplaceAll(strings.Join(hostile, " "), "\x00", "")

// newBureau is a desk on which everything that somebody else wrote is hostile.
func newBureau() *bureau {
	agent := "spiffe://example.org/agent/payments"
	refused := control.Entry{
		Ref: "2026-11/7", ID: "aa", Log: "demo/gw1/2026-11", Time: start, Kind: "outcome", Agent: agent, Principal: "person:" + hostile[0], Action: "bank___" + hostile[1], Server: "bank",
		Decision: "deny", Disposition: "refused", Code: "forbid", Policies: []string{"pay-over-limit"}, Snapshot: 3, Session: "s1", Mandate: "m1",
		Arguments: `{"to":` + quotedJSON(all) + `,"amount":4200.50,"note":` + quotedJSON(strings.Repeat("harmless ", 200)+all) + `,"tags":["` + "\u202e" + `",{}],` + quotedJSON(hostile[2]) + `:""}`,
		Inputs:    `{"method":` + quotedJSON(hostile[3]) + `,"uri":` + quotedJSON(hostile[5]) + `,"chain":["spiffe://x/` + "a" + `","` + agent + `"],"taint":[` + quotedJSON(hostile[0]) + `],"via":"svid","bound":true,"mandate":{"kind":"task","by":"person:dana","purpose":` + quotedJSON(all) + `}}`,
		Detail:    `{"text":` + quotedJSON(all) + `,"field":` + quotedJSON(hostile[1]) + `,"reasons":[{"policy":"pay-over-limit","text":` + quotedJSON(hostile[0]) + `}],"remedies":[{"fact":"approval:finance","policy":"pay-over-limit"}],"findings":[{"kind":"hidden","field":` + quotedJSON(hostile[2]) + `}]}`,
	}
	done := control.Entry{Ref: "2026-11/5", ID: "bb", Time: start, Kind: "outcome", Agent: agent, Action: "bank___get_balance", Server: "bank", Decision: "permit", Disposition: "delivered", Code: "permit"}
	change := control.Entry{Ref: "2026-11/7", ID: "cc", Time: start, Kind: "change", Action: "contain", Detail: `{"text":` + quotedJSON(all) + `,"by":` + quotedJSON(hostile[1]) + `}`}
	return &bureau{
		entries: []control.Entry{refused, done}, story: control.Story{Entries: []control.Entry{refused}}, changes: control.Story{Entries: []control.Entry{change}},
		agents: []control.Agent{
			{ID: agent, Principal: "person:" + hostile[0], Owner: hostile[1], Zone: "default", Roles: []string{"payer"}, Mandate: "m1", State: "enrolled", Enrolled: start, Method: "join_token", Expires: start.Add(time.Hour)},
			{ID: "spiffe://example.org/agent/old", Principal: "person:kim", State: "revoked"},
		},
		levels:   []control.Containment{{Scope: "agent", Name: agent, Level: "restricted", Reason: all, By: hostile[0], At: start}, {Scope: "tool", Name: hostile[2], Level: "quarantined", By: "uid 0"}},
		mandates: []control.Mandate{{ID: "m1", Kind: "task", State: "in_force", By: hostile[0], Words: []string{"The task: " + all}}},
		tools: []control.Tool{
			{Server: "inbox", Kind: "tool", Name: hostile[1], Action: "inbox___" + hostile[1], State: "quarantined", Why: all, Findings: []string{"hidden at " + hostile[2]}, Definition: `{"description":` + quotedJSON(all) + `}`},
			{Server: "bank", Kind: "tool", Name: "send_payment", Action: "bank___send_payment", State: "changed", Why: "it changed", Pin: strings.Repeat("cd", 32)},
			{Server: "bank", Kind: "tool", Name: "get_balance", Action: "bank___get_balance", State: "pinned", ReadOnly: true, Pin: strings.Repeat("cd", 32)},
		},
		diff: "-  \"description\": \"harmless\"\n+  \"description\": " + all + "\n   \"name\": \"x\"\n",
		policy: control.PolicyState{Number: 3, Created: start, Policies: 2, Candidates: 1, Folder: "/etc/ostiary/policy", Tests: 4,
			Files:    []control.PolicyFile{{Name: "a.cedar", Active: "@id(\"pay-over-limit\")\nforbid (principal, action, resource);\n", Folder: "@id(\"pay-over-limit\")\nforbid (principal, action, resource)\nwhen { " + all + " };\n"}},
			Problems: []control.PolicyProblem{{File: "a.cedar", Line: 2, Severity: "error", Code: "x", Message: all, Suggestion: hostile[0]}}},
		shadow: control.ShadowSummary{Looked: 2, Differences: []control.ShadowDifference{{Policy: "c1", Enforced: "deny", Outcome: "permit", Count: 2, Newest: "2026-11/7"}}},
		status: control.Status{Gateway: "gw1", Snapshot: 3, Servers: []control.ServerStatus{
			{Name: "bank", ReadAt: start, Changed: 1, Conduct: control.Conduct{State: "ready", Calls: 5}},
			{Name: "inbox", ReadAt: start, Waiting: 1, Error: all, Conduct: control.Conduct{State: "failing", Why: all}, Breaker: control.Breaker{State: "open", Why: hostile[0]}},
		}},
	}
}

// purses are Budgets by hand.
type purses struct{}

func (purses) Budgets(context.Context) ([]Purse, []SpendingHold, error) {
	return []Purse{
		{Budget: "payments", Holder: "spiffe://example.org/agent/payments", Unit: "EUR", Limit: "10,000.00 EUR", Spent: "9,200.00 EUR", Held: "350.00 EUR", Left: "450.00 EUR", SpentShare: 920, HeldShare: 35, Window: start, Ends: start.Add(6 * time.Hour)},
		{Budget: "mandate:" + hostile[0], Holder: hostile[1], Unit: "calls", Limit: "100 calls", Spent: "4 calls", Held: "0 calls", Left: "96 calls", SpentShare: 40, Ends: start.Add(time.Hour)},
	}, []SpendingHold{{Intent: "aa", Agent: "spiffe://example.org/agent/payments", Action: hostile[2], Made: start, Unknown: true, Words: []string{"350.00 EUR of " + hostile[0]}}}, nil
}

// quotedJSON writes a text as JSON.
func quotedJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "?") {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// deskPages are the pages of those who look after agents.
var deskPages = []string{
	"/now", "/log", "/log?log=changes", "/log?agent=payments&became=refused&since=2026-11-20T08:00&action=%3Cscript%3E", "/log/2026-11/7", "/log/2026-11/7?verify=now", "/changes/2026-11/7",
	"/agents", "/agents?name=pay", "/agents/example.org/agent/payments", "/tools", "/tools?server=inbox", "/tools/one?" + url.Values{"server": {"inbox"}, "kind": {"tool"}, "name": {hostile[1]}}.Encode(),
	"/tools/one?server=bank&kind=tool&name=send_payment", "/policy", "/budgets",
}

// TestDeskRoles: O06, what each role is shown, and what it may do.
func TestDeskRoles(t *testing.T) {
	d := newDesk(t)
	operator := d.signIn("root", people.Operator)
	approver, auditor, nobody := d.signIn("ann", people.Approver), d.signIn("aud", people.Auditor), d.signIn("low")
	for _, path := range deskPages {
		read := strings.HasPrefix(path, "/log") || strings.HasPrefix(path, "/changes") || strings.HasPrefix(path, "/policy") || path == "/budgets"
		for name, want := range map[*visitor]int{operator: 200, auditor: 200, approver: 200, nobody: 403} {
			if name == approver && read {
				want = 403
			}
			if resp, page := name.get(path); resp.StatusCode != want {
				t.Errorf("%s: %d, want %d\n%s", path, resp.StatusCode, want, page)
			} else if len(page) > 100<<10 {
				t.Errorf("%s has %d bytes", path, len(page))
			}
		}
	}
	d.console.o.Watch.Ended(&gate.Ending{Call: &gate.Call{}, Subject: &ostiary.Subject{Agent: "spiffe://x/a"}, Decision: &ostiary.Decision{}, Err: ostiary.Errorf(ostiary.Denied, "forbid", "x"), At: start})
	for _, path := range deskPages {
		if _, page := approver.get(path); strings.Contains(page, `href="/log`) {
			t.Errorf("%s shows an approver ways they may not take", path)
		}
	}
	if _, page := auditor.get("/agents/example.org/agent/payments"); strings.Contains(page, `action="/contain/`) {
		t.Error("an auditor is offered to contain")
	}
	for _, path := range []string{"/log/2026-11/8", "/log/2026-11/x", "/log/x/7", "/changes/2026-11/8", "/log/2026-11/8/proof", "/agents/nobody", "/agents/example.org/agent/none", "/agents/..", "/tools/one", "/tools/one?server=bank&kind=tool&name=none"} {
		if resp, _ := operator.get(path); resp.StatusCode != 404 && resp.StatusCode != 301 && resp.StatusCode != 307 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	resp, page := operator.get("/log/2026-11/7/proof")
	if resp.StatusCode != 200 || !strings.HasPrefix(page, "c2sp.org/tlog-proof@v1") || !strings.Contains(resp.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("the proof: %d %q %q", resp.StatusCode, resp.Header.Get("Content-Disposition"), page)
	}
}

// TestDeskChanges: what an operator changes is what was asked for, and by them.
func TestDeskChanges(t *testing.T) {
	d := newDesk(t)
	b := d.signIn("root", people.Operator)
	form := func(v url.Values) url.Values { v.Set("form", b.token("/now")); return v }
	if resp, _ := b.post("/contain/example.org/agent/payments", form(url.Values{"level": {"quarantined"}, "reason": {"odd"}})); resp.StatusCode != 303 || resp.Header.Get("Location") != "/agents/example.org/agent/payments" {
		t.Errorf("%d to %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	if resp, page := b.post("/contain/example.org/agent/payments", form(url.Values{"level": {"none"}})); resp.StatusCode != 400 || !strings.Contains(page, `href="/agents/example.org/agent/payments"`) {
		t.Errorf("without a reason: %d", resp.StatusCode)
	}
	want := control.ContainRequest{Scope: "agent", Name: "spiffe://example.org/agent/payments", Level: "quarantined", Reason: "odd"}
	if !slices.Equal(d.bureau.contained, []control.ContainRequest{want}) {
		t.Errorf("contained %+v", d.bureau.contained)
	}
	if resp, _ := b.post("/tools/accept", form(url.Values{"server": {"bank"}, "kind": {"tool"}, "name": {"send_payment"}})); resp.StatusCode != 400 || len(d.bureau.accepted) != 0 {
		t.Errorf("an acceptance of nothing that was shown: %d", resp.StatusCode)
	}
	if resp, _ := b.post("/tools/accept", form(url.Values{"server": {"bank"}, "kind": {"tool"}, "name": {"send_payment"}, "pin": {"ab"}})); resp.StatusCode != 303 || len(d.bureau.accepted) != 1 || d.bureau.accepted[0].Pin != "ab" || d.bureau.accepted[0].Force {
		t.Errorf("%d, accepted %+v", resp.StatusCode, d.bureau.accepted)
	}
	if resp, _ := b.post("/policy/publish", form(url.Values{})); resp.StatusCode != 303 || d.bureau.published != 1 {
		t.Errorf("%d, published %d", resp.StatusCode, d.bureau.published)
	}
}

// TestLogSearch: a search is the filters of the command line, and no other.
func TestLogSearch(t *testing.T) {
	d := newDesk(t)
	b := d.signIn("root", people.Operator)
	_, page := b.get("/log?agent=payments&became=held&code=forbid&since=2026-11-20T08:00")
	q := d.bureau.asked[len(d.bureau.asked)-1]
	for k, v := range map[string]string{"agent": "payments", "disposition": "held", "code": "forbid", "newest": "true", "except": ownReading} {
		if q.Get(k) != v {
			t.Errorf("%s is %q, want %q", k, q.Get(k), v)
		}
	}
	if !strings.Contains(page, "ostiary log --agent payments --code forbid --disposition held") {
		t.Error("the page does not say how to ask on a command line")
	}
	if _, page := b.get("/log?agent=%27%3Brm+-rf+%2F%E2%80%AE"); strings.Contains(page, "ostiary log --agent") {
		t.Error("a command that nobody can read is offered to be pasted")
	}
	if resp, _ := b.get("/log?since=yesterday"); resp.StatusCode != 400 {
		t.Errorf("a time that is none: %d", resp.StatusCode)
	}
	d.bureau.entries = nil
	for path, want := range map[string]string{"/log": "The log holds no action yet", "/log?agent=x": "Nothing in the log matches", "/now": "ostiary agent join", "/log?log=changes": "no change"} {
		if _, page := b.get(path); !strings.Contains(page, want) {
			t.Errorf("%s, empty, does not say %q", path, want)
		}
	}
	d.bureau.agents, d.bureau.status.Servers, d.bureau.policy = nil, nil, control.PolicyState{}
	for path, want := range map[string]string{"/agents": "ostiary agent join", "/tools": "No server is configured", "/policy": "ostiary policy init"} {
		if _, page := b.get(path); !strings.Contains(page, want) {
			t.Errorf("%s, empty, does not say %q", path, want)
		}
	}
	d.bureau.levels, d.bureau.unknown = nil, ostiary.Errorf(ostiary.Unavailable, "not_established", "x")
	for path, want := range map[string]string{"/now": "what is contained cannot be read", "/agents": "everything is refused"} {
		if _, page := b.get(path); !strings.Contains(page, want) {
			t.Errorf("%s does not say that nobody knows what is contained", path)
		}
	}
	d.bureau.fault = "the leaf differs"
	if _, page := b.get("/log/2026-11/7?verify=now"); !strings.Contains(page, "The proof does not hold") || strings.Contains(page, "It is in the log") {
		t.Error("a proof that does not hold is not said to")
	}
}

// listen opens the live part of the page Now and returns what it says.
func (b *visitor) listen(ctx context.Context, change ...func(*http.Request)) (*http.Response, *bufio.Scanner) {
	b.d.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.d.url+"/now/live?seen=0", nil)
	if err != nil {
		b.d.t.Fatal(err)
	}
	for _, f := range change {
		f(r)
	}
	resp, err := b.c.Do(r)
	if err != nil {
		b.d.t.Fatal(err)
	}
	b.d.t.Cleanup(func() { resp.Body.Close() })
	return resp, bufio.NewScanner(resp.Body)
}

// until reads events until one of a name, and returns false at the end.
func until(s *bufio.Scanner, name string) bool {
	for s.Scan() {
		if s.Text() == "event: "+name {
			return true
		}
	}
	return false
}

// TestO05Live: a live page is refused to other origins and to who has no role,
// and it ends with the session and with the role.
func TestO05Live(t *testing.T) {
	d := newDesk(t)
	d.signIn("root", people.Operator)
	b := d.signIn("eve", people.Operator)
	for name, lie := range map[string]func(*http.Request){
		"another origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"null":           func(r *http.Request) { r.Header.Set("Origin", "null") },
		"another site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a sister site":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"another scheme": func(r *http.Request) { r.Header.Set("Origin", strings.Replace(d.url, "http", "https", 1)) },
		"a typed URL":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") },
	} {
		if resp, _ := b.listen(t.Context(), lie); resp.StatusCode != 403 || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
			t.Errorf("%s gets %d %s", name, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
	}
	if resp, _ := d.signIn("low").listen(t.Context()); resp.StatusCode != 403 {
		t.Errorf("who has no role gets %d", resp.StatusCode)
	}
	if resp, _ := d.browser().listen(t.Context()); resp.StatusCode == 200 {
		t.Error("a stranger is told")
	}
	resp, said := b.listen(t.Context())
	if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" || !until(said, "numbers") || !until(said, "news") {
		t.Fatalf("%d: no numbers come", resp.StatusCode)
	}
	if _, err := d.people.SetRoles(t.Context(), "eve", nil, "root"); err != nil {
		t.Fatal(err)
	}
	if !until(said, "over") || until(said, "numbers") {
		t.Error("the stream outlives the role")
	}
	b = d.signIn("max", people.Auditor)
	_, said = b.listen(t.Context())
	if !until(said, "numbers") {
		t.Fatal("no numbers come")
	}
	if resp, _ := b.post("/sign-out", url.Values{"form": {b.token("/me")}}); resp.StatusCode != 303 {
		t.Fatal(resp.StatusCode)
	}
	if !until(said, "over") || until(said, "numbers") {
		t.Error("the stream outlives the session")
	}
}

// TestLiveIsBounded: one person's streams leave room for pages, and a server
// that stops ends them all.
func TestLiveIsBounded(t *testing.T) {
	d := newDesk(t)
	b := d.signIn("root", people.Operator)
	_, first := b.listen(t.Context())
	if !until(first, "numbers") {
		t.Fatal("no numbers come")
	}
	for range maxLive {
		if _, said := b.listen(t.Context()); !until(said, "numbers") {
			t.Fatal("no numbers come")
		}
	}
	if !until(first, "over") {
		t.Error("the oldest of too many streams goes on")
	}
	other := d.signIn("aud", people.Auditor)
	_, said := other.listen(t.Context())
	if !until(said, "numbers") {
		t.Error("one person's streams keep another's out")
	}
	d.console.Close()
	if !until(said, "over") || until(said, "numbers") {
		t.Error("a stream outlives the console")
	}
	if resp, _ := other.listen(t.Context()); resp.StatusCode != 503 {
		t.Errorf("a console that closed opens a stream: %d", resp.StatusCode)
	}
}

// TestWatch: what the page Now counts is what happened, of this quarter of an
// hour, and of the gateway's own reading nothing.
func TestWatch(t *testing.T) {
	now := start
	w := NewWatch(func() time.Time { return now })
	end := func(disposition ostiary.Disposition, err error, own, far time.Duration) {
		e := gate.Ending{Call: &gate.Call{}, Subject: &ostiary.Subject{Agent: "spiffe://x/a"}, Decision: &ostiary.Decision{}, Disposition: disposition, Err: err, At: now}
		e.Began[gate.StepAuthenticate] = now.Add(-own - far)
		if far > 0 {
			e.Began[gate.StepForward], e.Began[gate.StepSettle] = now.Add(-far), now
		} else {
			e.Began[gate.StepSettle] = now
		}
		w.Ended(&e)
	}
	for range 99 {
		end(ostiary.Delivered, nil, 200*time.Microsecond, 5*time.Millisecond)
	}
	end(ostiary.Delivered, nil, 200*time.Microsecond, 2*time.Second)
	now = now.Add(time.Minute)
	end(ostiary.Refused, ostiary.Errorf(ostiary.Denied, "forbid", "x"), 100*time.Microsecond, 0)
	end(ostiary.Held, nil, 100*time.Microsecond, 0)
	end(ostiary.Unknown, nil, 100*time.Microsecond, time.Millisecond)
	w.Ended(&gate.Ending{Call: &gate.Call{}, Subject: &ostiary.Subject{}, At: now})
	w.Ended(&gate.Ending{Call: &gate.Call{Credentials: ostiary.Credentials{Self: &ostiary.Self{}}}, Subject: &ostiary.Subject{Agent: "spiffe://x/gw"}, At: now})
	n := w.numbers()
	if n.Permitted != 101 || n.Refused != 1 || n.Held != 1 || n.Failed != 1 || n.Strangers != 1 || n.Seen != 103 || len(n.PermittedBy) != slots {
		t.Errorf("%+v", n)
	}
	if len(n.Codes) != 1 || n.Codes[0] != (codeCount{"forbid", 1}) {
		t.Errorf("codes %v", n.Codes)
	}
	within := func(d, want time.Duration) bool { return d >= want && d <= want*12/10 }
	if !within(n.Own50, 200*time.Microsecond) || !within(n.Far50, 5*time.Millisecond) || !within(n.Far95, 5*time.Millisecond) {
		t.Errorf("half within %v and %v, 95 %% within %v", n.Own50, n.Far50, n.Far95)
	}
	now = now.Add(slot*slots - time.Minute)
	if n = w.numbers(); n.Permitted != 1 {
		t.Errorf("what is older than the window is counted: %d", n.Permitted)
	}
	for i := range 2 * maxCodes {
		end(ostiary.Refused, ostiary.Errorf(ostiary.Denied, fmt.Sprint(i), "x"), time.Millisecond, 0)
	}
	if n = w.numbers(); len(n.Codes) > maxCodes+2 {
		t.Errorf("%d reasons are told apart", len(n.Codes))
	}
}

// TestArguments: what can do harm comes first, and nothing is left out.
func TestArguments(t *testing.T) {
	a := readArguments([]byte(`{"note":"x","send_to":"DE89","toEmail":"a@b","total_pages":3,"amountEUR":12.50,"nested":{"a/b":[1,{}]},"empty":""}`))
	var names []string
	for _, v := range a.Values {
		names = append(names, v.Name.s)
	}
	if got := strings.Join(names, " "); got != "send_to toEmail total_pages amountEUR note nested/a~1b/0 nested/a~1b/1 empty" {
		t.Errorf("%s", got)
	}
	if a.Values[3].Value.s != "12.50" {
		t.Errorf("a number is shown as %q", a.Values[3].Value.s)
	}
	for _, text := range []string{`[1]`, `{"a":1,"a":2}`, `{`, `"x"`} {
		if a := readArguments([]byte(text)); !a.Opaque || a.Raw.s != text {
			t.Errorf("%s is taken apart", text)
		}
	}
	if a := readArguments([]byte("{" + strings.TrimSuffix(strings.Repeat(`"x":[1,2,3],`, 1), ",") + "}")); a.Cut != 0 || len(a.Values) != 3 {
		t.Errorf("%+v", a)
	}
	many := `{"a":[` + strings.TrimSuffix(strings.Repeat("1,", maxArguments+5), ",") + `]}`
	if a := readArguments([]byte(many)); a.Cut != 5 {
		t.Errorf("%d values are left out and said to be", a.Cut)
	}
}

func TestDifference(t *testing.T) {
	var got []string
	for _, l := range difference("a\nb\nc\nd\ne\nf\ng\nh\ni\n", "a\nb\nc\nd\nE\nf\ng\nh\ni\nj\n") {
		got = append(got, l.Mark+l.Text.s)
	}
	if text := strings.Join(got, "|"); text != " b| c| d|-e|+E| f| g| h| i|+j" {
		t.Errorf("%s", text)
	}
	if len(difference("", "")) != 0 || len(difference("x", "x")) != 0 {
		t.Error("what is the same differs")
	}
}

func FuzzArguments(f *testing.F) {
	f.Add([]byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := readArguments(b)
		if a.Raw.s != string(b) {
			t.Error("the bytes are other bytes")
		}
		for _, v := range a.Values {
			for _, html := range []string{string(v.Name.Short()), string(v.Value.Block()), string(v.Value.Line())} {
				if strings.Contains(html, "<script") || strings.Contains(html, "<img") {
					t.Errorf("%q is shown as %s", b, html)
				}
			}
		}
	})
}
