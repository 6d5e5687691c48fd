package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/store"
)

// BenchmarkHolds reads the first page of 10,000 held actions of a kilobyte
// each, as an inbox does, from the embedded store.
func BenchmarkHolds(b *testing.B) {
	s, err := store.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	at := time.Now()
	done := make(chan error, 64)
	for i := range 10_000 {
		go func() {
			_, err := s.CreateHold(b.Context(), approval.Row{
				ID: ostiary.HoldID(fmt.Sprintf("h%05d", i)), Gateway: "gw1", Agent: ostiary.AgentID(fmt.Sprintf("spiffe://a.example/%d", i%500)), Principal: "person:dana",
				State: ostiary.HoldPending, Created: at.Add(time.Duration(i) * time.Millisecond), Expires: at.Add(time.Hour), Until: at.Add(time.Hour), Body: make([]byte, 1024),
			}, 100, at)
			done <- err
		}()
	}
	for range 10_000 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		rows, err := s.Holds(b.Context(), approval.Filter{States: []ostiary.HoldState{ostiary.HoldPending}, Limit: 200})
		if err != nil || len(rows) != 200 {
			b.Fatal(len(rows), err)
		}
	}
}
