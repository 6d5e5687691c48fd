package identity

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

// Limits of what a join token may say, so that no record grows without bound.
const (
	maxName  = 256 // bytes of a principal, owner, zone or role
	maxRoles = 64
)

// joinPrefix marks a join token wherever it turns up, for people and for
// secret scanners.
const joinPrefix = "ostjoin_"

// MintJoinToken makes a one-time right to enrol t.Agent with the attributes
// in t, for life (0 is [DefaultJoinLife], at most [MaxJoinLife]). The secret
// is returned once and stored nowhere: the registry keeps its hash. It is
//
//	ostjoin_<32 random bytes>.<fingerprint of the trust bundle>
//
// in base64url and hex, so that a client that knows nothing else can tell
// this deployment from an impostor.
func (a *Authority) MintJoinToken(ctx context.Context, t JoinToken, life time.Duration) (ostiary.Secret, JoinToken, error) {
	none := ostiary.Secret{}
	life = orDefault(life, DefaultJoinLife)
	if life < 0 || life > MaxJoinLife {
		return none, t, ostiary.Errorf(ostiary.Malformed, "join_life", "a join token lives at most %s", MaxJoinLife).At("life")
	}
	if err := a.checkJoin(&t); err != nil {
		return none, t, err
	}
	var secret [32]byte
	rand.Read(secret[:])
	t.Hash = ostiary.DigestOf(secret[:])
	t.Created = a.clock.Now()
	t.Expires = t.Created.Add(life)
	e := Event{What: "join_token", Agent: t.Agent, Principal: t.Principal, Detail: "a join token that expires " + t.Expires.Format(time.RFC3339)}
	if err := a.record(ctx, e); err != nil {
		return none, t, fmt.Errorf("recording the join token: %w", err)
	}
	if err := a.registry.CreateJoinToken(ctx, t); err != nil {
		return none, t, fmt.Errorf("storing the join token: %w", err)
	}
	text := joinPrefix + base64.RawURLEncoding.EncodeToString(secret[:]) + "." + a.Fingerprint().String()
	return ostiary.NewSecret([]byte(text)), t, nil
}

// checkJoin checks the attributes and gives the zone and roles their settled
// form.
func (a *Authority) checkJoin(t *JoinToken) error {
	bad := func(field, why string) error {
		return ostiary.Errorf(ostiary.Malformed, "join_token", "%s", why).At(field)
	}
	id, err := ostiary.ParseAgentID(string(t.Agent))
	if err != nil {
		return err
	}
	if id.TrustDomain() != a.domain {
		return bad("agent", fmt.Sprintf("%s is not of trust domain %s", id, a.domain))
	}
	if strings.HasPrefix(string(id), "spiffe://"+a.domain+reservedPath) {
		return bad("agent", "names below "+reservedPath+" are the gateway's own")
	}
	if !isPrincipal(t.Principal) {
		return bad("principal", "a principal is a kind, a colon and a name, for example person:dana")
	}
	if t.Zone == "" {
		t.Zone = "default"
	}
	if t.Owner == "" {
		t.Owner = string(t.Principal)
	}
	if !plain(t.Zone) || !plain(t.Owner) || len(t.Roles) > maxRoles {
		return bad("owner", fmt.Sprintf("an owner and a zone are short words, and there are at most %d roles", maxRoles))
	}
	if err := a.checkTerms(t); err != nil {
		return err
	}
	t.Roles = slices.Clone(t.Roles)
	slices.Sort(t.Roles)
	t.Roles = slices.Compact(t.Roles)
	for _, r := range t.Roles {
		if !plain(r) {
			return bad("roles", fmt.Sprintf("a role is a word of at most %d bytes", maxName))
		}
	}
	return a.settledCase(t)
}

// settledCase refuses a new name that is not in lower case: names are compared
// byte for byte and read by people, so no two may differ in case alone. What an
// agent that is already enrolled has been called so far, it may be called again.
func (a *Authority) settledCase(t *JoinToken) error {
	old, ok := a.dir.Load().agents[t.Agent]
	if !ok {
		old = &agent{}
	}
	names := []struct{ field, name, known string }{
		{"agent", string(t.Agent), string(old.ID)}, {"principal", string(t.Principal), string(old.Principal)},
		{"owner", t.Owner, old.Owner}, {"zone", t.Zone, old.Zone},
	}
	for _, r := range t.Roles {
		known := ""
		if slices.Contains(old.Roles, r) {
			known = r
		}
		names = append(names, struct{ field, name, known string }{"roles", r, known})
	}
	for _, n := range names {
		if n.name != strings.ToLower(n.name) && n.name != n.known {
			return ostiary.Errorf(ostiary.Malformed, "name_case", "new names are in lower case, so that no two differ in case alone: %q", n.name).At(n.field)
		}
	}
	return nil
}

// checkTerms refuses terms that would make no mandate while there is still
// somebody to tell.
func (a *Authority) checkTerms(t *JoinToken) error {
	if len(t.Terms) == 0 {
		return nil
	}
	_, _, err := a.welcome(*t, a.clock.Now())
	return err
}

// isPrincipal reports whether p is a kind, a colon and a name.
func isPrincipal(p ostiary.PrincipalID) bool {
	kind, name, ok := strings.Cut(string(p), ":")
	return ok && kind != "" && name != "" && plain(string(p))
}

// plain reports whether s is a short name without control characters or
// anything outside ASCII: names are shown to people and compared byte by
// byte.
func plain(s string) bool {
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

// ParseJoinSecret splits a join token into its secret bytes and the
// fingerprint of the deployment it is for, zero if it says none.
func ParseJoinSecret(text string) (secret [32]byte, fingerprint ostiary.Digest, err error) {
	fail := ostiary.Errorf(ostiary.Malformed, "join_token", "not a join token: it starts with %s", joinPrefix).At("token")
	rest, ok := strings.CutPrefix(text, joinPrefix)
	if !ok || len(rest) > 43+1+64 {
		return secret, fingerprint, fail
	}
	rest, print, dotted := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != len(secret) || len(rest) != 43 {
		return secret, fingerprint, fail
	}
	copy(secret[:], b)
	if dotted {
		if fingerprint, err = ostiary.ParseDigest(print); err != nil || fingerprint.IsZero() {
			return [32]byte{}, ostiary.Digest{}, fail
		}
	}
	return secret, fingerprint, nil
}

// Enrol spends a join token for an SVID. The token is spent in the
// transaction that writes the agent and its standing mandate, and only then
// is a certificate signed: if its answer is lost, the agent needs a new
// token. It returns the SVID and the intermediate, DER.
func (a *Authority) Enrol(ctx context.Context, joinSecret string, csrDER []byte) ([][]byte, AgentRecord, error) {
	pub, err := a.newKey(csrDER)
	if err != nil {
		return nil, AgentRecord{}, err
	}
	secret, print, err := ParseJoinSecret(joinSecret)
	if err != nil {
		return nil, AgentRecord{}, err
	}
	if !print.IsZero() && print != a.Fingerprint() {
		return nil, AgentRecord{}, ostiary.Errorf(ostiary.Unauthenticated, "join_token", "the join token is for another deployment")
	}
	now := a.clock.Now()
	record, err := a.registry.RedeemJoinToken(ctx, ostiary.DigestOf(secret[:]), now, func(t JoinToken) (AgentRecord, MandateRecord, error) {
		d := a.dir.Load()
		agent, _ := d.ends.agents.get(t.Agent)
		principal, _ := d.ends.people.get(t.Principal)
		by, _ := d.ends.people.get(t.By)
		for _, e := range []ending{agent, principal, by} {
			if !e.at.IsZero() && !t.Created.After(e.at) {
				return AgentRecord{}, MandateRecord{}, errJoinRevoked
			}
		}
		return a.welcome(t, now)
	})
	if err != nil {
		return nil, AgentRecord{}, joinRefusal(err)
	}
	if err := a.Refresh(ctx); err != nil {
		return nil, record, fmt.Errorf("reading the registry after an enrolment: %w", err)
	}
	chain, err := a.issue(ctx, "enrol", record, pub)
	return chain, record, err
}

// welcome is what an enrolment writes: the agent and its standing mandate,
// which covers what its join token says, or else what policy allows, for as
// long as mandates live here.
func (a *Authority) welcome(t JoinToken, now time.Time) (AgentRecord, MandateRecord, error) {
	m := ostiary.Mandate{Purpose: "standing", Actions: []string{"*"}, Resources: []string{"*"}, Classes: []string{"*"}, Approvers: []string{"*"}}
	longest := now.Add(a.lives.Load().Mandate)
	if len(t.Terms) > 0 {
		terms, err := ParseTerms(t.Terms)
		if err != nil {
			return AgentRecord{}, MandateRecord{}, err
		}
		m = terms.Mandate(now)
	}
	if m.Expires.IsZero() || m.Expires.After(longest) {
		m.Expires = longest
	}
	m.ID, m.Kind, m.Parent, m.Principal, m.Agent = newMandateID(), ostiary.StandingMandate, "", t.Principal, t.Agent
	if m.By = m.Principal; isPrincipal(t.By) {
		m.By = t.By
	}
	m.Epoch, m.Issued, m.NotBefore = a.dir.Load().ends.epoch, now.Truncate(time.Second), now.Add(-backdate).Truncate(time.Second)
	m.Expires = m.Expires.Truncate(time.Second)
	jws, err := a.mandates.IssueUnder(m, ostiary.Digest{})
	if err != nil {
		return AgentRecord{}, MandateRecord{}, fmt.Errorf("signing the standing mandate: %w", err)
	}
	r := AgentRecord{
		ID: t.Agent, Principal: t.Principal, Owner: t.Owner, Zone: t.Zone, Roles: t.Roles,
		Mandate: m.ID, Enrolled: now, Method: "join_token",
	}
	return r, recordOf(&m, jws, now), nil
}

// recordOf is the row of a signed mandate.
func recordOf(m *ostiary.Mandate, jws string, now time.Time) MandateRecord {
	return MandateRecord{ID: m.ID, Kind: m.Kind, Agent: m.Agent, Parent: m.Parent, Principal: m.Principal, By: m.By, JWS: jws, Issued: now, Expires: m.Expires}
}

func newMandateID() ostiary.MandateID {
	var b [16]byte
	rand.Read(b[:])
	return ostiary.MandateID("m-" + hex.EncodeToString(b[:]))
}

// errJoinRevoked refuses a join token made before its agent was revoked, or a
// person it is from: a revocation ends everything they had or gave until then,
// and whoever holds an unused token must not come back with it.
var errJoinRevoked = ostiary.Errorf(ostiary.Unauthenticated, "join_token_revoked", "the agent, or the person it is from, was revoked after this join token was made: ask for a new one")

// joinRefusal words the registry's refusals for someone who holds, or guesses
// at, a join token. That a token was spent is told: its rightful holder must
// learn that somebody else came first, and nobody can guess one.
func joinRefusal(err error) error {
	if errors.Is(err, errJoinRevoked) {
		return errJoinRevoked
	}
	switch ostiary.KindOf(err) {
	case ostiary.NotFound:
		return ostiary.Errorf(ostiary.Unauthenticated, "join_token", "the join token was not accepted").Because(err)
	case ostiary.Denied:
		return ostiary.Errorf(ostiary.Denied, "join_token_expired", "the join token has expired: ask for a new one").Because(err)
	case ostiary.Conflict:
		return ostiary.Errorf(ostiary.Conflict, "join_token_spent", "the join token was used before: if that was not you, revoke the agent and ask for a new one").Because(err)
	}
	return fmt.Errorf("redeeming the join token: %w", err)
}

// Renew signs a new SVID for a subject that proved itself by its present one,
// after looking at everything again.
func (a *Authority) Renew(ctx context.Context, s ostiary.Subject, csrDER []byte) ([][]byte, AgentRecord, error) {
	if s.Via != ostiary.ViaSVID {
		return nil, AgentRecord{}, ostiary.Errorf(ostiary.Denied, "renew_needs_svid", "only an SVID can be renewed, over mutual TLS")
	}
	pub, err := a.newKey(csrDER)
	if err != nil {
		return nil, AgentRecord{}, err
	}
	d, now := a.dir.Load(), a.clock.Now()
	if why := d.revoked(s.Agent, s.Key, s.Serial, s.Issued, s.Epoch); why != "" {
		_, err := refuse(errors.New(why))
		return nil, AgentRecord{}, err
	}
	if !now.Before(s.Expires) {
		_, err := refuse(errors.New("the SVID has expired"))
		return nil, AgentRecord{}, err
	}
	g, err := d.stands(now, s.Agent, "")
	if err != nil {
		return nil, AgentRecord{}, err
	}
	chain, err := a.issue(ctx, "renew", g.AgentRecord, pub)
	return chain, g.AgentRecord, err
}

// Return signs a new SVID for an agent that was away longer than its SVID
// lived. The signing request must be by the key of the old SVID, which proves
// that whoever asks still holds it; sent again by somebody else, it yields a
// certificate for a key they do not hold. Everything else is looked at as if
// the SVID had not ended. See [Options.Grace].
func (a *Authority) Return(ctx context.Context, svidDER, csrDER []byte) ([][]byte, AgentRecord, error) {
	pub, err := a.newKey(csrDER)
	if err != nil {
		return nil, AgentRecord{}, err
	}
	p, err := a.endedPeer(svidDER)
	if err == nil {
		var key ostiary.Digest
		if key, err = keyDigest(pub); err == nil && key != p.key {
			err = errors.New("the signing request is not by the SVID's key")
		}
	}
	d, now := a.dir.Load(), a.clock.Now()
	if err == nil && now.After(p.ends.Add(a.lives.Load().Grace)) {
		err = errors.New("the SVID ended too long ago")
	}
	if err == nil {
		if why := d.revoked(p.agent, p.key, p.serial, p.issued, p.epoch); why != "" {
			err = errors.New(why)
		}
	}
	if err != nil {
		_, err := refuse(err)
		return nil, AgentRecord{}, err
	}
	g, err := d.stands(now, p.agent, "")
	if err == nil && p.issued.Before(g.moved) {
		_, err = refuse(errors.New("the agent's principal has changed since the SVID was issued"))
	}
	if err != nil {
		return nil, AgentRecord{}, err
	}
	chain, err := a.issue(ctx, "return", g.AgentRecord, pub)
	return chain, g.AgentRecord, err
}

// endedPeer reads an SVID of ours whatever the time. Our intermediate signs
// SVIDs directly, so its one signature is the whole chain.
func (a *Authority) endedPeer(der []byte) (*peer, error) {
	if len(der) > MaxCSR {
		return nil, errors.New("the SVID is too long")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	now := a.clock.Now()
	by := a.stage(now).intermediates
	i := slices.IndexFunc(by, func(i *x509.Certificate) bool { return cert.CheckSignatureFrom(i) == nil })
	if i < 0 {
		return nil, errors.New("the SVID is not signed by an intermediate that is believed")
	}
	issuer, err := jwt.KID(by[i].PublicKey)
	if err == nil {
		err = a.believed(rotation.Intermediate, issuer, now)
	}
	if err != nil {
		return nil, err
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return nil, errors.New("the SVID has an unknown critical extension")
	}
	return readSVID(cert, a.domain)
}

// newKey reads a signing request and refuses a key that was revoked.
func (a *Authority) newKey(csrDER []byte) (crypto.PublicKey, error) {
	pub, err := readCSR(csrDER)
	if err != nil {
		return nil, err
	}
	key, err := keyDigest(pub)
	if err != nil {
		return nil, err
	}
	if a.dir.Load().ends.keys.has(key) {
		return nil, ostiary.Errorf(ostiary.Denied, "key_revoked", "this key was revoked: make a new one").At("csr")
	}
	return pub, nil
}

// issue records that an SVID is about to exist and then signs it. An SVID
// never outlives the agent's mandate.
func (a *Authority) issue(ctx context.Context, what string, r AgentRecord, pub crypto.PublicKey) ([][]byte, error) {
	d, now := a.dir.Load(), a.clock.Now()
	if _, err := d.stands(now, r.ID, r.Mandate); err != nil {
		return nil, err
	}
	life := min(a.lives.Load().SVID, d.mandates[r.Mandate].effective.Expires.Sub(now))
	g := grant{id: r.ID, serial: newSerial(now, d.ends.epoch), now: now, life: life}
	key, err := keyDigest(pub)
	if err != nil {
		return nil, err
	}
	e := Event{What: what, Agent: r.ID, Principal: r.Principal, Mandate: r.Mandate, Serial: g.serial.String(),
		Detail: "an SVID for key " + key.Short() + " until " + now.Add(life).Format(time.RFC3339)}
	if err := a.record(ctx, e); err != nil {
		return nil, fmt.Errorf("recording the SVID: %w", err)
	}
	return a.stage(now).sign(a.domain, g, pub)
}
