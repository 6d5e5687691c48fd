package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
)

const (
	// liveLook is how often a stream asks whether its reader may still read:
	// it bounds how long one outlives a sign-out or a role.
	liveLook = 500 * time.Millisecond
	// liveEvery is how often it says how things are.
	liveEvery = time.Second
	// liveWrite is how long a reader may take for one message.
	liveWrite = 5 * time.Second
	// liveLife ends a stream whatever happens; a page that is still open asks
	// for the next one by itself.
	liveLife = time.Hour
	// maxLive bounds one person's streams: browsers open six connections to
	// one origin, and some must be left for pages. The oldest gives way.
	maxLive = 3
	// maxLiveAll bounds everybody's.
	maxLiveAll = 256
)

// streams are the open streams, by person. The zero value is ready.
type streams struct {
	mu     sync.Mutex
	open   map[ostiary.PrincipalID][]*stream
	all    int
	closed bool
}

type stream struct{ end context.CancelFunc }

// begin admits a stream of a person, ends their oldest if they have too many,
// and returns what must be called when it is over.
func (s *streams) begin(who ostiary.PrincipalID, end context.CancelFunc) (over func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.all >= maxLiveAll && len(s.open[who]) == 0 {
		return nil, ostiary.Errorf(ostiary.Unavailable, "too_many_streams", "too many pages are live just now; this one is as of when it was opened")
	}
	if s.open == nil {
		s.open = map[ostiary.PrincipalID][]*stream{}
	}
	mine := &stream{end}
	if list := s.open[who]; len(list) >= maxLive {
		list[0].end()
		s.open[who], s.all = list[1:], s.all-1
	}
	s.open[who], s.all = append(s.open[who], mine), s.all+1
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.open[who], mine); i >= 0 {
			s.open[who], s.all = slices.Delete(slices.Clone(s.open[who]), i, i+1), s.all-1
		}
		if len(s.open[who]) == 0 {
			delete(s.open, who)
		}
	}, nil
}

// close ends all and admits no more.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, list := range s.open {
		for _, one := range list {
			one.end()
		}
	}
}

// Close ends every live page, for a server that shuts down.
func (c *Console) Close() { c.streams.close() }

// events writes server-sent events.
type events struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	err error
}

// send writes one event; its data are lines of ours.
func (e *events) send(name string, data []byte) {
	if e.err != nil {
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\n", name)
	for line := range strings.Lines(string(data)) {
		b.WriteString("data: " + strings.Trim(line, "\r\n") + "\n")
	}
	if len(data) == 0 {
		b.WriteString("data: -\n")
	}
	b.WriteString("\n")
	if e.err = e.rc.SetWriteDeadline(time.Now().Add(liveWrite)); e.err != nil {
		return
	}
	if _, e.err = e.w.Write(b.Bytes()); e.err == nil {
		e.err = e.rc.Flush()
	}
}

// stream keeps a page up to date until its reader leaves, may no longer read,
// or opened too many others. tell is called at each turn.
func (c *Console) stream(x *exchange, to access, tell func(context.Context, *events) error) error {
	if err := c.ownPage(x.r); err != nil {
		return err
	}
	ctx, end := context.WithTimeout(x.r.Context(), liveLife)
	defer end()
	over, err := c.streams.begin(x.who().ID, end)
	if err != nil {
		return err
	}
	defer over()
	e := &events{w: x.w, rc: http.NewResponseController(x.w)}
	_ = e.rc.SetReadDeadline(time.Time{}) // a reader that only listens has not left
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	x.w.WriteHeader(http.StatusOK)
	look, next := time.NewTicker(liveLook), time.Time{}
	defer look.Stop()
	for e.err == nil {
		s, err := c.o.People.Look(ctx, x.token)
		if ctx.Err() == nil && (err != nil || !to.admits(&s.Person)) {
			e.send("over", []byte("signed out"))
			return nil
		}
		if now := time.Now(); !now.Before(next) {
			if err := tell(ctx, e); err != nil && ctx.Err() == nil {
				c.o.Logger.Warn("a live page has nothing to say", "error", err)
				e.send("over", []byte("unavailable"))
				return nil
			}
			next = now.Add(liveEvery - liveLook/2)
		}
		select {
		case <-ctx.Done():
			if ctx.Err() == context.Canceled && x.r.Context().Err() == nil {
				e.send("over", []byte("elsewhere"))
			}
			return nil
		case <-look.C:
		}
	}
	return nil
}

// ownPage refuses a stream that no page of ours opens (O05).
func (c *Console) ownPage(r *http.Request) error {
	if o := r.Header.Get("Origin"); o != "" && o != c.origin.String() {
		return errCross()
	}
	if s := r.Header.Get("Sec-Fetch-Site"); s != "" && s != "same-origin" {
		return errCross()
	}
	return nil
}
