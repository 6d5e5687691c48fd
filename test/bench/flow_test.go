// Package bench measures the whole flow against a bare reverse proxy doing the
// same MCP call in the same run: client, gate or proxy, and tool server are
// processes that share the machine, both sides speak mutual TLS to the client
// and plain HTTP to the tool server, and slices of both alternate so that a
// machine that changes its speed changes both.
package bench

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slice is how long one side runs before the other has its turn.
const slice = 250 * time.Millisecond

const callBody = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send_payment","arguments":{"to":"landlord","amount":50000,"note":"rent for November, as every month"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}}}`

// side is one of those that are compared, a process of its own.
type side struct {
	process
	client *http.Client
	prover *prover // if it shows a proof of possession with each call
	lat    []time.Duration
	calls  []float64 // per second, one a slice
	cpu    []float64 // microseconds of processor time of all three processes per call, one a slice
	spent  func() time.Duration
}

func newSide(b *testing.B, role string, upstream process) *side {
	p := start(b, role, upstream.URL)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(p.Roots))
	pair, err := tls.X509KeyPair([]byte(p.Chain), []byte(p.Key))
	must(b, err)
	return &side{
		process: p, spent: func() time.Duration { return processor("self") + p.used() + upstream.used() },
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}},
			MaxIdleConnsPerHost: 512, MaxIdleConns: 1024, DisableCompression: true,
		}},
	}
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// call makes one call and checks that it was done, not refused.
func (s *side) call() error {
	req, err := http.NewRequest("POST", s.URL, bytes.NewReader([]byte(callBody)))
	if err != nil {
		return err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"bank___send_payment"},
	}
	if s.prover != nil {
		if err := s.prover.prove(req); err != nil {
			return err
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if s.prover != nil && s.prover.learn(resp) && resp.StatusCode == 401 {
		return s.call() // with the nonce it lacked
	}
	if err != nil || resp.StatusCode != 200 || !bytes.Contains(b, []byte(`balance`)) {
		return fmt.Errorf("status %d, %s, %v", resp.StatusCode, b, err)
	}
	return nil
}

// run drives the side with so many clients for one slice.
func (s *side) run(clients int) error {
	var wg sync.WaitGroup
	var n atomic.Int64
	errs := make(chan error, clients)
	lat := make([][]time.Duration, clients)
	begin, used := time.Now(), s.spent()
	for c := range clients {
		wg.Go(func() {
			for time.Since(begin) < slice {
				t := time.Now()
				if err := s.call(); err != nil {
					errs <- err
					return
				}
				lat[c] = append(lat[c], time.Since(t))
				n.Add(1)
			}
		})
	}
	wg.Wait()
	s.calls = append(s.calls, float64(n.Load())/time.Since(begin).Seconds())
	s.cpu = append(s.cpu, float64((s.spent()-used).Microseconds())/float64(n.Load()))
	s.lat = append(s.lat, slices.Concat(lat...)...)
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (s *side) forget() { s.lat, s.calls, s.cpu = nil, nil, nil }

func last(v []float64) float64 { return v[len(v)-1] }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func percentile(v []time.Duration, p float64) time.Duration {
	slices.Sort(v)
	return v[int(float64(len(v)-1)*p)]
}

// BenchmarkFlowDPoP is the gate with a proof of possession on each call instead
// of a certificate, against the same bare proxy; the client's signature is part
// of what the machine does.
func BenchmarkFlowDPoP(b *testing.B) {
	up := start(b, "upstream", "")
	g, p := newSide(b, "gate", up), newSide(b, "proxy", up)
	g.possesses(b)
	for _, clients := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			for _, s := range []*side{p, g} {
				must(b, s.run(clients))
				s.forget()
			}
			b.ResetTimer()
			var ratios []float64
			for range b.N {
				must(b, p.run(clients))
				must(b, g.run(clients))
				ratios = append(ratios, last(g.calls)/last(p.calls))
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(g.calls), "gate-calls/s")
			b.ReportMetric(median(p.calls), "proxy-calls/s")
			b.ReportMetric(median(g.cpu)-median(p.cpu), "added-cpu-us/call")
			b.ReportMetric(median(p.cpu), "proxy-cpu-us/call")
			g.forget()
			p.forget()
		})
	}
}

// BenchmarkFlow reports calls per second of the gate and of the proxy, their
// ratio (median of pairs), and the ratio of their 99th percentiles. As no
// durable gate can be faster than a proxy that waits for the disk twice, it
// reports that proxy's ratio too (bound), and the gate's to it. One iteration
// is one slice of each.
func BenchmarkFlow(b *testing.B) {
	up := start(b, "upstream", "")
	g, p, d := newSide(b, "gate", up), newSide(b, "proxy", up), newSide(b, "durable", up)
	for _, clients := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			for _, s := range []*side{p, g, d} { // connections and caches warm
				must(b, s.run(clients))
				s.forget()
			}
			b.ResetTimer()
			var ratios, bounds, ofBound []float64
			for range b.N {
				must(b, p.run(clients))
				must(b, g.run(clients))
				must(b, d.run(clients))
				proxied, gated, durable := last(p.calls), last(g.calls), last(d.calls)
				ratios, bounds, ofBound = append(ratios, gated/proxied), append(bounds, durable/proxied), append(ofBound, gated/durable)
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(bounds), "bound")
			b.ReportMetric(median(ofBound), "of-bound")
			b.ReportMetric(median(g.calls), "gate-calls/s")
			b.ReportMetric(median(p.calls), "proxy-calls/s")
			b.ReportMetric(float64(percentile(g.lat, 0.99))/float64(percentile(p.lat, 0.99)), "p99-ratio")
			b.ReportMetric(float64(percentile(g.lat, 0.50).Microseconds()), "gate-p50-us")
			b.ReportMetric(median(g.cpu)-median(p.cpu), "added-cpu-us/call")
			b.ReportMetric(median(p.cpu), "proxy-cpu-us/call")
			b.ReportMetric(median(d.cpu)-median(p.cpu), "bound-added-cpu-us/call")
			g.forget()
			p.forget()
			d.forget()
		})
	}
}
