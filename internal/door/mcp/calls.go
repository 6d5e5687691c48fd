package mcp

import (
	"sync"

	"github.com/ostiary/ostiary"
)

const (
	// maxCalls bounds the messages of all agents that are being decided on or
	// answered: as many as the ledger's queue holds, so that they wait here
	// for their answers and not there for a place.
	maxCalls = 8192
	// maxCallsPerAgent leaves room for the others: far more than one agent
	// does at a time, and an eighth of all.
	maxCallsPerAgent = maxCalls / 8
)

// calls counts what is under way for each agent. Streams that stay open are
// not counted: they have limits of their own.
type calls struct {
	mu     sync.Mutex // guards all below
	total  int
	agents map[ostiary.AgentID]int
}

func newCalls() *calls { return &calls{agents: map[ostiary.AgentID]int{}} }

// enter takes a place, or says that there is none.
func (c *calls) enter(a ostiary.AgentID) *ostiary.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agents[a] >= maxCallsPerAgent || c.total >= maxCalls {
		return ostiary.Errorf(ostiary.Exhausted, "calls", "too many calls are under way; wait for answers first")
	}
	c.total++
	c.agents[a]++
	return nil
}

// leave gives a place back.
func (c *calls) leave(a ostiary.AgentID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.agents[a]--; c.agents[a] == 0 {
		delete(c.agents, a)
	}
}
