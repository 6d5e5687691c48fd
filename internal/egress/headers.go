package egress

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// fixedHeaders returns what every request to a server carries: the protocol's
// own headers and the operator's. Nothing an agent sends becomes a header.
func fixedHeaders(extra map[string]ostiary.Secret, agent string) (http.Header, error) {
	h := http.Header{
		"Accept":       {"application/json, text/event-stream"},
		"Content-Type": {"application/json"},
		"User-Agent":   {agent},
	}
	for name, value := range extra {
		key := http.CanonicalHeaderKey(name)
		if !headerName(name) || reserved(key) {
			return nil, ostiary.Errorf(ostiary.Malformed, "header", "header %q cannot be set for a server", name).At("headers." + name)
		}
		v := string(value.Reveal())
		if !headerValue(v) {
			return nil, ostiary.Errorf(ostiary.Malformed, "header", "the value of header %q is empty or holds a control character", name).At("headers." + name)
		}
		h[key] = []string{v}
	}
	return h, nil
}

// reserved are the headers whose meaning is ours or HTTP's, among them those
// that make the transport send again (Idempotency-Key).
func reserved(key string) bool {
	switch key {
	case "Accept", "Accept-Encoding", "Connection", "Expect", "Forwarded", "Host", "Idempotency-Key", "X-Idempotency-Key",
		"Keep-Alive", "Last-Event-Id", "Proxy-Authorization", "Proxy-Connection", "Range", "Signature", "Signature-Input",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent":
		return true
	}
	return strings.HasPrefix(key, "Content-") || strings.HasPrefix(key, "Mcp-") || strings.HasPrefix(key, "Ostiary-")
}

func headerName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return s != ""
}

func headerValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && strings.TrimSpace(s) == s
}

// credential is a bearer token in a file, read again when the file changes,
// so that it can be replaced while calls are running.
type credential struct {
	path string

	mu   sync.Mutex // guards what follows
	mod  time.Time
	size int64
	auth ostiary.Secret // the whole header value

	echoes   echoes // of the token
	replaced echoes // of the one before it
}

// maxCredential is far more than any token, and far less than a mistaken path
// could make us read.
const maxCredential = 16 << 10

func newCredential(path string) (*credential, error) {
	if path == "" {
		return nil, nil
	}
	c := &credential{path: path}
	_, err := c.header()
	return c, err
}

func (c *credential) header() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fail := func(why string, err error) (string, error) {
		return "", ostiary.Errorf(ostiary.Unavailable, "credential", "the credential for this server %s", why).At("bearer_file").Because(err)
	}
	info, err := os.Stat(c.path)
	if err != nil {
		return fail("cannot be read", err)
	}
	if info.ModTime().Equal(c.mod) && info.Size() == c.size && !c.auth.IsZero() {
		return string(c.auth.Reveal()), nil
	}
	if !info.Mode().IsRegular() || info.Size() > maxCredential {
		return fail("is not a small file", nil)
	}
	b, err := os.ReadFile(c.path)
	if err != nil {
		return fail("cannot be read", err)
	}
	token := strings.TrimSpace(string(b))
	if !headerValue(token) || strings.Contains(token, " ") {
		return fail("is empty or holds characters that no token has", nil)
	}
	if auth := "Bearer " + token; auth != string(c.auth.Reveal()) {
		c.auth, c.replaced, c.echoes = ostiary.NewSecret([]byte(auth)), c.echoes, echoesOf(token)
	}
	c.mod, c.size = info.ModTime(), info.Size()
	return "Bearer " + token, nil
}

// echoed reports whether b repeats the token, or the one it replaced, with
// which calls may still be under way.
func (c *credential) echoed(b []byte) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	now, before := c.echoes, c.replaced
	c.mu.Unlock()
	return now.in(b) || before.in(b)
}

const (
	// maxBindings bounds the arguments of one tool that are repeated in
	// headers; a definition with more is refused when it is pinned or called.
	maxBindings = 64
	// maxBindingDepth bounds nesting of the properties that hold them.
	maxBindingDepth = 16
)

// paramHeaders repeats in headers the arguments that the pinned definition
// marks with x-mcp-header.
func (r *remote) paramHeaders(h http.Header, a *ostiary.Action) error {
	if a.Method != mcpwire.MethodToolsCall || r.tools == nil {
		return nil
	}
	t, ok := r.tools.Tool(a.Server, "tool", a.Tool)
	if !ok || t.Pin != a.Pin {
		return ostiary.Errorf(ostiary.Conflict, "pin_moved", "the tool's pinned definition changed after the decision")
	}
	return paramsIn(h, t.Definition.Get("inputSchema").Get("properties"), a.Arguments, 0)
}

func paramsIn(h http.Header, properties, arguments ostiary.Value, depth int) error {
	if depth > maxBindingDepth {
		return nil // deeper annotations are not valid ones, see catalog
	}
	for name, p := range properties.Members() {
		v := arguments.Get(name)
		if !v.Exists() {
			continue
		}
		if mark := p.Get("x-mcp-header"); mark.Exists() && v.Kind() != ostiary.Null {
			text, ok := headerText(v)
			key := http.CanonicalHeaderKey(mcpwire.HeaderParamPrefix + mark.Text())
			if !ok || !mcpwire.IsToken(mark.Text()) || h[key] != nil || len(h) > maxBindings {
				return ostiary.Errorf(ostiary.Malformed, "param_header", "the argument cannot be repeated in a header as the tool's definition demands").At("/params/arguments/" + name)
			}
			h[key] = []string{mcpwire.EncodeHeader(text)}
		}
		if err := paramsIn(h, p.Get("properties"), v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// headerText is an argument as a header has it. Numbers keep their text and
// must be integers that every reader holds exactly.
func headerText(v ostiary.Value) (string, bool) {
	switch v.Kind() {
	case ostiary.String:
		return v.Text(), true
	case ostiary.True:
		return "true", true
	case ostiary.False:
		return "false", true
	case ostiary.Number:
		n, ok := v.Int()
		return v.Literal(), ok && n > -1<<53 && n < 1<<53
	}
	return "", false
}
