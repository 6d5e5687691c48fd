package policy

import (
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"
	"github.com/ostiary/ostiary"
)

// maxTools bounds how many tools one deployment may pin: validation of
// group-wide policies costs time for each.
const maxTools = 10_000

// toolDecl is what policy keeps of a pinned tool; it stands in snapshots.
type toolDecl struct {
	Server      string `json:"server"`
	Name        string `json:"name"`
	Pin         pin    `json:"pin"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	Destructive bool   `json:"destructive,omitempty"`
	Input       *shape `json:"input"`
}

// pin is a digest that stands in a snapshot as hex.
type pin ostiary.Digest

func (p pin) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(p[:])), nil }

func (p *pin) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(p)) {
		return fmt.Errorf("a pin has %d hex digits", hex.EncodedLen(len(p)))
	}
	_, err := hex.Decode(p[:], b)
	return err
}

func (t *toolDecl) action() string { return t.Server + "___" + t.Name }

// groupDecl is one operator group.
type groupDecl struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

// declare reads the pinned tools; those never accepted, and those whose
// definition is not acceptable, have no action and so cannot be permitted.
func declare(tools []*ostiary.Tool) ([]toolDecl, []Problem) {
	var out []toolDecl
	var problems []Problem
	bad := func(code, format string, args ...any) {
		problems = append(problems, Problem{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	for _, t := range tools {
		if t == nil || (t.Kind != "" && t.Kind != "tool") {
			continue
		}
		if t.State == ostiary.ToolUnpinned || t.State == ostiary.ToolQuarantined {
			continue
		}
		switch {
		case t.Server == GatewayServer:
			bad("reserved_server", "a server may not be named %q: that is the gateway itself", GatewayServer)
			continue
		case t.Server == "" || t.Name == "" || strings.Contains(t.Server, "___"):
			bad("tool_name", "the tool %q of server %q has a name that cannot be told apart from others", t.Name, t.Server)
			continue
		case t.Pin.IsZero():
			bad("no_pin", "the tool %s has no pin", t.Action())
			continue
		}
		out = append(out, toolDecl{t.Server, t.Name, pin(t.Pin), t.ReadOnly, t.Destructive, inputShape(t.Definition)})
	}
	slices.SortFunc(out, func(a, b toolDecl) int { return strings.Compare(a.action(), b.action()) })
	for i := 1; i < len(out); i++ {
		if a := out[i].action(); a == out[i-1].action() {
			bad("tool_twice", "the action %q stands for two tools", a)
		}
	}
	folded := map[string]string{}
	for i := range out {
		a := out[i].action()
		if other, ok := folded[strings.ToLower(a)]; ok {
			problems = append(problems, Problem{Severity: Warning, Code: "similar_names", Message: fmt.Sprintf("the actions %q and %q differ in case alone; a policy about one says nothing about the other", other, a)})
		}
		folded[strings.ToLower(a)] = a
	}
	if len(out) > maxTools {
		bad("too_many_tools", "%d tools are pinned; policy can tell %d apart", len(out), maxTools)
	}
	return out, problems
}

// action is one action that can be decided on.
type action struct {
	name    string
	uid     cedar.EntityUID
	tool    *toolDecl // nil for a method
	method  *Method   // nil for a tool
	input   *shape
	context *shape
	groups  []string // all, direct and indirect
	shared  atomic.Pointer[sharedLabels]

	registered atomic.Pointer[built[ostiary.Registered]] // of its tool, as it was last
}

// world is everything policies can be about: actions, groups and types.
type world struct {
	tools   []toolDecl
	groups  []groupDecl
	undos   map[string]Undo // by action
	actions map[string]*action
	members map[string][]*action // of every group, direct and indirect, sorted by name
	schema  *cedarSchema
	base    cedar.EntityMap // action entities

	emptySet     cedar.Value
	emptyRecord  cedar.Value
	unregistered cedar.Value // what policy sees of what nobody registered
	pool         sync.Pool   // of *question
	callers      callers
	choices      choices
	servers      servers
	histories    values[int64] // by results read
	moments      values[int64] // by Unix milliseconds
}

func uid(typ, id string) cedar.EntityUID {
	return cedar.NewEntityUID(qualified(typ), cedar.String(id))
}

// qualified spells the types of every request out, as joining the words each
// time would cost an allocation.
func qualified(typ string) cedar.EntityType {
	switch typ {
	case typeAgent:
		return Namespace + "::" + typeAgent
	case typeRole:
		return Namespace + "::" + typeRole
	case typePerson:
		return Namespace + "::" + typePerson
	case typeServer:
		return Namespace + "::" + typeServer
	case typeZone:
		return Namespace + "::" + typeZone
	}
	return cedar.EntityType(Namespace + "::" + typ)
}

// newWorld builds the actions and their Cedar schema.
func newWorld(tools []toolDecl, groups []groupDecl, undos map[string]Undo) (*world, error) {
	w := &world{tools: tools, groups: groups, undos: undos, actions: map[string]*action{}, members: map[string][]*action{}, emptySet: cedar.Set{}, emptyRecord: cedar.Record{}, unregistered: cedar.NewRecord(registered(ostiary.Registered{}))}
	w.callers.seed, w.servers.seed, w.choices.seed = maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()
	parents := groupParents()
	direct := map[string][]string{} // action name to operator groups
	for _, g := range groups {
		parents[g.Name] = nil
		for _, m := range g.Members {
			direct[m] = append(direct[m], g.Name)
		}
	}
	var specs []actionSpec
	for name, up := range parents {
		specs = append(specs, actionSpec{name: name, parents: up})
	}
	add := func(a *action, principal, pin string, up []string) {
		a.uid = uid("Action", a.name)
		a.context = contextShape(a.input, a.tool != nil)
		a.groups = closure(up, parents)
		w.actions[a.name] = a
		for _, g := range a.groups {
			w.members[g] = append(w.members[g], a)
		}
		specs = append(specs, actionSpec{a.name, up, pin, []string{principal}, []string{typeServer}, a.context})
	}
	for i := range tools {
		t := &tools[i]
		up := append([]string{GroupCallTool}, direct[t.action()]...)
		if t.ReadOnly {
			up = append(up, GroupReadOnly)
		} else {
			up = append(up, GroupChanges)
		}
		if t.Destructive {
			up = append(up, GroupDestructive)
		}
		if _, undone := undos[t.action()]; !undone && !t.ReadOnly {
			up = append(up, GroupIrreversible)
		}
		add(&action{name: t.action(), tool: t, input: t.Input}, typeAgent, hex.EncodeToString(t.Pin[:]), up)
	}
	for _, m := range Methods() {
		var fields []field
		for _, f := range m.fields {
			fields = append(fields, req(f.name, plain(kString)))
		}
		principal := typeAgent
		if m.Self {
			principal = typeGateway
		}
		add(&action{name: m.Name, method: &m, input: record(fields...)}, principal, "", append(slices.Clone(m.Groups), direct[m.Name]...))
	}
	for _, l := range w.members {
		slices.SortFunc(l, func(a, b *action) int { return strings.Compare(a.name, b.name) })
	}
	var err error
	if w.schema, err = newCedarSchema(specs); err != nil {
		return nil, fmt.Errorf("building the schema: %w", err)
	}
	w.base = w.schema.actionEntities()
	return w, nil
}

// closure returns the groups and everything they lie in, sorted.
func closure(groups []string, parents map[string][]string) []string {
	seen := map[string]bool{}
	var walk func([]string)
	walk = func(list []string) {
		for _, g := range list {
			if !seen[g] {
				seen[g] = true
				walk(parents[g])
			}
		}
	}
	walk(groups)
	out := make([]string, 0, len(seen))
	for g := range seen {
		out = append(out, g)
	}
	slices.Sort(out)
	return out
}

// names returns all action and group names, for suggestions.
func (w *world) names() []string {
	var out []string
	for n := range w.actions {
		out = append(out, n)
	}
	for n := range w.members {
		out = append(out, n)
	}
	for _, g := range w.groups {
		out = append(out, g.Name)
	}
	for n := range groupParents() {
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// isGroup reports whether a name is that of a group.
func (w *world) isGroup(name string) bool {
	_, fixed := groupParents()[name]
	return fixed || slices.ContainsFunc(w.groups, func(g groupDecl) bool { return g.Name == name })
}

// covered returns the actions a scope can apply to, sorted by name; all for
// an open one. Names it does not know are returned as unknown.
func (w *world) covered(s scope) (found []*action, all bool, unknown []cedar.EntityUID) {
	if s.kind == scopeAny {
		for _, a := range w.actions {
			found = append(found, a)
		}
		slices.SortFunc(found, func(a, b *action) int { return strings.Compare(a.name, b.name) })
		return found, true, nil
	}
	seen := map[string]bool{}
	for _, e := range s.entities {
		name := string(e.ID)
		a, isAction := w.actions[name]
		_, isGroup := w.base[e]
		if !isGroup || e.Type != Namespace+"::Action" {
			unknown = append(unknown, e)
			continue
		}
		list := w.members[name]
		if isAction {
			list = append(slices.Clone(list), a)
		}
		if s.kind == scopeEq && !isAction {
			list = nil // == a group matches no call
		}
		for _, x := range list {
			if !seen[x.name] {
				seen[x.name] = true
				found = append(found, x)
			}
		}
	}
	slices.SortFunc(found, func(a, b *action) int { return strings.Compare(a.name, b.name) })
	return found, false, unknown
}
