package ostiary

import "strings"

// compareMagnitude compares two decimal literals by how far they are from
// zero, exactly, however they are written: -1 if a is nearer, 0 if they are as
// far, 1 if a is further. Both must be JSON numbers. The time it takes grows
// with their texts, not with what they stand for.
func compareMagnitude(a, b string) int {
	da, pa := digits(a)
	db, pb := digits(b)
	switch {
	case da == "" || db == "":
		return order(len(da) > 0, len(db) > 0)
	case pa != pb:
		return order(pa > pb, pb > pa)
	}
	return strings.Compare(da, db) // equal length is not needed: what is missing at the end is zeros
}

func order(more, less bool) int {
	switch {
	case more && !less:
		return 1
	case less && !more:
		return -1
	}
	return 0
}

// maxPoint stands for every power of ten that is further away than any text
// has digits.
const maxPoint = int64(1) << 60

// digits returns the digits of a literal without zeros at either end, and
// where the point stands: the number is 0.DIGITS times ten to the power of
// point. Zero has no digits.
func digits(s string) (d string, point int64) {
	s = strings.TrimLeft(s, "-+")
	exp := int64(0)
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exp = exponent(s[i+1:])
		s = s[:i]
	}
	whole, fraction, _ := strings.Cut(s, ".")
	point = int64(len(whole))
	if d = whole; fraction != "" {
		d = whole + fraction
	}
	short := strings.TrimLeft(d, "0")
	point -= int64(len(d) - len(short))
	return strings.TrimRight(short, "0"), point + exp
}

func exponent(s string) int64 {
	sign := int64(1)
	if strings.HasPrefix(s, "-") {
		sign = -1
	}
	n := int64(0)
	for _, c := range strings.TrimLeft(s, "+-") {
		if n = n*10 + int64(c-'0'); n >= maxPoint {
			return sign * maxPoint
		}
	}
	return sign * n
}

// isDecimal reports whether s is what a ceiling may hold: digits, perhaps with
// a point between digits, without needless zeros in front.
func isDecimal(s string) bool {
	whole, fraction, pointed := strings.Cut(s, ".")
	if len(s) > maxDecimal || !isDigits(whole) || pointed && !isDigits(fraction) {
		return false
	}
	return whole == "0" || whole[0] != '0'
}

// maxDecimal bounds the text of a ceiling, in bytes: no amount needs more.
const maxDecimal = 64

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// LowerNumber reports whether a number is strictly nearer to zero than another
// and on its side of zero, exactly: what may take its place when an action is
// narrowed. It is a plain decimal, and a whole number if the other is written
// as one.
func LowerNumber(literal, than string) bool {
	bare := strings.TrimPrefix(literal, "-")
	if !isDecimal(bare) || !strings.ContainsAny(than, ".eE") && strings.Contains(bare, ".") {
		return false
	}
	zero := strings.Trim(bare, "0.") == ""
	if negative := bare != literal; zero && negative || !zero && negative != strings.HasPrefix(than, "-") {
		return false
	}
	return compareMagnitude(literal, than) < 0
}
