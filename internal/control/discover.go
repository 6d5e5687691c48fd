package control

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	maxPages       = 64               // pages of one list: 64 pages of a hundred are more than any agent can use
	maxDefinitions = 4096             // definitions of one server over all lists
	maxList        = 16 << 20         // bytes of one list over all its pages, which stay in memory: 64 definitions of the largest size, thousands of real ones
	readTimeout    = 30 * time.Second // one server's definitions; a stdio server may have to start first
)

type list struct{ kind, method, member string }

// lists are the methods that say what a server offers.
var lists = []list{
	{catalog.KindTool, "tools/list", "tools"},
	{catalog.KindPrompt, "prompts/list", "prompts"},
	{catalog.KindResource, "resources/list", "resources"},
	{catalog.KindTemplate, "resources/templates/list", "resourceTemplates"},
}

// Discover reads a server's definitions through the gate, as the gateway
// itself, and compares them with the accepted ones. A server that does not
// know a list offers none of its kind; any other failure leaves the rest of
// the catalog as it was. What a server wrote cannot end the process: a panic
// is such a failure.
func (c *Control) Discover(ctx context.Context, server string) (changes []catalog.Change, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			changes, err = nil, ostiary.Errorf(ostiary.Internal, "panic", "what %s offers could not be read", server).Because(ostiary.Panicked(p))
		}
		c.noteReading(server, err)
	}()
	total := 0
	for _, l := range lists {
		offered, err := c.readList(ctx, server, l.kind, l.method, l.member)
		if total += len(offered); err == nil && total > maxDefinitions {
			err = ostiary.Errorf(ostiary.Upstream, "too_many_definitions", "%s offers more than %d definitions", server, maxDefinitions)
		}
		if err != nil {
			return nil, err
		}
		changes = append(changes, c.o.Book.Observe(server, l.kind, offered)...)
	}
	return changes, nil
}

// tally counts a server's definitions that a person should look at: accepted
// ones that it no longer offers as they were accepted, and ones that nobody
// accepted yet.
func (c *Control) tally(server string) (changed, waiting int) {
	for _, t := range c.o.Book.Tools() {
		switch {
		case t.Server != server:
		case t.State == ostiary.ToolChanged || t.State == ostiary.ToolGone:
			changed++
		case t.State == ostiary.ToolUnpinned || t.State == ostiary.ToolQuarantined:
			waiting++
		}
	}
	return changed, waiting
}

func (c *Control) noteReading(server string, err error) {
	r := Reading{At: c.o.Clock()}
	if err != nil {
		e := ostiary.AsError(err)
		if r.Err = e.Detail; cause(e) != "" {
			r.Err += ": " + cause(e)
		}
	}
	c.mu.Lock()
	was := c.last[server]
	c.last[server] = r
	c.mu.Unlock()
	switch { // once, not at every reading of a server that stays down
	case r.Err == was.Err:
	case r.Err != "":
		c.o.Logger.Warn("cannot read a server's definitions", "server", server, "error", err)
	default:
		c.o.Logger.Info("a server's definitions can be read again", "server", server)
	}
}

func (c *Control) readList(ctx context.Context, server, kind, method, member string) ([]ostiary.Tool, error) {
	var out []ostiary.Tool
	cursor, size := "", 0
	for range maxPages {
		result, err := c.ask(ctx, server, method, cursor)
		if err != nil || !result.Exists() {
			return nil, err
		}
		if size += len(result.Bytes()); size > maxList {
			return nil, ostiary.Errorf(ostiary.Upstream, "list_too_large", "%s answers %s with more than %d MiB", server, method, maxList>>20)
		}
		for _, def := range result.Get(member).Elements() {
			out = append(out, catalog.ParseDefinition(server, kind, def))
		}
		next := result.Get("nextCursor").Text()
		if next == "" || next == cursor {
			return out, nil
		}
		cursor = next
	}
	return nil, ostiary.Errorf(ostiary.Upstream, "too_many_pages", "%s does not come to the end of %s", server, method)
}

// ask makes one call of the gateway's own. An Absent value means that the
// server does not know the method.
func (c *Control) ask(ctx context.Context, server, method, cursor string) (ostiary.Value, error) {
	params := []byte("{}")
	if cursor != "" {
		params = append(mcpwire.AppendString([]byte(`{"cursor":`), cursor), '}')
	}
	doc, err := strictjson.Parse(params, strictjson.Request)
	if err != nil {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Upstream, "cursor", "%s sent an unusable cursor", server).Because(err)
	}
	reply, err := c.o.Gate.Handle(ctx, gate.Call{
		Credentials: ostiary.Credentials{Self: c.o.Authority.Self(), Remote: "self"},
		Action:      ostiary.Action{Name: policy.ActionDiscoverServer, Method: method, Server: server, Arguments: doc.Root()},
		Protocol:    "self",
	})
	if err != nil {
		return ostiary.Value{}, err
	}
	defer reply.Close()
	for {
		f, err := reply.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return ostiary.Value{}, ostiary.Errorf(ostiary.Upstream, "no_reply", "%s did not answer %s", server, method)
		case err != nil:
			return ostiary.Value{}, err
		case f.Kind == gate.FrameResult:
			return f.Body, nil
		case f.Kind == gate.FrameError:
			if code, _ := f.Body.Get("code").Int(); code == mcpwire.CodeMethodNotFound {
				return ostiary.Value{}, nil
			}
			return ostiary.Value{}, ostiary.Errorf(ostiary.Upstream, "server_error", "%s answered %s with an error", server, method)
		case f.Kind == gate.FrameRequest:
			if err := reply.Answer(ctx, f.ID, gate.FrameError, []byte(`{"code":-32601,"message":"not available while reading definitions"}`)); err != nil {
				return ostiary.Value{}, err
			}
		}
	}
}

// Watch reads every server's definitions at each interval, until ctx ends.
func (c *Control) Watch(ctx context.Context) {
	for {
		next := time.NewTimer(c.settings.Load().Recheck)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-c.changed: // the interval may be another one now
			next.Stop()
		case <-next.C:
			for _, s := range c.settings.Load().Servers {
				if ctx.Err() == nil {
					c.Discover(ctx, s)
				}
			}
		}
	}
}
