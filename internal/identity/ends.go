package identity

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/ostiary/ostiary"
)

// ends is everything that was revoked up to one epoch. It is immutable, and
// made from the one before it and what was revoked since, at a cost that does
// not grow with how much was revoked before.
type ends struct {
	epoch    uint64
	agents   grown[ostiary.AgentID, ending]     // the newest revocation of each agent
	people   grown[ostiary.PrincipalID, ending] // the newest revocation of each person
	serials  grown[serial, struct{}]
	keys     grown[ostiary.Digest, struct{}]
	mandates grown[ostiary.MandateID, struct{}]
	sessions grown[ostiary.MandateID, struct{}] // by the mandate, which has one
}

type ending struct {
	epoch uint64
	at    time.Time
}

// or returns the later of both, by either clock.
func (e ending) or(r Revocation) ending {
	e.epoch = max(e.epoch, r.Epoch)
	if r.At.After(e.at) {
		e.at = r.At
	}
	return e
}

// grown is an immutable map that is cheap to add to: what is new stands beside
// what is old until there is enough of it. The zero value is empty.
type grown[K comparable, V any] struct{ old, young map[K]V }

// maxYoung is how many entries are copied at most for each addition.
const maxYoung = 1024

func (g grown[K, V]) get(k K) (v V, ok bool) {
	if v, ok = g.young[k]; !ok {
		v, ok = g.old[k]
	}
	return v, ok
}

func (g grown[K, V]) empty() bool { return len(g.young)+len(g.old) == 0 }

func (g grown[K, V]) has(k K) bool { _, ok := g.get(k); return ok }

// with returns the map with more entries, which take the place of equal ones.
func (g grown[K, V]) with(more map[K]V) grown[K, V] {
	if len(more) == 0 {
		return g
	}
	young := make(map[K]V, len(g.young)+len(more))
	maps.Copy(young, g.young)
	maps.Copy(young, more)
	if len(young) <= maxYoung {
		return grown[K, V]{g.old, young}
	}
	old := make(map[K]V, len(g.old)+len(young))
	maps.Copy(old, g.old)
	maps.Copy(old, young)
	return grown[K, V]{old: old}
}

// news is what was revoked since, while it is read.
type news struct {
	*ends
	agents   map[ostiary.AgentID]ending
	people   map[ostiary.PrincipalID]ending
	serials  map[serial]struct{}
	keys     map[ostiary.Digest]struct{}
	mandates map[ostiary.MandateID]struct{}
	sessions map[ostiary.MandateID]struct{}
}

func (e *ends) news() *news {
	return &news{
		e, map[ostiary.AgentID]ending{}, map[ostiary.PrincipalID]ending{}, map[serial]struct{}{},
		map[ostiary.Digest]struct{}{}, map[ostiary.MandateID]struct{}{}, map[ostiary.MandateID]struct{}{},
	}
}

// add takes one revocation in. The same one again changes nothing, and no
// order of them makes a difference.
func (n *news) add(r Revocation) error {
	switch r.Kind {
	case RevokeAgent:
		id := ostiary.AgentID(r.Subject)
		n.agents[id] = latest(n.agents, n.ends.agents, id).or(r)
	case RevokePerson:
		id := ostiary.PrincipalID(r.Subject)
		n.people[id] = latest(n.people, n.ends.people, id).or(r)
	case RevokeSerial:
		s, ok := parseSerial(r.Subject)
		if !ok {
			return badRow(r)
		}
		n.serials[s] = struct{}{}
	case RevokeKey:
		d, err := ostiary.ParseDigest(r.Subject)
		if err != nil {
			return badRow(r)
		}
		n.keys[d] = struct{}{}
	case RevokeMandate:
		n.mandates[ostiary.MandateID(r.Subject)] = struct{}{}
	case RevokeSession:
		n.sessions[r.Mandate] = struct{}{}
	default: // of a newer program: what it ends is not known here
		return badRow(r)
	}
	return nil
}

func badRow(r Revocation) error {
	return ostiary.Errorf(ostiary.Corrupt, "stored_row", "the stored revocation of epoch %d cannot be read", r.Epoch)
}

func latest[K comparable](fresh map[K]ending, known grown[K, ending], k K) ending {
	if e, ok := fresh[k]; ok {
		return e
	}
	e, _ := known.get(k)
	return e
}

// upTo returns everything that was revoked up to an epoch.
func (n *news) upTo(epoch uint64) *ends {
	return &ends{
		epoch: epoch, agents: n.ends.agents.with(n.agents), people: n.ends.people.with(n.people), serials: n.ends.serials.with(n.serials),
		keys: n.ends.keys.with(n.keys), mandates: n.ends.mandates.with(n.mandates), sessions: n.ends.sessions.with(n.sessions),
	}
}

// readEnds reads what was revoked since e, in pages.
func (a *Authority) readEnds(ctx context.Context, e *ends) (*ends, error) {
	n, after := e.news(), e.epoch
	for {
		epoch, page, err := a.registry.Revocations(ctx, after)
		if err != nil {
			return nil, fmt.Errorf("reading the revocations: %w", err)
		}
		for _, r := range page {
			if r.Epoch <= after {
				return nil, ostiary.Errorf(ostiary.Corrupt, "stored_row", "revocations are out of order: epoch %d after %d", r.Epoch, after)
			}
			if after = r.Epoch; after > epoch {
				return nil, ostiary.Errorf(ostiary.Corrupt, "stored_row", "there is a revocation of epoch %d, and the epoch is %d", after, epoch)
			}
			if err := n.add(r); err != nil {
				return nil, err
			}
		}
		if len(page) == RevocationsRead {
			continue
		}
		if err := a.fence.raise(epoch); err != nil {
			return nil, err
		}
		if epoch == e.epoch {
			return e, nil
		}
		return n.upTo(epoch), nil
	}
}

// CatchUp reads what was revoked since it was last read, and takes note that
// mandates have ended, which are named: what Refresh does when agents, and
// other mandates, are as they were. It costs what is new.
func (a *Authority) CatchUp(ctx context.Context, ended ...ostiary.MandateID) error {
	a.refresh.Lock()
	defer a.refresh.Unlock()
	return a.catchUp(ctx, ended...)
}

// catchUp is CatchUp for who holds a.refresh.
func (a *Authority) catchUp(ctx context.Context, ended ...ostiary.MandateID) (err error) {
	d := *a.dir.Load()
	if d.ends, err = a.readEnds(ctx, d.ends); err != nil {
		return err
	}
	more := map[ostiary.MandateID]struct{}{}
	for _, id := range ended {
		more[id] = struct{}{}
	}
	d.gone = d.gone.with(more)
	d.version++
	a.dir.Store(&d)
	return nil
}

// over says why a mandate is not in force whatever the time, "" if it may be:
// itself, or a link above it, has ended, or the right of somebody in its chain
// to give or hold it. A later revocation has a higher epoch than the mandate,
// whatever the clocks say. The agent under its present standing mandate is
// judged by its credentials.
func (d *directory) over(f *footing) string {
	if f.over != "" {
		return f.over
	}
	if f.held.Load() == d.version {
		return ""
	}
	why := d.ended(f)
	if why == "" {
		f.held.Store(d.version)
	}
	return why
}

// ended goes up the chain of a mandate.
func (d *directory) ended(f *footing) string {
	if e, ended := d.ends.agents.get(f.link.Agent); ended && f.link.Kind != ostiary.StandingMandate && f.link.Epoch < e.epoch {
		return "its agent was revoked"
	}
	for l := f; l != nil; l = l.parent {
		m := &l.link
		switch {
		case d.ends.mandates.has(m.ID) || d.gone.has(m.ID):
			return fmt.Sprintf("mandate %s was ended", m.ID)
		case m.Epoch < d.leftAt(m.By) || m.Epoch < d.leftAt(m.Principal):
			return "the person it is from was revoked"
		case l != f && d.lost(l):
			return "the agent above it was revoked"
		}
	}
	return ""
}

// leftAt is the epoch in which a person was last revoked, 0 if never.
func (d *directory) leftAt(p ostiary.PrincipalID) uint64 {
	e, _ := d.ends.people.get(p)
	return e.epoch
}

// lost reports whether the agent of a mandate was revoked since, or was and did
// not enrol again.
func (d *directory) lost(f *footing) bool {
	e, ok := d.ends.agents.get(f.link.Agent)
	return ok && (f.link.Epoch < e.epoch || !f.Enrolled.After(e.at))
}

// revoked says why a credential has ended, "" if it has not. A credential
// issued under an epoch before the agent's revocation has ended whatever the
// clocks say.
func (d *directory) revoked(id ostiary.AgentID, key ostiary.Digest, name string, issued time.Time, epoch uint64) string {
	if e, ok := d.ends.agents.get(id); ok && (epoch < e.epoch || !issued.After(e.at)) {
		return "the agent was revoked"
	}
	if !d.ends.serials.empty() {
		if s, ok := parseSerial(name); ok && d.ends.serials.has(s) {
			return "the credential was revoked"
		}
	}
	if !key.IsZero() && d.ends.keys.has(key) {
		return "the key was revoked"
	}
	return ""
}
