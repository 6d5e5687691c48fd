package approval_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/approval/approvaltest"
	"github.com/ostiary/ostiary/internal/deferred"
)

// plain seals nothing, and checks what it is bound to.
type plain struct{}

func (plain) Seal(b, ad []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s|%s", ad, b), nil
}

func (plain) Open(b, ad []byte) ([]byte, error) {
	if len(b) <= len(ad) || string(b[:len(ad)+1]) != string(ad)+"|" {
		return nil, errors.New("sealed for something else")
	}
	return b[len(ad)+1:], nil
}

// world is an Approvals with everything it asks.
type world struct {
	t       testing.TB
	store   *approvaltest.Store
	a       *approval.Approvals
	mu      sync.Mutex
	people  map[ostiary.PrincipalID]approval.Approver
	events  []approval.Event
	sent    []ostiary.HoldID
	execute func(h *approval.Hold) approval.Settlement
	judge   func(r *ostiary.Request, d *ostiary.Decision) error
	unsaid  error // of Record
	now     func() time.Time
}

var policyDigest = ostiary.Digest{7}

func newWorld(t testing.TB, change ...func(*approval.Options)) *world {
	w := &world{t: t, store: &approvaltest.Store{}, people: map[ostiary.PrincipalID]approval.Approver{}, now: time.Now}
	for _, name := range []string{"dana", "erin", "finn", "gwen", "hana", "boss"} {
		p := ostiary.PrincipalID("person:" + name)
		w.people[p] = approval.Approver{Person: p, Active: true, Keys: [][]byte{[]byte("key of " + name)}}
	}
	o := approval.Options{
		Store: w.store, Seal: plain{}, People: w, Gateway: "gw", Clock: func() time.Time { return w.now() },
		Rules: approval.Rules{
			Groups: map[string]approval.Group{
				"finance": {People: []ostiary.PrincipalID{"person:dana", "person:erin", "person:finn"}, After: 10 * time.Minute, To: "bosses"},
				"legal":   {People: []ostiary.PrincipalID{"person:erin", "person:gwen"}},
				"bosses":  {People: []ostiary.PrincipalID{"person:boss"}},
				"owners":  {People: []ostiary.PrincipalID{"person:hana"}, Owner: true},
			},
			Life: time.Hour, Most: 3,
		},
		Owners: func(ostiary.AgentID) []string { return []string{"hana", "org:pay", "person:olga"} },
		Verify: func(s *ostiary.Signed) error {
			if string(s.Signature) != "signed "+string(s.Key)+string(s.Statement()) {
				return errors.New("forged")
			}
			return nil
		},
		Judge: func(_ context.Context, c *deferred.Call) (*ostiary.Request, *ostiary.Decision, error) {
			r := &ostiary.Request{Subject: c.Subject, Action: c.Action}
			d := &ostiary.Decision{Code: "forbid", Policy: policyDigest, Remedies: []ostiary.Remedy{{Fact: "approval:finance"}}}
			if w.judge != nil {
				if err := w.judge(r, d); err != nil {
					return nil, nil, err
				}
			}
			return r, d, nil
		},
		Record: func(_ context.Context, e approval.Event) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.unsaid == nil {
				w.events = append(w.events, e)
			}
			return w.unsaid
		},
		Execute: func(ctx context.Context, h *approval.Hold) approval.Settlement { return w.carry(ctx, h) },
	}
	for _, f := range change {
		f(&o)
	}
	w.a = approval.New(o)
	return w
}

func (w *world) Approver(_ context.Context, p ostiary.PrincipalID) (approval.Approver, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.people[p]
	if !ok {
		return a, ostiary.Errorf(ostiary.NotFound, "absent", "nobody")
	}
	return a, nil
}

// carry is what a gateway does with a granted hold: everything but send it.
func (w *world) carry(ctx context.Context, h *approval.Hold) approval.Settlement {
	if w.execute != nil {
		return w.execute(h)
	}
	r := w.requestOf(h)
	facts, err := w.a.Satisfied(ctx, h.ID, r)
	if err == nil {
		err = w.a.Spend(ctx, h.ID, ostiary.EntryID{1}, r, &ostiary.Decision{Permit: slices.Equal(facts, h.Facts()), Policy: policyDigest})
	}
	if err != nil {
		return approval.Settlement{Err: ostiary.AsError(err)}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, h.ID)
	return approval.Settlement{Disposition: ostiary.Delivered, Body: []byte(`{"ok":true}`)}
}

func (w *world) requestOf(h *approval.Hold) *ostiary.Request {
	return &ostiary.Request{Subject: h.Call.Subject, Action: h.Call.Action, Context: ostiary.Context{Session: ostiary.Session{ID: h.Question.Session}}}
}

func request(t testing.TB, args string) *ostiary.Request {
	v, err := deferred.Arguments([]byte(args))
	if err != nil {
		t.Fatal(err)
	}
	return &ostiary.Request{
		Subject: ostiary.Subject{Agent: "spiffe://td/agent/pay", Principal: "person:dana", Mandate: "m", Via: ostiary.ViaToken, Chain: []ostiary.AgentID{"spiffe://td/agent/pay"}},
		Action:  ostiary.Action{Name: "bank___send", Method: "tools/call", Server: "bank", Tool: "send", Pin: ostiary.Digest{9}, Arguments: v},
		Context: ostiary.Context{Session: ostiary.Session{ID: "s"}, Mandate: ostiary.Mandate{ID: "m", By: "person:dana", Approvers: []string{"*"}, Expires: time.Now().Add(100 * time.Hour)}},
	}
}

func denial(facts ...string) *ostiary.Decision {
	d := &ostiary.Decision{Code: "forbid", Policy: policyDigest, Snapshot: 1}
	for _, f := range facts {
		d.Remedies = append(d.Remedies, ostiary.Remedy{Fact: f, Policy: "p"})
	}
	return d
}

func (w *world) hold(facts ...string) ostiary.HoldID {
	w.t.Helper()
	id, err := w.a.Hold(w.t.Context(), request(w.t, `{"amount":200,"to":["a","b"]}`), denial(facts...))
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func sign(v ostiary.Vote, key string) ostiary.Signed {
	return ostiary.Signed{Vote: v, Key: []byte(key), Signature: []byte("signed " + key + string(v.Statement()))}
}

func (w *world) vote(id ostiary.HoldID, name string, c approval.Choice) (*approval.Hold, error) {
	v, _, err := w.a.Ask(w.t.Context(), id, ostiary.PrincipalID("person:"+name), c)
	if err != nil {
		return nil, err
	}
	return w.a.Cast(w.t.Context(), approval.Ballot{Vote: sign(v, "key of "+name), Reason: c.Reason, Edits: c.Edits})
}

var yes = approval.Choice{Consent: true}

func code(err error) string {
	if err == nil {
		return ""
	}
	return ostiary.AsError(err).Code
}

// shared gives persons a key in common.
func shared(names ...string) func(*world) {
	return func(w *world) {
		for _, name := range names {
			p := ostiary.PrincipalID("person:" + name)
			a := w.people[p]
			a.Person, a.Verified = p, append(slices.Clone(a.Verified), "key:shared")
			w.people[p] = a
		}
	}
}

// Who may not vote, and why, one by one: I04.
func TestWhoMayNotVote(t *testing.T) {
	for _, x := range []struct {
		name, voter, fact string
		change            func(*world)
		mandate           []string
		want              string
	}{
		{"a member", "erin", "approval:finance", nil, nil, ""},
		{"the person it is asked for", "dana", "approval:finance", nil, nil, "approver_requester"},
		{"nobody", "nobody", "approval:finance", nil, nil, "approver_unknown"},
		{"not in the group", "gwen", "approval:finance", nil, nil, "approver_group"},
		{"the agent's owner", "hana", "approval:finance", nil, nil, "approver_group"},
		{"without the role", "erin", "approval:finance", func(w *world) {
			w.people["person:erin"] = approval.Approver{Person: "person:erin", Keys: [][]byte{[]byte("key of erin")}}
		}, nil, "approver_role"},
		{"another account of the requester", "erin", "approval:finance", func(w *world) { w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:dana", "person:erin"}} }, nil, "approver_requester"},
		{"another account of the owner", "erin", "approval:finance", func(w *world) { w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:hana", "person:erin"}} }, nil, "approver_owner"},
		{"another account of the owner that the registry names", "erin", "approval:finance", func(w *world) { w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:olga", "person:erin"}} }, nil, "approver_owner"},
		{"the owner that the registry names", "olga", "approval:finance", func(w *world) {
			w.people["person:olga"] = approval.Approver{Person: "person:olga", Active: true, Keys: [][]byte{[]byte("key of olga")}}
			w.a.Rules().Groups["finance"] = approval.Group{People: []ostiary.PrincipalID{"person:olga"}}
		}, nil, "approver_owner"},
		{"a key of the requester", "erin", "approval:finance", shared("erin", "dana"), nil, "approver_requester"},
		{"a key of who gave the mandate", "erin", "approval:finance", shared("erin", "gwen"), nil, "approver_requester"},
		{"a key of the owner", "erin", "approval:finance", shared("erin", "hana"), nil, "approver_owner"},
		{"a key of the owner that the registry names", "erin", "approval:finance", func(w *world) {
			w.people["person:olga"] = approval.Approver{Person: "person:olga"}
			shared("erin", "olga")(w)
		}, nil, "approver_owner"},
		{"a key of another account of the requester", "erin", "approval:finance", func(w *world) {
			w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:dana", "person:boss"}}
			shared("erin", "boss")(w)
		}, nil, "approver_requester"},
		{"another account with a key of the requester", "erin", "approval:finance", func(w *world) {
			w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:erin", "person:boss"}}
			shared("dana", "boss")(w)
		}, nil, "approver_requester"},
		{"a key of somebody else", "erin", "approval:finance", shared("erin", "finn"), nil, ""},
		{"an owner whose group lets them, with a key of another owner", "hana", "approval:owners", shared("hana", "olga"), nil, ""},
		{"a mandate that names others", "erin", "approval:finance", nil, []string{"finn"}, "approver_mandate"},
		{"a mandate that names the group", "erin", "approval:finance", nil, []string{"finance"}, ""},
		{"a step-up by another", "erin", "acr:mfa", nil, nil, "approver_not_principal"},
		{"an owner whose group lets them", "hana", "approval:owners", nil, nil, ""},
	} {
		t.Run("I04 "+x.name, func(t *testing.T) {
			w := newWorld(t)
			r := request(t, `{"amount":1}`)
			r.Context.Mandate.By = "person:gwen"
			if x.mandate != nil {
				r.Context.Mandate.Approvers = x.mandate
			}
			if x.fact != "approval:finance" {
				w.judge = func(_ *ostiary.Request, d *ostiary.Decision) error { d.Remedies[0].Fact = x.fact; return nil }
			}
			id, err := w.a.Hold(t.Context(), r, denial(x.fact))
			if err != nil {
				t.Fatal(err)
			}
			if x.change != nil {
				x.change(w)
			}
			h, err := w.vote(id, x.voter, yes)
			if code(err) != x.want {
				t.Fatalf("%v, want %q", err, x.want)
			}
			if x.want == "" && h.State != ostiary.HoldGranted {
				t.Errorf("it is %v", h.State)
			}
		})
	}
}

// Nobody votes twice, whatever they are called.
func TestOneHumanOneVote(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*world)
	}{
		{"the same account", nil},
		{"two accounts of one verified person", func(w *world) {
			for _, p := range []ostiary.PrincipalID{"person:erin", "person:finn"} {
				a := w.people[p]
				a.Verified = []string{"https://idp.test#42"}
				w.people[p] = a
			}
		}},
		{"two accounts that an operator joined", func(w *world) { w.a.Rules().Same = [][]ostiary.PrincipalID{{"person:erin", "person:finn"}} }},
	} {
		t.Run("I04 "+x.name, func(t *testing.T) {
			w := newWorld(t)
			w.judge = func(_ *ostiary.Request, d *ostiary.Decision) error {
				d.Remedies[0].Fact = "approval:finance:2"
				return nil
			}
			if x.change != nil {
				x.change(w)
			}
			id := w.hold("approval:finance:2")
			if h, err := w.vote(id, "erin", yes); err != nil || h.State != ostiary.HoldPending {
				t.Fatal(h, err)
			}
			second := "finn"
			if x.change == nil {
				second = "erin"
			}
			if _, err := w.vote(id, second, yes); code(err) != "voted" {
				t.Errorf("a second vote: %v", err)
			}
			if x.change == nil {
				other := w.hold("approval:finance:2")
				if _, err := w.vote(other, "erin", yes); err != nil {
					t.Fatal(err)
				}
				if h, err := w.vote(other, "erin", approval.Choice{Reason: "on second thought"}); err != nil || h.State != ostiary.HoldRefused {
					t.Errorf("a change of mind: %v, %v", h, err)
				}
				if h, err := w.vote(id, "finn", yes); err != nil || h.State != ostiary.HoldGranted {
					t.Errorf("a second person: %v, %v", h, err)
				}
			}
		})
	}
}

// A person of two groups counts for one of them, and two persons are seated
// however they came.
func TestQuorumOfTwoGroups(t *testing.T) {
	w := newWorld(t)
	w.judge = func(_ *ostiary.Request, d *ostiary.Decision) error {
		d.Remedies = denial("approval:finance", "approval:legal").Remedies
		return nil
	}
	id := w.hold("approval:finance", "approval:legal")
	if h, err := w.vote(id, "erin", yes); err != nil || h.State != ostiary.HoldPending {
		t.Fatalf("erin is of both, and counts once: %v, %v", h, err)
	}
	if h, err := w.vote(id, "gwen", yes); err != nil || h.State != ostiary.HoldGranted {
		t.Fatalf("gwen is of legal, so erin sits for finance: %v, %v", h, err)
	}
}

func TestOneRefusalEndsIt(t *testing.T) {
	w := newWorld(t)
	id := w.hold("approval:finance:2")
	if _, err := w.vote(id, "erin", approval.Choice{}); code(err) != "reason" {
		t.Errorf("a refusal without a reason: %v", err)
	}
	h, err := w.vote(id, "erin", approval.Choice{Reason: "not this week"})
	if err != nil || h.State != ostiary.HoldRefused {
		t.Fatal(h, err)
	}
	if _, err := w.vote(id, "finn", yes); code(err) != "hold_decided" {
		t.Errorf("a vote after a refusal: %v", err)
	}
	s, err := w.a.Result(t.Context(), id, approval.Asks{Agent: "spiffe://td/agent/pay", Principal: "person:dana", Mandate: "m"})
	if err != nil || s.Err == nil || s.Err.Code != "refused_by_person" || s.Err.Detail != "person:erin refused it: not this week" {
		t.Errorf("the agent is told %+v, %v", s, err)
	}
	for name, change := range map[string]func(*approval.Asks){
		"nobody":            func(a *approval.Asks) { *a = approval.Asks{} },
		"another agent":     func(a *approval.Asks) { a.Agent = "spiffe://td/agent/other" },
		"another principal": func(a *approval.Asks) { a.Principal = "person:eve" },
		"another mandate":   func(a *approval.Asks) { a.Mandate = "n" },
		"another server":    func(a *approval.Asks) { a.Server = "docs" },
		"a narrower token":  func(a *approval.Asks) { a.Scopes = []string{"mcp", "server:docs"} },
	} {
		who := dana
		change(&who)
		if s, err := w.a.Result(t.Context(), id, who); ostiary.KindOf(err) != ostiary.NotFound || s.Err != nil {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	who := dana
	who.Server, who.Scopes = "bank", []string{"mcp", "server:bank"}
	if s, err := w.a.Result(t.Context(), id, who); err != nil || s.Err == nil {
		t.Errorf("with a token for its server: %+v, %v", s, err)
	}
}

// What a vote is signed for is all it counts for.
func TestVotesBind(t *testing.T) {
	for _, x := range []struct {
		name string
		bend func(*approval.Ballot)
		want string
	}{
		{"another question", func(b *approval.Ballot) { b.Vote = resign(b, func(v *ostiary.Vote) { v.Question[0]++ }) }, "vote_question"},
		{"another reason", func(b *approval.Ballot) { b.Reason = "because" }, "vote_question"},
		{"a narrowing nobody signed", func(b *approval.Ballot) { b.Edits = []approval.Edit{{Pointer: "/amount", To: "1"}} }, "vote_question"},
		{"another expiry", func(b *approval.Ballot) {
			b.Vote = resign(b, func(v *ostiary.Vote) { v.Expires = v.Expires.Add(time.Hour) })
		}, "vote_question"},
		{"an old vote", func(b *approval.Ballot) {
			b.Vote = resign(b, func(v *ostiary.Vote) { v.Cast = v.Cast.Add(-2 * approval.VoteLife) })
		}, "vote_stale"},
		{"a forged signature", func(b *approval.Ballot) { b.Vote.Signature = []byte("x") }, "vote_signature"},
		{"a changed statement", func(b *approval.Ballot) { b.Vote.Approver = "person:finn" }, "vote_signature"},
		{"another's key", func(b *approval.Ballot) { b.Vote = sign(b.Vote.Vote, "key of finn") }, "vote_key"},
	} {
		t.Run("I01 "+x.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.hold("approval:finance")
			v, _, err := w.a.Ask(t.Context(), id, "person:erin", yes)
			if err != nil {
				t.Fatal(err)
			}
			b := approval.Ballot{Vote: sign(v, "key of erin")}
			x.bend(&b)
			if h, err := w.a.Cast(t.Context(), b); code(err) != x.want {
				t.Errorf("%+v, %v; want %s", h, err, x.want)
			}
			if len(w.events) != 0 {
				t.Errorf("it was recorded: %+v", w.events)
			}
		})
	}
}

func resign(b *approval.Ballot, change func(*ostiary.Vote)) ostiary.Signed {
	v := b.Vote.Vote
	change(&v)
	return sign(v, "key of erin")
}

// A consent is for one request: I01, byte by byte.
func TestConsentFitsOneRequest(t *testing.T) {
	for name, bend := range map[string]func(*ostiary.Request){
		"arguments": func(r *ostiary.Request) { r.Action = *action2(t, `{"amount":201,"to":["a","b"]}`) },
		"spaces":    func(r *ostiary.Request) { r.Action = *action2(t, `{"amount":200, "to":["a","b"]}`) },
		"tool":      func(r *ostiary.Request) { r.Action.Tool = "sent" }, "server": func(r *ostiary.Request) { r.Action.Server = "bunk" },
		"pin": func(r *ostiary.Request) { r.Action.Pin[0]++ }, "agent": func(r *ostiary.Request) { r.Subject.Agent += "2" },
		"principal": func(r *ostiary.Request) { r.Subject.Principal = "person:eve" }, "mandate": func(r *ostiary.Request) { r.Subject.Mandate = "n" },
		"session": func(r *ostiary.Request) { r.Context.Session.ID = "t" },
	} {
		w := newWorld(t)
		id := w.hold("approval:finance")
		if _, err := w.vote(id, "erin", yes); err != nil {
			t.Fatal(err)
		}
		h, _ := w.a.One(t.Context(), id)
		r := w.requestOf(h)
		if _, err := w.a.Satisfied(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		bend(r)
		if _, err := w.a.Satisfied(t.Context(), id, r); code(err) != "approval_bytes" {
			t.Errorf("I01 another %s: %v", name, err)
		}
		permit := &ostiary.Decision{Permit: true, Policy: policyDigest}
		if err := w.a.Spend(t.Context(), id, ostiary.EntryID{1}, r, permit); code(err) != "approval_bytes" {
			t.Errorf("I01 spent for another %s: %v", name, err)
		}
		moved := &ostiary.Decision{Permit: true, Policy: ostiary.Digest{8}}
		if err := w.a.Spend(t.Context(), id, ostiary.EntryID{1}, w.requestOf(h), moved); code(err) != "approval_policy" {
			t.Errorf("I01 spent under another policy: %v", err)
		}
	}
}

func action2(t *testing.T, args string) *ostiary.Action { a := request(t, args).Action; return &a }

// I03: a thousand uses, one effect; I06: nothing without people, nor after.
func TestSpentOnce(t *testing.T) {
	w := newWorld(t)
	id := w.hold("approval:finance")
	h, _ := w.a.One(t.Context(), id)
	r, permit := w.requestOf(h), &ostiary.Decision{Permit: true, Policy: policyDigest}
	if err := w.a.Spend(t.Context(), id, ostiary.EntryID{1}, r, permit); code(err) != "approval_state" {
		t.Fatalf("before anybody consented: %v", err)
	}
	if _, err := w.vote(id, "erin", yes); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	won := make(chan int, 1000)
	for i := range 1000 {
		all.Go(func() {
			if err := w.a.Spend(context.Background(), id, ostiary.EntryID{1, byte(i), byte(i >> 8)}, r, permit); err == nil {
				won <- i
			} else if code(err) != "approval_spent" && code(err) != "hold_moved" {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Errorf("%d uses succeeded", len(won))
	}
	if _, err := w.a.Satisfied(t.Context(), id, r); code(err) != "approval_spent" {
		t.Errorf("after its use: %v", err)
	}
}

// Whoever consented and could not any more counts for nothing.
func TestWithdrawn(t *testing.T) {
	for name, change := range map[string]func(*approval.Approver){
		"lost the role": func(a *approval.Approver) { a.Active = false }, "lost the key": func(a *approval.Approver) { a.Keys = nil },
	} {
		w := newWorld(t)
		id := w.hold("approval:finance")
		if _, err := w.vote(id, "erin", yes); err != nil {
			t.Fatal(err)
		}
		p := w.people["person:erin"]
		change(&p)
		w.people["person:erin"] = p
		h, _ := w.a.One(t.Context(), id)
		if _, err := w.a.Satisfied(t.Context(), id, w.requestOf(h)); code(err) != "approval_withdrawn" {
			t.Errorf("I04 %s: %v", name, err)
		}
	}
}

// A narrowed action is a new one: its own bytes, its own question, and votes
// for the wider one do not count for it.
func TestNarrowedVote(t *testing.T) {
	w := newWorld(t)
	w.judge = func(_ *ostiary.Request, d *ostiary.Decision) error {
		d.Remedies[0].Fact = "approval:finance:2"
		return nil
	}
	id := w.hold("approval:finance:2")
	wide, err := w.vote(id, "erin", yes)
	if err != nil {
		t.Fatal(err)
	}
	edits := []approval.Edit{{Pointer: "/amount", To: "150"}, {Pointer: "/to/0", Drop: true}}
	p, err := w.a.Preview(t.Context(), id, edits)
	if err != nil || string(p.Hold.Call.Action.Arguments.Bytes()) != `{"amount":150,"to":["b"]}` || string(p.Hold.Original) != `{"amount":200,"to":["a","b"]}` {
		t.Fatalf("%s, %v", p.Hold.Call.Action.Arguments.Bytes(), err)
	}
	h, err := w.vote(id, "finn", approval.Choice{Consent: true, Edits: edits})
	if err != nil || h.State != ostiary.HoldPending || h.Question.Action == wide.Question.Action || h.Question.Asked != wide.Question.Asked {
		t.Fatalf("%+v, %v", h, err)
	}
	if h, err = w.vote(id, "erin", yes); err != nil || h.State != ostiary.HoldGranted {
		t.Fatalf("erin consents to the narrower one too: %+v, %v", h, err)
	}
	if _, err := w.a.Preview(t.Context(), id, edits); code(err) != "hold_decided" {
		t.Errorf("a narrowing afterwards: %v", err)
	}
	// What policy says of the narrower one counts.
	id = w.hold("approval:finance:2")
	w.judge = func(*ostiary.Request, *ostiary.Decision) error {
		return ostiary.Errorf(ostiary.Malformed, "schema", "no")
	}
	if _, err := w.vote(id, "erin", approval.Choice{Consent: true, Edits: edits}); code(err) != "schema" {
		t.Errorf("one that does not fit: %v", err)
	}
}

// I06: consent that could not help is not asked for.
func TestJudgedAgain(t *testing.T) {
	for _, x := range []struct {
		want  string
		judge func(*ostiary.Request, *ostiary.Decision) error
	}{
		{"approval_policy", func(_ *ostiary.Request, d *ostiary.Decision) error { d.Policy[0]++; return nil }},
		{"approval_bytes", func(r *ostiary.Request, _ *ostiary.Decision) error { r.Action.Pin[0]++; return nil }},
		{"approval_facts", func(_ *ostiary.Request, d *ostiary.Decision) error { d.Remedies[0].Fact = "approval:legal"; return nil }},
		{"no_permit", func(_ *ostiary.Request, d *ostiary.Decision) error { d.Code, d.Remedies = "no_permit", nil; return nil }},
	} {
		w := newWorld(t)
		id := w.hold("approval:finance")
		w.judge = x.judge
		if _, err := w.vote(id, "erin", yes); code(err) != x.want {
			t.Errorf("I06 %v, want %s", err, x.want)
		}
		if h, err := w.vote(id, "erin", approval.Choice{Reason: "no"}); err != nil || h.State != ostiary.HoldRefused {
			t.Errorf("it can still be refused: %v", err)
		}
	}
}

func TestNotHoldable(t *testing.T) {
	for _, fact := range []string{"approval:nobodies", "approval:bosses:2", "payment:done", "approval:legal:3"} {
		w := newWorld(t)
		if id, err := w.a.Hold(t.Context(), request(t, `{}`), denial("approval:finance", fact)); code(err) != "not_holdable" {
			t.Errorf("%s: %q, %v", fact, id, err)
		}
	}
	w := newWorld(t)
	r := request(t, `{}`)
	r.Subject.Principal = "service:billing"
	if _, err := w.a.Hold(t.Context(), r, denial("acr:mfa")); code(err) != "not_holdable" {
		t.Errorf("a step-up of no person: %v", err)
	}
}

// I07: an agent cannot drown people in questions.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.hold("approval:finance")
	}
	if _, err := w.a.Hold(t.Context(), request(t, `{}`), denial("approval:finance")); code(err) != "holds" {
		t.Errorf("I07 a fourth at once: %v", err)
	}
	w = newWorld(t, func(o *approval.Options) { o.Rules.Most = 1000 })
	at := time.Now()
	w.now = func() time.Time { return at }
	held, refused := 0, 0
	for range 500 {
		switch _, err := w.a.Hold(t.Context(), request(t, `{}`), denial("approval:finance")); code(err) {
		case "":
			held++
		case "ask_rate":
			refused++
		}
	}
	if held+refused != 500 || held > 60 {
		t.Errorf("I07 of 500 in a moment %d were asked", held)
	}
}

// A step-up needs a passkey, a statement needs words, and both are the
// principal's own.
func TestPrincipalsNeeds(t *testing.T) {
	w := newWorld(t)
	w.judge = func(_ *ostiary.Request, d *ostiary.Decision) error {
		d.Remedies = denial("acr:mfa", "justification").Remedies
		return nil
	}
	id := w.hold("acr:mfa", "justification")
	v, _, err := w.a.Ask(t.Context(), id, "person:dana", approval.Choice{Consent: true, Reason: "rent"})
	if err != nil {
		t.Fatal(err)
	}
	b := approval.Ballot{Vote: sign(v, "key of dana"), Reason: "rent"}
	if h, err := w.a.Cast(t.Context(), b); err != nil || h.State != ostiary.HoldPending {
		t.Fatalf("without a passkey: %+v, %v", h, err)
	}
	id = w.hold("acr:mfa", "justification")
	v, _, err = w.a.Ask(t.Context(), id, "person:dana", approval.Choice{Consent: true, Reason: "rent"})
	if err != nil {
		t.Fatal(err)
	}
	b = approval.Ballot{Vote: sign(v, "key of dana"), Reason: "rent"}
	b.Vote.Authenticator = []byte("data")
	if h, err := w.a.Cast(t.Context(), b); err != nil || h.State != ostiary.HoldGranted {
		t.Fatalf("with one: %+v, %v", h, err)
	}
}

// Nothing counts that is not recorded, and each fault of the store leaves a
// hold that is refused or as it was.
func TestVoteFaults(t *testing.T) {
	w := newWorld(t)
	id := w.hold("approval:finance")
	w.unsaid = errors.New("the log is full")
	if _, err := w.vote(id, "erin", yes); err == nil {
		t.Error("a vote that is not in the log counts")
	}
	w.unsaid = nil
	for _, after := range []bool{false, true} {
		w.store.Fail = func(_ string, late bool) error {
			if late == after {
				return errors.New("injected")
			}
			return nil
		}
		if _, err := w.vote(id, "erin", yes); err == nil {
			t.Errorf("after %v: the fault was swallowed", after)
		}
		w.store.Fail = nil
		h, _ := w.a.One(t.Context(), id)
		if want := map[bool]ostiary.HoldState{false: ostiary.HoldPending, true: ostiary.HoldGranted}[after]; h.State != want {
			t.Errorf("after %v: it is %v", after, h.State)
		}
	}
}

var dana = approval.Asks{Agent: "spiffe://td/agent/pay", Principal: "person:dana", Mandate: "m"}

// running runs the approvals for as long as f does.
func running(w *world, f func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.a.Run(ctx) }()
	f()
	stop()
	<-done
}

// Who waits is told at once, and a result outlives its waiter.
func TestWaitAndFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		running(w, func() {
			id := w.hold("approval:finance")
			got := make(chan approval.Settlement, 1)
			go func() {
				s, err := w.a.Wait(t.Context(), id, dana)
				if err != nil {
					t.Error(err)
				}
				got <- s
			}()
			time.Sleep(time.Minute)
			began := time.Now()
			if _, err := w.vote(id, "erin", yes); err != nil {
				t.Fatal(err)
			}
			if s := <-got; s.State != ostiary.HoldDone || string(s.Body) != `{"ok":true}` || time.Since(began) > 0 {
				t.Errorf("%+v after %v", s, time.Since(began))
			}
			if s, err := w.a.Result(t.Context(), id, dana); err != nil || string(s.Body) != `{"ok":true}` {
				t.Errorf("fetched again: %+v, %v", s, err)
			}
			time.Sleep(approval.ResultLife + time.Second)
			if s, err := w.a.Result(t.Context(), id, dana); err != nil || s.Body != nil || s.Err.Code != "result_gone" {
				t.Errorf("a day later: %+v, %v", s, err)
			}
		})
		if len(w.sent) != 1 {
			t.Errorf("sent %d times", len(w.sent))
		}
	})
}

// Nobody decides: refused, and said. A call that waits only a while is told
// where it stands.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		running(w, func() {
			id := w.hold("approval:finance")
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if s, err := w.a.Wait(ctx, id, dana); err != nil || s.State != ostiary.HoldPending || s.Err.Code != "held" {
				t.Errorf("after a minute: %+v, %v", s, err)
			}
			if s, err := w.a.Wait(t.Context(), id, dana); err != nil || s.State != ostiary.HoldExpired || s.Err.Code != "hold_expired" {
				t.Errorf("after an hour: %+v, %v", s, err)
			}
			if _, err := w.vote(id, "erin", yes); code(err) != "hold_decided" {
				t.Errorf("a vote too late: %v", err)
			}
		})
		if len(w.events) != 1 || w.events[0].What != "expire" {
			t.Errorf("events %+v", w.events)
		}
	})
}

// The group that a question escalates to may decide when its time has come,
// and not before.
func TestEscalation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := w.hold("approval:finance")
		if _, err := w.vote(id, "boss", yes); code(err) != "approver_group" {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(10 * time.Minute)
		h, _ := w.a.One(t.Context(), id)
		if who := w.a.Waiting(h, time.Now())["approval:finance"]; !slices.Contains(who, "person:boss") || slices.Contains(who, "person:dana") {
			t.Errorf("%v may decide", who)
		}
		if h, err := w.vote(id, "boss", yes); err != nil || h.State != ostiary.HoldGranted {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

// I08: what was spent when the gateway stopped is unknown, and never sent
// again; what was granted and not begun is carried out by the next one.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		granted, spent := w.hold("approval:finance"), w.hold("approval:finance")
		for _, id := range []ostiary.HoldID{granted, spent} {
			if _, err := w.vote(id, "erin", yes); err != nil {
				t.Fatal(err)
			}
		}
		h, _ := w.a.One(t.Context(), spent)
		if err := w.a.Spend(t.Context(), spent, ostiary.EntryID{1}, w.requestOf(h), &ostiary.Decision{Permit: true, Policy: policyDigest}); err != nil {
			t.Fatal(err)
		}
		running(w, func() { time.Sleep(time.Minute) })
		if len(w.sent) != 1 || w.sent[0] != granted {
			t.Errorf("I08 sent %v", w.sent)
		}
		if s, err := w.a.Result(t.Context(), spent, dana); err != nil || s.State != ostiary.HoldUnknown || s.Err.Code != "hold_unknown" {
			t.Errorf("I08 %+v, %v", s, err)
		}
	})
}

// What was open in a backup may have been carried out since: it is unknown
// after a restore, and nothing of it can be spent.
func TestRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		pending, granted := w.hold("approval:finance"), w.hold("approval:finance")
		if _, err := w.vote(granted, "erin", yes); err != nil {
			t.Fatal(err)
		}
		after := newWorld(t, func(o *approval.Options) { o.Store, o.Epoch = w.store, 1 })
		h, _ := after.a.One(t.Context(), granted)
		if _, err := after.a.Satisfied(t.Context(), granted, after.requestOf(h)); code(err) != "approval_state" {
			t.Errorf("spent after a restore: %v", err)
		}
		running(after, func() { time.Sleep(time.Minute) })
		for _, id := range []ostiary.HoldID{pending, granted} {
			if s, err := after.a.Result(t.Context(), id, dana); err != nil || s.State != ostiary.HoldUnknown {
				t.Errorf("%+v, %v", s, err)
			}
		}
		if len(after.sent) != 0 || len(after.events) != 2 {
			t.Errorf("sent %v, events %+v", after.sent, after.events)
		}
	})
}

// What is not stored is not held; what was, and was reported failed, is
// decided by nobody and carried out by nobody until people are asked.
func TestHoldFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		w := newWorld(t)
		w.store.Fail = func(_ string, late bool) error {
			if late == after {
				return errors.New("injected")
			}
			return nil
		}
		if id, err := w.a.Hold(t.Context(), request(t, `{}`), denial("approval:finance")); err == nil || id != "" {
			t.Errorf("after %v: %q, %v", after, id, err)
		}
		w.store.Fail = nil
		all, err := w.a.List(t.Context(), approval.Filter{})
		if err != nil || len(all) != map[bool]int{false: 0, true: 1}[after] {
			t.Errorf("after %v: %d held, %v", after, len(all), err)
		}
	}
}

// What could not be begun is tried again until its time is over, and what was
// refused when it was decided again is void.
func TestRetryAndVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tries := newWorld(t), 0
		w.execute = func(*approval.Hold) approval.Settlement {
			tries++
			return approval.Settlement{Retry: true, Err: ostiary.Errorf(ostiary.Unavailable, "not_established", "not now")}
		}
		running(w, func() {
			id := w.hold("approval:finance")
			if _, err := w.vote(id, "erin", yes); err != nil {
				t.Fatal(err)
			}
			s, err := w.a.Wait(t.Context(), id, dana)
			if err != nil || s.State != ostiary.HoldExpired || s.Err.Code != "approval_expired" || tries < 60 || tries > 80 {
				t.Errorf("%+v, %v after %d tries", s, err, tries)
			}
			w.execute = func(*approval.Hold) approval.Settlement {
				return approval.Settlement{Err: ostiary.Errorf(ostiary.Denied, "forbid", "not any more")}
			}
			id = w.hold("approval:finance")
			if _, err := w.vote(id, "erin", yes); err != nil {
				t.Fatal(err)
			}
			if s, err := w.a.Wait(t.Context(), id, dana); err != nil || s.State != ostiary.HoldVoid || s.Err.Code != "forbid" {
				t.Errorf("%+v, %v", s, err)
			}
		})
	})
}
