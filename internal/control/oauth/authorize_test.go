package oauth

import (
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
)

func TestMetadata(t *testing.T) {
	w := newWorld(t)
	var texts []string
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest("GET", issuerURL+path, nil))
		texts = append(texts, rec.Body.String())
		m := parsed(t, rec.Body.Bytes())
		if !m.Get("issuer").Is(issuerURL) || string(m.Get("code_challenge_methods_supported").Bytes()) != `["S256"]` ||
			string(m.Get("authorization_response_iss_parameter_supported").Bytes()) != "true" || string(m.Get("client_id_metadata_document_supported").Bytes()) != "true" ||
			!m.Get("registration_endpoint").Exists() || strings.Contains(rec.Body.String(), "offline_access") {
			t.Error(rec.Body)
		}
	}
	if texts[0] != texts[1] {
		t.Error("the two documents differ")
	}
	if closed := newWorld(t, func(o *Options) { o.Register = false }); slices.Contains(paths(closed), "/register") {
		t.Error("registration is open")
	} else {
		rec := httptest.NewRecorder()
		if closed.ServeHTTP(rec, httptest.NewRequest("POST", issuerURL+"/register", strings.NewReader("{}"))); rec.Code != 404 {
			t.Errorf("registration answers %d", rec.Code)
		}
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest("GET", issuerURL+"/jwks", nil))
	if _, err := jwt.ParseSet(rec.Body.Bytes()); err != nil {
		t.Error(err)
	}
}

func paths(w *world) []string { p, _ := w.Paths(); return p }

func TestAuthorizeRefuses(t *testing.T) {
	details := func(terms string) string { return `[{"type":"ostiary_mandate","terms":` + terms + `}]` }
	for name, c := range map[string]struct {
		changes []string
		code    string // in the redirect
	}{
		"no response_type":           {[]string{"response_type", ""}, "unsupported_response_type"},
		"a token":                    {[]string{"response_type", "token"}, "unsupported_response_type"},
		"a fragment":                 {[]string{"response_mode", "fragment"}, "invalid_request"},
		"a request object":           {[]string{"request", "a.b.c"}, "invalid_request"},
		"F05 no challenge":           {[]string{"code_challenge", ""}, "invalid_request"},
		"F05 plain":                  {[]string{"code_challenge_method", "plain"}, "invalid_request"},
		"F05 no method":              {[]string{"code_challenge_method", ""}, "invalid_request"},
		"F05 a challenge of no form": {[]string{"code_challenge", verifier}, "invalid_request"},
		"no resource":                {[]string{"resource", ""}, "invalid_target"},
		"a foreign resource":         {[]string{"resource", "https://elsewhere.example/mcp"}, "invalid_target"},
		"a resource with a slash":    {[]string{"resource", doorURL + "/"}, "invalid_target"},
		"a scope twice":              {[]string{"scope", "mcp mcp"}, "invalid_scope"},
		"dpop_jkt of no form":        {[]string{"dpop_jkt", "x"}, "invalid_request"},
		"an unknown type":            {[]string{"authorization_details", `[{"type":"payment","terms":{}}]`}, "invalid_authorization_details"},
		"an unknown member":          {[]string{"authorization_details", `[{"type":"ostiary_mandate","terms":{},"x":1}]`}, "invalid_authorization_details"},
		"an unknown term":            {[]string{"authorization_details", details(`{"admin":true}`)}, "invalid_authorization_details"},
		"a term twice":               {[]string{"authorization_details", details(`{"task":"a","task":"b"}`)}, "invalid_authorization_details"},
		"two details":                {[]string{"authorization_details", `[{"type":"ostiary_mandate","terms":{}},{"type":"ostiary_mandate","terms":{}}]`}, "invalid_authorization_details"},
		"another's authority":        {[]string{"authorization_details", details(`{"principal":"person:erin"}`)}, "invalid_authorization_details"},
		"an agent of its choice":     {[]string{"authorization_details", details(`{"agent":"spiffe://test.example/agent/planner"}`)}, "invalid_authorization_details"},
		"a server beyond its scopes": {[]string{"authorization_details", details(`{"servers":["inbox"]}`)}, "invalid_authorization_details"},
		"a mandate that has ended":   {[]string{"authorization_details", details(`{"until":"2020-01-01T00:00:00Z"}`)}, "invalid_authorization_details"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(c.changes...).Encode())
			u, err := url.Parse(rec.Header().Get("Location"))
			if err != nil || rec.Code != 302 || u.Query().Get("error") != c.code || u.Query().Get("iss") != issuerURL || u.Query().Get("state") != "s&t" || u.Scheme+"://"+u.Host+u.Path != redirect {
				t.Errorf("%d %s %s", rec.Code, rec.Header().Get("Location"), rec.Body)
			}
		})
	}
	// Nothing goes back to an address that is not the client's own.
	for name, changes := range map[string][]string{
		"F04 another path":      {"redirect_uri", "http://127.0.0.1:7777/callback/x"},
		"F04 a query":           {"redirect_uri", redirect + "?x=1"},
		"F04 a fragment":        {"redirect_uri", redirect + "#x"},
		"F04 userinfo":          {"redirect_uri", "http://127.0.0.1:80@evil.example/callback"},
		"F04 user":              {"redirect_uri", "http://x@127.0.0.1:7777/callback"},
		"F04 case":              {"redirect_uri", "http://127.0.0.1:7777/Callback"},
		"F04 another loopback":  {"redirect_uri", "http://127.0.0.2:7777/callback"},
		"F04 a port of https":   {"redirect_uri", "https://client.example:444/cb"},
		"F04 another host":      {"redirect_uri", "https://client.example.evil.example/cb"},
		"F04 IDN":               {"redirect_uri", "https://clíent.example/cb"},
		"F04 a port of words":   {"redirect_uri", "http://127.0.0.1:x/callback"},
		"F04 no port":           {"redirect_uri", "http://127.0.0.1:/callback"},
		"F04 none":              {"redirect_uri", ""},
		"F08 javascript":        {"redirect_uri", "javascript:alert(1)"},
		"no client":             {"client_id", ""},
		"an http client":        {"client_id", "http://client.example/oauth.json"},
		"a client without path": {"client_id", "https://client.example/"},
		"a client with query":   {"client_id", clientID + "?x=1"},
		"a client in case":      {"client_id", strings.Replace(clientID, "client.example", "CLIENT.example", 1)},
		"a client up the path":  {"client_id", "https://client.example/x/../oauth.json"},
		"a client nobody has":   {"client_id", "https://nobody.example/x"},
		"an agent":              {"client_id", "spiffe://test.example/agent/planner"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(changes...).Encode())
			if rec.Code < 400 || rec.Header().Get("Location") != "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%d %s", rec.Code, rec.Header().Get("Location"))
			}
		})
	}
	// Anybody can be a client. A link to this server that is no proper request
	// leads to no site of theirs before a person decided something.
	for name, changes := range map[string][]string{
		"O10 no challenge": {"redirect_uri", "https://client.example/cb", "code_challenge", ""},
		"O10 a scope":      {"redirect_uri", "https://client.example/cb", "scope", "mcp mcp"},
		"O10 a resource":   {"redirect_uri", "https://client.example/cb", "resource", "https://elsewhere.example/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rec := w.get(request(changes...).Encode())
			if rec.Code != 400 || rec.Header().Get("Location") != "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%d %s", rec.Code, rec.Header().Get("Location"))
			}
		})
	}
	t.Run("F10 markup is not repeated", func(t *testing.T) {
		w := newWorld(t)
		rec := w.get(request("redirect_uri", "https://x/<script>alert(1)</script>", "client_id", clientID, "state", "<script>").Encode())
		if strings.Contains(rec.Body.String(), "<") {
			t.Error(rec.Body)
		}
	})
	t.Run("a parameter twice", func(t *testing.T) {
		w := newWorld(t)
		if rec := w.get(request().Encode() + "&resource=" + url.QueryEscape(doorURL)); rec.Code != 400 || rec.Header().Get("Location") != "" {
			t.Errorf("%d", rec.Code)
		}
	})
	t.Run("what looks like a host in a private scheme", func(t *testing.T) {
		for _, to := range []string{"com.example.app:/cb", "com.example.app://accounts.example/cb", "com.example.app://accounts.example"} {
			if host, here := redirectHost(to); host != "com.example.app: (a program on this computer)" || !here {
				t.Errorf("%s goes to %q, %v", to, host, here)
			}
		}
	})
	t.Run("F04 the loopback's port is the program's", func(t *testing.T) {
		w := newWorld(t)
		for _, to := range []string{"http://127.0.0.1:1/callback", "http://127.0.0.1/callback", "http://localhost:4000/cb", "https://client.example/cb"} {
			w.asked("redirect_uri", to)
		}
	})
}

func TestDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		fine bool
	}{
		"as it should be":        {document(""), true},
		"with what we ignore":    {document(`,"logo_uri":"https://client.example/logo","contacts":["a@client.example"]`), true},
		"another's id":           {strings.Replace(document(""), clientID, "https://evil.example/x", 1), false},
		"no id":                  {strings.Replace(document(""), "client_id", "other_id", 1), false},
		"no name":                {strings.Replace(document(""), "client_name", "x", 1), false},
		"a secret":               {document(`,"client_secret":"x"`), false},
		"a shared-secret method": {document(`,"token_endpoint_auth_method":"client_secret_post"`), false},
		"a key without keys":     {document(`,"token_endpoint_auth_method":"private_key_jwt"`), false},
		"keys at http":           {document(`,"token_endpoint_auth_method":"private_key_jwt","jwks_uri":"http://client.example/keys"`), false},
		"F08 javascript":         {strings.Replace(document(""), "https://client.example/cb", "javascript:alert(1)", 1), false},
		"F08 file":               {strings.Replace(document(""), "https://client.example/cb", "file:///etc/passwd", 1), false},
		"F08 data":               {strings.Replace(document(""), "https://client.example/cb", "data:text/html,x", 1), false},
		"F08 http elsewhere":     {strings.Replace(document(""), "https://client.example/cb", "http://client.example/cb", 1), false},
		"a private scheme":       {strings.Replace(document(""), "https://client.example/cb", "example.client:/cb", 1), true},
		"a fragment":             {strings.Replace(document(""), "/cb", "/cb#x", 1), false},
		"our parameter in it":    {strings.Replace(document(""), "/cb", "/cb?iss=x", 1), false},
		"no redirects":           {`{"client_id":"` + clientID + `","client_name":"x","redirect_uris":[]}`, false},
		"a name twice":           {document(`,"client_name":"y"`), false},
		"no JSON":                {"<html>", false},
		"too long":               {document(`,"x":"` + strings.Repeat("x", maxDocument) + `"`), false},
		"too deep":               {document(`,"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20)), false},
	} {
		if _, err := parseDocument(clientID, []byte(c.text)); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConsent(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	details := `[{"type":"ostiary_mandate","terms":{"task":"pay the rent","actions":["bank___transfer"],"servers":["bank"],"ceilings":[{"action":"*","pointer":"/amount","max":"2000","unit":"EUR"}],"for":"2h","depth":1,"budget":{"calls":10}}}]`
	id := w.asked("authorization_details", details)
	ask, err := w.Pending(ctx, id)
	if err != nil || ask.Client != "Test client" || ask.ClientID != clientID || !ask.Known || ask.Redirect != "127.0.0.1:7777" || !ask.Loopback || ask.Wants.Task != "pay the rent" || ask.Wants.Expires.Sub(w.clock()) != 2*time.Hour {
		t.Fatalf("%+v %v", ask, err)
	}
	for name, widen := range map[string]func(*ostiary.Mandate){
		"an action": func(m *ostiary.Mandate) { m.Actions = append(slices.Clone(m.Actions), "bank___close") }, "every action": func(m *ostiary.Mandate) { m.Actions = []string{"*"} },
		"a server": func(m *ostiary.Mandate) { m.Resources = []string{"inbox"} }, "a ceiling": func(m *ostiary.Mandate) {
			m.Ceilings = []ostiary.Ceiling{{Action: "*", Pointer: "/amount", Max: "2001", Unit: "EUR"}}
		},
		"the time": func(m *ostiary.Mandate) { m.Expires = m.Expires.Add(time.Second) }, "the depth": func(m *ostiary.Mandate) { m.Depth = 2 },
		"the budget": func(m *ostiary.Mandate) { m.Budget.Calls = 11 },
	} {
		t.Run("wider in "+name, func(t *testing.T) {
			id := w.asked("authorization_details", details)
			m := ask.Wants
			widen(&m)
			if to, err := w.Decide(ctx, id, dana, &m); err == nil {
				t.Error(to)
			}
			if _, err := w.Pending(ctx, id); ostiary.KindOf(err) != ostiary.NotFound {
				t.Error("the question is still open")
			}
		})
	}
	t.Run("narrower", func(t *testing.T) {
		m := ask.Wants
		m.Ceilings, m.Budget, m.Depth, m.Expires = nil, ostiary.Budget{}, 0, w.clock().Add(time.Hour)
		m.Principal, m.By, m.Agent, m.Kind = "person:erin", "person:erin", "spiffe://test.example/agent/planner", ostiary.BreakGlassMandate // not the page's to say
		to, err := w.Decide(ctx, id, dana, &m)
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(to)
		status, out, _ := w.post("/token", caller{}, code4("code", u.Query().Get("code")))
		if status != 200 {
			t.Fatalf("%d %s", status, out.Bytes())
		}
		s, err := w.opens(out.Get("access_token").Text(), doorURL)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := w.identity.Mandate(s.Mandate)
		if got.Principal != dana || got.By != dana || got.Kind != ostiary.TaskMandate || len(got.Ceilings) != 1 || got.Budget.Calls != 10 || got.Depth != 0 || got.Expires.After(w.clock().Add(time.Hour)) {
			t.Errorf("%+v", got)
		}
		if !strings.Contains(string(out.Get("authorization_details").Bytes()), `"bank___transfer"`) {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("refused", func(t *testing.T) {
		to, err := w.Decide(ctx, w.asked(), dana, nil)
		u, _ := url.Parse(to)
		if err != nil || u.Query().Get("error") != "access_denied" || u.Query().Get("iss") != issuerURL || u.Query().Get("state") != "s&t" {
			t.Error(to, err)
		}
	})
	t.Run("F03 once", func(t *testing.T) {
		id := w.asked()
		ask, _ := w.Pending(ctx, id)
		var won atomic.Int64
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				m := ask.Wants
				if _, err := w.Decide(ctx, id, dana, &m); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d decided", won.Load())
		}
	})
	t.Run("F11 all scopes asked for", func(t *testing.T) {
		id := w.asked("scope", "mcp server:bank server:inbox server:vault admin offline_access openid", "resource", doorURL+"/bank")
		if ask, err := w.Pending(ctx, id); err != nil || !slices.Equal(ask.Scopes, []string{"mcp", "server:bank"}) || !slices.Equal(ask.Wants.Resources, []string{"bank"}) {
			t.Errorf("%+v %v", ask, err)
		}
		id = w.asked("scope", "")
		if ask, err := w.Pending(ctx, id); err != nil || !slices.Equal(ask.Scopes, []string{"mcp"}) || !slices.Equal(ask.Wants.Resources, []string{nothing}) {
			t.Errorf("%+v %v", ask, err)
		}
		// The person leaves one of two servers away, and the token's scope follows.
		id = w.asked("scope", "mcp server:bank server:inbox")
		ask, _ := w.Pending(ctx, id)
		ask.Wants.Resources = []string{"inbox"}
		to, err := w.Decide(ctx, id, dana, &ask.Wants)
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(to)
		if _, out, _ := w.post("/token", caller{}, code4("code", u.Query().Get("code"))); !out.Get("scope").Is("mcp server:inbox") {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("expires", func(t *testing.T) {
		id := w.asked()
		w.pass(PendingLife)
		if _, err := w.Pending(ctx, id); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
		if _, err := w.Decide(ctx, id, dana, nil); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
	})
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	reg := func(text string) (int, ostiary.Value) {
		r := httptest.NewRequest("POST", issuerURL+"/register", strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		return rec.Code, parsed(t, rec.Body.Bytes())
	}
	status, out := reg(`{"client_name":"old","redirect_uris":["http://localhost:1/cb"],"grant_types":["authorization_code"],"scope":"x"}`)
	if status != 201 || out.Get("client_secret").Exists() {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	id := out.Get("client_id").Text()
	ask, err := w.Pending(t.Context(), w.asked("client_id", id, "redirect_uri", "http://localhost:9/cb"))
	if err != nil || ask.Known {
		t.Errorf("%+v %v", ask, err)
	}
	for _, bad := range []string{`{}`, `{"client_name":"x","redirect_uris":["javascript:x"]}`, `{"client_name":"x","redirect_uris":["https://a/b"],"token_endpoint_auth_method":"client_secret_basic"}`, `[]`, ``} {
		if status, out := reg(bad); status != 400 {
			t.Errorf("%s: %d %s", bad, status, out.Bytes())
		}
	}
}

func FuzzForm(f *testing.F) {
	f.Add("a=b&c=%20")
	f.Add("a=b&a=c")
	f.Add(`authorization_details=[{"type":"ostiary_mandate","terms":{}}]&scope=mcp`)
	f.Fuzz(func(t *testing.T, text string) {
		got, ref := parseForm(text)
		if ref != nil {
			return
		}
		q, err := url.ParseQuery(text)
		if err != nil && !strings.Contains(text, ";") {
			t.Fatalf("accepted what others refuse: %v", err)
		}
		for name, v := range got {
			if err == nil && (len(q[name]) != 1 || q[name][0] != v) {
				t.Fatalf("%s is %q, and %q to others", name, v, q[name])
			}
		}
		got.scopes()
		got.details()
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(document("")))
	f.Add([]byte(document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[]}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseDocument(clientID, text); err == nil {
			if c.name == "" || len(c.redirects) == 0 || c.method == "private_key_jwt" && c.keys == nil && c.keysURL == "" {
				t.Fatalf("%+v", c)
			}
			for _, r := range c.redirects {
				if !c.sends(r) {
					t.Fatalf("%q is its own and is not sent to", r)
				}
			}
		}
	})
}

func FuzzRedirect(f *testing.F) {
	for _, s := range []string{redirect, "https://client.example/cb", "http://localhost:1/cb", "http://[::1]:1/cb", "javascript:alert(1)"} {
		f.Add(s)
	}
	c := &client{redirects: []string{"http://127.0.0.1/callback", "https://client.example/cb"}}
	f.Fuzz(func(t *testing.T, s string) {
		if !c.sends(s) || slices.Contains(c.redirects, s) {
			return
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" || u.Path != "/callback" || u.RawQuery != "" || u.User != nil || strings.Contains(s, "#") {
			t.Fatalf("a code would go to %q", s)
		}
	})
}
