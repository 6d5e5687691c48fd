// Package ostiary is the vocabulary of the doorkeeper: the words every other
// package uses, with one meaning each.
//
// It holds values, their parsing and their equality, and the closed list of
// error kinds. It performs no I/O, starts no goroutine, and imports the
// standard library only. What is not in two floors' signatures does not
// belong here.
//
// The zero value of every type in this package refuses: a zero [Decision] is
// a denial, a zero [Disposition] is Refused, a zero [Label] is untrusted and
// readable by nobody, a zero [Containment] is "not established". Code that
// forgets to fill something in therefore closes the door, never opens it.
//
// The words follow published standards where one exists: Subject, Action,
// Resource, Context and Decision after OpenID AuthZEN 1.0 and Cedar,
// Principal and Agent after RFC 8693 (sub, act), Evidence and Posture after
// RFC 9334, Disposition and Finding after OCSF, Checkpoint and Tile after
// C2SP.
package ostiary

// Version is the program's version. The linker sets it for releases.
var Version = "0.1.0-dev"
