package identity

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// AgentRecord is an agent as the registry knows it.
type AgentRecord struct {
	ID        ostiary.AgentID
	Principal ostiary.PrincipalID // on whose authority it acts by its standing mandate
	Owner     string              // who answers for it
	Zone      string
	Roles     []string // sorted
	Mandate   ostiary.MandateID
	Enrolled  time.Time
	Method    string // how it was attested: "join_token"
	Disabled  bool
}

// JoinToken is a one-time right to enrol one named agent. Only its hash is
// stored.
type JoinToken struct {
	Hash      ostiary.Digest
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Owner     string
	Zone      string
	Roles     []string
	By        ostiary.PrincipalID // who made it, and gives the standing mandate; "": the principal
	Terms     []byte              // of the standing mandate, as [ParseTerms] reads them; empty: whatever policy allows
	Created   time.Time
	Expires   time.Time
}

// RevocationKind says what a revocation names.
type RevocationKind string

const (
	RevokeAgent   RevocationKind = "agent"   // an agent's every credential issued at or before At
	RevokeSerial  RevocationKind = "serial"  // one certificate or token
	RevokeKey     RevocationKind = "key"     // a public key, by its digest
	RevokeMandate RevocationKind = "mandate" // a mandate and every credential under it
	RevokeSession RevocationKind = "session" // what an agent does in one session, for good: the one of Mandate, whose links above and below stand
	RevokePerson  RevocationKind = "person"  // every mandate a principal gave, or that is on their authority, until then
)

// Revocation is one raised epoch: what ended, when and why.
type Revocation struct {
	Epoch   uint64
	Kind    RevocationKind
	Subject string
	Mandate ostiary.MandateID // the one a session is under; "" for other kinds
	At      time.Time
	Reason  string
}

// Registry is the control state behind identity. Every write is durable and
// carries a revision before it returns; reads see every write that returned.
// Safe for concurrent use, also from several processes on one database.
type Registry interface {
	// CreateJoinToken stores a fresh token; Conflict if the hash exists.
	CreateJoinToken(ctx context.Context, t JoinToken) error
	// RedeemJoinToken spends the token and writes the agent with its signed
	// standing mandate, in one transaction. Exactly one caller ever
	// succeeds; all others get Conflict, an unknown token NotFound, an
	// expired one (at the time given) Denied. The agent keeps the token's
	// attributes whatever make returns for them; make is called inside the
	// transaction with the stored token, may be called again on a retry,
	// and must have no effect of its own.
	RedeemJoinToken(ctx context.Context, hash ostiary.Digest, at time.Time, make func(JoinToken) (AgentRecord, MandateRecord, error)) (AgentRecord, error)
	Agents(ctx context.Context) ([]AgentRecord, error)
	// AddAgent writes an agent that has no standing mandate. One that is
	// there, on the same authority and by the same method, stays as it is;
	// any other of that name is Conflict.
	AddAgent(ctx context.Context, a AgentRecord) error

	// Mandates lists what may be in force: the mandates that have not ended
	// and expire after a moment, and every standing one.
	Mandates(ctx context.Context, at time.Time) ([]MandateRecord, error)
	// MandateHistory lists mandates in any state, the newest first.
	MandateHistory(ctx context.Context, f MandateFilter) ([]MandateRecord, error)
	// CreateMandate stores a signed mandate; Conflict if the name is taken.
	// A standing one becomes its agent's in the same transaction; NotFound
	// if there is no such agent.
	CreateMandate(ctx context.Context, m MandateRecord) error
	// EndMandate marks a mandate as ended and raises the epoch by one. One
	// that ended before stays as it is: then the epoch is 0. NotFound if
	// there is none.
	EndMandate(ctx context.Context, e MandateEnd) (epoch uint64, err error)
	// ReviewMandate notes who reviewed a mandate, the first time; NotFound
	// if there is none.
	ReviewMandate(ctx context.Context, id ostiary.MandateID, by string, at time.Time) error

	// Revoke raises the epoch by one and stores what it ends. The epoch
	// never falls.
	Revoke(ctx context.Context, r Revocation) (epoch uint64, err error)
	// Revocations returns the epoch, and the revocations after another one in
	// order: the first [RevocationsRead] of them, as of the same moment.
	Revocations(ctx context.Context, after uint64) (epoch uint64, next []Revocation, err error)
}

// RevocationsRead is how many revocations are read at once: whoever gets as
// many asks again.
const RevocationsRead = 2000

// MandateRecord is a mandate as stored: its signed form is the truth, what
// became of it stands beside.
type MandateRecord struct {
	ID        ostiary.MandateID
	Kind      ostiary.MandateKind
	Agent     ostiary.AgentID
	Parent    ostiary.MandateID
	Principal ostiary.PrincipalID
	By        ostiary.PrincipalID
	JWS       string // compact, ES256
	Issued    time.Time
	Expires   time.Time

	Ended    time.Time // zero: nobody ended it
	How      EndHow
	EndedBy  string
	Why      string
	Reviewed time.Time
	Reviewer string
}

// EndHow says how a mandate ended.
type EndHow string

const (
	EndCompleted EndHow = "completed" // its task is done
	EndRevoked   EndHow = "revoked"
)

// MandateEnd is the end of one mandate.
type MandateEnd struct {
	ID  ostiary.MandateID
	How EndHow
	By  string
	Why string
	At  time.Time
}

// MandateFilter chooses mandates; what is zero chooses all.
type MandateFilter struct {
	ID        ostiary.MandateID
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID // on whose authority, or who gave it
	Parent    ostiary.MandateID
	First     bool // those that a principal gave, and none that was derived: agents make as many of these as they like
	Review    bool // break-glass mandates that nobody reviewed
	Limit     int  // 0 is 100; at most 1,000
}

// Matches reports whether the filter chooses a mandate.
func (f *MandateFilter) Matches(m *MandateRecord) bool {
	return (f.ID == "" || f.ID == m.ID) && (f.Agent == "" || f.Agent == m.Agent) && (f.Parent == "" || f.Parent == m.Parent) && (!f.First || m.Parent == "") &&
		(f.Principal == "" || f.Principal == m.Principal || f.Principal == m.By) &&
		(!f.Review || m.Kind == ostiary.BreakGlassMandate && m.Parent == "" && m.Reviewed.IsZero())
}

// Most returns how many mandates the filter lists at most.
func (f *MandateFilter) Most() int {
	if f.Limit <= 0 {
		return 100
	}
	return min(f.Limit, 1000)
}
