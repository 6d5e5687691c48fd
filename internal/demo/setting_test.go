package demo

import (
	"crypto/ed25519"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/strictjson"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// pinned are the demo's definitions as a gateway would have pinned them.
func pinned(t *testing.T) []*ostiary.Tool {
	t.Helper()
	r := start(t, ServerOptions{Unguarded: true})
	var all []*ostiary.Tool
	for _, server := range []string{Bank, Inbox, Documents, Lab} {
		s := connect(t, &mcp.StreamableClientTransport{Endpoint: r.url + "/" + server}, "2026-07-28", nil)
		for def, err := range s.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			tool := catalog.ParseDefinition(server, "tool", document(t, jsonOf(t, def)))
			if tool.State == ostiary.ToolQuarantined {
				t.Errorf("%s is quarantined: %s", tool.Action(), tool.Why)
			}
			if f := catalog.Findings(&tool); len(f) > 0 {
				t.Errorf("%s: %v", tool.Action(), f)
			}
			tool.State = ostiary.ToolPinned
			all = append(all, &tool)
		}
	}
	return all
}

func document(t *testing.T, text string) ostiary.Value {
	t.Helper()
	d, err := strictjson.Parse([]byte(text), strictjson.Request)
	if err != nil {
		t.Fatal(err)
	}
	return d.Root()
}

func TestPolicy(t *testing.T) {
	tools := pinned(t)
	set, problems := policy.Compile(policy.Source{Files: Policy()}, tools)
	for _, p := range problems {
		t.Error(p)
	}
	if set == nil {
		t.FailNow()
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := policy.Sign(1, set, now, private)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := policy.Open(signed, public)
	if err != nil {
		t.Fatal(err)
	}
	pay := func(amount, to, currency string) string {
		return `{"from":"household","to":"` + to + `","amount":` + amount + `,"currency":"` + currency + `"}`
	}
	for _, tc := range []struct {
		name, server, tool, args string
		permit                   bool
		code                     string
		remedies                 int
	}{
		{"look at the accounts", Bank, "list_accounts", `{}`, true, "permit", 0},
		{"look at a balance", Bank, "get_balance", `{"account":"savings"}`, true, "permit", 0},
		{"pay a little", Bank, "send_payment", pay("4500", "landlord", "EUR"), true, "permit", 0},
		{"pay the limit", Bank, "send_payment", pay("100000", "landlord", "EUR"), true, "permit", 0},
		{"pay one cent more", Bank, "send_payment", pay("100001", "landlord", "EUR"), false, "forbid", 1},
		{"pay what consent cannot help", Bank, "send_payment", pay("1000001", "landlord", "EUR"), false, "forbid", 0},
		{"pay a stranger", Bank, "send_payment", pay("4500", "parcel-service", "EUR"), false, "no_permit", 0},
		{"pay in dollars", Bank, "send_payment", pay("4500", "landlord", "USD"), false, "no_permit", 0},
		{"read the inbox", Inbox, "read_message", `{"id":"m1"}`, true, "permit", 0},
		{"read a document", Documents, "read_document", `{"name":"payees.md"}`, true, "permit", 0},
		{"write a document", Documents, "write_document", `{"name":"payees.md","text":"x"}`, false, "no_permit", 0},
		{"count", Lab, "slow_count", `{"to":1}`, false, "no_permit", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := snapshot.Decide(asked(t, tools, now, tc.server, tc.tool, tc.args))
			if d.Permit != tc.permit || d.Code != tc.code || len(d.Remedies) != tc.remedies {
				t.Errorf("%v %s %v %v", d.Permit, d.Code, d.Reasons, d.Remedies)
			}
		})
	}
}

func asked(t *testing.T, tools []*ostiary.Tool, now time.Time, server, name, args string) *ostiary.Request {
	t.Helper()
	r := &ostiary.Request{
		Subject:  ostiary.Subject{Agent: "spiffe://" + TrustDomain + "/" + AgentName, Principal: "person:dana", Via: ostiary.ViaToken},
		Resource: ostiary.Resource{Server: server, Zone: "default"},
		Context: ostiary.Context{
			Now: now, Principal: "person:dana", Zone: "default", Risk: ostiary.Risk{Level: "low"}, Containment: ostiary.None,
			Mandate: ostiary.Mandate{ID: "m", Kind: ostiary.StandingMandate}, Session: ostiary.Session{ID: "s", Started: now},
			Posture: ostiary.Posture{OK: true, Method: "join_token", Appraised: now}, Labels: map[string]ostiary.Label{},
		},
	}
	for _, tool := range tools {
		if tool.Server == server && tool.Name == name {
			r.Action = ostiary.Action{Name: tool.Action(), Method: "tools/call", Server: server, Tool: name, Pin: tool.Pin, Arguments: document(t, args)}
			for n := range tool.Definition.Get("inputSchema").Get("properties").Members() {
				r.Context.Labels[n] = ostiary.Label{Sources: []string{"unknown"}}
			}
			return r
		}
	}
	t.Fatalf("no %s of %s", name, server)
	return nil
}

func TestConfig(t *testing.T) {
	text := Config(Setting{
		Data: `/tmp/a "b"/data`, Policy: "/tmp/policy", Agents: "127.0.0.1:8443", Loopback: "127.0.0.1:8080",
		Tools: "http://127.0.0.1:4000", Executable: "/bin/ostiary", Command: "demo-server", Journal: "/tmp/j",
	})
	var c struct {
		Data    string
		Servers map[string]struct {
			URL     string
			Command []string
			Trusted bool
		}
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	want := []string{"/bin/ostiary", "demo-server", "--stdio", "--family", "documents", "--journal", "/tmp/j"}
	if got := c.Servers[Documents].Command; jsonOf(t, got) != jsonOf(t, want) {
		t.Errorf("documents runs %q", got)
	}
	if c.Data != `/tmp/a "b"/data` || c.Servers[Bank].URL != "http://127.0.0.1:4000/bank" || !c.Servers[Bank].Trusted || c.Servers[Inbox].Trusted {
		t.Errorf("%+v", c)
	}
}
