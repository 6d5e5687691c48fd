package sim

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/provenance"
)

var errInjected = errors.New("injected")

// dependencies are the gate's neighbours: real ones that fail while the plan
// says so, and an identity by hand.
type dependencies struct{ l *life }

// fails carries out a fault that is the same for everybody.
func (d *dependencies) fails(ctx context.Context, name string) (how string, err error) {
	switch how = d.l.w.fault(name); how {
	case "panic":
		panic("injected")
	case "error":
		return how, errInjected
	case "hang":
		<-ctx.Done()
		return how, ctx.Err()
	}
	return how, nil
}

func agentID(name string) ostiary.AgentID { return ostiary.AgentID("spiffe://sim/agent/" + name) }

func (d *dependencies) Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	how, err := d.fails(ctx, "identity")
	if err != nil || how == "garbage" {
		return ostiary.Subject{}, err
	}
	id := agentID(string(c.Bearer.Reveal()))
	if c.Held != nil {
		id = c.Held.Agent
	}
	d.l.w.mu.Lock()
	defer d.l.w.mu.Unlock()
	if _, ended := d.l.w.revoked[id]; ended {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, "revoked", "")
	}
	return ostiary.Subject{Agent: id, Principal: "person:dana", Chain: []ostiary.AgentID{id}, Mandate: "m-" + ostiary.MandateID(id.Name()), Via: ostiary.ViaToken}, nil
}

func (d *dependencies) AgentFacts(s *ostiary.Subject) (gate.AgentFacts, error) {
	how, err := d.fails(d.l.ctx, "registry")
	if err != nil || how == "garbage" {
		return gate.AgentFacts{}, err
	}
	m := ostiary.Mandate{ID: s.Mandate, Kind: ostiary.StandingMandate, Principal: s.Principal, Agent: s.Agent, Actions: []string{"*"}, Resources: []string{"*"}, NotBefore: d.l.w.began.AddDate(-1, 0, 0), Expires: d.l.w.began.AddDate(9, 0, 0)}
	if s.Agent.Name() == "a0" {
		m.Resources = []string{"bank"}
	}
	return gate.AgentFacts{Zone: "default", Posture: ostiary.Posture{OK: true, Method: "sim", Appraised: d.l.w.began}, Mandate: m}, nil
}

func (d *dependencies) Session(ctx context.Context, s *ostiary.Subject, m ostiary.MandateID) (gate.SessionFacts, error) {
	how, err := d.fails(ctx, "sessions")
	if err != nil || how == "garbage" {
		return gate.SessionFacts{}, err
	}
	st, err := d.l.sessions.Open(ctx, provenance.Owner{Agent: s.Agent, Principal: s.Principal, Mandate: m, Root: m})
	return gate.SessionFacts{Session: st.Session, Taint: st.Taint, Reads: st.Reads}, err
}

func (d *dependencies) Taint(id ostiary.SessionID, r ostiary.Resource) error {
	if how := d.l.w.fault("taint"); how == "panic" {
		panic("injected")
	}
	return d.l.sessions.Taint(id, "server:"+r.Server)
}

func (d *dependencies) Level(s *ostiary.Subject, _ *ostiary.Action) ostiary.Containment {
	how, err := d.fails(d.l.ctx, "containment")
	switch {
	case err != nil:
		return ostiary.NotEstablished
	case how == "garbage":
		return 99
	}
	d.l.w.mu.Lock()
	defer d.l.w.mu.Unlock()
	if _, cut := d.l.w.contained[s.Agent]; cut {
		return ostiary.Quarantined
	}
	return ostiary.None
}

func (d *dependencies) Tool(server, kind, name string) (*ostiary.Tool, bool) {
	if _, err := d.fails(d.l.ctx, "catalog"); err != nil {
		return nil, false
	}
	return d.l.book.Tool(server, kind, name)
}

func (d *dependencies) Validate(a *ostiary.Action) error {
	if _, err := d.fails(d.l.ctx, "schemas"); err != nil {
		return err
	}
	return d.l.book.Validate(a)
}

func (d *dependencies) Decide(r *ostiary.Request) ostiary.Decision {
	how, err := d.fails(d.l.ctx, "policy")
	switch {
	case err != nil:
		return ostiary.Decision{Code: "policy_error"}
	case how == "garbage":
		return ostiary.Decision{Permit: true}
	}
	x := d.l.engine.Decide(r)
	w := d.l.w
	w.mu.Lock()
	w.decided = append(w.decided, decided{*r, x})
	w.mu.Unlock()
	return x
}

func (d *dependencies) Append(ctx context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
	how, err := d.fails(ctx, e.Kind.String())
	if err != nil || how == "garbage" {
		return ostiary.Receipt{}, err
	}
	r, err := d.l.log.Append(ctx, e)
	if err == nil {
		d.l.keep(r)
	}
	if err == nil && how == "done" {
		return ostiary.Receipt{ID: r.ID}, errInjected
	}
	return r, err
}

func (d *dependencies) Count(source, code string) { d.l.log.Count(source, code) }

func (d *dependencies) Forward(ctx context.Context, c *gate.Clearance) (gate.Stream, error) {
	switch how, err := d.fails(ctx, "egress"); {
	case err != nil:
		return nil, err
	case how == "garbage":
		return nil, nil
	case how == "refuse":
		return nil, ostiary.Errorf(ostiary.Upstream, "refused", "connection refused").Because(gate.ErrNotSent)
	}
	x, err := c.Redeem()
	if err != nil {
		return nil, err
	}
	if _, again := c.Redeem(); again == nil {
		d.l.w.problem("law 4: a clearance is redeemed twice")
	}
	return d.l.w.up.receive(ctx, d.l, x)
}

// lost wraps a write to the store: a dead process writes nothing, and an
// answer may be lost with the write or after it.
func (l *life) lost(dependency string, write func() error) error {
	if l.dead.Load() {
		return ostiary.Errorf(ostiary.Unavailable, "dead", "")
	}
	how := l.w.fault(dependency)
	if how == "error" {
		return ostiary.Errorf(ostiary.Unavailable, "not_stored", "").Because(errInjected)
	}
	err := write()
	if how == "done" && err == nil {
		err = ostiary.Errorf(ostiary.Unavailable, "not_known", "").Because(errInjected)
	}
	return err
}

// controlStore is the store as the ledger sees it.
type controlStore struct{ l *life }

func (s controlStore) OpenLog(ctx context.Context, origin, key string) (uint64, error) {
	return s.l.w.store.OpenLog(ctx, origin, key)
}

func (s controlStore) Fence(ctx context.Context, origin string, from uint64) (uint64, error) {
	return s.l.w.store.Fence(ctx, origin, from)
}

func (s controlStore) Anchor(ctx context.Context, origin string, size uint64, root ostiary.Digest) error {
	return s.l.lost("anchors", func() error { return s.l.w.store.Anchor(ctx, origin, size, root) })
}

func (s controlStore) Head(ctx context.Context, origin string) (uint64, ostiary.Digest, error) {
	return s.l.w.store.Head(ctx, origin)
}

func (s controlStore) Logs(ctx context.Context) ([]ledger.LogRecord, error) {
	return s.l.w.store.Logs(ctx)
}

func (s controlStore) PutDataKey(ctx context.Context, name string, wrapped []byte) ([]byte, error) {
	return s.l.w.store.PutDataKey(ctx, name, wrapped)
}

func (s controlStore) DataKey(ctx context.Context, name string) ([]byte, error) {
	return s.l.w.store.DataKey(ctx, name)
}

// Revision implements ledger.Revisions.
func (s controlStore) Revision(ctx context.Context) (epoch, revision uint64, err error) {
	revision, err = s.l.w.store.Revision(ctx)
	return 1, revision, err
}

// sessionStore is the store as the sessions see it.
type sessionStore struct{ l *life }

func (s sessionStore) Session(ctx context.Context, id ostiary.SessionID) (provenance.SessionRecord, error) {
	return s.l.w.store.Session(ctx, id)
}

func (s sessionStore) OpenSession(ctx context.Context, fresh provenance.SessionRecord) (provenance.SessionRecord, error) {
	return s.l.w.store.OpenSession(ctx, fresh)
}

func (s sessionStore) TaintSession(ctx context.Context, id ostiary.SessionID, source string) error {
	return s.l.lost("taint", func() error { return s.l.w.store.TaintSession(ctx, id, source) })
}

// pinStore is the store as the catalog sees it.
type pinStore struct{ l *life }

func (s pinStore) Pins(ctx context.Context) ([]catalog.PinRecord, error) {
	return s.l.w.store.Pins(ctx)
}

func (s pinStore) SavePins(ctx context.Context, records []catalog.PinRecord) error {
	return s.l.lost("pins", func() error { return s.l.w.store.SavePins(ctx, records) })
}

func (s pinStore) DropPin(ctx context.Context, server, kind, name string) error {
	return s.l.lost("pins", func() error { return s.l.w.store.DropPin(ctx, server, kind, name) })
}

// mayPay is the model: what the design lets an agent pay at a time, whatever
// the dependencies do. It is generous where two things happen at once.
func (w *world) mayPay(agent ostiary.AgentID, amount int64, began, now time.Time) string {
	if read, ok := w.read[agent]; ok && read.Before(began) {
		return "law 6: it has read untrusted content"
	}
	for _, x := range w.limits {
		if amount > 0 && amount <= x.pay && !x.from.After(now) && (x.until.IsZero() || !x.until.Before(began)) {
			return ""
		}
	}
	return "law 3: no snapshot of that time permits it"
}

// mayCall is the rest of the model.
func (w *world) mayCall(agent ostiary.AgentID, tool string, began, now time.Time) string {
	if at, ok := w.revoked[agent]; ok && at.Add(bound).Before(began) {
		return "law 9: it was revoked before"
	}
	if at, ok := w.contained[agent]; ok && at.Add(bound).Before(now) {
		return "law 9: it is contained, and was so when this was let out"
	}
	if s := w.suspect[tool]; s != nil && s.from.Before(began) && s.to.IsZero() {
		return "law 11: its definition changed before, and nobody accepted it"
	}
	if strings.HasPrefix(tool, "mail/") && agent.Name() == "a0" {
		return "law 3: its mandate does not cover mail"
	}
	return ""
}
