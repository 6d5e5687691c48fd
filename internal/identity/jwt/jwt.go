// Package jwt is the one table of everything that is called a token here, and
// the one reader of it.
//
// It guarantees that a token it returns is compact, spelled the one way its
// bytes can be spelled, signed by the key it was looked for under with an
// algorithm of its kind's row, and holds every claim of the row in the row's
// form, no name twice or in another case. No kind is accepted for another,
// and nothing in a token chooses how it is read: not alg, not crit, not jku,
// x5u or an embedded key (except where the row says that the key is embedded).
//
// It trusts go-jose for signatures and encodings only. It does not judge for
// whom a token is or whether it is still good: time, audience, issuer and
// possession are for whoever asked.
//
// Mandates are signed too, and are read by package mandate alone: nobody can
// present one as a token.
//
// Follows RFC 7515, RFC 7519, RFC 8725, and for the rows RFC 9068, RFC 9449,
// RFC 7523 and draft-ietf-oauth-identity-assertion-authz-grant.
package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// MaxText bounds a token: ours, with the longest SPIFFE IDs, and an identity
// provider's, are below.
const MaxText = 8 << 10

// limits bound a token's header and claims: short objects, with a chain of
// actors inside one another.
var limits = strictjson.Limits{Bytes: MaxText, Depth: 16, Nodes: 512, Elements: 64, Literal: 32, Key: 64}

// Kind is one row of the table. What a row does not allow is refused.
type Kind struct {
	name     string
	types    []string                  // the header's typ, one of these exactly; "" is a header without one
	algs     []jose.SignatureAlgorithm // the header's alg, one of these exactly
	kid      bool                      // the header must name its key
	embedded bool                      // the header carries the key, and nothing else says which it is
	texts    []string                  // claims that must be there, as non-empty texts
	numbers  []string                  // claims that must be there, as whole seconds since 1970
	objects  []string                  // claims that must be there, as objects
	optional map[string]ostiary.ValueKind
	closed   bool          // no other claim may be there
	life     time.Duration // from iat to exp, at most; 0: there is no exp
	list     bool          // aud may be a list of one
}

// The table.
var (
	// AccessToken is what this deployment issues, and the only kind that
	// opens its doors. See RFC 9068, with the mandate added; cnf binds it to
	// a key, act says who acts for sub.
	AccessToken = &Kind{
		name: "access token", types: []string{"at+jwt"}, algs: []jose.SignatureAlgorithm{jose.ES256}, kid: true,
		texts:    []string{"iss", "aud", "sub", "client_id", "jti", "mandate"},
		numbers:  []string{"exp", "iat", "nbf"},
		objects:  []string{"act"},
		optional: map[string]ostiary.ValueKind{"cnf": ostiary.Object, "scope": ostiary.String},
		closed:   true, life: 10 * time.Minute,
	}
	// Proof shows that whoever sends a request holds a key. See RFC 9449,
	// section 4.2.
	Proof = &Kind{
		name: "DPoP proof", types: []string{"dpop+jwt"}, algs: []jose.SignatureAlgorithm{jose.ES256}, embedded: true,
		texts:    []string{"jti", "htm", "htu"},
		numbers:  []string{"iat"},
		optional: map[string]ostiary.ValueKind{"ath": ostiary.String, "nonce": ostiary.String},
	}
	// IDJAG is an identity provider's word that a client may have a token
	// for a person.
	IDJAG = &Kind{
		name: "ID-JAG", types: []string{"oauth-id-jag+jwt"}, algs: []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.RS256},
		texts:    []string{"iss", "sub", "aud", "client_id", "jti"},
		numbers:  []string{"exp", "iat"},
		optional: map[string]ostiary.ValueKind{"cnf": ostiary.Object, "scope": ostiary.String, "resource": ostiary.String, "nbf": ostiary.Number},
		life:     time.Hour, list: true,
	}
	// ClientAssertion proves a client by its private key. See RFC 7523,
	// section 3, and draft-ietf-oauth-rfc7523bis for the typ.
	ClientAssertion = &Kind{
		name: "client assertion", types: []string{"client-authentication+jwt", "JWT", ""}, algs: []jose.SignatureAlgorithm{jose.ES256, jose.PS256},
		texts:    []string{"iss", "sub", "aud", "jti"},
		numbers:  []string{"exp", "iat"},
		optional: map[string]ostiary.ValueKind{"nbf": ostiary.Number},
		life:     5 * time.Minute, list: true,
	}
)

// Algorithms returns the algorithms of a kind, for metadata.
func (k *Kind) Algorithms() []string {
	var out []string
	for _, a := range k.algs {
		out = append(out, string(a))
	}
	return out
}

// Token is a token whose form and signature are good.
type Token struct {
	Claims ostiary.Value
	KID    string
	Key    JWK // that it was signed with
}

// Text returns a claim that is a text, "" if it is absent.
func (t *Token) Text(name string) string { return t.Claims.Get(name).Text() }

// Time returns a claim that is a time, zero if it is absent.
func (t *Token) Time(name string) time.Time {
	n, ok := t.Claims.Get(name).Int()
	if !ok {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// Audience returns the token's one audience, "" if there is none.
func (t *Token) Audience() string {
	v := t.Claims.Get("aud")
	if v.Kind() == ostiary.Array && v.Len() == 1 {
		for _, e := range v.Elements() {
			return e.Text()
		}
	}
	return v.Text()
}

// Read checks form, header, signature and claims: all that does not depend on
// when and for whom. keys is nil for a kind whose key is embedded, and must
// not be for any other.
func (k *Kind) Read(text string, keys *Set) (Token, error) {
	head, err := k.header(text)
	if err != nil {
		return Token{}, err
	}
	var key JWK
	if k.embedded {
		if key, err = ParseKey(head.Get("jwk")); err != nil {
			return Token{}, err
		}
	} else if key, err = keys.find(head.Get("kid").Text()); err != nil {
		return Token{}, err
	}
	alg := head.Get("alg").Text()
	if !key.fits(alg) {
		return Token{}, fmt.Errorf("the %s's algorithm is not its key's", k.name)
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return Token{}, err
	}
	body, err := jws.Verify(key.Public)
	if err != nil {
		return Token{}, err
	}
	v, err := k.claims(body)
	return Token{Claims: v, KID: head.Get("kid").Text(), Key: key}, err
}

// header checks the form of a compact token and its header before anything
// else reads it. Names the row does not need are refused, so there is no room
// for crit, jku, x5u, b64 or a key beside the one that is looked up.
func (k *Kind) header(text string) (ostiary.Value, error) {
	none := ostiary.Value{}
	if len(text) > MaxText {
		return none, fmt.Errorf("the %s is too long", k.name)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return none, fmt.Errorf("the %s is not compact", k.name)
	}
	var head []byte
	for i, p := range parts {
		// Strict: another spelling of the same bytes is another token.
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil || strings.ContainsAny(p, "\r\n") {
			return none, fmt.Errorf("the %s is not base64url", k.name)
		}
		if i == 0 {
			head = b
		}
	}
	doc, err := strictjson.Parse(head, limits)
	if err != nil {
		return none, fmt.Errorf("header of the %s: %w", k.name, err)
	}
	h := doc.Root()
	if h.Kind() != ostiary.Object {
		return none, fmt.Errorf("the header of the %s is no object", k.name)
	}
	return h, k.names(h)
}

func (k *Kind) names(h ostiary.Value) error {
	for name, v := range h.Members() {
		switch {
		case name == "alg" || name == "typ" || name == "kid" && !k.embedded:
			if v.Text() == "" {
				return fmt.Errorf("the header %s of the %s is no text", name, k.name)
			}
		case name == "jwk" && k.embedded:
		default:
			return fmt.Errorf("the %s has a header that its kind has not", k.name)
		}
	}
	typ := ""
	if v := h.Get("typ"); v.Exists() {
		typ = v.Text()
	}
	switch {
	case !slices.Contains(k.types, typ):
		return fmt.Errorf("the typ is not that of the %s", k.name)
	case !slices.Contains(k.algs, jose.SignatureAlgorithm(h.Get("alg").Text())):
		return fmt.Errorf("the alg is none of the %s's", k.name)
	case k.kid && !h.Get("kid").Exists(), k.embedded && !h.Get("jwk").Exists():
		return fmt.Errorf("the %s does not say which key it is signed with", k.name)
	}
	return nil
}

// claims scans the claims: all of the row's, and nothing else if it is closed.
func (k *Kind) claims(body []byte) (ostiary.Value, error) {
	none := ostiary.Value{}
	doc, err := strictjson.Parse(body, limits)
	if err != nil {
		return none, fmt.Errorf("claims of the %s: %w", k.name, err)
	}
	v := doc.Root()
	if v.Kind() != ostiary.Object {
		return none, fmt.Errorf("the claims of the %s are no object", k.name)
	}
	known := len(k.texts) + len(k.numbers) + len(k.objects)
	for _, name := range k.texts {
		if c := v.Get(name); c.Text() == "" && !(name == "aud" && k.list && one(c)) {
			return none, fmt.Errorf("the claim %s of the %s is missing or no text", name, k.name)
		}
	}
	for _, name := range k.numbers {
		if !whole(v.Get(name)) {
			return none, fmt.Errorf("the claim %s of the %s is missing or no time", name, k.name)
		}
	}
	for _, name := range k.objects {
		if v.Get(name).Kind() != ostiary.Object {
			return none, fmt.Errorf("the claim %s of the %s is missing or no object", name, k.name)
		}
	}
	for name, kind := range k.optional {
		c := v.Get(name)
		if !c.Exists() {
			continue
		}
		known++
		if c.Kind() != kind || kind == ostiary.String && c.Text() == "" || kind == ostiary.Number && !whole(c) {
			return none, fmt.Errorf("the claim %s of the %s has the wrong form", name, k.name)
		}
	}
	if k.closed && v.Len() != known {
		return none, fmt.Errorf("the %s has a claim that its kind has not", k.name)
	}
	if k.life > 0 {
		iat, _ := v.Get("iat").Int()
		exp, _ := v.Get("exp").Int()
		if exp <= iat || exp-iat > int64(k.life/time.Second) {
			return none, fmt.Errorf("the %s lives too long, or ends before it begins", k.name)
		}
	}
	return v, nil
}

// whole reports whether v is a moment: below 2^40 no sum of times overflows.
func whole(v ostiary.Value) bool {
	n, ok := v.Int()
	return ok && n >= 0 && n <= 1<<40
}

// one reports whether v is a list of one text.
func one(v ostiary.Value) bool {
	if v.Kind() != ostiary.Array || v.Len() != 1 {
		return false
	}
	for _, e := range v.Elements() {
		return e.Text() != ""
	}
	return false
}

// Sign writes a token of a kind of ours.
func (k *Kind) Sign(key *ecdsa.PrivateKey, kid string, claims any) (string, error) {
	if k.embedded || !k.kid {
		return "", errors.New("this kind of token is for others to sign")
	}
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(k.types[0])).WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.algs[0], Key: key}, opts)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(body)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// KID is the usual name of a key of ours: the first 12 bytes of the SHA-256
// of its SPKI, in base64url.
func KID(pub crypto.PublicKey) (string, error) {
	sum, err := digest(pub)
	return base64.RawURLEncoding.EncodeToString(sum[:12]), err
}
