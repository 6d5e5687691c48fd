package daemon

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/ledger"
)

func TestWatchdog(t *testing.T) {
	start := time.Now()
	type look struct {
		after  time.Duration
		size   uint64
		queued int
		stuck  bool
	}
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"nothing to do", []look{{0, 5, 0, false}, {time.Minute, 5, 0, false}}},
		{"slow", []look{{0, 5, 9, false}, {14 * time.Second, 6, 9, false}, {28 * time.Second, 7, 9, false}}},
		{"stuck", []look{{0, 5, 0, false}, {time.Second, 5, 1, false}, {14 * time.Second, 5, 1, false}, {15 * time.Second, 5, 1, true}, {17 * time.Second, 6, 1, false}}},
		{"stuck from the first look", []look{{0, 0, 1, false}, {15 * time.Second, 0, 1, true}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var w watchdog
			for _, l := range tc.looks {
				if got := w.stuck(start.Add(l.after), ledger.Status{Size: l.size, Queued: l.queued}); got != l.stuck {
					t.Errorf("after %v: %v", l.after, got)
				}
			}
		})
	}
}

func TestLive(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name string
		p    *pulse
		live bool
	}{
		{"starting", nil, true},
		{"well", &pulse{at: now.Add(-time.Second)}, true},
		{"an old pulse is no pulse", &pulse{at: now.Add(-pulseStops)}, false},
		{"a log that stands still", &pulse{at: now, stuck: "o/g/2026-11"}, false},
	} {
		var h health
		h.pulse.Store(tc.p)
		if live, why := h.live(now); live != tc.live || (why == "") != (tc.live && tc.p != nil) {
			t.Errorf("%s: %v %q", tc.name, live, why)
		}
	}
}
