package proof

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
)

// MaxNote is the longest signed note that is read: a checkpoint with room for
// many cosignatures.
const MaxNote = 64 << 10

// Checkpoint is a log's name, size and root, as C2SP tlog-checkpoint has it.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
}

// AppendText appends the body of the note that is signed: three lines.
func (c Checkpoint) AppendText(dst []byte) []byte {
	dst = append(dst, c.Origin...)
	dst = append(dst, '\n')
	dst = strconv.AppendUint(dst, c.Size, 10)
	dst = append(dst, '\n')
	dst = base64.StdEncoding.AppendEncode(dst, c.Root[:])
	return append(dst, '\n')
}

// Text returns the body of the note that is signed.
func (c Checkpoint) Text() string { return string(c.AppendText(nil)) }

// ParseCheckpoint reads the body of a checkpoint, strictly: three lines, no
// extension lines, the one spelling of each number.
func ParseCheckpoint(text string) (Checkpoint, error) {
	bad := func(why string) (Checkpoint, error) {
		return Checkpoint{}, ostiary.Errorf(ostiary.Malformed, "checkpoint", "%s", why)
	}
	if len(text) > MaxNote {
		return bad("too long")
	}
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return bad("want three lines: origin, size, root")
	}
	size, err := strconv.ParseUint(lines[1], 10, 62)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return bad("size is not a number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return bad("root is not a hash in base64")
	}
	if !ValidOrigin(lines[0]) {
		return bad("origin is not a name")
	}
	return Checkpoint{lines[0], size, tlog.Hash(root)}, nil
}

// ValidOrigin reports whether s can name a log: segments of letters, digits,
// dot, dash and underscore with slashes between, none empty or dots, at most
// 256 bytes.
func ValidOrigin(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == '/') {
			return false
		}
	}
	for seg := range strings.SplitSeq(s, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return false
		}
	}
	return true
}

// Signer signs the checkpoints of one log with Ed25519 (note type 0x01). It
// wraps any crypto.Signer, so that the key may live elsewhere.
type Signer struct {
	name string
	hash uint32
	key  crypto.Signer
}

// NewSigner returns the signer of the log named origin.
func NewSigner(origin string, key crypto.Signer) (*Signer, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("a log's key is an Ed25519 key")
	}
	if !ValidOrigin(origin) {
		return nil, errors.New("not a log's name: " + strconv.Quote(origin))
	}
	return &Signer{origin, keyHash(origin, pub), key}, nil
}

func keyHash(name string, pub ed25519.PublicKey) uint32 {
	b := append([]byte(name), '\n', 1)
	sum := sha256.Sum256(append(b, pub...))
	return binary.BigEndian.Uint32(sum[:])
}

// Name, KeyHash and Sign make a Signer a note.Signer.
func (s *Signer) Name() string { return s.name }

// KeyHash is the note key id.
func (s *Signer) KeyHash() uint32 { return s.hash }

// Sign signs msg. Ed25519 gives the same bytes for the same text.
func (s *Signer) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(rand.Reader, msg, crypto.Hash(0))
}

// VerifierKey returns the public key in signed-note form.
func (s *Signer) VerifierKey() string {
	k, _ := note.NewEd25519VerifierKey(s.name, s.key.Public().(ed25519.PublicKey))
	return k
}

// Note returns the signed note of c, given the signature of its text.
func (s *Signer) Note(c Checkpoint, sig []byte) []byte {
	b := c.AppendText(nil)
	b = append(b, "\n— "...)
	b = append(b, s.name...)
	b = append(b, ' ')
	raw := binary.BigEndian.AppendUint32(nil, s.hash)
	b = base64.StdEncoding.AppendEncode(b, append(raw, sig...))
	return append(b, '\n')
}

// ParseVerifierKey returns the log's name and Ed25519 key of a verifier key
// in signed-note form.
func ParseVerifierKey(vkey string) (origin string, pub ed25519.PublicKey, err error) {
	v, err := note.NewVerifier(vkey)
	if err != nil || !ValidOrigin(v.Name()) {
		return "", nil, ostiary.Errorf(ostiary.Malformed, "verifier_key", "not a verifier key in signed-note form")
	}
	// <name>+<hash>+<base64>, and base64 has plus signs of its own.
	_, rest, _ := strings.Cut(vkey, "+")
	_, key, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return "", nil, ostiary.Errorf(ostiary.Malformed, "verifier_key", "not an Ed25519 key")
	}
	return v.Name(), ed25519.PublicKey(raw[1:]), nil
}

// OpenCheckpoint verifies a signed note under the log's verifier key and
// reads the checkpoint. Signatures by unknown keys are ignored; one by the
// known key that fails refuses the note.
func OpenCheckpoint(signed []byte, vkey string) (Checkpoint, error) {
	bad := func(why string, err error) (Checkpoint, error) {
		return Checkpoint{}, ostiary.Errorf(ostiary.Corrupt, "checkpoint", "%s", why).Because(err)
	}
	if len(signed) > MaxNote {
		return bad("the checkpoint is too long", nil)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return bad("the verifier key is not one", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return bad("the checkpoint's signature does not verify", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return bad("the signed text is no checkpoint", err)
	}
	if c.Origin != v.Name() {
		return bad("the checkpoint is of another log", nil)
	}
	return c, nil
}

// PeekCheckpoint reads a checkpoint without verifying anything.
func PeekCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok || len(signed) > MaxNote {
		return Checkpoint{}, ostiary.Errorf(ostiary.Malformed, "checkpoint", "not a signed note")
	}
	return ParseCheckpoint(string(text) + "\n")
}
