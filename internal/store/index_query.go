package store

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// question is a filter, checked, in the index's own terms.
type question struct {
	f      *ledger.Filter
	limit  int
	wanted []wanted
	marks  *[256]bool // which marks fit; nil for all
	id     ostiary.EntryID
	links  []int // how id is linked; nil if none is asked for
}

// wanted is a value that must stand in one of some words of a column.
type wanted struct {
	column int
	words  []int
	print  uint32
}

// ask reads a filter.
func ask(f *ledger.Filter) (*question, error) {
	q := &question{f: f, limit: cmp.Or(f.Limit, defaultRows)}
	if q.limit < 0 || q.limit > maxRows {
		return nil, ostiary.Errorf(ostiary.Malformed, "limit", "a limit is between 1 and %d", maxRows).At("limit")
	}
	if len(f.Kinds) > maxKinds {
		return nil, ostiary.Errorf(ostiary.Malformed, "too_large", "more than %d kinds", maxKinds)
	}
	want := func(v string, column int, words ...int) {
		if v != "" {
			q.wanted = append(q.wanted, wanted{column, words, fingerprint(v)})
		}
	}
	want(f.Session, columnSession, 0)
	if strings.Contains(f.Agent, "://") {
		want(f.Agent, columnAgent, 0)
	} else {
		want(f.Agent, columnAgent, 1)
	}
	want(f.Action, columnAction, 0, 1)
	want(f.Server, columnAction, 2)
	want(f.Principal, columnPerson, 0)
	want(f.Code, columnCode, 0)
	switch {
	case !f.ID.IsZero():
		q.id, q.links = f.ID, []int{linkID}
	case !f.Answers.IsZero():
		q.id, q.links = f.Answers, []int{linkOutcome, linkAnswers, linkParent}
	}
	if len(f.Kinds) > 0 || f.Permit != nil || f.Disposition != nil {
		q.marks = new([256]bool)
		for m := range q.marks {
			q.marks[m] = (len(f.Kinds) == 0 || slices.Contains(f.Kinds, ostiary.EntryKind(m>>4))) &&
				(f.Disposition == nil || *f.Disposition == ostiary.Disposition(m>>1&7)) &&
				(f.Permit == nil || *f.Permit == (m&1 == 1))
		}
	}
	return q, nil
}

// admits reports whether an entry fits, whatever led to it. Only Latest is
// not asked here.
func (q *question) admits(e *ostiary.Entry) bool {
	f := q.f
	is := func(v, want string) bool { return want == "" || v == want }
	agent := f.Agent == "" || e.Agent.Name() != "" && (string(e.Agent) == f.Agent || e.Agent.Name() == f.Agent)
	if strings.Contains(f.Agent, "://") {
		agent = string(e.Agent) == f.Agent && e.Agent.Name() != ""
	}
	tool := toolOf(e)
	return agent &&
		(f.Action == "" || tool != "" && (tool == f.Action || e.Action == f.Action)) &&
		is(string(e.Session), f.Session) && is(string(e.Principal), f.Principal) && is(e.Server, f.Server) && is(e.Code, f.Code) &&
		(f.Except == "" || e.Action != f.Except) &&
		(q.marks == nil || q.marks[markOf(e)]) &&
		(f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until)) &&
		(f.ID.IsZero() || e.ID == f.ID) &&
		(f.Answers.IsZero() || e.Answers == f.Answers || e.Parent == f.Answers)
}

// parted is a block as queries see it: some in memory, most in the file.
type parted interface {
	part(number int) ([]byte, error)
	// linked returns the places that an id leads to, as one of these links.
	linked(id ostiary.EntryID, kinds ...int) ([]int, error)
}

// choose leaves in set, which holds places of a block of n entries, those that
// may fit.
func (q *question) choose(p parted, n int, set *places) error {
	for i := range q.wanted {
		if err := q.wanted[i].choose(p, n, set); err != nil || *set == (places{}) {
			return err
		}
	}
	if !q.f.Since.IsZero() || !q.f.Until.IsZero() {
		b, err := p.part(partTimes)
		if err != nil {
			return err
		}
		if len(b) != (n+timesEach-1)/timesEach*8 {
			return errPart()
		}
		from, to := q.span(b, n)
		set.keep(from, to)
	}
	if q.marks != nil {
		b, err := p.part(partMarks)
		if err != nil {
			return err
		}
		if len(b) != n {
			return errPart()
		}
		for i, m := range b {
			if !q.marks[m] {
				set[i/64] &^= 1 << (i % 64)
			}
		}
	}
	if q.f.Latest {
		b, err := p.part(partAnswered)
		if err != nil {
			return err
		}
		if len(b) != len(set)*8 {
			return errPart()
		}
		for i := range set {
			set[i] &^= binary.LittleEndian.Uint64(b[8*i:])
		}
	}
	return nil
}

// span returns which places can be inside the time asked for. Recorded time
// never falls within a log.
func (q *question) span(times []byte, n int) (from, to int) {
	to = n
	for k := range len(times) / 8 {
		t := int64(binary.LittleEndian.Uint64(times[8*k:]))
		if !q.f.Since.IsZero() && t < nanos(q.f.Since) {
			from = k * timesEach
		}
		if !q.f.Until.IsZero() && t >= nanos(q.f.Until) {
			return from, min(to, k*timesEach)
		}
	}
	return from, to
}

func (w *wanted) choose(p parted, n int, set *places) error {
	b, err := p.part(partWords + w.column)
	if err != nil {
		return err
	}
	const size = columnWords * 4
	if len(b)%size != 0 || len(b) > n*size {
		return errPart()
	}
	var codes [blockEntries]bool
	found := false
	for code := range len(b) / size {
		for _, k := range w.words {
			if binary.LittleEndian.Uint32(b[code*size+4*k:]) == w.print {
				codes[code], found = true, true
			}
		}
	}
	if !found {
		*set = places{}
		return nil
	}
	if b, err = p.part(partCodes + w.column); err != nil {
		return err
	}
	if len(b) != 2*n {
		return errPart()
	}
	for i := range n {
		code := binary.LittleEndian.Uint16(b[2*i:])
		if code >= blockEntries {
			return errPart()
		}
		if !codes[code] {
			set[i/64] &^= 1 << (i % 64)
		}
	}
	return nil
}
