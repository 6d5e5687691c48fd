package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
	"pgregory.net/rapid"
)

// value scans JSON as the gate would.
func value(t rapid.TB, text string) ostiary.Value {
	t.Helper()
	d, err := strictjson.Parse([]byte(text), strictjson.Request)
	if err != nil {
		t.Fatalf("scanning %s: %v", text, err)
	}
	return d.Root()
}

// tool makes an accepted tool from its input schema.
func tool(t rapid.TB, server, name, schema string) *ostiary.Tool {
	t.Helper()
	def := value(t, fmt.Sprintf(`{"name":%q,"inputSchema":%s}`, name, schema))
	return &ostiary.Tool{Server: server, Name: name, Kind: "tool", Definition: def, Pin: ostiary.DigestOf(def.Bytes()), State: ostiary.ToolPinned, Destructive: true}
}

const paySchema = `{"type":"object","properties":{
	"recipient":{"type":"string"},"amount":{"type":"integer"},"note":{"type":"string"},
	"rate":{"type":"number"},"tags":{"type":"array","items":{"type":"string"}},
	"blob":{},"either":{"anyOf":[{"type":"string"},{"type":"integer"}]},
	"memo":{"anyOf":[{"type":"string"},{"type":"null"}]},
	"grid":{"type":"array","items":{"type":"array","items":{"type":"integer"}}},
	"to":{"type":"object","properties":{"iban":{"type":"string"},"bic":{"type":"string"}},"required":["iban"]}
},"required":["recipient","amount"]}`

// bank is a small deployment: two tools that read, one that pays.
func bank(t rapid.TB) []*ostiary.Tool {
	read := tool(t, "bank", "get_balance", `{"type":"object","properties":{"account":{"type":"string"}},"required":["account"]}`)
	read.ReadOnly, read.Destructive = true, false
	inbox := tool(t, "mail", "read-inbox", `{"type":"object","additionalProperties":false}`)
	inbox.ReadOnly, inbox.Destructive = true, false
	return []*ostiary.Tool{read, inbox, tool(t, "bank", "send_money", paySchema)}
}

// source makes a folder from name, text pairs.
func source(pairs ...string) Source {
	s := Source{Files: map[string][]byte{}}
	for i := 0; i < len(pairs); i += 2 {
		s.Files[pairs[i]] = []byte(pairs[i+1])
	}
	return s
}

func compile(t rapid.TB, src Source, tools []*ostiary.Tool) *Set {
	t.Helper()
	set, problems := Compile(src, tools)
	if set == nil {
		for _, p := range problems {
			t.Error(p)
		}
		t.FailNow()
	}
	return set
}

var testTime = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func snapshot(t rapid.TB, set *Set) *Snapshot { return &Snapshot{1, testTime, set} }

// request is a complete request of agent "a" for a tool of bank.
func request(t rapid.TB, tools []*ostiary.Tool, name, args string) *ostiary.Request {
	t.Helper()
	r := &ostiary.Request{
		Subject: ostiary.Subject{Agent: "spiffe://example.org/a", Principal: "person:dana", Via: ostiary.ViaSVID, Bound: true},
		Context: ostiary.Context{
			Now: testTime, Principal: "person:dana", Zone: "default", Roles: []string{"clerk"},
			Mandate: ostiary.Mandate{ID: "m1", Purpose: "pay bills", Kind: ostiary.StandingMandate},
			Session: ostiary.Session{ID: "s1", Started: testTime},
			Posture: ostiary.Posture{OK: true, Method: "join_token", Appraised: testTime},
			Risk:    ostiary.Risk{Level: "low"}, Containment: ostiary.None,
			Labels: map[string]ostiary.Label{},
		},
	}
	r.Action = ostiary.Action{Name: name}
	for _, tl := range tools {
		if tl.Action() == name {
			r.Action = ostiary.Action{Name: name, Method: "tools/call", Server: tl.Server, Tool: tl.Name, Pin: tl.Pin}
			r.Resource = ostiary.Resource{Server: tl.Server, Zone: "default"}
		}
	}
	if args != "" {
		r.Action.Arguments = value(t, args)
		for n := range r.Action.Arguments.Members() {
			r.Context.Labels[n] = ostiary.Label{Sources: []string{"unknown"}}
		}
	}
	return r
}

const payPolicies = `
@id("pay") @reason("payments up to 5000")
permit (principal in Ostiary::Role::"clerk", action == Ostiary::Action::"bank___send_money", resource == Ostiary::Server::"bank")
when { context.input.amount <= 5000 };

@id("pay-large") @remedy("approval:finance") @reason("above 1000 finance must agree")
forbid (principal, action == Ostiary::Action::"bank___send_money", resource)
when   { context.input.amount > 1000 }
unless { context.satisfied.contains("approval:finance") };
`

const notify = `@id("tell") @obligation("notify") @properties("{\"to\":\"finance\"}")
permit (principal, action in Ostiary::Action::"payments", resource);`

func payFolder() Source {
	return source("pay.cedar", payPolicies, "obligate/notify.cedar", notify, "groups.yaml", "payments: [bank___send_money]\n")
}

func TestOutcomes(t *testing.T) {
	tools := bank(t)
	s := snapshot(t, compile(t, payFolder(), tools))
	for _, tc := range []struct {
		name, args, code, reasons, remedies, obligations string
	}{
		{"small", `{"recipient":"x","amount":500}`, "permit", "pay", "", "notify"},
		{"requestable", `{"recipient":"x","amount":2000}`, "forbid", "pay-large", "approval:finance", ""},
		{"consent could not help", `{"recipient":"x","amount":20000}`, "forbid", "pay-large", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := s.Decide(request(t, tools, "bank___send_money", tc.args))
			var reasons, remedies, obligations []string
			for _, r := range d.Reasons {
				reasons = append(reasons, r.Policy)
			}
			for _, r := range d.Remedies {
				remedies = append(remedies, r.Fact)
			}
			for _, o := range d.Obligations {
				obligations = append(obligations, o.Type)
			}
			got := []string{d.Code, strings.Join(reasons, ","), strings.Join(remedies, ","), strings.Join(obligations, ",")}
			if want := []string{tc.code, tc.reasons, tc.remedies, tc.obligations}; strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("got %q, want %q\n%s", got, want, s.Explain(request(t, tools, "bank___send_money", tc.args), d))
			}
			if d.Permit != (tc.code == "permit") || d.Policy.IsZero() || d.Snapshot != 1 {
				t.Errorf("decision %+v", d)
			}
		})
	}
	t.Run("with the consent", func(t *testing.T) {
		r := request(t, tools, "bank___send_money", `{"recipient":"x","amount":2000}`)
		r.Context.Satisfied = []string{"approval:finance"}
		if d := s.Decide(r); !d.Permit {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("default deny says what is missing", func(t *testing.T) {
		r := request(t, tools, "bank___get_balance", `{"account":"1"}`)
		d := s.Decide(r)
		if d.Permit || d.Code != CodeNoPermit || d.Reasons[0].Text != "no policy permits bank___get_balance for this agent" {
			t.Errorf("got %+v", d)
		}
		if text := s.Explain(r, d); !strings.Contains(text, `Ostiary::Action::"bank___get_balance"`) {
			t.Error(text)
		}
	})
}

func TestSnapshotRoundTrip(t *testing.T) {
	set := compile(t, payFolder(), bank(t))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Sign(7, set, testTime, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(b, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if s.Number() != 7 || s.Digest() != set.Digest() || !s.Created().Equal(testTime) {
		t.Errorf("got %d %s", s.Number(), s.Digest())
	}
}

// scan1 scans foreign bytes; ok is false if they are no JSON.
func scan1(b []byte) (ostiary.Value, bool) {
	d, err := strictjson.Parse(b, strictjson.Request)
	if err != nil {
		return ostiary.Value{}, false
	}
	return d.Root(), true
}
