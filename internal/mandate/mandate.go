// Package mandate signs and reads mandates: expiring delegations for one
// task, as compact JWS (RFC 7515) with ES256.
//
// It guarantees that a mandate it returns was signed by the key it was given
// for the trust domain it was given, holds exactly the members of its format,
// each once, and keeps within the format's limits. Each has room for the
// digest of the mandate it was derived from.
//
// It trusts the key. It does not judge time (see [ostiary.Mandate.Covers]),
// nor revocation, nor whether a derived mandate is narrower than its parent.
//
// The format is docs/reference/mandate-format.md; package proof reads it
// without this package. See RFC 8725 for how it is read.
package mandate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Type is the typ header of a mandate. No other token has it.
const Type = "ostiary-mandate+jwt"

// Limits of the format.
const (
	MaxSize  = 64 << 10 // of the whole text: it is kept in memory for each agent
	MaxNames = 1024     // actions, and resources: policy walks them
	MaxText  = 4 << 10  // bytes of purpose or task
	MaxDepth = 16       // delegations below one mandate
	maxName  = 2048     // bytes of any other text: as long as a SPIFFE ID
)

var limits = strictjson.Limits{Bytes: MaxSize, Depth: 3, Nodes: 2*MaxNames + 64, Elements: MaxNames, Literal: 24, Key: 32}

// Signer signs the mandates of one trust domain, and reads them. Safe for
// concurrent use.
type Signer struct {
	issuer string
	key    *ecdsa.PrivateKey
	kid    string
}

// New returns a signer for the trust domain. The key must be on P-256.
func New(trustDomain string, key *ecdsa.PrivateKey) (*Signer, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return nil, errors.New("a mandate is signed with a key on P-256")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := ostiary.DigestOf(spki)
	return &Signer{"spiffe://" + trustDomain, key, base64.RawURLEncoding.EncodeToString(sum[:12])}, nil
}

// Signed is a mandate with what its signed form says beside it.
type Signed struct {
	ostiary.Mandate
	Issuer string         // the trust domain, as a SPIFFE ID without a path
	Parent ostiary.Digest // of the mandate it was derived from: SHA-256 over its compact form; zero for the first
}

// payload is the format, in the order of its members.
type payload struct {
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

// Issue signs a mandate that was derived from none. Its times are kept in
// whole seconds.
func (s *Signer) Issue(m ostiary.Mandate) (string, error) { return s.IssueUnder(m, ostiary.Digest{}) }

// IssueUnder signs a mandate derived from the one with the given digest. That
// it is narrower is for the caller to have established.
func (s *Signer) IssueUnder(m ostiary.Mandate, parent ostiary.Digest) (string, error) {
	p := payload{
		1, s.issuer, string(m.ID), m.Standing, string(m.Principal), string(m.Agent), m.Purpose, m.Task,
		append([]string{}, m.Actions...), append([]string{}, m.Resources...), m.Depth, m.NotBefore.Unix(), m.Expires.Unix(), parent.String(),
	}
	if err := p.check(); err != nil {
		return "", err
	}
	body, err := p.encode()
	if err != nil {
		return "", err
	}
	opts := (&jose.SignerOptions{}).WithType(Type).WithHeader("kid", s.kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, opts)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(body)
	if err != nil {
		return "", err
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		return "", err
	}
	if len(text) > MaxSize {
		return "", refused("size", "a signed mandate has at most %d bytes", MaxSize)
	}
	return text, nil
}

// encode writes the payload as the format says: no white space, and nothing
// escaped that need not be.
func (p *payload) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(p); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Verify reads a mandate signed by this signer's key. It does not judge time.
func (s *Signer) Verify(jws string) (ostiary.Mandate, error) {
	m, err := Verify(jws, s.issuer, &s.key.PublicKey)
	return m.Mandate, err
}

// Verify reads a mandate signed by key for the issuer. Errors are of kind
// Corrupt.
func Verify(jws, issuer string, key *ecdsa.PublicKey) (Signed, error) {
	if err := checkHeader(jws); err != nil {
		return Signed{}, corrupt(err)
	}
	parsed, err := jose.ParseSignedCompact(jws, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return Signed{}, corrupt(err)
	}
	body, err := parsed.Verify(key)
	if err != nil {
		return Signed{}, corrupt(err)
	}
	p, err := scan(body)
	if err == nil {
		err = p.check()
	}
	if err == nil && p.Issuer != issuer {
		err = fmt.Errorf("it is of %s, not of %s", p.Issuer, issuer)
	}
	if err != nil {
		return Signed{}, corrupt(err)
	}
	return p.signed()
}

func corrupt(err error) error {
	return ostiary.Errorf(ostiary.Corrupt, "mandate", "the mandate does not verify").Because(err)
}

// checkHeader allows the one header there is: alg, kid and typ, so none of
// the members by which a token could choose its own key.
func checkHeader(jws string) error {
	if len(jws) > MaxSize {
		return errors.New("it is too long")
	}
	parts := strings.Split(jws, ".")
	if len(parts) != 3 || strings.ContainsAny(jws, "\r\n") {
		return errors.New("not a compact JWS")
	}
	var head []byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return errors.New("not base64url")
		}
		if i == 0 {
			head = b
		}
	}
	doc, err := strictjson.Parse(head, limits)
	if err != nil {
		return err
	}
	h := doc.Root()
	if h.Kind() != ostiary.Object || h.Len() != 3 || !h.Get("alg").Is("ES256") || !h.Get("typ").Is(Type) || h.Get("kid").Text() == "" {
		return errors.New("its header is not that of a mandate")
	}
	return nil
}

// scan reads the payload strictly: all members, each once, nothing else.
func scan(body []byte) (*payload, error) {
	doc, err := strictjson.Parse(body, limits)
	if err != nil {
		return nil, err
	}
	v := doc.Root()
	r := reader{v: v}
	p := &payload{
		Version: r.number("v"), Issuer: r.text("iss"), ID: r.text("id"), Standing: r.flag("standing"),
		Principal: r.text("principal"), Agent: r.text("agent"), Purpose: r.text("purpose"), Task: r.text("task"),
		Actions: r.list("actions"), Resources: r.list("resources"), Depth: r.number("depth"),
		NotBefore: r.number("nbf"), Expires: r.number("exp"), Parent: r.text("parent"),
	}
	if r.err == nil && v.Len() != r.read {
		r.err = errors.New("it has members the format does not know")
	}
	return p, r.err
}

// reader takes members of an object and keeps the first error.
type reader struct {
	v    ostiary.Value
	read int
	err  error
}

func (r *reader) take(name string, kinds ...ostiary.ValueKind) ostiary.Value {
	r.read++
	v := r.v.Get(name)
	for _, k := range kinds {
		if v.Kind() == k {
			return v
		}
	}
	if r.err == nil {
		r.err = fmt.Errorf("its member %s is missing or of the wrong type", name)
	}
	return ostiary.Value{}
}

func (r *reader) text(name string) string { return r.take(name, ostiary.String).Text() }

func (r *reader) flag(name string) bool {
	return r.take(name, ostiary.True, ostiary.False).Kind() == ostiary.True
}

func (r *reader) number(name string) int64 {
	n, ok := r.take(name, ostiary.Number).Int()
	if !ok && r.err == nil {
		r.err = fmt.Errorf("its member %s is no integer", name)
	}
	return n
}

func (r *reader) list(name string) []string {
	out := []string{}
	for _, e := range r.take(name, ostiary.Array).Elements() {
		if e.Kind() != ostiary.String && r.err == nil {
			r.err = fmt.Errorf("its member %s holds more than texts", name)
		}
		out = append(out, e.Text())
	}
	return out
}

// check holds for what is signed and for what is read.
func (p *payload) check() error {
	switch {
	case p.Version != 1:
		return refused("v", "version %d is not known here", p.Version)
	case !named(p.ID):
		return refused("id", "a mandate has a name of visible ASCII, at most %d bytes", maxName)
	case !named(p.Principal):
		return refused("principal", "a mandate names a principal")
	case !prose(p.Purpose) || !prose(p.Task):
		return refused("purpose", "purpose and task are texts of at most %d bytes", MaxText)
	case len(p.Actions) == 0 || len(p.Actions) > MaxNames || len(p.Resources) == 0 || len(p.Resources) > MaxNames:
		return refused("actions", "a mandate names 1 to %d actions and as many resources", MaxNames)
	case p.Depth < 0 || p.Depth > MaxDepth:
		return refused("depth", "a mandate allows at most %d delegations", MaxDepth)
	case p.NotBefore < 0 || p.Expires <= p.NotBefore || p.Expires > 1<<40:
		return refused("exp", "a mandate ends after it begins")
	}
	id, err := ostiary.ParseAgentID(p.Agent)
	if err != nil {
		return err
	}
	if "spiffe://"+id.TrustDomain() != p.Issuer {
		return refused("agent", "%s is not of the issuer's trust domain", id)
	}
	for _, list := range [][]string{p.Actions, p.Resources} {
		for _, s := range list {
			if !prose(s) || s == "" || len(s) > maxName {
				return refused("actions", "an action or resource is a text of 1 to %d bytes", maxName)
			}
		}
	}
	_, err = ostiary.ParseDigest(p.Parent)
	return err
}

func refused(field, format string, args ...any) error {
	return ostiary.Errorf(ostiary.Malformed, "mandate", format, args...).At(field)
}

func named(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func prose(s string) bool { return len(s) <= MaxText && utf8.ValidString(s) }

func (p *payload) signed() (Signed, error) {
	parent, err := ostiary.ParseDigest(p.Parent)
	return Signed{
		Mandate: ostiary.Mandate{
			ID: ostiary.MandateID(p.ID), Standing: p.Standing, Principal: ostiary.PrincipalID(p.Principal), Agent: ostiary.AgentID(p.Agent),
			Purpose: p.Purpose, Task: p.Task, Actions: p.Actions, Resources: p.Resources, Depth: p.Depth,
			NotBefore: time.Unix(p.NotBefore, 0).UTC(), Expires: time.Unix(p.Expires, 0).UTC(),
		},
		Issuer: p.Issuer, Parent: parent,
	}, err
}
