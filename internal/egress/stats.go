package egress

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// stats counts what happens with one server.
type stats struct {
	calls    atomic.Uint64
	failures atomic.Uint64
	dropped  atomic.Uint64
	starts   atomic.Uint64

	mu      sync.Mutex // guards what follows
	why     string
	since   time.Time
	failing bool
}

// fail notes a failure. Only the safe sentence is kept. What is not the
// server's fault does not make it look ill.
func (s *stats) fail(err error, now time.Time) {
	s.failures.Add(1)
	switch ostiary.KindOf(err) {
	case ostiary.Malformed, ostiary.Conflict, ostiary.Exhausted:
		return
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errClosing) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failing {
		s.since = now
	}
	s.failing, s.why = true, ostiary.AsError(err).Detail
}

// ok notes a reply that came to its end.
func (s *stats) ok() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = false
}

func (s *stats) health(name, transport string) Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Health{
		Server: name, Transport: transport, State: "ready", Why: s.why, Since: s.since,
		Calls: s.calls.Load(), Failures: s.failures.Load(), Dropped: s.dropped.Load(), Starts: s.starts.Load(),
	}
	if s.failing {
		h.State = "failing"
	} else if h.Calls == 0 {
		h.State = "unused"
	}
	return h
}
