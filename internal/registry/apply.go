package registry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// The operations of a Change.
const (
	Add    = "add"
	Modify = "change"
	Remove = "remove"
)

// Change is one difference between what is registered and what is to be.
type Change struct {
	Op     string // Add, Modify or Remove
	Kind   ostiary.EntityKind
	Name   string
	Fields []Field

	was *kept
	now *ostiary.Entity
}

// Field is one field that differs, as people write it.
type Field struct{ Name, From, To string }

// Want is what is to be registered.
type Want struct {
	Entities []ostiary.Entity // what they leave out is empty; a positive Edition must be the present one
	Prune    bool             // whatever is not among them goes
	Gone     []ostiary.Entity // these go, named by kind and name
	Confirm  bool             // entities are written anew also if nothing differs: somebody was asked
}

// Plan returns what Apply would change, by kind and name, and changes nothing.
// Malformed names the entity and the field.
func (r *Registry) Plan(w Want) ([]Change, error) {
	return r.book.Load().plan(w)
}

func (b *book) plan(w Want) (all []Change, err error) {
	named := map[key]bool{}
	for i := range w.Entities {
		e := settled(w.Entities[i])
		if err := Check(&e); err != nil {
			return nil, of(&e, err)
		}
		k := key{e.Kind, e.Name}
		if named[k] {
			return nil, of(&e, ostiary.Errorf(ostiary.Malformed, "entity", "it is named twice").At("name"))
		}
		named[k] = true
		was := b.get(e.Kind, e.Name)
		if edition := present(was); e.Edition > 0 && e.Edition != edition {
			return nil, of(&e, ostiary.Errorf(ostiary.Conflict, "entity_moved", "it is of edition %d now, and this was written for %d: look at it again", edition, e.Edition).At("edition"))
		}
		c := difference(was, &e)
		if w.Confirm && c.Op == "" {
			c.Op = Modify
		}
		if c.Op != "" {
			all = append(all, c)
		}
	}
	for _, e := range w.Gone {
		was := b.get(e.Kind, e.Name)
		if was == nil {
			return nil, of(&e, ostiary.Errorf(ostiary.NotFound, "no_entity", "it is not registered").At("name"))
		}
		if k := (key{e.Kind, e.Name}); !named[k] {
			named[k] = true
			all = append(all, difference(was, nil))
		}
	}
	for _, was := range b.sorted {
		if w.Prune && !named[key{was.Kind, was.Name}] {
			all = append(all, difference(was, nil))
		}
	}
	slices.SortFunc(all, func(x, y Change) int {
		return compare(&ostiary.Entity{Kind: x.Kind, Name: x.Name}, &ostiary.Entity{Kind: y.Kind, Name: y.Name})
	})
	n := len(b.entities)
	for _, c := range all {
		switch c.Op {
		case Add:
			n++
		case Remove:
			n--
		}
	}
	if len(all) > MaxChanges || n > MaxEntities {
		return nil, ostiary.Errorf(ostiary.Malformed, "too_many_entities", "at most %d changes at once, and %d entities in all", MaxChanges, MaxEntities)
	}
	return all, nil
}

func present(was *kept) int64 {
	if was == nil {
		return 0
	}
	return was.Edition
}

// of says which entity an error is about.
func of(e *ostiary.Entity, err error) error {
	x := *ostiary.AsError(err)
	x.Detail = fmt.Sprintf("%s %s: %s", e.Kind, e.Name, x.Detail)
	return &x
}

// settled gives lists their settled form.
func settled(e ostiary.Entity) ostiary.Entity {
	e.Classes = slices.Clone(e.Classes)
	slices.Sort(e.Classes)
	e.Classes = slices.Compact(e.Classes)
	if len(e.Classes) == 0 {
		e.Classes = nil
	}
	return e
}

// difference compares an entity with what it is to be; nil is none.
func difference(was *kept, now *ostiary.Entity) Change {
	var c Change
	var before, after [][2]string
	switch {
	case was == nil:
		c, after = Change{Op: Add, Kind: now.Kind, Name: now.Name, now: now}, Fields(now)
	case now == nil:
		c, before = Change{Op: Remove, Kind: was.Kind, Name: was.Name, was: was}, Fields(&was.Entity)
	default:
		c, before, after = Change{Kind: was.Kind, Name: was.Name, was: was, now: now}, Fields(&was.Entity), Fields(now)
	}
	for i := range max(len(before), len(after)) {
		f := Field{}
		if before != nil {
			f.Name, f.From = before[i][0], before[i][1]
		}
		if after != nil {
			f.Name, f.To = after[i][0], after[i][1]
		}
		if f.From != f.To {
			c.Fields = append(c.Fields, f)
		}
	}
	if c.Op == "" && len(c.Fields) > 0 {
		c.Op = Modify
	}
	return c
}

// Fields lists what people say of an entity, always the same fields in the
// same order, as they write it; "" is not said.
func Fields(e *ostiary.Entity) [][2]string {
	state := "active"
	if e.Retired {
		state = "retired"
	}
	out := [][2]string{
		{"owner", string(e.Owner)}, {"purpose", e.Purpose}, {"classes", strings.Join(e.Classes, ", ")}, {"version", e.Version},
		{"baseline", e.Baseline.String()}, {"zone", e.Zone}, {"state", state},
	}
	for _, l := range limits(&e.Limits) {
		text := ""
		if *l.value != 0 {
			text = strconv.FormatInt(*l.value, 10)
		}
		out = append(out, [2]string{"limits." + l.name, text})
	}
	return out
}

// String says a change in one line, for the log.
func (c *Change) String() string {
	var parts []string
	for _, f := range c.Fields {
		switch {
		case f.From == "":
			parts = append(parts, f.Name+" "+f.To)
		case f.To == "":
			parts = append(parts, f.Name+" no more "+f.From)
		default:
			parts = append(parts, f.Name+" "+f.To+", was "+f.From)
		}
	}
	if len(parts) == 0 {
		parts = []string{"confirmed as it is"}
	}
	return fmt.Sprintf("%s %s %s: %s", c.Op, c.Kind, c.Name, strings.Join(parts, "; "))
}

// Apply makes the registry what w says, all of it or nothing, and returns what
// changed. Each change is recorded before any of them happens; if they then
// cannot be stored, that is recorded too. Conflict if what would change was
// changed meanwhile: plan again. When Apply returns, the changes are durable
// and in force here.
func (r *Registry) Apply(ctx context.Context, by string, w Want) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	plan, err := r.book.Load().plan(w)
	if err != nil || len(plan) == 0 {
		return nil, err
	}
	now := r.o.Clock().UTC()
	var batch []record.Record
	for i := range plan {
		c := &plan[i]
		if c.Op == Remove {
			batch = append(batch, record.Record{Kind: Kind, ID: idOf(c.Kind, c.Name), Revision: c.was.revision})
			continue
		}
		e, revision := *c.now, uint64(0)
		e.Edition, e.Created, e.CreatedBy, e.Changed, e.ChangedBy = 1, now, by, now, by
		if c.was != nil {
			e.Edition, e.Created, e.CreatedBy, revision = c.was.Edition+1, c.was.Created, c.was.CreatedBy, c.was.revision
		}
		rec, err := seal(&e, revision)
		if err != nil {
			return nil, err
		}
		batch = append(batch, rec)
	}
	for i := range plan {
		if err := r.o.Record(ctx, plan[i].event(by)); err != nil {
			return nil, fmt.Errorf("recording the change of %s %s: %w", plan[i].Kind, plan[i].Name, err)
		}
	}
	if _, err := r.o.Records.WriteRecords(ctx, batch, now); err != nil {
		return nil, r.undone(ctx, by, plan, err)
	}
	return plan, r.refresh(ctx)
}

func (c *Change) event(by string) Event {
	what := "register"
	if c.Op == Remove {
		what = "deregister"
	}
	return Event{What: what, Kind: c.Kind, Name: c.Name, By: by, Detail: c.String()}
}

// undoneTimeout bounds how long it may take to record that changes failed.
const undoneTimeout = 5 * time.Second

// undone records that what was recorded did not happen, or that nobody can say.
func (r *Registry) undone(ctx context.Context, by string, plan []Change, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoneTimeout) // leaving must not hide it
	defer cancel()
	for i := range plan {
		e := plan[i].event(by)
		e.Failed = codeOf(err)
		if failed := r.o.Record(ctx, e); failed != nil {
			return fmt.Errorf("storing the registry: %w (and recording that it failed: %v)", err, failed)
		}
	}
	if ostiary.KindOf(err) == ostiary.Conflict {
		return ostiary.Errorf(ostiary.Conflict, "entity_moved", "the registry was changed meanwhile: look at the differences again").Because(err)
	}
	return fmt.Errorf("storing the registry: %w", err)
}

func codeOf(err error) string {
	if e := ostiary.AsError(err); e.Code != "" {
		return e.Code
	}
	return ostiary.KindOf(err).String()
}
