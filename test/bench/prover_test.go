package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// prover shows a token that is bound to its key, with a proof made for each
// request, as RFC 9449 has it.
type prover struct {
	key    *ecdsa.PrivateKey
	token  string
	ath    string
	url    string
	header string
	nonce  atomic.Pointer[string]
	n      atomic.Int64
}

func newProver(key *ecdsa.PrivateKey, token, url string) *prover {
	point, _ := key.PublicKey.Bytes() // of P-256, whose points can be written
	sum := sha256.Sum256([]byte(token))
	p := &prover{key: key, token: token, ath: text64(sum[:]), url: url,
		header: text64(fmt.Appendf(nil, `{"typ":"dpop+jwt","alg":"ES256","jwk":%s}`, jwk(point)))}
	p.nonce.Store(new(string))
	return p
}

func text64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk writes a point of P-256 as RFC 7638 has it hashed.
func jwk(point []byte) string {
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, text64(point[1:33]), text64(point[33:]))
}

func thumbprint(key *ecdsa.PublicKey) (string, error) {
	point, err := key.Bytes()
	if err != nil || key.Curve != elliptic.P256() {
		return "", fmt.Errorf("no key of P-256: %v", err)
	}
	sum := sha256.Sum256([]byte(jwk(point)))
	return text64(sum[:]), nil
}

func (p *prover) prove(r *http.Request) error {
	claims := fmt.Appendf(nil, `{"jti":"%x-%d","htm":"POST","htu":%q,"iat":%d,"ath":%q,"nonce":%q}`, p.ath[:8], p.n.Add(1), p.url, time.Now().Unix(), p.ath, *p.nonce.Load())
	text := p.header + "." + text64(claims)
	sum := sha256.Sum256([]byte(text))
	x, y, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		return err
	}
	sig := make([]byte, 64)
	x.FillBytes(sig[:32])
	y.FillBytes(sig[32:])
	r.Header["Authorization"], r.Header["Dpop"] = []string{"DPoP " + p.token}, []string{text + "." + text64(sig)}
	return nil
}

// learn keeps the nonce that an answer brings, and reports whether there was one.
func (p *prover) learn(r *http.Response) bool {
	n := r.Header.Get("DPoP-Nonce")
	if n != "" && n != *p.nonce.Load() {
		p.nonce.Store(&n)
	}
	return n != ""
}

// possesses makes the client of a side show its token instead of its certificate.
func (s *side) possesses(b *testing.B) {
	block, _ := pem.Decode([]byte(s.Key))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(b, err)
	s.prover = newProver(key.(*ecdsa.PrivateKey), s.Token, s.URL)
	t := s.client.Transport.(*http.Transport)
	t.TLSClientConfig = &tls.Config{RootCAs: t.TLSClientConfig.RootCAs, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}
