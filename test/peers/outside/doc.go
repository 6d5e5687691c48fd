// Package outside asks other people's libraries whether what Ostiary writes
// is what the standards say, and the other way round: HTTP message
// signatures, the transparency log, MCP.
//
// It is a module of its own, so that these libraries and what they need never
// enter the product's. It holds nothing but tests. Where a library is wrong
// about a standard, the test says so and where, and works around it.
package outside
