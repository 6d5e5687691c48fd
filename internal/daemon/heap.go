package daemon

import "runtime"

// heapRoom is how much garbage a gateway may gather before it is collected,
// over what the collector would allow. What a gateway keeps is some 6 MiB, and
// the collector starts when that much again was allocated: under load dozens
// of times a second, each time with the stacks of all calls. With this room it
// starts less than half as often, for this much more memory at most; an idle
// gateway must stay below 60 MiB in all, also after a busy hour.
const heapRoom = 8 << 20

// roomyHeap gives the collector that room until the function it returns is
// called: a block that is reachable and never touched. It counts as live, which
// the collector's pace goes by, and the system never gives it memory.
// (A higher percentage would cost much where much is kept.)
func roomyHeap() (release func()) {
	block := make([]byte, heapRoom)
	return func() { runtime.KeepAlive(block) }
}
