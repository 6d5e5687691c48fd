package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// MaxSet bounds a key set, and maxKeys the keys in it: an issuer has a few
// while one replaces another.
const (
	MaxSet  = 64 << 10
	maxKeys = 64
)

var setLimits = strictjson.Limits{Bytes: MaxSet, Depth: 5, Nodes: 4096, Elements: maxKeys, Literal: 32, Key: 64}

// JWK is a public key that signatures are checked with.
type JWK struct {
	Public crypto.PublicKey // *ecdsa.PublicKey on P-256, or *rsa.PublicKey
	Digest ostiary.Digest   // SHA-256 of its SPKI, as everywhere else here
	Alg    string           // the only algorithm it is for, "" if its set did not say

	kid   string
	thumb [32]byte
}

// Thumbprint is the key's name in a confirmation. See RFC 7638.
func (k *JWK) Thumbprint() string { return base64.RawURLEncoding.EncodeToString(k.thumb[:]) }

// fits reports whether the algorithm is one of this key's.
func (k *JWK) fits(alg string) bool {
	if k.Alg != "" && k.Alg != alg {
		return false
	}
	switch k.Public.(type) {
	case *ecdsa.PublicKey:
		return alg == "ES256"
	case *rsa.PublicKey:
		return alg == "PS256" || alg == "RS256"
	}
	return false
}

// errForeign is a key that is not for us: of another type, for another
// algorithm, or to encrypt with.
var errForeign = errors.New("a key of a type, or for a use, that is not known here")

// ParseKey reads one public key: EC on P-256, or RSA of 2,048 to 4,096 bits. A
// key with a private part is refused, whatever it is for.
func ParseKey(v ostiary.Value) (JWK, error) {
	if v.Kind() != ostiary.Object {
		return JWK{}, errors.New("a key is an object")
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if v.Get(private).Exists() {
			return JWK{}, errors.New("a key with a private part")
		}
	}
	k := JWK{Alg: v.Get("alg").Text(), kid: v.Get("kid").Text()}
	if use := v.Get("use"); use.Exists() && !use.Is("sig") {
		return k, errForeign
	}
	var err error
	switch v.Get("kty").Text() {
	case "EC":
		err = k.ec(v)
	case "RSA":
		err = k.rsa(v)
	default:
		return k, errForeign
	}
	if err != nil {
		return k, err
	}
	if k.Alg != "" && !k.fits(k.Alg) { // it signs nothing that is read here
		return k, errForeign
	}
	k.Digest, err = digest(k.Public)
	return k, err
}

func (k *JWK) ec(v ostiary.Value) error {
	if !v.Get("crv").Is("P-256") {
		return errForeign
	}
	point := []byte{4}
	for _, name := range []string{"x", "y"} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(v.Get(name).Text())
		if err != nil || len(b) != 32 {
			return errors.New("a coordinate is not 32 bytes in base64url")
		}
		point = append(point, b...)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return err
	}
	k.Public = pub
	// The members in the order of their names; each has one spelling.
	k.thumb = sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + v.Get("x").Text() + `","y":"` + v.Get("y").Text() + `"}`))
	return nil
}

func (k *JWK) rsa(v ostiary.Value) error {
	n, err := base64.RawURLEncoding.Strict().DecodeString(v.Get("n").Text())
	if err != nil || len(n) < 256 || len(n) > 512 || n[0] == 0 {
		return errors.New("an RSA key has 2,048 to 4,096 bits")
	}
	if !v.Get("e").Is("AQAB") {
		return errors.New("an RSA key has the exponent 65,537")
	}
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	if pub.N.BitLen() < 2048 {
		return errors.New("an RSA key has 2,048 to 4,096 bits")
	}
	k.Public = pub
	k.thumb = sha256.Sum256([]byte(`{"e":"AQAB","kty":"RSA","n":"` + v.Get("n").Text() + `"}`))
	return nil
}

func digest(pub crypto.PublicKey) (ostiary.Digest, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ostiary.Digest{}, err
	}
	return ostiary.DigestOf(spki), nil
}

// Set is the keys of one issuer, by kid. It is immutable; the nil Set has
// none.
type Set struct{ keys []JWK }

// NewSet makes a set of keys of ours, each under its usual name.
func NewSet(keys ...*ecdsa.PublicKey) (*Set, error) {
	s := &Set{}
	for _, pub := range keys {
		text, err := Export(pub)
		if err != nil {
			return nil, err
		}
		doc, err := strictjson.Parse(text, setLimits)
		if err != nil {
			return nil, err
		}
		k, err := ParseKey(doc.Root())
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, k)
	}
	return s, nil
}

// ParseSet reads a key set. Keys that are not for us are left out, as RFC
// 7517, section 5, says; two under one name, a private part, or nothing left
// refuse the set.
func ParseSet(b []byte) (*Set, error) {
	fail := func(why string) (*Set, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "key_set", "not a usable key set: %s", why)
	}
	doc, err := strictjson.Parse(b, setLimits)
	if err != nil {
		return nil, err
	}
	list := doc.Root().Get("keys")
	if doc.Root().Kind() != ostiary.Object || list.Kind() != ostiary.Array {
		return fail("it has no keys")
	}
	return ParseKeys(list)
}

// ParseKeys reads the member keys of a set.
func ParseKeys(list ostiary.Value) (*Set, error) {
	s, names := &Set{}, map[string]bool{}
	for _, v := range list.Elements() {
		k, err := ParseKey(v)
		if errors.Is(err, errForeign) {
			continue
		}
		if err != nil {
			return nil, ostiary.Errorf(ostiary.Malformed, "key_set", "not a usable key set: %s", err)
		}
		if names[k.kid] {
			return nil, ostiary.Errorf(ostiary.Malformed, "key_set", "not a usable key set: two keys have one kid")
		}
		names[k.kid] = true
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, ostiary.Errorf(ostiary.Malformed, "key_set", "not a usable key set: it has no key to check signatures with")
	}
	return s, nil
}

// Has reports whether there is a key of that name.
func (s *Set) Has(kid string) bool { _, err := s.find(kid); return err == nil }

// find returns the key of that name, or the only one if a token names none.
func (s *Set) find(kid string) (JWK, error) {
	if s == nil {
		return JWK{}, errors.New("there are no keys to check this token with")
	}
	if kid == "" && len(s.keys) == 1 {
		return s.keys[0], nil
	}
	for _, k := range s.keys {
		if kid != "" && k.kid == kid {
			return k, nil
		}
	}
	return JWK{}, errors.New("the token's key is not known")
}

// Export writes a public key of ours as a JWK, under its usual name.
func Export(pub *ecdsa.PublicKey) ([]byte, error) {
	point, err := pub.Bytes()
	if err != nil {
		return nil, err
	}
	kid, err := KID(pub)
	if err != nil {
		return nil, err
	}
	e := base64.RawURLEncoding.EncodeToString
	return json.Marshal(map[string]string{"kty": "EC", "crv": "P-256", "x": e(point[1:33]), "y": e(point[33:]), "use": "sig", "alg": "ES256", "kid": kid})
}
