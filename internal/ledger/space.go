package ledger

import (
	"errors"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// space is the room a log has without making more. The committer alone
// changes it, except that stock may add to it.
//
// The promise to each open Intent rests on it: a batch is written only if
// what is left then holds an Outcome for every Intent that is open then.
type space struct {
	live      int64 // bytes after the last frame of the live segment
	onReserve bool  // the live segment is the reserve: only what may use it goes there
	spares    int64 // segments that stand ready
	spare     int64 // bytes in each of them
	reserve   int64 // bytes in the reserve, 0 if it is in use or could not be made
}

// framed is what a batch of so many bytes takes in a file.
func framed(records int64) int64 {
	return proof.Padded(int(proof.FrameHead + proof.BatchHead + records))
}

// holds returns how many Outcomes of OutcomeRoom find their place, however
// they are batched. No frame spans two segments, so the end of each may be
// lost; it is smaller than the Outcome that did not fit there.
func (s space) holds() int {
	return int(s.live/OutcomeRoom + s.spares*(s.spare/OutcomeRoom) + s.reserve/OutcomeRoom)
}

// place is where a batch is written.
type place uint8

const (
	nowhere place = iota
	inLive
	inSpare
	inReserve
	inSpecial // a segment of its own, because it is larger than segments are
)

// after returns where a batch of so many bytes is written, and the space it
// leaves.
func (s space) after(records int64, spare bool) (place, space) {
	switch need := framed(records); {
	case need <= s.live && (spare || !s.onReserve):
		s.live -= need
		return inLive, s
	case s.spares > 0 && need <= s.spare:
		s.live, s.onReserve, s.spares = s.spare-need, false, s.spares-1
		return inSpare, s
	case spare && need <= s.reserve:
		s.live, s.onReserve, s.reserve = s.reserve-need, true, 0
		return inReserve, s
	case need > s.spare: // a special segment takes the place of a spare
		s.live, s.onReserve, s.spares = 0, false, max(0, s.spares-1)
		return inSpecial, s
	}
	return nowhere, s
}

// whole is the space of a log that just began a segment, without that one. It
// bounds the Intents that are open at a time, so that the change of segments,
// which loses the end of one, never takes the room of any.
func (o *Options) whole() space {
	return space{
		spares: spareSegments, spare: o.SegmentSize - openingRoom(o.SegmentSize),
		reserve: o.Reserve - openingRoom(o.Reserve),
	}
}

// space returns what is left with a live segment like this one.
func (r *room) space(o *Options, live int64, onReserve bool) space {
	s := o.whole()
	s.live, s.onReserve = live, onReserve
	r.mu.Lock()
	defer r.mu.Unlock()
	s.spares = int64(len(r.spares))
	if r.reserve == nil {
		s.reserve = 0
	}
	return s
}

// owed reports whether room is kept for the entry: it is the Outcome of an
// Intent, and no larger than was promised.
func (p *pending) owed() bool {
	return p.entry.Kind == ostiary.KindOutcome && !p.entry.Answers.IsZero() && framed(p.size()) <= OutcomeRoom
}

// spare reports whether the entry may use the reserve: Outcomes, refusals and
// the ledger's own, unless they are large.
func (p *pending) spare() bool {
	return p.entry.Kind != ostiary.KindIntent && p.entry.Kind != ostiary.KindResult && framed(p.size()) <= OutcomeRoom
}

// makeRoom sees to it that the batch fits the live segment, going to another
// one if it must, and that there is still room for every Outcome owed. While
// more room can be made it is waited for; then entries are refused: first
// what may not use the reserve, then all but the Outcomes owed.
func (l *Log) makeRoom(v *volume, batch []*pending) ([]*pending, error) {
	done, err := l.place(v, batch)
	for start := time.Now(); !done && err == nil && time.Since(start) < fullWithin && l.room.await(); {
		done, err = l.place(v, batch)
	}
	for _, keep := range [...]func(*pending) bool{(*pending).spare, (*pending).owed, nobody} {
		if done || err != nil {
			break
		}
		batch = slices.DeleteFunc(batch, func(p *pending) bool {
			if keep(p) {
				return false
			}
			p.answer(0, errFull())
			return true
		})
		done, err = l.place(v, batch)
	}
	return batch, err
}

// nobody is kept where there is no room even for what is owed, as after a
// start on a full disk.
func nobody(*pending) bool { return false }

func errFull() error {
	return ostiary.Errorf(ostiary.Unavailable, "ledger_full", "the ledger has no room")
}

// place makes the segment live that the batch goes to. It reports false if
// there is none, or if an Outcome that is owed would lose its room.
func (l *Log) place(v *volume, batch []*pending) (bool, error) {
	if len(batch) == 0 {
		return true, nil
	}
	records, intents, spare := int64(0), 0, true
	for _, p := range batch {
		records += p.size()
		spare = spare && p.spare()
		if p.entry.Kind == ostiary.KindIntent {
			intents++
		}
	}
	where, left := l.room.space(&l.opt, v.live.left(), v.live.reserve).after(records, spare)
	if where == nowhere {
		return false, nil
	}
	if open := len(v.chain.Open) + intents; left.holds() < open {
		answered := v.answered(batch)
		if left.holds() < open-answered && answered < len(batch) {
			return false, nil
		}
	}
	if where == inLive {
		return true, nil
	}
	err := l.nextSegment(v, where, framed(records))
	if errors.Is(err, errNoRoom) {
		return false, nil
	}
	return err == nil, err
}

// answered counts the open Intents whose Outcomes are in the batch.
func (v *volume) answered(batch []*pending) (n int) {
	for _, p := range batch {
		if _, open := v.chain.Open[p.entry.Answers]; open && p.owed() {
			n++
		}
	}
	return n
}

// fullWithin is how soon a full disk must refuse.
const fullWithin = time.Second

var errNoRoom = errors.New("no segment is ready")

// updateRoom tells admission what is left.
func (l *Log) updateRoom() {
	v := l.current()
	_, short := l.room.state()
	l.queue.setRoom(int(v.open.Load()), l.room.space(&l.opt, v.left.Load(), v.onReserve.Load()), short)
}
