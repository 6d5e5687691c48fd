package gate

import (
	"context"

	"github.com/ostiary/ostiary"
)

// reserve holds what a call to a server may cost. The gateway's own readings
// spend nothing, and neither do answers from here.
func (g *Gate) reserve(ctx context.Context, x *exchange, id ostiary.EntryID) (err error) {
	if g.budgets == nil || x.call.Target.Kind != ToServer || x.subject.Via == ostiary.ViaSelf {
		return nil
	}
	x.hold, err = g.budgets.Reserve(ctx, id, x.request)
	return err
}

// take counts a message of a server before it is released.
func (s *inspected) take(ctx context.Context, f Frame) (err error) {
	if s.x.hold == nil {
		return nil
	}
	defer (&wary{log: s.g.log}).named("charge", &err)
	return s.x.hold.Take(ctx, f.Body, f.Kind.Final())
}

// charge ends what an exchange holds, once its outcome is on disk. An outcome
// that is not leaves it open what happened.
func (g *Gate) charge(ctx context.Context, x *exchange, d ostiary.Disposition, lost error) {
	if x.hold == nil {
		return
	}
	var err error
	defer (&wary{log: g.log}).named("charge", &err)
	if lost != nil && x.bound {
		d = ostiary.Unknown
	}
	x.hold.Settle(ctx, d)
}

// ProbeBudgets hands the step that records a call which no budget allows. It
// returns nil if the call was refused for that, before anything was written
// down; anything else means that budgets are not asked. It is for the start,
// before the doors open.
func (g *Gate) ProbeBudgets(ctx context.Context, probe string) error {
	call := Call{Action: ostiary.Action{Name: probe}}
	x := g.begin(&call)
	defer g.flying.Done()
	x.subject = ostiary.Subject{Agent: "spiffe://ostiary.invalid/probe"}
	x.request = &ostiary.Request{Subject: x.subject, Action: call.Action}
	x.decision = ostiary.Decision{Permit: true, Code: "permit"}
	err := g.record(ctx, x)
	if err == nil {
		g.flying.Add(1) // settle takes its own
		g.settle(ctx, x, ostiary.Refused, ostiary.Errorf(ostiary.Unavailable, "budgets_off", "a test of the budgets was not refused"))
		return ostiary.Errorf(ostiary.Unavailable, "budgets_off", "a call that no budget allows was not refused: budgets are not asked")
	}
	if e := ostiary.AsError(err); e.Kind != ostiary.Exhausted || e.Code != "budget_exhausted" {
		return ostiary.Errorf(ostiary.Unavailable, "budgets_off", "a call that no budget allows was refused for another reason: %s", e.Detail).Because(err)
	}
	return nil
}
