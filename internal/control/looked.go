package control

import (
	"github.com/ostiary/ostiary"
)

// definition names one definition of a server.
type definition struct{ kind, name string }

// offers are the definitions of a server as it offered them when it was last
// read, which is what people were shown.
func (c *Control) offers(server string) map[definition]ostiary.Digest {
	all := map[definition]ostiary.Digest{}
	for _, t := range c.o.Book.Tools() {
		if t.Server != server {
			continue
		}
		if o, ok := c.o.Book.Offered(server, t.Kind, t.Name); ok {
			all[definition{t.Kind, t.Name}] = o.Pin
		}
	}
	return all
}

// moved refuses to accept what nobody can have looked at: definitions of the
// request that the server offers otherwise than it did before it was read
// just now. A server can tell the reading before an acceptance from the
// others, and answer it with what it never showed. Of a server that had not
// been read there is nothing to compare.
func (c *Control) moved(in ToolRequest, before map[definition]ostiary.Digest) error {
	if len(before) == 0 || in.Pin != "" {
		return nil
	}
	for d, pin := range c.offers(in.Server) {
		if in.Name != "" && in.Name != d.name || in.Kind != "" && in.Kind != d.kind || before[d] == pin {
			continue
		}
		if t, ok := c.o.Book.Tool(in.Server, d.kind, d.name); ok && t.State == ostiary.ToolPinned {
			continue // it is back to what was accepted
		}
		return ostiary.Errorf(ostiary.Conflict, "definition_moved", "the server offers %s %q otherwise than when it was last read; nothing was accepted. Look at it and accept again", d.kind, d.name).At("name")
	}
	return nil
}
