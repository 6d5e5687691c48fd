package console

import (
	"fmt"
	"time"
)

// chart is a small series of bars on a baseline, drawn on the server: it needs
// no script, prints, and moves nothing.
type chart struct {
	Title, Unit string
	Class       string // colour
	Total       string // what the bars sum up to, or the highest
	Top         string // label of the highest bar
	Bars        []bar
	Width       int
	Words       string // for who cannot see it
}

type bar struct {
	X, Y, W, H int
	Label      string
}

const (
	chartHeight = 56
	barWidth    = 4
	barStep     = 5
)

// bars draws counts, or microseconds.
func bars(title, unit string, values []int, class string, micros bool) chart {
	most, sum := 0, 0
	for _, v := range values {
		most, sum = max(most, v), sum+v
	}
	say := func(v int) string {
		if micros {
			return span(time.Duration(v) * time.Microsecond)
		}
		return fmt.Sprint(v)
	}
	c := chart{Title: title, Unit: unit, Class: class, Total: say(sum), Top: say(most), Width: len(values) * barStep}
	if micros {
		c.Total = "≤ " + say(most)
	}
	c.Words = fmt.Sprintf("%s: %s over %d bars, at most %s in one", title, c.Total, len(values), c.Top)
	if most == 0 {
		c.Total = "0"
		if micros {
			c.Total = "no data"
		}
		return c
	}
	for i, v := range values {
		if v == 0 {
			continue
		}
		h := max(2, v*chartHeight/most)
		c.Bars = append(c.Bars, bar{i * barStep, chartHeight - h, barWidth, h, say(v)})
	}
	return c
}

// span is a duration as people read it, to two digits.
func span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return d.Round(time.Minute).String()
}
