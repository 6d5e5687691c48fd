package egress

import (
	"context"
	"net"
	"sync"

	"github.com/ostiary/ostiary"
)

// room bounds the connections to all servers together, so that however many
// servers there are, and however many of their connections are kept for the
// next call, the descriptors of others are left alone.
type room struct {
	most int
	free func() // closes the connections that no call uses

	mu   sync.Mutex // guards open
	open int
}

func (r *room) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open >= r.most {
		return false
	}
	r.open++
	return true
}

func (r *room) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
}

// within dials only where there is room. When there is none, the connections
// that no call uses make it.
func (r *room) within(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if !r.enter() {
			if r.free(); !r.enter() {
				return nil, notSent(ostiary.Errorf(ostiary.Exhausted, "connections", "the gateway has as many connections to servers as it may; try again in a moment"))
			}
		}
		c, err := dial(ctx, network, address)
		if err != nil {
			r.leave()
			return nil, err
		}
		return &meteredConn{Conn: c, closed: sync.OnceFunc(r.leave)}, nil
	}
}

// closeIdle closes every connection that no call uses.
func (e *Egress) closeIdle() {
	for _, p := range *e.table.Load() {
		if r, ok := p.upstream.(*remote); ok {
			r.conns.closeIdle()
		}
	}
}
