package gate_test

import (
	"context"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// What Settle says became of a call is the exchange's own word: Refused only
// of what never had a clearance, whatever the error looks like, and also when
// the outcome cannot be recorded.
func TestSettleSaysWhatHappened(t *testing.T) {
	cut := []gate.Frame{{Kind: gate.FrameNotification}}
	for _, x := range []struct {
		name        string
		failAt, how string
		lost        bool // the outcome cannot be recorded
		frames      []gate.Frame
		want        ostiary.Disposition
	}{
		{"delivered", "", "", false, nil, ostiary.Delivered},
		{"delivered, not recorded", "", "", true, nil, ostiary.Withheld},
		{"refused", "validate", "error", false, nil, ostiary.Refused},
		{"refused, not recorded", "validate", "error", true, nil, ostiary.Refused},
		{"no intent", "append intent", "error", false, nil, ostiary.Refused},
		{"contained before it left", "standing", "error", false, nil, ostiary.Refused},
		{"not sent", "forward", "error", false, nil, ostiary.Failed},
		{"not sent, not recorded", "forward", "error", true, nil, ostiary.Failed},
		{"sent, failed", "forward", "done", false, nil, ostiary.Unknown},
		{"sent, failed, not recorded", "forward", "done", true, nil, ostiary.Unknown},
		{"sent, panicked", "forward", "panic", false, nil, ostiary.Unknown},
		{"sent, panicked, not recorded", "forward", "panic", true, nil, ostiary.Unknown},
		{"the reply failed", "next", "error", false, nil, ostiary.Unknown},
		{"the reply panicked, not recorded", "next", "panic", true, nil, ostiary.Unknown},
		{"the reply was cut", "", "", false, cut, ostiary.Unknown},
		{"kept back", "taint", "error", false, nil, ostiary.Withheld},
		{"kept back, not recorded", "taint", "error", true, nil, ostiary.Withheld},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld()
			w.failAt, w.how = x.failAt, x.how
			if x.frames != nil {
				w.frames = x.frames
			}
			g := w.gate(func(o *gate.Options) {
				if x.lost {
					o.Ledger = forgetful{w}
				}
			})
			s, d, err := g.Settle(t.Context(), call())
			if d != x.want || (err == nil) != (d == ostiary.Delivered) || (s.Frame.Kind.Final() != (err == nil)) {
				t.Errorf("%v, %v, %+v; want %v", d, err, s.Frame, x.want)
			}
			if d == ostiary.Refused && w.sent != 0 {
				t.Error("what was sent is called refused")
			}
			if o := w.outcomes(); !x.lost && (len(o) != 1 || o[0].Disposition != d) {
				t.Errorf("the log says %+v", o)
			}
		})
	}
}

// forgetful records no outcome.
type forgetful struct{ *world }

func (f forgetful) Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	if e.Kind == ostiary.KindOutcome {
		return ostiary.Receipt{}, errInjected
	}
	return f.world.Append(ctx, e)
}
