package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/policy"
)

// ContainRequest sets how far something is cut off; the level none lifts it.
type ContainRequest struct {
	Scope  string `json:"scope"` // "agent", "tool", "server", "all"
	Name   string `json:"name"`  // of an agent as in AgentRequest, of a tool its action; "" for all
	Level  string `json:"level"`
	Reason string `json:"reason"`
}

// Containment is what is cut off, and why.
type Containment struct {
	Scope  string    `json:"scope"`
	Name   string    `json:"name,omitempty"`
	Level  string    `json:"level"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"`
	At     time.Time `json:"at,omitzero"`
}

// Contained is the answer to a ContainRequest.
type Contained struct {
	Containment
	Known bool `json:"known"` // false: nothing of this name is known yet; it is contained all the same
}

// Breaker is the state of a server's circuit breaker.
type Breaker struct {
	State string    `json:"state"`          // "closed", "open", "half-open"
	Why   string    `json:"why,omitempty"`  // it is not closed
	Until time.Time `json:"until,omitzero"` // when an open one lets a call try
}

func containmentOf(r containment.Record) Containment {
	return Containment{Scope: r.Scope, Name: r.Name, Level: r.Level.String(), Reason: r.Reason, By: r.By, At: r.At.UTC()}
}

func (c *Control) getContainments(*http.Request) (any, error) { return c.Containments() }

// postContainment answers when the level is enforced on this gateway.
func (c *Control) postContainment(ctx context.Context, in ContainRequest) (any, error) {
	level, err := containment.ParseLevel(in.Level)
	if err != nil {
		return nil, err
	}
	name, known, err := c.contains(in.Scope, in.Name)
	if err != nil {
		return nil, err
	}
	if level == ostiary.None {
		if err := c.isContained(in.Scope, name); err != nil {
			return nil, err
		}
	}
	r := containment.Record{Scope: in.Scope, Name: name, Level: level, Reason: in.Reason, By: operator(ctx), At: c.o.Clock()}
	if err := c.o.Containments.Set(ctx, r); err != nil {
		return nil, err
	}
	c.o.Logger.Warn("containment", "scope", r.Scope, "name", r.Name, "level", r.Level.String(), "by", r.By)
	return Contained{containmentOf(r), known}, nil
}

// isContained refuses to release what was not contained by this name: whoever
// misspells it must not believe that it is free.
func (c *Control) isContained(scope, name string) error {
	records, err := c.o.Containments.List()
	if err == nil && !slices.ContainsFunc(records, func(r containment.Record) bool { return r.Scope == scope && r.Name == name }) {
		err = ostiary.Errorf(ostiary.NotFound, "not_contained", "%s %s is not contained by this name; see: ostiary contain list", scope, name).At("name")
	}
	return err
}

// contains returns the whole name of what is meant, and whether anybody has
// heard of it. A server must be configured; an agent may come, and a tool be
// offered, later.
func (c *Control) contains(scope, name string) (string, bool, error) {
	switch {
	case name == "":
		return "", true, nil
	case scope == containment.ScopeAgent:
		id, err := c.agentID(name)
		return string(id), err == nil && c.o.Authority.State(id) != "", err
	case scope == containment.ScopeServer:
		return name, true, c.known(name)
	case scope == containment.ScopeTool:
		return name, c.isAction(name), nil
	}
	return name, true, nil
}

func (c *Control) isAction(name string) bool {
	return slices.ContainsFunc(policy.Methods(), func(m policy.Method) bool { return m.Name == name }) || slices.ContainsFunc(c.o.Book.Tools(), func(t *ostiary.Tool) bool { return t.Action() == name })
}

// RefuseSuspended returns an authority's Record that hands out nothing to an
// agent that is suspended, or while nobody knows who is: no join token, no
// certificate, no bearer token. It calls record for everything else, and for
// revocations, which are never too late.
func RefuseSuspended(levels *containment.Levels, record func(context.Context, identity.Event) error) func(context.Context, identity.Event) error {
	return func(ctx context.Context, e identity.Event) error {
		if e.What != "revoke" && e.Agent != "" {
			level := levels.Level(&ostiary.Subject{Agent: e.Agent}, &ostiary.Action{})
			if level == ostiary.Suspended || level == ostiary.NotEstablished {
				return ostiary.Errorf(ostiary.Contained, level.String(), "%s gets no credential: its containment is %s", e.Agent, level)
			}
		}
		return record(ctx, e)
	}
}

// RecordContainment puts a change of containment into the deployment's log: it
// is the levels' Record.
func RecordContainment(changes Changes, self ostiary.AgentID, clock func() time.Time) func(context.Context, containment.Record) error {
	return func(ctx context.Context, r containment.Record) error {
		what, action := r.Scope+" "+r.Name, "contain"
		if r.Scope == containment.ScopeAll {
			what = "everything"
		}
		text := fmt.Sprintf("%s is %s from now on", what, r.Level)
		if r.Level == ostiary.None {
			text, action = what+" is released", "release"
		}
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		detail := detailJSON(map[string]string{"text": text, "scope": r.Scope, "name": r.Name, "level": r.Level.String(), "reason": r.Reason, "by": r.By})
		_, err := recordChange(ctx, changes, self, clock(), action, "ok", detail)
		return err
	}
}
