package ledger_test

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger/ledgertest"
	"github.com/ostiary/ostiary/proof"
)

// brittle is a signer that can stop to sign.
type brittle struct {
	ed25519.PrivateKey
	broken atomic.Bool
}

func (b *brittle) Sign(r io.Reader, msg []byte, o crypto.SignerOpts) ([]byte, error) {
	if b.broken.Load() {
		return nil, errors.New("the signer is gone")
	}
	return b.PrivateKey.Sign(r, msg, o)
}

// An entry's answer does not wait for the signature of the checkpoint over it:
// what was answered before the signer failed is durable, nothing is answered
// after it, and recovery signs what is owed.
func TestSignerFails(t *testing.T) {
	w := newWorld("/log")
	fs := ledgertest.NewFS()
	key := &brittle{PrivateKey: w.Signer.(ed25519.PrivateKey)}
	w.FS, w.Signer = fs, key
	l := w.open(t)
	if l.Checkpoint() == nil { // the checkpoint so far is signed
		t.Fatal("no checkpoint")
	}
	key.broken.Store(true)
	kept, err := l.Append(t.Context(), intent("a", 1))
	if err != nil {
		t.Fatal("the frame before it was signed, so it can be written:", err)
	}
	<-l.Failed()
	if _, err := l.Prove(kept.Ref); err == nil {
		t.Error("a proof without a signature")
	}
	if l.Checkpoint() != nil {
		t.Error("a checkpoint without a signature")
	}
	_, err = l.Append(t.Context(), intent("a", 2))
	wantKind(t, "after the signer failed", err, ostiary.Unavailable, "ledger_failed")
	if err := l.Close(); err == nil {
		t.Error("closing a failed log is no success")
	}
	key.broken.Store(false)
	w.FS = fs.Restart()
	l = w.open(t)
	text, err := l.Prove(kept.Ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proof.ParseInclusion(text)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := l.Entry(t.Context(), kept.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(rec.Raw, l.Key()); err != nil {
		t.Error(err)
	}
}
