package telemetry

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/policy"
)

// metrics counts exchanges. Everything with labels is bounded: see the words
// each is closed to.
type metrics struct {
	registry *prometheus.Registry

	methods, codes, classes closed
	configured              func(server string) bool

	calls     *prometheus.CounterVec
	lost      prometheus.Counter
	took      *prometheus.HistogramVec
	steps     [gate.Steps]prometheus.Observer
	decisions *prometheus.CounterVec
	evaluated prometheus.Counter
	upstream  *prometheus.CounterVec
	away      *prometheus.HistogramVec
	strangers *prometheus.CounterVec
}

// stepBuckets reach from a look into memory to a slow flush.
func stepBuckets() []float64 {
	return []float64{1e-6, 5e-6, 25e-6, 100e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 1, 5, 30}
}

// callBuckets are the conventions' own, for calls of tools.
func callBuckets() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300}
}

func newMetrics(o Options, t *traces) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		methods:  closedTo(methodNames()...), configured: o.Configured,
		codes: closedTo(policy.CodePermit, policy.CodeForbid, policy.CodeNoPermit, policy.CodeNoSnapshot, policy.CodeUnknownAction, policy.CodeUnvalidated,
			policy.CodeInexact, policy.CodePinMismatch, policy.CodeMissingEntity, policy.CodeMissingFact, policy.CodeOverBudget, policy.CodePolicyError,
			policy.CodeObligation, policy.CodeIndex, policy.CodeInternal),
		classes: closedTo("http"), // what the strict front refuses, beside the kinds of errors
	}
	for _, k := range ostiary.Kinds {
		m.classes[k.String()] = true
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m.calls = counter("ostiary_calls_total", "Calls of authenticated agents that have ended, by MCP method, policy's decision, what became of them, and the kind of error.", "method", "decision", "disposition", "kind")
	m.lost = prometheus.NewCounter(prometheus.CounterOpts{Name: "ostiary_outcomes_lost_total", Help: "Calls whose outcome could not be recorded; the reply was withheld."})
	m.took = histogram(serverDuration, "From a call's arrival to its recorded end, by MCP method.", callBuckets(), "mcp_method_name")
	m.away = histogram(clientDuration, "From sending a call to a configured server to the end of its reply.", callBuckets(), "server")
	steps := histogram("ostiary_step_seconds", "Time in each step of the flow. record and settle are appends to the log; inspect lasts while the reply is read.", stepBuckets(), "step")
	for i := 1; i < gate.Steps; i++ {
		m.steps[i] = steps.WithLabelValues(gate.Step(i).String())
	}
	m.decisions = counter("ostiary_policy_decisions_total", "Policy's decisions, by code.", "code")
	m.evaluated = prometheus.NewCounter(prometheus.CounterOpts{Name: "ostiary_policies_evaluated_total", Help: "Policies evaluated for these decisions."})
	m.upstream = counter("ostiary_upstream_calls_total", "Calls that were cleared for a configured server, by what became of them.", "server", "disposition")
	m.strangers = counter("ostiary_strangers_refused_total", "Requests refused before anybody was authenticated, by class.", "class")
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ostiary_build_info", Help: "The program that runs.", ConstLabels: prometheus.Labels{"version": ostiary.Version, "go": runtime.Version()},
	}, func() float64 { return 1 })
	m.registry.MustRegister(m.calls, m.lost, m.took, m.away, steps, m.decisions, m.evaluated, m.upstream, m.strangers, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newStateCollector(o.State))
	if t != nil {
		m.registry.MustRegister(t.spans)
	}
	return m
}

func (m *metrics) stranger(class string) { m.strangers.WithLabelValues(m.classes.of(class)).Inc() }

func (m *metrics) ended(e *gate.Ending) {
	kind := "none"
	if e.Err != nil {
		kind = ostiary.KindOf(e.Err).String()
	}
	if e.Subject.IsZero() {
		m.stranger(kind)
		return
	}
	method := m.methods.method(e)
	m.calls.WithLabelValues(method, decision(e), e.Disposition.String(), kind).Inc()
	if e.Lost {
		m.lost.Inc()
	}
	if e.Decision.Code != "" {
		m.decisions.WithLabelValues(m.codes.of(e.Decision.Code)).Inc()
		m.evaluated.Add(float64(e.Decision.Evaluated))
	}
	m.took.WithLabelValues(method).Observe(e.At.Sub(e.Began[gate.StepAuthenticate]).Seconds())
	lasted(e, func(s gate.Step, from, to time.Time) { m.steps[s].Observe(to.Sub(from).Seconds()) })
	m.left(e)
}

// left counts a call that was on its way to a server.
func (m *metrics) left(e *gate.Ending) {
	sent := e.Began[gate.StepForward]
	if sent.IsZero() || e.Call.Target.Kind != gate.ToServer {
		return
	}
	server := e.Request.Resource.Server
	if !m.configured(server) {
		server = other
	}
	m.upstream.WithLabelValues(server, e.Disposition.String()).Inc()
	m.away.WithLabelValues(server).Observe(e.Began[gate.StepSettle].Sub(sent).Seconds())
}
