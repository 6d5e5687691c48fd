package ostiary

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The units that a budget counts beside money, whose units are currencies.
const (
	UnitCalls  = "calls"
	UnitTokens = "tokens"
	UnitBytes  = "bytes"
)

// Spend is what one call takes, or may take, from one budget.
type Spend struct {
	Budget string // the configured name, or "mandate:" and the mandate's id
	Holder string // whose account of it: an agent, a role; "" if all share one
	Unit   string // UnitCalls, UnitTokens, UnitBytes, or an ISO 4217 currency
	Amount int64  // in whole units; of a currency in minor ones
}

// LinkBudget is what may be spent under one link of a chain of mandates and
// under everything derived from it.
type LinkBudget struct {
	ID      MandateID
	Expires time.Time // of that link
	Budget  Budget
}

// IsZero reports whether the budget bounds nothing.
func (b *Budget) IsZero() bool {
	return len(b.Money) == 0 && b.Calls == 0 && b.Tokens == 0 && b.Bytes == 0
}

// bounded returns the budgets of a chain that goes on with m.
func bounded(above []LinkBudget, m *Mandate) []LinkBudget {
	if m.Budget.IsZero() {
		return above
	}
	return append(slices.Clip(slices.Clone(above)), LinkBudget{m.ID, m.Expires, m.Budget})
}

// Scale reads a JSON number as a whole number of units that are ten to the
// power of -decimals, exactly: with 2 decimals, 12.5 is 1250. It reports false
// for what is negative, has a finer fraction, or does not fit; nothing is
// rounded.
func Scale(literal string, decimals int) (int64, bool) {
	d, point := digits(literal)
	if d == "" {
		return 0, isNumber(literal)
	}
	zeros := point + int64(decimals) - int64(len(d))
	if strings.HasPrefix(literal, "-") || !isNumber(literal) || zeros < 0 || zeros > 18 || len(d) > 18 {
		return 0, false
	}
	n, err := strconv.ParseInt(d+strings.Repeat("0", int(zeros)), 10, 64)
	return n, err == nil
}

// isNumber reports whether s is a JSON number.
func isNumber(s string) bool {
	s, _ = strings.CutPrefix(s, "-")
	mantissa, exponent := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, exponent = s[:i], strings.TrimLeft(s[i+1:], "+-")
		if len(s[i+1:])-len(exponent) > 1 || !isDigits(exponent) {
			return false
		}
	}
	whole, fraction, pointed := strings.Cut(mantissa, ".")
	return isDigits(whole) && (whole == "0" || whole[0] != '0') && (!pointed || isDigits(fraction))
}
