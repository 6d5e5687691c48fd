package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/approval/approvaltest"
	"github.com/ostiary/ostiary/internal/deferred"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/people/peopletest"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/proof"
)

// approvers says who people are, as the daemon does.
type approvers struct{ *people.People }

func (a approvers) Approver(ctx context.Context, id ostiary.PrincipalID) (approval.Approver, error) {
	p, err := a.Person(ctx, strings.TrimPrefix(string(id), "person:"))
	if err != nil {
		return approval.Approver{}, err
	}
	return Approver(&p), nil
}

// entries is a log of changes.
type entries []*ostiary.Entry

func (l *entries) Append(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	*l = append(*l, e)
	return ostiary.Receipt{ID: ostiary.EntryID{1}, Ref: ostiary.EntryRef{Month: "2026-11"}}, nil
}

// A person signs in, narrows what an agent asks for and consents with their
// passkey: the vote in the log is one that everybody can verify, over the
// narrower bytes.
func TestDesk(t *testing.T) {
	ctx, log := t.Context(), &entries{}
	pp, err := people.New(people.Options{
		Records: store.NewMemory(), Seal: peopletest.Seal{}, Origin: "http://localhost:8090", Name: "test",
		Record: func(context.Context, people.Event) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := pp.Invite(ctx, "erin", []people.Role{people.Approver}, 0, "ops")
	if err != nil {
		t.Fatal(err)
	}
	key := peopletest.NewAuthenticator("http://localhost:8090")
	options, err := pp.AskEnrol(ctx, string(secret.Reveal()), "visit", "erin", "Erin")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := key.Create(options)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := pp.Enrol(ctx, string(secret.Reveal()), "visit", answer); err != nil {
		t.Fatal(err)
	}
	policy := ostiary.Digest{7}
	a := approval.New(approval.Options{
		Store: &approvaltest.Store{}, Seal: peopletest.Seal{}, People: approvers{pp}, Gateway: "gw1", Clock: time.Now, Verify: proof.VerifyVote,
		Rules: approval.Rules{Groups: map[string]approval.Group{"finance": {People: []ostiary.PrincipalID{"person:erin"}}}, Life: time.Hour, Most: 5},
		Judge: func(_ context.Context, c *deferred.Call) (*ostiary.Request, *ostiary.Decision, error) {
			return &ostiary.Request{Action: c.Action}, &ostiary.Decision{Policy: policy, Remedies: []ostiary.Remedy{{Fact: "approval:finance"}}}, nil
		},
		Record: RecordApproval(log, time.Now), Execute: func(context.Context, *approval.Hold) approval.Settlement { panic("not run") },
	})
	d := &Desk{a, pp, time.Now}
	args, err := deferred.Arguments([]byte(`{"to":["a","b"],"amount":9007199254740993,"note":"\u202egnp"}`))
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Hold(ctx, &ostiary.Request{
		Subject: ostiary.Subject{Agent: "spiffe://td/agent/pay", Principal: "person:dana", Mandate: "m"},
		Action:  ostiary.Action{Name: "bank___send", Method: "tools/call", Server: "bank", Tool: "send", Arguments: args},
		Context: ostiary.Context{Session: ostiary.Session{ID: "s"}, Mandate: ostiary.Mandate{ID: "m", Approvers: []string{"*"}, Expires: time.Now().Add(time.Hour)},
			Labels: map[string]ostiary.Label{"to": {Sources: []string{"server:inbox"}}}},
	}, &ostiary.Decision{Policy: policy, Remedies: []ostiary.Remedy{{Fact: "approval:finance"}}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := d.One(ctx, id[:5])
	if err != nil || len(h.Fields) != 4 || h.Fields[0].Pointer != "/to/0" || h.Fields[0].Sources[0] != "server:inbox" || h.Fields[2].Text != "9007199254740993" || !h.Fields[2].Lower || h.Fields[3].Text != "\u202egnp" {
		t.Fatalf("%+v, %v", h.Fields, err)
	}
	edits := []approval.Edit{{Pointer: "/amount", To: "9007199254740992"}, {Pointer: "/to/1", Drop: true}}
	p, err := d.Preview(ctx, id, edits)
	if want := `{"to":["a"],"amount":9007199254740992,"note":"\u202egnp"}`; err != nil || p.Held.Arguments != want || p.Held.Asked != h.Arguments || p.Outcome != "requestable" {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, _, err := d.AskPasskey(ctx, "visit", "dana", id, approval.Choice{Consent: true}); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("somebody else: %v", err)
	}
	options, shown, err := d.AskPasskey(ctx, "visit", "erin", id, approval.Choice{Consent: true, Edits: edits, Reason: "the rest later"})
	if err != nil || shown.Arguments != p.Held.Arguments {
		t.Fatal(shown, err)
	}
	if answer, err = key.Get(options); err != nil {
		t.Fatal(err)
	}
	h, err = d.CastPasskey(ctx, "visit", "erin", answer)
	if err != nil || h.State != "granted" || len(h.Votes) != 1 || !h.Votes[0].Passkey || !h.Votes[0].Counts || h.Question != shown.Question {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, err := d.CastPasskey(ctx, "visit", "erin", answer); ostiary.KindOf(err) != ostiary.Unauthenticated {
		t.Errorf("the same answer again: %v", err)
	}
	e := (*log)[0]
	s, err := proof.ParseVote(e.Facts[proof.VoteFact])
	if err == nil {
		err = proof.VerifyVote(s)
	}
	if err != nil || e.Principal != "person:erin" || e.Approval != id || s.Question.String() != h.Question || !s.Consent {
		t.Errorf("%+v, %v", e, err)
	}
	all, err := d.List(ctx, approval.Filter{})
	if err != nil || len(all) != 1 || all[0].ID != string(id) {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := d.One(ctx, "nope"); ostiary.KindOf(err) != ostiary.NotFound {
		t.Errorf("what is not there: %v", err)
	}
}
