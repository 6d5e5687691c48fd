package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
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
	Under  ostiary.Digest // SHA-256 over the compact form of the mandate it was derived from, zero for the first
}

// mandateBody is the payload in the order of its members; see
// docs/reference/mandate-format.md.
type mandateBody struct {
	Version   int64            `json:"v"`
	Issuer    string           `json:"iss"`
	ID        string           `json:"id"`
	Kind      string           `json:"kind"`
	Principal string           `json:"principal"`
	By        string           `json:"by"`
	Agent     string           `json:"agent"`
	Purpose   string           `json:"purpose"`
	Task      string           `json:"task"`
	Reason    string           `json:"reason"`
	Actions   []string         `json:"actions"`
	Resources []string         `json:"resources"`
	Classes   []string         `json:"classes"`
	Ceilings  []mandateCeiling `json:"ceilings"`
	Budget    struct {
		Money []struct {
			Currency string `json:"currency"`
			Minor    int64  `json:"minor"`
		} `json:"money"`
		Calls  int64 `json:"calls"`
		Tokens int64 `json:"tokens"`
		Bytes  int64 `json:"bytes"`
	} `json:"budget"`
	Approvers []string `json:"approvers"`
	Depth     int64    `json:"depth"`
	Epoch     uint64   `json:"epoch"`
	Issued    int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
	Parent    string   `json:"parent"`
	Under     string   `json:"parent_digest"`
}

type mandateCeiling struct {
	Action  string `json:"action"`
	Pointer string `json:"pointer"`
	Max     string `json:"max"`
	Unit    string `json:"unit"`
}

// MandateKeys are the public keys with which a trust domain signed mandates, by
// the key id their headers name. Several are in use while one takes over from
// another.
type MandateKeys map[string]*ecdsa.PublicKey

// MandateKeyID returns the key id of a mandate key: base64url of the first 12
// bytes of SHA-256 over the key's SubjectPublicKeyInfo.
func MandateKeyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("mandate: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:12]), nil
}

// VerifyMandate checks the signature of a mandate in its compact form by the
// trust domain's mandate key, and returns what it says. It judges neither
// time nor revocation, and does not follow the mandate it was derived from:
// use [ostiary.Mandate.Covers], the ledger and [VerifyMandateChain] for these.
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
	m, err := p.mandate()
	if err != nil {
		return Mandate{}, fmt.Errorf("mandate: %w", err)
	}
	m.Key = head.Key
	return m, nil
}

// VerifyMandateChain checks every link of a chain, in compact form from the
// first, which a principal gave, to the last, under which an agent acted: each
// is signed by the trust domain with one of its keys, names the one before it
// by name and digest, and is no wider than it in any field. It returns the
// links and what the whole chain allows, its intersection; see
// [ostiary.Effective]. It judges neither time nor revocation.
func VerifyMandateChain(links []string, trustDomain string, keys MandateKeys) ([]Mandate, ostiary.Mandate, error) {
	if len(links) == 0 || len(links) > ostiary.MaxChain {
		return nil, ostiary.Mandate{}, fmt.Errorf("mandate: a chain has 1 to %d links", ostiary.MaxChain)
	}
	var out []Mandate
	var plain []ostiary.Mandate
	var above ostiary.Digest
	for i, jws := range links {
		kid, err := mandateKeyOf(jws)
		if err != nil {
			return nil, ostiary.Mandate{}, fmt.Errorf("mandate: link %d: %w", i, err)
		}
		m, err := VerifyMandate(jws, keys[kid])
		switch {
		case err != nil:
			return nil, ostiary.Mandate{}, fmt.Errorf("link %d: %w", i, err)
		case m.Issuer != "spiffe://"+trustDomain:
			return nil, ostiary.Mandate{}, fmt.Errorf("mandate: link %d is of %s", i, m.Issuer)
		case m.Under != above:
			return nil, ostiary.Mandate{}, fmt.Errorf("mandate: link %d was derived from another mandate than the one before it", i)
		}
		above = sha256.Sum256([]byte(jws))
		out, plain = append(out, m), append(plain, m.Mandate)
	}
	effective, err := ostiary.Effective(plain)
	if err != nil {
		return nil, ostiary.Mandate{}, fmt.Errorf("mandate: %w", err)
	}
	return out, effective, nil
}

// mandateKeyOf reads which of the reader's own keys a header names.
func mandateKeyOf(jws string) (string, error) {
	var head mandateHead
	text, _, _ := strings.Cut(jws, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(text) > 1024 || readBack(b, &head) != nil {
		return "", errors.New("its header is not that of a mandate")
	}
	return head.Key, nil
}

// mandate checks what the payload says and puts it into the vocabulary.
func (p *mandateBody) mandate() (Mandate, error) {
	agent, err := ostiary.ParseAgentID(p.Agent)
	if err != nil {
		return Mandate{}, err
	}
	kind, err := ostiary.ParseMandateKind(p.Kind)
	if err != nil {
		return Mandate{}, err
	}
	under, err := ostiary.ParseDigest(p.Under)
	if err != nil {
		return Mandate{}, err
	}
	if p.Version != 1 || p.ID == "" || p.Principal == "" || p.By == "" || p.Issuer != "spiffe://"+agent.TrustDomain() || (p.Parent == "") != under.IsZero() ||
		p.Depth < 0 || p.Issued < 0 || p.NotBefore < 0 || p.Expires <= p.NotBefore || len(p.Actions) == 0 || len(p.Resources) == 0 ||
		p.Classes == nil || p.Approvers == nil || p.Ceilings == nil || p.Budget.Money == nil || p.Budget.Calls < 0 || p.Budget.Tokens < 0 || p.Budget.Bytes < 0 {
		return Mandate{}, errNotMandate
	}
	at := func(n int64) time.Time { return time.Unix(n, 0).UTC() }
	m := ostiary.Mandate{
		ID: ostiary.MandateID(p.ID), Kind: kind, Parent: ostiary.MandateID(p.Parent), Principal: ostiary.PrincipalID(p.Principal), By: ostiary.PrincipalID(p.By),
		Agent: agent, Purpose: p.Purpose, Task: p.Task, Reason: p.Reason, Actions: p.Actions, Resources: p.Resources, Classes: p.Classes, Approvers: p.Approvers,
		Budget: ostiary.Budget{Calls: p.Budget.Calls, Tokens: p.Budget.Tokens, Bytes: p.Budget.Bytes}, Depth: p.Depth, Epoch: p.Epoch,
		Issued: at(p.Issued), NotBefore: at(p.NotBefore), Expires: at(p.Expires),
	}
	for _, c := range p.Ceilings {
		v := ostiary.Ceiling(c)
		if !v.Valid() {
			return Mandate{}, errNotMandate
		}
		m.Ceilings = append(m.Ceilings, v)
	}
	for _, x := range p.Budget.Money {
		if x.Minor < 0 {
			return Mandate{}, errNotMandate
		}
		m.Budget.Money = append(m.Budget.Money, ostiary.Money(x))
	}
	return Mandate{Mandate: m, Issuer: p.Issuer, Under: under}, nil
}

var errNotMandate = errors.New("signed, and not as the format prescribes")

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
