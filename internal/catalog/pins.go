package catalog

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
)

// PinRecord is an accepted definition as stored.
type PinRecord struct {
	Server     string
	Kind       string // "tool", "prompt", "resource", "template"
	Name       string
	Pin        ostiary.Digest
	Definition []byte // the accepted bytes
	Accepted   time.Time
	By         string // who accepted it
}

// Pins is the stored set of accepted definitions. Writes are durable before
// they return. Safe for concurrent use, also from several processes.
type Pins interface {
	Pins(ctx context.Context) ([]PinRecord, error)
	// SavePins replaces the records of the same server, kind and name, all
	// in one transaction.
	SavePins(ctx context.Context, records []PinRecord) error
	// DropPin removes one; NotFound if it is not there.
	DropPin(ctx context.Context, server, kind, name string) error
}
