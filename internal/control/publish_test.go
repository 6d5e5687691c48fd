package control

import (
	"context"
	"errors"
	"fmt"
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
	done    bool // it is recorded all the same
	actions []string
}

func (l *changelog) Append(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	if l.fail == nil || l.done {
		l.actions = append(l.actions, e.Action)
	}
	return ostiary.Receipt{}, l.fail
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

	for _, log.done = range []bool{false, true} {
		unrecorded(t, c, log, state)
	}
	log.fail, log.done, log.actions = nil, false, nil
	if tools, p, err := c.Accept(ctx, "bank", "", "dana"); err != nil || len(tools) != 1 || p.Number != 1 {
		t.Errorf("%d accepted, snapshot %d: %v %v", len(tools), p.Number, err, p.Problems)
	}
	if len(log.actions) != 2 || log.actions[0] != "accept_definition" || log.actions[1] != "publish_snapshot" {
		t.Errorf("recorded %q", log.actions)
	}
	lostSnapshots(t, c, state, dir)
}

// unrecorded: a change whose recording failed, or nobody knows of, is not made.
func unrecorded(t *testing.T, c *Control, log *changelog, state store.Store) {
	t.Helper()
	ctx := t.Context()
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
}

// lossySnapshots is a store of snapshots that fails to store.
type lossySnapshots struct {
	policy.Snapshots
	done bool
	fail error
}

func (s *lossySnapshots) SaveSnapshot(ctx context.Context, number uint64, signed []byte) error {
	if s.fail == nil || s.done {
		if err := s.Snapshots.SaveSnapshot(ctx, number, signed); err != nil {
			return err
		}
	}
	return s.fail
}

// lostSnapshots: a snapshot that was not stored is not active; one that was
// stored all the same is found by the next to publish, or to follow.
func lostSnapshots(t *testing.T, c *Control, state store.Store, dir string) {
	t.Helper()
	lossy := &lossySnapshots{Snapshots: state}
	c.o.Snapshots = lossy
	for i, done := range []bool{false, true} {
		before := c.o.Engine.Active().Number()
		text := fmt.Sprintf("@id(\"look%d\")\npermit (principal, action == Ostiary::Action::\"list_tools\", resource);\n", i)
		if err := os.WriteFile(filepath.Join(dir, "p.cedar"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lossy.done, lossy.fail = done, errors.New("the answer was lost")
		if _, err := c.Publish(t.Context()); err == nil || c.o.Engine.Active().Number() != before {
			t.Errorf("happened %v: %v, and snapshot %d is active", done, err, c.o.Engine.Active().Number())
		}
		lossy.fail = nil
		if p, err := c.Publish(t.Context()); err != nil || p.Number != before+1 || c.o.Engine.Active().Number() != before+1 {
			t.Errorf("happened %v, asked again: %v, snapshot %d, active %d", done, err, p.Number, c.o.Engine.Active().Number())
		}
		if n, _, err := state.NewestSnapshot(t.Context()); n != before+1 || err != nil {
			t.Errorf("happened %v: snapshot %d is the newest, %v", done, n, err)
		}
	}
}
