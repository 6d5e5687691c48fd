package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/record"
)

// asker is who asks for a token, as far as they proved it.
type asker struct {
	client *client           // nil for an agent
	proven bool              // the client proved itself by a key, not only by its name
	agent  ostiary.Subject   // by its certificate; zero for a client
	peer   *x509.Certificate // that certificate
	key    *jwt.JWK          // of the DPoP proof; nil without one
}

// bind binds a token to what the asker showed.
func (a *asker) bind(r *identity.TokenRequest) {
	switch {
	case a.key != nil:
		r.Thumbprint = a.key.Thumbprint()
	case a.peer != nil:
		r.Certificate, r.Until = certificateHash(a.peer), a.peer.NotAfter
	}
}

// bearer is the name of the token type that goes with the binding.
func tokenType(thumb string) string {
	if thumb != "" {
		return "DPoP"
	}
	return "Bearer"
}

func certificateHash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// issued is a token's way out.
type issued struct {
	Token   string          `json:"access_token"`
	Type    string          `json:"token_type"`
	Expires int64           `json:"expires_in"`
	Scope   string          `json:"scope,omitempty"`
	Refresh string          `json:"refresh_token,omitempty"`
	Kind    string          `json:"issued_token_type,omitempty"`
	Details json.RawMessage `json:"authorization_details,omitempty"`
}

// token answers a request for a token.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	f, ref := body(w, r)
	if ref != nil {
		s.fail(w, r, ref)
		return
	}
	who, ref := s.asks(r, f)
	if ref != nil {
		s.fail(w, r, ref)
		return
	}
	if who.key != nil {
		w.Header().Set("DPoP-Nonce", s.o.Authority.ProofNonce())
	}
	out, ref := s.answer(r.Context(), who, f)
	if ref != nil {
		s.fail(w, r, ref)
		return
	}
	w.Header().Set("Pragma", "no-cache")
	s.write(w, http.StatusOK, out)
}

func (s *Server) answer(ctx context.Context, who *asker, f form) (issued, *refusal) {
	switch f["grant_type"] {
	case grantCode:
		return s.fromCode(ctx, who, f)
	case grantRefresh:
		return s.fromRefresh(ctx, who, f)
	case grantClient:
		return s.fromAgent(ctx, who, f)
	case grantExchange:
		return s.exchange(ctx, who, f)
	case grantAssert:
		if len(s.o.Issuers) > 0 {
			return s.fromAssertion(ctx, who, f)
		}
	}
	return issued{}, refuse(unsupported, "this grant is not given here")
}

// asks finds out who asks: an agent by the certificate of its connection, a
// client by an assertion it signed, or a client that can only say its name.
func (s *Server) asks(r *http.Request, f form) (*asker, *refusal) {
	a := &asker{}
	if len(r.Header.Values("Authorization")) > 0 {
		return nil, refuse(invalidClient, "clients have no shared secrets here: use none, private_key_jwt or a certificate")
	}
	if f["client_secret"] != "" {
		return nil, refuse(invalidClient, "clients have no shared secrets here: use none, private_key_jwt or a certificate")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		a.peer = r.TLS.PeerCertificates[0]
		var err error
		c := ostiary.Credentials{Peer: a.peer, Verified: len(r.TLS.VerifiedChains) > 0, Encrypted: true}
		if a.agent, err = s.o.Authority.Authenticate(r.Context(), c); err != nil {
			return nil, understood(err, invalidClient)
		}
	}
	var ref *refusal
	switch id := f["client_id"]; {
	case f["client_assertion_type"] != "" || f["client_assertion"] != "":
		a.client, ref = s.asserted(r.Context(), f)
		a.proven = true
	case a.peer != nil && (id == "" || id == string(a.agent.Agent)):
	case id == "":
		return nil, refuse(invalidClient, "client_id is missing")
	default:
		if a.client, ref = s.find(r.Context(), id); ref == nil && a.client.method != "none" {
			ref = refuse(invalidClient, "this client proves itself by "+a.client.method)
		}
	}
	if ref != nil {
		return nil, ref
	}
	return a, s.possession(r, a)
}

// possession reads the proof that comes with a request, if one does.
func (s *Server) possession(r *http.Request, a *asker) *refusal {
	proofs := r.Header.Values("DPoP")
	switch len(proofs) {
	case 0:
		return nil
	case 1:
	default:
		return refuse(invalidProof, "one proof comes with a request")
	}
	base := s.o.URL
	if a.peer != nil {
		base = s.o.Agents
	}
	key, err := s.o.Authority.Prove(&ostiary.Possession{Proof: proofs[0], Method: r.Method, URL: base + r.URL.Path}, "")
	if err != nil {
		return understood(err, invalidProof)
	}
	a.key = &key
	return nil
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// asserted proves a client by what it signed. See RFC 7523, section 3.
func (s *Server) asserted(ctx context.Context, f form) (*client, *refusal) {
	if f["client_assertion_type"] != assertionType {
		return nil, refuse(invalidClient, "client_assertion_type is not known")
	}
	id := f["client_id"]
	if id == "" {
		return nil, refuse(invalidClient, "client_id is missing")
	}
	c, ref := s.find(ctx, id)
	if ref != nil {
		return nil, ref
	}
	if c.method != "private_key_jwt" {
		return nil, refuse(invalidClient, "this client has no key")
	}
	keys := c.keys
	if keys == nil {
		if keys, ref = s.keySet(ctx, c.keysURL); ref != nil {
			return nil, ref
		}
	}
	t, err := jwt.ClientAssertion.Read(f["client_assertion"], keys)
	if err != nil {
		return nil, refuse(invalidClient, "the client's assertion was not accepted").because(err)
	}
	now := s.o.Clock()
	aud := t.Audience()
	if t.Text("iss") != id || t.Text("sub") != id || aud != s.o.URL && aud != s.o.URL+"/token" || !inForce(&t, now) || len(t.Text("jti")) > 256 {
		return nil, refuse(invalidClient, "the client's assertion was not accepted")
	}
	if ref := s.pace(id); ref != nil {
		return nil, ref
	}
	// Shown once, on whichever process.
	once := record.Record{Kind: kindAssertion, ID: hashed(id + "\n" + t.Text("jti")), Data: []byte("1"), Expires: t.Time("exp")}
	if _, err := s.o.Records.CreateRecord(ctx, once, now); err != nil {
		if ostiary.KindOf(err) == ostiary.Conflict {
			return nil, refuse(invalidClient, "the client's assertion was used before")
		}
		return nil, understood(err, invalidClient)
	}
	return c, nil
}

// skew is how far another's clock may be ahead of ours.
const skew = time.Minute

// inForce judges the times of a token that others signed.
func inForce(t *jwt.Token, now time.Time) bool {
	if nbf := t.Time("nbf"); !nbf.IsZero() && nbf.After(now.Add(skew)) {
		return false
	}
	return now.Before(t.Time("exp")) && !t.Time("iat").After(now.Add(skew))
}

// keySet reads somebody's keys, at most every few minutes.
func (s *Server) keySet(ctx context.Context, address string) (*jwt.Set, *refusal) {
	now := s.o.Clock()
	if set, ok := s.keys.get(address, now); ok {
		return set, nil
	}
	text, ref := s.fetch(ctx, address, jwt.MaxSet, "application/json", "application/jwk-set+json")
	if ref != nil {
		return nil, ref
	}
	set, err := jwt.ParseSet(text)
	if err != nil {
		return nil, refuse(invalidClient, "the key set is not usable").because(err)
	}
	s.keys.put(address, set, now)
	return set, nil
}

// target finds the resource a request names. See RFC 8707, section 2.
func (s *Server) target(f form) (Resource, *refusal) {
	res, ok := s.o.Resources.Resource(f["resource"])
	if !ok || f["audience"] != "" && f["audience"] != f["resource"] && f["audience"] != res.Audience {
		return Resource{}, refuse(invalidTarget, "resource must name an endpoint of this gateway")
	}
	return res, nil
}

// mint signs a token and words the answer.
func (s *Server) mint(ctx context.Context, r identity.TokenRequest) (issued, *refusal) {
	t, err := s.o.Authority.MintToken(ctx, r)
	if err != nil {
		return issued{}, understood(err, invalidGrant)
	}
	return issued{
		Token: string(t.Text.Reveal()), Type: tokenType(r.Thumbprint), Scope: r.Scope,
		Expires: int64(t.Expires.Sub(s.o.Clock()) / time.Second), Details: s.detailsOf(r.Mandate),
	}, nil
}

// detailsOf says what was given, in the words it is asked for. See RFC 9396,
// section 7.
func (s *Server) detailsOf(id ostiary.MandateID) json.RawMessage {
	m, ok := s.o.Authority.Mandate(id)
	if !ok {
		return nil
	}
	terms := identity.TermsOf(&m)
	b, err := json.Marshal([]struct {
		Type    string            `json:"type"`
		Mandate ostiary.MandateID `json:"mandate"`
		Terms   json.RawMessage   `json:"terms"`
	}{{DetailsType, id, terms.JSON()}})
	if err != nil {
		return nil
	}
	return b
}

// fromCode spends a code.
func (s *Server) fromCode(ctx context.Context, who *asker, f form) (issued, *refusal) {
	no := refuse(invalidGrant, "the code is not good, or not for this client, redirect_uri and code_verifier")
	if who.client == nil || f["code"] == "" {
		return issued{}, no
	}
	id, now := hashed(f["code"]), s.o.Clock()
	r, c, err := s.code(ctx, id)
	if err != nil {
		return issued{}, understood(err, invalidGrant)
	}
	if !c.Claimed.IsZero() {
		s.again(ctx, id)
		return issued{}, no
	}
	res, ref := s.target(f)
	switch {
	case ref != nil:
		return issued{}, ref
	case !now.Before(c.Until) || c.Client != who.client.id || f["redirect_uri"] != "" && f["redirect_uri"] != c.Redirect || !verified(f["code_verifier"], c.Challenge):
		return issued{}, no
	case res.Audience != c.Audience:
		return issued{}, refuse(invalidTarget, "resource is not the one that was asked for")
	case c.Thumb != "" && (who.key == nil || who.key.Thumbprint() != c.Thumb):
		return issued{}, refuse(invalidProof, "the code is for the holder of another key")
	}
	c.Claimed = now
	if r.Revision, err = s.save(ctx, r, c); err != nil {
		if ostiary.KindOf(err) == ostiary.Conflict {
			s.again(ctx, id) // somebody was faster with the same code
		}
		return issued{}, understood(err, invalidGrant)
	}
	req := identity.TokenRequest{Agent: c.Agent, Mandate: c.Mandate, Audience: c.Audience, Client: c.Client, Scope: strings.Join(c.Scopes, " ")}
	who.bind(&req)
	out, ref := s.mint(ctx, req)
	if ref == nil && who.client.refresh {
		out.Refresh, ref = s.family(ctx, &req)
	}
	if ref == nil {
		ref = s.done(ctx, id, r, c)
	}
	if ref == nil {
		s.replaced(ctx, &c)
	}
	return out, ref
}

// replaced completes what the client only connected under, now that it has
// something else: a client asks for as little as it can, and again at its first
// call, and a person should find one mandate of it and not two.
func (s *Server) replaced(ctx context.Context, c *code) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	all, err := s.o.Authority.Mandates(ctx, identity.MandateFilter{Agent: c.Agent, Principal: c.Person, First: true})
	for _, v := range all {
		m := &v.Mandate
		if m.ID == c.Mandate || v.State != "in_force" || m.Kind != ostiary.TaskMandate || m.By != c.Person || !slices.Equal(m.Resources, []string{nothing}) {
			continue
		}
		if ended := s.o.Authority.EndMandate(ctx, "service:ostiary", m.ID, identity.EndCompleted, "the client has "+string(c.Mandate)+" now"); ended != nil {
			err = ended
		}
	}
	if err != nil { // they connect and call nothing, and end by themselves
		s.o.Logger.Warn("what a client connected under could not be completed", "agent", string(c.Agent), "error", err)
	}
}

// verified compares a PKCE verifier with its challenge. See RFC 7636, sections
// 4.1 and 4.6.
func verified(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	for i := range len(verifier) {
		if c := verifier[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
			return false
		}
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

func (s *Server) code(ctx context.Context, id string) (record.Record, code, error) {
	r, err := s.o.Records.Record(ctx, kindCode, id, s.o.Clock())
	if err != nil {
		return r, code{}, err
	}
	var c code
	if err := json.Unmarshal(r.Data, &c); err != nil {
		return r, c, ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored code cannot be read").Because(err)
	}
	return r, c, nil
}

func (s *Server) save(ctx context.Context, r record.Record, v any) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	r.Data = data
	return s.o.Records.ReplaceRecord(ctx, r)
}

const (
	// tries bounds how often a code's state is read again because others
	// write it too: they stop when it says what they came to say.
	tries = 8
	// claimLife is how long it can take to hand out what a code is for.
	claimLife = time.Minute
	// endTimeout bounds ending what must not go on, whoever left meanwhile.
	endTimeout = 25 * time.Second
)

// again notices a code that was spent: what came of it ends, with everything
// derived from it. If it is just being handed out, whoever does so ends it.
func (s *Server) again(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout) // leaving must not stop it
	defer cancel()
	for range tries {
		r, c, err := s.code(ctx, id)
		switch {
		case err != nil:
			s.o.Logger.Error("a code was used twice, and what came of it could not be ended", "error", err)
			return
		case c.Done || s.o.Clock().Sub(c.Claimed) > claimLife:
			s.end(ctx, c.Mandate, "its authorization code was used twice")
			return
		case c.Reused:
			return
		}
		c.Reused = true
		if _, err = s.save(ctx, r, c); err == nil {
			return
		}
	}
}

// done says that what the code was for is about to be handed out, and ends it
// at once if the code was shown again meanwhile: exactly one request has an
// answer, and nobody has the use of it.
func (s *Server) done(ctx context.Context, id string, r record.Record, c code) *refusal {
	for range tries {
		c.Done = true
		_, err := s.save(ctx, r, c)
		if err == nil {
			if c.Reused {
				s.end(ctx, c.Mandate, "its authorization code was used twice")
			}
			return nil
		}
		if ostiary.KindOf(err) != ostiary.Conflict {
			return understood(err, invalidGrant)
		}
		if r, c, err = s.code(ctx, id); err != nil {
			return understood(err, invalidGrant)
		}
	}
	return refuse(unavailable, "try again later")
}

// end ends a mandate that a client must not have any more.
func (s *Server) end(ctx context.Context, id ostiary.MandateID, why string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout) // leaving must not stop it
	defer cancel()
	err := s.o.Authority.EndMandate(ctx, "service:ostiary", id, identity.EndRevoked, why)
	if err != nil && ostiary.KindOf(err) != ostiary.NotFound {
		s.o.Logger.Error("a mandate that must end could not be ended", "mandate", string(id), "error", err)
	}
}

// fromAgent gives an agent a token under its standing mandate, bound to its
// certificate: what it shows where it cannot show that, and what names it as
// an actor.
func (s *Server) fromAgent(ctx context.Context, who *asker, f form) (issued, *refusal) {
	if who.agent.IsZero() || who.client != nil {
		return issued{}, refuse(unauthorized, "this grant is for agents with a certificate")
	}
	res, ref := s.target(f)
	if ref != nil {
		return issued{}, ref
	}
	req := identity.TokenRequest{Agent: who.agent.Agent, Mandate: who.agent.Mandate, Audience: res.Audience}
	if f["scope"] != "" {
		scopes, ref := granted(f, res)
		if ref != nil {
			return issued{}, ref
		}
		req.Scope = strings.Join(scopes, " ")
	}
	who.bind(&req)
	return s.mint(ctx, req)
}
