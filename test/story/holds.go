package story

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// holds is what a gateway says that it holds.
type holds struct{ Goroutines, Descriptors, Heap int }

// What a gateway may hold more at the end of a story than when it had just
// started: connections to its store, files of its log and the like, which are
// made when they are first needed and then kept.
const (
	moreGoroutines  = 2
	moreDescriptors = 4
	moreHeap        = 16 << 20
)

// holds asks a gateway; false if it does not answer.
func (p *process) holds() (holds, bool) {
	c := exec.Command(findIn(os.Getenv("PATH"), "ostiary"), "status", "--json")
	c.Env, c.Dir = p.cmd.Env, p.cmd.Dir
	out, err := c.Output()
	var s struct{ Holds holds }
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	return s.Holds, err == nil
}

// end ends everything a story has running, and fails it if the gateway, alone
// at last, does not come down to what it held when it had just started: each
// story is an attack, and what an attack leaves behind adds up.
func (s *state) end(t testscript.T) {
	defer s.kill()
	s.killOthers()
	s.tools, s.others, s.crowd, s.calls = nil, nil, nil, nil
	if s.gateway == nil {
		return
	}
	var now holds
	deadline := time.Now().Add(patience)
	for {
		select {
		case <-s.gateway.done: // the story ended it
			return
		default:
		}
		var up bool
		if now, up = s.gateway.holds(); up && now.Goroutines <= s.base.Goroutines+moreGoroutines && now.Descriptors <= s.base.Descriptors+moreDescriptors && now.Heap <= s.base.Heap+moreHeap {
			return
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.gateway.cmd.Process.Signal(syscall.SIGQUIT)
	<-s.gateway.done
	t.Fatal(fmt.Sprintf("the gateway held %+v when it had started, and holds %+v after the story\n%s", s.base, now, s.gateway.out))
}
