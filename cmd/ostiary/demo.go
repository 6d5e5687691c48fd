package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/demo"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

type demoServerCmd struct{ demo.ServerCommand }

func (c *demoServerCmd) Run(e *env) error {
	return c.ServerCommand.Run(e.ctx, e.stdin, e.stdout)
}

type demoCmd struct {
	Once bool   `help:"End after the story; status 0 only if every step came out as told."`
	Keep string `placeholder:"DIR" help:"Keep everything in this empty folder instead of a temporary one."`
	Logs bool   `help:"Also print the gateway's own log."`
}

// Run builds a stage in a folder, tells the story on it, and stays up.
func (c *demoCmd) Run(e *env) (err error) {
	dir := c.Keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "ostiary-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if left, _ := os.ReadDir(dir); len(left) > 0 {
		return fmt.Errorf("%s is not empty; name an empty folder", dir)
	}
	s, err := c.stage(e, absolute(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	story := s.story(e, colour(e.stdout))
	if err := story.Run(e.ctx); err != nil || c.Once {
		return err
	}
	if err := s.invite(e); err != nil {
		return err
	}
	day, stop := context.WithCancel(e.ctx)
	over := make(chan error, 1)
	go func() { over <- story.GoOn(day) }()
	defer func() {
		stop()
		if gone := <-over; gone != nil && err == nil {
			fmt.Fprintln(e.stderr, "the agent's day ended early:", gone)
		}
	}()
	select {
	case <-e.ctx.Done():
		return nil
	case err := <-s.ended:
		return err
	}
}

// colour says whether w is a terminal that wants colours.
func colour(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// stage is a gateway with its tool servers and an agent, all real.
type stage struct {
	dir     string
	tools   *demo.Process
	daemon  *daemon.Daemon
	config  string
	cfg     *daemon.Config
	agent   *http.Client
	helper  *http.Client
	mandate ostiary.MandateID // of the agent
	plain   *http.Client
	cancel  context.CancelFunc
	ended   chan error
	journal []string
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) stop() error {
	var all []error
	if s.cancel != nil {
		s.cancel()
		all = append(all, <-s.ended)
	}
	if s.tools != nil {
		all = append(all, s.tools.Stop())
	}
	return errors.Join(all...)
}

func (c *demoCmd) stage(e *env, dir string) (_ *stage, err error) {
	s := &stage{dir: dir, ended: make(chan error, 1)}
	s.journal = []string{s.path("tools.journal"), s.path("documents.journal")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.startTools(e); err != nil {
		return nil, err
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	if c.Logs {
		log = slog.New(slog.NewTextHandler(e.stderr, nil))
	}
	if err := s.startGateway(e.ctx, log); err != nil {
		return nil, err
	}
	return s, s.join(e)
}

func (s *stage) startTools(e *env) error {
	key, err := daemon.RequestKey(s.path("data"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path("gateway-key.pem"), key, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := demo.ServerCommand{
		HTTP: "127.0.0.1:0", Family: []string{demo.Bank, demo.Inbox}, Journal: s.journal[0],
		Trigger: s.path("change-read_message"), GatewayKey: s.path("gateway-key.pem"),
	}
	// The demo outlives its own interruption for as long as it takes to close.
	s.tools, err = demo.Start(context.WithoutCancel(e.ctx), e.stderr, self, append([]string{"demo-server"}, server.Args()...)...)
	return err
}

// write writes policies and configuration, and reads the latter back.
func (s *stage) write() error {
	if err := os.MkdirAll(s.path("policy"), 0o755); err != nil {
		return err
	}
	for name, text := range demo.Policy() {
		if err := os.WriteFile(filepath.Join(s.path("policy"), name), text, 0o644); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	loopback, err := freePort()
	if err != nil {
		return err
	}
	console, err := freePort()
	if err != nil {
		return err
	}
	s.config = s.path("ostiary.yaml")
	text := demo.Config(demo.Setting{
		Data: s.path("data"), Policy: s.path("policy"), Agents: "127.0.0.1:0", Loopback: loopback, Console: console,
		Tools: s.tools.URL, Executable: self, Command: "demo-server", Journal: s.journal[1],
	})
	if err := os.WriteFile(s.config, text, 0o600); err != nil {
		return err
	}
	s.cfg, err = daemon.ReadConfig(s.config)
	return err
}

// freePort asks the system for a loopback port, so that the address in the
// configuration is one that people can use.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *stage) startGateway(ctx context.Context, log *slog.Logger) (err error) {
	if s.daemon, err = daemon.Open(ctx, s.cfg, log); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go func() { s.ended <- s.daemon.Run(run) }()
	for server := range s.cfg.Servers {
		if _, err := s.daemon.Control().Discover(ctx, server); err != nil {
			return fmt.Errorf("reading what %s offers: %w", server, err)
		}
		if _, _, err := s.daemon.Control().Accept(ctx, server, "", "demo"); err != nil {
			return fmt.Errorf("accepting what %s offers: %w", server, err)
		}
	}
	return nil
}

// join enrols the agent and its helper as any agent is: a one-time token, a key
// of its own, a certificate for minutes. The agent's person gives it a mandate.
func (s *stage) join(e *env) error {
	authority := s.daemon.Authority()
	own, err := s.enrol(e.ctx, demo.AgentName)
	if err != nil {
		return err
	}
	if s.helper, err = s.enrol(e.ctx, demo.HelperName); err != nil {
		return err
	}
	terms, err := identity.ParseTerms(demo.Mandate())
	if err != nil {
		return err
	}
	m := terms.Mandate(time.Now())
	m.Kind = ostiary.TaskMandate
	if m.Agent, err = authority.AgentID(demo.AgentName); err != nil {
		return err
	}
	if m, err = authority.IssueMandate(e.ctx, "person:dana", m); err != nil {
		return err
	}
	s.mandate, s.agent = m.ID, under(own, m.ID)
	s.plain, err = egress.NewClient(s.tools.URL, nil)
	return err
}

// enrol returns a client with an agent's certificate.
func (s *stage) enrol(ctx context.Context, name string) (*http.Client, error) {
	authority := s.daemon.Authority()
	id, err := authority.AgentID(name)
	if err != nil {
		return nil, err
	}
	secret, _, err := authority.MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:dana", Owner: "person:dana"}, 0)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := authority.Enrol(ctx, string(secret.Reveal()), csr)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.Bundle())
	return egress.NewClient(s.daemon.Endpoint(), &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
	})
}

// naming names the mandate that an agent acts under on each of its requests.
type naming struct {
	next    http.RoundTripper
	mandate ostiary.MandateID
}

func (n naming) RoundTrip(r *http.Request) (*http.Response, error) {
	named := *r
	named.Header = r.Header.Clone()
	named.Header.Set(mcpwire.HeaderMandate, string(n.mandate))
	return n.next.RoundTrip(&named)
}

func under(c *http.Client, m ostiary.MandateID) *http.Client {
	named := *c
	named.Transport = naming{c.Transport, m}
	return &named
}

// derive asks as the agent for a part of its mandate.
func (s *stage) derive(ctx context.Context, terms string) (string, error) {
	body := `{"under":"` + string(s.mandate) + `","terms":` + terms + `}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(s.daemon.Endpoint(), "/mcp")+identity.DerivePath, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", mcpwire.ContentTypeJSON)
	resp, err := s.agent.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	var out struct {
		Mandate string
		Error   struct{ Detail string }
	}
	if err := json.Unmarshal(b, &out); err != nil || out.Mandate == "" && out.Error.Detail == "" {
		return "", fmt.Errorf("the gateway answered %s", resp.Status)
	}
	if out.Mandate == "" {
		return "", errors.New(out.Error.Detail)
	}
	return out.Mandate, nil
}

func (s *stage) story(e *env, colour bool) *demo.Story {
	return &demo.Story{
		Endpoint: s.daemon.Endpoint(), Agent: s.agent, AgentName: "assistant", Derive: s.derive,
		Helper: func(m string) *http.Client { return under(s.helper, ostiary.MandateID(m)) }, Plain: s.plain, Tools: s.tools.URL,
		Journals: s.journal, Trigger: s.path("change-read_message"), Out: e.stdout, Colour: colour,
		Ask: func(ctx context.Context, method, path string, q url.Values, in, out any) error {
			inner := &env{ctx, e.stdin, io.Discard, io.Discard, &cli{Socket: s.cfg.Listen.Control}}
			return inner.ask(method, path, q, in, out)
		},
		Log: filepath.Join(s.path("data"), "log", "gw1"), Verify: verifyCopy,
	}
}

func (s *stage) invite(e *env) error {
	inner := &env{e.ctx, e.stdin, e.stdout, e.stderr, &cli{Socket: s.cfg.Listen.Control}}
	var t control.Token
	if err := inner.ask(http.MethodPost, "/v1/tokens", nil, control.TokenRequest{Agent: demo.AgentName}, &t); err != nil {
		return err
	}
	var j control.Join
	if err := inner.ask(http.MethodPost, "/v1/agents/join", nil, control.AgentRequest{Name: "yours", Principal: "person:you"}, &j); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("yours.join"), []byte(j.Secret+"\n"), 0o600); err != nil {
		return err
	}
	link, _, err := s.daemon.FirstOperator(e.ctx)
	if err != nil {
		return err
	}
	self := "go run ./cmd/ostiary" // what was built for this run alone is gone afterwards
	if exe, err := os.Executable(); err == nil && !strings.Contains(exe, "go-build") {
		self = exe
	}
	return demo.Invite(e.stdout, demo.Invitation{
		Endpoint: "http://" + s.cfg.Listen.Loopback + "/mcp", Console: link, Token: t.Token, Expires: t.Expires.Local().Format(time.TimeOnly),
		Bridge: []string{self, "connect", "--gateway", strings.TrimSuffix(s.daemon.Endpoint(), "/mcp"), "--join", "@" + s.path("yours.join")},
		Config: s.config, Program: self,
	})
}
