package ostiary

import (
	"errors"
	"fmt"
	"runtime"
)

// Kind classifies what went wrong. The list is closed and never reordered:
// each door maps all of it to its protocol in one table.
type Kind uint8

const (
	Internal        Kind = iota // nobody classified it; a bug
	Malformed                   // cannot be parsed, or over a limit
	Unauthenticated             // no subject, or a stale proof
	Denied                      // policy or mandate says no
	Contained                   // containment forbids
	Exhausted                   // budget or rate
	Conflict                    // key reused, clearance spent, version moved
	NotFound                    // absent or not visible, alike
	Unavailable                 // store, ledger or snapshot cannot answer
	Upstream                    // the far side failed after clearance
	Corrupt                     // a proof or a row does not verify
)

// Kinds lists every kind, for tables that must be complete.
var Kinds = []Kind{Internal, Malformed, Unauthenticated, Denied, Contained, Exhausted, Conflict, NotFound, Unavailable, Upstream, Corrupt}

var kindNames = [...]string{"internal", "malformed", "unauthenticated", "denied", "contained", "exhausted", "conflict", "notfound", "unavailable", "upstream", "corrupt"}

// String returns the kind's name as it stands in logs, entries and replies.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// Error is the one error type that crosses a floor with a meaning. Detail may
// be shown to the caller, Err never: it is for our own log.
type Error struct {
	Kind     Kind
	Code     string   // stable word for programs, for example "duplicate_key"
	Field    string   // what was wrong: a JSON Pointer, header name or configuration key
	Detail   string   // a sentence for people and models; safe to show
	Reasons  []Reason // for Denied: which rules decided, as far as policy lets them out
	Remedies []Remedy // for Denied: what would change the answer
	Entry    EntryRef // the ledger entry that records the refusal, once there is one
	Err      error    // the cause; never shown
}

// Errorf makes an Error whose Detail is the formatted text, so its arguments
// must be safe to show. Use [Error.Because] to attach a cause that is not.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// At names the field the error is about and returns e.
func (e *Error) At(field string) *Error { e.Field = field; return e }

// Because attaches the cause and returns e.
func (e *Error) Because(err error) *Error { e.Err = err; return e }

// Error is for our own logs: it includes the cause. What a caller may see is
// Detail, with Field and Code.
func (e *Error) Error() string {
	s := e.Kind.String()
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Field != "" {
		s += " at " + e.Field
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, which no caller is shown.
func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error. What nobody classified becomes Internal
// and keeps its text as a cause, out of the caller's sight.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Code: "internal", Detail: "internal error", Err: err}
}

// KindOf returns the kind of err, Internal when nobody classified it or there
// is none: ask only about an error.
func KindOf(err error) Kind {
	if err == nil {
		return Internal
	}
	return AsError(err).Kind
}

// Panicked describes a recovered panic by what cannot hold a secret: the text
// of an error of the Go runtime, which tells of types, indexes and lengths, and
// of anything else its type alone. Whoever panicked may have put an argument or
// a key into the rest. A stack tells where it was.
func Panicked(p any) error {
	if e, ok := p.(runtime.Error); ok {
		return fmt.Errorf("panic: %s", e.Error())
	}
	return fmt.Errorf("panic with a %T", p)
}
