package ostiary_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

func TestScale(t *testing.T) {
	for _, c := range []struct {
		literal  string
		decimals int
		want     int64
		ok       bool
	}{
		{"0", 2, 0, true}, {"-0", 2, 0, true}, {"0.000", 0, 0, true}, {"12.5", 2, 1250, true}, {"12.50", 2, 1250, true}, {"12.505", 2, 0, false},
		{"1e3", 0, 1000, true}, {"1E-2", 2, 1, true}, {"1e-3", 2, 0, false}, {"100e-2", 0, 1, true}, {"-1", 0, 0, false},
		{"999999999999999999", 0, 999999999999999999, true}, {"1e18", 0, 1e18, true}, {"1e19", 0, 0, false}, {"1e999999999999999999999", 0, 0, false},
		{"", 0, 0, false}, {"1.", 0, 0, false}, {"01", 0, 0, false}, {"1e", 0, 0, false}, {"1e+-1", 0, 0, false}, {"x", 0, 0, false}, {"+1", 0, 0, false}, {" 1", 0, 0, false},
		{"9999999999999999999", 0, 0, false},
	} {
		if n, ok := ostiary.Scale(c.literal, c.decimals); n != c.want || ok != c.ok {
			t.Errorf("Scale(%q, %d) = %d, %v", c.literal, c.decimals, n, ok)
		}
	}
}

// FuzzScale compares with exact rationals.
func FuzzScale(f *testing.F) {
	for _, s := range []string{"12.50", "1e2", "-3", "0.0001", "99999999999999999999"} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, s string, decimals int) {
		decimals = min(max(decimals, 0), 6)
		n, ok := ostiary.Scale(s, decimals)
		if !ok || len(s) > 40 {
			return
		}
		r, valid := new(big.Rat).SetString(s)
		if !valid {
			t.Fatalf("%q is no number, and became %d", s, n)
		}
		r.Mul(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)))
		if r.Cmp(new(big.Rat).SetInt64(n)) != 0 {
			t.Fatalf("Scale(%q, %d) = %d", s, decimals, n)
		}
	})
}

// TestChainBudgets: every link that has a budget is charged, with its own.
func TestChainBudgets(t *testing.T) {
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	link := func(id, parent ostiary.MandateID, calls, depth int64) ostiary.Mandate {
		m := ostiary.Mandate{
			ID: id, Kind: ostiary.TaskMandate, Parent: parent, Principal: "person:a", By: "person:a", Agent: ostiary.AgentID("spiffe://td/agent/" + string(id)),
			Actions: []string{"*"}, Resources: []string{"*"}, Classes: []string{"*"}, Approvers: []string{"*"}, Depth: depth, NotBefore: start, Expires: start.Add(time.Hour),
		}
		m.Budget.Calls = calls
		return m
	}
	e, err := ostiary.Effective([]ostiary.Mandate{link("a", "", 10, 3), link("b", "a", 0, 2), link("c", "b", 3, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Budgets) != 2 || e.Budgets[0].ID != "a" || e.Budgets[0].Budget.Calls != 10 || e.Budgets[1].ID != "c" || e.Budgets[1].Budget.Calls != 3 {
		t.Fatalf("%+v", e.Budgets)
	}
}
