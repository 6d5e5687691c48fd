package egress

import (
	"context"
	"reflect"
	"sync"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// placed is a server in its place: with what it was made from, and how many
// calls are on it.
type placed struct {
	upstream
	made    Server
	breaker *breaker

	mu      sync.Mutex // guards what follows
	calls   int
	retired bool
	idle    chan struct{} // closed when it is retired and the last call has ended
}

func place(u upstream, made Server, b *breaker) *placed {
	return &placed{upstream: u, made: made, breaker: b, idle: make(chan struct{})}
}

// enter counts a call in. It is false if another server has taken the place.
func (p *placed) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return false
	}
	p.calls++
	return true
}

func (p *placed) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls--; p.calls == 0 && p.retired {
		close(p.idle)
	}
}

// retire lets no further call in.
func (p *placed) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return
	}
	if p.retired = true; p.calls == 0 {
		close(p.idle)
	}
}

// counted is a reply whose end its server waits for before it gives way, and
// whose course its breaker watches.
type counted struct {
	gate.Stream
	once sync.Once
	on   *placed
	try  *attempt
}

func (c *counted) Next(ctx context.Context) (gate.Frame, error) {
	f, err := c.Stream.Next(ctx)
	c.try.saw(ctx, f, err)
	return f, err
}

func (c *counted) Close() error {
	defer c.once.Do(c.on.leave)
	c.try.left()
	return c.Stream.Close()
}

// send forwards to whoever has the place now.
func (e *Egress) send(ctx context.Context, d *gate.Dispatch) (gate.Stream, error) {
	for {
		p, ok := (*e.table.Load())[d.Action.Server]
		if !ok {
			return nil, notSent(ostiary.Errorf(ostiary.NotFound, "server", "there is no server %q", d.Action.Server))
		}
		if !p.enter() {
			continue // it was replaced since the table was read; the new table is there already
		}
		try, err := p.breaker.admit()
		if err != nil {
			p.leave()
			return nil, err
		}
		s, err := p.forward(ctx, d)
		if err != nil {
			try.saw(ctx, gate.Frame{}, err)
			p.leave()
			return nil, err
		}
		return &counted{Stream: s, on: p, try: try}, nil
	}
}

// Prepare checks another set of servers against the one in place and returns
// the function that puts it there. Until that is called nothing has changed;
// an error changes nothing at all. A server that is configured as before stays
// as it is, with its process, sessions and calls. One that changed or is gone
// takes no further calls, finishes those it has, and is then let go of. The
// function may be called once; of two sets prepared at
// one time the later call wins. Prepared sets that are not put in place cost
// nothing.
func (e *Egress) Prepare(servers []Server) (commit func(), err error) {
	old := *e.table.Load()
	next := map[string]*placed{}
	for i := range servers {
		srv := servers[i]
		if p, ok := old[srv.Name]; ok && next[srv.Name] == nil && reflect.DeepEqual(p.made, srv) {
			next[srv.Name] = p
			continue
		}
		if err := e.add(next, srv); err != nil {
			return nil, err
		}
	}
	return func() { e.replace(next) }, nil
}

func (e *Egress) replace(next map[string]*placed) {
	old := *e.table.Swap(&next)
	for name, p := range old {
		if next[name] == p {
			continue
		}
		p.retire()
		waiting := e.behind(func(ctx context.Context) {
			select {
			case <-p.idle:
			case <-ctx.Done():
			}
			p.close()
		})
		if !waiting { // Close has begun: there is nothing to wait for
			p.close()
		}
	}
}
