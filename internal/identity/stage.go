package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

// Schedules gives the schedule of keys that is in force, from memory.
type Schedules interface {
	Schedule() *rotation.Schedule
}

// stage is which keys of the authority sign and which are believed, from one
// moment until something of it changes. Stages are made ahead, when the
// schedule is read, so that passing into the next one is a look at the clock.
// Immutable.
type stage struct {
	from time.Time

	roots         []*x509.Certificate // believed, the oldest first: those are known to most
	intermediates []*x509.Certificate // of believed keys, under believed roots
	issuers       []string            // the ids of the believed intermediates
	trusted       *x509.CertPool      // the roots
	between       *x509.CertPool      // the intermediates
	anchors       *x509.CertPool      // both, for clients that send their SVID alone

	issuer *x509.Certificate // of the intermediate that signs
	signer crypto.Signer

	tokens *ecdsa.PrivateKey // that new ones are signed with
	kid    string
	keys   *jwt.Set // that tokens in use were signed with, by kid
	export []byte   // the same as a JWK set
}

// stage returns what holds at a moment.
func (a *Authority) stage(now time.Time) *stage {
	all := *a.stages.Load()
	for _, s := range slices.Backward(all[1:]) {
		if !now.Before(s.from) {
			return s
		}
	}
	return all[0]
}

// restage reads the schedule into stages, if it is another one than before.
// Whoever calls holds a.refresh, or is alone.
func (a *Authority) restage() error {
	s := a.schedules.Schedule()
	if s == a.staged {
		return nil
	}
	var all []*stage
	for at := a.clock.Now(); ; {
		st, err := a.stageAt(s, at)
		if err != nil {
			return fmt.Errorf("the keys from %s on: %w", at.Format(time.RFC3339), err)
		}
		all = append(all, st)
		if at = s.Until(at); at.IsZero() {
			break
		}
	}
	a.stages.Store(&all)
	a.staged = s
	return nil
}

func (a *Authority) stageAt(s *rotation.Schedule, at time.Time) (*stage, error) {
	st := &stage{from: at, trusted: x509.NewCertPool(), between: x509.NewCertPool(), anchors: x509.NewCertPool()}
	made, err := st.readRoots(s, at)
	if err != nil {
		return nil, err
	}
	if err := st.readIntermediates(s, at, made); err != nil {
		return nil, err
	}
	current := s.Current(rotation.Intermediate, at)
	key, err := signerOf(a.keys, current)
	if err != nil {
		return nil, err
	}
	st.signer = key
	if st.issuer = st.leading(key.Public()); st.issuer == nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the intermediate %s leads to no root that is believed", current.ID)
	}
	return st, st.readTokens(a.keys, s, at)
}

// signerOf returns the private key of a key that signs.
func signerOf(keys Keys, k rotation.Key) (*ecdsa.PrivateKey, error) {
	key, err := existing(keys, k.Name)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Name, err)
	}
	if id, err := jwt.KID(key.Public()); err != nil || id != k.ID {
		return nil, ostiary.Errorf(ostiary.Corrupt, "key_other", "the key %s in this process's folder of keys is another one than the schedule names", k.Name)
	}
	return key, nil
}

// readRoots takes the believed roots, and returns the certificates that they
// made for intermediates.
func (st *stage) readRoots(s *rotation.Schedule, at time.Time) (made []*x509.Certificate, err error) {
	for _, k := range s.Believed(rotation.Root, at) {
		certs, err := parseAll(k)
		if err != nil {
			return nil, err
		}
		st.roots, made = append(st.roots, certs[0]), append(made, certs[1:]...)
		st.trusted.AddCert(certs[0])
		st.anchors.AddCert(certs[0])
	}
	return made, nil
}

// readIntermediates takes every certificate of a believed intermediate that a
// believed root signed: its own, and those that later roots made for it.
func (st *stage) readIntermediates(s *rotation.Schedule, at time.Time, made []*x509.Certificate) error {
	for _, k := range s.Believed(rotation.Intermediate, at) {
		own, err := parseAll(k)
		if err != nil {
			return err
		}
		key := own[0].RawSubjectPublicKeyInfo
		st.issuers = append(st.issuers, k.ID)
		for _, c := range slices.Concat(own, made) {
			if bytes.Equal(c.RawSubjectPublicKeyInfo, key) && st.signedBy(c) >= 0 {
				st.intermediates = append(st.intermediates, c)
				st.between.AddCert(c)
				st.anchors.AddCert(c)
			}
		}
	}
	return nil
}

// signedBy returns which of the believed roots signed a certificate, -1 if
// none did.
func (st *stage) signedBy(c *x509.Certificate) int {
	return slices.IndexFunc(st.roots, func(r *x509.Certificate) bool { return c.CheckSignatureFrom(r) == nil })
}

// leading returns the certificate of an intermediate to send along: the one
// that leads to the oldest root, which everybody knows.
func (st *stage) leading(key crypto.PublicKey) (best *x509.Certificate) {
	by := len(st.roots)
	for _, c := range st.intermediates {
		pub, ok := c.PublicKey.(*ecdsa.PublicKey)
		if n := st.signedBy(c); ok && pub.Equal(key) && n < by {
			best, by = c, n
		}
	}
	return best
}

func parseAll(k rotation.Key) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range k.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a certificate of key %s: %w", k.ID, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the key %s has no certificate", k.ID)
	}
	return out, nil
}

// readTokens takes the keys tokens are read with, which others learn from the
// key set before they sign.
func (st *stage) readTokens(keys Keys, s *rotation.Schedule, at time.Time) (err error) {
	var public []*ecdsa.PublicKey
	var texts []json.RawMessage
	for _, k := range s.Believed(rotation.Token, at) {
		key, err := x509.ParsePKIXPublicKey(k.Public)
		if err != nil {
			return fmt.Errorf("token key %s: %w", k.ID, err)
		}
		pub, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the token key %s is no ECDSA key", k.ID)
		}
		text, err := jwt.Export(pub)
		if err != nil {
			return err
		}
		public, texts = append(public, pub), append(texts, text)
	}
	if st.keys, err = jwt.NewSet(public...); err != nil {
		return err
	}
	if st.export, err = json.Marshal(map[string][]json.RawMessage{"keys": texts}); err != nil {
		return err
	}
	current := s.Current(rotation.Token, at)
	st.kid = current.ID
	st.tokens, err = signerOf(keys, current)
	return err
}

// believes reports whether an intermediate's key is believed.
func (st *stage) believes(issuer string) bool { return slices.Contains(st.issuers, issuer) }

// Bundle returns the trust bundle: the root certificates, PEM, the oldest
// first. While one root follows another it holds both.
func (a *Authority) Bundle() []byte {
	var out []byte
	for _, c := range a.stage(a.clock.Now()).roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Fingerprint returns the digest of the trust bundle's first certificate:
// SHA-256 over its DER. A client that is told it out of band can take the
// bundle from an unproven connection: see [CheckBundle].
func (a *Authority) Fingerprint() ostiary.Digest {
	return ostiary.DigestOf(a.stage(a.clock.Now()).roots[0].Raw)
}

// CheckBundle returns the part of a bundle that a fingerprint vouches for:
// the one certificate it is the digest of. A fingerprint that was handed out
// before one root followed another is good until the older root is refused;
// the rest of the bundle comes over a connection that this one proved.
func CheckBundle(bundle []*x509.Certificate, fingerprint ostiary.Digest) ([]*x509.Certificate, bool) {
	for _, c := range bundle {
		if ostiary.DigestOf(c.Raw) == fingerprint {
			return []*x509.Certificate{c}, true
		}
	}
	return nil, false
}

// TokenKeys returns the public keys that tokens are signed with, or will be
// soon, as a JWK set.
func (a *Authority) TokenKeys() []byte { return a.stage(a.clock.Now()).export }
