// Package oauth is the authorization server: it turns a person's consent, a
// parent agent's delegation or an identity provider's word into a mandate and
// a short-lived token under it.
//
// It guarantees: a code is spent once, whoever asks on whichever process, and
// asking again ends the mandate that came of it; every parameter counts once
// and a repeated one refuses the request; a redirect goes only where the
// client's own document says; PKCE with S256, the resource, and iss in every
// answer are not optional; a token is for one audience, at most ten minutes,
// bound to a key when the client shows one; what is granted is never wider than
// what was asked, consented to, and held. Its state survives restarts: codes
// and refresh tokens are kept as hashes.
//
// It trusts identity for every signature and every mandate, the page that
// asks a person to say truly who decided, the fetcher it is given to reach
// public addresses alone, and the issuers an operator configured for what they
// assert. It keeps no person and no password, draws no page, and dials nowhere.
//
// Follows OAuth 2.1 (draft -13), RFC 8414, RFC 9207, RFC 8707, RFC 9449, RFC
// 8705, RFC 8693, RFC 9396, RFC 7523, RFC 7009, the client ID metadata document
// draft (-00, as MCP cites it), and the identity assertion grant draft.
package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// Lives and limits.
const (
	PendingLife = 10 * time.Minute    // of a question to a person
	CodeLife    = time.Minute         // of a code: a browser's redirect and one request
	WantLife    = 24 * time.Hour      // of the mandate a client wants if it says nothing: a day's work
	MaxWantLife = 30 * 24 * time.Hour // whatever it says

	maxForm     = 64 << 10 // bytes of a request: a token, an assertion and details
	bodyTimeout = 10 * time.Second
)

// Authority issues mandates and tokens, and reads them. *identity.Authority is
// one.
type Authority interface {
	Issuer() string
	TrustDomain() string
	TokenKeys() []byte
	ProofNonce() string
	Prove(p *ostiary.Possession, token string) (jwt.JWK, error)
	Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error)
	ReadToken(text string) (identity.ReadToken, error)
	AdmitClient(ctx context.Context, client string, person ostiary.PrincipalID) (ostiary.AgentID, error)
	IssueMandate(ctx context.Context, by ostiary.PrincipalID, m ostiary.Mandate) (ostiary.Mandate, error)
	DeriveMandate(ctx context.Context, s ostiary.Subject, m ostiary.Mandate) (ostiary.Mandate, error)
	EndMandate(ctx context.Context, by string, id ostiary.MandateID, how identity.EndHow, reason string) error
	Mandate(id ostiary.MandateID) (ostiary.Mandate, bool)
	Mandates(ctx context.Context, f identity.MandateFilter) ([]identity.MandateView, error)
	Agent(id ostiary.AgentID) (identity.AgentRecord, bool)
	MintToken(ctx context.Context, r identity.TokenRequest) (identity.Token, error)
	Revoke(ctx context.Context, r identity.Revocation) (uint64, error)
}

// Resource is something tokens can be for.
type Resource struct {
	Audience string   // what stands in the token, whichever of its names was used
	Server   string   // "" for all of them
	Servers  []string // what it reaches: Server, or every configured one
}

// Resources finds a resource by any name clients reach it under.
type Resources interface {
	Resource(uri string) (Resource, bool)
}

// Fetcher reads a document from a public address chosen by a stranger:
// nothing is followed, nothing private is reached. The body is at most that
// long, or it is an error.
type Fetcher interface {
	Fetch(ctx context.Context, https string, most int64) (body []byte, mediaType string, err error)
}

// Persons finds who somebody at a trusted issuer is here: NotFound if nobody.
type Persons interface {
	PersonAt(ctx context.Context, issuer, subject string) (ostiary.PrincipalID, error)
}

// Issuer is an identity provider whose word (ID-JAG) is taken for a consent.
type Issuer struct {
	URL    string   // exactly as its assertions say
	Keys   string   // the https address of its key set
	Scopes []string // the most that an assertion gives
}

// Options are what a Server is made of; all are required but Issuers, Persons,
// Refused and Pace.
type Options struct {
	URL       string // scheme and host of the issuer: where people and clients reach it
	Agents    string // scheme and host of the agents' listener, where certificates are shown
	Authority Authority
	Records   record.Keeper
	Resources Resources
	Fetch     Fetcher
	Issuers   []Issuer
	Persons   Persons
	Register  bool // clients may register themselves; a stranger can then fill the store, slowly
	Refused   func(source, code string)
	Pace      *stricthttp.Pace // of strangers: each question is a row for ten minutes
	Clock     func() time.Time
	Logger    *slog.Logger
}

// Server is the authorization server. Safe for concurrent use.
type Server struct {
	o       Options
	fetches *rate.Limiter
	clients cache[*client]
	paces   cache[*rate.Limiter] // by client
	keys    cache[*jwt.Set]
	mux     *http.ServeMux
}

// New returns a server that is ready to answer.
func New(o Options) (*Server, error) {
	if o.Authority == nil || o.Records == nil || o.Resources == nil || o.Fetch == nil || o.Clock == nil || o.Logger == nil {
		return nil, errors.New("oauth: a required option is missing")
	}
	for _, s := range []string{o.URL, o.Agents} {
		if u, err := url.Parse(s); err != nil || u.Host == "" || s != u.Scheme+"://"+u.Host || u.Scheme != "https" && !(u.Scheme == "http" && u.Hostname() == "localhost") {
			return nil, ostiary.Errorf(ostiary.Malformed, "oauth_issuer", "%q is not https and a host, nor http://localhost", s)
		}
	}
	if o.Authority.Issuer() != o.URL {
		return nil, errors.New("oauth: the authority signs for another issuer")
	}
	for _, i := range o.Issuers {
		if o.Persons == nil || !strings.HasPrefix(i.URL, "https://") || !strings.HasPrefix(i.Keys, "https://") {
			return nil, ostiary.Errorf(ostiary.Malformed, "oauth_issuer", "%q: a trusted issuer and its keys are https, and there are persons", i.URL)
		}
	}
	if o.Pace == nil {
		o.Pace = stricthttp.NewPace(o.Clock)
	}
	if o.Refused == nil {
		o.Refused = func(string, string) {}
	}
	s := &Server{
		paces: cache[*rate.Limiter]{life: documentLife},
		o:     o, fetches: rate.NewLimiter(fetchRate, fetchBurst),
		clients: cache[*client]{life: documentLife}, keys: cache[*jwt.Set]{life: documentLife}, mux: http.NewServeMux(),
	}
	s.mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.metadata)
	s.mux.HandleFunc("GET /.well-known/openid-configuration", s.metadata)
	s.mux.HandleFunc("GET /jwks", s.jwks)
	s.mux.HandleFunc("GET /authorize", s.authorize)
	s.mux.HandleFunc("POST /token", s.token)
	s.mux.HandleFunc("POST /revoke", s.revoke)
	if o.Register {
		s.mux.HandleFunc("POST /register", s.register)
	}
	return s, nil
}

// Paths are what the server answers, for whoever mounts it; the second list is
// what it also answers on the agents' listener, where certificates are shown.
func (s *Server) Paths() (people, agents []string) {
	people = []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/jwks", "/authorize", "/token", "/revoke"}
	if s.o.Register {
		people = append(people, "/register")
	}
	return people, []string{"/token", "/revoke"}
}

// ServeHTTP answers what Paths lists.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if r.ContentLength != 0 { // a writer without deadlines is a test's
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	s.mux.ServeHTTP(w, r)
}

// metadata is one document under two names. See RFC 8414 and OpenID Connect
// Discovery; nobody is signed in to clients here, so it promises no ID token.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	m := map[string]any{
		"issuer":                                                s.o.URL,
		"authorization_endpoint":                                s.o.URL + "/authorize",
		"token_endpoint":                                        s.o.URL + "/token",
		"revocation_endpoint":                                   s.o.URL + "/revoke",
		"jwks_uri":                                              s.o.URL + "/jwks",
		"response_types_supported":                              []string{"code"},
		"response_modes_supported":                              []string{"query"},
		"subject_types_supported":                               []string{"public"},
		"id_token_signing_alg_values_supported":                 []string{"ES256"},
		"grant_types_supported":                                 s.grants(),
		"code_challenge_methods_supported":                      []string{"S256"},
		"token_endpoint_auth_methods_supported":                 []string{"none", "private_key_jwt", "tls_client_auth"},
		"token_endpoint_auth_signing_alg_values_supported":      jwt.ClientAssertion.Algorithms(),
		"revocation_endpoint_auth_methods_supported":            []string{"none", "private_key_jwt", "tls_client_auth"},
		"revocation_endpoint_auth_signing_alg_values_supported": jwt.ClientAssertion.Algorithms(),
		"dpop_signing_alg_values_supported":                     jwt.Proof.Algorithms(),
		"tls_client_certificate_bound_access_tokens":            true,
		"mtls_endpoint_aliases":                                 map[string]string{"token_endpoint": s.o.Agents + "/token", "revocation_endpoint": s.o.Agents + "/revoke"},
		"authorization_response_iss_parameter_supported":        true,
		"client_id_metadata_document_supported":                 true,
		"authorization_details_types_supported":                 []string{DetailsType},
		"service_documentation":                                 "https://github.com/ostiary/ostiary/blob/main/docs/reference/oauth.md",
	}
	if s.o.Register {
		m["registration_endpoint"] = s.o.URL + "/register"
	}
	if len(s.o.Issuers) > 0 {
		m["authorization_grant_profiles_supported"] = []string{"urn:ietf:params:oauth:grant-profile:id-jag"}
	}
	s.write(w, http.StatusOK, m)
}

// The grants, by their names.
const (
	grantCode     = "authorization_code"
	grantRefresh  = "refresh_token"
	grantClient   = "client_credentials"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantAssert   = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

func (s *Server) grants() []string {
	all := []string{grantCode, grantRefresh, grantClient, grantExchange}
	if len(s.o.Issuers) > 0 {
		all = append(all, grantAssert)
	}
	return all
}

func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Write(s.o.Authority.TokenKeys())
}

func (s *Server) write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v) // our own data
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
}
