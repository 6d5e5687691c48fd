package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
)

// Snapshot is a signed, numbered Set. Immutable.
type Snapshot struct {
	number  uint64
	created time.Time
	set     *Set
}

// Number is the Snapshot's place in the deployment's sequence, from 1.
func (s *Snapshot) Number() uint64 { return s.number }

// Created is when the Snapshot was signed.
func (s *Snapshot) Created() time.Time { return s.created }

// Digest covers policies, groups and pinned tools; it is the same for the
// same content under another number.
func (s *Snapshot) Digest() ostiary.Digest { return s.set.digest }

// Set returns the compiled set.
func (s *Snapshot) Set() *Set { return s.set }

// Pin returns the definition of a tool this Snapshot was compiled for, by
// the tool's action name.
func (s *Snapshot) Pin(action string) (ostiary.Digest, bool) {
	a, ok := s.set.world.actions[action]
	if !ok || a.tool == nil {
		return ostiary.Digest{}, false
	}
	return ostiary.Digest(a.tool.Pin), true
}

// Groups returns the groups an action is in, direct and indirect, sorted.
func (s *Snapshot) Groups(action string) []string {
	if a, ok := s.set.world.actions[action]; ok {
		return append([]string(nil), a.groups...)
	}
	return nil
}

// The signed form. See docs/reference/snapshot-format.md.
const (
	snapshotMagic   = "ostiary-snapshot-v1\n"
	snapshotContext = "ostiary/snapshot/v1\x00" // signed before the payload, so that no other signature fits
	maxSnapshot     = 64 << 20                  // bytes; a larger one is refused unread
	maxSignature    = 256                       // bytes; both kinds of signature are far shorter
)

// payload is what is signed, as JSON of our own writing.
type payload struct {
	Number  uint64    `json:"number"`
	Created time.Time `json:"created"`
	Digest  pin       `json:"digest"`
	content
}

// Sign encodes a Set as Snapshot number and signs it, with ECDSA P-256 or
// Ed25519.
func Sign(number uint64, set *Set, created time.Time, signer crypto.Signer) ([]byte, error) {
	if set == nil || number == 0 {
		return nil, ostiary.Errorf(ostiary.Internal, "no_set", "there is no policy set to sign")
	}
	body, err := json.Marshal(payload{number, created.UTC(), pin(set.digest), content{set.files, set.world.tools}})
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Internal, "snapshot", "the snapshot cannot be encoded").Because(err)
	}
	if len(body) > maxSnapshot-1024 {
		return nil, ostiary.Errorf(ostiary.Malformed, "too_large", "the snapshot is larger than %d MiB", maxSnapshot>>20)
	}
	sig, err := sign(signer, body)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Internal, "snapshot_key", "the snapshot cannot be signed").Because(err)
	}
	out := make([]byte, 0, len(snapshotMagic)+4+len(body)+2+len(sig))
	out = append(out, snapshotMagic...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	out = append(out, body...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(sig)))
	return append(out, sig...), nil
}

func sign(signer crypto.Signer, body []byte) ([]byte, error) {
	if signer == nil {
		return nil, ostiary.Errorf(ostiary.Internal, "snapshot_key", "there is no key to sign with")
	}
	msg := append([]byte(snapshotContext), body...)
	switch k := signer.Public().(type) {
	case ed25519.PublicKey:
		return signer.Sign(rand.Reader, msg, crypto.Hash(0))
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			sum := sha256.Sum256(msg)
			return signer.Sign(rand.Reader, sum[:], crypto.SHA256)
		}
	}
	return nil, ostiary.Errorf(ostiary.Internal, "snapshot_key", "the key is neither ECDSA P-256 nor Ed25519")
}

func verified(key crypto.PublicKey, body, sig []byte) bool {
	msg := append([]byte(snapshotContext), body...)
	switch k := key.(type) {
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return k != nil && k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// Open verifies a signed Snapshot and compiles it again. Nothing in it is
// read before the signature holds. Whatever is not exactly one snapshot,
// signed with this key, is Corrupt.
func Open(signed []byte, key crypto.PublicKey) (*Snapshot, error) {
	corrupt := func(code, why string) error {
		return ostiary.Errorf(ostiary.Corrupt, code, "the policy snapshot %s", why)
	}
	body, sig, why := cut(signed)
	if why != "" {
		return nil, corrupt("snapshot_form", why)
	}
	if !verified(key, body, sig) {
		return nil, corrupt("snapshot_signature", "is not signed with this deployment's key")
	}
	var p payload
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || p.Number == 0 || p.Created.IsZero() {
		return nil, corrupt("snapshot_form", "is signed, but its content is not readable; was it made by a newer version?")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, corrupt("snapshot_form", "has something after its content")
	}
	set, problems := recompile(p.content)
	if set == nil {
		e := ostiary.Errorf(ostiary.Corrupt, "snapshot_policy", "the policy snapshot does not compile")
		for _, x := range problems {
			if x.Severity == Error {
				return nil, ostiary.Errorf(ostiary.Corrupt, "snapshot_policy", "the policy snapshot does not compile: %s", x)
			}
		}
		return nil, e
	}
	if set.digest != ostiary.Digest(p.Digest) {
		return nil, corrupt("snapshot_digest", "does not hold what it says it holds")
	}
	return &Snapshot{p.Number, p.Created, set}, nil
}

// cut takes the frame apart; it must be exactly one.
func cut(b []byte) (body, sig []byte, why string) {
	switch {
	case len(b) == 0:
		return nil, nil, "is empty"
	case len(b) > maxSnapshot:
		return nil, nil, "is larger than any snapshot may be"
	}
	b, ok := bytes.CutPrefix(b, []byte(snapshotMagic))
	if !ok {
		return nil, nil, "does not begin like one"
	}
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
		return nil, nil, "is cut short"
	}
	n := int(binary.BigEndian.Uint32(b))
	body, b = b[4:4+n], b[4+n:]
	if len(b) < 2 {
		return nil, nil, "is cut short"
	}
	n = int(binary.BigEndian.Uint16(b))
	switch b = b[2:]; {
	case n == 0 || n > maxSignature:
		return nil, nil, "is not signed"
	case len(b) < n:
		return nil, nil, "is cut short"
	case len(b) > n:
		return nil, nil, "has something after its end"
	}
	return body, b, ""
}

// recompile compiles content that was a Set when it was signed.
func recompile(c content) (*Set, []Problem) {
	src := Source{Files: make(map[string][]byte, len(c.Files))}
	for name, text := range c.Files {
		src.Files[name] = []byte(text)
	}
	comp := &compiler{ids: map[string]string{}, files: map[string]string{}}
	set := comp.run(src, c.Tools)
	return set, comp.finish()
}

// String writes the problem as one line: file:line:col: severity: message
// (suggestion).
func (p Problem) String() string {
	var b bytes.Buffer
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column))
		}
		b.WriteString(": ")
	}
	b.WriteString(p.Severity.String() + ": " + p.Message)
	if p.Suggestion != "" {
		b.WriteString("; " + p.Suggestion)
	}
	return b.String()
}
