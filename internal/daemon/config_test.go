package daemon

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// good is the smallest configuration that works.
const good = "trust_domain: example.org\n"

func TestConfigDefaults(t *testing.T) {
	c, err := ParseConfig("/etc/ostiary/ostiary.yaml", []byte(good+"servers:\n  files: {command: [/bin/server]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/etc/ostiary/ostiary-data" || c.Policy != "/etc/ostiary/policy" || c.Listen.Control != "/etc/ostiary/ostiary-data/control.sock" {
		t.Errorf("paths are relative to the file: %s, %s, %s", c.Data, c.Policy, c.Listen.Control)
	}
	if c.Listen.Agents != "127.0.0.1:8443" || c.Listen.Loopback != "" || time.Duration(c.Identity.SVIDLife) != 15*time.Minute || c.Servers["files"].Zone != "default" || c.Servers["files"].Trusted {
		t.Errorf("defaults %+v", c)
	}
}

// Every path in the file means the same wherever the command is run.
func TestConfigPaths(t *testing.T) {
	c, err := ParseConfig("/etc/ostiary/ostiary.yaml", []byte(good+"data: d\npolicy: p\nkeys: k\nstore: {postgres_file: s}\nlisten: {control: c.sock}\nservers:\n  a: {command: [/bin/server], dir: w}\n  b: {url: 'https://b/', bearer_file: t}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		c.Data: "d", c.Policy: "p", c.Listen.Control: "c.sock", c.Keys: "k", c.Store.PostgresFile: "s", c.Servers["a"].Dir: "w", c.Servers["b"].Bearer: "t",
	} {
		if got != "/etc/ostiary/"+want {
			t.Errorf("%s of the file is %s", want, got)
		}
	}
}

// An agent is told an address that it can reach, not that the gateway listens
// everywhere.
func TestReachable(t *testing.T) {
	for _, tc := range []struct {
		ip    string
		names []string
		want  string
	}{
		{"127.0.0.1", []string{"gate.example.org"}, "127.0.0.1:8443"},
		{"192.0.2.7", nil, "192.0.2.7:8443"},
		{"::", []string{"gate.example.org"}, "gate.example.org:8443"},
		{"0.0.0.0", []string{"2001:db8::1"}, "[2001:db8::1]:8443"},
		{"0.0.0.0", nil, "localhost:8443"},
	} {
		d := &Daemon{cfg: &Config{Listen: Listen{Names: tc.names}}, agents: listening{ip: net.ParseIP(tc.ip)}}
		got := d.reachable()
		if got != tc.want {
			t.Errorf("%s %v: %s, want %s", tc.ip, tc.names, got, tc.want)
		}
		if all := hosts(d.agents.Addr(), tc.names); !slices.Contains(all, got) {
			t.Errorf("the door refuses %s, it knows %v", got, all)
		}
	}
}

type listening struct {
	net.Listener
	ip net.IP
}

func (l listening) Addr() net.Addr { return &net.TCPAddr{IP: l.ip, Port: 8443} }

// Every mistake is refused with file, line and key.
func TestConfigRefuses(t *testing.T) {
	server := func(s string) string { return good + "servers:\n  files: " + s + "\n" }
	signin := func(s string) string {
		return good + "listen: {console: '127.0.0.1:1'}\nsignin:\n  oidc: {" + s + "}\n"
	}
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", "c.yaml: trust_domain: it is required"},
		{"unknown key", good + "lisen: {}\n", `c.yaml:2: unknown key "lisen"; did you mean "listen"?`},
		{"unknown key below", good + "listen:\n  agent: x\n", `c.yaml:3: unknown key "agent"; did you mean "agents"?`},
		{"key twice", good + good, "c.yaml:2"},
		{"two documents", good + "---\n" + good, "more than one document"},
		{"not YAML", "trust_domain: [\n", "c.yaml:"},
		{"wrong type", good + "servers: 3\n", "c.yaml:2"},
		{"trust domain", "trust_domain: Example.org\n", "c.yaml:1: trust_domain"},
		{"gateway", good + "gateway: deployment\n", "c.yaml:2: gateway"},
		{"gateway's name", good + "gateway: Gw/1\n", "c.yaml:2: gateway: use lower-case"},
		{"deployment's name", good + "deployment: ../x\n", "c.yaml:2: deployment: use lower-case"},
		{"loopback open to the network", good + "listen:\n  loopback: 0.0.0.0:80\n", "c.yaml:3: listen.loopback: it must be a loopback address"},
		{"loopback by name", good + "listen: {loopback: 'localhost:80'}\n", "listen.loopback"},
		{"origin", good + "listen: {origins: ['https://a/b']}\n", "is no origin"},
		{"duration", good + "identity: {svid_life: soon}\n", `"soon" is no duration`},
		{"SVID too long", good + "identity:\n  svid_life: 2h\n", "c.yaml:3: identity.svid_life: 2h0m0s is outside 1m0s to 1h0m0s"},
		{"token too long", good + "identity: {token_life: 11m}\n", "identity.token_life"},
		{"size", good + "ledger: {segment_size: big}\n", `"big" is no size`},
		{"segment too small", good + "ledger: {segment_size: 64KiB}\n", "ledger.segment_size"},
		{"server name", good + "servers: {Files: {url: 'https://a/'}}\n", "servers.Files"},
		{"server name of ours", good + "servers: {ostiary: {url: 'https://a/'}}\n", "the gateway's own"},
		{"neither url nor command", server("{}"), "either url"},
		{"both", server("{url: 'https://a/', command: [x]}"), "either url"},
		{"url with a name in it", server("{url: 'https://u:p@a/'}"), "servers.files.url"},
		{"url of another kind", server("{url: 'file:///etc/passwd'}"), "servers.files.url"},
		{"env of a url", server("{url: 'https://a/', env: {A: b}}"), "belong to a command"},
		{"credential of a command", server("{command: [x], bearer_file: f}"), "servers.files.bearer_file"},
		{"digest", server("{command: [/x], digest: ABC}"), "servers.files.digest"},
		{"store twice", good + "store: {postgres: 'postgres://a/b', postgres_file: c}\n", "c.yaml:2: store: give either"},
		{"store of another kind", good + "store: {postgres: 'mysql://a/b'}\n", "c.yaml:2: store.postgres: write postgres://"},
		{"store with a password", good + "store: {postgres: 'postgres://a:b@c/d'}\n", "store.postgres: a password does not belong"},
		{"store with a password as an option", good + "store: {postgres: 'postgres://c/d?password=b'}\n", "store.postgres: a password does not belong"},
		{"breaker that never opens", server("{url: 'https://a/', breaker: {failures: -1}}"), "servers.files.breaker.failures"},
		{"breaker without a window", server("{url: 'https://a/', breaker: {window: 1}}"), "servers.files.breaker.window"},
		{"breaker without patience", server("{url: 'https://a/', breaker: {slow: 1ms}}"), "servers.files.breaker.slow"},
		{"breaker without end", server("{url: 'https://a/', breaker: {open_for: 1d}}"), "servers.files.breaker.open_for"},
		{"metrics everywhere", good + "telemetry:\n  listen: ':9464'\n", "c.yaml:3: telemetry.listen: name the address"},
		{"metrics nowhere", good + "telemetry: {listen: here}\n", "telemetry.listen: write host:port"},
		{"collector in the clear", good + "telemetry: {otlp: 'http://10.0.0.1:4318/v1/traces'}\n", "plain http is for a collector on this machine"},
		{"collector by a name in the clear", good + "telemetry: {otlp: 'http://collector/v1/traces'}\n", "plain http is for a collector on this machine"},
		{"collector with a credential", good + "telemetry: {otlp: 'https://u:p@collector/v1/traces'}\n", "telemetry.otlp"},
		{"collector without a path", good + "telemetry: {otlp: 'https://collector'}\n", "/v1/traces"},
		{"sample", good + "telemetry: {sample: 1.5}\n", "telemetry.sample: write a share from 0 to 1"},
		{"sample of nothing", good + "telemetry: {sample: .nan}\n", "telemetry.sample: write a share from 0 to 1"},
		{"sample in words", good + "telemetry: {sample: all}\n", "where a number is wanted"},
		{"console in the clear", good + "listen:\n  console: 0.0.0.0:80\n", "c.yaml:3: listen.console: without console.certificate"},
		{"console nowhere", good + "listen: {console: here}\n", "listen.console: write host:port"},
		{"console without its listener", good + "console: {url: 'https://a'}\n", "c.yaml:2: console: it is for listen.console"},
		{"half a certificate", good + "listen: {console: '0.0.0.0:443'}\nconsole: {certificate: c}\n", "c.yaml:3: console: certificate and key belong together"},
		{"a certificate without a name", good + "listen: {console: '0.0.0.0:443'}\nconsole: {certificate: c, key: k}\n", "console.url: it is required"},
		{"https without a certificate", good + "listen: {console: '127.0.0.1:1'}\nconsole: {url: 'https://a'}\n", "console.url: without console.certificate"},
		{"http that is not localhost", good + "listen: {console: '127.0.0.1:1'}\nconsole: {url: 'http://127.0.0.1:1'}\n", "console.url: without console.certificate"},
		{"http with a certificate", good + "listen: {console: ':443'}\nconsole: {certificate: c, key: k, url: 'http://localhost'}\n", "begins with https"},
		{"console with a path", good + "listen: {console: ':443'}\nconsole: {certificate: c, key: k, url: 'https://a/b'}\n", "console.url: write scheme, host and port"},
		{"sign-in without a console", good + "signin: {oidc: {issuer: 'https://a'}}\n", "signin.oidc: people sign in on listen.console"},
		{"provider in the clear", signin("issuer: 'http://login.example', client_id: a, client_secret_file: b, domains: {a.b: []}"), "signin.oidc.issuer"},
		{"provider without a secret", signin("issuer: 'https://login.example', client_id: a, domains: {a.b: []}"), "signin.oidc.client_secret_file: it is required"},
		{"provider that lets in nobody", signin("issuer: 'https://login.example', client_id: a, client_secret_file: b"), "signin.oidc.domains: say who may come in"},
		{"provider without an issuer", signin("client_id: a"), "signin.oidc.issuer: it is required"},
		{"a role that is none", signin("issuer: 'https://login.example', client_id: a, client_secret_file: b, groups: {g: [admin]}"), "signin.oidc.groups.g: \"admin\" is no role"},
		{"an address for a domain", signin("issuer: 'https://login.example', client_id: a, client_secret_file: b, domains: {a@b.c: []}"), "signin.oidc.domains.a@b.c: write a domain"},
		{"network", server("{url: 'https://a/', allow_addresses: [10.0.0.1]}"), "is no network"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseConfig("c.yaml", []byte(tc.text))
			e := ostiary.AsError(err)
			if e == nil || e.Kind != ostiary.Malformed || !strings.Contains(e.Detail, tc.want) {
				t.Errorf("got %+v, want %q", e, tc.want)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(good + "servers: {files: {command: [/bin/server], env: {A: b}}}\nlisten: {loopback: '127.0.0.1:1'}\nidentity: {svid_life: 1d}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig("c.yaml", text)
		if err != nil {
			if ostiary.KindOf(err) != ostiary.Malformed || ostiary.AsError(err).Detail == "" {
				t.Fatalf("not one of our errors: %v", err)
			}
			return
		}
		if c.TrustDomain == "" || c.Listen.Agents == "" || c.Identity.TokenLife <= 0 {
			t.Fatalf("accepted without what is required: %+v", c)
		}
	})
}
