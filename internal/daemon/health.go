package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

const (
	// pulseEvery is how often the parts that must move are looked at.
	pulseEvery = time.Second
	// pulseStops is how long one may stand still with work before it before
	// the process counts as dead: several times the slowest honest flush.
	pulseStops = 15 * time.Second
	// storeAnswers is how long the store may take to answer a health question.
	storeAnswers = time.Second
)

// health is what the process knows of itself. The zero health is neither live
// nor ready.
type health struct {
	serving  atomic.Bool // the doors are open
	draining atomic.Bool // the process is on its way out
	pulse    atomic.Pointer[pulse]
}

// pulse is the last look at the parts that must move.
type pulse struct {
	at    time.Time // with its monotonic reading
	stuck string    // what stands still, "" if nothing does
}

// watchdog tells a log that has nothing to do from one that does not do it.
type watchdog struct {
	size  uint64
	since time.Time // since when entries wait and none became durable
}

// stuck takes the log's state now.
func (w *watchdog) stuck(now time.Time, s ledger.Status) bool {
	if s.Queued == 0 || s.Size != w.size || w.since.IsZero() {
		w.size, w.since = s.Size, now
	}
	return now.Sub(w.since) >= pulseStops
}

// feel takes the pulse until ctx ends. A log whose own locks are stuck holds
// this up, and an old pulse is no pulse.
func (d *Daemon) feel(ctx context.Context) {
	dogs := map[*ledger.Log]*watchdog{d.journal.gateway: {}, d.journal.deployment: {}}
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		p := pulse{at: time.Now()}
		for l, dog := range dogs {
			if s := l.Status(); dog.stuck(p.at, s) {
				p.stuck = s.Origin
			}
		}
		d.health.pulse.Store(&p)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// live reports whether the committers and the event loop move.
func (h *health) live(now time.Time) (bool, string) {
	p := h.pulse.Load()
	switch {
	case p == nil:
		return true, "starting"
	case now.Sub(p.at) >= pulseStops:
		return false, "nothing moved for " + now.Sub(p.at).Round(time.Second).String()
	case p.stuck != "":
		return false, "entries of " + p.stuck + " wait and none is written"
	}
	return true, ""
}

// Health implements [control.Process].
func (d *Daemon) Health(ctx context.Context) control.Health {
	var h control.Health
	var why string
	h.Live, why = d.health.live(time.Now())
	add := func(name string, ok bool, detail string) {
		if ok {
			detail = ""
		}
		h.Checks = append(h.Checks, control.HealthCheck{Name: name, OK: ok, Detail: detail})
	}
	add("moving", h.Live, why)
	for _, l := range []*ledger.Log{d.journal.gateway, d.journal.deployment} {
		s := l.Status()
		add("log "+s.Origin, s.Failed == "" && !s.Full, fullOr(s))
	}
	ctx, cancel := context.WithTimeout(ctx, storeAnswers)
	defer cancel()
	_, err := d.store.Revision(ctx)
	add("store", err == nil, fmt.Sprint(err))
	add("policy", d.engine.Active() != nil, "no snapshot is active")
	add("doors", d.health.serving.Load(), "the doors are not open yet")
	add("staying", !d.health.draining.Load(), "the process is shutting down")
	h.Ready = true
	for _, c := range h.Checks {
		h.Ready = h.Ready && c.OK
	}
	return h
}

func fullOr(s ledger.Status) string {
	if s.Failed != "" {
		return s.Failed
	}
	return "there is no room for more segments"
}

// probes answers a load balancer or an orchestrator: two paths, two words, and
// nothing about why, since anybody may ask who reaches the address.
func (d *Daemon) probes() *http.Server {
	say := func(w http.ResponseWriter, ok bool) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "no\n")
			return
		}
		io.WriteString(w, "ok\n")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		live, _ := d.health.live(time.Now())
		say(w, live)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { say(w, d.Health(r.Context()).Ready) })
	return &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
}

// serveHealth answers on listen.health, if there is one, until the returned
// function is called: it answers before the doors open and until after they
// have closed.
func (d *Daemon) serveHealth() (end func()) {
	if d.probing == nil {
		return func() {}
	}
	s := d.probes()
	done := make(chan struct{})
	go func() {
		defer close(done)
		crowd := &stricthttp.Crowd{Total: mostProbes, Source: mostProbes, Strangers: mostProbes}
		s.Serve(stricthttp.NewListener(crowd.Listen(d.probing), stricthttp.Standard())) // that it ended is what a probe is there to notice
	}()
	return func() { s.Close(); <-done }
}
