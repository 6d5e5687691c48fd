package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
)

// bench is an authority with a clock that tests move.
type bench struct {
	*identity.Authority
	opts     identity.Options
	registry *identitytest.Registry
	now      atomic.Int64
	mu       sync.Mutex
	events   []identity.Event
}

func open(t testing.TB, with ...func(*identity.Options)) *bench {
	t.Helper()
	b := &bench{opts: identitytest.Options(t)}
	b.now.Store(time.Date(2026, 11, 20, 12, 0, 0, 123456789, time.UTC).UnixNano())
	b.opts.Clock = func() time.Time { return time.Unix(0, b.now.Load()) }
	b.registry = b.opts.Registry.(*identitytest.Registry)
	b.opts.Record = func(_ context.Context, e identity.Event) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
		return nil
	}
	for _, f := range with {
		f(&b.opts)
	}
	var err error
	if b.Authority, err = identity.Open(t.Context(), b.opts); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) pass(d time.Duration) { b.now.Add(int64(d)) }

func (b *bench) join(t testing.TB, name string) string {
	t.Helper()
	id, err := b.AgentID(name)
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: id, Principal: "person:dana", Roles: []string{"b", "a", "b"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(secret.Reveal())
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t testing.TB, key any, template *x509.CertificateRequest) []byte {
	t.Helper()
	if template == nil {
		template = &x509.CertificateRequest{}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// enrol returns the SVID of a new agent.
func (b *bench) enrol(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	chain, _, err := b.Enrol(t.Context(), b.join(t, name), csr(t, newKey(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, chain[0])
}

// mint returns a bearer token.
func (b *bench) mint(ctx context.Context, id ostiary.AgentID, audience string, life time.Duration) (ostiary.Secret, time.Time, error) {
	t, err := b.MintToken(ctx, identity.TokenRequest{Agent: id, Audience: audience, Life: life})
	return t.Text, t.Expires, err
}

func svid(c *x509.Certificate) ostiary.Credentials {
	return ostiary.Credentials{Peer: c, Verified: true, Encrypted: true}
}

// refusedAs fails unless err is of the kind and its visible part says nothing
// of the cause.
func refusedAs(t *testing.T, err error, kind ostiary.Kind, codes ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	e := ostiary.AsError(err)
	if e.Kind != kind {
		t.Fatalf("refused as %s: %v; want %s", e.Kind, err, kind)
	}
	if len(codes) > 0 && !slices.Contains(codes, e.Code) {
		t.Fatalf("refused with %q, want one of %q", e.Code, codes)
	}
	if kind == ostiary.Unauthenticated && e.Err != nil && strings.Contains(e.Detail, e.Err.Error()) {
		t.Fatalf("the reason is shown: %q", e.Detail)
	}
}

func TestEnrolAndAuthenticate(t *testing.T) {
	b := open(t)
	cert := b.enrol(t, "planner")
	s, err := b.Authenticate(t.Context(), svid(cert))
	if err != nil {
		t.Fatal(err)
	}
	if s.Agent != "spiffe://test.example/agent/planner" || s.Principal != "person:dana" || !s.Bound || s.Via != ostiary.ViaSVID || s.Mandate == "" {
		t.Fatalf("subject %+v", s)
	}
	if s.Key != ostiary.DigestOf(cert.RawSubjectPublicKeyInfo) || len(s.Chain) != 1 || s.Chain[0] != s.Agent {
		t.Fatalf("subject %+v", s)
	}
	if want := time.Unix(0, b.now.Load()).UTC().Truncate(time.Microsecond); !s.Issued.Equal(want) {
		t.Fatalf("issued %s, want %s", s.Issued, want)
	}
	record, known := b.Agent(s.Agent)
	mandate, stands := b.Mandate(s.Mandate)
	posture := b.Posture(s.Agent)
	if !known || !stands || record.Zone != "default" || len(record.Roles) != 2 || mandate.Kind != ostiary.StandingMandate || !posture.OK || posture.Method != "join_token" {
		t.Fatalf("facts %+v %+v %+v", record, mandate, posture)
	}
	if !mandate.Covers(&ostiary.Action{Name: "x___y"}, &ostiary.Resource{Server: "x"}, b.opts.Clock()) {
		t.Fatal("the standing mandate covers nothing")
	}
	var what []string
	for _, e := range b.events {
		what = append(what, e.What)
	}
	if strings.Join(what, " ") != "join_token enrol" {
		t.Fatalf("recorded %v", what)
	}
}

// The authority opens again on what it left, with the root's key gone.
func TestReopen(t *testing.T) {
	b := open(t)
	cert := b.enrol(t, "planner")
	b.opts.Keys.(*identitytest.Keys).Forget("ca-root")
	again, err := identity.Open(t.Context(), b.opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Authenticate(t.Context(), svid(cert)); err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != b.Fingerprint() {
		t.Fatal("another root")
	}
	b.pass(300 * 24 * time.Hour) // a new intermediate is due
	if _, err := identity.Open(t.Context(), b.opts); err == nil || !strings.Contains(err.Error(), "ca-root") {
		t.Fatalf("opened without the root's key: %v", err)
	}
}

func TestIntermediateIsRenewed(t *testing.T) {
	b := open(t)
	b.enrol(t, "planner")
	b.pass(300 * 24 * time.Hour)
	again, err := identity.Open(t.Context(), b.opts)
	if err != nil {
		t.Fatal(err)
	}
	b.Authority = again
	if _, err := b.Authenticate(t.Context(), svid(b.enrol(t, "second"))); err != nil {
		t.Fatal(err)
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	cert := b.enrol(t, "planner")
	good, err := b.Authenticate(ctx, svid(cert))
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := b.mint(ctx, good.Agent, "https://gw/mcp", 0)
	if err != nil {
		t.Fatal(err)
	}
	foreign := open(t).enrol(t, "planner") // same name, same domain, another authority
	for name, c := range map[string]ostiary.Credentials{
		"nothing":               {},
		"not verified by TLS":   {Peer: cert},
		"E13 two credentials":   {Peer: cert, Verified: true, Bearer: token, Audience: "https://gw/mcp", Encrypted: true},
		"another authority":     svid(foreign),
		"a copied Self":         {Self: &ostiary.Self{Agent: b.Self().Agent}},
		"an empty held subject": {Held: &ostiary.Subject{}},
		"a held Self":           {Held: &ostiary.Subject{Agent: b.Self().Agent, Via: ostiary.ViaSelf, Mandate: identity.GatewayMandate}},
		"a token in plain text": {Bearer: token, Audience: "https://gw/mcp"},
		"F01 another audience":  {Bearer: token, Audience: "https://gw/other", Encrypted: true},
		"no audience known":     {Bearer: token, Encrypted: true},
		"E14 quotes":            {Bearer: ostiary.NewSecret([]byte("' OR '1'='1")), Audience: "x", Encrypted: true},
		"E14 NUL and unicode":   {Bearer: ostiary.NewSecret([]byte("a\x00.é.ü")), Audience: "x", Encrypted: true},
		"E14 1 MiB":             {Bearer: ostiary.NewSecret(make([]byte, 1<<20)), Audience: "x", Encrypted: true},
		"a join token":          {Bearer: ostiary.NewSecret([]byte(b.join(t, "other"))), Audience: "x", Encrypted: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := b.Authenticate(ctx, c)
			refusedAs(t, err, ostiary.Unauthenticated)
			if !s.IsZero() {
				t.Fatalf("and yet a subject: %+v", s)
			}
		})
	}
}

func TestSelfAndHeld(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	s, err := b.Authenticate(ctx, ostiary.Credentials{Self: b.Self()})
	if err != nil || s.Agent != "spiffe://test.example/ostiary/gateway" || s.Via != ostiary.ViaSelf || !s.Bound {
		t.Fatalf("%+v %v", s, err)
	}
	if p := b.Posture(s.Agent); !p.OK || s.Mandate != identity.GatewayMandate {
		t.Fatalf("%+v %+v", s, p)
	}
	cert := b.enrol(t, "planner")
	live, err := b.Authenticate(ctx, svid(cert))
	if err != nil {
		t.Fatal(err)
	}
	b.pass(5 * time.Hour) // longer than any SVID: people take their time
	held, err := b.Authenticate(ctx, ostiary.Credentials{Held: &live})
	if err != nil || held.Via != ostiary.ViaHeld || held.Agent != live.Agent || held.Key != live.Key {
		t.Fatalf("%+v %v", held, err)
	}
	if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: string(live.Agent)}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Authenticate(ctx, ostiary.Credentials{Held: &live})
	refusedAs(t, err, ostiary.Unauthenticated)
}

func TestTimes(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	cert := b.enrol(t, "planner")
	b.pass(-10 * time.Second) // a clock a little behind the issuer's
	if _, err := b.Authenticate(ctx, svid(cert)); err != nil {
		t.Fatal(err)
	}
	b.pass(identity.DefaultSVIDLife + time.Minute)
	_, err := b.Authenticate(ctx, svid(cert))
	refusedAs(t, err, ostiary.Unauthenticated)

	t.Run("L05 the clock is set back and nothing revives", func(t *testing.T) {
		for _, d := range []time.Duration{-time.Hour, -30 * 365 * 24 * time.Hour} {
			b.pass(d)
			_, err := b.Authenticate(ctx, svid(cert))
			refusedAs(t, err, ostiary.Unauthenticated)
		}
	})
	t.Run("the mandate ends", func(t *testing.T) {
		b := open(t)
		live, err := b.Authenticate(ctx, svid(b.enrol(t, "planner")))
		if err != nil {
			t.Fatal(err)
		}
		b.pass(identity.DefaultMandateLife)
		_, err = b.Authenticate(ctx, ostiary.Credentials{Held: &live})
		refusedAs(t, err, ostiary.Denied, "mandate_ended")
	})
	t.Run("an SVID does not outlive its mandate", func(t *testing.T) {
		b := open(t, func(o *identity.Options) { o.MandateLife = 5 * time.Minute })
		if c := b.enrol(t, "planner"); c.NotAfter.Sub(b.opts.Clock()) > 5*time.Minute {
			t.Fatalf("it ends %s", c.NotAfter)
		}
	})
}

func TestRevocation(t *testing.T) {
	ctx := t.Context()
	for _, kind := range []identity.RevocationKind{identity.RevokeAgent, identity.RevokeSerial, identity.RevokeKey, identity.RevokeMandate, identity.RevokeSession} {
		t.Run(string(kind), func(t *testing.T) {
			b := open(t)
			cert, other := b.enrol(t, "planner"), b.enrol(t, "other")
			s, err := b.Authenticate(ctx, svid(cert))
			if err != nil {
				t.Fatal(err)
			}
			token, _, err := b.mint(ctx, s.Agent, "aud", 0)
			if err != nil {
				t.Fatal(err)
			}
			name := map[identity.RevocationKind]string{
				identity.RevokeAgent: string(s.Agent), identity.RevokeSerial: s.Serial,
				identity.RevokeKey: s.Key.String(), identity.RevokeMandate: string(s.Mandate), identity.RevokeSession: "session",
			}[kind]
			r := identity.Revocation{Kind: kind, Subject: name, Reason: "test"}
			if kind == identity.RevokeSession {
				r.Mandate = s.Mandate
			}
			epoch, err := b.Revoke(ctx, r)
			if err != nil || epoch != 1 || b.Epoch() != 1 {
				t.Fatalf("epoch %d, %v", epoch, err)
			}
			want := ostiary.Unauthenticated
			ofMandate := kind == identity.RevokeMandate || kind == identity.RevokeSession
			if ofMandate {
				want = ostiary.Denied
			}
			_, err = b.Authenticate(ctx, svid(cert))
			refusedAs(t, err, want)
			_, err = b.Authenticate(ctx, ostiary.Credentials{Held: &s})
			refusedAs(t, err, want)
			_, _, err = b.Renew(ctx, s, csr(t, newKey(t), nil))
			refusedAs(t, err, want)
			if kind == identity.RevokeAgent || ofMandate {
				_, err = b.Authenticate(ctx, ostiary.Credentials{Bearer: token, Audience: "aud", Encrypted: true})
				refusedAs(t, err, want)
				_, _, err = b.mint(ctx, s.Agent, "aud", 0)
				refusedAs(t, err, ostiary.Denied, map[identity.RevocationKind]string{identity.RevokeAgent: "agent_revoked", identity.RevokeMandate: "mandate_ended", identity.RevokeSession: "session_ended"}[kind])
			}
			if _, err := b.Authenticate(ctx, svid(other)); err != nil {
				t.Fatalf("another agent is refused too: %v", err)
			}
			b.pass(time.Millisecond)
			if _, err := b.Authenticate(ctx, svid(b.enrol(t, "planner"))); err != nil {
				t.Fatalf("not even a new enrolment helps: %v", err)
			}
			_, err = b.Authenticate(ctx, svid(cert))
			if !ofMandate { // the SVID names no mandate: it stands on the agent's present one
				refusedAs(t, err, ostiary.Unauthenticated)
			}
		})
	}
	t.Run("of nothing known", func(t *testing.T) {
		b := open(t)
		for _, r := range []identity.Revocation{{}, {Kind: "all", Subject: "x"}, {Kind: identity.RevokeAgent, Subject: "planner"}, {Kind: identity.RevokeSerial, Subject: "12"}, {Kind: identity.RevokeKey, Subject: ""},
			{Kind: identity.RevokeSession, Subject: "x"}, {Kind: identity.RevokeSession, Subject: "x", Mandate: identity.GatewayMandate}} {
			_, err := b.Revoke(ctx, r)
			refusedAs(t, err, ostiary.Malformed)
		}
	})
	t.Run("a revoked key is not certified again", func(t *testing.T) {
		b := open(t)
		key := newKey(t)
		chain, _, err := b.Enrol(ctx, b.join(t, "planner"), csr(t, key, nil))
		if err != nil {
			t.Fatal(err)
		}
		digest := ostiary.DigestOf(parse(t, chain[0]).RawSubjectPublicKeyInfo)
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeKey, Subject: digest.String()}); err != nil {
			t.Fatal(err)
		}
		_, _, err = b.Enrol(ctx, b.join(t, "planner"), csr(t, key, nil))
		refusedAs(t, err, ostiary.Denied, "key_revoked")
	})
	t.Run("elsewhere", func(t *testing.T) {
		b := open(t)
		cert := b.enrol(t, "planner")
		b.registry.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/planner", At: b.opts.Clock()})
		if _, err := b.Authenticate(ctx, svid(cert)); err != nil {
			t.Fatal(err)
		}
		if err := b.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		_, err := b.Authenticate(ctx, svid(cert))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
	t.Run("a join token made before", func(t *testing.T) {
		b := open(t)
		cert := b.enrol(t, "planner")
		kept := b.join(t, "planner")
		b.pass(time.Second)
		if got := b.State("spiffe://test.example/agent/planner"); got != "enrolled" {
			t.Errorf("before: %s", got)
		}
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/planner"}); err != nil {
			t.Fatal(err)
		}
		if got := b.State("spiffe://test.example/agent/planner"); got != "revoked" {
			t.Errorf("after: %s", got)
		}
		_, _, err := b.Enrol(ctx, kept, csr(t, newKey(t), nil))
		refusedAs(t, err, ostiary.Unauthenticated, "join_token_revoked")
		_, err = b.Authenticate(ctx, svid(cert))
		refusedAs(t, err, ostiary.Unauthenticated)
		b.pass(time.Second)
		if _, err := b.Authenticate(ctx, svid(b.enrol(t, "planner"))); err != nil {
			t.Errorf("one made after is good: %v", err)
		}
		if got := b.State("spiffe://test.example/agent/planner"); got != "enrolled" {
			t.Errorf("again: %s", got)
		}
		if got := b.State("spiffe://test.example/agent/nobody"); got != "" {
			t.Errorf("nobody: %s", got)
		}
	})
	t.Run("L02 an older registry is refused", func(t *testing.T) {
		b := open(t)
		cert := b.enrol(t, "planner")
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/planner"}); err != nil {
			t.Fatal(err)
		}
		b.opts.Registry = &identitytest.Registry{}
		_, err := identity.Open(ctx, b.opts)
		refusedAs(t, err, ostiary.Corrupt)
		_, err = b.Authenticate(ctx, svid(cert))
		refusedAs(t, err, ostiary.Unauthenticated)
	})
}

func TestDisabledAndChanged(t *testing.T) {
	ctx := t.Context()
	b := open(t)
	cert := b.enrol(t, "planner")
	s, err := b.Authenticate(ctx, svid(cert))
	if err != nil {
		t.Fatal(err)
	}
	b.registry.Change(s.Agent, func(r *identity.AgentRecord) { r.Disabled = true })
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = b.Authenticate(ctx, svid(cert))
	refusedAs(t, err, ostiary.Denied, "agent_disabled")
	b.registry.Change(s.Agent, func(r *identity.AgentRecord) { r.Disabled, r.Principal = false, "person:eve" })
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = b.Authenticate(ctx, ostiary.Credentials{Held: &s})
	refusedAs(t, err, ostiary.Unauthenticated)
}

func TestLease(t *testing.T) {
	b := open(t, func(o *identity.Options) { o.Lease = time.Minute })
	cert := b.enrol(t, "planner")
	b.registry.Fail = func(string) error { return errors.New("no database") }
	b.pass(30 * time.Second)
	if b.Refresh(t.Context()) == nil {
		t.Fatal("refreshed from nothing")
	}
	if _, err := b.Authenticate(t.Context(), svid(cert)); err != nil {
		t.Fatal(err)
	}
	confirmed := b.opts.Clock()
	b.pass(31 * time.Second)
	_, err := b.Authenticate(t.Context(), svid(cert))
	refusedAs(t, err, ostiary.Unavailable)
	b.Confirm(confirmed) // found unchanged half a minute ago
	if _, err := b.Authenticate(t.Context(), svid(cert)); err != nil {
		t.Fatal(err)
	}
	b.Confirm(confirmed.Add(-time.Hour)) // an answer that came late takes nothing back
	if _, err := b.Authenticate(t.Context(), svid(cert)); err != nil {
		t.Fatal(err)
	}
	b.pass(30 * time.Second)
	_, err = b.Authenticate(t.Context(), svid(cert))
	refusedAs(t, err, ostiary.Unavailable)
	b.registry.Fail = nil
	if err := b.Refresh(t.Context()); err != nil { // the registry alone: who knows of the keys?
		t.Fatal(err)
	}
	_, err = b.Authenticate(t.Context(), svid(cert))
	refusedAs(t, err, ostiary.Unavailable)
}

// Whatever fails, and whether or not it happened, nothing is handed out that
// was not recorded, and no revocation is lost.
func TestFaults(t *testing.T) {
	ctx := t.Context()
	boom := errors.New("boom")
	for _, when := range []string{"before", "after"} {
		for _, op := range []string{"redeem", "agents", "mandates", "revocations", "revoke", "create"} {
			t.Run(op+" "+when, func(t *testing.T) {
				b := open(t)
				cert := b.enrol(t, "planner")
				join := b.join(t, "second")
				fail := func(got string) error {
					if got == op {
						return boom
					}
					return nil
				}
				if when == "before" {
					b.registry.Fail = fail
				} else {
					b.registry.Lost = fail
				}
				chain, _, err := b.Enrol(ctx, join, csr(t, newKey(t), nil))
				if touches := op == "redeem" || op == "agents" || op == "mandates" || op == "revocations"; touches != (err != nil) || touches && chain != nil {
					t.Fatalf("enrolled: %v", err)
				}
				_, err = b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: "spiffe://test.example/agent/planner"})
				if touches := op == "revoke" || op == "revocations"; touches != (err != nil) {
					t.Fatalf("revoked: %v", err)
				}
				secret, _, err := b.MintJoinToken(ctx, identity.JoinToken{Agent: "spiffe://test.example/agent/x", Principal: "person:x"}, 0)
				if (op == "create") != (err != nil) || op == "create" && !secret.IsZero() {
					t.Fatalf("minted: %v", err)
				}
				b.registry.Fail, b.registry.Lost = nil, nil
				if err := b.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
				_, err = b.Authenticate(ctx, svid(cert))
				if op == "revoke" && when == "before" {
					return // it did not happen, and the operator was told
				}
				refusedAs(t, err, ostiary.Unauthenticated)
			})
		}
	}
	t.Run("record", func(t *testing.T) {
		var broken atomic.Bool
		b := open(t, func(o *identity.Options) {
			o.Record = func(context.Context, identity.Event) error {
				if broken.Load() {
					return boom
				}
				return nil
			}
		})
		cert, join := b.enrol(t, "planner"), b.join(t, "second")
		s, err := b.Authenticate(ctx, svid(cert))
		if err != nil {
			t.Fatal(err)
		}
		broken.Store(true)
		if chain, _, err := b.Enrol(ctx, join, csr(t, newKey(t), nil)); err == nil || chain != nil {
			t.Fatal("an unrecorded SVID")
		}
		if chain, _, err := b.Renew(ctx, s, csr(t, newKey(t), nil)); err == nil || chain != nil {
			t.Fatal("an unrecorded SVID")
		}
		if token, _, err := b.mint(ctx, s.Agent, "aud", 0); err == nil || !token.IsZero() {
			t.Fatal("an unrecorded token")
		}
		if _, err := b.Revoke(ctx, identity.Revocation{Kind: identity.RevokeAgent, Subject: string(s.Agent)}); err == nil {
			t.Fatal("an unrecorded revocation")
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	a := open(b)
	cert := a.enrol(b, "planner")
	c := svid(cert)
	s, err := a.Authenticate(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := a.mint(b.Context(), s.Agent, "aud", 0)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, c ostiary.Credentials) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Authenticate(context.Background(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("svid", c)
	run("token", ostiary.Credentials{Bearer: token, Audience: "aud", Encrypted: true})
	run("held", ostiary.Credentials{Held: &s})
}

// TestOldCertificateKeepsNobody: joining again on somebody else's authority
// must not put an old certificate, wherever it is, under the new one.
func TestOldCertificateKeepsNobody(t *testing.T) {
	b := open(t)
	id, err := b.AgentID("buyer")
	if err != nil {
		t.Fatal(err)
	}
	enrol := func(who ostiary.PrincipalID) (ostiary.Credentials, [][]byte, *ecdsa.PrivateKey) {
		secret, _, err := b.MintJoinToken(t.Context(), identity.JoinToken{Agent: id, Principal: who}, 0)
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		chain, _, err := b.Enrol(t.Context(), string(secret.Reveal()), csr(t, key, nil))
		if err != nil {
			t.Fatal(err)
		}
		return svid(parse(t, chain[0])), chain, key
	}
	dana, chain, key := enrol("person:dana")
	again, _, _ := enrol("person:dana")
	for _, c := range []ostiary.Credentials{dana, again} {
		if s, err := b.Authenticate(t.Context(), c); err != nil || s.Principal != "person:dana" {
			t.Errorf("%+v %v", s, err)
		}
	}
	b.pass(time.Second)
	erin, _, _ := enrol("person:erin")
	if s, err := b.Authenticate(t.Context(), erin); err != nil || s.Principal != "person:erin" {
		t.Errorf("%+v %v", s, err)
	}
	for _, c := range []ostiary.Credentials{dana, again} {
		if s, err := b.Authenticate(t.Context(), c); ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Errorf("dana's certificate now acts for %s, %v", s.Principal, err)
		}
	}
	if _, _, err := b.Return(t.Context(), chain[0], csr(t, key, nil)); ostiary.KindOf(err) != ostiary.Unauthenticated {
		t.Error("dana's certificate was exchanged for one of erin's:", err)
	}
}
