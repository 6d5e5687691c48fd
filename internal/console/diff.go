package console

import "strings"

// maxCompared bounds a comparison: with as many lines on each side it takes a
// few milliseconds. Longer texts are shown one after the other.
const maxCompared = 2000

// aroundDiff is how many lines that are the same are shown around others.
const aroundDiff = 3

// difference compares two texts line by line.
func difference(a, b string) []diffLine {
	old, now := splitLines(a), splitLines(b)
	if len(old) > maxCompared || len(now) > maxCompared {
		var out []diffLine
		for _, l := range old {
			out = append(out, diffLine{"-", NewForeign(l)})
		}
		for _, l := range now {
			out = append(out, diffLine{"+", NewForeign(l)})
		}
		return out
	}
	// The longest common run of lines, from the end.
	long := make([][]int16, len(old)+1)
	for i := range long {
		long[i] = make([]int16, len(now)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(now) - 1; j >= 0; j-- {
			if old[i] == now[j] {
				long[i][j] = long[i+1][j+1] + 1
			} else {
				long[i][j] = max(long[i+1][j], long[i][j+1])
			}
		}
	}
	var out []diffLine
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case i < len(old) && j < len(now) && old[i] == now[j]:
			out = append(out, diffLine{" ", NewForeign(old[i])})
			i, j = i+1, j+1
		case i < len(old) && (j == len(now) || long[i+1][j] >= long[i][j+1]):
			out = append(out, diffLine{"-", NewForeign(old[i])})
			i++
		default:
			out = append(out, diffLine{"+", NewForeign(now[j])})
			j++
		}
	}
	return near(out)
}

// near leaves out what is the same and far from what is not.
func near(all []diffLine) (out []diffLine) {
	keep := make([]bool, len(all))
	for i, l := range all {
		if l.Mark == " " {
			continue
		}
		for k := max(0, i-aroundDiff); k <= min(len(all)-1, i+aroundDiff); k++ {
			keep[k] = true
		}
	}
	for i, l := range all {
		switch {
		case keep[i]:
			out = append(out, l)
		case i > 0 && keep[i-1]:
			out = append(out, diffLine{"…", NewForeign("")})
		}
	}
	return out
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}
