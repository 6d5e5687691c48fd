package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	maxRequest      = 4 << 20                // bytes of one HTTP body, what a gateway may send at most
	maxLine         = 4 << 20                // bytes of one message over stdio, likewise
	headTime        = 5 * time.Second        // for a request's head: the only client is on this machine
	closeTime       = 5 * time.Second        // for open streams to end when the server stops
	sessionTime     = 10 * time.Minute       // an idle session of the 2025 revisions is dropped after it
	triggerInterval = 200 * time.Millisecond // how soon a trigger file is noticed when nobody calls
)

// ServerOptions say what the tool server serves. The zero value serves
// nothing and is refused.
type ServerOptions struct {
	// HTTP is the loopback address to serve on, for example "127.0.0.1:0".
	// Each family is served under its own path (/bank, /inbox, /documents,
	// /lab) and all that are offered together under /mcp. The address is
	// announced as one line of JSON on stdout: {"listening":"http://…"}.
	// The server ends when its stdin does, so that it cannot outlive the
	// process that started it.
	HTTP string

	// Stdio serves all offered families on stdin and stdout instead. The
	// server ends when stdin does.
	Stdio bool

	// Families are the ones to offer; none means all.
	Families []string

	// Legacy leaves out 2026-07-28: the server then speaks only the revisions
	// with a handshake, as most servers still do.
	Legacy bool

	// Journal is the file events are written to; "" writes none.
	Journal string

	// Trigger is a file whose existence changes the definition of
	// read_message, and whose removal changes it back; "" never does.
	Trigger string

	// Guard wraps the HTTP handler and lets through only what a gateway
	// cleared. Without one the server does not start over HTTP, unless
	// Unguarded says that anybody on this machine may call the tools.
	Guard     func(http.Handler) http.Handler
	Unguarded bool

	Log *slog.Logger // nil discards
}

// Announcement is the line an HTTP server writes to stdout once it listens.
type Announcement struct {
	Listening string `json:"listening"` // "http://127.0.0.1:43121", without a path
}

// RunServer serves until ctx is done or stdin ends, and closes what it
// opened. It returns nil after an orderly end.
func RunServer(ctx context.Context, o ServerOptions, stdin io.Reader, stdout io.Writer) error {
	if o.Stdio == (o.HTTP != "") {
		return errors.New("the tool server serves either over stdio or on an HTTP address: say which")
	}
	t, err := newToolServer(o)
	if err != nil {
		return err
	}
	defer t.journal.Close()

	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { t.watch(ctx) })
	defer watcher.Wait()
	defer cancel()

	if o.Stdio {
		return t.serveStdio(ctx, stdin, stdout)
	}
	return t.serveHTTP(ctx, cancel, stdin, stdout)
}

// toolServer is one running tool server: a world, and the MCP servers that
// show it.
type toolServer struct {
	*world
	options ServerOptions
	journal *Journal
	servers map[string]*mcp.Server // by family, and "mcp" for all of them

	mu      sync.Mutex
	changed bool // whether read_message is served changed; guarded by mu
}

func newToolServer(o ServerOptions) (*toolServer, error) {
	if len(o.Families) == 0 {
		o.Families = families
	}
	for _, f := range o.Families {
		if !slices.Contains(families, f) {
			return nil, fmt.Errorf("there is no family of tools %q; there are %s", f, strings.Join(families, ", "))
		}
	}
	if o.HTTP != "" && o.Guard == nil && !o.Unguarded {
		return nil, errors.New("the tool server does not serve over HTTP without a guard")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &toolServer{options: o, servers: map[string]*mcp.Server{}}
	if o.Journal != "" {
		var err error
		if t.journal, err = OpenJournal(o.Journal); err != nil {
			return nil, err
		}
	}
	t.world = newWorld(t.journal, o.Log)
	for _, f := range o.Families {
		t.servers[f] = t.server([]string{f}, o.Legacy)
	}
	t.servers["mcp"] = t.server(o.Families, o.Legacy)
	t.follow()
	return t, nil
}

// follow makes the served definition what the trigger file says.
func (t *toolServer) follow() {
	if t.options.Trigger == "" || !slices.Contains(t.options.Families, Inbox) {
		return
	}
	_, err := os.Stat(t.options.Trigger)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.log.Error("looking at the trigger file", "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if changed := err == nil; changed != t.changed {
		t.changed = changed
		t.addReadMessage(t.servers[Inbox], changed)
		t.addReadMessage(t.servers["mcp"], changed)
		t.journal.Write(Event{What: Changed, Tool: "read_message", Detail: fmt.Sprintf("changed=%t", changed)})
	}
}

// watch follows the trigger file when nobody calls, so that clients that
// listen for changes hear of one.
func (t *toolServer) watch(ctx context.Context) {
	tick := time.NewTicker(triggerInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.follow()
		}
	}
}

func (t *toolServer) serveHTTP(ctx context.Context, cancel context.CancelFunc, stdin io.Reader, stdout io.Writer) error {
	l, err := listenLoopback(ctx, t.options.HTTP)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           t.handler(),
		ReadHeaderTimeout: headTime,
		ErrorLog:          slog.NewLogLogger(t.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // streams end with the server
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	// Nobody waits for this one: a read of stdin cannot be interrupted, and it ends with the process.
	go func() {
		io.Copy(io.Discard, stdin)
		cancel()
	}()

	line, err := json.Marshal(Announcement{"http://" + l.Addr().String()})
	if err == nil {
		_, err = stdout.Write(append(line, '\n'))
	}
	if err != nil {
		cancel()
	}
	<-ctx.Done()
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer stop()
	if srv.Shutdown(late) != nil {
		srv.Close()
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// listenLoopback refuses any address that other machines could reach.
func listenLoopback(ctx context.Context, addr string) (net.Listener, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("the tool server listens on a loopback address such as 127.0.0.1:0, not on %q", addr)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

// handler is the whole HTTP side: record, guard, then MCP.
func (t *toolServer) handler() http.Handler {
	mux := http.NewServeMux()
	for name, s := range t.servers {
		mux.Handle("/"+name, t.protocol(s))
	}
	var h http.Handler = mux
	if t.options.Guard != nil {
		h = t.options.Guard(h)
	}
	return t.recorded(h)
}

// protocol serves both eras under one address: requests that declare
// 2026-07-28 or later have no session, all others do.
func (t *toolServer) protocol(s *mcp.Server) http.Handler {
	get := func(*http.Request) *mcp.Server { return s }
	stateless := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{
		Stateless: true, Logger: t.log, MaxRequestBodyBytes: maxRequest, PropagateRequestCancellation: true,
	})
	sessions := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{
		Logger: t.log, MaxRequestBodyBytes: maxRequest, SessionTimeout: sessionTime,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.follow()
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" && !t.options.Legacy {
			stateless.ServeHTTP(w, r)
			return
		}
		sessions.ServeHTTP(w, r)
	})
}

// recorded writes down what arrives before anything looks at it, and what
// was refused.
func (t *toolServer) recorded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		e := Event{Via: "http", Method: r.Method, Path: r.URL.Path, Entry: r.Header.Get(EntryHeader)}
		if jerr := t.journal.received(e, body); jerr != nil {
			http.Error(w, "the journal cannot be written", http.StatusServiceUnavailable)
			return
		}
		if err != nil {
			http.Error(w, "the body could not be read", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		sw := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(sw, r)
		if sw.status >= 400 {
			e.What, e.Status = Refused, sw.status
			t.journal.Write(e)
		}
	})
}

// statusWriter remembers the status it passes on.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController flush streams through it.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (t *toolServer) serveStdio(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	err := t.servers["mcp"].Run(ctx, &mcp.IOTransport{
		Reader:        io.NopCloser(&lineRecorder{in: stdin, t: t}),
		Writer:        nopWriteCloser{stdout},
		MaxLineLength: maxLine,
	})
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// lineRecorder journals each line read through it before it is handed on.
type lineRecorder struct {
	in   io.Reader
	t    *toolServer
	line []byte
}

func (l *lineRecorder) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	rest := p[:n]
	for len(rest) > 0 {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			if len(l.line) < maxLine { // the transport refuses a longer line
				l.line = append(l.line, rest...)
			}
			break
		}
		l.t.follow()
		if jerr := l.t.journal.received(Event{Via: "stdio"}, append(l.line, rest[:i]...)); jerr != nil {
			return 0, jerr
		}
		l.line, rest = l.line[:0], rest[i+1:]
	}
	return n, err
}
