package gate

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime/debug"

	"github.com/ostiary/ostiary"
)

// wary stands between the flow and its neighbours. It believes what they say,
// but not an answer that contradicts itself or the question: a subject that is
// nobody, a request about something else, a permit of no snapshot, a receipt
// of nothing. Each of these is an error with a code of its own, and so is each
// panic and each error that a neighbour did not classify.
type wary struct {
	Options
	log *slog.Logger
}

// guarded returns the options with every required neighbour behind a wary.
func (o Options) guarded() Options {
	w := &wary{o, o.Logger}
	o.Identity, o.Facts, o.Validator, o.Policy, o.Ledger, o.Egress, o.Tainter, o.Containments = w, w, w, w, w, w, w, w
	if o.Holder != nil {
		o.Holder = w
	}
	if o.Consents != nil {
		o.Consents = w
	}
	if o.Budgets != nil {
		o.Budgets = w
	}
	o.Obligers = maps.Clone(o.Obligers)
	for name, x := range o.Obligers {
		o.Obligers[name] = careful{x, w}
	}
	return o
}

// named turns a panic of a step into its error, and names an error that
// nobody classified after the step.
func (w *wary) named(step string, err *error) {
	if p := recover(); p != nil {
		w.log.Error("panic in the flow", "step", step, "panic", ostiary.Panicked(p), "stack", string(debug.Stack()))
		*err = ostiary.Errorf(ostiary.Internal, step+"_panic", "internal error").Because(ostiary.Panicked(p))
		return
	}
	if *err == nil {
		return
	}
	if e := (*ostiary.Error)(nil); errors.As(*err, &e) {
		return
	}
	if errors.Is(*err, context.DeadlineExceeded) || errors.Is(*err, context.Canceled) {
		*err = ostiary.Errorf(ostiary.Unavailable, step+"_timeout", "the gateway did not answer in time").Because(*err)
		return
	}
	*err = ostiary.Errorf(ostiary.Internal, step+"_failed", "internal error").Because(*err)
}

func (w *wary) Authenticate(ctx context.Context, c ostiary.Credentials) (s ostiary.Subject, err error) {
	step := "authenticate"
	if c.Held != nil {
		step = "confirm"
	}
	defer w.named(step, &err)
	if s, err = w.Options.Identity.Authenticate(ctx, c); err != nil {
		return ostiary.Subject{}, err
	}
	if s.IsZero() || c.Held != nil && s.Agent != c.Held.Agent {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, step+"_nobody", "nobody was authenticated")
	}
	return s, nil
}

func (w *wary) Resolve(ctx context.Context, s ostiary.Subject, call *Call) (r *ostiary.Request, err error) {
	defer w.named("resolve", &err)
	if r, err = w.Facts.Resolve(ctx, s, call); err != nil {
		return nil, err
	}
	if r == nil || r.Subject.Agent != s.Agent || r.Context.Session.ID == "" || !sameAction(&r.Action, &call.Action) ||
		r.Context.Approval != call.Approval || len(r.Context.Satisfied) > 0 && call.Approval == "" {
		return nil, ostiary.Errorf(ostiary.Internal, "resolve_astray", "internal error")
	}
	return r, nil
}

// sameAction reports whether two actions differ at most in their pin and their
// groups.
func sameAction(a, b *ostiary.Action) bool {
	return a.Name == b.Name && a.Method == b.Method && a.Server == b.Server && a.Tool == b.Tool && a.URI == b.URI &&
		bytes.Equal(a.Arguments.Bytes(), b.Arguments.Bytes()) && bytes.Equal(a.Responses.Bytes(), b.Responses.Bytes()) && bytes.Equal(a.State, b.State)
}

func (w *wary) Validate(a *ostiary.Action) (err error) {
	defer w.named("validate", &err)
	return w.Validator.Validate(a)
}

func (w *wary) Decide(r *ostiary.Request) (d ostiary.Decision) {
	var err error
	defer func() {
		if err != nil {
			d = ostiary.Decision{Code: "decide_panic"}
		}
	}()
	defer w.named("decide", &err)
	if d = w.Policy.Decide(r); d.Permit && (d.Code != "permit" || d.Snapshot == 0) {
		return ostiary.Decision{Code: "decide_unsound"}
	}
	return d
}

// Append also refuses an Intent whose caller's time ended while it was being
// written: nothing leaves for somebody who is gone.
func (w *wary) Append(ctx context.Context, e *ostiary.Entry) (r ostiary.Receipt, err error) {
	step := "record"
	if e.Kind == ostiary.KindOutcome {
		step = "settle"
	}
	returned := false
	defer func() {
		if !returned { // a panic: it may stand
			r = ostiary.Receipt{ID: e.ID}
		}
	}()
	defer w.named(step, &err)
	r, err = w.Ledger.Append(ctx, e)
	returned = true
	if err != nil {
		return r, err
	}
	if r.Ref.IsZero() || !e.ID.IsZero() && r.ID != e.ID {
		return ostiary.Receipt{ID: e.ID}, ostiary.Errorf(ostiary.Unavailable, step+"_unproven", "the ledger gave no receipt")
	}
	if step == "record" && ctx.Err() != nil {
		return ostiary.Receipt{ID: e.ID}, ostiary.Errorf(ostiary.Unavailable, "too_late", "the caller's time ended before the call was recorded").Because(ctx.Err())
	}
	return r, nil
}

func (w *wary) Count(source, code string) {
	var err error
	defer w.named("count", &err)
	w.Ledger.Count(source, code)
}

func (w *wary) Reserve(ctx context.Context, id ostiary.EntryID, r *ostiary.Request) (h Hold, err error) {
	defer w.named("reserve", &err)
	return w.Budgets.Reserve(ctx, id, r)
}

// Forward leaves it open whether something was sent, whatever went wrong
// without egress saying so.
func (w *wary) Forward(ctx context.Context, c *Clearance) (s Stream, err error) {
	defer w.named("forward", &err)
	if s, err = w.Egress.Forward(ctx, c); err != nil {
		return nil, err
	}
	if s == nil {
		return nil, ostiary.Errorf(ostiary.Upstream, "forward_silent", "there is no reply")
	}
	return s, nil
}

// careful is an obliger behind a wary.
type careful struct {
	Obliger
	w *wary
}

func (c careful) Oblige(ctx context.Context, r *ostiary.Request, o ostiary.Obligation) (a *ostiary.Action, err error) {
	defer c.w.named("oblige", &err)
	return c.Obliger.Oblige(ctx, r, o)
}

// Level of whoever panics is not established.
func (w *wary) Level(s *ostiary.Subject, a *ostiary.Action) (c ostiary.Containment) {
	var err error
	defer func() {
		if err != nil {
			c = ostiary.NotEstablished
		}
	}()
	defer w.named("contain", &err)
	return w.Containments.Level(s, a)
}

func (w *wary) Taint(id ostiary.SessionID, r ostiary.Resource) (err error) {
	defer w.named("taint", &err)
	return w.Tainter.Taint(id, r)
}

// Satisfied and Spend count for nothing unless they say so.
func (w *wary) Satisfied(ctx context.Context, id ostiary.HoldID, r *ostiary.Request) (facts []string, err error) {
	defer w.named("consent", &err)
	return w.Options.Consents.Satisfied(ctx, id, r)
}

func (w *wary) Spend(ctx context.Context, id ostiary.HoldID, intent ostiary.EntryID, r *ostiary.Request, d *ostiary.Decision) (err error) {
	defer w.named("spend", &err)
	return w.Options.Consents.Spend(ctx, id, intent, r, d)
}

func (w *wary) Hold(ctx context.Context, r *ostiary.Request, d *ostiary.Decision) (id ostiary.HoldID, err error) {
	defer w.named("hold", &err)
	if id, err = w.Holder.Hold(ctx, r, d); err == nil && id == "" {
		err = ostiary.Errorf(ostiary.Unavailable, "hold_lost", "the call could not be held")
	}
	return id, err
}
