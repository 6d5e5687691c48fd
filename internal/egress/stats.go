package egress

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

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
	failing bool
}

// drop counts a message that nobody asked for. The text is ours. A server
// that floods us with them does not flood the log: of many, every power of two
// is written.
func (s *stats) drop(log *slog.Logger, what string) {
	if n := s.dropped.Add(1); n&(n-1) == 0 {
		log.Warn("dropped a message of the server", "what", what, "dropped", n)
	}
}

// fail notes a failure. Only the safe sentence is kept. What is not the
// server's fault does not make it look ill.
func (s *stats) fail(err error) {
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
	s.failing, s.why = true, ostiary.AsError(err).Detail
}

// ok notes a reply that came to its end.
func (s *stats) ok() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = false
}

func (s *stats) health(name string) Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Health{
		Server: name, State: "ready", Why: s.why,
		Calls: s.calls.Load(), Failures: s.failures.Load(), Dropped: s.dropped.Load(), Starts: s.starts.Load(),
	}
	if s.failing {
		h.State = "failing"
	} else if h.Calls == 0 {
		h.State = "unused"
	}
	return h
}
