package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	crypt "crypto"

	"github.com/ostiary/ostiary"
)

// VoteFact is the name of the public statement, of a change in the
// deployment's log, that holds a signed vote.
const VoteFact = "vote"

// maxVote bounds a vote in its published form: with the longest key that a
// passkey may have, in an entry that has 4,096 bytes.
const maxVote = 3700

// minVoteRSA is the shortest RSA key whose votes count, in bits.
const minVoteRSA = 2048

// voteForm is a signed vote as it is published: one line of JSON.
type voteForm struct {
	Statement     string `json:"statement"`
	Key           []byte `json:"key"`
	Credential    []byte `json:"credential,omitempty"`
	Authenticator []byte `json:"authenticator,omitempty"`
	Client        []byte `json:"client,omitempty"`
	Signature     []byte `json:"signature"`
}

// MarshalVote returns the published form of a vote: one line of text. It is
// what an entry of the deployment's log holds under VoteFact.
func MarshalVote(s *ostiary.Signed) (string, error) {
	b, err := json.Marshal(voteForm{string(s.Statement()), s.Key, s.Credential, s.Authenticator, s.Client, s.Signature})
	if err == nil && len(b) > maxVote {
		err = ostiary.Errorf(ostiary.Malformed, "vote", "a signed vote has at most %d bytes, this one %d", maxVote, len(b))
	}
	return string(b), err
}

// ParseVote reads what MarshalVote wrote, and nothing that is written
// otherwise. It verifies no signature.
func ParseVote(text string) (*ostiary.Signed, error) {
	bad := func(why string) (*ostiary.Signed, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "vote", "this is no vote: %s", why)
	}
	if len(text) > maxVote {
		return bad("it is too long")
	}
	var f voteForm
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return bad("it is not the JSON of one")
	}
	v, err := ostiary.ParseVote(f.Statement)
	if err != nil {
		return nil, err
	}
	s := &ostiary.Signed{Vote: v, Key: f.Key, Credential: f.Credential, Authenticator: f.Authenticator, Client: f.Client, Signature: f.Signature}
	if again, err := MarshalVote(s); err != nil || again != text { // one way to write it: no second member, no other order
		return bad("it is not written as votes are")
	}
	return s, nil
}

// VerifyVote verifies that the key in a vote signed its statement: by a
// passkey, which saw the person and asked them to prove themselves, or by a
// key of the command line. Whose key it is, and whether they might vote, it
// cannot say: people's keys stand in the deployment's log.
//
// See Web Authentication Level 3, section 7.2, steps 11 to 21.
func VerifyVote(s *ostiary.Signed) error {
	statement := s.Statement()
	if len(s.Key) == 0 || len(s.Signature) == 0 || s.Approver == "" || s.Hold == "" || s.Question.IsZero() {
		return badVote("something is missing")
	}
	if !s.ByPasskey() {
		if len(s.Client) != 0 || len(s.Credential) != 0 {
			return badVote("it is neither a passkey's nor a plain one")
		}
		return voteSignature(s.Key, statement, s.Signature)
	}
	if err := clientSays(s.Client, statement, s.Authenticator); err != nil {
		return err
	}
	sum := sha256.Sum256(s.Client)
	return voteSignature(s.Key, append(bytes.Clone(s.Authenticator), sum[:]...), s.Signature)
}

func badVote(format string, args ...any) error {
	return ostiary.Errorf(ostiary.Unauthenticated, "vote_signature", "the vote does not verify: "+format, args...)
}

// The flags of authenticator data: the person was there, and proved it.
const (
	userPresent  = 0x01
	userVerified = 0x04
)

// clientSays checks what the browser and the authenticator signed beside the
// challenge.
func clientSays(client, statement, authenticator []byte) error {
	if len(client) > 2048 || len(authenticator) < 37 || len(authenticator) > 1024 {
		return badVote("its parts have the wrong length")
	}
	if flags := authenticator[32]; flags&userPresent == 0 || flags&userVerified == 0 {
		return badVote("the authenticator did not verify the person")
	}
	said, err := members(client)
	if err != nil {
		return badVote("%v", err)
	}
	sum := sha256.Sum256(statement)
	text := func(name string) (s string) { json.Unmarshal(said[name], &s); return s }
	switch {
	case text("type") != "webauthn.get":
		return badVote("it is no assertion")
	case text("challenge") != base64.RawURLEncoding.EncodeToString(sum[:]):
		return badVote("it was signed for something else")
	case said["crossOrigin"] != nil && string(said["crossOrigin"]) != "false":
		return badVote("it was signed inside another site's page")
	}
	u, err := url.Parse(text("origin"))
	if err != nil || u.Hostname() == "" {
		return badVote("it names no origin")
	}
	if host := sha256.Sum256([]byte(u.Hostname())); !bytes.Equal(host[:], authenticator[:32]) {
		return badVote("it was signed for another site than it names")
	}
	return nil
}

// members reads an object whose names are different.
func members(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("its client data is no object")
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("its client data cannot be read")
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("its client data says %q twice", name)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, errors.New("its client data cannot be read")
		}
		out[name] = v
	}
	if _, err := dec.Token(); err != nil || dec.InputOffset() != int64(len(b)) {
		return nil, errors.New("something follows its client data")
	}
	return out, nil
}

// voteSignature verifies a signature with a key of one of three kinds.
func voteSignature(spki, signed, signature []byte) error {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return badVote("its key cannot be read")
	}
	sum := sha256.Sum256(signed)
	ok := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ok = k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, signed, signature)
	case *rsa.PublicKey:
		ok = k.N.BitLen() >= minVoteRSA && rsa.VerifyPKCS1v15(k, crypt.SHA256, sum[:], signature) == nil
	default:
		return badVote("its key is of a kind that does not vote")
	}
	if !ok {
		return badVote("the signature is not of this key over this vote")
	}
	return nil
}

// checkVote verifies the vote that an entry of the deployment's log holds.
func checkVote(e *Entry) error {
	s, err := ParseVote(e.Fact(VoteFact))
	if err != nil {
		return err
	}
	if string(s.Approver) != e.Principal || string(s.Hold) != e.Approval {
		return badVote("it is another's, or for another held action, than its entry says")
	}
	return VerifyVote(s)
}
