package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/rotation"
)

// wakeEvery is how soon after a containment or a revocation is in force here
// those who only listen are asked whether they still may.
const wakeEvery = 100 * time.Millisecond

// wakeListeners wakes the door's streams whenever what decides about them has
// changed, until ctx ends. Calls meet a change by themselves; a stream on which
// nothing happens would notice it late.
func (d *Daemon) wakeListeners(ctx context.Context) {
	t := time.NewTicker(wakeEvery)
	defer t.Stop()
	before := d.standing()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := d.standing()
		if !now.same(before) {
			d.door.Wake()
		}
		before = now
	}
}

// standing is who is contained, what is revoked and which keys are believed.
type standing struct {
	epoch       uint64
	established bool
	contained   []containment.Record
	keys        *rotation.Schedule
	until       time.Time // when a key is next refused, or signs
}

func (d *Daemon) standing() standing {
	all, err := d.contained.List()
	keys := d.keys.book.Schedule()
	return standing{epoch: d.authority.Epoch(), established: err == nil, contained: all, keys: keys, until: keys.Until(d.clock())}
}

func (s standing) same(t standing) bool {
	return s.epoch == t.epoch && s.established == t.established && slices.Equal(s.contained, t.contained) && s.keys == t.keys && s.until.Equal(t.until)
}
