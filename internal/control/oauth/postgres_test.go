package oauth

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/store/pgtest"
)

// TestOneCodeOnTwoGateways: of a thousand requests with one code, at two
// servers with a store of their own on one database, one has an answer.
func TestOneCodeOnTwoGateways(t *testing.T) {
	cluster, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop()
	address, err := cluster.NewDatabase()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var both [2]*world
	for i := range both {
		s, err := store.OpenPostgres(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		o := w.o
		o.Records = s
		server, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		both[i] = &world{t: t, Server: server, identity: w.identity}
	}
	f := code4("code", both[0].consented())
	var won atomic.Int64
	var token atomic.Value
	var all sync.WaitGroup
	for i := range 1000 {
		all.Go(func() {
			if status, out, _ := both[i%2].post("/token", caller{}, f); status == 200 {
				won.Add(1)
				token.Store(out.Get("access_token").Text())
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d requests had an answer", won.Load())
	}
	if _, err := w.opens(token.Load().(string), doorURL); err == nil {
		t.Error("its token is good")
	}
}
