package proof_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

var update = flag.Bool("update", false, "write the vectors anew")

func sampleEntry() *proof.Entry {
	id := func(b byte) (x ostiary.EntryID) {
		for i := range x {
			x[i] = b
		}
		return x
	}
	return &proof.Entry{
		Kind: ostiary.KindIntent, Time: time.Unix(1795168800, 123456789).UTC(), ID: id(1), Log: "acme/gw1/2026-11",
		Parent: id(2), Session: "s-1", Mandate: "m-1", Agent: "spiffe://acme/agent/pay", Principal: "person:dana",
		Action: "bank___pay", Server: "bank", Pin: ostiary.DigestOf([]byte("pin")), Permit: true, Code: "permit",
		Reasons: []string{"allow-small", "allow-dana"}, Obligations: []string{"notify"}, Snapshot: 7, Policy: ostiary.DigestOf([]byte("p")),
		Key: proof.KeyID{9}, PayloadLen: 100, Commitment: ostiary.DigestOf([]byte("c")), Sealed: ostiary.DigestOf([]byte("s")),
		Facts: []proof.Fact{{Name: "a", Value: "1"}, {Name: "b", Value: ""}},
	}
}

// The vectors pin the published encoding: whoever changes it makes another
// version.
func TestEntryVectors(t *testing.T) {
	minimal := &proof.Entry{Kind: ostiary.KindHeartbeat, Time: time.Unix(1, 0).UTC(), ID: ostiary.EntryID{1}, Log: "a/b/2026-11"}
	var got strings.Builder
	for _, v := range []struct {
		name string
		e    *proof.Entry
	}{{"minimal", minimal}, {"full", sampleEntry()}} {
		b, err := proof.AppendEntry(nil, v.e)
		if err != nil {
			t.Fatal(err)
		}
		leaf := proof.LeafHash(b)
		got.WriteString(v.name + "\nentry " + hex.EncodeToString(b) + "\nleaf " + hex.EncodeToString(leaf[:]) + "\n")
		if leaf != tlog.RecordHash(b) {
			t.Errorf("%s: leaf hash is not tlog's", v.name)
		}
		e, err := proof.ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := proof.AppendEntry(nil, e)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: %v, encodes differently after parsing", v.name, err)
		}
	}
	key, err := proof.NewDataKey(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	salt := key.Salt(ostiary.EntryID{1})
	plain, err := proof.AppendPayload(nil, &ostiary.Payload{Arguments: []byte(`{"a":1}`), Detail: []byte(`{}`), ResultLen: 5})
	if err != nil {
		t.Fatal(err)
	}
	commitment := proof.Commit(salt, plain)
	got.WriteString("payload\nsalt " + hex.EncodeToString(salt[:]) + "\nplain " + hex.EncodeToString(plain) + "\ncommitment " + commitment.String() +
		"\nad " + hex.EncodeToString(proof.AssociatedData(nil, "acme", "acme/gw1/2026-11", ostiary.EntryID{1})) + "\n")
	const file = "testdata/entry.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the encoding changed; got\n%s", got.String())
	}
}

func TestEntryRefuses(t *testing.T) {
	good, err := proof.AppendEntry(nil, sampleEntry())
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"empty":               {},
		"unknown version":     change(func(b []byte) []byte { b[0] = 2; return b }),
		"unknown kind":        change(func(b []byte) []byte { b[1] = 99; return b }),
		"no kind":             change(func(b []byte) []byte { b[1] = 0; return b }),
		"cut short":           good[:len(good)-1],
		"trailing byte":       append(bytes.Clone(good), 0),
		"time before 1970":    change(func(b []byte) []byte { b[2] = 0xff; return b }),
		"unknown field":       append(bytes.Clone(good), 99, 0, 1, 1),
		"M04 field repeated":  append(bytes.Clone(good), 1, 0, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
		"longer than allowed": append(bytes.Clone(good), make([]byte, proof.MaxEntry)...),
	} {
		if _, err := proof.ParseEntry(b); ostiary.AsError(err) == nil || ostiary.KindOf(err) != ostiary.Malformed {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
	for name, e := range map[string]func(*proof.Entry){
		"no id":             func(e *proof.Entry) { e.ID = ostiary.EntryID{} },
		"half a payload":    func(e *proof.Entry) { e.PayloadLen = 0 },
		"not UTF-8":         func(e *proof.Entry) { e.Action = "\xff" },
		"facts not sorted":  func(e *proof.Entry) { e.Facts[0], e.Facts[1] = e.Facts[1], e.Facts[0] },
		"too long a reason": func(e *proof.Entry) { e.Reasons = []string{strings.Repeat("x", 70000)} },
	} {
		x := sampleEntry()
		e(x)
		if _, err := proof.AppendEntry(nil, x); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	s, err := proof.NewSigner("acme/gw1/2026-11", key)
	if err != nil {
		t.Fatal(err)
	}
	c := proof.Checkpoint{Origin: "acme/gw1/2026-11", Size: 3, Root: tlog.Hash{1}}
	sig, err := s.Sign([]byte(c.Text()))
	if err != nil {
		t.Fatal(err)
	}
	signed := s.Note(c, sig)
	if got, err := proof.OpenCheckpoint(signed, s.VerifierKey()); err != nil || got != c {
		t.Errorf("%v, %v", got, err)
	}
	if _, pub, err := proof.ParseVerifierKey(s.VerifierKey()); err != nil || !pub.Equal(key.Public()) {
		t.Error("verifier key does not parse", err)
	}
	for name, text := range map[string]string{
		"extension line": c.Text() + "ext\n",
		"leading zero":   "a/b\n03\n" + strings.Split(c.Text(), "\n")[2] + "\n",
		"no root":        "a/b\n3\n\n",
		"short root":     "a/b\n3\nAAAA\n",
		"space in name":  "a b\n3\n" + strings.Split(c.Text(), "\n")[2] + "\n",
		"empty":          "",
	} {
		if _, err := proof.ParseCheckpoint(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range signed {
		b := bytes.Clone(signed)
		b[i] ^= 1
		if _, err := proof.OpenCheckpoint(b, s.VerifierKey()); err == nil {
			t.Errorf("a flip at %d (%q) was not noticed", i, signed[i])
		}
	}
}

func TestEdgeAgainstTlog(t *testing.T) {
	var e proof.Edge
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(ix []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range ix {
			out = append(out, stored[i])
		}
		return out, nil
	})
	if e.Root() != proof.EmptyRoot {
		t.Error("root of the empty tree")
	}
	for n := range int64(300) {
		leaf := tlog.RecordHash([]byte{byte(n), byte(n >> 8)})
		h, err := tlog.StoredHashesForRecordHash(n, leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, h...)
		e.Append(leaf, nil)
		want, err := tlog.TreeHash(n+1, read)
		if err != nil || e.Root() != want {
			t.Fatalf("root of %d leaves differs", n+1)
		}
		again, err := proof.EdgeOf(e.Size(), e.Hashes())
		if err != nil || again.Root() != want {
			t.Fatalf("edge of %d leaves does not survive", n+1)
		}
	}
	root := func(n int64) proof.Checkpoint {
		h, err := tlog.TreeHash(n, read)
		if err != nil {
			t.Fatal(err)
		}
		return proof.Checkpoint{Origin: "a", Size: uint64(n), Root: h}
	}
	p, err := tlog.ProveTree(300, 100, read)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.CheckConsistency(root(100), root(300), p); err != nil {
		t.Error(err)
	}
	empty := proof.Checkpoint{Origin: "a", Root: proof.EmptyRoot}
	if err := proof.CheckConsistency(empty, root(300), nil); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"shrinking":             proof.CheckConsistency(root(300), root(100), p),
		"other root, same size": proof.CheckConsistency(root(100), proof.Checkpoint{Size: 100}, nil),
		"wrong proof":           proof.CheckConsistency(root(101), root(300), p),
		"false empty root":      proof.CheckConsistency(proof.Checkpoint{}, root(300), nil),
		"beyond the end":        proof.CheckInclusion(root(100), 100, []byte("x"), nil),
	} {
		if ostiary.AsError(err) == nil || ostiary.KindOf(err) != ostiary.Corrupt {
			t.Errorf("%s: %v, want corrupt", name, err)
		}
	}
}

func TestTilePath(t *testing.T) {
	for _, c := range []struct {
		level int
		n     uint64
		width int
		want  string
	}{
		{0, 0, 256, "tile/0/000"}, {-1, 5, 256, "tile/entries/005"}, {1, 1234067, 256, "tile/1/x001/x234/067"},
		{0, 273, 112, "tile/0/273.p/112"}, {-1, 1000, 1, "tile/entries/x001/000.p/1"},
	} {
		if got := proof.TilePath(c.level, c.n, c.width); got != c.want {
			t.Errorf("TilePath(%d, %d, %d) = %s, want %s", c.level, c.n, c.width, got, c.want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	b, _ := proof.AppendEntry(nil, sampleEntry())
	f.Add(b)
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := proof.ParseEntry(b)
		if err != nil {
			return
		}
		again, err := proof.AppendEntry(nil, e)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted, but encodes as %x (%v)", again, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	entry, _ := proof.AppendEntry(nil, &proof.Entry{Kind: ostiary.KindHeartbeat, Time: time.Unix(1, 0), ID: ostiary.EntryID{1}, Log: "a/b/2026-11"})
	body := make([]byte, proof.FrameHead+proof.BatchHead)
	leaf := proof.LeafHash(entry)
	body = proof.AppendRecord(body, proof.Record{Leaf: leaf, Entry: entry})
	proof.PutBatchHead(body[proof.FrameHead:], 1, 1, 1, leaf, nil)
	f.Add(proof.FinishFrame(body, proof.FrameBatch, 1, 0, ostiary.DigestOf([]byte("a/b/2026-11"))))
	f.Add(make([]byte, 600))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var buf []byte
		fr, err := proof.ReadFrame(r, 0, int64(len(b)), &buf)
		if err == nil {
			c := proof.NewChain("a/b/2026-11", nil)
			_ = c.Batch(fr, nil, nil)
			fr.Records()
		}
		if cap(buf) > len(b)+proof.Align {
			t.Fatalf("took %d bytes for %d", cap(buf), len(b))
		}
		_, _ = proof.ScanSegment(r, int64(len(b)), proof.NewChain("a/b/2026-11", nil), proof.ScanOptions{Number: 1, Last: true})
	})
}

func FuzzCheckpoint(f *testing.F) {
	f.Add("a/b\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := proof.ParseCheckpoint(s)
		if err == nil && c.Text() != s {
			t.Fatalf("%q reads as %q", s, c.Text())
		}
	})
}

func FuzzInclusion(f *testing.F) {
	p := proof.Inclusion{Index: 5, Path: []tlog.Hash{{1}}, Checkpoint: []byte("x\n")}
	f.Add(p.Format())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := proof.ParseInclusion(b)
		if err == nil && !bytes.Equal(p.Format(), b) {
			t.Fatalf("%q reads as %q", b, p.Format())
		}
	})
}

func FuzzPayload(f *testing.F) {
	b, _ := proof.AppendPayload(nil, &ostiary.Payload{Arguments: []byte("a")})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := proof.ParsePayload(b)
		if err != nil {
			return
		}
		again, err := proof.AppendPayload(nil, &p)
		if err == nil && len(again) > 0 && !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
	})
}
