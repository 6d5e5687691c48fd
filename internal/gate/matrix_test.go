package gate_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

// The fail-closed matrix: each dependency of the gate fails in each way, alone,
// while the others agree to everything. Nothing is let through, and each cell
// has a reason of its own.

// ways are how a dependency fails. A slow one answers well, after the
// caller's time ended.
var ways = []string{"error", "timeout", "panic", "garbage", "slow"}

// callersTime is how long the matrix's caller waits.
const callersTime = time.Second

// broken makes one dependency fail in one way.
type broken struct{ at, how string }

// fault fails as told. What it does not return from is garbage, which each
// dependency makes of its own kind.
func (b broken) fault(ctx context.Context, at string) (garbage bool, err error) {
	if b.at != at {
		return false, nil
	}
	switch b.how {
	case "error":
		return false, errors.New("injected")
	case "timeout":
		<-ctx.Done()
		return false, ctx.Err()
	case "panic":
		panic("injected")
	case "slow":
		time.Sleep(2 * callersTime)
		return false, nil
	}
	return true, nil
}

// parts are the gate's neighbours with those of its resolver.
type parts struct {
	*world
	b    broken
	held []string
	asks int // for containment
}

func (p *parts) Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	at := "identity"
	if c.Held != nil {
		at = "confirmation"
	}
	if garbage, err := p.b.fault(ctx, at); garbage || err != nil {
		return ostiary.Subject{}, err
	}
	return p.world.Authenticate(ctx, c)
}

func (p *parts) resolver() *gate.Resolver {
	return &gate.Resolver{Tools: p, Groups: p, Registry: p, Sessions: p, Containments: p, Clock: time.Now,
		Servers: map[string]ostiary.Resource{"bank": {Server: "bank", Zone: "default"}}}
}

func (p *parts) Resolve(ctx context.Context, s ostiary.Subject, c *gate.Call) (*ostiary.Request, error) {
	if garbage, err := p.b.fault(ctx, "facts"); garbage || err != nil {
		return nil, err
	}
	r, err := p.resolver().Resolve(ctx, s, c)
	if garbage, _ := (broken{p.b.at, p.b.how}).another("facts of another call"); garbage && err == nil {
		r.Action.Tool = "close_account"
	}
	return r, err
}

// another is garbage that only one way of failing has.
func (b broken) another(at string) (bool, error) { return b.at == at && b.how == "garbage", nil }

func (p *parts) Tool(string, string, string) (*ostiary.Tool, bool) {
	if garbage, err := p.b.fault(context.Background(), "catalog"); garbage {
		return &ostiary.Tool{}, true
	} else if err != nil {
		return nil, false
	}
	return &ostiary.Tool{Server: "bank", Kind: "tool", Name: "pay", State: ostiary.ToolPinned, Pin: ostiary.DigestOf([]byte("pay"))}, true
}

func (p *parts) Groups(string) []string { return nil }

func (p *parts) AgentFacts(*ostiary.Subject) (gate.AgentFacts, error) {
	if garbage, err := p.b.fault(context.Background(), "registry"); garbage || err != nil {
		return gate.AgentFacts{}, err
	}
	now := time.Now()
	return gate.AgentFacts{Zone: "default", Mandate: ostiary.Mandate{ID: "m", Actions: []string{"*"}, Resources: []string{"*"}, NotBefore: now.Add(-time.Hour), Expires: now.Add(time.Hour)}}, nil
}

func (p *parts) Session(ctx context.Context, _ *ostiary.Subject, _ ostiary.MandateID) (gate.SessionFacts, error) {
	if garbage, err := p.b.fault(ctx, "sessions"); garbage || err != nil {
		return gate.SessionFacts{}, err
	}
	return gate.SessionFacts{Session: ostiary.Session{ID: "s", Started: time.Now()}}, nil
}

func (p *parts) Level(*ostiary.Subject, *ostiary.Action) ostiary.Containment {
	at := "containment"
	if p.asks++; p.asks > 1 {
		at = "containment, under way"
	}
	if garbage, err := p.b.fault(context.Background(), at); garbage {
		return 77
	} else if err != nil {
		return ostiary.NotEstablished
	}
	return ostiary.None
}

func (p *parts) Validate(*ostiary.Action) error {
	_, err := p.b.fault(context.Background(), "schemas")
	return err
}

func (p *parts) Decide(r *ostiary.Request) ostiary.Decision {
	if garbage, err := p.b.fault(context.Background(), "policy"); garbage {
		return ostiary.Decision{Permit: true}
	} else if err != nil {
		return ostiary.Decision{Code: "policy_error"}
	}
	d := ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1}
	switch p.b.at {
	case "obligation":
		d.Obligations = []ostiary.Obligation{{Type: "redact"}}
	case "holds":
		return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:x"}}}
	}
	return d
}

func (p *parts) Oblige(ctx context.Context, r *ostiary.Request, _ ostiary.Obligation) (*ostiary.Action, error) {
	if garbage, err := p.b.fault(ctx, "obligation"); garbage {
		return &ostiary.Action{}, nil // another action, which nobody asked for
	} else if err != nil {
		return nil, err
	}
	return nil, nil
}

func (p *parts) Hold(ctx context.Context, _ *ostiary.Request, _ *ostiary.Decision) (ostiary.HoldID, error) {
	if garbage, err := p.b.fault(ctx, "holds"); garbage || err != nil {
		return "", err
	}
	p.held = append(p.held, "h")
	return "h", nil
}

func (p *parts) Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	garbage, err := p.b.fault(ctx, "ledger, "+e.Kind.String())
	if garbage || err != nil {
		return ostiary.Receipt{}, err
	}
	return p.world.Append(ctx, e)
}

func (p *parts) Forward(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
	if garbage, err := p.b.fault(ctx, "egress"); garbage || err != nil {
		return nil, err
	}
	s, err := p.world.Forward(ctx, c)
	if err != nil {
		return nil, err
	}
	return &brokenStream{Stream: s, b: p.b}, nil
}

type brokenStream struct {
	gate.Stream
	b broken
}

func (s *brokenStream) Next(ctx context.Context) (gate.Frame, error) {
	if garbage, err := s.b.fault(ctx, "reply"); garbage || err != nil {
		return gate.Frame{}, err
	}
	return s.Stream.Next(ctx)
}

func (p *parts) Taint(id ostiary.SessionID, r ostiary.Resource) error {
	ctx, cancel := context.WithTimeout(context.Background(), callersTime)
	defer cancel()
	if _, err := p.b.fault(ctx, "provenance"); err != nil {
		return err
	}
	return p.world.Taint(id, r)
}

func (p *parts) Inspect(ctx context.Context, _ *ostiary.Request, _ gate.Frame) ([]ostiary.Finding, error) {
	_, err := p.b.fault(ctx, "inspector")
	return nil, err
}

// cells are the dependencies, with the ways that do not exist for each.
var cells = []struct{ dependency, without string }{
	{"identity", ""},
	{"facts", ""},
	{"facts of another call", "error timeout panic slow"},
	{"catalog", "timeout"},
	{"registry", "timeout"},
	{"sessions", ""},
	{"containment", "timeout"},
	{"containment, under way", "timeout"},
	{"schemas", "timeout garbage"}, // an error, or none
	{"policy", "timeout"},
	{"obligation", ""},
	{"holds", ""},
	{"ledger, intent", ""},
	{"egress", ""},
	{"reply", ""},
	{"confirmation", ""},
	{"provenance", "garbage"},
	{"inspector", "garbage"},
	{"ledger, outcome", "slow"}, // then the Outcome is on disk, and the caller is gone
}

func TestFailClosedMatrix(t *testing.T) {
	codes := map[string][]string{}
	n := 0
	for _, cell := range cells {
		for _, how := range ways {
			if strings.Contains(cell.without, how) {
				continue
			}
			n++
			t.Run("BAR-14 "+cell.dependency+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					code := oneCell(t, broken{cell.dependency, how})
					if code == "" || code == "internal" || code == "panic" {
						t.Errorf("the reason %q says nothing", code)
					}
					if how != "slow" { // what was too slow is one reason, before and after the wire
						codes[code] = append(codes[code], cell.dependency+"/"+how)
					} else if !slices.Contains([]string{"too_late", "caller_left", "held"}, code) {
						t.Errorf("too slow is %q", code)
					}
				})
			})
		}
	}
	if n < 70 {
		t.Errorf("only %d cells", n)
	}
	// Reasons that only a neighbour who makes no sense produces.
	for _, code := range []string{"authenticate_nobody", "confirm_nobody", "decide_unsound", "resolve_astray", "record_unproven"} {
		if codes[code] == nil {
			t.Errorf("no cell was refused with %q: %v", code, slices.Sorted(maps.Keys(codes)))
		}
	}
	for code, of := range codes {
		if at := func(s string) string { return strings.SplitN(s, "/", 2)[0] }; slices.ContainsFunc(of, func(s string) bool { return !sameReason(at(s), at(of[0])) }) {
			t.Errorf("one reason %q for %q", code, of)
		}
	}
}

// sameReason: the resolver is one step to whoever reads the log; its parts
// differ by their own errors where they have them.
func sameReason(a, b string) bool {
	step := func(s string) string {
		switch s {
		case "facts", "facts of another call", "catalog", "registry", "sessions", "containment", "containment, under way":
			return "resolve"
		}
		return s
	}
	return step(a) == step(b)
}

// oneCell runs one call and returns why it was refused.
func oneCell(t *testing.T, b broken) string {
	p := &parts{world: newWorld(), b: b}
	g := gatetest.New(gatetest.Neighbours{Options: func(o *gate.Options) {
		o.Identity, o.Facts, o.Validator, o.Policy, o.Ledger, o.Egress, o.Tainter, o.Containments, o.Inspectors = p, p, p, p, p, p, p, p, []gate.Inspector{p}
		o.Obligers = map[string]gate.Obliger{"redact": p}
		if b.at == "holds" {
			o.Holder = p
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), callersTime)
	defer cancel()
	r, err := g.Handle(ctx, call())
	finals := 0
	for err == nil && finals == 0 {
		var f gate.Frame
		if f, err = r.Next(ctx); err == nil && f.Kind.Final() {
			finals++
		}
	}
	if r != nil {
		r.Close()
	}
	if finals != 0 {
		t.Error("it was let through")
	}
	intents := 0
	for _, e := range p.entries {
		if e.Kind == ostiary.KindIntent {
			intents++
		}
	}
	if p.sent > intents {
		t.Error("law 1: it was sent without an intent")
	}
	if err := g.Drain(t.Context()); err != nil {
		t.Error("it was never settled")
	}
	if err == nil {
		return ""
	}
	return ostiary.AsError(err).Code
}

// A ledger that panics while a refusal is being recorded ends that call, not
// the process, and nothing of the refusal is explained.
func TestPanicWhileRefusing(t *testing.T) {
	w := newWorld()
	w.failAt, w.how = "append outcome", "panic"
	w.decision = func(*ostiary.Request) ostiary.Decision { return ostiary.Decision{Code: "forbid"} }
	_, err := w.gate().Handle(t.Context(), call())
	if e := ostiary.AsError(err); e == nil || e.Code != "not_recorded" || w.sent != 0 {
		t.Errorf("%v, sent %d", err, w.sent)
	}
}
