package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/console"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// ConsoleConfig says how people reach the console.
type ConsoleConfig struct {
	// URL is what people write into their browser: scheme, host and port, no path. Passkeys are made for it and work
	// nowhere else, so it should not change. Default: http://localhost with the port of listen.console.
	URL string `yaml:"url"`
	// Certificate is the file of the TLS certificate of the URL's host with its chain, in PEM. Needed, with Key, for
	// every address that is not this machine's own. A file that is replaced is taken up by itself.
	Certificate string `yaml:"certificate"`
	// Key is the file of the certificate's private key, in PEM, readable by its owner alone.
	Key string `yaml:"key"`
}

// SignInConfig says how people sign in beside passkeys.
type SignInConfig struct {
	OIDC OIDCConfig `yaml:"oidc"`
}

// OIDCConfig names one OpenID provider. Whoever runs it can sign in as every
// person it admits.
type OIDCConfig struct {
	// Issuer is the provider's https URL, exactly as it calls itself. Default: no provider.
	Issuer string `yaml:"issuer"`
	// ClientID is what the provider knows this installation by. Register <console.url>/sign-in/callback there.
	ClientID string `yaml:"client_id"`
	// ClientSecret is the file that holds the client's secret, readable by its owner alone.
	ClientSecret string `yaml:"client_secret_file"`
	// Hosts are further host[:port] where the provider takes codes and publishes keys. Default: the issuer's only.
	Hosts []string `yaml:"hosts"`
	// Domains admits whoever has a verified e-mail address in a domain, with these roles: operator, approver, auditor,
	// or none: {example.org: []}. Whoever can get such an address verified at the provider gets in.
	Domains map[string][]string `yaml:"domains"`
	// Groups admits the members of a group, with these roles. Whoever matches several has all their roles.
	Groups map[string][]string `yaml:"groups"`
	// GroupsClaim is the member of the ID token that lists groups. Default "groups".
	GroupsClaim string `yaml:"groups_claim"`
}

const (
	// consoleHeadTime and consoleReadTime bound how long a request of a browser
	// may take to come, its head and all of it; consoleWriteTime its answer,
	// where the page sets nothing narrower; consoleIdleTime a silent connection.
	consoleHeadTime  = 10 * time.Second
	consoleReadTime  = 30 * time.Second
	consoleWriteTime = time.Minute
	consoleIdleTime  = 2 * time.Minute
	// consoleHeader bounds a request's head: a cookie and what browsers say.
	consoleHeader = 32 << 10
	// maxSecretFile bounds a file that holds one secret: a line.
	maxSecretFile = 8 << 10
	// sweepEvery is how often what has expired is removed from the store.
	sweepEvery = 10 * time.Minute
	// certificateSoon is when a certificate of the console should have been
	// renewed.
	certificateSoon = 14 * 24 * time.Hour
)

func (c *Config) checkConsole() error {
	if c.Listen.Console == "" {
		switch {
		case c.Console != (ConsoleConfig{}):
			return c.bad("console", "it is for listen.console, which is off")
		case c.SignIn.OIDC.Issuer != "":
			return c.bad("signin.oidc", "people sign in on listen.console, which is off")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.Listen.Console)
	if err != nil {
		return c.bad("listen.console", "write host:port, for example 127.0.0.1:8090")
	}
	if (c.Console.Certificate == "") != (c.Console.Key == "") {
		return c.bad("console", "certificate and key belong together")
	}
	secure := c.Console.Certificate != ""
	if a, err := netip.ParseAddr(host); !secure && (err != nil || !a.Unmap().IsLoopback()) {
		return c.bad("listen.console", "without console.certificate it must be a loopback address such as 127.0.0.1: sessions travel in the clear here")
	}
	if c.Console.URL == "" {
		if secure {
			return c.bad("console.url", "it is required with a certificate; write for example https://ostiary.example.org")
		}
		return c.checkOIDC()
	}
	u, err := url.Parse(c.Console.URL)
	switch {
	case err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Host != strings.ToLower(u.Host):
		return c.bad("console.url", "write scheme, host and port alone, for example https://ostiary.example.org")
	case secure && u.Scheme != "https":
		return c.bad("console.url", "with a certificate it begins with https://")
	case !secure && (u.Scheme != "http" || u.Hostname() != "localhost"):
		return c.bad("console.url", "without console.certificate it is http://localhost with a port: browsers make passkeys there and for https alone")
	}
	return c.checkOIDC()
}

func (c *Config) checkOIDC() error {
	o := &c.SignIn.OIDC
	if o.Issuer == "" {
		if o.ClientID != "" || o.ClientSecret != "" || len(o.Hosts)+len(o.Domains)+len(o.Groups) > 0 {
			return c.bad("signin.oidc.issuer", "it is required")
		}
		return nil
	}
	if o.ClientSecret == "" {
		return c.bad("signin.oidc.client_secret_file", "it is required")
	}
	for key, m := range map[string]map[string][]string{"domains": o.Domains, "groups": o.Groups} {
		for name, roles := range m {
			if _, err := people.ParseRoles(roles); err != nil {
				return c.bad("signin.oidc."+key+"."+name, ostiary.AsError(err).Detail)
			}
			if key == "domains" && (name != strings.ToLower(name) || strings.ContainsAny(name, "@/ ")) {
				return c.bad("signin.oidc.domains."+name, "write a domain in lower case, for example example.org")
			}
		}
	}
	_, err := people.NewProvider(c.provider(ostiary.NewSecret([]byte("-")), nil))
	if err != nil {
		return c.bad("signin.oidc."+ostiary.AsError(err).Field, ostiary.AsError(err).Detail)
	}
	return nil
}

// provider is the OpenID provider as people knows it.
func (c *Config) provider(secret ostiary.Secret, clock func() time.Time) people.ProviderOptions {
	o := c.SignIn.OIDC
	out := people.ProviderOptions{
		Issuer: o.Issuer, ClientID: o.ClientID, Secret: secret, Hosts: o.Hosts, GroupsClaim: o.GroupsClaim, Clock: clock,
		Domains: map[string][]people.Role{}, Groups: map[string][]people.Role{},
		Client: func(base string) (*http.Client, error) { return egress.NewClient(base, nil) },
	}
	for name, words := range o.Domains {
		out.Domains[name], _ = people.ParseRoles(words) // checkOIDC did
	}
	for name, words := range o.Groups {
		out.Groups[name], _ = people.ParseRoles(words)
	}
	return out
}

// readSecret reads a file that holds one secret and that nobody else may read.
func (c *Config) readSecret(key, path string) (ostiary.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return ostiary.Secret{}, c.bad(key, err.Error())
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ostiary.Secret{}, c.bad(key, err.Error())
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return ostiary.Secret{}, c.bad(key, "only its owner may read it: chmod 600")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	text := strings.TrimSpace(string(b))
	if err != nil || len(b) > maxSecretFile || text == "" || strings.ContainsAny(text, "\r\n") {
		return ostiary.Secret{}, c.bad(key, "it must hold one line")
	}
	return ostiary.NewSecret([]byte(text)), nil
}

// listenConsole opens the address of the console, if there is one.
func (d *Daemon) listenConsole() (err error) {
	if d.cfg.Listen.Console == "" {
		return nil
	}
	if d.pages.listener, err = net.Listen("tcp", d.cfg.Listen.Console); err != nil {
		return d.cfg.bad("listen.console", err.Error())
	}
	d.onClose(d.pages.listener.Close)
	return nil
}

// pages is the console with what it stands on. The zero pages is off.
type pages struct {
	listener    net.Listener
	certificate *certificate // nil on this machine's own addresses
	people      *people.People
	pace        *stricthttp.Pace // of strangers, to the pages and to the authorization server together
	watch       *console.Watch
	console     *console.Console
	handler     http.Handler
}

// consoleURL is the console's origin.
func (d *Daemon) consoleURL() string {
	if d.cfg.Console.URL != "" {
		return d.cfg.Console.URL
	}
	_, port, _ := net.SplitHostPort(d.pages.listener.Addr().String())
	return "http://" + net.JoinHostPort("localhost", port)
}

// openPeople opens who may sign in.
func (d *Daemon) openPeople(context.Context) error {
	if d.pages.listener == nil {
		return nil
	}
	d.pages.pace = stricthttp.NewPace(d.clock)
	seal, err := d.ring.AEAD("people")
	if err != nil {
		return err
	}
	o := people.Options{
		Records: d.store, Seal: seal, Origin: d.consoleURL(), Name: "Ostiary " + d.cfg.Deployment, Clock: d.clock,
		Record:   control.RecordPerson(d.journal.deployment, d.authority.Self().Agent, d.clock),
		EndGiven: endGiven(d.authority, d.clock),
	}
	if c := d.cfg.SignIn.OIDC; c.Issuer != "" {
		secret, err := d.cfg.readSecret("signin.oidc.client_secret_file", c.ClientSecret)
		if err != nil {
			return err
		}
		if o.Provider, err = people.NewProvider(d.cfg.provider(secret, d.clock)); err != nil {
			return err
		}
	}
	d.pages.people, err = people.New(o)
	return err
}

// openConsole builds the pages.
func (d *Daemon) openConsole(context.Context) (err error) {
	if d.pages.listener == nil {
		return nil
	}
	if d.cfg.Console.Certificate != "" {
		if d.pages.certificate, err = openCertificate(d.cfg.Console.Certificate, d.cfg.Console.Key, d.log); err != nil {
			return d.cfg.bad("console.certificate", err.Error())
		}
	}
	var held console.Approvals
	if d.approvals != nil {
		held = &control.Desk{Approvals: d.approvals, People: d.pages.people, Clock: d.clock}
	}
	d.pages.console, err = console.New(console.Options{
		Approvals: held, Budgets: purses{d.control}, People: d.pages.people, Consents: consents{d.oauth}, Mandates: given{d.authority, d.control}, Desk: d.control, Watch: d.pages.watch, Tools: d.choices, Refused: d.stranger, Pace: d.pages.pace, Clock: d.clock, Logger: d.log,
	})
	if err == nil {
		d.pages.handler = d.withOAuth(d.pages.console)
	}
	return err
}

// choices are the accepted tools, which a person can put into a mandate.
func (d *Daemon) choices() (all []console.Tool) {
	for _, t := range d.book.Tools() {
		if t.Kind == catalog.KindTool && t.State == ostiary.ToolPinned {
			all = append(all, console.Tool{Server: t.Server, Action: t.Action(), ReadOnly: t.ReadOnly})
		}
	}
	return all
}

// consoleServer serves the pages over HTTP/1.1, behind the strict front.
func (d *Daemon) consoleServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &http.Server{
		Handler: d.pages.handler, Protocols: protocols, ReadHeaderTimeout: consoleHeadTime, ReadTimeout: consoleReadTime, WriteTimeout: consoleWriteTime,
		IdleTimeout: consoleIdleTime, MaxHeaderBytes: consoleHeader, DisableGeneralOptionsHandler: true,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	s.RegisterOnShutdown(d.pages.console.Close)
	return s
}

// consoleListener is where it listens: over TLS if there is a certificate, and
// only for requests that can be read in one way.
func (d *Daemon) consoleListener(crowd *stricthttp.Crowd, front stricthttp.Limits) net.Listener {
	l := crowd.Listen(d.pages.listener)
	if d.pages.certificate != nil {
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, GetCertificate: d.pages.certificate.get})
	}
	return stricthttp.NewListener(l, front)
}

// FirstOperator returns the one-time link that enrols the first operator, and
// until when it works: "" if there is an operator, or no console.
func (d *Daemon) FirstOperator(ctx context.Context) (link string, until time.Time, err error) {
	if d.pages.people == nil {
		return "", time.Time{}, nil
	}
	secret, in, err := d.pages.people.InviteFirst(ctx)
	if err != nil || secret.IsZero() {
		return "", time.Time{}, err
	}
	return d.pages.people.Link(secret), in.Expires, nil
}

// sweep removes from the store what has expired, until ctx ends.
func (d *Daemon) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if _, err := d.store.SweepRecords(ctx, d.clock()); err != nil && ctx.Err() == nil {
			d.log.Warn("what has expired could not be removed; it has ended all the same", "error", err)
		}
		if _, err := d.store.SweepBudgets(ctx, d.clock().Add(-keptAccounts)); err != nil && ctx.Err() == nil {
			d.log.Warn("accounts of budgets that are long over could not be removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// certificate is a key pair that is read again when its file is replaced.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex // guards what follows
	pair   *tls.Certificate
	read   time.Time // the file's time when it was
	looked time.Time
}

// lookAgain is how often a handshake looks for a replaced certificate.
const lookAgain = 10 * time.Second

func openCertificate(cert, key string, log *slog.Logger) (*certificate, error) {
	c := &certificate{cert: cert, key: key, log: log}
	return c, c.load()
}

// load reads the pair; c.mu must be held, or c be nobody else's yet.
func (c *certificate) load() error {
	for _, f := range []string{c.cert, c.key} {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		if f == c.key && info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("others may read %s: chmod 600", f)
		}
		if f == c.cert {
			c.read = info.ModTime()
		}
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
		return err
	}
	c.pair = &pair
	return nil
}

// get is asked at each handshake. A new pair that cannot be read leaves the
// old one in place.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= lookAgain {
		c.looked = now
		if info, err := os.Stat(c.cert); err == nil && !info.ModTime().Equal(c.read) {
			if err := c.load(); err != nil {
				c.log.Error("the console's new certificate cannot be used; the old one stays", "error", err)
			}
		}
	}
	if c.pair == nil {
		return nil, errors.New("there is no certificate")
	}
	return c.pair, nil
}

// console checks the files of the console, from outside.
func (c *checkup) console(cfg *Config) {
	if cfg.Console.Certificate == "" {
		return
	}
	pair, err := openCertificate(cfg.Console.Certificate, cfg.Console.Key, slog.New(slog.DiscardHandler))
	u, perr := url.Parse(cfg.Console.URL)
	switch {
	case err != nil || perr != nil:
		c.fail("console certificate", "put the certificate and its key where console.certificate and console.key say", "%v", errors.Join(err, perr))
	case time.Until(pair.pair.Leaf.NotAfter) <= 0:
		c.fail("console certificate", "replace the file; a running gateway takes it up", "it ended on %s", pair.pair.Leaf.NotAfter.Format(time.DateOnly))
	case pair.pair.Leaf.VerifyHostname(u.Hostname()) != nil:
		c.fail("console certificate", "use one for the host of console.url", "it is not for %s", u.Hostname())
	case time.Until(pair.pair.Leaf.NotAfter) < certificateSoon:
		c.warn("console certificate", "replace the file; a running gateway takes it up", "it ends on %s", pair.pair.Leaf.NotAfter.Format(time.DateOnly))
	default:
		c.ok("console certificate", "good until %s", pair.pair.Leaf.NotAfter.Format(time.DateOnly))
	}
}

// signIn checks that people can sign in, from inside.
func (c *checkup) signIn(ctx context.Context, d *Daemon) {
	if d.pages.people == nil {
		return
	}
	switch has, err := d.pages.people.HasOperator(ctx); {
	case err != nil:
		c.fail("operators", "look into the gateway's log", "%v", err)
	case !has:
		c.warn("operators", "ostiary person invite NAME --role operator", "nobody is an operator on %s yet", d.consoleURL())
	default:
		c.ok("operators", "sign in at %s", d.consoleURL())
	}
	if d.pages.people.Provider() == "" {
		return
	}
	if err := d.pages.people.Ready(ctx); err != nil {
		c.fail("sign-in provider", "correct signin.oidc, or ask whoever runs it; passkeys work all the same", "%v", err)
		return
	}
	c.ok("sign-in provider", "%s answers", d.pages.people.Provider())
}
