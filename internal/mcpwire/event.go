package mcpwire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/ostiary/ostiary"
)

// Event is one server-sent event.
type Event struct {
	Type string // its event field; "" means "message"
	ID   string // the last id seen in the stream up to here
	Data []byte // its data lines joined by LF; owned by the receiver
}

const (
	// maxField is what an event's type or id may have. Ids come back to the
	// server in a header, so they must fit one.
	maxField = 1 << 10
	// maxIdle is how many bytes of comments and unknown fields may stand
	// between two events. Servers send a few bytes every few seconds to
	// keep a connection open: this is months of that, and a flood is cut
	// after 16 MiB.
	maxIdle = 16 << 20
)

// EventReader reads server-sent events. It holds no more than one event and
// is used by one goroutine.
type EventReader struct {
	r       *bufio.Reader
	max     int
	begun   bool // the byte order mark has been looked for
	afterCR bool // an LF that comes next belongs to the line end already read
	idle    int
	id      string
	err     error // sticky
}

// NewEventReader returns a reader of the events in r, whose data may have
// maxEvent bytes.
func NewEventReader(r io.Reader, maxEvent int) *EventReader {
	return &EventReader{r: bufio.NewReaderSize(r, 4<<10), max: maxEvent}
}

// Next returns the next event that has data. At the end of the stream it
// returns io.EOF, or io.ErrUnexpectedEOF if that came inside an event, which
// is dropped: an event counts only once its empty line has arrived. An event
// over a limit is Malformed. Every error is final. Data is not looked at; it
// may be anything, also invalid UTF-8.
func (e *EventReader) Next() (Event, error) {
	if e.err != nil {
		return Event{}, e.err
	}
	ev, err := e.next()
	if err != nil {
		e.err = err
		return Event{}, err
	}
	return ev, nil
}

func (e *EventReader) next() (Event, error) {
	var ev Event
	var line []byte
	data, started := false, false // a data field was seen; any field was
	for {
		var err error
		if line, err = e.line(line[:0], len(ev.Data)); err != nil {
			if errors.Is(err, io.EOF) && (started || len(line) > 0) {
				err = io.ErrUnexpectedEOF
			}
			return Event{}, err
		}
		if len(line) == 0 {
			if len(ev.Data) > 0 {
				ev.ID = e.id
				e.idle = 0
				return ev, nil
			}
			ev, data, started = Event{}, false, false // without data it is no event
			if e.idle++; e.idle > maxIdle {
				return Event{}, idleTooLong()
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		started = started || len(name) > 0
		switch string(name) {
		case "data":
			if data {
				ev.Data = append(ev.Data, '\n')
			}
			ev.Data = append(ev.Data, value...)
			data = true
			continue
		case "event":
			if len(value) > maxField {
				return Event{}, tooLong()
			}
			ev.Type = string(value)
		case "id":
			if len(value) > maxField {
				return Event{}, tooLong()
			}
			if bytes.IndexByte(value, 0) < 0 {
				e.id = string(value)
			}
		}
		if e.idle += len(line) + 1; e.idle > maxIdle {
			return Event{}, idleTooLong()
		}
	}
}

func tooLong() error {
	return ostiary.Errorf(ostiary.Malformed, "too_large", "an event is over its limit")
}

func idleTooLong() error {
	return ostiary.Errorf(ostiary.Malformed, "idle", "more than %d bytes without an event", maxIdle)
}

// line appends the next line, without its end, to buf. Comments are dropped
// while they are read, whatever their length. The end of the stream ends no
// line.
func (e *EventReader) line(buf []byte, held int) ([]byte, error) {
	comment := false
	for {
		if _, err := e.r.Peek(1); err != nil {
			return buf, err
		}
		chunk, err := e.r.Peek(e.r.Buffered()) // at least that byte, without waiting
		if err != nil {
			return buf, err
		}
		if !e.begun {
			e.begun = true
			if chunk[0] == mark[0] {
				if err := e.skipMark(); err != nil {
					return buf, err
				}
				continue
			}
		}
		if e.afterCR {
			e.afterCR = false
			if chunk[0] == '\n' {
				_, _ = e.r.Discard(1)
				continue
			}
		}
		end := bytes.IndexAny(chunk, "\r\n")
		part := chunk
		if end >= 0 {
			part = chunk[:end]
		}
		comment = comment || len(buf) == 0 && len(part) > 0 && part[0] == ':'
		if comment {
			if e.idle += len(part) + 1; e.idle > maxIdle {
				return buf, idleTooLong()
			}
		} else {
			buf = append(buf, part...)
		}
		if held+len(buf) > e.max+len("data: ") {
			return buf, tooLong()
		}
		if end < 0 {
			_, _ = e.r.Discard(len(chunk))
			continue
		}
		e.afterCR = chunk[end] == '\r'
		_, _ = e.r.Discard(end + 1)
		if !comment {
			return buf, nil
		}
		comment = false
	}
}

// mark is the byte order mark.
const mark = "\ufeff"

// skipMark skips a byte order mark, which may stand at the very start.
func (e *EventReader) skipMark() error {
	b, err := e.r.Peek(len(mark))
	if string(b) == mark {
		_, _ = e.r.Discard(len(mark))
		return nil
	}
	if errors.Is(err, io.EOF) {
		return nil // the stream is shorter, and read as it is
	}
	return err
}

// AppendEvent appends one event. Every line of data, whatever ends it (CR, LF
// or CRLF), becomes a data field of its own, so data cannot end the event or
// add a field; a reader joins them with LF. An id that a field cannot carry
// (with CR, LF or NUL) is left out, as is an empty one.
func AppendEvent(dst []byte, id string, data []byte) []byte {
	if id != "" && !strings.ContainsAny(id, "\r\n\x00") {
		dst = append(append(append(dst, "id: "...), id...), '\n')
	}
	for {
		end := bytes.IndexAny(data, "\r\n")
		line := data
		if end >= 0 {
			line = data[:end]
		}
		dst = append(append(append(dst, "data: "...), line...), '\n')
		if end < 0 {
			return append(dst, '\n')
		}
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}
