package gate_test

import (
	"context"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Who is contained while a call is under way gets nothing more of it, whatever
// step it has reached, and the log says so.
func TestContainedMeanwhile(t *testing.T) {
	for _, level := range []ostiary.Containment{ostiary.NotEstablished, ostiary.Quarantined, ostiary.Suspended} {
		t.Run("L01 while the intent is written, "+level.String(), func(t *testing.T) {
			w := newWorld()
			w.later = func(int) ostiary.Containment { return level }
			_, err := w.gate().Handle(context.Background(), call())
			o := w.outcomes()
			if ostiary.KindOf(err) != ostiary.Contained || w.sent != 0 || len(o) != 1 || o[0].Disposition != ostiary.Refused || o[0].Permit || o[0].Answers.IsZero() {
				t.Errorf("sent %d, %v, outcomes %+v", w.sent, err, o)
			}
		})
		t.Run("L01 running stream, "+level.String(), func(t *testing.T) {
			w := newWorld()
			w.frames = []gate.Frame{{Kind: gate.FrameNotification}, {Kind: gate.FrameNotification}, {Kind: gate.FrameResult}}
			w.later = func(asked int) ostiary.Containment {
				if asked <= 2 { // the intent, and the first frame
					return ostiary.Restricted
				}
				return level
			}
			r, err := w.gate().Handle(context.Background(), call())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Next(context.Background()); err != nil {
				t.Fatal("before it was contained:", err)
			}
			f, err := r.Next(context.Background())
			o := w.outcomes()
			if ostiary.KindOf(err) != ostiary.Contained || f.Kind != gate.FrameNone || len(o) != 1 || o[0].Disposition != ostiary.Withheld {
				t.Errorf("%+v, %v, outcomes %+v", f, err, o)
			}
			if f, err := r.Next(context.Background()); err == nil {
				t.Errorf("and then: %+v", f)
			}
		})
	}
	t.Run("what its client says", func(t *testing.T) {
		w := newWorld()
		w.later = func(asked int) ostiary.Containment { return ostiary.None + ostiary.Containment(asked-1)*3 }
		c := call()
		c.Target = gate.Target{Kind: gate.ToClient}
		r, err := w.gate().Handle(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := read(r); n != 0 || ostiary.KindOf(err) != ostiary.Contained {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// Whoever is throttled may call a server five times at once and then once a
// second; nobody else waits for it, and what stays in the gateway is free.
func TestThrottled(t *testing.T) {
	for _, level := range []ostiary.Containment{ostiary.None, ostiary.Throttled, ostiary.Restricted} {
		w := &paced{world: newWorld(), now: time.Unix(1e9, 0), agent: "spiffe://td/a"}
		w.contain = level
		g := w.gate(func(o *gate.Options) { o.Facts, o.Identity = w, w })
		through := func(change ...func(*gate.Call)) (n int, last error) {
			for range 10 {
				c := call()
				for _, f := range change {
					f(&c)
				}
				r, err := g.Handle(context.Background(), c)
				if last = err; err == nil {
					n++
					r.Close()
				}
			}
			return n, last
		}
		if level == ostiary.None {
			if n, err := through(); n != 10 {
				t.Errorf("%s: %d, %v", level, n, err)
			}
			continue
		}
		n, err := through()
		if e := ostiary.AsError(err); n != 5 || e.Kind != ostiary.Exhausted || e.Code != "throttled" || e.Entry.IsZero() {
			t.Errorf("%s: %d at once, %v", level, n, err)
		}
		if n, _ := through(); n != 0 {
			t.Errorf("%s: %d more", level, n)
		}
		w.now = w.now.Add(3 * time.Second)
		if n, _ := through(); n != 3 {
			t.Errorf("%s: %d after three seconds", level, n)
		}
		if n, err := through(func(c *gate.Call) { c.Target.Kind = gate.ToLocal }); n != 10 {
			t.Errorf("%s: %d answered here, %v", level, n, err)
		}
		w.agent = "spiffe://td/b"
		if n, _ := through(); n != 5 {
			t.Errorf("%s: %d of another agent", level, n)
		}
		w.via = ostiary.ViaSelf
		if n, _ := through(); n != 10 {
			t.Errorf("%s: %d of the gateway's own", level, n)
		}
		w.via, w.agent, w.now = ostiary.ViaSVID, "spiffe://td/a", w.now.Add(time.Hour)
		if n, _ := through(); n != 5 {
			t.Errorf("%s: %d after an hour: no more than the burst is saved up", level, n)
		}
	}
}

// paced is a world with a clock and with several agents.
type paced struct {
	*world
	now   time.Time
	agent ostiary.AgentID
	via   ostiary.Via
}

func (p *paced) Authenticate(context.Context, ostiary.Credentials) (ostiary.Subject, error) {
	return ostiary.Subject{Agent: p.agent, Principal: "person:dana", Mandate: "m", Via: p.via}, nil
}

func (p *paced) Resolve(ctx context.Context, s ostiary.Subject, c *gate.Call) (*ostiary.Request, error) {
	r, err := p.world.Resolve(ctx, s, c)
	r.Context.Now, r.Context.Mandate.Expires = p.now, p.now.Add(time.Hour)
	return r, err
}
