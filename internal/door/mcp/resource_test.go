package mcp

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

// signingIn returns a world with an authorization server.
func signingIn(t *testing.T) *world {
	w := newWorld(t)
	w.door.signIn = "https://sign-in.test"
	return w
}

func texts(v ostiary.Value) (out []string) {
	for _, e := range v.Elements() {
		out = append(out, e.Text())
	}
	return out
}

func TestResourceMetadata(t *testing.T) {
	w := signingIn(t)
	get := func(path, host string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Host, r.RequestURI = host, path
		return w.do(r)
	}
	for path, want := range map[string]struct {
		resource string
		scopes   []string
	}{
		metadataPath:               {"http://gate.test:8700", []string{"mcp", "server:bank", "server:docs"}},
		metadataPath + "/mcp":      {"http://gate.test:8700/mcp", []string{"mcp", "server:bank", "server:docs"}},
		metadataPath + "/mcp/bank": {"http://gate.test:8700/mcp/bank", []string{"mcp", "server:bank"}},
		metadataPath + "/mcp/none": {"http://gate.test:8700/mcp/none", []string{"mcp", "server:none"}}, // it does not say what there is
	} {
		rec := get(path, "GATE.test:8700")
		b := body(t, rec)
		if rec.Code != 200 || !b.Get("resource").Is(want.resource) || !slices.Equal(texts(b.Get("scopes_supported")), want.scopes) ||
			!slices.Equal(texts(b.Get("authorization_servers")), []string{"https://sign-in.test"}) || !slices.Equal(texts(b.Get("bearer_methods_supported")), []string{"header"}) {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
		if strings.Contains(rec.Body.String(), "offline_access") {
			t.Error("offline_access is listed")
		}
	}
	for path, code := range map[string]int{
		metadataPath + "/": 404, metadataPath + "/mcp/": 404, metadataPath + "/mcp/a/b": 404, metadataPath + "/mcp/%62ank": 404, metadataPath + "/mcp?x=1": 404, metadataPath + "x": 401,
	} {
		if rec := get(path, "gate.test:8700"); rec.Code != code && !(code == 401 && rec.Code == 404) {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
	if rec := get(metadataPath, "evil.test"); rec.Code != 403 {
		t.Errorf("another host: %d", rec.Code)
	}
	if rec := w.do(raw(metadataPath, "{}")); rec.Code != 405 {
		t.Errorf("POST: %d", rec.Code)
	}
	if len(w.counted) == 0 {
		t.Error("what is no metadata did not reach the gate")
	}
	w.door.signIn = ""
	if rec := get(metadataPath, "gate.test:8700"); rec.Code != 404 {
		t.Errorf("without an authorization server: %d", rec.Code)
	}
}

func TestChallenges(t *testing.T) {
	const meta = `resource_metadata="http://gate.test:8700/.well-known/oauth-protected-resource/mcp`
	for name, c := range map[string]struct {
		path, authorization, proof string
		want                       string
	}{
		"nothing shown":       {"/mcp", "", "", `Bearer ` + meta + `", scope="mcp"`},
		"one server":          {"/mcp/bank", "", "", `Bearer ` + meta + `/bank", scope="mcp server:bank"`},
		"a bad token":         {"/mcp", "Bearer foreign", "", `Bearer error="invalid_token", ` + meta + `", scope="mcp"`},
		"a bad bound token":   {"/mcp", "DPoP foreign", "p", `DPoP error="invalid_token", algs="ES256", ` + meta + `", scope="mcp"`},
		"a bad proof":         {"/mcp", "dpop foreign-proof", "p", `DPoP error="invalid_dpop_proof", algs="ES256", ` + meta + `", scope="mcp"`},
		"a proof of no nonce": {"/mcp", "DPoP foreign-nonce", "p", `DPoP error="use_dpop_nonce", algs="ES256", ` + meta + `", scope="mcp"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := signingIn(t)
			rec := w.do(request(c.path, "tools/list", "", "Authorization", c.authorization, "Dpop", c.proof))
			if rec.Code != 401 || rec.Header().Get("WWW-Authenticate") != c.want {
				t.Errorf("%d %s", rec.Code, rec.Header().Get("WWW-Authenticate"))
			}
			if got := rec.Header().Get("DPoP-Nonce"); (got == "fresh-nonce") != strings.HasPrefix(c.want, "DPoP") {
				t.Errorf("nonce %q", got)
			}
			if strings.Contains(rec.Body.String(), "why is secret") {
				t.Error("the reason is told")
			}
		})
	}
}

func TestProofReachesTheGate(t *testing.T) {
	w := signingIn(t)
	rec := w.do(request("/mcp/bank", "tools/list", "", "Authorization", "DPoP alice", "Dpop", "a.b.c"))
	if rec.Code != 200 || rec.Header().Get("DPoP-Nonce") != "fresh-nonce" {
		t.Fatal(rec.Code, rec.Body)
	}
	p := w.calls[0].Credentials.Possession
	if p == nil || *p != (ostiary.Possession{Proof: "a.b.c", Method: "POST", URL: "http://gate.test:8700/mcp/bank"}) {
		t.Fatalf("%+v", p)
	}
	for name, headers := range map[string][]string{
		"two proofs": {"Authorization", "DPoP alice", "Dpop", "a|b"}, "no proof": {"Authorization", "DPoP alice"},
		"two tokens": {"Authorization", "Bearer alice|DPoP alice", "Dpop", "a"}, "in one line": {"Authorization", "DPoP alice, Bearer alice", "Dpop", "a"},
	} {
		if rec := w.do(request("/mcp", "tools/list", "", headers...)); rec.Code != 400 && rec.Code != 401 {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
}

// TestStepUp: a call beyond the token's scopes is refused in HTTP's words, with
// every scope it needs at once, and recorded.
func TestStepUp(t *testing.T) {
	w := signingIn(t)
	rec := w.do(request("/mcp", "tools/call", `"name":"bank___send","arguments":{}`, "Authorization", "Bearer scoped"))
	const want = `Bearer error="insufficient_scope", resource_metadata="http://gate.test:8700/.well-known/oauth-protected-resource/mcp", scope="mcp server:docs server:bank"`
	if rec.Code != 403 || rec.Header().Get("WWW-Authenticate") != want || w.forwarded() != 0 {
		t.Fatalf("%d %s %s", rec.Code, rec.Header().Get("WWW-Authenticate"), rec.Body)
	}
	last := w.entries[len(w.entries)-1]
	if last.Code != ostiary.InsufficientScope {
		t.Errorf("recorded as %q", last.Code)
	}
	if rec := w.do(request("/mcp", "tools/call", `"name":"docs___send","arguments":{}`, "Authorization", "Bearer scoped")); rec.Code != 200 || w.forwarded() != 1 {
		t.Errorf("within its scope: %d %s", rec.Code, rec.Body)
	}
}
