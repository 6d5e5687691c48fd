package provenance

import (
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// Grade says what is known of where one value came from.
type Grade uint8

const (
	Untrusted Grade = iota // content of unknown integrity says it, and nothing else accounts for it
	Unclear                // it stands nowhere, and the session has read content of unknown integrity
	Field                  // a field of a record says it, and no free text does
	Delegated              // content says it, and the task's own words pick that content out
	Own                    // the account's own data say it
	Agent                  // the agent wrote it before it had read anything of unknown integrity
	Trusted                // a trusted source says it
	Given                  // the task says it
)

var stateNames = [...]string{"untrusted", "unclear", "field", "delegated", "own", "agent", "trusted", "task"}

// String returns the state's word.
func (s Grade) String() string { return stateNames[min(int(s), len(stateNames)-1)] }

// Limits of one session's index. Beyond them the session's own taint applies
// to every value that the task does not say.
const (
	maxPostings = 1 << 20 // words, marks and fields: at most some 64 MiB
	maxResults  = 4096
	maxMemos    = 4096
	maxSent     = 1 << 16 // of what was written; beyond it no source makes anything trusted
	maxLeaves   = 512     // of one call's arguments that are traced one by one
)

// Index knows where the values of one session came from. Safe for concurrent
// use: its owner holds its lock.
type Index struct {
	corpus  *corpus
	results []result
	records uint32
	memos   map[memoKey]memo
	looking bool // answers are not remembered
	tainted bool // something of unknown integrity was read
	full    bool // a limit was met, or what was read before is not known
	scan    scan
	reader  reader
	steps   int
	sent    *corpus // what the agent wrote that it may not have thought of itself
	unsent  bool    // not all of it is kept
}

type result struct {
	server, tool string
	step         int
	profile      *Profile
	spans        [2]uint32
	records      int // of more than one field
	named        naming
	trusted      bool
	own          bool // its fields are the account's own, if the tool's are
	speaks       bool // it holds text that is addressed to an agent
	host         string
	rows         map[hash]int // how many records hold a value, to know what they have in common
	anchors      map[uint32]anchor
	within       map[uint32][2]uint32 // the spans among which a record's are
}

// naming says whether a result was asked for by a name.
type naming uint8

const (
	notNamed     naming = iota
	byDelegation        // a name that the task picked out of other content
	byTask              // a name that the task gives
)

// memoKey is one value where one tool was given it. What was known of it there
// says nothing of another tool, nor of another role.
type memoKey struct {
	server, tool, arg string
	role              Role
	form              string
}

type memo struct {
	state Grade
	from  ostiary.Origin
}

// NewIndex returns the index of a session. lost says that the session read
// something before that the index does not hold.
func NewIndex(lost bool) *Index {
	return &Index{corpus: newCorpus(), memos: map[memoKey]memo{}, sent: newCorpus(), unsent: lost, full: lost, tainted: lost}
}

// Learn adds what a call returned. It must be called before any of it is
// released.
func (x *Index) Learn(p *Profile, task *Task, args, reply ostiary.Value, trusted bool) {
	x.steps++
	trusted, own := trusted || p.Trusted, true
	if trusted || p.Own || len(p.Sheltered) > 0 {
		least := x.least(p, task, args)
		trusted, own = trusted && least >= Agent, least >= Own
	}
	if !trusted {
		x.tainted = true
	}
	if x.corpus.size() > maxPostings || len(x.results) >= maxResults {
		x.full = true
		return
	}
	x.reader.record = x.records
	x.reader.result(reply)
	x.records = x.reader.record
	n := uint32(len(x.results))
	r := result{server: p.Server, tool: p.Tool, step: x.steps, profile: p, trusted: trusted, own: own, rows: map[hash]int{}, anchors: map[uint32]anchor{}, within: map[uint32][2]uint32{}}
	r.spans[0] = uint32(len(x.corpus.spans))
	last := uint32(0)
	for i := range x.reader.fields {
		f := &x.reader.fields[i]
		if x.corpus.size() > maxPostings {
			x.full = true
			break
		}
		here := uint32(len(x.corpus.spans))
		x.corpus.add(&x.scan, n, *f)
		if w, ok := r.within[f.record]; ok {
			here = w[0]
		}
		r.within[f.record] = [2]uint32{here, uint32(len(x.corpus.spans))}
		if f.record != last && f.within < inString {
			last = f.record
			r.records++
		}
		r.speaks = r.speaks || speaks(&x.scan)
		if f.kind == fieldProse {
			x.encoded(x.corpus, n, f)
		} else if f.within < inString {
			r.rows[x.corpus.spans[len(x.corpus.spans)-1].only]++
		}
	}
	r.spans[1] = uint32(len(x.corpus.spans))
	r.named, r.host = x.askedFor(p, task, args)
	x.results = append(x.results, r)
}

// encoded adds what base64 or hexadecimal inside a text says.
func (x *Index) encoded(c *corpus, n uint32, f *field) {
	for i, start := 0, 0; i <= len(f.text); i++ {
		if i < len(f.text) && isEncoded(f.text[i]) {
			continue
		}
		w := f.text[start:i]
		start = i + 1
		if len(w) < 16 || !strings.ContainsAny(w, "0123456789=") && strings.ToLower(w) == w {
			continue
		}
		if d, ok := decoded(w); ok {
			var s scan
			c.add(&s, n, field{f.path + " (decoded)", f.record, fieldProse, d, inString})
		}
	}
}

// isEncoded reports whether a byte may stand in base64 or hexadecimal.
func isEncoded(c byte) bool {
	return isWordByte(c|0x20) || c == '+' || c == '/' || c == '-' || c == '_' || c == '='
}

// askedFor reports whether a call fetched something by a name that the task
// gives, or that was picked out by the task before.
func (x *Index) askedFor(p *Profile, task *Task, args ostiary.Value) (named naming, host string) {
	var s scan
	leaves(p, args, func(arg, _, text string, kind ostiary.ValueKind) bool {
		if kind != ostiary.String {
			return true
		}
		s.read(text)
		for i := range s.marks {
			if s.marks[i].kind == markHost && host == "" && i > 0 && s.marks[i-1].kind == markLink {
				host = s.text[s.marks[i].start:s.marks[i].end]
			}
		}
		if p.Effect && p.Role(arg) != Location {
			return true
		}
		m, ok := x.memos[memoKey{p.Server, p.Tool, arg, p.Role(arg), s.text}]
		particular := len(s.words) > 0 && (p.Role(arg) != Content && p.Role(arg) != Plain || task.namesAny(&s))
		switch {
		case particular && task.says(&s):
			named = byTask
		case particular && ok && m.state == Delegated:
			named = max(named, byDelegation)
		}
		return true
	})
	return named, host
}

// namesAny reports whether one of the words names something in the task.
func (t *Task) namesAny(s *scan) bool {
	if t == nil {
		return false
	}
	for i := range s.words {
		if t.names[s.words[i].hash] {
			return true
		}
	}
	return false
}

// leaves walks over the values of arguments that hold no others, and over the
// names in them that the tool's definition does not have: those are values as
// well. arg is the top-level argument, at the pointer. It stops when f returns
// false.
func leaves(p *Profile, args ostiary.Value, f func(arg, at, text string, kind ostiary.ValueKind) bool) {
	for name, v := range args.Members() {
		if !below(p, name, ostiary.Pointer("", name), v, f) {
			return
		}
	}
}

func below(p *Profile, arg, at string, v ostiary.Value, f func(arg, at, text string, kind ostiary.ValueKind) bool) bool {
	switch v.Kind() {
	case ostiary.Object:
		for name, m := range v.Members() {
			if inner := ostiary.Pointer(at, name); !p.members[name] && !f(arg, inner, name, ostiary.String) || !below(p, arg, inner, m, f) {
				return false
			}
		}
	case ostiary.Array:
		for i, e := range v.Elements() {
			if !below(p, arg, at+"/"+itoa(i), e, f) {
				return false
			}
		}
	case ostiary.String:
		return f(arg, at, v.Text(), ostiary.String)
	case ostiary.Number:
		return f(arg, at, v.Literal(), ostiary.Number)
	case ostiary.True, ostiary.False:
		return f(arg, at, string(v.Bytes()), v.Kind())
	}
	return true
}

func isSwitch(k ostiary.ValueKind) bool { return k == ostiary.True || k == ostiary.False }

// Traced is what is known of one call's arguments.
type Traced struct {
	Labels  map[string]ostiary.Label // by top-level argument
	Chosen  []string                 // role:state of what the arguments decide, sorted
	Origins []ostiary.Origin         // the paths, of what did not come from the task or the agent
	Calls   bool                     // the task's words call for the tool
	Given   bool                     // there is a task to compare with
	Tainted bool
}

// Look says what Trace would, and remembers nothing of it.
func (x *Index) Look(p *Profile, task *Task, args ostiary.Value) Traced {
	x.looking = true
	defer func() { x.looking = false }()
	return x.Trace(p, task, args)
}

// Trace says where the arguments of a call came from, and remembers it.
func (x *Index) Trace(p *Profile, task *Task, args ostiary.Value) Traced {
	t := Traced{Labels: map[string]ostiary.Label{}, Calls: task.CallsFor(p), Given: task.Given(), Tainted: x.tainted}
	chosen := map[string]bool{}
	n := 0
	target := x.targets(p, args)
	leaves(p, args, func(arg, at, text string, kind ostiary.ValueKind) bool {
		role := p.Role(arg)
		if isSwitch(kind) { // every task and every text might have said it
			if role != Plain && role != Content {
				t.note(chosen, arg, at, role, text, x.fallback(), ostiary.Origin{})
			}
			return true
		}
		if n++; n > maxLeaves {
			t.note(chosen, arg, at, role, text, x.fallback(), ostiary.Origin{})
			return true
		}
		if strings.TrimSpace(text) == "" {
			t.note(chosen, arg, at, Plain, text, Agent, ostiary.Origin{})
			return true
		}
		q := question{x: x, p: p, task: task, arg: arg, role: role, text: text, target: target}
		state, from := q.answer()
		t.note(chosen, arg, at, role, text, state, from)
		least := state
		if role == Content {
			q.inside(func(what string, state Grade, from ostiary.Origin) {
				least = min(least, state)
				chosen[what+":"+state.String()] = true
				if state < Agent {
					t.origin(at, from, state, what)
				}
			})
		}
		if least < Own {
			x.wrote(text)
		}
		return true
	})
	for name := range args.Members() {
		if _, ok := t.Labels[name]; !ok {
			t.Labels[name] = labelOf(x.fallback(), ostiary.Origin{})
		}
	}
	for c := range chosen {
		t.Chosen = append(t.Chosen, c)
	}
	slices.Sort(t.Chosen)
	return t
}

func (t *Traced) note(chosen map[string]bool, arg, at string, role Role, text string, state Grade, from ostiary.Origin) {
	l := labelOf(state, from)
	if old, ok := t.Labels[arg]; ok {
		l = old.Join(l)
	}
	t.Labels[arg] = l
	chosen[role.String()+":"+state.String()] = true
	if state < Agent {
		t.origin(at, from, state, role.String())
	}
}

// maxOrigins bounds the paths kept of one call.
const maxOrigins = 16

func (t *Traced) origin(at string, from ostiary.Origin, state Grade, what string) {
	if len(t.Origins) >= maxOrigins {
		return
	}
	from.Argument, from.State, from.Role = at, state.String(), what
	t.Origins = append(t.Origins, from)
}

// labelOf puts a state into the words of labels.
func labelOf(s Grade, from ostiary.Origin) ostiary.Label {
	l := ostiary.Label{Sources: []string{s.String()}}
	switch s {
	case Given, Trusted:
		l.Integrity = ostiary.Trusted
	case Agent, Own:
		l.Integrity = ostiary.FromAgent
	case Delegated:
		l.Integrity = ostiary.Delegated
	}
	if from.Server != "" {
		l.Sources = append(l.Sources, "server:"+from.Server)
	}
	slices.Sort(l.Sources)
	return l
}

// fallback is the state of a value nobody looked for.
func (x *Index) fallback() Grade {
	if x.tainted || x.full {
		return Unclear
	}
	return Agent
}

// targets returns the records that the call's own objects name, as
// "result/record" pairs: what else is said of them may be used for arithmetic.
func (x *Index) targets(p *Profile, args ostiary.Value) map[uint32]bool {
	var out map[uint32]bool
	leaves(p, args, func(arg, _, text string, kind ostiary.ValueKind) bool {
		if r := p.Role(arg); r == Amount || r == Content || r == Plain && kind != ostiary.Number || isSwitch(kind) {
			return true
		}
		x.scan.read(text)
		hits, _ := x.corpus.find(&x.scan)
		for _, h := range hits {
			if h.whole && x.corpus.spans[h.span].kind == fieldWhole {
				if out == nil {
					out = map[uint32]bool{}
				}
				out[x.corpus.spans[h.span].record] = true
			}
		}
		return true
	})
	return out
}

// least returns the least grade among the values of a call: a result is worth
// no more than what it may repeat. Numbers and the like that decide nothing do
// not count, for they are looked at again where they decide something.
func (x *Index) least(p *Profile, task *Task, args ostiary.Value) Grade {
	least, n := Given, 0
	leaves(p, args, func(arg, _, text string, kind ostiary.ValueKind) bool {
		role := p.Role(arg)
		if strings.TrimSpace(text) == "" || role == Plain && kind != ostiary.String {
			return true
		}
		if n++; n > maxLeaves {
			least = min(least, x.fallback())
			return false
		}
		if isSwitch(kind) {
			return true
		}
		q := question{x: x, p: p, task: task, arg: arg, role: role, text: text}
		state, _ := q.answer()
		least = min(least, state)
		if role == Content {
			q.inside(func(_ string, state Grade, _ ostiary.Origin) { least = min(least, state) })
		}
		return true
	})
	return least
}

// wrote remembers a value that the agent wrote, and that is not surely its
// own: a source that was given it may say it again.
func (x *Index) wrote(text string) {
	if x.unsent = x.unsent || x.sent.size() > maxSent || len(text) > maxSent; x.unsent {
		return
	}
	var s scan
	f := field{kind: fieldProse, text: text}
	x.sent.add(&s, 0, f)
	x.encoded(x.sent, 0, &f)
}
