package gate

import (
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

const (
	// throttleEvery is how often an agent may call a server while it, the tool
	// or the server is throttled, or more: enough to finish by hand what was
	// begun, too little to do harm in bulk.
	throttleEvery = time.Second
	// throttleBurst is how many calls it may save up.
	throttleBurst = 5
	// maxThrottled bounds the agents whose pace is remembered; those that
	// were quiet for long enough are forgotten first.
	maxThrottled = 10_000
)

// throttle paces agents. The zero throttle is ready.
type throttle struct {
	mu   sync.Mutex
	full map[ostiary.AgentID]time.Time // when the agent will have saved up its whole burst
}

// take returns 0 if the agent may call now, else how long until it may.
func (t *throttle) take(a ostiary.AgentID, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full == nil {
		t.full = map[ostiary.AgentID]time.Time{}
	}
	full, known := t.full[a]
	if !known && len(t.full) >= maxThrottled {
		t.forget(now)
		if len(t.full) >= maxThrottled {
			return throttleEvery
		}
	}
	if full.Before(now) {
		full = now
	}
	if wait := full.Sub(now) - (throttleBurst-1)*throttleEvery; wait > 0 {
		return wait
	}
	t.full[a] = full.Add(throttleEvery)
	return 0
}

// forget drops who may use its whole burst again. The caller holds t.mu.
func (t *throttle) forget(now time.Time) {
	for a, full := range t.full {
		if !full.After(now) {
			delete(t.full, a)
		}
	}
}
