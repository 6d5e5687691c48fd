package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
)

// Starter returns a policy folder to begin with: it permits the session,
// lists, and each tool that hints it is read-only, by name, for a person to
// check; it permits nothing else, and shows for each remaining tool, in
// comments, how to open it. It compiles against the same tools.
func Starter(tools []*ostiary.Tool) Source {
	decls, _ := declare(tools)
	w := starter{ids: map[string]bool{}}
	for i := range decls {
		if decls[i].ReadOnly && !decls[i].Destructive {
			w.reads = append(w.reads, &decls[i])
		} else {
			w.changes = append(w.changes, &decls[i])
		}
	}
	return Source{Files: map[string][]byte{
		"base.cedar":   []byte(starterBase),
		"read.cedar":   []byte(w.readFile()),
		"change.cedar": []byte(w.changeFile()),
		"values.cedar": []byte(starterValues),
		fileGroups:     []byte(starterGroups),
	}}
}

const starterBase = `// What every enrolled agent may do: keep a session, and ask what there is.
// Lists show an agent only what some policy might permit to it.

@id("session") @reason("every agent may keep its session")
permit (principal is Ostiary::Agent, action in Ostiary::Action::"session", resource);

@id("lists") @reason("every agent may ask what there is; it sees only what it may use")
permit (principal is Ostiary::Agent, action in Ostiary::Action::"lists", resource);

@id("listen") @reason("every agent may be told that a list changed")
permit (principal is Ostiary::Agent, action in [Ostiary::Action::"subscribe", Ostiary::Action::"unsubscribe"], resource)
when { context.input.uri == "" };

// Resources and prompts are closed until you open them, for example:
//
// @id("docs-resources")
// permit (
//   principal is Ostiary::Agent,
//   action in [Ostiary::Action::"read_resource", Ostiary::Action::"get_prompt", Ostiary::Action::"complete"],
//   resource == Ostiary::Server::"docs"
// );
//
// So are calls that servers make back to an agent's client: sample, elicit
// and list_roots, together the group from_server.

// An agent whose containment is above "throttled" calls no tool, whatever the
// permits say.
@id("contained") @reason("this agent is contained")
forbid (principal is Ostiary::Agent, action in Ostiary::Action::"CallTool", resource)
unless { ["none", "throttled"].contains(context.containment) };
`

const starterGroups = `# Groups of actions, for policies that say: action in Ostiary::Action::"payments".
# Each line is a group and its actions; tools are named server___tool.
#
# payments: [bank___send_money, bank___schedule_payment]
`

const starterValues = `// Where values came from. An agent reads content that anybody may have written,
// and content may tell it what to do: so what only such content says may not
// decide where something goes, what is permitted to whom, which secret is set
// or how much, unless a person agrees. What the task says, and what its words
// pick out ("refund Bob"), needs nobody. See docs/provenance.md.
//
// The group "changes" holds every tool whose server does not say that it is
// read-only. If you do not believe a server of one of its tools, put it into a
// group of your own and write these rules for that group too.

@id("untrusted-choice") @remedy("approval:owner") @reason("only content of unknown integrity says a value that decides this")
forbid (principal is Ostiary::Agent, action in Ostiary::Action::"changes", resource)
when {
  context.chosen.containsAny([
    "destination:untrusted", "destination:unclear", "destination:field",
    "credential:untrusted", "credential:unclear", "credential:field",
    "permission:untrusted", "permission:unclear", "permission:field",
    "amount:untrusted", "amount:unclear", "amount:field",
    "object:untrusted", "location:untrusted",
    "link:untrusted", "account:untrusted", "address:untrusted"
  ])
}
unless { context.satisfied.contains("approval:owner") };

@id("outside-the-task") @remedy("approval:owner") @reason("after untrusted content, only tools that the task's words call for")
forbid (principal is Ostiary::Agent, action in Ostiary::Action::"changes", resource)
when { context.session.tainted && context.task.given && !context.task.asked }
unless { context.satisfied.contains("approval:owner") };

// What a person, or a secret, is in data may not leave to who may not read it:
// data classes are found and declared by other means; until then none is set.
//
// @id("personal-stays") @remedy("approval:owner")
// forbid (principal is Ostiary::Agent, action in Ostiary::Action::"changes", resource)
// when { context.session.classes.containsAny(["personal", "secret"]) }
// // unless { context.satisfied.contains("approval:owner") };
`

type starter struct {
	reads, changes []*toolDecl
	ids            map[string]bool
}

// id makes a unique @id from a tool's name.
func (w *starter) id(prefix, name string) string {
	var b strings.Builder
	for _, r := range name {
		if r < 128 && isWord(byte(r)) || r == '-' || r == '.' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	base := prefix + b.String()
	base = base[:min(len(base), 56)]
	id := base
	for n := 2; w.ids[strings.ToLower(id)]; n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	w.ids[strings.ToLower(id)] = true
	return id
}

// plainName reports whether a name can stand in policy text as it is: a
// server chose it, and it must not be able to write policy.
func plainName(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' || r == '*' {
			return false
		}
	}
	return odd(s) == nil
}

func quoted(s string) string { return `"` + s + `"` }

func (w *starter) readFile() string {
	var b strings.Builder
	b.WriteString(`// Tools whose server says that they change nothing. The server says so, nobody
// has checked: read each one and delete those you do not believe. A hint may
// only make you more careful, so this file names tools one by one instead of
// permitting the group "read_only", which a server could add to.
`)
	for _, t := range w.reads {
		if !plainName(t.action()) {
			fmt.Fprintf(&b, "\n// %s has a name with characters that could deceive; it stays closed.\n", strconv.QuoteToASCII(t.action()))
			continue
		}
		fmt.Fprintf(&b, "\n@id(%q) @reason(\"hinted read-only, checked by nobody yet\")\n", w.id("read-", t.action()))
		fmt.Fprintf(&b, "permit (principal is Ostiary::Agent, action == Ostiary::Action::%s, resource == Ostiary::Server::%s);\n", quoted(t.action()), quoted(t.Server))
	}
	return b.String()
}

func (w *starter) changeFile() string {
	var b strings.Builder
	b.WriteString(`// Tools that may change something. Nothing here is permitted: what no policy
// permits is denied. Each tool has an example; take away the // to open it, and
// then "ostiary policy check".
//
// A policy sees the arguments (context.input), where they came from
// (context.labels), what the session has read (context.taint), the mandate, the
// risk, and more: see docs/reference/policy.md.
`)
	for _, t := range w.changes {
		if !plainName(t.action()) {
			fmt.Fprintf(&b, "\n// %s has a name with characters that could deceive; it stays closed.\n", strconv.QuoteToASCII(t.action()))
			continue
		}
		b.WriteString("\n")
		for line := range strings.SplitSeq(strings.TrimSuffix(w.example(t), "\n"), "\n") {
			b.WriteString(strings.TrimRight("// "+line, " ") + "\n")
		}
	}
	return b.String()
}

// example is a permit for one tool; with an amount, also a ceiling that
// people can lift.
func (w *starter) example(t *toolDecl) string {
	var b strings.Builder
	f := amount(t.Input)
	fmt.Fprintf(&b, "@id(%q)\npermit (principal is Ostiary::Agent, action == Ostiary::Action::%s, resource == Ostiary::Server::%s)",
		w.id("open-", t.action()), quoted(t.action()), quoted(t.Server))
	if f == nil {
		b.WriteString(";\n")
		return b.String()
	}
	fmt.Fprintf(&b, "\nwhen { %s };\n\n", atMost(f, 1000))
	fmt.Fprintf(&b, "@id(%q) @remedy(\"approval:owner\") @reason(\"more than 100 needs an approval\")\n", w.id("ceiling-", t.action()))
	fmt.Fprintf(&b, "forbid (principal, action == Ostiary::Action::%s, resource)\n", quoted(t.action()))
	fmt.Fprintf(&b, "unless { %s }\nunless { context.satisfied.contains(\"approval:owner\") };\n", atMost(f, 100))
	return b.String()
}

// amount picks the argument a ceiling would be about: a number, best one
// that is named like money.
func amount(s *shape) *field {
	var best *field
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Shape.Kind != kLong && f.Shape.Kind != kDecimal || !plainName(f.Name) {
			continue
		}
		money := slices.ContainsFunc([]string{"amount", "total", "price", "sum", "value"}, func(w string) bool {
			return strings.Contains(strings.ToLower(f.Name), w)
		})
		if money {
			return f
		}
		if best == nil {
			best = f
		}
	}
	return best
}

func atMost(f *field, n int) string {
	arg := "context.input[" + quoted(f.Name) + "]"
	if isIdent(f.Name) {
		arg = "context.input." + f.Name
	}
	cmp := fmt.Sprintf("%s <= %d", arg, n)
	if f.Shape.Kind == kDecimal {
		cmp = fmt.Sprintf("%s.lessThanOrEqual(decimal(\"%d.0\"))", arg, n)
	}
	if f.Optional {
		name := f.Name
		if !isIdent(name) {
			name = quoted(name)
		}
		cmp = "context.input has " + name + " && " + cmp
	}
	return cmp
}

func isIdent(s string) bool {
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if !isWord(s[i]) {
			return false
		}
	}
	return !slices.Contains([]string{"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"}, s)
}
