package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/ostiary/ostiary/internal/daemon"
)

type serveCmd struct {
	Check bool `help:"Check the configuration and end."`
	Debug bool `help:"Log more."`
}

func (c *serveCmd) Run(e *env) error {
	cfg, err := daemon.ReadConfig(e.cli.Config)
	if err != nil {
		return err
	}
	if c.Check && e.cli.JSON {
		return e.printJSON(map[string]string{"config": e.cli.Config, "state": "good"})
	}
	if c.Check {
		fmt.Fprintf(e.stdout, "%s is good\n", e.cli.Config)
		return nil
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
	d, err := daemon.Open(e.ctx, cfg, log)
	if err != nil {
		return err
	}
	link, until, err := d.FirstOperator(e.ctx)
	if err != nil {
		d.Close()
		return err
	}
	if link != "" {
		fmt.Fprintf(e.stdout, "Nobody is an operator yet. This link makes whoever opens it the first one; it works once, until %s:\n\n  %s\n\n", when(until), link)
	}
	hangups := make(chan os.Signal, 1) // SIGHUP is how systemd and operators ask a service to read its configuration again
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	ctx, stop := context.WithCancel(e.ctx)
	var reloading sync.WaitGroup
	reloading.Go(func() { d.ReloadOn(ctx, hangups) })
	defer reloading.Wait()
	defer stop()
	return d.Run(ctx)
}
