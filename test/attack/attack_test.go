// Package attack tells one story per threat: what the attacker does, the
// refusal, and the entries the ledger holds afterwards. Stories are named by
// the threat they show.
package attack

import (
	"testing"

	"github.com/ostiary/ostiary/test/story"
)

func TestMain(m *testing.M) { story.Main(m, map[string]func(){"spy": spyMain}) }

func TestStories(t *testing.T) { story.Run(t, "testdata", nil) }
