package ostiary_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/ostiary/ostiary"
)

func TestPanicked(t *testing.T) {
	caught := func(f func()) (text string) {
		defer func() { text = ostiary.Panicked(recover()).Error() }()
		f()
		return ""
	}
	var list []int
	for name, c := range map[string]struct {
		do   func()
		want string
	}{
		"Q02 a text":                        {func() { panic("c4n4ry") }, "panic with a string"},
		"Q02 a value":                       {func() { panic(struct{ key string }{"c4n4ry"}) }, "panic with a struct { key string }"},
		"Q02 an error":                      {func() { panic(errors.New("c4n4ry")) }, "panic with a *errors.errorString"},
		"Q02 an error around the runtime's": {func() { panic(fmt.Errorf("c4n4ry: %w", runtime.Error(nil))) }, "panic with a *fmt.wrapError"},
		"of the runtime":                    {func() { _ = list[3] }, "panic: runtime error: index out of range [3] with length 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := caught(c.do); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
