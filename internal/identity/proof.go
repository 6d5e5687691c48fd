package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"time"
	"weak"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
)

const (
	// nonceSlot is the unit in which a proof is fresh: a nonce is good in the
	// slot it was made in and the next, so for half a minute to a minute.
	nonceSlot = 30 * time.Second

	// proofPast and proofFuture bound how far a client's clock may be off.
	// The nonce says how fresh a proof is; this only refuses what no honest
	// clock says.
	proofPast   = 5 * time.Minute
	proofFuture = time.Minute

	// maxProofs bounds the proofs remembered in one slot, about 150 bytes
	// each, twice: 8,700 in a second. maxOfOne is what one key may use of it.
	maxProofs = 256 << 10
	maxOfOne  = 128 << 10

	// maxProofID bounds a proof's own id: a UUID or a hash.
	maxProofID = 256
)

// proofs makes nonces and remembers which proofs were used. Both die with the
// process: its key is random, so a nonce of another process, or of this one
// before it was started again, is none, and no proof can be shown twice
// anywhere without any two processes talking to each other.
type proofs struct {
	key [32]byte

	mu         sync.Mutex // guards what follows
	slots      [2]usedProofs
	young, old map[weak.Pointer[ostiary.Possession]]proven // of requests under way
}

// usedProofs are the proofs with a nonce of one slot, and the request each
// came with. The pointer is weak: what is remembered of a request is no more
// than that there was one.
type usedProofs struct {
	slot int64
	used map[[16]byte]weak.Pointer[ostiary.Possession]
	of   map[ostiary.Digest]int // how many, by key
}

// proven is what a request proved already: one request is looked at several
// times on its way, and its signature once.
type proven struct {
	token ostiary.Digest
	key   jwt.JWK
}

func newProofs() *proofs {
	p := &proofs{}
	rand.Read(p.key[:])
	return p
}

func slotAt(now time.Time) int64 { return now.Unix() / int64(nonceSlot/time.Second) }

// nonce returns the nonce of a slot: the slot, and a MAC over it.
func (p *proofs) nonce(slot int64) string {
	var b [8 + 16]byte
	binary.BigEndian.PutUint64(b[:], uint64(slot))
	m := hmac.New(sha256.New, p.key[:])
	m.Write([]byte("ostiary DPoP nonce"))
	m.Write(b[:8])
	copy(b[8:], m.Sum(nil))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// slotOf returns the slot of a nonce that is still good.
func (p *proofs) slotOf(nonce string, now time.Time) (int64, bool) {
	for at := slotAt(now); at >= slotAt(now)-1; at-- {
		if subtle.ConstantTimeCompare([]byte(nonce), []byte(p.nonce(at))) == 1 {
			return at, true
		}
	}
	return 0, false
}

// proven returns what this very request proved before, for this token.
func (p *proofs) proven(by weak.Pointer[ostiary.Possession], token ostiary.Digest) (jwt.JWK, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, ok := p.young[by]
	if !ok {
		was, ok = p.old[by]
	}
	return was.key, ok && was.token == token
}

// use spends a proof; only one request can.
func (p *proofs) use(by weak.Pointer[ostiary.Possession], id [16]byte, slot int64, what proven) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[slot&1]
	if s.slot != slot {
		// What was here is two slots old: no nonce of it is good any more.
		*s = usedProofs{slot: slot, used: map[[16]byte]weak.Pointer[ostiary.Possession]{}, of: map[ostiary.Digest]int{}}
	}
	if was, used := s.used[id]; used && was != by {
		return errors.New("the proof was used before")
	} else if !used && (len(s.used) >= maxProofs || s.of[what.key.Digest] >= maxOfOne) {
		return ostiary.Errorf(ostiary.Exhausted, "proof_rate", "too many proofs at once: try again in a minute")
	}
	s.used[id] = by
	s.of[what.key.Digest]++
	if p.young == nil || len(p.young) >= maxRead {
		p.young, p.old = map[weak.Pointer[ostiary.Possession]]proven{}, p.young
	}
	p.young[by] = what
	return nil
}

// proofID names a proof by what its signer says of it and by its key: not by
// its bytes, since one signature can be written in two ways.
func proofID(key *jwt.JWK, jti string) (id [16]byte) {
	h := sha256.New()
	h.Write(key.Digest[:])
	h.Write([]byte(jti))
	copy(id[:], h.Sum(nil))
	return id
}

// ProofNonce returns the nonce that a client's next DPoP proof must hold. It
// is good at this process only, for half a minute to a minute.
func (a *Authority) ProofNonce() string { return a.proofs.nonce(slotAt(a.clock.Now())) }

// Prove verifies a DPoP proof of a request, for the token it came with, "" if
// there is none yet, and returns the key it proves possession of. Of the
// requests that show one proof, exactly one succeeds: a request is the
// pointer p, which is never changed. Unauthenticated use_dpop_nonce asks for a
// proof with [Authority.ProofNonce]. See RFC 9449, section 4.3.
func (a *Authority) Prove(p *ostiary.Possession, token string) (jwt.JWK, error) {
	return a.prove(p, token, "")
}

// prove additionally wants the key of that thumbprint, unless it is "". The
// proof of another key is not remembered: its holder is nobody.
func (a *Authority) prove(p *ostiary.Possession, token, thumb string) (jwt.JWK, error) {
	sum := sha256.Sum256([]byte(token))
	by := weak.Make(p)
	if key, ok := a.proofs.proven(by, sum); ok && (thumb == "" || key.Thumbprint() == thumb) {
		return key, nil
	}
	read, err := jwt.Proof.Read(p.Proof, nil)
	if err != nil {
		return jwt.JWK{}, badProof(err)
	}
	now := a.clock.Now()
	slot, fresh := a.proofs.slotOf(read.Text("nonce"), now)
	ath := ""
	if token != "" {
		ath = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	switch err := judgeProof(&read, p, ath, now); {
	case err != nil:
		return jwt.JWK{}, badProof(err)
	case thumb != "" && read.Key.Thumbprint() != thumb:
		return jwt.JWK{}, badProof(errors.New("the proof is by another key than the token's"))
	case !fresh:
		return jwt.JWK{}, ostiary.Errorf(ostiary.Unauthenticated, "use_dpop_nonce", "the proof must hold the nonce that comes with this answer")
	}
	err = a.proofs.use(by, proofID(&read.Key, read.Text("jti")), slot, proven{sum, read.Key})
	if err != nil && ostiary.KindOf(err) != ostiary.Exhausted {
		err = badProof(err)
	}
	return read.Key, err
}

// judgeProof checks that the proof is for this request and this token.
func judgeProof(t *jwt.Token, p *ostiary.Possession, ath string, now time.Time) error {
	iat := t.Time("iat")
	switch {
	case len(t.Text("jti")) > maxProofID:
		return errors.New("the proof's id is too long")
	case t.Text("htm") != p.Method:
		return errors.New("the proof is for another method")
	case p.URL == "" || t.Text("htu") != p.URL:
		return errors.New("the proof is for another address")
	case t.Text("ath") != ath:
		return errors.New("the proof is for another token")
	case iat.Before(now.Add(-proofPast)) || iat.After(now.Add(proofFuture)):
		return errors.New("the proof's clock is not ours")
	}
	return nil
}

// badProof is the one answer to every proof that is none.
func badProof(why error) error {
	return ostiary.Errorf(ostiary.Unauthenticated, "dpop_proof", "the DPoP proof was not accepted").Because(why)
}
