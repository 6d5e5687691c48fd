package console

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/people"
)

// tray is a desk of held actions by hand; what signs there is real.
type tray struct {
	people *people.People
	holds  []control.Held
	asked  []approval.Choice
	cast   int
}

func (y *tray) find(id ostiary.HoldID) (*control.Held, error) {
	for i := range y.holds {
		if y.holds[i].ID == string(id) {
			return &y.holds[i], nil
		}
	}
	return nil, ostiary.Errorf(ostiary.NotFound, "hold", "no")
}

func (y *tray) List(_ context.Context, f approval.Filter) (out []control.Held, err error) {
	for _, h := range y.holds {
		state, _ := ostiary.ParseHoldState(h.State)
		row := approval.Row{ID: ostiary.HoldID(h.ID), State: state, Created: h.Created, Revision: 1}
		if f.Matches(&row) && len(out) < f.Most() {
			out = append(out, h)
		}
	}
	return out, nil
}

func (y *tray) Count(context.Context) (map[ostiary.HoldState]int, error) {
	out := map[ostiary.HoldState]int{}
	for _, h := range y.holds {
		state, _ := ostiary.ParseHoldState(h.State)
		out[state]++
	}
	return out, nil
}

func (y *tray) One(_ context.Context, id ostiary.HoldID) (control.Held, error) {
	h, err := y.find(id)
	if err != nil {
		return control.Held{}, err
	}
	return *h, nil
}

func (y *tray) Preview(_ context.Context, id ostiary.HoldID, edits []approval.Edit) (control.HeldPreview, error) {
	h, err := y.find(id)
	if err != nil {
		return control.HeldPreview{}, err
	}
	out := *h
	for _, e := range edits {
		if e.Drop {
			return control.HeldPreview{}, ostiary.Errorf(ostiary.Malformed, "narrowing", "%s", all)
		}
		out.Arguments = strings.Replace(out.Arguments, `"amount":420000`, `"amount":`+e.To, 1)
	}
	return control.HeldPreview{Held: out, Outcome: "requestable"}, nil
}

func (y *tray) AskPasskey(ctx context.Context, visit, person string, id ostiary.HoldID, c approval.Choice) ([]byte, control.Held, error) {
	h, err := y.find(id)
	if err != nil {
		return nil, control.Held{}, err
	}
	if !strings.Contains(fmt.Sprint(h.Needs), "person:"+person) {
		return nil, *h, ostiary.Errorf(ostiary.Denied, "approver_requester", "it is asked on your own authority, so somebody else must decide")
	}
	y.asked = append(y.asked, c)
	statement := sha256.Sum256(fmt.Append(nil, id, c))
	options, err := y.people.AskVote(ctx, visit, person, statement[:], fmt.Append(nil, c.Consent))
	return options, *h, err
}

func (y *tray) CastPasskey(ctx context.Context, visit, person string, answer []byte) (control.Held, error) {
	a, err := y.people.Voted(ctx, visit, person, answer)
	if err != nil {
		return control.Held{}, err
	}
	y.cast++
	h := &y.holds[0]
	h.State, h.Ended = "refused", &control.HeldEnding{At: start, By: "person:" + person, Why: y.asked[len(y.asked)-1].Reason}
	if string(a.Carried) == "true" {
		h.State, h.Ended = "granted", nil
	}
	return *h, nil
}

// held is a held payment in which everything that somebody else wrote is
// hostile.
func held(id string, at time.Time, may ...string) control.Held {
	return control.Held{
		ID: id, State: "pending", Gateway: "gw1", Created: at, Expires: at.Add(24 * time.Hour), Agent: "spiffe://example.org/agent/payments", Principal: "person:dana", Chain: []string{"spiffe://example.org/agent/payments"},
		Task: all, Purpose: hostile[0], By: "person:dana", Mandate: "m1", Action: "bank___send_payment", Server: "bank", Tool: "send_payment", Zone: "default",
		Arguments: `{"amount":420000,"to":` + quotedJSON(all) + `,"note":` + quotedJSON(strings.Repeat("harmless ", 120)+hostile[1]) + `}`,
		Fields:    []control.HeldField{{Pointer: "/amount", Kind: "number", Text: "420000", Lower: true, Sources: []string{"agent"}}, {Pointer: "/to", Kind: "string", Text: all, Sources: []string{"server:inbox"}}, {Pointer: "/note", Kind: "string", Text: hostile[1], Sources: []string{hostile[0]}}},
		Needs:     []control.HeldNeed{{Fact: "approval:finance", Kind: "approval", Group: "finance", People: 1, May: may}},
		Reasons:   []control.HeldReason{{Policy: "pay-over-limit", Text: "A payment above 1,000.00 needs the consent of finance."}},
		Taint:     []string{"server:inbox", hostile[2]}, Findings: []control.HeldFinding{{Inspector: "x", Kind: "hidden", Field: hostile[2], Confidence: 90}}, Risk: control.HeldRisk{Level: "low"}, Snapshot: 3,
		Votes: []control.HeldVote{{Approver: "person:lee", Consent: true, At: at, Reason: all}},
	}
}

// TestApprovalsConcern: O06, who sees a held action, and what they are told.
func TestApprovalsConcern(t *testing.T) {
	d := newDesk(t)
	d.tray.holds = []control.Held{held("h1", start, "person:kim"), held("h2", start.Add(time.Second), "person:lee")}
	d.tray.holds[1].Principal, d.tray.holds[1].By = "person:max", "person:max"
	kim, dana, low := d.signIn("kim", people.Approver), d.signIn("dana"), d.signIn("low")
	for who, want := range map[*visitor][2]int{kim: {200, 200}, dana: {200, 404}, low: {404, 404}} {
		for i, id := range []string{"h1", "h2"} {
			if resp, _ := who.get("/approvals/" + id); resp.StatusCode != want[i] {
				t.Errorf("%s: %d, want %d", id, resp.StatusCode, want[i])
			}
		}
	}
	if _, page := low.get("/approvals"); strings.Contains(page, "/approvals/h") {
		t.Error("somebody is shown what does not concern them")
	}
	_, page := kim.get("/approvals/h1")
	for _, want := range []string{"Should this happen?", "send_payment", "420000", "server:inbox", "pay-over-limit", "approval:finance", "1 day left", "Nothing has left the gateway", `id="approve"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "autofocus") || strings.Index(page, `id="refuse"`) > strings.Index(page, `id="approve"`) {
		t.Error("approving comes first")
	}
	if _, page := dana.get("/approvals/h1"); !strings.Contains(page, "on your own authority") || strings.Contains(page, `id="approve"`) {
		t.Error("dana is offered to approve for their own agent")
	}
	if resp, _ := dana.message("/approvals/h1/ask", map[string]any{"form": dana.token("/approvals"), "consent": true}); resp.StatusCode != 403 {
		t.Errorf("dana asks all the same: %d", resp.StatusCode)
	}
	if resp, _ := low.message("/approvals/h1/ask", map[string]any{"form": low.token("/approvals"), "consent": true}); resp.StatusCode != 404 || len(d.tray.asked) != 0 {
		t.Errorf("somebody else asks: %d", resp.StatusCode)
	}
	if d.tray.cast != 0 {
		t.Error("opening a link voted")
	}
}

// TestNarrowing: a narrowing is shown before anybody votes for it, and a page
// that was opened changes nothing.
func TestNarrowing(t *testing.T) {
	d := newDesk(t)
	d.tray.holds = []control.Held{held("h1", start, "person:kim")}
	b := d.signIn("kim", people.Approver)
	_, page := b.get("/approvals/h1?" + url.Values{"was:/amount": {"420000"}, "to:/amount": {"90000"}}.Encode())
	for _, want := range []string{"narrower than what was asked", "Approve this narrower action", `data-edits="[{&#34;pointer&#34;:&#34;/amount&#34;,&#34;to&#34;:&#34;90000&#34;}]"`, "added", "removed"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	_, page = b.get("/approvals/h1?" + url.Values{"was:/amount": {"420000"}, "to:/amount": {"420000"}}.Encode())
	if strings.Contains(page, "narrower than what was asked") {
		t.Error("nothing changed, and it is called narrower")
	}
	_, page = b.get("/approvals/h1?drop=%2Fto")
	if !strings.Contains(page, "cannot be approved as it stands") || !strings.Contains(page, `class="accept" disabled`) {
		t.Error("a narrowing that cannot be is offered")
	}
	if resp, _ := b.get("/approvals/h1?" + strings.Repeat("drop=%2Fto1&drop=%2Fto2&", 0) + manyDrops(approval.MaxEdits+1)); resp.StatusCode != 400 {
		t.Errorf("too many edits: %d", resp.StatusCode)
	}
	if len(d.tray.asked) != 0 {
		t.Error("a preview asked")
	}
}

func manyDrops(n int) string {
	q := url.Values{}
	for i := range n {
		q.Add("drop", fmt.Sprintf("/a/%d", i))
	}
	return q.Encode()
}

// TestInboxIsFast: ten thousand held actions open at once.
func TestInboxIsFast(t *testing.T) {
	d := newDesk(t)
	for i := range 10_000 {
		d.tray.holds = append(d.tray.holds, held(fmt.Sprintf("h%05d", i), start.Add(time.Duration(i)*time.Second), "person:kim"))
	}
	b := d.signIn("kim", people.Approver)
	seen, path := 0, "/approvals"
	for range 3 {
		began := time.Now()
		resp, page := b.get(path)
		t.Logf("%d bytes in %v", len(page), time.Since(began))
		if resp.StatusCode != http.StatusOK || len(page) > 100<<10 || !strings.Contains(page, "10000 actions wait") {
			t.Fatalf("%d, %d bytes", resp.StatusCode, len(page))
		}
		seen += strings.Count(page, `<a data-row href="/approvals/h`)
		_, rest, _ := strings.Cut(page, `href="/approvals?after=`)
		next, _, _ := strings.Cut(rest, `"`)
		path = "/approvals?after=" + strings.ReplaceAll(next, "&amp;", "&")
	}
	if seen != 3*approvalsShown {
		t.Errorf("%d rows on three pages", seen)
	}
}

func TestSpread(t *testing.T) {
	if got := spread(`{"a":[1,"x,{}\""],"b":2}`); got != "{\n  \"a\":[\n    1,\n    \"x,{}\\\"\"\n  ],\n  \"b\":2\n}" {
		t.Errorf("%s", got)
	}
}
