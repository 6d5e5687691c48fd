package identity_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
)

const dana = ostiary.PrincipalID("person:dana")

func agentNamed(name string) ostiary.AgentID {
	return ostiary.AgentID("spiffe://test.example/agent/" + name)
}

// task is what a person gives an agent in these tests.
func (b *bench) task(name string) ostiary.Mandate {
	return ostiary.Mandate{
		Kind: ostiary.TaskMandate, Agent: agentNamed(name), Purpose: "pay", Task: "pay the invoices", Actions: []string{"payments", "bank___balance"}, Resources: []string{"bank"},
		Classes: []string{"*"}, Approvers: []string{"*"}, Ceilings: []ostiary.Ceiling{{Action: "payments", Pointer: "/amount", Max: "1000"}},
		Budget: ostiary.Budget{Calls: 10}, Depth: 3, Expires: b.time().Add(time.Hour),
	}
}

func (b *bench) time() time.Time { return time.Unix(0, b.now.Load()).UTC() }

// family is a person's mandate for a, from which b's, c's and d's are derived.
type family struct {
	*bench
	certs map[string]*x509.Certificate
	ids   []ostiary.MandateID
}

func under(c *x509.Certificate, m ostiary.MandateID) ostiary.Credentials {
	x := svid(c)
	x.Mandate = m
	return x
}

func newFamily(t *testing.T, with ...func(*identity.Options)) *family {
	t.Helper()
	groups := func(o *identity.Options) {
		o.Groups = func(action string) []string {
			if action == "bank___pay" {
				return []string{"CallTool", "payments"}
			}
			return []string{"CallTool"}
		}
	}
	f := &family{bench: open(t, append(with, groups)...), certs: map[string]*x509.Certificate{}}
	for _, n := range []string{"a", "b", "c", "d"} {
		f.certs[n] = f.enrol(t, n)
	}
	first, err := f.IssueMandate(t.Context(), dana, f.task("a"))
	if err != nil {
		t.Fatal(err)
	}
	f.ids = []ostiary.MandateID{first.ID}
	for i, n := range []string{"b", "c", "d"} {
		m, err := f.derive(t, []string{"a", "b", "c"}[i], f.ids[i], ostiary.Mandate{Agent: agentNamed(n), Actions: []string{"bank___pay"}, Depth: int64(2 - i)})
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		f.ids = append(f.ids, m.ID)
	}
	return f
}

func (f *family) derive(t *testing.T, by string, from ostiary.MandateID, m ostiary.Mandate) (ostiary.Mandate, error) {
	t.Helper()
	s, err := f.Authenticate(t.Context(), under(f.certs[by], from))
	if err != nil {
		return ostiary.Mandate{}, err
	}
	return f.DeriveMandate(t.Context(), s, m)
}

// acts returns who of a, b, c, d may act under their mandate of the family.
func (f *family) acts(t *testing.T) (out string) {
	t.Helper()
	for i, n := range []string{"a", "b", "c", "d"} {
		_, err := f.Authenticate(t.Context(), under(f.certs[n], f.ids[i]))
		if err == nil {
			out += n
		} else if k := ostiary.KindOf(err); k != ostiary.Denied && k != ostiary.Unauthenticated {
			t.Fatalf("%s: %v", n, err)
		}
	}
	return out
}

func TestChainOfMandates(t *testing.T) {
	f := newFamily(t)
	s, err := f.Authenticate(t.Context(), under(f.certs["d"], f.ids[3]))
	if err != nil {
		t.Fatal(err)
	}
	if s.Mandate != f.ids[3] || s.Principal != dana || !slices.Equal(s.Chain, []ostiary.AgentID{agentNamed("a"), agentNamed("b"), agentNamed("c"), agentNamed("d")}) {
		t.Fatalf("subject %+v", s)
	}
	m, ok := f.Mandate(f.ids[3])
	if !ok || !slices.Equal(m.Links, f.ids) || fmt.Sprintln(m.Actions, m.Within, m.Resources, m.Ceilings, m.Budget.Calls, m.Depth, m.By, m.Purpose, m.Task) !=
		"[bank___pay] [[payments bank___balance]] [bank] [{payments /amount 1000 }] 10 0 person:dana pay pay the invoices\n" {
		t.Fatalf("effective %+v", m)
	}
	// Without naming one it acts under its standing mandate.
	if s, err := f.Authenticate(t.Context(), svid(f.certs["d"])); err != nil || s.Mandate == f.ids[3] || len(s.Chain) != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	// What was given and derived was recorded, signed, before it took effect.
	var given []string
	for _, e := range f.events {
		if e.JWS != "" {
			given = append(given, e.What+" "+e.By)
		}
	}
	if want := []string{"mandate person:dana", "derive " + string(agentNamed("a")), "derive " + string(agentNamed("b")), "derive " + string(agentNamed("c"))}; !slices.Equal(given, want) {
		t.Fatalf("recorded %v", given)
	}
	v, err := f.MandateView(t.Context(), f.ids[2])
	if err != nil || v.State != "in_force" || len(v.Signed) != 3 || len(v.Agents) != 3 || v.Effective.ID != f.ids[2] {
		t.Fatalf("%+v %v", v, err)
	}
	// Another process sees the same.
	other, err := identity.Open(t.Context(), f.opts)
	if err != nil {
		t.Fatal(err)
	}
	if again, ok := other.Mandate(f.ids[3]); !ok || !slices.Equal(again.Links, f.ids) {
		t.Fatalf("another process: %+v", again)
	}
}

// J01, J03: what an agent may not derive.
func TestDeriveRefuses(t *testing.T) {
	f := newFamily(t)
	for name, m := range map[string]ostiary.Mandate{
		"a tool it lacks":          {Agent: agentNamed("d"), Actions: []string{"bank___close"}},
		"a group it lacks":         {Agent: agentNamed("d"), Actions: []string{"CallTool"}},
		"everything":               {Agent: agentNamed("d"), Actions: []string{"*"}},
		"a server it lacks":        {Agent: agentNamed("d"), Resources: []string{"inbox"}},
		"a longer life":            {Agent: agentNamed("d"), Expires: f.time().Add(2 * time.Hour)},
		"a higher ceiling":         {Agent: agentNamed("d"), Ceilings: []ostiary.Ceiling{{Action: "payments", Pointer: "/amount", Max: "1001"}}},
		"a larger budget":          {Agent: agentNamed("d"), Budget: ostiary.Budget{Calls: 11}},
		"as many delegations":      {Agent: agentNamed("d"), Depth: 3},
		"another purpose":          {Agent: agentNamed("d"), Purpose: "marketing"},
		"another kind":             {Agent: agentNamed("d"), Kind: ostiary.StandingMandate},
		"itself":                   {Agent: agentNamed("a")},
		"an agent nobody enrolled": {Agent: agentNamed("ghost")},
		"another trust domain's":   {Agent: "spiffe://evil.example/agent/d"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(f.events)
			m, err := f.derive(t, "a", f.ids[0], m)
			if k := ostiary.KindOf(err); err == nil || k != ostiary.Denied && k != ostiary.NotFound || m.ID != "" || len(f.events) != before+1 || f.events[before].Refused == "" || f.events[before].JWS != "" {
				t.Fatalf("derived %+v, recorded %+v, %v", m, f.events[before:], err)
			}
		})
	}
	t.Run("back to one above", func(t *testing.T) {
		if _, err := f.derive(t, "c", f.ids[2], ostiary.Mandate{Agent: agentNamed("a")}); ostiary.KindOf(err) != ostiary.Denied {
			t.Fatal(err)
		}
	})
	t.Run("no depth left", func(t *testing.T) {
		f.enrol(t, "e")
		if _, err := f.derive(t, "d", f.ids[3], ostiary.Mandate{Agent: agentNamed("e")}); ostiary.AsError(err).Field != "depth" {
			t.Fatal(err)
		}
	})
	t.Run("by somebody who proved nothing", func(t *testing.T) {
		_, err := f.DeriveMandate(t.Context(), ostiary.Subject{Agent: agentNamed("a"), Mandate: f.ids[0]}, ostiary.Mandate{Agent: agentNamed("d")})
		if ostiary.KindOf(err) != ostiary.Denied {
			t.Fatal(err)
		}
	})
	t.Run("another's mandate", func(t *testing.T) {
		if _, err := f.derive(t, "b", f.ids[0], ostiary.Mandate{Agent: agentNamed("d")}); ostiary.KindOf(err) != ostiary.Denied {
			t.Fatal(err)
		}
	})
	t.Run("a thousand a second", func(t *testing.T) {
		many := 0
		for range 200 {
			if _, err := f.derive(t, "a", f.ids[0], ostiary.Mandate{Agent: agentNamed("d")}); err == nil {
				many++
			} else if k := ostiary.KindOf(err); k != ostiary.Exhausted {
				t.Fatal(err)
			}
		}
		if many == 0 || many == 200 {
			t.Fatalf("%d of 200 derived", many)
		}
	})
}

func TestIssueRefuses(t *testing.T) {
	f := newFamily(t)
	for name, change := range map[string]func(*ostiary.Mandate){
		"no kind":             func(m *ostiary.Mandate) { m.Kind = ostiary.NoMandateKind },
		"nobody enrolled":     func(m *ostiary.Mandate) { m.Agent = agentNamed("ghost") },
		"no end":              func(m *ostiary.Mandate) { m.Expires = time.Time{} },
		"an end that is over": func(m *ostiary.Mandate) { m.Expires = f.time() },
		"too long a task":     func(m *ostiary.Mandate) { m.Expires = f.time().Add(identity.MaxTaskLife + time.Minute) },
		"too long a grant": func(m *ostiary.Mandate) {
			m.Kind, m.Reason, m.Expires = ostiary.GrantMandate, "r", f.time().Add(9*time.Hour)
		},
		"too long an emergency": func(m *ostiary.Mandate) {
			m.Kind, m.Reason, m.Expires = ostiary.BreakGlassMandate, "r", f.time().Add(2*time.Hour)
		},
		"a later beginning":  func(m *ostiary.Mandate) { m.NotBefore = f.time().Add(2 * time.Hour) },
		"a parent":           func(m *ostiary.Mandate) { m.Parent = f.ids[0] },
		"no principal":       func(m *ostiary.Mandate) { m.Principal = "dana" },
		"another's standing": func(m *ostiary.Mandate) { m.Kind, m.Principal = ostiary.StandingMandate, "organisation:o" },
	} {
		m := f.task("a")
		change(&m)
		if got, err := f.IssueMandate(t.Context(), dana, m); err == nil || got.ID != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := f.IssueMandate(t.Context(), "nobody", f.task("a")); err == nil {
		t.Error("given by nobody")
	}
}

// J04, L02: what ends one ends all below it, and nothing above it.
func TestEndings(t *testing.T) {
	revoke := func(kind identity.RevocationKind, subject string) func(*testing.T, *family) {
		return func(t *testing.T, f *family) {
			if _, err := f.Revoke(t.Context(), identity.Revocation{Kind: kind, Subject: subject, Reason: "r"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	end := func(i int, how identity.EndHow) func(*testing.T, *family) {
		return func(t *testing.T, f *family) {
			for range 2 { // the second changes nothing
				if err := f.EndMandate(t.Context(), "eve", f.ids[i], how, "done"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		do    func(*testing.T, *family)
		acts  string
		state string // of the last
	}{
		"nothing":             {func(*testing.T, *family) {}, "abcd", "in_force"},
		"the first completed": {end(0, identity.EndCompleted), "", "completed"},
		"one between revoked": {end(1, identity.EndRevoked), "a", "revoked"},
		"the last completed":  {end(3, identity.EndCompleted), "abc", "completed"},
		"an agent between":    {revoke(identity.RevokeAgent, string(agentNamed("b"))), "a", "revoked"},
		"the first agent":     {revoke(identity.RevokeAgent, string(agentNamed("a"))), "", "revoked"},
		"the person":          {revoke(identity.RevokePerson, string(dana)), "", "revoked"},
		"another person":      {revoke(identity.RevokePerson, "person:eve"), "abcd", "in_force"},
		"time":                {func(t *testing.T, f *family) { f.pass(time.Hour) }, "", "expired"},
		"an agent is disabled": {func(t *testing.T, f *family) {
			f.registry.Change(agentNamed("b"), func(r *identity.AgentRecord) { r.Disabled = true })
			must(t, f.Refresh(t.Context()))
		}, "a", "revoked"},
		"an agent came back": {func(t *testing.T, f *family) {
			revoke(identity.RevokeAgent, string(agentNamed("a")))(t, f)
			f.pass(time.Second)
			f.certs["a"] = f.enrol(t, "a")
		}, "", "revoked"},
		"the person again gives one": {func(t *testing.T, f *family) {
			revoke(identity.RevokePerson, string(dana))(t, f)
			m, err := f.IssueMandate(t.Context(), dana, f.task("a"))
			must(t, err)
			f.ids[0] = m.ID
		}, "a", "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFamily(t)
			if got := f.acts(t); got != "abcd" {
				t.Fatalf("before, %q act", got)
			}
			c.do(t, f)
			if got := f.acts(t); got != c.acts {
				t.Fatalf("%q act, want %q", got, c.acts)
			}
			v, err := f.MandateView(t.Context(), f.ids[3])
			if err != nil || v.State != c.state {
				t.Fatalf("the last is %s (%v), want %s", v.State, err, c.state)
			}
			// L02: also after a start anew.
			again := *f
			var opened *identity.Authority
			if opened, err = identity.Open(t.Context(), f.opts); err != nil {
				t.Fatal(err)
			}
			again.bench = &bench{Authority: opened, opts: f.opts, registry: f.registry}
			again.bench.now.Store(f.now.Load())
			if got := again.acts(t); got != c.acts {
				t.Fatalf("after a start anew %q act, want %q", got, c.acts)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// L02: a registry from before an end is noticed, as one from before a
// revocation is.
func TestEndRaisesTheEpoch(t *testing.T) {
	f := newFamily(t)
	before := f.Epoch()
	must(t, f.EndMandate(t.Context(), "eve", f.ids[1], identity.EndRevoked, "r"))
	if f.Epoch() != before+1 {
		t.Fatalf("epoch %d after %d", f.Epoch(), before)
	}
	o := f.opts
	o.Registry = &identitytest.Registry{}
	if _, err := identity.Open(t.Context(), o); ostiary.KindOf(err) != ostiary.Corrupt {
		t.Fatalf("an older registry was believed: %v", err)
	}
}

// L05: whatever the clock does, an ended mandate does not come back.
func TestMandateAndTheClock(t *testing.T) {
	f := newFamily(t)
	f.pass(61 * time.Minute)
	if got := f.acts(t); got != "" {
		t.Fatalf("%q act after the end", got)
	}
	f.pass(-2 * time.Hour)
	if got := f.acts(t); got != "" {
		t.Fatalf("%q act again, the clock went back", got)
	}
	must(t, f.Refresh(t.Context()))
	if got := f.acts(t); got != "" {
		t.Fatalf("%q act again after a refresh", got)
	}
}

func TestOnlyOwnMandates(t *testing.T) {
	f := newFamily(t)
	for name, c := range map[string]ostiary.Credentials{
		"another's":      under(f.certs["b"], f.ids[0]),
		"an unknown one": under(f.certs["a"], "m-none"),
		"the gateway's":  under(f.certs["a"], identity.GatewayMandate),
	} {
		if s, err := f.Authenticate(t.Context(), c); ostiary.KindOf(err) != ostiary.Denied || !s.IsZero() {
			t.Errorf("%s: %+v %v", name, s, err)
		}
	}
	// A token is for the mandate it says.
	token, err := f.MintToken(t.Context(), identity.TokenRequest{Agent: agentNamed("b"), Audience: "https://gw/mcp", Mandate: f.ids[1]})
	must(t, err)
	c := ostiary.Credentials{Bearer: token.Text, Audience: "https://gw/mcp", Encrypted: true}
	if s, err := f.Authenticate(t.Context(), c); err != nil || s.Mandate != f.ids[1] || len(s.Chain) != 2 {
		t.Errorf("%+v %v", s, err)
	}
	own, _ := f.Agent(agentNamed("b"))
	c.Mandate = own.Mandate
	if s, err := f.Authenticate(t.Context(), c); ostiary.KindOf(err) != ostiary.Denied || !s.IsZero() {
		t.Errorf("%+v %v", s, err)
	}
}

// Standing mandates expire, and a person renews them; one that takes the place
// of another ends it.
func TestStandingMandates(t *testing.T) {
	f := newFamily(t, func(o *identity.Options) { o.MandateLife = 2 * time.Hour })
	record, _ := f.Agent(agentNamed("a"))
	f.pass(10 * time.Minute)
	renewed, err := f.RenewMandate(t.Context(), "person:eve", agentNamed("a"))
	must(t, err)
	if got, _ := f.Agent(agentNamed("a")); got.Mandate != renewed.ID || renewed.By != "person:eve" || renewed.Principal != dana || !renewed.Expires.After(f.time().Add(119*time.Minute)) {
		t.Fatalf("%+v is under %+v", got, renewed)
	}
	if _, ok := f.Mandate(record.Mandate); !ok {
		t.Error("the one before does not run to its end")
	}
	if _, err := f.Authenticate(t.Context(), under(f.certs["a"], record.Mandate)); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("the one before can be chosen: %v", err)
	}
	narrow := ostiary.Mandate{Kind: ostiary.StandingMandate, Principal: dana, Agent: agentNamed("a"), Purpose: "standing", Actions: []string{"bank___balance"}, Resources: []string{"bank"}}
	narrow, err = f.IssueMandate(t.Context(), "person:eve", narrow)
	must(t, err)
	if _, ok := f.Mandate(renewed.ID); ok {
		t.Error("the one it took the place of is in force")
	}
	f.certs["a"] = f.enrol(t, "other") // a certificate of somebody else changes nothing
	if got, _ := f.Agent(agentNamed("a")); got.Mandate != narrow.ID {
		t.Errorf("its standing mandate is %s", got.Mandate)
	}
	must(t, f.EndMandate(t.Context(), "eve", narrow.ID, identity.EndRevoked, "r"))
	if _, err := f.RenewMandate(t.Context(), "person:eve", agentNamed("a")); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("a revoked mandate is renewed: %v", err)
	}
}

// A join token may say what the standing mandate covers, so that a new agent
// is narrow from its first moment.
func TestJoinNarrow(t *testing.T) {
	b := open(t)
	terms, err := identity.ParseTerms([]byte(`{"purpose":"read","actions":["inbox___list"],"servers":["inbox"],"ceilings":[{"action":"*","pointer":"/n","max":10}],"for":"36h","depth":1}`))
	must(t, err)
	secret, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: agentNamed("r"), Principal: dana, By: "person:eve", Terms: terms.JSON()}, 0)
	must(t, err)
	_, record, err := b.Enrol(t.Context(), string(secret.Reveal()), csr(t, newKey(t), nil))
	must(t, err)
	m, ok := b.Mandate(record.Mandate)
	if !ok || fmt.Sprintln(m.Actions, m.Resources, m.Ceilings, m.By, m.Principal, m.Depth, m.Purpose) != "[inbox___list] [inbox] [{* /n 10 }] person:eve person:dana 1 read\n" || m.Expires.After(b.time().Add(36*time.Hour)) {
		t.Fatalf("%+v", m)
	}
	if _, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: agentNamed("r"), Principal: dana, Terms: []byte(`{"server":["x"]}`)}, 0); ostiary.KindOf(err) != ostiary.Malformed {
		t.Errorf("terms that are none were taken: %v", err)
	}
}

// Every fault twice: nothing is in force that is not recorded, and what was
// stored although it was reported failed ends like any other.
func TestMandateFaults(t *testing.T) {
	for _, op := range []string{"create_mandate", "end_mandate"} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprint(op, " lost ", lost), func(t *testing.T) {
				f := newFamily(t)
				fault := func(o string) error {
					if o == op {
						return ostiary.Errorf(ostiary.Unavailable, "injected", "injected")
					}
					return nil
				}
				if f.registry.Fail = fault; lost {
					f.registry.Fail, f.registry.Lost = nil, fault
				}
				m, err := f.IssueMandate(t.Context(), dana, f.task("a"))
				if (op == "create_mandate") != (err != nil) || err != nil && m.ID != "" {
					t.Fatalf("%+v %v", m, err)
				}
				err = f.EndMandate(t.Context(), "eve", f.ids[0], identity.EndRevoked, "r")
				if (op == "end_mandate") != (err != nil) {
					t.Fatal(err)
				}
				f.registry.Fail, f.registry.Lost = nil, nil
				must(t, f.EndMandate(t.Context(), "eve", f.ids[0], identity.EndRevoked, "again"))
				must(t, f.Refresh(t.Context()))
				if got := f.acts(t); got != "" {
					t.Fatalf("%q act", got)
				}
			})
		}
	}
}

func TestUnrecordedMandate(t *testing.T) {
	broken := false
	f := newFamily(t, func(o *identity.Options) {
		record := o.Record
		o.Record = func(ctx context.Context, e identity.Event) error {
			if broken {
				return ostiary.Errorf(ostiary.Unavailable, "injected", "injected")
			}
			return record(ctx, e)
		}
	})
	broken = true
	if m, err := f.IssueMandate(t.Context(), dana, f.task("a")); err == nil {
		t.Fatalf("given without a record: %+v", m)
	}
	if _, err := f.derive(t, "a", f.ids[0], ostiary.Mandate{Agent: agentNamed("d")}); err == nil {
		t.Fatal("derived without a record")
	}
	if err := f.EndMandate(t.Context(), "eve", f.ids[0], identity.EndRevoked, "r"); err == nil {
		t.Fatal("ended without a record")
	}
	if got := f.acts(t); got != "abcd" {
		t.Fatalf("%q act", got)
	}
}

func TestMandateList(t *testing.T) {
	f := newFamily(t)
	glass := f.task("a")
	glass.Kind, glass.Reason, glass.Expires = ostiary.BreakGlassMandate, "the bank is on fire", time.Time{}
	glass, err := f.IssueMandate(t.Context(), "person:eve", glass)
	must(t, err)
	waiting, err := f.Mandates(t.Context(), identity.MandateFilter{Review: true})
	if err != nil || len(waiting) != 1 || waiting[0].Mandate.ID != glass.ID || waiting[0].Mandate.Reason != glass.Reason || !glass.Expires.Before(f.time().Add(16*time.Minute)) {
		t.Fatalf("%+v %v", waiting, err)
	}
	must(t, f.ReviewMandate(t.Context(), "fay", glass.ID))
	if waiting, err = f.Mandates(t.Context(), identity.MandateFilter{Review: true}); err != nil || len(waiting) != 0 {
		t.Fatalf("%+v %v", waiting, err)
	}
	must(t, f.EndMandate(t.Context(), "eve", f.ids[1], identity.EndCompleted, "done"))
	all, err := f.Mandates(t.Context(), identity.MandateFilter{Principal: dana, Agent: agentNamed("d")})
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v %v", all, err)
	}
	for _, v := range all {
		if v.Mandate.Kind == ostiary.TaskMandate && (v.State != "completed" || v.With != f.ids[1]) {
			t.Errorf("%s is %s with %s", v.Mandate.ID, v.State, v.With)
		}
	}
	if _, err := f.MandateView(t.Context(), "m-none"); ostiary.KindOf(err) != ostiary.NotFound {
		t.Error(err)
	}
}

// An agent gives up what it holds or derived, and nothing else.
func TestEndOwn(t *testing.T) {
	f := newFamily(t)
	s, err := f.Authenticate(t.Context(), under(f.certs["b"], f.ids[1]))
	must(t, err)
	standing, _ := f.Agent(agentNamed("b"))
	for _, id := range []ostiary.MandateID{f.ids[0], f.ids[3], standing.Mandate, "m-none"} {
		if err := f.EndOwnMandate(t.Context(), s, id, "r"); ostiary.KindOf(err) != ostiary.NotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
	must(t, f.EndOwnMandate(t.Context(), s, f.ids[2], "done"))
	if got := f.acts(t); got != "ab" {
		t.Errorf("%q act", got)
	}
	must(t, f.EndOwnMandate(t.Context(), s, f.ids[1], "done"))
	if got := f.acts(t); got != "a" {
		t.Errorf("%q act", got)
	}
}

// Whatever bytes claim to be terms, what is read says the same when it is
// written and read again.
func FuzzTerms(f *testing.F) {
	f.Add(`{"agent":"a","actions":["x"],"servers":["y"],"ceilings":[{"action":"x","pointer":"/a","max":1.50,"unit":"EUR"}],"budget":{"money":[{"currency":"EUR","minor":5}],"calls":1},"for":"30d"}`)
	f.Add(`{"until":"2026-11-20T12:00:00Z","depth":1,"classes":[],"approvers":["*"]}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		terms, err := identity.ParseTerms([]byte(text))
		if err != nil {
			if ostiary.KindOf(err) != ostiary.Malformed {
				t.Fatal(err)
			}
			return
		}
		again, err := identity.ParseTerms(terms.JSON())
		if err != nil || string(again.JSON()) != string(terms.JSON()) {
			t.Fatalf("%s\n%s\n%v", terms.JSON(), again.JSON(), err)
		}
		terms.Mandate(time.Unix(0, 0))
	})
}

// A token that is limited by scopes hands on no more than they reach, though
// its mandate has more: whoever gets the part is not limited by the token.
func TestDeriveWithinScopes(t *testing.T) {
	f := newFamily(t)
	all := f.task("a")
	all.Resources = []string{"bank", "mail"}
	wide, err := f.IssueMandate(t.Context(), dana, all)
	must(t, err)
	all.Resources = []string{"*"}
	every, err := f.IssueMandate(t.Context(), dana, all)
	must(t, err)
	holder := func(m ostiary.MandateID, scopes ...string) ostiary.Subject {
		s, err := f.Authenticate(t.Context(), under(f.certs["a"], m))
		must(t, err)
		s.Via, s.Scopes = ostiary.ViaToken, scopes
		return s
	}
	for name, c := range map[string]struct {
		m      ostiary.MandateID
		scopes []string
		asks   []string
		gets   []string // nil: refused
	}{
		"unlimited, and says nothing":         {wide.ID, nil, nil, []string{"bank", "mail"}},
		"limited, and says nothing":           {wide.ID, []string{"mcp", "server:bank"}, nil, []string{"bank"}},
		"limited, under everything":           {every.ID, []string{"mcp", "server:bank"}, nil, []string{"bank"}},
		"asks for its own":                    {every.ID, []string{"mcp", "server:bank", "server:mail"}, []string{"mail"}, []string{"mail"}},
		"asks for what its mandate has":       {wide.ID, []string{"mcp", "server:bank"}, []string{"bank", "mail"}, nil},
		"asks for everything":                 {every.ID, []string{"mcp", "server:bank"}, []string{"*"}, nil},
		"may only connect":                    {wide.ID, []string{"mcp"}, nil, nil},
		"scopes beyond its mandate":           {wide.ID, []string{"mcp", "server:disk"}, nil, nil},
		"asks for scopes beyond its mandate":  {wide.ID, []string{"mcp", "server:disk"}, []string{"disk"}, nil},
		"a word that is not for a server":     {every.ID, []string{"mcp", "server:"}, nil, nil},
		"a word with a star is no wider name": {every.ID, []string{"mcp", "server:*"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := f.DeriveMandate(t.Context(), holder(c.m, c.scopes...), ostiary.Mandate{Agent: agentNamed("b"), Resources: c.asks})
			if c.gets == nil {
				if ostiary.KindOf(err) != ostiary.Denied {
					t.Errorf("%v: it got %v", err, m.Resources)
				}
			} else if err != nil || !slices.Equal(m.Resources, c.gets) {
				t.Errorf("%v, %v", m.Resources, err)
			}
		})
	}
}

// What ended with the person it is from is not renewed in passing: a list of
// agents to renew says nothing of persons.
func TestRenewOfTheRevoked(t *testing.T) {
	f := newFamily(t)
	if _, err := f.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokePerson, Subject: string(dana), At: f.time()}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Authenticate(t.Context(), svid(f.certs["a"])); err == nil {
		t.Fatal("the agent of a revoked person acts")
	}
	if _, err := f.RenewMandate(t.Context(), "person:eve", agentNamed("a")); ostiary.KindOf(err) != ostiary.Denied {
		t.Errorf("a mandate that ended with its person is renewed: %v", err)
	}
	if _, err := f.Authenticate(t.Context(), svid(f.certs["a"])); err == nil {
		t.Error("the agent of a revoked person acts again")
	}
}

// The log says that something ended only if it can end: a reason that cannot
// be kept is refused before anything is written.
func TestReasonsThatCannotBeKept(t *testing.T) {
	f := newFamily(t)
	s, err := f.Authenticate(t.Context(), under(f.certs["a"], f.ids[0]))
	must(t, err)
	before := len(f.events)
	for name, reason := range map[string]string{"long": strings.Repeat("x", 4097), "no UTF-8": "\xff", "NUL": "a\x00b"} {
		for what, err := range map[string]error{
			"completing": f.EndOwnMandate(t.Context(), s, f.ids[0], reason),
			"ending":     f.EndMandate(t.Context(), "eve", f.ids[0], identity.EndRevoked, reason),
			"revoking": func() error {
				_, err := f.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokePerson, Subject: string(dana), Reason: reason})
				return err
			}(),
		} {
			if err == nil || ostiary.KindOf(err) != ostiary.Malformed {
				t.Errorf("%s, for a reason that is %s: %v", what, name, err)
			}
		}
	}
	if n := len(f.events) - before; n != 0 {
		t.Errorf("%d ends are recorded", n)
	}
	if got := f.acts(t); got != "abcd" {
		t.Errorf("%q act", got)
	}
}

// A join token is a right that a person gave: it ends with them, like what they
// gave before, also if nobody used it yet. One that is made afterwards is
// somebody's new decision.
func TestJoinTokenOfTheRevoked(t *testing.T) {
	for name, by := range map[string]ostiary.PrincipalID{"on whose authority": "", "who made it": "person:eve"} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			left := by
			if left == "" {
				left = dana
			}
			old, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: agentNamed("r"), Principal: dana, By: by}, 0)
			must(t, err)
			b.pass(time.Second)
			if _, err := b.Revoke(t.Context(), identity.Revocation{Kind: identity.RevokePerson, Subject: string(left), Reason: "left"}); err != nil {
				t.Fatal(err)
			}
			b.pass(time.Second)
			chain, _, err := b.Enrol(t.Context(), string(old.Reveal()), csr(t, newKey(t), nil))
			if ostiary.KindOf(err) != ostiary.Unauthenticated || ostiary.AsError(err).Code != "join_token_revoked" {
				t.Errorf("an old token: %v", err)
			}
			if _, ok := b.Agent(agentNamed("r")); ok || len(chain) != 0 {
				t.Error("the agent is enrolled")
			}
			next, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: agentNamed("r"), Principal: dana, By: by}, 0)
			must(t, err)
			if _, _, err := b.Enrol(t.Context(), string(next.Reveal()), csr(t, newKey(t), nil)); err != nil {
				t.Errorf("a token that is made afterwards: %v", err)
			}
		})
	}
}
