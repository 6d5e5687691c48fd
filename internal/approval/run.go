package approval

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

// Settlement is what became of a held call, for whoever asked for it.
type Settlement struct {
	Hold        ostiary.HoldID
	State       ostiary.HoldState
	Disposition ostiary.Disposition // of a call that was carried out
	Intent      ostiary.Receipt     // of a call that was sent
	Failed      bool                // Body is the far side's own error object
	Body        []byte              // the far side's result; nil if there is none, or none any more
	Err         *ostiary.Error      // why there is no result: what the caller may know
	Retry       bool                // nothing was sent and nothing was spent: it may be tried again
}

// result is a settlement as it is sealed.
type result struct {
	Failed bool                `json:"failed,omitempty"`
	Body   []byte              `json:"body,omitempty"`
	Kind   ostiary.Kind        `json:"kind,omitempty"`
	Code   string              `json:"code,omitempty"`
	Field  string              `json:"field,omitempty"`
	Text   string              `json:"text,omitempty"`
	Reason []ostiary.Reason    `json:"reasons,omitempty"`
	Entry  ostiary.EntryRef    `json:"entry,omitzero"`
	Long   bool                `json:"long,omitempty"` // the body was too long to keep
	Ended  ostiary.Disposition `json:"disposition"`
	Intent ostiary.Receipt     `json:"intent,omitzero"`
}

const (
	// followEvery is how soon a decision that was counted by another process
	// of the same store is noticed here.
	followEvery = 250 * time.Millisecond
	// retryFirst is how long a granted call waits after it could not be begun;
	// the next time twice as long, and at most retryMost: each try is an entry.
	retryFirst = time.Second
	retryMost  = time.Minute
	// sweepEvery is how often holds that ended long ago are removed.
	sweepEvery = 10 * time.Minute
	// most is how many granted calls are carried out at once.
	most = 64
	// keepTimeout bounds how long what became of a call may take to be kept.
	keepTimeout = 10 * time.Second
)

// Run carries out what is granted, ends what nobody decided in time, and tells
// who waits, until ctx ends; then it waits for the calls under way. Of the
// processes that share a store each runs its own gateway's holds. It must be
// called once.
//
// What an earlier process of this gateway had spent and not settled is named
// unknown first: it may have been sent, and is never sent again.
func (a *Approvals) Run(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, most)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	f := follower{a: a}
	for {
		if err := f.follow(ctx, &calls, slots); ctx.Err() == nil {
			f.say(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-tick.C:
		}
	}
}

// follower is what Run knows.
type follower struct {
	a         *Approvals
	recovered bool
	seen      uint64
	later     map[ostiary.HoldID]retry // granted, and not to be begun before
	swept     time.Time
	failing   bool
	broken    map[ostiary.HoldID]bool // holds that cannot be read, and were said to be so
}

// skip reports whether an error is that of one stored hold that cannot be
// read: an operator is told it once, and the others go on.
func (f *follower) skip(id ostiary.HoldID, err error) bool {
	if ostiary.KindOf(err) != ostiary.Corrupt {
		return false
	}
	if !f.broken[id] {
		if f.broken == nil || len(f.broken) >= MaxList {
			f.broken = map[ostiary.HoldID]bool{}
		}
		f.broken[id] = true
		f.a.o.Log.Error("a held action cannot be read and is left as it is; the others go on", "hold", string(id), "error", err)
	}
	return true
}

// retry says when a granted call that could not be begun is tried again.
type retry struct {
	at   time.Time
	wait time.Duration
}

func (r retry) next(now time.Time) retry {
	wait := min(max(2*r.wait, retryFirst), retryMost)
	return retry{now.Add(wait), wait}
}

func (f *follower) say(err error) {
	switch {
	case err != nil && !f.failing:
		f.a.o.Log.Error("held actions cannot be followed; nothing is lost, and it is tried again", "error", err)
	case err == nil && f.failing:
		f.a.o.Log.Info("held actions are followed again")
	}
	f.failing = err != nil
}

func (f *follower) follow(ctx context.Context, calls *sync.WaitGroup, slots chan struct{}) error {
	a := f.a
	if !f.recovered {
		if err := f.recover(ctx); err != nil {
			return err
		}
		f.recovered, f.later = true, map[ostiary.HoldID]retry{}
	}
	if err := f.expire(ctx); err != nil {
		return err
	}
	if err := f.changed(ctx); err != nil {
		return err
	}
	if err := f.begin(ctx, calls, slots); err != nil {
		return err
	}
	if now := a.o.Clock(); now.Sub(f.swept) >= sweepEvery {
		f.swept = now
		if _, err := a.o.Store.SweepHolds(ctx, now); err != nil {
			return err
		}
	}
	return f.foreign(ctx)
}

// recover names unknown what this gateway had spent when it stopped, and what
// was open in the backup it was restored from: that may have been carried out
// before the restore.
func (f *follower) recover(ctx context.Context) error {
	return f.each(ctx, open, func(id ostiary.HoldID) (bool, error) {
		err := f.a.recoverOne(ctx, id)
		if err == error(errAlready) || f.skip(id, err) {
			err = nil
		}
		return true, err
	})
}

// each visits this gateway's holds in some states in the order they were
// created, until do says that it is enough.
func (f *follower) each(ctx context.Context, states []ostiary.HoldState, do func(ostiary.HoldID) (more bool, err error)) error {
	want := Filter{Gateway: f.a.o.Gateway, States: states, Limit: MaxList, Bare: true}
	for {
		rows, err := f.a.o.Store.Holds(ctx, want)
		if err != nil {
			return err
		}
		for i := range rows {
			if more, err := do(rows[i].ID); err != nil || !more {
				return err
			}
		}
		if len(rows) < MaxList {
			return nil
		}
		want.After = Cursor{rows[len(rows)-1].Created, rows[len(rows)-1].ID}
	}
}

func (a *Approvals) recoverOne(ctx context.Context, id ostiary.HoldID) error {
	h, err := a.change(ctx, id, func(h *Hold) error {
		why := ""
		switch {
		case h.State.Ended():
			return errAlready
		case h.Epoch != a.o.Epoch:
			why = "the gateway was restored from a backup; it may have been carried out before that, and is not sent again"
		case h.State == ostiary.HoldSpent:
			why = "the gateway stopped while it was being carried out; it may have happened, and is not sent again"
		default:
			return errAlready
		}
		h.State = ostiary.HoldUnknown
		h.Ended = Ending{At: a.o.Clock().UTC(), Why: why, Code: "hold_unknown", Disposition: ostiary.Unknown}
		return nil
	})
	if err != nil {
		return err
	}
	a.o.Log.Error("nobody can say whether an approved action happened", "hold", string(h.ID), "action", h.Call.Action.Name, "agent", string(h.Question.Agent), "why", h.Ended.Why)
	return a.o.Record(ctx, Event{What: "unknown", Hold: h.ID, Agent: h.Question.Agent, Detail: h.Ended.Why})
}

// errAlready says that somebody else did it.
var errAlready = ostiary.Errorf(ostiary.Conflict, "hold_decided", "this was decided already")

// expire refuses what nobody decided in time, of every gateway: one that
// stopped leaves nothing open. What was granted and could not be begun in time
// ends too.
func (f *follower) expire(ctx context.Context) error {
	a := f.a
	now := a.o.Clock()
	rows, err := a.o.Store.Holds(ctx, Filter{States: []ostiary.HoldState{ostiary.HoldPending, ostiary.HoldGranted}, Before: now, Limit: MaxList, Bare: true})
	if err != nil {
		return err
	}
	for i := range rows {
		if a.busy(rows[i].ID) {
			continue
		}
		h, err := a.change(ctx, rows[i].ID, func(h *Hold) error {
			if h.State != ostiary.HoldPending && h.State != ostiary.HoldGranted || h.Expires.After(now) {
				return errAlready
			}
			why, code := "nobody decided in time", "hold_expired"
			if h.State == ostiary.HoldGranted {
				why, code = "it was consented to, and could not be begun in time", "approval_expired"
			}
			h.State, h.Ended = ostiary.HoldExpired, Ending{At: now.UTC(), Why: why, Code: code}
			return nil
		})
		switch {
		case err == error(errAlready) || ostiary.KindOf(err) == ostiary.Conflict || f.skip(rows[i].ID, err):
		case err != nil:
			return err
		default:
			if err := a.o.Record(ctx, Event{What: "expire", Hold: h.ID, Agent: h.Question.Agent, Detail: h.Ended.Why}); err != nil {
				return err
			}
		}
	}
	return nil
}

// changed tells who waits what was decided since it last looked. What was
// looked at is not looked at again, however much there is.
func (f *follower) changed(ctx context.Context) error {
	a := f.a
	for {
		rows, err := a.o.Store.Holds(ctx, Filter{Gateway: a.o.Gateway, Since: f.seen, States: ended, Limit: MaxList, Changed: true, Bare: true})
		if err != nil {
			return err
		}
		for i := range rows {
			if id := rows[i].ID; a.waitedFor(id) && !a.busy(id) {
				s, err := a.settlement(ctx, id)
				switch {
				case err == nil:
					a.tell(s)
				case !f.skip(id, err):
					return err
				}
			}
			f.seen = rows[i].Revision
		}
		if len(rows) < MaxList {
			return nil
		}
	}
}

var ended = []ostiary.HoldState{ostiary.HoldDone, ostiary.HoldRefused, ostiary.HoldExpired, ostiary.HoldVoid, ostiary.HoldUnknown}

// begin carries out what is granted, each in a goroutine that Run waits for.
func (f *follower) begin(ctx context.Context, calls *sync.WaitGroup, slots chan struct{}) error {
	a := f.a
	granted, full := map[ostiary.HoldID]bool{}, false
	err := f.each(ctx, []ostiary.HoldState{ostiary.HoldGranted}, func(id ostiary.HoldID) (bool, error) {
		granted[id] = true
		r := f.later[id]
		if a.o.Clock().Before(r.at) || a.busy(id) {
			return true, nil
		}
		h, err := a.get(ctx, id)
		if f.skip(id, err) || ostiary.KindOf(err) == ostiary.NotFound || err == nil && h.State != ostiary.HoldGranted {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		select {
		case slots <- struct{}{}:
		default:
			full = true // the rest in the next round
			return false, nil
		}
		f.later[id] = r.next(a.o.Clock())
		a.start(id)
		calls.Go(func() {
			defer func() { <-slots }()
			a.carryOut(ctx, h)
		})
		return true, nil
	})
	if err != nil || full {
		return err
	}
	for id := range f.later {
		if !granted[id] {
			delete(f.later, id)
		}
	}
	return nil
}

// carryOut executes one granted hold, keeps what became of it, and tells who
// waits. Execute knows how long a call may take when the gateway is stopping.
func (a *Approvals) carryOut(ctx context.Context, h *Hold) {
	defer a.finish(h.ID)
	s := a.execute(ctx, h)
	s.Hold = h.ID
	if s.Retry && a.unspent(h.ID) {
		a.o.Log.Warn("a granted action could not be begun; it is tried again", "hold", string(h.ID), "error", s.Err)
		return
	}
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout) // the log has it, whoever stops
	defer cancel()
	state, err := a.keep(keep, &s)
	if err != nil {
		a.o.Log.Error("what became of an approved action could not be kept; the log has it", "hold", string(h.ID), "error", err)
	}
	s.State = state
	a.tell(s)
}

// unspent reports whether a granted hold can still be carried out.
func (a *Approvals) unspent(id ostiary.HoldID) bool {
	ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
	defer cancel()
	r, err := a.o.Store.Hold(ctx, id)
	return err == nil && r.State == ostiary.HoldGranted
}

func (a *Approvals) execute(ctx context.Context, h *Hold) (s Settlement) {
	defer func() {
		if p := recover(); p != nil {
			a.o.Log.Error("panic while an approved action was carried out", "hold", string(h.ID), "panic", ostiary.Panicked(p))
			s = Settlement{Disposition: ostiary.Unknown, Err: ostiary.Errorf(ostiary.Internal, "panic", "internal error")}
		}
	}()
	return a.o.Execute(ctx, h)
}

// keep writes what became of a call over its hold, with its result sealed.
func (a *Approvals) keep(ctx context.Context, s *Settlement) (state ostiary.HoldState, err error) {
	for range maxMoves {
		var r Row
		if r, err = a.o.Store.Hold(ctx, s.Hold); err != nil {
			return ostiary.HoldUnknown, err
		}
		var h *Hold
		if h, err = a.open(&r); err != nil {
			return ostiary.HoldUnknown, err
		}
		switch h.State {
		case ostiary.HoldGranted: // it never got as far as being sent
			h.State = ostiary.HoldVoid
		case ostiary.HoldSpent:
			if h.State = ostiary.HoldDone; s.Disposition == ostiary.Unknown {
				h.State = ostiary.HoldUnknown
			}
		default:
			return h.State, nil
		}
		h.Ended = Ending{At: a.o.Clock().UTC(), Disposition: s.Disposition}
		if s.Err != nil {
			h.Ended.Why, h.Ended.Code = s.Err.Detail, s.Err.Code
			if !s.Err.Entry.IsZero() {
				h.Ended.Entry = s.Err.Entry.String()
			}
		}
		state = h.State
		var next Row
		if next, err = a.row(h); err != nil {
			return state, err
		}
		if next.Result, err = a.sealResult(s); err != nil {
			return state, err
		}
		if _, err = a.o.Store.ReplaceHold(ctx, next); err == nil || ostiary.KindOf(err) != ostiary.Conflict {
			return state, err
		}
	}
	return state, err
}

func (a *Approvals) sealResult(s *Settlement) ([]byte, error) {
	r := result{Failed: s.Failed, Body: s.Body, Ended: s.Disposition, Intent: s.Intent}
	if len(r.Body) > MaxResult {
		r.Body, r.Long = nil, true
	}
	if e := s.Err; e != nil {
		r.Kind, r.Code, r.Field, r.Text, r.Reason, r.Entry = e.Kind, e.Code, e.Field, e.Detail, e.Reasons, e.Entry
	}
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return a.o.Seal.Seal(plain, []byte("result/"+string(s.Hold)))
}

// settlement reads what became of a hold that has ended.
func (a *Approvals) settlement(ctx context.Context, id ostiary.HoldID) (Settlement, error) {
	r, err := a.o.Store.Hold(ctx, id)
	if err != nil {
		if ostiary.KindOf(err) == ostiary.NotFound {
			err = errNoHold(id)
		}
		return Settlement{}, err
	}
	h, err := a.open(&r)
	if err != nil {
		return Settlement{}, err
	}
	s := Settlement{Hold: id, State: h.State, Disposition: h.Ended.Disposition}
	switch h.State {
	case ostiary.HoldRefused:
		s.Err = ostiary.Errorf(ostiary.Denied, h.Ended.Code, "%s refused it: %s", h.Ended.By, h.Ended.Why)
	case ostiary.HoldExpired:
		s.Err = ostiary.Errorf(ostiary.Denied, h.Ended.Code, "%s", h.Ended.Why)
	case ostiary.HoldUnknown:
		s.Err = ostiary.Errorf(ostiary.Upstream, "hold_unknown", "%s", h.Ended.Why)
	case ostiary.HoldPending, ostiary.HoldGranted, ostiary.HoldSpent:
		s.Err = ostiary.Errorf(ostiary.Denied, "held", "it waits for people").At(string(id))
	}
	if len(r.Result) == 0 || h.Ended.At.Add(ResultLife).Before(a.o.Clock()) {
		if s.Err == nil && h.State.Ended() {
			s.Err = ostiary.Errorf(ostiary.NotFound, "result_gone", "the result is not kept any more").At("hold")
		}
		return s, nil
	}
	plain, err := a.o.Seal.Open(r.Result, []byte("result/"+string(id)))
	if err != nil {
		return Settlement{}, corrupt(id, err)
	}
	var kept result
	if err := json.Unmarshal(plain, &kept); err != nil {
		return Settlement{}, corrupt(id, err)
	}
	s.Failed, s.Body, s.Intent = kept.Failed, kept.Body, kept.Intent
	if kept.Code != "" || kept.Text != "" {
		e := ostiary.Errorf(kept.Kind, kept.Code, "%s", kept.Text).At(kept.Field)
		e.Reasons, e.Entry = kept.Reason, kept.Entry
		s.Err = e
	}
	if kept.Long {
		s.Err = ostiary.Errorf(ostiary.NotFound, "result_long", "it was carried out, but its result was too long to be kept").At("hold")
	}
	return s, nil
}

// Asks is who may learn what became of a hold: the same agent, on the same
// authority, under the same mandate. So it is the same session.
type Asks struct {
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Mandate   ostiary.MandateID
	Scopes    []string // of the token it asks with, which must be for the hold's server; see [ostiary.Subject.CheckScope]
	Server    string   // only holds of calls to this server; "" is any
}

// AsksOf is who a subject asks as, of calls to a server or, with "", to any.
func AsksOf(s *ostiary.Subject, server string) Asks {
	return Asks{s.Agent, s.Principal, s.Mandate, s.Scopes, server}
}

// asked reports whether a hold is of who asks.
func (who *Asks) asked(h *Hold) bool {
	q, server := &h.Question, h.Call.Action.Server
	token := ostiary.Subject{Scopes: who.Scopes}
	return who.Agent != "" && who.Agent == q.Agent && who.Principal == q.Principal && who.Mandate == q.Mandate &&
		(who.Server == "" || who.Server == server) && token.CheckScope(server) == nil
}

// Result returns what has become of a hold, at once: one that has not ended
// has an Err of the code "held". NotFound for everybody but who asked for it.
func (a *Approvals) Result(ctx context.Context, id ostiary.HoldID, who Asks) (Settlement, error) {
	h, err := a.get(ctx, id)
	if err != nil {
		return Settlement{}, err
	}
	if !who.asked(h) {
		return Settlement{}, errNoHold(id)
	}
	return a.settlement(ctx, id)
}

// Wait returns when a hold has ended, like Result, or when ctx has: then with
// what Result would say. The first of those who wait here when a call ends
// gets a result that is too long to be kept, too.
func (a *Approvals) Wait(ctx context.Context, id ostiary.HoldID, who Asks) (Settlement, error) {
	told := make(chan Settlement, 1)
	a.mu.Lock()
	a.waiting[id] = append(a.waiting[id], told)
	a.mu.Unlock()
	defer a.leave(id, told)
	s, err := a.Result(ctx, id, who)
	if err != nil || s.State.Ended() && !a.busy(id) {
		return s, err
	}
	select {
	case s := <-told:
		return s, nil
	case <-ctx.Done():
		select {
		case s := <-told:
			return s, nil
		default:
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
			defer cancel()
			return a.Result(last, id, who)
		}
	}
}

func (a *Approvals) leave(id ostiary.HoldID, told chan Settlement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := slices.DeleteFunc(a.waiting[id], func(c chan Settlement) bool { return c == told })
	if len(left) == 0 {
		delete(a.waiting, id)
		return
	}
	a.waiting[id] = left
}

func (a *Approvals) waitedFor(id ostiary.HoldID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting[id]) > 0
}

// tell hands a settlement to everybody who waits for it here.
func (a *Approvals) tell(s Settlement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.waiting[s.Hold] {
		select {
		case c <- s:
		default: // told already
		}
	}
}

// foreign looks after who waits here for a hold of another gateway.
func (f *follower) foreign(ctx context.Context) error {
	a := f.a
	a.mu.Lock()
	var ids []ostiary.HoldID
	for id := range a.waiting {
		ids = append(ids, id)
	}
	a.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	rows, err := a.o.Store.Holds(ctx, Filter{States: ended, Limit: MaxList, IDs: ids[:min(len(ids), MaxList)], Bare: true})
	if err != nil {
		return err
	}
	for i := range rows {
		if rows[i].Gateway == a.o.Gateway {
			continue
		}
		s, err := a.settlement(ctx, rows[i].ID)
		switch {
		case err == nil:
			a.tell(s)
		case !f.skip(rows[i].ID, err):
			return err
		}
	}
	return nil
}

// nudge makes Run look at once.
func (a *Approvals) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Approvals) start(id ostiary.HoldID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[id] = true
}

func (a *Approvals) finish(id ostiary.HoldID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.running, id)
}

// busy reports whether a hold's call is under way here.
func (a *Approvals) busy(id ostiary.HoldID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running[id]
}
