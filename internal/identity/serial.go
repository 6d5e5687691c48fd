package identity

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"time"
)

// A serial number is the name of one credential, certificate or token: 20
// bytes (the most RFC 5280, section 4.1.2.2, allows), of which
//
//	0..7   the moment of issue, microseconds since 1970
//	7..12  the revocation epoch the issuer knew at that moment
//	12..20 random
//
// The moment and the epoch are there because a certificate's own times have
// whole seconds and are backdated, while a revocation ends exactly what was
// issued before it. A serial number is believed only in a signed credential.
type serial [20]byte

func newSerial(now time.Time, epoch uint64) serial {
	var s serial
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(now.UnixMicro()))
	copy(s[:7], n[1:])
	binary.BigEndian.PutUint64(n[:], epoch)
	copy(s[7:12], n[3:])
	rand.Read(s[12:]) // never fails: crypto/rand stops the program instead
	return s
}

// parseSerial reads what String wrote.
func parseSerial(text string) (serial, bool) {
	var s serial
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(s) {
		return s, false
	}
	copy(s[:], b)
	return s, s.String() == text
}

func serialOf(n *big.Int) (serial, bool) {
	var s serial
	if n == nil || n.Sign() <= 0 || n.BitLen() > len(s)*8 {
		return s, false
	}
	n.FillBytes(s[:])
	return s, true
}

func (s serial) big() *big.Int  { return new(big.Int).SetBytes(s[:]) }
func (s serial) String() string { return hex.EncodeToString(s[:]) }

func (s serial) issued() time.Time {
	var n [8]byte
	copy(n[1:], s[:7])
	return time.UnixMicro(int64(binary.BigEndian.Uint64(n[:]))).UTC()
}

func (s serial) epoch() uint64 {
	var n [8]byte
	copy(n[3:], s[7:12])
	return binary.BigEndian.Uint64(n[:])
}
