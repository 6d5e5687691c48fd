package mcp

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	// writeTimeout bounds one write to a client: who does not read for this
	// long has left.
	writeTimeout = 30 * time.Second
	// writePiece is what such a write sends at most.
	writePiece = 256 << 10
	// keepalive is how often a quiet event stream gets a comment line, so
	// that proxies keep it and a client that left is noticed.
	keepalive = 15 * time.Second
	// retryAfter is what a caller over a rate or before a busy gateway is
	// told to wait, in seconds.
	retryAfter = 1
)

var errGone = errors.New("the response has ended")

// answer is the response to one HTTP request: either one JSON body or an
// event stream that ends with the response. What is written last is written
// once; everything after it is dropped.
type answer struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu     sync.Mutex // guards all below, and writing
	stream bool
	done   bool
	err    error
	tick   *time.Timer    // of the keepalive; nil before the stream starts
	ended  sync.WaitGroup // counts the tick while it is set or runs
}

func newAnswer(w http.ResponseWriter) *answer {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	return &answer{w: w, rc: http.NewResponseController(w)}
}

func (a *answer) header() http.Header { return a.w.Header() }

// streaming reports whether the response has become an event stream.
func (a *answer) streaming() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stream
}

// startStream turns the response into an event stream.
func (a *answer) startStream() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stream || a.done {
		return
	}
	h := a.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	a.stream = true
	a.deadline()
	a.w.WriteHeader(http.StatusOK)
	a.err = a.rc.Flush()
	a.ended.Add(1)
	a.tick = time.AfterFunc(keepalive, a.keepalive)
}

// keepalive has a goroutine for as long as it writes: an idle stream needs
// none. It is owned by finish, which waits for it.
func (a *answer) keepalive() {
	defer a.ended.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	a.put([]byte(":\n\n"))
	a.ended.Add(1)
	a.tick.Reset(keepalive)
}

// event sends one message on the event stream, starting it if need be.
func (a *answer) event(message []byte) error {
	a.startStream()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return errGone
	}
	a.put(mcpwire.AppendEvent(nil, "", message))
	return a.err
}

// put writes and flushes. The caller holds mu.
func (a *answer) put(b []byte) {
	if a.write(b); a.err == nil {
		a.err = a.rc.Flush()
	}
}

// write sends b in pieces, each with its own deadline: a slow client that
// goes on reading gets a long answer. The caller holds mu.
func (a *answer) write(b []byte) {
	for len(b) > 0 && a.err == nil {
		piece := b[:min(len(b), writePiece)]
		a.deadline()
		_, a.err = a.w.Write(piece)
		b = b[len(piece):]
	}
}

func (a *answer) deadline() { a.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) }

// message sends the response: as the stream's last event, or as the body.
func (a *answer) message(status int, m []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	a.done = true
	if a.stream {
		a.put(mcpwire.AppendEvent(nil, "", m))
		return
	}
	h := a.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(m)))
	a.deadline()
	a.w.WriteHeader(status)
	a.write(m)
}

// empty sends a status without a body.
func (a *answer) empty(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done || a.stream {
		a.done = true
		return
	}
	a.done = true
	a.deadline()
	a.w.WriteHeader(status)
}

// finish ends the response and waits for its keepalive.
func (a *answer) finish() {
	a.mu.Lock()
	a.done = true
	if a.tick != nil && a.tick.Stop() {
		a.ended.Done()
	}
	a.mu.Unlock()
	a.ended.Wait()
}

// result answers the request of x.
func (a *answer) result(x *visit, result []byte) {
	a.message(http.StatusOK, mcpwire.AppendResult(nil, x.msg.ID.Bytes(), result))
}

// refuse answers x with an error, in the words its method has for it.
func (a *answer) refuse(x *visit, e *ostiary.Error) {
	s := shapeOf(e)
	ended := x.ended(e)
	if ended {
		s = shapes()[ostiary.Unauthenticated]
	}
	h := a.w.Header()
	h.Del(mcpwire.HeaderSessionID) // what was refused opened no session
	switch e.Kind {
	case ostiary.Unauthenticated:
		h.Set("WWW-Authenticate", x.challenge(e))
	case ostiary.Denied:
		if e.Code == ostiary.InsufficientScope || ended {
			h.Set("WWW-Authenticate", x.challenge(e))
		}
	case ostiary.Exhausted, ostiary.Unavailable:
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if x.msg.Method == "tools/call" && x.request() && s.tool {
		a.result(x, refusal(e, x))
		return
	}
	status := s.status
	if x.request() {
		if status = s.call; x.legacy() && s.code == mcpwire.CodeMethodNotFound {
			status = http.StatusOK // in these revisions 404 means that the session ended
		}
	}
	message, data := errorData(e, x)
	a.message(status, mcpwire.AppendError(nil, x.msg.ID.Bytes(), s.code, message, data))
}
