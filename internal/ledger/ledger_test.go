package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/proof"
)

// bench is what a test needs of a log.
type world struct {
	ledger.Options
	control *ledgertest.Control
}

func newWorld(dir string) *world {
	w := &world{control: ledgertest.NewControl()}
	w.Options = ledger.Options{
		Dir: dir, Deployment: "test", Gateway: "gw1",
		Signer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)), Wrap: ledgertest.Wrap(), Control: w.control,
		SegmentSize: 1 << 20, Reserve: 1 << 20,
	}
	return w
}

func (w *world) open(t testing.TB) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), w.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func intent(agent string, n int) *ostiary.Entry {
	return &ostiary.Entry{
		Kind: ostiary.KindIntent, Agent: ostiary.AgentID("spiffe://test/agent/" + agent), Principal: "person:dana",
		Action: "bank___pay", Server: "bank", Permit: true, Code: "permit", Reasons: []string{"allow-small"},
		Payload: ostiary.Payload{Arguments: fmt.Appendf(nil, `{"amount":%d}`, n), Inputs: []byte(`{"now":1}`)},
	}
}

func outcome(of ostiary.Receipt) *ostiary.Entry {
	return &ostiary.Entry{Kind: ostiary.KindOutcome, Answers: of.ID, Disposition: ostiary.Delivered, Code: "delivered",
		Agent: "spiffe://test/agent/a", Payload: ostiary.Payload{Result: ostiary.DigestOf([]byte("r")), ResultLen: 1}}
}

func TestAppendAndRead(t *testing.T) {
	w := newWorld(t.TempDir())
	l := w.open(t)
	ctx := t.Context()
	in, err := l.Append(ctx, intent("a", 5))
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.Append(ctx, outcome(in))
	if err != nil {
		t.Fatal(err)
	}
	if in.Ref.Index != 1 || out.Ref.Index != 2 || out.Origin != l.Origin() {
		t.Errorf("receipts %+v, %+v: want indexes 1 and 2 after the Open entry", in, out)
	}
	rec, err := l.Entry(ctx, in.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(rec.Entry.Payload.Arguments); got != `{"amount":5}` || rec.Entry.ID != in.ID || rec.Entry.Agent.Name() != "a" {
		t.Errorf("read back %+v", rec.Entry)
	}
	text, err := l.Prove(in.Ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proof.ParseInclusion(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(rec.Raw, l.Key()); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = w.open(t)
	open, err := l.Entry(ctx, l.Newest())
	if err != nil {
		t.Fatal(err)
	}
	if open.Entry.Kind != ostiary.KindOpen || open.Full.Fact("orderly") != "true" {
		t.Errorf("after an orderly end the newest entry is %+v", open.Full)
	}
}

func TestThousandAppenders(t *testing.T) {
	w := newWorld(t.TempDir())
	w.Reserve = 16 << 20
	l := w.open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for i := range 1000 {
		wg.Go(func() {
			ctx := context.Background()
			for k := range 5 {
				in, err := l.Append(ctx, intent(fmt.Sprint(i%50), k))
				if err != nil {
					t.Error(err)
					return
				}
				out, err := l.Append(ctx, outcome(in))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[in.Ref.Index] || seen[out.Ref.Index] || out.Ref.Index <= in.Ref.Index {
					t.Errorf("indexes %d, %d", in.Ref.Index, out.Ref.Index)
				}
				seen[in.Ref.Index], seen[out.Ref.Index] = true, true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if s := l.Status(); s.Open != 0 || s.Size < 10001 {
		t.Errorf("status %+v", s)
	}
}
