package oauth

import (
	"fmt"
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

func TestCode(t *testing.T) {
	w := newWorld(t)
	c := w.consented()
	status, out, h := w.post("/token", caller{}, code4("code", c))
	if status != 200 || !out.Get("token_type").Is("Bearer") || !out.Get("scope").Is("mcp server:bank") || h.Get("Cache-Control") != "no-store" || out.Get("refresh_token").Text() == "" {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	s, err := w.opens(out.Get("access_token").Text(), doorURL)
	if err != nil || s.Principal != dana || s.Client != clientID || s.Bound || !slices.Equal(s.Scopes, []string{"mcp", "server:bank"}) || !strings.HasPrefix(string(s.Agent), "spiffe://test.example/client/") {
		t.Fatalf("%+v %v", s, err)
	}
	if n, _ := out.Get("expires_in").Int(); n < 1 || n > 600 {
		t.Errorf("expires in %d", n)
	}
	m, ok := w.identity.Mandate(s.Mandate)
	if !ok || m.By != dana || m.Kind != ostiary.TaskMandate || !slices.Equal(m.Resources, []string{"bank"}) {
		t.Errorf("%+v", m)
	}
	t.Run("F01 for no other endpoint", func(t *testing.T) {
		_, err := w.opens(out.Get("access_token").Text(), doorURL+"/bank")
		if ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Error(err)
		}
	})
	t.Run("F06 used again", func(t *testing.T) {
		if status, out, _ := w.post("/token", caller{}, code4("code", c)); status != 400 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%d %s", status, out.Bytes())
		}
		if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
			t.Error("the token of the first use is still good")
		}
		if status, _, _ := w.post("/token", caller{}, url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {out.Get("refresh_token").Text()}}); status != 400 {
			t.Error("the refresh token of the first use is still good")
		}
	})
	t.Run("expired", func(t *testing.T) {
		c := w.consented()
		w.pass(CodeLife)
		if status, out, _ := w.post("/token", caller{}, code4("code", c)); status != 400 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
	for name, c := range map[string]struct {
		changes []string
		code    string
	}{
		"F05 no verifier":           {[]string{"code_verifier", ""}, "invalid_grant"},
		"F05 another verifier":      {[]string{"code_verifier", verifier + "x"}, "invalid_grant"},
		"F05 the challenge":         {[]string{"code_verifier", s256(verifier)}, "invalid_grant"},
		"F05 a short verifier":      {[]string{"code_verifier", "short"}, "invalid_grant"},
		"F04 another redirect":      {[]string{"redirect_uri", "https://client.example/cb"}, "invalid_grant"},
		"no resource":               {[]string{"resource", ""}, "invalid_target"},
		"another resource":          {[]string{"resource", doorURL + "/bank"}, "invalid_target"},
		"a foreign resource":        {[]string{"resource", "https://elsewhere.example/mcp"}, "invalid_target"},
		"an audience of its own":    {[]string{"audience", "https://elsewhere.example/mcp"}, "invalid_target"},
		"another client":            {[]string{"client_id", "https://other.example/oauth.json"}, "invalid_grant"},
		"no client":                 {[]string{"client_id", ""}, "invalid_client"},
		"an unknown client":         {[]string{"client_id", "https://nobody.example/x"}, "invalid_client"},
		"a client secret":           {[]string{"client_secret", "x"}, "invalid_client"},
		"another code":              {[]string{"code", "x"}, "invalid_grant"},
		"no code":                   {[]string{"code", ""}, "invalid_grant"},
		"an unknown grant":          {[]string{"grant_type", "password"}, "unsupported_grant_type"},
		"no grant":                  {[]string{"grant_type", ""}, "unsupported_grant_type"},
		"an assertion of no client": {[]string{"client_assertion", "a.b.c", "client_assertion_type", assertionType}, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pages["https://other.example/oauth.json"] = strings.Replace(document(""), clientID, "https://other.example/oauth.json", 1)
			f := code4("code", w.consented())
			for i := 0; i+1 < len(c.changes); i += 2 {
				if f.Set(c.changes[i], c.changes[i+1]); c.changes[i+1] == "" {
					f.Del(c.changes[i])
				}
			}
			status, out, _ := w.post("/token", caller{}, f)
			if status == 200 || !out.Get("error").Is(c.code) {
				t.Errorf("%d %s", status, out.Bytes())
			}
		})
	}
	t.Run("E14 Basic is no way in, and spends nothing", func(t *testing.T) {
		w := newWorld(t)
		f := code4("code", w.consented())
		for _, v := range []string{"Basic Og==", "Basic ' OR '1'='1", "Bearer x"} {
			if status, out, _ := w.post("/token", caller{}, f, "Authorization", v); status != 401 || !out.Get("error").Is("invalid_client") {
				t.Errorf("%d %s", status, out.Bytes())
			}
		}
		if status, out, _ := w.post("/token", caller{}, f); status != 200 {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
	t.Run("a parameter twice", func(t *testing.T) {
		w := newWorld(t)
		f := code4("code", w.consented())
		f.Add("code", "x")
		if status, out, _ := w.post("/token", caller{}, f); status != 400 || !out.Get("error").Is("invalid_request") {
			t.Errorf("%d %s", status, out.Bytes())
		}
	})
}

// TestOneCode: of a thousand requests with one code one has an answer, and
// since it was shown twice nobody has the use of it.
func TestOneCode(t *testing.T) {
	w := newWorld(t)
	f := code4("code", w.consented())
	var won atomic.Int64
	var token atomic.Value
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if status, out, _ := w.post("/token", caller{}, f); status == 200 {
				won.Add(1)
				token.Store(out.Get("access_token").Text())
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d requests had an answer", won.Load())
	}
	if _, err := w.opens(token.Load().(string), doorURL); err == nil {
		t.Error("its token is good")
	}
}

func TestBoundToKey(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	status, out, h := w.post("/token", caller{key: key}, code4("code", w.consented("dpop_jkt", thumbOf(key))))
	if status != 200 || !out.Get("token_type").Is("DPoP") || h.Get("DPoP-Nonce") == "" {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("E12 it is a bearer token")
	}
	if status, out, _ := w.post("/token", caller{key: newKey(t)}, code4("code", w.consented("dpop_jkt", thumbOf(key)))); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("another key: %d %s", status, out.Bytes())
	}
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented("dpop_jkt", thumbOf(key)))); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("no key: %d %s", status, out.Bytes())
	}
	old := w.proof(key, issuerURL+"/token")
	w.pass(2 * time.Minute)
	if status, out, h := w.post("/token", caller{}, code4("code", w.consented()), "DPoP", old); status != 400 || !out.Get("error").Is("use_dpop_nonce") || h.Get("DPoP-Nonce") == "" {
		t.Errorf("an old nonce: %d %s", status, out.Bytes())
	}
	elsewhere := w.proof(key, issuerURL+"/revoke")
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented()), "DPoP", elsewhere); status != 400 || !out.Get("error").Is("invalid_dpop_proof") {
		t.Errorf("a proof for elsewhere: %d %s", status, out.Bytes())
	}
	refresh := func(c caller, token string) (int, ostiary.Value) {
		status, out, _ := w.post("/token", c, url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {token}, "resource": {doorURL}})
		return status, out
	}
	if status, out := refresh(caller{key: newKey(t)}, out.Get("refresh_token").Text()); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("refreshed with another key: %d %s", status, out.Bytes())
	}
	if status, out := refresh(caller{key: key}, out.Get("refresh_token").Text()); status != 200 || !out.Get("token_type").Is("DPoP") {
		t.Errorf("%d %s", status, out.Bytes())
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	_, first, _ := w.post("/token", caller{}, code4("code", w.consented()))
	refresh := func(token string, changes ...string) (int, ostiary.Value) {
		f := url.Values{"grant_type": {grantRefresh}, "client_id": {clientID}, "refresh_token": {token}}
		for i := 0; i+1 < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		status, out, _ := w.post("/token", caller{}, f)
		return status, out
	}
	token := first.Get("refresh_token").Text()
	for name, changes := range map[string][]string{
		"a wider scope": {"scope", "mcp server:bank server:inbox"}, "another resource": {"resource", doorURL + "/bank"}, "another client": {"client_id", "https://other.example/x"},
	} {
		if status, _ := refresh(token, changes...); status == 200 {
			t.Error(name)
		}
	}
	w.pass(11 * time.Minute)
	status, second := refresh(token, "scope", "mcp")
	if status != 200 || !second.Get("scope").Is("mcp") || second.Get("refresh_token").Text() == token {
		t.Fatalf("%d %s", status, second.Bytes())
	}
	next := second.Get("refresh_token").Text()
	if status, out := refresh(next); status != 200 || !out.Get("scope").Is("mcp server:bank") {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	if status, _ := refresh(next); status != 400 {
		t.Error("used twice")
	}
	if _, err := w.opens(second.Get("access_token").Text(), doorURL); err == nil {
		t.Error("the family's tokens are still good")
	}
	for _, bad := range []string{"", "x", refreshPrefix, refreshPrefix + "a.b", strings.Replace(next, ".", "", 1), strings.Repeat("x", maxValue+1)} {
		if status, _ := refresh(bad); status == 200 {
			t.Error(bad)
		}
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	_, out, _ := w.post("/token", caller{}, code4("code", w.consented()))
	token := out.Get("access_token").Text()
	w.pages["https://other.example/x"] = strings.Replace(document(""), clientID, "https://other.example/x", 1)
	give := func(token, client string) int {
		status, _, _ := w.post("/revoke", caller{}, url.Values{"token": {token}, "client_id": {client}})
		return status
	}
	if give(token, "https://other.example/x") != 200 || give("x", clientID) != 200 {
		t.Error("it tells what is a token")
	}
	if _, err := w.opens(token, doorURL); err != nil {
		t.Fatal("another client gave it back:", err)
	}
	w.pass(time.Second)
	if give(token, clientID) != 200 {
		t.Error("not taken")
	}
	if _, err := w.opens(token, doorURL); err == nil {
		t.Error("it is still good")
	}
	_, out, _ = w.post("/token", caller{}, code4("code", w.consented()))
	if give(out.Get("refresh_token").Text(), clientID) != 200 {
		t.Error("not taken")
	}
	if _, err := w.opens(out.Get("access_token").Text(), doorURL); err == nil {
		t.Error("what came of the same consent is still good")
	}
}

func TestPrivateKey(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	own, _ := jwt.Export(&key.PublicKey)
	w.pages[clientID] = document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[` + string(own) + `]}`)
	kid, _ := jwt.KID(key.Public())
	header := `{"alg":"ES256","typ":"JWT","kid":"` + kid + `"}`
	n := 0
	claims := func(changes map[string]any) map[string]any {
		n++
		c := map[string]any{"iss": clientID, "sub": clientID, "aud": issuerURL, "jti": fmt.Sprint(n), "iat": w.clock().Unix(), "exp": w.clock().Add(time.Minute).Unix()}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	ask := func(assertion string) (int, ostiary.Value) {
		f := code4("code", w.consented(), "client_assertion_type", assertionType, "client_assertion", assertion)
		status, out, _ := w.post("/token", caller{}, f)
		return status, out
	}
	once := sign(t, key, header, claims(nil))
	if status, out := ask(once); status != 200 {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	for name, text := range map[string]string{
		"shown again":      once,
		"another key":      sign(t, newKey(t), header, claims(nil)),
		"another audience": sign(t, key, header, claims(map[string]any{"aud": "https://elsewhere.example"})),
		"another client":   sign(t, key, header, claims(map[string]any{"sub": "https://other.example/x"})),
		"another issuer":   sign(t, key, header, claims(map[string]any{"iss": "https://other.example/x"})),
		"expired":          sign(t, key, header, claims(map[string]any{"iat": w.clock().Unix() - 120, "exp": w.clock().Unix()})),
		"of the future":    sign(t, key, header, claims(map[string]any{"iat": w.clock().Unix() + 100, "exp": w.clock().Unix() + 200})),
		"without an end":   sign(t, key, header, claims(map[string]any{"exp": nil})),
		"too long":         sign(t, key, header, claims(map[string]any{"exp": w.clock().Unix() + 301})),
		"another kind":     sign(t, key, strings.Replace(header, "JWT", "oauth-id-jag+jwt", 1), claims(nil)),
		"none":             b64([]byte(`{"alg":"none"}`)) + ".e30.",
	} {
		if status, out := ask(text); status != 401 || !out.Get("error").Is("invalid_client") {
			t.Errorf("%s: %d %s", name, status, out.Bytes())
		}
	}
	if status, out, _ := w.post("/token", caller{}, code4("code", w.consented())); status != 401 {
		t.Errorf("without its key: %d %s", status, out.Bytes())
	}
}

func TestAssertion(t *testing.T) {
	key := newKey(t)
	w := newWorld(t)
	claims := func(w *world, changes map[string]any) map[string]any {
		c := map[string]any{"iss": "https://idp.example", "sub": "u-dana", "aud": issuerURL, "client_id": clientID, "jti": "1", "iat": w.clock().Unix(), "exp": w.clock().Add(5 * time.Minute).Unix(),
			"email": "dana@acme.example", "cnf": map[string]string{"jkt": thumbOf(key)}}
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	header := func(typ string) string {
		k, _ := jwt.KID(w.idp.Public())
		return `{"alg":"ES256","typ":"` + typ + `","kid":"` + k + `"}`
	}
	ask := func(w *world, who caller, text string, changes ...string) (int, ostiary.Value) {
		f := url.Values{"grant_type": {grantAssert}, "client_id": {clientID}, "assertion": {text}, "resource": {doorURL}, "scope": {"mcp server:bank server:inbox"}}
		for i := 0; i+1 < len(changes); i += 2 {
			f.Set(changes[i], changes[i+1])
		}
		status, out, _ := w.post("/token", who, f)
		return status, out
	}
	good := sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, nil))
	for range 2 { // a client may show one again
		status, out := ask(w, caller{key: key}, good)
		if status != 200 || !out.Get("scope").Is("mcp server:bank") || out.Get("refresh_token").Exists() || !out.Get("token_type").Is("DPoP") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
	}
	for name, text := range map[string]string{
		"another kind":        sign(t, w.idp, header("JWT"), claims(w, nil)),
		"another issuer":      sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"iss": "https://idp.example/"})),
		"another key":         sign(t, newKey(t), header("oauth-id-jag+jwt"), claims(w, nil)),
		"another audience":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"aud": issuerURL + "/"})),
		"two audiences":       sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"aud": []string{issuerURL, "x"}})),
		"another client":      sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"client_id": "https://other.example/x"})),
		"expired":             sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"iat": w.clock().Unix() - 60, "exp": w.clock().Unix()})),
		"bound to another":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"cnf": map[string]string{"jkt": thumbOf(newKey(t))}})),
		"bound to nothing":    sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"cnf": nil})),
		"somebody else there": sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"sub": "u-erin"})),
		"by e-mail alone":     sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"sub": "dana@acme.example"})),
		"nothing":             "",
	} {
		if status, out := ask(w, caller{key: key}, text); status == 200 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("%s: %d %s", name, status, out.Bytes())
		}
	}
	if status, out := ask(w, caller{key: newKey(t)}, good); status == 200 {
		t.Errorf("shown with another key: %s", out.Bytes())
	}
	if status, out := ask(w, caller{key: key}, sign(t, w.idp, header("oauth-id-jag+jwt"), claims(w, map[string]any{"resource": doorURL + "/bank"}))); !out.Get("error").Is("invalid_target") {
		t.Errorf("another resource: %d %s", status, out.Bytes())
	}
	if n := w.fetched["https://idp.example/keys"]; n != 1 {
		t.Errorf("E10 the issuer's keys were read %d times", n)
	}
}

// TestPace: anybody can be a client with a key, and each assertion is a durable
// row. One client makes no more of them than one needs, and others go on.
func TestPace(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	own, _ := jwt.Export(&key.PublicKey)
	const other = "https://other.example/oauth.json"
	w.pages[clientID] = document(`,"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[` + string(own) + `]}`)
	w.pages[other] = strings.ReplaceAll(w.pages[clientID], clientID, other)
	kid, _ := jwt.KID(key.Public())
	n := 0
	ask := func(id string) (int, ostiary.Value) {
		n++
		text := sign(t, key, `{"alg":"ES256","typ":"JWT","kid":"`+kid+`"}`, map[string]any{"iss": id, "sub": id, "aud": issuerURL, "jti": fmt.Sprint(n), "iat": w.clock().Unix(), "exp": w.clock().Add(time.Minute).Unix()})
		status, out, _ := w.post("/token", caller{}, url.Values{"grant_type": {grantRefresh}, "refresh_token": {"x"}, "client_id": {id}, "client_assertion_type": {assertionType}, "client_assertion": {text}})
		return status, out
	}
	refused := 0
	for range 300 {
		if status, out := ask(clientID); status == 503 && out.Get("error").Is("temporarily_unavailable") {
			refused++
		}
	}
	rows, err := w.records.Records(t.Context(), kindAssertion, "", 1000, w.clock())
	if err != nil || len(rows) > paceBurst || refused != 300-len(rows) {
		t.Errorf("%d rows of 300 assertions, %d refused, %v", len(rows), refused, err)
	}
	if status, out := ask(other); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("another client: %d %s", status, out.Bytes())
	}
	w.now.Add(int64(time.Second))
	if status, out := ask(clientID); status != 400 || !out.Get("error").Is("invalid_grant") {
		t.Errorf("a second later: %d %s", status, out.Bytes())
	}
}
