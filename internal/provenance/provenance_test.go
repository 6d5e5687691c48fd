package provenance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// disk is a store that outlives Sessions, as a real one outlives a process.
type disk struct {
	sessions map[key]*SessionRecord
	fail     error  // what TaintSession reports
	done     bool   // it happened all the same
	unread   error  // what SessionTaint reports
	unopened error  // what OpenSession reports
	between  func() // runs after OpenSession has read
	before   func() // runs before TaintSession writes
}

func newDisk() *disk { return &disk{sessions: map[key]*SessionRecord{}} }

func (d *disk) OpenSession(_ context.Context, fresh SessionRecord) (SessionRecord, error) {
	k := key{fresh.Agent, fresh.Principal, fresh.Mandate}
	if d.unopened != nil && !d.done {
		return SessionRecord{}, d.unopened
	}
	if d.sessions[k] == nil {
		d.sessions[k] = &fresh
	}
	if d.unopened != nil {
		return SessionRecord{}, d.unopened
	}
	r := *d.sessions[k]
	r.Taint = d.ofKin(r.Root)
	if f := d.between; f != nil {
		d.between = nil
		f()
	}
	return r, nil
}

func (d *disk) TaintSession(_ context.Context, id ostiary.SessionID, source string) error {
	if d.fail != nil && !d.done {
		return d.fail
	}
	if f := d.before; f != nil {
		d.before = nil
		f()
	}
	for _, r := range d.sessions {
		if r.ID == id && !slices.Contains(r.Taint, source) {
			r.Taint = append(r.Taint, source)
		}
	}
	return d.fail
}

func (d *disk) Session(_ context.Context, id ostiary.SessionID) (SessionRecord, error) {
	for _, r := range d.sessions {
		if r.ID == id {
			return *r, d.unread
		}
	}
	return SessionRecord{}, errors.New("there is none")
}

// ofKin is what sessions of one root have read.
func (d *disk) ofKin(root ostiary.MandateID) (all []string) {
	for _, r := range d.sessions {
		if r.Root == root {
			all = append(all, r.Taint...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var owner = Owner{"spiffe://td/a", "person:dana", "m", "m"}

func open(t *testing.T, s *Sessions) State {
	t.Helper()
	return openAs(t, s, owner)
}

func openAs(t *testing.T, s *Sessions, o Owner) State {
	t.Helper()
	st, err := s.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestTaintOutlivesTheProcess(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	if err := s.Taint(open(t, s).Session.ID, "server:inbox"); err != nil {
		t.Fatal(err)
	}
	if got := open(t, NewSessions(d, time.Now)).Taint; !slices.Equal(got, []string{"server:inbox"}) {
		t.Errorf("after a restart the taint is %q (law 6)", got)
	}
}

// SessionTaint makes a disk one that several processes share.
func (d *disk) SessionTaint(_ context.Context, id ostiary.SessionID) ([]string, error) {
	if f := d.between; f != nil {
		defer func() { d.between = nil; f() }()
	}
	for _, r := range d.sessions {
		if r.ID == id {
			return d.ofKin(r.Root), d.unread
		}
	}
	return nil, d.unread
}

// TestTaintOfAnotherProcess: what one gateway's reply tainted is known to the
// next call through another (law 6).
func TestTaintOfAnotherProcess(t *testing.T) {
	d := newDisk()
	one, two := NewSharedSessions(d, time.Now), NewSharedSessions(d, time.Now)
	id := open(t, one).Session.ID
	if open(t, two).Session.ID != id {
		t.Fatal("two sessions for one agent, principal and mandate")
	}
	for s, source := range map[*Sessions]string{one: "server:inbox", two: "server:web"} {
		if err := s.Taint(id, source); err != nil {
			t.Fatal(err)
		}
	}
	d.between = func() { // here, after the store was asked
		if err := one.Taint(id, "server:late"); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []*Sessions{one, two, one} {
		if got := open(t, s).Taint; !slices.Equal(got, []string{"server:inbox", "server:late", "server:web"}) {
			t.Errorf("taint %q", got)
		}
	}
	d.unread = errors.New("the server is away")
	if _, err := one.Open(context.Background(), owner); ostiary.KindOf(err) != ostiary.Unavailable {
		t.Errorf("got %v: what the session read elsewhere is not known", err)
	}
}

var (
	child      = Owner{"spiffe://td/b", "person:dana", "m/1", "m"}
	sibling    = Owner{"spiffe://td/b", "person:dana", "m/2", "m"} // the same agent, under another mandate for the same work
	grandchild = Owner{"spiffe://td/c", "person:dana", "m/1/1", "m"}
	stranger   = Owner{"spiffe://td/b", "person:dana", "n", "n"}
)

// TestKinShareTaint: what an agent read taints whoever works with it, before
// and after they began, on either gateway, and after a restart (law 6).
func TestKinShareTaint(t *testing.T) {
	d := newDisk()
	one, two := NewSharedSessions(d, time.Now), NewSharedSessions(d, time.Now)
	alone := NewSessions(newDisk(), time.Now)
	for _, c := range []struct{ by, other *Sessions }{{one, two}, {two, one}, {alone, alone}} {
		for _, o := range []Owner{owner, child, grandchild} {
			source := "server:" + string(o.Mandate)
			if err := c.by.Taint(openAs(t, c.by, o).Session.ID, source); err != nil {
				t.Fatal(err)
			}
			for _, kin := range []Owner{owner, child, sibling, grandchild} {
				for _, s := range []*Sessions{c.by, c.other} {
					if got := openAs(t, s, kin).Taint; !slices.Contains(got, source) {
						t.Errorf("%s has read %q: %s has taint %q", o.Mandate, source, kin.Mandate, got)
					}
				}
			}
		}
		if got := openAs(t, c.by, stranger).Taint; len(got) != 0 {
			t.Errorf("other work has taint %q", got)
		}
	}
	if got := openAs(t, NewSessions(d, time.Now), grandchild).Taint; len(got) != 3 {
		t.Errorf("after a restart the taint is %q", got)
	}
}

// Whose a session is can be asked by its name.
func TestOwner(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	id := openAs(t, s, grandchild).Session.ID
	if o, err := s.Owner(t.Context(), id); err != nil || o != grandchild {
		t.Errorf("%+v %v", o, err)
	}
	if _, err := s.Owner(t.Context(), "none"); err == nil {
		t.Error("a session that does not exist has an owner")
	}
	d.unread = errors.New("disk")
	if _, err := s.Owner(t.Context(), id); err == nil {
		t.Error("the owner of a session that could not be read")
	}
}

// TestTaintOfForgottenKin: a session that memory dropped taints those of its
// kin that are still there, and those that are read at that moment.
func TestTaintOfForgottenKin(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	id := open(t, s).Session.ID
	openAs(t, s, child)
	delete(s.byKey, key{owner.Agent, owner.Principal, owner.Mandate})
	delete(s.byID, id)
	s.kins[owner.Root].members--
	d.between = func() {
		if err := s.Taint(id, "server:inbox"); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []Owner{grandchild, child, owner} {
		if got := openAs(t, s, o).Taint; !slices.Equal(got, []string{"server:inbox"}) {
			t.Errorf("%s has taint %q (law 6)", o.Mandate, got)
		}
	}
}

// TestTaintNotStored: content may be released only when its taint stands, so
// a failing store is the caller's to know, each time until it can store.
func TestTaintNotStored(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("happened %v", done), func(t *testing.T) {
			d := newDisk()
			s := NewSessions(d, time.Now)
			id := open(t, s).Session.ID
			d.fail, d.done = errors.New("disk"), done
			for range 2 {
				if err := s.Taint(id, "server:inbox"); ostiary.KindOf(err) != ostiary.Unavailable {
					t.Fatalf("got %v: the content would be released, and a restart would shed its taint (law 6)", err)
				}
			}
			d.fail = nil
			if err := s.Taint(id, "server:inbox"); err != nil {
				t.Fatal(err)
			}
			if got := open(t, s).Taint; !slices.Equal(got, []string{"server:inbox"}) {
				t.Errorf("taint %q", got)
			}
		})
	}
}

// TestSessionNotOpened: a session whose making failed is no session, and one
// that was made all the same is the one that is found later.
func TestSessionNotOpened(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("happened %v", done), func(t *testing.T) {
			d := newDisk()
			d.unopened, d.done = errors.New("disk"), done
			s := NewSessions(d, time.Now)
			for range 2 {
				if _, err := s.Open(t.Context(), owner); ostiary.KindOf(err) != ostiary.Unavailable || s.Count() != 0 {
					t.Fatalf("%v, %d sessions", err, s.Count())
				}
			}
			var made ostiary.SessionID
			for _, r := range d.sessions {
				made = r.ID
			}
			d.unopened = nil
			if got := open(t, s).Session.ID; len(d.sessions) != 1 || done && got != made {
				t.Errorf("session %s of %d, made was %s", got, len(d.sessions), made)
			}
		})
	}
}

// TestTaintOfForgottenSession: what was dropped from memory is tainted in the
// store, and by somebody who reads it in the same moment.
func TestTaintOfForgottenSession(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	id := open(t, s).Session.ID
	s.forget()

	d.fail = errors.New("disk")
	if err := s.Taint(id, "server:inbox"); ostiary.KindOf(err) != ostiary.Unavailable {
		t.Errorf("a failed store: %v", err)
	}
	d.fail = nil
	d.between = func() {
		if err := s.Taint(id, "server:inbox"); err != nil {
			t.Error(err)
		}
	}
	if got := open(t, s).Taint; !slices.Equal(got, []string{"server:inbox"}) {
		t.Errorf("the session in memory has taint %q, the stored one has one", got)
	}
}

// TestTaintOfSessionForgottenMeanwhile: memory drops the session while its
// taint is written, and somebody reads it again before the taint is there.
func TestTaintOfSessionForgottenMeanwhile(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	id := open(t, s).Session.ID
	d.before = func() {
		s.forget()
		open(t, s)
	}
	if err := s.Taint(id, "server:inbox"); err != nil {
		t.Fatal(err)
	}
	if got := open(t, s).Taint; !slices.Equal(got, []string{"server:inbox"}) {
		t.Errorf("taint %q (law 6)", got)
	}
}

// Two calls that open a session at once share it: the slower one does not put
// what it read before the other was tainted in its place.
func TestTaintWhileAnotherOpens(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	d.between = func() {
		if err := s.Taint(open(t, s).Session.ID, "server:inbox"); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if got := open(t, s).Taint; !slices.Equal(got, []string{"server:inbox"}) {
			t.Errorf("taint %q (law 6)", got)
		}
	}
}

// A source taints once, in order, and what was handed out before stays as it was.
func TestTaintIsASet(t *testing.T) {
	s := NewSessions(newDisk(), time.Now)
	id := open(t, s).Session.ID
	var before State
	for i, source := range []string{"server:web", "server:inbox", "server:web"} {
		if err := s.Taint(id, source); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			before = open(t, s)
		}
	}
	if st := open(t, s); !slices.Equal(st.Taint, []string{"server:inbox", "server:web"}) || st.Reads != 3 {
		t.Errorf("%+v", st)
	}
	if !slices.Equal(before.Taint, []string{"server:web"}) || before.Reads != 1 {
		t.Errorf("a state changed after it was read: %+v", before)
	}
}

// Memory is bounded, and forgetting loses nothing.
func TestForgetting(t *testing.T) {
	d := newDisk()
	s := NewSessions(d, time.Now)
	id := open(t, s).Session.ID
	if err := s.Taint(id, "server:inbox"); err != nil {
		t.Fatal(err)
	}
	for i := range maxCached {
		k := key{agent: ostiary.AgentID(fmt.Sprint(i))}
		x := &session{key: k, id: ostiary.SessionID(fmt.Sprint(i)), kin: &kin{members: 1}}
		s.byKey[k], s.byID[x.id] = x, x
	}
	if _, err := s.Open(context.Background(), Owner{"spiffe://td/b", "person:dana", "m", "m"}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.byKey); n > maxCached/2+2 || n < maxCached/2-2 || n != len(s.byID) {
		t.Errorf("%d sessions in memory, %d by id, at most %d", n, len(s.byID), maxCached)
	}
	if st := open(t, s); st.Session.ID != id || !slices.Equal(st.Taint, []string{"server:inbox"}) {
		t.Errorf("%+v", st)
	}
}
