// Package gate is the enforcement point: the one flow every call takes, from
// whichever door, and nothing else.
//
// It guarantees the laws of the design that are about order. Nothing leaves
// before its Intent is durable (law 1). The bytes that were validated, decided
// on and recorded are the bytes that leave (law 2). Every error, panic and
// unknown is a refusal, and every refusal is recorded (law 3). Only a recorded
// permit yields a [Clearance], which opens the way out once (law 4). The end
// of a reply is released only when its Outcome is durable.
//
// It trusts the engines behind its interfaces to be what their comments say.
// It performs no I/O of its own, imports no engine, and knows no protocol:
// doors translate, engines compute, egress sends.
//
// The nine steps have the same names in code, comments, traces and documents:
// authenticate, resolve, validate, decide, record, bind, forward, inspect,
// settle.
package gate

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

// settleTimeout bounds how long an Outcome may take to become durable after
// the caller left. The caller leaving excuses nothing; a ledger that takes
// longer has failed, and the Intent stays open for recovery to name Unknown.
const settleTimeout = 30 * time.Second

// Gate holds the neighbours of the flow. All fields are set once, by New.
type Gate struct {
	identity  Identity
	facts     Facts
	validator Validator
	policy    Policy
	ledger    Ledger
	egress    Egress

	budgets      Budgets
	containments Containments
	throttle     throttle

	inspectors []Inspector
	obligers   map[string]Obliger
	tainter    Tainter
	holder     Holder
	consents   Consents
	observer   Observer
	keeps      func(action string) bool

	clock  func() time.Time
	log    *slog.Logger
	flying sync.WaitGroup // exchanges that are not settled yet
}

// Options are the neighbours New needs. Budgets, Inspectors, Obligers, Holder,
// Consents and Observer may be empty; everything else is required. Without
// Consents no call is made with one.
type Options struct {
	Identity  Identity
	Facts     Facts
	Validator Validator
	Policy    Policy
	Ledger    Ledger
	Egress    Egress
	Tainter   Tainter
	// Containments is asked again for calls under way: after the Intent, and
	// before each frame of a reply.
	Containments Containments
	Budgets      Budgets
	Inspectors   []Inspector
	Obligers     map[string]Obliger // by obligation type; one not listed here denies
	Holder       Holder
	Consents     Consents
	Observer     Observer
	// Keeps says of which actions the result is kept, sealed, in the log: those
	// that can be taken back with something it holds. Nil: of none.
	Keeps  func(action string) bool
	Clock  func() time.Time
	Logger *slog.Logger
}

// New returns a gate that is ready to handle calls. It panics if a required
// neighbour is missing: a gate without one could only refuse, and that is a
// mistake of wiring, not of a caller.
func New(o Options) *Gate {
	if o.Identity == nil || o.Facts == nil || o.Validator == nil || o.Policy == nil || o.Ledger == nil || o.Egress == nil || o.Tainter == nil || o.Containments == nil || o.Clock == nil || o.Logger == nil {
		panic("gate: a required neighbour is missing")
	}
	o = o.guarded()
	return &Gate{
		identity: o.Identity, facts: o.Facts, validator: o.Validator, policy: o.Policy, ledger: o.Ledger, egress: o.Egress, budgets: o.Budgets, containments: o.Containments,
		inspectors: o.Inspectors, obligers: o.Obligers, tainter: o.Tainter, holder: o.Holder, consents: o.Consents, observer: o.Observer, keeps: o.Keeps,
		clock: o.Clock, log: o.Logger,
	}
}

// Handle takes one call through the flow.
//
// It returns either a Reply whose stream the caller must read to its end or
// close, or an *ostiary.Error that is already recorded and names its entry.
func (g *Gate) Handle(ctx context.Context, call Call) (*Reply, error) {
	return g.handle(ctx, g.begin(&call))
}

// handle is the flow, of an exchange that has just begun: its zero decision is
// Deny, its zero disposition Refused. Read it top to bottom.
func (g *Gate) handle(ctx context.Context, x *exchange) (reply *Reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = g.bug(p)
		}
		if err != nil {
			reply, err = nil, g.refuse(ctx, x, err) // no way out below is unrecorded
		}
	}()

	// authenticate: who is asking, proven on this connection?
	x.at(StepAuthenticate)
	if x.subject, err = g.identity.Authenticate(ctx, x.call.Credentials); err != nil {
		return nil, err
	}
	// A message its door could not translate ends here: known, and recorded.
	if x.call.Fault != nil {
		return nil, x.call.Fault
	}
	// resolve: what is known right now: mandate, posture, zone, risk,
	// containment, budgets, provenance, approvals.
	x.at(StepResolve)
	if x.request, err = g.facts.Resolve(ctx, x.subject, x.call); err != nil {
		return nil, err
	}
	// validate: one document, fitting the pinned schema, the limits and the mandate?
	x.at(StepValidate)
	if err = g.validate(x.request); err != nil {
		return nil, err
	}
	// decide: may it? An obligation may put another action in its place, once.
	x.at(StepDecide)
	if err = g.decide(ctx, x); err != nil {
		return nil, err
	}
	// record: write down what is about to happen, before it can.
	x.at(StepRecord)
	if err = g.record(ctx, x); err != nil {
		return nil, err
	}
	// bind: a clearance fits these bytes, this agent, this moment, once.
	// No recorded permit, no clearance.
	x.at(StepBind)
	clearance, err := g.bind(x)
	if err != nil {
		return nil, err
	}
	// forward: the only way out.
	x.at(StepForward)
	if x.upstream, err = g.egress.Forward(ctx, clearance); err != nil {
		return nil, err
	}
	// inspect: what came back is data of unknown integrity. Its reader holds
	// back the end until settle has the Outcome on disk.
	x.at(StepInspect)
	return g.inspect(x), nil
}

// Weigh says what the flow makes of a call now, up to its decision and not
// further: for people who are asked about it. Nothing is recorded, because
// nothing was asked for; nothing can leave, because there is no clearance. It
// takes nothing of the agent's pace, and leaves what a permit obliges to
// undone. A denial is a value here, an error is what no decision would change.
func (g *Gate) Weigh(ctx context.Context, call Call) (_ *ostiary.Request, _ *ostiary.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = g.bug(p)
		}
	}()
	call.weighed = true
	x := &exchange{call: &call}
	if x.subject, err = g.identity.Authenticate(ctx, call.Credentials); err != nil {
		return nil, nil, err
	}
	if x.request, err = g.facts.Resolve(ctx, x.subject, &call); err != nil {
		return nil, nil, err
	}
	if err = g.validate(x.request); err != nil {
		return nil, nil, err
	}
	if err = g.decide(ctx, x); err != nil {
		return nil, nil, err
	}
	return x.request, &x.decision, nil
}

// settle runs once per exchange, whatever happened: it records the outcome.
// It returns nil only to the one caller whose disposition is durable now.
func (g *Gate) settle(ctx context.Context, x *exchange, d ostiary.Disposition, cause error) error {
	if x.settled.Swap(true) {
		return errSettled
	}
	defer g.flying.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()

	x.at(StepSettle)
	x.end(d)
	receipt, err := g.ledger.Append(ctx, x.outcome(d, cause, g.clock()))
	x.finish(receipt)
	if err != nil {
		// The Intent, if there is one, is left open; recovery and the
		// sweeper name it Unknown, which is a signal.
		x.lose()
		g.log.Error("outcome not recorded", "action", x.call.Action.Name, "disposition", d.String(), "error", err)
	}
	g.charge(ctx, x, d, err)
	g.observe(x, d, cause, err)
	return err
}

// Drain waits until every exchange is settled, or ctx ends. Doors must have
// stopped handing in calls.
func (g *Gate) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() { g.flying.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ostiary.Errorf(ostiary.Unavailable, "drain_timeout", "calls are still running").Because(ctx.Err())
	}
}
