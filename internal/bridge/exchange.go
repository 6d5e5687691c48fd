package bridge

import (
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// maxPages bounds how many pages of tools/list are read to find the
	// marks of one tool.
	maxPages = 32
	// Waits between attempts to open the stream of a legacy session.
	streamFirst = time.Second
	streamMost  = 30 * time.Second
)

// session is a legacy session at the gateway. The zero session is none.
type session struct {
	id      string
	version string // as agreed in initialize
	opening []byte // the client's initialize, to open another one
	ready   []byte // the client's notifications/initialized; nil before it
}

func (s session) headers() http.Header {
	h := http.Header{}
	if s.id != "" {
		h.Set(mcpwire.HeaderSessionID, s.id)
	}
	if s.version != "" {
		h.Set(mcpwire.HeaderProtocolVersion, s.version)
	}
	return h
}

// refusal is an HTTP error, with the JSON-RPC error in its body if it is one.
type refusal struct {
	status int
	body   []byte
	msg    mcpwire.Message // of kind None if there is none
}

func readRefusal(resp *http.Response) *refusal {
	defer resp.Body.Close()
	r := &refusal{status: resp.StatusCode}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return r
	}
	if msg, err := mcpwire.Parse(body, strictjson.Reply); err == nil && msg.Kind == mcpwire.Error {
		r.body, r.msg = body, msg
	}
	return r
}

func (r *refusal) code() int64 {
	code, _ := r.msg.Error.Get("code").Int()
	return code
}

// lost reports whether the gateway does not know the session any more, as
// after its restart.
func (r *refusal) lost() bool {
	return r.status == http.StatusNotFound && r.code() != mcpwire.CodeMethodNotFound
}

// deliver sends one message and returns the response, or the refusal. What
// the gateway refused without looking at it (a session it no longer knows, a
// header it misses) is put right and sent again, once; a call that may have
// happened never is.
func (p *pipe) deliver(ctx context.Context, line []byte, m *mcpwire.Message) (*http.Response, *refusal, error) {
	h, s := p.headers(m)
	resp, no, err := p.try(ctx, line, h)
	if no == nil {
		return resp, nil, err
	}
	switch {
	case s.id != "" && no.lost():
		err = p.resume(ctx, s)
	case no.code() == mcpwire.CodeHeaderMismatch && m.Method == mcpwire.MethodToolsCall && revision(m) != "":
		err = p.lookUp(ctx, m)
	default:
		return nil, no, nil
	}
	if err != nil {
		p.b.log.Warn("what the gateway misses could not be put right", "error", err)
		return nil, no, nil
	}
	h, _ = p.headers(m)
	return p.try(ctx, line, h)
}

func (p *pipe) try(ctx context.Context, line []byte, h http.Header) (*http.Response, *refusal, error) {
	resp, err := p.send(ctx, http.MethodPost, line, h)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return nil, readRefusal(resp), nil
	}
	return resp, nil, nil
}

// exchange sends one request and gives the client everything that comes back.
func (p *pipe) exchange(ctx context.Context, line []byte, m *mcpwire.Message) {
	resp, no, err := p.deliver(ctx, line, m)
	switch {
	case err != nil:
		p.unanswered(ctx, m, err)
	case no != nil:
		p.refused(m, no)
	default:
		p.relay(ctx, line, m, resp)
	}
}

// refused answers the client with the gateway's error, under the id the
// client is waiting for.
func (p *pipe) refused(m *mcpwire.Message, no *refusal) {
	switch {
	case no.msg.Kind != mcpwire.Error:
		p.fail(m.ID.Bytes(), "the gateway answered "+strconv.Itoa(no.status)+" "+http.StatusText(no.status), mcpwire.CodeInternal)
	case no.msg.ID.Exists() || !m.ID.Exists():
		p.write(no.body)
	default:
		e := no.msg.Error
		p.write(mcpwire.AppendError(nil, m.ID.Bytes(), int(no.code()), e.Get("message").Text(), e.Get("data").Bytes()))
	}
}

// unanswered tells the client that no answer came. A request the client
// itself gave up gets none.
func (p *pipe) unanswered(ctx context.Context, m *mcpwire.Message, err error) {
	if ctx.Err() != nil {
		return
	}
	p.b.log.Warn("no answer from the gateway", "method", m.Method, "error", err)
	why := "the gateway gave no answer: the request may or may not have been carried out"
	if ostiary.KindOf(err) == ostiary.Unauthenticated || turnedAway(err) {
		why = "the gateway does not accept this agent any more, and the request was not carried out: enrol the agent again"
	}
	p.fail(m.ID.Bytes(), why, mcpwire.CodeInternal)
}

// turnedAway reports whether the gateway ended the handshake over our
// certificate, as it does when the agent was revoked. In TLS 1.3 a client
// learns this only when it waits for the answer.
func turnedAway(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && op.Err != nil && strings.Contains(op.Err.Error(), "certificate")
}

// relay gives the client the messages of a response: one, or a stream that
// ends with the answer.
func (p *pipe) relay(ctx context.Context, line []byte, m *mcpwire.Message, resp *http.Response) {
	defer resp.Body.Close()
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != mcpwire.ContentTypeEventStream {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
		if err == nil && len(body) > maxMessage {
			err = errors.New("the answer is too long")
		}
		if err == nil {
			_, err = p.pass(line, m, resp, body)
		}
		if err != nil {
			p.unanswered(ctx, m, err)
		}
		return
	}
	events := mcpwire.NewEventReader(resp.Body, maxMessage)
	for {
		e, err := events.Next()
		if err != nil {
			p.unanswered(ctx, m, err)
			return
		}
		final, err := p.pass(line, m, resp, e.Data)
		if err != nil {
			p.unanswered(ctx, m, err)
			return
		}
		if final {
			return
		}
	}
}

// pass gives one message to the client, after making sure that it is one: the
// line must not become two. It notes what the bridge itself must know.
func (p *pipe) pass(line []byte, m *mcpwire.Message, resp *http.Response, body []byte) (final bool, err error) {
	msg, err := mcpwire.Parse(body, strictjson.Reply)
	if err != nil {
		return false, err
	}
	final = (msg.Kind == mcpwire.Result || msg.Kind == mcpwire.Error) && (!m.ID.Exists() || !msg.ID.Exists() || mcpwire.SameID(msg.ID, m.ID))
	if msg.Kind == mcpwire.Result && final {
		switch m.Method {
		case mcpwire.MethodInitialize:
			p.opened(line, resp, msg.Result)
		case mcpwire.MethodToolsList:
			p.marks.learn(msg.Result)
		}
	}
	p.write(body)
	return final, nil
}

// opened notes a legacy session.
func (p *pipe) opened(line []byte, resp *http.Response, result ostiary.Value) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = session{id: resp.Header.Get(mcpwire.HeaderSessionID), version: result.Get("protocolVersion").Text(), opening: line}
}

// initialized notes that the session is open, and that its stream may be.
func (p *pipe) initialized(line []byte) {
	p.mu.Lock()
	p.session.ready = line
	open := p.session.id != ""
	p.mu.Unlock()
	if open {
		select {
		case p.ready <- struct{}{}:
		default:
		}
	}
}

// resume opens a new session in place of one the gateway has forgotten, with
// the client's own opening words. The client does not notice.
func (p *pipe) resume(ctx context.Context, old session) error {
	p.again.Lock()
	defer p.again.Unlock()
	p.mu.Lock()
	now := p.session
	p.mu.Unlock()
	if now.id != old.id {
		return nil // somebody was quicker
	}
	resp, err := p.send(ctx, http.MethodPost, old.opening, http.Header{})
	if err != nil {
		return err
	}
	next := session{id: resp.Header.Get(mcpwire.HeaderSessionID), version: old.version, opening: old.opening, ready: old.ready}
	msg, err := answer(resp)
	if err != nil {
		return err
	}
	if next.id == "" || !msg.Result.Get("protocolVersion").Is(old.version) {
		return errors.New("the gateway opened no session like the one it lost")
	}
	if old.ready != nil {
		if resp, err = p.send(ctx, http.MethodPost, old.ready, next.headers()); err != nil {
			return err
		}
		resp.Body.Close()
	}
	p.mu.Lock()
	p.session = next
	p.mu.Unlock()
	p.b.log.Info("the session was opened again")
	return nil
}

// answer reads the result of a request the bridge itself made.
func answer(resp *http.Response) (mcpwire.Message, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return mcpwire.Message{}, errors.New("the gateway answered " + resp.Status)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media == mcpwire.ContentTypeEventStream {
		events := mcpwire.NewEventReader(resp.Body, maxMessage)
		for {
			e, err := events.Next()
			if err != nil {
				return mcpwire.Message{}, err
			}
			if msg, err := mcpwire.Parse(e.Data, strictjson.Reply); err != nil || msg.Kind == mcpwire.Result || msg.Kind == mcpwire.Error {
				return result(msg, err)
			}
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return mcpwire.Message{}, err
	}
	return result(mcpwire.Parse(body, strictjson.Reply))
}

func result(msg mcpwire.Message, err error) (mcpwire.Message, error) {
	if err == nil && msg.Kind != mcpwire.Result {
		err = errors.New("the gateway answered with an error: " + msg.Error.Get("message").Text())
	}
	return msg, err
}

// lookUp lists the tools to learn which arguments of one travel in headers.
func (p *pipe) lookUp(ctx context.Context, m *mcpwire.Message) error {
	version, cursor := revision(m), ""
	for range maxPages {
		params := append([]byte(`{"_meta":{"`+mcpwire.MetaProtocolVersion+`":`), mcpwire.AppendString(nil, version)...)
		params = append(params, `,"`+mcpwire.MetaClientCapabilities+`":{}}`...)
		if cursor != "" {
			params = mcpwire.AppendString(append(params, `,"cursor":`...), cursor)
		}
		params = append(params, '}')
		id := mcpwire.AppendString(nil, "ostiary-connect-"+strconv.FormatInt(p.ids.Add(1), 10))
		h := http.Header{}
		h.Set(mcpwire.HeaderProtocolVersion, version)
		h.Set(mcpwire.HeaderMethod, mcpwire.MethodToolsList)
		resp, err := p.send(ctx, http.MethodPost, mcpwire.AppendRequest(nil, id, mcpwire.MethodToolsList, params), h)
		if err != nil {
			return err
		}
		msg, err := answer(resp)
		if err != nil {
			return err
		}
		p.marks.learn(msg.Result)
		if cursor = msg.Result.Get("nextCursor").Text(); cursor == "" {
			return nil
		}
	}
	return errors.New("the list of tools does not end")
}

// listen keeps the stream of a legacy session open, on which the gateway
// speaks first, until the conversation ends or the gateway has no such
// stream. It begins when the client says that it is ready.
func (p *pipe) listen(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-p.ready:
	}
	wait := streamFirst
	for {
		began := time.Now()
		if more := p.stream(ctx); !more {
			return
		}
		if time.Since(began) > streamMost {
			wait = streamFirst
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		wait = min(2*wait, streamMost)
	}
}

// stream relays one stream to its end. It reports whether another may follow:
// a session can be lost and resumed; a method that does not exist, or that
// this agent may not use, stays so.
func (p *pipe) stream(ctx context.Context) (more bool) {
	p.mu.Lock()
	s := p.session
	p.mu.Unlock()
	resp, err := p.send(ctx, http.MethodGet, nil, s.headers())
	if err != nil {
		return ctx.Err() == nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		// Asking again what policy has refused would only fill the ledger.
		return resp.StatusCode != http.StatusMethodNotAllowed && resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusUnauthorized
	}
	events := mcpwire.NewEventReader(resp.Body, maxMessage)
	for {
		e, err := events.Next()
		if err != nil {
			return ctx.Err() == nil
		}
		if _, err := p.pass(nil, &mcpwire.Message{}, resp, e.Data); err != nil {
			p.b.log.Warn("a message of the gateway was not one", "error", err)
			return true
		}
	}
}
