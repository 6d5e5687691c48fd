// Package script tells the product's stories from outside, with the real
// program.
package script

import (
	"testing"

	"github.com/ostiary/ostiary/test/story"
)

func TestMain(m *testing.M) { story.Main(m, nil) }

func TestStories(t *testing.T) { story.Run(t, "testdata", nil) }
