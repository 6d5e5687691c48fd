package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/identity"
)

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

// process is one of the others, as it says on its standard output what a
// client needs. It ends with its standard input.
type process struct {
	URL   string
	Roots string // PEM, whom the client trusts
	Chain string // PEM, who the client is
	Key   string
	Token string // of the gate: bound to the same key
	pid   int
}

const (
	// roleEnv makes this test binary one of the other processes.
	roleEnv     = "OSTIARY_BENCH_ROLE"
	upstreamEnv = "OSTIARY_BENCH_UPSTREAM"
	// profileEnv names a folder into which each of them writes a profile of
	// its processor time, <role>.cpu.
	profileEnv = "OSTIARY_BENCH_PROFILE"
)

// play serves in a role until standard input ends.
func play(role, upstream string) error {
	dir, err := os.MkdirTemp("", "ostiary-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if folder := os.Getenv(profileEnv); folder != "" {
		f, err := os.Create(filepath.Join(folder, role+".cpu"))
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var p process
	var end func()
	switch role {
	case "upstream":
		p, end, err = serveTools()
	case "gate":
		p, end, err = serveGate(dir, upstream)
	case "proxy":
		p, end, err = serveProxy(upstream, nil)
	case "durable":
		var f *flushes
		if f, err = newFlushes(dir); err == nil {
			p, end, err = serveProxy(upstream, f)
		}
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		return err
	}
	defer end()
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// start makes another process of this binary play a role, and ends it with b.
func start(b testing.TB, role, upstream string) process {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), roleEnv+"="+role, upstreamEnv+"="+upstream)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	must(b, err)
	p := process{pid: cmd.Process.Pid}
	must(b, json.Unmarshal(line, &p))
	return p
}

// used returns the processor time the process has used.
func (p process) used() time.Duration { return processor(strconv.Itoa(p.pid)) }

// processor reads a process's time from the kernel, which counts it in
// hundredths of a second. It panics if there is no such process any more: then
// nothing measured means anything.
func processor(pid string) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may hold anything
	f := strings.Fields(rest)
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		panic("no times in /proc/" + pid + "/stat")
	}
	return time.Duration(user+system) * (time.Second / 100)
}

func serveTools() (process, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return process{}, nil, err
	}
	s := &http.Server{Handler: toolServer()}
	go s.Serve(l)
	return process{URL: "http://" + l.Addr().String()}, func() { s.Close() }, nil
}

// serveGate is the whole product on a fresh folder, with an agent that joined.
func serveGate(dir, upstream string) (_ process, _ func(), err error) {
	if err := os.MkdirAll(filepath.Join(dir, "policy"), 0o755); err != nil {
		return process{}, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "policy", "main.cedar"), []byte(policies), 0o644); err != nil {
		return process{}, nil, err
	}
	cfg, err := daemon.ParseConfig(filepath.Join(dir, "ostiary.yaml"), []byte("trust_domain: bench.test\nlisten: {agents: \"127.0.0.1:0\"}\nservers:\n  bank: {url: \""+upstream+"/mcp\", allow_addresses: [127.0.0.1/32]}\n"))
	if err != nil {
		return process{}, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		return process{}, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	end := func() { cancel(); <-done }
	defer func() {
		if err != nil {
			end()
		}
	}()
	if _, err = d.Control().Discover(ctx, "bank"); err != nil {
		return process{}, nil, err
	}
	if _, _, err = d.Control().Accept(ctx, "bank", "", "bench"); err != nil {
		return process{}, nil, err
	}
	if err = prepared(cfg.Data); err != nil {
		return process{}, nil, err
	}
	p, err := join(ctx, d)
	p.URL = d.Endpoint()
	return p, end, err
}

// prepared waits until both logs have their segments ahead: a gateway that
// runs for more than a few seconds has.
func prepared(data string) error {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		segments, _ := filepath.Glob(filepath.Join(data, "log", "*", "*", "0*.seg"))
		reserves, _ := filepath.Glob(filepath.Join(data, "log", "*", "reserve"))
		if len(segments) >= 6 && len(reserves) == 2 {
			return nil
		}
	}
	return errors.New("the logs did not get ready")
}

func join(ctx context.Context, d *daemon.Daemon) (p process, err error) {
	id, err := d.Authority().AgentID("bench")
	if err != nil {
		return p, err
	}
	secret, _, err := d.Authority().MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:bench"}, 0)
	if err != nil {
		return p, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return p, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return p, err
	}
	chain, _, err := d.Authority().Enrol(ctx, string(secret.Reveal()), csr)
	if err != nil {
		return p, err
	}
	p.Roots = string(d.Authority().Bundle())
	thumb, err := thumbprint(&key.PublicKey)
	if err != nil {
		return p, err
	}
	token, err := d.Authority().MintToken(ctx, identity.TokenRequest{Agent: id, Audience: d.Endpoint(), Thumbprint: thumb})
	if err != nil {
		return p, err
	}
	p.Token = string(token.Text.Reveal())
	err = p.identify(chain, key)
	return p, err
}

// identify is who the client will be.
func (p *process) identify(chain [][]byte, key *ecdsa.PrivateKey) error {
	for _, c := range chain {
		p.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	p.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return err
}

// serveProxy is a bare httputil.ReverseProxy with mutual TLS; with f, one that
// waits for the disk as a durable gate must, and does nothing else.
func serveProxy(upstream string, f *flushes) (p process, _ func(), err error) {
	u, err := url.Parse(upstream)
	if err != nil {
		return p, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return p, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return p, nil, err
	}
	if err := p.identify([][]byte{der}, key); err != nil {
		return p, nil, err
	}
	p.Roots = p.Chain
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(p.Chain))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return p, nil, err
	}
	var h http.Handler = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, MaxIdleConns: 1024, DisableCompression: true},
	}
	if f != nil {
		h = f.durable(h)
	}
	s := &http.Server{Handler: h}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	go s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}))
	p.URL = "https://" + l.Addr().String() + "/mcp"
	return p, func() { s.Close() }, nil
}
