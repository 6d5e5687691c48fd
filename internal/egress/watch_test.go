package egress

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A call ends with its caller and with whoever reads its reply, who may be
// another: the second is followed once more only if it is.
func TestWatchFollows(t *testing.T) {
	for _, who := range []string{"caller", "reader"} {
		synctest.Test(t, func(t *testing.T) {
			gone := errors.New("gone")
			caller, leave := context.WithCancelCause(t.Context())
			reader, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			defer leave(nil)
			w := newWatch(caller, t.Context(), time.Minute, time.Minute)
			defer w.stop()
			defer w.follow(caller)()
			defer w.follow(reader)()
			if w.ctx.Err() != nil {
				t.Fatal("it ended before anybody left")
			}
			map[string]context.CancelCauseFunc{"caller": leave, "reader": stop}[who](gone)
			synctest.Wait()
			if got := context.Cause(w.ctx); got != gone {
				t.Errorf("the %s left: %v", who, got)
			}
		})
	}
}
