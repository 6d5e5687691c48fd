package gate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// world is a gate with neighbours that note what happened, in order, and that
// can be told to fail at one step in one way.
type world struct {
	mu       sync.Mutex
	events   []string
	entries  []ostiary.Entry
	counts   map[string]int
	failAt   string // step
	how      string // "error", "panic", "done" (happened, but reported failed)
	decision func(*ostiary.Request) ostiary.Decision
	contain  ostiary.Containment
	later    func(asked int) ostiary.Containment // of calls under way, by how often it was asked; nil is none
	asked    int
	frames   []gate.Frame
	sent     int
	tainted  []string
	trusted  bool              // the server
	ceilings []ostiary.Ceiling // of the mandate
}

func newWorld() *world {
	return &world{counts: map[string]int{}, contain: ostiary.None, frames: []gate.Frame{{Kind: gate.FrameResult}}}
}

func (w *world) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, s)
}

var errInjected = errors.New("injected")

func (w *world) fault(step string) error {
	w.note(step)
	if w.failAt != step {
		return nil
	}
	if w.how == "panic" {
		panic("injected c4n4ry-argument")
	}
	return errInjected
}

func (w *world) Authenticate(_ context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	step := "authenticate"
	if c.Held != nil {
		step = "confirm"
	}
	if err := w.fault(step); err != nil {
		return ostiary.Subject{}, err
	}
	return ostiary.Subject{Agent: "spiffe://td/a", Principal: "person:dana", Mandate: "m"}, nil
}

func (w *world) Resolve(_ context.Context, s ostiary.Subject, c *gate.Call) (*ostiary.Request, error) {
	if err := w.fault("resolve"); err != nil {
		return nil, err
	}
	now := time.Unix(1e9, 0)
	return &ostiary.Request{Subject: s, Action: c.Action, Resource: ostiary.Resource{Server: c.Action.Server, Trusted: w.trusted}, Context: ostiary.Context{
		Now: now, Containment: w.contain, Session: ostiary.Session{ID: "s"},
		Mandate: ostiary.Mandate{ID: "m", Actions: []string{"bank___pay"}, Resources: []string{"bank"}, NotBefore: now.Add(-1), Expires: now.Add(time.Hour), Ceilings: w.ceilings},
	}}, nil
}

func (w *world) Level(*ostiary.Subject, *ostiary.Action) ostiary.Containment {
	w.asked++
	if w.failAt == "standing" && w.fault("standing") != nil {
		return ostiary.NotEstablished
	}
	if w.later != nil {
		return w.later(w.asked)
	}
	return ostiary.None
}

func (w *world) Validate(*ostiary.Action) error { return w.fault("validate") }

func (w *world) Decide(r *ostiary.Request) ostiary.Decision {
	if w.fault("decide") != nil {
		return ostiary.Decision{Code: "policy_error"}
	}
	if w.decision != nil {
		return w.decision(r)
	}
	return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 3}
}

func (w *world) Append(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	step := "append " + e.Kind.String()
	err := w.fault(step)
	if err != nil && w.how == "error" {
		return ostiary.Receipt{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, *e)
	if err != nil { // "done": it is on disk, but the caller hears otherwise
		return ostiary.Receipt{ID: e.ID}, err
	}
	return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: uint64(len(w.entries))}}, nil
}

func (w *world) Count(source, code string) { w.mu.Lock(); w.counts[source+" "+code]++; w.mu.Unlock() }

func (w *world) Taint(id ostiary.SessionID, r ostiary.Resource) error {
	if err := w.fault("taint"); err != nil {
		return err
	}
	w.tainted = append(w.tainted, r.Server)
	return nil
}

func (w *world) Forward(_ context.Context, c *gate.Clearance) (gate.Stream, error) {
	if w.failAt == "forward" && w.how == "error" {
		w.note("forward")
		return nil, ostiary.Errorf(ostiary.Upstream, "refused", "connection refused").Because(gate.ErrNotSent)
	}
	if _, err := c.Redeem(); err != nil {
		return nil, err
	}
	w.sent++
	if err := w.fault("forward"); err != nil {
		return nil, err
	}
	return &stream{w: w, Stream: gatetest.Frames(w.frames...)}, nil
}

type stream struct {
	w *world
	gate.Stream
}

func (s *stream) Next(ctx context.Context) (gate.Frame, error) {
	if err := s.w.fault("next"); err != nil {
		return gate.Frame{}, err
	}
	return s.Stream.Next(ctx)
}

func (w *world) gate(change ...func(*gate.Options)) *gate.Gate {
	return gatetest.New(gatetest.Neighbours{Options: func(o *gate.Options) {
		o.Identity, o.Facts, o.Validator, o.Policy, o.Ledger, o.Egress, o.Tainter, o.Containments = w, w, w, w, w, w, w, w
		for _, c := range change {
			c(o)
		}
	}})
}

func call() gate.Call {
	return gate.Call{Action: ostiary.Action{Name: "bank___pay", Method: "tools/call", Server: "bank", Tool: "pay"}, Credentials: ostiary.Credentials{Remote: "1.2.3.4"}}
}

// read drains a reply and returns how many final frames came out.
func read(r *gate.Reply) (finals int, err error) {
	for {
		f, err := r.Next(context.Background())
		if err == io.EOF {
			return finals, nil
		}
		if err != nil {
			return finals, err
		}
		if f.Kind.Final() {
			finals++
		}
	}
}

func (w *world) outcomes() (out []ostiary.Entry) {
	for _, e := range w.entries {
		if e.Kind == ostiary.KindOutcome {
			out = append(out, e)
		}
	}
	return out
}

func TestOrderOfSteps(t *testing.T) {
	w := newWorld()
	r, err := w.gate().Handle(context.Background(), call())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := read(r); n != 1 || err != nil {
		t.Fatalf("finals %d, err %v", n, err)
	}
	want := []string{"authenticate", "resolve", "validate", "decide", "append intent", "forward", "next", "confirm", "taint", "append outcome"}
	if !slices.Equal(w.events, want) {
		t.Errorf("steps\n got %q\nwant %q", w.events, want)
	}
	o := w.outcomes()
	if len(o) != 1 || o[0].Disposition != ostiary.Delivered || o[0].Answers != w.entries[0].ID || o[0].Answers.IsZero() {
		t.Errorf("outcome %+v", o)
	}
}

var faultySteps = []string{"authenticate", "resolve", "validate", "decide", "append intent", "standing", "forward", "next", "confirm", "taint", "append outcome"}

// TestQ02PanicsTellNothing: what a panic says, which may be an argument or a
// key, is in no log, no error and no entry. Where it was is in the log.
func TestQ02PanicsTellNothing(t *testing.T) {
	for _, step := range faultySteps {
		t.Run("Q02 R07 "+step, func(t *testing.T) {
			var logged bytes.Buffer
			w := newWorld()
			w.failAt, w.how = step, "panic"
			r, err := w.gate(func(o *gate.Options) {
				o.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}).Handle(context.Background(), call())
			if err == nil {
				_, err = read(r)
				r.Close()
			}
			if all := fmt.Sprint(logged.String(), err, w.entries, w.counts); strings.Contains(all, "c4n4ry") || !strings.Contains(logged.String(), "gate_test.go") {
				t.Errorf("%s", all)
			}
		})
	}
}

// TestFaults makes every neighbour fail in every way: nothing that would have
// been refused leaves, and every exit is accounted for.
func TestFaults(t *testing.T) {
	for _, step := range faultySteps {
		for _, how := range []string{"error", "panic", "done"} {
			t.Run(step+"/"+how, func(t *testing.T) {
				w := newWorld()
				w.failAt, w.how = step, how
				g := w.gate()
				r, err := g.Handle(context.Background(), call())
				finals := 0
				if err == nil {
					finals, err = read(r)
					r.Close()
				}
				if err == nil || finals != 0 {
					t.Fatalf("finals %d, err %v: a fault at %s must refuse", finals, err, step)
				}
				intentDone := slices.ContainsFunc(w.entries, func(e ostiary.Entry) bool { return e.Kind == ostiary.KindIntent })
				if w.sent > 0 && !intentDone {
					t.Error("law 1: sent without a durable intent")
				}
				before := slices.Index([]string{"authenticate", "resolve", "validate", "decide", "append intent", "standing"}, step) >= 0
				if before && w.sent != 0 {
					t.Errorf("law 3: a fault at %s let the call out", step)
				}
				checkAccounted(t, w, step, how)
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				if err := g.Drain(ctx); err != nil {
					t.Error("an exchange was never settled")
				}
			})
		}
	}
}

func checkAccounted(t *testing.T, w *world, step, how string) {
	t.Helper()
	o := w.outcomes()
	switch {
	case step == "authenticate":
		if len(w.entries) != 0 || len(w.counts) != 1 {
			t.Errorf("entries %d, counts %v: want one exact count and no entry", len(w.entries), w.counts)
		}
	case step == "append outcome" && how != "done":
		if len(o) != 0 {
			t.Errorf("outcomes %d", len(o))
		}
	case len(o) != 1:
		t.Errorf("%d outcomes, want exactly one", len(o))
	case step == "append intent" && how != "panic" && o[0].Answers.IsZero() != (how == "error"):
		t.Errorf("the outcome answers %q: it must answer an Intent that may stand, and no other", o[0].Answers)
	case step == "confirm", step == "taint":
		if o[0].Disposition != ostiary.Withheld {
			t.Errorf("disposition %v: the reply was there and was kept back", o[0].Disposition)
		}
	case step == "next", step == "forward" && how != "error":
		if o[0].Disposition != ostiary.Unknown {
			t.Errorf("disposition %v: what was sent may have happened", o[0].Disposition)
		}
	case step == "forward":
		if o[0].Disposition != ostiary.Failed {
			t.Errorf("disposition %v: egress was certain that nothing was sent", o[0].Disposition)
		}
	case step == "append outcome":
	default:
		if o[0].Disposition != ostiary.Refused {
			t.Errorf("disposition %v", o[0].Disposition)
		}
	}
}

// What a trusted server says taints nothing; what another says does, once.
func TestTaint(t *testing.T) {
	for trusted, want := range map[bool]int{true: 0, false: 1} {
		w := newWorld()
		w.trusted = trusted
		w.frames = []gate.Frame{{Kind: gate.FrameNotification}, {Kind: gate.FrameNotification}, {Kind: gate.FrameResult}}
		r, err := w.gate().Handle(context.Background(), call())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := read(r); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if len(w.tainted) != want {
			t.Errorf("trusted %v: tainted by %q", trusted, w.tainted)
		}
	}
}

// A reply that fails names the Intent, where people begin to read; if that it
// failed cannot be recorded, nothing is explained.
func TestFailedReply(t *testing.T) {
	for down, want := range map[bool]string{false: "reply_cut", true: "not_recorded"} {
		w := newWorld()
		w.frames = nil
		if down {
			w.failAt, w.how = "append outcome", "error"
		}
		r, err := w.gate().Handle(context.Background(), call())
		if err != nil {
			t.Fatal(err)
		}
		_, err = read(r)
		e := ostiary.AsError(err)
		if e == nil || e.Code != want {
			t.Errorf("down %v: %v", down, err)
		}
		if !down && e.Entry != r.Intent.Ref {
			t.Errorf("it names %s, not %s", e.Entry, r.Intent.Ref)
		}
	}
}

func TestDenialIsRecordedWithReasonsAndRemedies(t *testing.T) {
	w := newWorld()
	w.decision = func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Code: "forbid", Reasons: []ostiary.Reason{{Policy: "pay-large", Text: "too large"}}, Remedies: []ostiary.Remedy{{Fact: "approval:finance", Policy: "pay-large"}}}
	}
	_, err := w.gate().Handle(context.Background(), call())
	e := ostiary.AsError(err)
	if e.Kind != ostiary.Denied || e.Code != "forbid" || len(e.Reasons) != 1 || len(e.Remedies) != 1 || e.Entry.String() != "2026-11/1" {
		t.Errorf("refusal %+v", e)
	}
	if len(w.entries) != 1 || w.entries[0].Kind != ostiary.KindOutcome || w.entries[0].Permit || w.entries[0].Reasons[0] != "pay-large" || w.sent != 0 {
		t.Errorf("entries %+v, sent %d", w.entries, w.sent)
	}
}

func TestContainmentRefuses(t *testing.T) {
	for c := ostiary.NotEstablished; c <= ostiary.Suspended+1; c++ {
		w := newWorld()
		w.contain = c
		r, err := w.gate().Handle(context.Background(), call())
		if r != nil {
			r.Close()
		}
		open := c == ostiary.None || c == ostiary.Throttled || c == ostiary.Restricted
		if (err == nil) != open {
			t.Errorf("%v: err %v", c, err)
		}
		if !open && (ostiary.KindOf(err) != ostiary.Contained || w.sent != 0) {
			t.Errorf("%v: kind %v, sent %d", c, ostiary.KindOf(err), w.sent)
		}
	}
}

func TestFaultOfTheDoorIsRecorded(t *testing.T) {
	w := newWorld()
	c := call()
	c.Fault = ostiary.Errorf(ostiary.Malformed, "duplicate_key", "the key stands twice").At("/params")
	_, err := w.gate().Handle(context.Background(), c)
	if e := ostiary.AsError(err); e.Code != "duplicate_key" || e.Entry.IsZero() {
		t.Errorf("got %+v", e)
	}
	if len(w.entries) != 1 || w.entries[0].Code != "duplicate_key" || w.sent != 0 {
		t.Errorf("entries %+v", w.entries)
	}
}

func TestMandateMustCover(t *testing.T) {
	w := newWorld()
	c := call()
	c.Action.Name = "bank___close"
	_, err := w.gate().Handle(context.Background(), c)
	if e := ostiary.AsError(err); e.Kind != ostiary.Denied || e.Code != "mandate" || w.sent != 0 {
		t.Errorf("got %+v", e)
	}
}

// A ceiling holds for the exact bytes that would leave: those the caller sent,
// and those an obligation puts in their place.
func TestCeilings(t *testing.T) {
	args := func(s string) ostiary.Value {
		doc, err := strictjson.Parse([]byte(s), strictjson.Request)
		if err != nil {
			t.Fatal(err)
		}
		return doc.Root()
	}
	raise := func(o *gate.Options) {
		o.Obligers = map[string]gate.Obliger{"redact": obliger(func(r *ostiary.Request) (*ostiary.Action, error) {
			if r.Action.Rewritten {
				return nil, nil
			}
			a := r.Action
			a.Arguments = args(`{"amount":101}`)
			return &a, nil
		})}
	}
	for name, c := range map[string]struct {
		args    string
		rewrite bool
		passes  bool
	}{
		"within":           {`{"amount":1e2}`, false, true},
		"above":            {`{"amount":100.000000000000000001}`, false, false},
		"missing":          {`{}`, false, false},
		"text":             {`{"amount":"1"}`, false, false},
		"raised afterward": {`{"amount":1}`, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.ceilings = []ostiary.Ceiling{{Action: "bank___pay", Pointer: "/amount", Max: "100"}}
			var options []func(*gate.Options)
			if c.rewrite {
				options = append(options, raise)
				w.decision = func(*ostiary.Request) ostiary.Decision {
					return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1, Obligations: []ostiary.Obligation{{Type: "redact"}}}
				}
			}
			call := call()
			call.Action.Arguments = args(c.args)
			r, err := w.gate(options...).Handle(context.Background(), call)
			if c.passes {
				if err != nil {
					t.Fatal(err)
				}
				r.Close()
				return
			}
			if e := ostiary.AsError(err); e == nil || e.Kind != ostiary.Denied || e.Code != "ceiling" || e.Field != "/amount" || w.sent != 0 || len(w.entries) != 1 || w.entries[0].Code != "ceiling" {
				t.Errorf("got %+v, sent %d, %d entries", err, w.sent, len(w.entries))
			}
		})
	}
}

// A clearance is redeemed once at most, whoever holds it (law 4).
func TestClearanceOpensOnce(t *testing.T) {
	var zero gate.Clearance
	if _, err := zero.Redeem(); ostiary.KindOf(err) != ostiary.Denied || ostiary.AsError(err).Code != "no_clearance" {
		t.Errorf("the zero clearance: %v", err)
	}
	c := gatetest.Clear(call())
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if _, err := c.Redeem(); err == nil {
				won.Add(1)
			} else if ostiary.KindOf(err) != ostiary.Conflict {
				t.Errorf("loser got %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d redemptions", won.Load())
	}
}

// The end of a reply is not released before its Outcome is durable.
func TestEndWaitsForOutcome(t *testing.T) {
	w := newWorld()
	w.frames = []gate.Frame{{Kind: gate.FrameNotification}, {Kind: gate.FrameResult}}
	r, err := w.gate().Handle(context.Background(), call())
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.Next(context.Background()); err != nil || f.Kind != gate.FrameNotification {
		t.Fatalf("%v %v", f, err)
	}
	if len(w.outcomes()) != 0 {
		t.Fatal("settled too early")
	}
	if f, err := r.Next(context.Background()); err != nil || f.Kind != gate.FrameResult || len(w.outcomes()) != 1 {
		t.Fatalf("%v %v, outcomes %d", f, err, len(w.outcomes()))
	}
	r.Close()
	r.Close()
	if len(w.outcomes()) != 1 {
		t.Error("settled twice")
	}
}

func TestLeavingEarlyIsUnknown(t *testing.T) {
	w := newWorld()
	r, err := w.gate().Handle(context.Background(), call())
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if o := w.outcomes(); len(o) != 1 || o[0].Disposition != ostiary.Unknown || o[0].Code != "abandoned" {
		t.Errorf("outcomes %+v", o)
	}
}

type inspector struct {
	findings []ostiary.Finding
	err      error
}

func (i inspector) Inspect(context.Context, *ostiary.Request, gate.Frame) ([]ostiary.Finding, error) {
	return i.findings, i.err
}

func TestInspectorWithholds(t *testing.T) {
	w := newWorld()
	g := w.gate(func(o *gate.Options) {
		o.Inspectors = []gate.Inspector{inspector{findings: []ostiary.Finding{{Kind: "secret"}}, err: ostiary.Errorf(ostiary.Denied, "secret_found", "the reply holds a secret")}}
	})
	r, err := g.Handle(context.Background(), call())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := read(r); n != 0 || ostiary.AsError(err).Code != "secret_found" {
		t.Errorf("finals %d, err %v", n, err)
	}
	if o := w.outcomes(); len(o) != 1 || o[0].Disposition != ostiary.Withheld || !strings.Contains(string(o[0].Payload.Detail), "secret") {
		t.Errorf("outcomes %+v", o)
	}
}

type obliger func(*ostiary.Request) (*ostiary.Action, error)

func (f obliger) Oblige(_ context.Context, r *ostiary.Request, _ ostiary.Obligation) (*ostiary.Action, error) {
	return f(r)
}

func TestRewriteIsANewActionBeforeRecord(t *testing.T) {
	permit := func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1, Obligations: []ostiary.Obligation{{Type: "redact"}}}
	}
	args := func(s string) ostiary.Value {
		return ostiary.NewDocument([]byte(s), []ostiary.Node{{Kind: ostiary.Object, End: uint32(len(s)), Next: 1}}).Root()
	}
	rewrite := func(until string) func(*gate.Options) {
		return func(o *gate.Options) {
			o.Obligers = map[string]gate.Obliger{"redact": obliger(func(r *ostiary.Request) (*ostiary.Action, error) {
				if string(r.Action.Arguments.Bytes()) == until {
					return nil, nil
				}
				a := r.Action
				a.Arguments = args(string(a.Arguments.Bytes()) + " ")
				return &a, nil
			})}
		}
	}
	t.Run("decided again and recorded", func(t *testing.T) {
		w := newWorld()
		w.decision = permit
		c := call()
		c.Action.Arguments = args("{}")
		r, err := w.gate(rewrite("{} ")).Handle(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		in := w.entries[0]
		if string(in.Payload.Arguments) != "{} " || in.Asked != c.Action.Digest() {
			t.Errorf("recorded %q, asked %v", in.Payload.Arguments, in.Asked)
		}
		decided := 0
		for _, e := range w.events {
			if e == "decide" || e == "validate" {
				decided++
			}
		}
		if decided != 4 {
			t.Errorf("validated and decided %d times, want 4", decided)
		}
	})
	t.Run("denied the second time", func(t *testing.T) {
		w := newWorld()
		w.decision = func(r *ostiary.Request) ostiary.Decision {
			if r.Action.Rewritten {
				return ostiary.Decision{Code: "forbid"}
			}
			return permit(r)
		}
		c := call()
		c.Action.Arguments = args("{}")
		if _, err := w.gate(rewrite("{} ")).Handle(context.Background(), c); ostiary.AsError(err).Code != "forbid" || w.sent != 0 {
			t.Errorf("err %v, sent %d", err, w.sent)
		}
	})
	t.Run("never settles down", func(t *testing.T) {
		w := newWorld()
		w.decision = permit
		if _, err := w.gate(rewrite("never")).Handle(context.Background(), call()); ostiary.AsError(err).Code != "unstable_rewrite" || w.sent != 0 {
			t.Errorf("err %v, sent %d", err, w.sent)
		}
	})
	t.Run("not understood", func(t *testing.T) {
		w := newWorld()
		w.decision = permit
		if _, err := w.gate().Handle(context.Background(), call()); ostiary.AsError(err).Code != "obligation_unknown" || w.sent != 0 {
			t.Errorf("err %v, sent %d", err, w.sent)
		}
	})
}

type holder struct {
	held []*ostiary.Request
	err  error
}

func (h *holder) Hold(_ context.Context, r *ostiary.Request, _ *ostiary.Decision) (ostiary.HoldID, error) {
	h.held = append(h.held, r)
	return ostiary.HoldID(fmt.Sprint("hold-", len(h.held))), h.err
}

func TestRequestableDenialIsHeld(t *testing.T) {
	deny := func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:x"}}}
	}
	for _, failing := range []bool{false, true} {
		w, h := newWorld(), &holder{}
		w.decision = deny
		if failing {
			h.err = errInjected
		}
		_, err := w.gate(func(o *gate.Options) { o.Holder = h }).Handle(context.Background(), call())
		e, o := ostiary.AsError(err), w.outcomes()
		want := ostiary.Held
		if failing {
			want = ostiary.Refused
		}
		if len(o) != 1 || o[0].Disposition != want || w.sent != 0 || (e.Code == "held") == failing {
			t.Errorf("failing %v: %+v, outcomes %+v", failing, e, o)
		}
	}
}

// What has not been said does not leave: every kind a decision can have, with
// a zero decision in the middle.
func TestZeroDecisionDenies(t *testing.T) {
	w := newWorld()
	w.decision = func(*ostiary.Request) ostiary.Decision { return ostiary.Decision{} }
	if _, err := w.gate().Handle(context.Background(), call()); ostiary.KindOf(err) != ostiary.Denied || w.sent != 0 {
		t.Errorf("err %v, sent %d", err, w.sent)
	}
}

// A held call restarts with the subject it was held for and without any live
// credential: identity confirms it again, and the whole flow runs on the held
// bytes.
func TestHeldCallRestarts(t *testing.T) {
	w, h := newWorld(), &holder{}
	granted := false
	w.decision = func(*ostiary.Request) ostiary.Decision {
		if granted {
			return ostiary.Decision{Permit: true, Code: "permit", Snapshot: 1}
		}
		return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:x"}}}
	}
	g := w.gate(func(o *gate.Options) { o.Holder = h })
	if _, err := g.Handle(context.Background(), call()); ostiary.AsError(err).Code != "held" {
		t.Fatalf("not held: %v", err)
	}
	granted = true
	held := h.held[0]
	r, err := g.Handle(context.Background(), gate.Call{Credentials: ostiary.Credentials{Held: &held.Subject}, Action: held.Action})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := read(r); n != 1 || err != nil || w.sent != 1 {
		t.Errorf("finals %d, err %v, sent %d", n, err, w.sent)
	}
	want := []string{"authenticate", "resolve", "validate", "decide", "append outcome", "confirm", "resolve", "validate", "decide", "append intent", "forward", "next", "confirm", "taint", "append outcome"}
	if !slices.Equal(w.events, want) {
		t.Errorf("steps\n got %q\nwant %q", w.events, want)
	}
}
