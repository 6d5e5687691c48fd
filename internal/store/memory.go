package store

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/record"
)

// Memory is control state in memory: the same answers as a database, without
// durability, goroutines or files, for tests and simulations.
type Memory struct {
	now func() time.Time

	mu          sync.Mutex // guards everything below
	closed      bool
	fail        func() (before, after error) // tests let a commit fail; nil never fails
	rev, epoch  uint64
	changes     []Change
	requests    map[string]uint64
	tokens      map[ostiary.Digest]*memoryToken
	agents      map[ostiary.AgentID]identity.AgentRecord
	mandates    map[ostiary.MandateID]identity.MandateRecord
	revocations []identity.Revocation
	pins        map[[3]string]catalog.PinRecord
	snapshots   [][]byte
	sessions    map[sessionKey]*provenance.SessionRecord
	byID        map[ostiary.SessionID]*provenance.SessionRecord
	logs        []*memoryLog
	keys        map[string][]byte
	contained   map[[2]string]Containment
	records     map[[2]string]record.Record // by kind and id
	holds       map[ostiary.HoldID]approval.Row
	accounts    map[budget.Account]budget.State
	budgeted    map[ostiary.EntryID]budget.Record
}

type memoryToken struct {
	identity.JoinToken
	spent bool
}

type memoryLog struct {
	ledger.LogRecord
	epoch, size uint64
	root        ostiary.Digest
}

type sessionKey struct {
	agent     ostiary.AgentID
	principal ostiary.PrincipalID
	mandate   ostiary.MandateID
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		now:      time.Now,
		requests: map[string]uint64{}, tokens: map[ostiary.Digest]*memoryToken{},
		agents: map[ostiary.AgentID]identity.AgentRecord{}, mandates: map[ostiary.MandateID]identity.MandateRecord{},
		pins: map[[3]string]catalog.PinRecord{}, sessions: map[sessionKey]*provenance.SessionRecord{},
		byID: map[ostiary.SessionID]*provenance.SessionRecord{}, keys: map[string][]byte{}, contained: map[[2]string]Containment{},
		records: map[[2]string]record.Record{}, holds: map[ostiary.HoldID]approval.Row{},
		accounts: map[budget.Account]budget.State{}, budgeted: map[ostiary.EntryID]budget.Record{},
	}
}

// Close refuses everything that follows.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// enter takes the lock, or says why nothing can be done.
func (m *Memory) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, errNotStored(err)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, errClosed()
	}
	return m.mu.Unlock, nil
}

// commit is the end of a write: it happens here, with its revision, or it
// does not. A change whose answer is lost is found by its request, like in a
// database; what has no revision cannot be.
func (m *Memory) commit(request, kind, key string, content any, apply func()) error {
	var before, after error
	if m.fail != nil {
		before, after = m.fail()
	}
	if before != nil {
		return errNotStored(before)
	}
	apply()
	if kind == "" {
		if after != nil {
			return errNotKnown(after)
		}
		return nil
	}
	m.rev++
	m.requests[request] = m.rev
	m.changes = append(m.changes, Change{m.rev, m.epoch, request, kind, key, []byte(body(content))})
	return nil
}

func (m *Memory) CreateJoinToken(ctx context.Context, t identity.JoinToken) error {
	if err := checkText("join token", string(t.Agent), string(t.Principal), t.Owner, t.Zone, list(t.Roles)); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if m.tokens[t.Hash] != nil {
		return errTaken("join token")
	}
	t.Roles, t.Created, t.Expires = sorted(t.Roles), instant(stamp(t.Created)), instant(stamp(t.Expires))
	return m.commit(NewRequest(), "join_token", t.Hash.String(), map[string]any{"agent": t.Agent, "principal": t.Principal, "expires": t.Expires},
		func() { m.tokens[t.Hash] = &memoryToken{JoinToken: t} })
}

func (m *Memory) RedeemJoinToken(ctx context.Context, hash ostiary.Digest, at time.Time, make func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error)) (identity.AgentRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return identity.AgentRecord{}, err
	}
	defer leave()
	none := identity.AgentRecord{}
	t := m.tokens[hash]
	switch {
	case t == nil:
		return none, errTokenUnknown()
	case t.spent:
		return none, errTokenUsed()
	case stamp(t.Expires) <= stamp(at):
		return none, errTokenExpired()
	}
	given := t.JoinToken
	given.Roles = slices.Clone(t.Roles)
	a, md, err := make(given)
	if err != nil {
		return none, err
	}
	if a, md, err = granted(t.JoinToken, a, md); err != nil {
		return none, err
	}
	if _, taken := m.mandates[md.ID]; taken {
		return none, errTaken("mandate")
	}
	err = m.commit(NewRequest(), "agent", string(a.ID), map[string]any{"mandate": a.Mandate, "principal": a.Principal, "zone": a.Zone, "roles": a.Roles}, func() {
		stored := a
		stored.Disabled = m.agents[a.ID].Disabled
		t.spent, m.agents[a.ID], m.mandates[md.ID] = true, stored, md
	})
	if err != nil {
		return none, err
	}
	return a, nil
}

func (m *Memory) Agents(ctx context.Context) ([]identity.AgentRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := slices.SortedFunc(maps.Values(m.agents), func(a, b identity.AgentRecord) int { return strings.Compare(string(a.ID), string(b.ID)) })
	for i := range out {
		out[i].Roles = slices.Clone(out[i].Roles)
	}
	return out, nil
}

func (m *Memory) Revoke(ctx context.Context, r identity.Revocation) (uint64, error) {
	if err := checkText("revocation", string(r.Kind), r.Subject, r.Reason); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	r.Epoch, r.At = m.epoch+1, instant(stamp(r.At))
	err = m.commit(NewRequest(), "revocation", r.Subject, revocationBody(&r),
		func() { m.epoch, m.revocations = r.Epoch, append(m.revocations, r) })
	if err != nil {
		return 0, err
	}
	return r.Epoch, nil
}

func (m *Memory) Revocations(ctx context.Context, after uint64) (uint64, []identity.Revocation, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	first, _ := slices.BinarySearchFunc(m.revocations, after+1, func(r identity.Revocation, epoch uint64) int { return cmp.Compare(r.Epoch, epoch) })
	next := m.revocations[first:]
	return m.epoch, slices.Clone(next[:min(len(next), identity.RevocationsRead)]), nil
}

func (m *Memory) Pins(ctx context.Context) ([]catalog.PinRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := slices.SortedFunc(maps.Values(m.pins), func(a, b catalog.PinRecord) int {
		return cmp.Or(strings.Compare(a.Server, b.Server), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	for i := range out {
		out[i].Definition = slices.Clone(out[i].Definition)
	}
	return out, nil
}

func (m *Memory) SavePins(ctx context.Context, records []catalog.PinRecord) error {
	if len(records) == 0 {
		return nil
	}
	if err := checkPins(records); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return m.commit(NewRequest(), "pins", records[0].Server, pinsBody(records), func() {
		for _, p := range records {
			p.Definition, p.Accepted = slices.Clone(p.Definition), instant(stamp(p.Accepted))
			m.pins[[3]string{p.Server, p.Kind, p.Name}] = p
		}
	})
}

func (m *Memory) DropPin(ctx context.Context, server, kind, name string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	k := [3]string{server, kind, name}
	if _, ok := m.pins[k]; !ok {
		return errNone("pin")
	}
	return m.commit(NewRequest(), "pin_drop", server, map[string]string{"kind": kind, "name": name}, func() { delete(m.pins, k) })
}

func (m *Memory) SaveSnapshot(ctx context.Context, number uint64, signed []byte) error {
	if err := checkSize("snapshot", signed, maxSigned); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if newest := uint64(len(m.snapshots)); number != newest+1 {
		return errSnapshot(newest)
	}
	return m.commit(NewRequest(), "snapshot", "", map[string]uint64{"number": number}, func() { m.snapshots = append(m.snapshots, slices.Clone(signed)) })
}

func (m *Memory) NewestSnapshot(ctx context.Context) (uint64, []byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	n := len(m.snapshots)
	if n == 0 {
		return 0, nil, nil
	}
	return uint64(n), slices.Clone(m.snapshots[n-1]), nil
}

func (m *Memory) Snapshot(ctx context.Context, number uint64) ([]byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if number == 0 || number > uint64(len(m.snapshots)) {
		return nil, errNone("snapshot")
	}
	return slices.Clone(m.snapshots[number-1]), nil
}

func (m *Memory) OpenSession(ctx context.Context, fresh provenance.SessionRecord) (provenance.SessionRecord, error) {
	var none provenance.SessionRecord
	if err := checkSession(fresh); err != nil {
		return none, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return none, err
	}
	defer leave()
	k := sessionKey{fresh.Agent, fresh.Principal, fresh.Mandate}
	if s := m.sessions[k]; s != nil {
		return m.withKin(s), nil
	}
	if m.byID[fresh.ID] != nil {
		return none, errTaken("session")
	}
	fresh.Started, fresh.Taint = instant(stamp(fresh.Started)), sorted(fresh.Taint)
	err = m.commit(NewRequest(), "session", string(fresh.ID), map[string]any{"agent": fresh.Agent, "principal": fresh.Principal, "mandate": fresh.Mandate},
		func() { m.sessions[k], m.byID[fresh.ID] = &fresh, &fresh })
	if err != nil {
		return none, err
	}
	return m.withKin(&fresh), nil
}

// withKin copies a session, with what its kin have read.
func (m *Memory) withKin(s *provenance.SessionRecord) provenance.SessionRecord {
	c := *s
	c.Taint = nil
	for _, k := range m.byID {
		if k.Root == s.Root {
			c.Taint = append(c.Taint, k.Taint...)
		}
	}
	c.Taint = sorted(c.Taint)
	return c
}

func (m *Memory) SessionTaint(ctx context.Context, id ostiary.SessionID) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if s := m.byID[id]; s != nil {
		return m.withKin(s).Taint, nil
	}
	return nil, nil
}

func (m *Memory) Session(ctx context.Context, id ostiary.SessionID) (provenance.SessionRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return provenance.SessionRecord{}, err
	}
	defer leave()
	if s := m.byID[id]; s != nil {
		return m.withKin(s), nil
	}
	return provenance.SessionRecord{}, errNone("session")
}

func (m *Memory) TaintSession(ctx context.Context, id ostiary.SessionID, source string) error {
	if err := checkText("source", string(id), source); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s := m.byID[id]
	if s == nil {
		return errNone("session")
	}
	if slices.Contains(s.Taint, source) {
		return nil
	}
	return m.commit(NewRequest(), "taint", string(id), map[string]string{"source": source}, func() { s.Taint = sorted(append(s.Taint, source)) })
}

func (m *Memory) log(origin string) *memoryLog {
	for _, l := range m.logs {
		if l.Origin == origin {
			return l
		}
	}
	return nil
}

func (m *Memory) OpenLog(ctx context.Context, origin, key string) (uint64, error) {
	if err := checkText("log", origin, key); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if l := m.log(origin); l != nil {
		if l.Key != key {
			return 0, errKey()
		}
		return l.epoch, nil
	}
	return 0, m.commit(NewRequest(), "log", origin, map[string]string{"key": key},
		func() {
			m.logs = append(m.logs, &memoryLog{LogRecord: ledger.LogRecord{Origin: origin, Key: key, Opened: instant(stamp(m.now()))}})
		})
}

func (m *Memory) Fence(ctx context.Context, origin string, from uint64) (uint64, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	l := m.log(origin)
	if l == nil {
		return 0, errNone("log")
	}
	if l.epoch != from {
		return 0, errFence()
	}
	if err := m.commit(NewRequest(), "fence", origin, map[string]uint64{"epoch": from + 1}, func() { l.epoch++ }); err != nil {
		return 0, err
	}
	return from + 1, nil
}

func (m *Memory) Anchor(ctx context.Context, origin string, size uint64, root ostiary.Digest) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	l := m.log(origin)
	if l == nil {
		return errNone("log")
	}
	if size < l.size || size == l.size && root != l.root {
		return errShrinks()
	}
	return m.commit("", "", "", nil, func() { l.size, l.root = size, root })
}

func (m *Memory) Head(ctx context.Context, origin string) (uint64, ostiary.Digest, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, ostiary.Digest{}, err
	}
	defer leave()
	if l := m.log(origin); l != nil {
		return l.size, l.root, nil
	}
	return 0, ostiary.Digest{}, nil
}

func (m *Memory) Logs(ctx context.Context) ([]ledger.LogRecord, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []ledger.LogRecord
	for _, l := range m.logs {
		out = append(out, l.LogRecord)
	}
	return out, nil
}

func (m *Memory) PutDataKey(ctx context.Context, name string, wrapped []byte) ([]byte, error) {
	if err := checkKey(name, wrapped); err != nil {
		return nil, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if there := m.keys[name]; there != nil {
		return slices.Clone(there), nil
	}
	if err := m.commit(NewRequest(), "data_key", name, none{}, func() { m.keys[name] = slices.Clone(wrapped) }); err != nil {
		return nil, err
	}
	return slices.Clone(wrapped), nil
}

func (m *Memory) DataKey(ctx context.Context, name string) ([]byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if there := m.keys[name]; there != nil {
		return slices.Clone(there), nil
	}
	return nil, errNone("data key")
}

func (m *Memory) DataKeys(ctx context.Context, after string, limit int) ([]DataKey, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []DataKey
	for _, name := range slices.Sorted(maps.Keys(m.keys)) {
		if name > after && m.keys[name] != nil && len(out) < wraps(limit) {
			out = append(out, DataKey{name, slices.Clone(m.keys[name])})
		}
	}
	return out, nil
}

func (m *Memory) RewrapDataKeys(ctx context.Context, all []Rewrap) (int, error) {
	if err := checkRewraps(all); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	old := map[string]bool{}
	for _, r := range all {
		if there := m.keys[r.Name]; there != nil && bytes.Equal(there, r.Old) {
			old[r.Name] = true
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	err = m.commit(NewRequest(), "data_key", "", map[string]int{"wrapped_anew": len(old)}, func() {
		for _, r := range all {
			if old[r.Name] {
				m.keys[r.Name] = slices.Clone(r.New)
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return len(old), nil
}

func (m *Memory) SetContainment(ctx context.Context, request string, c Containment) (uint64, error) {
	if err := checkContainment(request, c); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if rev := m.requests[request]; request != "" && rev != 0 {
		return rev, nil
	}
	if request == "" {
		request = NewRequest()
	}
	if c.At.IsZero() {
		c.At = m.now()
	}
	c.Rev, c.At = m.rev+1, instant(stamp(c.At))
	content := map[string]any{"scope": c.Scope, "name": c.Name, "level": c.Level.String(), "reason": c.Reason, "by": c.By}
	err = m.commit(request, "containment", c.Scope+" "+c.Name, content, func() { m.contained[[2]string{c.Scope, c.Name}] = c })
	if err != nil {
		return 0, err
	}
	return c.Rev, nil
}

func (m *Memory) Containments(ctx context.Context) ([]Containment, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return slices.SortedFunc(maps.Values(m.contained), func(a, b Containment) int {
		return cmp.Or(strings.Compare(a.Scope, b.Scope), strings.Compare(a.Name, b.Name))
	}), nil
}

func (m *Memory) Revision(ctx context.Context) (uint64, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return m.rev, nil
}

func (m *Memory) Changes(ctx context.Context, after uint64) ([]Change, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	rest := m.changes[min(after, uint64(len(m.changes))):]
	return slices.Clone(rest[:min(len(rest), maxChanges)]), nil
}

func (m *Memory) Applied(ctx context.Context, request string) (uint64, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return m.requests[request], nil
}
