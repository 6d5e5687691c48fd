package daemon

import (
	"context"

	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/control"
)

// openContainment reads who is contained, before anybody can ask, and follows
// it until everything is closed: calls that are still running when the doors
// have closed need it to the end. What is not confirmed is not established,
// and refuses.
func (d *Daemon) openContainment(ctx context.Context) error {
	d.contained = containment.New(containment.Options{
		Register: d.store, Clock: d.clock,
		Record: func(ctx context.Context, r containment.Record) error {
			return control.RecordContainment(d.journal.deployment, d.authority.Self().Agent, d.clock)(ctx, r)
		},
	})
	if err := d.contained.Refresh(ctx); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	d.onClose(func() error { stop(); <-done; return nil })
	go func() {
		defer close(done)
		d.contained.Follow(run, refreshEvery, func(err error) {
			if err != nil {
				d.log.Error("containment cannot be read; soon it is not established, and everything is refused", "error", err)
				return
			}
			d.log.Info("containment can be read again")
		})
	}()
	return nil
}

// conducts tells control how servers behave, and which are left alone, and why.
func (d *Daemon) conducts() map[string]control.ServerConduct {
	all := map[string]control.ServerConduct{}
	for _, h := range d.egress.Health() {
		all[h.Server] = control.ServerConduct{
			Breaker: control.Breaker{State: h.Breaker, Why: h.Left, Until: h.Until},
			Conduct: control.Conduct{State: h.State, Why: h.Why, Protocol: h.Protocol, Calls: h.Calls, Failures: h.Failures, Dropped: h.Dropped, Starts: h.Starts},
		}
	}
	return all
}
