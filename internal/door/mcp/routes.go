package mcp

import (
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// maxBody is the largest request body: a request is held whole, so it is what
// one caller can make us hold.
const maxBody = 4 << 20

// route declares one method on one kind of endpoint. A request that no route
// declares is refused, and every route's request enters the gate, which
// authenticates it: there is no route without authentication.
type route struct {
	method    string
	perServer bool // under /mcp/{server}; otherwise the aggregated /mcp
	body      int  // largest body in bytes; 0 means none may be sent
	stream    bool // the response may stay open
	serve     func(*Door, *visit)
}

// routes is the whole surface of the door.
func routes() []route {
	var all []route
	for _, perServer := range []bool{false, true} {
		all = append(all,
			route{method: http.MethodPost, perServer: perServer, body: maxBody, stream: true, serve: (*Door).post},
			route{method: http.MethodGet, perServer: perServer, stream: true, serve: (*Door).openStream},
			route{method: http.MethodDelete, perServer: perServer, serve: (*Door).endSession},
		)
	}
	return all
}

// ServeHTTP takes one request: it finds the route, checks what HTTP says
// about it, and lets the route's function make the call. A panic below
// is answered, not passed on: net/http would print what it holds.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.metadata(w, r, r.URL.EscapedPath()) {
		return
	}
	x := d.visit(w, r)
	defer x.out.finish()
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("panic at the door", "panic", ostiary.Panicked(p))
			x.out.refuse(x, ostiary.Errorf(ostiary.Internal, "panic", "internal error"))
		}
	}()
	defer x.end()
	d.serve(x)
	if x.long != nil {
		x.relay(r.Context(), x.long)
	}
}

func (d *Door) visit(w http.ResponseWriter, r *http.Request) *visit {
	x := &visit{door: d, r: r, out: newAnswer(w), creds: d.credentials(r, r.URL.EscapedPath()), version: "http"}
	if x.creds.Possession != nil {
		x.out.header().Set("DPoP-Nonce", d.identity.ProofNonce())
	}
	return x
}

func (d *Door) serve(x *visit) {
	if x.r.ContentLength != 0 {
		x.out.rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	rt, err := d.find(x.r.Method, x.r.URL.EscapedPath(), x)
	if err == nil {
		err = d.admit(x.r, rt)
	}
	if err != nil {
		x.plainFault(err)
		return
	}
	rt.serve(d, x)
}

// find looks the path and method up. Paths are compared as they were sent:
// nothing is cleaned, decoded or folded, so there is no second spelling.
func (d *Door) find(method, path string, x *visit) (*route, *ostiary.Error) {
	server, perServer := strings.CutPrefix(path, "/mcp/")
	if path != "/mcp" && (!perServer || !serverName(server)) {
		return nil, ostiary.Errorf(ostiary.NotFound, "no_such_path", "nothing is served here").At("path")
	}
	var allow []string
	for i := range d.routes {
		rt := &d.routes[i]
		if rt.perServer != perServer {
			continue
		}
		if rt.method == method {
			x.server = server
			if !perServer {
				x.server = ""
			}
			return rt, nil
		}
		allow = append(allow, rt.method)
	}
	slices.Sort(allow)
	x.out.header().Set("Allow", strings.Join(allow, ", "))
	return nil, ostiary.Errorf(ostiary.Malformed, "method_not_allowed", "this endpoint takes %s", strings.Join(allow, ", ")).At("method")
}

// single lists the headers that something is compared with or decided by: a
// second value is an attempt to be read twice, differently.
var single = []string{"Authorization", "Dpop", "Content-Type", "Content-Encoding", "Content-Length", "Origin", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id", "Last-Event-Id", mcpwire.HeaderMandate}

// admit checks the HTTP side of a request. Nothing here grants anything.
func (d *Door) admit(r *http.Request, rt *route) *ostiary.Error {
	bad := func(code, field, why string) *ostiary.Error {
		return ostiary.Errorf(ostiary.Malformed, code, "%s", why).At(field)
	}
	if r.URL.Scheme != "" || r.URL.Host != "" || r.URL.Opaque != "" || !strings.HasPrefix(r.RequestURI, "/") {
		return bad("absolute_target", "target", "the request target must be a path")
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return bad("query", "target", "this endpoint takes no query")
	}
	if !hostSyntax(r.Host) {
		return bad("host_syntax", "Host", "the Host header is not a host and port")
	}
	if !d.hosts[strings.ToLower(r.Host)] {
		return bad("host", "Host", "this gateway is not known by that host name; an operator can allow it")
	}
	for name, values := range r.Header {
		if strings.ContainsRune(name, '_') {
			return bad("header_name", "headers", "a header name holds an underscore, which some servers read as a dash")
		}
		if len(values) > 1 && (slices.Contains(single, name) || strings.HasPrefix(name, mcpwire.HeaderParamPrefix)) {
			if strings.HasPrefix(name, "Mcp-") {
				return mismatch(name, "this header may be sent once")
			}
			return bad("repeated_header", name, "this header may be sent once")
		}
	}
	if o := r.Header.Values("Origin"); len(o) == 1 && !d.settings.Load().origins[o[0]] {
		return bad("origin", "Origin", "this origin is not allowed; an operator can allow it")
	}
	if r.Header.Get("Upgrade") != "" || r.Header.Get("Http2-Settings") != "" {
		return bad("upgrade", "Upgrade", "connections cannot be upgraded here")
	}
	if h := r.Header.Values("Authorization"); len(h) == 1 {
		if scheme, _, ok := bearer(h[0]); !ok || scheme == "DPoP" && len(r.Header.Values("Dpop")) != 1 {
			return bad("authorization", "Authorization", "want the word Bearer or DPoP, a space, and one token; DPoP with one proof in the header DPoP")
		}
	}
	if h := r.Header.Values(mcpwire.HeaderMandate); len(h) == 1 && !mandateName(h[0]) {
		return bad("mandate_header", mcpwire.HeaderMandate, "want the name of one mandate")
	}
	return admitBody(r, rt)
}

func admitBody(r *http.Request, rt *route) *ostiary.Error {
	if rt.body == 0 {
		if r.ContentLength != 0 {
			return ostiary.Errorf(ostiary.Malformed, "body", "this method takes no body").At("body")
		}
		return nil
	}
	if r.Header.Get("Content-Encoding") != "" {
		return ostiary.Errorf(ostiary.Malformed, "content_encoding", "send the body as it is, without an encoding").At("Content-Encoding")
	}
	sent := r.Header.Get("Content-Type")
	if sent == mcpwire.ContentTypeJSON { // as nearly all send it
		return admitLength(r, rt)
	}
	media, params, err := mime.ParseMediaType(sent)
	charset, has := params["charset"]
	if err != nil || media != "application/json" || len(params) > 1 || (len(params) == 1 && !has) || (has && !strings.EqualFold(charset, "utf-8")) {
		return ostiary.Errorf(ostiary.Malformed, "content_type", "want Content-Type: application/json").At("Content-Type")
	}
	return admitLength(r, rt)
}

func admitLength(r *http.Request, rt *route) *ostiary.Error {
	if r.ContentLength > int64(rt.body) {
		return ostiary.Errorf(ostiary.Malformed, "too_large", "a body may have at most %d bytes", rt.body).At("Content-Length")
	}
	return nil
}

// hostSyntax accepts a name or address with an optional port and nothing
// else: no user, path, query, fragment, space, comma or trailing dot.
func hostSyntax(h string) bool {
	if h == "" || len(h) > 255 {
		return false
	}
	name, port := h, ""
	if strings.HasPrefix(h, "[") {
		end := strings.IndexByte(h, ']')
		if end < 0 {
			return false
		}
		name, port = h[1:end], h[end+1:]
		if !only(name, "0123456789abcdefABCDEF:.") {
			return false
		}
	} else {
		if i := strings.IndexByte(h, ':'); i >= 0 {
			name, port = h[:i], h[i:]
		}
		if !only(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") || strings.HasSuffix(name, ".") {
			return false
		}
	}
	if port == "" {
		return name != ""
	}
	return name != "" && port[0] == ':' && len(port) > 1 && len(port) <= 6 && only(port[1:], "0123456789")
}

func only(s, alphabet string) bool {
	for i := range len(s) {
		if strings.IndexByte(alphabet, s[i]) < 0 {
			return false
		}
	}
	return true
}
