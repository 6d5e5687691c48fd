package policy

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// Cedar's records cost more to build than to evaluate, and most of a context
// is the same from call to call of one session. The memos here keep what was
// built last, in a fixed number of places, and hand it out again only when
// every value it was built from is equal: they change what a decision costs,
// never what it is. All of it is immutable once it is stored.

// memoPlaces is the number of places of a memo: sessions and servers that are
// active at the same time; more of them take turns.
const memoPlaces = 512

// callerKey holds every value a caller is built from, except the lists. What
// changes from call to call, as the results it has read, is no part of a
// caller.
type callerKey struct {
	agent       ostiary.AgentID
	principal   ostiary.PrincipalID
	self, bound bool
	zone        string
	mandate     mandateKey
	session     ostiary.SessionID
	risk        ostiary.Risk
	posture     postureKey
	containment ostiary.Containment
	registered  ostiary.Registered // an entity that changed is another pointer
}

type mandateKey struct {
	id        ostiary.MandateID
	purpose   string
	depth     int64
	kind      ostiary.MandateKind
	by        ostiary.PrincipalID
	principal ostiary.PrincipalID
	links     int
}

type postureKey struct {
	ok        bool
	method    string
	appraised int64 // Unix milliseconds
}

// caller is the part of a request that is about who asks.
type caller struct {
	key       callerKey
	roles     *roles
	mandate   *mandate
	taint     []string
	carried   []string // data classes the session has read
	principal cedar.EntityUID
	entities  []cedar.Entity // the agent, its roles, its zone, the person

	zone, user, session, risk, posture, containment, tainted cedar.Value
}

type callers struct {
	seed  maphash.Seed
	place [memoPlaces]atomic.Pointer[caller]

	// What callers have in common, with others or with what they were before
	// they read something, so that a new one costs less.
	kinds    values[string]
	risks    values[ostiary.Risk]
	postures values[postureKey]

	registered values[ostiary.Registered] // of agents
	roles      [memoRoles]atomic.Pointer[roles]
	mandates   [memoPlaces]atomic.Pointer[mandate]
}

// memoRoles is the number of places for lists of roles.
const memoRoles = 64

// roles is a list of roles in Cedar's words.
type roles struct {
	names    []string
	entities []cedar.Entity
	parents  cedar.EntityUIDSet // of whoever has them
}

// rolesOf returns a list of roles, built now or before.
func (c *callers) rolesOf(names []string) *roles {
	h := uint64(len(names))
	for _, n := range names {
		h = h*31 + maphash.String(c.seed, n)
	}
	at := &c.roles[h%memoRoles]
	if old := at.Load(); old != nil && slices.Equal(old.names, names) {
		return old
	}
	fresh := &roles{names: slices.Clone(names)}
	uids := make([]cedar.EntityUID, len(names))
	for i, n := range names {
		uids[i] = uid(typeRole, n)
		fresh.entities = append(fresh.entities, cedar.Entity{UID: uids[i]})
	}
	fresh.parents = cedar.NewEntityUIDSet(uids...)
	at.Store(fresh)
	return fresh
}

// mandate is a mandate in Cedar's words.
type mandate struct {
	key     mandateKey
	classes []string
	record  cedar.Value
}

// mandateOf returns a mandate, built now or before. Room is an empty map to
// fill, which is empty again afterwards.
func (c *callers) mandateOf(k mandateKey, classes []string, room cedar.RecordMap) *mandate {
	at := &c.mandates[maphash.String(c.seed, string(k.id))%memoPlaces]
	if old := at.Load(); old != nil && old.key == k && slices.Equal(old.classes, classes) {
		return old
	}
	room["id"], room["purpose"], room["depth"], room["links"] = cedar.String(k.id), cedar.String(k.purpose), cedar.Long(k.depth), cedar.Long(k.links)
	room["kind"], room["standing"] = cedar.String(k.kind.String()), cedar.Boolean(k.kind == ostiary.StandingMandate)
	room["principal"], room["by"], room["classes"] = cedar.String(k.principal), cedar.String(k.by), texts(classes)
	fresh := &mandate{k, slices.Clone(classes), cedar.NewRecord(room)}
	clear(room)
	at.Store(fresh)
	return fresh
}

// values keeps what was built last from small values that many requests share
// or that change from call to call, each value in the place that its number
// says.
type values[K comparable] struct {
	place [64]atomic.Pointer[built[K]]
}

type built[K comparable] struct {
	key    K
	record cedar.Value
}

// get returns the record that fill makes of k, built now or before. Room is
// an empty map to fill, which is empty again afterwards.
func (v *values[K]) get(number int64, k K, room cedar.RecordMap, fill func(cedar.RecordMap, K)) cedar.Value {
	at := &v.place[uint64(number)%uint64(len(v.place))]
	if old := at.Load(); old != nil && old.key == k {
		return old.record
	}
	fill(room, k)
	fresh := &built[K]{k, cedar.NewRecord(room)}
	clear(room)
	at.Store(fresh)
	return fresh.record
}

func fillPerson(m cedar.RecordMap, kind string) { m["kind"] = cedar.String(kind) }

func fillRisk(m cedar.RecordMap, r ostiary.Risk) {
	m["score"], m["level"] = cedar.Long(r.Score), cedar.String(r.Level)
}

func fillPosture(m cedar.RecordMap, k postureKey) {
	m["appraised"], m["ok"], m["method"] = cedar.NewDatetimeFromMillis(k.appraised), cedar.Boolean(k.ok), cedar.String(k.method)
}

func fillHistory(m cedar.RecordMap, reads int64) { m["reads_untrusted"] = cedar.Long(reads) }

func fillSystem(m cedar.RecordMap, now int64) { m["now"] = cedar.NewDatetimeFromMillis(now) }

func callerKeyOf(r *ostiary.Request) callerKey {
	s, x := &r.Subject, &r.Context
	self := s.Via == ostiary.ViaSelf
	k := callerKey{
		agent: s.Agent, principal: x.Principal, self: self, bound: s.Bound || self, zone: x.Zone,
		mandate: mandateKey{
			id: x.Mandate.ID, purpose: x.Mandate.Purpose, depth: x.Mandate.Depth, kind: x.Mandate.Kind, by: x.Mandate.By,
			principal: x.Mandate.Principal, links: max(1, len(x.Mandate.Links)),
		},
		session: x.Session.ID, risk: x.Risk, containment: x.Containment, registered: x.Registered,
		posture: postureKey{ok: x.Posture.OK, method: x.Posture.Method, appraised: x.Posture.Appraised.UnixMilli()},
	}
	if k.risk.Level == "" {
		k.risk = ostiary.Risk{Score: 100, Level: "unknown"} // what nobody weighed counts as the highest
	}
	if self && k.zone == "" {
		k.zone = "gateway"
	}
	if self && k.principal == "" {
		k.principal = "service:ostiary"
	}
	return k
}

// get returns the caller of a request, built now or before. Small and large
// are empty maps to fill, which are empty again afterwards.
func (c *callers) get(r *ostiary.Request, small, large cedar.RecordMap) *caller {
	k := callerKeyOf(r)
	at := &c.place[(maphash.String(c.seed, string(k.session))+maphash.String(c.seed, string(k.agent)))%memoPlaces]
	if old := at.Load(); old != nil && old.key == k && slices.Equal(old.roles.names, r.Context.Roles) &&
		slices.Equal(old.mandate.classes, r.Context.Mandate.Classes) && slices.Equal(old.taint, r.Context.Taint) && slices.Equal(old.carried, r.Context.Classes) {
		return old
	}
	fresh := &caller{
		key: k, roles: c.rolesOf(r.Context.Roles), mandate: c.mandateOf(k.mandate, r.Context.Mandate.Classes, large),
		taint: slices.Clone(r.Context.Taint), carried: slices.Clone(r.Context.Classes),
	}
	c.build(fresh, small)
	at.Store(fresh)
	return fresh
}

// build works out the rest of what a caller's key and lists say.
func (all *callers) build(c *caller, room cedar.RecordMap) {
	k, roles := &c.key, c.roles
	typ := typeAgent
	if k.self {
		typ, roles = typeGateway, all.rolesOf(nil)
	}
	kind := personKind(string(k.principal))
	person := all.kinds.get(int64(len(kind)), kind, room, fillPerson).(cedar.Record)
	zone, user := uid(typeZone, k.zone), uid(typePerson, string(k.principal))
	c.principal = uid(typ, string(k.agent))
	c.entities = make([]cedar.Entity, 0, 3+len(roles.entities))
	agent := cedar.Entity{UID: c.principal, Parents: roles.parents}
	if !k.self {
		number := int64(0)
		if k.registered.Entity != nil {
			number = int64(maphash.String(all.seed, string(k.agent)))
		}
		agent.Attributes = all.registered.get(number, k.registered, room, fillRegistered).(cedar.Record)
	}
	c.entities = append(c.entities, agent)
	c.entities = append(c.entities, roles.entities...)
	c.entities = append(c.entities, cedar.Entity{UID: zone}, cedar.Entity{UID: user, Attributes: person})
	c.zone, c.user, c.tainted = zone, user, stringSet(c.taint)
	c.risk = all.risks.get(k.risk.Score, k.risk, room, fillRisk)
	c.posture = all.postures.get(k.posture.appraised, k.posture, room, fillPosture)
	c.containment = cedar.String(k.containment.String())
	room["id"], room["bound"] = cedar.String(k.session), cedar.Boolean(k.bound)
	room["tainted"], room["classes"] = cedar.Boolean(len(c.taint) > 0), stringSet(c.carried)
	c.session = cedar.NewRecord(room)
	clear(room)
}

func texts(list []string) cedar.Set {
	vals := make([]cedar.Value, len(list))
	for i, s := range list {
		vals[i] = cedar.String(s)
	}
	return cedar.NewSet(vals...)
}

func personKind(id string) string {
	k, _, ok := strings.Cut(id, ":")
	if !ok {
		return "person"
	}
	return k
}

// servers keeps the entities of servers and their zones.
type servers struct {
	seed  maphash.Seed
	place [memoPlaces]atomic.Pointer[server]
}

type server struct {
	key    ostiary.Resource
	entity cedar.Entity
	zone   cedar.Entity // zero if it lies in none
}

// add puts a server and its zone among the entities of a decision.
func (s *servers) add(e *entities, r ostiary.Resource) cedar.EntityUID {
	at := &s.place[maphash.String(s.seed, r.Server)%memoPlaces]
	x := at.Load()
	if x == nil || x.key != r {
		x = newServer(r)
		at.Store(x)
	}
	e.own = append(e.own, x.entity)
	if r.Zone != "" && !slices.ContainsFunc(e.own, func(y cedar.Entity) bool { return y.UID == x.zone.UID }) {
		e.own = append(e.own, x.zone)
	}
	return x.entity.UID
}

func newServer(r ostiary.Resource) *server {
	x := &server{key: r}
	attrs := registered(r.Registered)
	attrs["trusted"] = cedar.Boolean(r.Trusted)
	x.entity = cedar.Entity{UID: uid(typeServer, r.Server), Attributes: cedar.NewRecord(attrs)}
	if r.Zone != "" {
		x.zone.UID = uid(typeZone, r.Zone)
		x.entity.Parents = cedar.NewEntityUIDSet(x.zone.UID)
	}
	return x
}

// sharedLabels is the labels record of an action whose present arguments all
// had one label.
type sharedLabels struct {
	present []bool
	label   ostiary.Label
	record  cedar.Value
}

func (w *world) sharedLabels(act *action, present []bool, one ostiary.Label) cedar.Value {
	if old := act.shared.Load(); old != nil && sameLabel(old.label, one) && slices.Equal(old.present, present) {
		return old.record
	}
	fresh := &sharedLabels{present: slices.Clone(present), label: ostiary.Label{
		Integrity: one.Integrity, Readers: slices.Clone(one.Readers), Sources: slices.Clone(one.Sources),
	}}
	set := cedar.Value(labelSet(one))
	out := make(cedar.RecordMap, len(present))
	for i, there := range present {
		name := cedar.String(act.input.Fields[i].Name)
		if out[name] = w.emptySet; there {
			out[name] = set
		}
	}
	fresh.record = cedar.NewRecord(out)
	act.shared.Store(fresh)
	return fresh.record
}

// choices keeps the sets of what arguments decide: tools have few arguments
// and their values few origins, so that the same sets come again and again.
type choices struct {
	seed  maphash.Seed
	place [memoPlaces]atomic.Pointer[choice]
}

type choice struct {
	words []string
	set   cedar.Value
}

func (c *choices) get(words []string) cedar.Value {
	if len(words) == 0 {
		return cedar.Set{}
	}
	var n uint64
	for _, w := range words {
		n = n*31 + maphash.String(c.seed, w)
	}
	at := &c.place[n%memoPlaces]
	if old := at.Load(); old != nil && slices.Equal(old.words, words) {
		return old.set
	}
	fresh := &choice{slices.Clone(words), stringSet(words)}
	at.Store(fresh)
	return fresh.set
}
