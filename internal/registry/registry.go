// Package registry is who and what there is: agents, people, services, hosts,
// tools, models, sets of data and workflows, each with who answers for it,
// what it is for, which data and limits it has, and what it was when somebody
// looked at it.
//
// It guarantees that a change is written down before it takes effect, happens
// whole or not at all, and never overwrites one that was made meanwhile.
// Requests read memory: the state before a change or the state after, never a
// mixture. What it holds is a statement of people about an entity; that an
// entity proves who it is, is identity's, and what follows from a statement is
// policy's, except that what is retired, or is not what was registered, is
// refused wherever the gate meets it.
//
// It trusts its keeper to be durable. It does not enrol, fetch or sign
// anything.
package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// Kind is the kind of the records that entities are kept in.
const Kind = "entity"

// Limits of a registry, so that reading it stays a matter of moments.
const (
	MaxEntities = 10_000         // all of them are in memory
	MaxChanges  = record.MaxList // of one application, which is one transaction
)

// Keeper keeps the registry's records; see [record.Keeper] for what it
// guarantees.
type Keeper interface {
	Records(ctx context.Context, kind, after string, limit int, at time.Time) ([]record.Record, error)
	WriteRecords(ctx context.Context, batch []record.Record, at time.Time) (revision uint64, err error)
}

// Event is one change, for the log. It is recorded before it happens.
type Event struct {
	What   string // "register", "deregister"
	Kind   ostiary.EntityKind
	Name   string
	By     string
	Detail string // what changes
	Failed string // of a second event about the same change: the code of why it did not happen
}

// Options are what a Registry stands on; all are required.
type Options struct {
	Records Keeper
	Record  func(ctx context.Context, e Event) error // durable when it returns
	Clock   func() time.Time
}

// Registry knows every entity. Safe for concurrent use.
type Registry struct {
	o  Options
	mu sync.Mutex // one change, or one reading, at a time

	book atomic.Pointer[book]
}

// key names an entity.
type key struct {
	kind ostiary.EntityKind
	name string
}

// book is the registry as one request sees it: immutable, replaced whole.
type book struct {
	entities map[key]*kept
	sorted   []*kept // by kind and name
}

// kept is an entity with the revision of its record.
type kept struct {
	ostiary.Entity
	revision uint64
}

// Open reads the registry.
func Open(ctx context.Context, o Options) (*Registry, error) {
	r := &Registry{o: o}
	return r, r.Refresh(ctx)
}

// Refresh reads the registry into memory: call it when it may have changed
// elsewhere. An entity that did not change stays the one it was, so whoever
// compares pointers finds it the same. On an error what is in memory stands.
func (r *Registry) Refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refresh(ctx)
}

// refresh reads with r.mu held.
func (r *Registry) refresh(ctx context.Context) error {
	old, b := r.book.Load(), &book{entities: map[key]*kept{}}
	for after := ""; ; {
		page, err := r.o.Records.Records(ctx, Kind, after, record.MaxList, r.o.Clock())
		if err != nil {
			return fmt.Errorf("reading the registry: %w", err)
		}
		for _, rec := range page {
			e, err := open(rec)
			if err != nil {
				return err
			}
			if was := old.get(e.Kind, e.Name); was != nil && was.revision == rec.Revision {
				e = was
			}
			b.entities[key{e.Kind, e.Name}] = e
		}
		if len(page) < record.MaxList {
			break
		}
		after = page[len(page)-1].ID
	}
	for _, e := range b.entities {
		b.sorted = append(b.sorted, e)
	}
	slices.SortFunc(b.sorted, func(x, y *kept) int { return compare(&x.Entity, &y.Entity) })
	r.book.Store(b)
	return nil
}

func compare(x, y *ostiary.Entity) int {
	return cmp.Or(slices.Index(ostiary.EntityKinds(), x.Kind)-slices.Index(ostiary.EntityKinds(), y.Kind), strings.Compare(x.Name, y.Name))
}

func (b *book) get(kind ostiary.EntityKind, name string) *kept {
	if b == nil {
		return nil
	}
	return b.entities[key{kind, name}]
}

// Entity returns an entity as of the last Refresh, nil if it is not
// registered. Nobody may change it.
func (r *Registry) Entity(kind ostiary.EntityKind, name string) *ostiary.Entity {
	if e := r.book.Load().get(kind, name); e != nil {
		return &e.Entity
	}
	return nil
}

// Entities returns every entity of a kind, "" for all, by kind and name.
// Nobody may change them.
func (r *Registry) Entities(kind ostiary.EntityKind) (all []*ostiary.Entity) {
	for _, e := range r.book.Load().sorted {
		if kind == "" || kind == e.Kind {
			all = append(all, &e.Entity)
		}
	}
	return all
}

// row is the stored form of an entity.
type row struct {
	Kind      ostiary.EntityKind  `json:"kind"`
	Name      string              `json:"name"`
	Owner     ostiary.PrincipalID `json:"owner"`
	Purpose   string              `json:"purpose"`
	Classes   []string            `json:"classes,omitempty"`
	Limits    ostiary.Limits      `json:"limits,omitzero"`
	Version   string              `json:"version,omitempty"`
	Baseline  string              `json:"baseline,omitempty"`
	Zone      string              `json:"zone,omitempty"`
	Retired   bool                `json:"retired,omitempty"`
	Edition   int64               `json:"edition"`
	Created   time.Time           `json:"created"`
	CreatedBy string              `json:"created_by"`
	Changed   time.Time           `json:"changed"`
	ChangedBy string              `json:"changed_by"`
}

func idOf(kind ostiary.EntityKind, name string) string { return string(kind) + "/" + name }

func seal(e *ostiary.Entity, revision uint64) (record.Record, error) {
	data, err := json.Marshal(row{
		e.Kind, e.Name, e.Owner, e.Purpose, e.Classes, e.Limits, e.Version, e.Baseline.String(), e.Zone, e.Retired,
		e.Edition, e.Created, e.CreatedBy, e.Changed, e.ChangedBy,
	})
	return record.Record{Kind: Kind, ID: idOf(e.Kind, e.Name), Data: data, Revision: revision}, err
}

func open(rec record.Record) (*kept, error) {
	var x row
	err := json.Unmarshal(rec.Data, &x)
	var baseline ostiary.Digest
	if err == nil {
		baseline, err = ostiary.ParseDigest(x.Baseline)
	}
	if err == nil && rec.ID != idOf(x.Kind, x.Name) {
		err = fmt.Errorf("it is %s %s", x.Kind, x.Name)
	}
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "stored_record", "the entity %s cannot be read", rec.ID).Because(err)
	}
	return &kept{ostiary.Entity{
		Kind: x.Kind, Name: x.Name, Owner: x.Owner, Purpose: x.Purpose, Classes: x.Classes, Limits: x.Limits, Version: x.Version, Baseline: baseline,
		Zone: x.Zone, Retired: x.Retired, Edition: x.Edition, Created: x.Created, CreatedBy: x.CreatedBy, Changed: x.Changed, ChangedBy: x.ChangedBy,
	}, rec.Revision}, nil
}
