// Package mcpwire is the Model Context Protocol as bytes: JSON-RPC 2.0
// envelopes, the headers that mirror them, and server-sent events.
//
// It guarantees that a message it returns has exactly the members its kind
// has, that ids are strings or safe integers, and that what it writes stays
// one message, one header value, one event, whatever text is inside. Values
// are views of the bytes that arrived (law 2): the writers here copy them,
// they never encode a value again.
//
// It trusts strictjson for everything below the envelope. It does not know
// who may send which method, which revision is spoken, or what parameters
// mean; that is the door's and egress's business. It performs no I/O beyond
// the reader that an [EventReader] is given.
//
// See the Model Context Protocol, revisions 2026-07-28 to 2025-03-26, the
// JSON-RPC 2.0 specification, and the HTML standard, section "Server-sent
// events".
package mcpwire

import (
	"strconv"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Kind is which of JSON-RPC's four messages one is. The zero Kind is none.
type Kind uint8

const (
	None         Kind = iota
	Request           // method and id
	Notification      // method, no id
	Result            // id and result
	Error             // error, and the id it answers if the sender knew it
)

var kindNames = [...]string{"none", "request", "notification", "result", "error"}

// String returns the kind's name for logs and entries.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[None]
}

// Message is one envelope. Its values are views of Doc.
type Message struct {
	Kind   Kind
	ID     ostiary.Value // Absent in a Notification, and in an Error whose sender did not know it
	Method string        // of a Request or Notification
	Params ostiary.Value // an Object, or Absent
	Result ostiary.Value // of a Result: an Object
	Error  ostiary.Value // of an Error: an Object with an integer code and a string message
	Doc    *ostiary.Document
}

const (
	// MaxID is the most bytes an id may have as written. Ours have under
	// twenty, those of SDKs up to 36; an id is kept for as long as its
	// call runs and is echoed, so it must be small.
	MaxID = 256
	// MaxMethod is the most bytes of a method. The longest known has 40.
	MaxMethod = 128
	// MaxSafeInteger is the largest integer that every reader of JSON has
	// exactly: ids beyond it become one id in readers that use floats.
	MaxSafeInteger = 1<<53 - 1
)

// Parse reads one message. It takes ownership of b. Errors are *ostiary.Error
// of kind Malformed: those of strictjson, or about the envelope with one of
// the codes batch, envelope, version, unknown_member, id, method, both,
// params, result, error. When the envelope is wrong but its id can be told,
// the Message returned beside the error has that ID and nothing else, so that
// the refusal can be addressed.
func Parse(b []byte, l strictjson.Limits) (Message, error) {
	doc, err := strictjson.Parse(b, l)
	if err != nil {
		return Message{}, err
	}
	root := doc.Root()
	switch root.Kind() {
	case ostiary.Object:
	case ostiary.Array:
		return Message{}, ostiary.Errorf(ostiary.Malformed, "batch", "batches are not accepted: send one message at a time")
	default:
		return Message{}, ostiary.Errorf(ostiary.Malformed, "envelope", "a message is an object")
	}
	m := Message{Doc: doc}
	if err := m.read(root); err != nil {
		var addressed Message
		if ValidID(m.ID) {
			addressed.ID = m.ID
		}
		return addressed, err
	}
	return m, nil
}

// read fills in m. Names in root are distinct, also under case folding, so
// each case below runs once at most.
func (m *Message) read(root ostiary.Value) error {
	var version, method ostiary.Value
	var unknown string
	known := true
	for name, v := range root.Members() {
		switch name {
		case "jsonrpc":
			version = v
		case "id":
			m.ID = v
		case "method":
			method = v
		case "params":
			m.Params = v
		case "result":
			m.Result = v
		case "error":
			m.Error = v
		default:
			if known {
				unknown, known = name, false
			}
		}
	}
	switch {
	case !known:
		return bad("unknown_member", unknown, "a message has no member of this name")
	case !version.Is("2.0"):
		return bad("version", "jsonrpc", `jsonrpc must be "2.0"`)
	case method.Exists():
		return m.asked(method)
	case m.Params.Exists():
		return bad("method", "method", "params without a method")
	default:
		return m.answered()
	}
}

// asked checks a Request or Notification.
func (m *Message) asked(method ostiary.Value) error {
	switch {
	case m.Result.Exists():
		return bad("both", "result", "a message has a method or a result, not both")
	case m.Error.Exists():
		return bad("both", "error", "a message has a method or an error, not both")
	case method.Kind() != ostiary.String || method.Is("") || len(method.Bytes()) > MaxMethod+2:
		return bad("method", "method", "method must be a string of 1 to %d bytes", MaxMethod)
	case m.Params.Exists() && m.Params.Kind() != ostiary.Object:
		return bad("params", "params", "params must be an object")
	case m.ID.Exists() && !ValidID(m.ID):
		return badID()
	}
	m.Method = method.Text()
	m.Kind = Request
	if !m.ID.Exists() {
		m.Kind = Notification
	}
	return nil
}

// answered checks a Result or Error.
func (m *Message) answered() error {
	switch {
	case m.Result.Exists() && m.Error.Exists():
		return bad("both", "error", "a message has a result or an error, not both")
	case m.Result.Exists():
		if !ValidID(m.ID) {
			return badID()
		}
		if m.Result.Kind() != ostiary.Object {
			return bad("result", "result", "result must be an object")
		}
		m.Kind = Result
		return nil
	case m.Error.Exists():
		return m.failed()
	default:
		return bad("envelope", "", "a message has a method, a result or an error")
	}
}

// failed checks an Error. A sender that could not read the id answers with
// null or with none (JSON-RPC 2.0, section 5).
func (m *Message) failed() error {
	if m.ID.Kind() == ostiary.Null {
		m.ID = ostiary.Value{}
	}
	if m.ID.Exists() && !ValidID(m.ID) {
		return badID()
	}
	code, ok := m.Error.Get("code").Int()
	if !ok || code > MaxSafeInteger || code < -MaxSafeInteger || m.Error.Get("message").Kind() != ostiary.String {
		return bad("error", "error", "error must be an object with an integer code and a message")
	}
	m.Kind = Error
	return nil
}

// ValidID reports whether v may be an id: a string, or an integer written as
// one, that every reader has exactly.
func ValidID(v ostiary.Value) bool {
	switch v.Kind() {
	case ostiary.String:
		return len(v.Bytes()) <= MaxID
	case ostiary.Number:
		n, ok := v.Int()
		return ok && n <= MaxSafeInteger && n >= -MaxSafeInteger
	default:
		return false
	}
}

// SameID reports whether two ids are equal. A string never equals a number.
func SameID(a, b ostiary.Value) bool {
	switch {
	case !ValidID(a) || !ValidID(b) || a.Kind() != b.Kind():
		return false
	case a.Kind() == ostiary.String:
		return a.Text() == b.Text()
	default:
		return a.Literal() == b.Literal() // one integer has one literal: no plus, no leading zeros, no -0
	}
}

// OneLine reports whether a message may go over stdio as it is: it holds no
// CR or LF. Strings cannot hold them bare, so only white space between tokens
// can make this false.
func OneLine(b []byte) bool {
	for _, c := range b {
		if c == '\n' || c == '\r' {
			return false
		}
	}
	return true
}

func bad(code, field, format string, args ...any) *ostiary.Error {
	err := ostiary.Errorf(ostiary.Malformed, code, format, args...)
	if field == "" {
		return err
	}
	return err.At(ostiary.Pointer("", field))
}

func badID() *ostiary.Error {
	return bad("id", "id", "id must be a string of at most %d bytes or an integer within ±%s",
		MaxID-2, strconv.Itoa(MaxSafeInteger))
}
