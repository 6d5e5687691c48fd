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
)

// Revocation is one raised epoch: what ended, when and why.
type Revocation struct {
	Epoch   uint64
	Kind    RevocationKind
	Subject string
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
	Mandates(ctx context.Context) ([]MandateRecord, error)
	// Revoke raises the epoch by one and stores what it ends. The epoch
	// never falls.
	Revoke(ctx context.Context, r Revocation) (epoch uint64, err error)
	Revocations(ctx context.Context) (epoch uint64, all []Revocation, err error)
}

// MandateRecord is a mandate as stored: its signed form is the truth.
type MandateRecord struct {
	ID      ostiary.MandateID
	Agent   ostiary.AgentID
	JWS     string // compact, ES256
	Expires time.Time
}
