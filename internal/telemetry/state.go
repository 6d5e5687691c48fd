package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
)

// State is what stands at one moment, as the parts themselves say.
type State struct {
	Logs     []Log
	Servers  []Server
	Sessions int    // of agents, held in memory
	Clients  int    // sessions of clients that speak an older revision
	Snapshot uint64 // number of the active policy snapshot, 0 for none
}

// Log is the state of one log: "gateway" or "deployment".
type Log struct {
	Name    string
	Entries uint64 // durable, this month
	Queued  int    // waiting for a flush
	Open    int    // intents without outcome
	Lag     uint64 // entries that the index has not read yet
	Full    bool
	Failed  bool
}

// Server is the state of one configured server.
type Server struct {
	Name     string
	State    string // one of serverStates
	Breaker  string // one of breakerStates
	Failures uint64
	Starts   uint64
	Dropped  uint64 // messages nobody had asked for
}

func serverStates() []string { return []string{"unused", "ready", "failing", "quarantined"} }

func breakerStates() []string { return []string{"closed", "open", "half-open"} }

// stateCollector reads the state anew at each scrape.
type stateCollector struct {
	read func() State

	entries, queued, open, lag, full, failed  *prometheus.Desc
	state, breaker, failures, starts, dropped *prometheus.Desc
	sessions, snapshot                        *prometheus.Desc
}

func newStateCollector(read func() State) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ostiary_"+name, help, labels, nil)
	}
	return &stateCollector{
		read:     read,
		entries:  desc("ledger_entries", "Entries of this month's log that are on disk.", "log"),
		queued:   desc("ledger_queued", "Entries that wait for a flush.", "log"),
		open:     desc("ledger_open_intents", "Intents without an outcome.", "log"),
		lag:      desc("ledger_index_lag", "Entries that queries do not show yet.", "log"),
		full:     desc("ledger_full", "1 if there is no room for another action.", "log"),
		failed:   desc("ledger_failed", "1 if the log failed: nothing is recorded and nothing is let through.", "log"),
		state:    desc("upstream_state", "1 for the state a server is in.", "server", "state"),
		breaker:  desc("upstream_breaker", "1 for the state a server's circuit breaker is in.", "server", "state"),
		failures: desc("upstream_failures_total", "Calls of a server that ended without a final message.", "server"),
		starts:   desc("upstream_starts_total", "Times a server's process was started.", "server"),
		dropped:  desc("upstream_dropped_total", "Messages of a server that nobody had asked for.", "server"),
		sessions: desc("sessions", "Sessions in memory: of agents, and of clients that speak an older revision.", "of"),
		snapshot: desc("policy_snapshot", "Number of the active policy snapshot, 0 for none.", nil...),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.entries, c.queued, c.open, c.lag, c.full, c.failed, c.state, c.breaker, c.failures, c.starts, c.dropped, c.sessions, c.snapshot} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.read()
	for _, l := range s.Logs {
		gauge(c.entries, float64(l.Entries), l.Name)
		gauge(c.queued, float64(l.Queued), l.Name)
		gauge(c.open, float64(l.Open), l.Name)
		gauge(c.lag, float64(l.Lag), l.Name)
		gauge(c.full, bit(l.Full), l.Name)
		gauge(c.failed, bit(l.Failed), l.Name)
	}
	for _, v := range s.Servers {
		for _, state := range serverStates() {
			gauge(c.state, bit(v.State == state), v.Name, state)
		}
		for _, state := range breakerStates() {
			gauge(c.breaker, bit(v.Breaker == state), v.Name, state)
		}
		count(c.failures, v.Failures, v.Name)
		count(c.starts, v.Starts, v.Name)
		count(c.dropped, v.Dropped, v.Name)
	}
	gauge(c.sessions, float64(s.Sessions), "agents")
	gauge(c.sessions, float64(s.Clients), "clients")
	gauge(c.snapshot, float64(s.Snapshot))
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
