// Package identity proves who is asking: it turns what a connection showed
// into a Subject, and issues what connections can show.
//
// It is the trust domain's certificate authority (a root that may be taken
// offline and an online intermediate), enrols agents against one-time join
// tokens, signs short-lived X.509-SVIDs and, for clients that can only send a
// header, tokens of a few minutes, bound to a key wherever the client can, and
// checks every credential against
// the revocation epoch on every request, not only at the handshake.
//
// Guarantees: a Subject is returned only for a credential this authority
// issued, that has not ended by a clock which never runs backwards, whose
// agent, key, serial number and mandate have not been revoked, and whose
// mandate is in force with its whole chain. Certificates hold what policy grants and nothing a
// signing request asks for. Callers who prove nothing are never told why.
//
// Trusts: the keys it is given, the directory its certificates lie in, and
// the Registry. It trusts no claim of a TLS layer: a certificate that it did
// not see verified it verifies itself.
//
// Does not: dial, decide what an agent may do, or keep anything on behalf of
// a connection.
//
// Follows SPIFFE-ID and X509-SVID, RFC 5280, RFC 9068 for tokens, RFC 8725
// for how they are read, RFC 9449 and RFC 8705 for what binds them to a key,
// and RFC 9334 for the word posture.
package identity

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/rotation"
)

// Lives of what the authority issues.
const (
	DefaultSVIDLife    = 15 * time.Minute
	MaxSVIDLife        = time.Hour // an SVID is renewed, not kept: this bounds a stolen one
	MaxTokenLife       = 10 * time.Minute
	DefaultJoinLife    = time.Hour
	MaxJoinLife        = 7 * 24 * time.Hour // long enough for a machine that is being shipped
	DefaultMandateLife = 90 * 24 * time.Hour
	DefaultGrace       = 72 * time.Hour // a long weekend

	// backdate is how far before the moment of issue a credential starts to
	// be valid, so that a verifier whose clock is a little behind ours
	// accepts it. The moment of issue itself is in the serial number.
	backdate = 30 * time.Second

	// noteRate and noteBurst bound how many lines of our log strangers can
	// write in a second. They are counted exactly elsewhere.
	noteRate  = 1
	noteBurst = 30
)

// Keys gives private keys by name, creating a key the first time it is asked
// for. A key that was returned once is durable.
type Keys interface {
	ECDSA(name string) (*ecdsa.PrivateKey, error)
}

// Mandates signs mandates and reads signed ones. Both are pure functions of
// their argument and a key, safe for concurrent use. Verify checks signature
// and form and does not judge time.
type Mandates interface {
	IssueUnder(m ostiary.Mandate, parent ostiary.Digest) (jws string, err error) // the zero Digest: derived from none
	Verify(jws string) (m ostiary.Mandate, parent ostiary.Digest, err error)
}

// Event is a change the authority is about to make or hand out.
type Event struct {
	What      string // "join_token", "enrol", "renew", "return", "token", "revoke", "mandate", "derive", "grant", "break_glass", "renew_mandate", "complete", "revoke_mandate", "review"
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Mandate   ostiary.MandateID
	Serial    string // of the credential, if there is one
	JWS       string // of a mandate that is given: its signed form
	Refused   string // the code, if it was refused; "" if it is done
	By        string // who gave, ended or reviewed a mandate, "" if that is nobody in particular
	Detail    string // one sentence for people
}

// Options are what an Authority is made of.
type Options struct {
	TrustDomain string    // lower-case DNS-like name, for example "acme.example"
	Dir         string    // holds root.pem and intermediate.pem; created with mode 0700; processes of one trust domain may share it
	Fence       string    // the folder of the epoch fence, of this process alone; "": Dir
	Keys        Keys      // asked for "gateway", and for what the schedule names
	Schedules   Schedules // which keys sign and are believed; nil: the first ones, for good
	Registry    Registry  //
	Mandates    Mandates  //

	// Record makes an event durable; nothing is handed out before it
	// returned, and nothing at all when it fails.
	Record func(ctx context.Context, e Event) error

	// Refused counts a connection that was refused for its certificate, or
	// a request to the identity endpoints that was refused, by the address
	// it came from: nobody authenticated, so there is no entry of its own.
	// The codes are a short closed list. nil: it is only logged.
	Refused func(source, code string)

	// Groups returns the groups of policy that an action is in now. nil:
	// none is known, so an agent can only derive what its own mandate names.
	Groups func(action string) []string

	Clock       func() time.Time // nil: time.Now
	Log         *slog.Logger     // nil: discarded
	SVIDLife    time.Duration    // 0: DefaultSVIDLife; at most MaxSVIDLife
	TokenLife   time.Duration    // the most a bearer token lives; 0: MaxTokenLife, which is also the limit
	MandateLife time.Duration    // of the standing mandate written at enrolment; 0: DefaultMandateLife

	// Grace is how long after its end an SVID can still be exchanged for a
	// new one by whoever holds its key; 0 is [DefaultGrace], negative is
	// never. It lets a machine that slept come back without a new join
	// token. What it costs: a stolen key file is good for this long instead
	// of one SVID's life, unless the agent is revoked. An expired SVID opens
	// nothing else.
	Grace time.Duration

	Lease  time.Duration // refuse everyone when Confirm, or Open, was not called for this long; 0: never
	Issuer string        // of bearer tokens; "": "https://<TrustDomain>/ostiary"
	Hosts  []string      // DNS names and IP addresses of the gateway beside localhost, 127.0.0.1 and ::1
}

// Authority is the trust domain's certificate authority and its memory of who
// is enrolled and what was revoked. Safe for concurrent use.
type Authority struct {
	domain   string
	issuer   string
	registry Registry
	mandates Mandates
	record   func(ctx context.Context, e Event) error
	refused  func(source, code string)
	groups   func(action string) []string
	derived  pacer
	noted    *rate.Limiter // of log lines about strangers
	clock    *clock
	log      *slog.Logger
	lives    atomic.Pointer[Lives]
	lease    time.Duration

	keys      Keys
	schedules Schedules
	stages    atomic.Pointer[[]*stage] // never empty, by time
	staged    *rotation.Schedule       // what the stages were made from; guarded by refresh
	tokens    *tokens
	proofs    *proofs
	gate      *gateway
	peers     peers
	self      *ostiary.Self

	dir     atomic.Pointer[directory]
	refresh sync.Mutex // one Refresh at a time: an older one may not replace a newer
	fence   *fence     // guarded by refresh
}

// Open loads or creates the authority's certificates, reads the registry and
// returns an authority that can answer. It fails rather than start with
// anything that does not fit together.
func Open(ctx context.Context, o Options) (*Authority, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	a := &Authority{
		domain: o.TrustDomain, issuer: o.Issuer, registry: o.Registry, mandates: o.Mandates, record: o.Record, refused: o.Refused, groups: o.Groups,
		noted: rate.NewLimiter(noteRate, noteBurst), keys: o.Keys, schedules: o.Schedules,
		clock: &clock{read: o.Clock}, log: o.Log, lease: o.Lease,
	}
	a.lives.Store(&Lives{SVID: o.SVIDLife, Token: o.TokenLife, Mandate: o.MandateLife, Grace: o.Grace})
	a.self = &ostiary.Self{Agent: ostiary.AgentID("spiffe://" + o.TrustDomain + gatewayPath)}
	var err error
	if a.schedules == nil {
		first, err := FirstKeys(o.TrustDomain, o.Dir, o.Keys, a.clock.Now())
		if err != nil {
			return nil, fmt.Errorf("opening the certificate authority: %w", err)
		}
		a.schedules = always{rotation.Fixed(first...)}
	}
	if err = a.restage(); err != nil {
		return nil, fmt.Errorf("opening the certificate authority: %w", err)
	}
	if a.fence, err = openFence(o.Fence); err != nil {
		return nil, err
	}
	a.proofs = newProofs()
	a.tokens = &tokens{issuer: o.Issuer, domain: o.TrustDomain}
	if a.gate, err = openGateway(a, o.Keys, o.Hosts); err != nil {
		return nil, err
	}
	if err = a.Refresh(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// always is one schedule for good.
type always struct{ schedule *rotation.Schedule }

func (s always) Schedule() *rotation.Schedule { return s.schedule }

// complete checks the options and fills in defaults.
func (o *Options) complete() error {
	bad := func(field, why string) error {
		return ostiary.Errorf(ostiary.Malformed, "identity_options", "%s", why).At(field)
	}
	if _, err := ostiary.ParseAgentID("spiffe://" + o.TrustDomain + gatewayPath); err != nil {
		return bad("trust_domain", fmt.Sprintf("%q is no trust domain: lower-case letters, digits, dot, dash and underscore", o.TrustDomain))
	}
	if o.Dir == "" || o.Keys == nil || o.Registry == nil || o.Mandates == nil || o.Record == nil {
		return bad("identity", "a directory, keys, a registry, mandates and a record are all needed")
	}
	if err := o.lives(); err != nil {
		return err
	}
	if o.Lease < 0 {
		return bad("lease", "a lease is not negative")
	}
	if o.Fence == "" {
		o.Fence = o.Dir
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Groups == nil {
		o.Groups = func(string) []string { return nil }
	}
	if o.Refused == nil {
		o.Refused = func(string, string) {}
	}
	if o.Issuer == "" {
		o.Issuer = issuerOf(o.TrustDomain)
	}
	return nil
}

// lives checks how long things live, and fills in defaults.
func (o *Options) lives() error {
	bad := func(field, why string) error {
		return ostiary.Errorf(ostiary.Malformed, "identity_options", "%s", why).At(field)
	}
	o.SVIDLife = orDefault(o.SVIDLife, DefaultSVIDLife)
	o.TokenLife = orDefault(o.TokenLife, MaxTokenLife)
	o.MandateLife = orDefault(o.MandateLife, DefaultMandateLife)
	o.Grace = max(orDefault(o.Grace, DefaultGrace), 0)
	if o.SVIDLife < time.Minute || o.SVIDLife > MaxSVIDLife {
		return bad("svid_life", fmt.Sprintf("an SVID lives at least a minute and at most %s", MaxSVIDLife))
	}
	if o.TokenLife < time.Second || o.TokenLife > MaxTokenLife {
		return bad("token_life", fmt.Sprintf("a bearer token lives at least a second and at most %s", MaxTokenLife))
	}
	if o.MandateLife < time.Minute {
		return bad("mandate_life", "a standing mandate lives at least a minute")
	}
	return nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// gatewayPath is the path of the gateway's own SPIFFE ID. No agent can be
// enrolled below reservedPath.
const (
	reservedPath = "/ostiary/"
	gatewayPath  = reservedPath + "gateway"
)

// GatewayMandate names the mandate of the gateway's own calls. It is not
// stored, no agent can have it, and what it covers is for whoever holds
// [Authority.Self] to say.
const GatewayMandate ostiary.MandateID = "gateway"

// Self returns the mark of the gateway's own calls. Whoever holds the pointer
// is the gateway: hand it to control only.
func (a *Authority) Self() *ostiary.Self { return a.self }

// TrustDomain returns the trust domain's name.
func (a *Authority) TrustDomain() string { return a.domain }

// AgentID makes the usual SPIFFE ID of an agent from a short name:
// "spiffe://<trust domain>/agent/<name>".
func (a *Authority) AgentID(name string) (ostiary.AgentID, error) {
	return ostiary.ParseAgentID("spiffe://" + a.domain + "/agent/" + name)
}
