package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// maxMandate bounds a signed mandate, as its format does.
const maxMandate = 64 << 10

// Mandate is a mandate as its signature covers it.
type Mandate struct {
	ostiary.Mandate
	Issuer string         // the trust domain that signed it: a SPIFFE ID without a path
	Key    string         // the key id its header names
	Parent ostiary.Digest // SHA-256 over the compact form of the mandate it was derived from, zero for the first
}

// mandateBody is the payload in the order of its members; see
// docs/reference/mandate-format.md.
type mandateBody struct {
	Version   int64    `json:"v"`
	Issuer    string   `json:"iss"`
	ID        string   `json:"id"`
	Standing  bool     `json:"standing"`
	Principal string   `json:"principal"`
	Agent     string   `json:"agent"`
	Purpose   string   `json:"purpose"`
	Task      string   `json:"task"`
	Actions   []string `json:"actions"`
	Resources []string `json:"resources"`
	Depth     int64    `json:"depth"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
	Parent    string   `json:"parent"`
}

// VerifyMandate checks the signature of a mandate in its compact form by the
// trust domain's mandate key, and returns what it says. It judges neither
// time nor revocation, and does not follow Parent: use
// [ostiary.Mandate.Covers] and the ledger for these.
//
// The format prescribes every byte of header and payload. What was read is
// written again and compared, so a text that two readers could understand
// differently does not verify.
func VerifyMandate(jws string, key *ecdsa.PublicKey) (Mandate, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return Mandate{}, errors.New("mandate: the key is not on P-256")
	}
	head, body, err := openMandate(jws, key)
	if err != nil {
		return Mandate{}, fmt.Errorf("mandate: %w", err)
	}
	var p mandateBody
	if err := readBack(body, &p); err != nil {
		return Mandate{}, fmt.Errorf("mandate: payload: %w", err)
	}
	agent, err := ostiary.ParseAgentID(p.Agent)
	if err != nil {
		return Mandate{}, fmt.Errorf("mandate: %w", err)
	}
	parent, err := ostiary.ParseDigest(p.Parent)
	if err != nil {
		return Mandate{}, fmt.Errorf("mandate: parent: %w", err)
	}
	if p.Version != 1 || p.ID == "" || p.Principal == "" || p.Issuer != "spiffe://"+agent.TrustDomain() ||
		p.Depth < 0 || p.NotBefore < 0 || p.Expires <= p.NotBefore || len(p.Actions) == 0 || len(p.Resources) == 0 {
		return Mandate{}, errors.New("mandate: signed, and not as the format prescribes")
	}
	return Mandate{
		Mandate: ostiary.Mandate{
			ID: ostiary.MandateID(p.ID), Standing: p.Standing, Principal: ostiary.PrincipalID(p.Principal), Agent: agent,
			Purpose: p.Purpose, Task: p.Task, Actions: p.Actions, Resources: p.Resources, Depth: p.Depth,
			NotBefore: time.Unix(p.NotBefore, 0).UTC(), Expires: time.Unix(p.Expires, 0).UTC(),
		},
		Issuer: p.Issuer, Key: head.Key, Parent: parent,
	}, nil
}

type mandateHead struct {
	Alg string `json:"alg"`
	Key string `json:"kid"`
	Typ string `json:"typ"`
}

// openMandate verifies the signature and returns header and payload. See RFC
// 7515, section 5.2, and RFC 7518, section 3.4.
func openMandate(jws string, key *ecdsa.PublicKey) (head mandateHead, body []byte, err error) {
	if len(jws) > maxMandate {
		return head, nil, errors.New("it is too long")
	}
	parts := strings.Split(jws, ".")
	if len(parts) != 3 || strings.ContainsAny(jws, "\r\n") {
		return head, nil, errors.New("it is not a compact JWS")
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return head, nil, errors.New("it is not base64url")
		}
	}
	if err := readBack(raw[0], &head); err != nil || head.Alg != "ES256" || head.Typ != "ostiary-mandate+jwt" {
		return head, nil, errors.New("its header is not that of a mandate")
	}
	sig := raw[2]
	if len(sig) != 64 {
		return head, nil, errors.New("its signature does not have 64 bytes")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	if !ecdsa.Verify(key, sum[:], r, s) {
		return head, nil, errors.New("its signature is not by this key")
	}
	return head, raw[1], nil
}

// readBack decodes into v and demands that v encodes to the same bytes.
func readBack(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	var again bytes.Buffer
	e := json.NewEncoder(&again)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	if !bytes.Equal(bytes.TrimSuffix(again.Bytes(), []byte("\n")), b) {
		return errors.New("not in the one form the format prescribes")
	}
	return nil
}
