package people

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// maxDocument bounds what a provider may answer: key sets of large
	// providers have under 20 KiB.
	maxDocument = 256 << 10
	// providerTimeout bounds one question to the provider.
	providerTimeout = 15 * time.Second
	// askAgain is how long a provider that could not be asked is left alone.
	askAgain = 5 * time.Second
	// clockApart is how far a provider's clock may run before ours.
	clockApart = time.Minute
	// reservedPrefix begins the names of a provider's persons.
	reservedPrefix = "oidc-"
)

var documentLimits = strictjson.Limits{Bytes: maxDocument, Depth: 16, Nodes: 16 << 10, Elements: 4096, Literal: 64, Key: 512}

// ProviderOptions are what one OpenID provider needs; all but Hosts, Groups
// and Domains are required.
type ProviderOptions struct {
	Issuer   string
	ClientID string
	Secret   ostiary.Secret
	// Hosts are further host[:port] at which the provider takes codes and
	// publishes keys.
	Hosts []string
	// Domains admits by the domain of a verified e-mail address, Groups by
	// an element of GroupsClaim. Whoever matches none is not admitted; who
	// matches several has all their roles.
	Domains     map[string][]Role
	Groups      map[string][]Role
	GroupsClaim string
	// Client returns a client that reaches the given base URL and nothing
	// else, and follows no redirect.
	Client func(base string) (*http.Client, error)
	Clock  func() time.Time
}

// Provider signs persons in at one OpenID provider. It asks the provider for
// its addresses the first time somebody wants to sign in. Safe for concurrent
// use.
type Provider struct {
	o      ProviderOptions
	issuer *url.URL
	client *http.Client

	mu       sync.Mutex // guards what follows, and lets one caller ask
	failed   time.Time
	oauth    *oauth2.Config
	verifier *oidc.IDTokenVerifier
	needsIss bool // the provider says who it is in its answers (RFC 9207)
}

// NewProvider checks the options. It connects to nobody.
func NewProvider(o ProviderOptions) (*Provider, error) {
	bad := func(field, why string) error {
		return ostiary.Errorf(ostiary.Malformed, "oidc_options", "%s", why).At(field)
	}
	u, err := url.Parse(o.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !overTLS(u):
		return nil, bad("issuer", "write the issuer's https URL exactly as it calls itself")
	case o.ClientID == "":
		return nil, bad("client_id", "it is required")
	case o.Secret.IsZero():
		return nil, bad("client_secret_file", "it is required, and may not be empty")
	case len(o.Domains)+len(o.Groups) == 0:
		return nil, bad("domains", "say who may come in: by domains, by groups, or both")
	}
	if o.GroupsClaim == "" {
		o.GroupsClaim = "groups"
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	p := &Provider{o: o, issuer: u}
	first, err := o.Client(u.Scheme + "://" + u.Host)
	if err != nil {
		return nil, err
	}
	hosts := screened{u.Scheme + "://" + u.Host: first}
	for _, h := range o.Hosts {
		base := "https://" + h
		if hosts[base], err = o.Client(base); err != nil {
			return nil, err
		}
	}
	client := *first // its rule about redirects, with another way out
	client.Transport, client.Timeout = hosts, providerTimeout
	p.client = &client
	return p, nil
}

// overTLS reports whether nobody under way can read or change what is said
// there.
func overTLS(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && err == nil && a.IsLoopback()
}

func (p *Provider) host() string { return p.issuer.Host }

// screened reaches the hosts it has clients for, and lets through only JSON
// that every reader reads alike, within limits: the libraries above forgive.
type screened map[string]*http.Client

func (s screened) RoundTrip(r *http.Request) (*http.Response, error) {
	c, ok := s[r.URL.Scheme+"://"+r.URL.Host]
	if !ok {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, ostiary.Errorf(ostiary.Denied, "oidc_host", "the provider sends us to %s; list it in signin.oidc.hosts if that is right", r.URL.Host)
	}
	resp, err := c.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = ostiary.Errorf(ostiary.Upstream, "oidc_size", "the provider's answer is larger than %d KiB", maxDocument>>10)
	}
	if err == nil {
		_, err = strictjson.Parse(b, documentLimits)
	}
	if err != nil {
		return nil, err
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return resp, nil
}

// discover asks the provider for its addresses, once.
func (p *Provider) discover(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Clock()
	if p.oauth != nil {
		return nil
	}
	if !p.failed.IsZero() && now.Sub(p.failed) < askAgain {
		return errProvider(nil)
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), providerTimeout)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.o.Issuer)
	if err != nil {
		p.failed = now
		return errProvider(err)
	}
	var more struct {
		Methods []string `json:"code_challenge_methods_supported"`
		Iss     bool     `json:"authorization_response_iss_parameter_supported"`
		Keys    string   `json:"jwks_uri"`
	}
	if err := found.Claims(&more); err != nil {
		p.failed = now
		return errProvider(err)
	}
	if len(more.Methods) > 0 && !slices.Contains(more.Methods, "S256") {
		p.failed = now
		return errProvider(fmt.Errorf("it does not do PKCE with S256"))
	}
	e := found.Endpoint()
	for _, text := range []string{e.AuthURL, e.TokenURL, more.Keys} {
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.User != nil || !overTLS(u) || p.issuer.Scheme == "https" && u.Scheme != "https" {
			p.failed = now
			return errProvider(fmt.Errorf("one of its addresses is no https URL"))
		}
	}
	p.verifier = found.Verifier(&oidc.Config{
		ClientID: p.o.ClientID, Now: p.o.Clock,
		SupportedSigningAlgs: []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA},
	})
	p.needsIss = more.Iss
	p.oauth = &oauth2.Config{ClientID: p.o.ClientID, ClientSecret: string(p.o.Secret.Reveal()), Endpoint: e, Scopes: []string{oidc.ScopeOpenID, "profile", "email"}}
	return nil
}

func errProvider(err error) error {
	return ostiary.Errorf(ostiary.Unavailable, "oidc_provider", "the sign-in provider cannot be used just now").Because(err)
}

// login is what is remembered while a person is at the provider.
type login struct {
	Visit    string `json:"visit"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	Next     string `json:"next"`
}

// AskProvider begins a sign-in at the provider, in the browser that holds
// visit, and returns where to send it. Next is given back by FromProvider.
func (p *People) AskProvider(ctx context.Context, visit, next string) (string, error) {
	if p.o.Provider == nil {
		return "", ostiary.Errorf(ostiary.NotFound, "oidc_off", "there is no sign-in provider here")
	}
	if err := p.o.Provider.discover(ctx); err != nil {
		return "", err
	}
	state := newSecret()
	l := login{Visit: named(visit), Nonce: newSecret(), Verifier: oauth2.GenerateVerifier(), Next: next}
	if err := p.put(ctx, record.Record{Kind: kindLogin, ID: named(state), Expires: p.o.Clock().Add(LoginLife)}, l); err != nil {
		return "", err
	}
	return p.config().AuthCodeURL(state, oidc.Nonce(l.Nonce), oauth2.S256ChallengeOption(l.Verifier)), nil
}

// CallbackPath is where the provider sends browsers back to.
const CallbackPath = "/sign-in/callback"

func (p *People) config() *oauth2.Config {
	c := *p.o.Provider.oauth
	c.RedirectURL = p.o.Origin + CallbackPath
	return &c
}

// FromProvider ends what AskProvider began with what the provider sent the
// browser back with, and returns the token of a new session. It works once.
func (p *People) FromProvider(ctx context.Context, visit string, back url.Values) (token ostiary.Secret, next string, err error) {
	if p.o.Provider == nil {
		return token, "", ostiary.Errorf(ostiary.NotFound, "oidc_off", "there is no sign-in provider here")
	}
	for _, k := range []string{"state", "code", "iss", "error"} {
		if len(back[k]) > 1 {
			return token, "", ostiary.Errorf(ostiary.Malformed, "repeated", "the provider sent %s twice", k).At(k)
		}
	}
	var l login
	if err := p.take(ctx, kindLogin, named(back.Get("state")), &l); err != nil {
		if ostiary.KindOf(err) == ostiary.NotFound {
			err = errLogin("its state is not known, or was used")
		}
		return token, "", err
	}
	if subtle.ConstantTimeCompare([]byte(l.Visit), []byte(named(visit))) != 1 {
		return token, "", errLogin("another browser began it")
	}
	if back.Get("error") != "" {
		return token, "", ostiary.Errorf(ostiary.Denied, "oidc_refused", "the sign-in provider did not sign you in")
	}
	c, err := p.o.Provider.redeem(ctx, p.config(), l, back)
	if err != nil {
		return token, "", err
	}
	token, err = p.admit(ctx, c)
	return token, l.Next, err
}

// errLogin says one thing of every sign-in at the provider that does not hold.
func errLogin(why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Unauthenticated, "oidc_sign_in", "this sign-in cannot be finished; begin again").Because(ostiary.Errorf(ostiary.Unauthenticated, "oidc_sign_in", "%s", why))
}

// claims is what a provider said of a person, after every check.
type claims struct {
	link  Link
	label string
	roles []Role
	admit bool
}

// redeem exchanges the code and checks the ID token.
func (p *Provider) redeem(ctx context.Context, c *oauth2.Config, l login, back url.Values) (claims, error) {
	if iss := back.Get("iss"); iss != p.o.Issuer && (iss != "" || p.needsIss) {
		return claims{}, errLogin("another issuer answered")
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), providerTimeout)
	defer cancel()
	got, err := c.Exchange(ctx, back.Get("code"), oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return claims{}, errLogin("the code was not taken: " + err.Error())
	}
	raw, _ := got.Extra("id_token").(string)
	body, err := payload(raw)
	if err != nil {
		return claims{}, errLogin("the ID token is not strict: " + err.Error())
	}
	token, err := p.verifier.Verify(ctx, raw)
	if err != nil {
		return claims{}, errLogin(err.Error())
	}
	now := p.o.Clock()
	switch {
	case len(token.Audience) != 1 || token.Audience[0] != p.o.ClientID:
		return claims{}, errLogin("the ID token is not for us alone")
	case token.Issuer != p.o.Issuer:
		return claims{}, errLogin("another issuer's ID token")
	case !seconds(body.Get("exp")) || !now.Before(token.Expiry) || !seconds(body.Get("iat")) || token.IssuedAt.After(now.Add(clockApart)):
		return claims{}, errLogin("the ID token's times")
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(l.Nonce)) != 1:
		return claims{}, errLogin("another sign-in's ID token")
	case token.Subject == "" || len(token.Subject) > 255 || body.Get("azp").Exists() && body.Get("azp").Text() != p.o.ClientID:
		return claims{}, errLogin("the ID token's subject or party")
	case token.AccessTokenHash != "" && token.VerifyAccessToken(got.AccessToken) != nil:
		return claims{}, errLogin("the ID token is for another access token")
	}
	out := claims{link: Link{p.o.Issuer, token.Subject}}
	out.roles, out.admit = p.admits(body)
	for _, name := range []string{"name", "preferred_username", "email"} {
		if v := body.Get(name); v.Kind() == ostiary.String && out.label == "" {
			out.label = clip(v.Text())
		}
	}
	return out, nil
}

// payload scans the middle of a compact JWS. Its signature is checked by the
// library, which forgives duplicate members.
func payload(jws string) (ostiary.Value, error) {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 || len(jws) > maxDocument {
		return ostiary.Value{}, fmt.Errorf("no compact JWS")
	}
	for i := range 2 {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return ostiary.Value{}, err
		}
		doc, err := strictjson.Parse(b, documentLimits)
		if err != nil {
			return ostiary.Value{}, err
		}
		if i == 1 {
			return doc.Root(), nil
		}
	}
	return ostiary.Value{}, fmt.Errorf("no payload")
}

// seconds reports whether a value is a time as a JWT has one, before the year
// 5138. The library reads text and fractions as times too.
func seconds(v ostiary.Value) bool {
	n, ok := v.Int()
	return v.Kind() == ostiary.Number && ok && n > 0 && n < 1e11
}

// admits reads who somebody is from a checked ID token.
func (p *Provider) admits(body ostiary.Value) (roles []Role, ok bool) {
	add := func(r []Role, found bool) {
		ok = ok || found
		if found {
			roles = append(roles, r...)
		}
	}
	if mail := body.Get("email"); mail.Kind() == ostiary.String && body.Get("email_verified").Kind() == ostiary.True {
		text := mail.Text()
		r, found := p.o.Domains[strings.ToLower(text[strings.LastIndexByte(text, '@')+1:])]
		add(r, found && strings.Count(text, "@") == 1)
	}
	for _, g := range body.Get(p.o.GroupsClaim).Elements() {
		if g.Kind() == ostiary.String {
			r, found := p.o.Groups[g.Text()]
			add(r, found)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles), ok
}

// name is what the person of a link is called here.
func (l Link) name() string { return reservedPrefix + named(l.Issuer + "\n" + l.Subject)[:20] }

// PersonAt returns who signed in as somebody at a provider and is not revoked:
// NotFound if nobody is.
func (p *People) PersonAt(ctx context.Context, l Link) (Person, error) {
	out, err := p.Person(ctx, l.name())
	if err == nil && (!out.Revoked.IsZero() || !slices.Contains(out.Links, l)) || ostiary.KindOf(err) == ostiary.NotFound {
		return Person{}, ostiary.Errorf(ostiary.NotFound, "absent", "nobody signed in as this subject of that issuer")
	}
	return out, err
}

// admit finds or makes the provider's person, with the roles the provider
// says they have now, and begins a session.
func (p *People) admit(ctx context.Context, c claims) (ostiary.Secret, error) {
	name := c.link.name()
	now := p.o.Clock().UTC()
	var kept person
	_, err := p.change(ctx, name, func(r *person) (e Event, err error) {
		if !r.Revoked.IsZero() || !slices.Contains(r.Links, c.link) {
			return Event{}, errLogin("the person is revoked, or another one")
		}
		if words := Words(c.roles); !sameRoles(r.Roles, words) {
			r.Roles, r.Round = words, r.Round+1
			e = Event{What: "change_roles", By: p.o.Provider.host(), Detail: "roles are now " + said(c.roles)}
		}
		if !c.admit { // also who had no role: the browsers they came with are out too
			if e.What == "" {
				r.Round, e = r.Round+1, Event{What: "change_roles", By: p.o.Provider.host()}
			}
			e.Detail = "not admitted by the sign-in provider any more: no roles, and sessions end"
		}
		r.Label, r.Seen = c.label, now
		kept = *r
		return e, nil
	})
	switch {
	case err != nil && ostiary.KindOf(err) == ostiary.NotFound && c.admit:
		kept = person{Handle: newHandle(), Label: c.label, Roles: Words(c.roles), Created: now, By: p.o.Provider.host(), Seen: now, Links: []Link{c.link}}
		if err := p.o.Record(ctx, Event{What: "enrol_person", Person: Principal(name), By: p.o.Provider.host(), Detail: "by the sign-in provider, with roles: " + said(c.roles)}); err != nil {
			return ostiary.Secret{}, err
		}
		if err := p.put(ctx, record.Record{Kind: kindPerson, ID: name}, &kept); err != nil {
			return ostiary.Secret{}, err
		}
	case err != nil && ostiary.KindOf(err) != ostiary.NotFound:
		return ostiary.Secret{}, err
	case !c.admit:
		return ostiary.Secret{}, ostiary.Errorf(ostiary.Denied, "not_admitted", "you are not among those who may sign in here; ask an operator")
	}
	return p.begin(ctx, name, &kept, "oidc")
}
