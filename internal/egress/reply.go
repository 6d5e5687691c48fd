package egress

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	// drainBytes, drainEvents and drainTime bound how long we wait for the end
	// of a reply whose last message has arrived, to be able to use the
	// connection again.
	drainBytes  = 16 << 10
	drainEvents = 16
	drainTime   = 2 * time.Second
	// maxErrorBody bounds the body of an answer that is an error: one message.
	maxErrorBody = 64 << 10
)

// remoteReply is the reply to one call over HTTP: one JSON message, or a
// stream of events that ends with one.
type remoteReply struct {
	r       *remote
	d       *gate.Dispatch
	w       *watch
	session *session
	id      int64
	body    *meter
	length  int64
	events  *mcpwire.EventReader // nil: one JSON message
	frames  int
	asked   asked
	waiting few // answers of answerBehind
	done    atomic.Bool
	closing sync.Once
}

// reply starts to read a 200.
func (r *remote) reply(w *watch, d *gate.Dispatch, resp *http.Response, id int64, s *session) (gate.Stream, error) {
	stream, err := bodyKind(resp)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	p := &remoteReply{r: r, d: d, w: w, session: s, id: id, length: resp.ContentLength}
	p.body = &meter{ReadCloser: resp.Body, left: r.limits.Stream, w: w, idle: r.limits.Idle}
	p.asked.limit = r.limits.Asked
	if stream {
		p.events = mcpwire.NewEventReader(p.body, r.limits.Reply.Bytes)
	}
	return p, nil
}

// bodyKind reports whether a response is a stream of events, and refuses what
// is neither that nor JSON, or is compressed, which nobody asked for.
func bodyKind(resp *http.Response) (stream bool, err error) {
	if len(resp.Header["Content-Encoding"]) > 0 {
		return false, badReply("the server compressed its reply although that was not offered", nil)
	}
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(t)) {
	case mcpwire.ContentTypeJSON:
		return false, nil
	case mcpwire.ContentTypeEventStream:
		return true, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, statusError(resp)
	}
	return false, badReply("the server's reply is neither JSON nor a stream of events", nil)
}

func badReply(why string, cause error) error {
	return ostiary.Errorf(ostiary.Upstream, "bad_reply", "%s", why).Because(cause)
}

func ambiguous(cause error) error {
	return badReply("the server's reply is not a message that can be read in one way only", cause)
}

// statusError describes an HTTP answer without repeating anything of it.
func statusError(resp *http.Response) error {
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return ostiary.Errorf(ostiary.Upstream, "redirect", "the server answered with a redirect (HTTP %d), which is never followed", resp.StatusCode)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return ostiary.Errorf(ostiary.Upstream, "upstream_auth", "the server did not accept this gateway's credential (HTTP %d)", resp.StatusCode)
	}
	return ostiary.Errorf(ostiary.Upstream, "status", "the server answered HTTP %d", resp.StatusCode)
}

// Next returns the next frame.
func (p *remoteReply) Next(ctx context.Context) (gate.Frame, error) {
	if p.done.Load() {
		return gate.Frame{}, io.EOF
	}
	defer p.w.follow(ctx)()
	f, err := p.next()
	if err != nil {
		p.Close()
		p.done.Store(true)
		p.r.fail(err)
		return gate.Frame{}, err
	}
	if f.Kind.Final() {
		p.done.Store(true)
		p.finish()
		p.r.ok()
	}
	return f, nil
}

func (p *remoteReply) next() (gate.Frame, error) {
	if p.events == nil {
		b, err := p.body.all(p.length, p.r.limits.Reply.Bytes)
		if err != nil {
			return gate.Frame{}, p.broken(err)
		}
		m, err := mcpwire.Parse(b, p.r.limits.Reply)
		if err != nil {
			return gate.Frame{}, ambiguous(err)
		}
		if f, ok := onlyFrame(m, p.id); ok {
			return f, p.r.leaks(m)
		}
		p.r.drop(p.r.log, "not the reply to this call")
		return gate.Frame{}, badReply("the server answered something else than this call", nil)
	}
	for {
		e, err := p.events.Next()
		if err != nil {
			return gate.Frame{}, p.broken(err)
		}
		if p.frames++; p.frames > p.r.limits.Frames {
			return gate.Frame{}, badReply("the reply has too many messages", nil)
		}
		if len(e.Data) == 0 || e.Type != "" && e.Type != "message" {
			continue
		}
		m, err := mcpwire.Parse(e.Data, p.r.limits.Reply)
		if err != nil {
			return gate.Frame{}, ambiguous(err)
		}
		if f, ok := p.frame(m); ok {
			return f, p.r.leaks(m)
		}
	}
}

// frame judges one message of a stream. What belongs to nobody is dropped.
func (p *remoteReply) frame(m mcpwire.Message) (gate.Frame, bool) {
	switch m.Kind {
	case mcpwire.Notification:
		if m.Method == mcpwire.NotifyProgress && !(p.d.Progress && isOurs(m.Params.Get("progressToken"), p.id)) {
			p.r.drop(p.r.log, "progress of another call")
			return gate.Frame{}, false
		}
		return gate.Frame{Kind: gate.FrameNotification, Method: m.Method, Body: m.Params}, true
	case mcpwire.Request:
		return p.request(m)
	}
	if f, ok := finalFrame(m, p.id); ok {
		return f, true
	}
	p.r.drop(p.r.log, "a reply to no outstanding call")
	return gate.Frame{}, false
}

// finalFrame turns our own reply into the last frame.
func finalFrame(m mcpwire.Message, id int64) (gate.Frame, bool) {
	switch {
	case m.Kind == mcpwire.Result && isOurs(m.ID, id):
		return gate.Frame{Kind: gate.FrameResult, Body: m.Result}, true
	case m.Kind == mcpwire.Error && isOurs(m.ID, id):
		return gate.Frame{Kind: gate.FrameError, Body: m.Error}, true
	}
	return gate.Frame{}, false
}

// onlyFrame is finalFrame for a body that holds one message: there an error
// that names no call can only be about ours.
func onlyFrame(m mcpwire.Message, id int64) (gate.Frame, bool) {
	if m.Kind == mcpwire.Error && !m.ID.Exists() {
		return gate.Frame{Kind: gate.FrameError, Body: m.Error}, true
	}
	return finalFrame(m, id)
}

// request handles a request of the server. The modern revision has none.
func (p *remoteReply) request(m mcpwire.Message) (gate.Frame, bool) {
	if p.session == nil {
		p.r.drop(p.r.log, "a request, which this revision does not have")
		return gate.Frame{}, false
	}
	id := m.ID.Bytes()
	switch {
	case m.Method == mcpwire.MethodPing:
		p.answerBehind(mcpwire.AppendResult(nil, id, []byte("{}")))
	case !p.r.asks(m.Method):
		p.r.drop(p.r.log, "a request for "+strconv.QuoteToASCII(m.Method)+", which was not offered")
		p.answerBehind(appendRefusal(nil, id))
	default:
		if handle, ok := p.asked.add(id); ok {
			return gate.Frame{Kind: gate.FrameRequest, Method: m.Method, ID: handle, Body: m.Params}, true
		}
		p.answerBehind(appendRefusal(nil, id))
	}
	return gate.Frame{}, false
}

// answerBehind answers without holding up the stream.
func (p *remoteReply) answerBehind(b []byte) {
	sent := p.waiting.behind(p.r.owner, func(context.Context) {
		if err := p.r.tell(p.w, p.d, p.session, b); err != nil {
			p.r.log.Warn("an answer to the server was lost", "error", err)
		}
	})
	if !sent {
		p.r.drop(p.r.log, "a request while too many others wait for their answer")
	}
}

// Answer carries the caller's answer to a request of the server.
func (p *remoteReply) Answer(ctx context.Context, handle string, kind gate.FrameKind, body []byte) error {
	id, ok := p.asked.take(handle)
	if !ok || !kind.Final() {
		return ostiary.Errorf(ostiary.NotFound, "answer", "the server asked nothing under that name, or was answered already")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.r.tell(p.w, p.d, p.session, appendAnswer(nil, id, kind, body))
}

// broken explains a reply that ended before its result.
func (p *remoteReply) broken(err error) error {
	var e *ostiary.Error
	if errors.As(err, &e) && e.Kind == ostiary.Upstream {
		return e
	}
	if e != nil { // of the reader: over one of its limits
		return badReply("the server's reply is over a limit", e)
	}
	if errors.Is(p.w.cause(err), errSilent) {
		return ostiary.Errorf(ostiary.Upstream, "timeout", "the server took too long to finish its reply").Because(err)
	}
	return ostiary.Errorf(ostiary.Upstream, "reply_cut", "the reply ended before its result").Because(p.w.cause(err))
}

// finish gives the connection back once the rest of the reply, normally
// nothing, has been read. What comes after the last message is dropped.
func (p *remoteReply) finish() {
	p.closing.Do(func() {
		if p.events == nil { // read to its end already
			p.body.Close()
			p.w.stop()
			return
		}
		p.w.outlive(drainTime)
		p.body.w = nil // its patience is drainTime now, whatever comes
		behind := p.r.owner.behind(func(context.Context) {
			for range drainEvents {
				if _, err := p.events.Next(); err != nil {
					break
				}
				p.r.drop(p.r.log, "a message after the reply")
			}
			p.body.Close()
			p.w.stop()
		})
		if !behind {
			p.w.stop()
			p.body.Close()
		}
	})
}

// Close ends the reply. In the modern revision closing the stream cancels
// the call; a legacy server is told.
func (p *remoteReply) Close() error {
	p.closing.Do(func() {
		if p.session == nil || p.done.Load() {
			p.w.stop()
			p.body.Close()
			return
		}
		p.body.Close()
		p.w.stop()
		p.r.owner.behind(func(ctx context.Context) {
			w := newWatch(ctx, ctx, drainTime, drainTime)
			defer w.stop()
			if err := p.r.tell(w, p.d, p.session, appendCancelled(nil, p.id)); err != nil {
				p.r.log.Debug("a cancellation was lost", "error", err)
			}
		})
	})
	return nil
}

// leaks refuses a message that repeats a credential we sent with the call, in
// one of the spellings that [echoes] knows. It is looked for in whole messages,
// so it does not matter in which pieces they arrived.
func (r *remote) leaks(m mcpwire.Message) error {
	if b := m.Doc.Bytes(); r.echoes.in(b) || r.bearer.echoed(b) {
		return ostiary.Errorf(ostiary.Upstream, "credential_echoed", "the server's reply repeats this gateway's credential, so it is withheld")
	}
	return nil
}

// one reads a response that is not handed on: of a handshake, or an error.
func (r *remote) one(w *watch, resp *http.Response, id int64) (mcpwire.Message, error) {
	defer drain(resp.Body)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return mcpwire.Message{}, statusError(resp)
	}
	stream, err := bodyKind(resp)
	if err != nil {
		return mcpwire.Message{}, err
	}
	body := &meter{ReadCloser: resp.Body, left: r.limits.Stream, w: w, idle: r.limits.Idle}
	if stream {
		return r.oneEvent(body, id)
	}
	limit := r.limits.Reply.Bytes
	if resp.StatusCode != http.StatusOK {
		limit = min(limit, maxErrorBody)
	}
	b, err := body.all(resp.ContentLength, limit)
	if err != nil {
		return mcpwire.Message{}, err
	}
	m, err := mcpwire.Parse(b, r.limits.Reply)
	if err != nil && resp.StatusCode != http.StatusOK {
		return m, statusError(resp)
	}
	if err != nil {
		return m, ambiguous(err)
	}
	if _, ok := onlyFrame(m, id); !ok {
		r.drop(r.log, "not the reply to this request")
		return m, badReply("the server answered something else than was asked", nil)
	}
	return m, nil
}

func (r *remote) oneEvent(body io.Reader, id int64) (mcpwire.Message, error) {
	events := mcpwire.NewEventReader(body, r.limits.Reply.Bytes)
	for range r.limits.Frames {
		e, err := events.Next()
		if err != nil {
			return mcpwire.Message{}, ostiary.Errorf(ostiary.Upstream, "reply_cut", "the reply ended before its result").Because(err)
		}
		if len(e.Data) == 0 || e.Type != "" && e.Type != "message" {
			continue
		}
		m, err := mcpwire.Parse(e.Data, r.limits.Reply)
		if err != nil {
			return m, ambiguous(err)
		}
		if _, ok := finalFrame(m, id); ok {
			return m, nil
		}
	}
	return mcpwire.Message{}, badReply("the reply has too many messages", nil)
}

// meter reads a body within its limit, and tells the watch that something
// came.
type meter struct {
	io.ReadCloser
	left int64
	w    *watch // nil: nobody needs to know
	idle time.Duration
}

func (m *meter) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, ostiary.Errorf(ostiary.Upstream, "too_large", "the server's reply is too large")
	}
	n, err := m.ReadCloser.Read(b[:min(int64(len(b)), m.left)])
	if m.left -= int64(n); n > 0 && m.w != nil {
		m.w.touch(m.idle)
	}
	return n, err
}

// all reads a whole body of at most limit bytes, in one piece when its length
// is known.
func (m *meter) all(length int64, limit int) ([]byte, error) {
	if length > int64(limit) {
		return nil, ostiary.Errorf(ostiary.Upstream, "too_large", "the server's reply is larger than %d bytes", limit)
	}
	if length >= 0 {
		b := make([]byte, length)
		if _, err := io.ReadFull(m.ReadCloser, b); err != nil {
			return nil, err
		}
		m.ReadCloser.Read(make([]byte, 1)) // sees the end, which frees the connection
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(m, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = ostiary.Errorf(ostiary.Upstream, "too_large", "the server's reply is larger than %d bytes", limit)
	}
	return b, err
}

// drain reads the little that may be left of a body and closes it.
func drain(body io.ReadCloser) {
	io.Copy(io.Discard, io.LimitReader(body, drainBytes))
	body.Close()
}

// asked are the open requests of a server in one reply.
type asked struct {
	limit int

	mu   sync.Mutex // guards what follows
	open map[string][]byte
	last int
}

// add gives a request of the server a handle of ours. The id is kept as the
// server wrote it.
func (a *asked) add(id []byte) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) >= a.limit {
		return "", false
	}
	if a.open == nil {
		a.open = map[string][]byte{}
	}
	a.last++
	handle := strconv.Itoa(a.last)
	a.open[handle] = slices.Clone(id)
	return handle, true
}

func (a *asked) take(handle string) ([]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, ok := a.open[handle]
	delete(a.open, handle)
	return id, ok
}
