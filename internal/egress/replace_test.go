package egress

import (
	"context"
	"net/http"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// A call that runs while its server is replaced ends on the server it began
// on, and the next one goes to the new one.
func TestReplaceKeepsRunningCalls(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	slow := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) {
		close(arrived)
		<-finish
		reply(w, m, `{"text":"old"}`)
	}))
	other := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) { reply(w, m, `{"text":"new"}`) }))
	e := newEgress(t, Options{Servers: []Server{local(slow.URL)}})

	type answer struct {
		f   gate.Frame
		err error
	}
	got := make(chan answer, 1)
	go func() {
		f, err := result(t, e, toolCall(t, "srv", "x", `{}`))
		got <- answer{f, err}
	}()
	<-arrived
	before := (*e.table.Load())["srv"]
	commit, err := e.Prepare([]Server{local(other.URL)})
	if err != nil {
		t.Fatal(err)
	}
	if (*e.table.Load())["srv"] != before {
		t.Fatal("what is only prepared is in place")
	}
	commit()
	if f, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil || f.Body.Get("text").Text() != "new" {
		t.Errorf("%s, %v", f.Body.Bytes(), err)
	}
	select {
	case <-before.idle:
		t.Error("the old server was let go of in the middle of a call")
	default:
	}
	close(finish)
	if a := <-got; a.err != nil || a.f.Body.Get("text").Text() != "old" {
		t.Errorf("%s, %v", a.f.Body.Bytes(), a.err)
	}
	<-before.idle
}

func TestPrepare(t *testing.T) {
	rec := newRecorder(t, modern(func(w http.ResponseWriter, r *http.Request, m mcpwire.Message) { reply(w, m, `{}`) }))
	one, two := local(rec.URL), local(rec.URL)
	two.Name = "two"
	e := newEgress(t, Options{Servers: []Server{one}})
	kept := (*e.table.Load())["srv"]

	t.Run("one that is wrong changes nothing", func(t *testing.T) {
		_, err := e.Prepare([]Server{two, {Name: "bad", URL: "ftp://x"}})
		if ostiary.AsError(err).Field != "servers.bad.url" {
			t.Error(err)
		}
		if _, err := e.Prepare([]Server{one, one}); ostiary.AsError(err).Code != "server_name" {
			t.Errorf("a name twice: %v", err)
		}
		if table := *e.table.Load(); len(table) != 1 || table["srv"] != kept {
			t.Error("the table changed")
		}
	})
	t.Run("one that is as before stays", func(t *testing.T) {
		commit, err := e.Prepare([]Server{local(rec.URL), two})
		if err != nil {
			t.Fatal(err)
		}
		commit()
		if table := *e.table.Load(); len(table) != 2 || table["srv"] != kept {
			t.Error("the server was made anew")
		}
	})
	t.Run("one that is gone takes no call", func(t *testing.T) {
		commit, err := e.Prepare([]Server{two})
		if err != nil {
			t.Fatal(err)
		}
		commit()
		<-kept.idle
		if _, err := e.Forward(context.Background(), gatetest.Clear(toolCall(t, "srv", "x", `{}`))); ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
	})
	t.Run("after Close", func(t *testing.T) {
		commit, err := e.Prepare([]Server{one})
		if err != nil {
			t.Fatal(err)
		}
		e.Close()
		commit()
		if _, err := e.Forward(context.Background(), gatetest.Clear(toolCall(t, "srv", "x", `{}`))); ostiary.KindOf(err) != ostiary.Unavailable {
			t.Error(err)
		}
	})
}

// A process that is replaced is stopped once it is idle.
func TestReplaceStopsProcess(t *testing.T) {
	e := newEgress(t, Options{Servers: []Server{selfServer(t, "modern")}})
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Fatal(err)
	}
	old := (*e.table.Load())["srv"].upstream.(*process).pipe.pid
	changed := selfServer(t, "modern")
	changed.Env["OTHER"] = "1"
	commit, err := e.Prepare([]Server{changed})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if !gone(t, old) {
		t.Error("the old process is still there")
	}
	if _, err := result(t, e, toolCall(t, "srv", "x", `{}`)); err != nil {
		t.Error(err)
	}
}
