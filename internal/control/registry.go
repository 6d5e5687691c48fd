package control

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/registry"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// registryLimits bound a request about the registry: all entities at once.
var registryLimits = strictjson.Limits{Bytes: 16 << 20, Depth: 8, Nodes: 1 << 20, Elements: registry.MaxEntities, Literal: 64, Key: 512}

// EntityTerms is an entity as it is to be registered. What is left out is
// empty.
type EntityTerms struct {
	Kind     string           `json:"kind"`
	Name     string           `json:"name"` // of an agent as in AgentRequest
	Owner    string           `json:"owner,omitempty"`
	Purpose  string           `json:"purpose,omitempty"`
	Classes  []string         `json:"classes,omitempty"`
	Limits   map[string]int64 `json:"limits,omitempty"`
	Version  string           `json:"version,omitempty"`
	Baseline string           `json:"baseline,omitempty"`
	Zone     string           `json:"zone,omitempty"`
	State    string           `json:"state,omitempty"`   // "active" if absent, "retired"
	Edition  int64            `json:"edition,omitempty"` // the present one, which must be it still; 0 takes the place of any
}

// RegistryRequest says what is to be registered.
type RegistryRequest struct {
	Entities []EntityTerms `json:"entities,omitempty"`
	Prune    bool          `json:"prune,omitempty"`   // whatever is not among them goes
	Gone     []EntityTerms `json:"gone,omitempty"`    // these go, by kind and name
	Confirm  bool          `json:"confirm,omitempty"` // entities are written anew also if nothing differs
	DryRun   bool          `json:"dry_run,omitempty"` // say what would change, and change nothing
}

// RegistryChanges is what changed, or would.
type RegistryChanges struct {
	Changes []EntityChange `json:"changes"`
	Applied bool           `json:"applied"`
}

// EntityChange is one difference.
type EntityChange struct {
	Op     string        `json:"op"` // "add", "change", "remove"
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	Fields []EntityField `json:"fields"`
}

// EntityField is one field that differs, as people write it.
type EntityField struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Entity is what is registered of one thing.
type Entity struct {
	Kind      string           `json:"kind"`
	Name      string           `json:"name"`
	Owner     string           `json:"owner"`
	Owned     bool             `json:"owned"` // false: the owner was revoked or retired since
	Purpose   string           `json:"purpose"`
	Classes   []string         `json:"classes"`
	Limits    map[string]int64 `json:"limits,omitempty"`
	Version   string           `json:"version,omitempty"`
	Baseline  string           `json:"baseline,omitempty"`
	Zone      string           `json:"zone,omitempty"`
	State     string           `json:"state"` // "active", "retired"
	Edition   int64            `json:"edition"`
	Created   time.Time        `json:"created"`
	CreatedBy string           `json:"created_by"`
	Changed   time.Time        `json:"changed"`
	ChangedBy string           `json:"changed_by"`
}

func (c *Control) entityOf(e *ostiary.Entity) Entity {
	out := Entity{
		Kind: string(e.Kind), Name: e.Name, Owner: string(e.Owner), Owned: c.o.Owned(e), Purpose: e.Purpose, Classes: append([]string{}, e.Classes...),
		Version: e.Version, Baseline: e.Baseline.String(), Zone: e.Zone, State: "active", Edition: e.Edition,
		Created: e.Created, CreatedBy: e.CreatedBy, Changed: e.Changed, ChangedBy: e.ChangedBy,
	}
	if e.Retired {
		out.State = "retired"
	}
	registry.EachLimit(e.Limits, func(name string, v int64) {
		if out.Limits == nil {
			out.Limits = map[string]int64{}
		}
		out.Limits[name] = v
	})
	return out
}

func (c *Control) getRegistry(r *http.Request) (any, error) {
	q := r.URL.Query()
	kind, name := ostiary.EntityKind(q.Get("kind")), q.Get("name")
	if kind != "" && !slices.Contains(ostiary.EntityKinds(), kind) {
		return nil, ostiary.Errorf(ostiary.Malformed, "kind", "%q is no kind of entity", kind).At("kind")
	}
	if name != "" {
		if kind == "" {
			return nil, ostiary.Errorf(ostiary.Malformed, "kind", "say of which kind, too").At("kind")
		}
		name, err := c.entityName(kind, name)
		if err != nil {
			return nil, err
		}
		e := c.o.Registry.Entity(kind, name)
		if e == nil {
			return nil, ostiary.Errorf(ostiary.NotFound, "no_entity", "no %s %s is registered", kind, name).At("name")
		}
		return []Entity{c.entityOf(e)}, nil
	}
	out := []Entity{}
	for _, e := range c.o.Registry.Entities(kind) {
		out = append(out, c.entityOf(e))
	}
	return out, nil
}

// entityName is the whole name: an agent's is below the trust domain.
func (c *Control) entityName(kind ostiary.EntityKind, name string) (string, error) {
	if kind != ostiary.AgentEntity || name == "" {
		return name, nil
	}
	id, err := c.agentID(name)
	return string(id), err
}

// entity reads what is to be registered, as far as the forms differ; whether it
// can be is for the registry.
func (c *Control) entity(t *EntityTerms) (ostiary.Entity, error) {
	none := ostiary.Entity{}
	bad := func(field, text string) (ostiary.Entity, error) {
		return none, ostiary.Errorf(ostiary.Malformed, "entity", "%s %s: %s", t.Kind, t.Name, text).At(field)
	}
	name, err := c.entityName(ostiary.EntityKind(t.Kind), t.Name)
	if err != nil {
		return bad("name", ostiary.AsError(err).Detail)
	}
	baseline, err := ostiary.ParseDigest(t.Baseline)
	if err != nil {
		return bad("baseline", "a baseline is a SHA-256, 64 lower-case hex digits")
	}
	if t.State != "" && t.State != "active" && t.State != "retired" {
		return bad("state", "the state is active or retired")
	}
	e := ostiary.Entity{
		Kind: ostiary.EntityKind(t.Kind), Name: name, Owner: ostiary.PrincipalID(t.Owner), Purpose: t.Purpose, Classes: t.Classes,
		Version: t.Version, Baseline: baseline, Zone: t.Zone, Retired: t.State == "retired", Edition: t.Edition,
	}
	for name, v := range t.Limits {
		if !registry.SetLimit(&e.Limits, name, v) {
			return bad("limits."+name, "there is no such limit; there are: "+strings.Join(registry.LimitNames(), ", "))
		}
	}
	return e, nil
}

func (c *Control) postRegistry(ctx context.Context, in RegistryRequest) (any, error) {
	w := registry.Want{Prune: in.Prune, Confirm: in.Confirm}
	for i := range in.Entities {
		e, err := c.entity(&in.Entities[i])
		if err != nil {
			return nil, err
		}
		w.Entities = append(w.Entities, e)
	}
	for _, t := range in.Gone {
		name, err := c.entityName(ostiary.EntityKind(t.Kind), t.Name)
		if err != nil {
			return nil, err
		}
		w.Gone = append(w.Gone, ostiary.Entity{Kind: ostiary.EntityKind(t.Kind), Name: name})
	}
	out := RegistryChanges{Changes: []EntityChange{}, Applied: !in.DryRun}
	var changes []registry.Change
	var err error
	if in.DryRun {
		changes, err = c.o.Registry.Plan(w)
	} else {
		changes, err = c.o.Registry.Apply(ctx, operator(ctx), w)
	}
	if err != nil {
		return nil, err
	}
	for _, x := range changes {
		change := EntityChange{Op: x.Op, Kind: string(x.Kind), Name: x.Name, Fields: []EntityField{}}
		for _, f := range x.Fields {
			change.Fields = append(change.Fields, EntityField(f))
		}
		out.Changes = append(out.Changes, change)
	}
	return out, nil
}

// registered holds what a join request says against what is registered of the
// agent, and fills in what it leaves out: the registry is where an owner and a
// zone are changed.
func (c *Control) registered(id ostiary.AgentID, in *AgentRequest) error {
	e := c.o.Registry.Entity(ostiary.AgentEntity, string(id))
	if e == nil {
		return nil
	}
	if e.Retired {
		return ostiary.Errorf(ostiary.Denied, "retired", "the agent %s is retired in the registry", id).At("name")
	}
	for _, f := range []struct {
		field string
		said  *string
		is    string
	}{{"owner", &in.Owner, string(e.Owner)}, {"zone", &in.Zone, e.Zone}} {
		if *f.said != "" && f.is != "" && *f.said != f.is {
			return ostiary.Errorf(ostiary.Conflict, "registered_otherwise", "the agent is registered with the %s %s; change it there: ostiary registry set agent %s --%s %s", f.field, f.is, in.Name, f.field, *f.said).At(f.field)
		}
		*f.said = cmp.Or(*f.said, f.is)
	}
	return nil
}

// RecordEntity puts a change of the registry into the deployment's log: it is
// the registry's Record.
func RecordEntity(changes Changes, self func() ostiary.AgentID, clock func() time.Time) func(context.Context, registry.Event) error {
	return func(ctx context.Context, e registry.Event) error {
		entry := &ostiary.Entry{
			Kind: ostiary.KindChange, Time: clock(), Action: e.What, Code: cmp.Or(e.Failed, "ok"), Permit: e.Failed == "", Agent: self(),
			Payload: ostiary.Payload{Detail: []byte(detailJSON(map[string]string{"text": e.Detail, "kind": string(e.Kind), "name": e.Name, "by": e.By}))},
		}
		if e.Kind == ostiary.AgentEntity {
			entry.Agent = ostiary.AgentID(e.Name)
		}
		if _, err := changes.Append(ctx, entry); err != nil {
			return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the change could not be recorded").Because(err)
		}
		return nil
	}
}

// takingAll is an operation that takes a body as large as the whole registry.
func takingAll(do func(c *Control, ctx context.Context, in RegistryRequest) (any, error)) func(*Control, *http.Request) (any, error) {
	return func(c *Control, r *http.Request) (any, error) {
		var in RegistryRequest
		if err := bodyWithin(r, &in, registryLimits); err != nil {
			return nil, err
		}
		return do(c, r.Context(), in)
	}
}
