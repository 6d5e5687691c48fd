package policy

// Namespace is the Cedar namespace of everything the gateway declares.
const Namespace = "Ostiary"

// The actions that are no tool call. A door puts one of these names into
// Action.Name; a tool call is named "<server>___<tool>" by [ostiary.Tool.Action].
// The names are part of every operator's policies and never change.
const (
	ActionInitialize     = "initialize"      // initialize, server/discover: the first word of a client
	ActionPing           = "ping"            // ping
	ActionListTools      = "list_tools"      // tools/list
	ActionListResources  = "list_resources"  // resources/list
	ActionListTemplates  = "list_templates"  // resources/templates/list
	ActionListPrompts    = "list_prompts"    // prompts/list
	ActionReadResource   = "read_resource"   // resources/read; input.uri
	ActionSubscribe      = "subscribe"       // resources/subscribe, subscriptions/listen; input.uri, "" for lists
	ActionUnsubscribe    = "unsubscribe"     // resources/unsubscribe; input.uri
	ActionGetPrompt      = "get_prompt"      // prompts/get; input.name
	ActionComplete       = "complete"        // completion/complete; input.name or input.uri, the other is ""
	ActionSetLogLevel    = "set_log_level"   // logging/setLevel; input.level
	ActionCancel         = "cancel"          // notifications/cancelled
	ActionProgress       = "progress"        // notifications/progress
	ActionGetResult      = "get_result"      // tools/call of the gateway's own ostiary_result
	ActionRootsChanged   = "roots_changed"   // notifications/roots/list_changed
	ActionSample         = "sample"          // sampling/createMessage, from a server to the agent's client
	ActionElicit         = "elicit"          // elicitation/create, from a server to the agent's client; input.mode
	ActionListRoots      = "list_roots"      // roots/list, from a server to the agent's client
	ActionDiscoverServer = "discover_server" // the gateway's own reading of a server's definitions; nobody else may
)

// The action groups that always exist. "in" them covers all their members.
const (
	GroupMCP          = "Mcp"          // everything an agent or a server may do over MCP
	GroupCallTool     = "CallTool"     // every tool
	GroupChanges      = "changes"      // every tool that does not hint so
	GroupReadOnly     = "read_only"    // tools whose server hints that they change nothing
	GroupIrreversible = "irreversible" // tools that may change something, and that undo.yaml says nothing of
	GroupDestructive  = "destructive"  // tools whose hints, with MCP's defaults, do not rule out that they destroy
	GroupLists        = "lists"        // list_tools, list_resources, list_templates, list_prompts
	GroupSession      = "session"      // initialize, ping, cancel, progress, roots_changed, get_result, set_log_level
	GroupFromServer   = "from_server"  // sample, elicit, list_roots
)

// GatewayServer is the name policy gives to the gateway itself as a resource:
// an aggregated list is asked of Ostiary::Server::"ostiary". No configured
// server may have this name.
const GatewayServer = "ostiary"

// origin says where an input field of a method action is read from.
type origin uint8

const (
	fromTool   origin = iota // Action.Tool
	fromURI                  // Action.URI
	fromMember               // a string member of Action.Arguments of the same name; fallback if absent
)

type methodField struct {
	name     string
	from     origin
	fallback string
}

// Method is one action that is no tool call.
type Method struct {
	Name   string
	Groups []string // direct groups; GroupMCP is reached through them or named
	Self   bool     // only the gateway itself may
	fields []methodField
}

// Methods lists every action that is no tool call, with its groups: the one
// table that doors, schema and documentation agree on.
func Methods() []Method {
	uri := []methodField{{"uri", fromURI, ""}}
	name := []methodField{{"name", fromTool, ""}}
	session, lists, server, mcp := []string{GroupSession}, []string{GroupLists}, []string{GroupFromServer}, []string{GroupMCP}
	return []Method{
		{Name: ActionInitialize, Groups: session},
		{Name: ActionPing, Groups: session},
		{Name: ActionCancel, Groups: session},
		{Name: ActionProgress, Groups: session},
		{Name: ActionRootsChanged, Groups: session},
		{Name: ActionGetResult, Groups: session},
		{Name: ActionSetLogLevel, Groups: session, fields: []methodField{{"level", fromMember, ""}}},
		{Name: ActionListTools, Groups: lists},
		{Name: ActionListResources, Groups: lists},
		{Name: ActionListTemplates, Groups: lists},
		{Name: ActionListPrompts, Groups: lists},
		{Name: ActionReadResource, Groups: mcp, fields: uri},
		{Name: ActionSubscribe, Groups: mcp, fields: uri},
		{Name: ActionUnsubscribe, Groups: mcp, fields: uri},
		{Name: ActionGetPrompt, Groups: mcp, fields: name},
		{Name: ActionComplete, Groups: mcp, fields: []methodField{name[0], uri[0]}},
		{Name: ActionSample, Groups: server},
		{Name: ActionElicit, Groups: server, fields: []methodField{{"mode", fromMember, "form"}}},
		{Name: ActionListRoots, Groups: server},
		{Name: ActionDiscoverServer, Self: true},
	}
}

// groupParents says which groups lie in which.
func groupParents() map[string][]string {
	return map[string][]string{
		GroupMCP:          nil,
		GroupCallTool:     {GroupMCP},
		GroupChanges:      {GroupCallTool},
		GroupReadOnly:     {GroupCallTool},
		GroupDestructive:  {GroupCallTool},
		GroupIrreversible: {GroupCallTool},
		GroupLists:        {GroupMCP},
		GroupSession:      {GroupMCP},
		GroupFromServer:   {GroupMCP},
	}
}
