package daemon

import (
	"context"
	"sync"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
)

// tracer asks provenance in the gate's words: it is the gate's Tracer, and as
// an Inspector it lets the index of a session learn what a server said before
// any of it is released.
type tracer struct {
	sessions  *provenance.Sessions
	authority *identity.Authority
	book      *catalog.Book

	engine *policy.Engine

	mu       sync.RWMutex // guards what follows
	snapshot uint64       // whose labels these are
	labels   *provenance.Labels
	profiles map[ostiary.Digest]*provenance.Profile
}

func newTracer(s *provenance.Sessions, a *identity.Authority, b *catalog.Book, e *policy.Engine) *tracer {
	return &tracer{sessions: s, authority: a, book: b, engine: e, profiles: map[ostiary.Digest]*provenance.Profile{}}
}

// Trace implements [gate.Tracer].
func (t *tracer) Trace(r *ostiary.Request) gate.Traced {
	return inGate(t.sessions.Trace(r.Context.Session.ID, t.profile(r), t.task(&r.Context.Mandate), r.Action.Arguments))
}

// Look implements [gate.Tracer].
func (t *tracer) Look(r *ostiary.Request) gate.Traced {
	return inGate(t.sessions.Look(r.Context.Session.ID, t.profile(r), t.task(&r.Context.Mandate), r.Action.Arguments))
}

func inGate(x provenance.Traced) gate.Traced {
	return gate.Traced{Labels: x.Labels, Provenance: ostiary.Provenance{Chosen: x.Chosen, Origins: x.Origins, Given: x.Given, Asked: x.Calls}}
}

// Inspect implements [gate.Inspector].
func (t *tracer) Inspect(_ context.Context, r *ostiary.Request, f gate.Frame) ([]ostiary.Finding, error) {
	if r.Resource.Server == "" || r.Context.Session.ID == "" {
		return nil, nil // the gateway's own words
	}
	p := t.profile(r)
	if len(p.Classes) > 0 {
		if err := t.sessions.Classify(r.Context.Session.ID, p.Classes); err != nil {
			return nil, err
		}
	}
	return nil, t.sessions.Learn(r.Context.Session.ID, p, t.task(&r.Context.Mandate), r.Action.Arguments, f.Body, r.Resource.Trusted)
}

// maxProfiles bounds how many definitions are remembered; each accepted one
// has its own.
const maxProfiles = 10_000

// profile returns what is known of the tool that a call is for: what its
// definition suggests, and what the labels of the active snapshot say.
func (t *tracer) profile(r *ostiary.Request) *provenance.Profile {
	a := &r.Action
	if a.Pin.IsZero() || a.Method != "tools/call" {
		return provenance.Reading(a.Server, a.Name)
	}
	active := t.engine.Active()
	if active == nil {
		return provenance.Unknown(a.Server, a.Tool)
	}
	t.mu.RLock()
	p, current := t.profiles[a.Pin], t.snapshot == active.Number()
	t.mu.RUnlock()
	if current && p != nil && p.Server == a.Server && p.Tool == a.Tool {
		return p
	}
	tool, ok := t.book.Tool(a.Server, "tool", a.Tool)
	if !ok || tool.Pin != a.Pin {
		return provenance.Unknown(a.Server, a.Tool)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.snapshot != active.Number() {
		labels, err := provenance.ParseLabels([]byte(active.Set().Text(provenance.LabelsFile)))
		if err != nil { // it was checked when it was published
			return provenance.Unknown(a.Server, a.Tool)
		}
		t.snapshot, t.labels = active.Number(), labels
		clear(t.profiles)
	}
	if len(t.profiles) >= maxProfiles {
		clear(t.profiles)
	}
	p = t.labels.Apply(provenance.Guess(tool))
	t.profiles[a.Pin] = p
	return p
}

// task is what a person asked for: the words of the first mandate of the
// chain, which a person gave. What agents write into mandates that they derive
// is not among them, nor is what a client says of itself at sign-in.
func (t *tracer) task(m *ostiary.Mandate) string {
	if len(m.Links) > 1 {
		root, ok := t.authority.Mandate(m.Links[0])
		if !ok {
			return ""
		}
		m = &root
	}
	if m.Kind != ostiary.TaskMandate || m.Purpose == "sign-in" {
		return ""
	}
	return m.Task
}
