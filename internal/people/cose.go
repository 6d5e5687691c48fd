package people

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"math/big"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"

	"github.com/ostiary/ostiary"
)

// minRSA is the shortest RSA key taken, in bits.
const minRSA = 2048

// toSPKI turns the key of a passkey into the form that is kept: any library
// checks a signature with it. Keys of other kinds are refused.
func toSPKI(cose []byte) ([]byte, error) {
	key, err := webauthncose.ParsePublicKey(cose)
	if err != nil {
		return nil, errKey(err)
	}
	switch k := key.(type) {
	case webauthncose.EC2PublicKeyData:
		if k.Algorithm == int64(webauthncose.AlgES256) {
			if pub, err := k.ToECDSA(); err == nil && pub.Curve == elliptic.P256() {
				return marshal(pub)
			}
		}
	case webauthncose.OKPPublicKeyData:
		if k.Algorithm == int64(webauthncose.AlgEdDSA) && len(k.XCoord) == ed25519.PublicKeySize {
			return marshal(ed25519.PublicKey(k.XCoord))
		}
	case webauthncose.RSAPublicKeyData:
		if e, err := webauthncose.ParseRSAPublicKeyDataExponent(&k); err == nil && k.Algorithm == int64(webauthncose.AlgRS256) {
			pub := &rsa.PublicKey{N: new(big.Int).SetBytes(k.Modulus), E: e}
			if pub.N.BitLen() >= minRSA && pub.N.BitLen() <= 4*minRSA && e >= 65537 {
				return marshal(pub)
			}
		}
	}
	return nil, errKey(nil)
}

func marshal(pub any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, errKey(err)
	}
	return der, nil
}

func errKey(err error) error {
	return ostiary.Errorf(ostiary.Malformed, "passkey_key", "this authenticator's key cannot be used here; it needs ES256, EdDSA or RS256").Because(err)
}

// toCOSE turns a kept key back into the form the library verifies with.
func toCOSE(spki []byte) ([]byte, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, errKey(err)
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil || k.Curve != elliptic.P256() || len(point) != 65 {
			return nil, errKey(err)
		}
		return webauthncbor.Marshal(webauthncose.EC2PublicKeyData{
			PublicKeyData: webauthncose.PublicKeyData{KeyType: int64(webauthncose.EllipticKey), Algorithm: int64(webauthncose.AlgES256)},
			Curve:         int64(webauthncose.P256), XCoord: point[1:33], YCoord: point[33:],
		})
	case ed25519.PublicKey:
		return webauthncbor.Marshal(webauthncose.OKPPublicKeyData{
			PublicKeyData: webauthncose.PublicKeyData{KeyType: int64(webauthncose.OctetKey), Algorithm: int64(webauthncose.AlgEdDSA)},
			Curve:         int64(webauthncose.Ed25519), XCoord: k,
		})
	case *rsa.PublicKey:
		return webauthncbor.Marshal(webauthncose.RSAPublicKeyData{
			PublicKeyData: webauthncose.PublicKeyData{KeyType: int64(webauthncose.RSAKey), Algorithm: int64(webauthncose.AlgRS256)},
			Modulus:       k.N.Bytes(), Exponent: big.NewInt(int64(k.E)).Bytes(),
		})
	}
	return nil, errKey(nil)
}
