package gate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// purse is a budget that notes what is asked of it, among what else happens.
type purse struct {
	story   []string
	reserve error
	take    error
	panics  string
	intents []ostiary.EntryID
	payload string // of the Intent
}

func (p *purse) note(s string) {
	p.story = append(p.story, s)
	if s == p.panics {
		panic("injected")
	}
}

func (p *purse) Reserve(_ context.Context, id ostiary.EntryID, r *ostiary.Request) (gate.Hold, error) {
	if r.Action.Name == "free" {
		return nil, nil
	}
	p.note("reserve")
	if p.reserve != nil {
		return nil, p.reserve
	}
	p.intents = append(p.intents, id)
	return p, nil
}

func (p *purse) Spends() []ostiary.Spend {
	return []ostiary.Spend{{Budget: "b", Holder: "h", Unit: "EUR", Amount: 5}}
}

func (p *purse) Take(_ context.Context, body ostiary.Value, final bool) error {
	p.note("take " + string(body.Bytes()))
	return p.take
}

func (p *purse) Settle(_ context.Context, d ostiary.Disposition) { p.note("settle " + d.String()) }

// spending returns a gate with a purse, whose server says two things.
func spending(p *purse, change func(*gatetest.Neighbours)) *gate.Gate {
	n := gatetest.Neighbours{
		Append: func(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
			p.note(e.Kind.String())
			if e.Kind == ostiary.KindIntent {
				p.payload = string(e.Payload.Inputs)
			}
			if e.Kind == ostiary.KindOutcome {
				p.story = append(p.story, e.Disposition.String()+" "+e.Code)
			}
			return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: 1}}, nil
		},
		Forward: func(_ context.Context, c *gate.Clearance) (gate.Stream, error) {
			if _, err := c.Redeem(); err != nil {
				return nil, err
			}
			p.note("forward")
			return &says{frames: []gate.Frame{{Kind: gate.FrameNotification, Method: "m", Body: document(`"a"`)}, {Kind: gate.FrameResult, Body: document(`{}`)}}}, nil
		},
		Options: func(o *gate.Options) { o.Budgets = p },
	}
	if change != nil {
		change(&n)
	}
	return gatetest.New(n)
}

func document(s string) ostiary.Value {
	d, err := strictjson.Parse([]byte(s), strictjson.Request)
	if err != nil {
		panic(err)
	}
	return d.Root()
}

// says is a reply of several messages.
type says struct {
	gate.Stream
	frames []gate.Frame
}

func (s *says) Next(context.Context) (gate.Frame, error) {
	f := s.frames[0]
	s.frames = s.frames[1:]
	return f, nil
}

func (s *says) Close() error { return nil }

// play makes one call and reads its reply to the end.
func play(t *testing.T, g *gate.Gate, name string) error {
	t.Helper()
	r, err := g.Handle(t.Context(), gate.Call{Action: ostiary.Action{Name: name, Server: "bank"}})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		f, err := r.Next(t.Context())
		if err != nil {
			return err
		}
		if f.Kind.Final() {
			return nil
		}
	}
}

func told(t *testing.T, p *purse, want ...string) {
	t.Helper()
	if !slices.Equal(p.story, want) {
		t.Errorf("got  %q\nwant %q", p.story, want)
	}
}

// TestSpending: what a call may cost is held before its Intent, counted before
// each message is released, and settled once, when the Outcome is on disk.
func TestSpending(t *testing.T) {
	p := &purse{}
	if err := play(t, spending(p, nil), "pay"); err != nil {
		t.Fatal(err)
	}
	told(t, p, "reserve", "intent", "forward", `take "a"`, "take {}", "outcome", "delivered permit", "settle delivered")
	if !strings.Contains(p.payload, `"spends":[{"budget":"b","holder":"h","unit":"EUR","amount":5}]`) {
		t.Error(p.payload)
	}
	p = &purse{}
	if err := play(t, spending(p, nil), "free"); err != nil {
		t.Fatal(err)
	}
	told(t, p, "intent", "forward", "outcome", "delivered permit")

	p = &purse{}
	g := spending(p, func(n *gatetest.Neighbours) {
		n.Decide = func(*ostiary.Request) ostiary.Decision { return ostiary.Decision{Code: "forbid"} }
	})
	if err := play(t, g, "pay"); err == nil {
		t.Fatal("it passed")
	}
	told(t, p, "outcome", "refused forbid") // what is not permitted is not counted
}

// TestBudgetFaults: a budget that refuses, fails or panics lets nothing pass,
// and whatever happens later, what is held is settled for what became of it.
func TestBudgetFaults(t *testing.T) {
	exhausted := ostiary.Errorf(ostiary.Exhausted, "budget_exhausted", "nothing is left")
	for _, c := range []struct {
		name   string
		purse  purse
		change func(*purse, *gatetest.Neighbours)
		code   string
		want   []string
	}{
		{"exhausted", purse{reserve: exhausted}, nil, "budget_exhausted", []string{"reserve", "outcome", "refused budget_exhausted"}},
		{"store down", purse{reserve: errors.New("injected")}, nil, "reserve_failed", []string{"reserve", "outcome", "refused reserve_failed"}},
		{"panics", purse{panics: "reserve"}, nil, "reserve_panic", []string{"reserve", "outcome", "refused reserve_panic"}},
		{"the limit is passed", purse{take: exhausted}, nil, "budget_exhausted",
			[]string{"reserve", "intent", "forward", `take "a"`, "outcome", "withheld budget_exhausted", "settle withheld"}},
		{"counting panics", purse{panics: "take {}"}, nil, "charge_panic",
			[]string{"reserve", "intent", "forward", `take "a"`, "take {}", "outcome", "withheld charge_panic", "settle withheld"}},
		{"nothing was sent", purse{}, func(p *purse, n *gatetest.Neighbours) {
			n.Forward = func(context.Context, *gate.Clearance) (gate.Stream, error) {
				return nil, ostiary.Errorf(ostiary.Upstream, "unreachable", "x").Because(gate.ErrNotSent)
			}
		}, "unreachable", []string{"reserve", "intent", "outcome", "failed unreachable", "settle failed"}},
		{"it may have been sent", purse{}, func(p *purse, n *gatetest.Neighbours) {
			n.Forward = func(context.Context, *gate.Clearance) (gate.Stream, error) {
				return nil, ostiary.Errorf(ostiary.Upstream, "timeout", "x")
			}
		}, "timeout", []string{"reserve", "intent", "outcome", "unknown timeout", "settle unknown"}},
		{"no intent", purse{}, func(p *purse, n *gatetest.Neighbours) {
			n.Append = failing(p, n.Append, ostiary.KindIntent, false)
		}, "record_failed", []string{"reserve", "intent", "outcome", "refused record_failed", "settle refused"}},
		{"an intent that may stand", purse{}, func(p *purse, n *gatetest.Neighbours) {
			n.Append = failing(p, n.Append, ostiary.KindIntent, true)
		}, "record_failed", []string{"reserve", "intent", "outcome", "refused record_failed", "settle refused"}},
		{"no outcome", purse{}, func(p *purse, n *gatetest.Neighbours) {
			n.Append = failing(p, n.Append, ostiary.KindOutcome, false)
		}, "not_recorded", []string{"reserve", "intent", "forward", `take "a"`, "take {}", "outcome", "settle unknown"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &c.purse
			g := spending(p, func(n *gatetest.Neighbours) {
				if c.change != nil {
					c.change(p, n)
				}
			})
			if err := play(t, g, "pay"); err == nil || ostiary.AsError(err).Code != c.code {
				t.Errorf("%v", err)
			}
			told(t, p, c.want...)
		})
	}
	t.Run("the caller leaves", func(t *testing.T) {
		p := &purse{}
		r, err := spending(p, nil).Handle(t.Context(), gate.Call{Action: ostiary.Action{Name: "pay", Server: "bank"}})
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		r.Close()
		told(t, p, "reserve", "intent", "forward", "outcome", "unknown abandoned", "settle unknown")
	})
}

// failing makes the entries of one kind fail; they may stand all the same.
func failing(p *purse, next func(context.Context, *ostiary.Entry) (ostiary.Receipt, error), kind ostiary.EntryKind, stands bool) func(context.Context, *ostiary.Entry) (ostiary.Receipt, error) {
	return func(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
		if e.Kind != kind {
			return next(ctx, e)
		}
		p.note(e.Kind.String())
		if stands {
			return ostiary.Receipt{ID: e.ID}, errors.New("injected")
		}
		return ostiary.Receipt{}, errors.New("injected")
	}
}

// TestK07BudgetsInstalled: a gate whose budgets are built and not asked, or
// that allow what nothing allows, does not pass its test at the start.
func TestK07BudgetsInstalled(t *testing.T) {
	refuses := &purse{reserve: ostiary.Errorf(ostiary.Exhausted, "budget_exhausted", "nothing is left")}
	if err := spending(refuses, nil).ProbeBudgets(t.Context(), "probe"); err != nil {
		t.Fatal(err)
	}
	told(t, refuses, "reserve") // and nothing is written down

	for name, c := range map[string]struct {
		purse  *purse
		change func(*gatetest.Neighbours)
	}{
		"not installed": {&purse{}, func(n *gatetest.Neighbours) { n.Options = nil }},
		"allow all":     {&purse{}, nil},
		"store down":    {&purse{reserve: errors.New("injected")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := spending(c.purse, c.change).ProbeBudgets(t.Context(), "probe")
			if err == nil || ostiary.AsError(err).Code != "budgets_off" {
				t.Fatal(err)
			}
			if slices.Contains(c.purse.story, "forward") {
				t.Fatal("something left")
			}
		})
	}
}
