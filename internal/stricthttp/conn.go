package stricthttp

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// firstBuffer holds most heads. A connection that has met a larger one gives
// the larger buffer back when it is empty.
const firstBuffer = 4 << 10

// buffers lends buffers of that size to the connections of one listener.
type buffers struct{ pool sync.Pool }

func (b *buffers) take() []byte {
	if p, ok := b.pool.Get().(*[firstBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, firstBuffer)
}

// give takes a buffer back, of any other size to forget it.
func (b *buffers) give(buf []byte) {
	if len(buf) == firstBuffer {
		b.pool.Put((*[firstBuffer]byte)(buf))
	}
}

// state is what stands at the start of the bytes not looked at yet.
type state uint8

const (
	atHead     state = iota
	atChunk          // a chunk's size line
	atChunkEnd       // the CRLF after a chunk's data
	atTrailer        // the empty line that ends a chunked body
)

// conn hands out only bytes that were looked at. Read has one caller at a
// time, as net/http guarantees; the fields below belong to it.
type conn struct {
	net.Conn
	limits  Limits
	buffers *buffers

	buf        []byte   // buf[start:end] was read and not handed out
	watch      [64]byte // is buf while net/http only wants to notice that the far side left
	watching   bool     // since the newest Read
	start, end int
	later      error // came with the last bytes read

	ready  int   // of these, how many may be handed out
	direct int64 // after them, how many bytes of a body may be handed out unseen
	state  state // after these
	body   int64 // bytes of the chunked body so far

	scan  int       // of the head at buf[start:], how far its lines have been found
	line  int       // where its current line begins
	began time.Time // when it was first found incomplete

	refusal *refusal
	told    bool  // the reader above has been sent away once
	fatal   error // nothing follows

	known atomic.Bool // somebody proved who they are; spares a lock on every request but the first
}

// Read returns bytes of requests that have passed. It never returns bytes of
// two requests, or of a head and what follows, at once.
//
// When a head is refused, net/http may still be answering the request before:
// it reads ahead, one Read at most, while a handler runs. So the first Read
// after a refusal returns no bytes and no error, which ends such a reading
// ahead without effect. The next Read comes only when every earlier answer
// has been written; it writes ours and ends the connection.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.watching = len(p) == 1 // as net/http does while a handler runs, maybe for hours
	for {
		switch {
		case c.ready > 0:
			n := copy(p, c.buf[c.start:c.start+c.ready])
			c.start += n
			c.ready -= n
			return n, nil
		case c.direct > 0:
			return c.pass(p)
		case c.fatal != nil:
			return 0, c.fatal
		case c.refusal != nil && !c.told:
			c.told = true
			return 0, nil
		case c.refusal != nil:
			c.answer()
			c.fatal = io.EOF
			return 0, c.fatal
		}
		if err := c.advance(); err != nil {
			return 0, err
		}
	}
}

// pass hands out bytes of a body.
func (c *conn) pass(p []byte) (int, error) {
	if int64(len(p)) > c.direct {
		p = p[:c.direct]
	}
	if c.start < c.end {
		n := copy(p, c.buf[c.start:c.end])
		c.start += n
		c.direct -= int64(n)
		return n, nil
	}
	if err := c.later; err != nil {
		c.later = nil
		return 0, err
	}
	n, err := c.Conn.Read(p)
	c.direct -= int64(n)
	return n, err
}

// advance looks at what is next, reading more if it is not there yet. It
// leaves something ready, or a refusal, or returns the connection's error.
func (c *conn) advance() error {
	switch c.state {
	case atHead:
		return c.head()
	case atChunk:
		return c.chunk()
	default:
		return c.chunkEnd()
	}
}

// fill reads more into the buffer, making room for up to limit bytes of what
// is at the start.
func (c *conn) fill(limit int) error {
	if err := c.later; err != nil {
		c.later = nil
		return err
	}
	switch {
	case c.start == c.end:
		c.start, c.end = 0, 0
		if c.watching {
			c.buffers.give(c.buf)
			c.buf = c.watch[:]
		} else if len(c.buf) != firstBuffer {
			c.buf = c.buffers.take()
		}
	case c.end == len(c.buf) && c.start > 0:
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
	case c.end < firstBuffer && c.end == len(c.buf):
		c.buf = c.buffers.take()
		copy(c.buf, c.watch[:])
	case c.end == len(c.buf):
		larger := make([]byte, min(2*len(c.buf), max(limit, len(c.buf)+1)))
		c.end = copy(larger, c.buf)
		c.buf = larger
	}
	n, err := c.Conn.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		c.later = err
		return nil
	}
	return err
}

// head finds the end of the head that stands at the start, line by line, and
// inspects it. Bytes are looked for line ends once, however slowly they come.
func (c *conn) head() error {
	for {
		head := c.buf[c.start:c.end]
		if len(head) > 0 && (head[0] < 'A' || head[0] > 'Z') {
			return c.refuse(&refusedLine)
		}
		for c.scan < len(head) {
			i := bytes.IndexByte(head[c.scan:], '\n')
			if i < 0 {
				c.scan = len(head)
				break
			}
			at := c.scan + i
			if at == 0 || head[at-1] != '\r' {
				return c.refuse(&refusedBareLF)
			}
			first := c.line
			c.line, c.scan = at+1, at+1
			if at-1 == first {
				return c.inspected(head[:at+1])
			}
		}
		if c.line == 0 && len(head) > c.limits.Target+maxRequestLine {
			return c.refuse(&refusedTarget)
		}
		if len(head) >= c.limits.Head {
			return c.refuse(&refusedHead)
		}
		if len(head) > 0 {
			now := time.Now()
			if c.began.IsZero() {
				c.began = now
			} else if now.Sub(c.began) > c.limits.Arrival {
				return c.refuse(&refusedSlow)
			}
		}
		if err := c.fill(c.limits.Head); err != nil {
			return err
		}
	}
}

// inspected releases a whole head and what its framing says follows it.
func (c *conn) inspected(head []byte) error {
	c.scan, c.line, c.began = 0, 0, time.Time{}
	if len(head) > c.limits.Head {
		return c.refuse(&refusedHead)
	}
	f, why := inspect(head, &c.limits)
	if why != nil {
		return c.refuse(why)
	}
	c.ready = len(head)
	c.direct = f.length
	if f.chunked {
		c.state, c.body = atChunk, 0
	}
	return nil
}

// maxSizeLine bounds a chunk's size line: seven hex digits are 256 MiB, and
// extensions are not accepted.
const maxSizeLine = 7 + len("\r\n")

// chunk releases a size line and the data it announces: hex digits and CRLF,
// nothing else (RFC 9112, section 7.1; a recipient may refuse extensions).
func (c *conn) chunk() error {
	var line []byte
	for {
		line = c.buf[c.start:c.end]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
			break
		}
		if len(line) >= maxSizeLine {
			return c.broken("a chunk's size is too long")
		}
		if err := c.fill(maxSizeLine); err != nil {
			return cut(err)
		}
	}
	digits, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || len(digits) == 0 || len(line) > maxSizeLine {
		return c.broken("a chunk's size line is malformed")
	}
	var size int64
	for _, d := range digits {
		v, ok := hexDigit(d)
		if !ok {
			return c.broken("a chunk's size line is malformed")
		}
		size = size<<4 | int64(v)
	}
	if size > c.limits.Body-c.body {
		return c.broken("the body is too large")
	}
	c.body += size
	c.ready, c.direct, c.state = len(line), size, atChunkEnd
	if size == 0 {
		c.state = atTrailer
	}
	return nil
}

// chunkEnd releases the CRLF that must stand here. After the last chunk it
// must be the empty line: trailers are not accepted.
func (c *conn) chunkEnd() error {
	for c.end-c.start < 2 {
		if err := c.fill(2); err != nil {
			return cut(err)
		}
	}
	if string(c.buf[c.start:c.start+2]) != "\r\n" {
		return c.broken("a chunk does not end where it says, or a trailer follows")
	}
	c.ready = 2
	if c.state == atTrailer {
		c.state = atHead
	} else {
		c.state = atChunk
	}
	return nil
}

// cut makes an end in the middle of a body an error that nobody takes for the
// body's end.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// refuse remembers why the head at the start is refused.
func (c *conn) refuse(why *refusal) error {
	c.refusal = why
	c.report(why.code)
	return nil
}

// broken ends the connection inside a body. The request is already in a
// handler's hands, whose next Read of the body fails.
func (c *conn) broken(what string) error {
	c.fatal = &net.OpError{Op: "read", Net: "tcp", Err: bodyError(what)}
	c.report("body_framing")
	return nil
}

type bodyError string

func (e bodyError) Error() string { return "stricthttp: " + string(e) }

func (c *conn) report(code string) {
	if c.limits.Refused == nil {
		return
	}
	source := c.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	c.limits.Refused(source, code)
}

const (
	// answerTime is how long the answer to a refused head may take: it
	// fits any socket buffer, so longer means nobody reads.
	answerTime = time.Second
	// lingerTime and lingerBytes bound what is read and thrown away after
	// the answer. Closing with bytes unread makes the system drop the
	// answer before the far side has read it.
	lingerTime  = 250 * time.Millisecond
	lingerBytes = 64 << 10
)

// answer tells the far side why its head was refused. It echoes nothing.
func (c *conn) answer() {
	why := c.refusal
	text := "ostiary: " + why.code + ": " + why.detail + "\n"
	b := make([]byte, 0, 512)
	b = append(b, "HTTP/1.1 "...)
	b = append(b, why.status...)
	b = append(b, "\r\n"...)
	b = append(b, why.more...)
	b = append(b, "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(text)), 10)
	b = append(b, "\r\n\r\n"...)
	b = append(b, text...)
	now := time.Now()
	_ = c.Conn.SetDeadline(now.Add(answerTime))
	if _, err := c.Conn.Write(b); err != nil {
		return
	}
	if err := c.CloseWrite(); err != nil {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

// CloseWrite says that no more will be written, if the connection below can
// say it. net/http does this before it closes on a far side still writing.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	default:
		return 0, false
	}
}
