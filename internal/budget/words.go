package budget

import (
	"fmt"
	"strconv"

	"github.com/ostiary/ostiary"
)

// minorDigits lists the currencies whose minor unit is not a hundredth.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3, "CLF": 4, "UYW": 4,
}

// Amount writes an amount of a unit for people: "12.50 EUR", "3 calls".
func Amount(unit string, n int64) string {
	switch unit {
	case ostiary.UnitCalls, ostiary.UnitTokens, ostiary.UnitBytes:
		if n == 1 {
			unit = unit[:len(unit)-1]
		}
		return strconv.FormatInt(n, 10) + " " + unit
	}
	d, ok := minorDigits[unit]
	if !ok {
		d = 2
	}
	if d == 0 {
		return strconv.FormatInt(n, 10) + " " + unit
	}
	tens := int64(1)
	for range d {
		tens *= 10
	}
	return fmt.Sprintf("%d.%0*d %s", n/tens, d, n%tens, unit)
}
