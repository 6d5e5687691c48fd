package stricthttp

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// sourceRate and sourceBurst bound what one source asks for that costs us
	// something, in a second and at once: a person clicks, a program floods.
	sourceRate  = 2
	sourceBurst = 40
	// allRate and allBurst bound what all sources ask for together: each may
	// cost a durable write.
	allRate  = 100
	allBurst = 400
	// maxSources bounds what is remembered of sources.
	maxSources = 4096
)

// Pace bounds how often strangers can make us write, or look something up: each
// source, so that one who never stops does not keep others out, and all of
// them. A source is an IPv4 address or an IPv6 /64. Safe for concurrent use.
type Pace struct {
	clock func() time.Time
	all   *rate.Limiter

	mu  sync.Mutex // guards one
	one map[netip.Prefix]*rate.Limiter
}

// NewPace returns a pace that nobody has used any of.
func NewPace(clock func() time.Time) *Pace {
	return &Pace{clock: clock, all: rate.NewLimiter(allRate, allBurst), one: map[netip.Prefix]*rate.Limiter{}}
}

// Allow takes one request of a source, as [Source] names it. What is no
// address is refused.
func (p *Pace) Allow(source string) bool {
	a, err := netip.ParseAddr(source)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	from, err := a.Prefix(bits)
	if err != nil {
		return false
	}
	now := p.clock()
	p.mu.Lock()
	l := p.one[from]
	if l == nil {
		if len(p.one) >= maxSources {
			clear(p.one) // forgetting is cheaper than a list, and the limit on all holds
		}
		l = rate.NewLimiter(sourceRate, sourceBurst)
		p.one[from] = l
	}
	p.mu.Unlock()
	return l.AllowN(now, 1) && p.all.AllowN(now, 1)
}
