package policy

import (
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// limitNames are the attributes of limits.
var limitNames = []string{"amount", "bytes", "calls", "depth", "tokens"}

// registered is what policy sees of an entity. What nobody registered has no
// owner, and every limit of it is 0.
func registered(r ostiary.Registered) cedar.RecordMap {
	m := make(cedar.RecordMap, 9)
	fillRegistered(m, r)
	return m
}

func fillRegistered(m cedar.RecordMap, r ostiary.Registered) {
	var e ostiary.Entity
	if r.Entity != nil {
		e = *r.Entity
	}
	l := &e.Limits
	m["registered"], m["owned"] = cedar.Boolean(r.Entity != nil), cedar.Boolean(r.Owned)
	m["owner"], m["purpose"], m["version"] = cedar.String(e.Owner), cedar.String(e.Purpose), cedar.String(e.Version)
	m["baseline"], m["classes"] = cedar.String(r.Baseline.String()), texts(e.Classes)
	m["limits"] = cedar.NewRecord(cedar.RecordMap{
		"amount": cedar.Long(l.Amount), "bytes": cedar.Long(l.Bytes), "calls": cedar.Long(l.Calls), "depth": cedar.Long(l.Depth), "tokens": cedar.Long(l.Tokens),
	})
}

// registeredTool is the record of an action's tool, built now or before.
func (w *world) registeredTool(act *action, r ostiary.Registered) cedar.Value {
	if r == (ostiary.Registered{}) {
		return w.unregistered
	}
	if old := act.registered.Load(); old != nil && old.key == r {
		return old.record
	}
	fresh := &built[ostiary.Registered]{r, cedar.NewRecord(registered(r))}
	act.registered.Store(fresh)
	return fresh.record
}

// registered reads what a test says of an entity into one.
func (e *expectation) registered(at string, to *ostiary.Registered) func(ostiary.Value) {
	return func(v ostiary.Value) {
		x, baseline, owner := &ostiary.Entity{}, "", ""
		*to = ostiary.Registered{Entity: x, Owned: true}
		l := &x.Limits
		e.object(at, v, map[string]func(ostiary.Value){
			"owner": e.text(at+".owner", &owner), "owned": e.flag(at+".owned", &to.Owned), "purpose": e.text(at+".purpose", &x.Purpose),
			"version": e.text(at+".version", &x.Version), "classes": e.texts(at+".classes", &x.Classes), "baseline": e.text(at+".baseline", &baseline),
			"limits": func(v ostiary.Value) {
				e.object(at+".limits", v, map[string]func(ostiary.Value){
					"amount": e.number(at+".limits.amount", &l.Amount), "bytes": e.number(at+".limits.bytes", &l.Bytes), "calls": e.number(at+".limits.calls", &l.Calls),
					"depth": e.number(at+".limits.depth", &l.Depth), "tokens": e.number(at+".limits.tokens", &l.Tokens),
				})
			},
		})
		x.Owner = ostiary.PrincipalID(owner)
		words := map[string]ostiary.Baseline{"": ostiary.NoBaseline}
		for b := ostiary.NoBaseline; b <= ostiary.OtherBaseline; b++ {
			words[b.String()] = b
		}
		var ok bool
		if to.Baseline, ok = words[baseline]; !ok {
			e.fail("%s.baseline must be one of %q", at, slices.Sorted(maps.Keys(words))[1:])
		}
	}
}
