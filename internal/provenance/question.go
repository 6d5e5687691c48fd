package provenance

import (
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

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
