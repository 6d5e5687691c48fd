package outside

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/formats/log"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	ours "github.com/ostiary/ostiary/proof"
)

// A log of these many entries has full and partial tiles on three levels.
const entries = 70_000

// published is a log as its readers find it.
type published struct {
	dir    string // of checkpoint and tiles
	origin string
	key    string
	held   [][]byte // checkpoints on the way
	proofs [][]byte // our tlog-proofs, under the last checkpoint
}

// openLog opens a new log.
func openLog(t *testing.T) (published, *ledger.Log) {
	t.Helper()
	dir := t.TempDir()
	l, err := ledger.Open(t.Context(), ledger.Options{
		Dir: dir, Deployment: "outside", Gateway: "gw1", Wrap: ledgertest.Wrap(), Control: ledgertest.NewControl(),
		Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return published{origin: l.Origin(), key: l.Key(), dir: filepath.Join(dir, ours.Month(l.Origin()), "tiles")}, l
}

// fill writes a log and returns it closed, with proofs of some entries.
func fill(t *testing.T) published {
	t.Helper()
	p, l := openLog(t)
	defer l.Close()
	// Few at first, so that small trees are among the held checkpoints.
	for written, n := 0, 1; written < entries; written, n = written+n, n*3 {
		n = min(n, entries-written)
		appendMany(t, l, n)
		p.held = append(p.held, l.Checkpoint())
	}
	for _, index := range []uint64{0, 1, 255, 256, 65_535, 65_536, 69_999} {
		text, err := l.Prove(ostiary.EntryRef{Month: ours.Month(p.origin), Index: index})
		if err != nil {
			t.Fatal(err)
		}
		p.proofs = append(p.proofs, text)
	}
	return p
}

// appendMany appends n refused calls, from so many callers at once that they
// share flushes.
func appendMany(t *testing.T, l *ledger.Log, n int) {
	t.Helper()
	const callers = 256
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < n; i += callers {
				_, err := l.Append(t.Context(), &ostiary.Entry{
					Kind: ostiary.KindOutcome, Disposition: ostiary.Refused, Code: "no_policy",
					Agent: ostiary.AgentID(fmt.Sprintf("spiffe://test/agent/a%d", c)), Action: "bank___pay", Server: "bank",
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (p published) fetcher() client.FileFetcher { return client.FileFetcher{Root: p.dir} }

// checkpoint opens a checkpoint by their reading of the format.
func (p published) checkpoint(t *testing.T, signed []byte) *log.Checkpoint {
	t.Helper()
	v, err := note.NewVerifier(p.key)
	if err != nil {
		t.Fatal(err)
	}
	c, rest, _, err := log.ParseCheckpoint(signed, p.origin, v)
	if err != nil || len(rest) != 0 {
		t.Fatalf("checkpoint: %v, and %q follows\n%s", err, rest, signed)
	}
	return c
}

// newest is the published checkpoint.
func (p published) newest(t *testing.T) *log.Checkpoint {
	t.Helper()
	signed, err := p.fetcher().ReadCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p.checkpoint(t, signed)
}

// TestLog has a published log verified by Tessera and by a second Merkle
// library, and their proofs by ours.
func TestLog(t *testing.T) {
	p := fill(t)
	newest := p.newest(t)
	if newest.Size <= entries {
		t.Fatalf("%d entries are published of more than %d", newest.Size, entries)
	}
	t.Run("fsck", func(t *testing.T) {
		if err := p.fsck(t); err != nil {
			t.Error(err)
		}
		if err := p.verifyDir(); err != nil {
			t.Error(err)
		}
	})
	t.Run("consistency", func(t *testing.T) { p.consistency(t, newest) })
	t.Run("inclusion", func(t *testing.T) { p.inclusion(t, newest) })
	t.Run("damage", func(t *testing.T) { p.damage(t, newest.Size) })
}

// consistency: each held checkpoint leads to the newest by a proof that
// Tessera makes from our tiles, and both sides accept that and no other.
func (p published) consistency(t *testing.T, newest *log.Checkpoint) {
	b, err := client.NewProofBuilder(t.Context(), newest.Size, p.fetcher().ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, signed := range p.held {
		c := p.checkpoint(t, signed)
		way, err := b.ConsistencyProof(t.Context(), c.Size, newest.Size)
		if err != nil {
			t.Fatal(err)
		}
		theirs := func(root []byte) error {
			return proof.VerifyConsistency(rfc6962.DefaultHasher, c.Size, newest.Size, way, root, newest.Hash)
		}
		us := func(root []byte) error {
			return ours.CheckConsistency(ours.Checkpoint{Origin: p.origin, Size: c.Size, Root: tlog.Hash(root)},
				ours.Checkpoint{Origin: p.origin, Size: newest.Size, Root: tlog.Hash(newest.Hash)}, hashes(way))
		}
		other := bytes.Clone(c.Hash)
		other[0] ^= 1
		for who, check := range map[string]func([]byte) error{"they": theirs, "we": us} {
			if err := check(c.Hash); err != nil {
				t.Errorf("%d to %d: %s refuse: %v", c.Size, newest.Size, who, err)
			}
			if check(other) == nil {
				t.Errorf("%d to %d: %s accept another root", c.Size, newest.Size, who)
			}
		}
	}
}

// inclusion: our proofs are read by their parser and hold by their
// arithmetic for the entry in the published bundle; and we accept those that
// Tessera makes from our tiles.
func (p published) inclusion(t *testing.T, newest *log.Checkpoint) {
	b, err := client.NewProofBuilder(t.Context(), newest.Size, p.fetcher().ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range p.proofs {
		var in tlogproof.TLogProof
		if err := in.Unmarshal(text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		c := p.checkpoint(t, in.Checkpoint)
		var way [][]byte
		for _, h := range in.Hashes {
			way = append(way, h[:])
		}
		entry := p.entry(t, in.Index)
		leaf := rfc6962.DefaultHasher.HashLeaf(entry)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, in.Index, c.Size, leaf, way, c.Hash); err != nil {
			t.Errorf("entry %d: %v", in.Index, err)
		}
		entry[len(entry)-1] ^= 1
		if proof.VerifyInclusion(rfc6962.DefaultHasher, in.Index, c.Size, rfc6962.DefaultHasher.HashLeaf(entry), way, c.Hash) == nil {
			t.Errorf("entry %d: another entry is proven", in.Index)
		}
		theirs, err := b.InclusionProof(t.Context(), in.Index)
		if err != nil {
			t.Fatal(err)
		}
		head := ours.Checkpoint{Origin: p.origin, Size: newest.Size, Root: tlog.Hash(newest.Hash)}
		if err := ours.CheckInclusion(head, in.Index, p.entry(t, in.Index), hashes(theirs)); err != nil {
			t.Errorf("entry %d: we refuse their proof: %v", in.Index, err)
		}
		// What they write, we read.
		back, err := ours.ParseInclusion(tlogproof.TLogProof{Index: in.Index, Hashes: in.Hashes, Checkpoint: in.Checkpoint, ExtraData: []byte("x")}.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := back.Verify(p.entry(t, in.Index), p.key); err != nil {
			t.Errorf("entry %d: we refuse what they wrote: %v", in.Index, err)
		}
	}
}

// entry is a leaf as they read it from the published bundle.
func (p published) entry(t *testing.T, index uint64) []byte {
	t.Helper()
	bundle, err := client.GetEntryBundle(t.Context(), p.fetcher().ReadEntryBundle, index/256, p.newest(t).Size)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(bundle.Entries[index%256])
}

func hashes(l [][]byte) (out []tlog.Hash) {
	for _, h := range l {
		out = append(out, tlog.Hash(h))
	}
	return out
}

// damage: one changed bit in any kind of published file is found, by them and
// by us.
func (p published) damage(t *testing.T, size uint64) {
	files := []string{"checkpoint", ours.TilePath(-1, 0, 256), ours.TilePath(-1, size/256, int(size%256))}
	for level := 0; size>>(8*level) > 0; level++ {
		have := size >> (8 * level)
		if have >= 256 {
			files = append(files, ours.TilePath(level, 0, 256))
		}
		files = append(files, ours.TilePath(level, have/256, int(have%256)))
	}
	for _, name := range files {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(p.dir, filepath.FromSlash(name))
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(good)
			bad[len(bad)/2] ^= 1
			write(t, file, string(bad))
			defer write(t, file, string(good))
			if p.fsck(t) == nil {
				t.Error("they do not find it")
			}
			if p.verifyDir() == nil {
				t.Error("we do not find it")
			}
		})
	}
}

// TestLateReader: who holds a published checkpoint still finds the tiles of
// its tree after the log grew and published another.
func TestLateReader(t *testing.T) {
	p, l := openLog(t)
	defer l.Close()
	appendMany(t, l, 5)
	early := p.next(t, 0)
	appendMany(t, l, 5)
	p.next(t, early.Size)
	b, err := client.NewProofBuilder(t.Context(), early.Size, p.fetcher().ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for index := range early.Size {
		way, err := b.InclusionProof(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := client.GetEntryBundle(t.Context(), p.fetcher().ReadEntryBundle, 0, early.Size)
		if err != nil {
			t.Fatal(err)
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(bundle.Entries[index])
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, early.Size, leaf, way, early.Hash); err != nil {
			t.Errorf("entry %d: %v", index, err)
		}
	}
}

// next waits for a published checkpoint of more than size entries.
func (p published) next(t *testing.T, size uint64) *log.Checkpoint {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		if signed, err := p.fetcher().ReadCheckpoint(t.Context()); err == nil {
			if c := p.checkpoint(t, signed); c.Size > size {
				return c
			}
		}
		select {
		case <-late:
			t.Fatal("nothing is published")
		case <-tick.C:
		}
	}
}

// fsckTime is how long fsck may take. On a damaged tile fsck of Tessera 1.0.4
// may wait for workers that have ended; no answer is a bad one.
const fsckTime = 20 * time.Second

// fsck runs Tessera's check in a process of its own, which it may hang in or
// end.
func (p published) fsck(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fsckTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, executable(t), fsckCommand, p.dir, p.origin, p.key)
	cmd.Env = []string{}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if out, err := cmd.Output(); err != nil || string(out) != "ok\n" {
		return fmt.Errorf("fsck: %v: %s%s", err, out, &complaint)
	}
	return nil
}

// verifyDir is our own check, of segments and published files.
func (p published) verifyDir() error {
	_, err := ours.VerifyDir(filepath.Dir(p.dir), ours.Options{Keys: map[string]string{p.origin: p.key}})
	return err
}

// runFsck is that process.
func runFsck(dir, origin, key string) error {
	v, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	leaves := func(raw []byte) ([][]byte, error) {
		var bundle api.EntryBundle
		if err := bundle.UnmarshalText(raw); err != nil {
			return nil, err
		}
		var l [][]byte
		for _, e := range bundle.Entries {
			l = append(l, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return l, nil
	}
	if err := fsck.New(origin, v, client.FileFetcher{Root: dir}, leaves, fsck.Opts{N: 4}).Check(context.Background()); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}
