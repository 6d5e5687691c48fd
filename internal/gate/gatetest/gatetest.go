// Package gatetest makes what only the gate can make, for tests of its
// neighbours, by running a real gate with neighbours that agree to
// everything. It guarantees nothing and is imported by tests alone.
package gatetest

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Clear returns a clearance for the call, made by a real gate whose policy
// permits everything. The receipt's entry is 2026-11/7.
func Clear(call gate.Call) *gate.Clearance {
	var got *gate.Clearance
	g := New(Neighbours{Forward: func(_ context.Context, c *gate.Clearance) (gate.Stream, error) {
		got = c
		return Result(nil), nil
	}})
	r, err := g.Handle(context.Background(), call)
	if err != nil {
		panic(err)
	}
	r.Close()
	return got
}

// Neighbours are the parts of a test gate that a test wants to be different.
type Neighbours struct {
	Forward func(context.Context, *gate.Clearance) (gate.Stream, error)
	Decide  func(*ostiary.Request) ostiary.Decision
	Append  func(context.Context, *ostiary.Entry) (ostiary.Receipt, error)
	Subject ostiary.Subject
	Options func(*gate.Options)
}

// New returns a gate with the given neighbours; the others agree.
func New(n Neighbours) *gate.Gate {
	p := &agreeable{n}
	o := gate.Options{
		Identity: p, Facts: p, Validator: p, Policy: p, Ledger: p, Egress: p, Tainter: p, Containments: p,
		Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
	}
	if n.Options != nil {
		n.Options(&o)
	}
	return gate.New(o)
}

type agreeable struct{ n Neighbours }

func (p *agreeable) Authenticate(_ context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	if p.n.Subject.Agent != "" {
		return p.n.Subject, nil
	}
	return ostiary.Subject{Agent: "spiffe://test/agent/a", Principal: "person:test", Mandate: "m1", Via: ostiary.ViaSVID, Bound: true, Chain: []ostiary.AgentID{"spiffe://test/agent/a"}}, nil
}

func (p *agreeable) Resolve(_ context.Context, s ostiary.Subject, call *gate.Call) (*ostiary.Request, error) {
	now := time.Now()
	return &ostiary.Request{
		Subject: s, Action: call.Action, Resource: ostiary.Resource{Server: call.Action.Server, Zone: "default"},
		Context: ostiary.Context{
			Now: now, Principal: s.Principal, Containment: ostiary.None, Zone: "default",
			Mandate: ostiary.Mandate{ID: "m1", Actions: []string{"*"}, Resources: []string{"*"}, NotBefore: now.Add(-time.Hour), Expires: now.Add(time.Hour)},
			Session: ostiary.Session{ID: "s1", Started: now}, Posture: ostiary.Posture{OK: true, Method: "join_token", Appraised: now},
			Risk: ostiary.Risk{Level: "low"},
		},
	}, nil
}

func (p *agreeable) Level(*ostiary.Subject, *ostiary.Action) ostiary.Containment { return ostiary.None }

func (p *agreeable) Validate(*ostiary.Action) error { return nil }

func (p *agreeable) Decide(r *ostiary.Request) ostiary.Decision {
	if p.n.Decide != nil {
		return p.n.Decide(r)
	}
	return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1}
}

func (p *agreeable) Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	if p.n.Append != nil {
		return p.n.Append(ctx, e)
	}
	return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: 7}, Origin: "test/gw/2026-11", Time: e.Time}, nil
}

func (p *agreeable) Count(string, string)                            {}
func (p *agreeable) Taint(ostiary.SessionID, ostiary.Resource) error { return nil }
func (p *agreeable) Forward(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
	if p.n.Forward != nil {
		return p.n.Forward(ctx, c)
	}
	d, err := c.Redeem()
	if err != nil {
		return nil, err
	}
	if d.Target.Respond != nil {
		return d.Target.Respond(ctx, d)
	}
	return Result(nil), nil
}

// Result returns a stream of one result frame.
func Result(body *ostiary.Document) gate.Stream {
	return Frames(gate.Frame{Kind: gate.FrameResult, Body: body.Root()})
}

// Frames returns a stream of the given frames.
func Frames(f ...gate.Frame) gate.Stream { return &frames{f} }

type frames struct{ left []gate.Frame }

func (s *frames) Next(context.Context) (gate.Frame, error) {
	if len(s.left) == 0 {
		return gate.Frame{}, io.EOF
	}
	f := s.left[0]
	s.left = s.left[1:]
	return f, nil
}

func (s *frames) Answer(context.Context, string, gate.FrameKind, []byte) error { return nil }
func (s *frames) Close() error                                                 { return nil }
