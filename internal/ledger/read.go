package ledger

import (
	"context"
	"encoding/json"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Record is one entry as it was read back.
type Record struct {
	Ref    ostiary.EntryRef
	Origin string
	Entry  ostiary.Entry // its Payload is filled in by Unseal
	Full   *proof.Entry  // as published
	Raw    []byte        // the leaf's bytes
	Sealed []byte        // the sealed payload, empty if there is none
}

// Newest returns the newest durable entry, the zero EntryRef if there is none.
func (l *Log) Newest() ostiary.EntryRef {
	for _, v := range slices.Backward(l.all()) {
		if n := v.head.Load().Size; n > 0 {
			return v.ref(n - 1)
		}
	}
	return ostiary.EntryRef{}
}

// find returns the log of a month, the newest one for "".
func (l *Log) find(month string) (*volume, error) {
	for _, v := range slices.Backward(l.all()) {
		if month == "" || v.month == month {
			return v, nil
		}
	}
	return nil, ostiary.Errorf(ostiary.NotFound, "no_entry", "there is no log of %s", month)
}

// Entry reads one durable entry with its payload. A reference without a month
// means the newest log. NotFound if there is no such entry; NotFound of code
// "key_destroyed", with the Record, if its payload was erased.
func (l *Log) Entry(ctx context.Context, ref ostiary.EntryRef) (*Record, error) {
	v, err := l.find(ref.Month)
	if err != nil {
		return nil, err
	}
	raw, err := v.record(ref.Index)
	if err != nil {
		return nil, err
	}
	rec, err := v.decode(ref.Index, raw)
	if err != nil {
		return nil, err
	}
	return rec, l.Unseal(ctx, rec)
}

// decode turns a stored record into what readers work with. It copies.
func (v *volume) decode(index uint64, raw proof.Record) (*Record, error) {
	e, err := proof.ParseEntry(raw.Entry)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "log_corrupt", "entry %s cannot be read", v.ref(index)).Because(err)
	}
	return &Record{
		Ref: v.ref(index), Origin: v.origin, Full: e, Entry: entryOf(e),
		Raw: slices.Clone(raw.Entry), Sealed: slices.Clone(raw.Sealed),
	}, nil
}

// entryOf is the root vocabulary's view of a published entry. What the ledger
// itself states, such as what recovery found, becomes the payload's Detail.
func entryOf(e *proof.Entry) ostiary.Entry {
	x := headOf(e)
	if len(e.Facts) > 0 {
		facts := map[string]string{}
		for _, f := range e.Facts {
			facts[f.Name] = f.Value
		}
		x.Payload.Detail, _ = json.Marshal(facts) // a map of strings
	}
	return x
}

// headOf is that view without the payload.
func headOf(e *proof.Entry) ostiary.Entry {
	return ostiary.Entry{
		Kind: e.Kind, ID: e.ID, Time: e.Time, Answers: e.Answers, Parent: e.Parent,
		Session: ostiary.SessionID(e.Session), Mandate: ostiary.MandateID(e.Mandate),
		Agent: ostiary.AgentID(e.Agent), Principal: ostiary.PrincipalID(e.Principal),
		Approval: ostiary.HoldID(e.Approval), Action: e.Action, Server: e.Server, Pin: e.Pin, Asked: e.Asked, Permit: e.Permit, Code: e.Code,
		Reasons: e.Reasons, Obligations: e.Obligations, Disposition: e.Disposition,
		Snapshot: e.Snapshot, Policy: e.Policy, Class: e.Class,
	}
}

// Unseal opens the payload of a record that [Log.Follow] or [Log.Each]
// delivered into its Entry. NotFound of code "key_destroyed" means that its key
// was destroyed, so nobody can.
func (l *Log) Unseal(ctx context.Context, rec *Record) error {
	if len(rec.Sealed) == 0 {
		return nil
	}
	name := keyName(rec.Full.Key)
	wrapped, err := l.opt.Control.DataKey(ctx, name)
	if err != nil && ostiary.KindOf(err) == ostiary.NotFound {
		return ostiary.Errorf(ostiary.NotFound, "key_destroyed", "the key of this payload is gone").Because(err)
	}
	if err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "no_data_key", "the key of this payload cannot be loaded").Because(err)
	}
	key, err := unwrap(l.opt.Wrap, name, wrapped)
	if err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "no_data_key", "the key of this payload cannot be unwrapped").Because(err)
	}
	payload, err := key.OpenPayload(l.opt.Deployment, rec.Full, rec.Sealed)
	if err != nil {
		return err
	}
	if len(payload.Detail) == 0 {
		payload.Detail = rec.Entry.Payload.Detail
	}
	rec.Entry.Payload = payload
	return nil
}

// each visits all durable entries from a place on, once.
func (l *Log) each(from ostiary.EntryRef, visit func(*Record) error) (next ostiary.EntryRef, err error) {
	next = from
	for _, v := range l.all() {
		if v.month < from.Month {
			continue
		}
		start := uint64(0)
		if v.month == from.Month {
			start = from.Index
		}
		size := v.head.Load().Size
		next = v.ref(max(start, size))
		err := v.each(start, size, func(i uint64, raw proof.Record) error {
			rec, err := v.decode(i, raw)
			if err != nil {
				return err
			}
			return visit(rec)
		})
		if err != nil {
			return next, err
		}
	}
	return next, nil
}

// prove makes the tlog-proof of an entry under a volume's newest checkpoint.
func (v *volume) prove(index uint64) ([]byte, error) {
	h := v.head.Load()
	if index >= h.Size {
		return nil, v.absent(index)
	}
	path, err := tlog.ProveRecord(int64(h.Size), int64(index), &v.tree)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "proof", "the proof cannot be put together").Because(err)
	}
	sig, err := h.signature(v.signer)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "proof", "the checkpoint cannot be signed").Because(err)
	}
	p := proof.Inclusion{Index: index, Path: path, Checkpoint: v.signer.Note(h.Checkpoint, sig)}
	return p.Format(), nil
}

func (l *Log) all() []*volume {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.volumes[:len(l.volumes):len(l.volumes)]
}

// Follow visits every durable entry from a place on, in order, then waits for
// more until ctx ends or visit fails. The zero EntryRef is the very first.
func (l *Log) Follow(ctx context.Context, from ostiary.EntryRef, visit func(*Record) error) error {
	for {
		grew := l.grew.wait()
		var err error
		if from, err = l.each(from, visit); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.failed:
			return l.Err()
		case <-grew:
		}
	}
}

// Each visits every entry that is durable now, from a place on, in order.
func (l *Log) Each(from ostiary.EntryRef, visit func(*Record) error) error {
	_, err := l.each(from, visit)
	return err
}

// Prove returns the C2SP tlog-proof of an entry, under the newest checkpoint
// of its log.
func (l *Log) Prove(ref ostiary.EntryRef) ([]byte, error) {
	v, err := l.find(ref.Month)
	if err != nil {
		return nil, err
	}
	if err := l.revive(v); err != nil {
		return nil, err
	}
	return v.prove(ref.Index)
}

// Checkpoint returns the newest checkpoint as a signed note; nil for an empty
// log, and when it cannot be signed.
func (l *Log) Checkpoint() []byte {
	v := l.current()
	h := v.head.Load()
	if h.Size == 0 {
		return nil
	}
	sig, err := h.signature(v.signer)
	if err != nil {
		return nil
	}
	return v.signer.Note(h.Checkpoint, sig)
}
