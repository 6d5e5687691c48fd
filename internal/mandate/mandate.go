// Package mandate signs and reads mandates: expiring delegations for one
// task, as compact JWS (RFC 7515) with ES256.
//
// It guarantees that a mandate it returns was signed by the key it was given
// for the trust domain it was given, holds exactly the members of its format,
// each once, and keeps within the format's limits. Each derived one holds the
// digest of the mandate it was derived from.
//
// It trusts the key. It does not judge time (see [ostiary.Mandate.Covers]),
// nor revocation, nor whether a derived mandate is narrower than its parent
// (see [ostiary.Effective]).
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

	"github.com/go-jose/go-jose/v4"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Type is the typ header of a mandate. No other token has it.
const Type = "ostiary-mandate+jwt"

// Limits of the format.
const (
	MaxSize     = 64 << 10 // of the whole text: it is kept in memory for each agent
	MaxNames    = 1024     // actions, and resources: policy walks them
	MaxText     = 4 << 10  // bytes of purpose or task
	MaxDepth    = 16       // delegations below one mandate
	MaxCeilings = 256      // each is held against every call it names
	MaxMoney    = 32       // currencies of a budget
	maxName     = 2048     // bytes of any other text: as long as a SPIFFE ID
	maxAmount   = 1 << 53  // of a budget: what every reader of JSON holds exactly
)

var limits = strictjson.Limits{Bytes: MaxSize, Depth: 4, Nodes: 4*MaxNames + 16*MaxCeilings, Elements: MaxNames, Literal: 24, Key: 32}

// kidSize is how many characters of a key's id are its kid in a mandate.
const kidSize = 16

// Signer signs the mandates of one trust domain, and reads them. Safe for
// concurrent use.
type Signer struct {
	issuer string
	key    *ecdsa.PrivateKey
	kid    string
	known  map[string]*ecdsa.PublicKey // by kid; its own among them
}

// New returns a signer for the trust domain, which reads mandates signed with
// its own key or with one of the others: those that were or will be its own.
// All must be on P-256.
func New(trustDomain string, key *ecdsa.PrivateKey, others ...*ecdsa.PublicKey) (*Signer, error) {
	if key == nil {
		return nil, errors.New("a mandate is signed with a key on P-256")
	}
	s := &Signer{issuer: "spiffe://" + trustDomain, key: key, known: map[string]*ecdsa.PublicKey{}}
	for _, pub := range append(others, &key.PublicKey) {
		if pub == nil || pub.Curve != elliptic.P256() {
			return nil, errors.New("a mandate is signed with a key on P-256")
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, err
		}
		sum := ostiary.DigestOf(spki)
		s.kid = base64.RawURLEncoding.EncodeToString(sum[:12]) // its own comes last
		s.known[s.kid] = pub
	}
	return s, nil
}

// Signed is a mandate with what its signed form says beside it.
type Signed struct {
	ostiary.Mandate
	Issuer string         // the trust domain, as a SPIFFE ID without a path
	Under  ostiary.Digest // of the mandate it was derived from: SHA-256 over its compact form; zero for the first
}

// payload is the format, in the order of its members.
type payload struct {
	Version   int64     `json:"v"`
	Issuer    string    `json:"iss"`
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Principal string    `json:"principal"`
	By        string    `json:"by"`
	Agent     string    `json:"agent"`
	Purpose   string    `json:"purpose"`
	Task      string    `json:"task"`
	Reason    string    `json:"reason"`
	Actions   []string  `json:"actions"`
	Resources []string  `json:"resources"`
	Classes   []string  `json:"classes"`
	Ceilings  []ceiling `json:"ceilings"`
	Budget    budget    `json:"budget"`
	Approvers []string  `json:"approvers"`
	Depth     int64     `json:"depth"`
	Epoch     int64     `json:"epoch"`
	Issued    int64     `json:"iat"`
	NotBefore int64     `json:"nbf"`
	Expires   int64     `json:"exp"`
	Parent    string    `json:"parent"`
	Under     string    `json:"parent_digest"`
}

type ceiling struct {
	Action  string `json:"action"`
	Pointer string `json:"pointer"`
	Max     string `json:"max"`
	Unit    string `json:"unit"`
}

type budget struct {
	Money  []money `json:"money"`
	Calls  int64   `json:"calls"`
	Tokens int64   `json:"tokens"`
	Bytes  int64   `json:"bytes"`
}

type money struct {
	Currency string `json:"currency"`
	Minor    int64  `json:"minor"`
}

// payloadOf writes a mandate in the words of the format.
func payloadOf(m *ostiary.Mandate, issuer string, under ostiary.Digest) *payload {
	p := &payload{
		Version: 1, Issuer: issuer, ID: string(m.ID), Kind: m.Kind.String(), Principal: string(m.Principal), By: string(m.By), Agent: string(m.Agent),
		Purpose: m.Purpose, Task: m.Task, Reason: m.Reason, Actions: texts(m.Actions), Resources: texts(m.Resources), Classes: texts(m.Classes),
		Ceilings: []ceiling{}, Budget: budget{[]money{}, m.Budget.Calls, m.Budget.Tokens, m.Budget.Bytes}, Approvers: texts(m.Approvers),
		Depth: m.Depth, Epoch: int64(m.Epoch), Issued: m.Issued.Unix(), NotBefore: m.NotBefore.Unix(), Expires: m.Expires.Unix(),
		Parent: string(m.Parent), Under: under.String(),
	}
	for _, c := range m.Ceilings {
		p.Ceilings = append(p.Ceilings, ceiling(c))
	}
	for _, x := range m.Budget.Money {
		p.Budget.Money = append(p.Budget.Money, money(x))
	}
	return p
}

func texts(list []string) []string { return append([]string{}, list...) }

// Issue signs a mandate that was derived from none. Its times are kept in
// whole seconds.
func (s *Signer) Issue(m ostiary.Mandate) (string, error) { return s.IssueUnder(m, ostiary.Digest{}) }

// IssueUnder signs a mandate derived from m.Parent, whose compact form has the
// given digest. That it is narrower is for the caller to have established.
func (s *Signer) IssueUnder(m ostiary.Mandate, parent ostiary.Digest) (string, error) {
	p := payloadOf(&m, s.issuer, parent)
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

// Verify reads a mandate signed by this signer's key or one of the others,
// with the digest of the one it was derived from. It does not judge time.
func (s *Signer) Verify(jws string) (ostiary.Mandate, ostiary.Digest, error) {
	kid, err := checkHeader(jws)
	if err != nil {
		return ostiary.Mandate{}, ostiary.Digest{}, corrupt(err)
	}
	key, ok := s.known[kid]
	if !ok {
		return ostiary.Mandate{}, ostiary.Digest{}, corrupt(errors.New("its key is not known, or refused by now"))
	}
	m, err := Verify(jws, s.issuer, key)
	return m.Mandate, m.Under, err
}

// Verify reads a mandate signed by key for the issuer. Errors are of kind
// Corrupt.
func Verify(jws, issuer string, key *ecdsa.PublicKey) (Signed, error) {
	if _, err := checkHeader(jws); err != nil {
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

// SignedBy reports whether a mandate says that the key of that id, as
// verify.KeyID names keys, signed it. It proves nothing: see [Verify].
func SignedBy(jws, id string) bool {
	kid, err := checkHeader(jws)
	return err == nil && len(kid) >= kidSize && strings.HasPrefix(id, kid)
}

func corrupt(err error) error {
	return ostiary.Errorf(ostiary.Corrupt, "mandate", "the mandate does not verify").Because(err)
}

// checkHeader allows the one header there is: alg, kid and typ, so none of
// the members by which a token could choose its own key. It returns the kid, a
// name to look up and nothing else.
func checkHeader(jws string) (kid string, err error) {
	if len(jws) > MaxSize {
		return "", errors.New("it is too long")
	}
	parts := strings.Split(jws, ".")
	if len(parts) != 3 || strings.ContainsAny(jws, "\r\n") {
		return "", errors.New("not a compact JWS")
	}
	var head []byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return "", errors.New("not base64url")
		}
		if i == 0 {
			head = b
		}
	}
	doc, err := strictjson.Parse(head, limits)
	if err != nil {
		return "", err
	}
	h := doc.Root()
	if h.Kind() != ostiary.Object || h.Len() != 3 || !h.Get("alg").Is("ES256") || !h.Get("typ").Is(Type) || h.Get("kid").Text() == "" {
		return "", errors.New("its header is not that of a mandate")
	}
	return h.Get("kid").Text(), nil
}

// scan reads the payload strictly: all members, each once, nothing else.
func scan(body []byte) (*payload, error) {
	doc, err := strictjson.Parse(body, limits)
	if err != nil {
		return nil, err
	}
	r := &reader{v: doc.Root()}
	p := &payload{
		Version: r.number("v"), Issuer: r.text("iss"), ID: r.text("id"), Kind: r.text("kind"), Principal: r.text("principal"), By: r.text("by"),
		Agent: r.text("agent"), Purpose: r.text("purpose"), Task: r.text("task"), Reason: r.text("reason"),
		Actions: r.list("actions"), Resources: r.list("resources"), Classes: r.list("classes"), Ceilings: []ceiling{}, Approvers: r.list("approvers"),
		Depth: r.number("depth"), Epoch: r.number("epoch"), Issued: r.number("iat"), NotBefore: r.number("nbf"), Expires: r.number("exp"),
		Parent: r.text("parent"), Under: r.text("parent_digest"),
	}
	r.each("ceilings", func(c *reader) {
		p.Ceilings = append(p.Ceilings, ceiling{c.text("action"), c.text("pointer"), c.text("max"), c.text("unit")})
	})
	r.inside("budget", func(b *reader) {
		p.Budget = budget{[]money{}, b.number("calls"), b.number("tokens"), b.number("bytes")}
		b.each("money", func(m *reader) {
			p.Budget.Money = append(p.Budget.Money, money{m.text("currency"), m.number("minor")})
		})
	})
	return p, r.end()
}

// reader takes members of an object and keeps the first error.
type reader struct {
	v    ostiary.Value
	read int
	err  error
}

// end returns the first error; members that nobody took are one.
func (r *reader) end() error {
	if r.err == nil && r.v.Len() != r.read {
		r.err = errors.New("it has members the format does not know")
	}
	return r.err
}

func (r *reader) take(name string, kinds ...ostiary.ValueKind) ostiary.Value {
	r.read++
	v := r.v.Get(name)
	for _, k := range kinds {
		if v.Kind() == k {
			return v
		}
	}
	r.fail("its member %s is missing or of the wrong type", name)
	return ostiary.Value{}
}

func (r *reader) fail(format, name string) {
	if r.err == nil {
		r.err = fmt.Errorf(format, name)
	}
}

func (r *reader) text(name string) string { return r.take(name, ostiary.String).Text() }

func (r *reader) number(name string) int64 {
	n, ok := r.take(name, ostiary.Number).Int()
	if !ok {
		r.fail("its member %s is no integer", name)
	}
	return n
}

func (r *reader) list(name string) []string {
	out := []string{}
	for _, e := range r.take(name, ostiary.Array).Elements() {
		if e.Kind() != ostiary.String {
			r.fail("its member %s holds more than texts", name)
		}
		out = append(out, e.Text())
	}
	return out
}

// inside reads an object that is a member.
func (r *reader) inside(name string, read func(*reader)) {
	r.object(r.take(name, ostiary.Object), read)
}

// each reads an array of objects that is a member.
func (r *reader) each(name string, read func(*reader)) {
	for _, e := range r.take(name, ostiary.Array).Elements() {
		if e.Kind() != ostiary.Object {
			r.fail("its member %s holds more than objects", name)
			return
		}
		r.object(e, read)
	}
}

func (r *reader) object(v ostiary.Value, read func(*reader)) {
	in := &reader{v: v}
	read(in)
	if err := in.end(); err != nil && r.err == nil {
		r.err = err
	}
}
