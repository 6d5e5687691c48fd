package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/durable"
)

// directory is the registry as one request sees it: immutable, replaced whole.
type directory struct {
	version   uint64 // higher than that of the one whose place it took, if anything may have ended since
	ends      *ends
	confirmed time.Time
	stage     *stage // in which the mandates were verified
	agents    map[ostiary.AgentID]*agent
	mandates  map[ostiary.MandateID]*footing     // those that may be in force: what is not here is not
	gone      grown[ostiary.MandateID, struct{}] // those of them that were ended since they were read
}

// agent is a record with what would otherwise be made anew on each request.
type agent struct {
	AgentRecord
	moved time.Time // since when it acts for its principal; zero if it never acted for another
}

// Refresh reads the registry into memory: call it when the registry may have
// changed elsewhere, and on a timer. Requests see the state before or the
// state after, never a mixture. On an error the state in memory stands. It
// does not prolong [Options.Lease]: that is for [Authority.Confirm], by whoever
// knows that everything else was followed too.
//
// The epoch never falls: a registry that was restored from a backup older
// than a revocation is refused as Corrupt.
func (a *Authority) Refresh(ctx context.Context) error {
	a.refresh.Lock()
	defer a.refresh.Unlock()
	if err := a.restage(); err != nil {
		return err
	}
	now := a.clock.Now()
	agents, err := a.registry.Agents(ctx)
	if err != nil {
		return fmt.Errorf("reading the agents: %w", err)
	}
	mandates, err := a.registry.Mandates(ctx, now)
	if err != nil {
		return fmt.Errorf("reading the mandates: %w", err)
	}
	d := &directory{
		confirmed: now, stage: a.stage(now), agents: make(map[ostiary.AgentID]*agent, len(agents)), mandates: make(map[ostiary.MandateID]*footing, len(mandates)),
	}
	// Last, so that what ended is never older than what is in force.
	old := a.dir.Load()
	if old != nil {
		d.version, d.ends, d.confirmed = old.version+1, old.ends, old.confirmed
	} else {
		d.version, d.ends = 1, &ends{}
	}
	if d.ends, err = a.readEnds(ctx, d.ends); err != nil {
		return err
	}
	for _, r := range agents {
		r.Roles = slices.Clone(r.Roles)
		d.agents[r.ID] = &agent{AgentRecord: r}
	}
	a.readMandates(d, mandates)
	d.readMoves()
	d.settle(old)
	a.dir.Store(d)
	return nil
}

// Confirm says that what is in memory, and the keys in force, are what the
// control state said at a moment. See [Options.Lease].
func (a *Authority) Confirm(at time.Time) {
	a.refresh.Lock()
	defer a.refresh.Unlock()
	if d := *a.dir.Load(); at.After(d.confirmed) {
		d.confirmed = at
		a.dir.Store(&d)
	}
}

// readMoves finds out since when each agent acts for its present principal:
// from the first standing mandate after the last one of another. A
// certificate says nothing of the principal, so one that is older was issued
// to act for somebody else.
func (d *directory) readMoves() {
	last := map[ostiary.AgentID]time.Time{} // begin of the last mandate of another principal
	for _, f := range d.mandates {
		m := &f.link
		if g, ok := d.agents[m.Agent]; ok && m.Kind == ostiary.StandingMandate && m.Principal != g.Principal && m.NotBefore.After(last[m.Agent]) {
			last[m.Agent] = m.NotBefore
		}
	}
	for id := range last {
		d.agents[id].moved = d.agents[id].Enrolled.Truncate(time.Microsecond) // exact to what serial numbers tell, if the present enrolment changed it
	}
	for _, f := range d.mandates {
		m := &f.link
		other, moved := last[m.Agent]
		g := d.agents[m.Agent]
		if !moved || m.Kind != ostiary.StandingMandate || m.Principal != g.Principal || m.ID == g.Mandate || m.NotBefore.Before(other) {
			continue
		}
		if from := m.NotBefore.Add(backdate); from.Before(g.moved) {
			g.moved = from
		}
	}
}

const gatewayPrincipal ostiary.PrincipalID = "service:ostiary"

// Agent returns an agent's record as of the last Refresh.
func (a *Authority) Agent(id ostiary.AgentID) (AgentRecord, bool) {
	if g, ok := a.dir.Load().agents[id]; ok {
		return g.AgentRecord, true
	}
	return AgentRecord{}, false
}

// State says in one word whether an agent may act: "enrolled", "revoked",
// "disabled" or "ended" (its mandate is over); "" if it is not known. It is
// for people; requests are judged by [Authority.Authenticate].
func (a *Authority) State(id ostiary.AgentID) string {
	d := a.dir.Load()
	g, ok := d.agents[id]
	if !ok {
		return ""
	}
	if e, ok := d.ends.agents.get(id); ok && !g.Enrolled.After(e.at) {
		return "revoked"
	}
	if g.Disabled {
		return "disabled"
	}
	if _, err := d.stands(a.clock.Now(), id, ""); err != nil {
		return "ended"
	}
	return "enrolled"
}

// Agents returns every agent as of the last Refresh, sorted by name.
func (a *Authority) Agents() []AgentRecord {
	d := a.dir.Load()
	out := make([]AgentRecord, 0, len(d.agents))
	for _, g := range d.agents {
		out = append(out, g.AgentRecord)
	}
	slices.SortFunc(out, func(x, y AgentRecord) int { return strings.Compare(string(x.ID), string(y.ID)) })
	return out
}

// Mandate returns what a mandate in force as of the last Refresh allows, with
// its whole chain: verified, no link of it ended. Whether it covers an action
// now is for [ostiary.Mandate.Covers].
func (a *Authority) Mandate(id ostiary.MandateID) (ostiary.Mandate, bool) {
	d := a.dir.Load()
	f, ok := d.mandates[id]
	if !ok || d.over(f) != "" {
		return ostiary.Mandate{}, false
	}
	return f.effective, true
}

// LastMandate says how many mandates are in force as of the last Refresh, and
// when the last of them expires.
func (a *Authority) LastMandate() (end time.Time, n int) {
	now := a.clock.Now()
	for _, f := range a.dir.Load().mandates {
		if f.over == "" && f.link.Expires.After(now) {
			n++
			if f.link.Expires.After(end) {
				end = f.link.Expires
			}
		}
	}
	return end, n
}

// Posture returns what is known of the agent's workload. An agent enrolled by
// join token showed possession of the token, once; the gateway is itself.
func (a *Authority) Posture(id ostiary.AgentID) ostiary.Posture {
	if id == a.self.Agent {
		return ostiary.Posture{OK: true, Method: "self", Appraised: a.clock.Now()}
	}
	r, ok := a.Agent(id)
	if !ok || r.Disabled {
		return ostiary.Posture{}
	}
	return ostiary.Posture{OK: true, Method: r.Method, Appraised: r.Enrolled}
}

// Left returns when a principal was revoked last, as of the last Refresh.
func (a *Authority) Left(p ostiary.PrincipalID) (time.Time, bool) {
	e, ok := a.dir.Load().ends.people.get(p)
	return e.at, ok
}

// Epoch returns the revocation epoch in force.
func (a *Authority) Epoch() uint64 { return a.dir.Load().ends.epoch }

// Revoke ends what r names, from now on, here at once and elsewhere as soon
// as others refresh. The zero At is now; one in the future is made now.
func (a *Authority) Revoke(ctx context.Context, r Revocation) (epoch uint64, err error) {
	now := a.clock.Now()
	if r.At.IsZero() || r.At.After(now) {
		r.At = now
	}
	if err := r.check(); err != nil {
		return 0, err
	}
	e := Event{What: "revoke", Detail: fmt.Sprintf("%s %s: %s", r.Kind, r.Subject, r.Reason)}
	switch r.Kind {
	case RevokeAgent:
		e.Agent = ostiary.AgentID(r.Subject)
	case RevokePerson:
		e.Principal = ostiary.PrincipalID(r.Subject)
	case RevokeMandate:
		e.Mandate = ostiary.MandateID(r.Subject)
	case RevokeSession:
		e.Mandate = r.Mandate
	case RevokeSerial:
		e.Serial = r.Subject
	}
	if err := a.record(ctx, e); err != nil {
		return 0, fmt.Errorf("recording the revocation: %w", err)
	}
	if epoch, err = a.registry.Revoke(ctx, r); err != nil {
		return 0, fmt.Errorf("storing the revocation: %w", err)
	}
	a.refresh.Lock()
	defer a.refresh.Unlock()
	if a.dir.Load().ends.epoch >= epoch { // another's reading had it
		return epoch, nil
	}
	return epoch, a.catchUp(ctx)
}

func (r *Revocation) check() error {
	if err := checkReason(r.Subject + r.Reason); err != nil { // the subject is a name
		return err
	}
	ok := r.Subject != ""
	switch r.Kind {
	case RevokeAgent:
		_, err := ostiary.ParseAgentID(r.Subject)
		ok = err == nil
	case RevokeSerial:
		_, ok = parseSerial(r.Subject)
	case RevokePerson:
		ok = isPrincipal(ostiary.PrincipalID(r.Subject))
	case RevokeKey:
		d, err := ostiary.ParseDigest(r.Subject)
		ok = err == nil && !d.IsZero()
	case RevokeMandate:
		ok = ok && len(r.Subject) <= 256
	case RevokeSession: // the gateway's own calls have one too, and no credential that could be refused
		ok = ok && len(r.Subject) <= 256 && r.Mandate != "" && r.Mandate != GatewayMandate
	default:
		return ostiary.Errorf(ostiary.Malformed, "revocation_kind", "%q cannot be revoked: agent, person, mandate, session, key or serial", r.Kind).At("kind")
	}
	if !ok {
		return ostiary.Errorf(ostiary.Malformed, "revocation_subject", "%q names no %s", r.Subject, r.Kind).At("subject")
	}
	return nil
}

// fence is the highest epoch ever in force here, kept beside the keys and not
// in the registry, so that restoring an old registry is noticed.
type fence struct {
	path string
	at   uint64
}

func openFence(dir string) (*fence, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f := &fence{path: filepath.Join(dir, "epoch")}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if f.at, err = strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 64); err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "epoch_fence", "%s does not hold a number", f.path)
	}
	return f, nil
}

func (f *fence) raise(epoch uint64) error {
	if epoch < f.at {
		return ostiary.Errorf(ostiary.Corrupt, "epoch_fell",
			"the registry knows revocation epoch %d, but epoch %d was in force here before: it was restored from an older backup, and revocations are missing", epoch, f.at)
	}
	if epoch == f.at {
		return nil
	}
	if err := durable.Replace(f.path, strconv.AppendUint(nil, epoch, 10), 0o600); err != nil {
		return fmt.Errorf("raising the epoch fence: %w", err)
	}
	f.at = epoch
	return nil
}
