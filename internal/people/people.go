// Package people knows the persons behind the agents: who may sign in to the
// console, with which passkeys or at which OpenID provider, in which roles,
// and which browser sessions are theirs.
//
// It guarantees that an invitation, a challenge and a sign-in that was begun
// work once, for one of any number of callers on any number of processes; that
// a session's token is kept as a hash only and stops working with the next
// request after its person was revoked or their roles changed; that a passkey
// signs in only with user verification, for this origin, with a counter that
// rose; that a person of an OpenID provider is known by issuer and subject and
// never by an e-mail address; that the last operator cannot be removed; and
// that every change is recorded before it takes effect.
//
// It trusts its records to be durable, the AEAD's key, the clock, and the
// configured OpenID provider for whom it names. It decides nothing about
// agents, draws no pages and opens no connection of its own: the client for
// the provider is given.
//
// See W3C Web Authentication Level 3 (sections 7.1 and 7.2), OpenID Connect
// Core 1.0 (section 3.1), RFC 7636, RFC 9207 and RFC 9700.
package people

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// The kinds of records.
const (
	kindPerson     = "person"        // by name
	kindPasskey    = "passkey"       // by the credential id's digest: whose it is
	kindLink       = "person-link"   // by issuer and subject: whose it is
	kindInvitation = "invitation"    // by the secret's digest
	kindFirst      = "first-person"  // that the first operator was enrolled
	kindCeremony   = "passkey-asked" // by the challenge's digest
	kindLogin      = "sign-in-asked" // by the state's digest
	kindSession    = "session"       // by the token's digest
)

// Limits. Each bounds what one caller can make us keep or read.
const (
	maxName     = 64   // bytes of a person's name: it stands in every entry
	maxLabel    = 256  // bytes of what a person or a provider calls somebody
	maxPasskeys = 16   // of one person: a handful of devices
	maxPeople   = 1000 // listed at once, for people to look at; who has more uses a provider and its own list
	pageOf      = 200  // records read at a time

	// CeremonyLife is how long a browser may take over a passkey: the
	// platform's own dialogues end after five minutes.
	CeremonyLife = 5 * time.Minute
	// LoginLife is how long a person may take at the OpenID provider.
	LoginLife = 10 * time.Minute
	// InviteLife is how long an invitation works, and MaxInviteLife how long
	// it may.
	InviteLife    = 24 * time.Hour
	MaxInviteLife = 7 * 24 * time.Hour
	// FirstLife is how long the first operator's link works: whoever starts
	// the gateway is there.
	FirstLife = time.Hour
	// SessionLife ends a session whatever happens in it; SessionIdle one in
	// which nothing does.
	SessionLife = 12 * time.Hour
	SessionIdle = 30 * time.Minute
	// seenEvery is how often a session in use is written again.
	seenEvery = time.Minute
)

// AEAD seals what is personal. See keyring.AEAD.
type AEAD interface {
	Seal(plain, ad []byte) ([]byte, error)
	Open(sealed, ad []byte) ([]byte, error)
}

// Event is a change that is about to be made.
type Event struct {
	What   string // "invite_person", "enrol_person", "add_passkey", "change_roles", "revoke_person", "add_key", "drop_key", "sign_in", "sign_out"
	Person ostiary.PrincipalID
	By     string // who does it, if it is not the person
	Detail string // one sentence
}

// Options are what New needs; all are required but Provider and EndGiven.
type Options struct {
	Records record.Keeper
	Seal    AEAD
	// Record makes an event durable before it takes effect.
	Record func(ctx context.Context, e Event) error
	// EndGiven ends every mandate a person gave, with all descendants. nil:
	// persons give none yet.
	EndGiven func(ctx context.Context, person ostiary.PrincipalID, by string) error
	// Origin is where people reach the console: scheme and host, no path.
	// Passkeys are made for it and work nowhere else.
	Origin string
	// Name is what authenticators show for this installation.
	Name     string
	Provider *Provider // nil: passkeys only
	Clock    func() time.Time
}

// People is who may sign in. Safe for concurrent use.
type People struct {
	o        Options
	passkey  *webauthn.WebAuthn
	removing sync.Mutex // one operator is removed at a time, so that two do not remove each other
}

// New checks the options and returns a People that can answer.
func New(o Options) (*People, error) {
	u, err := url.Parse(o.Origin)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "origin", "write the console's origin as scheme://host[:port]").At("origin")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && u.Hostname() == "localhost") {
		return nil, ostiary.Errorf(ostiary.Malformed, "origin", "browsers make passkeys for https, and for http only on localhost").At("origin")
	}
	yes := true
	w, err := webauthn.New(&webauthn.Config{
		RPID: u.Hostname(), RPDisplayName: o.Name, RPOrigins: []string{o.Origin},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			RequireResidentKey: &yes, ResidentKey: protocol.ResidentKeyRequirementRequired, UserVerification: protocol.VerificationRequired,
		},
		Timeouts: webauthn.TimeoutsConfig{Login: timeout, Registration: timeout},
	})
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "origin", "passkeys cannot be made for %s; its host must be a domain name", o.Origin).At("origin").Because(err)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &People{o: o, passkey: w}, nil
}

var timeout = webauthn.TimeoutConfig{Timeout: CeremonyLife, TimeoutUVD: CeremonyLife}

// Origin is where people reach the console.
func (p *People) Origin() string { return p.o.Origin }

// Link is where whoever holds an invitation's secret opens it. The secret
// stands in the part of an address that browsers send to nobody.
func (p *People) Link(secret ostiary.Secret) string {
	return p.o.Origin + "/join#" + string(secret.Reveal())
}

// Ready says whether sign-in at the provider can work, by asking the provider
// if nobody did yet. Without one it can.
func (p *People) Ready(ctx context.Context) error {
	if p.o.Provider == nil {
		return nil
	}
	return p.o.Provider.discover(ctx)
}

// Provider returns the OpenID provider's name for people, "" if there is none.
func (p *People) Provider() string {
	if p.o.Provider == nil {
		return ""
	}
	return p.o.Provider.host()
}

// newSecret returns 256 random bits as text that fits a URL.
func newSecret() string { return rand.Text() + rand.Text() }

// named is the id under which something is kept that only its holder knows.
func named(secret string) string {
	d := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(d[:])
}

// put makes or replaces a record with a sealed value. A value that was read
// carries its revision; a new one has none.
func (p *People) put(ctx context.Context, r record.Record, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if r.Data, err = p.o.Seal.Seal(b, []byte(r.Kind+"/"+r.ID)); err != nil {
		return err
	}
	if r.Revision == 0 {
		_, err = p.o.Records.CreateRecord(ctx, r, p.o.Clock())
	} else {
		_, err = p.o.Records.ReplaceRecord(ctx, r)
	}
	return err
}

// open reads a record's value.
func (p *People) open(r record.Record, v any) error {
	b, err := p.o.Seal.Open(r.Data, []byte(r.Kind+"/"+r.ID))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil { // our own words, sealed by us
		return ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored record cannot be read").Because(err)
	}
	return nil
}

// get reads a record and its value.
func (p *People) get(ctx context.Context, kind, id string, v any) (record.Record, error) {
	r, err := p.o.Records.Record(ctx, kind, id, p.o.Clock())
	if err != nil {
		return record.Record{}, err
	}
	return r, p.open(r, v)
}

// take reads a record that works once.
func (p *People) take(ctx context.Context, kind, id string, v any) error {
	r, err := p.o.Records.TakeRecord(ctx, kind, id, p.o.Clock())
	if err != nil {
		return err
	}
	return p.open(r, v)
}

// each reads every record of a kind, however many there are: what an operator
// can do must not depend on how many persons a provider has.
func (p *People) each(ctx context.Context, kind string, do func(record.Record) error) error {
	after := ""
	for {
		page, err := p.o.Records.Records(ctx, kind, after, pageOf, p.o.Clock())
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := do(r); err != nil {
				return err
			}
		}
		if len(page) < pageOf {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// checkName says whether a person may be called so: the name stands in every
// entry and in policies, and must look like what it is.
func checkName(name string) error {
	ok := name != "" && len(name) <= maxName
	for i := range len(name) {
		c := name[i]
		inner := i > 0 && i < len(name)-1 && (c == '.' || c == '-' || c == '_')
		ok = ok && (inner || c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	}
	if !ok {
		return ostiary.Errorf(ostiary.Malformed, "name", "a name has 1 to %d lower-case letters and digits, with dots, dashes and underscores between them", maxName).At("name")
	}
	return nil
}

// checkOwnName is checkName for a person who is not a provider's.
func checkOwnName(name string) error {
	if strings.HasPrefix(name, reservedPrefix) {
		return ostiary.Errorf(ostiary.Malformed, "name", "names that begin with %s are the sign-in provider's persons", reservedPrefix).At("name")
	}
	return checkName(name)
}

// clip bounds what somebody else calls a person or a device.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if len(s) <= maxLabel {
		return s
	}
	n := maxLabel
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Role is what a person may do beyond giving mandates of their own. The zero
// Role is none.
type Role uint8

const (
	NoRole   Role = iota
	Operator      // changes who and what is let in
	Approver      // consents to actions that need it
	Auditor       // reads, changes nothing
)

// String returns the role's word.
func (r Role) String() string {
	if int(r) >= len(roleNames) {
		return roleNames[0]
	}
	return roleNames[r]
}

var roleNames = [...]string{"none", "operator", "approver", "auditor"}

// ParseRoles reads roles, each at most once, sorted.
func ParseRoles(words []string) ([]Role, error) {
	var out []Role
	for _, w := range words {
		i := slices.Index(roleNames[1:], w)
		if i < 0 {
			return nil, ostiary.Errorf(ostiary.Malformed, "role", "%q is no role; write operator, approver or auditor", w).At("roles")
		}
		out = append(out, Role(i+1))
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Words writes roles as ParseRoles reads them.
func Words(roles []Role) []string {
	out := []string{}
	for _, r := range roles {
		out = append(out, r.String())
	}
	return out
}
