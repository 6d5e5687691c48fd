package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/ostiary/ostiary/verify"
)

// ServerCommand is the hidden subcommand that runs the tool server in a
// process of its own: its flags, and how to start it.
type ServerCommand struct {
	HTTP       string   `name:"http" placeholder:"ADDR" help:"Serve streamable HTTP on this loopback address."`
	Stdio      bool     `help:"Serve on stdin and stdout."`
	Family     []string `help:"Offer only these families of tools: bank, inbox, documents, lab."`
	Legacy     bool     `help:"Speak only the MCP revisions before 2026-07-28."`
	Journal    string   `placeholder:"FILE" help:"Append what arrives and what is done to this file, as JSON lines."`
	Trigger    string   `placeholder:"FILE" help:"While this file exists, read_message has another definition."`
	GatewayKey string   `placeholder:"FILE" help:"PEM file of the gateway keys whose signatures are accepted over HTTP."`
	Unguarded  bool     `help:"Over HTTP, accept requests that no gateway signed: anybody on this machine can then call the tools."`
}

// Args is the command line after the subcommand's name.
func (c ServerCommand) Args() []string {
	var args []string
	add := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	add("--http", c.HTTP)
	if c.Stdio {
		args = append(args, "--stdio")
	}
	add("--family", strings.Join(c.Family, ","))
	if c.Legacy {
		args = append(args, "--legacy")
	}
	add("--journal", c.Journal)
	add("--trigger", c.Trigger)
	add("--gateway-key", c.GatewayKey)
	if c.Unguarded {
		args = append(args, "--unguarded")
	}
	return args
}

// Options reads the gateway's keys and returns what [RunServer] needs.
func (c ServerCommand) Options() (ServerOptions, error) {
	o := ServerOptions{HTTP: c.HTTP, Stdio: c.Stdio, Families: c.Family, Legacy: c.Legacy, Journal: c.Journal, Trigger: c.Trigger, Unguarded: c.Unguarded}
	if c.GatewayKey == "" {
		return o, nil
	}
	text, err := os.ReadFile(c.GatewayKey)
	if err != nil {
		return o, fmt.Errorf("reading the gateway's keys: %w", err)
	}
	keys, err := verify.ParseKeys(text)
	if err != nil {
		return o, err
	}
	v, err := verify.New(verify.Options{Keys: keys})
	if err != nil {
		return o, err
	}
	o.Guard = func(h http.Handler) http.Handler { return v.Middleware(h) }
	return o, nil
}

// Run serves until ctx is done or stdin ends.
func (c ServerCommand) Run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	o, err := c.Options()
	if err != nil {
		return err
	}
	return RunServer(ctx, o, stdin, stdout)
}

// stopTime is how long a tool server may take to end by itself.
const stopTime = 5 * time.Second

// Process is a tool server that serves HTTP in a process of its own.
type Process struct {
	URL   string // "http://127.0.0.1:43121", without a path
	stdin io.Closer
	cmd   *exec.Cmd
	stop  context.CancelFunc
}

// Start runs executable with args (which must lead to [ServerCommand.Run]
// with HTTP set) and waits until it listens. The process has an empty
// environment and ends when Stop is called, when ctx is done, or when this
// process ends.
func Start(ctx context.Context, stderr io.Writer, executable string, args ...string) (*Process, error) {
	ctx, stop := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, executable, args...)
	cmd.Env = []string{}
	cmd.Stderr = stderr
	cmd.WaitDelay = stopTime
	p := &Process{cmd: cmd, stop: stop}
	in, err := cmd.StdinPipe()
	if err != nil {
		stop()
		return nil, err
	}
	p.stdin = in
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("starting the tool server: %w", err)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(out, 4096), 4096).ReadBytes('\n')
	var a Announcement
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		return nil, fmt.Errorf("the tool server did not start: %w", errors.Join(err, p.Stop()))
	}
	p.URL = a.Listening
	return p, nil
}

// Stop ends the process and waits for it.
func (p *Process) Stop() error {
	p.stdin.Close() // it ends with its stdin
	late := time.AfterFunc(stopTime, p.stop)
	defer late.Stop()
	err := p.cmd.Wait()
	p.stop()
	return err
}
