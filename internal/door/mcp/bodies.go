package mcp

import (
	"net/http"
	"sync"

	"github.com/ostiary/ostiary"
)

const (
	// maxHeld bounds the bodies held at one time, of requests that are being
	// read, decided on or answered: what callers together can make us hold.
	maxHeld = 512 << 20
	// maxHeldPerAgent leaves room for the others: 16 of the largest bodies,
	// or many thousands of usual ones.
	maxHeldPerAgent = maxHeld / 8
)

// bodies counts the bytes held for each agent.
type bodies struct {
	mu     sync.Mutex // guards all below
	total  int64
	agents map[ostiary.AgentID]int64
}

func newBodies() *bodies { return &bodies{agents: map[ostiary.AgentID]int64{}} }

// hold takes room for n bytes, or says that there is none.
func (b *bodies) hold(a ostiary.AgentID, n int64) *ostiary.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.agents[a]+n > maxHeldPerAgent || b.total+n > maxHeld {
		return ostiary.Errorf(ostiary.Exhausted, "bodies", "too many bytes of requests are under way; wait for answers first")
	}
	b.total += n
	b.agents[a] += n
	return nil
}

// release gives room back.
func (b *bodies) release(a ostiary.AgentID, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= n
	if b.agents[a] -= n; b.agents[a] == 0 {
		delete(b.agents, a)
	}
}

// announced is how much a request may make us hold before it is read.
func announced(r *http.Request) int64 {
	if r.ContentLength < 0 { // in chunks
		return maxBody
	}
	return r.ContentLength
}
