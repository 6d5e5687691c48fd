package stricthttp

import (
	"bytes"
	"strings"
)

// refusal is one reason to refuse a head. Its text is ours alone: nothing the
// far side sent is in it.
type refusal struct {
	status string // of the answer
	code   string // stable word, for the answer and for counting
	detail string
	more   string // header lines of the answer, each with its line end
}

const bad = "400 Bad Request"

var (
	refusedLine     = refusal{bad, "request_line", "the request line must be a method, a target and HTTP/1.1, with one space between them", ""}
	refusedMethod   = refusal{"405 Method Not Allowed", "method", "this method is not served", "Allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\n"}
	refusedVersion  = refusal{"505 HTTP Version Not Supported", "version", "only HTTP/1.1 is served here", ""}
	refusedTarget   = refusal{"414 URI Too Long", "target_length", "the target is too long", ""}
	refusedAbsolute = refusal{bad, "absolute_target", "the target must be a path: the host belongs into the Host header", ""}
	refusedPath     = refusal{bad, "path", "the path has an empty or dot segment, a backslash, a semicolon, or an escape that is not needed or not safe", ""}
	refusedQuery    = refusal{bad, "query", "the query has a character or an escape that is not accepted", ""}
	refusedHead     = refusal{"431 Request Header Fields Too Large", "head_length", "the request line and headers are too long", ""}
	refusedFields   = refusal{"431 Request Header Fields Too Large", "header_count", "there are too many headers", ""}
	refusedSlow     = refusal{"408 Request Timeout", "slow_head", "the request line and headers took too long to arrive", ""}
	refusedBareLF   = refusal{bad, "line_end", "lines must end with CR LF", ""}
	refusedFold     = refusal{bad, "folded_header", "a header may not be continued on a second line", ""}
	refusedName     = refusal{bad, "header_name", "a header's name may have letters, digits and dashes, and a colon directly behind it", ""}
	refusedValue    = refusal{bad, "header_value", "a header's value may have printable ASCII, spaces and tabs", ""}
	refusedRepeated = refusal{bad, "repeated_header", "this header may stand only once", ""}
	refusedList     = refusal{bad, "header_list", "this header may have only one value", ""}
	refusedHost     = refusal{bad, "host", "there must be one Host: a name or address, and a port at most", ""}
	refusedLength   = refusal{bad, "content_length", "Content-Length must be one decimal number", ""}
	refusedBoth     = refusal{bad, "framing", "Content-Length and Transfer-Encoding exclude each other", ""}
	refusedCoding   = refusal{"501 Not Implemented", "transfer_encoding", "the only transfer coding served is chunked", ""}
	refusedTrailer  = refusal{bad, "trailer", "trailers are not accepted", ""}
	refusedBody     = refusal{"413 Content Too Large", "body_length", "the body is too large", ""}
	refusedUpgrade  = refusal{bad, "upgrade", "no other protocol is spoken on this connection", ""}
	refusedConn     = refusal{bad, "connection_header", "Connection may only say close or keep-alive", ""}
	refusedExpect   = refusal{"417 Expectation Failed", "expect", "the only expectation met is 100-continue", ""}
)

// maxRequestLine is what a request line may have beside its target.
const maxRequestLine = maxMethod + len("  HTTP/1.1\r\n")

// maxMethod bounds a method's name; the longest one served has 7 bytes.
const maxMethod = 16

// framing is what follows a head.
type framing struct {
	length  int64
	chunked bool
}

// inspect judges a whole head, from its request line to its empty line. Every
// line is known to end with CR LF.
func inspect(head []byte, l *Limits) (framing, *refusal) {
	end := bytes.IndexByte(head, '\n')
	if why := requestLine(head[:end-1], l); why != nil {
		return framing{}, why
	}
	in := inspector{limits: l}
	for rest := head[end+1:]; ; {
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end-1]
		if len(line) == 0 {
			return in.conclude()
		}
		if why := in.field(line); why != nil {
			return framing{}, why
		}
		rest = rest[end+1:]
	}
}

func requestLine(line []byte, l *Limits) *refusal {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || len(method) == 0 || len(method) > maxMethod {
		return &refusedLine
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return &refusedLine
		}
	}
	switch string(method) {
	case "CONNECT", "TRACE":
		return &refusedMethod
	}
	if string(version) != "HTTP/1.1" {
		if bytes.HasPrefix(version, []byte("HTTP/")) && bytes.IndexByte(version, ' ') < 0 {
			return &refusedVersion
		}
		return &refusedLine
	}
	if len(target) > l.Target {
		return &refusedTarget
	}
	if len(target) == 0 || target[0] != '/' {
		return &refusedAbsolute
	}
	path, query, _ := bytes.Cut(target, []byte{'?'})
	if !canonicalPath(path) {
		return &refusedPath
	}
	if !plainQuery(query) {
		return &refusedQuery
	}
	return nil
}

// canonicalPath reports whether the path has one spelling only: no empty or
// dot segment, and no escape of a character that need not be escaped, or that
// some reader gives a meaning of its own after unescaping. The empty segment
// at the end, as in /a/, is a spelling of its own.
func canonicalPath(p []byte) bool {
	segment := 1 // where the current segment begins
	for i := 1; i <= len(p); i++ {
		if i == len(p) || p[i] == '/' {
			switch s := p[segment:i]; {
			case len(s) == 0 && i < len(p):
				return false
			case string(s) == "." || string(s) == "..":
				return false
			}
			segment = i + 1
			continue
		}
		if p[i] != '%' {
			if !pathByte(p[i]) {
				return false
			}
			continue
		}
		c, ok := escaped(p, i)
		if !ok || c <= 0x1F || c >= 0x7F || unreserved(c) || strings.IndexByte(`/\%;?#`, c) >= 0 {
			return false
		}
		i += 2
	}
	return true
}

// plainQuery reports whether the query has only characters of RFC 3986 and
// whole escapes. Semicolons separate parameters for some readers only, and
// an escaped NUL ends a value for some.
func plainQuery(q []byte) bool {
	for i := 0; i < len(q); i++ {
		if q[i] != '%' {
			if !pathByte(q[i]) && q[i] != '/' && q[i] != '?' {
				return false
			}
			continue
		}
		c, ok := escaped(q, i)
		if !ok || c == 0 {
			return false
		}
		i += 2
	}
	return true
}

func escaped(b []byte, i int) (byte, bool) {
	if i+2 >= len(b) {
		return 0, false
	}
	high, ok1 := hexDigit(b[i+1])
	low, ok2 := hexDigit(b[i+2])
	return high<<4 | low, ok1 && ok2
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func unreserved(c byte) bool {
	return alphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

// pathByte reports whether c may stand bare in a segment: RFC 3986's pchar
// without the semicolon.
func pathByte(c byte) bool {
	if unreserved(c) {
		return true
	}
	switch c {
	case '!', '$', '&', '\'', '(', ')', '*', '+', ',', '=', ':', '@':
		return true
	}
	return false
}
