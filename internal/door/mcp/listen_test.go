package mcp

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
)

// listening starts a stream and returns its recorder and a channel that is
// closed when it ended.
func (w *world) stream(ctx context.Context, legacy bool) (*httptest.ResponseRecorder, <-chan bool) {
	r := request("/mcp", "subscriptions/listen", `"notifications":{"toolsListChanged":true,"resourceSubscriptions":["file:///a"]}`)
	if legacy {
		r = method0b("GET", w.opened("alice", "2025-11-25", "{}"), "alice")
	}
	rec, done := httptest.NewRecorder(), make(chan bool)
	go func() {
		defer close(done)
		w.door.ServeHTTP(rec, r.WithContext(ctx))
	}()
	return rec, done
}

func TestListening(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		name := map[bool]string{false: "subscriptions/listen", true: "GET"}[legacy]
		add := func(w *world, kind, text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tools = append(slices.Clone(w.tools), def(t, "docs", kind, text))
		}
		t.Run(name+" tells of changes until the client leaves", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				ctx, cancel := context.WithCancel(context.Background())
				rec, done := w.stream(ctx, legacy)
				time.Sleep(10 * time.Second)
				add(w, "tool", `{"name":"new","inputSchema":{}}`)
				time.Sleep(10 * time.Second)
				add(w, "prompt", `{"name":"new"}`)
				time.Sleep(10 * time.Second)
				cancel()
				<-done
				all := events(rec.Body.String())
				var got []string
				for _, e := range all {
					v := value(e)
					got = append(got, strings.TrimPrefix(v.Get("method").Text(), "notifications/"))
					if !legacy && v.Get("method").Exists() && v.Get("params").Get("_meta").Get("io.modelcontextprotocol/subscriptionId").Literal() != "1" {
						t.Errorf("without its subscription: %s", e)
					}
				}
				want := []string{"subscriptions/acknowledged", "tools/list_changed", ""}
				if legacy {
					want = []string{"tools/list_changed", "prompts/list_changed"}
				} else if !strings.Contains(all[0], `"notifications":{"toolsListChanged":true}`) {
					t.Errorf("acknowledged more than it keeps: %s", all[0])
				}
				if !slices.Equal(got, want) {
					t.Errorf("told %q, want %q", got, want)
				}
				if !strings.Contains(rec.Body.String(), ":\n\n") {
					t.Error("a quiet stream was not kept alive")
				}
				if last := w.entries[len(w.entries)-1]; last.Kind != ostiary.KindOutcome || last.Disposition != ostiary.Delivered {
					t.Errorf("settled as %+v", last)
				}
				if w.door.watch.open != 0 || len(w.door.watch.agents) != 0 {
					t.Error("its place was not given back")
				}
			})
		})
		t.Run("E03 "+name+" ends when its subject is revoked", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				identity := &revocable{world: w}
				w.door.identity = identity
				rec, done := w.stream(context.Background(), legacy)
				time.Sleep(10 * time.Second)
				w.mu.Lock()
				identity.revoked = true
				w.mu.Unlock()
				start := time.Now()
				<-done
				if d := time.Since(start); d > listenPoll {
					t.Errorf("it lived %s on: %s", d, rec.Body)
				}
				if last := w.entries[len(w.entries)-1]; last.Disposition != ostiary.Delivered {
					t.Errorf("settled as %+v", last)
				}
			})
		})
		t.Run("L01 "+name+" ends when its subject is contained", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				rec, done := w.stream(context.Background(), legacy)
				contain := func(level ostiary.Containment) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.contained = map[ostiary.AgentID]ostiary.Containment{"spiffe://test/agent/bob": ostiary.Suspended, "spiffe://test/agent/alice": level}
				}
				contain(ostiary.Restricted)
				time.Sleep(10 * time.Second)
				select {
				case <-done:
					t.Fatal("it ended for what contains somebody else, or leaves it to policy")
				default:
				}
				contain(ostiary.Quarantined)
				start := time.Now()
				<-done
				if d := time.Since(start); d > listenPoll {
					t.Errorf("it lived %s on: %s", d, rec.Body)
				}
				if last := w.entries[len(w.entries)-1]; last.Disposition != ostiary.Delivered {
					t.Errorf("settled as %+v", last)
				}
			})
		})
		t.Run("L01 "+name+" ends at once when it is woken and may not hear more", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				_, done := w.stream(context.Background(), legacy)
				time.Sleep(5 * time.Second)
				w.door.Wake() // for something that concerns others
				synctest.Wait()
				select {
				case <-done:
					t.Fatal("it ended for nothing")
				default:
				}
				w.mu.Lock()
				w.contained = map[ostiary.AgentID]ostiary.Containment{"spiffe://test/agent/alice": ostiary.Quarantined}
				w.mu.Unlock()
				start := time.Now()
				w.door.Wake()
				<-done
				if d := time.Since(start); d > 0 {
					t.Errorf("it lived %s on", d)
				}
			})
		})
		t.Run(name+" ends before the log gives up on it", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				start := time.Now()
				_, done := w.stream(context.Background(), legacy)
				<-done
				if d := time.Since(start); d < w.door.longest || d > w.door.longest+listenPoll {
					t.Errorf("it lived %s", d)
				}
				if last := w.entries[len(w.entries)-1]; last.Disposition != ostiary.Delivered {
					t.Errorf("settled as %+v", last)
				}
			})
		})
		t.Run(name+" ends with the door", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				_, done := w.stream(context.Background(), legacy)
				time.Sleep(time.Second)
				w.door.Close()
				<-done
			})
		})
	}
	t.Run("a session has one stream, and its end ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			_, done := w.stream(context.Background(), true)
			time.Sleep(time.Second)
			var id string
			for id = range w.door.sessions.byID {
			}
			if rec := w.do(method0b("GET", id, "alice")); rec.Code != 409 {
				t.Error(rec.Code, rec.Body)
			}
			w.do(method0b("DELETE", id, "alice"))
			<-done
		})
	})
}

type revocable struct {
	*world
	revoked bool
}

func (r *revocable) Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revoked {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, "revoked", "revoked")
	}
	return r.world.Authenticate(ctx, c)
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions(time.Now)
		mine := owner{agent: "a"}
		oldest, _ := s.open(mine, "", "v", capabilities{})
		for range maxSessionsPerAgent - 1 {
			time.Sleep(time.Second)
			if _, err := s.open(mine, "", "v", capabilities{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := s.find(oldest.id, mine, ""); !ok {
			t.Fatal("it ended too early")
		}
		time.Sleep(time.Second)
		s.open(mine, "", "v", capabilities{})
		if len(s.byID) != maxSessionsPerAgent {
			t.Errorf("%d sessions of one agent", len(s.byID))
		}
		if _, ok := s.find(oldest.id, mine, ""); !ok {
			t.Error("the one used last was ended")
		}
		if _, ok := s.find(oldest.id, owner{agent: "a", principal: "p"}, ""); ok {
			t.Error("B06 another principal's")
		}
		if _, ok := s.find(oldest.id, owner{agent: "a", key: ostiary.DigestOf(nil)}, ""); ok {
			t.Error("B06 another key's")
		}
		time.Sleep(2 * sessionIdle)
		if _, ok := s.find(oldest.id, mine, ""); ok {
			t.Error("an idle session lives")
		}
	})
}

func TestSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpent(time.Now)
		until := time.Now().Add(time.Minute)
		if err := s.spend([16]byte{1}, until); err != nil {
			t.Fatal(err)
		}
		if err := s.spend([16]byte{1}, until); ostiary.KindOf(err) != ostiary.Conflict {
			t.Error(err)
		}
		for i := range maxSpent {
			s.until[[16]byte{3, byte(i), byte(i >> 8), byte(i >> 16)}] = until
		}
		if err := s.spend([16]byte{2}, until); ostiary.KindOf(err) != ostiary.Exhausted {
			t.Error("a full memory honours more:", err)
		}
		time.Sleep(2 * time.Minute)
		if err := s.spend([16]byte{2}, time.Now().Add(time.Minute)); err != nil || len(s.until) != 1 {
			t.Error(err, len(s.until))
		}
	})
}

func TestListeningLeavesRoom(t *testing.T) {
	w := newWatch(newWorld(t), time.Now)
	n := 0
	for w.enter("a") {
		n++
	}
	if n != maxListeningPerAgent || !w.enter("b") {
		t.Errorf("one agent holds %d places", n)
	}
	for w.enter("b") {
	}
	if w.enter("c") || w.open != maxListening {
		t.Errorf("%d streams are open", w.open)
	}
	if w.leave("a"); !w.enter("c") {
		t.Error("a place was not given back")
	}
}
