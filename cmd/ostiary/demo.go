package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
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

	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/demo"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/identity"
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
	if err := s.story(e, colour(e.stdout)).Run(e.ctx); err != nil || c.Once {
		return err
	}
	if err := s.invite(e); err != nil {
		return err
	}
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
	s.config = s.path("ostiary.yaml")
	text := demo.Config(demo.Setting{
		Data: s.path("data"), Policy: s.path("policy"), Agents: "127.0.0.1:0", Loopback: loopback,
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

// join enrols the agent as any agent is: a one-time token, a key of its own,
// a certificate for minutes.
func (s *stage) join(e *env) error {
	authority := s.daemon.Authority()
	id, err := authority.AgentID(demo.AgentName)
	if err != nil {
		return err
	}
	secret, _, err := authority.MintJoinToken(e.ctx, identity.JoinToken{Agent: id, Principal: "person:dana", Owner: "person:dana"}, 0)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	chain, _, err := authority.Enrol(e.ctx, string(secret.Reveal()), csr)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.Bundle())
	s.agent, err = egress.NewClient(s.daemon.Endpoint(), &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
	})
	if err != nil {
		return err
	}
	s.plain, err = egress.NewClient(s.tools.URL, nil)
	return err
}

func (s *stage) story(e *env, colour bool) *demo.Story {
	return &demo.Story{
		Endpoint: s.daemon.Endpoint(), Agent: s.agent, AgentName: "assistant", Plain: s.plain, Tools: s.tools.URL,
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
	self := "go run ./cmd/ostiary" // what was built for this run alone is gone afterwards
	if exe, err := os.Executable(); err == nil && !strings.Contains(exe, "go-build") {
		self = exe
	}
	return demo.Invite(e.stdout, demo.Invitation{
		Endpoint: "http://" + s.cfg.Listen.Loopback + "/mcp", Token: t.Token, Expires: t.Expires.Local().Format(time.TimeOnly),
		Bridge: []string{self, "connect", "--gateway", strings.TrimSuffix(s.daemon.Endpoint(), "/mcp"), "--join", "@" + s.path("yours.join")},
		Config: s.config, Program: self,
	})
}
