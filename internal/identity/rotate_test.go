package identity_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

// scheduled is a bench whose keys can be changed.
type scheduled struct {
	*bench
	at   atomic.Pointer[rotation.Schedule]
	keys []rotation.Key
}

func (s *scheduled) Schedule() *rotation.Schedule { return s.at.Load() }

func openScheduled(t *testing.T) *scheduled {
	t.Helper()
	s := &scheduled{}
	s.bench = open(t, func(o *identity.Options) {
		first, err := identity.FirstKeys(o.TrustDomain, o.Dir, o.Keys, o.Clock())
		if err != nil {
			t.Fatal(err)
		}
		s.keys = first
		s.at.Store(rotation.Fixed(first...))
		o.Schedules = s
	})
	return s
}

// rotate makes the next key of a line, which signs in a minute and leaves the
// one before believed for ten.
func (s *scheduled) rotate(t *testing.T, p rotation.Purpose) {
	t.Helper()
	now := s.opts.Clock()
	line := s.Schedule().Keys(p)
	name := rotation.Name(line[0].Name, len(line)+1)
	var k rotation.Key
	var err error
	switch p {
	case rotation.Root:
		k, err = identity.MakeRoot(s.opts.TrustDomain, s.opts.Keys, name, s.Schedule(), now)
	case rotation.Intermediate:
		k, err = identity.MakeIntermediate(s.opts.TrustDomain, s.opts.Keys, name, s.Schedule(), now)
	case rotation.Token:
		k, err = identity.MakeToken(s.opts.Keys, name)
	}
	if err != nil {
		t.Fatal(err)
	}
	k.Purpose, k.Generation, k.Name, k.Created, k.Signs = p, len(line)+1, name, now, now.Add(lead)
	for i := range s.keys {
		if s.keys[i].Purpose == p && s.keys[i].Ends.IsZero() {
			s.keys[i].Ends = k.Signs.Add(window)
		}
	}
	s.keys = append(s.keys, k)
	s.at.Store(rotation.Fixed(s.keys...))
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const (
	lead   = time.Minute
	window = 10 * time.Minute
)

func (s *scheduled) roots(t *testing.T) []*x509.Certificate {
	t.Helper()
	all, err := identity.ReadBundle(s.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// greets reports whether a client that trusts these roots accepts the gateway.
func (s *scheduled) greets(t *testing.T, trust *x509.CertPool) error {
	t.Helper()
	server, client := net.Pipe()
	go func() {
		c := tls.Server(addressed{server}, s.ServerTLS())
		_ = c.Handshake()
		server.Close()
	}()
	defer client.Close()
	return tls.Client(client, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: trust, Time: s.opts.Clock, NextProtos: []string{"http/1.1"}}).Handshake()
}

type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// BAR-34: what an intermediate signed is believed in its window, and refused
// afterwards also where it was accepted a moment ago.
func TestRotateIntermediate(t *testing.T) {
	s := openScheduled(t)
	old := s.enrol(t, "old")
	authenticates := func(c *x509.Certificate) error {
		_, err := s.Authenticate(t.Context(), svid(c))
		return err
	}
	s.rotate(t, rotation.Intermediate)
	if next := s.enrol(t, "before"); string(next.AuthorityKeyId) != string(old.AuthorityKeyId) {
		t.Error("the new intermediate signs before its time")
	}
	s.pass(lead)
	young := s.enrol(t, "after")
	if string(young.AuthorityKeyId) == string(old.AuthorityKeyId) {
		t.Error("the old intermediate signs after its time")
	}
	for name, c := range map[string]*x509.Certificate{"old": old, "new": young} {
		if err := authenticates(c); err != nil {
			t.Errorf("%s certificate within the window: %v", name, err)
		}
	}
	s.pass(window - time.Second)
	if err := authenticates(old); err != nil {
		t.Errorf("a second before the window ends: %v", err)
	}
	s.pass(time.Second)
	refusedAs(t, authenticates(old), ostiary.Unauthenticated)
	again := parse(t, old.Raw) // one that nobody remembers
	refusedAs(t, authenticates(again), ostiary.Unauthenticated)
	if err := authenticates(young); err != nil {
		t.Errorf("the new certificate after the window: %v", err)
	}
	s.pass(20 * time.Minute) // it has ended, and could be exchanged
	if _, _, err := s.Return(t.Context(), old.Raw, csr(t, newKey(t), nil)); err == nil {
		t.Error("a certificate of a refused intermediate is exchanged for a new one")
	}
}

// BAR-34: whoever knows only the old root is greeted until its window ends,
// whoever knows only the new one from when it is published.
func TestRotateRoot(t *testing.T) {
	s := openScheduled(t)
	c := s.enrol(t, "worker")
	first, print := s.roots(t), s.Fingerprint()
	s.rotate(t, rotation.Root)
	both := s.roots(t)
	if len(first) != 1 || len(both) != 2 || !both[0].Equal(first[0]) {
		t.Fatalf("%d roots, then %d", len(first), len(both))
	}
	if got, ok := identity.CheckBundle(both, print); !ok || len(got) != 1 || !got[0].Equal(first[0]) || s.Fingerprint() != print {
		t.Error("a fingerprint handed out before does not vouch for the old root")
	}
	for _, at := range []time.Duration{0, lead, window - time.Second} {
		s.pass(at)
		for name, trust := range map[string]*x509.CertPool{"old": pool(first...), "both": pool(both...)} {
			if err := s.greets(t, trust); err != nil {
				t.Errorf("a client that knows %s, %v on: %v", name, at, err)
			}
		}
	}
	s.rotate(t, rotation.Intermediate) // under both roots
	s.pass(lead)
	if got := s.roots(t); len(got) != 1 || !got[0].Equal(both[1]) {
		t.Errorf("%d roots after the window", len(got))
	}
	if s.Fingerprint() == print {
		t.Error("the fingerprint is still the old root's")
	}
	if err := s.greets(t, pool(both[1])); err != nil {
		t.Errorf("a client that knows the new root alone: %v", err)
	}
	if err := s.greets(t, pool(first...)); err == nil {
		t.Error("the gateway leads to a root that is refused")
	}
	if _, err := s.Authenticate(t.Context(), svid(c)); err != nil { // its intermediate is believed, by the new root's word
		t.Errorf("a certificate from before: %v", err)
	}
}

// BAR-34, E10: tokens of the old key are good in its window. A verifier with a
// key set from before knows every token signed before the new key signs, and
// one that read the set while the new key was published knows all.
func TestRotateToken(t *testing.T) {
	s := openScheduled(t)
	s.enrol(t, "worker")
	id, err := s.AgentID("worker")
	if err != nil {
		t.Fatal(err)
	}
	mint := func() string {
		text, _, err := s.mint(t.Context(), id, "https://gw/mcp", 0)
		if err != nil {
			t.Fatal(err)
		}
		return string(text.Reveal())
	}
	opens := func(token string) error {
		_, err := s.Authenticate(t.Context(), ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(token)), Audience: "https://gw/mcp", Encrypted: true})
		return err
	}
	reads := func(set []byte, token string) error {
		keys, err := jwt.ParseSet(set)
		if err == nil {
			_, err = jwt.AccessToken.Read(token, keys)
		}
		return err
	}
	stale := s.TokenKeys()
	s.rotate(t, rotation.Token)
	published := s.TokenKeys()
	s.pass(lead - time.Second)
	before := mint()
	s.pass(time.Second)
	after := mint()
	for name, c := range map[string]struct {
		set   []byte
		token string
		good  bool
	}{
		"a stale set, an old token":       {stale, before, true},
		"a stale set, a new token":        {stale, after, false}, // it reads the set again, by the unknown kid
		"a published set, an old token":   {published, before, true},
		"a published set, a new token":    {published, after, true},
		"the present set, an old token":   {s.TokenKeys(), before, true},
		"the present set, a new token":    {s.TokenKeys(), after, true},
		"another's kid over an old token": {published, foreignKID(t, before, after), false},
	} {
		if err := reads(c.set, c.token); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, token := range []string{before, after} {
		if err := opens(token); err != nil {
			t.Errorf("within the window: %v", err)
		}
	}
	s.pass(window - 2*time.Minute)
	late := mint()
	s.pass(2 * time.Minute) // after has two seconds less to live than the window
	refusedAs(t, opens(before), ostiary.Unauthenticated)
	if err := opens(late); err != nil {
		t.Errorf("the new key after the window: %v", err)
	}
	if strings.Contains(string(s.TokenKeys()), kid(t, before)) {
		t.Error("a refused key is still published")
	}

	// A kid names a key and is never a path, a query or an address.
	for _, name := range []string{"../../keys/token", "token", "g2-token", "/etc/passwd", "https://evil.example/jwks", "' OR 1=1 --", "\x00", strings.Repeat("k", 4000)} {
		refusedAs(t, opens(withKID(t, s, late, name)), ostiary.Unauthenticated)
	}
}

// revoke refuses a key in the schedule, and nothing else is told of it: as
// where what follows from a schedule could not be put in force.
func (s *scheduled) revoke(p rotation.Purpose, generation int) {
	for i := range s.keys {
		if k := &s.keys[i]; k.Purpose == p && k.Generation == generation {
			k.Ends, k.Revoked = s.opts.Clock().Add(time.Minute), "it was seen" // by a clock that is ahead of ours
		}
	}
	s.at.Store(rotation.Fixed(s.keys...))
}

// What a revoked key signed is refused from the moment the schedule says so,
// whether or not anything was made of the schedule.
func TestRevokedKeyIsRefusedAtOnce(t *testing.T) {
	s := openScheduled(t)
	s.rotate(t, rotation.Token)
	s.rotate(t, rotation.Intermediate)
	old := s.enrol(t, "worker")
	id, err := s.AgentID("worker")
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := s.mint(t.Context(), id, "https://gw/mcp", 0)
	if err != nil {
		t.Fatal(err)
	}
	s.pass(lead)
	young := s.enrol(t, "young")
	fresh := parse(t, old.Raw) // one that nobody remembers
	tries := map[string]func() error{
		"a certificate that is remembered": func() error { _, err := s.Authenticate(t.Context(), svid(old)); return err },
		"a token that is remembered": func() error {
			_, err := s.Authenticate(t.Context(), ostiary.Credentials{Bearer: text, Audience: "https://gw/mcp", Encrypted: true})
			return err
		},
		"a token that is talked about": func() error { _, err := s.ReadToken(string(text.Reveal())); return err },
	}
	for name, try := range tries {
		if err := try(); err != nil {
			t.Fatalf("%s, before: %v", name, err)
		}
	}
	s.revoke(rotation.Token, s.keys[2].Generation)
	s.revoke(rotation.Intermediate, s.keys[1].Generation)
	tries["a certificate that is not"] = func() error { _, err := s.Authenticate(t.Context(), svid(fresh)); return err }
	tries["a certificate that is exchanged"] = func() error {
		_, _, err := s.Return(t.Context(), old.Raw, csr(t, newKey(t), nil))
		return err
	}
	for name, try := range tries {
		t.Run(name, func(t *testing.T) { refusedAs(t, try(), ostiary.Unauthenticated) })
	}
	if _, err := s.Authenticate(t.Context(), svid(young)); err != nil {
		t.Errorf("a certificate of the next intermediate: %v", err)
	}
}

// Who waits for people, or reads a reply, is refused when a key that signed
// what they showed is revoked, and not when its window merely ended.
func TestHeldUntilItsKeyIsRevoked(t *testing.T) {
	for name, p := range map[string]rotation.Purpose{"a token's": rotation.Token, "a certificate's": rotation.Intermediate} {
		for _, when := range []string{"while it signs", "in its window", "after its window"} {
			t.Run(name+" key, "+when, func(t *testing.T) {
				s := openScheduled(t)
				cert := s.enrol(t, "worker")
				live, err := s.Authenticate(t.Context(), svid(cert))
				if p == rotation.Token {
					text, _, merr := s.mint(t.Context(), live.Agent, "https://gw/mcp", 0)
					if merr != nil {
						t.Fatal(merr)
					}
					live, err = s.Authenticate(t.Context(), ostiary.Credentials{Bearer: text, Audience: "https://gw/mcp", Encrypted: true})
				}
				if err != nil || len(live.Signers) != 1 {
					t.Fatalf("%v, signed by %v", err, live.Signers)
				}
				confirm := func(h ostiary.Subject) error {
					_, err := s.Authenticate(t.Context(), ostiary.Credentials{Held: &h})
					return err
				}
				if when != "while it signs" {
					s.rotate(t, p)
					s.pass(lead)
				}
				if when == "after its window" {
					s.pass(window)
				}
				again, err := s.Authenticate(t.Context(), ostiary.Credentials{Held: &live})
				if err != nil {
					t.Fatal("before:", err)
				}
				stored := live
				stored.Signers = nil // by a gateway that did not keep them
				refusedAs(t, confirm(stored), ostiary.Unauthenticated)
				stored.Signers = []string{live.Signers[0], "another"}
				refusedAs(t, confirm(stored), ostiary.Unauthenticated)

				s.revoke(p, s.Schedule().Keys(p)[0].Generation)
				refusedAs(t, confirm(live), ostiary.Unauthenticated)
				refusedAs(t, confirm(again), ostiary.Unauthenticated)
			})
		}
	}
}

// A key that is refused while nobody looked is refused all the same: stages
// are made ahead, and need no step of ours.
func TestStagesPassByThemselves(t *testing.T) {
	s := openScheduled(t)
	old := s.enrol(t, "old")
	s.rotate(t, rotation.Intermediate)
	s.rotate(t, rotation.Root)
	s.pass(48 * time.Hour)
	if n := len(s.roots(t)); n != 1 {
		t.Errorf("%d roots", n)
	}
	young := s.enrol(t, "young")
	if _, err := s.Authenticate(t.Context(), svid(young)); err != nil {
		t.Error(err)
	}
	refusedAs(t, func() error { _, err := s.Authenticate(t.Context(), svid(old)); return err }(), ostiary.Unauthenticated)
}

func kid(t *testing.T, token string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
	if err != nil {
		t.Fatal(err)
	}
	var h struct {
		KID string `json:"kid"`
	}
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	return h.KID
}

// foreignKID puts one token's header before another's claims and signature.
func foreignKID(t *testing.T, token, other string) string {
	t.Helper()
	return other[:strings.IndexByte(other, '.')] + token[strings.IndexByte(token, '.'):]
}

// withKID signs a token's claims anew, by the right key, under another name.
func withKID(t *testing.T, s *scheduled, token, name string) string {
	t.Helper()
	key, err := s.opts.Keys.ECDSA(s.Schedule().Current(rotation.Token, s.opts.Clock()).Name)
	if err != nil {
		t.Fatal(err)
	}
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	out, err := jwt.AccessToken.Sign(key, name, json.RawMessage(body))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// BenchmarkSVID compares issuing a certificate, with everything that is
// checked and recorded, with the bare primitive in the same run, and with the
// two primitives that it needs: the request's signature is checked too.
func BenchmarkSVID(b *testing.B) {
	s := open(b, func(o *identity.Options) { o.SVIDLife = time.Hour })
	leaf := s.enrol(b, "worker")
	subject, err := s.Authenticate(b.Context(), svid(leaf))
	if err != nil {
		b.Fatal(err)
	}
	key := newKey(b)
	request := csr(b, key, nil)
	parent, signer := issuer(b)
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		b.Fatal(err)
	}
	var ours, bare, proven time.Duration
	for b.Loop() {
		begin := time.Now()
		if _, _, err := s.Renew(b.Context(), subject, request); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begin)
		begin = time.Now()
		t := *leaf
		t.Raw, t.RawTBSCertificate, t.Signature = nil, nil, nil
		if _, err := x509.CreateCertificate(rand.Reader, &t, parent, key.Public(), signer); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(begin)
		begin = time.Now()
		if err := asked.CheckSignature(); err != nil {
			b.Fatal(err)
		}
		proven += time.Since(begin)
	}
	b.ReportMetric(float64(bare)/float64(ours), "of-bare")
	b.ReportMetric(float64(bare+proven)/float64(ours), "of-bare+proof")
	b.ReportMetric(float64(b.N)/ours.Seconds(), "SVIDs/s")
}

func issuer(b *testing.B) (*x509.Certificate, *ecdsa.PrivateKey) {
	b.Helper()
	keys := &identitytest.Keys{}
	first, err := identity.FirstKeys("bare.example", b.TempDir(), keys, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	c, err := x509.ParseCertificate(first[1].Certificates[0])
	if err != nil {
		b.Fatal(err)
	}
	key, err := keys.ECDSA(first[1].Name)
	if err != nil {
		b.Fatal(err)
	}
	return c, key
}
