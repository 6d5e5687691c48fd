// Package telemetry turns what the gate observes into numbers and traces:
// metrics in Prometheus' text format, served on an address of their own, and
// OpenTelemetry spans, sent to one collector.
//
// It guarantees: no argument, result, credential, resource address or other
// word an agent chose stands in a metric or span; every label's values are a
// closed list or come from the configuration, so their number does not grow
// with traffic; what a caller says of its own trace is linked to, never
// followed, and baggage is not read; no collector, however slow or broken,
// delays or fails a call: spans wait in a bounded queue and are dropped when
// it is full. Callers who never authenticated are counted and not traced.
//
// It trusts the collector with the names of agents, tools and policies, which
// are in spans, and whoever reaches the metrics address with the configured
// servers' names and how much they are used.
//
// It does not dial: it is handed a client. It is no record of anything: that
// is the ledger.
//
// It follows OpenTelemetry's semantic conventions for MCP and generative AI,
// see conventions.go, W3C Trace Context, level 1, for the caller's
// traceparent, and Prometheus' exposition format.
package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Options say what is wanted. Without Metrics nothing is counted, without
// Collector nothing is traced.
type Options struct {
	Metrics    bool
	Configured func(server string) bool // any other is counted as "other". Required with Metrics
	State      func() State             // asked at each scrape; must not block. Required with Metrics

	Collector string       // URL that takes OTLP over HTTP, in protocol buffers
	Client    *http.Client // reaches Collector and nothing else. Required with Collector
	Sample    float64      // share of calls that are traced, 0 to 1

	Deployment, Gateway string // who speaks, in spans
	Logger              *slog.Logger
}

// Telemetry implements [gate.Observer]. Safe for concurrent use. A nil
// Telemetry is one that is off.
type Telemetry struct {
	metrics *metrics // nil if off
	traces  *traces  // nil if off
}

// New returns a Telemetry for what o asks, nil if that is nothing. Close it.
func New(o Options) (*Telemetry, error) {
	t := &Telemetry{}
	if o.Collector != "" {
		if o.Client == nil {
			return nil, ostiary.Errorf(ostiary.Internal, "no_client", "there is no client for the collector")
		}
		var err error
		if t.traces, err = newTraces(o); err != nil {
			return nil, err
		}
	}
	if o.Metrics {
		t.metrics = newMetrics(o, t.traces)
	}
	if t.metrics == nil && t.traces == nil {
		return nil, nil
	}
	return t, nil
}

// Ended implements [gate.Observer].
func (t *Telemetry) Ended(e *gate.Ending) {
	if t.metrics != nil {
		t.metrics.ended(e)
	}
	if t.traces != nil && !e.Subject.IsZero() {
		t.traces.ended(e)
	}
}

// Refused counts a stranger whom something before the gate turned away. The
// code is "class:reason", as counting entries have it.
func (t *Telemetry) Refused(code string) {
	if t == nil || t.metrics == nil {
		return
	}
	class, _, _ := strings.Cut(code, ":")
	t.metrics.stranger(class)
}

// Close sends the spans that wait, for as long as ctx lasts.
func (t *Telemetry) Close(ctx context.Context) error {
	if t == nil || t.traces == nil {
		return nil
	}
	return t.traces.provider.Shutdown(ctx)
}

// lasted calls f for each step that was taken, with when it began and ended,
// the last one first. A denial enters record but writes nothing there.
func lasted(e *gate.Ending, f func(s gate.Step, from, to time.Time)) {
	to := e.At
	for i := gate.Steps - 1; i > 0; i-- {
		s, from := gate.Step(i), e.Began[i]
		if from.IsZero() {
			continue
		}
		if s != gate.StepRecord || e.Decision.Permit {
			f(s, from, to)
		}
		to = from
	}
}
