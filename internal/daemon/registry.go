package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/registry"
)

// openRegistry reads who and what there is.
func (d *Daemon) openRegistry(ctx context.Context) (err error) {
	d.entities.authority = func() *identity.Authority { return d.authority }
	d.entities.book, err = registry.Open(ctx, registry.Options{
		Records: d.store, Clock: d.clock,
		Record: control.RecordEntity(d.journal.deployment, func() ostiary.AgentID { return d.authority.Self().Agent }, d.clock),
	})
	return err
}

// entities adapts the registry to the gate's words.
type entities struct {
	book      *registry.Registry
	authority func() *identity.Authority // opened later
}

// Registered implements [gate.Entities].
func (x *entities) Registered(kind ostiary.EntityKind, name string) ostiary.Registered {
	e := x.book.Entity(kind, name)
	if e == nil {
		return ostiary.Registered{}
	}
	return ostiary.Registered{Entity: e, Owned: x.owned(e)}
}

// owned reports whether whoever answers for an entity is still there: a person
// who was revoked answers for nothing that was registered until then, and one
// who is retired in the registry for nothing at all. Of an organisation nobody
// learns that it is gone.
func (x *entities) owned(e *ostiary.Entity) bool {
	if name, ok := strings.CutPrefix(string(e.Owner), "person:"); ok {
		if p := x.book.Entity(ostiary.PersonEntity, name); p != nil && p.Retired {
			return false
		}
	}
	at, left := x.authority().Left(e.Owner)
	return !left || e.Changed.After(at)
}

// servers returns the servers as they are now, with what is registered of them.
func (x *entities) servers(configured map[string]ostiary.Resource) map[string]ostiary.Resource {
	all := maps.Clone(configured)
	for name, r := range all {
		r.Registered = x.Registered(ostiary.ServiceEntity, name).Against(r.Program)
		if e := r.Registered.Entity; e != nil && e.Zone != "" {
			r.Zone = e.Zone
		}
		all[name] = r
	}
	return all
}

// usable reports whether a call of a definition would come as far as policy.
func (x *entities) usable(t *ostiary.Tool, on ostiary.Resource) bool {
	if on.Registered.Check() != nil {
		return false
	}
	if t.Kind != catalog.KindTool {
		return true
	}
	r := x.Registered(ostiary.ToolEntity, t.Action()).Against(t.Pin)
	return r.Check() == nil
}

// registry says what of the registry somebody should look at. A deployment
// that registers nothing has nothing to look at.
func (c *checkup) registry(d *Daemon) {
	const name = "registry"
	all := d.entities.book.Entities("")
	if len(all) == 0 {
		c.ok(name, "nothing is registered")
		return
	}
	before := len(*c)
	var orphans, unchecked, other, absent []string
	servers := d.config().resources()
	for _, e := range all {
		what := string(e.Kind) + " " + e.Name
		if !e.Retired && !d.entities.owned(e) {
			orphans = append(orphans, what+" of "+string(e.Owner))
		}
		r := ostiary.Registered{Entity: e}
		switch e.Kind {
		case ostiary.ServiceEntity:
			if s, ok := servers[e.Name]; ok {
				r = r.Against(s.Program)
			}
		case ostiary.ToolEntity:
			server, tool, _ := strings.Cut(e.Name, "___")
			if t, ok := d.book.Tool(server, catalog.KindTool, tool); ok {
				r = r.Against(t.Pin)
			} else if _, ok := servers[server]; ok && !e.Retired {
				absent = append(absent, what)
			}
		}
		switch r.Baseline {
		case ostiary.OtherBaseline:
			other = append(other, what)
		case ostiary.UncheckedBaseline:
			unchecked = append(unchecked, what)
		}
	}
	var strangers []string
	for _, a := range d.authority.Agents() {
		if d.entities.book.Entity(ostiary.AgentEntity, string(a.ID)) == nil && d.authority.State(a.ID) == "enrolled" && a.Method != "oauth" {
			strangers = append(strangers, a.ID.Name())
		}
	}
	say := func(list []string, do, text string) {
		if len(list) > 0 {
			c.warn(name, do, "%s: %s", text, some(list))
		}
	}
	say(orphans, "ostiary registry set KIND NAME --owner ..., or a policy that refuses what is not owned", "whoever answers for these was revoked or retired since")
	say(other, "look at what it is now, then ostiary registry set KIND NAME --baseline ...", "these are not what was registered and are refused")
	say(unchecked, "set servers.NAME.digest for a server that is started here", "nothing compares these with their baseline")
	say(absent, "ostiary tools list, then ostiary registry remove tool NAME", "no server offers these tools")
	say(strangers, "ostiary registry set agent NAME --owner ... --purpose ...", "these agents are enrolled and not registered")
	if len(*c) == before {
		c.ok(name, "%d entities, each with an owner who is there", len(all))
	}
}

// maxSome bounds how many names one line holds.
const maxSome = 8

func some(list []string) string {
	slices.Sort(list)
	if len(list) <= maxSome {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:maxSome], ", "), len(list)-maxSome)
}
