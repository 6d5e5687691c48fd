// Package bench measures the whole flow against a bare reverse proxy doing the
// same MCP call in the same run: client, gate or proxy, and tool server share
// the machine, both sides speak mutual TLS to the client and plain HTTP to the
// tool server, and slices of both alternate so that a machine that changes its
// speed changes both.
package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/identity"
)

// slice is how long one side runs before the other has its turn.
const slice = 250 * time.Millisecond

const callBody = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send_payment","arguments":{"to":"landlord","amount":50000,"note":"rent for November, as every month"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}}}`

const tools = `[{"name":"send_payment","description":"Send money.","inputSchema":{"type":"object","properties":{"to":{"type":"string"},"amount":{"type":"integer","minimum":1},"note":{"type":"string"}},"required":["to","amount"]}}]`

const policies = `@id("session")
permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);
@id("pay")
permit (principal, action == Ostiary::Action::"bank___send_payment", resource)
when { context.input.amount > 0 && context.input.amount <= 500000 };
@id("pay-large") @remedy("approval:finance")
forbid (principal, action == Ostiary::Action::"bank___send_payment", resource)
when { context.input.amount > 100000 }
unless { context.satisfied.contains("approval:finance") };
`

// toolServer answers like a real one, as fast as net/http can.
func toolServer() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		id := []byte("1")
		if i := bytes.Index(b, []byte(`"id":`)); i >= 0 {
			j := i + 5
			for j < len(b) && b[j] != ',' && b[j] != '}' {
				j++
			}
			id = b[i+5 : j]
		}
		result := `{"resultType":"complete","content":[{"type":"text","text":"{\"payment\":\"p-1\",\"balance\":123456}"}]}`
		switch {
		case bytes.Contains(b, []byte(`"server/discover"`)):
			result = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"},"ttlMs":0,"cacheScope":"private"}`
		case bytes.Contains(b, []byte(`"tools/list"`)):
			result = `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":` + tools + `}`
		case !bytes.Contains(b, []byte(`"tools/call"`)):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(404)
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, id)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
	})
}

// side is one of the two that are compared.
type side struct {
	url    string
	client *http.Client
	lat    []time.Duration
	calls  []float64 // per second, one a slice
	cpu    []float64 // microseconds of this process's processor time per call, one a slice
}

func newClient(t *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: t, MaxIdleConnsPerHost: 512, MaxIdleConns: 1024, DisableCompression: true}}
}

// gateway starts the whole product on a fresh folder and joins an agent.
func gateway(b *testing.B, upstream string) *side {
	dir := b.TempDir()
	must(b, os.MkdirAll(filepath.Join(dir, "policy"), 0o755))
	must(b, os.WriteFile(filepath.Join(dir, "policy", "main.cedar"), []byte(policies), 0o644))
	cfg, err := daemon.ParseConfig(filepath.Join(dir, "ostiary.yaml"), []byte("trust_domain: bench.test\nlisten: {agents: \"127.0.0.1:0\"}\nservers:\n  bank: {url: \""+upstream+"/mcp\", allow_addresses: [127.0.0.1/32]}\n"))
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, cfg, slog.New(slog.DiscardHandler))
	must(b, err)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	_, err = d.Control().Discover(ctx, "bank")
	must(b, err)
	_, _, err = d.Control().Accept(ctx, "bank", "", "bench")
	must(b, err)
	return &side{url: d.Endpoint(), client: newClient(join(b, d))}
}

func join(b *testing.B, d *daemon.Daemon) *tls.Config {
	ctx := context.Background()
	id, err := d.Authority().AgentID("bench")
	must(b, err)
	secret, _, err := d.Authority().MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:bench"}, 0)
	must(b, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(b, err)
	chain, _, err := d.Authority().Enrol(ctx, string(secret.Reveal()), csr)
	must(b, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(d.Authority().Bundle())
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
}

// proxy starts a bare httputil.ReverseProxy with mutual TLS.
func proxy(b *testing.B, upstream string) *side {
	u, err := url.Parse(upstream)
	must(b, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(b, err)
	cert, err := x509.ParseCertificate(der)
	must(b, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	s := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, MaxIdleConns: 1024, DisableCompression: true},
	}}
	go s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}))
	b.Cleanup(func() { s.Close() })
	return &side{url: "https://" + l.Addr().String() + "/mcp", client: newClient(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// call makes one call and checks that it was done, not refused.
func (s *side) call() error {
	req, err := http.NewRequest("POST", s.url, bytes.NewReader([]byte(callBody)))
	if err != nil {
		return err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"bank___send_payment"},
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
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
	begin, used := time.Now(), processor()
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
	s.cpu = append(s.cpu, float64((processor()-used).Microseconds())/float64(n.Load()))
	s.lat = append(s.lat, slices.Concat(lat...)...)
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// processor returns the processor time this process has used: client, gate or
// proxy, tool server and collector together.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (s *side) forget() { s.lat, s.calls, s.cpu = nil, nil, nil }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func percentile(v []time.Duration, p float64) time.Duration {
	slices.Sort(v)
	return v[int(float64(len(v)-1)*p)]
}

// BenchmarkFlow reports calls per second of the gate and of the proxy, their
// ratio (median of pairs), and the ratio of their 99th percentiles. One
// iteration is one pair of slices.
func BenchmarkFlow(b *testing.B) {
	up := httptest.NewServer(toolServer())
	defer up.Close()
	g, p := gateway(b, up.URL), proxy(b, up.URL)
	for _, clients := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			for _, s := range []*side{p, g} { // connections and caches warm
				must(b, s.run(clients))
				s.forget()
			}
			b.ResetTimer()
			var ratios []float64
			for range b.N {
				must(b, p.run(clients))
				must(b, g.run(clients))
				ratios = append(ratios, g.calls[len(g.calls)-1]/p.calls[len(p.calls)-1])
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(g.calls), "gate-calls/s")
			b.ReportMetric(median(p.calls), "proxy-calls/s")
			b.ReportMetric(float64(percentile(g.lat, 0.99))/float64(percentile(p.lat, 0.99)), "p99-ratio")
			b.ReportMetric(float64(percentile(g.lat, 0.50).Microseconds()), "gate-p50-us")
			b.ReportMetric(median(g.cpu)-median(p.cpu), "added-cpu-us/call")
			b.ReportMetric(median(p.cpu), "proxy-cpu-us/call")
			g.forget()
			p.forget()
		})
	}
}
