package stricthttp

import (
	"fmt"
	"testing"
	"time"
)

// TestPace: one who never stops is held up alone, until all together are.
func TestPace(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	p := NewPace(func() time.Time { return now })
	took := func(source string, times int) (n int) {
		for range times {
			if p.Allow(source) {
				n++
			}
		}
		return n
	}
	for _, source := range []string{"192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"} {
		if n := took(source, 3*sourceBurst); n != sourceBurst {
			t.Errorf("%s: %d", source, n)
		}
	}
	for _, same := range []string{"192.0.2.2", "2001:db8::ffff", "", "not an address"} {
		if n := took(same, 1); n != 0 {
			t.Errorf("%q is a source of its own", same)
		}
	}
	if took("192.0.2.3", 1) != 1 || took("2001:db8:0:1::1", 1) != 1 {
		t.Error("somebody else is held up")
	}
	now = now.Add(time.Second)
	if n := took("192.0.2.1", 10); n != sourceRate {
		t.Errorf("after a second: %d", n)
	}
	now = now.Add(time.Hour)
	total := 0
	for i := range 2 * allBurst {
		total += took(fmt.Sprintf("198.51.%d.%d", i/200, i%200), 1)
	}
	if total != allBurst {
		t.Errorf("all together: %d", total)
	}
	for i := range 2 * maxSources {
		p.Allow(fmt.Sprintf("10.%d.%d.1", i/250, i%250))
	}
	if n := len(p.one); n > maxSources {
		t.Errorf("%d sources are remembered", n)
	}
}
