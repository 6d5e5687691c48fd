package egress

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// maxWaiting bounds the frames of one call that its reader has not taken yet.
// The pipe is shared, so a slow reader's call fails rather than hold up the
// others.
const maxWaiting = 1024

// lineReply is the reply to one call of a process. Calls share the pipe and
// are told apart by our ids.
type lineReply struct {
	c     *pipe
	w     *watch
	id    int64
	d     *gate.Dispatch // nil for the handshake's own requests
	asked asked
	wake  chan struct{} // holds a token when there is something to take

	mu     sync.Mutex // guards what follows
	frames []gate.Frame
	count  int
	size   int64
	err    error // why no more frames come
	over   bool  // the final frame is queued
	done   bool  // the final frame was taken, or the reply was closed
}

// register gives a call its id.
func (c *pipe) register(w *watch, d *gate.Dispatch) (*lineReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		return nil, unreachable(c.ending)
	}
	if len(c.open) >= c.p.limits.Pending {
		return nil, ostiary.Errorf(ostiary.Exhausted, "server_busy", "the server has %d calls open, which is its limit", len(c.open))
	}
	c.lastID++
	s := &lineReply{c: c, w: w, id: c.lastID, d: d, wake: make(chan struct{}, 1)}
	s.asked.limit = c.p.limits.Asked
	c.open[s.id] = s
	return s, nil
}

func (c *pipe) unregister(id int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, was := c.open[id]
	delete(c.open, id)
	return was
}

// message gives one message to the call it belongs to. An error ends the
// process.
func (c *pipe) message(m mcpwire.Message) error {
	switch m.Kind {
	case mcpwire.Notification:
		c.notification(m)
		return nil
	case mcpwire.Request:
		c.request(m)
		return nil
	}
	id, _ := m.ID.Int()
	c.mu.Lock()
	s, sent := c.open[id], id >= 1 && id <= c.lastID
	delete(c.open, id)
	c.mu.Unlock()
	if s != nil {
		f, _ := finalFrame(m, s.id)
		s.add(f, len(m.Doc.Bytes()))
		return nil
	}
	if m.Kind == mcpwire.Error && !m.ID.Exists() {
		c.p.drop(c.p.log, "an error about no call in particular")
		return nil
	}
	if !sent {
		c.p.drop(c.p.log, "a reply to a request that was never sent")
		c.foreign = "it answered a request that was never sent"
		c.p.log.Error("the server answered a request that was never sent; it is quarantined", "id", quote(m.ID.Bytes()))
		return badReply("the server answered a request that was never sent", nil)
	}
	c.p.drop(c.p.log, "a reply to a call that had ended")
	return nil
}

// notification finds the call that a notification is about. Progress says so
// by our token. Anything else says nothing, and on a pipe that agents share it
// may be about any of them, so it goes to nobody.
func (c *pipe) notification(m mcpwire.Message) {
	id, ok := m.Params.Get(mcpwire.MetaProgressToken).Int()
	c.mu.Lock()
	s := c.open[id]
	c.mu.Unlock()
	switch m.Method {
	case mcpwire.NotifyToolsChanged, mcpwire.NotifyPromptsChanged, mcpwire.NotifyResourcesChanged, mcpwire.NotifyResourceUpdated, mcpwire.NotifyMessage:
		// Said by any server in good order. Definitions are read again by the clock, not at a server's word.
		c.p.log.Debug("a message of the server is for nobody here", "method", m.Method)
		return
	}
	if m.Method != mcpwire.NotifyProgress || !ok || s == nil || s.d == nil || !s.d.Progress {
		c.p.drop(c.p.log, "a notification that names no open call")
		return
	}
	s.add(gate.Frame{Kind: gate.FrameNotification, Method: m.Method, Body: m.Params}, len(m.Doc.Bytes()))
}

// only returns the one open call, nil if there are none or several.
func (c *pipe) only() *lineReply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) != 1 {
		return nil
	}
	for _, s := range c.open {
		if s.d != nil {
			return s
		}
	}
	return nil
}

// request handles a request of the server. On a pipe it does not say which
// call it is part of, so it is let through only when there is one candidate:
// a guess could ask one agent on behalf of another.
func (c *pipe) request(m mcpwire.Message) {
	id := m.ID.Bytes()
	switch s := c.only(); {
	case c.modern.Load():
		c.p.drop(c.p.log, "a request, which this revision does not have")
	case m.Method == mcpwire.MethodPing:
		c.answerBehind(mcpwire.AppendResult(nil, id, []byte("{}")))
	case s != nil && c.p.asks(m.Method):
		if handle, ok := s.asked.add(id); ok {
			s.add(gate.Frame{Kind: gate.FrameRequest, Method: m.Method, ID: handle, Body: m.Params}, len(m.Doc.Bytes()))
			return
		}
		c.answerBehind(appendRefusal(nil, id))
	default:
		c.p.drop(c.p.log, "a request for "+quote([]byte(m.Method))+", which was not offered or may be for several calls")
		c.answerBehind(appendRefusal(nil, id))
	}
}

// answerBehind answers the server without holding up the reader.
func (c *pipe) answerBehind(line []byte) {
	if !c.waiting.behind(c.p.owner, func(context.Context) { c.tell(line) }) {
		c.p.drop(c.p.log, "a request while too many others wait for their answer")
	}
}

// behind tells the server something of ours without holding up anybody.
func (c *pipe) behind(line []byte) {
	c.p.owner.behind(func(context.Context) { c.tell(line) })
}

func (c *pipe) tell(line []byte) {
	if !mcpwire.OneLine(line) {
		return
	}
	if err := c.write(line); err != nil {
		c.p.log.Debug("a message to the server was lost", "error", err)
	}
}

// add queues a frame for the call's reader.
func (s *lineReply) add(f gate.Frame, size int) {
	s.mu.Lock()
	s.count++
	s.size += int64(size)
	l := &s.c.p.limits
	if !f.Kind.Final() && (len(s.frames) >= maxWaiting || s.count > l.Frames || s.size > l.Stream) {
		s.mu.Unlock()
		s.c.unregister(s.id)
		s.end(badReply("the reply has more messages than its reader takes", nil))
		s.c.behind(appendCancelled(nil, s.id))
		return
	}
	s.frames = append(s.frames, f)
	s.over = s.over || f.Kind.Final()
	s.mu.Unlock()
	s.rouse()
}

// end says that no frame comes any more.
func (s *lineReply) end(err error) {
	s.mu.Lock()
	if s.err == nil && !s.over {
		s.err = err
	}
	s.mu.Unlock()
	s.rouse()
}

func (s *lineReply) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next returns the next frame.
func (s *lineReply) Next(ctx context.Context) (gate.Frame, error) {
	for {
		f, ok, err := s.take()
		if err == io.EOF {
			return f, err
		}
		if err != nil {
			s.Close()
			s.c.p.fail(err)
			return gate.Frame{}, err
		}
		if ok {
			if f.Kind.Final() {
				s.w.stop()
				s.c.p.ok()
			} else {
				s.w.touch(s.c.p.limits.Idle)
			}
			return f, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.end(s.gone(context.Cause(ctx)))
		case <-s.w.ctx.Done():
			s.end(s.gone(context.Cause(s.w.ctx)))
		}
	}
}

func (s *lineReply) gone(cause error) error {
	if errors.Is(cause, errSilent) {
		return ostiary.Errorf(ostiary.Upstream, "timeout", "the server took too long to finish its reply").Because(cause)
	}
	return ostiary.Errorf(ostiary.Upstream, "reply_cut", "the reply ended before its result").Because(cause)
}

func (s *lineReply) take() (gate.Frame, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done:
		return gate.Frame{}, false, io.EOF
	case len(s.frames) > 0:
		f := s.frames[0]
		s.frames = s.frames[1:]
		s.done = f.Kind.Final()
		return f, true, nil
	}
	return gate.Frame{}, false, s.err
}

// Answer carries the caller's answer to a request of the server.
func (s *lineReply) Answer(ctx context.Context, handle string, kind gate.FrameKind, body []byte) error {
	if !mcpwire.OneLine(body) {
		return ostiary.Errorf(ostiary.Malformed, "newline_in_arguments", "this server is spoken to in lines, so an answer may not hold line breaks between its tokens")
	}
	id, ok := s.asked.take(handle)
	if !ok || !kind.Final() {
		return ostiary.Errorf(ostiary.NotFound, "answer", "the server asked nothing under that name, or was answered already")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.c.write(appendAnswer(nil, id, kind, body))
}

// Close ends the reply early; the server is told that nobody waits.
func (s *lineReply) Close() error {
	s.mu.Lock()
	was := s.done
	s.done, s.frames = true, nil
	s.mu.Unlock()
	s.w.stop()
	if s.c.unregister(s.id) && !was {
		s.c.behind(appendCancelled(nil, s.id))
	}
	return nil
}

// handshake settles which revision the process speaks, and opens a legacy
// one. Nobody else uses the pipe yet.
func (c *pipe) handshake(ctx context.Context, legacy bool) error {
	if !legacy {
		m, err := c.ask(ctx, min(probePatience, c.p.limits.Start/2), func(id int64) []byte { return appendDiscover(nil, id, c.p.modernMeta) })
		switch {
		case errors.Is(err, errDied):
			return err
		case err == nil:
			modern, err := discovered(m)
			c.modern.Store(modern)
			if err != nil || modern {
				return err
			}
		}
	}
	m, err := c.ask(ctx, c.p.limits.Start, func(id int64) []byte { return appendInitialize(nil, id, c.p.shared) })
	if err != nil {
		return ostiary.Errorf(ostiary.Upstream, "handshake", "the server did not finish the handshake").Because(err)
	}
	if _, _, err := initializeResult(m); err != nil {
		return err
	}
	return c.write([]byte(initialized))
}

// ask sends one request of our own and waits for its reply.
func (c *pipe) ask(ctx context.Context, patience time.Duration, line func(id int64) []byte) (mcpwire.Message, error) {
	w := newWatch(ctx, c.p.owner.ctx, patience, patience)
	defer w.stop()
	s, err := c.register(w, nil)
	if err != nil {
		return mcpwire.Message{}, errors.Join(errDied, err)
	}
	defer c.unregister(s.id)
	if err := c.write(line(s.id)); err != nil {
		return mcpwire.Message{}, errors.Join(errDied, err)
	}
	for {
		f, ok, err := s.take()
		if err != nil {
			return mcpwire.Message{}, err
		}
		switch {
		case ok && f.Kind == gate.FrameResult:
			return mcpwire.Message{Kind: mcpwire.Result, Result: f.Body}, nil
		case ok && f.Kind == gate.FrameError:
			return mcpwire.Message{Kind: mcpwire.Error, Error: f.Body}, nil
		case ok:
			continue
		}
		select {
		case <-s.wake:
		case <-w.ctx.Done():
			return mcpwire.Message{}, context.Cause(w.ctx)
		}
	}
}
