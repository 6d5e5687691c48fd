package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// thriftEvery is how often it is asked whether memory lies idle.
	thriftEvery = 15 * time.Second
	// busyRate is how many bytes a second a gateway allocates that has better
	// things to do: a few hundred calls.
	busyRate = 8 << 20
	// leastReturned is not worth the trouble. What lives includes the heap room,
	// which occupies nothing.
	leastReturned = 4 << 20
)

// thrift gives memory back that nobody needs while nothing much happens, until
// ctx ends. After a burst of calls or connections the runtime keeps up to twice
// what lives, and takes several forced collections, minutes apart, to let go of
// it; beside other programs that is rude. A busy gateway is left alone.
func (d *Daemon) thrift(ctx context.Context) {
	t := time.NewTicker(thriftEvery)
	defer t.Stop()
	before := readUsage()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := readUsage()
		if now.returnable(before, thriftEvery) {
			debug.FreeOSMemory()
		}
		before = now
	}
}

// usage is what the runtime says of its heap, in bytes.
type usage struct {
	allocated uint64 // since the start
	live      uint64 // at the last collection
	held      uint64 // from the system, for objects, whether they live or not
}

func readUsage() usage {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return usage{allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64(), held: s[2].Value.Uint64() + s[3].Value.Uint64() + s[4].Value.Uint64()}
}

// returnable says whether a collection now would give back an eighth of what
// lives, or more, and hold nobody up.
func (u usage) returnable(before usage, passed time.Duration) bool {
	idle := u.allocated-before.allocated < uint64(busyRate*passed.Seconds())
	return idle && u.held > u.live+max(u.live/8, leastReturned)
}
