package browser_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary/test/browser"
)

// client is an MCP client of the official SDK that knows nothing but the
// gateway's address: it has a metadata document, listens for the answer of the
// browser, and gives the test the addresses a person is to open.
type client struct {
	transport *mcp.StreamableClientTransport
	open      chan string // to the person
}

func newClient(t *testing.T, id, endpoint string) *client {
	t.Helper()
	c := &client{open: make(chan string)}
	came := make(chan *auth.AuthorizationResult, 1)
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/callback" {
			http.NotFound(w, r)
			return
		}
		q := r.URL.Query()
		select {
		case came <- &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}:
		default: // the browser asked twice
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "the client was told: code %t, error %s", q.Get("code") != "", q.Get("error"))
	}))
	t.Cleanup(back.Close)
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		ClientIDMetadataDocumentConfig: &auth.ClientIDMetadataDocumentConfig{URL: id},
		RedirectURL:                    back.URL + "/callback",
		AuthorizationCodeFetcher: func(ctx context.Context, a *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			select {
			case c.open <- a.URL:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case r := <-came:
				if r.Code == "" {
					return nil, fmt.Errorf("the person refused")
				}
				return r, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.transport = &mcp.StreamableClientTransport{Endpoint: endpoint, OAuthHandler: handler}
	return c
}

// asks waits for an address that a person is to open.
func (c *client) asks(t *testing.T, done <-chan error) string {
	t.Helper()
	select {
	case u := <-c.open:
		return u
	case err := <-done:
		t.Fatalf("the client asks nobody and ends: %v", err)
	case <-time.After(patience):
		t.Fatal("the client asks nobody")
	}
	return ""
}

func ended(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("the client does not come to an end")
		return nil
	}
}

// document serves the metadata document of a client, at an https address that
// the certificates in roots vouch for.
func document(t *testing.T, name string) (id, roots string) {
	t.Helper()
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"client_id": id, "client_name": name, "redirect_uris": []string{"http://127.0.0.1/callback"}, "grant_types": []string{"authorization_code", "refresh_token"}})
	}))
	t.Cleanup(site.Close)
	id, roots = site.URL+"/client.json", filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return id, roots
}

// notebook is a tool server with a tool that reads and one that writes, and
// the number of calls that reached it.
func notebook(t *testing.T) (url string, calls *atomic.Int64) {
	t.Helper()
	type nothing struct{}
	calls = &atomic.Int64{}
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	for name, reads := range map[string]bool{"read_note": true, "write_note": false} {
		mcp.AddTool(s, &mcp.Tool{Name: name, Description: name, Annotations: &mcp.ToolAnnotations{ReadOnlyHint: reads}}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, any, error) {
			calls.Add(1)
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done: " + name}}}, nil, nil
		})
	}
	h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(h.Close)
	return h.URL, calls
}

// TestClientOfAPerson: a client that knows an address alone finds out where to
// sign in; a person says yes on the page, to less than it asked for; it calls;
// they see the mandates and revoke them; the next call is refused.
func TestClientOfAPerson(t *testing.T) {
	tab := browser.Open(t)
	id, roots := document(t, "Field Notes")
	tools, calls := notebook(t)
	loopback := "127.0.0.1:" + free(t)
	g := startWith(t, t.TempDir(), free(t), fmt.Sprintf("  loopback: %s\n", loopback),
		fmt.Sprintf("oauth: {allow_addresses: [127.0.0.1/32], roots_file: %q}\nservers:\n  notes: {url: %q, allow_addresses: [127.0.0.1/32]}\n", roots, tools),
		connecting+`@id("look") permit (principal, action in [Ostiary::Action::"lists"], resource);
@id("notes") permit (principal, action in [Ostiary::Action::"notes___read_note", Ostiary::Action::"notes___write_note"], resource);
`)
	g.run("tools", "pin", "notes")
	g.run("policy", "load")

	tab.Go(g.firstLink())
	tab.See("You are the first operator here")
	tab.Type("#name", "dana\r")
	tab.At("/now")
	tab.Click("header form button[type=submit]")
	tab.At("/signed-out")

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // of a busy machine
	defer cancel()
	c := newClient(t, id, "http://"+loopback+"/mcp")
	var session *mcp.ClientSession
	done := make(chan error, 1)
	go func() {
		var err error
		session, err = mcp.NewClient(&mcp.Implementation{Name: "field-notes", Version: "1"}, nil).Connect(ctx, c.transport, nil)
		done <- err
	}()

	// To connect it asks once, of somebody who is not signed in yet.
	tab.Go(c.asks(t, done))
	tab.At("/sign-in")
	tab.Click("#go")
	tab.See("Field Notes asks to act for you")
	tab.See("Any program on it can listen")
	tab.See("It can call nothing with this")
	tab.Shots("client-connects")
	tab.Click(`button[value="accept"]`)
	tab.See("the client was told: code true")
	if err := ended(t, done); err != nil {
		t.Fatal(err)
	}
	defer session.Close()

	call := func(tool string) {
		go func() {
			r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{}})
			if err == nil && (r.IsError || len(r.Content) != 1 || r.Content[0].(*mcp.TextContent).Text != "done: "+strings.TrimPrefix(tool, "notes___")) {
				b, _ := json.Marshal(r)
				err = fmt.Errorf("refused: %s", b)
			}
			done <- err
		}()
	}

	// To call it must ask for more, and is told no.
	call("notes___read_note")
	tab.Go(c.asks(t, done))
	tab.See("Field Notes asks to act for you")
	tab.Click(`button[value="refuse"]`)
	tab.See("the client was told: code false, error access_denied")
	if err := ended(t, done); err == nil || calls.Load() != 0 {
		t.Fatalf("after a refusal: %v, %d calls", err, calls.Load())
	}

	// It asks again, and gets less than it wants.
	call("notes___read_note")
	tab.Go(c.asks(t, done))
	tab.See("everything that policy allows on notes")
	tab.See("notes___write_note")
	tab.Shots("client-calls")
	// The mark stays at everything. A page that was resized for its picture may
	// still move under a pointer, so the box itself is told.
	tab.Value(`document.querySelector('input[value="notes___read_note"]').click()`)
	tab.Until(`document.querySelector('input[value="notes___read_note"]').checked`)
	tab.Click(`button[value="accept"]`)
	tab.See("the client was told: code true")
	if err := ended(t, done); err != nil || calls.Load() != 1 {
		t.Fatalf("%v, %d calls", err, calls.Load())
	}
	call("notes___write_note")
	if err := ended(t, done); err == nil || !strings.Contains(err.Error(), "mandate") || calls.Load() != 1 {
		t.Fatalf("what the person took out is called: %v, %d calls", err, calls.Load())
	}

	// They see what they gave, and end it. What the client only connected under
	// was completed when it had something else.
	tab.Go(g.url + "/mandates")
	tab.See("1 is in force")
	tab.See("which calls itself Field Notes")
	tab.Shots("client-mandates")
	tab.Click("tbody a")
	tab.See("End it")
	tab.Shots("client-mandate")
	tab.Click(`button[value="revoked"]`)
	tab.See("that is over")
	tab.Go(g.url + "/mandates")
	tab.See("What you let agents do")
	tab.See("None is in force")
	tab.Shots("client-mandates-ended")

	// Its token is no good any more, so it asks again, and is told no.
	call("notes___read_note")
	tab.Go(c.asks(t, done))
	tab.See("Field Notes asks to act for you")
	tab.Click(`button[value="refuse"]`)
	tab.See("the client was told: code false, error access_denied")
	if err := ended(t, done); err == nil || calls.Load() != 1 {
		t.Fatalf("after the revocation: %v, %d calls", err, calls.Load())
	}
	log := g.run("log", "--changes", "--json")
	for _, want := range []string{"admit", "revoke_mandate", "person:dana"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s", want)
		}
	}
}
