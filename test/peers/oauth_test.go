package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// TestSignIn lets other people's OAuth clients through the whole of it, with
// another library's OpenID provider as the place where the person signs in.
func TestSignIn(t *testing.T) {
	node := nodeBinary(t)
	t.Run("oauth4webapi", func(t *testing.T) { boundClients(t, node) })
	t.Run("typescript-sdk-1", func(t *testing.T) { sdkClient(t, node) })
}

// boundClients is oauth4webapi: DPoP with nonces, refresh, token exchange.
func boundClients(t *testing.T, node string) {
	g := startSignIn(t, node)
	scope := "mcp server:notes"
	d := g.drive(t, "panva.mjs", map[string]string{
		"url": g.endpoint, "first": g.client("first"), "second": g.client("second"), "scope": scope, "tool": "notes___read_note", "other": "notes___write_note",
	})
	first := g.person.consents(t, d.asks(t))
	if !strings.Contains(first.cameBy, "/interaction/") {
		t.Errorf("the person signed in nowhere: %s", first.cameBy)
	}
	d.answer(t, map[string]string{"url": first.to})
	d.answer(t, map[string]string{"url": g.person.consents(t, d.asks(t)).to})

	type answer struct {
		Status int
		Text   string
	}
	var got struct {
		Error, Code, Cause                                              string
		Scopes                                                          []string
		Type                                                            string
		Call, Again, Refreshed, Stolen, Bearer, Acted, NotItself, Wider answer
		Refresh                                                         struct{ Another, Rotated bool }
		Exchanged                                                       struct {
			Issued, Type string
			Refresh      bool
		}
		Nonces int
	}
	d.ends(t, &got)
	if got.Error != "" {
		t.Fatalf("%s %s\n%s", got.Error, got.Code, got.Cause)
	}
	for name, a := range map[string]answer{"call": got.Call, "another": got.Again, "after a refresh": got.Refreshed, "for somebody": got.Acted} {
		if a.Status != 200 || !strings.Contains(a.Text, "done: read_note") {
			t.Errorf("%s: %d %s", name, a.Status, a.Text)
		}
	}
	for name, a := range map[string]answer{"with another key": got.Stolen, "as a bearer token": got.Bearer, "the actor's token, by who asked for it": got.NotItself} {
		if a.Status != 401 {
			t.Errorf("%s: %d %s", name, a.Status, a.Text)
		}
	}
	if strings.Contains(got.Wider.Text, "done") || !strings.Contains(got.Wider.Text, "does not cover") {
		t.Errorf("what was not handed on: %+v", got.Wider)
	}
	if strings.ToLower(got.Type) != "dpop" || !got.Refresh.Another || !got.Refresh.Rotated || got.Nonces == 0 {
		t.Errorf("%+v", got)
	}
	if x := got.Exchanged; !strings.HasSuffix(x.Issued, ":access_token") || strings.ToLower(x.Type) != "dpop" || x.Refresh {
		t.Errorf("exchanged: %+v", x)
	}
	log := g.ostiary(t, "log", "--changes", "--json", "-n", "1000")
	for _, want := range []string{`"admit"`, `"derive"`, "person:oidc-"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// sdkClient is the official TypeScript client.
func sdkClient(t *testing.T, node string) {
	g := startSignIn(t, node)
	d := g.drive(t, "oauth.mjs", map[string]string{"url": g.endpoint, "client": g.client("official"), "tool": "notes___read_note"})
	var got struct {
		Open, Error, Text, Type string
		IsError, Refresh        bool
	}
	for d.ends(t, &got); got.Open != ""; d.ends(t, &got) {
		back := g.person.consents(t, got.Open)
		u, err := url.Parse(back.to)
		if err != nil {
			t.Fatal(err)
		}
		d.answer(t, map[string]string{"code": u.Query().Get("code")})
		got.Open = ""
	}
	if got.Error != "" || got.IsError || got.Text != "done: read_note" {
		t.Errorf("%+v", got)
	}
}

// signIn is a gateway with a console, one tool server, an OpenID provider, and
// a person who uses all of it.
type signIn struct {
	*gateway
	node   string
	site   string // where clients' documents are
	person *person
}

func startSignIn(t *testing.T, node string) *signIn {
	t.Helper()
	dir := t.TempDir()
	g := &signIn{gateway: &gateway{binary: build(t), config: filepath.Join(dir, "ostiary.yaml")}, node: node}
	tls, plain, console, provider := freePort(t), freePort(t), freePort(t), freePort(t)
	_, port, _ := strings.Cut(console, ":")
	_, providerPort, _ := strings.Cut(provider, ":")
	g.endpoint, g.person = "http://"+plain+"/mcp", newPerson(t, "http://localhost:"+port)
	var roots string
	g.site, roots = documents(t, dir)
	write(t, filepath.Join(dir, "secret"), "the secret of the console")
	write(t, g.config, fmt.Sprintf(`
trust_domain: peers.ostiary.test
listen: {agents: %q, loopback: %q, console: %q}
ledger: {segment_size: 1MiB}
oauth: {allow_addresses: [127.0.0.1/32], roots_file: %q}
signin:
  oidc: {issuer: "http://%s", client_id: console, client_secret_file: secret, domains: {example.org: []}}
servers:
  notes: {url: %q, allow_addresses: [127.0.0.1/32]}
`, tls, plain, console, roots, provider, notebook(t)))
	write(t, filepath.Join(dir, "policy", "a.cedar"), `
@id("session") permit (principal, action in [Ostiary::Action::"session", Ostiary::Action::"lists"], resource);
@id("notes") permit (principal, action in Ostiary::Action::"CallTool", resource);
`)
	d := g.drive(t, "provider.mjs", map[string]string{
		"issuer": "http://" + provider, "port": providerPort, "client": "console", "secret": "the secret of the console", "redirect": g.person.console + "/sign-in/callback",
	})
	var up struct{ Ready bool }
	if d.ends(t, &up); !up.Ready {
		t.Fatal("the provider does not start")
	}
	g.serve(t)
	g.ostiary(t, "tools", "pin", "notes")
	return g
}

func (g *signIn) client(name string) string { return g.site + "/" + name + ".json" }

// documents serves the metadata document of any client, at an https address
// that the certificates in a file vouch for.
func documents(t *testing.T, dir string) (site, roots string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		grants := []string{"authorization_code", "refresh_token"}
		if strings.Contains(r.URL.Path, "official") { // it would refresh a token that does not reach instead of asking for more
			grants = grants[:1]
		}
		json.NewEncoder(w).Encode(map[string]any{
			"client_id": "https://" + r.Host + r.URL.Path, "client_name": "A client", "redirect_uris": []string{"http://127.0.0.1/callback"},
			"grant_types": grants, "dpop_bound_access_tokens": strings.Contains(r.URL.Path, "first"),
		})
	}))
	t.Cleanup(s.Close)
	roots = filepath.Join(dir, "roots.pem")
	write(t, roots, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s.URL, roots
}

// notebook is a tool server with a tool that reads and one that writes.
func notebook(t *testing.T) (endpoint string) {
	t.Helper()
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	for name, reads := range map[string]bool{"read_note": true, "write_note": false} {
		mcp.AddTool(s, &mcp.Tool{Name: name, Description: name, Annotations: &mcp.ToolAnnotations{ReadOnlyHint: reads}}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done: " + name}}}, nil, nil
		})
	}
	h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(h.Close)
	return h.URL
}

// driver is a program in JavaScript that says and hears lines of JSON.
type driver struct {
	in    io.Writer
	lines *bufio.Scanner
}

// drive starts one; it is killed with the test.
func (g *signIn) drive(t *testing.T, program string, task map[string]string) *driver {
	t.Helper()
	b, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(g.node, program)
	cmd.Env, cmd.Stderr = []string{"OSTIARY_TASK=" + string(b)}, &logWriter{t: t}
	var said bytes.Buffer
	cmd.Stderr = &said
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
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", program, &said)
		}
	})
	d := &driver{in, bufio.NewScanner(out)}
	d.lines.Buffer(nil, 1<<20)
	return d
}

// asks returns the address that a person is to open.
func (d *driver) asks(t *testing.T) string {
	t.Helper()
	var q struct{ Open, Error, Cause string }
	if d.ends(t, &q); q.Open == "" {
		t.Fatalf("the client asks nobody: %+v", q)
	}
	return q.Open
}

func (d *driver) answer(t *testing.T, a map[string]string) {
	t.Helper()
	b, _ := json.Marshal(a)
	if _, err := fmt.Fprintf(d.in, "%s\n", b); err != nil {
		t.Fatal(err)
	}
}

// ends reads the next line.
func (d *driver) ends(t *testing.T, into any) {
	t.Helper()
	if !d.lines.Scan() {
		t.Fatalf("it says nothing more: %v", d.lines.Err())
	}
	if err := json.Unmarshal(d.lines.Bytes(), into); err != nil {
		t.Fatalf("it said %s: %v", d.lines.Bytes(), err)
	}
}

// person opens pages, follows where they lead, and sends forms as a browser
// does. What a person does here needs no script.
type person struct {
	console string
	client  *http.Client
}

func newPerson(t *testing.T, console string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &person{console, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// page is where a person came to.
type page struct {
	at     *url.URL
	status int
	body   string
	to     string // where it leads, out of everything the person visits
	cameBy string // the addresses on the way
}

var refresh = regexp.MustCompile(`^0;url=(.*)$`)

// open goes to an address and on to wherever that leads, as far as the console
// and the provider go.
func (p *person) open(t *testing.T, method, to string, form url.Values) page {
	t.Helper()
	var got page
	for range 20 {
		req, err := http.NewRequest(method, to, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
			req.Header.Set("Sec-Fetch-Site", "same-origin")
		}
		resp, err := p.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = page{at: req.URL, status: resp.StatusCode, body: string(b), cameBy: got.cameBy + " " + req.URL.Path}
		next := resp.Header.Get("Location")
		if m := refresh.FindStringSubmatch(resp.Header.Get("Refresh")); m != nil {
			next = m[1]
		}
		if next == "" {
			return got
		}
		u, err := req.URL.Parse(next)
		if err != nil {
			t.Fatal(err)
		}
		if got.to = u.String(); u.Port() == "7777" { // the client's own
			return got
		}
		method, to, form = http.MethodGet, got.to, nil
	}
	t.Fatalf("no end of it: %s", got.cameBy)
	return got
}

var (
	formAt  = regexp.MustCompile(`(?s)<form[^>]*\saction="([^"]*)"[^>]*>(.*?)</form>`)
	inputAt = regexp.MustCompile(`<input\b[^>]*>`)
	attrAt  = regexp.MustCompile(`\b(name|value|type|checked)(?:="([^"]*)")?`)
)

// send fills in the first form of a page whose address holds a text, and sends
// it.
func (p *person) send(t *testing.T, from page, action string, with map[string]string) page {
	t.Helper()
	for _, m := range formAt.FindAllStringSubmatch(from.body, -1) {
		if !strings.Contains(m[1], action) {
			continue
		}
		form := url.Values{}
		for _, in := range inputAt.FindAllString(m[2], -1) {
			a := map[string]string{}
			for _, x := range attrAt.FindAllStringSubmatch(in, -1) {
				a[x[1]] = html.UnescapeString(x[2])
			}
			if _, checked := a["checked"]; a["name"] != "" && (a["type"] != "radio" && a["type"] != "checkbox" || checked) {
				form.Add(a["name"], a["value"])
			}
		}
		for k, v := range maps.All(with) {
			form.Set(k, v)
		}
		to, err := from.at.Parse(html.UnescapeString(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		next := p.open(t, http.MethodPost, to.String(), form)
		next.cameBy = from.cameBy + next.cameBy
		return next
	}
	t.Fatalf("no form for %q at %s (%d):\n%s", action, from.at, from.status, from.body)
	return page{}
}

// consents opens what a client asks to be opened, signs in at the provider
// where that is wanted, and accepts.
func (p *person) consents(t *testing.T, to string) page {
	t.Helper()
	at := p.open(t, http.MethodGet, to, nil)
	for range 10 {
		switch path := at.at.Path; {
		case path == "/sign-in":
			at = p.send(t, at, "/sign-in/provider", nil)
		case strings.HasPrefix(path, "/interaction/") && strings.Contains(at.body, `name="login"`):
			at = p.send(t, at, "/interaction/", map[string]string{"login": "dana", "password": "any"})
		case strings.HasPrefix(path, "/interaction/"):
			at = p.send(t, at, "/interaction/", nil)
		case path == "/sign-in/callback":
			at = p.send(t, at, "/sign-in/callback", nil)
		case strings.HasPrefix(path, "/consent/") && at.to == "":
			at = p.send(t, at, "/consent/", map[string]string{"answer": "accept"})
		default:
			if at.to == "" {
				t.Fatalf("the person is lost at %s (%d) by %s:\n%s", at.at, at.status, at.cameBy, at.body)
			}
			return at
		}
	}
	t.Fatalf("no end of it: %s", at.cameBy)
	return at
}
