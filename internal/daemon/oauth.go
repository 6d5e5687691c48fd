package daemon

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/console"
	"github.com/ostiary/ostiary/internal/control/oauth"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/people"
)

// OAuthConfig sets the authorization server, which stands where people sign in
// and is off without listen.console.
type OAuthConfig struct {
	// Register lets clients that have no metadata document register themselves. Nobody checks what such a client calls
	// itself, which the consent page says, and strangers can fill the store with names. Default: off.
	Register bool `yaml:"register"`
	// AllowAddresses lists private or loopback networks (CIDR) where clients' metadata documents and issuers' keys may
	// be. Any stranger can make the gateway ask there for a document. Default: public addresses only.
	AllowAddresses []string `yaml:"allow_addresses"`
	// Roots is a file of CA certificates, in PEM, that vouch for these documents' hosts in place of the system's.
	Roots string `yaml:"roots_file"`
	// Issuers are identity providers whose word is taken for a person's consent (ID-JAG). Whoever runs one can act as
	// every person who signed in through it, within its scopes.
	Issuers []OAuthIssuer `yaml:"issuers"`
}

// OAuthIssuer is one such provider.
type OAuthIssuer struct {
	// Issuer is its https URL, exactly as it calls itself.
	Issuer string `yaml:"issuer"`
	// Keys is the https address of its key set.
	Keys string `yaml:"keys"`
	// Scopes are the most its assertions give: server:<name>. Default: connecting and nothing else.
	Scopes []string `yaml:"scopes"`
}

// maxRoots bounds the file of CA certificates.
const maxRoots = 1 << 20

func (c *Config) checkOAuth() error {
	o := &c.OAuth
	if c.Listen.Console == "" {
		if o.Register || o.Roots != "" || len(o.AllowAddresses)+len(o.Issuers) > 0 {
			return c.bad("oauth", "clients sign in on listen.console, which is off")
		}
		return nil
	}
	if _, err := egress.NewFetcher(o.AllowAddresses, nil); err != nil {
		return c.bad("oauth.allow_addresses", ostiary.AsError(err).Detail)
	}
	for _, i := range o.Issuers {
		for key, s := range map[string]string{"issuer": i.Issuer, "keys": i.Keys} {
			if u, err := egress.ParseURL(s); err != nil || u.Scheme != "https" {
				return c.bad("oauth.issuers."+key, "write an https address")
			}
		}
		for _, scope := range i.Scopes {
			if name, ok := strings.CutPrefix(scope, ostiary.ScopeOf("")); !ok || c.Servers[name].URL == "" && c.Servers[name].Command == nil {
				return c.bad("oauth.issuers.scopes", "write server: and the name of a configured server")
			}
		}
	}
	return nil
}

// signIn is the issuer of tokens and where clients are sent, "" if nobody can
// sign in.
func (d *Daemon) signIn() string {
	if d.pages.listener == nil {
		return ""
	}
	return d.consoleURL()
}

// openOAuth builds the authorization server.
func (d *Daemon) openOAuth(context.Context) error {
	if d.pages.listener == nil {
		return nil
	}
	roots, err := d.cfg.oauthRoots()
	if err != nil {
		return err
	}
	fetch, err := egress.NewFetcher(d.cfg.OAuth.AllowAddresses, roots)
	if err != nil {
		return err
	}
	o := oauth.Options{
		URL: d.consoleURL(), Agents: d.publicURL(), Authority: d.authority, Records: d.store, Resources: resources{d}, Fetch: fetch, Persons: persons{d},
		Register: d.cfg.OAuth.Register, Refused: d.stranger, Pace: d.pages.pace, Clock: d.clock, Logger: d.log,
	}
	for _, i := range d.cfg.OAuth.Issuers {
		o.Issuers = append(o.Issuers, oauth.Issuer{URL: i.Issuer, Keys: i.Keys, Scopes: i.Scopes})
	}
	d.oauth, err = oauth.New(o)
	return err
}

func (c *Config) oauthRoots() (*x509.CertPool, error) {
	if c.OAuth.Roots == "" {
		return nil, nil
	}
	f, err := os.Open(c.OAuth.Roots)
	if err != nil {
		return nil, c.bad("oauth.roots_file", err.Error())
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRoots))
	if err != nil {
		return nil, c.bad("oauth.roots_file", err.Error())
	}
	certs, err := identity.ReadBundle(text)
	if err != nil {
		return nil, c.bad("oauth.roots_file", err.Error())
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// withOAuth puts the authorization server beside the console's pages. It
// answers to the console's own name alone.
func (d *Daemon) withOAuth(pages http.Handler) http.Handler {
	u, err := url.Parse(d.consoleURL())
	people, _ := d.oauth.Paths()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !slices.Contains(people, r.URL.Path):
			pages.ServeHTTP(w, r)
		case err != nil || !strings.EqualFold(r.Host, u.Host):
			w.WriteHeader(http.StatusMisdirectedRequest)
		default:
			d.oauth.ServeHTTP(w, r)
		}
	})
}

// forAgents answers what the authorization server serves where certificates
// are shown, and reports whether it did.
func (d *Daemon) forAgents(w http.ResponseWriter, r *http.Request) bool {
	if d.oauth == nil {
		return false
	}
	if _, agents := d.oauth.Paths(); !slices.Contains(agents, r.URL.Path) {
		return false
	}
	d.oauth.ServeHTTP(w, r)
	return true
}

// SignIn returns the authorization server, for a program that runs the gateway
// inside itself; nil without listen.console.
func (d *Daemon) SignIn() *oauth.Server { return d.oauth }

// consents shows the console the questions of clients.
type consents struct{ *oauth.Server }

// Pending implements [console.Consents].
func (c consents) Pending(ctx context.Context, id string) (console.Ask, error) {
	a, err := c.Server.Pending(ctx, id)
	return console.Ask(a), err
}

// resources finds endpoints by any name clients reach them under.
type resources struct{ d *Daemon }

// Resource implements [oauth.Resources].
func (r resources) Resource(uri string) (oauth.Resource, bool) {
	d := r.d
	for _, base := range d.bases() {
		path, ok := strings.CutPrefix(uri, base)
		if !ok {
			continue
		}
		servers := d.config().serverNames()
		if path == "" || path == "/mcp" {
			return oauth.Resource{Audience: d.Endpoint(), Servers: servers}, true
		}
		if name, ok := strings.CutPrefix(path, "/mcp/"); ok && slices.Contains(servers, name) {
			return oauth.Resource{Audience: d.Endpoint() + "/" + name, Server: name, Servers: []string{name}}, true
		}
	}
	return oauth.Resource{}, false
}

// bases are the schemes and hosts under which agents reach the doors.
func (d *Daemon) bases() (all []string) {
	all = append(all, d.publicURL())
	for scheme, l := range map[string]net.Listener{"https://": d.agents, "http://": d.loopback} {
		if l == nil {
			continue
		}
		for _, h := range hosts(l.Addr(), d.cfg.Listen.Names) {
			all = append(all, scheme+strings.ToLower(h))
		}
	}
	return all
}

// persons finds who somebody at an issuer is here.
type persons struct{ d *Daemon }

// PersonAt implements [oauth.Persons].
func (p persons) PersonAt(ctx context.Context, issuer, subject string) (ostiary.PrincipalID, error) {
	one, err := p.d.pages.people.PersonAt(ctx, people.Link{Issuer: issuer, Subject: subject})
	return one.ID, err
}
