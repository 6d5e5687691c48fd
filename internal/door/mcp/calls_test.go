package mcp

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
)

// TestCallsAreBounded: an agent with all its places taken is refused, others
// are not, a cancellation still passes, and the place comes back.
func TestCallsAreBounded(t *testing.T) {
	w := newWorld(t)
	do := func(agent, method string) *httptest.ResponseRecorder {
		r := request("/mcp", method, "")
		r.Header.Set("Authorization", "Bearer "+agent)
		return w.do(r)
	}
	if rec := do("alice", "tools/list"); rec.Code != 200 || w.door.calls.total != 0 || len(w.door.calls.agents) != 0 {
		t.Fatalf("%d, %d calls are still counted", rec.Code, w.door.calls.total)
	}
	const alice = "spiffe://test/agent/alice"
	for range maxCallsPerAgent {
		if err := w.door.calls.enter(alice); err != nil {
			t.Fatal(err)
		}
	}
	if rec := do("alice", "tools/list"); rec.Code != 429 || !strings.Contains(rec.Body.String(), "calls") {
		t.Errorf("alice has all she may: %d %s", rec.Code, rec.Body)
	}
	if rec := do("bob", "tools/list"); rec.Code != 200 {
		t.Errorf("bob: %d %s", rec.Code, rec.Body)
	}
	w.door.calls.leave(alice)
	if rec := do("alice", "tools/list"); rec.Code != 200 {
		t.Errorf("afterwards: %d %s", rec.Code, rec.Body)
	}
	for i := range 9 {
		for range maxCallsPerAgent {
			w.door.calls.enter(ostiary.AgentID(strings.Repeat("x", i+1)))
		}
	}
	if w.door.calls.total != maxCalls {
		t.Errorf("together they have %d", w.door.calls.total)
	}
}
