// Package approval asks people: it keeps an action that policy would let
// through if somebody consented, takes their votes, and says when there are
// enough.
//
// It guarantees that a vote binds exact bytes, who asked, on whose authority
// and under which policy ([ostiary.Question]); that it is signed by a key that
// was its approver's when it was cast; that nobody votes on what they asked
// for themselves, what an agent of theirs asked for unless their group says
// so, or twice, not with two accounts either; that one refusal ends a hold;
// that what nobody decided in time is refused; that a consent is spent once,
// by one of any number of callers on any number of processes, before anything
// is sent; and that whoever voted still could when their vote is used.
//
// It trusts its store to be durable and its compare-and-swap exact, the AEAD's
// key, the clock, who it is told a person is, and what it is told policy says.
// It carries nothing out: a granted hold is handed to whoever runs calls, and
// policy decides again there.
//
// See NIST SP 800-53 AC-3(2), and W3C Web Authentication Level 3, section 7.2.
package approval

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/deferred"
)

// Limits. Each bounds what one caller can make us keep, or one approver see.
const (
	// MaxReason bounds the words that come with a vote, in bytes: a few
	// sentences, which an agent may be shown.
	MaxReason = 1000
	// MaxEdits bounds how many places one narrowing changes.
	MaxEdits = 64
	// MaxResult bounds the result that is kept for a caller who left. A longer
	// one reaches only who still waits.
	MaxResult = 1 << 20
	// ResultLife is how long a result is kept, and Keep how long a hold that
	// ended is listed: the log has its whole story.
	ResultLife = 24 * time.Hour
	Keep       = 7 * 24 * time.Hour
	// MaxVotes bounds the votes on one hold: what several remedies of the
	// largest quorum can need.
	MaxVotes = 32
	// VoteLife is how long signing may take: a browser's dialogue and a
	// person's thought.
	VoteLife = 10 * time.Minute
)

// How fast one agent may ask people, and all of them one group: more is
// refused and said to an operator.
const (
	askRate    = rate.Limit(0.5) // a second
	askBurst   = 60
	groupRate  = rate.Limit(2)
	groupBurst = 120
)

// AEAD seals what is personal. See keyring.AEAD.
type AEAD interface {
	Seal(plain, ad []byte) ([]byte, error)
	Open(sealed, ad []byte) ([]byte, error)
}

// Group is who may consent for a name that policy writes after "approval:".
type Group struct {
	People []ostiary.PrincipalID // its members; they need the role of an approver too
	Owner  bool                  // a member may consent for an agent they own
	After  time.Duration         // when nobody decided for so long,
	To     string                // members of this group may too; "" for none
}

// Rules are what an operator sets. Whoever can change them says who consents.
type Rules struct {
	Groups map[string]Group
	// Life is how long people have until a hold is refused.
	Life time.Duration
	// Most is how many holds of one agent may wait for people at once.
	Most int
	// Same lists accounts that belong to one human each: they have one vote.
	Same [][]ostiary.PrincipalID
}

// Approver is a person as things stand now.
type Approver struct {
	Person   ostiary.PrincipalID
	Active   bool     // not revoked, and with the role of an approver
	Verified []string // what else names the same human: links to a provider, digests of keys
	Keys     [][]byte // SubjectPublicKeyInfo of every key they may vote with
}

// People knows persons. Answers are as of now. NotFound for nobody. Safe for
// concurrent use.
type People interface {
	Approver(ctx context.Context, person ostiary.PrincipalID) (Approver, error)
}

// Judge says what the flow makes of a call now, up to its decision, without
// making it: validated against the pinned definition and the mandate, decided
// by the active policy. An error is a refusal that no consent changes. Safe
// for concurrent use.
type Judge func(ctx context.Context, c *deferred.Call) (*ostiary.Request, *ostiary.Decision, error)

// Options are what New needs; all but Log, Owners and Epoch are required.
type Options struct {
	Store   Store
	Seal    AEAD
	People  People
	Gateway string // this gateway's name: it carries out what it held
	// Epoch rises when an operator confirms that this gateway goes on from a
	// backup: what waited then may have been carried out since.
	Epoch uint64
	Rules Rules
	Judge Judge
	// Owners names everybody who is responsible for an agent, by whichever
	// record says so.
	Owners func(ostiary.AgentID) []string
	// Verify checks a vote's signature; see proof.VerifyVote.
	Verify func(*ostiary.Signed) error
	// Record makes a vote, or what became of a hold, durable before it takes
	// effect.
	Record func(ctx context.Context, e Event) error
	// Execute carries out a granted hold, through the same flow as any call,
	// and returns when that has settled. It runs in a goroutine of Run.
	Execute func(ctx context.Context, h *Hold) Settlement
	Clock   func() time.Time
	Log     *slog.Logger
}

// Event is what is recorded.
type Event struct {
	What   string // "vote", "narrow", "expire", "unknown"
	Hold   ostiary.HoldID
	Agent  ostiary.AgentID
	Person ostiary.PrincipalID
	Vote   *ostiary.Signed // of a vote
	Detail string          // one sentence; foreign text may be in it
}

// Approvals is who waits for consent. Safe for concurrent use.
type Approvals struct {
	o Options

	mu      sync.Mutex // guards what follows
	waiting map[ostiary.HoldID][]chan Settlement
	agents  map[ostiary.AgentID]*rate.Limiter
	groups  map[string]*rate.Limiter
	wake    chan struct{} // full when something of ours was decided here
	running map[ostiary.HoldID]bool
}

// New returns an Approvals that can answer; Run makes it carry out what was
// granted.
func New(o Options) *Approvals {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Owners == nil {
		o.Owners = func(ostiary.AgentID) []string { return nil }
	}
	return &Approvals{
		o: o, waiting: map[ostiary.HoldID][]chan Settlement{}, agents: map[ostiary.AgentID]*rate.Limiter{}, groups: map[string]*rate.Limiter{},
		wake: make(chan struct{}, 1), running: map[ostiary.HoldID]bool{},
	}
}

// Rules returns what an operator set. Nobody may change it.
func (a *Approvals) Rules() *Rules { return &a.o.Rules }
