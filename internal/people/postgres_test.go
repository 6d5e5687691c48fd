package people_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/people/peopletest"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/store/pgtest"
)

// TestPostgresFirstOperator: two gateways on one database print a link each.
// Of 1,000 browsers with either link, at either gateway, one becomes the
// first operator.
func TestPostgresFirstOperator(t *testing.T) {
	cluster, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Stop() })
	address, err := cluster.NewDatabase()
	if err != nil {
		t.Fatal(err)
	}
	var gateways [2]*house
	for i := range gateways {
		s, err := store.OpenPostgres(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		gateways[i] = newHouse(t, func(o *people.Options) { o.Records = s })
	}
	links := make(chan string, 2)
	var starting sync.WaitGroup
	for _, g := range gateways {
		starting.Go(func() {
			secret, _, err := g.InviteFirst(t.Context())
			if err != nil {
				t.Error(err)
			}
			links <- string(secret.Reveal())
		})
	}
	starting.Wait()
	close(links)
	type try struct {
		at     *house
		link   string
		answer []byte
	}
	var working []string // the other gateway's start may have ended one
	for link := range links {
		if _, err := gateways[0].Invited(t.Context(), link); err == nil {
			working = append(working, link)
		}
	}
	var tries []try
	for i := range 1000 {
		if len(working) == 0 {
			t.Fatal("no link works")
		}
		at, link := gateways[i%2], working[i/2%len(working)]
		options, err := at.AskEnrol(t.Context(), link, "visit", "dana", "")
		if err != nil {
			t.Fatal(err)
		}
		answer, err := peopletest.NewAuthenticator(origin).Create(options)
		if err != nil {
			t.Fatal(err)
		}
		tries = append(tries, try{gateways[(i+1)%2], link, answer})
	}
	var won atomic.Int64
	var all sync.WaitGroup
	for _, x := range tries {
		all.Go(func() {
			_, _, err := x.at.Enrol(t.Context(), x.link, "visit", x.answer)
			if err == nil {
				won.Add(1)
			} else if k := ostiary.KindOf(err); k != ostiary.NotFound && k != ostiary.Conflict {
				t.Error(err)
			}
		})
	}
	all.Wait()
	list, err := gateways[1].List(t.Context())
	if won.Load() != 1 || err != nil || len(list) != 1 {
		t.Errorf("%d of %d won, %d persons, %v", won.Load(), len(tries), len(list), err)
	}
}
