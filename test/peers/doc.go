// Package peers drives other people's MCP clients, as they are published,
// against an Ostiary gateway: the official SDKs for Go and TypeScript (2.x
// for 2026-07-28, 1.x for the revisions before it) and the command line of
// the MCP Inspector. It holds tests and their drivers only.
//
// The same conversation is held twice: with the demo's tool server directly,
// which proves that the clients and their drivers work, and through the
// gateway, which proves that Ostiary does not get in the way of what it
// permits and that what it refuses is told so that these clients understand.
//
// The MCP conformance suite is run the same two ways, against the Go SDK's
// everything-server; conformance-differences.txt lists what may come out
// differently, and why.
//
// So are the reference servers that npm distributes, on stdio behind the
// gateway.
//
// The clients are installed into node_modules by "npm ci" in this folder; see
// package.json for their exact versions. Without them the tests are skipped,
// unless OSTIARY_PEERS=required says that they must run.
package peers
