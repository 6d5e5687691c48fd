package approval_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
)

// counting counts the rows, and the sealed bytes, that lists read.
type counting struct {
	approval.Store
	rows, sealed int
}

func (c *counting) Holds(ctx context.Context, f approval.Filter) ([]approval.Row, error) {
	rows, err := c.Store.Holds(ctx, f)
	c.rows += len(rows)
	for i := range rows {
		c.sealed += len(rows[i].Body)
	}
	return rows, err
}

// However many holds have ended: whoever waits for the next one is told, each
// is looked at once, and nobody reads what is sealed in it.
func TestFollowsPastManyEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *counting
		w := newWorld(t, func(o *approval.Options) { c = &counting{Store: o.Store}; o.Store = c })
		elsewhere := newWorld(t, func(o *approval.Options) { o.Store = w.store })
		const n = 2*approval.MaxList + 500
		now := time.Now()
		for i := range n {
			r := approval.Row{
				ID: ostiary.HoldID(fmt.Sprintf("h%04d", i)), Gateway: "gw", Agent: "spiffe://td/agent/pay", State: ostiary.HoldRefused, Body: []byte("x"),
				Created: now.Add(-time.Duration(i) * time.Second), Expires: now, Until: now.Add(approval.Keep), // what changed last was asked first
			}
			if _, err := w.store.CreateHold(t.Context(), r, 10, now); err != nil {
				t.Fatal(err)
			}
		}
		running(w, func() {
			id := w.hold("approval:finance")
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			began := time.Now()
			go func() {
				time.Sleep(5 * time.Second)
				if _, err := elsewhere.vote(id, "erin", approval.Choice{Reason: "no"}); err != nil { // another process
					t.Error(err)
				}
			}()
			if s, err := w.a.Wait(ctx, id, dana); err != nil || s.State != ostiary.HoldRefused || time.Since(began) > 6*time.Second {
				t.Errorf("%+v, %v after %v", s, err, time.Since(began))
			}
		})
		if c.rows > n+100 || c.sealed != 0 {
			t.Errorf("%d rows with %d sealed bytes were read for %d holds", c.rows, c.sealed, n)
		}
	})
}

// A stored hold that cannot be read, in any state, stops nothing but itself.
func TestOneUnreadableHold(t *testing.T) {
	for _, state := range []ostiary.HoldState{ostiary.HoldPending, ostiary.HoldGranted, ostiary.HoldSpent, ostiary.HoldRefused} {
		for _, over := range []time.Duration{-time.Minute, time.Hour} {
			t.Run(fmt.Sprint(state, over), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, now := newWorld(t), time.Now()
					bad := approval.Row{
						ID: "bad", Gateway: "gw", Agent: "spiffe://td/agent/pay", State: state, Body: []byte("x"),
						Created: now.Add(-time.Hour), Expires: now.Add(over), Until: now.Add(approval.Keep),
					}
					if _, err := w.store.CreateHold(t.Context(), bad, 10, now); err != nil {
						t.Fatal(err)
					}
					running(w, func() {
						id := w.hold("approval:finance")
						if _, err := w.vote(id, "erin", yes); err != nil {
							t.Fatal(err)
						}
						ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
						defer stop()
						if s, err := w.a.Wait(ctx, id, dana); err != nil || s.State != ostiary.HoldDone {
							t.Errorf("%+v, %v", s, err)
						}
					})
				})
			})
		}
	}
}
