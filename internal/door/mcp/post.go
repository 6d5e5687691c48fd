package mcp

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// bodyTimeout bounds how long a body may take to arrive, read by us or thrown
// away by net/http before it answers: a stalled upload holds memory and a
// connection.
const bodyTimeout = 30 * time.Second

// post takes one POSTed message.
func (d *Door) post(x *visit) {
	// A body is held whole, so only of somebody, and only so many. The call
	// itself is authenticated by the gate.
	subject, e := d.identity.Authenticate(x.r.Context(), x.creds)
	if e != nil {
		x.fault(ostiary.AsError(e))
		return
	}
	known(x.r)
	announced := announced(x.r)
	if err := d.bodies.hold(subject.Agent, announced); err != nil {
		x.fault(err)
		return
	}
	x.holder, x.held = subject.Agent, announced
	body, err := readBody(x)
	if err != nil {
		x.fault(err)
		return
	}
	x.held = int64(len(body))
	d.bodies.release(subject.Agent, announced-x.held)
	msg, perr := mcpwire.Parse(body, strictjson.Request)
	x.msg = msg // of a broken envelope, the id if it could be told
	if perr != nil {
		x.fault(ostiary.AsError(perr))
		return
	}
	if e := d.settleRevision(x); e != nil {
		x.fault(e)
		return
	}
	switch msg.Kind {
	case mcpwire.Result, mcpwire.Error:
		d.answered(x)
	default:
		if d.methods[msg.Method].own {
			d.dispatch(x)
			return
		}
		if err := d.calls.enter(subject.Agent); err != nil {
			x.fault(err)
			return
		}
		defer d.calls.leave(subject.Agent)
		d.dispatch(x)
	}
}

// readBody reads the whole body or nothing: a body that was cut, stalled or
// overflowed is never looked at.
func readBody(x *visit) ([]byte, *ostiary.Error) {
	body, err := readWhole(http.MaxBytesReader(nil, x.r.Body, maxBody), x.r.ContentLength)
	if err != nil {
		x.out.header().Set("Connection", "close")
		if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
			return nil, ostiary.Errorf(ostiary.Malformed, "too_large", "a body may have at most %d bytes", maxBody).At("body")
		}
		return nil, ostiary.Errorf(ostiary.Malformed, "body_cut", "the body did not arrive whole").At("body").Because(err)
	}
	x.out.rc.SetReadDeadline(time.Time{}) // net/http goes on reading to notice that the client left
	return body, nil
}

// atOnce is the longest body for which room is taken before it has arrived.
const atOnce = 64 << 10

// readWhole reads to the end, in one piece where a small length was announced.
// net/http sees to it that neither more nor less arrives than that.
func readWhole(r io.Reader, length int64) ([]byte, error) {
	if length < 0 || length > atOnce {
		return io.ReadAll(r)
	}
	body := make([]byte, length, length+1)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if n, err := r.Read(body[length : length+1]); n != 0 || err != io.EOF { // sees the end
		return nil, errors.New("the body is longer than was announced")
	}
	return body, nil
}

// settleRevision says which revision the message is in: the body's own word
// first. A request that names its revision in _meta is served by it alone; one
// that does not belongs to a legacy session, or starts one.
func (d *Door) settleRevision(x *visit) *ostiary.Error {
	header, sent := first(x.r.Header, mcpwire.HeaderProtocolVersion)
	meta := x.params().Get("_meta")
	claim := meta.Get(mcpwire.MetaProtocolVersion)
	if claim.Exists() {
		if claim.Kind() != ostiary.String {
			return malformed("meta", "/params/_meta/"+escape(mcpwire.MetaProtocolVersion), "the revision must be a string")
		}
		if !sent || header != claim.Text() {
			return mismatch("MCP-Protocol-Version", "the header and the revision in _meta differ")
		}
	}
	switch {
	case claim.Is(mcpwire.Version20260728), !claim.Exists() && header == mcpwire.Version20260728:
		x.version = mcpwire.Version20260728
		return d.modern(x, meta)
	case claim.Exists(), sent && !slices.Contains(mcpwire.Versions(), header):
		x.requested = bounded(header)
		return ostiary.Errorf(ostiary.Malformed, "unsupported_version", "this revision is not served").At("MCP-Protocol-Version")
	case sent:
		x.version = header
	default:
		x.version = mcpwire.Version20250326 // what no header has always meant
	}
	return d.legacySession(x, sent)
}

// modern checks what every message of 2026-07-28 must carry.
func (d *Door) modern(x *visit, meta ostiary.Value) *ostiary.Error {
	switch x.msg.Kind {
	case mcpwire.Result, mcpwire.Error:
		return malformed("response", "", "a client sends no responses in this revision")
	case mcpwire.Notification:
		return nil
	}
	if !meta.Get(mcpwire.MetaProtocolVersion).Exists() {
		return malformed("meta", "/params/_meta/"+escape(mcpwire.MetaProtocolVersion), "every request names its revision in _meta")
	}
	declared := meta.Get(mcpwire.MetaClientCapabilities)
	if declared.Kind() != ostiary.Object {
		return malformed("meta", "/params/_meta/"+escape(mcpwire.MetaClientCapabilities), "every request declares the client's capabilities in _meta")
	}
	x.caps = capabilitiesOf(declared)
	x.level = silent
	if want := meta.Get(mcpwire.MetaLogLevel); want.Exists() {
		level, ok := logLevel(want.Text())
		if !ok {
			return malformed("meta", "/params/_meta/"+escape(mcpwire.MetaLogLevel), "there is no such log level")
		}
		x.level = level
	}
	return nil
}

// legacySession finds the session of a legacy message, for the subject it
// belongs to. Only initialize has none.
func (d *Door) legacySession(x *visit, sent bool) *ostiary.Error {
	if x.msg.Method == "initialize" {
		return nil
	}
	if e := d.claimSession(x); e != nil {
		return e
	}
	if sent && x.version != x.session.version {
		return mismatch("MCP-Protocol-Version", "the session was opened with another revision")
	}
	x.version, x.caps, x.level = x.session.version, x.session.caps, x.session.logLevel()
	return nil
}

// checkHeaders compares the mirrored headers with the body. They are required
// in 2026-07-28; in older revisions one that is sent anyway must still be
// true, because something on the way may have believed it.
func (d *Door) checkHeaders(x *visit, m method) *ostiary.Error {
	required := !x.legacy() && x.request()
	if h, sent := first(x.r.Header, mcpwire.HeaderMethod); sent && h != x.msg.Method || !sent && required {
		return mismatch("Mcp-Method", "the header must equal the body's method")
	}
	if m.mirrored == "" {
		return nil
	}
	body := x.params().Get(m.mirrored)
	h, sent := first(x.r.Header, mcpwire.HeaderName)
	if !sent && !required {
		return nil
	}
	name, err := mcpwire.DecodeHeader(h)
	if !sent || err != nil || body.Kind() != ostiary.String || name != body.Text() {
		return mismatch("Mcp-Name", "the header must equal the body's "+m.mirrored)
	}
	return nil
}

func first(h http.Header, name string) (string, bool) {
	v := h.Values(name)
	if len(v) == 0 {
		return "", false
	}
	return v[0], true
}

func escape(name string) string { return ostiary.Pointer("", name)[1:] }

func malformed(code, field, why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Malformed, code, "%s", why).At(field)
}

func mismatch(header, why string) *ostiary.Error { return malformed("header_mismatch", header, why) }
