package telemetry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

const (
	// queued bounds the spans that wait for the collector: 400 calls, 8 MiB
	// at worst. What does not fit is dropped; traces are no record.
	queued = 4096
	// batch is one request to the collector.
	batch = 512
	// pause is how long an incomplete batch waits for more.
	pause = 2 * time.Second
	// exportTimeout bounds one batch, attempts to repeat it included.
	exportTimeout = 10 * time.Second
	// maxRequest and maxAnswer bound what goes to the collector at once, and
	// what it may answer, which is nothing of use.
	maxRequest = 4 << 20
	maxAnswer  = 64 << 10
	// maxPolicies bounds the policy names in one span.
	maxPolicies = 16
)

// traces makes spans of exchanges that have ended.
type traces struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	methods  closed
	sample   float64
	spans    *spanCounts
}

func newTraces(o Options) (*traces, error) {
	inner, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(o.Collector), otlptracehttp.WithHTTPClient(o.Client), otlptracehttp.WithHeaders(nil),
		otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithMaxRequestSize(maxRequest), otlptracehttp.WithMaxResponseSize(maxAnswer),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}))
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "collector", "spans cannot be sent there").At("telemetry.otlp").Because(err)
	}
	t := &traces{methods: closedTo(methodNames()...), sample: o.Sample, spans: newSpanCounts()}
	t.provider = sdk.NewTracerProvider(
		sdk.WithSampler(sdk.AlwaysSample()), // of what ended lets through
		sdk.WithResource(resource.NewSchemaless(attrService.String("ostiary"), attrVersion.String(ostiary.Version), attrInstance.String(o.Deployment+"/"+o.Gateway))),
		sdk.WithBatcher(&exporter{inner: inner, spans: t.spans, log: o.Logger},
			sdk.WithMaxQueueSize(queued), sdk.WithMaxExportBatchSize(batch), sdk.WithBatchTimeout(pause), sdk.WithExportTimeout(exportTimeout)),
	)
	t.tracer = t.provider.Tracer("github.com/ostiary/ostiary", trace.WithInstrumentationVersion(ostiary.Version))
	return t, nil
}

// ended makes the spans of one exchange: one for the call and, inside it, one
// for each step that was taken. A trace always starts here: what the caller
// says of its own is across a trust boundary, and becomes a link.
func (t *traces) ended(e *gate.Ending) {
	if rand.Float64() >= t.sample {
		return
	}
	method := t.methods.method(e)
	name := method
	if n := tool(e); n != "" {
		name += " " + n
	}
	start := []trace.SpanStartOption{
		trace.WithTimestamp(e.Began[gate.StepAuthenticate]), trace.WithSpanKind(trace.SpanKindServer), trace.WithNewRoot(),
	}
	if link, ok := caller(e.Call.Trace); ok {
		start = append(start, trace.WithLinks(trace.Link{SpanContext: link}))
	}
	ctx, span := t.tracer.Start(context.Background(), name, start...)
	span.SetAttributes(attributes(e, method)...)
	failed := failure(e)
	if failed != "" {
		span.SetAttributes(attrError.String(failed))
		if broke(e) {
			span.SetStatus(codes.Error, "")
		}
	}
	n := 1
	lasted(e, func(s gate.Step, from, to time.Time) {
		kind := trace.SpanKindInternal
		if s == gate.StepForward {
			kind = trace.SpanKindClient
		}
		_, step := t.tracer.Start(ctx, s.String(), trace.WithTimestamp(from), trace.WithSpanKind(kind))
		if failed != "" && s != gate.StepSettle { // it ended in the last step before
			step.SetAttributes(attrError.String(failed))
			failed = ""
		}
		step.End(trace.WithTimestamp(to))
		n++
	})
	span.End(trace.WithTimestamp(e.At))
	t.spans.made.Add(uint64(n))
}

// attributes are what a call's span says. The words are ours, the operator's,
// or of a definition somebody accepted.
func attributes(e *gate.Ending, method string) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attrMethod.String(method), attrAgent.String(string(e.Subject.Agent)), attrPrincipal.String(string(e.Subject.Principal)),
		attrDecision.String(decision(e)), attrDisposition.String(e.Disposition.String()),
	}
	add := func(k attribute.Key, v string) {
		if v != "" {
			all = append(all, k.String(v))
		}
	}
	add(attrProtocol, protocol(e))
	add(attrCode, e.Decision.Code)
	if r := e.Request; r != nil {
		add(attrServer, r.Resource.Server)
		if name := tool(e); name != "" {
			add(attrTool, name)
			if method == "tools/call" {
				add(attrOperation, executeTool)
			}
		}
	}
	if !e.Entry.IsZero() {
		add(attrEntry, e.Entry.String())
	}
	if d := e.Decision; d.Snapshot > 0 {
		all = append(all, attrSnapshot.Int64(int64(d.Snapshot)))
		var names []string
		for _, r := range d.Reasons[:min(len(d.Reasons), maxPolicies)] {
			names = append(names, r.Policy)
		}
		if names != nil {
			all = append(all, attrPolicies.StringSlice(names))
		}
	}
	return all
}

// failure returns the code an exchange ended with, "" if it was delivered.
// Codes are words of this program.
func failure(e *gate.Ending) string {
	if e.Err == nil {
		return ""
	}
	err := ostiary.AsError(e.Err)
	if err.Code == "" {
		return err.Kind.String()
	}
	return err.Code
}

// broke tells what went wrong from what was refused, which is how it should be.
func broke(e *gate.Ending) bool {
	return e.Lost || slices.Contains([]ostiary.Kind{ostiary.Internal, ostiary.Unavailable, ostiary.Upstream, ostiary.Corrupt}, ostiary.KindOf(e.Err))
}

// caller reads a traceparent of version 00, strictly. What is not exactly
// one is ignored.
func caller(s string) (trace.SpanContext, bool) {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return trace.SpanContext{}, false
	}
	id, err := trace.TraceIDFromHex(s[3:35])
	if err != nil {
		return trace.SpanContext{}, false
	}
	span, err := trace.SpanIDFromHex(s[36:52])
	if err != nil {
		return trace.SpanContext{}, false
	}
	var flags byte
	for _, c := range []byte(s[53:]) {
		switch {
		case c >= '0' && c <= '9':
			flags = flags<<4 | (c - '0')
		case c >= 'a' && c <= 'f':
			flags = flags<<4 | (c - 'a' + 10)
		default:
			return trace.SpanContext{}, false
		}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags) & trace.FlagsSampled, Remote: true}), true
}

// exporter keeps the collector's troubles here: they are counted and logged,
// once for each turn to the worse or better, and reach nobody else.
type exporter struct {
	inner   sdk.SpanExporter
	spans   *spanCounts
	log     *slog.Logger
	failing atomic.Bool
}

// ExportSpans implements sdk.SpanExporter.
func (x *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := x.export(ctx, spans); err != nil {
		x.spans.failed.Add(uint64(len(spans)))
		if !x.failing.Swap(true) {
			x.log.Warn("the collector does not take spans; they are dropped", "error", err)
		}
		return nil
	}
	x.spans.sent.Add(uint64(len(spans)))
	if x.failing.Swap(false) {
		x.log.Info("the collector takes spans again")
	}
	return nil
}

func (x *exporter) export(ctx context.Context, spans []sdk.ReadOnlySpan) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = ostiary.Panicked(p)
		}
	}()
	return x.inner.ExportSpans(ctx, spans)
}

// Shutdown implements sdk.SpanExporter.
func (x *exporter) Shutdown(ctx context.Context) error { return x.inner.Shutdown(ctx) }

// spanCounts says what became of spans. Those made and neither sent nor
// failed wait, or were dropped because too many waited.
type spanCounts struct {
	desc               *prometheus.Desc
	made, sent, failed atomic.Uint64
}

func newSpanCounts() *spanCounts {
	return &spanCounts{desc: prometheus.NewDesc("ostiary_spans_total", "Spans made, taken by the collector, and refused by it; the rest waits or was dropped.", []string{"fate"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *spanCounts) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *spanCounts) Collect(ch chan<- prometheus.Metric) {
	for fate, n := range map[string]*atomic.Uint64{"made": &c.made, "sent": &c.sent, "failed": &c.failed} {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n.Load()), fate)
	}
}
