package bridge

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/durable"
	"github.com/ostiary/ostiary/internal/identity"
)

// One file holds everything that must change together: the private key, the
// chain it belongs to, and the trust bundle, in PEM, after a line that names
// the gateway. It is replaced whole, so a crash leaves the old or the new.
const svidFile = "svid.pem"

const (
	gatewayLine = "# ostiary gateway "
	bundleLine  = "# trust bundle\n"
	maxFile     = 128 << 10 // bytes: a key, a chain and a bundle are below 16 KiB
)

var errNoSVID = errors.New("no SVID is kept here yet")

// svid is a key with its chain, and what it trusts. Immutable.
type svid struct {
	gateway string
	agent   ostiary.AgentID
	key     *ecdsa.PrivateKey
	chain   []*x509.Certificate
	bundle  []*x509.Certificate
}

func (s *svid) leaf() *x509.Certificate { return s.chain[0] }

// ended reports whether the SVID is of no more use at t, a little early, so
// that it does not end under way.
func (s *svid) ended(t time.Time) bool { return !t.Before(s.leaf().NotAfter.Add(-5 * time.Second)) }

// due reports whether half its life is over.
func (s *svid) due(t time.Time) bool { return !t.Before(s.renewAt(0)) }

// renewAt is half-way through the SVID's life, and a share of a tenth of it
// later, so that many bridges do not renew at one moment.
func (s *svid) renewAt(share float64) time.Time {
	life := s.leaf().NotAfter.Sub(s.leaf().NotBefore)
	return s.leaf().NotBefore.Add(life / 2).Add(time.Duration(share * float64(life/10)))
}

// newSVID checks that key, chain and bundle belong together. It does not
// judge time: an SVID that has ended can still be exchanged.
func newSVID(gateway string, key *ecdsa.PrivateKey, chain, bundle []*x509.Certificate) (*svid, error) {
	if err := checkGateway(gateway); err != nil {
		return nil, err
	}
	if len(chain) == 0 || len(bundle) == 0 {
		return nil, errors.New("an SVID needs a chain and a trust bundle")
	}
	leaf := chain[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is not for our key")
	}
	if len(leaf.URIs) != 1 {
		return nil, errors.New("the certificate does not have one URI name")
	}
	id, err := ostiary.ParseAgentID(leaf.URIs[0].String())
	if err != nil {
		return nil, err
	}
	between := roots(chain[1:])
	// At a moment within everybody's validity: only the chain matters here.
	at := leaf.NotAfter.Add(-time.Second)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots(bundle), Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("the certificate does not lead to the trust bundle: %w", err)
	}
	return &svid{gateway, id, key, chain, bundle}, nil
}

// tls returns a configuration that shows this SVID and accepts the gateway of
// its trust domain, under whatever host name it was reached.
func (s *svid) tls(clock func() time.Time) *tls.Config {
	c := gatewayTLS(s.bundle, "spiffe://"+s.agent.TrustDomain()+"/ostiary/gateway", clock)
	cert := tls.Certificate{PrivateKey: s.key, Leaf: s.leaf()}
	for _, x := range s.chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	c.Certificates = []tls.Certificate{cert}
	return c
}

// bare returns the same without showing anything.
func (s *svid) bare(clock func() time.Time) *tls.Config {
	c := s.tls(clock)
	c.Certificates = nil
	return c
}

// gatewayTLS accepts the one workload id whose chain leads to the bundle. The
// host name is not what identifies it, so the library's own check is replaced
// by ours, on every handshake. See X509-SVID, section 5.
func gatewayTLS(bundle []*x509.Certificate, id string, clock func() time.Time) *tls.Config {
	pool := roots(bundle)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		Time:                   clock,
		InsecureSkipVerify:     true, // VerifyConnection below is the verification
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the gateway showed no certificate")
			}
			leaf := s.PeerCertificates[0]
			_, err := leaf.Verify(x509.VerifyOptions{
				Roots: pool, Intermediates: roots(s.PeerCertificates[1:]), CurrentTime: clock(),
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return fmt.Errorf("this is not our gateway: %w", err)
			}
			if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
				return errors.New("this is not our gateway: it is somebody else in the trust domain")
			}
			return nil
		},
	}
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func signingRequest(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// load reads the SVID in dir, errNoSVID if there is none. A file that others
// can read is refused: its key may be known already.
func load(dir string) (*svid, error) {
	path := filepath.Join(dir, svidFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoSVID
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, ostiary.Errorf(ostiary.Corrupt, "svid_file", "%s must be a file that only its owner can read (mode 0600)", path)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	s, err := parseFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parseFile(b []byte) (*svid, error) {
	first, rest, ok := bytes.Cut(b, []byte("\n"))
	gateway, named := strings.CutPrefix(string(first), gatewayLine)
	own, bundle, split := bytes.Cut(rest, []byte(bundleLine))
	block, chain := pem.Decode(own)
	if !ok || !named || !split || block == nil || block.Type != "PRIVATE KEY" || !bytes.HasPrefix(own, []byte("-----BEGIN")) {
		return nil, errors.New("not a file that a bridge wrote")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its key cannot be read")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("its key is of another kind")
	}
	chainCerts, err := identity.ReadBundle(chain)
	if err != nil {
		return nil, err
	}
	bundleCerts, err := identity.ReadBundle(bundle)
	if err != nil {
		return nil, err
	}
	return newSVID(gateway, key, chainCerts, bundleCerts)
}

// save replaces the file in dir: on disk when it returns.
func (s *svid) save(dir string) error {
	key, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString(gatewayLine + s.gateway + "\n")
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, c := range s.chain {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	b.WriteString(bundleLine)
	for _, c := range s.bundle {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return durable.Replace(filepath.Join(dir, svidFile), b.Bytes(), 0o600)
}
