package catalog

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// maxOffered bounds how many definitions of one kind a server may offer:
// beyond it nobody reads them. What is over the limit is left out, unless it
// was accepted before.
const maxOffered = 2000

// Book holds the accepted definitions and what servers offer now. Lookups
// read an immutable view and never wait; writes are serialised. Safe for
// concurrent use.
type Book struct {
	pins  Pins
	clock func() time.Time
	view  atomic.Pointer[view]

	mu      sync.Mutex                   // guards what follows, and the order of views
	entries map[key]*entry               // never changed while a view shows them: views copy
	checks  map[ostiary.Digest]*compiled // by pin, for accepted tools
}

type key struct{ server, kind, name string }

// entry is all that is known of one name.
type entry struct {
	pinned   *ostiary.Tool // as accepted; nil if never
	offered  *ostiary.Tool // as the server says now; nil if it does not, or has not been asked
	observed bool          // the server has been asked since the start
	hard     bool          // offered cannot be accepted by anybody
	broken   string        // why the accepted definition itself cannot be used
	clash    string        // what offered can be confused with
	twice    bool          // offered twice in one list
}

// view is what lookups read.
type view struct {
	tools []*ostiary.Tool // sorted by server, kind, name
	byKey map[key]*shown
	byPin map[pinned]*shown
}

type pinned struct {
	server string
	pin    ostiary.Digest
}

type shown struct {
	tool   ostiary.Tool
	offer  ostiary.Digest // pin of what is offered now
	check  *compiled
	prompt *prompt
}

// New returns an empty Book over the stored pins. It refuses everything until
// Load.
func New(pins Pins, clock func() time.Time) *Book {
	b := &Book{pins: pins, clock: clock, entries: map[key]*entry{}, checks: map[ostiary.Digest]*compiled{}}
	b.view.Store(&view{})
	return b
}

// Change is one thing that is different since the last look.
type Change struct {
	Tool    ostiary.Tool      // as it stands now
	New     bool              // it was not known before
	Was     ostiary.ToolState // its state before
	Offered ostiary.Digest    // pin of what the server offers now; zero if nothing
}

// Load reads the accepted definitions from the store, and can be called again
// to follow other processes. A stored definition that does not have its pin
// is Corrupt, and the Book stays as it was. Until a server has been observed,
// what was accepted of it stands: agents read our copy.
func (b *Book) Load(ctx context.Context) error {
	b.mu.Lock() // from before the read: what was read must not undo a later Accept or Drop
	defer b.mu.Unlock()
	records, err := b.pins.Pins(ctx)
	if err != nil {
		return err
	}
	accepted := make(map[key]*ostiary.Tool, len(records))
	broken := map[key]string{}
	for _, r := range records {
		t, hard, err := restore(r)
		if err != nil {
			return err
		}
		k := key{r.Server, r.Kind, r.Name}
		if hard {
			broken[k] = t.Why
		}
		accepted[k] = &t
	}
	for k, e := range b.entries {
		e.pinned, e.broken = nil, ""
		if e.offered == nil && accepted[k] == nil {
			delete(b.entries, k)
		}
	}
	for k, t := range accepted {
		e := b.entry(k)
		e.pinned, e.broken = t, broken[k]
	}
	b.rebuild()
	return nil
}

func restore(r PinRecord) (t ostiary.Tool, hard bool, err error) {
	doc, err := strictjson.Parse(slices.Clone(r.Definition), strictjson.Reply)
	if err != nil {
		return t, false, ostiary.Errorf(ostiary.Corrupt, "pin_record", "a stored definition of server %q cannot be read", r.Server).Because(err)
	}
	t, hard = parse(r.Server, r.Kind, doc.Root())
	if t.Pin != r.Pin || t.Name != r.Name {
		return t, false, ostiary.Errorf(ostiary.Corrupt, "pin_record", "a stored definition of server %q does not have its pin", r.Server)
	}
	return t, hard, nil
}

func (b *Book) entry(k key) *entry {
	e := b.entries[k]
	if e == nil {
		e = &entry{}
		b.entries[k] = e
	}
	return e
}

// Observe takes the complete list of one kind that a server offers now, made
// by ParseDefinition, and returns what is different since the last look, for
// this and for other names. An accepted definition that changed is refused
// from the moment Observe returns, until it is accepted again.
func (b *Book) Observe(server, kind string, tools []ostiary.Tool) []Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, e := range b.entries {
		if k.server == server && k.kind == kind {
			e.offered, e.observed, e.hard, e.twice = nil, true, false, false
		}
	}
	for i := range tools {
		t := tools[i]
		if t.Server != server || t.Kind != kind {
			continue // not of this list: the caller's mistake admits nothing
		}
		k := key{server, kind, t.Name}
		if b.entries[k] == nil && i >= maxOffered {
			continue
		}
		e := b.entry(k)
		if e.offered != nil {
			e.twice = true
			continue
		}
		e.observed, e.offered = true, &t
		if t.State == ostiary.ToolQuarantined {
			_, e.hard = parse(server, kind, t.Definition)
		}
	}
	for k, e := range b.entries {
		if e.pinned == nil && e.offered == nil {
			delete(b.entries, k)
		}
	}
	return b.rebuild()
}

// Acceptance says what a person accepts.
type Acceptance struct {
	Server, Kind, Name string
	Pin                ostiary.Digest // of the definition the person looked at; zero takes what is offered now
	By                 string         // who accepts
	Force              bool           // also one quarantined for its text, after reading it
}

// AcceptOne accepts one offered definition, durably, before it returns.
// NotFound if it is not offered; Conflict if it is no longer the one looked
// at; Denied if it is quarantined, which Force overcomes only for texts that
// a person can judge.
func (b *Book) AcceptOne(ctx context.Context, a Acceptance) (ostiary.Tool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := key{a.Server, a.Kind, a.Name}
	if err := b.acceptable(k, a); err != nil {
		return ostiary.Tool{}, err
	}
	if err := b.save(ctx, []key{k}, a.By); err != nil {
		return ostiary.Tool{}, err
	}
	return b.view.Load().byKey[k].tool, nil
}

// Accept accepts what a server offers under a name, of any kind, or with an
// empty name everything it offers that is not quarantined; durably and
// together. It returns what it accepted, sorted. A named definition that is
// quarantined is Denied; see AcceptOne.
func (b *Book) Accept(ctx context.Context, server, name, by string) ([]ostiary.Tool, error) {
	return b.AcceptOffers(ctx, server, name, by, nil)
}

// Named is a definition of a server by kind and name.
type Named struct{ Kind, Name string }

// AcceptOffers is Accept of exactly these offers, by pin: Conflict, and
// nothing is accepted, if the server offers any of them otherwise by now. Nil
// takes what is offered.
func (b *Book) AcceptOffers(ctx context.Context, server, name, by string, offers map[Named]ostiary.Digest) ([]ostiary.Tool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ks []key
	for k, e := range b.entries {
		if k.server != server || name != "" && k.name != name || e.offered == nil {
			continue
		}
		err := b.acceptable(k, Acceptance{Server: k.server, Kind: k.kind, Name: k.name})
		if err != nil && name != "" {
			return nil, err
		}
		if err != nil || e.pinned != nil && e.pinned.Pin == e.offered.Pin {
			continue
		}
		if offers != nil && offers[Named{k.kind, k.name}] != e.offered.Pin {
			return nil, errMoved()
		}
		ks = append(ks, k)
	}
	if len(ks) == 0 {
		if name != "" && len(b.offers(server, name)) == 0 {
			return nil, ostiary.Errorf(ostiary.NotFound, "unknown_tool", "the server offers nothing of this name")
		}
		return nil, nil
	}
	slices.SortFunc(ks, compareKeys)
	if err := b.save(ctx, ks, by); err != nil {
		return nil, err
	}
	out := make([]ostiary.Tool, len(ks))
	for i, k := range ks {
		out[i] = b.view.Load().byKey[k].tool
	}
	return out, nil
}

func (b *Book) offers(server, name string) (ks []key) {
	for k, e := range b.entries {
		if k.server == server && k.name == name && e.offered != nil {
			ks = append(ks, k)
		}
	}
	return ks
}

func errMoved() error {
	return ostiary.Errorf(ostiary.Conflict, "pin_moved", "the server offers another definition than the one looked at; look again")
}

func (b *Book) acceptable(k key, a Acceptance) error {
	e := b.entries[k]
	switch {
	case e == nil || e.offered == nil:
		return ostiary.Errorf(ostiary.NotFound, "unknown_tool", "the server offers nothing of this name")
	case !a.Pin.IsZero() && a.Pin != e.offered.Pin:
		return errMoved()
	case e.pinned != nil && e.pinned.Pin == e.offered.Pin && !e.twice:
		return nil // accepted already, with force if it took that
	case e.twice:
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "the server offers two definitions of this name")
	case e.clash != "":
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "its name %s", e.clash)
	case e.hard:
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "it cannot be accepted: %s", e.offered.Why)
	case e.offered.State == ostiary.ToolQuarantined && !a.Force:
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "it must be read and then accepted with force: %s", e.offered.Why)
	}
	return nil
}

// save stores and then shows. If the store says no after all it has stored,
// the next Load finds out; until then the stricter state stands.
func (b *Book) save(ctx context.Context, ks []key, by string) error {
	records := make([]PinRecord, len(ks))
	for i, k := range ks {
		t := b.entries[k].offered
		records[i] = PinRecord{
			Server: k.server, Kind: k.kind, Name: k.name, Pin: t.Pin, By: by,
			Definition: slices.Clone(t.Definition.Bytes()), Accepted: b.clock().UTC(),
		}
	}
	if err := b.pins.SavePins(ctx, records); err != nil {
		return err
	}
	for _, k := range ks {
		e := b.entries[k]
		t := *e.offered
		e.pinned, e.broken = &t, ""
	}
	b.rebuild()
	return nil
}

// Drop withdraws an acceptance, durably. NotFound if there is none.
func (b *Book) Drop(ctx context.Context, server, kind, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.pins.DropPin(ctx, server, kind, name); err != nil {
		return err
	}
	k := key{server, kind, name}
	if e := b.entries[k]; e != nil {
		if e.pinned, e.broken = nil, ""; e.offered == nil {
			delete(b.entries, k)
		}
	}
	b.rebuild()
	return nil
}

// Tool returns a definition by its name, whatever its state. The result is
// shared: it must not be changed.
func (b *Book) Tool(server, kind, name string) (*ostiary.Tool, bool) {
	s, ok := b.view.Load().byKey[key{server, kind, name}]
	if !ok {
		return nil, false
	}
	return &s.tool, true
}

// Tools returns every known definition, sorted by server, kind and name. The
// result is shared: it must not be changed.
func (b *Book) Tools() []*ostiary.Tool { return b.view.Load().tools }

// Offered returns what the server says now, which differs from Tool for a
// changed one. False if it offers nothing of that name.
func (b *Book) Offered(server, kind, name string) (ostiary.Tool, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[key{server, kind, name}]
	if e == nil || e.offered == nil {
		return ostiary.Tool{}, false
	}
	return *e.offered, true
}

// Diff shows how what is offered differs from what was accepted, line by line,
// with invisible characters as code points: lines that begin with "-" were
// accepted, with "+" are offered. It is empty if they mean the same. The pin
// is of the offer it shows, zero if there is none. NotFound
// if the name is not known.
func (b *Book) Diff(server, kind, name string) (text string, offered ostiary.Digest, err error) {
	b.mu.Lock()
	e := b.entries[key{server, kind, name}]
	var was, is []string
	if e != nil && e.pinned != nil {
		was = pretty(e.pinned.Definition)
	}
	if e != nil && e.offered != nil {
		if offered = e.offered.Pin; readable(e.offered.Definition) {
			is = pretty(e.offered.Definition)
		}
	}
	same := e != nil && (!e.observed || e.offered != nil && e.pinned != nil && e.offered.Pin == e.pinned.Pin)
	b.mu.Unlock()
	if e == nil {
		return "", offered, ostiary.Errorf(ostiary.NotFound, "unknown_tool", "no server offers anything of this name")
	}
	if same {
		return "", offered, nil
	}
	return strings.Join(lineDiff(was, is), "\n") + "\n", offered, nil
}

func readable(v ostiary.Value) bool {
	return len(v.Bytes()) <= maxDefinition && nesting(v, maxNesting)
}

func compareKeys(a, b key) int {
	return cmp.Or(strings.Compare(a.server, b.server), strings.Compare(a.kind, b.kind), strings.Compare(a.name, b.name))
}

// rebuild makes the next view from the entries and returns how it differs
// from the last. The caller holds mu.
func (b *Book) rebuild() []Change {
	b.clashes()
	v := &view{byKey: make(map[key]*shown, len(b.entries)), byPin: map[pinned]*shown{}}
	checks := make(map[ostiary.Digest]*compiled, len(b.checks))
	for _, k := range slices.SortedFunc(maps.Keys(b.entries), compareKeys) {
		s := b.show(b.entries[k], checks)
		v.tools = append(v.tools, &s.tool)
		v.byKey[k] = s
		if s.tool.State == ostiary.ToolPinned {
			v.byPin[pinned{k.server, s.tool.Pin}] = s
		}
	}
	b.checks = checks
	old := b.view.Swap(v)
	return changes(old, v)
}

// show works out the state of one name.
func (b *Book) show(e *entry, checks map[ostiary.Digest]*compiled) *shown {
	s := &shown{}
	if e.offered != nil {
		s.offer = e.offered.Pin
	}
	if e.pinned == nil {
		s.tool = *e.offered
		if why := cmp.Or(e.clash, twice(e)); why != "" {
			s.tool.State, s.tool.Why = ostiary.ToolQuarantined, "its name "+why
		}
		return s
	}
	s.tool = *e.pinned
	s.tool.State, s.tool.Why = ostiary.ToolPinned, ""
	switch {
	case e.broken != "":
		s.tool.State, s.tool.Why = ostiary.ToolQuarantined, e.broken
	case e.observed && e.offered == nil:
		s.tool.State, s.tool.Why = ostiary.ToolGone, "the server no longer offers it"
	case e.twice:
		s.tool.State, s.tool.Why = ostiary.ToolChanged, "its name "+twice(e)
	case e.offered != nil && e.offered.Pin != e.pinned.Pin:
		s.tool.State, s.tool.Why = ostiary.ToolChanged, "the server changed its definition after it was accepted"
		if e.offered.State == ostiary.ToolQuarantined {
			s.tool.Why += "; the new one " + e.offered.Why
		}
	default:
		b.arm(s, checks)
	}
	return s
}

func twice(e *entry) string {
	if e.twice {
		return "stands twice in the server's list"
	}
	return ""
}

// arm gives a callable definition what checks its arguments.
func (b *Book) arm(s *shown, checks map[ostiary.Digest]*compiled) {
	switch s.tool.Kind {
	case KindPrompt:
		s.prompt = promptOf(s.tool.Definition)
	case KindTool:
		if s.check = b.checks[s.tool.Pin]; s.check == nil {
			var ps []problem
			if s.check, ps = compile(s.tool.Definition.Get("inputSchema"), "/inputSchema"); s.check == nil {
				s.tool.State, s.tool.Why = ostiary.ToolQuarantined, why(ps)
				return
			}
		}
		checks[s.tool.Pin] = s.check
	}
}

// clashes finds names that can be taken for another: within a server by look
// or by case, between servers by look unless they are the very same, since
// each stands under its server's name. An accepted name is never displaced;
// of names that nobody accepted, all that clash are refused.
func (b *Book) clashes() {
	looks := map[[3]string][]key{}
	note := func(group, kind, look string, k key) {
		at := [3]string{group, kind, look}
		looks[at] = append(looks[at], k)
	}
	for k, e := range b.entries {
		e.clash = ""
		if k.kind != KindTool && k.kind != KindPrompt || e.pinned == nil && e.hard {
			continue // addresses are not told apart by eye; what can never be accepted takes no name
		}
		note("look", k.kind, skeleton(k.name), k)
		note("case "+k.server, k.kind, skeleton(strings.ToLower(k.name)), k)
		if k.kind == KindTool {
			note("action", "", k.server+"___"+k.name, k)
		}
	}
	for at, ks := range looks {
		for _, k := range ks {
			if e := b.entries[k]; e.pinned == nil {
				e.clash = cmp.Or(e.clash, clash(at[0], k, ks))
			}
		}
	}
}

func clash(group string, k key, ks []key) string {
	for _, other := range slices.SortedFunc(slices.Values(ks), compareKeys) {
		if other == k || group == "look" && other.name == k.name {
			continue
		}
		return fmt.Sprintf("can be taken for %q of server %q", clip(other.name), clip(other.server))
	}
	return ""
}

func changes(old, now *view) (out []Change) {
	for _, t := range now.tools {
		k := key{t.Server, t.Kind, t.Name}
		s, was := now.byKey[k], old.byKey[k]
		switch {
		case was == nil:
			out = append(out, Change{Tool: *t, New: true, Offered: s.offer})
		case was.tool.State != t.State || was.tool.Pin != t.Pin || was.offer != s.offer && !was.offer.IsZero() || was.tool.Why != t.Why:
			out = append(out, Change{Tool: *t, Was: was.tool.State, Offered: s.offer})
		}
	}
	for _, t := range old.tools {
		if now.byKey[key{t.Server, t.Kind, t.Name}] == nil {
			gone := *t
			gone.State, gone.Why = ostiary.ToolGone, "the server no longer offers it"
			out = append(out, Change{Tool: gone, Was: t.State})
		}
	}
	return out
}

// Validate checks an action against the definition pinned under its Pin. Calls
// of tools and prompts must have one; other methods are checked if they have
// one. Malformed (code "schema", Field a JSON Pointer into the arguments) if
// the arguments do not fit; NotFound, Denied or Conflict if the definition may
// not be called as it stands. It implements the gate's validator. Safe for
// concurrent use.
func (b *Book) Validate(a *ostiary.Action) error {
	v := b.view.Load()
	var s *shown
	switch a.Method {
	case "tools/call":
		s = v.byKey[key{a.Server, KindTool, a.Tool}]
	case "prompts/get":
		s = v.byKey[key{a.Server, KindPrompt, a.Tool}]
	default:
		if a.Pin.IsZero() {
			return nil
		}
		if s = v.byPin[pinned{a.Server, a.Pin}]; s == nil {
			return ostiary.Errorf(ostiary.Denied, "unpinned", "its definition is not accepted as it stands")
		}
		return nil
	}
	if s == nil || a.Tool == "" {
		return ostiary.Errorf(ostiary.NotFound, "unknown_tool", "there is no such tool")
	}
	if err := usable(&s.tool, a); err != nil {
		return err
	}
	switch {
	case s.prompt != nil:
		return s.prompt.check(a.Arguments)
	case s.check != nil:
		return s.check.check(a.Arguments)
	}
	return ostiary.Errorf(ostiary.Internal, "unarmed", "its definition has nothing to check arguments with")
}

func usable(t *ostiary.Tool, a *ostiary.Action) error {
	switch t.State {
	case ostiary.ToolPinned:
		if a.Pin != t.Pin {
			return ostiary.Errorf(ostiary.Conflict, "pin_moved", "its definition changed while this was under way; read the list again")
		}
		return nil
	case ostiary.ToolChanged:
		return ostiary.Errorf(ostiary.Denied, "tool_changed", "its definition changed after it was accepted; an operator has to read the difference and accept it again")
	case ostiary.ToolQuarantined:
		return ostiary.Errorf(ostiary.Denied, "tool_quarantined", "its definition is quarantined until an operator has looked at it")
	case ostiary.ToolGone:
		return ostiary.Errorf(ostiary.NotFound, "tool_gone", "the server no longer offers it")
	}
	return ostiary.Errorf(ostiary.Denied, "tool_unpinned", "its definition has not been accepted by an operator yet")
}
