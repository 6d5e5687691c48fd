package daemon

import (
	"testing"
	"time"
)

func TestMemoryIsGivenBack(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		name        string
		before, now usage
		want        bool
	}{
		{"after a burst", usage{allocated: 1000 * mb}, usage{allocated: 1010 * mb, live: 300 * mb, held: 700 * mb}, true},
		{"a small heap", usage{}, usage{allocated: 10 * mb, live: 4 * mb, held: 7 * mb}, false},
		{"a small heap that was large", usage{}, usage{allocated: 10 * mb, live: 4 * mb, held: 40 * mb}, true},
		{"nothing worth it", usage{}, usage{allocated: 10 * mb, live: 300 * mb, held: 330 * mb}, false},
		{"busy", usage{allocated: 1000 * mb}, usage{allocated: 3000 * mb, live: 300 * mb, held: 700 * mb}, false},
	} {
		if got := c.now.returnable(c.before, 10*time.Second); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if u := readUsage(); u.allocated == 0 || u.held == 0 {
		t.Errorf("the runtime says nothing: %+v", u)
	}
}
