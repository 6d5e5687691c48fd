package mcp

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// listenPoll is how soon a listening client learns of a changed list, and
	// at the latest loses its stream when its credential ends. What others
	// decide about it wakes it sooner; see Wake.
	listenPoll = 2 * time.Second
	// maxListening bounds open streams of this kind; each costs a goroutine
	// and an open exchange in the gate.
	maxListening = 20000
	// maxListeningPerAgent leaves room for the others.
	maxListeningPerAgent = maxListening / 2
)

// kinds of lists a client can listen to, in the order they are told.
type listKinds struct{ tools, prompts, resources bool }

// listen takes subscriptions/listen: an acknowledgement, and then a word
// whenever a list the client chose has changed.
func (d *Door) listen(x *visit, _ method) {
	wanted := x.params().Get("notifications")
	if wanted.Kind() != ostiary.Object {
		x.fault(malformed("params", "/params/notifications", "notifications must be an object"))
		return
	}
	if !x.acceptsStream() {
		x.fault(malformed("accept", "Accept", "this method answers with text/event-stream"))
		return
	}
	on := func(name string) bool { return wanted.Get(name).Kind() == ostiary.True }
	l := &listening{
		door: d, creds: x.creds, action: x.action, subscription: x.msg.ID.Bytes(), acknowledge: true,
		want: listKinds{on("toolsListChanged"), on("promptsListChanged"), on("resourcesListChanged")},
	}
	x.stream(l.open)
}

// openStream takes GET: the stream of a legacy session. Nothing can be
// resumed on it, so Last-Event-ID changes nothing, whoever's it is.
func (d *Door) openStream(x *visit) {
	if e := d.sessionOnly(x); e != nil {
		x.fault(e)
		return
	}
	if !x.acceptsStream() {
		x.fault(malformed("accept", "Accept", "this method answers with text/event-stream"))
		return
	}
	if !x.session.startListening() {
		x.fault(ostiary.Errorf(ostiary.Conflict, "stream_open", "the session already has an open stream"))
		return
	}
	x.listens = true
	l := &listening{door: d, creds: x.creds, action: x.action, want: listKinds{true, true, true}, ended: x.session.ended}
	x.streamOnly = true
	x.stream(l.open)
}

func (s *session) startListening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listening {
		return false
	}
	s.listening = true
	return true
}

func (s *session) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening = false
}

// sessionAction is policy's view of GET and DELETE: listening to lists, and
// giving up what was begun.
func sessionAction(x *visit) ostiary.Action {
	name := policy.ActionSubscribe
	if x.r.Method == "DELETE" {
		name = policy.ActionCancel
	}
	return ostiary.Action{Name: name, Method: x.r.Method, Server: x.known(x.server)}
}

// listening is the reply of a long-lived stream. It is read by one goroutine.
type listening struct {
	door         *Door
	subscription []byte // the id of subscriptions/listen, nil for GET
	want         listKinds
	creds        ostiary.Credentials
	action       ostiary.Action
	agent        ostiary.AgentID // whose place it takes
	ended        <-chan struct{} // of the session; nil if there is none
	until        time.Time       // when it must have ended

	acknowledge bool
	woken       <-chan struct{} // closed by Wake
	seen        lists
	queue       []string
	over        bool

	once sync.Once
}

// open is the responder: it takes one of the places there are.
func (l *listening) open(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
	l.agent = q.Request.Subject.Agent
	l.woken = l.door.watch.wakes() // before anything is asked, so that no change is missed
	if !l.door.watch.enter(l.agent) {
		return nil, ostiary.Errorf(ostiary.Exhausted, "listening", "too many streams are open; try again later").Because(gate.ErrNotSent)
	}
	l.seen = l.door.watch.now()
	l.until = l.door.clock().Add(l.door.longest)
	return l, nil
}

func (l *listening) Next(ctx context.Context) (gate.Frame, error) {
	if l.over {
		return gate.Frame{}, io.EOF
	}
	l.wait(ctx)
	return l.next()
}

// wait returns when there is something to say, or nothing any more.
func (l *listening) wait(ctx context.Context) {
	if l.acknowledge {
		return
	}
	t := time.NewTicker(listenPoll)
	defer t.Stop()
	for len(l.queue) == 0 && !l.over {
		if l.over = !l.mayHear(ctx) || !l.door.clock().Before(l.until); l.over {
			return
		}
		if l.look(); len(l.queue) > 0 {
			return
		}
		select {
		case <-t.C:
		case <-l.woken:
			l.woken = l.door.watch.wakes()
		case <-l.ended:
			l.over = true
		case <-l.door.closed:
			l.over = true
		case <-ctx.Done():
			l.over = true // the client left, which is how a stream ends
		}
	}
}

// next is what wait found to say.
func (l *listening) next() (gate.Frame, error) {
	switch {
	case l.acknowledge:
		l.acknowledge = false
		return l.frame(mcpwire.NotifyAcknowledged, l.agreed())
	case l.over:
		return l.end()
	}
	method := l.queue[0]
	l.queue = l.queue[1:]
	return l.frame(method, "")
}

// mayHear says no to whoever was revoked or contained, or whose credential
// ended.
func (l *listening) mayHear(ctx context.Context) bool {
	s, err := l.door.identity.Authenticate(ctx, l.creds)
	return err == nil && l.door.standing.Level(&s, &l.action).Passes()
}

// look queues a notification for each list that changed.
func (l *listening) look() {
	now := l.door.watch.now()
	if l.want.tools && now.tools != l.seen.tools {
		l.queue = append(l.queue, mcpwire.NotifyToolsChanged)
	}
	if l.want.prompts && now.prompts != l.seen.prompts {
		l.queue = append(l.queue, mcpwire.NotifyPromptsChanged)
	}
	if l.want.resources && now.resources != l.seen.resources {
		l.queue = append(l.queue, mcpwire.NotifyResourcesChanged)
	}
	l.seen = now
}

// agreed is what of the client's wishes is honoured.
func (l *listening) agreed() string {
	s := ""
	for _, k := range []struct {
		on   bool
		name string
	}{{l.want.tools, "toolsListChanged"}, {l.want.prompts, "promptsListChanged"}, {l.want.resources, "resourcesListChanged"}} {
		if k.on {
			if s != "" {
				s += ","
			}
			s += `"` + k.name + `":true`
		}
	}
	return `,"notifications":{` + s + `}`
}

func (l *listening) frame(method, more string) (gate.Frame, error) {
	params := `{}`
	if l.subscription != nil {
		params = `{"_meta":` + l.meta() + more + `}`
	}
	return l.parsed(gate.FrameNotification, method, params)
}

func (l *listening) end() (gate.Frame, error) {
	result := `{}`
	if l.subscription != nil {
		result = `{"resultType":"complete","_meta":` + l.meta() + `}`
	}
	return l.parsed(gate.FrameResult, "", result)
}

func (l *listening) meta() string {
	return `{"` + mcpwire.MetaSubscriptionID + `":` + string(l.subscription) + `}`
}

func (l *listening) parsed(kind gate.FrameKind, method, body string) (gate.Frame, error) {
	doc, err := strictjson.Parse([]byte(body), ours)
	if err != nil {
		return gate.Frame{}, ostiary.Errorf(ostiary.Internal, "own_frame", "internal error").Because(err)
	}
	return gate.Frame{Kind: kind, Method: method, Body: doc.Root()}, nil
}

func (l *listening) Answer(context.Context, string, gate.FrameKind, []byte) error {
	return ostiary.Errorf(ostiary.Conflict, "nothing_asked", "nothing was asked")
}

// Close gives the place back.
func (l *listening) Close() error {
	l.once.Do(func() { l.door.watch.leave(l.agent) })
	return nil
}

// lists are digests of what is pinned.
type lists struct{ tools, prompts, resources [32]byte }

// watch says when lists changed. It asks the catalog at most once per
// listenPoll, however many listen.
type watch struct {
	catalog Catalog
	clock   func() time.Time

	mu      sync.Mutex    // guards all below
	woken   chan struct{} // closed, and replaced, by Wake
	open    int
	agents  map[ostiary.AgentID]int // how many of them are whose
	last    lists
	checked time.Time
}

func newWatch(c Catalog, clock func() time.Time) *watch {
	return &watch{catalog: c, clock: clock, woken: make(chan struct{}), agents: map[ostiary.AgentID]int{}}
}

// Wake lets every listening stream ask now whether it still may. Whoever
// follows containments and revocations calls it when they have changed. Safe
// for concurrent use.
func (d *Door) Wake() { d.watch.wake() }

func (w *watch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.woken)
	w.woken = make(chan struct{})
}

func (w *watch) wakes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.woken
}

func (w *watch) enter(a ostiary.AgentID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open >= maxListening || w.agents[a] >= maxListeningPerAgent {
		return false
	}
	w.open++
	w.agents[a]++
	return true
}

func (w *watch) leave(a ostiary.AgentID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	if w.agents[a]--; w.agents[a] == 0 {
		delete(w.agents, a)
	}
}

func (w *watch) now() lists {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.clock(); w.checked.IsZero() || t.Sub(w.checked) >= listenPoll {
		w.checked = t
		w.last = digestLists(w.catalog.Tools())
	}
	return w.last
}

func digestLists(tools []*ostiary.Tool) lists {
	t, p, r := sha256.New(), sha256.New(), sha256.New()
	for _, tool := range tools {
		h := r
		switch tool.Kind {
		case "tool":
			h = t
		case "prompt":
			h = p
		}
		fmt.Fprintf(h, "%q %q %q %x %d\n", tool.Server, tool.Kind, tool.Name, tool.Pin, tool.State)
	}
	return lists{[32]byte(t.Sum(nil)), [32]byte(p.Sum(nil)), [32]byte(r.Sum(nil))}
}
