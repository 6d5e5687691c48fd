package approval_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/store"
)

// BenchmarkInbox lists the first page of an inbox of 10,000 held actions, and
// says what they hold in memory: nothing but their rows.
func BenchmarkInbox(b *testing.B) {
	w := newWorld(b, func(o *approval.Options) { o.Rules.Most = 1 << 20 })
	at := time.Now()
	w.now = func() time.Time { return at }
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 10_000 {
		if i%50 == 0 {
			at = at.Add(2 * time.Minute) // as fast as may be asked
		}
		w.a.Rules().Life = 1000 * time.Hour
		if _, err := w.a.Hold(b.Context(), request(b, fmt.Sprintf(`{"amount":%d,"to":["a","b"],"note":"October, paid late"}`, i)), denial("approval:finance")); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		if all, err := w.a.List(b.Context(), approval.Filter{States: []ostiary.HoldState{ostiary.HoldPending}, Limit: 200}); err != nil || len(all) != 200 {
			b.Fatal(len(all), err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB/10k-held")
	runtime.KeepAlive(w)
}

// BenchmarkDecided is how long it takes from a vote to the waiting call's
// result, on the embedded store: the vote is counted, the consent spent, the
// call carried out (here by nobody), its result kept, and its caller told.
func BenchmarkDecided(b *testing.B) {
	s, err := store.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	at := time.Now()
	w := newWorld(b, func(o *approval.Options) { o.Store, o.Rules.Most = s, 1<<20 })
	w.now = func() time.Time { return at }
	running(w, func() {
		for b.Loop() {
			b.StopTimer()
			at = at.Add(time.Minute)
			id := w.hold("approval:finance")
			v, _, err := w.a.Ask(b.Context(), id, "person:erin", yes)
			if err != nil {
				b.Fatal(err)
			}
			told := make(chan approval.Settlement, 1)
			go func() {
				got, _ := w.a.Wait(b.Context(), id, dana)
				told <- got
			}()
			b.StartTimer()
			if _, err := w.a.Cast(b.Context(), approval.Ballot{Vote: sign(v, "key of erin")}); err != nil {
				b.Fatal(err)
			}
			if got := <-told; got.State != ostiary.HoldDone {
				b.Fatal(got)
			}
		}
	})
}
