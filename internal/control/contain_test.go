package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/identitytest"
	"github.com/ostiary/ostiary/internal/store"
)

func TestContain(t *testing.T) {
	state, log := store.NewMemory(), &changelog{}
	authority, err := identity.Open(t.Context(), identitytest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	levels := containment.New(containment.Options{Register: state, Clock: time.Now, Record: RecordContainment(log, authority.Self().Agent, time.Now)})
	c := New(Options{
		Authority: authority, Book: catalog.New(state, time.Now), Containments: levels, Settings: Settings{Servers: []string{"bank"}},
		Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	agent, err := authority.AgentID("payments")
	if err != nil {
		t.Fatal(err)
	}
	ctx := WithOperator(t.Context(), "dana")
	for _, tc := range []struct {
		in    ContainRequest
		field string // of the refusal, "" if it is none
		name  string
		known bool
	}{
		{ContainRequest{"agent", "payments", "none", ""}, "", "", false}, // before anything was read: refused, see below
		{ContainRequest{"agent", "payments", "quarantined", "odd"}, "", string(agent), false},
		{ContainRequest{"agent", string(agent), "suspended", "odd"}, "", string(agent), false},
		{ContainRequest{"tool", "bank___pay", "restricted", "odd"}, "", "bank___pay", false},
		{ContainRequest{"tool", "read_resource", "restricted", "odd"}, "", "read_resource", true},
		{ContainRequest{"server", "bank", "throttled", "odd"}, "", "bank", true},
		{ContainRequest{"server", "bnak", "throttled", "odd"}, "server", "", false},
		{ContainRequest{"all", "", "throttled", "odd"}, "", "", true},
		{ContainRequest{"all", "bank", "throttled", "odd"}, "name", "", false},
		{ContainRequest{"agent", "", "throttled", "odd"}, "name", "", false},
		{ContainRequest{"zone", "x", "throttled", "odd"}, "scope", "", false},
		{ContainRequest{"agent", "payments", "loose", "odd"}, "level", "", false},
		{ContainRequest{"agent", "payments", "quarantined", ""}, "reason", "", false},
		{ContainRequest{"agent", "paymants", "none", ""}, "name", "", false},
		{ContainRequest{"tool", "bank___pay", "none", "it was nothing"}, "", "bank___pay", false},
		{ContainRequest{"tool", "bank___pay", "none", ""}, "name", "", false},
	} {
		out, err := c.postContainment(ctx, tc.in)
		if tc.name == "" && tc.field == "" && tc.in.Level == "none" {
			if ostiary.KindOf(err) != ostiary.Unavailable {
				t.Errorf("%+v while nothing is established: %v", tc.in, err)
			}
			continue
		}
		if tc.field != "" {
			if err == nil || ostiary.AsError(err).Field != tc.field {
				t.Errorf("%+v: %v", tc.in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", tc.in, err)
			continue
		}
		if got := out.(Contained); got.Name != tc.name || got.Known != tc.known || got.Level != tc.in.Level || got.By != "dana" || got.At.IsZero() {
			t.Errorf("%+v: %+v", tc.in, got)
		}
	}
	out, err := c.getContainments(nil)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, x := range out.([]Containment) {
		words = append(words, x.Scope+"="+x.Level)
	}
	if got := strings.Join(words, " "); got != "agent=suspended all=throttled server=throttled tool=restricted" {
		t.Error("listed", got)
	}
	if got := strings.Join(log.actions, " "); got != "contain contain contain contain contain contain release" {
		t.Error("recorded", got)
	}

	log.fail = errors.New("the disk is full")
	if _, err := c.postContainment(ctx, ContainRequest{"server", "bank", "none", ""}); ostiary.KindOf(err) != ostiary.Unavailable {
		t.Error("released unrecorded:", err)
	}
	if got := levels.Level(&ostiary.Subject{Agent: "x"}, &ostiary.Action{Server: "bank"}); got != ostiary.Throttled {
		t.Error("released unrecorded, to", got)
	}
}

// Who is suspended gets no credential of any kind, and can still be revoked.
func TestSuspendedGetsNothing(t *testing.T) {
	state := store.NewMemory()
	levels := containment.New(containment.Options{Register: state, Clock: time.Now, Record: func(context.Context, containment.Record) error { return nil }})
	var recorded []string
	record := RefuseSuspended(levels, func(_ context.Context, e identity.Event) error { recorded = append(recorded, e.What); return nil })
	try := func(want string) {
		t.Helper()
		recorded = nil
		for _, what := range []string{"join_token", "enrol", "renew", "return", "token", "revoke"} {
			err := record(t.Context(), identity.Event{What: what, Agent: "spiffe://td/a"})
			if err != nil && ostiary.KindOf(err) != ostiary.Contained {
				t.Error(err)
			}
		}
		if got := strings.Join(recorded, " "); got != want {
			t.Errorf("recorded %q, want %q", got, want)
		}
	}
	try("revoke") // nothing is established
	for level, want := range map[ostiary.Containment]string{
		ostiary.None: "join_token enrol renew return token revoke", ostiary.Quarantined: "join_token enrol renew return token revoke", ostiary.Suspended: "revoke",
	} {
		if err := levels.Set(t.Context(), containment.Record{Scope: containment.ScopeAgent, Name: "spiffe://td/a", Level: level, Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		try(want)
	}
}
