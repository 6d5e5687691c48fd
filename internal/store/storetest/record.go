package storetest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
)

func item(id, data string) record.Record {
	return record.Record{Kind: "code", ID: id, Data: []byte(data), Expires: day.Add(time.Minute)}
}

func records(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	got := get[record.Record](t)
	rev := get[uint64](t)
	listed := get[[]record.Record](t)

	a := item("a", "one")
	a.Revision = rev(s.CreateRecord(ctx, a, day))
	same(t, got(s.Record(ctx, "code", "a", day)), a)
	_, err := s.CreateRecord(ctx, item("a", "two"), day)
	want(t, err, ostiary.Conflict)
	_, err = s.Record(ctx, "session", "a", day) // of another kind
	want(t, err, ostiary.NotFound)
	cs := get[[]store.Change](t)(s.Changes(ctx, 0))
	if len(cs) != 1 || cs[0].Rev != a.Revision || cs[0].Kind != "record" || cs[0].Key != "code a" || bytes.Contains(cs[0].Body, []byte("one")) {
		t.Fatalf("%+v", cs)
	}

	t.Run("expires", func(t *testing.T) {
		_, err := s.Record(ctx, "code", "a", a.Expires)
		want(t, err, ostiary.NotFound)
		_, err = s.TakeRecord(ctx, "code", "a", a.Expires)
		want(t, err, ostiary.NotFound)
		if all := listed(s.Records(ctx, "code", "", 10, a.Expires)); len(all) != 0 {
			t.Fatalf("%+v", all)
		}
		again := item("a", "again")
		again.Expires = a.Expires.Add(time.Minute)
		again.Revision = rev(s.CreateRecord(ctx, again, a.Expires))
		same(t, got(s.Record(ctx, "code", "a", a.Expires)), again)
		a = again
	})
	t.Run("replaced by revision", func(t *testing.T) {
		b := a
		b.Data = bytes.Repeat([]byte{0, 0xff}, record.MaxData/2)
		b.Expires = time.Time{}
		b.Revision = rev(s.ReplaceRecord(ctx, b))
		if b.Revision == a.Revision {
			t.Fatal("the revision did not move")
		}
		same(t, got(s.Record(ctx, "code", "a", day.Add(1000*time.Hour))), b)
		_, err := s.ReplaceRecord(ctx, a)
		want(t, err, ostiary.Conflict)
		_, err = s.ReplaceRecord(ctx, item("none", "x"))
		want(t, err, ostiary.NotFound)
		if won := race(20, func(i int) error {
			c := b
			c.Data = []byte{byte(i) + 1}
			_, err := s.ReplaceRecord(ctx, c)
			return err
		}); won != 1 {
			t.Fatalf("%d replaced one revision", won)
		}
	})
	t.Run("listed", func(t *testing.T) {
		for i := range 25 {
			rev(s.CreateRecord(ctx, record.Record{Kind: "list", ID: fmt.Sprintf("%02d", i), Data: []byte{1}}, day))
		}
		var ids []string
		for after := ""; ; {
			page := listed(s.Records(ctx, "list", after, 10, day))
			for _, r := range page {
				ids = append(ids, r.ID)
			}
			if len(page) < 10 {
				break
			}
			after = page[len(page)-1].ID
		}
		if len(ids) != 25 || ids[0] != "00" || ids[24] != "24" {
			t.Fatal(ids)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		must(t, s.DeleteRecord(ctx, "code", "a"))
		want(t, s.DeleteRecord(ctx, "code", "a"), ostiary.NotFound)
	})
	t.Run("refused", func(t *testing.T) {
		before := rev(s.Revision(ctx))
		for _, bad := range []record.Record{
			{}, {Kind: "k", ID: "i"}, {Kind: "k", Data: []byte("x")}, {Kind: "k k", ID: "i", Data: []byte("x")}, {Kind: "k", ID: "i\x00", Data: []byte("x")},
			{Kind: "k", ID: "é", Data: []byte("x")}, {Kind: strings.Repeat("k", record.MaxKind+1), ID: "i", Data: []byte("x")},
			{Kind: "k", ID: strings.Repeat("i", record.MaxID+1), Data: []byte("x")}, {Kind: "k", ID: "i", Data: make([]byte, record.MaxData+1)},
		} {
			_, err := s.CreateRecord(ctx, bad, day)
			want(t, err, ostiary.Malformed)
			_, err = s.ReplaceRecord(ctx, bad)
			want(t, err, ostiary.Malformed)
		}
		_, err := s.Records(ctx, "k", "", record.MaxList+1, day)
		want(t, err, ostiary.Malformed)
		_, err = s.Records(ctx, "k", "", 0, day)
		want(t, err, ostiary.Malformed)
		_, err = s.TakeRecord(ctx, "", "", day)
		want(t, err, ostiary.Malformed)
		if after := rev(s.Revision(ctx)); after != before {
			t.Fatalf("revision %d after %d", after, before)
		}
	})
}

// recordsTaken: of a thousand callers one takes a record.
func recordsTaken(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	a := item("once", "one")
	get[uint64](t)(s.CreateRecord(ctx, a, day))
	before := get[uint64](t)(s.Revision(ctx))
	if won := race(1000, func(int) error {
		r, err := s.TakeRecord(ctx, "code", "once", day)
		if err == nil && string(r.Data) != "one" {
			return fmt.Errorf("took %q", r.Data)
		}
		if err != nil && ostiary.KindOf(err) != ostiary.NotFound {
			t.Error(err)
		}
		return err
	}); won != 1 {
		t.Fatalf("%d took it", won)
	}
	if after := get[uint64](t)(s.Revision(ctx)); after != before+1 {
		t.Fatalf("revision %d after %d", after, before)
	}
	if won := race(50, func(int) error { _, err := s.CreateRecord(ctx, a, day); return err }); won != 1 {
		t.Fatalf("%d created it", won)
	}
}

func recordsSwept(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	count := get[int](t)
	if n := count(s.SweepRecords(ctx, day)); n != 0 {
		t.Fatal(n)
	}
	for i, ends := range []time.Time{day, day.Add(time.Second), day.Add(time.Hour), {}} {
		get[uint64](t)(s.CreateRecord(ctx, record.Record{Kind: "k", ID: fmt.Sprint(i), Data: []byte{1}, Expires: ends}, day.Add(-time.Hour)))
	}
	if n := count(s.SweepRecords(ctx, day.Add(time.Second))); n != 2 {
		t.Fatal(n)
	}
	before := get[uint64](t)(s.Revision(ctx))
	if n := count(s.SweepRecords(ctx, day.Add(time.Second))); n != 0 {
		t.Fatal(n)
	}
	if after := get[uint64](t)(s.Revision(ctx)); after != before {
		t.Fatal("sweeping nothing was a change")
	}
	if left := get[[]record.Record](t)(s.Records(ctx, "k", "", 10, day.Add(-time.Hour))); len(left) != 2 || left[0].ID != "2" || left[1].ID != "3" {
		t.Fatalf("%+v", left)
	}
}

// recordBatches: all of a batch is written, in one revision, or nothing of it.
func recordBatches(t *testing.T, e Engine) {
	s, ctx := e.Open(t), t.Context()
	rev := get[uint64](t)
	listed := get[[]record.Record](t)
	item := func(id, data string, revision uint64) record.Record {
		return record.Record{Kind: "entity", ID: id, Data: []byte(data), Revision: revision}
	}
	first := rev(s.WriteRecords(ctx, []record.Record{item("b", "two", 0), item("a", "one", 0)}, day))
	if now := rev(s.Revision(ctx)); now != first || first != 1 {
		t.Fatalf("revision %d after %d", now, first)
	}
	same(t, listed(s.Records(ctx, "entity", "", 10, day)), []record.Record{item("a", "one", first), item("b", "two", first)})
	cs := get[[]store.Change](t)(s.Changes(ctx, 0))
	if len(cs) != 1 || cs[0].Kind != "record" || cs[0].Key != "entity" || bytes.Contains(cs[0].Body, []byte("one")) {
		t.Fatalf("%+v", cs)
	}

	second := rev(s.WriteRecords(ctx, []record.Record{item("a", "1", first), item("b", "", first), item("c", "three", 0)}, day))
	now := []record.Record{item("a", "1", second), item("c", "three", second)}
	same(t, listed(s.Records(ctx, "entity", "", 10, day)), now)

	for name, batch := range map[string][]record.Record{
		"one is there already":   {item("d", "four", 0), item("a", "x", 0)},
		"one moved":              {item("d", "four", 0), item("a", "x", first)},
		"one is gone":            {item("d", "four", 0), item("b", "x", first)},
		"one to remove moved":    {item("d", "four", 0), item("a", "", first)},
		"one to remove is gone":  {item("d", "four", 0), item("b", "", first)},
		"one of many is too old": {item("c", "3", second), item("a", "x", first)},
	} {
		_, err := s.WriteRecords(ctx, batch, day)
		if ostiary.KindOf(err) != ostiary.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := item("e", "five", 0)
	other.Kind = "else"
	for name, batch := range map[string][]record.Record{
		"none": nil, "empty and new": {item("d", "", 0)}, "one twice": {item("d", "x", 0), item("d", "y", 0)}, "two kinds": {item("d", "x", 0), other},
		"too many": make([]record.Record, record.MaxList+1),
	} {
		_, err := s.WriteRecords(ctx, batch, day)
		if ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	same(t, listed(s.Records(ctx, "entity", "", 10, day)), now)
	if after := rev(s.Revision(ctx)); after != second {
		t.Fatalf("what was refused left revision %d after %d", after, second)
	}

	ended := record.Record{Kind: "entity", ID: "z", Data: []byte("old"), Expires: day.Add(time.Second)}
	rev(s.WriteRecords(ctx, []record.Record{ended}, day))
	rev(s.WriteRecords(ctx, []record.Record{item("z", "new", 0)}, ended.Expires)) // what has expired is as good as absent
	at := get[record.Record](t)(s.Record(ctx, "entity", "z", day)).Revision
	if won := race(20, func(i int) error {
		_, err := s.WriteRecords(ctx, []record.Record{item("z", fmt.Sprint(i), at), item(fmt.Sprintf("y%d", i), "with it", 0)}, day)
		return err
	}); won != 1 {
		t.Fatalf("%d took the place of one revision", won)
	}
	if n := len(listed(s.Records(ctx, "entity", "", 100, day))); n != 4 {
		t.Fatalf("%d records, of one winner", n)
	}
}
