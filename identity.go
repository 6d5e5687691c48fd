package ostiary

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Digest is a SHA-256 hash. The zero Digest means "none" and equals nothing
// that was hashed.
type Digest [32]byte

// DigestOf hashes b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns 64 lower-case hex digits, "" for the zero Digest.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// Short returns the first twelve hex digits, for people.
func (d Digest) Short() string {
	if d.IsZero() {
		return "-"
	}
	return hex.EncodeToString(d[:6])
}

// ParseDigest reads what String wrote.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if s == "" {
		return d, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) || s != strings.ToLower(s) {
		return d, fmt.Errorf("digest %q: want 64 lower-case hex digits", s)
	}
	copy(d[:], b)
	return d, nil
}

// AgentID names an autonomous workload: a SPIFFE ID with a path. Compare it
// byte for byte; it is never normalised.
type AgentID string

// Name returns the last path segment, for people.
func (a AgentID) Name() string {
	return string(a[strings.LastIndexByte(string(a), '/')+1:])
}

// TrustDomain returns the trust domain, "" if a is no SPIFFE ID.
func (a AgentID) TrustDomain() string {
	rest, ok := strings.CutPrefix(string(a), "spiffe://")
	if !ok {
		return ""
	}
	td, _, _ := strings.Cut(rest, "/")
	return td
}

// ParseAgentID accepts a SPIFFE ID of a workload, strictly: lower-case trust
// domain of [a-z0-9.-_], a path of non-empty segments of [a-zA-Z0-9.-_] that
// are not dots, no port, query, fragment, percent sign or trailing slash, at
// most 2,048 bytes. See the SPIFFE-ID standard, section 2.
func ParseAgentID(s string) (AgentID, error) {
	fail := func(why string) (AgentID, error) {
		return "", Errorf(Malformed, "spiffe_id", "%q is not a SPIFFE ID of a workload: %s", s, why)
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return fail("it must start with spiffe://")
	}
	if len(s) > 2048 {
		return fail("it is longer than 2048 bytes")
	}
	td, path, ok := strings.Cut(rest, "/")
	if !ok || path == "" {
		return fail("it has no path")
	}
	if td == "" || len(td) > 255 {
		return fail("its trust domain is empty or too long")
	}
	for i := range len(td) {
		if c := td[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fail("its trust domain may hold only a-z, 0-9, dot, dash and underscore")
		}
	}
	for seg := range strings.SplitSeq(path, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return fail("its path has an empty or dot segment")
		}
		for i := range len(seg) {
			if c := seg[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
				return fail("its path may hold only letters, digits, dot, dash and underscore")
			}
		}
	}
	return AgentID(s), nil
}

// PrincipalID names on whose authority an agent acts: "person:dana",
// "organisation:acme", "service:billing".
type PrincipalID string

// Secret holds bytes that may never be printed. Its String, its log form and
// its formatting under every verb are the word "redacted".
type Secret struct{ b []byte }

// NewSecret takes ownership of b.
func NewSecret(b []byte) Secret { return Secret{b} }

// Reveal returns the bytes to the one place that must have them.
func (s Secret) Reveal() []byte { return s.b }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// A Secret prints, formats, logs and marshals as the word "redacted".

func (s Secret) String() string               { return "redacted" }
func (s Secret) Format(f fmt.State, _ rune)   { f.Write([]byte("redacted")) }
func (s Secret) LogValue() slog.Value         { return slog.StringValue("redacted") }
func (s Secret) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

// Credentials are what a connection proved about its far end. The door fills
// them in; only identity reads them. A zero Credentials proves nothing.
type Credentials struct {
	Peer       *x509.Certificate // the verified client certificate's leaf, nil without mutual TLS
	Verified   bool              // the TLS layer verified Peer against our trust bundle
	Bearer     Secret            // a token from the Authorization header
	Possession *Possession       // set when the token came under the scheme DPoP
	Audience   string            // the resource the caller addressed, for audience checks
	Loopback   bool              // the connection came over a loopback address
	Encrypted  bool              // the connection is TLS under the gateway's own certificate
	Self       *Self             // set for calls the gateway makes on its own behalf
	Held       *Subject          // set when a held call restarts: the subject it was held for
	Mandate    MandateID         // the mandate the caller asks to act under; "" is its standing one, or its token's
	Remote     string            // address of the far end, for counting entries only
}

// Possession is what came with a token under the scheme DPoP: a proof that
// its sender holds the key it is bound to, and the request it must be for. See
// RFC 9449. A pointer to one stands for one request: the same proof behind
// another pointer is a replay. It is never changed.
type Possession struct {
	Proof  string // the DPoP header as it came
	Method string // of the request
	URL    string // of the request: scheme, host and path as they were addressed
}

// Self is an unforgeable mark, made once by identity and held by control,
// for calls the gateway itself makes through its own flow (for example to
// read a server's tool definitions). It has a name, so it is recorded.
type Self struct{ Agent AgentID }

// Subject is the authenticated agent with its principal, the chain between
// them, and the proven key. The zero Subject is nobody and is refused.
type Subject struct {
	Agent     AgentID
	Principal PrincipalID
	Chain     []AgentID // from the principal's first delegate to Agent, Agent last
	Key       Digest    // SHA-256 of the proven public key (SPKI); zero for a bearer token
	Bound     bool      // the credential is bound to Key; false for a bearer token
	Mandate   MandateID // the mandate the credential was issued under
	Client    string    // the OAuth client a token was handed to; "" without a token
	Scopes    []string  // what a token is limited to beside its mandate; empty: nothing more. Nobody changes it
	Via       Via       // how it was proven
	Serial    string    // certificate serial or token id, for revocation
	Signers   []string  // ids of the authority's keys that signed what was shown; empty: not known. Nobody changes it
	Issued    time.Time // when the credential was issued
	Expires   time.Time // when it ends
	Epoch     uint64    // the revocation epoch it was checked against
}

// IsZero reports whether nobody was authenticated.
func (s Subject) IsZero() bool { return s.Agent == "" }

// Via is the kind of proof behind a Subject.
type Via uint8

const (
	ViaNothing Via = iota
	ViaSVID        // an X.509-SVID over mutual TLS
	ViaToken       // a short-lived bearer token
	ViaSelf        // the gateway itself
	ViaHeld        // a stored subject, confirmed again
)

// String returns the word of v, the zero Via's for one that has none.
func (v Via) String() string {
	if int(v) >= len(viaNames) {
		return viaNames[0]
	}
	return viaNames[v]
}

var viaNames = [...]string{"nothing", "svid", "token", "self", "held"}

// Posture is the appraised result of attestation: what was concluded about
// the agent's workload, and when. See RFC 9334. The zero Posture is not ok.
type Posture struct {
	OK        bool
	Method    string // "join_token", "self", ...
	Appraised time.Time
	Workload  Digest // of the agent's program, as attested; zero if no attester showed one
}
