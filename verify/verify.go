// Package verify lets a tool server accept only requests that an Ostiary
// gateway cleared.
//
// A gateway signs every HTTP request it forwards, after the intent is in its
// ledger: method, target, digest of the body, content type, the number of the
// ledger entry, and the credential and the session if there are any: all that
// says what is done, and as whom, outside the body. The middleware here
// demands such a signature and refuses everything else, so that calling the
// server directly achieves nothing.
//
// It guarantees of a request it lets through: exactly one signature with our
// tag, by a configured key, covering every component of the profile; the body
// the handler reads is the body that was signed; the signature is inside its
// window, and its nonce was not seen before. It remembers nonces in memory
// only: after a restart it refuses signatures made before it started, so a
// replay across the restart fails too, as far as the two clocks agree.
//
// It trusts the configured keys, the clock, and whoever terminates TLS in
// front of it (see [Options].Origin). It does not judge what the request
// asks for; that was decided before it was signed.
//
// See RFC 9421 (HTTP Message Signatures) and RFC 9530 (Digest Fields).
package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options configures a Verifier.
type Options struct {
	// Keys are the gateways' public keys by key id: *ecdsa.PublicKey on P-256
	// or ed25519.PublicKey. See [ParseKeys]. There must be at least one.
	Keys map[string]crypto.PublicKey

	// Origin is the scheme and host under which the gateway addresses this
	// server, for example "https://tools.example". Set it when something in
	// front ends TLS or changes Host. When empty, both are taken from the
	// connection and the Host header.
	Origin string

	// Clock tells the time; nil is time.Now.
	Clock func() time.Time

	// MaxSkew is by how much the gateway's clock may differ; 0 is 5 seconds.
	MaxSkew time.Duration

	// MaxLife is the longest window a signature may claim; 0 is one minute,
	// which is what gateways ask for.
	MaxLife time.Duration

	// Nonces is how many recent requests are remembered to recognise
	// replays; 0 is 100,000. When that many are inside their window, further
	// requests are refused: forgetting one would let it be replayed.
	Nonces int

	// MaxBody is the largest body in bytes; 0 is 5 MiB, which is more than a
	// gateway forwards.
	MaxBody int64
}

// Cleared is what a signature says about a request.
type Cleared struct {
	Entry   string // the intent in the gateway's ledger, for example "2026-11/1234"
	KeyID   string // which gateway's key signed
	Created time.Time
	Expires time.Time
}

// Error says why a request was refused. Its text holds nothing of the request.
type Error struct {
	Status int    // HTTP status: 401, 413, or 503 when the replay memory is full
	Field  string // the header or parameter it is about
	Reason string // a sentence
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

func refuse(field, format string, args ...any) *Error {
	return &Error{http.StatusUnauthorized, field, fmt.Sprintf(format, args...)}
}

// Verifier checks signatures. It is safe for concurrent use. Keep one for the
// life of the server: a second one would not know the first one's nonces.
type Verifier struct {
	keys    map[string]crypto.PublicKey
	scheme  string
	host    string
	clock   func() time.Time
	skew    time.Duration
	life    time.Duration
	maxBody int64
	started int64 // Unix second
	seen    memory
}

// New returns a Verifier, or an error that names the wrong option.
func New(o Options) (*Verifier, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("verify: Keys is empty, which would refuse everything")
	}
	for id, k := range o.Keys {
		if algorithm(k) == "" {
			return nil, fmt.Errorf("verify: key %q is neither ECDSA P-256 nor Ed25519", id)
		}
	}
	v := &Verifier{keys: maps.Clone(o.Keys), clock: o.Clock, skew: o.MaxSkew, life: o.MaxLife, maxBody: o.MaxBody}
	if o.Origin != "" {
		u, err := url.Parse(o.Origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("verify: Origin %q is not a scheme and host", o.Origin)
		}
		v.scheme, v.host = u.Scheme, u.Host
	}
	if v.clock == nil {
		v.clock = time.Now
	}
	if v.skew == 0 {
		v.skew = 5 * time.Second
	}
	if v.life == 0 {
		v.life = time.Minute
	}
	if v.maxBody == 0 {
		v.maxBody = 5 << 20
	}
	v.seen.limit = o.Nonces
	if v.seen.limit == 0 {
		v.seen.limit = 100_000
	}
	v.started = v.clock().Unix()
	return v, nil
}

// KeyID returns the id under which gateways sign with a key: the base64url
// SHA-256 of its SubjectPublicKeyInfo, "" for a key of another kind.
func KeyID(pub crypto.PublicKey) string {
	if algorithm(pub) == "" {
		return ""
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(spki)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ParseKeys reads "PUBLIC KEY" PEM blocks and names each by [KeyID].
func ParseKeys(text []byte) (map[string]crypto.PublicKey, error) {
	keys := map[string]crypto.PublicKey{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("verify: a PEM block is %q; want PUBLIC KEY", block.Type)
		}
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("verify: a public key cannot be read: %w", err)
		}
		id := KeyID(k)
		if id == "" {
			return nil, errors.New("verify: a public key is neither ECDSA P-256 nor Ed25519")
		}
		keys[id] = k
	}
	if len(keys) == 0 {
		return nil, errors.New("verify: there is no public key in the file")
	}
	return keys, nil
}

// algorithm returns the RFC 9421 name of the only algorithm a key signs with
// here, "" if there is none.
func algorithm(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return "ecdsa-p256-sha256"
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return "ed25519"
		}
	}
	return ""
}

type contextKey struct{}

// From returns what the middleware verified about the request whose context
// this is.
func From(ctx context.Context) (Cleared, bool) {
	c, ok := ctx.Value(contextKey{}).(Cleared)
	return c, ok
}

// Entry returns the ledger entry under which the request was cleared, "" if
// it did not pass the middleware.
func Entry(ctx context.Context) string {
	c, _ := From(ctx)
	return c.Entry
}

// Middleware returns a handler that passes cleared requests to next and
// refuses all others with a JSON object: {"error": reason, "field": name}.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, body, err := v.admit(w, r)
		if err != nil {
			answer(w, err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), contextKey{}, c))
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		next.ServeHTTP(w, r)
	})
}

func (v *Verifier) admit(w http.ResponseWriter, r *http.Request) (Cleared, []byte, *Error) {
	// What can be refused by its headers is not read.
	s, err := v.parse(r)
	if err != nil {
		return Cleared{}, nil, err
	}
	body, readErr := io.ReadAll(http.MaxBytesReader(w, r.Body, v.maxBody))
	if readErr != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(readErr, &tooLarge) {
			return Cleared{}, nil, &Error{http.StatusRequestEntityTooLarge, "", fmt.Sprintf("the body is larger than %d bytes", v.maxBody)}
		}
		return Cleared{}, nil, refuse("", "the body could not be read to its end")
	}
	c, err := v.check(r, s, body)
	return c, body, err
}

// Verify checks a request whose body was read already, and uses up its nonce.
// The error is an [*Error].
func (v *Verifier) Verify(r *http.Request, body []byte) (Cleared, error) {
	s, err := v.parse(r)
	if err != nil {
		return Cleared{}, err
	}
	c, err := v.check(r, s, body)
	if err != nil {
		return Cleared{}, err
	}
	return c, nil
}

func answer(w http.ResponseWriter, e *Error) {
	b, _ := json.Marshal(map[string]string{"error": e.Reason, "field": e.Field})
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if e.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "60")
	}
	w.WriteHeader(e.Status)
	w.Write(append(b, '\n'))
}

// targetURI is the address the gateway signed, as this side sees it.
func (v *Verifier) targetURI(r *http.Request) string {
	scheme, host := v.scheme, v.host
	if host == "" {
		host = r.Host
		if scheme = "http"; r.TLS != nil {
			scheme = "https"
		}
	}
	host = strings.ToLower(host)
	if scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else {
		host = strings.TrimSuffix(host, ":80")
	}
	path := r.RequestURI // as it was received, whatever handlers in between made of r.URL
	if !strings.HasPrefix(path, "/") {
		path = r.URL.RequestURI()
	}
	return scheme + "://" + host + path
}
