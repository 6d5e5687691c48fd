package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/store"
)

const (
	// fewRevoked are enough to see a cost that grows; OSTIARY_REVOCATIONS says
	// otherwise.
	fewRevoked = 20_000
	revokers   = 64
	// mostForEach bounds what one more revocation may keep in memory: its name,
	// and its share of a map.
	mostForEach = 300
)

// TestL06RevocationStorm: many revocations at once, made through one process
// while another follows on the same store. Each is in force where it
// was made when its call returns, all of them are with the other at its next
// look, memory grows by what they are, and a start reads them all again.
func TestL06RevocationStorm(t *testing.T) {
	many := fewRevoked
	if text := os.Getenv("OSTIARY_REVOCATIONS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		many = n
	}
	s, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	shared := identitytest.Options(t)
	shared.Registry = s
	open := func() *identity.Authority {
		o := shared
		o.Fence = t.TempDir()
		a, err := identity.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	one, two := open(), open()
	rev, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := follower{daemon: &Daemon{store: s, authority: two, clock: time.Now}, begun: true, seen: rev}
	held := agentOf(t, one, keyOf(many/2))
	if err := two.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.seen, _ = s.Revision(t.Context())

	before := heap()
	ctx, stop := context.WithCancel(t.Context())
	var looks atomic.Int64
	var following sync.WaitGroup
	following.Go(func() {
		tick := time.NewTicker(refreshEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := f.catchUp(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			looks.Add(1)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	begun := time.Now()
	var n atomic.Int64
	var work sync.WaitGroup
	for range revokers {
		work.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(many) {
					return
				}
				epoch, err := one.Revoke(t.Context(), revocation(int(i), many/2))
				if err != nil || one.Epoch() < epoch {
					t.Errorf("epoch %d, in force %d: %v", epoch, one.Epoch(), err)
					return
				}
			}
		})
	}
	work.Wait()
	took := time.Since(begun)
	stop()
	following.Wait()
	if err := f.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	grew := int64(heap()) - int64(before)
	t.Logf("%d revocations in %v, %.0f a second; the other process looked %d times; memory grew by %d KiB for both", many, took.Round(time.Millisecond), float64(many)/took.Seconds(), looks.Load(), grew>>10)
	if each := grew / int64(2*many); each > mostForEach {
		t.Errorf("%d bytes for each revocation, at most %d", each, mostForEach)
	}
	again := open()
	for name, a := range map[string]*identity.Authority{"here": one, "the other": two, "after a start": again} {
		if a.Epoch() != uint64(many) {
			t.Errorf("%s: epoch %d", name, a.Epoch())
		}
		if _, err := a.Authenticate(t.Context(), ostiary.Credentials{Held: &held}); ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Errorf("%s: %v: the one agent that stands on a revoked key may act", name, err)
		}
	}
}

// agentOf enrols the agent whose key the storm ends, as somebody whose call
// waits for an approval: what was proven is kept.
func agentOf(t *testing.T, a *identity.Authority, key ostiary.Digest) ostiary.Subject {
	t.Helper()
	id, err := a.AgentID("held")
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := a.MintJoinToken(t.Context(), identity.JoinToken{Agent: id, Principal: "person:dana"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := a.Enrol(t.Context(), string(secret.Reveal()), csr)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(chain[1])
	if err != nil {
		t.Fatal(err)
	}
	by, err := jwt.KID(issuer.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := a.Agent(id)
	s := ostiary.Subject{
		Agent: id, Principal: rec.Principal, Chain: []ostiary.AgentID{id}, Key: key, Bound: true, Mandate: rec.Mandate,
		Via: ostiary.ViaSVID, Serial: "01", Signers: []string{by}, Issued: time.Now(), Expires: time.Now().Add(time.Hour),
	}
	if _, err := a.Authenticate(t.Context(), ostiary.Credentials{Held: &s}); err != nil {
		t.Fatal(err)
	}
	return s
}

func keyOf(i int) ostiary.Digest { return ostiary.DigestOf(fmt.Appendf(nil, "key %d", i)) }

// revocation is the i-th of the storm: of each kind some, and one of a key.
func revocation(i, key int) identity.Revocation {
	r := identity.Revocation{Kind: identity.RevokeKey, Subject: keyOf(i).String(), Reason: "storm"}
	switch {
	case i == key:
	case i%5 == 1:
		r.Kind, r.Subject = identity.RevokeAgent, fmt.Sprintf("spiffe://test.example/agent/n%d", i)
	case i%5 == 2:
		r.Kind, r.Subject = identity.RevokeSerial, fmt.Sprintf("%040x", i)
	case i%5 == 3:
		r.Kind, r.Subject = identity.RevokeMandate, fmt.Sprintf("m-%032x", i)
	case i%5 == 4:
		r.Kind, r.Subject, r.Mandate = identity.RevokeSession, fmt.Sprintf("%032x", i), ostiary.MandateID(fmt.Sprintf("m-%032x", i))
	}
	return r
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
