package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/rotation"
	"github.com/ostiary/ostiary/proof"
)

// keyed is an agent with a certificate: its client trusts the roots it was
// given then, and no others.
type keyed struct {
	client *http.Client
	chain  [][]byte
	bundle []*x509.Certificate
}

// without a token no header is sent.
type tokenless struct{ http.RoundTripper }

func (t tokenless) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("Authorization") == "Bearer " {
		r.Header.Del("Authorization")
	}
	return t.RoundTripper.RoundTrip(r)
}

func (s *stand) keyed(name string) *keyed {
	s.Helper()
	ctx := s.Context()
	id, err := s.d.authority.AgentID(name)
	s.check(err)
	secret, _, err := s.d.authority.MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:dana", Owner: "dana", Zone: "default"}, 0)
	s.check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.check(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	s.check(err)
	k := &keyed{}
	k.chain, _, err = s.d.authority.Enrol(ctx, string(secret.Reveal()), csr)
	s.check(err)
	k.bundle, err = identity.ReadBundle(s.d.authority.Bundle())
	s.check(err)
	pool := x509.NewCertPool()
	for _, c := range k.bundle {
		pool.AddCert(c)
	}
	k.client = &http.Client{Transport: tokenless{&http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "localhost", Time: s.clock.now,
		Certificates: []tls.Certificate{{Certificate: k.chain, PrivateKey: key}},
	}}}}
	s.Cleanup(k.client.CloseIdleConnections)
	return k
}

// with calls the tool over mutual TLS; fresh does it on a new connection.
func (s *stand) with(ctx context.Context, k *keyed, fresh bool) error {
	if fresh {
		k.client.CloseIdleConnections()
	}
	r := &running{d: s.d, url: "https://" + s.d.agents.Addr().String() + "/mcp"}
	status, body, err := r.post(ctx, k.client, "", "tools/call", "bank___balance",
		fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___balance","arguments":{"note":"x"},%s}}`, meta))
	if err == nil && (status != http.StatusOK || !strings.Contains(body, `"7"`)) {
		err = fmt.Errorf("%d %s", status, body)
	}
	return err
}

// traffic is calls without a pause, of which none may fail.
type traffic struct {
	stop  func() int64
	calls *atomic.Int64
}

func (s *stand) traffic(also ...*stand) traffic {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var n atomic.Int64
	held, fresh := s.keyed("held"), s.keyed("fresh-connections")
	run := func(name string, call func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := call(); err != nil && ctx.Err() == nil {
					s.Errorf("%s, after %d calls: %v", name, n.Load(), err)
					return
				}
				n.Add(1)
			}
		})
	}
	for i, x := range append([]*stand{s}, also...) {
		run(fmt.Sprint("a token at ", i), func() error {
			if why := x.call("known", patience); why != "" {
				return fmt.Errorf("%s", why)
			}
			return nil
		})
	}
	run("a connection that is kept", func() error { return s.with(context.Background(), held, false) })
	run("new connections", func() error { return s.with(context.Background(), fresh, true) })
	return traffic{func() int64 { cancel(); wg.Wait(); return n.Load() }, &n}
}

// more waits until so many more calls went through.
func (s *stand) more(t traffic, n int64) {
	s.Helper()
	from := t.calls.Load()
	if !within(s.Context(), patience, func() bool { return t.calls.Load() >= from+n || s.Failed() }) {
		s.Fatal("no calls go through")
	}
}

func (s *stand) state(key string) (out control.KeyState) {
	s.Helper()
	all, err := s.d.Keys(s.Context())
	s.check(err)
	for _, k := range all {
		if k.Key == key {
			return k
		}
	}
	s.Fatalf("there is no key %s", key)
	return out
}

func (s *stand) turned(key, state string) {
	s.Helper()
	if !within(s.Context(), patience, func() bool { return s.state(key).State == state }) {
		s.Fatalf("%s is %s, not %s", key, s.state(key).State, state)
	}
}

// settled waits until what follows from the schedule is done here.
func (s *stand) settled(generation int) {
	s.Helper()
	suffix := fmt.Sprintf(".%02d", generation)
	for what, done := range map[string]func() bool{
		"the logs": func() bool {
			return strings.HasSuffix(s.d.journal.gateway.Origin(), suffix) && strings.HasSuffix(s.d.journal.deployment.Origin(), suffix)
		},
		"the data keys": func() bool { return strings.HasPrefix(s.state(fmt.Sprint("storage-", generation)).Progress, "all ") },
		"the snapshot": func() bool {
			number, signed, err := s.d.store.NewestSnapshot(s.Context())
			if err != nil || number == 0 {
				return false
			}
			_, err = policy.Open(signed, s.d.keys.snapshots().Signs.Public())
			return err == nil
		},
	} {
		if !within(s.Context(), patience, done) {
			s.Errorf("%s did not follow", what)
		}
	}
}

// BAR-34: each key, and then all of them, are changed while calls run. None
// fails; what was signed before is good; the log verifies across each change.
func TestRotateUnderTraffic(t *testing.T) {
	s := newStand(t, stance{})
	first := s.d.journal.gateway.Key()
	origin := s.d.journal.gateway.Origin()
	running := s.traffic()
	s.more(running, 20)
	for _, p := range rotation.Purposes() {
		_, err := s.d.RotateKeys(t.Context(), control.RotateRequest{Purposes: []string{string(p)}, Lead: "300ms"})
		s.check(err)
		s.more(running, 10)
		s.turned(string(p)+"-2", "current")
		s.more(running, 10)
	}
	s.settled(2)
	_, err := s.d.RotateKeys(t.Context(), control.RotateRequest{Purposes: []string{"all"}, Lead: "300ms"})
	s.check(err)
	for _, p := range rotation.Purposes() {
		s.turned(string(p)+"-3", "current")
	}
	s.settled(3)
	s.check(s.mint("known"))
	s.more(running, 50)
	if n := running.stop(); n < 200 {
		t.Logf("%d calls", n)
	}
	var changes []string
	s.check(s.d.journal.deployment.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
		if r.Entry.Action == "rotate_key" {
			changes = append(changes, r.Entry.Action)
		}
		return nil
	}))
	if len(changes) != 2*len(rotation.Purposes()) {
		t.Errorf("%d changes of keys are recorded", len(changes))
	}
	s.cancel()
	s.check(<-s.ended)
	s.ended <- nil
	report, err := proof.VerifyDir(filepath.Join(s.dir, "ostiary-data/log"), proof.Options{Keys: map[string]string{origin: first}})
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, l := range report.Logs {
		if strings.HasPrefix(l.Origin, origin) && l.KeyKnown {
			known++
		}
	}
	if known != 3 {
		t.Errorf("who knows the first key believes %d logs of 3", known)
	}
	s.run() // everything opens again, by the keys that are current
	s.check(s.mint("known"))
	if why := s.call("known", patience); why != "" {
		t.Error("after a restart:", why)
	}
}

// BAR-34: what a key signed is refused when its window has ended, by the
// clock and by nothing else, also on a connection that is open.
func TestRefusedAfterItsWindow(t *testing.T) {
	s := newStand(t, stance{})
	worker := s.keyed("worker")
	s.check(s.with(t.Context(), worker, false))
	_, err := s.d.RotateKeys(t.Context(), control.RotateRequest{Purposes: []string{"all"}, Lead: "0s", Window: "2m", Force: true})
	s.check(err)
	for _, p := range rotation.Purposes() {
		s.turned(string(p)+"-1", "retiring")
	}
	s.check(s.with(t.Context(), worker, false))
	if why := s.call("known", patience); why != "" {
		t.Error("a token within the window:", why)
	}
	later := s.keyed("later")
	old := s.tokens["known"]
	s.check(s.mint("known"))
	s.settled(2)

	s.clock.move(2 * time.Minute)
	if err := s.with(t.Context(), worker, false); err == nil || !strings.HasPrefix(err.Error(), "401") {
		t.Error("a certificate under a refused intermediate, on the connection it had:", err)
	}
	young := s.tokens["known"]
	s.tokens["known"] = old
	if why := s.call("known", patience); why != "credentials" {
		t.Errorf("a token by a refused key: %q", why)
	}
	s.tokens["known"] = young
	if !within(t.Context(), patience, func() bool { return s.with(t.Context(), later, true) == nil }) {
		t.Error("a certificate under the new intermediate is refused:", s.with(t.Context(), later, true))
	}
	// The standing mandate is signed by the mandate key that was refused, in good faith or not.
	if !within(t.Context(), patience, func() bool { return s.call("known", patience) != "" }) {
		t.Error("a mandate by a refused key is still in force")
	}
	if !within(t.Context(), patience, func() bool { return !s.d.ring.Has("data-keys") }) {
		t.Error("the old storage key was not destroyed")
	}
	s.each(func(r *ledger.Record) {
		if err := s.d.journal.gateway.Unseal(t.Context(), r); len(r.Sealed) > 0 && err != nil {
			t.Errorf("entry %s opens no more: %v", r.Ref, err)
		}
	})
}

// A second process on the same database follows without a restart, and a key
// that is revoked on one is refused on the other.
func TestSecondProcessFollows(t *testing.T) {
	keys := t.TempDir()
	one := newStand(t, stance{postgres: true, keys: filepath.Join(keys, "keys")})
	dir, err := os.MkdirTemp("", "stand")
	one.check(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	two := &stand{T: t, dir: dir, client: one.client, tokens: one.tokens}
	two.say.Store("")
	two.file("policy/main.cedar", policyOfStand)
	two.text = "gateway: gw2\n" + one.text
	two.file("ostiary.yaml", two.text)
	two.run()
	t.Cleanup(two.end)
	two.tokens = map[string]string{}
	two.check(two.mint("known"))

	running := one.traffic(two)
	one.more(running, 20)
	_, err = one.d.RotateKeys(t.Context(), control.RotateRequest{Purposes: []string{"all"}, Lead: "2s"})
	one.check(err)
	for _, p := range rotation.Purposes() {
		one.turned(string(p)+"-2", "current")
		two.turned(string(p)+"-2", "current")
	}
	one.settled(2)
	two.settled(2)
	one.more(running, 20)
	if one.state("token-2").ID != two.state("token-2").ID {
		t.Error("they have different keys")
	}
	running.stop()

	one.check(one.mint("known"))
	if why := two.crossed(one); why != "" {
		t.Error("a token of one at the other:", why)
	}
	_, err = one.d.RevokeKey(t.Context(), control.RevokeKeyRequest{Key: "token-2", Reason: "it was seen"})
	one.check(err)
	if why := one.call("known", patience); why != "credentials" {
		t.Errorf("a token by a revoked key: %q", why)
	}
	if !within(t.Context(), patience, func() bool { return two.call("known", patience) == "credentials" }) {
		t.Error("the other process believes a revoked key")
	}
	one.check(one.mint("known"))
	if why := one.call("known", patience); why != "" {
		t.Error("a token by the next key:", why)
	}
}

// A process that cannot put in force what it read of keys, because the next one
// is not in its folder, refuses what the revoked one signed at once, and
// everybody when its lease ends.
func TestTurnFails(t *testing.T) {
	keys := t.TempDir()
	one := newStand(t, stance{postgres: true, keys: filepath.Join(keys, "keys")})
	one.check(copyKeys(filepath.Join(keys, "keys"), filepath.Join(keys, "copy")))
	dir, err := os.MkdirTemp("", "stand")
	one.check(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	two := &stand{T: t, dir: dir, client: one.client, tokens: map[string]string{}}
	two.say.Store("")
	two.file("policy/main.cedar", policyOfStand)
	two.text = "gateway: gw2\n" + strings.Replace(one.text, filepath.Join(keys, "keys"), filepath.Join(keys, "copy"), 1)
	two.file("ostiary.yaml", two.text)
	two.run()
	t.Cleanup(two.end)
	two.check(two.mint("known"))
	worker := two.keyed("worker")
	if why := two.call("known", patience); why != "" {
		t.Fatal(why)
	}
	two.check(two.with(t.Context(), worker, false))

	_, err = one.d.RevokeKey(t.Context(), control.RevokeKeyRequest{Key: "token-1", Reason: "it was seen"})
	one.check(err)
	if !within(t.Context(), patience, func() bool { return two.call("known", patience) != "" }) {
		t.Error("a process without the next key believes the revoked one")
	}
	two.clock.move(lease + time.Second)
	if err := two.with(t.Context(), worker, false); err == nil || !strings.HasPrefix(err.Error(), "503") {
		t.Errorf("after its lease: %v", err)
	}
	one.check(copyKeys(filepath.Join(keys, "keys"), filepath.Join(keys, "copy")))
	if !within(t.Context(), patience, func() bool { return two.with(t.Context(), worker, false) == nil }) {
		t.Error("with the next key it does not go on:", two.with(t.Context(), worker, false))
	}
}

// copyKeys copies a folder of keys, which only its owner may read.
func copyKeys(from, to string) error {
	return filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		if e.IsDir() {
			return os.MkdirAll(at, 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(at, b, 0o600)
	})
}

// crossed calls here with a token the other made for this gateway.
func (s *stand) crossed(other *stand) string {
	id, err := other.d.authority.AgentID("known")
	s.check(err)
	token, err := other.d.authority.MintToken(s.Context(), identity.TokenRequest{Agent: id, Audience: s.d.Endpoint()})
	s.check(err)
	s.tokens["known"] = string(token.Text.Reveal())
	return s.call("known", patience)
}

const policyOfStand = `@id("look") permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);
@id("tools") permit (principal, action in [Ostiary::Action::"bank___balance"], resource);
`
