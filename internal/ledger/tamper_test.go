package ledger_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/proof"
)

// tamperWorld is a closed log of some segments, to damage copies of.
func tamperWorld(t *testing.T) (*world, *ledgertest.FS, []byte, string) {
	w := newWorld("/log")
	fs := ledgertest.NewFS()
	w.FS, w.SegmentSize, w.Reserve = fs, ledger.MinSegment, ledger.MinSegment
	l := w.open(t)
	for i := range 60 {
		e := intent("a", i)
		if i%7 == 0 {
			e.Payload.Inputs = make([]byte, 40<<10)
		}
		in, err := l.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), outcome(in)); err != nil {
			t.Fatal(err)
		}
	}
	held, key := l.Checkpoint(), l.Key()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return w, fs, held, key
}

func verify(fs *ledgertest.FS, o proof.Options) (proof.Report, error) {
	return proof.VerifyFS(fs.Copy("/log"), o)
}

// expectFault wants a fault that names an entry, or at least the log.
func expectFault(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || ostiary.KindOf(err) != ostiary.Corrupt {
		t.Errorf("%s: %v, want a fault", what, err)
		return
	}
	if !strings.Contains(err.Error(), "entry 20") {
		t.Errorf("%s: %v names no entry", what, err)
	}
}

func TestM04Tamper(t *testing.T) {
	w, fs, held, key := tamperWorld(t)
	rep, err := verify(fs, proof.Options{Held: [][]byte{held}, Keys: map[string]string{rep0(key): key}})
	if err != nil {
		t.Fatal(err)
	}
	if r := rep.Logs[0]; r.Segments < 2 || r.Size != 122 || r.Signed != r.Size || !r.KeyKnown || r.Open != 0 {
		t.Fatalf("untouched: %+v", r)
	}
	var segs []string
	for _, p := range fs.Files() {
		if strings.HasSuffix(p, ".seg") && !bytes.Equal(fs.Read(p)[:64], make([]byte, 64)) {
			segs = append(segs, p)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	mutations := 600
	if testing.Short() {
		mutations = 60
	}
	for i := range mutations {
		p := segs[rng.IntN(len(segs))]
		b := fs.Read(p)
		used := len(bytes.TrimRight(b, "\x00"))
		what, changed := mutate(rng, b, used)
		if bytes.Equal(changed, b) {
			continue
		}
		cp := fs.Restart()
		cp.Write(p, changed)
		_, err := verify(cp, proof.Options{Held: [][]byte{held}})
		expectFault(t, fmt.Sprintf("M04 %d: %s in %s", i, what, p), err)
	}
	t.Run("M04 a segment is missing", func(t *testing.T) {
		for _, p := range segs {
			cp := fs.Restart()
			if err := cp.Remove(p); err != nil {
				t.Fatal(err)
			}
			_, err := verify(cp, proof.Options{})
			expectFault(t, p, err)
		}
	})
	t.Run("M04 two segments swapped", func(t *testing.T) {
		cp := fs.Restart()
		cp.Write(segs[0], fs.Read(segs[1]))
		cp.Write(segs[1], fs.Read(segs[0]))
		_, err := verify(cp, proof.Options{})
		expectFault(t, "swap", err)
	})
	t.Run("M05 rolled back against a checkpoint held elsewhere", func(t *testing.T) {
		older := newWorld("/log")
		older.FS, older.SegmentSize, older.Reserve = ledgertest.NewFS(), ledger.MinSegment, ledger.MinSegment
		l := older.open(t)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := verify(older.FS.(*ledgertest.FS), proof.Options{Held: [][]byte{held}})
		expectFault(t, "shorter log of the same name", err)
	})
	t.Run("M05 another root of the same size", func(t *testing.T) {
		c, err := proof.PeekCheckpoint(held)
		if err != nil {
			t.Fatal(err)
		}
		c.Root[0] ^= 1
		s, err := proof.NewSigner(c.Origin, w.Signer)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Sign([]byte(c.Text()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = verify(fs, proof.Options{Held: [][]byte{s.Note(c, sig)}})
		expectFault(t, "fork", err)
	})
	t.Run("a log on the list is missing", func(t *testing.T) {
		if _, err := verify(fs, proof.Options{Logs: []string{"test/gw2/2026-11"}}); err == nil {
			t.Error("not noticed")
		}
	})
}

func rep0(key string) string { return key[:strings.IndexByte(key, '+')] }

// mutate changes a segment as an attacker or a bad disk would.
func mutate(rng *rand.Rand, b []byte, used int) (string, []byte) {
	at := rng.IntN(used)
	switch rng.IntN(6) {
	case 0:
		b[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("bit flipped at %d", at), b
	case 1: // cut the tail off
		clear(b[at:])
		return fmt.Sprintf("zeros from %d", at), b
	case 2:
		return fmt.Sprintf("file cut at %d", at), b[:at]
	case 3: // drop a piece
		n := min(used-at, 1+rng.IntN(5000))
		return fmt.Sprintf("%d bytes dropped at %d", n, at), append(append(b[:at:at], b[at+n:]...), make([]byte, n)...)
	case 4: // swap two sectors
		i, j := rng.IntN(used/512)*512, rng.IntN(used/512)*512
		x := bytes.Clone(b[i : i+512])
		copy(b[i:i+512], b[j:j+512])
		copy(b[j:j+512], x)
		return fmt.Sprintf("sectors at %d and %d swapped", i, j), b
	default: // splice from elsewhere
		n := min(used-at, 1+rng.IntN(3000))
		from := rng.IntN(used - n + 1)
		copy(b[at:at+n], bytes.Clone(b[from:from+n]))
		return fmt.Sprintf("%d bytes at %d spliced over %d", n, from, at), b
	}
}

// TestNamesTheEntry flips a byte of one entry, and of one payload, and wants
// exactly that entry named.
func TestNamesTheEntry(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(dir)
	w.SegmentSize, w.Reserve = ledger.MinSegment, ledger.MinSegment
	l := w.open(t)
	var third ostiary.Receipt
	for i := range 5 {
		r, err := l.Append(t.Context(), intent("a", i))
		if err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			third = r
		}
	}
	rec, err := l.Entry(t.Context(), third.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	seg := filepath.Join(dir, third.Ref.Month, "00000001.seg")
	good, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	for want, part := range map[string][]byte{"leaf hash differs": rec.Raw, "sealed payload differs": rec.Sealed} {
		b := bytes.Clone(good)
		b[bytes.Index(b, part)+20] ^= 1
		if err := os.WriteFile(seg, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := proof.VerifyDir(dir, proof.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), "entry "+third.Ref.String()+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want entry %s and %q", err, third.Ref, want)
		}
	}
}

// TestTornTail cuts the last batch at every sector: before anything covers
// it, it is trimmed and said; once something does, it is damage.
func TestM04TornTail(t *testing.T) {
	w := newWorld("/log")
	fs := ledgertest.NewFS()
	w.FS, w.SegmentSize, w.Reserve = fs, ledger.MinSegment, ledger.MinSegment
	l := w.open(t)
	e := intent("a", 1)
	e.Payload.Inputs = make([]byte, 3000)
	r, err := l.Append(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	// As it is now: a second later it publishes a checkpoint and is anchored.
	fs, anchored := fs.Restart(), w.control.Clone()
	p := "/log/" + r.Ref.Month + "/00000001.seg"
	b := fs.Read(p)
	used := len(bytes.TrimRight(b, "\x00"))
	for cut := used - 1; cut > used-3000; cut -= 512 {
		torn := bytes.Clone(b)
		clear(torn[cut:])
		after := fs.Restart()
		after.Write(p, torn)
		rep, err := verify(after, proof.Options{})
		if err != nil || rep.Logs[0].Torn == 0 || rep.Logs[0].Size != r.Ref.Index {
			t.Fatalf("cut at %d: %+v, %v", cut, rep.Logs, err)
		}
		if _, err = verify(after, proof.Options{Held: [][]byte{l.Checkpoint()}}); err == nil || !strings.Contains(err.Error(), "entry "+r.Ref.String()) {
			t.Errorf("cut at %d, with a checkpoint over it: %v", cut, err)
		}
		w2 := *w
		w2.FS, w2.Control = after, anchored.Clone()
		l2, err := ledger.Open(context.Background(), w2.Options)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		open, err := l2.Entry(t.Context(), l2.Newest())
		if err != nil || open.Full.Fact("orderly") != "false" || open.Full.Fact("trimmed") == "0" {
			t.Errorf("cut at %d: %+v, %v", cut, open, err)
		}
		if err := l2.Close(); err != nil {
			t.Error(err)
		}
		// The anchor covers it: opening is refused.
		w3 := *w
		after = fs.Restart()
		after.Write(p, torn)
		control := anchored.Clone()
		c, _ := proof.PeekCheckpoint(l.Checkpoint())
		if err := control.Anchor(t.Context(), c.Origin, c.Size, ostiary.Digest(c.Root)); err != nil {
			t.Fatal(err)
		}
		w3.FS, w3.Control = after, control
		if l3, err := ledger.Open(context.Background(), w3.Options); err == nil {
			l3.Close()
			t.Errorf("cut at %d: opened although the anchor is ahead", cut)
		} else if ostiary.KindOf(err) != ostiary.Corrupt {
			t.Errorf("cut at %d: %v, want corrupt", cut, err)
		}
	}
}
