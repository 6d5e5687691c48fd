// Package peopletest holds what tests of persons need: records whose
// writes can fail, an AEAD that seals for show, and an authenticator in
// software that follows WebAuthn as far as an honest one does, and further if
// a test tells it to lie. It guarantees nothing outside tests.
package peopletest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// Records is a keeper whose writes can fail. Fail, if not nil, is asked before
// and after each write, with the operation's name: an error before means that
// it did not happen, one after that it did and was reported failed. Seen is
// everything that was ever written, for a search.
type Records struct {
	record.Keeper
	Fail func(op, kind string, after bool) error

	mu   sync.Mutex
	seen strings.Builder
}

// Seen returns everything that was ever written.
func (m *Records) Seen() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.String()
}

func failing[T any](m *Records, op, kind string, do func() (T, error)) (T, error) {
	var zero T
	if m.Fail != nil {
		if err := m.Fail(op, kind, false); err != nil {
			return zero, err
		}
	}
	v, err := do()
	if err == nil && m.Fail != nil {
		err = m.Fail(op, kind, true)
	}
	if err != nil {
		return zero, err
	}
	return v, nil
}

func (m *Records) note(r record.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(&m.seen, "%s %s %s\n", r.Kind, r.ID, r.Data)
}

// CreateRecord implements [record.Keeper].
func (m *Records) CreateRecord(ctx context.Context, r record.Record, at time.Time) (uint64, error) {
	m.note(r)
	return failing(m, "create", r.Kind, func() (uint64, error) { return m.Keeper.CreateRecord(ctx, r, at) })
}

// ReplaceRecord implements [record.Keeper].
func (m *Records) ReplaceRecord(ctx context.Context, r record.Record) (uint64, error) {
	m.note(r)
	return failing(m, "replace", r.Kind, func() (uint64, error) { return m.Keeper.ReplaceRecord(ctx, r) })
}

// TakeRecord implements [record.Keeper].
func (m *Records) TakeRecord(ctx context.Context, kind, id string, at time.Time) (record.Record, error) {
	return failing(m, "take", kind, func() (record.Record, error) { return m.Keeper.TakeRecord(ctx, kind, id, at) })
}

// DeleteRecord implements [record.Keeper].
func (m *Records) DeleteRecord(ctx context.Context, kind, id string) error {
	_, err := failing(m, "delete", kind, func() (struct{}, error) { return struct{}{}, m.Keeper.DeleteRecord(ctx, kind, id) })
	return err
}

// Seal is an AEAD for show: it binds the associated data and hides nothing.
type Seal struct{}

// Seal implements people.AEAD.
func (Seal) Seal(plain, ad []byte) ([]byte, error) {
	d := sha256.Sum256(ad)
	return append(d[:], plain...), nil
}

// Open implements people.AEAD.
func (Seal) Open(sealed, ad []byte) ([]byte, error) {
	d := sha256.Sum256(ad)
	if len(sealed) < len(d) || !bytes.Equal(sealed[:len(d)], d[:]) {
		return nil, ostiary.Errorf(ostiary.Corrupt, "sealed", "it does not open")
	}
	return sealed[len(d):], nil
}

// Authenticator holds one passkey. The fields may be changed between uses.
type Authenticator struct {
	Origin     string
	RPID       string
	Counter    uint32
	Unverified bool   // the person's finger or PIN was not asked for
	Type       string // of the client data; "" is the right one
	Extra      string // further members of the client data, as JSON: `,"type":"x"`

	ID     []byte
	Handle []byte
	Key    *ecdsa.PrivateKey
}

// NewAuthenticator returns one for localhost.
func NewAuthenticator(origin string) *Authenticator {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	id := make([]byte, 24)
	rand.Read(id)
	return &Authenticator{Origin: origin, RPID: "localhost", ID: id, Key: key}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (a *Authenticator) clientData(typ, challenge string) []byte {
	if a.Type != "" {
		typ = a.Type
	}
	return []byte(`{"type":"` + typ + `","challenge":"` + challenge + `","origin":"` + a.Origin + `","crossOrigin":false` + a.Extra + `}`)
}

// data is the authenticator data, without or with the credential.
func (a *Authenticator) data(flags byte, credential []byte) []byte {
	hash := sha256.Sum256([]byte(a.RPID))
	flags |= 0x01
	if !a.Unverified {
		flags |= 0x04
	}
	out := append(hash[:], flags)
	out = binary.BigEndian.AppendUint32(out, a.Counter)
	return append(out, credential...)
}

// Create answers the options of a registration.
func (a *Authenticator) Create(options []byte) ([]byte, error) {
	var o struct {
		Challenge string `json:"challenge"`
		User      struct {
			ID string `json:"id"`
		} `json:"user"`
	}
	if err := json.Unmarshal(options, &o); err != nil {
		return nil, err
	}
	var err error
	if a.Handle, err = base64.RawURLEncoding.DecodeString(o.User.ID); err != nil || o.Challenge == "" {
		return nil, errors.Join(err, errors.New("options without a challenge or a user"))
	}
	point, err := a.Key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	cose, err := webauthncbor.Marshal(webauthncose.EC2PublicKeyData{
		PublicKeyData: webauthncose.PublicKeyData{KeyType: int64(webauthncose.EllipticKey), Algorithm: int64(webauthncose.AlgES256)},
		Curve:         int64(webauthncose.P256), XCoord: point[1:33], YCoord: point[33:],
	})
	if err != nil {
		return nil, err
	}
	credential := append(make([]byte, 16), byte(len(a.ID)>>8), byte(len(a.ID)))
	credential = append(append(credential, a.ID...), cose...)
	object, err := webauthncbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": a.data(0x40, credential)})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"id": b64(a.ID), "rawId": b64(a.ID), "type": "public-key", "clientExtensionResults": map[string]any{},
		"response": map[string]any{"clientDataJSON": b64(a.clientData("webauthn.create", o.Challenge)), "attestationObject": b64(object)},
	})
}

// Get answers the options of a sign-in, with a counter one higher.
func (a *Authenticator) Get(options []byte) ([]byte, error) {
	var o struct {
		Challenge string `json:"challenge"`
	}
	if err := json.Unmarshal(options, &o); err != nil || o.Challenge == "" {
		return nil, errors.Join(err, errors.New("options without a challenge"))
	}
	a.Counter++
	client, data := a.clientData("webauthn.get", o.Challenge), a.data(0, nil)
	hash := sha256.Sum256(client)
	digest := sha256.Sum256(append(bytes.Clone(data), hash[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, a.Key, digest[:])
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"id": b64(a.ID), "rawId": b64(a.ID), "type": "public-key", "clientExtensionResults": map[string]any{},
		"response": map[string]any{"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(sig), "userHandle": b64(a.Handle)},
	})
}
