package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/bridge"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/egress"
)

type connectCmd struct {
	Gateway     string `placeholder:"URL" help:"The gateway, for example https://127.0.0.1:8443; needed the first time."`
	Join        string `placeholder:"@FILE" help:"File with the one-time join token, needed the first time; or set OSTIARY_JOIN. The token itself is refused here: arguments stand in the process list."`
	State       string `placeholder:"DIR" help:"Where the key and the certificate are kept (~/.ostiary/connect)."`
	Server      string `placeholder:"NAME" help:"Speak to this server only, with its own tool names, instead of all of them."`
	Mandate     string `placeholder:"ID" help:"Act under this mandate instead of the agent's standing one."`
	Listen      string `placeholder:"ADDR" help:"Serve clients over HTTP on this loopback address instead of stdin and stdout. Whoever can connect is the agent."`
	PrintConfig bool   `help:"Enrol if needed, print what to paste into a client's configuration, and end."`
	Debug       bool   `help:"Log more, on stderr."`
}

func (c *connectCmd) Run(e *env) error {
	if err := daemon.CheckEnvironment(); err != nil {
		return err
	}
	if err := c.complete(); err != nil {
		return err
	}
	level := slog.LevelWarn
	if c.Debug {
		level = slog.LevelDebug
	}
	b, err := bridge.Open(e.ctx, bridge.Options{
		Gateway: strings.TrimSuffix(c.Gateway, "/"), Dir: c.State, Join: c.Join, Mandate: ostiary.MandateID(c.Mandate), Dial: egress.NewClient,
		Log: slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	endpoint := "/mcp"
	if c.Server != "" {
		endpoint += "/" + c.Server
	}
	switch {
	case c.PrintConfig:
		return c.printConfig(e, endpoint)
	case c.Listen != "":
		err = c.serve(e, b, endpoint)
	default:
		err = b.Stdio(e.ctx, endpoint, e.stdin, e.stdout)
	}
	if errors.Is(err, context.Canceled) && e.ctx.Err() != nil {
		return nil // stopped, as it was told
	}
	return err
}

// complete reads what the flags point to.
func (c *connectCmd) complete() error {
	file, isFile := strings.CutPrefix(c.Join, "@")
	switch {
	case isFile:
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--join: %w", err)
		}
		c.Join = strings.TrimSpace(string(b))
	case c.Join != "":
		return ostiary.Errorf(ostiary.Malformed, "join", "--join: write @FILE, or set OSTIARY_JOIN; a token in an argument stands in the process list")
	default:
		c.Join = strings.TrimSpace(os.Getenv("OSTIARY_JOIN"))
	}
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return err
		}
	}
	c.State = absolute(c.State)
	if c.Listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if a, aerr := netip.ParseAddr(host); err != nil || aerr != nil || !a.Unmap().IsLoopback() {
		return ostiary.Errorf(ostiary.Malformed, "listen", "--listen: write a loopback address and a port, for example 127.0.0.1:7777")
	}
	return nil
}

// defaultState is where an agent's key and certificate are kept.
func defaultState() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("--state is needed: %w", err)
	}
	return filepath.Join(home, ".ostiary", "connect"), nil
}

func (c *connectCmd) printConfig(e *env, endpoint string) error {
	if c.Listen != "" {
		_, err := fmt.Fprintf(e.stdout, "%s\n", bridge.HTTPSnippet(c.Listen, endpoint))
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"connect", "--state", c.State}
	if c.Server != "" {
		args = append(args, "--server", c.Server)
	}
	if c.Mandate != "" {
		args = append(args, "--mandate", c.Mandate)
	}
	_, err = fmt.Fprintf(e.stdout, "%s\n", bridge.StdioSnippet(self, args...))
	return err
}

func (c *connectCmd) serve(e *env, b *bridge.Bridge, endpoint string) error {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "%s is served on http://%s%s until Ctrl-C; its certificate renews by itself. In a client's configuration:\n%s\n", b.Agent(), l.Addr(), endpoint, bridge.HTTPSnippet(l.Addr().String(), endpoint))
	return b.Loopback(e.ctx, l)
}
