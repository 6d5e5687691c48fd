package ledger_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// TestFilledSegmentsAreLetGo: a log holds as many descriptors after a hundred
// segments as after ten, and everything in it can still be read, also while
// they are let go.
func TestFilledSegmentsAreLetGo(t *testing.T) {
	w := newWorld(t.TempDir())
	w.SegmentSize, w.Reserve = ledger.MinSegment, ledger.MinSegment
	l := w.open(t)
	const writers, each = 8, 60 // 32 of these fill a segment
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for n := range each {
				e := intent(fmt.Sprint("a", i), n)
				e.Payload.Inputs = make([]byte, 8<<10)
				r, err := l.Append(t.Context(), e)
				if err == nil {
					_, err = l.Append(t.Context(), outcome(r))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	read := func() (n int) {
		if err := l.Each(ostiary.EntryRef{}, func(r *ledger.Record) error { n++; return l.Unseal(t.Context(), r) }); err != nil {
			t.Error(err)
		}
		return n
	}
	written := make(chan struct{})
	go func() { all.Wait(); close(written) }()
	for reading := true; reading; {
		select {
		case <-written:
			reading = false
		default:
			read()
		}
	}
	// The live one, two that are ready, three that were filled last.
	const most = 6
	open := openSegments(t, w.Dir)
	for deadline := time.Now().Add(30 * time.Second); open > most && time.Now().Before(deadline); open = openSegments(t, w.Dir) {
		time.Sleep(20 * time.Millisecond)
	}
	if open > most {
		t.Errorf("%d segments are open, want at most %d", open, most)
	}
	if n := read(); n < 2*writers*each {
		t.Errorf("%d entries can be read", n)
	}
	if open := openSegments(t, w.Dir); open > most {
		t.Errorf("after reading %d segments are open", open)
	}
}

func openSegments(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	for _, fd := range fds {
		if file, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(file, dir) && strings.HasSuffix(file, ".seg") {
			n++
		}
	}
	return n
}
