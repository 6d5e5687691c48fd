package mcp

import (
	"context"
	"errors"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// listed says how each list is built: the kind of definition, the result's
// member, and the member of a definition that the aggregated endpoint
// rewrites.
func listed(method string) (kind, member, key string) {
	switch method {
	case "tools/list":
		return "tool", "tools", "name"
	case "prompts/list":
		return "prompt", "prompts", "name"
	case "resources/list":
		return "resource", "resources", "uri"
	default:
		return "template", "resourceTemplates", "uriTemplate"
	}
}

// ours bounds documents of our own making, which are made of definitions that
// were within limits when they were accepted.
var ours = strictjson.Limits{Bytes: 64 << 20, Depth: 80, Nodes: 4 << 20, Elements: 64 << 10, Literal: 64, Key: 512, NUL: true}

// list answers a list from the catalog: what is pinned and may be used by
// this caller, in one page.
func (d *Door) list(x *visit, _ method) {
	if c := x.params().Get("cursor"); c.Exists() {
		x.fault(malformed("cursor", "/params/cursor", "lists have one page here; this cursor was never issued"))
		return
	}
	x.local(x.action, func(_ context.Context, q *gate.Dispatch) (gate.Stream, error) {
		kind, member, key := listed(x.msg.Method)
		var tools []*ostiary.Tool
		for _, t := range d.catalog.Tools() {
			if t.Kind == kind && d.offered(x.server, t) {
				tools = append(tools, t)
			}
		}
		show := d.visible.Visible(q.Request, tools)
		b := append([]byte(`{"`), member...)
		b = append(b, `":[`...)
		n := 0
		for i, t := range tools {
			if i >= len(show) || !show[i] {
				continue
			}
			if n++; n > 1 {
				b = append(b, ',')
			}
			b = d.appendDefinition(b, x.server, key, t)
		}
		if kind == "tool" && d.comesBack(resultTool) {
			if n > 0 {
				b = append(b, ',')
			}
			b = append(b, resultDefinition...)
		}
		b = append(b, ']')
		if !x.legacy() {
			b = append(b, `,"resultType":"complete","ttlMs":0,"cacheScope":"private"`...)
		}
		return ourResult(append(b, '}'))
	})
}

// offered reports whether a definition belongs to the endpoint and is
// accepted as it stands. What changed, is quarantined or gone is not shown.
func (d *Door) offered(endpoint string, t *ostiary.Tool) bool {
	if endpoint != "" && t.Server != endpoint || t.State != ostiary.ToolPinned {
		return false
	}
	if endpoint != "" && t.Kind == "tool" && d.comesBack(t.Name) { // ours has that name here
		return false
	}
	_, configured := d.server(t.Server)
	return configured && t.Definition.Kind() == ostiary.Object
}

// appendDefinition copies the pinned bytes. On the aggregated endpoint the
// one value under key is replaced by its offset; everything else is what was
// accepted, byte for byte (law 11).
func (d *Door) appendDefinition(b []byte, endpoint, key string, t *ostiary.Tool) []byte {
	def := t.Definition.Bytes()
	own := t.Definition.Get(key)
	shown := own.Text()
	if endpoint == "" {
		shown = d.shownAs(t, key, shown)
	}
	if own.Kind() != ostiary.String || shown == own.Text() {
		return append(b, def...)
	}
	base, _ := t.Definition.Span()
	start, end := own.Span()
	b = append(b, def[:start-base]...)
	b = mcpwire.AppendString(b, shown)
	return append(b, def[end-base:]...)
}

// shownAs is the aggregated name of a definition: prefixed with its server.
// A resource keeps its own URI while no other server has the same one, since
// URIs also stand in results, where nothing is rewritten. Templates are always
// prefixed: which server an expanded template belongs to could not be told.
func (d *Door) shownAs(t *ostiary.Tool, key, own string) string {
	switch key {
	case "name":
		return t.Server + separator + own
	case "uri":
		if server, ok := d.uniqueURI("resource", own); ok && server == t.Server {
			return own
		}
	}
	return uriPrefix + t.Server + "/" + own
}

// uriPrefix begins the aggregated form of a resource URI: the server's name
// and the server's own URI follow.
const uriPrefix = "ostiary://"

// uniqueURI returns the one configured server that has pinned the URI.
func (d *Door) uniqueURI(kind, uri string) (server string, ok bool) {
	for _, t := range d.catalog.Tools() {
		if t.Name != uri || t.Kind != kind || !d.offered("", t) { // resources and templates are named by their address
			continue
		}
		if ok {
			return "", false
		}
		server, ok = t.Server, true
	}
	return server, ok
}

// maxURI bounds a resource URI.
const maxURI = 8 << 10

// addressed finds whose resource a URI names, and the server's own form.
func (d *Door) addressed(x *visit, v ostiary.Value, field, kind string) (server, uri string, e *ostiary.Error) {
	uri = v.Text()
	if v.Kind() != ostiary.String || uri == "" || len(uri) > maxURI {
		return "", "", malformed("params", field, "a URI of at most 8192 bytes is required")
	}
	if x.server != "" {
		return x.server, uri, nil
	}
	if rest, ok := strings.CutPrefix(uri, uriPrefix); ok {
		server, own, _ := strings.Cut(rest, "/")
		if _, configured := d.server(server); configured && own != "" {
			return server, own, nil
		}
	} else if server, ok := d.uniqueURI(kind, uri); ok {
		return server, uri, nil
	}
	return "", "", ostiary.Errorf(ostiary.NotFound, "unknown_resource", "there is no such resource").At(field)
}

// ourResult is a reply of one result of our own making.
func ourResult(b []byte) (gate.Stream, error) {
	doc, err := strictjson.Parse(b, ours)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Internal, "own_result", "internal error").Because(errors.Join(err, gate.ErrNotSent))
	}
	return gate.Whole(gate.FrameResult, doc.Root()), nil
}
