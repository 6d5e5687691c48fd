package gate

import (
	"fmt"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// What is remembered of throttled agents is bounded; beyond it nobody gets
// through who would not have to be remembered, and the quiet are forgotten.
func TestThrottleIsBounded(t *testing.T) {
	var th throttle
	now := time.Unix(1e9, 0)
	for i := range maxThrottled {
		if wait := th.take(ostiary.AgentID(fmt.Sprint(i)), now); wait != 0 {
			t.Fatal(i, wait)
		}
	}
	if th.take("one more", now) == 0 || len(th.full) != maxThrottled {
		t.Errorf("%d are remembered", len(th.full))
	}
	if th.take("7", now) != 0 {
		t.Error("who is remembered lost its burst")
	}
	if th.take("one more", now.Add(throttleEvery)) != 0 || len(th.full) != 2 {
		t.Errorf("%d are remembered after a second", len(th.full))
	}
}
