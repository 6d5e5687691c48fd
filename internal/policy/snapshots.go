package policy

import "context"

// Snapshots keeps signed snapshots. Writes are durable before they return.
// Safe for concurrent use, also from several processes on one database.
type Snapshots interface {
	// SaveSnapshot stores a snapshot under its number; Conflict unless the
	// number is exactly one above the newest.
	SaveSnapshot(ctx context.Context, number uint64, signed []byte) error
	// NewestSnapshot returns the newest, number 0 and nil if there is none.
	NewestSnapshot(ctx context.Context) (number uint64, signed []byte, err error)
	Snapshot(ctx context.Context, number uint64) (signed []byte, err error)
}
