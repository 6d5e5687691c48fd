package containment_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/containment"
)

// register is a store and a log in memory that note what happened, in order.
type register struct {
	events  []string
	records map[[2]string]containment.Record
	rev     uint64
	fail    string // the event that fails
	done    bool   // it happened all the same
	mu      sync.Mutex
}

// breaks makes one event fail from now on, "" none.
func (r *register) breaks(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = event
}

var errDown = errors.New("down")

func (r *register) do(event string, f func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
	if r.fail == event {
		if r.done && f != nil {
			f()
		}
		return errDown
	}
	if f != nil {
		f()
	}
	return nil
}

func (r *register) SetContainment(_ context.Context, _ string, c containment.Record) (uint64, error) {
	err := r.do("store", func() {
		r.rev++
		c.Rev = r.rev
		r.records[[2]string{c.Scope, c.Name}] = c
	})
	return r.rev, err
}

func (r *register) Containments(context.Context) (all []containment.Record, err error) {
	err = r.do("list", nil)
	for _, c := range r.records {
		all = append(all, c)
	}
	return all, err
}

func (r *register) Revision(context.Context) (uint64, error) { return r.rev, r.do("revision", nil) }

func open(t *testing.T) (*containment.Levels, *register) {
	t.Helper()
	r := &register{records: map[[2]string]containment.Record{}}
	l := containment.New(containment.Options{
		Register: r, Clock: time.Now,
		Record: func(context.Context, containment.Record) error { return r.do("record", nil) },
	})
	return l, r
}

var (
	alice = &ostiary.Subject{Agent: "spiffe://td/alice", Chain: []ostiary.AgentID{"spiffe://td/alice"}}
	child = &ostiary.Subject{Agent: "spiffe://td/child", Chain: []ostiary.AgentID{"spiffe://td/alice", "spiffe://td/child"}}
	bob   = &ostiary.Subject{Agent: "spiffe://td/bob"}
	pay   = &ostiary.Action{Name: "bank___pay", Server: "bank"}
	read  = &ostiary.Action{Name: "bank___read", Server: "bank"}
	mail  = &ostiary.Action{Name: "mail___send", Server: "mail"}
	lists = &ostiary.Action{Name: "list_tools"}
)

// A level holds for what its scope names, the highest that matches counts, and
// lifting one leaves the others.
func TestScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := open(t)
		set := func(scope, name string, level ostiary.Containment) {
			t.Helper()
			if err := l.Set(t.Context(), containment.Record{Scope: scope, Name: name, Level: level, Reason: "r"}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(what string, want ...ostiary.Containment) {
			t.Helper()
			var got []ostiary.Containment
			for _, s := range []*ostiary.Subject{alice, child, bob} {
				for _, a := range []*ostiary.Action{pay, read, mail, lists} {
					got = append(got, l.Level(s, a))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s:\n got %v\nwant %v", what, got, want)
			}
		}
		const n, th, re, qu, su = ostiary.None, ostiary.Throttled, ostiary.Restricted, ostiary.Quarantined, ostiary.Suspended
		set(containment.ScopeAgent, "spiffe://td/alice", qu)
		expect("an agent, and who acts for it", qu, qu, qu, qu, qu, qu, qu, qu, n, n, n, n)
		set(containment.ScopeTool, "bank___pay", su)
		expect("a tool", su, qu, qu, qu, su, qu, qu, qu, su, n, n, n)
		set(containment.ScopeServer, "bank", re)
		expect("a server", su, qu, qu, qu, su, qu, qu, qu, su, re, n, n)
		set(containment.ScopeAll, "", th)
		expect("everything", su, qu, qu, qu, su, qu, qu, qu, su, re, th, th)
		set(containment.ScopeAgent, "spiffe://td/alice", n)
		expect("the agent released", su, re, th, th, su, re, th, th, su, re, th, th)
		set(containment.ScopeAll, "", n)
		all, err := l.List()
		if err != nil || len(all) != 2 || all[0].Scope != "server" || all[1].Name != "bank___pay" {
			t.Errorf("listed %+v, %v", all, err)
		}
	})
}

// Nothing is established before it was read, or once nobody confirmed it for
// its lease; a change elsewhere is seen at the next reading.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := open(t)
		is := func(want ostiary.Containment) {
			t.Helper()
			if got := l.Level(alice, pay); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		}
		is(ostiary.NotEstablished)
		if _, err := l.List(); ostiary.KindOf(err) != ostiary.Unavailable {
			t.Error(err)
		}
		if err := l.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(ostiary.None)
		time.Sleep(containment.Lease)
		is(ostiary.None)
		time.Sleep(time.Nanosecond)
		is(ostiary.NotEstablished)
		for _, what := range []string{"revision", "list"} {
			r.fail, r.rev = what, r.rev+1
			if l.Refresh(t.Context()) == nil {
				t.Error("a failure is no success")
			}
			is(ostiary.NotEstablished)
		}
		r.fail = ""
		r.rev++
		r.records[[2]string{"agent", "spiffe://td/alice"}] = containment.Record{Scope: "agent", Name: "spiffe://td/alice", Level: ostiary.Suspended}
		l.Refresh(t.Context())
		is(ostiary.Suspended)
		r.events = nil
		l.Refresh(t.Context())
		if !slices.Equal(r.events, []string{"revision"}) {
			t.Errorf("an unchanged state was read: %q", r.events)
		}
		r.rev++
		r.records[[2]string{"agent", "x"}] = containment.Record{Scope: "agent", Name: "x"}
		if err := l.Refresh(t.Context()); ostiary.KindOf(err) != ostiary.Corrupt {
			t.Error("a level that is none:", err)
		}
		r.records[[2]string{"agent", "x"}] = containment.Record{Scope: "orbit", Name: "x", Level: ostiary.Quarantined}
		l.Refresh(t.Context())
		if got := l.Level(bob, mail); got != ostiary.Quarantined {
			t.Error("a scope of a newer version contains", got)
		}
	})
}

// A change is written down first, then stored, then enforced. One that failed
// is an error, and whether it stands is seen at once.
func TestSet(t *testing.T) {
	stop := containment.Record{Scope: "agent", Name: "spiffe://td/alice", Level: ostiary.Suspended, Reason: "r", By: "dana"}
	for _, tc := range []struct {
		fail  string
		done  bool
		order []string
		want  ostiary.Containment
	}{
		{"", false, []string{"record", "store", "revision", "list"}, ostiary.Suspended},
		{"record", false, []string{"record"}, ostiary.None},
		{"store", false, []string{"record", "store", "revision"}, ostiary.None},
		{"store", true, []string{"record", "store", "revision", "list"}, ostiary.Suspended},
		{"list", false, []string{"record", "store", "revision", "list"}, ostiary.None},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, r := open(t)
			l.Refresh(t.Context())
			r.events, r.fail, r.done = nil, tc.fail, tc.done
			err := l.Set(t.Context(), stop)
			if (err == nil) != (tc.fail == "") || !slices.Equal(r.events, tc.order) || l.Level(alice, pay) != tc.want {
				t.Errorf("%s %v: %v, %q, %v", tc.fail, tc.done, err, r.events, l.Level(alice, pay))
			}
			r.fail = ""
			if err := l.Set(t.Context(), stop); err != nil || l.Level(alice, pay) != ostiary.Suspended {
				t.Errorf("%s: asked again: %v", tc.fail, err)
			}
		})
	}
	l, r := open(t)
	for field, bad := range map[string]containment.Record{
		"scope":  {Scope: "agents", Name: "x", Level: ostiary.Suspended, Reason: "r"},
		"level":  {Scope: "agent", Name: "x", Reason: "r"},
		"name":   {Scope: "agent", Level: ostiary.Suspended, Reason: "r"},
		"reason": {Scope: "agent", Name: "x", Level: ostiary.Suspended},
	} {
		if err := l.Set(t.Context(), bad); err == nil || ostiary.AsError(err).Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if len(r.events) != 0 {
		t.Errorf("something came of it: %q", r.events)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		var told []error
		done := make(chan bool)
		go func() {
			defer close(done)
			l.Follow(ctx, time.Second, func(err error) { told = append(told, err) })
		}()
		time.Sleep(2500 * time.Millisecond)
		if l.Level(bob, pay) != ostiary.None {
			t.Error("not read")
		}
		r.breaks("revision")
		time.Sleep(10 * time.Second)
		if l.Level(bob, pay) != ostiary.NotEstablished {
			t.Error("its lease did not end")
		}
		r.breaks("")
		time.Sleep(2 * time.Second)
		cancel()
		<-done
		if len(told) != 2 || told[0] == nil || told[1] != nil {
			t.Errorf("told %v", told)
		}
	})
}

func TestParseLevel(t *testing.T) {
	for _, c := range []ostiary.Containment{ostiary.None, ostiary.Throttled, ostiary.Restricted, ostiary.Quarantined, ostiary.Suspended} {
		if got, err := containment.ParseLevel(c.String()); got != c || err != nil {
			t.Error(c, got, err)
		}
	}
	for _, w := range []string{"", "not-established", "Suspended", "all"} {
		if got, err := containment.ParseLevel(w); err == nil || got != ostiary.NotEstablished {
			t.Error(w, got, err)
		}
	}
}
