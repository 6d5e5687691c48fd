package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

// tokens reads access tokens. What a token is, is in the table of package jwt.
type tokens struct {
	issuer string
	domain string
	read   readTokens
}

// token is what a verified token says.
type token struct {
	audience  string
	agent     ostiary.AgentID
	mandate   ostiary.MandateID
	principal ostiary.PrincipalID
	client    string
	kid       string   // of the key it was signed with
	by        []string // the same, as a Subject has it
	scopes    []string
	jkt       string // thumbprint of the key it is bound to; see RFC 9449
	x5t       string // digest of the certificate it is bound to; see RFC 8705
	id        string
	issued    time.Time // to the microsecond, from its id
	epoch     uint64    // the issuer's, at that moment
	iat       time.Time
	begins    time.Time
	expires   time.Time
}

// claims is how a token is written; reading goes through the strict scanner.
type claims struct {
	Issuer    string        `json:"iss"`
	Audience  string        `json:"aud"`
	Subject   string        `json:"sub"`
	Actor     *actor        `json:"act"`
	Client    string        `json:"client_id"`
	Expires   int64         `json:"exp"`
	Issued    int64         `json:"iat"`
	NotBefore int64         `json:"nbf"`
	ID        string        `json:"jti"`
	Mandate   string        `json:"mandate"`
	Scope     string        `json:"scope,omitempty"`
	Confirm   *confirmation `json:"cnf,omitempty"`
}

// actor is who acts, and for whom among the agents before it. See RFC 8693,
// section 4.1: only the outermost counts, the rest is history.
type actor struct {
	Subject string `json:"sub"`
	Actor   *actor `json:"act,omitempty"`
}

type confirmation struct {
	Key         string `json:"jkt,omitempty"`
	Certificate string `json:"x5t#S256,omitempty"`
}

// actors writes a chain, first delegate first, the other way round.
func actors(chain []ostiary.AgentID) *actor {
	var out *actor
	for _, id := range chain {
		out = &actor{string(id), out}
	}
	return out
}

// verify reads an access token for this audience, at this time. There is no
// leeway: what we issue starts a little before its issue.
func (t *tokens) verify(text, audience string, keys *jwt.Set, now time.Time) (token, error) {
	if audience == "" {
		return token{}, errors.New("the resource asked for is not known, so no audience can match")
	}
	if len(text) > jwt.MaxText {
		return token{}, errors.New("the token is too long")
	}
	at := ostiary.DigestOf([]byte(text))
	tok, ok := t.read.find(at)
	if !ok {
		read, err := jwt.AccessToken.Read(text, keys)
		if err != nil {
			return token{}, err
		}
		if tok, err = t.understand(&read); err != nil {
			return token{}, err
		}
		t.read.add(at, tok)
	}
	if !keys.Has(tok.kid) { // it was believed when the token was remembered
		return token{}, errors.New("the token's key is refused by now")
	}
	return tok, tok.judge(audience, now)
}

// issuerOf is the issuer of a trust domain where nobody signs in. Its tokens stay
// good where people begin to: they are of the same key, and live minutes.
func issuerOf(domain string) string { return "https://" + domain + "/ostiary" }

// understand reads the claims, and refuses those no authority of this trust
// domain would sign.
func (t *tokens) understand(in *jwt.Token) (token, error) {
	s, ok := parseSerial(in.Text("jti"))
	tok := token{
		audience: in.Claims.Get("aud").Text(), mandate: ostiary.MandateID(in.Text("mandate")),
		principal: ostiary.PrincipalID(in.Text("sub")), client: in.Text("client_id"), kid: in.KID, by: []string{in.KID}, id: s.String(), issued: s.issued(), epoch: s.epoch(),
		iat: in.Time("iat"), begins: in.Time("nbf"), expires: in.Time("exp"),
	}
	switch {
	case in.Text("iss") != t.issuer && in.Text("iss") != issuerOf(t.domain):
		return token{}, errors.New("the token is of another issuer")
	case !ok || tok.issued.Unix() != tok.iat.Unix():
		return token{}, errors.New("the token's id is not one of ours")
	}
	var err error
	if tok.agent, err = t.acting(in.Claims.Get("act")); err != nil {
		return token{}, err
	}
	if scope := in.Claims.Get("scope"); scope.Exists() {
		if tok.scopes, err = ParseScope(scope.Text()); err != nil {
			return token{}, err
		}
	}
	if cnf := in.Claims.Get("cnf"); cnf.Exists() {
		tok.jkt, tok.x5t = cnf.Get("jkt").Text(), cnf.Get("x5t#S256").Text()
		if cnf.Len() != 1 || !thumbprint(tok.jkt+tok.x5t) {
			return token{}, errors.New("the token is bound in a way that is not known")
		}
	}
	return tok, nil
}

// acting reads the chain of actors: each an agent of this trust domain, and
// nothing beside it.
func (t *tokens) acting(v ostiary.Value) (ostiary.AgentID, error) {
	var first ostiary.AgentID
	for v.Exists() {
		id, err := ostiary.ParseAgentID(v.Get("sub").Text())
		if err != nil {
			return "", err
		}
		next := v.Get("act")
		known := 1
		if next.Exists() {
			known = 2
		}
		if v.Kind() != ostiary.Object || v.Len() != known || id.TrustDomain() != t.domain {
			return "", errors.New("the token's actor is no agent of this trust domain")
		}
		if first == "" {
			first = id
		}
		v = next
	}
	return first, nil
}

// thumbprint reports whether s is a SHA-256 in base64url.
func thumbprint(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 32
}

// judge is looked at on each request: for whom, and when.
func (t *token) judge(audience string, now time.Time) error {
	switch {
	case t.audience != audience:
		return errors.New("the token is for another audience")
	case now.Before(t.begins) || t.iat.Sub(now) > backdate:
		return errors.New("the token is not valid yet")
	case !now.Before(t.expires):
		return errors.New("the token has expired")
	}
	return nil
}

// maxRead bounds the tokens remembered, twice: each is below 1 KiB and lives
// minutes.
const maxRead = 4096

// readTokens remembers tokens whose signature was verified, by the digest of
// their text, since a client shows one many times in its minutes. It holds
// two generations and forgets the older when the younger is full.
type readTokens struct {
	mu         sync.Mutex // guards what follows
	young, old map[ostiary.Digest]token
}

func (r *readTokens) find(at ostiary.Digest) (token, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.young[at]
	if !ok {
		t, ok = r.old[at]
	}
	return t, ok
}

func (r *readTokens) add(at ostiary.Digest, t token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= maxRead {
		r.young, r.old = map[ostiary.Digest]token{}, r.young
	}
	r.young[at] = t
}

// Limits of a scope: a few words, each the name of a server with a prefix.
const (
	maxScope  = 4096 // bytes
	maxScopes = 128
)

// ParseScope reads a scope: words of RFC 6749, section 3.3, with one space
// between them, none twice.
func ParseScope(s string) ([]string, error) {
	words := strings.Split(s, " ")
	bad := ostiary.Errorf(ostiary.Malformed, "scope", "a scope is words with one space between them, none twice, at most %d", maxScopes).At("scope")
	if len(s) > maxScope || len(words) > maxScopes {
		return nil, bad
	}
	seen := map[string]bool{}
	for _, w := range words {
		if seen[w] || !plain(w) || strings.ContainsAny(w, `"\`) {
			return nil, bad
		}
		seen[w] = true
	}
	return words, nil
}

// TokenRequest is what a token is to say.
type TokenRequest struct {
	Agent    ostiary.AgentID
	Mandate  ostiary.MandateID // that it is under; "": the agent's standing one
	Audience string            // the one address it opens
	Life     time.Duration     // 0: the most that is allowed
	Client   string            // the OAuth client it is handed to; "": the agent itself
	Scope    string            // what it is limited to beside the mandate; "": nothing more

	// At most one of these binds it to a key. An unbound token is a bearer
	// token: whoever has it is the agent, for minutes.
	Thumbprint  string    // of a key, for DPoP; see RFC 7638
	Certificate string    // SHA-256 of a client certificate in base64url; see RFC 8705
	Until       time.Time // when that certificate ends; no token outlives it
}

func (r *TokenRequest) check(longest time.Duration) error {
	bad := func(field, format string, args ...any) error {
		return ostiary.Errorf(ostiary.Malformed, "token_"+field, format, args...).At(field)
	}
	r.Life = orDefault(r.Life, longest)
	if r.Client == "" {
		r.Client = string(r.Agent)
	}
	switch {
	case r.Life < time.Second || r.Life > longest:
		return bad("life", "a token lives at least a second and at most %s", longest)
	case r.Audience == "" || len(r.Audience) > 2048:
		return bad("audience", "a token is for exactly one address")
	case len(r.Client) > 2048:
		return bad("client", "a client's id is at most 2048 bytes")
	case r.Thumbprint != "" && r.Certificate != "", r.Thumbprint+r.Certificate != "" && !thumbprint(r.Thumbprint+r.Certificate), r.Certificate != "" && r.Until.IsZero():
		return bad("binding", "a token is bound to one key or one certificate, by its SHA-256 in base64url")
	}
	if r.Scope != "" {
		if _, err := ParseScope(r.Scope); err != nil {
			return err
		}
	}
	return nil
}

// Token is a token that was signed.
type Token struct {
	Text    ostiary.Secret
	ID      string // its serial, by which it can be revoked
	Expires time.Time
}

// MintToken signs an access token for an enrolled agent under one of its
// mandates in force. An agent that was revoked gets none until it is enrolled
// again.
func (a *Authority) MintToken(ctx context.Context, r TokenRequest) (Token, error) {
	if err := r.check(a.lives.Load().Token); err != nil {
		return Token{}, err
	}
	d, now := a.dir.Load(), a.clock.Now()
	g, ok := d.agents[r.Agent]
	if !ok {
		return Token{}, ostiary.Errorf(ostiary.NotFound, "agent", "no agent %s is enrolled", r.Agent).At("agent")
	}
	if r.Mandate == "" {
		r.Mandate = g.Mandate
	}
	f, err := d.stands(now, r.Agent, r.Mandate)
	if err != nil {
		return Token{}, err
	}
	if e, ok := d.ends.agents.get(r.Agent); ok && !g.Enrolled.After(e.at) {
		return Token{}, ostiary.Errorf(ostiary.Denied, "agent_revoked", "the agent was revoked: enrol it again").At("agent")
	}
	s := newSerial(now, d.ends.epoch)
	end := now.Add(r.Life)
	for _, most := range []time.Time{f.effective.Expires, r.Until} {
		if !most.IsZero() && end.After(most) {
			end = most
		}
	}
	if end = end.Truncate(time.Second); !end.After(now) {
		return Token{}, ostiary.Errorf(ostiary.Denied, "token_life", "what the token would be for ends in less than a second")
	}
	e := Event{What: "token", Agent: r.Agent, Principal: f.Principal, Mandate: r.Mandate, Serial: s.String(),
		Detail: r.kind() + " for " + r.Audience + " until " + end.Format(time.RFC3339)}
	if err := a.record(ctx, e); err != nil {
		return Token{}, fmt.Errorf("recording the token: %w", err)
	}
	c := claims{
		Issuer: a.issuer, Audience: r.Audience, Subject: string(f.Principal), Actor: actors(f.chain), Client: r.Client,
		Expires: end.Unix(), Issued: now.Unix(), NotBefore: now.Add(-backdate).Unix(), ID: s.String(), Mandate: string(r.Mandate), Scope: r.Scope,
	}
	if r.Thumbprint+r.Certificate != "" {
		c.Confirm = &confirmation{r.Thumbprint, r.Certificate}
	}
	st := a.stage(now)
	text, err := jwt.AccessToken.Sign(st.tokens, st.kid, c)
	return Token{Text: ostiary.NewSecret([]byte(text)), ID: s.String(), Expires: end}, err
}

// kind is what the log calls the token.
func (r *TokenRequest) kind() string {
	what := "a bearer token"
	switch {
	case r.Thumbprint != "":
		what = "a token bound to a key"
	case r.Certificate != "":
		what = "a token bound to a certificate"
	}
	if r.Client != string(r.Agent) {
		what += " of client " + r.Client
	}
	if r.Scope != "" {
		what += " with scope " + r.Scope
	}
	return what
}

// Issuer returns what stands in tokens as their issuer.
func (a *Authority) Issuer() string { return a.issuer }

// ReadToken is an access token in force, whatever it is for. It proves nothing
// of who shows it: that is for whoever asked to establish, by Thumbprint or
// Certificate, one of which is set if the token is bound.
type ReadToken struct {
	Subject     ostiary.Subject // as the token says; Key and Bound are not set
	Audience    string
	Thumbprint  string
	Certificate string
}

// ReadToken reads an access token for the token endpoint, where it is not a
// credential but what is talked about.
func (a *Authority) ReadToken(text string) (ReadToken, error) {
	none := ReadToken{}
	d, now := a.dir.Load(), a.clock.Now()
	read, err := jwt.AccessToken.Read(text, a.stage(now).keys)
	var t token
	if err == nil {
		t, err = a.tokens.understand(&read)
	}
	if err == nil {
		err = a.believed(rotation.Token, t.kid, now)
	}
	if err == nil {
		err = t.judge(t.audience, now)
	}
	if err == nil {
		if why := d.revoked(t.agent, ostiary.Digest{}, t.id, t.issued, t.epoch); why != "" {
			err = errors.New(why)
		}
	}
	if err != nil {
		_, err := refuse(err)
		return none, err
	}
	g, err := d.stands(now, t.agent, t.mandate)
	if err != nil {
		return none, err
	}
	if g.Principal != t.principal {
		_, err := refuse(errors.New("the agent's principal has changed since the token was issued"))
		return none, err
	}
	s := ostiary.Subject{
		Agent: t.agent, Principal: g.Principal, Chain: g.chain, Mandate: t.mandate, Client: t.client, Scopes: t.scopes,
		Via: ostiary.ViaToken, Serial: t.id, Signers: t.by, Issued: t.issued, Expires: t.expires, Epoch: d.ends.epoch,
	}
	return ReadToken{Subject: s, Audience: t.audience, Thumbprint: t.jkt, Certificate: t.x5t}, nil
}

// AdmitClient enrols the program that a person lets act for them, by their
// consent and nothing else: it has no certificate and no standing mandate, only
// the mandates people give it. It is another agent for each person. One that is
// there already stays as it is, also if it was revoked.
func (a *Authority) AdmitClient(ctx context.Context, client string, person ostiary.PrincipalID) (ostiary.AgentID, error) {
	if client == "" || len(client) > 2048 || !isPrincipal(person) {
		return "", ostiary.Errorf(ostiary.Malformed, "client", "a client has an id and acts for a person")
	}
	sum := ostiary.DigestOf([]byte(client + "\n" + string(person))).String()
	id := ostiary.AgentID("spiffe://" + a.domain + "/client/" + sum[:32])
	if _, ok := a.dir.Load().agents[id]; ok {
		return id, nil
	}
	e := Event{What: "admit", Agent: id, Principal: person, By: string(person), Detail: "the client " + client + ", by consent"}
	if err := a.record(ctx, e); err != nil {
		return "", fmt.Errorf("recording the client: %w", err)
	}
	r := AgentRecord{ID: id, Principal: person, Owner: string(person), Zone: "default", Roles: []string{"client"}, Enrolled: a.clock.Now(), Method: "oauth"}
	if err := a.registry.AddAgent(ctx, r); err != nil {
		return "", fmt.Errorf("storing the client: %w", err)
	}
	return id, a.Refresh(ctx)
}
