package daemon

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/console"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/telemetry"
)

// TelemetryConfig sets who may count and trace what the gateway does. All of
// it is off by default, and then costs nothing.
type TelemetryConfig struct {
	// Listen is the address of Prometheus' GET /metrics, for example 127.0.0.1:9464. It asks for no credential: whoever
	// can connect reads the names of the configured servers and how much they are used. Default: off.
	Listen string `yaml:"listen"`
	// OTLP is the URL of a collector that takes OpenTelemetry traces over HTTP in protocol buffers, for example
	// https://collector.example/v1/traces; plain http to this machine only. Whoever runs it reads the names of agents,
	// tools and policies. Default: off.
	OTLP string `yaml:"otlp"`
	// Sample is the share of calls that are traced, 0 to 1. Default 1.
	Sample *float64 `yaml:"sample"`
}

// flushTimeout bounds how long the last spans may take at shutdown.
const flushTimeout = 3 * time.Second

func (c *Config) checkTelemetry() error {
	t := &c.Telemetry
	if t.Listen != "" {
		host, _, err := net.SplitHostPort(t.Listen)
		if err != nil {
			return c.bad("telemetry.listen", "write host:port, for example 127.0.0.1:9464")
		}
		if host == "" {
			return c.bad("telemetry.listen", "name the address, for example 127.0.0.1:9464; every address, 0.0.0.0, lets everybody read who can connect")
		}
	}
	if t.OTLP != "" {
		u, err := egress.ParseURL(t.OTLP)
		if err != nil {
			return c.bad("telemetry.otlp", ostiary.AsError(err).Detail)
		}
		if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
			return c.bad("telemetry.otlp", "plain http is for a collector on this machine; write https")
		}
		if u.Path == "/" {
			return c.bad("telemetry.otlp", "it needs the path the collector takes traces at, mostly /v1/traces")
		}
		t.OTLP = u.String()
	}
	if t.Sample == nil {
		all := 1.0
		t.Sample = &all
	}
	if !(*t.Sample >= 0 && *t.Sample <= 1) {
		return c.bad("telemetry.sample", "write a share from 0 to 1, for example 0.1")
	}
	return nil
}

// openTelemetry builds what counts and traces. Parts that come after it are
// asked for their state only once everything is open.
func (d *Daemon) openTelemetry(context.Context) (err error) {
	c := &d.cfg.Telemetry
	o := telemetry.Options{Configured: d.configured, State: d.state, Sample: *c.Sample, Deployment: d.cfg.Deployment, Gateway: d.cfg.Gateway, Logger: d.log}
	if c.Listen != "" {
		if d.metrics, err = net.Listen("tcp", c.Listen); err != nil {
			return d.cfg.bad("telemetry.listen", err.Error())
		}
		d.onClose(d.metrics.Close)
		o.Metrics = true
	}
	if c.OTLP != "" {
		o.Collector = c.OTLP
		if o.Client, err = egress.NewClient(c.OTLP, nil); err != nil {
			return d.cfg.bad("telemetry.otlp", ostiary.AsError(err).Detail)
		}
	}
	if d.telemetry, err = telemetry.New(o); err != nil {
		return err
	}
	d.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := d.telemetry.Close(ctx); err != nil {
			d.log.Warn("the last spans were not sent", "error", err)
		}
		return nil
	})
	return nil
}

// observer is what the gate tells of its exchanges, nil if nobody asks.
func (d *Daemon) observer() gate.Observer {
	var all observers
	if d.telemetry != nil {
		all = append(all, d.telemetry)
	}
	if d.pages.listener != nil {
		d.pages.watch = console.NewWatch(d.clock)
		all = append(all, d.pages.watch)
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return all
}

// observers are told one after the other.
type observers []gate.Observer

// Ended implements gate.Observer.
func (o observers) Ended(e *gate.Ending) {
	for _, one := range o {
		one.Ended(e)
	}
}

// stranger counts a refusal of somebody who never authenticated: in the log,
// exactly, and in the metrics.
func (d *Daemon) stranger(source, code string) {
	d.journal.gateway.Count(source, code)
	d.telemetry.Refused(code)
}

// configured reports whether there is a server of that name now.
func (d *Daemon) configured(server string) bool {
	_, ok := d.live.facts.Load().Servers[server]
	return ok
}

// metricsHosts are the names under which the metrics address may be asked:
// only what loopback is called, if it is one.
func (d *Daemon) metricsHosts() []string {
	if !d.metrics.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return nil
	}
	return hosts(d.metrics.Addr(), d.cfg.Listen.Names)
}

// state is what every part says of itself, for a scrape.
func (d *Daemon) state() telemetry.State {
	var s telemetry.State
	for _, l := range []struct {
		name string
		log  *indexed
	}{{"gateway", d.journal.indexes[d.journal.gateway]}, {"deployment", d.journal.indexes[d.journal.deployment]}} {
		st := l.log.log.Status()
		_, n, m := l.log.indexer.Progress()
		s.Logs = append(s.Logs, telemetry.Log{Name: l.name, Entries: st.Size, Queued: st.Queued, Open: st.Open, Lag: m - min(n, m), Full: st.Full, Failed: st.Failed != ""})
	}
	for _, h := range d.egress.Health() {
		s.Servers = append(s.Servers, telemetry.Server{Name: h.Server, State: h.State, Breaker: h.Breaker, Failures: h.Failures, Starts: h.Starts, Dropped: h.Dropped})
	}
	s.Sessions, s.Clients = d.issued.Count(), d.door.Sessions()
	if active := d.engine.Active(); active != nil {
		s.Snapshot = active.Number()
	}
	return s
}
