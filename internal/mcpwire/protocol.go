package mcpwire

// Revisions of the protocol. The first is current and stateless, the others
// are legacy: handshake and sessions.
const (
	Version20260728 = "2026-07-28"
	Version20251125 = "2025-11-25"
	Version20250618 = "2025-06-18"
	Version20250326 = "2025-03-26"
)

// Versions returns the revisions served, the newest first.
func Versions() []string {
	return []string{Version20260728, Version20251125, Version20250618, Version20250326}
}

// Legacy reports whether v is one of the revisions with handshake and
// sessions. An unknown revision is not.
func Legacy(v string) bool {
	return v == Version20251125 || v == Version20250618 || v == Version20250326
}

// Headers of the streamable HTTP transport, in net/http's spelling.
const (
	HeaderProtocolVersion = "Mcp-Protocol-Version"
	HeaderSessionID       = "Mcp-Session-Id"
	HeaderMethod          = "Mcp-Method"
	HeaderName            = "Mcp-Name"
	HeaderParamPrefix     = "Mcp-Param-"
	HeaderLastEventID     = "Last-Event-Id"

	HeaderMandate = "Ostiary-Mandate" // ours: which of its mandates an agent acts under
)

// Names in _meta. Prefixes whose second label is modelcontextprotocol or mcp
// are the protocol's own.
const (
	Meta                   = "_meta"
	MetaProtocolVersion    = "io.modelcontextprotocol/protocolVersion"
	MetaClientInfo         = "io.modelcontextprotocol/clientInfo"
	MetaServerInfo         = "io.modelcontextprotocol/serverInfo"
	MetaClientCapabilities = "io.modelcontextprotocol/clientCapabilities"
	MetaLogLevel           = "io.modelcontextprotocol/logLevel"
	MetaSubscriptionID     = "io.modelcontextprotocol/subscriptionId"
	MetaProgressToken      = "progressToken"
	MetaTraceparent        = "traceparent"
)

// Methods that clients call.
const (
	MethodDiscover         = "server/discover"
	MethodInitialize       = "initialize"
	MethodPing             = "ping"
	MethodToolsList        = "tools/list"
	MethodToolsCall        = "tools/call"
	MethodPromptsList      = "prompts/list"
	MethodPromptsGet       = "prompts/get"
	MethodResourcesList    = "resources/list"
	MethodResourcesRead    = "resources/read"
	MethodTemplatesList    = "resources/templates/list"
	MethodResourcesSub     = "resources/subscribe"
	MethodResourcesUnsub   = "resources/unsubscribe"
	MethodCompletion       = "completion/complete"
	MethodSetLevel         = "logging/setLevel"
	MethodSubscriptions    = "subscriptions/listen"
	MethodTasksGet         = "tasks/get"
	MethodTasksUpdate      = "tasks/update"
	MethodTasksCancel      = "tasks/cancel"
	NotifyInitialized      = "notifications/initialized"
	NotifyCancelled        = "notifications/cancelled"
	NotifyProgress         = "notifications/progress"
	NotifyRootsListChanged = "notifications/roots/list_changed"
	NotifyAcknowledged     = "notifications/subscriptions/acknowledged"
	NotifyMessage          = "notifications/message"
	NotifyToolsChanged     = "notifications/tools/list_changed"
	NotifyPromptsChanged   = "notifications/prompts/list_changed"
	NotifyResourcesChanged = "notifications/resources/list_changed"
	NotifyResourceUpdated  = "notifications/resources/updated"
	NotifyElicitationDone  = "notifications/elicitation/complete"
	MethodSampling         = "sampling/createMessage"
	MethodElicitation      = "elicitation/create"
	MethodRootsList        = "roots/list"
	ResultComplete         = "complete"
	ResultInputRequired    = "input_required"
	ResultTask             = "task"
	ExtensionTasks         = "io.modelcontextprotocol/tasks"
	ContentTypeJSON        = "application/json"
	ContentTypeEventStream = "text/event-stream"
)

// Error codes of JSON-RPC and of the protocol.
const (
	CodeParse              = -32700 // no JSON
	CodeInvalidRequest     = -32600 // no message
	CodeMethodNotFound     = -32601 // with HTTP 404
	CodeInvalidParams      = -32602
	CodeInternal           = -32603
	CodeDenied             = -32001 // COAZ-MCP's code for a refused method; tools/call answers with isError instead
	CodeResourceNotFound   = -32002 // legacy servers only: accepted, never sent in 2026-07-28
	CodeHeaderMismatch     = -32020 // with HTTP 400
	CodeMissingCapability  = -32021 // with HTTP 400 and data.requiredCapabilities
	CodeUnsupportedVersion = -32022 // with HTTP 400, data.supported and data.requested
)
