package rotation

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
)

// Purpose is what a line of keys is for.
type Purpose string

// The lines of keys a deployment has.
const (
	Root         Purpose = "root"         // certifies intermediates
	Intermediate Purpose = "intermediate" // certifies agents and the gateway
	Token        Purpose = "token"        // signs access tokens
	Mandate      Purpose = "mandate"      // signs mandates
	Checkpoint   Purpose = "checkpoint"   // signs the logs: a key for each gateway's
	Storage      Purpose = "storage"      // wraps the keys of payloads
	Signing      Purpose = "signing"      // signs requests to tool servers
	Snapshot     Purpose = "snapshot"     // signs policy snapshots
)

// Purposes lists them all, in the order in which a rotation of everything
// makes keys: what certifies comes before what is certified.
func Purposes() []Purpose {
	return []Purpose{Root, Intermediate, Token, Mandate, Checkpoint, Storage, Signing, Snapshot}
}

// State is what a key is just now. The zero value is refused.
type State uint8

// The states, in the order a key goes through them; Refused is the last.
const (
	Refused  State = iota // nothing by it is believed any more
	Next                  // published: others may learn it before it signs
	Current               // it signs
	Retiring              // it signs no more, and what it signed is still believed
)

// String returns the state's word.
func (s State) String() string {
	switch s {
	case Next:
		return "next"
	case Current:
		return "current"
	case Retiring:
		return "retiring"
	}
	return "refused"
}

// Key is one key of a line, without its private part. Its states follow from
// its times alone, so every process that knows them passes from one to the
// next by itself.
type Key struct {
	Purpose      Purpose   `json:"purpose"`
	Generation   int       `json:"generation"` // from 1; a higher one follows a lower one
	Name         string    `json:"name"`       // in the keyring; of logs what names begin with
	ID           string    `json:"id"`         // what stands in what it signs, where something does
	Algorithm    string    `json:"algorithm"`
	Public       []byte    `json:"public,omitempty"`       // PKIX DER; empty for keys that have no public part, and for logs
	Certificates [][]byte  `json:"certificates,omitempty"` // DER, of authorities: its own first, then those it made for other keys
	Created      time.Time `json:"created"`
	Signs        time.Time `json:"signs"`         // from when on it signs
	Ends         time.Time `json:"ends,omitzero"` // from when on it is refused; zero: while nothing follows it
	Revoked      string    `json:"revoked,omitempty"`
}

// String is the key's name among people: "token-2".
func (k Key) String() string { return fmt.Sprintf("%s-%d", k.Purpose, k.Generation) }

// refused reports whether nothing by the key is believed at a moment.
func (k *Key) refused(at time.Time) bool { return !k.Ends.IsZero() && !at.Before(k.Ends) }

// Schedule is every line of keys. It is immutable.
type Schedule struct {
	revision uint64
	lines    map[Purpose][]Key // by generation, never empty
}

// Fixed returns a schedule of keys that nobody rotates.
func Fixed(keys ...Key) *Schedule {
	s := &Schedule{lines: map[Purpose][]Key{}}
	for _, k := range keys {
		s.lines[k.Purpose] = append(s.lines[k.Purpose], k)
	}
	return s
}

// Keys returns a line, the oldest first. Nobody may change it.
func (s *Schedule) Keys(p Purpose) []Key { return s.lines[p] }

// Current returns the key that signs at a moment. There is always one, as a
// key ends only when the next one signs: without one the answer is the zero
// Key, whose name opens nothing.
func (s *Schedule) Current(p Purpose, at time.Time) Key {
	for _, k := range slices.Backward(s.lines[p]) {
		if !k.Signs.After(at) && !k.refused(at) {
			return k
		}
	}
	return Key{}
}

// Believed returns the keys whose signatures are accepted at a moment, the
// oldest first: those that sign, will sign, or signed until a while ago.
func (s *Schedule) Believed(p Purpose, at time.Time) []Key {
	var out []Key
	for _, k := range s.lines[p] {
		if !k.refused(at) {
			out = append(out, k)
		}
	}
	return out
}

// Refuses reports whether nothing by the key of that id is believed at a
// moment. One that was revoked is refused whatever the clock of whoever asks
// says, and so is one that is not known here.
func (s *Schedule) Refuses(p Purpose, id string, at time.Time) bool {
	k, ok := s.byID(p, id)
	return !ok || k.Revoked != "" || k.refused(at)
}

// Distrusts reports whether what the key of that id signed is refused also
// where it was believed when it was shown: the key was revoked, which says
// that somebody else may have had it, or it is not known here. A window that
// merely ended takes nothing back.
func (s *Schedule) Distrusts(id string) bool {
	for p := range s.lines {
		if k, ok := s.byID(p, id); ok {
			return k.Revoked != ""
		}
	}
	return true
}

func (s *Schedule) byID(p Purpose, id string) (Key, bool) {
	for _, k := range s.lines[p] {
		if k.ID == id {
			return k, true
		}
	}
	return Key{}, false
}

// State says what a key of the schedule is at a moment.
func (s *Schedule) State(k Key, at time.Time) State {
	switch {
	case k.refused(at):
		return Refused
	case k.Signs.After(at):
		return Next
	case s.Current(k.Purpose, at).Generation == k.Generation:
		return Current
	}
	return Retiring
}

// Until returns the first moment after at at which some key's state is
// another, zero if there is none.
func (s *Schedule) Until(at time.Time) time.Time {
	var first time.Time
	for _, line := range s.lines {
		for _, k := range line {
			for _, t := range []time.Time{k.Signs, k.Ends} {
				if t.After(at) && (first.IsZero() || t.Before(first)) {
					first = t
				}
			}
		}
	}
	return first
}

// find returns the key of that name among people, or of that id.
func (s *Schedule) find(id string) (Key, bool) {
	for _, p := range Purposes() {
		for _, k := range s.lines[p] {
			if k.ID == id || k.String() == id {
				return k, true
			}
		}
	}
	return Key{}, false
}

// clone returns a schedule that may be changed.
func (s *Schedule) clone() *Schedule {
	c := &Schedule{s.revision, map[Purpose][]Key{}}
	for p, line := range s.lines {
		c.lines[p] = slices.Clone(line)
	}
	return c
}

// stored is the form of a schedule in control state.
type stored struct {
	Version int   `json:"v"`
	Keys    []Key `json:"keys"`
}

// keptRefused is how many refused keys of a line are remembered, for people
// who look; the log has them all.
const keptRefused = 6

func (s *Schedule) encode(at time.Time) ([]byte, error) {
	out := stored{Version: 1}
	for _, p := range Purposes() {
		line := s.lines[p]
		gone := 0
		for _, k := range line {
			if k.refused(at) {
				gone++
			}
		}
		for _, k := range line {
			if k.refused(at) {
				k.Certificates = nil
				if gone > keptRefused {
					gone--
					continue
				}
			}
			out.Keys = append(out.Keys, k)
		}
	}
	return json.Marshal(out)
}

// decode reads a stored schedule. It is our own, and still no key is taken
// from one that does not add up.
func decode(b []byte, revision uint64) (*Schedule, error) {
	var in stored
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, corrupt("it cannot be read").Because(err)
	}
	if in.Version != 1 {
		return nil, corrupt(fmt.Sprintf("its form %d is not known here", in.Version))
	}
	s := &Schedule{revision, map[Purpose][]Key{}}
	for _, k := range in.Keys {
		line := s.lines[k.Purpose]
		switch {
		case k.Generation < 1 || k.Name == "" || k.ID == "" || k.Signs.IsZero():
			return nil, corrupt("a key of it has no number, name, id or time")
		case len(line) > 0 && line[len(line)-1].Generation >= k.Generation:
			return nil, corrupt("its keys are not in order")
		}
		if _, twice := s.find(k.ID); twice {
			return nil, corrupt("two keys of it have one id")
		}
		s.lines[k.Purpose] = append(line, k)
	}
	for _, p := range Purposes() {
		if line := s.lines[p]; len(line) == 0 || !line[len(line)-1].Ends.IsZero() {
			return nil, corrupt(fmt.Sprintf("no key for %s is left in force", p))
		}
	}
	return s, nil
}

func corrupt(why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the schedule of keys in the control state is not usable: %s", why)
}
