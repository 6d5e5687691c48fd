package provenance

import (
	"slices"
	"sync"

	"github.com/ostiary/ostiary"
)

// readBy begins the note, among the stored taints of sessions that several
// processes share, that one of them holds an index of what was read: whoever
// finds another's knows that its own is not whole.
const readBy = "index:"

// maxHeld bounds the postings of all indexes together, some 300 MiB. Beyond it
// the indexes of other sessions are dropped, and their taint applies to all
// that the task does not say.
const maxHeld = 8 << 20

// known is the index of a kin, and its task as it was last read.
type known struct {
	mu    sync.Mutex // guards what follows; held for as long as a look-up takes
	index *Index
	text  string
	task  *Task
	size  int64 // postings
}

func (k *known) open(lost bool, text string) *Task {
	if k.index == nil {
		k.index = NewIndex(lost)
	} else if lost {
		k.index.full, k.index.tainted, k.index.unsent = true, true, true
	}
	if k.task == nil || k.text != text {
		k.text, k.task = text, NewTask(text)
		k.index.forgetAnchors()
	}
	return k.task
}

// forgetAnchors forgets what the task picked out, because it says more now.
func (x *Index) forgetAnchors() {
	for i := range x.results {
		clear(x.results[i].anchors)
	}
}

// Trace says where the arguments of a call in a session came from, and
// remembers them. text is what the person asked for.
func (s *Sessions) Trace(id ostiary.SessionID, p *Profile, text string, args ostiary.Value) Traced {
	return s.trace(id, p, text, args, (*Index).Trace)
}

// Look says what Trace would of a call that nobody makes now, and remembers
// nothing of it.
func (s *Sessions) Look(id ostiary.SessionID, p *Profile, text string, args ostiary.Value) Traced {
	return s.trace(id, p, text, args, (*Index).Look)
}

func (s *Sessions) trace(id ostiary.SessionID, p *Profile, text string, args ostiary.Value, ask func(*Index, *Profile, *Task, ostiary.Value) Traced) Traced {
	x := s.find(id)
	if x == nil { // forgotten just now: everything may have been read
		return ask(NewIndex(true), p, NewTask(text), args)
	}
	x.kin.mu.RLock()
	lost := x.kin.lost
	x.kin.mu.RUnlock()
	k := &x.kin.known
	k.mu.Lock()
	defer k.mu.Unlock()
	task := k.open(lost, text)
	return ask(k.index, p, task, args)
}

// Learn adds what a call of a session returned, before any of it is released.
// After an error, which is Unavailable, nothing may be.
func (s *Sessions) Learn(id ostiary.SessionID, p *Profile, text string, args, reply ostiary.Value, trusted bool) error {
	x := s.find(id)
	if x == nil {
		return nil // its taint is stored, and its index will count as lost
	}
	lost, err := s.note(x)
	if err != nil {
		return err
	}
	k := &x.kin.known
	k.mu.Lock()
	task := k.open(lost, text)
	k.index.Learn(p, task, args, reply, trusted)
	grown := int64(k.index.corpus.size()+k.index.sent.size()) - k.size
	k.size += grown
	k.mu.Unlock()
	if s.held.Add(grown) > maxHeld {
		s.shed(x.kin)
	}
	return nil
}

// note tells other processes that this one holds an index.
func (s *Sessions) note(x *session) (lost bool, err error) {
	c := x.kin
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.shared != nil && !c.noted {
		if err := s.save(x.id, s.nonce); err != nil {
			return false, err
		}
		c.noted = true
	}
	return c.lost, nil
}

// shed drops indexes until half of the room is free, but not the one of keep.
func (s *Sessions) shed(keep *kin) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.kins {
		if c == keep {
			continue
		}
		c.known.mu.Lock()
		if c.known.index != nil {
			s.held.Add(-c.known.size)
			c.known.index, c.known.size = NewIndex(c.known.index.tainted || c.known.index.full), 0
		}
		c.known.mu.Unlock()
		if s.held.Load() <= maxHeld/2 {
			return
		}
	}
}

// ofClass begins the note, among the stored taints, that data of a class were
// read.
const ofClass = "class:"

// with adds a word to a sorted list, and changes none that was handed out.
func with(list []string, word string) []string {
	i, have := slices.BinarySearch(list, word)
	if have {
		return list
	}
	return slices.Insert(slices.Clone(list), i, word)
}

// Classify records that data of some classes are about to enter a session.
// When it returns nil that is durable; after an error, which is Unavailable,
// nothing of them may be released.
func (s *Sessions) Classify(id ostiary.SessionID, classes []string) error {
	x := s.find(id)
	for _, class := range classes {
		if x == nil { // forgotten from memory; the store still knows it
			if err := s.save(id, ofClass+class); err != nil {
				return err
			}
			continue
		}
		if err := x.kin.classify(s, x.id, class); err != nil {
			return err
		}
	}
	return nil
}

func (c *kin) classify(s *Sessions, id ostiary.SessionID, class string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, have := slices.BinarySearch(c.classes, class); have {
		return nil
	}
	if err := s.save(id, ofClass+class); err != nil {
		return err
	}
	c.classes = with(c.classes, class)
	return nil
}
