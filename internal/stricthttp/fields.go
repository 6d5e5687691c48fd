package stricthttp

import (
	"bytes"
	"strings"
)

// maxName bounds a header's name; the longest in use have under 50 bytes, and
// a mirrored argument's name comes behind a prefix.
const maxName = 128

// maxFields bounds the memory of names whatever the limits say.
const maxFields = 128

// inspector judges the header fields of one head. It lives on the stack.
type inspector struct {
	limits *Limits
	count  int
	names  [maxFields][]byte // as written
	hashes [maxFields]uint32 // of the names in lower case
	host   bool
	length int64
	sized  bool // there is a Content-Length
	coded  bool // there is a Transfer-Encoding
}

// field judges one line, without its line end.
func (in *inspector) field(line []byte) *refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return &refusedFold
	}
	if in.count >= min(in.limits.Fields, maxFields) {
		return &refusedFields
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || colon > maxName {
		return &refusedName
	}
	var lower [maxName]byte
	hash := uint32(2166136261) // FNV-1a; collisions cost one comparison
	for i, c := range line[:colon] {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
		default:
			return &refusedName
		}
		lower[i] = c
		hash = (hash ^ uint32(c)) * 16777619
	}
	value := line[colon+1:]
	for _, c := range value {
		if (c < ' ' && c != '\t') || c > '~' {
			return &refusedValue
		}
	}
	name := lower[:colon]
	if in.seen(line[:colon], hash) && !repeatable(name) {
		return &refusedRepeated
	}
	in.names[in.count], in.hashes[in.count] = line[:colon], hash
	in.count++
	return in.decide(name, bytes.Trim(value, " \t"))
}

func (in *inspector) seen(name []byte, hash uint32) bool {
	for i := range in.count {
		if in.hashes[i] == hash && bytes.EqualFold(in.names[i], name) {
			return true
		}
	}
	return false
}

// repeatable lists the headers that may stand more than once: lists by their
// definition, which nothing here is decided by. Of every other header one
// reader takes the first and another the last.
func repeatable(name []byte) bool {
	switch string(name) {
	case "accept", "accept-charset", "accept-encoding", "accept-language", "baggage", "cache-control",
		"forwarded", "tracestate", "via", "x-forwarded-for":
		return true
	}
	return false
}

// decide judges the headers that say something about the connection, and
// those in decisions that must not be lists.
func (in *inspector) decide(name, value []byte) *refusal {
	switch string(name) {
	case "host":
		in.host = true
		if !validHost(value) {
			return &refusedHost
		}
	case "content-length":
		in.sized = true
		return in.contentLength(value)
	case "transfer-encoding":
		in.coded = true
		if !bytes.EqualFold(value, []byte("chunked")) {
			return &refusedCoding
		}
	case "trailer":
		return &refusedTrailer
	case "upgrade", "http2-settings":
		return &refusedUpgrade
	case "connection", "proxy-connection":
		return connection(value)
	case "expect":
		if !bytes.EqualFold(value, []byte("100-continue")) {
			return &refusedExpect
		}
	case "authorization", "proxy-authorization", "content-type", "content-encoding", "origin", "dpop",
		"mcp-protocol-version", "mcp-session-id", "mcp-method", "last-event-id":
		if bytes.IndexByte(value, ',') >= 0 {
			return &refusedList
		}
	}
	return nil
}

// contentLength accepts a decimal number without sign or leading zeros.
func (in *inspector) contentLength(value []byte) *refusal {
	const most = 18 // digits that fit an int64
	if len(value) == 0 || len(value) > 1 && value[0] == '0' {
		return &refusedLength
	}
	for i, c := range value {
		if c < '0' || c > '9' {
			return &refusedLength
		}
		if i < most {
			in.length = in.length*10 + int64(c-'0')
		}
	}
	if len(value) > most || in.length > in.limits.Body {
		return &refusedBody
	}
	return nil
}

// connection accepts close and keep-alive. Any other name there asks that a
// header be dropped on the way, which may be one that we set.
func connection(value []byte) *refusal {
	for part := range bytes.SplitSeq(value, []byte{','}) {
		switch part = bytes.Trim(part, " \t"); {
		case bytes.EqualFold(part, []byte("close")), bytes.EqualFold(part, []byte("keep-alive")):
		case bytes.EqualFold(part, []byte("upgrade")), bytes.EqualFold(part, []byte("http2-settings")):
			return &refusedUpgrade
		default:
			return &refusedConn
		}
	}
	return nil
}

func (in *inspector) conclude() (framing, *refusal) {
	switch {
	case !in.host:
		return framing{}, &refusedHost
	case in.sized && in.coded:
		return framing{}, &refusedBoth
	}
	return framing{length: in.length, chunked: in.coded}, nil
}

// maxHost is the longest name DNS knows.
const maxHost = 253

// validHost accepts a name or IPv4 address of non-empty labels, or an IPv6
// address in brackets, and a port from 1 to 65535 without leading zeros.
func validHost(h []byte) bool {
	name, port := h, []byte(nil)
	if i := bytes.LastIndexByte(h, ':'); i >= 0 && bytes.IndexByte(h[i:], ']') < 0 {
		name, port = h[:i], h[i+1:]
		if !validPort(port) {
			return false
		}
	}
	if len(name) == 0 || len(name) > maxHost {
		return false
	}
	if name[0] == '[' {
		inside, ok := bytes.CutSuffix(name[1:], []byte{']'})
		for _, c := range inside {
			if _, hex := hexDigit(c); !hex && c != ':' && c != '.' {
				return false
			}
		}
		return ok && bytes.IndexByte(inside, ':') >= 0
	}
	last := byte('.')
	for _, c := range name {
		if !alphanumeric(c) && !strings.ContainsRune("-_.", rune(c)) || c == '.' && last == '.' {
			return false
		}
		last = c
	}
	return last != '.'
}

func validPort(p []byte) bool {
	if len(p) == 0 || len(p) > 5 || p[0] == '0' {
		return false
	}
	n := 0
	for _, c := range p {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}
