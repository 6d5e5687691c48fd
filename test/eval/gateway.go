package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
)

// gateway is the whole product on a folder of its own, with an agent that
// joined, and the server of recorded results behind it.
type gateway struct {
	suite  string
	dir    string
	daemon *daemon.Daemon
	server *server
	client *http.Client
	agent  ostiary.AgentID
	tools  []ostiary.Tool // as accepted
	end    func()
}

const person = "person:operator"

// startGateway starts it with the policies of a folder, or with the defaults
// made from the tool list if policies is "".
func startGateway(ctx context.Context, suite string, list tools, used map[string]map[string]bool, policies string) (_ *gateway, err error) {
	g := &gateway{suite: suite}
	if g.dir, err = os.MkdirTemp("", "eval"); err != nil {
		return nil, err
	}
	var closers []func()
	g.end = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
		os.RemoveAll(g.dir)
	}
	defer func() {
		if err != nil {
			g.end()
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g.server = newServer(list, used)
	srv := &http.Server{Handler: g.server.handler()}
	go srv.Serve(l)
	closers = append(closers, func() { srv.Close() })

	folder := filepath.Join(g.dir, "policy")
	if policies != "" {
		err = os.CopyFS(folder, os.DirFS(policies))
	} else {
		err = writeAll(folder, map[string][]byte{"closed.cedar": []byte("// nothing yet\n")})
	}
	if err != nil {
		return nil, err
	}
	cfg, err := daemon.ParseConfig(filepath.Join(g.dir, "ostiary.yaml"), []byte("trust_domain: eval.test\nlisten: {agents: \"127.0.0.1:0\"}\nservers:\n  "+suite+": {url: \"http://"+l.Addr().String()+"/mcp\", allow_addresses: [127.0.0.1/32]}\n"))
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	if g.daemon, err = daemon.Open(running, cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))); err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- g.daemon.Run(running) }()
	closers = append(closers, func() { cancel(); <-done })
	if _, err = g.daemon.Control().Discover(ctx, suite); err != nil {
		return nil, err
	}
	accepted, published, err := g.daemon.Control().Accept(ctx, suite, "", "operator")
	if err != nil {
		return nil, fmt.Errorf("%w: %+v", err, published.Problems)
	}
	g.tools = accepted
	if policies == "" {
		if err := writeAll(folder, defaults(accepted)); err != nil {
			return nil, err
		}
		if p, err := g.daemon.Control().Publish(ctx); err != nil {
			return nil, fmt.Errorf("the default policy: %w: %+v", err, p.Problems)
		}
	}
	return g, g.join(ctx)
}

// defaults are the starter policies, as "ostiary policy init" writes them, with
// every tool opened, and the labels that "ostiary tools label" proposes.
func defaults(accepted []ostiary.Tool) map[string][]byte {
	list := make([]*ostiary.Tool, len(accepted))
	for i := range accepted {
		list[i] = &accepted[i]
	}
	files := policy.Starter(list).Files
	files[provenance.LabelsFile] = provenance.Propose(list)
	files["open.cedar"] = []byte("@id(\"open\") @reason(\"opened for the replay\")\npermit (principal is Ostiary::Agent, action in Ostiary::Action::\"CallTool\", resource);\n")
	return files
}

func writeAll(dir string, files map[string][]byte) error {
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, text, 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// join enrols the agent, and makes the client it speaks with.
func (g *gateway) join(ctx context.Context) (err error) {
	if g.agent, err = g.daemon.Authority().AgentID("subject"); err != nil {
		return err
	}
	secret, _, err := g.daemon.Authority().MintJoinToken(ctx, identity.JoinToken{Agent: g.agent, Principal: person}, 0)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	chain, _, err := g.daemon.Authority().Enrol(ctx, string(secret.Reveal()), csr)
	if err != nil {
		return err
	}
	pair := tls.Certificate{Certificate: chain, PrivateKey: key}
	pool := x509.NewCertPool()
	for rest := g.daemon.Authority().Bundle(); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return err
		}
		pool.AddCert(c)
	}
	g.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}},
		MaxIdleConnsPerHost: 128, DisableCompression: true,
	}}
	return nil
}

// mandate gives the agent a mandate for one run: its task is the prompt.
func (g *gateway) mandate(ctx context.Context, prompt string) (ostiary.MandateID, error) {
	const most = 4 << 10 // bytes of a task
	if len(prompt) > most {
		prompt = strings.ToValidUTF8(prompt[:most], "")
	}
	m, err := g.daemon.Authority().IssueMandate(ctx, person, ostiary.Mandate{
		Kind: ostiary.TaskMandate, Agent: g.agent, Task: prompt, Purpose: "replay",
		Actions: []string{"*"}, Resources: []string{"*"}, Classes: []string{"*"}, Approvers: []string{"*"}, Expires: time.Now().Add(time.Hour),
	})
	return m.ID, err
}

// verdict is what the gateway made of a call.
type verdict uint8

const (
	permitted verdict = iota
	denied
	asked // a person decides
)

// call makes one call as the agent and says what became of it, with the
// gateway's words if it was refused.
func (g *gateway) call(ctx context.Context, mandate ostiary.MandateID, tool string, args json.RawMessage) (verdict, string, error) {
	name := g.suite + "___" + tool
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `","arguments":` + string(args) +
		`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"eval","version":"1"}}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.daemon.Endpoint(), strings.NewReader(body))
	if err != nil {
		return denied, "", err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Ostiary-Mandate": {string(mandate)},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {name},
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return denied, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return denied, "", err
	}
	return readAnswer(b, resp)
}

// refusal is how the gateway says no, beside an error or inside a result.
type refusal struct {
	Kind     string   `json:"kind"`
	Code     string   `json:"code"`
	Remedies []string `json:"remedies"`
}

func readAnswer(b []byte, resp *http.Response) (verdict, string, error) {
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		for line := range bytes.Lines(b) {
			if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				b = data
			}
		}
	}
	var m struct {
		Result *struct {
			IsError bool                       `json:"isError"`
			Content []struct{ Text string }    `json:"content"`
			Meta    map[string]json.RawMessage `json:"_meta"`
		} `json:"result"`
		Error *struct {
			Message string  `json:"message"`
			Data    refusal `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return denied, "", fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	var r refusal
	words := ""
	switch {
	case m.Error != nil:
		r, words = m.Error.Data, m.Error.Message
	case m.Result == nil:
		return denied, "", fmt.Errorf("no result: %s", b)
	case m.Result.IsError && m.Result.Meta[metaCode] != nil:
		json.Unmarshal(m.Result.Meta[metaCode], &r.Code)
		json.Unmarshal(m.Result.Meta[metaRemedies], &r.Remedies)
		for _, c := range m.Result.Content {
			words += c.Text
		}
	default:
		return permitted, "", nil
	}
	switch {
	case r.Code == "held" || len(r.Remedies) > 0:
		return asked, words, nil
	case r.Code == "forbid" || r.Code == "no_permit" || strings.HasPrefix(r.Code, "unvalidated") || r.Code == "mandate":
		return denied, words, nil
	}
	return denied, words, fmt.Errorf("the gateway could not decide: %s: %s", r.Code, words)
}

// The members of _meta under which a refused tool call tells its refusal.
const (
	metaCode     = "dev.ostiary/code"
	metaRemedies = "dev.ostiary/remedies"
)

// server is the MCP server behind the gateway: it answers each call with what
// was recorded.
type server struct {
	mcp *mcp.Server

	mu       sync.Mutex
	cond     *sync.Cond
	expected map[string]*expectation // by tool and arguments
}

// expectation is one call that is about to arrive.
type expectation struct {
	arrived chan struct{} // closed when it is here
	release chan struct{} // its result may go
	text    string
	failed  bool
}

// afterApproval is the tool by which the result of a call reaches the session
// that a person would have approved: in a replay an ask counts as approved.
const afterApproval = "result_of_an_approved_call"

func newServer(list tools, used map[string]map[string]bool) *server {
	s := &server{mcp: mcp.NewServer(&mcp.Implementation{Name: "recorded", Version: "1"}, nil), expected: map[string]*expectation{}}
	s.cond = sync.NewCond(&s.mu)
	for _, t := range list.Tools {
		s.mcp.AddTool(&mcp.Tool{Name: t.Name, Description: t.Description, InputSchema: lenient(t.InputSchema, used[t.Name]), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: t.Annotations.ReadOnlyHint}}, s.call)
	}
	everything := map[string]bool{}
	for _, t := range list.Tools {
		var schema struct{ Properties map[string]any }
		json.Unmarshal(t.InputSchema, &schema)
		for name := range schema.Properties {
			everything[name] = true
		}
		for name := range used[t.Name] {
			everything[name] = true
		}
	}
	s.mcp.AddTool(&mcp.Tool{Name: afterApproval, Description: "Returns what a call returned that a person approved.", InputSchema: lenient(json.RawMessage(`{"type":"object"}`), everything), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, s.call)
	return s
}

func (s *server) handler() http.Handler {
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.mcp }, &mcp.StreamableHTTPOptions{Stateless: true})
}

// key names a call: two runs that make the same call at the same time take
// turns.
func key(tool string, args []byte) string {
	var v any
	json.Unmarshal(args, &v)
	b, _ := json.Marshal(v)
	return tool + " " + string(b)
}

// expect announces a call. It waits while another run makes the same one.
func (s *server) expect(k, text string, failed bool) *expectation {
	e := &expectation{arrived: make(chan struct{}), release: make(chan struct{}), text: text, failed: failed}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.expected[k] != nil {
		s.cond.Wait()
	}
	s.expected[k] = e
	return e
}

func (s *server) done(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.expected, k)
	s.cond.Broadcast()
}

func (s *server) call(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	s.mu.Lock()
	e := s.expected[key(r.Params.Name, r.Params.Arguments)]
	s.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("no run makes this call now: %s", r.Params.Name)
	}
	close(e.arrived)
	select {
	case <-e.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: e.text}}, IsError: e.failed}, nil
}
