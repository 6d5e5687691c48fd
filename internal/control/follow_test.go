package control

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/keyring"
	"github.com/ostiary/ostiary/internal/mandate"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// interrupted lets something happen between what a publication reads and what
// it saves.
type interrupted struct {
	policy.Snapshots
	meanwhile func()
}

func (s *interrupted) NewestSnapshot(ctx context.Context) (uint64, []byte, error) {
	n, signed, err := s.Snapshots.NewestSnapshot(ctx)
	if f := s.meanwhile; f != nil {
		s.meanwhile = nil
		f()
	}
	return n, signed, err
}

// TestTwoProcessesPublish: what one process accepts and publishes the other
// follows, and a snapshot of the other never misses it.
func TestTwoProcessesPublish(t *testing.T) {
	ctx := t.Context()
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	key, err := ring.ECDSA("k")
	if err != nil {
		t.Fatal(err)
	}
	mandates, err := mandate.New("example.org", key)
	if err != nil {
		t.Fatal(err)
	}
	state, log, dir := store.NewMemory(), &changelog{}, t.TempDir()
	authority, err := identity.Open(ctx, identity.Options{
		TrustDomain: "example.org", Dir: t.TempDir(), Keys: ring, Registry: state, Mandates: mandates, Record: RecordEvent(log, time.Now),
	})
	if err != nil {
		t.Fatal(err)
	}
	text := "@id(\"look\")\npermit (principal, action == Ostiary::Action::\"list_tools\", resource);\n"
	if err := os.WriteFile(filepath.Join(dir, "main.cedar"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	process := func(s policy.Snapshots) *Control {
		c := New(Options{
			Authority: authority, Book: catalog.New(RecordPins(state, log, authority.Self().Agent, time.Now), time.Now), Engine: policy.New(),
			Snapshots: s, Signer: key, PolicyDir: dir, Changes: log, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
		})
		for _, name := range []string{"pay", "look"} {
			doc, err := strictjson.Parse([]byte(`{"name":"`+name+`","inputSchema":{"type":"object"}}`), strictjson.Schema)
			if err != nil {
				t.Fatal(err)
			}
			c.o.Book.Observe(name, "tool", []ostiary.Tool{catalog.ParseDefinition(name, "tool", doc.Root())})
		}
		return c
	}
	slow := &interrupted{Snapshots: state}
	one, two := process(state), process(slow)

	// Both start on an empty store at the same moment.
	slow.meanwhile = func() {
		if p, err := one.Publish(ctx); err != nil || p.Number != 1 || !p.Changed {
			t.Errorf("%+v %v", p, err)
		}
	}
	if p, err := two.Publish(ctx); err != nil || p.Number != 1 || p.Changed {
		t.Errorf("%+v %v", p, err)
	}

	// One accepts while two publishes.
	slow.meanwhile = func() {
		if _, p, err := one.Accept(ctx, "pay", "", "dana"); err != nil || p.Number != 2 {
			t.Errorf("%+v %v", p, err)
		}
	}
	if _, p, err := two.Accept(ctx, "look", "", "dana"); err != nil || p.Number != 2 || p.Changed { // the other already published both
		t.Errorf("%+v %v", p, err)
	}
	for range 2 { // again changes nothing
		if err := one.Follow(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.o.Book.Load(ctx); err != nil {
		t.Fatal(err)
	}
	a, b := one.o.Engine.Active(), two.o.Engine.Active()
	if a.Number() != 2 || b.Number() != 2 || a.Digest() != b.Digest() {
		t.Errorf("snapshots %d and %d", a.Number(), b.Number())
	}
	if p, err := one.Publish(ctx); err != nil || p.Changed {
		t.Errorf("the last snapshot missed what the other process accepted: %+v %v", p, err)
	}
}
