package identity

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// A grown map says what an ordinary one says, and what was handed out before
// does not change.
func TestGrown(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var g grown[int, int]
	model := map[int]int{}
	for round := range 400 {
		more := map[int]int{}
		for range rng.IntN(30) {
			more[rng.IntN(5000)] = round
		}
		before, said := g, maps.Clone(model)
		g = g.with(more)
		maps.Copy(model, more)
		for range 50 {
			k := rng.IntN(5000)
			v, ok := g.get(k)
			if want, known := model[k]; v != want || ok != known || g.has(k) != known {
				t.Fatalf("round %d: %d is %d %v, want %d %v", round, k, v, ok, want, known)
			}
			if v, ok := before.get(k); v != said[k] || ok != (said[k] != 0 || func() bool { _, known := said[k]; return known }()) {
				t.Fatalf("round %d: what was handed out changed", round)
			}
		}
	}
	if len(g.old) == 0 || len(g.young) > maxYoung {
		t.Errorf("%d old, %d young: nothing was merged", len(g.old), len(g.young))
	}
}

// TestL04EndsInAnyOrder: revocations that arrive out of order, in any portions
// and more than once, end the same things in the end, and nothing in between
// is taken back.
func TestL04EndsInAnyOrder(t *testing.T) {
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	var all []Revocation
	for i := range 400 {
		r := Revocation{Epoch: uint64(i + 1), At: day.Add(time.Duration(i%7) * time.Hour)}
		switch i % 6 {
		case 0:
			r.Kind, r.Subject = RevokeAgent, "spiffe://td/agent/"+string(rune('a'+i%5))
		case 1:
			r.Kind, r.Subject = RevokePerson, "person:"+string(rune('a'+i%5))
		case 2:
			r.Kind, r.Subject = RevokeSerial, newSerial(day, uint64(i)).String()
		case 3:
			r.Kind, r.Subject = RevokeKey, ostiary.DigestOf([]byte{byte(i), byte(i >> 8)}).String()
		case 4:
			r.Kind, r.Subject = RevokeMandate, "m"+string(rune('a'+i%9))
		case 5:
			r.Kind, r.Subject, r.Mandate = RevokeSession, "s", ostiary.MandateID("m"+string(rune('a'+i%9)))
		}
		all = append(all, r)
	}
	want := taken(t, &ends{}, all)
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 4))
		some := append(slices.Clone(all), all[:rng.IntN(len(all))]...)
		rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		e := &ends{}
		for len(some) > 0 {
			n := min(1+rng.IntN(90), len(some))
			next := taken(t, e, some[:n])
			for _, r := range all {
				if d, n := says(e, r), says(next, r); d.has && !n.has || d.epoch > n.epoch || d.at.After(n.at) {
					t.Fatalf("seed %d: %s %s was taken back", seed, r.Kind, r.Subject)
				}
			}
			e, some = next, some[n:]
		}
		for _, r := range all {
			if got := says(e, r); got != says(want, r) || !got.has {
				t.Fatalf("seed %d: %s %s: %+v, want %+v", seed, r.Kind, r.Subject, got, says(want, r))
			}
		}
	}
}

func taken(t *testing.T, e *ends, all []Revocation) *ends {
	t.Helper()
	n := e.news()
	for _, r := range all {
		if err := n.add(r); err != nil {
			t.Fatal(err)
		}
	}
	return n.upTo(e.epoch)
}

type said struct {
	has   bool
	epoch uint64
	at    time.Time
}

// says is what is known of the subject of a revocation.
func says(e *ends, r Revocation) (s said) {
	var x ending
	switch r.Kind {
	case RevokeAgent:
		x, s.has = e.agents.get(ostiary.AgentID(r.Subject))
	case RevokePerson:
		x, s.has = e.people.get(ostiary.PrincipalID(r.Subject))
	case RevokeSerial:
		n, _ := parseSerial(r.Subject)
		s.has = e.serials.has(n)
	case RevokeKey:
		d, _ := ostiary.ParseDigest(r.Subject)
		s.has = e.keys.has(d)
	case RevokeMandate:
		s.has = e.mandates.has(ostiary.MandateID(r.Subject))
	case RevokeSession:
		s.has = e.sessions.has(r.Mandate)
	}
	s.epoch, s.at = x.epoch, x.at
	return s
}
