package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/durable"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 365 * 24 * time.Hour

	// MaxCSR bounds a signing request: one with a 4096-bit RSA key and a
	// few extensions is below 2 KiB.
	MaxCSR = 8 << 10

	maxRSA = 4096 // bits; a larger modulus only costs us time to verify
	minRSA = 2048

	maxPEM = 64 << 10 // bytes of our own certificate files
)

// FirstKeys returns the keys of the authority before any rotation: root,
// intermediate and token. It makes what is missing; of several processes that
// start at once only one may. The root's private key is asked for only when an
// intermediate must be signed, so it can be kept elsewhere meanwhile.
func FirstKeys(domain, dir string, keys Keys, now time.Time) ([]rotation.Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := loadOrMakeRoot(domain, filepath.Join(dir, "root.pem"), keys, now)
	if err != nil {
		return nil, err
	}
	signer, err := keys.ECDSA(intermediateKey)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", intermediateKey, err)
	}
	intermediate, err := loadOrMakeIntermediate(root, signer, filepath.Join(dir, "intermediate.pem"), keys, now)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := intermediate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("intermediate.pem does not lead to root.pem: %w", err)
	}
	token, err := MakeToken(keys, tokenKey)
	if err != nil {
		return nil, err
	}
	token.Purpose, token.Created = rotation.Token, intermediate.NotBefore
	first := []rotation.Key{
		{Purpose: rotation.Root, Name: rootKey, Certificates: [][]byte{root.Raw}, Created: root.NotBefore},
		{Purpose: rotation.Intermediate, Name: intermediateKey, Certificates: [][]byte{intermediate.Raw}, Created: intermediate.NotBefore},
		token,
	}
	for i, c := range []*x509.Certificate{root, intermediate} {
		if err := describe(&first[i], c.PublicKey); err != nil {
			return nil, err
		}
	}
	for i := range first {
		first[i].Generation, first[i].Signs = 1, first[i].Created
	}
	return first, nil
}

// The names of the first keys, and what all of the authority's keys are.
const (
	rootKey         = "ca-root"
	intermediateKey = "ca-intermediate"
	tokenKey        = "token"
	algorithm       = "ECDSA P-256"
)

// MakeToken makes a key for tokens, or finds it.
func MakeToken(keys Keys, name string) (rotation.Key, error) {
	key, err := keys.ECDSA(name)
	if err != nil {
		return rotation.Key{}, fmt.Errorf("key %s: %w", name, err)
	}
	k := rotation.Key{Name: name}
	err = describe(&k, key.Public())
	return k, err
}

// describe fills in what follows from the public key.
func describe(k *rotation.Key, pub crypto.PublicKey) (err error) {
	k.Algorithm = algorithm
	if k.Public, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return err
	}
	k.ID, err = jwt.KID(pub)
	return err
}

// MakeRoot makes a new root, and certifies by it every intermediate that is
// believed, so that whoever knows only the new root accepts them too.
func MakeRoot(domain string, keys Keys, name string, draft *rotation.Schedule, at time.Time) (rotation.Key, error) {
	none := rotation.Key{}
	key, err := keys.ECDSA(name)
	if err != nil {
		return none, fmt.Errorf("key %s: %w", name, err)
	}
	t := authorityTemplate(domain, "root", at, rootLife)
	t.MaxPathLen = 1
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return none, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return none, err
	}
	k := rotation.Key{Name: name, Certificates: [][]byte{der}}
	for _, i := range draft.Believed(rotation.Intermediate, at) {
		own, err := x509.ParseCertificate(i.Certificates[0])
		if err != nil {
			return none, err
		}
		der, err := certify(domain, root, key, own.PublicKey, at)
		if err != nil {
			return none, err
		}
		k.Certificates = append(k.Certificates, der)
	}
	err = describe(&k, key.Public())
	return k, err
}

// MakeIntermediate makes a new intermediate, certified by every root that is
// believed: the one that everybody knows comes first.
func MakeIntermediate(domain string, keys Keys, name string, draft *rotation.Schedule, at time.Time) (rotation.Key, error) {
	none := rotation.Key{}
	key, err := keys.ECDSA(name)
	if err != nil {
		return none, fmt.Errorf("key %s: %w", name, err)
	}
	k := rotation.Key{Name: name}
	for _, r := range draft.Believed(rotation.Root, at) {
		root, err := x509.ParseCertificate(r.Certificates[0])
		if err != nil {
			return none, err
		}
		signer, err := existing(keys, r.Name)
		if err != nil {
			return none, fmt.Errorf("key %s, needed to sign a new intermediate: %w", r.Name, err)
		}
		if !signer.PublicKey.Equal(root.PublicKey) {
			return none, ostiary.Errorf(ostiary.Conflict, "root_key", "the key %s is not the one of the root: bring the root's key back", r.Name)
		}
		der, err := certify(domain, root, signer, key.Public(), at)
		if err != nil {
			return none, err
		}
		k.Certificates = append(k.Certificates, der)
	}
	err = describe(&k, key.Public())
	return k, err
}

// certify makes an intermediate's certificate under a root. It does not
// outlive the root.
func certify(domain string, root *x509.Certificate, by *ecdsa.PrivateKey, pub crypto.PublicKey, at time.Time) ([]byte, error) {
	t := authorityTemplate(domain, "intermediate", at, intermediateLife)
	t.MaxPathLenZero = true
	if t.NotAfter.After(root.NotAfter) {
		t.NotAfter = root.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, t, root, pub, by)
}

// existing returns a key that was made before. One that is missing is not
// made anew: it would be another key under the same name.
func existing(keys Keys, name string) (*ecdsa.PrivateKey, error) {
	if k, ok := keys.(interface{ Has(name string) bool }); ok && !k.Has(name) {
		return nil, ostiary.Errorf(ostiary.NotFound, "key_missing", "the key %s is not in this process's folder of keys: gateways that share a store share their keys", name)
	}
	return keys.ECDSA(name)
}

func loadOrMakeRoot(domain, path string, keys Keys, now time.Time) (*x509.Certificate, error) {
	cert, err := readCertificate(path)
	if err == nil {
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://"+domain {
			return nil, fmt.Errorf("%s is not the root of trust domain %s", path, domain)
		}
		return cert, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := keys.ECDSA(rootKey)
	if err != nil {
		return nil, fmt.Errorf("key ca-root: %w", err)
	}
	t := authorityTemplate(domain, "root", now, rootLife)
	t.MaxPathLen = 1
	return makeCertificate(path, t, t, key.Public(), key)
}

func loadOrMakeIntermediate(root *x509.Certificate, key *ecdsa.PrivateKey, path string, keys Keys, now time.Time) (*x509.Certificate, error) {
	cert, err := readCertificate(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fresh := err == nil && now.Before(cert.NotAfter.Add(-intermediateLife/3)) && key.PublicKey.Equal(cert.PublicKey)
	if fresh {
		return cert, nil
	}
	rootKey, err := keys.ECDSA(rootKey)
	if err != nil {
		return nil, fmt.Errorf("key ca-root, needed to sign a new intermediate: %w", err)
	}
	if !rootKey.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("a new intermediate is due, and the key ca-root is not the one of root.pem: bring the root's key back for this start")
	}
	t := authorityTemplate(root.URIs[0].Host, "intermediate", now, intermediateLife)
	t.MaxPathLenZero = true
	return makeCertificate(path, t, root, key.Public(), rootKey)
}

// authorityTemplate is a signing certificate: its SPIFFE ID has no path, so it
// can never authenticate as a workload. See X509-SVID, section 4.
func authorityTemplate(domain, name string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          newSerial(now, 0).big(),
		Subject:               pkix.Name{Organization: []string{"Ostiary"}, CommonName: domain + " " + name},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func makeCertificate(path string, t, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	if err := durable.Replace(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if len(b) > maxPEM || block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: want exactly one PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// grant is everything a certificate says beside its key. It comes from the
// registry and the configuration, never from a signing request.
type grant struct {
	id     ostiary.AgentID
	names  []string // DNS names, of the gateway only
	ips    []net.IP // of the gateway only
	serial serial
	now    time.Time
	life   time.Duration
}

// sign makes an X.509-SVID for the key. See X509-SVID, sections 2 to 4. It
// returns the leaf and the intermediate, DER.
func (s *stage) sign(domain string, g grant, pub crypto.PublicKey) ([][]byte, error) {
	if err := acceptableKey(pub); err != nil {
		return nil, err
	}
	uri, err := url.Parse(string(g.id))
	if err != nil || g.id.TrustDomain() != domain || uri.Path == "" {
		return nil, fmt.Errorf("%q is no workload of trust domain %s", g.id, domain)
	}
	end := g.now.Add(g.life)
	if end.After(s.issuer.NotAfter) {
		end = s.issuer.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber:          g.serial.big(),
		URIs:                  []*url.URL{uri},
		DNSNames:              g.names,
		IPAddresses:           g.ips,
		NotBefore:             g.now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // cA false, said aloud
	}
	der, err := x509.CreateCertificate(rand.Reader, t, s.issuer, pub, s.signer)
	if err != nil {
		return nil, err
	}
	return [][]byte{der, s.issuer.Raw}, nil
}

// readCSR returns the one thing taken from a signing request: its key, proven
// to be held by whoever made the request. Everything else in it is ignored.
func readCSR(der []byte) (crypto.PublicKey, error) {
	refuse := func(code, why string, err error) error {
		return ostiary.Errorf(ostiary.Malformed, code, "%s", why).At("csr").Because(err)
	}
	if len(der) == 0 || len(der) > MaxCSR {
		return nil, refuse("csr_size", fmt.Sprintf("a signing request has at most %d bytes", MaxCSR), nil)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, refuse("csr", "not a PKCS #10 signing request in DER", err)
	}
	if err := acceptableKey(csr.PublicKey); err != nil {
		return nil, refuse("csr_key", err.Error(), nil)
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default:
		return nil, refuse("csr_signature", "the signing request is not signed with SHA-2", nil)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, refuse("csr_signature", "the signing request is not signed by the key in it", err)
	}
	return csr.PublicKey, nil
}

// acceptableKey is the list of keys we certify.
func acceptableKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= minRSA && n <= maxRSA && k.E >= 65537 && k.E&1 == 1 {
			return nil
		}
	}
	return fmt.Errorf("the key must be ECDSA on P-256 or P-384, Ed25519, or RSA of %d to %d bits", minRSA, maxRSA)
}
