package approval

import (
	"bytes"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/deferred"
)

// Edit narrows one place of an action's arguments: it lowers a number towards
// zero, or drops an element of a list or a member of an object. There is no
// other way to change what was asked for, so nothing can become more, other
// than what leaving something out means to the tool; whether that is still
// allowed, its schema, the mandate and policy say again.
type Edit struct {
	Pointer string `json:"pointer"`      // JSON Pointer (RFC 6901) into the arguments as they stand
	To      string `json:"to,omitempty"` // the lower number, as JSON writes it; "" drops
	Drop    bool   `json:"drop,omitempty"`
}

// Narrow returns the action with its arguments narrowed, as bytes of its own.
// All that is not edited stays byte for byte. Pointers are into the arguments
// as they are, also where an edit before drops an element. Malformed, with the
// pointer as its field, for an edit that is none.
func Narrow(a *ostiary.Action, edits []Edit) (ostiary.Action, error) {
	if len(edits) == 0 || len(edits) > MaxEdits {
		return ostiary.Action{}, badEdit("", "a narrowing changes 1 to %d places", MaxEdits)
	}
	text := bytes.Clone(a.Arguments.Bytes())
	args, err := deferred.Arguments(text)
	if err != nil {
		return ostiary.Action{}, err
	}
	cuts := make([]cut, 0, len(edits))
	for _, e := range edits {
		c, err := cutOf(args, e)
		if err != nil {
			return ostiary.Action{}, err
		}
		cuts = append(cuts, c)
	}
	slices.SortFunc(cuts, func(a, b cut) int { return b.at - a.at })
	for i := 1; i < len(cuts); i++ {
		if cuts[i].end > cuts[i-1].at {
			return ostiary.Action{}, badEdit(cuts[i-1].edit.Pointer, "two edits are of the same place")
		}
	}
	// From the end to the beginning, so that what is still to be edited stays
	// where it is. Each text is read again: commas move when an element goes.
	for _, c := range cuts {
		if text, err = c.apply(text); err != nil {
			return ostiary.Action{}, err
		}
	}
	next := *a
	if next.Arguments, err = deferred.Arguments(text); err != nil {
		return ostiary.Action{}, err
	}
	next.Rewritten = true
	return next, nil
}

func badEdit(pointer, format string, args ...any) error {
	return ostiary.Errorf(ostiary.Malformed, "narrowing", format, args...).At(pointer)
}

// cut is an edit with the place of its value.
type cut struct {
	edit    Edit
	at, end int
}

func cutOf(args ostiary.Value, e Edit) (cut, error) {
	v := args.Find(e.Pointer)
	switch {
	case !v.Exists():
		return cut{}, badEdit(e.Pointer, "there is nothing at %.200q", e.Pointer)
	case e.Drop == (e.To != ""):
		return cut{}, badEdit(e.Pointer, "say either what it becomes or that it is dropped")
	case !e.Drop && v.Kind() != ostiary.Number:
		return cut{}, badEdit(e.Pointer, "only a number can be lowered; drop it, or refuse the action")
	case !e.Drop && !ostiary.LowerNumber(e.To, v.Literal()):
		return cut{}, badEdit(e.Pointer, "%.80q is not a plain number between zero and %.80s", e.To, v.Literal())
	}
	at, end := v.Span()
	return cut{e, at, end}, nil
}

func (c cut) apply(text []byte) ([]byte, error) {
	if !c.edit.Drop {
		return slices.Concat(text[:c.at], []byte(c.edit.To), text[c.end:]), nil
	}
	args, err := deferred.Arguments(text)
	if err != nil {
		return nil, err
	}
	from, to := c.at, c.end
	last := strings.LastIndexByte(c.edit.Pointer, '/')
	parent := args
	if last > 0 {
		parent = args.Find(c.edit.Pointer[:last])
	}
	before, after := -1, -1 // the end of what is before it, the beginning of what is after
	place := func(start, end, valueStart int) {
		switch {
		case valueStart == c.at:
			from = start
		case end <= c.at:
			before = end
		case after < 0 && start >= c.end:
			after = start
		}
	}
	for name, v := range parent.Pairs() {
		s, _ := name.Span()
		vs, e := v.Span()
		place(s, e, vs)
	}
	for _, v := range parent.Elements() {
		s, e := v.Span()
		place(s, e, s)
	}
	switch { // with the one comma that belongs to it
	case before >= 0:
		from = before
	case after >= 0:
		to = after
	}
	return slices.Concat(text[:from], text[to:]), nil
}
