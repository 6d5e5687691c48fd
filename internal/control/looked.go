package control

import (
	"sync"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
)

// offers are the definitions of a server as it offered them when it was last
// read.
func (c *Control) offers(server string) map[catalog.Named]ostiary.Digest {
	all := map[catalog.Named]ostiary.Digest{}
	for _, t := range c.o.Book.Tools() {
		if t.Server != server {
			continue
		}
		if o, ok := c.o.Book.Offered(server, t.Kind, t.Name); ok {
			all[catalog.Named{Kind: t.Kind, Name: t.Name}] = o.Pin
		}
	}
	return all
}

// is reports whether a request is about a definition.
func (in *ToolRequest) is(d catalog.Named) bool {
	return (in.Name == "" || in.Name == d.Name) && (in.Kind == "" || in.Kind == d.Kind)
}

// moved refuses to accept what nobody can have looked at: definitions of the
// request that the server offers otherwise than it did before it was read
// just now. A server can tell the reading before an acceptance from the
// others, and answer it with what it never showed. Of a server that had not
// been read there is nothing to compare.
func (c *Control) moved(in ToolRequest, before, now map[catalog.Named]ostiary.Digest) error {
	if len(before) == 0 || in.Pin != "" {
		return nil
	}
	for d, pin := range now {
		if !in.is(d) || before[d] == pin {
			continue
		}
		if t, ok := c.o.Book.Tool(in.Server, d.Kind, d.Name); ok && t.State == ostiary.ToolPinned {
			continue // it is back to what was accepted
		}
		return ostiary.Errorf(ostiary.Conflict, "definition_moved", "the server offers %s %q otherwise than when it was last read; nothing was accepted. Look at it and accept again", d.Kind, d.Name).At("name")
	}
	return nil
}

// maxShown bounds how many definitions are remembered as shown: more than one
// person looks at between two acceptances.
const maxShown = 8192

// looked remembers which offer of a definition each operator was last shown.
// The servers are read again all the time, so what is offered when somebody
// accepts need not be what they read a minute ago. What is forgotten, at a
// restart or beyond the limit, must be looked at again. Safe for concurrent
// use; the zero value is ready.
type looked struct {
	mu  sync.Mutex
	was map[look]ostiary.Digest
}

type look struct {
	operator, server string
	catalog.Named
}

func (l *looked) note(operator, server string, d catalog.Named, pin ostiary.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.was == nil || len(l.was) >= maxShown {
		l.was = map[look]ostiary.Digest{}
	}
	l.was[look{operator, server, d}] = pin
}

func (l *looked) at(operator, server string, d catalog.Named) ostiary.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.was[look{operator, server, d}]
}

// unseen refuses to accept, without a pin that says what was looked at, what
// takes the place of an accepted definition or must be forced, unless it is
// what this operator was shown.
func (c *Control) unseen(operator string, in ToolRequest, now map[catalog.Named]ostiary.Digest) error {
	if in.Pin != "" {
		return nil
	}
	if in.Force && in.Kind == "" {
		in.Kind = catalog.KindTool // what force is about when it is not said
	}
	for d, pin := range now {
		t, ok := c.o.Book.Tool(in.Server, d.Kind, d.Name)
		if !in.is(d) || !ok || t.State != ostiary.ToolChanged && !in.Force || c.looked.at(operator, in.Server, d) == pin {
			continue
		}
		return ostiary.Errorf(ostiary.Conflict, "not_shown", "you were not shown %s %q as the server offers it now; nothing was accepted. Look at it (ostiary tools diff), then accept it", d.Kind, d.Name).At("name")
	}
	return nil
}
