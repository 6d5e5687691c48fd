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
	mandate     ostiary.MandateID
	purpose     string
	depth       int64
	kind        ostiary.MandateKind
	by          ostiary.PrincipalID
	giver       ostiary.PrincipalID // the mandate's principal
	links       int
	session     ostiary.SessionID
	risk        ostiary.Risk
	postureOK   bool
	method      string
	appraised   int64
	containment ostiary.Containment
}

// caller is the part of a request that is about who asks.
type caller struct {
	key       callerKey
	roles     []string
	classes   []string // the mandate's
	taint     []string
	principal cedar.EntityUID
	entities  []cedar.Entity // the agent, its roles, its zone, the person

	zone, user, mandate, session, risk, posture, containment, tainted cedar.Value
}

type callers struct {
	seed  maphash.Seed
	place [memoPlaces]atomic.Pointer[caller]

	// What many callers have in common, so that a new one costs less.
	kinds values[string]
	risks values[ostiary.Risk]
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

func fillHistory(m cedar.RecordMap, reads int64) { m["reads_untrusted"] = cedar.Long(reads) }

func fillSystem(m cedar.RecordMap, now int64) { m["now"] = cedar.NewDatetimeFromMillis(now) }

func callerKeyOf(r *ostiary.Request) callerKey {
	s, x := &r.Subject, &r.Context
	self := s.Via == ostiary.ViaSelf
	k := callerKey{
		agent: s.Agent, principal: x.Principal, self: self, bound: s.Bound || self, zone: x.Zone,
		mandate: x.Mandate.ID, purpose: x.Mandate.Purpose, depth: x.Mandate.Depth, kind: x.Mandate.Kind, by: x.Mandate.By,
		giver: x.Mandate.Principal, links: max(1, len(x.Mandate.Links)),
		session: x.Session.ID, risk: x.Risk,
		postureOK: x.Posture.OK, method: x.Posture.Method, appraised: x.Posture.Appraised.UnixMilli(),
		containment: x.Containment,
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

// get returns the caller of a request, built now or before.
func (c *callers) get(r *ostiary.Request) *caller {
	k := callerKeyOf(r)
	at := &c.place[(maphash.String(c.seed, string(k.session))+maphash.String(c.seed, string(k.agent)))%memoPlaces]
	if old := at.Load(); old != nil && old.key == k && slices.Equal(old.roles, r.Context.Roles) &&
		slices.Equal(old.classes, r.Context.Mandate.Classes) && slices.Equal(old.taint, r.Context.Taint) {
		return old
	}
	fresh := c.caller(k, slices.Clone(r.Context.Roles), slices.Clone(r.Context.Mandate.Classes), slices.Clone(r.Context.Taint))
	at.Store(fresh)
	return fresh
}

func (all *callers) caller(k callerKey, roles, classes, taint []string) *caller {
	c := &caller{key: k, roles: roles, classes: classes, taint: taint, tainted: stringSet(taint)}
	typ := typeAgent
	if k.self {
		typ = typeGateway
	}
	c.principal = uid(typ, string(k.agent))
	parents := make([]cedar.EntityUID, 0, len(roles))
	if !k.self {
		for _, name := range roles {
			parents = append(parents, uid(typeRole, name))
		}
	}
	zone, user := uid(typeZone, k.zone), uid(typePerson, string(k.principal))
	c.entities = append(c.entities, cedar.Entity{UID: c.principal, Parents: cedar.NewEntityUIDSet(parents...)})
	for _, p := range parents {
		c.entities = append(c.entities, cedar.Entity{UID: p})
	}
	kind := personKind(string(k.principal))
	room := make(cedar.RecordMap, 4)
	person := all.kinds.get(int64(len(kind)), kind, room, fillPerson).(cedar.Record)
	c.entities = append(c.entities, cedar.Entity{UID: zone}, cedar.Entity{UID: user, Attributes: person})
	c.zone, c.user = zone, user
	c.mandate = cedar.NewRecord(cedar.RecordMap{
		"id": cedar.String(k.mandate), "purpose": cedar.String(k.purpose),
		"depth": cedar.Long(k.depth), "standing": cedar.Boolean(k.kind == ostiary.StandingMandate), "kind": cedar.String(k.kind.String()),
		"classes": texts(classes), "principal": cedar.String(k.giver), "by": cedar.String(k.by), "links": cedar.Long(k.links),
	})
	c.session = cedar.NewRecord(cedar.RecordMap{"id": cedar.String(k.session), "bound": cedar.Boolean(k.bound)})
	c.risk = all.risks.get(k.risk.Score, k.risk, room, fillRisk)
	c.posture = cedar.NewRecord(cedar.RecordMap{
		"appraised": cedar.NewDatetimeFromMillis(k.appraised), "ok": cedar.Boolean(k.postureOK), "method": cedar.String(k.method),
	})
	c.containment = cedar.String(k.containment.String())
	return c
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
	x.entity = cedar.Entity{
		UID:        uid(typeServer, r.Server),
		Attributes: cedar.NewRecord(cedar.RecordMap{"trusted": cedar.Boolean(r.Trusted)}),
	}
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
