package store

import "testing"

func TestSound(t *testing.T) {
	for v, want := range map[string]bool{
		"3.51.2": false, "3.51.3": true, "3.51.10": true, "3.52.0": false, "3.52.9": false, "3.53.0": true, "4.0.0": true, "2.8.17": false, "": false, "x.y.z": false,
	} {
		if sound(v) != want {
			t.Errorf("%q: %v", v, !want)
		}
	}
}
