package oauth

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// documentLife is how long a client's document and an issuer's keys are
	// believed: what is changed there is seen by then.
	documentLife = 5 * time.Minute
	maxCached    = 256

	// fetchRate and fetchBurst bound how often strangers make us fetch.
	fetchRate  = 2
	fetchBurst = 20

	// paceRate and paceBurst bound what one client has written by showing
	// assertions: each is a durable row, and some are a mandate on every
	// gateway. How many clients there can be, fetchRate bounds.
	paceRate  = 5
	paceBurst = 50
)

// pace takes one assertion of a client. It is asked when the signature is
// good, so that nobody uses up what is somebody else's.
func (s *Server) pace(id string) *refusal {
	now := s.o.Clock()
	l, ok := s.paces.get(id, now)
	if !ok {
		l = rate.NewLimiter(paceRate, paceBurst)
		s.paces.put(id, l, now)
	}
	if !l.AllowN(now, 1) {
		return refuse(unavailable, "this client shows too many assertions: try again in a second")
	}
	return nil
}

// cache keeps what was fetched, for a while. When it is full it forgets
// everything: that costs a fetch, and needs no order.
type cache[T any] struct {
	life time.Duration

	mu  sync.Mutex // guards what follows
	all map[string]cached[T]
}

type cached[T any] struct {
	v    T
	from time.Time
}

func (c *cache[T]) get(key string, now time.Time) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.all[key]
	return v.v, ok && now.Sub(v.from) < c.life && !now.Before(v.from)
}

func (c *cache[T]) put(key string, v T, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil || len(c.all) >= maxCached {
		c.all = map[string]cached[T]{}
	}
	c.all[key] = cached[T]{v, now}
}
