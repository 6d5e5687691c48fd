package approval_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/deferred"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/store"
)

// I03, BAR-31: a thousand calls under one consent, through two gates that
// share a store, reach the server once; and one byte more reaches it never.
func TestThousandRedemptions(t *testing.T) {
	s, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var sent atomic.Int64
	var intents sync.Map
	who := ostiary.Subject{Agent: "spiffe://td/agent/pay", Principal: "person:dana", Mandate: "m1", Via: ostiary.ViaToken, Chain: []ostiary.AgentID{"spiffe://td/agent/pay"}}
	decide := func(r *ostiary.Request) ostiary.Decision {
		d := ostiary.Decision{Code: "forbid", Policy: policyDigest, Snapshot: 1, Remedies: []ostiary.Remedy{{Fact: "approval:finance", Policy: "p"}}}
		if slices.Contains(r.Context.Satisfied, "approval:finance") {
			d = ostiary.Decision{Permit: true, Code: "permit", Policy: policyDigest, Snapshot: 1}
		}
		return d
	}
	gateway := func() (*approval.Approvals, *gate.Gate) {
		w := newWorld(t, func(o *approval.Options) {
			o.Store = s
			o.Judge = func(_ context.Context, c *deferred.Call) (*ostiary.Request, *ostiary.Decision, error) {
				r := &ostiary.Request{Subject: c.Subject, Action: c.Action}
				d := decide(r)
				return r, &d, nil
			}
		})
		return w.a, gatetest.New(gatetest.Neighbours{
			Subject: who, Decide: decide,
			Append: func(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
				if e.Kind == ostiary.KindIntent {
					intents.Store(e.ID, e.Approval)
				}
				return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: 7}, Origin: "x", Time: e.Time}, nil
			},
			Forward: func(_ context.Context, c *gate.Clearance) (gate.Stream, error) {
				if _, err := c.Redeem(); err != nil {
					return nil, err
				}
				sent.Add(1)
				return gatetest.Result(nil), nil
			},
			Options: func(o *gate.Options) { o.Holder, o.Consents, o.Facts = keeper{w.a}, w.a, facts{o.Facts, w.a} },
		})
	}
	a, one := gateway()
	_, two := gateway()
	action := *action2(t, `{"account":9007199254740992}`)
	_, err = one.Handle(t.Context(), gate.Call{Action: action})
	id := ostiary.HoldID(ostiary.AsError(err).Field)
	if code(err) != "held" {
		t.Fatal(err)
	}
	v, _, err := a.Ask(t.Context(), id, "person:erin", yes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Cast(t.Context(), approval.Ballot{Vote: sign(v, "key of erin")}); err != nil {
		t.Fatal(err)
	}
	other := gate.Call{Action: *action2(t, `{"account":9007199254740993}`), Approval: id}
	if _, err := one.Handle(t.Context(), other); code(err) != "approval_bytes" || sent.Load() != 0 {
		t.Fatalf("I02: one byte more: %v, sent %d", err, sent.Load())
	}
	var all sync.WaitGroup
	var through atomic.Int64
	for i := range 1000 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			g := one
			if i%2 == 1 {
				g = two
			}
			_, _, err := g.Settle(ctx, gate.Call{Credentials: ostiary.Credentials{Held: &who}, Action: action, Approval: id})
			if err == nil {
				through.Add(1)
			} else if c := code(err); c != "approval_spent" && c != "hold_moved" {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	n := 0
	intents.Range(func(_, of any) bool {
		n++
		if of != id {
			t.Errorf("an intent under %q", of)
		}
		return true
	})
	h, err := a.One(t.Context(), id)
	if through.Load() != 1 || sent.Load() != 1 || n != 1 || err != nil || h.State != ostiary.HoldSpent {
		t.Errorf("%d went through, %d sent, %d intents, %+v, %v", through.Load(), sent.Load(), n, h, err)
	}
	if _, spent := intents.Load(h.Intent); !spent {
		t.Errorf("it was spent for %v, which is no intent of the log", h.Intent)
	}
}

// keeper and facts are the daemon's adapters.
type keeper struct{ a *approval.Approvals }

func (k keeper) Hold(ctx context.Context, r *ostiary.Request, d *ostiary.Decision) (ostiary.HoldID, error) {
	return k.a.Hold(ctx, r, d)
}

type facts struct {
	gate.Facts
	a *approval.Approvals
}

func (f facts) Resolve(ctx context.Context, s ostiary.Subject, call *gate.Call) (*ostiary.Request, error) {
	r, err := f.Facts.Resolve(ctx, s, call)
	if err != nil {
		return nil, err
	}
	r.Context.Mandate.Approvers = []string{"*"}
	if call.Approval != "" {
		r.Context.Approval = call.Approval
		r.Context.Satisfied, err = f.a.Satisfied(ctx, call.Approval, r)
	}
	return r, err
}
