package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// maxToken bounds a bearer token: ours, with the longest SPIFFE ID twice, is
// below 6 KiB.
const maxToken = 8 << 10

// tokenLimits bound the header and the claims of a token: flat objects of
// short strings.
var tokenLimits = strictjson.Limits{Bytes: maxToken, Depth: 2, Nodes: 64, Elements: 16, Literal: 32, Key: 32}

// tokenKind is one row of the table of everything that is called a token
// here. What a row does not list is refused, so no kind is accepted for
// another, and nothing in a token chooses how the token is read. See RFC
// 8725, sections 3.1, 3.11 and 3.12.
type tokenKind struct {
	typ     string                  // the header's typ, exactly
	alg     jose.SignatureAlgorithm // the header's alg, exactly
	texts   []string                // claims that must be there, as non-empty strings
	numbers []string                // claims that must be there, as whole seconds since 1970
	life    time.Duration           // from iat to exp, at most
}

// accessToken is the bearer token for clients that can do no better: bound to
// one audience and to no key, so it has no cnf and lives minutes. See RFC
// 9068, with the mandate and the principal added.
var accessToken = &tokenKind{
	typ:     "at+jwt",
	alg:     jose.ES256,
	texts:   []string{"iss", "aud", "sub", "client_id", "jti", "mandate", "principal"},
	numbers: []string{"exp", "iat", "nbf"},
	life:    MaxTokenLife,
}

// tokens signs and reads tokens with one key.
type tokens struct {
	issuer string
	domain string
	key    *ecdsa.PrivateKey
	kid    string
	read   readTokens
}

// token is what a verified token says.
type token struct {
	kind      *tokenKind
	audience  string
	agent     ostiary.AgentID
	mandate   ostiary.MandateID
	principal ostiary.PrincipalID
	id        string
	issued    time.Time // to the microsecond, from its id
	epoch     uint64    // the issuer's, at that moment
	iat       time.Time
	begins    time.Time
	expires   time.Time
}

func openTokens(issuer, domain string, keys Keys) (*tokens, error) {
	key, err := keys.ECDSA("token")
	if err != nil {
		return nil, fmt.Errorf("key token: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := ostiary.DigestOf(spki)
	return &tokens{issuer: issuer, domain: domain, key: key, kid: base64.RawURLEncoding.EncodeToString(sum[:12])}, nil
}

// claims is how a token is written; reading goes through the strict scanner.
type claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	Client    string `json:"client_id"`
	Expires   int64  `json:"exp"`
	Issued    int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	ID        string `json:"jti"`
	Mandate   string `json:"mandate"`
	Principal string `json:"principal"`
}

func (t *tokens) sign(k *tokenKind, c claims) (string, error) {
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(k.typ)).WithHeader("kid", t.kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: t.key}, opts)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(body)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// verify reads a token of the given kind, for this audience, at this time.
// There is no leeway: what we issue starts a little before its issue.
func (t *tokens) verify(k *tokenKind, text, audience string, now time.Time) (token, error) {
	if audience == "" {
		return token{}, errors.New("the resource asked for is not known, so no audience can match")
	}
	if len(text) > maxToken {
		return token{}, errors.New("the token is too long")
	}
	at := ostiary.DigestOf([]byte(text))
	tok, ok := t.read.find(at)
	if !ok || tok.kind != k {
		var err error
		if tok, err = t.open(k, text); err != nil {
			return token{}, err
		}
		t.read.add(at, tok)
	}
	return tok, k.judge(&tok, audience, now)
}

// open checks form, signature and claims, all that does not depend on when
// and for whom.
func (t *tokens) open(k *tokenKind, text string) (token, error) {
	if err := t.header(k, text); err != nil {
		return token{}, err
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{k.alg})
	if err != nil {
		return token{}, err
	}
	body, err := jws.Verify(&t.key.PublicKey)
	if err != nil {
		return token{}, err
	}
	v, err := k.claims(body)
	if err != nil {
		return token{}, err
	}
	return t.understand(k, v)
}

// header checks the form of a compact token and its header before anything
// else reads it: exactly alg, kid and typ, each with the one value it can
// have. That leaves no room for none, another algorithm, crit, jku, jwk or
// x5u.
func (t *tokens) header(k *tokenKind, text string) error {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return errors.New("not a compact token")
	}
	var head []byte
	for i, p := range parts {
		// Strict: another spelling of the same bytes is another token.
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil || strings.ContainsAny(p, "\r\n") {
			return errors.New("the token is not base64url")
		}
		if i == 0 {
			head = b
		}
	}
	doc, err := strictjson.Parse(head, tokenLimits)
	if err != nil {
		return fmt.Errorf("token header: %w", err)
	}
	h := doc.Root()
	if h.Kind() != ostiary.Object || h.Len() != 3 || !h.Get("alg").Is(string(k.alg)) || !h.Get("typ").Is(k.typ) || !h.Get("kid").Is(t.kid) {
		return errors.New("the token's header is not that of " + k.typ)
	}
	return nil
}

// claims scans the claims: all of the row's, nothing else, no name twice or
// in another case.
func (k *tokenKind) claims(body []byte) (ostiary.Value, error) {
	doc, err := strictjson.Parse(body, tokenLimits)
	if err != nil {
		return ostiary.Value{}, fmt.Errorf("token claims: %w", err)
	}
	v := doc.Root()
	if v.Kind() != ostiary.Object || v.Len() != len(k.texts)+len(k.numbers) {
		return v, errors.New("the token has claims missing or unknown")
	}
	for _, name := range k.texts {
		if v.Get(name).Text() == "" {
			return v, fmt.Errorf("the claim %s is missing or no text", name)
		}
	}
	for _, name := range k.numbers {
		// Below 2^40 no sum of times overflows.
		if n, ok := v.Get(name).Int(); !ok || n < 0 || n > 1<<40 {
			return v, fmt.Errorf("the claim %s is missing or no time", name)
		}
	}
	return v, nil
}

// understand reads the claims, and refuses those no authority of this trust
// domain would sign.
func (t *tokens) understand(k *tokenKind, v ostiary.Value) (token, error) {
	at := func(name string) time.Time { n, _ := v.Get(name).Int(); return time.Unix(n, 0).UTC() }
	id, err := ostiary.ParseAgentID(v.Get("sub").Text())
	if err != nil {
		return token{}, err
	}
	s, ok := parseSerial(v.Get("jti").Text())
	tok := token{
		kind: k, audience: v.Get("aud").Text(), agent: id, mandate: ostiary.MandateID(v.Get("mandate").Text()),
		principal: ostiary.PrincipalID(v.Get("principal").Text()), id: s.String(), issued: s.issued(), epoch: s.epoch(),
		iat: at("iat"), begins: at("nbf"), expires: at("exp"),
	}
	switch {
	case !v.Get("iss").Is(t.issuer):
		return token{}, errors.New("the token is of another issuer")
	case id.TrustDomain() != t.domain || !v.Get("client_id").Is(string(id)):
		return token{}, errors.New("the token's subject and client are not one agent of this trust domain")
	case !ok || tok.issued.Unix() != tok.iat.Unix():
		return token{}, errors.New("the token's id is not one of ours")
	case tok.expires.Sub(tok.iat) > k.life:
		return token{}, errors.New("the token lives too long")
	}
	return tok, nil
}

// judge is looked at on each request: for whom, and when.
func (k *tokenKind) judge(t *token, audience string, now time.Time) error {
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
