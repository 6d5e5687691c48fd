package bench

import (
	"fmt"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// intent is what the log says of one call that was to be sent.
type intent struct {
	id       ostiary.EntryID
	server   string // of a call of a tool; "" of what the gateway itself asks
	outcomes int
	fate     ostiary.Disposition
}

// compare reads the whole log as an auditor would and holds it against what
// tool servers received and callers saw.
func (s *soak) compare(dir string) {
	intents, refs, refusals := map[ostiary.EntryID]*intent{}, map[string]*intent{}, map[string]bool{}
	rep, err := proof.VerifyDir(dir, proof.Options{Visit: func(origin string, index uint64, e *proof.Entry) error {
		ref := fmt.Sprintf("%s/%d", proof.Month(origin), index)
		switch {
		case e.Kind == ostiary.KindIntent:
			x := &intent{id: e.ID}
			if e.Action == e.Server+"___do" {
				x.server = e.Server
			}
			intents[e.ID], refs[ref] = x, x
		case e.Kind == ostiary.KindOutcome && !e.Answers.IsZero():
			x := intents[e.Answers]
			if x == nil {
				return fmt.Errorf("%s answers no intent", ref)
			}
			x.outcomes++
			x.fate = e.Disposition
		case e.Kind == ostiary.KindOutcome:
			refusals[ref] = true
		}
		return nil
	}})
	if err != nil {
		s.t.Error(err)
	}
	b := &balance{s: s, intents: intents, refs: refs, refusals: refusals}
	b.servers()
	b.callers()
	fates := map[ostiary.Disposition]int{}
	for _, x := range intents {
		fates[x.fate]++
	}
	s.t.Logf("%d entries, %d intents; received over HTTP %d, by the process %d; fates: %v", rep.Entries, len(intents), len(s.rec.calls), len(s.rec.piped), fates)
}

// balance compares three books.
type balance struct {
	s        *soak
	intents  map[ostiary.EntryID]*intent
	refs     map[string]*intent
	refusals map[string]bool
	wrong    int
}

func (b *balance) bad(format string, args ...any) {
	if b.wrong++; b.wrong <= 20 {
		b.s.t.Errorf(format, args...)
	}
}

// servers: what was received was to be sent, once, and was not called refused;
// what was delivered had been received.
func (b *balance) servers() {
	rec := b.s.rec
	for _, entry := range rec.twice {
		b.bad("law 4: two calls arrived under entry %s", entry)
	}
	for entry := range rec.calls {
		switch x := b.refs[entry]; {
		case x == nil:
			b.bad("law 1: a call arrived under entry %q, which is no intent of the log", entry)
		case x.fate == ostiary.Refused || x.fate == ostiary.Held:
			b.bad("law 1: a call arrived under entry %s, which ended %v", entry, x.fate)
		}
	}
	sent, delivered := 0, 0 // by process
	for ref, x := range b.refs {
		if x.server == "files" {
			sent++
			if x.fate == ostiary.Delivered {
				delivered++
			}
		}
		_, arrived := rec.calls[ref]
		switch {
		case x.outcomes != 1:
			b.bad("law 1: intent %s has %d outcomes", ref, x.outcomes)
		case x.fate == ostiary.Delivered && x.server == "bank" && !arrived:
			b.bad("intent %s was delivered, and no tool server received it", ref)
		}
	}
	if n := len(rec.piped); n > sent || n < delivered {
		b.bad("law 1: the process received %d calls; of %d intents %d were delivered", n, sent, delivered)
	}
}

// callers: what was acknowledged is in the log as delivered, and what was
// refused is there too.
func (b *balance) callers() {
	under := map[uint32]string{}
	for entry, n := range b.s.rec.calls {
		under[n] = entry
	}
	for n, end := range b.s.seen.ends {
		switch entry := b.s.seen.entries[uint32(n)]; end {
		case done:
			if b.s.rec.piped[uint32(n)] {
				continue
			}
			if x := b.refs[under[uint32(n)]]; x == nil || x.fate != ostiary.Delivered {
				b.bad("law 1: call %d was acknowledged, and the log has no delivered intent for it: entry %q, %+v", n, under[uint32(n)], x)
			}
		case refused:
			if entry != "" && !b.refusals[entry] && b.refs[entry] == nil {
				b.bad("law 1: call %d was refused as entry %s, which is not in the log", n, entry)
			}
		}
	}
}
