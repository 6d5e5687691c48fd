package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary/internal/identity"
)

// running is a gateway inside this process, with a tool server and one
// enrolled agent.
type running struct {
	d     *Daemon
	tools *httptest.Server
	url   string // of the loopback door
	token string
}

type nothing struct{}

func toolServer(t *testing.T) *httptest.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "bank", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "balance", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "7"}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "slow"}, func(ctx context.Context, _ *mcp.CallToolRequest, _ nothing) (*mcp.CallToolResult, any, error) {
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond): // its library does not tell it that the caller left
		}
		return nil, nil, ctx.Err()
	})
	h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(h.Close)
	return h
}

func start(t *testing.T) *running { return startWith(t, "", "") }

// startWith starts one with more in its configuration.
func startWith(t *testing.T, listen, more string) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "leak") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &running{tools: toolServer(t)}
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy/main.cedar", `@id("look") permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);
@id("tools") permit (principal, action in [Ostiary::Action::"bank___balance", Ostiary::Action::"bank___slow"], resource);
`)
	cfg, err := ParseConfig(filepath.Join(dir, "ostiary.yaml"), fmt.Appendf(nil, `trust_domain: example.org
listen: {agents: "127.0.0.1:0", loopback: "127.0.0.1:0"%s}
ledger: {segment_size: 1MiB}
%sservers:
  bank: {url: %q, allow_addresses: [127.0.0.1/32]}
`, listen, more, r.tools.URL))
	if err != nil {
		t.Fatal(err)
	}
	if r.d, err = Open(t.Context(), cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r.url = "http://" + r.d.loopback.Addr().String() + "/mcp"
	r.enrol(t)
	return r
}

// enrol accepts the tools and gets the agent a token.
func (r *running) enrol(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if _, err := r.d.control.Discover(ctx, "bank"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.d.control.Accept(ctx, "bank", "", "test"); err != nil {
		t.Fatal(err)
	}
	id, err := r.d.authority.AgentID("worker")
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := r.d.authority.MintJoinToken(ctx, identity.JoinToken{Agent: id, Principal: "person:dana", Owner: "dana", Zone: "default"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.d.authority.Enrol(ctx, string(secret.Reveal()), csr); err != nil {
		t.Fatal(err)
	}
	token, err := r.d.authority.MintToken(ctx, identity.TokenRequest{Agent: id, Audience: r.d.Endpoint()})
	if err != nil {
		t.Fatal(err)
	}
	r.token = string(token.Text.Reveal())
}

// post sends a body to the door with the headers of revision 2026-07-28.
func (r *running) post(ctx context.Context, client *http.Client, token, method, name, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", r.url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name, "Authorization": "Bearer " + token} {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}`

func (r *running) call(ctx context.Context, client *http.Client, token, tool string) (int, string, error) {
	return r.post(ctx, client, token, "tools/call", tool, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{},%s}}`, tool, meta))
}

// held is what a process holds.
type held struct {
	goroutines, descriptors int
	heap                    uint64
}

func holds(t *testing.T) held {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// TestNothingLeaks: after a burst of everything that agents, strangers and
// networks do, goroutines, descriptors and heap are back where they were, and
// nothing counts that is gone.
func TestNothingLeaks(t *testing.T) {
	r := start(t)
	client := &http.Client{Transport: &http.Transport{}}
	if code, body, err := r.call(t.Context(), client, r.token, "bank___balance"); code != 200 || !strings.Contains(body, `"7"`) {
		t.Fatalf("before anything: %d %s %v", code, body, err)
	}
	r.burst(client, 1) // what is made once, such as pools, is made now
	quiet := func() { client.CloseIdleConnections(); r.tools.CloseClientConnections() }
	quiet()
	base := holds(t)
	settled(t, func() bool { // until it falls no more
		before := base
		base = holds(t)
		return base.goroutines >= before.goroutines && base.descriptors >= before.descriptors
	})
	r.burst(client, 8)
	quiet()
	var now held
	back := settled(t, func() bool { // a leak would show eight times
		now = holds(t)
		return now.goroutines <= base.goroutines+4 && now.descriptors <= base.descriptors+4 && now.heap <= base.heap+(8<<20)
	})
	if !back {
		b := make([]byte, 1<<20)
		t.Errorf("before %+v, after %+v\n%s", base, now, b[:runtime.Stack(b, true)])
	}
	if code, body, err := r.call(t.Context(), client, r.token, "bank___balance"); code != 200 || !strings.Contains(body, `"7"`) {
		t.Errorf("afterwards: %d %s %v", code, body, err)
	}
}

// settled asks until f says yes, for at most ten seconds.
func settled(t *testing.T, f func() bool) bool {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		if f() {
			return true
		}
		<-tick.C
	}
	return false
}

// burst is n of each thing that happens to a gateway, all at once.
func (r *running) burst(client *http.Client, n int) {
	var all sync.WaitGroup
	for range n {
		all.Go(func() { r.call(context.Background(), client, r.token, "bank___balance") })
		all.Go(func() { r.call(context.Background(), client, r.token, "bank___absent") })
		all.Go(func() { r.call(context.Background(), client, "forged", "bank___balance") })
		all.Go(func() {
			r.post(context.Background(), client, r.token, "tools/call", "bank___balance", `{"jsonrpc":"2.0","id":1,"id":2}`)
		})
		all.Go(func() { // it leaves while the tool works
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			r.call(ctx, client, r.token, "bank___slow")
		})
		all.Go(func() { // a stream that is cut
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			r.post(ctx, client, r.token, "subscriptions/listen", "", `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+meta+`}}`)
		})
		for _, text := range []string{"", "GET / HTTP/1.1\r\n", "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{", "\x16\x03\x01"} {
			for _, l := range []net.Listener{r.d.agents, r.d.loopback} {
				all.Go(func() { // a stranger who says half a thing and leaves
					if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
						io.WriteString(c, text)
						c.Close()
					}
				})
			}
		}
	}
	all.Wait()
}
