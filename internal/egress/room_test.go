package egress

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// TestRoom: with room for two connections to all servers, kept ones give way,
// used ones do not, and what finds no room is not sent.
func TestRoom(t *testing.T) {
	entered, release := make(chan bool), make(chan bool)
	rec := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		if m.Params.Get("name").Is("hang") {
			entered <- true
			<-release
		}
		reply(w, m, `{}`)
	}))
	var servers []Server
	for i := range 6 {
		s := local(rec.URL)
		s.Name = "s" + strconv.Itoa(i)
		servers = append(servers, s)
	}
	e := newEgress(t, Options{Servers: servers, Limits: Limits{Conns: 2}})
	open := func() int {
		e.room.mu.Lock()
		defer e.room.mu.Unlock()
		return e.room.open
	}
	t.Run("R05 connections kept for later give way", func(t *testing.T) {
		for _, s := range servers {
			if f, err := result(t, e, toolCall(t, s.Name, "x", `{}`)); err != nil || f.Kind != gate.FrameResult {
				t.Fatalf("%s: %v", s.Name, err)
			}
			if n := open(); n < 1 || n > 2 {
				t.Fatalf("%d connections are open", n)
			}
		}
	})
	t.Run("R05 a call that finds no room is not sent", func(t *testing.T) {
		done := make(chan error)
		for i := range 2 {
			go func() { _, err := result(t, e, toolCall(t, servers[i].Name, "hang", `{}`)); done <- err }()
			<-entered
		}
		before := len(rec.all("tools/call"))
		_, err := result(t, e, toolCall(t, "s2", "x", `{}`))
		if code, unsent := codeOf(err); code != "connections" || !unsent || ostiary.KindOf(err) != ostiary.Exhausted {
			t.Errorf("%v", err)
		}
		if n := len(rec.all("tools/call")); n != before {
			t.Errorf("the server received %d requests more", n-before)
		}
		if b := e.Health()[2].Breaker; b != "closed" {
			t.Errorf("the server is blamed for it: %s", b)
		}
		for range 2 {
			release <- true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if _, err := result(t, e, toolCall(t, "s2", "x", `{}`)); err != nil {
			t.Errorf("there is room again: %v", err)
		}
	})
	// A connection is taken back a moment after its reply was read.
	for deadline := time.Now().Add(10 * time.Second); open() != 0; time.Sleep(time.Millisecond) {
		if e.closeIdle(); time.Now().After(deadline) {
			t.Fatalf("%d connections are counted that nobody has", open())
		}
	}
}
