package daemon

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/policy"
)

// Config is the one configuration file. Its comments are the manual; see
// docs/reference/config.md. Unknown keys are errors. Relative paths are
// relative to the file's own folder.
type Config struct {
	// Deployment names the whole installation in log origins. Default "ostiary".
	Deployment string `yaml:"deployment"`
	// Gateway names this gateway; it owns the log <deployment>/<gateway>/<month>. Default "gw1".
	Gateway string `yaml:"gateway"`
	// TrustDomain is the SPIFFE trust domain of the agents this installation enrols. Required.
	TrustDomain string `yaml:"trust_domain"`
	// Data is the folder of the embedded store, the log and the keys. Created with mode 0700. Default "ostiary-data".
	Data string `yaml:"data"`
	// Keys is the folder of private keys and, below "identity", of the CA's certificates. Gateways that share a store
	// need the same keys: give them one folder, or a copy. Default: <data>/keys, and <data>/identity.
	Keys string `yaml:"keys"`
	// Policy is the folder of Cedar policies. Default "policy".
	Policy string `yaml:"policy"`

	Listen  Listen            `yaml:"listen"`
	Servers map[string]Server `yaml:"servers"`
	// Budgets bound what is spent, by name.
	Budgets map[string]BudgetConfig `yaml:"budgets"`

	Store    StoreConfig    `yaml:"store"`
	Identity IdentityConfig `yaml:"identity"`
	Ledger   LedgerConfig   `yaml:"ledger"`
	Tools    ToolsConfig    `yaml:"tools"`

	Telemetry TelemetryConfig `yaml:"telemetry"`

	Console ConsoleConfig `yaml:"console"`
	SignIn  SignInConfig  `yaml:"signin"`
	OAuth   OAuthConfig   `yaml:"oauth"`

	Approvals ApprovalsConfig `yaml:"approvals"`

	file string
	root *yaml.Node
}

// Listen says where agents and operators reach the gateway.
type Listen struct {
	// Agents is the TLS address for agents: mutual TLS with an SVID, or a bearer token. Default "127.0.0.1:8443".
	Agents string `yaml:"agents"`
	// Names are further DNS names or addresses in the gateway's own certificate, beside localhost.
	Names []string `yaml:"names"`
	// Loopback is a plain-HTTP address for clients that can only send a bearer token. It must be a loopback
	// address: whoever can read loopback traffic on this machine can read the token. Default: off.
	Loopback string `yaml:"loopback"`
	// Control is the Unix socket of the operator's commands. Default "<data>/control.sock". Only the user the
	// gateway runs as, and root, may use it.
	Control string `yaml:"control"`
	// Console is the address where people sign in: plain HTTP on a loopback address, else TLS with console.certificate.
	// Default: off, and then there are no persons.
	Console string `yaml:"console"`
	// Health is a plain-HTTP address with GET /livez and /readyz and nothing else, for load balancers and
	// orchestrators. They say ok or no and never why; beyond this machine, anybody who reaches it learns that much.
	// Default: off.
	Health string `yaml:"health"`
	// Origins are the browser origins that may call the MCP endpoints. Default: none.
	Origins []string `yaml:"origins"`
}

// Server is one tool server behind the gate: remote (url) or a process the
// gateway starts (command).
type Server struct {
	// URL of a streamable-HTTP MCP server.
	URL string `yaml:"url"`
	// Command and arguments of a stdio MCP server, exactly as they will be executed; no shell.
	Command []string `yaml:"command"`
	// Env is the whole environment of the process; nothing is inherited.
	Env map[string]string `yaml:"env"`
	// Dir is the working directory of the process.
	Dir string `yaml:"dir"`
	// Digest is the SHA-256 of the executable, in hex. If set, a different executable is not started.
	Digest string `yaml:"digest"`
	// Zone the server belongs to. Default "default".
	Zone string `yaml:"zone"`
	// Trusted labels all results of this server as trusted: they do not taint a session. What an attacker gains
	// by writing to a trusted server is that agents' later actions count as uninfluenced.
	Trusted bool `yaml:"trusted"`
	// AllowAddresses lists private or loopback networks (CIDR) the server's name may resolve to. Public addresses
	// are always allowed, everything else never. A network listed here can be reached by whoever controls the
	// server's name.
	AllowAddresses []string `yaml:"allow_addresses"`
	// Origins are the web origins (https://login.example) this server may send a person to by URL elicitation. A
	// server can open a listed site in a person's browser. Default: none.
	Origins []string `yaml:"origins"`
	// Bearer is a file holding the credential the gateway presents to this server. Agents never see it.
	Bearer string `yaml:"bearer_file"`
	// Breaker says when this server is left alone for a while because its calls fail.
	Breaker BreakerConfig `yaml:"breaker"`
	// Tools says what the gateway cannot know of this server's tools, by the server's own names.
	Tools map[string]ToolConfig `yaml:"tools"`
}

// BreakerConfig sets a server's circuit breaker: calls are refused at once, with when to try again, instead of
// waiting for a server that fails. Other servers go on.
type BreakerConfig struct {
	// Failures in a row that open it: 1 to 1000. Default 5.
	Failures int `yaml:"failures"`
	// Window of calls of which half failing opens it too: 2 to 10000. Default 20.
	Window int `yaml:"window"`
	// Slow is how long a call may go without any answer before it has failed, though it may still be running: 100ms to
	// 24h. Default 30s.
	Slow Duration `yaml:"slow"`
	// OpenFor is how long it stays open before one call tries the server: 100ms to 1h. Default 10s.
	OpenFor Duration `yaml:"open_for"`
}

func (b *BreakerConfig) defaults() {
	for _, n := range []struct {
		to *int
		v  int
	}{{&b.Failures, 5}, {&b.Window, 20}} {
		if *n.to == 0 {
			*n.to = n.v
		}
	}
	for _, d := range []struct {
		to *Duration
		v  time.Duration
	}{{&b.Slow, 30 * time.Second}, {&b.OpenFor, 10 * time.Second}} {
		if *d.to == 0 {
			*d.to = Duration(d.v)
		}
	}
}

// check returns the key that is out of bounds, and how.
func (b *BreakerConfig) check() (key, why string) {
	switch {
	case b.Failures < 1 || b.Failures > 1000:
		return "failures", "use 1 to 1000"
	case b.Window < 2 || b.Window > 10_000:
		return "window", "use 2 to 10000"
	case time.Duration(b.Slow) < 100*time.Millisecond || time.Duration(b.Slow) > 24*time.Hour:
		return "slow", "use 100ms to 24h"
	case time.Duration(b.OpenFor) < 100*time.Millisecond || time.Duration(b.OpenFor) > time.Hour:
		return "open_for", "use 100ms to 1h"
	}
	return "", ""
}

// IdentityConfig sets lifetimes.
type IdentityConfig struct {
	// SVIDLife of agents' certificates: 1m to 1h. Default 15m.
	SVIDLife Duration `yaml:"svid_life"`
	// TokenLife of bearer tokens: at most 10m. Default 10m.
	TokenLife Duration `yaml:"token_life"`
	// MandateLife of the standing mandate written at enrolment. Default 90 days.
	MandateLife Duration `yaml:"mandate_life"`
	// RequireMandate refuses to enrol a new agent unless somebody says what its standing mandate covers (agent join
	// --mandate). Without it such an agent may do whatever policy allows. Default: off.
	RequireMandate bool `yaml:"require_mandate"`
	// ReturnWithin is how long after its certificate ended an agent that slept may fetch a new one with the same
	// key, and do nothing else: a stolen key file stays useful for this long unless the agent is revoked. 0s turns it
	// off. Default 72h.
	ReturnWithin *Duration `yaml:"return_within"`
}

// LedgerConfig sets the log.
type LedgerConfig struct {
	// SegmentSize of log files: 1MiB to 1GiB. It also bounds the calls and streams that may be open at one time: 12,000
	// with the default, 1,100 with 1MiB. Default 64MiB.
	SegmentSize Size `yaml:"segment_size"`
	// MaxActionTime is how long a call or a listening stream may take; it is ended then. An action that still has
	// no outcome settleMargin later is Unknown. 1s to 24h. Default 15m.
	MaxActionTime Duration `yaml:"max_action_time"`
}

// ToolsConfig sets how definitions are watched.
type ToolsConfig struct {
	// Recheck is how often each server's definitions are compared with the accepted ones. Default 60s.
	Recheck Duration `yaml:"recheck"`
}

// Duration is a time.Duration written like 15m or 90d.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	s := n.Value
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if v, err := strconv.Atoi(days); err == nil && v >= 0 && v <= 36500 {
			*d = Duration(time.Duration(v) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("line %d: %q is no duration; write for example 30s, 15m or 90d", n.Line, s)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes written like 64MiB.
type Size int64

// UnmarshalYAML reads a size.
func (z *Size) UnmarshalYAML(n *yaml.Node) error {
	for suffix, unit := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if num, ok := strings.CutSuffix(n.Value, suffix); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(num), 10, 32)
			if err != nil || v <= 0 {
				break
			}
			*z = Size(v * unit)
			return nil
		}
	}
	return fmt.Errorf("line %d: %q is no size; write for example 64MiB", n.Line, n.Value)
}

// maxConfig bounds the configuration file; a real one is a few kilobytes.
const maxConfig = 1 << 20

// ReadConfig reads and checks a configuration file. Every error names file,
// line and key, and what to write instead.
func ReadConfig(file string) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "config", "cannot read the configuration: %v", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "config", "cannot read %s: %v", file, err)
	}
	if len(text) > maxConfig {
		return nil, ostiary.Errorf(ostiary.Malformed, "config", "%s is larger than 1 MiB", file)
	}
	return ParseConfig(file, text)
}

// ParseConfig is ReadConfig for text already read; file names it in errors
// and anchors relative paths.
func ParseConfig(file string, text []byte) (*Config, error) {
	c := &Config{file: file, root: &yaml.Node{}}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, c.yamlError(err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, ostiary.Errorf(ostiary.Malformed, "config", "%s holds more than one document", file)
	}
	if err := yaml.Unmarshal(text, c.root); err != nil {
		return nil, c.yamlError(err)
	}
	c.defaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

var (
	unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found in type \S*\.(\w+)`)
	typeLine     = regexp.MustCompile(`line (\d+): (.*)`)
	wrongType    = regexp.MustCompile("cannot unmarshal !!(\\w+)(?: `.*`)? into (\\S+)")
	keyTwice     = regexp.MustCompile(`mapping key "([^"]*)" already defined at line (\d+)`)
)

// found names what stands in a file, wanted what should.
var found = map[string]string{"map": "a mapping", "seq": "a list", "str": "text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "timestamp": "a time", "binary": "binary data"}

func wanted(goType string) string {
	switch {
	case goType == "string":
		return "text"
	case goType == "bool":
		return "true or false"
	case goType == "float64":
		return "a number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "a mapping"
}

// yamlError turns the library's words into ours, with file, line and remedy.
func (c *Config) yamlError(err error) error {
	text := err.Error()
	if m := unknownField.FindStringSubmatch(text); m != nil {
		e := ostiary.Errorf(ostiary.Malformed, "unknown_key", "%s:%s: unknown key %q", c.file, m[1], m[2]).At(m[2])
		if near := nearest(m[2], keysOf(reflect.TypeFor[Config]())); near != "" {
			e.Detail += fmt.Sprintf("; did you mean %q?", near)
		}
		return e
	}
	if m := typeLine.FindStringSubmatch(text); m != nil {
		if t := wrongType.FindStringSubmatch(m[2]); t != nil {
			m[2] = fmt.Sprintf("here stands %s, where %s is wanted", found[t[1]], wanted(t[2]))
		} else if t := keyTwice.FindStringSubmatch(m[2]); t != nil {
			m[2] = fmt.Sprintf("the key %q stands already in line %s", t[1], t[2])
		}
		return ostiary.Errorf(ostiary.Malformed, "config", "%s:%s: %s", c.file, m[1], m[2])
	}
	return ostiary.Errorf(ostiary.Malformed, "config", "%s: %s", c.file, strings.TrimPrefix(text, "yaml: "))
}

func (c *Config) defaults() {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.Deployment, "ostiary")
	set(&c.Gateway, "gw1")
	set(&c.Data, "ostiary-data")
	set(&c.Policy, "policy")
	set(&c.Listen.Agents, "127.0.0.1:8443")
	base := filepath.Dir(c.file)
	anchor := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	anchor(&c.Data)
	anchor(&c.Policy)
	anchor(&c.Keys)
	anchor(&c.Store.PostgresFile)
	anchor(&c.Listen.Control)
	anchor(&c.Console.Certificate)
	anchor(&c.Console.Key)
	anchor(&c.SignIn.OIDC.ClientSecret)
	anchor(&c.OAuth.Roots)
	set(&c.Listen.Control, filepath.Join(c.Data, "control.sock"))
	dur := func(d *Duration, v time.Duration) {
		if *d == 0 {
			*d = Duration(v)
		}
	}
	dur(&c.Identity.SVIDLife, 15*time.Minute)
	dur(&c.Identity.TokenLife, 10*time.Minute)
	dur(&c.Identity.MandateLife, 90*24*time.Hour)
	if c.Identity.ReturnWithin == nil {
		d := Duration(72 * time.Hour)
		c.Identity.ReturnWithin = &d
	}
	dur(&c.Ledger.MaxActionTime, 15*time.Minute)
	dur(&c.Tools.Recheck, time.Minute)
	c.Approvals.defaults()
	if c.Ledger.SegmentSize == 0 {
		c.Ledger.SegmentSize = 64 << 20
	}
	for name, s := range c.Servers {
		set(&s.Zone, "default")
		anchor(&s.Dir)
		anchor(&s.Bearer)
		s.Breaker.defaults()
		c.Servers[name] = s
	}
}

var (
	nameRule  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	trustRule = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
)

// check refuses what cannot work or would widen trust by accident.
func (c *Config) check() error {
	if c.TrustDomain == "" {
		return c.bad("trust_domain", "it is required; write a name of your own, for example example.org")
	}
	if !trustRule.MatchString(c.TrustDomain) {
		return c.bad("trust_domain", "use lower-case letters, digits, dots, dashes and underscores, at most 255; for example example.org")
	}
	for key, v := range map[string]string{"deployment": c.Deployment, "gateway": c.Gateway} {
		if !nameRule.MatchString(v) {
			return c.bad(key, "use lower-case letters, digits and dashes, at most 63")
		}
	}
	if c.Gateway == deploymentLog {
		return c.bad("gateway", "that name belongs to the deployment's own log")
	}
	if err := c.checkListen(); err != nil {
		return err
	}
	if err := c.checkConsole(); err != nil {
		return err
	}
	if err := c.checkApprovals(); err != nil {
		return err
	}
	if err := c.checkOAuth(); err != nil {
		return err
	}
	if err := c.checkStore(); err != nil {
		return err
	}
	type bound struct {
		key       string
		v, lo, hi Duration
	}
	for _, b := range []bound{
		{"identity.svid_life", c.Identity.SVIDLife, Duration(time.Minute), Duration(time.Hour)},
		{"identity.token_life", c.Identity.TokenLife, Duration(10 * time.Second), Duration(10 * time.Minute)},
		{"identity.mandate_life", c.Identity.MandateLife, Duration(time.Minute), Duration(366 * 24 * time.Hour)},
		{"identity.return_within", *c.Identity.ReturnWithin, 0, Duration(30 * 24 * time.Hour)},
		{"ledger.max_action_time", c.Ledger.MaxActionTime, Duration(time.Second), Duration(24 * time.Hour)},
		{"tools.recheck", c.Tools.Recheck, Duration(time.Second), Duration(24 * time.Hour)},
	} {
		if b.v < b.lo || b.v > b.hi {
			return c.bad(b.key, fmt.Sprintf("%v is outside %v to %v", time.Duration(b.v), time.Duration(b.lo), time.Duration(b.hi)))
		}
	}
	if err := c.checkTelemetry(); err != nil {
		return err
	}
	if c.Ledger.SegmentSize < 1<<20 || c.Ledger.SegmentSize > 1<<30 {
		return c.bad("ledger.segment_size", "use 1MiB to 1GiB")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
		if err := c.checkServer(name, c.Servers[name]); err != nil {
			return err
		}
	}
	return c.checkBudgets()
}

func (c *Config) checkListen() error {
	if _, _, err := net.SplitHostPort(c.Listen.Agents); err != nil {
		return c.bad("listen.agents", "write host:port, for example 127.0.0.1:8443")
	}
	if c.Listen.Loopback != "" {
		host, _, err := net.SplitHostPort(c.Listen.Loopback)
		if err != nil {
			return c.bad("listen.loopback", "write host:port, for example 127.0.0.1:8080")
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.Unmap().IsLoopback() {
			return c.bad("listen.loopback", "it must be a loopback address such as 127.0.0.1: tokens travel in the clear here")
		}
	}
	if c.Listen.Health != "" {
		if _, _, err := net.SplitHostPort(c.Listen.Health); err != nil {
			return c.bad("listen.health", "write host:port, for example 127.0.0.1:8081")
		}
	}
	return c.checkOrigins("listen.origins", c.Listen.Origins)
}

func (c *Config) checkOrigins(key string, origins []string) error {
	for _, o := range origins {
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			return c.bad(key, fmt.Sprintf("%q is no origin; write scheme://host[:port]", o))
		}
	}
	return nil
}

func (c *Config) checkServer(name string, s Server) error {
	key := "servers." + name
	if !nameRule.MatchString(name) {
		return c.bad(key, "name servers with lower-case letters, digits and dashes, at most 63")
	}
	if name == policy.GatewayServer {
		return c.bad(key, "that name is the gateway's own")
	}
	if (s.URL == "") == (len(s.Command) == 0) {
		return c.bad(key, "give either url (a remote server) or command (a process to start)")
	}
	if s.URL != "" {
		u, err := url.Parse(s.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Fragment != "" {
			return c.bad(key+".url", "write an http or https URL without user name or fragment")
		}
		if len(s.Env) > 0 || s.Dir != "" || s.Digest != "" {
			return c.bad(key, "env, dir and digest belong to a command, not to a url")
		}
	}
	if err := c.checkOrigins(key+".origins", s.Origins); err != nil {
		return err
	}
	if len(s.Command) > 0 {
		if err := egress.CheckCommand(s.Command); err != nil {
			return c.bad(key+".command", ostiary.AsError(err).Detail)
		}
	}
	if wrong, why := s.Breaker.check(); wrong != "" {
		return c.bad(key+".breaker."+wrong, why)
	}
	if s.Bearer != "" && s.URL == "" {
		return c.bad(key+".bearer_file", "a credential header belongs to a url; give a process its secrets by env")
	}
	if s.Digest != "" {
		if _, err := ostiary.ParseDigest(s.Digest); err != nil {
			return c.bad(key+".digest", "write the SHA-256 of the executable as 64 lower-case hex digits")
		}
	}
	for _, a := range s.AllowAddresses {
		if _, err := netip.ParsePrefix(a); err != nil {
			return c.bad(key+".allow_addresses", fmt.Sprintf("%q is no network; write for example 127.0.0.1/32", a))
		}
	}
	return nil
}

// bad makes the error for one key, with the line it stands on.
func (c *Config) bad(key, remedy string) error {
	where := c.file
	if line := lineOf(c.root, strings.Split(key, ".")); line > 0 {
		where += ":" + strconv.Itoa(line)
	}
	return ostiary.Errorf(ostiary.Malformed, "config", "%s: %s: %s", where, key, remedy).At(key)
}

// lineOf finds the line of the deepest key of the path that is there.
func lineOf(n *yaml.Node, path []string) int {
	if n == nil {
		return 0
	}
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		return lineOf(n.Content[0], path)
	}
	if len(path) > 0 && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == path[0] {
				if deeper := lineOf(n.Content[i+1], path[1:]); len(path) > 1 && deeper > 0 {
					return deeper
				}
				return n.Content[i].Line
			}
		}
	}
	return 0
}

// keysOf returns every key that may stand in the file, from the fields' tags.
func keysOf(t reflect.Type) (keys []string) {
	switch t.Kind() {
	case reflect.Map:
		return keysOf(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if key := f.Tag.Get("yaml"); key != "" {
				keys = append(append(keys, key), keysOf(f.Type)...)
			}
		}
	}
	return keys
}

// nearest returns the word closest to s, "" if none is close.
func nearest(s string, words []string) string {
	best, dist := "", 3
	for _, w := range words {
		if d := distance(s, w); d < dist {
			best, dist = w, d
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			prev, row[j] = row[j], min(row[j]+1, row[j-1]+1, prev+cost)
		}
	}
	return row[len(b)]
}
