package proof

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/ostiary/ostiary"
)

// PayloadVersion is the only version of the payload layout there is.
const PayloadVersion = 1

// MaxPayload is the longest plain payload: a whole request of 4 MiB, and room
// for the decision's inputs.
const MaxPayload = 4<<20 + 1<<20

// SealOverhead is what sealing adds: a nonce and a tag.
const SealOverhead = 12 + 16

const (
	commitDomain = "ostiary/payload/v1\x00"
	sealDomain   = "ostiary/payload/key/v1"
	saltDomain   = "ostiary/payload/salt/v1"
	adDomain     = "ostiary/payload/ad/v1"
)

// AppendPayload appends the one encoding of p to dst: a version byte, three
// length-prefixed byte strings (arguments, inputs, detail), the result's
// digest and length. An entirely zero payload encodes to nothing.
func AppendPayload(dst []byte, p *ostiary.Payload) ([]byte, error) {
	n := len(p.Arguments) + len(p.Inputs) + len(p.Detail)
	if n > MaxPayload-64 {
		return dst, ostiary.Errorf(ostiary.Malformed, "payload_too_long", "a payload has at most %d bytes", MaxPayload-64)
	}
	if n == 0 && p.Result.IsZero() && p.ResultLen == 0 {
		return dst, nil
	}
	if p.ResultLen < 0 {
		return dst, ostiary.Errorf(ostiary.Malformed, "payload", "a result has no negative length")
	}
	dst = append(dst, PayloadVersion)
	for _, f := range [...][]byte{p.Arguments, p.Inputs, p.Detail} {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(f)))
		dst = append(dst, f...)
	}
	dst = append(dst, p.Result[:]...)
	return binary.BigEndian.AppendUint64(dst, uint64(p.ResultLen)), nil
}

// ParsePayload reads what AppendPayload wrote, strictly. The payload holds
// views into b.
func ParsePayload(b []byte) (ostiary.Payload, error) {
	var p ostiary.Payload
	bad := func(why string) (ostiary.Payload, error) {
		return ostiary.Payload{}, ostiary.Errorf(ostiary.Corrupt, "payload", "%s", why)
	}
	if len(b) == 0 {
		return p, nil
	}
	if b[0] != PayloadVersion {
		return bad("unknown payload version")
	}
	b = b[1:]
	for _, f := range [...]*[]byte{&p.Arguments, &p.Inputs, &p.Detail} {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return bad("payload is cut short")
		}
		n := int(binary.BigEndian.Uint32(b))
		if n > 0 {
			*f = b[4 : 4+n : 4+n]
		}
		b = b[4+n:]
	}
	if len(b) != 40 || b[32] > 0x7f {
		return bad("payload has the wrong length")
	}
	copy(p.Result[:], b)
	p.ResultLen = int64(binary.BigEndian.Uint64(b[32:]))
	return p, nil
}

// DataKey seals and opens the payloads of one Subject, retention class and
// month. From its 32 secret bytes come the AES-256-GCM key and each entry's
// salt, so both die with it. Safe for concurrent use.
type DataKey struct {
	aead cipher.AEAD
	salt []byte // HMAC key the salts are derived with
}

// NewDataKey derives the working keys from the 32 secret bytes.
func NewDataKey(secret []byte) (*DataKey, error) {
	if len(secret) != 32 {
		return nil, errors.New("a data key has 32 bytes")
	}
	block, err := aes.NewCipher(derive(secret, sealDomain))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &DataKey{aead: aead, salt: derive(secret, saltDomain)}, nil
}

func derive(secret []byte, domain string) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(domain))
	return m.Sum(nil)
}

// Salt derives an entry's salt: HMAC-SHA256 of the entry id. Two blocks by
// hand, since this is on the path of every append.
func (k *DataKey) Salt(id ostiary.EntryID) (salt [32]byte) {
	var in [64 + 16]byte
	var out [64 + 32]byte
	copy(in[:], k.salt)
	copy(out[:], k.salt)
	for i := range 64 {
		in[i] ^= 0x36
		out[i] ^= 0x5c
	}
	copy(in[64:], id[:])
	h := sha256.Sum256(in[:])
	copy(out[64:], h[:])
	return sha256.Sum256(out[:])
}

// Commit computes the commitment to a plain payload: SHA-256 over domain,
// salt and payload.
func Commit(salt [32]byte, plain []byte) (d ostiary.Digest) {
	h := sha256.New()
	h.Write([]byte(commitDomain))
	h.Write(salt[:])
	h.Write(plain)
	h.Sum(d[:0])
	return d
}

// AssociatedData is what a sealed payload is bound to: the deployment, the
// log, the entry and the layout's version, each length-prefixed.
func AssociatedData(dst []byte, deployment, origin string, id ostiary.EntryID) []byte {
	for _, s := range [...]string{adDomain, deployment, origin} {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
		dst = append(dst, s...)
	}
	dst = append(dst, id[:]...)
	return append(dst, PayloadVersion)
}

// Seal appends the sealed payload to dst: nonce, ciphertext, tag.
func (k *DataKey) Seal(dst, plain, ad []byte) []byte { return k.aead.Seal(dst, nil, plain, ad) }

// SealPayload seals p for e: it fills in e's payload fields except the key id
// and appends the sealed payload to dst. scratch is working room that is
// returned for use again. An empty payload seals to nothing.
func (k *DataKey) SealPayload(dst, scratch []byte, deployment string, e *Entry, p *ostiary.Payload) (sealed, used []byte, err error) {
	salt := k.Salt(e.ID)
	scratch = append(append(scratch[:0], commitDomain...), salt[:]...)
	head := len(scratch)
	if scratch, err = AppendPayload(scratch, p); err != nil {
		return dst, scratch, err
	}
	plain := scratch[head:]
	e.PayloadLen = uint32(len(plain))
	e.Commitment = sha256.Sum256(scratch)
	start := len(dst)
	end := len(scratch)
	scratch = AssociatedData(scratch, deployment, e.Log, e.ID)
	dst = k.Seal(dst, scratch[head:end], scratch[end:])
	e.Sealed = sha256.Sum256(dst[start:])
	return dst, scratch, nil
}

// HasPayload reports whether there is anything to seal.
func HasPayload(p *ostiary.Payload) bool {
	return len(p.Arguments)+len(p.Inputs)+len(p.Detail) > 0 || !p.Result.IsZero() || p.ResultLen != 0
}

// OpenPayload opens the sealed payload of e and checks it against the
// commitment: GCM alone does not bind a ciphertext to one key.
func (k *DataKey) OpenPayload(deployment string, e *Entry, sealed []byte) (ostiary.Payload, error) {
	fail := func(why string) (ostiary.Payload, error) {
		return ostiary.Payload{}, ostiary.Errorf(ostiary.Corrupt, "payload", "%s", why)
	}
	if ostiary.DigestOf(sealed) != e.Sealed {
		return fail("the sealed payload is not the one that was logged")
	}
	plain, err := k.aead.Open(nil, nil, sealed, AssociatedData(nil, deployment, e.Log, e.ID))
	if err != nil {
		return fail("the sealed payload does not open")
	}
	if uint32(len(plain)) != e.PayloadLen || Commit(k.Salt(e.ID), plain) != e.Commitment {
		return fail("the payload is not the one that was committed to")
	}
	return ParsePayload(plain)
}
