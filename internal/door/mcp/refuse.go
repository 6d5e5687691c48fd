package mcp

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// metaPrefix is our own prefix in _meta. Nobody else's members under it pass.
const metaPrefix = "dev.ostiary/"

// shape is how one kind of refusal looks on the wire.
type shape struct {
	status int  // HTTP status where the answer is HTTP alone: GET, DELETE, notifications
	call   int  // HTTP status of the answer to a JSON-RPC request
	code   int  // JSON-RPC error code
	tool   bool // a tools/call gets a result with isError, for the model to read, in place of an error
}

// shapes is the one table between our kinds and MCP. A test proves it
// complete.
//
// The status of an answer to a request is 200 where a client must read the
// answer itself: some clients look no further than an HTTP error.
func shapes() map[ostiary.Kind]shape {
	return map[ostiary.Kind]shape{
		ostiary.Internal:        {http.StatusInternalServerError, http.StatusInternalServerError, mcpwire.CodeInternal, false},
		ostiary.Malformed:       {http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeInvalidParams, false},
		ostiary.Unauthenticated: {http.StatusUnauthorized, http.StatusUnauthorized, mcpwire.CodeDenied, false},
		ostiary.Denied:          {http.StatusForbidden, http.StatusOK, mcpwire.CodeDenied, true},
		ostiary.Contained:       {http.StatusForbidden, http.StatusOK, mcpwire.CodeDenied, true},
		ostiary.Exhausted:       {http.StatusTooManyRequests, http.StatusTooManyRequests, mcpwire.CodeDenied, false},
		ostiary.Conflict:        {http.StatusConflict, http.StatusOK, mcpwire.CodeDenied, true},
		ostiary.NotFound:        {http.StatusNotFound, http.StatusOK, mcpwire.CodeInvalidParams, false},
		ostiary.Unavailable:     {http.StatusServiceUnavailable, http.StatusServiceUnavailable, mcpwire.CodeInternal, false},
		ostiary.Upstream:        {http.StatusBadGateway, http.StatusOK, mcpwire.CodeInternal, true},
		ostiary.Corrupt:         {http.StatusInternalServerError, http.StatusInternalServerError, mcpwire.CodeInternal, false},
	}
}

// special lists the codes whose words are fixed by a specification, in place
// of their kind's row.
func special() map[string]shape {
	request := shape{http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeInvalidRequest, false}
	parse := shape{http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeParse, false}
	mismatch := shape{http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeHeaderMismatch, false}
	status := func(s int) shape { return shape{s, s, mcpwire.CodeInvalidRequest, false} }
	return map[string]shape{
		"empty": parse, "syntax": parse, "utf8": parse, "surrogate": parse, "trailing_data": parse,

		"depth": request, "nodes": request, "elements": request, "literal": request, "key": request,
		"duplicate_key": request, "case_folded_key": request, "nul": request, "number": request, "fold": request,

		"batch": request, "envelope": request, "version": request, "unknown_member": request, "id": request, "method": request,
		"both": request, "result": request, "error": request,
		"id_missing": request, "id_unexpected": request, "id_in_use": request,
		"response": request, "session_required": request, "initialized_again": request,
		"repeated_header": request, "header_name": request, "host_syntax": request, "absolute_target": request, "query": request,
		"upgrade": request, "authorization": request, "body": request, "body_cut": request, "accept": request,

		// Arguments that do not fit the tool are for the model to mend.
		"schema": {http.StatusBadRequest, http.StatusOK, mcpwire.CodeInvalidParams, true},

		"header_mismatch":     mismatch,
		"unsupported_version": {http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeUnsupportedVersion, false},
		"missing_capability":  {http.StatusBadRequest, http.StatusBadRequest, mcpwire.CodeMissingCapability, false},
		"method_not_found":    {http.StatusNotFound, http.StatusNotFound, mcpwire.CodeMethodNotFound, false},

		"session_not_found":  status(http.StatusNotFound),
		"no_such_path":       status(http.StatusNotFound),
		"method_not_allowed": status(http.StatusMethodNotAllowed),
		"host":               status(http.StatusForbidden),
		"origin":             status(http.StatusForbidden),
		"content_type":       status(http.StatusUnsupportedMediaType),
		"content_encoding":   status(http.StatusUnsupportedMediaType),
		"too_large":          status(http.StatusRequestEntityTooLarge),
	}
}

// shapeOf finds how an error looks. A code is special only as what the door
// itself found: an engine's refusal keeps its kind's row.
func shapeOf(e *ostiary.Error) shape {
	if e.Kind == ostiary.Malformed || e.Kind == ostiary.NotFound {
		if s, ok := special()[e.Code]; ok {
			return s
		}
	}
	if e.Kind == ostiary.Denied && e.Code == ostiary.InsufficientScope {
		// A client asks for more only if HTTP itself says so.
		return shape{http.StatusForbidden, http.StatusForbidden, mcpwire.CodeDenied, false}
	}
	if s, ok := shapes()[e.Kind]; ok {
		return s
	}
	return shapes()[ostiary.Internal]
}

// told is what a caller may know of an error, in the words of its kind.
type told struct {
	Kind      string       `json:"kind"`
	Code      string       `json:"code,omitempty"`
	Field     string       `json:"field,omitempty"`
	Reasons   []toldReason `json:"reasons,omitempty"`
	Remedies  []string     `json:"remedies,omitempty"`
	Entry     string       `json:"entry,omitempty"`
	Supported []string     `json:"supported,omitempty"`
	Requested string       `json:"requested,omitempty"`
	Required  any          `json:"requiredCapabilities,omitempty"`
}

type toldReason struct {
	Policy string `json:"policy"`
	Text   string `json:"text,omitempty"`
}

// tell chooses what of e leaves the gateway. Of a failed proof only the fact,
// never why; of our own failures only the kind and the entry.
func tell(e *ostiary.Error) (string, told) {
	t := told{Kind: e.Kind.String(), Entry: entry(e)}
	switch e.Kind {
	case ostiary.Unauthenticated:
		return "authentication is required", t
	case ostiary.Internal, ostiary.Corrupt:
		return "internal error", t
	case ostiary.Unavailable:
		if t.Code = e.Code; e.Code == "breaker_open" { // not the gateway: a server of theirs, and it says when
			return e.Detail, t
		}
		return "the gateway cannot answer now; try again later", t
	}
	t.Code, t.Field = e.Code, e.Field
	for _, r := range e.Reasons {
		t.Reasons = append(t.Reasons, toldReason{r.Policy, r.Text})
	}
	for _, r := range e.Remedies {
		t.Remedies = append(t.Remedies, r.Fact)
	}
	if e.Detail == "" {
		return e.Kind.String(), t
	}
	return e.Detail, t
}

func entry(e *ostiary.Error) string {
	if e.Entry.IsZero() {
		return ""
	}
	return e.Entry.String()
}

// errorData is the data member of a JSON-RPC error.
func errorData(e *ostiary.Error, x *visit) (string, []byte) {
	message, t := tell(e)
	switch e.Code {
	case "unsupported_version":
		t.Supported, t.Requested = mcpwire.Versions(), x.requested
	case "missing_capability":
		t.Required = required(strings.TrimPrefix(e.Field, capabilityField))
	}
	data, err := json.Marshal(t) // our own data
	if err != nil {
		return message, nil
	}
	return message, data
}

// required is a capability such as "elicitation.form" as a client would
// declare it.
func required(name string) map[string]any {
	outer, inner, nested := strings.Cut(name, ".")
	if nested {
		return map[string]any{outer: required(inner)}
	}
	return map[string]any{outer: struct{}{}}
}

// refusal is the result of a tools/call that was refused: words for the
// model, facts for programs under our own prefix in _meta. It sets no
// structuredContent, which would have to fit the tool's output schema.
func refusal(e *ostiary.Error, x *visit) []byte {
	message, t := tell(e)
	var text strings.Builder
	switch {
	case e.Code == "held":
		text.WriteString("Waiting for people's consent, held as " + t.Field + ". Do not send it again: it is carried out when they consent. ")
	case e.Kind == ostiary.Upstream:
		text.WriteString("Failed: ")
	default:
		text.WriteString("Refused: ")
	}
	if e.Kind == ostiary.Malformed && t.Field != "" {
		message = t.Field + ": " + message // where to mend it
	}
	sentence(&text, message)
	for _, r := range t.Reasons {
		text.WriteString(" Reason: ")
		if r.Text != "" {
			text.WriteString(r.Text + " ")
		}
		text.WriteString("(policy " + r.Policy + ").")
	}
	if len(t.Remedies) > 0 {
		text.WriteString(" What would change it: " + strings.Join(t.Remedies, ", ") + ".")
	}
	if t.Entry != "" {
		text.WriteString(" Entry " + t.Entry + ".")
	}
	meta := map[string]any{metaPrefix + "kind": t.Kind}
	for name, v := range map[string]string{"code": t.Code, "field": t.Field, "entry": t.Entry} {
		if v != "" {
			meta[metaPrefix+name] = v
		}
	}
	if t.Reasons != nil {
		meta[metaPrefix+"reasons"] = t.Reasons
	}
	if t.Remedies != nil {
		meta[metaPrefix+"remedies"] = t.Remedies
	}
	b, err := json.Marshal(refused{x.resultType(), []toldText{{"text", text.String()}}, true, meta}) // our own data
	if err != nil {
		return []byte(`{"content":[{"type":"text","text":"Refused."}],"isError":true}`)
	}
	return b
}

type refused struct {
	ResultType string         `json:"resultType,omitempty"`
	Content    []toldText     `json:"content"`
	IsError    bool           `json:"isError"`
	Meta       map[string]any `json:"_meta"`
}

type toldText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func sentence(b *strings.Builder, s string) {
	b.WriteString(s)
	if !strings.HasSuffix(s, ".") {
		b.WriteByte('.')
	}
}
