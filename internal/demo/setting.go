package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// TrustDomain is the demo's own.
const TrustDomain = "demo.ostiary.test"

// AgentName is the name of the scripted agent below the trust domain.
const AgentName = "assistant"

// HelperName is the name of the sub-agent that the scripted agent asks for
// help.
const HelperName = "helper"

// Mandate is what the scripted agent's mandate says, as terms: the bank and the
// inbox, payments of 5,000.00 at most, handed on once.
func Mandate() []byte {
	return []byte(`{"task":"look after the household","purpose":"household","depth":1,"for":"24h",` +
		`"actions":["bank___list_accounts","bank___get_balance","bank___send_payment","inbox___list_messages","inbox___read_message"],` +
		`"servers":["bank","inbox"],"classes":["*"],"approvers":["*"],` +
		`"ceilings":[{"action":"bank___send_payment","pointer":"/amount","max":"500000","unit":"cents"}]}`)
}

// Setting is where the demo takes place: what the configuration of its
// gateway says.
type Setting struct {
	Data       string // folder of the gateway's store, log and keys
	Policy     string // folder of its policies
	Agents     string // TLS address for agents
	Loopback   string // plain-HTTP address for bearer tokens, on loopback
	Console    string // address of the console, on loopback
	Tools      string // URL of the HTTP tool server, without a path
	Executable string // this program, to start the stdio tool server
	Command    string // the subcommand that leads to ServerCommand.Run
	Journal    string // of the stdio tool server
}

// Config returns the YAML of the demo's gateway: bank and inbox over HTTP,
// documents as a process on stdio. Only the bank's results are trusted.
func Config(s Setting) []byte {
	documents := append([]string{s.Executable, s.Command},
		ServerCommand{Stdio: true, Family: []string{Documents}, Journal: s.Journal}.Args()...)
	var b bytes.Buffer
	fmt.Fprintf(&b, `# The gateway of "ostiary demo". Written anew each time the demo starts.
deployment: demo
gateway: gw1
trust_domain: %s
data: %s
policy: %s

listen:
  agents: %s
  loopback: %s
  console: %s

servers:
  bank:
    url: %s
    allow_addresses: [127.0.0.1/32]
    trusted: true
  inbox: # anybody can write to it
    url: %s
    allow_addresses: [127.0.0.1/32]
  documents:
    command: %s

ledger:
  segment_size: 1MiB
`, quote(TrustDomain), quote(s.Data), quote(s.Policy), quote(s.Agents), quote(s.Loopback), quote(s.Console),
		quote(s.Tools+"/"+Bank), quote(s.Tools+"/"+Inbox), quote(documents))
	return b.Bytes()
}

// quote writes a value as JSON, which is YAML too.
func quote(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return `""` // strings and lists of them always encode
	}
	return string(b)
}

// Limit is the amount above which the demo's policy refuses a payment.
const Limit = 100_000 // 1,000.00

// Policy returns the demo's policy folder.
func Policy() map[string][]byte {
	return map[string][]byte{
		"everyday.cedar": []byte(policyEveryday),
		"payments.cedar": []byte(policyPayments),
	}
}

const policyEveryday = `// What any agent of the demo may do on any day.

@id("connect-and-look")
@reason("Any agent may connect, see what it is offered, and be told when that changes.")
permit (
  principal,
  action in [
    Ostiary::Action::"session",
    Ostiary::Action::"lists",
    Ostiary::Action::"subscribe",
    Ostiary::Action::"unsubscribe"
  ],
  resource
);

@id("read-bank")
@reason("Any agent may look at the accounts.")
permit (
  principal,
  action in [Ostiary::Action::"bank___list_accounts", Ostiary::Action::"bank___get_balance"],
  resource == Ostiary::Server::"bank"
);

@id("read-inbox")
@reason("Any agent may read the inbox.")
permit (
  principal,
  action in [Ostiary::Action::"inbox___list_messages", Ostiary::Action::"inbox___read_message"],
  resource == Ostiary::Server::"inbox"
);

@id("read-documents")
@reason("Any agent may read the documents.")
permit (
  principal,
  action in [
    Ostiary::Action::"documents___list_documents",
    Ostiary::Action::"documents___read_document",
    Ostiary::Action::"read_resource",
    Ostiary::Action::"get_prompt",
    Ostiary::Action::"complete"
  ],
  resource == Ostiary::Server::"documents"
);
`

const policyPayments = `// Money. Amounts are in minor units: 100000 is 1,000.00.

@id("pay-known-payees")
@reason("The household account may pay known payees in EUR.")
permit (
  principal,
  action == Ostiary::Action::"bank___send_payment",
  resource == Ostiary::Server::"bank"
)
when {
  context.input.from == "household" &&
  context.input.currency == "EUR" &&
  ["landlord", "power-company", "library"].contains(context.input.to) &&
  context.input.amount <= 1000000
};

@id("pay-over-limit")
@reason("A payment above 1,000.00 needs the consent of finance.")
@remedy("approval:finance")
forbid (
  principal,
  action == Ostiary::Action::"bank___send_payment",
  resource
)
when { context.input.amount > 100000 }
unless { context.satisfied.contains("approval:finance") };
`
