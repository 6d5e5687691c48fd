package ledger

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// BenchmarkSeal is step 1 alone: what each caller pays beside the flush.
func BenchmarkSeal(b *testing.B) {
	key, err := proof.NewDataKey(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	l := &Log{opt: Options{Deployment: "test", Clock: time.Now}}
	v := newVolume(OS{}, b.TempDir(), "test/gw1/2026-11")
	v.keys.open = map[subject]*dataKey{{"spiffe://test/agent/1", "person:dana", ""}: {proof.KeyID{1}, key}}
	l.volumes = []*volume{v}
	e := ostiary.Entry{Kind: ostiary.KindIntent, Agent: "spiffe://test/agent/1", Principal: "person:dana", Session: "s", Action: "bank___pay",
		Server: "bank", Permit: true, Code: "permit", Snapshot: 1, Policy: ostiary.Digest{1}, Pin: ostiary.Digest{2}, Payload: ostiary.Payload{Arguments: make([]byte, 560)}}
	b.ReportAllocs()
	for b.Loop() {
		p := l.pending()
		if err := l.seal(b.Context(), p, &e); err != nil {
			b.Fatal(err)
		}
		l.release(p)
	}
}

// Options that cannot make a log are refused with the field's name.
func TestOptions(t *testing.T) {
	good := Options{Dir: "x", Deployment: "test", Gateway: "gw1", Signer: ed25519.NewKeyFromSeed(make([]byte, 32)), Wrap: noWrap{}, Control: noControl{}}
	if err := good.complete(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Options){
		"dir":          func(o *Options) { o.Dir = "" },
		"deployment":   func(o *Options) { o.Deployment = "Not a name" },
		"gateway":      func(o *Options) { o.Gateway = "../x" },
		"signer":       func(o *Options) { o.Signer = nil },
		"segment_size": func(o *Options) { o.SegmentSize = 1000 },
		"reserve":      func(o *Options) { o.Reserve = 1 },
	} {
		o := good
		change(&o)
		if err := ostiary.AsError(o.complete()); err == nil || err.Field != field || err.Kind != ostiary.Malformed {
			t.Errorf("%s: %v", field, err)
		}
	}
}

type noWrap struct{ AEAD }
type noControl struct{ Control }
