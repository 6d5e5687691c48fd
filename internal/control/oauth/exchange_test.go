package oauth

import (
	"crypto/x509"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

func TestExchange(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	parent, child := w.enrol("planner", dana), w.enrol("buyer", dana)
	own := func(cert *x509.Certificate, resource string) string {
		status, out, _ := w.post("/token", caller{cert: cert}, url.Values{"grant_type": {grantClient}, "resource": {resource}})
		if status != 200 || !out.Get("token_type").Is("Bearer") {
			t.Fatalf("%d %s", status, out.Bytes())
		}
		return out.Get("access_token").Text()
	}
	mine, childs := own(parent, doorURL), own(child, doorURL)
	form := func(changes ...string) url.Values {
		f := url.Values{
			"grant_type": {grantExchange}, "resource": {doorURL}, "subject_token": {mine}, "subject_token_type": {accessType}, "actor_token": {childs}, "actor_token_type": {accessType},
			"authorization_details": {`[{"type":"ostiary_mandate","terms":{"actions":["bank___balance"],"servers":["bank"],"task":"look"}}]`},
		}
		for i := 0; i+1 < len(changes); i += 2 {
			if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
				f.Del(changes[i])
			}
		}
		return f
	}
	status, out, _ := w.post("/token", caller{cert: parent}, form())
	if status != 200 || !out.Get("issued_token_type").Is(accessType) {
		t.Fatalf("%d %s", status, out.Bytes())
	}
	text := out.Get("access_token").Text()
	body, _ := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	v := parsed(t, body)
	act := v.Get("act")
	if !v.Get("sub").Is(string(dana)) || !act.Get("sub").Is("spiffe://test.example/agent/buyer") || !act.Get("act").Get("sub").Is("spiffe://test.example/agent/planner") {
		t.Errorf("%s", body)
	}
	c := ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(text)), Audience: doorURL, Encrypted: true, Peer: child, Verified: true}
	s, err := w.identity.Authenticate(ctx, c)
	if err != nil || s.Agent.Name() != "buyer" || s.Principal != dana || !s.Bound || len(s.Chain) != 2 || s.Chain[0].Name() != "planner" {
		t.Fatalf("%+v %v", s, err)
	}
	m, _ := w.identity.Mandate(s.Mandate)
	if !slices.Equal(m.Actions, []string{"bank___balance"}) || !slices.Equal(m.Resources, []string{"bank"}) || len(m.Links) != 2 {
		t.Errorf("%+v", m)
	}
	c.Peer = parent
	if _, err := w.identity.Authenticate(ctx, c); err == nil {
		t.Error("E13 the parent can use it")
	}
	t.Run("by the mandate's name", func(t *testing.T) {
		sub, err := w.identity.Authenticate(ctx, ostiary.Credentials{Peer: parent, Verified: true, Encrypted: true})
		if err != nil {
			t.Fatal(err)
		}
		if status, out, _ := w.post("/token", caller{cert: parent}, form("subject_token", string(sub.Mandate), "subject_token_type", MandateType)); status != 200 {
			t.Errorf("%d %s", status, out.Bytes())
		}
		if status, _, _ := w.post("/token", caller{cert: child}, form("subject_token", string(sub.Mandate), "subject_token_type", MandateType)); status == 200 {
			t.Error("another's mandate")
		}
	})
	t.Run("J01 wider than the parent", func(t *testing.T) {
		derived := text
		who := caller{cert: child}
		for name, terms := range map[string]string{
			"an action": `{"actions":["bank___transfer"],"servers":["bank"]}`, "a server": `{"actions":["bank___balance"],"servers":["inbox"]}`, "a life": `{"until":"2030-01-01T00:00:00Z"}`, "a depth": `{"depth":9}`,
		} {
			status, out, _ := w.post("/token", who, form("subject_token", derived, "actor_token", mine, "authorization_details", `[{"type":"ostiary_mandate","terms":`+terms+`}]`))
			if status != 400 || !out.Get("error").Is("invalid_authorization_details") {
				t.Errorf("%s: %d %s", name, status, out.Bytes())
			}
		}
	})
	t.Run("J03 a cycle", func(t *testing.T) {
		if status, out, _ := w.post("/token", caller{cert: child}, form("subject_token", text, "actor_token", mine, "authorization_details", "")); status == 200 {
			t.Errorf("%s", out.Bytes())
		}
	})
	t.Run("J04 the parent's end is the child's", func(t *testing.T) {
		if err := w.identity.EndMandate(ctx, "person:dana", m.Links[0], identity.EndRevoked, "test"); err != nil {
			t.Fatal(err)
		}
		c.Peer = child
		if _, err := w.identity.Authenticate(ctx, c); err == nil {
			t.Error("it is still good")
		}
	})
	w = newWorld(t)
	parent, child = w.enrol("planner", dana), w.enrol("buyer", dana)
	foreign, ours := w.enrol("stranger", "organisation:other"), w.enrol("ours", "organisation:acme")
	mine, childs = own(parent, doorURL), own(child, doorURL)
	theirs, oursToken := own(foreign, doorURL), own(ours, doorURL)
	for name, x := range map[string]struct {
		who     caller
		changes []string
		code    string
	}{
		"J06 other organisations":      {caller{cert: ours}, []string{"subject_token", oursToken, "actor_token", theirs}, "invalid_target"},
		"another's token":              {caller{cert: child}, nil, "invalid_grant"},
		"nobody's":                     {caller{}, nil, "invalid_client"},
		"no subject":                   {caller{cert: parent}, []string{"subject_token", ""}, "invalid_request"},
		"no actor":                     {caller{cert: parent}, []string{"actor_token", ""}, "invalid_request"},
		"no actor's type":              {caller{cert: parent}, []string{"actor_token_type", ""}, "invalid_request"},
		"an id token":                  {caller{cert: parent}, []string{"subject_token_type", "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"},
		"a refresh token wanted":       {caller{cert: parent}, []string{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		"no resource":                  {caller{cert: parent}, []string{"resource", ""}, "invalid_target"},
		"a foreign resource":           {caller{cert: parent}, []string{"resource", "https://elsewhere.example"}, "invalid_target"},
		"a token of nobody":            {caller{cert: parent}, []string{"subject_token", "a.b.c"}, "invalid_grant"},
		"an actor of nobody":           {caller{cert: parent}, []string{"actor_token", "a.b.c"}, "invalid_grant"},
		"details for another":          {caller{cert: parent}, []string{"authorization_details", `[{"type":"ostiary_mandate","terms":{"agent":"spiffe://test.example/agent/stranger"}}]`}, "invalid_authorization_details"},
		"J05 on behalf of another":     {caller{cert: parent}, []string{"authorization_details", `[{"type":"ostiary_mandate","terms":{"principal":"person:erin"}}]`}, "invalid_authorization_details"},
		"oneself":                      {caller{cert: parent}, []string{"actor_token", mine}, "invalid_authorization_details"},
		"an actor's type that is none": {caller{cert: parent}, []string{"actor_token_type", "x"}, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			f := form(x.changes...)
			status, out, _ := w.post("/token", x.who, f)
			if status == 200 || !out.Get("error").Is(x.code) {
				t.Errorf("%d %s", status, out.Bytes())
			}
		})
	}
	t.Run("F01 a bearer token lives minutes, and nothing longer comes of it", func(t *testing.T) {
		sub := newKey(t)
		details := `[{"type":"ostiary_mandate","terms":{"servers":["bank"],"depth":1}}]`
		_, out, _ := w.post("/token", caller{}, code4("code", w.consented("authorization_details", details)))
		actor, err := w.identity.MintToken(ctx, identity.TokenRequest{Agent: "spiffe://test.example/agent/buyer", Audience: doorURL, Thumbprint: thumbOf(sub)})
		if err != nil {
			t.Fatal(err)
		}
		f := form("client_id", clientID, "subject_token", out.Get("access_token").Text(), "actor_token", string(actor.Text.Reveal()))
		for name, who := range map[string]caller{"as it is": {}, "with the finder's key": {key: sub}} {
			if status, out, _ := w.post("/token", who, f); status != 400 || !out.Get("error").Is("invalid_grant") {
				t.Errorf("%s, whoever finds it delegates for as long as the mandate: %d %s", name, status, out.Bytes())
			}
		}
	})
	t.Run("a person's client delegates, bound to keys", func(t *testing.T) {
		key, sub := newKey(t), newKey(t)
		details := `[{"type":"ostiary_mandate","terms":{"servers":["bank"],"depth":1}}]`
		_, out, _ := w.post("/token", caller{key: key}, code4("code", w.consented("authorization_details", details)))
		actor, err := w.identity.MintToken(ctx, identity.TokenRequest{Agent: "spiffe://test.example/agent/buyer", Audience: doorURL, Thumbprint: thumbOf(sub)})
		if err != nil {
			t.Fatal(err)
		}
		f := form("client_id", clientID, "subject_token", out.Get("access_token").Text(), "actor_token", string(actor.Text.Reveal()))
		if status, out, _ := w.post("/token", caller{}, f); status == 200 || !out.Get("error").Is("invalid_grant") {
			t.Errorf("without the key: %d %s", status, out.Bytes())
		}
		if status, out, _ := w.post("/token", caller{key: key}, f); status != 200 || !out.Get("token_type").Is("DPoP") || !out.Get("scope").Is("mcp server:bank") {
			t.Errorf("%d %s", status, out.Bytes())
		}
		f.Set("scope", "mcp server:bank server:inbox")
		if status, out, _ := w.post("/token", caller{key: key}, f); status == 200 || !out.Get("error").Is("invalid_scope") {
			t.Errorf("a wider scope: %d %s", status, out.Bytes())
		}
	})
}
