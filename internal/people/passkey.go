package people

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Passkey is one credential of a person. Key is all that is needed to check a
// signature of theirs with any library.
type Passkey struct {
	ID       []byte    `json:"id"`
	Key      []byte    `json:"spki"` // SubjectPublicKeyInfo, DER
	Counter  uint32    `json:"counter"`
	Eligible bool      `json:"backup_eligible"` // it may be on several devices
	Backed   bool      `json:"backed_up"`
	Created  time.Time `json:"created"`
	Used     time.Time `json:"used,omitzero"`
}

// ceremony is what is remembered between a question to an authenticator and
// its answer. It is found by its challenge and works once.
type ceremony struct {
	Use        string               `json:"use"`   // "enrol", "sign_in", "vote"
	Visit      string               `json:"visit"` // digest of the browser's token
	Asked      webauthn.SessionData `json:"asked"`
	Invitation string               `json:"invitation,omitempty"` // its id
	Name       string               `json:"name,omitempty"`
	Handle     string               `json:"handle,omitempty"`
	Label      string               `json:"label,omitempty"`
	Carried    []byte               `json:"carried,omitempty"` // of a vote: what is signed for
}

// visitor is a person as the library wants to see one.
type visitor struct {
	handle string
	name   string
	label  string
	keys   []Passkey
}

func (v visitor) WebAuthnID() []byte {
	b, _ := base64.RawURLEncoding.DecodeString(v.handle) // written by newHandle
	return b
}
func (v visitor) WebAuthnName() string        { return v.name }
func (v visitor) WebAuthnDisplayName() string { return v.label }
func (v visitor) WebAuthnCredentials() (all []webauthn.Credential) {
	for _, k := range v.keys {
		cose, err := toCOSE(k.Key)
		if err != nil {
			continue // a key that cannot be read signs nobody in
		}
		c := webauthn.Credential{ID: k.ID, PublicKey: cose, AttestationFormat: "none"}
		c.Flags.BackupEligible, c.Flags.BackupState, c.Flags.UserVerified = k.Eligible, k.Backed, true
		c.Authenticator.SignCount = k.Counter
		all = append(all, c)
	}
	return all
}

func newHandle() string {
	d := ostiary.DigestOf([]byte(newSecret())) // 32 random bytes that say nothing of the person
	return base64.RawURLEncoding.EncodeToString(d[:])
}

// AskEnrol begins the enrolment of a passkey for whoever holds an invitation's
// secret, in the browser that holds visit. It returns the options for the
// browser's navigator.credentials.create, as JSON. It uses nothing up.
func (p *People) AskEnrol(ctx context.Context, secret, visit, name, label string) ([]byte, error) {
	in, err := p.Invited(ctx, secret)
	if err != nil {
		return nil, err
	}
	v := visitor{handle: newHandle(), name: in.Name, label: clip(label)}
	if v.name == "" {
		v.name = name
	}
	if err := checkOwnName(v.name); err != nil {
		return nil, err
	}
	var rec person
	switch _, err := p.get(ctx, kindPerson, v.name, &rec); {
	case err == nil && !in.Known:
		return nil, errTaken(v.name)
	case err == nil:
		v.handle, v.label, v.keys = rec.Handle, rec.Label, rec.Passkeys
	case ostiary.KindOf(err) != ostiary.NotFound:
		return nil, err
	}
	if v.label == "" {
		v.label = v.name
	}
	options, asked, err := p.passkey.BeginRegistration(v,
		webauthn.WithExclusions(webauthn.Credentials(v.WebAuthnCredentials()).CredentialDescriptors()),
		webauthn.WithCredentialParameters(algorithms))
	if err != nil {
		return nil, err
	}
	err = p.ask(ctx, ceremony{Use: "enrol", Visit: named(visit), Asked: *asked, Invitation: named(secret), Name: v.name, Handle: v.handle, Label: v.label})
	if err != nil {
		return nil, err
	}
	return json.Marshal(options.Response)
}

func errTaken(name string) error {
	return ostiary.Errorf(ostiary.Conflict, "name_taken", "there is a %s already; choose another name", name).At("name")
}

func (p *People) ask(ctx context.Context, c ceremony) error {
	return p.put(ctx, record.Record{Kind: kindCeremony, ID: named(c.Asked.Challenge), Expires: p.o.Clock().Add(CeremonyLife)}, c)
}

// answered finds the question that an authenticator's answer belongs to, and
// uses it up.
func (p *People) answered(ctx context.Context, use, visit, challenge string) (ceremony, error) {
	var c ceremony
	if err := p.take(ctx, kindCeremony, named(challenge), &c); err != nil {
		if ostiary.KindOf(err) == ostiary.NotFound {
			err = errPasskey("the question is not open any more")
		}
		return ceremony{}, err
	}
	if c.Use != use || subtle.ConstantTimeCompare([]byte(c.Visit), []byte(named(visit))) != 1 {
		return ceremony{}, errPasskey("another browser was asked")
	}
	return c, nil
}

// errPasskey says one thing of every answer that does not hold; why is for our
// own log.
func errPasskey(why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Unauthenticated, "passkey", "this passkey was not accepted; try again").Because(ostiary.Errorf(ostiary.Unauthenticated, "passkey", "%s", why))
}

// Enrol ends what AskEnrol began with the browser's answer, and signs the
// person in. Of any number of callers with one invitation one succeeds.
func (p *People) Enrol(ctx context.Context, secret, visit string, answer []byte) (ostiary.Secret, Person, error) {
	parsed, err := readRegistration(answer)
	if err != nil {
		return ostiary.Secret{}, Person{}, err
	}
	c, err := p.answered(ctx, "enrol", visit, parsed.Response.CollectedClientData.Challenge)
	if err != nil {
		return ostiary.Secret{}, Person{}, err
	}
	if c.Invitation != named(secret) {
		return ostiary.Secret{}, Person{}, errPasskey("it was asked for another invitation")
	}
	key, err := p.enrolled(c, parsed)
	if err != nil {
		return ostiary.Secret{}, Person{}, err
	}
	var in invitation
	if err := p.take(ctx, kindInvitation, named(secret), &in); err != nil {
		return ostiary.Secret{}, Person{}, errInvitation(err)
	}
	if in.First {
		if err := p.put(ctx, record.Record{Kind: kindFirst, ID: onlyFirst}, c.Name); err != nil {
			return ostiary.Secret{}, Person{}, errInvitation(ostiary.Errorf(ostiary.NotFound, "first", "there is a first operator").Because(err))
		}
	}
	return p.enrol(ctx, in, c, key)
}

// enrolled checks the answer against the question.
func (p *People) enrolled(c ceremony, parsed *protocol.ParsedCredentialCreationData) (Passkey, error) {
	cred, err := p.passkey.CreateCredential(visitor{handle: c.Handle, name: c.Name}, c.Asked, parsed)
	if err != nil {
		return Passkey{}, errPasskey(err.Error())
	}
	if !parsed.Response.AttestationObject.AuthData.Flags.HasUserVerified() || len(cred.ID) == 0 || len(cred.ID) > 1023 {
		return Passkey{}, errPasskey("the person was not verified, or the credential has no proper id")
	}
	spki, err := toSPKI(cred.PublicKey)
	if err != nil {
		return Passkey{}, err
	}
	return Passkey{
		ID: cred.ID, Key: spki, Counter: cred.Authenticator.SignCount, Eligible: cred.Flags.BackupEligible, Backed: cred.Flags.BackupState,
		Created: p.o.Clock().UTC(),
	}, nil
}

// enrol gives the passkey to its person, who may be new.
func (p *People) enrol(ctx context.Context, in invitation, c ceremony, key Passkey) (ostiary.Secret, Person, error) {
	fail := func(err error) (ostiary.Secret, Person, error) { return ostiary.Secret{}, Person{}, err }
	// The credential's id leads to the person: it can be taken only once.
	if err := p.put(ctx, record.Record{Kind: kindPasskey, ID: named(string(key.ID))}, c.Name); err != nil {
		return fail(err)
	}
	_, err := p.change(ctx, c.Name, func(r *person) (Event, error) {
		switch {
		case !in.Adds: // whoever has the name came by another link
			return Event{}, errTaken(c.Name)
		case !r.Revoked.IsZero():
			return Event{}, errRevoked(c.Name)
		case r.Handle != c.Handle:
			return Event{}, errPasskey("the person is another one now")
		case len(r.Passkeys) >= maxPasskeys:
			return Event{}, ostiary.Errorf(ostiary.Exhausted, "passkeys", "%s has %d passkeys already", c.Name, maxPasskeys)
		}
		r.Passkeys, r.Seen = append(r.Passkeys, key), p.o.Clock().UTC()
		return Event{What: "add_passkey", By: in.By, Detail: "a further passkey"}, nil
	})
	if err != nil && ostiary.KindOf(err) == ostiary.NotFound && !in.Adds {
		err = p.newPerson(ctx, in, c, key)
	}
	if err != nil {
		return fail(err)
	}
	var rec person
	if _, err := p.get(ctx, kindPerson, c.Name, &rec); err != nil {
		return fail(err)
	}
	token, err := p.begin(ctx, c.Name, &rec, "passkey")
	if err != nil {
		return fail(err)
	}
	out, err := rec.view(c.Name)
	return token, out, err
}

// newPerson makes the person an invitation is for.
func (p *People) newPerson(ctx context.Context, in invitation, c ceremony, key Passkey) error {
	roles, err := ParseRoles(in.Roles)
	if err != nil {
		return err
	}
	if err := p.o.Record(ctx, Event{What: "enrol_person", Person: Principal(c.Name), By: in.By, Detail: "by passkey, with roles: " + said(roles)}); err != nil {
		return err
	}
	now := p.o.Clock().UTC()
	err = p.put(ctx, record.Record{Kind: kindPerson, ID: c.Name}, &person{
		Handle: c.Handle, Label: c.Label, Roles: in.Roles, Created: now, By: in.By, Seen: now, Passkeys: []Passkey{key},
	})
	if ostiary.KindOf(err) == ostiary.Conflict {
		return errTaken(c.Name)
	}
	return err
}

// AskSignIn begins a sign-in by any passkey of this origin, in the browser
// that holds visit. It returns the options for navigator.credentials.get. It
// knows no names, so it can tell nobody which exist.
func (p *People) AskSignIn(ctx context.Context, visit string) ([]byte, error) {
	options, asked, err := p.passkey.BeginDiscoverableLogin()
	if err != nil {
		return nil, err
	}
	if err := p.ask(ctx, ceremony{Use: "sign_in", Visit: named(visit), Asked: *asked}); err != nil {
		return nil, err
	}
	return json.Marshal(options.Response)
}

// SignIn ends what AskSignIn began with the browser's answer, and returns the
// token of a new session.
func (p *People) SignIn(ctx context.Context, visit string, answer []byte) (ostiary.Secret, Person, error) {
	fail := func(err error) (ostiary.Secret, Person, error) { return ostiary.Secret{}, Person{}, err }
	parsed, err := readAssertion(answer)
	if err != nil {
		return fail(err)
	}
	c, err := p.answered(ctx, "sign_in", visit, parsed.Response.CollectedClientData.Challenge)
	if err != nil {
		return fail(err)
	}
	var name string
	var rec person
	if _, err := p.get(ctx, kindPasskey, named(string(parsed.RawID)), &name); err != nil {
		return fail(passkeyIfNone(err))
	}
	if _, err := p.get(ctx, kindPerson, name, &rec); err != nil {
		return fail(passkeyIfNone(err))
	}
	who := visitor{handle: rec.Handle, name: name, keys: rec.Passkeys}
	_, cred, err := p.passkey.ValidatePasskeyLogin(func(_, handle []byte) (webauthn.User, error) {
		if subtle.ConstantTimeCompare(handle, who.WebAuthnID()) != 1 {
			return nil, errPasskey("the answer names another person")
		}
		return who, nil
	}, c.Asked, parsed)
	switch {
	case err != nil:
		return fail(errPasskey(err.Error()))
	case !parsed.Response.AuthenticatorData.Flags.HasUserVerified():
		return fail(errPasskey("the person was not verified"))
	case !rec.Revoked.IsZero():
		return fail(errPasskey("the person is revoked"))
	case cred.Authenticator.CloneWarning:
		return fail(errPasskey("the counter did not rise: there may be two of this passkey"))
	}
	return p.signedIn(ctx, name, cred)
}

func passkeyIfNone(err error) error {
	if ostiary.KindOf(err) == ostiary.NotFound {
		return errPasskey("nobody has it")
	}
	return err
}

// signedIn keeps the counter and begins the session.
func (p *People) signedIn(ctx context.Context, name string, cred *webauthn.Credential) (ostiary.Secret, Person, error) {
	var kept person
	out, err := p.change(ctx, name, func(r *person) (Event, error) {
		k, err := p.used(r, cred)
		if err != nil {
			return Event{}, err
		}
		r.Seen, kept = k.Used, *r
		return Event{}, nil
	})
	if err != nil {
		return ostiary.Secret{}, Person{}, err
	}
	token, err := p.begin(ctx, name, &kept, "passkey")
	return token, out, err
}

// algorithms a passkey may have: those whose keys have an SPKI that every
// library reads. RS256 is what Windows Hello makes.
var algorithms = []protocol.CredentialParameter{
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgES256},
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgEdDSA},
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgRS256},
}

// MaxAnswer bounds an authenticator's answer: attestation is not asked for, so
// a real one has under 2 KiB.
const MaxAnswer = 16 << 10

var answerLimits = strictjson.Limits{Bytes: MaxAnswer, Depth: 6, Nodes: 128, Elements: 16, Literal: 24, Key: 64}

// screen refuses an answer that two readers could read differently: the JSON
// that came, and the JSON inside that the authenticator signed.
func screen(answer []byte) error {
	doc, err := strictjson.Parse(answer, answerLimits)
	if err != nil {
		return err
	}
	text := doc.Root().Get("response").Get("clientDataJSON")
	if text.Kind() != ostiary.String {
		return ostiary.Errorf(ostiary.Malformed, "passkey", "the browser's answer has no client data").At("response.clientDataJSON")
	}
	signed, err := base64.RawURLEncoding.DecodeString(text.Text())
	if err != nil {
		return ostiary.Errorf(ostiary.Malformed, "passkey", "the client data is not base64url").At("response.clientDataJSON")
	}
	if _, err := strictjson.Parse(signed, answerLimits); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "passkey", "the client data is not strict JSON").At("response.clientDataJSON").Because(err)
	}
	return nil
}

func readRegistration(answer []byte) (*protocol.ParsedCredentialCreationData, error) {
	if err := screen(answer); err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "passkey", "the browser's answer cannot be read").Because(err)
	}
	// Attestation is not asked for. A format that arrives all the same is a
	// parser that nobody needs.
	if f := parsed.Response.AttestationObject.Format; f != "none" && f != "packed" {
		return nil, ostiary.Errorf(ostiary.Malformed, "passkey", "no attestation was asked for")
	}
	return parsed, nil
}

func readAssertion(answer []byte) (*protocol.ParsedCredentialAssertionData, error) {
	if err := screen(answer); err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "passkey", "the browser's answer cannot be read").Because(err)
	}
	return parsed, nil
}
