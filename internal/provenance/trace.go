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

type anchor struct {
	ok   bool
	word hash // what picked it out
}

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

// question is one value of a call, and who asks.
type question struct {
	x      *Index
	p      *Profile
	task   *Task
	arg    string
	role   Role
	text   string
	target map[uint32]bool
	scan   scan
	// embedded: it stands inside a text that is passed on
	embedded bool
	compared int // places whose other candidates were looked at
	// looked: it was looked for among what the agent wrote before, and found
	looked, found bool
}

// answer says where the value came from, and remembers it.
func (q *question) answer() (Grade, ostiary.Origin) {
	q.scan.read(q.text)
	k := memoKey{q.p.Server, q.p.Tool, q.arg, q.role, q.scan.text}
	if m, ok := q.x.memos[k]; ok && (m.state == Agent || m.state == Given || m.state == Delegated) {
		return m.state, m.from
	}
	state, from := q.look()
	if !q.x.looking && len(q.x.memos) < maxMemos && len(q.scan.text) <= 512 {
		q.x.memos[k] = memo{state, from}
	}
	return state, from
}

func (q *question) look() (Grade, ostiary.Origin) {
	x := q.x
	if q.task.says(&q.scan) || q.role == Permission && q.task.abbreviated(&q.scan) {
		return Given, ostiary.Origin{}
	}
	if len(q.scan.words) == 0 {
		return Agent, ostiary.Origin{}
	}
	if q.own() {
		return Own, ostiary.Origin{How: "labels"}
	}
	hits, many := x.corpus.find(&q.scan)
	if many {
		if len(hits) == 0 {
			return Untrusted, ostiary.Origin{How: "everywhere"}
		}
		return Untrusted, x.origin(hits[0], "everywhere")
	}
	best, from := Agent, ostiary.Origin{}
	switch {
	case len(hits) > 0:
		best, from = q.judge(hits)
	case x.full:
		return Unclear, ostiary.Origin{How: "not kept"}
	case q.role == Content && len(q.scan.words) > shingle:
		best, from = q.shingles()
	case q.role == Plain:
		best = x.fallback()
	default:
		if hits = x.host(&q.scan); len(hits) > 0 { // a link that was given something more to carry
			best, from = Untrusted, x.origin(hits[0], "host")
		} else if hits = x.corpus.edited(&q.scan, q.text); len(hits) > 0 {
			if best, from = q.judge(hits); best > Untrusted && hits[0].how != "url" && (best != Trusted || hits[0].how != "encoded") {
				best = Unclear // a value that was changed is nobody's field
			}
		} else {
			best = x.fallback()
		}
	}
	if q.role == Amount && best <= Field && q.derived() {
		best, from.How = Delegated, "computed"
	}
	return best, from
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

// sent reports whether the agent wrote the value before, and not surely of
// its own.
func (q *question) sent() bool {
	x := q.x
	if x.unsent || len(x.sent.spans) == 0 {
		return x.unsent
	}
	if !q.looked {
		hits, many := x.sent.find(&q.scan)
		q.looked, q.found = true, many || len(hits) > 0 || len(x.sent.edited(&q.scan, q.text)) > 0
	}
	return q.found
}

// own reports whether the labels say that the value is an address of the
// account itself.
func (q *question) own() bool {
	h, _, ok := q.scan.sole()
	return ok && slices.Contains(q.p.ownValues, h)
}

// host finds content that shows a link to the host of a link.
func (x *Index) host(s *scan) []hit {
	if len(s.marks) == 0 || s.marks[0].kind != markLink || s.marks[0].first != 0 || int(s.marks[0].last) != len(s.words)-1 {
		return nil
	}
	for i := range s.marks {
		if s.marks[i].kind == markHost {
			hits, _ := x.corpus.findMark(nil, s.marks[i].hash, "host")
			return hits[:min(len(hits), 1)]
		}
	}
	return nil
}

// abbreviated reports whether a short word of a closed list stands for a word
// of the task: "r" for "read".
func (t *Task) abbreviated(s *scan) bool {
	if t == nil || len(s.words) != 1 {
		return false
	}
	w := s.textOf(0)
	for _, have := range t.words {
		if strings.HasPrefix(have, w) && len(have) > len(w) && (len(verbs[have]) > 0 || len(w) > 2) {
			return true
		}
	}
	return false
}

// judge weighs the places where a value stands. What free text says joins
// with everything else, unless the task picks out the very field.
func (q *question) judge(hits []hit) (Grade, ostiary.Origin) {
	x := q.x
	state, at := Given, hit{}
	for _, h := range hits {
		sp := &x.corpus.spans[h.span]
		r := &x.results[sp.result]
		s := Untrusted
		switch {
		case r.trusted && !x.corpus.wholly(&q.scan, h):
			continue // it says another
		case r.trusted && q.sent():
			s = Unclear // what it was told, it may say again
		case r.trusted:
			s = Trusted
		case h.inner && len(q.scan.text) < 6:
			continue // a piece of a date or an address
		case q.delegated(h, sp, r):
			if q.role != Object {
				return Delegated, x.origin(h, h.how)
			}
			s = Delegated // free text elsewhere may still point at it
		case h.whole && r.own && (r.profile.Own && !r.speaks && sp.within < inString || r.profile.shelters(sp)) && !q.sent():
			s = Own
		case h.whole && sp.kind != fieldProse:
			s = Field
		case short(&q.scan) && !x.names(h, sp):
			continue // a number that happens to stand in a text
		}
		if s < state {
			state, at = s, h
		}
	}
	if state == Given {
		return x.fallback(), ostiary.Origin{}
	}
	return state, x.origin(at, at.how)
}

// common reports whether most records of a result hold the value, so that it
// picks out none of them: the account's own address, say. It only ever takes
// away: who writes records decides what most of them say.
func (r *result) common(sp *span) bool {
	return r.records >= 3 && r.rows[sp.only]*2 > r.records || r.records == 2 && r.rows[sp.only] == 2
}

// short reports whether a value is so short that it stands in texts by chance.
func short(s *scan) bool {
	return len(s.words) == 1 && len(s.text) <= 3 && s.words[0].digits
}

// names reports whether a short value in free text is named there: "file 13",
// "id: '13'".
func (x *Index) names(h hit, sp *span) bool {
	for k := h.at; k > sp.from && k+4 > h.at; k-- {
		if idWords[x.corpus.words[k-1].hash] {
			return true
		}
	}
	return false
}

var idWords = func() map[hash]bool {
	m := map[hash]bool{}
	for _, w := range strings.Fields("id ids id_ number no nr num file email event message order product transaction invoice item document record row entry issue ticket user account") {
		m[hashOf(markWord, w)] = true
	}
	return m
}()

// delegated reports whether the task's own words pick out the place where a
// value stands.
func (q *question) delegated(h hit, sp *span, r *result) bool {
	if !q.task.Given() || q.role == Credential || h.how == "combined" || !q.x.corpus.wholly(&q.scan, h) {
		return false
	}
	x := q.x
	a := x.anchored(q.task, sp.record, r)
	switch {
	case h.whole && (sp.kind == fieldWhole || sp.kind == fieldKey):
		return a.ok && (q.role != Destination && q.role != Permission || q.only(sp, a))
	case r.speaks || r.named == notNamed && !a.ok:
		return false
	case h.whole && sp.kind == fieldLine:
		return q.role != Permission && (q.role != Destination || q.only(sp, a))
	}
	direct := r.named == byTask || a.word != 0 // not at the end of a chain of links
	link := q.has(markLink)
	switch {
	case q.embedded:
		return false
	case q.role == Location || q.role == Destination && link:
		if r.host != "" { // it stands on a page
			return q.sameSite(r)
		}
		asked := q.task.links || q.task.verbs["download"]
		if q.role == Destination { // something is sent there
			asked = q.task.follows
		}
		return direct && asked && q.sole(sp.record, r, markHost)
	case q.role == Destination && q.has(markEmail):
		return q.task.follows && q.sole(sp.record, r, markEmail) && (direct || q.introduced())
	}
	switch q.role {
	case Amount:
		return true
	case Destination:
		return q.task.follows && direct && !q.has(markCompact)
	case Object:
		return q.task.follows && direct && !q.p.destroys()
	case Content:
		return q.task.follows || r.named != notNamed
	}
	return false
}

// sole reports whether a record holds no second mark of a kind.
func (q *question) sole(record uint32, r *result, kind byte) bool {
	c := q.x.corpus
	var seen hash
	for i := r.within[record][0]; i < r.within[record][1]; i++ {
		sp := &c.spans[i]
		if sp.record != record || sp.kind == fieldLine {
			continue
		}
		for m := sp.mark; m < sp.markTo; m++ {
			if c.marks[m].kind != kind || kind == markHost && q.x.inAddress(m) {
				continue
			}
			if seen != 0 && seen != c.marks[m].hash {
				return false
			}
			seen = c.marks[m].hash
		}
	}
	return true
}

// inAddress reports whether a host is that of an e-mail address.
func (x *Index) inAddress(m uint32) bool {
	return m > 0 && x.corpus.marks[m-1].kind == markEmail && x.corpus.marks[m-1].span == x.corpus.marks[m].span && x.corpus.marks[m-1].to == x.corpus.marks[m].to
}

// sameSite reports whether a link leads to where it stands.
func (q *question) sameSite(r *result) bool {
	for i := range q.scan.marks {
		if m := &q.scan.marks[i]; m.kind == markHost {
			return r.host != "" && q.scan.text[m.start:m.end] == r.host
		}
	}
	return false
}

func (q *question) has(kind byte) bool {
	return slices.ContainsFunc(q.scan.marks, func(m mark) bool { return m.kind == kind })
}

// introduced reports whether a name in an address stands in content that the
// task itself picks out: "invite Dora, see her page", and on the page
// dora@....
func (q *question) introduced() bool {
	c := q.x.corpus
	at := strings.IndexByte(q.scan.text, '@')
	for i := range q.scan.words {
		w := &q.scan.words[i]
		if int(w.end) > at || w.end-w.start < 3 || commonHash[w.hash] {
			continue
		}
		for p, n := c.heads[w.hash].last, 0; p > 0 && n < maxHits; n++ {
			sp := &c.spans[c.words[p-1].in()]
			r := &q.x.results[sp.result]
			if a := q.x.anchored(q.task, sp.record, r); !r.speaks && r.host == "" && a.word != 0 {
				return true
			}
			p = c.words[p-1].prev
		}
	}
	return false
}

// anchored reports whether the task names a record: one of its fields, other
// than those all records share and what a string makes look like one, holds a name from the task, or is wholly said
// by it.
func (x *Index) anchored(task *Task, record uint32, r *result) anchor {
	if a, ok := r.anchors[record]; ok {
		return a
	}
	a := anchor{}
	for i := r.within[record][0]; i < r.within[record][1] && !a.ok; i++ {
		sp := &x.corpus.spans[i]
		if sp.record != record || sp.kind == fieldProse || sp.within == inString || r.common(sp) {
			continue
		}
		if w, ok := x.picked(task, sp); ok {
			a = anchor{true, w}
		}
	}
	if !a.ok && r.named != notNamed && r.records <= 1 {
		a = anchor{ok: true}
	}
	r.anchors[record] = a
	return a
}

// picked reports whether the task's words pick out a field.
func (x *Index) picked(task *Task, sp *span) (hash, bool) {
	words := x.corpus.words[sp.from:sp.to]
	for i := range words {
		if task.names[words[i].hash] {
			return words[i].hash, true
		}
	}
	if len(words) == 0 || len(words) > 12 {
		return 0, false
	}
	said, telling := true, false
	for i := range words {
		said = said && task.said.heads[words[i].hash].count > 0
		telling = telling || !commonHash[words[i].hash]
	}
	return words[0].hash, said && telling
}

var commonHash = func() map[hash]bool {
	m := map[hash]bool{}
	for w := range common {
		m[hashOf(markWord, w)] = true
	}
	for _, n := range "0123456789" {
		m[hashOf(markWord, string(n))] = true
	}
	return m
}()

// maxCompared bounds in how many places of one value the other candidates are
// looked at; what stands in more of them is no delegation.
const maxCompared = 16

// only reports whether a value is the one candidate: no other record that the
// task picks out by the same word says something else in the same field.
func (q *question) only(sp *span, a anchor) bool {
	x, task := q.x, q.task
	if q.compared++; q.compared > maxCompared {
		return false
	}
	for i := range x.corpus.spans {
		o := &x.corpus.spans[i]
		if o.kind != sp.kind || o.only == sp.only || o.name != sp.name || indexed(sp.path) && o.record == sp.record {
			continue
		}
		r := &x.results[o.result]
		if b := x.anchored(task, o.record, r); b.ok && b.word == a.word && sameKind(x.corpus, sp, o) {
			return false
		}
	}
	return true
}

func sameKind(c *corpus, a, b *span) bool {
	return kindsOf(c, a) == kindsOf(c, b)
}

func kindsOf(c *corpus, s *span) byte {
	if s.mark == s.markTo {
		return 0
	}
	return c.marks[s.mark].kind
}

// lastName is the last part of a path that is no index.
func lastName(path string) string {
	for path != "" {
		i := strings.LastIndexByte(path, '/')
		if last := path[i+1:]; !allDigits(last) {
			return last
		}
		path = path[:max(i, 0)]
	}
	return ""
}

// indexed reports whether a path ends in an index.
func indexed(path string) bool {
	return allDigits(path[strings.LastIndexByte(path, '/')+1:])
}

// maxOperands bounds the numbers that arithmetic is tried with.
const maxOperands = 64

// derived reports whether an amount is the sum or the difference of two
// numbers, of which one stands in the record that the call acts on or that the
// task picks out, and the other in content that the task names, or in the
// task.
func (q *question) derived() bool {
	x := q.x
	v, ok := cents(q.scan.text)
	if !ok {
		return false
	}
	var base, delta []int64
	for i := range x.corpus.spans {
		sp := &x.corpus.spans[i]
		r := &x.results[sp.result]
		if q.target[sp.record] && sp.kind == fieldWhole && sp.to == sp.from+1 {
			base = x.number(base, sp.from)
		}
		if r.named != notNamed && !r.speaks {
			for w := sp.from; w < sp.to && len(delta) < maxOperands; w++ {
				if !x.corpus.words[w].inner() {
					delta = x.number(delta, w)
				}
			}
		}
	}
	if q.task.Given() {
		for _, n := range q.task.said.nums {
			delta = append(delta, n)
		}
	}
	for _, a := range base {
		for _, b := range delta {
			if a+b == v || a-b == v {
				return true
			}
		}
	}
	return false
}

// number adds the number a word is, in hundredths.
func (x *Index) number(to []int64, word uint32) []int64 {
	if len(to) >= maxOperands {
		return to
	}
	if n, ok := x.corpus.nums[x.corpus.words[word].hash]; ok {
		return append(to, n)
	}
	return to
}

// inside looks at the addresses, links and accounts inside a text.
func (q *question) inside(yield func(what string, state Grade, from ostiary.Origin)) {
	if len(q.scan.words) <= 1 && len(q.scan.marks) == 0 {
		return
	}
	seen := 0
	marks := slices.Clone(q.scan.marks)
	text := q.scan.text
	longest := map[uint32]bool{}
	for i := range marks {
		m := &marks[i]
		if seen >= maxLeaves {
			return
		}
		what := map[byte]string{markEmail: "address", markLink: "link", markCompact: "account"}[m.kind]
		if what == "" || longest[m.first] {
			continue
		}
		longest[m.first] = true
		seen++
		in := question{x: q.x, p: q.p, task: q.task, arg: q.arg, role: Destination, text: text[m.start:m.end], embedded: true}
		if what == "link" {
			in.role = Location
		}
		state, from := in.answer()
		yield(what, state, from)
	}
}

// shingle is how many words in a row make it unlikely that two texts share
// them by chance.
const shingle = 6

// maxShingles bounds how many places of a long text are compared.
const maxShingles = 256

// shingles finds what a long text has taken over from elsewhere.
func (q *question) shingles() (Grade, ostiary.Origin) {
	n := len(q.scan.words)
	step := max(2, n/maxShingles)
	var found []hit
	for i := 0; i+shingle <= n; i += step {
		if found, _ = q.x.corpus.sequence(found[:0], q.scan.words[i:i+shingle]); len(found) > 0 {
			h := found[len(found)-1]
			h.how = "inside"
			return q.judge([]hit{h})
		}
	}
	return q.x.fallback(), ostiary.Origin{}
}

// origin names the place of a hit.
func (x *Index) origin(h hit, how string) ostiary.Origin {
	sp := &x.corpus.spans[h.span]
	r := &x.results[sp.result]
	return ostiary.Origin{Server: r.server, Tool: r.tool, Step: r.step, Field: sp.path, How: how}
}

// speaks reports whether a text is addressed to an agent rather than to a
// person. It takes delegation away and gives nothing, so a text that talks its
// way past it is where it would be without.
func speaks(s *scan) bool {
	for i := range s.words {
		for _, p := range phrases[s.words[i].hash] {
			if i+len(p) > len(s.words) {
				continue
			}
			same := true
			for k := range p {
				if s.words[i+k].hash != p[k] {
					same = false
					break
				}
			}
			if same {
				return true
			}
		}
	}
	return false
}

var phrases = func() map[hash][][]hash {
	m := map[hash][][]hash{}
	for line := range strings.Lines(`ignore all previous
ignore your previous
ignore previous
ignore the previous
ignore all prior
ignore any previous
disregard all previous
disregard the previous
disregard previous
forget all previous
forget your previous
forget everything
previous instructions
prior instructions
important message from me
important message for you
to you the ai
ai language model
language model
ai assistant
ai agent
the assistant must
the assistant should
as an ai
you are an ai
you are now
system prompt
system message
new instructions
before you can solve
solve the task
your original task
the original task
your current task
the task that i gave
without asking me
without asking the user
without telling the user
do not tell the user
do not mention this
do not inform the user
todo send
todo transfer
todo delete
`) {
		var p []hash
		for _, w := range strings.Fields(line) {
			p = append(p, hashOf(markWord, w))
		}
		if len(p) > 0 {
			m[p[0]] = append(m[p[0]], p)
		}
	}
	return m
}()
