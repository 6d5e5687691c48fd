package identity

import (
	"sync/atomic"
	"time"
)

// clock is a wall clock that never runs backwards within a process: an
// expired credential does not revive when the machine's clock is set back.
type clock struct {
	read func() time.Time
	last atomic.Int64 // the latest reading, in nanoseconds since 1970
}

// Now returns the latest time ever read.
func (c *clock) Now() time.Time {
	now := c.read().UnixNano()
	for {
		last := c.last.Load()
		if now <= last {
			return time.Unix(0, last).UTC()
		}
		if c.last.CompareAndSwap(last, now) {
			return time.Unix(0, now).UTC()
		}
	}
}
