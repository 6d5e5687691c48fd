package sim

import (
	"context"
	"fmt"
	"slices"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/proof"
)

// check looks at what is left when everything is over.
func (w *world) check() {
	l := &life{w: w, disk: w.disk, died: make(chan struct{})}
	l.ctx, l.kill = context.WithCancel(context.Background())
	defer l.kill()
	w.plan.windows = nil
	if err := l.open(); err != nil {
		w.problem("the log does not open at the end: %v", err)
		return
	}
	entries := w.readAll(l)
	w.checkIntents(entries)
	w.checkReceipts(l, entries)
	w.checkTaint(l)
	w.replay()
	if err := l.log.Close(); err != nil {
		w.problem("the log does not close at the end: %v", err)
	}
	rep, err := w.verified()
	if err != nil {
		w.problem("the log does not verify, or does not extend a checkpoint that was shown: %v", err)
	}
	for _, x := range rep.Logs {
		if x.Open != 0 && !x.Closed { // a closed month's are answered in the next
			w.problem("law 1: log %s has %d intents without an outcome", x.Origin, x.Open)
		}
	}
}

// readAll reads every entry with its payload.
func (w *world) readAll(l *life) map[ostiary.EntryID]*ledger.Record {
	all := map[ostiary.EntryID]*ledger.Record{}
	err := l.log.Each(ostiary.EntryRef{}, func(r *ledger.Record) error {
		if all[r.Entry.ID] != nil {
			w.problem("entry %s is there twice", r.Ref)
		}
		all[r.Entry.ID] = r
		return l.log.Unseal(l.ctx, r)
	})
	if err != nil {
		w.problem("the log cannot be read: %v", err)
	}
	return all
}

// checkIntents: laws 1, 2 and 4 in the log.
func (w *world) checkIntents(entries map[ostiary.EntryID]*ledger.Record) {
	outcomes := map[ostiary.EntryID][]*ledger.Record{}
	for _, r := range entries {
		if r.Entry.Kind == ostiary.KindOutcome {
			if !r.Entry.Answers.IsZero() {
				outcomes[r.Entry.Answers] = append(outcomes[r.Entry.Answers], r)
			}
			if r.Entry.Disposition == ostiary.Unknown {
				w.n.unknown++
			}
		}
	}
	for id, r := range entries {
		if r.Entry.Kind == ostiary.KindIntent && len(outcomes[id]) != 1 {
			w.problem("law 1: intent %s has %d outcomes", r.Ref, len(outcomes[id]))
		}
	}
	seen := map[ostiary.EntryID]bool{}
	for _, x := range w.up.received {
		r := entries[x.intent]
		switch {
		case r == nil || r.Entry.Kind != ostiary.KindIntent || r.Ref != x.ref:
			w.problem("law 1: a server received %s under intent %s, which is not in the log", x.call, x.ref)
			continue
		case string(r.Entry.Payload.Arguments) != x.args:
			w.problem("law 2: a server received %s, and %s says %s", x.args, x.ref, r.Entry.Payload.Arguments)
		case r.Entry.Pin != x.pin || !r.Entry.Permit:
			w.problem("intent %s: pin %s, permit %v, and it was sent with pin %s", x.ref, r.Entry.Pin, r.Entry.Permit, x.pin)
		case seen[x.intent]:
			w.problem("law 4: a server received %s twice", x.ref)
		}
		seen[x.intent] = true
		for _, o := range outcomes[x.intent] {
			if d := o.Entry.Disposition; d == ostiary.Refused || d == ostiary.Held || d == ostiary.Failed {
				w.problem("law 1: a server received %s, and its outcome says %s", x.ref, d)
			}
		}
	}
	for id, uid := range w.ended {
		if o := outcomes[id]; len(o) != 1 || o[0].Entry.Disposition != ostiary.Delivered {
			w.problem("law 1: %s was answered to its end, and the log does not say so", uid)
		}
	}
}

// checkReceipts: what was acknowledged is there, and every receipt proves
// under the newest checkpoint of its log.
func (w *world) checkReceipts(l *life, entries map[ostiary.EntryID]*ledger.Record) {
	for _, r := range w.receipts {
		e := entries[r.ID]
		if e == nil || e.Ref != r.Ref || e.Origin != r.Origin {
			w.problem("law 1: the ledger acknowledged %s, which is not there", r.Ref)
			continue
		}
		if err := prove(l.log, e); err != nil {
			w.problem("receipt %s does not prove: %v", r.Ref, err)
			continue
		}
		w.n.proven++
	}
}

func prove(log *ledger.Log, e *ledger.Record) error {
	text, err := log.Prove(e.Ref)
	if err != nil {
		return err
	}
	p, err := proof.ParseInclusion(text)
	if err != nil {
		return err
	}
	signer, err := proof.NewSigner(e.Origin, logKey)
	if err != nil {
		return err
	}
	c, err := p.Verify(e.Raw, signer.VerifierKey())
	if err == nil && c.Origin != e.Origin {
		err = fmt.Errorf("it is about log %s", c.Origin)
	}
	return err
}

// checkTaint: law 6. Whoever read untrusted content is tainted for good.
func (w *world) checkTaint(l *life) {
	for id := range w.read {
		m := "m-" + ostiary.MandateID(id.Name())
		st, err := l.sessions.Open(l.ctx, provenance.Owner{Agent: id, Principal: "person:dana", Mandate: m, Root: m})
		if err != nil || !slices.Contains(st.Taint, "server:mail") {
			w.problem("law 6: %s read mail, and its session knows %q: %v", id, st.Taint, err)
		}
	}
}

// replay: law 10. A second engine with the stored snapshots decides alike.
func (w *world) replay() {
	engines := map[uint64]*policy.Engine{}
	for _, x := range w.decided {
		e := engines[x.decision.Snapshot]
		if e == nil {
			signed, err := w.store.Snapshot(context.Background(), x.decision.Snapshot)
			if err != nil {
				w.problem("law 10: snapshot %d decided and is not stored: %v", x.decision.Snapshot, err)
				continue
			}
			s, err := policy.Open(signed, snapshotKey.Public())
			if err != nil {
				w.problem("law 10: snapshot %d does not open: %v", x.decision.Snapshot, err)
				continue
			}
			e = policy.New()
			e.Activate(s)
			engines[x.decision.Snapshot] = e
		}
		d := e.Decide(&x.request)
		if fmt.Sprintf("%+v", d) != fmt.Sprintf("%+v", x.decision) {
			w.problem("law 10: decided %+v, and again %+v", x.decision, d)
		}
		w.n.replayed++
	}
}
