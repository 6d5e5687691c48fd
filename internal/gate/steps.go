package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// validate checks the action against the token's scopes, its pinned definition
// and the mandate.
func (g *Gate) validate(r *ostiary.Request) error {
	if err := r.Subject.CheckScope(r.Resource.Server); err != nil {
		return err
	}
	if err := g.validator.Validate(&r.Action); err != nil {
		return err
	}
	if m := &r.Context.Mandate; !m.Covers(&r.Action, &r.Resource, r.Context.Now) {
		return ostiary.Errorf(ostiary.Denied, "mandate", "mandate %s does not cover %s on %s", orNone(string(m.ID)), r.Action.Name, orNone(r.Resource.Server))
	}
	return r.Context.Mandate.CheckCeilings(&r.Action)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// decide asks containment, then policy. If an obligation of a permit changes
// bytes, the result is a new action before record: validated and decided
// again, once. A second rewrite is refused, so the loop cannot run away.
func (g *Gate) decide(ctx context.Context, x *exchange) error {
	if err := g.contained(x); err != nil {
		return err
	}
	x.decision = g.policy.Decide(x.request)
	if !x.decision.Permit || x.call.weighed {
		return nil // a denial is a value until bind
	}
	rewritten, err := g.oblige(ctx, x.request, x.decision.Obligations)
	if err != nil || rewritten == nil {
		return err
	}
	if x.asked.IsZero() {
		x.asked = x.request.Action.Digest()
	}
	x.request = withAction(x.request, rewritten)
	x.decision = ostiary.Decision{}
	if err := g.validate(x.request); err != nil {
		return err
	}
	x.decision = g.policy.Decide(x.request)
	if !x.decision.Permit {
		return nil
	}
	if again, err := g.oblige(ctx, x.request, x.decision.Obligations); err != nil {
		return err
	} else if again != nil {
		return ostiary.Errorf(ostiary.Denied, "unstable_rewrite", "the rewritten action would be rewritten again")
	}
	return nil
}

// contained refuses what containment forbids whatever policy says, and paces
// who is throttled. What else Throttled and Restricted mean is up to policy.
// The gateway's own readings are few, and not paced.
func (g *Gate) contained(x *exchange) error {
	level := x.request.Context.Containment
	if err := passes(level, &x.subject, &x.request.Action); err != nil {
		return err
	}
	if level == ostiary.None || x.call.weighed || x.subject.Via == ostiary.ViaSelf || x.call.Target.Kind != ToServer {
		return nil
	}
	if wait := g.throttle.take(x.subject.Agent, x.request.Context.Now); wait > 0 {
		return ostiary.Errorf(ostiary.Exhausted, "throttled", "%s is throttled to a call every %v; try again in %v", x.subject.Agent, throttleEvery, wait.Round(time.Millisecond))
	}
	return nil
}

// passes refuses what nothing may pass at a level.
func passes(level ostiary.Containment, s *ostiary.Subject, a *ostiary.Action) error {
	switch {
	case level.Passes():
		return nil
	case level == ostiary.NotEstablished:
		return ostiary.Errorf(ostiary.Contained, "not_established", "containment is not established; ask an operator")
	default:
		return ostiary.Errorf(ostiary.Contained, level.String(), "%s may not call %s: the agent, the tool, its server or everything is %s; ask an operator to release it", s.Agent, a.Name, level)
	}
}

// standing asks containment as it is now, of a call that was resolved before.
func (g *Gate) standing(x *exchange) error {
	a := &x.request.Action
	return passes(g.containments.Level(&x.subject, a), &x.subject, a)
}

// oblige carries out the obligations that act before the call leaves. One
// that nobody here understands denies.
func (g *Gate) oblige(ctx context.Context, r *ostiary.Request, obligations []ostiary.Obligation) (*ostiary.Action, error) {
	var rewritten *ostiary.Action
	for _, o := range obligations {
		obliger, ok := g.obligers[o.Type]
		if !ok {
			return nil, ostiary.Errorf(ostiary.Denied, "obligation_unknown", "policy demands %q, which this gateway cannot do", o.Type)
		}
		next, err := obliger.Oblige(ctx, r, o)
		if err != nil {
			return nil, err
		}
		if next != nil {
			rewritten = next
			r = withAction(r, next)
		}
	}
	return rewritten, nil
}

func withAction(r *ostiary.Request, a *ostiary.Action) *ostiary.Request {
	next := *r
	next.Action = *a
	next.Action.Rewritten, next.Action.Groups = true, nil
	if a.Name == r.Action.Name {
		next.Action.Groups = r.Action.Groups
	}
	return &next
}

// record writes the Intent of a permit. A denial has none: nothing is about to
// happen, and its Outcome alone tells the story.
func (g *Gate) record(ctx context.Context, x *exchange) error {
	if !x.decision.Permit {
		return nil
	}
	id := newEntryID()
	if err := g.reserve(ctx, x, id); err != nil {
		return err
	}
	x.intentID = id
	if err := g.spend(ctx, x); err != nil {
		x.intentID = ostiary.EntryID{} // nothing was written
		return err
	}
	receipt, err := g.ledger.Append(ctx, x.intent(g.clock()))
	if err != nil {
		x.intentID = receipt.ID // zero unless the Intent may stand: then its Outcome must answer it
		return err
	}
	x.intended = receipt
	return nil
}

// spend uses up the consent a call is made with, for its Intent and no other.
// A crash between the two leaves a consent that is spent: the call is never
// made twice.
func (g *Gate) spend(ctx context.Context, x *exchange) error {
	id := x.request.Context.Approval
	switch {
	case id == "" && x.call.Approval == "":
		return nil
	case g.consents == nil || id != x.call.Approval:
		return ostiary.Errorf(ostiary.Internal, "approval_astray", "internal error")
	}
	return g.consents.Spend(ctx, id, x.intentID, x.request, &x.decision)
}

// bind makes the clearance. It alone does, and only from a recorded permit.
func (g *Gate) bind(x *exchange) (*Clearance, error) {
	if d := &x.decision; !d.Permit {
		e := ostiary.Errorf(ostiary.Denied, d.Code, "policy does not permit %s%s", x.request.Action.Name, paths(x.request.Context.Provenance.Origins))
		e.Reasons, e.Remedies = d.Reasons, d.Remedies
		return nil, e
	}
	if x.intended.ID.IsZero() || x.intended.ID != x.intentID {
		return nil, ostiary.Errorf(ostiary.Internal, "not_recorded", "the intent has no receipt")
	}
	if err := g.standing(x); err != nil { // contained while the intent was written
		return nil, err
	}
	x.bound = true
	return &Clearance{dispatch: &Dispatch{
		Request:     x.request,
		Action:      &x.request.Action,
		Digest:      x.request.Action.Digest(),
		Target:      x.call.Target,
		Intent:      x.intended,
		Obligations: x.decision.Obligations,
		Progress:    x.call.Progress,
		Logs:        x.call.Logs,
		Asked:       x.call.Asked,
	}}, nil
}

// maxPaths bounds how many paths stand in a refusal; all of them are recorded.
const maxPaths = 4

// paths says where the values came from that neither the task nor the agent
// accounts for.
func paths(origins []ostiary.Origin) string {
	var b strings.Builder
	n := 0
	for i := range origins {
		if origins[i].Decides() && n < maxPaths {
			b.WriteString("; " + origins[i].String())
			n++
		}
	}
	return b.String()
}

// refuse ends an exchange that was not let through, or that failed on its
// way, and returns the error the door will show, with its entry.
func (g *Gate) refuse(ctx context.Context, x *exchange, cause error) error {
	e := *ostiary.AsError(cause)
	if x.subject.IsZero() {
		// Nobody authenticated: an exact count, so that the log is no amplifier.
		g.ledger.Count(x.call.Credentials.Remote, e.Kind.String()+":"+e.Code)
		x.settled.Store(true)
		g.observe(x, ostiary.Refused, &e, nil)
		g.flying.Done()
		return &e
	}
	d := x.disposition(&e)
	if d == ostiary.Refused && e.Kind == ostiary.Denied && g.holder != nil && x.holdable() {
		switch id, err := g.holder.Hold(ctx, x.request, &x.decision); {
		case err == nil:
			d, x.held, e.Code, e.Field = ostiary.Held, id, "held", string(id)
		case !errors.Is(err, ErrNotHeld):
			e = *ostiary.AsError(err)
		}
	}
	if err := g.settle(ctx, x, d, &e); err != nil {
		// What could not be recorded is not explained either.
		return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the ledger cannot record this call").Because(errors.Join(cause, err))
	}
	e.Entry = x.ref()
	return &e
}

// holdable reports whether people may be asked about a denial: of a call that
// a server would carry out, so that it can be made again without its caller,
// and not of one that they consented to already.
func (x *exchange) holdable() bool {
	return x.decision.Requestable() && x.call.Target.Kind == ToServer && x.request.Action.Server != "" && x.subject.Via != ostiary.ViaSelf && x.call.Approval == ""
}

// disposition says what became of an exchange that ended with an error.
// Before the clearance nothing left. After it, only egress's own word that
// nothing was sent makes it Failed; everything else may have happened.
func (x *exchange) disposition(e *ostiary.Error) ostiary.Disposition {
	switch {
	case !x.bound:
		return ostiary.Refused
	case errors.Is(e, ErrNotSent):
		return ostiary.Failed
	default:
		return ostiary.Unknown
	}
}

// bug turns a panic into a refusal. The text goes to our log, not to the
// caller.
func (g *Gate) bug(p any) error {
	g.log.Error("panic in the flow", "panic", ostiary.Panicked(p), "stack", string(debug.Stack()))
	return ostiary.Errorf(ostiary.Internal, "panic", "internal error").Because(ostiary.Panicked(p))
}

func newEntryID() (id ostiary.EntryID) {
	rand.Read(id[:])
	return id
}
