package policy

import (
	"crypto"
	"time"

	"github.com/ostiary/ostiary"
)

// Set is a compiled policy folder. Immutable.
type Set struct{}

// Snapshot is a signed, numbered Set. Immutable.
type Snapshot struct{}

// Engine decides with the active Snapshot. Safe for concurrent use.
type Engine struct{}

// ReadDir reads a policy folder.
func ReadDir(dir string) (Source, error) {
	return Source{}, ostiary.Errorf(ostiary.Unavailable, "policy_folder", "cannot read the policy folder")
}

// Compile checks a folder against the pinned tools. The Set is nil if any
// Problem is an error.
func Compile(src Source, tools []*ostiary.Tool) (*Set, []Problem) {
	return nil, []Problem{{Code: "unfinished", Message: "policies cannot be compiled yet"}}
}

// Starter returns a policy folder that permits listing and what tools hint is
// read-only, and nothing that changes state.
func Starter(tools []*ostiary.Tool) Source { return Source{} }

// Sign encodes and signs a Set as Snapshot number.
func Sign(number uint64, set *Set, created time.Time, signer crypto.Signer) ([]byte, error) {
	return nil, ostiary.Errorf(ostiary.Unavailable, "no_set", "there is no policy set to sign")
}

// Open verifies a signed Snapshot and compiles it again.
func Open(signed []byte, key crypto.PublicKey) (*Snapshot, error) {
	return nil, ostiary.Errorf(ostiary.Corrupt, "snapshot", "the snapshot does not verify")
}

// Number is the Snapshot's place in the deployment's sequence, from 1.
func (s *Snapshot) Number() uint64 { return 0 }

// Digest covers policies, groups and pins.
func (s *Snapshot) Digest() ostiary.Digest { return ostiary.Digest{} }

// Created is when the Snapshot was signed.
func (s *Snapshot) Created() time.Time { return time.Time{} }

// Explain says in plain words why d is the answer to r.
func (s *Snapshot) Explain(r *ostiary.Request, d ostiary.Decision) string { return d.Code }

// New returns an Engine without a Snapshot: it denies everything.
func New() *Engine { return &Engine{} }

// Activate makes a Snapshot the active one. A number below the active one is
// a Conflict.
func (e *Engine) Activate(s *Snapshot) error { return nil }

// Active returns the active Snapshot, nil if there is none.
func (e *Engine) Active() *Snapshot { return nil }

// Decide answers one request. It implements gate.Policy.
func (e *Engine) Decide(r *ostiary.Request) ostiary.Decision {
	return ostiary.Decision{Code: "no_snapshot"}
}

// Visible says for each tool whether some call of it might be permitted to
// the caller in r; r is the request of the list itself.
func (e *Engine) Visible(r *ostiary.Request, tools []*ostiary.Tool) []bool {
	return make([]bool, len(tools))
}
