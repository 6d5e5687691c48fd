// Package demo is the part of Ostiary that people meet first: a small tool
// server that speaks real MCP, and a scripted agent that uses it through the
// gate and tells what happened.
//
// # The tool server
//
// [RunServer] serves four families of tools with the official MCP library,
// over streamable HTTP (the 2026-07-28 revision, stateless, and the 2025
// revisions with sessions) or over stdio:
//
//   - bank: accounts and payments that really move money in a book kept in
//     memory;
//   - inbox: messages from outside, one of which tries to give the agent
//     orders;
//   - documents: a few texts to read and write, as tools, resources and a
//     prompt;
//   - lab: tools that exercise the protocol (progress, cancellation,
//     sampling, elicitation, large results, exact echo), for test suites.
//
// Everything the server receives and every effect it carries out is written
// to a [Journal] before anything else happens with it. That makes the server
// a witness of its own: a test that says "zero bytes reached the tool" reads
// the journal, which shares no code with the gateway.
//
// Over HTTP the server refuses to run without a guard, the middleware that
// accepts only what a gateway has signed (package verify), unless it is told
// in so many words to run unguarded.
//
// A trigger file changes one tool's definition after it was pinned, as a
// server that turned malicious would do it.
//
// # The story
//
// [Story.Run] is an agent that connects to a gateway as any MCP client does
// and plays the scenes of the demo. Each scene prints what was tried, what
// happened, the reason and the number of the entry in the log, and fails if
// it did not come out as told.
//
// # What it does not do
//
// The server is a toy: its money is not real, its state ends with the
// process, and it trusts its operating system user. It follows the Model
// Context Protocol, revisions 2025-03-26 to 2026-07-28, as far as the library
// does. The package dials nobody: the story is handed its clients.
package demo
