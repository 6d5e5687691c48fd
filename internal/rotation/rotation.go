// Package rotation says which of a deployment's keys signs, which follows it,
// and until when one that was followed is still believed.
//
// It guarantees that a key is known to whoever asks before it signs; that a
// line is never without a key that signs; that what is refused stays refused;
// and that a rotation happened wholly or not at all, whatever ends the process
// in the middle: keys are made first, under names that the next attempt finds
// again, and one write to the control state puts all of them in force. Every
// process of the store follows by that one record, and by its clock.
//
// It trusts the keeper of the record, whoever makes the keys, and the clocks
// of the processes to agree within the time a key is published before it
// signs. It holds no private key, and enforces nothing: what a refused key
// signed is refused by whoever reads it, by asking here.
package rotation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// kind and id name the one record there is.
const (
	kind = "key"
	id   = "schedule"
)

// Changed reports whether a change of control state, of a record by this
// name, is one of the schedule.
func Changed(record string) bool { return record == kind+" "+id }

const (
	// maxBelieved bounds the keys of a line that are accepted at once: each
	// costs those who verify, and a bundle holds few.
	maxBelieved = 4
	// maxRaces is how often a change that lost to another process is tried
	// again: people rotate, so losing twice in a row is rare already.
	maxRaces = 5
	// MaxTime bounds how long a key is published before it signs, and how
	// long one is believed after: what is to be for good is no rotation.
	MaxTime = 400 * 24 * time.Hour
	// maxWhy bounds what people write.
	maxWhy = 500
)

// Rule is how one line is rotated.
type Rule struct {
	Signs  string        // what its keys sign, for people
	Lead   time.Duration // how long a key is published before it signs, if nobody says otherwise
	Window time.Duration // how long the one before it is still believed from then on, at least, if nobody says otherwise

	// Shortest says how short a window may be without refusing somebody who
	// did nothing wrong, and why, as "agents' certificates live 15m". nil:
	// any will do.
	Shortest func() (least time.Duration, why string)

	// First describes the key there is before any rotation.
	First func() (Key, error)
	// Make makes the private key of that name durable, or finds the one
	// there is, and says what it is: ID, Algorithm and Certificates. draft
	// is the schedule so far, with keys made in the same rotation.
	Make func(name string, draft *Schedule, at time.Time) (Key, error)
}

// window is the one to take if nobody says otherwise: never one that refuses
// somebody who did nothing wrong.
func (r *Rule) window() time.Duration {
	if r.Shortest == nil {
		return r.Window
	}
	least, _ := r.Shortest()
	return max(r.Window, least)
}

// Event is a change that is about to be made.
type Event struct {
	What    string // "rotate_key", "revoke_key"
	Purpose Purpose
	Key     string // that is new, revoked or destroyed: "token-2"
	Detail  string // one sentence for people
}

// Options are what a Book is made of. All are required.
type Options struct {
	Keeper record.Keeper
	Rules  map[Purpose]Rule
	Record func(ctx context.Context, e Event) error // makes an event durable; nothing is changed before it returned
	Clock  func() time.Time
}

// Book is the schedule as this process knows it. Safe for concurrent use.
type Book struct {
	o        Options
	changing sync.Mutex // one change at a time
	now      atomic.Pointer[Schedule]
}

// Open reads the schedule. Without one in the control state every line has the
// key it began with.
func Open(ctx context.Context, o Options) (*Book, error) {
	b := &Book{o: o}
	return b, b.Load(ctx)
}

// Schedule returns the schedule as of the last Load.
func (b *Book) Schedule() *Schedule { return b.now.Load() }

// Rule returns how a line is rotated.
func (b *Book) Rule(p Purpose) Rule { return b.o.Rules[p] }

// Load reads the schedule again.
func (b *Book) Load(ctx context.Context) error {
	s, err := b.read(ctx)
	if err != nil {
		return err
	}
	for {
		old := b.now.Load()
		if old != nil && old.revision > s.revision { // somebody here was faster
			return nil
		}
		if b.now.CompareAndSwap(old, s) {
			return nil
		}
	}
}

func (b *Book) read(ctx context.Context) (*Schedule, error) {
	r, err := b.o.Keeper.Record(ctx, kind, id, b.o.Clock())
	if err == nil {
		return decode(r.Data, r.Revision)
	}
	if ostiary.KindOf(err) != ostiary.NotFound {
		return nil, err
	}
	if s := b.now.Load(); s != nil { // nobody rotated yet
		return s, nil
	}
	s := &Schedule{lines: map[Purpose][]Key{}}
	for _, p := range Purposes() {
		k, err := b.o.Rules[p].First()
		if err != nil {
			return nil, fmt.Errorf("the first key for %s: %w", p, err)
		}
		k.Purpose, k.Generation = p, 1
		if k.Signs = k.Created; k.Signs.IsZero() {
			k.Signs = time.Unix(0, 0).UTC()
		}
		s.lines[p] = []Key{k}
	}
	return s, nil
}

// Request asks for new keys.
type Request struct {
	Purposes []Purpose
	Lead     *time.Duration // nil: each line's own
	Window   *time.Duration // nil: each line's own
	Force    bool           // also with a window that refuses what was issued in good faith
}

// Rotate makes the next key of each line, and says from when it signs and
// until when the one before it is believed. It returns the keys made.
func (b *Book) Rotate(ctx context.Context, r Request) ([]Key, error) {
	if err := b.check(&r); err != nil {
		return nil, err
	}
	var made []Key
	err := b.change(ctx, func(s *Schedule, at time.Time) ([]Event, error) {
		made = nil
		var events []Event
		for _, p := range Purposes() {
			if !slices.Contains(r.Purposes, p) {
				continue
			}
			k, until, err := b.follow(s, p, &r, at)
			if err != nil {
				return nil, err
			}
			made = append(made, k)
			events = append(events, Event{What: "rotate_key", Purpose: p, Key: k.String(), Detail: fmt.Sprintf(
				"the key %s (%s) signs from %s; the one before it is believed until %s", k, k.ID, k.Signs.Format(time.RFC3339), until.Format(time.RFC3339))})
		}
		return events, nil
	})
	return made, err
}

func (b *Book) check(r *Request) error {
	if len(r.Purposes) == 0 {
		return ostiary.Errorf(ostiary.Malformed, "rotation_purpose", "say which key: %s, or all", names()).At("purpose")
	}
	if out(r.Lead) {
		return ostiary.Errorf(ostiary.Malformed, "rotation_lead", "a key is published for 0 to %s before it signs", MaxTime).At("lead")
	}
	if out(r.Window) {
		return ostiary.Errorf(ostiary.Malformed, "rotation_window", "a key is believed for 0 to %s after the next one signs", MaxTime).At("window")
	}
	for _, p := range r.Purposes {
		rule, ok := b.o.Rules[p]
		if !ok {
			return ostiary.Errorf(ostiary.Malformed, "rotation_purpose", "there is no key for %q: %s, or all", string(p), names()).At("purpose")
		}
		if rule.Shortest == nil || r.Window == nil || r.Force {
			continue
		}
		if least, why := rule.Shortest(); *r.Window < least {
			return ostiary.Errorf(ostiary.Conflict, "window_short", "in a window of %s the %s key would be refused while what it signed in good faith is in use: %s. Give --window %s or longer, or --force to end it all the same", *r.Window, p, why, least).At("window")
		}
	}
	return nil
}

func out(t *time.Duration) bool { return t != nil && (*t < 0 || *t > MaxTime) }

func names() string {
	var all []string
	for _, p := range Purposes() {
		all = append(all, string(p))
	}
	return strings.Join(all, ", ")
}

// follow adds the next key of a line to a schedule, which is whoever calls's
// own.
func (b *Book) follow(s *Schedule, p Purpose, r *Request, at time.Time) (k Key, until time.Time, err error) {
	rule := b.o.Rules[p]
	lead, window := rule.Lead, rule.window()
	if r.Lead != nil {
		lead = *r.Lead
	}
	if r.Window != nil {
		window = *r.Window
	}
	line := s.lines[p]
	last := &line[len(line)-1]
	if last.Signs.After(at) {
		return k, until, ostiary.Errorf(ostiary.Conflict, "rotation_running", "the key %s was made already and signs from %s on; see: ostiary keys list", last, last.Signs.Format(time.RFC3339))
	}
	if len(s.Believed(p, at)) >= maxBelieved {
		return k, until, ostiary.Errorf(ostiary.Conflict, "rotation_many", "%d %s keys are believed just now: wait until the oldest window ends, or end it with \"ostiary keys revoke\"", maxBelieved, p)
	}
	if k, err = b.make(s, p, at); err != nil {
		return k, until, err
	}
	k.Signs = at.Add(lead)
	last.Ends = k.Signs.Add(window)
	s.lines[p] = append(line, k)
	return k, last.Ends, nil
}

// make makes the key that follows the last of a line.
func (b *Book) make(s *Schedule, p Purpose, at time.Time) (Key, error) {
	line := s.lines[p]
	n := line[len(line)-1].Generation + 1
	name := Name(line[0].base(), n)
	k, err := b.o.Rules[p].Make(name, s, at)
	if err != nil {
		return k, fmt.Errorf("making the next key for %s: %w", p, err)
	}
	k.Purpose, k.Generation, k.Name, k.Created = p, n, name, at
	if _, twice := s.find(k.ID); twice {
		return k, ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the new key for %s is one there was already", p)
	}
	return k, nil
}

// Name is what a key of a line is called in the keyring: no first key's name
// begins like a later one's.
func Name(base string, generation int) string {
	if generation == 1 {
		return base
	}
	return fmt.Sprintf("g%d-%s", generation, base)
}

// base is the name without what Name put in front.
func (k *Key) base() string { return strings.TrimPrefix(k.Name, fmt.Sprintf("g%d-", k.Generation)) }

// Revoke refuses a key from now on, and one whose window has ended for what was
// begun under it too: see [Schedule.Distrusts]. If it signs, the next one signs at once;
// one is made if there is none. Other processes of the store follow within
// moments: until then they refuse what the new key signs.
func (b *Book) Revoke(ctx context.Context, keyID, why string) (revoked Key, successor Key, err error) {
	if strings.TrimSpace(why) == "" || len(why) > maxWhy {
		return revoked, successor, ostiary.Errorf(ostiary.Malformed, "revocation_reason", "say why, in at most %d bytes", maxWhy).At("reason")
	}
	err = b.change(ctx, func(s *Schedule, at time.Time) ([]Event, error) {
		k, ok := s.find(keyID)
		if !ok {
			return nil, ostiary.Errorf(ostiary.NotFound, "key", "there is no key %q; see: ostiary keys list", keyID).At("key")
		}
		if k.Revoked != "" {
			return nil, ostiary.Errorf(ostiary.Conflict, "key_refused", "the key %s is revoked since %s", k, k.Ends.Format(time.RFC3339)).At("key")
		}
		if line := s.lines[k.Purpose]; line[len(line)-1].ID == k.ID { // nothing follows it
			next, err := b.make(s, k.Purpose, at)
			if err != nil {
				return nil, err
			}
			next.Signs = at
			s.lines[k.Purpose] = append(line, next)
		}
		line := s.lines[k.Purpose]
		for i := range line {
			switch {
			case line[i].ID == k.ID:
				line[i].Revoked = why
				if !k.refused(at) {
					line[i].Ends = at
				}
				revoked = line[i]
			case line[i].Generation == k.Generation+1 && line[i].Signs.After(at):
				line[i].Signs = at
			}
		}
		successor = s.Current(k.Purpose, at)
		return []Event{{What: "revoke_key", Purpose: k.Purpose, Key: k.String(), Detail: fmt.Sprintf("the key %s (%s) is refused from now on; %s signs: %s", k, k.ID, successor, why)}}, nil
	})
	return revoked, successor, err
}

// change applies do to the newest schedule, records what it says, and puts it
// in force; again if another process was faster.
func (b *Book) change(ctx context.Context, do func(s *Schedule, at time.Time) ([]Event, error)) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	var err error
	for range maxRaces {
		if err = b.changeOnce(ctx, do); ostiary.KindOf(err) != ostiary.Conflict || ostiary.AsError(err).Code != "rotation_race" {
			return err
		}
	}
	return err
}

func (b *Book) changeOnce(ctx context.Context, do func(s *Schedule, at time.Time) ([]Event, error)) error {
	s, err := b.read(ctx)
	if err != nil {
		return err
	}
	s, at := s.clone(), b.o.Clock().UTC().Truncate(time.Millisecond)
	events, err := do(s, at)
	if err != nil {
		return err
	}
	data, err := s.encode(at)
	if err != nil {
		return err
	}
	r := record.Record{Kind: kind, ID: id, Data: data, Revision: s.revision}
	if err := r.Check(); err != nil {
		return err
	}
	for _, e := range events {
		if err := b.o.Record(ctx, e); err != nil {
			return err
		}
	}
	if s.revision == 0 {
		_, err = b.o.Keeper.CreateRecord(ctx, r, at)
	} else {
		_, err = b.o.Keeper.ReplaceRecord(ctx, r)
	}
	if k := ostiary.KindOf(err); err != nil && (k == ostiary.Conflict || k == ostiary.NotFound) {
		return ostiary.Errorf(ostiary.Conflict, "rotation_race", "other keys were changed at the same moment: look, and try again").Because(err)
	}
	if err != nil {
		return err
	}
	return b.Load(ctx)
}
