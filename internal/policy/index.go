package policy

import (
	"iter"
	"slices"
	"sync"

	"github.com/cedar-policy/cedar-go"
)

// compiled is one policy, ready to evaluate.
type compiled struct {
	id     cedar.PolicyID
	policy *cedar.Policy
	rule   *rule
	meta   meta
	looks  looks
	parts  func() []conjunct // of a permit's conditions, taken apart when first needed
}

// looks is what of the context a policy's conditions look at.
type looks struct {
	at    []cedar.String // attributes
	whole bool           // at the context as a value, and so at all of it
}

func (l *looks) expr(e *expr) {
	of := (e.op == opAccess || e.op == opHas) && e.args[0].op == opVar && e.args[0].name == "context"
	switch {
	case of:
		if n := cedar.String(e.name); !slices.Contains(l.at, n) {
			l.at = append(l.at, n)
		}
		return
	case e.op == opVar && e.name == "context":
		l.whole = true
	}
	for _, a := range e.args {
		l.expr(a)
	}
}

// meta is what a policy's annotations and place say.
type meta struct {
	reason     string
	remedy     string
	obligation string
	properties string
	where      string // file:line
	argsFree   bool   // its conditions do not look at the arguments or their labels
	resFree    bool   // nor at the resource
}

// index finds the policies whose scope can match a request.
//
// A compiled policy is "scope && conditions" with short circuit, and scope
// operators on the request's own entities cannot err. A policy whose scope
// does not match is therefore exactly false, without error: leaving it out
// changes neither the decision nor the reasons nor the errors.
//
// Each policy is filed under an action key, a principal key and a resource
// key: an entity (from ==, in, is..in), a type (from is), or nothing (any).
type index struct {
	policies []compiled // sorted by id
	entity   map[cedar.EntityUID]uint32
	typ      map[cedar.EntityType]uint32
	buckets  map[uint32]map[pair][]int32  // by action key
	actions  map[cedar.EntityUID][]uint32 // keys of every known action, as keys would find them
}

type pair struct{ principal, resource uint32 }

const anyKey uint32 = 0

// newIndex takes ownership of the list and sorts it.
func newIndex(list []compiled) *index {
	slices.SortFunc(list, func(a, b compiled) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	x := &index{list, map[cedar.EntityUID]uint32{}, map[cedar.EntityType]uint32{}, map[uint32]map[pair][]int32{}, nil}
	for i := range list {
		r := list[i].rule
		for _, c := range r.conditions {
			list[i].looks.expr(c.body)
		}
		list[i].parts = sync.OnceValue(func() []conjunct { return conjuncts(list[i].policy) })
		at := pair{x.key(r.principal), x.key(r.resource)}
		for _, a := range x.actionKeys(r.action) {
			b := x.buckets[a]
			if b == nil {
				b = map[pair][]int32{}
				x.buckets[a] = b
			}
			if l := b[at]; len(l) == 0 || l[len(l)-1] != int32(i) {
				b[at] = append(l, int32(i))
			}
		}
	}
	return x
}

// know works the keys of all actions out ahead: their groups never change.
// Keys no policy is filed under are left out.
func (x *index) know(actions cedar.EntityMap) *index {
	x.actions = make(map[cedar.EntityUID][]uint32, len(actions))
	for u := range actions {
		keys := slices.DeleteFunc(x.keys(nil, actions, u), func(k uint32) bool { return x.buckets[k] == nil })
		x.actions[u] = slices.Clip(keys)
	}
	return x
}

func (x *index) next() uint32 { return uint32(len(x.entity) + len(x.typ) + 1) }

func (x *index) intern(u cedar.EntityUID) uint32 {
	k, ok := x.entity[u]
	if !ok {
		k = x.next()
		x.entity[u] = k
	}
	return k
}

func (x *index) key(s scope) uint32 {
	switch s.kind {
	case scopeEq, scopeIn, scopeIsIn:
		return x.intern(s.entities[0])
	case scopeIs:
		k, ok := x.typ[s.typ]
		if !ok {
			k = x.next()
			x.typ[s.typ] = k
		}
		return k
	}
	return anyKey
}

func (x *index) actionKeys(s scope) []uint32 {
	if s.kind == scopeAny {
		return []uint32{anyKey}
	}
	var out []uint32
	for _, e := range s.entities {
		out = append(out, x.intern(e))
	}
	return out
}

// keys appends the keys under which a policy about u may be filed: any, its
// type, itself and everything it is in. The parents come from the getter the
// evaluation will use.
func (x *index) keys(dst []uint32, g cedar.EntityGetter, u cedar.EntityUID) []uint32 {
	dst = append(dst, anyKey)
	if k, ok := x.typ[u.Type]; ok {
		dst = append(dst, k)
	}
	return x.up(dst, g, u)
}

func (x *index) up(dst []uint32, g cedar.EntityGetter, u cedar.EntityUID) []uint32 {
	if k, ok := x.entity[u]; ok {
		if slices.Contains(dst, k) {
			return dst
		}
		dst = append(dst, k)
	}
	e, ok := g.Get(u)
	if !ok || e.Parents.Len() == 0 {
		return dst
	}
	return x.upParents(dst, g, e)
}

// upParents walks the ancestors of one entity, each once.
func (x *index) upParents(dst []uint32, g cedar.EntityGetter, e cedar.Entity) []uint32 {
	var buf [16]cedar.EntityUID
	seen := append(buf[:0], e.UID)
	for p := range e.Parents.All() {
		if !slices.Contains(seen, p) {
			seen = append(seen, p)
		}
	}
	for i := 1; i < len(seen); i++ {
		if k, ok := x.entity[seen[i]]; ok && !slices.Contains(dst, k) {
			dst = append(dst, k)
		}
		pe, ok := g.Get(seen[i])
		if !ok || pe.Parents.Len() == 0 {
			continue
		}
		for p := range pe.Parents.All() {
			if !slices.Contains(seen, p) {
				seen = append(seen, p)
			}
		}
	}
	return dst
}

// candidates returns the policies whose scope may match, sorted by id.
func (x *index) candidates(g cedar.EntityGetter, principal, act, resource cedar.EntityUID) *selection {
	s := &selection{}
	x.choose(s, g, principal, act, resource)
	return s
}

// choose is candidates into a selection used before.
func (x *index) choose(s *selection, g cedar.EntityGetter, principal, act, resource cedar.EntityUID) {
	var ab, pb, rb [16]uint32
	ak, known := x.actions[act]
	if !known {
		ak = x.keys(ab[:0], g, act)
	}
	pk := x.keys(pb[:0], g, principal)
	rk := x.keys(rb[:0], g, resource)
	found := s.at[:0]
	for _, a := range ak {
		b := x.buckets[a]
		if b == nil {
			continue
		}
		for _, p := range pk {
			for _, r := range rk {
				found = append(found, b[pair{p, r}]...)
			}
		}
	}
	slices.Sort(found)
	s.index, s.at = x, slices.Compact(found)
}

// anyResource returns the policies whose action and principal may match,
// whatever the resource.
func (x *index) anyResource(g cedar.EntityGetter, principal, act cedar.EntityUID) []int32 {
	var ab, pb [16]uint32
	ak, pk := x.keys(ab[:0], g, act), x.keys(pb[:0], g, principal)
	var found []int32
	for _, a := range ak {
		for at, l := range x.buckets[a] {
			if slices.Contains(pk, at.principal) {
				found = append(found, l...)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// all returns every policy, for comparison with the index.
func (x *index) all() *selection {
	s := &selection{x, make([]int32, len(x.policies))}
	for i := range s.at {
		s.at[i] = int32(i)
	}
	return s
}

// selection is a list of policies in the order of their ids. It is a
// cedar.PolicyIterator.
type selection struct {
	index *index
	at    []int32
}

func (s *selection) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, i := range s.at {
			p := &s.index.policies[i]
			if !yield(p.id, p.policy) {
				return
			}
		}
	}
}

// find returns a policy by id.
func (x *index) find(id cedar.PolicyID) *compiled {
	i, ok := slices.BinarySearchFunc(x.policies, id, func(c compiled, id cedar.PolicyID) int {
		switch {
		case c.id < id:
			return -1
		case c.id > id:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &x.policies[i]
}
