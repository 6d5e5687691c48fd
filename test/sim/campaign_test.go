package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// inCI is how many seeds every run of the tests tries: about half a minute on
// two cores.
const inCI = 1000

// tellEvery is how often a campaign says where it is; what a test run of its
// own size takes stays silent.
const tellEvery = 10 * time.Second

var (
	seeds   = flag.Uint64("seeds", 0, "how many seeds TestSeed runs (or OSTIARY_SEEDS in the environment)")
	first   = flag.Uint64("first", 1, "the first of them")
	lasting = flag.Duration("for", 0, "begin no more seeds after this time; 0 is no end")
)

// campaign is many worlds, as many at a time as there are processors. A seed
// is tried once, in order; a long one says now and then how far it is and where
// to go on from, and the first world that breaks a law ends it.
type campaign struct {
	first, count uint64
	began        time.Time
	until        time.Time // zero is no end

	mu     sync.Mutex // guards what follows
	next   uint64
	broken bool
	active map[uint64]time.Time // seeds in progress, since when

	total sum
}

func newCampaign(t *testing.T) *campaign {
	c := &campaign{first: *first, next: *first, count: howMany(t), began: time.Now(), active: map[uint64]time.Time{}}
	if *lasting > 0 {
		c.until = c.began.Add(*lasting)
	}
	return c
}

func howMany(t *testing.T) uint64 {
	n := uint64(inCI)
	if s := os.Getenv("OSTIARY_SEEDS"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("OSTIARY_SEEDS: %v", err)
		}
	}
	if *seeds > 0 {
		n = *seeds
	}
	if testing.Short() {
		n = min(n, 50)
	}
	return n
}

func (c *campaign) run(t *testing.T) {
	over, told := make(chan struct{}), make(chan struct{})
	go func() { defer close(told); c.tell(over) }()
	defer func() { close(over); <-told }()
	t.Run("worlds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for {
					seed, ok := c.begin()
					if !ok {
						return
					}
					held := false
					func() {
						defer func() { c.end(seed, held) }()
						held = run(t, seed, &c.total)
					}()
				}
			})
		}
	})
	if c.count > inCI || !c.until.IsZero() {
		t.Log(c.place())
	}
}

// begin takes the next seed, if there is one to be tried.
func (c *campaign) begin() (seed uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.next >= c.first+c.count || !c.until.IsZero() && time.Now().After(c.until) {
		return 0, false
	}
	seed = c.next
	c.next++
	c.active[seed] = time.Now()
	return seed, true
}

func (c *campaign) end(seed uint64, held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.active, seed)
	if !held {
		c.broken = true
	}
}

// tried is how many worlds have lived to their end.
func (c *campaign) tried() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next - c.first - uint64(len(c.active))
}

// place says how far the campaign is. It begins with the oldest world that is
// still alive: one that hangs or takes the process with it is this one, or lives
// beside it.
func (c *campaign) place() string {
	tried, took := c.tried(), time.Since(c.began)
	rate := float64(tried) / took.Seconds()
	c.mu.Lock()
	defer c.mu.Unlock()
	from, alive := c.next, ""
	for seed, since := range c.active {
		if seed < from {
			from, alive = seed, fmt.Sprintf(", seed %d alive for %v", seed, time.Since(since).Round(time.Second))
		}
	}
	left := "no time"
	if rate > 0 {
		left = time.Duration(float64(c.first+c.count-from) / rate * float64(time.Second)).Round(time.Second).String()
	}
	return fmt.Sprintf("%d of %d seeds in %v, %.1f a second, %s left%s; go on from here with -first %d -seeds %d",
		tried, c.count, took.Round(time.Second), rate, left, alive, from, c.first+c.count-from)
}

// tell writes to standard error, which "go test -v" shows at once and which is
// still read if the process ends badly.
func (c *campaign) tell(over <-chan struct{}) {
	if c.count <= inCI && c.until.IsZero() {
		return
	}
	t := time.NewTicker(tellEvery)
	defer t.Stop()
	for {
		select {
		case <-over:
			return
		case <-t.C:
			fmt.Fprintln(os.Stderr, c.place())
		}
	}
}
