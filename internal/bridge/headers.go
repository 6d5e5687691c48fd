package bridge

import (
	"net/http"
	"strings"
	"sync"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// maxTools bounds the tools whose marked arguments are remembered; a gateway
// lists far fewer.
const maxTools = 8192

// marks remembers which arguments of which tool travel in headers too, from
// the lists that pass by.
type marks struct {
	mu    sync.Mutex
	tools map[string][]catalog.Header
}

// learn reads the result of tools/list.
func (k *marks) learn(result ostiary.Value) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tools == nil {
		k.tools = map[string][]catalog.Header{}
	}
	for _, t := range result.Get("tools").Elements() {
		name := t.Get("name").Text()
		if _, known := k.tools[name]; !known && len(k.tools) >= maxTools {
			return
		}
		k.tools[name] = catalog.Headers(&ostiary.Tool{Definition: t})
	}
}

func (k *marks) of(tool string) []catalog.Header {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tools[tool]
}

// revision returns the revision a message names itself, "" if it names none.
func revision(m *mcpwire.Message) string {
	return m.Params.Get(mcpwire.Meta).Get(mcpwire.MetaProtocolVersion).Text()
}

// mirror sets the headers that 2026-07-28 derives from the body. A value that
// no header can carry is left out: the gateway then says what is wrong with
// the message.
func mirror(h http.Header, m *mcpwire.Message, version string, k *marks) {
	set := func(name, value string) {
		if sendable(value) {
			h.Set(name, value)
		}
	}
	set(mcpwire.HeaderProtocolVersion, version)
	set(mcpwire.HeaderMethod, m.Method)
	if name := m.Params.Get(named(m.Method)); name.Kind() == ostiary.String {
		set(mcpwire.HeaderName, mcpwire.EncodeHeader(name.Text()))
	}
	if m.Method != mcpwire.MethodToolsCall {
		return
	}
	for _, mark := range k.of(m.Params.Get("name").Text()) {
		arg := m.Params.Get("arguments")
		for _, name := range mark.Path {
			arg = arg.Get(name)
		}
		switch arg.Kind() {
		case ostiary.String:
			set(mcpwire.HeaderParamPrefix+mark.Name, mcpwire.EncodeHeader(arg.Text()))
		case ostiary.Number, ostiary.True, ostiary.False:
			set(mcpwire.HeaderParamPrefix+mark.Name, string(arg.Bytes()))
		}
	}
}

// named is the member of params that Mcp-Name repeats, "" if none.
func named(method string) string {
	switch {
	case method == mcpwire.MethodToolsCall, method == mcpwire.MethodPromptsGet:
		return "name"
	case method == mcpwire.MethodResourcesRead:
		return "uri"
	case strings.HasPrefix(method, "tasks/"):
		return "taskId"
	}
	return ""
}

// sendable reports whether a header can carry s: printable ASCII, no space at
// its ends.
func sendable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' '
}
