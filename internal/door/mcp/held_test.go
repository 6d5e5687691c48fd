package mcp

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// desk is where held calls wait in these tests.
type desk struct {
	after time.Duration // people decide
	body  string
	err   *ostiary.Error
	asked []ostiary.AgentID
}

func (d *desk) Hold(context.Context, *ostiary.Request, *ostiary.Decision) (ostiary.HoldID, error) {
	return "h2abcdefghijklmnopqrstuv", nil
}

func (d *desk) Result(_ context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error) {
	ctx, stop := context.WithCancel(context.Background())
	if d.after > 0 {
		stop()
	}
	defer stop()
	return d.Wait(ctx, id, s, server)
}

func (d *desk) Wait(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error) {
	if id != "h2abcdefghijklmnopqrstuv" || s.Agent != "spiffe://test/agent/alice" || server != "" && server != "bank" {
		return gate.Settled{}, ostiary.Errorf(ostiary.NotFound, "hold", "there is no held action").At("hold")
	}
	d.asked = append(d.asked, s.Agent)
	select {
	case <-time.After(d.after):
	case <-ctx.Done():
		return gate.Settled{}, ostiary.Errorf(ostiary.Denied, "held", "it waits for people").At(string(id))
	}
	if d.err != nil {
		return gate.Settled{}, d.err
	}
	return gate.Settled{Frame: gate.Frame{Kind: gate.FrameResult, Body: value(d.body)}}, nil
}

// A held call is a slow call: its client hears that it waits, and then what
// became of it, or where it waits.
func TestHeldCallIsSlow(t *testing.T) {
	for _, x := range []struct {
		name string
		desk desk
		want []string
		none []string
	}{
		{"consented to", desk{after: 25 * time.Second, body: `{"content":[{"type":"text","text":"paid 9007199254740993"}]}`},
			[]string{"paid 9007199254740993", `"progress":2`, "waiting for people to decide on h2abc"}, []string{"isError"}},
		{"refused", desk{after: time.Second, err: ostiary.Errorf(ostiary.Denied, "refused_by_person", "person:erin refused it: not this week")},
			[]string{"not this week", `"isError":true`, "refused_by_person"}, []string{"Waiting"}},
		{"not decided in time", desk{after: time.Hour}, []string{"held as h2abcdefghijklmnopqrstuv", "Do not send it again", `"isError":true`, `"progress":4`}, nil},
		{"a server that asks back", desk{body: `{"resultType":"input_required","inputRequests":{}}`}, []string{"bad", `"isError":true`}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.decide = func(*ostiary.Request) ostiary.Decision {
					return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:finance", Policy: "pay-large"}}}
				}
				w.door.holds, w.door.holdFor, w.holder = &x.desk, 50*time.Second, &x.desk
				began := time.Now()
				rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send","arguments":{"to":"x","n":1e2},"_meta":{"progressToken":"p",`+
					`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`,
					"Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "bank___send"))
				got := rec.Body.String()
				for _, s := range x.want {
					if !strings.Contains(got, s) {
						t.Errorf("%q is missing: %s", s, got)
					}
				}
				for _, s := range x.none {
					if strings.Contains(got, s) {
						t.Errorf("%q is there: %s", s, got)
					}
				}
				if took := time.Since(began); took != min(x.desk.after, 50*time.Second) {
					t.Errorf("it took %v", took)
				}
				if w.forwarded() != 0 || len(x.desk.asked) != 1 {
					t.Errorf("forwarded %d, asked %v", w.forwarded(), x.desk.asked)
				}
			})
		})
	}
}

// Whoever is contained while people think hears nothing of what became of the
// call: neither its result nor why it was refused.
func TestHeldCallContained(t *testing.T) {
	for name, d := range map[string]desk{
		"consented to": {after: time.Second, body: `{"content":[{"type":"text","text":"paid 7"}]}`},
		"refused":      {after: time.Second, err: ostiary.Errorf(ostiary.Denied, "refused_by_person", "person:erin refused it: not this week")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.decide = func(*ostiary.Request) ostiary.Decision {
					return ostiary.Decision{Code: "forbid", Remedies: []ostiary.Remedy{{Fact: "approval:finance", Policy: "pay-large"}}}
				}
				w.door.holds, w.door.holdFor, w.holder = &containing{&d, w}, 50*time.Second, &d
				rec := w.do(raw("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send","arguments":{"to":"x","n":1e2},"_meta":{`+
					`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`,
					"Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "bank___send"))
				if got := rec.Body.String(); strings.Contains(got, "paid") || strings.Contains(got, "not this week") || !strings.Contains(got, "contained") {
					t.Error(got)
				}
				if len(d.asked) != 1 {
					t.Errorf("it did not wait: %v", d.asked)
				}
			})
		})
	}
}

// containing is a desk where an operator contains who waits.
type containing struct {
	*desk
	world *world
}

func (c *containing) Wait(ctx context.Context, id ostiary.HoldID, s *ostiary.Subject, server string) (gate.Settled, error) {
	settled, err := c.desk.Wait(ctx, id, s, server)
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.world.contained = map[ostiary.AgentID]ostiary.Containment{s.Agent: ostiary.Quarantined}
	return settled, err
}
