package oauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/stricthttp"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// client is a program that asks, as its document says.
type client struct {
	id        string
	name      string
	redirects []string
	refresh   bool // it wants refresh tokens
	method    string
	keys      *jwt.Set // of private_key_jwt
	keysURL   string   // where they are, if not in the document
	known     bool     // its document was read at its id
}

const (
	maxDocument  = 16 << 10 // a real one is 1 KiB
	maxRedirects = 16
	maxName      = 128 // of what it calls itself, shown to people
	kindClient   = "oauth_client"
	clientPrefix = "ostclient_"
)

var documentLimits = strictjson.Limits{Bytes: maxDocument, Depth: 8, Nodes: 2048, Elements: 128, Literal: 32, Key: 64}

// find returns a client by its id: a document at an https address, or one that
// registered itself. Agents with a certificate are not here: nobody consents
// for them.
func (s *Server) find(ctx context.Context, id string) (*client, *refusal) {
	unknown := refuse(invalidClient, "the client is not known: its id is the https address of its metadata document")
	switch {
	case strings.HasPrefix(id, clientPrefix) && len(id) < 64:
		return s.registered(ctx, id)
	case !documentURL(id):
		return nil, unknown
	}
	now := s.o.Clock()
	if c, ok := s.clients.get(id, now); ok {
		return c, nil
	}
	text, ref := s.fetch(ctx, id, maxDocument, "application/json")
	if ref != nil {
		return nil, ref
	}
	c, err := parseDocument(id, text)
	if err != nil {
		return nil, refuse(invalidClient, "the client's metadata document is not usable").because(err)
	}
	s.clients.put(id, c, now)
	return c, nil
}

// fetch reads a document of a stranger's choosing.
func (s *Server) fetch(ctx context.Context, address string, most int64, media ...string) ([]byte, *refusal) {
	if !s.fetches.Allow() {
		return nil, refuse(unavailable, "too many new clients at once: try again in a few seconds")
	}
	text, got, err := s.o.Fetch.Fetch(ctx, address, most)
	if err != nil {
		return nil, refuse(invalidClient, "the client's metadata document could not be read").because(err)
	}
	if m, _, err := mime.ParseMediaType(got); err != nil || !slices.Contains(media, m) && !strings.HasSuffix(m, "+json") {
		return nil, refuse(invalidClient, "the client's metadata document is no JSON")
	}
	return text, nil
}

// documentURL accepts the id of a client that is a document: https, a path
// that is not only a slash, in its one usual spelling, nothing else. See the
// client ID metadata document draft, section 3.
func documentURL(id string) bool {
	u, err := url.Parse(id)
	if err != nil || len(id) > 1024 || u.Scheme != "https" || u.Host == "" || u.Host != strings.ToLower(u.Host) || u.User != nil || u.Opaque != "" {
		return false
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(id, "#") || u.Path == "" || u.Path == "/" || u.String() != id {
		return false
	}
	for seg := range strings.SplitSeq(u.EscapedPath()[1:], "/") {
		if low := strings.ToLower(seg); seg == "." || seg == ".." || strings.Contains(low, "%2e") || strings.Contains(low, "%2f") {
			return false
		}
	}
	return true
}

// parseDocument reads a client's metadata strictly: the id is the address it
// was read at, there is a name and somewhere to send codes, and no shared
// secret.
func parseDocument(id string, text []byte) (*client, error) {
	bad := func(why string) (*client, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "client_metadata", "%s", why)
	}
	doc, err := strictjson.Parse(text, documentLimits)
	if err != nil {
		return nil, err
	}
	v := doc.Root()
	if v.Kind() != ostiary.Object || id != "" && !v.Get("client_id").Is(id) {
		return bad("client_id is not the document's own address")
	}
	c := &client{id: id, name: v.Get("client_name").Text(), method: "none", known: true}
	if c.name == "" || len(c.name) > maxName {
		return bad("client_name is missing or too long")
	}
	if v.Get("client_secret").Exists() || v.Get("client_secret_expires_at").Exists() {
		return bad("a client has no shared secret here")
	}
	list := v.Get("redirect_uris")
	if list.Kind() != ostiary.Array || list.Len() == 0 || list.Len() > maxRedirects {
		return bad("redirect_uris is a list of one to 16 addresses")
	}
	for _, r := range list.Elements() {
		if !redirectURI(r.Text()) {
			return bad("a redirect_uri is https, http on this computer, or a scheme with a dot in it, without a fragment")
		}
		c.redirects = append(c.redirects, r.Text())
	}
	for _, g := range v.Get("grant_types").Elements() {
		c.refresh = c.refresh || g.Is(grantRefresh)
	}
	return c, c.auth(v)
}

// auth reads how the client proves itself.
func (c *client) auth(v ostiary.Value) (err error) {
	if m := v.Get("token_endpoint_auth_method"); m.Exists() {
		c.method = m.Text()
	}
	keys, address := v.Get("jwks"), v.Get("jwks_uri")
	switch c.method {
	case "none":
		return nil
	case "private_key_jwt":
	default:
		return ostiary.Errorf(ostiary.Malformed, "client_metadata", "a client proves itself by none or private_key_jwt")
	}
	switch {
	case keys.Exists() && address.Exists(), !keys.Exists() && !documentURL(address.Text()):
		return ostiary.Errorf(ostiary.Malformed, "client_metadata", "private_key_jwt needs either jwks or an https jwks_uri")
	case keys.Exists():
		c.keys, err = jwt.ParseKeys(keys.Get("keys"))
	default:
		c.keysURL = address.Text()
	}
	return err
}

// redirectURI accepts where a code may be sent: https, http to this computer,
// or a private scheme that has a dot in it, as RFC 8252, section 7.1, wants:
// javascript, file, data and their like have none.
func redirectURI(s string) bool {
	u, err := url.Parse(s)
	if err != nil || len(s) > 1024 || u.Fragment != "" || strings.Contains(s, "#") || u.User != nil {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte("\"<>\\^`{|}", s[i]) >= 0 {
			return false
		}
	}
	for _, name := range []string{"code", "state", "iss", "error"} {
		if u.Query().Has(name) {
			return false
		}
	}
	switch u.Scheme {
	case "https":
		return u.Host != "" && u.Opaque == ""
	case "http":
		return loopbackHost(u.Hostname())
	}
	return strings.Contains(u.Scheme, ".")
}

// loopbackHost reports whether a host is this computer.
func loopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// sends reports whether the client's document has this redirect: byte for
// byte, but for the port of http on this computer, which a program chooses as
// it starts. See RFC 8252, section 7.3.
func (c *client) sends(redirect string) bool {
	if slices.Contains(c.redirects, redirect) {
		return true
	}
	bare, ok := withoutPort(redirect)
	return ok && slices.ContainsFunc(c.redirects, func(r string) bool { mine, ok := withoutPort(r); return ok && mine == bare })
}

func withoutPort(s string) (string, bool) {
	if !redirectURI(s) {
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.String() != s {
		return "", false
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p := u.Port(); p != "" && strings.Trim(p, "0123456789") != "" || strings.HasSuffix(u.Host, ":") {
		return "", false
	}
	u.Host = host
	return u.String(), true
}

// redirectHost is where an answer goes, for people.
func redirectHost(redirect string) (host string, loopback bool) {
	u, err := url.Parse(redirect)
	if err != nil {
		return "", false
	}
	if u.Scheme != "http" && u.Scheme != "https" { // with a host or not: the scheme says which program it is
		return u.Scheme + ": (a program on this computer)", true
	}
	if h, _, err := net.SplitHostPort(u.Host); err == nil && u.Scheme == "http" {
		return u.Host, loopbackHost(h)
	}
	return u.Host, loopbackHost(u.Hostname())
}

// registered returns a client that registered itself.
func (s *Server) registered(ctx context.Context, id string) (*client, *refusal) {
	r, err := s.o.Records.Record(ctx, kindClient, id, s.o.Clock())
	if err != nil {
		if ostiary.KindOf(err) == ostiary.NotFound {
			return nil, refuse(invalidClient, "the client is not known")
		}
		return nil, understood(err, invalidClient)
	}
	c, err := parseDocument("", r.Data)
	if err != nil {
		return nil, refuse(serverError, "internal error").because(err)
	}
	c.id, c.known = id, false
	return c, nil
}

// registeredLife is how long a client that registered itself is known; old
// clients register each time they start.
const registeredLife = 30 * 24 * time.Hour

// register takes the word of a client that can do no better. See RFC 7591. It
// gets no secret, and people are told that nobody checked its name.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	if !s.o.Pace.Allow(stricthttp.Source(r)) {
		s.fail(w, r, refuse(unavailable, "too many requests from your address at once: wait a minute"))
		return
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		s.fail(w, r, refuse(invalidMetadata, "the body must be application/json"))
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDocument))
	if err != nil {
		s.fail(w, r, refuse(invalidMetadata, "the body did not arrive whole, or is too long"))
		return
	}
	c, err := parseDocument("", text)
	if err != nil {
		s.fail(w, r, refuse(invalidMetadata, "the metadata is not usable: "+ostiary.AsError(err).Detail).because(err))
		return
	}
	if c.method != "none" {
		s.fail(w, r, refuse(invalidMetadata, "a client that registers itself has no key: use a metadata document"))
		return
	}
	c.id = clientPrefix + strings.ToLower(rand.Text())
	now := s.o.Clock()
	grants := []string{grantCode}
	if c.refresh {
		grants = append(grants, grantRefresh)
	}
	answer := map[string]any{
		"client_id": c.id, "client_id_issued_at": now.Unix(), "client_name": c.name, "redirect_uris": c.redirects,
		"token_endpoint_auth_method": "none", "grant_types": grants, "response_types": []string{"code"},
	}
	kept, err := json.Marshal(map[string]any{"client_name": c.name, "redirect_uris": c.redirects, "grant_types": grants})
	if err == nil {
		_, err = s.o.Records.CreateRecord(r.Context(), record.Record{Kind: kindClient, ID: c.id, Data: kept, Expires: now.Add(registeredLife)}, now)
	}
	if err != nil {
		s.fail(w, r, understood(err, serverError))
		return
	}
	s.write(w, http.StatusCreated, answer)
}
