package daemon

import "testing"

func TestShare(t *testing.T) {
	for _, tc := range []struct {
		n, whole int64
		want     int
	}{{0, 100, 0}, {1, 2, 500}, {2, 2, 1000}, {3, 2, 1000}, {-1, 2, 0}, {1, 0, 1000}, {1 << 62, 1<<63 - 1, 500}} {
		if got := share(tc.n, tc.whole); got != tc.want {
			t.Errorf("%d of %d: %d, want %d", tc.n, tc.whole, got, tc.want)
		}
	}
}
