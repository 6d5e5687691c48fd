package people

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// maxKeys bounds the command-line keys of one person.
const maxKeys = 8

// Key is a key of a person that is no passkey: with it they vote from the
// command line. It signs nobody in.
type Key struct {
	ID      string    `json:"id"`   // the beginning of its digest
	Key     []byte    `json:"spki"` // SubjectPublicKeyInfo, DER
	Created time.Time `json:"created"`
	By      string    `json:"by"` // who registered it
}

// Assertion is what a passkey signed, as whoever keeps it needs it.
type Assertion struct {
	Key           []byte // SubjectPublicKeyInfo, DER
	Credential    []byte
	Authenticator []byte // authenticator data
	Client        []byte // client data
	Signature     []byte
	Carried       []byte // what AskVote was given to carry
}

// AskVote begins the signing of a statement with one of a person's passkeys,
// in the browser that holds visit. The challenge is the statement's SHA-256
// digest. What is carried comes back with the answer, and is never shown. It
// returns the options for the browser's navigator.credentials.get, as JSON.
func (p *People) AskVote(ctx context.Context, visit, name string, statement, carried []byte) ([]byte, error) {
	var rec person
	if _, err := p.get(ctx, kindPerson, name, &rec); err != nil {
		return nil, err
	}
	if !rec.Revoked.IsZero() || len(rec.Passkeys) == 0 {
		return nil, ostiary.Errorf(ostiary.Denied, "no_passkey", "%s has no passkey to sign with; an operator can invite them to add one", name)
	}
	sum := sha256.Sum256(statement)
	options, asked, err := p.passkey.BeginLogin(visitor{handle: rec.Handle, name: name, keys: rec.Passkeys}, webauthn.WithChallenge(sum[:]))
	if err != nil {
		return nil, errPasskey(err.Error())
	}
	// The same statement is the same challenge: who closed the dialogue and
	// begins again takes the place of their own question.
	if err := p.o.Records.DeleteRecord(ctx, kindCeremony, named(asked.Challenge)); err != nil && ostiary.KindOf(err) != ostiary.NotFound {
		return nil, err
	}
	if err := p.ask(ctx, ceremony{Use: "vote", Visit: named(visit), Asked: *asked, Name: name, Handle: rec.Handle, Carried: carried}); err != nil {
		return nil, err
	}
	return json.Marshal(options.Response)
}

// Voted ends what AskVote began with the browser's answer, and returns the
// assertion for whoever keeps votes. It works once.
func (p *People) Voted(ctx context.Context, visit, name string, answer []byte) (Assertion, error) {
	parsed, err := readAssertion(answer)
	if err != nil {
		return Assertion{}, err
	}
	c, err := p.answered(ctx, "vote", visit, parsed.Response.CollectedClientData.Challenge)
	if err != nil {
		return Assertion{}, err
	}
	var rec person
	if _, err := p.get(ctx, kindPerson, name, &rec); err != nil {
		return Assertion{}, passkeyIfNone(err)
	}
	cred, err := p.passkey.ValidateLogin(visitor{handle: rec.Handle, name: name, keys: rec.Passkeys}, c.Asked, parsed)
	switch {
	case err != nil:
		return Assertion{}, errPasskey(err.Error())
	case c.Name != name || c.Handle != rec.Handle:
		return Assertion{}, errPasskey("another person was asked")
	case !parsed.Response.AuthenticatorData.Flags.HasUserVerified():
		return Assertion{}, errPasskey("the person was not verified")
	case !rec.Revoked.IsZero():
		return Assertion{}, errPasskey("the person is revoked")
	case cred.Authenticator.CloneWarning:
		return Assertion{}, errPasskey("the counter did not rise: there may be two of this passkey")
	}
	var spki []byte
	if _, err := p.change(ctx, name, func(r *person) (Event, error) {
		k, err := p.used(r, cred)
		if err == nil {
			spki = k.Key
		}
		return Event{}, err
	}); err != nil {
		return Assertion{}, err
	}
	return Assertion{
		Key: spki, Credential: cred.ID, Authenticator: parsed.Raw.AssertionResponse.AuthenticatorData, Client: parsed.Raw.AssertionResponse.ClientDataJSON,
		Signature: parsed.Raw.AssertionResponse.Signature, Carried: c.Carried,
	}, nil
}

// used notes that a passkey was used: its counter rises with each use.
func (p *People) used(r *person, cred *webauthn.Credential) (*Passkey, error) {
	i := slices.IndexFunc(r.Passkeys, func(k Passkey) bool { return bytes.Equal(k.ID, cred.ID) })
	n := cred.Authenticator.SignCount
	if i < 0 || n != 0 && n <= r.Passkeys[i].Counter {
		return nil, errPasskey("the passkey was used meanwhile")
	}
	k := &r.Passkeys[i]
	k.Counter, k.Backed, k.Used = n, cred.Flags.BackupState, p.o.Clock().UTC()
	return k, nil
}

// AddKey registers a public key with which a person votes from the command
// line: Ed25519, or ECDSA on P-256. Whoever registers one can vote as that
// person, so it is an operator's to do, and recorded. A key that anybody has,
// or had when they were revoked, is a Conflict: two who share one are one
// human.
func (p *People) AddKey(ctx context.Context, name string, spki []byte, by string) (Key, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	switch k := pub.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			err = ostiary.Errorf(ostiary.Malformed, "key", "another curve")
		}
	default:
		err = ostiary.Errorf(ostiary.Malformed, "key", "another kind")
	}
	if err != nil {
		return Key{}, ostiary.Errorf(ostiary.Malformed, "person_key", "a person's key is the SubjectPublicKeyInfo of an Ed25519 key or one on P-256").At("key").Because(err)
	}
	d := ostiary.DigestOf(spki)
	key := Key{ID: hex.EncodeToString(d[:8]), Key: spki, Created: p.o.Clock().UTC(), By: by}
	_, err = p.change(ctx, name, func(r *person) (Event, error) {
		switch {
		case !r.Revoked.IsZero():
			return Event{}, errRevoked(name)
		case slices.ContainsFunc(r.Keys, func(k Key) bool { return k.ID == key.ID }) || slices.ContainsFunc(r.Passkeys, func(k Passkey) bool { return bytes.Equal(k.Key, spki) }):
			return Event{}, ostiary.Errorf(ostiary.Conflict, "person_key", "%s has this key already", name)
		case len(r.Keys) >= maxKeys:
			return Event{}, ostiary.Errorf(ostiary.Exhausted, "person_keys", "%s has %d keys already", name, maxKeys)
		}
		if err := p.unshared(ctx, name, spki); err != nil {
			return Event{}, err
		}
		r.Keys = append(r.Keys, key)
		return Event{What: "add_key", By: by, Detail: "may vote from the command line with key " + key.ID}, nil
	})
	return key, err
}

// unshared refuses a key that somebody else has.
func (p *People) unshared(ctx context.Context, name string, spki []byte) error {
	return p.persons(ctx, func(o Person) error {
		if o.Name != name && o.signsWith(spki) {
			return ostiary.Errorf(ostiary.Conflict, "person_key", "%s has this key already; everybody needs one of their own", o.Name)
		}
		return nil
	})
}

// signsWith reports whether a key is one of a person's.
func (p *Person) signsWith(spki []byte) bool {
	return slices.ContainsFunc(p.Keys, func(k Key) bool { return bytes.Equal(k.Key, spki) }) ||
		slices.ContainsFunc(p.Passkey, func(k Passkey) bool { return bytes.Equal(k.Key, spki) })
}

// DropKey takes a command-line key from a person. Votes signed with it count
// no longer for what has not been carried out.
func (p *People) DropKey(ctx context.Context, name, id, by string) error {
	_, err := p.change(ctx, name, func(r *person) (Event, error) {
		n := len(r.Keys)
		if r.Keys = slices.DeleteFunc(r.Keys, func(k Key) bool { return k.ID == id }); len(r.Keys) == n {
			return Event{}, ostiary.Errorf(ostiary.NotFound, "person_key", "%s has no key %.40q", name, id)
		}
		return Event{What: "drop_key", By: by, Detail: "lost the command-line key " + id}, nil
	})
	return err
}

// Add makes a person who has no passkey: they sign nobody in, and vote with a
// key of the command line once one is registered. An invitation gives them a
// passkey later.
func (p *People) Add(ctx context.Context, name string, roles []Role, by string) (Person, error) {
	if err := checkOwnName(name); err != nil {
		return Person{}, err
	}
	switch _, err := p.Person(ctx, name); {
	case err == nil:
		return Person{}, errTaken(name)
	case ostiary.KindOf(err) != ostiary.NotFound:
		return Person{}, err
	}
	if err := p.o.Record(ctx, Event{What: "enrol_person", Person: Principal(name), By: by, Detail: "without a passkey, with roles: " + said(roles)}); err != nil {
		return Person{}, err
	}
	rec := person{Handle: newHandle(), Label: name, Roles: Words(roles), Created: p.o.Clock().UTC(), By: by}
	if err := p.put(ctx, record.Record{Kind: kindPerson, ID: name}, &rec); err != nil {
		if ostiary.KindOf(err) == ostiary.Conflict {
			err = errTaken(name)
		}
		return Person{}, err
	}
	return rec.view(name)
}
