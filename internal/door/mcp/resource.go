package mcp

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// metadataPath is where a client learns who signs people in for an endpoint:
// this and the endpoint's path, or this alone. See RFC 9728, section 3.
const metadataPath = "/.well-known/oauth-protected-resource"

// resourceMetadata is the document. Nothing in it depends on who asks.
type resourceMetadata struct {
	Resource    string   `json:"resource"`
	Servers     []string `json:"authorization_servers"`
	Scopes      []string `json:"scopes_supported"`
	Methods     []string `json:"bearer_methods_supported"`
	Proofs      []string `json:"dpop_signing_alg_values_supported"`
	Certificate bool     `json:"tls_client_certificate_bound_access_tokens"`
	Details     []string `json:"authorization_details_types_supported"`
	Name        string   `json:"resource_name"`
}

// metadata answers a request for the document, and reports whether it was
// one. It is the one thing the door tells before anybody proved anything:
// where to go to be able to. It says nothing of a server named in the path, not
// even whether there is one.
func (d *Door) metadata(w http.ResponseWriter, r *http.Request, path string) bool {
	endpoint, ok := strings.CutPrefix(path, metadataPath)
	if !ok || d.signIn == "" || endpoint != "" && endpoint[0] != '/' {
		return false
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	server, perServer := strings.CutPrefix(endpoint, "/mcp/")
	if !perServer {
		server = ""
	}
	switch {
	case r.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	case !hostSyntax(r.Host) || !d.hosts[strings.ToLower(r.Host)] || r.ContentLength != 0 || len(r.Header.Values("Origin")) > 0 && !d.settings.Load().origins[r.Header.Get("Origin")]:
		w.WriteHeader(http.StatusForbidden)
		return true
	case endpoint != "" && endpoint != "/mcp" && (!perServer || !serverName(server)), r.URL.RawQuery != "":
		w.WriteHeader(http.StatusNotFound)
		return true
	}
	m := resourceMetadata{
		Resource: baseOf(r) + endpoint, Servers: []string{d.signIn}, Scopes: ostiary.ScopesFor(server),
		Methods: []string{"header"}, Proofs: []string{"ES256"}, Certificate: true, Details: []string{"ostiary_mandate"}, Name: "Ostiary",
	}
	if server == "" {
		for name := range d.settings.Load().servers {
			m.Scopes = append(m.Scopes, ostiary.ScopeOf(name))
		}
		slices.Sort(m.Scopes)
	}
	body, err := json.Marshal(m) // our own data
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	h.Set("Content-Type", "application/json")
	w.Write(body)
	return true
}

// baseOf is the scheme, host and port the client used, in lower case. The
// host was, or will be, found among the gateway's own.
func baseOf(r *http.Request) string {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return scheme + strings.ToLower(r.Host)
}

// ended reports whether a refusal means that the token shown is of no more use,
// because what it was for has ended: a client must be told as for any other
// token that is not good, or it never asks for a new one. See RFC 6750, section
// 3.1. An agent with a certificate has nothing better to show.
func (x *visit) ended(e *ostiary.Error) bool {
	return e.Kind == ostiary.Denied && e.Code == "mandate_ended" && !x.creds.Bearer.IsZero()
}

// challenge is what WWW-Authenticate says with a refusal: which scheme, what
// was wrong in the protocol's word if a token was shown, where to sign in, and
// every scope the request needs. See RFC 6750, section 3, RFC 9449, section
// 7.1, and RFC 9728, section 5.1.
func (x *visit) challenge(e *ostiary.Error) string {
	var b strings.Builder
	scheme, comma := "Bearer", " "
	if x.creds.Possession != nil {
		scheme = "DPoP"
	}
	b.WriteString(scheme)
	add := func(name, value string) {
		if value != "" {
			b.WriteString(comma + name + `="` + value + `"`)
			comma = ", "
		}
	}
	scopes := ostiary.ScopesFor(x.server)
	switch {
	case e.Code == ostiary.InsufficientScope:
		add("error", e.Code)
		scopes = nil
		for _, r := range e.Remedies {
			scopes = append(scopes, strings.TrimPrefix(r.Fact, ostiary.ScopeFact))
		}
	case e.Code == "use_dpop_nonce":
		add("error", e.Code)
	case e.Code == "dpop_proof":
		add("error", "invalid_dpop_proof")
	case !x.creds.Bearer.IsZero() && (x.door.signIn != "" || scheme == "DPoP"):
		add("error", "invalid_token")
	}
	if scheme == "DPoP" {
		add("algs", "ES256")
	}
	if x.door.signIn != "" && hostSyntax(x.r.Host) {
		path := x.r.URL.EscapedPath()
		if path != "/mcp" && x.server == "" {
			path = "/mcp" // no endpoint: the path is the client's own words
		}
		add("resource_metadata", baseOf(x.r)+metadataPath+path)
		add("scope", strings.Join(scopes, " "))
	} else if e.Code == ostiary.InsufficientScope {
		add("scope", strings.Join(scopes, " "))
	}
	return b.String()
}
