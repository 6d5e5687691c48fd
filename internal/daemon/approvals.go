package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/deferred"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/proof"
)

// ApprovalsConfig says who may consent to what policy would let through with
// somebody's consent. It needs people, so it needs listen.console; without it
// such calls are refused.
type ApprovalsConfig struct {
	// Groups are the groups that policies name as approval:GROUP. A group that is not here is nobody: what needs it is
	// refused. Whoever can change a group decides who consents.
	Groups map[string]ApproverGroup `yaml:"groups"`
	// Same lists accounts that belong to one human each, by their names: [[dana, dana-admin]]. They have one vote, and
	// what is asked on behalf of one is none of the other's to decide.
	Same [][]string `yaml:"same"`
	// Wait is how long a held call is kept open for its client, which sees a slow call: at most 1h, 0s answers at once
	// with where it waits. Default 50s, since many clients give up after a minute.
	Wait *Duration `yaml:"wait"`
	// Life is how long people have until a held call is refused: 1m to 720h, and never past the end of its mandate.
	// Default 24h.
	Life Duration `yaml:"life"`
	// Most is how many calls of one agent may wait for people at once: 1 to 100000. Default 50.
	Most int `yaml:"most"`
}

// ApproverGroup is who may consent. Members need the role of an approver too.
type ApproverGroup struct {
	// People are the members, by their names. Required.
	People []string `yaml:"people"`
	// Owner lets a member consent to what an agent of their own asks for, their own by enrolment or by the registry.
	// Default: somebody else must.
	Owner bool `yaml:"owner"`
	// After is how long a call waits before the members of another group may decide too: 1m to 720h.
	After Duration `yaml:"escalate_after"`
	// To is that group.
	To string `yaml:"escalate_to"`
}

const (
	maxHoldWait = time.Hour
	maxHoldLife = 720 * time.Hour
	maxHolds    = 100_000
)

func (a *ApprovalsConfig) defaults() {
	if a.Wait == nil {
		d := Duration(50 * time.Second)
		a.Wait = &d
	}
	if a.Life == 0 {
		a.Life = Duration(24 * time.Hour)
	}
	if a.Most == 0 {
		a.Most = 50
	}
}

func (c *Config) checkApprovals() error {
	a := &c.Approvals
	if c.Listen.Console == "" && (len(a.Groups) > 0 || len(a.Same) > 0) {
		return c.bad("approvals", "people consent on listen.console, which is off")
	}
	switch {
	case *a.Wait < 0 || time.Duration(*a.Wait) > maxHoldWait:
		return c.bad("approvals.wait", "write 0s to 1h")
	case time.Duration(a.Life) < time.Minute || time.Duration(a.Life) > maxHoldLife:
		return c.bad("approvals.life", "write 1m to 720h")
	case a.Most < 1 || a.Most > maxHolds:
		return c.bad("approvals.most", "write 1 to 100000")
	}
	for name, g := range a.Groups {
		key := "approvals.groups." + name
		_, known := a.Groups[g.To]
		switch {
		case !ostiary.IsGroup(name):
			return c.bad(key, "use letters, digits, dots, dashes and underscores, at most 64")
		case len(g.People) == 0:
			return c.bad(key+".people", "it is required: a group without people consents to nothing")
		case (g.To == "") != (g.After == 0):
			return c.bad(key, "escalate_after and escalate_to belong together")
		case g.To != "" && !known:
			return c.bad(key+".escalate_to", fmt.Sprintf("there is no group %s", g.To))
		case g.To == name:
			return c.bad(key+".escalate_to", "name another group")
		case g.After != 0 && (time.Duration(g.After) < time.Minute || time.Duration(g.After) > maxHoldLife):
			return c.bad(key+".escalate_after", "write 1m to 720h")
		}
		for _, p := range g.People {
			if p == "" || strings.ContainsAny(p, ": /") {
				return c.bad(key+".people", fmt.Sprintf("%q is no person's name; write it as in ostiary person list", p))
			}
		}
	}
	for i, all := range a.Same {
		if len(all) < 2 {
			return c.bad(fmt.Sprintf("approvals.same[%d]", i), "write at least two names of one human")
		}
	}
	return nil
}

// rules are what approvals go by.
func (a *ApprovalsConfig) rules() approval.Rules {
	r := approval.Rules{Groups: map[string]approval.Group{}, Life: time.Duration(a.Life), Most: a.Most}
	for name, g := range a.Groups {
		r.Groups[name] = approval.Group{People: principals(g.People), Owner: g.Owner, After: time.Duration(g.After), To: g.To}
	}
	for _, all := range a.Same {
		r.Same = append(r.Same, principals(all))
	}
	return r
}

func principals(names []string) []ostiary.PrincipalID {
	var out []ostiary.PrincipalID
	for _, n := range names {
		out = append(out, ostiary.PrincipalID("person:"+n))
	}
	return out
}

// openApprovals opens who waits for people. Without a console there are none,
// and nothing is held. What it asks of the gate and of people it asks when
// they are open.
func (d *Daemon) openApprovals(context.Context) error {
	if d.pages.listener == nil {
		return nil
	}
	seal, err := d.ring.AEAD("approvals")
	if err != nil {
		return err
	}
	d.approvals = approval.New(approval.Options{
		Store: d.store, Seal: seal, People: voters{d}, Gateway: d.cfg.Gateway, Epoch: d.journal.epoch, Rules: d.cfg.Approvals.rules(),
		Judge: func(ctx context.Context, c *deferred.Call) (*ostiary.Request, *ostiary.Decision, error) {
			return d.gate.Weigh(ctx, restored(c))
		},
		Owners: d.ownersOf,
		Verify: proof.VerifyVote, Record: control.RecordApproval(d.journal.deployment, d.clock), Execute: d.carryOut, Clock: d.clock, Log: d.log.With("part", "approvals"),
	})
	return nil
}

// ownersOf names who is responsible for an agent: whom it was enrolled for, and
// whom the registry names. Naming another one there takes nobody out.
func (d *Daemon) ownersOf(a ostiary.AgentID) []string {
	rec, _ := d.authority.Agent(a)
	owners := []string{rec.Owner}
	if e := d.entities.book.Entity(ostiary.AgentEntity, string(a)); e != nil {
		owners = append(owners, string(e.Owner))
	}
	return owners
}

// restored is a stored call as the gate takes it: the authority confirms its
// subject as things stand now, and nobody is connected.
func restored(c *deferred.Call) gate.Call {
	return gate.Call{Credentials: ostiary.Credentials{Held: &c.Subject}, Action: c.Action, Asked: "{}", Protocol: "held"}
}

// carryOut makes a call that people consented to, through the same flow as any
// call. A gateway that is stopping lets it end as long as any call under way.
func (d *Daemon) carryOut(ctx context.Context, h *approval.Hold) approval.Settlement {
	stopping := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(d.cfg.Ledger.MaxActionTime))
	defer cancel()
	defer context.AfterFunc(stopping, func() { time.AfterFunc(drainTimeout, cancel) })()
	call := restored(&h.Call)
	call.Approval = h.ID
	if h.Original != nil {
		call.Narrowed = h.Question.Asked
	}
	s, disposition, err := d.gate.Settle(ctx, call)
	out := approval.Settlement{Disposition: disposition, Intent: s.Intent, Failed: s.Frame.Kind == gate.FrameError, Body: s.Frame.Body.Bytes()}
	if err != nil {
		out.Err = ostiary.AsError(err)
		out.Retry = disposition == ostiary.Refused && (out.Err.Kind == ostiary.Unavailable || slices.Contains([]string{"throttled", "not_established"}, out.Err.Code))
	}
	if err != nil && disposition == ostiary.Unknown && out.Err.Kind != ostiary.Upstream { // no other kind may be told: it sounds as if nothing was sent
		e := ostiary.Errorf(ostiary.Upstream, "hold_unknown", "it may have happened, and is not sent again: %s", out.Err.Detail).Because(err)
		e.Entry, out.Err = out.Err.Entry, e
	}
	return out
}

// voters says who people are.
type voters struct{ d *Daemon }

func (v voters) Approver(ctx context.Context, id ostiary.PrincipalID) (approval.Approver, error) {
	name, ok := strings.CutPrefix(string(id), "person:")
	if !ok || v.d.pages.people == nil {
		return approval.Approver{}, ostiary.Errorf(ostiary.NotFound, "absent", "there is no such person")
	}
	p, err := v.d.pages.people.Person(ctx, name)
	if err != nil {
		return approval.Approver{}, err
	}
	return control.Approver(&p), nil
}

// holder keeps what people may be asked about.
type holder struct{ approvals *approval.Approvals }

func (h holder) Hold(ctx context.Context, r *ostiary.Request, dec *ostiary.Decision) (ostiary.HoldID, error) {
	id, err := h.approvals.Hold(ctx, r, dec)
	if e := ostiary.AsError(err); err != nil && e.Code == "not_holdable" {
		return "", fmt.Errorf("%w: %w", gate.ErrNotHeld, err)
	}
	return id, err
}

// waiting is the door's view of who waits.
type waiting struct{ approvals *approval.Approvals }

func (w waiting) Wait(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error) {
	return asReply(w.approvals.Wait(ctx, id, approval.AsksOf(s, server)))
}

func (w waiting) Result(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error) {
	return asReply(w.approvals.Result(ctx, id, approval.AsksOf(s, server)))
}

// asReply is what became of a held call, as a reply.
func asReply(s approval.Settlement, err error) (gate.Settled, error) {
	if err == nil && s.Err != nil {
		err = s.Err
	}
	if err != nil {
		return gate.Settled{}, err
	}
	body, err := deferred.Reply(s.Body)
	if err != nil {
		return gate.Settled{}, err
	}
	out := gate.Settled{Intent: s.Intent, Frame: gate.Frame{Kind: gate.FrameResult, Body: body}}
	if s.Failed {
		out.Frame.Kind = gate.FrameError
	}
	return out, nil
}

// withApprovals gives the gate who waits for people, if anybody can.
func (d *Daemon) withApprovals(o *gate.Options, r *gate.Resolver) {
	if d.approvals != nil {
		o.Holder, o.Consents, r.Consents = holder{d.approvals}, d.approvals, d.approvals
	}
}

// holdFor is how long the door keeps a held call open.
func (d *Daemon) holdFor() time.Duration {
	return time.Duration(*cmp.Or(d.cfg.Approvals.Wait, new(Duration)))
}

// approvers checks that people can consent, from inside: each member of a
// group is somebody, in the role, with something to sign with.
func (c *checkup) approvers(ctx context.Context, d *Daemon) {
	if d.approvals == nil || len(d.cfg.Approvals.Groups) == 0 {
		return
	}
	missing := false
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Approvals.Groups)) {
		for _, person := range d.cfg.Approvals.Groups[name].People {
			p, err := d.pages.people.Person(ctx, person)
			why, do := "", ""
			switch {
			case ostiary.KindOf(err) == ostiary.NotFound:
				why, do = "is nobody yet", "ostiary person invite "+person+" --role approver"
			case err != nil:
				c.fail("approvers", "look into the gateway's log", "%v", err)
				return
			case !p.Revoked.IsZero():
				why, do = "is revoked", "take them out of approvals.groups."+name
			case !p.Has(people.Approver):
				why, do = "does not have the role of an approver", "ostiary person roles "+person+" --role approver"
			case len(p.Passkey)+len(p.Keys) == 0:
				why, do = "has neither a passkey nor a key to sign with", "ostiary person invite "+person
			default:
				continue
			}
			missing = true
			c.warn("approvers", do, "%s, of %s, %s", person, name, why)
		}
	}
	counts, err := d.approvals.Count(ctx)
	switch {
	case err != nil:
		c.fail("approvers", "look into the gateway's log", "%v", err)
	case counts[ostiary.HoldUnknown] > 0:
		c.warn("approvers", "ostiary approvals --state unknown; ask the server what happened", "nobody can say what became of %d approved actions", counts[ostiary.HoldUnknown])
	case !missing:
		c.ok("approvers", "%d actions wait for people", counts[ostiary.HoldPending])
	}
}
