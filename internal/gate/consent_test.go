package gate_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// consents lets people's consent be anything, and fail in both ways.
type consents struct {
	*world
	spent  []ostiary.EntryID
	failAt string // "satisfied", "spend", "spend, lost"
}

func (c *consents) Satisfied(_ context.Context, id ostiary.HoldID, _ *ostiary.Request) ([]string, error) {
	c.note("satisfied")
	if c.failAt == "satisfied" || id != "h" {
		return nil, errInjected
	}
	return []string{"approval:x"}, nil
}

func (c *consents) Spend(_ context.Context, _ ostiary.HoldID, intent ostiary.EntryID, _ *ostiary.Request, d *ostiary.Decision) error {
	c.note("spend")
	if c.failAt == "spend" {
		return errInjected
	}
	if len(c.spent) > 0 {
		return ostiary.Errorf(ostiary.Conflict, "approval_spent", "used")
	}
	c.spent = append(c.spent, intent)
	if c.failAt == "spend, lost" {
		return errInjected
	}
	return nil
}

// Resolve adds the facts, as the gate's resolver does.
func (c *consents) Resolve(ctx context.Context, s ostiary.Subject, call *gate.Call) (*ostiary.Request, error) {
	r, err := c.world.Resolve(ctx, s, call)
	if err != nil || call.Approval == "" {
		return r, err
	}
	r.Context.Approval = call.Approval
	r.Context.Satisfied, err = c.Satisfied(ctx, call.Approval, r)
	return r, err
}

func consenting() (*world, *consents, *gate.Gate) {
	w := newWorld()
	c := &consents{world: w}
	w.decision = func(r *ostiary.Request) ostiary.Decision {
		if slices.Contains(r.Context.Satisfied, "approval:x") {
			return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1}
		}
		return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:x"}}}
	}
	return w, c, w.gate(func(o *gate.Options) { o.Consents, o.Facts, o.Holder = c, c, &holder{} })
}

func again() gate.Call {
	c := call()
	c.Credentials = ostiary.Credentials{Held: &ostiary.Subject{Agent: "spiffe://td/a"}}
	c.Approval = "h"
	return c
}

// A consent is spent for the Intent that is about to be written, after policy
// decided again and before anything leaves; a second use is refused, and not
// held again.
func TestConsentIsSpentWithItsIntent(t *testing.T) {
	w, c, g := consenting()
	r, err := g.Handle(t.Context(), again())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := read(r); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	want := []string{"confirm", "resolve", "satisfied", "validate", "decide", "spend", "append intent", "forward"}
	if len(w.events) < len(want) || !slices.Equal(w.events[:len(want)], want) {
		t.Errorf("steps %q, want %q", w.events, want)
	}
	if len(c.spent) != 1 || w.entries[0].ID != c.spent[0] || w.entries[0].Approval != "h" {
		t.Errorf("spent for %v, the intent is %v with approval %q", c.spent, w.entries[0].ID, w.entries[0].Approval)
	}
	_, err = g.Handle(t.Context(), again())
	if e := ostiary.AsError(err); e.Code != "approval_spent" || w.sent != 1 {
		t.Errorf("a second use: %v, sent %d", err, w.sent)
	}
}

// Each fault of a consent refuses, twice: it did not happen; it happened and
// was reported failed.
func TestConsentFaults(t *testing.T) {
	for _, failing := range []string{"satisfied", "spend", "spend, lost"} {
		w, c, g := consenting()
		c.failAt = failing
		_, err := g.Handle(t.Context(), again())
		if err == nil || w.sent != 0 || errors.Is(err, gate.ErrNotSent) {
			t.Errorf("%s: %v, sent %d", failing, err, w.sent)
		}
		if o := w.outcomes(); len(o) != 1 || o[0].Disposition != ostiary.Refused || o[0].Approval != "h" || !o[0].Answers.IsZero() {
			t.Errorf("%s: outcomes %+v", failing, o)
		}
	}
}

// A gate without consents, and facts that come from nowhere, let nothing
// through.
func TestConsentFromNowhere(t *testing.T) {
	w, c, _ := consenting()
	without := w.gate(func(o *gate.Options) { o.Facts = c })
	if _, err := without.Handle(t.Context(), again()); err == nil || w.sent != 0 {
		t.Errorf("without consents: %v", err)
	}
	forged := w.gate(func(o *gate.Options) { o.Consents, o.Facts = c, forging{w} })
	if _, err := forged.Handle(t.Context(), call()); ostiary.AsError(err).Code != "resolve_astray" || w.sent != 0 {
		t.Errorf("facts without a consent: %v", err)
	}
}

type forging struct{ *world }

func (f forging) Resolve(ctx context.Context, s ostiary.Subject, c *gate.Call) (*ostiary.Request, error) {
	r, err := f.world.Resolve(ctx, s, c)
	if err == nil {
		r.Context.Satisfied = []string{"approval:x"}
	}
	return r, err
}

// What nobody could consent to is a refusal like any other.
func TestNotHeld(t *testing.T) {
	w, h := newWorld(), &holder{err: gate.ErrNotHeld}
	w.decision = func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:x"}}}
	}
	_, err := w.gate(func(o *gate.Options) { o.Holder = h }).Handle(t.Context(), call())
	if e, o := ostiary.AsError(err), w.outcomes(); e.Code != "forbid" || len(e.Remedies) != 1 || o[0].Disposition != ostiary.Refused {
		t.Errorf("%v, %+v", err, o)
	}
}

// Weighing a call records nothing, spends nothing and sends nothing.
func TestWeigh(t *testing.T) {
	w, c, g := consenting()
	r, d, err := g.Weigh(t.Context(), call())
	if err != nil || r == nil || !d.Requestable() || len(w.entries) != 0 || w.sent != 0 || len(c.spent) != 0 {
		t.Errorf("%+v %v, entries %v", d, err, w.entries)
	}
	w.failAt, w.how = "validate", "error"
	if _, _, err := g.Weigh(t.Context(), call()); err == nil {
		t.Error("what cannot be validated was weighed")
	}
}

// Looking at what waits, however often, takes nothing of its agent's pace and
// carries out nothing that a permit obliges to.
func TestWeighLeavesNoTrace(t *testing.T) {
	w, obliged := newWorld(), 0
	w.contain = ostiary.Throttled
	w.decision = func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1, Obligations: []ostiary.Obligation{{Type: "tell"}}}
	}
	g := w.gate(func(o *gate.Options) {
		o.Obligers = map[string]gate.Obliger{"tell": telling{&obliged}}
	})
	for range 50 {
		if _, d, err := g.Weigh(t.Context(), call()); err != nil || !d.Permit || len(d.Obligations) != 1 {
			t.Fatal(d, err)
		}
	}
	if obliged != 0 {
		t.Errorf("obliged %d times by looking", obliged)
	}
	r, err := g.Handle(t.Context(), call())
	if err != nil || obliged != 1 {
		t.Fatalf("its agent: %v, obliged %d times", err, obliged)
	}
	if n, err := read(r); n != 1 || err != nil {
		t.Error(n, err)
	}
}

type telling struct{ n *int }

func (o telling) Oblige(context.Context, *ostiary.Request, ostiary.Obligation) (*ostiary.Action, error) {
	*o.n++
	return nil, nil
}
