package control

import (
	"context"
	"errors"
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

// changelog is a deployment's log that may be out of order.
type changelog struct {
	fail    error
	actions []string
}

func (l *changelog) Append(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	if l.fail != nil {
		return ostiary.Receipt{}, l.fail
	}
	l.actions = append(l.actions, e.Action)
	return ostiary.Receipt{}, nil
}

// TestNothingChangesUnrecorded: a change that cannot be recorded does not
// happen, now or after a restart.
func TestNothingChangesUnrecorded(t *testing.T) {
	ctx := context.Background()
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
	state, log := store.NewMemory(), &changelog{}
	authority, err := identity.Open(ctx, identity.Options{
		TrustDomain: "example.org", Dir: t.TempDir(), Keys: ring, Registry: state, Mandates: mandates,
		Record: RecordEvent(log, time.Now),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "@id(\"look\")\npermit (principal, action == Ostiary::Action::\"list_tools\", resource);\n"
	if err := os.WriteFile(filepath.Join(dir, "p.cedar"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	book := catalog.New(RecordPins(state, log, authority.Self().Agent, time.Now), time.Now)
	c := New(Options{
		Authority: authority, Book: book, Engine: policy.New(), Snapshots: state, Signer: key, PolicyDir: dir,
		Changes: log, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	doc, err := strictjson.Parse([]byte(`{"name":"pay","inputSchema":{"type":"object"}}`), strictjson.Schema)
	if err != nil {
		t.Fatal(err)
	}
	book.Observe("bank", "tool", []ostiary.Tool{catalog.ParseDefinition("bank", "tool", doc.Root())})

	log.fail = errors.New("the disk is full")
	if _, _, err := c.Accept(ctx, "bank", "", "dana"); err == nil {
		t.Error("a definition was accepted unrecorded")
	}
	if pins, err := state.Pins(ctx); err != nil || len(pins) != 0 {
		t.Errorf("%d acceptances are stored that nobody recorded, %v", len(pins), err)
	}
	if _, err := c.Publish(ctx); err == nil || c.o.Engine.Active() != nil {
		t.Error("a snapshot is active unrecorded")
	}
	if n, _, err := state.NewestSnapshot(ctx); n != 0 || err != nil {
		t.Errorf("snapshot %d is stored unrecorded: it would be active after a restart, %v", n, err)
	}

	log.fail = nil
	if tools, p, err := c.Accept(ctx, "bank", "", "dana"); err != nil || len(tools) != 1 || p.Number != 1 {
		t.Errorf("%d accepted, snapshot %d: %v %v", len(tools), p.Number, err, p.Problems)
	}
	if len(log.actions) != 2 || log.actions[0] != "accept_definition" || log.actions[1] != "publish_snapshot" {
		t.Errorf("recorded %q", log.actions)
	}
}
