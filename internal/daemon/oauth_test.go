package daemon

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary"
)

// signing is a gateway where people sign in, and a client with a metadata
// document at an https address of its own.
type signing struct {
	*running
	client string
	asked  atomic.Int64
}

func startSigning(t *testing.T) *signing {
	t.Helper()
	s := &signing{}
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		grants := []string{"authorization_code"}
		if r.URL.Path == "/oauth.json" {
			grants = append(grants, "refresh_token")
		}
		json.NewEncoder(w).Encode(map[string]any{"client_id": s.client, "client_name": "An MCP client", "redirect_uris": []string{"http://127.0.0.1/callback"}, "grant_types": grants})
	}))
	t.Cleanup(site.Close)
	s.client = site.URL + "/oauth.json"
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.running = startWith(t, `, console: "127.0.0.1:0"`, fmt.Sprintf("oauth: {allow_addresses: [127.0.0.1/32], roots_file: %q}\n", roots))
	return s
}

// consent is the person at the browser: it goes where the client sends it, and
// says yes through the interface the console uses.
func (s *signing) consent(ctx context.Context, a *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", a.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	id, ok := strings.CutPrefix(resp.Header.Get("Location"), "/consent/")
	if !ok {
		b, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%d %q %s", resp.StatusCode, resp.Header.Get("Location"), b)
	}
	s.asked.Add(1)
	page := consents{s.d.SignIn()}
	ask, err := page.Pending(ctx, id)
	if err != nil {
		return nil, err
	}
	if ask.Client != "An MCP client" || ask.ClientID != s.client || !ask.Known || !ask.Loopback {
		return nil, fmt.Errorf("asked %+v", ask)
	}
	to, err := page.Decide(ctx, id, "person:dana", &ask.Wants)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return &auth.AuthorizationResult{Code: u.Query().Get("code"), State: u.Query().Get("state"), Iss: u.Query().Get("iss")}, nil
}

// TestOfficialClient: a client that knows nothing of us discovers where to
// sign in, is known by its document, signs a person in, and calls; the call
// beyond its scope makes it ask again.
func TestOfficialClient(t *testing.T) {
	s := startSigning(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		ClientIDMetadataDocumentConfig: &auth.ClientIDMetadataDocumentConfig{URL: s.client},
		RedirectURL:                    "http://127.0.0.1:7777/callback", AuthorizationCodeFetcher: s.consent,
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "official", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.url, OAuthHandler: handler}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if s.asked.Load() != 1 {
		t.Errorf("the person was asked %d times to connect", s.asked.Load())
	}
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "bank___balance", Arguments: map[string]any{}})
	if err != nil || got.IsError || len(got.Content) != 1 || got.Content[0].(*mcp.TextContent).Text != "7" {
		t.Fatalf("%+v %v, of %d tools", got, err, len(tools.Tools))
	}
	if s.asked.Load() != 2 {
		t.Errorf("the person was asked %d times in all", s.asked.Load())
	}
	var client *ostiary.AgentID
	for _, a := range s.d.Authority().Agents() {
		if a.Method == "oauth" {
			client = &a.ID
		}
	}
	if client == nil {
		t.Fatal("the client is no agent")
	}
}

// TestSignInOverTLS: the same words on the agents' own listener, where tokens
// are bound to certificates, and nothing but the token endpoint of the server.
func TestSignInOverTLS(t *testing.T) {
	s := startSigning(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.d.Authority().Bundle())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute}
	defer c.CloseIdleConnections()
	get := func(base, path string) (int, string) {
		t.Helper()
		resp, err := c.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	agents, people := s.d.publicURL(), s.d.consoleURL()
	if code, body := get(agents, "/.well-known/oauth-protected-resource/mcp"); code != 200 || !strings.Contains(body, `"resource":"`+s.d.Endpoint()+`"`) || !strings.Contains(body, `["`+people+`"]`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get(people, "/.well-known/oauth-authorization-server"); code != 200 || !strings.Contains(body, `"issuer":"`+people+`"`) || strings.Contains(body, "registration_endpoint") {
		t.Errorf("%d %s", code, body)
	}
	for _, path := range []string{"/authorize", "/jwks", "/register", "/.well-known/oauth-authorization-server"} {
		if code, _ := get(agents, path); code != 401 && code != 404 {
			t.Errorf("the agents' listener answers %s with %d", path, code)
		}
	}
	resp, err := c.PostForm(agents+"/token", url.Values{"grant_type": {"client_credentials"}, "resource": {s.d.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("without a certificate: %d", resp.StatusCode)
	}
	r, _ := http.NewRequest("GET", people+"/jwks", nil)
	r.Host = "evil.example"
	if resp, err = c.Do(r); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == 200 {
		t.Error("another host's name is answered to")
	}
	for uri, want := range map[string]string{
		s.d.Endpoint(): s.d.Endpoint(), s.url: s.d.Endpoint(), agents: s.d.Endpoint(), s.url + "/bank": s.d.Endpoint() + "/bank",
		s.url + "/none": "", s.url + "/": "", agents + "/mcpx": "", "https://evil.example/mcp": "", people + "/mcp": "", "": "",
	} {
		if got, ok := (resources{s.d}).Resource(uri); got.Audience != want || ok != (want != "") {
			t.Errorf("%q is %q, want %q", uri, got.Audience, want)
		}
	}
	if _, err := (persons{s.d}).PersonAt(t.Context(), "https://idp.example", "x"); ostiary.KindOf(err) != ostiary.NotFound {
		t.Error(err)
	}
}

func TestOAuthConfig(t *testing.T) {
	for text, want := range map[string]string{
		"oauth: {register: true}":                                                    "oauth",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {register: true}":                "",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {allow_addresses: [8.8.8.0/24]}": "oauth.allow_addresses",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {issuers: [{issuer: \"http://idp.example\", keys: \"https://idp.example/k\"}]}":                               "oauth.issuers.issuer",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {issuers: [{issuer: \"https://idp.example\", keys: \"file:///k\"}]}":                                          "oauth.issuers.keys",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {issuers: [{issuer: \"https://idp.example\", keys: \"https://idp.example/k\", scopes: [admin]}]}":             "oauth.issuers.scopes",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {issuers: [{issuer: \"https://idp.example\", keys: \"https://idp.example/k\", scopes: [\"server:nobody\"]}]}": "oauth.issuers.scopes",
		"listen: {console: \"127.0.0.1:0\"}\noauth: {client_secret: x}":                                                                                           "client_secret",
	} {
		_, err := ParseConfig("x.yaml", []byte("trust_domain: example.org\n"+text))
		var e *ostiary.Error
		if (err == nil) != (want == "") || err != nil && (!errors.As(err, &e) || !strings.Contains(e.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestTypeScriptClient: the same with the other official library, in its own
// runtime: test/peers/oauth.mjs. The test is its browser.
func TestTypeScriptClient(t *testing.T) {
	const peers = "../../test/peers"
	if _, err := os.Stat(filepath.Join(peers, "node_modules/@modelcontextprotocol/sdk")); err != nil {
		if os.Getenv("OSTIARY_PEERS") == "required" {
			t.Fatal("the clients are not installed: run npm ci in test/peers")
		}
		t.Skip("the clients are not installed: run npm ci in test/peers")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	s := startSigning(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// This library refreshes a token that does not reach, if it can, and does
	// not ask for more: it steps up without a refresh token only.
	s.client = strings.Replace(s.client, "/oauth.json", "/plain.json", 1)
	task, err := json.Marshal(map[string]string{"url": s.url, "client": s.client, "tool": "bank___balance"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, node, "oauth.mjs")
	cmd.Dir, cmd.Env, cmd.Stderr, cmd.WaitDelay = peers, []string{"OSTIARY_TASK=" + string(task)}, os.Stderr, 10*time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var said struct{ Open, Text, Scope, Type, Error string }
		if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
			t.Fatal(err)
		}
		if said.Open == "" {
			if said.Error != "" || said.Text != "7" || said.Scope != "mcp server:bank" || said.Type != "Bearer" {
				t.Fatalf("%s", lines.Bytes())
			}
			if s.asked.Load() != 2 {
				t.Errorf("the person was asked %d times", s.asked.Load())
			}
			return
		}
		answer, err := s.consent(ctx, &auth.AuthorizationArgs{URL: said.Open})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(in, "{\"code\":%q}\n", answer.Code); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("it ended without an answer")
}
