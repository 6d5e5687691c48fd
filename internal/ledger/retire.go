package ledger

import (
	"errors"

	"github.com/ostiary/ostiary/proof"
)

// keptSegments is how many filled segments stay open beside the live one, with
// the places of their batches in memory: what indexers and publishers, who lag
// a little, read again.
const keptSegments = 3

// rememberedSegments is how many older ones, read lately, keep the places of
// their batches: finding them again means reading the file.
const rememberedSegments = 4

// remember keeps where the batches of a segment are that was read, and forgets
// those of the segment read longest ago: a log has many.
func (v *volume) remember(s *segment, places []proof.Place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.places != nil { // the committer keeps those of its own
		return
	}
	s.places = places
	v.remembered = append(v.remembered, s)
	if len(v.remembered) > rememberedSegments {
		if oldest := v.remembered[0]; oldest.file == nil {
			oldest.places = nil
		}
		v.remembered = append(v.remembered[:0], v.remembered[1:]...)
	}
}

// retire closes segments that were filled some time ago, when nobody reads
// them any more: each would hold a descriptor and a little memory for ever.
// Who wants them opens them. Only the stock calls it.
func (v *volume) retire() error {
	var all []error
	for _, s := range v.filled() {
		s.readers.Wait() // it is not open for new ones
		all = append(all, s.retired.Close())
		s.retired = nil
	}
	return errors.Join(all...)
}

// filled takes the segments to retire out of use.
func (v *volume) filled() (old []*segment) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.segs) - 2 - keptSegments; i >= 0 && v.segs[i].file != nil; i-- {
		s := v.segs[i]
		s.retired, s.file, s.places = s.file, nil, nil
		old = append(old, s)
	}
	return old
}
