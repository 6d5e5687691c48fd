// Package provenance knows where data came from: the sessions the gateway
// issues, what tainted them, and where each value in them came from.
//
// It guarantees that a session belongs to one (agent, principal, mandate) for
// as long as the mandate lives, whatever the client does, and that its taint
// only grows: a source is stored durably before the first byte from it is
// released, so neither reconnecting nor restarting sheds it, nor calling
// through another gateway on the same store, nor handing the work on: the
// sessions under one first mandate and under everything derived from it are
// kin, and what one of them has read taints them all. Agents that work on one
// thing tell each other what they read, where no gateway sees it. It trusts
// its SessionStore to be durable. It decides nothing.
package provenance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// maxCached bounds the sessions held in memory. Beyond it half of them, any, are
// dropped and read again from the store when needed; their read counts since
// start-up are lost with them, so it is far above any real fleet of agents.
const maxCached = 100_000

// storeTimeout bounds a write of taint, which happens once per session and
// source.
const storeTimeout = 10 * time.Second

// Sessions issues sessions and remembers their taint. Safe for concurrent use.
type Sessions struct {
	store  SessionStore
	nonce  string         // of this process, for those who share the store
	held   atomic.Int64   // postings of all indexes
	shared SharedSessions // the same, if other processes write it too; else nil
	clock  func() time.Time

	mu     sync.RWMutex // guards what follows
	byKey  map[key]*session
	byID   map[ostiary.SessionID]*session
	kins   map[ostiary.MandateID]*kin // of the sessions in memory, by their first mandate
	unseen uint64                     // taints stored of sessions that were not in memory
}

// Owner is what a session belongs to.
type Owner struct {
	Agent     ostiary.AgentID
	Principal ostiary.PrincipalID
	Mandate   ostiary.MandateID
	Root      ostiary.MandateID // the first mandate of the chain; Mandate itself if that is derived from none
}

type key struct {
	agent     ostiary.AgentID
	principal ostiary.PrincipalID
	mandate   ostiary.MandateID
}

type session struct {
	key     key
	id      ostiary.SessionID
	started time.Time
	kin     *kin
	reads   atomic.Int64
}

// kin is what the sessions of one piece of work have in common.
type kin struct {
	root    ostiary.MandateID
	members int // sessions in memory; guarded by Sessions.mu

	mu    sync.RWMutex // guards what follows
	taint []string     // sorted, and stored; replaced, never changed in place
	// classes of data that were read; as taint
	classes []string
	lost    bool // something was read that is in no index here
	noted   bool // others know that there is an index here

	known known
}

// NewSessions returns sessions backed by store.
func NewSessions(store SessionStore, clock func() time.Time) *Sessions {
	var nonce [8]byte
	rand.Read(nonce[:])
	s := &Sessions{store: store, clock: clock, nonce: readBy + hex.EncodeToString(nonce[:])}
	s.forget()
	return s
}

// forget empties the memory.
func (s *Sessions) forget() {
	s.byKey, s.byID, s.kins = map[key]*session{}, map[ostiary.SessionID]*session{}, map[ostiary.MandateID]*kin{}
}

// NewSharedSessions returns sessions that other processes taint as well: each
// Open asks the store again, so that what a session has read elsewhere is known
// before its next call here, and a store that does not answer refuses.
func NewSharedSessions(store SharedSessions, clock func() time.Time) *Sessions {
	s := NewSessions(store, clock)
	s.shared = store
	return s
}

// Count returns how many sessions are held in memory.
func (s *Sessions) Count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byKey)
}

// State is a session with its history at one moment.
type State struct {
	Session ostiary.Session
	Taint   []string // sorted: what it and its kin have read; must not be changed
	Classes []string // sorted: data classes among it; must not be changed
	Reads   int64    // results of untrusted servers read since this process started
}

// Open returns the owner's session, issuing one if there is none. Unavailable
// if the store cannot answer.
func (s *Sessions) Open(ctx context.Context, o Owner) (State, error) {
	k := key{o.Agent, o.Principal, o.Mandate}
	s.mu.RLock()
	found := s.byKey[k]
	s.mu.RUnlock()
	if found == nil {
		var err error
		if found, err = s.load(ctx, o); err != nil {
			return State{}, err
		}
	}
	if s.shared != nil {
		taint, err := s.shared.SessionTaint(ctx, found.id)
		if err != nil {
			return State{}, ostiary.Errorf(ostiary.Unavailable, "sessions", "sessions cannot be read").Because(err)
		}
		found.kin.learn(taint, s.nonce)
	}
	return found.state(), nil
}

// Owner returns whose session one is; NotFound if there is none.
func (s *Sessions) Owner(ctx context.Context, id ostiary.SessionID) (Owner, error) {
	r, err := s.store.Session(ctx, id)
	return Owner{r.Agent, r.Principal, r.Mandate, r.Root}, err
}

// learn adds what was read from the store. It takes nothing away: a taint may
// have been stored here since the store was asked.
func (x *kin) learn(taint []string, own string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, source := range taint {
		if strings.HasPrefix(source, readBy) {
			x.lost = x.lost || source != own
			continue
		}
		if class, ok := strings.CutPrefix(source, ofClass); ok {
			x.classes = with(x.classes, class)
			continue
		}
		if i, have := slices.BinarySearch(x.taint, source); !have {
			x.lost = true
			x.taint = slices.Insert(slices.Clone(x.taint), i, source)
		}
	}
}

func (x *session) state() State {
	x.kin.mu.RLock()
	defer x.kin.mu.RUnlock()
	return State{ostiary.Session{ID: x.id, Started: x.started}, x.kin.taint, x.kin.classes, x.reads.Load()}
}

func (s *Sessions) load(ctx context.Context, o Owner) (*session, error) {
	var id [16]byte
	rand.Read(id[:])
	for {
		s.mu.RLock()
		before := s.unseen
		s.mu.RUnlock()
		rec, err := s.store.OpenSession(ctx, SessionRecord{
			ID: ostiary.SessionID(hex.EncodeToString(id[:])), Agent: o.Agent, Principal: o.Principal, Mandate: o.Mandate, Root: o.Root, Started: s.clock(),
		})
		if err != nil {
			return nil, ostiary.Errorf(ostiary.Unavailable, "sessions", "sessions cannot be read").Because(err)
		}
		if x := s.keep(rec, before); x != nil {
			return x, nil
		}
	}
}

// keep puts what was read into memory, unless a taint was stored meanwhile
// that it may lack: then it returns nil.
func (s *Sessions) keep(rec SessionRecord, before uint64) *session {
	k := key{rec.Agent, rec.Principal, rec.Mandate}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.byKey[k]; x != nil {
		return x // another call was faster
	}
	if s.unseen != before {
		return nil
	}
	if len(s.byKey) >= maxCached {
		s.forgetHalf()
	}
	common := s.kins[rec.Root]
	if common == nil { // one that is in memory has heard of every taint since
		common = &kin{root: rec.Root}
		common.learn(rec.Taint, s.nonce)
		s.kins[rec.Root] = common
	}
	common.members++
	x := &session{key: k, id: rec.ID, started: rec.Started, kin: common}
	s.byKey[k], s.byID[rec.ID] = x, x
	return x
}

func (s *Sessions) forgetHalf() {
	n := len(s.byKey) / 2
	for k, x := range s.byKey {
		if n--; n < 0 {
			return
		}
		delete(s.byKey, k)
		delete(s.byID, x.id)
		if x.kin.members--; x.kin.members == 0 {
			delete(s.kins, x.kin.root)
		}
	}
}

// Taint records that content of a source is about to enter the session. When
// it returns nil the taint is durable; after an error, which is Unavailable,
// nothing of the content may be released: a session whose history was lost
// would be clean again after a restart.
func (s *Sessions) Taint(id ostiary.SessionID, source string) error {
	x := s.find(id)
	for {
		var err error
		if x != nil {
			err = x.add(s, source)
		} else { // forgotten from memory; the store still knows it
			err = s.save(id, source)
		}
		if err != nil || x != nil && x == s.find(id) {
			return err
		}
		// The session is not in memory, or it was forgotten just now, and who
		// its kin are is not known here: whoever is reading one of them from the
		// store reads it again, and what was read of any is forgotten, which
		// costs a read each. It happens when memory was full.
		s.mu.Lock()
		s.unseen++
		if x = s.byID[id]; x == nil {
			s.forget()
		}
		s.mu.Unlock()
		if x == nil {
			return nil
		}
	}
}

func (s *Sessions) find(id ostiary.SessionID) *session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

func (x *session) add(s *Sessions, source string) error {
	x.reads.Add(1)
	c := x.kin
	c.mu.Lock()
	defer c.mu.Unlock()
	i, have := slices.BinarySearch(c.taint, source)
	if have {
		return nil
	}
	if err := s.save(x.id, source); err != nil {
		return err
	}
	c.taint = slices.Insert(slices.Clone(c.taint), i, source)
	return nil
}

func (s *Sessions) save(id ostiary.SessionID, source string) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := s.store.TaintSession(ctx, id, source); err != nil {
		return ostiary.Errorf(ostiary.Unavailable, "taint_not_stored", "what the session has read could not be stored").Because(err)
	}
	return nil
}
