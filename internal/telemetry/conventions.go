package telemetry

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// The names below are OpenTelemetry's for MCP and generative AI, all of them
// in development: this file is the one place to follow their changes in. Left
// out on purpose, because callers choose them: gen_ai.tool.call.arguments and
// .result, mcp.resource.uri, jsonrpc.request.id, and mcp.session.id, which a
// client also shows as a kind of credential. What has no name there is
// "ostiary.…".
const (
	attrMethod    = attribute.Key("mcp.method.name")
	attrProtocol  = attribute.Key("mcp.protocol.version")
	attrOperation = attribute.Key("gen_ai.operation.name")
	attrTool      = attribute.Key("gen_ai.tool.name")
	attrAgent     = attribute.Key("gen_ai.agent.id")
	attrError     = attribute.Key("error.type")

	attrPrincipal   = attribute.Key("ostiary.principal")
	attrServer      = attribute.Key("ostiary.server")
	attrDecision    = attribute.Key("ostiary.decision")
	attrCode        = attribute.Key("ostiary.decision.code")
	attrPolicies    = attribute.Key("ostiary.decision.policies")
	attrSnapshot    = attribute.Key("ostiary.snapshot")
	attrDisposition = attribute.Key("ostiary.disposition")
	attrEntry       = attribute.Key("ostiary.entry")

	attrService  = attribute.Key("service.name")
	attrVersion  = attribute.Key("service.version")
	attrInstance = attribute.Key("service.instance.id")

	executeTool = "execute_tool"

	serverDuration = "mcp_server_operation_duration_seconds"
	clientDuration = "mcp_client_operation_duration_seconds"
)

// other stands for every word that is on no list.
const other = "other"

// methodNames is every method that can be told apart; what else callers write
// as a method is "other".
func methodNames() []string {
	return []string{
		mcpwire.MethodDiscover, mcpwire.MethodInitialize, mcpwire.MethodPing,
		mcpwire.MethodToolsList, mcpwire.MethodToolsCall, mcpwire.MethodPromptsList, mcpwire.MethodPromptsGet,
		mcpwire.MethodResourcesList, mcpwire.MethodResourcesRead, mcpwire.MethodTemplatesList, mcpwire.MethodResourcesSub, mcpwire.MethodResourcesUnsub,
		mcpwire.MethodCompletion, mcpwire.MethodSetLevel, mcpwire.MethodSubscriptions,
		mcpwire.MethodTasksGet, mcpwire.MethodTasksUpdate, mcpwire.MethodTasksCancel,
		mcpwire.NotifyInitialized, mcpwire.NotifyCancelled, mcpwire.NotifyProgress, mcpwire.NotifyRootsListChanged,
		mcpwire.MethodSampling, mcpwire.MethodElicitation, mcpwire.MethodRootsList,
	}
}

// closed maps words to themselves if they are on the list, else to "other".
type closed map[string]bool

func closedTo(words ...string) closed {
	c := closed{}
	for _, w := range words {
		c[w] = true
	}
	return c
}

func (c closed) of(word string) string {
	if c[word] {
		return word
	}
	return other
}

// method returns what the call is counted as. A message that its door could
// not translate may carry any word.
func (c closed) method(e *gate.Ending) string { return c.of(e.Call.Action.Method) }

// tool returns the name of the pinned tool or prompt that was called, "" for
// what names none: before it is resolved, a name is the caller's own word.
func tool(e *gate.Ending) string {
	if e.Request == nil || e.Request.Action.Pin.IsZero() {
		return ""
	}
	return e.Request.Action.Tool
}

// decision returns "permit", "deny", or "none" if nobody was asked.
func decision(e *gate.Ending) string {
	switch {
	case e.Decision.Permit:
		return "permit"
	case e.Decision.Code != "":
		return "deny"
	}
	return "none"
}

// protocol returns the revision the caller speaks, "" if it is none we know.
func protocol(e *gate.Ending) string {
	if v := strings.TrimPrefix(e.Call.Protocol, "mcp/"); slices.Contains(mcpwire.Versions(), v) {
		return v
	}
	return ""
}
