package egress

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	// signatureTag marks our profile of RFC 9421.
	signatureTag = "ostiary"
	// signatureLife is how long a far side may accept a request after it was
	// signed: enough for a slow network, too little to keep.
	signatureLife = 60 * time.Second
	// HeaderEntry carries the ledger entry of the intent, covered by the
	// signature.
	HeaderEntry = "Ostiary-Entry"
)

// signer signs outgoing requests by our narrow profile of RFC 9421: always
// the same components in the same order, so that a verifier can demand them.
type signer struct {
	key   crypto.Signer
	keyID string
	now   func() (crypto.Signer, string) // nil: the above, for good
	alg   string
	clock func() time.Time
}

func newSigner(key crypto.Signer, keyID string, now func() (crypto.Signer, string), clock func() time.Time) (*signer, error) {
	s := &signer{key: key, keyID: keyID, now: now, clock: clock}
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, ostiary.Errorf(ostiary.Malformed, "signer", "an ECDSA key must be on P-256")
		}
		s.alg = "ecdsa-p256-sha256"
	case ed25519.PublicKey:
		s.alg = "ed25519"
	default:
		return nil, ostiary.Errorf(ostiary.Malformed, "signer", "the signing key must be ECDSA P-256 or Ed25519")
	}
	for i := range len(keyID) {
		if c := keyID[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return nil, ostiary.Errorf(ostiary.Malformed, "signer", "the key id may hold printable ASCII without quotes only")
		}
	}
	if keyID == "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "signer", "the signing key has no id")
	}
	return s, nil
}

// component is a header that a signature covers.
type component struct{ name, header string }

// ifThere are the headers covered when they are there: the credential, and
// the session in which a server of an older revision acts.
func ifThere() [2]component {
	return [...]component{{"authorization", "Authorization"}, {"mcp-session-id", mcpwire.HeaderSessionID}}
}

// sign adds Content-Digest, Signature-Input and Signature to h for a POST of
// body to target. Every other covered header must already be there.
func (s *signer) sign(h http.Header, target string, body []byte) error {
	key, keyID := s.key, s.keyID
	if s.now != nil {
		key, keyID = s.now()
	}
	sum := sha256.Sum256(body)
	digest := append(make([]byte, 0, 64), "sha-256=:"...)
	digest = append(base64.StdEncoding.AppendEncode(digest, sum[:]), ':')
	h["Content-Digest"] = []string{string(digest)}

	var nonce [16]byte
	rand.Read(nonce[:])
	created := s.clock().Unix()
	params := make([]byte, 0, 320)
	params = append(params, `("@method" "@target-uri" "content-digest" "content-type" "ostiary-entry"`...)
	for _, c := range ifThere() {
		if h[c.header] != nil {
			params = append(append(append(params, ` "`...), c.name...), '"')
		}
	}
	params = append(params, `);created=`...)
	params = strconv.AppendInt(params, created, 10)
	params = append(params, `;expires=`...)
	params = strconv.AppendInt(params, created+int64(signatureLife/time.Second), 10)
	params = append(params, `;nonce="`...)
	params = base64.RawURLEncoding.AppendEncode(params, nonce[:])
	params = append(append(params, `";keyid="`...), keyID...)
	params = append(append(params, `";alg="`...), s.alg...)
	params = append(params, `";tag="`+signatureTag+`"`...)

	base := make([]byte, 0, 640+len(target))
	base = append(append(base, "\"@method\": POST\n\"@target-uri\": "...), target...)
	base = append(append(base, "\n\"content-digest\": "...), digest...)
	base = append(append(base, "\n\"content-type\": "...), h["Content-Type"][0]...)
	base = append(append(base, "\n\"ostiary-entry\": "...), h[HeaderEntry][0]...)
	for _, c := range ifThere() {
		if v := h[c.header]; v != nil {
			base = append(append(append(append(base, "\n\""...), c.name...), "\": "...), v[0]...)
		}
	}
	base = append(append(base, "\n\"@signature-params\": "...), params...)

	sig, err := s.signature(key, base)
	if err != nil {
		return ostiary.Errorf(ostiary.Internal, "signature", "the request could not be signed").Because(err)
	}
	out := append(make([]byte, 0, 128), signatureTag+"=:"...)
	out = append(base64.StdEncoding.AppendEncode(out, sig), ':')
	h["Signature-Input"] = []string{signatureTag + "=" + string(params)}
	h["Signature"] = []string{string(out)}
	return nil
}

// signature signs the base. ECDSA signatures travel as r and s, 32 bytes
// each, where Go makes ASN.1 (RFC 9421, section 3.3.4).
func (s *signer) signature(key crypto.Signer, base []byte) ([]byte, error) {
	if s.alg == "ed25519" {
		return key.Sign(rand.Reader, base, crypto.Hash(0))
	}
	sum := sha256.Sum256(base)
	der, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return nil, errors.New("the signer returned no ECDSA signature")
	}
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}
