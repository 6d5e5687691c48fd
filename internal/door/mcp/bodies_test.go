package mcp

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary"
)

// TestR01BodiesAreBounded: one agent with many slow uploads is refused, others
// are not, and all room comes back.
func TestR01BodiesAreBounded(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	var ends []*io.PipeWriter
	for range maxHeldPerAgent / maxBody {
		r, end := io.Pipe()
		ends = append(ends, end)
		slow := raw("/mcp", "", "Authorization", "Bearer alice")
		slow.Body, slow.ContentLength = r, -1
		all.Go(func() { w.door.ServeHTTP(httptest.NewRecorder(), slow) })
		io.WriteString(end, "{") // it is being read
	}
	if rec := w.do(request("/mcp", "tools/list", "")); rec.Code != 429 || !strings.Contains(rec.Body.String(), "bodies") {
		t.Errorf("alice holds all she may: %d %s", rec.Code, rec.Body)
	}
	bob := request("/mcp", "tools/list", "")
	bob.Header.Set("Authorization", "Bearer bob")
	if rec := w.do(bob); rec.Code != 200 {
		t.Errorf("bob: %d %s", rec.Code, rec.Body)
	}
	for _, end := range ends {
		end.CloseWithError(context.Canceled)
	}
	all.Wait()
	if rec := w.do(request("/mcp", "tools/list", "")); rec.Code != 200 || w.door.bodies.total != 0 || len(w.door.bodies.agents) != 0 {
		t.Errorf("afterwards: %d, %d bytes of %d agents are still counted", rec.Code, w.door.bodies.total, len(w.door.bodies.agents))
	}
	for range 9 {
		w.door.bodies.hold(ostiary.AgentID(strings.Repeat("x", len(w.door.bodies.agents)+1)), maxHeldPerAgent)
	}
	if w.door.bodies.total != maxHeld {
		t.Errorf("together they hold %d", w.door.bodies.total)
	}
}
