package sim

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// upstream is the tool servers. What they received they received, whatever
// becomes of the gateway.
type upstream struct {
	w *world

	mu       sync.Mutex // guards what follows
	version  map[string]int
	attempts map[string]attempt
	received []received
}

type received struct {
	intent ostiary.EntryID
	ref    ostiary.EntryRef
	call   string
	server string
	args   string
	pin    ostiary.Digest
}

func newUpstream(w *world) *upstream {
	return &upstream{w: w, version: map[string]int{}, attempts: map[string]attempt{}}
}

// expect tells the model of a call that is about to be made.
func (u *upstream) expect(a attempt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attempts[a.uid] = a
}

// change makes a server offer other definitions under the same names.
func (u *upstream) change(server string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.version[server]++
}

// offers are a server's definitions now, every second version as before.
func (u *upstream) offers(server string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	text := []string{"as it was", "other words", "still other words"}[u.version[server]%3]
	if server == "mail" {
		return []string{fmt.Sprintf(`{"name":"inbox","description":%q,"annotations":{"readOnlyHint":true},"inputSchema":{"type":"object","properties":{"note":{"type":"string"}}}}`, text)}
	}
	return []string{
		fmt.Sprintf(`{"name":"pay","description":%q,"inputSchema":{"type":"object","properties":{"to":{"type":"string","maxLength":3},"amount":{"type":"integer"},"note":{"type":"string"}},"required":["to","amount"]}}`, text),
		`{"name":"balance","annotations":{"readOnlyHint":true},"inputSchema":{"type":"object","properties":{"note":{"type":"string"}}}}`,
	}
}

// receive is the moment bytes reach a tool server. It checks what can be
// checked only now, and answers as the call's own dice say.
func (u *upstream) receive(ctx context.Context, l *life, d *gate.Dispatch) (gate.Stream, error) {
	if l.dead.Load() {
		return nil, ostiary.Errorf(ostiary.Upstream, "gone", "").Because(gate.ErrNotSent)
	}
	args := string(d.Action.Arguments.Bytes())
	uid := d.Action.Arguments.Get("note").Text()
	u.mu.Lock()
	u.received = append(u.received, received{d.Intent.ID, d.Intent.Ref, uid, d.Action.Server, args, d.Action.Pin})
	a, known := u.attempts[uid]
	n := len(u.received)
	u.mu.Unlock()
	if !known || a.args != args || a.agent != d.Request.Subject.Agent || a.tool != d.Action.Server+"/"+d.Action.Tool {
		u.w.problem("law 2: the server received %s of %s, and it asked %+v", args, d.Request.Subject.Agent, a)
		return nil, ostiary.Errorf(ostiary.Upstream, "status", "400")
	}
	if a.misfit {
		u.w.problem("law 3: %s reached a server, and does not fit its pinned schema: %s", uid, args)
	}
	u.judge(a)
	u.w.tell("%s reaches the server as %s", uid, d.Intent.Ref)
	rng := rand.New(rand.NewPCG(u.w.plan.seed, uint64(len(uid))<<32+uint64(uid[1])<<16+uint64(uid[len(uid)-1])))
	s := &answer{u: u, l: l, rng: rng, how: rng.IntN(12)}
	if l.ends.receipt > 0 && n >= l.ends.receipt {
		l.die("after a call reached a server")
	}
	if s.how == 7 { // the connection breaks after it was sent
		return nil, ostiary.Errorf(ostiary.Upstream, "reset", "")
	}
	return s, nil
}

// judge asks the model whether the call may be here.
func (u *upstream) judge(a attempt) {
	w := u.w
	w.mu.Lock()
	why := w.mayCall(a.agent, a.tool, a.began, time.Now())
	if why == "" && a.tool == "bank/pay" {
		why = w.mayPay(a.agent, a.amount, a.began, time.Now())
	}
	w.mu.Unlock()
	if why != "" {
		w.problem("%s (%s %s of %s) reached a server: %s", a.uid, a.tool, a.args, a.agent, why)
	}
}

// answer is a reply in one of the ways servers reply.
type answer struct {
	u    *upstream
	l    *life
	rng  *rand.Rand
	how  int
	sent int
}

func (s *answer) Next(ctx context.Context) (gate.Frame, error) {
	s.sent++
	select {
	case <-ctx.Done():
		return gate.Frame{}, ctx.Err()
	case <-time.After(odd(s.rng, 2*time.Second)):
	}
	switch {
	case s.how == 0: // it hangs
		<-ctx.Done()
		return gate.Frame{}, ctx.Err()
	case s.how == 1: // it fails
		return gate.Frame{}, ostiary.Errorf(ostiary.Upstream, "status", "500")
	case s.how == 2: // it is cut
		return gate.Frame{}, io.EOF
	case s.how == 3: // it says nothing that means anything
		return gate.Frame{}, nil
	case s.how == 4 && s.sent < 3: // it takes its time
		return gate.Frame{Kind: gate.FrameNotification, Method: "notifications/progress", Body: parse(`{}`)}, nil
	case s.how == 5: // it panics in our own code
		panic("injected")
	case s.how == 6: // the server's own error
		return gate.Frame{Kind: gate.FrameError, Body: parse(`{"code":1,"message":"no"}`)}, nil
	}
	return gate.Frame{Kind: gate.FrameResult, Body: parse(`{"content":[]}`)}, nil // again and again, if it is asked
}

func (s *answer) Answer(context.Context, string, gate.FrameKind, []byte) error { return nil }
func (s *answer) Close() error                                                 { return nil }
