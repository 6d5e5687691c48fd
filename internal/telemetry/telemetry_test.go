package telemetry_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/telemetry"
)

// canary stands wherever a caller may write.
const canary = "canary-7f3a9c"

// collector takes spans as an OpenTelemetry collector does.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
	raw   []byte
	how   func(w http.ResponseWriter) bool // answers in its place if it returns true
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.how != nil && c.how(w) {
			return
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
			return
		}
		b, _ := io.ReadAll(z)
		var req coltrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, b...)
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) options(t testing.TB) telemetry.Options {
	url := c.URL + "/v1/traces"
	client, err := egress.NewClient(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return telemetry.Options{Collector: url, Client: client, Sample: 1, Deployment: "d", Gateway: "gw1", Logger: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, o telemetry.Options) *telemetry.Telemetry {
	t.Helper()
	if o.State == nil {
		o.State = func() telemetry.State { return telemetry.State{} }
	}
	o.Configured = func(server string) bool { return server == "bank" }
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	tel, err := telemetry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// ticking is a clock that moves by a millisecond each time it is asked.
func ticking() func() time.Time {
	var n atomic.Int64
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	return func() time.Time { return start.Add(time.Duration(n.Add(1)) * time.Millisecond) }
}

func newGate(tel *telemetry.Telemetry, n gatetest.Neighbours, clock func() time.Time) *gate.Gate {
	n.Options = func(o *gate.Options) { o.Observer, o.Clock = tel, clock }
	return gatetest.New(n)
}

func call() gate.Call {
	return gate.Call{
		Action:   ostiary.Action{Name: "bank___pay", Method: "tools/call", Server: "bank", Tool: "pay", Pin: ostiary.DigestOf([]byte("pay")), URI: canary, State: []byte(canary)},
		Protocol: "mcp/2026-07-28", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Credentials: ostiary.Credentials{Remote: canary, Bearer: ostiary.NewSecret([]byte(canary))},
	}
}

func run(g *gate.Gate, c gate.Call) error {
	r, err := g.Handle(context.Background(), c)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, err := r.Next(context.Background()); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func attrs(s *otlp.Span) map[string]string {
	all := map[string]string{}
	for _, kv := range s.Attributes {
		all[kv.Key] = kv.Value.GetStringValue()
	}
	return all
}

// TestTraceOfOneCall: nine steps inside one call, on a trace of our own that
// points to the caller's.
func TestTraceOfOneCall(t *testing.T) {
	c := newCollector(t)
	tel := open(t, c.options(t))
	if err := run(newGate(tel, gatetest.Neighbours{}, ticking()), call()); err != nil {
		t.Fatal(err)
	}
	if err := tel.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.spans) != 10 {
		t.Fatalf("%d spans, want one for the call and nine for its steps", len(c.spans))
	}
	slices.SortFunc(c.spans, func(a, b *otlp.Span) int { return int(a.StartTimeUnixNano) - int(b.StartTimeUnixNano) })
	at := slices.IndexFunc(c.spans, func(s *otlp.Span) bool { return len(s.ParentSpanId) == 0 })
	root := c.spans[at]
	steps := slices.Delete(slices.Clone(c.spans), at, at+1)
	var names []string
	for i, s := range steps {
		names = append(names, s.Name)
		if string(s.ParentSpanId) != string(root.SpanId) || string(s.TraceId) != string(root.TraceId) {
			t.Errorf("%s does not belong to the call", s.Name)
		}
		if end := root.EndTimeUnixNano; i < 8 && s.EndTimeUnixNano != steps[i+1].StartTimeUnixNano || s.EndTimeUnixNano > end || s.EndTimeUnixNano <= s.StartTimeUnixNano {
			t.Errorf("%s lasts from %d to %d", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
	}
	if got := strings.Join(names, " "); got != "authenticate resolve validate decide record bind forward inspect settle" {
		t.Errorf("steps %s", got)
	}
	if root.Name != "tools/call pay" || root.Kind != otlp.Span_SPAN_KIND_SERVER || steps[6].Kind != otlp.Span_SPAN_KIND_CLIENT {
		t.Errorf("the call's span is %q, %v; forward's is %v", root.Name, root.Kind, steps[6].Kind)
	}
	if id := fmt.Sprintf("%x", root.TraceId); id == "0af7651916cd43dd8448eb211c80319c" {
		t.Error("the caller's trace was adopted")
	}
	if len(root.Links) != 1 || fmt.Sprintf("%x-%x", root.Links[0].TraceId, root.Links[0].SpanId) != "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331" {
		t.Errorf("links %v", root.Links)
	}
	got := attrs(root)
	for k, want := range map[string]string{
		"mcp.method.name": "tools/call", "mcp.protocol.version": "2026-07-28", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "pay",
		"gen_ai.agent.id": "spiffe://test/agent/a", "ostiary.decision": "permit", "ostiary.disposition": "delivered", "ostiary.entry": "2026-11/7", "ostiary.server": "bank",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
	if strings.Contains(string(c.raw), canary) {
		t.Error("what a caller wrote reached the collector")
	}
}

// TestTraceOfRefusals: a refusal is no error of ours, ends in the step that
// refused, and what was not resolved has no name but its method's.
func TestTraceOfRefusals(t *testing.T) {
	c := newCollector(t)
	tel := open(t, c.options(t))
	deny := newGate(tel, gatetest.Neighbours{Decide: func(*ostiary.Request) ostiary.Decision {
		return ostiary.Decision{Code: "forbid", Snapshot: 4, Reasons: []ostiary.Reason{{Policy: "limit"}}}
	}}, ticking())
	run(deny, call())
	odd := call()
	odd.Action.Method, odd.Action.Tool, odd.Action.Name, odd.Protocol, odd.Trace = canary, canary, canary, canary, "00-"+canary
	odd.Fault = ostiary.Errorf(ostiary.Malformed, "method_not_found", "no")
	run(deny, odd)
	tel.Close(t.Context())
	for _, s := range c.spans {
		a := attrs(s)
		switch {
		case s.Name == "record" || s.Name == "forward":
			t.Errorf("there is a span %s of a denial", s.Name)
		case s.Name == "bind" && a["error.type"] != "forbid", s.Name == "decide" && a["error.type"] != "":
			t.Errorf("%s: error.type %q", s.Name, a["error.type"])
		case s.Status.GetCode() != otlp.Status_STATUS_CODE_UNSET:
			t.Errorf("%s: status %v", s.Name, s.Status)
		case s.Name == "other" && (len(s.Links) != 0 || a["mcp.method.name"] != "other" || a["error.type"] != "method_not_found"):
			t.Errorf("%v, links %v", a, s.Links)
		}
	}
	if !slices.ContainsFunc(c.spans, func(s *otlp.Span) bool { return s.Name == "other" }) || strings.Contains(string(c.raw), canary) {
		t.Error("an untranslated message is to be traced as \"other\", without its words")
	}
}

// TestCollectorInTrouble: a collector that is gone, refuses, hangs or says
// nonsense costs no call anything.
func TestCollectorInTrouble(t *testing.T) {
	for name, how := range map[string]func(w http.ResponseWriter) bool{
		"refuses":  func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusForbidden); return true },
		"nonsense": func(w http.ResponseWriter) bool { w.Write([]byte(strings.Repeat("x", 1<<20))); return true },
		"cuts": func(w http.ResponseWriter) bool {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
			return true
		},
		"sends away": func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t)
			c.how = how
			o := c.options(t)
			o.Metrics = true
			tel := open(t, o)
			g := newGate(tel, gatetest.Neighbours{}, ticking())
			for range 600 { // more spans than may wait
				if err := run(g, call()); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			tel.Close(ctx)
			if body := scrape(t, tel); !strings.Contains(body, `ostiary_spans_total{fate="made"} 6000`) || strings.Contains(body, `fate="sent"} 6000`) {
				t.Error(body)
			}
		})
	}
}

func TestStrangersAreNotTraced(t *testing.T) {
	c := newCollector(t)
	o := c.options(t)
	o.Metrics = true
	tel := open(t, o)
	tel.Ended(&gate.Ending{Call: &gate.Call{}, Subject: &ostiary.Subject{}, Decision: &ostiary.Decision{}, Err: ostiary.Errorf(ostiary.Unauthenticated, "token", "no")})
	tel.Refused("http:" + canary)
	tel.Refused(canary)
	tel.Close(t.Context())
	body := scrape(t, tel)
	for _, want := range []string{`ostiary_strangers_refused_total{class="unauthenticated"} 1`, `ostiary_strangers_refused_total{class="http"} 1`, `ostiary_strangers_refused_total{class="other"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if len(c.spans) != 0 {
		t.Errorf("%d spans of strangers", len(c.spans))
	}
}

func scrape(t testing.TB, tel *telemetry.Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler(nil, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestLabelsAreBounded: whatever callers, servers and policies say, the second
// thousand of different words makes no more series than the first call.
func TestLabelsAreBounded(t *testing.T) {
	tel := open(t, telemetry.Options{Metrics: true, State: func() telemetry.State {
		return telemetry.State{
			Logs:    []telemetry.Log{{Name: "gateway", Entries: 7, Lag: 2, Failed: true}},
			Servers: []telemetry.Server{{Name: "bank", State: "failing", Breaker: "open", Starts: 3}}, Snapshot: 4,
		}
	}})
	odd := func(i int) {
		word := fmt.Sprint(canary, i)
		c := call()
		c.Action.Method, c.Action.Server, c.Action.Tool, c.Protocol, c.Trace = word, word, word, word, word
		err := ostiary.Errorf(ostiary.Kind(100), word, "%s", word)
		run(newGate(tel, gatetest.Neighbours{Decide: func(*ostiary.Request) ostiary.Decision { return ostiary.Decision{Code: word} }}, time.Now), c)
		run(newGate(tel, gatetest.Neighbours{Forward: func(context.Context, *gate.Clearance) (gate.Stream, error) { return nil, err }}, time.Now), c)
		tel.Refused(word)
	}
	series := func() int {
		return strings.Count(scrape(t, tel), "\nostiary_") + strings.Count(scrape(t, tel), "\nmcp_")
	}
	odd(0)
	first := series()
	for i := range 1000 {
		odd(i)
	}
	if last := series(); last != first {
		t.Errorf("%d series became %d", first, last)
	}
	run(newGate(tel, gatetest.Neighbours{}, ticking()), call())
	body := scrape(t, tel)
	if strings.Contains(body, canary) || strings.Contains(body, "spiffe://") {
		t.Error("what a caller wrote, or who called, stands in the metrics")
	}
	for _, want := range []string{
		`ostiary_calls_total{decision="permit",disposition="delivered",kind="none",method="tools/call"} 1`,
		`ostiary_calls_total{decision="deny",disposition="refused",kind="denied",method="other"} 1001`,
		`ostiary_policy_decisions_total{code="other"} 1001`,
		`ostiary_upstream_calls_total{disposition="delivered",server="bank"} 1`,
		`ostiary_upstream_calls_total{disposition="unknown",server="other"} 1001`,
		`ostiary_step_seconds_count{step="forward"} 1002`,
		`ostiary_step_seconds_count{step="record"} 1002`,
		`mcp_server_operation_duration_seconds_count{mcp_method_name="tools/call"} 1`,
		`mcp_client_operation_duration_seconds_bucket{server="bank",le="0.001"} 0`,
		`mcp_client_operation_duration_seconds_bucket{server="bank",le="0.0025"} 1`,
		`ostiary_ledger_entries{log="gateway"} 7`, `ostiary_ledger_index_lag{log="gateway"} 2`, `ostiary_ledger_failed{log="gateway"} 1`,
		`ostiary_upstream_state{server="bank",state="failing"} 1`, `ostiary_upstream_state{server="bank",state="ready"} 0`, `ostiary_upstream_breaker{server="bank",state="open"} 1`, `ostiary_upstream_breaker{server="bank",state="closed"} 0`, `ostiary_policy_snapshot 4`,
		`ostiary_build_info{go=`, "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestMetricsAddress: GET /metrics is all there is, under the address's own name.
func TestMetricsAddress(t *testing.T) {
	tel := open(t, telemetry.Options{Metrics: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s := tel.Server([]string{l.Addr().String()}, log)
	done := make(chan error)
	go func() { done <- s.Serve(telemetry.Listen(l)) }()
	defer func() { s.Close(); <-done }()
	for _, tc := range []struct {
		method, path, host, body string
		want                     int
	}{
		{"GET", "/metrics", "", "", 200},
		{"HEAD", "/metrics", "", "", 405},
		{"POST", "/metrics", "", "", 405},
		{"GET", "/metrics/", "", "", 404},
		{"GET", "/metrics?x=1", "", "", 404},
		{"GET", "/", "", "", 404},
		{"GET", "/mcp", "", "", 404},
		{"GET", "/metrics", "evil.example:80", "", 403},
		{"GET", "/metrics", "", "more than nothing", 413},
		{"GET", "/" + strings.Repeat("x", 16<<10), "", "", 0},
	} {
		req, err := http.NewRequest(tc.method, "http://"+l.Addr().String()+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Close = tc.host, true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want && (tc.want != 0 || resp.StatusCode < 400) {
			t.Errorf("%s %.30s of %q: %d, want %d", tc.method, tc.path, tc.host, resp.StatusCode, tc.want)
		}
	}
}

// TestFewScrapersAtOnce: who holds connections open takes no more descriptors
// than that.
func TestFewScrapersAtOnce(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := telemetry.Listen(inner)
	done := make(chan int)
	go func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				done <- n
				return
			}
			n++
			defer c.Close()
		}
	}()
	for range 40 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	over, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	over.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := over.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more was not turned away: %v", err)
	}
	l.Close()
	if n := <-done; n != 32 {
		t.Errorf("%d connections at once", n)
	}
}

func TestOff(t *testing.T) {
	tel, err := telemetry.New(telemetry.Options{})
	if tel != nil || err != nil {
		t.Fatalf("%v %v", tel, err)
	}
	tel.Refused("http:x")
	if err := tel.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := telemetry.New(telemetry.Options{Collector: "https://collector.example/v1/traces"}); err == nil {
		t.Error("it would find a client of its own")
	}
}

func BenchmarkEnded(b *testing.B) {
	for _, bc := range []struct {
		name   string
		sample float64
		on     func(*telemetry.Options)
	}{
		{"off", 0, nil},
		{"metrics", 0, func(o *telemetry.Options) { o.Metrics = true }},
		{"traces all", 1, func(o *telemetry.Options) { o.Collector = "http://127.0.0.1:1/v1/traces" }},
		{"traces 1%", 0.01, func(o *telemetry.Options) { o.Collector = "http://127.0.0.1:1/v1/traces" }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			var n gatetest.Neighbours
			if bc.on != nil {
				o := telemetry.Options{Sample: bc.sample, Client: &http.Client{}}
				bc.on(&o)
				tel := open(b, o)
				n.Options = func(o *gate.Options) { o.Observer = tel }
				b.Cleanup(func() {
					ctx, cancel := context.WithCancel(context.Background())
					cancel()
					tel.Close(ctx)
				})
			}
			g, c := gatetest.New(n), call()
			b.ReportAllocs()
			for b.Loop() {
				if err := run(g, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
