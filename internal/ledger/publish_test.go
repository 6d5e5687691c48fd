package ledger_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Whoever holds a published checkpoint finds the tiles of its tree, also
// after a restart, until full ones took their place.
func TestPartialTilesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, fs, _ := memoryWorld()
		l := w.open(t)
		tiles := "/log/" + proof.Month(l.Origin()) + "/tiles/"
		var widths []int
		checkTiles := func() {
			t.Helper()
			for _, width := range widths {
				for _, name := range []string{proof.TilePath(0, 0, width), proof.TilePath(-1, 0, width)} {
					if fs.Read(tiles+name) == nil {
						t.Errorf("%s is gone", name)
					}
				}
			}
		}
		published := func() {
			t.Helper()
			time.Sleep(2 * time.Second)
			c, err := proof.PeekCheckpoint(fs.Read(tiles + "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			widths = append(widths, int(c.Size))
		}
		write := func(n int) {
			t.Helper()
			for range n {
				e := &ostiary.Entry{Kind: ostiary.KindOutcome, Disposition: ostiary.Refused, Code: "no_policy", Agent: "spiffe://test/agent/a"}
				if _, err := l.Append(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 3 {
			write(5)
			published()
			checkTiles()
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = w.open(t)
		published()
		checkTiles()

		write(proof.TileWidth)
		time.Sleep(2 * time.Second)
		for _, width := range widths {
			if name := proof.TilePath(0, 0, width); fs.Read(tiles+name) != nil {
				t.Errorf("%s stands beside the full tile", name)
			}
			if name := proof.TilePath(-1, 0, width); fs.Read(tiles+name) != nil {
				t.Errorf("%s stands beside the full bundle", name)
			}
		}
		for _, name := range []string{proof.TilePath(0, 0, proof.TileWidth), proof.TilePath(-1, 0, proof.TileWidth), proof.TilePath(1, 0, 1)} {
			if fs.Read(tiles+name) == nil {
				t.Errorf("%s is missing", name)
			}
		}
		if len(widths) != 4 {
			t.Fatal(fmt.Sprint(widths))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
