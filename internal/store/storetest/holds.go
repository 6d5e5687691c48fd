package storetest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/store"
)

func held(id string) approval.Row {
	return approval.Row{
		ID: ostiary.HoldID(id), Gateway: "gw", Agent: "spiffe://a.example/pay", Principal: "person:dana", Session: "s", Action: "bank___send", State: ostiary.HoldPending,
		Created: day, Expires: day.Add(time.Hour), Until: day.Add(48 * time.Hour), Body: []byte("sealed"),
	}
}

// Holds runs the part of the suite that is about held actions, for a fake of
// them alone.
func Holds(t *testing.T, s approval.Store) {
	ctx := t.Context()
	got, rev, listed := get[approval.Row](t), get[uint64](t), get[[]approval.Row](t)
	a := held("a")
	a.Revision = rev(s.CreateHold(ctx, a, 2, day))
	same(t, got(s.Hold(ctx, "a")), a)
	_, err := s.CreateHold(ctx, held("a"), 2, day)
	want(t, err, ostiary.Conflict)
	_, err = s.Hold(ctx, "b")
	want(t, err, ostiary.NotFound)
	for _, bad := range []func(*approval.Row){
		func(r *approval.Row) { r.ID = "" }, func(r *approval.Row) { r.Agent = "" }, func(r *approval.Row) { r.State = ostiary.NoHold },
		func(r *approval.Row) { r.Body = nil }, func(r *approval.Row) { r.Body = make([]byte, approval.MaxBody+1) },
	} {
		r := held("bad")
		bad(&r)
		_, err := s.CreateHold(ctx, r, 10, day)
		want(t, err, ostiary.Malformed)
	}

	b := held("b")
	b.Created = day.Add(time.Second)
	b.Revision = rev(s.CreateHold(ctx, b, 2, day))
	_, err = s.CreateHold(ctx, held("c"), 2, day) // two wait already
	want(t, err, ostiary.Exhausted)
	other := held("d")
	other.Agent, other.Gateway = "spiffe://a.example/other", "gw2"
	other.Revision = rev(s.CreateHold(ctx, other, 2, day))
	c := held("c")
	c.Created, c.Expires = day.Add(2*time.Hour), day.Add(3*time.Hour)
	c.Revision = rev(s.CreateHold(ctx, c, 2, c.Created)) // the two are over by then

	next := a
	next.State, next.Votes, next.Result, next.Intent = ostiary.HoldSpent, []byte("votes"), bytes.Repeat([]byte{0, 0xff}, 1<<19), ostiary.EntryID{1, 2}
	next.Gateway, next.Agent, next.Session, next.Created = "evil", "evil", "evil", day.Add(time.Hour) // not a replacement's to change
	revision := rev(s.ReplaceHold(ctx, next))
	next.Gateway, next.Agent, next.Session, next.Created, next.Revision = a.Gateway, a.Agent, a.Session, a.Created, revision
	same(t, got(s.Hold(ctx, "a")), next)
	_, err = s.ReplaceHold(ctx, a)
	want(t, err, ostiary.Conflict)
	_, err = s.ReplaceHold(ctx, held("none"))
	want(t, err, ostiary.NotFound)

	ids := func(f approval.Filter) (all string) {
		t.Helper()
		for _, r := range listed(s.Holds(ctx, f)) {
			all += string(r.ID)
			if r.Result != nil {
				t.Error("a list holds results")
			}
			if (len(r.Body) == 0) != f.Bare || f.Bare && (r.Votes != nil || !r.Intent.IsZero()) || !f.Bare && r.ID == "a" && len(r.Votes) == 0 {
				t.Errorf("%+v: the sealed parts of %s: %q, %q", f, r.ID, r.Body, r.Votes)
			}
		}
		return all
	}
	for _, x := range []struct {
		f    approval.Filter
		want string
	}{
		{approval.Filter{}, "adbc"},
		{approval.Filter{Limit: 2}, "ad"},
		{approval.Filter{After: approval.Cursor{Created: day, ID: "a"}}, "dbc"},
		{approval.Filter{After: approval.Cursor{Created: day, ID: "d"}, Limit: 1}, "b"},
		{approval.Filter{States: []ostiary.HoldState{ostiary.HoldSpent}}, "a"},
		{approval.Filter{States: []ostiary.HoldState{ostiary.HoldSpent, ostiary.HoldPending}}, "adbc"},
		{approval.Filter{Gateway: "gw2"}, "d"},
		{approval.Filter{Agent: "spiffe://a.example/other"}, "d"},
		{approval.Filter{Since: c.Revision}, "a"},
		{approval.Filter{Changed: true}, "bdca"},
		{approval.Filter{Changed: true, Bare: true, Limit: 2}, "bd"},
		{approval.Filter{Changed: true, Bare: true, Since: other.Revision, Limit: 1}, "c"},
		{approval.Filter{Changed: true, Since: c.Revision}, "a"},
		{approval.Filter{Changed: true, Since: revision}, ""},
		{approval.Filter{Bare: true}, "adbc"},
		{approval.Filter{Before: day.Add(time.Hour), States: []ostiary.HoldState{ostiary.HoldPending}}, "db"},
		{approval.Filter{IDs: []ostiary.HoldID{"c", "a", "none"}}, "ac"},
	} {
		if all := ids(x.f); all != x.want {
			t.Errorf("%+v: %s, want %s", x.f, all, x.want)
		}
	}
	counts, err := s.CountHolds(ctx)
	must(t, err)
	if counts[ostiary.HoldPending] != 3 || counts[ostiary.HoldSpent] != 1 {
		t.Errorf("counts %v", counts)
	}

	if won := race(40, func(i int) error { // I03: one use, whoever is faster
		r := b
		r.State, r.Intent = ostiary.HoldSpent, ostiary.EntryID{byte(i + 1)}
		_, err := s.ReplaceHold(ctx, r)
		return err
	}); won != 1 {
		t.Errorf("%d replaced one revision", won)
	}
	if won := race(40, func(i int) error { // I07: counted in the transaction that adds
		r := held(fmt.Sprint("flood", i))
		r.Agent = "spiffe://a.example/flood"
		_, err := s.CreateHold(ctx, r, 5, day)
		return err
	}); won != 5 {
		t.Errorf("%d holds of at most 5", won)
	}

	if n, err := s.SweepHolds(ctx, day.Add(48*time.Hour)); n != 0 || err != nil {
		t.Errorf("what has not ended was swept: %d, %v", n, err)
	}
	next.State = ostiary.HoldDone
	next.Revision = rev(s.ReplaceHold(ctx, next))
	if n, err := s.SweepHolds(ctx, day.Add(47*time.Hour)); n != 0 || err != nil {
		t.Errorf("swept too early: %d, %v", n, err)
	}
	if n, err := s.SweepHolds(ctx, day.Add(48*time.Hour)); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	_, err = s.Hold(ctx, "a")
	want(t, err, ostiary.NotFound)
}

func holds(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	Holds(t, s)
	cs := get[[]store.Change](t)(s.Changes(ctx, 0))
	if len(cs) < 6 || cs[0].Kind != "hold" || cs[0].Key != "a" || bytes.Contains(cs[0].Body, []byte("sealed")) {
		t.Errorf("%+v", cs)
	}
	rev := get[uint64](t)
	r := held("fault")
	r.Agent = "spiffe://a.example/fault"
	e.Fail(s, false) // it did not happen
	if _, err := s.CreateHold(ctx, r, 9, day); err == nil {
		t.Error("a failed commit succeeded")
	}
	_, err := s.Hold(ctx, "fault")
	want(t, err, ostiary.NotFound)
	e.Fail(s, true) // it happened, and its answer was lost: asked again by its request
	r.Revision = rev(s.CreateHold(ctx, r, 9, day))
	r.State = ostiary.HoldGranted
	e.Fail(s, true)
	r.Revision = rev(s.ReplaceHold(ctx, r))
	same(t, get[approval.Row](t)(s.Hold(ctx, "fault")), r)
	if e.Reopen != nil {
		s = e.Reopen(t, s)
		same(t, get[approval.Row](t)(s.Hold(ctx, "fault")), r)
	}
}
