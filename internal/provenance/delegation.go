package provenance

import (
	"slices"
	"strings"
)

type anchor struct {
	ok   bool
	word hash // what picked it out
}

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
