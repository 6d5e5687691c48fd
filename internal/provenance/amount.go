package provenance

import "strings"

// cents reads a number of at most two digits after the point, in hundredths.
func cents(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	whole, frac, _ := strings.Cut(s, ".")
	frac = strings.TrimRight(frac, "0")
	if whole == "" || len(whole) > 12 || len(frac) > 2 || !allDigits(whole) || frac != "" && !allDigits(frac) {
		return 0, false
	}
	n := int64(0)
	for _, c := range []byte(whole + (frac + "00")[:2]) {
		n = n*10 + int64(c-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}
