package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity/jwt"
	"github.com/ostiary/ostiary/internal/rotation"
)

// maxPeerChain bounds what a client may send: its SVID, our intermediate, and
// a root nobody needs.
const maxPeerChain = 4

// peer is what a verified SVID says. Immutable.
type peer struct {
	agent  ostiary.AgentID
	key    ostiary.Digest
	issuer string   // the id of the intermediate that signed it
	by     []string // the same, as a Subject has it
	serial string
	issued time.Time
	epoch  uint64 // the issuer's, at that moment
	begins time.Time
	ends   time.Time
}

// peers remembers the certificates this process has verified, for as long as
// somebody holds them, so that a request on an open connection costs no
// parsing and no signature check. Only remembered: when a credential ends or
// is revoked is looked at on each request.
type peers struct {
	known sync.Map // weak.Pointer[x509.Certificate] to *peer
}

func (p *peers) find(cert *x509.Certificate) *peer {
	if v, ok := p.known.Load(weak.Make(cert)); ok {
		return v.(*peer)
	}
	return nil
}

func (p *peers) add(cert *x509.Certificate, v *peer) {
	at := weak.Make(cert)
	if _, had := p.known.LoadOrStore(at, v); !had {
		runtime.AddCleanup(cert, func(at weak.Pointer[x509.Certificate]) { p.known.Delete(at) }, at)
	}
}

// verifyPeer accepts an X.509-SVID of a workload of this trust domain, issued
// by this authority and in force now. See X509-SVID, section 5.
func (a *Authority) verifyPeer(cert *x509.Certificate, now time.Time) (*peer, error) {
	st := a.stage(now)
	if p := a.peers.find(cert); p != nil {
		if !st.believes(p.issuer) {
			return nil, errors.New("the certificate's issuer is refused by now")
		}
		if err := a.believed(rotation.Intermediate, p.issuer, now); err != nil {
			return nil, err
		}
		return p, p.inForce(now)
	}
	p, err := readSVID(cert, a.domain)
	if err != nil {
		return nil, err
	}
	if err := p.inForce(now); err != nil {
		return nil, err
	}
	// Our intermediates are the only way from a leaf to a root: what the
	// client sent along is not looked at.
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: st.trusted, Intermediates: st.between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	if p.issuer, err = jwt.KID(chains[0][1].PublicKey); err != nil { // a leaf is never an anchor
		return nil, err
	}
	if err := a.believed(rotation.Intermediate, p.issuer, now); err != nil {
		return nil, err
	}
	p.by = []string{p.issuer}
	a.peers.add(cert, p)
	return p, nil
}

// believed asks the schedule itself, whatever the stage says: a stage of a
// newer schedule may not have been made yet, or could not be.
func (a *Authority) believed(p rotation.Purpose, id string, now time.Time) error {
	if a.schedules.Schedule().Refuses(p, id, now) {
		return fmt.Errorf("the %s key %s is refused by now", p, id)
	}
	return nil
}

func (p *peer) inForce(now time.Time) error {
	if now.Before(p.begins) || !now.Before(p.ends) {
		return errors.New("the certificate is not in force now")
	}
	return nil
}

var keyUsageOID = asn1.ObjectIdentifier{2, 5, 29, 15}

// readSVID checks the form of a leaf. It does not verify it.
func readSVID(cert *x509.Certificate, domain string) (*peer, error) {
	switch {
	case cert.IsCA || !cert.BasicConstraintsValid:
		return nil, errors.New("the certificate is not marked as a leaf")
	case cert.KeyUsage != x509.KeyUsageDigitalSignature || !criticalKeyUsage(cert):
		return nil, errors.New("the key usage is not a critical digitalSignature alone")
	case !bothUsages(cert):
		return nil, errors.New("the extended key usage is not client and server")
	case len(cert.URIs) != 1:
		return nil, fmt.Errorf("the certificate has %d URI names, not one", len(cert.URIs))
	}
	id, err := ostiary.ParseAgentID(cert.URIs[0].String())
	if err != nil {
		return nil, err
	}
	if id.TrustDomain() != domain {
		return nil, fmt.Errorf("%s is of another trust domain", id)
	}
	if err := acceptableKey(cert.PublicKey); err != nil {
		return nil, err
	}
	s, ok := serialOf(cert.SerialNumber)
	if !ok {
		return nil, errors.New("the serial number is not one of ours")
	}
	return &peer{
		agent: id, key: ostiary.DigestOf(cert.RawSubjectPublicKeyInfo), serial: s.String(),
		issued: s.issued(), epoch: s.epoch(), begins: cert.NotBefore, ends: cert.NotAfter,
	}, nil
}

func criticalKeyUsage(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(keyUsageOID) {
			return e.Critical
		}
	}
	return false
}

func bothUsages(cert *x509.Certificate) bool {
	var client, server bool
	for _, u := range cert.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageClientAuth:
			client = true
		case x509.ExtKeyUsageServerAuth:
			server = true
		default:
			return false
		}
	}
	return client && server && len(cert.UnknownExtKeyUsage) == 0
}

// verifyConnection is the handshake's check. A client without a certificate
// passes, and proves nothing by it; one with a certificate that is not a good
// SVID does not get a connection. It runs on resumption too, which is why it
// is not VerifyPeerCertificate.
func (a *Authority) verifyConnection(s tls.ConnectionState, from net.Addr) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	why := a.notAdmitted(s.PeerCertificates)
	if why == nil {
		return nil
	}
	source := ""
	if from != nil {
		source = host(from.String())
	}
	a.refused(source, "tls:certificate")
	if a.noted.Allow() {
		a.log.Info("a client certificate was refused", "from", source, "error", why)
	}
	return fmt.Errorf("client certificate: %w", why)
}

func (a *Authority) notAdmitted(chain []*x509.Certificate) error {
	if len(chain) > maxPeerChain {
		return errors.New("the chain is too long")
	}
	p, err := a.verifyPeer(chain[0], a.clock.Now())
	if err != nil {
		return err
	}
	if why := a.dir.Load().revoked(p.agent, p.key, p.serial, p.issued, p.epoch); why != "" {
		return errors.New(why)
	}
	return nil
}
