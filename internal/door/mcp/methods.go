package mcp

import (
	"context"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// actionUntranslated names what never became an action of policy's table: it
// is recorded, refused, and asked of nobody.
const actionUntranslated = "untranslated"

// separator stands between server and name on the aggregated endpoint, as in
// policy's names.
const separator = "___"

// era says in which revisions a method exists.
type era uint8

const (
	modernOnly era = 1 << iota
	legacyOnly
	both = modernOnly | legacyOnly
)

// method says how one JSON-RPC method becomes a call.
type method struct {
	action   string // policy's name for it
	eras     era
	note     bool   // it is a notification: no id, no response
	mirrored string // the member of params that the Mcp-Name header repeats
	own      bool   // it is not counted among calls: it has limits of its own, or ends what is counted
	inputs   bool   // its result may ask the client for input, and its retry brings it
	serve    func(*Door, *visit, method)
	refused  string // why it is not served, in place of serve
}

const (
	noTasks   = "tasks are not served by this gateway"
	noUpdates = "updates of single resources are not relayed by this gateway; read the resource again"
)

// methods is the whole protocol as the door knows it. A method that is not
// here does not exist: there is no default.
func methods() map[string]method {
	return map[string]method{
		"initialize":      {action: policy.ActionInitialize, eras: legacyOnly, serve: (*Door).initialize},
		"server/discover": {action: policy.ActionInitialize, eras: modernOnly, serve: (*Door).discover},
		"ping":            {action: policy.ActionPing, eras: legacyOnly, serve: (*Door).ping},

		"tools/list":               {action: policy.ActionListTools, eras: both, serve: (*Door).list},
		"prompts/list":             {action: policy.ActionListPrompts, eras: both, serve: (*Door).list},
		"resources/list":           {action: policy.ActionListResources, eras: both, serve: (*Door).list},
		"resources/templates/list": {action: policy.ActionListTemplates, eras: both, serve: (*Door).list},

		"tools/call":          {eras: both, mirrored: "name", inputs: true, serve: (*Door).callTool},
		"prompts/get":         {action: policy.ActionGetPrompt, eras: both, mirrored: "name", inputs: true, serve: (*Door).getPrompt},
		"resources/read":      {action: policy.ActionReadResource, eras: both, mirrored: "uri", inputs: true, serve: (*Door).readResource},
		"completion/complete": {action: policy.ActionComplete, eras: both, serve: (*Door).complete},

		"subscriptions/listen":  {action: policy.ActionSubscribe, eras: modernOnly, own: true, serve: (*Door).listen},
		"resources/subscribe":   {action: policy.ActionSubscribe, eras: legacyOnly, refused: noUpdates},
		"resources/unsubscribe": {action: policy.ActionUnsubscribe, eras: legacyOnly, refused: noUpdates},
		"logging/setLevel":      {action: policy.ActionSetLogLevel, eras: legacyOnly, serve: (*Door).setLevel},

		"tasks/get":    {eras: both, mirrored: "taskId", refused: noTasks},
		"tasks/update": {eras: both, mirrored: "taskId", refused: noTasks},
		"tasks/cancel": {eras: both, mirrored: "taskId", refused: noTasks},
		"tasks/result": {eras: legacyOnly, refused: noTasks},
		"tasks/list":   {eras: legacyOnly, refused: noTasks},

		"notifications/initialized":        {action: policy.ActionInitialize, eras: legacyOnly, note: true, serve: (*Door).noted},
		"notifications/cancelled":          {action: policy.ActionCancel, eras: both, note: true, own: true, serve: (*Door).cancelled},
		"notifications/progress":           {action: policy.ActionProgress, eras: legacyOnly, note: true, serve: (*Door).noted},
		"notifications/roots/list_changed": {action: policy.ActionRootsChanged, eras: legacyOnly, note: true, serve: (*Door).noted},
	}
}

// dispatch finds the method and checks what all methods have in common.
func (d *Door) dispatch(x *visit) {
	m, known := d.methods[x.msg.Method]
	if e := d.common(x, m, known); e != nil {
		x.fault(e)
		return
	}
	m.serve(d, x, m)
}

func (d *Door) common(x *visit, m method, known bool) *ostiary.Error {
	if known && m.action != "" {
		x.action = ostiary.Action{Name: m.action, Method: x.msg.Method, Server: x.known(x.server), Arguments: x.params()}
	}
	here := legacyOnly
	if !x.legacy() {
		here = modernOnly
	}
	switch {
	case !known || m.eras&here == 0:
		return malformed("method_not_found", "/method", "there is no such method in this revision")
	case m.note && x.request():
		return malformed("id_unexpected", "/id", "a notification has no id")
	case !m.note && !x.request():
		return malformed("id_missing", "/id", "this method needs an id: it is no notification")
	}
	if k := x.params().Kind(); k != ostiary.Absent && k != ostiary.Object {
		return malformed("params", "/params", "params must be an object")
	}
	if e := d.checkHeaders(x, m); e != nil {
		return e
	}
	if m.refused != "" {
		return malformed("method_not_found", "/method", m.refused)
	}
	if _, ok := d.server(x.server); x.server != "" && !ok {
		return ostiary.Errorf(ostiary.NotFound, "unknown_server", "there is no server of that name").At("path")
	}
	return progressToken(x)
}

// progressToken keeps the client's own token: what egress sends upstream is
// another one, unique there.
func progressToken(x *visit) *ostiary.Error {
	t := x.params().Get("_meta").Get("progressToken")
	switch t.Kind() {
	case ostiary.Absent:
		return nil
	case ostiary.String:
		if len(t.Bytes()) > maxName {
			return malformed("progress_token", "/params/_meta/progressToken", "the token is too long")
		}
	case ostiary.Number:
		if _, ok := t.Int(); !ok {
			return malformed("progress_token", "/params/_meta/progressToken", "the token must be a string or an integer")
		}
	default:
		return malformed("progress_token", "/params/_meta/progressToken", "the token must be a string or an integer")
	}
	x.token = t
	return nil
}

// callTool turns tools/call into a call of one pinned tool.
func (d *Door) callTool(x *visit, m method) {
	if d.comesBack(x.params().Get("name").Text()) {
		d.comeBack(x)
		return
	}
	server, tool, e := d.named(x, "tool")
	if e != nil {
		x.fault(e)
		return
	}
	a := ostiary.Action{Name: server + separator + tool, Method: x.msg.Method, Server: server, Tool: tool, Arguments: x.params().Get("arguments")}
	x.action = a
	if e := d.checkParams(x, server, tool, a.Arguments); e != nil {
		x.fault(e)
		return
	}
	d.send(x, m, a)
}

func (d *Door) getPrompt(x *visit, m method) {
	server, prompt, e := d.named(x, "prompt")
	if e != nil {
		x.fault(e)
		return
	}
	d.send(x, m, ostiary.Action{Name: m.action, Method: x.msg.Method, Server: server, Tool: prompt, Arguments: x.params().Get("arguments")})
}

// named reads params.name and params.arguments and finds whose name it is.
func (d *Door) named(x *visit, kind string) (server, name string, e *ostiary.Error) {
	v := x.params().Get("name")
	if v.Kind() != ostiary.String || v.Is("") {
		return "", "", malformed("params", "/params/name", "a name is required")
	}
	if len(v.Text()) > maxName {
		return "", "", malformed("params", "/params/name", "the name is too long")
	}
	if k := x.params().Get("arguments").Kind(); k != ostiary.Absent && k != ostiary.Object {
		return "", "", malformed("params", "/params/arguments", "arguments must be an object")
	}
	server, name, ok := d.whose(x.server, v.Text())
	if !ok {
		return "", "", ostiary.Errorf(ostiary.NotFound, "unknown_"+kind, "there is no such %s", kind).At("/params/name")
	}
	return server, name, nil
}

// whose splits an aggregated name at the first separator: a server's name
// holds none, so there is one reading.
func (d *Door) whose(endpoint, name string) (server, own string, ok bool) {
	if endpoint != "" {
		return endpoint, name, true
	}
	server, own, ok = strings.Cut(name, separator)
	if _, configured := d.server(server); !configured || own == "" {
		return "", "", false
	}
	return server, own, ok
}

func (d *Door) readResource(x *visit, m method) {
	server, uri, e := d.addressed(x, x.params().Get("uri"), "/params/uri", "resource")
	if e != nil {
		x.fault(e)
		return
	}
	args, e := x.paramsWith("uri", x.params().Get("uri"), uri, mcpwire.AppendString(nil, uri))
	if e != nil {
		x.fault(e)
		return
	}
	d.send(x, m, ostiary.Action{Name: m.action, Method: x.msg.Method, Server: server, URI: uri, Arguments: args})
}

// paramsWith returns the params as they arrived; or, if the client addressed
// something by its aggregated name, params of our own in which that one
// member is in the server's words and every other is copied. What is decided
// on, recorded and forwarded is then these.
func (x *visit) paramsWith(member string, shown ostiary.Value, own string, raw []byte) (ostiary.Value, *ostiary.Error) {
	if shown.Is(own) {
		return x.params(), nil
	}
	drop := func(name string) bool {
		return name == member || name == "_meta" || name == "inputResponses" || name == "requestState"
	}
	doc, err := strictjson.Parse(rewrite(x.params(), drop, `"`+member+`":`+string(raw)), strictjson.Request)
	if err != nil {
		return ostiary.Value{}, ostiary.AsError(err)
	}
	return doc.Root(), nil
}

// complete asks for completions of an argument of a prompt or a template. The
// reference is in the action's Tool or URI, in the server's own words; egress
// takes only the other members of params.
func (d *Door) complete(x *visit, m method) {
	ref := x.params().Get("ref")
	a := ostiary.Action{Name: m.action, Method: x.msg.Method, Arguments: x.params()}
	switch {
	case ref.Get("type").Is("ref/prompt"):
		name := ref.Get("name")
		var ok bool
		a.Server, a.Tool, ok = d.whose(x.server, name.Text())
		if name.Kind() != ostiary.String || a.Tool == "" || len(name.Text()) > maxName {
			ok = false
		}
		if !ok {
			x.fault(ostiary.Errorf(ostiary.NotFound, "unknown_prompt", "there is no such prompt").At("/params/ref/name"))
			return
		}
	case ref.Get("type").Is("ref/resource"):
		var e *ostiary.Error
		if a.Server, a.URI, e = d.addressed(x, ref.Get("uri"), "/params/ref/uri", "template"); e == nil {
			own := append(mcpwire.AppendString([]byte(`{"type":"ref/resource","uri":`), a.URI), '}')
			a.Arguments, e = x.paramsWith("ref", ref.Get("uri"), a.URI, own)
		}
		if e != nil {
			x.fault(e)
			return
		}
	default:
		x.fault(malformed("params", "/params/ref", "ref must be a ref/prompt or a ref/resource"))
		return
	}
	if x.params().Get("argument").Kind() != ostiary.Object {
		x.fault(malformed("params", "/params/argument", "argument must be an object"))
		return
	}
	d.send(x, m, a)
}

// send makes a call that leaves for a server.
func (d *Door) send(x *visit, m method, a ostiary.Action) {
	x.action = a
	if e := d.unseal(x, m, &a); e != nil {
		x.fault(e)
		return
	}
	ctx, done, e := x.cancellable()
	if e != nil {
		x.fault(e)
		return
	}
	defer done()
	x.do(ctx, a, gate.Target{Kind: gate.ToServer})
}

// ping answers at once.
func (d *Door) ping(x *visit, _ method) {
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) { return ourResult([]byte(`{}`)) })
}

// noted takes a notification that changes nothing here: it is authenticated,
// decided on and recorded, and goes nowhere.
func (d *Door) noted(x *visit, _ method) {
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) { return ourResult([]byte(`{}`)) })
}

func (d *Door) setLevel(x *visit, _ method) {
	level, ok := logLevel(x.params().Get("level").Text())
	if !ok {
		x.fault(malformed("params", "/params/level", "there is no such log level"))
		return
	}
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		x.session.setLogLevel(level)
		return ourResult([]byte(`{}`))
	})
}

const (
	// silent is above every level: nothing is passed on.
	silent = 8
	// everything is below every level: the client of an older revision that
	// set none gets what a server chooses to say.
	everything = -1
)

// logLevel returns the rank of a level of RFC 5424.
func logLevel(s string) (int, bool) {
	for i := range silent {
		if s == levelName(i) {
			return i, true
		}
	}
	return 0, false
}

// levelName is the name of a rank, "" for what is no level.
func levelName(rank int) string {
	if rank < 0 || rank >= silent {
		return ""
	}
	return [silent]string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}[rank]
}

// discover and initialize answer from our store (law 11): what servers say of
// themselves is not passed on.
func (d *Door) discover(x *visit, _ method) {
	x.local(x.action, func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		b := []byte(`{"resultType":"complete","supportedVersions":[`)
		for i, v := range mcpwire.Versions() {
			if i > 0 {
				b = append(b, ',')
			}
			b = mcpwire.AppendString(b, v)
		}
		b = append(b, `],"capabilities":`...)
		b = d.appendCapabilities(b, x)
		b = append(b, `,"instructions":`...)
		b = mcpwire.AppendString(b, instructions)
		b = append(b, `,"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":`...)
		b = appendInfo(b)
		return ourResult(append(b, `}}`...))
	})
}

// instructions is what a model is told about being behind a door.
const instructions = "Calls pass through Ostiary, which checks each one against policy and records it. A refused call says which rule refused it and what would change that; asking again unchanged does not."

func appendInfo(b []byte) []byte {
	b = append(b, `{"name":"ostiary","version":`...)
	b = mcpwire.AppendString(b, ostiary.Version)
	return append(b, '}')
}

// appendCapabilities says what this endpoint offers, by what is pinned for it.
func (d *Door) appendCapabilities(b []byte, x *visit) []byte {
	has := map[string]bool{}
	for _, t := range d.catalog.Tools() {
		if d.offered(x.server, t) {
			has[t.Kind] = true
		}
	}
	b = append(b, `{"tools":{"listChanged":true}`...)
	if has["prompt"] {
		b = append(b, `,"prompts":{"listChanged":true}`...)
	}
	if has["resource"] || has["template"] {
		b = append(b, `,"resources":{"listChanged":true}`...)
	}
	if has["prompt"] || has["template"] {
		b = append(b, `,"completions":{}`...)
	}
	return append(b, `,"logging":{}}`...)
}
