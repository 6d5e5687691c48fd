package bridge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// maxLine is the longest message taken from the client: what the
	// gateway takes.
	maxLine = 4 << 20
	// maxMessage is the longest message given to the client: what the
	// gateway gives.
	maxMessage = 16 << 20
	// maxRefusal bounds the body of an HTTP error.
	maxRefusal = 1 << 20
	// maxInflight bounds requests under way: each is a goroutine and a
	// connection. What is beyond is refused rather than left waiting, since
	// the message that cancels one may stand behind it.
	maxInflight = 256
	// drain is how long answers may still come after the client closed its
	// end: a script writes its requests and closes.
	drain = 2 * time.Second
	// noteTimeout bounds the delivery of a message that has no answer.
	noteTimeout = 30 * time.Second
)

// Stdio relays between a local client that speaks newline-delimited JSON-RPC
// and the gateway's endpoint ("/mcp" or "/mcp/<server>"). It returns nil when
// in ends, after ending the session, or the context's error when ctx does. It
// renews the SVID meanwhile. A Read of in that nothing can interrupt is left
// behind when ctx ends first.
func (b *Bridge) Stdio(ctx context.Context, endpoint string, in io.Reader, out io.Writer) error {
	if err := checkEndpoint(endpoint); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{b: b, url: b.gateway + endpoint, out: out, cancel: cancel, inflight: map[*flight]struct{}{}, ready: make(chan struct{}, 1)}
	var keeper sync.WaitGroup
	keeper.Go(func() { b.keep(ctx) })
	defer keeper.Wait()
	defer cancel()
	p.streams.Go(func() { p.listen(ctx) })
	err := p.run(ctx, in)
	p.end(context.WithoutCancel(ctx))
	return err
}

// pipe is one client's conversation.
type pipe struct {
	b      *Bridge
	url    string
	cancel context.CancelFunc
	marks  marks

	calls   sync.WaitGroup // requests under way
	streams sync.WaitGroup // the stream of a legacy session
	ready   chan struct{}  // a word that the stream may be opened

	wmu    sync.Mutex // guards out: one whole line at a time
	out    io.Writer
	broken error // the first failure to write; sticky

	mu       sync.Mutex // guards what follows
	inflight map[*flight]struct{}
	version  string // the last revision spoken
	session  session

	again sync.Mutex // one resumption at a time
	ids   atomic.Int64
}

// run reads lines until in or ctx ends.
func (p *pipe) run(ctx context.Context, in io.Reader) error {
	lines, failed := make(chan []byte), make(chan error, 1)
	go func() { // ends with in, or with ctx at the next line
		defer close(lines)
		failed <- readLines(in, func(line []byte) bool {
			select {
			case lines <- line:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			p.calls.Wait()
			return errors.Join(p.failure(), ctx.Err())
		case line, ok := <-lines:
			if !ok {
				p.finish(ctx)
				return errors.Join(p.failure(), <-failed)
			}
			p.take(ctx, line)
		}
	}
}

// readLines gives each line to f, without its end, until f returns false. A
// line over the limit is given as nil.
func readLines(in io.Reader, f func([]byte) bool) error {
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		line, over, err := readLine(r)
		line = bytes.TrimSuffix(line, []byte("\r"))
		if over {
			line = nil
		}
		if (over || len(bytes.TrimSpace(line)) > 0) && !f(line) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine returns a fresh slice: the document that is made of it keeps it.
func readLine(r *bufio.Reader) (line []byte, over bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine+2 {
			over, line = true, nil
		}
		if !over {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(line, []byte("\n")), over, err
		}
	}
}

// finish waits a little for answers under way, then cancels them.
func (p *pipe) finish(ctx context.Context) {
	done := make(chan struct{})
	go func() { p.calls.Wait(); close(done) }()
	t := time.NewTimer(drain)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
	p.cancel()
	<-done
}

// end waits for the session's stream and gives the session up.
func (p *pipe) end(ctx context.Context) {
	p.cancel()
	p.streams.Wait()
	p.mu.Lock()
	s := p.session
	p.mu.Unlock()
	if s.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	if resp, err := p.send(ctx, http.MethodDelete, nil, s.headers()); err == nil {
		resp.Body.Close()
	}
}

// take handles one line of the client. Requests are answered in their own
// time; everything else is delivered before the next line is read, so that
// what follows it finds it done.
func (p *pipe) take(ctx context.Context, line []byte) {
	if line == nil {
		p.fail(nil, "the message is longer than "+strconv.Itoa(maxLine)+" bytes, which is the most the gateway takes", mcpwire.CodeInvalidRequest)
		return
	}
	m, err := mcpwire.Parse(bytes.Clone(line), strictjson.Request)
	if err != nil {
		// Not ours to refuse: the gateway does, and writes it down.
		p.start(ctx, line, &mcpwire.Message{ID: m.ID}, false)
		return
	}
	if v := revision(&m); v != "" {
		p.mu.Lock()
		p.version = v
		p.mu.Unlock()
	}
	switch {
	case m.Kind == mcpwire.Request:
		p.start(ctx, line, &m, m.Method == mcpwire.MethodInitialize)
	case m.Method == mcpwire.NotifyCancelled && p.cancelled(m.Params.Get("requestId")):
	default:
		p.note(ctx, line, &m)
	}
}

// cancelled ends the request a client no longer wants. In 2026-07-28 closing
// its response is the whole message; older revisions send it on as well.
func (p *pipe) cancelled(id ostiary.Value) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session.id != "" || !mcpwire.ValidID(id) {
		return false
	}
	for f := range p.inflight {
		if f.key == key(id) {
			f.stop()
		}
	}
	return p.version == mcpwire.Version20260728
}

// flight is a request under way. A client that has its answer may use the id
// again before we are done with the first, so an id names all that have it.
type flight struct {
	key  string
	stop context.CancelFunc
}

// key names a request by its id: a string never equals a number.
func key(id ostiary.Value) string {
	if id.Kind() == ostiary.String {
		return `"` + id.Text()
	}
	return id.Literal()
}

// start sends a request. With wait it returns when the answer is through.
func (p *pipe) start(ctx context.Context, line []byte, m *mcpwire.Message, wait bool) {
	ctx, stop := context.WithCancel(ctx)
	f := &flight{key(m.ID), stop}
	p.mu.Lock()
	if len(p.inflight) >= maxInflight {
		p.mu.Unlock()
		stop()
		p.fail(m.ID.Bytes(), "too many requests are under way: wait for answers first", mcpwire.CodeInternal)
		return
	}
	p.inflight[f] = struct{}{}
	p.mu.Unlock()
	run := func() {
		p.exchange(ctx, line, m)
		stop()
		p.mu.Lock()
		delete(p.inflight, f)
		p.mu.Unlock()
	}
	if wait {
		run()
		return
	}
	p.calls.Go(run)
}

// note delivers a notification or an answer.
func (p *pipe) note(ctx context.Context, line []byte, m *mcpwire.Message) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	resp, no, err := p.deliver(ctx, line, m)
	switch {
	case err != nil:
		p.b.log.Warn("a message was not delivered", "method", m.Method, "error", err)
		return
	case no != nil:
		p.b.log.Warn("a message was refused", "method", m.Method, "status", no.status)
		return
	}
	resp.Body.Close()
	if m.Method == mcpwire.NotifyInitialized {
		p.initialized(line)
	}
}

// headers returns what goes with a message, and the session it is sent in.
func (p *pipe) headers(m *mcpwire.Message) (http.Header, session) {
	p.mu.Lock()
	s, last := p.session, p.version
	p.mu.Unlock()
	version := revision(m)
	if version == "" && s.id == "" && s.version == "" && m.Kind == mcpwire.Notification {
		version = last // a notification need not name its revision
	}
	if version != "" {
		h := http.Header{}
		mirror(h, m, version, &p.marks)
		return h, session{}
	}
	if m.Method == mcpwire.MethodInitialize {
		return http.Header{}, session{}
	}
	return s.headers(), s
}

// send posts bytes as they are, once.
func (p *pipe) send(ctx context.Context, method string, body []byte, h http.Header) (*http.Response, error) {
	client, err := p.b.client(ctx)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.url, r)
	if err != nil {
		return nil, err
	}
	req.Header = h.Clone() // no key that would let a transport send twice what it has begun to send
	if body != nil {
		req.Header.Set("Content-Type", mcpwire.ContentTypeJSON)
	}
	accept := mcpwire.ContentTypeEventStream
	if method == http.MethodPost {
		accept = mcpwire.ContentTypeJSON + ", " + mcpwire.ContentTypeEventStream
	}
	req.Header.Set("Accept", accept)
	return client.Do(req)
}

// write gives one message to the client, on one line.
func (p *pipe) write(message []byte) {
	line := append(oneLine(message), '\n')
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if p.broken != nil {
		return
	}
	if _, err := p.out.Write(line); err != nil {
		p.broken = err
		p.cancel() // nobody reads any more
	}
}

func (p *pipe) failure() error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	return p.broken
}

// oneLine replaces line ends by spaces. In one whole JSON document they stand
// between tokens only.
func oneLine(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if c == '\n' || c == '\r' {
			out[i] = ' '
		}
	}
	return out
}

// fail answers a request in the gateway's place.
func (p *pipe) fail(id []byte, why string, code int) {
	p.write(mcpwire.AppendError(nil, id, code, why, nil))
}
