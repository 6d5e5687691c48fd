package ostiary

import "testing"

// The digest of an action is taken three times on the way of each call.
func TestActionDigestCost(t *testing.T) {
	a := Action{Name: "bank___pay", Method: "tools/call", Server: "bank", Tool: "pay", State: []byte("state")}
	if n := testing.AllocsPerRun(100, func() { a.Digest() }); n > 1 {
		t.Errorf("%.0f allocations", n)
	}
}
